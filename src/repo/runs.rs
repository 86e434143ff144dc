//! One snapshot that several processes make together: how they divide it, the parts that each has stored, and the
//! commit of them all.
//!
//! *Order.* The plan is put once, by whoever comes first; all others read it. A part is put when all of its packs and
//! indexes lie in the store. One process, that of part 0, joins the parts into a manifest and commits it as any
//! snapshot is committed; then it notes which it was.
//!
//! *Crash.* Without its record a part is not there: what it stored is found again by the process that takes its place.
//! Until the commit there is no snapshot. When the process that commits dies before its note, the one that takes its
//! place finds the snapshot by the plan that its manifest names, and only writes the note. Two processes of part 0 that
//! live at the same time look for each other's snapshot before they join and again right before they sign; only two
//! that put their signatures within that last look make two snapshots, each of them whole.
//!
//! *Belief.* Plan and parts name keys and sources, so they are sealed as manifests are; each holds its signature
//! inside, so that one put makes it whole. Only records that this process's own key has signed are believed.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use chrono::{DateTime, Duration, Utc};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};

use super::{
    Append, Repository,
    commit::Whole,
    format::{self, FORMAT, Manifest, Refs, SourceManifest, Status},
    marks,
    survey::Survey,
    writer::{Committed, Label, SnapshotWriter, SourceTally},
};
use crate::{
    clock::{Ground, stored_time},
    error::{ExitCode, Failure, Result},
    event::SharedMonitor,
    flow::Problem,
    names::{Key, PackId, RunName, SnapshotId, SourceName},
    store::{Listed, StoreError},
};

/// Where plans and parts are.
pub(super) const RUNS: &str = "runs/";
/// How long after its beginning a run may be committed. Less than prune waits before it takes the packs of parts.
pub const RUN_TAKES_MAX: Duration = Duration::hours(48);
/// How long plans and parts stay: nobody reads them any more.
pub(super) const RECORDS_STAY: Duration = Duration::hours(72);

/// How a run is divided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunPlan {
    /// [`FORMAT`].
    pub format: u32,
    /// The repository's id.
    pub repository: String,
    /// The run's name.
    pub run: RunName,
    /// How many parts it has.
    pub parts: u32,
    /// The stack.
    pub stack: String,
    /// The revision of the config to whose readers all parts are sealed.
    pub config: u32,
    /// When it began.
    #[serde(deserialize_with = "stored_time")]
    pub began: DateTime<Utc>,
    /// A word to find the snapshot by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// Why the snapshot is to be kept for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pin: Option<String>,
    /// The sources, in the order in which they are read.
    pub sources: Vec<PlannedSource>,
}

impl RunPlan {
    /// Fails with `exit` when the run is too old to be gone on with: prune may have taken what its parts stored.
    pub fn check_age(&self, now: DateTime<Utc>, exit: ExitCode) -> Result<()> {
        if now <= self.began + RUN_TAKES_MAX {
            return Ok(());
        }
        let (run, began) = (&self.run, self.began.format("%Y-%m-%dT%H:%M:%SZ"));
        Err(Failure::new(exit, format!("run `{run}` began at {began} and has ended"))
            .because(format!("a run may take {} hours", RUN_TAKES_MAX.num_hours()))
            .hint("Give the next run another name, such as its date."))
    }
}

/// Who reads a source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlannedSource {
    /// Its name.
    pub name: SourceName,
    /// Its engine.
    pub kind: String,
    /// SHA-256 of its part of the policy, which is the same for all processes.
    pub policy: PackId,
    /// Who reads it.
    pub share: PlannedShare,
}

/// Who reads a source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PlannedShare {
    /// One part.
    Whole(u32),
    /// Each part its share.
    Divided(Division),
}

/// How a source is divided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Division {
    /// The snapshot that all shares are compared with.
    pub previous: Option<SnapshotId>,
    /// Bucket and key of the last object that may be in each share but the last.
    pub borders: Vec<(String, String)>,
}

/// What one process has stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// [`FORMAT`].
    pub format: u32,
    /// The repository's id.
    pub repository: String,
    /// The run's name.
    pub run: RunName,
    /// Which part it is, from 0.
    pub part: u32,
    /// SHA-256 of the plan that it was made by.
    pub plan: PackId,
    /// Its session: its indexes bear this name.
    pub session: SnapshotId,
    /// The host that made it.
    pub host: String,
    /// What it has of sources.
    pub sources: Vec<SourceManifest>,
    /// What these are made of.
    pub tallies: BTreeMap<SourceName, SourceTally>,
    /// The sources that could not be read.
    pub failed: Vec<PartFailure>,
    /// The packs that it has put, with their sizes.
    pub packs: BTreeMap<PackId, u64>,
    /// Older packs that it needs: size, and plain bytes that are used of each.
    pub used: BTreeMap<PackId, (u64, u64)>,
}

