//! The local memory of a host: which chunks are in which packs, and what ran when. `SQLite`, one file.
//!
//! Never the truth: the store is. A catalog that is lost or broken is made again from the store
//! ([`Catalog::open`] sets a broken file aside); nothing is decided by it that the store could contradict.
//!
//! *Order.* A pack and its chunks are taken in with the index object they come from, in one transaction.
//! *Crash.* `SQLite` rolls back what was not committed; the index object is then simply read again.

mod chunks;
mod drills;
mod incidents;
mod messages;
mod observations;
mod packs;
mod runs;
mod seen;
mod slots;

use std::{
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use chrono::{DateTime, SecondsFormat, Utc};
use rusqlite::{
    Connection, Row,
    config::DbConfig,
    types::{Type, ValueRef},
};

pub use self::{
    chunks::{ChunkAt, ChunkRow, FrameRow, PackRow, TrustedPacks},
    drills::Drilled,
    messages::{Delivery, Due},
    packs::Avoided,
    runs::{Count, Run, RunEnd},
    slots::{Slot, SlotState},
};
use crate::error::{Context, ExitCode, Failure, Result};

/// The version of the first tables that are still brought up to date. An older file is set aside.
const VERSION_MIN: i32 = 4;
/// How long one process waits for another that writes.
const BUSY_WAIT: Duration = Duration::from_secs(30);

/// The tables of [`VERSION_MIN`].
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

/// What made each later version out of the one before. A step that was shipped is never changed.
const MIGRATIONS: [&str; 6] = ["
    ALTER TABLE runs ADD COLUMN place TEXT;
    ALTER TABLE runs ADD COLUMN attempt INTEGER NOT NULL DEFAULT 1;
    ALTER TABLE runs ADD COLUMN hint TEXT;
    CREATE INDEX runs_by_verb ON runs (verb, place, n);
    CREATE TABLE counts (
        run INTEGER NOT NULL REFERENCES runs ON DELETE CASCADE, about TEXT NOT NULL, what TEXT NOT NULL,
        value INTEGER NOT NULL, PRIMARY KEY (run, about, what)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE slots (
        verb TEXT NOT NULL, place TEXT NOT NULL, expected TEXT NOT NULL, state TEXT NOT NULL,
        is_late INTEGER NOT NULL, changed TEXT NOT NULL, PRIMARY KEY (verb, place, expected)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE incidents (
        n INTEGER PRIMARY KEY, kind TEXT NOT NULL, about TEXT NOT NULL, urgency TEXT NOT NULL,
        what TEXT NOT NULL, hint TEXT, opened TEXT NOT NULL, reminders INTEGER NOT NULL, told TEXT NOT NULL,
        resolved TEXT, acknowledged TEXT, muted_until TEXT
    ) STRICT;
    CREATE UNIQUE INDEX incidents_open ON incidents (kind, about) WHERE resolved IS NULL;
    CREATE TABLE observations (key TEXT PRIMARY KEY, at TEXT NOT NULL, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE messages (n INTEGER PRIMARY KEY, at TEXT NOT NULL, body TEXT NOT NULL) STRICT;
    CREATE TABLE deliveries (
        message INTEGER NOT NULL REFERENCES messages ON DELETE CASCADE, channel TEXT NOT NULL,
        not_before TEXT NOT NULL, tries INTEGER NOT NULL, sent TEXT, gave_up TEXT, error TEXT,
        PRIMARY KEY (message, channel)
    ) STRICT, WITHOUT ROWID;
", "
    ALTER TABLE runs ADD COLUMN is_part INTEGER NOT NULL DEFAULT 0;
", "
    ALTER TABLE runs ADD COLUMN is_frozen INTEGER NOT NULL DEFAULT 0;
", "
    CREATE TABLE drills (
        n INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, way TEXT NOT NULL, place TEXT NOT NULL,
        snapshot TEXT NOT NULL, began TEXT NOT NULL, ended TEXT NOT NULL, outcome TEXT NOT NULL,
        is_only_slow INTEGER NOT NULL, rto_seconds REAL, objective_seconds INTEGER, held INTEGER NOT NULL,
        failed INTEGER NOT NULL, unasked INTEGER NOT NULL, size_bytes INTEGER NOT NULL, files TEXT,
        report TEXT NOT NULL
    ) STRICT;
    CREATE INDEX drills_by_way ON drills (way, n);
", "
    ALTER TABLE incidents ADD COLUMN drill INTEGER;
    ALTER TABLE drills ADD COLUMN trouble TEXT;
    ALTER TABLE drills ADD COLUMN is_settled INTEGER NOT NULL DEFAULT 0;
", "
    CREATE TABLE drills_anew (
        n INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, way TEXT NOT NULL, place TEXT NOT NULL,
        snapshot TEXT NOT NULL, began TEXT NOT NULL, ended TEXT NOT NULL, outcome TEXT NOT NULL,
        is_only_slow INTEGER NOT NULL, rto_seconds REAL, objective_seconds INTEGER, held INTEGER NOT NULL,
        failed INTEGER NOT NULL, unasked INTEGER NOT NULL, size_bytes INTEGER NOT NULL, files TEXT,
        report TEXT NOT NULL, trouble TEXT, is_settled INTEGER NOT NULL DEFAULT 0, sources TEXT
    ) STRICT;
    INSERT INTO drills_anew
        SELECT n, id, way, place, snapshot, began, ended, outcome, is_only_slow, rto_seconds, objective_seconds,
            held, failed, unasked, size_bytes, files, report, trouble, is_settled, NULL FROM drills;
    DELETE FROM sqlite_sequence WHERE name = 'drills_anew';
    INSERT INTO sqlite_sequence SELECT 'drills_anew',
        max((SELECT coalesce(max(n), 0) FROM drills), (SELECT coalesce(max(drill), 0) FROM incidents));
    DROP TABLE drills;
    ALTER TABLE drills_anew RENAME TO drills;
    CREATE INDEX drills_by_way ON drills (way, n);
"];

/// The open catalog.
pub struct Catalog {
    connection: Mutex<Connection>,
    path: Option<PathBuf>,
    /// Which file it is, whatever lies at the path later.
    file: Mutex<Option<(u64, u64)>>,
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
        let file = Mutex::new(identity_of(path));
        Ok((Self { connection: Mutex::new(connection), path: Some(path.to_owned()), file }, was_broken))
    }

    /// Opens a catalog that lives in memory, for a host that only restores.
    pub fn in_memory() -> Result<Self> {
        let cannot = || "a catalog in memory cannot be made".to_owned();
        let connection = Connection::open_in_memory().failed(ExitCode::Failed, cannot)?;
        prepare(&connection).failed(ExitCode::Failed, cannot)?;
        Ok(Self { connection: Mutex::new(connection), path: None, file: Mutex::default() })
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
                *self.file.lock().unwrap_or_else(PoisonError::into_inner) = identity_of(path);
                Ok(())
            }
            (cleared, _) => cleared.map_err(|error| self.trouble(error)),
        }
    }

    /// Returns whether the file that is open is not the one that lies at the path any more: another process found it
    /// broken and made it again, or somebody tidied up. For who holds a catalog open for weeks.
    pub fn is_displaced(&self) -> bool {
        let Some(path) = &self.path else { return false };
        *self.file.lock().unwrap_or_else(PoisonError::into_inner) != identity_of(path)
    }

    /// Looks whether the file is still the one at its path and whole, and opens or makes it again if not; returns
    /// whether it had to.
    pub fn heal(&self) -> Result<bool> {
        let Some(path) = &self.path else { return Ok(false) };
        let is_displaced = self.is_displaced();
        let mut connection = self.connection();
        let check = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0));
        let is_whole = match check {
            Ok(word) => word == "ok",
            Err(error) if is_broken(&error) => false,
            Err(error) => return Err(self.trouble(error)),
        };
        if !is_displaced && is_whole {
            return Ok(false);
        }
        if !is_displaced {
            set_aside(path)?;
        }
        let (made, _) = Self::open(path)?;
        *connection = made.connection.into_inner().unwrap_or_else(PoisonError::into_inner);
        *self.file.lock().unwrap_or_else(PoisonError::into_inner) = identity_of(path);
        Ok(true)
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
    // Plans do not depend on what is bound: otherwise a question is planned anew each time that its values change,
    // and a backup asks it once for each chunk.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    migrate(connection)?;
    connection.query_row("SELECT count(*) FROM origins", [], |_| Ok(()))
}

/// Brings the tables up to date, a version after the other. Each step is whole or not there; of two processes that
/// open one old file the second finds it done.
fn migrate(connection: &Connection) -> rusqlite::Result<()> {
    loop {
        let version = connection.pragma_query_value(None, "user_version", |row| row.get::<_, i32>(0))?;
        let step = usize::try_from(version - VERSION_MIN).ok();
        let (tables, next) = match (version, step) {
            (0, _) => (TABLES, VERSION_MIN),
            (_, Some(step)) if step == MIGRATIONS.len() => return Ok(()),
            (_, Some(step)) if step < MIGRATIONS.len() => (MIGRATIONS[step], version + 1),
            _ => return Err(rusqlite::Error::InvalidQuery),
        };
        connection.execute_batch("BEGIN IMMEDIATE")?;
        let still = connection.pragma_query_value(None, "user_version", |row| row.get::<_, i32>(0));
        let done = still.and_then(|still| {
            if still != version {
                return Ok(());
            }
            connection.execute_batch(&format!("{tables} PRAGMA user_version = {next};"))
        });
        connection.execute_batch(if done.is_ok() { "COMMIT" } else { "ROLLBACK" })?;
        done?;
    }
}

/// Writes an instant so that texts sort as instants do.
fn text_of(instant: DateTime<Utc>) -> String {
    instant.to_rfc3339_opts(SecondsFormat::Micros, true)
}

/// Reads an instant that [`text_of`] wrote, or an older version.
fn instant(row: &Row<'_>, column: usize) -> rusqlite::Result<DateTime<Utc>> {
    let text: String = row.get(column)?;
    DateTime::parse_from_rfc3339(&text)
        .map(|instant| instant.to_utc())
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(error)))
}

