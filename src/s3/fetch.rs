//! One object's bytes, whole or not at all; or what the server says of it, without its bytes.
//!
//! *Order.* Every GET carries `If-Match` with the listed `ETag`, so all bytes are of one version of the
//! object; one whose `ETag` makes no condition is asked for once. An object of at most [`WHOLE_BYTES_MAX`] is read
//! and checked before its entry begins; a longer one streams ([`super::body`]). The first GET of one that may be read
//! in ranges asks for the first of them, and its answer tells whether the server knows ranges. Tags come after the
//! bytes were asked for, and a look behind them tells whether they are of the same object.
//!
//! *Crash.* What does not stream is whole or has no entry.
//!
//! *Parts.* Of an object that was made in parts the server is asked first how it was cut, unless it is known not to
//! tell: for its first and its last part, and where they are uneven and few for each.
//!
//! *Limits.* [`OPEN_TRIES`] versions of an object are tried.

use std::{
    error::Error,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use aws_sdk_s3::{
    error::ProvideErrorMetadata,
    operation::{get_object::GetObjectOutput, head_object::HeadObjectOutput},
    primitives::ByteStream,
};
use bytes::{Bytes, BytesMut};
use md5::{Digest, Md5};
use tokio::sync::{Mutex, OnceCell, Semaphore};

use super::{
    body::{Origin, Pump, Turns, next, sent_range},
    client::{CallError, Server, Told},
    facts::{Facts, object_meta, tags_of},
    layout::{Cuts, PART_SIZE, PARTS_ASKED_MAX, Proven, Prover, askable},
    listing::{Listed, bare, is_md5},
    tags, versions,
};
use crate::{
    error::Result,
    flow::{Attrs, EntryMeta, PreviousEntry, Problem},
};

/// Bytes up to which an object is read into memory before its entry begins.
pub(super) const WHOLE_BYTES_MAX: u64 = 1 << 20;
/// The trailer's name for the MD5 of an object's bytes.
pub(super) const MD5: &str = "md5";
/// How often an object that changes under us is tried.
const OPEN_TRIES: u32 = 3;

/// Opens objects of one server.
#[derive(Clone, Debug)]
pub(super) struct Fetcher {
    server: Server,
    /// Whether the server is known to say how many tags an object has, to a GET and to a HEAD; else each object is
    /// asked.
    tells_tags: Arc<[AtomicBool; 2]>,
    /// Whether an object that was said to have none had tags.
    miscounts: Arc<AtomicBool>,
    /// Whether the server does not know tags at all.
    no_tags: Arc<AtomicBool>,
    /// Why tags of the bucket in hand may not be read, if they may not, once that was told.
    tags_denied: Arc<OnceCell<Option<String>>>,
    /// Held by who asks for the first time.
    asking: Arc<Mutex<()>>,
    /// Objects made in parts whose bytes their `ETag` did not prove.
    pub(super) unproven: Arc<AtomicU64>,
    /// Whether the server does not tell how an object was cut.
    hides_parts: Arc<AtomicBool>,
    /// Which ranges may be read beside the others.
    pub(super) turns: Turns,
}

/// How much of an object is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    /// Its bytes and what is said of it.
    Whole,
    /// What is said of it.
    Facts,
}

/// An object that was opened.
pub(super) enum Opened {
    /// A small one, checked.
    Whole {
        /// Its entry.
        meta: EntryMeta,
        /// Its bytes.
        bytes: Bytes,
        /// What its entry ends with.
        trailer: Attrs,
    },
    /// A big one, about to be streamed.
    Streaming {
        /// Its entry.
        meta: EntryMeta,
        /// Its bytes, to be pumped.
        pump: Box<Pump>,
    },
    /// One of which only the facts were read.
    Known {
        /// Its entry.
        meta: EntryMeta,
        /// What its entry ends with.
        trailer: Attrs,
    },
    /// It was deleted after it was listed, which is nobody's fault.
    Vanished {
        /// Whether its key showed it.
        was_current: bool,
    },
    /// It is archived: nobody's fault, and no sign of what becomes of others.
    Archived {
        /// What is told of it.
        problem: Problem,
        /// The key that shows it, if one does.
        shown_by: Option<String>,
    },
    /// It cannot be read.
    Refused(Problem),
}

