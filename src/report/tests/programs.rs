//! The forms for programs: JSON and `JUnit`.

use std::path::Path;

use quick_xml::{Reader, events::Event};

use super::facts::{could_not_run, failed, passed, shortest};
use crate::{
    drill::{Outcome, Report, SCHEMA, Way},
    report::{json, junit, schema},
};

/// Reads a document to its end as XML: tags are closed in order, entities are known, and every character is one.
pub(super) fn well_formed(text: &str) {
    let is_character = |c: char| matches!(c, '\t' | '\n' | '\r' | ' '..='\u{fffd}' | '\u{10000}'..);
    assert!(text.chars().all(is_character), "a character that XML has not");
    let mut reader = Reader::from_str(text);
    let mut depth = 0_i32;
    loop {
        match reader.read_event().unwrap() {
            Event::Eof => break,
            Event::Start(tag) => {
                depth += 1;
                check_attributes(&tag);
            }
            Event::Empty(tag) => check_attributes(&tag),
            Event::End(_) => depth -= 1,
            _ => {}
        }
    }
    assert_eq!(depth, 0);
}

fn check_attributes(tag: &quick_xml::events::BytesStart<'_>) {
    for attribute in tag.attributes() {
        assert!(!attribute.unwrap().value.contains('<'));
    }
}

#[test]
fn the_same_report_gives_the_same_json_and_can_be_read_back() {
    for report in [passed(), failed(), could_not_run(), shortest()] {
        let bytes = json(&report);
        assert_eq!(bytes, json(&report.clone()));
        assert_eq!(serde_json::from_slice::<Report>(&bytes).unwrap(), report);
        assert!(bytes.starts_with(format!("{{\n  \"schema\": \"{SCHEMA}\",\n").as_bytes()));
        assert!(bytes.ends_with(b"}\n"));
    }
}

#[test]
fn the_schema_in_the_documents_is_that_of_the_report() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/drill-report.schema.json");
    let made = serde_json::to_string_pretty(&schema()).unwrap() + "\n";
    if std::env::var_os("INSTA_UPDATE").is_some_and(|update| update == "always") {
        std::fs::write(&path, &made).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap();
    assert!(written == made, "{} is not true: run this test with INSTA_UPDATE=always", path.display());
}

#[test]
fn the_schema_knows_every_key_that_a_report_has_and_no_other() {
    let (schema, report) = (schema(), serde_json::to_value(passed()).unwrap());
    let keys = |value: &serde_json::Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    let (mut known, mut has) = (keys(&schema["properties"]), keys(&report));
    known.sort();
    has.sort();
    assert_eq!(known, has);
    assert_eq!(schema["additionalProperties"], false);
}

#[test]
fn build_servers_see_each_assertion_as_a_test_case() {
    for (name, report) in [("passed", passed()), ("failed", failed()), ("could_not_run", could_not_run())] {
        let xml = junit(&report);
        well_formed(&xml);
        insta::assert_snapshot!(format!("junit_{name}"), xml);
    }
}

#[test]
fn a_drill_that_did_not_pass_never_looks_like_a_run_without_errors() {
    let nothing_asked = shortest();
    let doubtful = |outcome| Report { outcome, ..passed() };
    for report in [nothing_asked, doubtful(Outcome::Failed), doubtful(Outcome::CouldNotRun), could_not_run()]
    {
        let xml = junit(&report);
        assert!(xml.contains("errors=\"1\"") && xml.contains("<testcase name=\"the drill\""), "{xml}");
    }
    let told = junit(&failed());
    assert!(told.contains("failures=\"2\" errors=\"1\"") && !told.contains("the drill\""), "{told}");
    assert!(junit(&passed()).contains("tests=\"14\" failures=\"0\" errors=\"0\""));
}

#[test]
fn a_drill_by_hand_is_a_suite_of_its_own() {
    let xml = junit(&Report { way: Way::ByHand, ..passed() });
    assert!(xml.contains("<testsuite name=\"im-suite/drill-by-hand\""));
    assert!(junit(&passed()).contains("<testsuite name=\"im-suite/drill\""));
}
