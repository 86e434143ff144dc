//! The notes of other restores, interrupted ones, whose tables somebody else changes now: [`Others`].
//!
//! Who went on with one of them would take tables for its own that are not.
//!
//! *Order.* The caller keeps every other restore away from its databases and finds them; ends them before it changes
//! the first table; forgets what they noted when it has noted itself what they were to give again, or brings them back
//! where nothing was changed in the end.
//!
//! *Crash.* What has been ended is not continued any more; its notes stay until somebody else writes its tables, or it
//! begins anew itself. Who comes then finds there the grants that it was to give again.

use std::collections::BTreeSet;

use mysql_async::{Conn, prelude::Queryable};

use super::{ENDED, Written, alone, drop_unused, forget_all, hex, noted, of_its_version, release};
use crate::{
    error::Result,
    mysql::{
        conn::{Server, code, number, text},
        layout::LEDGER,
    },
};

/// What is being done, for errors.
const DOING: &str = "end the notes of interrupted restores";

/// Interrupted restores that write some of what the caller writes. One that writes other tables of the same databases
/// is none of them, and may still go on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::mysql) struct Others {
    jobs: BTreeSet<String>,
    /// Those of them that could be continued: the others were ended before, and stay so.
    continuable: BTreeSet<String>,
    /// Grants on routines that they were to give again.
    pub grants: BTreeSet<String>,
}

impl Others {
    /// Finds those that write some of this, but for the caller's own; changes nothing. The grants are also those of the
    /// caller's own notes: who begins anew writes them anew.
    pub async fn find(
        server: &Server,
        conn: &mut Conn,
        own: Option<&str>,
        written: &Written,
    ) -> Result<Self> {
        let mut others = Self::default();
        if written.0.is_empty() || noted(server, conn).await?.is_empty() {
            return Ok(others);
        }
        alone(server, conn).await?;
        let sql = format!(
            "SELECT written.job, written.of_database, written.of_table, job.accounts_begun < {ENDED} \
             FROM {LEDGER}.written \
             JOIN {LEDGER}.job ON job.id = written.job"
        );
        let rows: Vec<mysql_async::Row> = match conn.query(sql).await {
            Ok(rows) => rows,
            // Notes of a version that did not tell what it writes.
            Err(error) if is_gone(&error) => Vec::new(),
            Err(error) => return Err(of_its_version(server.failure(DOING, error))),
        };
        for row in &rows {
            let (Some(job), Some(db)) = (text(row, 0), text(row, 1)) else { continue };
            if written.meets(&(db, text(row, 2))) {
                if text(row, 3).as_deref() == Some("1") {
                    others.continuable.insert(job.clone());
                }
                others.jobs.insert(job);
            }
        }
        for job in &others.jobs {
            let sql = format!("SELECT statement FROM {LEDGER}.granted WHERE job = {}", hex(job));
            let rows = server.rows(conn, &sql, DOING).await?;
            others.grants.extend(rows.iter().filter_map(|row| text(row, 0)));
        }
        if let Some(own) = own {
            others.jobs.remove(own);
            others.continuable.remove(own);
        }
        release(server, conn).await?;
        Ok(others)
    }

    /// Returns what a person should know of those that are ended.
    pub fn note(&self) -> Option<String> {
        let note = "an interrupted restore that writes some of the same cannot be continued any more";
        (!self.jobs.is_empty()).then(|| note.to_owned())
    }

    /// Ends them: none can be continued from now on.
    pub async fn end(&self, server: &Server, conn: &mut Conn) -> Result<()> {
        self.set(server, conn, &format!("accounts_begun + {ENDED}"), "<").await
    }

    /// Brings back those that were ended, as their tables are what they were.
    pub async fn bring_back(&self, server: &Server, conn: &mut Conn) -> Result<()> {
        self.set(server, conn, &format!("accounts_begun - {ENDED}"), ">=").await
    }

    /// Changes the state of those that are ended, or not.
    async fn set(&self, server: &Server, conn: &mut Conn, state: &str, are: &str) -> Result<()> {
        if self.continuable.is_empty() {
            return Ok(());
        }
        let list: Vec<String> = self.continuable.iter().map(|job| hex(job)).collect();
        let sql = format!(
            "UPDATE {LEDGER}.job SET accounts_begun = {state} WHERE id IN ({}) AND accounts_begun {are} {ENDED}",
            list.join(", ")
        );
        tell(server, conn, &sql).await
    }

    /// Forgets what they noted.
    pub async fn forget(&self, server: &Server, conn: &mut Conn) -> Result<()> {
        if self.jobs.is_empty() {
            return Ok(());
        }
        alone(server, conn).await?;
        for step in self.jobs.iter().flat_map(|job| forget_all(&hex(job))) {
            tell(server, conn, &step).await?;
        }
        drop_unused(server, conn).await?;
        release(server, conn).await
    }
}

/// Runs a statement on the ledger, which somebody may have dropped by hand.
async fn tell(server: &Server, conn: &mut Conn, sql: &str) -> Result<()> {
    match conn.query_drop(sql).await {
        Err(error) if is_gone(&error) => Ok(()),
        told => told.map_err(|error| server.failure(DOING, error)),
    }
}

fn is_gone(error: &mysql_async::Error) -> bool {
    matches!(number(error), Some(code::NO_SUCH_TABLE | code::UNKNOWN_DATABASE))
}
