//! Decides which tasks begin now: slots, overlap, tries, deadlines and what follows a backup.
//!
//! Nothing is run here and no time is read: whoever drives it tells the instant ([`Scheduler::tick`]), begins what it
//! says and tells how it ended ([`Scheduler::ended`]). So a week of nights can be played in a test.
//!
//! *Order.* A slot is noted as running before its run begins, and what became of it after the run was noted. A note
//! that cannot be written stops nothing: what it says is kept in mind, and the trouble is told
//! ([`Scheduler::take_trouble`]). A backup without a note is better than none.
//!
//! *Crash.* [`Scheduler::recover`] finds slots that are noted as running, or waiting, and nobody at work on them:
//! they are tried again, no oftener than after a failure.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use chrono::{DateTime, Duration, Utc};
use tokio_util::sync::CancellationToken;

use crate::{
    catalog::{Catalog, Run, Slot, SlotState},
    error::{ExitCode, Failure, Result},
    jobs::{
        drilled,
        open::RunLock,
        run::Outcome,
        seen, standing,
        tasks::{self, may_pass},
    },
    names::{Job, Task},
    policy::{CatchUp, Overlap, Stack},
    schedule::{Cron, due, jitter},
};

/// Slots that are looked at to know what is accounted for.
const SLOTS_BACK: u32 = 1000;
/// Backups that are looked through for the newest that made a snapshot.
const RUNS_BACK: u32 = 20;
/// Slots of a task that are kept in mind; older ones are behind those that the catalog knows.
const SLOTS_IN_MIND: usize = 64;
/// A try never waits longer than this for the one before.
const WAIT_MAX: Duration = Duration::hours(6);

/// Decides which tasks begin now.
pub struct Scheduler {
    stack: Arc<Stack>,
    ledger: Arc<Catalog>,
    /// Names this host and stack for the dice of [`jitter`].
    seed: String,
    lanes: BTreeMap<Task, Lane>,
    /// The first thing that the catalog could not do since somebody asked.
    trouble: Option<Failure>,
}

/// A task that begins.
#[derive(Clone, Debug)]
pub struct Start {
    /// The task.
    pub task: Task,
    /// Which try it is, from 1.
    pub attempt: u32,
    /// Asks it to end.
    pub stop: CancellationToken,
}

/// One task: only one run of it is at work at a time.
#[derive(Default)]
struct Lane {
    cron: Option<Cron>,
    state: State,
    /// What begins when the one at work is done.
    queued: Option<Turn>,
    /// Slots that are accounted for, also where the catalog could not be told.
    accounted: BTreeSet<DateTime<Utc>>,
}

/// A reason to run: a slot, or nothing but that something else was done.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Turn {
    slot: Option<(DateTime<Utc>, bool)>,
    attempt: u32,
}

#[derive(Default)]
enum State {
    #[default]
    Idle,
    Running {
        turn: Turn,
        began: DateTime<Utc>,
        stop: CancellationToken,
        is_overtime: bool,
    },
    /// Failed, and tried again then.
    Again {
        turn: Turn,
        not_before: DateTime<Utc>,
    },
}

impl Scheduler {
    /// Makes a scheduler of a stack's tasks.
    pub fn new(stack: Arc<Stack>, ledger: Arc<Catalog>, host: &str) -> Self {
        let seed = format!("{host} {}", stack.name);
        let mut new = Self { stack: stack.clone(), ledger, seed, lanes: BTreeMap::new(), trouble: None };
        new.adopt(stack);
        new
    }

    /// Goes on with another policy. What is at work goes on as it began.
    pub fn adopt(&mut self, stack: Arc<Stack>) {
        for lane in self.lanes.values_mut() {
            lane.cron = None;
        }
        for one in tasks::scheduled(&stack) {
            self.lanes.entry(one.task).or_default().cron = Some(one.cron);
        }
        for task in tasks::after_backup(&stack) {
            self.lanes.entry(task).or_default();
        }
        self.stack = stack;
    }

    /// Returns what the catalog could not do since the last time, if something.
    pub fn take_trouble(&mut self) -> Option<Failure> {
        self.trouble.take()
    }

