//! Which session reads a table, and holds it until then.
//!
//! A metadata lock keeps a definition as it is, and who holds it never queues behind an `ALTER` that waits. So whoever
//! reads a table must hold it before. But `MariaDB` looks for a lock through all that the session has: ten
//! thousand tables held by every session cost minutes. A large table is held and read by all; each small one has a
//! home, the one session that holds, walks and reads it.
//!
//! *Order.* What one of our sessions holds another one may still have to ask for: a migration that came in between
//! waits for the one, and the other and everybody else behind it. So no session waits for longer than [`one_try`];
//! then all give back what they hold, and everything begins again.

use std::{cmp::Reverse, sync::Arc};

use futures_util::future::try_join_all;

use super::{
    super::{
        conn::{Server, Session, code, number, text},
        layout::Place,
        rows::Table,
        sql::literal,
    },
    Snapshot,
    ladder::{self, one_try, patience},
};
use crate::error::{Failure, Result};

/// Bytes for each row of a range, below which a table is small: it has one range then, but for very short rows.
const SMALL_ROW_BYTES: u64 = 64;

/// What became of an attempt to hold tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Pinned {
    All,
    /// This one went or changed since it was listed, or is not known to be of the instant.
    Gone(Place),
    /// Somebody had this one for himself for too long, or waits to.
    Busy(Place),
}

impl Snapshot {
    /// Lets no session wait for long until all tables are held.
    pub(super) async fn hurry(&mut self, server: &Server) -> Result<()> {
        self.wait_at_most_each(server, one_try(server).as_secs()).await
    }

    /// Lets all sessions wait for what they need as long as the policy says.
    pub(super) async fn be_patient(&mut self, server: &Server) -> Result<()> {
        self.wait_at_most_each(server, patience(server).as_secs()).await
    }

    async fn wait_at_most_each(&mut self, server: &Server, seconds: u64) -> Result<()> {
        self.run_all(server, &ladder::wait_at_most(seconds), "prepare the snapshot").await
    }

    /// Holds the tables with rows, each on the sessions that read it.
    pub(super) async fn pin_all(&mut self, server: &Server) -> Result<Pinned> {
        self.settle(server).await?;
        let rows = self.listed.iter().filter(|listed| listed.kind.has_rows()).map(|listed| &listed.at);
        let (mut shared, mut own) = (Vec::new(), vec![Vec::new(); self.workers.len()]);
        for at in rows {
            self.homes.get(at).and_then(|home| own.get_mut(*home)).unwrap_or(&mut shared).push(at);
        }
        // The first session that holds a table asks for a row: that, and nothing less, finds what was altered since the
        // instant.
        let first = pin(server, &mut self.names, &shared, 1).await?;
        let mut all = vec![first];
        if matches!(all[..], [Pinned::All]) {
            let holding = self.workers.iter_mut().zip(&own).map(async |(wire, own)| {
                match pin(server, wire, own, 1).await? {
                    Pinned::All => pin(server, wire, &shared, 0).await,
                    other => Ok(other),
                }
            });
            all.extend(try_join_all(holding).await?);
        }
        Ok(all.into_iter().find(|pinned| *pinned != Pinned::All).unwrap_or(Pinned::All))
    }

    /// Holds a table that was not listed before, if it was there at the instant.
    pub(super) async fn pin_new(&mut self, server: &Server, at: &Place) -> Result<Pinned> {
        pin(server, &mut self.names, &[at], 1).await
    }

    /// Says who kept a table to himself for all the time that the policy gives.
    pub(super) async fn in_the_way(&mut self, server: &Server, at: &Place) -> Result<Failure> {
        let running = self.who_was_in_the_way(server).await?;
        let lock = format!("a lock on table `{at}`");
        Ok(ladder::lock_refused(server, &lock, patience(server), running.as_ref()))
    }

    /// Gives each small table a home, so that all sessions have about as much to read.
    async fn settle(&mut self, server: &Server) -> Result<()> {
        self.ask_sizes(server).await?;
        let limit_bytes = self.range_rows.saturating_mul(SMALL_ROW_BYTES);
        let mut small: Vec<(u64, &Place)> = self
            .listed
            .iter()
            .filter(|listed| listed.kind.has_rows())
            .map(|listed| (self.sizes.get(&listed.at).copied().unwrap_or_default(), &listed.at))
            .filter(|(bytes, _)| *bytes < limit_bytes)
            .collect();
        small.sort_by_key(|(bytes, at)| (Reverse(*bytes), *at));
        let mut loads = vec![0; self.workers.len()];
        self.homes.clear();
        for (bytes, at) in small {
            let Some((home, load)) = loads.iter_mut().enumerate().min_by_key(|(_, load)| **load) else {
                break;
            };
            // A table costs its session something, also without rows.
            *load += bytes.max(1 << 14);
            self.homes.insert(at.clone(), home);
        }
        Ok(())
    }

    /// Asks how large the tables are. Database by database: to tell a size a server opens the table.
    async fn ask_sizes(&mut self, server: &Server) -> Result<()> {
        self.sizes.clear();
        let mut databases: Vec<&str> = self.listed.iter().map(|listed| listed.at.db.as_str()).collect();
        databases.dedup();
        for db in databases {
            let sql = format!(
                "SELECT table_name, data_length FROM information_schema.tables WHERE table_schema = {}",
                literal(db)
            );
            let rows = server.rows(&mut self.keeper, &sql, "ask the tables' sizes").await?;
            self.sizes.extend(rows.iter().filter_map(|row| {
                let at = Place { db: db.to_owned(), table: text(row, 0)? };
                Some((at, text(row, 1)?.parse().ok()?))
            }));
        }
        Ok(())
    }

    /// Returns the tables, those first that the server believes to be the largest.
    pub fn by_size(&self, tables: &[Arc<Table>]) -> Vec<Arc<Table>> {
        let mut sorted = tables.to_vec();
        sorted.sort_by_key(|table| Reverse(self.sizes.get(&table.at).copied().unwrap_or_default()));
        sorted
    }
}

/// Takes the metadata lock of every table.
async fn pin(server: &Server, conn: &mut impl Session, places: &[&Place], rows: usize) -> Result<Pinned> {
    for place in places {
        match conn.exec(format!("SELECT 1 FROM {} LIMIT {rows}", place.sql()).as_bytes()).await {
            Ok(()) => {}
            Err(error) => match number(&error) {
                Some(code::NO_SUCH_TABLE | code::UNKNOWN_DATABASE | code::TABLE_CHANGED) => {
                    return Ok(Pinned::Gone((*place).clone()));
                }
                Some(code::LOCK_WAIT | code::DEADLOCK) => return Ok(Pinned::Busy((*place).clone())),
                _ => return Err(server.failure(&format!("read table `{place}`"), error)),
            },
        }
    }
    Ok(Pinned::All)
}
