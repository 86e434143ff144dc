//! How versions are listed and named.

use proptest::prelude::*;

use super::*;
use crate::{flow::Stage, s3::history::laws::listed};

proptest! {
    #[test]
    fn two_versions_never_share_a_path_and_none_lies_where_an_object_does(
        a in "[a/.%]{1,5}",
        b in "[a/.%]{1,5}",
        one in "[av/.-]{1,4}",
        two in "[av/.-]{1,4}",
    ) {
        let path = |key: &str, id: &str| marker_meta("b", &listed(key, id, "")).unwrap().path;
        prop_assert_eq!((&a, &one) == (&b, &two), path(&a, &one) == path(&b, &two));
        let object = object_path("%versions", &a).unwrap();
        prop_assert!(!object.as_str().starts_with("%versions/"));
    }
}

#[test]
fn a_listing_that_goes_back_repeats_or_contradicts_itself_is_refused() {
    let latest = |mut one: Listed| {
        one.version.as_mut().unwrap().is_latest = true;
        one
    };
    let b2 = listed("b", "2", "e");
    assert!(follows(&b2, &latest(listed("c", "1", "e"))).is_ok());
    assert!(follows(&b2, &listed("b", "1", "e")).is_ok());
    assert!(follows(&b2, &listed("b", "2", "e")).is_err());
    assert!(follows(&b2, &listed("a", "1", "e")).is_err());
    assert!(follows(&b2, &latest(listed("b", "1", "e"))).is_err());
}

#[test]
fn an_object_keeps_its_place_and_an_older_version_has_one_of_its_own() {
    let mut now = listed("dir/a", "v2", "e2");
    now.version.as_mut().unwrap().is_latest = true;
    let mut meta = object_meta("b", &now, &Facts::default()).unwrap();
    assert_eq!((meta.path.as_str(), meta.select.as_str()), ("b/dir/a", "b/dir/a"));
    assert_eq!((meta.text("key"), meta.text(VERSION_ID)), (Some("dir/a"), Some("v2")));
    let older = listed("dir/a", "v2", "e2");
    place(&mut meta, "b", &older).unwrap();
    assert_eq!(meta.path.as_str(), "%versions/b/dir/a/%v-v2");
    assert_eq!((meta.text("key"), meta.text(VERSION_OF)), (None, Some("dir/a")));
    assert_eq!(meta.select, "b/dir/a?versionId=v2");
    let mut numbers = Numbers::default();
    numbers.number(&mut meta);
    numbers.number(&mut meta);
    assert_eq!(meta.attrs[NTH], 2);
    place(&mut meta, "b", &Listed { version: None, ..now }).unwrap();
    assert_eq!(meta, object_meta("b", &Listed { version: None, ..older }, &Facts::default()).unwrap());
    assert_eq!(meta.stage, Stage::Data);
}