/// As [`instant`], of a column that may be empty.
fn maybe_instant(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<DateTime<Utc>>> {
    match row.get_ref(column)? {
        ValueRef::Null => Ok(None),
        _ => instant(row, column).map(Some),
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

/// Returns what tells a file from another that takes its place.
fn identity_of(path: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
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
    use crate::names::{Job, Task};

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
    fn a_catalog_of_the_version_before_keeps_what_it_knows() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("catalog.sqlite");
        let old = Connection::open(&path).unwrap();
        old.execute_batch(&format!("{TABLES} PRAGMA user_version = {VERSION_MIN};")).unwrap();
        old.execute_batch(
            "INSERT INTO runs (verb, began, ended, exit, added_bytes)
             VALUES ('backup', '2026-10-11T02:00:00+00:00', '2026-10-11T02:01:00+00:00', 0, 7);
             INSERT INTO origins VALUES ('index/a');",
        )
        .unwrap();
        drop(old);
        let (catalog, was_broken) = Catalog::open(&path).unwrap();
        assert!(!was_broken);
        let run = &catalog.runs(1).unwrap()[0];
        assert_eq!((run.task.clone(), run.attempt), (Task::of(Job::Backup), 1));
        assert_eq!(run.end.as_ref().unwrap().added_bytes, 7);
        let origins =
            |c: &Connection| c.query_row("SELECT count(*) FROM origins", [], |r| r.get::<_, i64>(0));
        assert_eq!(origins(&catalog.connection()).unwrap(), 1);
    }

    #[test]
    fn drills_that_were_known_keep_their_numbers_and_later_ones_have_greater_ones_than_any_that_was_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("catalog.sqlite");
        let old = Connection::open(&path).unwrap();
        let steps = MIGRATIONS[..5].concat();
        old.execute_batch(&format!("{TABLES} {steps} PRAGMA user_version = {};", VERSION_MIN + 5)).unwrap();
        old.execute_batch(
            "INSERT INTO drills (n, id, way, place, snapshot, began, ended, outcome, is_only_slow, held, failed, unasked,
                 size_bytes, report, is_settled)
             VALUES (3, '20261011T020000Z-0007', 'restore', 'oss', '20261010T020000Z-0001', '2026-10-11T02:00:00+00:00',
                 '2026-10-11T02:01:00+00:00', 'failed', 0, 1, 1, 0, 7, '', 1);
             INSERT INTO incidents (kind, about, urgency, what, opened, reminders, told, drill)
             VALUES ('drill', 'drill', 'page', 'it failed', '2026-10-11T02:01:00+00:00', 0, '2026-10-11T02:01:00+00:00', 9);",
        )
        .unwrap();
        drop(old);
        let (catalog, was_broken) = Catalog::open(&path).unwrap();
        assert!(!was_broken);
        let known = catalog.last_drill(crate::drill::Way::Restore).unwrap().unwrap();
        assert_eq!((known.number, &*known.from), (3, "oss"));
        assert_eq!(catalog.unanswered_drills(known.way).unwrap(), [], "it is settled still");
        let later = Drilled { id: crate::names::SnapshotId::at(known.ended, 9), ..known };
        assert!(catalog.learn_drill(&later).unwrap());
        assert_eq!(catalog.unanswered_drills(later.way).unwrap()[0].number, 10);
    }

    #[test]
    fn a_catalog_that_goes_or_is_replaced_while_it_is_open_is_opened_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("catalog.sqlite");
        let (catalog, _) = Catalog::open(&path).unwrap();
        let run = || catalog.begin_run(&Task::of(Job::Backup), 1, DateTime::UNIX_EPOCH);
        run().unwrap();
        assert!(!catalog.heal().unwrap());
        assert_eq!(catalog.runs(9).unwrap().len(), 1);
        for file in std::fs::read_dir(dir.path()).unwrap() {
            std::fs::remove_file(file.unwrap().path()).unwrap();
        }
        assert!(catalog.is_displaced());
        assert!(catalog.heal().unwrap());
        assert!(!catalog.is_displaced());
        assert_eq!(catalog.runs(9).unwrap().len(), 0);
        run().unwrap();
        assert!(path.exists());
        // Another process finds it broken and makes it again.
        std::fs::rename(&path, dir.path().join("aside")).unwrap();
        Catalog::open(&path).unwrap();
        assert!(catalog.is_displaced());
        assert!(catalog.heal().unwrap());
        run().unwrap();
        assert_eq!(Catalog::open(&path).unwrap().0.runs(9).unwrap().len(), 1);
    }

    #[test]
    fn two_processes_that_open_an_old_catalog_do_not_harm_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("catalog.sqlite");
        let old = Connection::open(&path).unwrap();
        old.execute_batch(&format!("{TABLES} PRAGMA user_version = {VERSION_MIN};")).unwrap();
        drop(old);
        let open = || {
            (0..4).map(|_| {
                std::thread::spawn({
                    let path = path.clone();
                    move || Catalog::open(&path).map(|(_, was_broken)| was_broken)
                })
            })
        };
        let opened: Vec<_> = open().collect::<Vec<_>>().into_iter().map(|one| one.join().unwrap()).collect();
        assert!(opened.iter().all(|one| matches!(one, Ok(false))), "{opened:?}");
    }

    #[test]
    fn a_catalog_of_another_version_is_made_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("catalog.sqlite");
        Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
        assert!(Catalog::open(&path).unwrap().1);
    }
}
