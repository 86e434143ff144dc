//! The one natural way for data: a [`Source`] is read into a stream of entries, a [`Target`] is written
//! from one. Whether a repository, another server or nothing lies between is nobody's business here.
//!
//! The laws (see [`conformance`], which every engine runs):
//! 1. [`pipe`]`(source, target)` without a repository is a correct migration.
//! 2. read(write(read(x))) = read(x).
//! 3. An end is an act: what was not finished is an error for the other side.
//! 4. When one side fails, the cause is told and not its echo ([`settle`]).
//! 5. A source announces its inventory; success with an item missing is an error.

pub mod compare;
pub mod conformance;
mod cut;
mod entry;
mod keys;
mod preflight;
mod select;
pub mod unordered;

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

pub use self::{
    compare::{Likeness, Oddity, Seen},
    cut::ContentCut,
    entry::{
        Attrs, BODY_DEPTH, Body, BodyWriter, Cut, Entry, EntryMeta, EntrySink, EntryStream, FRAME_BYTES_MAX,
        FlowError, FlowResult, Piece, Point, Problem, Reuse, STREAM_DEPTH, Stage, TORN, TORN_ENDING, channel,
    },
    keys::{KeyRange, KeyValues},
    preflight::{Changes, Coming, ComingEntry, Preflight, Remark, Weight},
    select::Selection,
};
use crate::{
    error::Result,
    names::{EntryPath, SourceName},
};

/// An entry of the previous snapshot of the same source.
#[derive(Clone, Debug)]
pub struct PreviousEntry {
    /// What was known of it.
    pub meta: EntryMeta,
    /// What was told at its end.
    pub trailer: Attrs,
    /// Its plain size.
    pub size_bytes: u64,
    /// Hand this to [`EntrySink::reuse`] when the thing did not change.
    pub reuse: Reuse,
}

/// The entries of the previous snapshot of the same source, in the order in which it sent them.
#[async_trait]
pub trait Previous: Send {
    /// Returns the next entry whose bytes are still there, `None` at the end.
    async fn next(&mut self) -> Result<Option<PreviousEntry>>;
}

/// What can be read once, at one point.
#[async_trait]
pub trait Source: Send {
    /// Returns the source's name in its stack.
    fn name(&self) -> &SourceName;

    /// Reads all of it into `sink`: announce, entries, complete, finish. `previous` allows a source that
    /// can tell what did not change to skip reading it.
    async fn read(self: Box<Self>, sink: EntrySink, previous: Option<Box<dyn Previous>>) -> FlowResult<()>;
}

/// What a target holds already that a restore would touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TargetState {
    /// The server's product and version, as a person would say it.
    pub version: String,
    /// One line for each thing in the way (`database im: 12 tables`); none when the target is empty.
    pub in_the_way: Vec<String>,
    /// What goes by another name there than in the snapshot, by its old name.
    pub names: BTreeMap<String, String>,
    /// The jobs that were interrupted there and can be continued.
    pub unfinished: Vec<String>,
    /// What it says of the things that would come.
    pub preflight: Preflight,
}

/// What a restore is allowed and asked to do; by default everything into an empty target.
#[derive(Clone, Debug, Default)]
pub struct WriteOptions {
    /// Whether what is in the way may be removed first.
    pub replace: bool,
    /// Which entries are wanted; the stream holds only those already. Targets whose entries hold many
    /// things (a Redis dump) apply it inside.
    pub only: Selection,
    /// How what is written is to be checked; reading it back is not the target's duty.
    pub verify: Verify,
    /// What the target is to call this restore, so that it can be continued; without it nothing is noted.
    pub job: Option<String>,
    /// Whether what that job has done already is its own and not in the way; the stream comes without
    /// [`Target::done`].
    pub resume: bool,
    /// What becomes of things that the target does not know.
    pub fit: Fit,
    /// Says when the restore is to end early. Only a target that [`Target::ends_itself`] need look.
    pub stop: CancellationToken,
}

/// How what a restore writes is checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verify {
    /// It is read back and compared with the snapshot's digests, where a target can be read back.
    #[default]
    Digests,
    /// It is counted.
    Counts,
    /// Not at all, beyond what each step of the way checks.
    Nothing,
}

