//! Reads a snapshot: signature → refs → manifest → entry lists → chunks, each checked before it is believed.
//!
//! *Order.* The reverse of writing. A chunk's SHA-256 is compared at every read, whoever asked for it.
//! *Crash.* Reading leaves nothing behind.
//!
//! *Limits.* [`BODIES_MAX`] entries are read at the same time, each [`CHUNKS_AHEAD`] chunks ahead; frames are
//! read in runs of at most [`RUN_BYTES_MAX`] and [`CACHE_BYTES_MAX`] of them stay in memory.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use futures_util::{StreamExt, stream, stream::FuturesUnordered};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::task::spawn_blocking;

use super::{
    Core,
    format::{self, BodyRecord, EntryRecord, Manifest, PackKind, Refs, SourceManifest, layout},
    index::{Location, PackMap},
    pack,
};
use crate::{
    crypt::{CIPHER_CHUNK_BYTES, Identities, PLAIN_CHUNK_BYTES, Payload},
    error::{Context, ExitCode, Failure, Result},
    event::{Event, SharedMonitor},
    flow::{BodyWriter, EntrySink, FlowError, FlowResult, Previous, PreviousEntry, Reuse, Selection},
    names::{ChunkId, PackId, SourceName},
};

/// Entries that are read at the same time.
pub const BODIES_MAX: usize = 6;
/// Chunks that one entry reads ahead.
pub const CHUNKS_AHEAD: usize = 3;
/// Plain bytes of frames that one range read brings.
pub const RUN_BYTES_MAX: u64 = 8 << 20;
/// Plain bytes of frames that stay in memory.
pub const CACHE_BYTES_MAX: usize = 64 << 20;
/// Bytes that one line of an entry list may have.
const LINE_BYTES_MAX: usize = 16 << 20;

/// A snapshot whose signature, refs and manifest were checked.
pub struct Snapshot {
    /// Its refs.
    pub refs: Refs,
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
    pub async fn read_source(
        &self,
        name: &SourceName,
        only: &Selection,
        sink: EntrySink,
        monitor: &SharedMonitor,
    ) -> FlowResult<()> {
        let source = self.source(name)?;
        let inventory = self.wanted_inventory(source, only).await?;
        sink.announce(inventory.clone()).await?;
        let mut lines = self.entries(source);
        let mut open = FuturesUnordered::new();
        while let Some(record) = lines.next().await? {
            if !only.wants(&record.meta) {
                continue;
            }
            while open.len() >= BODIES_MAX {
                open.next().await.transpose()?;
            }
            // Entries are begun one after the other, so that stages ascend; their bodies overlap.
            let begun = sink.begin(record.meta.clone());
            tokio::pin!(begun);
            let body = loop {
                tokio::select! {
                    body = &mut begun => break body?,
                    Some(done) = open.next(), if !open.is_empty() => done?,
                }
            };
            open.push(self.send_body(name, record, body, monitor));
        }
        while let Some(done) = open.next().await {
            done?;
        }
        for item in &inventory {
            sink.complete(item);
        }
        sink.finish(source.point.clone()).await
    }

    /// Returns what will be announced: everything, or the items that a wanted entry belongs to.
    async fn wanted_inventory(&self, source: &SourceManifest, only: &Selection) -> Result<Vec<String>> {
        if only.is_all() {
            return Ok(source.inventory.clone());
        }
        let mut items = BTreeSet::new();
        let mut lines = self.entries(source);
        while let Some(record) = lines.next().await? {
            if only.wants(&record.meta) {
                items.insert(record.meta.item);
            }
        }
        Ok(items.into_iter().collect())
    }

    async fn send_body(
        &self,
        source: &SourceName,
        record: EntryRecord,
        mut body: BodyWriter,
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
            body.write(chunk).await?;
        }
        // A single chunk was compared with its id already, which is the digest of the whole.
        let digest = if single { ids[0] } else { ChunkId(whole.finalize().into()) };
        if digest != record.sha256 || size_bytes != record.size_bytes {
            let what = "its chunks are whole, but together they are not what was stored";
            return Err(in_entry(Failure::new(ExitCode::Damage, what)));
        }
        monitor.event(Event::SourceMoved { source: source.clone(), entries: 1, bytes: 0 });
        body.finish_with(record.trailer).await
    }

    /// Returns all bytes of one entry, for small ones.
    pub async fn entry_bytes(&self, record: &EntryRecord, limit_bytes: u64) -> Result<Vec<u8>> {
        if record.size_bytes > limit_bytes {
            let what = format!("entry `{}` has {} bytes", record.meta.path, record.size_bytes);
            return Err(Failure::new(ExitCode::Failed, what));
        }
        let mut all = Vec::new();
        for id in self.chunks.body_chunks(&record.body).await? {
            all.extend_from_slice(&self.chunks.chunk(PackKind::Data, id).await?);
        }
        Ok(all)
    }

    /// Returns the reader of this snapshot's chunks.
    pub fn chunks(&self) -> &ChunkReader {
        &self.chunks
    }
}

