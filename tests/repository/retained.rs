//! A store that was asked to keep things refuses to remove them: prune says so, believes nothing else, and tries again.

use std::{
    collections::BTreeSet,
    ops::Range,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use bytes::Bytes;
use lifeboat::{
    error::ExitCode,
    names::{Key, SnapshotId},
    repo::{self, PruneReport, format::layout},
    store::{Delete, Get, Listed, MemoryStore, Put, StoreError},
};

use crate::fixture::{AT_ONCE, Cargo, Ship, keys_under, noise, parcel};

/// A store that keeps whatever has one of these words in its name.
#[derive(Clone)]
struct Keeping {
    inner: MemoryStore,
    words: Arc<Mutex<Vec<&'static str>>>,
}

impl Keeping {
    fn of(inner: &MemoryStore, words: &[&'static str]) -> Self {
        Self { inner: inner.clone(), words: Arc::new(Mutex::new(words.to_vec())) }
    }

    fn let_go(&self) {
        self.words.lock().unwrap().clear();
    }
}

#[async_trait]
impl Put for Keeping {
    async fn put(&self, key: &Key, body: Bytes) -> Result<(), StoreError> {
        self.inner.put(key, body).await
    }
}

#[async_trait]
impl Get for Keeping {
    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Bytes, StoreError> {
        self.inner.get(key, range).await
    }
    async fn size(&self, key: &Key) -> Result<Option<u64>, StoreError> {
        self.inner.size(key).await
    }
    async fn list(&self, prefix: &str) -> Result<Vec<Listed>, StoreError> {
        self.inner.list(prefix).await
    }
}

#[async_trait]
impl Delete for Keeping {
    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        let keeps = self.words.lock().unwrap().iter().any(|word| key.as_str().contains(word));
        if keeps {
            return Err(StoreError::Denied { at: key.to_string(), source: "it is locked".into() });
        }
        self.inner.delete(key).await
    }
}

fn cargo(seed: u64) -> Cargo {
    Cargo::of("minio", vec![parcel("only", noise(200_000, seed))])
}

/// Runs a prune at once, of a place where things may be retained.
async fn prune(ship: &Ship, store: &Keeping, forget: &[&SnapshotId]) -> PruneReport {
    let repository = ship.maintain(store).await.unwrap().retaining();
    let seen = repository.inspect(&ship.now(), &ship.monitor()).await.unwrap();
    seen.check(&BTreeSet::new()).unwrap();
    let remove = forget.iter().map(|id| ((*id).clone(), "a test says so".to_owned())).collect();
    let plan = repo::plan(&seen, &remove, AT_ONCE, ship.now().clock.now());
    repository.apply(plan, &ship.now(), &ship.monitor()).await.unwrap()
}

/// Makes a snapshot, a second one, forgets the first and waits for its sweep.
async fn condemned(words: &[&'static str]) -> (Ship, MemoryStore, Keeping, SnapshotId, SnapshotId) {
    let (ship, store) = Ship::launched_with_times().await;
    let keeping = Keeping::of(&store, words);
    let first = ship.backup(&store, &cargo(1)).await.unwrap().id;
    let second = ship.backup(&store, &cargo(2)).await.unwrap().id;
    let report = prune(&ship, &keeping, &[&first]).await;
    assert!(report.condemned > 0 && report.swept.is_empty());
    ship.backup(&store, &cargo(2)).await.unwrap();
    (ship, store, keeping, first, second)
}

#[tokio::test]
async fn retained_packs_are_in_no_done_mark_are_condemned_anew_and_go_when_their_lock_ran_out() {
    let (ship, store, keeping, first, second) = condemned(&["packs/"]).await;
    let before: BTreeSet<Key> = keys_under(&store, layout::PACKS).into_iter().collect();
    let report = prune(&ship, &keeping, &[]).await;
    let swept = &report.swept[0];
    assert!(swept.deleted.is_empty() && swept.deleted_bytes == 0 && !swept.retained.is_empty());
    assert_eq!(report.retained, swept.retained);
    assert_eq!(swept.snapshots, BTreeSet::from([first]), "what is not locked is gone");
    let done = store.get(&Key::new("prune/00000001.done.json").unwrap(), None).await.unwrap();
    let done: serde_json::Value = serde_json::from_slice(&done).unwrap();
    assert_eq!(done["deleted"], serde_json::json!([]), "the mark does not lie");
    let after: BTreeSet<Key> = keys_under(&store, layout::PACKS).into_iter().collect();
    assert!(before.is_subset(&after));

    let again = ship.backup(&store, &cargo(1)).await.unwrap();
    assert!(again.added_packs > 0, "nobody relies on what is only retained");
    let report = prune(&ship, &keeping, &[]).await;
    assert!(report.condemned > 0, "it is condemned anew");
    ship.backup(&store, &cargo(2)).await.unwrap();
    keeping.let_go();
    let report = prune(&ship, &keeping, &[]).await;
    assert!(report.retained.is_empty() && report.swept.iter().any(|one| !one.deleted.is_empty()));
    let left: BTreeSet<Key> = keys_under(&store, layout::PACKS).into_iter().collect();
    assert!(swept.retained.iter().all(|key| !left.contains(key)), "they went once the store let them");
    ship.assert_holds(&store, &second, &cargo(2)).await;
    ship.assert_holds(&store, &again.id, &cargo(1)).await;
    assert_eq!(ship.verify(&store).await.damage, []);
}

#[tokio::test]
async fn a_snapshot_whose_signature_is_retained_keeps_its_packs() {
    let (ship, store, keeping, first, _) = condemned(&[".minisig"]).await;
    let packs = keys_under(&store, layout::PACKS).len();
    let report = prune(&ship, &keeping, &[]).await;
    let refs = layout::refs(&first, 0);
    assert!(report.retained.contains(&layout::signature(&refs)));
    assert!(store.size(&refs).await.unwrap().is_some() && report.swept[0].snapshots.is_empty());
    assert_eq!(keys_under(&store, layout::PACKS).len(), packs, "what is signed is whole");
    keeping.let_go();
    for _ in 0..2 {
        ship.backup(&store, &cargo(2)).await.unwrap();
        prune(&ship, &keeping, &[]).await;
    }
    assert_eq!(store.size(&refs).await.unwrap(), None);
    assert!(keys_under(&store, layout::PACKS).len() < packs);
    assert_eq!(ship.verify(&store).await.damage, []);
}

#[tokio::test]
async fn a_store_that_keeps_everything_stops_no_prune() {
    let (ship, store, keeping, _, second) = condemned(&[""]).await;
    for _ in 0..3 {
        let report = prune(&ship, &keeping, &[]).await;
        assert!(report.swept.iter().all(|one| one.deleted.is_empty() && one.snapshots.is_empty()));
        ship.backup(&store, &cargo(2)).await.unwrap();
    }
    ship.assert_holds(&store, &second, &cargo(2)).await;
    assert_eq!(ship.verify(&store).await.damage, []);
}

#[tokio::test]
async fn where_nothing_was_to_be_kept_a_refusal_ends_the_sweep() {
    let (ship, _, keeping, ..) = condemned(&["packs/"]).await;
    let failure = ship.prune(&keeping, &[], AT_ONCE).await.unwrap_err();
    assert_eq!(failure.exit(), ExitCode::StoreDown);
}
