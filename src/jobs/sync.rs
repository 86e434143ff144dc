//! Sync: copies snapshots to an offsite repository.
//!
//! *Order.* One offsite after the other; each snapshot as a commit of its own, see `repo::copy`. Then its locks, also
//! when the copy failed. *Crash.* What was copied is found there by the next run.

use chrono::{DateTime, Utc};

use super::{
    lock,
    open::{Opening, offsite_of},
    run::{Outcome, Remembered, RunContext, noted, stopped},
    seen::{Behind, PlaceSeen},
};
use crate::{
    clock::Ground,
    crypt::SigningKey,
    error::{ExitCode, Failure, Result},
    event::SharedMonitor,
    names::{Job, Task},
    policy::Stack,
    repo::{CopyReport, CopySettings},
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
    /// When it was looked at.
    now: DateTime<Utc>,
}

impl Synced {
    /// Returns how a process that did only this would end.
    pub fn exit(&self) -> ExitCode {
        let is_whole = self.copy.unhealed.is_empty() && self.copy.proofs_left.is_empty();
        match (self.copy.damaged.is_empty(), is_whole) {
            (false, _) => ExitCode::Damage,
            (true, false) => ExitCode::Partial,
            (true, true) => ExitCode::Ok,
        }
    }

    /// Returns how old the oldest snapshot is that the copy lacks; 0 when it lacks none.
    pub fn lag_seconds(&self) -> u64 {
        let behind = self.copy.state.behind.as_ref();
        behind.map_or(0, |(_, began)| u64::try_from((self.now - *began).num_seconds()).unwrap_or_default())
    }

    /// Returns how the copy stands.
    fn seen(&self) -> PlaceSeen {
        let state = &self.copy.state;
        let (newest, newest_began) = state.newest.clone().unzip();
        PlaceSeen {
            snapshots: Some(state.snapshots),
            proven: Some(state.proven),
            newest,
            newest_began,
            stored_bytes: Some(state.packs_bytes),
            lag_bytes: Some(state.lag_bytes),
            behind: Some(Behind { oldest: state.behind.clone() }),
            ..PlaceSeen::default()
        }
    }
}

impl Remembered for Synced {
    fn outcome(&self) -> Outcome {
        let damaged = self.copy.damaged.first();
        let message = damaged
            .map(|(id, why)| format!("snapshot {id} is damaged and was left out: {why}"))
            .or_else(|| {
                let (id, why) = self.copy.unhealed.first()?;
                Some(format!("snapshot {id} cannot be restored from the copy: {why}"))
            })
            .or_else(|| {
                let (_, why) = self.copy.proofs_left.first()?;
                Some(format!("a proof of a drill is not copied: {why}"))
            });
        Outcome {
            exit: Some(self.exit()),
            snapshot: self.copy.copied.last().cloned(),
            added_bytes: self.copy.packs_bytes,
            hint: message.as_ref().map(|_| match damaged {
                Some(_) => "Run `lifeboat verify`.".to_owned(),
                None => format!("Run `lifeboat verify --from {}`.", self.name),
            }),
            message,
            place: self.seen(),
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

/// What became of several offsites.
#[derive(Debug, Default)]
pub struct Copies {
    /// Those that were reached.
    pub done: Vec<Synced>,
    /// The others, by name, and why.
    pub failed: Vec<(String, Failure)>,
}

impl Copies {
    /// Returns how a process that did only this would end.
    pub fn exit(&self) -> ExitCode {
        let failed = self.failed.first().map(|(_, failure)| failure.exit());
        let left_out = self.done.iter().map(Synced::exit).find(|exit| *exit != ExitCode::Ok);
        failed.or(left_out).unwrap_or(ExitCode::Ok)
    }
}

/// Copies to each of these offsites, one after the other, as a run each. One that is down must not keep the others from
/// being filled.
pub async fn of_each(context: RunContext<'_>, names: impl IntoIterator<Item = String>) -> Copies {
    let mut copies = Copies::default();
    for name in names {
        let synced =
            if context.stop.is_cancelled() { Err(stopped()) } else { of_stack(context, &name).await };
        match synced {
            Ok(synced) => copies.done.push(synced),
            Err(failure) => copies.failed.push((name, failure)),
        }
    }
    copies
}

/// Copies to the offsites that are to have each backup at once.
pub async fn after_backup(context: RunContext<'_>) -> Copies {
    of_each(context, context.stack.offsites_after_backup().map(|offsite| offsite.name.to_string())).await
}

/// Copies to the offsite of this name, and locks what it has: a copy that cannot be made must not let run out what was
/// locked before.
async fn run(stack: &Stack, name: &str, ground: &Ground, monitor: &SharedMonitor) -> Result<Synced> {
    let copied = copy(stack, name, ground, monitor).await;
    let again = copied.as_ref().map(|(copy, _)| copy.healed.clone()).unwrap_or_default();
    lock::after_sync(stack, name, &again, ground, monitor).await;
    let (copy, place) = copied?;
    Ok(Synced { name: name.to_owned(), place, copy, now: ground.clock.now() })
}

/// Copies to the offsite of this name. Returns where it is, too.
async fn copy(
    stack: &Stack,
    name: &str,
    ground: &Ground,
    monitor: &SharedMonitor,
) -> Result<(CopyReport, String)> {
    let mut from = Opening::new(stack, monitor)?.clear().await?;
    // Only what is damaged needs it; without it what comes after waits.
    if let Ok(signing) = SigningKey::from_file(&stack.repository.settings.signing_key()) {
        from = from.explaining(signing);
    }
    let offsite = &offsite_of(stack, name)?.settings;
    let (packs_at_once, reread_percent) = (offsite.concurrency, offsite.reread_percent);
    let settings = CopySettings { packs_at_once, reread_percent, ..CopySettings::default() };
    let to = Opening::named(stack, Some(name), monitor)?;
    Ok((to.copy_from(&from, settings, ground, monitor).await?, to.shown().to_owned()))
}
