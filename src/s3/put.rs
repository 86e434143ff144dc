//! One object written: in one request when it is small, in parts when it is big, and checked.
//!
//! *Order.* Bytes are gathered up to the size of a part; if the body ends there, one PUT carries it, else a
//! multipart upload that becomes visible only when it is completed. An object that was made in parts is made in
//! parts of the same size again, so that its `ETag` is the same. Each request carries its MD5, and the `ETag`
//! that comes back is compared.
//!
//! *Versions.* A version that is written only where it is the last of its key ([`Tentative`]) waits when it came whole,
//! those of an upload in parts before it is completed.
//!
//! *Others.* An object is written only where still stands what was seen there; see [`super::guard`].
//!
//! *Crash.* An upload that is not completed is aborted, also when its task is stopped; when the whole
//! process dies its parts stay until the next restore from this host sweeps them ([`super::uploads`]). A reader of
//! the bucket never sees half an object.
//!
//! *Limits.* A part of at most [`PART_BYTES_MAX`] is in memory for each object; of an object too long for that,
//! one of the ten thousand parts that S3 allows.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use aws_sdk_s3::{
    error::{ProvideErrorMetadata, SdkError},
    primitives::{ByteStream, DateTime as SdkTime},
    types::{CompletedMultipartUpload, CompletedPart},
};
use bytes::Bytes;
use chrono::DateTime;
use md5::{Digest, Md5};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::sync::oneshot;

use super::{
    client::{CallError, Server, Told},
    facts::{Facts, dress, tags_of},
    gather::{Gather, torn_why},
    guard::{CHANGED, Conditions, Guard},
    layout::{PART_SIZE, PARTS_MAX, likely},
    listing::{bare, is_md5},
    uploads::{Upload, Uploads},
    versions,
};
use crate::{
    error::{ExitCode, Failure},
    flow::{Attrs, Entry, EntryMeta, FlowResult, TORN},
};

/// Bytes of one request's body, where nothing asks for others; what is longer goes in parts.
const PART_BYTES: u64 = 16 << 20;
/// Bytes that a part must have, if it is not the last.
const PART_BYTES_MIN: u64 = 5 << 20;
/// Bytes of a request's body up to which an object gets the `ETag` that it had, whole or in parts.
const PART_BYTES_MAX: u64 = 64 << 20;

/// The header that names a storage class.
const CLASS: &str = "x-amz-storage-class";
/// Classes of objects that cannot be read before they were fetched, which may take hours: nothing is restored to them.
const ARCHIVES: [&str; 2] = ["GLACIER", "DEEP_ARCHIVE"];

/// Writes objects to one server.
#[derive(Clone)]
pub(super) struct Putter {
    /// The server.
    pub(super) server: Server,
    /// Whether the first object with tags was looked at again.
    tags_tried: Arc<AtomicBool>,
    /// Whether the server took tags and did not keep them.
    tags_lost: Arc<AtomicBool>,
    /// Storage classes that the server has not.
    no_classes: Arc<Mutex<BTreeSet<String>>>,
    /// Where uploads in parts are noted.
    uploads: Uploads,
}

/// How writing one object ended.
pub(super) enum Done {
    /// It was written and checked.
    Written {
        /// Its size.
        bytes: u64,
        /// Whether it took nothing's place: the key showed nothing, or the bucket keeps what it showed.
        is_new: bool,
        /// `bucket/key`, where it may have had tags that the snapshot does not have.
        untagged: Option<String>,
    },
    /// The very same object was there.
    Same {
        /// Its size.
        bytes: u64,
    },
    /// The bucket keeps no versions, and another of its key follows.
    LeftOut {
        /// The bucket.
        bucket: String,
    },
    /// It was left out with another of its key, which was told.
    Shut,
    /// The server does not take it, or the snapshot has not all of it.
    Refused {
        /// `bucket/key`.
        what: String,
        /// The reason.
        why: String,
    },
}

