//! What ran when, how it ended and what it counted: for people and for the service.

use chrono::{DateTime, Utc};
use rusqlite::{Row, params};

use super::{Catalog, instant, maybe_instant, text_of};
use crate::{
    error::{ExitCode, Result},
    names::{Job, SnapshotId, Task},
};

/// One run of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Its number.
    pub number: i64,
    /// What ran.
    pub task: Task,
    /// When it began.
    pub began: DateTime<Utc>,
    /// Which try of its slot it is, from 1.
    pub attempt: u32,
    /// Whether it was asked for some of the stack's sources only: then it does not count as the task's.
    pub is_part: bool,
    /// How it ended; `None` while it runs, or when the process died.
    pub end: Option<RunEnd>,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunEnd {
    /// When.
    pub ended: DateTime<Utc>,
    /// The process's exit code.
    pub exit: u8,
    /// The snapshot that it made or read.
    pub snapshot: Option<SnapshotId>,
    /// Bytes that it added to the store.
    pub added_bytes: u64,
    /// What failed, if it did.
    pub message: Option<String>,
    /// What to do about that.
    pub hint: Option<String>,
    /// Whether nothing was done as an open incident forbade it. That incident tells of it; the run says nothing more.
    pub is_frozen: bool,
}

/// Something that a run counted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Count {
    /// What it concerns: a source; empty for the whole run.
    pub about: String,
    /// What was counted: `bytes`, `entries`, `rows`, `keys`, `objects`.
    pub what: String,
    /// How many.
    pub value: u64,
}

/// Runs and slots of each task that are never forgotten.
pub(super) const KEPT: u32 = 20;

const COLUMNS: &str =
    "n, verb, place, began, attempt, ended, exit, snapshot, added_bytes, message, hint, is_part, is_frozen";

impl Catalog {
    /// Notes that a run begins, and returns its number.
    pub fn begin_run(&self, task: &Task, attempt: u32, began: DateTime<Utc>) -> Result<i64> {
        let connection = self.connection();
        let insert = connection.execute(
            "INSERT INTO runs (verb, place, attempt, began) VALUES (?1, ?2, ?3, ?4)",
            params![task.job.word(), task.place, attempt, text_of(began)],
        );
        insert.map_err(|error| self.trouble(error))?;
        Ok(connection.last_insert_rowid())
    }

    /// Notes that a run was asked for some of the stack's sources only.
    pub fn mark_part(&self, run: i64) -> Result<()> {
        let update = self.connection().execute("UPDATE runs SET is_part = 1 WHERE n = ?1", params![run]);
        update.map_err(|error| self.trouble(error)).map(drop)
    }

    /// Notes how a run ended.
    pub fn end_run(&self, run: i64, end: &RunEnd) -> Result<()> {
        let update = self.connection().execute(
            "UPDATE runs SET ended = ?2, exit = ?3, snapshot = ?4, added_bytes = ?5, message = ?6, hint = ?7,
             is_frozen = ?8 WHERE n = ?1",
            params![
                run,
                text_of(end.ended),
                end.exit,
                end.snapshot.as_ref().map(SnapshotId::as_str),
                end.added_bytes,
                end.message,
                end.hint,
                end.is_frozen
            ],
        );
        update.map_err(|error| self.trouble(error)).map(drop)
    }

    /// Notes what a run counted.
    pub fn note_counts(&self, run: i64, counts: &[Count]) -> Result<()> {
        let connection = self.connection();
        let write = || -> rusqlite::Result<()> {
            let mut insert =
                connection.prepare_cached("INSERT OR REPLACE INTO counts VALUES (?1, ?2, ?3, ?4)")?;
            for count in counts {
                insert.execute(params![run, count.about, count.what, count.value])?;
            }
            Ok(())
        };
        write().map_err(|error| self.trouble(error))
    }

