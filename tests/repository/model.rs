//! Writers and pruners take turns at the store in every order that a scheduler can think of: the real code, one
//! operation at a time, with deaths at any step.
//!
//! Looked for after each step that removes or signs something: a snapshot that is signed and not forgotten lacks a
//! pack or its manifest; and at the end: a backup that was reported is not there whole, or something looks like
//! theft although everybody was honest.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    ops::Range,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{
    FutureExt, StreamExt,
    future::{AbortHandle, Abortable, BoxFuture, LocalBoxFuture},
    stream::FuturesUnordered,
};
use lifeboat::{
    names::{Key, PackId, SnapshotId},
    repo::format::{Refs, layout},
    store::{Delete, Get, Listed, MemoryStore, Put, StoreError},
};
use sha2::{Digest, Sha256};
use tokio::sync::{mpsc, oneshot};

use crate::fixture::{AT_ONCE, Book, Cargo, Host, Ship, noise, parcel};

/// An operation that waits for its turn.
struct Call {
    process: usize,
    what: String,
    go: oneshot::Sender<()>,
    done: oneshot::Receiver<()>,
}

/// The store as one process sees it: what others may notice waits for its turn.
#[derive(Clone)]
struct Turns {
    inner: MemoryStore,
    process: usize,
    calls: mpsc::UnboundedSender<Call>,
    /// Until the play begins nobody waits.
    begun: Arc<AtomicBool>,
}

impl Turns {
    async fn in_turn<T>(&self, what: String, work: BoxFuture<'_, T>) -> T {
        if !self.begun.load(Ordering::SeqCst) {
            return work.await;
        }
        let (go, may_go) = oneshot::channel();
        let (is_done, done) = oneshot::channel();
        let call = Call { process: self.process, what, go, done };
        if self.calls.send(call).is_err() || may_go.await.is_err() {
            // The process is dead.
            return std::future::pending().await;
        }
        let result = work.await;
        let _ = is_done.send(());
        result
    }
}

/// Whether an operation at `at` matters to others: sessions are advice, and indexes are no part of the fence.
fn matters(at: &str) -> bool {
    ["refs/", "prune/", "tombstones/", "packs/", "manifests/"].iter().any(|prefix| at.starts_with(prefix))
}

#[async_trait]
impl Put for Turns {
    async fn put(&self, key: &Key, body: Bytes) -> Result<(), StoreError> {
        if !matters(key.as_str()) {
            return self.inner.put(key, body).await;
        }
        self.in_turn(format!("put {key}"), self.inner.put(key, body).boxed()).await
    }
}

#[async_trait]
impl Get for Turns {
    /// Objects never change, so when they are read does not matter; that they are gone is seen by listings.
    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Bytes, StoreError> {
        self.inner.get(key, range).await
    }

    async fn size(&self, key: &Key) -> Result<Option<u64>, StoreError> {
        if !matters(key.as_str()) {
            return self.inner.size(key).await;
        }
        self.in_turn(format!("size {key}"), self.inner.size(key).boxed()).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Listed>, StoreError> {
        if !matters(prefix) {
            return self.inner.list(prefix).await;
        }
        self.in_turn(format!("list {prefix}"), self.inner.list(prefix).boxed()).await
    }
}

#[async_trait]
impl Delete for Turns {
    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        if !matters(key.as_str()) {
            return self.inner.delete(key).await;
        }
        self.in_turn(format!("delete {key}"), self.inner.delete(key).boxed()).await
    }
}

/// Says who is next among those that wait, and whether that one dies instead.
trait Order {
    fn next(&mut self, waiting: &BTreeSet<usize>) -> (usize, bool);
}

/// Each process runs on for so many steps before the next one does; after the last entry they end one by one.
struct Switches(VecDeque<(usize, u64)>);

impl Order for Switches {
    fn next(&mut self, waiting: &BTreeSet<usize>) -> (usize, bool) {
        while let Some((process, left)) = self.0.front_mut() {
            if *left > 0 && waiting.contains(process) {
                *left -= 1;
                return (*process, false);
            }
            self.0.pop_front();
        }
        (*waiting.first().unwrap(), false)
    }
}

/// By dice that a seed decides. Who is on stays on for a while: long pauses are what harms.
struct Dice {
    state: u64,
    on: usize,
    stays_percent: u64,
    dies_per_mille: u64,
}

impl Dice {
    fn of(seed: u64) -> Self {
        let mut dice = Self { state: seed, on: 0, stays_percent: 0, dies_per_mille: 0 };
        dice.stays_percent = [30, 70, 90, 97][dice.throw(4)];
        dice.dies_per_mille = [0, 0, 10, 30][dice.throw(4)];
        dice
    }

