//! A restore: a plan that a person reads, then the same plan carried out.
//!
//! *Order.* Plan: snapshot chosen, every target looked at, nothing touched. Execute: refuse if anything is in
//! the way; then source by source in the order of the backup. *Crash.* A restore that dies leaves its target
//! half written and the repository untouched; run it again with `--replace`.

use std::time::Instant;

use super::registry::ReadyTarget;
use crate::{
    error::{ExitCode, Failure, Result},
    event::{Event, SharedMonitor},
    flow::{FlowResult, Point, STREAM_DEPTH, Selection, Tally, TargetState, WriteOptions, channel, settle},
    names::{SnapshotId, SourceName},
    repo::Snapshot,
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
    /// Which entries.
    pub only: Selection,
    /// Whether what is in the way may be removed.
    pub replace: bool,
}

/// Looks at the snapshot and at every target; touches nothing.
pub async fn plan(snapshot: &Snapshot, wanted: Wanted) -> Result<Plan> {
    let Wanted { targets, only, replace } = wanted;
    let mut sources = Vec::new();
    for (name, mut target) in targets {
        let source = snapshot.source(&name)?;
        let (entries, size_bytes, inventory) = count(snapshot, &name, &only).await?;
        if entries == 0 && !only.is_all() {
            continue;
        }
        let state = target.target.inspect(&inventory).await?;
        sources.push(SourcePlan {
            source: name,
            kind: source.kind.clone(),
            point: source.point.clone(),
            entries,
            size_bytes,
            place: target.place.clone(),
            state,
            target,
        });
    }
    if sources.is_empty() {
        let what = format!("nothing in the snapshot fits {}", only.patterns().join(", "));
        return Err(Failure::new(ExitCode::Usage, what).hint("`lifeboat ls` shows what there is."));
    }
    let rank =
        |plan: &SourcePlan| snapshot.manifest.sources.iter().position(|source| source.name == plan.source);
    sources.sort_by_key(rank);
    Ok(Plan {
        snapshot: snapshot.refs.snapshot.clone(),
        stack: snapshot.manifest.stack.clone(),
        sources,
        only,
        replace,
    })
}

/// Counts what is wanted of a source.
async fn count(snapshot: &Snapshot, name: &SourceName, only: &Selection) -> Result<(u64, u64, Vec<String>)> {
    let source = snapshot.source(name)?;
    if only.is_all() {
        return Ok((source.entries, source.size_bytes, source.inventory.clone()));
    }
    let (mut entries, mut size_bytes, mut inventory) = (0, 0, std::collections::BTreeSet::new());
    let mut lines = snapshot.entries(source);
    while let Some(record) = lines.next().await? {
        if only.wants(&record.meta) {
            entries += 1;
            size_bytes += record.size_bytes;
            inventory.insert(record.meta.item);
        }
    }
    Ok((entries, size_bytes, inventory.into_iter().collect()))
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
