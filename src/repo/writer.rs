//! Writes a snapshot: entries become chunks, new chunks become packs, and a signature makes it exist.
//!
//! *Order.* session → packs → index → manifest → refs → fence → signature. Each is put only after the one before it
//! lies in the store, so whatever a reader can see points only to what is there. Readers go the other way.
//!
//! *Crash.* Until the signature is put there is no snapshot. What a run that died has left are packs and
//! indexes that the next run finds and uses, and perhaps a manifest and refs that nobody believes.
//!
//! *Limits.* [`BODIES_MAX`] entries are read at the same time; each holds at most two of the largest chunks.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures_util::{StreamExt, stream::FuturesOrdered};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::task::spawn_blocking;

use super::{
    Append, Repository,
    chunks::ChunkReader,
    commit::Stored,
    cutting::Cutting,
    format::{self, BodyRecord, CHUNKS_IN_RECORD_MAX, EntryRecord, PackKind, SourceManifest, Status},
    hold::AtWork,
    index::Location,
    marks::SessionKind,
    packer::{Packer, PackerSettings},
    reader::{LINE_BYTES_MAX, ReusedBody},
};
use crate::{
    clock::Ground,
    error::{Context, ExitCode, Failure, Result},
    event::{Event, SharedMonitor},
    flow::{Attrs, Body, Cut, Entry, EntryMeta, EntryStream, FlowError, FlowResult, Piece, Reuse, Stage},
    names::{ChunkId, PackId, SnapshotId, SourceName},
};

/// Entries that are read at the same time.
pub const BODIES_MAX: usize = 6;
/// Bytes that are gathered before a blocking thread is asked to cut and hash them.
const GATHER_BYTES: usize = 1 << 20;
/// Pieces that are gathered at most, however small.
const GATHER_PIECES: usize = 4096;
/// Chunk ids in one chunk of a nested list.
const IDS_IN_LIST_CHUNK: usize = 8192;

/// What an operator says of a snapshot.
#[derive(Clone, Debug, Default)]
pub struct Label {
    /// The stack's name.
    pub stack: String,
    /// The host's name.
    pub host: String,
    /// A word to find it by.
    pub tag: Option<String>,
    /// Why it is to be kept for ever.
    pub pin: Option<String>,
    /// Whether a person named the sources and left others aside.
    pub chosen: bool,
}

/// A snapshot that exists.
#[derive(Clone, Debug)]
pub struct Committed {
    /// Its id.
    pub id: SnapshotId,
    /// When it was begun.
    pub began: DateTime<Utc>,
    /// Whether it is whole.
    pub status: Status,
    /// Its sources.
    pub sources: Vec<SourceManifest>,
    /// Bytes that it added to the store.
    pub added_bytes: u64,
    /// Packs that it added to the store.
    pub added_packs: u64,
    /// Older packs of which it uses little: no later snapshot should rely on them.
    pub thin: BTreeSet<PackId>,
    /// What each source is made of.
    pub tallies: BTreeMap<SourceName, SourceTally>,
}

/// What a source is made of, as far as its entries tell.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceTally {
    /// Entries that hold data: objects, files, pieces of tables.
    pub data_entries: u64,
    /// Sums over what entries counted at their ends, by the name: `rows`, `keys`.
    pub sums: BTreeMap<String, u64>,
    /// How many of its problems are that something is gone since the snapshot before.
    pub gone: u64,
}

impl SourceTally {
    /// Adds what another part of the source is made of.
    pub fn add(&mut self, other: &Self) {
        self.data_entries += other.data_entries;
        self.gone += other.gone;
        for (name, number) in &other.sums {
            *self.sums.entry(name.clone()).or_default() += number;
        }
    }
}

/// What entries count at their ends, as engines call it.
const COUNTED: [&str; 2] = ["rows", "keys"];

/// Writes one snapshot.
pub struct SnapshotWriter<'a> {
    pub(super) repository: &'a Repository<Append>,
    pub(super) ground: Ground,
    pub(super) monitor: SharedMonitor,
    pub(super) id: SnapshotId,
    pub(super) began: DateTime<Utc>,
    pub(super) data: Packer,
    pub(super) meta: Packer,
    pub(super) session: Mutex<Session>,
    pub(super) stored: tokio::sync::Mutex<Stored>,
    pub(super) sources: Vec<SourceManifest>,
    pub(super) tallies: BTreeMap<SourceName, SourceTally>,
    older: ChunkReader,
}

