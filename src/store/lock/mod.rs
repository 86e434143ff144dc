//! Object Lock: a service that refuses to delete or change an object until a day that was named.
//!
//! Only S3 has it here. opendal does not, so this speaks through the AWS SDK to the very place that the same options
//! open as a store: same bucket, same root, same credential. A lock is only ever made longer or harder here; the
//! tamper test, which tries the contrary, works on objects of its own ([`tamper`]).
//!
//! *Crash.* Each lock is one request; what was locked stays locked, the rest is locked by the next run.
//!
//! *Limits.* [`CONNECT_SECONDS`] and [`ANSWER_SECONDS`] for each of [`ATTEMPTS`] tries of a request.

pub mod tamper;

use std::{collections::BTreeMap, time::Duration};

use aws_sdk_s3::{
    Client,
    config::{
        BehaviorVersion, Credentials, Region, RequestChecksumCalculation, ResponseChecksumValidation,
        http::HttpResponse, retry::RetryConfig, timeout::TimeoutConfig,
    },
    error::{ProvideErrorMetadata, SdkError},
    primitives::DateTime as SdkTime,
    types::{ObjectLockEnabled, ObjectLockRetention, ObjectLockRetentionMode},
};
use aws_smithy_http_client::tls;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::remote;
use crate::{error::Failure, names::Key};

/// Seconds that a TCP and TLS handshake may take.
const CONNECT_SECONDS: u64 = 10;
/// Seconds until the first byte of an answer.
const ANSWER_SECONDS: u64 = 60;
/// How often one request is tried.
const ATTEMPTS: u32 = 4;
/// The region where none is named; services that have none take any.
const REGION: &str = "us-east-1";

/// The answers of AWS and MinIO, and of Ceph, to whoever asks for the lock of an object that never had one.
const NEVER_LOCKED: [&str; 2] = ["NoSuchObjectLockConfiguration", "ObjectLockConfigurationNotFoundError"];

/// How hard an object is locked, the harder the greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Whoever has the right to bypass it can shorten it.
    Governance,
    /// Nobody can.
    Compliance,
}

/// A lock on an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retention {
    /// How hard.
    pub mode: Mode,
    /// Until when.
    pub until: DateTime<Utc>,
}

/// Why nothing can be locked in a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoLock {
    /// What was seen.
    pub what: String,
    /// What to do.
    pub hint: &'static str,
    /// Whether it could not be asked, which may be otherwise tomorrow.
    pub is_unknown: bool,
}

/// Why a request about a lock did not succeed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LockError {
    /// The object is not there, or a delete marker hides it.
    #[error("the object is not there, or a delete marker hides it")]
    Absent,
    /// The service refused.
    #[error("the service refused it: {0}")]
    Refused(String),
    /// The service did not answer, or has trouble of its own.
    #[error("the service did not answer: {0}")]
    Unanswered(String),
}

/// The options of a store that a lock needs, under the SDK's names.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Settings {
    bucket: String,
    /// What every key begins with; empty, or with a slash at its end.
    prefix: String,
    endpoint: Option<String>,
    region: String,
    access_key: String,
    secret_key: String,
    token: Option<String>,
    path_style: bool,
}

/// Locks objects of one place.
#[derive(Clone, Debug)]
pub struct Locker {
    client: Client,
    bucket: String,
    prefix: String,
    place: String,
}

const OTHER_STORE: &str = "`lock_days` works with store = \"s3\" only; elsewhere use the service's own retention, and remove `lock_days`.";
const OWN_LOGIN: &str = "Name `access_key_id` and `secret_access_key` in the options: the lock is tried out with that very credential.";
const NEW_BUCKET: &str =
    "Object Lock is switched on when a bucket is made: make one, and copy to it with `lifeboat sync`.";
const NO_SUCH_THING: &str =
    "Use the service's own retention, or a service that has Object Lock, and remove `lock_days` here.";
const ASK_AGAIN: &str =
    "Check the endpoint, and that the credential may s3:GetBucketObjectLockConfiguration; then try again.";

