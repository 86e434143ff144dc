//! One entry costs what it needs, however large the snapshot is: the requests and the bytes are counted.

use std::sync::Arc;

use bytes::Bytes;
use lifeboat::{
    crypt::CIPHER_CHUNK_BYTES,
    flow::Selection,
    names::{Key, SnapshotId, SourceName},
    repo::{
        KnownChunks, MemoryIndex, PackMap,
        format::{PackKind, layout},
    },
    store::{Call, CountingStore, MemoryStore, Verb},
};

use crate::fixture::{Cargo, Parcel, Ship, marked, noise, parcel, read};

/// Bytes of one entry.
const ENTRY_BYTES: usize = 1 << 20;
/// Bytes of an entry that do not compress: about what it has in a pack.
const NOISE_BYTES: usize = 32 << 10;
/// Bytes that one entry may cost: two chunks of an age payload, for it may lie across their border, and a header.
const ENTRY_COST_BYTES: u64 = 2 * CIPHER_CHUNK_BYTES + 1024;
/// Ranges of one table.
const RANGES: usize = 8;
/// The number of the first object; what is below are rows.
const OBJECTS: usize = 1_000_000;
/// Bytes of one pack: many entries.
const PACK_BYTES: u64 = 2 << 20;

/// Returns a mebibyte that is like no other and compresses well.
fn page(number: usize) -> Bytes {
    let line = format!("{number:015}\n").into_bytes();
    [&noise(NOISE_BYTES, number as u64)[..], &line.repeat((ENTRY_BYTES - NOISE_BYTES) / 16)].concat().into()
}

/// A table of `count` ranges of one chunk each, a bucket of `count` objects, as engines send them.
fn cargos(count: usize) -> [Cargo; 2] {
    let rows = |n: usize| -> Parcel {
        let mut entry = marked(&format!("im/t{:03}/data.{n:05}.tsv", n / RANGES), &[page(n)]);
        entry.meta.item = format!("im.t{:03}", n / RANGES);
        entry.meta.select = entry.meta.item.clone();
        entry
    };
    let object = |n: usize| -> Parcel {
        let mut entry = parcel(&format!("bucket/{n:05}"), page(OBJECTS + n));
        entry.meta.item = "bucket".into();
        entry
    };
    [Cargo::of("mysql", (0..count).map(rows).collect()), Cargo::of("minio", (0..count).map(object).collect())]
}

/// A snapshot of twice `count` mebibytes in packs of two, and what its packs are.
struct Hold {
    ship: Ship,
    store: MemoryStore,
    id: SnapshotId,
    known: Arc<MemoryIndex>,
}

/// Gets: how many, and their bytes.
type Cost = (usize, u64);

impl Hold {
    async fn filled(count: usize) -> Self {
        let (ship, store, known) = (Ship::new(), MemoryStore::new(), Arc::default());
        ship.create(&store).await;
        ship.set_pack_size(&store, PACK_BYTES).await;
        let id = ship.backup_knowing(&store, &known, &cargos(count)).await.unwrap().id;
        Self { ship, store, id, known }
    }

    /// Returns what lies in the store under a prefix, signatures too.
    fn stored(&self, prefix: &str) -> Cost {
        let all = self.store.dump().into_iter().filter(|(key, _)| key.as_str().starts_with(prefix));
        all.fold((0, 0), |(count, size), (_, bytes)| (count + 1, size + bytes.len() as u64))
    }

    fn pack(&self, call: &Call) -> Option<Arc<PackMap>> {
        let pack = layout::pack_of(&Key::new(&call.at).ok()?)?;
        self.known.pack(&pack).unwrap()
    }

    /// Reads what `only` picks, asserts that it is `want`, and returns the gets that it took.
    async fn take(&self, source: &str, only: &str, want: &[Bytes]) -> Vec<Call> {
        let counting = CountingStore::new(self.store.clone());
        let snapshot = self.ship.reader(&counting).await.unwrap().snapshot(&self.id).await.unwrap();
        let (name, only) = (SourceName::new(source).unwrap(), Selection::new(&[only.to_owned()]).unwrap());
        let reading = read(snapshot, &name, only).await.unwrap();
        assert_eq!(reading.entries.len(), want.len());
        let sizes = reading.entries.values().map(|seen| seen.size_bytes);
        assert_eq!(sizes.sum::<u64>(), want.iter().map(|bytes| bytes.len() as u64).sum::<u64>());
        counting.calls().into_iter().filter(|call| call.verb == Verb::Get).collect()
    }

    /// Asserts that a read of `wanted` entries asked for no more than it needs.
    fn assert_cheap(&self, gets: &[Call], wanted: usize) {
        let cost = |prefix: &str| -> Cost {
            let all = gets.iter().filter(|call| call.at.starts_with(prefix));
            all.fold((0, 0), |(count, bytes), call| (count + 1, bytes + call.bytes))
        };
        // What is in the clear, and the manifest: once each, with its signature.
        for prefix in [layout::CONFIG_PREFIX, layout::REFS, layout::MANIFESTS] {
            assert_eq!(cost(prefix), self.stored(prefix), "{prefix}");
        }
        // A reader without a catalog takes in every index, once: it cannot know which one tells of the entry.
        assert_eq!(cost(layout::INDEX), self.stored(layout::INDEX));
        let of_kind = |kind: PackKind| {
            let all = gets.iter().filter(move |call| self.pack(call).is_some_and(|pack| pack.kind == kind));
            all.fold((0, 0), |(count, bytes), call| (count + 1, bytes + call.bytes))
        };
        // The entry list of the source is read whole: it has no order that a search could use.
        let (lists, list_bytes): Cost = of_kind(PackKind::Meta);
        assert!(lists <= 2 && list_bytes < 100_000, "{lists} gets, {list_bytes} bytes of lists");
        // For each entry at most the head of a pack and one range.
        let (count, bytes): Cost = of_kind(PackKind::Data);
        assert!(count <= 2 * wanted, "{count} gets of packs for {wanted} entries");
        assert!(bytes <= ENTRY_COST_BYTES * wanted as u64, "{bytes} bytes of packs for {wanted} entries");
        let is_data = |call: &&Call| self.pack(call).is_some_and(|pack| pack.kind == PackKind::Data);
        for call in gets.iter().filter(is_data) {
            assert!(call.bytes < PACK_BYTES / 3, "{} bytes of `{}` in one read", call.bytes, call.at);
        }
    }
}

/// Takes one entry and one table out of the middle of a snapshot of twice `count` mebibytes.
async fn one_of_many(count: usize) {
    let hold = Hold::filled(count).await;
    let packs = hold.stored(layout::PACKS);
    assert!(packs.0 > 4 && packs.1 > 2 * (count * NOISE_BYTES) as u64, "{packs:?}");
    let middle = count / 2;
    let entry = hold.take("minio", &format!("bucket/{middle:05}"), &[page(OBJECTS + middle)]).await;
    hold.assert_cheap(&entry, 1);
    let first = middle / RANGES * RANGES;
    let rows: Vec<Bytes> = (first..first + RANGES).map(page).collect();
    let table = hold.take("mysql", &format!("im.t{:03}", middle / RANGES), &rows).await;
    hold.assert_cheap(&table, RANGES);
}

#[tokio::test]
async fn one_entry_of_256_mebibytes_is_read_without_the_rest() {
    one_of_many(128).await;
}

#[tokio::test]
#[ignore = "a gibibyte through an unoptimised build takes a while"]
async fn one_entry_of_a_gibibyte_is_read_without_the_rest() {
    one_of_many(512).await;
}
