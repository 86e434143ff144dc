//! Every kind of object harmed in every way, and what each command says to it: never wrong bytes, never a panic; the
//! next backup heals what the source still has; prune makes nothing worse. The exit codes are held as tables.

use std::{collections::BTreeSet, fmt::Write as _, sync::Arc};

use chrono::Duration;
use lifeboat::{
    error::{ExitCode, Failure, Result},
    names::{Key, SnapshotId},
    repo::{MemoryIndex, Repository, Terms, VerifyOptions, VerifyReport, format::layout},
    store::{Delete, MemoryStore},
};

use crate::fixture::{AT_ONCE, Cargo, SMALL_PACKS, Ship, keys_under, noise, parcel, read_sound};

/// A repository with a past: one snapshot swept, one forgotten and waiting, two that count.
struct Scene {
    ship: Ship,
    store: MemoryStore,
    older: (SnapshotId, Cargo),
    newer: (SnapshotId, Cargo),
    objects: Vec<(&'static str, Key)>,
}

fn cargo(seeds: &[u64]) -> Cargo {
    Cargo::of("minio", seeds.iter().map(|n| parcel(&format!("{n}"), noise(150_000, *n))).collect())
}

async fn scene() -> Scene {
    let ship = Ship::new();
    let store = MemoryStore::with_clock(Arc::new(ship.clock.clone()));
    ship.create(&store).await;
    ship.set_pack_size(&store, SMALL_PACKS).await;
    ship.remember();
    let swept = ship.backup(&store, &cargo(&[1, 2])).await.unwrap().id;
    let waiting = ship.backup(&store, &cargo(&[2, 3])).await.unwrap().id;
    ship.prune(&store, &[&swept], AT_ONCE).await.unwrap();
    let older = cargo(&[2, 4]);
    let older = (ship.backup(&store, &older).await.unwrap().id, older);
    assert_eq!(ship.prune(&store, &[], AT_ONCE).await.unwrap().swept.len(), 1);
    let before: BTreeSet<Key> = keys_under(&store, layout::PACKS).into_iter().collect();
    let newer = cargo(&[4, 5]);
    let newer = (ship.backup(&store, &newer).await.unwrap().id, newer);
    let mut new_packs = keys_under(&store, layout::PACKS);
    new_packs.retain(|key| !before.contains(key));
    let index_key = ship.index_key();
    let is_meta = |key: &&Key| index_key.open(&store.dump()[*key], "pack").is_ok();
    let meta = new_packs.iter().find(is_meta).unwrap().clone();
    let data = new_packs.iter().find(|key| !is_meta(key)).unwrap().clone();
    ship.clock.advance(Duration::minutes(5));
    ship.prune(&store, &[&waiting], Terms::default()).await.unwrap();
    assert_eq!(ship.verify(&store).await.damage, [], "all was well");
    let key = |text: String| Key::new(&text).unwrap();
    let both = |name: [&'static str; 2], of: Key| [(name[0], of.clone()), (name[1], layout::signature(&of))];
    let mut objects = vec![("pack of data", data), ("pack of lists", meta)];
    objects.extend(both(["index", "its signature"], layout::index(newer.0.as_str(), 0)));
    objects.push(("manifest", layout::manifest(&newer.0)));
    objects.extend(both(["refs, newest", "their signature"], layout::refs(&newer.0, 0)));
    objects.extend(both(["refs, older", "their signature"], layout::refs(&older.0, 0)));
    objects.extend(both(["config", "its signature"], layout::config()));
    objects.extend(both(
        ["tombstone, waiting", "its signature"],
        key(format!("tombstones/{waiting}.g00000002.json")),
    ));
    objects.push(("tombstone, swept", key(format!("tombstones/{swept}.g00000001.json"))));
    objects.extend(both(
        ["condemned, waiting", "its signature"],
        key("prune/00000002.condemned.json".to_owned()),
    ));
    objects.push(("condemned, swept", key("prune/00000001.condemned.json".to_owned())));
    objects.push(("open", key("prune/00000001.open.json".to_owned())));
    objects.extend(both(["done", "its signature"], key("prune/00000001.done.json".to_owned())));
    objects.push(("session", key(format!("sessions/{}-0.json", newer.0))));
    objects.push(("RECOVERY.md", key("RECOVERY.md".to_owned())));
    for (name, key) in &objects {
        assert!(store.dump().contains_key(key), "{name}: {key} is not there");
    }
    Scene { ship, store, older, newer, objects }
}

#[derive(Clone, Copy, Debug)]
enum Harm {
    Flip,
    Truncate,
    Remove,
    Replace,
}

impl Scene {
    /// Harms an object of a copy of the store.
    async fn harmed(&self, key: &Key, harm: Harm) -> MemoryStore {
        let store = self.store.fork();
        let mut bytes = store.dump()[key].to_vec();
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
            Harm::Replace => store.overwrite(key, self.other(key).await),
        }
        store
    }

    /// Returns the bytes of another object of the same kind.
    async fn other(&self, key: &Key) -> Vec<u8> {
        let all = self.store.dump();
        if key.as_str().starts_with("config") {
            let other = MemoryStore::new();
            Ship::new().create(&other).await;
            return other.dump()[key].to_vec();
        }
        let kind = |of: &Key| {
            let name = of.as_str().trim_end_matches(layout::SIGNATURE);
            let folder = name.split('/').next().unwrap().to_owned();
            let word = name.split('.').rev().nth(1).unwrap_or_default().to_owned();
            let sealed = folder == "packs" && self.ship.index_key().open(&all[of], "pack").is_err();
            let word = if folder == "prune" { word } else { String::new() };
            (folder, word, of.as_str().ends_with(layout::SIGNATURE), sealed)
        };
        let wanted = kind(key);
        let other = all.keys().find(|other| *other != key && kind(other) == wanted);
        // Of some there is only one: then the bytes of nothing like it.
        other.map_or_else(|| all[&layout::manifest(&self.older.0)].to_vec(), |other| all[other].to_vec())
    }

    /// Reads a snapshot; wrong bytes are never an answer.
    async fn read(&self, store: &MemoryStore, which: &(SnapshotId, Cargo)) -> Result<()> {
        let reading = self.ship.read_back(store, &which.0, &which.1.name).await?;
        crate::fixture::assert_same(&which.1.reading().await, &reading);
        Ok(())
    }

    async fn salvage(&self, store: &MemoryStore, which: &(SnapshotId, Cargo)) -> Result<()> {
        let snapshot = self.ship.reader(store).await?.snapshot(&which.0).await?;
        let only = lifeboat::flow::Selection::all();
        let nothing = snapshot.salvage(&which.1.name, &only, &self.ship.monitor()).await?;
        let (got, lost) = read_sound(snapshot, &which.1.name).await?;
        assert_eq!(nothing.lost, lost, "it finds the same twice");
        let want = which.1.reading().await;
        assert!(got.entries.iter().all(|(path, seen)| want.entries.get(path) == Some(seen)));
        if lost.is_empty() {
            assert_eq!(got.entries.len(), want.entries.len());
            return Ok(());
        }
        Err(Failure::new(ExitCode::Damage, "something is lost"))
    }

    async fn verify(
        &self,
        store: &MemoryStore,
        read_percent: f64,
        known: &Arc<MemoryIndex>,
    ) -> Result<VerifyReport> {
        let place = self.ship.place(store, known);
        let reader = Repository::read(place, self.ship.identities(), &self.ship.monitor()).await?;
        reader.verify(VerifyOptions { read_percent }, &self.ship.now(), &self.ship.monitor()).await
    }

    /// Verifies without any key.
    async fn verify_blind(&self, store: &MemoryStore) -> Result<VerifyReport> {
        let repository = Repository::clear(self.ship.place(store, &Arc::default())).await?;
        let options = VerifyOptions { read_percent: 100.0 };
        repository.verify(options, &self.ship.now(), &self.ship.monitor()).await
    }

    async fn list(&self, store: &MemoryStore) -> Result<()> {
        self.ship.reader(store).await?.refs().await.map(drop)
    }

    async fn plan(&self, store: &MemoryStore) -> Result<()> {
        let repository = self.ship.maintain(store).await?;
        repository.inspect(&self.ship.now(), &self.ship.monitor()).await?.check(&BTreeSet::new())
    }

    /// Makes a backup after a look at everything, and checks that it is whole.
    async fn heal(&self, store: &MemoryStore) -> Result<SnapshotId> {
        let known: Arc<MemoryIndex> = Arc::default();
        let _ = self.verify(store, 100.0, &known).await;
        let cargo = &self.newer.1;
        let id = self.ship.backup_knowing(store, &known, std::slice::from_ref(cargo)).await?.id;
        self.ship.assert_holds(store, &id, cargo).await;
        let report = self.verify(store, 100.0, &known).await.unwrap();
        for damage in report.damage.iter().filter(|damage| !damage.tampering) {
            assert!(!damage.affects.iter().any(|name| name.contains(id.as_str())), "{damage:?}");
        }
        Ok(id)
    }

    /// Prunes and checks that whatever could be read before can be read after.
    async fn prune(&self, store: &MemoryStore, healed: Option<SnapshotId>) -> Result<()> {
        let mut all = vec![self.older.clone(), self.newer.clone()];
        all.extend(healed.map(|id| (id, self.newer.1.clone())));
        let mut good = Vec::new();
        for which in all {
            if self.read(store, &which).await.is_ok() {
                good.push(which);
            }
        }
        let pruned = self.ship.prune(store, &[], AT_ONCE).await;
        for which in good {
            self.read(store, &which).await.unwrap_or_else(|failure| {
                panic!("{} is gone after prune: {:?}", which.0, failure.chain());
            });
        }
        pruned.map(drop)
    }

    /// Tries every command and returns the exit codes.
    async fn row(&self, key: &Key, harm: Harm) -> Vec<u8> {
        let store = self.harmed(key, harm).await;
        // The host has seen the repository when it was well.
        self.ship.remember();
        self.ship.verify(&self.store).await;
        let code = |done: Result<()>| done.err().map_or(0, |failure| failure.exit().number());
        let found = |done: Result<VerifyReport>| match done {
            Err(failure) => failure.exit().number(),
            Ok(report) if report.damage.iter().any(|one| one.tampering) => 22,
            Ok(report) if !report.damage.is_empty() => 40,
            Ok(_) => 0,
        };
        let mut row = vec![
            found(self.verify(&store, 0.0, &Arc::default()).await),
            found(self.verify(&store, 100.0, &Arc::default()).await),
            found(self.verify_blind(&store).await),
            code(self.list(&store).await),
            code(self.read(&store, &self.older).await),
            code(self.read(&store, &self.newer).await),
            code(self.salvage(&store, &self.newer).await),
            code(self.plan(&store).await),
        ];
        let healed = self.heal(&store).await;
        let id = healed.as_ref().ok().cloned();
        row.push(code(healed.map(drop)));
        row.push(code(self.prune(&store, id).await));
        row.push(found(self.verify(&store, 100.0, &Arc::default()).await));
        row
    }
}

const HEAD: [&str; 11] =
    ["verify", "read", "blind", "list", "older", "newer", "salvage", "plan", "backup", "prune", "after"];

async fn table(harm: Harm) -> String {
    let scene = scene().await;
    let mut table = format!("{:19}", format!("{harm:?}").to_lowercase());
    HEAD.iter().for_each(|head| write!(table, "{head:>8}").unwrap());
    for (name, key) in &scene.objects {
        write!(table, "\n{name:19}").unwrap();
        for code in scene.row(key, harm).await {
            write!(table, "{code:8}").unwrap();
        }
    }
    table
}

#[tokio::test]
async fn what_was_flipped() {
    insta::assert_snapshot!(table(Harm::Flip).await);
}

#[tokio::test]
async fn what_was_cut_short() {
    insta::assert_snapshot!(table(Harm::Truncate).await);
}

#[tokio::test]
async fn what_was_removed() {
    insta::assert_snapshot!(table(Harm::Remove).await);
}

#[tokio::test]
async fn what_was_replaced() {
    insta::assert_snapshot!(table(Harm::Replace).await);
}
