//! What a server holds, and how each table's rows are read and written: the inventory and `table.json`.

use std::collections::BTreeMap;

use globset::{Glob, GlobSet, GlobSetBuilder};
use mysql_async::Conn;
use serde::{Deserialize, Serialize};

use super::{
    codec::{Bound, Codec},
    conn::{Server, named, text},
    sql::{full, ident, literal},
};
use crate::{
    error::{Context, ExitCode, Result},
    flow::{EntryMeta, Stage},
    names::EntryPath,
    policy::MysqlConfig,
};

/// The servers' own databases, never read and never written.
pub(super) const SYSTEM: [&str; 5] =
    ["mysql", "information_schema", "performance_schema", "sys", "lost+found"];

/// Our own database on a server that is being restored; never read.
pub(super) const SCRATCH: &str = "lifeboat_restore";

/// The inventory item of users, roles and grants.
pub(super) const ACCOUNTS: &str = "accounts";

/// Returns the inventory item of a database.
pub(super) fn database_item(db: &str) -> String {
    let item = db.replace('%', "%25").replace('.', "%2E");
    // The one name that is taken.
    if item == ACCOUNTS { format!("{item} (database)") } else { item }
}

/// Returns the inventory item of a table or view: `db.table`. Dots in the database's name are escaped, so
/// that no two tables share an item.
pub(super) fn table_item(db: &str, table: &str) -> String {
    format!("{}.{table}", db.replace('%', "%25").replace('.', "%2E"))
}

/// Returns the database and perhaps the table that an item names; `None` for the accounts.
pub(super) fn parse_item(item: &str) -> Option<(String, Option<String>)> {
    if item == ACCOUNTS {
        return None;
    }
    let plain = |db: &str| db.replace("%2E", ".").replace("%25", "%");
    Some(match item.split_once('.') {
        Some((db, table)) => (plain(db), Some(table.to_owned())),
        None => (plain(item.strip_suffix(" (database)").unwrap_or(item)), None),
    })
}

/// Returns the path of an entry. A folder never ends in `.sql`, so that a table of that name and the
/// database's own files stay apart where entries are written to a disk.
pub(super) fn path(parts: &[&str]) -> Result<EntryPath> {
    let (last, folders) = parts.split_last().unwrap_or((&"", &[]));
    let what = || format!("`{}` cannot be named in a snapshot", parts.join("."));
    let mut text = String::new();
    for folder in folders {
        let escaped = EntryPath::of_parts(&[folder]).failed(ExitCode::Failed, what)?;
        let escaped = escaped.as_str();
        let cut = escaped.strip_suffix(".sql").map(|stem| format!("{stem}%2Esql"));
        text.push_str(cut.as_deref().unwrap_or(escaped));
        text.push('/');
    }
    text.push_str(last);
    EntryPath::new(&text).failed(ExitCode::Failed, what)
}

/// Makes the meta of an entry that belongs to a database as a whole.
pub(super) fn database_meta(kind: &str, db: &str, stage: Stage, file: &str) -> Result<EntryMeta> {
    let mut meta = EntryMeta::new(path(&[db, file])?, stage, database_item(db));
    meta.select = db.replace('%', "%25").replace('.', "%2E");
    Ok(meta.with("kind", kind).with("db", db))
}

/// Makes the meta of an entry that belongs to a table, view or sequence.
pub(super) fn table_meta(kind: &str, at: &Place, stage: Stage, file: &str) -> Result<EntryMeta> {
    let meta = EntryMeta::new(path(&[&at.db, &at.table, file])?, stage, table_item(&at.db, &at.table));
    Ok(meta.with("kind", kind).with("db", at.db.as_str()).with("table", at.table.as_str()))
}

/// Which databases and tables a policy wants.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    take: GlobSet,
    leave: GlobSet,
    only: Option<Place>,
}

impl Wanted {
    pub fn new(config: &MysqlConfig) -> Result<Self> {
        Ok(Self { take: globs(&config.databases)?, leave: globs(&config.exclude)?, only: None })
    }

    /// Wants one table of these and nothing else; all of them when there is none.
    pub fn only(self, table: Option<Place>) -> Self {
        Self { only: table, ..self }
    }

    pub fn database(&self, db: &str) -> bool {
        !SYSTEM.contains(&db)
            && db != SCRATCH
            && !db.starts_with("#mysql50#")
            && self.take.is_match(db)
            && !self.leave.is_match(db)
            && self.only.as_ref().is_none_or(|only| only.db == db)
    }

