//! Rows that refer to rows that are not there.
//!
//! Foreign keys are added while the server does not check them: a source may hold such rows, and its backup must come
//! back. So they are looked for afterwards, by one anti-join for each foreign key of a restored table, and of a table
//! that refers to one.
//!
//! *Order.* After all foreign keys are there. *Crash.* Nothing is changed.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::{FutureExt, StreamExt, TryStreamExt, stream};
use mysql_async::Conn;

use super::{
    apply::Filled,
    conn::{Server, text},
    layout::Place,
    sessions::Sessions,
    sql::{ident, literal},
};
use crate::{error::Result, plain::grouped};

/// Rows of one foreign key that are named.
const NAMED_MAX: usize = 5;
/// Rows that refer to nothing that are told apart by what they refer to.
const APART_MAX: u64 = 100_000;
/// Characters of a key's column that are shown.
const SHOWN_CHARS: usize = 40;

/// A foreign key with rows that refer to nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Orphans {
    /// How many rows.
    pub rows: u64,
    /// What a person is told.
    pub line: String,
}

/// A foreign key of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ForeignKey {
    pub name: String,
    pub child: Place,
    pub parent: Place,
    /// Its columns, and those that they refer to.
    columns: Vec<(String, String)>,
}

/// The rows of a foreign key that refer to nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Dangling {
    rows: u64,
    /// How many of them refer to each row that is not there; `None` where these are too many to be told apart.
    by_parent: Option<BTreeMap<Vec<Option<String>>, u64>>,
}

impl Dangling {
    /// Returns how many of these were not there before.
    pub fn since(&self, before: &Self) -> u64 {
        match (&before.by_parent, &self.by_parent) {
            (Some(before), Some(after)) => {
                let of = |key| before.get(key).copied().unwrap_or_default();
                after.iter().map(|(key, rows)| rows.saturating_sub(of(key))).sum()
            }
            _ => self.rows.saturating_sub(before.rows),
        }
    }
}

/// Looks for rows of these tables, and of tables that refer to them, that refer to nothing.
pub(super) async fn find(server: &Server, conn: &mut Conn, tables: &[Filled]) -> Result<Vec<Orphans>> {
    let keys: BTreeMap<&Place, &[String]> =
        tables.iter().map(|table| (&table.at, &*table.layout.key)).collect();
    let all = foreign_keys(server, conn, &keys.keys().map(|at| at.db.as_str()).collect()).await?;
    let of_ours = |key: &ForeignKey| keys.contains_key(&key.child) || keys.contains_key(&key.parent);
    let wanted: Vec<ForeignKey> = all.into_iter().filter(of_ours).collect();
    let threads = server.config.threads.clamp(1, 64);
    let (sessions, mut asking) = (Sessions::of(server), Vec::new());
    for key in &wanted {
        let child_key = keys.get(&key.child).copied().unwrap_or_default();
        let one = async move |conn: &mut Conn| of_one(server, conn, key, child_key).await;
        asking.push(sessions.lend(one).boxed());
    }
    let found: Vec<Option<Orphans>> = stream::iter(asking).buffered(threads).try_collect().await?;
    sessions.end().await;
    Ok(found.into_iter().flatten().collect())
}

/// Lists the foreign keys from and to tables of these databases.
pub(super) async fn foreign_keys(
    server: &Server,
    conn: &mut Conn,
    dbs: &BTreeSet<&str>,
) -> Result<Vec<ForeignKey>> {
    if dbs.is_empty() {
        return Ok(Vec::new());
    }
    let list = dbs.iter().map(|db| literal(db)).collect::<Vec<_>>().join(", ");
    let sql = format!(
        "SELECT table_schema, table_name, constraint_name, column_name, referenced_table_schema, \
         referenced_table_name, referenced_column_name FROM information_schema.key_column_usage \
         WHERE referenced_table_name IS NOT NULL AND (table_schema IN ({list}) OR referenced_table_schema IN ({list})) \
         ORDER BY table_schema, table_name, constraint_name, ordinal_position"
    );
    let mut keys: Vec<ForeignKey> = Vec::new();
    for row in server.rows(conn, &sql, "list the foreign keys").await? {
        let get = |at| text(&row, at).unwrap_or_default();
        let child = Place { db: get(0), table: get(1) };
        let columns = (get(3), get(6));
        match keys.last_mut().filter(|last| last.child == child && last.name == get(2)) {
            Some(last) => last.columns.push(columns),
            None => keys.push(ForeignKey {
                name: get(2),
                child,
                parent: Place { db: get(4), table: get(5) },
                columns: vec![columns],
            }),
        }
    }
    Ok(keys)
}

async fn of_one(
    server: &Server,
    conn: &mut Conn,
    key: &ForeignKey,
    child_key: &[String],
) -> Result<Option<Orphans>> {
    let doing = format!("look for rows of `{}` that refer to nothing", key.child);
    let parent_is_there = is_there(server, conn, &key.parent).await?;
    let sql = key.select("COUNT(*)", parent_is_there);
    let rows = server.rows(conn, &sql, &doing).await?;
    let count: u64 = rows.first().and_then(|row| text(row, 0)).and_then(|n| n.parse().ok()).unwrap_or(0);
    let mut named = Vec::new();
    if count > 0 {
        let own: Vec<&str> = key.columns.iter().map(|(column, _)| column.as_str()).collect();
        let told: Vec<&str> =
            if child_key.is_empty() { own } else { child_key.iter().map(String::as_str).collect() };
        let list: Vec<String> = told.iter().map(|column| format!("c.{}", ident(column))).collect();
        let sql = format!("{} LIMIT {NAMED_MAX}", key.select(&list.join(", "), parent_is_there));
        for row in server.rows(conn, &sql, &doing).await? {
            let fields = told.iter().enumerate().map(|(at, column)| {
                let value: String = text(&row, at).unwrap_or_default().chars().take(SHOWN_CHARS).collect();
                format!("{column}={}", value.escape_debug())
            });
            named.push(fields.collect::<Vec<_>>().join(" "));
        }
    }
    Ok((count > 0).then(|| Orphans { rows: count, line: key.line(count, &named) }))
}