/// One object to be written.
pub(super) struct Job {
    /// The bucket that it goes to.
    pub(super) bucket: String,
    /// Its key.
    pub(super) key: String,
    /// The entry.
    pub(super) entry: Entry,
    /// What stands there, as far as it was looked at.
    pub(super) there: There,
    /// The id of the version that the key showed before any of its versions was written, where it is known.
    pub(super) shown: Option<String>,
    /// What the server does for us.
    pub(super) conditions: Conditions,
    /// Comes when the version before it is written, or is not: what must still hold then.
    pub(super) turn: Option<oneshot::Receiver<Guard>>,
    /// Waits for the same.
    pub(super) next: Option<oneshot::Sender<Guard>>,
    /// Whether the bucket is known to keep versions, so that writing makes one more.
    pub(super) is_kept: bool,
    /// What it waits for before it becomes visible.
    pub(super) tentative: Option<Tentative>,
}

/// The wait of a version that is written only where it is the last that is wanted of its key.
#[derive(Debug)]
pub(super) struct Tentative {
    /// Tells whether it is; closed means no.
    pub(super) is_last: oneshot::Receiver<bool>,
    /// Whether it stands among the versions of its key already.
    pub(super) is_there: bool,
    /// Whether it may take the place of what the key shows.
    pub(super) may_replace: bool,
}

/// Why a version of a key was left out whose newest one did not come.
pub(super) const NEWEST_LACKS: &str =
    "the newest version is not in the snapshot, and an older one would hide what the key shows";

/// What stands where an object goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum There {
    /// Nothing.
    Nothing,
    /// An object with this `ETag`.
    Object(String),
    /// Nobody looked.
    Unknown,
    /// The very same, among the versions of its key.
    Same,
    /// What the version before it left there, when it was written or was not.
    Older,
}

impl Job {
    /// Returns the most bytes that are in memory of it at a time, and whether it is made of parts however short it is.
    pub(super) fn cut(&self) -> (u64, bool) {
        let number = |attrs: &Attrs, name: &str| attrs.get(name).and_then(serde_json::Value::as_u64);
        let Some(size) = number(&self.entry.meta.attrs, "size") else { return (PART_BYTES, false) };
        let known = number(self.entry.body.foretold(), PART_SIZE);
        cut(size, self.entry.meta.text("etag").unwrap_or_default(), known)
    }

    /// Returns what it is called.
    fn name(&self) -> String {
        name_of(&self.bucket, &self.key, &self.entry.meta)
    }

    /// Waits until it is known that it may be written, if that is not known yet.
    async fn clear(&mut self, guard: &Guard) -> Result<(), Not> {
        let Some(tentative) = self.tentative.take() else { return Ok(()) };
        if !tentative.is_last.await.unwrap_or(false) {
            return Err(Not::Last { is_there: tentative.is_there });
        }
        if tentative.may_replace || *guard == Guard::Absent {
            return Ok(());
        }
        Err(Not::Refused(NEWEST_LACKS.to_owned()))
    }

    /// Ends the run where writing made no version of its own: what is written next would take the place of one.
    fn made_version(&self, id: Option<&str>) -> FlowResult<()> {
        if !self.is_kept || id.is_some_and(|id| !id.is_empty() && id != "null") {
            return Ok(());
        }
        let what = format!("bucket `{}` no longer keeps what is overwritten in it", self.bucket);
        Err(Failure::new(ExitCode::SourceDown, what)
            .because(format!("writing `{}` made no version of its own", self.key.escape_debug()))
            .hint("See who changed its versioning. The restore was ended there; run again it goes on.")
            .into())
    }
}

/// Returns the size of the parts that an object of this size is made in, and whether it is made of parts however short
/// it is; `known` is the size that its parts had.
fn cut(size: u64, etag: &str, known: Option<u64>) -> (u64, bool) {
    let least = size.div_ceil(PARTS_MAX);
    // Most servers refuse short parts, but for the last.
    let is_taken =
        |part: &u64| (least..=PART_BYTES_MAX).contains(part) && (*part >= PART_BYTES_MIN || *part >= size);
    match known.or_else(|| likely(etag, size)).filter(is_taken) {
        Some(part_bytes) => (part_bytes.max(1), true),
        None if is_md5(etag) && size <= PART_BYTES_MAX => (size.max(PART_BYTES), false),
        None => (least.max(PART_BYTES), false),
    }
}