    pub fn table(&self, db: &str, table: &str) -> bool {
        let is_meant = self.only.as_ref().is_none_or(|only| only.table == table);
        is_meant && self.database(db) && !self.leave.is_match(format!("{db}.{table}"))
    }

    pub fn accounts(&self) -> bool {
        self.only.is_none() && !self.leave.is_match(ACCOUNTS)
    }
}

fn globs(patterns: &[String]) -> Result<GlobSet> {
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        set.add(Glob::new(pattern).failed(ExitCode::Usage, || format!("pattern `{pattern}` is no glob"))?);
    }
    set.build().failed(ExitCode::Usage, || "the patterns are too many".to_owned())
}

/// A name inside a database.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Place {
    pub db: String,
    pub table: String,
}

impl Place {
    pub fn sql(&self) -> String {
        full(&self.db, &self.table)
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.db, self.table)
    }
}

/// What kind of thing stands in the list of tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TableKind {
    Base,
    /// MariaDB: a table that keeps its history.
    Versioned,
    View,
    Sequence,
}

impl TableKind {
    /// Returns the kind that `information_schema.tables.table_type` names.
    pub fn of(table_type: &str) -> Option<Self> {
        match table_type {
            "BASE TABLE" => Some(Self::Base),
            "SYSTEM VERSIONED" => Some(Self::Versioned),
            "VIEW" => Some(Self::View),
            "SEQUENCE" => Some(Self::Sequence),
            _ => None,
        }
    }

    pub fn has_rows(self) -> bool {
        matches!(self, Self::Base | Self::Versioned)
    }
}

/// A database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Database {
    pub name: String,
    pub charset: String,
    pub collation: String,
}

/// A column of a table whose values are stored, which a generated one's are not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Column {
    pub name: String,
    #[serde(rename = "type")]
    pub declared: String,
    pub codec: Codec,
    /// Whether it is the column that counts up by itself.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub auto_increment: bool,
    /// How its values bound a range; only the reading side asks.
    #[serde(skip)]
    pub bound: Option<Bound>,
}

/// How a table's rows are read and written: `table.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Layout {
    /// The columns in the order of the fields of a row.
    pub columns: Vec<Column>,
    /// The columns that the rows are ordered by; none when the table has no key.
    pub key: Vec<String>,
    /// The storage engine.
    pub engine: String,
    /// Whether rows of the past are among the rows.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub history: bool,
    /// Whether the key is the primary key.
    #[serde(skip)]
    pub primary: bool,
    /// Whether the key's order can be walked by ranges.
    #[serde(skip)]
    pub walkable: bool,
}

impl Layout {
    /// Returns the fields of the row that make the key's hash: the key's, or all where it has none.
    pub fn key_fields(&self) -> Vec<usize> {
        let at = |name: &String| self.columns.iter().position(|column| column.name == *name);
        let fields: Vec<usize> = self.key.iter().filter_map(at).collect();
        if fields.is_empty() { (0..self.columns.len()).collect() } else { fields }
    }

    /// Returns whether losing power or a writer in between leaves the table's rows consistent.
    pub fn is_transactional(&self) -> bool {
        matches!(self.engine.as_str(), "InnoDB" | "ROCKSDB" | "TokuDB" | "MyRocks")
    }

    /// Returns the list of expressions that reads a row.
    pub fn read_list(&self) -> String {
        let list: Vec<String> = self.columns.iter().map(|c| c.codec.read(&c.name)).collect();
        // A table of generated columns alone still has so many rows.
        if list.is_empty() { "NULL".to_owned() } else { list.join(",") }
    }

    /// Returns `FROM …` with what belongs to the table.
    pub fn from(&self, at: &Place) -> String {
        let history = if self.history { " FOR SYSTEM_TIME ALL" } else { "" };
        let index = if self.primary && !self.history { " FORCE INDEX (PRIMARY)" } else { "" };
        format!("FROM {}{history}{index}", at.sql())
    }

    /// Returns `ORDER BY …`, or nothing where the table has no key.
    pub fn order(&self) -> String {
        if self.key.is_empty() {
            return String::new();
        }
        let names: Vec<String> = self.key.iter().map(|name| ident(name)).collect();
        format!(" ORDER BY {}", names.join(","))
    }
}

/// Reads the databases that are wanted.
pub(super) async fn databases(server: &Server, conn: &mut Conn, wanted: &Wanted) -> Result<Vec<Database>> {
    let sql = "SELECT schema_name, default_character_set_name, default_collation_name \
               FROM information_schema.schemata ORDER BY schema_name";
    let rows = server.rows(conn, sql, "list the databases").await?;
    let all = rows.iter().map(|row| Database {
        name: text(row, 0).unwrap_or_default(),
        charset: text(row, 1).unwrap_or_default(),
        collation: text(row, 2).unwrap_or_default(),
    });
    Ok(all.filter(|db| wanted.database(&db.name)).collect())
}

