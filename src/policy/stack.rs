//! A policy that was checked: what is protected, where to, when, for how long, and who hears of it.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use chrono_tz::Tz;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};

use super::{AnomalyConfig, NotifyConfig, SecretRef, ServeConfig, SourceConfig, StoreConfig};
use crate::{
    error,
    names::SourceName,
    retention::{Rules, Within},
};

/// What one policy protects, and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Stack {
    /// Its name; a person types it to confirm what cannot be taken back.
    #[serde(rename = "stack")]
    pub name: String,
    /// The zone of all times and days that the policy names.
    #[serde(serialize_with = "zone_name")]
    #[schemars(with = "Option<String>")]
    pub timezone: Tz,
    /// The language of messages and reports.
    #[schemars(with = "Option<Language>")]
    pub language: Language,
    /// Where the snapshots lie.
    pub repository: RepositoryConfig,
    /// What is protected, in the order of the file.
    #[serde(rename = "source")]
    pub sources: Vec<SourceConfig>,
    /// Where copies lie.
    #[serde(rename = "offsite")]
    #[schemars(default)]
    pub offsites: Vec<OffsiteConfig>,
    /// When things happen.
    #[schemars(default)]
    pub schedule: ScheduleConfig,
    /// How long snapshots stay.
    #[schemars(default)]
    pub retention: RetentionConfig,
    /// How restores are proven.
    #[schemars(default)]
    pub drill: DrillConfig,
    /// What is unusual.
    #[schemars(default)]
    pub anomaly: AnomalyConfig,
    /// The service.
    #[schemars(default)]
    pub serve: ServeConfig,
    /// Who hears of it.
    #[schemars(default)]
    pub notify: Vec<NotifyConfig>,
}

impl Stack {
    /// Returns the sources in the order in which a snapshot reads them, whatever the file's order: MySQL,
    /// Redis, objects, files. So every object that a row names was there to be listed.
    pub fn sources_in_order(&self) -> Vec<&SourceConfig> {
        let mut sources: Vec<&SourceConfig> = self.sources.iter().collect();
        sources.sort_by_key(|source| source.kind.rank());
        sources
    }

    /// Returns the source of this name.
    pub fn source(&self, name: &str) -> Option<&SourceConfig> {
        self.sources.iter().find(|source| source.name.as_str() == name)
    }

    /// Returns the offsite repository of this name.
    pub fn offsite(&self, name: &str) -> Option<&OffsiteConfig> {
        self.offsites.iter().find(|offsite| offsite.name.as_str() == name)
    }

    /// Returns the offsite repositories that are to have each backup at once.
    pub fn offsites_after_backup(&self) -> impl Iterator<Item = &OffsiteConfig> {
        self.offsites.iter().filter(|offsite| offsite.settings.after_backup)
    }

    /// Returns every secret that the policy names, each with what it is for.
    pub fn secrets(&self) -> Vec<(String, &SecretRef)> {
        let mut all = Vec::new();
        for (option, secret) in self.repository.place.secrets() {
            all.push((format!("repository option {option}"), secret));
        }
        for source in &self.sources {
            for (key, secret) in source.kind.secrets() {
                all.push((format!("source {} {key}", source.name), secret));
            }
        }
        for offsite in &self.offsites {
            for (option, secret) in offsite.place.secrets() {
                all.push((format!("offsite {} option {option}", offsite.name), secret));
            }
        }
        for notify in &self.notify {
            for (key, secret) in notify.channel.secrets() {
                all.push((format!("notify {} {key}", notify.name), secret));
            }
        }
        all
    }
}

/// The language of messages and reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Language {
    /// English.
    #[default]
    En,
    /// Chinese.
    Zh,
}

/// Where the snapshots lie and who can read them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct RepositoryConfig {
    /// The store.
    #[serde(flatten)]
    pub place: StoreConfig,
    /// The rest.
    #[serde(flatten)]
    pub settings: RepositorySettings,
}

