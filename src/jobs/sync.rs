//! Sync: copies snapshots to an offsite repository.
//!
//! *Order.* One offsite after the other; each snapshot as a commit of its own, see `repo::copy`. *Crash.* What was
//! copied is found there by the next run.

use chrono::{DateTime, Utc};

use super::{
    lock,
    open::Opening,
    run::{Outcome, Remembered, RunContext, noted, stopped},
};
use crate::{
    clock::Ground,
    crypt::SigningKey,
    error::{ExitCode, Result},
    event::SharedMonitor,
    names::{Job, SnapshotId, Task},
    policy::Stack,
    repo::CopyReport,
};

/// What became of one offsite.
#[derive(Clone, Debug)]
pub struct Synced {
    /// Its name in the policy.
    pub name: String,
    /// Where it is.
    pub place: String,
    /// What was copied.
    pub copy: CopyReport,
    /// The newest snapshot of the repository that the offsite has not, if there is one, and when it was begun.
    pub behind: Option<(SnapshotId, DateTime<Utc>)>,
}

impl Synced {
    /// Returns how a process that did only this would end.
    pub fn exit(&self) -> ExitCode {
        if self.copy.damaged.is_empty() { ExitCode::Ok } else { ExitCode::Damage }
    }
}

impl Remembered for Synced {
    fn outcome(&self) -> Outcome {
        let damaged = self.copy.damaged.first();
        Outcome {
            exit: Some(self.exit()),
            snapshot: self.copy.copied.last().cloned(),
            added_bytes: self.copy.packs_bytes,
            message: damaged.map(|(id, why)| format!("snapshot {id} is damaged and was left out: {why}")),
            hint: damaged.map(|_| "Run `lifeboat verify`.".to_owned()),
            ..Outcome::default()
        }
    }
}

/// Copies to the offsite of this name, as a run.
pub async fn of_stack(context: RunContext<'_>, name: &str) -> Result<Synced> {
    let RunContext { stack, ground, monitor, stop, .. } = context;
    // What was copied is found there by the next run, so to stop needs no more than to let go.
    noted(context, &Task::at(Job::Sync, name), async {
        stop.run_until_cancelled(run(stack, name, ground, monitor)).await.unwrap_or_else(|| Err(stopped()))
    })
    .await
}

/// Copies to the offsite of this name.
async fn run(stack: &Stack, name: &str, ground: &Ground, monitor: &SharedMonitor) -> Result<Synced> {
    let mut from = Opening::new(stack, monitor)?.clear().await?;
    // Only what is damaged needs it; without it what comes after waits.
    if let Ok(signing) = SigningKey::from_file(&stack.repository.settings.signing_key()) {
        from = from.explaining(signing);
    }
    let to = Opening::named(stack, Some(name), monitor)?;
    let copy = to.copy_from(&from, ground, monitor).await?;
    lock::after_sync(stack, name, ground, monitor).await;
    let left_out =
        |id: &SnapshotId| copy.waiting.contains(id) || copy.damaged.iter().any(|(damaged, _)| damaged == id);
    let newest = from.survey().await?.0.into_iter().rev().find(|refs| left_out(&refs.snapshot));
    Ok(Synced {
        name: name.to_owned(),
        place: to.shown().to_owned(),
        behind: newest.map(|refs| (refs.snapshot, refs.began)),
        copy,
    })
}
