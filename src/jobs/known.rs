//! The catalog as the repository's memory of chunks: only here do the two meet.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use crate::{
    catalog::{Catalog, ChunkAt, ChunkRow, FrameRow, PackRow},
    error::Result,
    names::{ChunkId, Key, PackId},
    repo::{
        KnownChunks, Location, PackMap,
        format::{FrameRecord, PackKind, PackRecord},
    },
};

/// A catalog that answers for a repository. The maps of packs stay in memory: a restore asks for each of them
/// thousands of times.
pub struct CatalogIndex {
    catalog: Arc<Catalog>,
    maps: Mutex<HashMap<PackId, Arc<PackMap>>>,
}

impl CatalogIndex {
    /// Lends `catalog` to a repository.
    pub fn new(catalog: Arc<Catalog>) -> Self {
        Self { catalog, maps: Mutex::default() }
    }

    fn maps(&self) -> std::sync::MutexGuard<'_, HashMap<PackId, Arc<PackMap>>> {
        self.maps.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const DATA: &str = "data";
const META: &str = "meta";

fn word(kind: PackKind) -> &'static str {
    match kind {
        PackKind::Data => DATA,
        PackKind::Meta => META,
    }
}

fn row(record: &PackRecord) -> PackRow {
    let frame =
        |f: &FrameRecord| FrameRow { offset: f.offset, size_bytes: f.size_bytes, plain_bytes: f.plain_bytes };
    let chunks = record.inner.chunks.iter();
    PackRow {
        id: record.pack,
        size_bytes: record.size_bytes,
        payload_offset: record.payload_offset,
        kind: word(record.kind).to_owned(),
        frames: record.inner.frames.iter().map(frame).collect(),
        chunks: chunks
            .map(|c| ChunkRow { id: c.id, frame: c.frame, offset: c.offset, size_bytes: c.size_bytes })
            .collect(),
    }
}

fn location(at: ChunkAt) -> Location {
    let ChunkRow { frame, offset, size_bytes, .. } = at.chunk;
    Location { pack: at.pack, frame, offset, size_bytes }
}

impl KnownChunks for CatalogIndex {
    fn find(&self, id: &ChunkId, kind: Option<PackKind>) -> Result<Option<Location>> {
        Ok(self.catalog.find_chunk(id, kind.map(word))?.map(location))
    }

    fn locations(&self, id: &ChunkId, kind: PackKind) -> Result<Vec<Location>> {
        let found = self.catalog.find_chunk_everywhere(id, word(kind))?;
        Ok(found.into_iter().map(location).collect())
    }

    fn distrust(&self, packs: &BTreeSet<PackId>) -> Result<()> {
        self.catalog.distrust_packs(packs)
    }

    fn pack(&self, id: &PackId) -> Result<Option<Arc<PackMap>>> {
        if let Some(map) = self.maps().get(id) {
            return Ok(Some(map.clone()));
        }
        let Some(row) = self.catalog.find_pack(id)? else { return Ok(None) };
        let frame = |f: FrameRow| FrameRecord {
            offset: f.offset,
            size_bytes: f.size_bytes,
            plain_bytes: f.plain_bytes,
        };
        let map = Arc::new(PackMap {
            size_bytes: row.size_bytes,
            payload_offset: row.payload_offset,
            kind: if row.kind == META { PackKind::Meta } else { PackKind::Data },
            frames: row.frames.into_iter().map(frame).collect(),
        });
        self.maps().insert(*id, map.clone());
        Ok(Some(map))
    }

    fn add(&self, origin: &Key, packs: &[PackRecord]) -> Result<()> {
        let rows: Vec<PackRow> = packs.iter().map(row).collect();
        self.catalog.add_packs(origin, &rows)
    }

    fn origins(&self) -> Result<BTreeSet<Key>> {
        self.catalog.origins()
    }

    fn retain(&self, there: &BTreeMap<PackId, u64>) -> Result<()> {
        self.maps().retain(|id, map| there.get(id) == Some(&map.size_bytes));
        self.catalog.retain_packs(there)
    }
}
