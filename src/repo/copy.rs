//! Copies a repository's snapshots into another store: without a key, and without the power to remove anything.
//!
//! *Order.* As a commit: session → packs → indexes → manifest → refs → fence → signature, one snapshot after the
//! other, the oldest first. Tombstones of the original come before, as explanations of what is never copied; they
//! forget nothing in the copy, which has a retention of its own. Each signer's snapshots come in the order of their
//! numbers, so the copy's chain never has a hole that a later run would fill.
//!
//! Proofs of drills come last, each with its report first and its signature last.
//!
//! *Damage.* A snapshot that is damaged in the original is left out and named. That would look like a theft in the
//! copy, so its absence is explained there before the signer's next snapshot comes: by a key that may remove things,
//! where the host has one. Where it has none, what the signer made later waits: a hole that nobody with a key has
//! looked at is not to be told from a theft. To forget the damaged snapshot in the original ends both.
//!
//! *Loss.* A snapshot is there when its signature is believed in the copy and it is the very commit of the original.
//! The listing of the copy must show its packs: what has gone is copied again, and told, before anything new is copied.
//!
//! *Crash.* What was copied is found there by the next run. A snapshot without its signature is none.
//!
//! *Limits.* [`CopySettings::packs_at_once`] packs are in memory.

mod heal;
mod packs;
mod proofs;
mod state;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use bytes::Bytes;
use sha2::{Digest, Sha256};

pub use self::state::CopyState;
use self::{packs::REMOVE_BY_HAND, state::Known};
use super::{
    Clear, Place, Repository,
    core::{Core, text_of},
    fence::Patience,
    format::layout,
    hold::AtWork,
    marks::{self, Forgotten, SessionKind},
    proofs::Proofs,
    put_first, recovery,
    survey::SignedRefs,
};
use crate::{
    clock::Ground,
    crypt::SigningKey,
    error::{ExitCode, Failure, Result},
    event::{Event, SharedMonitor},
    names::{Key, PackId, SnapshotId},
    store::{Get, Put, StoreError},
};

/// What failures call the place of a copy when a stranger's object lies there.
const OFFSITE_PLACE: &str = "the offsite place and is not of this repository";

/// How a copy is made.
#[derive(Clone, Copy, Debug)]
pub struct CopySettings {
    /// How long a sweep of the copy is waited for.
    pub patience: Patience,
    /// Packs that are sent at the same time.
    pub packs_at_once: usize,
    /// The share of a snapshot's packs that is read back, in percent: one pack at least, none at 0.
    pub reread_percent: u32,
}

impl Default for CopySettings {
    fn default() -> Self {
        Self { patience: Patience::default(), packs_at_once: 2, reread_percent: 5 }
    }
}

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
    /// Packs that were read back.
    pub packs_reread: u64,
    /// Snapshots that are damaged in the original and were left out, and why.
    pub damaged: Vec<(SnapshotId, String)>,
    /// Packs that snapshots of the copy need, that were gone there, and that were copied again.
    pub healed: BTreeSet<PackId>,
    /// Snapshots of the copy whose packs are gone or changed there and could not be copied again, and why.
    pub unhealed: Vec<(SnapshotId, String)>,
    /// Snapshots that wait because one before them is damaged and no key is at hand to explain it.
    pub waiting: Vec<SnapshotId>,
    /// Proofs of drills that were copied.
    pub proofs: u64,
    /// Proofs of drills that the copy has not, or has otherwise, and why.
    pub proofs_left: Vec<(Key, String)>,
    /// How the copy stands now.
    pub state: CopyState,
}

