//! Recalls from the repository what a new catalog does not know: that there were backups, and what was in them.
//!
//! A host that was made anew, or whose catalog broke, must not look as if nothing had ever been backed up: its service
//! would call every task overdue, and nothing would be unusual for want of a past. Only what the store tells is
//! recalled: runs that failed left no trace there. Drills are not recalled yet; the reports of those that passed lie in
//! the repository, signed, for [`Catalog::note_drill`].

use std::collections::BTreeMap;

use super::{
    backup::POINT,
    open::Opening,
    seen::{self, PlaceSeen, REPOSITORY},
};
use crate::{
    catalog::{Catalog, Count, RunEnd},
    error::{ExitCode, Result},
    event::SharedMonitor,
    names::{Job, Task},
    policy::Stack,
    repo::{
        Read, Repository,
        format::{Manifest, Refs, Status},
    },
};

/// Snapshots whose manifests are read for what was counted: enough to tell what is usual.
const MANIFESTS_MAX: usize = 8;

/// Notes the repository's snapshots as runs, if the catalog knows of no backup. Returns how many it noted.
pub async fn recall(stack: &Stack, ledger: &Catalog, monitor: &SharedMonitor) -> Result<u64> {
    let task = Task::of(Job::Backup);
    // A backup that failed tells nothing of those before it.
    if ledger.has_snapshots()? {
        return Ok(0);
    }
    let opening = Opening::new(stack, monitor)?;
    // Without a key the refs tell when and whether whole, and no more.
    let reader = opening.look(stack, None, monitor).await.ok();
    let clear = opening.clear().await?;
    let points = clear.restore_points().await?;
    let (refs, packs) = (points.snapshots, clear.packs().await?);
    let first_read = refs.len().saturating_sub(MANIFESTS_MAX);
    let mut noted = 0;
    for (at, one) in refs.iter().enumerate() {
        let manifest = match &reader {
            Some(reader) if at >= first_read => manifest(reader, one, monitor).await,
            _ => None,
        };
        if manifest.as_ref().is_some_and(|manifest| manifest.stack != stack.name) {
            continue;
        }
        note(ledger, &task, one, manifest.as_ref())?;
        noted += 1;
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
    Ok(noted)
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
