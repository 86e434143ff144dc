//! Looks for damage: is everything there that the signatures promise, and does it read as what was stored?
//!
//! *Order.* Signatures, refs and chain first; then manifests, entry lists and where their chunks are; then, if
//! asked, every byte of every pack. All damage is collected; nothing stops the search but an unreachable store.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use sha2::{Digest, Sha256};
use tokio::task::spawn_blocking;

use super::{
    Read, Repository, Snapshot,
    format::{BodyRecord, PackKind, Refs, layout},
    pack,
    reader::ChunkReader,
};
use crate::{
    error::{Context, ExitCode, Failure, Result},
    event::SharedMonitor,
    names::{ChunkId, PackId},
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
    /// Chunks whose bytes were read and hashed.
    pub chunks_read: u64,
    /// Bytes of packs that were read.
    pub bytes_read: u64,
    /// What is wrong.
    pub damage: Vec<Damage>,
}

/// Which entries lie in a pack.
type Users = BTreeMap<PackId, BTreeSet<String>>;

impl Repository<Read> {
    /// Verifies the repository.
    pub async fn verify(&self, options: VerifyOptions, monitor: &SharedMonitor) -> Result<VerifyReport> {
        let mut report = VerifyReport::default();
        let there = self.core.packs().await?;
        let refs = self.checked_refs(&mut report).await?;
        report.snapshots = refs.len() as u64;
        let mut users = Users::new();
        let mut needed = BTreeMap::new();
        for one in &refs {
            needed.extend(one.packs.iter().map(|(pack, size_bytes)| (*pack, *size_bytes)));
            for pack in one.packs.keys() {
                users.entry(*pack).or_default();
            }
            self.walk(one, &mut users, &mut report).await?;
        }
        report.packs = needed.len() as u64;
        let mut broken = BTreeMap::new();
        for (pack, size_bytes) in &needed {
            match there.get(pack) {
                None => drop(broken.insert(*pack, "it is missing".to_owned())),
                Some(found) if found != size_bytes => {
                    broken.insert(*pack, format!("it has {found} bytes instead of {size_bytes}"));
                }
                Some(_) => {}
            }
        }
        let whole: Vec<PackId> = needed.keys().filter(|pack| !broken.contains_key(pack)).copied().collect();
        for pack in share(&whole, options.read_percent) {
            match self.read_pack(pack).await {
                Ok((chunks, bytes)) => {
                    report.chunks_read += chunks;
                    report.bytes_read += bytes;
                }
                Err(failure) if failure.exit() == ExitCode::StoreDown => return Err(failure),
                Err(failure) => drop(broken.insert(pack, failure.chain().join(": "))),
            }
            monitor.step(None, format!("read pack {pack}"));
        }
        for (pack, what) in broken {
            let affects = affected(users.get(&pack), &refs, pack);
            let object = layout::pack(pack).to_string();
            report.damage.push(Damage { object, what, affects, tampering: false });
        }
        Ok(report)
    }

    /// Reads all refs one by one, so that one bad signature does not hide the rest.
    async fn checked_refs(&self, report: &mut VerifyReport) -> Result<Vec<Refs>> {
        let listed = self.core.get.list(layout::REFS).await?;
        let there: BTreeSet<_> = listed.iter().map(|object| object.key.clone()).collect();
        let mut all = Vec::new();
        for key in &there {
            let Some((id, revision)) = layout::refs_of(key) else { continue };
            if !there.contains(&layout::signature(key)) {
                continue;
            }
            match self.core.read_refs(&id, revision).await {
                Ok((refs, ..)) => all.push(refs),
                Err(failure) if failure.exit() == ExitCode::StoreDown => return Err(failure),
                Err(failure) => report.damage.push(Damage {
                    object: key.to_string(),
                    what: failure.chain().join(": "),
                    affects: vec![id.to_string()],
                    tampering: failure.exit() == ExitCode::Tampering,
                }),
            }
        }
        Ok(all)
    }

