//! What a repository says of itself in the clear: commits, tombstones, generations of prune, sessions, packs.
//!
//! *Order.* A signature is checked before what it signs is parsed. What is believed and what is not are told
//! apart; something that cannot be believed hides nothing else.
//! *Crash.* Nothing here changes the store.
//!
//! *Limits.* [`READS_AT_ONCE`] objects are read at the same time.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
};

use chrono::{DateTime, Utc};
use futures_util::{StreamExt, stream};
use sha2::{Digest, Sha256};

use super::{
    core::Core,
    format::{self, Refs, layout},
    marks::{self, Condemned, Done, SessionMark, Step, Tombstone},
    packset::{PackSet, PackTable},
    proofs::Proofs,
};
use crate::{
    error::{ExitCode, Failure, Result},
    names::{Key, PackId, SnapshotId},
    store::{Listed, StoreError},
};

/// Objects that are read at the same time.
const READS_AT_ONCE: usize = 8;

/// Refs whose signature was checked.
#[derive(Clone, Debug)]
pub struct SignedRefs {
    /// The refs, without their packs.
    pub refs: Refs,
    /// The packs.
    pub packs: PackSet,
    /// SHA-256 of their bytes.
    pub digest: PackId,
    /// Who signed.
    pub signer: String,
    /// When the signature reached the store, by the store's clock, where it tells.
    pub received: Option<DateTime<Utc>>,
}

/// The commits of a repository.
#[derive(Default)]
pub struct Survey {
    /// The snapshots, oldest first.
    pub good: Vec<SignedRefs>,
    /// Those that a tombstone has forgotten and that were not swept yet.
    pub forgotten: Vec<SignedRefs>,
    /// Those that a key signed after it was revoked. They are no snapshots.
    pub revoked: Vec<SignedRefs>,
    /// What is signed and cannot be believed, with the reason.
    pub bad: Vec<(Key, Failure)>,
    /// Snapshots that were taken for dead before they were signed: whoever did may remove them at this moment, and
    /// whoever signed them will not report them. They count, and nothing is built on them.
    pub doubted: BTreeSet<SnapshotId>,
}

/// Refs without a signature: of a run that is about to commit, or that died.
#[derive(Clone, Debug)]
pub struct UnsignedRefs {
    /// Where they lie.
    pub key: Key,
    /// The snapshot that they would make.
    pub snapshot: SnapshotId,
    /// SHA-256 of their bytes.
    pub digest: PackId,
    /// The packs that it needs.
    pub packs: BTreeMap<PackId, u64>,
    /// When they reached the store, where it tells.
    pub modified: Option<DateTime<Utc>>,
}

/// One generation of prune.
#[derive(Clone, Debug, Default)]
pub struct Generation {
    /// What it condemned; `None` when that list is gone or not to be believed.
    pub condemned: Option<Condemned>,
    /// Whether the key that signed the list may no longer remove anything: nobody relies on its packs, and
    /// nobody sweeps them.
    pub void: bool,
    /// When the list reached the store, or else when it was made.
    pub condemned_at: Option<DateTime<Utc>>,
    /// Whether its sweep has begun.
    pub open: bool,
    /// How its sweep ended.
    pub done: Option<Done>,
    /// Its objects.
    pub keys: BTreeSet<Key>,
}

/// One session.
#[derive(Clone, Debug, Default)]
pub struct Session {
    /// When it began, where the store tells.
    pub first: Option<DateTime<Utc>>,
    /// When it was last heard of.
    pub last: Option<DateTime<Utc>>,
    /// Whether it has said that it ended.
    pub ended: bool,
    /// The snapshots that it needs.
    pub snapshots: BTreeSet<SnapshotId>,
    /// Its objects.
    pub keys: BTreeSet<Key>,
}

