//! One snapshot that several processes make: what is left of a run never stands in for another one, and a process that
//! dies at its end makes no second snapshot.

use std::{collections::BTreeMap, sync::Arc};

use chrono::Duration;
use lifeboat::{
    error::ExitCode,
    flow::{STREAM_DEPTH, Source, channel, settle},
    names::{PackId, RunName, SnapshotId},
    repo::{
        Append, Committed, Joined, Part, Planned, PlannedShare, PlannedSource, Repository, RunPlan, Terms,
        format::{FORMAT, Status},
    },
    store::{Delete, MemoryStore, PausingStore, Store, Which},
};

use crate::fixture::{Cargo, Ship, keys_under, noise, parcel};

fn cargo() -> Cargo {
    Cargo::of("minio", vec![parcel("a", noise(100_000, 1)), parcel("b", noise(40_000, 2))])
}

fn night() -> RunName {
    "night".parse().unwrap()
}

/// Returns the plan of a run of one part that begins now, or the one that is in force.
async fn plan(ship: &Ship, repository: &Repository<Append>) -> Planned {
    let share = PlannedShare::Whole(0);
    let (name, kind) = (cargo().name, "test".to_owned());
    let plan = RunPlan {
        format: FORMAT,
        repository: repository.config().repository.clone(),
        run: night(),
        parts: 1,
        stack: "im-suite".to_owned(),
        config: repository.config().revision,
        began: ship.now().clock.now(),
        tag: None,
        pin: None,
        sources: vec![PlannedSource { name, kind, policy: PackId([7; 32]), share }],
    };
    repository.plan_run(plan).await.unwrap()
}

/// Stores the one part of a run.
async fn part(
    ship: &Ship,
    repository: &Repository<Append>,
    planned: &Planned,
) -> lifeboat::error::Result<Part> {
    let mut writer = repository.begin(ship.now(), ship.monitor(), 1).await?;
    let (sink, stream) = channel(STREAM_DEPTH);
    let (source, name) = (Box::new(cargo()), cargo().name);
    let (read, written) = tokio::join!(source.read(sink, None), writer.write_source(&name, "test", stream));
    settle(read, written).map_err(|error| error.about(&name))?;
    writer.end_as_part(planned, 0, "test".to_owned(), Vec::new()).await
}

/// Commits what that part is.
async fn commit(
    ship: &Ship,
    repository: &Repository<Append>,
    planned: &Planned,
    part: &Part,
) -> lifeboat::error::Result<Committed> {
    let joined = Joined { sources: part.sources.clone(), tallies: part.tallies.clone(), failed: Vec::new() };
    let parts = BTreeMap::from([(0, part.clone())]);
    repository.commit_run(planned, &parts, joined, "test".to_owned(), &ship.now(), &ship.monitor()).await
}

/// Makes a whole run; returns its plan and its snapshot.
async fn run<S: Store + Clone + 'static>(ship: &Ship, store: &S) -> (Planned, SnapshotId) {
    let repository = ship.append(store, &Arc::default()).await.unwrap();
    let planned = plan(ship, &repository).await;
    let part = part(ship, &repository, &planned).await.unwrap();
    let made = commit(ship, &repository, &planned, &part).await.unwrap();
    (planned, made.id)
}

#[tokio::test]
async fn the_records_of_a_run_go_together_when_the_newest_of_them_is_old() {
    let ship = Ship::new();
    let store = MemoryStore::with_clock(Arc::new(ship.clock.clone()));
    ship.create(&store).await;
    let repository = ship.append(&store, &Arc::default()).await.unwrap();
    let planned = plan(&ship, &repository).await;
    let part = part(&ship, &repository, &planned).await.unwrap();
    ship.clock.advance(Duration::hours(40));
    commit(&ship, &repository, &planned, &part).await.unwrap();
    assert_eq!(keys_under(&store, "runs/night/").len(), 3);
    let prune = async |hours| {
        ship.clock.advance(Duration::hours(hours));
        // Something to sweep each time, so that prune clears away at all.
        let made = ship
            .backup(&store, &Cargo::of("more", vec![parcel("n", noise(9_000, hours.unsigned_abs()))]))
            .await;
        let id = made.unwrap().id;
        let terms = Terms { grace: Duration::zero(), session: Duration::zero(), is_copy: false };
        ship.prune(&store, &[&id], terms).await.unwrap();
        ship.prune(&store, &[], terms).await.unwrap();
    };
    // The plan and the part are older than 72 hours, the end is not.
    prune(50).await;
    assert_eq!(keys_under(&store, "runs/night/").len(), 3);
    prune(30).await;
    assert_eq!(keys_under(&store, "runs/night/"), []);
}

