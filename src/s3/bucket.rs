//! A bucket's own settings: read as the server writes them, set again in the order that harms nothing.
//!
//! Settings are kept as the server's own documents (XML, the policy's JSON), so that what this program does
//! not understand is kept too, and `curl` or `mc` can use them without it.
//!
//! *Order.* A bucket is created (with locks where it had them) before its objects, and so is its encryption set,
//! which is for what is written from then on. Everything else is set after them: a policy could forbid our own
//! writing, queues would be told of what is no news, a default retention would lock what is being restored, and
//! lifecycle rules come last of all, or they would expire old objects as soon as they arrive.

use std::collections::BTreeMap;

use aws_sdk_s3::{
    config::http::HttpRequest,
    error::ProvideErrorMetadata,
    primitives::SdkBody,
    types::{
        BucketLocationConstraint, BucketVersioningStatus, CreateBucketConfiguration, VersioningConfiguration,
    },
};
use bytes::Bytes;
use serde_json::{Map, Value};

use super::{
    capture::{self, Capture},
    client::{CallError, Server, Told, md5_alone},
    facts::bucket_path,
    guard,
};
use crate::{
    error::{Context, ExitCode, Failure, Result},
    flow::{EntryMeta, Stage},
};

/// The settings that are documents, in the order in which they are set again.
const DOCUMENTS: [&str; 5] = ["tags", "cors", "policy", "lock", LIFECYCLE];
/// The lifecycle rules among them.
const LIFECYCLE: &str = "lifecycle";

/// What is kept of a bucket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Settings {
    /// `Enabled` or `Suspended`; none where versions were never kept.
    pub(super) versioning: Option<String>,
    /// The documents by name; `None` where the server says that there is none. What the server does not
    /// know or does not show us is not here at all.
    pub(super) documents: BTreeMap<String, Option<String>>,
    /// Settings that exist and could not be read, with the reason.
    pub(super) unread: Vec<(&'static str, String)>,
    /// Settings that the server does not know at all.
    pub(super) unknown: Vec<&'static str>,
}

impl Settings {
    /// Makes the bucket's entry.
    pub(super) fn entry(&self, bucket: &str) -> Result<EntryMeta> {
        let mut meta = EntryMeta::new(bucket_path(bucket)?, Stage::Schema, bucket)
            .with("bucket", bucket)
            .with("versioning", self.versioning.clone());
        meta.container = true;
        Ok(meta)
    }

    /// Writes the settings as JSON that a person can read.
    pub(super) fn to_json(&self) -> Bytes {
        let mut object: Map<String, Value> =
            self.documents.iter().map(|(name, text)| (name.clone(), text.clone().into())).collect();
        object.insert("versioning".to_owned(), self.versioning.clone().into());
        let mut text = format!("{:#}", Value::Object(object));
        text.push('\n');
        text.into()
    }

    /// Reads what [`Self::to_json`] wrote.
    pub(super) fn from_json(bucket: &str, bytes: &[u8]) -> Result<Self> {
        let mut documents: BTreeMap<String, Option<String>> = serde_json::from_slice(bytes)
            .failed(ExitCode::Damage, || format!("the settings of bucket `{bucket}` are no JSON"))?;
        let versioning = documents.remove("versioning").flatten();
        Ok(Self { versioning, documents, unread: Vec::new(), unknown: Vec::new() })
    }

    /// Returns whether the bucket can lock objects, which is decided when it is created.
    fn has_lock(&self) -> bool {
        self.document("lock").is_some()
    }

    fn document(&self, name: &str) -> Option<&str> {
        self.documents.get(name).and_then(Option::as_deref)
    }

    /// Returns the lifecycle rules.
    pub(super) fn rules(&self) -> Option<&str> {
        self.document(LIFECYCLE)
    }
}

/// Returns the names of all buckets that the credentials show, sorted.
pub(super) async fn list(server: &Server) -> Result<Vec<String>> {
    let (mut names, mut token) = (Vec::new(), None::<String>);
    loop {
        let page = server.client.list_buckets().set_continuation_token(token.clone()).send().await;
        let page = page.map_err(|error| server.failure("list the buckets", error))?;
        names.extend(page.buckets().iter().filter_map(|bucket| bucket.name()).map(str::to_owned));
        let next = page.continuation_token().filter(|next| !next.is_empty()).map(str::to_owned);
        if next.is_none() || next == token {
            names.sort();
            return Ok(names);
        }
        token = next;
    }
}

/// Returns whether the bucket is there.
///
/// A listing and not a HEAD: only an answer with a body says why it is refused.
pub(super) async fn exists(server: &Server, name: &str) -> Result<bool> {
    match server.client.list_objects_v2().bucket(name).max_keys(1).send().await {
        Ok(_) => Ok(true),
        Err(error) if Told::from(&error).is_some_and(|told| told.is_absent()) => Ok(false),
        Err(error) => Err(server.failure(&format!("look for bucket `{name}`"), error)),
    }
}