/// Returns the storage class that may be why a request was refused: AWS says so, Ceph 16 says `InvalidArgument`, and
/// others that they have no such thing.
fn refused_class<T, E: ProvideErrorMetadata>(
    sent: &Result<T, CallError<E>>,
    headers: &[(String, String)],
) -> Option<String> {
    let told = Told::from(sent.as_ref().err()?)?;
    let is_about_it = ["InvalidStorageClass", "InvalidArgument", "NotImplemented"]
        .contains(&told.code.as_str())
        || told.status == 501;
    headers.iter().find(|(name, _)| is_about_it && name == CLASS).map(|(_, class)| class.clone())
}

fn without_class(mut headers: Vec<(String, String)>) -> Vec<(String, String)> {
    headers.retain(|(name, _)| name != CLASS);
    headers
}

/// Why an object was not written.
enum Not {
    /// The server does not take it, or it must not be written.
    Refused(String),
    /// It was written, and is not what was sent.
    Damaged(String),
    /// Somebody else wrote it.
    Changed,
    /// Another version of its key follows.
    Last {
        /// Whether it stands there already.
        is_there: bool,
    },
}

/// An error of the run, or why this one object was not written.
type PutResult<T> = FlowResult<Result<T, Not>>;

fn refused<T>(why: impl Into<String>) -> Result<T, Not> {
    Err(Not::Refused(why.into()))
}

/// Tells of an object that was not written, after reading the rest of its body, so that its sender is not told that we
/// are gone.
async fn refuse(mut job: Job, mut bytes: Gather, why: String) -> FlowResult<Done> {
    bytes.rest(&mut job.entry.body).await?;
    Ok(Done::Refused { what: job.name(), why })
}

impl Putter {
    /// Makes one for a server.
    pub(super) fn new(server: &Server, uploads: Uploads) -> Self {
        Self {
            server: server.clone(),
            tags_tried: Arc::default(),
            tags_lost: Arc::default(),
            no_classes: Arc::default(),
            uploads,
        }
    }

    /// Returns whether the server was seen to lose tags.
    pub(super) fn loses_tags(&self) -> bool {
        self.tags_lost.load(Ordering::Relaxed)
    }

