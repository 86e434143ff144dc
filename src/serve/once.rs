//! `serve --once`: for hosts whose own timer does what the service's loop would. Each call does what is due, or what it
//! is asked for, as the service does it: with tries, notes, incidents, messages and metrics.

use std::{
    path::PathBuf,
    sync::{Arc, RwLock, atomic::AtomicI64},
};

use tokio_util::sync::CancellationToken;

use super::{
    Shared,
    log::{Format, Log},
    run::perform,
    scheduler::{Scheduler, Start},
    write_textfile,
};
use crate::{
    clock::Ground,
    error::{ExitCode, Result},
    event::SharedMonitor,
    jobs::{
        backup::host_name,
        notify, open,
        run::Outcome,
        tasks::{self, may_pass},
        watch,
    },
    names::{Job, Task},
    policy::Stack,
};

/// Does the jobs, or what is due when none is named, and returns how the worst of them ended.
pub async fn once(
    stack: Stack,
    jobs: &[Job],
    textfile: Option<PathBuf>,
    format: Format,
    ground: Ground,
    stop: &CancellationToken,
) -> Result<ExitCode> {
    let log = Arc::new(Log::new(format, ground.clock.clone()));
    let monitor: SharedMonitor = log.clone();
    let ledger = open::ledger(&stack, &monitor)?;
    let stack = RwLock::new(Arc::new(stack));
    let shared = Shared { stack, ledger, ground, textfile, looked: AtomicI64::new(0) };
    let worst = if jobs.is_empty() {
        due(&shared, &log, stop).await?
    } else {
        asked(&shared, &log, jobs, stop).await?
    };
    let (stack, now) = (shared.stack(), shared.ground.clock.now());
    for change in watch::look(&stack, &shared.ledger, &shared.ground)? {
        log.change(&change);
    }
    log.delivered(&notify::deliver(&stack, &shared.ledger, &shared.ground).await?);
    write_textfile(&shared, &log, now)?;
    Ok(worst)
}

/// Does what a person's timer asks for.
async fn asked(shared: &Shared, log: &Arc<Log>, jobs: &[Job], stop: &CancellationToken) -> Result<ExitCode> {
    let stack = shared.stack();
    let mut queue: Vec<Task> = jobs.iter().flat_map(|job| tasks::tasks_of(&stack, *job)).collect();
    let mut worst = ExitCode::Ok;
    while !queue.is_empty() {
        let task = queue.remove(0);
        let outcome = tried(shared, log, &task, stop).await;
        if task.job == Job::Backup && outcome.snapshot.is_some() {
            for follower in tasks::after_backup(&stack) {
                if !queue.contains(&follower) {
                    queue.push(follower);
                }
            }
        }
        worst = worse(worst, outcome.exit());
    }
    Ok(worst)
}

/// Does one task, again and again as the policy says.
async fn tried(shared: &Shared, log: &Arc<Log>, task: &Task, stop: &CancellationToken) -> Outcome {
    let stack = shared.stack();
    let mut attempt = 1;
    loop {
        let ended = perform(shared, task, attempt, stop, log).await;
        let outcome = ended.unwrap_or_else(|failure| Outcome::failed(&failure));
        log.ended(task, &outcome);
        if !may_pass(outcome.exit()) || attempt > stack.schedule.retries {
            return outcome;
        }
        let wait = super::scheduler::wait_before(stack.schedule.retry_minutes, attempt);
        let wait = wait.to_std().unwrap_or_default();
        if stop.run_until_cancelled(tokio::time::sleep(wait)).await.is_none() {
            return outcome;
        }
        attempt += 1;
    }
}

/// Does what the policy's schedule says is due, and what follows from it.
async fn due(shared: &Shared, log: &Arc<Log>, stop: &CancellationToken) -> Result<ExitCode> {
    let now = || shared.ground.clock.now();
    let mut scheduler = Scheduler::new(shared.stack(), shared.ledger.clone(), &host_name());
    scheduler.recover(now())?;
    let mut worst = ExitCode::Ok;
    loop {
        let starts = scheduler.tick(now())?;
        if starts.is_empty() && !scheduler.waits() {
            return Ok(worst);
        }
        for Start { task, attempt, stop: _ } in starts {
            let ended = perform(shared, &task, attempt, stop, log).await;
            let outcome = ended.unwrap_or_else(|failure| Outcome::failed(&failure));
            let outcome = scheduler.ended(&task, outcome, now())?;
            log.ended(&task, &outcome);
            worst = worse(worst, outcome.exit());
        }
        let wait = scheduler.next_try().and_then(|next| (next - now()).to_std().ok()).unwrap_or_default();
        if stop.run_until_cancelled(tokio::time::sleep(wait)).await.is_none() {
            return Ok(worse(worst, ExitCode::Interrupted));
        }
    }
}

/// Returns the one that a person should hear of: whatever failed before what is only partial.
fn worse(one: ExitCode, other: ExitCode) -> ExitCode {
    match (one, other) {
        (ExitCode::Ok, other) => other,
        (ExitCode::Partial, other) if other != ExitCode::Ok => other,
        (one, _) => one,
    }
}
