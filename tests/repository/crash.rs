//! A run that dies at any operation harms nothing that was there; the next one is as good as any, and in the end
//! nothing is left of the dead.

use std::{ops::Range, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use lifeboat::{
    names::{Key, SnapshotId},
    repo::{CopySettings, MemoryIndex, Patience, Repository, Terms, format::layout},
    store::{Delete, Fault, FaultStore, FsStore, Get, Listed, MemoryStore, Put, Store, StoreError, Which},
};

use crate::fixture::{AT_ONCE, Book, Cargo, Host, Ship, keys_under, noise, parcel};

/// What was there, and what the run that dies was to add: some old, some new, in several packs.
fn voyages() -> (Cargo, Cargo) {
    let old = Cargo::of("minio", vec![parcel("a", noise(700_000, 1)), parcel("b", noise(40_000, 2))]);
    let new = Cargo::of(
        "minio",
        vec![parcel("a", noise(700_000, 1)), parcel("c", noise(650_000, 3)), parcel("d", noise(650_000, 4))],
    );
    (old, new.reusing())
}

/// Lets a second backup die at operation `n`; returns whether there was such an operation.
async fn die<S: Store + Clone + 'static>(
    ship: &Ship,
    store: S,
    (which, n, fault): (Which, u64, Fault),
    first: &SnapshotId,
) -> bool {
    let (old, new) = voyages();
    let faulty = FaultStore::new(store);
    // A host keeps its index from run to run; also across one that died.
    let known: Arc<MemoryIndex> = Arc::default();
    faulty.die_at(which, n, fault);
    let died = ship.backup_knowing(&faulty, &known, std::slice::from_ref(&new)).await;
    let struck = faulty.has_struck();
    faulty.heal();
    assert_eq!(
        died.is_err(),
        struck,
        "a backup fails when an operation of it fails: {which:?} {n} {fault:?}"
    );
    let at = format!("{which:?} {n} {fault:?}");
    let listed = ship.listed(&faulty).await;
    assert_eq!(listed.first(), Some(first), "{at}");
    // What is listed is whole: the last put may have taken effect although nobody was told.
    ship.assert_holds(&faulty, first, &old).await;
    for id in &listed[1..] {
        ship.assert_holds(&faulty, id, &new).await;
    }
    let damage = ship.verify(&faulty).await.damage;
    assert!(damage.is_empty(), "{at}: {damage:?}");
    let next = ship.backup_knowing(&faulty, &known, std::slice::from_ref(&new)).await;
    let next = next.unwrap_or_else(|failure| panic!("{at}: {:?}", failure.chain()));
    ship.assert_holds(&faulty, &next.id, &new).await;
    ship.assert_holds(&faulty, first, &old).await;
    assert_eq!(ship.verify(&faulty).await.damage, []);
    struck
}

async fn enumerate(which: Which, fault: Fault) -> u64 {
    let (ship, store) = Ship::launched().await;
    let first = ship.backup(&store, &voyages().0).await.unwrap().id;
    let mut n = 1;
    while die(&ship, store.fork(), (which, n, fault), &first).await {
        n += 1;
    }
    n
}

#[tokio::test]
async fn dying_before_any_write_leaves_the_repository_whole() {
    assert!(enumerate(Which::Writes, Fault::Before).await >= 9);
}

#[tokio::test]
async fn dying_after_any_write_leaves_the_repository_whole() {
    assert!(enumerate(Which::Writes, Fault::After).await >= 9);
}

#[tokio::test]
async fn a_full_store_at_any_write_leaves_the_repository_whole() {
    assert!(enumerate(Which::Writes, Fault::Full).await >= 9);
}

#[tokio::test]
async fn dying_at_any_operation_leaves_the_repository_whole() {
    assert!(enumerate(Which::All, Fault::Before).await >= 18);
}

