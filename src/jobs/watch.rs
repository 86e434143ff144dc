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
    anomaly, doctor, drilled, lock, notify,
    standing::{self, overdue_after},
    tasks,
};
use crate::{
    catalog::{Catalog, Run, Slot, SlotState},
    clock::Ground,
    error::{ExitCode, Failure, Result},
    finding::{Finding, Status},
    names::{Job, Task},
    notify::Topic,
    policy::Stack,
    status::{
        Condition, Incident, Kind, Urgency,
        incident::{Change, settle},
    },
};

/// The observation under which the service notes that the policy's file cannot be used.
pub const POLICY_REFUSED: &str = "policy.refused";
/// How long doctor's findings count where it is not on the schedule.
const FINDINGS_COUNT: Duration = Duration::hours(48);
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
                let Some(incident) = ledger.open_incident(condition, now)? else { continue };
                tell(stack, ledger, Topic::Opened(incident), condition, ground)?;
            }
            // Of two processes that look at once the first has told it.
            Change::Reminded(incident) => {
                if ledger.note_incident(incident)? {
                    tell(stack, ledger, Topic::Reminder(incident.clone()), incident, ground)?;
                }
            }
            Change::Altered(incident) => drop(ledger.note_incident(incident)?),
            Change::Resolved(incident) => {
                if ledger.note_incident(incident)? {
                    tell(stack, ledger, Topic::Resolved(incident.clone()), incident, ground)?;
                }
            }
        }
    }
    Ok(changes)
}

/// Returns an incident that is open.
pub fn open_one(ledger: &Catalog, number: i64) -> Result<Incident> {
    let found = ledger.incident(number)?.filter(|incident| incident.resolved.is_none());
    found.ok_or_else(|| {
        Failure::new(ExitCode::Usage, format!("no incident {number} is open"))
            .hint("`lifeboat incidents` lists those that are.")
    })
}

/// Notes what a person said to an incident. What waited for that is over with it; a source that was unusual is
/// accepted as it is now, so that a further loss opens a new incident. What a drill found of a place that the policy
/// does not name any more is over too.
pub fn acknowledge(
    stack: &Stack,
    ledger: &Catalog,
    number: i64,
    note: &str,
    ground: &Ground,
) -> Result<Incident> {
    let mut incident = open_one(ledger, number)?;
    if incident.kind.waits_for_a_person() {
        let newest = anomaly::newest(ledger, &incident.about)?;
        look(stack, ledger, ground)?;
        let now = open_one(ledger, number)?;
        // A person accepts what was read, and nothing that came since.
        if now.what != incident.what {
            return Err(Failure::new(ExitCode::Failed, format!("incident {number} is another one by now"))
                .because(now.condition.what)
                .hint("Look at that too, then acknowledge it."));
        }
        if let Some(run) = newest {
            anomaly::accept(ledger, &incident.about, &run, ground.clock.now())?;
        }
    }
    if incident.kind == Kind::Drill {
        drilled::settle(stack, ledger, &incident.about)?;
    }
    ledger.acknowledge(number, note)?;
    incident.acknowledged = Some(note.to_owned());
    look(stack, ledger, ground)?;
    Ok(incident)
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
    for job in [Job::Backup, Job::Sync, Job::Prune, Job::Verify, Job::Drill] {
        all.extend(tasks::tasks_of(stack, job));
    }
    all.sort();
    all.dedup();
    for task in &all {
        let runs = ledger.runs_of(task, RUNS_BACK)?;
        let before = found.len();
        // What is not on the schedule any more owes no slot.
        let newest = if scheduled.contains(task) { ledger.newest_slot(task, now)? } else { None };
        found.extend(newest.as_ref().and_then(|slot| of_slot(slot, &runs)));
        found.extend(of_harm(ledger, task, newest.as_ref())?);
        // What a drill found is told before that a later one could not run.
        found.extend(drilled::condition(ledger, task)?);
        let of_run = of_runs(task, &runs, newest.as_ref());
        if let Some(run) = last_final(&runs, newest.as_ref())
            && of_run.as_ref().is_some_and(|one| one.kind == Kind::Partial)
            && anomaly::tells_of(ledger, &stack.anomaly, run)?
        {
            continue;
        }
        found.extend(of_run);
        // That no drill shows any more what can be restored is a matter of its own, whatever else one found.
        if found.len() == before || drilled::is_overdue(stack, ledger, task, now)? {
            found.extend(of_age(stack, ledger, task, now)?);
        }
    }
    found.extend(anomaly::of_newest(ledger, &stack.anomaly)?);
    found.extend(of_copies(stack, ledger, now)?);
    found.extend(of_locks(stack, ledger, now)?);
    found.extend(of_doctor(stack, ledger, now)?);
    found.extend(of_policy(ledger)?);
    found.extend(of_channels(stack, ledger)?);
    Ok(found)
}