/// How a repository is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RepositorySettings {
    /// The public keys (`age1…`) of those who can read the data; two or more are advised.
    pub recipients: Vec<String>,
    /// The public keys (`RW…`) of those whose signatures are believed.
    #[serde(default)]
    pub signers: Vec<String>,
    /// The public keys (`RW…`) of those who may remove: their signatures on tombstones and prune lists are
    /// believed. The signers that are not revoked when none is given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub maintainers: Vec<String>,
    /// Signers whose later signatures are not believed any more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub revoked: Vec<RevokedConfig>,
    /// Whether snapshots here are of hosts that each backed up sources of their own and signed with a key of their own.
    /// Retention then counts each signer's snapshots by themselves.
    #[serde(default)]
    pub sharded: bool,
    /// The folder for the catalog and the lock; `/var/lib/lifeboat` or the user's state folder when not given.
    #[serde(default)]
    pub state_dir: Option<PathBuf>,
    /// The folder with this host's own keys.
    #[serde(default = "default_keys")]
    pub keys: PathBuf,
    /// The host's index identity, if not `index.key` in that folder.
    #[serde(default)]
    pub index_key: Option<PathBuf>,
    /// The host's signing key, if not `signing.key` in that folder.
    #[serde(default)]
    pub signing_key: Option<PathBuf>,
    /// How hard zstd tries, 1 to 19.
    #[serde(default = "default_compression_level")]
    pub compression_level: i32,
}

impl RepositorySettings {
    /// Returns where the host's index identity lies.
    pub fn index_key(&self) -> PathBuf {
        self.key_file(self.index_key.as_deref(), "index.key")
    }

    /// Returns where the host's signing key lies.
    pub fn signing_key(&self) -> PathBuf {
        self.key_file(self.signing_key.as_deref(), "signing.key")
    }

    /// Returns each revoked signer with the last sequence number that is believed of it.
    pub fn revoked_after(&self) -> Vec<(&str, u64)> {
        self.revoked.iter().map(|one| (one.signer.as_str(), one.after_seq)).collect()
    }

    fn key_file(&self, given: Option<&Path>, name: &str) -> PathBuf {
        given.map_or_else(|| self.keys.join(name), Path::to_owned)
    }
}

/// A signer that is believed up to a point: its key was stolen, or its host is gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RevokedConfig {
    /// The signer, one of `signers`.
    pub signer: String,
    /// Its last snapshot that is believed, by sequence number; 0 for none.
    pub after_seq: u64,
}

/// A second place for the snapshots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct OffsiteConfig {
    /// Its name.
    #[schemars(with = "String")]
    pub name: SourceName,
    /// The store.
    #[serde(flatten)]
    pub place: StoreConfig,
    /// The rest.
    #[serde(flatten)]
    pub settings: OffsiteSettings,
    /// How long snapshots stay there, if not as long as in the repository.
    pub retention: Option<RetentionConfig>,
}

/// How an offsite repository is filled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OffsiteSettings {
    /// Whether each backup is copied at once; otherwise `schedule.sync` says when.
    #[serde(default)]
    pub after_backup: bool,
    /// Days that a snapshot stays there after it was removed from the repository.
    #[serde(default = "default_delay_days")]
    pub delay_days: u32,
    /// The most that is sent, in MiB per second.
    #[serde(default)]
    pub limit_mib_per_second: Option<u32>,
    /// Packs that are sent at the same time, 1 to 16; each of them is in memory meanwhile.
    #[serde(default = "default_offsite_concurrency")]
    pub concurrency: usize,
    /// The share of what was sent for a snapshot that is read back and hashed before the snapshot counts there: one
    /// pack at least, none at 0.
    #[serde(default = "default_reread_percent")]
    pub reread_percent: u32,
    /// Days that the service itself refuses to delete what a kept snapshot needs (S3 Object Lock); each sync renews
    /// them.
    #[serde(default)]
    pub lock_days: Option<u32>,
    /// How hard that lock is; see [`Self::lock_mode`].
    #[serde(default)]
    pub lock_mode: Option<LockMode>,
}

impl OffsiteSettings {
    /// Returns how hard what is kept is locked: the mode that holds whoever has the credential, unless another one is
    /// named.
    pub fn lock_mode(&self) -> LockMode {
        self.lock_mode.unwrap_or_default()
    }
}

/// How hard an object is locked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LockMode {
    /// Whoever has the right to bypass it can shorten it and delete.
    Governance,
    /// Nobody can, whatever a credential may do: so a stolen one cannot either.
    #[default]
    Compliance,
}

impl LockMode {
    /// Returns the word for screens, documents and the policy.
    pub fn word(self) -> &'static str {
        match self {
            Self::Governance => "governance",
            Self::Compliance => "compliance",
        }
    }
}

