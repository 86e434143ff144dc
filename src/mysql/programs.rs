//! Reads definitions: databases, tables, sequences, views, triggers, routines and events.
//!
//! Each comes as the server itself writes it, preceded by the session it was made in. The text of programs
//! is in the charset that its author's client spoke, so it is moved as bytes and never converted.

use std::collections::BTreeMap;

use mysql_async::{Conn, Row, prelude::Queryable};
use serde_json::Value;

use super::{
    conn::{Server, bytes, named, text},
    layout::{Database, Listed, Place, TableKind, database_meta, table_meta},
    sql::{Script, full, ident, literal},
};
use crate::{
    error::{ExitCode, Failure, Result},
    flow::{EntryMeta, EntrySink, FlowResult, Stage},
};

/// What every program's script begins with: the program before may have left a session that reads names in
/// another charset, or quotes in another way.
const PROGRAM_SESSION: &str = "SET NAMES utf8mb4, SESSION sql_mode='', SESSION time_zone='+00:00'";

/// What every script of tables begins with; `mysql < file` works in any order of tables.
const TABLE_SESSION: &str = "SET NAMES utf8mb4, SESSION sql_mode='NO_AUTO_VALUE_ON_ZERO', \
                             SESSION foreign_key_checks=0, SESSION time_zone='+00:00'";

/// Sends a database's own definition.
pub(super) async fn send_database(
    server: &Server,
    conn: &mut Conn,
    db: &Database,
    sink: &EntrySink,
) -> FlowResult<()> {
    let sql = format!("SHOW CREATE DATABASE IF NOT EXISTS {}", ident(&db.name));
    let row = one(server, conn, &sql, &format!("read database `{}`", db.name)).await?;
    let mut script = Script::default();
    script.push(bytes(&row, 1).unwrap_or_default());
    let mut meta = database_meta("database", &db.name, Stage::Schema, "schema.sql")?;
    meta.container = true;
    let meta = meta.with("charset", db.charset.as_str()).with("collation", db.collation.as_str());
    sink.put(meta, script.to_bytes()).await
}

/// Returns the statement that makes a table.
pub(super) async fn create_table(server: &Server, conn: &mut Conn, at: &Place) -> Result<Vec<u8>> {
    let sql = format!("SHOW CREATE TABLE {}", at.sql());
    let row = one(server, conn, &sql, &format!("read the definition of table `{at}`")).await?;
    Ok(bytes(&row, 1).unwrap_or_default())
}

/// Sends a table's definition.
pub(super) async fn send_table(
    server: &Server,
    conn: &mut Conn,
    at: &Place,
    sink: &EntrySink,
) -> FlowResult<()> {
    let mut script = table_script(&at.db);
    script.push(create_table(server, conn, at).await?);
    sink.put(table_meta("table", at, Stage::Schema, "table.sql")?, script.to_bytes()).await
}

/// Sends the definition of a table whose rows are kept elsewhere; returns why it cannot be read, if so.
pub(super) async fn send_definition(
    server: &Server,
    conn: &mut Conn,
    at: &Place,
    sink: &EntrySink,
) -> FlowResult<Option<String>> {
    let rows: mysql_async::Result<Vec<Row>> = conn.query(format!("SHOW CREATE TABLE {}", at.sql())).await;
    let rows = match rows {
        Ok(rows) => rows,
        // A server does not show such a table when what it is made of is gone.
        Err(mysql_async::Error::Server(error)) => {
            return Ok(Some(format!("the server does not show its definition: {}", error.message)));
        }
        Err(error) => {
            return Err(server.failure(&format!("read the definition of table `{at}`"), error).into());
        }
    };
    let mut script = table_script(&at.db);
    // Another engine would be worse than none: the table would be empty, and take rows.
    script.push("SET SESSION sql_mode='NO_AUTO_VALUE_ON_ZERO,NO_ENGINE_SUBSTITUTION'");
    script.push(rows.first().and_then(|row| bytes(row, 1)).unwrap_or_default());
    sink.put(table_meta("definition", at, Stage::Schema, "table.sql")?, script.to_bytes()).await?;
    Ok(None)
}

/// Sends a sequence with the value that it gives next.
pub(super) async fn send_sequence(
    server: &Server,
    conn: &mut Conn,
    at: &Place,
    sink: &EntrySink,
) -> FlowResult<()> {
    let doing = format!("read sequence `{at}`");
    let sql = format!("SHOW CREATE SEQUENCE {}", at.sql());
    let create = one(server, conn, &sql, &doing).await?;
    let sql = format!("SELECT next_not_cached_value FROM {}", at.sql());
    let next = one(server, conn, &sql, &doing).await?;
    let mut script = table_script(&at.db);
    script.push(bytes(&create, 1).unwrap_or_default());
    // Not used yet (0): it is the very next value.
    script.push(format!("DO SETVAL({}, {}, 0)", at.sql(), text(&next, 0).unwrap_or_default()));
    sink.put(table_meta("sequence", at, Stage::Schema, "sequence.sql")?, script.to_bytes()).await
}