/// What is lost while no backup is made is lost for good; all else can wait until people are up.
fn urgency_of(task: &Task) -> Urgency {
    if task.job == Job::Backup { Urgency::Page } else { Urgency::Ticket }
}

/// Tells of a slot for which nothing ran.
fn of_slot(slot: &Slot, runs: &[Run]) -> Option<Condition> {
    let Slot { task, expected, state, is_late } = slot;
    let at = expected.format("%Y-%m-%d %H:%M UTC");
    let has_run = || runs.iter().any(|run| run.began >= *expected);
    let what = match state {
        SlotState::Failed if !has_run() => {
            format!("{task} did not run at {at}: another run was at work each time it was tried")
        }
        SlotState::Missed => format!("{task} did not run at {at}: the service was not there"),
        SlotState::Skipped => format!("{task} did not run at {at}: the one before was still at work"),
        SlotState::Waiting | SlotState::Running if *is_late => {
            format!("{task} did not run at {at}: the service was not there; it is made up for now")
        }
        _ => return None,
    };
    Some(Condition {
        kind: Kind::Missed,
        about: task.to_string(),
        // One night without the service is one message, not one for each task.
        urgency: if task.job == Job::Backup { Urgency::Ticket } else { Urgency::Info },
        what,
        hint: Some("Look why with `systemctl status lifeboat` or the container's log.".to_owned()),
        drill: None,
    })
}

/// Returns since when a slot is in hand that is not yet given up: its tries so far say nothing.
fn in_hand(newest: Option<&Slot>) -> Option<DateTime<Utc>> {
    newest
        .filter(|slot| matches!(slot.state, SlotState::Waiting | SlotState::Running))
        .map(|slot| slot.expected)
}

/// Tells what the newest run found that could tell whether the stored bytes are right. One that did not come so far
/// mended nothing.
fn of_harm(ledger: &Catalog, task: &Task, newest: Option<&Slot>) -> Result<Option<Condition>> {
    let could_tell = [ExitCode::Ok, ExitCode::Partial, ExitCode::Tampering, ExitCode::Damage];
    let Some(run) = ledger.last_with_exit(task, could_tell, in_hand(newest))? else { return Ok(None) };
    let Some(end) = run.end else { return Ok(None) };
    let kind = match end.exit {
        exit if exit == ExitCode::Tampering.number() => Kind::Tampering,
        exit if exit == ExitCode::Damage.number() => Kind::Damage,
        _ => return Ok(None),
    };
    let why = end.message.unwrap_or_else(|| format!("it ended with code {}", end.exit));
    Ok(Some(Condition {
        kind,
        about: task.to_string(),
        urgency: Urgency::Page,
        what: format!("{task} failed: {why}"),
        hint: end.hint,
        // It left no report: its run tells it from the one before.
        drill: (task.job == Job::Drill).then_some(run.number),
    }))
}

/// Returns the last run that says how it is with a task. Tries of a slot that is not yet given up say nothing: what was
/// before them still holds.
fn last_final<'r>(runs: &'r [Run], newest: Option<&Slot>) -> Option<&'r Run> {
    let in_hand = in_hand(newest);
    let is_final = |run: &&Run| in_hand.is_none_or(|expected| run.began < expected);
    standing::last_ended(runs.iter().filter(is_final))
}

