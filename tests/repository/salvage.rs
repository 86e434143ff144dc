//! What is not damaged comes back, byte for byte, and what is damaged is named; nothing is both, nothing is neither.

use std::{collections::BTreeSet, sync::Arc};

use bytes::Bytes;
use lifeboat::{
    error::ExitCode,
    flow::Stage,
    names::{Key, SnapshotId},
    repo::{Lost, Repository, format::layout},
    store::{Delete, Get, MemoryStore},
};

use crate::fixture::{Cargo, Parcel, Ship, keys_under, marked, noise, parcel, read_sound};

/// Reads what can be read of `cargo`, and checks that it is right and that the rest is named.
async fn salvaged(ship: &Ship, store: &MemoryStore, id: &SnapshotId, cargo: &Cargo) -> Vec<Lost> {
    let snapshot = ship.reader(store).await.unwrap().snapshot(id).await.unwrap();
    let (got, lost) = read_sound(snapshot, &cargo.name).await.unwrap_or_else(|failure| {
        panic!("{:?}", failure.chain());
    });
    let want = cargo.reading().await;
    for (path, seen) in &got.entries {
        assert_eq!(want.entries.get(path), Some(seen), "`{path}` has other bytes");
    }
    let named: BTreeSet<String> =
        lost.iter().filter_map(|one| one.entry.as_ref().map(ToString::to_string)).collect();
    let nameless = lost.iter().any(|one| one.entry.is_none());
    for path in want.entries.keys() {
        let (is_there, is_named) = (got.entries.contains_key(path), named.contains(path));
        assert!(is_there != is_named || nameless && !is_there, "`{path}`: {is_there} {is_named}");
    }
    assert!(lost.iter().all(|one| !one.why.is_empty()), "{lost:?}");
    lost
}

fn names(lost: &[Lost]) -> Vec<String> {
    lost.iter().map(|one| one.entry.as_ref().map_or("?".to_owned(), ToString::to_string)).collect()
}

fn flip(store: &MemoryStore, key: &Key, at: impl Fn(usize) -> usize) {
    let mut bytes = store.dump()[key].to_vec();
    let at = at(bytes.len());
    bytes[at] ^= 4;
    store.overwrite(key, bytes);
}

/// Eight entries in one large pack.
async fn one_pack() -> (Ship, MemoryStore, SnapshotId, Cargo) {
    let (ship, store) = (Ship::new(), MemoryStore::new());
    ship.create(&store).await;
    let entries = (0..8).map(|n| parcel(&format!("{n}"), noise(700_000, n))).collect();
    let cargo = Cargo::of("minio", entries);
    let id = ship.backup(&store, &cargo).await.unwrap().id;
    (ship, store, id, cargo)
}

fn data_pack(ship: &Ship, store: &MemoryStore) -> Key {
    let packs = keys_under(store, layout::PACKS);
    let sealed = |key: &&Key| ship.index_key().open(&store.dump()[*key], "pack").is_err();
    packs.iter().find(sealed).unwrap().clone()
}

#[tokio::test]
async fn what_is_whole_is_salvaged_whole() {
    let (ship, store, id, cargo) = one_pack().await;
    assert_eq!(salvaged(&ship, &store, &id, &cargo).await, []);
}

#[tokio::test]
async fn a_flipped_bit_costs_the_entries_around_it_and_not_the_pack() {
    let (ship, store, id, cargo) = one_pack().await;
    let key = data_pack(&ship, &store);
    let size = store.size(&key).await.unwrap().unwrap();
    for part in 1..10 {
        let store = store.fork();
        flip(&store, &key, |length| length * part / 10);
        let lost = salvaged(&ship, &store, &id, &cargo).await;
        // Two frames meet in an encrypted block, and entries that were read at the same time share frames.
        assert!((1..=5).contains(&lost.len()), "{part} of 10 of {size}: {:?}", names(&lost));
        assert!(lost[0].why.contains(&key.as_str()[9..73]), "the pack is named: {}", lost[0].why);
    }
}

#[tokio::test]
async fn a_pack_that_is_gone_costs_what_only_it_has() {
    let (ship, store) = Ship::launched().await;
    let old = Cargo::of("minio", vec![parcel("a", noise(300_000, 1)), parcel("b", "")]);
    ship.backup(&store, &old).await.unwrap();
    let before: BTreeSet<Key> = keys_under(&store, layout::PACKS).into_iter().collect();
    let mut new = old.clone();
    new.entries.push(parcel("c", noise(300_000, 2)));
    new.entries.push(parcel("d", noise(100_000, 3)));
    let id = ship.backup(&store, &new).await.unwrap().id;
    for key in keys_under(&store, layout::PACKS).into_iter().filter(|key| !before.contains(key)) {
        let store = store.fork();
        let is_list = ship.index_key().open(&store.dump()[&key], "pack").is_ok();
        store.delete(&key).await.unwrap();
        let lost = names(&salvaged(&ship, &store, &id, &new).await);
        let expected: &[&str] = if is_list { &["?"] } else { &["c", "d"] };
        assert_eq!(lost, expected);
    }
    for key in keys_under(&store, layout::PACKS) {
        store.delete(&key).await.unwrap();
    }
    let reader = ship.reader(&store).await.unwrap();
    let lost = reader.snapshot(&id).await.unwrap();
    let salvage = lost.salvage(&new.name, &lifeboat::flow::Selection::all(), &ship.monitor()).await.unwrap();
    assert_eq!(names(&salvage.lost), ["?"]);
    assert!(salvage.lost[0].why.starts_with("4 entries whose names are lost"), "{}", salvage.lost[0].why);
}

