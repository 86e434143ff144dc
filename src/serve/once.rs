//! `serve --once`: for hosts whose own timer does what the service's loop would. Each call does what is due, or what it
//! is asked for, as the service does it: with tries, notes, incidents, messages and metrics.

use std::{
    collections::{BTreeMap, VecDeque},
    path::PathBuf,
    sync::{Arc, RwLock, atomic::AtomicI64},
    time::Duration,
};

use chrono::{DateTime, Utc};
use tokio_util::sync::CancellationToken;

use super::{
    Shared, forget,
    log::{Format, Log},
    run::{clear_away, perform},
    scheduler::{Scheduler, Start, gave_up, overtime, wait_before},
    write_textfile,
};
use crate::{
    clock::Ground,
    error::{ExitCode, Result},
    event::{Monitor, SharedMonitor},
    jobs::{
        backup::host_name,
        notify,
        open::{self, RunLock},
        run::Outcome,
        standing,
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
    let once = Once { shared: &shared, log: &log, stop };
    let done = if jobs.is_empty() { once.due().await } else { once.asked(jobs).await };
    once.look();
    log.delivered(&notify::deliver(&shared.stack(), &shared.ledger, &shared.ground).await?);
    forget(&shared, once.now())?;
    done
}

/// One call.
struct Once<'a> {
    shared: &'a Shared,
    log: &'a Arc<Log>,
    stop: &'a CancellationToken,
}

