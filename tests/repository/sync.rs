//! Sync copies in the order of a commit, sends nothing twice, removes nothing, and leaves a copy that stands alone.

use std::{collections::BTreeSet, sync::Arc, time::Duration as Wait};

use chrono::Duration;
use lifeboat::{
    crypt::{Identities, SigningKey},
    error::{ExitCode, Result},
    event::NoMonitor,
    names::Key,
    repo::{
        self, CopyReport, CopySettings, Maintain, MemoryIndex, MemoryWitness, Patience, Place, Repository,
        Terms, VerifyOptions, VerifyReport, Witness, format::layout,
    },
    store::{CountingStore, Delete, Fault, FaultStore, MemoryStore, PausingStore, Put, Store, Verb, Which},
};

use crate::fixture::{AT_ONCE, Cargo, SMALL_PACKS, Ship, keys_under, noise, parcel};

/// A sync that waits for a sweep looks a few times and no longer.
pub const QUICK: CopySettings = CopySettings {
    patience: Patience { interval: Wait::ZERO, looks: 3 },
    packs_at_once: 2,
    reread_percent: 5,
};
const SESSIONS: &str = "sessions/";
const TOMBSTONES: &str = "tombstones/";
const UPSTREAM: &str = "tombstones/upstream/";

fn cargo(seeds: &[u64]) -> Cargo {
    Cargo::of("minio", seeds.iter().map(|n| parcel(&format!("{n}"), noise(150_000, *n))).collect())
}

/// Copies with an eye on nothing but the two stores, as a host that syncs for the first time.
async fn copy<F, T>(ship: &Ship, from: &F, to: &T) -> Result<CopyReport>
where
    F: Store + Clone + 'static,
    T: Store + Clone + 'static,
{
    copy_with(ship, from, to, Some(ship.signing())).await
}

async fn copy_with<F, T>(ship: &Ship, from: &F, to: &T, signing: Option<SigningKey>) -> Result<CopyReport>
where
    F: Store + Clone + 'static,
    T: Store + Clone + 'static,
{
    let (from, known) = (ship.place(from, &Arc::default()), Arc::default());
    let mut original = Repository::clear(from).await?;
    if let Some(signing) = signing {
        original = original.explaining(signing);
    }
    let put = Arc::new(to.clone());
    original.copy_to(ship.place(to, &known), put, QUICK, &ship.now(), &ship.monitor()).await
}

/// Two snapshots that share a file, in a store that tells when objects came, and an empty place that does too.
pub struct Two {
    pub ship: Ship,
    pub original: MemoryStore,
    pub offsite: MemoryStore,
    pub known: Arc<MemoryIndex>,
    pub made: Vec<(lifeboat::names::SnapshotId, Cargo)>,
}

impl Two {
    pub async fn new() -> Self {
        let ship = Ship::new();
        let stores = [(); 2].map(|()| MemoryStore::with_clock(Arc::new(ship.clock.clone())));
        let [original, offsite] = stores;
        ship.create(&original).await;
        ship.set_pack_size(&original, SMALL_PACKS).await;
        let mut two = Self { ship, original, offsite, known: Arc::default(), made: Vec::new() };
        two.backup(&[1, 2]).await;
        two.backup(&[2, 3]).await;
        two
    }

    pub async fn backup(&mut self, seeds: &[u64]) {
        let cargo = cargo(seeds);
        let made = self
            .ship
            .backup_knowing(&self.original, &self.known, std::slice::from_ref(&cargo))
            .await
            .unwrap();
        self.made.push((made.id, cargo));
    }

    pub async fn sync(&self) -> Result<CopyReport> {
        copy(&self.ship, &self.original, &self.offsite).await
    }

