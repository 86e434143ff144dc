//! What a restore has done, kept on the target: database [`LEDGER`].
//!
//! A piece of rows is noted in the very transaction that brings its rows, so that no answer has to be believed: what is
//! noted is in the table, once, and what is not noted is not. Definitions are not noted; they are looked at. Several
//! restores may be at work on one server, in other databases.
//!
//! *Order.* The tables of the ledger, then the job: a ledger without a job is none. The job is there before what is in
//! the way is removed, with the grants that go along, and can be continued when that is done. The last job that ends
//! takes the database with it.
//!
//! *Crash.* The ledger stays, and tells the next restore of the same what is done. A piece whose session still lives on
//! the server holds its line locked: whoever wants the same piece waits until it is known how that ended. Sessions that
//! this very restore lost by a cut of the network, and that the server still takes for alive, are ended ([`Opened`]).

mod others;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, PoisonError},
};

use mysql_async::{Conn, prelude::Queryable};
use sha2::{Digest, Sha256};

pub(super) use self::others::Others;
use super::{
    conn::{Server, code, is_denied, number, number_of, text},
    layout::{LEDGER, Place},
};
use crate::{
    error::{Context, ExitCode, Failure, Result},
    names::{EntryPath, SourceName},
};

/// Seconds that a restore waits for another one to go.
const WAIT_SECONDS: u32 = 3;
/// Seconds that it waits for the ledger to be made or removed.
const LEDGER_WAIT_SECONDS: u32 = 60;
/// Minutes after which a restore that nobody is at work on was given up: longer than any waits for its server.
const LEFT_MINUTES: u32 = 30;
/// What is added to the state of a job that was ended, and may be brought back ([`Others`]), and of one that is still
/// making room: it is not continued, and keeps the ledger from being dropped meanwhile.
const ENDED: u8 = 2;
/// Hexadecimal digits of a digest that the name of a lock has room for.
const LOCK_DIGITS: usize = 32;
/// Lines that are noted by one statement. A server brings each statement to its disk before it takes the next, and
/// others wait until all are noted.
const LINES_MAX: usize = 500;
/// Bytes of such a statement, but for its last line: a server takes four times as many, unless it was told otherwise.
const LINES_BYTES: usize = 256 << 10;

/// What an unfinished restore has done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Standing {
    /// Pieces that are in, with their table and rows.
    pub done: BTreeMap<EntryPath, (Place, u64)>,
    /// Accounts that were there before, once the others have been begun.
    pub kept: Option<BTreeSet<String>>,
    /// Grants on single routines that made room.
    pub grants: BTreeSet<String>,
}

/// What a restore writes: databases as a whole, and single tables (and views) of others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Written(BTreeSet<(String, Option<String>)>);

impl Written {
    /// Takes databases, and tables with the database that they are in. One whose database is written as a whole says
    /// nothing more.
    pub fn of(places: impl IntoIterator<Item = (String, Option<String>)>) -> Self {
        let mut all: BTreeSet<(String, Option<String>)> = places.into_iter().collect();
        let whole: BTreeSet<String> =
            all.iter().filter(|(_, table)| table.is_none()).map(|(db, _)| db.clone()).collect();
        all.retain(|(db, table)| table.is_none() || !whole.contains(db));
        Self(all)
    }

    /// Returns whether this, of another restore, is written here too. A server may take names that differ in case only
    /// for one, so this does: what is ended without need is begun anew.
    fn meets(&self, (other_db, other_table): &(String, Option<String>)) -> bool {
        let same = |one: &str, other: &str| one.to_lowercase() == other.to_lowercase();
        self.0.iter().any(|(db, table)| {
            let tables = table.as_ref().zip(other_table.as_ref());
            same(db, other_db) && tables.is_none_or(|(one, other)| same(one, other))
        })
    }
}

/// The sessions that a restore opened, over all its attempts.
///
/// A server hears nothing of a network that was cut: sessions stay, with their locks, for hours. That they are ours is
/// proven by a lock whose name nobody else knows: who holds it is one of them, so the server has not restarted since,
/// and numbers of sessions are given once.
#[derive(Debug)]
pub(super) struct Opened {
    /// The lock's own part of its name.
    token: String,
    ids: Mutex<BTreeSet<u32>>,
}