fn table_script(db: &str) -> Script {
    let mut script = Script::default();
    script.push(TABLE_SESSION);
    script.push(format!("USE {}", ident(db)));
    script
}

/// Sends a stand-in for a view, with its columns and nothing behind them, so that views may be made in any
/// order.
pub(super) async fn send_placeholder(
    server: &Server,
    conn: &mut Conn,
    at: &Place,
    sink: &EntrySink,
) -> FlowResult<()> {
    let sql = format!(
        "SELECT column_name FROM information_schema.columns WHERE table_schema = {} AND table_name = {} \
         ORDER BY ordinal_position",
        literal(&at.db),
        literal(&at.table)
    );
    let rows = server.rows(conn, &sql, &format!("read the columns of view `{at}`")).await?;
    let mut columns: Vec<String> = rows.iter().filter_map(|row| text(row, 0)).collect();
    if columns.is_empty() {
        columns.push("invalid".to_owned());
    }
    let list: Vec<String> = columns.iter().map(|name| format!("1 AS {}", ident(name))).collect();
    let mut script = table_script(&at.db);
    script.push(format!("CREATE OR REPLACE VIEW {} AS SELECT {}", at.sql(), list.join(", ")));
    sink.put(table_meta("placeholder", at, Stage::Schema, "placeholder.sql")?, script.to_bytes()).await
}

/// Sends a view. One that refers to what is gone is sent and marked: no server can make it again.
pub(super) async fn send_view(
    server: &Server,
    conn: &mut Conn,
    at: &Place,
    sink: &EntrySink,
) -> FlowResult<bool> {
    let sql = format!("SHOW CREATE VIEW {}", at.sql());
    let row = one(server, conn, &sql, &format!("read view `{at}`")).await?;
    // Fails where the view cannot be opened, and runs nothing of it.
    let probe = conn.query_drop(format!("SHOW COLUMNS FROM {}", at.sql()));
    let valid = match probe.await {
        Ok(()) => true,
        Err(mysql_async::Error::Server(_)) => false,
        Err(error) => return Err(server.failure(&format!("read view `{at}`"), error).into()),
    };
    let mut script = Script::default();
    script.push(PROGRAM_SESSION);
    script.push(format!("USE {}", ident(&at.db)));
    script.push(format!("DROP VIEW IF EXISTS {}", at.sql()));
    script.push(session(&row, false));
    script.push(definition(&row, "Create View", at)?);
    let mut meta = table_meta("view", at, Stage::After, "view.sql")?;
    if !valid {
        meta = meta.with("invalid", true);
    }
    sink.put(meta, script.to_bytes()).await?;
    Ok(valid)
}

/// Sends the triggers of all tables of a database, an entry for each table that has some, in the order in
/// which they fire.
pub(super) async fn send_triggers(
    server: &Server,
    conn: &mut Conn,
    db: &Database,
    listed: &[Listed],
    sink: &EntrySink,
) -> FlowResult<()> {
    let sql = format!(
        "SELECT event_object_table, trigger_name FROM information_schema.triggers WHERE {} \
         ORDER BY event_object_table, action_timing, event_manipulation, action_order",
        is_of("trigger_schema", db)
    );
    let rows = server.rows(conn, &sql, &format!("list the triggers of `{}`", db.name)).await?;
    let mut names_of: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for row in &rows {
        names_of.entry(text(row, 0).unwrap_or_default()).or_default().extend(text(row, 1));
    }
    for listed in listed.iter().filter(|listed| listed.at.db == db.name && listed.kind.has_triggers()) {
        let Some(names) = names_of.remove(&listed.at.table) else { continue };
        let mut script = Script::default();
        for name in names {
            let at = Place { db: db.name.clone(), table: name };
            let sql = format!("SHOW CREATE TRIGGER {}", at.sql());
            let row = one(server, conn, &sql, &format!("read trigger `{at}`")).await?;
            push_program(&mut script, db, &row, definition(&row, "SQL Original Statement", &at)?, false);
        }
        let meta = table_meta("triggers", &listed.at, Stage::After, "triggers.sql")?;
        sink.put(meta, script.to_bytes()).await?;
    }
    Ok(())
}

