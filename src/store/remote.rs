//! A store in a service, through opendal: S3 and what speaks it, OSS, OBS, COS, WebDAV.
//!
//! *Order.* A put sends the whole object in one create-only request, then asks for its size. Where the
//! service has no create-only write the name is looked up first, which two writers can outrun; then
//! [`Guarantees`] says so. Of the services here that is WebDAV: of eight puts that race for a name on a real
//! server several are told that they won. It keeps all other laws of [`super::probe`].
//!
//! *Crash, retry.* An upload that breaks off leaves nothing: the service stores whole requests only. When an
//! answer is lost the object may or may not be there, so the next try can meet its own success as "exists".
//! That is why the tries are counted here and not by opendal's retry layer: after an answer that was lost,
//! and only then, an object with exactly our bytes counts as ours.
//!
//! Limits: a try more than there are [`PAUSES`], [`CONCURRENT`] requests at once, and for each try
//! [`PATIENCE`] plus the time that the bytes take at [`SLOWEST_BYTES_PER_SECOND`]. That is slower than any pace which
//! a policy can set leaves to each of those who may send at once.

mod paced;

use std::{collections::BTreeMap, fmt, future::Future, ops::Range, sync::OnceLock, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use opendal::{Buffer, ErrorKind, HttpTransporter, OperationContext, Operator, layers::ConcurrentLimitLayer};
use opendal_http_transport_reqwest::ReqwestTransport;

use self::paced::PacedTransport;
use super::{Delete, Get, Guarantees, Listed, Pace, Put, StoreError, Trash};
use crate::{
    error::{Context, ExitCode, Failure},
    names::Key,
};

/// How long is waited before the second try, the third, and so on; after the last pause comes the last try.
pub const PAUSES: [Duration; 4] =
    [Duration::from_millis(250), Duration::from_secs(1), Duration::from_secs(4), Duration::from_secs(10)];
/// How many requests are under way at once.
pub const CONCURRENT: usize = 16;
/// How long a service may take for a request without a body.
pub const PATIENCE: Duration = Duration::from_mins(1);
/// The slowest line that is still waited for.
pub const SLOWEST_BYTES_PER_SECOND: u64 = 32 * 1024;
/// How many bytes a get without a range may bring at that speed.
const WHOLE_BYTES_EXPECTED: u64 = 16 * 1024 * 1024;
/// How long a host may take to accept a connection.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
/// Characters of a service's answer that are shown.
const ANSWER_CHARS_MAX: usize = 400;

/// Objects in a service. Clones share the connections.
#[derive(Clone)]
pub struct RemoteStore {
    operator: Operator,
    scheme: String,
    place: String,
}

/// What a service said, without the request's own headers and context that opendal prints before it.
#[derive(Debug)]
struct Answer(String);

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Answer {}

impl RemoteStore {
    /// Opens a service with opendal's own option names; asks nothing of it yet.
    pub fn new(scheme: &str, options: &BTreeMap<String, String>) -> Result<Self, Failure> {
        http_client()?;
        let operator = Operator::via_iter(scheme, options.clone()).map_err(|error| {
            Failure::new(ExitCode::Usage, format!("the settings of store `{scheme}` are not complete"))
                .because(answer(&error))
                .hint("Options have opendal's names: bucket, endpoint, region, root, access_key_id, …")
        })?;
        Ok(Self::over(operator, scheme, place(scheme, options)))
    }

    /// Lets what is put leave at this pace and no faster.
    pub fn paced(mut self, pace: Pace) -> Result<Self, Failure> {
        let transport = HttpTransporter::new(PacedTransport::new(http_client()?, pace));
        self.operator = self.operator.with_context(OperationContext::new().with_http_transport(transport));
        Ok(self)
    }

    fn over(operator: Operator, scheme: &str, place: String) -> Self {
        let operator = operator.layer(ConcurrentLimitLayer::new(CONCURRENT));
        Self { operator, scheme: scheme.to_owned(), place }
    }

    /// Returns where it is, without secrets.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Returns how far the service's promises go.
    pub fn guarantees(&self) -> Guarantees {
        let create_only_is_atomic = self.operator.info().capability().write_with_if_not_exists;
        let mut notes = Vec::new();
        if !create_only_is_atomic {
            let scheme = &self.scheme;
            notes.push(format!(
                "Store `{scheme}` has no create-only write: names are looked up first. Let one host write to it."
            ));
        }
        if self.scheme == "oss" {
            notes.push(
                "OSS ignores create-only writes on a bucket with versioning; older versions stay, though."
                    .to_owned(),
            );
        }
        Guarantees { create_only_is_atomic, notes }
    }

    /// Runs `ask` until it is answered, as often and as long as the limits allow.
    async fn ask<T, F>(&self, at: &str, bytes: u64, ask: impl Fn() -> F) -> Result<T, opendal::Error>
    where
        F: Future<Output = Result<T, opendal::Error>>,
    {
        let mut pauses = PAUSES.iter();
        loop {
            let error = match within(at, bytes, ask()).await {
                Err(error) if error.is_temporary() => error,
                done => return done,
            };
            match pauses.next() {
                Some(pause) => tokio::time::sleep(*pause).await,
                None => return Err(error),
            }
        }
    }

    /// Returns whether a put that failed so may work when it is tried again.
    ///
    /// WebDAV servers that are built on Go's package say 405 to every body that they could not take to its end.
    fn may_pass(&self, error: &opendal::Error) -> bool {
        error.is_temporary() || self.scheme == "webdav" && error.to_string().contains("status: 405")
    }

    /// Sends an object, create-only where the service can; see *Crash, retry* above.
    async fn send(&self, key: &Key, body: &Bytes) -> Result<(), StoreError> {
        let (at, create_only) = (key.as_str(), self.guarantees().create_only_is_atomic);
        let mut answer_was_lost = false;
        let mut pauses = PAUSES.iter();
        loop {
            let write = self.operator.write_with(at, body.clone());
            let write = if create_only { write.if_not_exists(true) } else { write };
            let sent = within(at, body.len() as u64, async move { write.await }).await;
            let Err(error) = sent else { return Ok(()) };
            if matches!(error.kind(), ErrorKind::ConditionNotMatch | ErrorKind::AlreadyExists) {
                let ours = answer_was_lost && self.get(key, None).await? == *body;
                return if ours { Ok(()) } else { Err(StoreError::Exists { key: key.clone() }) };
            }
            // These two refuse before anything is stored.
            answer_was_lost |= !matches!(error.kind(), ErrorKind::RateLimited | ErrorKind::Conflict);
            match pauses.next().filter(|_| self.may_pass(&error)) {
                Some(pause) => tokio::time::sleep(*pause).await,
                None => return Err(sort_put(at, &error)),
            }
        }
    }
}

#[async_trait]
impl Put for RemoteStore {
    async fn put(&self, key: &Key, body: Bytes) -> Result<(), StoreError> {
        if !self.guarantees().create_only_is_atomic && self.size(key).await?.is_some() {
            return Err(StoreError::Exists { key: key.clone() });
        }
        self.send(key, &body).await?;
        // Some services store an object of no bytes, or half of one, and report success.
        match self.size(key).await? {
            Some(size_bytes) if size_bytes == body.len() as u64 => Ok(()),
            found => {
                let found = found.map_or("is not there".to_owned(), |size| format!("has {size} bytes"));
                let text = format!("after a put of {} bytes the object {found}", body.len());
                Err(StoreError::Broken { at: key.to_string(), source: text.into() })
            }
        }
    }
}

#[async_trait]
impl Get for RemoteStore {
    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Bytes, StoreError> {
        let at = key.as_str();
        let missing = || StoreError::NotFound { key: key.clone() };
        let Some(range) = range else {
            let got = self.ask(at, WHOLE_BYTES_EXPECTED, || self.operator.read(at)).await;
            return got.map(|buffer| buffer.to_bytes()).map_err(|error| match error.kind() {
                ErrorKind::NotFound => missing(),
                _ => sort(at, &error),
            });
        };
        let wanted = range.end.saturating_sub(range.start);
        let read = || async { self.operator.read_with(at).range(range.clone()).await };
        let got = if wanted == 0 { Ok(Buffer::new()) } else { self.ask(at, wanted, read).await };
        match got {
            Ok(buffer) if buffer.len() as u64 == wanted && wanted > 0 => return Ok(buffer.to_bytes()),
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(missing()),
            _ => {}
        }
        // Too few bytes, none wanted, or an error that each service words in its own way: the size tells
        // whether the range lies inside.
        let size_bytes = self.size(key).await?.ok_or_else(missing)?;
        if range.end > size_bytes || range.start > range.end {
            return Err(StoreError::Short { key: key.clone(), size_bytes, wanted: range.end });
        }
        match got {
            Ok(buffer) if buffer.len() as u64 == wanted => Ok(Bytes::new()),
            Ok(_) => Err(StoreError::Broken { at: at.to_owned(), source: "it sent too few bytes".into() }),
            Err(error) => Err(sort(at, &error)),
        }
    }

    async fn size(&self, key: &Key) -> Result<Option<u64>, StoreError> {
        match self.ask(key.as_str(), 0, || self.operator.stat(key.as_str())).await {
            Ok(metadata) => Ok(Some(metadata.content_length())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(sort(key.as_str(), &error)),
        }
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Listed>, StoreError> {
        // Not every service can list by a part of a name; all can list a folder.
        let folder = prefix.rfind('/').map_or("", |slash| &prefix[..=slash]);
        let list = || async { self.operator.list_with(folder).recursive(true).await };
        let entries = match self.ask(prefix, WHOLE_BYTES_EXPECTED, list).await {
            Ok(entries) => entries,
            // Folders are real on WebDAV only, where one that nothing was put into is not there yet.
            Err(error) if error.kind() == ErrorKind::NotFound && self.scheme == "webdav" => Vec::new(),
            Err(error) => return Err(sort(prefix, &error)),
        };
        let mut listed = Vec::with_capacity(entries.len());
        for entry in entries {
            let (path, metadata) = entry.into_parts();
            if metadata.is_dir() || !path.starts_with(prefix) {
                continue;
            }
            if let Ok(key) = Key::new(&path) {
                let modified = metadata
                    .last_modified()
                    .and_then(|instant| DateTime::<Utc>::from_timestamp(instant.into_inner().as_second(), 0));
                listed.push(Listed { key, size_bytes: metadata.content_length(), modified });
            }
        }
        listed.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(listed)
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Delete for RemoteStore {
    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        match self.ask(key.as_str(), 0, || self.operator.delete(key.as_str())).await {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(sort(key.as_str(), &error)),
            _ => Ok(()),
        }
    }

    /// Puts are single requests: nothing can be left behind.
    async fn tidy(
        &self,
        _leftovers_before: DateTime<Utc>,
        _trash_before: DateTime<Utc>,
    ) -> Result<u64, StoreError> {
        Ok(0)
    }

    /// What a versioned bucket keeps of deleted objects is the service's own affair.
    async fn trash(&self) -> Result<Trash, StoreError> {
        Ok(Trash::default())
    }
}

/// Gives up on one try after the time that its bytes may take.
async fn within<T>(
    at: &str,
    bytes: u64,
    ask: impl Future<Output = Result<T, opendal::Error>>,
) -> Result<T, opendal::Error> {
    let limit = PATIENCE + Duration::from_secs(bytes / SLOWEST_BYTES_PER_SECOND);
    tokio::time::timeout(limit, ask).await.unwrap_or_else(|_| {
        let text = format!("no answer within {} s", limit.as_secs());
        Err(opendal::Error::new(ErrorKind::Unexpected, text).with_context("path", at).set_temporary())
    })
}

/// Sorts what a service said about a put, which also a lack of room can stop.
fn sort_put(at: &str, error: &opendal::Error) -> StoreError {
    let text = error.to_string();
    let full = ["QuotaExceeded", "StorageFull", "InsufficientStorage", "status: 507"];
    if full.iter().any(|word| text.contains(word)) {
        return StoreError::Full { at: at.to_owned(), source: Box::new(answer(error)) };
    }
    sort(at, error)
}

/// Sorts what a service said.
fn sort(at: &str, error: &opendal::Error) -> StoreError {
    let (at, source) = (at.to_owned(), Box::new(answer(error)));
    match error.kind() {
        ErrorKind::PermissionDenied => StoreError::Denied { at, source },
        // Callers that look for one object have handled its absence: here it is the bucket that is missing.
        ErrorKind::RateLimited | ErrorKind::Conflict | ErrorKind::NotFound => {
            StoreError::Unavailable { at, source }
        }
        _ if error.is_permanent() => StoreError::Broken { at, source },
        _ => StoreError::Unavailable { at, source },
    }
}

/// Returns what the service said: the end of opendal's text, shortened, with the innermost cause.
fn answer(error: &opendal::Error) -> Answer {
    let text = error.to_string();
    let said = text.split_once(" => ").map_or(text.as_str(), |(_, said)| said);
    let mut said: String = said.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut innermost = std::error::Error::source(error);
    while let Some(deeper) = innermost.and_then(std::error::Error::source) {
        innermost = Some(deeper);
    }
    if let Some(cause) = innermost.map(ToString::to_string).filter(|cause| !said.contains(cause)) {
        said = format!("{said}: {cause}");
    }
    if said.chars().count() > ANSWER_CHARS_MAX {
        said = said.chars().take(ANSWER_CHARS_MAX).chain(['…']).collect();
    }
    Answer(said)
}

/// Names the place for a person, without secrets.
pub(super) fn place(scheme: &str, options: &BTreeMap<String, String>) -> String {
    let option = |name: &str| options.get(name).map(String::as_str).filter(|value| !value.is_empty());
    let bucket = option("bucket").unwrap_or_default();
    let root = option("root").map(|root| root.trim_matches('/')).filter(|root| !root.is_empty());
    let inside = root.map_or(bucket.to_owned(), |root| format!("{bucket}/{root}"));
    match option("endpoint") {
        None => format!("{scheme}://{inside}"),
        Some(endpoint) => format!("{scheme}://{inside} at {}", without_login(endpoint)),
    }
}

/// Takes `user:password@` out of a URL.
fn without_login(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let host_ends = rest.find('/').unwrap_or(rest.len());
    let host = rest[..host_ends].rsplit('@').next().unwrap_or_default();
    format!("{scheme}://{host}{}", &rest[host_ends..])
}

/// Gives opendal an HTTPS client that uses `ring` and does not wait for ever, once per process, and returns it.
fn http_client() -> Result<&'static reqwest::Client, Failure> {
    static DONE: OnceLock<Result<reqwest::Client, reqwest::Error>> = OnceLock::new();
    let done = DONE.get_or_init(|| {
        // Already installed by another module: that one is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        opendal::install_default();
        let client = reqwest::Client::builder().connect_timeout(CONNECT_PATIENCE).build()?;
        HttpTransporter::install_default(ReqwestTransport::new(client.clone()));
        Ok(client)
    });
    done.as_ref().failed(ExitCode::Failed, || "no HTTPS client could be made".to_owned())
}

#[cfg(test)]
mod tests;