/// When things happen: five cron fields each, in the policy's zone. What is not named happens by hand only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ScheduleConfig {
    /// A snapshot of all sources.
    #[serde(default)]
    pub backup: Option<String>,
    /// The copy to each offsite repository.
    #[serde(default)]
    pub sync: Option<String>,
    /// Retention, and freeing what nothing needs.
    #[serde(default)]
    pub prune: Option<String>,
    /// Reading and checking what is stored.
    #[serde(default)]
    pub verify: Option<String>,
    /// A restore into a lab.
    #[serde(default)]
    pub drill: Option<String>,
    /// The daily report.
    #[serde(default)]
    pub digest: Option<String>,
    /// A look at what the next backup will need.
    #[serde(default)]
    pub doctor: Option<String>,
    /// The tamper test of each offsite with `lock_days`.
    #[serde(default)]
    pub lock: Option<String>,
    /// The most that a run is put off by chance, so that many hosts do not begin at once.
    #[serde(default)]
    pub jitter_seconds: u32,
    /// What happens when the time of a run comes and the one before is not done.
    #[serde(default)]
    pub overlap: Overlap,
    /// What happens about the times of runs that the service was not there for.
    #[serde(default)]
    pub catch_up: CatchUp,
    /// After how long a run is given up.
    #[serde(default)]
    pub deadline_minutes: Option<u32>,
    /// How often a run that failed for a reason that may pass is tried again.
    #[serde(default = "default_retries")]
    pub retries: u32,
    /// How long the first of these tries waits; each further one waits twice as long.
    #[serde(default = "default_retry_minutes")]
    pub retry_minutes: u32,
}

impl Default for ScheduleConfig {
    fn default() -> Self {
        Self {
            backup: None,
            sync: None,
            prune: None,
            verify: None,
            drill: None,
            digest: None,
            doctor: None,
            lock: None,
            jitter_seconds: 0,
            overlap: Overlap::default(),
            catch_up: CatchUp::default(),
            deadline_minutes: None,
            retries: default_retries(),
            retry_minutes: default_retry_minutes(),
        }
    }
}

impl ScheduleConfig {
    /// Returns each job that has a time, with its cron fields.
    pub fn jobs(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let all = [
            ("backup", &self.backup),
            ("sync", &self.sync),
            ("prune", &self.prune),
            ("verify", &self.verify),
            ("drill", &self.drill),
            ("digest", &self.digest),
            ("doctor", &self.doctor),
            ("lock", &self.lock),
        ];
        all.into_iter().filter_map(|(job, cron)| Some((job, cron.as_deref()?)))
    }
}

/// What happens when the time of a run comes and the one before is not done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Overlap {
    /// It is left out, and that is told.
    #[default]
    Skip,
    /// It begins when the one before is done.
    Queue,
}

/// What happens about the times of runs that the service was not there for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CatchUp {
    /// The newest of them is made up for, once.
    #[default]
    Once,
    /// They are told as missed.
    None,
}

/// How long snapshots stay. Without any rule everything stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RetentionConfig {
    /// The newest so many.
    #[serde(default)]
    pub last: Option<u32>,
    /// The newest of each of so many hours.
    #[serde(default)]
    pub hourly: Option<u32>,
    /// The newest of each of so many days.
    #[serde(default)]
    pub daily: Option<u32>,
    /// The newest of each of so many weeks.
    #[serde(default)]
    pub weekly: Option<u32>,
    /// The newest of each of so many months.
    #[serde(default)]
    pub monthly: Option<u32>,
    /// The newest of each of so many years.
    #[serde(default)]
    pub yearly: Option<u32>,
    /// All that are not older than this: `48h`, `7d`, `4w`, `6m`, `1y`.
    #[serde(default)]
    pub within: Option<String>,
    /// So many of the newest good ones stay whatever the other rules say.
    #[serde(default = "default_min_keep")]
    pub min_keep: u32,
    /// A run that would remove more than this share of all snapshots stops and asks.
    #[serde(default = "default_remove_percent_max")]
    pub remove_percent_max: u32,
}