/// Fails when the bucket is not there.
pub(super) async fn require(server: &Server, name: &str) -> Result<()> {
    let asked = server.client.list_objects_v2().bucket(name).max_keys(1).send().await;
    asked.map(drop).map_err(|error| server.failure(&format!("read bucket `{name}`"), error))
}

/// Creates a bucket that is not there.
pub(super) async fn create(server: &Server, name: &str, region: &str, settings: &Settings) -> Result<()> {
    // `us-east-1` is the default and must not be named.
    let place = (region != "us-east-1").then(|| {
        let constraint = BucketLocationConstraint::from(region);
        CreateBucketConfiguration::builder().location_constraint(constraint).build()
    });
    let request = server
        .client
        .create_bucket()
        .bucket(name)
        .set_create_bucket_configuration(place)
        .set_object_lock_enabled_for_bucket(settings.has_lock().then_some(true));
    match request.send().await {
        Ok(_) => Ok(()),
        Err(error) if error.code() == Some("BucketAlreadyOwnedByYou") => Ok(()),
        Err(error) => Err(server.failure(&format!("create bucket `{name}`"), error)),
    }
}

/// Asks for one document and returns it as the server wrote it.
macro_rules! document {
    ($server:expr, $bucket:expr, $call:ident) => {{
        let capture = Capture::default();
        let request = $server.client.$call().bucket($bucket);
        match request.customize().interceptor(capture.clone()).send().await {
            Ok(_) => Ok(capture.text()),
            Err(error) => Err(Reason::of($server, $bucket, error)?),
        }
    }};
}

/// Why there is no document.
enum Reason {
    None,
    NotKnown,
    Refused(String),
}

impl Reason {
    /// Tells it from an error; a server that is gone or a bucket that is gone ends the run.
    fn of<E>(server: &Server, bucket: &str, error: CallError<E>) -> Result<Self>
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        match Told::from(&error) {
            Some(told) if told.code == "NoSuchBucket" || told.is_about_credentials() => {}
            // A server that ignores the question answers another one, with a success that nobody can read.
            Some(told) if told.is_unknown_request() || told.status < 300 => return Ok(Self::NotKnown),
            Some(told) if told.is_absent() => return Ok(Self::None),
            Some(told) => return Ok(Self::Refused(told.text())),
            None => {}
        }
        Err(server.failure(&format!("read the settings of bucket `{bucket}`"), error))
    }
}

/// Reads all settings of a bucket.
pub(super) async fn read(server: &Server, bucket: &str) -> Result<Settings> {
    let mut settings = Settings::default();
    match server.client.get_bucket_versioning().bucket(bucket).send().await {
        Ok(answer) => settings.versioning = answer.status().map(|status| status.as_str().to_owned()),
        Err(error) => match Reason::of(server, bucket, error)? {
            Reason::None => {}
            Reason::NotKnown => settings.unknown.push("versioning"),
            Reason::Refused(why) => settings.unread.push(("versioning", why)),
        },
    }
    let policy = match server.client.get_bucket_policy().bucket(bucket).send().await {
        Ok(answer) => Ok(answer.policy().unwrap_or_default().to_owned()),
        Err(error) => Err(Reason::of(server, bucket, error)?),
    };
    let read = [
        ("policy", "", policy),
        ("tags", "<Tagging", document!(server, bucket, get_bucket_tagging)),
        ("cors", "<CORSConfiguration", document!(server, bucket, get_bucket_cors)),
        ("lock", "<ObjectLockConfiguration", document!(server, bucket, get_object_lock_configuration)),
        (LIFECYCLE, "<LifecycleConfiguration", document!(server, bucket, get_bucket_lifecycle_configuration)),
        (
            "encryption",
            // Ceph answers with one that holds no rule.
            "<Rule",
            document!(server, bucket, get_bucket_encryption),
        ),
        (
            "notification",
            "<NotificationConfiguration",
            document!(server, bucket, get_bucket_notification_configuration),
        ),
    ];
    for (name, root, outcome) in read {
        match outcome {
            // None is told by an empty document.
            Ok(text) if name == "notification" && capture::is_childless(&text) => {
                settings.documents.insert(name.to_owned(), None);
            }
            Ok(text) if text.trim().is_empty() || !text.contains(root) => {}
            Ok(text) => drop(settings.documents.insert(name.to_owned(), Some(text))),
            Err(Reason::None) => drop(settings.documents.insert(name.to_owned(), None)),
            Err(Reason::NotKnown) => settings.unknown.push(name),
            Err(Reason::Refused(why)) => settings.unread.push((name, why)),
        }
    }
    Ok(settings)
}

