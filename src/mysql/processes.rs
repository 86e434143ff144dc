//! The process list: who is connected, and what with.
//!
//! It is asked for by `SHOW PROCESSLIST`. `information_schema.processlist` holds statements as `utf8mb3` and is filled
//! with them whatever is selected: MySQL 9 refuses the whole question (error 3854, `ER_CANNOT_CONVERT_STRING`) as long
//! as anybody runs a statement with an emoji in it. `performance_schema.processlist` may be switched off.

use mysql_async::Conn;

use super::conn::{Server, text};
use crate::error::Result;

/// One session; the text of its statement is nobody's business.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Process {
    pub id: u64,
    pub user: String,
    /// `Query`, `Sleep`, `Binlog Dump` and the like.
    pub command: String,
    /// How long it has been in its state.
    pub seconds: u64,
    pub state: String,
}

/// Returns all sessions that the account may see: its own account's, and with `PROCESS` everybody's.
pub(super) async fn list(server: &Server, conn: &mut Conn) -> Result<Vec<Process>> {
    // Id, User, Host, db, Command, Time, State, Info (MySQL 9 manual, 15.7.7.31; MariaDB adds Progress).
    let rows = server.rows(conn, "SHOW PROCESSLIST", "read the process list").await?;
    // A time may be -1.
    let of_row = |row: &mysql_async::Row| {
        let number = |at| text(row, at).and_then(|text| text.parse().ok()).unwrap_or_default();
        let word = |at| text(row, at).unwrap_or_default();
        Process { id: number(0), user: word(1), command: word(4), seconds: number(5), state: word(6) }
    };
    Ok(rows.iter().map(of_row).collect())
}
