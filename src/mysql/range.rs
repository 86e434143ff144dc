//! Divides a table into ranges of rows that several sessions read.
//!
//! The index is walked, never calculated with: gaps and skew do not matter. A range has [`WALK_ROWS`] rows
//! and goes on to the next key that hashes to a border, so that borders stay where they are when rows are
//! inserted before them. No statistics are asked: equal rows give equal ranges.
//!
//! *Guards.* Each border must lie behind the one before, as the server compares keys: where a server orders keys in one
//! way and compares them in another, ranges would share rows or lose some. And the walk knows how many rows each range
//! has, so that a session that reads another number is found out.

use super::{
    codec::Bound,
    conn::{Server, Session, field_text},
    hostile::Fields,
    layout::{Column, Layout, Place},
    sql::ident,
    tsv::{KeyHash, begins_piece},
};
use crate::error::{ExitCode, Failure, Result};

/// Rows that a range has at least, but for the last.
pub(super) const WALK_ROWS: u64 = 1 << 17;
/// Rows among which a border is looked for; the first of them is taken where there is none.
const WINDOW_ROWS: u64 = 2048;

/// The values of a key, as they lie in the table: each in the charset of its column.
type Key = Vec<Vec<u8>>;

/// How tables are divided.
#[derive(Clone, Copy, Debug)]
pub(super) struct Division {
    /// Rows that a range has at least, but for the last.
    pub rows: u64,
    /// Whether the walk sees the rows that the readers see, so that their numbers can be compared.
    pub is_counted: bool,
}

/// Some rows of a table.
#[derive(Clone, Debug)]
pub(super) struct Stretch {
    /// The condition that picks them; empty for all.
    pub condition: String,
    /// How many there are, where that is known.
    pub rows: Option<u64>,
}

/// A column of the key.
struct Step {
    column: String,
    bound: Bound,
    descends: bool,
}

/// Walks one table.
pub(super) struct Walk<'a> {
    layout: &'a Layout,
    at: &'a Place,
    division: Division,
    steps: Vec<Step>,
    from: Option<Key>,
    /// Whether the rows are counted before a border is looked for: fewer statements where there is none.
    counts_first: bool,
    done: bool,
}

/// Where a range ends.
#[derive(Default)]
struct End {
    /// The key that the next range begins with; there is no next one without it.
    border: Option<Key>,
    rows: Option<u64>,
}

impl<'a> Walk<'a> {
    pub fn new(layout: &'a Layout, at: &'a Place, division: Division) -> Self {
        // What others write meanwhile into a table without transactions is seen at once, or not.
        let is_counted = division.is_counted && layout.is_transactional();
        let division = Division { is_counted, ..division };
        Self { layout, at, division, steps: steps(layout), from: None, counts_first: false, done: false }
    }

    /// Expects that the table is one range. The ranges are the same where it is not.
    pub fn expects_few(self) -> Self {
        Self { counts_first: true, ..self }
    }

    /// Returns the next range, `None` after the last.
    pub async fn next(&mut self, server: &Server, conn: &mut impl Session) -> Result<Option<Stretch>> {
        if self.done {
            return Ok(None);
        }
        let is_walked = self.layout.reading.walkable;
        let mut end = End::default();
        if is_walked && std::mem::take(&mut self.counts_first) {
            end.rows = Some(self.count(server, conn, "").await?);
        }
        if is_walked && end.rows.is_none_or(|rows| rows > self.division.rows) {
            end = self.find_end(server, conn).await?;
        }
        let End { border, mut rows } = end;
        let from = std::mem::replace(&mut self.from, border.clone());
        self.done = border.is_none();
        let mut conditions = Vec::new();
        if let Some(from) = &from {
            conditions.push(behind(&self.steps, from, true));
        }
        if let Some(to) = &border {
            conditions.push(format!("NOT {}", behind(&self.steps, to, true)));
        }
        let condition = conditions.join(" AND ");
        if !self.division.is_counted {
            rows = None;
        } else if rows.is_none() && is_walked {
            rows = Some(self.count(server, conn, &condition).await?);
        }
        Ok(Some(Stretch { condition, rows }))
    }

