//! What a copy reads back before a snapshot relies on it, how often it asks the stores, and how it says that it stands.

use std::{
    collections::BTreeSet,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use lifeboat::{
    error::{ExitCode, Result},
    names::Key,
    repo::{CopyReport, CopySettings, MemoryIndex, Place, Repository, format::layout},
    store::{CountingStore, Delete, Fault, FaultStore, Get, Listed, Put, Store, StoreError, Verb, Which},
};
use tokio::sync::Notify;

use crate::{
    fixture::{AT_ONCE, keys_under},
    sync::{QUICK, Two},
};

fn reading_back(reread_percent: u32) -> CopySettings {
    CopySettings { reread_percent, ..QUICK }
}

/// Copies as a host that remembers what it found out about the copy.
async fn copy<T: Store + Clone + 'static>(
    two: &Two,
    to: &T,
    known: &Arc<MemoryIndex>,
    settings: CopySettings,
) -> Result<CopyReport> {
    copy_from(two, &two.original, to, known, settings).await
}

async fn copy_from<F: Store + Clone + 'static, T: Store + Clone + 'static>(
    two: &Two,
    from: &F,
    to: &T,
    known: &Arc<MemoryIndex>,
    settings: CopySettings,
) -> Result<CopyReport> {
    let ship = &two.ship;
    let original = Repository::clear(ship.place(from, &Arc::default())).await?;
    let (place, put) = (ship.place(to, known), Arc::new(to.clone()));
    original.copy_to(place, put, settings, &ship.now(), &ship.monitor()).await
}

/// Returns the packs that were read, in order.
fn packs_read<S>(store: &CountingStore<S>) -> Vec<String> {
    let reads = store.calls().into_iter().filter(|call| call.verb == Verb::Get);
    reads.map(|call| call.at).filter(|at| at.starts_with(layout::PACKS)).collect()
}

#[tokio::test]
async fn a_share_of_what_was_sent_for_each_snapshot_is_read_back_and_one_pack_at_least() {
    for (percent, of_all) in [(0, Some(0)), (5, None), (100, Some(1))] {
        let two = Two::new().await;
        let to = CountingStore::new(two.offsite.clone());
        let report = copy(&two, &to, &Arc::default(), reading_back(percent)).await.unwrap();
        let (read, all) = (packs_read(&to), keys_under(&two.offsite, layout::PACKS));
        assert_eq!(report.packs_reread, read.len() as u64);
        match of_all {
            Some(share) => assert_eq!(read.len(), share * all.len(), "each once: {percent}"),
            None => assert!((2..all.len()).contains(&read.len()), "{} of {}", read.len(), all.len()),
        }
    }
}

#[tokio::test]
async fn what_a_sync_that_died_has_sent_is_read_back_by_the_next_one() {
    let two = Two::new().await;
    let to = FaultStore::new(CountingStore::new(two.offsite.clone()));
    to.die_at(Which::Writes, 8, Fault::Before);
    copy(&two, &to, &Arc::default(), reading_back(100)).await.unwrap_err();
    assert_eq!(
        keys_under(&two.offsite, layout::MANIFESTS),
        Vec::<Key>::new(),
        "nothing relies on a pack yet"
    );
    to.heal();
    let report = copy(&two, &to, &Arc::default(), reading_back(100)).await.unwrap();
    let read: BTreeSet<String> = packs_read(to.inner()).into_iter().collect();
    let all = keys_under(&two.offsite, layout::PACKS);
    assert!(report.packs < all.len() as u64, "some were there");
    assert_eq!(read, all.iter().map(ToString::to_string).collect());
}

/// Gives one pack back changed, so often.
#[derive(Clone)]
struct Liar<S> {
    inner: S,
    pack: Key,
    lies: Arc<AtomicUsize>,
    changes: fn(&mut Vec<u8>),
}

#[async_trait::async_trait]
impl<S: Get> Get for Liar<S> {
    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Bytes, StoreError> {
        let bytes = self.inner.get(key, range.clone()).await?;
        let lies = |left: usize| left.checked_sub(1);
        if *key != self.pack || self.lies.fetch_update(Ordering::SeqCst, Ordering::SeqCst, lies).is_err() {
            return Ok(bytes);
        }
        assert_eq!(range, Some(0..bytes.len() as u64), "the time limit goes by the range");
        let mut bytes = bytes.to_vec();
        (self.changes)(&mut bytes);
        Ok(bytes.into())
    }

