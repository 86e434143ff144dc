//! Proofs: what drills found, signed and in the clear, so that whoever keeps or removes snapshots can tell without a
//! key which of them were restored and found good.
//!
//! A proof is of one commit: it names the SHA-256 of the refs that were restored. What is signed by a stranger, lies
//! under another name, was made for another repository or names other refs than those that are committed proves nothing
//! and is told. What nobody signed is nothing: its drill died.
//!
//! *Order.* The sealed report, the proof, its signature: that lies there last and is what counts. A signature is
//! checked before what it signs is parsed. *Crash.* Before the signature there is no proof. What a drill that died has
//! left is small and stays: nobody can tell it from one that goes on.
//!
//! *Limits.* A proof has at most [`PROOF_BYTES_MAX`] bytes; for the report see [`report`].

mod report;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use sha2::{Digest, Sha256};

pub use self::report::members as report_members;
use super::{
    Place, Read, Repository,
    core::{Core, text_of},
    format::{FORMAT, Proof, Refs, SealedReport, layout},
    survey::{SignedRefs, Survey, sorted_out},
    verify::Damage,
};
use crate::{
    crypt::{Recipients, SigningKey},
    drill::{Outcome, Report, Way},
    error::{Context, ExitCode, Failure, Result},
    names::{Key, PackId, SnapshotId, SourceName},
    store::{Listed, Put},
};

/// Bytes that a proof may have; a larger object is hostile.
const PROOF_BYTES_MAX: u64 = 64 << 10;

/// A proof whose signature was checked.
#[derive(Clone, Debug, PartialEq)]
pub struct SignedProof {
    /// The proof.
    pub proof: Proof,
    /// SHA-256 of its bytes.
    pub digest: PackId,
    /// Who signed it, `RW…`.
    pub signer: String,
}

/// The proofs of a repository.
#[derive(Debug, Default)]
pub struct Proofs {
    /// Those that are believed, the oldest drill first.
    pub good: Vec<SignedProof>,
    /// Those of a key that is revoked by now. They prove nothing: nothing tells which of them came before that.
    pub revoked: Vec<SignedProof>,
    /// What is signed and cannot be believed, with the reason.
    pub bad: Vec<(Key, Failure)>,
    /// Proofs that are gone while their signatures are there.
    pub gone: Vec<Key>,
}

/// The snapshots of a repository, and which of them drills have proven.
pub struct RestorePoints {
    /// The refs of every committed snapshot, the oldest first.
    pub snapshots: Vec<Refs>,
    /// Those that a drill has proven, each with the proof.
    pub proven: BTreeMap<SnapshotId, Proof>,
    /// Refs and proofs that are signed and cannot be believed, with the reason.
    pub refused: Vec<(Key, Failure)>,
}

/// May add proofs of drills; opens nothing.
pub struct Prove {
    put: Arc<dyn Put>,
    signing: SigningKey,
    /// Who can read the reports.
    readers: Recipients,
}

impl Proof {
    /// Returns whether this drill settles if its snapshot can be restored: one that could not be run says nothing.
    ///
    /// Only a restore by the code that a real one uses counts. By hand it is shown that the bytes can be had back with
    /// stock tools, not that the servers take them.
    fn settles(&self) -> bool {
        self.way == Way::Restore && self.outcome != Outcome::CouldNotRun
    }

    /// Returns whether everything was restored and found good: something was asked, and all of it held. That it took
    /// longer than it may is a failure of the drill and not of the snapshot.
    fn passes(&self) -> bool {
        let [held, failed, could_not_run] = self.assertions;
        let is_good = match self.outcome {
            Outcome::Passed => failed == 0,
            Outcome::Failed => self.only_slow && failed == 1,
            Outcome::CouldNotRun => false,
        };
        self.settles() && is_good && self.sources > 0 && held > 0 && could_not_run == 0
    }
}

