//! The repository: our format in a store, and what one may do with it.
//!
//! What a holder may do is in the type: [`Repository<Append>`] adds snapshots and holds no identity that opens
//! data; [`Repository<Read>`] reads and holds nothing that can write.

mod chunker;
mod chunks;
mod commit;
mod copy;
mod core;
mod cutting;
mod explain;
mod fence;
pub mod format;
mod hold;
#[doc(hidden)]
pub mod hostile;
mod index;
mod integrity;
mod kept;
mod marks;
mod pack;
mod packer;
mod packset;
mod proofs;
mod prune;
mod reader;
mod recovery;
mod rotate;
mod runs;
mod salvage;
mod structure;
mod survey;
mod verify;
mod witness;
mod writer;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;

use self::{
    chunker::Chunker,
    core::Core,
    fence::Standing,
    format::{ChunkerConfig, Config, FORMAT, Manifest, Refs, layout},
    reader::OlderEntries,
};
pub use self::{
    chunks::ChunkReader,
    copy::{CopyReport, CopySettings, CopyState},
    fence::Patience,
    hold::Hold,
    index::{KnownChunks, Location, MemoryIndex, PackMap, Reliance},
    integrity::Incident,
    kept::Kept,
    proofs::{Proofs, Prove, RestorePoints, SignedProof},
    prune::{Inspection, Maintain, PackLine, PackState, PrunePlan, PruneReport, Removal, Swept, Terms, plan},
    reader::{EntryLines, Snapshot},
    recovery::{SCRIPT as RECOVERY_SCRIPT, is_own_script},
    runs::{
        Division, Joined, Part, PartFailure, Planned, PlannedShare, PlannedSource, RUN_TAKES_MAX, RunPlan,
    },
    salvage::{Lost, Salvage},
    survey::{SignedRefs, Survey},
    verify::{Damage, VerifyOptions, VerifyReport},
    witness::{Head, MemoryWitness, Witness},
    writer::{Committed, Label, SnapshotWriter, SourceTally},
};
use crate::{
    clock::Ground,
    crypt::{Identities, Recipients, SigningKey, Trust},
    error::{Context, ExitCode, Failure, Result},
    event::SharedMonitor,
    flow::Previous,
    names::{Key, PackId, SnapshotId, SourceName},
    store::{Get, Put, StoreError, put_same},
};

/// Bytes at which a pack of a new repository is closed.
pub const PACK_SIZE_BYTES: u64 = 64 << 20;
/// What failures call the place of a repository that is being made.
const NEW_PLACE: &str = "the place of the new repository";

/// May add snapshots; opens indexes and manifests, never data.
pub struct Append {
    put: Arc<dyn Put>,
    signing: SigningKey,
    index: Identities,
    data_to: Recipients,
    meta_to: Recipients,
    chunker: Chunker,
    standing: Standing,
    patience: Patience,
}

/// May read what its identities open.
pub struct Read {
    identities: Identities,
}

/// May look at what is in the clear, and copy. Needs no key; one that may remove things explains damage in a copy.
pub struct Clear {
    signing: Option<SigningKey>,
}

/// A repository opened for one purpose.
///
/// What only a reader may do does not compile for a writer:
/// ```compile_fail,E0599
/// # use lifeboat::{repo::{Append, Repository}, names::SnapshotId};
/// async fn f(repository: Repository<Append>, id: SnapshotId) {
///     repository.snapshot(&id).await;
/// }
/// ```
/// and the other way round:
/// ```compile_fail,E0599
/// # use lifeboat::{repo::{Read, Repository}, clock::Ground, event::NoMonitor};
/// async fn f(repository: Repository<Read>) {
///     repository.begin(Ground::system(), NoMonitor::shared(), 3);
/// }
/// ```
pub struct Repository<A> {
    core: Arc<Core>,
    access: A,
}

/// What opening needs besides the power.
#[derive(Clone)]
pub struct Place {
    /// The store.
    pub get: Arc<dyn Get>,
    /// Whose signatures are believed.
    pub trust: Trust,
    /// Where the index is remembered.
    pub known: Arc<dyn KnownChunks>,
    /// What this host has seen of the repository.
    pub witness: Arc<dyn Witness>,
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
        revision: 0,
    };
    let bytes = serde_json::to_vec_pretty(&config)
        .failed(ExitCode::Failed, || "the config cannot be written".to_owned())?;
    let signature = new.signing.sign(&bytes, &format!("lifeboat config repository={}", config.repository))?;
    for (name, text) in recovery::files() {
        put_first(put, get, &recovery::key(name), Bytes::from_static(text.as_bytes()), NEW_PLACE).await?;
    }
    put_first(put, get, &layout::signature(&layout::config()), signature.into(), NEW_PLACE).await?;
    put.put(&layout::config(), bytes.into()).await?;
    Ok(config)
}

