//! What goes in comes out, and what is there already is not stored again.

use std::sync::Arc;

use lifeboat::{
    flow::{Problem, Selection, Stage},
    repo::format::{PackKind, Status, layout},
    store::{CountingStore, FsStore, MemoryStore, Verb},
};
use proptest::prelude::*;

use crate::fixture::{Cargo, Ship, keys_under, marked, noise, parcel, read};

fn mixed() -> Cargo {
    let mut schema = parcel("im/schema.sql", "CREATE DATABASE im");
    schema.meta.stage = Stage::Schema;
    let mut after = parcel("im/triggers.sql", "CREATE TRIGGER t");
    after.meta.stage = Stage::After;
    let rows: Vec<_> = (0..9).map(|n| noise(3_000 + n * 500, n as u64 + 100)).collect();
    let mut cargo = Cargo::of(
        "mysql",
        vec![
            schema,
            parcel("im/empty", ""),
            parcel("im/one-byte", "x"),
            parcel("im/ten-megabytes", noise(10 << 20, 1)),
            marked("im/rows", &rows),
            marked("im/rows-of-nothing", &[]),
            parcel("图片/a b\\c'd\"e", noise(70_000, 2)),
            after,
        ],
    );
    cargo.problems = vec![Problem { what: "im.broken".into(), why: "it is marked as crashed".into() }];
    cargo
}

#[tokio::test]
async fn a_snapshot_reads_back_as_it_was_sent() {
    let (ship, store) = Ship::launched().await;
    let cargo = mixed();
    let committed = ship.backup(&store, &cargo).await.unwrap();
    assert_eq!(committed.status, Status::Partial, "something was left out");
    ship.assert_holds(&store, &committed.id, &cargo).await;
    let snapshot = ship.reader(&store).await.unwrap().snapshot(&committed.id).await.unwrap();
    let source = snapshot.source(&cargo.name).unwrap();
    assert_eq!(source.problems, cargo.problems);
    assert_eq!((source.entries, source.kind.as_str()), (8, "test"));
    let sizes = cargo.reading().await.entries.values().map(|seen| seen.size_bytes).sum::<u64>();
    assert_eq!(source.size_bytes, sizes);
    assert_eq!(ship.verify(&store).await.damage, []);
}

#[tokio::test]
async fn a_snapshot_in_a_folder_reads_back_as_it_was_sent() {
    let (ship, dir) = (Ship::new(), tempfile::tempdir().unwrap());
    let store = FsStore::create(dir.path().join("repository")).unwrap();
    ship.create(&store).await;
    let cargo = mixed();
    let committed = ship.backup(&store, &cargo).await.unwrap();
    ship.assert_holds(&store, &committed.id, &cargo).await;
    assert_eq!(ship.backup(&store, &cargo).await.unwrap().added_packs, 0);
}

#[tokio::test]
async fn five_thousand_small_entries_keep_their_order() {
    let (ship, store) = (Ship::new(), MemoryStore::new());
    ship.create(&store).await;
    let entry = |n: u64| {
        parcel(
            &format!("bucket/{:x}", n.wrapping_mul(0x9E37_79B9)),
            noise(usize::try_from(n % 300).unwrap(), n),
        )
    };
    let cargo = Cargo::of("minio", (0..5000).map(entry).collect());
    let committed = ship.backup(&store, &cargo).await.unwrap();
    assert_eq!(committed.added_packs, 2, "one of data, one of metadata");
    ship.assert_holds(&store, &committed.id, &cargo).await;
}

#[tokio::test]
async fn an_entry_of_very_many_chunks_keeps_its_list_in_chunks_of_its_own() {
    let (ship, store) = (Ship::new(), MemoryStore::new());
    ship.create(&store).await;
    let parts: Vec<_> = (0..9000).map(|n| noise(40, n)).collect();
    let cargo = Cargo::of("mysql", vec![marked("im/many", &parts)]);
    let committed = ship.backup(&store, &cargo).await.unwrap();
    ship.assert_holds(&store, &committed.id, &cargo).await;
    let again = ship.backup(&store, &cargo.clone().reusing()).await.unwrap();
    assert_eq!(again.added_packs, 0);
    // Every pack that the reused entry needs, those of its nested list too, is named by the second refs.
    let refs = ship.reader(&store).await.unwrap().refs().await.unwrap();
    assert_eq!(refs[0].packs, refs[1].packs);
    ship.assert_holds(&store, &again.id, &cargo).await;
}