/// Returns whether a table is there: a server that checks nothing takes foreign keys to those that are not.
async fn is_there(server: &Server, conn: &mut Conn, at: &Place) -> Result<bool> {
    let (db, table) = (literal(&at.db), literal(&at.table));
    let sql =
        format!("SELECT 1 FROM information_schema.tables WHERE table_schema = {db} AND table_name = {table}");
    Ok(!server.rows(conn, &sql, &format!("look for table `{at}`")).await?.is_empty())
}

impl ForeignKey {
    /// Counts the rows that refer to nothing, as the session sees them.
    pub async fn dangling(&self, server: &Server, conn: &mut Conn) -> Result<Dangling> {
        let doing = format!("check foreign key `{}`", self.name);
        let parent_is_there = is_there(server, conn, &self.parent).await?;
        let number = |row: &mysql_async::Row| text(row, 0).and_then(|n| n.parse().ok()).unwrap_or(0);
        let rows = server.rows(conn, &self.select("COUNT(*)", parent_is_there), &doing).await?;
        let mut found = Dangling { rows: rows.first().map_or(0, number), by_parent: None };
        if found.rows <= APART_MAX {
            let own: Vec<String> =
                self.columns.iter().map(|(own, _)| format!("HEX(c.{})", ident(own))).collect();
            let own = own.join(",");
            let sql = format!("{} GROUP BY {own}", self.select(&format!("COUNT(*),{own}"), parent_is_there));
            let rows = server.rows(conn, &sql, &doing).await?;
            let key = |row: &mysql_async::Row| (1..row.len()).map(|at| text(row, at)).collect();
            found.by_parent = Some(rows.iter().map(|row| (key(row), number(row))).collect());
        }
        Ok(found)
    }

    /// Selects from the rows that refer to a row that is not there. One that has a NULL in it may refer to nothing.
    fn select(&self, what: &str, parent_is_there: bool) -> String {
        let refers: Vec<String> =
            self.columns.iter().map(|(own, _)| format!("c.{} IS NOT NULL", ident(own))).collect();
        let (child, refers) = (self.child.sql(), refers.join(" AND "));
        if !parent_is_there {
            return format!("SELECT {what} FROM {child} c WHERE {refers}");
        }
        let on: Vec<String> = self
            .columns
            .iter()
            .map(|(own, theirs)| format!("c.{}=p.{}", ident(own), ident(theirs)))
            .collect();
        let first = self.columns.first().map(|(_, theirs)| ident(theirs)).unwrap_or_default();
        format!(
            "SELECT {what} FROM {child} c LEFT JOIN {} p ON {} WHERE {refers} AND p.{first} IS NULL",
            self.parent.sql(),
            on.join(" AND ")
        )
    }

    fn line(&self, rows: u64, named: &[String]) -> String {
        let more = if rows > named.len() as u64 { ", …" } else { "" };
        let (rows, verb) = if rows == 1 {
            ("1 row".to_owned(), "refers")
        } else {
            (format!("{} rows", grouped(rows)), "refer")
        };
        let (child, parent, key) = (&self.child, &self.parent, &self.name);
        format!(
            "{rows} of {child} {verb} by {key} to {parent}, which has no such row: {}{more}",
            named.join("; ")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_that_lost_its_own_is_told_though_another_found_its() {
        let dangling = |of: &[(&str, u64)]| Dangling {
            rows: of.iter().map(|(_, rows)| rows).sum(),
            by_parent: Some(of.iter().map(|(key, rows)| (vec![Some((*key).to_owned())], *rows)).collect()),
        };
        assert_eq!(dangling(&[("7", 2)]).since(&dangling(&[("7", 2), ("8", 1)])), 0);
        assert_eq!(dangling(&[("9", 1)]).since(&dangling(&[("8", 1)])), 1);
        let many = |rows| Dangling { rows, by_parent: None };
        assert_eq!((many(9).since(&many(7)), many(7).since(&many(9))), (2, 0));
    }

    #[test]
    fn a_null_refers_to_nothing_and_every_part_counts() {
        let place = |table: &str| Place { db: "im".into(), table: table.into() };
        let columns = [("a", "x"), ("b`", "y")].map(|(own, theirs)| (own.to_owned(), theirs.to_owned()));
        let key = ForeignKey {
            name: "fk".into(),
            child: place("files"),
            parent: place("users"),
            columns: columns.into(),
        };
        assert_eq!(
            key.select("COUNT(*)", true),
            "SELECT COUNT(*) FROM `im`.`files` c LEFT JOIN `im`.`users` p ON c.`a`=p.`x` AND c.`b```=p.`y` \
             WHERE c.`a` IS NOT NULL AND c.`b``` IS NOT NULL AND p.`x` IS NULL"
        );
        assert_eq!(
            key.select("COUNT(*)", false),
            "SELECT COUNT(*) FROM `im`.`files` c WHERE c.`a` IS NOT NULL AND c.`b``` IS NOT NULL"
        );
        assert_eq!(
            key.line(1, &["id=7".to_owned()]),
            "1 row of im.files refers by fk to im.users, which has no such row: id=7"
        );
        assert!(key.line(1200, &["id=7".to_owned()]).starts_with("1,200 rows of im.files refer by fk"));
    }
}