    fn bear<T>(&mut self, tried: Result<T>) -> Option<T> {
        match tried {
            Ok(value) => Some(value),
            Err(failure) => {
                self.trouble.get_or_insert(failure);
                None
            }
        }
    }

    fn note(&mut self, slot: &Slot, now: DateTime<Utc>) {
        if let Some(lane) = self.lanes.get_mut(&slot.task) {
            lane.accounted.insert(slot.expected);
            while lane.accounted.len() > SLOTS_IN_MIND {
                lane.accounted.pop_first();
            }
        }
        let noted = self.ledger.note_slot(slot, now);
        self.bear(noted);
    }

    /// Notes runs that died with their process as ended. Returns their tasks.
    pub fn bury(&mut self, now: DateTime<Utc>) -> Vec<Task> {
        let open = self.ledger.open_runs();
        let mut died = Vec::new();
        for run in self.bear(open).unwrap_or_default() {
            // Somebody at the command line may be at work on it.
            if self.is_at_work_elsewhere(&run.task) {
                continue;
            }
            let failure = Failure::new(ExitCode::Failed, "the process ended before the run did")
                .hint("Look for the reason in the system's log: no memory, a restart of the host.");
            let ended = self.ledger.end_run(run.number, &Outcome::failed(&failure).end(now));
            self.bear(ended);
            died.push(run.task);
        }
        died
    }

    fn is_at_work_elsewhere(&self, task: &Task) -> bool {
        RunLock::take(&self.stack, task).is_err_and(|failure| failure.exit() == ExitCode::Busy)
    }

    /// Takes up what a service that died has left: its runs are noted as ended, what they ran for is tried again, and a
    /// copy that was to follow a backup follows it now. Returns the tasks whose runs had died.
    pub fn recover(&mut self, now: DateTime<Utc>) -> Vec<Task> {
        let died = self.bury(now);
        for slot in self.open_slots() {
            let runs = self.ledger.runs_of(&slot.task, 1);
            let attempt = match self.bear(runs).unwrap_or_default().first() {
                Some(run) if run.began >= slot.expected => run.attempt + u32::from(!was_stopped(run)),
                _ => 1,
            };
            let newest = self.ledger.newest_slot(&slot.task, now);
            let is_newest =
                self.bear(newest).flatten().is_some_and(|newest| newest.expected == slot.expected);
            if !is_newest || attempt > self.stack.schedule.retries + 1 {
                self.note(&Slot { state: SlotState::Failed, ..slot }, now);
                continue;
            }
            let turn = Turn { slot: Some((slot.expected, true)), attempt };
            if let Some(lane) = self.lanes.get_mut(&slot.task) {
                lane.state = State::Again { turn, not_before: now };
            }
            self.note(&Slot { state: SlotState::Waiting, is_late: true, ..slot }, now);
        }
        let lacking = lacks_newest(&self.stack, &self.ledger);
        for follower in self.bear(lacking).unwrap_or_default() {
            self.lanes.entry(follower).or_default().queued.get_or_insert(Turn { slot: None, attempt: 1 });
        }
        died
    }

    /// Gives up slots that a service left open: for hosts on which a timer begins tasks, and nobody keeps slots.
    pub fn give_up_slots(&mut self, now: DateTime<Utc>) {
        for slot in self.open_slots() {
            self.note(&Slot { state: SlotState::Failed, ..slot }, now);
        }
    }

    /// Returns slots that are noted as running or waiting, and nobody is at work on their task.
    fn open_slots(&mut self) -> Vec<Slot> {
        let mut found = Vec::new();
        for task in self.lanes.keys().cloned().collect::<Vec<_>>() {
            let slots = self.ledger.slots(&task, SLOTS_BACK);
            let mut open = self.bear(slots).unwrap_or_default();
            open.retain(|slot| matches!(slot.state, SlotState::Running | SlotState::Waiting));
            if !open.is_empty() && !self.is_at_work_elsewhere(&task) {
                found.append(&mut open);
            }
        }
        found
    }

