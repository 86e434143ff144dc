//! A backup: every source of a stack into one snapshot.
//!
//! *Order.* MySQL's point first, then Redis, then the object listing, then files: every object that a row
//! names was there to be listed. Each source is read whole before the next one begins; the signature is last.
//!
//! *Stop.* A backup that is asked to end finishes the packs in hand, so that the next one need not send them again.
//!
//! *Crash.* Whatever is killed here leaves older snapshots as they were and nothing that has to be unlocked.
//!
//! *Retries.* None here: a source that fails is noted, the others are still taken, and the snapshot is partial.

use std::{collections::BTreeMap, time::Instant};

use chrono::{DateTime, Utc};
use tokio_util::sync::CancellationToken;

use super::{
    anomaly,
    open::Opening,
    registry,
    run::{Outcome, Remembered, RunContext, noted_as, stopped},
    seen::{self, PlaceSeen},
};
use crate::{
    catalog::Count,
    clock::Ground,
    error::{ExitCode, Failure, Result},
    event::{Event, SharedMonitor},
    flow::{FlowResult, Point, Problem, STREAM_DEPTH, Source, channel, settle},
    names::{Job, SnapshotId, SourceName, Task},
    policy::Stack,
    repo::{
        Append, Committed, Label, Repository, SnapshotWriter, SourceTally,
        format::{CHOSEN, SourceManifest, Status},
    },
    s3::Shrink,
};

/// The word under which the instant that a source was read at is noted among its counts, in seconds since 1970.
pub const POINT: &str = "point";
/// The word under which it is noted how much a source had in the snapshot before and has no more, where a backup left
/// out nothing else.
pub const GONE: &str = "gone";

/// What a person asks of a backup.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// The sources; all when none is named.
    pub sources: Vec<String>,
    /// Whether buckets of these sources may have lost whatever they have lost.
    pub accept_shrink: bool,
    /// A word to find the snapshot by.
    pub tag: Option<String>,
    /// Why it is to be kept for ever.
    pub pin: Option<String>,
}

/// Makes a snapshot of a stack, as a run.
pub async fn of_stack(context: RunContext<'_>, wanted: Wanted) -> Result<Report> {
    let RunContext { stack, ground, monitor, stop, .. } = context;
    let sources = ready(stack, &wanted, ground, monitor)?;
    let is_part = sources.len() < stack.sources.len();
    let accepted = wanted.accept_shrink;
    let report = noted_as(context, &Task::of(Job::Backup), is_part, async {
        let opening = Opening::new(stack, monitor)?;
        let repository = opening.append(stack, monitor).await?;
        let whole_stack = wanted.sources.is_empty();
        let Wanted { tag, pin, .. } = wanted;
        let label = Label { stack: stack.name.clone(), host: host_name(), tag, pin, chosen: is_part };
        let options = Options { label, level: stack.repository.settings.compression_level, whole_stack };
        let mut report = run(&repository, sources, options, ground, monitor, stop).await?;
        report.count(context, &opening);
        Ok(report)
    })
    .await?;
    // The snapshot is there; an anomaly that is not noted as accepted is asked about again.
    if accepted && let Err(failure) = accept(context, &report) {
        let hint = "If an anomaly is told, run `lifeboat incidents acknowledge NUMBER --note WHY`.";
        monitor.warn(None, format!("what was counted is not noted as accepted: {failure}"), Some(hint));
    }
    Ok(report)
}

/// Notes that what was counted of these sources is right, so that it is no anomaly either.
fn accept(context: RunContext<'_>, report: &Report) -> Result<()> {
    let ledger = context.ledger()?;
    for source in report.sources.iter().filter(|source| source.failure.is_none()) {
        if let Some(run) = anomaly::newest(&ledger, source.name.as_str())? {
            anomaly::accept(&ledger, source.name.as_str(), &run, context.ground.clock.now())?;
        }
    }
    Ok(())
}

/// Returns the sources that were asked for, in the order in which they are read.
fn ready(stack: &Stack, wanted: &Wanted, ground: &Ground, monitor: &SharedMonitor) -> Result<Vec<Ready>> {
    if let Some(stranger) = wanted.sources.iter().find(|name| stack.source(name).is_none()) {
        return Err(super::no_source(stack, stranger));
    }
    let asked = |name: &str| wanted.sources.is_empty() || wanted.sources.iter().any(|one| one == name);
    let all = stack.sources_in_order().into_iter().filter(|source| asked(source.name.as_str()));
    let shrink =
        if wanted.accept_shrink { Shrink::Accepted } else { Shrink::Percent(stack.anomaly.shrink_percent) };
    Ok(all.map(|source| registry::source(source, shrink, ground, monitor)).collect())
}

