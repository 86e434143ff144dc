//! The tasks of a stack: which there are, and how one is done on a schedule.

use chrono::{DateTime, Duration, Utc};

use super::{
    backup, digest, doctor, drill, drilled, lock, prune,
    run::{Outcome, Remembered, RunContext},
    sync, verify,
};
use crate::{
    drill::Way,
    error::{ExitCode, Failure, Result},
    names::{Job, Task},
    policy::Stack,
    schedule::Cron,
};

/// The share of the data that each verify on the schedule reads, in percent: all of it within two months of weeks.
const VERIFY_PERCENT: f64 = 12.5;

/// A task and when it runs.
#[derive(Clone, Debug)]
pub struct Scheduled {
    /// The task.
    pub task: Task,
    /// Its times.
    pub cron: Cron,
}

/// Returns the tasks that the policy schedules. A copy is synced, pruned and verified as a task of its own, so that one
/// that is down stops no other.
pub fn scheduled(stack: &Stack) -> Vec<Scheduled> {
    let mut all = Vec::new();
    for (word, fields) in stack.schedule.jobs() {
        // The policy's check let no other text through.
        let (Some(job), Ok(cron)) = (Job::of(word), Cron::parse(fields, stack.timezone)) else { continue };
        all.extend(tasks_of(stack, job).into_iter().map(|task| Scheduled { task, cron: cron.clone() }));
    }
    all
}

/// Returns the tasks that a job means in this stack.
pub fn tasks_of(stack: &Stack, job: Job) -> Vec<Task> {
    let offsites = || stack.offsites.iter().map(|offsite| Task::at(job, offsite.name.as_str()));
    match job {
        Job::Sync => offsites().collect(),
        Job::Prune | Job::Verify => std::iter::once(Task::of(job)).chain(offsites()).collect(),
        Job::Lock => {
            let locked = stack.offsites.iter().filter(|offsite| offsite.settings.lock_days.is_some());
            locked.map(|offsite| Task::at(job, offsite.name.as_str())).collect()
        }
        Job::Drill => {
            let by_hand = stack.drill.by_hand.then(|| drilled::task_of(Way::ByHand));
            std::iter::once(drilled::task_of(Way::Restore)).chain(by_hand).collect()
        }
        Job::Backup | Job::Digest | Job::Doctor => vec![Task::of(job)],
    }
}

/// Returns the tasks that follow a backup at once: the copies, then the drill.
pub fn after_backup(stack: &Stack) -> Vec<Task> {
    let copies = stack.offsites_after_backup().map(|offsite| Task::at(Job::Sync, offsite.name.as_str()));
    copies.chain(stack.drill.after_backup.then(|| drilled::task_of(Way::Restore))).collect()
}

/// Returns the times of a task, if it is on the schedule.
fn cron_of(stack: &Stack, task: &Task) -> Option<Cron> {
    let (_, fields) = stack.schedule.jobs().find(|(word, _)| Job::of(word) == Some(task.job))?;
    let is_of_stack = tasks_of(stack, task.job).contains(task);
    is_of_stack.then(|| Cron::parse(fields, stack.timezone).ok()).flatten()
}

/// Returns those of [`after_backup`] that follow a backup which ended so: what lacks a source is copied, and proves
/// nothing when it is drilled.
pub fn followers(stack: &Stack, backup: &Outcome) -> Vec<Task> {
    let mut all = if backup.snapshot.is_some() { after_backup(stack) } else { Vec::new() };
    all.retain(|task| task.job != Job::Drill || backup.exit() == ExitCode::Ok);
    all
}

/// Returns after how many minutes a run of a task is given up, and the key of the policy that says so.
pub fn deadline(stack: &Stack, task: &Task) -> Option<(u32, &'static str)> {
    match task.job {
        Job::Drill => Some((stack.drill.deadline_minutes, "`deadline_minutes` in [drill]")),
        _ => stack.schedule.deadline_minutes.map(|minutes| (minutes, "`deadline_minutes` in [schedule]")),
    }
}