/// The entries of a source, read from its entry list piece by piece.
pub struct EntryLines {
    chunks: Arc<ChunkReader>,
    list: VecDeque<ChunkId>,
    buffer: Vec<u8>,
    at: usize,
}

impl EntryLines {
    pub(super) fn new(chunks: Arc<ChunkReader>, list: Vec<ChunkId>) -> Self {
        Self { chunks, list: list.into(), buffer: Vec::new(), at: 0 }
    }

    /// Returns the next entry, `None` at the end.
    pub async fn next(&mut self) -> Result<Option<EntryRecord>> {
        let mut searched = self.at;
        loop {
            if let Some(length) = self.buffer[searched..].iter().position(|byte| *byte == b'\n') {
                let end = searched + length;
                let record = format::parse(&self.buffer[self.at..end], "entry list")?;
                self.at = end + 1;
                return Ok(Some(record));
            }
            let Some(id) = self.list.pop_front() else {
                if self.at < self.buffer.len() {
                    return Err(Failure::new(ExitCode::Damage, "an entry list ends in the middle of a line"));
                }
                return Ok(None);
            };
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
    pub(super) lines: EntryLines,
    pub(super) core: Arc<Core>,
}

#[async_trait::async_trait]
impl Previous for OlderEntries {
    async fn next(&mut self) -> Result<Option<PreviousEntry>> {
        while let Some(record) = self.lines.next().await? {
            // An entry of which a chunk is lost is not offered: the source then sends it anew, which heals.
            let ids = self.lines.chunks.body_chunks(&record.body).await?;
            let mut whole = true;
            for id in &ids {
                whole = whole && self.core.known.find(id, Some(PackKind::Data))?.is_some();
            }
            if whole {
                let EntryRecord { meta, trailer, size_bytes, sha256, body } = record;
                let reuse = Reuse(format::write(&ReusedBody { size_bytes, sha256, body }).into());
                return Ok(Some(PreviousEntry { meta, trailer, size_bytes, reuse }));
            }
        }
        Ok(None)
    }
}

/// Reads chunks out of packs.
pub struct ChunkReader {
    core: Arc<Core>,
    identities: Identities,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    payloads: HashMap<PackId, Arc<Payload>>,
    frames: HashMap<(PackId, u32), Bytes>,
    order: VecDeque<(PackId, u32)>,
    cached_bytes: usize,
    fetching: HashMap<PackId, Arc<tokio::sync::Mutex<()>>>,
}

impl ChunkReader {
    pub(super) fn new(core: Arc<Core>, identities: Identities) -> Self {
        Self { core, identities, state: Mutex::default() }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the ids that a body record names.
    pub async fn body_chunks(&self, body: &BodyRecord) -> Result<Vec<ChunkId>> {
        match body {
            BodyRecord::Chunks(ids) => Ok(ids.clone()),
            BodyRecord::Lists(lists) => self.list_chunks(lists).await,
        }
    }

    /// Returns the ids that nested lists hold.
    pub(super) async fn list_chunks(&self, lists: &[ChunkId]) -> Result<Vec<ChunkId>> {
        let mut ids = Vec::new();
        for id in lists {
            let chunk = self.chunk(PackKind::Meta, *id).await?;
            let text = std::str::from_utf8(&chunk)
                .failed(ExitCode::Damage, || format!("list `{id}` is not text"))?;
            for line in text.lines() {
                ids.push(line.parse().failed(ExitCode::Damage, || format!("list `{id}` names no chunk"))?);
            }
        }
        Ok(ids)
    }

    /// Returns the bytes of a chunk out of a pack of `kind`, compared with its id.
    pub async fn chunk(&self, kind: PackKind, id: ChunkId) -> Result<Bytes> {
        let at = self.core.known.find(&id, Some(kind))?.ok_or_else(|| {
            Failure::new(ExitCode::Damage, format!("chunk `{id}` is in no pack that is there")).hint(
                "Run `lifeboat verify` to see what is missing; the next backup stores it again if it can.",
            )
        })?;
        let frame = self.frame(&at).await?;
        let (from, to) = (at.offset as usize, at.offset as usize + at.size_bytes as usize);
        let differs = || {
            Failure::new(ExitCode::Damage, format!("pack `{}` gives other bytes for chunk `{id}`", at.pack))
        };
        if to > frame.len() {
            return Err(differs());
        }
        let bytes = frame.slice(from..to);
        let hashed = bytes.clone();
        let work = spawn_blocking(move || ChunkId(Sha256::digest(&hashed).into()));
        if work.await.failed(ExitCode::Failed, || "hashing broke off".to_owned())? != id {
            return Err(differs());
        }
        Ok(bytes)
    }

    /// Returns a plain frame, from memory or from the store together with the ones behind it.
    async fn frame(&self, at: &Location) -> Result<Bytes> {
        let wanted = (at.pack, at.frame);
        if let Some(frame) = self.state().frames.get(&wanted) {
            return Ok(frame.clone());
        }
        let gate = self.state().fetching.entry(at.pack).or_default().clone();
        let _one_at_a_time = gate.lock().await;
        if let Some(frame) = self.state().frames.get(&wanted) {
            return Ok(frame.clone());
        }
        let map = self.core.known.pack(&at.pack)?.ok_or_else(|| missing(at.pack))?;
        let frames = self.fetch(at.pack, &map, at.frame).await?;
        let frame = frames.first().cloned().ok_or_else(|| missing(at.pack))?;
        self.keep(at, frames);
        Ok(frame)
    }

    fn keep(&self, at: &Location, frames: Vec<Bytes>) {
        let mut state = self.state();
        for (number, frame) in (at.frame..).zip(frames) {
            let key = (at.pack, number);
            if let Some(old) = state.frames.insert(key, frame.clone()) {
                state.cached_bytes -= old.len();
            } else {
                state.order.push_back(key);
            }
            state.cached_bytes += frame.len();
        }
        while state.cached_bytes > CACHE_BYTES_MAX {
            let Some(oldest) = state.order.pop_front() else { break };
            if let Some(frame) = state.frames.remove(&oldest) {
                state.cached_bytes -= frame.len();
            }
        }
    }

    /// Reads a run of frames from number `first` on with one range read.
    async fn fetch(&self, pack: PackId, map: &PackMap, first: u32) -> Result<Vec<Bytes>> {
        let damaged =
            || Failure::new(ExitCode::Damage, format!("the index of pack `{pack}` does not fit it"));
        let behind = map.frames.get(first as usize..).filter(|run| !run.is_empty()).ok_or_else(damaged)?;
        let mut plain_bytes = 0;
        let run: Vec<_> = behind
            .iter()
            .take_while(|frame| {
                let fits = plain_bytes == 0 || plain_bytes + u64::from(frame.plain_bytes) <= RUN_BYTES_MAX;
                plain_bytes += u64::from(frame.plain_bytes);
                fits
            })
            .copied()
            .collect();
        let payload = self.payload(pack, map).await?;
        let (begin, end) =
            (run[0].offset, run.last().map_or(0, |last| last.offset + u64::from(last.size_bytes)));
        let first_chunk = begin / PLAIN_CHUNK_BYTES;
        let last_chunk = end.saturating_sub(1) / PLAIN_CHUNK_BYTES;
        let from = map.payload_offset + first_chunk * CIPHER_CHUNK_BYTES;
        let to = (map.payload_offset + (last_chunk + 1) * CIPHER_CHUNK_BYTES).min(map.size_bytes);
        if from >= to {
            return Err(damaged());
        }
        let sealed = self.core.get.get(&layout::pack(pack), Some(from..to)).await?;
        let ends = to == map.size_bytes;
        let work = spawn_blocking(move || {
            let what = || format!("pack `{pack}` cannot be decrypted");
            let plain = payload.open(&sealed, first_chunk, ends).failed(ExitCode::Damage, what)?;
            let unpack = |frame: &format::FrameRecord| {
                let at = frame
                    .offset
                    .checked_sub(first_chunk * PLAIN_CHUNK_BYTES)
                    .ok_or_else(|| Failure::new(ExitCode::Damage, what()))?;
                let at = usize::try_from(at).unwrap_or(usize::MAX);
                let bytes = plain.get(at..at.saturating_add(frame.size_bytes as usize));
                let bytes = bytes.ok_or_else(|| Failure::new(ExitCode::Damage, what()))?;
                pack::unpack_frame(bytes, *frame, pack)
            };
            run.iter().map(unpack).collect::<Result<Vec<Bytes>>>()
        });
        work.await.failed(ExitCode::Failed, || "unpacking broke off".to_owned())?
    }

    /// Returns the key of a pack's payload, unwrapped once.
    async fn payload(&self, pack: PackId, map: &PackMap) -> Result<Arc<Payload>> {
        if let Some(payload) = self.state().payloads.get(&pack) {
            return Ok(payload.clone());
        }
        let head = self.core.get.get(&layout::pack(pack), Some(0..map.payload_offset)).await?;
        let payload = Arc::new(Payload::unlock(&head, &self.identities, &format!("pack {pack}"))?);
        self.state().payloads.insert(pack, payload.clone());
        Ok(payload)
    }
}

fn missing(pack: PackId) -> Failure {
    Failure::new(ExitCode::Damage, format!("pack `{pack}` is missing"))
}
