//! What was seen last of things that cost something to look at: a store's clock, its room, its newest snapshot.
//!
//! An observation has a name and an instant; the next one under that name takes its place.

use chrono::{DateTime, Utc};
use rusqlite::{OptionalExtension, params};
use serde::{Serialize, de::DeserializeOwned};

use super::{Catalog, instant, text_of};
use crate::error::Result;

impl Catalog {
    /// Notes what was seen under this name.
    pub fn observe<T: Serialize>(&self, name: &str, value: &T, now: DateTime<Utc>) -> Result<()> {
        // Observations are plain values of this program: numbers, words, lists of them.
        let Ok(text) = serde_json::to_string(value) else { return Ok(()) };
        let noted = self.connection().execute(
            "INSERT INTO observations VALUES (?1, ?2, ?3) ON CONFLICT DO UPDATE SET at = ?2, value = ?3",
            params![name, text_of(now), text],
        );
        noted.map(drop).map_err(|error| self.trouble(error))
    }

    /// Returns what was seen last under this name, and when. What cannot be read as a `T` was written by another
    /// version and counts as not seen.
    pub fn observed<T: DeserializeOwned>(&self, name: &str) -> Result<Option<(T, DateTime<Utc>)>> {
        let connection = self.connection();
        let read = || {
            let mut query = connection.prepare_cached("SELECT value, at FROM observations WHERE key = ?1")?;
            query.query_row(params![name], |row| Ok((row.get::<_, String>(0)?, instant(row, 1)?))).optional()
        };
        let found = read().map_err(|error| self.trouble(error))?;
        Ok(found.and_then(|(text, at)| Some((serde_json::from_str(&text).ok()?, at))))
    }

    /// Forgets what was seen under this name.
    pub fn forget_observation(&self, name: &str) -> Result<()> {
        let delete = self.connection().execute("DELETE FROM observations WHERE key = ?1", params![name]);
        delete.map(drop).map_err(|error| self.trouble(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_observation_counts_and_a_strange_one_counts_as_none() {
        let catalog = Catalog::in_memory().unwrap();
        let at = DateTime::UNIX_EPOCH;
        catalog.observe("room", &7_u64, at).unwrap();
        catalog.observe("room", &8_u64, at + chrono::Duration::hours(1)).unwrap();
        assert_eq!(catalog.observed::<u64>("room").unwrap(), Some((8, at + chrono::Duration::hours(1))));
        assert_eq!(catalog.observed::<Vec<String>>("room").unwrap(), None);
        catalog.forget_observation("room").unwrap();
        assert_eq!(catalog.observed::<u64>("room").unwrap(), None);
    }
}