#[tokio::test]
async fn packs_that_are_gone_cut_short_or_told_of_by_no_index_are_lacking() {
    let (ship, store, id, _) = one_pack().await;
    let lacking = async |store: &MemoryStore| {
        ship.reader(store).await.unwrap().snapshot(&id).await.unwrap().lacking_packs().await.unwrap()
    };
    assert_eq!(lacking(&store).await, 0);
    let pack = data_pack(&ship, &store);
    let (gone, short, untold) = (store.fork(), store.fork(), store.fork());
    gone.delete(&pack).await.unwrap();
    assert_eq!(lacking(&gone).await, 1);
    short.overwrite(&pack, store.dump()[&pack][1..].to_vec());
    assert_eq!(lacking(&short).await, 1);
    for key in keys_under(&untold, layout::INDEX) {
        untold.delete(&key).await.unwrap();
    }
    assert_eq!(lacking(&untold).await, 2, "entries and data");
}

#[tokio::test]
async fn a_hole_in_the_entry_list_costs_the_entries_that_stand_in_it() {
    let (ship, store) = Ship::launched().await;
    // Long names make a list of 2 MiB and more: of three chunks at least, wherever the repository's seed cuts them,
    // each in a pack of its own.
    ship.set_chunk_size(&store, 1 << 20).await;
    let long = |n: u64| format!("{n:05}/{}", hex::encode(noise(1500, n)));
    let cargo = Cargo::of("minio", (0..700).map(|n| parcel(&long(n), format!("{n}"))).collect());
    let id = ship.backup(&store, &cargo).await.unwrap().id;
    let snapshot = ship.reader(&store).await.unwrap().snapshot(&id).await.unwrap();
    assert!(snapshot.manifest.sources[0].list.len() >= 3, "{}", snapshot.manifest.sources[0].list.len());
    let lists: Vec<Key> = keys_under(&store, layout::PACKS)
        .into_iter()
        .filter(|key| ship.index_key().open(&store.dump()[key], "pack").is_ok())
        .collect();
    assert!(lists.len() >= 3);
    for key in lists {
        let store = store.fork();
        store.delete(&key).await.unwrap();
        let snapshot = ship.reader(&store).await.unwrap().snapshot(&id).await.unwrap();
        let (got, lost) = read_sound(snapshot, &cargo.name).await.unwrap();
        assert_eq!(names(&lost), ["?"]);
        assert!(got.entries.len() > 100 && got.entries.len() < 700, "{}", got.entries.len());
        let count = format!("{} entries whose names", 700 - got.entries.len());
        assert!(lost[0].why.starts_with(&count), "{}", lost[0].why);
        salvaged(&ship, &store, &id, &cargo).await;
    }
}

#[tokio::test]
async fn a_lost_list_of_chunks_costs_its_entry() {
    let (ship, store) = Ship::launched().await;
    let many: Vec<Bytes> = (0..4200).map(|n| noise(30, n)).collect();
    let cargo = Cargo::of("minio", vec![parcel("a", "a"), marked("many", &many)]);
    let id = ship.backup(&store, &cargo).await.unwrap().id;
    let mut seen = BTreeSet::new();
    for key in keys_under(&store, layout::PACKS) {
        let store = store.fork();
        store.delete(&key).await.unwrap();
        seen.extend(names(&salvaged(&ship, &store, &id, &cargo).await));
    }
    assert!(seen.contains("many"), "{seen:?}");
}

#[tokio::test]
async fn what_hangs_on_a_lost_definition_is_lost_and_not_announced() {
    let (ship, store) = Ship::launched().await;
    let of = |table: &str, file: &str, stage: Stage, seed: u64| -> Parcel {
        let mut one = parcel(&format!("im/{table}/{file}"), noise(100_000, seed));
        (one.meta.item, one.meta.select) = (format!("im.{table}"), format!("im.{table}"));
        one.meta.stage = stage;
        one
    };
    let mut database = parcel("im/schema.sql", noise(100_000, 9));
    (database.meta.stage, database.meta.container) = (Stage::Schema, true);
    let mut cargo = Cargo::of("mysql", vec![database]);
    cargo.entries.push(of("files", "table.sql", Stage::Schema, 1));
    cargo.entries.push(of("users", "table.sql", Stage::Schema, 2));
    for (table, number, seed) in [("files", 1, 3), ("files", 2, 4), ("users", 1, 5)] {
        cargo.entries.push(of(table, &format!("data.{number}.tsv"), Stage::Data, seed));
    }
    let ids = ship.backup_knowing(&store, &Arc::default(), std::slice::from_ref(&cargo)).await.unwrap().id;
    let mut outcomes = BTreeSet::new();
    for key in keys_under(&store, layout::PACKS) {
        let store = store.fork();
        store.delete(&key).await.unwrap();
        let snapshot = ship.reader(&store).await.unwrap().snapshot(&ids).await.unwrap();
        let (got, lost) = read_sound(snapshot, &cargo.name).await.unwrap();
        let lost = names(&lost).join(" ");
        let announced = got.inventory.join(" ");
        outcomes.insert(format!("lost {lost}; announced {announced}"));
    }
    insta::assert_snapshot!(outcomes.into_iter().collect::<Vec<_>>().join("\n"));
}

#[tokio::test]
async fn a_key_that_does_not_open_the_data_is_no_damage() {
    let (ship, store, id, cargo) = one_pack().await;
    let place = ship.place(&store, &Arc::default());
    let reader = Repository::read(place, ship.index_key(), &ship.monitor()).await.unwrap();
    let failure = read_sound(reader.snapshot(&id).await.unwrap(), &cargo.name).await.unwrap_err();
    assert_eq!(failure.exit(), ExitCode::KeyRefused);
}
