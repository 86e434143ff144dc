//! Looks what is wrong with a stack now, and tells those who want to know.
//!
//! What is wrong is worked out anew each time from what is remembered: how runs ended, which slots nobody kept, what
//! was counted, what doctor found. So an incident ends by itself when what it tells of is over, whoever put it right,
//! and a service that was killed looks at the same facts when it starts again.
//!
//! *Order.* Conditions are compared with open incidents; each change is written to the catalog first, its message to
//! the outbox next. *Crash.* Between the two a message is lost that its reminder repeats an hour later.

use chrono::{DateTime, Duration, Utc};

use super::{
    anomaly, doctor, lock, notify,
    standing::{self, newest_slot, overdue_after},
    tasks,
};
use crate::{
    catalog::{Catalog, Run, SlotState},
    clock::Ground,
    error::{ExitCode, Result},
    finding::{Finding, Status},
    names::{Job, Task},
    notify::Topic,
    policy::Stack,
    status::{
        Condition, Kind, Urgency,
        incident::{Change, settle},
    },
};

/// The observation under which the service notes that the policy's file cannot be used.
pub const POLICY_REFUSED: &str = "policy.refused";
/// Runs of a task that are looked through.
const RUNS_BACK: u32 = 20;
/// How old it may be what is known of a copy's locks.
const LOCK_STALE_AFTER: Duration = Duration::days(3);

/// Compares what is wrong now with what was, notes it and writes the messages. Returns what changed.
pub fn look(stack: &Stack, ledger: &Catalog, ground: &Ground) -> Result<Vec<Change>> {
    let now = ground.clock.now();
    let changes = settle(&ledger.open_incidents()?, &conditions(stack, ledger, now)?, now);
    for change in &changes {
        match change {
            Change::Opened(condition) => {
                let incident = ledger.open_incident(condition, now)?;
                tell(stack, ledger, Topic::Opened(incident), condition, ground)?;
            }
            Change::Reminded(incident) => {
                ledger.note_incident(incident)?;
                tell(stack, ledger, Topic::Reminder(incident.clone()), incident, ground)?;
            }
            Change::Altered(incident) => ledger.note_incident(incident)?,
            Change::Resolved(incident) => {
                ledger.note_incident(incident)?;
                tell(stack, ledger, Topic::Resolved(incident.clone()), incident, ground)?;
            }
        }
    }
    Ok(changes)
}

/// Writes a message, unless the matter is only worth a line in the daily report.
fn tell(stack: &Stack, ledger: &Catalog, topic: Topic, condition: &Condition, ground: &Ground) -> Result<()> {
    if condition.urgency == Urgency::Info {
        return Ok(());
    }
    notify::tell(stack, ledger, topic, ground).map(drop)
}

/// Returns all that is wrong now.
pub fn conditions(stack: &Stack, ledger: &Catalog, now: DateTime<Utc>) -> Result<Vec<Condition>> {
    let mut found = Vec::new();
    let scheduled: Vec<Task> = tasks::scheduled(stack).into_iter().map(|one| one.task).collect();
    let mut all = scheduled.clone();
    all.extend(tasks::after_backup(stack));
    for job in [Job::Backup, Job::Sync, Job::Prune, Job::Verify] {
        all.extend(tasks::tasks_of(stack, job));
    }
    all.sort();
    all.dedup();
    for task in &all {
        let runs = ledger.runs_of(task, RUNS_BACK)?;
        let before = found.len();
        found.extend(of_slots(ledger, task)?);
        found.extend(of_runs(ledger, task, &runs)?);
        if found.len() == before {
            found.extend(of_age(stack, ledger, task, now)?);
        }
    }
    let backups = ledger.runs_of(&Task::of(Job::Backup), RUNS_BACK)?;
    let made = backups.iter().find(|run| run.end.as_ref().is_some_and(|end| end.snapshot.is_some()));
    if let Some(run) = made {
        found.extend(anomaly::of_run(ledger, &stack.anomaly, run)?);
    }
    found.extend(of_copies(stack, ledger, now)?);
    found.extend(of_locks(stack, ledger, now)?);
    found.extend(of_doctor(ledger)?);
    found.extend(of_policy(ledger)?);
    found.extend(of_channels(stack, ledger)?);
    Ok(found)
}