#[tokio::test]
async fn dying_at_any_write_leaves_a_repository_in_a_folder_whole() {
    for n in 1.. {
        let (ship, dir) = (Ship::new(), tempfile::tempdir().unwrap());
        let store = FsStore::create(dir.path().join("repository")).unwrap();
        ship.create(&store).await;
        let first = ship.backup(&store, &voyages().0).await.unwrap().id;
        if !die(&ship, store, (Which::Writes, n, Fault::After), &first).await {
            break;
        }
    }
}

#[tokio::test]
async fn a_single_write_that_fails_fails_the_run_and_nothing_else() {
    let (ship, store) = Ship::launched().await;
    let (old, new) = voyages();
    let first = ship.backup(&store, &old).await.unwrap().id;
    for n in 1.. {
        let faulty = FaultStore::new(store.fork());
        faulty.fail_at(Which::Writes, n, Fault::Before);
        let run = ship.backup(&faulty, &new).await;
        if !faulty.has_struck() {
            break;
        }
        // The store came back at once; still a snapshot without that object must not be.
        assert!(run.is_err(), "write {n}");
        assert_eq!(ship.listed(faulty.inner()).await, std::slice::from_ref(&first), "write {n}");
    }
}

#[tokio::test]
async fn a_backup_that_is_cancelled_anywhere_leaves_nothing_to_be_listed() {
    let (ship, store) = Ship::launched().await;
    let (old, new) = voyages();
    let first = ship.backup(&store, &old).await.unwrap().id;
    for turns in (0..120).step_by(3) {
        let fork = store.fork();
        let mut run = Box::pin(ship.backup(&fork, &new));
        let mut ended = false;
        for _ in 0..turns {
            ended = futures_util::poll!(&mut run).is_ready();
            if ended {
                break;
            }
            tokio::task::spawn_blocking(|| ()).await.unwrap();
        }
        drop(run);
        let listed = ship.listed(&fork).await;
        assert_eq!(listed[0], first);
        for id in &listed[1..] {
            ship.assert_holds(&fork, id, &new).await;
        }
        if ended {
            return;
        }
        ship.assert_holds(&fork, &first, &old).await;
        let next = ship.backup(&fork, &new).await.unwrap();
        ship.assert_holds(&fork, &next.id, &new).await;
    }
}

#[tokio::test]
async fn making_a_repository_can_die_anywhere_and_never_leaves_half_of_one() {
    for n in 1.. {
        let (ship, store) = (Ship::new(), FaultStore::new(MemoryStore::new()));
        store.die_at(Which::Writes, n, Fault::Before);
        let (signing, ground) = (ship.signing(), ship.ground());
        let new = lifeboat::repo::NewRepository {
            data_recipients: vec![ship.made.recipient.clone()],
            index_recipients: vec![ship.made.index_recipient.clone()],
            signing: &signing,
            ground: &ground,
        };
        let made = lifeboat::repo::create(&store, &store, new).await;
        let struck = store.has_struck();
        store.heal();
        assert_eq!(made.is_err(), struck);
        if !struck {
            break;
        }
        assert_eq!(store.size(&layout::config()).await.unwrap(), None);
        let opened = ship.reader(&store).await.err().expect("there is none");
        assert_eq!(opened.exit(), lifeboat::error::ExitCode::NoRepository);
    }
}

#[tokio::test]
async fn two_backups_at_once_are_two_snapshots() {
    let (ship, store) = Ship::launched().await;
    let (old, new) = voyages();
    let (one, two) = tokio::join!(ship.backup(&store, &old), ship.backup(&store, &new));
    let (one, two) = (one.unwrap(), two.unwrap());
    ship.assert_holds(&store, &one.id, &old).await;
    ship.assert_holds(&store, &two.id, &new).await;
    assert_eq!(ship.listed(&store).await.len(), 2);
    let third = ship.backup(&store, &new).await.unwrap();
    assert_eq!(third.added_packs, 0);
    assert_eq!(ship.verify(&store).await.damage, []);
}

/// A repository at a turning point, and what comes next.
struct Scene {
    ship: Ship,
    store: MemoryStore,
    book: Book,
    next: Run,
}

/// One run of a program.
#[derive(Clone)]
enum Run {
    Backup(Cargo),
    /// A prune at once that forgets these.
    Prune(Vec<SnapshotId>),
}

