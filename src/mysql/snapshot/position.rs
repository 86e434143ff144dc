//! Places in logs: where the server's own binlog stands at the instant, and where its primary's does.

use mysql_async::{Conn, Row, prelude::Queryable};

use super::super::{
    conn::{Flavor, Server, Session, code, field_text, is_denied, named, number, text},
    hostile::Fields,
    sql::literal,
};
use crate::error::Result;

/// A place in the binlog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Position {
    pub file: String,
    pub pos: String,
    /// Every transaction up to there, by its global name; empty without such names.
    pub gtid: String,
}

/// What was found out about the place in the binlog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    At(Position),
    /// The server writes no binlog.
    NoBinlog,
    /// The account may not ask.
    Denied,
}

/// Reads the place where the binlog ends now; the caller sees to it that it does not move.
pub(super) async fn current(server: &Server, flavor: Flavor, conn: &mut Conn) -> Result<Found> {
    let Some(rows) = status(server, conn).await? else { return Ok(Found::Denied) };
    let Some((file, pos)) = rows.first().and_then(|row| Some((text(row, 0)?, text(row, 1)?))) else {
        return Ok(Found::NoBinlog);
    };
    let gtid = gtid_at(server, flavor, conn, &file, &pos).await?;
    Ok(Found::At(Position { file, pos, gtid }))
}

/// Asks for the state of the binlog (MySQL 8.2 and later: manual 15.7.7.1; before, and MariaDB, `SHOW MASTER STATUS`:
/// MySQL 8.0 manual 13.7.7.23), one row or none; `None` if the account may not ask.
async fn status(server: &Server, conn: &mut Conn) -> Result<Option<Vec<Row>>> {
    for sql in ["SHOW BINARY LOG STATUS", "SHOW MASTER STATUS"] {
        match conn.query(sql).await {
            Ok(rows) => return Ok(Some(rows)),
            Err(error) if number(&error) == Some(code::SYNTAX) => {}
            Err(error) if number(&error).is_some_and(is_denied) => return Ok(None),
            Err(error) => return Err(server.failure("read the binlog's position", error)),
        }
    }
    Ok(None)
}

async fn gtid_at(server: &Server, flavor: Flavor, conn: &mut Conn, file: &str, pos: &str) -> Result<String> {
    let sql = match flavor {
        Flavor::Mysql => "SELECT @@GLOBAL.gtid_executed".to_owned(),
        Flavor::Mariadb => format!("SELECT BINLOG_GTID_POS({}, {pos})", literal(file)),
    };
    let rows = server.rows(conn, &sql, "read the GTID position").await?;
    Ok(rows.first().and_then(|row| text(row, 0)).unwrap_or_default().replace('\n', ""))
}

/// MariaDB tells a transaction the place that it began at, and asks no privilege for it.
pub(super) async fn of_transaction(
    server: &Server,
    conn: &mut impl Session,
) -> Result<Option<(String, String)>> {
    let told = conn.fields("SHOW STATUS LIKE 'binlog_snapshot_%'").await;
    let told = told.map_err(|error| server.failure("read the snapshot's position", error))?;
    let get = |name: &str| {
        let is_named = |row: &&Fields| field_text(row, 0).is_some_and(|told| told.eq_ignore_ascii_case(name));
        field_text(told.iter().find(is_named)?, 1).filter(|value| !value.is_empty())
    };
    Ok(get("binlog_snapshot_file").zip(get("binlog_snapshot_position")))
}

/// Completes what [`of_transaction`] told.
pub(super) async fn complete(
    server: &Server,
    conn: &mut Conn,
    found: Option<(String, String)>,
) -> Result<Found> {
    let Some((file, pos)) = found else { return Ok(Found::NoBinlog) };
    let gtid = gtid_at(server, Flavor::Mariadb, conn, &file, &pos).await?;
    Ok(Found::At(Position { file, pos, gtid }))
}

/// What MySQL tells of its logs in one consistent answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Logs {
    /// Of the server: its binlog, and the transactions that are committed.
    local: String,
    /// Of the engines: where their own logs end.
    engines: String,
}

impl Logs {
    /// Asks; `None` where there is no such table or the account may not read it.
    pub async fn read(server: &Server, conn: &mut Conn) -> Result<Option<Self>> {
        // A checkpoint commits nothing.
        let sql = "SELECT local, JSON_REMOVE(storage_engines, '$.InnoDB.LSN_checkpoint') \
                   FROM performance_schema.log_status";
        let rows: Result<Vec<Row>, _> = conn.query(sql).await;
        match rows {
            Ok(rows) => Ok(rows.first().and_then(|row| {
                let logs = Self { local: text(row, 0)?, engines: text(row, 1)? };
                logs.engines.contains("\"LSN\"").then_some(logs)
            })),
            Err(error)
                if number(&error).is_some_and(|n| {
                    is_denied(n) || [code::NO_SUCH_TABLE, code::UNKNOWN_DATABASE].contains(&n)
                }) =>
            {
                Ok(None)
            }
            Err(error) => Err(server.failure("read the state of the logs", error)),
        }
    }

    /// Returns whether nothing was committed since `before`; `is_strict` also when it was kept out of the binlog.
    pub fn stands_at(&self, before: &Self, is_strict: bool) -> bool {
        self.local == before.local && (!is_strict || self.engines == before.engines)
    }

