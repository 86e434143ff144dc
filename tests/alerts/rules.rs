//! The alert rules, as far as it can be said without Prometheus; `live.rs` asks it.

use std::collections::BTreeSet;

use lifeboat::{serve::metrics::METRICS, status::Kind};
use serde_norway::Value;

use super::{metrics_in, read};

fn rules() -> Vec<Value> {
    let file: Value = serde_norway::from_str(&read("policies/prometheus-rules.yml")).expect("YAML");
    let groups = file["groups"].as_sequence().expect("groups");
    groups.iter().flat_map(|group| group["rules"].as_sequence().expect("rules")).cloned().collect()
}

fn text<'a>(value: &'a Value, what: &str) -> &'a str {
    value.as_str().unwrap_or_else(|| panic!("{what} is missing"))
}

fn listed() -> BTreeSet<String> {
    METRICS.iter().map(|(name, _)| (*name).to_owned()).collect()
}

/// Returns what each rule asks.
pub fn expressions() -> Vec<String> {
    rules().iter().map(|rule| text(&rule["expr"], "expr").to_owned()).collect()
}

#[test]
fn every_metric_that_a_rule_or_its_test_names_is_one_that_is_told() {
    for expr in expressions() {
        let named = metrics_in(&expr);
        assert!(!named.is_empty(), "{expr}");
        let unknown: Vec<_> = named.difference(&listed()).cloned().collect();
        assert!(unknown.is_empty(), "{unknown:?} in {expr}");
    }
    // A test of a series that nobody writes would prove nothing.
    let tested = metrics_in(&read("policies/prometheus-rules.test.yml"));
    assert_eq!(tested.difference(&listed()).collect::<Vec<_>>(), Vec::<&String>::new());
}

#[test]
fn every_alert_says_how_urgent_it_is_and_what_to_do_in_both_languages() {
    for rule in rules() {
        let name = text(&rule["alert"], "alert").to_owned();
        let severity = text(&rule["labels"]["severity"], &name).to_owned();
        let is_either = severity.starts_with("{{ if or (eq $labels.job \"backup\")");
        assert!(is_either || ["page", "ticket"].contains(&severity.as_str()), "{name}: {severity}");
        for key in ["summary", "summary_zh", "description", "description_zh"] {
            let words = text(&rule["annotations"][key], &format!("{name}: {key}")).to_owned();
            let is_chinese = words.chars().any(|c| ('\u{4e00}'..='\u{9fff}').contains(&c));
            assert_eq!(is_chinese, key.ends_with("_zh"), "{name}: {key}: {words}");
        }
        let runbook = text(&rule["annotations"]["runbook"], &name).to_owned();
        let page = runbook.strip_prefix("docs/runbook/").and_then(|page| page.strip_suffix(".md"));
        let page = page.unwrap_or_else(|| panic!("{name}: {runbook}"));
        assert!(page == "{{ $labels.kind }}" || Kind::of(page).is_some(), "{name}: {runbook}");
    }
}

#[test]
fn every_alert_has_a_name_of_its_own_and_a_test() {
    let tests = read("policies/prometheus-rules.test.yml");
    let names: Vec<String> = rules().iter().map(|rule| text(&rule["alert"], "alert").to_owned()).collect();
    for name in &names {
        let told = tests.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| word == name);
        assert!(told, "{name} is in no test");
    }
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
}