    /// Returns what a run counted, sorted.
    pub fn counts(&self, run: i64) -> Result<Vec<Count>> {
        let connection = self.connection();
        let read = || {
            let mut query = connection.prepare_cached(
                "SELECT about, what, value FROM counts WHERE run = ?1 ORDER BY about, what",
            )?;
            let rows = query.query_map(params![run], |row| {
                Ok(Count { about: row.get(0)?, what: row.get(1)?, value: row.get(2)? })
            })?;
            rows.collect::<rusqlite::Result<Vec<Count>>>()
        };
        read().map_err(|error| self.trouble(error))
    }

    /// Returns what was counted of one thing by the newest `limit` runs before `run` that did count it, the newest
    /// first.
    pub fn counts_before(&self, run: i64, about: &str, what: &str, limit: u32) -> Result<Vec<u64>> {
        let connection = self.connection();
        let read = || {
            let mut query = connection.prepare_cached(
                "SELECT value FROM counts WHERE about = ?2 AND what = ?3 AND run < ?1 ORDER BY run DESC LIMIT ?4",
            )?;
            query
                .query_map(params![run, about, what, limit], |row| row.get(0))?
                .collect::<rusqlite::Result<Vec<u64>>>()
        };
        read().map_err(|error| self.trouble(error))
    }

    /// Returns what was counted of one thing by the run `first` and those after it up to, and without, `run`.
    pub fn counts_between(&self, first: i64, run: i64, about: &str, what: &str) -> Result<Vec<u64>> {
        let connection = self.connection();
        let read = || {
            let mut query = connection.prepare_cached(
                "SELECT value FROM counts WHERE about = ?3 AND what = ?4 AND run >= ?1 AND run < ?2 ORDER BY run",
            )?;
            query
                .query_map(params![first, run, about, what], |row| row.get(0))?
                .collect::<rusqlite::Result<Vec<u64>>>()
        };
        read().map_err(|error| self.trouble(error))
    }

    /// Returns what was counted of one thing since `since`, each with when its run began, the oldest first.
    pub fn counted_since(
        &self,
        about: &str,
        what: &str,
        since: DateTime<Utc>,
    ) -> Result<Vec<(DateTime<Utc>, u64)>> {
        let connection = self.connection();
        let read = || {
            let mut query = connection.prepare_cached(
                "SELECT began, value FROM counts JOIN runs ON n = run
                 WHERE about = ?1 AND what = ?2 AND began >= ?3 ORDER BY began",
            )?;
            let rows = query
                .query_map(params![about, what, text_of(since)], |row| Ok((instant(row, 0)?, row.get(1)?)))?;
            rows.collect::<rusqlite::Result<Vec<_>>>()
        };
        read().map_err(|error| self.trouble(error))
    }

    /// Returns the newest `limit` runs, the newest first.
    pub fn runs(&self, limit: u32) -> Result<Vec<Run>> {
        self.some_runs("TRUE", params![limit])
    }

    /// Returns the newest `limit` runs of one task, the newest first.
    pub fn runs_of(&self, task: &Task, limit: u32) -> Result<Vec<Run>> {
        self.some_runs("verb = ?2 AND place IS ?3", params![limit, task.job.word(), task.place])
    }

    /// Returns the newest `limit` backups that made a snapshot and counted this of it, the newest first.
    pub fn snapshots_with(&self, about: &str, what: &str, limit: u32) -> Result<Vec<Run>> {
        self.some_runs(
            "verb = ?2 AND snapshot IS NOT NULL
             AND EXISTS (SELECT 1 FROM counts WHERE run = n AND about = ?3 AND what = ?4)",
            params![limit, Job::Backup.word(), about, what],
        )
    }

    /// Returns the newest run of a task that did all it should, with all the stack's sources.
    pub fn last_success(&self, task: &Task) -> Result<Option<Run>> {
        let found = self.some_runs(
            "verb = ?2 AND place IS ?3 AND exit = 0 AND NOT is_part",
            params![1, task.job.word(), task.place],
        );
        Ok(found?.pop())
    }