impl Proofs {
    /// Returns the snapshots that are proven: of the drills that settle it for that very commit, the last one found all
    /// of it good.
    pub fn proven_of<'s>(
        &self,
        commits: impl Iterator<Item = (&'s SnapshotId, PackId)>,
    ) -> BTreeMap<SnapshotId, Proof> {
        let mut last: BTreeMap<(&SnapshotId, PackId), &Proof> = BTreeMap::new();
        for proof in self.good.iter().map(|one| &one.proof).filter(|proof| proof.settles()) {
            let newest = last.entry((&proof.snapshot, proof.refs)).or_insert(proof);
            if (proof.ended, &proof.drill) > (newest.ended, &newest.drill) {
                *newest = proof;
            }
        }
        let proof = |(id, refs): (&'s SnapshotId, PackId)| {
            let last = last.get(&(id, refs)).filter(|last| last.passes())?;
            Some((id.clone(), (*last).clone()))
        };
        commits.filter_map(proof).collect()
    }

    /// As [`Self::proven_of`], of these snapshots.
    pub(super) fn proven(&self, snapshots: &[SignedRefs]) -> BTreeMap<SnapshotId, Proof> {
        self.proven_of(snapshots.iter().map(|one| (&one.refs.snapshot, one.digest)))
    }

    /// Believes no proof that names other refs than those of its snapshot. One whose snapshot is not here is history.
    #[must_use]
    pub(super) fn compared_with(mut self, snapshots: &[SignedRefs]) -> Self {
        let commits: BTreeMap<&SnapshotId, &SignedRefs> =
            snapshots.iter().map(|one| (&one.refs.snapshot, one)).collect();
        let contradicts = |proof: &Proof| {
            // An older revision of refs was another commit of the same snapshot.
            let of = commits.get(&proof.snapshot).filter(|one| one.refs.revision == 0);
            of.is_some_and(|one| one.digest != proof.refs)
        };
        let (bad, good): (Vec<_>, Vec<_>) = self.good.into_iter().partition(|one| contradicts(&one.proof));
        self.good = good;
        self.bad.extend(bad.into_iter().map(|one| {
            let key = layout::drill(&one.proof.drill);
            let what = format!("`{key}` is of other refs than those of snapshot {}", one.proof.snapshot);
            let hint = "It proves nothing. Keep the store as it is and look into it.";
            (key, Failure::new(ExitCode::Tampering, what).hint(hint))
        }));
        self
    }
}

impl Core {
    /// Reads every proof that has a signature beside it.
    pub(super) async fn proofs(&self) -> Result<Proofs> {
        let listed = self.get.list(layout::DRILLS).await?;
        let there: BTreeSet<&Key> = listed.iter().map(|object| &object.key).collect();
        let gone = listed.iter().filter_map(|object| {
            let of = layout::signed_by(&object.key).filter(|of| layout::drill_of(of).is_some())?;
            (!there.contains(&of)).then_some(of)
        });
        let gone = gone.collect();
        let signed = listed.iter().filter(|object| {
            layout::drill_of(&object.key).is_some() && there.contains(&layout::signature(&object.key))
        });
        let reads = signed.map(|object| async move { (object.key.clone(), self.read_proof(object).await) });
        let (read, bad) = sorted_out(reads).await?;
        let (revoked, mut good): (Vec<_>, Vec<_>) =
            read.into_iter().partition(|one: &SignedProof| self.trust.revoked.contains_key(&one.signer));
        good.sort_by(|a, b| (a.proof.ended, &a.proof.drill).cmp(&(b.proof.ended, &b.proof.drill)));
        Ok(Proofs { good, revoked, bad, gone })
    }