    /// Finds the key at which the next range begins.
    async fn find_end(&self, server: &Server, conn: &mut impl Session) -> Result<End> {
        let column = |name: &String| self.layout.columns.iter().find(|column| column.name == *name);
        let columns: Vec<&Column> = self.layout.key.iter().filter_map(column).collect();
        let mut list: Vec<String> = columns.iter().map(|column| column.codec.read(&column.name)).collect();
        list.push(self.from.as_ref().map_or("1".to_owned(), |from| behind(&self.steps, from, false)));
        let after = self.from.as_ref().map(|from| format!(" WHERE {}", behind(&self.steps, from, true)));
        let (walk_rows, window_rows) = (self.division.rows, WINDOW_ROWS.min(self.division.rows));
        let sql = format!(
            "SELECT {} {}{}{} LIMIT {walk_rows}, {window_rows}",
            list.join(","),
            self.layout.from(self.at),
            after.unwrap_or_default(),
            self.layout.order()
        );
        let doing = format!("divide table `{}`", self.at);
        let rows = conn.fields(&sql).await.map_err(|error| server.failure(&doing, error))?;
        let keys: Vec<Key> = rows.iter().map(|row| key_of(row, columns.len())).collect();
        let chosen = keys.iter().position(|key| begins_piece(hash(&columns, key)));
        // Near the end of the table a border that is none is not worth a range.
        let forced = (keys.len() as u64 == window_rows).then_some(0);
        let Some(border) = chosen.or(forced) else {
            let rows = (!keys.is_empty()).then_some(walk_rows + keys.len() as u64);
            return Ok(End { border: None, rows });
        };
        if rows[border].get(columns.len()).and_then(Option::as_deref) != Some(b"1") {
            return Err(self.out_of_order(server));
        }
        Ok(End { border: keys.get(border).cloned(), rows: Some(walk_rows + border as u64) })
    }

    fn out_of_order(&self, server: &Server) -> Failure {
        let what = format!(
            "`{}`: table `{}` cannot be divided: the server orders its key in another way than it compares it",
            server.name, self.at
        );
        Failure::new(ExitCode::Failed, what)
            .hint("Check the table and its indexes on the server (CHECK TABLE); then run this again.")
    }

    /// Counts the rows of the last range.
    async fn count(&self, server: &Server, conn: &mut impl Session, condition: &str) -> Result<u64> {
        let condition = if condition.is_empty() { String::new() } else { format!(" WHERE {condition}") };
        let sql = format!("SELECT COUNT(*) {}{condition}", self.layout.from(self.at));
        let doing = format!("count the rows of table `{}`", self.at);
        let rows = conn.fields(&sql).await.map_err(|error| server.failure(&doing, error))?;
        let count = rows.first().and_then(|row| field_text(row, 0)).and_then(|count| count.parse().ok());
        count.ok_or_else(|| Failure::new(ExitCode::Failed, format!("`{}`: failed to {doing}", server.name)))
    }
}

fn key_of(row: &Fields, columns: usize) -> Key {
    row.iter().take(columns).map(|field| field.clone().unwrap_or_default()).collect()
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

fn steps(layout: &Layout) -> Vec<Step> {
    let step = |(name, descends): (&String, &bool)| {
        let column = layout.columns.iter().find(|column| column.name == *name)?;
        Some(Step { column: ident(name), bound: column.bound.clone()?, descends: *descends })
    };
    layout.key.iter().zip(&layout.reading.descending).filter_map(step).collect()
}

/// Returns the condition that a row's key lies behind `key`, or is that key, in the order of the index:
/// `(a > x OR (a = x AND b >= y))`.
fn behind(steps: &[Step], key: &Key, or_at: bool) -> String {
    let mut condition = String::new();
    for (at, (step, value)) in steps.iter().zip(key).enumerate().rev() {
        let (column, value) = (&step.column, step.bound.literal(value));
        let further = if step.descends { "<" } else { ">" };
        condition = if at + 1 == steps.len() {
            format!("{column} {further}{} {value}", if or_at { "=" } else { "" })
        } else {
            format!("({column} {further} {value} OR ({column} = {value} AND {condition}))")
        };
    }
    format!("({condition})")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(column: &str, bound: Bound, descends: bool) -> Step {
        Step { column: column.to_owned(), bound, descends }
    }

    #[test]
    fn the_condition_compares_column_by_column() {
        let steps = [step("`a`", Bound::Number, false), step("`b`", Bound::Quoted, false)];
        let key = vec![b"7".to_vec(), b"2025-01-02".to_vec()];
        assert_eq!(behind(&steps, &key, true), "((`a` > 7 OR (`a` = 7 AND `b` >= '2025-01-02')))");
        assert_eq!(behind(&steps, &key, false), "((`a` > 7 OR (`a` = 7 AND `b` > '2025-01-02')))");
        assert_eq!(behind(&steps[..1], &key, true), "(`a` >= 7)");
    }

    #[test]
    fn what_descends_is_compared_the_other_way_round() {
        let steps = [step("`a`", Bound::Number, true), step("`b`", Bound::Number, false)];
        let key = vec![b"7".to_vec(), b"8".to_vec()];
        assert_eq!(behind(&steps, &key, true), "((`a` < 7 OR (`a` = 7 AND `b` >= 8)))");
        assert_eq!(behind(&steps[..1], &key, true), "(`a` <= 7)");
    }
}