/// Returns whether there is a repository in the store.
pub async fn is_there(get: &dyn Get) -> Result<bool> {
    Ok(get.size(&layout::config()).await?.is_some())
}

/// Puts an object of a repository that is being made, which an earlier run that broke off may have put. Another one
/// there, as a signature of such a run, is of no use to this one; `place` says where it lies.
async fn put_first(put: &dyn Put, get: &dyn Get, key: &Key, bytes: Bytes, place: &str) -> Result<()> {
    match put_same(put, get, key, bytes).await {
        Err(StoreError::Exists { .. }) => {
            let what = format!("`{key}` lies in {place}");
            Err(Failure::new(ExitCode::Usage, what).hint("Choose an empty place, or empty this one."))
        }
        other => Ok(other?),
    }
}

impl<A> Repository<A> {
    /// Returns the config.
    pub fn config(&self) -> &Config {
        &self.core.config
    }

    /// Returns the refs of every committed snapshot, oldest first; refs that are signed and cannot be believed
    /// are an error. To go on with the others, take [`Self::survey`].
    pub async fn refs(&self) -> Result<Vec<Refs>> {
        let (good, bad) = self.survey().await?;
        match bad.into_iter().next() {
            Some((_, failure)) => Err(failure),
            None => Ok(good),
        }
    }

    /// Returns the refs of every committed snapshot, oldest first, and the refs that are signed and cannot be
    /// believed, each with the reason.
    pub async fn survey(&self) -> Result<(Vec<Refs>, Vec<(Key, Failure)>)> {
        let Survey { good, bad, .. } = self.core.survey().await?;
        Ok((good.into_iter().map(|one| one.whole()).collect(), bad))
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
        if !core.trust.believes(&signing.public(), u64::MAX) {
            let what = format!("the signing key `{}` is not among the policy's signers", signing.public());
            return Err(Failure::new(ExitCode::KeyRefused, what)
                .hint("Add it to signers in [repository], or point keys at the right folder; a revoked one signs no more."));
        }
        let data_to = Recipients::parse(&core.config.data_recipients)?;
        let meta_to = data_to.and(&Recipients::parse(&core.config.index_recipients)?);
        let chunker = Chunker::new(&core.config.chunker, unseal_seed(&core.config.chunker, &index)?)?;
        // Before anything is looked up: what is condemned from here on was not relied on when it was condemned.
        let standing = core.standing(monitor).await?;
        core.refresh(&index, monitor).await?;
        core.known.rely_on(&core.reliance(signing.public(), &standing))?;
        let patience = Patience::default();
        Ok(Self {
            core,
            access: Append { put, signing, index, data_to, meta_to, chunker, standing, patience },
        })
    }

    /// Sets how long a commit waits for a sweep that takes what it needs.
    #[must_use]
    pub fn with_patience(mut self, patience: Patience) -> Self {
        self.access.patience = patience;
        self
    }

