//! Removes what a generation has condemned and nobody needs.
//!
//! *Order.* `open` → what the commits need, read after it → objects of forgotten snapshots: signature, refs,
//! manifest → what runs have left that died before their refs → packs → indexes that tell of nothing → `done`. A
//! snapshot loses its signature before its packs, so nothing that counts as a snapshot ever lacks one.
//!
//! *Crash.* What is removed is removed; the generation stays open and the rest is condemned anew.
//!
//! *Retained.* Where the store was asked to keep things, it may refuse to remove one. `done` does not name it; it
//! stays in the list, so nobody relies on it, and the next plan condemns it anew. A snapshot whose signature or refs
//! are retained keeps its packs too: what is signed is always whole.
//!
//! *Limits.* [`DELETES_AT_ONCE`] objects are removed at the same time.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::{StreamExt, TryStreamExt, stream};

use super::{Maintain, Swept, Terms, apply::overtaken, plan::in_use, stands_still};
use crate::{
    clock::Ground,
    error::Result,
    event::SharedMonitor,
    names::{Key, PackId, SnapshotId},
    repo::{
        Repository,
        format::{FORMAT, layout},
        marks::{self, Done, Open, Step},
        packset::PackSet,
        survey::Ledger,
    },
};

/// Objects that are removed at the same time.
const DELETES_AT_ONCE: usize = 4;

/// What a sweep may remove, after it was opened.
struct Judged {
    /// Snapshots that are forgotten: the keys of their refs, and their packs.
    forgotten: BTreeMap<SnapshotId, (Key, PackSet)>,
    /// Refs that nobody signed and a tombstone speaks of.
    dead: BTreeMap<SnapshotId, Key>,
    /// What is left of runs that had put no refs when they were taken for dead, or of snapshots whose refs an
    /// earlier sweep has removed. Nobody who puts refs from now on may sign them.
    strays: BTreeMap<SnapshotId, BTreeSet<Key>>,
    /// Packs that somebody needs.
    keep: BTreeSet<PackId>,
}

impl Repository<Maintain> {
    /// Sweeps one generation.
    pub(super) async fn sweep(
        &self,
        generation: u64,
        terms: Terms,
        ground: &Ground,
        monitor: &SharedMonitor,
    ) -> Result<Swept> {
        // Before any pack is looked for: an index that was put after this tells of packs that are there.
        let told = self.core.known.told()?;
        let open = Open {
            format: FORMAT,
            repository: self.core.config.repository.clone(),
            generation,
            run: ground.hex(8),
            at: ground.clock.now(),
        };
        self.put_open(generation, &open).await?;
        let (ledger, incidents) = self.core.checked_ledger(ground.clock.now()).await?;
        if let Some(first) = incidents.iter().find(|one| one.tampering).or(incidents.first()) {
            return Err(stands_still(first));
        }
        let condemned = ledger.generations.get(&generation).and_then(|one| one.condemned.clone());
        // Others have swept and cleared it away while this run stood still.
        let condemned = condemned.ok_or_else(overtaken)?;
        let mut judged = judge(&ledger, generation, terms, ground);
        let mut swept = Swept { generation, ..Swept::default() };
        let held = self.remove_snapshots(judged.forgotten, judged.dead, &mut swept).await?;
        self.remove_strays(judged.strays, &mut swept).await?;
        judged.keep.extend(held);
        let (rescued, delete): (Vec<PackId>, Vec<PackId>) =
            condemned.packs.keys().copied().partition(|pack| judged.keep.contains(pack));
        swept.rescued.extend(rescued);
        let there = delete.into_iter().filter(|pack| ledger.packs.contains_key(pack));
        let there: Vec<PackId> = there.collect();
        self.remove_all(there.iter().map(|pack| layout::pack(*pack)), &mut swept.retained).await?;
        swept.deleted.extend(there.into_iter().filter(|pack| !swept.retained.contains(&layout::pack(*pack))));
        swept.deleted_bytes = swept.deleted.iter().map(|pack| ledger.packs[pack].size_bytes).sum();
        self.remove_indexes(told, &ledger, &mut swept).await?;
        let done = Done {
            format: FORMAT,
            repository: self.core.config.repository.clone(),
            generation,
            at: ground.clock.now(),
            deleted: swept.deleted.clone(),
            rescued: swept.rescued.clone(),
            snapshots: swept.snapshots.clone(),
        };
        self.put_mark(&marks::step(generation, Step::Done), &done).await?;
        for pack in &swept.rescued {
            monitor.step(None, format!("pack {pack} is needed after all"));
        }
        Ok(swept)
    }

