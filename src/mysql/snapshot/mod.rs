//! One instant on many connections.
//!
//! *Order.* The keeper notes tables and definitions, and climbs down the ladder of locks ([`ladder`]) until one
//! rung holds: every worker begins its transaction, and the position in the binlog is read. What is held then
//! lasts milliseconds and its time is recorded. Afterwards each table is touched by the sessions that will read it
//! ([`homes`]), so that metadata locks keep definitions as they are until the end. A table that
//! came after the instant is left out;
//! one that went or changed before it was touched makes all begin again, and at last fails the run; so does one that
//! somebody keeps or wants to himself, when others have been let through.
//!
//! *Crash.* All locks belong to sessions: when a connection ends, for whatever reason, its locks go with
//! it. A worker that lost its transaction is found out by [`Snapshot::check_still_open`] at the end, and so is
//! a definition that nothing held and that changed.

mod homes;
mod ladder;
mod position;
mod programs;
mod statements;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use futures_util::future::{join_all, try_join_all};
use mysql_async::{Conn, prelude::Queryable};

use self::{
    homes::Pinned,
    ladder::{LOCK_PAUSE, Lock, patience},
    position::{Found, Primary},
    programs::Programs,
};
use super::{
    conn::{Flavor, Purpose, Server, Session, code, number, text},
    layout::{Listed, Place, Wanted, tables},
    wire::Wire,
};
use crate::{
    clock::Ground,
    error::{ExitCode, Failure, Result},
    event::Monitor,
    flow::Point,
};

/// How often all may begin again because a table went or changed before it was held.
const ROUNDS: usize = 20;

/// Time that listing what there is may take where commits wait meanwhile.
const LIST_UNDER_LOCK: Duration = Duration::from_millis(100);

const REPEATABLE: &str = "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ";

/// What a list of tables is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Listing {
    /// It was made before the instant.
    Slow,
    /// The same, and so quickly that it may be made anew while commits wait.
    Fast,
    /// It is of the instant itself.
    OfInstant,
}

/// Sessions that all see the server at one instant.
pub(super) struct Snapshot {
    /// Holds the lock that forbids definitions to change; open for questions outside of the instant.
    pub keeper: Conn,
    /// Sees the instant and reads definitions.
    pub names: Conn,
    /// See the instant and read rows.
    pub workers: Vec<Wire>,
    /// What there is.
    pub listed: Vec<Listed>,
    /// The worker that alone reads a table, by its place among them; all read the others.
    pub homes: BTreeMap<Place, usize>,
    /// Bytes that the tables have, as far as the server knows.
    sizes: BTreeMap<Place, u64>,
    /// Rows of the ranges that tables are divided into.
    range_rows: u64,
    /// The instant.
    pub point: Point,
    /// Whose dialect is spoken.
    pub flavor: Flavor,
    /// Whether the keeper holds the lock that forbids definitions to change.
    definitions_locked: bool,
    /// What the list is worth.
    listing: Listing,
    /// Whether the account sees what other sessions do.
    sees_statements: bool,
    /// Where the binlog stood at the instant.
    position: Found,
    /// Where the binlogs of its primaries stood; `None` if the account may not ask.
    primaries: Option<Vec<Primary>>,
    /// The definitions before the instant.
    programs: Programs,
}

impl Snapshot {
    /// Opens the sessions and takes the instant. Tables will be divided into ranges of `range_rows`.
    pub async fn take(
        server: &Server,
        wanted: &Wanted,
        range_rows: u64,
        ground: &Ground,
        monitor: &dyn Monitor,
    ) -> Result<Self> {
        let mut taken = Self::open(server, range_rows, ground).await?;
        taken.hurry(server).await?;
        let (mut changes, mut until) = (0, None);
        loop {
            let pause = match taken.attempt_all(server, wanted, ground).await? {
                Pinned::All => break,
                Pinned::Gone(gone) => {
                    changes += 1;
                    if changes == ROUNDS {
                        return Err(changed(server, &gone));
                    }
                    Duration::ZERO
                }
                Pinned::Busy(at) => {
                    let now = Instant::now();
                    if now >= *until.get_or_insert(now + patience(server)) {
                        return Err(taken.in_the_way(server, &at).await?);
                    }
                    LOCK_PAUSE
                }
            };
            taken.let_go(server).await?;
            tokio::time::sleep(pause).await;
        }
        taken.be_patient(server).await?;
        let locked = if taken.definitions_locked { "yes" } else { "no" };
        taken.mark("ddl_locked", locked);
        taken.mark_position(server, monitor);
        taken.mark_primaries(server, monitor);
        taken.identify(server).await?;
        Ok(taken)
    }

