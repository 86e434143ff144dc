//! The ladder of locks: each rung is tried until one may be taken, and everything begins under it.
//!
//! *Order.* First what holds nobody up: a server that proves by its logs that nothing was committed while the
//! transactions began. Then the locks, from the shortest to the widest. No attempt keeps others waiting for
//! longer than [`one_try`]: then it is killed, others are let through, and it is made again until the rung's part of
//! `lock_wait_seconds` is over ([`part_of`]); then comes the next rung.
//!
//! *Crash.* A lock goes with its session. One that is still waited for goes when the server's own patience ends, which
//! is set to one attempt.

use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable;
use tokio::time::timeout;

use super::{
    super::{
        conn::{Flavor, Server, code, is_denied, number},
        layout::{Listed, Wanted, tables},
    },
    Listing, Snapshot,
    position::{self, Found, Logs},
    statements::{self, Running},
};
use crate::error::{ExitCode, Failure, Result};

/// Time that others may wait behind one attempt to get a lock.
const LOCK_TRY: Duration = Duration::from_secs(3);
/// Time that others are let through between two attempts.
pub(super) const LOCK_PAUSE: Duration = Duration::from_secs(1);
/// Attempts to begin all transactions between two commits, where the engines' own logs must stand still; these move
/// with every row.
const LOGS_TRIES: usize = 100;

/// What the ladder is for.
const COMMON: &str = "the lock for a common instant";

const BEGIN: &str = "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY";

/// How writers were kept away while the transactions began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lock {
    /// MySQL: not at all, all transactions were seen to begin between two commits.
    Equal,
    /// MariaDB's `BACKUP STAGE BLOCK_COMMIT`.
    Stage,
    /// `FLUSH TABLES WITH READ LOCK`.
    Global,
    /// `LOCK TABLES … READ`.
    Tables,
    /// Not at all: there is one transaction only.
    Single,
    /// Not at all: many transactions, which see one instant only where nobody writes.
    Nothing,
}

impl Lock {
    pub fn word(self) -> &'static str {
        match self {
            Self::Equal => "equal",
            Self::Stage => "stage",
            Self::Global => "global",
            Self::Tables => "tables",
            Self::Single => "single",
            Self::Nothing => "nothing",
        }
    }

    fn release(self) -> &'static str {
        if self == Self::Stage { "BACKUP STAGE END" } else { "UNLOCK TABLES" }
    }
}

/// What became of one rung.
enum Rung {
    /// Everything has begun; commits were held back since then.
    Begun(Option<Instant>),
    /// The account may not, or the server cannot.
    NotHere,
    /// The time was up; perhaps it is known who was in the way.
    InTheWay(Option<Running>),
}

/// What became of one attempt.
enum Attempt {
    Held,
    Refused,
    Again,
}

impl Snapshot {
    /// Begins all transactions; returns how, and for how long commits were held back.
    pub(super) async fn begin(&mut self, server: &Server, wanted: &Wanted) -> Result<(Lock, Duration)> {
        let ladder: &[Lock] = match self.flavor {
            Flavor::Mysql => &[Lock::Equal, Lock::Global, Lock::Tables],
            // That all transactions are told one place in the binlog proves no instant: some see a commit that others
            // do not.
            Flavor::Mariadb => &[Lock::Stage, Lock::Global, Lock::Tables],
        };
        let limit = patience(server);
        let end = Instant::now() + limit;
        let mut in_the_way = None;
        for (at, lock) in ladder.iter().enumerate() {
            let until = part_of(Instant::now(), end, ladder.len() - at);
            let rung = match lock {
                Lock::Equal => self.begin_between_logs(server, until).await?,
                _ => self.begin_under(server, wanted, *lock, until).await?,
            };
            match rung {
                Rung::Begun(Some(since)) => return Ok((*lock, since.elapsed())),
                Rung::Begun(None) => return Ok((*lock, Duration::ZERO)),
                Rung::InTheWay(running) => in_the_way = Some(running),
                Rung::NotHere => {}
            }
            self.unlock_definitions(server).await?;
        }
        if let Some(running) = in_the_way {
            return Err(lock_refused(server, COMMON, limit, running.as_ref()));
        }
        self.begin_alone(server).await?;
        Ok((Lock::Single, Duration::ZERO))
    }