impl Settings {
    /// Takes them from opendal's options.
    fn of(scheme: &str, options: &BTreeMap<String, String>) -> Result<Self, NoLock> {
        let option = |name: &str| options.get(name).filter(|value| !value.is_empty()).cloned();
        let is_on =
            |name: &str| option(name).is_some_and(|value| ["true", "on", "1"].contains(&value.as_str()));
        let no = |what: String, hint| NoLock { what, hint, is_unknown: false };
        if scheme != "s3" {
            return Err(no(format!("store `{scheme}` has no Object Lock that lifeboat knows"), OTHER_STORE));
        }
        let login = option("access_key_id").zip(option("secret_access_key"));
        let (Some((access_key, secret_key)), None) = (login, option("role_arn")) else {
            return Err(no("the credential of the store is not in its options".to_owned(), OWN_LOGIN));
        };
        let root = option("root").unwrap_or_default();
        let root = root.split('/').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/");
        let endpoint = option("endpoint")
            .map(|endpoint| if endpoint.contains("://") { endpoint } else { format!("https://{endpoint}") });
        Ok(Self {
            bucket: option("bucket").unwrap_or_default(),
            prefix: if root.is_empty() { root } else { format!("{root}/") },
            endpoint,
            region: option("region").unwrap_or_else(|| REGION.to_owned()),
            access_key,
            secret_key,
            token: option("session_token"),
            path_style: !is_on("enable_virtual_host_style"),
        })
    }
}

impl Locker {
    /// Makes a locker for the place that these options open as a store; asks nothing of it yet.
    pub fn new(scheme: &str, options: &BTreeMap<String, String>) -> Result<Self, NoLock> {
        let settings = Settings::of(scheme, options)?;
        let credentials = Credentials::new(
            settings.access_key,
            settings.secret_key,
            settings.token,
            None,
            "lifeboat policy",
        );
        let http = aws_smithy_http_client::Builder::new()
            .tls_provider(tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring))
            .build_https();
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(Duration::from_secs(CONNECT_SECONDS))
            .read_timeout(Duration::from_secs(ANSWER_SECONDS))
            .build();
        let mut config = aws_sdk_s3::Config::builder();
        config.set_endpoint_url(settings.endpoint);
        let config = config
            .behavior_version(BehaviorVersion::latest())
            .http_client(http)
            .region(Region::new(settings.region))
            .credentials_provider(credentials)
            .force_path_style(settings.path_style)
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
            .retry_config(RetryConfig::standard().with_max_attempts(ATTEMPTS))
            .timeout_config(timeouts)
            .build();
        let client = Client::from_conf(config);
        let (bucket, prefix) = (settings.bucket, settings.prefix);
        Ok(Self { client, bucket, prefix, place: remote::place(scheme, options) })
    }

    /// Returns where it is, without secrets.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Makes sure that the bucket has Object Lock.
    pub async fn check(&self) -> Result<(), NoLock> {
        let no = |what: String, hint, is_unknown| Err(NoLock { what, hint, is_unknown });
        match self.client.get_object_lock_configuration().bucket(&self.bucket).send().await {
            Ok(answer) => {
                let config = answer.object_lock_configuration();
                match config.and_then(|config| config.object_lock_enabled()) {
                    Some(ObjectLockEnabled::Enabled) => Ok(()),
                    _ => no(format!("bucket `{}` has no Object Lock", self.bucket), NEW_BUCKET, false),
                }
            }
            Err(error) if error.code() == Some("ObjectLockConfigurationNotFoundError") => {
                no(format!("bucket `{}` has no Object Lock", self.bucket), NEW_BUCKET, false)
            }
            Err(error) if is_unknown_request(&error) => no(
                format!("the service knows no Object Lock: it answered {}", said(&error)),
                NO_SUCH_THING,
                false,
            ),
            Err(error) => {
                let told = LockError::of(&error);
                no(format!("bucket `{}` cannot be asked for its lock: {told}", self.bucket), ASK_AGAIN, true)
            }
        }
    }

    /// Returns the lock of an object's current version, `None` when it has none.
    pub async fn retention(&self, key: &Key) -> Result<Option<Retention>, LockError> {
        self.retention_of(&self.at(key), None).await
    }

    /// Locks an object's current version. Never shortens: give it a lock that is at least as long and as hard.
    pub async fn lock(&self, key: &Key, retention: Retention) -> Result<(), LockError> {
        self.set_retention(&self.at(key), None, retention, false).await
    }

    fn at(&self, key: &Key) -> String {
        format!("{}{key}", self.prefix)
    }

    async fn retention_of(&self, at: &str, version: Option<&str>) -> Result<Option<Retention>, LockError> {
        let ask = self.client.get_object_retention().bucket(&self.bucket).key(at);
        match ask.set_version_id(version.map(str::to_owned)).send().await {
            Ok(answer) => Ok(answer.retention().and_then(read_retention)),
            Err(error) if error.code().is_some_and(|code| NEVER_LOCKED.contains(&code)) => Ok(None),
            Err(error) => Err(LockError::of(&error)),
        }
    }

    async fn set_retention(
        &self,
        at: &str,
        version: Option<&str>,
        retention: Retention,
        bypass: bool,
    ) -> Result<(), LockError> {
        let wanted = ObjectLockRetention::builder()
            .mode(match retention.mode {
                Mode::Governance => ObjectLockRetentionMode::Governance,
                Mode::Compliance => ObjectLockRetentionMode::Compliance,
            })
            .retain_until_date(SdkTime::from_secs(retention.until.timestamp()))
            .build();
        let put = self.client.put_object_retention().bucket(&self.bucket).key(at).retention(wanted);
        let put = put.set_version_id(version.map(str::to_owned));
        let put = put.set_bypass_governance_retention(bypass.then_some(true));
        put.send().await.map(drop).map_err(|error| LockError::of(&error))
    }
}

