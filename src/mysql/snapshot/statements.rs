//! Other people's statements: what a lock would have to wait for, and who waits behind it.
//!
//! A `FLUSH TABLES` that was given up still leaves every table that it wanted to close "to be flushed": until
//! the statement that uses such a table ends, all new ones on it wait. So nobody flushes while a long one runs.

use std::time::{Duration, Instant};

use mysql_async::{Conn, prelude::Queryable};

use super::super::{
    conn::{Server, is_denied, number},
    processes::{self, Process},
};
use crate::error::Result;

/// Time between two looks at the process list.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Accounts of the server's own threads.
const SERVERS_OWN: [&str; 2] = ["system user", "event_scheduler"];
/// Sessions without a statement: sleeping ones, and the threads that send the binlog or apply it (their time is the age
/// of an event).
const NO_STATEMENT: [&str; 11] = [
    "Sleep",
    "Daemon",
    "Connect",
    "Binlog Dump",
    "Binlog Dump GTID",
    "Slave_IO",
    "Slave_SQL",
    "Slave_worker",
    "Register Replica",
    "Register Slave",
    "Killed",
];

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
    // Without the privilege the process list is short and silent; this table of numbers says so. Those that hold
    // statements fail over letters that they have no room for.
    match conn.query_drop("SELECT 1 FROM information_schema.innodb_cmp LIMIT 1").await {
        Ok(()) => Ok(true),
        Err(error) if number(&error).is_some_and(is_denied) => Ok(false),
        Err(error) => Err(server.failure("ask for its own privileges", error)),
    }
}

/// Returns what others run.
async fn others(server: &Server, conn: &mut Conn) -> Result<impl Iterator<Item = Process>> {
    let own = u64::from(conn.id());
    let all = processes::list(server, conn).await?;
    Ok(all.into_iter().filter(move |process| process.id != own))
}

fn is_statement(process: &Process) -> bool {
    !SERVERS_OWN.contains(&process.user.as_str()) && !NO_STATEMENT.contains(&process.command.as_str())
}

/// Returns the statement that runs longest, whatever its age.
pub(super) async fn longest(server: &Server, conn: &mut Conn) -> Result<Option<Running>> {
    let running = others(server, conn).await?.filter(is_statement);
    let longest = running.max_by_key(|process| process.seconds);
    Ok(longest.map(|process| Running { id: process.id, user: process.user, seconds: process.seconds }))
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

/// Returns whether anybody is in the middle of a commit: between the binlog and the engine, in the one already, perhaps
/// not yet in the other.
pub(super) async fn are_committing(server: &Server, conn: &mut Conn) -> Result<bool> {
    Ok(others(server, conn).await?.any(|process| is_committing(&process.state)))
}

fn is_committing(state: &str) -> bool {
    let state = state.to_ascii_lowercase();
    state == "waiting for handler commit" || state.starts_with("waiting for semi-sync ack")
}
