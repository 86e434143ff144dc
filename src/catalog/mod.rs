//! The local memory of a host: which chunks are in which packs, and what ran when. `SQLite`, one file.
//!
//! Never the truth: the store is. A catalog that is lost or broken is made again from the store
//! ([`Catalog::open`] sets a broken file aside); nothing is decided by it that the store could contradict.
//!
//! *Order.* A pack and its chunks are taken in with the index object they come from, in one transaction.
//! *Crash.* `SQLite` rolls back what was not committed; the index object is then simply read again.

mod chunks;
mod packs;
mod runs;
mod seen;

use std::{
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rusqlite::Connection;

pub use self::{
    chunks::{ChunkAt, ChunkRow, FrameRow, PackRow, TrustedPacks},
    packs::Avoided,
    runs::{Run, RunEnd},
};
use crate::error::{Context, ExitCode, Failure, Result};

/// The version of the tables. A file of another version is set aside and made again.
const VERSION: i32 = 4;
/// How long one process waits for another that writes.
const BUSY_WAIT: Duration = Duration::from_secs(30);

const TABLES: &str = "
    CREATE TABLE origins (key TEXT PRIMARY KEY) STRICT, WITHOUT ROWID;
    CREATE TABLE packs (
        n INTEGER PRIMARY KEY, id BLOB NOT NULL UNIQUE, size_bytes INTEGER NOT NULL,
        payload_offset INTEGER NOT NULL, kind TEXT NOT NULL, writer TEXT NOT NULL,
        config INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE avoided (id BLOB PRIMARY KEY, why TEXT NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE reads (id BLOB PRIMARY KEY, at TEXT NOT NULL, opened INTEGER NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE configs (repository TEXT PRIMARY KEY, revision INTEGER NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE heads (
        repository TEXT NOT NULL, signer TEXT NOT NULL, seq INTEGER NOT NULL, refs BLOB NOT NULL,
        PRIMARY KEY (repository, signer)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE tellings (
        pack BLOB NOT NULL, size_bytes INTEGER NOT NULL,
        origin TEXT NOT NULL REFERENCES origins ON DELETE CASCADE,
        PRIMARY KEY (pack, origin)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX tellings_by_origin ON tellings (origin);
    CREATE TABLE frames (
        pack INTEGER NOT NULL REFERENCES packs ON DELETE CASCADE, frame INTEGER NOT NULL,
        offset INTEGER NOT NULL, size_bytes INTEGER NOT NULL, plain_bytes INTEGER NOT NULL,
        PRIMARY KEY (pack, frame)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE chunks (
        id BLOB NOT NULL, pack INTEGER NOT NULL REFERENCES packs ON DELETE CASCADE,
        frame INTEGER NOT NULL, offset INTEGER NOT NULL, size_bytes INTEGER NOT NULL,
        PRIMARY KEY (id, pack)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX chunks_by_pack ON chunks (pack);
    CREATE TABLE runs (
        n INTEGER PRIMARY KEY, verb TEXT NOT NULL, began TEXT NOT NULL, ended TEXT,
        exit INTEGER, snapshot TEXT, added_bytes INTEGER, message TEXT
    ) STRICT;
";

/// The open catalog.
pub struct Catalog {
    connection: Mutex<Connection>,
    path: Option<PathBuf>,
}

impl Catalog {
    /// Opens the catalog at `path`, making it when there is none. A file that is no catalog of this version,
    /// or that `SQLite` finds broken, is renamed to `….broken` and made again; the second value tells so.
    pub fn open(path: &Path) -> Result<(Self, bool)> {
        if let Some(folder) = path.parent() {
            let what = || format!("folder `{}` for the catalog cannot be made", folder.display());
            std::fs::create_dir_all(folder).failed(ExitCode::Failed, what)?;
        }
        let open = || -> rusqlite::Result<Connection> {
            let connection = Connection::open(path)?;
            prepare(&connection)?;
            Ok(connection)
        };
        let cannot = || format!("catalog `{}` cannot be opened", path.display());
        let (connection, was_broken) = match open() {
            Ok(connection) => (connection, false),
            Err(error) if is_broken(&error) => {
                set_aside(path)?;
                (open().failed(ExitCode::Failed, cannot)?, true)
            }
            Err(error) => {
                return Err(Failure::new(ExitCode::Failed, cannot())
                    .because(error)
                    .hint("Set state_dir in the policy to a folder that this user may write."));
            }
        };
        Ok((Self { connection: Mutex::new(connection), path: Some(path.to_owned()) }, was_broken))
    }

    /// Opens a catalog that lives in memory, for a host that only restores.
    pub fn in_memory() -> Result<Self> {
        let cannot = || "a catalog in memory cannot be made".to_owned();
        let connection = Connection::open_in_memory().failed(ExitCode::Failed, cannot)?;
        prepare(&connection).failed(ExitCode::Failed, cannot)?;
        Ok(Self { connection: Mutex::new(connection), path: None })
    }

    /// Forgets all that the store knows better; runs are kept, unless the file is too broken for that: then
    /// it is set aside like one that cannot be opened.
    pub fn clear_index(&self) -> Result<()> {
        let clear = "BEGIN; DELETE FROM tellings; DELETE FROM chunks; DELETE FROM frames; DELETE FROM packs;
            DELETE FROM origins; COMMIT; VACUUM;";
        let mut connection = self.connection();
        let cleared = connection.execute_batch(clear);
        match (cleared, &self.path) {
            (Err(error), Some(path)) if is_broken(&error) => {
                set_aside(path)?;
                let made = Connection::open(path).and_then(|made| prepare(&made).map(|()| made));
                *connection = made.map_err(|error| self.trouble(error))?;
                Ok(())
            }
            (cleared, _) => cleared.map_err(|error| self.trouble(error)),
        }
    }

    /// Returns where the catalog is, if it is a file.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn trouble(&self, error: rusqlite::Error) -> Failure {
        let (what, hint) = match &self.path {
            Some(path) if is_broken(&error) => (
                format!("catalog `{}` is broken", path.display()),
                "Make it again from the repository with `lifeboat catalog rebuild`; no snapshot is harmed.",
            ),
            Some(path) => (
                format!("catalog `{}` failed", path.display()),
                "Check that state_dir of the policy has room and that this user may write there.",
            ),
            None => ("the catalog in memory failed".to_owned(), "Run it again."),
        };
        Failure::new(ExitCode::Failed, what).because(error).hint(hint)
    }
}

fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY_WAIT)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    // The store is the truth: losing the last transaction in a power cut costs a second reading of an index.
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    match connection.pragma_query_value(None, "user_version", |row| row.get::<_, i32>(0))? {
        0 => connection.execute_batch(&format!("BEGIN; {TABLES} PRAGMA user_version = {VERSION}; COMMIT;")),
        VERSION => connection.query_row("SELECT count(*) FROM origins", [], |_| Ok(())),
        _ => Err(rusqlite::Error::InvalidQuery),
    }
}

/// Tells a file that is no catalog from trouble around it, such as a missing permission.
fn is_broken(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase, Unknown};
    match error {
        rusqlite::Error::InvalidQuery => true,
        other => matches!(other.sqlite_error_code(), Some(DatabaseCorrupt | NotADatabase | Unknown)),
    }
}

fn set_aside(path: &Path) -> Result<()> {
    let aside = path.with_extension("sqlite.broken");
    let what = || format!("broken catalog `{}` cannot be set aside", path.display());
    std::fs::rename(path, &aside).failed(ExitCode::Failed, what)?;
    for suffix in ["-wal", "-shm"] {
        let mut beside = path.as_os_str().to_owned();
        beside.push(suffix);
        // They belong to the file that was set aside; most often there are none.
        let _ = std::fs::remove_file(PathBuf::from(beside));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_catalog_is_set_aside_and_made_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/catalog.sqlite");
        assert!(!Catalog::open(&path).unwrap().1);
        assert!(!Catalog::open(&path).unwrap().1);
        std::fs::write(&path, b"this is not a database, it is a poem of sufficient length ".repeat(20))
            .unwrap();
        assert!(Catalog::open(&path).unwrap().1);
        assert!(path.with_extension("sqlite.broken").exists());
        assert!(!Catalog::open(&path).unwrap().1);
    }

    #[test]
    fn a_catalog_of_another_version_is_made_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("catalog.sqlite");
        Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
        assert!(Catalog::open(&path).unwrap().1);
    }
}
