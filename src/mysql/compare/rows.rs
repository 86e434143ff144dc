//! The rows of one table that differ, by their key.
//!
//! Rows come in pieces, and two tables with equal rows may be cut and ordered in other ways: a table without a key has
//! no order, and one row less moves the borders of pieces. So rows are compared as a set ([`crate::flow::unordered`]).
//!
//! *Order.* [`sum_rows`] of both sides; when the sums differ, [`list_rows`] of both and [`name_rows`].
//! *Limits.* One row at a time, and what the sums and the listing take.

use super::super::layout::{Layout, Place};
use crate::{
    error::{Context, ExitCode, Failure},
    flow::{
        Entry, EntryStream, FlowResult,
        unordered::{Listing, Odd, Odds, Sums, Thing},
    },
    plain::of_bytes,
};

/// Bytes of a table's layout.
const LAYOUT_BYTES_MAX: usize = 16 << 20;
/// Characters of a key's column that are shown.
const FIELD_CHARS_SHOWN: usize = 80;
/// Bytes that one row may have.
const ROW_BYTES_MAX: usize = 2 << 30;

/// One side of a table.
#[derive(Default)]
pub struct TableSums {
    columns: Vec<String>,
    key_fields: Vec<usize>,
    has_key: bool,
    sums: Sums,
}

impl TableSums {
    /// Returns how many rows it has.
    pub fn rows(&self) -> u64 {
        self.sums.count()
    }

    /// Returns whether rows of both sides have the same columns, and so can be compared.
    pub fn is_comparable(&self, other: &Self) -> bool {
        self.columns == other.columns
    }

    /// Begins a listing of the rows that differ; `None` when all are equal.
    pub fn listing(&self, found: &Self) -> Option<Listing> {
        Listing::of(&self.sums, &found.sums)
    }
}

/// Which side a row is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// What was stored.
    Stored,
    /// What is there.
    Found,
}

/// Sums up the rows of a table. `like` is the other side, by whose key rows are told apart.
pub async fn sum_rows(
    entries: EntryStream,
    (db, table): (&str, &str),
    like: Option<&TableSums>,
) -> FlowResult<TableSums> {
    let at = Place { db: db.to_owned(), table: table.to_owned() };
    let mut all = TableSums::default();
    each(entries, &at, |layout, row| {
        if let Some(layout) = layout {
            all.columns = layout.columns.iter().map(|column| column.name.clone()).collect();
            all.key_fields = like.map_or_else(|| layout.key_fields(), |like| like.key_fields.clone());
            all.has_key = like.map_or(!layout.key.is_empty(), |like| like.has_key);
        }
        if let Some(row) = row {
            let row = Row::of(row, &all.key_fields);
            all.sums.add(&row.thing);
        }
    })
    .await?;
    Ok(all)
}

/// Lists the rows of buckets that differ. `key` is the stored side, by whose key rows are told apart.
pub async fn list_rows(
    entries: EntryStream,
    (db, table): (&str, &str),
    key: &TableSums,
    side: Side,
    listing: &mut Listing,
) -> FlowResult<()> {
    let at = Place { db: db.to_owned(), table: table.to_owned() };
    each(entries, &at, |_, row| {
        let Some(row) = row else { return };
        let row = Row::of(row, &key.key_fields);
        if listing.wants(&row.thing) {
            let (name, parts) = (row.name(key), row.parts());
            match side {
                Side::Stored => listing.stored(&row.thing, name, parts),
                Side::Found => listing.found(&row.thing, name, parts),
            }
        }
    })
    .await
}

/// What differs of a table's rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RowOdds {
    /// The first ones: `im.messages id=42 differs: body`.
    pub named: Vec<String>,
    /// How many there are.
    pub total: u64,
    /// Whether there may be more than that.
    pub is_open: bool,
}