#[tokio::test]
async fn unchanged_data_adds_no_pack() {
    for reuses in [false, true] {
        let (ship, store) = Ship::launched().await;
        let mut cargo = Cargo::of("minio", vec![parcel("a", noise(3 << 20, 1)), parcel("b", "short")]);
        cargo.reuses = reuses;
        ship.backup(&store, &cargo).await.unwrap();
        let counting = CountingStore::new(store.clone());
        let again = ship.backup(&counting, &cargo).await.unwrap();
        assert_eq!(counting.count(Verb::Put, layout::PACKS), 0, "reuse: {reuses}");
        assert_eq!((again.added_bytes, again.added_packs), (0, 0));
        assert_eq!(again.sources[0].added_bytes, 0);
        ship.assert_holds(&store, &again.id, &cargo).await;
    }
}

#[tokio::test]
async fn a_changed_entry_adds_only_what_changed() {
    let (ship, store) = Ship::launched().await;
    // A chunk has up to 4 MiB, so a change may cost two of those: with other seeds of the borders it does.
    let (a, b) = (noise(4 << 20, 1), noise(12 << 20, 2));
    let cargo = Cargo::of("minio", vec![parcel("a", a.clone()), parcel("b", b.clone())]);
    ship.backup(&store, &cargo).await.unwrap();
    let mut changed = b.to_vec();
    changed.truncate(6 << 20);
    changed.extend_from_slice(b"inserted");
    changed.extend_from_slice(&b[6 << 20..]);
    let cargo = Cargo::of("minio", vec![parcel("a", a), parcel("b", changed)]).reusing();
    let again = ship.backup(&store, &cargo).await.unwrap();
    let added = again.sources[0].added_bytes;
    assert!(added > 0 && added < 9 << 20, "{added} bytes were added");
    ship.assert_holds(&store, &again.id, &cargo).await;
}

#[tokio::test]
async fn the_same_bytes_in_many_entries_are_stored_once() {
    let (ship, store) = Ship::launched().await;
    let bytes = noise(200_000, 1);
    let cargo = Cargo::of("minio", (0..20).map(|n| parcel(&format!("copy-{n:02}"), bytes.clone())).collect());
    let committed = ship.backup(&store, &cargo).await.unwrap();
    let stored: usize = keys_under(&store, layout::PACKS).iter().map(|key| store.dump()[key].len()).sum();
    assert!(stored < 300_000, "{stored} bytes lie in packs");
    ship.assert_holds(&store, &committed.id, &cargo).await;
    let known = Arc::default();
    let repository = ship.append(&store, &known).await.unwrap();
    drop(repository);
    let id = lifeboat::names::ChunkId(<sha2::Sha256 as sha2::Digest>::digest(&bytes).into());
    let places = lifeboat::repo::KnownChunks::locations(known.as_ref(), &id, PackKind::Data).unwrap();
    assert_eq!(places.len(), 1, "no chunk is in a pack twice");
}

#[tokio::test]
async fn a_snapshot_of_nothing_is_a_snapshot() {
    let (ship, store) = Ship::launched().await;
    let cargo = Cargo::of("minio", Vec::new());
    let committed = ship.backup(&store, &cargo).await.unwrap();
    assert_eq!(committed.added_packs, 0);
    ship.assert_holds(&store, &committed.id, &cargo).await;
    assert_eq!(ship.verify(&store).await.damage, []);
}