/// What a run has left that put no refs: a manifest, indexes that it did not sign.
#[derive(Clone, Debug, Default)]
pub struct Stray {
    /// When the last of it reached the store, where it tells.
    pub last: Option<DateTime<Utc>>,
    /// Its objects.
    pub keys: BTreeSet<Key>,
}

/// A pack as the store lists it.
#[derive(Clone, Copy, Debug)]
pub struct StoredPack {
    /// Its size.
    pub size_bytes: u64,
    /// When it reached the store, where it tells.
    pub modified: Option<DateTime<Utc>>,
}

/// What tombstones there are.
pub(super) struct Tombstones {
    /// Those that forget.
    pub(super) valid: Vec<Tombstone>,
    /// Those that only explain.
    pub(super) explaining: Vec<Tombstone>,
    /// Those that cannot be believed.
    pub(super) bad: Vec<(Key, Failure)>,
}

/// Everything that is in the clear.
#[derive(Default)]
pub struct Ledger {
    /// The commits.
    pub survey: Survey,
    /// Refs that nobody signed.
    pub unsigned: Vec<UnsignedRefs>,
    /// Signatures whose refs are gone.
    pub orphans: Vec<Key>,
    /// What runs have left that put no refs, by the snapshot that it was to be.
    pub strays: BTreeMap<SnapshotId, Stray>,
    /// Signatures of indexes that are gone.
    pub lone_signatures: Vec<Key>,
    /// The tombstones of this repository.
    pub tombstones: Vec<Tombstone>,
    /// Tombstones that tell why something is gone and remove nothing: of the repository that this is a copy of,
    /// and of keys that were revoked.
    pub explanations: Vec<Tombstone>,
    /// The generations of prune.
    pub generations: BTreeMap<u64, Generation>,
    /// The sessions.
    pub sessions: BTreeMap<SnapshotId, Session>,
    /// The highest generation that a tombstone names, or the signature of one that never came.
    pub last_tombstone: u64,
    /// The packs.
    pub packs: BTreeMap<PackId, StoredPack>,
    /// Marks that cannot be believed, with the reason.
    pub bad: Vec<(Key, Failure)>,
    /// What drills found.
    pub proofs: Proofs,
}

impl Core {
    /// Reads the newest refs of every committed snapshot.
    pub(super) async fn survey(&self) -> Result<Survey> {
        let listed = self.get.list(layout::REFS).await?;
        let tombstones = self.get.list(marks::TOMBSTONES).await?;
        let ids: BTreeSet<SnapshotId> =
            listed.iter().filter_map(|object| Some(layout::refs_of(&object.key)?.0)).collect();
        // Only the tombstones of what is still there matter to somebody who looks for snapshots.
        let of_these = tombstones.into_iter().filter(|object| {
            let id = marks::tombstone_of(&object.key).map(|(id, _)| id);
            id.is_some_and(|id| ids.contains(&id)) && !object.key.as_str().starts_with(marks::UPSTREAM)
        });
        let tombstones = self.tombstones(&of_these.collect::<Vec<_>>()).await?;
        let mut survey = self.survey_of(&listed, &tombstones.valid).await?;
        survey.bad.extend(tombstones.bad);
        Ok(survey)
    }

    /// Reads all commits there ever were: those that are there and those that tombstones tell of.
    pub(super) async fn commits(&self) -> Result<Ledger> {
        let tombstones = self.tombstones(&self.get.list(marks::TOMBSTONES).await?).await?;
        let listed = self.get.list(layout::REFS).await?;
        let survey = self.survey_of(&listed, &tombstones.valid).await?;
        let Tombstones { valid: tombstones, explaining: explanations, bad } = tombstones;
        Ok(Ledger { survey, tombstones, explanations, bad, ..Ledger::default() })
    }

