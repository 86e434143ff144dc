//! What a policy says about each kind of source.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::SecretRef;
use crate::names::SourceName;

/// One source of a stack.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct SourceConfig {
    /// Its name in the stack.
    #[schemars(with = "String")]
    pub name: SourceName,
    /// What it is and how it is reached.
    #[serde(flatten)]
    pub kind: SourceKind,
}

/// What a source is and how it is reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum SourceKind {
    /// MySQL or MariaDB.
    Mysql(MysqlConfig),
    /// Redis or Valkey.
    Redis(RedisConfig),
    /// An S3 object store.
    S3(S3Config),
    /// Files and folders of this host.
    Files(FilesConfig),
}

impl SourceKind {
    /// The words for kinds, in the order in which a snapshot reads them: rows first, so that each object
    /// that a row names is already there when the objects are listed.
    pub const WORDS: [&'static str; 4] = ["mysql", "redis", "s3", "files"];

    /// Returns the word that the policy uses for this kind.
    pub fn word(&self) -> &'static str {
        Self::WORDS[self.rank()]
    }

    /// Returns this kind's place in the order in which a snapshot reads its sources.
    pub fn rank(&self) -> usize {
        match self {
            Self::Mysql(_) => 0,
            Self::Redis(_) => 1,
            Self::S3(_) => 2,
            Self::Files(_) => 3,
        }
    }

    /// Returns the secrets it needs and the keys that name them.
    pub fn secrets(&self) -> Vec<(&'static str, &SecretRef)> {
        match self {
            Self::Mysql(mysql) => mysql.password.iter().map(|secret| ("password", secret)).collect(),
            Self::Redis(redis) => {
                let own = redis.password.iter().map(|secret| ("password", secret));
                own.chain(redis.sentinel_password.iter().map(|secret| ("sentinel_password", secret)))
                    .collect()
            }
            Self::S3(s3) => {
                let mut secrets = vec![("access_key", &s3.access_key), ("secret_key", &s3.secret_key)];
                if let Some(S3Admin { access_key, secret_key }) = &s3.admin {
                    secrets.extend([("admin.access_key", access_key), ("admin.secret_key", secret_key)]);
                }
                secrets
            }
            Self::Files(_) => Vec::new(),
        }
    }
}

/// How a MySQL or MariaDB server is reached and read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MysqlConfig {
    /// Host name or address.
    #[serde(default = "default_mysql_host")]
    pub host: String,
    /// TCP port.
    #[serde(default = "default_mysql_port")]
    pub port: u16,
    /// Path of the server's unix socket, instead of host and port.
    #[serde(default)]
    pub socket: Option<PathBuf>,
    /// The account's user name.
    pub user: String,
    /// The account's password.
    #[serde(default)]
    pub password: Option<SecretRef>,
    /// Whether the connection is encrypted, and how strictly.
    #[serde(default)]
    pub tls: Tls,
    /// Globs of databases to take; the system's own are never taken.
    #[serde(default = "default_all")]
    pub databases: Vec<String>,
    /// Globs of `db` or `db.table` to leave out.
    #[serde(default)]
    pub exclude: Vec<String>,
    /// Connections that read or write in parallel.
    #[serde(default = "default_threads")]
    pub threads: usize,
    /// Seconds that a lock may be waited for before the run gives up.
    #[serde(default = "default_lock_wait_seconds")]
    pub lock_wait_seconds: u64,
    /// Seconds after which a statement of others counts as long: no lock that others would have to wait behind
    /// is asked for while one runs.
    #[serde(default = "default_long_query_seconds")]
    pub long_query_seconds: u64,
    /// PEM file of the authority that signed the server's certificate, for `tls = "verified"`; no other counts then.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// PEM file of the certificate that the account shows to the server, where the server asks for one.
    #[serde(default)]
    pub client_cert: Option<PathBuf>,
    /// PEM file of the key that belongs to `client_cert`.
    #[serde(default)]
    pub client_key: Option<PathBuf>,
}