/// A source that is ready to be read.
pub struct Ready {
    /// Its name.
    pub name: SourceName,
    /// Its engine.
    pub kind: &'static str,
    /// The source, or why it cannot be read.
    pub source: Result<Box<dyn Source>>,
    /// What it is compared with.
    pub before: Before,
}

/// The snapshot that a source is compared with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Before {
    /// The newest that has it.
    Newest,
    /// This one.
    Snapshot(SnapshotId),
    /// None.
    Nothing,
}

/// What a backup is made with.
pub struct Options {
    /// What the operator says of it.
    pub label: Label,
    /// zstd level.
    pub level: i32,
    /// Whether every source of the stack is in it. A backup of some says nothing of how much a pack is used.
    pub whole_stack: bool,
}

/// What became of one source.
#[derive(Debug)]
pub struct SourceReport {
    /// Its name.
    pub name: SourceName,
    /// Its engine.
    pub kind: &'static str,
    /// Why it is not in the snapshot, if it is not.
    pub failure: Option<Failure>,
    /// What it had to leave out.
    pub problems: Vec<Problem>,
    /// Entries stored.
    pub entries: u64,
    /// Plain bytes of the entries.
    pub size_bytes: u64,
    /// Plain bytes that were read from it.
    pub read_bytes: u64,
    /// Plain bytes that were new.
    pub added_bytes: u64,
    /// How long it took.
    pub seconds: f64,
    /// The instant it was read at.
    pub point: Option<Point>,
    /// What it is made of.
    pub tally: SourceTally,
}

impl SourceReport {
    /// Tells of a source of which nothing is stored yet.
    fn new(name: SourceName, kind: &'static str, failure: Option<Failure>) -> Self {
        Self {
            name,
            kind,
            failure,
            problems: Vec::new(),
            entries: 0,
            size_bytes: 0,
            read_bytes: 0,
            added_bytes: 0,
            seconds: 0.0,
            point: None,
            tally: SourceTally::default(),
        }
    }

    /// Tells of a source that could not be read.
    pub(super) fn unread(name: SourceName, kind: &'static str, failure: Failure) -> Self {
        Self::new(name, kind, Some(failure))
    }

    /// Tells of a source that is stored.
    pub(super) fn of(stored: &SourceManifest, tallies: &BTreeMap<SourceName, SourceTally>) -> Self {
        let mut report = Self::new(stored.name.clone(), registry::kind_word(&stored.kind), None);
        report.seconds = (stored.ended - stored.began).as_seconds_f64();
        report.fill(std::slice::from_ref(stored), tallies);
        report
    }

    /// Takes over what was stored of it, if it was.
    pub(super) fn fill(&mut self, stored: &[SourceManifest], tallies: &BTreeMap<SourceName, SourceTally>) {
        let Some(stored) = stored.iter().find(|stored| stored.name == self.name) else { return };
        self.problems.clone_from(&stored.problems);
        self.entries = stored.entries;
        self.size_bytes = stored.size_bytes;
        self.read_bytes = stored.read_bytes;
        self.added_bytes = stored.added_bytes;
        self.point = Some(stored.point.clone());
        self.tally = tallies.get(&self.name).cloned().unwrap_or_default();
    }

    /// Returns what was counted of it, by the words that people use for its kind.
    fn counts(&self) -> Vec<Count> {
        let mut counts = BTreeMap::from([("bytes", self.size_bytes), ("entries", self.entries)]);
        match self.kind {
            "s3" => drop(counts.insert("objects", self.tally.data_entries)),
            "files" => drop(counts.insert("files", self.tally.data_entries)),
            _ => counts.extend(self.tally.sums.iter().map(|(what, sum)| (what.as_str(), *sum))),
        }
        let about = self.name.to_string();
        if let Some(point) = &self.point {
            counts.insert(POINT, u64::try_from(point.at.timestamp()).unwrap_or_default());
        }
        counts
            .into_iter()
            .map(|(what, value)| Count { about: about.clone(), what: what.to_owned(), value })
            .collect()
    }
}

/// What a backup made.
#[derive(Debug)]
pub struct Report {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// Whether it is whole.
    pub status: Status,
    /// Whether only sources that a person named were to be in it.
    pub chosen: bool,
    /// Its sources.
    pub sources: Vec<SourceReport>,
    /// Bytes that it added to the store.
    pub added_bytes: u64,
    /// Packs that it added to the store.
    pub added_packs: u64,
    /// How long it took.
    pub seconds: f64,
    /// When it was begun.
    pub began: DateTime<Utc>,
    /// Snapshots in the repository, where it was counted.
    pub snapshots: Option<u64>,
    /// Bytes of the packs that are known there, where it was counted.
    pub stored_bytes: Option<u64>,
}