/// A thing in the list of tables.
#[derive(Clone, Debug)]
pub(super) struct Listed {
    pub at: Place,
    pub kind: TableKind,
}

/// Lists tables, views and sequences of the databases that are wanted.
pub(super) async fn tables(server: &Server, conn: &mut Conn, wanted: &Wanted) -> Result<Vec<Listed>> {
    let sql = "SELECT table_schema, table_name, table_type FROM information_schema.tables \
               ORDER BY table_schema, table_name";
    let rows = server.rows(conn, sql, "list the tables").await?;
    let listed = rows.iter().filter_map(|row| {
        let at = Place { db: text(row, 0)?, table: text(row, 1)? };
        Some(Listed { kind: TableKind::of(&text(row, 2)?)?, at })
    });
    Ok(listed.filter(|listed| wanted.table(&listed.at.db, &listed.at.table)).collect())
}

/// Reads the layouts of all tables of a database, by table name.
pub(super) async fn layouts(
    server: &Server,
    conn: &mut Conn,
    db: &str,
    listed: &[Listed],
) -> Result<BTreeMap<String, Layout>> {
    let mut layouts = BTreeMap::new();
    for entry in listed.iter().filter(|entry| entry.at.db == db && entry.kind.has_rows()) {
        let history = entry.kind == TableKind::Versioned;
        let layout = Layout {
            columns: Vec::new(),
            key: Vec::new(),
            engine: String::new(),
            history,
            primary: false,
            walkable: false,
        };
        layouts.insert(entry.at.table.clone(), layout);
    }
    read_engines(server, conn, db, &mut layouts).await?;
    let nullable = read_columns(server, conn, db, &mut layouts).await?;
    read_keys(server, conn, db, &mut layouts, &nullable).await?;
    Ok(layouts)
}

async fn read_engines(
    server: &Server,
    conn: &mut Conn,
    db: &str,
    layouts: &mut BTreeMap<String, Layout>,
) -> Result<()> {
    let sql = format!(
        "SELECT table_name, engine FROM information_schema.tables WHERE table_schema = {}",
        literal(db)
    );
    for row in server.rows(conn, &sql, &format!("read the tables of `{db}`")).await? {
        if let Some(layout) = layouts.get_mut(&text(&row, 0).unwrap_or_default()) {
            layout.engine = text(&row, 1).unwrap_or_default();
        }
    }
    Ok(())
}

/// Fills in the columns; returns the columns that may be NULL.
async fn read_columns(
    server: &Server,
    conn: &mut Conn,
    db: &str,
    layouts: &mut BTreeMap<String, Layout>,
) -> Result<Vec<(String, String)>> {
    let sql = format!(
        "SELECT table_name, column_name, data_type, column_type, extra, character_set_name, collation_name, \
         is_nullable, generation_expression FROM information_schema.columns WHERE table_schema = {} \
         ORDER BY table_name, ordinal_position",
        literal(db)
    );
    let mut nullable = Vec::new();
    let mut periods: BTreeMap<String, Vec<Column>> = BTreeMap::new();
    for row in server.rows(conn, &sql, &format!("read the columns of `{db}`")).await? {
        let get = |at| text(&row, at).unwrap_or_default();
        let (table, name, data_type) = (get(0), get(1), get(2));
        let Some(layout) = layouts.get_mut(&table) else { continue };
        if get(7) == "YES" {
            nullable.push((table.clone(), name.clone()));
        }
        let column = Column {
            codec: Codec::for_type(&data_type),
            bound: Bound::for_type(&data_type, text(&row, 5).as_deref(), text(&row, 6).as_deref()),
            auto_increment: get(4).to_ascii_lowercase().contains("auto_increment"),
            declared: get(3),
            name,
        };
        if !is_generated(&get(4)) {
            layout.columns.push(column);
        } else if layout.history && matches!(get(8).as_str(), "ROW START" | "ROW END") {
            periods.entry(table).or_default().push(column);
        }
    }
    for (table, layout) in layouts.iter_mut().filter(|(_, layout)| layout.history) {
        let hidden = || ["row_start", "row_end"].map(hidden_period).into();
        layout.columns.extend(periods.remove(table).unwrap_or_else(hidden));
    }
    Ok(nullable)
}

fn hidden_period(name: &str) -> Column {
    Column {
        name: name.to_owned(),
        declared: "timestamp(6)".to_owned(),
        codec: Codec::Raw,
        auto_increment: false,
        bound: None,
    }
}

