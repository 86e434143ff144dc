//! The rows of a reference beside the objects or keys that they name.
//!
//! *Order.* Rows are taken as the server sends them; then they are sorted; then both sides are walked by key.
//!
//! *Limits.* Rows lie in the [`ObjectBook`](super::ObjectBook)'s file. Of what does not fit, [`FINDINGS_MAX`] of each
//! kind are remembered and the rest is counted.

use std::collections::BTreeMap;

use globset::{Candidate, GlobMatcher};
use rusqlite::params;

use super::objects::{Pages, trouble};
use crate::{
    drill::FINDINGS_MAX,
    error::{ExitCode, Failure, Result},
    mysql::Answer,
    plain,
};

const ROWS: &str = "
    DROP TABLE IF EXISTS found; DROP TABLE IF EXISTS rows; DROP TABLE IF EXISTS absent;
    CREATE TABLE rows (key BLOB NOT NULL, sha256 BLOB, size_bytes INTEGER) STRICT;
    CREATE TABLE found (key BLOB NOT NULL) STRICT;
    CREATE TABLE absent (
        key BLOB PRIMARY KEY, rows INTEGER NOT NULL, is_expired INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
";
/// All columns are in the index, so that walking it never jumps to the table.
const SORTED: &str = "CREATE INDEX rows_by_key ON rows (key, sha256, size_bytes);";
const FOUND_SORTED: &str = "CREATE INDEX found_by_key ON found (key);";
/// Rows that differ from their object, in the order of their keys.
pub(super) const DIFFERENT: &str = "
    SELECT r.key, r.sha256, r.size_bytes, o.sha256, o.size_bytes
    FROM rows r LEFT JOIN objects o ON o.place = ?1 AND o.key = r.key
    WHERE o.key IS NULL OR r.sha256 <> o.sha256 OR r.size_bytes <> o.size_bytes
    ORDER BY r.key";
/// Rows with a SHA-256 whose object's bytes were read, and those whose object's were not.
pub(super) const READ: &str = "
    SELECT count(o.sha256), count(*) - count(o.sha256)
    FROM rows r JOIN objects o ON o.place = ?1 AND o.key = r.key WHERE r.sha256 IS NOT NULL";
/// Each object of a bucket, and whether a row names it.
pub(super) const OBJECTS: &str = "
    SELECT o.key, EXISTS (SELECT 1 FROM rows r WHERE r.key = o.key)
    FROM objects o WHERE o.place = ?1 ORDER BY o.key";
/// The same of keys that were walked; a walk may bring one twice.
const FOUND: &str = "
    SELECT DISTINCT o.key, EXISTS (SELECT 1 FROM rows r WHERE r.key = o.key) FROM found o ORDER BY o.key";
/// Characters of a key that are shown.
const SHOWN_CHARS_MAX: usize = 300;

/// What can be wrong with a row or an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fault {
    /// A row has no object.
    Missing,
    /// A row's object has another SHA-256.
    Hash,
    /// A row's object has another size.
    Size,
    /// A row's second or third column cannot be compared.
    Incomparable,
    /// An object has no row.
    Orphan,
}

/// What the rows of one query came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// Rows.
    pub(super) rows: u64,
    /// Rows that name nothing.
    pub(super) nameless: u64,
    /// Rows whose SHA-256 was held against that of their object.
    pub(super) hashes: u64,
    /// Rows whose SHA-256 was not, because the bytes of their object were not read.
    pub(super) unread: u64,
    /// Rows of which the key has expired since the snapshot.
    pub(super) expired: u64,
    /// Objects or keys that must have a row; `None` when nobody looked.
    pub(super) objects: Option<u64>,
    faults: BTreeMap<Fault, (u64, Vec<String>)>,
}

impl Tally {
    /// Returns how many faults of a kind there are.
    pub(super) fn count(&self, fault: Fault) -> u64 {
        self.faults.get(&fault).map_or(0, |(count, _)| *count)
    }

    /// Returns rows that name something.
    pub(super) fn named(&self) -> u64 {
        self.rows - self.nameless
    }

    /// Returns the texts of some faults: of each kind the first ones, and a fair share of each.
    pub(super) fn texts(&self, kinds: &[Fault]) -> Vec<String> {
        let mut lists: Vec<Vec<String>> =
            kinds.iter().filter_map(|kind| Some(self.faults.get(kind)?.1.clone())).collect();
        while lists.iter().map(Vec::len).sum::<usize>() > FINDINGS_MAX {
            if let Some(longest) = lists.iter_mut().max_by_key(|list| list.len()) {
                longest.pop();
            }
        }
        lists.concat()
    }

    pub(super) fn add(&mut self, fault: Fault, count: u64, text: impl FnOnce() -> String) {
        let (so_far, texts) = self.faults.entry(fault).or_default();
        *so_far += count;
        if texts.len() < FINDINGS_MAX {
            texts.push(text());
        }
    }
}

