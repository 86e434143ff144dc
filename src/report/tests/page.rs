//! The page.

use std::collections::BTreeSet;

use chrono::TimeDelta;

use super::{
    LANGUAGES,
    facts::{could_not_run, failed, passed, shortest, year},
    programs::well_formed,
};
use crate::{
    drill::{Answer, Assertion, Outcome, Phase, Question, Report, Step, Way},
    policy::Language,
    report::{html, page::words},
};

/// Returns the page, which is one file, loads nothing and closes what it opens.
pub(super) fn page(report: &Report, language: Language) -> String {
    let page = html(report, language).unwrap();
    well_formed(&page);
    for foreign in ["<script", "src=", "href=", "url(", "@import", "http://", "https://"] {
        assert!(!page.contains(foreign), "{foreign}");
    }
    page
}

/// Returns the page without its style.
fn plain(report: &Report, language: Language) -> String {
    let page = page(report, language);
    let (head, rest) = page.split_once("<style>").unwrap();
    format!(
        "{head}<style>…{}",
        rest.split_once("</style>").map(|(_, rest)| ["</style>", rest].concat()).unwrap()
    )
}

#[test]
fn a_report_reads_well_in_both_languages() {
    for language in LANGUAGES {
        for (name, report) in [("passed", passed()), ("failed", failed()), ("could_not_run", could_not_run())]
        {
            insta::assert_snapshot!(format!("{name}_{language:?}"), plain(&report, language));
        }
    }
}

#[test]
fn the_page_allows_itself_no_script_and_nothing_from_elsewhere() {
    let policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:";
    let tag = format!("<meta http-equiv=\"Content-Security-Policy\" content=\"{policy}\"/>");
    assert!(page(&passed(), Language::En).contains(&tag));
}

/// Returns the names of everything that a language says.
fn names(text: &str) -> BTreeSet<&str> {
    let blocks = text.split("{%").skip(1).map(|block| block.trim_start_matches('-').trim_start());
    let names =
        blocks.filter_map(|block| block.strip_prefix("set ").or_else(|| block.strip_prefix("macro ")));
    names.map(|name| name.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap()).collect()
}

#[test]
fn what_one_language_says_the_other_says_too_and_the_page_uses_it() {
    let [en, zh] = LANGUAGES.map(|language| names(words(language)));
    assert_eq!(en, zh);
    let page = include_str!("../page/page.html");
    let used: BTreeSet<&str> = page
        .split(" w.")
        .skip(1)
        .map(|rest| rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap())
        .collect();
    let inside = ["checks", "restored"];
    let unknown: Vec<_> = used.difference(&en).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
    let unused: Vec<_> = en.difference(&used).filter(|name| !inside.contains(name)).collect();
    assert!(unused.is_empty(), "{unused:?}");
}

/// Returns what a list of words has words for: `{% set NAME = {"key": "word", …} %}`.
fn keys(text: &str, name: &str) -> BTreeSet<String> {
    let list = text.split_once(&format!("{{% set {name} = {{")).unwrap().1.split_once('}').unwrap().0;
    list.split('"').collect::<Vec<_>>().chunks(4).filter_map(|one| Some((*one.get(1)?).to_owned())).collect()
}

