//! Every object of a lab by its key, so that rows can be held against them.
//!
//! The book is an `SQLite` database in a temporary file that has no name: nobody else can open it, and it is gone with
//! the value or with the process, however that ends. `SQLite` makes it in `$SQLITE_TMPDIR`, `$TMPDIR` or `/var/tmp`.
//!
//! *Order.* Objects are noted first, each once; the first question sorts them.
//!
//! *Limits.* [`CACHE_KIB`] are in memory, whatever the number of objects and rows; the file takes about 300 bytes for
//! each object or row.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rusqlite::Connection;

use crate::{
    error::{Context, ExitCode, Failure, Result},
    flow::EntryMeta,
};

/// Memory that the database may use.
pub(super) const CACHE_KIB: i64 = 32 * 1024;
/// Rows that are written in one transaction.
const TRANSACTION_ROWS: u32 = 50_000;

const TABLES: &str = "
    CREATE TABLE objects (
        place INTEGER NOT NULL, key BLOB NOT NULL, size_bytes INTEGER NOT NULL, sha256 BLOB
    ) STRICT;
";

/// The objects of a lab: source, bucket, key and size of each, and the SHA-256 of those that were read.
pub struct ObjectBook {
    pages: Arc<Mutex<Pages>>,
}

/// The database and what is known of it.
pub(super) struct Pages {
    pub(super) connection: Connection,
    /// A number for each source and bucket.
    places: BTreeMap<(String, String), i64>,
    /// Rows that wait for their transaction's end.
    waiting: u32,
    is_sorted: bool,
    /// Whether there are objects whose bytes were not read.
    pub(super) has_unread: bool,
    /// Whether something could not be written: what is missing here would be taken for missing in the lab.
    is_torn: bool,
    /// Sources of which not every object was read: the same.
    unread: BTreeSet<String>,
}

impl ObjectBook {
    /// Makes an empty book.
    pub fn new() -> Result<Self> {
        let open = || -> rusqlite::Result<Connection> {
            // Without a name, the file is private and temporary.
            let connection = Connection::open("")?;
            connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
            connection.execute_batch(TABLES)?;
            Ok(connection)
        };
        let connection = open().map_err(trouble)?;
        let pages = Pages {
            connection,
            places: BTreeMap::new(),
            waiting: 0,
            is_sorted: false,
            has_unread: false,
            is_torn: false,
            unread: BTreeSet::new(),
        };
        Ok(Self { pages: Arc::new(Mutex::new(pages)) })
    }

    /// Notes that not every object of a source was read: what is not in the book may be there all the same.
    pub fn note_unread(&mut self, source: &str) {
        self.pages().unread.insert(source.to_owned());
    }

    /// Notes an object; each is noted once, all of them before the first question. `sha256` is hex, and empty when the
    /// bytes were not read.
    pub fn note(
        &mut self,
        source: &str,
        bucket: &str,
        key: &[u8],
        size_bytes: u64,
        sha256: &str,
    ) -> Result<()> {
        let hash = hex::decode(sha256).ok().filter(|hash| matches!(hash.len(), 0 | 32));
        let hash = hash.ok_or_else(|| {
            Failure::new(ExitCode::Failed, format!("`{sha256}` is no SHA-256 of an object of `{source}`"))
        })?;
        let hash = Some(hash).filter(|hash| !hash.is_empty());
        let mut pages = self.pages();
        assert!(!pages.is_sorted, "objects are noted before the first question");
        pages.has_unread |= hash.is_none();
        let place = pages.place_to_be(source, bucket);
        let size_bytes = i64::try_from(size_bytes).unwrap_or(i64::MAX);
        pages.write(
            "INSERT INTO objects VALUES (?1, ?2, ?3, ?4)",
            rusqlite::params![place, key, size_bytes, hash],
        )
    }

    /// Notes an entry of an object store, as [`crate::s3::S3Source`] sends it; what is no object (a bucket's own
    /// settings) is passed over.
    pub fn note_entry(
        &mut self,
        source: &str,
        meta: &EntryMeta,
        size_bytes: u64,
        sha256: &str,
    ) -> Result<()> {
        match (meta.text("bucket"), meta.text("key")) {
            (Some(bucket), Some(key)) => self.note(source, bucket, key.as_bytes(), size_bytes, sha256),
            _ => Ok(()),
        }
    }

    /// Returns the database.
    pub(super) fn pages(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does what takes long where it holds up nobody.
    pub(super) async fn think<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Pages) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let pages = Arc::clone(&self.pages);
        let thinking = tokio::task::spawn_blocking(move || {
            work(&mut pages.lock().unwrap_or_else(PoisonError::into_inner))
        });
        thinking.await.failed(ExitCode::Failed, || "a comparison broke off".to_owned())?
    }
}

impl Pages {
    /// Returns the number of a source's bucket, `None` when it has no object.
    pub(super) fn place(&self, source: &str, bucket: &str) -> Option<i64> {
        self.places.get(&(source.to_owned(), bucket.to_owned())).copied()
    }

    /// Fails when not every object of a source was read.
    pub(super) fn check_read(&self, source: &str) -> Result<()> {
        if self.unread.contains(source) {
            let what = format!("the objects of `{source}` could not all be read: none can be called missing");
            return Err(Failure::new(ExitCode::DrillNotRun, what));
        }
        Ok(())
    }

