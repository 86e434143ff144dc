//! Each way to tamper with a store has its name: verify ends with it, prune stands still, and it is heard.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use chrono::Duration;
use lifeboat::{
    clock::StoppedClock,
    crypt::{SigningKey, Trust},
    error::{ExitCode, Failure, Result},
    event::{Event, NoMonitor},
    names::{Key, SnapshotId},
    repo::{
        Append, Damage, Place, Repository, Terms, VerifyOptions,
        format::{Config, layout},
    },
    store::{Delete, Get, MemoryStore},
};

use crate::fixture::{AT_ONCE, Cargo, SMALL_PACKS, Ship, keys_under, noise, parcel};

fn cargo(seed: u64) -> Cargo {
    Cargo::of("minio", vec![parcel("a", noise(100_000, seed)), parcel("b", noise(100_000, 99))])
}

/// A repository with three snapshots, and a host that has seen all of them.
struct Scene {
    ship: Ship,
    store: MemoryStore,
    ids: Vec<SnapshotId>,
}

async fn scene() -> Scene {
    let ship = Ship::new();
    let store = MemoryStore::with_clock(Arc::new(ship.clock.clone()));
    ship.create(&store).await;
    ship.set_pack_size(&store, SMALL_PACKS).await;
    ship.remember();
    let mut ids = Vec::new();
    for seed in 1..=3 {
        ids.push(ship.backup(&store, &cargo(seed)).await.unwrap().id);
    }
    assert_eq!(ship.verify(&store).await.damage, []);
    Scene { ship, store, ids }
}

impl Scene {
    /// Returns a copy of the store, and lets the host forget what happened to other copies.
    async fn fork(&self) -> MemoryStore {
        self.ship.remember();
        assert_eq!(self.ship.verify(&self.store).await.damage, []);
        self.store.fork()
    }

    /// Checks that tampering is told at `object`, which says `what`.
    #[track_caller]
    fn assert_told(damage: &[Damage], object: &str, what: &str) {
        let told =
            damage.iter().any(|one| one.tampering && one.object.contains(object) && one.what.contains(what));
        assert!(told, "`{object}`: `{what}` is not in {damage:#?}");
    }

    async fn assert_tampering(&self, store: &MemoryStore, object: &str, what: &str) {
        let reader = self.ship.reader(store).await.unwrap();
        let options = VerifyOptions::default();
        let report = reader.verify(options, &self.ship.now(), &self.ship.monitor()).await.unwrap();
        Self::assert_told(&report.damage, object, what);
        self.assert_prune_stands_still(store).await;
    }

    /// Checks that prune removes nothing, and that why is heard.
    async fn assert_prune_stands_still(&self, store: &MemoryStore) {
        let before = store.dump();
        let heard = |ship: &Ship| {
            ship.heard.events().iter().filter(|event| matches!(event, Event::Tampering { .. })).count()
        };
        let heard_before = heard(&self.ship);
        let failure = self.ship.prune(store, &[], AT_ONCE).await.unwrap_err();
        assert_eq!(failure.exit(), ExitCode::Tampering, "{:?}", failure.chain());
        assert!(failure.to_string().contains("prune stands still"), "{failure}");
        assert!(heard(&self.ship) > heard_before, "it is heard");
        assert!(store.dump() == before, "prune has changed nothing");
    }

    /// Takes a snapshot away as a thief would: all of it.
    async fn take_away(&self, store: &MemoryStore, id: &SnapshotId) {
        for prefix in [format!("refs/{id}"), format!("manifests/{id}"), format!("index/{id}")] {
            for key in keys_under(store, &prefix) {
                store.delete(&key).await.unwrap();
            }
        }
    }
}

#[tokio::test]
async fn a_snapshot_that_was_taken_away_is_missed_wherever_it_stood() {
    let scene = scene().await;
    for (number, id) in scene.ids.iter().enumerate() {
        let store = scene.fork().await;
        scene.take_away(&store, id).await;
        let what =
            format!("commit {} of {} is gone, and no tombstone says why", number + 1, scene.ship.made.signer);
        scene.assert_tampering(&store, "refs/", &what).await;
    }
    // All at once too.
    let store = scene.fork().await;
    for id in &scene.ids {
        scene.take_away(&store, id).await;
    }
    scene.assert_tampering(&store, "refs/", "commit 3 of").await;
}

