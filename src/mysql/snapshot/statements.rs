//! Other people's statements: what a lock would have to wait for, and who waits behind it.
//!
//! A `FLUSH TABLES` that was given up still leaves every table that it wanted to close "to be flushed": until
//! the statement that uses such a table ends, all new ones on it wait. So nobody flushes while a long one runs.

use std::time::{Duration, Instant};

use mysql_async::{Conn, prelude::Queryable};

use super::super::conn::{Server, is_denied, number, text};
use crate::error::Result;

/// Time between two looks at the process list.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// What matters of the process list: statements that run, of other sessions. Not: sleeping sessions, the
/// threads that send the binlog or apply it (their time is the age of an event), and the server's own.
const RUNNING: &str = "SELECT id, user, time FROM information_schema.processlist \
     WHERE id <> CONNECTION_ID() AND user NOT IN ('system user', 'event_scheduler') \
     AND command NOT IN ('Sleep', 'Daemon', 'Connect', 'Binlog Dump', 'Binlog Dump GTID', 'Slave_IO', \
     'Slave_SQL', 'Slave_worker', 'Register Replica', 'Register Slave', 'Killed') ORDER BY time DESC LIMIT 1";

/// Sessions between the binlog and the engine: in the one already, perhaps not yet in the other.
const COMMITTING: &str = "SELECT 1 FROM information_schema.processlist WHERE id <> CONNECTION_ID() \
     AND (state = 'waiting for handler commit' OR state LIKE 'Waiting for semi-sync ACK%') LIMIT 1";

/// A statement of somebody else; its text is nobody's business.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Running {
    pub id: u64,
    pub user: String,
    pub seconds: u64,
}

impl std::fmt::Display for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "statement {} of user `{}` has been running for {} s", self.id, self.user, self.seconds)
    }
}

/// Returns whether the account sees what others do.
pub(super) async fn are_seen(server: &Server, conn: &mut Conn) -> Result<bool> {
    // Without the privilege the process list is short and silent; this one says so.
    match conn.query_drop("SELECT 1 FROM information_schema.innodb_trx LIMIT 1").await {
        Ok(()) => Ok(true),
        Err(error) if number(&error).is_some_and(is_denied) => Ok(false),
        Err(error) => Err(server.failure("ask for its own privileges", error)),
    }
}

/// Returns the statement that runs longest, whatever its age.
pub(super) async fn longest(server: &Server, conn: &mut Conn) -> Result<Option<Running>> {
    let rows = server.rows(conn, RUNNING, "read the process list").await?;
    Ok(rows.first().map(|row| {
        let number = |at| text(row, at).and_then(|text| text.parse().ok()).unwrap_or_default();
        Running { id: number(0), user: text(row, 1).unwrap_or_default(), seconds: number(2) }
    }))
}

/// Returns a statement that has been running for as long as the policy calls long.
pub(super) async fn long_one(server: &Server, conn: &mut Conn) -> Result<Option<Running>> {
    let longest = longest(server, conn).await?;
    Ok(longest.filter(|running| running.seconds >= server.config.long_query_seconds))
}

/// Waits until no statement is a long one; returns one that still ran when the time was up.
pub(super) async fn wait_for_long_ones(
    server: &Server,
    conn: &mut Conn,
    until: Instant,
) -> Result<Option<Running>> {
    loop {
        match long_one(server, conn).await? {
            Some(running) if Instant::now() >= until => return Ok(Some(running)),
            Some(_) => tokio::time::sleep(LOOK_AGAIN).await,
            None => return Ok(None),
        }
    }
}

/// Returns whether anybody is in the middle of a commit.
pub(super) async fn are_committing(server: &Server, conn: &mut Conn) -> Result<bool> {
    Ok(!server.rows(conn, COMMITTING, "read the process list").await?.is_empty())
}