/// What is lost while no backup is made is lost for good; all else can wait until people are up.
fn urgency_of(task: &Task) -> Urgency {
    if task.job == Job::Backup { Urgency::Page } else { Urgency::Ticket }
}

/// Tells of a slot for which nothing ran.
fn of_slots(ledger: &Catalog, task: &Task) -> Result<Option<Condition>> {
    let Some((expected, state, is_late)) = newest_slot(ledger, task)? else { return Ok(None) };
    let at = expected.format("%Y-%m-%d %H:%M UTC");
    let what = match state {
        SlotState::Missed => format!("{task} did not run at {at}: the service was not there"),
        SlotState::Skipped => format!("{task} did not run at {at}: the one before was still at work"),
        SlotState::Waiting | SlotState::Running if is_late => {
            format!("{task} did not run at {at}: the service was not there; it is made up for now")
        }
        _ => return Ok(None),
    };
    Ok(Some(Condition {
        kind: Kind::Missed,
        about: task.to_string(),
        // One night without the service is one message, not one for each task.
        urgency: if task.job == Job::Backup { Urgency::Ticket } else { Urgency::Info },
        what,
        hint: Some("Look why with `systemctl status lifeboat` or the container's log.".to_owned()),
    }))
}

/// Tells how the last run ended, if it did not end well. Tries of a slot that is not yet given up say nothing: what was
/// before them still holds.
fn of_runs(ledger: &Catalog, task: &Task, runs: &[Run]) -> Result<Option<Condition>> {
    let in_hand = newest_slot(ledger, task)?
        .filter(|(_, state, _)| matches!(state, SlotState::Waiting | SlotState::Running));
    let is_final = |run: &&Run| in_hand.is_none_or(|(expected, ..)| run.began < expected);
    let runs: Vec<&Run> = runs.iter().filter(is_final).collect();
    let Some(run) = standing::last_ended(runs) else { return Ok(None) };
    let Some(end) = run.end.as_ref().filter(|end| end.exit != 0) else { return Ok(None) };
    let is = |exit: ExitCode| end.exit == exit.number();
    let (kind, urgency) = if is(ExitCode::Tampering) {
        (Kind::Tampering, Urgency::Page)
    } else if is(ExitCode::Damage) {
        (Kind::Damage, Urgency::Page)
    } else if matches!(task.job, Job::Doctor | Job::Lock) && end.exit != ExitCode::StoreDown.number() {
        // What they found is told by itself.
        return Ok(None);
    } else if is(ExitCode::Partial) {
        (Kind::Partial, Urgency::Ticket)
    } else if task.job == Job::Drill {
        (Kind::Drill, Urgency::Ticket)
    } else {
        (Kind::Failed, urgency_of(task))
    };
    let why = end.message.clone().unwrap_or_else(|| format!("it ended with code {}", end.exit));
    let verb = if kind == Kind::Partial { "left something out" } else { "failed" };
    Ok(Some(Condition {
        kind,
        about: task.to_string(),
        urgency,
        what: format!("{task} {verb}: {why}"),
        hint: end.hint.clone(),
    }))
}

/// Tells of a task that had no success for too long, in whatever way that came.
fn of_age(stack: &Stack, ledger: &Catalog, task: &Task, now: DateTime<Utc>) -> Result<Option<Condition>> {
    let Some(interval) = tasks::interval(stack, task, now) else { return Ok(None) };
    let success = ledger.last_success(task)?.and_then(|run| Some(run.end?.ended));
    let Some(since) = success.or(standing::watched_since(ledger, task)?) else { return Ok(None) };
    if now - since <= overdue_after(interval) {
        return Ok(None);
    }
    let never = if success.is_none() { "has never succeeded; watched" } else { "has not succeeded" };
    let what = format!(
        "{task} {never} since {}, expected every {}",
        since.format("%Y-%m-%d %H:%M UTC"),
        span(interval)
    );
    Ok(Some(Condition {
        kind: Kind::Overdue,
        about: task.to_string(),
        urgency: urgency_of(task),
        what,
        hint: Some(format!("Run it by hand and see what it says: `lifeboat {task}`.")),
    }))
}