    /// Begins a snapshot; `level` is zstd's.
    pub async fn begin(
        &self,
        ground: Ground,
        monitor: SharedMonitor,
        level: i32,
    ) -> Result<SnapshotWriter<'_>> {
        SnapshotWriter::begin(self, ground, monitor, level).await
    }

    /// Returns the entries of the newest snapshot that has `source`, for a source that can skip what did not
    /// change. `None` when there is none that can be read.
    pub async fn previous(&self, source: &SourceName) -> Result<Option<Box<dyn Previous>>> {
        Ok(self.newest_of(source, |_| true).await?.map(|(_, previous)| previous))
    }

    /// As [`Self::previous`], of one snapshot; fails when it is no more.
    pub async fn previous_in(&self, source: &SourceName, id: &SnapshotId) -> Result<Box<dyn Previous>> {
        let found = self.newest_of(source, |one| one == id).await?.map(|(_, previous)| previous);
        found.ok_or_else(|| {
            let what = format!("snapshot `{id}`, with which `{source}` was to be compared, is no more");
            Failure::new(ExitCode::Failed, what).hint("Begin a new run under another name.")
        })
    }

    /// Returns the newest snapshot that has `source` and `fits`, and its entries.
    pub async fn newest_of(
        &self,
        source: &SourceName,
        fits: impl Fn(&SnapshotId) -> bool,
    ) -> Result<Option<(SnapshotId, Box<dyn Previous>)>> {
        let good = self.core.survey().await?.good.into_iter().rev();
        for one in good.filter(|one| fits(&one.refs.snapshot)) {
            let manifest = match self.core.manifest(&one.refs, &self.access.index).await {
                Ok(manifest) => manifest,
                Err(failure) if failure.exit() == ExitCode::StoreDown => return Err(failure),
                Err(_) => continue,
            };
            if let Some(found) = manifest.sources.into_iter().find(|one| one.name == *source) {
                let chunks = Arc::new(self.index_reader());
                let lines = EntryLines::new(chunks, found.list);
                let previous = OlderEntries::new(lines, self.core.clone());
                return Ok(Some((one.refs.snapshot, Box::new(previous))));
            }
        }
        Ok(None)
    }

    /// Lets no later snapshot rely on packs of which a snapshot of the whole stack used little: what is needed of
    /// them is stored anew next time, and they go with the snapshots that still need them. So space comes free
    /// without anybody who could read a pack.
    pub fn retire(&self, thin: &BTreeSet<PackId>) -> Result<()> {
        self.core.known.retire(thin)
    }

    fn index_reader(&self) -> ChunkReader {
        ChunkReader::new(self.core.clone(), self.access.index.clone(), BTreeMap::new())
    }
}

impl Repository<Read> {
    /// Opens for reading what `identities` open.
    pub async fn read(place: Place, identities: Identities, monitor: &SharedMonitor) -> Result<Self> {
        let core = Core::open(place).await?;
        if !opens_one(&identities, &core.data_recipients_ever())
            && !opens_one(&identities, &core.index_recipients_ever())
        {
            return Err(Failure::new(
                ExitCode::KeyRefused,
                "the given identity opens nothing in this repository",
            )
            .hint(format!(
                "The data is sealed to {}: give the identity of one of them.",
                core.config.data_recipients.join(", ")
            )));
        }
        core.refresh(&identities, monitor).await?;
        Ok(Self { core, access: Read { identities } })
    }

    /// Fails when the identities open indexes and manifests only. A restore asks before it touches its target.
    pub fn check_data_opens(&self) -> Result<()> {
        if opens_one(&self.access.identities, &self.core.data_recipients_ever()) {
            return Ok(());
        }
        Err(Failure::new(ExitCode::KeyRefused, "the given identity opens the index, not the data").hint(
            format!(
                "The data is sealed to {}: give the identity of one of them.",
                self.core.config.data_recipients.join(", ")
            ),
        ))
    }

    /// Opens one snapshot.
    pub async fn snapshot(&self, id: &SnapshotId) -> Result<Snapshot> {
        let signed = self.core.refs_of(id).await?;
        let (refs, refs_sha256) = (signed.whole(), signed.digest);
        let manifest = self.core.manifest(&refs, &self.access.identities).await?;
        let identities = self.access.identities.clone();
        let chunks = Arc::new(ChunkReader::new(self.core.clone(), identities, refs.packs.clone()));
        Ok(Snapshot { refs, refs_sha256, manifest, chunks })
    }

    /// Reads the manifest that `refs` name.
    pub async fn manifest(&self, refs: &Refs) -> Result<Manifest> {
        self.core.manifest(refs, &self.access.identities).await
    }
}

/// Returns whether one of the identities is a private half of `recipients`.
fn opens_one(identities: &Identities, recipients: &BTreeSet<&str>) -> bool {
    identities.recipients().iter().any(|own| recipients.contains(own.as_str()))
}

/// Opens the chunker's seed.
fn unseal_seed(config: &ChunkerConfig, index: &Identities) -> Result<u64> {
    let damaged = || "the chunker's seed is not what the format says".to_owned();
    let sealed = hex::decode(&config.seed_sealed).failed(ExitCode::Damage, damaged)?;
    let text =
        String::from_utf8(index.open(&sealed, "the chunker's seed")?).failed(ExitCode::Damage, damaged)?;
    u64::from_str_radix(&text, 16).failed(ExitCode::Damage, damaged)
}
