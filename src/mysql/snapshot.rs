//! One instant on many connections.
//!
//! *Order.* The keeper lists the tables and holds back commits by the first lock that it may take; while
//! nothing can be committed it forbids definitions to change (MySQL), every worker begins its transaction
//! and the position in the binlog is read; then commits go on. The lock lasts milliseconds and its time is
//! recorded. Afterwards every session touches every table, so that its metadata locks keep definitions as
//! they are until the end; a table that vanished since the listing fails the run.
//!
//! *Crash.* All locks belong to sessions: when a connection ends, for whatever reason, its locks go with
//! it. A worker that lost its transaction is found out by [`Snapshot::check_still_open`] at the end.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use futures_util::future::try_join_all;
use mysql_async::{Conn, prelude::Queryable};

use super::{
    conn::{Flavor, Purpose, Server, code, is_denied, named, number, text},
    layout::{Listed, Place, Wanted, tables},
};
use crate::{
    clock::Ground,
    error::{ExitCode, Failure, Result},
    event::Monitor,
    flow::Point,
};

/// Time that writers may wait behind one attempt to get the global lock.
const LOCK_TRY: Duration = Duration::from_secs(3);
/// Time that writers are let through between two attempts.
const LOCK_PAUSE: Duration = Duration::from_secs(1);
/// Attempts to begin all transactions between two commits, where no lock is allowed (MariaDB).
const EQUAL_TRIES: usize = 50;

const BEGIN: &str = "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY";
const REPEATABLE: &str = "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ";

/// How writers were kept away while the transactions began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lock {
    /// `FLUSH TABLES WITH READ LOCK`.
    Global,
    /// MariaDB's `BACKUP STAGE BLOCK_COMMIT`.
    Stage,
    /// MariaDB, not at all: all transactions were seen to begin at one position.
    Equal,
    /// `LOCK TABLES … READ`.
    Tables,
    /// Not at all: there is one transaction only.
    Single,
    /// Not at all: many transactions, which see one instant only where nobody writes.
    Nothing,
}

impl Lock {
    fn word(self) -> &'static str {
        match self {
            Self::Global => "global",
            Self::Stage => "stage",
            Self::Equal => "equal",
            Self::Tables => "tables",
            Self::Single => "single",
            Self::Nothing => "nothing",
        }
    }
}

/// Sessions that all see the server at one instant.
pub(super) struct Snapshot {
    /// Holds the lock that forbids definitions to change; open for questions outside of the instant.
    pub keeper: Conn,
    /// Sees the instant and reads definitions.
    pub names: Conn,
    /// See the instant and read rows.
    pub workers: Vec<Conn>,
    /// What there is.
    pub listed: Vec<Listed>,
    /// The instant.
    pub point: Point,
    /// Whose dialect is spoken.
    pub flavor: Flavor,
    /// Whether the keeper holds the lock that forbids definitions to change.
    definitions_locked: bool,
}

impl Snapshot {
    /// Opens the sessions and takes the instant.
    pub async fn take(
        server: &Server,
        wanted: &Wanted,
        ground: &Ground,
        monitor: &dyn Monitor,
    ) -> Result<Self> {
        let mut keeper = server.open(Purpose::ReadNames).await?;
        let (flavor, version) = server.version(&mut keeper).await?;
        let names = server.open(Purpose::ReadNames).await?;
        let threads = server.config.threads.clamp(1, 64);
        let workers = try_join_all((0..threads).map(|_| server.open(Purpose::ReadRows))).await?;
        let before = tables(server, &mut keeper, wanted).await?;
        let point = Point::at(ground.clock.now()).mark("version", &version);
        let mut taken =
            Self { keeper, names, workers, listed: before, point, flavor, definitions_locked: false };
        let (lock, held) = if wanted.locks_nothing() {
            taken.begin_all(server).await?;
            (Lock::Nothing, Duration::ZERO)
        } else {
            taken.begin(server, monitor).await?
        };
        // The instant is when the lock was held, not when the connections were opened.
        taken.point.at = ground.clock.now();
        taken.mark("lock_mode", lock.word());
        taken.mark("lock_ms", &held.as_millis().to_string());
        let locked = if taken.definitions_locked { "yes" } else { "no" };
        taken.mark("ddl_locked", locked);
        taken.identify(server).await?;
        taken.relist(server, wanted).await?;
        Ok(taken)
    }