/// Sends a document in the place of the request's own.
macro_rules! set_document {
    ($server:expr, $bucket:expr, $call:ident, $text:expr) => {{
        let text = $text.to_owned();
        let request = $server.client.$call().bucket($bucket).customize();
        let sent = request.mutate_request(move |request| replace_body(request, &text)).send().await;
        sent.map(drop)
            .map_err(|error| $server.failure(&format!("set a setting of bucket `{}`", $bucket), error))
    }};
}

fn replace_body(request: &mut HttpRequest, text: &str) {
    *request.body_mut() = SdkBody::from(text);
    request.headers_mut().insert("content-length", text.len().to_string());
    md5_alone(request);
}

/// Returns the rules of a bucket if any of them is of a date; or why they may not be looked at.
pub(super) async fn dated_rules(server: &Server, bucket: &str) -> Result<Result<Option<String>, String>> {
    Ok(match document!(server, bucket, get_bucket_lifecycle_configuration) {
        Ok(rules) => Ok(Some(rules).filter(|rules| rules.contains("<Date>"))),
        Err(Reason::None | Reason::NotKnown) => Ok(None),
        Err(Reason::Refused(why)) => Err(why),
    })
}

/// Takes the rules of a bucket away. Whoever does so has noted them before.
pub(super) async fn stop_lifecycle(server: &Server, bucket: &str) -> Result<()> {
    if let Err(error) = server.client.delete_bucket_lifecycle().bucket(bucket).send().await
        && let Reason::Refused(why) = Reason::of(server, bucket, error)?
    {
        let what = format!("the lifecycle rules of bucket `{bucket}` cannot be taken away");
        return Err(Failure::new(ExitCode::SourceDown, what)
            .because(why)
            .hint("They could expire objects while they are restored; remove them by hand first."));
    }
    Ok(())
}

/// Gives a bucket the rules back that [`stop_lifecycle`] took.
pub(super) async fn put_lifecycle_back(server: &Server, bucket: &str, rules: &str) -> Result<()> {
    set(server, bucket, LIFECYCLE, rules).await
}

/// What became of a bucket's documents.
pub(super) struct Applied {
    /// A failure for each one that the server refused.
    pub(super) refused: Vec<Failure>,
    /// Whether the lifecycle rules, or that there are none, are now those of the snapshot.
    pub(super) has_rules: bool,
}

/// Sets the settings that are documents.
///
/// `cleared` takes away documents that the snapshot knows not to have been there.
pub(super) async fn apply(server: &Server, bucket: &str, settings: &Settings, cleared: bool) -> Applied {
    let mut applied = Applied { refused: Vec::new(), has_rules: false };
    for name in DOCUMENTS {
        let done = match settings.documents.get(name) {
            Some(Some(text)) => set(server, bucket, name, text).await,
            Some(None) if cleared => clear(server, bucket, name).await,
            _ => continue,
        };
        applied.has_rules |= name == LIFECYCLE && done.is_ok();
        applied.refused.extend(done.err());
    }
    applied
}

/// Sets whether a bucket keeps versions.
pub(super) async fn set_versioning(
    server: &Server,
    bucket: &str,
    status: &BucketVersioningStatus,
) -> Result<()> {
    let versioning = VersioningConfiguration::builder().status(status.clone()).build();
    let request = server.client.put_bucket_versioning().bucket(bucket).versioning_configuration(versioning);
    let sent = request.customize().mutate_request(md5_alone).send().await;
    sent.map(drop).map_err(|error| server.failure(&format!("set versioning of bucket `{bucket}`"), error))
}

/// Returns whether a bucket keeps what is overwritten and removed in it, and did so: `None` where it never did.
pub(super) async fn versioning(server: &Server, bucket: &str) -> Result<Option<BucketVersioningStatus>> {
    let asked = server.client.get_bucket_versioning().bucket(bucket).send().await;
    let answer =
        asked.map_err(|error| server.failure(&format!("ask for versioning of bucket `{bucket}`"), error))?;
    Ok(answer.status().cloned())
}

/// Makes a bucket keep versions that does not; fails where the server does not. Whoever does so has noted what it did.
pub(super) async fn keep_versions(server: &Server, bucket: &str) -> Result<()> {
    set_versioning(server, bucket, &BucketVersioningStatus::Enabled).await?;
    if versioning(server, bucket).await? == Some(BucketVersioningStatus::Enabled) {
        return Ok(());
    }
    let what = format!("bucket `{bucket}` keeps no versions, and the snapshot has some of its objects");
    Err(Failure::new(ExitCode::SourceDown, what)
        .because("the server took the setting and did not keep it")
        .hint("Restore to another server, or what each key showed alone, with --only."))
}

