//! The repository: our format in a store, and what one may do with it.
//!
//! What a holder may do is in the type: [`Repository<Append>`] adds snapshots and holds no identity that opens
//! data; [`Repository<Read>`] reads and holds nothing that can write.

mod chunker;
pub mod format;
mod index;
mod pack;
mod packer;
mod reader;
mod recovery;
mod verify;
mod writer;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use sha2::{Digest, Sha256};

use self::{
    chunker::Chunker,
    format::{ChunkerConfig, Config, FORMAT, Manifest, PackRecord, Refs, layout},
    reader::{EntryLines, OlderEntries},
};
pub use self::{
    index::{KnownChunks, Location, MemoryIndex, PackMap},
    reader::{ChunkReader, Snapshot},
    verify::{Damage, VerifyOptions, VerifyReport},
    writer::{Committed, Label, SnapshotWriter},
};
use crate::{
    clock::Ground,
    crypt::{Identities, Recipients, SigningKey, TrustedKeys},
    error::{Context, ExitCode, Failure, Result},
    event::SharedMonitor,
    flow::Previous,
    names::{Key, PackId, SnapshotId, SourceName},
    store::{Get, Put, StoreError},
};

/// Bytes at which a pack of a new repository is closed.
pub const PACK_SIZE_BYTES: u64 = 64 << 20;

/// May add snapshots; opens indexes and manifests, never data.
pub struct Append {
    put: Arc<dyn Put>,
    signing: SigningKey,
    index: Identities,
    data_to: Recipients,
    meta_to: Recipients,
    chunker: Chunker,
}

/// May read what its identities open.
pub struct Read {
    identities: Identities,
}

/// A repository opened for one purpose.
///
/// What only a reader may do does not compile for a writer:
/// ```compile_fail
/// # use lifeboat::{repo::{Append, Repository}, names::SnapshotId};
/// async fn f(repository: Repository<Append>, id: SnapshotId) {
///     repository.snapshot(&id).await;
/// }
/// ```
/// and the other way round:
/// ```compile_fail
/// # use lifeboat::{repo::{Read, Repository}, clock::Ground, event::NoMonitor};
/// async fn f(repository: Repository<Read>) {
///     repository.begin(Ground::system(), NoMonitor::shared(), 3);
/// }
/// ```
pub struct Repository<A> {
    core: Arc<Core>,
    access: A,
}

/// What every holder has.
pub(crate) struct Core {
    get: Arc<dyn Get>,
    config: Config,
    trusted: TrustedKeys,
    known: Arc<dyn KnownChunks>,
}

/// What opening needs besides the power.
#[derive(Clone)]
pub struct Place {
    /// The store.
    pub get: Arc<dyn Get>,
    /// Whose signatures are believed.
    pub trusted: TrustedKeys,
    /// Where the index is remembered.
    pub known: Arc<dyn KnownChunks>,
    /// How people name the store, for failures.
    pub shown: String,
}

/// What a new repository is made of.
pub struct NewRepository<'a> {
    /// Whom data is sealed to.
    pub data_recipients: Vec<String>,
    /// Whom indexes and manifests are sealed to besides.
    pub index_recipients: Vec<String>,
    /// Signs the config.
    pub signing: &'a SigningKey,
    /// Time and dice.
    pub ground: &'a Ground,
}

