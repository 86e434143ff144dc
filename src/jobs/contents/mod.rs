//! Does a server hold what a snapshot holds? Drills ask it of a lab, and a restore of what it has just written.
//!
//! The very source that makes backups reads the server, and what it sends is compared with the snapshot's entry list; no
//! data is fetched for that. Only where something differs both sides are read again, to name the row.
//!
//! *Order.* Entries first, then what differs. *Crash.* Nothing is changed anywhere.
//!
//! *Limits.* Those of [`crate::flow::compare`] and [`crate::flow::unordered`]; findings are named up to
//! [`FINDINGS_MAX`].

mod restored;
pub mod rows;

use async_trait::async_trait;

pub use self::restored::check;
use crate::{
    drill::FINDINGS_MAX,
    error::Result,
    flow::{Seen, compare::Stored},
    repo::EntryLines,
};

/// What was found not to hold.
#[derive(Debug, Default)]
pub struct Findings {
    /// The first ones.
    pub named: Vec<String>,
    /// How many there are.
    pub total: u64,
    /// Whether there may be more than that.
    pub is_open: bool,
    /// What could not be compared, and why.
    pub uncompared: Option<String>,
}

impl Findings {
    /// Adds one.
    pub fn add(&mut self, line: String) {
        self.total += 1;
        if self.room() > 0 {
            self.named.push(line);
        }
    }

    /// Adds all of these.
    pub fn extend(&mut self, lines: Vec<String>) {
        for line in lines {
            self.add(line);
        }
    }

    /// Returns how many more are named.
    pub fn room(&self) -> usize {
        FINDINGS_MAX.saturating_sub(self.named.len())
    }
}

/// The entries of a snapshot as they stand in its entry list.
pub struct Listed(pub EntryLines);

#[async_trait]
impl Stored for Listed {
    async fn next(&mut self) -> Result<Option<Seen>> {
        let record = self.0.next().await?;
        Ok(record.map(|record| Seen {
            meta: record.meta,
            trailer: record.trailer,
            sha256: record.sha256.to_string(),
            size_bytes: record.size_bytes,
        }))
    }
}