    async fn begin_under(
        &mut self,
        server: &Server,
        wanted: &Wanted,
        lock: Lock,
        until: Instant,
    ) -> Result<Rung> {
        if lock == Lock::Global && !self.sees_statements {
            // It could not see whom a flush would make wait, and for how long.
            return Ok(Rung::NotHere);
        }
        loop {
            if lock == Lock::Global {
                let running = statements::wait_for_long_ones(server, &mut self.keeper, until).await?;
                if running.is_some() {
                    return Ok(Rung::InTheWay(running));
                }
            }
            let began = Instant::now();
            match self.attempt(server, lock).await? {
                Attempt::Held => {
                    self.begin_held(server, wanted, lock).await?;
                    return Ok(Rung::Begun(Some(began)));
                }
                Attempt::Refused => return Ok(Rung::NotHere),
                Attempt::Again => {}
            }
            // Errors mean that there was nothing to let go.
            let _nothing_held = self.keeper.query_drop(lock.release()).await;
            self.unlock_definitions(server).await?;
            if Instant::now() >= until {
                return Ok(Rung::InTheWay(self.who_was_in_the_way(server).await?));
            }
            tokio::time::sleep(LOCK_PAUSE).await;
            self.listed = tables(server, &mut self.keeper, wanted).await?;
        }
    }

    /// Returns the statement that was in the way of the last attempt: one that is younger came after it, or waited
    /// behind it. There may be none: sessions that do nothing hold locks too.
    pub(super) async fn who_was_in_the_way(&mut self, server: &Server) -> Result<Option<Running>> {
        if !self.sees_statements {
            return Ok(None);
        }
        let longest = statements::longest(server, &mut self.keeper).await?;
        Ok(longest.filter(|running| running.seconds > one_try(server).as_secs()))
    }

    /// Everything begins under the lock, which then goes.
    async fn begin_held(&mut self, server: &Server, wanted: &Wanted, lock: Lock) -> Result<()> {
        if lock == Lock::Global {
            // After the global lock, never before it: an `ALTER` that waits for this one would hold up the
            // global one, and the server would end one of the two as a deadlock.
            self.lock_definitions(server, LOCK_PAUSE).await?;
        }
        self.begin_all(server).await?;
        self.position = position::current(server, self.flavor, &mut self.keeper).await?;
        if self.position == Found::Denied && self.flavor == Flavor::Mariadb {
            let told = position::of_transaction(server, &mut self.names).await?;
            self.position = position::complete(server, &mut self.keeper, told).await?;
        }
        self.primaries = position::of_primaries(server, self.flavor, &mut self.keeper).await?;
        // Both of these keep tables from coming and going.
        if self.listing == Listing::Fast && matches!(lock, Lock::Stage | Lock::Global) {
            self.listed = tables(server, &mut self.keeper, wanted).await?;
            self.listing = Listing::OfInstant;
        }
        server.run(&mut self.keeper, lock.release(), "release the lock").await
    }

    /// Tries once to get the lock.
    async fn attempt(&mut self, server: &Server, lock: Lock) -> Result<Attempt> {
        let until = Instant::now() + one_try(server);
        let steps = match lock {
            // Closes what is idle first, so that the lock itself has little to wait for.
            Lock::Global => {
                ["FLUSH NO_WRITE_TO_BINLOG TABLES", "FLUSH TABLES WITH READ LOCK"].map(str::to_owned)
            }
            Lock::Stage => ["BACKUP STAGE START", "BACKUP STAGE BLOCK_COMMIT"].map(str::to_owned),
            _ => {
                // Before table locks, never after them: a migration that waits for these holds up that one.
                match self.lock_definitions(server, one_try(server)).await? {
                    Attempt::Again => return Ok(Attempt::Again),
                    Attempt::Held | Attempt::Refused => ["DO 0".to_owned(), lock_tables(&self.listed)],
                }
            }
        };
        for (at, step) in steps.iter().enumerate() {
            if at > 0
                && lock == Lock::Global
                && statements::long_one(server, &mut self.keeper).await?.is_some()
            {
                return Ok(Attempt::Again);
            }
            let left = until.saturating_duration_since(Instant::now());
            match self.step(server, step, left).await {
                Ok(()) => {}
                Err(error) => return judged(server, error),
            }
        }
        Ok(Attempt::Held)
    }