    /// Says which tasks begin now, and asks those to end that have been at work for too long.
    pub fn tick(&mut self, now: DateTime<Utc>) -> Vec<Start> {
        let mut starts = Vec::new();
        let all: Vec<Task> = self.lanes.keys().cloned().collect();
        for task in &all {
            self.check_deadline(task, now);
            let looked = self.look_for_slots(task, now);
            self.bear(looked);
            starts.extend(self.begin(task, now));
        }
        let followers = tasks::after_backup(&self.stack);
        self.lanes.retain(|task, lane| {
            let is_idle = matches!(lane.state, State::Idle) && lane.queued.is_none();
            !is_idle || lane.cron.is_some() || followers.contains(task)
        });
        starts
    }

    /// Asks a task to end because it has been at work for too long.
    pub fn give_up(&mut self, task: &Task) {
        if let Some(Lane { state: State::Running { stop, is_overtime, .. }, .. }) = self.lanes.get_mut(task) {
            *is_overtime = true;
            stop.cancel();
        }
    }

    fn check_deadline(&mut self, task: &Task, now: DateTime<Utc>) {
        let Some((minutes, _)) = tasks::deadline(&self.stack, task) else { return };
        let Some(lane) = self.lanes.get_mut(task) else { return };
        if let State::Running { began, stop, is_overtime, .. } = &mut lane.state
            && now - *began > Duration::minutes(i64::from(minutes))
            && !*is_overtime
        {
            *is_overtime = true;
            stop.cancel();
        }
    }

    /// Notes the slots whose time came, and gives the newest of them its turn.
    fn look_for_slots(&mut self, task: &Task, now: DateTime<Utc>) -> Result<()> {
        let watched_since = standing::watch(&self.ledger, task, now)?;
        let mut accounted: BTreeSet<DateTime<Utc>> =
            self.ledger.slots(task, SLOTS_BACK)?.into_iter().map(|slot| slot.expected).collect();
        let (schedule, seed) = (self.stack.schedule.clone(), format!("{} {task}", self.seed));
        let Some(lane) = self.lanes.get_mut(task) else { return Ok(()) };
        let Some(cron) = &lane.cron else { return Ok(()) };
        accounted.extend(&lane.accounted);
        let put_off = |slot| jitter(&seed, slot, schedule.jitter_seconds);
        let makes_up = schedule.catch_up == CatchUp::Once;
        let due = due(cron, &accounted, watched_since, put_off, makes_up, now);
        let mut notes: Vec<(DateTime<Utc>, SlotState, bool)> =
            due.missed.into_iter().map(|slot| (slot, SlotState::Missed, false)).collect();
        if let Some((slot, is_late)) = due.run {
            let turn = Turn { slot: Some((slot, is_late)), attempt: 1 };
            if matches!(lane.state, State::Running { .. }) && schedule.overlap == Overlap::Skip {
                notes.push((slot, SlotState::Skipped, false));
            } else {
                // A try of an older slot gives way to the new one.
                if let State::Again { turn, .. } = &lane.state {
                    notes.extend(turn.slot.map(|(older, was_late)| (older, SlotState::Failed, was_late)));
                    lane.state = State::Idle;
                }
                if let Some(Turn { slot: Some((older, was_late)), .. }) = lane.queued.replace(turn) {
                    notes.push((older, SlotState::Skipped, was_late));
                }
                notes.push((slot, SlotState::Waiting, is_late));
            }
        }
        for (expected, state, is_late) in notes {
            self.note(&Slot { task: task.clone(), expected, state, is_late }, now);
        }
        Ok(())
    }

    /// Returns whether what has its turn begins only when something else is done: a drill when no other is at work, for
    /// each would spoil what the other measures, and one that follows a backup when the copies have, for it may
    /// restore from one of them.
    fn waits_for(&self, task: &Task, turn: &Turn) -> bool {
        if task.job != Job::Drill {
            return false;
        }
        self.lanes.iter().filter(|(other, _)| *other != task).any(|(other, lane)| {
            let is_at_work = matches!(lane.state, State::Running { .. });
            let begins = matches!(lane.state, State::Idle) && lane.queued.is_some();
            match other.job {
                Job::Drill => is_at_work,
                Job::Sync => turn.slot.is_none() && (is_at_work || begins),
                _ => false,
            }
        })
    }

