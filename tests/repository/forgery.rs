//! What somebody without the key can put into a store is never believed.

use std::sync::Arc;

use lifeboat::{
    crypt::{SigningKey, Trust},
    error::{ExitCode, Failure},
    names::{Key, SnapshotId},
    repo::{
        Place, Repository,
        format::{PackIndex, PackKind, PackRecord, Refs, layout, pack_meta, write},
    },
    store::{Delete, Get, MemoryStore, Put},
};

use crate::fixture::{Cargo, Ship, noise, parcel};

async fn scene() -> (Ship, MemoryStore, SnapshotId, Cargo) {
    let (ship, store) = Ship::launched().await;
    let cargo = Cargo::of("minio", vec![parcel("a", noise(200_000, 1))]);
    let id = ship.backup(&store, &cargo).await.unwrap().id;
    (ship, store, id, cargo)
}

fn other_id() -> SnapshotId {
    SnapshotId::new("20301231T000000Z-beef").unwrap()
}

async fn refs_of(store: &MemoryStore, id: &SnapshotId) -> Refs {
    serde_json::from_slice(&store.get(&layout::refs(id, 0), None).await.unwrap()).unwrap()
}

/// Puts refs under a name, signed with a key.
fn plant(store: &MemoryStore, key: &Key, refs: &Refs, by: &SigningKey) {
    let bytes = serde_json::to_vec(refs).unwrap();
    store.overwrite(&layout::signature(key), by.sign(&bytes, "lifeboat refs").unwrap());
    store.overwrite(key, bytes);
}

/// Asserts that the planted refs are tampering, and that the true snapshot is as good as before.
async fn assert_refused(
    ship: &Ship,
    store: &MemoryStore,
    planted: &SnapshotId,
    truth: (&SnapshotId, &Cargo),
) {
    let reader = ship.reader(store).await.unwrap();
    let refused = |failure: Failure| assert_eq!(failure.exit(), ExitCode::Tampering, "{:?}", failure.chain());
    refused(reader.snapshot(planted).await.err().expect("it is not believed"));
    refused(reader.refs().await.unwrap_err());
    let (good, bad) = reader.survey().await.unwrap();
    assert!(good.iter().all(|refs| refs.snapshot == *truth.0), "only the true one is believed");
    assert_eq!(bad.len(), 1);
    let damage = ship.verify(store).await.damage;
    assert!(damage.iter().any(|one| one.tampering && one.object.contains(planted.as_str())), "{damage:?}");
    ship.assert_holds(store, truth.0, truth.1).await;
}

#[tokio::test]
async fn refs_without_a_signature_are_not_listed() {
    let (ship, store, id, _) = scene().await;
    let mut refs = refs_of(&store, &id).await;
    refs.snapshot = other_id();
    store.overwrite(&layout::refs(&other_id(), 0), serde_json::to_vec(&refs).unwrap());
    assert_eq!(ship.listed(&store).await, [id]);
    let failure = ship.reader(&store).await.unwrap().snapshot(&other_id()).await.err().unwrap();
    assert_eq!(failure.exit(), ExitCode::Usage);
}

#[tokio::test]
async fn refs_signed_by_a_stranger_are_tampering() {
    let (ship, store, id, cargo) = scene().await;
    let mut refs = refs_of(&store, &id).await;
    refs.snapshot = other_id();
    plant(&store, &layout::refs(&other_id(), 0), &refs, &SigningKey::generate().unwrap());
    assert_refused(&ship, &store, &other_id(), (&id, &cargo)).await;
}

#[tokio::test]
async fn refs_of_another_repository_are_tampering() {
    let (ship, store, id, cargo) = scene().await;
    let other = MemoryStore::new();
    ship.create(&other).await;
    let theirs = ship.backup(&other, &cargo).await.unwrap().id;
    for key in
        [layout::refs(&theirs, 0), layout::signature(&layout::refs(&theirs, 0)), layout::manifest(&theirs)]
    {
        store.put(&key, other.get(&key, None).await.unwrap()).await.unwrap();
    }
    assert_refused(&ship, &store, &theirs, (&id, &cargo)).await;
}