/// Tells how the last run ended, if it did not end well.
fn of_runs(task: &Task, runs: &[Run], newest: Option<&Slot>) -> Option<Condition> {
    let end = last_final(runs, newest)?.end.as_ref().filter(|end| end.exit != 0)?;
    let is = |exit: ExitCode| end.exit == exit.number();
    let is_told = matches!(task.job, Job::Doctor | Job::Lock) && !is(ExitCode::StoreDown);
    let is_told = is_told || is(ExitCode::DrillFailed);
    if is_told || is(ExitCode::Tampering) || is(ExitCode::Damage) {
        // What they found is told by itself.
        return None;
    }
    let (kind, urgency) = if is(ExitCode::Partial) {
        (Kind::Partial, Urgency::Ticket)
    } else if task.job == Job::Drill {
        (Kind::Drill, Urgency::Ticket)
    } else {
        (Kind::Failed, urgency_of(task))
    };
    let why = end.message.clone().unwrap_or_else(|| format!("it ended with code {}", end.exit));
    let verb = match kind {
        Kind::Partial => "left something out",
        Kind::Drill => "could not run",
        _ => "failed",
    };
    Some(Condition {
        kind,
        about: task.to_string(),
        urgency,
        what: format!("{task} {verb}: {why}"),
        hint: end.hint.clone(),
        drill: None,
    })
}

/// Tells of a task that had no success for too long, in whatever way that came.
fn of_age(stack: &Stack, ledger: &Catalog, task: &Task, now: DateTime<Utc>) -> Result<Option<Condition>> {
    let Some(interval) = tasks::interval(stack, task, now) else { return Ok(None) };
    // What doctor and the tamper test find is told by itself; that they looked is what counts here.
    let runs = ledger.runs_of(task, RUNS_BACK)?;
    let success = if matches!(task.job, Job::Doctor | Job::Lock) {
        standing::last_ended(&runs).and_then(|run| run.end.as_ref()).map(|end| end.ended)
    } else {
        standing::last_kept(ledger, task, &runs)?
    };
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
        drill: None,
    }))
}

