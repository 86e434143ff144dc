//! Divides a table into ranges of rows that several sessions read.
//!
//! The index is walked, never calculated with: gaps and skew do not matter. A range has [`WALK_ROWS`] rows
//! and goes on to the next key that hashes to a border, so that borders stay where they are when rows are
//! inserted before them. No statistics are asked: equal rows give equal ranges.

use mysql_async::{Conn, Row, prelude::Queryable};

use super::{
    codec::Bound,
    conn::{Server, bytes},
    layout::{Column, Layout, Place},
    sql::ident,
    tsv::{KeyHash, begins_piece},
};
use crate::error::Result;

/// Rows that a range has at least, but for the last.
pub(super) const WALK_ROWS: u64 = 1 << 17;
/// Rows among which a border is looked for; the first of them is taken where there is none.
pub(super) const WINDOW_ROWS: u64 = 2048;

/// The values of a key, as they lie in the table: each in the charset of its column.
type Key = Vec<Vec<u8>>;

/// Walks one table.
pub(super) struct Walk<'a> {
    layout: &'a Layout,
    at: &'a Place,
    from: Option<Key>,
    done: bool,
}

impl<'a> Walk<'a> {
    pub fn new(layout: &'a Layout, at: &'a Place) -> Self {
        Self { layout, at, from: None, done: false }
    }

    /// Returns the condition of the next range (empty: all rows), `None` after the last.
    pub async fn next(&mut self, server: &Server, conn: &mut Conn) -> Result<Option<String>> {
        if self.done {
            return Ok(None);
        }
        let border = if self.layout.walkable { self.find_border(server, conn).await? } else { None };
        let from = std::mem::replace(&mut self.from, border.clone());
        self.done = border.is_none();
        let bounds = bounds(self.layout);
        let mut conditions = Vec::new();
        if let Some(from) = &from {
            conditions.push(not_before(&bounds, from));
        }
        if let Some(to) = &border {
            conditions.push(format!("NOT {}", not_before(&bounds, to)));
        }
        Ok(Some(conditions.join(" AND ")))
    }

    /// Returns the key at which the next range begins.
    async fn find_border(&self, server: &Server, conn: &mut Conn) -> Result<Option<Key>> {
        let bounds = bounds(self.layout);
        let column = |name: &String| self.layout.columns.iter().find(|column| column.name == *name);
        let columns: Vec<&Column> = self.layout.key.iter().filter_map(column).collect();
        let list: Vec<String> = columns.iter().map(|column| column.codec.read(&column.name)).collect();
        let after = self.from.as_ref().map(|from| format!(" WHERE {}", not_before(&bounds, from)));
        let sql = format!(
            "SELECT {} {}{}{} LIMIT {WALK_ROWS}, {WINDOW_ROWS}",
            list.join(","),
            self.layout.from(self.at),
            after.unwrap_or_default(),
            self.layout.order()
        );
        let doing = format!("divide table `{}`", self.at);
        let rows: Vec<Row> = conn.query(sql).await.map_err(|error| server.failure(&doing, error))?;
        let keys: Vec<Key> = rows.iter().map(key_of).collect();
        let chosen = keys.iter().find(|key| begins_piece(hash(&columns, key)));
        // Near the end of the table a border that is none is not worth a range.
        let forced = keys.first().filter(|_| keys.len() as u64 == WINDOW_ROWS);
        Ok(chosen.or(forced).cloned())
    }
}

fn key_of(row: &Row) -> Key {
    (0..row.len()).map(|at| bytes(row, at).unwrap_or_default()).collect()
}

/// Hashes a key as the writer of rows does: by the written form of its fields.
fn hash(columns: &[&Column], key: &Key) -> u64 {
    let mut hash = KeyHash::new();
    let mut field = Vec::new();
    for (column, value) in columns.iter().zip(key) {
        field.clear();
        column.codec.push(&mut field, value);
        hash.field(&field);
    }
    hash.finish()
}

fn bounds(layout: &Layout) -> Vec<(String, Bound)> {
    let bound = |name: &String| {
        let column = layout.columns.iter().find(|column| column.name == *name)?;
        Some((ident(name), column.bound.clone()?))
    };
    layout.key.iter().filter_map(bound).collect()
}

/// Returns the condition that a row's key is not before `key`: `(a > x OR (a = x AND b >= y))`.
fn not_before(bounds: &[(String, Bound)], key: &Key) -> String {
    let mut condition = String::new();
    for (at, ((column, bound), value)) in bounds.iter().zip(key).enumerate().rev() {
        let value = bound.literal(value);
        condition = if at + 1 == bounds.len() {
            format!("{column} >= {value}")
        } else {
            format!("({column} > {value} OR ({column} = {value} AND {condition}))")
        };
    }
    format!("({condition})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_condition_compares_column_by_column() {
        let bounds = [("`a`".to_owned(), Bound::Number), ("`b`".to_owned(), Bound::Quoted)];
        let key = vec![b"7".to_vec(), b"2025-01-02".to_vec()];
        assert_eq!(not_before(&bounds, &key), "((`a` > 7 OR (`a` = 7 AND `b` >= '2025-01-02')))");
        assert_eq!(not_before(&bounds[..1], &key), "(`a` >= 7)");
    }
}