#[tokio::test]
async fn refs_under_the_name_of_another_snapshot_or_revision_are_tampering() {
    let (ship, store, id, cargo) = scene().await;
    let copy = |to: Key| {
        let (from, fork) = (layout::refs(&id, 0), store.fork());
        let dump = store.dump();
        fork.overwrite(&to, dump[&from].clone());
        fork.overwrite(&layout::signature(&to), dump[&layout::signature(&from)].clone());
        fork
    };
    let renamed = copy(layout::refs(&other_id(), 0));
    assert_refused(&ship, &renamed, &other_id(), (&id, &cargo)).await;
    let revised = copy(layout::refs(&id, 1));
    let failure = ship.reader(&revised).await.unwrap().snapshot(&id).await.err().unwrap();
    assert_eq!(failure.exit(), ExitCode::Tampering);
}

#[tokio::test]
async fn the_newest_revision_counts_by_its_number() {
    let (ship, store, id, _) = scene().await;
    let mut refs = refs_of(&store, &id).await;
    for revision in [2, 9, 10] {
        refs.revision = revision;
        refs.seq = 100 + u64::from(revision);
        plant(&store, &layout::refs(&id, revision), &refs, &ship.signing());
    }
    let seen = ship.reader(&store).await.unwrap().refs().await.unwrap();
    assert_eq!(seen.iter().map(|refs| refs.revision).collect::<Vec<_>>(), [10]);
    // A name that only looks like a revision is no revision.
    refs.revision = 99;
    plant(&store, &Key::new(&format!("refs/{id}.r099.json")).unwrap(), &refs, &ship.signing());
    let seen = ship.reader(&store).await.unwrap().refs().await.unwrap();
    assert_eq!(seen[0].revision, 10);
}

#[tokio::test]
async fn a_manifest_put_in_place_of_another_is_not_opened() {
    let (ship, store, id, mut cargo) = scene().await;
    cargo.entries.push(parcel("b", "new"));
    let second = ship.backup(&store, &cargo).await.unwrap().id;
    let older = store.get(&layout::manifest(&id), None).await.unwrap();
    store.overwrite(&layout::manifest(&second), older);
    let failure = ship.reader(&store).await.unwrap().snapshot(&second).await.err().unwrap();
    assert_eq!(failure.exit(), ExitCode::Damage);
}

#[tokio::test]
async fn a_snapshot_that_was_taken_away_is_missed_by_the_one_after_it() {
    let (ship, store, id, cargo) = scene().await;
    let second = ship.backup(&store, &cargo).await.unwrap().id;
    for key in [layout::refs(&id, 0), layout::signature(&layout::refs(&id, 0)), layout::manifest(&id)] {
        store.delete(&key).await.unwrap();
    }
    let damage = ship.verify(&store).await.damage;
    let [gone] = &damage[..] else { panic!("{damage:?}") };
    assert!(gone.tampering && gone.object.contains(second.as_str()), "{gone:?}");
}

#[tokio::test]
async fn replayed_refs_of_a_snapshot_whose_packs_are_gone_read_nothing_wrong() {
    let (ship, store, id, cargo) = scene().await;
    let away = store.dump();
    let fresh = Cargo::of("minio", vec![parcel("a", noise(200_000, 9))]);
    let second = ship.backup(&store, &fresh).await.unwrap().id;
    for key in away.keys().filter(|key| !key.as_str().starts_with("config")) {
        store.delete(key).await.unwrap();
    }
    let key = layout::refs(&id, 0);
    for key in [layout::signature(&key), key] {
        store.overwrite(&key, away[&key].clone());
    }
    assert_eq!(ship.listed(&store).await, [id.clone(), second.clone()]);
    assert_eq!(ship.read_back(&store, &id, &cargo.name).await.unwrap_err().exit(), ExitCode::Damage);
    ship.assert_holds(&store, &second, &fresh).await;
    assert!(!ship.verify(&store).await.damage.is_empty());
}

#[tokio::test]
async fn a_newer_format_is_refused_in_words() {
    let (ship, store, ..) = scene().await;
    ship.change_config(&store, |config| config.format = 4).await;
    let failure = ship.reader(&store).await.err().unwrap();
    assert_eq!(failure.exit(), ExitCode::NoRepository);
    assert_eq!(failure.to_string(), "the repository has format 4, this lifeboat reads formats 1 to 3");
    assert_eq!(ship.append(&store, &Arc::default()).await.err().unwrap().exit(), ExitCode::NoRepository);
}

