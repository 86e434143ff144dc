//! Who can read changes from one snapshot to the next, and nobody sets that back unseen.

use std::sync::Arc;

use lifeboat::{
    crypt::{Identities, NewKeys, SigningKey, Trust, files, make_keys},
    error::ExitCode,
    event::NoMonitor,
    flow::Selection,
    repo::{MemoryIndex, MemoryWitness, Place, Repository, format::layout},
    store::{Get, MemoryStore},
};
use tempfile::TempDir;

use crate::fixture::{Cargo, Ship, keys_under, noise, parcel, read};

fn cargo(seeds: &[u64]) -> Cargo {
    Cargo::of("minio", seeds.iter().map(|n| parcel(&format!("{n}"), noise(200_000, *n))).collect())
}

/// A second set of keys.
fn others() -> (TempDir, NewKeys, Identities) {
    let folder = tempfile::tempdir().unwrap();
    let made = make_keys(folder.path(), "for a test").unwrap();
    let identities = Identities::from_file(&folder.path().join(files::IDENTITY)).unwrap();
    (folder, made, identities)
}

async fn rotate(ship: &Ship, store: &MemoryStore, recipients: &[&str]) {
    let maintain = ship.maintain(store).await.unwrap();
    let data = recipients.iter().map(|one| (*one).to_owned()).collect();
    let index = maintain.config().index_recipients.clone();
    maintain.rotate(data, index, &ship.index_key()).await.unwrap();
}

async fn can_read(
    ship: &Ship,
    store: &MemoryStore,
    id: &lifeboat::names::SnapshotId,
    who: Identities,
    cargo: &Cargo,
) -> bool {
    let place = ship.place(store, &Arc::default());
    let reader = Repository::read(place, who, &NoMonitor::shared()).await.unwrap();
    let Ok(snapshot) = reader.snapshot(id).await else { return false };
    read(snapshot, &cargo.name, Selection::all()).await.is_ok()
}

#[tokio::test]
async fn a_new_reader_can_read_all_of_every_new_snapshot() {
    let (ship, store) = Ship::launched().await;
    let known: Arc<MemoryIndex> = Arc::default();
    let (_folder, made, second) = others();
    let cargo = cargo(&[1, 2, 3]);
    let before = ship.backup_knowing(&store, &known, std::slice::from_ref(&cargo)).await.unwrap();
    rotate(&ship, &store, &[&ship.made.recipient, &made.recipient]).await;
    let after = ship.backup_knowing(&store, &known, std::slice::from_ref(&cargo)).await.unwrap();
    assert!(after.added_packs > 0, "nothing that the new reader cannot open is relied on");
    let again = ship.backup_knowing(&store, &known, std::slice::from_ref(&cargo)).await.unwrap();
    assert_eq!(again.added_packs, 0, "and what opens to all is");
    for id in [&after.id, &again.id] {
        assert!(can_read(&ship, &store, id, second.clone(), &cargo).await);
        ship.assert_holds(&store, id, &cargo).await;
    }
    assert!(!can_read(&ship, &store, &before.id, second, &cargo).await);
    ship.assert_holds(&store, &before.id, &cargo).await;
    assert_eq!(ship.verify(&store).await.damage, []);
}

#[tokio::test]
async fn what_is_new_does_not_open_to_a_reader_who_was_taken_out() {
    let (ship, store) = Ship::launched().await;
    let known: Arc<MemoryIndex> = Arc::default();
    let (_folder, made, second) = others();
    let before = ship.backup_knowing(&store, &known, &[cargo(&[1])]).await.unwrap();
    rotate(&ship, &store, &[&made.recipient]).await;
    let after = ship.backup_knowing(&store, &known, &[cargo(&[2])]).await.unwrap();
    assert!(!can_read(&ship, &store, &after.id, ship.identities(), &cargo(&[2])).await);
    assert!(can_read(&ship, &store, &after.id, second, &cargo(&[2])).await);
    assert!(can_read(&ship, &store, &before.id, ship.identities(), &cargo(&[1])).await, "old ones still do");
}

#[tokio::test]
async fn a_config_that_was_set_back_is_tampering() {
    let (ship, store) = Ship::launched().await;
    let (_folder, made, _) = others();
    let witness = Arc::new(MemoryWitness::default());
    let place = || Place { witness: witness.clone(), ..ship.place(&store, &Arc::default()) };
    rotate(&ship, &store, &[&ship.made.recipient, &made.recipient]).await;
    ship.backup(&store, &cargo(&[1])).await.unwrap();
    Repository::clear(place()).await.unwrap();
    let revision = layout::config_revision(1);
    let objects = store.dump();
    let replayed = MemoryStore::new();
    for (key, bytes) in objects.iter().filter(|(key, _)| !key.as_str().starts_with(revision.as_str())) {
        replayed.overwrite(key, bytes.clone());
    }
    let place = Place { get: Arc::new(replayed.clone()), ..place() };
    let failure = Repository::clear(place).await.err().unwrap();
    assert_eq!(failure.exit(), ExitCode::Tampering, "this host has seen the newer one");
    let report = ship.verify(&replayed).await;
    assert!(
        report.damage.iter().any(|damage| damage.tampering),
        "and a commit that names it tells everybody"
    );
    let failure = ship.prune(&replayed, &[], lifeboat::repo::Terms::default()).await.unwrap_err();
    assert_eq!(failure.exit(), ExitCode::Tampering);
}

#[tokio::test]
async fn only_a_maintainer_changes_who_can_read() {
    let (ship, store) = Ship::launched().await;
    let chief = SigningKey::generate().unwrap();
    let trust = Trust::parse(std::slice::from_ref(&ship.made.signer), &[chief.public()], &[]).unwrap();
    let place = || Place { trust: trust.clone(), ..ship.place(&store, &Arc::default()) };
    let (put, delete) = (Arc::new(store.clone()), Arc::new(store.clone()));
    let opened = Repository::maintain(place(), put, delete, ship.signing(), None, &ship.monitor()).await;
    assert_eq!(opened.err().unwrap().exit(), ExitCode::KeyRefused);
    // The writer's own key signs a config all the same, with a policy that says it may.
    rotate(&ship, &store, &[&ship.made.recipient, &others().1.recipient]).await;
    let failure = Repository::clear(place()).await.err().unwrap();
    assert_eq!(failure.exit(), ExitCode::Tampering);
    assert!(keys_under(&store, layout::CONFIG_PREFIX).len() == 4);
}

#[tokio::test]
async fn a_change_that_died_half_way_is_tried_again() {
    let (ship, store) = Ship::launched().await;
    let half = layout::signature(&layout::config_revision(1));
    store.overwrite(&half, "a signature without its config");
    let (_folder, made, second) = others();
    rotate(&ship, &store, &[&ship.made.recipient, &made.recipient]).await;
    assert!(store.size(&layout::config_revision(2)).await.unwrap().is_some());
    let committed = ship.backup(&store, &cargo(&[1])).await.unwrap();
    assert!(can_read(&ship, &store, &committed.id, second, &cargo(&[1])).await);
}