/// A copy that is being made.
struct Copy<'a> {
    from: &'a Core,
    to: Arc<Core>,
    put: Arc<dyn Put>,
    settings: CopySettings,
    /// Explains damage.
    signing: Option<&'a SigningKey>,
    ground: &'a Ground,
    monitor: &'a SharedMonitor,
    at_work: AtWork,
    /// Signers whose next snapshots wait.
    held_up: BTreeSet<String>,
    /// The snapshots of the original when the run began, each with the hash of its refs.
    wanted: BTreeMap<SnapshotId, PackId>,
    /// The snapshots that the copy has, and those that it has forgotten.
    known: Known,
    /// The snapshots that are believed in the copy, each with the hash of its refs.
    commits: BTreeMap<SnapshotId, PackId>,
    /// The proofs that the copy has.
    proven_by: Proofs,
    /// The packs that the copy has.
    packs: BTreeMap<PackId, u64>,
    /// Those that snapshots of the copy rely on, and how many do.
    relied_on: BTreeMap<PackId, u64>,
    /// The indexes of the original, once they were listed.
    indexes: Option<Vec<Key>>,
    report: CopyReport,
}

impl Repository<Clear> {
    /// Opens to look at what is in the clear, without any key.
    pub async fn clear(place: Place) -> Result<Self> {
        Ok(Self { core: Core::open(place).await?, access: Clear { signing: None } })
    }

    /// Lets copies explain with this key what is damaged here; a key that may not remove anything explains nothing.
    #[must_use]
    pub fn explaining(mut self, signing: SigningKey) -> Self {
        self.access.signing = Some(signing);
        self
    }

    /// Copies every snapshot that `to` has not, and that was not forgotten there, into `to`.
    pub async fn copy_to(
        &self,
        to: Place,
        put: Arc<dyn Put>,
        settings: CopySettings,
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
        let may_explain = |key: &&SigningKey| to.trust.maintainers.texts().contains(&key.public());
        let signing = self.access.signing.as_ref().filter(may_explain);
        let mut copy = Copy::begin(from, to, put, signing, settings, ground, monitor).await?;
        copy.tombstones().await?;
        copy.snapshots(&commits.survey.good).await?;
        copy.proofs(&commits.survey.good).await?;
        copy.report.state = copy.state().await?;
        let (key, mark) = copy.at_work.end();
        copy.give(&key, mark).await?;
        Ok(copy.report)
    }
}

/// Returns the snapshots in their order, but those of each signer by their numbers.
fn in_order<'a>(all: &[&'a SignedRefs]) -> Vec<&'a SignedRefs> {
    let mut queues: BTreeMap<&str, VecDeque<&SignedRefs>> = BTreeMap::new();
    for one in all {
        queues.entry(&one.signer).or_default().push_back(one);
    }
    for queue in queues.values_mut() {
        queue.make_contiguous().sort_by_key(|one| one.refs.seq);
    }
    all.iter().filter_map(|one| queues.get_mut(one.signer.as_str())?.pop_front()).collect()
}

impl<'a> Copy<'a> {
    /// Looks where the copy stands and says that somebody is at work on it.
    async fn begin(
        from: &'a Core,
        to: Arc<Core>,
        put: Arc<dyn Put>,
        signing: Option<&'a SigningKey>,
        settings: CopySettings,
        ground: &'a Ground,
        monitor: &'a SharedMonitor,
    ) -> Result<Self> {
        let generation = to.standing(monitor).await?.generation;
        let session = ground.id_at(ground.clock.now());
        let at_work = AtWork::new(session, SessionKind::Sync, generation);
        let mut copy = Self {
            from,
            to,
            put,
            settings,
            signing,
            ground,
            monitor,
            at_work,
            held_up: BTreeSet::new(),
            wanted: BTreeMap::new(),
            known: Known::default(),
            commits: BTreeMap::new(),
            proven_by: Proofs::default(),
            packs: BTreeMap::new(),
            relied_on: BTreeMap::new(),
            indexes: None,
            report: CopyReport::default(),
        };
        copy.mark().await?;
        copy.packs = copy.to.packs().await?;
        Ok(copy)
    }

    /// Says that this run is at work: what it has put is not garbage, though nothing needs it yet.
    async fn mark(&mut self) -> Result<()> {
        match self.at_work.mark(self.ground.clock.now()) {
            Some((key, mark)) => self.give(&key, mark).await,
            None => Ok(()),
        }
    }