#[tokio::test]
async fn a_config_by_a_stranger_or_with_impossible_numbers_is_refused() {
    let (ship, store, ..) = scene().await;
    let stranger = Ship::new();
    let place = Place { trust: stranger.trust(), ..ship.place(&store, &Arc::default()) };
    let failure = Repository::read(place, ship.identities(), &ship.monitor()).await.err().unwrap();
    assert_eq!(failure.exit(), ExitCode::Tampering);
    for pack_size_bytes in [0, u64::MAX] {
        ship.set_pack_size(&store, pack_size_bytes).await;
        let failure = ship.reader(&store).await.err().unwrap();
        assert_eq!(failure.exit(), ExitCode::NoRepository, "{failure}");
    }
}

#[tokio::test]
async fn an_index_by_a_stranger_sends_no_backup_to_packs_of_his() {
    let (ship, store, ..) = scene().await;
    let new = noise(300_000, 5);
    // He knows the repository's recipients, and says that his pack has the bytes that will be backed up.
    let told = ship.reader(&store).await.unwrap().packs().await.unwrap();
    let (pack, size_bytes) = told.iter().next().unwrap();
    let id = lifeboat::names::ChunkId(<sha2::Sha256 as sha2::Digest>::digest(&new).into());
    let mut record = PackRecord {
        pack: *pack,
        size_bytes: *size_bytes,
        payload_offset: 300,
        kind: PackKind::Data,
        config: 0,
        inner: PackIndex::default(),
    };
    record.inner.frames.push(lifeboat::repo::format::FrameRecord {
        offset: 0,
        size_bytes: 9,
        plain_bytes: 300_000,
    });
    let chunk = lifeboat::repo::format::ChunkRecord { id, frame: 0, offset: 0, size_bytes: 300_000 };
    record.inner.chunks.push(chunk);
    let to = lifeboat::crypt::Recipients::parse(&[&ship.made.recipient, &ship.made.index_recipient]).unwrap();
    let sealed = to.seal(&pack_meta(&write(&record)).unwrap()).unwrap();
    let stranger = SigningKey::generate().unwrap();
    let key = layout::index("20200101T000000Z-0000", 0);
    store.overwrite(&layout::signature(&key), stranger.sign(&sealed, "index").unwrap());
    store.overwrite(&key, sealed);
    let cargo = Cargo::of("minio", vec![parcel("b", new)]);
    let committed = ship.backup(&store, &cargo).await.unwrap();
    assert!(committed.added_packs >= 1, "the bytes are stored");
    ship.assert_holds(&store, &committed.id, &cargo).await;
    assert!(ship.heard.warnings().iter().any(|told| told.contains(key.as_str())), "he is told of");
    assert!(ship.verify(&store).await.damage.iter().any(|one| one.tampering && one.object == key.as_str()));
}

#[tokio::test]
async fn whom_the_policy_trusts_decides_and_not_the_config() {
    let (ship, store, id, cargo) = scene().await;
    let second = SigningKey::generate().unwrap();
    let both = Trust::parse(&[ship.made.signer.clone(), second.public()], &[], &[]).unwrap();
    let place = || Place { trust: both.clone(), ..ship.place(&store, &Arc::default()) };
    let put = Arc::new(store.clone());
    let theirs = Repository::append(place(), put, ship.index_key(), second, &ship.monitor()).await.unwrap();
    let writer = theirs.begin(ship.ground(), ship.monitor(), 1).await.unwrap();
    let committed = writer.commit(lifeboat::repo::Label::default(), Vec::new()).await.unwrap();
    let reader = Repository::read(place(), ship.identities(), &ship.monitor()).await.unwrap();
    let seqs: Vec<u64> = reader.refs().await.unwrap().iter().map(|refs| refs.seq).collect();
    assert_eq!(seqs, [1, 1], "each writer counts its own");
    // To whom trusts the first only, the second writer's snapshot is tampering.
    assert_refused(&ship, &store, &committed.id, (&id, &cargo)).await;
}