    /// Sorts what a listing of refs shows.
    async fn survey_of(&self, listed: &[Listed], tombstones: &[Tombstone]) -> Result<Survey> {
        let there: BTreeMap<&Key, &Listed> = listed.iter().map(|object| (&object.key, object)).collect();
        let mut newest: BTreeMap<SnapshotId, (u32, Option<DateTime<Utc>>)> = BTreeMap::new();
        for (key, (id, revision)) in listed.iter().filter_map(|o| Some((&o.key, layout::refs_of(&o.key)?))) {
            let Some(signature) = there.get(&layout::signature(key)) else { continue };
            let seen = newest.entry(id).or_default();
            if revision >= seen.0 {
                *seen = (revision, signature.modified);
            }
        }
        let table = &PackTable::default();
        let reads = newest.into_iter().map(|(id, (revision, received))| async move {
            let key = layout::refs(&id, revision);
            let read = match self.read_refs(&id, revision, table).await {
                // A sweep takes the signature first: what has none any more is no snapshot any more.
                Err(failure) => match self.is_gone(&layout::signature(&key)).await {
                    Ok(true) => Ok(None),
                    Ok(false) => Err(failure),
                    Err(down) => Err(down),
                },
                Ok(one) => Ok(Some(SignedRefs { received, ..one })),
            };
            (key, read)
        });
        let (read, bad) = sorted_out(reads).await?;
        let doubted = tombstones.iter().filter(|tombstone| tombstone.commit.is_none());
        let doubted = doubted.map(|tombstone| tombstone.snapshot.clone()).collect();
        let mut survey = Survey { bad, doubted, ..Survey::default() };
        for one in read.into_iter().flatten() {
            if !self.trust.believes(&one.signer, one.refs.seq) {
                survey.revoked.push(one);
            } else if tombstones.iter().any(|tombstone| tombstone.forgets(&one)) {
                survey.forgotten.push(one);
            } else {
                survey.good.push(one);
            }
        }
        for list in [&mut survey.good, &mut survey.forgotten, &mut survey.revoked] {
            // The id tells the second only; two snapshots of one second stand in the order of their beginning.
            list.sort_by_key(|one| (one.refs.began, one.refs.seq));
        }
        Ok(survey)
    }

    /// Reads the newest refs of one snapshot; what other refs look like does not matter.
    pub(super) async fn refs_of(&self, id: &SnapshotId) -> Result<SignedRefs> {
        let unknown = || {
            Failure::new(ExitCode::Usage, format!("there is no snapshot `{id}`"))
                .hint("`lifeboat snapshots` lists them.")
        };
        let signed = self.signed(&format!("{}{id}.", layout::REFS)).await?;
        let newest = signed.iter().filter_map(layout::refs_of).map(|(_, revision)| revision).max();
        let one = self.read_refs(id, newest.ok_or_else(unknown)?, &PackTable::default()).await?;
        if !self.trust.believes(&one.signer, one.refs.seq) {
            return Err(unknown().because("it was signed by a key after that was revoked"));
        }
        let listed = self.get.list(&format!("{}{id}.", marks::TOMBSTONES)).await?;
        match self.tombstones(&listed).await?.valid.iter().find(|tombstone| tombstone.forgets(&one)) {
            Some(tombstone) => Err(unknown().because(format!("it was forgotten: {}", tombstone.reason))),
            None => Ok(one),
        }
    }

    async fn read_refs(&self, id: &SnapshotId, revision: u32, table: &PackTable) -> Result<SignedRefs> {
        let key = layout::refs(id, revision);
        let (mut refs, digest, verified) = self.read_signed::<Refs>(&key, &self.trust.writers).await?;
        if refs.snapshot != *id || refs.revision != revision || refs.repository != self.config.repository {
            return Err(moved(&key));
        }
        format::check_version(refs.format, &format!("`{key}`"))?;
        let packs = table.keep(&std::mem::take(&mut refs.packs));
        Ok(SignedRefs { refs, packs, digest, signer: verified.signer, received: None })
    }

