//! What a stranger chose (a row, a key, a server's answer) stays text, in every form.

use super::{
    LANGUAGES,
    facts::{failed, passed},
    page::page,
    programs::well_formed,
};
use crate::{
    drill::{Assertion, Question, Report, Trouble},
    report::{json, junit},
};

const HOSTILE: [&str; 10] = [
    "<script>alert(1)</script>",
    "</style></td></svg><img src=x onerror=alert(1)>",
    "]]>",
    "<!-- -- -->&#0;&nbsp;&lt;",
    "\" onmouseover=\"alert(1)\" x='",
    "nul \0 bell \u{7} escape \u{1b}[31m delete \u{7f} \u{85}",
    "gnp.\u{202e}exe \u{2066}\u{200f}\u{feff}\u{ffff}\u{1fffe}",
    "line\r\nline\ttab\u{2028}\u{2029}",
    "{{ r.stack }}{% include \"style\" %}{# gone #}",
    "שלום 志航 🛟",
];

/// Returns a report with `text` wherever a stranger's text may be.
fn holding(text: &str) -> Report {
    let mut report = failed();
    let own = || text.to_owned();
    (report.stack, report.host, report.lab, report.from) = (own(), own(), own(), own());
    (report.lifeboat, report.timezone) = (own(), own());
    report.problem = Some(Trouble { what: own(), hints: vec![own()] });
    report.notes = vec![own()];
    report.assertions.push(
        Assertion::failed(Question::Reference, own(), own()).about(own()).with_findings(vec![own(); 3], 9),
    );
    report.assertions.push(Assertion::held(Question::Contents, own(), own()).about(own()));
    report.assertions.push(Assertion::could_not_run(Question::Command, own(), own()));
    for source in &mut report.sources {
        (source.name, source.kind) = (own(), own());
        (source.version, source.lab_version, source.image) = (Some(own()), Some(own()), Some(own()));
    }
    report.phases[2].source = Some(own());
    report
}

/// Returns the tags of a document, without what they say.
fn tags(text: &str) -> Vec<&str> {
    text.split('<').skip(1).map(|rest| rest.split(['>', ' ']).next().unwrap()).collect()
}

#[test]
fn no_text_becomes_a_tag_or_ends_one() {
    let calm = holding("calm");
    for text in HOSTILE {
        let report = holding(text);
        for language in LANGUAGES {
            assert_eq!(tags(&page_of(&report, language)), tags(&page_of(&calm, language)), "{text:?}");
        }
        let xml = junit(&report);
        well_formed(&xml);
        assert_eq!(tags(&xml), tags(&junit(&calm)), "{text:?}");
        assert!(!xml.contains("]]>"));
        assert_eq!(serde_json::from_slice::<Report>(&json(&report)).unwrap(), report);
    }
}

/// Returns the page with the lines of the reason as one, since a line end there is meant.
fn page_of(report: &Report, language: crate::policy::Language) -> String {
    let mut report = report.clone();
    report.problem.as_mut().unwrap().what.retain(|c| c != '\n');
    crate::report::html(&report, language).inspect(|page| well_formed(page)).unwrap()
}

#[test]
fn what_cannot_be_seen_is_shown_as_an_escape() {
    let report = holding("gnp.\u{202e}exe\0");
    let page = page(&report, crate::policy::Language::En);
    for form in [page, junit(&report)] {
        assert!(form.contains(r"gnp.\u{202e}exe\u{0}"));
        assert!(!form.contains(['\u{202e}', '\0']));
    }
}

#[test]
fn a_line_of_ten_thousand_characters_is_cut_and_the_report_stays_small() {
    let long = "x".repeat(10_000);
    let mut report = passed();
    // Read from a file that another version wrote: this one cuts such texts itself.
    report.assertions.push(Assertion {
        detail: long.clone(),
        findings: vec![long.clone(); 20],
        findings_total: 20,
        ..Assertion::failed(Question::Command, "long", "")
    });
    for form in [junit(&report), page(&report, crate::policy::Language::Zh)] {
        assert!(form.contains("x… (+9,000)") && !form.contains(&long));
        assert!(form.len() < 100_000, "{}", form.len());
    }
    assert!(String::from_utf8(json(&report)).unwrap().contains(&long), "the JSON has all of it");
}
