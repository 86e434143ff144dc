//! Who can open what: the host's keys open no data, a stranger's keys open nothing.

use std::sync::Arc;

use lifeboat::{
    crypt::{Identities, SigningKey},
    error::ExitCode,
    event::NoMonitor,
    flow::Selection,
    names::SnapshotId,
    repo::{Read, Repository, VerifyOptions, format::layout},
    store::MemoryStore,
};

use crate::fixture::{Cargo, Ship, keys_under, noise, parcel, read};

async fn scene() -> (Ship, MemoryStore, SnapshotId, Cargo) {
    let (ship, store) = Ship::launched().await;
    let cargo = Cargo::of("minio", vec![parcel("a", noise(200_000, 1)), parcel("b", "b")]);
    let id = ship.backup(&store, &cargo).await.unwrap().id;
    (ship, store, id, cargo)
}

async fn open(ship: &Ship, store: &MemoryStore, identities: Identities) -> Repository<Read> {
    Repository::read(ship.place(store, &Arc::default()), identities, &ship.monitor()).await.unwrap()
}

#[tokio::test]
async fn the_index_key_reads_lists_and_never_data() {
    let (ship, store, id, cargo) = scene().await;
    let reader = open(&ship, &store, ship.index_key()).await;
    assert_eq!(reader.refs().await.unwrap()[0].snapshot, id);
    let snapshot = reader.snapshot(&id).await.unwrap();
    assert_eq!(snapshot.manifest.sources[0].entries, 2);
    let mut lines = snapshot.entries(snapshot.source(&cargo.name).unwrap());
    let first = lines.next().await.unwrap().unwrap();
    assert_eq!(first.meta.path.as_str(), "a");
    let failure = snapshot.entry_bytes(&first, 1 << 20).await.unwrap_err();
    assert_eq!(failure.exit(), ExitCode::KeyRefused, "{:?}", failure.chain());
    let failure = read(snapshot, &cargo.name, Selection::all()).await.unwrap_err();
    assert_eq!(failure.exit(), ExitCode::KeyRefused, "{:?}", failure.chain());
    assert!(failure.to_string().contains("entry `"), "{failure}");
}

#[tokio::test]
async fn the_index_key_verifies_names_of_packs_and_calls_no_sealed_pack_damaged() {
    let (ship, store, ..) = scene().await;
    let reader = open(&ship, &store, ship.index_key()).await;
    let options = VerifyOptions { read_percent: 100.0 };
    let report = reader.verify(options, &ship.now(), &NoMonitor::shared()).await.unwrap();
    assert_eq!(report.damage, []);
    assert!(report.bytes_read > 200_000);
}

#[tokio::test]
async fn a_writers_keys_open_no_pack_of_data_nor_what_was_in_it() {
    let (ship, store, ..) = scene().await;
    let (mut of_data, mut of_lists) = (0, 0);
    for key in keys_under(&store, layout::PACKS) {
        match ship.index_key().open(&store.dump()[&key], key.as_str()) {
            Ok(_) => of_lists += 1,
            Err(failure) => {
                assert_eq!(failure.exit(), ExitCode::KeyRefused);
                of_data += 1;
            }
        }
    }
    assert_eq!((of_data, of_lists), (1, 1));
    // Nothing in the store shows a byte of what was stored, nor a path.
    let secret = noise(200_000, 1);
    for (key, bytes) in store.dump() {
        assert!(!bytes.windows(16).any(|window| window == &secret[..16]), "{key}");
        assert!(!bytes.windows(5).any(|window| window == b"minio"), "{key}");
    }
}

#[tokio::test]
async fn a_stranger_opens_nothing() {
    let (ship, store, id, _) = scene().await;
    let stranger = Ship::new();
    let place = ship.place(&store, &Arc::default());
    let read = Repository::read(place, stranger.identities(), &ship.monitor()).await;
    assert_eq!(read.err().expect("it opens nothing").exit(), ExitCode::KeyRefused);
    // A config that names him as a recipient does not make him one of what was sealed before.
    ship.change_config(&store, |config| config.data_recipients.push(stranger.made.recipient.clone())).await;
    let reader = open(&ship, &store, stranger.identities()).await;
    let failure = reader.snapshot(&id).await.err().expect("it is sealed");
    assert_eq!(failure.exit(), ExitCode::KeyRefused, "{:?}", failure.chain());
    let place = ship.place(&store, &Arc::default());
    let put = Arc::new(store.clone());
    let append = Repository::append(place, put, stranger.identities(), ship.signing(), &ship.monitor()).await;
    assert_eq!(append.err().expect("the seed is sealed").exit(), ExitCode::KeyRefused);
}

#[tokio::test]
async fn a_signing_key_that_the_policy_does_not_name_adds_nothing() {
    let (ship, store, ..) = scene().await;
    let before = store.dump();
    let place = ship.place(&store, &Arc::default());
    let (put, stranger) = (Arc::new(store.clone()), SigningKey::generate().unwrap());
    let append = Repository::append(place, put, ship.index_key(), stranger, &ship.monitor()).await;
    assert_eq!(append.err().expect("nobody would believe it").exit(), ExitCode::KeyRefused);
    assert_eq!(store.dump(), before);
}