impl Opened {
    /// Begins to note under a name that nobody else knows.
    pub fn new(token: String) -> Self {
        Self { token, ids: Mutex::default() }
    }

    /// Notes a session.
    pub fn note(&self, id: u32) {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
    }

    fn others(&self, id: u32) -> BTreeSet<u32> {
        let mut ids = self.ids.lock().unwrap_or_else(PoisonError::into_inner).clone();
        ids.remove(&id);
        ids
    }

    /// Ends the sessions of an attempt that was lost, and leaves the proof for the next one.
    async fn end_lost(&self, server: &Server, conn: &mut Conn) -> Result<()> {
        let (name, doing) = (lock_name(&self.token), "end the sessions of the attempt before");
        let rows = server.rows(conn, &format!("SELECT IS_USED_LOCK('{name}')"), doing).await?;
        let holder: Option<u32> = rows.first().and_then(|row| text(row, 0)).and_then(|id| id.parse().ok());
        let others = self.others(conn.id());
        if holder.is_some_and(|holder| others.contains(&holder)) {
            for id in others {
                match conn.query_drop(format!("KILL {id}")).await {
                    Ok(()) => {}
                    Err(error) if number(&error) == Some(code::NO_SUCH_SESSION) => {}
                    Err(error) => return Err(server.failure(doing, error)),
                }
            }
        }
        // Without it all is as before: an attempt after this one may have to wait.
        get_lock(server, conn, &name, WAIT_SECONDS).await.map(|_got| ())
    }
}

/// A restore that notes what it does.
#[derive(Clone, Debug)]
pub(super) struct Ledger {
    job: String,
}

/// Returns the restores that are unfinished.
pub(super) async fn jobs(server: &Server, conn: &mut Conn) -> Result<Vec<String>> {
    jobs_where(server, conn, &format!("accounts_begun < {ENDED}")).await
}

/// Returns all that the ledger has notes of.
async fn noted(server: &Server, conn: &mut Conn) -> Result<Vec<String>> {
    jobs_where(server, conn, "TRUE").await
}

async fn jobs_where(server: &Server, conn: &mut Conn, condition: &str) -> Result<Vec<String>> {
    let sql = format!("SELECT id FROM {LEDGER}.job WHERE {condition}");
    let rows: Vec<mysql_async::Row> = match conn.query(sql).await {
        Ok(rows) => rows,
        Err(error) if number(&error).is_some_and(is_none) => return Ok(Vec::new()),
        Err(error) => return Err(of_its_version(server.failure("read the ledger of restores", error))),
    };
    Ok(rows.iter().filter_map(|row| text(row, 0)).collect())
}

/// Says what to do where the ledger lacks what this version keeps in it.
fn of_its_version(failure: Failure) -> Failure {
    match number_of(&failure) {
        Some(code::UNKNOWN_COLUMN | code::NO_SUCH_TABLE | code::NO_SUCH_KEY) => failure.hint(format!(
            "The notes are of another version of lifeboat: DROP DATABASE {LEDGER}; then begin the restore anew with \
             --replace."
        )),
        _ => failure,
    }
}

/// Returns how many restores are unfinished that nobody is at work on. One that waits for a server that it lost holds
/// no lock; what has just begun may be such a one.
pub(super) async fn left(server: &Server, conn: &mut Conn) -> Result<usize> {
    let condition = format!("began < UTC_TIMESTAMP() - INTERVAL {LEFT_MINUTES} MINUTE");
    let jobs = jobs_where(server, conn, &condition).await?;
    idle(server, conn, jobs.iter()).await
}

