//! `lifeboat drill`.

use clap::Args;
use comfy_table::ContentArrangement;
use serde_json::json;

use super::{json, say, session::Session};
use crate::{
    drill::{Answer, Assertion, Outcome, Report, Way},
    error::{ExitCode, Result},
    jobs::{
        drill::{self, Drilled, REPOSITORY},
        open::offsite_of,
        when::When,
    },
    names::ByteCount,
};

/// Restore everything into throwaway servers and ask whether it is what was backed up.
#[derive(Debug, Args)]
pub struct Drill {
    /// latest, a snapshot id, 20251011-150000, RFC 3339, or "2 hours ago" [default: as `pick` of the policy says]
    when: Option<String>,
    /// From this offsite, or from `repository` [default: as `from` of the policy says]
    #[arg(long, value_name = "OFFSITE")]
    from: Option<String>,
    /// Recover by the repository's own recipe, with stock tools and without lifeboat
    #[arg(long)]
    by_hand: bool,
}

pub(super) async fn run(args: Drill, session: &Session) -> Result<ExitCode> {
    let stack = session.stack()?;
    let monitor = session.monitor();
    if let Some(name) = args.from.as_deref().filter(|name| *name != REPOSITORY) {
        offsite_of(&stack, name)?;
    }
    let now = session.ground.clock.now();
    let when = args.when.map(|when| When::parse(&when, stack.timezone, now)).transpose()?;
    // What the policy names is for drills; only who gives another identity means that one.
    let identity = session.identity.is_some().then(|| session.identity_needed(&stack)).transpose()?;
    let way = if args.by_hand { Way::ByHand } else { Way::Restore };
    let identity_file = session.identity.clone();
    let wanted = drill::Wanted { when, from: args.from, identity, identity_file, ..drill::Wanted::of(way) };
    let drilled = drill::of_stack(session.context(&stack, &monitor), wanted).await?;
    if session.json {
        json::print(&json::document("drill", facts(&drilled)));
    } else {
        show(&drilled, session.quiet);
    }
    Ok(drilled.exit())
}

fn facts(drilled: &Drilled) -> serde_json::Value {
    let report = &drilled.report;
    let mut facts = json!(report);
    if let Some(map) = facts.as_object_mut() {
        map.insert("passed".to_owned(), (report.outcome == Outcome::Passed).into());
        let rename = |one: &Assertion| {
            let mut one = json!(one);
            if let Some(map) = one.as_object_mut() {
                let answer = map.remove("answer");
                map.insert("result".to_owned(), answer.unwrap_or_default());
            }
            one
        };
        map.insert("assertions".to_owned(), report.assertions.iter().map(rename).collect());
        map.insert("report".to_owned(), json!(drilled.recorded.folder));
        map.insert("proof".to_owned(), json!(drilled.recorded.stored));
        let trouble = |(what, hint): &(String, Option<String>)| json!({ "what": what, "hint": hint });
        map.insert("unrecorded".to_owned(), drilled.recorded.troubles.iter().map(trouble).collect());
    }
    facts
}

/// Shows what was asked and what came of it; of a drill that passed a quiet person sees nothing.
fn show(drilled: &Drilled, quiet: bool) {
    let report = &drilled.report;
    if quiet && report.outcome == Outcome::Passed {
        return;
    }
    if !report.sources.is_empty() && !quiet {
        let mut table = super::screen::table(&["source", "restored into", "entries", "bytes", "seconds"]);
        for one in &report.sources {
            let place = one.lab_version.clone().unwrap_or_else(|| one.kind.clone());
            let bytes = ByteCount(one.size_bytes).to_string();
            table.add_row([
                one.name.clone(),
                place,
                one.entries.to_string(),
                bytes,
                format!("{:.1}", one.seconds),
            ]);
        }
        say(&table.to_string());
    }
    let mut table = super::screen::table(&["check", "source", "answer", "detail"]);
    table.set_content_arrangement(ContentArrangement::Dynamic);
    for one in report.assertions.iter().filter(|one| !quiet || one.answer != Answer::Held) {
        let source = one.source.clone().unwrap_or_default();
        table.add_row([one.name.clone(), source, word(one.answer).to_owned(), one.detail.clone()]);
    }
    if !table.is_empty() {
        say(&table.to_string());
    }
    for one in report.assertions.iter().filter(|one| one.answer != Answer::Held) {
        one.findings.iter().for_each(|finding| say(&format!("  {}: {}", one.name, finding)));
        let more = one.findings_total.saturating_sub(one.findings.len() as u64);
        if more > 0 {
            say(&format!("  {}: and {more} more", one.name));
        }
    }
    report.notes.iter().for_each(|note| say(&format!("note: {note}")));
    if let Some(problem) = &report.problem {
        say(&format!("could not run: {}", problem.what));
        problem.hints.iter().for_each(|hint| say(&format!("hint: {hint}")));
    }
    say(&verdict(report));
    if let Some(folder) = &drilled.recorded.folder {
        say(&format!("report: {}", folder.join("report.html").display()));
    }
}

fn word(answer: Answer) -> &'static str {
    match answer {
        Answer::Held => "held",
        Answer::Failed => "FAILED",
        Answer::CouldNotRun => "could not run",
    }
}

/// Returns the last line: what came of it, in one sentence.
fn verdict(report: &Report) -> String {
    let [held, failed, unasked] = report.counts();
    let all = held + failed + unasked;
    let took = report.rto_seconds.map(|seconds| format!(", restored in {seconds:.0} s")).unwrap_or_default();
    match report.outcome {
        Outcome::Passed => format!("PASSED: snapshot {}{took}, all of {all} checks held", report.snapshot),
        Outcome::Failed => {
            format!("FAILED: snapshot {}{took}, {failed} of {all} checks did not hold", report.snapshot)
        }
        Outcome::CouldNotRun => {
            format!("NOT PROVEN: snapshot {}, the drill could not be run to its end", report.snapshot)
        }
    }
}