    async fn size(&self, key: &Key) -> Result<Option<u64>, StoreError> {
        self.inner.size(key).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Listed>, StoreError> {
        self.inner.list(prefix).await
    }
}

/// Copies into a place that lies about this pack when it is read back.
async fn copy_to_liar(
    two: &Two,
    pack: &Key,
    lies: usize,
    changes: fn(&mut Vec<u8>),
    known: &Arc<MemoryIndex>,
) -> Result<CopyReport> {
    let liar = Liar { inner: two.offsite.clone(), pack: pack.clone(), lies: Arc::new(lies.into()), changes };
    let original = Repository::clear(two.ship.place(&two.original, &Arc::default())).await?;
    let place = Place { get: Arc::new(liar), ..two.ship.place(&two.offsite, known) };
    let put = Arc::new(two.offsite.clone());
    original.copy_to(place, put, reading_back(100), &two.ship.now(), &two.ship.monitor()).await
}

#[tokio::test]
async fn a_pack_that_twice_does_not_come_back_whole_fails_the_sync_before_any_snapshot_relies_on_it() {
    for changes in [|bytes: &mut Vec<u8>| bytes[100] ^= 1, |bytes: &mut Vec<u8>| bytes.truncate(100)] {
        let two = Two::new().await;
        let pack = two.pack_of_only(0);
        let failure = copy_to_liar(&two, &pack, 2, changes, &Arc::default()).await.unwrap_err();
        assert_eq!(failure.exit(), ExitCode::StoreDown, "{:?}", failure.chain());
        assert!(failure.to_string().contains("does not come back whole"), "{failure}");
        assert!(failure.hints()[0].contains("No snapshot relies on that object"), "{:?}", failure.hints());
        assert_eq!(keys_under(&two.offsite, layout::REFS), Vec::<Key>::new());
        two.sync().await.unwrap();
        two.assert_copied(&[0, 1]).await;
    }
}

#[tokio::test]
async fn a_pack_that_came_wrong_once_and_whole_the_second_time_is_believed() {
    let two = Two::new().await;
    let known = Arc::default();
    copy_to_liar(&two, &two.pack_of_only(0), 1, |bytes| bytes[100] ^= 1, &known).await.unwrap();
    two.assert_copied(&[0, 1]).await;
    let again = copy(&two, &two.offsite, &known, reading_back(0)).await.unwrap();
    assert_eq!(again.packs_reread, 0, "it is not distrusted");
}

#[tokio::test]
async fn nobody_is_told_to_remove_a_damaged_pack_that_snapshots_of_the_copy_rely_on() {
    let mut two = Two::new().await;
    let (pack, known) = (two.pack_of_only(0), Arc::default());
    let flip = |bytes: &mut Vec<u8>| bytes[100] ^= 1;
    copy_to_liar(&two, &pack, 2, flip, &known).await.unwrap_err();
    // Another host, which knows nothing of that, makes the copy.
    two.sync().await.unwrap();
    two.backup(&[1, 2]).await;
    let failure = copy_to_liar(&two, &pack, 2, flip, &known).await.unwrap_err();
    let hints = failure.hints().join(" ");
    assert!(!hints.contains("remove it by hand"), "{hints}");
    assert!(hints.contains("1 snapshots of the copy rely on that object: do not remove it yet"), "{hints}");
    assert!(hints.contains("verify"), "{hints}");
}

#[tokio::test]
async fn a_pack_that_was_found_damaged_once_is_read_back_until_it_is_whole() {
    let two = Two::new().await;
    let to = FaultStore::new(two.offsite.clone());
    to.die_at(Which::Writes, 8, Fault::Before);
    copy(&two, &to, &Arc::default(), QUICK).await.unwrap_err();
    to.heal();
    let pack = keys_under(&two.offsite, layout::PACKS)[0].clone();
    let good = two.offsite.dump()[&pack].clone();
    let mut bytes = good.to_vec();
    bytes[7] ^= 1;
    two.offsite.overwrite(&pack, bytes);
    let known = Arc::default();
    for percent in [100, 0, 0] {
        let failure = copy(&two, &two.offsite, &known, reading_back(percent)).await.unwrap_err();
        assert_eq!(failure.exit(), ExitCode::StoreDown, "{:?}", failure.chain());
        assert_eq!(two.ship.listed(&two.offsite).await, []);
    }
    two.offsite.delete(&pack).await.unwrap();
    let report = copy(&two, &two.offsite, &known, reading_back(0)).await.unwrap();
    assert!(report.packs_reread >= 1, "it is looked at once more");
    assert_eq!(two.offsite.dump()[&pack], good);
    two.assert_copied(&[0, 1]).await;
    assert_eq!(copy(&two, &two.offsite, &known, reading_back(0)).await.unwrap().packs_reread, 0);
}

#[tokio::test]
async fn the_stores_are_listed_as_often_for_many_snapshots_as_for_one() {
    let mut listed = Vec::new();
    for more in [0, 3] {
        let mut two = Two::new().await;
        for seed in 0..more {
            two.backup(&[10 + seed]).await;
        }
        let (from, to) = (CountingStore::new(two.original.clone()), CountingStore::new(two.offsite.clone()));
        copy_from(&two, &from, &to, &Arc::default(), QUICK).await.unwrap();
        let of = |prefix| (from.count(Verb::List, prefix), to.count(Verb::List, prefix));
        listed.push((of(layout::INDEX), of(layout::PACKS), of(layout::REFS)));
        assert_eq!(of(layout::INDEX), (1, 2), "and once more at the end");
    }
    assert_eq!(listed[0], listed[1]);
}

/// Holds each pack back until so many others come, and counts how many were under way together.
#[derive(Clone)]
struct Gate<S> {
    inner: S,
    waits_for: usize,
    inside: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
    came: Arc<Notify>,
}

#[async_trait::async_trait]
impl<S: Put> Put for Gate<S> {
    async fn put(&self, key: &Key, body: Bytes) -> Result<(), StoreError> {
        if key.as_str().starts_with(layout::PACKS) {
            let inside = self.inside.fetch_add(1, Ordering::SeqCst) + 1;
            let most = self.most.fetch_max(inside, Ordering::SeqCst).max(inside);
            if most < self.waits_for {
                self.came.notified().await;
            }
            self.came.notify_waiters();
            self.inner.put(key, body).await?;
            tokio::task::yield_now().await;
            self.inside.fetch_sub(1, Ordering::SeqCst);
            return Ok(());
        }
        self.inner.put(key, body).await
    }
}

#[tokio::test]
async fn as_many_packs_are_on_their_way_as_the_settings_say_and_no_more() {
    for packs_at_once in [1, 2] {
        let two = Two::new().await;
        let gate = Gate {
            inner: two.offsite.clone(),
            waits_for: packs_at_once,
            inside: Arc::default(),
            most: Arc::default(),
            came: Arc::default(),
        };
        let original = Repository::clear(two.ship.place(&two.original, &Arc::default())).await.unwrap();
        let place = two.ship.place(&two.offsite, &Arc::default());
        let settings = CopySettings { packs_at_once, ..QUICK };
        let put = Arc::new(gate.clone());
        original.copy_to(place, put, settings, &two.ship.now(), &two.ship.monitor()).await.unwrap();
        assert_eq!(gate.most.load(Ordering::SeqCst), packs_at_once);
        two.assert_copied(&[0, 1]).await;
    }
}

#[tokio::test]
async fn a_copy_that_has_everything_says_so() {
    let two = Two::new().await;
    let report = two.sync().await.unwrap();
    let (newest, _) = &two.made[1];
    let state = report.state;
    assert_eq!(state.snapshots, 2);
    let (id, began) = state.newest.unwrap();
    assert_eq!((&id, began.timestamp()), (newest, newest.time().timestamp()));
    let dump = two.offsite.dump();
    let packs = dump.iter().filter(|(key, _)| key.as_str().starts_with(layout::PACKS));
    assert_eq!(state.packs_bytes, packs.map(|(_, bytes)| bytes.len() as u64).sum::<u64>());
    assert_eq!((state.lag_bytes, state.behind), (0, None));
}

#[tokio::test]
async fn the_newest_of_many_snapshots_of_one_second_is_the_one_that_was_begun_last() {
    let mut two = Two::new().await;
    for _ in 0..8 {
        two.ship.clock.advance(chrono::Duration::milliseconds(1) - chrono::Duration::hours(1));
        two.backup(&[2, 3]).await;
    }
    let ids: BTreeSet<_> = two.made[1..].iter().map(|(id, _)| id.time()).collect();
    assert_eq!(ids.len(), 1, "all of one second, or nothing is shown");
    assert_eq!(two.sync().await.unwrap().state.newest.unwrap().0, two.made[9].0);
}

#[tokio::test]
async fn what_a_copy_lacks_is_told_with_its_bytes_and_its_age() {
    let mut two = Two::new().await;
    two.backup(&[5]).await;
    two.backup(&[6]).await;
    for n in [1, 3] {
        let pack = two.pack_of_only(n);
        two.original.overwrite(&pack, "no longer what its name says");
    }
    let state = two.sync().await.unwrap().state;
    assert_eq!(state.snapshots, 2);
    assert_eq!(state.newest.unwrap().0, two.made[2].0);
    assert_eq!(state.behind.unwrap().0, two.made[1].0, "the oldest of them");
    assert!(state.lag_bytes > 0);
}

#[tokio::test]
async fn what_the_copy_has_forgotten_itself_is_no_lag() {
    let two = Two::new().await;
    two.sync().await.unwrap();
    two.ship.prune(&two.offsite, &[&two.made[0].0], AT_ONCE).await.unwrap();
    let state = two.sync().await.unwrap().state;
    assert_eq!((state.snapshots, state.lag_bytes, state.behind), (1, 0, None), "before the sweep");
    two.ship.prune(&two.offsite, &[], AT_ONCE).await.unwrap();
    let state = two.sync().await.unwrap().state;
    assert_eq!((state.snapshots, state.lag_bytes, state.behind), (1, 0, None), "and after it");
}

#[tokio::test]
async fn packs_that_vanish_from_the_copy_are_copied_again_and_that_is_told() {
    let two = Two::new().await;
    two.sync().await.unwrap();
    let whole = two.offsite.dump();
    let gone = [two.pack_of_only(0), two.pack_of_only(1)];
    for pack in &gone {
        two.offsite.delete(pack).await.unwrap();
    }
    let report = two.sync().await.unwrap();
    let healed: Vec<Key> = report.healed.iter().map(|pack| layout::pack(*pack)).collect();
    assert_eq!(healed.iter().collect::<BTreeSet<_>>(), gone.iter().collect());
    assert_eq!((report.there, report.packs, report.state.lag_bytes), (2, 2, 0));
    assert!(report.unhealed.is_empty() && report.copied.is_empty(), "{report:?}");
    for pack in &gone {
        assert_eq!(two.offsite.dump()[pack], whole[pack]);
    }
    two.assert_copied(&[0, 1]).await;
    assert_eq!(two.sync().await.unwrap().healed, BTreeSet::new());
}

#[tokio::test]
async fn what_cannot_be_healed_is_named_and_not_counted_and_the_rest_is_healed() {
    let mut two = Two::new().await;
    two.sync().await.unwrap();
    let (lost, short) = (two.pack_of_only(0), two.pack_of_only(1));
    two.offsite.delete(&lost).await.unwrap();
    two.original.delete(&lost).await.unwrap();
    two.offsite.overwrite(&short, "short");
    two.backup(&[7]).await;
    let report = two.sync().await.unwrap();
    let unhealed: Vec<_> = report.unhealed.iter().map(|(id, _)| id).collect();
    assert_eq!(unhealed, [&two.made[0].0, &two.made[1].0]);
    assert!(report.unhealed[0].1.contains("is missing in the original"), "{report:?}");
    assert!(report.unhealed[1].1.contains("does not have its size"), "{report:?}");
    assert_eq!((report.there, &report.copied), (0, &vec![two.made[2].0.clone()]));
    assert_eq!((report.state.snapshots, report.state.behind.unwrap().0), (1, two.made[0].0.clone()));
    two.ship.assert_holds(&two.offsite, &two.made[2].0, &two.made[2].1).await;
    // What was damaged comes back once it was removed by hand.
    two.offsite.delete(&short).await.unwrap();
    let report = two.sync().await.unwrap();
    assert_eq!((report.unhealed.len(), report.healed.len(), report.there), (1, 1, 2));
}

#[tokio::test]
async fn a_snapshot_under_a_signature_that_nobody_believes_does_not_count_as_there() {
    for with_refs in [false, true] {
        let two = Two::new().await;
        let refs = layout::refs(&two.made[1].0, 0);
        if with_refs {
            two.offsite.overwrite(&refs, two.original.dump()[&refs].clone());
        }
        two.offsite.overwrite(&layout::signature(&refs), "junk");
        for _ in 0..2 {
            let failure = two.sync().await.unwrap_err();
            assert_eq!(failure.exit(), ExitCode::Tampering, "{:?}", failure.chain());
            assert!(failure.to_string().contains("is not the signature of the original"), "{failure}");
        }
        assert_eq!(keys_under(&two.offsite, layout::MANIFESTS).len(), 2, "the first one was copied");
        two.offsite.delete(&layout::signature(&refs)).await.unwrap();
        let report = two.sync().await.unwrap();
        assert_eq!((report.there, report.copied), (1, vec![two.made[1].0.clone()]));
        two.assert_copied(&[0, 1]).await;
    }
}
