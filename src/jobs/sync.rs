//! Sync: copies snapshots to an offsite repository.
//!
//! *Order.* One offsite after the other; each snapshot as a commit of its own, see `repo::copy`. *Crash.* What was
//! copied is found there by the next run.

use chrono::{DateTime, Utc};

use super::open::Opening;
use crate::{
    clock::Ground, crypt::SigningKey, error::Result, event::SharedMonitor, names::SnapshotId, policy::Stack,
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

/// Copies to the offsite of this name.
pub async fn run(stack: &Stack, name: &str, ground: &Ground, monitor: &SharedMonitor) -> Result<Synced> {
    let mut from = Opening::new(stack, monitor)?.clear().await?;
    // Only what is damaged needs it; without it what comes after waits.
    if let Ok(signing) = SigningKey::from_file(&stack.repository.settings.signing_key()) {
        from = from.explaining(signing);
    }
    let to = Opening::named(stack, Some(name), monitor)?;
    let copy = to.copy_from(&from, ground, monitor).await?;
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