impl Run {
    async fn of<S: Store + Clone + 'static>(
        &self,
        host: &Host<'_>,
        store: &S,
    ) -> lifeboat::error::Result<Option<SnapshotId>> {
        match self {
            Self::Backup(cargo) => host.backup(store, cargo).await.map(|made| Some(made.id)),
            Self::Prune(remove) => host.prune(store, remove, AT_ONCE).await.map(|_| None),
        }
    }
}

/// Some entries are in all snapshots, some in one: packs of which one entry is needed and others are not.
fn cargo(seeds: &[u64]) -> Cargo {
    let parcels = seeds.iter().map(|seed| parcel(&format!("{seed}"), noise(30_000, *seed)));
    Cargo::of("minio", parcels.collect()).reusing()
}

/// Two snapshots that share a pack.
async fn before_a_backup() -> Scene {
    let (ship, store) = Ship::launched_with_times().await;
    let (host, mut book) = (Host::new(&ship), Book::default());
    host.must_backup(&store, &cargo(&[1, 2]), &mut book).await;
    host.must_backup(&store, &cargo(&[1, 3]), &mut book).await;
    drop(host);
    Scene { ship, store, book, next: Run::Backup(cargo(&[1, 3, 4, 5])) }
}

/// The first of three snapshots is to be forgotten; beside it lies what a backup has left that died before it could
/// sign, and what another one has left that died before its refs.
async fn before_forgetting() -> Scene {
    let (ship, store) = Ship::launched_with_times().await;
    let (host, mut book) = (Host::new(&ship), Book::default());
    let first = host.must_backup(&store, &cargo(&[1, 2]), &mut book).await;
    host.must_backup(&store, &cargo(&[1, 3]), &mut book).await;
    for (before, seed) in [(layout::REFS, 6), (layout::MANIFESTS, 7), (layout::INDEX, 8)] {
        leave_unfinished(&ship, &store, before, &cargo(&[1, 3, seed])).await;
    }
    host.must_backup(&store, &cargo(&[1, 3, 4]), &mut book).await;
    let cargo = book.kept.remove(&first).unwrap();
    book.leaving.insert(first.clone(), cargo);
    drop(host);
    Scene { ship, store, book, next: Run::Prune(vec![first]) }
}

/// One generation is over, the next one is due with a forgotten snapshot and what dead runs have left.
async fn before_a_sweep() -> Scene {
    let Scene { ship, store, mut book, next } = before_forgetting().await;
    let Run::Prune(first) = next else { unreachable!() };
    let host = Host::new(&ship);
    host.must_prune(&store, &[], &mut book).await;
    host.must_backup(&store, &cargo(&[1, 4]), &mut book).await;
    leave_unfinished(&ship, &store, layout::REFS, &cargo(&[1, 4, 9])).await;
    host.must_prune(&store, &first, &mut book).await;
    host.must_backup(&store, &cargo(&[1, 4, 5]), &mut book).await;
    drop(host);
    Scene { ship, store, book, next: Run::Prune(Vec::new()) }
}

/// Lets a backup die right after its first object under `prefix`.
async fn leave_unfinished(ship: &Ship, store: &MemoryStore, prefix: &str, cargo: &Cargo) {
    let had = keys_under(store, prefix).len();
    for n in 1.. {
        let (fork, host) = (FaultStore::new(store.fork()), Host::new(ship));
        fork.die_at(Which::Writes, n, Fault::After);
        host.backup(&fork, cargo).await.unwrap_err();
        if keys_under(fork.inner(), prefix).len() > had {
            for (key, bytes) in fork.inner().dump() {
                if store.size(&key).await.unwrap().is_none() {
                    store.put(&key, bytes).await.unwrap();
                }
            }
            return;
        }
    }
}

/// How a run dies.
type Death = (Which, u64, Fault);

