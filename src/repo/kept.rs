//! What the snapshots of a repository need, by name: for whoever asks a store to keep it. Needs no key.
//!
//! Indexes are sealed, so nobody without a key can tell which snapshot needs which: all that are signed count as
//! needed. They are small, and prune removes those that tell of nothing.
//!
//! *Crash.* Nothing here changes the store.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};

use super::{Clear, Repository, format::layout, packset::PackSet, recovery};
use crate::{
    error::{Failure, Result},
    names::{Key, PackId, SnapshotId},
};

/// What the snapshots of a repository need.
pub struct Kept {
    /// What each of them needs: configs, indexes, their signatures, and the text that tells how to recover by hand.
    shared: BTreeSet<Key>,
    /// Each snapshot with its packs, and the revision of its refs.
    snapshots: Vec<(SnapshotId, u32, PackSet)>,
    /// When each object reached the store, where it tells; of all objects that are there.
    there: BTreeMap<Key, Option<DateTime<Utc>>>,
    /// Snapshots that are signed and cannot be believed, and why. They need nothing.
    pub bad: Vec<(Key, Failure)>,
}

impl Repository<Clear> {
    /// Returns what the committed snapshots need.
    pub async fn kept(&self) -> Result<Kept> {
        let survey = self.core.survey().await?;
        let listed = self.core.get.list("").await?;
        let there: BTreeMap<_, _> = listed.into_iter().map(|object| (object.key, object.modified)).collect();
        let shared = there.keys().filter(|key| is_shared(key, &there)).cloned().collect();
        let snapshots = survey.good.into_iter().map(|one| (one.refs.snapshot, one.refs.revision, one.packs));
        Ok(Kept { shared, snapshots: snapshots.collect(), there, bad: survey.bad })
    }
}

/// Returns whether an object is a config, an index, the signature of one, or tells how to recover by hand.
fn is_shared(key: &Key, there: &BTreeMap<Key, Option<DateTime<Utc>>>) -> bool {
    let signed = layout::signed_by(key);
    let of = signed.as_ref().unwrap_or(key);
    let is_signed = || there.contains_key(of) && there.contains_key(&layout::signature(of));
    layout::config_of(of).is_some()
        || (layout::index_of(of).is_some() && is_signed())
        || recovery::files().iter().any(|(name, _)| recovery::key(name) == *key)
}

/// Returns the objects of one snapshot but its packs.
fn own(id: &SnapshotId, revision: u32) -> [Key; 3] {
    let refs = layout::refs(id, revision);
    [layout::manifest(id), layout::signature(&refs), refs]
}

impl Kept {
    /// Returns every object that a snapshot needs.
    pub fn objects(&self) -> BTreeSet<Key> {
        let mut objects = self.shared.clone();
        for (id, revision, packs) in &self.snapshots {
            objects.extend(own(id, *revision));
            packs.for_each(|pack, _| {
                objects.insert(layout::pack(pack));
            });
        }
        objects
    }

    /// Returns every pack that a snapshot needs.
    pub fn packs(&self) -> BTreeSet<PackId> {
        let mut all = BTreeSet::new();
        for (_, _, packs) in &self.snapshots {
            packs.for_each(|pack, _| {
                all.insert(pack);
            });
        }
        all
    }

    /// Returns when an object reached the store, where that tells; `None` for one that is not there.
    pub fn stored(&self, key: &Key) -> Option<Option<DateTime<Utc>>> {
        self.there.get(key).copied()
    }

    /// Returns how many snapshots there are.
    pub fn snapshots(&self) -> u64 {
        self.snapshots.len() as u64
    }

    /// Returns how many snapshots need only objects that `holds` is true of.
    pub fn snapshots_of_only(&self, holds: impl Fn(&Key) -> bool) -> u64 {
        if !self.shared.iter().all(&holds) {
            return 0;
        }
        let whole = self.snapshots.iter().filter(|(id, revision, packs)| {
            own(id, *revision).iter().all(&holds) && !packs.any(|pack| !holds(&layout::pack(*pack)))
        });
        whole.count() as u64
    }
}
