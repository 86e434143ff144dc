//! Where chunks are: the question that the writer asks of every chunk and the reader of every byte.
//!
//! The answers come from index objects in the store and are kept by whoever implements [`KnownChunks`]:
//! [`MemoryIndex`] here, the catalog on a host that makes backups every night.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::format::{FrameRecord, PackKind, PackRecord};
use crate::{
    error::Result,
    names::{ChunkId, Key, PackId},
};

/// Where one chunk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location {
    /// The pack.
    pub pack: PackId,
    /// The number of the frame in it.
    pub frame: u32,
    /// Where the chunk begins in the plain frame.
    pub offset: u32,
    /// Its bytes.
    pub size_bytes: u32,
}

/// What is needed to read from a pack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackMap {
    /// Its size in the store.
    pub size_bytes: u64,
    /// Where its age payload begins.
    pub payload_offset: u64,
    /// Who can open it.
    pub kind: PackKind,
    /// Its frames.
    pub frames: Vec<FrameRecord>,
}

/// Remembers which chunks are in which packs.
pub trait KnownChunks: Send + Sync {
    /// Returns where `id` is, in a pack of `kind` if one is asked for.
    fn find(&self, id: &ChunkId, kind: Option<PackKind>) -> Result<Option<Location>>;

    /// Returns how to read from a pack.
    fn pack(&self, id: &PackId) -> Result<Option<Arc<PackMap>>>;

    /// Takes in the packs that the index object `origin` tells of.
    fn add(&self, origin: &Key, packs: &[PackRecord]) -> Result<()>;

    /// Returns the index objects that were taken in.
    fn origins(&self) -> Result<BTreeSet<Key>>;

    /// Forgets every pack that is not among `there` with that very size.
    fn retain(&self, there: &BTreeMap<PackId, u64>) -> Result<()>;
}

/// An index in memory: about 100 bytes a chunk.
#[derive(Default)]
pub struct MemoryIndex(Mutex<Maps>);

#[derive(Default)]
struct Maps {
    chunks: HashMap<ChunkId, Vec<Location>>,
    packs: HashMap<PackId, Arc<PackMap>>,
    origins: BTreeSet<Key>,
}

impl MemoryIndex {
    fn maps(&self) -> MutexGuard<'_, Maps> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl KnownChunks for MemoryIndex {
    fn find(&self, id: &ChunkId, kind: Option<PackKind>) -> Result<Option<Location>> {
        let maps = self.maps();
        let fits = |at: &&Location| match (kind, maps.packs.get(&at.pack)) {
            (Some(kind), Some(pack)) => pack.kind == kind,
            (None, Some(_)) => true,
            (_, None) => false,
        };
        Ok(maps.chunks.get(id).and_then(|all| all.iter().find(fits).copied()))
    }

    fn pack(&self, id: &PackId) -> Result<Option<Arc<PackMap>>> {
        Ok(self.maps().packs.get(id).cloned())
    }

    fn add(&self, origin: &Key, packs: &[PackRecord]) -> Result<()> {
        let mut maps = self.maps();
        for record in packs {
            let map = PackMap {
                size_bytes: record.size_bytes,
                payload_offset: record.payload_offset,
                kind: record.kind,
                frames: record.inner.frames.clone(),
            };
            if maps.packs.insert(record.pack, Arc::new(map)).is_some() {
                continue;
            }
            for chunk in &record.inner.chunks {
                maps.chunks.entry(chunk.id).or_default().push(Location {
                    pack: record.pack,
                    frame: chunk.frame,
                    offset: chunk.offset,
                    size_bytes: chunk.size_bytes,
                });
            }
        }
        maps.origins.insert(origin.clone());
        Ok(())
    }

    fn origins(&self) -> Result<BTreeSet<Key>> {
        Ok(self.maps().origins.clone())
    }

    fn retain(&self, there: &BTreeMap<PackId, u64>) -> Result<()> {
        let mut maps = self.maps();
        maps.packs.retain(|id, map| there.get(id) == Some(&map.size_bytes));
        let Maps { chunks, packs, .. } = &mut *maps;
        chunks.retain(|_, all| {
            all.retain(|at| packs.contains_key(&at.pack));
            !all.is_empty()
        });
        Ok(())
    }
}