    /// Returns the storage classes that the server was seen not to have.
    pub(super) fn refused_classes(&self) -> BTreeSet<String> {
        self.no_classes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns the header for the object's storage class, where it is one whose objects can be read at once and the
    /// server is not known to lack it.
    fn class(&self, job: &Job) -> Option<(String, String)> {
        let class = job.entry.meta.text("storage_class").filter(|class| !ARCHIVES.contains(class))?;
        (!self.refused_classes().contains(class)).then(|| (CLASS.to_owned(), class.to_owned()))
    }

    /// Writes one object, after the one that it waits for.
    pub(super) async fn put(self, mut job: Job) -> FlowResult<Done> {
        let next = job.next.take();
        let left = match job.turn.take() {
            // Who went away without a word has failed and ends the run.
            Some(turn) => turn.await.unwrap_or(Guard::Broken),
            None => Guard::None,
        };
        let (done, left) = self.put_behind(job, left).await?;
        if let Some(next) = next {
            // The last version of a key has none behind it.
            next.send(left).ok();
        }
        Ok(done)
    }

    /// Writes one object where the version before it left this to hold; returns what it leaves to the next.
    async fn put_behind(&self, mut job: Job, left: Guard) -> FlowResult<(Done, Guard)> {
        let facts = Facts::of_attrs(&job.entry.meta.attrs);
        let mut bytes = Gather::new(job.cut().0);
        let guard = match self.stands(&job, &facts, &left).await? {
            Stands::Same => {
                bytes.rest(&mut job.entry.body).await?;
                return Ok((Done::Same { bytes: bytes.size_bytes }, left));
            }
            Stands::Else(Guard::Broken) => {
                bytes.rest(&mut job.entry.body).await?;
                return Ok((Done::Shut, Guard::Broken));
            }
            Stands::Else(guard) => guard,
        };
        Ok(match self.write(&mut job, &mut bytes, &facts, &guard).await? {
            Ok(()) => {
                self.check_tags(&job, &facts).await?;
                let is_new = guard == Guard::Absent || job.is_kept;
                let untagged = facts.tags_unread.as_ref().map(|_| job.name());
                (Done::Written { bytes: bytes.size_bytes, is_new, untagged }, Guard::None)
            }
            Err(Not::Damaged(why)) => (refuse(job, bytes, why).await?, Guard::None),
            Err(Not::Changed) => (refuse(job, bytes, CHANGED.to_owned()).await?, Guard::Broken),
            // What was to hold is then for the next to look at.
            Err(Not::Refused(why)) => {
                let why = self.show_again(&job, &guard, why).await;
                (refuse(job, bytes, why).await?, guard)
            }
            Err(Not::Last { is_there }) => {
                bytes.rest(&mut job.entry.body).await?;
                let bytes = bytes.size_bytes;
                (if is_there { Done::Same { bytes } } else { Done::LeftOut { bucket: job.bucket } }, guard)
            }
        })
    }

    /// Shows again what a key showed, where the newest of its versions is refused and older ones were put over that;
    /// returns why it was refused, and what became of the key.
    async fn show_again(&self, job: &Job, guard: &Guard, why: String) -> String {
        let is_newest = ["key", versions::LATEST].iter().any(|name| job.entry.meta.attrs.contains_key(*name));
        // Where the one before left nothing to look at it was written.
        let is_over = job.there == There::Older && *guard == Guard::None;
        let Some(shown) = job.shown.as_ref().filter(|_| is_newest && is_over) else {
            return why;
        };
        let name = utf8_percent_encode(&format!("{}/{}", job.bucket, job.key), NON_ALPHANUMERIC).to_string();
        let source = format!("{}?versionId={shown}", name.replace("%2F", "/"));
        let copy = self.server.client.copy_object().bucket(&job.bucket).key(&job.key).copy_source(source);
        let Err(error) = copy.send().await else {
            return format!("{why}; older versions were written, and what the key showed is shown again");
        };
        let failure = self.server.failure("copy what the key showed", error);
        format!("{why}; the key shows an older version: {}", failure.one_line())
    }

    /// Writes what is not there.
    async fn write(&self, job: &mut Job, bytes: &mut Gather, facts: &Facts, guard: &Guard) -> PutResult<()> {
        if versions::is_marker(&job.entry.meta) {
            return self.put_marker(job, guard).await;
        }
        let headers = match facts.request_headers() {
            Ok(headers) => headers.into_iter().chain(self.class(job)).collect(),
            Err(why) => return Ok(refused(why)),
        };
        let first = bytes.part(&mut job.entry.body).await?.unwrap_or_default();
        if bytes.ended && bytes.buffer.is_empty() && !job.cut().1 {
            return match bytes.check(&job.entry) {
                Ok(()) => match job.clear(guard).await {
                    Ok(()) => self.put_whole(job, first, headers, guard).await,
                    Err(not) => Ok(Err(not)),
                },
                Err(why) => Ok(refused(why)),
            };
        }
        self.put_in_parts(job, bytes, first, (headers, guard)).await
    }

    /// Returns whether the object stands there with these bytes and these facts, and what else does.
    async fn stands(&self, job: &Job, facts: &Facts, left: &Guard) -> FlowResult<Stands> {
        let attrs = &job.entry.meta.attrs;
        match &job.there {
            There::Nothing => return Ok(Stands::Else(Guard::Absent)),
            There::Same => return Ok(Stands::Same),
            There::Older => return Ok(Stands::Else(left.clone())),
            There::Object(etag) if job.entry.meta.text("etag") != Some(etag) => {
                return Ok(Stands::Else(Guard::Is(etag.clone())));
            }
            There::Object(_) | There::Unknown => {}
        }
        let answer = match self.server.client.head_object().bucket(&job.bucket).key(&job.key).send().await {
            Ok(answer) => answer,
            Err(error) => match Told::from(&error) {
                Some(told) if told.is_absent() => return Ok(Stands::Else(Guard::Absent)),
                Some(told) if told.status < 500 => return Ok(Stands::Else(Guard::None)),
                _ => return Err(self.server.failure("look at an object", error).into()),
            },
        };
        let guard = match (&job.there, answer.e_tag()) {
            // What was written since it was listed is not ours to replace.
            (There::Object(etag), _) => Guard::Is(etag.clone()),
            (_, Some(etag)) => Guard::Is(bare(etag)),
            (_, None) => Guard::None,
        };
        let size = answer.content_length().and_then(|length| u64::try_from(length).ok());
        let same_bytes = answer.e_tag().map(bare).as_deref() == job.entry.meta.text("etag")
            && size == attrs.get("size").and_then(serde_json::Value::as_u64);
        let mut there = Facts::of_head(&answer);
        if !same_bytes || !there.looks_like(facts) {
            return Ok(Stands::Else(guard));
        }
        let tags = self.server.client.get_object_tagging().bucket(&job.bucket).key(&job.key);
        if facts.tags_unread.is_none()
            && let Ok(answer) = tags.send().await
        {
            there.tags = tags_of(answer.tag_set());
        }
        Ok(if there.same_as(facts) { Stands::Same } else { Stands::Else(guard) })
    }

    /// Hides a key by a delete marker, in a bucket that is known to keep versions.
    async fn put_marker(&self, job: &mut Job, guard: &Guard) -> PutResult<()> {
        if let Err(not) = job.clear(guard).await {
            return Ok(Err(not));
        }
        if !guard.look(&self.server, &job.bucket, &job.key).await? {
            return Ok(Err(Not::Changed));
        }
        match self.server.client.delete_object().bucket(&job.bucket).key(&job.key).send().await {
            Ok(answer) if answer.delete_marker() == Some(true) => {
                job.made_version(answer.version_id()).map(Ok)
            }
            Ok(_) => Ok(refused("the server made no delete marker of it")),
            Err(error) => self.refusal("write a delete marker", error),
        }
    }

    async fn put_whole(
        &self,
        job: &Job,
        bytes: Bytes,
        mut headers: Vec<(String, String)>,
        guard: &Guard,
    ) -> PutResult<()> {
        let (md5, size_bytes) = (hex::encode(Md5::digest(&bytes)), bytes.len() as u64);
        let condition = job.conditions.header(guard);
        if condition.is_none() && !guard.look(&self.server, &job.bucket, &job.key).await? {
            return Ok(Err(Not::Changed));
        }
        headers.extend(condition.clone());
        let since = self.server.date();
        let send = async |headers| {
            let request = self.server.client.put_object().bucket(&job.bucket).key(&job.key);
            let request = request.body(ByteStream::from(bytes.clone())).customize();
            request.mutate_request(dress(headers)).send().await
        };
        let mut sent = send(headers.clone()).await;
        if let Some(class) = refused_class(&sent, &headers) {
            sent = send(without_class(headers)).await;
            if sent.is_ok() {
                self.no_classes.lock().unwrap_or_else(PoisonError::into_inner).insert(class);
            }
        }
        let answer = match sent {
            Ok(answer) => answer,
            Err(error) if condition.is_some() && is_unmet(&error) => {
                return self.is_ours(job, size_bytes, &md5, since.as_deref()).await;
            }
            Err(error) => return self.refusal("write an object", error),
        };
        job.made_version(answer.version_id())?;
        let is_encrypted = answer.server_side_encryption().is_some();
        Ok(arrived(answer.e_tag(), is_encrypted, &md5).map_err(Not::Damaged))
    }

    async fn put_in_parts(
        &self,
        job: &mut Job,
        bytes: &mut Gather,
        first: Bytes,
        (headers, guard): (Vec<(String, String)>, &Guard),
    ) -> PutResult<()> {
        let send = async |headers| {
            let request = self.server.client.create_multipart_upload().bucket(&job.bucket).key(&job.key);
            request.customize().mutate_request(dress(headers)).send().await
        };
        let mut sent = send(headers.clone()).await;
        if let Some(class) = refused_class(&sent, &headers) {
            sent = send(without_class(headers)).await;
            if sent.is_ok() {
                self.no_classes.lock().unwrap_or_else(PoisonError::into_inner).insert(class);
            }
        }
        let answer = match sent {
            Ok(answer) => answer,
            Err(error) => return self.refusal("begin an upload", error),
        };
        let mut upload =
            Upload::begun(&self.server, &self.uploads, (&job.bucket, &job.key), answer.upload_id());
        let outcome = self.fill(job, bytes, (first, guard), &upload).await;
        if matches!(outcome, Ok(Ok(()))) {
            upload.completed();
            return self.check_size(job, bytes.size_bytes).await;
        }
        upload.abort().await;
        outcome
    }

    /// Sends all parts and puts them together.
    async fn fill(
        &self,
        job: &mut Job,
        bytes: &mut Gather,
        (first, guard): (Bytes, &Guard),
        upload: &Upload,
    ) -> PutResult<()> {
        let (mut parts, mut part, mut sums) = (Vec::new(), Some(first), Md5::new());
        while let Some(data) = part {
            let number = i32::try_from(parts.len() + 1).unwrap_or(i32::MAX);
            sums.update(Md5::digest(&data));
            match self.put_part(upload, number, data).await? {
                Ok(done) => parts.push(done),
                Err(not) => return Ok(Err(not)),
            }
            part = bytes.part(&mut job.entry.body).await?;
        }
        if let Err(why) = bytes.check(&job.entry) {
            return Ok(refused(why));
        }
        if let Err(not) = job.clear(guard).await {
            return Ok(Err(not));
        }
        // Hours may have passed since it was looked at, and not every server heeds a condition here.
        if !guard.look(&self.server, &job.bucket, &job.key).await? {
            return Ok(Err(Not::Changed));
        }
        let etag = format!("{}-{}", hex::encode(sums.finalize()), parts.len());
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        let request = self.server.client.complete_multipart_upload().bucket(&job.bucket).key(&job.key);
        let request = request.set_upload_id(upload.id.clone()).multipart_upload(parts).customize();
        let (condition, since) = (job.conditions.header(guard), self.server.date());
        match request.mutate_request(dress(condition.iter().cloned().collect())).send().await {
            Ok(_) => Ok(Ok(())),
            // An upload that is completed is there no more when the request is sent again.
            Err(error) if is_unmet(&error) => {
                self.is_ours(job, bytes.size_bytes, &etag, since.as_deref()).await
            }
            Err(error) => self.refusal("complete an upload", error),
        }
    }

    async fn put_part(&self, upload: &Upload, number: i32, bytes: Bytes) -> PutResult<CompletedPart> {
        let md5 = hex::encode(Md5::digest(&bytes));
        let request = self.server.client.upload_part().bucket(&upload.bucket).key(&upload.key);
        let request = request.set_upload_id(upload.id.clone()).part_number(number);
        match request.body(ByteStream::from(bytes)).send().await {
            Ok(answer) => {
                let done =
                    CompletedPart::builder().part_number(number).set_e_tag(answer.e_tag.clone()).build();
                let is_encrypted = answer.server_side_encryption().is_some();
                Ok(arrived(answer.e_tag(), is_encrypted, &md5).map(|()| done).map_err(Not::Refused))
            }
            Err(error) => self.refusal("write a part of an object", error),
        }
    }

    /// Tells, after the server found a condition unmet, whether that is because the answer to our own writing was lost
    /// and the request was sent again. `since` is what the server's clock showed before that.
    ///
    /// Where the server encrypts with a key of its own the `ETag` says nothing; there what has our size and our headers
    /// and was written since then is ours.
    async fn is_ours(&self, job: &Job, size_bytes: u64, etag: &str, since: Option<&str>) -> PutResult<()> {
        let asked = self.server.client.head_object().bucket(&job.bucket).key(&job.key).send().await;
        let Ok(answer) = asked else { return Ok(Err(Not::Changed)) };
        let there = Facts::of_head(&answer);
        let is_alike = if there.etag_is_of_plain_bytes() {
            answer.e_tag().map(bare).as_deref() == Some(etag)
        } else {
            let since = since.and_then(|since| DateTime::parse_from_rfc2822(since).ok());
            let written = answer.last_modified().map(SdkTime::secs);
            let is_since = since.zip(written).is_some_and(|(since, written)| written >= since.timestamp());
            is_since && there.looks_like(&Facts::of_attrs(&job.entry.meta.attrs))
        };
        let size = answer.content_length().and_then(|length| u64::try_from(length).ok());
        if is_alike && size == Some(size_bytes) {
            return job.made_version(answer.version_id()).map(Ok);
        }
        Ok(Err(Not::Changed))
    }

    /// Compares the size of what was put together with what was sent.
    async fn check_size(&self, job: &Job, size_bytes: u64) -> PutResult<()> {
        let asked = self.server.client.head_object().bucket(&job.bucket).key(&job.key).send().await;
        let answer = match asked {
            Ok(answer) => answer,
            Err(error) => return self.refusal("look at an object", error),
        };
        let there = answer.content_length().and_then(|length| u64::try_from(length).ok());
        // Some answer the end of an upload without the version's id.
        job.made_version(answer.version_id())?;
        if there == Some(size_bytes) {
            return Ok(Ok(()));
        }
        let arrived = there.unwrap_or_default();
        Ok(Err(Not::Damaged(format!("{size_bytes} bytes were sent and {arrived} arrived"))))
    }

    /// Looks once whether the server keeps tags; some take them and forget them.
    async fn check_tags(&self, job: &Job, facts: &Facts) -> FlowResult<()> {
        if facts.tags.is_empty() || self.tags_tried.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        let asked = self.server.client.get_object_tagging().bucket(&job.bucket).key(&job.key).send().await;
        let kept = asked.is_ok_and(|answer| answer.tag_set().len() == facts.tags.len());
        self.tags_lost.store(!kept, Ordering::Relaxed);
        Ok(())
    }

    /// Tells whether the server refuses this one object or all of us.
    fn refusal<T, E>(&self, doing: &str, error: CallError<E>) -> PutResult<T>
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        if matches!(error, SdkError::ConstructionFailure(_)) {
            return Ok(refused("no request can be made for it"));
        }
        match Told::from(&error) {
            Some(told) if told.is_about_objects() => Ok(refused(told.text())),
            _ => Err(self.server.failure(doing, error).into()),
        }
    }
}

