//! The policies that are shipped, and what policy and store must agree on without knowing each other.

use std::{collections::BTreeMap, fs, path::Path};

use lifeboat::{
    policy::{self, OptionValue, Stack, StoreConfig},
    store,
};

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
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("policies")).expect("policies/") {
        let path = entry.expect("an entry").path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        let stack = Stack::load(&path).unwrap_or_else(|problems| panic!("{:#?}", problems.lines()));
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