    fn place_to_be(&mut self, source: &str, bucket: &str) -> i64 {
        let next = i64::try_from(self.places.len()).unwrap_or(i64::MAX);
        *self.places.entry((source.to_owned(), bucket.to_owned())).or_insert(next)
    }

    /// Writes one row, in a transaction of many.
    pub(super) fn write(&mut self, sql: &str, values: impl rusqlite::Params) -> Result<()> {
        let write = || -> rusqlite::Result<()> {
            if self.waiting == 0 {
                self.connection.execute_batch("BEGIN")?;
            }
            self.connection.prepare_cached(sql)?.execute(values)?;
            Ok(())
        };
        if let Err(error) = write() {
            self.is_torn = true;
            return Err(trouble(error));
        }
        self.waiting += 1;
        if self.waiting >= TRANSACTION_ROWS { self.settle() } else { Ok(()) }
    }

    /// Ends the transaction of the rows that were written.
    pub(super) fn settle(&mut self) -> Result<()> {
        if self.waiting > 0 {
            self.waiting = 0;
            let settled = self.connection.execute_batch("COMMIT");
            self.is_torn |= settled.is_err();
            settled.map_err(trouble)?;
        }
        Ok(())
    }

    /// Sorts the objects, once. Fails when not all of them are there.
    pub(super) fn sort(&mut self) -> Result<()> {
        self.settle()?;
        if self.is_torn {
            let what = "the temporary file of a drill's comparisons is not whole: it failed before";
            return Err(Failure::new(ExitCode::Failed, what));
        }
        if !self.is_sorted {
            let sort = "CREATE UNIQUE INDEX objects_by_key ON objects (place, key)";
            self.connection.execute_batch(sort).map_err(trouble)?;
            self.is_sorted = true;
        }
        Ok(())
    }

    /// Makes tables anew.
    pub(super) fn renew(&mut self, tables: &str) -> Result<()> {
        self.settle()?;
        self.connection.execute_batch(tables).map_err(trouble)
    }
}

/// Returns the failure of the book's file.
pub(super) fn trouble(error: rusqlite::Error) -> Failure {
    Failure::new(ExitCode::Failed, "the temporary file of a drill's comparisons failed")
        .because(error)
        .hint("Set TMPDIR to a folder with room: about 300 bytes for each object and each row.")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{flow::Stage, names::EntryPath};

    const HASH: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn an_entry_of_an_object_store_is_noted_and_its_buckets_settings_are_not() {
        let mut book = ObjectBook::new().unwrap();
        let meta = EntryMeta::new(EntryPath::new("x").unwrap(), Stage::Data, "im-files");
        let object = meta.clone().with("bucket", "im-files").with("key", "2026/图 1.png");
        book.note_entry("minio", &object, 3, HASH).unwrap();
        book.note_entry("minio", &meta.with("bucket", "im-files").with("versioning", "Enabled"), 9, HASH)
            .unwrap();
        let mut pages = book.pages();
        pages.sort().unwrap();
        let place = pages.place("minio", "im-files").unwrap();
        assert_eq!((pages.place("minio", "other"), pages.place("other", "im-files")), (None, None));
        let read = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?));
        // One row and no more.
        let all: (i64, Vec<u8>, u64, Vec<u8>) = pages
            .connection
            .query_one("SELECT place, key, size_bytes, sha256 FROM objects", [], read)
            .unwrap();
        assert_eq!(all, (place, "2026/图 1.png".into(), 3, hex::decode(HASH).unwrap()));
    }

    #[test]
    fn an_object_that_was_not_read_is_noted_without_a_hash() {
        let mut book = ObjectBook::new().unwrap();
        book.note("minio", "b", b"read", 1, HASH).unwrap();
        assert!(!book.pages().has_unread);
        book.note("minio", "b", b"unread", 2, "").unwrap();
        let mut pages = book.pages();
        pages.sort().unwrap();
        assert!(pages.has_unread);
        let sql = "SELECT key, size_bytes FROM objects WHERE sha256 IS NULL";
        let unread: (Vec<u8>, u64) =
            pages.connection.query_one(sql, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        assert_eq!(unread, (b"unread".into(), 2));
    }

    #[test]
    fn what_is_no_sha_256_is_not_noted() {
        let mut book = ObjectBook::new().unwrap();
        let failure = book.note("minio", "b", b"k", 1, "d41d8cd98f00b204e9800998ecf8427e").unwrap_err();
        assert!(failure.to_string().contains("is no SHA-256"), "{failure}");
    }

    /// Sizes of the files without a name that this process has open.
    fn nameless_bytes() -> u64 {
        let open = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
        let temporary = open.filter(|link| {
            let to = std::fs::read_link(link.path()).unwrap_or_default();
            let to = to.to_string_lossy();
            to.ends_with(" (deleted)")
        });
        temporary.filter_map(|link| std::fs::metadata(link.path()).ok()).map(|file| file.len()).sum()
    }

    #[test]
    fn a_book_lies_in_a_file_without_a_name_and_not_in_memory() {
        let mut book = ObjectBook::new().unwrap();
        book.pages().connection.pragma_update(None, "cache_size", -512).unwrap();
        for n in 0..100_000_u32 {
            book.note("minio", "b", format!("2026/01/{n:060}").as_bytes(), 1, HASH).unwrap();
        }
        book.pages().sort().unwrap();
        assert!(nameless_bytes() > 15_000_000, "{} bytes", nameless_bytes());
        let before = nameless_bytes();
        drop(book);
        assert!(nameless_bytes() < before, "the file is gone with the book");
    }
}
