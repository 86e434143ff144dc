//! Entries on their way: the channel that joins a reader and a writer, the same in both directions.
//!
//! *Order.* A source announces its inventory, then sends entries in ascending [`Stage`], completes each
//! inventory item when the last entry of it is finished, and ends with [`EntrySink::finish`]. Bodies have
//! bounded channels of their own and may interleave.
//!
//! *Crash.* An end is an act. A body whose writer was dropped reads as [`FlowError::Truncated`]; a stream
//! whose sink was dropped without `finish` reads as [`FlowError::Unfinished`]; a sink that finishes with an
//! announced item missing gets [`FlowError::Incomplete`]. So nothing half sent is ever taken for whole.
//!
//! *Limits.* [`BODY_DEPTH`] frames of at most [`FRAME_BYTES_MAX`] wait in one body; the channel's depth
//! bounds the entries that wait.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::mpsc;

use crate::{clock::stored_time, error::Failure, names::EntryPath};

/// Frames that may wait in one body.
pub const BODY_DEPTH: usize = 4;
/// Bytes that one frame may hold; [`BodyWriter::write`] cuts what is longer.
pub const FRAME_BYTES_MAX: usize = 1 << 20;
/// Entries that may wait in a stream.
pub const STREAM_DEPTH: usize = 4;

/// The trailer's name for why an entry has not the bytes of the thing that it stands for: only a part of it could be
/// read, or it changed meanwhile. What they are worth as they are only the target of their own kind can know.
pub const TORN: &str = "torn";
/// What the name of a file ends with that holds the bytes of a [`TORN`] entry, wherever names are all that is left of
/// an entry. No path ends so: a `%` of a name is always escaped.
pub const TORN_ENDING: &str = "%torn";

/// Facts about an entry, by name.
pub type Attrs = BTreeMap<String, Value>;

/// When an entry is applied: a target sees all of one stage before the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// What must exist before data: databases, tables, buckets, directories.
    Schema,
    /// The data.
    Data,
    /// What must come after: indexes, triggers, grants, bucket policies.
    After,
}

/// Who marks the borders of an entry's chunks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cut {
    /// The repository finds them in the bytes.
    #[default]
    Content,
    /// The source knows better and calls [`BodyWriter::border`].
    Marked,
}

/// What is known of an entry before its first byte.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EntryMeta {
    /// Where it is inside its source.
    pub path: EntryPath,
    /// When it is applied.
    pub stage: Stage,
    /// The inventory item that it belongs to.
    pub item: String,
    /// What `--only` patterns are matched with: `db.table`, `bucket/key`, a file's path.
    pub select: String,
    /// Whether things inside it need it first (a database, a bucket): a pattern that picks one of them
    /// picks this too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub container: bool,
    /// Who marks the chunk borders.
    #[serde(default)]
    pub cut: Cut,
    /// Facts known at the beginning.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attrs: Attrs,
}

impl EntryMeta {
    /// Makes the meta of an entry that is selected by its item's name and has no attributes.
    pub fn new(path: EntryPath, stage: Stage, item: impl Into<String>) -> Self {
        let item = item.into();
        Self {
            path,
            stage,
            select: item.clone(),
            item,
            container: false,
            cut: Cut::Content,
            attrs: Attrs::new(),
        }
    }

    /// Adds a fact.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.attrs.insert(name.to_owned(), value.into());
        self
    }

    /// Returns a text attribute.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.attrs.get(name).and_then(Value::as_str)
    }
}

/// The instant that a source was read at, in the source's own terms.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Point {
    /// The wall clock of this host at that instant.
    #[serde(deserialize_with = "stored_time")]
    pub at: DateTime<Utc>,
    /// The engine's coordinates: `gtid`, `binlog_file`, `binlog_pos`; `replid`, `offset`; `window_end`.
    pub marks: BTreeMap<String, String>,
}

