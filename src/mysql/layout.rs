//! What a server holds, and how each table's rows are read and written: the inventory and `table.json`.

use std::collections::{BTreeMap, BTreeSet};

use globset::{Glob, GlobSet, GlobSetBuilder};
use mysql_async::Conn;
use serde::{Deserialize, Serialize};

use super::{
    codec::{Bound, Codec},
    conn::{Server, named, text},
    engines::keeps_rows,
    rename::Renames,
    sql::{full, ident, literal},
};
use crate::{
    error::{Context, ExitCode, Result},
    flow::{EntryMeta, Selection, Stage},
    names::EntryPath,
    policy::MysqlConfig,
};

/// The servers' own databases, never read and never written.
pub(super) const SYSTEM: [&str; 7] =
    ["mysql", "information_schema", "performance_schema", "sys", "lost+found", LEDGER, SCRATCH];

/// Where a restore notes what it has done.
pub(super) const LEDGER: &str = "lifeboat_restore";

/// Where rows wait that ranges are chosen from. It is no part of the ledger's, which goes with the last restore.
pub(super) const SCRATCH: &str = "lifeboat_ranges";

/// The inventory item of users, roles and grants.
pub(super) const ACCOUNTS: &str = "accounts";

/// What stands behind the item of a database that is called like the accounts.
const DATABASE_MARK: &str = " (database)";

/// Returns the inventory item of a database.
pub(super) fn database_item(db: &str) -> String {
    let item = db.replace('%', "%25").replace('.', "%2E");
    // The one name that is taken, and those that would be mistaken for its stand-in.
    if is_like_accounts(&item) { item + DATABASE_MARK } else { item }
}

/// Returns whether this is the accounts' item, with or without marks behind it.
fn is_like_accounts(item: &str) -> bool {
    let mut rest = item;
    while let Some(stem) = rest.strip_suffix(DATABASE_MARK) {
        rest = stem;
    }
    rest == ACCOUNTS
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
    if let Some((db, table)) = item.split_once('.') {
        return Some((plain(db), Some(table.to_owned())));
    }
    let marked = item.strip_suffix(DATABASE_MARK).filter(|stem| is_like_accounts(stem));
    Some((plain(marked.unwrap_or(item)), None))
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
    selected: Option<Selection>,
    /// What databases are called in the selection.
    called: Renames,
}

impl Wanted {
    pub fn new(config: &MysqlConfig) -> Result<Self> {
        let (take, leave) = (globs(&config.databases)?, globs(&config.exclude)?);
        Ok(Self { take, leave, only: None, selected: None, called: Renames::default() })
    }

    /// Wants one table of these and nothing else; all of them when there is none.
    pub fn only(self, table: Option<Place>) -> Self {
        Self { only: table, ..self }
    }

    /// Wants what is selected of these, without a lock.
    pub fn selecting(self, selected: Option<Selection>) -> Self {
        Self { selected, ..self }
    }

    /// Selects by the names that databases have in the snapshot.
    pub fn called(self, called: Renames) -> Self {
        Self { called, ..self }
    }

    /// Returns whether nothing may be locked for the reading.
    pub fn locks_nothing(&self) -> bool {
        self.selected.is_some()
    }

    pub fn database(&self, db: &str) -> bool {
        !SYSTEM.contains(&db)
            && !db.starts_with("#mysql50#")
            && self.take.is_match(db)
            && !self.leave.is_match(db)
            && self.only.as_ref().is_none_or(|only| only.db == db)
            && self.selected.as_ref().is_none_or(|selected| reaches(selected, self.called.original(db)))
    }

    pub fn table(&self, db: &str, table: &str) -> bool {
        let is_meant = self.only.as_ref().is_none_or(|only| only.table == table);
        let item = table_item(self.called.original(db), table);
        let is_selected =
            |selected: &Selection| selected.names(&item, Some('.')) && !selected.is_in_part(&item);
        is_meant
            && self.database(db)
            && !self.leave.is_match(format!("{db}.{table}"))
            && self.selected.as_ref().is_none_or(is_selected)
    }

    /// Returns whether the policy leaves out a table of a database that it takes.
    pub fn leaves(&self, at: &Place) -> bool {
        self.leave.is_match(format!("{}.{}", at.db, at.table))
    }

