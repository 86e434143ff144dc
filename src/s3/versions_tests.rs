use proptest::prelude::*;

use super::*;
use crate::flow::Stage;

fn listed(key: &str, id: &str, etag: &str) -> Listed {
    Listed {
        key: key.to_owned(),
        etag: etag.to_owned(),
        size_bytes: 1,
        last_modified: DateTime::UNIX_EPOCH,
        storage_class: None,
        version: Some(Version {
            id: id.to_owned(),
            is_latest: false,
            is_marker: etag.is_empty(),
            until: None,
        }),
    }
}

/// A history of contents, the oldest first; a delete marker is the empty one.
fn history(contents: &[String], block_max: usize) -> Option<History> {
    let mut newest_first = contents.iter().enumerate().rev().map(|(n, etag)| {
        let mut one = listed("k", &n.to_string(), etag);
        one.version.as_mut().unwrap().is_latest = n + 1 == contents.len();
        one
    });
    let newest = newest_first.next()?;
    let mut history = History::new(newest.clone(), block_max);
    history.push(newest).unwrap();
    newest_first.for_each(|one| history.push(one).unwrap());
    Some(history)
}

/// Writes a history over another, as a restore does; returns what stands there then and how many were written.
fn restore(snapshot: &[String], there: &[String]) -> (Vec<String>, usize) {
    let (mut line, mut after) = (Line::new(history(there, 2)), there.to_vec());
    for (n, etag) in snapshot.iter().enumerate() {
        let mut meta = marker_meta("b", &listed("k", "v", etag)).unwrap();
        meta.attrs.insert("nth".to_owned(), n.into());
        if line.find(&meta.attrs, n + 1 == snapshot.len()).unwrap().is_none() {
            after.push(etag.clone());
        }
    }
    let written = after.len() - there.len();
    (after, written)
}

fn contents() -> impl Strategy<Value = Vec<String>> {
    proptest::collection::vec("[abc]?", 0..8)
}

proptest! {
    #[test]
    fn a_history_comes_out_oldest_first_however_long_it_is(count in 1..50_usize, block_max in 1..7_usize) {
        let contents: Vec<String> = (0..count).map(|n| format!("e{n}")).collect();
        let mut history = history(&contents, block_max).unwrap();
        prop_assert_eq!(&history.newest.etag, contents.last().unwrap());
        prop_assert!(history.block.len() <= block_max, "the rest waits in a file");
        for etag in &contents {
            prop_assert!(!history.is_over());
            prop_assert_eq!(&history.next().unwrap().unwrap().etag, etag);
        }
        prop_assert!(history.is_over());
        prop_assert!(history.next().unwrap().is_none());
    }

    #[test]
    fn after_a_restore_all_versions_stand_in_their_order_and_nothing_is_lost(
        snapshot in contents(),
        there in contents(),
    ) {
        let (after, _) = restore(&snapshot, &there);
        prop_assert_eq!(&after[..there.len()], &there[..]);
        let mut rest = after.iter();
        prop_assert!(snapshot.iter().all(|one| rest.any(|other| other == one)), "{:?}", after);
        if let Some(latest) = snapshot.last() {
            prop_assert_eq!(after.last(), Some(latest));
        }
    }

    #[test]
    fn the_same_restore_again_writes_nothing_and_one_that_broke_off_is_continued(
        snapshot in contents(),
        there in contents(),
        broken in 0..8_usize,
    ) {
        let (after, all) = restore(&snapshot, &there);
        prop_assert_eq!(restore(&snapshot, &after), (after.clone(), 0));
        let part = &after[..there.len() + broken.min(all)];
        let (again, written) = restore(&snapshot, part);
        prop_assert_eq!(&again, &after);
        prop_assert_eq!(written, all - broken.min(all));
    }

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
fn the_order_of_versions_and_markers_is_that_of_the_answer() {
    let xml = "<ListVersionsResult><VersionIdMarker/><Version><Key>a</Key><VersionId>1</VersionId></Version>\
               <DeleteMarker><Key>a</Key></DeleteMarker><Version xmlns=\"x\"/><DeleteMarker/></ListVersionsResult>";
    assert_eq!(kinds(xml).collect::<Vec<_>>(), [false, true, false, true]);
}

#[test]
fn a_listing_that_goes_back_repeats_or_contradicts_itself_is_refused() {
    let latest = |mut one: Listed| {
        one.version.as_mut().unwrap().is_latest = true;
        one
    };
    let b2 = listed("b", "2", "e");
    assert!(follows(&b2, &mut latest(listed("c", "1", "e")), false).is_ok());
    assert!(follows(&b2, &mut listed("b", "1", "e"), false).is_ok());
    assert!(follows(&b2, &mut listed("b", "2", "e"), false).is_err());
    assert!(follows(&b2, &mut listed("a", "1", "e"), true).is_err());
    assert!(follows(&b2, &mut latest(listed("b", "1", "e")), false).is_err());
    let mut between_pages = latest(listed("b", "1", "e"));
    assert!(follows(&b2, &mut between_pages, true).is_ok());
    assert!(!between_pages.is_current(), "a newer one of it came before");
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