fn read_retention(retention: &ObjectLockRetention) -> Option<Retention> {
    let mode = match retention.mode()? {
        ObjectLockRetentionMode::Compliance => Mode::Compliance,
        ObjectLockRetentionMode::Governance => Mode::Governance,
        _ => return None,
    };
    let until = DateTime::from_timestamp(retention.retain_until_date()?.secs(), 0)?;
    Some(Retention { mode, until })
}

/// What an SDK call returns when it fails.
type CallError<E> = SdkError<E, HttpResponse>;

fn is_unknown_request<E: ProvideErrorMetadata>(error: &CallError<E>) -> bool {
    let status = error.raw_response().map(|answer| answer.status().as_u16());
    matches!(status, Some(405 | 501)) || error.code() == Some("NotImplemented")
}

/// Returns the status, the code and the words of an answer.
fn said<E: ProvideErrorMetadata>(error: &CallError<E>) -> String {
    let status = error.raw_response().map(|answer| answer.status().as_u16()).unwrap_or_default();
    let parts = [error.code().unwrap_or_default(), error.message().unwrap_or_default()];
    let said: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    format!("{status} {}", said.join(": ")).trim_end().to_owned()
}

impl LockError {
    fn of<E>(error: &CallError<E>) -> Self
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        let Some(answer) = error.raw_response() else {
            return Self::Unanswered(innermost(error));
        };
        let (status, said) = (answer.status().as_u16(), said(error));
        match status {
            404 if error.code() != Some("NoSuchBucket") => Self::Absent,
            // So AWS answers when a delete marker is the current version.
            405 if error.code() == Some("MethodNotAllowed") => Self::Absent,
            500.. | 429 | 408 => Self::Unanswered(said),
            _ => Self::Refused(said),
        }
    }
}

/// Returns the last cause of an error: what came before it is the SDK's own way to it.
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut last = error;
    while let Some(deeper) = last.source() {
        last = deeper;
    }
    last.to_string()
}

impl From<NoLock> for Failure {
    fn from(no: NoLock) -> Self {
        Self::new(crate::error::ExitCode::StoreDown, no.what).hint(no.hint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    const LOGIN: [(&str, &str); 3] =
        [("bucket", "b"), ("access_key_id", "id"), ("secret_access_key", "hush")];

    fn with(more: &[(&str, &str)]) -> Settings {
        Settings::of("s3", &options(&[&LOGIN[..], more].concat())).unwrap()
    }

    #[test]
    fn a_stores_options_become_the_sdks() {
        let settings = with(&[]);
        assert_eq!((settings.bucket.as_str(), settings.prefix.as_str()), ("b", ""));
        assert_eq!((settings.endpoint, settings.region.as_str()), (None, REGION));
        assert!(settings.path_style, "as opendal does it");
        let settings = with(&[
            ("root", "/a//b/"),
            ("endpoint", "s3.example.com"),
            ("region", "eu-1"),
            ("session_token", "t"),
            ("enable_virtual_host_style", "true"),
        ]);
        assert_eq!(settings.prefix, "a/b/");
        assert_eq!(settings.endpoint.as_deref(), Some("https://s3.example.com"));
        assert_eq!((settings.region.as_str(), settings.token.as_deref()), ("eu-1", Some("t")));
        assert!(!settings.path_style);
        assert_eq!(with(&[("endpoint", "http://h:1")]).endpoint.as_deref(), Some("http://h:1"));
    }

    #[test]
    fn a_place_without_a_lock_or_with_a_login_of_its_own_is_told_what_to_do() {
        let no = Settings::of("fs", &options(&[("root", "/x")])).unwrap_err();
        assert_eq!((no.hint, no.is_unknown), (OTHER_STORE, false));
        let no = Settings::of("s3", &options(&[("bucket", "b")])).unwrap_err();
        assert_eq!(no.hint, OWN_LOGIN);
        let role = options(&[&LOGIN[..], &[("role_arn", "arn:x")]].concat());
        assert_eq!(
            Settings::of("s3", &role).unwrap_err().hint,
            OWN_LOGIN,
            "that would be another credential"
        );
    }

    /// Returns a locker whose service answers every request so.
    async fn answering(status: &'static str, body: &'static str) -> Locker {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((mut caller, _)) = listener.accept().await {
                let mut request = [0; 8192];
                let _request_bytes = caller.read(&mut request).await.unwrap();
                let length = body.len();
                let head =
                    format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
                caller.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
            }
        });
        Locker::new("s3", &options(&[&LOGIN[..], &[("endpoint", &endpoint)]].concat())).unwrap()
    }