    /// Returns the newest run of a task that ended with one of these codes; of those that began before `before` only,
    /// if that is given.
    pub fn last_with_exit(
        &self,
        task: &Task,
        exits: [ExitCode; 4],
        before: Option<DateTime<Utc>>,
    ) -> Result<Option<Run>> {
        let [a, b, c, d] = exits.map(ExitCode::number);
        let found = self.some_runs(
            "verb = ?2 AND place IS ?3 AND NOT is_part AND exit IN (?4, ?5, ?6, ?7) AND (?8 IS NULL OR began < ?8)",
            params![1, task.job.word(), task.place, a, b, c, d, before.map(text_of)],
        );
        Ok(found?.pop())
    }

    /// Returns the runs that began and did not end, the newest first.
    pub fn open_runs(&self) -> Result<Vec<Run>> {
        self.some_runs("ended IS NULL", params![u32::MAX])
    }

    /// Returns whether any run is known to have made a snapshot.
    pub fn has_snapshots(&self) -> Result<bool> {
        let connection = self.connection();
        let query = "SELECT EXISTS (SELECT 1 FROM runs WHERE verb = 'backup' AND snapshot IS NOT NULL)";
        connection.query_row(query, [], |row| row.get(0)).map_err(|error| self.trouble(error))
    }

    /// Forgets runs that ended before `before`, with what they counted, but the newest of each task: a clock that is
    /// wrong for a moment, or a task that is rare, must not cost all of the past.
    pub fn forget_runs(&self, before: DateTime<Utc>) -> Result<()> {
        let delete = self.connection().execute(
            "DELETE FROM runs WHERE ended < ?1 AND n NOT IN (SELECT n FROM
             (SELECT n, row_number() OVER (PARTITION BY verb, place ORDER BY n DESC) AS rank FROM runs)
             WHERE rank <= ?2)",
            params![text_of(before), KEPT],
        );
        delete.map(drop).map_err(|error| self.trouble(error))
    }

    fn some_runs(&self, condition: &str, values: &[&dyn rusqlite::ToSql]) -> Result<Vec<Run>> {
        let connection = self.connection();
        let read = || {
            let query = format!("SELECT {COLUMNS} FROM runs WHERE {condition} ORDER BY n DESC LIMIT ?1");
            let mut query = connection.prepare_cached(&query)?;
            let rows = query.query_map(values, run_of)?;
            // What an older or newer program ran and this one does not know is nobody's task here.
            rows.filter_map(Result::transpose).collect::<rusqlite::Result<Vec<Run>>>()
        };
        read().map_err(|error| self.trouble(error))
    }
}

