//! `lifeboat prune`.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use clap::Args;
use serde_json::{Value, json};

use super::{json, say, screen::table, session::Session};
use crate::{
    error::{ExitCode, Failure, Result},
    jobs::{
        open::Opening,
        prune::{self, Planned, Pruned, TRASH_STAYS},
    },
    names::{ByteCount, SnapshotId},
    policy::Stack,
    repo::{PackLine, PackState, PruneReport},
    store::Trash,
};

/// Forget what no rule keeps, and remove what nobody needs.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub struct Prune {
    /// Show what would be done, and why [default]
    #[arg(long)]
    plan: bool,
    /// Do it
    #[arg(long, conflicts_with = "plan")]
    apply: bool,
    /// Prune this offsite instead of the repository
    #[arg(long, value_name = "NAME")]
    offsite: Option<String>,
    /// Forget this snapshot too, whatever the rules say; may be repeated
    #[arg(long, value_name = "SNAPSHOT")]
    forget: Vec<String>,
    /// Remove as many snapshots as the plan says, though that is unusual
    #[arg(long, value_name = "COUNT", requires = "apply")]
    accept: Option<usize>,
    /// Show every pack: what becomes of it, when, and which snapshot keeps it
    #[arg(long)]
    packs: bool,
    /// Free the space of what was deleted and lies in the trash, at once
    #[arg(long, requires = "apply")]
    empty_trash: bool,
    /// End the sweep of a generation whose run is known to be dead
    #[arg(long, value_name = "GENERATION", conflicts_with_all = ["plan", "apply"])]
    close: Option<u64>,
    /// Take note, with a reason, that snapshots are gone which nobody has forgotten
    #[arg(long, value_name = "REASON", conflicts_with_all = ["plan", "apply", "close"])]
    accept_loss: Option<String>,
}

pub(super) async fn run(args: Prune, session: &Session) -> Result<ExitCode> {
    let stack = session.repository_of_stack()?;
    let monitor = session.monitor();
    let opening = Opening::named(&stack, args.offsite.as_deref(), &monitor)?;
    let repository = opening.maintain(&stack, &monitor).await?;
    if let Some(generation) = args.close {
        repository.close(generation, &session.ground).await?;
        done(session, &format!("generation {generation} is closed"), json!({ "closed": generation }));
        return Ok(ExitCode::Ok);
    }
    if let Some(reason) = &args.accept_loss {
        let count = repository.accept_loss(reason, &session.ground).await?;
        let text = format!("{count} commits are known to be gone: {reason}");
        done(session, &text, json!({ "accepted_losses": count }));
        return Ok(ExitCode::Ok);
    }
    let forget = forget(&args)?;
    if !args.apply {
        let asked = prune::asked(&stack, args.offsite.as_deref(), forget)?;
        let planned = prune::plan(&repository, &asked, &session.ground, &monitor).await?;
        show_plan(&args, session, &stack, &planned, &opening.trash().await?);
        return Ok(ExitCode::Ok);
    }
    drop((repository, opening));
    let wanted =
        prune::Wanted { offsite: args.offsite, forget, accepted: args.accept, empty_trash: args.empty_trash };
    let pruned = prune::of_stack(session.context(&stack, &monitor), wanted).await?;
    let Pruned { planned, report, freed_bytes, trash } = pruned;
    if session.json {
        let facts = json!({
            "keep": facts_of_kept(&planned),
            "remove": planned.decided.remove,
            "packs": facts_of_packs(&planned),
            "done": facts_of_report(&report),
            "freed_bytes": freed_bytes,
            "trash": { "objects": trash.objects, "bytes": trash.size_bytes },
        });
        json::print(&json::document("prune", facts));
        return Ok(ExitCode::Ok);
    }
    for line in report_lines(&report, freed_bytes) {
        session.report(&line);
    }
    if trash.objects > 0 {
        session.report(&format!(
            "{} in {} objects lie in the trash for {} days; --empty-trash frees them at once",
            ByteCount(trash.size_bytes),
            trash.objects,
            TRASH_STAYS.num_days()
        ));
    }
    Ok(ExitCode::Ok)
}