    fn throw(&mut self, sides: usize) -> usize {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % sides as u64).unwrap()
    }
}

impl Order for Dice {
    fn next(&mut self, waiting: &BTreeSet<usize>) -> (usize, bool) {
        let stays = (self.throw(100) as u64) < self.stays_percent && waiting.contains(&self.on);
        if !stays {
            self.on = *waiting.iter().nth(self.throw(waiting.len())).unwrap();
        }
        (self.on, (self.throw(1000) as u64) < self.dies_per_mille)
    }
}

/// Lets the processes take turns until all have ended; returns the steps, in their order.
async fn play(
    store: &MemoryStore,
    mut calls: mpsc::UnboundedReceiver<Call>,
    processes: Vec<LocalBoxFuture<'_, ()>>,
    order: &mut dyn Order,
) -> Vec<String> {
    let mut alive: BTreeSet<usize> = (0..processes.len()).collect();
    let mut waiting: BTreeMap<usize, VecDeque<Call>> = BTreeMap::new();
    let mut handles: Vec<AbortHandle> = Vec::new();
    let mut running = FuturesUnordered::new();
    for (number, process) in processes.into_iter().enumerate() {
        let (handle, registration) = AbortHandle::new_pair();
        handles.push(handle);
        running.push(Abortable::new(process, registration).map(move |_| number).boxed_local());
    }
    let mut steps = Vec::new();
    loop {
        while alive.iter().any(|process| waiting.get(process).is_none_or(VecDeque::is_empty)) {
            tokio::select! {
                biased;
                Some(call) = calls.recv() => {
                    if alive.contains(&call.process) {
                        waiting.entry(call.process).or_default().push_back(call);
                    }
                }
                Some(ended) = running.next() => {
                    alive.remove(&ended);
                }
            }
        }
        if alive.is_empty() {
            return steps;
        }
        let (process, dies) = order.next(&alive);
        if dies {
            steps.push(format!("{process} dies"));
            alive.remove(&process);
            waiting.remove(&process);
            handles[process].abort();
            continue;
        }
        let call = waiting.get_mut(&process).unwrap().pop_front().unwrap();
        steps.push(format!("{process} {}", call.what));
        call.go.send(()).unwrap();
        let mut done = call.done;
        loop {
            tokio::select! {
                biased;
                _ = &mut done => break,
                Some(call) = calls.recv() => waiting.entry(call.process).or_default().push_back(call),
                Some(ended) = running.next() => { alive.remove(&ended); }
            }
        }
        let signs = call.what.starts_with("put refs/") && call.what.ends_with(".minisig");
        if signs || call.what.starts_with("delete ") {
            let lacking = lacking(store);
            assert_eq!(lacking, BTreeMap::new(), "a signed snapshot lacks something: {steps:#?}");
        }
    }
}

/// Returns what snapshots lack that are signed and not forgotten.
fn lacking(store: &MemoryStore) -> BTreeMap<SnapshotId, Vec<Key>> {
    let all = store.dump();
    let forgotten: Vec<String> = all
        .iter()
        .filter(|(key, _)| key.as_str().starts_with("tombstones/") && layout::signed_by(key).is_none())
        .map(|(_, bytes)| String::from_utf8_lossy(bytes).into_owned())
        .collect();
    let mut lacking = BTreeMap::new();
    for (key, bytes) in &all {
        let Some((id, _)) = layout::refs_of(key) else { continue };
        let digest = PackId(Sha256::digest(bytes).into()).to_string();
        let is_forgotten = forgotten.iter().any(|text| text.contains(&digest));
        if is_forgotten || !all.contains_key(&layout::signature(key)) {
            continue;
        }
        let refs: Refs = serde_json::from_slice(bytes).unwrap();
        let needed = refs.packs.keys().map(|pack| layout::pack(*pack)).chain([layout::manifest(&id)]);
        let gone: Vec<Key> = needed.filter(|key| !all.contains_key(key)).collect();
        if !gone.is_empty() {
            lacking.insert(id, gone);
        }
    }
    lacking
}

fn cargo(seeds: &[u64]) -> Cargo {
    let parcels = seeds.iter().map(|seed| parcel(&format!("{seed}"), noise(20_000, *seed)));
    Cargo::of("minio", parcels.collect())
}

/// What later backups share with the first snapshot, and nobody else has.
const SHARED: u64 = 1;

/// A repository whose first snapshot is to be forgotten.
struct Scene {
    ship: Ship,
    store: MemoryStore,
    first: SnapshotId,
}

