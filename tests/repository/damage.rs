//! Every kind of object flipped, cut short or taken away: never wrong bytes, never silence, and the next backup
//! stores again what is lost.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use lifeboat::{
    error::{ExitCode, Failure},
    event::NoMonitor,
    names::{Key, SnapshotId},
    repo::{
        Damage, KnownChunks, MemoryIndex, Repository, VerifyOptions,
        format::{ChunkRecord, FrameRecord, PackIndex, PackKind, PackRecord, Refs, layout},
    },
    store::{Delete, Get, MemoryStore},
};
use proptest::prelude::*;

use crate::fixture::{Cargo, Ship, assert_same, keys_under, marked, noise, parcel};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Harm {
    Flip,
    Truncate,
    Remove,
}

const HARMS: [Harm; 3] = [Harm::Flip, Harm::Truncate, Harm::Remove];

impl fmt::Display for Harm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

async fn harm(store: &MemoryStore, key: &Key, harm: Harm) {
    let mut bytes = store.get(key, None).await.unwrap().to_vec();
    match harm {
        Harm::Flip => {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 4;
            store.overwrite(key, bytes);
        }
        Harm::Truncate => {
            bytes.truncate(bytes.len() / 2);
            store.overwrite(key, bytes);
        }
        Harm::Remove => store.delete(key).await.unwrap(),
    }
}

/// Two snapshots, the second adding to the first. The entries are large enough to lie in several packs.
struct Scene {
    ship: Ship,
    store: MemoryStore,
    first: (SnapshotId, Cargo),
    second: (SnapshotId, Cargo),
}

async fn scene() -> Scene {
    scene_of(3).await
}

/// More than 4,096 chunks in one entry need a list of their own.
async fn scene_of(chunks: u64) -> Scene {
    let (ship, store) = Ship::launched().await;
    let many: Vec<Bytes> = (0..chunks).map(|n| noise(30, n)).collect();
    let one = Cargo::of("minio", vec![parcel("a", noise(800_000, 1)), marked("many", &many)]);
    let first = ship.backup(&store, &one).await.unwrap().id;
    let mut two = one.clone();
    two.entries.push(parcel("b", noise(800_000, 2)));
    let second = ship.backup(&store, &two).await.unwrap().id;
    Scene { ship, store, first: (first, one), second: (second, two) }
}

impl Scene {
    async fn refs(&self, id: &SnapshotId) -> Refs {
        let all = self.ship.reader(&self.store).await.unwrap().refs().await.unwrap();
        all.into_iter().find(|refs| refs.snapshot == *id).unwrap()
    }

    /// Returns the packs that only the second snapshot needs, by who can open them.
    async fn new_packs(&self, kind: PackKind) -> Vec<Key> {
        let (first, second) = (self.refs(&self.first.0).await, self.refs(&self.second.0).await);
        let new = second.packs.keys().filter(|pack| !first.packs.contains_key(pack));
        let index_key = self.ship.index_key();
        let of_kind = new.filter(|pack| {
            let bytes = &self.store.dump()[&layout::pack(**pack)];
            index_key.open(bytes, "pack").is_ok() == (kind == PackKind::Meta)
        });
        of_kind.map(|pack| layout::pack(*pack)).collect()
    }

    /// Tries to read a snapshot: its bytes, or why not. Wrong bytes are never an answer.
    async fn try_read(&self, store: &MemoryStore, which: &(SnapshotId, Cargo)) -> Result<(), Failure> {
        let reading = self.ship.read_back(store, &which.0, &which.1.name).await?;
        assert_same(&which.1.reading().await, &reading);
        Ok(())
    }

    async fn damage(&self, store: &MemoryStore) -> Vec<Damage> {
        self.ship.verify(store).await.damage
    }