fn done(session: &Session, text: &str, facts: Value) {
    if session.json {
        json::print(&json::document("prune", facts));
    } else {
        session.report(text);
    }
}

fn forget(args: &Prune) -> Result<BTreeSet<SnapshotId>> {
    let parse = |text: &String| {
        SnapshotId::new(text).map_err(|error| {
            Failure::new(ExitCode::Usage, error.to_string()).hint("`lifeboat snapshots` lists them.")
        })
    };
    args.forget.iter().map(parse).collect()
}

fn show_plan(args: &Prune, session: &Session, stack: &Stack, planned: &Planned, trash: &Trash) {
    if session.json {
        let mut facts = json!({
            "keep": facts_of_kept(planned),
            "remove": planned.decided.remove,
            "packs": facts_of_packs(planned),
            "guards": planned.decided.guards,
            "generation": planned.plan.generation(),
            "sweep": planned.plan.sweep,
            "open": planned.plan.open,
            "trash": { "objects": trash.objects, "bytes": trash.size_bytes, "goes": goes_from_trash(trash) },
        });
        if args.packs {
            facts["every_pack"] = planned.plan.packs.iter().map(facts_of_pack).collect();
        }
        json::print(&json::document("prune", facts));
        return;
    }
    let mut snapshots = table(&["snapshot", "time", "", "why"]);
    let time = |id: &SnapshotId| {
        let began = planned.began.get(id).copied().unwrap_or(id.time());
        began.with_timezone(&stack.timezone).format("%Y-%m-%d %H:%M:%S %Z").to_string()
    };
    let mut rows: Vec<(&SnapshotId, &str, String)> = Vec::new();
    for kept in &planned.decided.keep {
        let mut reasons: Vec<String> = kept.reasons.iter().map(ToString::to_string).collect();
        reasons
            .extend(planned.pins.get(&kept.id).filter(|pin| !pin.is_empty()).map(|pin| format!("“{pin}”")));
        rows.push((&kept.id, "keep", reasons.join(", ")));
    }
    rows.extend(planned.decided.remove.iter().map(|gone| (&gone.id, "REMOVE", gone.reason.to_string())));
    rows.sort_by_key(|(id, ..)| std::cmp::Reverse((planned.began.get(*id), *id)));
    for (id, what, why) in rows {
        snapshots.add_row([id.to_string(), time(id), what.to_owned(), why]);
    }
    say(&snapshots.to_string());
    for state in PackState::ALL {
        let (count, size_bytes) = planned.plan.sum(state);
        if count > 0 {
            say(&format!("{count:>7} packs {:>10}  {}", ByteCount(size_bytes).to_string(), meaning(state)));
        }
    }
    if let Some(goes) = goes_from_trash(trash) {
        let goes = goes.with_timezone(&stack.timezone).format("%Y-%m-%d %H:%M");
        let size = ByteCount(trash.size_bytes).to_string();
        say(&format!(
            "{:>7} objects {size:>8}  trash: deleted, the first of them goes {goes}",
            trash.objects
        ));
    }
    if args.packs {
        show_packs(stack, &planned.plan.packs);
    }
    for generation in &planned.plan.open {
        say(&format!("generation {generation} was begun and has not ended: it is at work, or its run died"));
    }
    for guard in &planned.decided.guards {
        say(&format!("CAREFUL: {guard}"));
    }
    say(&summary(planned));
}

/// Returns when the oldest object in the trash may be removed for good.
fn goes_from_trash(trash: &Trash) -> Option<DateTime<Utc>> {
    trash.oldest.filter(|_| trash.objects > 0).map(|oldest| oldest + TRASH_STAYS)
}

fn summary(planned: &Planned) -> String {
    if planned.plan.is_empty() {
        return "nothing to do".to_owned();
    }
    format!(
        "{} snapshots stay, {} go; `lifeboat prune --apply` does it",
        planned.decided.keep.len(),
        planned.decided.remove.len()
    )
}

