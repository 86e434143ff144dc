//! `lifeboat backup`.

use clap::Args;
use serde_json::{Value, json};

use super::{json, say, session::Session};
use crate::{
    error::{ExitCode, Failure, Result},
    jobs::backup::{self, Report, Shard, SourceReport, Wanted},
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
    let wanted = Wanted { sources: args.sources, shard: args.shard, tag: args.tag, pin: args.pin };
    let report = backup::of_stack(session.context(&stack, &monitor), wanted).await?;
    if session.json {
        json::print(&json::document("backup", facts(&report)));
    } else if !(session.quiet && report.exit() == ExitCode::Ok) {
        show(&report);
    }
    Ok(report.exit())
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
