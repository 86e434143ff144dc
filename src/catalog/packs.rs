//! What is known of packs beyond where chunks are: which to avoid, and when each was read last.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use rusqlite::params;

use super::Catalog;
use crate::{error::Result, names::PackId};

/// Why no new snapshot relies on a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Avoided {
    /// It was read and is damaged.
    Damaged,
    /// It was opened and what is inside is wrong, though its bytes may have the hash in its name.
    WrongInside,
    /// Little of it is used.
    Retired,
    /// Prune has condemned it.
    Condemned,
}

impl Avoided {
    fn word(self) -> &'static str {
        match self {
            Self::Damaged => "damaged",
            Self::WrongInside => "wrong_inside",
            Self::Retired => "retired",
            Self::Condemned => "condemned",
        }
    }
}

impl Catalog {
    /// Returns the bytes of all packs that are known.
    pub fn stored_bytes(&self) -> Result<u64> {
        let connection = self.connection();
        let sum =
            connection.query_row("SELECT coalesce(sum(size_bytes), 0) FROM packs", [], |row| row.get(0));
        sum.map_err(|error| self.trouble(error))
    }

    /// Notes that no new snapshot may rely on these packs. Damage outweighs the other reasons, and that inside most.
    pub fn avoid_packs(&self, packs: &BTreeSet<PackId>, why: Avoided) -> Result<()> {
        let mut connection = self.connection();
        let mut note = || {
            let transaction = connection.transaction()?;
            for pack in packs {
                transaction.execute(
                    "INSERT INTO avoided VALUES (?1, ?2) ON CONFLICT (id) DO UPDATE SET why = ?2
                     WHERE why NOT IN ('damaged', 'wrong_inside') OR ?2 = 'wrong_inside'",
                    params![pack.0, why.word()],
                )?;
            }
            transaction.commit()
        };
        note().map_err(|error| self.trouble(error))
    }

    /// Returns the packs that no new snapshot relies on.
    pub fn avoided_packs(&self) -> Result<BTreeSet<PackId>> {
        self.packs_avoided("SELECT id FROM avoided WHERE why <> 'condemned'")
    }

    /// Returns the packs that were read and are damaged, and that nobody has found right since.
    pub fn damaged_packs(&self) -> Result<BTreeSet<PackId>> {
        self.packs_avoided("SELECT id FROM avoided WHERE why IN ('damaged', 'wrong_inside')")
    }

    fn packs_avoided(&self, query: &str) -> Result<BTreeSet<PackId>> {
        let connection = self.connection();
        let read = || -> rusqlite::Result<BTreeSet<PackId>> {
            let mut query = connection.prepare(query)?;
            query.query_map([], |row| Ok(PackId(row.get(0)?)))?.collect()
        };
        read().map_err(|error| self.trouble(error))
    }

    /// Notes that a pack was read whole and is right; `opened` tells whether its chunks were looked at. Without that,
    /// only damage of its bytes is over.
    pub fn note_read(&self, pack: &PackId, at: DateTime<Utc>, opened: bool) -> Result<()> {
        let mut connection = self.connection();
        let mut note = || {
            let transaction = connection.transaction()?;
            transaction.execute(
                "INSERT INTO reads VALUES (?1, ?2, ?3)
                 ON CONFLICT (id) DO UPDATE SET at = ?2, opened = max(opened, ?3)",
                params![pack.0, at.to_rfc3339(), opened],
            )?;
            transaction.execute(
                "DELETE FROM avoided WHERE id = ?1 AND (why = 'damaged' OR ?2 AND why = 'wrong_inside')",
                params![pack.0, opened],
            )?;
            transaction.commit()
        };
        note().map_err(|error| self.trouble(error))
    }

    /// Returns when each pack was last read whole and found right.
    pub fn last_reads(&self) -> Result<BTreeMap<PackId, DateTime<Utc>>> {
        let connection = self.connection();
        let read = || -> rusqlite::Result<Vec<(PackId, String)>> {
            let mut query = connection.prepare("SELECT id, at FROM reads")?;
            query.query_map([], |row| Ok((PackId(row.get(0)?), row.get(1)?)))?.collect()
        };
        let rows = read().map_err(|error| self.trouble(error))?;
        let parse = |(pack, at): (PackId, String)| Some((pack, at.parse::<DateTime<Utc>>().ok()?));
        Ok(rows.into_iter().filter_map(parse).collect())
    }

    /// Forgets what is known of packs that are not among `there`.
    pub fn retain_facts(&self, there: &BTreeMap<PackId, u64>) -> Result<()> {
        let mut connection = self.connection();
        let mut retain = || {
            let transaction = connection.transaction()?;
            for table in ["avoided", "reads"] {
                let mut query = transaction.prepare(&format!("SELECT id FROM {table}"))?;
                let ids = query.query_map([], |row| Ok(PackId(row.get(0)?)))?;
                let gone: Vec<PackId> = ids
                    .collect::<rusqlite::Result<Vec<_>>>()?
                    .into_iter()
                    .filter(|id| !there.contains_key(id))
                    .collect();
                for id in gone {
                    transaction.execute(&format!("DELETE FROM {table} WHERE id = ?1"), params![id.0])?;
                }
            }
            transaction.commit()
        };
        retain().map_err(|error| self.trouble(error))
    }
}
