//! Reads a snapshot: signature → refs → manifest → entry lists → chunks, each checked before it is believed.
//!
//! *Order.* The reverse of writing. A chunk's SHA-256 is compared at every read, whoever asked for it.
//! *Crash.* Reading leaves nothing behind.
//!
//! *Limits.* [`BODIES_MAX`] entries are read at the same time, each [`CHUNKS_AHEAD`] chunks ahead.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
};

use futures_util::{StreamExt, stream, stream::FuturesUnordered};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{
    chunks::ChunkReader,
    core::Core,
    format::{self, BodyRecord, EntryRecord, Manifest, PackKind, Refs, SourceManifest},
};
use crate::{
    error::{ExitCode, Failure, Result},
    event::{Event, SharedMonitor},
    flow::{BodyWriter, EntrySink, FlowError, FlowResult, Previous, PreviousEntry, Reuse, Selection},
    names::{ChunkId, EntryPath, PackId, SourceName},
};

/// Entries that are read at the same time.
pub const BODIES_MAX: usize = 6;
/// Chunks that one entry reads ahead.
pub const CHUNKS_AHEAD: usize = 3;
/// Bytes that one line of an entry list may have.
pub(super) const LINE_BYTES_MAX: usize = 16 << 20;

/// Holes in an entry list that are told.
const HOLES_NAMED_MAX: usize = 3;

/// A snapshot whose signature, refs and manifest were checked.
pub struct Snapshot {
    /// Its refs.
    pub refs: Refs,
    /// SHA-256 of their bytes, as they lie in the store: the name of this very commit.
    pub refs_sha256: PackId,
    /// Its manifest.
    pub manifest: Manifest,
    pub(super) chunks: Arc<ChunkReader>,
}

impl Snapshot {
    /// Returns a source of the snapshot by name.
    pub fn source(&self, name: &SourceName) -> Result<&SourceManifest> {
        self.manifest.sources.iter().find(|source| source.name == *name).ok_or_else(|| {
            let names: Vec<&str> = self.manifest.sources.iter().map(|source| source.name.as_str()).collect();
            let what = format!("snapshot `{}` has no source `{name}`", self.refs.snapshot);
            let failure = Failure::new(ExitCode::Usage, what);
            match self.manifest.failed.iter().find(|failed| failed.what == name.as_str()) {
                Some(failed) => failure
                    .because(format!("it could not be read that time: {}", failed.why))
                    .hint("Take an older snapshot for this source; `lifeboat snapshots` lists them."),
                None => failure.hint(format!("It has: {}.", names.join(", "))),
            }
        })
    }

    /// Returns the entries of a source, in the order in which the source sent them.
    pub fn entries(&self, source: &SourceManifest) -> EntryLines {
        EntryLines::new(self.chunks.clone(), source.list.clone())
    }

    /// Sends the wanted entries of a source, the mirror image of [`crate::flow::Source::read`].
    ///
    /// What the backup could not read is reported before the first of them: a target must not take what did not come
    /// for something that is not to be there.
    pub async fn read_source(
        &self,
        name: &SourceName,
        only: &Selection,
        sink: EntrySink,
        monitor: &SharedMonitor,
    ) -> FlowResult<()> {
        self.read_rest(name, only, &BTreeSet::new(), sink, monitor).await
    }

    /// Sends the wanted entries of a source but those in `done`, which are there already.
    pub async fn read_rest(
        &self,
        name: &SourceName,
        only: &Selection,
        done: &BTreeSet<EntryPath>,
        sink: EntrySink,
        monitor: &SharedMonitor,
    ) -> FlowResult<()> {
        let source = self.source(name)?;
        let inventory = self.wanted_inventory(source, only).await?;
        sink.announce(inventory.clone()).await?;
        report_problems(source, &sink).await?;
        self.send(source, self.entries(source), inventory, (only, done), sink, monitor).await
    }