/// Counts the jobs whose lock nobody holds.
async fn idle(server: &Server, conn: &mut Conn, jobs: impl Iterator<Item = &String>) -> Result<usize> {
    let mut idle = 0;
    for job in jobs {
        let sql = format!("SELECT IS_FREE_LOCK('{}')", lock_name(job));
        let rows = server.rows(conn, &sql, "look who restores").await?;
        idle += usize::from(rows.first().and_then(|row| text(row, 0)).as_deref() == Some("1"));
    }
    Ok(idle)
}

/// Returns whether this error says that there is no ledger, or none for us.
fn is_none(number: u16) -> bool {
    matches!(number, code::NO_SUCH_TABLE | code::UNKNOWN_DATABASE) || is_denied(number)
}

/// Keeps every other restore away from these databases, and from this job, as long as the session lives. One that
/// notes nothing keeps others away too.
pub(super) async fn lock(
    server: &Server,
    conn: &mut Conn,
    job: Option<&str>,
    databases: &BTreeSet<String>,
) -> Result<()> {
    if let Some(opened) = &server.opened {
        opened.end_lost(server, conn).await?;
    }
    let of_databases = databases.iter().map(|db| digest(&format!("database {db}")));
    for name in of_databases.chain(job.map(str::to_owned)) {
        if !get_lock(server, conn, &lock_name(&name), WAIT_SECONDS).await? {
            let (name, place) = (&server.name, server.place());
            let what = format!("`{name}`: another restore is writing to the same databases at {place}");
            return Err(Failure::new(ExitCode::Busy, what).hint(
                "Wait for it. One that was killed goes when its last statement ends: SHOW PROCESSLIST names it.",
            ));
        }
    }
    Ok(())
}

/// Returns what is done of what the stream comes without, `told` before the locks were there.
///
/// What was noted since then comes once more, and is found noted by who loads it. What is no longer noted would be
/// missing: somebody else has ended the job, or begun it anew.
pub(super) fn agreed(
    name: &SourceName,
    standing: Option<Standing>,
    told: &BTreeSet<EntryPath>,
) -> Result<Option<Standing>> {
    let is_noted =
        |path| standing.as_ref().is_some_and(|standing: &Standing| standing.done.contains_key(path));
    if !told.iter().all(is_noted) {
        let what = format!("`{name}`: another restore of the same has ended, or begun anew");
        return Err(Failure::new(ExitCode::Busy, what).hint("Look at what is there, then run this again."));
    }
    Ok(standing.map(|mut standing| {
        standing.done.retain(|path, _| told.contains(path));
        standing
    }))
}

impl Ledger {
    /// Makes one that notes nothing yet.
    pub fn new(job: &str) -> Self {
        Self { job: job.to_owned() }
    }

    /// Returns what the job has done, if it has begun.
    pub async fn standing(&self, server: &Server, conn: &mut Conn) -> Result<Option<Standing>> {
        if !jobs(server, conn).await?.contains(&self.job) {
            return Ok(None);
        }
        let (doing, job) = ("read the ledger of restores", hex(&self.job));
        let mut standing = Standing::default();
        let sql =
            format!("SELECT path, of_database, of_table, row_count FROM {LEDGER}.done WHERE job = {job}");
        for row in server.rows(conn, &sql, doing).await? {
            let get = |at| text(&row, at).unwrap_or_default();
            let path = EntryPath::new(&get(0))
                .failed(ExitCode::Failed, || "the ledger of restores names what is no entry".to_owned())?;
            let at = Place { db: get(1), table: get(2) };
            standing.done.insert(path, (at, count_of(server, &get(3))?));
        }
        let sql = format!("SELECT accounts_begun FROM {LEDGER}.job WHERE id = {job}");
        let rows = server.rows(conn, &sql, doing).await?;
        if rows.first().and_then(|row| text(row, 0)).as_deref() == Some("1") {
            let sql = format!("SELECT account FROM {LEDGER}.kept WHERE job = {job}");
            let rows = server.rows(conn, &sql, doing).await?;
            standing.kept = Some(rows.iter().filter_map(|row| text(row, 0)).collect());
        }
        let sql = format!("SELECT statement FROM {LEDGER}.granted WHERE job = {job}");
        let rows = server.rows(conn, &sql, doing).await.map_err(of_its_version)?;
        standing.grants = rows.iter().filter_map(|row| text(row, 0)).collect();
        Ok(Some(standing))
    }

