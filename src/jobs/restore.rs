//! A restore: a plan that a person reads, then the same plan carried out.
//!
//! *Order.* Plan: snapshot chosen, every target looked at, nothing touched. Execute: refuse if anything is in
//! the way; then source by source in the order of the backup. *Crash.* A restore that dies leaves its target
//! half written and the repository untouched; run it again with `--replace`.

use std::{collections::BTreeSet, time::Instant};

use super::{registry::ReadyTarget, when::When};
use crate::{
    error::{ExitCode, Failure, Result},
    event::{Event, SharedMonitor},
    flow::{FlowResult, Point, STREAM_DEPTH, Selection, Tally, TargetState, WriteOptions, channel, settle},
    names::{SnapshotId, SourceName},
    repo::{Read, Repository, Snapshot, format::Refs},
};

/// What will be restored into one target.
pub struct SourcePlan {
    /// The source.
    pub source: SourceName,
    /// Its engine.
    pub kind: String,
    /// The instant it was read at.
    pub point: Point,
    /// Entries that will be applied.
    pub entries: u64,
    /// Their plain bytes.
    pub size_bytes: u64,
    /// Where they go.
    pub place: String,
    /// What is there.
    pub state: TargetState,
    target: ReadyTarget,
}

/// What a restore will do; carried out at most once.
pub struct Plan {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// The stack that it is of.
    pub stack: String,
    /// The sources, in the order of the backup.
    pub sources: Vec<SourcePlan>,
    /// What was asked for.
    pub only: Selection,
    /// Whether what is in the way may be removed.
    pub replace: bool,
    /// What the snapshot should hold and does not, a line each.
    pub missing: Vec<String>,
}

/// What was restored from one source.
#[derive(Debug)]
pub struct Restored {
    /// The source.
    pub source: SourceName,
    /// What the target did.
    pub tally: Tally,
    /// How long it took.
    pub seconds: f64,
}

/// What is wanted from a snapshot.
pub struct Wanted {
    /// The sources with their targets, in any order.
    pub targets: Vec<(SourceName, ReadyTarget)>,
    /// Whether the sources were asked for by name.
    pub by_name: bool,
    /// Which entries.
    pub only: Selection,
    /// Whether what is in the way may be removed.
    pub replace: bool,
}

/// Looks at the snapshot and at every target; touches nothing.
pub async fn plan(snapshot: &Snapshot, wanted: Wanted) -> Result<Plan> {
    let Wanted { targets, by_name, only, replace } = wanted;
    let mut sources = Vec::new();
    for (name, mut target) in targets {
        let source = snapshot.source(&name)?;
        let found = find(snapshot, &name, &only).await?;
        if !found.is_meant(by_name) {
            continue;
        }
        let state = target.target.inspect(&found.inventory).await?;
        sources.push(SourcePlan {
            source: name,
            kind: source.kind.clone(),
            point: source.point.clone(),
            entries: found.entries,
            size_bytes: found.size_bytes,
            place: target.place.clone(),
            state,
            target,
        });
    }
    if sources.is_empty() {
        let what = format!("nothing in the snapshot fits {}", only.patterns().join(", "));
        return Err(Failure::new(ExitCode::Usage, what).hint("`lifeboat ls` shows what there is."));
    }
    let missing = missing(snapshot, &sources, by_name);
    let rank =
        |plan: &SourcePlan| snapshot.manifest.sources.iter().position(|source| source.name == plan.source);
    sources.sort_by_key(rank);
    Ok(Plan {
        snapshot: snapshot.refs.snapshot.clone(),
        stack: snapshot.manifest.stack.clone(),
        sources,
        only,
        replace,
        missing,
    })
}

/// Returns what the backup could not read of what is now to be restored.
fn missing(snapshot: &Snapshot, plans: &[SourcePlan], by_name: bool) -> Vec<String> {
    let failed = snapshot.manifest.failed.iter().filter(|_| !by_name);
    let failed = failed.map(|failed| format!("{}: all of it: {}", failed.what, failed.why));
    let planned = |name: &SourceName| plans.iter().any(|plan| plan.source == *name);
    let sources = snapshot.manifest.sources.iter().filter(|source| planned(&source.name));
    let left_out = sources.flat_map(|source| {
        source.problems.iter().map(|problem| format!("{}: {}: {}", source.name, problem.what, problem.why))
    });
    failed.chain(left_out).collect()
}

