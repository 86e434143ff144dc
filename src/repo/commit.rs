//! The end of a backup: what tells of the packs, in the order that makes a snapshot exist.
//!
//! *Order.* packs → index → manifest → refs → fence → signature; each is put only after the one before it lies in
//! the store. A long run puts an index now and then, so that what it has stored is found should it die. After the
//! signature the run makes sure that nobody took it for dead meanwhile; then it reports.
//!
//! *Crash.* Before the signature there is no snapshot. An index without its signature is not used; one with it
//! tells of packs that are there.
//!
//! *Limits.* An index is due after [`PACKS_PER_INDEX`] packs; one object tells of at most [`CHUNKS_PER_INDEX`]
//! chunks, unless a single pack has more.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::PoisonError,
};

use chrono::{DateTime, Utc};
use sha2::{Digest, Sha256};

use super::{
    Append, Repository,
    format::{self, FORMAT, Manifest, PackRecord, Refs, SourceManifest, Status, layout},
    hold::AtWork,
    survey::{Ledger, Survey},
    witness::Head,
    writer::{Committed, Label, Session, SnapshotWriter, SourceTally},
};
use crate::{
    clock::Ground,
    error::{Context, ExitCode, Failure, Result},
    event::{Event, SharedMonitor},
    flow::Problem,
    names::{PackId, SnapshotId, SourceName},
};

/// Packs after which a running backup puts an index: 1 GiB at the usual size.
pub const PACKS_PER_INDEX: usize = 16;
/// Chunks that one index object tells of; a line has about 130 bytes for each.
pub const CHUNKS_PER_INDEX: usize = 1 << 18;
/// A pack of which a snapshot uses less than this share is left to die: what is used of it is stored anew.
const THIN_PERCENT: u64 = 30;

/// What a run has in the store so far.
pub(super) struct Stored {
    /// Packs that no index tells of yet.
    waiting: Vec<PackRecord>,
    /// All packs of this run.
    packs: BTreeMap<PackId, u64>,
    /// The number of the next index object.
    next_index: u32,
    /// Says that the run is at work.
    at_work: AtWork,
}

impl Stored {
    /// Begins with nothing.
    pub(super) fn new(at_work: AtWork) -> Self {
        Self { waiting: Vec::new(), packs: BTreeMap::new(), next_index: 0, at_work }
    }

    fn take_in(&mut self, records: Vec<PackRecord>) {
        self.packs.extend(records.iter().map(|record| (record.pack, record.size_bytes)));
        self.waiting.extend(records);
    }
}

impl SnapshotWriter<'_> {
    /// Puts an index when enough packs reached the store since the last one. Nobody waits: whoever comes while
    /// one is being put goes on.
    pub(super) async fn index_now_and_then(&self) -> Result<()> {
        let Ok(mut stored) = self.stored.try_lock() else { return Ok(()) };
        stored.take_in(self.data.stored());
        stored.take_in(self.meta.stored());
        if stored.waiting.len() < PACKS_PER_INDEX {
            return Ok(());
        }
        self.repository.put_indexes(self.id.as_str(), &mut stored).await?;
        self.mark(&mut stored).await
    }

    /// Says that this run is at work: what it stores is not garbage.
    pub(super) async fn mark(&self, stored: &mut Stored) -> Result<()> {
        let Some((key, mark)) = stored.at_work.mark(self.ground.clock.now()) else { return Ok(()) };
        Ok(self.repository.core.put(self.repository.access.put.as_ref(), &key, mark).await?)
    }

    /// Ends without a snapshot: the packs in hand are finished and indexed, so that the next run takes them over.
    pub async fn abandon(self) -> Result<()> {
        self.store_rest().await.map(drop)
    }

    /// Writes the rest and signs: the snapshot exists when this returns. `failed` names the sources that should
    /// be in it and are not.
    pub async fn commit(self, label: Label, failed: Vec<Problem>) -> Result<Committed> {
        let (repository, ground, monitor) = (self.repository, self.ground.clone(), self.monitor.clone());
        let whole = Whole { failed, ..self.store_rest().await? };
        repository.sign(whole, label, &ground, &monitor).await
    }

    /// Puts the packs in hand and tells of them.
    pub(super) async fn store_rest(self) -> Result<Whole> {
        let Self { repository, id, began, data, meta, session, stored, sources, tallies, .. } = self;
        let mut stored = stored.into_inner();
        stored.take_in(data.finish().await?);
        stored.take_in(meta.finish().await?);
        repository.put_indexes(id.as_str(), &mut stored).await?;
        let Session { used, used_bytes, .. } = session.into_inner().unwrap_or_else(PoisonError::into_inner);
        let (packs, failed) = (stored.packs, Vec::new());
        Ok(Whole { id, began, run: None, packs, used, used_bytes, sources, tallies, failed })
    }
}

