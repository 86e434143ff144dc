//! Prune: forgets snapshots and removes what nobody needs, without a lock and without a key that opens data.
//!
//! Two phases with a grace between them. A plan forgets snapshots (a signed tombstone each) and condemns packs that
//! no commit needs; a later run sweeps what was condemned long enough ago and is still not needed. `super::fence`
//! says why no pause of anybody loses data; the clock only makes conflicts rare.

mod apply;
mod plan;
mod sweep;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use chrono::{DateTime, Duration, Utc};

pub use self::{
    apply::{PruneReport, Swept},
    plan::{PackLine, PackState, PrunePlan, Removal, plan},
};
use super::{
    Place, Repository,
    core::Core,
    format::{Proof, Refs, layout},
    integrity::Incident,
    survey::{Ledger, SignedRefs},
};
use crate::{
    clock::Ground,
    crypt::{Identities, SigningKey},
    error::{ExitCode, Failure, Result},
    event::{Event, SharedMonitor},
    names::{Key, PackId, SnapshotId},
    store::{Delete, Put, StoreError},
};

/// May forget snapshots and remove what nobody needs. Opens no data.
pub struct Maintain {
    pub(super) put: Arc<dyn Put>,
    delete: Arc<dyn Delete>,
    pub(super) signing: SigningKey,
    index: Option<Identities>,
    /// Whether the store may refuse to remove something: it was asked to keep it.
    retaining: bool,
}

/// How long things wait.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// Between condemning a pack and sweeping it; longer than any backup takes.
    pub grace: Duration,
    /// How long a session counts as at work after it was last heard of.
    pub session: Duration,
    /// Whether this is a copy: what a run that died has left of a snapshot there is finished by the next one under
    /// the same name, so it goes only after the original has forgotten that snapshot.
    pub is_copy: bool,
}

impl Default for Terms {
    fn default() -> Self {
        Self { grace: Duration::hours(72), session: Duration::hours(72), is_copy: false }
    }
}

/// Everything that a plan is made from.
pub struct Inspection {
    /// What is in the clear.
    pub(super) ledger: Ledger,
    /// What does not fit together; while there is any, nothing is removed.
    pub incidents: Vec<Incident>,
    /// Why snapshots are pinned; an empty reason where it cannot be read.
    pub pins: BTreeMap<SnapshotId, String>,
    /// The snapshots that a drill has proven, each with the proof.
    pub proven: BTreeMap<SnapshotId, Proof>,
    /// Packs that no new snapshot relies on.
    pub(super) avoided: BTreeSet<PackId>,
}

impl Inspection {
    /// Returns the committed snapshots, oldest first.
    pub fn snapshots(&self) -> impl Iterator<Item = &SignedRefs> {
        self.ledger.survey.good.iter()
    }

    /// Returns what drills found that are believed, the oldest first; of snapshots that are gone too.
    pub fn drills(&self) -> impl Iterator<Item = &Proof> {
        self.ledger.proofs.good.iter().map(|one| &one.proof)
    }

    /// Returns the tombstones that tell what the original of this copy has forgotten, and when.
    pub fn forgotten_upstream(&self) -> BTreeMap<SnapshotId, DateTime<Utc>> {
        self.ledger.explanations.iter().map(|one| (one.snapshot.clone(), one.at)).collect()
    }

    /// Fails when something does not fit together; what concerns only the snapshots in `named` does not count, for a
    /// person who has looked wants to be rid of them.
    pub fn check(&self, named: &BTreeSet<SnapshotId>) -> Result<()> {
        let concerns_named = |one: &&Incident| {
            let refs = Key::new(&one.object).ok().and_then(|key| layout::refs_of(&key));
            !refs.is_some_and(|(id, _)| named.contains(&id))
        };
        let left: Vec<&Incident> = self.incidents.iter().filter(concerns_named).collect();
        let Some(first) = left.iter().find(|one| one.tampering).or(left.first()) else {
            return Ok(());
        };
        Err(stands_still(first))
    }
}

impl Repository<Maintain> {
    /// Opens for removing. `index` is needed only to read the reasons of pins and to remove indexes that are of no
    /// use any more.
    pub async fn maintain(
        place: Place,
        put: Arc<dyn Put>,
        delete: Arc<dyn Delete>,
        signing: SigningKey,
        index: Option<Identities>,
        monitor: &SharedMonitor,
    ) -> Result<Self> {
        let core = Core::open(place).await?;
        if !core.trust.maintainers.texts().contains(&signing.public()) {
            let what = format!("the signing key `{}` may not remove anything", signing.public());
            return Err(Failure::new(ExitCode::KeyRefused, what).hint(
                "Add it to maintainers in [repository], or run prune on the host that has such a key.",
            ));
        }
        if let Some(index) = &index {
            core.refresh(index, monitor).await?;
        }
        Ok(Self { core, access: Maintain { put, delete, signing, index, retaining: false } })
    }

    /// Takes it as right that the store refuses to remove something, for it was asked to keep what it has: that is
    /// *retained* then and no failure, and a later sweep tries again.
    #[must_use]
    pub fn retaining(mut self) -> Self {
        self.access.retaining = true;
        self
    }

    /// Removes an object. Returns whether it is gone; one that is retained is noted.
    async fn remove(&self, key: &Key, retained: &mut BTreeSet<Key>) -> Result<bool> {
        match self.access.delete.delete(key).await {
            Err(StoreError::Denied { .. }) if self.access.retaining => {
                retained.insert(key.clone());
                Ok(false)
            }
            other => Ok(other.map(|()| true)?),
        }
    }

    /// Reads everything that a plan is made from.
    pub async fn inspect(&self, ground: &Ground, monitor: &SharedMonitor) -> Result<Inspection> {
        let (ledger, incidents) = self.core.checked_ledger(ground.clock.now()).await?;
        for incident in incidents.iter().filter(|incident| incident.tampering) {
            monitor.event(Event::Tampering { object: incident.object.clone(), what: incident.what.clone() });
        }
        let mut pins = BTreeMap::new();
        for one in &ledger.survey.good {
            if let Some(reason) = self.pin_of(&one.refs).await? {
                pins.insert(one.refs.snapshot.clone(), reason);
            }
        }
        let avoided = self.core.known.avoided()?;
        let proven = ledger.proofs.proven(&ledger.survey.good);
        Ok(Inspection { ledger, incidents, pins, proven, avoided })
    }

    /// Returns why a snapshot is pinned, if it is. Old refs do not tell; then the manifest does, and where that
    /// cannot be read the snapshot counts as pinned.
    async fn pin_of(&self, refs: &Refs) -> Result<Option<String>> {
        if refs.pinned == Some(false) {
            return Ok(None);
        }
        let Some(index) = &self.access.index else { return Ok(Some(String::new())) };
        match self.core.manifest(refs, index).await {
            Ok(manifest) => Ok(manifest.pin),
            Err(failure) if failure.exit() == ExitCode::StoreDown => Err(failure),
            Err(_) => Ok(Some(String::new())),
        }
    }
}

/// Returns why nothing is removed.
fn stands_still(incident: &Incident) -> Failure {
    let exit = if incident.tampering { ExitCode::Tampering } else { ExitCode::Damage };
    let what = format!("prune stands still: `{}`: {}", incident.object, incident.what);
    Failure::new(exit, what)
        .hint("Nothing is removed while this is so. Run `lifeboat verify`, and keep the store as it is.")
}

/// Returns when a commit came, as far as it is known.
fn came(one: &SignedRefs) -> DateTime<Utc> {
    one.received.unwrap_or(one.refs.began)
}