/// Makes a repository in an empty store.
///
/// *Order.* Recovery text, signature of the config, config: a repository exists once its config does, and by
/// then everything that a reader checks is there.
pub async fn create(put: &dyn Put, get: &dyn Get, new: NewRepository<'_>) -> Result<Config> {
    if is_there(get).await? {
        return Err(Failure::new(ExitCode::Usage, "there is a repository already")
            .hint("Choose an empty place, or use the one that is there."));
    }
    let data = Recipients::parse(&new.data_recipients)?;
    let meta = data.and(&Recipients::parse(&new.index_recipients)?);
    let (min_bytes, avg_bytes, max_bytes) = Chunker::SIZES;
    let config = Config {
        format: FORMAT,
        repository: new.ground.hex(16),
        created: new.ground.clock.now(),
        chunker: ChunkerConfig {
            algorithm: chunker::ALGORITHM.to_owned(),
            min_bytes,
            avg_bytes,
            max_bytes,
            seed_sealed: hex::encode(meta.seal(new.ground.hex(8).as_bytes())?),
        },
        data_recipients: new.data_recipients,
        index_recipients: new.index_recipients,
        signers: vec![new.signing.public()],
        pack_size_bytes: PACK_SIZE_BYTES,
    };
    let bytes = serde_json::to_vec_pretty(&config)
        .failed(ExitCode::Failed, || "the config cannot be written".to_owned())?;
    let signature = new.signing.sign(&bytes, &format!("lifeboat config repository={}", config.repository))?;
    for (name, text) in recovery::files() {
        put_once(put, get, &recovery::key(name), Bytes::from_static(text.as_bytes())).await?;
    }
    put_once(put, get, &layout::signature(&layout::config()), signature.into()).await?;
    put.put(&layout::config(), bytes.into()).await?;
    Ok(config)
}

/// Returns whether there is a repository in the store.
pub async fn is_there(get: &dyn Get) -> Result<bool> {
    Ok(get.size(&layout::config()).await?.is_some())
}

/// Puts an object of an earlier, interrupted `create`; a signature of such a run is of no use to this one.
async fn put_once(put: &dyn Put, get: &dyn Get, key: &Key, bytes: Bytes) -> Result<()> {
    match put.put(key, bytes.clone()).await {
        Err(StoreError::Exists { .. }) if get.get(key, None).await? == bytes => Ok(()),
        Err(StoreError::Exists { .. }) => {
            let what = format!("`{key}` lies in the place of the new repository");
            Err(Failure::new(ExitCode::Usage, what).hint("Choose an empty place, or empty this one."))
        }
        other => Ok(other?),
    }
}

impl Core {
    /// Reads and checks the config.
    async fn open(place: Place) -> Result<Arc<Self>> {
        let Place { get, trusted, known, shown } = place;
        let bytes = match get.get(&layout::config(), None).await {
            Ok(bytes) => bytes,
            Err(StoreError::NotFound { .. }) => {
                return Err(Failure::new(
                    ExitCode::NoRepository,
                    format!("there is no repository at `{shown}`"),
                )
                .hint("Check that its disk is mounted and that [repository] in the policy names the right place; `lifeboat init` makes a new one."));
            }
            Err(other) => return Err(other.into()),
        };
        // The version comes before the signature: a newer format may sign in another way.
        let config = Config::parse(&bytes)?;
        let signature = text_of(get.as_ref(), &layout::signature(&layout::config())).await?;
        trusted.verify(&bytes, &signature, layout::CONFIG).map_err(|failure| {
            failure.hint(
                "If the policy was edited: `signers` must hold the key that made the repository (signing.pub).",
            )
        })?;
        Ok(Arc::new(Self { get, config, trusted, known }))
    }

    /// Names those who can open the data.
    fn recipients(&self) -> String {
        self.config.data_recipients.join(", ")
    }

    /// Takes in what the store has and the local index has not, and forgets packs that are gone.
    ///
    /// An index object that is not signed by a trusted key is not believed: it could send the deduplication
    /// to packs that hold nothing.
    async fn refresh(&self, identities: &Identities, monitor: &SharedMonitor) -> Result<()> {
        let listed = self.get.list(layout::INDEX).await?;
        let there: BTreeSet<&Key> = listed.iter().map(|object| &object.key).collect();
        let known = self.known.origins()?;
        for object in &listed {
            let key = &object.key;
            if key.as_str().ends_with(layout::SIGNATURE) || known.contains(key) {
                continue;
            }
            // A run that died between the two puts leaves an index without a signature: it is not used.
            if !there.contains(&layout::signature(key)) {
                continue;
            }
            match self.read_index(key, identities).await {
                Ok(records) => self.known.add(key, &records)?,
                Err(failure) if failure.exit() == ExitCode::StoreDown => return Err(failure),
                Err(failure) => monitor.warn(
                    None,
                    format!("index `{key}` is left out: {}", failure.chain().join(": ")),
                    Some("Run `lifeboat verify` to see what it affects."),
                ),
            }
        }
        self.known.retain(&self.packs().await?)
    }

