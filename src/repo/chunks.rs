//! Reads chunks out of packs by range, and compares each with its hash.
//!
//! *Order.* Index → frame → range of the sealed pack → plain frame → chunk. A chunk that lies in several packs
//! is read from the first of them that gives the right bytes.
//!
//! *Waiting.* A fetch is a task of its own: whoever asked for it may not be polled for a long time (a target
//! that reads bodies in another order), and must not hold up others meanwhile.
//!
//! *Limits.* Frames are read in runs that grow from [`RUN_BYTES_MIN`] to [`RUN_BYTES_MAX`] while a pack is read
//! in order; [`FETCHES_MAX`] runs are fetched at the same time and [`CACHE_BYTES_MAX`] of frames stay in memory.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::{sync::Semaphore, task::spawn_blocking};
use tokio_util::task::AbortOnDropHandle;

use super::{
    core::Core,
    format::{BodyRecord, FrameRecord, PackKind, layout},
    index::{Location, PackMap},
    opens_one, pack,
};
use crate::{
    crypt::{CIPHER_CHUNK_BYTES, Identities, PLAIN_CHUNK_BYTES, Payload},
    error::{Context, ExitCode, Failure, Result},
    names::{ChunkId, PackId},
};

/// Plain bytes of frames that the first range read of a pack brings, unless one frame is larger.
pub const RUN_BYTES_MIN: u64 = 1 << 20;
/// Plain bytes of frames that one range read brings at most.
pub const RUN_BYTES_MAX: u64 = 8 << 20;
/// How far apart two reads of a pack may be to count as reading in order: several bodies are read at once.
const NEAR_FRAMES: u32 = 16;
/// Range reads at the same time.
pub const FETCHES_MAX: usize = 6;
/// Plain bytes of frames that stay in memory.
pub const CACHE_BYTES_MAX: usize = 64 << 20;
/// Packs that are named when a chunk cannot be found.
const NAMED_MAX: usize = 3;

/// Reads chunks out of packs.
pub struct ChunkReader(Arc<Inner>);

struct Inner {
    core: Arc<Core>,
    identities: Identities,
    /// Packs that the snapshot needs, with their sizes, to tell what is wrong when a chunk is not found.
    needed: BTreeMap<PackId, u64>,
    state: Mutex<State>,
    fetches: Semaphore,
}

#[derive(Default)]
struct State {
    payloads: HashMap<PackId, Arc<Payload>>,
    frames: HashMap<(PackId, u32), Bytes>,
    order: VecDeque<(PackId, u32)>,
    cached_bytes: usize,
    /// Lets one run of a pack be fetched at a time: the next one asked for is often in it.
    gates: HashMap<PackId, Arc<tokio::sync::Mutex<()>>>,
    /// The frame behind the last run of a pack, and how long that run was allowed to be.
    runs: HashMap<PackId, (u32, u64)>,
}

impl ChunkReader {
    /// Returns how many of the needed packs the store does not have, or not whole, and how many no index tells of:
    /// nothing in them is found. It asks for one listing.
    pub(super) async fn lacking(&self) -> Result<usize> {
        let there = self.0.core.packs().await?;
        let mut lacking = 0;
        for (pack, size_bytes) in &self.0.needed {
            let is_whole = there.get(pack) == Some(size_bytes);
            lacking += usize::from(!is_whole || self.0.core.known.pack(pack)?.is_none());
        }
        Ok(lacking)
    }

    /// Returns whether an identity is there that opens data of some time.
    pub(super) fn opens_data(&self) -> bool {
        opens_one(&self.0.identities, &self.0.core.data_recipients_ever())
    }