    async fn read_proof(&self, object: &Listed) -> Result<SignedProof> {
        let key = &object.key;
        if object.size_bytes > PROOF_BYTES_MAX {
            let what = format!("`{key}` has {} bytes, and no proof has so many", object.size_bytes);
            return Err(Failure::new(ExitCode::Damage, what));
        }
        let bytes = self.get.get(key, None).await?;
        let signature = text_of(self.get.as_ref(), &layout::signature(key)).await?;
        let signer = self.trust.writers.verify(&bytes, &signature, key.as_str())?.signer;
        let proof = Proof::parse(&bytes, key.as_str())?;
        let report = proof.report.as_ref().map(|report| &report.object);
        let is_here = layout::drill(&proof.drill) == *key
            && proof.repository == self.config.repository
            && report.is_none_or(|object| *object == layout::drill_report(&proof.drill));
        if !is_here {
            let what = format!("`{key}` was signed for another drill or repository");
            return Err(Failure::new(ExitCode::Tampering, what)
                .hint("Somebody moved or copied it there. Keep the store as it is and look into it."));
        }
        Ok(SignedProof { proof, digest: PackId(Sha256::digest(&bytes).into()), signer })
    }

    /// Reads a sealed report as it lies in the store, and checks it against its proof.
    pub(super) async fn sealed_report(&self, report: &SealedReport) -> Result<bytes::Bytes> {
        let SealedReport { object, sha256, size_bytes } = report;
        let damaged = |what: String| Failure::new(ExitCode::Damage, format!("`{object}` {what}"));
        match self.get.size(object).await? {
            None => return Err(damaged("is missing".to_owned())),
            Some(found) if found != *size_bytes => {
                return Err(damaged(format!("has {found} bytes instead of {size_bytes}")));
            }
            Some(found) if found > report::SEALED_BYTES_MAX => {
                return Err(damaged(format!("has {found} bytes, and no report has so many")));
            }
            Some(_) => {}
        }
        let bytes = self.get.get(object, None).await?;
        if PackId(Sha256::digest(&bytes).into()) != *sha256 {
            return Err(damaged("is not the report that was signed".to_owned()));
        }
        Ok(bytes)
    }

    /// Looks whether the reports of all proofs are there and are what was signed. A report more or less changes
    /// nothing about its proof.
    pub(super) async fn check_reports(&self, proofs: &Proofs) -> Result<Vec<Damage>> {
        let mut found = Vec::new();
        for key in &proofs.gone {
            let what = "it is missing, and its signature is there".to_owned();
            found.push(Damage { object: key.to_string(), what, affects: Vec::new(), tampering: false });
        }
        for Proof { drill, report, .. } in proofs.good.iter().map(|one| &one.proof) {
            let Some(report) = report else { continue };
            let Err(failure) = self.sealed_report(report).await else { continue };
            if failure.exit() == ExitCode::StoreDown {
                return Err(failure);
            }
            let (object, what) = (report.object.to_string(), failure.chain().join(": "));
            let affects = vec![format!("the report of drill {drill}")];
            found.push(Damage { object, what, affects, tampering: false });
        }
        Ok(found)
    }
}

impl<A> Repository<A> {
    /// Returns what drills have found.
    pub async fn proofs(&self) -> Result<Proofs> {
        let survey = self.core.survey().await?;
        Ok(self.core.proofs().await?.compared_with(&survey.good))
    }

    /// Returns the snapshots, and which of them drills have proven. What cannot be believed hides nothing else.
    pub async fn restore_points(&self) -> Result<RestorePoints> {
        let Survey { good, bad, .. } = self.core.survey().await?;
        let proofs = self.core.proofs().await?.compared_with(&good);
        let proven = proofs.proven(&good);
        let refused = bad.into_iter().chain(proofs.bad).collect();
        Ok(RestorePoints { snapshots: good.into_iter().map(|one| one.whole()).collect(), proven, refused })
    }
}