/// How a Redis or Valkey server is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RedisConfig {
    /// `redis://host:port`, `rediss://host:port` or `unix:///path`; without user and password. Not given where
    /// `sentinels` are.
    #[serde(default)]
    pub url: String,
    /// The ACL user, where it is not `default`.
    #[serde(default)]
    pub user: Option<String>,
    /// The password.
    #[serde(default)]
    pub password: Option<SecretRef>,
    /// PEM file of the authority that signed the server's certificate, for `rediss://`.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// PEM file of the certificate that this host shows: to a server that asks for one, and to one that follows us
    /// encrypted during a restore (`tls-replication yes`).
    #[serde(default)]
    pub cert_file: Option<PathBuf>,
    /// PEM file of the key that belongs to `cert_file`.
    #[serde(default)]
    pub key_file: Option<PathBuf>,
    /// The address under which the server reaches this host during a restore; found out when not given.
    #[serde(default)]
    pub advertise: Option<String>,
    /// Folder for the dump while it is checked; the system's temporary folder when not given, or `/var/tmp` where
    /// that folder lies in memory.
    #[serde(default)]
    pub spool_dir: Option<PathBuf>,
    /// Seconds that a dump waits behind other saves of the server before the run gives up; 1800 when not given.
    #[serde(default)]
    pub save_wait_seconds: Option<u64>,
    /// Folder for copies of what the server held before a restore replaced it; in the state folder when not given.
    #[serde(default)]
    pub safety_dir: Option<PathBuf>,
    /// Addresses of Sentinels, written as `url` is; they tell where the server is. With `rediss://` the servers that
    /// they name are reached encrypted too.
    #[serde(default)]
    pub sentinels: Vec<String>,
    /// The name under which the Sentinels watch the server.
    #[serde(default)]
    pub primary_name: Option<String>,
    /// The Sentinels' own ACL user, where it is not `default`.
    #[serde(default)]
    pub sentinel_user: Option<String>,
    /// The Sentinels' own password.
    #[serde(default)]
    pub sentinel_password: Option<SecretRef>,
    /// Whether `url` is a node of a cluster that is taken whole: a dump of every shard.
    #[serde(default)]
    pub cluster: bool,
    /// Further nodes of the cluster, written as `url` is, that are asked when `url` does not answer.
    #[serde(default)]
    pub nodes: Vec<String>,
    /// Which server a dump is pulled from, where Sentinels or a cluster name several.
    #[serde(default)]
    pub prefer: Prefer,
}

/// Which of several servers with the same data is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Prefer {
    /// A replica that has all that the primary has; the primary when there is none.
    #[default]
    Replica,
    /// Always the primary.
    Primary,
}

impl RedisConfig {
    /// Returns the addresses that are known beforehand: the server's own or those of its Sentinels.
    pub fn addresses(&self) -> impl Iterator<Item = &str> {
        let own = Some(&self.url).filter(|url| !url.is_empty());
        own.into_iter().chain(&self.sentinels).chain(&self.nodes).map(String::as_str)
    }

    /// Points it at one server, whoever watched or surrounded the one before.
    pub fn point_at(&mut self, url: String) {
        self.url = url;
        (self.sentinels, self.primary_name) = (Vec::new(), None);
        (self.sentinel_user, self.sentinel_password) = (None, None);
        (self.cluster, self.nodes, self.prefer) = (false, Vec::new(), Prefer::default());
    }
}

/// How an object store is reached and which buckets are taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct S3Config {
    /// `http://host:port` or `https://…`.
    pub endpoint: String,
    /// The region that requests are signed for.
    #[serde(default = "default_region")]
    pub region: String,
    /// Globs of buckets to take.
    #[serde(default = "default_all")]
    pub buckets: Vec<String>,
    /// Globs of `bucket/key` to leave out.
    #[serde(default)]
    pub exclude: Vec<String>,
    /// Which versions are taken of buckets that keep them.
    #[serde(default)]
    pub versions: Versions,
    /// Access key id.
    pub access_key: SecretRef,
    /// Secret access key.
    pub secret_key: SecretRef,
    /// Objects that are read or written at the same time.
    #[serde(default = "default_s3_concurrency")]
    pub concurrency: usize,
    /// Which unchanged objects are asked for their tags, where the listing does not tell them.
    #[serde(default)]
    pub tags: S3Tags,
    /// Keys of an administrator of `MinIO`, who may export users, groups and settings; without them they are not kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admin: Option<S3Admin>,
}

/// Which unchanged objects are asked for their tags, one request for each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum S3Tags {
    /// Those that are known to have some.
    #[default]
    Known,
    /// All.
    Always,
}

/// The keys of an administrator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct S3Admin {
    /// Access key id.
    pub access_key: SecretRef,
    /// Secret access key.
    pub secret_key: SecretRef,
}

/// Which versions of an object are taken, where a bucket keeps them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Versions {
    /// What each key shows.
    #[default]
    Current,
    /// All of them, and delete markers.
    All,
}

/// Which files are taken.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FilesConfig {
    /// Files and folders, absolute.
    pub paths: Vec<PathBuf>,
    /// Globs of paths to leave out.
    #[serde(default)]
    pub exclude: Vec<String>,
    /// Files whose content was last changed longer ago are left out: archives of logs.
    #[serde(default)]
    pub max_age_days: Option<u32>,
}

/// Whether a connection is encrypted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Tls {
    /// Not encrypted.
    #[default]
    Off,
    /// Encrypted; any certificate is accepted.
    Unverified,
    /// Encrypted; the certificate must be valid for the host.
    Verified,
}

fn default_mysql_host() -> String {
    "127.0.0.1".to_owned()
}
fn default_mysql_port() -> u16 {
    3306
}
fn default_all() -> Vec<String> {
    vec!["*".to_owned()]
}
fn default_threads() -> usize {
    2
}
fn default_lock_wait_seconds() -> u64 {
    60
}
fn default_long_query_seconds() -> u64 {
    2
}
fn default_region() -> String {
    "us-east-1".to_owned()
}
fn default_s3_concurrency() -> usize {
    8
}
