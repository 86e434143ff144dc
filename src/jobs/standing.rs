//! Gathers how a stack stands from what the catalog remembers. Asks no server and no store: it is the same at once for
//! the page, the metrics, the daily report and the command line.

use chrono::{DateTime, Duration, Utc};

use super::{
    backup::{GONE, POINT, host_name},
    doctor::{self, Room},
    drilled, lock, prune,
    seen::{self, PlaceSeen, REPOSITORY},
    tasks::{self, Scheduled},
};
use crate::{
    catalog::{Catalog, Run, RunEnd},
    drill::Way,
    error::{ExitCode, Result},
    names::{Job, Task},
    policy::{SourceConfig, Stack},
    status::{
        Incident, PlaceStanding, RunStanding, SourceStanding, Standing, TaskStanding, TaskState, Upcoming,
        Verdict,
    },
};

/// A task may be this many tenths of its interval without a success.
pub const OVERDUE_TENTHS: i32 = 15;
/// Runs that are looked through for the last one that ended.
const RUNS_BACK: u32 = 20;
/// Backups that are looked through for what a copy has.
const BACKUPS_BACK: u32 = 1000;
/// How long what is over is still shown.
const RESOLVED_SHOWN: Duration = Duration::hours(24);

/// Returns how the stack stands.
pub fn gather(stack: &Stack, ledger: &Catalog, now: DateTime<Utc>) -> Result<Standing> {
    let scheduled = tasks::scheduled(stack);
    let mut all: Vec<Task> = scheduled.iter().map(|one| one.task.clone()).collect();
    all.extend(tasks::after_backup(stack));
    // What runs by hand or by another timer counts as well.
    for job in [Job::Backup, Job::Sync, Job::Prune, Job::Verify, Job::Drill] {
        for task in tasks::tasks_of(stack, job) {
            if !ledger.runs_of(&task, 1)?.is_empty() {
                all.push(task);
            }
        }
    }
    all.sort();
    all.dedup();
    let standings =
        all.into_iter().map(|task| of_task(stack, ledger, &scheduled, task, now)).collect::<Result<_>>();
    let tasks: Vec<TaskStanding> = standings?;
    let incidents = ledger.open_incidents()?;
    Ok(Standing {
        stack: stack.name.clone(),
        host: host_name(),
        at: now,
        timezone: stack.timezone.name().to_owned(),
        verdict: verdict(&tasks, &incidents),
        sources: sources(stack, ledger)?,
        places: places(stack, ledger, now)?,
        resolved: ledger.resolved_incidents(now - RESOLVED_SHOWN)?,
        prune_frozen: prune::frozen(stack, ledger, now)?,
        drill: drilled::last(ledger, Way::Restore)?,
        by_hand: drilled::last(ledger, Way::ByHand)?,
        clock_skew_seconds: ledger.observed(doctor::CLOCKS)?.map(|(clocks, _)| clocks).unwrap_or_default(),
        next: upcoming(&tasks),
        tasks,
        incidents,
    })
}

/// A stack without a single backup is not known to be good, whatever else is.
fn verdict(tasks: &[TaskStanding], incidents: &[Incident]) -> Verdict {
    let has_backup = tasks.iter().any(|one| one.task.job == Job::Backup && one.last_success.is_some());
    let floor = if has_backup { Verdict::Good } else { Verdict::Unknown };
    Standing::judge(tasks, incidents).max(floor)
}

fn of_task(
    stack: &Stack,
    ledger: &Catalog,
    scheduled: &[Scheduled],
    task: Task,
    now: DateTime<Utc>,
) -> Result<TaskStanding> {
    let runs = ledger.runs_of(&task, RUNS_BACK)?;
    let last = last_ended(&runs);
    let last_success = ledger.last_success(&task)?.and_then(|run| Some(run.end?.ended));
    let interval = tasks::interval(stack, &task, now);
    let is_overdue = is_overdue(stack, ledger, &task, now)?;
    let exit = last.and_then(|run| run.end.as_ref()).map(|end| end.exit);
    let state = match exit {
        _ if is_overdue => TaskState::Overdue,
        None => TaskState::Waiting,
        Some(0) => TaskState::Ok,
        Some(exit) if exit == ExitCode::Partial.number() => TaskState::Partial,
        Some(_) => TaskState::Failed,
    };
    let cron = scheduled.iter().find(|one| one.task == task).map(|one| &one.cron);
    Ok(TaskStanding {
        state,
        interval_seconds: interval.and_then(|interval| u64::try_from(interval.num_seconds()).ok()),
        last_success,
        last_run: last.and_then(run_standing),
        running_since: runs.first().filter(|run| run.end.is_none()).map(|run| run.began),
        next: cron.and_then(|cron| cron.next_after(now)),
        task,
    })
}