    /// Begins to note, with what is written and the grants on routines that make room, and forgets what an earlier
    /// restore of the same noted; returns whether the account may. It cannot be continued before [`Self::opened`].
    pub async fn begin(
        &self,
        server: &Server,
        conn: &mut Conn,
        written: &Written,
        grants: &BTreeSet<String>,
    ) -> Result<bool> {
        let (doing, begin, commit) = ("begin the ledger of restores", "START TRANSACTION", "COMMIT");
        let (forget, lines) = (forget_all(&hex(&self.job)), self.lines_of(written, grants));
        // What an earlier one owes is in its lines or in these.
        let steps = [definitions(), vec![begin.to_owned()], forget, lines, vec![commit.to_owned()]].concat();
        alone(server, conn).await?;
        for step in steps {
            match conn.query_drop(step).await {
                Ok(()) => {}
                Err(error) if number(&error).is_some_and(is_denied) => {
                    server.run(conn, "ROLLBACK", doing).await?;
                    release(server, conn).await?;
                    return Ok(false);
                }
                Err(error) => {
                    return Err(of_its_version(server.failure(doing, error)));
                }
            }
        }
        release(server, conn).await?;
        Ok(true)
    }

    /// Notes that there is room: from now on the restore can be continued.
    pub async fn opened(&self, server: &Server, conn: &mut Conn) -> Result<()> {
        let sql = format!("UPDATE {LEDGER}.job SET accounts_begun = 0 WHERE id = {}", hex(&self.job));
        server.run(conn, sql, "begin the ledger of restores").await
    }

    /// Returns the statements that note what is written, and the grants. The job comes last: without it there is none.
    fn lines_of(&self, written: &Written, grants: &BTreeSet<String>) -> Vec<String> {
        let job = hex(&self.job);
        let places = written.0.iter().map(|(db, table)| {
            let hash = self.hash(&format!("{db}\0{}", table.as_deref().unwrap_or_default()));
            let table = table.as_deref().map_or_else(|| "NULL".to_owned(), hex);
            format!("({hash}, {job}, {}, {table})", hex(db))
        });
        let grants = grants.iter().map(|grant| format!("({}, {job}, {})", self.hash(grant), hex(grant)));
        let mut steps = inserts("written (hash, job, of_database, of_table)", places);
        steps.extend(inserts("granted (hash, job, statement)", grants));
        steps.extend(inserts("job (id, accounts_begun)", [format!("({job}, {ENDED})")]));
        steps
    }

    /// Notes a piece in the transaction that has just begun; returns its rows when it is in already.
    pub async fn take(
        &self,
        server: &Server,
        conn: &mut Conn,
        path: &EntryPath,
        at: &Place,
    ) -> Result<Option<u64>> {
        let hash = self.hash(path.as_str());
        let facts = [&self.job, path.as_str(), &at.db, &at.table].map(hex).join(", ");
        match conn.query_drop(format!("INSERT INTO {LEDGER}.done VALUES ({hash}, {facts}, 0)")).await {
            Ok(()) => Ok(None),
            Err(error) if number(&error) == Some(code::DUPLICATE) => {
                let sql = format!("SELECT row_count FROM {LEDGER}.done WHERE hash = {hash}");
                let rows = server.rows(conn, &sql, "read the ledger of restores").await?;
                let count = rows.first().and_then(|row| text(row, 0)).unwrap_or_default();
                count_of(server, &count).map(Some)
            }
            Err(error) => Err(server.failure("note a piece in the ledger of restores", error)),
        }
    }

    /// Notes the rows of a piece, in its transaction.
    pub async fn count(&self, server: &Server, conn: &mut Conn, path: &EntryPath, rows: u64) -> Result<()> {
        let hash = self.hash(path.as_str());
        let sql = format!("UPDATE {LEDGER}.done SET row_count = {rows} WHERE hash = {hash}");
        server.run(conn, sql, "note a piece in the ledger of restores").await
    }