#[tokio::test]
async fn of_the_newest_one_only_who_has_seen_it_knows_and_the_next_backup_keeps_its_place_free() {
    let scene = scene().await;
    let newest = &scene.ids[2];
    let store = scene.fork().await;
    scene.take_away(&store, newest).await;
    let stranger = Place {
        witness: Arc::new(lifeboat::repo::MemoryWitness::default()),
        ..scene.ship.place(&store, &Arc::default())
    };
    let reader = Repository::read(stranger, scene.ship.identities(), &NoMonitor::shared()).await.unwrap();
    let report =
        reader.verify(VerifyOptions::default(), &scene.ship.now(), &NoMonitor::shared()).await.unwrap();
    assert_eq!(report.damage, [], "who has never seen it cannot know");
    // The host that made it goes on with the next number, so that the hole shows to everybody from then on.
    let next = scene.ship.backup(&store, &cargo(4)).await.unwrap().id;
    let stranger = Place {
        witness: Arc::new(lifeboat::repo::MemoryWitness::default()),
        ..scene.ship.place(&store, &Arc::default())
    };
    let reader = Repository::read(stranger, scene.ship.identities(), &NoMonitor::shared()).await.unwrap();
    let report =
        reader.verify(VerifyOptions::default(), &scene.ship.now(), &NoMonitor::shared()).await.unwrap();
    Scene::assert_told(&report.damage, next.as_str(), "commit 3 of");
}

/// Puts a further config, signed.
fn put_config(store: &MemoryStore, config: &Config, by: &SigningKey) -> Key {
    let key = layout::config_revision(config.revision);
    let bytes = serde_json::to_vec(config).unwrap();
    store.overwrite(&layout::signature(&key), by.sign(&bytes, "lifeboat config").unwrap());
    store.overwrite(&key, bytes);
    key
}

async fn config_of(store: &MemoryStore) -> Config {
    serde_json::from_slice(&store.get(&layout::config(), None).await.unwrap()).unwrap()
}

#[tokio::test]
async fn a_config_that_was_in_force_before_does_not_come_back() {
    let scene = scene().await;
    let store = scene.fork().await;
    let mut config = config_of(&store).await;
    config.revision = 1;
    config.data_recipients.push(Ship::new().made.recipient);
    let key = put_config(&store, &config, &scene.ship.signing());
    let fourth = scene.ship.backup(&store, &cargo(4)).await.unwrap().id;
    assert_eq!(scene.ship.verify(&store).await.damage, []);
    // Taken away, the older one would be in force again: this host has seen the newer one.
    let back = store.fork();
    for key in [layout::signature(&key), key.clone()] {
        back.delete(&key).await.unwrap();
    }
    let failure = scene.ship.reader(&back).await.err().unwrap();
    assert_eq!(failure.exit(), ExitCode::Tampering);
    assert!(failure.to_string().contains("this host has seen revision 1"), "{failure}");
    for failed in
        [scene.ship.append(&back, &Arc::default()).await.err(), scene.ship.maintain(&back).await.err()]
    {
        assert_eq!(failed.unwrap().exit(), ExitCode::Tampering);
    }
    // Who has not, sees that a snapshot was made with it.
    scene.ship.remember();
    scene.assert_tampering(&back, fourth.as_str(), "config revision 1, which is gone").await;
}

#[tokio::test]
async fn a_config_that_nobody_may_sign_is_refused_by_everybody() {
    let scene = scene().await;
    let (writer, stranger) = (SigningKey::generate().unwrap(), SigningKey::generate().unwrap());
    let mut config = config_of(&scene.store).await;
    config.revision = 1;
    for (by, moved_to) in [(&stranger, None), (&writer, None), (&scene.ship.signing(), Some(7))] {
        let store = scene.fork().await;
        let key = put_config(&store, &config, by);
        if let Some(revision) = moved_to {
            let dump = store.dump();
            let to = layout::config_revision(revision);
            for (from, to) in [(layout::signature(&key), layout::signature(&to)), (key.clone(), to)] {
                store.overwrite(&to, dump[&from].clone());
                store.delete(&from).await.unwrap();
            }
        }
        // The second writer may add snapshots and not say who reads them.
        let signers = [scene.ship.made.signer.clone(), writer.public()];
        let trust = Trust::parse(&signers, &signers[..1], &[]).unwrap();
        let place = Place { trust, ..scene.ship.place(&store, &Arc::default()) };
        let failure = Repository::clear(place).await.err().unwrap();
        assert_eq!(failure.exit(), ExitCode::Tampering, "{:?}", failure.chain());
    }
}