    /// Takes the instant, and tries to hold what there was then.
    async fn attempt_all(&mut self, server: &Server, wanted: &Wanted, ground: &Ground) -> Result<Pinned> {
        self.programs = Programs::note(server, &mut self.keeper, wanted).await?;
        let began = Instant::now();
        self.listed = tables(server, &mut self.keeper, wanted).await?;
        self.listing = if began.elapsed() < LIST_UNDER_LOCK { Listing::Fast } else { Listing::Slow };
        let (lock, held) = if wanted.locks_nothing() {
            self.begin_unlocked(server).await?;
            (Lock::Nothing, Duration::ZERO)
        } else {
            self.begin(server, wanted).await?
        };
        // The instant is when the transactions began, not when the connections were opened.
        self.point.at = ground.clock.now();
        self.mark("lock_mode", lock.word());
        self.mark("lock_ms", &held.as_millis().to_string());
        self.hold(server, wanted).await
    }

    async fn open(server: &Server, range_rows: u64, ground: &Ground) -> Result<Self> {
        let mut keeper = server.open(Purpose::ReadNames).await?;
        let (flavor, version) = server.version(&mut keeper).await?;
        let mut names = server.open(Purpose::ReadNames).await?;
        let threads = server.config.threads.clamp(1, 64);
        let mut workers = try_join_all((0..threads).map(|_| server.open_wire())).await?;
        for wire in &mut workers {
            server.run(wire, REPEATABLE, "prepare the snapshot").await?;
        }
        server.run(&mut names, REPEATABLE, "prepare the snapshot").await?;
        let sees_statements = statements::are_seen(server, &mut keeper).await?;
        let primaries = position::of_primaries(server, flavor, &mut keeper).await?;
        Ok(Self {
            keeper,
            names,
            workers,
            listed: Vec::new(),
            homes: BTreeMap::new(),
            sizes: BTreeMap::new(),
            range_rows,
            point: Point::at(ground.clock.now()).mark("version", &version),
            flavor,
            definitions_locked: false,
            listing: Listing::Slow,
            sees_statements,
            position: Found::Denied,
            primaries,
            programs: Programs::default(),
        })
    }

    /// Gives back everything, also what holds tables: a migration may wait for these, and the next lock for it.
    async fn let_go(&mut self, server: &Server) -> Result<()> {
        self.run_all(server, "COMMIT", "begin again").await?;
        self.unlock_definitions(server).await
    }

    /// Runs a statement in every session that sees the instant, in all at once.
    async fn run_all(&mut self, server: &Server, sql: &str, doing: &str) -> Result<()> {
        let workers = try_join_all(self.workers.iter_mut().map(|wire| server.run(wire, sql, doing)));
        tokio::try_join!(workers, server.run(&mut self.names, sql, doing))?;
        Ok(())
    }

    /// Ends the sessions that read rows.
    pub async fn leave(&mut self) {
        join_all(self.workers.drain(..).map(Wire::quit)).await;
    }

    /// Returns whether the server is known to copy another one.
    fn is_replica(&self) -> bool {
        self.primaries.as_ref().is_some_and(|all| !all.is_empty())
    }

    /// Returns whether all sessions see one instant, the one that reads definitions too.
    pub fn is_shared(&self) -> bool {
        let apart = [Lock::Single, Lock::Nothing].map(Lock::word);
        self.point.marks.get("lock_mode").is_some_and(|word| !apart.contains(&word.as_str()))
    }

    /// Notes something about the instant.
    pub fn mark(&mut self, name: &str, value: &str) {
        self.point.marks.insert(name.to_owned(), value.to_owned());
    }

    fn mark_position(&mut self, server: &Server, monitor: &dyn Monitor) {
        match std::mem::replace(&mut self.position, Found::NoBinlog) {
            Found::At(at) => {
                self.mark("binlog_file", &at.file);
                self.mark("binlog_pos", &at.pos);
                if !at.gtid.is_empty() {
                    self.mark("gtid", &at.gtid);
                }
            }
            Found::NoBinlog => {}
            Found::Denied => {
                self.mark("position", "unknown");
                let alone = self.point.marks.get("lock_mode").is_some_and(|mode| mode == "single");
                let what = if alone {
                    "the account may take no lock: one connection reads all, and its place in the binlog is unknown"
                } else {
                    "the account may not ask where the binlog stands: nothing can be replayed after this snapshot"
                };
                monitor.warn(Some(&server.name), what.to_owned(), Some(&server.grant_hint()));
            }
        }
    }