    /// Reads tombstones; a signature alone, of a run that died, is none.
    pub(super) async fn tombstones(&self, listed: &[Listed]) -> Result<Tombstones> {
        let keys = listed.iter().filter(|object| marks::tombstone_of(&object.key).is_some());
        let reads = keys.map(|object| async move {
            let read = self.read_mark::<Tombstone>(&object.key).await;
            let checked = read.and_then(|(tombstone, valid)| {
                let named = marks::tombstone_of(&object.key);
                let fits = named == Some((tombstone.snapshot.clone(), tombstone.generation))
                    && tombstone.repository == self.config.repository;
                let valid = valid && !object.key.as_str().starts_with(marks::UPSTREAM);
                if fits { Ok((tombstone, valid)) } else { Err(moved(&object.key)) }
            });
            (object.key.clone(), checked)
        });
        let (read, bad) = sorted_out(reads).await?;
        let (valid, explaining): (Vec<_>, Vec<_>) = read.into_iter().partition(|(_, valid)| *valid);
        let only = |list: Vec<(Tombstone, bool)>| list.into_iter().map(|(tombstone, _)| tombstone).collect();
        Ok(Tombstones { valid: only(valid), explaining: only(explaining), bad })
    }

    /// Reads a mark that removes something, and whether its signer may do so today.
    async fn read_mark<T: serde::de::DeserializeOwned>(&self, key: &Key) -> Result<(T, bool)> {
        match self.read_signed::<T>(key, &self.trust.maintainers).await {
            Ok((mark, _, _)) => Ok((mark, true)),
            Err(failure) if failure.exit() == ExitCode::Tampering => {
                match self.read_signed::<T>(key, &self.trust.writers).await {
                    Ok((mark, _, by)) if self.trust.revoked.contains_key(&by.signer) => Ok((mark, false)),
                    _ => Err(failure),
                }
            }
            Err(failure) => Err(failure),
        }
    }

    /// Reads the generations of prune, and what of them cannot be believed.
    pub(super) async fn generations(&self) -> Result<(BTreeMap<u64, Generation>, Vec<(Key, Failure)>)> {
        let mut all: BTreeMap<u64, Generation> = BTreeMap::new();
        let mut bad = Vec::new();
        for object in self.get.list(marks::PRUNE).await? {
            let of = layout::signed_by(&object.key);
            let Some((number, step)) = marks::step_of(of.as_ref().unwrap_or(&object.key)) else { continue };
            let generation = all.entry(number).or_default();
            generation.keys.insert(object.key.clone());
            if of.is_some() {
                continue;
            }
            let read = match step {
                Step::Condemned => self.read_condemned(&object, number, generation).await,
                Step::Open => {
                    // Believed whoever made it: it only makes others wait.
                    generation.open = true;
                    Ok(())
                }
                Step::Done => self.read_done(&object.key, number, generation).await,
            };
            match read {
                Err(failure) if failure.exit() == ExitCode::StoreDown => return Err(failure),
                Err(failure) => bad.push((object.key, failure)),
                Ok(()) => {}
            }
        }
        Ok((all, bad))
    }

    async fn read_condemned(&self, object: &Listed, number: u64, into: &mut Generation) -> Result<()> {
        let (condemned, valid) = match self.read_mark::<Condemned>(&object.key).await {
            // Old generations are cleared away; whoever is that slow looks for each of its packs.
            Err(_) if self.is_gone(&object.key).await? => return Ok(()),
            other => other?,
        };
        if condemned.generation != number || condemned.repository != self.config.repository {
            return Err(moved(&object.key));
        }
        into.condemned_at = Some(object.modified.unwrap_or(condemned.at));
        into.condemned = Some(condemned);
        into.void = !valid;
        Ok(())
    }

    async fn read_done(&self, key: &Key, number: u64, into: &mut Generation) -> Result<()> {
        let (done, _) = match self.read_mark::<Done>(key).await {
            Err(_) if self.is_gone(key).await? => return Ok(()),
            other => other?,
        };
        if done.generation != number || done.repository != self.config.repository {
            return Err(moved(key));
        }
        into.done = Some(done);
        Ok(())
    }