    /// Asserts that the copy restores every snapshot, or those with these numbers.
    pub async fn assert_copied(&self, only: &[usize]) {
        let made = only.iter().map(|n| &self.made[*n]);
        let ids: Vec<_> = made.clone().map(|(id, _)| id.clone()).collect();
        assert_eq!(self.ship.listed(&self.offsite).await, ids);
        for (id, cargo) in made {
            self.ship.assert_holds(&self.offsite, id, cargo).await;
        }
    }

    /// Verifies the copy with a witness that has seen the original.
    pub async fn verify_copy(&self) -> VerifyReport {
        verify(&self.ship, &self.offsite, &Arc::default()).await
    }

    /// Returns a pack that this snapshot needs and no other.
    pub fn pack_of_only(&self, n: usize) -> Key {
        let packs = |n: usize| -> BTreeSet<Key> {
            let (id, _) = &self.made[n];
            let bytes = self.original.dump()[&layout::refs(id, 0)].clone();
            let refs: repo::format::Refs = serde_json::from_slice(&bytes).unwrap();
            refs.packs.into_keys().map(layout::pack).collect()
        };
        let others: BTreeSet<Key> =
            (0..self.made.len()).filter(|other| *other != n).flat_map(packs).collect();
        packs(n).into_iter().find(|pack| !others.contains(pack)).unwrap()
    }
}

async fn verify(ship: &Ship, store: &MemoryStore, witness: &Arc<MemoryWitness>) -> VerifyReport {
    let place = Place { witness: witness.clone(), ..ship.place(store, &Arc::default()) };
    let reader = Repository::read(place, ship.identities(), &NoMonitor::shared()).await.unwrap();
    let options = VerifyOptions { read_percent: 100.0 };
    reader.verify(options, &ship.now(), &NoMonitor::shared()).await.unwrap()
}

/// Returns what was put, in order.
fn puts<S>(store: &CountingStore<S>) -> Vec<String> {
    store.calls().into_iter().filter(|call| call.verb == Verb::Put).map(|call| call.at).collect()
}

#[tokio::test]
async fn a_copy_is_made_in_the_order_of_a_commit_and_stands_alone() {
    let two = Two::new().await;
    let (from, to) = (CountingStore::new(two.original.clone()), CountingStore::new(two.offsite.clone()));
    let report = copy(&two.ship, &from, &to).await.unwrap();
    let ids: Vec<_> = two.made.iter().map(|(id, _)| id.clone()).collect();
    assert_eq!((report.copied, report.there, report.damaged), (ids.clone(), 0, vec![]));
    let puts = puts(&to);
    let at = |key: &Key| puts.iter().position(|put| put == key.as_str()).unwrap_or_else(|| panic!("{key}"));
    let config = at(&layout::config());
    assert!(
        puts[config - 1].starts_with("config.json") && puts[..config].iter().any(|put| put == "RECOVERY.md")
    );
    assert!(puts[config + 1].starts_with(SESSIONS) && puts.last().unwrap().starts_with(SESSIONS), "{puts:?}");
    let order = [layout::PACKS, layout::INDEX, layout::MANIFESTS, layout::REFS];
    let rank = |put: &&String| order.iter().position(|prefix| put.starts_with(prefix));
    let mut begin = config + 2;
    for id in &ids {
        let refs = layout::refs(id, 0);
        let end = at(&layout::signature(&refs));
        assert_eq!(puts[end - 1], refs.as_str(), "the signature is the last");
        assert_eq!(puts[end - 2], layout::manifest(id).as_str());
        let ranks: Vec<_> = puts[begin..=end].iter().map(|put| rank(&put).unwrap()).collect();
        assert!(ranks.is_sorted(), "{:?}", &puts[begin..=end]);
        begin = end + 1;
    }
    assert_eq!(puts.len(), begin + 1, "and then only that the session ended");
    for store in [&from, &to] {
        assert_eq!(store.count(Verb::Delete, "") + store.count(Verb::Tidy, ""), 0);
    }
    assert_eq!(from.count(Verb::Put, ""), 0, "nothing is written to the original");
    two.assert_copied(&[0, 1]).await;
    assert_eq!(two.verify_copy().await.damage, []);
}