    pub(super) fn new(core: Arc<Core>, identities: Identities, needed: BTreeMap<PackId, u64>) -> Self {
        let (state, fetches) = (Mutex::default(), Semaphore::new(FETCHES_MAX));
        Self(Arc::new(Inner { core, identities, needed, state, fetches }))
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
        let mut first = None;
        for at in self.0.core.known.locations(&id, kind)? {
            match self.chunk_at(&at, id).await {
                Ok(bytes) => return Ok(bytes),
                Err(failure) if failure.exit() == ExitCode::StoreDown => return Err(failure),
                Err(failure) => first = first.or(Some(failure)),
            }
        }
        match first {
            Some(failure) => Err(failure),
            None => Err(self.0.lost(id).await),
        }
    }

    async fn chunk_at(&self, at: &Location, id: ChunkId) -> Result<Bytes> {
        let frame = self.frame(at).await?;
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
        if let Some(frame) = self.0.state().frames.get(&(at.pack, at.frame)) {
            return Ok(frame.clone());
        }
        let (inner, pack, number) = (self.0.clone(), at.pack, at.frame);
        let task = tokio::spawn(async move { inner.fetch_in_turn(pack, number).await });
        AbortOnDropHandle::new(task).await.failed(ExitCode::Failed, || "a fetch broke off".to_owned())?
    }
}

impl Inner {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn fetch_in_turn(&self, pack: PackId, number: u32) -> Result<Bytes> {
        let gate = self.state().gates.entry(pack).or_default().clone();
        let _turn = gate.lock().await;
        if let Some(frame) = self.state().frames.get(&(pack, number)) {
            return Ok(frame.clone());
        }
        let _permit =
            self.fetches.acquire().await.failed(ExitCode::Failed, || "reading was closed".to_owned())?;
        let map = self.core.known.pack(&pack)?.ok_or_else(|| unknown(pack))?;
        let run = self.state().run(pack, &map, number).ok_or_else(|| unfit(pack))?;
        let frames = match self.fetch(pack, &map, &run).await {
            // What is damaged may be any of them: the one that was asked for is tried alone.
            Err(failure) if failure.exit() == ExitCode::Damage && run.len() > 1 => {
                self.fetch(pack, &map, &run[..1]).await?
            }
            other => other?,
        };
        let frame = frames.first().cloned().ok_or_else(|| unfit(pack))?;
        self.state().keep(pack, number, frames);
        Ok(frame)
    }