    fn mark(&mut self, name: &str, value: &str) {
        self.point.marks.insert(name.to_owned(), value.to_owned());
    }

    /// Climbs down the ladder of locks until one may be taken, and begins all transactions under it.
    async fn begin(&mut self, server: &Server, monitor: &dyn Monitor) -> Result<(Lock, Duration)> {
        let ladder: &[Lock] = match self.flavor {
            Flavor::Mysql => &[Lock::Global, Lock::Tables],
            Flavor::Mariadb => &[Lock::Stage, Lock::Global, Lock::Equal, Lock::Tables],
        };
        for lock in ladder {
            let began = Instant::now();
            let taken = match lock {
                Lock::Equal => self.begin_between_commits(server).await?,
                _ => self.begin_under(server, *lock).await?,
            };
            if taken {
                return Ok((*lock, began.elapsed()));
            }
        }
        self.workers.truncate(1);
        self.begin_all(server).await?;
        if self.flavor == Flavor::Mariadb {
            let position = snapshot_position(server, &mut self.workers[0]).await?;
            self.mark_position(server, position).await?;
        } else {
            monitor.warn(
                Some(&server.name),
                "the account may take no lock: one connection reads all, and its place in the binlog is \
                    unknown"
                    .to_owned(),
                Some(&server.grant_hint()),
            );
        }
        Ok((Lock::Single, Duration::ZERO))
    }

    /// Returns whether the lock could be taken; then everything has begun and the lock is gone again.
    async fn begin_under(&mut self, server: &Server, lock: Lock) -> Result<bool> {
        if !self.acquire(server, lock).await? {
            return Ok(false);
        }
        if lock == Lock::Global {
            self.lock_definitions(server).await?;
        }
        self.begin_all(server).await?;
        if let Some(position) = self.read_position(server).await? {
            self.mark_position(server, Some(position)).await?;
        }
        let release = if lock == Lock::Stage { "BACKUP STAGE END" } else { "UNLOCK TABLES" };
        server.run(&mut self.keeper, release, "release the lock").await?;
        Ok(true)
    }

    async fn acquire(&mut self, server: &Server, lock: Lock) -> Result<bool> {
        if lock == Lock::Tables {
            self.lock_definitions(server).await?;
        }
        let steps = match lock {
            Lock::Global => vec![
                // Closes what is idle first, so that the lock itself has little to wait for.
                "FLUSH NO_WRITE_TO_BINLOG TABLES".to_owned(),
                "FLUSH TABLES WITH READ LOCK".to_owned(),
            ],
            Lock::Stage => vec!["BACKUP STAGE START".to_owned(), "BACKUP STAGE BLOCK_COMMIT".to_owned()],
            _ => vec![lock_tables(&self.listed)],
        };
        let limit = Duration::from_secs(server.config.lock_wait_seconds.max(1));
        let began = Instant::now();
        let one_try = LOCK_TRY.min(limit).as_secs().max(1);
        let wait = format!("SET SESSION lock_wait_timeout={one_try}");
        server.run(&mut self.keeper, &wait, "prepare the lock").await?;
        loop {
            match steps_of(&mut self.keeper, &steps).await {
                Ok(()) => break,
                Err(error) if number(&error).is_some_and(is_denied) => return Ok(false),
                // The server is too old for it, or a relative of it that has no such lock.
                Err(error) if number(&error) == Some(code::SYNTAX) => return Ok(false),
                Err(error) if matches!(number(&error), Some(code::LOCK_WAIT | code::DEADLOCK)) => {
                    self.give_way(lock).await;
                    if began.elapsed() >= limit {
                        return Err(lock_refused(server, limit));
                    }
                    tokio::time::sleep(LOCK_PAUSE).await;
                }
                Err(error) => return Err(server.failure("take the lock", error)),
            }
        }
        let wait = format!("SET SESSION lock_wait_timeout={}", limit.as_secs());
        server.run(&mut self.keeper, &wait, "keep the lock").await?;
        Ok(true)
    }

