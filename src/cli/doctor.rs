//! `lifeboat doctor`.

use comfy_table::ContentArrangement;
use serde_json::json;

use super::{json, say, session::Session};
use crate::{
    error::{ExitCode, Result},
    jobs::doctor::{self, Finding, Report},
    store::probe::Status,
};

pub(super) async fn run(session: &Session) -> Result<ExitCode> {
    let stack = session.repository_of_stack()?;
    let report = doctor::doctor(&stack, &session.ground).await;
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
    })
}

/// Shows all findings, or only those that are not as they must be; then what to do about each of these.
fn show(report: &Report, only_wrong: bool) {
    let mut table = super::screen::table(&["status", "id", "what must be true", "detail"]);
    table.set_content_arrangement(ContentArrangement::Dynamic);
    let shown = report.findings.iter().filter(|finding| !only_wrong || finding.status != Status::Ok);
    for finding in shown {
        table.add_row([finding.status.word(), &finding.id, &finding.what, &finding.detail]);
    }
    if !table.is_empty() {
        say(&table.to_string());
    }
    for finding in &report.findings {
        if let Some(hint) = &finding.hint {
            say(&format!("{}: {hint}", finding.id));
        }
    }
    let count = |status| report.findings.iter().filter(|finding| finding.status == status).count();
    if !only_wrong || count(Status::Broken) > 0 {
        let [ok, warn, unknown, broken] =
            [Status::Ok, Status::Warn, Status::Unknown, Status::Broken].map(count);
        say(&format!("{ok} ok, {warn} to look at, {unknown} unknown, {broken} broken"));
    }
}
