//! Looks for damage: is everything there that the signatures promise, and does it read as what was stored?
//!
//! *Order.* Signatures, refs and their chain; which packs are there; the indexes; then manifests, entry lists and
//! where their chunks are; then, if asked, every byte of packs. All damage is collected; nothing stops the search
//! but a store that does not answer. Packs that turn out to be damaged are told to the index, so that the next
//! backup stores anew what is in them. Each later look reads those again, however little it was asked to read: damage
//! that was found once is told until it is really gone.
//!
//! *Limits.* What a damage affects is named up to [`AFFECTED_MAX`] lines and counted beyond; of the chunks only
//! those of packs that are gone are in memory.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use sha2::{Digest, Sha256};
use tokio::task::spawn_blocking;

use super::{
    Read, Repository,
    chunks::ChunkReader,
    format::{BodyRecord, EntryRecord, PackKind, PackRecord, Refs, SourceManifest, layout},
    index::KnownChunks,
    integrity::Incident,
    pack,
    reader::EntryLines,
    survey::SignedRefs,
};
use crate::{
    clock::Ground,
    error::{Context, ExitCode, Failure, Result},
    event::{Event, SharedMonitor},
    names::{ChunkId, Key, PackId},
};

/// Lines that name what one damage affects; more are counted.
const AFFECTED_MAX: usize = 20;

/// How deep to look.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct VerifyOptions {
    /// The share of packs whose bytes are read, 0 to 100.
    pub read_percent: f64,
}

/// Something that is missing or changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The object: a pack, a manifest, an index.
    pub object: String,
    /// What is wrong with it.
    pub what: String,
    /// What cannot be restored because of it: `<snapshot> <source>/<entry>`.
    pub affects: Vec<String>,
    /// Whether somebody without the key must have done it.
    pub tampering: bool,
}

/// What was looked at and what was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// Snapshots looked at.
    pub snapshots: u64,
    /// Packs that they need.
    pub packs: u64,
    /// Proofs of drills whose signatures were checked.
    pub proofs: u64,
    /// Chunks whose bytes were read and hashed.
    pub chunks_read: u64,
    /// Bytes of packs that were read.
    pub bytes_read: u64,
    /// Packs of which only the hash in their name was checked, because the key given does not open them.
    pub packs_sealed: u64,
    /// Whether there was no key that opens indexes, so that entries were not looked at.
    pub entries_sealed: bool,
    /// What is wrong.
    pub damage: Vec<Damage>,
}

/// What one damage affects.
#[derive(Default)]
struct Affected {
    names: Vec<String>,
    more: u64,
    /// An entry of many chunks comes many times, one after the other, and counts once.
    last: String,
}

impl Affected {
    fn add(&mut self, name: &str) {
        if self.last == name {
            return;
        }
        name.clone_into(&mut self.last);
        if self.names.len() < AFFECTED_MAX {
            self.names.push(name.to_owned());
        } else {
            self.more += 1;
        }
    }

    fn lines(mut self) -> Vec<String> {
        if self.more > 0 {
            self.names.push(format!("and {} more", self.more));
        }
        self.names
    }
}

/// What is known while the search goes on.
struct Search<'a> {
    repository: &'a Repository<Read>,
    chunks: Arc<ChunkReader>,
    report: VerifyReport,
    /// The packs that snapshots need, with what lies in each.
    needed: BTreeMap<PackId, (u64, Affected)>,
    /// Packs that are missing or changed, and how.
    broken: BTreeMap<PackId, String>,
    /// Those of them whose bytes may have the hash in their name.
    wrong_inside: BTreeSet<PackId>,
    /// Packs that no index tells of.
    untold: BTreeSet<PackId>,
    /// Chunks of broken packs, by what the indexes say.
    lost: HashMap<(PackKind, ChunkId), PackId>,
    /// What lies in no pack that any index tells of, by snapshot.
    nowhere: BTreeMap<String, Affected>,
}

impl Repository<Read> {
    /// Verifies the repository.
    pub async fn verify(
        &self,
        options: VerifyOptions,
        ground: &Ground,
        monitor: &SharedMonitor,
    ) -> Result<VerifyReport> {
        let (ledger, incidents) = self.core.checked_ledger(ground.clock.now()).await?;
        let damaged_proofs = self.core.check_reports(&ledger.proofs).await?;
        let (proofs, refs) = (ledger.proofs.good.len() as u64, ledger.survey.good);
        let mut needed = BTreeMap::new();
        for one in &refs {
            one.packs.for_each(|pack, size_bytes| {
                needed.entry(pack).or_insert((size_bytes, Affected::default()));
            });
        }
        let sizes = needed.iter().map(|(pack, (size_bytes, _))| (*pack, *size_bytes)).collect();
        let mut search = Search {
            repository: self,
            chunks: Arc::new(ChunkReader::new(self.core.clone(), self.access.identities.clone(), sizes)),
            report: VerifyReport {
                snapshots: refs.len() as u64,
                packs: needed.len() as u64,
                proofs,
                ..Default::default()
            },
            needed,
            broken: BTreeMap::new(),
            wrong_inside: BTreeSet::new(),
            untold: BTreeSet::new(),
            lost: HashMap::new(),
            nowhere: BTreeMap::new(),
        };
        search.report.damage.extend(incidents.into_iter().map(|incident| told(incident, monitor)));
        search.report.damage.extend(damaged_proofs);
        search.compare_packs().await?;
        search.read_indexes(&refs).await?;
        for one in &refs {
            search.walk(&one.whole()).await?;
        }
        search.read_packs(options.read_percent, ground, monitor).await?;
        search.end(&refs)
    }
}