    /// Returns the packs that are there, with their sizes.
    async fn packs(&self) -> Result<BTreeMap<PackId, u64>> {
        let listed = self.get.list(layout::PACKS).await?;
        Ok(listed
            .iter()
            .filter_map(|object| Some((layout::pack_of(&object.key)?, object.size_bytes)))
            .collect())
    }

    async fn read_index(&self, key: &Key, identities: &Identities) -> Result<Vec<PackRecord>> {
        let sealed = self.get.get(key, None).await?;
        let signature = text_of(self.get.as_ref(), &layout::signature(key)).await?;
        self.trusted.verify(&sealed, &signature, key.as_str())?;
        let plain = format::unpack_meta(&identities.open(&sealed, key.as_str())?, key.as_str())?;
        let lines = plain.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        lines.map(|line| format::parse(line, key.as_str())).collect()
    }

    /// Reads the refs of every committed snapshot, oldest first; each signature is checked.
    async fn refs(&self) -> Result<Vec<(Refs, PackId, String)>> {
        let listed = self.get.list(layout::REFS).await?;
        let there: BTreeSet<&Key> = listed.iter().map(|object| &object.key).collect();
        let mut all: BTreeMap<SnapshotId, (Refs, PackId, String)> = BTreeMap::new();
        for object in &listed {
            let Some((id, revision)) = layout::refs_of(&object.key) else { continue };
            // No signature, no snapshot: a run that died, or one that is about to commit.
            if !there.contains(&layout::signature(&object.key)) {
                continue;
            }
            let entry = self.read_refs(&id, revision).await?;
            all.insert(id, entry);
        }
        let mut all: Vec<_> = all.into_values().collect();
        // The id tells the second only; two snapshots of one second stand in the order of their beginning.
        all.sort_by_key(|(refs, ..)| (refs.began, refs.seq));
        Ok(all)
    }

    async fn read_refs(&self, id: &SnapshotId, revision: u32) -> Result<(Refs, PackId, String)> {
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
        Ok((refs, PackId(Sha256::digest(&bytes).into()), verified.signer))
    }

    async fn manifest(&self, refs: &Refs, identities: &Identities) -> Result<Manifest> {
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
        let manifest: Manifest = format::parse(
            &format::unpack_meta(&identities.open(&sealed, key.as_str())?, key.as_str())?,
            key.as_str(),
        )?;
        Ok(manifest)
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

impl<A> Repository<A> {
    /// Returns the config.
    pub fn config(&self) -> &Config {
        &self.core.config
    }

    /// Returns the refs of every committed snapshot, oldest first.
    pub async fn refs(&self) -> Result<Vec<Refs>> {
        Ok(self.core.refs().await?.into_iter().map(|(refs, ..)| refs).collect())
    }

    /// Returns the packs in the store, with their sizes.
    pub async fn packs(&self) -> Result<BTreeMap<PackId, u64>> {
        self.core.packs().await
    }
}

impl Repository<Append> {
    /// Opens for adding. `index` opens what this host must re-read: indexes, manifests, the chunker's seed.
    pub async fn append(
        place: Place,
        put: Arc<dyn Put>,
        index: Identities,
        signing: SigningKey,
        monitor: &SharedMonitor,
    ) -> Result<Self> {
        let core = Core::open(place).await?;
        if !core.trusted.texts().contains(&signing.public()) {
            let what = format!("the signing key `{}` is not among the policy's signers", signing.public());
            return Err(Failure::new(ExitCode::KeyRefused, what)
                .hint("Add it to signers in [repository], or point keys at the right folder."));
        }
        let data_to = Recipients::parse(&core.config.data_recipients)?;
        let meta_to = data_to.and(&Recipients::parse(&core.config.index_recipients)?);
        let chunker = Chunker::new(&core.config.chunker, unseal_seed(&core.config.chunker, &index)?)?;
        core.refresh(&index, monitor).await?;
        Ok(Self { core, access: Append { put, signing, index, data_to, meta_to, chunker } })
    }

    /// Begins a snapshot; `level` is zstd's.
    pub fn begin(&self, ground: Ground, monitor: SharedMonitor, level: i32) -> SnapshotWriter<'_> {
        SnapshotWriter::begin(self, ground, monitor, level)
    }

    /// Returns the entries of the newest snapshot that has `source`, for a source that can skip what did not
    /// change. `None` when there is none that can be read.
    pub async fn previous(&self, source: &SourceName) -> Result<Option<Box<dyn Previous>>> {
        for (refs, ..) in self.core.refs().await?.into_iter().rev() {
            let Ok(manifest) = self.core.manifest(&refs, &self.access.index).await else { continue };
            if let Some(found) = manifest.sources.into_iter().find(|one| one.name == *source) {
                let chunks = Arc::new(self.index_reader());
                let lines = EntryLines::new(chunks, found.list);
                return Ok(Some(Box::new(OlderEntries { lines, core: self.core.clone() })));
            }
        }
        Ok(None)
    }

    /// Returns the last sequence number of this writer and the digest of the refs that bear it.
    async fn chain_head(&self) -> Result<(u64, Option<PackId>)> {
        let mine = self.access.signing.public();
        let refs = self.core.refs().await?;
        let own = refs.into_iter().filter(|(_, _, signer)| *signer == mine);
        Ok(own
            .max_by_key(|(refs, ..)| refs.seq)
            .map_or((0, None), |(refs, digest, _)| (refs.seq, Some(digest))))
    }

    fn index_reader(&self) -> ChunkReader {
        ChunkReader::new(self.core.clone(), self.access.index.clone())
    }
}

impl Repository<Read> {
    /// Opens for reading what `identities` open.
    pub async fn read(place: Place, identities: Identities, monitor: &SharedMonitor) -> Result<Self> {
        let core = Core::open(place).await?;
        if !opens_one(&identities, &core.config.data_recipients)
            && !opens_one(&identities, &core.config.index_recipients)
        {
            return Err(Failure::new(
                ExitCode::KeyRefused,
                "the given identity opens nothing in this repository",
            )
            .hint(format!(
                "The data is sealed to {}: give the identity of one of them.",
                core.recipients()
            )));
        }
        core.refresh(&identities, monitor).await?;
        Ok(Self { core, access: Read { identities } })
    }