#[derive(Default)]
pub(super) struct Session {
    /// Chunks that this run has handed to a packer.
    written: HashSet<(PackKind, ChunkId)>,
    /// Packs of older runs that this snapshot needs.
    pub(super) used: BTreeMap<PackId, u64>,
    /// Plain bytes of each of them that it needs; what is needed twice counts twice.
    pub(super) used_bytes: BTreeMap<PackId, u64>,
}

/// The claim to hand a chunk to a packer. One that is dropped before the packer has the chunk gives it back:
/// a source that broke off must not leave others in the belief that the chunk is stored.
struct Claim<'a> {
    session: &'a Mutex<Session>,
    chunk: Option<(PackKind, ChunkId)>,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        if let Some(chunk) = self.chunk.take() {
            self.session.lock().unwrap_or_else(PoisonError::into_inner).written.remove(&chunk);
        }
    }
}

/// Figures of the source that is being written.
struct Progress<'a> {
    source: &'a SourceName,
    entries: AtomicU64,
    size_bytes: AtomicU64,
    read_bytes: AtomicU64,
    added_bytes: AtomicU64,
    tally: Mutex<SourceTally>,
}

impl Progress<'_> {
    /// Counts an entry that was stored, and what it counted itself.
    fn entry(&self, meta: &EntryMeta, trailer: &Attrs, size_bytes: u64) {
        self.entries.fetch_add(1, Ordering::Relaxed);
        self.size_bytes.fetch_add(size_bytes, Ordering::Relaxed);
        let mut tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        tally.data_entries += u64::from(meta.stage == Stage::Data);
        for name in COUNTED {
            if let Some(number) = trailer.get(name).and_then(serde_json::Value::as_u64) {
                *tally.sums.entry(name.to_owned()).or_default() += number;
            }
        }
    }
}

impl<'a> SnapshotWriter<'a> {
    pub(super) async fn begin(
        repository: &'a Repository<Append>,
        ground: Ground,
        monitor: SharedMonitor,
        level: i32,
    ) -> Result<Self> {
        let began = ground.clock.now();
        let id = ground.id_at(began);
        let generation = repository.access.standing.generation;
        let at_work = AtWork::new(id.clone(), SessionKind::Backup, generation);
        let settings = |kind| PackerSettings {
            put: repository.access.put.clone(),
            get: repository.core.get.clone(),
            kind,
            config: repository.core.config.revision,
            recipients: match kind {
                PackKind::Data => repository.access.data_to.clone(),
                PackKind::Meta => repository.access.meta_to.clone(),
            },
            pack_size_bytes: repository.core.config.pack_size_bytes,
            level,
            monitor: monitor.clone(),
        };
        let writer = Self {
            repository,
            ground,
            id,
            began,
            data: Packer::start(settings(PackKind::Data)),
            meta: Packer::start(settings(PackKind::Meta)),
            monitor,
            session: Mutex::default(),
            stored: tokio::sync::Mutex::new(Stored::new(at_work)),
            sources: Vec::new(),
            tallies: BTreeMap::new(),
            older: repository.index_reader(),
        };
        writer.mark(&mut *writer.stored.lock().await).await?;
        Ok(writer)
    }

    /// Returns the id that the snapshot will have.
    pub fn id(&self) -> &SnapshotId {
        &self.id
    }

