//! The policies that are shipped, and what policy and store must agree on without knowing each other.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use chrono::{DateTime, Days, TimeDelta, Utc};
use lifeboat::{
    names::SnapshotId,
    policy::{self, OptionValue, Stack, StoreConfig},
    retention::{Candidate, decide},
    store,
};

/// Returns the files of `policies/`, in order.
fn shipped() -> Vec<PathBuf> {
    let folder = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("policies")).expect("policies/");
    let mut paths: Vec<PathBuf> = folder.map(|entry| entry.expect("an entry").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    paths.sort();
    paths
}

fn load(path: &Path) -> Stack {
    Stack::load(path).unwrap_or_else(|problems| panic!("{:#?}", problems.lines()))
}

/// Returns the options with something in the place of each secret.
fn options(place: &StoreConfig) -> BTreeMap<String, String> {
    let text = |value: &OptionValue| match value {
        OptionValue::Text(text) => text.clone(),
        OptionValue::Secret(_) => "some-secret".to_owned(),
    };
    place.options.iter().map(|(name, value)| (name.clone(), text(value))).collect()
}

#[test]
fn policy_and_store_know_the_same_kinds_of_store() {
    assert_eq!(policy::SCHEMES, store::SCHEMES);
}

#[test]
fn every_place_of_a_shipped_policy_can_be_opened() {
    let mut places = 0;
    for path in shipped() {
        let stack = load(&path);
        let offsites = stack.offsites.iter().map(|offsite| &offsite.place);
        for place in offsites.chain([&stack.repository.place]) {
            let opened = store::open(&place.store, &options(place));
            let opened = opened.unwrap_or_else(|failure| panic!("{}: {:?}", path.display(), failure.chain()));
            assert!(!opened.place.contains("some-secret"));
            places += 1;
        }
    }
    assert!(places >= 2);
}

/// Returns what is left of a year of nights when each backup at 02:00 is followed by its prune, with the reasons.
fn after_a_year(stack: &Stack) -> String {
    let rules = stack.retention.rules().expect("a policy that was checked");
    let first: DateTime<Utc> = "2025-01-01T02:00:00+08:00".parse().expect("a time");
    let (mut left, mut shown): (Vec<Candidate>, String) = (Vec::new(), String::new());
    for night in 0..=365 {
        let began = first + Days::new(night);
        let id = SnapshotId::at(began, 0);
        left.push(Candidate { id, began, complete: true, pinned: false, proven: false });
        let now = began + TimeDelta::minutes(150);
        let decided = decide(&left, &rules, now, stack.timezone).expect("rules that keep something");
        assert!(decided.guards.is_empty(), "{began}: {:?}", decided.guards);
        left.retain(|candidate| decided.keep.iter().any(|kept| kept.id == candidate.id));
        let lines = decided.keep.iter().map(|kept| {
            let reasons: Vec<String> = kept.reasons.iter().map(ToString::to_string).collect();
            let local = kept.id.time().with_timezone(&stack.timezone).format("%a %Y-%m-%d %H:%M");
            format!("{}  {local}  {}\n", kept.id, reasons.join("; "))
        });
        shown = lines.collect();
    }
    shown
}

#[test]
fn what_the_retention_of_each_shipped_policy_leaves_of_a_year() {
    let shown: Vec<String> = shipped()
        .iter()
        .map(|path| {
            let stack = load(path);
            format!("== {} ({})\n{}", stack.name, stack.timezone.name(), after_a_year(&stack))
        })
        .collect();
    insta::assert_snapshot!(shown.join("\n"));
}