async fn scene() -> Scene {
    let (ship, store) = Ship::launched_with_times().await;
    let (host, mut book) = (Host::new(&ship), Book::default());
    let first = host.must_backup(&store, &cargo(&[SHARED]), &mut book).await;
    host.must_backup(&store, &cargo(&[3]), &mut book).await;
    drop(host);
    Scene { ship, store, first }
}

/// What was reported, by whomever.
type Reported = Mutex<Vec<SnapshotId>>;

async fn backup(host: &Host<'_>, store: &Turns, seeds: &[u64], reported: &Reported) {
    if let Ok(made) = host.backup(store, &cargo(seeds)).await {
        reported.lock().unwrap().push(made.id);
    }
}

/// Looks whether all that was reported is there, and whether life goes on.
async fn settle(
    scene: &Scene,
    host: &Host<'_>,
    store: &MemoryStore,
    reported: Reported,
    steps: &[String],
) -> usize {
    let reported = reported.into_inner().unwrap();
    let committed: BTreeSet<SnapshotId> = scene.ship.listed(store).await.into_iter().collect();
    for id in &reported {
        assert!(committed.contains(id), "{id} was reported and is gone: {steps:#?}");
    }
    assert_eq!(lacking(store), BTreeMap::new(), "{steps:#?}");
    let life = async {
        host.backup(store, &cargo(&[SHARED, 30])).await?;
        host.prune(store, &[], AT_ONCE).await
    };
    if let Err(failure) = life.await {
        panic!("nobody can go on: {:?} {steps:#?}", failure.chain());
    }
    reported.len()
}

/// Returns the store as each of `count` processes sees it, and where their calls come in.
fn stage(store: &MemoryStore, count: usize) -> (Vec<Turns>, Arc<AtomicBool>, mpsc::UnboundedReceiver<Call>) {
    let (calls, heard) = mpsc::unbounded_channel();
    let begun = Arc::new(AtomicBool::new(false));
    let one = |process| Turns { inner: store.clone(), process, calls: calls.clone(), begun: begun.clone() };
    ((0..count).map(one).collect(), begun, heard)
}

/// Plays one order of a backup that began before the list of a sweep was made, and that sweep; returns how many
/// steps each took and whether the backup was reported.
async fn backup_against_sweep(scene: &Scene, order: &mut dyn Order) -> ([u64; 2], bool) {
    let store = scene.store.fork();
    let (host, other) = (Host::new(&scene.ship), Host::new(&scene.ship));
    let (turns, begun, calls) = stage(&store, 2);
    let slow = host.append(&turns[0]).await.unwrap();
    let mut book = Book::default();
    other.must_prune(&store, std::slice::from_ref(&scene.first), &mut book).await;
    other.must_backup(&store, &cargo(&[3, 4]), &mut book).await;
    begun.store(true, Ordering::SeqCst);
    let reported = Reported::default();
    let writer = async {
        if let Ok(made) = scene.ship.write(&slow, &[cargo(&[SHARED, 5])]).await {
            reported.lock().unwrap().push(made.id);
        }
    };
    let sweeper = async {
        let _ = other.prune(&turns[1], &[], AT_ONCE).await;
    };
    let steps = play(&store, calls, vec![writer.boxed_local(), sweeper.boxed_local()], order).await;
    let count = |process: &str| steps.iter().filter(|step| step.starts_with(process)).count() as u64;
    let counts = [count("0 "), count("1 ")];
    (counts, settle(scene, &host, &store, reported, &steps).await > 0)
}

/// Plays one order of a backup and of prunes that take its unsigned refs for dead; as [`backup_against_sweep`].
async fn backup_against_collector(scene: &Scene, order: &mut dyn Order) -> ([u64; 2], bool) {
    let store = scene.store.fork();
    let (host, other) = (Host::new(&scene.ship), Host::new(&scene.ship));
    let (turns, begun, calls) = stage(&store, 2);
    begun.store(true, Ordering::SeqCst);
    let reported = Reported::default();
    let writer = backup(&host, &turns[0], &[3, 5], &reported);
    let collector = async {
        let _ = other.prune(&turns[1], &[], AT_ONCE).await;
        // Not on the stage: it only has to be there.
        let _ = other.backup(&store, &cargo(&[3])).await;
        let _ = other.prune(&turns[1], &[], AT_ONCE).await;
    };
    let steps = play(&store, calls, vec![writer.boxed_local(), collector.boxed_local()], order).await;
    let count = |process: &str| steps.iter().filter(|step| step.starts_with(process)).count() as u64;
    let counts = [count("0 "), count("1 ")];
    (counts, settle(scene, &host, &store, reported, &steps).await > 0)
}