    /// Asserts that the next backup stores what is lost and reads back.
    async fn assert_heals(&self, store: &MemoryStore, known: &Arc<MemoryIndex>) -> SnapshotId {
        let (ship, cargo) = (&self.ship, self.second.1.clone().reusing());
        let healed = ship.backup_knowing(store, known, std::slice::from_ref(&cargo)).await;
        let healed = healed.unwrap_or_else(|failure| panic!("{:?}", failure.chain())).id;
        ship.assert_holds(store, &healed, &cargo).await;
        healed
    }
}

fn told(failure: &Failure) -> String {
    failure.chain().join(": ")
}

/// Returns the name by which failures call an object: packs are called by their hash.
fn name_of(key: &Key) -> &str {
    layout::pack_of(key).map_or(key.as_str(), |_| &key.as_str()["packs/ab/".len()..][..64])
}

#[tokio::test]
async fn a_harmed_config_is_never_used() {
    let scene = scene().await;
    for key in [layout::config(), layout::signature(&layout::config())] {
        for kind in HARMS {
            let store = scene.store.fork();
            harm(&store, &key, kind).await;
            let failure = scene.ship.reader(&store).await.err().expect("it is refused");
            let gone = kind == Harm::Remove && key == layout::config();
            let allowed: &[ExitCode] =
                if gone { &[ExitCode::NoRepository] } else { &[ExitCode::Tampering, ExitCode::Damage] };
            assert!(allowed.contains(&failure.exit()), "{key} {kind}: {}", told(&failure));
            assert!(gone || told(&failure).contains("config.json"), "{key} {kind}: {}", told(&failure));
            assert!(scene.ship.append(&store, &Arc::default()).await.is_err());
        }
    }
}

#[tokio::test]
async fn a_harmed_pack_is_damage_that_names_it_and_what_it_affects() {
    let scene = scene().await;
    for kind in [PackKind::Data, PackKind::Meta] {
        let packs = scene.new_packs(kind).await;
        assert!(!packs.is_empty(), "{kind:?}");
        for how in HARMS {
            let (store, key) = (scene.store.fork(), &packs[0]);
            harm(&store, key, how).await;
            scene.try_read(&store, &scene.first).await.expect("the other snapshot is not touched");
            let failure = scene.try_read(&store, &scene.second).await.unwrap_err();
            assert_eq!(failure.exit(), ExitCode::Damage, "{}", told(&failure));
            assert!(told(&failure).contains(name_of(key)), "{kind:?} {how}: {}", told(&failure));
            let damage = scene.damage(&store).await;
            let [one] = &damage[..] else { panic!("{kind:?} {how}: {damage:?}") };
            assert_eq!((one.object.as_str(), one.tampering), (key.as_str(), false));
            let second = &scene.second.0;
            let affected = match kind {
                PackKind::Data => format!("{second} minio/b"),
                PackKind::Meta => format!("{second} minio"),
            };
            assert_eq!(one.affects, [affected], "{how}");
        }
    }
}

#[tokio::test]
async fn lost_packs_are_stored_again_by_the_next_backup() {
    let scene = scene_of(4200).await;
    for how in [Harm::Truncate, Harm::Remove] {
        // One that the newest snapshot added, one of each kind that the first made, and all at once.
        let packs = keys_under(&scene.store, layout::PACKS);
        for harmed in packs.iter().map(std::slice::from_ref).chain([&packs[..]]) {
            let store = scene.store.fork();
            for key in harmed {
                harm(&store, key, how).await;
            }
            scene.assert_heals(&store, &Arc::default()).await;
        }
    }
}

