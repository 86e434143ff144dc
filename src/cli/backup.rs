//! `lifeboat backup`.

use std::time::Duration;

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
        backup::{self, Report, SourceReport, Wanted},
        shard::{self, Made, PartReport, Shard},
        sync::{Copies, after_backup},
    },
    names::{ByteCount, RunName},
    repo::format::Status,
};

/// Make a snapshot now.
#[derive(Debug, Args)]
pub struct Backup {
    /// Sources to take [default: all]
    sources: Vec<String>,
    /// Make part I, from 0, of one snapshot that N processes make together; needs --run (docs/deploy.md)
    #[arg(long, value_name = "I/N", requires = "run", conflicts_with = "sources")]
    shard: Option<Shard>,
    /// The snapshot that they make: a new name for each, the same for all N, such as "$(date +%F)". Part 0 commits it
    #[arg(long, value_name = "NAME", requires = "shard")]
    run: Option<RunName>,
    /// How long part 0 waits for the others
    #[arg(long, value_name = "MINUTES", requires = "run", default_value_t = 60)]
    wait: u32,
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
    let Backup { sources, shard, run, wait, accept_shrink, tag, pin, no_sync } = args;
    let context = session.context(&stack, &monitor);
    let report = if let (Some(shard), Some(run)) = (shard, run) {
        let wait = Duration::from_secs(u64::from(wait) * 60);
        let wanted = shard::Wanted { shard, run: run.clone(), wait, tag, pin };
        match shard::of_stack(context, wanted).await? {
            Made::Whole(report) => *report,
            made => return Ok(tell(&made, &run, session)),
        }
    } else {
        backup::of_stack(context, Wanted { sources, accept_shrink, tag, pin }).await?
    };
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

/// Tells of what is no new snapshot.
fn tell(made: &Made, run: &RunName, session: &Session) -> ExitCode {
    let exit = made.exit();
    let (facts, line) = match made {
        Made::Part(part) => part_facts(part),
        Made::Before(id, status) => {
            let is_whole = *status == Status::Complete;
            let facts = json!({ "snapshot": id, "status": "before", "complete": is_whole, "run": run, "sources": [] });
            let which = if is_whole { "snapshot" } else { "partial snapshot" };
            (facts, format!("run {run} became {which} {id} before: nothing was read"))
        }
        Made::Whole(_) => unreachable!("a snapshot is told of elsewhere"),
    };
    if session.json {
        json::print(&json::document("backup", facts));
    } else if !session.quiet || exit != ExitCode::Ok {
        if let Made::Part(part) = made {
            show_sources(&part.sources);
        }
        say(&line);
    }
    exit
}

/// Returns what `--json` says of a part, and the line that people see.
fn part_facts(part: &PartReport) -> (Value, String) {
    let PartReport { run, shard, was_there, sources, added_bytes, added_packs } = part;
    let facts = json!({
        "snapshot": null,
        "status": "part",
        "run": run,
        "shard": shard.to_string(),
        "was_there": was_there,
        "sources": sources.iter().map(source_facts).collect::<Vec<_>>(),
        "bytes_added": added_bytes,
        "packs_added": added_packs,
    });
    let added = ByteCount(*added_bytes);
    let line = if *was_there {
        format!("part {shard} of run {run} is stored already: nothing was read")
    } else {
        format!(
            "part {shard} of run {run} is stored: {added} added in {added_packs} packs; part 0 makes the snapshot"
        )
    };
    (facts, line)
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
    json!({
        "snapshot": report.snapshot,
        "status": report.word(),
        "sources": report.sources.iter().map(source_facts).collect::<Vec<_>>(),
        "bytes_added": report.added_bytes,
        "packs_added": report.added_packs,
        "seconds": report.seconds,
        "offsites": done(copies),
        "failed": failed(copies),
    })
}

fn source_facts(source: &SourceReport) -> Value {
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
}

fn word(source: &SourceReport) -> &'static str {
    match (&source.failure, source.problems.is_empty()) {
        (Some(_), _) => "failed",
        (None, false) => "partial",
        (None, true) => "complete",
    }
}

fn show(report: &Report) {
    show_sources(&report.sources);
    let (id, status, seconds) = (&report.snapshot, report.word(), report.seconds);
    let added = ByteCount(report.added_bytes);
    say(&format!("snapshot {id} is {status}: {added} added in {} packs, {seconds:.1} s", report.added_packs));
}

fn show_sources(sources: &[SourceReport]) {
    let mut table = super::screen::table(&["source", "status", "entries", "size", "read", "new", "seconds"]);
    for source in sources {
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
    for source in sources {
        if let Some(point) = &source.point {
            let lines = [
                instant::lock(&source.name, point),
                instant::beside(&source.name, point),
                instant::unknown(&source.name, point),
            ];
            lines.iter().flatten().for_each(|line| say(line));
        }
    }
    for source in sources {
        for problem in &source.problems {
            say(&format!("left out: {} {}: {}", source.name, problem.what, problem.why));
        }
    }
}
