//! One object's bytes, whole or not at all.
//!
//! *Order.* Every GET carries `If-Match` with the listed `ETag`, so all bytes are of one version of the
//! object. An object of at most [`WHOLE_BYTES_MAX`] is read and checked before its entry begins; a longer
//! one streams, and a connection that breaks is taken up again where it broke.
//!
//! *Crash.* When a streaming object can no longer be had (it was replaced while the connection was down, or
//! its bytes do not match its `ETag`) its entry is already begun and cannot be taken back. It is finished
//! with a trailer that says [`TORN`], and reported. A torn entry is never written to a target as an object
//! and never reused.
//!
//! *Limits.* [`OPEN_TRIES`] versions of an object are tried, [`RESUME_TRIES`] broken connections per
//! [`PROGRESS_BYTES`] taken up again.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use aws_sdk_s3::{
    operation::get_object::{GetObjectError, GetObjectOutput},
    primitives::ByteStream,
};
use bytes::{Bytes, BytesMut};
use md5::{Digest, Md5};
use tokio::time::timeout;

use super::{
    client::{BODY_SECONDS, CallError, Server, Told},
    facts::{Facts, object_meta},
    listing::{Listed, Lister, is_md5},
    merge::TORN,
};
use crate::{
    error::Result,
    flow::{Attrs, BodyWriter, EntryMeta, FlowResult, Problem},
};

/// Bytes up to which an object is read into memory before its entry begins.
pub(super) const WHOLE_BYTES_MAX: u64 = 1 << 20;
/// How often an object that changes under us is tried.
const OPEN_TRIES: u32 = 3;
/// How often a broken body is taken up again before some progress is made.
const RESUME_TRIES: u32 = 5;
/// What counts as progress.
const PROGRESS_BYTES: u64 = 64 << 20;

/// Opens objects of one server.
#[derive(Clone, Debug)]
pub(super) struct Fetcher {
    server: Server,
    /// Whether the server is known to say how many tags an object has; else each object is asked.
    tells_tags: Arc<AtomicBool>,
    /// Whether the server does not know tags at all.
    no_tags: Arc<AtomicBool>,
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
    /// It was deleted after it was listed, which is nobody's fault.
    Vanished,
    /// It cannot be read.
    Refused(Problem),
}

/// The bytes of one object on their way.
pub(super) struct Pump {
    fetcher: Fetcher,
    bucket: String,
    listed: Listed,
    facts: Facts,
    body: ByteStream,
}

/// How one attempt at a request for an object ended.
enum Got {
    Answer(Box<GetObjectOutput>),
    Changed,
    Vanished,
    Refused(String),
}

impl Fetcher {
    /// Makes one for a server.
    pub(super) fn new(server: &Server) -> Self {
        Self { server: server.clone(), tells_tags: Arc::default(), no_tags: Arc::default() }
    }

    /// Opens an object; an error is one that ends the run.
    pub(super) async fn open(&self, bucket: &str, mut listed: Listed) -> Result<Opened> {
        let mut why = String::new();
        for _ in 0..OPEN_TRIES {
            match self.get(bucket, &listed, 0).await? {
                Got::Answer(answer) => match self.begin(bucket, &listed, *answer).await? {
                    Ok(opened) => return Ok(opened),
                    Err(broken) => why = broken,
                },
                Got::Refused(why) => return Ok(refused(bucket, &listed, why)),
                gone_or_changed => {
                    // A listing that goes on showing what cannot be had is damage and no deletion.
                    why = match gone_or_changed {
                        Got::Vanished => "the server lists it and says that it is not there".to_owned(),
                        _ => "it changed each time that it was read".to_owned(),
                    };
                    match Lister::look_up(&self.server, bucket, &listed.key).await? {
                        Some(now) => listed = now,
                        None => return Ok(Opened::Vanished),
                    }
                }
            }
        }
        Ok(refused(bucket, &listed, why))
    }

    /// Turns an answer into an opened object, or tells why its bytes are not good.
    async fn begin(
        &self,
        bucket: &str,
        listed: &Listed,
        answer: GetObjectOutput,
    ) -> Result<Result<Opened, String>> {
        let mut facts = Facts::of_get(&answer);
        let length = answer.content_length().and_then(|length| u64::try_from(length).ok());
        if length.is_some_and(|length| length != listed.size_bytes) {
            let length = length.unwrap_or_default();
            return Ok(Err(format!(
                "the listing says {} bytes, the server sends {length}",
                listed.size_bytes
            )));
        }
        match self.tags(bucket, listed, &facts).await? {
            Ok(tags) => facts.tags = tags,
            // The bytes are worth having without them.
            Err(why) => facts.tags_unread = Some(why),
        }
        let meta = object_meta(bucket, listed, &facts)?;
        if listed.size_bytes > WHOLE_BYTES_MAX {
            let (fetcher, bucket, listed) = (self.clone(), bucket.to_owned(), listed.clone());
            let pump = Box::new(Pump { fetcher, bucket, listed, facts, body: answer.body });
            return Ok(Ok(Opened::Streaming { meta, pump }));
        }
        Ok(collect(answer.body, listed.size_bytes).await.and_then(|bytes| {
            let md5 = hex::encode(Md5::digest(&bytes));
            check(listed, &facts, &md5)?;
            Ok(Opened::Whole { meta, bytes, trailer: trailer(&md5) })
        }))
    }

