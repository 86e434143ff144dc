//! What every holder of a repository does: open it, take in its index, believe its refs and manifests.
//!
//! *Order.* A signature is checked before what it signs is parsed, the hash of a manifest before it is opened.
//! *Crash.* Nothing here changes the store.
//!
//! *Limits.* [`REFS_AT_ONCE`] refs are read at the same time.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_util::{StreamExt, stream};
use sha2::{Digest, Sha256};

use super::{
    Place,
    format::{self, Config, Manifest, PackRecord, Refs, layout},
    index::KnownChunks,
};
use crate::{
    crypt::{Identities, TrustedKeys},
    error::{ExitCode, Failure, Result},
    event::SharedMonitor,
    names::{Key, PackId, SnapshotId},
    store::{Get, StoreError},
};

/// Refs that are read at the same time.
const REFS_AT_ONCE: usize = 8;

/// What every holder has.
pub(crate) struct Core {
    pub(super) get: Arc<dyn Get>,
    pub(super) config: Config,
    pub(super) trusted: TrustedKeys,
    pub(super) known: Arc<dyn KnownChunks>,
    /// Indexes that are not believed, and why; told when a chunk cannot be found.
    left_out: Mutex<BTreeMap<Key, String>>,
}

/// Refs whose signature was checked.
pub(super) struct SignedRefs {
    pub(super) refs: Refs,
    /// SHA-256 of their bytes.
    pub(super) digest: PackId,
    /// Who signed.
    pub(super) signer: String,
}

/// The snapshots to be believed, oldest first, and refs that are signed and not to be believed.
pub(super) type Survey = (Vec<SignedRefs>, Vec<(Key, Failure)>);

impl Core {
    /// Reads and checks the config.
    pub(super) async fn open(place: Place) -> Result<Arc<Self>> {
        let Place { get, trusted, known, shown } = place;
        let bytes = match get.get(&layout::config(), None).await {
            Ok(bytes) => bytes,
            Err(StoreError::NotFound { .. }) => {
                return Err(Failure::new(
                    ExitCode::NoRepository,
                    format!("there is no repository at `{shown}`"),
                )
                .hint("Check that its disk is mounted and that [repository] in the policy names the right place.")
                .hint("If there never was one, `lifeboat init` makes it."));
            }
            Err(other) => return Err(other.into()),
        };
        // The version comes before the signature: a newer format may sign in another way.
        let config = Config::parse(&bytes)?;
        let signature = text_of(get.as_ref(), &layout::signature(&layout::config())).await?;
        trusted.verify(&bytes, &signature, layout::CONFIG).map_err(|failure| {
            failure
                .hint("Or `signers` in the policy is not the key that made the repository: see signing.pub.")
        })?;
        config.check()?;
        Ok(Arc::new(Self { get, config, trusted, known, left_out: Mutex::default() }))
    }

    /// Takes in what the store has and the local index has not, and forgets packs that are gone.
    ///
    /// An index object that is not signed by a trusted key is not believed: it could send the deduplication
    /// to packs that hold nothing.
    pub(super) async fn refresh(&self, identities: &Identities, monitor: &SharedMonitor) -> Result<()> {
        let known = self.known.origins()?;
        for key in self.signed(layout::INDEX).await?.iter().filter(|key| !known.contains(*key)) {
            match self.read_index(key, identities).await {
                Ok(records) => self.known.add(key, &records)?,
                Err(failure) if failure.exit() == ExitCode::StoreDown => return Err(failure),
                Err(failure) => {
                    let why = format!("index `{key}` is left out: {}", failure.chain().join(": "));
                    self.left_out().insert(key.clone(), why.clone());
                    monitor.warn(None, why, Some("Run `lifeboat verify` to see what it affects."));
                }
            }
        }
        self.known.retain(&self.packs().await?)
    }

    /// Returns why indexes were left out.
    pub(super) fn left_out(&self) -> MutexGuard<'_, BTreeMap<Key, String>> {
        self.left_out.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the objects under `prefix` that have a signature beside them, by whomever. One without is of a
    /// run that died before it could sign, or that is about to.
    pub(super) async fn signed(&self, prefix: &str) -> Result<Vec<Key>> {
        let listed = self.get.list(prefix).await?;
        let there: BTreeSet<&Key> = listed.iter().map(|object| &object.key).collect();
        let signed = there.iter().filter(|key| {
            let signature = Key::new(&format!("{key}{}", layout::SIGNATURE));
            signature.is_ok_and(|signature| there.contains(&signature))
        });
        Ok(signed.map(|key| (*key).clone()).collect())
    }

    /// Returns the packs that are there, with their sizes.
    pub(super) async fn packs(&self) -> Result<BTreeMap<PackId, u64>> {
        let listed = self.get.list(layout::PACKS).await?;
        let packs =
            listed.iter().filter_map(|object| Some((layout::pack_of(&object.key)?, object.size_bytes)));
        Ok(packs.collect())
    }

