//! `lifeboat backup`.

use clap::Args;
use serde_json::{Value, json};

use super::{
    instant, json, say,
    session::Session,
    sync::{done, failed, line},
};
use crate::{
    error::{ExitCode, Failure, Result},
    jobs::{
        backup::{self, Report, Shard, SourceReport, Wanted},
        sync::{Copies, after_backup},
    },
    names::ByteCount,
};

/// Make a snapshot now.
#[derive(Debug, Args)]
pub struct Backup {
    /// Sources to take [default: all]
    sources: Vec<String>,
    /// Take the sources whose place in the policy, from 0, leaves I when divided by N (docs/deploy.md)
    #[arg(long, value_name = "I/N", conflicts_with = "sources")]
    shard: Option<Shard>,
    /// Take what buckets of these sources hold now, whatever they have lost since the snapshot before
    #[arg(long, requires = "sources")]
    accept_shrink: bool,
    /// A word to find the snapshot by
    #[arg(long)]
    tag: Option<String>,
    /// Keep the snapshot for ever, for this reason
    #[arg(long, value_name = "REASON")]
    pin: Option<String>,
    /// Leave out the copies that offsites with `after_backup` are to have at once
    #[arg(long)]
    no_sync: bool,
}

pub(super) async fn run(args: Backup, session: &Session) -> Result<ExitCode> {
    let stack = session.stack()?;
    let monitor = session.monitor();
    let Backup { sources, shard, accept_shrink, tag, pin, no_sync } = args;
    let wanted = Wanted { sources, shard, accept_shrink, tag, pin };
    let report = backup::of_stack(session.context(&stack, &monitor), wanted).await?;
    // Before the copies are made: what is stored is stored, whatever becomes of them.
    let is_silent = session.json || session.quiet && report.exit() == ExitCode::Ok;
    if !is_silent {
        show(&report);
    }
    let copies =
        if no_sync { Copies::default() } else { after_backup(session.context(&stack, &monitor)).await };
    if session.json {
        json::print(&json::document("backup", facts(&report, &copies)));
    } else {
        show_copies(&report, &copies, session);
    }
    for (_, failure) in &copies.failed {
        session.screen.failure(failure);
    }
    Ok(exit_of(&report, &copies))
}

/// A copy that failed takes no snapshot back; what is wrong with the snapshot itself outweighs it.
fn exit_of(report: &Report, copies: &Copies) -> ExitCode {
    match (report.exit(), copies.exit()) {
        (ExitCode::Ok, ExitCode::Ok) => ExitCode::Ok,
        (ExitCode::Ok, _) => ExitCode::Partial,
        (exit, _) => exit,
    }
}

/// Tells what became of the copies, and names those that lack the new snapshot.
fn show_copies(report: &Report, copies: &Copies, session: &Session) {
    let (id, status) = (&report.snapshot, report.word());
    for one in &copies.done {
        session.report(&line(one));
    }
    let lacks = copies.done.iter().filter(|one| !one.copy.copied.contains(id)).map(|one| one.name.as_str());
    let failed = copies.failed.iter().map(|(name, _)| name.as_str());
    for name in lacks.chain(failed) {
        say(&format!("snapshot {id} is {status} in the repository; its copy in {name} is not"));
    }
}

fn facts(report: &Report, copies: &Copies) -> Value {
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
        "status": report.word(),
        "sources": report.sources.iter().map(source).collect::<Vec<_>>(),
        "bytes_added": report.added_bytes,
        "packs_added": report.added_packs,
        "seconds": report.seconds,
        "offsites": done(copies),
        "failed": failed(copies),
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
        if let Some(point) = &source.point {
            let lines = [instant::lock(&source.name, point), instant::beside(&source.name, point)];
            lines.iter().flatten().for_each(|line| say(line));
        }
    }
    for source in &report.sources {
        for problem in &source.problems {
            say(&format!("left out: {} {}: {}", source.name, problem.what, problem.why));
        }
    }
    let (id, status, seconds) = (&report.snapshot, report.word(), report.seconds);
    let added = ByteCount(report.added_bytes);
    say(&format!("snapshot {id} is {status}: {added} added in {} packs, {seconds:.1} s", report.added_packs));
}
