//! What every holder of a repository does: open it, take in its index, believe its refs and manifests.
//!
//! *Order.* A signature is checked before what it signs is parsed, the hash of a manifest before it is opened.
//! *Crash.* Nothing here changes the store.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use super::{
    Place,
    fence::Standing,
    format::{self, Config, Manifest, PackRecord, Refs, layout},
    index::{KnownChunks, Reliance},
    witness::Witness,
};
use crate::{
    crypt::{Identities, Trust, TrustedKeys, Verified},
    error::{ExitCode, Failure, Result},
    event::SharedMonitor,
    names::{Key, PackId},
    store::{Get, Put, StoreError, put_same},
};

/// What every holder has.
pub(crate) struct Core {
    pub(super) get: Arc<dyn Get>,
    /// The config in force.
    pub(super) config: Config,
    /// Those that were in force before, the oldest first.
    pub(super) older_configs: Vec<Config>,
    pub(super) trust: Trust,
    pub(super) known: Arc<dyn KnownChunks>,
    pub(super) witness: Arc<dyn Witness>,
    /// Indexes that are not believed, and why; told when a chunk cannot be found.
    left_out: Mutex<BTreeMap<Key, String>>,
}

impl Core {
    /// Reads and checks the configs; the one with the highest revision is in force.
    ///
    /// One that this host has seen and that is gone is tampering: the store was set back, and with it who can
    /// read what is stored from now on.
    pub(super) async fn open(place: Place) -> Result<Arc<Self>> {
        let Place { get, trust, known, witness, shown } = place;
        let (config, older_configs) = read_configs(get.as_ref(), &trust, &shown).await?;
        if let Some(seen) = witness.config(&config.repository)?.filter(|seen| *seen > config.revision) {
            let what = format!(
                "the config of the repository is revision {}, and this host has seen revision {seen}",
                config.revision
            );
            return Err(Failure::new(ExitCode::Tampering, what).hint(
                "Somebody set the store back. Keep it as it is and look into it; other copies may be newer.",
            ));
        }
        witness.saw_config(&config.repository, config.revision)?;
        Ok(Arc::new(Self { get, config, older_configs, trust, known, witness, left_out: Mutex::default() }))
    }

    /// Returns all whom data was ever sealed to.
    pub(super) fn data_recipients_ever(&self) -> BTreeSet<&str> {
        let all = self.older_configs.iter().chain([&self.config]);
        all.flat_map(|config| config.data_recipients.iter().map(String::as_str)).collect()
    }

    /// Returns all whom indexes were ever sealed to.
    pub(super) fn index_recipients_ever(&self) -> BTreeSet<&str> {
        let all = self.older_configs.iter().chain([&self.config]);
        all.flat_map(|config| config.index_recipients.iter().map(String::as_str)).collect()
    }

    /// Returns what a new snapshot of `writer` may rely on. A pack that does not open to all readers of today would
    /// make a snapshot that only older readers can restore.
    pub(super) fn reliance(&self, writer: String, standing: &Standing) -> Reliance {
        let covers = |all: &[String], of: &[String]| of.iter().all(|recipient| all.contains(recipient));
        let (mut data_revisions, mut meta_revisions) = (BTreeSet::new(), BTreeSet::new());
        for config in self.older_configs.iter().chain([&self.config]) {
            if covers(&config.data_recipients, &self.config.data_recipients) {
                data_revisions.insert(config.revision);
                if covers(&config.index_recipients, &self.config.index_recipients) {
                    meta_revisions.insert(config.revision);
                }
            }
        }
        Reliance { writer, condemned: standing.condemned.clone(), data_revisions, meta_revisions }
    }