/// Why a source is not in a part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartFailure {
    /// The source.
    pub source: SourceName,
    /// The number of the exit code that the failure has.
    pub exit: u8,
    /// What it says.
    pub why: String,
}

/// Which snapshot a run became.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ended {
    format: u32,
    repository: String,
    run: RunName,
    snapshot: SnapshotId,
    status: Status,
    /// SHA-256 of the plan. The first records did not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    plan: Option<PackId>,
}

impl Ended {
    /// Returns whether it is of this plan, and not of an older run of the same name. Where it does not tell, the
    /// snapshot does: it is named by the second at which its plan began.
    fn is_of(&self, planned: &Planned) -> bool {
        match self.plan {
            Some(plan) => plan == planned.digest,
            None => self.snapshot.time().timestamp() == planned.plan.began.timestamp(),
        }
    }
}

/// A record as it lies in the store, before it is sealed.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Signed {
    record: String,
    signature: String,
}

/// A plan, and the SHA-256 of it by which parts name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// The plan.
    pub plan: RunPlan,
    /// Its digest.
    pub digest: PackId,
}

/// What the parts of a run are together.
pub struct Joined {
    /// The sources, in the order of the plan.
    pub sources: Vec<SourceManifest>,
    /// What they are made of.
    pub tallies: BTreeMap<SourceName, SourceTally>,
    /// The sources that should be there and could not be read.
    pub failed: Vec<Problem>,
}

fn key(run: &RunName, name: &str) -> Key {
    Key::new(&format!("{RUNS}{run}/{name}.json.zst.age")).unwrap_or_else(|error| panic!("{error}"))
}

fn plan_key(run: &RunName) -> Key {
    key(run, "plan")
}

fn part_key(run: &RunName, part: u32) -> Key {
    key(run, &format!("part-{part}"))
}

fn end_key(run: &RunName) -> Key {
    key(run, "end")
}

impl Repository<Append> {
    /// Returns the plan of a run, if there is one.
    pub async fn planned(&self, run: &RunName) -> Result<Option<Planned>> {
        let Some((plan, digest)) = self.record::<RunPlan>(&plan_key(run)).await? else { return Ok(None) };
        self.check_record(&plan_key(run), (plan.format, &plan.repository), (&plan.run, run))?;
        Ok(Some(Planned { plan, digest }))
    }

    /// Puts the plan of a run, unless another process was faster; returns the one that is in force.
    pub async fn plan_run(&self, plan: RunPlan) -> Result<Planned> {
        let run = plan.run.clone();
        self.put_record(&plan_key(&run), &plan).await?;
        let planned = self.planned(&run).await?;
        planned.ok_or_else(|| Failure::new(ExitCode::Damage, format!("`{}` is gone again", plan_key(&run))))
    }

    /// Adds to `parts` those of a run that came since, by their numbers. One listing tells which are there.
    pub async fn take_parts(&self, planned: &Planned, parts: &mut BTreeMap<u32, Part>) -> Result<()> {
        let listed = self.core.get.list(&format!("{RUNS}{}/", planned.plan.run)).await?;
        let there: BTreeSet<Key> = listed.into_iter().map(|object| object.key).collect();
        for number in 0..planned.plan.parts {
            if !parts.contains_key(&number)
                && there.contains(&part_key(&planned.plan.run, number))
                && let Some(part) = self.part(planned, number).await?
            {
                parts.insert(number, part);
            }
        }
        Ok(())
    }

    /// Returns a part of a run, if it is there. One that was made by another plan is refused.
    pub async fn part(&self, planned: &Planned, number: u32) -> Result<Option<Part>> {
        let run = &planned.plan.run;
        let key = part_key(run, number);
        let Some((part, _)) = self.record::<Part>(&key).await? else { return Ok(None) };
        self.check_record(&key, (part.format, &part.repository), (&part.run, run))?;
        if part.plan != planned.digest || part.part != number {
            let what =
                format!("part {number} of run `{run}` was made by another plan than the one that is there");
            return Err(Failure::new(ExitCode::Tampering, what)
                .hint("Somebody changed the store. Begin a new run under another name, and look into it."));
        }
        Ok(Some(part))
    }