/// Returns what an entry is called that was not written.
pub(super) fn name_of(bucket: &str, key: &str, meta: &EntryMeta) -> String {
    let version = meta.text(versions::VERSION_ID).filter(|_| !meta.attrs.contains_key("key"));
    let version = version.map(|id| format!("?versionId={id}")).unwrap_or_default();
    format!("{bucket}/{key}{version}")
}

/// Returns why an entry can be written nowhere, as far as that is known before its bytes come.
pub(super) fn unwritable(entry: &Entry, facts: &Facts) -> Option<String> {
    let torn = entry.body.foretold().get(TORN).and_then(serde_json::Value::as_str);
    torn.map(torn_why).or_else(|| facts.request_headers().err())
}

/// What became of the look at what stands where an object goes.
enum Stands {
    /// The very same object.
    Same,
    /// Anything else; what must still hold when it is written.
    Else(Guard),
}

/// Returns whether a server found a condition unmet: it differs, it is gone, or another writes it at the same time.
fn is_unmet<E: ProvideErrorMetadata>(error: &CallError<E>) -> bool {
    Told::from(error)
        .is_some_and(|told| matches!(told.status, 404 | 409 | 412) && told.code != "NoSuchBucket")
}

/// Compares the `ETag` of what arrived with what was sent, where it is an MD5.
fn arrived(etag: Option<&str>, encrypted: bool, md5: &str) -> Result<(), String> {
    let etag = etag.map(bare).unwrap_or_default();
    if is_md5(&etag) && !encrypted && etag != md5 {
        return Err(format!("what arrived has the MD5 {etag}, what was sent {md5}"));
    }
    Ok(())
}