    /// Sends the wanted ones of `lines` that are not done, after `inventory` was announced.
    pub(super) async fn send(
        &self,
        source: &SourceManifest,
        mut lines: EntryLines,
        inventory: Vec<String>,
        (only, done): (&Selection, &BTreeSet<EntryPath>),
        sink: EntrySink,
        monitor: &SharedMonitor,
    ) -> FlowResult<()> {
        let mut open = FuturesUnordered::new();
        while let Some(record) = lines.next().await? {
            if !only.wants(&record.meta) || !only.may_hold(&record.meta, &record.trailer) {
                continue;
            }
            if done.contains(&record.meta.path) {
                let (entries, bytes) = (1, record.size_bytes);
                monitor.event(Event::SourceMoved { source: source.name.clone(), entries, bytes });
                continue;
            }
            while open.len() >= BODIES_MAX {
                open.next().await.transpose()?;
            }
            // Entries are begun one after the other, so that stages ascend; their bodies overlap.
            let begun = sink.begin_knowing(record.meta.clone(), record.trailer.clone());
            tokio::pin!(begun);
            let body = loop {
                tokio::select! {
                    body = &mut begun => break body?,
                    Some(done) = open.next(), if !open.is_empty() => done?,
                }
            };
            open.push(self.send_body(&source.name, record, body, monitor));
        }
        while let Some(done) = open.next().await {
            done?;
        }
        for item in &inventory {
            sink.complete(item);
        }
        sink.finish(source.point.clone()).await
    }

    /// Returns what will be announced: everything, or the items that a wanted entry belongs to. An item of which the
    /// backup could read nothing is not: a target would remove it, and nothing would take its place.
    async fn wanted_inventory(&self, source: &SourceManifest, only: &Selection) -> Result<Vec<String>> {
        let unread: BTreeSet<&String> = source.problems.iter().map(|problem| &problem.what).collect();
        let is_unread = |item: &String| unread.contains(item);
        if only.is_all() && !source.inventory.iter().any(is_unread) {
            return Ok(source.inventory.clone());
        }
        let mut items = BTreeSet::new();
        let mut lines = self.entries(source);
        while let Some(record) = lines.next().await? {
            if only.wants(&record.meta) {
                items.insert(record.meta.item);
            }
        }
        let is_announced = |item: &&String| items.contains(*item) || only.is_all() && !is_unread(item);
        Ok(source.inventory.iter().filter(is_announced).cloned().collect())
    }

    async fn send_body(
        &self,
        source: &SourceName,
        record: EntryRecord,
        mut body: BodyWriter,
        monitor: &SharedMonitor,
    ) -> FlowResult<()> {
        self.pass_body(source, &record, Some(&mut body), monitor).await?;
        body.finish_with(record.trailer).await
    }

    /// Reads an entry whole and compares it with its hash; what is read goes into `body`, if there is one.
    pub(super) async fn pass_body(
        &self,
        source: &SourceName,
        record: &EntryRecord,
        mut body: Option<&mut BodyWriter>,
        monitor: &SharedMonitor,
    ) -> FlowResult<()> {
        let path = record.meta.path.to_string();
        let in_entry = |failure: Failure| {
            let what = format!("entry `{path}` of `{source}` cannot be read back");
            let hints = failure.hints().to_vec();
            let outer = Failure::new(failure.exit(), what).because(failure);
            FlowError::Failed(hints.into_iter().fold(outer, Failure::hint))
        };
        let ids = self.chunks.body_chunks(&record.body).await.map_err(in_entry)?;
        let mut whole = Sha256::new();
        let single = ids.len() == 1;
        let mut ahead =
            stream::iter(ids.clone()).map(|id| self.chunks.chunk(PackKind::Data, id)).buffered(CHUNKS_AHEAD);
        let mut size_bytes = 0;
        while let Some(chunk) = ahead.next().await {
            let chunk = chunk.map_err(in_entry)?;
            size_bytes += chunk.len() as u64;
            if !single {
                whole.update(&chunk);
            }
            monitor.event(Event::SourceMoved {
                source: source.clone(),
                entries: 0,
                bytes: chunk.len() as u64,
            });
            if let Some(body) = &mut body {
                body.write(chunk).await?;
            }
        }
        // A single chunk was compared with its id already, which is the digest of the whole.
        let digest = if single { ids[0] } else { ChunkId(whole.finalize().into()) };
        if digest != record.sha256 || size_bytes != record.size_bytes {
            return Err(in_entry(other_bytes()));
        }
        monitor.event(Event::SourceMoved { source: source.clone(), entries: 1, bytes: 0 });
        Ok(())
    }