impl Search<'_> {
    fn note(&mut self, object: String, failure: &Failure, affects: Vec<String>) {
        let (what, tampering) = (failure.one_line(), failure.exit() == ExitCode::Tampering);
        self.report.damage.push(Damage { object, what, affects, tampering });
    }

    /// Looks which of the needed packs are there with their size.
    async fn compare_packs(&mut self) -> Result<()> {
        let there = self.repository.core.packs().await?;
        for (pack, (size_bytes, _)) in &self.needed {
            if let Some(what) = wrong_size(there.get(pack).copied(), *size_bytes) {
                self.broken.insert(*pack, what);
            }
        }
        Ok(())
    }

    /// Reads the indexes: each must be believable, and together they must tell of every pack.
    async fn read_indexes(&mut self, refs: &[SignedRefs]) -> Result<()> {
        let core = &self.repository.core;
        let mut told = BTreeSet::new();
        let mut failures = Vec::new();
        for key in core.signed(layout::INDEX).await? {
            match core.read_index(&key, &self.repository.access.identities).await {
                Ok((records, _)) => {
                    told.extend(records.iter().map(|record| record.pack));
                    self.note_lost(&records);
                }
                Err(failure) if failure.exit() == ExitCode::StoreDown => return Err(failure),
                Err(failure) => failures.push((key, failure)),
            }
        }
        self.untold = self.needed.keys().filter(|pack| !told.contains(pack)).copied().collect();
        let touched = refs.iter().filter(|one| one.packs.any(|pack| self.untold.contains(pack)));
        let snapshots: Vec<String> = touched.map(|one| one.refs.snapshot.to_string()).collect();
        for (key, failure) in failures {
            self.note(key.to_string(), &failure, snapshots.clone());
        }
        Ok(())
    }

    fn note_lost(&mut self, records: &[PackRecord]) {
        for record in records.iter().filter(|record| self.broken.contains_key(&record.pack)) {
            let chunks = record.inner.chunks.iter();
            self.lost.extend(chunks.map(|chunk| ((record.kind, chunk.id), record.pack)));
        }
    }

    /// Walks a snapshot's entry lists and notes which entry needs which pack.
    async fn walk(&mut self, refs: &Refs) -> Result<()> {
        let repository = self.repository;
        let manifest = match repository.core.manifest(refs, &repository.access.identities).await {
            Ok(manifest) => manifest,
            Err(failure) if failure.exit() == ExitCode::StoreDown => return Err(failure),
            Err(failure) => {
                let key = layout::manifest(&refs.snapshot).to_string();
                self.note(key, &failure, vec![refs.snapshot.to_string()]);
                return Ok(());
            }
        };
        for source in &manifest.sources {
            self.walk_source(refs, source).await?;
        }
        Ok(())
    }

    async fn walk_source(&mut self, refs: &Refs, source: &SourceManifest) -> Result<()> {
        let whole = format!("{} {}", refs.snapshot, source.name);
        for id in &source.list {
            self.place(refs, PackKind::Meta, *id, &whole)?;
        }
        let mut lines = EntryLines::new(self.chunks.clone(), source.list.clone());
        loop {
            match lines.next().await {
                Ok(Some(record)) => {
                    self.walk_entry(refs, &record, &format!("{whole}/{}", record.meta.path)).await?;
                }
                Ok(None) => return Ok(()),
                Err(failure) if failure.exit() == ExitCode::StoreDown => return Err(failure),
                Err(failure) => {
                    return self.blame(refs, PackKind::Meta, lines.asked(), &failure, &whole);
                }
            }
        }
    }

    async fn walk_entry(&mut self, refs: &Refs, record: &EntryRecord, name: &str) -> Result<()> {
        let mut ids = Vec::new();
        match &record.body {
            BodyRecord::Chunks(chunks) => ids.extend(chunks),
            BodyRecord::Lists(lists) => {
                for id in lists {
                    self.place(refs, PackKind::Meta, *id, name)?;
                    match self.chunks.list_chunks(&[*id]).await {
                        Ok(chunks) => ids.extend(chunks),
                        Err(failure) if failure.exit() == ExitCode::StoreDown => return Err(failure),
                        Err(failure) => self.blame(refs, PackKind::Meta, Some(*id), &failure, name)?,
                    }
                }
            }
        }
        for id in ids {
            self.place(refs, PackKind::Data, id, name)?;
        }
        Ok(())
    }

    /// Notes that `name` needs the pack in which a chunk lies, or is said to.
    fn place(&mut self, refs: &Refs, kind: PackKind, id: ChunkId, name: &str) -> Result<()> {
        let locations = self.repository.core.known.locations(&id, kind)?;
        let pack = locations.first().map(|at| at.pack).or_else(|| self.lost.get(&(kind, id)).copied());
        if let Some(pack) = pack {
            self.needed.entry(pack).or_default().1.add(name);
            return Ok(());
        }
        // It may lie in any pack of the snapshot that no index tells of.
        let untold: Vec<PackId> =
            refs.packs.keys().filter(|pack| self.untold.contains(pack)).copied().collect();
        for pack in &untold {
            self.needed.entry(*pack).or_default().1.add(name);
        }
        if untold.is_empty() {
            self.nowhere.entry(refs.snapshot.to_string()).or_default().add(name);
        }
        Ok(())
    }

    /// Notes a chunk that cannot be read as damage of its pack.
    fn blame(
        &mut self,
        refs: &Refs,
        kind: PackKind,
        id: Option<ChunkId>,
        failure: &Failure,
        name: &str,
    ) -> Result<()> {
        let Some(id) = id else {
            self.note(format!("entry list of {name}"), failure, vec![name.to_owned()]);
            return Ok(());
        };
        let found = self.repository.core.known.locations(&id, kind)?.first().map(|at| at.pack);
        if let Some(pack) = found {
            self.broken.entry(pack).or_insert_with(|| failure.one_line());
            self.wrong_inside.insert(pack);
        }
        self.place(refs, kind, id, name)
    }

    /// Reads packs whole.
    async fn read_packs(&mut self, percent: f64, ground: &Ground, monitor: &SharedMonitor) -> Result<()> {
        let known = &self.repository.core.known;
        let whole = self.needed.keys().filter(|pack| !self.broken.contains_key(pack)).copied().collect();
        for pack in in_turn(whole, known.as_ref(), percent)? {
            match self.repository.read_pack(pack).await {
                Ok((chunks, bytes)) => {
                    known.note_read(&pack, ground.clock.now(), chunks.is_some())?;
                    self.report.chunks_read += chunks.unwrap_or_default();
                    self.report.bytes_read += bytes;
                    self.report.packs_sealed += u64::from(chunks.is_none());
                }
                Err(BadPack { failure, .. }) if failure.exit() == ExitCode::StoreDown => return Err(failure),
                Err(BadPack { failure, is_inside }) => {
                    self.broken.insert(pack, failure.one_line());
                    self.wrong_inside.extend(is_inside.then_some(pack));
                }
            }
            monitor.step(None, format!("read pack {pack}"));
        }
        Ok(())
    }

    /// Sums up; packs whose entries are not known are told with the snapshots that need them.
    fn end(mut self, refs: &[SignedRefs]) -> Result<VerifyReport> {
        let known = &self.repository.core.known;
        known.distrust(&self.broken.keys().copied().collect(), false)?;
        known.distrust(&self.wrong_inside, true)?;
        for pack in self.untold {
            let what = || "no index tells what is in it".to_owned();
            self.broken.entry(pack).or_insert_with(what);
        }
        for (pack, what) in self.broken {
            let affected = self.needed.remove(&pack).unwrap_or_default().1;
            let users = || refs.iter().filter(|one| one.packs.any(|one| *one == pack));
            let affects = if affected.names.is_empty() {
                users().map(|one| one.refs.snapshot.to_string()).collect()
            } else {
                affected.lines()
            };
            let object = layout::pack(pack).to_string();
            self.report.damage.push(Damage { object, what, affects, tampering: false });
        }
        for (snapshot, affected) in self.nowhere {
            let (object, what) = (format!("snapshot {snapshot}"), "chunks of it are in no pack".to_owned());
            self.report.damage.push(Damage { object, what, affects: affected.lines(), tampering: false });
        }
        Ok(self.report)
    }
}

