//! The bytes of one big object on their way: one stream, or ranges read side by side and handed on in their order.
//!
//! *Order.* An object of more than [`RANGED_BYTES_MIN`] is asked for in ranges of [`RANGE_BYTES`]. The first that is
//! still to be written streams, those behind it are read ahead into memory: who writes sees one stream. All ranges are
//! of one version (`If-Match`, and the id of a version), and a connection that breaks is taken up again where it broke,
//! each range by itself. An object that no request can be sure to meet again ([`is_pinned`]) is one stream that is
//! not taken up again; one stream is also what a server sends that answers the first range with the whole. Only turns
//! that no other object waits for are taken to read ahead.
//!
//! *Crash.* When an object can no longer be had (it was replaced between two ranges or while the connection was down,
//! or its bytes do not match its `ETag`) its entry is already begun and cannot be taken back. It is finished with a
//! trailer that says [`TORN`], and reported. A torn entry is never written to a target as an object and never reused.
//!
//! *Limits.* One object has [`RANGES_MAX`] ranges under way. All objects of a source together have at most so many
//! that were read ahead in memory (64 MiB), and never more requests than its `concurrency`. [`RESUME_TRIES`] broken
//! connections of a range, or per [`PROGRESS_BYTES`] of one stream, are taken up again.

use std::{collections::VecDeque, ops::Range, sync::Arc, time::Duration};

use aws_sdk_s3::{operation::get_object::GetObjectOutput, primitives::ByteStream};
use bytes::Bytes;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::timeout,
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    client::BODY_SECONDS,
    fetch::{Fetcher, Miss, Proof, is_pinned},
    listing::Listed,
};
use crate::{
    error::{ExitCode, Failure, Result},
    flow::{BodyWriter, FlowResult, Problem, TORN},
};

/// Bytes above which an object is read in ranges.
const RANGED_BYTES_MIN: u64 = 64 << 20;
/// Bytes of a range; the last one of an object may be shorter.
const RANGE_BYTES: u64 = 16 << 20;
/// Ranges of one object that are under way at a time.
const RANGES_MAX: usize = 4;
/// How often a broken body is taken up again before some progress is made.
const RESUME_TRIES: u32 = 5;
/// What counts as progress.
const PROGRESS_BYTES: u64 = 64 << 20;

/// Which ranges may be read ahead; shared by all objects of a source.
#[derive(Clone, Debug)]
pub(super) struct Turns {
    /// The requests that the source may have under way; each object that is read has one of its own.
    requests: Arc<Semaphore>,
    /// The ranges that may be in memory.
    room: Arc<Semaphore>,
    /// Whether there can be a turn for a second request at all.
    is_parallel: bool,
}

impl Turns {
    /// Makes those of a source whose requests take these permits, all of which are free.
    pub(super) fn new(requests: Arc<Semaphore>) -> Self {
        let is_parallel = requests.available_permits() > 1;
        Self { requests, room: Arc::new(Semaphore::new(RANGES_MAX)), is_parallel }
    }

    /// Returns the first range of an object of so many bytes; `None` for one that is one stream.
    pub(super) fn first(&self, size_bytes: u64) -> Option<Range<u64>> {
        (self.is_parallel && size_bytes > RANGED_BYTES_MIN).then_some(0..RANGE_BYTES)
    }

    /// Takes a turn and room for one range, if both are free.
    fn take(&self) -> Option<(OwnedSemaphorePermit, OwnedSemaphorePermit)> {
        let room = Arc::clone(&self.room).try_acquire_owned().ok()?;
        Some((Arc::clone(&self.requests).try_acquire_owned().ok()?, room))
    }
}

/// Where bytes come from.
pub(super) struct Origin {
    pub(super) fetcher: Fetcher,
    pub(super) bucket: String,
    pub(super) listed: Listed,
}

/// The bytes of one object on their way.
pub(super) struct Pump {
    origin: Arc<Origin>,
    proof: Proof,
    /// The range whose bytes are written.
    head: Head,
    /// Those behind it, in their order.
    ahead: VecDeque<Ahead>,
    /// Up to here the object was asked for.
    asked: u64,
}

