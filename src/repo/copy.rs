//! Copies a repository's snapshots into another store: without a key, and without the power to remove anything.
//!
//! *Order.* As a commit: session → packs → indexes → manifest → refs → fence → signature, one snapshot after the
//! other, the oldest first. Tombstones of the original come before, as explanations of what is never copied; they
//! forget nothing in the copy, which has a retention of its own.
//!
//! *Crash.* What was copied is found there by the next run. A snapshot without its signature is none.
//!
//! *Limits.* [`PACKS_AT_ONCE`] packs are in memory.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use sha2::{Digest, Sha256};
use tokio::task::spawn_blocking;

use super::{
    Clear, Place, Repository,
    core::{Core, text_of},
    fence::{Patience, confirm},
    format::{self, FORMAT, layout},
    marks::{self, SessionKind, SessionMark},
    recovery,
    survey::SignedRefs,
};
use crate::{
    clock::Ground,
    error::{Context, ExitCode, Failure, Result},
    event::{Event, SharedMonitor},
    names::{Key, PackId, SnapshotId},
    store::{Get, Put, StoreError},
};

/// Packs that are copied at the same time.
pub const PACKS_AT_ONCE: usize = 2;

/// What a copy did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CopyReport {
    /// Snapshots that were copied, the oldest first.
    pub copied: Vec<SnapshotId>,
    /// Snapshots that were there already.
    pub there: u64,
    /// Packs that were copied.
    pub packs: u64,
    /// Their bytes.
    pub packs_bytes: u64,
    /// Snapshots that are damaged in the original and were left out, and why.
    pub damaged: Vec<(SnapshotId, String)>,
}

/// A copy that is being made.
struct Copy<'a> {
    from: &'a Core,
    to: Arc<Core>,
    put: Arc<dyn Put>,
    patience: Patience,
    monitor: &'a SharedMonitor,
    session: SnapshotId,
    /// The packs that the copy has.
    packs: BTreeMap<PackId, u64>,
    report: CopyReport,
}

impl Repository<Clear> {
    /// Opens to look at what is in the clear, without any key.
    pub async fn clear(place: Place) -> Result<Self> {
        Ok(Self { core: Core::open(place).await?, access: Clear })
    }

    /// Copies every snapshot that `to` has not, and that was not forgotten there, into `to`.
    pub async fn copy_to(
        &self,
        to: Place,
        put: Arc<dyn Put>,
        patience: Patience,
        ground: &Ground,
        monitor: &SharedMonitor,
    ) -> Result<CopyReport> {
        let from = self.core.as_ref();
        let commits = from.commits().await?;
        if let Some((_, failure)) = commits.survey.bad.into_iter().chain(commits.bad).next() {
            return Err(failure);
        }
        copy_configs(from, to.get.as_ref(), put.as_ref()).await?;
        let to = Core::open(to).await?;
        if to.config.repository != from.config.repository {
            return Err(Failure::new(ExitCode::Usage, "another repository lies at the offsite place")
                .hint("Choose an empty place: a copy has the id of its original."));
        }
        let mut copy = Copy::begin(from, to, put, patience, ground, monitor).await?;
        copy.tombstones().await?;
        let there = copy.known_snapshots().await?;
        copy.report.there =
            commits.survey.good.iter().filter(|one| there.contains(&one.refs.snapshot)).count() as u64;
        for one in commits.survey.good.iter().filter(|one| !there.contains(&one.refs.snapshot)) {
            match copy.snapshot(one).await {
                Ok(()) => {
                    monitor.event(Event::Copied { snapshot: one.refs.snapshot.clone() });
                    copy.report.copied.push(one.refs.snapshot.clone());
                }
                Err(failure) if failure.exit() == ExitCode::Damage => {
                    let (id, why) = (one.refs.snapshot.clone(), failure.chain().join(": "));
                    monitor.warn(None, format!("snapshot {id} is not copied: {why}"), None);
                    copy.report.damaged.push((id, why));
                }
                Err(failure) => return Err(failure),
            }
        }
        copy.give(&marks::session_end(&copy.session), "ended\n".into()).await?;
        Ok(copy.report)
    }
}

