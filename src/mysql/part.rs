//! Restores ranges of keys of a table that is there: `--only 'im.messages[100..200]'`.
//!
//! *Order.* Compare the table with that of the snapshot; load its pieces into a scratch table of our own database
//! [`SCRATCH`]; then, in one transaction: remove what is in the range, if that was asked for, and insert the range
//! from the scratch table. The server compares keys, so text is ordered by its collation. Before the commit rows are
//! counted, and rows of other tables that would be left without theirs.
//!
//! *Crash.* Until the commit the table is as it was. Scratch tables may be left behind; the next restore of ranges
//! removes them.
//!
//! *Limits.* Tables with a primary key, without triggers (they would fire) and without system versioning, of an engine
//! with transactions.

use std::collections::BTreeMap;

use mysql_async::{Conn, prelude::Queryable};

use super::{
    apply,
    codec::Bound,
    conn::{Server, bytes, text},
    ddl::{self, Parts},
    layout::{Layout, Place, SCRATCH, parse_item},
    orphans::{self, Dangling, ForeignKey},
    sql::{Script, ident, literal},
};
use crate::{
    error::{ExitCode, Failure, Result},
    flow::{KeyRange, Selection},
};

/// The lock that keeps a second restore out of the scratch tables.
const LOCK: &str = "lifeboat_ranges";

/// A column of a primary key and how a bound of it is written.
struct KeyColumn {
    name: String,
    bound: Bound,
    is_year: bool,
}

/// A table of which ranges of keys are restored.
pub(super) struct Part {
    pub at: Place,
    /// Where its rows are loaded first.
    pub scratch: Place,
    key: Vec<String>,
    /// The condition of each range, as people see it and as SQL.
    ranges: Vec<(String, String)>,
    layout: Option<Layout>,
}

/// Finds the tables of which ranges of keys are wanted; changes nothing.
pub(super) async fn find(
    server: &Server,
    conn: &mut Conn,
    only: &Selection,
) -> Result<BTreeMap<Place, Part>> {
    let mut parts: BTreeMap<Place, Part> = BTreeMap::new();
    for range in only.ranges() {
        let Some((db, Some(table))) = parse_item(&range.table) else { continue };
        let at = Place { db, table };
        apply::refuse_system(server, &at.db)?;
        let key = primary_key(server, conn, &at).await?;
        let names: Vec<String> = key.iter().map(|column| column.name.clone()).collect();
        let condition = condition(server, conn, &at, &key, range).await?;
        let shown = format!("{} {range}", names.join(", "));
        let count = parts.len();
        let part = parts.entry(at.clone()).or_insert_with(|| Part {
            scratch: Place { db: SCRATCH.to_owned(), table: format!("range_{count}") },
            at,
            key: names,
            ranges: Vec::new(),
            layout: None,
        });
        part.ranges.push((shown, condition));
    }
    Ok(parts)
}

