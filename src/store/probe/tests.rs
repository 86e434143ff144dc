//! Stores that keep every law, and for each law one that breaks it.

use std::{ops::Range, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;

use super::*;
use crate::{
    clock::{Clock, StoppedClock, System},
    store::{
        CountingStore, Delete, Fault, FaultStore, FsStore, Get, Guarantees, MemoryStore, Put, Store, Verb,
        Which,
        conformance::{self, Quirks},
    },
};

async fn probe_with(store: impl Store + 'static, clock: Arc<dyn Clock>) -> Vec<Probed> {
    let ground = Ground { clock, dice: Arc::new(System) };
    probe(&Opened::of(store, "memory", Guarantees::full()), &ground).await
}

async fn probed(store: impl Store + 'static) -> Vec<Probed> {
    probe_with(store, Arc::new(System)).await
}

/// Returns a law's name in the family of stores.
fn name(found: &Probed) -> &str {
    found.id.strip_prefix("store.").unwrap()
}

/// Returns the laws that were not found to hold.
fn not_ok(findings: &[Probed]) -> Vec<(&str, Status)> {
    findings
        .iter()
        .filter(|found| found.status != Status::Ok)
        .map(|found| (name(found), found.status))
        .collect()
}

fn detail<'f>(findings: &'f [Probed], id: &str) -> &'f str {
    &findings.iter().find(|found| name(found) == id).unwrap().detail
}

#[tokio::test]
async fn a_good_store_keeps_every_law_and_nothing_is_left_in_it() {
    let store = MemoryStore::with_clock(Arc::new(System));
    let findings = probed(store.clone()).await;
    assert_eq!(not_ok(&findings), []);
    assert_eq!(findings.len(), 10);
    assert!(findings.iter().all(|found| found.hint.is_none() && !found.detail.is_empty()));
    assert!(refuses_prune(&findings).is_none());
    assert!(store.dump().is_empty());
}

#[tokio::test]
async fn a_folder_keeps_every_law_and_holds_no_file_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = FsStore::new(dir.path());
    assert_eq!(not_ok(&probed(store.clone()).await), []);
    assert_eq!(store.list("").await.unwrap(), []);
    assert_eq!(store.trash().await.unwrap().objects, 0);
    assert_eq!(std::fs::read_dir(dir.path().join(PROBES)).unwrap().count(), 0);
}

#[tokio::test]
async fn a_store_without_times_is_noted_and_may_be_pruned() {
    let findings = probed(MemoryStore::new()).await;
    assert_eq!(not_ok(&findings), [("clock", Status::Unknown)]);
    assert!(refuses_prune(&findings).is_none());
}

#[tokio::test]
async fn a_clock_may_be_five_minutes_off_and_no_more() {
    let here = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
    let drift = async |seconds: i64| {
        let theirs = StoppedClock::at(here + TimeDelta::seconds(seconds));
        let store = MemoryStore::with_clock(Arc::new(theirs));
        let findings = probe_with(store, Arc::new(StoppedClock::at(here))).await;
        let refused = refuses_prune(&findings).map(|failure| failure.one_line());
        (detail(&findings, "clock").to_owned(), refused.unwrap_or_default())
    };
    assert_eq!(drift(0).await.0, "no difference was seen");
    assert_eq!(drift(-1).await.0, "no difference was seen", "many stores count whole seconds");
    assert_eq!(drift(300).await, ("it is 300 s ahead of this host".to_owned(), String::new()));
    assert_eq!(drift(-301).await, ("it is 300 s behind this host".to_owned(), String::new()));
    for (seconds, told) in [(301, "it is 301 s ahead of this host"), (-302, "it is 301 s behind this host")] {
        let (detail, refused) = drift(seconds).await;
        assert_eq!(detail, told);
        assert_eq!(
            refused,
            format!(
                "prune cannot rely on this store: `the store's clock is within 5 minutes of this host's` does \
                 not hold: {told}"
            )
        );
    }
}

#[tokio::test]
async fn a_store_that_is_down_is_told_once() {
    for (which, fault) in [(Which::Reads, Fault::Before), (Which::Writes, Fault::Full)] {
        let store = FaultStore::new(MemoryStore::new());
        store.die_at(which, 1, fault);
        let findings = probed(store).await;
        assert_eq!(not_ok(&findings), [("answers", Status::Broken)]);
        assert_eq!(findings.len(), 1);
        assert!(refuses_prune(&findings).is_some());
    }
}