impl<'a> Copy<'a> {
    /// Looks where the copy stands and says that somebody is at work on it.
    async fn begin(
        from: &'a Core,
        to: Arc<Core>,
        put: Arc<dyn Put>,
        patience: Patience,
        ground: &Ground,
        monitor: &'a SharedMonitor,
    ) -> Result<Self> {
        let generation = to.standing(monitor).await?.generation;
        let mut salt = [0; 2];
        ground.dice.fill(&mut salt);
        let session = SnapshotId::at(ground.clock.now(), u16::from_be_bytes(salt));
        let mark =
            SessionMark { format: FORMAT, kind: SessionKind::Sync, generation, snapshots: BTreeSet::new() };
        to.put(put.as_ref(), &marks::session(&session, 0), format::write(&mark).into()).await?;
        let packs = to.packs().await?;
        Ok(Self { from, to, put, patience, monitor, session, packs, report: CopyReport::default() })
    }

    /// Returns the snapshots that the copy has or has forgotten.
    async fn known_snapshots(&self) -> Result<BTreeSet<SnapshotId>> {
        let refs = self.to.signed(layout::REFS).await?;
        let tombstones = self.to.get.list(marks::TOMBSTONES).await?;
        let own = tombstones.iter().filter(|object| !object.key.as_str().starts_with(marks::UPSTREAM));
        let forgotten = own.filter_map(|object| Some(marks::tombstone_of(&object.key)?.0));
        Ok(refs.iter().filter_map(|key| Some(layout::refs_of(key)?.0)).chain(forgotten).collect())
    }

    /// Copies tombstones, so that a number which is missing in the copy is explained there.
    async fn tombstones(&self) -> Result<()> {
        let there: BTreeSet<Key> =
            self.to.get.list(marks::UPSTREAM).await?.into_iter().map(|object| object.key).collect();
        for object in self.from.get.list(marks::TOMBSTONES).await? {
            if marks::tombstone_of(&object.key).is_none() {
                continue;
            }
            let Some(key) = marks::upstream(&object.key).filter(|key| !there.contains(key)) else { continue };
            let signature = text_of(self.from.get.as_ref(), &layout::signature(&object.key)).await?;
            let bytes = self.from.get.get(&object.key, None).await?;
            self.give(&layout::signature(&key), signature.into()).await?;
            self.give(&key, bytes).await?;
        }
        Ok(())
    }

    /// Copies one snapshot.
    async fn snapshot(&mut self, one: &SignedRefs) -> Result<()> {
        let refs = &one.refs;
        self.copy_packs(&refs.packs).await?;
        self.indexes().await?;
        let manifest = layout::manifest(&refs.snapshot);
        let bytes = self.take(&manifest).await?;
        if PackId(Sha256::digest(&bytes).into()) != refs.manifest {
            return Err(Failure::new(
                ExitCode::Damage,
                format!("`{manifest}` is not the manifest that was signed"),
            ));
        }
        self.give(&manifest, bytes).await?;
        let key = layout::refs(&refs.snapshot, refs.revision);
        let bytes = self.take(&key).await?;
        let signature = self.take(&layout::signature(&key)).await?;
        self.give(&key, bytes).await?;
        // A pack that was there when this run began may have been swept since, so each is looked for.
        self.to.pass_fence(refs, self.patience, self.monitor).await?;
        self.give(&layout::signature(&key), signature).await?;
        confirm(&self.to, refs).await
    }

    /// Copies the packs that are missing; each must have the hash in its name.
    async fn copy_packs(&mut self, needed: &BTreeMap<PackId, u64>) -> Result<()> {
        for (pack, size_bytes) in needed {
            if self.packs.get(pack).is_some_and(|found| found != size_bytes) {
                let what = format!("`{}` of the copy does not have its size", layout::pack(*pack));
                return Err(Failure::new(ExitCode::StoreDown, what).hint(
                    "An object is never overwritten: remove that one by hand and run the sync again.",
                ));
            }
        }
        let missing = needed.iter().filter(|(pack, _)| !self.packs.contains_key(pack));
        let missing: Vec<(PackId, u64)> = missing.map(|(pack, size_bytes)| (*pack, *size_bytes)).collect();
        let copies = missing.into_iter().map(|(pack, size_bytes)| {
            let this = &*self;
            async move {
                this.pack(pack, size_bytes).await?;
                Ok::<_, Failure>((pack, size_bytes))
            }
        });
        let copied: Vec<(PackId, u64)> =
            stream::iter(copies).buffer_unordered(PACKS_AT_ONCE).try_collect().await?;
        self.report.packs += copied.len() as u64;
        self.report.packs_bytes += copied.iter().map(|(_, size_bytes)| size_bytes).sum::<u64>();
        self.packs.extend(copied);
        Ok(())
    }

