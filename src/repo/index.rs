//! Where chunks are: the question that the writer asks of every chunk and the reader of every byte.
//!
//! The answers come from index objects in the store and are kept by whoever implements [`KnownChunks`]:
//! [`MemoryIndex`] here, the catalog on a host that makes backups every night.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use chrono::{DateTime, Utc};

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

/// What a new snapshot may rely on.
#[derive(Clone, Debug, Default)]
pub struct Reliance {
    /// Who writes it: packs of others count only when they were opened and found right.
    pub writer: String,
    /// Packs that prune has condemned: they never count.
    pub condemned: BTreeSet<PackId>,
    /// The revisions of the config whose data packs open to everybody who shall read the new snapshot.
    pub data_revisions: BTreeSet<u32>,
    /// The same of the packs that hold lists.
    pub meta_revisions: BTreeSet<u32>,
}

impl Reliance {
    /// Returns the revisions whose packs of `kind` count.
    pub fn revisions(&self, kind: PackKind) -> &BTreeSet<u32> {
        match kind {
            PackKind::Data => &self.data_revisions,
            PackKind::Meta => &self.meta_revisions,
        }
    }
}

/// Remembers which chunks are in which packs.
pub trait KnownChunks: Send + Sync {
    /// Returns where `id` is, in a pack of `kind` if one is asked for, and only in packs that a new snapshot may
    /// rely on: see [`Self::rely_on`], [`Self::distrust`] and [`Self::retire`].
    fn find(&self, id: &ChunkId, kind: Option<PackKind>) -> Result<Option<Location>>;

    /// Returns every place of `id` in packs of `kind`, the best one first: a reader tries the next one when a
    /// pack turns out to be damaged.
    fn locations(&self, id: &ChunkId, kind: PackKind) -> Result<Vec<Location>>;

    /// Says who asks from now on, and what a new snapshot may rely on.
    fn rely_on(&self, terms: &Reliance) -> Result<()>;

    /// Takes notice that these packs were read and are damaged: from now on [`Self::find`] sends no writer to
    /// them, so that the next backup stores anew what is in them. Readers may still try them, last. `inside` tells that
    /// what is in them is wrong: that their bytes have the hash in their name is no sign then that they are right.
    fn distrust(&self, packs: &BTreeSet<PackId>, inside: bool) -> Result<()>;

    /// Takes notice that little of these packs is used: [`Self::find`] sends no writer to them any more, so that
    /// they die with the snapshots that need them.
    fn retire(&self, packs: &BTreeSet<PackId>) -> Result<()>;

    /// Returns the packs that were read and are damaged, and that nobody has found right since.
    fn distrusted(&self) -> Result<BTreeSet<PackId>>;

    /// Returns the packs that are distrusted or retired.
    fn avoided(&self) -> Result<BTreeSet<PackId>>;

    /// Takes notice that a pack was read whole at `at` and is right; `opened` tells whether its chunks were hashed
    /// or only its bytes, by its name. What is wrong inside a pack is over only when it was opened.
    fn note_read(&self, pack: &PackId, at: DateTime<Utc>, opened: bool) -> Result<()>;

    /// Returns when packs were last read and found right; those that never were are left out.
    fn last_read(&self) -> Result<BTreeMap<PackId, DateTime<Utc>>>;

    /// Returns how to read from a pack.
    fn pack(&self, id: &PackId) -> Result<Option<Arc<PackMap>>>;

    /// Takes in the packs that the index object `origin` by `writer` tells of. A pack that is known already stays
    /// as it is.
    fn add(&self, origin: &Key, writer: &str, packs: &[PackRecord]) -> Result<()>;

    /// Returns the index objects that were taken in, with the packs that each tells of, also those that are gone.
    fn told(&self) -> Result<BTreeMap<Key, BTreeSet<PackId>>>;

    /// Returns the index objects that were taken in.
    fn origins(&self) -> Result<BTreeSet<Key>>;

    /// Forgets every pack that is not among `there` with that very size. An origin that told of a pack which is
    /// there and unknown is forgotten too: the pack came back, so its index object is read again.
    fn retain(&self, there: &BTreeMap<PackId, u64>) -> Result<()>;
}

/// An index in memory: about 100 bytes a chunk.
#[derive(Default)]
pub struct MemoryIndex(Mutex<Maps>);

#[derive(Default)]
struct Maps {
    chunks: HashMap<ChunkId, Vec<Location>>,
    packs: HashMap<PackId, Known>,
    origins: BTreeMap<Key, BTreeMap<PackId, u64>>,
    /// Whether what is inside is wrong.
    distrusted: BTreeMap<PackId, bool>,
    retired: BTreeSet<PackId>,
    reliance: Option<Reliance>,
    read: BTreeMap<PackId, (DateTime<Utc>, bool)>,
}

struct Known {
    map: Arc<PackMap>,
    writer: String,
    config: u32,
}