/// The order of a probe's reads, by which the faults below strike: two listings, one after the put and one
/// after the delete.
async fn nth_list(nth: usize) -> u64 {
    let store = CountingStore::new(MemoryStore::new());
    probed(store.clone()).await;
    let reads =
        store.calls().into_iter().filter(|call| matches!(call.verb, Verb::Get | Verb::Size | Verb::List));
    let lists: Vec<usize> =
        reads.enumerate().filter(|(_, call)| call.verb == Verb::List).map(|(at, _)| at + 1).collect();
    lists[nth] as u64
}

#[tokio::test]
async fn listings_that_lag_behind_are_broken_laws() {
    let store = FaultStore::new(MemoryStore::new());
    store.fail_at(Which::Reads, nth_list(1).await, Fault::StaleList(100));
    let findings = probed(store).await;
    assert_eq!(not_ok(&findings), [("list_after_put", Status::Broken), ("clock", Status::Unknown)]);
    let refused = refuses_prune(&findings).unwrap();
    assert_eq!(refused.chain()[1], "it is not in the listing");
    assert!(!refused.hints().is_empty());

    let store = FaultStore::new(MemoryStore::new());
    store.fail_at(Which::Reads, nth_list(2).await, Fault::StaleList(1));
    let findings = probed(store).await;
    assert_eq!(not_ok(&findings), [("clock", Status::Unknown), ("list_after_delete", Status::Broken)]);
    assert!(refuses_prune(&findings).is_some());
}

#[tokio::test]
async fn what_cannot_be_found_out_refuses_prune_too() {
    let store = FaultStore::new(MemoryStore::new());
    store.fail_at(Which::Reads, nth_list(1).await, Fault::Before);
    let findings = probed(store).await;
    assert_eq!(not_ok(&findings), [("list_after_put", Status::Unknown), ("clock", Status::Unknown)]);
    let refused = refuses_prune(&findings).unwrap();
    assert!(refused.hints()[0].starts_with("Check the network"), "{:?}", refused.hints());
}

#[tokio::test]
async fn changed_bytes_are_seen() {
    let store = FaultStore::new(MemoryStore::new());
    store.fail_at(Which::Reads, 2, Fault::Flip(9));
    let findings = probed(store).await;
    assert_eq!(not_ok(&findings)[0], ("put_get", Status::Broken));
    assert!(refuses_prune(&findings).is_none());
}

/// A store with one habit that no store should have.
#[derive(Clone)]
struct Odd {
    inner: MemoryStore,
    habit: Habit,
}

#[derive(Clone, Copy, PartialEq)]
enum Habit {
    Overwrites,
    LooksThenPuts,
    SaysDoneToAll,
    RefusesDeletes,
    ForgetsDeletes,
    IgnoresRanges,
    InventsObjects,
}

#[async_trait]
impl Put for Odd {
    async fn put(&self, key: &Key, body: Bytes) -> Result<(), StoreError> {
        match self.habit {
            Habit::Overwrites => self.inner.overwrite(key, body),
            Habit::LooksThenPuts => {
                if self.inner.size(key).await?.is_some() {
                    return Err(StoreError::Exists { key: key.clone() });
                }
                tokio::task::yield_now().await;
                self.inner.overwrite(key, body);
            }
            Habit::SaysDoneToAll => {
                let _ = self.inner.put(key, body).await;
            }
            _ => return self.inner.put(key, body).await,
        }
        Ok(())
    }
}

#[async_trait]
impl Get for Odd {
    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Bytes, StoreError> {
        match self.habit {
            Habit::InventsObjects => Ok(self.inner.get(key, range).await.unwrap_or_default()),
            Habit::IgnoresRanges => self.inner.get(key, None).await,
            _ => self.inner.get(key, range).await,
        }
    }

    async fn size(&self, key: &Key) -> Result<Option<u64>, StoreError> {
        self.inner.size(key).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Listed>, StoreError> {
        self.inner.list(prefix).await
    }
}

#[async_trait]
impl Delete for Odd {
    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        match self.habit {
            Habit::RefusesDeletes => {
                Err(StoreError::Denied { at: key.to_string(), source: "AccessDenied".into() })
            }
            Habit::ForgetsDeletes => Ok(()),
            _ => self.inner.delete(key).await,
        }
    }
}

async fn with_habit(habit: Habit) -> (Vec<Probed>, MemoryStore) {
    let inner = MemoryStore::with_clock(Arc::new(System));
    (probed(Odd { inner: inner.clone(), habit }).await, inner)
}