    /// Returns the snapshot that a run became, if it was committed, and whether it is whole.
    pub async fn run_ended(&self, planned: &Planned) -> Result<Option<(SnapshotId, Status)>> {
        let run = &planned.plan.run;
        let Some((ended, _)) = self.record::<Ended>(&end_key(run)).await? else { return Ok(None) };
        self.check_record(&end_key(run), (ended.format, &ended.repository), (&ended.run, run))?;
        Ok(ended.is_of(planned).then_some((ended.snapshot, ended.status)))
    }

    /// Commits what the parts are together, and notes that the run has ended.
    pub async fn commit_run(
        &self,
        planned: &Planned,
        parts: &BTreeMap<u32, Part>,
        joined: Joined,
        host: String,
        ground: &Ground,
        monitor: &SharedMonitor,
    ) -> Result<Committed> {
        let plan = &planned.plan;
        let (mut packs, mut used, mut used_bytes) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        for part in parts.values() {
            packs.extend(&part.packs);
            for (pack, (size_bytes, bytes)) in &part.used {
                used.insert(*pack, *size_bytes);
                *used_bytes.entry(*pack).or_default() += bytes;
            }
        }
        // What one part has put and another needs is new to the snapshot.
        used_bytes.retain(|pack, _| !packs.contains_key(pack));
        let Joined { sources, tallies, failed } = joined;
        let (tag, pin) = (plan.tag.clone(), plan.pin.clone());
        let label = Label { stack: plan.stack.clone(), host, tag, pin, chosen: false };
        let (id, began) = (ground.id_at(plan.began), plan.began);
        let run = Some(planned.digest);
        // What the other processes have told of their packs.
        self.core.refresh(&self.access.index, monitor).await?;
        // The snapshot that a run became may have a process that could not note the end any more.
        let committed = if let Some((refs, manifest)) = self.of_plan(&planned.digest, began).await? {
            monitor.step(None, format!("run {} became snapshot {} before", plan.run, refs.snapshot));
            Committed {
                id: refs.snapshot,
                began,
                status: refs.status,
                sources: manifest.sources,
                added_bytes: packs.values().sum(),
                added_packs: packs.len() as u64,
                thin: self.thin(&used_bytes)?,
                tallies,
            }
        } else {
            plan.check_age(ground.clock.now(), ExitCode::Failed)?;
            let whole = Whole { id, began, run, packs, used, used_bytes, sources, tallies, failed };
            self.sign(whole, label, ground, monitor).await?
        };
        let ended = Ended {
            format: FORMAT,
            repository: self.core.config.repository.clone(),
            run: plan.run.clone(),
            snapshot: committed.id.clone(),
            status: committed.status,
            plan: Some(planned.digest),
        };
        // The snapshot is there, whatever becomes of the notes about it.
        if let Err(failure) = self.note_end(&ended, parts).await {
            monitor.warn(None, format!("the end of run `{}` is not noted: {failure}", plan.run), None);
        }
        Ok(committed)
    }

    /// Returns the snapshot of ours whose manifest names this plan, which began then.
    pub(super) async fn of_plan(
        &self,
        plan: &PackId,
        began: DateTime<Utc>,
    ) -> Result<Option<(Refs, Manifest)>> {
        let mine = self.access.signing.public();
        let Survey { good, doubted, .. } = self.core.survey().await?;
        let of_then = good.into_iter().filter(|one| one.signer == mine && one.refs.began >= began);
        for one in of_then.filter(|one| !doubted.contains(&one.refs.snapshot)) {
            match self.core.manifest(&one.refs, &self.access.index).await {
                Ok(manifest) if manifest.run.as_ref() == Some(plan) => {
                    return Ok(Some((one.refs, manifest)));
                }
                Err(failure) if failure.exit() == ExitCode::StoreDown => return Err(failure),
                _ => {}
            }
        }
        Ok(None)
    }

    async fn note_end(&self, ended: &Ended, parts: &BTreeMap<u32, Part>) -> Result<()> {
        self.put_record(&end_key(&ended.run), ended).await?;
        for part in parts.values() {
            let (key, mark) = marks::end_of(&part.session);
            self.core.put(self.access.put.as_ref(), &key, mark).await?;
        }
        Ok(())
    }