    pub fn accounts(&self) -> bool {
        self.only.is_none() && self.selected.is_none() && !self.leave.is_match(ACCOUNTS)
    }
}

/// Returns whether a database, or something inside it, is selected.
fn reaches(selected: &Selection, db: &str) -> bool {
    path(&[db]).is_ok_and(|path| {
        let mut meta = EntryMeta::new(path, Stage::Schema, database_item(db));
        meta.container = true;
        selected.wants(&meta)
    })
}

/// Returns whether this engine takes a broken transaction back.
pub(super) fn is_transactional(engine: &str) -> bool {
    matches!(engine, "InnoDB" | "ROCKSDB" | "TokuDB" | "MyRocks")
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
    /// A table whose engine keeps no rows of its own.
    Elsewhere,
}

impl TableKind {
    /// Returns the kind that `information_schema.tables` tells by `table_type` and `engine`.
    pub fn of(table_type: &str, engine: &str) -> Option<Self> {
        match table_type {
            "BASE TABLE" if !keeps_rows(engine) => Some(Self::Elsewhere),
            "BASE TABLE" => Some(Self::Base),
            "SYSTEM VERSIONED" => Some(Self::Versioned),
            "VIEW" => Some(Self::View),
            "SEQUENCE" => Some(Self::Sequence),
            _ => None,
        }
    }

    /// Returns whether its rows are read.
    pub fn has_rows(self) -> bool {
        matches!(self, Self::Base | Self::Versioned)
    }

    /// Returns whether it may have triggers.
    pub fn has_triggers(self) -> bool {
        self.has_rows() || self == Self::Elsewhere
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
    /// Whether a value may be NULL; only the reading side asks.
    #[serde(skip)]
    pub nullable: bool,
    /// The default as the server shows it; only the reading side asks.
    #[serde(skip)]
    pub default: Option<String>,
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
    /// Whether the past is counted in transactions of the server's own, which no other server can be told: only what
    /// is there now is read.
    #[serde(skip)]
    pub own_history: bool,
    /// How the rows are asked for in the order of the key; only the reading side asks.
    #[serde(skip)]
    pub reading: Reading,
}

/// How a server gives rows in the order of a key without sorting them.
///
/// An `ORDER BY` that no index serves sorts a whole table, on the server's disk; and a server that is free to choose
/// prefers that to walking an index that is not the table itself. So the index is forced, and where none has the
/// order (a part of a column, a hash) rows are taken as they lie.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Reading {
    /// The index that is forced.
    pub index: Option<String>,
    /// Whether each column of the key descends in the index; empty where the index does not order by values.
    pub descending: Vec<bool>,
    /// Whether the order can be walked by ranges.
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
        is_transactional(&self.engine)
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
        let index = self.reading.index.as_deref();
        let index = index.map(|index| format!(" FORCE INDEX ({})", ident(index))).unwrap_or_default();
        format!("FROM {}{history}{index}", at.sql())
    }

    /// Returns `ORDER BY …`, or nothing where no index has the order of the key.
    pub fn order(&self) -> String {
        self.order_by(false).unwrap_or_default()
    }

    /// Returns the `ORDER BY …` that begins with the last row, where there is an order.
    pub fn order_from_the_end(&self) -> Option<String> {
        self.order_by(true)
    }

    fn order_by(&self, reverse: bool) -> Option<String> {
        let columns = self.key.iter().zip(&self.reading.descending);
        let column = |(name, down): (&String, &bool)| {
            format!("{}{}", ident(name), if *down == reverse { "" } else { " DESC" })
        };
        let list: Vec<String> = columns.map(column).collect();
        (!list.is_empty()).then(|| format!(" ORDER BY {}", list.join(",")))
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
    let mut all: Vec<Database> = all.filter(|db| wanted.database(&db.name)).collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(all)
}

/// A thing in the list of tables.
#[derive(Clone, Debug)]
pub(super) struct Listed {
    pub at: Place,
    pub kind: TableKind,
}