/// How what was written was checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verified {
    /// It was read back and has the digests of what was stored.
    Digests,
    /// As much is there as was sent, and each byte was compared with its digest on the way.
    Counts,
    /// Not at all.
    #[default]
    No,
}

impl Verified {
    /// Returns the word that people and `--json` see.
    pub fn word(self) -> &'static str {
        match self {
            Self::Digests => "digests",
            Self::Counts => "counts",
            Self::No => "no",
        }
    }
}

/// What becomes of things that a target does not know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fit {
    /// Collations that the person wants in the place of others.
    pub collations: BTreeMap<String, String>,
    /// Whether what the target cannot hold may be left out.
    pub leave_out: bool,
}

/// What a target did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Entries applied.
    pub entries: u64,
    /// Plain bytes applied.
    pub bytes: u64,
    /// How what was written was compared with what was sent.
    pub verified: Verified,
    /// What a person should know, a line each.
    pub notes: Vec<String>,
    /// What became of what came, where that is known thing by thing.
    pub changes: Option<Changes>,
    /// What came and could not be applied, because something that it needs had not come.
    pub left_out: Vec<Problem>,
    /// Rows that refer to rows that are not there, where not all was restored that could have brought them.
    pub dangling: u64,
    /// Items of the snapshot that did not come because the person wished so; they are not compared.
    pub without: BTreeSet<String>,
    /// Whether definitions were written in other words than the snapshot's: they read differently then.
    pub reworded: bool,
}

/// What can be written from a stream of entries.
#[async_trait]
pub trait Target: Send {
    /// Returns the name of the source that it takes the place of.
    fn name(&self) -> &SourceName;

    /// Looks what is there that restoring `inventory` would touch; changes nothing.
    async fn inspect(&mut self, inventory: &[String]) -> Result<TargetState>;

    /// Returns the entries of the first two stages that an interrupted `job` has brought in whole.
    async fn done(&mut self, _job: &str) -> Result<BTreeSet<EntryPath>> {
        Ok(BTreeSet::new())
    }

    /// Looks whether what would come fits, and what it needs; changes nothing. Targets that take all say nothing.
    async fn preflight(&mut self, _options: &WriteOptions, _coming: &mut dyn Coming) -> Result<Preflight> {
        Ok(Preflight::default())
    }

    /// Returns whether a restore that is to stop must be ended by the target itself, because it holds something of
    /// the server that it has to give back. All others are dropped where they are.
    fn ends_itself(&self) -> bool {
        false
    }

    /// Applies every entry, stage by stage, and checks the result. Fails before it touches anything when
    /// something is in the way and `options.replace` is not set.
    ///
    /// What the stream reports as a problem is not there although it should be: nothing that stands in the target is
    /// removed on that account.
    async fn write(self: Box<Self>, options: WriteOptions, entries: EntryStream) -> FlowResult<Tally>;
}

/// Joins the two ends of a stream and returns the cause of a failure, not its echo.
///
/// When one end fails the other sees only that its partner is gone; whichever finished first, the error
/// worth telling is the one that is no echo.
pub fn settle<A, B>(up: FlowResult<A>, down: FlowResult<B>) -> FlowResult<(A, B)> {
    match (up, down) {
        (Ok(a), Ok(b)) => Ok((a, b)),
        (Err(up), Err(down)) => Err(if up.is_echo() { down } else { up }),
        (Err(error), Ok(_)) | (Ok(_), Err(error)) => Err(error),
    }
}

/// Copies a source straight into a target, with nothing between.
pub async fn pipe(
    source: Box<dyn Source>,
    target: Box<dyn Target>,
    options: WriteOptions,
) -> FlowResult<Tally> {
    let (sink, stream) = channel(STREAM_DEPTH);
    let (read, written) = tokio::join!(source.read(sink, None), target.write(options, stream));
    settle(read, written).map(|((), tally)| tally)
}

impl FlowError {
    /// Turns the error into what a person is told about `source`.
    pub fn about(self, source: &SourceName) -> crate::error::Failure {
        use crate::error::{ExitCode, Failure};
        match self {
            Self::Failed(failure) => failure,
            other => Failure::new(ExitCode::Failed, format!("`{source}` was not moved whole")).because(other),
        }
    }
}