enum Head {
    Streaming(Stretch),
    Ahead(Ahead),
}

/// A range that is read into memory.
struct Ahead {
    /// Not bounded: a range is.
    steps: mpsc::UnboundedReceiver<Result<Step>>,
    _reading: AbortOnDropHandle<()>,
    /// Goes back when its bytes are written.
    _room: OwnedSemaphorePermit,
}

/// What comes next of a range.
enum Step {
    Bytes(Bytes),
    End,
    /// It cannot be had, and why.
    Torn(String),
}

/// A range of an object, taken up again where its connection breaks.
struct Stretch {
    origin: Arc<Origin>,
    /// What is still to come.
    left: Range<u64>,
    body: Option<ByteStream>,
    tries: u32,
    /// Where it was when tries were counted anew.
    progress: u64,
}

impl Pump {
    /// Makes one of an object whose first bytes, up to `end`, are in `body`.
    pub(super) fn new(origin: Origin, proof: Proof, body: ByteStream, end: u64) -> Self {
        let origin = Arc::new(origin);
        let head = Head::Streaming(Stretch::new(&origin, 0..end, Some(body)));
        Self { origin, proof, head, ahead: VecDeque::new(), asked: end }
    }

    /// Moves all bytes; returns what is wrong with them, if anything.
    pub(super) async fn run(mut self, mut writer: BodyWriter) -> FlowResult<Option<Problem>> {
        let torn = loop {
            self.read_ahead();
            match self.head.next().await? {
                Step::Bytes(bytes) => {
                    self.proof.update(&bytes);
                    writer.write(bytes).await?;
                }
                Step::Torn(why) => break why,
                Step::End if self.advance() => {}
                Step::End => match self.proof.finish(&self.origin.listed, &self.origin.fetcher.unproven) {
                    Ok(trailer) => return writer.finish_with(trailer).await.map(|()| None),
                    Err(why) => break why,
                },
            }
        };
        writer.finish_with([(TORN.to_owned(), torn.clone().into())].into()).await?;
        Ok(Some(Problem { what: self.origin.listed.select(&self.origin.bucket), why: torn }))
    }

    /// Begins to read as many ranges ahead as there are turns for.
    fn read_ahead(&mut self) {
        while self.ahead.len() + 1 < RANGES_MAX
            && self.asked < self.origin.listed.size_bytes
            && let Some((turn, room)) = self.origin.fetcher.turns.take()
        {
            let mut range = self.next_range();
            let (sender, steps) = mpsc::unbounded_channel();
            let reading = tokio::spawn(async move {
                let _turn = turn;
                loop {
                    let step = range.next().await;
                    let goes_on = matches!(step, Ok(Step::Bytes(_)));
                    if sender.send(step).is_err() || !goes_on {
                        break;
                    }
                }
            });
            self.ahead.push_back(Ahead { steps, _reading: AbortOnDropHandle::new(reading), _room: room });
        }
    }

    /// Goes on to the next range; returns whether there is one.
    fn advance(&mut self) -> bool {
        self.head = match self.ahead.pop_front() {
            Some(ahead) => Head::Ahead(ahead),
            None if self.asked < self.origin.listed.size_bytes => Head::Streaming(self.next_range()),
            None => return false,
        };
        true
    }

    /// Returns the first range that was not asked for, of which there must be one.
    fn next_range(&mut self) -> Stretch {
        let from = self.asked;
        self.asked = self.origin.listed.size_bytes.min(from + RANGE_BYTES);
        Stretch::new(&self.origin, from..self.asked, None)
    }
}

impl Head {
    async fn next(&mut self) -> Result<Step> {
        match self {
            Self::Streaming(range) => range.next().await,
            Self::Ahead(ahead) => {
                let stopped = || Err(Failure::new(ExitCode::Failed, "a read was stopped"));
                ahead.steps.recv().await.unwrap_or_else(stopped)
            }
        }
    }
}

impl Stretch {
    fn new(origin: &Arc<Origin>, left: Range<u64>, body: Option<ByteStream>) -> Self {
        let progress = left.start;
        Self { origin: Arc::clone(origin), left, body, tries: 0, progress }
    }