#[tokio::test]
async fn the_copy_holds_just_what_the_original_holds_and_a_second_sync_puts_nothing_but_its_session() {
    let two = Two::new().await;
    two.sync().await.unwrap();
    let others = |store: &MemoryStore| {
        let mut dump = store.dump();
        dump.retain(|key, _| !key.as_str().starts_with(SESSIONS));
        dump
    };
    assert_eq!(others(&two.original), others(&two.offsite));
    let to = CountingStore::new(two.offsite.clone());
    let report = copy(&two.ship, &two.original, &to).await.unwrap();
    assert_eq!((report.copied.len(), report.there, report.packs), (0, 2, 0));
    assert!(puts(&to).iter().all(|put| put.starts_with(SESSIONS)), "{:?}", puts(&to));
}

#[tokio::test]
async fn tombstones_come_before_snapshots_and_explain_what_was_never_copied() {
    let mut two = Two::new().await;
    two.ship.prune(&two.original, &[&two.made[0].0], AT_ONCE).await.unwrap();
    two.backup(&[4]).await;
    let to = CountingStore::new(two.offsite.clone());
    let report = copy(&two.ship, &two.original, &to).await.unwrap();
    assert_eq!(report.copied, [two.made[1].0.clone(), two.made[2].0.clone()]);
    let puts = puts(&to);
    let of_snapshots = puts.iter().position(|put| put.starts_with(layout::PACKS)).unwrap();
    let tombstones: Vec<usize> = (0..puts.len()).filter(|at| puts[*at].starts_with(TOMBSTONES)).collect();
    assert_eq!(tombstones.len(), 2);
    assert!(puts[tombstones[0]].ends_with(layout::SIGNATURE) && tombstones[1] < of_snapshots);
    assert!(tombstones.iter().all(|at| puts[*at].starts_with(UPSTREAM)));
    two.assert_copied(&[1, 2]).await;
    assert_eq!(two.verify_copy().await.damage, [], "a number that is missing is explained");
}

#[tokio::test]
async fn that_a_later_one_is_forgotten_is_heard_first_and_is_no_theft_of_the_earlier_ones() {
    let mut two = Two::new().await;
    two.backup(&[4]).await;
    two.ship.prune(&two.original, &[&two.made[2].0], AT_ONCE).await.unwrap();
    let offsite = two.offsite.fork();
    let mut heard_first = false;
    for n in 1..20 {
        two.offsite = offsite.fork();
        let to = FaultStore::new(two.offsite.clone());
        to.die_at(Which::Writes, n, Fault::Before);
        copy(&two.ship, &two.original, &to).await.unwrap_err();
        if two.offsite.dump().contains_key(&layout::config()) {
            assert_eq!(two.verify_copy().await.damage, [], "died at {n}");
            heard_first |= keys_under(&two.offsite, UPSTREAM).len() == 2;
        }
    }
    assert!(heard_first);
}

#[tokio::test]
async fn what_the_original_forgets_stays_in_the_copy_until_the_copy_forgets_it() {
    let mut two = Two::new().await;
    two.sync().await.unwrap();
    let packs = keys_under(&two.offsite, layout::PACKS);
    two.ship.prune(&two.original, &[&two.made[0].0], AT_ONCE).await.unwrap();
    two.backup(&[3]).await;
    assert_eq!(two.ship.prune(&two.original, &[], AT_ONCE).await.unwrap().swept.len(), 1);
    two.sync().await.unwrap();
    assert!(packs.iter().all(|pack| two.offsite.dump().contains_key(pack)), "nothing was removed");
    two.assert_copied(&[0, 1, 2]).await;
    assert_eq!(two.verify_copy().await.damage, []);

    let seen = two.ship.maintain(&two.offsite).await.unwrap();
    let seen = seen.inspect(&two.ship.now(), &NoMonitor::shared()).await.unwrap();
    assert_eq!(seen.incidents, []);
    assert_eq!(seen.forgotten_upstream().into_keys().collect::<Vec<_>>(), [two.made[0].0.clone()]);
    two.ship.prune(&two.offsite, &[&two.made[0].0], AT_ONCE).await.unwrap();
    two.backup(&[3]).await;
    two.sync().await.unwrap();
    assert_eq!(two.ship.prune(&two.offsite, &[], AT_ONCE).await.unwrap().swept.len(), 1);
    two.assert_copied(&[1, 2, 3]).await;
    let again = two.sync().await.unwrap();
    assert_eq!((again.copied.len(), again.packs), (0, 0), "what the copy has forgotten is not copied again");
    assert_eq!(two.verify_copy().await.damage, []);
}