impl MemoryIndex {
    fn maps(&self) -> MutexGuard<'_, Maps> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Maps {
    fn places<'a>(&'a self, id: &ChunkId, kind: Option<PackKind>) -> impl Iterator<Item = &'a Location> {
        let fits = move |at: &&Location| {
            let pack = self.packs.get(&at.pack);
            pack.is_some_and(|pack| kind.is_none_or(|kind| pack.map.kind == kind))
        };
        self.chunks.get(id).into_iter().flatten().filter(fits)
    }

    fn may_rely_on(&self, id: &PackId) -> bool {
        if self.distrusted.contains_key(id) || self.retired.contains(id) {
            return false;
        }
        let (Some(terms), Some(pack)) = (&self.reliance, self.packs.get(id)) else { return true };
        let own = pack.writer == terms.writer || self.read.get(id).is_some_and(|(_, opened)| *opened);
        own && !terms.condemned.contains(id) && terms.revisions(pack.map.kind).contains(&pack.config)
    }
}

impl KnownChunks for MemoryIndex {
    fn find(&self, id: &ChunkId, kind: Option<PackKind>) -> Result<Option<Location>> {
        let maps = self.maps();
        let found = maps.places(id, kind).find(|at| maps.may_rely_on(&at.pack)).copied();
        Ok(found)
    }

    fn locations(&self, id: &ChunkId, kind: PackKind) -> Result<Vec<Location>> {
        let maps = self.maps();
        let mut all: Vec<Location> = maps.places(id, Some(kind)).copied().collect();
        all.sort_by_key(|at| maps.distrusted.contains_key(&at.pack));
        Ok(all)
    }

    fn rely_on(&self, terms: &Reliance) -> Result<()> {
        self.maps().reliance = Some(terms.clone());
        Ok(())
    }

    fn distrust(&self, packs: &BTreeSet<PackId>, inside: bool) -> Result<()> {
        let mut maps = self.maps();
        for pack in packs {
            *maps.distrusted.entry(*pack).or_default() |= inside;
        }
        Ok(())
    }

    fn retire(&self, packs: &BTreeSet<PackId>) -> Result<()> {
        self.maps().retired.extend(packs);
        Ok(())
    }

    fn distrusted(&self) -> Result<BTreeSet<PackId>> {
        Ok(self.maps().distrusted.keys().copied().collect())
    }

    fn avoided(&self) -> Result<BTreeSet<PackId>> {
        let maps = self.maps();
        Ok(maps.distrusted.keys().chain(&maps.retired).copied().collect())
    }

    fn note_read(&self, pack: &PackId, at: DateTime<Utc>, opened: bool) -> Result<()> {
        let mut maps = self.maps();
        let was_opened = maps.read.get(pack).is_some_and(|(_, opened)| *opened);
        maps.read.insert(*pack, (at, opened || was_opened));
        if opened || maps.distrusted.get(pack) == Some(&false) {
            maps.distrusted.remove(pack);
        }
        Ok(())
    }

    fn last_read(&self) -> Result<BTreeMap<PackId, DateTime<Utc>>> {
        Ok(self.maps().read.iter().map(|(pack, (at, _))| (*pack, *at)).collect())
    }

    fn pack(&self, id: &PackId) -> Result<Option<Arc<PackMap>>> {
        Ok(self.maps().packs.get(id).map(|pack| pack.map.clone()))
    }

    fn add(&self, origin: &Key, writer: &str, packs: &[PackRecord]) -> Result<()> {
        let mut maps = self.maps();
        for record in packs {
            if maps.packs.contains_key(&record.pack) {
                continue;
            }
            let map = PackMap {
                size_bytes: record.size_bytes,
                payload_offset: record.payload_offset,
                kind: record.kind,
                frames: record.inner.frames.clone(),
            };
            let known = Known { map: Arc::new(map), writer: writer.to_owned(), config: record.config };
            maps.packs.insert(record.pack, known);
            for chunk in &record.inner.chunks {
                maps.chunks.entry(chunk.id).or_default().push(Location {
                    pack: record.pack,
                    frame: chunk.frame,
                    offset: chunk.offset,
                    size_bytes: chunk.size_bytes,
                });
            }
        }
        let told = packs.iter().map(|record| (record.pack, record.size_bytes));
        maps.origins.insert(origin.clone(), told.collect());
        Ok(())
    }

    fn told(&self) -> Result<BTreeMap<Key, BTreeSet<PackId>>> {
        let told = self.maps().origins.clone().into_iter();
        Ok(told.map(|(key, packs)| (key, packs.into_keys().collect())).collect())
    }

    fn origins(&self) -> Result<BTreeSet<Key>> {
        Ok(self.maps().origins.keys().cloned().collect())
    }

    fn retain(&self, there: &BTreeMap<PackId, u64>) -> Result<()> {
        let mut maps = self.maps();
        maps.packs.retain(|id, pack| there.get(id) == Some(&pack.map.size_bytes));
        let Maps { chunks, packs, origins, .. } = &mut *maps;
        chunks.retain(|_, all| {
            all.retain(|at| packs.contains_key(&at.pack));
            !all.is_empty()
        });
        origins.retain(|_, told| {
            told.iter().all(|(pack, size)| packs.contains_key(pack) || there.get(pack) != Some(size))
        });
        Ok(())
    }
}