    async fn pack(&self, pack: PackId, size_bytes: u64) -> Result<()> {
        let key = layout::pack(pack);
        let bytes = self.take(&key).await?;
        let hashed = bytes.clone();
        let work = spawn_blocking(move || PackId(Sha256::digest(&hashed).into()));
        if work.await.failed(ExitCode::Failed, || "hashing broke off".to_owned())? != pack {
            let what = format!("`{key}` does not have the hash in its name");
            return Err(Failure::new(ExitCode::Damage, what));
        }
        match self.put.put(&key, bytes).await {
            // A run that died, or another one, was faster; its name says what it is.
            Err(StoreError::Exists { .. }) => {}
            other => other?,
        }
        match self.to.get.size(&key).await? {
            Some(found) if found == size_bytes => {
                self.monitor.event(Event::PackStored { size_bytes });
                Ok(())
            }
            _ => Err(Failure::new(
                ExitCode::StoreDown,
                format!("`{key}` was put into the copy and is not there whole"),
            )
            .hint("Check the offsite store; `lifeboat doctor` tries what it promises.")),
        }
    }

    /// Copies the indexes that the copy has not. One may tell of packs that are not there; they count as missing.
    async fn indexes(&self) -> Result<()> {
        let there: BTreeSet<Key> = self.to.signed(layout::INDEX).await?.into_iter().collect();
        for key in self.from.signed(layout::INDEX).await?.into_iter().filter(|key| !there.contains(key)) {
            let (Ok(bytes), Ok(signature)) =
                (self.take(&key).await, self.take(&layout::signature(&key)).await)
            else {
                // Prune removes indexes that tell of nothing.
                continue;
            };
            self.give(&key, bytes).await?;
            self.give(&layout::signature(&key), signature).await?;
        }
        Ok(())
    }

    /// Reads an object of the original; what is not there is damage of the original.
    async fn take(&self, key: &Key) -> Result<Bytes> {
        match self.from.get.get(key, None).await {
            Err(StoreError::NotFound { .. }) => {
                Err(Failure::new(ExitCode::Damage, format!("`{key}` is missing in the original")))
            }
            other => Ok(other?),
        }
    }

    async fn give(&self, key: &Key, bytes: Bytes) -> Result<()> {
        Ok(self.to.put(self.put.as_ref(), key, bytes).await?)
    }
}

/// Copies the configs, the signature of each first: the copy is a repository once it has one.
async fn copy_configs(from: &Core, to: &dyn Get, put: &dyn Put) -> Result<()> {
    let is_new = to.size(&layout::config()).await?.is_none();
    if is_new {
        for (name, text) in recovery::files() {
            put_same(to, put, &recovery::key(name), Bytes::from_static(text.as_bytes())).await?;
        }
    }
    for config in from.older_configs.iter().chain([&from.config]) {
        let key = layout::config_revision(config.revision);
        if !is_new && to.size(&key).await?.is_some() {
            continue;
        }
        for key in [layout::signature(&key), key] {
            put_same(to, put, &key, from.get.get(&key, None).await?).await?;
        }
    }
    Ok(())
}

/// Puts an object; that another one lies there is an error.
async fn put_same(to: &dyn Get, put: &dyn Put, key: &Key, bytes: Bytes) -> Result<()> {
    match put.put(key, bytes.clone()).await {
        Err(StoreError::Exists { .. }) if to.get(key, None).await? == bytes => Ok(()),
        Err(StoreError::Exists { .. }) => {
            let what = format!("`{key}` lies in the offsite place and is not of this repository");
            Err(Failure::new(ExitCode::Usage, what).hint("Choose an empty place, or empty this one."))
        }
        other => Ok(other?),
    }
}