    /// Fails when the identities open indexes and manifests only. A restore asks before it touches its target.
    pub fn check_data_opens(&self) -> Result<()> {
        if opens_one(&self.access.identities, &self.core.config.data_recipients) {
            return Ok(());
        }
        Err(Failure::new(ExitCode::KeyRefused, "the given identity opens the index, not the data").hint(
            format!("The data is sealed to {}: give the identity of one of them.", self.core.recipients()),
        ))
    }

    /// Opens one snapshot.
    pub async fn snapshot(&self, id: &SnapshotId) -> Result<Snapshot> {
        let refs = self.core.refs().await?.into_iter().map(|(refs, ..)| refs);
        let refs = refs.into_iter().find(|refs| refs.snapshot == *id).ok_or_else(|| {
            Failure::new(ExitCode::Usage, format!("there is no snapshot `{id}`"))
                .hint("`lifeboat snapshots` lists them.")
        })?;
        let manifest = self.core.manifest(&refs, &self.access.identities).await?;
        let chunks = Arc::new(ChunkReader::new(self.core.clone(), self.access.identities.clone()));
        Ok(Snapshot { refs, manifest, chunks })
    }

    /// Reads the manifest that `refs` name.
    pub async fn manifest(&self, refs: &Refs) -> Result<Manifest> {
        self.core.manifest(refs, &self.access.identities).await
    }
}

/// Returns whether one of the identities is a private half of `recipients`.
fn opens_one(identities: &Identities, recipients: &[String]) -> bool {
    identities.recipients().iter().any(|own| recipients.contains(own))
}

/// Opens the chunker's seed.
fn unseal_seed(config: &ChunkerConfig, index: &Identities) -> Result<u64> {
    let damaged = || "the chunker's seed is not what the format says".to_owned();
    let sealed = hex::decode(&config.seed_sealed).failed(ExitCode::Damage, damaged)?;
    let text =
        String::from_utf8(index.open(&sealed, "the chunker's seed")?).failed(ExitCode::Damage, damaged)?;
    u64::from_str_radix(&text, 16).failed(ExitCode::Damage, damaged)
}
