//! Whether two readings of a server hold the same, and what differs: objects by name ([`programs`]), statements of
//! accounts ([`accounts`]), rows by their key ([`rows`]).

mod accounts;
mod programs;
mod rows;

use std::collections::BTreeSet;

use bytes::Bytes;
use serde_json::Value;

pub use self::{
    accounts::differing_accounts,
    programs::differing_programs,
    rows::{RowOdds, Side, TableSums, list_rows, name_rows, sum_rows},
};
use super::layout::{ACCOUNTS, parse_item, table_item};
use crate::flow::{EntryMeta, Likeness, Seen, compare::Counts};

/// When two entries of a MySQL source hold the same: what a server shows is equal where the data is.
pub struct MysqlLikeness;

/// The kinds of entries that are scripts of programs, with what a person calls many of them.
const PROGRAMS: [&str; 3] = ["triggers", "routines", "events"];

fn kind(meta: &EntryMeta) -> &str {
    meta.text("kind").unwrap_or_default()
}

/// Returns whether an entry is made of programs, which are told one by one.
pub fn is_of_programs(meta: &EntryMeta) -> bool {
    PROGRAMS.contains(&kind(meta))
}

/// Returns whether an entry is the users, roles and grants.
pub fn is_accounts(meta: &EntryMeta) -> bool {
    kind(meta) == ACCOUNTS
}

/// Returns whether an entry is the list of a table's columns.
pub fn is_layout(meta: &EntryMeta) -> bool {
    kind(meta) == "layout"
}

/// Returns the database and table that an entry belongs to, and what it is of it: `table`, `layout`, `rows`.
pub fn table_of(meta: &EntryMeta) -> Option<((String, String), &str)> {
    let (db, table) = (meta.text("db")?, meta.text("table")?);
    Some(((db.to_owned(), table.to_owned()), kind(meta)))
}

/// Returns the pattern that picks one table out of a snapshot. A table whose name goes on behind a dot comes along.
pub fn selection(db: &str, table: &str) -> String {
    globset::escape(&table_item(db, table))
}

/// Returns the patterns of what a server holds of a snapshot, and of what it holds beside it: its databases whole, and
/// the accounts where the snapshot has them.
pub fn patterns_of(inventory: &[String]) -> (Vec<String>, Vec<String>) {
    let databases: BTreeSet<String> =
        inventory.iter().filter_map(|item| parse_item(item)).map(|(db, _)| db).collect();
    // Left out by this word, a database of that name would be left out too.
    let are_wanted = databases.contains(ACCOUNTS) || inventory.iter().any(|item| item == ACCOUNTS);
    let left_out = if are_wanted { Vec::new() } else { vec![ACCOUNTS.to_owned()] };
    (databases.iter().map(|db| globset::escape(db)).collect(), left_out)
}

impl Likeness for MysqlLikeness {
    fn canonical(&self, mut seen: Seen) -> Option<Seen> {
        // A server has accounts of its own beside those that were stored: they are compared one by one.
        if is_accounts(&seen.meta) {
            (seen.sha256, seen.size_bytes) = (String::new(), 0);
        }
        // Keys and lengths help a restore to choose pieces; snapshots of before have none.
        seen.trailer.retain(|name, _| matches!(name.as_str(), "rows" | "enum_zeros"));
        // A stand-in says what its view says, and a view that refers to what is gone is kept as text only.
        let is_unmade = seen.meta.attrs.contains_key("invalid") || kind(&seen.meta) == "placeholder";
        (!is_unmade).then_some(seen)
    }

    fn name(&self, meta: &EntryMeta) -> String {
        let db = meta.text("db").unwrap_or_default();
        let full = format!("{db}.{}", meta.text("table").unwrap_or_default());
        let name = match kind(meta) {
            "database" => format!("database {db}"),
            "table" | "definition" => format!("table {full}"),
            "layout" => format!("the list of columns of table {full}"),
            "rows" => format!("the rows of table {full}"),
            "view" => format!("view {full}"),
            "sequence" => format!("sequence {full}"),
            "triggers" => format!("the triggers of table {full}"),
            "routines" | "events" => format!("the {} of database {db}", kind(meta)),
            _ => format!("entry {}", meta.path),
        };
        name.escape_debug().to_string()
    }

    fn count(&self, seen: &Seen, bytes: Option<&Bytes>, counts: &mut Counts) {
        let kind = kind(&seen.meta);
        let (what, count) = match kind {
            "rows" => ("rows", seen.trailer.get("rows").and_then(Value::as_u64).unwrap_or(0)),
            "database" => ("databases", 1),
            "table" | "definition" => ("tables", 1),
            "view" => ("views", 1),
            "sequence" => ("sequences", 1),
            _ if PROGRAMS.contains(&kind) => (kind, bytes.map_or(1, |bytes| programs::count(bytes))),
            _ => return,
        };
        *counts.entry(what.to_owned()).or_default() += count;
    }

    fn keeps(&self, meta: &EntryMeta) -> bool {
        is_of_programs(meta) || is_accounts(meta)
    }
}
