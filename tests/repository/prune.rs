//! Prune forgets what it is told to and removes what nobody needs, in two phases, and nothing else.

use std::sync::Arc;

use chrono::Duration;
use lifeboat::{
    crypt::{SigningKey, Trust},
    error::ExitCode,
    names::Key,
    repo::{self, Hold, MemoryIndex, PackState, Place, Repository, Terms, VerifyOptions, format::layout},
    store::{Get, MemoryStore},
};

use crate::fixture::{AT_ONCE, Cargo, Ship, keys_under, noise, parcel};

/// Returns keys and a store that stamps objects with the ship's time.
async fn launched() -> (Ship, MemoryStore) {
    let ship = Ship::new();
    let store = MemoryStore::with_clock(Arc::new(ship.clock.clone()));
    ship.create(&store).await;
    ship.set_pack_size(&store, crate::fixture::SMALL_PACKS).await;
    (ship, store)
}

fn cargo(seeds: &[u64]) -> Cargo {
    Cargo::of("minio", seeds.iter().map(|n| parcel(&format!("{n}"), noise(200_000, *n))).collect())
}

fn count(store: &MemoryStore, prefix: &str) -> usize {
    keys_under(store, prefix).len()
}

#[tokio::test]
async fn what_is_forgotten_goes_after_its_grace_and_nothing_else() {
    let (ship, store) = launched().await;
    let known: Arc<MemoryIndex> = Arc::default();
    let (old, new) = (cargo(&[1, 2]), cargo(&[2, 3]));
    let first = ship.backup_knowing(&store, &known, &[old.clone()]).await.unwrap();
    let second = ship.backup_knowing(&store, &known, &[new.clone()]).await.unwrap();
    let packs = count(&store, layout::PACKS);

    let report = ship.prune(&store, &[&first.id], Terms::default()).await.unwrap();
    assert_eq!((report.generation, report.swept.len()), (Some(1), 0));
    assert!(report.condemned > 0);
    assert_eq!(ship.listed(&store).await, [second.id.clone()], "forgotten at once");
    assert_eq!(count(&store, layout::PACKS), packs, "and nothing removed yet");
    ship.assert_holds(&store, &second.id, &new).await;

    ship.clock.advance(Duration::hours(80));
    let idle = ship.prune(&store, &[], Terms::default()).await.unwrap();
    assert_eq!((idle.generation, idle.swept.len()), (None, 0), "no complete snapshot was made since");
    let third = ship.backup_knowing(&store, &known, &[new.clone()]).await.unwrap();
    let report = ship.prune(&store, &[], Terms::default()).await.unwrap();
    assert_eq!(report.swept.len(), 1);
    assert_eq!(report.swept[0].snapshots, [first.id.clone()].into());
    assert!(report.swept[0].rescued.is_empty() && !report.swept[0].deleted.is_empty());
    assert!(count(&store, layout::PACKS) < packs);
    assert_eq!(keys_under(&store, &format!("refs/{}", first.id)), Vec::<Key>::new());
    assert_eq!(keys_under(&store, &format!("manifests/{}", first.id)), Vec::<Key>::new());
    ship.assert_holds(&store, &second.id, &new).await;
    ship.assert_holds(&store, &third.id, &new).await;
    assert_eq!(ship.verify(&store).await.damage, []);
    let again = ship.prune(&store, &[], Terms::default()).await.unwrap();
    assert_eq!((again.generation, again.swept.len()), (None, 0), "nothing is left to do");
}

#[tokio::test]
async fn a_backup_does_not_rely_on_what_is_condemned() {
    let (ship, store) = launched().await;
    let known: Arc<MemoryIndex> = Arc::default();
    let both = cargo(&[1]);
    let first = ship.backup_knowing(&store, &known, &[both.clone()]).await.unwrap();
    let report = ship.prune(&store, &[&first.id], AT_ONCE).await.unwrap();
    assert!(report.condemned > 0);
    let second = ship.backup_knowing(&store, &known, &[both.clone()]).await.unwrap();
    assert!(second.added_packs > 0, "what is condemned is stored anew");
    let swept = ship.prune(&store, &[], AT_ONCE).await.unwrap().swept;
    assert_eq!(swept.len(), 1);
    assert!(swept[0].rescued.is_empty());
    assert!(swept[0].indexes > 0, "an index that tells of nothing goes too");
    ship.assert_holds(&store, &second.id, &both).await;
}