/// An object's tags, or why they cannot be read.
type Tags = Result<tags::Tags, String>;

/// How one attempt at an object failed.
pub(super) enum Miss {
    Changed,
    Vanished,
    Archived(String),
    Refused(String),
    /// What came is not good.
    Broken(String),
}

impl Fetcher {
    /// Makes one for a server that is asked for as many objects and ranges at a time as there are `permits`; who
    /// opens an object has one.
    pub(super) fn new(server: &Server, permits: Arc<Semaphore>) -> Self {
        Self {
            server: server.clone(),
            tells_tags: Arc::default(),
            miscounts: Arc::default(),
            no_tags: Arc::default(),
            tags_denied: Arc::default(),
            asking: Arc::default(),
            unproven: Arc::default(),
            hides_parts: Arc::default(),
            turns: Turns::new(permits),
        }
    }

    /// Makes one for another bucket, which may have other rights.
    pub(super) fn for_bucket(&self) -> Self {
        Self { tags_denied: Arc::default(), ..self.clone() }
    }

    /// Returns how many objects made in parts were read whose bytes their `ETag` did not prove.
    pub(super) fn unproven(&self) -> u64 {
        self.unproven.load(Ordering::Relaxed)
    }

    /// Opens an object; an error is one that ends the run.
    pub(super) async fn open(&self, bucket: &str, mut listed: Listed, extent: Extent) -> Result<Opened> {
        let mut why = String::new();
        for _ in 0..OPEN_TRIES {
            let tried = match extent {
                Extent::Whole => self.begin(bucket, &listed).await?,
                Extent::Facts => self.look(bucket, &listed).await?,
            };
            let is_gone = match tried {
                Ok(opened) => return Ok(opened),
                Err(Miss::Archived(why)) => {
                    let problem = Problem { what: listed.select(bucket), why };
                    let shown_by = listed.is_current().then_some(listed.key);
                    return Ok(Opened::Archived { problem, shown_by });
                }
                Err(Miss::Refused(why)) => return Ok(refused(bucket, &listed, why)),
                Err(Miss::Broken(broken)) => {
                    why = broken;
                    continue;
                }
                Err(Miss::Vanished) => true,
                Err(Miss::Changed) => false,
            };
            // A listing that goes on showing what cannot be had is damage and no deletion.
            why = if is_gone {
                "the server lists it and says that it is not there".to_owned()
            } else {
                "it changed each time that it was read".to_owned()
            };
            match versions::look_up(&self.server, bucket, &listed).await? {
                Some(now) => listed = now,
                None => return Ok(Opened::Vanished { was_current: listed.is_current() }),
            }
        }
        Ok(refused(bucket, &listed, why))
    }

    /// Begins to read an object's bytes.
    async fn begin(&self, bucket: &str, listed: &Listed) -> Result<Result<Opened, Miss>> {
        let cuts = self.cuts(bucket, listed).await;
        let range = if is_pinned(listed) { self.turns.first(listed.size_bytes) } else { None };
        let answer = match self.get(bucket, listed, range.as_ref()).await? {
            Ok(answer) => *answer,
            Err(miss) => return Ok(Err(miss)),
        };
        // A server that knows no ranges sends all, which is then one stream.
        let sent = range.and_then(|asked| sent_range(&answer).filter(|(range, _)| *range == asked));
        let length = match &sent {
            Some((_, size_bytes)) => size_bytes.and_then(|size_bytes| i64::try_from(size_bytes).ok()),
            None => answer.content_length(),
        };
        let facts = Facts::of_get(&answer);
        let facts = match self.whole_facts(bucket, listed, (facts, length), Extent::Whole).await? {
            Ok(facts) => facts,
            Err(broken) => return Ok(Err(broken)),
        };
        let meta = object_meta(bucket, listed, &facts)?;
        let mut proof = Proof::new(listed, &facts, cuts);
        if listed.size_bytes > WHOLE_BYTES_MAX {
            let end = sent.map_or(listed.size_bytes, |(range, _)| range.end);
            let origin = Origin { fetcher: self.clone(), bucket: bucket.to_owned(), listed: listed.clone() };
            let pump = Box::new(Pump::new(origin, proof, answer.body, end));
            return Ok(Ok(Opened::Streaming { meta, pump }));
        }
        let whole = collect(answer.body, listed.size_bytes).await.and_then(|bytes| {
            proof.update(&bytes);
            let trailer = proof.finish(listed, &self.unproven)?;
            Ok(Opened::Whole { meta, bytes, trailer })
        });
        Ok(whole.map_err(Miss::Broken))
    }