fn meaning(state: PackState) -> &'static str {
    match state {
        PackState::Live => "live: a snapshot needs them",
        PackState::Retired => "retired: snapshots need them, and no new one will",
        PackState::Young => "young: a run at work may need them",
        PackState::Unneeded => "unneeded: condemned by this plan, and swept after the grace",
        PackState::Condemned => "condemned: they wait for the end of their grace",
        PackState::Due => "due: swept by this plan",
    }
}

fn show_packs(stack: &Stack, packs: &[PackLine]) {
    let mut lines = table(&["pack", "size", "state", "goes", "kept by"]);
    for line in packs {
        let goes = line.goes.map(|at| at.with_timezone(&stack.timezone).format("%Y-%m-%d %H:%M").to_string());
        let kept_by = line.kept_by.as_ref().map(|id| match line.needed_by {
            1 => id.to_string(),
            more => format!("{id} and {} more", more - 1),
        });
        let pack = line.pack.to_string();
        lines.add_row([
            pack[..12].to_owned(),
            ByteCount(line.size_bytes).to_string(),
            line.state.word().to_owned(),
            goes.unwrap_or_default(),
            kept_by.unwrap_or_default(),
        ]);
    }
    say(&lines.to_string());
}

fn report_lines(report: &PruneReport, freed_bytes: u64) -> Vec<String> {
    let mut lines = Vec::new();
    if !report.forgotten.is_empty() {
        lines.push(match report.forgotten.len() {
            1 => "1 snapshot is forgotten".to_owned(),
            count => format!("{count} snapshots are forgotten"),
        });
    }
    if let Some(generation) = report.generation {
        lines.push(format!(
            "generation {generation}: {} packs, {} are condemned",
            report.condemned,
            ByteCount(report.condemned_bytes)
        ));
    }
    for swept in &report.swept {
        let rescued = match swept.rescued.len() {
            0 => String::new(),
            count => format!("; {count} were needed after all"),
        };
        lines.push(format!(
            "generation {}: {} packs, {} are removed{rescued}",
            swept.generation,
            swept.deleted.len(),
            ByteCount(swept.deleted_bytes)
        ));
    }
    if !report.retained.is_empty() {
        let count = report.retained.len();
        lines.push(format!(
            "{count} objects are retained: the store keeps them for now; a later run tries again"
        ));
    }
    if freed_bytes > 0 {
        lines.push(format!("{} are freed", ByteCount(freed_bytes)));
    }
    if lines.is_empty() {
        lines.push("nothing to do".to_owned());
    }
    lines
}

fn facts_of_kept(planned: &Planned) -> Vec<Value> {
    let kept = planned.decided.keep.iter();
    kept.map(|kept| {
        json!({
            "id": kept.id,
            "reasons": kept.reasons,
            "pin": planned.pins.get(&kept.id),
            "proven": planned.proven.contains(&kept.id),
        })
    })
    .collect()
}

fn facts_of_packs(planned: &Planned) -> Value {
    let mut facts = serde_json::Map::new();
    for state in PackState::ALL {
        let (count, size_bytes) = planned.plan.sum(state);
        facts.insert(state.word().to_owned(), json!({ "count": count, "bytes": size_bytes }));
    }
    facts.into()
}

fn facts_of_pack(line: &PackLine) -> Value {
    json!({
        "pack": line.pack,
        "bytes": line.size_bytes,
        "state": line.state.word(),
        "goes": line.goes,
        "needed_by": line.needed_by,
        "kept_by": line.kept_by,
    })
}

fn facts_of_report(report: &PruneReport) -> Value {
    let swept = |swept: &crate::repo::Swept| {
        json!({
            "generation": swept.generation,
            "deleted": swept.deleted.len(),
            "deleted_bytes": swept.deleted_bytes,
            "rescued": swept.rescued,
            "snapshots": swept.snapshots,
            "indexes": swept.indexes,
            "retained": swept.retained.len(),
        })
    };
    json!({
        "generation": report.generation,
        "forgotten": report.forgotten.iter().map(|one| &one.snapshot).collect::<Vec<_>>(),
        "condemned": report.condemned,
        "condemned_bytes": report.condemned_bytes,
        "swept": report.swept.iter().map(swept).collect::<Vec<_>>(),
        "retained": report.retained.len(),
    })
}
