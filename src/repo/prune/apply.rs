//! Carries out a plan.
//!
//! *Order.* Tombstones → condemned list → sweeps → what is of no use any more. Each mark's signature lies in the
//! store before the mark, so a mark that is there can be checked; only of `open`, which is believed whoever put it,
//! it comes after.
//!
//! *Crash.* A tombstone without its list: its snapshot is swept with a later generation. A list is condemned anew by
//! nobody and swept when it is due. A sweep that died stays open; what it left is condemned anew by the next plan.
//! A signature without its mark burns a number and nothing else; `open` has no number of its own to burn.

use std::collections::BTreeSet;

use bytes::Bytes;
use chrono::{DateTime, Utc};

use super::{Maintain, PrunePlan, Removal, plan::is_at_work};
use crate::{
    clock::Ground,
    error::{ExitCode, Failure, Result},
    event::SharedMonitor,
    names::{Key, PackId, SnapshotId},
    repo::{
        Repository,
        format::{FORMAT, layout},
        integrity::losses,
        marks::{self, Condemned, Done, Forgotten, Open, Step, Tombstone},
        runs,
        survey::Ledger,
    },
    store::StoreError,
};

/// What one sweep did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// The generation.
    pub generation: u64,
    /// Packs that were removed.
    pub deleted: BTreeSet<PackId>,
    /// Their bytes.
    pub deleted_bytes: u64,
    /// Packs that a snapshot needed after all.
    pub rescued: BTreeSet<PackId>,
    /// Snapshots whose objects were removed.
    pub snapshots: BTreeSet<SnapshotId>,
    /// Index objects that told only of packs that are gone.
    pub indexes: u64,
    /// What the store refused to remove, for it was asked to keep it.
    pub retained: BTreeSet<Key>,
}

/// What a run of prune did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PruneReport {
    /// Snapshots that were forgotten.
    pub forgotten: Vec<Removal>,
    /// The generation that was made, if one was.
    pub generation: Option<u64>,
    /// Packs that were condemned.
    pub condemned: u64,
    /// Their bytes.
    pub condemned_bytes: u64,
    /// The sweeps.
    pub swept: Vec<Swept>,
    /// All that the store refused to remove, for it was asked to keep it. A later run tries again.
    pub retained: BTreeSet<Key>,
}

impl Repository<Maintain> {
    /// Carries out `plan`, or fails with [`ExitCode::Busy`] when another run of prune was faster.
    pub async fn apply(
        &self,
        plan: PrunePlan,
        ground: &Ground,
        monitor: &SharedMonitor,
    ) -> Result<PruneReport> {
        let mut report = PruneReport { generation: plan.generation(), ..PruneReport::default() };
        if let Some(generation) = report.generation {
            self.condemn(&plan, generation, ground).await?;
            report.condemned = plan.condemn.len() as u64;
            report.condemned_bytes = plan.condemn.values().sum();
            report.forgotten.clone_from(&plan.remove);
            monitor.step(None, format!("generation {generation} condemned {} packs", report.condemned));
        }
        for generation in &plan.sweep {
            let swept = self.sweep(*generation, plan.terms, ground, monitor).await?;
            monitor.step(None, format!("generation {generation} removed {} packs", swept.deleted.len()));
            report.retained.extend(swept.retained.iter().cloned());
            report.swept.push(swept);
        }
        if !plan.sweep.is_empty() {
            self.clear_away(&plan, ground, &mut report.retained).await?;
        }
        Ok(report)
    }

    /// Puts the tombstones and then the list.
    async fn condemn(&self, plan: &PrunePlan, generation: u64, ground: &Ground) -> Result<()> {
        let (newest, _) = self.core.generations().await?;
        if newest.keys().next_back().is_some_and(|newest| *newest > plan.basis) {
            return Err(overtaken());
        }
        if generation > marks::GENERATION_MAX {
            let what =
                format!("the store has a generation {} of prune, and there is none behind it", plan.basis);
            return Err(Failure::new(ExitCode::Tampering, what)
                .hint("No prune ran so often: look into who put it there, and remove it from `prune/`."));
        }
        let repository = &self.core.config.repository;
        for removal in &plan.remove {
            let tombstone = Tombstone {
                format: FORMAT,
                repository: repository.clone(),
                snapshot: removal.snapshot.clone(),
                generation,
                commit: removal.commit.clone(),
                reason: removal.reason.clone(),
                at: ground.clock.now(),
            };
            self.put_mark(&marks::tombstone(&removal.snapshot, generation), &tombstone).await?;
        }
        let list = Condemned {
            format: FORMAT,
            repository: repository.clone(),
            generation,
            at: ground.clock.now(),
            packs: plan.condemn.clone(),
        };
        self.put_mark(&marks::step(generation, Step::Condemned), &list).await
    }

    /// Puts a signed mark, its signature first.
    pub(super) async fn put_mark<T: serde::Serialize>(&self, key: &Key, mark: &T) -> Result<()> {
        let [mark, signature] = self.core.signed_mark(&self.access.signing, key, mark)?;
        self.put_once(signature).await?;
        self.put_once(mark).await
    }

    /// Puts the mark that makes writers wait, and then its signature: a run that dies in between has opened the
    /// generation, while a signature alone would keep everybody from ever opening it.
    pub(super) async fn put_open(&self, generation: u64, open: &Open) -> Result<()> {
        let [mark, signature] =
            self.core.signed_mark(&self.access.signing, &marks::step(generation, Step::Open), open)?;
        self.put_once(mark).await?;
        self.put_once(signature).await
    }