/// What lies in the store and is to be a snapshot.
pub(super) struct Whole {
    pub(super) id: SnapshotId,
    pub(super) began: DateTime<Utc>,
    /// SHA-256 of the plan, where several processes made it.
    pub(super) run: Option<PackId>,
    /// The packs that were put for it, with their sizes.
    pub(super) packs: BTreeMap<PackId, u64>,
    /// Older packs that it needs, with their sizes.
    pub(super) used: BTreeMap<PackId, u64>,
    /// Plain bytes that it needs of each of these.
    pub(super) used_bytes: BTreeMap<PackId, u64>,
    pub(super) sources: Vec<SourceManifest>,
    pub(super) tallies: BTreeMap<SourceName, SourceTally>,
    /// The sources that should be in it and are not.
    pub(super) failed: Vec<Problem>,
}

impl Repository<Append> {
    /// Writes the manifest and signs: the snapshot exists when this returns.
    pub(super) async fn sign(
        &self,
        whole: Whole,
        label: Label,
        ground: &Ground,
        monitor: &SharedMonitor,
    ) -> Result<Committed> {
        let Whole { id, began, run, packs: mut added, used: mut packs, used_bytes, sources, tallies, failed } =
            whole;
        let (added_bytes, added_packs) = (added.values().sum(), added.len() as u64);
        let thin = self.thin(&used_bytes)?;
        packs.append(&mut added);
        let partial = !failed.is_empty() || sources.iter().any(|source| !source.problems.is_empty());
        let status = if partial { Status::Partial } else { Status::Complete };
        let manifest = Manifest {
            format: FORMAT,
            snapshot: id.clone(),
            stack: label.stack,
            host: label.host,
            lifeboat: env!("CARGO_PKG_VERSION").to_owned(),
            began,
            ended: ground.clock.now(),
            tag: label.tag,
            pin: label.pin.clone(),
            sources: sources.clone(),
            failed,
            run,
        };
        let (manifest, manifest_size_bytes) = self.put_manifest(&manifest).await?;
        let (seq, previous) = self.chain_head(monitor).await?;
        let refs = Refs {
            format: FORMAT,
            repository: self.core.config.repository.clone(),
            snapshot: id.clone(),
            revision: 0,
            seq: seq + 1,
            previous,
            status,
            began,
            manifest,
            manifest_size_bytes,
            packs,
            pinned: Some(label.pin.is_some()),
            config: self.core.config.revision,
            chosen: label.chosen,
        };
        self.put_refs(&refs, run.as_ref(), monitor).await?;
        monitor.event(Event::Committed { snapshot: id.clone() });
        Ok(Committed { id, began, status, sources, added_bytes, added_packs, thin, tallies })
    }

    /// Puts index objects of the packs that wait for one, and takes them into the local index.
    async fn put_indexes(&self, session: &str, stored: &mut Stored) -> Result<()> {
        while !stored.waiting.is_empty() {
            let count = share(&stored.waiting);
            // A number is used once: should the put fail, its object may be there nevertheless.
            let key = layout::index(session, stored.next_index);
            stored.next_index += 1;
            let records = &stored.waiting[..count];
            let lines = records.iter().flat_map(|record| {
                let mut line = format::write(record);
                line.push(b'\n');
                line
            });
            let sealed = self.access.meta_to.seal(&format::pack_meta(&lines.collect::<Vec<u8>>())?)?;
            let signature = self.access.signing.sign(&sealed, &format!("lifeboat index {key}"))?;
            let put = self.access.put.as_ref();
            self.core.put(put, &key, sealed.into()).await?;
            self.core.put(put, &layout::signature(&key), signature.into()).await?;
            self.core.known.add(&key, &self.access.signing.public(), records)?;
            stored.waiting.drain(..count);
        }
        Ok(())
    }

    async fn put_manifest(&self, manifest: &Manifest) -> Result<(PackId, u64)> {
        let sealed = self.access.meta_to.seal(&format::pack_meta(&format::write(manifest))?)?;
        let (digest, size_bytes) = (PackId(Sha256::digest(&sealed).into()), sealed.len() as u64);
        let put = self.access.put.as_ref();
        self.core.put(put, &layout::manifest(&manifest.snapshot), sealed.into()).await?;
        Ok((digest, size_bytes))
    }

