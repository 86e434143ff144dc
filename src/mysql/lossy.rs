//! What a server holds and does not show: values and definitions that a restore would change without an error.
//!
//! | what | where | what comes back |
//! |---|---|---|
//! | a member of an ENUM or SET with a letter beyond three bytes | both products | a question mark |
//! | a DEFAULT with such a letter | `MariaDB` | a question mark |
//! | a date, time or binary value inside a JSON document | MySQL | a string |
//! | a decimal number there that no DOUBLE equals | MySQL | a DOUBLE |
//!
//! Definitions are asked for only where a question mark is shown. Documents are looked at in a sample, the first and
//! the last [`SAMPLE_ROWS`] rows of a table, because a server takes as long to check a document as to read it twice.

use super::{
    codec::Codec,
    conn::{Flavor, Server, Session, field_text},
    layout::{Column, Layout, Place},
    sql::ident,
};
use crate::{error::Result, event::SharedMonitor};

/// Rows at each end of a table whose documents are looked at.
const SAMPLE_ROWS: u32 = 100;

/// A column that would not come back as it is, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lossy {
    column: String,
    why: &'static str,
}

impl Lossy {
    /// Tells it, and returns the column's name for the snapshot's point.
    pub fn tell(self, server: &Server, monitor: &SharedMonitor) -> String {
        let Self { column, why } = self;
        monitor.warn(Some(&server.name), format!("column `{column}` {why}"), None);
        column
    }
}

/// Finds the columns of a table that would not come back as they are.
pub(super) async fn find(
    server: &Server,
    conn: &mut impl Session,
    flavor: Flavor,
    at: &Place,
    layout: &Layout,
) -> Result<Vec<Lossy>> {
    let mut found = Vec::new();
    for column in &layout.columns {
        let why = if matches!(column.codec, Codec::Enum | Codec::Set) && column.declared.contains('?') {
            "has a member that is shown with a question mark: if that stands for a letter beyond three bytes of \
             UTF-8, no client can read it, and a restore makes a question mark of it"
        } else if flavor == Flavor::Mariadb && shows_another_default(server, conn, at, column).await? {
            "has a DEFAULT with a letter that the server shows as a question mark: a restore makes one of it"
        } else if flavor == Flavor::Mysql && holds_typed_json(server, conn, at, layout, column).await? {
            "holds JSON documents with dates, times, binary values or exact decimal numbers: they come back as strings, and \
             such numbers as DOUBLE"
        } else {
            continue;
        };
        found.push(Lossy { column: format!("{at}.{}", column.name), why });
    }
    Ok(found)
}

async fn shows_another_default(
    server: &Server,
    conn: &mut impl Session,
    at: &Place,
    column: &Column,
) -> Result<bool> {
    let Some(shown) = column.default.as_deref().filter(|shown| shown.contains('?')) else { return Ok(false) };
    let name = ident(&column.name);
    let sql = format!("SELECT HEX(CONVERT(DEFAULT({name}) USING utf8mb4)) FROM {} LIMIT 1", at.sql());
    let Some(held) = first(server, conn, &sql, at).await? else { return Ok(false) };
    let held = hex::decode(held).unwrap_or_default();
    let held = String::from_utf8_lossy(&held).matches('?').count();
    Ok(held != shown.matches('?').count())
}

async fn holds_typed_json(
    server: &Server,
    conn: &mut impl Session,
    at: &Place,
    layout: &Layout,
    column: &Column,
) -> Result<bool> {
    if column.declared != "json" {
        return Ok(false);
    }
    let name = ident(&column.name);
    // What is parsed from its own text is equal, unless the text does not tell the type.
    let test = format!("NOT ({name} <=> CAST(CAST({name} AS CHAR CHARACTER SET utf8mb4) AS JSON))");
    let mut orders = vec![layout.order()];
    orders.extend(layout.order_from_the_end());
    for order in orders {
        let from = layout.from(at);
        let sql = format!(
            "SELECT 1 FROM (SELECT {name} {from}{order} LIMIT {SAMPLE_ROWS}) sample WHERE {test} LIMIT 1"
        );
        if first(server, conn, &sql, at).await?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Returns the first field of the first row. A server that cannot answer leaves nothing to tell.
async fn first(server: &Server, conn: &mut impl Session, sql: &str, at: &Place) -> Result<Option<String>> {
    match conn.fields(sql).await {
        Ok(rows) => Ok(rows.first().and_then(|row| field_text(row, 0))),
        Err(mysql_async::Error::Server(_)) => Ok(None),
        Err(error) => Err(server.failure(&format!("look at table `{at}`"), error)),
    }
}