    /// Copies those of the original's snapshots that the copy has not, and that were not forgotten there.
    async fn snapshots(&mut self, good: &[SignedRefs]) -> Result<()> {
        self.wanted = good.iter().map(|one| (one.refs.snapshot.clone(), one.digest)).collect();
        self.known = self.known_snapshots().await?;
        let (there, missing): (Vec<_>, Vec<_>) =
            good.iter().partition(|one| self.known.contains(&one.refs.snapshot));
        for one in &there {
            self.heal(one).await?;
        }
        self.report.there = (there.len() - self.report.unhealed.len()) as u64;
        for one in in_order(&missing) {
            self.one(one).await?;
        }
        if !self.report.copied.is_empty() {
            // A prune of the copy may have taken some away meanwhile, which told of nothing then.
            self.put_indexes().await?;
        }
        for (id, _) in &self.report.unhealed {
            self.known.there.remove(id);
        }
        Ok(())
    }

    /// Copies one snapshot, or takes note that it cannot be copied.
    async fn one(&mut self, one: &SignedRefs) -> Result<()> {
        let id = &one.refs.snapshot;
        if self.held_up.contains(&one.signer) {
            self.report.waiting.push(id.clone());
            return Ok(());
        }
        match self.snapshot(one).await {
            Ok(()) => {
                self.monitor.event(Event::Copied { snapshot: id.clone() });
                self.report.copied.push(id.clone());
                self.known.there.insert(id.clone());
                self.commits.insert(id.clone(), one.digest);
                Ok(())
            }
            Err(failure) if failure.exit() == ExitCode::Damage => {
                if self.was_forgotten_meanwhile(id).await? {
                    // What it was is explained before the next one comes.
                    return self.tombstones().await;
                }
                self.leave_out(one, &failure).await
            }
            Err(failure) => Err(failure),
        }
    }

    /// Returns whether the original has no such snapshot any more: then what it misses is no damage.
    async fn was_forgotten_meanwhile(&self, id: &SnapshotId) -> Result<bool> {
        match self.from.refs_of(id).await {
            Ok(_) => Ok(false),
            Err(failure) if failure.exit() == ExitCode::Usage => Ok(true),
            Err(failure) => Err(failure),
        }
    }

    /// Takes note of a damaged snapshot, and explains in the copy why it is not there.
    async fn leave_out(&mut self, one: &SignedRefs, failure: &Failure) -> Result<()> {
        let (id, why) = (one.refs.snapshot.clone(), failure.one_line());
        self.monitor.warn(
            None,
            format!("snapshot {id} is not copied: {why}"),
            Some(
                "Run `lifeboat verify`; `lifeboat prune --apply --forget` gives a snapshot up that is lost.",
            ),
        );
        self.report.damaged.push((id.clone(), why));
        let told = self.to.commits().await?.explanations;
        if told.iter().filter_map(|told| told.commit.as_ref()).any(|commit| commit.refs == one.digest) {
            return Ok(());
        }
        let Some(signing) = self.signing else {
            let what = format!("what {} made after snapshot {id} waits", one.signer);
            let hint = "Sync once where a key of a maintainer is: it explains the gap in the copy.";
            self.monitor.warn(None, what, Some(hint));
            self.held_up.insert(one.signer.clone());
            return Ok(());
        };
        let commit = Forgotten { refs: one.digest, signer: one.signer.clone(), seq: one.refs.seq };
        let reason = format!("snapshot {id} was damaged in the original when it was to be copied");
        self.to.explain(self.put.as_ref(), signing, commit, &reason, self.ground).await
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
        let refs = &one.whole();
        self.copy_packs(&refs.packs).await?;
        self.reread(&refs.packs).await?;
        if self.indexes.is_none() {
            self.put_indexes().await?;
        }
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
        let (bytes, signature) = self.take_signed(&key).await?;
        self.check_place_of_signature(&key, &signature).await?;
        self.give(&key, bytes).await?;
        // A pack that was there when this run began may have been swept since, so each is looked for.
        self.to.pass_fence_again(refs, self.settings.patience, self.monitor).await?;
        self.give(&layout::signature(&key), signature).await?;
        self.to.confirm_copy(refs, self.settings.patience, self.monitor).await
    }