    async fn is_gone(&self, key: &Key) -> Result<bool> {
        Ok(self.get.size(key).await?.is_none())
    }

    /// Reads everything that is in the clear. The packs are listed first and the refs last: a pack that came in
    /// between is not yet thought of, and refs that came in between are.
    pub(super) async fn ledger(&self) -> Result<Ledger> {
        let packs = self.get.list(layout::PACKS).await?.into_iter().filter_map(|object| {
            let Listed { key, size_bytes, modified } = object;
            Some((layout::pack_of(&key)?, StoredPack { size_bytes, modified }))
        });
        let packs = packs.collect();
        let (mut strays, lone_signatures) = self.strays().await?;
        let (generations, mut bad) = self.generations().await?;
        let listed = self.get.list(marks::TOMBSTONES).await?;
        let numbers = listed.iter().filter(|object| !object.key.as_str().starts_with(marks::UPSTREAM));
        let numbers = numbers.filter_map(|object| {
            marks::tombstone_of(&layout::signed_by(&object.key).unwrap_or_else(|| object.key.clone()))
        });
        let last_tombstone = numbers.map(|(_, generation)| generation).max().unwrap_or_default();
        let Tombstones { valid: tombstones, explaining: explanations, bad: forged } =
            self.tombstones(&listed).await?;
        bad.extend(forged);
        let sessions = self.sessions().await?;
        let listed = self.get.list(layout::REFS).await?;
        let (unsigned, orphans, unread) = self.unsigned(&listed).await?;
        bad.extend(unread);
        for (id, _) in listed.iter().filter_map(|object| layout::refs_of(&object.key)) {
            strays.remove(&id);
        }
        let survey = self.survey_of(&listed, &tombstones).await?;
        let proofs = self.proofs().await?.compared_with(&survey.good);
        Ok(Ledger {
            survey,
            unsigned,
            orphans,
            strays,
            lone_signatures,
            tombstones,
            explanations,
            generations,
            sessions,
            last_tombstone,
            packs,
            bad,
            proofs,
        })
    }

    /// Finds manifests, indexes that are not signed, and signatures whose index is gone.
    async fn strays(&self) -> Result<(BTreeMap<SnapshotId, Stray>, Vec<Key>)> {
        let mut strays: BTreeMap<SnapshotId, Stray> = BTreeMap::new();
        let indexes = self.get.list(layout::INDEX).await?;
        let there: BTreeSet<&Key> = indexes.iter().map(|object| &object.key).collect();
        let unsigned = indexes.iter().filter(|object| !there.contains(&layout::signature(&object.key)));
        let unsigned = unsigned.filter_map(|object| Some((layout::index_of(&object.key)?, object)));
        let manifests = self.get.list(layout::MANIFESTS).await?;
        let manifests = manifests.iter().filter_map(|o| Some((layout::manifest_of(&o.key)?, o)));
        for (id, object) in manifests.chain(unsigned) {
            let stray = strays.entry(id).or_default();
            stray.last = stray.last.max(object.modified);
            stray.keys.insert(object.key.clone());
        }
        let lone = indexes
            .iter()
            .filter(|object| layout::signed_by(&object.key).is_some_and(|index| !there.contains(&index)));
        Ok((strays, lone.map(|object| object.key.clone()).collect()))
    }