    /// Forbids definitions to change until the keeper goes, where the server can and we may.
    ///
    /// After the global lock, never before it: an `ALTER` that waits for this lock would hold up the global
    /// one, and the server would end one of the two as a deadlock. Before table locks, never after them,
    /// for the same reason.
    async fn lock_definitions(&mut self, server: &Server) -> Result<()> {
        if self.flavor != Flavor::Mysql || self.definitions_locked {
            return Ok(());
        }
        match self.keeper.query_drop("LOCK INSTANCE FOR BACKUP").await {
            Ok(()) => self.definitions_locked = true,
            Err(error) if number(&error).is_some_and(is_denied) => {}
            Err(error) if number(&error) == Some(code::SYNTAX) => {}
            Err(error) => return Err(server.failure("lock the definitions", error)),
        }
        Ok(())
    }

    /// Lets go of what a half-taken lock holds. Errors mean that there was nothing to let go.
    async fn give_way(&mut self, lock: Lock) {
        let release = if lock == Lock::Stage { "BACKUP STAGE END" } else { "UNLOCK TABLES" };
        let _nothing_held = self.keeper.query_drop(release).await;
    }

    async fn begin_all(&mut self, server: &Server) -> Result<()> {
        let sessions = self.workers.iter_mut().chain([&mut self.names]);
        try_join_all(sessions.map(async |conn| {
            server.run(conn, REPEATABLE, "begin the snapshot").await?;
            server.run(conn, BEGIN, "begin the snapshot").await
        }))
        .await?;
        Ok(())
    }