/// Returns the longest time that may lie between two runs of a task: between two slots of its schedule or, for what
/// follows each backup, of the backup's.
pub fn interval(stack: &Stack, task: &Task, now: DateTime<Utc>) -> Option<Duration> {
    let of = |wanted: &Task| cron_of(stack, wanted)?.interval_max(now);
    let own = of(task);
    if after_backup(stack).contains(task) {
        return [own, of(&Task::of(Job::Backup))].into_iter().flatten().min();
    }
    own
}

/// Does a task as the schedule asks for it. The command line does the same, with more to choose from.
pub async fn perform(context: RunContext<'_>, task: &Task) -> Result<Outcome> {
    let outcome = |report: &dyn Remembered| report.outcome();
    match (task.job, &task.place) {
        (Job::Backup, _) => Ok(outcome(&backup::of_stack(context, backup::Wanted::default()).await?)),
        (Job::Sync, Some(offsite)) => Ok(outcome(&sync::of_stack(context, offsite).await?)),
        (Job::Lock, Some(offsite)) => Ok(outcome(&lock::of_stack(context, offsite).await?)),
        (Job::Sync | Job::Lock, None) => {
            Err(Failure::new(ExitCode::Usage, format!("{task} needs the name of an offsite")))
        }
        (Job::Prune, offsite) => {
            let wanted = prune::Wanted { offsite: offsite.clone(), ..prune::Wanted::default() };
            Ok(outcome(&prune::of_stack(context, wanted).await?))
        }
        (Job::Verify, offsite) => {
            let wanted = verify::Wanted {
                offsite: offsite.clone(),
                read_percent: VERIFY_PERCENT,
                ..verify::Wanted::default()
            };
            Ok(outcome(&verify::of_stack(context, wanted).await?))
        }
        (Job::Doctor, _) => Ok(outcome(&doctor::of_stack(context).await?)),
        (Job::Digest, _) => Ok(outcome(&digest::of_stack(context).await?)),
        (Job::Drill, _) => {
            let wanted = drill::Wanted::of(drilled::way_of(task));
            Ok(outcome(&Box::pin(drill::of_stack(context, wanted)).await?))
        }
    }
}

impl Remembered for Outcome {
    fn outcome(&self) -> Outcome {
        self.clone()
    }
}

/// Returns whether a run that ended so may go better when it is tried again: a server or a store may be back, a disk
/// mounted, a container engine at work. What a person must put right is not tried again, and what a drill found would
/// be found again.
pub fn may_pass(outcome: &Outcome) -> bool {
    use ExitCode::{Busy, DrillNotRun, Failed, NoRepository, SourceDown, StoreDown};
    let may = matches!(outcome.exit(), Failed | Busy | NoRepository | SourceDown | StoreDown | DrillNotRun);
    may && !outcome.is_frozen
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Need;

    #[test]
    fn the_interval_of_a_task_is_its_own_and_of_a_copy_that_follows_the_shorter_one() {
        let text = "stack = \"shop\"\n[repository]\nstore = \"fs\"\noptions = { root = \"/repo\" }\n\
            recipients = [\"age1abc\"]\nstate_dir = \"/state\"\n\
            [[offsite]]\nname = \"far\"\nstore = \"fs\"\noptions = { root = \"/far\" }\nafter_backup = true\n\
            [[offsite]]\nname = \"old\"\nstore = \"fs\"\noptions = { root = \"/old\" }\n\
            [schedule]\nbackup = \"0 2 * * *\"\nsync = \"0 4 * * 0\"\nverify = \"0 5 * * *\"\n";
        let stack = Stack::parse(text, "p.toml", Need::Repository).unwrap();
        let days = |task: &Task| interval(&stack, task, DateTime::UNIX_EPOCH).map(|one| one.num_days());
        assert_eq!(days(&Task::at(Job::Sync, "far")), Some(1));
        assert_eq!(days(&Task::at(Job::Sync, "old")), Some(7));
        assert_eq!(days(&Task::at(Job::Verify, "old")), Some(1));
        assert_eq!(days(&Task::at(Job::Verify, "gone")), None, "the policy has it no more");
        assert_eq!(days(&Task::of(Job::Prune)), None);
    }
}
