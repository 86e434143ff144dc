//! Statements that need tables for themselves, and do not hold others up for long.
//!
//! *Order.* One attempt waits for a moment only, as all new statements wait behind it; then others are let through, and
//! it is made again.

use std::time::{Duration, Instant};

use mysql_async::{Conn, prelude::Queryable};

use super::{
    apply,
    conn::{Server, code, number},
    grants, processes,
};
use crate::error::{ExitCode, Failure, Result};

/// Time that others may wait behind one attempt to get the tables.
const LOCK_TRY_SECONDS: u64 = 3;
/// Time that others are let through between two attempts.
const LOCK_PAUSE: Duration = Duration::from_secs(1);

/// Runs a statement that needs tables for itself, without holding others up for long.
pub(super) async fn patiently(server: &Server, conn: &mut Conn, sql: &str, doing: &str) -> Result<()> {
    let limit = server.config.lock_wait_seconds.max(1);
    let wait = format!("SET SESSION lock_wait_timeout={}", LOCK_TRY_SECONDS.min(limit));
    server.run(conn, wait, doing).await?;
    let began = Instant::now();
    loop {
        match grants::query(conn, sql).await {
            Ok(()) => return Ok(()),
            Err(error) if matches!(number(&error), Some(code::LOCK_WAIT | code::DEADLOCK)) => {
                if began.elapsed() >= Duration::from_secs(limit) {
                    return Err(apply::refused(server, doing, error).hint(
                        "A long statement or transaction holds the table: SHOW PROCESSLIST names it. End it, or raise \
                         lock_wait_seconds.",
                    ));
                }
                tokio::time::sleep(LOCK_PAUSE).await;
            }
            Err(error) => return Err(apply::refused(server, doing, error)),
        }
    }
}

/// Ends a session that may still wait for a lock, and waits until it is gone.
pub(super) async fn end_session(server: &Server, conn: &mut Conn, id: u32) -> Result<()> {
    let _gone_already = conn.query_drop(format!("KILL {id}")).await;
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(server.config.lock_wait_seconds.max(1)) {
        if processes::list(server, conn).await?.iter().all(|process| process.id != u64::from(id)) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let what = format!("`{}`: the session that exchanged the tables does not end", server.name);
    Err(Failure::new(ExitCode::Failed, what))
}