/// Where rows point to.
#[derive(Clone, Debug)]
pub(super) struct Names {
    /// What stands before a key: `im-files/`, or nothing for keys of Redis.
    pub(super) before: String,
    /// What it is called: `object`, `key`.
    pub(super) thing: &'static str,
    /// What rows have before the key.
    pub(super) strip_prefix: Option<String>,
    /// Columns that mean something.
    pub(super) columns_max: usize,
}

impl Names {
    /// Returns a key as people read it.
    pub(super) fn show(&self, key: &[u8]) -> String {
        format!("`{}{}`", self.before, shown(key))
    }

    /// Begins to take rows.
    pub(super) fn begin(pages: &mut Pages) -> Result<()> {
        pages.sort()?;
        pages.renew(ROWS)
    }

    /// Takes a row.
    pub(super) fn take(&self, pages: &mut Pages, tally: &mut Tally, row: &Answer) -> Result<()> {
        if row.len() > self.columns_max {
            return Err(self.too_many_columns(row.len()));
        }
        tally.rows += 1;
        let Some(name) = row.first().and_then(Option::as_deref).filter(|name| !name.is_empty()) else {
            tally.nameless += 1;
            return Ok(());
        };
        let prefix = self.strip_prefix.as_deref().unwrap_or_default();
        let key = match name.strip_prefix(prefix.as_bytes()) {
            Some([]) => {
                let text = || format!("row `{}` has nothing behind `{prefix}`", shown(name));
                tally.add(Fault::Missing, 1, text);
                return Ok(());
            }
            None => {
                let text = || format!("row `{}` does not begin with `{prefix}`", shown(name));
                tally.add(Fault::Missing, 1, text);
                return Ok(());
            }
            Some(key) => key,
        };
        let hash = self.column(tally, row, (1, key), read_sha256);
        let size = self.column(tally, row, (2, key), read_size_bytes);
        pages.write("INSERT INTO rows VALUES (?1, ?2, ?3)", params![key, hash, size])
    }

    /// Reads a further column; NULL and nothing say nothing.
    fn column<T>(
        &self,
        tally: &mut Tally,
        row: &Answer,
        (at, key): (usize, &[u8]),
        read: fn(&str) -> Result<T, &'static str>,
    ) -> Option<T> {
        let text = row.get(at)?.as_deref().filter(|value| !value.is_empty())?;
        let value = std::str::from_utf8(text).map_err(|_| "which is no text").and_then(read);
        let tell = |why| {
            tally.add(Fault::Incomparable, 1, || {
                format!("row {} says `{}`, {why}", self.show(key), shown(text))
            });
        };
        value.map_err(tell).ok()
    }

    fn too_many_columns(&self, count: usize) -> Failure {
        let known = match self.columns_max {
            1 => "one: the key",
            _ => "three at most: the key, the SHA-256 as hex, and the size in bytes",
        };
        Failure::new(ExitCode::Usage, format!("the query returns {count} columns; a reference has {known}"))
    }
}

fn read_sha256(text: &str) -> Result<Vec<u8>, &'static str> {
    match hex::decode(text) {
        Ok(hash) if hash.len() == 32 => Ok(hash),
        Ok(hash) if hash.len() == 16 => Err("which has the length of an MD5: a SHA-256 has 64 digits"),
        _ => Err("which is no SHA-256 as hex"),
    }
}

fn read_size_bytes(text: &str) -> Result<i64, &'static str> {
    let size = text.parse::<u64>().map_err(|_| "which is no number of bytes")?;
    Ok(i64::try_from(size).unwrap_or(i64::MAX))
}

/// Sorts the rows that were taken.
pub(super) fn sort(pages: &mut Pages) -> Result<()> {
    pages.renew(SORTED)
}

/// Holds each row against its object; `place` is that of the bucket, `None` for one without objects.
pub(super) fn hold(pages: &Pages, place: Option<i64>, names: &Names, tally: &mut Tally) -> Result<()> {
    let mut walk = || -> rusqlite::Result<()> {
        let mut statement = pages.connection.prepare(DIFFERENT)?;
        let mut rows = statement.query(params![place])?;
        while let Some(row) = rows.next()? {
            let key = names.show(row.get_ref(0)?.as_blob()?);
            let (says, size): (Option<Vec<u8>>, Option<i64>) = (row.get(1)?, row.get(2)?);
            let (has, has_size): (Option<Vec<u8>>, Option<i64>) = (row.get(3)?, row.get(4)?);
            let Some(has_size) = has_size else {
                tally.add(Fault::Missing, 1, || format!("row {key} has no {}", names.thing));
                continue;
            };
            // What was not read has no hash, which is not another one.
            if let (Some(says), Some(has)) = (says, has)
                && says != has
            {
                tally.add(Fault::Hash, 1, || {
                    let (says, has) = (hex::encode(says), hex::encode(has));
                    format!("object {key} has another SHA-256: row says {says}, object has {has}")
                });
            }
            if let Some(size) = size.filter(|size| *size != has_size) {
                tally.add(Fault::Size, 1, || {
                    format!("object {key} has another size: row says {size} bytes, object has {has_size}")
                });
            }
        }
        if pages.has_unread {
            let counts = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?));
            (tally.hashes, tally.unread) = pages.connection.query_row(READ, params![place], counts)?;
        }
        Ok(())
    };
    walk().map_err(trouble)
}