/// Returns whether a task on the schedule had no success for longer than that allows, since somebody watches over it.
pub fn is_overdue(stack: &Stack, ledger: &Catalog, task: &Task, now: DateTime<Utc>) -> Result<bool> {
    let Some(interval) = tasks::interval(stack, task, now) else { return Ok(false) };
    let kept = last_kept(ledger, task, &ledger.runs_of(task, RUNS_BACK)?)?;
    let since = kept.or(watched_since(ledger, task)?);
    Ok(since.is_some_and(|since| now - since > overdue_after(interval)))
}

/// Returns how long a task may be without a success.
pub fn overdue_after(interval: Duration) -> Duration {
    interval * OVERDUE_TENTHS / 10
}

/// Returns the newest run, of runs with the newest first, that ended, was not stopped by a person or forbidden by an
/// incident, and was to do all that the task is.
pub fn last_ended<'r>(runs: impl IntoIterator<Item = &'r Run>) -> Option<&'r Run> {
    let was_stopped = |end: &RunEnd| end.exit == ExitCode::Interrupted.number();
    let counts =
        |run: &&Run| !run.is_part && run.end.as_ref().is_some_and(|end| !was_stopped(end) && !end.is_frozen);
    runs.into_iter().find(counts)
}

/// Returns when a task, of whose runs these are the newest, was last not behind its schedule: it succeeded, or came and
/// was forbidden by an incident.
pub fn last_kept(ledger: &Catalog, task: &Task, runs: &[Run]) -> Result<Option<DateTime<Utc>>> {
    let success = ledger.last_success(task)?.and_then(|run| Some(run.end?.ended));
    let mut ends = runs.iter().filter_map(|run| run.end.as_ref());
    Ok(success.max(ends.find(|end| end.is_frozen).map(|end| end.ended)))
}

/// Returns a run that ended as it is shown.
fn run_standing(run: &Run) -> Option<RunStanding> {
    let end = run.end.clone()?;
    Some(RunStanding {
        task: run.task.clone(),
        began: run.began,
        ended: end.ended,
        exit: end.exit,
        snapshot: end.snapshot,
        added_bytes: end.added_bytes,
        message: end.message,
        hint: end.hint,
    })
}

fn watch_name(task: &Task) -> String {
    format!("watch.{task}")
}

/// Returns since when somebody watches over a task's schedule.
pub fn watched_since(ledger: &Catalog, task: &Task) -> Result<Option<DateTime<Utc>>> {
    Ok(ledger.observed::<()>(&watch_name(task))?.map(|((), since)| since))
}

/// Notes that somebody watches over a task's schedule from now on, if nobody did; returns since when.
pub fn watch(ledger: &Catalog, task: &Task, now: DateTime<Utc>) -> Result<DateTime<Utc>> {
    if let Some(since) = watched_since(ledger, task)? {
        return Ok(since);
    }
    ledger.observe(&watch_name(task), &(), now)?;
    Ok(now)
}

/// Returns whether a copy has what this run made, as far as its last sync told.
fn has(copy: &PlaceSeen, run: &Run) -> bool {
    let made = run.end.as_ref().and_then(|end| end.snapshot.as_ref());
    let oldest_lacking = copy.behind.as_ref().and_then(|behind| behind.oldest.as_ref());
    copy.newest_began.is_some_and(|newest| run.began <= newest)
        && oldest_lacking.is_none_or(|(lacking, _)| made.is_some_and(|made| made < lacking))
}