#[tokio::test]
async fn what_a_sync_that_died_has_copied_is_not_sent_again() {
    let two = Two::new().await;
    let whole = two.original.fork();
    let needed = keys_under(&whole, layout::PACKS).len();
    let to = FaultStore::new(CountingStore::new(two.offsite.clone()));
    to.die_at(Which::Writes, 15, Fault::Before);
    copy(&two.ship, &two.original, &to).await.unwrap_err();
    to.heal();
    let sent = to.inner().count(Verb::Put, layout::PACKS);
    assert!(sent > 0 && sent < needed, "it died half way: {sent} of {needed}");
    let from = CountingStore::new(two.original.clone());
    let report = copy(&two.ship, &from, &to).await.unwrap();
    assert_eq!(to.inner().count(Verb::Put, layout::PACKS), needed);
    assert_eq!(from.count(Verb::Get, layout::PACKS), needed - sent, "nor read again");
    assert_eq!(report.packs, (needed - sent) as u64);
    two.assert_copied(&[0, 1]).await;
}

#[tokio::test]
async fn a_damaged_snapshot_is_left_out_and_the_copy_knows_why() {
    let mut two = Two::new().await;
    two.backup(&[5]).await;
    let pack = two.pack_of_only(1);
    let kept = two.original.dump()[&pack].clone();
    two.original.delete(&pack).await.unwrap();
    let report = two.sync().await.unwrap();
    assert_eq!(report.copied, [two.made[0].0.clone(), two.made[2].0.clone()]);
    assert_eq!(report.damaged.len(), 1);
    assert_eq!(report.damaged[0].0, two.made[1].0);
    assert!(report.damaged[0].1.contains("is missing in the original"), "{report:?}");
    assert!(two.ship.heard.warnings().iter().any(|text| text.contains("is not copied")));
    two.assert_copied(&[0, 2]).await;
    assert_eq!(two.verify_copy().await.damage, [], "the hole in the chain is explained");
    assert_eq!(keys_under(&two.offsite, UPSTREAM).len(), 2);
    let again = two.sync().await.unwrap();
    assert_eq!((again.damaged.len(), again.packs), (1, 0), "told each time");
    assert_eq!(keys_under(&two.offsite, UPSTREAM).len(), 2, "and explained once");
    two.original.overwrite(&pack, kept);
    assert_eq!(two.sync().await.unwrap().copied, [two.made[1].0.clone()], "what heals is copied");
    two.assert_copied(&[0, 1, 2]).await;
    assert_eq!(two.verify_copy().await.damage, []);
    let seen = two.ship.maintain(&two.offsite).await.unwrap();
    let seen = seen.inspect(&two.ship.now(), &NoMonitor::shared()).await.unwrap();
    assert!(!seen.forgotten_upstream().contains_key(&two.made[1].0), "to explain is not to forget");
}