    /// Returns the last sequence number of this writer and the digest of the refs that bear it. Refs that cannot
    /// be believed are told and do not keep a backup from being made: it is the next thing that can help.
    async fn chain_head(&self, monitor: &SharedMonitor) -> Result<(u64, Option<PackId>)> {
        let mine = self.access.signing.public();
        let seen = self.core.witness.heads(&self.core.config.repository)?.remove(&mine);
        // A host that remembers its last commit need not read every tombstone there ever was.
        let ledger = match seen {
            Some(_) => Ledger { survey: self.core.survey().await?, ..Ledger::default() },
            None => self.core.commits().await?,
        };
        for (_, failure) in &ledger.survey.bad {
            monitor.warn(None, failure.one_line(), failure.first_hint());
        }
        // What is forgotten was a commit too: numbers are not given twice. Nor is the number of one that only this
        // host has seen: that it is gone must stay visible.
        let Survey { good, forgotten, doubted, .. } = &ledger.survey;
        let there = good.iter().chain(forgotten).filter(|one| !doubted.contains(&one.refs.snapshot));
        let own = there.filter(|one| one.signer == mine).map(|one| (one.refs.seq, one.digest));
        let gone = ledger.tombstones.iter().chain(&ledger.explanations).filter_map(|t| t.commit.as_ref());
        let gone = gone.filter(|commit| commit.signer == mine).map(|commit| (commit.seq, commit.refs));
        let seen = seen.map(|seen| (seen.seq, seen.refs));
        let head = own.chain(gone).chain(seen).max_by_key(|(seq, _)| *seq);
        Ok(head.map_or((0, None), |(seq, refs)| (seq, Some(refs))))
    }

    /// Puts the refs, passes the fence, and puts the signature: from here on the snapshot exists. Fails with
    /// [`ExitCode::Busy`] when the run whose plan this is has become a snapshot meanwhile.
    async fn put_refs(&self, refs: &Refs, run: Option<&PackId>, monitor: &SharedMonitor) -> Result<()> {
        let key = layout::refs(&refs.snapshot, refs.revision);
        let bytes = serde_json::to_vec_pretty(refs)
            .failed(ExitCode::Failed, || format!("`{key}` cannot be written"))?;
        let comment = format!(
            "lifeboat refs repository={} snapshot={} seq={}",
            refs.repository, refs.snapshot, refs.seq
        );
        let signature = self.access.signing.sign(&bytes, &comment)?;
        let head = Head { seq: refs.seq, refs: PackId(Sha256::digest(&bytes).into()) };
        let put = self.access.put.as_ref();
        self.core.put(put, &key, bytes.into()).await?;
        self.core.pass_fence(refs, self.access.patience, monitor).await?;
        if let Some(plan) = run
            && let Some((other, _)) = self.of_plan(plan, refs.began).await?
        {
            let what = format!("the run became snapshot `{}` meanwhile", other.snapshot);
            return Err(Failure::new(ExitCode::Busy, what).hint(
                "Another process was at work on part 0. The snapshot is there; nothing is left to be done.",
            ));
        }
        self.core.put(put, &layout::signature(&key), signature.into()).await?;
        self.confirm(refs).await?;
        self.core.witness.saw_head(&refs.repository, &self.access.signing.public(), head)
    }

    /// Returns the packs of which a snapshot uses little.
    pub(super) fn thin(&self, used_bytes: &BTreeMap<PackId, u64>) -> Result<BTreeSet<PackId>> {
        let mut thin = BTreeSet::new();
        for (pack, used) in used_bytes {
            let Some(map) = self.core.known.pack(pack)? else { continue };
            let all: u64 = map.frames.iter().map(|frame| u64::from(frame.plain_bytes)).sum();
            if used * 100 < all * THIN_PERCENT {
                thin.insert(*pack);
            }
        }
        Ok(thin)
    }
}

/// Returns how many of the records go into one index object, at least one.
fn share(records: &[PackRecord]) -> usize {
    let mut chunks = 0;
    let fits = |record: &&PackRecord| {
        chunks += record.inner.chunks.len();
        chunks <= CHUNKS_PER_INDEX
    };
    records.iter().take_while(fits).count().max(1)
}