    /// Notes which accounts were there before any is made.
    pub async fn keep(&self, server: &Server, conn: &mut Conn, kept: &BTreeSet<String>) -> Result<()> {
        let (doing, job) = ("note the accounts in the ledger of restores", hex(&self.job));
        server.run(conn, "START TRANSACTION", doing).await?;
        let lines = kept.iter().map(|account| format!("({}, {job}, {})", self.hash(account), hex(account)));
        for step in inserts("kept (hash, job, account)", lines) {
            server.run(conn, step, doing).await?;
        }
        let begun = format!("UPDATE {LEDGER}.job SET accounts_begun = 1 WHERE id = {job}");
        server.run(conn, begun, doing).await?;
        server.run(conn, "COMMIT", doing).await
    }

    /// Ends it: all is done. Returns how many restores are unfinished that nobody is at work on.
    pub async fn end(&self, server: &Server, conn: &mut Conn) -> Result<usize> {
        let doing = "end the ledger of restores";
        alone(server, conn).await?;
        let mut left = 0;
        let jobs = noted(server, conn).await?;
        if jobs.iter().all(|job| *job == self.job) {
            server.run(conn, format!("DROP DATABASE IF EXISTS {LEDGER}"), doing).await?;
        } else {
            for step in forget_all(&hex(&self.job)) {
                match conn.query_drop(step).await {
                    // One that an older version began has no line there.
                    Err(error) if number(&error) == Some(code::NO_SUCH_TABLE) => {}
                    ended => ended.map_err(|error| server.failure(doing, error))?,
                }
            }
            left = idle(server, conn, jobs.iter().filter(|job| **job != self.job)).await?;
        }
        release(server, conn).await?;
        Ok(left)
    }

    /// Returns what a line is found by, as SQL: a path may be longer than a key.
    fn hash(&self, text: &str) -> String {
        format!("x'{}'", digest(&format!("{}\n{text}", self.job)))
    }
}

/// Returns the statements that bring many lines into a table of the ledger.
fn inserts(table: &str, lines: impl IntoIterator<Item = String>) -> Vec<String> {
    let begin = format!("INSERT INTO {LEDGER}.{table} VALUES ");
    let (mut steps, mut count): (Vec<String>, usize) = (Vec::new(), 0);
    for line in lines {
        let room = steps.last_mut().filter(|step| count < LINES_MAX && step.len() < LINES_BYTES);
        if let Some(step) = room {
            step.extend([", ", line.as_str()]);
            count += 1;
        } else {
            steps.push(format!("{begin}{line}"));
            count = 1;
        }
    }
    steps
}

/// Returns the statements that make the ledger where it is not there.
fn definitions() -> Vec<String> {
    let table = |name: &str, columns: &str| {
        format!("CREATE TABLE IF NOT EXISTS {LEDGER}.{name} ({columns}) ENGINE=InnoDB DEFAULT CHARSET=binary")
    };
    vec![
        format!("CREATE DATABASE IF NOT EXISTS {LEDGER}"),
        table(
            "done",
            "hash BINARY(32) PRIMARY KEY, job VARBINARY(64) NOT NULL, path LONGBLOB NOT NULL, \
             of_database VARBINARY(300) NOT NULL, of_table VARBINARY(300) NOT NULL, \
             row_count BIGINT UNSIGNED NOT NULL, KEY of_job (job)",
        ),
        table(
            "kept",
            "hash BINARY(32) PRIMARY KEY, job VARBINARY(64) NOT NULL, account VARBINARY(2000) NOT NULL, \
             KEY of_job (job)",
        ),
        table(
            "granted",
            "hash BINARY(32) PRIMARY KEY, job VARBINARY(64) NOT NULL, statement LONGBLOB NOT NULL, \
             KEY of_job (job)",
        ),
        table(
            "written",
            "hash BINARY(32) PRIMARY KEY, job VARBINARY(64) NOT NULL, of_database VARBINARY(300) NOT NULL, \
             of_table VARBINARY(300), KEY of_job (job)",
        ),
        table(
            "job",
            // 1 where the accounts were begun, and more in one that cannot be continued.
            "id VARBINARY(64) PRIMARY KEY, accounts_begun BOOLEAN NOT NULL DEFAULT 0, \
             began DATETIME NOT NULL DEFAULT CURRENT_TIMESTAMP",
        ),
    ]
}