#[tokio::test]
async fn a_plan_is_carried_out_once_and_says_why_each_pack_stays() {
    let (ship, store) = launched().await;
    let first = ship.backup(&store, &cargo(&[1])).await.unwrap();
    let second = ship.backup(&store, &cargo(&[2])).await.unwrap();
    let repository = ship.maintain(&store).await.unwrap();
    let seen = repository.inspect(&ship.now(), &ship.monitor()).await.unwrap();
    let remove = [(first.id.clone(), "no rule keeps it".to_owned())].into();
    let plan = repo::plan(&seen, &remove, Terms::default(), ship.now().clock.now());
    assert_eq!(plan, repo::plan(&seen, &remove, Terms::default(), ship.now().clock.now()), "it is pure");
    let live = plan.packs.iter().filter(|line| line.state == PackState::Live);
    for line in live {
        assert_eq!((line.needed_by, line.kept_by.as_ref()), (1, Some(&second.id)));
    }
    assert!(plan.packs.iter().any(|line| line.state == PackState::Unneeded && line.goes.is_some()));
    repository.apply(plan.clone(), &ship.now(), &ship.monitor()).await.unwrap();
    let failure = repository.apply(plan, &ship.now(), &ship.monitor()).await.unwrap_err();
    assert_eq!(failure.exit(), ExitCode::Busy);
}

#[tokio::test]
async fn what_a_run_at_work_has_stored_is_not_condemned() {
    let (ship, store) = launched().await;
    ship.backup(&store, &cargo(&[1])).await.unwrap();
    let repository = ship.append(&store, &Arc::default()).await.unwrap();
    let writer = repository.begin(ship.ground(), ship.monitor(), 1).await.unwrap();
    let stray = layout::pack("ab".repeat(32).parse().unwrap());
    store.overwrite(&stray, "stored by that run");
    let terms = Terms { grace: Duration::zero(), ..Terms::default() };
    assert_eq!(ship.prune(&store, &[], terms).await.unwrap().condemned, 0);
    drop(writer);
    ship.clock.advance(Duration::hours(80));
    assert_eq!(ship.prune(&store, &[], terms).await.unwrap().condemned, 1, "it was not heard of for days");
    ship.backup(&store, &cargo(&[1])).await.unwrap();
    ship.prune(&store, &[], terms).await.unwrap();
    assert_eq!(store.size(&stray).await.unwrap(), None);
}

#[tokio::test]
async fn what_somebody_reads_stays_until_it_was_read() {
    let (ship, store) = launched().await;
    let old = cargo(&[1]);
    let first = ship.backup(&store, &old).await.unwrap();
    ship.backup(&store, &cargo(&[2])).await.unwrap();
    let terms = Terms { grace: Duration::zero(), ..Terms::default() };
    let reader = ship.reader(&store).await.unwrap();
    let snapshot = reader.snapshot(&first.id).await.unwrap();
    let put = Arc::new(store.clone());
    let hold = Hold::begin(put, std::slice::from_ref(&first.id), &ship.now()).await.unwrap();
    for _ in 0..3 {
        ship.prune(&store, &[&first.id], terms).await.unwrap();
        ship.backup(&store, &cargo(&[2])).await.unwrap();
    }
    let got = crate::fixture::read(snapshot, &old.name, lifeboat::flow::Selection::all()).await.unwrap();
    crate::fixture::assert_same(&old.reading().await, &got);
    hold.end().await.unwrap();
    for _ in 0..3 {
        ship.prune(&store, &[], terms).await.unwrap();
        ship.backup(&store, &cargo(&[2])).await.unwrap();
    }
    assert_eq!(count(&store, &format!("refs/{}", first.id)), 0);
    assert_eq!(count(&store, &format!("manifests/{}", first.id)), 0);
    assert_eq!(ship.verify(&store).await.damage, []);
}