#[tokio::test]
async fn without_a_key_what_comes_after_a_damaged_snapshot_waits_until_that_is_forgotten() {
    let mut two = Two::new().await;
    two.backup(&[5]).await;
    let pack = two.pack_of_only(1);
    two.original.overwrite(&pack, "no longer what its name says");
    let stranger = SigningKey::generate().unwrap();
    for signing in [None, Some(stranger)] {
        let report = copy_with(&two.ship, &two.original, &two.offsite, signing).await.unwrap();
        assert_eq!(report.damaged.len(), 1);
        assert_eq!(report.waiting, [two.made[2].0.clone()]);
        two.assert_copied(&[0]).await;
        assert_eq!(two.verify_copy().await.damage, []);
    }
    two.ship.prune(&two.original, &[&two.made[1].0], AT_ONCE).await.unwrap();
    let report = copy_with(&two.ship, &two.original, &two.offsite, None).await.unwrap();
    assert_eq!((report.damaged.len(), report.waiting.len()), (0, 0));
    two.assert_copied(&[0, 2]).await;
    assert_eq!(two.verify_copy().await.damage, []);
}

#[tokio::test]
async fn a_manifest_that_changed_is_damage_and_refs_that_changed_stop_the_sync() {
    let two = Two::new().await;
    two.original.overwrite(&layout::manifest(&two.made[0].0), "another one");
    let report = two.sync().await.unwrap();
    assert_eq!((report.damaged.len(), report.copied.len()), (1, 1));
    let failing = Two::new().await;
    failing.original.overwrite(&layout::refs(&failing.made[0].0, 0), "{}");
    assert_eq!(failing.sync().await.unwrap_err().exit(), ExitCode::Tampering);
    assert_eq!(keys_under(&failing.offsite, layout::REFS), Vec::<Key>::new());
}

#[tokio::test]
async fn the_place_of_another_repository_is_refused_and_left_alone() {
    let two = Two::new().await;
    two.ship.create(&two.offsite).await;
    let before = two.offsite.dump();
    let failure = two.sync().await.unwrap_err();
    assert_eq!(failure.exit(), ExitCode::Usage, "{:?}", failure.chain());
    assert_eq!(two.offsite.dump(), before);
}

#[tokio::test]
async fn an_index_that_cannot_be_read_now_ends_the_sync_before_the_snapshot_exists() {
    let two = Two::new().await;
    let reads = {
        let from = CountingStore::new(two.original.clone());
        copy(&two.ship, &from, &two.offsite.fork()).await.unwrap();
        let reads = from.calls().into_iter().filter(|call| call.verb != Verb::Put);
        reads.map(|call| call.at).position(|at| at.starts_with("index/2")).unwrap() as u64
    };
    let from = FaultStore::new(two.original.clone());
    from.fail_at(Which::Reads, reads + 1, Fault::Before);
    assert_eq!(copy(&two.ship, &from, &two.offsite).await.unwrap_err().exit(), ExitCode::StoreDown);
    assert_eq!(keys_under(&two.offsite, layout::REFS), Vec::<Key>::new());
    copy(&two.ship, &from, &two.offsite).await.unwrap();
    two.assert_copied(&[0, 1]).await;
}

#[tokio::test]
async fn two_syncs_at_once_make_one_copy() {
    for n in 1.. {
        let two = Two::new().await;
        let paused = PausingStore::new(two.offsite.clone());
        paused.pause_at(Which::Writes, n);
        let mut slow = Box::pin(copy(&two.ship, &two.original, &paused));
        let ended = paused.run_until_paused(&mut slow).await;
        two.sync().await.unwrap();
        paused.resume();
        let ended = match ended {
            Some(ended) => return drop(ended.unwrap()),
            None => slow.await,
        };
        ended.unwrap();
        two.assert_copied(&[0, 1]).await;
        assert_eq!(two.verify_copy().await.damage, []);
    }
}