    /// Returns how an object was cut, as far as the server tells. What goes wrong here goes wrong again when its bytes
    /// are asked for, and is told then.
    async fn cuts(&self, bucket: &str, listed: &Listed) -> Option<Cuts> {
        let count = askable(&listed.etag)?;
        let first = self.part(bucket, listed, (1, count)).await?;
        let last = match count {
            2 => listed.size_bytes.checked_sub(first)?,
            _ => self.part(bucket, listed, (count, count)).await?,
        };
        if let Some(cuts) = Cuts::of_ends(count, (first, last), listed.size_bytes) {
            return Some(cuts);
        }
        if count > PARTS_ASKED_MAX {
            return None;
        }
        let mut sizes = vec![first];
        for number in 2..count {
            sizes.push(self.part(bucket, listed, (number, count)).await?);
        }
        sizes.push(last);
        Cuts::of_all(sizes, listed.size_bytes)
    }

    /// Asks for the size of one part of so many; a server that does not know of parts answers for the whole.
    async fn part(&self, bucket: &str, listed: &Listed, (number, count): (u64, u64)) -> Option<u64> {
        if self.hides_parts.load(Ordering::Relaxed) {
            return None;
        }
        let request = self.server.client.head_object().bucket(bucket).key(&listed.key);
        let request = request.set_version_id(listed.version_id()).set_if_match(condition(listed));
        let sent = request.part_number(i32::try_from(number).ok()?).send().await;
        let answer = match sent {
            Ok(answer) => answer,
            Err(error) => {
                // Not found, not the same, or not now is nothing that it says of parts.
                let is_about_parts =
                    Told::from(&error).is_some_and(|told| matches!(told.status, 400 | 416 | 501));
                self.hides_parts.fetch_or(is_about_parts, Ordering::Relaxed);
                return None;
            }
        };
        let Some(told) = answer.parts_count() else {
            self.hides_parts.store(true, Ordering::Relaxed);
            return None;
        };
        if u64::try_from(told) != Ok(count) {
            return None;
        }
        answer.content_length().and_then(|length| u64::try_from(length).ok())
    }

    /// Asks for an object's facts. An `ETag` that is the MD5 of the bytes stands in the trailer, as if they were read.
    async fn look(&self, bucket: &str, listed: &Listed) -> Result<Result<Opened, Miss>> {
        let answer = match self.head(bucket, listed).await? {
            Ok(answer) => answer,
            Err(miss) => return Ok(Err(miss)),
        };
        let (facts, length) = (Facts::of_head(&answer), answer.content_length());
        let facts = match self.whole_facts(bucket, listed, (facts, length), Extent::Facts).await? {
            Ok(facts) => facts,
            Err(broken) => return Ok(Err(broken)),
        };
        let is_known = is_md5(&listed.etag) && facts.etag_is_of_plain_bytes();
        let trailer =
            if is_known { [(MD5.to_owned(), listed.etag.as_str().into())].into() } else { Attrs::new() };
        Ok(Ok(Opened::Known { meta: object_meta(bucket, listed, &facts)?, trailer }))
    }