/// Returns the newest snapshot that `when` can mean and that holds all of `sources`; when there is none, the
/// newest that it can mean.
///
/// A backup of one source by hand must not stand in for the nightly one of all.
pub async fn choose(
    repository: &Repository<Read>,
    refs: &[Refs],
    when: &When,
    sources: &[SourceName],
) -> Result<SnapshotId> {
    let ids: Vec<SnapshotId> = refs.iter().map(|refs| refs.snapshot.clone()).collect();
    let fitting = when.fitting(&ids)?;
    for id in &fitting {
        let Some(refs) = refs.iter().find(|refs| refs.snapshot == *id) else { continue };
        // One whose manifest is damaged is not passed over in silence: opening it says what is wrong.
        let Ok(manifest) = repository.manifest(refs).await else { return Ok(id.clone()) };
        let has = |name: &SourceName| manifest.sources.iter().any(|source| source.name == *name);
        if sources.iter().all(has) {
            return Ok(id.clone());
        }
    }
    Ok(fitting[0].clone())
}

/// What of a source is wanted.
#[derive(Default)]
struct Found {
    entries: u64,
    size_bytes: u64,
    inventory: Vec<String>,
    /// Entries that a pattern means, not only something inside them.
    picked: u64,
    /// Entries of which only their target can tell what is inside: a dump of keys.
    opaque: u64,
}

impl Found {
    /// Returns whether the person meant this source. A pattern may always mean a key inside a dump, so a dump
    /// is taken only when its source was asked for by name.
    fn is_meant(&self, by_name: bool) -> bool {
        self.picked > 0 || (by_name && self.opaque > 0)
    }
}

async fn find(snapshot: &Snapshot, name: &SourceName, only: &Selection) -> Result<Found> {
    let source = snapshot.source(name)?;
    if only.is_all() {
        let (entries, size_bytes, inventory) = (source.entries, source.size_bytes, source.inventory.clone());
        // A source that was empty is restored too: its target becomes empty.
        return Ok(Found { entries, size_bytes, inventory, picked: entries.max(1), opaque: 0 });
    }
    let mut found = Found::default();
    let mut items = BTreeSet::new();
    let mut lines = snapshot.entries(source);
    while let Some(record) = lines.next().await? {
        if only.wants(&record.meta) {
            found.entries += 1;
            found.size_bytes += record.size_bytes;
            let is_picked = only.picks(&record.meta);
            let is_opaque = record.meta.container && record.meta.select.is_empty();
            found.picked += u64::from(is_picked);
            found.opaque += u64::from(is_opaque);
            // What only lies around a picked thing is made if it is missing, and never in the way.
            if is_picked || is_opaque {
                items.insert(record.meta.item);
            }
        }
    }
    found.inventory = items.into_iter().collect();
    Ok(found)
}

impl Plan {
    /// Returns what is in the way, a line each.
    pub fn in_the_way(&self) -> Vec<String> {
        let lines = |plan: &SourcePlan| {
            plan.state.in_the_way.iter().map(|line| format!("{}: {line}", plan.source)).collect::<Vec<_>>()
        };
        self.sources.iter().flat_map(lines).collect()
    }

    /// Fails when something is in the way and must not be removed.
    pub fn check(&self) -> Result<()> {
        let in_the_way = self.in_the_way();
        if self.replace || in_the_way.is_empty() {
            return Ok(());
        }
        let what = format!("the target is not empty: {}", in_the_way.join("; "));
        Err(Failure::new(ExitCode::TargetNotEmpty, what)
            .hint("Restore beside it with --into SOURCE=…, or say --replace to remove what is there first."))
    }
}

/// Carries out a plan.
pub async fn execute(snapshot: &Snapshot, plan: Plan, monitor: &SharedMonitor) -> Result<Vec<Restored>> {
    plan.check()?;
    let mut restored = Vec::new();
    for source in plan.sources {
        let options = WriteOptions { replace: plan.replace, only: plan.only.clone() };
        restored.push(restore_one(snapshot, source, options, monitor).await?);
    }
    Ok(restored)
}

async fn restore_one(
    snapshot: &Snapshot,
    plan: SourcePlan,
    options: WriteOptions,
    monitor: &SharedMonitor,
) -> Result<Restored> {
    let began = Instant::now();
    let source = plan.source;
    let size_bytes_expected = Some(plan.size_bytes);
    monitor.event(Event::SourceBegan { source: source.clone(), verb: "restore", size_bytes_expected });
    let written = copy(snapshot, &source, plan.target, options, monitor).await;
    monitor.event(Event::SourceEnded { source: source.clone() });
    let tally = written.map_err(|error| error.about(&source))?;
    Ok(Restored { source, tally, seconds: began.elapsed().as_secs_f64() })
}

async fn copy(
    snapshot: &Snapshot,
    source: &SourceName,
    target: ReadyTarget,
    options: WriteOptions,
    monitor: &SharedMonitor,
) -> FlowResult<Tally> {
    let only = options.only.clone();
    let (sink, stream) = channel(STREAM_DEPTH);
    let (read, written) = tokio::join!(
        snapshot.read_source(source, &only, sink, monitor),
        target.target.write(options, stream)
    );
    settle(read, written).map(|((), tally)| tally)
}