    /// Returns all bytes of one entry, for small ones.
    pub async fn entry_bytes(&self, record: &EntryRecord, limit_bytes: u64) -> Result<Vec<u8>> {
        if record.size_bytes > limit_bytes {
            let what = format!("entry `{}` has {} bytes", record.meta.path, record.size_bytes);
            return Err(Failure::new(ExitCode::Failed, what));
        }
        let mut all = Vec::new();
        for id in self.chunks.body_chunks(&record.body).await? {
            let chunk = self.chunks.chunk(PackKind::Data, id).await?;
            if (all.len() + chunk.len()) as u64 > record.size_bytes {
                return Err(other_bytes());
            }
            all.extend_from_slice(&chunk);
        }
        if ChunkId(Sha256::digest(&all).into()) != record.sha256 {
            return Err(other_bytes());
        }
        Ok(all)
    }

    /// Returns the reader of this snapshot's chunks.
    pub fn chunks(&self) -> &ChunkReader {
        &self.chunks
    }
}

fn other_bytes() -> Failure {
    Failure::new(ExitCode::Damage, "its chunks are whole, but together they are not what was stored")
}

/// The entries of a source, read from its entry list piece by piece.
pub struct EntryLines {
    chunks: Arc<ChunkReader>,
    list: VecDeque<ChunkId>,
    buffer: Vec<u8>,
    at: usize,
    /// The chunk of the list that was asked for last.
    asked: Option<ChunkId>,
    /// What is passed over; without it every damage is an error.
    passing: Option<Passing>,
}

/// How damage is passed over.
struct Passing {
    /// Entries that are lost.
    without: Arc<BTreeSet<EntryPath>>,
    /// What is wrong with pieces of the list, in short.
    holes: BTreeSet<String>,
    /// Whether what comes next may begin in the middle of a line.
    torn: bool,
}

impl EntryLines {
    pub(super) fn new(chunks: Arc<ChunkReader>, list: Vec<ChunkId>) -> Self {
        Self { chunks, list: list.into(), buffer: Vec::new(), at: 0, asked: None, passing: None }
    }

    /// Passes over the entries in `without`, and over pieces of the list that are damaged.
    pub(super) fn without(mut self, without: Arc<BTreeSet<EntryPath>>) -> Self {
        self.passing = Some(Passing { without, holes: BTreeSet::new(), torn: false });
        self
    }

    /// Returns what is wrong with the pieces of the list that were passed over, the first ones.
    pub(super) fn holes(self) -> String {
        let holes = self.passing.into_iter().flat_map(|passing| passing.holes);
        holes.take(HOLES_NAMED_MAX).collect::<Vec<_>>().join("; ")
    }

    /// Returns the chunk of the list that the last call of [`Self::next`] needed, to tell what it failed at.
    pub(super) fn asked(&self) -> Option<ChunkId> {
        self.asked
    }

    /// Returns the next entry, `None` at the end.
    pub async fn next(&mut self) -> Result<Option<EntryRecord>> {
        loop {
            let next = self.next_line().await;
            let Some(passing) = &mut self.passing else { return next };
            match next {
                Ok(Some(record)) if passing.without.contains(&record.meta.path) => {}
                Err(failure) if failure.exit() == ExitCode::Damage => {
                    passing.holes.insert(failure.one_line());
                    passing.torn = true;
                    self.buffer.clear();
                    self.at = 0;
                }
                other => return other,
            }
        }
    }

