//! What this host has seen of repositories, each by its id: the newest config and the newest commit of each signer.

use rusqlite::{OptionalExtension, params};

use super::Catalog;
use crate::{error::Result, names::PackId};

impl Catalog {
    /// Returns the highest revision of a repository's config that was seen.
    pub fn seen_config(&self, repository: &str) -> Result<Option<u32>> {
        let connection = self.connection();
        let read = || {
            let mut query =
                connection.prepare_cached("SELECT revision FROM configs WHERE repository = ?1")?;
            query.query_row(params![repository], |row| row.get(0)).optional()
        };
        read().map_err(|error| self.trouble(error))
    }

    /// Notes a revision of a repository's config.
    pub fn note_config(&self, repository: &str, revision: u32) -> Result<()> {
        let noted = self.connection().execute(
            "INSERT INTO configs VALUES (?1, ?2) ON CONFLICT DO UPDATE SET revision = max(revision, ?2)",
            params![repository, revision],
        );
        noted.map(drop).map_err(|error| self.trouble(error))
    }

    /// Returns the newest commit of each signer that was seen: signer, number, SHA-256 of the refs.
    pub fn seen_heads(&self, repository: &str) -> Result<Vec<(String, u64, PackId)>> {
        let connection = self.connection();
        let read = || -> rusqlite::Result<Vec<_>> {
            let mut query =
                connection.prepare_cached("SELECT signer, seq, refs FROM heads WHERE repository = ?1")?;
            query
                .query_map(params![repository], |row| Ok((row.get(0)?, row.get(1)?, PackId(row.get(2)?))))?
                .collect()
        };
        read().map_err(|error| self.trouble(error))
    }

    /// Notes a commit; one that is older than what was seen changes nothing.
    pub fn note_head(&self, repository: &str, signer: &str, seq: u64, refs: PackId) -> Result<()> {
        let noted = self.connection().execute(
            "INSERT INTO heads VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT DO UPDATE SET seq = ?3, refs = ?4 WHERE ?3 > seq",
            params![repository, signer, seq, refs.0],
        );
        noted.map(drop).map_err(|error| self.trouble(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_seen_only_grows() {
        let catalog = Catalog::in_memory().unwrap();
        assert_eq!(catalog.seen_config("a").unwrap(), None);
        for revision in [0, 2, 1] {
            catalog.note_config("a", revision).unwrap();
        }
        assert_eq!(catalog.seen_config("a").unwrap(), Some(2));
        assert_eq!(catalog.seen_config("b").unwrap(), None);
        for seq in [1, 3, 2] {
            catalog.note_head("a", "RW1", seq, PackId([u8::try_from(seq).unwrap(); 32])).unwrap();
        }
        assert_eq!(catalog.seen_heads("a").unwrap(), [("RW1".to_owned(), 3, PackId([3; 32]))]);
    }
}