#[tokio::test]
async fn each_bad_habit_breaks_its_law() {
    for (habit, laws) in [
        (Habit::Overwrites, &["create_only", "race"][..]),
        (Habit::SaysDoneToAll, &["create_only", "race"]),
        (Habit::LooksThenPuts, &["race"]),
        (Habit::ForgetsDeletes, &["delete", "list_after_delete"]),
        (Habit::IgnoresRanges, &["range"]),
        (Habit::InventsObjects, &["range", "missing"]),
    ] {
        let (findings, _) = with_habit(habit).await;
        let want: Vec<_> = laws.iter().map(|law| (*law, Status::Broken)).collect();
        assert_eq!(not_ok(&findings), want);
        let deletes_wrongly = !matches!(habit, Habit::IgnoresRanges | Habit::InventsObjects);
        assert_eq!(refuses_prune(&findings).is_some(), deletes_wrongly, "{laws:?}");
    }
}

#[tokio::test]
async fn a_store_that_looks_first_and_then_puts_passes_the_suite_for_one_writer() {
    let store = Odd { inner: MemoryStore::new(), habit: Habit::LooksThenPuts };
    conformance::run(&store, Quirks { create_only_is_atomic: false, tells_time: false }).await;
}

#[tokio::test]
#[should_panic(expected = "won")]
async fn a_store_that_looks_first_and_then_puts_fails_the_suite_for_many() {
    let store = Odd { inner: MemoryStore::new(), habit: Habit::LooksThenPuts };
    conformance::run(&store, Quirks::default()).await;
}

#[tokio::test]
#[should_panic(expected = "\"other\": Ok(())")]
async fn a_store_that_ignores_conditional_puts_fails_the_suite() {
    let store = Odd { inner: MemoryStore::new(), habit: Habit::Overwrites };
    conformance::run(&store, Quirks { create_only_is_atomic: false, tells_time: false }).await;
}

#[tokio::test]
async fn a_host_that_may_not_delete_is_told_that_it_can_only_add() {
    let (findings, store) = with_habit(Habit::RefusesDeletes).await;
    assert_eq!(not_ok(&findings), [("delete", Status::Warn), ("list_after_delete", Status::Unknown)]);
    assert_eq!(store.dump().len(), 2 + RACES, "as few as can be stay");
    insta::assert_snapshot!(refuses_prune(&findings).unwrap().hints()[0], @"Right for a host that only adds snapshots. Prune must run elsewhere, with credentials that may delete.");
    assert!(detail(&findings, "delete").ends_with("AccessDenied; the probes' objects stay under `probe/`"));
}

#[tokio::test]
async fn what_a_dead_probe_left_is_cleared_and_a_running_one_is_left_alone() {
    let clock = StoppedClock::at(DateTime::from_timestamp(1_800_000_000, 0).unwrap());
    let store = MemoryStore::with_clock(Arc::new(clock.clone()));
    store.put(&Key::new("probe/dead-a").unwrap(), "x".into()).await.unwrap();
    clock.advance(LEFT_BEHIND);
    store.put(&Key::new("probe/alive-a").unwrap(), "x".into()).await.unwrap();
    clock.advance(TimeDelta::seconds(1));
    assert_eq!(not_ok(&probe_with(store.clone(), Arc::new(clock)).await), []);
    assert_eq!(store.dump().keys().map(Key::as_str).collect::<Vec<_>>(), ["probe/alive-a"]);
}

#[test]
fn a_store_that_was_asked_to_keep_things_may_refuse_to_delete_and_nothing_else() {
    let refused = || {
        [DELETE.found(Status::Warn, "403"), LIST_AFTER_DELETE.found(Status::Unknown, "-")].map(super::probed)
    };
    assert!(refuses_prune(&refused()).is_some());
    assert!(refuses_prune_of_kept(&refused()).is_none());
    let others: Vec<Probed> =
        refused().into_iter().chain([super::probed(CREATE_ONLY.broken("it was replaced"))]).collect();
    assert!(refuses_prune_of_kept(&others).unwrap().to_string().contains("taken name"));
    let down = [DELETE.found(Status::Unknown, "503"), LIST_AFTER_DELETE.found(Status::Unknown, "-")]
        .map(super::probed);
    assert!(refuses_prune_of_kept(&down).is_some(), "that is no refusal");
    let lagging = [DELETE.ok("-"), LIST_AFTER_DELETE.broken("it is still in the listing")].map(super::probed);
    assert!(refuses_prune_of_kept(&lagging).is_some());
}