    async fn next_line(&mut self) -> Result<Option<EntryRecord>> {
        let mut searched = self.at;
        loop {
            if let Some(length) = self.buffer[searched..].iter().position(|byte| *byte == b'\n') {
                let end = searched + length;
                let record = format::parse(&self.buffer[self.at..end], "entry list");
                self.at = end + 1;
                let torn = self.passing.as_mut().is_some_and(|passing| std::mem::take(&mut passing.torn));
                if torn && record.is_err() {
                    searched = self.at;
                    continue;
                }
                return record.map(Some);
            }
            let Some(id) = self.list.pop_front() else {
                if self.at < self.buffer.len() {
                    return Err(Failure::new(ExitCode::Damage, "an entry list ends in the middle of a line"));
                }
                return Ok(None);
            };
            self.asked = Some(id);
            self.buffer.drain(..self.at);
            self.at = 0;
            searched = self.buffer.len();
            if searched > LINE_BYTES_MAX {
                return Err(Failure::new(ExitCode::Damage, "a line of an entry list is too long"));
            }
            self.buffer.extend_from_slice(&self.chunks.chunk(PackKind::Meta, id).await?);
        }
    }
}

/// What [`Reuse`] holds for this repository.
#[derive(Serialize, Deserialize)]
pub(super) struct ReusedBody {
    pub(super) size_bytes: u64,
    pub(super) sha256: ChunkId,
    pub(super) body: BodyRecord,
}

impl ReusedBody {
    pub(super) fn parse(reuse: &Reuse) -> Result<Self> {
        format::parse(&reuse.0, "a reused entry")
    }
}

/// The entries of an older snapshot, for a source that can tell what did not change.
pub(super) struct OlderEntries {
    lines: Option<EntryLines>,
    core: Arc<Core>,
}

impl OlderEntries {
    pub(super) fn new(lines: EntryLines, core: Arc<Core>) -> Self {
        Self { lines: Some(lines), core }
    }

    /// Returns whether every chunk of a body lies in a pack that is there.
    async fn is_whole(&self, chunks: &ChunkReader, body: &BodyRecord) -> Result<bool> {
        let ids = match chunks.body_chunks(body).await {
            Ok(ids) => ids,
            Err(failure) if failure.exit() == ExitCode::StoreDown => return Err(failure),
            Err(_) => return Ok(false),
        };
        for id in &ids {
            if self.core.known.find(id, Some(PackKind::Data))?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Reports what the backup could not read.
pub(super) async fn report_problems(source: &SourceManifest, sink: &EntrySink) -> FlowResult<()> {
    for problem in &source.problems {
        sink.report(problem.clone()).await?;
    }
    Ok(())
}

#[async_trait::async_trait]
impl Previous for OlderEntries {
    async fn next(&mut self) -> Result<Option<PreviousEntry>> {
        while let Some(lines) = &mut self.lines {
            let record = match lines.next().await {
                Ok(Some(record)) => record,
                Err(failure) if failure.exit() == ExitCode::StoreDown => return Err(failure),
                // A list that is lost offers nothing more: the source reads the rest anew, which heals.
                Ok(None) | Err(_) => {
                    self.lines = None;
                    break;
                }
            };
            let chunks = lines.chunks.clone();
            // An entry of which a chunk is lost is not offered, for the same reason.
            if self.is_whole(&chunks, &record.body).await? {
                let EntryRecord { meta, trailer, size_bytes, sha256, body } = record;
                let reuse = Reuse(format::write(&ReusedBody { size_bytes, sha256, body }).into());
                return Ok(Some(PreviousEntry { meta, trailer, size_bytes, reuse }));
            }
        }
        Ok(None)
    }
}