#[tokio::test]
async fn a_long_sync_says_now_and_then_that_it_is_at_work() {
    let two = Two::new().await;
    let (ship, slow) = (&two.ship, SlowStore { inner: two.offsite.clone(), clock: two.ship.clock.clone() });
    let ticking = ship.place(&two.original, &Arc::default());
    let original = Repository::clear(ticking).await.unwrap();
    let (to, put) = (ship.place(&two.offsite, &Arc::default()), Arc::new(slow));
    original.copy_to(to, put, QUICK, &ship.now(), &ship.monitor()).await.unwrap();
    let marks = keys_under(&two.offsite, SESSIONS).len();
    assert!(marks > 2, "{marks}: each pack took an hour");
}

/// Takes an hour for each pack.
struct SlowStore {
    inner: MemoryStore,
    clock: lifeboat::clock::StoppedClock,
}

#[async_trait::async_trait]
impl Put for SlowStore {
    async fn put(&self, key: &Key, body: bytes::Bytes) -> Result<(), lifeboat::store::StoreError> {
        if key.as_str().starts_with(layout::PACKS) {
            self.clock.advance(Duration::hours(1));
        }
        self.inner.put(key, body).await
    }
}

/// Opens a copy for removing, without a key for its indexes.
async fn keyless<S: Store + Clone + 'static>(ship: &Ship, store: &S) -> Repository<Maintain> {
    let (put, delete) = (Arc::new(store.clone()), Arc::new(store.clone()));
    let (place, none) = (ship.place(store, &Arc::default()), None::<Identities>);
    Repository::maintain(place, put, delete, ship.signing(), none, &ship.monitor()).await.unwrap()
}

async fn sweep<S: Store + Clone + 'static>(ship: &Ship, store: &S) -> Result<repo::PruneReport> {
    let repository = keyless(ship, store).await;
    let seen = repository.inspect(&ship.now(), &ship.monitor()).await?;
    seen.check(&BTreeSet::new())?;
    let plan = repo::plan(&seen, &[].into(), AT_ONCE, ship.now().clock.now());
    repository.apply(plan, &ship.now(), &ship.monitor()).await
}

/// Returns an original whose newest snapshot needs packs that its copy has condemned and may sweep at any time.
async fn condemned() -> Two {
    let mut two = Two::new().await;
    two.sync().await.unwrap();
    two.ship.prune(&two.offsite, &[&two.made[1].0], AT_ONCE).await.unwrap();
    two.backup(&[9]).await;
    two.sync().await.unwrap();
    two.backup(&[2, 3]).await;
    two
}

#[tokio::test]
async fn a_pack_that_the_copy_has_condemned_is_rescued_by_a_snapshot_that_needs_it() {
    let two = condemned().await;
    let report = two.sync().await.unwrap();
    assert_eq!(report.copied, [two.made[3].0.clone()]);
    let swept = sweep(&two.ship, &two.offsite).await.unwrap().swept;
    assert!(!swept[0].rescued.is_empty());
    two.assert_copied(&[0, 2, 3]).await;
    assert_eq!(two.verify_copy().await.damage, []);
}

#[tokio::test]
async fn a_sync_and_a_sweep_of_the_copy_may_stand_still_anywhere() {
    let mut two = condemned().await;
    let offsite = two.offsite.fork();
    let (mut deleted, mut rescued, mut failed) = (0, 0, 0);
    for n in 1.. {
        two.offsite = offsite.fork();
        let paused = PausingStore::new(two.offsite.clone());
        paused.pause_at(Which::All, n);
        let mut slow = Box::pin(copy(&two.ship, &two.original, &paused));
        let ended = paused.run_until_paused(&mut slow).await;
        let swept = sweep(&two.ship, &two.offsite).await.unwrap().swept;
        deleted += swept[0].deleted.len();
        rescued += swept[0].rescued.len();
        paused.resume();
        let was_paused = ended.is_none();
        let ended = match ended {
            Some(ended) => ended,
            None => slow.await,
        };
        match ended {
            Ok(report) => assert_eq!(report.copied, [two.made[3].0.clone()], "paused at {n}"),
            Err(_) => failed += 1,
        }
        for id in two.ship.listed(&two.offsite).await {
            let (_, cargo) = two.made.iter().find(|(made, _)| *made == id).unwrap();
            two.ship.assert_holds(&two.offsite, &id, cargo).await;
        }
        two.sync().await.unwrap();
        two.assert_copied(&[0, 2, 3]).await;
        assert_eq!(two.verify_copy().await.damage, [], "paused at {n}");
        if !was_paused {
            break;
        }
    }
    assert!(
        deleted > 0 && rescued > 0 && failed > 0,
        "{deleted} deleted, {rescued} rescued, {failed} failed"
    );
}