    /// Fails when something lies where the signature of these refs is to be put: the refs would count, or never would.
    async fn check_place_of_signature(&self, refs: &Key, signature: &Bytes) -> Result<()> {
        let key = layout::signature(refs);
        let found = match self.to.get.get(&key, None).await {
            Err(StoreError::NotFound { .. }) => return Ok(()),
            other => other?,
        };
        if found != *signature {
            let what =
                format!("`{key}` of the copy is not the signature of the original, so nobody believes it");
            return Err(Failure::new(ExitCode::Tampering, what)
                .hint("Look into who put it there.")
                .hint(REMOVE_BY_HAND));
        }
        if self.to.get.size(refs).await?.is_none() {
            // The refs would count before anybody looked whether their packs are there.
            let what = format!("the signature `{key}` is left over in the copy");
            return Err(Failure::new(ExitCode::Busy, what).hint("Prune the copy: that takes it away."));
        }
        Ok(())
    }

    /// Copies the indexes that the copy has not. One may tell of packs that are not there; they count as missing. The
    /// original is listed once: what the snapshots of this run need was there when it began.
    async fn put_indexes(&mut self) -> Result<()> {
        let here = match self.indexes.take() {
            Some(here) => here,
            None => self.from.signed(layout::INDEX).await?,
        };
        let there: BTreeSet<Key> = self.to.signed(layout::INDEX).await?.into_iter().collect();
        for key in here.iter().filter(|key| !there.contains(*key)) {
            let (bytes, signature) = match self.take_signed(key).await {
                // Prune removes indexes that tell of nothing.
                Err(failure) if failure.exit() == ExitCode::Damage => continue,
                Err(failure) if failure.exit() == ExitCode::Tampering => {
                    self.monitor.warn(None, failure.one_line(), Some("Run `lifeboat verify`."));
                    continue;
                }
                other => other?,
            };
            self.give(key, bytes).await?;
            self.give(&layout::signature(key), signature).await?;
        }
        self.indexes = Some(here);
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

    /// Reads an object with its signature; what nobody believes here is not carried on.
    async fn take_signed(&self, key: &Key) -> Result<(Bytes, Bytes)> {
        let (bytes, signature) = (self.take(key).await?, self.take(&layout::signature(key)).await?);
        self.from.trust.writers.verify(&bytes, &String::from_utf8_lossy(&signature), key.as_str())?;
        Ok((bytes, signature))
    }

    async fn give(&self, key: &Key, bytes: Bytes) -> Result<()> {
        match self.to.put(self.put.as_ref(), key, bytes).await {
            // No damage of the original: a prune of the copy took an older one away in this very moment.
            Err(StoreError::NotFound { .. }) => {
                let what = format!("`{key}` was removed from the copy while it was put");
                Err(Failure::new(ExitCode::Busy, what).hint("Run the sync again."))
            }
            other => Ok(other?),
        }
    }
}

/// Copies the configs, the signature of each first: the copy is a repository once it has one.
async fn copy_configs(from: &Core, to: &dyn Get, put: &dyn Put) -> Result<()> {
    let is_new = to.size(&layout::config()).await?.is_none();
    if is_new {
        for (name, text) in recovery::files() {
            let text = Bytes::from_static(text.as_bytes());
            put_first(put, to, &recovery::key(name), text, OFFSITE_PLACE).await?;
        }
    }
    for config in from.older_configs.iter().chain([&from.config]) {
        let key = layout::config_revision(config.revision);
        if !is_new && to.size(&key).await?.is_some() {
            continue;
        }
        for key in [layout::signature(&key), key] {
            put_first(put, to, &key, from.get.get(&key, None).await?, OFFSITE_PLACE).await?;
        }
    }
    Ok(())
}