impl Report {
    /// Tells of a snapshot that was made.
    pub(super) fn of(committed: Committed, sources: Vec<SourceReport>, chosen: bool) -> Self {
        Self {
            snapshot: committed.id,
            status: committed.status,
            chosen,
            sources,
            added_bytes: committed.added_bytes,
            added_packs: committed.added_packs,
            seconds: 0.0,
            began: committed.began,
            snapshots: None,
            stored_bytes: None,
        }
    }

    /// Counts what the repository has now. Only figures: that one cannot be had must not spoil what exists.
    pub(super) fn count(&mut self, context: RunContext<'_>, opening: &Opening) {
        self.stored_bytes = opening.catalog.stored_bytes().ok();
        let before = context.ledger().and_then(|ledger| seen::place(&ledger, seen::REPOSITORY));
        self.snapshots = before.ok().and_then(|before| before.snapshots).map(|count| count + 1);
    }

    /// Counts what is gone from each source, if nothing else was left out.
    fn gone(&self) -> Vec<Count> {
        let is_gone =
            |one: &SourceReport| one.failure.is_none() && one.tally.gone == one.problems.len() as u64;
        if !self.sources.iter().all(is_gone) {
            return Vec::new();
        }
        let count = |one: &SourceReport| {
            let (about, what) = (one.name.to_string(), GONE.to_owned());
            (one.tally.gone > 0).then_some(Count { about, what, value: one.tally.gone })
        };
        self.sources.iter().filter_map(count).collect()
    }

    /// Returns the word for the snapshot that people and `--json` see.
    pub fn word(&self) -> &'static str {
        match self.status {
            Status::Complete if self.chosen => CHOSEN,
            status => status.word(),
        }
    }

    /// Returns how the process ends: a source that could not be read says why, a partial one says partial.
    pub fn exit(&self) -> ExitCode {
        let failed = self.sources.iter().find_map(|source| source.failure.as_ref());
        match (failed, self.status) {
            (Some(failure), _) => failure.exit(),
            (None, Status::Partial) => ExitCode::Partial,
            (None, Status::Complete) => ExitCode::Ok,
        }
    }
}

impl Remembered for Report {
    fn outcome(&self) -> Outcome {
        let failure = self.sources.iter().find_map(|source| source.failure.as_ref());
        let problem = self.sources.iter().find_map(|source| {
            let first = source.problems.first()?;
            Some(format!("`{}` lacks {}: {}", source.name, first.what, first.why))
        });
        let failed = failure.map(Outcome::failed).unwrap_or_default();
        let stored = self.sources.iter().filter(|source| source.failure.is_none());
        Outcome {
            exit: Some(self.exit()),
            snapshot: Some(self.snapshot.clone()),
            added_bytes: self.added_bytes,
            message: failed.message.or(problem),
            hint: failed.hint,
            counts: stored.flat_map(SourceReport::counts).chain(self.gone()).collect(),
            place: PlaceSeen {
                newest: Some(self.snapshot.clone()),
                newest_began: Some(self.began),
                logical_bytes: Some(self.sources.iter().map(|source| source.size_bytes).sum()),
                stored_bytes: self.stored_bytes,
                snapshots: self.snapshots,
                ..PlaceSeen::default()
            },
            is_frozen: false,
        }
    }
}

/// Makes a snapshot of `sources`.
pub async fn run(
    repository: &Repository<Append>,
    sources: Vec<Ready>,
    options: Options,
    ground: &Ground,
    monitor: &SharedMonitor,
    stop: &CancellationToken,
) -> Result<Report> {
    let began = Instant::now();
    let mut writer = repository.begin(ground.clone(), monitor.clone(), options.level).await?;
    let Some(mut reports) = read(repository, &mut writer, sources, monitor, stop).await? else {
        writer.abandon().await?;
        return Err(stopped());
    };
    let mut failed: Vec<Problem> = Vec::new();
    for report in &reports {
        if let Some(failure) = &report.failure {
            failed.push(Problem { what: report.name.to_string(), why: failure.one_line() });
        }
    }
    if failed.len() == reports.len() {
        return Err(first_failure(reports));
    }
    let chosen = options.label.chosen;
    let committed = writer.commit(options.label, failed).await?;
    if options.whole_stack && committed.status == Status::Complete {
        repository.retire(&committed.thin)?;
    }
    for report in &mut reports {
        report.fill(&committed.sources, &committed.tallies);
    }
    let mut report = Report::of(committed, reports, chosen);
    report.seconds = began.elapsed().as_secs_f64();
    Ok(report)
}