    /// Removes what makes a snapshot, its signature first. Refs that nobody had signed are looked at once more: a
    /// tombstone lies there by now, so a writer who signs after this look will not report a backup. Returns the packs
    /// of those whose signature or refs are retained.
    async fn remove_snapshots(
        &self,
        forgotten: BTreeMap<SnapshotId, (Key, PackSet)>,
        dead: BTreeMap<SnapshotId, Key>,
        swept: &mut Swept,
    ) -> Result<BTreeSet<PackId>> {
        let mut held = BTreeSet::new();
        for (snapshot, (refs, packs)) in forgotten {
            let keys = [layout::signature(&refs), refs];
            if self.remove_in_order(&keys, &mut swept.retained).await? {
                self.remove_manifest(snapshot, swept).await?;
            } else {
                packs.for_each(|pack, _| {
                    held.insert(pack);
                });
            }
        }
        for (snapshot, refs) in dead {
            if self.core.get.size(&layout::signature(&refs)).await?.is_some() {
                continue;
            }
            if self.remove(&refs, &mut swept.retained).await? {
                self.remove_manifest(snapshot, swept).await?;
            }
        }
        Ok(held)
    }

    /// Removes the last object of a snapshot.
    async fn remove_manifest(&self, snapshot: SnapshotId, swept: &mut Swept) -> Result<()> {
        if self.remove(&layout::manifest(&snapshot), &mut swept.retained).await? {
            swept.snapshots.insert(snapshot);
        }
        Ok(())
    }

    /// Removes what dead runs have left.
    async fn remove_strays(
        &self,
        strays: BTreeMap<SnapshotId, BTreeSet<Key>>,
        swept: &mut Swept,
    ) -> Result<()> {
        for (snapshot, keys) in strays {
            let mut retained = BTreeSet::new();
            self.remove_all(keys.into_iter(), &mut retained).await?;
            if retained.is_empty() {
                swept.snapshots.insert(snapshot);
            }
            swept.retained.extend(retained);
        }
        Ok(())
    }

    /// Removes index objects that tell only of packs that are gone. Only an index that was read is removed, so
    /// whoever has no key for them leaves them be.
    async fn remove_indexes(
        &self,
        told: BTreeMap<Key, BTreeSet<PackId>>,
        ledger: &Ledger,
        swept: &mut Swept,
    ) -> Result<()> {
        let is_gone = |pack: &PackId| !ledger.packs.contains_key(pack) || swept.deleted.contains(pack);
        let useless = told.into_iter().filter(|(_, packs)| packs.iter().all(is_gone));
        let useless: Vec<Key> = useless.map(|(key, _)| key).collect();
        for key in useless {
            // A signature without its index cannot be of a run that is about to put the other half.
            let signature = layout::signature(&key);
            if self.remove_in_order(&[key, signature], &mut swept.retained).await? {
                swept.indexes += 1;
            }
        }
        Ok(())
    }

    /// Removes objects of which each may go only after the one before it. Returns whether all are gone.
    async fn remove_in_order(&self, keys: &[Key], retained: &mut BTreeSet<Key>) -> Result<bool> {
        for key in keys {
            if !self.remove(key, retained).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn remove_all(&self, keys: impl Iterator<Item = Key>, retained: &mut BTreeSet<Key>) -> Result<()> {
        let removals = keys.map(|key| async move {
            let mut retained = BTreeSet::new();
            self.remove(&key, &mut retained).await.map(|_| retained)
        });
        let mut removals = stream::iter(removals).buffer_unordered(DELETES_AT_ONCE);
        while let Some(kept) = removals.try_next().await? {
            retained.extend(kept);
        }
        Ok(())
    }
}

/// Sorts what was read after `open`: a commit that is not forgotten by this generation or an earlier one keeps its
/// packs, and so do refs that may still be signed.
fn judge(ledger: &Ledger, generation: u64, terms: Terms, ground: &Ground) -> Judged {
    let read = in_use(ledger, terms, ground.clock.now());
    let tombstones = || ledger.tombstones.iter().filter(|tombstone| tombstone.generation <= generation);
    let strays = ledger.strays.iter().filter(|(id, _)| tombstones().any(|one| one.snapshot == **id));
    let strays = strays.map(|(id, stray)| (id.clone(), stray.keys.clone())).collect();
    let mut judged =
        Judged { forgotten: BTreeMap::new(), dead: BTreeMap::new(), strays, keep: BTreeSet::new() };
    let survey = &ledger.survey;
    for one in survey.good.iter().chain(&survey.forgotten).chain(&survey.revoked) {
        let is_forgotten = tombstones().any(|tombstone| tombstone.forgets(one));
        if is_forgotten && !read.contains(&one.refs.snapshot) {
            let key = layout::refs(&one.refs.snapshot, one.refs.revision);
            judged.forgotten.insert(one.refs.snapshot.clone(), (key, one.packs.clone()));
        } else {
            one.packs.for_each(|pack, _| {
                judged.keep.insert(pack);
            });
        }
    }
    for one in &ledger.unsigned {
        // Nobody had signed them; or an earlier sweep has removed the signature and died.
        let is_dead = tombstones().any(|tombstone| {
            tombstone.snapshot == one.snapshot
                && tombstone.commit.as_ref().is_none_or(|commit| commit.refs == one.digest)
        });
        if is_dead {
            judged.dead.insert(one.snapshot.clone(), one.key.clone());
        }
        // Even a dead one counts in the sweep that removes it: it may be signed at this very moment.
        judged.keep.extend(one.packs.keys());
    }
    judged
}