    /// Walks a snapshot's entry lists and notes which entry needs which pack.
    async fn walk(&self, refs: &Refs, users: &mut Users, report: &mut VerifyReport) -> Result<()> {
        let id = &refs.snapshot;
        let mut note = |object: String, failure: &Failure, affects: Vec<String>| {
            let what = failure.chain().join(": ");
            report.damage.push(Damage {
                object,
                what,
                affects,
                tampering: failure.exit() == ExitCode::Tampering,
            });
        };
        let manifest = match self.core.manifest(refs, &self.access.identities).await {
            Ok(manifest) => manifest,
            Err(failure) if failure.exit() == ExitCode::StoreDown => return Err(failure),
            Err(failure) => {
                note(layout::manifest(id).to_string(), &failure, vec![id.to_string()]);
                return Ok(());
            }
        };
        let chunks = Arc::new(ChunkReader::new(self.core.clone(), self.access.identities.clone()));
        let snapshot = Snapshot { refs: refs.clone(), manifest, chunks };
        for source in &snapshot.manifest.sources {
            let mut lines = snapshot.entries(source);
            loop {
                let record = match lines.next().await {
                    Ok(Some(record)) => record,
                    Ok(None) => break,
                    Err(failure) if failure.exit() == ExitCode::StoreDown => return Err(failure),
                    Err(failure) => {
                        let whole_source = format!("{id} {}", source.name);
                        note(format!("entry list of {whole_source}"), &failure, vec![whole_source]);
                        break;
                    }
                };
                let entry = format!("{id} {}/{}", source.name, record.meta.path);
                if let Err(lost) = self.place(&snapshot, &record.body, &entry, users).await {
                    note(entry.clone(), &lost, vec![entry]);
                }
            }
        }
        Ok(())
    }

    /// Notes `entry` as a user of each pack that its chunks are in.
    async fn place(
        &self,
        snapshot: &Snapshot,
        body: &BodyRecord,
        entry: &str,
        users: &mut Users,
    ) -> Result<()> {
        for id in snapshot.chunks().body_chunks(body).await? {
            let at = self.core.known.find(&id, Some(PackKind::Data))?.ok_or_else(|| {
                Failure::new(ExitCode::Damage, format!("its chunk `{id}` is in no pack that is there"))
            })?;
            users.entry(at.pack).or_default().insert(entry.to_owned());
        }
        Ok(())
    }

    /// Reads a whole pack: its name must be its hash, and every chunk in it must have the hash in its name.
    /// Without the identity that opens it, the name alone is checked.
    async fn read_pack(&self, id: PackId) -> Result<(u64, u64)> {
        let bytes = self.core.get.get(&layout::pack(id), None).await?;
        let (size_bytes, identities) = (bytes.len() as u64, self.access.identities.clone());
        let work = spawn_blocking(move || {
            if PackId(Sha256::digest(&bytes).into()) != id {
                return Err(Failure::new(ExitCode::Damage, "its bytes do not have the hash in its name"));
            }
            let mut chunks = 0;
            let reader = match identities.reader(&bytes[..], &format!("pack {id}")) {
                Ok(reader) => reader,
                Err(failure) if failure.exit() == ExitCode::KeyRefused => return Ok(0),
                Err(failure) => return Err(failure),
            };
            pack::read_members(reader, id, |name, content| {
                chunks += 1;
                if ChunkId(Sha256::digest(content).into()) == name {
                    Ok(())
                } else {
                    Err(Failure::new(ExitCode::Damage, format!("chunk `{name}` has other bytes")))
                }
            })?;
            Ok(chunks)
        });
        let chunks = work.await.failed(ExitCode::Failed, || "reading a pack broke off".to_owned())??;
        Ok((chunks, size_bytes))
    }
}

/// Returns `percent` of the packs, at least one when any is asked for, spread evenly over their names.
fn share(packs: &[PackId], percent: f64) -> Vec<PackId> {
    if percent <= 0.0 || packs.is_empty() {
        return Vec::new();
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 1 and the number of packs"
    )]
    let wanted = ((packs.len() as f64 * percent.min(100.0) / 100.0).ceil() as usize).clamp(1, packs.len());
    (0..wanted).map(|n| packs[n * packs.len() / wanted]).collect()
}

/// Names what a broken pack affects: its entries, or the snapshots that need it when no entry is known.
fn affected(entries: Option<&BTreeSet<String>>, refs: &[Refs], pack: PackId) -> Vec<String> {
    let entries = entries.cloned().unwrap_or_default();
    let mut names: Vec<String> = if entries.is_empty() {
        let users = refs.iter().filter(|one| one.packs.contains_key(&pack));
        users.map(|one| one.snapshot.to_string()).collect()
    } else {
        entries.into_iter().collect()
    };
    if names.len() > AFFECTED_MAX {
        let more = names.len() - AFFECTED_MAX;
        names.truncate(AFFECTED_MAX);
        names.push(format!("and {more} more"));
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_packs_is_never_nothing_and_never_too_much() {
        let packs: Vec<PackId> = (0..10).map(|n| PackId([n; 32])).collect();
        assert_eq!(share(&packs, 0.0).len(), 0);
        assert_eq!(share(&packs, 0.1).len(), 1);
        assert_eq!(share(&packs, 25.0).len(), 3);
        assert_eq!(share(&packs, 100.0), packs);
        assert_eq!(share(&[], 50.0).len(), 0);
    }
}