/// Returns the words of an enumeration in `report.json`, as its schema has them.
fn variants<T: schemars::JsonSchema>() -> BTreeSet<String> {
    let schema = serde_json::to_value(schemars::schema_for!(T)).unwrap();
    let one_of = schema["oneOf"].as_array().unwrap();
    one_of.iter().map(|one| one["const"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn each_list_of_words_has_every_word_that_a_report_can_say_in_both_languages() {
    let lists = [
        ("outcomes", variants::<Outcome>()),
        ("legend", variants::<Outcome>()),
        ("answers", variants::<Answer>()),
        ("ways", variants::<Way>()),
        ("steps", variants::<Step>()),
        ("kinds", variants::<Question>()),
    ];
    for language in LANGUAGES {
        let text = words(language);
        for (name, variants) in &lists {
            assert_eq!(keys(text, name), *variants, "{name} of {language:?}");
        }
        assert_eq!(text.matches(" = {").count(), lists.len(), "{language:?} has a list that nobody compares");
    }
}

#[test]
fn every_step_kind_answer_and_way_is_said_in_both_languages_and_in_no_other() {
    // Names and details are evidence: they are in English everywhere.
    let mut report = shortest();
    let steps = [Step::Open, Step::Lab, Step::Restore, Step::Check, Step::Remove];
    let phase = |step| Phase { step, source: None, began_seconds: 0.0, seconds: 1.0 };
    report.phases = steps.into_iter().map(phase).collect();
    let kinds = [
        Question::Restored,
        Question::Contents,
        Question::Reference,
        Question::Expectation,
        Question::Freshness,
        Question::Command,
        Question::Objective,
    ];
    let answers = [Answer::Held, Answer::Failed, Answer::CouldNotRun];
    let asked = kinds
        .into_iter()
        .flat_map(|kind| answers.map(|answer| Assertion { answer, ..Assertion::held(kind, "a", "b") }));
    report.assertions = asked.collect();
    for way in [Way::Restore, Way::ByHand] {
        for outcome in [Outcome::Passed, Outcome::Failed, Outcome::CouldNotRun] {
            for rto_seconds in [None, Some(12.0)] {
                for trend in [Vec::new(), year()] {
                    let report = Report { way, outcome, rto_seconds, trend, ..report.clone() };
                    page(&report, Language::En);
                    no_english(&plain(&report, Language::Zh));
                }
            }
        }
    }
}

#[test]
fn the_chinese_page_has_no_english_sentence_of_ours() {
    no_english(&plain(&shortest(), Language::Zh));
}

fn no_english(page: &str) {
    let body = page.split_once("<body>").unwrap().1;
    let known =
        ["lifeboat", "suite", "Asia", "Shanghai", "docker", "minisign", "minisig", "junit", "report", "json"];
    let text = body.split(['<', '>']).skip(2).step_by(2).filter(|text| !text.contains("minisign -Vm"));
    for text in text.filter(|text| !text.contains("sha256sum")) {
        let mut words = text.split(|c: char| !c.is_ascii_alphabetic()).filter(|word| word.len() > 4);
        assert!(words.all(|word| known.contains(&word)), "{text}");
    }
}

#[test]
fn the_verdict_does_not_claim_what_is_not_known() {
    let text = |report: &Report| {
        let page = page(report, Language::En);
        let verdict =
            page.split_once("class=\"verdict").unwrap().1.split_once("</section>").unwrap().0.to_owned();
        verdict.split('<').filter_map(|part| Some(part.split_once('>')?.1)).collect::<String>()
    };
    let unmeasured = Report { rto_seconds: None, ..passed() };
    assert!(!text(&unmeasured).contains("Everything"), "{}", text(&unmeasured));
    let unasked = text(&shortest());
    assert!(unasked.contains("not known") && unasked.contains("Nothing was asked"), "{unasked}");
    let by_hand = text(&Report { way: Way::ByHand, ..passed() });
    assert!(by_hand.contains("by hand, without lifeboat"), "{by_hand}");
    let one = Report { assertions: passed().assertions[..1].to_vec(), ..passed() };
    assert!(text(&one).contains("1 of 1 check held"), "{}", text(&one));
}

/// Returns the numbers of the attributes that place something.
fn coordinates(page: &str) -> Vec<f64> {
    let attributes = [" x=", " y=", " width=", " height=", " x1=", " x2=", " y1=", " y2=", "translate(0 "];
    let values = attributes.iter().flat_map(|name| page.split(name).skip(1));
    let values = values.map(|rest| rest.trim_start_matches('"').split(['"', '%', ')']).next().unwrap());
    values.map(|value| value.parse().unwrap_or_else(|_| panic!("{value}"))).collect()
}

#[test]
fn pictures_stay_inside_whatever_the_numbers_are() {
    let odd = [0.0, -1.0, 1e-9, 1e300, f64::NAN, f64::INFINITY, f64::NEG_INFINITY];
    for seconds in odd {
        for objective_seconds in [None, Some(0), Some(1), Some(u64::MAX)] {
            for pasts in [0, 1, 12] {
                let mut report = Report { objective_seconds, ..passed() };
                report.rto_seconds = Some(seconds);
                report.ended = report.began + TimeDelta::zero();
                report.trend.truncate(pasts);
                for phase in &mut report.phases {
                    (phase.began_seconds, phase.seconds) = (seconds, seconds);
                }
                let found = coordinates(&page(&report, Language::En));
                let inside = |value: &f64| (-10.0..=400.0).contains(value);
                assert!(found.iter().all(inside), "{seconds} {objective_seconds:?} {pasts}: {found:?}");
            }
        }
    }
}

#[test]
fn a_trend_has_the_last_twelve_and_this_one() {
    let mut report = passed();
    report.trend = [year(), year()].concat();
    let page = page(&report, Language::En);
    assert_eq!(page.matches("class=\"column\"").count(), 13);
    assert_eq!(page.matches("class=\"this\"").count(), 1);
}

#[test]
fn another_release_of_a_server_is_marked_and_another_patch_is_not() {
    let page = page(&passed(), Language::En);
    let row = |name: &str| {
        let lead = format!("<td class=\"lead\"><b>{name}</b>");
        page.split_once(&lead).unwrap().1.split_once("</tr>").unwrap().0.contains("another release")
    };
    assert_eq!([row("mysql"), row("redis"), row("minio"), row("config")], [true, false, false, false]);
}
