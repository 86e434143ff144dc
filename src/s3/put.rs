//! One object written: in one request when it is small, in parts when it is big, and checked.
//!
//! *Order.* Bytes are gathered up to [`PART_BYTES`]; if the body ends there, one PUT carries it, else a
//! multipart upload that becomes visible only when it is completed. Each request carries its MD5, and the
//! `ETag` that comes back is compared.
//!
//! *Crash.* An upload that is not completed is aborted, also when its task is stopped; when the whole
//! process dies its parts stay until the bucket's own rule for incomplete uploads sweeps them. A reader of
//! the bucket never sees half an object.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use aws_sdk_s3::{
    error::{ProvideErrorMetadata, SdkError},
    primitives::ByteStream,
    types::{CompletedMultipartUpload, CompletedPart},
};
use bytes::{Bytes, BytesMut};
use md5::{Digest, Md5};

use super::{
    client::{CallError, Server, Told},
    facts::{Facts, dress},
    listing::{bare, is_md5},
    merge::TORN,
};
use crate::{
    error::{ExitCode, Failure},
    flow::{Attrs, Body, Entry, FlowResult},
};

/// Bytes of one request's body; what is longer goes in parts.
pub(super) const PART_BYTES: usize = 16 << 20;
/// Parts that an upload may have; S3 allows 10,000.
const PARTS_MAX: u64 = 9_000;

/// Writes objects to one server.
#[derive(Clone)]
pub(super) struct Putter {
    /// The server.
    pub(super) server: Server,
    /// Whether the first object with tags was looked at again.
    tags_tried: Arc<AtomicBool>,
    /// Whether the server took tags and did not keep them.
    tags_lost: Arc<AtomicBool>,
}

/// How writing one object ended.
pub(super) enum Done {
    /// It was written and checked.
    Written {
        /// Its size.
        bytes: u64,
    },
    /// The very same object was there.
    Same {
        /// Its size.
        bytes: u64,
    },
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
    /// Whether the same object may be there already.
    pub(super) maybe_same: bool,
}

/// An error of the run, or a refusal of this one object.
type PutResult<T> = FlowResult<Result<T, String>>;

impl Putter {
    /// Makes one for a server.
    pub(super) fn new(server: &Server) -> Self {
        Self { server: server.clone(), tags_tried: Arc::default(), tags_lost: Arc::default() }
    }

    /// Returns whether the server was seen to lose tags.
    pub(super) fn loses_tags(&self) -> bool {
        self.tags_lost.load(Ordering::Relaxed)
    }

    /// Writes one object.
    pub(super) async fn put(self, mut job: Job) -> FlowResult<Done> {
        let facts = Facts::of_attrs(&job.entry.meta.attrs);
        let mut bytes = Gather::new(&job.entry.meta.attrs);
        if job.maybe_same && self.stands(&job, &facts).await? {
            while bytes.part(&mut job.entry.body).await?.is_some() {}
            return Ok(Done::Same { bytes: bytes.size_bytes });
        }
        let headers = match facts.request_headers() {
            Ok(headers) => headers,
            Err(why) => return self.refuse(job, bytes, why).await,
        };
        let first = bytes.part(&mut job.entry.body).await?.unwrap_or_default();
        let outcome = if bytes.ended && bytes.buffer.is_empty() {
            match bytes.check(&job) {
                Ok(()) => self.put_whole(&job, first, headers).await?,
                Err(why) => Err(why),
            }
        } else {
            self.put_in_parts(&mut job, &mut bytes, first, headers).await?
        };
        if let Err(why) = outcome {
            return self.refuse(job, bytes, why).await;
        }
        self.check_tags(&job, &facts).await?;
        Ok(Done::Written { bytes: bytes.size_bytes })
    }

    /// Reads the rest of a body that nobody wants, so that its sender is not told that we are gone.
    async fn refuse(&self, mut job: Job, mut bytes: Gather, why: String) -> FlowResult<Done> {
        while bytes.part(&mut job.entry.body).await?.is_some() {}
        Ok(Done::Refused { what: format!("{}/{}", job.bucket, job.key), why })
    }