/// Returns the primary key of a table that ranges can be put into.
async fn primary_key(server: &Server, conn: &mut Conn, at: &Place) -> Result<Vec<KeyColumn>> {
    let refused = |why: &str, hint: &str| {
        let what = format!("`{}`: no range of keys can be restored into `{at}`: {why}", server.name);
        Failure::new(ExitCode::Usage, what).hint(hint)
    };
    let (db, table) = (literal(&at.db), literal(&at.table));
    let doing = format!("look at table `{at}`");
    let sql = format!(
        "SELECT t.table_type, e.transactions, (SELECT COUNT(*) FROM information_schema.triggers WHERE \
         event_object_schema = {db} AND event_object_table = {table}) FROM information_schema.tables t LEFT \
         JOIN information_schema.engines e ON e.engine = t.engine WHERE t.table_schema = {db} AND \
         t.table_name = {table}"
    );
    let rows = server.rows(conn, &sql, &doing).await?;
    let get = |column| rows.first().and_then(|row| text(row, column)).unwrap_or_default();
    let whole = format!("Restore the whole table with --only {at}.");
    match (rows.is_empty(), get(0).as_str(), get(1).as_str(), get(2).as_str()) {
        (true, ..) => return Err(refused("the table is not there", &whole)),
        (_, "BASE TABLE", "YES", "0") => {}
        (_, "BASE TABLE", "YES", _) => {
            let hint =
                "Drop its triggers first and make them again afterwards, or restore beside it with --into.";
            return Err(refused("it has triggers, which would fire for every row", hint));
        }
        (_, "BASE TABLE", ..) => return Err(refused("its engine has no transactions", &whole)),
        _ => return Err(refused("it is no plain table", &whole)),
    }
    let sql = format!(
        "SELECT c.column_name, c.data_type, c.character_set_name, c.collation_name, s.sub_part FROM \
         information_schema.statistics s JOIN information_schema.columns c ON c.table_schema = s.table_schema \
         AND c.table_name = s.table_name AND c.column_name = s.column_name WHERE s.table_schema = {db} AND \
         s.table_name = {table} AND s.index_name = 'PRIMARY' ORDER BY s.seq_in_index"
    );
    let rows = server.rows(conn, &sql, &doing).await?;
    if rows.is_empty() {
        return Err(refused("it has no primary key", &whole));
    }
    let column = |row: &mysql_async::Row| {
        let kind = text(row, 1)?;
        let bound = Bound::for_type(&kind, text(row, 2).as_deref(), text(row, 3).as_deref())?;
        let is_year = kind.eq_ignore_ascii_case("year");
        let is_exact = !matches!(bound, Bound::Double | Bound::Bits);
        Some(KeyColumn { name: text(row, 0)?, bound, is_year }).filter(|_| text(row, 4).is_none() && is_exact)
    };
    let key: Option<Vec<KeyColumn>> = rows.iter().map(column).collect();
    key.ok_or_else(|| {
        let why = "its primary key has a column that keys cannot be compared with in ranges";
        refused(
            why,
            "Whole and decimal numbers, dates, text and binary strings can be; a prefix of a column cannot.",
        )
    })
}

/// Returns a range as SQL.
async fn condition(
    server: &Server,
    conn: &mut Conn,
    at: &Place,
    key: &[KeyColumn],
    range: &KeyRange,
) -> Result<String> {
    let mut conditions = Vec::new();
    if let Some(from) = &range.from {
        conditions.push(beyond(key, &literals(server, conn, at, key, from).await?, ">="));
    }
    if let Some(to) = &range.to {
        let operator = if range.with_end { ">" } else { ">=" };
        conditions
            .push(format!("NOT {}", beyond(key, &literals(server, conn, at, key, to).await?, operator)));
    }
    Ok(conditions.join(" AND "))
}

/// Returns the condition that a row's key is behind these values: `(a > 1 OR (a = 1 AND b >= 2))`.
fn beyond(key: &[KeyColumn], values: &[String], last: &str) -> String {
    let mut condition = String::new();
    for (at, (column, value)) in key.iter().zip(values).enumerate().rev() {
        let name = ident(&column.name);
        condition = if at + 1 == values.len() {
            format!("{name} {last} {value}")
        } else {
            format!("{name} > {value} OR ({name} = {value} AND {condition})")
        };
    }
    format!("({condition})")
}

/// Returns the values of a key as SQL that compares with its columns; what is none for them is refused.
async fn literals(
    server: &Server,
    conn: &mut Conn,
    at: &Place,
    key: &[KeyColumn],
    values: &[String],
) -> Result<Vec<String>> {
    let refused = |what: String| Failure::new(ExitCode::Usage, format!("`{}`: {what}", server.name));
    if values.len() > key.len() {
        let names: Vec<&str> = key.iter().map(|column| column.name.as_str()).collect();
        let what = format!(
            "the primary key of `{at}` is ({}), {} values were given",
            names.join(", "),
            values.len()
        );
        return Err(refused(what));
    }
    let mut all = Vec::new();
    for (column, value) in key.iter().zip(values) {
        // A server takes 70 for 1970, and what is told of a piece is the year itself.
        let is_short = column.is_year && value.len() != 4;
        let literal = literal_of(&column.bound, value).filter(|_| !is_short).ok_or_else(|| {
            refused(format!("`{value}` is no value for column `{}` of `{at}`", column.name))
        })?;
        if let Bound::Text { charset, .. } = &column.bound {
            let plain = format!("_utf8mb4 x'{}'", hex::encode(value));
            let sql = format!(
                "SELECT CONVERT(CONVERT({plain} USING {charset}) USING utf8mb4) = {plain} COLLATE utf8mb4_bin"
            );
            let rows = server.rows(conn, &sql, "compare a key").await?;
            if rows.first().and_then(|row| text(row, 0)).as_deref() != Some("1") {
                return Err(refused(format!("`{value}` cannot be written in charset {charset} of `{at}`")));
            }
        }
        all.push(literal);
    }
    Ok(all)
}