#[tokio::test]
async fn a_selection_brings_only_what_is_wanted_and_reads_only_there() {
    let (ship, store) = (Ship::new(), MemoryStore::new());
    ship.create(&store).await;
    let entries = (0..24u64).map(|n| parcel(&format!("bucket/{n:02}"), noise(1_500_000, n)));
    let mut cargo = Cargo::of("minio", entries.collect());
    for entry in &mut cargo.entries {
        entry.meta.item = "bucket".into();
    }
    let committed = ship.backup(&store, &cargo).await.unwrap();
    let counting = CountingStore::new(store);
    let reader = ship.reader(&counting).await.unwrap();
    counting.reset();
    let only = Selection::new(&["bucket/07".into()]).unwrap();
    let reading = read(reader.snapshot(&committed.id).await.unwrap(), &cargo.name, only).await.unwrap();
    assert_eq!(reading.entries.keys().collect::<Vec<_>>(), ["bucket/07"]);
    assert_eq!(reading.entries["bucket/07"], cargo.reading().await.entries["bucket/07"]);
    assert_eq!(reading.inventory, ["bucket"]);
    let read: u64 =
        counting.calls().iter().filter(|call| call.at.starts_with(layout::PACKS)).map(|c| c.bytes).sum();
    assert!(read < 8_000_000, "{read} bytes of a pack of 36,000,000 were read for 1,500,000");
}

#[tokio::test]
async fn a_selection_announces_its_items_in_the_order_of_the_source() {
    let (ship, store) = Ship::launched().await;
    let cargo = Cargo::of("minio", ["z", "m", "a"].map(|name| parcel(name, name)).to_vec());
    let committed = ship.backup(&store, &cargo).await.unwrap();
    let snapshot = ship.reader(&store).await.unwrap().snapshot(&committed.id).await.unwrap();
    let only = Selection::new(&["a".into(), "z".into()]).unwrap();
    let reading = read(snapshot, &cargo.name, only).await.unwrap();
    assert_eq!(reading.inventory, ["z", "a"]);
}

#[tokio::test]
async fn a_whole_snapshot_is_read_in_few_requests() {
    let (ship, store) = (Ship::new(), MemoryStore::new());
    ship.create(&store).await;
    let entries = (0..16u64).map(|n| parcel(&format!("{n:02}"), noise(2_500_000, n)));
    let cargo = Cargo::of("minio", entries.collect());
    let committed = ship.backup(&store, &cargo).await.unwrap();
    let counting = CountingStore::new(store);
    let reader = ship.reader(&counting).await.unwrap();
    counting.reset();
    read(reader.snapshot(&committed.id).await.unwrap(), &cargo.name, Selection::all()).await.unwrap();
    let calls = counting.calls();
    let of_packs: Vec<_> = calls.iter().filter(|call| call.at.starts_with(layout::PACKS)).collect();
    let read: u64 = of_packs.iter().map(|call| call.bytes).sum();
    assert!(of_packs.len() <= 24 && read < 42_000_000, "{} requests, {read} bytes", of_packs.len());
}

fn any_cargo() -> impl Strategy<Value = Cargo> {
    let body = prop_oneof![
        4 => prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..4),
        1 => (0usize..3_000_000, 0u64..3).prop_map(|(size, seed)| vec![noise(size, seed).to_vec()]),
    ];
    let entry = ("[a-zé%' ]{1,12}", body, any::<bool>(), "[ -~]{0,9}");
    prop::collection::vec(entry, 0..14).prop_map(|entries| {
        let parcels = entries.into_iter().enumerate().map(|(n, (name, parts, by_mark, note))| {
            let path = format!("{n}/{name}");
            let parts: Vec<bytes::Bytes> = parts.into_iter().map(Into::into).collect();
            let mut made = if by_mark { marked(&path, &parts) } else { parcel(&path, parts.concat()) };
            made.trailer.insert("note".into(), note.into());
            made
        });
        Cargo::of("any", parcels.collect())
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn whatever_is_sent_comes_back(first in any_cargo(), second in any_cargo()) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let (ship, store) = Ship::launched().await;
            let one = ship.backup(&store, &first).await.unwrap();
            let two = ship.backup(&store, &second).await.unwrap();
            ship.assert_holds(&store, &one.id, &first).await;
            ship.assert_holds(&store, &two.id, &second).await;
        });
    }
}