/// Returns an entry path made of text that is known to be one.
///
/// # Panics
/// When it is not: the text is written in this program.
pub fn fixed_path(text: &str) -> EntryPath {
    EntryPath::new(text).unwrap_or_else(|error| panic!("{error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{ExitCode, Failure};

    #[tokio::test]
    async fn a_source_that_stops_early_is_unfinished() {
        let (sink, mut stream) = channel(STREAM_DEPTH);
        sink.announce(vec!["a".into()]).await.unwrap();
        drop(sink);
        assert!(matches!(stream.next().await, Err(FlowError::Unfinished)));
    }

    #[tokio::test]
    async fn a_body_that_is_dropped_is_truncated_even_if_the_source_then_finishes() {
        let (sink, mut stream) = channel(STREAM_DEPTH);
        sink.announce(vec![]).await.unwrap();
        let mut body = sink.begin(EntryMeta::new(fixed_path("a"), Stage::Data, "a")).await.unwrap();
        body.write("half".into()).await.unwrap();
        drop(body);
        sink.finish(Point::at(chrono::DateTime::UNIX_EPOCH)).await.unwrap();
        let mut entry = stream.next().await.unwrap().unwrap();
        assert_eq!(entry.body.next().await.unwrap().unwrap(), "half");
        assert!(matches!(entry.body.next().await, Err(FlowError::Truncated { .. })));
    }

    #[tokio::test]
    async fn success_with_an_announced_item_missing_is_an_error() {
        let (sink, _stream) = channel(STREAM_DEPTH);
        sink.announce(vec!["im.users".into(), "im.messages".into()]).await.unwrap();
        sink.complete("im.users");
        let error = sink.finish(Point::at(chrono::DateTime::UNIX_EPOCH)).await.unwrap_err();
        assert_eq!(error.to_string(), "the source announced `im.messages` and did not send it");
    }

    #[tokio::test]
    async fn what_is_gone_is_a_problem_and_told_from_others() {
        let (sink, mut stream) = channel(STREAM_DEPTH);
        let problem = |what: &str| Problem { what: what.into(), why: "why".into() };
        sink.report(problem("unread")).await.unwrap();
        sink.report_gone(problem("gone")).await.unwrap();
        sink.finish(Point::at(chrono::DateTime::UNIX_EPOCH)).await.unwrap();
        assert!(stream.next().await.unwrap().is_none());
        assert_eq!((stream.problems(), stream.gone()), (&[problem("unread"), problem("gone")][..], 1));
    }

    #[tokio::test]
    async fn long_writes_are_cut_into_frames_and_borders_are_kept() {
        let (sink, mut stream) = channel(STREAM_DEPTH);
        let send = async {
            let mut body = sink.begin(EntryMeta::new(fixed_path("a"), Stage::Data, "a")).await?;
            body.write(vec![7; FRAME_BYTES_MAX + 1].into()).await?;
            body.border().await?;
            body.finish_with([("rows".to_owned(), 3.into())].into()).await
        };
        let take = async {
            let mut entry = stream.next().await?.expect("an entry");
            let mut seen = Vec::new();
            while let Some(piece) = entry.body.next_piece().await? {
                seen.push(match piece {
                    Piece::Data(bytes) => bytes.len(),
                    Piece::Border => 0,
                });
            }
            assert_eq!(entry.body.trailer()["rows"], 3);
            Ok::<_, FlowError>(seen)
        };
        let (sent, seen) = tokio::join!(send, take);
        sent.unwrap();
        assert_eq!(seen.unwrap(), [FRAME_BYTES_MAX, 1, 0]);
    }

    #[test]
    fn the_cause_is_told_and_not_its_echo() {
        let cause = || FlowError::Failed(Failure::new(ExitCode::SourceDown, "the server went away"));
        for (up, down) in [
            (Err::<(), _>(cause()), Err::<(), _>(FlowError::Unfinished)),
            (Err(FlowError::Closed), Err(cause())),
        ] {
            assert_eq!(settle(up, down).unwrap_err().to_string(), "the server went away");
        }
    }
}