impl Scene {
    /// Lets the next run die, and looks at what is left; returns whether there was such an operation.
    async fn die<S: Store + Clone + 'static>(&self, store: S, death: Death, cleans: bool) -> bool {
        let (faulty, host, mut book) = (FaultStore::new(store), Host::new(&self.ship), self.book.clone());
        // The host has seen everything that is there.
        host.assert_whole(&faulty, &book).await;
        match death.2 {
            Fault::Duplicate => faulty.fail_at(death.0, death.1, death.2),
            _ => faulty.die_at(death.0, death.1, death.2),
        }
        let died = self.next.of(&host, &faulty).await;
        let struck = faulty.has_struck();
        faulty.heal();
        let at = format!("{death:?}: {died:?}");
        println!("{at}");
        if let Run::Backup(cargo) = &self.next {
            book.tried.push(cargo.clone());
        }
        // That a write was done twice is no harm.
        let is_told = died.is_err() == (struck && death.2 != Fault::Duplicate);
        assert!(is_told, "a run fails when an operation of it fails: {at}");
        host.assert_whole(&faulty, &book).await;
        if cleans {
            self.go_on(&host, &faulty, book).await;
        }
        struck
    }

    /// Lets life go on: after a few more nights all that the dead have left is gone.
    async fn go_on<S: Store + Clone + 'static>(&self, host: &Host<'_>, store: &S, mut book: Book) {
        book.leaving.clear();
        let kept: Vec<SnapshotId> = book.kept.keys().cloned().collect();
        for night in 0..6 {
            let cargo = cargo(&[1, 4, 20 + night.min(3)]);
            let made = host.backup(store, &cargo).await;
            let made = made.unwrap_or_else(|failure| panic!("night {night}: {:?}", failure.chain()));
            // The last nights change nothing, so that the last things go.
            let remove: Vec<SnapshotId> = self.ship.listed(store).await;
            let remove: Vec<SnapshotId> =
                remove.into_iter().filter(|id| *id != made.id && !kept.contains(id) && night < 4).collect();
            book.kept.retain(|id, _| !remove.contains(id));
            book.kept.insert(made.id, cargo);
            host.must_prune(store, &remove, &mut book).await;
        }
        host.assert_whole(store, &book).await;
        host.assert_clean(store).await;
    }

    /// Lets the next run die at each write and each read.
    async fn enumerate(&self, which: Which, fault: Fault) -> u64 {
        let mut n = 1;
        // A read that fails leaves the store as the write before it did.
        while self.die(self.store.fork(), (which, n, fault), which == Which::Writes).await {
            n += 1;
        }
        println!("{n} deaths");
        n
    }
}

#[tokio::test]
async fn a_backup_that_dies_before_a_write_leaves_nothing_for_ever() {
    assert!(before_a_backup().await.enumerate(Which::Writes, Fault::Before).await >= 9);
}

#[tokio::test]
async fn a_backup_that_dies_after_a_write_leaves_nothing_for_ever() {
    assert!(before_a_backup().await.enumerate(Which::Writes, Fault::After).await >= 9);
}

#[tokio::test]
async fn a_backup_whose_writes_are_done_twice_is_as_good_as_any() {
    assert!(before_a_backup().await.enumerate(Which::Writes, Fault::Duplicate).await >= 9);
}

#[tokio::test]
async fn a_prune_that_dies_before_a_mark_of_its_plan_harms_nothing() {
    assert!(before_forgetting().await.enumerate(Which::Writes, Fault::Before).await >= 9);
}

#[tokio::test]
async fn a_prune_that_dies_after_a_mark_of_its_plan_harms_nothing() {
    assert!(before_forgetting().await.enumerate(Which::Writes, Fault::After).await >= 9);
}

#[tokio::test]
async fn a_prune_that_cannot_read_removes_nothing_that_is_needed() {
    assert!(before_forgetting().await.enumerate(Which::Reads, Fault::Before).await >= 9);
}

#[tokio::test]
async fn a_sweep_that_dies_before_a_write_harms_nothing() {
    assert!(before_a_sweep().await.enumerate(Which::Writes, Fault::Before).await >= 18);
}

