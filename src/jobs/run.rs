//! Runs a task of a stack: under its lock, and with a note in the catalog of how it ended.
//!
//! The command line and the service come through here alike, so what a person starts by hand counts for the schedule,
//! and what the service does can be done by hand.
//!
//! *Order.* Lock, note that it begins, the work, note how it ended. *Crash.* The lock goes with the process; the note
//! stays open, and the service says that the run died. That the note cannot be written stops no work.

use std::{future::Future, sync::Arc};

use chrono::{DateTime, Utc};
use tokio_util::sync::CancellationToken;

use super::{
    open::{self, RunLock},
    seen::{self, PlaceSeen},
};
use crate::{
    catalog::{Catalog, Count, RunEnd},
    clock::Ground,
    error::{ExitCode, Failure, Result},
    event::SharedMonitor,
    names::{Job, SnapshotId, Task},
    policy::Stack,
};

/// What a run is made with.
#[derive(Clone, Copy)]
pub struct RunContext<'a> {
    /// The policy.
    pub stack: &'a Stack,
    /// Time and chance.
    pub ground: &'a Ground,
    /// Who hears what happens.
    pub monitor: &'a SharedMonitor,
    /// Ends the run early, with nothing half done.
    pub stop: &'a CancellationToken,
    /// Which try it is, from 1.
    pub attempt: u32,
}

impl RunContext<'_> {
    /// Opens the catalog that remembers the stack's runs: that of its repository, also for work on a copy.
    pub fn ledger(&self) -> Result<Arc<Catalog>> {
        open::ledger(self.stack, self.monitor)
    }
}

/// Returns the failure of a run that was asked to end before it was done.
pub fn stopped() -> Failure {
    interrupted("stopped before it was done")
}

/// Returns the failure of work that was ended from outside; `what` says how.
pub fn interrupted(what: impl Into<String>) -> Failure {
    Failure::new(ExitCode::Interrupted, what)
        .hint("Nothing half done counts; run it again. What was stored already is used again.")
}

/// What is remembered of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// How a process that did only this would end.
    pub exit: Option<ExitCode>,
    /// The snapshot that was made.
    pub snapshot: Option<SnapshotId>,
    /// Bytes that were added to the store.
    pub added_bytes: u64,
    /// What failed, if something did.
    pub message: Option<String>,
    /// What to do about that.
    pub hint: Option<String>,
    /// What was counted.
    pub counts: Vec<Count>,
    /// What was seen of the place that was worked on.
    pub place: PlaceSeen,
    /// Whether an open incident forbade it: see [`Failure::frozen`].
    pub is_frozen: bool,
}

impl Outcome {
    /// Returns how a process that did only this would end.
    pub fn exit(&self) -> ExitCode {
        self.exit.unwrap_or(ExitCode::Ok)
    }

    /// Returns the outcome of a failure.
    pub fn failed(failure: &Failure) -> Self {
        Self {
            exit: Some(failure.exit()),
            message: Some(failure.one_line()),
            hint: (!failure.hints().is_empty()).then(|| failure.hints().join(" ")),
            is_frozen: failure.is_frozen(),
            ..Self::default()
        }
    }

    /// Returns what the catalog keeps.
    pub fn end(self, ended: DateTime<Utc>) -> RunEnd {
        RunEnd {
            ended,
            exit: self.exit().number(),
            snapshot: self.snapshot,
            added_bytes: self.added_bytes,
            message: self.message,
            hint: self.hint,
            is_frozen: self.is_frozen,
        }
    }
}

/// What a job reports, as far as it is remembered.
pub trait Remembered {
    /// Returns what is remembered of it.
    fn outcome(&self) -> Outcome;
}

/// Returns whether a job changes nothing.
fn looks_only(job: Job) -> bool {
    matches!(job, Job::Verify | Job::Doctor)
}

/// Does `work` as a run of `task`. Fails with [`ExitCode::Busy`], and notes nothing, when a run of the same task is at
/// work on this host.
pub async fn noted<T: Remembered>(
    context: RunContext<'_>,
    task: &Task,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    noted_as(context, task, false, Box::pin(work)).await
}

/// As [`noted`]; `is_part` tells whether only some of the stack's sources were asked for, which does not count as the
/// task's run.
pub async fn noted_as<T: Remembered>(
    context: RunContext<'_>,
    task: &Task,
    is_part: bool,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    let RunContext { stack, ground, monitor, attempt, .. } = context;
    let _lock = match RunLock::take(stack, task) {
        Err(failure) if !looks_only(task.job) || failure.exit() == ExitCode::Busy => return Err(failure),
        // A person who looks must not be kept from it by a host whose state folder is not to be written.
        Err(failure) => {
            monitor.warn(None, failure.one_line(), failure.first_hint());
            None
        }
        Ok(lock) => Some(lock),
    };
    let ledger = context.ledger()?;
    let run = ledger.begin_run(task, attempt, ground.clock.now());
    let run = run.and_then(|run| if is_part { ledger.mark_part(run).map(|()| run) } else { Ok(run) });
    let ended = Box::pin(work).await;
    let outcome = match &ended {
        Ok(report) => report.outcome(),
        Err(failure) => Outcome::failed(failure),
    };
    let noted = run.and_then(|run| {
        let now = ground.clock.now();
        ledger.note_counts(run, &outcome.counts)?;
        let place = task.place.as_deref().unwrap_or(seen::REPOSITORY);
        seen::note_place(&ledger, place, outcome.place.clone(), now)?;
        ledger.end_run(run, &outcome.end(now))
    });
    if let Err(failure) = noted {
        // What was done counts, not the note about it.
        monitor.warn(None, failure.one_line(), failure.first_hint());
    }
    ended
}