fn sources(stack: &Stack, ledger: &Catalog) -> Result<Vec<SourceStanding>> {
    let mut copies = Vec::new();
    for one in &stack.offsites {
        copies.push(seen::place(ledger, one.name.as_str())?);
    }
    stack.sources_in_order().into_iter().map(|source| of_source(ledger, source, &copies)).collect()
}

/// Tells of a source by the newest backup that has it, which need not be the newest one.
fn of_source(ledger: &Catalog, source: &SourceConfig, copies: &[PlaceSeen]) -> Result<SourceStanding> {
    let name = source.name.as_str();
    let runs = ledger.snapshots_with(name, POINT, BACKUPS_BACK)?;
    let counts_of = |run: &Run| -> Result<Vec<(String, u64)>> {
        let counts = ledger.counts(run.number)?.into_iter().filter(|count| count.about == name);
        Ok(counts.map(|count| (count.what, count.value)).collect())
    };
    let point = |counts: &[(String, u64)]| {
        let found = counts.iter().find(|(what, _)| what == POINT)?;
        DateTime::from_timestamp(i64::try_from(found.1).ok()?, 0)
    };
    let mut counts = runs.first().map_or(Ok(Vec::new()), counts_of)?;
    let offsite = runs.iter().find(|run| copies.iter().any(|copy| has(copy, run)));
    let point_offsite = offsite.map(counts_of).transpose()?.and_then(|counts| point(&counts));
    let newest_point = point(&counts);
    counts.retain(|(what, _)| what != POINT && what != GONE);
    Ok(SourceStanding {
        name: name.to_owned(),
        kind: source.kind.word().to_owned(),
        point: newest_point,
        point_offsite,
        counts,
    })
}

/// Returns how it is with the repository and each copy.
pub fn places(stack: &Stack, ledger: &Catalog, now: DateTime<Utc>) -> Result<Vec<PlaceStanding>> {
    let mut all = vec![place(ledger, REPOSITORY)?];
    for offsite in &stack.offsites {
        let name = offsite.name.as_str();
        let seen = seen::place(ledger, name)?;
        let lag_seconds = lag_seconds(ledger, &seen, now)?;
        let lock = lock::remembered(ledger, name)?;
        all.push(PlaceStanding {
            is_offsite: true,
            lag_seconds,
            immutable: lock.immutable(now),
            lock: lock.test.map(|test| test.verdict),
            ..place(ledger, name)?
        });
    }
    Ok(all)
}

fn place(ledger: &Catalog, name: &str) -> Result<PlaceStanding> {
    let seen = seen::place(ledger, name)?;
    let room = ledger.observed::<Room>(&doctor::room_of(name))?.map(|(room, _)| room);
    Ok(PlaceStanding {
        name: name.to_owned(),
        is_offsite: false,
        snapshots: seen.snapshots,
        proven: seen.proven.unwrap_or_default(),
        immutable: 0,
        newest: seen.newest,
        newest_began: seen.newest_began,
        logical_bytes: seen.logical_bytes,
        stored_bytes: seen.stored_bytes,
        lag_bytes: seen.lag_bytes,
        lag_seconds: None,
        free_bytes: room.as_ref().map(|room| room.free_bytes),
        full_in_days: room.and_then(|room| room.full_in_days),
        lock: None,
    })
}

/// Returns how long the oldest snapshot that a copy lacks has waited; 0 when it lacks none. It lacks what its last sync
/// left behind, of whatever host, and what this host has made since. Unknown for a copy that nobody has seen, as long
/// as there is nothing that it lacks.
fn lag_seconds(ledger: &Catalog, copy: &PlaceSeen, now: DateTime<Utc>) -> Result<Option<u64>> {
    let backups = ledger.runs_of(&Task::of(Job::Backup), BACKUPS_BACK)?;
    // By time: the newest snapshot of a copy may be another host's.
    let is_newer = |run: &&Run| copy.newest_began.is_none_or(|newest| run.began > newest);
    let made = backups.iter().filter(is_newer).filter_map(|run| {
        let end = run.end.as_ref()?;
        end.snapshot.as_ref().map(|_| end.ended)
    });
    let left = copy.behind.iter().filter_map(|behind| behind.oldest.as_ref()).map(|(_, began)| *began);
    let has_seen = copy.newest.is_some();
    Ok(match made.chain(left).min() {
        Some(since) => Some(u64::try_from((now - since).num_seconds()).unwrap_or_default()),
        None => has_seen.then_some(0),
    })
}

