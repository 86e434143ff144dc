//! `lifeboat restore`.

use std::io::Write;

use clap::Args;
use serde_json::{Value, json};

use super::{json, say, session::Session};
use crate::{
    error::{ExitCode, Failure, Result},
    flow::Selection,
    jobs::{
        registry::{self, Into},
        restore::{Plan, Restored, Wanted, execute, plan},
    },
    names::{ByteCount, SourceName},
    policy::Stack,
    repo::Snapshot,
};

/// Restore a snapshot: shows the plan, asks for the stack's name, restores, verifies.
#[derive(Debug, Args)]
pub struct Restore {
    /// latest, a snapshot id, 20251011-150000, RFC 3339, or "2 hours ago"
    #[arg(required_unless_present = "at")]
    when: Option<String>,
    /// Only this source; may be repeated
    #[arg(long, value_name = "SOURCE")]
    source: Vec<String>,
    /// Only what fits: db, db.table, bucket/key, a path; globs; may be repeated
    #[arg(long, value_name = "PATTERN")]
    only: Vec<String>,
    /// Somewhere else: SOURCE=URL (without password) or SOURCE=/absolute/folder; may be repeated
    #[arg(long, value_name = "SOURCE=WHERE")]
    into: Vec<String>,
    /// To any second (needs the journal)
    #[arg(long, value_name = "TIME", conflicts_with = "when")]
    at: Option<String>,
    /// Show what would be done, and stop
    #[arg(long)]
    plan: bool,
    /// Remove what is in the way first
    #[arg(long)]
    replace: bool,
    /// Do not ask; the stack's name says that you know which one
    #[arg(long, value_name = "STACK")]
    yes: Option<String>,
}

pub(super) async fn run(args: Restore, session: &Session) -> Result<ExitCode> {
    let Some(when) = &args.when else {
        return Err(Failure::new(
            ExitCode::Usage,
            "restoring to any second needs the journal, which is not there yet",
        )
        .hint("Restore the newest snapshot before that second: `lifeboat restore 20251011-145959`."));
    };
    let stack = session.stack()?;
    let wanted = wanted(&args, &stack, session)?;
    let repository = session.read(&stack).await?;
    let snapshot = repository.snapshot(&session.pick(&stack, &repository, when).await?).await?;
    let wanted = targets(wanted, &args, &stack, &snapshot, session)?;
    let plan = plan(&snapshot, wanted).await?;
    if args.plan {
        if session.json {
            json::print(&json::document("restore", json!({ "plan": facts(&plan) })));
        } else {
            show(&plan);
        }
        return Ok(ExitCode::Ok);
    }
    plan.check()?;
    if !session.json {
        show(&plan);
    }
    confirm(&args, &stack.name)?;
    let restored = execute(&snapshot, plan, &session.monitor()).await?;
    if session.json {
        let restored: Vec<Value> = restored.iter().map(restored_facts).collect();
        let facts = json!({ "snapshot": snapshot.refs.snapshot, "restored": restored });
        json::print(&json::document("restore", facts));
    } else {
        show_restored(&restored);
    }
    Ok(ExitCode::Ok)
}

/// What the command line asks for, checked before anything is opened.
struct Asked {
    names: Vec<SourceName>,
    into: Vec<(SourceName, Into)>,
    only: Selection,
}

fn wanted(args: &Restore, stack: &Stack, _session: &Session) -> Result<Asked> {
    let known = |name: &str| {
        stack.source(name).map(|source| source.name.clone()).ok_or_else(|| {
            let names: Vec<&str> = stack.sources.iter().map(|source| source.name.as_str()).collect();
            Failure::new(ExitCode::Usage, format!("the policy has no source `{name}`"))
                .hint(format!("It has: {}.", names.join(", ")))
        })
    };
    let names = args.source.iter().map(|name| known(name)).collect::<Result<Vec<_>>>()?;
    let split = |text: &String| {
        let (name, place) = text.split_once('=').ok_or_else(|| {
            Failure::new(ExitCode::Usage, format!("`--into {text}` has no `=`"))
                .hint("Write --into SOURCE=URL or --into SOURCE=/absolute/folder.")
        })?;
        Ok((known(name)?, Into::parse(place)?))
    };
    let into = args.into.iter().map(split).collect::<Result<Vec<_>>>()?;
    Ok(Asked { names, into, only: Selection::new(&args.only)? })
}