/// Makes the failure of a restore whose last word is that some objects are not there.
pub(super) fn not_all(name: &crate::names::SourceName, refused: &[(String, String)]) -> Failure {
    const SHOWN: usize = 20;
    let shown: Vec<String> =
        refused.iter().take(SHOWN).map(|(what, why)| format!("`{}`: {why}", what.escape_debug())).collect();
    let more = refused.len().saturating_sub(SHOWN);
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    Failure::new(ExitCode::Partial, format!("{} of `{name}` could not be restored", count(refused.len())))
        .because(format!("{}{more}", shown.join("; ")))
        .hint("Objects that are not named are in place. Restore these to another server, or with `export`.")
}

fn count(objects: usize) -> String {
    if objects == 1 { "1 object".to_owned() } else { format!("{objects} objects") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_as_they_were_where_a_server_takes_them_and_memory_holds_them() {
        const MIB: u64 = 1 << 20;
        let plain = "d41d8cd98f00b204e9800998ecf8427e";
        let parts = |count: u32| format!("{plain}-{count}");
        for (size, etag, known, expected) in [
            (3, plain.to_owned(), None, (16 * MIB, false)),
            (60 * MIB, plain.to_owned(), None, (60 * MIB, false)),
            (70 * MIB, plain.to_owned(), None, (16 * MIB, false)),
            (11 * MIB, parts(2), Some(6 * MIB), (6 * MIB, true)),
            (11 * MIB, parts(2), None, (8 * MIB, true)),
            (5, parts(1), Some(5), (5, true)),
            (0, parts(1), Some(1), (1, true)),
            (9 * MIB, parts(3), Some(3 * MIB), (16 * MIB, false)),
            (300 * MIB, parts(2), Some(150 * MIB), (16 * MIB, false)),
            // Ten thousand parts are all that there may be.
            (1_000_000 * MIB, parts(10_000), None, (100 * MIB, false)),
        ] {
            assert_eq!(cut(size, &etag, known), expected, "{size} {etag} {known:?}");
        }
    }

    #[test]
    fn an_object_of_any_size_is_cut_into_parts_that_s3_takes() {
        // S3 User Guide, "Amazon S3 multipart upload limits".
        const GIB: u64 = 1 << 30;
        let plain = "d41d8cd98f00b204e9800998ecf8427e";
        let around = |size: u64| [size - 1, size, size + 1];
        let sizes = [PART_BYTES, PART_BYTES_MAX, 5 * GIB, PART_BYTES * PARTS_MAX, 5 << 40].map(around);
        for size in sizes.into_iter().flatten() {
            for etag in [plain.to_owned(), format!("{plain}-2"), format!("{plain}-9999"), String::new()] {
                for known in [None, Some(1), Some(5 << 20), Some(5 * GIB)] {
                    let (part, _) = cut(size, &etag, known);
                    assert!(size.div_ceil(part) <= PARTS_MAX, "{size} {etag} {known:?}: {part}");
                    assert!((PART_BYTES_MIN..=5 * GIB).contains(&part), "{size} {etag} {known:?}: {part}");
                }
            }
        }
    }
}