impl Repository<Prove> {
    /// Opens for adding proofs.
    pub async fn prove(place: Place, put: Arc<dyn Put>, signing: SigningKey) -> Result<Self> {
        let core = Core::open(place).await?;
        if !core.trust.believes(&signing.public(), u64::MAX) {
            let what = format!("the signing key `{}` is not among the policy's signers", signing.public());
            return Err(Failure::new(ExitCode::KeyRefused, what)
                .hint("Add it to signers in [repository], or point keys at the right folder."));
        }
        let readers = Recipients::parse(&core.config.data_recipients)?
            .and(&Recipients::parse(&core.config.index_recipients)?);
        Ok(Self { core, access: Prove { put, signing, readers } })
    }

    /// Puts what a drill found and signs it. `refs` is the SHA-256 of the refs that were restored, `files` are those
    /// of its report; without any none is kept. The proof exists when this returns.
    pub async fn record_drill(
        &self,
        drill: &Report,
        refs: PackId,
        files: &[(String, Vec<u8>)],
    ) -> Result<Proof> {
        self.check_is_commit(&drill.snapshot, refs).await?;
        let (core, put) = (&self.core, self.access.put.as_ref());
        let mut report = None;
        if !files.is_empty() {
            let object = layout::drill_report(&drill.id);
            let sealed = bytes::Bytes::from(report::seal(files, &self.access.readers)?);
            let sha256 = PackId(Sha256::digest(&sealed).into());
            report = Some(SealedReport { object: object.clone(), sha256, size_bytes: sealed.len() as u64 });
            core.put(put, &object, sealed).await?;
        }
        let proof = Proof {
            format: FORMAT,
            repository: core.config.repository.clone(),
            drill: drill.id.clone(),
            snapshot: drill.snapshot.clone(),
            refs,
            way: drill.way,
            from: SourceName::new(&drill.from).ok(),
            outcome: drill.outcome,
            only_slow: drill.is_only_slow(),
            began: drill.began,
            ended: drill.ended,
            rto_seconds: drill.rto_seconds,
            sources: drill.sources.len() as u64,
            covers: drill.covers.clone(),
            assertions: drill.counts(),
            report,
        };
        let key = layout::drill(&drill.id);
        let bytes = serde_json::to_vec_pretty(&proof)
            .failed(ExitCode::Failed, || format!("`{key}` cannot be written"))?;
        let comment = format!("lifeboat drill repository={} drill={}", proof.repository, proof.drill);
        let signature = self.access.signing.sign(&bytes, &comment)?;
        core.put(put, &key, bytes.into()).await?;
        core.put(put, &layout::signature(&key), signature.into()).await?;
        Ok(proof)
    }

    /// Fails when the snapshot that lies here is not the one that was restored. That it was forgotten meanwhile does
    /// not matter: what was found stays true.
    async fn check_is_commit(&self, snapshot: &SnapshotId, refs: PackId) -> Result<()> {
        match self.core.refs_of(snapshot).await {
            Ok(one) if one.digest == refs => Ok(()),
            Ok(_) => {
                let what = format!("snapshot {snapshot} is not the one that was restored");
                Err(Failure::new(ExitCode::Tampering, what)
                    .hint("Its refs were changed meanwhile. Keep the store as it is and look into it."))
            }
            Err(failure) if failure.exit() == ExitCode::Usage => Ok(()),
            Err(failure) => Err(failure),
        }
    }
}

impl Repository<Read> {
    /// Returns the files of a drill's full report, each with its name.
    pub async fn drill_report(&self, drill: &SnapshotId) -> Result<Vec<(String, Vec<u8>)>> {
        let unknown = |what: &str| Failure::new(ExitCode::Usage, format!("drill `{drill}` has {what}"));
        let key = layout::drill(drill);
        let Some(size_bytes) = self.core.get.size(&key).await? else { return Err(unknown("no proof here")) };
        let proof = self.core.read_proof(&Listed { key, size_bytes, modified: None }).await?.proof;
        let Some(report) = proof.report else { return Err(unknown("left no report")) };
        let sealed = self.core.sealed_report(&report).await?;
        report::open(&sealed, &self.access.identities, report.object.as_str())
    }
}