fn is_generated(extra: &str) -> bool {
    let extra = extra.to_ascii_uppercase();
    ["VIRTUAL GENERATED", "STORED GENERATED", "PERSISTENT GENERATED"].iter().any(|word| extra.contains(word))
}

/// Chooses what each table's rows are ordered by: the primary key, else a unique key, else nothing.
async fn read_keys(
    server: &Server,
    conn: &mut Conn,
    db: &str,
    layouts: &mut BTreeMap<String, Layout>,
    nullable: &[(String, String)],
) -> Result<()> {
    let sql = format!(
        "SELECT table_name, index_name, column_name, sub_part, collation FROM information_schema.statistics \
         WHERE table_schema = {} AND non_unique = 0 AND index_type IN ('BTREE', 'HASH') \
         ORDER BY table_name, index_name <> 'PRIMARY', index_name, seq_in_index",
        literal(db)
    );
    // (table, index) → its columns; a part that is an expression has no column.
    let mut indexes: Vec<(String, String, Vec<Option<String>>, bool)> = Vec::new();
    for row in server.rows(conn, &sql, &format!("read the keys of `{db}`")).await? {
        let (table, index) = (text(&row, 0).unwrap_or_default(), text(&row, 1).unwrap_or_default());
        let plain = named(&row, "sub_part").is_none() && text(&row, 4).as_deref() == Some("A");
        match indexes.last_mut() {
            Some((t, i, columns, all_plain)) if *t == table && *i == index => {
                columns.push(text(&row, 2));
                *all_plain &= plain;
            }
            _ => indexes.push((table, index, vec![text(&row, 2)], plain)),
        }
    }
    for (table, index, columns, plain) in indexes {
        let Some(layout) = layouts.get_mut(&table).filter(|layout| layout.key.is_empty()) else { continue };
        let Some(columns) = columns.into_iter().collect::<Option<Vec<String>>>() else { continue };
        let can_be_null = |c: &String| nullable.iter().any(|(t, n)| *t == table && n == c);
        let has_null = columns.iter().any(can_be_null);
        let bounded = |c: &String| layout.columns.iter().any(|o| o.name == *c && o.bound.is_some());
        layout.primary = index == "PRIMARY";
        layout.walkable = plain && !has_null && !layout.history && columns.iter().all(bounded);
        layout.key = columns;
        if layout.history {
            let end = layout.columns.last().map(|column| column.name.clone());
            layout.key.extend(end.filter(|end| !layout.key.contains(end)));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_things_share_an_item() {
        assert_eq!(table_item("im", "messages"), "im.messages");
        assert_ne!(table_item("a.b", "c"), table_item("a", "b.c"));
        assert_ne!(database_item("accounts"), ACCOUNTS);
        for (db, table) in [("im", "a.b"), ("a.b", "c"), ("100%", "x"), ("accounts", "t")] {
            let both = (db.to_owned(), Some(table.to_owned()));
            assert_eq!(parse_item(&table_item(db, table)), Some(both));
            assert_eq!(parse_item(&database_item(db)), Some((db.to_owned(), None)));
        }
        assert_eq!(parse_item(ACCOUNTS), None);
    }

    #[test]
    fn a_table_named_like_a_file_stays_a_folder() {
        let odd = path(&["im", "schema.sql", "table.sql"]).unwrap();
        assert_eq!(odd.as_str(), "im/schema%2Esql/table.sql");
        assert_eq!(odd.parts(), ["im", "schema.sql", "table.sql"]);
        assert_eq!(path(&["a/b", "..", "data.0001.tsv"]).unwrap().parts(), ["a/b", "..", "data.0001.tsv"]);
    }

    #[test]
    fn the_servers_own_databases_are_never_wanted() {
        let mut config: MysqlConfig = toml::from_str("user = \"x\"").unwrap();
        config.exclude = vec!["im.log_*".into(), "scratch".into()];
        let wanted = Wanted::new(&config).unwrap();
        assert!(wanted.database("im") && wanted.table("im", "messages") && wanted.accounts());
        assert!(!wanted.database("mysql") && !wanted.database("sys") && !wanted.database("scratch"));
        assert!(!wanted.table("im", "log_2025"));
    }

    #[test]
    fn generated_columns_are_told_from_generated_defaults() {
        assert!(is_generated("VIRTUAL GENERATED") && is_generated("STORED GENERATED INVISIBLE"));
        assert!(!is_generated("DEFAULT_GENERATED on update CURRENT_TIMESTAMP"));
    }
}
