//! The report as `JUnit` XML, which build servers show: a test case for each assertion.
//!
//! A drill that did not pass never looks like a run without errors: where no assertion tells what kept it from
//! passing, a case of its own, `the drill`, does.

use std::fmt::Write as _;

use super::visible;
use crate::{
    drill::{Answer, Assertion, Outcome, Question, Report, Way},
    plain::escaped,
};

/// A test case.
struct Case {
    name: String,
    class: String,
    seconds: f64,
    answer: Answer,
    kind: &'static str,
    message: String,
    body: Vec<String>,
}

/// Writes the report as `JUnit` XML.
pub fn junit(report: &Report) -> String {
    let mut cases: Vec<Case> = report.assertions.iter().map(|assertion| case(assertion, report)).collect();
    cases.extend(the_drill(report, &cases));
    let count = |answer| cases.iter().filter(|case| case.answer == answer).count();
    let name = match report.way {
        Way::Restore => format!("{}/drill", report.stack),
        Way::ByHand => format!("{}/drill-by-hand", report.stack),
    };
    let name = text(&name);
    let took = seconds((report.ended - report.began).as_seconds_f64());
    let counts = format!(
        "tests=\"{}\" failures=\"{}\" errors=\"{}\" time=\"{took}\"",
        cases.len(),
        count(Answer::Failed),
        count(Answer::CouldNotRun)
    );
    let mut xml = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"lifeboat\" {counts}>\n  \
         <testsuite name=\"{name}\" {counts} skipped=\"0\" timestamp=\"{}\" hostname=\"{}\">\n",
        report.began.format("%Y-%m-%dT%H:%M:%S"),
        text(&report.host)
    );
    xml.push_str("    <properties>\n");
    for (name, value) in properties(report) {
        // Writing to a text cannot fail.
        let _ = writeln!(xml, "      <property name=\"{name}\" value=\"{}\"/>", text(&value));
    }
    xml.push_str("    </properties>\n");
    for case in &cases {
        write_case(&mut xml, case);
    }
    xml.push_str("  </testsuite>\n</testsuites>\n");
    xml
}

fn properties(report: &Report) -> Vec<(&'static str, String)> {
    let known = [
        ("drill", Some(report.id.to_string())),
        ("outcome", Some(report.outcome.word().to_owned())),
        ("way", Some(report.way.word().to_owned())),
        ("from", Some(report.from.clone())),
        ("snapshot", Some(report.snapshot.to_string())),
        ("snapshot_began", Some(report.snapshot_began.to_rfc3339())),
        ("lab", Some(report.lab.clone())),
        ("lifeboat", Some(report.lifeboat.clone())),
        ("rto_seconds", report.rto_seconds.map(seconds)),
        ("objective_seconds", report.objective_seconds.map(|objective| objective.to_string())),
        ("size_bytes", Some(report.size_bytes().to_string())),
    ];
    known.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

fn case(assertion: &Assertion, report: &Report) -> Case {
    let kind = question(assertion.kind);
    let source = assertion.source.as_ref();
    let unnamed = assertion.findings_total.saturating_sub(assertion.findings.len() as u64);
    let mut body: Vec<String> = assertion.findings.iter().map(|finding| visible(finding)).collect();
    if unnamed > 0 {
        body.push(format!("… and {unnamed} more"));
    }
    Case {
        name: assertion.name.clone(),
        class: source.map_or_else(|| kind.to_owned(), |source| format!("{kind}.{source}")),
        seconds: time_of(assertion, report),
        answer: assertion.answer,
        kind,
        message: assertion.detail.clone(),
        body,
    }
}

/// Returns how long a question took where that was measured; the form asks for a number in any case.
fn time_of(assertion: &Assertion, report: &Report) -> f64 {
    let source = report.sources.iter().find(|source| Some(&source.name) == assertion.source.as_ref());
    match assertion.kind {
        Question::Restored => source.map_or(report.rto_seconds, |source| Some(source.seconds)).unwrap_or(0.0),
        Question::Objective => report.rto_seconds.unwrap_or(0.0),
        _ => 0.0,
    }
}

/// Returns the case of the drill itself: what kept it from its end, or that it did not pass where nothing else says so.
fn the_drill(report: &Report, cases: &[Case]) -> Option<Case> {
    let is_told = report.outcome == Outcome::Passed || cases.iter().any(|case| case.answer != Answer::Held);
    let (message, hints) = match &report.problem {
        Some(problem) => (problem.what.clone(), problem.hints.as_slice()),
        None if is_told => return None,
        None if report.outcome == Outcome::Failed => ("the drill failed".to_owned(), [].as_slice()),
        None => ("nothing was asked, so nothing is proven".to_owned(), [].as_slice()),
    };
    Some(Case {
        name: "the drill".to_owned(),
        class: "drill".to_owned(),
        seconds: 0.0,
        answer: Answer::CouldNotRun,
        kind: "drill",
        // The lines are causes, outermost first.
        message: message.lines().collect::<Vec<_>>().join(": "),
        body: hints.iter().map(|hint| visible(hint)).collect(),
    })
}

fn write_case(xml: &mut String, case: &Case) {
    let open = format!(
        "    <testcase name=\"{}\" classname=\"{}\" time=\"{}\">\n",
        text(&case.name),
        text(&case.class),
        seconds(case.seconds)
    );
    let lines: Vec<String> =
        std::iter::once(visible(&case.message)).chain(case.body.iter().cloned()).collect();
    let lines = escaped(&lines.join("\n"));
    let (kind, message) = (case.kind, text(&case.message));
    let inner = match case.answer {
        Answer::Held => format!("<system-out>{lines}</system-out>"),
        Answer::Failed => format!("<failure type=\"{kind}\" message=\"{message}\">{lines}</failure>"),
        Answer::CouldNotRun => format!("<error type=\"{kind}\" message=\"{message}\">{lines}</error>"),
    };
    xml.extend([&open, "      ", &inner, "\n    </testcase>\n"]);
}

fn text(text: &str) -> String {
    escaped(&visible(text))
}

fn seconds(seconds: f64) -> String {
    format!("{:.3}", if seconds.is_finite() { seconds.max(0.0) } else { 0.0 })
}

/// Returns the word of a kind, as in the JSON.
fn question(kind: Question) -> &'static str {
    match kind {
        Question::Restored => "restored",
        Question::Contents => "contents",
        Question::Reference => "reference",
        Question::Expectation => "expectation",
        Question::Freshness => "freshness",
        Question::Command => "command",
        Question::Objective => "objective",
    }
}