#[tokio::test]
async fn the_end_of_an_older_run_of_that_name_does_not_end_a_new_one() {
    let ship = Ship::new();
    let store = MemoryStore::new();
    ship.create(&store).await;
    let (first, made) = run(&ship, &store).await;
    let repository = ship.append(&store, &Arc::default()).await.unwrap();
    assert_eq!(repository.run_ended(&first).await.unwrap(), Some((made, Status::Complete)));
    for key in keys_under(&store, "runs/night/") {
        if !key.as_str().contains("/end.") {
            store.delete(&key).await.unwrap();
        }
    }
    ship.clock.advance(Duration::hours(72));
    let second = plan(&ship, &repository).await;
    assert_ne!(first.digest, second.digest);
    assert_eq!(repository.run_ended(&second).await.unwrap(), None);
}

#[tokio::test]
async fn a_process_that_dies_between_the_commit_and_the_note_of_it_makes_no_second_snapshot() {
    let ship = Ship::new();
    let store = MemoryStore::new();
    ship.create(&store).await;
    let repository = ship.append(&store, &Arc::default()).await.unwrap();
    let planned = plan(&ship, &repository).await;
    let part = part(&ship, &repository, &planned).await.unwrap();
    let made = commit(&ship, &repository, &planned, &part).await.unwrap();
    let end = keys_under(&store, "runs/night/end").remove(0);
    store.delete(&end).await.unwrap();
    // Whoever takes its place knows nothing of it.
    let repository = ship.append(&store, &Arc::default()).await.unwrap();
    assert_eq!(repository.run_ended(&planned).await.unwrap(), None);
    let again = commit(&ship, &repository, &planned, &part).await.unwrap();
    assert_eq!((&again.id, again.status), (&made.id, made.status));
    assert_eq!((again.sources, again.added_bytes), (made.sources, made.added_bytes));
    assert_eq!(ship.listed(&store).await, std::slice::from_ref(&made.id));
    assert_eq!(repository.run_ended(&planned).await.unwrap(), Some((made.id, Status::Complete)));
}

#[tokio::test]
async fn two_processes_that_commit_the_same_run_make_one_snapshot() {
    let ship = Ship::new();
    let store = MemoryStore::new();
    ship.create(&store).await;
    let repository = ship.append(&store, &Arc::default()).await.unwrap();
    let planned = plan(&ship, &repository).await;
    let part = part(&ship, &repository, &planned).await.unwrap();
    // The first one has found no snapshot, and is slow from then on.
    let slow = PausingStore::new(store.clone());
    let first = ship.append(&slow, &Arc::default()).await.unwrap();
    slow.pause_at(Which::Writes, 2);
    let mut late = Box::pin(commit(&ship, &first, &planned, &part));
    assert!(slow.run_until_paused(&mut late).await.is_none(), "its manifest is put, its refs are not");
    let made = commit(&ship, &repository, &planned, &part).await.unwrap();
    slow.resume();
    let refused = late.await.unwrap_err();
    assert_eq!(refused.exit(), ExitCode::Busy);
    assert!(refused.one_line().contains(made.id.as_str()), "{:?}", refused.chain());
    assert_eq!(ship.listed(&store).await, [made.id]);
}

#[tokio::test]
async fn a_run_that_is_too_old_at_its_end_stores_no_part_and_makes_no_snapshot() {
    let ship = Ship::new();
    let store = MemoryStore::new();
    ship.create(&store).await;
    let repository = ship.append(&store, &Arc::default()).await.unwrap();
    let planned = plan(&ship, &repository).await;
    let stored = part(&ship, &repository, &planned).await.unwrap();
    ship.clock.advance(Duration::hours(49));
    let late = commit(&ship, &repository, &planned, &stored).await.unwrap_err();
    assert!(late.one_line().contains("run `night` began at"), "{:?}", late.chain());
    assert_eq!(ship.listed(&store).await, []);
    let key = keys_under(&store, "runs/night/part").remove(0);
    store.delete(&key).await.unwrap();
    part(&ship, &repository, &planned).await.unwrap_err();
    assert_eq!(keys_under(&store, "runs/night/part"), []);
}