    /// Runs one statement of the keeper, and kills it when it takes longer than `left`: the server counts the
    /// time of each single lock only, and a statement may wait for thousands.
    async fn step(&mut self, server: &Server, sql: &str, left: Duration) -> mysql_async::Result<()> {
        // Not before our own clock does.
        self.keeper.query_drop(wait_at_most(left.as_secs() + 1)).await?;
        let ended = self.step_in_time(sql, left).await;
        self.keeper.query_drop(wait_at_most(patience(server).as_secs())).await?;
        ended
    }

    async fn step_in_time(&mut self, sql: &str, left: Duration) -> mysql_async::Result<()> {
        let kill = format!("KILL QUERY {}", self.keeper.id());
        let ended = {
            let running = self.keeper.query_drop(sql);
            tokio::pin!(running);
            if let Ok(done) = timeout(left, &mut running).await {
                return done;
            }
            self.names.query_drop(kill).await?;
            running.await
        };
        if ended.as_ref().err().and_then(number) != Some(code::INTERRUPTED) {
            // It ended by itself, and the kill is still to come: let it hit a statement that does nothing.
            let _hit = self.keeper.query_drop("DO 0").await;
        }
        ended
    }

    /// Forbids definitions to change until the keeper goes, where the server can and we may.
    async fn lock_definitions(&mut self, server: &Server, left: Duration) -> Result<Attempt> {
        if self.flavor != Flavor::Mysql {
            return Ok(Attempt::Refused);
        }
        if !self.definitions_locked {
            match self.step(server, "LOCK INSTANCE FOR BACKUP", left).await {
                Ok(()) => self.definitions_locked = true,
                Err(error) => return judged(server, error),
            }
        }
        Ok(Attempt::Held)
    }

    pub(super) async fn unlock_definitions(&mut self, server: &Server) -> Result<()> {
        if !std::mem::take(&mut self.definitions_locked) {
            return Ok(());
        }
        server.run(&mut self.keeper, "UNLOCK INSTANCE", "release the definitions").await
    }

    pub(super) async fn begin_all(&mut self, server: &Server) -> Result<()> {
        self.run_all(server, BEGIN, "begin the snapshot").await
    }

    /// MySQL: the transactions began at one instant when the binlog did not grow meanwhile and nobody was in the
    /// middle of a commit before. That it did not grow is not enough: a commit is in the binlog first.
    async fn begin_between_logs(&mut self, server: &Server, until: Instant) -> Result<Rung> {
        if !self.sees_statements || Logs::read(server, &mut self.keeper).await?.is_none() {
            return Ok(Rung::NotHere);
        }
        // Before the transactions: from here to the end no table comes, goes or changes.
        loop {
            match self.lock_definitions(server, one_try(server)).await? {
                Attempt::Held => break,
                Attempt::Refused => return Ok(Rung::NotHere),
                Attempt::Again if Instant::now() >= until => {
                    return Ok(Rung::InTheWay(self.who_was_in_the_way(server).await?));
                }
                Attempt::Again => tokio::time::sleep(LOCK_PAUSE).await,
            }
        }
        let is_replica = self.is_replica();
        let may_be_replica = is_replica || self.primaries.is_none();
        let logs_all = position::logs_all(server, &mut self.keeper, may_be_replica).await?;
        for attempt in 0..2 * LOGS_TRIES {
            // First the proof that covers also what is kept out of the binlog; a busy server never gives it.
            let is_strict = attempt < LOGS_TRIES || !logs_all;
            let before = Logs::read(server, &mut self.keeper).await?;
            let committing = statements::are_committing(server, &mut self.keeper).await?;
            self.begin_all(server).await?;
            if is_replica {
                self.primaries = position::of_primaries(server, self.flavor, &mut self.keeper).await?;
            }
            let after = Logs::read(server, &mut self.keeper).await?;
            if let (false, Some(before), Some(after)) = (committing, before, after)
                && after.stands_at(&before, is_strict)
            {
                self.position = after.position();
                return Ok(Rung::Begun(None));
            }
        }
        Ok(Rung::NotHere)
    }