impl Point {
    /// Makes a point without coordinates.
    pub fn at(at: DateTime<Utc>) -> Self {
        Self { at, marks: BTreeMap::new() }
    }

    /// Adds a coordinate.
    #[must_use]
    pub fn mark(mut self, name: &str, value: impl Into<String>) -> Self {
        self.marks.insert(name.to_owned(), value.into());
        self
    }
}

/// Something that a source could not read and went on without; it makes the snapshot partial.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Problem {
    /// What it is about, as `select` would name it.
    pub what: String,
    /// What is wrong with it.
    pub why: String,
}

/// How a stream of entries can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum FlowError {
    /// A body's writer went away before it said that it was done.
    #[error("entry `{path}` ended before it was finished")]
    Truncated {
        /// The entry.
        path: EntryPath,
    },
    /// The sending side went away before it said that it was done.
    #[error("the stream of entries ended before it was finished")]
    Unfinished,
    /// The receiving side went away.
    #[error("the other side of the stream is gone")]
    Closed,
    /// A source ended well without having sent all that it had announced.
    #[error("the source announced {} and did not send it", list(.missing))]
    Incomplete {
        /// The announced items that were not completed.
        missing: Vec<String>,
    },
    /// One side failed for a reason of its own.
    #[error(transparent)]
    Failed(#[from] Failure),
}

/// Returns up to five names in backticks, and how many more there are.
fn list(names: &[String]) -> String {
    let shown: Vec<String> = names.iter().take(5).map(|name| format!("`{name}`")).collect();
    let more = names.len().saturating_sub(5);
    if more == 0 { shown.join(", ") } else { format!("{} and {more} more", shown.join(", ")) }
}

impl FlowError {
    /// Returns whether this only repeats that the other end failed.
    pub fn is_echo(&self) -> bool {
        matches!(self, Self::Closed | Self::Truncated { .. } | Self::Unfinished)
    }
}

/// The result of moving entries.
pub type FlowResult<T> = Result<T, FlowError>;

/// What a repository needs to take an entry's bytes from an older snapshot; meaningless to all others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reuse(pub Bytes);

enum Frame {
    Data(Bytes),
    Border,
    End(Attrs),
}

/// Some bytes of a body, or the border of a chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Bytes.
    Data(Bytes),
    /// A chunk ends here.
    Border,
}

/// An entry as the receiving side sees it.
#[derive(Debug)]
pub struct Entry {
    /// What is known of it.
    pub meta: EntryMeta,
    /// Its bytes.
    pub body: Body,
}

/// The bytes of an entry, to be read to their end.
pub struct Body {
    path: EntryPath,
    from: Content,
    foretold: Attrs,
    trailer: Option<Attrs>,
}

enum Content {
    Sent(mpsc::Receiver<Frame>),
    Reused(Reuse),
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Body").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Body {
    /// Returns the next bytes or border, `None` at a finished end, [`FlowError::Truncated`] at any other.
    pub async fn next_piece(&mut self) -> FlowResult<Option<Piece>> {
        let Content::Sent(frames) = &mut self.from else {
            panic!("the body of `{}` is reused: ask reused() first", self.path);
        };
        if self.trailer.is_some() {
            return Ok(None);
        }
        match frames.recv().await {
            Some(Frame::Data(bytes)) => Ok(Some(Piece::Data(bytes))),
            Some(Frame::Border) => Ok(Some(Piece::Border)),
            Some(Frame::End(trailer)) => {
                self.trailer = Some(trailer);
                Ok(None)
            }
            None => Err(FlowError::Truncated { path: self.path.clone() }),
        }
    }

    /// Returns the next bytes, as [`Self::next_piece`] without the borders.
    pub async fn next(&mut self) -> FlowResult<Option<Bytes>> {
        loop {
            match self.next_piece().await? {
                Some(Piece::Data(bytes)) => return Ok(Some(bytes)),
                Some(Piece::Border) => {}
                None => return Ok(None),
            }
        }
    }