    /// Puts a record once; returns whether it was put by this call.
    async fn put_record<T: Serialize>(&self, key: &Key, record: &T) -> Result<bool> {
        let record = String::from_utf8(format::write(record)).unwrap_or_default();
        let comment = format!("lifeboat run repository={} {key}", self.core.config.repository);
        let signature = self.access.signing.sign(record.as_bytes(), &comment)?;
        let signed = format::write(&Signed { record, signature });
        let sealed: Bytes = self.access.meta_to.seal(&format::pack_meta(&signed)?)?.into();
        match self.core.put(self.access.put.as_ref(), key, sealed).await {
            Err(StoreError::Exists { .. }) => Ok(false),
            other => Ok(other.map(|()| true)?),
        }
    }

    async fn record<T: DeserializeOwned>(&self, key: &Key) -> Result<Option<(T, PackId)>> {
        let sealed = match self.core.get.get(key, None).await {
            Err(StoreError::NotFound { .. }) => return Ok(None),
            other => other?,
        };
        let what = key.as_str();
        let signed: Signed =
            format::parse(&format::unpack_meta(&self.access.index.open(&sealed, what)?, what)?, what)?;
        let by = self.core.trust.writers.verify(signed.record.as_bytes(), &signed.signature, what)?;
        if by.signer != self.access.signing.public() {
            return Err(Failure::new(ExitCode::KeyRefused, format!("`{key}` is signed by `{}`", by.signer))
                .hint("All processes that make one snapshot together sign with the same key."));
        }
        let record = format::parse(signed.record.as_bytes(), what)?;
        Ok(Some((record, PackId(Sha256::digest(&signed.record).into()))))
    }

    fn check_record(&self, key: &Key, of: (u32, &String), named: (&RunName, &RunName)) -> Result<()> {
        format::check_version(of.0, &format!("`{key}`"))?;
        if *of.1 == self.core.config.repository && named.0 == named.1 {
            return Ok(());
        }
        Err(Failure::new(ExitCode::Tampering, format!("`{key}` was signed for another run or repository"))
            .hint("Somebody moved or copied it there. Keep the store as it is and look into it."))
    }
}

impl SnapshotWriter<'_> {
    /// Ends as a part of a run, which is there when this returns. Fails with [`ExitCode::Busy`] when another process
    /// has put that part meanwhile.
    pub async fn end_as_part(
        self,
        planned: &Planned,
        part: u32,
        host: String,
        failed: Vec<PartFailure>,
    ) -> Result<Part> {
        let (repository, clock) = (self.repository, self.ground.clock.clone());
        let Whole { id, packs, used, used_bytes, sources, tallies, .. } = self.store_rest().await?;
        let bytes_of = |pack| used_bytes.get(pack).copied().unwrap_or_default();
        let used = used.iter().map(|(pack, size)| (*pack, (*size, bytes_of(pack)))).collect();
        let run = planned.plan.run.clone();
        planned.plan.check_age(clock.now(), ExitCode::Failed)?;
        let record = Part {
            format: FORMAT,
            repository: repository.core.config.repository.clone(),
            run: run.clone(),
            part,
            plan: planned.digest,
            session: id,
            host,
            sources,
            tallies,
            failed,
            packs,
            used,
        };
        if repository.put_record(&part_key(&run, part), &record).await? {
            return Ok(record);
        }
        let what = format!("another process has stored part {part} of run `{run}`");
        Err(Failure::new(ExitCode::Busy, what)
            .hint("Nothing is lost: its part counts. Give each process another I."))
    }
}

/// Returns the records of each run that nobody reads any more, in the order in which they are to go. The newest one
/// tells the age of all. The plan goes last: while it is there the run has ended, and nobody begins another one of its
/// name among what is left.
pub(super) fn spent(listed: &[Listed], now: DateTime<Utc>) -> Vec<Vec<Key>> {
    let mut runs: BTreeMap<&str, Vec<&Listed>> = BTreeMap::new();
    for object in listed {
        let run = object.key.as_str().rsplit_once('/').map_or("", |(run, _)| run);
        runs.entry(run).or_default().push(object);
    }
    let is_old = |object: &&Listed| object.modified.is_some_and(|at| at + RECORDS_STAY <= now);
    let old = runs.into_values().filter(|run| run.iter().all(is_old));
    old.map(|run| {
        let mut keys: Vec<Key> = run.into_iter().map(|object| object.key.clone()).collect();
        keys.sort_by_key(|key| key.as_str().contains("/plan."));
        keys
    })
    .collect()
}