    /// One transaction sees one instant by itself.
    async fn begin_alone(&mut self, server: &Server) -> Result<()> {
        self.workers.truncate(1);
        self.begin_unlocked(server).await?;
        self.position = Found::Denied;
        if self.flavor == Flavor::Mariadb {
            let told = position::of_transaction(server, &mut self.workers[0]).await?;
            self.position = position::complete(server, &mut self.keeper, told).await?;
        }
        Ok(())
    }

    /// Begins all transactions while nothing keeps a replica from applying more. One that applied nothing before and
    /// after is at the place of the rows.
    pub(super) async fn begin_unlocked(&mut self, server: &Server) -> Result<()> {
        let before = position::of_primaries(server, self.flavor, &mut self.keeper).await?.unwrap_or_default();
        self.begin_all(server).await?;
        let after = position::of_primaries(server, self.flavor, &mut self.keeper).await?;
        self.primaries = after.map(|all| all.into_iter().map(|one| one.since(&before)).collect());
        Ok(())
    }
}

/// Returns when a rung's time is over: what is left is divided among it and those behind it, so that one that waits in
/// vain leaves the others theirs.
fn part_of(now: Instant, end: Instant, rungs: usize) -> Instant {
    let parts = u32::try_from(rungs.max(1)).unwrap_or(u32::MAX);
    now + end.saturating_duration_since(now) / parts
}

/// Returns for how long locks are asked for again and again.
pub(super) fn patience(server: &Server) -> Duration {
    Duration::from_secs(server.config.lock_wait_seconds.max(1))
}

/// Returns for how long others may wait behind one attempt.
pub(super) fn one_try(server: &Server) -> Duration {
    LOCK_TRY.min(patience(server))
}

/// Lets the server end what waits: it does not look whether the client is still there, and would let others wait
/// behind the lock of one that died.
pub(super) fn wait_at_most(seconds: u64) -> String {
    format!("SET SESSION lock_wait_timeout={seconds}")
}

/// Says what an error means for an attempt to get a lock.
fn judged(server: &Server, error: mysql_async::Error) -> Result<Attempt> {
    match number(&error) {
        // The server is too old for it, or a relative of it that has no such lock.
        Some(number) if is_denied(number) || number == code::SYNTAX => Ok(Attempt::Refused),
        Some(
            code::LOCK_WAIT
            | code::DEADLOCK
            | code::INTERRUPTED
            | code::NO_SUCH_TABLE
            | code::UNKNOWN_DATABASE,
        ) => Ok(Attempt::Again),
        _ => Err(server.failure("take the lock", error)),
    }
}

fn lock_tables(listed: &[Listed]) -> String {
    let tables = listed.iter().filter(|listed| listed.kind.has_rows());
    let list: Vec<String> = tables.map(|listed| format!("{} READ", listed.at.sql())).collect();
    if list.is_empty() { "DO 0".to_owned() } else { format!("LOCK TABLES {}", list.join(", ")) }
}

/// Says that nobody would let us begin, and who it was.
pub(super) fn lock_refused(
    server: &Server,
    lock: &str,
    limit: Duration,
    running: Option<&Running>,
) -> Failure {
    let who = running.map(|running| format!(": {running}")).unwrap_or_default();
    let what = format!("`{}`: {lock} was not granted within {} s{who}", server.name, limit.as_secs());
    let end = running.map_or_else(
        || "A long statement or transaction, or LOCK TABLES, is in the way: SHOW PROCESSLIST tells the sessions. End it".to_owned(),
        |running| format!("SHOW PROCESSLIST shows what it does. End it (KILL QUERY {})", running.id),
    );
    Failure::new(ExitCode::Failed, what)
        .hint(format!("{end}, choose a quieter time, or raise lock_wait_seconds."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rung_that_waits_in_vain_leaves_the_others_their_part() {
        let now = Instant::now();
        let (end, second) = (now + Duration::from_mins(1), Duration::from_secs(1));
        assert_eq!(part_of(now, end, 3), now + 20 * second);
        assert_eq!(part_of(now + 20 * second, end, 2), now + 40 * second);
        assert_eq!(part_of(now + second, end, 1), end, "the last has all that is left");
        assert_eq!(part_of(end + second, end, 2), end + second, "it is tried once, also without time");
    }
}