/// Plays every order of the two with at most two switches between them before one ends.
async fn every_order(first: usize) {
    let scene = scene().await;
    let (counts, _) = backup_against_sweep(&scene, &mut Switches(VecDeque::new())).await;
    let second = 1 - first;
    let (mut orders, mut reported) = (0, 0);
    for i in 0..=counts[first] {
        for j in 1..=counts[second] {
            let mut order = Switches([(first, i), (second, j), (first, u64::MAX)].into());
            let (_, whole) = backup_against_sweep(&scene, &mut order).await;
            orders += 1;
            reported += u64::from(whole);
        }
    }
    println!("{orders} orders of {counts:?} steps, the backup was reported in {reported}");
    assert!(orders > 100 && (1..orders).contains(&reported));
}

#[tokio::test]
async fn no_order_of_a_late_signature_and_who_takes_it_for_dead_loses_anything() {
    let scene = scene().await;
    let mut writer_first = Switches([(0, u64::MAX)].into());
    let ([steps, _], _) = backup_against_collector(&scene, &mut writer_first).await;
    let (mut orders, mut reported) = (0, 0);
    // From the refs on: what there is none of cannot be taken for dead.
    for i in steps.saturating_sub(8)..=steps {
        for j in 1.. {
            let mut order = Switches([(0, i), (1, j), (0, u64::MAX)].into());
            let ([_, taken], whole) = backup_against_collector(&scene, &mut order).await;
            orders += 1;
            reported += u64::from(whole);
            if j >= taken {
                break;
            }
        }
    }
    println!("{orders} orders, the backup was reported in {reported}");
    assert!(orders > 100 && (1..orders).contains(&reported));
}

#[tokio::test]
async fn no_order_of_a_backup_and_a_sweep_that_begins_with_the_backup_loses_anything() {
    every_order(0).await;
}

#[tokio::test]
async fn no_order_of_a_backup_and_a_sweep_that_begins_with_the_sweep_loses_anything() {
    every_order(1).await;
}

/// Plays an order of two writers and two pruners, each of which works twice.
async fn everybody(scene: &Scene, order: &mut dyn Order) -> (usize, usize) {
    let store = scene.store.fork();
    let hosts = [(); 4].map(|()| Host::new(&scene.ship));
    let (turns, begun, calls) = stage(&store, 4);
    let slow = hosts[0].append(&turns[0]).await.unwrap();
    begun.store(true, Ordering::SeqCst);
    let reported = Reported::default();
    let first = [scene.first.clone()];
    let slow_writer = async {
        if let Ok(made) = scene.ship.write(&slow, &[cargo(&[SHARED, 5])]).await {
            reported.lock().unwrap().push(made.id);
        }
        backup(&hosts[0], &turns[0], &[SHARED, 6], &reported).await;
    };
    let writer = async {
        backup(&hosts[1], &turns[1], &[SHARED, 7], &reported).await;
        backup(&hosts[1], &turns[1], &[3, 7], &reported).await;
    };
    let pruner = async {
        let _ = hosts[2].prune(&turns[2], &first, AT_ONCE).await;
        let _ = hosts[2].prune(&turns[2], &[], AT_ONCE).await;
    };
    let other_pruner = async {
        let _ = hosts[3].prune(&turns[3], &[], AT_ONCE).await;
        let _ = hosts[3].prune(&turns[3], &first, AT_ONCE).await;
        let _ = hosts[3].prune(&turns[3], &[], AT_ONCE).await;
    };
    let all = vec![
        slow_writer.boxed_local(),
        writer.boxed_local(),
        pruner.boxed_local(),
        other_pruner.boxed_local(),
    ];
    let steps = play(&store, calls, all, order).await;
    (steps.len(), settle(scene, &hosts[0], &store, reported, &steps).await)
}

/// Plays orders by dice; `MODEL_ORDERS` says how many.
async fn orders_by_dice(seeds: u64) {
    let scene = scene().await;
    let count = std::env::var("MODEL_ORDERS").ok().and_then(|text| text.parse().ok()).unwrap_or(40);
    let (mut steps, mut reported) = (0, 0);
    for seed in (seeds..).take(count) {
        println!("seed {seed}");
        let (taken, whole) = everybody(&scene, &mut Dice::of(seed)).await;
        steps += taken;
        reported += whole;
    }
    println!("{count} orders, {steps} steps, {reported} backups of {} reported", 4 * count);
    assert!(reported > count);
}

#[tokio::test]
async fn no_order_by_dice_of_two_writers_and_two_pruners_that_may_die_loses_anything() {
    orders_by_dice(1_000_000).await;
}

#[tokio::test]
async fn no_other_order_by_dice_of_two_writers_and_two_pruners_loses_anything() {
    orders_by_dice(2_000_000).await;
}