/// Lets a sync die at each operation of one of its two stores.
async fn enumerate(fault: Fault, is_source: bool, between: bool) {
    let mut two = Two::new().await;
    two.ship.prune(&two.original, &[&two.made[0].0], Terms::default()).await.unwrap();
    two.backup(&[4]).await;
    let (original, offsite) = (two.original.fork(), two.offsite.fork());
    for n in 1.. {
        (two.original, two.offsite) = (original.fork(), offsite.fork());
        let (from, to) = (FaultStore::new(two.original.clone()), FaultStore::new(two.offsite.clone()));
        let dying = if is_source { &from } else { &to };
        dying.die_at(Which::All, n, fault);
        let ended = copy(&two.ship, &from, &to).await;
        if !dying.has_struck() {
            assert!(n > 20, "a sync of two snapshots has more operations than {n}");
            return;
        }
        assert!(ended.is_err() || fault == Fault::After, "died at {n} in silence");
        if two.offsite.dump().contains_key(&layout::config()) {
            for id in two.ship.listed(&two.offsite).await {
                let (_, cargo) = two.made.iter().find(|(made, _)| *made == id).unwrap();
                two.ship.assert_holds(&two.offsite, &id, cargo).await;
            }
            assert_eq!(two.verify_copy().await.damage, [], "died at {n}");
            if between {
                // Nobody was heard of for a week, and the copy is pruned.
                two.ship.clock.advance(Duration::days(7));
                sweep(&two.ship, &two.offsite).await.unwrap();
                sweep(&two.ship, &two.offsite).await.unwrap();
            }
        }
        two.sync().await.unwrap_or_else(|failure| panic!("died at {n}: {:?}", failure.chain()));
        two.assert_copied(&[1, 2]).await;
        assert_eq!(two.verify_copy().await.damage, [], "died at {n}");
    }
}

#[tokio::test]
async fn a_sync_may_die_at_every_operation_of_the_copy() {
    enumerate(Fault::Before, false, false).await;
}

#[tokio::test]
async fn a_sync_may_die_after_every_operation_of_the_copy() {
    enumerate(Fault::After, false, false).await;
}

#[tokio::test]
async fn a_sync_may_die_at_every_read_of_the_original() {
    enumerate(Fault::Before, true, false).await;
}

#[tokio::test]
async fn a_sync_that_died_and_was_pruned_away_is_made_up_for() {
    enumerate(Fault::Before, false, true).await;
}

#[tokio::test]
async fn the_witness_of_the_copy_is_its_own() {
    let mut two = Two::new().await;
    two.sync().await.unwrap();
    let (here, there) = (Arc::new(MemoryWitness::default()), Arc::new(MemoryWitness::default()));
    two.backup(&[6]).await;
    assert_eq!(verify(&two.ship, &two.original, &here).await.damage, []);
    assert_eq!(verify(&two.ship, &two.offsite, &there).await.damage, [], "it is behind, which is no theft");
    let repository = two.ship.reader(&two.original).await.unwrap().config().repository.clone();
    let seq = |witness: &MemoryWitness| witness.heads(&repository).unwrap()[&two.ship.made.signer].seq;
    assert_eq!((seq(&here), seq(&there)), (3, 2));
}
