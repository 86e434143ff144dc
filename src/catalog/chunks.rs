//! The chunk index: packs, their frames and their chunks, by the index object that told of them.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::{OptionalExtension, Row, Transaction, params};

use super::Catalog;
use crate::{
    error::Result,
    names::{ChunkId, Key, PackId},
};

/// A pack as the catalog keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackRow {
    /// The pack.
    pub id: PackId,
    /// Its size in the store.
    pub size_bytes: u64,
    /// Where its age payload begins.
    pub payload_offset: u64,
    /// Who can open it, in the format's word.
    pub kind: String,
    /// Who signed the index that told of it first.
    pub writer: String,
    /// The revision of the config whose readers it is sealed to.
    pub config: u32,
    /// Its frames, in order.
    pub frames: Vec<FrameRow>,
    /// Its chunks; empty when a pack is asked for.
    pub chunks: Vec<ChunkRow>,
}

/// A frame of a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameRow {
    /// Where it begins in the age payload.
    pub offset: u64,
    /// Its compressed bytes.
    pub size_bytes: u32,
    /// Its plain bytes.
    pub plain_bytes: u32,
}

/// A chunk of a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkRow {
    /// The chunk.
    pub id: ChunkId,
    /// The number of its frame.
    pub frame: u32,
    /// Where it begins in the plain frame.
    pub offset: u32,
    /// Its bytes.
    pub size_bytes: u32,
}

/// Where a chunk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkAt {
    /// The pack.
    pub pack: PackId,
    /// Where in it.
    pub chunk: ChunkRow,
}

/// Which packs a writer relies on, besides that nothing speaks against them.
#[derive(Clone, Copy, Debug)]
pub struct TrustedPacks<'a> {
    /// The writer's own, and those that were opened and found right.
    pub writer: &'a str,
    /// Data packs of these revisions of the config.
    pub data_revisions: &'a BTreeSet<u32>,
    /// Meta packs of these.
    pub meta_revisions: &'a BTreeSet<u32>,
}

/// A place of a chunk that a new snapshot may rely on.
const FIND: &str =
    "SELECT packs.id, frame, offset, chunks.size_bytes FROM chunks JOIN packs ON packs.n = pack
     WHERE chunks.id = ?1 AND (?2 IS NULL OR kind = ?2)
       AND NOT EXISTS (SELECT 1 FROM avoided WHERE avoided.id = packs.id)
       AND (?3 IS NULL
            OR (writer = ?3 OR EXISTS (SELECT 1 FROM reads WHERE reads.id = packs.id AND opened))
               AND config IN (SELECT value FROM json_each(iif(kind = 'data', ?4, ?5)))) LIMIT 1";
/// Every place of a chunk, the damaged ones last.
const FIND_EVERYWHERE: &str =
    "SELECT packs.id, frame, offset, chunks.size_bytes FROM chunks JOIN packs ON packs.n = pack
     WHERE chunks.id = ?1 AND kind = ?2
     ORDER BY EXISTS (SELECT 1 FROM avoided WHERE avoided.id = packs.id
               AND why IN ('damaged', 'wrong_inside'))";

impl Catalog {
    /// Returns where a chunk is in a pack of `kind`, if one is asked for, that nothing speaks against and that is
    /// among those `trusted`, if that is said.
    pub fn find_chunk(
        &self,
        id: &ChunkId,
        kind: Option<&str>,
        trusted: Option<TrustedPacks<'_>>,
    ) -> Result<Option<ChunkAt>> {
        let connection = self.connection();
        let list = |revisions: &BTreeSet<u32>| {
            let revisions: Vec<String> = revisions.iter().map(ToString::to_string).collect();
            format!("[{}]", revisions.join(","))
        };
        let writer = trusted.map(|trusted| trusted.writer);
        let (data, meta) = (
            trusted.map(|trusted| list(trusted.data_revisions)),
            trusted.map(|trusted| list(trusted.meta_revisions)),
        );
        let find = || {
            let mut query = connection.prepare_cached(FIND)?;
            query.query_row(params![id.0, kind, writer, data, meta], |row| chunk_at(*id, row)).optional()
        };
        find().map_err(|error| self.trouble(error))
    }