/// Looks for objects of a bucket that no row names.
pub(super) fn orphans(
    pages: &Pages,
    place: Option<i64>,
    glob: Option<&GlobMatcher>,
    names: &Names,
    tally: &mut Tally,
) -> Result<()> {
    unnamed(pages, OBJECTS, params![place], glob, names, tally)
}

/// Remembers a key that a walk brought.
pub(super) fn found(pages: &mut Pages, key: &[u8]) -> Result<()> {
    pages.write("INSERT INTO found VALUES (?1)", params![key])
}

/// Looks for keys of a walk that no row names.
pub(super) fn orphan_keys(pages: &mut Pages, names: &Names, tally: &mut Tally) -> Result<()> {
    pages.renew(FOUND_SORTED)?;
    unnamed(pages, FOUND, params![], None, names, tally)
}

fn unnamed(
    pages: &Pages,
    sql: &str,
    values: impl rusqlite::Params,
    glob: Option<&GlobMatcher>,
    names: &Names,
    tally: &mut Tally,
) -> Result<()> {
    let walk = || -> rusqlite::Result<u64> {
        let mut statement = pages.connection.prepare(sql)?;
        let mut rows = statement.query(values)?;
        let mut count = 0;
        while let Some(row) = rows.next()? {
            let key = row.get_ref(0)?.as_blob()?;
            if !glob.is_none_or(|glob| matches(glob, key)) {
                continue;
            }
            count += 1;
            if !row.get::<_, bool>(1)? {
                tally.add(Fault::Orphan, 1, || format!("{} {} has no row", names.thing, names.show(key)));
            }
        }
        Ok(count)
    };
    let count = walk().map_err(trouble)?;
    tally.objects = Some(count);
    Ok(())
}

/// Returns the next keys that rows name behind `after`, each with how many rows name it.
pub(super) fn next_keys(pages: &Pages, after: &[u8], count: usize) -> Result<Vec<(Vec<u8>, u64)>> {
    let sql = "SELECT key, count(*) FROM rows WHERE key > ?1 GROUP BY key ORDER BY key LIMIT ?2";
    let read = || -> rusqlite::Result<Vec<(Vec<u8>, u64)>> {
        let mut statement = pages.connection.prepare_cached(sql)?;
        let rows = statement.query_map(params![after, count], |row| Ok((row.get(0)?, row.get(1)?)))?;
        rows.collect()
    };
    read().map_err(trouble)
}

/// Remembers a key that so many rows name and that is not there.
pub(super) fn absent(pages: &mut Pages, key: &[u8], rows: u64) -> Result<()> {
    pages.write("INSERT INTO absent VALUES (?1, ?2, FALSE)", params![key, rows])
}

/// Returns whether a key was remembered as not there.
pub(super) fn are_absent(pages: &Pages) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM absent)";
    pages.connection.query_row(sql, [], |row| row.get(0)).map_err(trouble)
}

/// Notes that a key has expired since the snapshot; of those that are there, nothing is noted.
pub(super) fn expired(pages: &mut Pages, key: &[u8]) -> Result<()> {
    pages.write("UPDATE absent SET is_expired = TRUE WHERE key = ?1", params![key])
}

/// Counts the keys that are not there: what has expired is not missing.
pub(super) fn count_absent(pages: &Pages, names: &Names, tally: &mut Tally) -> Result<()> {
    let mut walk = || -> rusqlite::Result<()> {
        let mut statement = pages.connection.prepare("SELECT * FROM absent ORDER BY key")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let (key, count) = (row.get_ref(0)?.as_blob()?, row.get(1)?);
            if row.get(2)? {
                tally.expired += count;
            } else {
                tally.add(Fault::Missing, count, || format!("row {} has no key", names.show(key)));
            }
        }
        Ok(())
    };
    walk().map_err(trouble)
}

/// Returns whether a glob of the policy matches a key, whatever bytes it has.
pub(super) fn matches(glob: &GlobMatcher, key: &[u8]) -> bool {
    glob.is_match_candidate(&Candidate::from_bytes(key))
}

/// Returns a key, or a column, as people read it.
pub(super) fn shown(bytes: &[u8]) -> String {
    plain::of_bytes(bytes, SHOWN_CHARS_MAX)
}