    /// MariaDB tells each transaction the position that it began at: when all are the same, nothing was
    /// committed in between. Without a binlog there is no such position.
    async fn begin_between_commits(&mut self, server: &Server) -> Result<bool> {
        for _ in 0..EQUAL_TRIES {
            self.begin_all(server).await?;
            let sessions = self.workers.iter_mut().chain([&mut self.names]);
            let positions = try_join_all(sessions.map(|conn| snapshot_position(server, conn))).await?;
            if positions[0].is_none() {
                return Ok(false);
            }
            if positions.windows(2).all(|pair| pair[0] == pair[1]) {
                self.mark_position(server, positions[0].clone()).await?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn read_position(&mut self, server: &Server) -> Result<Option<(String, String)>> {
        for sql in ["SHOW BINARY LOG STATUS", "SHOW MASTER STATUS"] {
            let rows: Result<Vec<mysql_async::Row>, _> = self.keeper.query(sql).await;
            match rows {
                Ok(rows) => {
                    return Ok(rows.first().and_then(|row| Some((text(row, 0)?, text(row, 1)?))));
                }
                Err(error) if number(&error) == Some(code::SYNTAX) => {}
                Err(error) if number(&error).is_some_and(is_denied) => return Ok(None),
                Err(error) => return Err(server.failure("read the binlog's position", error)),
            }
        }
        Ok(None)
    }

    async fn mark_position(&mut self, server: &Server, position: Option<(String, String)>) -> Result<()> {
        let Some((file, pos)) = position else { return Ok(()) };
        let gtid = match self.flavor {
            Flavor::Mysql => "SELECT @@GLOBAL.gtid_executed".to_owned(),
            Flavor::Mariadb => {
                format!("SELECT BINLOG_GTID_POS({}, {pos})", super::sql::literal(&file))
            }
        };
        let rows = server.rows(&mut self.keeper, &gtid, "read the GTID position").await?;
        if let Some(gtid) = rows.first().and_then(|row| text(row, 0)).filter(|gtid| !gtid.is_empty()) {
            self.mark("gtid", &gtid.replace('\n', ""));
        }
        self.mark("binlog_file", &file);
        self.mark("binlog_pos", &pos);
        Ok(())
    }

    async fn identify(&mut self, server: &Server) -> Result<()> {
        for variable in ["server_uuid", "server_uid"] {
            let rows: Result<Vec<mysql_async::Row>, _> =
                self.keeper.query(format!("SELECT @@GLOBAL.{variable}")).await;
            match rows {
                Ok(rows) => {
                    let uuid = rows.first().and_then(|row| text(row, 0)).unwrap_or_default();
                    self.mark("server_uuid", &uuid);
                    return Ok(());
                }
                Err(mysql_async::Error::Server(_)) => {}
                Err(error) => return Err(server.failure("read the server's identity", error)),
            }
        }
        Ok(())
    }

    /// Pins every table on every session, and checks that none went away since the first listing.
    async fn relist(&mut self, server: &Server, wanted: &Wanted) -> Result<()> {
        let after = tables(server, &mut self.keeper, wanted).await?;
        let still: BTreeSet<&Place> = after.iter().map(|listed| &listed.at).collect();
        if let Some(gone) = self.listed.iter().find(|listed| !still.contains(&listed.at)) {
            return Err(changed(server, &gone.at));
        }
        self.listed = after;
        let places: Vec<&Place> =
            self.listed.iter().filter(|listed| listed.kind.has_rows()).map(|listed| &listed.at).collect();
        let sessions = self.workers.iter_mut().chain([&mut self.names]);
        try_join_all(sessions.map(|conn| pin(server, conn, &places))).await?;
        Ok(())
    }

    /// Checks that no session lost its transaction, and with it the instant.
    pub async fn check_still_open(&mut self, server: &Server) -> Result<()> {
        for conn in self.workers.iter_mut().chain([&mut self.names]) {
            // Inside a transaction this statement is an error, and only there.
            let asked = conn.query_drop("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ").await;
            match asked {
                Err(error) if number(&error) == Some(code::TRANSACTION_OPEN) => {}
                Err(error) => return Err(server.failure("end the snapshot", error)),
                Ok(()) => {
                    let what = format!("`{}`: a session lost its snapshot while it read", server.name);
                    return Err(Failure::new(ExitCode::Failed, what)
                        .hint("What was read may mix two instants and was not kept; run this again."));
                }
            }
        }
        Ok(())
    }
}

async fn steps_of(conn: &mut Conn, steps: &[String]) -> mysql_async::Result<()> {
    for step in steps {
        conn.query_drop(step.as_str()).await?;
    }
    Ok(())
}

fn lock_tables(listed: &[Listed]) -> String {
    let tables = listed.iter().filter(|listed| listed.kind.has_rows());
    let list: Vec<String> = tables.map(|listed| format!("{} READ", listed.at.sql())).collect();
    if list.is_empty() { "DO 0".to_owned() } else { format!("LOCK TABLES {}", list.join(", ")) }
}

async fn snapshot_position(server: &Server, conn: &mut Conn) -> Result<Option<(String, String)>> {
    let rows =
        server.rows(conn, "SHOW STATUS LIKE 'binlog_snapshot_%'", "read the snapshot's position").await?;
    let get = |name: &str| {
        let row = rows.iter().find(|row| text(row, 0).is_some_and(|n| n.eq_ignore_ascii_case(name)))?;
        named(row, "value").filter(|value| !value.is_empty())
    };
    Ok(get("binlog_snapshot_file").zip(get("binlog_snapshot_position")))
}

/// Takes the metadata lock of every table: who holds it already never queues behind a waiting `ALTER`.
async fn pin(server: &Server, conn: &mut Conn, places: &[&Place]) -> Result<()> {
    for place in places {
        match conn.query_drop(format!("SELECT 1 FROM {} LIMIT 0", place.sql())).await {
            Ok(()) => {}
            Err(error) if matches!(number(&error), Some(code::NO_SUCH_TABLE | code::UNKNOWN_DATABASE)) => {
                return Err(changed(server, place));
            }
            Err(error) => return Err(server.failure(&format!("read table `{place}`"), error)),
        }
    }
    Ok(())
}

fn changed(server: &Server, place: &Place) -> Failure {
    Failure::new(ExitCode::Failed, format!("`{}`: table `{place}` vanished while it was read", server.name))
        .hint("Run this again when no migration is running.")
}

fn lock_refused(server: &Server, limit: Duration) -> Failure {
    let what = format!(
        "`{}`: the lock for a common instant was not granted within {} s",
        server.name,
        limit.as_secs()
    );
    Failure::new(ExitCode::Failed, what).hint(
        "A long statement or transaction is in the way: SHOW PROCESSLIST names it. End it, choose a \
         quieter time, or raise lock_wait_seconds.",
    )
}