/// Tells of copies that are far behind.
fn of_copies(stack: &Stack, ledger: &Catalog, now: DateTime<Utc>) -> Result<Vec<Condition>> {
    let mut found = Vec::new();
    for place in standing::places(stack, ledger, now)?.iter().filter(|place| place.is_offsite) {
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
                drill: None,
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
fn of_doctor(stack: &Stack, ledger: &Catalog, now: DateTime<Utc>) -> Result<Vec<Condition>> {
    let Some((findings, at)) = ledger.observed::<Vec<Finding>>(doctor::FINDINGS)? else {
        return Ok(Vec::new());
    };
    // One look by hand is not true for ever.
    let counts_for =
        tasks::interval(stack, &Task::of(Job::Doctor), now).map_or(FINDINGS_COUNT, overdue_after);
    if now - at > counts_for {
        return Ok(Vec::new());
    }
    let wrong =
        findings.into_iter().filter(|finding| matches!(finding.status, Status::Broken | Status::Warn));
    let condition = |finding: Finding| Condition {
        kind: Kind::Doctor,
        urgency: if finding.status == Status::Broken { Urgency::Ticket } else { Urgency::Info },
        what: format!("not so: {}: {}", finding.what, finding.detail),
        hint: finding.hint,
        drill: None,
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
        drill: None,
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
                drill: None,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{catalog::RunEnd, finding::Law, jobs::backup::GONE};

    fn at(hours: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + Duration::hours(hours)
    }

    /// Notes a run that ended so.
    fn ran(ledger: &Catalog, task: &Task, hours: i64, exit: ExitCode) {
        ran_or_froze(ledger, task, hours, exit, false);
    }

    /// Notes a run that an incident forbade.
    fn froze(ledger: &Catalog, task: &Task, hours: i64) {
        ran_or_froze(ledger, task, hours, ExitCode::Failed, true);
    }

    fn ran_or_froze(ledger: &Catalog, task: &Task, hours: i64, exit: ExitCode, is_frozen: bool) {
        let run = ledger.begin_run(task, 1, at(hours)).unwrap();
        let end = RunEnd {
            ended: at(hours),
            exit: exit.number(),
            snapshot: None,
            added_bytes: 0,
            message: Some("why".to_owned()),
            hint: None,
            is_frozen,
        };
        ledger.end_run(run, &end).unwrap();
    }

    #[test]
    fn a_backup_of_some_sources_ends_no_failure_of_the_stacks() {
        let (ledger, task) = (Catalog::in_memory().unwrap(), Task::of(Job::Backup));
        let is_told = || of_runs(&task, &ledger.runs_of(&task, RUNS_BACK).unwrap(), None).is_some();
        ran(&ledger, &task, 1, ExitCode::SourceDown);
        ran(&ledger, &task, 2, ExitCode::Ok);
        ledger.mark_part(ledger.runs(1).unwrap()[0].number).unwrap();
        assert!(is_told());
        ran(&ledger, &task, 3, ExitCode::Ok);
        assert!(!is_told());
    }

    /// A stack that prunes each day.
    fn daily_prune() -> Stack {
        let text = "stack = \"shop\"\n[repository]\nstore = \"fs\"\noptions = { root = \"/repo\" }\n\
            recipients = [\"age1abc\"]\nstate_dir = \"/state\"\n[schedule]\nprune = \"0 4 * * *\"\n";
        Stack::parse(text, "p.toml", crate::policy::Need::Repository).unwrap()
    }

    #[test]
    fn a_prune_that_an_incident_forbids_is_told_by_that_alone_and_hides_no_failure_before() {
        let (ledger, stack, task) = (Catalog::in_memory().unwrap(), daily_prune(), Task::of(Job::Prune));
        standing::watch(&ledger, &task, at(0)).unwrap();
        let told = |hours| {
            let found = conditions(&stack, &ledger, at(hours)).unwrap();
            found.into_iter().map(|one| one.kind).collect::<Vec<_>>()
        };
        ran(&ledger, &task, 4, ExitCode::Ok);
        for day in 1..8 {
            froze(&ledger, &task, 4 + 24 * day);
            assert_eq!(told(5 + 24 * day), []);
        }
        assert_eq!(told(24 * 10), [Kind::Overdue], "nobody comes any more");
        // What a guard refuses is told by nothing else.
        ran(&ledger, &task, 24 * 10, ExitCode::Failed);
        assert_eq!(told(24 * 10), [Kind::Failed]);
        froze(&ledger, &task, 24 * 11);
        assert_eq!(told(24 * 11), [Kind::Failed]);
        ran(&ledger, &task, 24 * 12, ExitCode::Ok);
        assert_eq!(told(24 * 12), []);
    }

    #[test]
    fn a_source_that_lost_much_is_one_incident_and_what_else_was_left_out_is_another() {
        let (ledger, stack, task) = (Catalog::in_memory().unwrap(), daily_prune(), Task::of(Job::Backup));
        let night = |hours, exit, counts: &[(&str, u64)]| {
            ran(&ledger, &task, hours, exit);
            let run = ledger.runs(1).unwrap().remove(0);
            let count = |(what, value): &(&str, u64)| crate::catalog::Count {
                about: "minio".into(),
                what: (*what).into(),
                value: *value,
            };
            ledger.note_counts(run.number, &counts.iter().map(count).collect::<Vec<_>>()).unwrap();
            let end =
                RunEnd { snapshot: Some(crate::names::SnapshotId::at(at(hours), 1)), ..run.end.unwrap() };
            ledger.end_run(run.number, &end).unwrap();
            let found = conditions(&stack, &ledger, at(hours)).unwrap();
            found.into_iter().map(|one| one.kind).collect::<Vec<_>>()
        };
        for hours in 1..5 {
            assert_eq!(night(hours, ExitCode::Ok, &[("objects", 40)]), []);
        }
        assert_eq!(night(5, ExitCode::Partial, &[("objects", 30), (GONE, 1)]), [Kind::Partial], "as usual");
        assert_eq!(night(6, ExitCode::Partial, &[("objects", 20)]), [Kind::Partial, Kind::Anomaly]);
        assert_eq!(night(7, ExitCode::Partial, &[("objects", 20), (GONE, 1)]), [Kind::Anomaly]);
        let run = ledger.runs(1).unwrap().remove(0);
        anomaly::accept(&ledger, "minio", &run, at(7)).unwrap();
        assert_eq!(conditions(&stack, &ledger, at(7)).unwrap(), [], "a person knows of it");
    }

    #[test]
    fn a_slot_that_was_given_up_without_a_run_is_told_and_one_that_ran_tells_by_its_run() {
        let (ledger, task) = (Catalog::in_memory().unwrap(), Task::of(Job::Backup));
        let slot = Slot { task: task.clone(), expected: at(26), state: SlotState::Failed, is_late: false };
        let told = || of_slot(&slot, &ledger.runs_of(&task, RUNS_BACK).unwrap());
        ran(&ledger, &task, 2, ExitCode::Ok);
        let condition = told().unwrap();
        assert_eq!((condition.kind, condition.urgency), (Kind::Missed, Urgency::Ticket));
        assert_eq!(
            condition.what,
            "backup did not run at 1970-01-02 02:00 UTC: another run was at work each time it was tried"
        );
        ran(&ledger, &task, 26, ExitCode::SourceDown);
        assert_eq!(told(), None);
    }

    #[test]
    fn what_doctor_found_counts_until_its_next_look_was_due_and_two_days_without_a_schedule() {
        let (ledger, stack) = (Catalog::in_memory().unwrap(), daily_prune());
        let room = Law { id: "disk.room", page: "room", what: "there is room", hint: "Make room." };
        let finding = room.broken("3 days are left");
        ledger.observe(doctor::FINDINGS, &[finding], at(0)).unwrap();
        let told = |stack: &Stack, hours| {
            let found = of_doctor(stack, &ledger, at(hours)).unwrap();
            found.into_iter().map(|one| one.about).collect::<Vec<_>>()
        };
        assert_eq!((told(&stack, 48), told(&stack, 49)), (vec!["disk.room".to_owned()], Vec::new()));
        let mut weekly = stack.clone();
        weekly.schedule.doctor = Some("0 20 * * 0".to_owned());
        assert_eq!(told(&weekly, 49), ["disk.room"]);
        let (days, half) = (24 * 10, 12);
        assert_eq!(
            (told(&weekly, days + half), told(&weekly, days + half + 1)),
            (told(&weekly, 0), Vec::new())
        );
    }

    #[test]
    fn damage_is_over_when_a_run_that_could_tell_finds_none() {
        let (ledger, task) = (Catalog::in_memory().unwrap(), Task::of(Job::Verify));
        let kinds = || {
            let runs = ledger.runs_of(&task, RUNS_BACK).unwrap();
            let found = [of_harm(&ledger, &task, None).unwrap(), of_runs(&task, &runs, None)];
            found.into_iter().flatten().map(|one| one.kind).collect::<Vec<_>>()
        };
        ran(&ledger, &task, 1, ExitCode::Damage);
        assert_eq!(kinds(), [Kind::Damage]);
        for hour in 2..40 {
            ran(&ledger, &task, hour, ExitCode::StoreDown);
            assert_eq!(kinds(), [Kind::Damage, Kind::Failed]);
        }
        ran(&ledger, &task, 40, ExitCode::Tampering);
        assert_eq!(kinds(), [Kind::Tampering]);
        ran(&ledger, &task, 41, ExitCode::Ok);
        assert_eq!(kinds(), []);
    }
}