    /// Reads an index object: signature, then what it says, then whether that can be true.
    pub(super) async fn read_index(&self, key: &Key, identities: &Identities) -> Result<Vec<PackRecord>> {
        let sealed = self.get.get(key, None).await?;
        let signature = text_of(self.get.as_ref(), &layout::signature(key)).await?;
        self.trusted.verify(&sealed, &signature, key.as_str())?;
        let plain = format::unpack_meta(&identities.open(&sealed, key.as_str())?, key.as_str())?;
        let lines = plain.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let read = |line: &[u8]| {
            let record: PackRecord = format::parse(line, key.as_str())?;
            record.check()?;
            Ok(record)
        };
        lines.map(read).collect()
    }

    /// Reads the newest refs of every committed snapshot. Those that are forged or broken hide no others.
    pub(super) async fn survey(&self) -> Result<Survey> {
        let mut newest: BTreeMap<SnapshotId, u32> = BTreeMap::new();
        for (id, revision) in self.signed(layout::REFS).await?.iter().filter_map(layout::refs_of) {
            let seen = newest.entry(id).or_default();
            *seen = revision.max(*seen);
        }
        let reads = newest.iter().map(|(id, revision)| async move {
            (layout::refs(id, *revision), self.read_refs(id, *revision).await)
        });
        let mut reads = stream::iter(reads).buffered(REFS_AT_ONCE);
        let (mut good, mut bad) = (Vec::new(), Vec::new());
        while let Some((key, read)) = reads.next().await {
            match read {
                Ok(refs) => good.push(refs),
                Err(failure) if failure.exit() == ExitCode::StoreDown => return Err(failure),
                Err(failure) => bad.push((key, failure)),
            }
        }
        // The id tells the second only; two snapshots of one second stand in the order of their beginning.
        good.sort_by_key(|signed: &SignedRefs| (signed.refs.began, signed.refs.seq));
        Ok((good, bad))
    }

    /// Reads the newest refs of one snapshot; what other refs look like does not matter.
    pub(super) async fn refs_of(&self, id: &SnapshotId) -> Result<SignedRefs> {
        let signed = self.signed(&format!("{}{id}.", layout::REFS)).await?;
        match signed.iter().filter_map(layout::refs_of).map(|(_, revision)| revision).max() {
            Some(revision) => self.read_refs(id, revision).await,
            None => Err(Failure::new(ExitCode::Usage, format!("there is no snapshot `{id}`"))
                .hint("`lifeboat snapshots` lists them.")),
        }
    }

    async fn read_refs(&self, id: &SnapshotId, revision: u32) -> Result<SignedRefs> {
        let key = layout::refs(id, revision);
        let bytes = self.get.get(&key, None).await?;
        let signature = text_of(self.get.as_ref(), &layout::signature(&key)).await?;
        let verified = self.trusted.verify(&bytes, &signature, key.as_str())?;
        let refs: Refs = format::parse(&bytes, key.as_str())?;
        if refs.snapshot != *id || refs.revision != revision || refs.repository != self.config.repository {
            let what = format!("`{key}` was signed for another snapshot or repository");
            return Err(Failure::new(ExitCode::Tampering, what)
                .hint("Somebody moved or copied it there. Keep the store as it is and look into it."));
        }
        format::check_version(refs.format, &format!("`{key}`"))?;
        Ok(SignedRefs { refs, digest: PackId(Sha256::digest(&bytes).into()), signer: verified.signer })
    }

    /// Reads the manifest that `refs` name.
    pub(super) async fn manifest(&self, refs: &Refs, identities: &Identities) -> Result<Manifest> {
        let key = layout::manifest(&refs.snapshot);
        let sealed = match self.get.get(&key, None).await {
            Err(StoreError::NotFound { .. }) => {
                return Err(Failure::new(ExitCode::Damage, format!("`{key}` is missing")).hint(
                    "The snapshot cannot be restored without it; take an older one, or another copy.",
                ));
            }
            other => other?,
        };
        if PackId(Sha256::digest(&sealed).into()) != refs.manifest {
            let what = format!("`{key}` is not the manifest that was signed");
            return Err(Failure::new(ExitCode::Damage, what)
                .hint("Take an older snapshot, or another copy of the repository."));
        }
        let plain = format::unpack_meta(&identities.open(&sealed, key.as_str())?, key.as_str())?;
        format::parse(&plain, key.as_str())
    }
}

/// Reads a small text object that belongs to another one.
async fn text_of(get: &dyn Get, key: &Key) -> Result<String> {
    match get.get(key, None).await {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(StoreError::NotFound { .. }) => Err(Failure::new(
            ExitCode::Tampering,
            format!("`{key}` is missing, so nothing says who wrote it"),
        )
        .hint("Keep the store as it is and look into it.")),
        Err(other) => Err(other.into()),
    }
}
