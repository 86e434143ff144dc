//! The promises of [`super`] as a suite that every store's tests run.
//!
//! Keys lie under `suite/`, so that the suite can run beside other objects; it removes what it made.

use std::sync::Arc;

use bytes::Bytes;

use super::{Store, StoreError};
use crate::names::Key;

/// In what a store may differ and still be one.
#[derive(Clone, Copy, Debug)]
pub struct Quirks {
    /// Whether of two puts at the same instant exactly one wins.
    pub create_only_is_atomic: bool,
    /// Whether a listing tells when an object was stored.
    pub tells_time: bool,
}

impl Default for Quirks {
    fn default() -> Self {
        Self { create_only_is_atomic: true, tells_time: false }
    }
}

/// Runs all of it.
///
/// # Panics
/// When a promise is broken.
pub async fn run<S: Store + Clone + 'static>(store: &S, quirks: Quirks) {
    sweep(store).await;
    what_was_put_comes_back(store).await;
    a_taken_name_stays_as_it_was(store).await;
    of_many_putters_one_wins(store, quirks).await;
    ranges_are_exact(store).await;
    what_is_missing_says_so(store).await;
    listings_are_sorted_and_whole(store, quirks).await;
    deleting_twice_is_no_error(store).await;
    sweep(store).await;
}

fn key(text: &str) -> Key {
    Key::new(&format!("suite/{text}")).expect("the suite's keys are keys")
}

async fn sweep(store: &impl Store) {
    for object in store.list("suite/").await.expect("the store lists") {
        store.delete(&object.key).await.expect("the store deletes");
    }
    assert_eq!(store.list("suite/").await.expect("the store lists"), []);
}

async fn what_was_put_comes_back(store: &impl Store) {
    let big: Bytes = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    for (name, body) in [("back/empty", Bytes::new()), ("back/small", "x".into()), ("back/big", big)] {
        store.put(&key(name), body.clone()).await.expect("a new name can be put");
        assert_eq!(store.get(&key(name), None).await.expect("what was put can be read"), body, "{name}");
        assert_eq!(store.size(&key(name)).await.expect("it has a size"), Some(body.len() as u64), "{name}");
    }
}

async fn a_taken_name_stays_as_it_was(store: &impl Store) {
    let name = key("taken");
    store.put(&name, "first".into()).await.expect("a new name can be put");
    for second in ["other", "first", ""] {
        let refused = store.put(&name, second.into()).await;
        assert!(matches!(refused, Err(StoreError::Exists { .. })), "{second:?}: {refused:?}");
    }
    assert_eq!(store.get(&name, None).await.expect("the first stays"), "first");
    super::put_same(store, store, &name, "first".into()).await.expect("the same again is fine");
    assert!(super::put_same(store, store, &name, "other".into()).await.is_err_and(|error| error.is_exists()));
}

async fn of_many_putters_one_wins<S: Store + Clone + 'static>(store: &S, quirks: Quirks) {
    if !quirks.create_only_is_atomic {
        return;
    }
    for round in 0..5 {
        let name = key(&format!("race/{round}"));
        let start = Arc::new(tokio::sync::Barrier::new(8));
        let mut putters = tokio::task::JoinSet::new();
        for number in 0..8_u8 {
            let (store, name, start) = (store.clone(), name.clone(), Arc::clone(&start));
            putters.spawn(async move {
                start.wait().await;
                (number, store.put(&name, vec![number; 100_000].into()).await)
            });
        }
        let mut winners = Vec::new();
        while let Some(done) = putters.join_next().await {
            match done.expect("a putter does not panic") {
                (number, Ok(())) => winners.push(number),
                (_, Err(StoreError::Exists { .. })) => {}
                (number, Err(error)) => panic!("putter {number}: {error:?}"),
            }
        }
        let [winner] = winners[..] else { panic!("round {round}: {winners:?} won") };
        let body = store.get(&name, None).await.expect("the winner's bytes are there");
        assert!(body.len() == 100_000 && body.iter().all(|byte| *byte == winner), "the bytes are mixed");
    }
}

async fn ranges_are_exact(store: &impl Store) {
    let name = key("range");
    store.put(&name, "0123456789".into()).await.expect("a new name can be put");
    for (range, want) in [(0..10, "0123456789"), (3..7, "3456"), (9..10, "9"), (4..4, "")] {
        let got = store.get(&name, Some(range.clone())).await.expect("the range is inside");
        assert_eq!(got, want, "{range:?}");
    }
    for range in [5..11, 10..12, 100..200] {
        let refused = store.get(&name, Some(range.clone())).await;
        assert!(matches!(refused, Err(StoreError::Short { .. })), "{range:?}: {refused:?}");
    }
}

async fn what_is_missing_says_so(store: &impl Store) {
    let name = key("missing/deep/x");
    assert_eq!(store.size(&name).await.expect("asking is no error"), None);
    for range in [None, Some(0..1)] {
        let refused = store.get(&name, range).await;
        assert!(matches!(refused, Err(StoreError::NotFound { .. })), "{refused:?}");
    }
    assert_eq!(store.list("suite/missing/").await.expect("an empty prefix lists"), []);
}

async fn listings_are_sorted_and_whole(store: &impl Store, quirks: Quirks) {
    // `-` and `.` sort before `/`: a walk by folders gives another order than the keys have.
    for name in ["list/b", "list/a/c/d", "list/a.b", "list0", "list/a-b"] {
        store.put(&key(name), name.into()).await.expect("a new name can be put");
    }
    let sorted = ["list/a-b", "list/a.b", "list/a/c/d", "list/b", "list0"].map(|name| key(name).to_string());
    let names_of = |listed: &[super::Listed]| -> Vec<String> {
        listed.iter().map(|object| object.key.to_string()).collect()
    };
    let all = store.list("suite/list").await.expect("the store lists");
    assert_eq!(names_of(&all), sorted);
    for object in &all {
        assert_eq!(object.size_bytes, (object.key.as_str().len() - "suite/".len()) as u64);
        assert_eq!(object.modified.is_some(), quirks.tells_time, "{object:?}");
    }
    let inside = store.list("suite/list/").await.expect("the store lists");
    assert_eq!(names_of(&inside), sorted[..4]);
    let part = store.list("suite/list/a").await.expect("the store lists");
    assert_eq!(names_of(&part), sorted[..3]);
    assert_eq!(store.list("suite/none/").await.expect("the store lists"), []);
}

async fn deleting_twice_is_no_error(store: &impl Store) {
    let name = key("deleted");
    store.put(&name, "x".into()).await.expect("a new name can be put");
    store.delete(&name).await.expect("it can be removed");
    assert_eq!(store.size(&name).await.expect("asking is no error"), None);
    store.delete(&name).await.expect("it can be removed again");
    store.put(&name, "y".into()).await.expect("the name is free again");
}