#[tokio::test]
async fn a_changed_pack_is_stored_again_once_verify_has_seen_it() {
    let scene = scene_of(4200).await;
    for key in keys_under(&scene.store, layout::PACKS) {
        let store = scene.store.fork();
        harm(&store, &key, Harm::Flip).await;
        let known: Arc<MemoryIndex> = Arc::default();
        let place = scene.ship.place(&store, &known);
        let reader = Repository::read(place, scene.ship.identities(), &NoMonitor::shared()).await.unwrap();
        let options = VerifyOptions { read_percent: 100.0 };
        let report = reader.verify(options, &scene.ship.now(), &NoMonitor::shared()).await.unwrap();
        assert_eq!(report.damage.len(), 1, "{:?}", report.damage);
        scene.assert_heals(&store, &known).await;
        // What was stored again serves the older snapshots too; only an entry list that has no equal stays lost.
        scene.try_read(&store, &scene.second).await.expect("the second reads again");
        if !report.damage[0].affects.iter().any(|name| name.ends_with(" minio")) {
            scene.try_read(&store, &scene.first).await.expect("the first reads again");
        }
    }
}

#[tokio::test]
async fn every_flipped_byte_of_a_packs_header_is_damage_and_not_a_wrong_key() {
    let scene = scene().await;
    let key = &scene.new_packs(PackKind::Data).await[0];
    let whole = scene.store.get(key, None).await.unwrap();
    for at in (0..320).step_by(23) {
        let store = scene.store.fork();
        let mut bytes = whole.to_vec();
        bytes[at] ^= 1;
        store.overwrite(key, bytes);
        match scene.try_read(&store, &scene.second).await {
            Ok(()) => panic!("byte {at} changed and nobody noticed"),
            Err(failure) => assert_eq!(failure.exit(), ExitCode::Damage, "byte {at}: {}", told(&failure)),
        }
    }
}

#[tokio::test]
async fn a_harmed_index_is_told_and_the_next_backup_makes_up_for_it() {
    let scene = scene().await;
    let key = keys_under(&scene.store, layout::INDEX)
        .into_iter()
        .rfind(|key| !key.as_str().ends_with("sig"))
        .unwrap();
    assert!(key.as_str().contains(scene.second.0.as_str()), "it is the second snapshot's");
    for harmed in [key.clone(), layout::signature(&key)] {
        for how in HARMS {
            let store = scene.store.fork();
            harm(&store, &harmed, how).await;
            scene.try_read(&store, &scene.first).await.expect("the other snapshot is not touched");
            let failure = scene.try_read(&store, &scene.second).await.unwrap_err();
            assert_eq!(failure.exit(), ExitCode::Damage, "{}", told(&failure));
            let damage = scene.damage(&store).await;
            if how == Harm::Remove {
                assert!(told(&failure).contains("no index tells what is in `packs/"), "{}", told(&failure));
            } else {
                assert!(told(&failure).contains(key.as_str()), "{}", told(&failure));
                let index = damage.iter().find(|one| one.object == key.as_str()).expect("the index is told");
                assert_eq!(index.affects, [scene.second.0.to_string()]);
                assert!(index.tampering, "somebody without the key changed it");
            }
            let untold = scene.new_packs(PackKind::Data).await;
            let pack = damage.iter().find(|one| one.object == untold[0].as_str()).expect("its pack is told");
            assert!(pack.affects.contains(&format!("{} minio", scene.second.0)), "{damage:?}");
            scene.assert_heals(&store, &Arc::default()).await;
        }
    }
}

#[tokio::test]
async fn a_harmed_manifest_is_damage_that_names_it() {
    let scene = scene().await;
    let key = layout::manifest(&scene.second.0);
    for how in HARMS {
        let store = scene.store.fork();
        harm(&store, &key, how).await;
        scene.try_read(&store, &scene.first).await.expect("the other snapshot is not touched");
        let failure = scene.try_read(&store, &scene.second).await.unwrap_err();
        assert_eq!(failure.exit(), ExitCode::Damage);
        assert!(told(&failure).contains(key.as_str()), "{}", told(&failure));
        let damage = scene.damage(&store).await;
        assert_eq!(damage.len(), 1);
        assert_eq!(
            (damage[0].object.as_str(), &damage[0].affects[0]),
            (key.as_str(), &scene.second.0.to_string())
        );
        let healed = scene.assert_heals(&store, &Arc::default()).await;
        assert_eq!(scene.ship.listed(&store).await.last(), Some(&healed));
    }
}