/// Tells of copies that are far behind.
fn of_copies(stack: &Stack, ledger: &Catalog, now: DateTime<Utc>) -> Result<Vec<Condition>> {
    let mut found = Vec::new();
    let standing = standing::gather(stack, ledger, now)?;
    for place in standing.places.iter().filter(|place| place.is_offsite) {
        let task = Task::at(Job::Sync, &place.name);
        let Some(interval) = tasks::interval(stack, &task, now) else { continue };
        let allowed = overdue_after(interval);
        let behind = place.lag_seconds.and_then(|seconds| i64::try_from(seconds).ok()).map(Duration::seconds);
        if let Some(behind) = behind.filter(|behind| *behind > allowed) {
            found.push(Condition {
                kind: Kind::Lag,
                about: place.name.clone(),
                urgency: Urgency::Ticket,
                what: format!("copy `{}` lacks a snapshot that is {} old", place.name, span(behind)),
                hint: Some(format!("Run `lifeboat sync {}` and see what it says.", place.name)),
            });
        }
    }
    Ok(found)
}

/// Tells of copies that the service would let go, by the last test of each and by what was last locked.
fn of_locks(stack: &Stack, ledger: &Catalog, now: DateTime<Utc>) -> Result<Vec<Condition>> {
    let mut found = Vec::new();
    for offsite in &stack.offsites {
        let (name, Some(days)) = (offsite.name.as_str(), offsite.settings.lock_days) else { continue };
        // A copy that is made once a week is looked at once a week.
        let interval = tasks::interval(stack, &Task::at(Job::Sync, name), now);
        let stale_after = interval.map_or(LOCK_STALE_AFTER, |one| LOCK_STALE_AFTER.max(overdue_after(one)));
        found.extend(lock::remembered(ledger, name)?.condition(name, days, stale_after, now));
    }
    Ok(found)
}

/// Tells what doctor found last.
fn of_doctor(ledger: &Catalog) -> Result<Vec<Condition>> {
    let Some((findings, _)) = ledger.observed::<Vec<Finding>>(doctor::FINDINGS)? else {
        return Ok(Vec::new());
    };
    let wrong =
        findings.into_iter().filter(|finding| matches!(finding.status, Status::Broken | Status::Warn));
    let condition = |finding: Finding| Condition {
        kind: Kind::Doctor,
        urgency: if finding.status == Status::Broken { Urgency::Ticket } else { Urgency::Info },
        what: format!("not so: {}: {}", finding.what, finding.detail),
        hint: finding.hint,
        about: finding.id,
    };
    Ok(wrong.map(condition).collect())
}

fn of_policy(ledger: &Catalog) -> Result<Option<Condition>> {
    let Some((why, _)) = ledger.observed::<String>(POLICY_REFUSED)? else { return Ok(None) };
    Ok(Some(Condition {
        kind: Kind::Policy,
        about: "policy".to_owned(),
        urgency: Urgency::Ticket,
        what: format!("the policy's file cannot be used, the older one still counts: {why}"),
        hint: Some("Run `lifeboat policy check`, then `systemctl reload lifeboat`.".to_owned()),
    }))
}

/// Tells of channels that take no messages; those that still do carry the word.
fn of_channels(stack: &Stack, ledger: &Catalog) -> Result<Vec<Condition>> {
    let mut found = Vec::new();
    for channel in &stack.notify {
        if let Some(why) = ledger.last_refusal(&channel.name)? {
            found.push(Condition {
                kind: Kind::Notify,
                about: channel.name.clone(),
                urgency: Urgency::Ticket,
                what: format!("channel `{}` takes no messages: {why}", channel.name),
                hint: Some(format!("Run `lifeboat notify test {}`.", channel.name)),
            });
        }
    }
    Ok(found)
}

/// Says a time as people do, in its largest two units.
fn span(time: Duration) -> String {
    let (days, hours, minutes) = (time.num_days(), time.num_hours() % 24, time.num_minutes() % 60);
    match (days, hours) {
        (0, 0) => format!("{minutes} min"),
        (0, _) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}