impl RetentionConfig {
    /// Returns the rules as retention takes them; fails only on a `within` that the policy's check refuses.
    pub fn rules(&self) -> error::Result<Rules> {
        Ok(Rules {
            last: self.last,
            hourly: self.hourly,
            daily: self.daily,
            weekly: self.weekly,
            monthly: self.monthly,
            yearly: self.yearly,
            within: self.within.as_deref().map(Within::parse).transpose()?,
            min_keep: self.min_keep,
            remove_percent_max: self.remove_percent_max,
        })
    }
}

impl Default for RetentionConfig {
    fn default() -> Self {
        Self {
            last: None,
            hourly: None,
            daily: None,
            weekly: None,
            monthly: None,
            yearly: None,
            within: None,
            min_keep: default_min_keep(),
            remove_percent_max: default_remove_percent_max(),
        }
    }
}

/// How restores are proven.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "each is a key of the policy of its own")]
pub struct DrillConfig {
    /// What a restore goes into.
    #[serde(default)]
    pub lab: LabKind,
    /// Where it comes from: `repository`, or the name of an offsite one.
    #[serde(default = "default_drill_from")]
    pub from: String,
    /// Which snapshot.
    #[serde(default)]
    pub pick: Pick,
    /// The identity that opens the data, without a passphrase; a drill that nobody watches needs it on its host.
    #[serde(default)]
    pub identity: Option<PathBuf>,
    /// Whether a drill follows each backup that succeeded.
    #[serde(default)]
    pub after_backup: bool,
    /// Whether the recipe for recovery without lifeboat is drilled on the same schedule.
    #[serde(default)]
    pub by_hand: bool,
    /// Whether prune stands still after a drill that failed or is overdue.
    #[serde(default = "default_true")]
    pub freeze_prune: bool,
    /// Where reports are put; a folder beside the catalog when not given.
    #[serde(default)]
    pub reports: Option<PathBuf>,
    /// How long a restore of everything may take before that is an alarm.
    #[serde(default)]
    pub rto_minutes: Option<u32>,
    /// After how long a drill is given up, which is not the same as passed.
    #[serde(default = "default_drill_deadline_minutes")]
    pub deadline_minutes: u32,
    /// The memory of each server of the lab, in MiB.
    #[serde(default = "default_drill_memory_mib")]
    pub memory_mib: u32,
    /// The processor time of each server of the lab, 100 for one processor; all there is when not given.
    #[serde(default)]
    pub cpu_percent: Option<u32>,
    /// Whether the lab's data lies in memory instead of on a disk.
    #[serde(default)]
    pub data_in_memory: bool,
    /// So many of a bucket's objects are read back byte for byte, by chance; of the others there are existence, size,
    /// the server's own checksum and metadata.
    #[serde(default = "default_drill_objects_percent")]
    pub objects_percent: u32,
    /// The container engine's address; `DOCKER_HOST` or the usual socket when not given.
    #[serde(default)]
    pub socket: Option<String>,
    /// Container images by source, where they are not the usual ones.
    #[serde(default)]
    pub images: BTreeMap<String, String>,
    /// The image with age, zstd, tar, jq and minisign in which the recipe is drilled.
    #[serde(default)]
    pub by_hand_image: Option<String>,
    /// More arguments for the lab's servers, by source.
    #[serde(default)]
    pub arguments: BTreeMap<String, Vec<String>>,
    /// Rows that each name an object or a key.
    #[serde(default, rename = "reference")]
    pub references: Vec<ReferenceConfig>,
    /// Questions with known answers.
    #[serde(default, rename = "expect")]
    pub expectations: Vec<ExpectConfig>,
    /// How new the newest row must be.
    #[serde(default)]
    pub freshness: Vec<FreshnessConfig>,
    /// Programs that look at what was restored.
    #[serde(default, rename = "command")]
    pub commands: Vec<CommandConfig>,
}

impl Default for DrillConfig {
    fn default() -> Self {
        Self {
            lab: LabKind::default(),
            from: default_drill_from(),
            pick: Pick::default(),
            identity: None,
            after_backup: false,
            by_hand: false,
            freeze_prune: true,
            reports: None,
            rto_minutes: None,
            deadline_minutes: default_drill_deadline_minutes(),
            memory_mib: default_drill_memory_mib(),
            cpu_percent: None,
            data_in_memory: false,
            objects_percent: default_drill_objects_percent(),
            socket: None,
            images: BTreeMap::new(),
            by_hand_image: None,
            arguments: BTreeMap::new(),
            references: Vec::new(),
            expectations: Vec::new(),
            freshness: Vec::new(),
            commands: Vec::new(),
        }
    }
}