/// Waits until nobody else makes or removes the ledger.
async fn alone(server: &Server, conn: &mut Conn) -> Result<()> {
    if get_lock(server, conn, LEDGER, LEDGER_WAIT_SECONDS).await? {
        return Ok(());
    }
    Err(Failure::new(ExitCode::Busy, format!("`{}`: another restore holds the ledger", server.name))
        .hint("SHOW PROCESSLIST names the session that does not end."))
}

/// Makes a table of our own to try something with, and keeps the ledger from being made or removed meanwhile; `None`
/// where the account may not.
pub(super) async fn open_scratch(server: &Server, conn: &mut Conn) -> Result<Option<Place>> {
    let table = Place { db: LEDGER.to_owned(), table: "scratch".to_owned() };
    alone(server, conn).await?;
    let steps = [
        format!("CREATE DATABASE IF NOT EXISTS {LEDGER}"),
        format!("CREATE TABLE IF NOT EXISTS {} (n INT PRIMARY KEY)", table.sql()),
    ];
    for step in steps {
        match conn.query_drop(step).await {
            Ok(()) => {}
            Err(error) => {
                // What is there by now goes again, whatever was in the way of the rest.
                let closed = close_scratch(server, conn).await;
                if number(&error).is_some_and(is_denied) {
                    return closed.map(|()| None);
                }
                return Err(server.failure("make a table to try things with", error));
            }
        }
    }
    Ok(Some(table))
}

/// Removes what [`open_scratch`] made: the ledger too, where nobody notes in it.
pub(super) async fn close_scratch(server: &Server, conn: &mut Conn) -> Result<()> {
    drop_unused(server, conn).await?;
    release(server, conn).await
}

/// Drops a ledger without jobs, which is none.
async fn drop_unused(server: &Server, conn: &mut Conn) -> Result<()> {
    if !noted(server, conn).await?.is_empty() {
        return Ok(());
    }
    match conn.query_drop(format!("DROP DATABASE IF EXISTS {LEDGER}")).await {
        Err(error) if !number(&error).is_some_and(is_denied) => {
            Err(server.failure("remove the ledger of restores", error))
        }
        _ => Ok(()),
    }
}

/// Returns the statements that forget a job. The job goes first: without it the rest counts for nothing.
fn forget_all(job: &str) -> Vec<String> {
    let of_job = ["done", "kept", "granted", "written"].map(|table| forget(table, job));
    [format!("DELETE FROM {LEDGER}.job WHERE id = {job}")].into_iter().chain(of_job).collect()
}

/// Returns the statement that forgets what a job noted. By its index: who walks the whole table waits for the lines of
/// every other restore that is at work. An alias would take a session that has chosen a database.
fn forget(table: &str, job: &str) -> String {
    format!("DELETE FROM {LEDGER}.{table} USING {LEDGER}.{table} FORCE INDEX (of_job) WHERE job = {job}")
}

async fn get_lock(server: &Server, conn: &mut Conn, name: &str, wait_seconds: u32) -> Result<bool> {
    let sql = format!("SELECT GET_LOCK('{name}', {wait_seconds})");
    let rows = server.rows(conn, &sql, "keep other restores away").await?;
    Ok(rows.first().and_then(|row| text(row, 0)).as_deref() == Some("1"))
}

async fn release(server: &Server, conn: &mut Conn) -> Result<()> {
    server.run(conn, format!("DO RELEASE_LOCK('{LEDGER}')"), "let other restores go on").await
}

/// Returns the name of the lock that `of` stands for: a digest, or a job, which is one.
fn lock_name(of: &str) -> String {
    format!("{LEDGER}.{}", of.chars().filter(char::is_ascii_hexdigit).take(LOCK_DIGITS).collect::<String>())
}