/// Makes the targets: of the sources asked for, or of all that the snapshot has.
fn targets(
    asked: Asked,
    args: &Restore,
    stack: &Stack,
    snapshot: &Snapshot,
    session: &Session,
) -> Result<Wanted> {
    let names: Vec<SourceName> = if asked.names.is_empty() {
        snapshot.manifest.sources.iter().map(|source| source.name.clone()).collect()
    } else {
        asked.names
    };
    let mut targets = Vec::new();
    for name in names {
        let config = stack.source(name.as_str()).ok_or_else(|| {
            Failure::new(ExitCode::Usage, format!("the snapshot has `{name}`, the policy has no such source"))
                .hint("Add the source to the policy, or pick others with --source.")
        })?;
        let into = asked.into.iter().find(|(source, _)| *source == name).map(|(_, into)| into);
        targets.push((name, registry::target(config, into, &session.ground, &session.monitor())?));
    }
    Ok(Wanted { targets, only: asked.only, replace: args.replace })
}

/// Asks for the stack's name, unless it was given.
fn confirm(args: &Restore, stack: &str) -> Result<()> {
    let typed = match &args.yes {
        Some(typed) => typed.clone(),
        None => {
            eprint!("Type the stack's name to go on: ");
            // A terminal that does not flush shows the question late, no more.
            let _ = std::io::stderr().flush();
            let mut line = String::new();
            std::io::stdin().read_line(&mut line).unwrap_or_default();
            line.trim().to_owned()
        }
    };
    if typed == stack {
        return Ok(());
    }
    Err(Failure::new(ExitCode::Usage, format!("`{typed}` is not the stack's name; nothing was touched"))
        .hint(format!("The policy's stack is `{stack}`.")))
}

fn facts(plan: &Plan) -> Value {
    let sources = plan.sources.iter().map(|source| {
        json!({
            "source": source.source,
            "kind": source.kind,
            "point": source.point,
            "entries": source.entries,
            "bytes": source.size_bytes,
            "into": source.place,
            "version": source.state.version,
            "in_the_way": source.state.in_the_way,
        })
    });
    json!({
        "stack": plan.stack,
        "snapshot": plan.snapshot,
        "replace": plan.replace,
        "only": plan.only.patterns(),
        "sources": sources.collect::<Vec<_>>(),
    })
}

fn show(plan: &Plan) {
    say(&format!("Restore of stack {} to snapshot {}", plan.stack, plan.snapshot));
    let mut table = super::screen::table(&["source", "as of", "entries", "size", "into", "in the way"]);
    for source in &plan.sources {
        let in_the_way = match (&source.state.in_the_way[..], plan.replace) {
            ([], _) => "nothing".to_owned(),
            (lines, false) => lines.join("\n"),
            (lines, true) => {
                lines.iter().map(|line| format!("{line}: WILL BE REMOVED")).collect::<Vec<_>>().join("\n")
            }
        };
        table.add_row([
            source.source.to_string(),
            source.point.at.format("%Y-%m-%d %H:%M:%S UTC").to_string(),
            source.entries.to_string(),
            ByteCount(source.size_bytes).to_string(),
            format!("{}\n{}", source.place, source.state.version),
            in_the_way,
        ]);
    }
    say(&table.to_string());
}

fn restored_facts(restored: &Restored) -> Value {
    json!({
        "source": restored.source,
        "entries": restored.tally.entries,
        "bytes": restored.tally.bytes,
        "seconds": restored.seconds,
        "verified": restored.tally.verified,
        "notes": restored.tally.notes,
    })
}

fn show_restored(all: &[Restored]) {
    let mut table = super::screen::table(&["source", "entries", "size", "seconds", "verified"]);
    for restored in all {
        table.add_row([
            restored.source.to_string(),
            restored.tally.entries.to_string(),
            ByteCount(restored.tally.bytes).to_string(),
            format!("{:.1}", restored.seconds),
            if restored.tally.verified { "yes" } else { "no" }.to_owned(),
        ]);
    }
    say(&table.to_string());
    for restored in all {
        for note in &restored.tally.notes {
            say(&format!("{}: {note}", restored.source));
        }
    }
}