/// Ends a listing.
pub fn name_rows((db, table): (&str, &str), key: &TableSums, listing: Listing, named_max: usize) -> RowOdds {
    let Odds { named, total, is_open } = listing.finish(named_max);
    let line = |odd: Odd| {
        let columns: Vec<&str> =
            odd.parts.iter().filter_map(|at| key.columns.get(*at)).map(String::as_str).collect();
        let columns = if columns.is_empty() { String::new() } else { format!(": {}", columns.join(", ")) };
        let at = format!("{db}.{table}").escape_debug().to_string();
        format!("{at} {} {}{columns}", odd.name, odd.oddity.verb())
    };
    RowOdds { named: named.into_iter().map(line).collect(), total, is_open }
}

/// A row, cut into its fields.
struct Row<'a> {
    fields: Vec<&'a [u8]>,
    thing: Thing,
}

impl<'a> Row<'a> {
    fn of(line: &'a [u8], key_fields: &[usize]) -> Self {
        let fields: Vec<&[u8]> = line.split(|byte| *byte == b'\t').collect();
        let key: Vec<&[u8]> = key_fields.iter().filter_map(|at| fields.get(*at).copied()).collect();
        let thing = Thing { key: Thing::key(&key), whole: Thing::key(&[line]) };
        Self { fields, thing }
    }

    fn name(&self, key: &TableSums) -> String {
        let named =
            key.key_fields.iter().filter_map(|at| Some((key.columns.get(*at)?, *self.fields.get(*at)?)));
        let pairs = named.map(|(column, field)| {
            // What is written with a backslash is an escape already.
            let text = of_bytes(field, FIELD_CHARS_SHOWN).replace("\\\\", "\\");
            format!("{}={text}", column.escape_debug())
        });
        let pairs: Vec<String> = pairs.collect();
        let text = pairs.join(" ");
        if key.has_key { text } else { format!("row ({text})") }
    }

    fn parts(&self) -> Vec<u64> {
        let part = |field: &&[u8]| {
            let digest = Thing::key(&[field]);
            let mut eight = [0; 8];
            eight.copy_from_slice(&digest[..8]);
            u64::from_le_bytes(eight)
        };
        self.fields.iter().map(part).collect()
    }
}

/// Shows the layout of a table and then its rows, without their line ends, to `visit`.
async fn each(
    mut entries: EntryStream,
    at: &Place,
    mut visit: impl FnMut(Option<&Layout>, Option<&[u8]>),
) -> FlowResult<()> {
    while let Some(mut entry) = entries.next().await? {
        let is_of_table =
            entry.meta.text("db") == Some(&at.db) && entry.meta.text("table") == Some(&at.table);
        match entry.meta.text("kind") {
            Some("layout") if is_of_table => {
                let json = entry.body.read_all(LAYOUT_BYTES_MAX).await?;
                let layout: Layout = serde_json::from_slice(&json)
                    .failed(ExitCode::Damage, || format!("the layout of table `{at}` cannot be read"))?;
                visit(Some(&layout), None);
            }
            Some("rows") if is_of_table => lines(&mut entry, |row| visit(None, Some(row))).await?,
            _ => while entry.body.next().await?.is_some() {},
        }
    }
    Ok(())
}

async fn lines(entry: &mut Entry, mut visit: impl FnMut(&[u8])) -> FlowResult<()> {
    let mut begun: Vec<u8> = Vec::new();
    while let Some(bytes) = entry.body.next().await? {
        let mut rest = &bytes[..];
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            if begun.is_empty() {
                visit(&rest[..end]);
            } else {
                begun.extend_from_slice(&rest[..end]);
                visit(&begun);
                begun.clear();
            }
            rest = &rest[end + 1..];
        }
        begun.extend_from_slice(rest);
        if begun.len() > ROW_BYTES_MAX {
            let what = format!("a row of entry `{}` is too long", entry.meta.path);
            return Err(Failure::new(ExitCode::Damage, what).into());
        }
    }
    if begun.is_empty() {
        return Ok(());
    }
    let what = format!("entry `{}` ends in the middle of a row", entry.meta.path);
    Err(Failure::new(ExitCode::Damage, what).into())
}

#[cfg(test)]
#[path = "rows_tests.rs"]
mod tests;