fn literal_of(bound: &Bound, value: &str) -> Option<String> {
    let only = |allowed: &str| value.chars().all(|c| c.is_ascii_digit() || allowed.contains(c));
    match bound {
        Bound::Number => {
            let digits = value.strip_prefix('-').unwrap_or(value);
            let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
            let is_number = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_digit());
            (is_number(whole) && is_number(fraction)).then(|| value.to_owned())
        }
        Bound::Quoted => (!value.is_empty() && only("-: .")).then(|| format!("'{value}'")),
        Bound::Hex => {
            let digits = value.strip_prefix("0x")?;
            (digits.len() % 2 == 0 && digits.chars().all(|c| c.is_ascii_hexdigit()))
                .then(|| format!("x'{digits}'"))
        }
        Bound::Word => (!value.is_empty()
            && value.chars().all(|c| c.is_ascii_hexdigit() || "-:.".contains(c)))
        .then(|| bound.literal(value.as_bytes())),
        // No table with such a key is taken.
        Bound::Double | Bound::Bits => None,
        Bound::Text { charset, collation } => {
            let plain = format!("_utf8mb4 x'{}'", hex::encode(value));
            Some(format!("CONVERT({plain} USING {charset}) COLLATE {collation}"))
        }
    }
}

impl Part {
    fn condition(&self) -> String {
        let all: Vec<String> = self.ranges.iter().map(|(_, condition)| format!("({condition})")).collect();
        all.join(" OR ")
    }

    fn shown(&self) -> String {
        let all: Vec<&str> = self.ranges.iter().map(|(shown, _)| shown.as_str()).collect();
        all.join("; ")
    }

    /// Returns a line for the rows that are in the way, if there are any.
    pub async fn in_the_way(&self, server: &Server, conn: &mut Conn) -> Result<Option<String>> {
        let rows = self.count(server, conn, &self.at).await?;
        let word = if rows == 1 { "row" } else { "rows" };
        Ok((rows > 0).then(|| format!("table {}: {rows} {word} with {}", self.at, self.shown())))
    }

    async fn count(&self, server: &Server, conn: &mut Conn, at: &Place) -> Result<u64> {
        let sql = format!("SELECT COUNT(*) FROM {} WHERE {}", at.sql(), self.condition());
        number(server, conn, &sql, &format!("count the rows of `{at}`")).await
    }

    /// Makes the scratch table from the definition in the snapshot.
    pub async fn define(
        &self,
        server: &Server,
        conn: &mut Conn,
        script: &Script,
        create: &str,
    ) -> Result<()> {
        let doing = format!("make a scratch table for `{}`", self.at);
        // The session that the definition wants; not the USE of its database.
        if let Some(session) = script.statements.first() {
            server.run(conn, session, &doing).await?;
        }
        let Parts { create, .. } = ddl::split(create, true);
        let create = ddl::with_nameless_checks(&create);
        let body = ddl::body(&create).ok_or_else(|| {
            Failure::new(ExitCode::Damage, format!("the definition of table `{}` is none", self.at))
        })?;
        server.run(conn, format!("DROP TABLE IF EXISTS {}", self.scratch.sql()), &doing).await?;
        apply::change(server, conn, format!("CREATE TABLE {} {body}", self.scratch.sql()), &doing).await
    }

    /// Takes the columns and the key of the snapshot's table, once its scratch table is there; refuses a table on the
    /// server that is another one.
    pub async fn compare(&mut self, server: &Server, conn: &mut Conn, layout: &Layout) -> Result<()> {
        let (there, own) =
            (columns(server, conn, &self.at).await?, columns(server, conn, &self.scratch).await?);
        let other = |why: String| {
            let what =
                format!("`{}`: table `{}` is not the one of the snapshot: {why}", server.name, self.at);
            Failure::new(ExitCode::Failed, what)
                .hint(format!("Nothing was touched. Restore the whole table with --only {}.", self.at))
        };
        if layout.key != self.key {
            return Err(other(format!("its primary key is ({})", self.key.join(", "))));
        }
        if let Some((name, _)) = own.iter().find(|(name, kind)| there.get(*name) != Some(kind)) {
            return Err(other(format!("column `{name}` is another one, or none")));
        }
        if let Some((name, _)) = there.iter().find(|(name, _)| !own.contains_key(*name)) {
            return Err(other(format!("the snapshot has no column `{name}`")));
        }
        self.layout = Some(layout.clone());
        Ok(())
    }