#[tokio::test]
async fn harmed_refs_are_tampering_and_stop_neither_other_snapshots_nor_the_next_backup() {
    let scene = scene().await;
    let refs = layout::refs(&scene.first.0, 0);
    for key in [refs.clone(), layout::signature(&refs)] {
        for how in HARMS {
            let store = scene.store.fork();
            harm(&store, &key, how).await;
            scene.try_read(&store, &scene.second).await.expect("the other snapshot is not touched");
            let failure = scene.try_read(&store, &scene.first).await.unwrap_err();
            let damage = scene.damage(&store).await;
            assert!(damage.iter().any(|one| one.tampering), "{key} {how}: {damage:?}");
            if how == Harm::Remove {
                // Without one of the two it is not listed; its successor names it, so it is missed.
                assert_eq!(failure.exit(), ExitCode::Usage);
                assert!(damage[0].object.contains(scene.second.0.as_str()), "{damage:?}");
            } else {
                assert_eq!(failure.exit(), ExitCode::Tampering, "{}", told(&failure));
                assert!(told(&failure).contains(refs.as_str()), "{}", told(&failure));
                let strict = scene.ship.reader(&store).await.unwrap().refs().await.unwrap_err();
                assert_eq!(strict.exit(), ExitCode::Tampering);
                let (good, bad) = scene.ship.reader(&store).await.unwrap().survey().await.unwrap();
                assert_eq!((good.len(), bad.len()), (1, 1));
            }
            scene.assert_heals(&store, &Arc::default()).await;
            let heard = scene.ship.heard.warnings();
            assert!(
                how == Harm::Remove || heard.iter().any(|told| told.contains(refs.as_str())),
                "{heard:?}"
            );
        }
    }
}

#[tokio::test]
async fn any_flipped_byte_anywhere_is_noticed_or_does_no_harm() {
    let scene = scene().await;
    for (key, bytes) in scene.store.dump() {
        for at in [0, bytes.len() / 3, bytes.len() - 1] {
            let store = scene.store.fork();
            let mut changed = bytes.to_vec();
            changed[at] ^= 0x10;
            store.overwrite(&key, changed);
            // Whatever reads, reads right: `try_read` asserts it.
            let _ = scene.try_read(&store, &scene.first).await;
            let _ = scene.try_read(&store, &scene.second).await;
            let Ok(reader) = scene.ship.reader(&store).await else { continue };
            let options = VerifyOptions { read_percent: 100.0 };
            let report = reader.verify(options, &scene.ship.now(), &NoMonitor::shared()).await.unwrap();
            let text = key.as_str().starts_with("RECOVERY") || key.as_str() == "recover.sh";
            // minisign's first line is a comment that nothing signs.
            let comment = key.as_str().ends_with(layout::SIGNATURE) && at == 0;
            // A session mark is advice: whoever cannot read it waits for its age alone.
            let advice = key.as_str().starts_with("sessions/");
            assert!(text || comment || advice || !report.damage.is_empty(), "byte {at} of {key}");
        }
    }
}

#[tokio::test]
async fn a_pack_that_comes_back_is_known_again() {
    let scene = scene().await;
    let key = &scene.new_packs(PackKind::Data).await[0];
    let (known, away) = (Arc::default(), scene.store.get(key, None).await.unwrap());
    scene.store.delete(key).await.unwrap();
    drop(scene.ship.append(&scene.store, &known).await.unwrap());
    scene.store.overwrite(key, away);
    let again =
        scene.ship.backup_knowing(&scene.store, &known, std::slice::from_ref(&scene.second.1)).await.unwrap();
    assert_eq!(again.added_packs, 0);
}