/// Why a pack is not right.
struct BadPack {
    failure: Failure,
    /// Whether its bytes have the hash in its name, and what is inside is wrong.
    is_inside: bool,
}

impl<E: Into<Failure>> From<E> for BadPack {
    fn from(error: E) -> Self {
        Self { failure: error.into(), is_inside: false }
    }
}

impl Repository<Read> {
    /// Reads a whole pack: its name must be its hash, and every chunk in it must have the hash in its name.
    /// Without the identity that opens it, the name alone is checked.
    async fn read_pack(&self, id: PackId) -> Result<(Option<u64>, u64), BadPack> {
        let bytes = self.core.get.get(&layout::pack(id), None).await?;
        let (size_bytes, identities) = (bytes.len() as u64, self.access.identities.clone());
        let work = spawn_blocking(move || {
            if PackId(Sha256::digest(&bytes).into()) != id {
                let what = "its bytes do not have the hash in its name";
                return Err(Failure::new(ExitCode::Damage, what).into());
            }
            let inside = |failure| BadPack { failure, is_inside: true };
            let mut chunks = 0;
            let reader = match identities.reader(&bytes[..], &format!("pack {id}")) {
                Ok(reader) => reader,
                Err(failure) if failure.exit() == ExitCode::KeyRefused => return Ok(None),
                Err(failure) => return Err(inside(failure)),
            };
            let read = pack::read_members(reader, id, |name, content| {
                chunks += 1;
                if ChunkId(Sha256::digest(content).into()) == name {
                    Ok(())
                } else {
                    Err(Failure::new(ExitCode::Damage, format!("chunk `{name}` has other bytes")))
                }
            });
            read.map_err(inside)?;
            Ok(Some(chunks))
        });
        let chunks = work.await.failed(ExitCode::Failed, || "reading a pack broke off".to_owned())??;
        Ok((chunks, size_bytes))
    }
}