/// Reads sources into a snapshot, one after the other; `None` when it was asked to stop.
pub(super) async fn read(
    repository: &Repository<Append>,
    writer: &mut SnapshotWriter<'_>,
    sources: Vec<Ready>,
    monitor: &SharedMonitor,
    stop: &CancellationToken,
) -> Result<Option<Vec<SourceReport>>> {
    let mut reports = Vec::new();
    for ready in sources {
        let taken = stop.run_until_cancelled(take(repository, writer, ready, monitor)).await;
        let Some(taken) = taken else { return Ok(None) };
        reports.push(taken?);
    }
    Ok(Some(reports))
}

/// Returns why nothing at all could be read.
pub(super) fn first_failure(reports: Vec<SourceReport>) -> Failure {
    let first = reports.into_iter().find_map(|report| report.failure);
    first.unwrap_or_else(|| Failure::new(ExitCode::Usage, "there is nothing to back up"))
}

/// Returns how a process ends that read these: a source that could not be read says why.
pub(super) fn exit_of(sources: &[SourceReport]) -> ExitCode {
    let failed = sources.iter().find_map(|source| source.failure.as_ref());
    let is_partial = sources.iter().any(|source| !source.problems.is_empty());
    match failed {
        Some(failure) => failure.exit(),
        None if is_partial => ExitCode::Partial,
        None => ExitCode::Ok,
    }
}

/// Reads one source into the snapshot. Trouble of the store ends the backup; trouble of the source is noted.
async fn take(
    repository: &Repository<Append>,
    writer: &mut SnapshotWriter<'_>,
    ready: Ready,
    monitor: &SharedMonitor,
) -> Result<SourceReport> {
    let began = Instant::now();
    let Ready { name, kind, source, before } = ready;
    monitor.event(Event::SourceBegan { source: name.clone(), verb: "backup", size_bytes_expected: None });
    let taken = match source {
        Ok(source) => {
            copy(repository, writer, source, kind, &name, before).await.map_err(|error| error.about(&name))
        }
        Err(failure) => Err(failure),
    };
    monitor.event(Event::SourceEnded { source: name.clone() });
    let failure = match taken {
        Ok(()) => None,
        Err(failure) if matches!(failure.exit(), ExitCode::StoreDown | ExitCode::Damage) => {
            return Err(failure);
        }
        Err(failure) => {
            monitor.warn(Some(&name), failure.one_line(), failure.first_hint());
            Some(failure)
        }
    };
    let seconds = began.elapsed().as_secs_f64();
    Ok(SourceReport { seconds, ..SourceReport::new(name, kind, failure) })
}

async fn copy(
    repository: &Repository<Append>,
    writer: &mut SnapshotWriter<'_>,
    source: Box<dyn Source>,
    kind: &str,
    name: &SourceName,
    before: Before,
) -> FlowResult<()> {
    let previous = match before {
        Before::Newest => repository.previous(name).await?,
        Before::Snapshot(id) => Some(repository.previous_in(name, &id).await?),
        Before::Nothing => None,
    };
    let (sink, stream) = channel(STREAM_DEPTH);
    let (read, written) = tokio::join!(source.read(sink, previous), writer.write_source(name, kind, stream));
    settle(read, written).map(drop)
}

/// Returns this host's name, for the manifest.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_gone_is_counted_where_nothing_else_was_left_out() {
        let source = |name: &str, gone, problems: &[&str]| SourceReport {
            problems: problems.iter().map(|why| Problem { what: "b".into(), why: (*why).into() }).collect(),
            tally: SourceTally { gone, ..SourceTally::default() },
            ..SourceReport::new(SourceName::new(name).unwrap(), "s3", None)
        };
        let counted = |sources: Vec<SourceReport>| {
            let report = Report {
                snapshot: SnapshotId::at(DateTime::UNIX_EPOCH, 1),
                status: Status::Partial,
                chosen: false,
                sources,
                added_bytes: 0,
                added_packs: 0,
                seconds: 0.0,
                began: DateTime::UNIX_EPOCH,
                snapshots: None,
                stored_bytes: None,
            };
            let counts = report.outcome().counts.into_iter().filter(|count| count.what == GONE);
            counts.map(|count| (count.about, count.value)).collect::<Vec<_>>()
        };
        assert_eq!(counted(vec![source("a", 1, &["empty"]), source("b", 0, &[])]), [("a".to_owned(), 1)]);
        assert_eq!(counted(vec![source("a", 1, &["empty", "refused"])]), []);
        assert_eq!(counted(vec![source("a", 1, &["empty"]), source("b", 0, &["refused"])]), []);
    }
}