    /// Returns whether the object stands there with these bytes and these facts.
    async fn stands(&self, job: &Job, facts: &Facts) -> FlowResult<bool> {
        let attrs = &job.entry.meta.attrs;
        let answer = match self.server.client.head_object().bucket(&job.bucket).key(&job.key).send().await {
            Ok(answer) => answer,
            Err(error) if Told::from(&error).is_some_and(|told| told.status < 500) => return Ok(false),
            Err(error) => return Err(self.server.failure("look at an object", error).into()),
        };
        let size = answer.content_length().and_then(|length| u64::try_from(length).ok());
        let same_bytes = answer.e_tag().map(bare).as_deref() == job.entry.meta.text("etag")
            && size == attrs.get("size").and_then(serde_json::Value::as_u64);
        let mut there = Facts::of_head(&answer);
        if !same_bytes || there.headers != facts.headers || there.meta != facts.meta {
            return Ok(false);
        }
        let asked = self.server.client.get_object_tagging().bucket(&job.bucket).key(&job.key).send().await;
        if let Ok(answer) = asked {
            let pairs = answer.tag_set().iter().map(|tag| (tag.key().to_owned(), tag.value().to_owned()));
            there.tags = pairs.collect();
        }
        Ok(there.same_as(facts))
    }

    async fn put_whole(&self, job: &Job, bytes: Bytes, headers: Vec<(String, String)>) -> PutResult<()> {
        let md5 = hex::encode(Md5::digest(&bytes));
        let request = self.server.client.put_object().bucket(&job.bucket).key(&job.key);
        let sent =
            request.body(ByteStream::from(bytes)).customize().mutate_request(dress(headers)).send().await;
        let answer = match sent {
            Ok(answer) => answer,
            Err(error) => return self.refusal("write an object", error),
        };
        Ok(arrived(answer.e_tag(), answer.server_side_encryption().is_some(), &md5))
    }

    async fn put_in_parts(
        &self,
        job: &mut Job,
        bytes: &mut Gather,
        first: Bytes,
        headers: Vec<(String, String)>,
    ) -> PutResult<()> {
        let request = self.server.client.create_multipart_upload().bucket(&job.bucket).key(&job.key);
        let answer = match request.customize().mutate_request(dress(headers)).send().await {
            Ok(answer) => answer,
            Err(error) => return self.refusal("begin an upload", error),
        };
        let mut upload = Upload {
            server: self.server.clone(),
            bucket: job.bucket.clone(),
            key: job.key.clone(),
            id: answer.upload_id().map(str::to_owned),
        };
        let outcome = self.fill(job, bytes, first, &upload).await;
        if matches!(outcome, Ok(Ok(()))) {
            upload.id = None;
            return self.check_size(job, bytes.size_bytes).await;
        }
        upload.abort().await;
        outcome
    }

    /// Sends all parts and puts them together.
    async fn fill(&self, job: &mut Job, bytes: &mut Gather, first: Bytes, upload: &Upload) -> PutResult<()> {
        let (mut parts, mut part) = (Vec::new(), Some(first));
        while let Some(data) = part {
            let number = i32::try_from(parts.len() + 1).unwrap_or(i32::MAX);
            match self.put_part(upload, number, data).await? {
                Ok(done) => parts.push(done),
                Err(why) => return Ok(Err(why)),
            }
            part = bytes.part(&mut job.entry.body).await?;
        }
        if let Err(why) = bytes.check(job) {
            return Ok(Err(why));
        }
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        let request = self.server.client.complete_multipart_upload().bucket(&job.bucket).key(&job.key);
        match request.set_upload_id(upload.id.clone()).multipart_upload(parts).send().await {
            Ok(_) => Ok(Ok(())),
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
                Ok(arrived(answer.e_tag(), answer.server_side_encryption().is_some(), &md5).map(|()| done))
            }
            Err(error) => self.refusal("write a part of an object", error),
        }
    }

    /// Compares the size of what was put together with what was sent.
    async fn check_size(&self, job: &Job, size_bytes: u64) -> PutResult<()> {
        let asked = self.server.client.head_object().bucket(&job.bucket).key(&job.key).send().await;
        let answer = match asked {
            Ok(answer) => answer,
            Err(error) => return self.refusal("look at an object", error),
        };
        let there = answer.content_length().and_then(|length| u64::try_from(length).ok());
        if there == Some(size_bytes) {
            return Ok(Ok(()));
        }
        Ok(Err(format!("{size_bytes} bytes were sent and {} arrived", there.unwrap_or_default())))
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
            return Ok(Err("no request can be made for it".to_owned()));
        }
        match Told::from(&error) {
            Some(told)
                if (400..500).contains(&told.status)
                    && !matches!(told.status, 408 | 429)
                    && told.code != "NoSuchBucket"
                    && !told.is_about_credentials() =>
            {
                Ok(Err(told.text()))
            }
            _ => Err(self.server.failure(doing, error).into()),
        }
    }
}