fn run_of(row: &Row<'_>) -> rusqlite::Result<Option<Run>> {
    let Some(job) = Job::of(&row.get::<_, String>(1)?) else { return Ok(None) };
    let end = match maybe_instant(row, 5)? {
        None => None,
        Some(ended) => Some(RunEnd {
            ended,
            exit: row.get(6)?,
            snapshot: row.get::<_, Option<String>>(7)?.and_then(|id| id.parse().ok()),
            added_bytes: row.get(8)?,
            message: row.get(9)?,
            hint: row.get(10)?,
            is_frozen: row.get(12)?,
        }),
    };
    Ok(Some(Run {
        number: row.get(0)?,
        task: Task { job, place: row.get(2)? },
        began: instant(row, 3)?,
        attempt: row.get(4)?,
        is_part: row.get(11)?,
        end,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(exit: u8) -> RunEnd {
        RunEnd {
            ended: DateTime::UNIX_EPOCH,
            exit,
            snapshot: Some(SnapshotId::at(DateTime::UNIX_EPOCH, 1)),
            added_bytes: 7,
            message: Some("why".into()),
            hint: Some("Do this.".into()),
            is_frozen: exit == 1,
        }
    }

    #[test]
    fn a_run_that_never_ended_is_told_from_one_that_did() {
        let catalog = Catalog::in_memory().unwrap();
        let began = DateTime::UNIX_EPOCH;
        let first = catalog.begin_run(&Task::of(Job::Backup), 1, began).unwrap();
        let second = catalog.begin_run(&Task::at(Job::Sync, "oss"), 2, began).unwrap();
        catalog.end_run(first, &end(1)).unwrap();
        let runs = catalog.runs(10).unwrap();
        let open = Run {
            number: second,
            task: Task::at(Job::Sync, "oss"),
            began,
            attempt: 2,
            is_part: false,
            end: None,
        };
        assert_eq!(runs[0], open);
        assert_eq!(runs[1].end, Some(end(1)));
        assert_eq!(catalog.open_runs().unwrap(), [open]);
    }

    #[test]
    fn the_last_success_is_of_that_task_and_that_place() {
        let catalog = Catalog::in_memory().unwrap();
        let runs = [
            (Task::of(Job::Sync), 0),
            (Task::at(Job::Sync, "oss"), 0),
            (Task::at(Job::Sync, "oss"), 30),
            (Task::at(Job::Sync, "nas"), 0),
        ];
        let mut numbers = Vec::new();
        for (task, exit) in &runs {
            let run = catalog.begin_run(task, 1, DateTime::UNIX_EPOCH).unwrap();
            catalog.end_run(run, &end(*exit)).unwrap();
            numbers.push(run);
        }
        let last = |task: Task| catalog.last_success(&task).unwrap().map(|run| run.number);
        assert_eq!(last(Task::of(Job::Sync)), Some(numbers[0]));
        assert_eq!(last(Task::at(Job::Sync, "oss")), Some(numbers[1]));
        assert_eq!(last(Task::of(Job::Backup)), None);
        assert_eq!(catalog.runs_of(&Task::at(Job::Sync, "oss"), 9).unwrap().len(), 2);
    }

    #[test]
    fn a_run_of_some_sources_is_no_success_of_the_task() {
        let catalog = Catalog::in_memory().unwrap();
        let task = Task::of(Job::Backup);
        let ended = |exit| {
            let run = catalog.begin_run(&task, 1, DateTime::UNIX_EPOCH).unwrap();
            catalog.end_run(run, &end(exit)).unwrap();
            run
        };
        let whole = ended(0);
        let part = ended(0);
        catalog.mark_part(part).unwrap();
        assert_eq!(catalog.last_success(&task).unwrap().map(|run| run.number), Some(whole));
        assert!(catalog.runs(1).unwrap()[0].is_part);
    }

    #[test]
    fn counts_are_compared_with_those_of_earlier_runs_only_and_go_with_their_run() {
        let catalog = Catalog::in_memory().unwrap();
        let count = |value| Count { about: "mysql".into(), what: "rows".into(), value };
        for value in 1..=9_u64 {
            let run = catalog.begin_run(&Task::of(Job::Backup), 1, DateTime::UNIX_EPOCH).unwrap();
            catalog.note_counts(run, &[count(value)]).unwrap();
            catalog.end_run(run, &end(0)).unwrap();
        }
        assert_eq!(catalog.counts_before(9, "mysql", "rows", 3).unwrap(), [8, 7, 6]);
        assert_eq!(catalog.counts(9).unwrap(), [count(9)]);
        for _ in 0..KEPT {
            let run = catalog.begin_run(&Task::of(Job::Backup), 1, DateTime::UNIX_EPOCH).unwrap();
            catalog.end_run(run, &end(0)).unwrap();
        }
        catalog.forget_runs(DateTime::UNIX_EPOCH + chrono::Duration::seconds(1)).unwrap();
        assert_eq!(catalog.counts_before(99, "mysql", "rows", 3).unwrap(), [0_u64; 0]);
        assert_eq!(catalog.runs(99).unwrap().len(), KEPT as usize);
    }
}