    /// Stores every entry of one source; returns after the source's finished end was read.
    pub async fn write_source(
        &mut self,
        name: &SourceName,
        kind: &str,
        mut stream: EntryStream,
    ) -> FlowResult<()> {
        let began = self.ground.clock.now();
        let progress = Progress {
            source: name,
            entries: AtomicU64::new(0),
            size_bytes: AtomicU64::new(0),
            read_bytes: AtomicU64::new(0),
            added_bytes: AtomicU64::new(0),
            tally: Mutex::default(),
        };
        let written = self.write_entries(&progress, &mut stream).await;
        let list = written.map_err(|error| match self.data.fault().or_else(|| self.meta.fault()) {
            // The packer's own failure is the cause of the closed channel that a body met.
            Some(failure) if error.is_echo() => FlowError::Failed(failure),
            _ => error,
        })?;
        let Some(point) = stream.point().cloned() else { return Err(FlowError::Unfinished) };
        let tally = progress.tally.into_inner().unwrap_or_else(PoisonError::into_inner);
        self.tallies.insert(name.clone(), SourceTally { gone: stream.gone(), ..tally });
        self.sources.push(SourceManifest {
            name: name.clone(),
            kind: kind.to_owned(),
            point,
            began,
            ended: self.ground.clock.now(),
            inventory: stream.inventory().to_vec(),
            problems: stream.problems().to_vec(),
            entries: progress.entries.into_inner(),
            size_bytes: progress.size_bytes.into_inner(),
            read_bytes: progress.read_bytes.into_inner(),
            added_bytes: progress.added_bytes.into_inner(),
            list,
        });
        Ok(())
    }

    /// Stores the entries and returns the chunks of their list. The list keeps the order in which the source
    /// began the entries, which is what lets the next run merge with it.
    async fn write_entries(
        &self,
        progress: &Progress<'_>,
        stream: &mut EntryStream,
    ) -> FlowResult<Vec<ChunkId>> {
        let mut list = self.repository.access.chunker.begin(Cut::Content);
        let mut list_ids = Vec::new();
        let mut open = FuturesOrdered::new();
        let mut ended = false;
        while !ended || !open.is_empty() {
            tokio::select! {
                biased;
                Some(record) = open.next(), if !open.is_empty() => {
                    let record: EntryRecord = record?;
                    let line = list_line(&record)?;
                    for chunk in list.push(&line) {
                        list_ids.push(self.store_meta(progress, chunk).await?);
                    }
                }
                entry = stream.next(), if !ended && open.len() < BODIES_MAX => match entry? {
                    Some(entry) => open.push_back(self.write_entry(progress, entry)),
                    None => ended = true,
                },
            }
        }
        for chunk in list.finish() {
            list_ids.push(self.store_meta(progress, chunk).await?);
        }
        Ok(list_ids)
    }

    async fn write_entry(&self, progress: &Progress<'_>, entry: Entry) -> FlowResult<EntryRecord> {
        let Entry { meta, mut body } = entry;
        let (size_bytes, sha256, body_record) = match body.reused().cloned() {
            Some(reuse) => self.reuse_body(&reuse, meta.path.as_str()).await?,
            None => self.write_body(progress, meta.cut, &mut body).await?,
        };
        progress.entry(&meta, body.trailer(), size_bytes);
        self.monitor.event(Event::SourceMoved { source: progress.source.clone(), entries: 1, bytes: 0 });
        Ok(EntryRecord { meta, trailer: body.trailer().clone(), size_bytes, sha256, body: body_record })
    }

    /// Takes over the chunks of an older snapshot after checking that each of them is still there.
    async fn reuse_body(&self, reuse: &Reuse, path: &str) -> FlowResult<(u64, ChunkId, BodyRecord)> {
        let reused = ReusedBody::parse(reuse)?;
        let mut ids: Vec<ChunkId> = Vec::new();
        let lost = || {
            let what = format!("`{path}` is unchanged, but a chunk of it is no longer in the repository");
            let failure = Failure::new(ExitCode::Damage, what);
            FlowError::Failed(failure.hint("Run the backup again: what is lost is then read anew."))
        };
        if let BodyRecord::Lists(lists) = &reused.body {
            for id in lists {
                self.use_known(PackKind::Meta, id)?.ok_or_else(lost)?;
            }
            ids.extend(self.older.list_chunks(lists).await?);
        } else if let BodyRecord::Chunks(chunks) = &reused.body {
            ids.extend(chunks);
        }
        for id in &ids {
            let written = self.session().written.contains(&(PackKind::Data, *id));
            if !written && self.use_known(PackKind::Data, id)?.is_none() {
                return Err(lost());
            }
        }
        Ok((reused.size_bytes, reused.sha256, reused.body))
    }