    /// Begins what has its turn, if the lane is free.
    fn begin(&mut self, task: &Task, now: DateTime<Utc>) -> Option<Start> {
        let lane = self.lanes.get(task)?;
        let turn = match &lane.state {
            State::Again { turn, not_before } if *not_before <= now => turn,
            State::Running { .. } | State::Again { .. } => return None,
            State::Idle => lane.queued.as_ref()?,
        };
        if self.waits_for(task, turn) {
            return None;
        }
        let lane = self.lanes.get_mut(task)?;
        let turn = match &lane.state {
            State::Again { turn, .. } => turn.clone(),
            _ => lane.queued.take()?,
        };
        let (stop, attempt) = (CancellationToken::new(), turn.attempt);
        let slot = turn.slot;
        lane.state = State::Running { turn, began: now, stop: stop.clone(), is_overtime: false };
        if let Some((expected, is_late)) = slot {
            self.note(&Slot { task: task.clone(), expected, state: SlotState::Running, is_late }, now);
        }
        Some(Start { task: task.clone(), attempt, stop })
    }

    /// Takes note how a run ended. Returns what became of it, which for one that was at work for too long is not what
    /// the run itself says.
    pub fn ended(&mut self, task: &Task, outcome: Outcome, now: DateTime<Utc>) -> Outcome {
        let Some(lane) = self.lanes.get_mut(task) else { return outcome };
        let State::Running { turn, began, is_overtime, .. } = std::mem::take(&mut lane.state) else {
            return outcome;
        };
        let is_overtime = is_overtime && gave_up(&outcome);
        let outcome = if is_overtime { overtime(&self.stack, task, outcome) } else { outcome };
        let schedule = &self.stack.schedule;
        let may_pass = may_pass(&outcome) && !is_overtime && turn.attempt <= schedule.retries;
        if may_pass {
            let not_before = now + wait_before(schedule.retry_minutes, turn.attempt);
            lane.state =
                State::Again { turn: Turn { attempt: turn.attempt + 1, ..turn.clone() }, not_before };
        }
        if task.job == Job::Backup {
            for follower in tasks::followers(&self.stack, &outcome) {
                let lane = self.lanes.entry(follower).or_default();
                lane.queued.get_or_insert(Turn { slot: None, attempt: 1 });
                if matches!(lane.state, State::Again { turn: Turn { slot: None, .. }, .. }) {
                    lane.state = State::Idle;
                }
            }
        }
        let closed = close(&self.ledger, task, began, turn.attempt, is_overtime, &outcome, now);
        self.bear(closed);
        if let Some((expected, is_late)) = turn.slot {
            let state = match outcome.exit() {
                ExitCode::Ok | ExitCode::Partial => SlotState::Done,
                // The service stops: whoever comes next tries again.
                ExitCode::Interrupted => SlotState::Waiting,
                _ if may_pass => SlotState::Waiting,
                _ if outcome.is_frozen => SlotState::Done,
                _ => SlotState::Failed,
            };
            self.note(&Slot { task: task.clone(), expected, state, is_late }, now);
        }
        outcome
    }

    /// Returns when something is to be looked at again, if nothing happens before.
    pub fn next(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let schedule = &self.stack.schedule;
        let times = self.lanes.iter().flat_map(|(task, lane)| {
            let seed = format!("{} {task}", self.seed);
            let slot = lane.cron.as_ref().and_then(|cron| {
                // One that chance puts off may lie before now.
                let from = now - Duration::seconds(i64::from(schedule.jitter_seconds));
                cron.after(from)
                    .take(8)
                    .map(|slot| slot + jitter(&seed, slot, schedule.jitter_seconds))
                    .find(|at| *at > now)
            });
            let other = match &lane.state {
                State::Idle => lane.queued.as_ref().filter(|turn| !self.waits_for(task, turn)).map(|_| now),
                State::Again { turn, not_before } => {
                    Some(*not_before).filter(|_| !self.waits_for(task, turn))
                }
                State::Running { began, is_overtime, .. } => tasks::deadline(&self.stack, task)
                    .filter(|_| !is_overtime)
                    .map(|(minutes, _)| *began + Duration::minutes(i64::from(minutes))),
            };
            [slot, other]
        });
        times.flatten().min()
    }

