//! The fence between backups and prune: neither waits for the other with a lock, and no pause of either loses data.
//!
//! *Order.* A writer puts its refs, then looks for sweeps; a sweeper puts `open`, then reads refs. Whatever the
//! interleaving, one of them sees the other: the writer waits for the sweep to end and then looks whether its packs
//! are still there, or the sweeper finds them needed and leaves them.
//!
//! It is the same between a writer and whoever takes it for dead: the writer puts its refs, then looks for a tombstone
//! of its own; the other one puts the tombstone, then looks for refs. What there are no refs of is removed, for nobody
//! will sign it; refs that nobody signed are removed after one more look, and a writer looks again after it signed.
//!
//! *Crash.* A sweeper that died stays open for ever. Only a backup that began before its packs were condemned can
//! be held up by that; it fails after [`Patience`], and the next one does not rely on them.

use std::{collections::BTreeMap, time::Duration};

use super::{
    Append, Repository,
    core::Core,
    format::{Refs, layout},
    marks,
    survey::Generation,
};
use crate::{
    error::{ExitCode, Failure, Result},
    event::SharedMonitor,
    names::{PackId, SnapshotId},
};

/// How long a backup waits for a sweep of packs that it needs.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Between two looks.
    pub interval: Duration,
    /// Looks before it gives up.
    pub looks: u32,
}

impl Default for Patience {
    fn default() -> Self {
        Self { interval: Duration::from_secs(5), looks: 120 }
    }
}

/// What a run knows of prune when it begins.
#[derive(Clone, Debug, Default)]
pub(super) struct Standing {
    /// The newest generation.
    pub(super) generation: u64,
    /// Packs that are condemned, by any generation.
    pub(super) condemned: std::collections::BTreeSet<PackId>,
}

impl Core {
    /// Reads where prune stands. A list that cannot be believed is told; whoever begins now must not rely on what
    /// it may name, and cannot know: the fence at the end looks for every pack.
    pub(super) async fn standing(&self, monitor: &SharedMonitor) -> Result<Standing> {
        let (generations, bad) = self.generations().await?;
        for (_, failure) in bad {
            monitor.warn(None, failure.one_line(), failure.first_hint());
        }
        let generation = generations.keys().next_back().copied().unwrap_or_default();
        let lists = generations.into_values().filter_map(|one| one.condemned);
        Ok(Standing { generation, condemned: lists.flat_map(|list| list.packs.into_keys()).collect() })
    }

    /// Passes the fence with refs that lie in the store unsigned: returns when no sweep can take a pack of theirs.
    pub(super) async fn pass_fence(
        &self,
        refs: &Refs,
        patience: Patience,
        monitor: &SharedMonitor,
    ) -> Result<()> {
        self.pass_sweeps(refs, patience, monitor).await?;
        if self.is_taken_for_dead(&refs.snapshot).await? {
            return Err(taken_for_dead(&refs.snapshot));
        }
        Ok(())
    }

    /// Passes the fence with the refs of a copy. A copy has the name of its original, so the tombstone of an earlier
    /// sync that died unsigned may lie there: it says nothing about what is signed now. But a sweep that had looked
    /// before the refs or the signature came may still remove things. Such a sweep is open, and whoever sees none
    /// after the refs, and after the signature, knows that the next one will find them.
    pub(super) async fn pass_fence_again(
        &self,
        refs: &Refs,
        patience: Patience,
        monitor: &SharedMonitor,
    ) -> Result<()> {
        self.pass_sweeps(refs, patience, monitor).await?;
        self.confirm_copy(refs, patience, monitor).await
    }

    /// Makes sure that what was copied is there and that no sweep is about to take it for dead.
    pub(super) async fn confirm_copy(
        &self,
        refs: &Refs,
        patience: Patience,
        monitor: &SharedMonitor,
    ) -> Result<()> {
        let listed = self.get.list(&format!("{}{}.", marks::TOMBSTONES, refs.snapshot)).await?;
        let generations = listed.iter().filter_map(|object| marks::tombstone_of(&object.key));
        if let Some(first) = generations.map(|(_, generation)| generation).min() {
            self.wait_for_sweeps(patience, monitor, |number, _| number >= first).await?;
        }
        let forgotten = self.tombstones(&listed).await?.valid.iter().any(|one| one.commit.is_some());
        if self.lies_there(refs).await? && !forgotten {
            return Ok(());
        }
        let what = format!("snapshot `{}` was removed while it was copied", refs.snapshot);
        Err(Failure::new(ExitCode::Failed, what)
            .hint("Run the sync again; if it fails again, prune the copy first."))
    }