#[tokio::test]
async fn a_pack_of_which_little_is_used_is_left_to_die() {
    let (ship, store) = (Ship::new(), MemoryStore::new());
    ship.create(&store).await;
    let known: Arc<MemoryIndex> = Arc::default();
    // One pack holds all of the first snapshot; of that the second needs a tenth.
    let all: Vec<u64> = (0..10).collect();
    let first = ship.backup_knowing(&store, &known, &[cargo(&all)]).await.unwrap();
    let second = ship.backup_knowing(&store, &known, &[cargo(&[3])]).await.unwrap();
    assert!(!second.thin.is_empty());
    let repository = ship.append(&store, &known).await.unwrap();
    repository.retire(&second.thin).unwrap();
    let third = ship.backup_knowing(&store, &known, &[cargo(&[3])]).await.unwrap();
    assert!(third.added_packs > 0, "what is used of it is stored anew");
    assert!(third.thin.is_empty());
    let maintain = ship.maintain_knowing(&store, &known).await.unwrap();
    let seen = maintain.inspect(&ship.now(), &ship.monitor()).await.unwrap();
    let none = std::collections::BTreeMap::new();
    let plan = repo::plan(&seen, &none, Terms::default(), ship.now().clock.now());
    assert!(plan.sum(PackState::Retired).0 > 0);
    let remove = [first.id, second.id].map(|id| (id, "old".to_owned())).into();
    let plan = repo::plan(&seen, &remove, Terms::default(), ship.now().clock.now());
    assert_eq!(plan.sum(PackState::Retired).0, 0, "nobody needs it any more");
    assert!(plan.condemn.keys().any(|pack| second.thin.contains(pack)));
    ship.assert_holds(&store, &third.id, &cargo(&[3])).await;
}

#[tokio::test]
async fn packs_of_another_writer_are_relied_on_once_somebody_has_opened_them() {
    let (ship, store) = launched().await;
    let other = SigningKey::generate().unwrap();
    let trust = Trust::parse(&[ship.made.signer.clone(), other.public()], &[], &[]).unwrap();
    let known: Arc<MemoryIndex> = Arc::default();
    let place = || Place { trust: trust.clone(), ..ship.place(&store, &known) };
    ship.backup(&store, &cargo(&[1])).await.unwrap();
    let theirs = async |signing: &SigningKey| {
        let signing = SigningKey::from_text(&signing.to_text().unwrap()).unwrap();
        let put = Arc::new(store.clone());
        let repository =
            Repository::append(place(), put, ship.index_key(), signing, &ship.monitor()).await.unwrap();
        ship.write(&repository, &[cargo(&[1])]).await.unwrap()
    };
    let first = theirs(&other).await;
    assert!(first.added_packs > 0, "somebody with that key may have had his index tell of nothing");
    let options = VerifyOptions { read_percent: 100.0 };
    let third = SigningKey::generate().unwrap();
    let trust_all =
        Trust::parse(&[ship.made.signer.clone(), other.public(), third.public()], &[], &[]).unwrap();
    let place_all = || Place { trust: trust_all.clone(), ..ship.place(&store, &known) };
    let reader = Repository::read(place_all(), ship.identities(), &ship.monitor()).await.unwrap();
    reader.verify(options, &ship.now(), &ship.monitor()).await.unwrap();
    let put = Arc::new(store.clone());
    let repository =
        Repository::append(place_all(), put, ship.index_key(), third, &ship.monitor()).await.unwrap();
    let second = ship.write(&repository, &[cargo(&[1])]).await.unwrap();
    assert_eq!(second.added_packs, 0, "all of them were opened and are right");
    assert_eq!(second.added_bytes, 0);
}

#[tokio::test]
async fn a_last_generation_that_somebody_put_there_stops_prune_and_removes_nothing() {
    let (ship, store) = launched().await;
    let first = ship.backup(&store, &cargo(&[1])).await.unwrap();
    let second = ship.backup(&store, &cargo(&[2])).await.unwrap();
    for name in ["prune/18446744073709551615.open.json", "prune/99999999.open.json"] {
        store.overwrite(&Key::new(name).unwrap(), "{}");
    }
    // As long as a key can be: no room is left for a signature's name.
    let zeros = "0".repeat(512 - format!("tombstones/{}.g7.json", first.id).len());
    store.overwrite(&Key::new(&format!("tombstones/{}.g{zeros}7.json", first.id)).unwrap(), "{}");
    let failure = ship.prune(&store, &[&first.id], AT_ONCE).await.unwrap_err();
    assert_eq!(failure.exit(), ExitCode::Tampering, "{failure}");
    assert_eq!(ship.listed(&store).await, [first.id, second.id]);
}
