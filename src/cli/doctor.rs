//! `lifeboat doctor`.

use clap::Args;
use comfy_table::ContentArrangement;
use serde_json::json;

use super::{json, say, session::Session};
use crate::{
    error::{ExitCode, Result},
    finding::{Finding, Status},
    jobs::doctor::{self, Report},
};

/// Look at what the next backup will need: keys, stores, sources, certificates, clocks, room and the schedule.
#[derive(Debug, Args)]
pub struct Doctor {
    /// Only these sources and places: `mysql`, `repository`, an offsite's name
    #[arg(value_name = "SOURCE|PLACE")]
    names: Vec<String>,
}

pub(super) async fn run(args: Doctor, session: &Session) -> Result<ExitCode> {
    let stack = session.repository_of_stack()?;
    let monitor = session.monitor();
    let context = session.context(&stack, &monitor);
    let report = match &args.names[..] {
        [] => doctor::of_stack(context).await?,
        names => doctor::of_some(context, names).await?,
    };
    if session.json {
        let findings: Vec<_> = report.findings.iter().map(facts).collect();
        json::print(&json::document("doctor", json!({ "findings": findings })));
    } else {
        show(&report, session.quiet);
    }
    Ok(report.exit())
}

fn facts(finding: &Finding) -> serde_json::Value {
    json!({
        "id": finding.id,
        "status": finding.status.word(),
        "what": finding.what,
        "detail": finding.detail,
        "hint": finding.hint,
        "page": finding.page,
    })
}

/// Shows all findings, the worst first, or only those that are not as they must be; then what to do about each of
/// these.
fn show(report: &Report, only_wrong: bool) {
    let of = |status| report.findings.iter().filter(move |finding| finding.status == status);
    let mut table = super::screen::table(&["status", "id", "what must be true", "detail"]);
    table.set_content_arrangement(ContentArrangement::Dynamic);
    let statuses = Status::WORST_FIRST.into_iter();
    for finding in statuses.clone().filter(|status| !only_wrong || *status != Status::Ok).flat_map(of) {
        table.add_row([finding.status.word(), &finding.id, &finding.what, &finding.detail]);
    }
    if !table.is_empty() {
        say(&table.to_string());
    }
    for finding in statuses.filter(|status| *status != Status::Ok).flat_map(of) {
        if let Some(hint) = &finding.hint {
            say(&format!("{}: {hint}\n    {}", finding.id, finding.page));
        }
    }
    let [broken, unknown, warn, ok] = Status::WORST_FIRST.map(|status| report.count(status));
    if !only_wrong || broken + unknown + warn > 0 {
        say(&format!("{broken} broken, {unknown} unknown, {warn} to look at, {ok} ok"));
    }
}