    /// Returns the place in the binlog.
    pub fn position(&self) -> Found {
        let told: serde_json::Value = serde_json::from_str(&self.local).unwrap_or_default();
        let text = |name: &str| told.get(name).and_then(serde_json::Value::as_str).unwrap_or_default();
        let pos = told.get("binary_log_position").and_then(serde_json::Value::as_u64);
        match (text("binary_log_file"), pos) {
            ("", _) | (_, None) => Found::NoBinlog,
            (file, Some(pos)) => Found::At(Position {
                file: file.to_owned(),
                pos: pos.to_string(),
                gtid: text("gtid_executed").replace('\n', ""),
            }),
        }
    }
}

/// Where a replica stands in the binlog of its primary.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Primary {
    /// The name of the channel; empty for the only one.
    pub channel: String,
    /// Its uuid; MariaDB tells its `server_id` only.
    pub id: String,
    pub file: String,
    pub pos: String,
    pub gtid: String,
    /// Whether what comes from the primary is applied.
    pub applies: bool,
}

impl Primary {
    /// Returns the same of an instant since `before` was asked: without the place, but where nothing was applied
    /// meanwhile.
    pub fn since(self, before: &[Self]) -> Self {
        if !self.applies && before.contains(&self) {
            return self;
        }
        Self { channel: self.channel, id: self.id, applies: self.applies, ..Self::default() }
    }

    /// Returns whether the place is known.
    pub fn has_place(&self) -> bool {
        !self.file.is_empty() || !self.gtid.is_empty()
    }
}

/// Asks a replica for the places that it has executed; none from a server that is no replica. `SHOW REPLICA STATUS` is
/// of MySQL 8.0.22 and later (its release notes).
pub(super) async fn of_primaries(
    server: &Server,
    flavor: Flavor,
    conn: &mut Conn,
) -> Result<Option<Vec<Primary>>> {
    let ways: &[&str] = match flavor {
        Flavor::Mysql => &["SHOW REPLICA STATUS", "SHOW SLAVE STATUS"],
        Flavor::Mariadb => &["SHOW ALL SLAVES STATUS"],
    };
    for sql in ways {
        let rows: Result<Vec<Row>, _> = conn.query(*sql).await;
        match rows {
            Ok(rows) => {
                let mut all: Vec<Primary> = rows.iter().map(primary).collect();
                if flavor == Flavor::Mariadb && !all.is_empty() {
                    let applied = "SELECT @@GLOBAL.gtid_slave_pos";
                    let rows = server.rows(conn, applied, "read the position of the primary").await?;
                    let gtid = rows.first().and_then(|row| text(row, 0)).unwrap_or_default();
                    for one in &mut all {
                        one.gtid.clone_from(&gtid);
                    }
                }
                return Ok(Some(all));
            }
            Err(error) if number(&error) == Some(code::SYNTAX) => {}
            Err(error) if number(&error).is_some_and(is_denied) => return Ok(None),
            Err(error) => return Err(server.failure("read the position of the primary", error)),
        }
    }
    Ok(None)
}

fn primary(row: &Row) -> Primary {
    let get = |names: &[&str]| names.iter().find_map(|name| named(row, name)).unwrap_or_default();
    Primary {
        channel: get(&["Channel_Name", "Connection_name"]),
        id: get(&["Source_UUID", "Master_UUID", "Master_Server_Id"]),
        file: get(&["Relay_Source_Log_File", "Relay_Master_Log_File"]),
        pos: get(&["Exec_Source_Log_Pos", "Exec_Master_Log_Pos"]),
        gtid: get(&["Executed_Gtid_Set"]).replace('\n', ""),
        applies: get(&["Replica_SQL_Running", "Slave_SQL_Running"]) == "Yes",
    }
}

/// Returns whether commits go through the binlog (MySQL), all but those of sessions that switch it off. Who may not ask
/// is told no: nothing is proved then.
pub(super) async fn logs_all(server: &Server, conn: &mut Conn, may_be_replica: bool) -> Result<bool> {
    let sql = if may_be_replica {
        "SELECT @@GLOBAL.log_bin AND @@GLOBAL.log_replica_updates"
    } else {
        "SELECT @@GLOBAL.log_bin"
    };
    let rows: Result<Vec<Row>, _> = conn.query(sql).await;
    match rows {
        Ok(rows) if rows.first().and_then(|row| text(row, 0)).is_some_and(|told| told == "1") => {
            logs_all_databases(server, conn).await
        }
        Ok(_) | Err(mysql_async::Error::Server(_)) => Ok(false),
        Err(error) => Err(server.failure("ask whether there is a binlog", error)),
    }
}

/// Returns whether the binlog is known to leave no database out (`binlog_do_db`, `binlog_ignore_db`): the commits of
/// one that it leaves out do not move it.
async fn logs_all_databases(server: &Server, conn: &mut Conn) -> Result<bool> {
    let rows = status(server, conn).await?;
    let is_empty = |row: &Row, name| named(row, name).is_none_or(|list| list.is_empty());
    let is_whole = |row: &Row| is_empty(row, "Binlog_Do_DB") && is_empty(row, "Binlog_Ignore_DB");
    Ok(rows.is_some_and(|rows| rows.first().is_none_or(is_whole)))
}
