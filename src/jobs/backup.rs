//! A backup: every source of a stack into one snapshot.
//!
//! *Order.* MySQL's point first, then Redis, then the object listing, then files: every object that a row
//! names was there to be listed. Each source is read whole before the next one begins; the signature is last.
//!
//! *Crash.* Whatever is killed here leaves older snapshots as they were and nothing that has to be unlocked.
//!
//! *Retries.* None here: a source that fails is noted, the others are still taken, and the snapshot is partial.

use std::time::Instant;

use crate::{
    clock::Ground,
    error::{ExitCode, Failure, Result},
    event::{Event, SharedMonitor},
    flow::{FlowResult, Point, Problem, STREAM_DEPTH, Source, channel, settle},
    names::{SnapshotId, SourceName},
    repo::{Append, Label, Repository, SnapshotWriter, format::Status},
};

/// A source that is ready to be read.
pub struct Ready {
    /// Its name.
    pub name: SourceName,
    /// Its engine.
    pub kind: &'static str,
    /// The source, or why it cannot be read.
    pub source: Result<Box<dyn Source>>,
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
}

/// What a backup made.
#[derive(Debug)]
pub struct Report {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// Whether it is whole.
    pub status: Status,
    /// Its sources.
    pub sources: Vec<SourceReport>,
    /// Bytes that it added to the store.
    pub added_bytes: u64,
    /// Packs that it added to the store.
    pub added_packs: u64,
    /// How long it took.
    pub seconds: f64,
}

impl Report {
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

/// Makes a snapshot of `sources`.
pub async fn run(
    repository: &Repository<Append>,
    sources: Vec<Ready>,
    options: Options,
    ground: &Ground,
    monitor: &SharedMonitor,
) -> Result<Report> {
    let began = Instant::now();
    let mut writer = repository.begin(ground.clone(), monitor.clone(), options.level).await?;
    let mut reports = Vec::new();
    for ready in sources {
        reports.push(take(repository, &mut writer, ready, monitor).await?);
    }
    let mut failed: Vec<Problem> = Vec::new();
    for report in &reports {
        if let Some(failure) = &report.failure {
            failed.push(Problem { what: report.name.to_string(), why: failure.chain().join(": ") });
        }
    }
    if failed.len() == reports.len() {
        let first = reports.into_iter().find_map(|report| report.failure);
        return Err(first.unwrap_or_else(|| Failure::new(ExitCode::Usage, "there is nothing to back up")));
    }
    let committed = writer.commit(options.label, failed).await?;
    if options.whole_stack && committed.status == Status::Complete {
        repository.retire(&committed.thin)?;
    }
    for report in &mut reports {
        if let Some(stored) = committed.sources.iter().find(|stored| stored.name == report.name) {
            report.problems.clone_from(&stored.problems);
            report.entries = stored.entries;
            report.size_bytes = stored.size_bytes;
            report.read_bytes = stored.read_bytes;
            report.added_bytes = stored.added_bytes;
            report.point = Some(stored.point.clone());
        }
    }
    Ok(Report {
        snapshot: committed.id,
        status: committed.status,
        sources: reports,
        added_bytes: committed.added_bytes,
        added_packs: committed.added_packs,
        seconds: began.elapsed().as_secs_f64(),
    })
}

/// Reads one source into the snapshot. Trouble of the store ends the backup; trouble of the source is noted.
async fn take(
    repository: &Repository<Append>,
    writer: &mut SnapshotWriter<'_>,
    ready: Ready,
    monitor: &SharedMonitor,
) -> Result<SourceReport> {
    let began = Instant::now();
    let Ready { name, kind, source } = ready;
    monitor.event(Event::SourceBegan { source: name.clone(), verb: "backup", size_bytes_expected: None });
    let taken = match source {
        Ok(source) => copy(repository, writer, source, kind, &name).await.map_err(|error| error.about(&name)),
        Err(failure) => Err(failure),
    };
    monitor.event(Event::SourceEnded { source: name.clone() });
    let failure = match taken {
        Ok(()) => None,
        Err(failure) if matches!(failure.exit(), ExitCode::StoreDown | ExitCode::Damage) => {
            return Err(failure);
        }
        Err(failure) => {
            monitor.warn(
                Some(&name),
                failure.chain().join(": "),
                failure.hints().first().map(String::as_str),
            );
            Some(failure)
        }
    };
    Ok(SourceReport {
        name,
        failure,
        problems: Vec::new(),
        entries: 0,
        size_bytes: 0,
        read_bytes: 0,
        added_bytes: 0,
        seconds: began.elapsed().as_secs_f64(),
        point: None,
    })
}

async fn copy(
    repository: &Repository<Append>,
    writer: &mut SnapshotWriter<'_>,
    source: Box<dyn Source>,
    kind: &str,
    name: &SourceName,
) -> FlowResult<()> {
    let previous = repository.previous(name).await?;
    let (sink, stream) = channel(STREAM_DEPTH);
    let (read, written) = tokio::join!(source.read(sink, previous), writer.write_source(name, kind, stream));
    settle(read, written).map(drop)
}

/// Returns this host's name, for the manifest.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
