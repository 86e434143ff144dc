//! What ran when, and how it ended: for people and for the service's metrics.

use chrono::{DateTime, Utc};
use rusqlite::params;

use super::Catalog;
use crate::{error::Result, names::SnapshotId};

/// One run of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// The job's verb.
    pub verb: String,
    /// When it began.
    pub began: DateTime<Utc>,
    /// How it ended; `None` while it runs, or when the process died.
    pub end: Option<RunEnd>,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunEnd {
    /// When.
    pub ended: DateTime<Utc>,
    /// The process's exit code.
    pub exit: u8,
    /// The snapshot that it made or read.
    pub snapshot: Option<SnapshotId>,
    /// Bytes that it added to the store.
    pub added_bytes: u64,
    /// What failed, if it did.
    pub message: Option<String>,
}

impl Catalog {
    /// Notes that a run begins, and returns its number.
    pub fn begin_run(&self, verb: &str, began: DateTime<Utc>) -> Result<i64> {
        let connection = self.connection();
        let insert = connection
            .execute("INSERT INTO runs (verb, began) VALUES (?1, ?2)", params![verb, began.to_rfc3339()]);
        insert.map_err(|error| self.trouble(error))?;
        Ok(connection.last_insert_rowid())
    }

    /// Notes how a run ended.
    pub fn end_run(&self, run: i64, end: &RunEnd) -> Result<()> {
        let update = self.connection().execute(
            "UPDATE runs SET ended = ?2, exit = ?3, snapshot = ?4, added_bytes = ?5, message = ?6 WHERE n = ?1",
            params![
                run,
                end.ended.to_rfc3339(),
                end.exit,
                end.snapshot.as_ref().map(SnapshotId::as_str),
                end.added_bytes,
                end.message
            ],
        );
        update.map_err(|error| self.trouble(error)).map(drop)
    }

    /// Returns the newest `limit` runs, the newest first.
    pub fn runs(&self, limit: u32) -> Result<Vec<Run>> {
        let connection = self.connection();
        let read = || {
            let mut query = connection.prepare(
                "SELECT verb, began, ended, exit, snapshot, added_bytes, message FROM runs ORDER BY n DESC LIMIT ?1",
            )?;
            let rows = query.query_map(params![limit], |row| {
                let time = |text: String| DateTime::parse_from_rfc3339(&text).unwrap_or_default().to_utc();
                let end = match row.get::<_, Option<String>>(2)? {
                    None => None,
                    Some(ended) => Some(RunEnd {
                        ended: time(ended),
                        exit: row.get(3)?,
                        snapshot: row.get::<_, Option<String>>(4)?.and_then(|id| id.parse().ok()),
                        added_bytes: row.get(5)?,
                        message: row.get(6)?,
                    }),
                };
                Ok(Run { verb: row.get(0)?, began: time(row.get(1)?), end })
            })?;
            rows.collect::<rusqlite::Result<Vec<Run>>>()
        };
        read().map_err(|error| self.trouble(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_never_ended_is_told_from_one_that_did() {
        let catalog = Catalog::in_memory().unwrap();
        let began = DateTime::UNIX_EPOCH;
        let first = catalog.begin_run("backup", began).unwrap();
        catalog.begin_run("verify", began).unwrap();
        let end = RunEnd {
            ended: began,
            exit: 3,
            snapshot: Some(SnapshotId::at(began, 1)),
            added_bytes: 7,
            message: Some("why".into()),
        };
        catalog.end_run(first, &end).unwrap();
        let runs = catalog.runs(10).unwrap();
        assert_eq!(runs[0], Run { verb: "verify".into(), began, end: None });
        assert_eq!(runs[1], Run { verb: "backup".into(), began, end: Some(end) });
    }
}