    /// Reads the refs that have no signature beside them, and finds signatures without refs.
    pub(super) async fn unsigned(
        &self,
        listed: &[Listed],
    ) -> Result<(Vec<UnsignedRefs>, Vec<Key>, Vec<(Key, Failure)>)> {
        let there: BTreeSet<&Key> = listed.iter().map(|object| &object.key).collect();
        let lone = listed.iter().filter(|object| {
            layout::refs_of(&object.key).is_some() && !there.contains(&layout::signature(&object.key))
        });
        let reads = lone.map(|object| async move { (object.key.clone(), self.read_unsigned(object).await) });
        let (found, bad) = sorted_out(reads).await?;
        let orphans = listed.iter().filter(|object| {
            let of = layout::signed_by(&object.key).filter(|of| layout::refs_of(of).is_some());
            of.is_some_and(|of| !there.contains(&of))
        });
        Ok((found.into_iter().flatten().collect(), orphans.map(|object| object.key.clone()).collect(), bad))
    }

    async fn read_unsigned(&self, object: &Listed) -> Result<Option<UnsignedRefs>> {
        let bytes = match self.get.get(&object.key, None).await {
            Err(StoreError::NotFound { .. }) => return Ok(None),
            other => other?,
        };
        let refs: Refs = format::parse(&bytes, object.key.as_str())?;
        let Refs { snapshot, packs, .. } = refs;
        let digest = PackId(Sha256::digest(&bytes).into());
        Ok(Some(UnsignedRefs { key: object.key.clone(), snapshot, digest, packs, modified: object.modified }))
    }

    /// Reads the sessions. A mark that cannot be read is of a session that needs no snapshot by name.
    pub(super) async fn sessions(&self) -> Result<BTreeMap<SnapshotId, Session>> {
        let mut all: BTreeMap<SnapshotId, Session> = BTreeMap::new();
        for object in self.get.list(marks::SESSIONS).await? {
            let Some(id) = marks::session_of(&object.key) else { continue };
            let is_end = object.key == marks::session_end(&id);
            let session = all.entry(id).or_default();
            session.keys.insert(object.key.clone());
            if is_end {
                session.ended = true;
                continue;
            }
            session.first = earlier(session.first, object.modified);
            session.last = session.last.max(object.modified);
            match self.get.get(&object.key, None).await {
                Ok(bytes) => {
                    if let Ok(mark) = format::parse::<SessionMark>(&bytes, object.key.as_str()) {
                        session.snapshots.extend(mark.snapshots);
                    }
                }
                Err(StoreError::NotFound { .. }) => {}
                Err(other) => return Err(other.into()),
            }
        }
        Ok(all)
    }
}

impl SignedRefs {
    /// Returns the refs with their packs, as they were signed.
    pub fn whole(&self) -> Refs {
        Refs { packs: self.packs.to_map(), ..self.refs.clone() }
    }
}

impl Tombstone {
    /// Returns whether this is the tombstone of that very commit.
    pub(super) fn forgets(&self, one: &SignedRefs) -> bool {
        let commit = self.commit.as_ref();
        self.snapshot == one.refs.snapshot && commit.is_some_and(|commit| commit.refs == one.digest)
    }
}

fn earlier(a: Option<DateTime<Utc>>, b: Option<DateTime<Utc>>) -> Option<DateTime<Utc>> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

fn moved(key: &Key) -> Failure {
    Failure::new(ExitCode::Tampering, format!("`{key}` was signed for another snapshot or repository"))
        .hint("Somebody moved or copied it there. Keep the store as it is and look into it.")
}

/// Runs reads, a few at a time, and parts what could be read from what could not. That the store does not answer
/// ends it all.
pub(super) async fn sorted_out<T, F>(reads: impl Iterator<Item = F>) -> Result<(Vec<T>, Vec<(Key, Failure)>)>
where
    F: Future<Output = (Key, Result<T>)>,
{
    let mut reads = stream::iter(reads).buffered(READS_AT_ONCE);
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    while let Some((key, read)) = reads.next().await {
        match read {
            Ok(read) => good.push(read),
            Err(failure) if failure.exit() == ExitCode::StoreDown => return Err(failure),
            Err(failure) => bad.push((key, failure)),
        }
    }
    Ok((good, bad))
}
