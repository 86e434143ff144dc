//! The proofs of drills in a copy: those that it lacks are copied, those that it has are checked.
//!
//! What is wrong with a proof keeps no snapshot from being copied: proofs come after them, and each that cannot be
//! copied is told and left. An object is never overwritten, so what lies in the way of one a person must remove.
//!
//! *Order.* The report, the proof, its signature. *Crash.* A proof without its signature is none; the next run goes on
//! with it.

use std::collections::BTreeMap;

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::{Copy, packs::REMOVE_BY_HAND};
use crate::{
    error::{ExitCode, Failure, Result},
    names::{Key, PackId},
    repo::{
        SignedProof, SignedRefs,
        format::{SealedReport, layout},
        proofs::Proofs,
    },
    store::StoreError,
};

/// What to do about a proof of the original.
const VERIFY: &str = "Run `lifeboat verify`.";

impl Copy<'_> {
    /// Copies the proofs that the copy lacks; `good` are the snapshots of the original.
    pub(super) async fn proofs(&mut self, good: &[SignedRefs]) -> Result<()> {
        let wanted = self.from.proofs().await?.compared_with(good);
        let listed = self.to.get.list(layout::DRILLS).await?;
        let there: BTreeMap<Key, u64> =
            listed.into_iter().map(|object| (object.key, object.size_bytes)).collect();
        self.proven_by = self.to.proofs().await?;
        for (key, failure) in wanted.bad {
            self.leave(key, &failure, VERIFY);
        }
        for (key, failure) in std::mem::take(&mut self.proven_by.bad) {
            self.leave(key, &failure, REMOVE_BY_HAND);
        }
        for one in wanted.good {
            match self.proof(&one, &there).await {
                Ok(true) => {
                    self.report.proofs += 1;
                    self.take_note(one);
                }
                Ok(false) => self.take_note(one),
                Err(failure) => {
                    let hint = match failure.exit() {
                        ExitCode::StoreDown => return Err(failure),
                        ExitCode::Damage => VERIFY,
                        _ => REMOVE_BY_HAND,
                    };
                    self.leave(layout::drill(&one.proof.drill), &failure, hint);
                }
            }
        }
        Ok(())
    }

    /// Tells why the copy has not a proof as the original has it.
    fn leave(&mut self, key: Key, failure: &Failure, hint: &str) {
        let why = failure.chain().join(": ");
        if self.report.proofs_left.iter().any(|(other, _)| *other == key) {
            return;
        }
        self.monitor.warn(None, format!("a proof of a drill is not copied: {why}"), Some(hint));
        self.report.proofs_left.push((key, why));
    }

    fn take_note(&mut self, one: SignedProof) {
        let Proofs { good, .. } = &mut self.proven_by;
        if good.iter().all(|other| other.proof.drill != one.proof.drill) {
            good.push(one);
        }
    }

    /// Copies what the copy lacks of one proof. Returns whether it lacked something.
    async fn proof(&self, one: &SignedProof, there: &BTreeMap<Key, u64>) -> Result<bool> {
        let key = layout::drill(&one.proof.drill);
        let signature = layout::signature(&key);
        let lacked = match &one.proof.report {
            Some(report) => self.drill_report(report, there).await?,
            None => false,
        };
        if self.proven_by.good.iter().any(|other| other.digest == one.digest) {
            return Ok(lacked);
        }
        let bytes = self.take(&key).await?;
        if PackId(Sha256::digest(&bytes).into()) != one.digest {
            return Err(Failure::new(ExitCode::Damage, format!("`{key}` was changed while it was read")));
        }
        self.give_proof(&key, bytes).await?;
        let bytes = self.take(&signature).await?;
        self.give_proof(&signature, bytes).await?;
        Ok(true)
    }

    async fn drill_report(&self, report: &SealedReport, there: &BTreeMap<Key, u64>) -> Result<bool> {
        match there.get(&report.object) {
            Some(found) if *found == report.size_bytes => return Ok(false),
            Some(_) => return Err(in_the_way(&report.object)),
            None => {}
        }
        let bytes = self.from.sealed_report(report).await?;
        self.give_proof(&report.object, bytes).await?;
        Ok(true)
    }

    async fn give_proof(&self, key: &Key, bytes: Bytes) -> Result<()> {
        match self.to.put(self.put.as_ref(), key, bytes).await {
            Err(StoreError::Exists { .. }) => Err(in_the_way(key)),
            other => Ok(other?),
        }
    }
}

fn in_the_way(key: &Key) -> Failure {
    Failure::new(ExitCode::Tampering, format!("`{key}` of the copy is not what the original has"))
}