    async fn put_once(&self, (key, bytes): (Key, Bytes)) -> Result<()> {
        match self.core.put(self.access.put.as_ref(), &key, bytes).await {
            Err(StoreError::Exists { .. }) => Err(overtaken()),
            other => Ok(other?),
        }
    }

    /// Removes what is of no use any more: marks of sessions that ended, and generations all of whose packs are gone.
    async fn clear_away(
        &self,
        plan: &PrunePlan,
        ground: &Ground,
        retained: &mut BTreeSet<Key>,
    ) -> Result<()> {
        let ledger = self.core.ledger().await?;
        let now = ground.clock.now();
        for (id, session) in &ledger.sessions {
            if !is_at_work(&ledger, id, session.ended, session.last, plan.terms, now) {
                for key in &session.keys {
                    self.remove(key, retained).await?;
                }
            }
        }
        // A signature that came when its refs were gone: its run was told that it had failed.
        for key in ledger.orphans.iter().filter(|key| is_of_dead(&ledger, key)) {
            self.remove(key, retained).await?;
        }
        for key in &ledger.lone_signatures {
            let index = layout::signed_by(key);
            // Looked at once more: a listing is no single instant, and an index is put before its signature.
            if let Some(index) = index
                && self.core.get.size(&index).await?.is_none()
            {
                self.remove(key, retained).await?;
            }
        }
        let spent_runs = runs::spent(&self.core.get.list(runs::RUNS).await?, now);
        for keys in spent(&ledger, plan.terms.grace, now).into_iter().chain(spent_runs) {
            for key in keys {
                // Of a generation the list goes first, and of a run the plan last: what is left of it must not be
                // without the one, nor without the other.
                if !self.remove(&key, retained).await? {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Takes note that commits are gone which nobody has forgotten: a person has looked into it and says why. Returns
    /// how many.
    pub async fn accept_loss(&self, reason: &str, ground: &Ground) -> Result<u64> {
        let ledger = self.core.commits().await?;
        let losses = losses(&ledger, &self.core.witness.heads(&self.core.config.repository)?);
        let put = self.access.put.as_ref();
        for loss in &losses {
            let commit = Forgotten {
                refs: loss.refs.unwrap_or(PackId([0; 32])),
                signer: loss.signer.clone(),
                seq: loss.seq,
            };
            self.core.explain(put, &self.access.signing, commit, reason, ground).await?;
        }
        Ok(losses.len() as u64)
    }

    /// Ends the sweep of a generation whose run is dead. Whoever says so must know it: a run that only sleeps
    /// would go on where it was.
    pub async fn close(&self, generation: u64, ground: &Ground) -> Result<()> {
        let (generations, _) = self.core.generations().await?;
        let state = generations.get(&generation);
        if !state.is_some_and(|state| state.open && state.done.is_none()) {
            let what = format!("generation {generation} has no sweep that is under way");
            return Err(Failure::new(ExitCode::Usage, what).hint("`lifeboat prune --plan` lists them."));
        }
        let done = Done {
            format: FORMAT,
            repository: self.core.config.repository.clone(),
            generation,
            at: ground.clock.now(),
            deleted: BTreeSet::new(),
            rescued: BTreeSet::new(),
            snapshots: BTreeSet::new(),
        };
        let key = marks::step(generation, Step::Done);
        // The run may have died between the two; nobody else will put the other half.
        self.access.delete.delete(&layout::signature(&key)).await?;
        self.put_mark(&key, &done).await
    }
}

/// Returns whether `signature` is of refs that a tombstone speaks of.
fn is_of_dead(ledger: &Ledger, signature: &Key) -> bool {
    let snapshot = layout::signed_by(signature).and_then(|refs| layout::refs_of(&refs));
    snapshot.is_some_and(|(id, _)| ledger.tombstones.iter().any(|tombstone| tombstone.snapshot == id))
}

/// Returns the objects of generations that mean nothing any more, the list first: without it the others are nothing.
/// The newest one stays, for numbers only grow; one whose sweep is open stays for as long as a slow run of it may be
/// about; and the signature of a list stays for ever, so that nobody who slept uses its number a second time.
fn spent(ledger: &Ledger, grace: chrono::Duration, now: DateTime<Utc>) -> Vec<Vec<Key>> {
    let newest = ledger.generations.keys().next_back().copied().unwrap_or_default();
    let mut spent = Vec::new();
    for (number, generation) in &ledger.generations {
        let gone = generation.condemned.as_ref().is_none_or(|list| {
            let packs_gone = list.packs.keys().all(|pack| !ledger.packs.contains_key(pack));
            packs_gone && generation.condemned_at.is_some_and(|at| at + grace * 2 <= now)
        });
        // A list that lies there and cannot be believed is for a person to look at.
        let list = marks::step(*number, Step::Condemned);
        let unreadable = generation.condemned.is_none() && generation.keys.contains(&list);
        let ended = generation.done.is_some() || generation.void || generation.condemned.is_none();
        if *number == newest || !gone || unreadable || !ended {
            continue;
        }
        let signature = layout::signature(&list);
        let mut keys: Vec<Key> = generation.keys.iter().filter(|key| **key != signature).cloned().collect();
        keys.sort_by_key(|key| *key != list);
        spent.push(keys);
    }
    spent
}

pub(super) fn overtaken() -> Failure {
    Failure::new(ExitCode::Busy, "another run of prune was faster")
        .hint("Look at what it did with `lifeboat prune --plan`; nothing was removed by this one.")
}