    /// Asks for all that is said of an object.
    async fn head(&self, bucket: &str, listed: &Listed) -> Result<Result<HeadObjectOutput, Miss>> {
        let request = self.server.client.head_object().bucket(bucket).key(&listed.key);
        let request = request.set_version_id(listed.version_id());
        match request.set_if_match(condition(listed)).send().await {
            Ok(answer) if is_another(answer.e_tag(), listed) => Ok(Err(Miss::Changed)),
            Ok(answer) => Ok(Ok(answer)),
            Err(error) => self.miss(bucket, error).map(Err),
        }
    }

    /// Checks the length of an answer and adds the tags to its facts. A request for tags knows no condition: where an
    /// object has some and no id pins it, a look afterwards tells whether they are its own.
    async fn whole_facts(
        &self,
        bucket: &str,
        listed: &Listed,
        (mut facts, length): (Facts, Option<i64>),
        extent: Extent,
    ) -> Result<Result<Facts, Miss>> {
        let length = length.and_then(|length| u64::try_from(length).ok());
        if let Some(length) = length.filter(|length| *length != listed.size_bytes) {
            let why = format!("the listing says {} bytes, the server sends {length}", listed.size_bytes);
            return Ok(Err(Miss::Broken(why)));
        }
        match self.tags(bucket, listed, &facts, extent).await? {
            Ok(tags) => {
                let has_some = !tags.is_empty() || facts.tag_count.is_some_and(|count| count > 0);
                let is_known = has_own_id(listed) || listed.tags.as_ref() == Some(&tags);
                if has_some
                    && !is_known
                    && let Err(miss @ (Miss::Changed | Miss::Vanished)) = self.head(bucket, listed).await?
                {
                    return Ok(Err(miss));
                }
                facts.tags = tags;
            }
            // The rest is worth having without them.
            Err(why) => facts.tags_unread = Some(why),
        }
        Ok(Ok(facts))
    }

    /// Asks for an object's bytes, or for a range of them.
    pub(super) async fn get(
        &self,
        bucket: &str,
        listed: &Listed,
        range: Option<&Range<u64>>,
    ) -> Result<Result<Box<GetObjectOutput>, Miss>> {
        let range = range.map(|range| format!("bytes={}-{}", range.start, range.end - 1));
        let request = self.server.client.get_object().bucket(bucket).key(&listed.key).set_range(range);
        let request = request.set_version_id(listed.version_id());
        match request.set_if_match(condition(listed)).send().await {
            Ok(answer) if is_another(answer.e_tag(), listed) => Ok(Err(Miss::Changed)),
            Ok(answer) => Ok(Ok(Box::new(answer))),
            Err(error) => self.miss(bucket, error).map(Err),
        }
    }

    /// Tells what a failed request for an object means: the run ends only when the server is gone or knows us not.
    fn miss<E>(&self, bucket: &str, error: CallError<E>) -> Result<Miss>
    where
        E: ProvideErrorMetadata + Error + Send + Sync + 'static,
    {
        let told = Told::from(&error);
        match told {
            Some(told)
                if told.is_about_credentials() || told.is_about_place() || told.code == "NoSuchBucket" =>
            {
                Err(self.server.failure(&format!("read bucket `{bucket}`"), error))
            }
            Some(told) if told.is_absent() => Ok(Miss::Vanished),
            Some(told) if told.status == 412 => Ok(Miss::Changed),
            Some(told) if told.code == "InvalidObjectState" => {
                let why = format!("it is archived, fetch it at the source first: {}", told.text());
                Ok(Miss::Archived(why))
            }
            Some(told) => Ok(Miss::Refused(told.text())),
            None => Err(self.server.failure(&format!("read bucket `{bucket}`"), error)),
        }
    }