/// Returns what a stranger, and a writer who may remove nothing, would sign in the place of `key`.
fn forged(bytes: &Bytes, by: &SigningKey, key: &Key) -> (Key, String) {
    (layout::signature(key), by.sign(bytes, &format!("lifeboat mark {key}")).unwrap())
}

#[tokio::test]
async fn what_a_stranger_signed_is_told_by_its_name() {
    let scene = scene().await;
    let store = scene.fork().await;
    scene.ship.prune(&store, &[&scene.ids[0]], Terms::default()).await.unwrap();
    let stranger = SigningKey::generate().unwrap();
    let kinds = ["refs/", "index/", "tombstones/", "prune/00000001.condemned"];
    for kind in kinds {
        let store = store.fork();
        let key = keys_under(&store, kind)
            .into_iter()
            .rfind(|key| !key.as_str().ends_with(layout::SIGNATURE))
            .unwrap();
        let (signature, text) = forged(&store.dump()[&key], &stranger, &key);
        store.overwrite(&signature, text);
        let told = "is not signed by a key that the policy trusts";
        let damage = scene.ship.verify(&store).await.damage;
        Scene::assert_told(&damage, key.as_str(), told);
        if kind != "index/" {
            // A forged index sends nobody anywhere, and removes nothing.
            scene.assert_prune_stands_still(&store).await;
        }
    }
}

#[tokio::test]
async fn a_writer_who_is_no_maintainer_forgets_and_condemns_nothing() {
    let scene = scene().await;
    let writer = SigningKey::generate().unwrap();
    let signers = [scene.ship.made.signer.clone(), writer.public()];
    let trust = || Trust::parse(&signers, &signers[..1], &[]).unwrap();
    let template = scene.store.fork();
    scene.ship.prune(&template, &[&scene.ids[0]], Terms::default()).await.unwrap();
    for kind in ["tombstones/", "prune/00000001.condemned"] {
        let store = scene.fork().await;
        let key = keys_under(&template, kind)
            .into_iter()
            .find(|key| !key.as_str().ends_with(layout::SIGNATURE))
            .unwrap();
        let bytes = template.dump()[&key].clone();
        let (signature, text) = forged(&bytes, &writer, &key);
        store.overwrite(&signature, text);
        store.overwrite(&key, bytes);
        let place = || Place { trust: trust(), ..scene.ship.place(&store, &Arc::default()) };
        let reader = Repository::read(place(), scene.ship.identities(), &NoMonitor::shared()).await.unwrap();
        let (good, _) = reader.survey().await.unwrap();
        assert_eq!(good.len(), 3, "nothing is forgotten");
        let report =
            reader.verify(VerifyOptions::default(), &scene.ship.now(), &scene.ship.monitor()).await.unwrap();
        Scene::assert_told(&report.damage, key.as_str(), "is not signed by a key");
        let (put, delete) = (Arc::new(store.clone()), Arc::new(store.clone()));
        let signing = scene.ship.signing();
        let monitor = scene.ship.monitor();
        let prune = Repository::maintain(place(), put.clone(), delete.clone(), signing, None, &monitor);
        let seen = prune.await.unwrap().inspect(&scene.ship.now(), &scene.ship.monitor()).await.unwrap();
        assert_eq!(seen.check(&BTreeSet::default()).unwrap_err().exit(), ExitCode::Tampering);
    }
    // With his own key he does not even begin.
    let place = Place { trust: trust(), ..scene.ship.place(&scene.store, &Arc::default()) };
    let (put, delete) = (Arc::new(scene.store.clone()), Arc::new(scene.store.clone()));
    let failed = Repository::maintain(place, put, delete, writer, None, &scene.ship.monitor()).await.err();
    assert_eq!(failed.unwrap().exit(), ExitCode::KeyRefused);
}

#[tokio::test]
async fn swapped_signatures_are_told_of_both() {
    let scene = scene().await;
    for prefix in ["refs/", "index/"] {
        let store = scene.fork().await;
        let dump = store.dump();
        let mut signatures = keys_under(&store, prefix);
        signatures.retain(|key| key.as_str().ends_with(layout::SIGNATURE));
        let (a, b) = (&signatures[0], &signatures[1]);
        store.overwrite(a, dump[b].clone());
        store.overwrite(b, dump[a].clone());
        let damage = scene.ship.verify(&store).await.damage;
        for signature in [a, b] {
            let object = layout::signed_by(signature).unwrap();
            Scene::assert_told(&damage, object.as_str(), "is not signed by a key");
        }
        if prefix == "refs/" {
            scene.assert_prune_stands_still(&store).await;
        }
    }
}