    /// A replica's own binlog tells where its own replicas go on; its primary's, where the primary's journal does.
    fn mark_primaries(&mut self, server: &Server, monitor: &dyn Monitor) {
        let primaries = self.primaries.take().unwrap_or_default();
        let several = primaries.len() > 1;
        if !self.is_shared() && !primaries.iter().all(Primary::has_place) {
            let what =
                "the account may take no lock: the place of the rows in the primary's binlog is unknown";
            monitor.warn(Some(&server.name), what.to_owned(), Some(&server.grant_hint()));
        }
        for primary in primaries {
            let suffix = if several { format!(".{}", primary.channel) } else { String::new() };
            let applies = if primary.applies { "yes" } else { "no" };
            let all = [
                ("primary_uuid", primary.id.as_str()),
                ("primary_file", &primary.file),
                ("primary_pos", &primary.pos),
                ("primary_gtid", &primary.gtid),
                ("primary_applied", applies),
            ];
            for (name, value) in all.iter().filter(|(_, value)| !value.is_empty()) {
                self.mark(&format!("{name}{suffix}"), value);
            }
            if !primary.applies {
                monitor.warn(
                    Some(&server.name),
                    "the server is a replica that applies nothing: the snapshot is as old as what it has"
                        .to_owned(),
                    Some(
                        "SHOW REPLICA STATUS tells why its SQL thread stopped; START REPLICA lets it go on.",
                    ),
                );
            }
        }
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

    /// Holds every table. One that went or changed since it was listed cannot be read, or nobody knows whether it was
    /// there at the instant, or it came too late to be a part of it.
    async fn hold(&mut self, server: &Server, wanted: &Wanted) -> Result<Pinned> {
        if self.definitions_locked {
            // From before the instant to the end they are what they are now: so also what came just before the lock.
            self.programs = Programs::note(server, &mut self.keeper, wanted).await?;
        }
        if self.listing != Listing::OfInstant {
            let pinned = self.relist(server, wanted).await?;
            if pinned != Pinned::All {
                return Ok(pinned);
            }
        }
        if let Some(new) = self.listed.iter().find(|listed| !self.has_database(&listed.at.db)) {
            return Ok(Pinned::Gone(new.at.clone()));
        }
        self.pin_all(server).await
    }

    /// Lists anew what may have changed since it was listed; tells what went, or what came and was not locked.
    async fn relist(&mut self, server: &Server, wanted: &Wanted) -> Result<Pinned> {
        let after = tables(server, &mut self.keeper, wanted).await?;
        let still: BTreeSet<&Place> = after.iter().map(|listed| &listed.at).collect();
        let gone = self.listed.iter().find(|listed| !still.contains(&listed.at));
        if let Some(gone) = gone.filter(|_| !self.definitions_locked) {
            return Ok(Pinned::Gone(gone.at.clone()));
        }
        let locks_each = self.point.marks.get("lock_mode").is_some_and(|mode| mode == Lock::Tables.word());
        let known: BTreeSet<Place> = self.listed.drain(..).map(|listed| listed.at).collect();
        for listed in after {
            let is_new = !known.contains(&listed.at);
            let has_rows = listed.kind.has_rows();
            let is_there = !is_new
                || self.definitions_locked
                || has_rows
                    && match self.pin_new(server, &listed.at).await? {
                        Pinned::All => true,
                        Pinned::Gone(_) => false,
                        busy @ Pinned::Busy(_) => return Ok(busy),
                    };
            if is_there && is_new && locks_each && has_rows {
                // Nobody kept writers away from it while the transactions began.
                return Ok(Pinned::Gone(listed.at));
            }
            if is_there {
                self.listed.push(listed);
            }
        }
        Ok(Pinned::All)
    }

    /// Returns whether a database was there; what came since the listing is not read.
    pub fn has_database(&self, db: &str) -> bool {
        self.programs.has_database(db)
    }

    /// Checks that what nothing held is what it was before the instant.
    pub async fn check_same_definitions(&mut self, server: &Server, wanted: &Wanted) -> Result<()> {
        if self.definitions_locked {
            return Ok(());
        }
        let later = Programs::note(server, &mut self.keeper, wanted).await?;
        self.programs.check_same(&later, &self.listed, server)
    }

    /// Checks that no session lost its transaction, and with it the instant, and that the keeper still holds
    /// what it held.
    pub async fn check_still_open(&mut self, server: &Server) -> Result<()> {
        server.run(&mut self.keeper, "DO 0", "end the snapshot").await?;
        for wire in &mut self.workers {
            check_open(server, wire).await?;
        }
        check_open(server, &mut self.names).await
    }
}

/// Checks that a session is in its transaction.
async fn check_open(server: &Server, conn: &mut impl Session) -> Result<()> {
    // Inside a transaction this statement is an error, and only there.
    match conn.exec(b"SET TRANSACTION ISOLATION LEVEL REPEATABLE READ").await {
        Err(error) if number(&error) == Some(code::TRANSACTION_OPEN) => Ok(()),
        Err(error) => Err(server.failure("end the snapshot", error)),
        Ok(()) => {
            let what = format!("`{}`: a session lost its snapshot while it read", server.name);
            Err(Failure::new(ExitCode::Failed, what)
                .hint("What was read may mix two instants and was not kept; run this again."))
        }
    }
}

fn changed(server: &Server, place: &Place) -> Failure {
    let what = format!("`{}`: table `{place}` vanished or was altered before it could be read", server.name);
    Failure::new(ExitCode::Failed, what).hint("Run this again when no migration is running.")
}

#[cfg(test)]
mod tests;
