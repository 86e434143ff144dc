//! Removes what a generation has condemned and nobody needs.
//!
//! *Order.* `open` → what the commits need, read after it → objects of forgotten snapshots: signature, refs,
//! manifest → what runs have left that died before their refs → packs → indexes that tell of nothing → `done`. A
//! snapshot loses its signature before its packs, so nothing that counts as a snapshot ever lacks one.
//!
//! *Crash.* What is removed is removed; the generation stays open and the rest is condemned anew.
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
        survey::Ledger,
    },
};

/// Objects that are removed at the same time.
const DELETES_AT_ONCE: usize = 4;

/// What a sweep may remove, after it was opened.
struct Judged {
    /// Snapshots that are forgotten, and the keys of their refs.
    forgotten: BTreeMap<SnapshotId, Key>,
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
        let judged = judge(&ledger, generation, terms, ground);
        let mut swept = Swept { generation, ..Swept::default() };
        self.remove_snapshots(judged.forgotten, judged.dead, &mut swept).await?;
        for (snapshot, keys) in judged.strays {
            self.delete_all(keys.into_iter()).await?;
            swept.snapshots.insert(snapshot);
        }
        let (rescued, delete): (Vec<PackId>, Vec<PackId>) =
            condemned.packs.keys().copied().partition(|pack| judged.keep.contains(pack));
        swept.rescued.extend(rescued);
        let there = delete.into_iter().filter(|pack| ledger.packs.contains_key(pack));
        let there: Vec<PackId> = there.collect();
        self.delete_all(there.iter().map(|pack| layout::pack(*pack))).await?;
        swept.deleted_bytes = there.iter().map(|pack| ledger.packs[pack].size_bytes).sum();
        swept.deleted.extend(there);
        swept.indexes = self.remove_indexes(told, &ledger, &swept.deleted).await?;
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
    /// tombstone lies there by now, so a writer who signs after this look will not report a backup.
    async fn remove_snapshots(
        &self,
        forgotten: BTreeMap<SnapshotId, Key>,
        dead: BTreeMap<SnapshotId, Key>,
        swept: &mut Swept,
    ) -> Result<()> {
        let delete = &self.access.delete;
        for (snapshot, refs) in forgotten {
            delete.delete(&layout::signature(&refs)).await?;
            delete.delete(&refs).await?;
            delete.delete(&layout::manifest(&snapshot)).await?;
            swept.snapshots.insert(snapshot);
        }
        for (snapshot, refs) in dead {
            if self.core.get.size(&layout::signature(&refs)).await?.is_some() {
                continue;
            }
            delete.delete(&refs).await?;
            delete.delete(&layout::manifest(&snapshot)).await?;
            swept.snapshots.insert(snapshot);
        }
        Ok(())
    }

    /// Removes index objects that tell only of packs that are gone. Only an index that was read is removed, so
    /// whoever has no key for them leaves them be.
    async fn remove_indexes(
        &self,
        told: BTreeMap<Key, BTreeSet<PackId>>,
        ledger: &Ledger,
        deleted: &BTreeSet<PackId>,
    ) -> Result<u64> {
        let is_gone = |pack: &PackId| !ledger.packs.contains_key(pack) || deleted.contains(pack);
        let useless = told.into_iter().filter(|(_, packs)| packs.iter().all(is_gone));
        let mut removed = 0;
        for (key, _) in useless {
            // A signature without its index cannot be of a run that is about to put the other half.
            self.access.delete.delete(&key).await?;
            self.access.delete.delete(&layout::signature(&key)).await?;
            removed += 1;
        }
        Ok(removed)
    }

    async fn delete_all(&self, keys: impl Iterator<Item = Key>) -> Result<()> {
        let deletes = keys.map(|key| async move { self.access.delete.delete(&key).await });
        stream::iter(deletes).buffer_unordered(DELETES_AT_ONCE).try_collect::<()>().await?;
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
            judged.forgotten.insert(one.refs.snapshot.clone(), key);
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