    /// Returns every place of a chunk in packs of `kind`; those that were found damaged come last.
    pub fn find_chunk_everywhere(&self, id: &ChunkId, kind: &str) -> Result<Vec<ChunkAt>> {
        let connection = self.connection();
        let find = || -> rusqlite::Result<Vec<ChunkAt>> {
            let mut query = connection.prepare_cached(FIND_EVERYWHERE)?;
            query.query_map(params![id.0, kind], |row| chunk_at(*id, row))?.collect()
        };
        find().map_err(|error| self.trouble(error))
    }

    /// Returns a pack with its frames.
    pub fn find_pack(&self, id: &PackId) -> Result<Option<PackRow>> {
        let connection = self.connection();
        let find = || -> rusqlite::Result<Option<PackRow>> {
            let mut query = connection.prepare_cached(
                "SELECT n, size_bytes, payload_offset, kind, writer, config FROM packs WHERE id = ?1",
            )?;
            let read = |row: &Row<'_>| {
                let pack = PackRow {
                    id: *id,
                    size_bytes: row.get(1)?,
                    payload_offset: row.get(2)?,
                    kind: row.get(3)?,
                    writer: row.get(4)?,
                    config: row.get(5)?,
                    frames: Vec::new(),
                    chunks: Vec::new(),
                };
                Ok((row.get::<_, i64>(0)?, pack))
            };
            let Some((n, mut pack)) = query.query_row(params![id.0], read).optional()? else {
                return Ok(None);
            };
            let mut query = connection.prepare_cached(
                "SELECT offset, size_bytes, plain_bytes FROM frames WHERE pack = ?1 ORDER BY frame",
            )?;
            let frames = query.query_map(params![n], |row| {
                Ok(FrameRow { offset: row.get(0)?, size_bytes: row.get(1)?, plain_bytes: row.get(2)? })
            })?;
            pack.frames = frames.collect::<rusqlite::Result<_>>()?;
            Ok(Some(pack))
        };
        find().map_err(|error| self.trouble(error))
    }

    /// Takes in the packs that the index object `origin` tells of.
    pub fn add_packs(&self, origin: &Key, packs: &[PackRow]) -> Result<()> {
        let mut connection = self.connection();
        let mut add = || {
            let transaction = connection.transaction()?;
            transaction.execute("INSERT OR IGNORE INTO origins VALUES (?1)", params![origin.as_str()])?;
            for pack in packs {
                add_pack(&transaction, origin, pack)?;
            }
            transaction.commit()
        };
        add().map_err(|error| self.trouble(error))
    }

    /// Returns each pack that an index object told of, with that object; also of packs that are gone.
    pub fn tellings(&self) -> Result<Vec<(Key, PackId)>> {
        let connection = self.connection();
        let read = || {
            let mut query = connection.prepare("SELECT origin, pack FROM tellings")?;
            let rows = query.query_map([], |row| Ok((row.get::<_, String>(0)?, PackId(row.get(1)?))))?;
            rows.collect::<rusqlite::Result<Vec<(String, PackId)>>>()
        };
        let rows = read().map_err(|error| self.trouble(error))?;
        Ok(rows.into_iter().filter_map(|(key, pack)| Some((Key::new(&key).ok()?, pack))).collect())
    }

    /// Returns the index objects that were taken in.
    pub fn origins(&self) -> Result<BTreeSet<Key>> {
        let connection = self.connection();
        let read = || {
            let mut query = connection.prepare("SELECT key FROM origins")?;
            let keys = query.query_map([], |row| row.get::<_, String>(0))?;
            keys.collect::<rusqlite::Result<Vec<String>>>()
        };
        let keys = read().map_err(|error| self.trouble(error))?;
        Ok(keys.iter().filter_map(|key| Key::new(key).ok()).collect())
    }

    /// Forgets every pack that is not among `there` with that very size. An index object that told of a pack
    /// which is there and unknown is forgotten too: it came back, so the object is read again.
    pub fn retain_packs(&self, there: &BTreeMap<PackId, u64>) -> Result<()> {
        let mut connection = self.connection();
        let mut retain = || {
            let transaction = connection.transaction()?;
            let mut query = transaction.prepare("SELECT n, id, size_bytes FROM packs")?;
            let rows =
                query.query_map([], |row| Ok((row.get::<_, i64>(0)?, PackId(row.get(1)?), row.get(2)?)))?;
            let all = rows.collect::<rusqlite::Result<Vec<(i64, PackId, u64)>>>()?;
            drop(query);
            for (n, id, size_bytes) in all {
                if there.get(&id) != Some(&size_bytes) {
                    transaction.execute("DELETE FROM packs WHERE n = ?1", params![n])?;
                }
            }
            let mut query = transaction.prepare(
                "SELECT pack, size_bytes, origin FROM tellings
                 WHERE NOT EXISTS (SELECT 1 FROM packs WHERE packs.id = pack)",
            )?;
            let rows = query.query_map([], |row| Ok((PackId(row.get(0)?), row.get(1)?, row.get(2)?)))?;
            let gone = rows.collect::<rusqlite::Result<Vec<(PackId, u64, String)>>>()?;
            drop(query);
            for (_, _, origin) in gone.iter().filter(|(id, size, _)| there.get(id) == Some(size)) {
                transaction.execute("DELETE FROM origins WHERE key = ?1", params![origin])?;
            }
            transaction.commit()
        };
        retain().map_err(|error| self.trouble(error))
    }
}