/// Tells an incident, also to whoever listens, and as the damage that it is.
pub(super) fn told(incident: Incident, monitor: &SharedMonitor) -> Damage {
    let Incident { object, what, tampering } = incident;
    if tampering {
        monitor.event(Event::Tampering { object: object.clone(), what: what.clone() });
    }
    let snapshot = Key::new(&object).ok().and_then(|key| layout::refs_of(&key));
    let affects = snapshot.into_iter().map(|(id, _)| id.to_string()).collect();
    Damage { object, what, affects, tampering }
}

/// Returns what is wrong with a pack that should have so many bytes.
pub(super) fn wrong_size(found: Option<u64>, size_bytes: u64) -> Option<String> {
    match found {
        None => Some("it is missing".to_owned()),
        Some(found) if found != size_bytes => Some(format!("it has {found} bytes instead of {size_bytes}")),
        Some(_) => None,
    }
}

/// Returns the packs whose turn it is to be read: all that are remembered as damaged, and a share of the others. Of
/// these, those that never were read come first, then those whose last time is longest ago.
pub(super) fn in_turn(packs: Vec<PackId>, known: &dyn KnownChunks, percent: f64) -> Result<Vec<PackId>> {
    let (last, distrusted) = (known.last_read()?, known.distrusted()?);
    let (mut turn, mut others): (Vec<PackId>, Vec<PackId>) =
        packs.into_iter().partition(|pack| distrusted.contains(pack));
    others.sort_by_key(|pack| last.get(pack));
    others.truncate(share(others.len(), percent));
    turn.extend(others);
    Ok(turn)
}

/// Returns how many of so many packs `percent` are, at least one when any is asked for.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "between 1 and the number of packs"
)]
pub(super) fn share(packs: usize, percent: f64) -> usize {
    if percent <= 0.0 || packs == 0 {
        return 0;
    }
    ((packs as f64 * percent.min(100.0) / 100.0).ceil() as usize).clamp(1, packs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repo::index::MemoryIndex;

    #[test]
    fn a_pack_that_was_damaged_is_read_each_time_until_it_is_right() {
        let known = MemoryIndex::default();
        let packs: Vec<PackId> = (0..10).map(|byte| PackId([byte; 32])).collect();
        known.distrust(&BTreeSet::from([packs[7]]), true).unwrap();
        assert_eq!(in_turn(packs.clone(), &known, 0.0).unwrap(), [packs[7]]);
        assert_eq!(in_turn(packs.clone(), &known, 20.0).unwrap(), [packs[7], packs[0], packs[1]]);
        known.note_read(&packs[7], chrono::DateTime::UNIX_EPOCH, false).unwrap();
        assert_eq!(in_turn(packs.clone(), &known, 0.0).unwrap(), [packs[7]], "nobody looked inside");
        known.note_read(&packs[7], chrono::DateTime::UNIX_EPOCH, true).unwrap();
        assert_eq!(in_turn(packs, &known, 0.0).unwrap(), []);
    }

    #[test]
    fn a_share_of_packs_is_never_nothing_and_never_too_much() {
        let shares = [0.0, 0.1, 25.0, 100.0].map(|percent| share(10, percent));
        assert_eq!(shares, [0, 1, 3, 10]);
        assert_eq!(share(0, 50.0), 0);
    }
}