    /// Puts the range into the table; `loaded` rows are in the scratch table.
    async fn exchange(&self, server: &Server, conn: &mut Conn, replace: bool) -> Result<u64> {
        let Some(layout) = &self.layout else {
            let what = format!("rows of table `{}` came without its layout", self.at);
            return Err(Failure::new(ExitCode::Damage, what));
        };
        let doing = format!("restore rows of `{}`", self.at);
        let names: Vec<String> = layout.columns.iter().map(|column| ident(&column.name)).collect();
        let wanted = self.count(server, conn, &self.scratch).await?;
        if replace {
            let sql = format!("DELETE FROM {} WHERE {}", self.at.sql(), self.condition());
            server.run(conn, sql, &doing).await?;
        }
        let list = names.join(",");
        let sql = format!(
            "INSERT INTO {} ({list}) SELECT {list} FROM {} WHERE {}",
            self.at.sql(),
            self.scratch.sql(),
            self.condition()
        );
        server
            .run(conn, sql, &doing)
            .await
            .map_err(|failure| failure.hint("The table is as it was before."))?;
        let there = self.count(server, conn, &self.at).await?;
        if there == wanted {
            return Ok(wanted);
        }
        let what =
            format!("`{}`: table `{}` has {there} of {wanted} rows in the range", server.name, self.at);
        Err(Failure::new(ExitCode::Failed, what)
            .hint("The table is as it was before. Did anything else write to it? Restore again."))
    }
}

/// Keeps others out of the scratch tables, and makes room for them.
pub(super) async fn begin(server: &Server, conn: &mut Conn) -> Result<()> {
    if number(server, conn, &format!("SELECT GET_LOCK('{LOCK}', 0)"), "lock the scratch tables").await? != 1 {
        let what = format!("`{}`: another restore of ranges is under way", server.name);
        return Err(Failure::new(ExitCode::Busy, what).hint("Wait for it, then run this again."));
    }
    let doing = "make a scratch database";
    server.run(conn, format!("DROP DATABASE IF EXISTS {}", ident(SCRATCH)), doing).await?;
    server.run(conn, format!("CREATE DATABASE {}", ident(SCRATCH)), doing).await
}

/// Puts all ranges into their tables, in one transaction, and returns how many rows that were.
pub(super) async fn finish(
    server: &Server,
    conn: &mut Conn,
    parts: &BTreeMap<Place, Part>,
    replace: bool,
) -> Result<u64> {
    let doing = "restore ranges of keys";
    server.run(conn, "SET SESSION sql_mode='NO_AUTO_VALUE_ON_ZERO'", doing).await?;
    let keys = foreign_keys(server, conn, parts).await?;
    if !logs_statements(server, conn).await? {
        // What others commit meanwhile is seen: a row that came to refer to one that goes must not be overlooked.
        server.run(conn, "SET TRANSACTION ISOLATION LEVEL READ COMMITTED", doing).await?;
    }
    server.run(conn, "START TRANSACTION", doing).await?;
    let put = async {
        let before = dangling(server, conn, &keys).await?;
        let mut rows = 0;
        for part in parts.values() {
            rows += part.exchange(server, conn, replace).await?;
        }
        let after = dangling(server, conn, &keys).await?;
        let grown =
            keys.iter().zip(before.iter().zip(&after)).map(|(key, (then, now))| (key, now.since(then)));
        if let Some((key, more)) = grown.into_iter().find(|(_, more)| *more > 0) {
            let what = format!(
                "`{}`: {more} rows of `{}` would refer to rows of `{}` that are not there (foreign key `{}`)",
                server.name, key.child, key.parent, key.name
            );
            return Err(Failure::new(ExitCode::Failed, what)
                .hint("The tables are as they were before. Restore the rows that they refer to as well."));
        }
        Ok(rows)
    };
    match put.await {
        Ok(rows) => {
            server.run(conn, "COMMIT", doing).await?;
            Ok(rows)
        }
        Err(failure) => {
            // On a connection that broke the server takes it back by itself.
            let _taken_back = conn.query_drop("ROLLBACK").await;
            end(server, conn).await.ok();
            Err(failure)
        }
    }
}