    async fn get(&self, bucket: &str, listed: &Listed, from: u64) -> Result<Got> {
        let range = (from > 0).then(|| format!("bytes={from}-"));
        let request = self.server.client.get_object().bucket(bucket).key(&listed.key).set_range(range);
        let answer = request.if_match(format!("\"{}\"", listed.etag)).send().await;
        match answer {
            Ok(answer) => Ok(Got::Answer(Box::new(answer))),
            Err(error) => self.refusal(bucket, error),
        }
    }

    /// Tells what a failed GET means: the run ends only when the server is gone or knows us not.
    fn refusal(&self, bucket: &str, error: CallError<GetObjectError>) -> Result<Got> {
        let told = Told::from(&error);
        match told {
            Some(told) if told.is_about_credentials() || told.code == "NoSuchBucket" => {
                Err(self.server.failure(&format!("read bucket `{bucket}`"), error))
            }
            Some(told) if told.is_absent() => Ok(Got::Vanished),
            Some(told) if told.status == 412 => Ok(Got::Changed),
            Some(told) => Ok(Got::Refused(told.text())),
            None => Err(self.server.failure(&format!("read bucket `{bucket}`"), error)),
        }
    }

    /// Returns the object's tags, or why they cannot be read.
    ///
    /// AWS, `MinIO` and Ceph count the tags in a GET's answer and send no count for none; a server that was
    /// never seen to count is asked.
    async fn tags(
        &self,
        bucket: &str,
        listed: &Listed,
        facts: &Facts,
    ) -> Result<Result<BTreeMap<String, String>, String>> {
        let counts = matches!(self.server.product(), Some("AmazonS3" | "MinIO"));
        if facts.tag_count.is_some() || counts {
            self.tells_tags.store(true, Ordering::Relaxed);
        }
        let none = facts.tag_count.unwrap_or(0) == 0 && self.tells_tags.load(Ordering::Relaxed);
        if none || self.no_tags.load(Ordering::Relaxed) {
            return Ok(Ok(BTreeMap::new()));
        }
        let answer = self.server.client.get_object_tagging().bucket(bucket).key(&listed.key).send().await;
        match answer {
            Ok(answer) => {
                let pairs = answer.tag_set().iter().map(|tag| (tag.key().to_owned(), tag.value().to_owned()));
                Ok(Ok(pairs.collect()))
            }
            Err(error) => match Told::from(&error) {
                Some(told) if told.is_unknown_request() => {
                    self.no_tags.store(true, Ordering::Relaxed);
                    Ok(Ok(BTreeMap::new()))
                }
                // Some servers say it this way when there are none.
                Some(told) if told.is_absent() => Ok(Ok(BTreeMap::new())),
                Some(told) if !told.is_about_credentials() => Ok(Err(told.text())),
                _ => Err(self.server.failure(&format!("read the tags of bucket `{bucket}`"), error)),
            },
        }
    }
}

impl Pump {
    /// Moves all bytes; returns what is wrong with them, if anything.
    pub(super) async fn run(mut self, mut writer: BodyWriter) -> FlowResult<Option<Problem>> {
        let (mut done, mut tries, mut progress) = (0, 0, 0);
        let mut md5 = Md5::new();
        let torn = loop {
            if let Some(bytes) = next(&mut self.body, self.listed.size_bytes - done).await {
                done += bytes.len() as u64;
                md5.update(&bytes);
                writer.write(bytes).await?;
                continue;
            }
            if done == self.listed.size_bytes {
                let digest = hex::encode(md5.finalize());
                let Err(why) = check(&self.listed, &self.facts, &digest) else {
                    writer.finish_with(trailer(&digest)).await?;
                    return Ok(None);
                };
                break why;
            }
            if done - progress >= PROGRESS_BYTES {
                (tries, progress) = (0, done);
            }
            tries += 1;
            if tries > RESUME_TRIES {
                break format!("its body broke off {tries} times, the last time after {done} bytes");
            }
            match self.fetcher.get(&self.bucket, &self.listed, done).await? {
                Got::Answer(answer) if resumes(&answer, done) => self.body = answer.body,
                Got::Answer(_) => break "the server cannot send the rest of a broken body".to_owned(),
                Got::Changed => break "it was replaced while it was read".to_owned(),
                Got::Vanished => break "it was deleted while it was read".to_owned(),
                Got::Refused(why) => break why,
            }
        };
        writer.finish_with([(TORN.to_owned(), torn.clone().into())].into()).await?;
        Ok(Some(Problem { what: format!("{}/{}", self.bucket, self.listed.key), why: torn }))
    }
}

/// Returns whether an answer goes on where the bytes broke off.
fn resumes(answer: &GetObjectOutput, done: u64) -> bool {
    done == 0 || answer.content_range().is_some_and(|range| range.starts_with(&format!("bytes {done}-")))
}

/// Returns the next bytes; `None` when there are none, for whatever reason, or more than there may be.
async fn next(body: &mut ByteStream, left: u64) -> Option<Bytes> {
    let next = timeout(Duration::from_secs(BODY_SECONDS), body.next()).await;
    next.ok().flatten().and_then(Result::ok).filter(|bytes| bytes.len() as u64 <= left)
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

/// Compares the bytes with the `ETag`, where that is their MD5.
fn check(listed: &Listed, facts: &Facts, md5: &str) -> Result<(), String> {
    if is_md5(&listed.etag) && facts.etag_is_of_plain_bytes() && listed.etag != md5 {
        return Err(format!("its bytes have the MD5 {md5}, its ETag says {}", listed.etag));
    }
    Ok(())
}

fn trailer(md5: &str) -> Attrs {
    [("md5".to_owned(), md5.into())].into()
}

fn refused(bucket: &str, listed: &Listed, why: String) -> Opened {
    Opened::Refused(Problem { what: format!("{bucket}/{}", listed.key), why })
}