fn digest(text: &str) -> String {
    hex::encode(Sha256::digest(text))
}

/// Returns text as SQL, for sessions of any charset.
fn hex(text: &str) -> String {
    format!("x'{}'", hex::encode(text))
}

fn count_of(server: &Server, count: &str) -> Result<u64> {
    count.parse().map_err(|_| {
        let what = format!("`{}`: the ledger of restores counts `{count}` rows", server.name);
        Failure::new(ExitCode::Failed, what).hint("Begin the restore anew, with --replace.")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_restores_meet_where_one_writes_a_database_or_both_the_same_table() {
        let place = |name: &str| {
            let (db, table) = name.split_once('.').map_or((name, None), |(db, table)| (db, Some(table)));
            (db.to_owned(), table.map(str::to_owned))
        };
        let written = |names: &[&str]| Written::of(names.iter().map(|name| place(name)));
        for (one, other, meet) in [
            (&["im.users"][..], "im.files", false),
            (&["im.users"], "shop.users", false),
            (&["im.users", "im.files"], "im.files", true),
            (&["im.users"], "im", true),
            (&["im"], "im.users", true),
            (&["im"], "shop", false),
            (&["im.users"], "IM.Users", true),
        ] {
            assert_eq!(written(one).meets(&place(other)), meet, "{one:?} and {other}");
        }
    }

    #[test]
    fn a_table_says_nothing_more_than_its_whole_database() {
        let table = |db: &str, n: usize| (db.to_owned(), Some(format!("t{n}")));
        let im = (0..10_000).map(|n| table("im", n));
        let all = im.chain([("im".to_owned(), None), table("shop", 1)]);
        let left: Vec<_> = Written::of(all).0.into_iter().collect();
        assert_eq!(left, [("im".to_owned(), None), table("shop", 1)]);
    }

    #[test]
    fn many_lines_are_noted_by_few_statements_and_the_job_last() {
        let ledger = Ledger::new("ab");
        let written = Written::of((0..10_000).map(|n| ("im".to_owned(), Some(format!("t{n}")))));
        let long = (0..3).map(|n| format!("GRANT {n} {}", "x".repeat(LINES_BYTES / 2))).collect();
        let steps = ledger.lines_of(&written, &long);
        let of = |table: &str| {
            let begin = format!("INSERT INTO {LEDGER}.{table} ");
            let statements = steps.iter().filter(|step| step.starts_with(&begin));
            statements.map(|step| step.matches(", x'6162', ").count()).collect::<Vec<_>>()
        };
        assert_eq!(of("written"), [LINES_MAX; 20]);
        assert_eq!(of("granted"), [1, 1, 1], "none is longer than a server takes");
        assert_eq!(steps.len(), 24);
        let job = format!("INSERT INTO {LEDGER}.job (id, accounts_begun) VALUES (x'6162', {ENDED})");
        assert_eq!(steps[23], job, "it cannot be continued yet");
        assert_eq!(ledger.lines_of(&Written::default(), &BTreeSet::new()).len(), 1);
    }

    #[test]
    fn what_was_noted_meanwhile_comes_once_more_and_what_is_gone_is_not_taken_for_done() {
        let name = SourceName::new("db").unwrap();
        let path = |name: &str| EntryPath::new(name).unwrap();
        let at = Place { db: "im".into(), table: "users".into() };
        let standing = |names: &[&str]| {
            let done = names.iter().map(|name| (path(name), (at.clone(), 7))).collect();
            Some(Standing { done, kept: None, ..Standing::default() })
        };
        let told: BTreeSet<EntryPath> = [path("im/users/1")].into();
        let agreed = |standing| agreed(&name, standing, &told);
        let both = standing(&["im/users/1", "im/users/2"]);
        assert_eq!(agreed(both).unwrap(), standing(&["im/users/1"]));
        for gone in [None, standing(&[]), standing(&["im/users/2"])] {
            assert_eq!(agreed(gone).unwrap_err().exit(), ExitCode::Busy);
        }
    }
}
