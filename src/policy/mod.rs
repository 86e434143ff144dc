//! What a person asked for: the policy file, checked once, so that nothing below meets a missing setting.
//!
//! [`Stack::load`] gives a [`Stack`], or [`PolicyProblems`]: everything that is wrong, each with its line and
//! column. Secrets are never in the file; [`SecretRef`] names where they are, and nothing here prints one.

mod check;
mod elsewhere;
mod language;
mod load;
mod notify;
mod place;
mod problem;
mod read;
mod secret;
mod service;
mod sources;
mod stack;
mod text;

pub use self::{
    elsewhere::{bucket_of, database_of, redis_database_of},
    language::local,
    load::{Need, find_policy},
    notify::{
        AddressConfig, Channel, EmailConfig, ExecConfig, HealthchecksConfig, MailEncryption, NotifyConfig,
        Occasion, Quiet, RobotConfig, WebhookConfig,
    },
    place::{OptionValue, SCHEMES, StoreConfig},
    problem::{PolicyProblems, Problem},
    secret::SecretRef,
    service::{AnomalyConfig, ServeConfig},
    sources::{
        FilesConfig, MysqlConfig, Prefer, RedisConfig, S3Admin, S3Config, S3Tags, SourceConfig, SourceKind,
        Tls, Versions,
    },
    stack::{
        CatchUp, CommandConfig, DrillConfig, ExpectConfig, FreshnessConfig, LabKind, Language, LockMode,
        OffsiteConfig, OffsiteSettings, Overlap, Pick, ReferenceConfig, RepositoryConfig, RepositorySettings,
        RetentionConfig, RevokedConfig, ScheduleConfig, Stack,
    },
    text::{Starter, schema, starter},
};

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) use self::tests::SMALL;