    /// Returns the object's tags, or why they cannot be read.
    ///
    /// AWS, `MinIO` and Ceph count the tags in their answer and send no count for none; a server that was never seen
    /// to count is asked. What holds for a GET need not hold for a HEAD. To whom may not read tags AWS sends no count
    /// either: so where no count is to mean none, the right is tried first, once for each bucket.
    async fn tags(&self, bucket: &str, listed: &Listed, facts: &Facts, extent: Extent) -> Result<Tags> {
        if let Some(told) = listed.tags.as_ref().filter(|told| !told.is_empty())
            && facts.tag_count.is_none_or(|count| usize::try_from(count) == Ok(told.len()))
        {
            return Ok(Ok(told.clone()));
        }
        let is_minio = self.server.is_minio();
        let (tells_tags, counts) = match extent {
            Extent::Whole => (&self.tells_tags[0], is_minio || self.server.product() == Some("AmazonS3")),
            Extent::Facts => (&self.tells_tags[1], is_minio),
        };
        if facts.tag_count.is_some() || counts {
            tells_tags.store(true, Ordering::Relaxed);
        }
        let none = facts.tag_count.unwrap_or(0) == 0 && tells_tags.load(Ordering::Relaxed);
        if self.no_tags.load(Ordering::Relaxed) && facts.tag_count.unwrap_or(0) == 0 {
            return Ok(Ok(tags::Tags::new()));
        }
        // One object asks for all, if it can be for all.
        let _turn = match self.tags_denied.get() {
            None if none => Some(self.asking.lock().await),
            _ => None,
        };
        match self.tags_denied.get() {
            Some(Some(why)) => return Ok(Err(why.clone())),
            Some(None) if none && !self.miscounts.load(Ordering::Relaxed) => {
                return Ok(Ok(tags::Tags::new()));
            }
            _ => {}
        }
        let asked = self.ask_tags(bucket, &listed.key, listed.version_id()).await?;
        let tags = asked.unwrap_or_else(|| Ok(tags::Tags::new()));
        if none && tags.as_ref().is_ok_and(|tags| !tags.is_empty()) {
            self.miscounts.store(true, Ordering::Relaxed);
        }
        Ok(tags)
    }

    /// Asks again for the tags of an object that is otherwise as it was in the previous snapshot. One that is gone by
    /// now keeps those that it had. Returns also whether they are known.
    pub(super) async fn tags_again(&self, mut entry: PreviousEntry) -> Result<(PreviousEntry, bool)> {
        let meta = &entry.meta;
        let asked = match (self.tags_denied.get(), meta.text("bucket"), versions::key_of(meta)) {
            (Some(Some(why)), ..) => Some(Err(why.clone())),
            // What was known of an object is not forgotten because the server knows no tags now.
            _ if self.no_tags.load(Ordering::Relaxed) => None,
            (_, Some(bucket), Some(key)) => {
                let version = meta.text(versions::VERSION_ID).map(str::to_owned);
                self.ask_tags(bucket, key, version).await?
            }
            _ => None,
        };
        let is_known = asked.as_ref().is_none_or(Result::is_ok);
        if let Some(tags) = asked {
            Facts::put_tags(&mut entry.meta.attrs, tags);
        }
        Ok((entry, is_known))
    }

    /// Asks for an object's tags, `None` where it is not there; notes what that says of the whole bucket.
    async fn ask_tags(&self, bucket: &str, key: &str, version: Option<String>) -> Result<Option<Tags>> {
        let request = self.server.client.get_object_tagging().bucket(bucket).key(key);
        match request.set_version_id(version).send().await {
            Ok(answer) => {
                self.tags_denied.set(None).ok();
                Ok(Some(Ok(tags_of(answer.tag_set()))))
            }
            Err(error) => match Told::from(&error) {
                // AWS says so of what a delete marker hides.
                Some(told) if told.code == "NoSuchKey" || told.status == 405 => Ok(None),
                Some(told) if told.is_unknown_request() => {
                    self.no_tags.store(true, Ordering::Relaxed);
                    Ok(Some(Ok(tags::Tags::new())))
                }
                // Some servers say it this way when there are none.
                Some(told) if told.code.starts_with("NoSuchTagSet") => Ok(Some(Ok(tags::Tags::new()))),
                Some(told) if told.is_absent() => Ok(None),
                Some(told) if told.status == 403 && !told.is_about_credentials() => {
                    self.tags_denied.set(Some(told.text())).ok();
                    Ok(Some(Err(told.text())))
                }
                Some(told) if !told.is_about_credentials() => Ok(Some(Err(told.text()))),
                _ => Err(self.server.failure(&format!("read the tags of bucket `{bucket}`"), error)),
            },
        }
    }
}