/// Sends the procedures and functions of a database, if there are any.
pub(super) async fn send_routines(
    server: &Server,
    conn: &mut Conn,
    db: &Database,
    sink: &EntrySink,
) -> FlowResult<()> {
    let sql = format!(
        "SELECT routine_type, routine_name FROM information_schema.routines WHERE {} \
         ORDER BY routine_type = 'PACKAGE BODY', routine_type, routine_name",
        is_of("routine_schema", db)
    );
    let rows = server.rows(conn, &sql, &format!("list the routines of `{}`", db.name)).await?;
    let mut script = Script::default();
    for row in &rows {
        let kind = text(row, 0).unwrap_or_default();
        let at = Place { db: db.name.clone(), table: text(row, 1).unwrap_or_default() };
        let doing = format!("read {} `{at}`", kind.to_lowercase());
        let shown =
            one(server, conn, &format!("SHOW CREATE {kind} {}", full(&at.db, &at.table)), &doing).await?;
        let body = bytes(&shown, 2).ok_or_else(|| {
            Failure::new(ExitCode::Failed, format!("`{}`: the server does not show {doing}", server.name))
                .hint(server.grant_hint())
        })?;
        push_program(&mut script, db, &shown, body, false);
    }
    put_programs(sink, database_meta("routines", &db.name, Stage::After, "routines.sql")?, &script).await
}

/// Sends the events of a database, if there are any.
pub(super) async fn send_events(
    server: &Server,
    conn: &mut Conn,
    db: &Database,
    sink: &EntrySink,
) -> FlowResult<()> {
    let sql = format!(
        "SELECT event_name FROM information_schema.events WHERE {} ORDER BY event_name",
        is_of("event_schema", db)
    );
    let rows = server.rows(conn, &sql, &format!("list the events of `{}`", db.name)).await?;
    let mut script = Script::default();
    for row in &rows {
        let at = Place { db: db.name.clone(), table: text(row, 0).unwrap_or_default() };
        let sql = format!("SHOW CREATE EVENT {}", at.sql());
        let shown = one(server, conn, &sql, &format!("read event `{at}`")).await?;
        push_program(&mut script, db, &shown, definition(&shown, "Create Event", &at)?, true);
    }
    put_programs(sink, database_meta("events", &db.name, Stage::After, "events.sql")?, &script).await
}

/// Returns the condition that something belongs to this very database. Where names that differ by case alone are two
/// databases, some servers list what belongs to either.
fn is_of(column: &str, db: &Database) -> String {
    let name = literal(&db.name);
    format!(
        "{column} = {name} AND (@@lower_case_table_names <> 0 OR CAST({column} AS BINARY) = CAST({name} AS BINARY))"
    )
}

async fn put_programs(sink: &EntrySink, meta: EntryMeta, script: &Script) -> FlowResult<()> {
    if script.statements.is_empty() {
        return Ok(());
    }
    sink.put(meta.with("statements", Value::from(script.statements.len())), script.to_bytes()).await
}

/// Adds a program with the session that it was made in, and its database's collation of that time.
fn push_program(script: &mut Script, db: &Database, row: &Row, body: Vec<u8>, zoned: bool) {
    let collation = named(row, "Database Collation").filter(|then| *then != db.collation);
    script.push(PROGRAM_SESSION);
    script.push(format!("USE {}", ident(&db.name)));
    let alter = |collation: &str| format!("ALTER DATABASE {} COLLATE {collation}", ident(&db.name));
    if let Some(then) = &collation {
        script.push(alter(then));
    }
    script.push(session(row, zoned));
    script.push(body);
    if collation.is_some() {
        script.push(PROGRAM_SESSION);
        script.push(alter(&db.collation));
    }
}

/// Returns the statement that makes a session like the one an object was made in.
fn session(row: &Row, zoned: bool) -> String {
    let mut settings = Vec::new();
    if let Some(mode) = named(row, "sql_mode") {
        settings.push(format!("SESSION sql_mode={}", literal(&mode)));
    }
    for variable in ["character_set_client", "collation_connection"] {
        if let Some(value) = named(row, variable) {
            settings.push(format!("SESSION {variable}={value}"));
        }
    }
    if let Some(zone) = named(row, "time_zone").filter(|_| zoned) {
        settings.push(format!("SESSION time_zone={}", literal(&zone)));
    }
    if settings.is_empty() { "DO 0".to_owned() } else { format!("SET {}", settings.join(", ")) }
}

fn definition(row: &Row, column: &str, at: &Place) -> Result<Vec<u8>> {
    let found = row.columns_ref().iter().position(|c| c.name_str().eq_ignore_ascii_case(column));
    found
        .and_then(|column| bytes(row, column))
        .ok_or_else(|| Failure::new(ExitCode::Failed, format!("the server does not show `{at}`")))
}

async fn one(server: &Server, conn: &mut Conn, sql: &str, doing: &str) -> Result<Row> {
    let rows = server.rows(conn, sql, doing).await?;
    rows.into_iter().next().ok_or_else(|| {
        Failure::new(
            ExitCode::Failed,
            format!("`{}`: failed to {doing}: the server shows nothing", server.name),
        )
    })
}

/// Returns the names of one kind.
pub(super) fn of_kind(listed: &[Listed], kind: TableKind) -> impl Iterator<Item = &Place> {
    listed.iter().filter(move |listed| listed.kind == kind).map(|listed| &listed.at)
}
