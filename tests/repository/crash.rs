//! A backup that dies at any operation harms nothing that was there, and the next one is as good as any.

use std::sync::Arc;

use lifeboat::{
    names::SnapshotId,
    repo::{MemoryIndex, format::layout},
    store::{Fault, FaultStore, FsStore, Get, MemoryStore, Store, Which},
};

use crate::fixture::{Cargo, Ship, noise, parcel};

/// What was there, and what the run that dies was to add: some old, some new, in several packs.
fn voyages() -> (Cargo, Cargo) {
    let old = Cargo::of("minio", vec![parcel("a", noise(700_000, 1)), parcel("b", noise(40_000, 2))]);
    let new = Cargo::of(
        "minio",
        vec![parcel("a", noise(700_000, 1)), parcel("c", noise(650_000, 3)), parcel("d", noise(650_000, 4))],
    );
    (old, new.reusing())
}

/// Lets a second backup die at operation `n`; returns whether there was such an operation.
async fn die<S: Store + Clone + 'static>(
    ship: &Ship,
    store: S,
    (which, n, fault): (Which, u64, Fault),
    first: &SnapshotId,
) -> bool {
    let (old, new) = voyages();
    let faulty = FaultStore::new(store);
    // A host keeps its index from run to run; also across one that died.
    let known: Arc<MemoryIndex> = Arc::default();
    faulty.die_at(which, n, fault);
    let died = ship.backup_knowing(&faulty, &known, std::slice::from_ref(&new)).await;
    let struck = faulty.has_struck();
    faulty.heal();
    assert_eq!(
        died.is_err(),
        struck,
        "a backup fails when an operation of it fails: {which:?} {n} {fault:?}"
    );
    let at = format!("{which:?} {n} {fault:?}");
    let listed = ship.listed(&faulty).await;
    assert_eq!(listed.first(), Some(first), "{at}");
    // What is listed is whole: the last put may have taken effect although nobody was told.
    ship.assert_holds(&faulty, first, &old).await;
    for id in &listed[1..] {
        ship.assert_holds(&faulty, id, &new).await;
    }
    let damage = ship.verify(&faulty).await.damage;
    assert!(damage.is_empty(), "{at}: {damage:?}");
    let next = ship.backup_knowing(&faulty, &known, std::slice::from_ref(&new)).await;
    let next = next.unwrap_or_else(|failure| panic!("{at}: {:?}", failure.chain()));
    ship.assert_holds(&faulty, &next.id, &new).await;
    ship.assert_holds(&faulty, first, &old).await;
    assert_eq!(ship.verify(&faulty).await.damage, []);
    struck
}

async fn enumerate(which: Which, fault: Fault) -> u64 {
    let (ship, store) = Ship::launched().await;
    let first = ship.backup(&store, &voyages().0).await.unwrap().id;
    let mut n = 1;
    while die(&ship, store.fork(), (which, n, fault), &first).await {
        n += 1;
    }
    n
}

#[tokio::test]
async fn dying_before_any_write_leaves_the_repository_whole() {
    assert!(enumerate(Which::Writes, Fault::Before).await >= 9);
}

#[tokio::test]
async fn dying_after_any_write_leaves_the_repository_whole() {
    assert!(enumerate(Which::Writes, Fault::After).await >= 9);
}

#[tokio::test]
async fn a_full_store_at_any_write_leaves_the_repository_whole() {
    assert!(enumerate(Which::Writes, Fault::Full).await >= 9);
}

#[tokio::test]
async fn dying_at_any_operation_leaves_the_repository_whole() {
    assert!(enumerate(Which::All, Fault::Before).await >= 18);
}

#[tokio::test]
async fn dying_at_any_write_leaves_a_repository_in_a_folder_whole() {
    for n in 1.. {
        let (ship, dir) = (Ship::new(), tempfile::tempdir().unwrap());
        let store = FsStore::create(dir.path().join("repository")).unwrap();
        ship.create(&store).await;
        let first = ship.backup(&store, &voyages().0).await.unwrap().id;
        if !die(&ship, store, (Which::Writes, n, Fault::After), &first).await {
            break;
        }
    }
}

#[tokio::test]
async fn a_single_write_that_fails_fails_the_run_and_nothing_else() {
    let (ship, store) = Ship::launched().await;
    let (old, new) = voyages();
    let first = ship.backup(&store, &old).await.unwrap().id;
    for n in 1.. {
        let faulty = FaultStore::new(store.fork());
        faulty.fail_at(Which::Writes, n, Fault::Before);
        let run = ship.backup(&faulty, &new).await;
        if !faulty.has_struck() {
            break;
        }
        // The store came back at once; still a snapshot without that object must not be.
        assert!(run.is_err(), "write {n}");
        assert_eq!(ship.listed(faulty.inner()).await, std::slice::from_ref(&first), "write {n}");
    }
}

#[tokio::test]
async fn a_backup_that_is_cancelled_anywhere_leaves_nothing_to_be_listed() {
    let (ship, store) = Ship::launched().await;
    let (old, new) = voyages();
    let first = ship.backup(&store, &old).await.unwrap().id;
    for turns in (0..120).step_by(3) {
        let fork = store.fork();
        let mut run = Box::pin(ship.backup(&fork, &new));
        let mut ended = false;
        for _ in 0..turns {
            ended = futures_util::poll!(&mut run).is_ready();
            if ended {
                break;
            }
            tokio::task::spawn_blocking(|| ()).await.unwrap();
        }
        drop(run);
        let listed = ship.listed(&fork).await;
        assert_eq!(listed[0], first);
        for id in &listed[1..] {
            ship.assert_holds(&fork, id, &new).await;
        }
        if ended {
            return;
        }
        ship.assert_holds(&fork, &first, &old).await;
        let next = ship.backup(&fork, &new).await.unwrap();
        ship.assert_holds(&fork, &next.id, &new).await;
    }
}

#[tokio::test]
async fn making_a_repository_can_die_anywhere_and_never_leaves_half_of_one() {
    for n in 1.. {
        let (ship, store) = (Ship::new(), FaultStore::new(MemoryStore::new()));
        store.die_at(Which::Writes, n, Fault::Before);
        let (signing, ground) = (ship.signing(), ship.ground());
        let new = lifeboat::repo::NewRepository {
            data_recipients: vec![ship.made.recipient.clone()],
            index_recipients: vec![ship.made.index_recipient.clone()],
            signing: &signing,
            ground: &ground,
        };
        let made = lifeboat::repo::create(&store, &store, new).await;
        let struck = store.has_struck();
        store.heal();
        assert_eq!(made.is_err(), struck);
        if !struck {
            break;
        }
        assert_eq!(store.size(&layout::config()).await.unwrap(), None);
        let opened = ship.reader(&store).await.err().expect("there is none");
        assert_eq!(opened.exit(), lifeboat::error::ExitCode::NoRepository);
    }
}

#[tokio::test]
async fn two_backups_at_once_are_two_snapshots() {
    let (ship, store) = Ship::launched().await;
    let (old, new) = voyages();
    let (one, two) = tokio::join!(ship.backup(&store, &old), ship.backup(&store, &new));
    let (one, two) = (one.unwrap(), two.unwrap());
    ship.assert_holds(&store, &one.id, &old).await;
    ship.assert_holds(&store, &two.id, &new).await;
    assert_eq!(ship.listed(&store).await.len(), 2);
    let third = ship.backup(&store, &new).await.unwrap();
    assert_eq!(third.added_packs, 0);
    assert_eq!(ship.verify(&store).await.damage, []);
}