#[tokio::test]
async fn refs_of_another_repository_are_no_snapshot_here() {
    let scene = scene().await;
    let other = MemoryStore::with_clock(Arc::new(scene.ship.clock.clone()));
    scene.ship.create(&other).await;
    let theirs = scene.ship.backup(&other, &cargo(9)).await.unwrap().id;
    let store = scene.fork().await;
    for key in keys_under(&other, "").into_iter().filter(|key| key.as_str().contains(theirs.as_str())) {
        store.overwrite(&key, other.dump()[&key].clone());
    }
    scene.assert_tampering(&store, theirs.as_str(), "was signed for another snapshot or repository").await;
}

/// Makes a snapshot by a clock of its own, put now.
async fn dated(scene: &Scene, store: &MemoryStore, by: Duration) -> Result<SnapshotId> {
    let wrong = StoppedClock::at(scene.ship.now().clock.now() + by);
    let repository: Repository<Append> = scene.ship.append(store, &Arc::default()).await?;
    let ground = lifeboat::clock::Ground { clock: Arc::new(wrong), ..scene.ship.now() };
    let writer = repository.begin(ground, scene.ship.monitor(), 1).await?;
    Ok(writer.commit(lifeboat::repo::Label::default(), Vec::new()).await?.id)
}

#[tokio::test]
async fn commits_that_are_dated_wrongly_are_told() {
    let scene = scene().await;
    for (by, what) in [
        (Duration::days(400), "which is after it was stored"),
        (-Duration::days(400), "before its writer's earlier one of"),
    ] {
        let store = scene.fork().await;
        let id = dated(&scene, &store, by).await.unwrap();
        scene.assert_tampering(&store, id.as_str(), what).await;
    }
    let store = scene.fork().await;
    dated(&scene, &store, Duration::minutes(10)).await.unwrap();
    assert_eq!(scene.ship.verify(&store).await.damage, [], "clocks are never the same");
}

#[tokio::test]
async fn what_a_revoked_key_signed_later_is_no_snapshot_and_goes() {
    let scene = scene().await;
    let (stolen, signer) = (scene.ship.signing(), scene.ship.made.signer.clone());
    let new = SigningKey::generate().unwrap();
    let signers = [signer.clone(), new.public()];
    let trust = || Trust::parse(&signers, &[], &[(&signer, 2)]).unwrap();
    let store = scene.fork().await;
    let place = || Place {
        trust: trust(),
        witness: Arc::new(lifeboat::repo::MemoryWitness::default()),
        ..scene.ship.place(&store, &Arc::default())
    };
    let reader = Repository::read(place(), scene.ship.identities(), &NoMonitor::shared()).await.unwrap();
    let seen: Vec<SnapshotId> = reader.refs().await.unwrap().into_iter().map(|refs| refs.snapshot).collect();
    assert_eq!(seen, scene.ids[..2], "up to its last number it is believed");
    let failure = reader.snapshot(&scene.ids[2]).await.err().unwrap();
    assert!(failure.chain().join(" ").contains("after that was revoked"), "{:?}", failure.chain());
    // The thief has the key still: it adds nothing, and it removes nothing.
    let (put, deaf) = (Arc::new(store.clone()), NoMonitor::shared());
    let added = Repository::append(place(), put.clone(), scene.ship.index_key(), stolen, &deaf);
    assert_eq!(added.await.err().unwrap().exit(), ExitCode::KeyRefused);
    let delete = Arc::new(store.clone());
    let removed =
        Repository::maintain(place(), put.clone(), delete.clone(), scene.ship.signing(), None, &deaf);
    assert_eq!(removed.await.err().unwrap().exit(), ExitCode::KeyRefused);
    // Who came after it removes what it added.
    let prune = Repository::maintain(place(), put, delete, new, None, &scene.ship.monitor()).await.unwrap();
    let seen = prune.inspect(&scene.ship.now(), &scene.ship.monitor()).await.unwrap();
    seen.check(&BTreeSet::default()).unwrap_or_else(|failure: Failure| panic!("{:?}", failure.chain()));
    let plan = lifeboat::repo::plan(&seen, &BTreeMap::new(), AT_ONCE, scene.ship.now().clock.now());
    let removed: Vec<&SnapshotId> = plan.remove.iter().map(|one| &one.snapshot).collect();
    assert_eq!(removed, [&scene.ids[2]]);
    prune.apply(plan, &scene.ship.now(), &scene.ship.monitor()).await.unwrap();
    for id in &scene.ids[..2] {
        reader.snapshot(id).await.unwrap();
    }
}
