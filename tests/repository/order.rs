//! In what order objects are put, that none is put twice, and how much is under way at once.

use std::{
    collections::BTreeSet,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use lifeboat::{
    flow::{EntrySink, FlowResult, Previous, STREAM_DEPTH, Source, channel, settle},
    names::{Key, SourceName},
    repo::{Label, format::layout},
    store::{CountingStore, Delete, Get, Listed, MemoryStore, Put, StoreError, Verb},
};

use crate::fixture::{Cargo, Ship, noise, parcel};

/// Returns the rank of an object in the order of writing.
fn rank(key: &str) -> u32 {
    let order = ["sessions/", layout::PACKS, layout::INDEX, layout::MANIFESTS, layout::REFS];
    let rank = order.iter().position(|prefix| key.starts_with(prefix)).expect("a known kind of object");
    u32::try_from(rank + usize::from(rank == 4 && key.ends_with(layout::SIGNATURE))).unwrap()
}

#[tokio::test]
async fn the_session_comes_first_then_packs_index_manifest_and_refs_and_the_signature_last() {
    let (ship, store) = (Ship::new(), CountingStore::new(MemoryStore::new()));
    ship.create(&store).await;
    let cargo = Cargo::of("minio", (0..5).map(|n| parcel(&format!("{n}"), noise(400_000, n))).collect());
    store.reset();
    ship.backup(&store, &cargo).await.unwrap();
    let calls = store.calls();
    let puts: Vec<&str> = calls.iter().filter(|c| c.verb == Verb::Put).map(|c| c.at.as_str()).collect();
    let ranks: Vec<u32> = puts.iter().map(|key| rank(key)).collect();
    assert!(ranks.is_sorted(), "{puts:?}");
    assert_eq!(ranks.last(), Some(&5));
    assert_eq!(ranks.iter().collect::<BTreeSet<_>>().len(), 6, "{puts:?}");
    for pair in puts.windows(2).filter(|pair| pair[1].ends_with(layout::SIGNATURE)) {
        assert_eq!(format!("{}{}", pair[0], layout::SIGNATURE), pair[1], "a signature follows what it signs");
    }
}

#[tokio::test]
async fn no_object_is_ever_put_twice_or_changed() {
    let (ship, store) = Ship::launched().await;
    let counting = CountingStore::new(store.clone());
    let mut before = store.dump();
    for round in 0..4 {
        let cargo =
            Cargo::of("minio", (0..4).map(|n| parcel(&format!("{n}"), noise(90_000, n * round))).collect());
        ship.backup(&counting, &cargo).await.unwrap();
        let after = store.dump();
        assert!(before.iter().all(|(key, bytes)| after.get(key) == Some(bytes)), "an object changed");
        before = after;
    }
    let calls = counting.calls();
    let puts: Vec<&String> = calls.iter().filter(|c| c.verb == Verb::Put).map(|c| &c.at).collect();
    assert_eq!(puts.len(), puts.iter().collect::<BTreeSet<_>>().len());
}

#[tokio::test]
async fn a_long_run_puts_an_index_now_and_then_so_that_its_packs_are_found_should_it_die() {
    let (ship, store) = Ship::launched().await;
    let counting = CountingStore::new(store.clone());
    let cargo = Cargo::of("minio", (0..60).map(|n| parcel(&format!("{n}"), noise(600_000, n))).collect());
    let repository = ship.append(&counting, &Arc::default()).await.unwrap();
    let mut writer = repository.begin(ship.ground(), ship.monitor(), 1).await.unwrap();
    let (sink, stream) = channel(STREAM_DEPTH);
    let source = Box::new(cargo.clone());
    let (read, written) =
        tokio::join!(source.read(sink, None), writer.write_source(&cargo.name, "test", stream));
    settle(read, written).unwrap();
    // The run dies here, before it could commit.
    drop(writer);
    let indexes = counting.count(Verb::Put, layout::INDEX) / 2;
    assert!((2..=3).contains(&indexes), "{indexes} indexes for 60 packs");
    let next = ship.backup(&store, &cargo).await.unwrap();
    assert!(next.added_packs < 32, "{} packs were stored again", next.added_packs);
    ship.assert_holds(&store, &next.id, &cargo).await;
    assert_eq!(ship.verify(&store).await.damage, []);
}

/// Counts the packs that are being put, each of which takes a few turns of the scheduler.
#[derive(Clone, Default)]
struct SlowStore {
    inner: MemoryStore,
    now: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

#[async_trait]
impl Put for SlowStore {
    async fn put(&self, key: &Key, body: Bytes) -> Result<(), StoreError> {
        if !key.as_str().starts_with(layout::PACKS) {
            return self.inner.put(key, body).await;
        }
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        for _ in 0..200 {
            tokio::task::yield_now().await;
        }
        let put = self.inner.put(key, Bytes::new()).await;
        self.now.fetch_sub(1, Ordering::SeqCst);
        put
    }
}

#[async_trait]
impl Get for SlowStore {
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
impl Delete for SlowStore {
    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        self.inner.delete(key).await
    }
}

/// One entry of so many mebibytes, made while it is read.
struct Flood {
    name: SourceName,
    mebibytes: u64,
}

#[async_trait]
impl Source for Flood {
    fn name(&self) -> &SourceName {
        &self.name
    }

    async fn read(self: Box<Self>, sink: EntrySink, _previous: Option<Box<dyn Previous>>) -> FlowResult<()> {
        sink.announce(vec!["flood".into()]).await?;
        let mut body = sink.begin(parcel("flood", "").meta).await?;
        let block = noise(1 << 20, 7);
        for number in 0..self.mebibytes {
            let mut bytes = block.to_vec();
            bytes.iter_mut().step_by(97).for_each(|byte| *byte ^= u8::try_from(number % 251).unwrap());
            bytes[..8].copy_from_slice(&number.to_le_bytes());
            body.write(bytes.into()).await?;
        }
        body.finish().await?;
        sink.complete("flood");
        sink.finish(Cargo::of("x", Vec::new()).point).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_huge_entry_keeps_few_packs_under_way_however_slow_the_store() {
    let (ship, store) = (Ship::new(), SlowStore::default());
    ship.create(&store).await;
    ship.set_pack_size(&store.inner, 4 << 20).await;
    let repository = ship.append(&store, &Arc::default()).await.unwrap();
    let mut writer = repository.begin(ship.ground(), ship.monitor(), 1).await.unwrap();
    let flood = Flood { name: SourceName::new("flood").unwrap(), mebibytes: 300 };
    let name = flood.name.clone();
    let (sink, stream) = channel(STREAM_DEPTH);
    let (read, written) =
        tokio::join!(Box::new(flood).read(sink, None), writer.write_source(&name, "test", stream));
    settle(read, written).unwrap();
    let committed = writer.commit(Label::default(), Vec::new()).await.unwrap();
    assert!(committed.added_packs > 40, "{} packs", committed.added_packs);
    assert_eq!(committed.sources[0].size_bytes, 300 << 20);
    let most = store.most.load(Ordering::SeqCst);
    assert!(most <= 4, "{most} puts were under way at once");
}