/// What a drill restores into.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LabKind {
    /// Throwaway containers.
    #[default]
    Docker,
    /// Throwaway processes of this host's own servers.
    Process,
}

/// Which snapshot a drill takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Pick {
    /// The newest.
    #[default]
    Latest,
    /// Any, so that old ones are proven as well.
    Random,
    /// The newest that is not younger than a random second since the oldest.
    Second,
}

/// Rows that each name an object or a Redis key. The first column is the key; of objects a second, if there is one, is
/// the SHA-256 as hex, and a third the size in bytes. A row whose first column is NULL or empty names nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReferenceConfig {
    /// What reports call it; `source` and `in` when not given.
    #[serde(default)]
    pub name: Option<String>,
    /// The MySQL source that is asked.
    pub source: String,
    /// The question.
    pub query: String,
    /// The S3 source that has the objects, or the Redis source that has the keys.
    #[serde(rename = "in")]
    pub inside: String,
    /// The bucket.
    #[serde(default)]
    pub bucket: Option<String>,
    /// The database of the keys.
    #[serde(default)]
    pub db: u32,
    /// What the rows have before the object's key.
    #[serde(default)]
    pub strip_prefix: Option<String>,
    /// So many rows may lack their object or key.
    #[serde(default)]
    pub missing_max: u64,
    /// So many objects or keys may lack their row; when not given they are counted only.
    #[serde(default)]
    pub orphans_max: Option<u64>,
    /// A glob of the objects or keys that must have a row; all of the bucket when not given.
    #[serde(default)]
    pub orphans: Option<String>,
    /// So many more rows than in the drill before may lack their object or key.
    #[serde(default)]
    pub growth_max: Option<u64>,
}

/// A question whose answer, a single number, is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExpectConfig {
    /// What reports call it.
    pub name: String,
    /// The MySQL source that is asked.
    pub source: String,
    /// The question.
    pub query: String,
    /// The least it may be.
    #[serde(default)]
    pub at_least: Option<i64>,
    /// The most it may be.
    #[serde(default)]
    pub at_most: Option<i64>,
}

/// How old the newest row may be: the answer of the question, a date and time, lies at most so long before the instant
/// that the source was read at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FreshnessConfig {
    /// What reports call it.
    pub name: String,
    /// The MySQL source that is asked.
    pub source: String,
    /// The question: `SELECT MAX(created_at) FROM im.messages`.
    pub query: String,
    /// How old it may be.
    pub within_minutes: u32,
    /// The zone of the answer, by its IANA name; UTC when not given, in which `TIMESTAMP` columns are read.
    #[serde(default)]
    pub timezone: Option<String>,
}

/// A program that looks at what was restored, and says by its exit code 0 that all is well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CommandConfig {
    /// What reports call it.
    pub name: String,
    /// The image that it runs in; that of the first source when not given.
    #[serde(default)]
    pub image: Option<String>,
    /// The program and its arguments.
    pub command: Vec<String>,
    /// How long it may take.
    #[serde(default = "default_command_minutes")]
    pub timeout_minutes: u32,
}

/// Writes a zone as its name; `chrono-tz` would need a feature for it.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands out references")]
fn zone_name<S: Serializer>(zone: &Tz, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(zone.name())
}

fn default_keys() -> PathBuf {
    PathBuf::from("/etc/lifeboat/keys")
}
fn default_compression_level() -> i32 {
    3
}
fn default_retries() -> u32 {
    2
}
fn default_retry_minutes() -> u32 {
    5
}
fn default_delay_days() -> u32 {
    14
}
fn default_offsite_concurrency() -> usize {
    2
}
fn default_reread_percent() -> u32 {
    5
}
fn default_min_keep() -> u32 {
    Rules::default().min_keep
}
fn default_remove_percent_max() -> u32 {
    Rules::default().remove_percent_max
}
fn default_drill_from() -> String {
    "repository".to_owned()
}
fn default_command_minutes() -> u32 {
    10
}
fn default_true() -> bool {
    true
}
fn default_drill_deadline_minutes() -> u32 {
    240
}
fn default_drill_memory_mib() -> u32 {
    1024
}
fn default_drill_objects_percent() -> u32 {
    100
}