    /// Takes in what the store has and the local index has not, and forgets packs that are gone.
    ///
    /// An index object that is not signed by a trusted key is not believed: it could send the deduplication
    /// to packs that hold nothing.
    pub(super) async fn refresh(&self, identities: &Identities, monitor: &SharedMonitor) -> Result<()> {
        let there = self.packs().await?;
        // First, so that the index of a pack that came back is read again.
        self.known.retain(&there)?;
        let known = self.known.origins()?;
        for key in self.signed(layout::INDEX).await?.iter().filter(|key| !known.contains(*key)) {
            match self.read_index(key, identities).await {
                Ok((records, signer)) => self.known.add(key, &signer, &records)?,
                Err(failure) if failure.exit() == ExitCode::StoreDown => return Err(failure),
                Err(failure) => {
                    let why = format!("index `{key}` is left out: {}", failure.one_line());
                    self.left_out().insert(key.clone(), why.clone());
                    monitor.warn(None, why, Some("Run `lifeboat verify` to see what it affects."));
                }
            }
        }
        self.known.retain(&there)
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

    /// Reads an index object: signature, then what it says, then whether that can be true. Returns its signer
    /// too.
    pub(super) async fn read_index(
        &self,
        key: &Key,
        identities: &Identities,
    ) -> Result<(Vec<PackRecord>, String)> {
        let (sealed, signer) = self.signed_index(key).await?;
        let plain = format::unpack_meta(&identities.open(&sealed, key.as_str())?, key.as_str())?;
        Ok((PackRecord::parse_lines(&plain, key.as_str())?, signer))
    }

    /// Reads an index object as it lies in the store, and checks its signature. Returns its signer too.
    pub(super) async fn signed_index(&self, key: &Key) -> Result<(Bytes, String)> {
        let sealed = self.get.get(key, None).await?;
        let signature = text_of(self.get.as_ref(), &layout::signature(key)).await?;
        let signer = self.trust.writers.verify(&sealed, &signature, key.as_str())?.signer;
        if self.trust.revoked.contains_key(&signer) && !self.is_of_believed_snapshot(key, &signer).await? {
            let what = format!("`{key}` is signed by a revoked key");
            return Err(
                Failure::new(ExitCode::Tampering, what).hint("It tells of nothing that was made before.")
            );
        }
        Ok((sealed, signer))
    }

    /// Returns whether an index is of a run whose snapshot is believed: of a key that was revoked only those are.
    async fn is_of_believed_snapshot(&self, key: &Key, signer: &str) -> Result<bool> {
        let Some(snapshot) = layout::index_of(key) else { return Ok(false) };
        match self.refs_of(&snapshot).await {
            Ok(one) => Ok(one.signer == signer),
            Err(failure) if failure.exit() == ExitCode::StoreDown => Err(failure),
            Err(_) => Ok(false),
        }
    }

    /// Reads an object whose signature lies beside it.
    pub(super) async fn read_signed<T: DeserializeOwned>(
        &self,
        key: &Key,
        trusted: &TrustedKeys,
    ) -> Result<(T, PackId, Verified)> {
        let bytes = self.get.get(key, None).await?;
        let signature = text_of(self.get.as_ref(), &layout::signature(key)).await?;
        let verified = trusted.verify(&bytes, &signature, key.as_str())?;
        Ok((format::parse(&bytes, key.as_str())?, PackId(Sha256::digest(&bytes).into()), verified))
    }

    /// Puts an object whose name nobody else uses. That it is there already with these very bytes is no mistake:
    /// a put below us was tried again after its answer was lost.
    pub(super) async fn put(&self, put: &dyn Put, key: &Key, bytes: Bytes) -> Result<(), StoreError> {
        put_same(put, self.get.as_ref(), key, bytes).await
    }

    /// Reads the manifest that `refs` name.
    pub(super) async fn manifest(&self, refs: &Refs, identities: &Identities) -> Result<Manifest> {
        let key = layout::manifest(&refs.snapshot);
        let sealed = self.sealed_manifest(refs).await?;
        let plain = format::unpack_meta(&identities.open(&sealed, key.as_str())?, key.as_str())?;
        format::parse(&plain, key.as_str())
    }

    /// Reads the manifest that `refs` name as it lies in the store, and checks its hash.
    pub(super) async fn sealed_manifest(&self, refs: &Refs) -> Result<Bytes> {
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
        Ok(sealed)
    }
}

/// Reads every config of the repository: the one in force, and those before it.
async fn read_configs(get: &dyn Get, trust: &Trust, shown: &str) -> Result<(Config, Vec<Config>)> {
    let no_repository = || {
        Failure::new(ExitCode::NoRepository, format!("there is no repository at `{shown}`"))
            .hint("Check that its disk is mounted and that [repository] in the policy names the right place.")
            .hint("If there never was one, `lifeboat init` makes it.")
    };
    // Asked for by name first: a folder that is not there is an error to a listing.
    if get.size(&layout::config()).await?.is_none() {
        return Err(no_repository());
    }
    let listed = get.list(layout::CONFIG_PREFIX).await?;
    let mut revisions: Vec<u32> = listed.iter().filter_map(|object| layout::config_of(&object.key)).collect();
    revisions.sort_unstable();
    let mut configs: Vec<Config> = Vec::new();
    for revision in revisions {
        let config = read_config(get, trust, revision).await?;
        if configs
            .first()
            .is_some_and(|first| first.repository != config.repository || !config.cuts_like(first))
        {
            let what = format!("`{}` is not of this repository", layout::config_revision(revision));
            return Err(Failure::new(ExitCode::Tampering, what)
                .hint("Somebody moved or copied it there. Keep the store as it is and look into it."));
        }
        configs.push(config);
    }
    let config = configs.pop().ok_or_else(no_repository)?;
    Ok((config, configs))
}

/// Reads one config. The first one is signed by whoever made the repository; who changes it must be allowed to
/// forget snapshots as well, for to change who can read is as grave.
async fn read_config(get: &dyn Get, trust: &Trust, revision: u32) -> Result<Config> {
    let key = layout::config_revision(revision);
    let bytes = get.get(&key, None).await?;
    // The version comes before the signature: a newer format may sign in another way.
    let config = Config::parse(&bytes)?;
    let signature = text_of(get, &layout::signature(&key)).await?;
    let by_maintainer = trust.maintainers.verify(&bytes, &signature, key.as_str());
    match by_maintainer {
        Err(_) if revision == 0 => trust.writers.verify(&bytes, &signature, key.as_str()),
        other => other,
    }
    .map_err(|failure| {
        failure.hint("Or `signers` in the policy is not the key that made the repository: see signing.pub.")
    })?;
    if config.revision != revision {
        let what = format!("`{key}` was signed as revision {}", config.revision);
        return Err(Failure::new(ExitCode::Tampering, what)
            .hint("Somebody moved or copied it there. Keep the store as it is and look into it."));
    }
    config.check()?;
    Ok(config)
}

/// Reads a small text object that belongs to another one.
pub(super) async fn text_of(get: &dyn Get, key: &Key) -> Result<String> {
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
