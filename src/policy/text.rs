//! Policies as text: the one that `init` writes, and the one in force with every default filled in.

use std::{collections::BTreeMap, path::Path};

use super::{OptionValue, SecretRef, Stack};
use crate::error::{Context, ExitCode, Result};

/// What a new policy is made of.
#[derive(Clone, Debug)]
pub struct Starter<'a> {
    /// The stack's name.
    pub stack: &'a str,
    /// The kind of store.
    pub store: &'a str,
    /// Its options; secrets by reference.
    pub options: &'a BTreeMap<String, OptionValue>,
    /// The public keys of those who can read the data.
    pub recipients: &'a [String],
    /// The public keys (`RW…`) of those whose signatures are believed.
    pub signers: &'a [String],
    /// The folder with this host's own keys.
    pub keys: &'a Path,
    /// The zone, as `Asia/Shanghai`.
    pub timezone: &'a str,
}

/// Returns a commented policy that lacks only its sources.
///
/// `[[source]]` tables may be appended: the last table of the text is whole, and what follows it is comment.
pub fn starter(new: &Starter<'_>) -> String {
    let quoted = |text: &str| toml::Value::from(text).to_string();
    let list =
        |keys: &[String]| keys.iter().map(|key| ["    ", &quoted(key), ",\n"].concat()).collect::<String>();
    let value = |value: &OptionValue| match value {
        OptionValue::Text(text) => quoted(text),
        OptionValue::Secret(SecretRef::Env(name)) => format!("{{ env = {} }}", quoted(name)),
        OptionValue::Secret(SecretRef::File(path)) => {
            format!("{{ file = {} }}", quoted(&path.display().to_string()))
        }
        OptionValue::Secret(SecretRef::Credential(name)) => format!("{{ credential = {} }}", quoted(name)),
    };
    let options: Vec<String> =
        new.options.iter().map(|(name, one)| format!("{name} = {}", value(one))).collect();
    let facts = [
        ("@stack@", quoted(new.stack)),
        ("@timezone@", quoted(new.timezone)),
        ("@store@", quoted(new.store)),
        ("@options@", options.join(", ")),
        ("@recipients@", list(new.recipients)),
        ("@signers@", list(new.signers)),
        ("@keys@", quoted(&new.keys.display().to_string())),
    ];
    facts.iter().fold(STARTER.to_owned(), |text, (mark, fact)| text.replace(mark, fact))
}

impl Stack {
    /// Returns the policy in force as TOML: every default filled in, secrets by reference only.
    pub fn effective(&self) -> Result<String> {
        toml::to_string_pretty(self).failed(ExitCode::Failed, || "the policy cannot be written".to_owned())
    }
}

/// Returns the JSON schema of a policy, for editors that know TOML.
///
/// It knows keys and types; what only [`Stack::load`] knows (a glob, a zone, a store's options) it lets pass.
pub fn schema() -> serde_json::Value {
    schemars::schema_for!(Stack).to_value()
}

const STARTER: &str = r#"stack = @stack@
timezone = @timezone@             # all times below are in this zone

# Where snapshots go. `store` is fs, s3, oss, obs, cos or webdav; `options` has opendal's names.
[repository]
store = @store@
options = { @options@ }
# Who can read the data. Keep at least one of the secret halves off this host, and print one.
recipients = [
@recipients@]
# Whose signatures are believed: what anybody else commits to the store is tampering.
signers = [
@signers@]
keys = @keys@

# When things happen: minute, hour, day of month, month, day of week.
[schedule]
backup = "0 2 * * *"
prune = "30 4 * * *"
verify = "0 5 * * 0"
drill = "0 3 1 * *"

# How long snapshots stay. The newest proven one always does.
[retention]
daily = 7
weekly = 4
monthly = 3
min_keep = 3

# A second place, in another building. Copied to at `schedule.sync`, or after each backup.
# [[offsite]]
# name = "oss"
# store = "oss"
# options = { bucket = "…", endpoint = "https://…", access_key_id = { env = "OSS_ID" }, access_key_secret = { env = "OSS_SECRET" } }
# after_backup = true
# limit_mib_per_second = 8

# Who hears of trouble: dingtalk, feishu, wecom, slack, webhook, healthchecks, email or exec.
# [[notify]]
# kind = "dingtalk"
# webhook = { env = "DINGTALK_WEBHOOK" }
# secret = { env = "DINGTALK_SECRET" }

# What is protected. A secret is { env = "NAME" }, { file = "/run/secrets/name" } or { credential = "name" }.
# [[source]]
# name = "mysql"
# kind = "mysql"
# host = "127.0.0.1"
# user = "lifeboat"
# password = { file = "/run/secrets/mysql" }
#
# [[source]]
# name = "redis"
# kind = "redis"
# url = "redis://127.0.0.1:6379"
# password = { env = "REDIS_PASSWORD" }
#
# [[source]]
# name = "minio"
# kind = "s3"
# endpoint = "http://127.0.0.1:9000"
# access_key = { env = "MINIO_ROOT_USER" }
# secret_key = { env = "MINIO_ROOT_PASSWORD" }
#
# [[source]]
# name = "config"
# kind = "files"
# paths = ["/opt/app/.env", "/opt/app/config"]
"#;
