//! Looks for damage without any key: what is in the clear, and what a hash in a name or a signature covers.
//!
//! *Order.* Signatures, refs and their chain; which packs are there; signatures of indexes; manifests against the hash
//! in their refs; reports of drills against the hash in their proofs; then, if asked, packs against the hash in their
//! name. What is inside is not looked at.

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest, Sha256};
use tokio::task::spawn_blocking;

use super::{
    Clear, Repository,
    format::layout,
    verify::{Damage, VerifyOptions, VerifyReport, in_turn, told, wrong_size},
};
use crate::{
    clock::Ground,
    error::{Context, ExitCode, Failure, Result},
    event::SharedMonitor,
    names::{PackId, SnapshotId},
};

impl Repository<Clear> {
    /// Verifies what can be verified without a key.
    pub async fn verify(
        &self,
        options: VerifyOptions,
        ground: &Ground,
        monitor: &SharedMonitor,
    ) -> Result<VerifyReport> {
        let (ledger, incidents) = self.core.checked_ledger(ground.clock.now()).await?;
        let mut users: BTreeMap<PackId, (u64, Vec<SnapshotId>)> = BTreeMap::new();
        for one in &ledger.survey.good {
            one.packs.for_each(|pack, size_bytes| {
                let user = users.entry(pack).or_insert((size_bytes, Vec::new()));
                user.1.push(one.refs.snapshot.clone());
            });
        }
        let mut report = VerifyReport {
            snapshots: ledger.survey.good.len() as u64,
            packs: users.len() as u64,
            proofs: ledger.proofs.good.len() as u64,
            entries_sealed: true,
            ..VerifyReport::default()
        };
        report.damage.extend(incidents.into_iter().map(|incident| told(incident, monitor)));
        report.damage.extend(self.core.check_reports(&ledger.proofs).await?);
        for key in self.core.signed(layout::INDEX).await? {
            let checked = self.core.signed_index(&key).await.map(drop);
            report.damage.extend(damage(key.to_string(), checked, Vec::new())?);
        }
        for one in &ledger.survey.good {
            let checked = self.core.sealed_manifest(&one.refs).await.map(drop);
            let key = layout::manifest(&one.refs.snapshot).to_string();
            report.damage.extend(damage(key, checked, vec![one.refs.snapshot.to_string()])?);
        }
        let there = |pack: &PackId| ledger.packs.get(pack).map(|stored| stored.size_bytes);
        let mut broken: BTreeMap<PackId, String> = users
            .iter()
            .filter_map(|(pack, (size_bytes, _))| Some((*pack, wrong_size(there(pack), *size_bytes)?)))
            .collect();
        let known = &self.core.known;
        let whole = users.keys().filter(|pack| !broken.contains_key(pack)).copied().collect();
        for pack in in_turn(whole, known.as_ref(), options.read_percent)? {
            match self.hash_pack(pack).await {
                Ok(bytes) => {
                    known.note_read(&pack, ground.clock.now(), false)?;
                    report.bytes_read += bytes;
                    report.packs_sealed += 1;
                }
                Err(failure) if failure.exit() == ExitCode::StoreDown => return Err(failure),
                Err(failure) => drop(broken.insert(pack, failure.one_line())),
            }
            monitor.step(None, format!("read pack {pack}"));
        }
        known.distrust(&broken.keys().copied().collect::<BTreeSet<_>>(), false)?;
        for (pack, what) in broken {
            let (object, users) = (layout::pack(pack).to_string(), users.remove(&pack).unwrap_or_default().1);
            let affects = users.iter().map(ToString::to_string).collect();
            report.damage.push(Damage { object, what, affects, tampering: false });
        }
        Ok(report)
    }

    /// Reads a pack and compares it with its name; returns its bytes.
    async fn hash_pack(&self, id: PackId) -> Result<u64> {
        let bytes = self.core.get.get(&layout::pack(id), None).await?;
        let size_bytes = bytes.len() as u64;
        let work = spawn_blocking(move || PackId(Sha256::digest(&bytes).into()));
        if work.await.failed(ExitCode::Failed, || "hashing broke off".to_owned())? == id {
            return Ok(size_bytes);
        }
        Err(Failure::new(ExitCode::Damage, "its bytes do not have the hash in its name"))
    }
}

/// Turns what a check of one object says into damage; only a store that does not answer ends the search.
fn damage(object: String, checked: Result<()>, affects: Vec<String>) -> Result<Option<Damage>> {
    match checked {
        Ok(()) => Ok(None),
        Err(failure) if failure.exit() == ExitCode::StoreDown => Err(failure),
        Err(failure) => {
            let (what, tampering) = (failure.one_line(), failure.exit() == ExitCode::Tampering);
            Ok(Some(Damage { object, what, affects, tampering }))
        }
    }
}