    /// Returns when the next try of what failed begins.
    pub fn next_try(&self) -> Option<DateTime<Utc>> {
        let tries = self.lanes.values().filter_map(|lane| match &lane.state {
            State::Again { not_before, .. } => Some(*not_before),
            _ => None,
        });
        tries.min()
    }

    /// Returns the tasks that are at work, and asks all of them to end.
    pub fn stop(&mut self) -> Vec<Task> {
        let at_work = self.lanes.iter().filter_map(|(task, lane)| match &lane.state {
            State::Running { stop, .. } => {
                stop.cancel();
                Some(task.clone())
            }
            _ => None,
        });
        at_work.collect()
    }

    /// Returns the tasks that are at work.
    pub fn at_work(&self) -> Vec<Task> {
        let lanes = self.lanes.iter().filter(|(_, lane)| matches!(lane.state, State::Running { .. }));
        lanes.map(|(task, _)| task.clone()).collect()
    }

    /// Returns whether a task waits to be tried again.
    pub fn waits(&self) -> bool {
        self.lanes.values().any(|lane| matches!(lane.state, State::Again { .. }) || lane.queued.is_some())
    }
}

/// Returns what was to follow the newest backup and has not: the service that made it stopped before.
fn lacks_newest(stack: &Stack, ledger: &Catalog) -> Result<Vec<Task>> {
    let backups = ledger.runs_of(&Task::of(Job::Backup), RUNS_BACK)?;
    let made = |run: &&Run| run.end.as_ref().is_some_and(|end| end.snapshot.is_some());
    let Some(newest) = backups.iter().find(made) else { return Ok(Vec::new()) };
    let mut lacking = Vec::new();
    let is_whole = newest.end.as_ref().is_some_and(|end| end.exit == ExitCode::Ok.number());
    for task in tasks::after_backup(stack) {
        let is_lacking = if task.job == Job::Drill {
            is_whole && drilled::is_owed(ledger, newest.began)?
        } else {
            let seen = seen::place(ledger, task.place.as_deref().unwrap_or_default())?;
            seen.newest_began.is_none_or(|began| began < newest.began)
        };
        if is_lacking {
            lacking.push(task);
        }
    }
    Ok(lacking)
}

/// Returns whether a run was asked to end by whoever stopped the service: that is no failure of its own.
fn was_stopped(run: &Run) -> bool {
    run.end.as_ref().is_some_and(|end| end.exit == ExitCode::Interrupted.number())
}

/// Returns how long the next try waits: twice as long each time.
pub(super) fn wait_before(retry_minutes: u32, attempt: u32) -> Duration {
    let doubled = i64::from(retry_minutes).saturating_mul(1 << attempt.saturating_sub(1).min(16));
    Duration::minutes(doubled).min(WAIT_MAX)
}

/// Returns whether a run that was asked to end did not come to its own.
pub(super) fn gave_up(outcome: &Outcome) -> bool {
    matches!(outcome.exit(), ExitCode::Interrupted | ExitCode::DrillNotRun)
}

/// Returns what became of a run that was given up. A drill that was has proven nothing, neither good nor bad.
pub(super) fn overtime(stack: &Stack, task: &Task, outcome: Outcome) -> Outcome {
    let (minutes, key) = tasks::deadline(stack, task).unwrap_or_default();
    let exit = if task.job == Job::Drill { ExitCode::DrillNotRun } else { ExitCode::Failed };
    let failure = Failure::new(exit, format!("given up: not done after {minutes} minutes"))
        .hint(format!("Look what it waits for, or raise {key}."));
    Outcome { counts: outcome.counts, ..Outcome::failed(&failure) }
}

/// Sees to it that the catalog tells how a run ended: one that was dropped could not note it itself, and one that was
/// given up says only that it was stopped.
fn close(
    ledger: &Catalog,
    task: &Task,
    began: DateTime<Utc>,
    attempt: u32,
    is_overtime: bool,
    outcome: &Outcome,
    now: DateTime<Utc>,
) -> Result<()> {
    let Some(run) = ledger.runs_of(task, 1)?.into_iter().next() else { return Ok(()) };
    let is_ours = run.began >= began && run.attempt == attempt;
    if is_ours && (run.end.is_none() || is_overtime) {
        ledger.end_run(run.number, &outcome.clone().end(now))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