#[tokio::test]
async fn a_sweep_that_dies_after_a_write_harms_nothing() {
    assert!(before_a_sweep().await.enumerate(Which::Writes, Fault::After).await >= 18);
}

#[tokio::test]
async fn a_sweep_whose_writes_are_done_twice_is_as_good_as_any() {
    assert!(before_a_sweep().await.enumerate(Which::Writes, Fault::Duplicate).await >= 18);
}

#[tokio::test]
async fn a_sweep_that_cannot_read_removes_nothing_that_is_needed() {
    assert!(before_a_sweep().await.enumerate(Which::Reads, Fault::Before).await >= 18);
}

/// A folder that does not tell when objects came: its clock is not the ship's.
#[derive(Clone)]
struct Timeless(FsStore);

#[async_trait]
impl Put for Timeless {
    async fn put(&self, key: &Key, body: Bytes) -> Result<(), StoreError> {
        self.0.put(key, body).await
    }
}

#[async_trait]
impl Get for Timeless {
    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Bytes, StoreError> {
        self.0.get(key, range).await
    }

    async fn size(&self, key: &Key) -> Result<Option<u64>, StoreError> {
        self.0.size(key).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Listed>, StoreError> {
        let listed = self.0.list(prefix).await?.into_iter();
        Ok(listed.map(|one| Listed { modified: None, ..one }).collect())
    }
}

#[async_trait]
impl Delete for Timeless {
    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        self.0.delete(key).await
    }
}

#[tokio::test]
async fn a_sweep_of_a_folder_with_a_trash_that_dies_harms_nothing() {
    let scene = before_a_sweep().await;
    for n in (1..).step_by(7) {
        let dir = tempfile::tempdir().unwrap();
        let folder = FsStore::create(dir.path().join("repository")).unwrap();
        for (key, bytes) in scene.store.dump() {
            folder.put(&key, bytes).await.unwrap();
        }
        if !scene.die(Timeless(folder.clone()), (Which::Writes, n, Fault::After), true).await {
            assert!(n > 20);
            break;
        }
        assert!(folder.trash().await.unwrap().objects > 0, "what is removed lies in the trash");
    }
}

#[tokio::test]
async fn a_copy_that_died_anywhere_is_finished_by_a_later_one_although_prune_ran_meanwhile() {
    let Scene { ship, store, book, .. } = before_a_backup().await;
    let terms = Terms { is_copy: true, ..AT_ONCE };
    for n in 1.. {
        let (store, mut book) = (store.fork(), book.clone());
        let copy = FaultStore::new(MemoryStore::with_clock(Arc::new(ship.clock.clone())));
        copy.die_at(Which::Writes, n, Fault::After);
        let died = sync(&ship, &store, &copy).await;
        let struck = copy.has_struck();
        copy.heal();
        assert_eq!(died.is_err(), struck, "{n}");
        if !struck {
            assert!(n > 20);
            break;
        }
        if copy.size(&layout::config()).await.unwrap().is_some() {
            for _ in 0..2 {
                Host::new(&ship).prune(&copy, &[], terms).await.unwrap();
            }
        }
        sync(&ship, &store, &copy).await.unwrap();
        let host = Host::new(&ship);
        host.assert_whole(&copy, &book).await;
        // What is backed up next is copied next.
        host.must_backup(&store, &cargo(&[1, 3]), &mut book).await;
        sync(&ship, &store, &copy).await.unwrap();
        host.prune(&copy, &[], terms).await.unwrap();
        host.assert_whole(&copy, &book).await;
    }
}

/// Copies all snapshots, without a key.
async fn sync<S: Store + Clone + 'static>(
    ship: &Ship,
    from: &MemoryStore,
    to: &S,
) -> lifeboat::error::Result<()> {
    let from = Repository::clear(ship.place(from, &Arc::default())).await?;
    let patience = Patience::default();
    let (place, put) = (ship.place(to, &Arc::default()), Arc::new(to.clone()));
    from.copy_to(
        place,
        put,
        CopySettings { patience, ..CopySettings::default() },
        &ship.ground(),
        &ship.monitor(),
    )
    .await
    .map(drop)
}