/// Sets how what is written from now on is encrypted. That of a bucket is never taken away.
///
/// A server takes the name of a key that it has not, and then refuses each object. So one is written and removed; where
/// that is refused the bucket gets back what it had.
pub(super) async fn set_encryption(server: &Server, bucket: &str, settings: &Settings) -> Result<()> {
    let Some(text) = settings.document("encryption") else { return Ok(()) };
    let before = document!(server, bucket, get_bucket_encryption);
    set(server, bucket, "encryption", text).await?;
    let Err(why) = guard::try_object(server, bucket).await? else { return Ok(()) };
    let has_rule = |document: &String| document.contains("<Rule");
    let now = document!(server, bucket, get_bucket_encryption);
    match (before.ok().filter(has_rule), now.ok().filter(has_rule)) {
        (Some(before), _) => set(server, bucket, "encryption", &before).await?,
        // A server that does not know this part of a bucket takes its removal for that of the bucket.
        (None, None) => {}
        (None, Some(_)) => clear(server, bucket, "encryption").await?,
    }
    let what =
        format!("the encryption of bucket `{bucket}` was not restored: nothing can be written with it there");
    Err(Failure::new(ExitCode::SourceDown, what).because(why))
}

/// Sets whom the bucket tells of its objects; `cleared` as in [`apply`].
pub(super) async fn set_notification(
    server: &Server,
    bucket: &str,
    settings: &Settings,
    cleared: bool,
) -> Result<()> {
    const NOBODY: &str = "<NotificationConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"/>";
    match settings.documents.get("notification") {
        Some(Some(text)) => set(server, bucket, "notification", text).await,
        Some(None) if cleared => set(server, bucket, "notification", NOBODY).await,
        _ => Ok(()),
    }
}

async fn set(server: &Server, bucket: &str, name: &str, text: &str) -> Result<()> {
    match name {
        "tags" => set_document!(server, bucket, put_bucket_tagging, text),
        "cors" => set_document!(server, bucket, put_bucket_cors, text),
        "lock" => set_document!(server, bucket, put_object_lock_configuration, text),
        LIFECYCLE => set_document!(server, bucket, put_bucket_lifecycle_configuration, text),
        "encryption" => set_document!(server, bucket, put_bucket_encryption, text),
        "notification" => {
            set_document!(server, bucket, put_bucket_notification_configuration, text)
        }
        _ => {
            let request = server.client.put_bucket_policy().bucket(bucket).policy(text);
            let sent = request.customize().mutate_request(md5_alone).send().await;
            sent.map(drop)
                .map_err(|error| server.failure(&format!("set the policy of bucket `{bucket}`"), error))
        }
    }
}

async fn clear(server: &Server, bucket: &str, name: &str) -> Result<()> {
    macro_rules! delete {
        ($call:ident) => {
            match server.client.$call().bucket(bucket).send().await {
                Ok(_) => Ok(()),
                Err(error) => match Reason::of(server, bucket, error)? {
                    Reason::None | Reason::NotKnown => Ok(()),
                    Reason::Refused(why) => {
                        let what = format!("failed to take away the {name} of bucket `{bucket}`");
                        Err(Failure::new(ExitCode::SourceDown, what).because(why))
                    }
                },
            }
        };
    }
    match name {
        "tags" => delete!(delete_bucket_tagging),
        "cors" => delete!(delete_bucket_cors),
        "policy" => delete!(delete_bucket_policy),
        LIFECYCLE => delete!(delete_bucket_lifecycle),
        "encryption" => delete!(delete_bucket_encryption),
        // A bucket's lock can never be taken away, only its default retention, which is a rule of its own.
        _ => Ok(()),
    }
}

/// Returns the policy with one bucket's name in the place of another's.
pub(super) fn rename_in_policy(policy: &str, from: &str, to: &str) -> String {
    policy
        .replace(&format!(":::{from}/"), &format!(":::{to}/"))
        .replace(&format!(":::{from}\""), &format!(":::{to}\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_survive_their_json_and_absent_is_not_unknown() {
        let mut settings = Settings { versioning: Some("Enabled".to_owned()), ..Settings::default() };
        settings.documents.insert("policy".to_owned(), Some("{\"a\":1}".to_owned()));
        settings.documents.insert("cors".to_owned(), None);
        let again = Settings::from_json("b", &settings.to_json()).unwrap();
        assert_eq!(again, settings);
        assert!(again.documents.contains_key("cors") && !again.documents.contains_key("lifecycle"));
    }

    #[test]
    fn a_policy_follows_its_bucket_and_no_other() {
        let policy = r#"["arn:aws:s3:::a","arn:aws:s3:::a/*","arn:aws:s3:::ab/*"]"#;
        let renamed = r#"["arn:aws:s3:::x","arn:aws:s3:::x/*","arn:aws:s3:::ab/*"]"#;
        assert_eq!(rename_in_policy(policy, "a", "x"), renamed);
    }
}