    async fn write_body(
        &self,
        progress: &Progress<'_>,
        cut: Cut,
        body: &mut Body,
    ) -> FlowResult<(u64, ChunkId, BodyRecord)> {
        let mut cutting = Cutting::new(self.repository.access.chunker.begin(cut));
        let mut ids = Vec::new();
        let mut ended = false;
        while !ended {
            let mut gathered = Vec::new();
            let mut gathered_bytes = 0;
            while gathered_bytes < GATHER_BYTES && gathered.len() < GATHER_PIECES {
                let Some(piece) = body.next_piece().await? else {
                    ended = true;
                    break;
                };
                gathered_bytes += if let Piece::Data(bytes) = &piece { bytes.len() } else { 0 };
                gathered.push(piece);
            }
            let work = spawn_blocking(move || {
                let chunks = cutting.advance(gathered, ended);
                (cutting, chunks)
            });
            let (back, chunks) = work.await.failed(ExitCode::Failed, || "hashing broke off".to_owned())?;
            cutting = back;
            for (id, chunk) in chunks {
                ids.push(id);
                self.store(progress, PackKind::Data, id, chunk).await?;
            }
            self.index_now_and_then().await?;
            let source = progress.source.clone();
            self.monitor.event(Event::SourceMoved { source, entries: 0, bytes: gathered_bytes as u64 });
        }
        let (size_bytes, sha256) = cutting.digest();
        progress.read_bytes.fetch_add(size_bytes, Ordering::Relaxed);
        Ok((size_bytes, sha256, self.body_record(progress, ids).await?))
    }

    async fn body_record(&self, progress: &Progress<'_>, ids: Vec<ChunkId>) -> FlowResult<BodyRecord> {
        if ids.len() <= CHUNKS_IN_RECORD_MAX {
            return Ok(BodyRecord::Chunks(ids));
        }
        let mut lists = Vec::new();
        for part in ids.chunks(IDS_IN_LIST_CHUNK) {
            let lines: Vec<String> = part.iter().map(ToString::to_string).collect();
            lists.push(self.store_meta(progress, (lines.join("\n") + "\n").into()).await?);
        }
        Ok(BodyRecord::Lists(lists))
    }

    async fn store_meta(&self, progress: &Progress<'_>, chunk: Bytes) -> FlowResult<ChunkId> {
        let id = ChunkId(Sha256::digest(&chunk).into());
        self.store(progress, PackKind::Meta, id, chunk).await?;
        Ok(id)
    }

    /// Hands a chunk to the packer unless it lies in the repository or on the way there.
    async fn store(
        &self,
        progress: &Progress<'_>,
        kind: PackKind,
        id: ChunkId,
        chunk: Bytes,
    ) -> FlowResult<()> {
        if self.use_known(kind, &id)?.is_some() || !self.session().written.insert((kind, id)) {
            return Ok(());
        }
        let mut claim = Claim { session: &self.session, chunk: Some((kind, id)) };
        let size_bytes = chunk.len() as u64;
        let packer = match kind {
            PackKind::Data => &self.data,
            PackKind::Meta => &self.meta,
        };
        packer.push(id, chunk).await.map_err(|()| FlowError::Closed)?;
        claim.chunk = None;
        progress.added_bytes.fetch_add(size_bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Looks a chunk up among older packs and notes the pack as needed.
    fn use_known(&self, kind: PackKind, id: &ChunkId) -> Result<Option<Location>> {
        let known = &self.repository.core.known;
        let found = known.find(id, Some(kind))?;
        if let Some(at) = &found {
            let size_bytes = known.pack(&at.pack)?.map_or(0, |map| map.size_bytes);
            let mut session = self.session();
            session.used.insert(at.pack, size_bytes);
            *session.used_bytes.entry(at.pack).or_default() += u64::from(at.size_bytes);
        }
        Ok(found)
    }

    fn session(&self) -> std::sync::MutexGuard<'_, Session> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes a line of an entry list. What no reader would take is refused here.
fn list_line(record: &EntryRecord) -> Result<Vec<u8>> {
    let mut line = format::write(record);
    line.push(b'\n');
    if line.len() > LINE_BYTES_MAX {
        let what =
            format!("what is to be noted of entry `{}` is {} bytes long", record.meta.path, line.len());
        return Err(Failure::new(ExitCode::Failed, what));
    }
    Ok(line)
}