/// Lists tables, views and sequences of the databases that are wanted.
pub(super) async fn tables(server: &Server, conn: &mut Conn, wanted: &Wanted) -> Result<Vec<Listed>> {
    let all = table_types(server, conn, wanted).await?;
    Ok(all.into_iter().filter_map(|(at, kind, _)| Some(Listed { at, kind: kind? })).collect())
}

/// Lists what the server calls something that is neither table nor view nor sequence, with what it calls it.
pub(super) async fn unknown_tables(
    server: &Server,
    conn: &mut Conn,
    wanted: &Wanted,
) -> Result<Vec<(Place, String)>> {
    let all = table_types(server, conn, wanted).await?;
    Ok(all.into_iter().filter(|(_, kind, _)| kind.is_none()).map(|(at, _, word)| (at, word)).collect())
}

async fn table_types(
    server: &Server,
    conn: &mut Conn,
    wanted: &Wanted,
) -> Result<Vec<(Place, Option<TableKind>, String)>> {
    let sql = "SELECT table_schema, table_name, table_type, engine FROM information_schema.tables \
               ORDER BY table_schema, table_name";
    let rows = server.rows(conn, sql, "list the tables").await?;
    let listed = rows.iter().filter_map(|row| {
        let at = Place { db: text(row, 0)?, table: text(row, 1)? };
        let table_type = text(row, 2)?;
        let kind = TableKind::of(&table_type, &text(row, 3).unwrap_or_default());
        Some((at, kind, table_type))
    });
    let mut listed: Vec<_> = listed.filter(|(at, ..)| wanted.table(&at.db, &at.table)).collect();
    // To the server, names that differ by case alone are equal, and come in any order.
    listed.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(listed)
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
            own_history: false,
            reading: Reading::default(),
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
) -> Result<BTreeSet<(String, String)>> {
    let sql = format!(
        "SELECT table_name, column_name, data_type, column_type, extra, character_set_name, collation_name, \
         is_nullable, generation_expression, column_default FROM information_schema.columns WHERE table_schema = {} \
         ORDER BY table_name, ordinal_position",
        literal(db)
    );
    let mut nullable = BTreeSet::new();
    let mut periods: BTreeMap<String, Vec<Column>> = BTreeMap::new();
    for row in server.rows(conn, &sql, &format!("read the columns of `{db}`")).await? {
        let get = |at| text(&row, at).unwrap_or_default();
        let (table, name, data_type) = (get(0), get(1), get(2));
        let Some(layout) = layouts.get_mut(&table) else { continue };
        if get(7) == "YES" {
            nullable.insert((table.clone(), name.clone()));
        }
        let column = Column {
            codec: Codec::for_type(&data_type),
            bound: Bound::for_type(&data_type, text(&row, 5).as_deref(), text(&row, 6).as_deref()),
            auto_increment: get(4).to_ascii_lowercase().contains("auto_increment"),
            declared: get(3),
            nullable: get(7) == "YES",
            default: text(&row, 9),
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
        let period: Vec<Column> = periods.remove(table).unwrap_or_else(hidden);
        if period.iter().any(|column| column.declared.starts_with("bigint")) {
            (layout.history, layout.own_history) = (false, true);
        } else {
            layout.columns.extend(period);
        }
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
        nullable: false,
        default: None,
    }
}

fn is_generated(extra: &str) -> bool {
    let extra = extra.to_ascii_uppercase();
    ["VIRTUAL GENERATED", "STORED GENERATED", "PERSISTENT GENERATED"].iter().any(|word| extra.contains(word))
}

/// A unique index as the server lists it.
struct Index {
    table: String,
    name: String,
    /// A part that is an expression has no column.
    columns: Vec<Option<String>>,
    descending: Vec<bool>,
    /// Whether it orders rows by the whole values of its columns.
    orders: bool,
    /// Whether the server lets it be used.
    visible: bool,
}

/// Chooses what each table's rows are ordered by: the primary key, else a unique key, else nothing.
async fn read_keys(
    server: &Server,
    conn: &mut Conn,
    db: &str,
    layouts: &mut BTreeMap<String, Layout>,
    nullable: &BTreeSet<(String, String)>,
) -> Result<()> {
    for index in unique_indexes(server, conn, db).await? {
        let Some(layout) = layouts.get_mut(&index.table).filter(|layout| layout.key.is_empty()) else {
            continue;
        };
        let Some(columns) = index.columns.into_iter().collect::<Option<Vec<String>>>() else { continue };
        let can_be_null = |c: &String| nullable.contains(&(index.table.clone(), c.clone()));
        let has_null = columns.iter().any(can_be_null);
        let bounded = |c: &String| layout.columns.iter().any(|o| o.name == *c && o.bound.is_some());
        // As they lie, the rows of a table lie in the order of its primary key.
        let forced = index.visible && (index.orders || index.name == "PRIMARY");
        let walkable = index.orders && index.visible && !has_null && !layout.history;
        layout.reading = Reading {
            walkable: walkable && columns.iter().all(bounded),
            descending: if index.orders && index.visible { index.descending } else { Vec::new() },
            index: forced.then_some(index.name),
        };
        layout.key = columns;
        if layout.history {
            let end = layout.columns.last().map(|column| column.name.clone());
            if let Some(end) = end.filter(|end| !layout.key.contains(end)) {
                layout.key.push(end);
                layout.reading.descending.extend((!layout.reading.descending.is_empty()).then_some(false));
            }
        }
    }
    Ok(())
}

/// Lists the unique indexes of a database, each table's primary key first.
async fn unique_indexes(server: &Server, conn: &mut Conn, db: &str) -> Result<Vec<Index>> {
    // Which column tells that an index is not to be used differs between products; and not all are asked for, because
    // some servers gather statistics for it.
    let asked = "SELECT column_name FROM information_schema.columns WHERE table_schema = 'information_schema' \
                 AND table_name = 'STATISTICS' AND column_name IN ('IS_VISIBLE', 'IGNORED')";
    let doing = format!("read the keys of `{db}`");
    let rows = server.rows(conn, asked, &doing).await?;
    let hides: Vec<String> =
        rows.iter().filter_map(|row| text(row, 0)).map(|name| format!(", s.{name}")).collect();
    let sql = format!(
        "SELECT s.table_name, s.index_name, s.column_name, s.sub_part, s.collation, s.index_type{} \
         FROM information_schema.statistics s WHERE s.table_schema = {} AND s.non_unique = 0 \
         AND s.index_type IN ('BTREE', 'HASH') \
         ORDER BY s.table_name, s.index_name <> 'PRIMARY', s.index_name, s.seq_in_index",
        hides.concat(),
        literal(db)
    );
    let mut indexes: Vec<Index> = Vec::new();
    // Rows of tables whose names differ by case alone come mixed.
    let mut places: BTreeMap<(String, String), usize> = BTreeMap::new();
    for row in server.rows(conn, &sql, &doing).await? {
        let get = |name: &str| named(&row, name);
        let (table, name) = (get("table_name").unwrap_or_default(), get("index_name").unwrap_or_default());
        let at = *places.entry((table.clone(), name.clone())).or_insert(indexes.len());
        if at == indexes.len() {
            let visible = get("is_visible").is_none_or(|word| word == "YES")
                && get("ignored").is_none_or(|word| word == "NO");
            let (columns, descending) = (Vec::new(), Vec::new());
            indexes.push(Index { table, name, columns, descending, orders: true, visible });
        }
        if let Some(index) = indexes.get_mut(at) {
            let direction = get("collation");
            index.orders &= get("sub_part").is_none()
                && get("index_type").as_deref() == Some("BTREE")
                && matches!(direction.as_deref(), Some("A" | "D"));
            index.descending.push(direction.as_deref() == Some("D"));
            index.columns.push(get("column_name"));
        }
    }
    Ok(indexes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_things_share_an_item() {
        assert_eq!(table_item("im", "messages"), "im.messages");
        assert_ne!(table_item("a.b", "c"), table_item("a", "b.c"));
        assert_ne!(database_item("accounts"), ACCOUNTS);
        assert_ne!(database_item("accounts (database)"), database_item("accounts"));
        let like_accounts =
            ["accounts", "accounts (database)", "accounts (database) (database)", "im (database)"];
        let odd = [("im", "a.b"), ("a.b", "c"), ("100%", "x")].into_iter();
        for (db, table) in odd.chain(like_accounts.map(|db| (db, "t"))) {
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
