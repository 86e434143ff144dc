//! One run of the service, in a thread of its own: whatever becomes of it, the service hears how it ended.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use chrono::{DateTime, Utc};
use tokio::{runtime::Handle, sync::mpsc};
use tokio_util::sync::CancellationToken;

use super::{Shared, log::Log, scheduler::Start};
use crate::{
    error::{ExitCode, Failure, Result},
    event::{Monitor, SharedMonitor},
    jobs::{
        drill, drilled, notify,
        run::{Outcome, RunContext, stopped},
        tasks::{self, may_pass},
    },
    names::{Job, Task},
    notify::{Phase, Topic},
    status::RunStanding,
};

/// How long a run that was asked to end may take before it is dropped.
const STOP_PATIENCE: Duration = Duration::from_secs(45);

/// How long the removal of what drills left may take.
const CLEAR_LIMIT: Duration = Duration::from_mins(1);

/// A run that ended.
pub(super) struct Ended {
    /// What ran.
    pub(super) task: Task,
    /// How it ended.
    pub(super) outcome: Outcome,
}

/// Begins a run. It has a thread, for a run works through more than a task of the runtime should; a run that panics
/// is our own mistake and ends only itself.
pub(super) fn begin(start: Start, shared: Arc<Shared>, log: Arc<Log>, tell: mpsc::Sender<Ended>) {
    let runtime = Handle::current();
    tokio::task::spawn_blocking(move || {
        let Start { task, attempt, stop } = start;
        let run = || runtime.block_on(perform(&shared, &task, attempt, &stop, &log));
        let ended = catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| {
            if task.job == Job::Drill {
                let clear = || runtime.block_on(clear_away(&shared, &log));
                // What cannot be cleared away now is at the next start.
                let _ = catch_unwind(AssertUnwindSafe(clear));
            }
            Err(Failure::new(ExitCode::Failed, "the program made a mistake")
                .hint("Please report it with the lines of the log before this one."))
        });
        let outcome = ended.unwrap_or_else(|failure| Outcome::failed(&failure));
        // Nobody listens any more only when the service is at its end.
        let _ = tell.blocking_send(Ended { task, outcome });
    });
}

/// Does a task, and tells those who want to know of each run.
pub(super) async fn perform(
    shared: &Shared,
    task: &Task,
    attempt: u32,
    stop: &CancellationToken,
    log: &Arc<Log>,
) -> Result<Outcome> {
    let began = shared.ground.clock.now();
    tell(shared, log, ping(task, Phase::Started, None));
    let ended = work(shared, task, attempt, stop, log).await;
    let outcome = match &ended {
        Ok(outcome) => outcome.clone(),
        Err(failure) => Outcome::failed(failure),
    };
    let is_tried_again =
        may_pass(&outcome) && attempt <= shared.stack().schedule.retries && !stop.is_cancelled();
    if task.job == Job::Drill && !is_tried_again {
        tell_of_drill(shared, task, began, log);
    }
    if outcome.exit() == ExitCode::Ok {
        tell(shared, log, ping(task, Phase::Succeeded, Some(&outcome)));
        let end = outcome.end(shared.ground.clock.now());
        tell(
            shared,
            log,
            Topic::Done(RunStanding {
                task: task.clone(),
                began,
                ended: end.ended,
                exit: end.exit,
                snapshot: end.snapshot,
                added_bytes: end.added_bytes,
                message: end.message,
                hint: end.hint,
            }),
        );
    } else {
        tell(shared, log, ping(task, Phase::Failed, Some(&outcome)));
    }
    ended
}

fn ping(task: &Task, phase: Phase, outcome: Option<&Outcome>) -> Topic {
    let exit = outcome.map(|outcome| outcome.exit().number());
    let text = outcome.and_then(|outcome| outcome.message.clone());
    Topic::Ping { task: task.clone(), phase, exit, text }
}

/// Writes a message down. That it cannot be written stops no run.
fn tell(shared: &Shared, log: &Log, topic: Topic) {
    if let Err(failure) = notify::tell(&shared.stack(), &shared.ledger, topic, &shared.ground) {
        log.failure(&failure);
    }
}

/// Tells of the drill that a run made since `began`.
fn tell_of_drill(shared: &Shared, task: &Task, began: DateTime<Utc>, log: &Log) {
    if let Err(failure) = drilled::tell(&shared.stack(), &shared.ledger, task, began, &shared.ground) {
        log.failure(&failure);
    }
}

/// Does a task; one that was asked to end and does not is dropped.
async fn work(
    shared: &Shared,
    task: &Task,
    attempt: u32,
    stop: &CancellationToken,
    log: &Arc<Log>,
) -> Result<Outcome> {
    let (stack, monitor): (_, SharedMonitor) = (shared.stack(), Arc::new(log.of(task)));
    let context = RunContext { stack: &stack, ground: &shared.ground, monitor: &monitor, stop, attempt };
    let too_long = async {
        stop.cancelled().await;
        tokio::time::sleep(STOP_PATIENCE).await;
    };
    let ended = tokio::select! {
        ended = Box::pin(tasks::perform(context, task)) => ended,
        () = too_long => Err(stopped()),
    };
    // A drill that came to no report may not have come to the removal of its lab either.
    if task.job == Job::Drill && ended.is_err() {
        clear_away(shared, log).await;
    }
    ended
}

/// Removes what drills left behind that died or were given up. An engine that does not answer keeps nobody waiting.
pub(super) async fn clear_away(shared: &Shared, log: &Log) {
    let stack = shared.stack();
    let Ok(reaped) = tokio::time::timeout(CLEAR_LIMIT, drill::reap(&stack, &shared.ground)).await else {
        let what = format!("what drills left behind was not removed within {} s", CLEAR_LIMIT.as_secs());
        log.warn(None, what, Some("Look at the container engine: `lifeboat doctor` asks it."));
        return;
    };
    if reaped.labs > 0 {
        log.step(None, format!("removed {} labs that drills had left behind", reaped.labs));
    }
    for failure in reaped.troubles {
        log.warn(None, failure.one_line(), failure.first_hint());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{RwLock, atomic::AtomicI64};

    use super::*;
    use crate::{
        clock::Ground,
        drill::Way,
        event::NoMonitor,
        jobs::open,
        policy::{Need, Stack},
        serve::log::Format,
    };

    #[tokio::test]
    async fn a_drill_that_came_to_no_report_is_cleared_away() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().display();
        let text = format!(
            "stack = \"shop\"\n[repository]\nstore = \"fs\"\noptions = {{ root = \"{at}/repo\" }}\n\
             recipients = [\"age1abc\"]\nstate_dir = \"{at}/state\"\n[drill]\nlab = \"process\"\n"
        );
        let stack = Stack::parse(&text, "p.toml", Need::Repository).unwrap();
        let ledger = open::ledger(&stack, &NoMonitor::shared()).unwrap();
        let stack = RwLock::new(Arc::new(stack));
        let ground = Ground::system();
        let log = Arc::new(Log::new(Format::Json, ground.clock.clone()));
        let shared = Shared { stack, ledger, ground, textfile: None, looked: AtomicI64::new(0) };
        let work = drill::Workplace::of(&shared.stack(), Way::Restore);
        for (job, stays) in [(Job::Verify, true), (Job::Drill, false)] {
            std::fs::create_dir_all(&work).unwrap();
            let ended = perform(&shared, &Task::of(job), 1, &CancellationToken::new(), &log).await;
            assert!(ended.is_err(), "there is no repository");
            assert_eq!(work.exists(), stays, "{job:?}");
        }
    }
}