/// Removes the scratch tables and lets the next restore of ranges begin.
pub(super) async fn end(server: &Server, conn: &mut Conn) -> Result<()> {
    let doing = "remove the scratch tables";
    server.run(conn, format!("DROP DATABASE IF EXISTS {}", ident(SCRATCH)), doing).await?;
    server.run(conn, format!("DO RELEASE_LOCK('{LOCK}')"), doing).await
}

/// Returns whether the session's binlog holds statements, which must not depend on what others do.
async fn logs_statements(server: &Server, conn: &mut Conn) -> Result<bool> {
    let sql = "SHOW SESSION VARIABLES WHERE Variable_name = 'binlog_format' AND Value = 'STATEMENT'";
    Ok(!server.rows(conn, sql, "ask how the server logs").await?.is_empty())
}

async fn number(server: &Server, conn: &mut Conn, sql: &str, doing: &str) -> Result<u64> {
    let rows = server.rows(conn, sql, doing).await?;
    Ok(rows.first().and_then(|row| text(row, 0)).and_then(|n| n.parse().ok()).unwrap_or(0))
}

/// Returns each column with all that its values depend on.
async fn columns(
    server: &Server,
    conn: &mut Conn,
    at: &Place,
) -> Result<BTreeMap<String, Vec<Option<Vec<u8>>>>> {
    let sql = format!(
        "SELECT column_name, column_type, character_set_name, collation_name, is_nullable FROM \
         information_schema.columns WHERE table_schema = {} AND table_name = {}",
        literal(&at.db),
        literal(&at.table)
    );
    let rows = server.rows(conn, &sql, &format!("read the columns of `{at}`")).await?;
    let facts = |row: &mysql_async::Row| (1..row.len()).map(|column| bytes(row, column)).collect();
    Ok(rows.iter().map(|row| (text(row, 0).unwrap_or_default(), facts(row))).collect())
}

/// Returns the foreign keys from and to these tables.
async fn foreign_keys(
    server: &Server,
    conn: &mut Conn,
    parts: &BTreeMap<Place, Part>,
) -> Result<Vec<ForeignKey>> {
    let databases = parts.keys().map(|at| at.db.as_str()).collect();
    let mut keys = orphans::foreign_keys(server, conn, &databases).await?;
    keys.retain(|key| parts.contains_key(&key.child) || parts.contains_key(&key.parent));
    Ok(keys)
}

/// Counts the rows whose parent is not there, for each foreign key.
async fn dangling(server: &Server, conn: &mut Conn, keys: &[ForeignKey]) -> Result<Vec<Dangling>> {
    let mut all = Vec::new();
    for key in keys {
        all.push(key.dangling(server, conn).await?);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> Vec<KeyColumn> {
        vec![
            KeyColumn { name: "a".into(), bound: Bound::Number, is_year: false },
            KeyColumn { name: "b".into(), bound: Bound::Quoted, is_year: false },
        ]
    }

    #[test]
    fn a_range_compares_column_by_column_and_a_part_of_a_key_means_all_that_begin_with_it() {
        let values = |values: &[&str]| values.iter().map(|value| (*value).to_owned()).collect::<Vec<_>>();
        assert_eq!(beyond(&key(), &values(&["7", "'x'"]), ">="), "(`a` > 7 OR (`a` = 7 AND `b` >= 'x'))");
        assert_eq!(beyond(&key(), &values(&["7"]), ">"), "(`a` > 7)");
    }

    #[test]
    fn only_values_of_the_columns_type_are_taken() {
        let text = Bound::for_type("varchar", Some("latin1"), Some("latin1_bin")).unwrap();
        for (bound, value, literal) in [
            (&Bound::Number, "-7.5", Some("-7.5")),
            (&Bound::Number, "7 OR 1", None),
            (&Bound::Number, "", None),
            (&Bound::Quoted, "2025-01-02 03:04:05.6", Some("'2025-01-02 03:04:05.6'")),
            (&Bound::Quoted, "now()", None),
            (&Bound::Hex, "0x00fF", Some("x'00fF'")),
            (&Bound::Hex, "0x0", None),
            (&Bound::Hex, "ab", None),
            (&text, "é'", Some("CONVERT(_utf8mb4 x'c3a927' USING latin1) COLLATE latin1_bin")),
        ] {
            assert_eq!(literal_of(bound, value).as_deref(), literal, "{bound:?} {value}");
        }
    }
}
