//! One question to a server, its answer row by row: what a drill asks of what it restored.
//!
//! *Order.* The question runs in a session that can only read. Rows are handed on as they come; the next one is
//! read when the one before was taken.
//!
//! *Limits.* One row is in memory.

use std::ops::ControlFlow;

use mysql_async::prelude::Queryable;

use super::conn::{Purpose, Server, bytes};
use crate::{error::Result, names::SourceName, policy::MysqlConfig};

/// A row: each column's value as the server writes it, numbers and dates as text in UTC; `None` for NULL.
pub type Answer = Vec<Option<Vec<u8>>>;

/// Asks `query`, a single SELECT, and hands each row to `hear` until there are no more or it has heard enough.
/// Fails with the server's own number and words when it refuses the question.
pub async fn ask(
    name: &SourceName,
    config: &MysqlConfig,
    query: &str,
    mut hear: impl FnMut(Answer) -> Result<ControlFlow<()>>,
) -> Result<()> {
    let server = Server::new(name, config, false)?;
    let mut conn = server.open(Purpose::ReadNames).await?;
    // One that is begun by hand would be ended by a DROP, which then is carried out.
    server.run(&mut conn, "SET SESSION TRANSACTION READ ONLY", "prepare to read").await?;
    let fail = |error| server.failure("answer the question", error);
    let mut result = conn.query_iter(query).await.map_err(fail)?;
    while let Some(row) = result.next().await.map_err(fail)? {
        let answer = (0..row.len()).map(|at| bytes(&row, at)).collect();
        if hear(answer)?.is_break() {
            // What is left is not read: the session goes, and the server stops sending.
            return Ok(());
        }
    }
    result.drop_result().await.map_err(fail)?;
    conn.disconnect().await.map_err(fail)
}
