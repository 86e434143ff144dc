//! Recalls from the repository what a new catalog does not know: that there were backups, and what was in them.
//!
//! A host that was made anew, or whose catalog broke, must not look as if nothing had ever been backed up: its service
//! would call every task overdue, nothing would be unusual for want of a past, and a snapshot that a drill failed to
//! restore would look as good as any. Only what the store tells is recalled: backups that failed left no trace there.
//! Of drills it has the signed proofs, of whatever host, and their reports where this host's key opens them.
//!
//! *Order.* All that the store must tell is read and the drills are noted before the first backup is: that a backup is
//! known tells that the past is. *Crash.* The next start recalls what is not noted yet.

use std::collections::BTreeMap;

use super::{
    backup::POINT,
    drilled,
    open::Opening,
    seen::{self, PlaceSeen, REPOSITORY},
};
use crate::{
    catalog::{Catalog, Count, RunEnd},
    drill::{Outcome, Report, TREND_MAX},
    error::{ExitCode, Result},
    event::SharedMonitor,
    names::{Job, Task},
    policy::Stack,
    repo::{
        Clear, Read, Repository,
        format::{Manifest, Proof, Refs, Status},
    },
};

/// Snapshots whose manifests are read for what was counted: enough to tell what is usual.
const MANIFESTS_MAX: usize = 8;

/// What was recalled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recalled {
    /// Backups that made a snapshot.
    pub backups: u64,
    /// Drills, of whatever host.
    pub drills: u64,
}

/// Notes the repository's snapshots and drills as runs, if the catalog knows of no backup. Returns how many it noted.
pub async fn recall(stack: &Stack, ledger: &Catalog, monitor: &SharedMonitor) -> Result<Recalled> {
    let task = Task::of(Job::Backup);
    // A backup that failed tells nothing of those before it.
    if ledger.has_snapshots()? {
        return Ok(Recalled::default());
    }
    let opening = Opening::new(stack, monitor)?;
    // Without a key the refs tell when and whether whole, and no more.
    let reader = opening.look(stack, None, monitor).await.ok();
    let clear = opening.clear().await?;
    let points = clear.restore_points().await?;
    let (refs, packs) = (points.snapshots, clear.packs().await?);
    // Of drills first: who finds a backup noted looks for nothing more.
    let drills = recall_drills(stack, ledger, &clear, reader.as_ref(), monitor).await?;
    let first_read = refs.len().saturating_sub(MANIFESTS_MAX);
    let mut backups = 0;
    for (at, one) in refs.iter().enumerate() {
        let manifest = match &reader {
            Some(reader) if at >= first_read => manifest(reader, one, monitor).await,
            _ => None,
        };
        if manifest.as_ref().is_some_and(|manifest| manifest.stack != stack.name) {
            continue;
        }
        note(ledger, &task, one, manifest.as_ref())?;
        backups += 1;
    }
    if let Some(newest) = refs.last() {
        let place = PlaceSeen {
            snapshots: Some(refs.len() as u64),
            proven: Some(points.proven.len() as u64),
            newest: Some(newest.snapshot.clone()),
            newest_began: Some(newest.began),
            stored_bytes: Some(packs.values().sum()),
            ..PlaceSeen::default()
        };
        seen::note_place(ledger, REPOSITORY, place, newest.began)?;
    }
    Ok(Recalled { backups, drills })
}

/// Notes the drills that the repository has proofs of, the oldest first, each as a run of its task.
async fn recall_drills(
    stack: &Stack,
    ledger: &Catalog,
    clear: &Repository<Clear>,
    reader: Option<&Repository<Read>>,
    monitor: &SharedMonitor,
) -> Result<u64> {
    let proofs = clear.proofs().await?.good;
    let first_read = proofs.len().saturating_sub(TREND_MAX);
    let mut noted = 0;
    for (at, proof) in proofs.iter().map(|one| &one.proof).enumerate() {
        let report = match reader {
            Some(reader) if at >= first_read => report(reader, proof, monitor).await,
            _ => None,
        };
        let is_ours = report.as_ref().is_none_or(|report| report.stack == stack.name);
        if !is_ours || !ledger.learn_drill(&drilled::of_proof(proof))? {
            continue;
        }
        if let Some(report) = report {
            ledger.note_drill(&report, None)?;
        }
        note_drill(ledger, proof)?;
        noted += 1;
    }
    Ok(noted)
}

/// Reads the full report of a drill; one that cannot be read is told, and is verify's to judge.
async fn report(reader: &Repository<Read>, proof: &Proof, monitor: &SharedMonitor) -> Option<Report> {
    proof.report.as_ref()?;
    let files = match reader.drill_report(&proof.drill).await {
        Ok(files) => files,
        Err(failure) => {
            monitor.warn(None, failure.one_line(), failure.first_hint());
            return None;
        }
    };
    let (_, bytes) = files.into_iter().find(|(name, _)| name == "report.json")?;
    let report: Report = serde_json::from_slice(&bytes).ok()?;
    (report.id == proof.drill).then_some(report)
}

fn note_drill(ledger: &Catalog, proof: &Proof) -> Result<()> {
    let run = ledger.begin_run(&drilled::task_of(proof.way), 1, proof.began)?;
    let [held, failed, unasked] = proof.assertions;
    let message = match proof.outcome {
        Outcome::Passed => None,
        Outcome::Failed => Some(format!("{failed} of {} checks did not hold", held + failed + unasked)),
        Outcome::CouldNotRun => Some("the drill could not be run to its end".to_owned()),
    };
    ledger.end_run(
        run,
        &RunEnd {
            ended: proof.ended,
            exit: drilled::exit_of(proof.outcome).number(),
            snapshot: Some(proof.snapshot.clone()),
            added_bytes: 0,
            message,
            hint: None,
            is_frozen: false,
        },
    )
}

/// Reads a manifest; one that cannot be read is told, and is verify's to judge.
async fn manifest(reader: &Repository<Read>, refs: &Refs, monitor: &SharedMonitor) -> Option<Manifest> {
    match reader.manifest(refs).await {
        Ok(manifest) => Some(manifest),
        Err(failure) => {
            monitor.warn(None, failure.one_line(), failure.first_hint());
            None
        }
    }
}

fn note(ledger: &Catalog, task: &Task, refs: &Refs, manifest: Option<&Manifest>) -> Result<()> {
    let run = ledger.begin_run(task, 1, refs.began)?;
    if refs.chosen {
        ledger.mark_part(run)?;
    }
    let mut counts = Vec::new();
    for source in manifest.into_iter().flat_map(|manifest| &manifest.sources) {
        let point = u64::try_from(source.point.at.timestamp()).unwrap_or_default();
        let known =
            BTreeMap::from([("bytes", source.size_bytes), ("entries", source.entries), (POINT, point)]);
        let about = source.name.to_string();
        counts.extend(known.into_iter().map(|(what, value)| Count {
            about: about.clone(),
            what: what.to_owned(),
            value,
        }));
    }
    ledger.note_counts(run, &counts)?;
    let exit = match refs.status {
        Status::Complete => ExitCode::Ok,
        Status::Partial => ExitCode::Partial,
    };
    ledger.end_run(
        run,
        &RunEnd {
            ended: manifest.map_or(refs.began, |manifest| manifest.ended),
            exit: exit.number(),
            snapshot: Some(refs.snapshot.clone()),
            added_bytes: 0,
            message: None,
            hint: None,
            is_frozen: false,
        },
    )
}