    /// Returns when no sweep can take a pack of these refs, which lie in the store.
    async fn pass_sweeps(&self, refs: &Refs, patience: Patience, monitor: &SharedMonitor) -> Result<()> {
        let was_pruned = self.wait_for_sweeps(patience, monitor, |_, one| {
            let names_ours =
                |list: &marks::Condemned| list.packs.keys().any(|id| refs.packs.contains_key(id));
            let has_list = one
                .keys
                .iter()
                .any(|key| marks::step_of(key).is_some_and(|(_, step)| step == marks::Step::Condemned));
            // A list that cannot be read may name anything.
            has_list && one.condemned.as_ref().is_none_or(names_ours)
        });
        // Whatever this run knew when it began: a pruner that stood still may condemn and sweep under a number that
        // is older than what this run has seen.
        if was_pruned.await? {
            self.check_packs_are_there(&refs.packs).await?;
        }
        Ok(())
    }

    /// Waits until no sweep is open that `concerns` us. Returns whether there ever was a prune.
    async fn wait_for_sweeps(
        &self,
        patience: Patience,
        monitor: &SharedMonitor,
        concerns: impl Fn(u64, &Generation) -> bool,
    ) -> Result<bool> {
        let mut looks = 0;
        loop {
            let (generations, _) = self.generations().await?;
            let open = generations
                .iter()
                .find(|(number, one)| one.open && one.done.is_none() && concerns(**number, one));
            let Some((number, _)) = open else { return Ok(!generations.is_empty()) };
            looks += 1;
            if looks > patience.looks {
                let what = format!("generation {number} of prune is removing packs that this run relies on");
                return Err(Failure::new(ExitCode::Busy, what).hint(
                    "Run it again: a new run does not rely on them, and what was stored is used again.",
                ));
            }
            monitor.step(None, format!("wait for generation {number} of prune to end"));
            tokio::time::sleep(patience.interval).await;
        }
    }

    async fn lies_there(&self, refs: &Refs) -> Result<bool> {
        let key = layout::refs(&refs.snapshot, refs.revision);
        Ok(self.get.size(&key).await?.is_some()
            && self.get.size(&layout::manifest(&refs.snapshot)).await?.is_some())
    }

    /// Returns whether a tombstone speaks of a snapshot.
    async fn is_taken_for_dead(&self, id: &SnapshotId) -> Result<bool> {
        let listed = self.get.list(&format!("{}{id}.", marks::TOMBSTONES)).await?;
        Ok(!self.tombstones(&listed).await?.valid.is_empty())
    }

    /// Fails when a pack that is relied on is gone.
    async fn check_packs_are_there(&self, needed: &BTreeMap<PackId, u64>) -> Result<()> {
        let there = self.packs().await?;
        match needed.iter().find(|(pack, size_bytes)| there.get(pack) != Some(size_bytes)) {
            None => Ok(()),
            Some((pack, _)) => {
                let what = format!("pack `{pack}` was removed while this run relied on it");
                Err(Failure::new(ExitCode::Failed, what)
                    .hint("Run it again: what is gone is stored anew, the rest is used again."))
            }
        }
    }
}

impl Repository<Append> {
    /// Makes sure that a commit is what it seems to be: its refs are there, and nobody took it for dead before it
    /// was signed. Only then may it be reported.
    pub(super) async fn confirm(&self, refs: &Refs) -> Result<()> {
        if self.core.lies_there(refs).await? && !self.core.is_taken_for_dead(&refs.snapshot).await? {
            return Ok(());
        }
        Err(taken_for_dead(&refs.snapshot))
    }
}

fn taken_for_dead(id: &SnapshotId) -> Failure {
    Failure::new(ExitCode::Failed, format!("snapshot `{id}` was taken for dead before it was signed"))
        .hint("It took too long, or a clock is wrong. Run the backup again: what was stored is used again.")
}