    async fn next(&mut self) -> Result<Step> {
        loop {
            if let Some(body) = &mut self.body {
                // After the last byte too: an answer that was read to its end leaves its connection for the next.
                if let Some(bytes) = next(body, self.left.end - self.left.start).await {
                    self.left.start += bytes.len() as u64;
                    return Ok(Step::Bytes(bytes));
                }
                if self.left.is_empty() {
                    return Ok(Step::End);
                }
                if let Some(why) = self.count_break() {
                    return Ok(Step::Torn(why));
                }
            }
            if let Err(why) = self.ask().await? {
                return Ok(Step::Torn(why));
            }
        }
    }

    /// Counts a broken connection; returns why there is to be no other, if so.
    fn count_break(&mut self) -> Option<String> {
        if !is_pinned(&self.origin.listed) {
            return Some(format!(
                "its body broke off after {} bytes, and it has no ETag by which the rest of it could be told from that \
                 of another",
                self.left.start
            ));
        }
        if self.left.start - self.progress >= PROGRESS_BYTES {
            (self.tries, self.progress) = (0, self.left.start);
        }
        self.tries += 1;
        (self.tries > RESUME_TRIES).then(|| {
            format!("its body broke off {} times, the last time after {} bytes", self.tries, self.left.start)
        })
    }

    /// Asks for what is still to come.
    async fn ask(&mut self) -> Result<Result<(), String>> {
        let Origin { fetcher, bucket, listed } = &*self.origin;
        Ok(match fetcher.get(bucket, listed, Some(&self.left)).await? {
            Ok(answer) if self.is_answered_by(&answer) => {
                self.body = Some(answer.body);
                Ok(())
            }
            Ok(_) => Err("the server does not send the range of it that was asked for".to_owned()),
            Err(Miss::Changed) => Err("it was replaced while it was read".to_owned()),
            Err(Miss::Vanished) => Err("it was deleted while it was read".to_owned()),
            Err(Miss::Archived(why) | Miss::Refused(why) | Miss::Broken(why)) => Err(why),
        })
    }

    /// Returns whether the bytes of an answer are the next ones. All of an object is right where nothing of it came.
    fn is_answered_by(&self, answer: &GetObjectOutput) -> bool {
        let size_bytes = self.origin.listed.size_bytes;
        match sent_range(answer) {
            Some(sent) => is_next(&sent, &self.left, size_bytes),
            None => self.left == (0..size_bytes) && answer.content_range().is_none(),
        }
    }
}

/// Returns whether bytes that were sent, of an object of so many if that was told, are the next ones of `left`.
fn is_next((sent, of): &(Range<u64>, Option<u64>), left: &Range<u64>, size_bytes: u64) -> bool {
    sent.start == left.start && sent.end <= left.end && of.is_none_or(|of| of == size_bytes)
}

/// Returns which bytes an answer says that it holds, and of how many, if it tells: RFC 9110, 14.4.
pub(super) fn sent_range(answer: &GetObjectOutput) -> Option<(Range<u64>, Option<u64>)> {
    let (range, size) = answer.content_range()?.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
    Some((first..last.checked_add(1)?, size.parse().ok()))
}

/// Returns the next bytes; `None` when there are none, for whatever reason, or more than there may be.
pub(super) async fn next(body: &mut ByteStream, left: u64) -> Option<Bytes> {
    let next = timeout(Duration::from_secs(BODY_SECONDS), body.next()).await;
    next.ok().flatten().and_then(Result::ok).filter(|bytes| bytes.len() as u64 <= left)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_next_bytes_of_an_object_of_that_size_go_on_with_it() {
        let left = 16..32;
        for (sent, of, expected) in [
            (16..32, Some(40), true),
            (16..20, None, true),
            (15..32, Some(40), false),
            (16..33, Some(40), false),
            (16..32, Some(41), false),
        ] {
            assert_eq!(is_next(&(sent.clone(), of), &left, 40), expected, "{sent:?} of {of:?}");
        }
    }
}