#[tokio::test]
async fn what_could_not_be_opened_is_damaged_until_somebody_opens_it_and_changed_bytes_until_they_are_right()
{
    let scene = scene().await;
    let (options, listener) = (VerifyOptions { read_percent: 100.0 }, NoMonitor::shared());
    for (kind, stays) in [(PackKind::Data, false), (PackKind::Meta, true)] {
        let key = &scene.new_packs(kind).await[0];
        let (known, whole) = (Arc::<MemoryIndex>::default(), scene.store.get(key, None).await.unwrap());
        let place = || scene.ship.place(&scene.store, &known);
        let is_distrusted_by_a_reader = async || {
            let reader = Repository::read(place(), scene.ship.identities(), &listener).await.unwrap();
            reader.verify(options, &scene.ship.now(), &listener).await.unwrap();
            !known.distrusted().unwrap().is_empty()
        };
        harm(&scene.store, key, Harm::Flip).await;
        assert!(is_distrusted_by_a_reader().await);
        scene.store.overwrite(key, whole);
        let clear = Repository::clear(place()).await.unwrap();
        clear.verify(options, &scene.ship.now(), &listener).await.unwrap();
        assert_eq!(!known.distrusted().unwrap().is_empty(), stays, "{kind:?}");
        assert!(!is_distrusted_by_a_reader().await);
    }
}

fn any_record() -> impl Strategy<Value = PackRecord> {
    let number = || prop_oneof![0u64..5, 0u64..5_000_000, any::<u64>()];
    let small = || prop_oneof![0u32..5, 0u32..5_000_000, any::<u32>()];
    let frame = (number(), small(), small()).prop_map(|(offset, size_bytes, plain_bytes)| FrameRecord {
        offset,
        size_bytes,
        plain_bytes,
    });
    let chunk =
        (small(), small(), small()).prop_map(|(frame, offset, size_bytes)| (frame, offset, size_bytes));
    let inner = (prop::collection::vec(frame, 0..4), prop::collection::vec(chunk, 1..3));
    (number(), number(), inner).prop_map(|(size_bytes, payload_offset, (frames, chunks))| {
        let id = lifeboat::names::ChunkId([7; 32]);
        let chunks = chunks
            .into_iter()
            .map(|(frame, offset, size_bytes)| ChunkRecord { id, frame, offset, size_bytes })
            .collect();
        let pack = lifeboat::names::PackId([0; 32]);
        PackRecord {
            pack,
            size_bytes,
            payload_offset,
            kind: PackKind::Data,
            config: 0,
            inner: PackIndex { frames, chunks },
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn no_record_in_a_local_index_makes_a_reader_panic_or_believe_it(
        records in prop::collection::vec(any_record(), 64),
    ) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let (ship, store) = Ship::launched().await;
            let cargo = Cargo::of("minio", vec![parcel("a", noise(900_000, 1))]);
            let id = ship.backup(&store, &cargo).await.unwrap().id;
            let packs = ship.reader(&store).await.unwrap().packs().await.unwrap();
            for mut record in records {
                let known: Arc<MemoryIndex> = Arc::default();
                // The local index may be anything; it tells of the packs that are really there.
                let (pack, size_bytes) = packs.iter().next().unwrap();
                record.pack = *pack;
                if record.size_bytes % 2 == 0 {
                    record.size_bytes = *size_bytes;
                }
                let checked = record.check();
                let poison = |index: &MemoryIndex| {
                    let origin = layout::index("poison", 0);
                    lifeboat::repo::KnownChunks::add(index, &origin, "RW", std::slice::from_ref(&record)).unwrap();
                };
                poison(&known);
                let place = ship.place(&store, &known);
                let reader = Repository::read(place, ship.identities(), &NoMonitor::shared()).await.unwrap();
                poison(&known);
                let snapshot = reader.snapshot(&id).await.unwrap();
                let chunk = lifeboat::names::ChunkId([7; 32]);
                let read = snapshot.chunks().chunk(PackKind::Data, chunk).await;
                assert!(read.is_err(), "{checked:?}");
            }
        });
    }
}
