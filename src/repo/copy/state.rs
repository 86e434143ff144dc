//! How a copy stands, compared with its original.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};

use super::Copy;
use crate::{
    error::Result,
    names::{Key, PackId, SnapshotId},
    repo::{SignedRefs, marks},
};

/// How a copy stands when a run has ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CopyState {
    /// Snapshots in the copy.
    pub snapshots: u64,
    /// How many of them a drill has proven, as far as the copy tells.
    pub proven: u64,
    /// The newest of them, and when it was begun.
    pub newest: Option<(SnapshotId, DateTime<Utc>)>,
    /// Bytes of the packs in the copy.
    pub packs_bytes: u64,
    /// Bytes of packs that snapshots of the original need and that the copy has not. What the copy itself has forgotten
    /// does not count.
    pub lag_bytes: u64,
    /// The oldest snapshot of the original that the copy has not and has not forgotten, and when it was begun.
    pub behind: Option<(SnapshotId, DateTime<Utc>)>,
}

/// The snapshots that a copy has to do with.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    /// Those that are believed there, and are the very commits of the original where that has them.
    pub(super) there: BTreeSet<SnapshotId>,
    /// Those that the copy has forgotten; they may still lie there.
    pub(super) forgotten: BTreeSet<SnapshotId>,
}

impl Known {
    pub(super) fn contains(&self, id: &SnapshotId) -> bool {
        self.there.contains(id) || self.forgotten.contains(id)
    }
}

impl Copy<'_> {
    /// Looks how the copy stands now. What has come into the original since the run began counts as missing.
    pub(super) async fn state(&self) -> Result<CopyState> {
        let original = self.from.survey().await?.good;
        let wanted = || original.iter().filter(|one| !self.known.forgotten.contains(&one.refs.snapshot));
        let mut missing: BTreeMap<PackId, u64> = BTreeMap::new();
        for one in wanted() {
            one.packs.for_each(|pack, size_bytes| {
                if !self.packs.contains_key(&pack) {
                    missing.insert(pack, size_bytes);
                }
            });
        }
        let lacks = wanted().filter(|one| !self.known.there.contains(&one.refs.snapshot));
        let behind =
            lacks.map(|one| (one.refs.snapshot.clone(), one.refs.began)).min_by_key(|(_, began)| *began);
        let beginnings: BTreeMap<&SnapshotId, DateTime<Utc>> =
            original.iter().map(|one| (&one.refs.snapshot, one.refs.began)).collect();
        let began = |id: &SnapshotId| beginnings.get(id).copied().unwrap_or_else(|| id.time());
        let standing: Vec<&SnapshotId> = self.known.there.difference(&self.known.forgotten).collect();
        let commits = self.commits.iter().filter(|(id, _)| standing.contains(id));
        let proven = self.proven_by.proven_of(commits.map(|(id, refs)| (id, *refs)));
        Ok(CopyState {
            snapshots: standing.len() as u64,
            proven: proven.len() as u64,
            // The id tells the second only: of two snapshots of one second chance would make the newest.
            newest: standing.iter().map(|id| (began(id), *id)).max().map(|(began, id)| (id.clone(), began)),
            packs_bytes: self.packs.values().sum(),
            lag_bytes: missing.values().sum(),
            behind,
        })
    }

    /// Returns what the copy has and what it has forgotten, and notes on which packs its snapshots rely. What only lies
    /// there is not there: its signature must be valid. The tombstone of a sync that died unsigned forgets nothing.
    pub(super) async fn known_snapshots(&mut self) -> Result<Known> {
        let survey = self.to.survey().await?;
        let believed = survey.good.iter().chain(&survey.forgotten);
        let is_same = |one: &&SignedRefs| {
            // What the original has no more cannot be compared with it.
            self.wanted.get(&one.refs.snapshot).is_none_or(|digest| *digest == one.digest)
        };
        let there: BTreeSet<SnapshotId> =
            believed.filter(is_same).map(|one| one.refs.snapshot.clone()).collect();
        self.commits = survey.good.iter().map(|one| (one.refs.snapshot.clone(), one.digest)).collect();
        for one in &survey.good {
            one.packs.for_each(|pack, _| *self.relied_on.entry(pack).or_default() += 1);
        }
        let mut listed = self.to.get.list(marks::TOMBSTONES).await?;
        listed.retain(|object| {
            let id = marks::tombstone_of(&object.key).map(|(id, _)| id);
            let is_known = |id: SnapshotId| there.contains(&id) || self.wanted.contains_key(&id);
            !object.key.as_str().starts_with(marks::UPSTREAM) && id.is_some_and(is_known)
        });
        let tombstones = self.to.tombstones(&listed).await?;
        let of_missing = |key: &Key| marks::tombstone_of(key).is_some_and(|(id, _)| !there.contains(&id));
        if let Some((_, failure)) = tombstones.bad.into_iter().find(|(key, _)| of_missing(key)) {
            return Err(failure);
        }
        let forgets = |tombstone: &marks::Tombstone| {
            let commit = tombstone.commit.as_ref();
            commit.is_some_and(|commit| {
                // Of what the original has no more, nothing tells which commit it was.
                self.wanted.get(&tombstone.snapshot).is_none_or(|digest| commit.refs == *digest)
            })
        };
        let forgotten = tombstones.valid.into_iter().filter(forgets).map(|tombstone| tombstone.snapshot);
        Ok(Known { forgotten: forgotten.collect(), there })
    }
}