fn upcoming(tasks: &[TaskStanding]) -> Vec<Upcoming> {
    let mut next: Vec<Upcoming> =
        tasks.iter().filter_map(|one| Some(Upcoming { task: one.task.clone(), at: one.next? })).collect();
    next.sort_by_key(|one| one.at);
    next
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{catalog::Count, jobs::seen::Behind, names::SnapshotId};

    fn at(hours: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + Duration::hours(hours)
    }

    fn id(hours: i64) -> SnapshotId {
        SnapshotId::at(at(hours), 1)
    }

    /// Notes a backup whose snapshot has these sources.
    fn backup(ledger: &Catalog, hours: i64, sources: &[&str]) {
        let run = ledger.begin_run(&Task::of(Job::Backup), 1, at(hours)).unwrap();
        let value = u64::try_from(at(hours).timestamp()).unwrap();
        let count = |about: &&str| Count { about: (*about).to_owned(), what: POINT.to_owned(), value };
        ledger.note_counts(run, &sources.iter().map(count).collect::<Vec<_>>()).unwrap();
        let end = RunEnd {
            ended: at(hours),
            exit: 0,
            snapshot: Some(id(hours)),
            added_bytes: 0,
            message: None,
            hint: None,
            is_frozen: false,
        };
        ledger.end_run(run, &end).unwrap();
    }

    fn copy(newest: i64, behind: Option<i64>) -> PlaceSeen {
        PlaceSeen {
            newest: Some(id(newest)),
            newest_began: Some(at(newest)),
            behind: Some(Behind { oldest: behind.map(|hours| (id(hours), at(hours))) }),
            ..PlaceSeen::default()
        }
    }

    #[test]
    fn a_copy_that_has_another_hosts_newest_snapshot_lags_by_what_it_lacks() {
        let ledger = Catalog::in_memory().unwrap();
        let lag =
            |copy: &PlaceSeen| lag_seconds(&ledger, copy, at(100)).unwrap().map(|seconds| seconds / 3600);
        assert_eq!(lag(&PlaceSeen::default()), None);
        backup(&ledger, 10, &[]);
        backup(&ledger, 34, &[]);
        assert_eq!(lag(&PlaceSeen::default()), Some(90));
        assert_eq!(lag(&copy(40, None)), Some(0));
        assert_eq!(lag(&copy(40, Some(34))), Some(66));
        backup(&ledger, 58, &[]);
        assert_eq!(lag(&copy(40, None)), Some(42));
        assert_eq!(lag(&copy(40, Some(34))), Some(66));
    }

    #[test]
    fn a_source_that_failed_tonight_keeps_the_point_of_the_night_before_here_and_offsite() {
        let ledger = Catalog::in_memory().unwrap();
        let stack = "stack = \"shop\"\n[repository]\nstore = \"fs\"\noptions = { root = \"/repo\" }\n\
            recipients = [\"age1abc\"]\nstate_dir = \"/state\"\n[[source]]\nname = \"data\"\nkind = \"files\"\n\
            paths = [\"/data\"]\n";
        let stack = Stack::parse(stack, "p.toml", crate::policy::Need::Sources).unwrap();
        let points = |copy: PlaceSeen| {
            let one = of_source(&ledger, &stack.sources[0], &[copy]).unwrap();
            (one.point, one.point_offsite)
        };
        assert_eq!(points(copy(40, None)), (None, None));
        backup(&ledger, 10, &["data"]);
        backup(&ledger, 34, &["data", "other"]);
        backup(&ledger, 58, &["other"]);
        assert_eq!(points(copy(58, None)), (Some(at(34)), Some(at(34))));
        assert_eq!(points(copy(20, None)), (Some(at(34)), Some(at(10))));
        assert_eq!(points(copy(40, Some(34))), (Some(at(34)), Some(at(10))));
        assert_eq!(points(PlaceSeen::default()), (Some(at(34)), None));
    }
}