/// Reads a small body.
async fn collect(mut body: ByteStream, size_bytes: u64) -> Result<Bytes, String> {
    let mut all = BytesMut::new();
    while let Some(bytes) = next(&mut body, size_bytes - all.len() as u64).await {
        all.extend_from_slice(&bytes);
    }
    if all.len() as u64 == size_bytes {
        Ok(all.freeze())
    } else {
        Err(format!("its body broke off after {} of {size_bytes} bytes", all.len()))
    }
}

/// Returns the condition under which bytes are those of the version that was listed. One without an `ETag` or with a
/// weak one, which says nothing of bytes, can have none.
fn condition(listed: &Listed) -> Option<String> {
    let is_strong = !listed.etag.is_empty() && !listed.etag.starts_with("W/");
    is_strong.then(|| format!("\"{}\"", listed.etag))
}

/// Returns whether every request for a listed object gets the bytes of that one or none: else those of two could be
/// put together.
pub(super) fn is_pinned(listed: &Listed) -> bool {
    condition(listed).is_some() || has_own_id(listed)
}

/// Returns whether an id says which object is meant. The version `null` of a key is replaced by later writes.
fn has_own_id(listed: &Listed) -> bool {
    listed.version_id().is_some_and(|id| id != "null")
}

/// Returns whether an answer is about another version than the listing, as far as it tells.
fn is_another(etag: Option<&str>, listed: &Listed) -> bool {
    !listed.etag.is_empty() && etag.is_some_and(|etag| bare(etag) != listed.etag)
}

/// What the bytes of an object are compared with its `ETag` by, while they pass.
pub(super) struct Proof {
    md5: Md5,
    /// Whether the `ETag` says something of the bytes.
    is_plain: bool,
    parts: Option<Prover>,
}

impl Proof {
    fn new(listed: &Listed, facts: &Facts, cuts: Option<Cuts>) -> Self {
        let is_plain = facts.etag_is_of_plain_bytes();
        let parts = is_plain.then(|| Prover::new(&listed.etag, listed.size_bytes, cuts)).flatten();
        Self { md5: Md5::new(), is_plain, parts }
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.md5.update(bytes);
        if let Some(parts) = &mut self.parts {
            parts.update(bytes);
        }
    }

    /// Returns the trailer, or why these are not the object's bytes. An object made in parts of unusual sizes is only
    /// counted: that no size proves it does not mean that it is damaged.
    pub(super) fn finish(self, listed: &Listed, unproven: &AtomicU64) -> Result<Attrs, String> {
        let md5 = hex::encode(self.md5.finalize());
        if is_md5(&listed.etag) && self.is_plain && listed.etag != md5 {
            return Err(format!("its bytes have the MD5 {md5}, its ETag says {}", listed.etag));
        }
        let mut trailer = Attrs::from([(MD5.to_owned(), md5.into())]);
        match self.parts.map(Prover::finish) {
            Some(Some(Proven::Even(part_bytes))) => {
                trailer.insert(PART_SIZE.to_owned(), part_bytes.into());
            }
            Some(None) => drop(unproven.fetch_add(1, Ordering::Relaxed)),
            Some(Some(Proven::Uneven)) | None => {}
        }
        Ok(trailer)
    }
}

fn refused(bucket: &str, listed: &Listed, why: String) -> Opened {
    Opened::Refused(Problem { what: listed.select(bucket), why })
}