    /// Reads the whole body into memory; fails when it is longer than `limit_bytes`.
    pub async fn read_all(&mut self, limit_bytes: usize) -> FlowResult<Vec<u8>> {
        let mut all = Vec::new();
        while let Some(bytes) = self.next().await? {
            if all.len() + bytes.len() > limit_bytes {
                let what = format!("entry `{}` is longer than {limit_bytes} bytes", self.path);
                return Err(Failure::new(crate::error::ExitCode::Failed, what).into());
            }
            all.extend_from_slice(&bytes);
        }
        Ok(all)
    }

    /// Returns the facts that were told with the end; only after the end was read.
    pub fn trailer(&self) -> &Attrs {
        static NONE: Attrs = Attrs::new();
        self.trailer.as_ref().unwrap_or(&NONE)
    }

    /// Returns the facts that will come with the end, where whoever sends them knows them already.
    pub fn foretold(&self) -> &Attrs {
        &self.foretold
    }

    /// Returns where the bytes are to be taken from, when the source did not send them again.
    pub fn reused(&self) -> Option<&Reuse> {
        match &self.from {
            Content::Reused(reuse) => Some(reuse),
            Content::Sent(_) => None,
        }
    }
}

/// Writes the body of one entry.
#[must_use = "an unfinished body is reported as truncated"]
pub struct BodyWriter {
    frames: mpsc::Sender<Frame>,
}

impl BodyWriter {
    /// Sends bytes; waits while the other side is busy.
    pub async fn write(&mut self, mut bytes: Bytes) -> FlowResult<()> {
        while !bytes.is_empty() {
            let part = bytes.split_to(bytes.len().min(FRAME_BYTES_MAX));
            self.frames.send(Frame::Data(part)).await.map_err(|_| FlowError::Closed)?;
        }
        Ok(())
    }

    /// Marks the border of a chunk, for entries with [`Cut::Marked`].
    pub async fn border(&mut self) -> FlowResult<()> {
        self.frames.send(Frame::Border).await.map_err(|_| FlowError::Closed)
    }

    /// Says that the body is whole.
    pub async fn finish(self) -> FlowResult<()> {
        self.finish_with(Attrs::new()).await
    }

    /// Says that the body is whole, with facts that only its end could tell (rows, a digest).
    pub async fn finish_with(self, trailer: Attrs) -> FlowResult<()> {
        self.frames.send(Frame::End(trailer)).await.map_err(|_| FlowError::Closed)
    }
}

enum Item {
    Announced(Vec<String>),
    Entry(Entry),
    Problem { problem: Problem, is_gone: bool },
    End(Point),
}

/// The sending side of a stream of entries; clones may send from several tasks.
#[derive(Clone)]
pub struct EntrySink {
    items: mpsc::Sender<Item>,
    open: Arc<Mutex<Option<BTreeSet<String>>>>,
}

/// The receiving side of a stream of entries.
pub struct EntryStream {
    items: mpsc::Receiver<Item>,
    inventory: Vec<String>,
    problems: Vec<Problem>,
    gone: u64,
    point: Option<Point>,
}

/// Makes a stream that holds at most `depth` waiting entries.
pub fn channel(depth: usize) -> (EntrySink, EntryStream) {
    let (sender, receiver) = mpsc::channel(depth);
    let sink = EntrySink { items: sender, open: Arc::new(Mutex::new(None)) };
    let stream =
        EntryStream { items: receiver, inventory: Vec::new(), problems: Vec::new(), gone: 0, point: None };
    (sink, stream)
}

impl EntrySink {
    /// Says what is going to be sent: tables, buckets, file roots. Once, before the first entry.
    pub async fn announce(&self, inventory: Vec<String>) -> FlowResult<()> {
        let set: BTreeSet<String> = inventory.iter().cloned().collect();
        let before = self.open.lock().unwrap_or_else(PoisonError::into_inner).replace(set);
        assert!(before.is_none(), "a source announces its inventory once");
        self.send(Item::Announced(inventory)).await
    }