/// Compares the `ETag` of what arrived with what was sent, where it is an MD5.
fn arrived(etag: Option<&str>, encrypted: bool, md5: &str) -> Result<(), String> {
    let etag = etag.map(bare).unwrap_or_default();
    if is_md5(&etag) && !encrypted && etag != md5 {
        return Err(format!("what arrived has the MD5 {etag}, what was sent {md5}"));
    }
    Ok(())
}

/// Gathers a body into parts.
struct Gather {
    buffer: BytesMut,
    part_bytes: usize,
    md5: Md5,
    size_bytes: u64,
    ended: bool,
}

impl Gather {
    fn new(attrs: &Attrs) -> Self {
        let size = attrs.get("size").and_then(serde_json::Value::as_u64).unwrap_or(0);
        let needed = usize::try_from(size.div_ceil(PARTS_MAX)).unwrap_or(PART_BYTES);
        Self {
            buffer: BytesMut::new(),
            part_bytes: needed.max(PART_BYTES),
            md5: Md5::new(),
            size_bytes: 0,
            ended: false,
        }
    }

    /// Returns the next part, full unless it is the last; `None` after the last.
    async fn part(&mut self, body: &mut Body) -> FlowResult<Option<Bytes>> {
        while !self.ended && self.buffer.len() <= self.part_bytes {
            match body.next().await? {
                Some(bytes) => {
                    self.md5.update(&bytes);
                    self.size_bytes += bytes.len() as u64;
                    self.buffer.extend_from_slice(&bytes);
                }
                None => self.ended = true,
            }
        }
        let length = self.buffer.len().min(self.part_bytes);
        Ok((length > 0).then(|| self.buffer.split_to(length).freeze()))
    }

    /// Compares what came with what the entry says of itself; only after the end.
    fn check(&self, job: &Job) -> Result<(), String> {
        let trailer = job.entry.body.trailer();
        if let Some(why) = trailer.get(TORN).and_then(serde_json::Value::as_str) {
            return Err(format!("the snapshot holds only a part of it: {why}"));
        }
        let size = job.entry.meta.attrs.get("size").and_then(serde_json::Value::as_u64);
        if size.is_some_and(|size| size != self.size_bytes) {
            let size = size.unwrap_or_default();
            return Err(format!("the snapshot has {} of its {size} bytes", self.size_bytes));
        }
        let md5 = hex::encode(self.md5.clone().finalize());
        match trailer.get("md5").and_then(serde_json::Value::as_str) {
            Some(read) if read != md5 => Err(format!("its bytes have the MD5 {md5} and had {read}")),
            _ => Ok(()),
        }
    }
}

/// An upload under way; dropped before it is completed, it is aborted.
struct Upload {
    server: Server,
    bucket: String,
    key: String,
    id: Option<String>,
}

impl Upload {
    /// Throws the parts away.
    ///
    /// Best effort: parts that stay are invisible, and swept by the bucket's own rule for such.
    async fn abort(&mut self) {
        if let Some(id) = self.id.take() {
            let request = self.server.client.abort_multipart_upload().bucket(&self.bucket).key(&self.key);
            request.upload_id(id).send().await.ok();
        }
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let (Some(id), Ok(runtime)) = (self.id.take(), tokio::runtime::Handle::try_current()) else { return };
        let request = self.server.client.abort_multipart_upload().bucket(&self.bucket).key(&self.key);
        runtime.spawn(request.upload_id(id).send());
    }
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
        .hint("All other objects are in place. Restore these to another server, or with `export`.")
}

fn count(objects: usize) -> String {
    if objects == 1 { "1 object".to_owned() } else { format!("{objects} objects") }
}