    #[tokio::test]
    async fn a_bucket_without_a_lock_is_told_from_one_that_cannot_be_asked() {
        let check = async |status, body| {
            answering(status, body).await.check().await.map_err(|no| {
                assert!(!no.what.is_empty());
                (no.hint, no.is_unknown)
            })
        };
        let on = "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled></ObjectLockConfiguration>";
        assert_eq!(check("200 OK", on).await, Ok(()));
        assert_eq!(check("200 OK", "<ObjectLockConfiguration/>").await, Err((NEW_BUCKET, false)));
        let none = "<Error><Code>ObjectLockConfigurationNotFoundError</Code></Error>";
        assert_eq!(check("404 Not Found", none).await, Err((NEW_BUCKET, false)));
        let unknown = "<Error><Code>NotImplemented</Code></Error>";
        assert_eq!(check("501 Not Implemented", unknown).await, Err((NO_SUCH_THING, false)));
        let denied = "<Error><Code>AccessDenied</Code></Error>";
        assert_eq!(check("403 Forbidden", denied).await, Err((ASK_AGAIN, true)));
        let missing = "<Error><Code>NoSuchBucket</Code></Error>";
        assert_eq!(check("404 Not Found", missing).await, Err((ASK_AGAIN, true)));
    }

    #[tokio::test]
    async fn an_object_that_is_hidden_is_told_from_one_that_was_never_locked() {
        let ask = async |status, body| answering(status, body).await.retention(&Key::new("a").unwrap()).await;
        let never = "<Error><Code>NoSuchObjectLockConfiguration</Code></Error>";
        assert_eq!(ask("404 Not Found", never).await, Ok(None));
        let ceph = "<Error><Code>ObjectLockConfigurationNotFoundError</Code></Error>";
        assert_eq!(ask("404 Not Found", ceph).await, Ok(None));
        let gone = "<Error><Code>NoSuchKey</Code></Error>";
        assert_eq!(ask("404 Not Found", gone).await, Err(LockError::Absent));
        let hidden = "<Error><Code>MethodNotAllowed</Code></Error>";
        assert_eq!(ask("405 Method Not Allowed", hidden).await, Err(LockError::Absent));
        let denied = "<Error><Code>AccessDenied</Code><Message>no</Message></Error>";
        assert_eq!(
            ask("403 Forbidden", denied).await,
            Err(LockError::Refused("403 AccessDenied: no".to_owned()))
        );
        let lock = "<Retention><Mode>COMPLIANCE</Mode><RetainUntilDate>2026-01-02T03:04:05Z</RetainUntilDate></Retention>";
        let until = "2026-01-02T03:04:05Z".parse().unwrap();
        assert_eq!(ask("200 OK", lock).await, Ok(Some(Retention { mode: Mode::Compliance, until })));
    }

    #[test]
    fn compliance_is_the_harder_mode() {
        assert!(Mode::Compliance > Mode::Governance);
    }

    #[test]
    fn a_locker_shows_no_secret() {
        let locker = Locker::new("s3", &options(&LOGIN)).unwrap();
        assert_eq!(locker.place(), "s3://b");
        assert!(!format!("{locker:?}").contains("hush"));
    }
}
