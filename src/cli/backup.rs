//! `lifeboat backup`.

use clap::Args;
use serde_json::{Value, json};

use super::{
    json, say,
    session::{Session, known},
};
use crate::{
    error::{ExitCode, Failure, Result},
    jobs::{
        backup::{Options, Ready, Report, SourceReport, host_name, run as back_up},
        open::{Opening, RunLock},
        registry,
    },
    names::{ByteCount, SnapshotId},
    policy::Stack,
    repo::Label,
};

/// Make a snapshot now.
#[derive(Debug, Args)]
pub struct Backup {
    /// Sources to take [default: all]
    sources: Vec<String>,
    /// A word to find the snapshot by
    #[arg(long)]
    tag: Option<String>,
    /// Keep the snapshot for ever, for this reason
    #[arg(long, value_name = "REASON")]
    pin: Option<String>,
}

pub(super) async fn run(args: Backup, session: &Session) -> Result<ExitCode> {
    let stack = session.stack()?;
    let monitor = session.monitor();
    let sources = ready(&stack, &args.sources, session)?;
    let _lock = RunLock::take(&stack)?;
    let opening = Opening::new(&stack, &monitor)?;
    let repository = opening.append(&stack, &monitor).await?;
    let label = Label { stack: stack.name.clone(), host: host_name(), tag: args.tag, pin: args.pin };
    let whole_stack = args.sources.is_empty();
    let options = Options { label, level: stack.repository.settings.compression_level, whole_stack };
    let run = opening.catalog.begin_run("backup", session.ground.clock.now());
    let ended = back_up(&repository, sources, options, &session.ground, &monitor).await;
    let noted = run.and_then(|run| opening.catalog.end_run(run, &end_of(&ended, session)));
    if let Err(failure) = noted {
        // The snapshot is what counts, not the note about it.
        monitor.warn(None, failure.chain().join(": "), failure.hints().first().map(String::as_str));
    }
    let report = ended?;
    if session.json {
        json::print(&json::document("backup", facts(&report)));
    } else if !(session.quiet && report.exit() == ExitCode::Ok) {
        show(&report);
    }
    Ok(report.exit())
}

/// Returns the sources that were asked for, in the order in which they are read.
fn ready(stack: &Stack, wanted: &[String], session: &Session) -> Result<Vec<Ready>> {
    for name in wanted {
        known(stack, name)?;
    }
    let asked = |name: &str| wanted.is_empty() || wanted.iter().any(|one| one == name);
    let all = stack.sources_in_order().into_iter().filter(|source| asked(source.name.as_str()));
    Ok(all.map(|source| registry::source(source, &session.ground, &session.monitor())).collect())
}

/// Returns what the catalog remembers of the run.
fn end_of(ended: &Result<Report>, session: &Session) -> crate::catalog::RunEnd {
    let now = session.ground.clock.now();
    let snapshot = |report: &Report| -> Option<SnapshotId> { Some(report.snapshot.clone()) };
    match ended {
        Ok(report) => crate::catalog::RunEnd {
            ended: now,
            exit: report.exit().number(),
            snapshot: snapshot(report),
            added_bytes: report.added_bytes,
            message: report
                .sources
                .iter()
                .find_map(|source| Some(source.failure.as_ref()?.chain().join(": "))),
        },
        Err(failure) => crate::catalog::RunEnd {
            ended: now,
            exit: failure.exit().number(),
            snapshot: None,
            added_bytes: 0,
            message: Some(failure.chain().join(": ")),
        },
    }
}

fn facts(report: &Report) -> Value {
    let source = |source: &SourceReport| {
        json!({
            "name": source.name,
            "status": word(source),
            "entries": source.entries,
            "bytes": source.size_bytes,
            "bytes_read": source.read_bytes,
            "bytes_added": source.added_bytes,
            "seconds": source.seconds,
            "point": source.point,
            "problems": source.problems,
            "error": source.failure.as_ref().map(Failure::chain),
            "hints": source.failure.as_ref().map(Failure::hints),
        })
    };
    json!({
        "snapshot": report.snapshot,
        "status": report.status.word(),
        "sources": report.sources.iter().map(source).collect::<Vec<_>>(),
        "bytes_added": report.added_bytes,
        "packs_added": report.added_packs,
        "seconds": report.seconds,
    })
}

fn word(source: &SourceReport) -> &'static str {
    match (&source.failure, source.problems.is_empty()) {
        (Some(_), _) => "failed",
        (None, false) => "partial",
        (None, true) => "complete",
    }
}

fn show(report: &Report) {
    let mut table = super::screen::table(&["source", "status", "entries", "size", "read", "new", "seconds"]);
    for source in &report.sources {
        table.add_row([
            source.name.to_string(),
            word(source).to_owned(),
            source.entries.to_string(),
            ByteCount(source.size_bytes).to_string(),
            ByteCount(source.read_bytes).to_string(),
            ByteCount(source.added_bytes).to_string(),
            format!("{:.1}", source.seconds),
        ]);
    }
    say(&table.to_string());
    for source in &report.sources {
        for problem in &source.problems {
            say(&format!("left out: {} {}: {}", source.name, problem.what, problem.why));
        }
    }
    let (id, status, seconds) = (&report.snapshot, report.status.word(), report.seconds);
    let added = ByteCount(report.added_bytes);
    say(&format!("snapshot {id} is {status}: {added} added in {} packs, {seconds:.1} s", report.added_packs));
}