    /// Reads a run of frames with one range read.
    async fn fetch(&self, pack: PackId, map: &PackMap, run: &[FrameRecord]) -> Result<Vec<Bytes>> {
        let run = run.to_vec();
        let range = Range::of(&run, map).ok_or_else(|| unfit(pack))?;
        let payload = self.payload(pack, map).await?;
        let sealed = self.core.get.get(&layout::pack(pack), Some(range.from..range.to)).await?;
        let ends = range.to == map.size_bytes;
        let work = spawn_blocking(move || {
            let what = || format!("pack `{pack}` cannot be decrypted");
            let plain = payload.open(&sealed, range.first_chunk, ends).failed(ExitCode::Damage, what)?;
            let unpack = |frame: &FrameRecord| {
                let at = frame.offset - range.first_chunk * PLAIN_CHUNK_BYTES;
                let at = usize::try_from(at).unwrap_or(usize::MAX);
                let bytes = plain.get(at..at.saturating_add(frame.size_bytes as usize));
                pack::unpack_frame(bytes.ok_or_else(|| unfit(pack))?, *frame, pack)
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
        let unlocked = match Payload::unlock(&head, &self.identities, &format!("pack {pack}")) {
            Err(failure) if failure.exit() == ExitCode::KeyRefused => {
                return Err(self.refused(pack, failure).await);
            }
            other => Arc::new(other?),
        };
        self.state().payloads.insert(pack, unlocked.clone());
        Ok(unlocked)
    }

    /// Tells a wrong identity from a changed header: both make age find no key, but a pack's name is its hash.
    async fn refused(&self, pack: PackId, refusal: Failure) -> Failure {
        let Ok(bytes) = self.core.get.get(&layout::pack(pack), None).await else { return refusal };
        let work = spawn_blocking(move || PackId(Sha256::digest(&bytes).into()));
        match work.await {
            Ok(found) if found != pack => {
                Failure::new(ExitCode::Damage, format!("pack `{pack}` does not have the hash in its name"))
                    .hint("Run `lifeboat verify --read-data` to see what else is damaged.")
            }
            _ => refusal,
        }
    }

    /// Says of a chunk that no index knows what is wrong with the packs that may hold it.
    async fn lost(&self, id: ChunkId) -> Failure {
        let mut reasons: Vec<String> = Vec::new();
        for (pack, size_bytes) in &self.needed {
            if reasons.len() == NAMED_MAX || !matches!(self.core.known.pack(pack), Ok(None)) {
                continue;
            }
            let key = layout::pack(*pack);
            reasons.push(match self.core.get.size(&key).await {
                Ok(None) => format!("`{key}` is missing"),
                Ok(Some(found)) if found != *size_bytes => {
                    format!("`{key}` has {found} bytes instead of {size_bytes}")
                }
                Ok(Some(_)) => format!("no index tells what is in `{key}`"),
                Err(error) => error.to_string(),
            });
        }
        reasons.extend(self.core.left_out().values().take(NAMED_MAX).cloned());
        let failure = Failure::new(ExitCode::Damage, format!("chunk `{id}` is in no pack that can be read"))
            .hint("Run `lifeboat verify` to see what is missing; the next backup stores it again if it can.");
        if reasons.is_empty() { failure } else { failure.because(reasons.join("; ")) }
    }
}

impl State {
    /// Returns the frames that one read from `first` on brings: more each time while a pack is read in order,
    /// so that a single entry costs little and a whole snapshot few requests.
    fn run(&mut self, pack: PackId, map: &PackMap, first: u32) -> Option<Vec<FrameRecord>> {
        let behind = map.frames.get(first as usize..)?;
        let limit = match self.runs.get(&pack) {
            Some((next, last)) if next.abs_diff(first) <= NEAR_FRAMES => (last * 2).min(RUN_BYTES_MAX),
            _ => RUN_BYTES_MIN,
        };
        let mut plain_bytes = 0;
        let fits = |(number, frame): &(u32, &FrameRecord)| {
            plain_bytes += u64::from(frame.plain_bytes);
            *number == first || plain_bytes <= limit && !self.frames.contains_key(&(pack, *number))
        };
        let run: Vec<FrameRecord> = (first..).zip(behind).take_while(fits).map(|(_, frame)| *frame).collect();
        let next = u32::try_from(run.len()).ok().and_then(|length| first.checked_add(length))?;
        self.runs.insert(pack, (next, limit));
        (!run.is_empty()).then_some(run)
    }

    fn keep(&mut self, pack: PackId, first: u32, frames: Vec<Bytes>) {
        for (number, frame) in (first..).zip(frames) {
            let key = (pack, number);
            self.cached_bytes += frame.len();
            match self.frames.insert(key, frame) {
                Some(old) => self.cached_bytes -= old.len(),
                None => self.order.push_back(key),
            }
        }
        while self.cached_bytes > CACHE_BYTES_MAX {
            let Some(oldest) = self.order.pop_front() else { break };
            if let Some(frame) = self.frames.remove(&oldest) {
                self.cached_bytes -= frame.len();
            }
        }
    }
}

/// The part of a sealed pack that holds a run of frames.
struct Range {
    from: u64,
    to: u64,
    first_chunk: u64,
}

impl Range {
    /// Returns `None` when the numbers cannot be true: they come from an index that may be hostile.
    fn of(run: &[FrameRecord], map: &PackMap) -> Option<Self> {
        let (first, last) = (run.first()?, run.last()?);
        let end = last.offset.checked_add(u64::from(last.size_bytes))?;
        let first_chunk = first.offset / PLAIN_CHUNK_BYTES;
        let chunks = end.checked_sub(1)? / PLAIN_CHUNK_BYTES + 1;
        let sealed = |chunk: u64| chunk.checked_mul(CIPHER_CHUNK_BYTES)?.checked_add(map.payload_offset);
        let (from, to) = (sealed(first_chunk)?, sealed(chunks)?.min(map.size_bytes));
        let ascending = run.iter().all(|frame| frame.offset >= first.offset);
        (from < to && ascending).then_some(Self { from, to, first_chunk })
    }
}

/// Returns what of a pack is read when each of its frames is asked for alone, `None` for one that cannot be.
pub fn ranges(map: &PackMap) -> Vec<Option<std::ops::Range<u64>>> {
    let numbers = (0u32..).zip(&map.frames).map(|(number, _)| number);
    let range = |first| {
        let run = State::default().run(PackId([0; 32]), map, first)?;
        Range::of(&run, map).map(|range| range.from..range.to)
    };
    numbers.map(range).collect()
}

fn unknown(pack: PackId) -> Failure {
    Failure::new(ExitCode::Damage, format!("pack `{pack}` is missing"))
}

fn unfit(pack: PackId) -> Failure {
    Failure::new(ExitCode::Damage, format!("the index of pack `{pack}` does not fit it"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn map(frames: Vec<FrameRecord>, payload_offset: u64, size_bytes: u64) -> PackMap {
        PackMap { size_bytes, payload_offset, kind: PackKind::Data, frames }
    }

    fn frames(count: u64) -> Vec<FrameRecord> {
        let frame = |n| FrameRecord { offset: n * 100_000, size_bytes: 100_000, plain_bytes: 600_000 };
        (0..count).map(frame).collect()
    }

    #[test]
    fn runs_grow_while_a_pack_is_read_in_order_and_start_small_elsewhere() {
        let (mut state, pack, map) = (State::default(), PackId([1; 32]), map(frames(60), 200, 7_000_000));
        let mut length = |first| state.run(pack, &map, first).unwrap().len();
        assert_eq!([length(0), length(1), length(6), length(2), length(15)], [1, 3, 6, 13, 13]);
        assert_eq!([length(50), length(51)], [1, 3]);
        assert!(state.run(pack, &map, 60).is_none());
        state.keep(pack, 2, vec![Bytes::new()]);
        assert_eq!(state.run(pack, &map, 0).unwrap().len(), 1, "what is in memory is not read again");
    }

    #[test]
    fn what_is_kept_stays_within_its_limit() {
        let mut state = State::default();
        for number in 0..40 {
            state.keep(PackId([2; 32]), number, vec![Bytes::from(vec![0; 4 << 20])]);
            state.keep(PackId([2; 32]), number, vec![Bytes::from(vec![0; 4 << 20])]);
        }
        assert_eq!(state.cached_bytes, CACHE_BYTES_MAX);
        assert_eq!((state.frames.len(), state.order.len()), (16, 16));
    }

    proptest! {
        #[test]
        fn no_number_in_an_index_makes_a_range_overflow(
            offsets in prop::collection::vec((any::<u64>(), any::<u32>(), any::<u32>()), 0..4),
            payload_offset: u64,
            size_bytes: u64,
            first: u32,
        ) {
            let frames = offsets.iter().map(|(offset, size_bytes, plain_bytes)| {
                FrameRecord { offset: *offset, size_bytes: *size_bytes, plain_bytes: *plain_bytes }
            });
            let map = map(frames.collect(), payload_offset, size_bytes);
            if let Some(run) = State::default().run(PackId([0; 32]), &map, first % 5)
                && let Some(range) = Range::of(&run, &map) {
                prop_assert!(range.from < range.to && range.to <= size_bytes);
                prop_assert!(run.iter().all(|frame| frame.offset >= range.first_chunk * PLAIN_CHUNK_BYTES));
            }
        }
    }
}