fn chunk_at(id: ChunkId, row: &Row<'_>) -> rusqlite::Result<ChunkAt> {
    let chunk = ChunkRow { id, frame: row.get(1)?, offset: row.get(2)?, size_bytes: row.get(3)? };
    Ok(ChunkAt { pack: PackId(row.get(0)?), chunk })
}

/// Takes in one pack; one that is known already stays as it is.
fn add_pack(transaction: &Transaction<'_>, origin: &Key, pack: &PackRow) -> rusqlite::Result<()> {
    let added = transaction
        .prepare_cached(
            "INSERT INTO packs (id, size_bytes, payload_offset, kind, writer, config)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)
             ON CONFLICT (id) DO NOTHING",
        )?
        .execute(params![
            pack.id.0,
            pack.size_bytes,
            pack.payload_offset,
            pack.kind,
            pack.writer,
            pack.config
        ])?;
    let mut number = transaction.prepare_cached("SELECT n FROM packs WHERE id = ?1")?;
    let n: i64 = number.query_row(params![pack.id.0], |row| row.get(0))?;
    let mut tell = transaction.prepare_cached("INSERT OR IGNORE INTO tellings VALUES (?1, ?2, ?3)")?;
    tell.execute(params![pack.id.0, pack.size_bytes, origin.as_str()])?;
    if added == 0 {
        return Ok(());
    }
    let mut insert = transaction.prepare_cached("INSERT INTO frames VALUES (?1, ?2, ?3, ?4, ?5)")?;
    for (number, frame) in (0_i64..).zip(&pack.frames) {
        insert.execute(params![n, number, frame.offset, frame.size_bytes, frame.plain_bytes])?;
    }
    let mut insert =
        transaction.prepare_cached("INSERT OR IGNORE INTO chunks VALUES (?1, ?2, ?3, ?4, ?5)")?;
    for chunk in &pack.chunks {
        insert.execute(params![chunk.id.0, n, chunk.frame, chunk.offset, chunk.size_bytes])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use rusqlite::StatementStatus;

    use super::*;
    use crate::catalog::Avoided;

    fn pack(byte: u8, chunks: &[u8]) -> PackRow {
        let row =
            |n: &u8| ChunkRow { id: ChunkId([*n; 32]), frame: 0, offset: 512, size_bytes: u32::from(*n) };
        PackRow {
            id: PackId([byte; 32]),
            size_bytes: 1000 + u64::from(byte),
            payload_offset: 300,
            kind: if byte.is_multiple_of(2) { "data" } else { "meta" }.to_owned(),
            writer: "RW1".to_owned(),
            config: u32::from(byte) / 2,
            frames: vec![FrameRow { offset: 0, size_bytes: 10, plain_bytes: 20 }; 3],
            chunks: chunks.iter().map(row).collect(),
        }
    }

    #[test]
    fn a_chunk_is_found_in_a_pack_of_the_kind_asked_for() {
        let catalog = Catalog::in_memory().unwrap();
        let origin = Key::new("index/a").unwrap();
        catalog.add_packs(&origin, &[pack(2, &[7, 8]), pack(3, &[7])]).unwrap();
        catalog.add_packs(&origin, &[pack(2, &[7, 8])]).unwrap();
        let find =
            |id: u8, kind| catalog.find_chunk(&ChunkId([id; 32]), kind, None).unwrap().map(|at| at.pack.0[0]);
        assert_eq!(find(7, Some("data")), Some(2));
        assert_eq!(find(7, Some("meta")), Some(3));
        assert_eq!(find(8, Some("meta")), None);
        assert_eq!(find(9, None), None);
        assert_eq!(catalog.find_pack(&PackId([2; 32])).unwrap().unwrap().frames.len(), 3);
        assert_eq!(catalog.origins().unwrap().len(), 1);
    }

    #[test]
    fn no_question_of_a_backup_goes_through_all_chunks() {
        let catalog = Catalog::in_memory().unwrap();
        let connection = catalog.connection();
        let of_pack = "DELETE FROM chunks WHERE pack = ?1";
        for question in [FIND, FIND_EVERYWHERE, "DELETE FROM packs WHERE n = ?1", of_pack] {
            let mut query = connection.prepare(&format!("EXPLAIN QUERY PLAN {question}")).unwrap();
            let nothing = vec![rusqlite::types::Null; query.parameter_count()];
            let steps = query.query_map(rusqlite::params_from_iter(nothing), |row| row.get::<_, String>(3));
            let steps: Vec<String> = steps.unwrap().collect::<rusqlite::Result<_>>().unwrap();
            assert!(steps.iter().any(|step| step.starts_with("SEARCH ")), "{steps:?}");
            let scans = steps.iter().filter(|step| step.starts_with("SCAN ") && !step.contains("json_each"));
            assert_eq!(scans.collect::<Vec<_>>(), Vec::<&String>::new(), "{question}");
        }
    }

    #[test]
    fn a_question_is_planned_once_whatever_is_bound() {
        let catalog = Catalog::in_memory().unwrap();
        catalog.add_packs(&Key::new("index/a").unwrap(), &[pack(2, &[7, 8])]).unwrap();
        let revisions = [1].into();
        let trusted = TrustedPacks { writer: "w", data_revisions: &revisions, meta_revisions: &revisions };
        for id in 0..20 {
            let kind = if id % 2 == 0 { "data" } else { "meta" };
            catalog.find_chunk(&ChunkId([id; 32]), Some(kind), (id % 3 == 0).then_some(trusted)).unwrap();
        }
        let connection = catalog.connection();
        let query = connection.prepare_cached(FIND).unwrap();
        assert_eq!(query.get_status(StatementStatus::Run), 20);
        assert_eq!(query.get_status(StatementStatus::RePrepare), 0);
    }

    #[test]
    fn a_pack_that_is_gone_takes_its_chunks_along() {
        let catalog = Catalog::in_memory().unwrap();
        let origins = ["index/a", "index/b"].map(|key| Key::new(key).unwrap());
        catalog.add_packs(&origins[0], &[pack(2, &[7, 8])]).unwrap();
        catalog.add_packs(&origins[1], &[pack(4, &[9])]).unwrap();
        catalog.retain_packs(&[(PackId([2; 32]), 1002), (PackId([4; 32]), 1)].into()).unwrap();
        assert!(catalog.find_chunk(&ChunkId([7; 32]), None, None).unwrap().is_some());
        assert!(catalog.find_chunk(&ChunkId([9; 32]), None, None).unwrap().is_none());
        assert_eq!(catalog.origins().unwrap().len(), 2, "that it is gone is known");
        catalog.retain_packs(&[(PackId([2; 32]), 1002), (PackId([4; 32]), 1004)].into()).unwrap();
        assert_eq!(catalog.origins().unwrap(), [origins[0].clone()].into(), "what came back is read again");
        catalog.clear_index().unwrap();
        assert!(catalog.find_chunk(&ChunkId([7; 32]), None, None).unwrap().is_none());
    }

    #[test]
    fn a_damaged_pack_is_named_to_readers_only_and_last() {
        let catalog = Catalog::in_memory().unwrap();
        catalog.add_packs(&Key::new("index/a").unwrap(), &[pack(2, &[7]), pack(4, &[7, 8])]).unwrap();
        catalog.avoid_packs(&[PackId([2; 32])].into(), Avoided::Damaged).unwrap();
        let everywhere = catalog.find_chunk_everywhere(&ChunkId([7; 32]), "data").unwrap();
        assert_eq!(everywhere.iter().map(|at| at.pack.0[0]).collect::<Vec<_>>(), [4, 2]);
        catalog.avoid_packs(&[PackId([4; 32])].into(), Avoided::Retired).unwrap();
        assert!(catalog.find_chunk(&ChunkId([7; 32]), None, None).unwrap().is_none());
        assert_eq!(catalog.avoided_packs().unwrap().len(), 2);
        catalog.note_read(&PackId([2; 32]), DateTime::UNIX_EPOCH, true).unwrap();
        assert!(
            catalog.find_chunk(&ChunkId([7; 32]), None, None).unwrap().is_some(),
            "it was damaged, and heals"
        );
    }

    #[test]
    fn what_is_wrong_inside_a_pack_is_over_only_when_it_was_opened() {
        let catalog = Catalog::in_memory().unwrap();
        let (packs, at) = (BTreeSet::from([PackId([2; 32])]), DateTime::UNIX_EPOCH);
        let is_damaged_after_reading = |opened| {
            catalog.note_read(&PackId([2; 32]), at, opened).unwrap();
            !catalog.damaged_packs().unwrap().is_empty()
        };
        catalog.avoid_packs(&packs, Avoided::Damaged).unwrap();
        assert!(!is_damaged_after_reading(false), "its bytes are right again");
        for first in [Avoided::Damaged, Avoided::WrongInside] {
            catalog.avoid_packs(&packs, first).unwrap();
            catalog.avoid_packs(&packs, Avoided::WrongInside).unwrap();
            catalog.avoid_packs(&packs, Avoided::Damaged).unwrap();
            catalog.avoid_packs(&packs, Avoided::Retired).unwrap();
            assert!(is_damaged_after_reading(false), "a hash that fits says nothing of what is inside");
            assert!(!is_damaged_after_reading(true));
        }
    }

    #[test]
    fn a_pack_of_another_writer_is_relied_on_once_it_was_opened() {
        let catalog = Catalog::in_memory().unwrap();
        catalog.add_packs(&Key::new("index/a").unwrap(), &[pack(2, &[7])]).unwrap();
        let (one, none) = (BTreeSet::from([1]), BTreeSet::new());
        let of = |writer, data_revisions| TrustedPacks { writer, data_revisions, meta_revisions: &none };
        let find_of = |trusted| catalog.find_chunk(&ChunkId([7; 32]), None, Some(trusted)).unwrap().is_some();
        let find = |writer| find_of(of(writer, &one));
        assert!(!find_of(of("RW1", &none)), "it does not open to every reader");
        assert!(find("RW1") && !find("RW2"));
        catalog.note_read(&PackId([2; 32]), DateTime::UNIX_EPOCH, false).unwrap();
        assert!(!find("RW2"), "that its name fits its bytes says nothing of its chunks");
        catalog.note_read(&PackId([2; 32]), DateTime::UNIX_EPOCH, true).unwrap();
        assert!(find("RW2"));
        catalog.note_read(&PackId([2; 32]), DateTime::UNIX_EPOCH, false).unwrap();
        assert!(find("RW2"), "what was opened once stays so");
    }
}
