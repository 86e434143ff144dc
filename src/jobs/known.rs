//! The catalog as the repository's memory of chunks and witness of commits: only here do the two meet.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use chrono::{DateTime, Utc};

use crate::{
    catalog::{Avoided, Catalog, ChunkAt, ChunkRow, FrameRow, PackRow, TrustedPacks},
    error::Result,
    names::{ChunkId, Key, PackId},
    repo::{
        Head, KnownChunks, Location, PackMap, Reliance, Witness,
        format::{FrameRecord, PackKind, PackRecord},
    },
};

/// A catalog that answers for a repository. The maps of packs stay in memory: a restore asks for each of them
/// thousands of times.
pub struct CatalogIndex {
    catalog: Arc<Catalog>,
    maps: Mutex<HashMap<PackId, Arc<PackMap>>>,
    /// What a new snapshot may rely on, if somebody writes one.
    reliance: Mutex<Option<Reliance>>,
}

impl CatalogIndex {
    /// Lends `catalog` to a repository.
    pub fn new(catalog: Arc<Catalog>) -> Self {
        Self { catalog, maps: Mutex::default(), reliance: Mutex::default() }
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

fn row(record: &PackRecord, writer: &str) -> PackRow {
    let frame =
        |f: &FrameRecord| FrameRow { offset: f.offset, size_bytes: f.size_bytes, plain_bytes: f.plain_bytes };
    let chunks = record.inner.chunks.iter();
    PackRow {
        id: record.pack,
        size_bytes: record.size_bytes,
        payload_offset: record.payload_offset,
        kind: word(record.kind).to_owned(),
        writer: writer.to_owned(),
        config: record.config,
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
        let terms = self.reliance.lock().unwrap_or_else(PoisonError::into_inner);
        let trusted = terms.as_ref().map(|terms| TrustedPacks {
            writer: &terms.writer,
            data_revisions: &terms.data_revisions,
            meta_revisions: &terms.meta_revisions,
        });
        Ok(self.catalog.find_chunk(id, kind.map(word), trusted)?.map(location))
    }

    fn locations(&self, id: &ChunkId, kind: PackKind) -> Result<Vec<Location>> {
        let found = self.catalog.find_chunk_everywhere(id, word(kind))?;
        Ok(found.into_iter().map(location).collect())
    }

    fn rely_on(&self, terms: &Reliance) -> Result<()> {
        self.catalog.avoid_packs(&terms.condemned, Avoided::Condemned)?;
        *self.reliance.lock().unwrap_or_else(PoisonError::into_inner) = Some(terms.clone());
        Ok(())
    }

    fn distrust(&self, packs: &BTreeSet<PackId>, inside: bool) -> Result<()> {
        self.catalog.avoid_packs(packs, if inside { Avoided::WrongInside } else { Avoided::Damaged })
    }

    fn retire(&self, packs: &BTreeSet<PackId>) -> Result<()> {
        self.catalog.avoid_packs(packs, Avoided::Retired)
    }

    fn distrusted(&self) -> Result<BTreeSet<PackId>> {
        self.catalog.damaged_packs()
    }

    fn avoided(&self) -> Result<BTreeSet<PackId>> {
        self.catalog.avoided_packs()
    }

    fn note_read(&self, pack: &PackId, at: DateTime<Utc>, opened: bool) -> Result<()> {
        self.catalog.note_read(pack, at, opened)
    }

    fn last_read(&self) -> Result<BTreeMap<PackId, DateTime<Utc>>> {
        self.catalog.last_reads()
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

    fn add(&self, origin: &Key, writer: &str, packs: &[PackRecord]) -> Result<()> {
        let rows: Vec<PackRow> = packs.iter().map(|record| row(record, writer)).collect();
        self.catalog.add_packs(origin, &rows)
    }

    fn told(&self) -> Result<BTreeMap<Key, BTreeSet<PackId>>> {
        let mut told: BTreeMap<Key, BTreeSet<PackId>> = BTreeMap::new();
        for (key, pack) in self.catalog.tellings()? {
            told.entry(key).or_default().insert(pack);
        }
        Ok(told)
    }

    fn origins(&self) -> Result<BTreeSet<Key>> {
        self.catalog.origins()
    }

    fn retain(&self, there: &BTreeMap<PackId, u64>) -> Result<()> {
        self.maps().retain(|id, map| there.get(id) == Some(&map.size_bytes));
        self.catalog.retain_packs(there)?;
        self.catalog.retain_facts(there)
    }
}

impl Witness for CatalogIndex {
    fn config(&self, repository: &str) -> Result<Option<u32>> {
        self.catalog.seen_config(repository)
    }

    fn saw_config(&self, repository: &str, revision: u32) -> Result<()> {
        self.catalog.note_config(repository, revision)
    }

    fn heads(&self, repository: &str) -> Result<BTreeMap<String, Head>> {
        let heads = self.catalog.seen_heads(repository)?.into_iter();
        Ok(heads.map(|(signer, seq, refs)| (signer, Head { seq, refs })).collect())
    }

    fn saw_head(&self, repository: &str, signer: &str, head: Head) -> Result<()> {
        self.catalog.note_head(repository, signer, head.seq, head.refs)
    }
}