impl Once<'_> {
    fn now(&self) -> DateTime<Utc> {
        self.shared.ground.clock.now()
    }

    fn scheduler(&self) -> Scheduler {
        Scheduler::new(self.shared.stack(), self.shared.ledger.clone(), &host_name())
    }

    /// Does what a person's timer asks for.
    async fn asked(&self, jobs: &[Job]) -> Result<ExitCode> {
        let stack = self.shared.stack();
        // The timer is who keeps the times here; that a task never begins is noticed from now on.
        for one in tasks::scheduled(&stack) {
            standing::watch(&self.shared.ledger, &one.task, self.now())?;
        }
        if let Ok(_lock) = RunLock::of_schedule(&stack) {
            clear_away(self.shared, self.log).await;
            let mut scheduler = self.scheduler();
            self.bury(&mut scheduler);
            scheduler.give_up_slots(self.now());
        }
        let mut queue: VecDeque<Task> = jobs.iter().flat_map(|job| tasks::tasks_of(&stack, *job)).collect();
        let mut ends = BTreeMap::new();
        while let Some(task) = queue.pop_front() {
            if self.stop.is_cancelled() {
                ends.insert(task, ExitCode::Interrupted);
                break;
            }
            let outcome = self.tried(&task).await;
            if task.job == Job::Backup {
                let followers = tasks::followers(&stack, &outcome).into_iter();
                queue.extend(followers.filter(|one| !ends.contains_key(one)));
            }
            ends.insert(task, outcome.exit());
            // A prune that comes next must know what is unusual about the backup.
            self.look();
        }
        Ok(worst(&ends))
    }

    /// Does one task, again and again as the policy says.
    async fn tried(&self, task: &Task) -> Outcome {
        let schedule = self.shared.stack().schedule.clone();
        let mut attempt = 1;
        loop {
            let own_stop = self.stop.child_token();
            let (outcome, is_overtime) = self.within_deadline(task, attempt, &own_stop).await;
            let outcome = if is_overtime { overtime(&self.shared.stack(), task, outcome) } else { outcome };
            self.log.ended(task, &outcome);
            if is_overtime || !may_pass(&outcome) || attempt > schedule.retries {
                return outcome;
            }
            let wait = wait_before(schedule.retry_minutes, attempt).to_std().unwrap_or_default();
            if self.stop.run_until_cancelled(tokio::time::sleep(wait)).await.is_none() {
                return outcome;
            }
            attempt += 1;
        }
    }

    /// Runs a task, and asks it to end when it takes too long; tells whether it did.
    async fn within_deadline(&self, task: &Task, attempt: u32, stop: &CancellationToken) -> (Outcome, bool) {
        let deadline = tasks::deadline(&self.shared.stack(), task);
        let limit = deadline.map(|(minutes, _)| Duration::from_secs(u64::from(minutes) * 60));
        let too_long = async {
            match limit {
                Some(limit) => tokio::time::sleep(limit).await,
                None => std::future::pending().await,
            }
        };
        let mut run = std::pin::pin!(perform(self.shared, task, attempt, stop, self.log));
        let mut is_overtime = false;
        let ended = tokio::select! {
            ended = &mut run => ended,
            () = too_long => {
                is_overtime = true;
                stop.cancel();
                run.await
            }
        };
        let outcome = ended.unwrap_or_else(|failure| Outcome::failed(&failure));
        let was_given_up = is_overtime && gave_up(&outcome);
        (outcome, was_given_up)
    }

    /// Does what the policy's schedule says is due, and what follows from it.
    async fn due(&self) -> Result<ExitCode> {
        let _only_one = match RunLock::of_schedule(&self.shared.stack()) {
            Ok(lock) => lock,
            // A timer that comes again while much is to be done leaves it to who is at it.
            Err(failure) if failure.exit() == ExitCode::Busy => {
                self.log.step(None, failure.to_string());
                return Ok(ExitCode::Ok);
            }
            Err(failure) => return Err(failure),
        };
        clear_away(self.shared, self.log).await;
        let mut scheduler = self.scheduler();
        for task in scheduler.recover(self.now()) {
            self.log.warn(None, format!("{task} died with the process before this one"), None);
        }
        let mut ends = BTreeMap::new();
        loop {
            let starts = scheduler.tick(self.now());
            if starts.is_empty() && !scheduler.waits() {
                break;
            }
            for Start { task, attempt, stop } in starts {
                let (own, all) = (stop.clone(), self.stop.clone());
                let follows = tokio::spawn(async move {
                    all.cancelled().await;
                    own.cancel();
                });
                let (outcome, is_overtime) = self.within_deadline(&task, attempt, &stop).await;
                follows.abort();
                if is_overtime {
                    scheduler.give_up(&task);
                }
                let outcome = scheduler.ended(&task, outcome, self.now());
                self.log.ended(&task, &outcome);
                ends.insert(task, outcome.exit());
                self.look();
            }
            let wait = scheduler.next_try().and_then(|next| (next - self.now()).to_std().ok());
            if self.stop.run_until_cancelled(tokio::time::sleep(wait.unwrap_or_default())).await.is_none() {
                ends.insert(Task::of(Job::Digest), ExitCode::Interrupted);
                break;
            }
        }
        scheduler.take_trouble().map_or(Ok(worst(&ends)), Err)
    }

    fn bury(&self, scheduler: &mut Scheduler) {
        for task in scheduler.bury(self.now()) {
            self.log.warn(None, format!("{task} died with the process before this one"), None);
        }
    }

    /// Looks what is wrong, writes the messages and the metrics. Trouble with these is told; what was done is done.
    fn look(&self) {
        let stack = self.shared.stack();
        let looked = watch::look(&stack, &self.shared.ledger, &self.shared.ground);
        let written = looked.and_then(|changes| {
            for change in &changes {
                self.log.change(change);
            }
            write_textfile(self.shared, self.log, self.now())
        });
        if let Err(failure) = written {
            self.log.failure(&failure);
        }
    }
}

/// Returns the end that a person should hear of: whatever failed before what is only partial.
fn worst(ends: &BTreeMap<Task, ExitCode>) -> ExitCode {
    let bad = || ends.values().copied().filter(|exit| *exit != ExitCode::Ok);
    bad().find(|exit| *exit != ExitCode::Partial).or(bad().next()).unwrap_or(ExitCode::Ok)
}