    /// Begins an entry. Entries come in ascending stage.
    pub async fn begin(&self, meta: EntryMeta) -> FlowResult<BodyWriter> {
        self.begin_knowing(meta, Attrs::new()).await
    }

    /// Begins an entry whose end is known already: its body will be finished with `foretold`.
    pub async fn begin_knowing(&self, meta: EntryMeta, foretold: Attrs) -> FlowResult<BodyWriter> {
        let (frames, receiver) = mpsc::channel(BODY_DEPTH);
        let from = Content::Sent(receiver);
        let body = Body { path: meta.path.clone(), from, foretold, trailer: None };
        self.send(Item::Entry(Entry { meta, body })).await?;
        Ok(BodyWriter { frames })
    }

    /// Sends an entry whose bytes are those of an older snapshot, unread.
    pub async fn reuse(&self, meta: EntryMeta, trailer: Attrs, reuse: Reuse) -> FlowResult<()> {
        let from = Content::Reused(reuse);
        let body = Body { path: meta.path.clone(), from, foretold: trailer.clone(), trailer: Some(trailer) };
        self.send(Item::Entry(Entry { meta, body })).await
    }

    /// Sends a small entry in one call.
    pub async fn put(&self, meta: EntryMeta, bytes: impl Into<Bytes>) -> FlowResult<()> {
        let mut body = self.begin(meta).await?;
        body.write(bytes.into()).await?;
        body.finish().await
    }

    /// Says that all entries of an announced item were sent.
    pub fn complete(&self, item: &str) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let known = open.as_mut().is_some_and(|set| set.remove(item));
        assert!(known, "`{item}` was completed but not announced, or completed twice");
    }

    /// Reports something that had to be left out; the snapshot becomes partial.
    pub async fn report(&self, problem: Problem) -> FlowResult<()> {
        self.send(Item::Problem { problem, is_gone: false }).await
    }

    /// Reports something that the snapshot before had and that is not there any more; the snapshot becomes partial, for
    /// nobody knows whether that is a loss.
    pub async fn report_gone(&self, problem: Problem) -> FlowResult<()> {
        self.send(Item::Problem { problem, is_gone: true }).await
    }

    /// Says that the source was read whole, at `point`.
    pub async fn finish(self, point: Point) -> FlowResult<()> {
        let missing: Vec<String> = {
            let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            open.as_ref().map(|set| set.iter().cloned().collect()).unwrap_or_default()
        };
        if !missing.is_empty() {
            return Err(FlowError::Incomplete { missing });
        }
        self.send(Item::End(point)).await
    }

    async fn send(&self, item: Item) -> FlowResult<()> {
        self.items.send(item).await.map_err(|_| FlowError::Closed)
    }
}

impl EntryStream {
    /// Returns the next entry, `None` after a finished end, [`FlowError::Unfinished`] at any other.
    pub async fn next(&mut self) -> FlowResult<Option<Entry>> {
        loop {
            if self.point.is_some() {
                return Ok(None);
            }
            match self.items.recv().await {
                Some(Item::Entry(entry)) => return Ok(Some(entry)),
                Some(Item::Announced(inventory)) => self.inventory = inventory,
                Some(Item::Problem { problem, is_gone }) => {
                    self.problems.push(problem);
                    self.gone += u64::from(is_gone);
                }
                Some(Item::End(point)) => self.point = Some(point),
                None => return Err(FlowError::Unfinished),
            }
        }
    }

    /// Returns what the source announced; complete once the first entry was read.
    pub fn inventory(&self) -> &[String] {
        &self.inventory
    }

    /// Returns what the source had to leave out, so far.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// Returns how many of the problems so far are that something is gone since the snapshot before.
    pub fn gone(&self) -> u64 {
        self.gone
    }

    /// Returns the source's point, after the end was read.
    pub fn point(&self) -> Option<&Point> {
        self.point.as_ref()
    }
}
