//! A run that stands still at any operation for as long as it likes, while others run to their end, loses nothing
//! that was reported and says so when it could not do its work.

use lifeboat::{
    error::{ExitCode, Result},
    names::SnapshotId,
    repo::{Append, PruneReport, Repository, format::layout},
    store::{MemoryStore, PausingStore, Which},
};

use crate::fixture::{AT_ONCE, Book, Cargo, Host, Ship, keys_under, noise, parcel};

fn cargo(seeds: &[u64]) -> Cargo {
    let parcels = seeds.iter().map(|seed| parcel(&format!("{seed}"), noise(30_000, *seed)));
    Cargo::of("minio", parcels.collect()).reusing()
}

/// What the next backup of the host relies on, and nobody else.
const SHARED: u64 = 1;

/// Two snapshots; the first one has what later backups share with it.
struct Scene {
    ship: Ship,
    store: MemoryStore,
    book: Book,
    first: SnapshotId,
}

async fn scene() -> Scene {
    let (ship, store) = Ship::launched_with_times().await;
    let (host, mut book) = (Host::new(&ship), Book::default());
    let first = host.must_backup(&store, &cargo(&[SHARED, 2]), &mut book).await;
    host.must_backup(&store, &cargo(&[3]), &mut book).await;
    drop(host);
    Scene { ship, store, book, first }
}

impl Scene {
    /// Forgets a snapshot and removes what it alone needed, with a complete snapshot in between.
    async fn cycle(
        &self,
        other: &Host<'_>,
        store: &MemoryStore,
        book: &mut Book,
        forget: &SnapshotId,
        seed: u64,
    ) {
        other.must_prune(store, std::slice::from_ref(forget), book).await;
        other.must_backup(store, &cargo(&[3, seed]), book).await;
        other.must_prune(store, &[], book).await;
    }

    /// Looks at what is left after everybody went on: all that was reported is there, and life goes on.
    async fn settle(&self, hosts: [&Host<'_>; 2], store: &MemoryStore, mut book: Book) {
        hosts[0].assert_whole(store, &book).await;
        for host in hosts {
            host.must_backup(store, &cargo(&[SHARED, 3, 30]), &mut book).await;
            host.must_prune(store, &[], &mut book).await;
        }
        // Nobody stands still any more: what nobody needs goes.
        let newest = hosts[0].must_backup(store, &cargo(&[SHARED, 3]), &mut book).await;
        hosts[0].assert_whole(store, &book).await;
        let listed = self.ship.listed(store).await;
        let remove: Vec<SnapshotId> = listed.into_iter().filter(|id| *id != newest).collect();
        hosts[1].must_prune(store, &remove, &mut book).await;
        for _ in 0..2 {
            hosts[0].must_backup(store, &cargo(&[SHARED, 3]), &mut book).await;
            hosts[1].must_prune(store, &[], &mut book).await;
        }
        hosts[1].assert_whole(store, &book).await;
        hosts[0].assert_clean(store).await;
    }
}

/// What a backup says that could not be sure of what it relied on.
const LOUD: [ExitCode; 4] = [ExitCode::Failed, ExitCode::Busy, ExitCode::Damage, ExitCode::StoreDown];

/// Freezes a backup that shares data with a snapshot which is forgotten and swept meanwhile, as often as `cycles`.
async fn freeze_backups(cycles: u64) -> (u64, u64) {
    let scene = scene().await;
    let (mut frozen, mut reported) = (0, 0);
    for n in 1.. {
        let (store, mut book) = (scene.store.fork(), scene.book.clone());
        let (host, other) = (Host::new(&scene.ship), Host::new(&scene.ship));
        host.assert_whole(&store, &book).await;
        let slow = PausingStore::new(store.clone());
        slow.pause_at(Which::All, n);
        let wanted = cargo(&[SHARED, 3, 4]);
        let mut run = Box::pin(host.backup(&slow, &wanted));
        if slow.run_until_paused(&mut run).await.is_some() {
            break;
        }
        frozen += 1;
        let mut forget = scene.first.clone();
        for seed in 0..cycles {
            scene.cycle(&other, &store, &mut book, &forget, 10 + seed).await;
            forget = book.kept.keys().next_back().unwrap().clone();
        }
        slow.resume();
        println!("operation {n}");
        match run.await {
            Ok(made) => {
                reported += 1;
                book.kept.insert(made.id, wanted);
            }
            Err(failure) => {
                assert!(LOUD.contains(&failure.exit()), "{:?}", failure.chain());
                println!("{:?}", failure.chain());
                book.tried.push(wanted);
            }
        }
        scene.settle([&host, &other], &store, book).await;
    }
    println!("frozen {frozen} times, reported {reported} times");
    (frozen, reported)
}

#[tokio::test]
async fn a_backup_that_stands_still_while_what_it_relies_on_is_swept_is_whole_or_fails() {
    let (frozen, reported) = freeze_backups(1).await;
    assert!(frozen >= 30 && (1..frozen).contains(&reported), "{frozen} {reported}");
}

#[tokio::test]
async fn a_backup_that_stands_still_while_generations_come_and_go_is_whole_or_fails() {
    let (frozen, reported) = freeze_backups(3).await;
    assert!(frozen >= 30 && (1..frozen).contains(&reported), "{frozen} {reported}");
}

/// Ends a backup that was begun before others did something; returns whether it was reported.
async fn end(host: &Host<'_>, repository: &Repository<Append>, book: &mut Book) -> bool {
    let wanted = cargo(&[SHARED, 3, 4]);
    match host.ship.write(repository, std::slice::from_ref(&wanted)).await {
        Ok(made) => {
            book.kept.insert(made.id, wanted);
            true
        }
        Err(failure) => {
            assert!(LOUD.contains(&failure.exit()), "{:?}", failure.chain());
            book.tried.push(wanted);
            false
        }
    }
}

/// Asserts that a prune either did its work or says that another one was faster.
fn assert_told(result: Result<PruneReport>) {
    if let Err(failure) = result {
        assert_eq!(failure.exit(), ExitCode::Busy, "{:?}", failure.chain());
    }
}

#[tokio::test]
async fn a_sweep_that_stands_still_takes_nothing_that_backups_were_promised() {
    let scene = scene().await;
    let (mut frozen, mut reported) = (0, 0);
    for n in 1.. {
        let (store, mut book) = (scene.store.fork(), scene.book.clone());
        let (host, other) = (Host::new(&scene.ship), Host::new(&scene.ship));
        // It relies on what is condemned after it began.
        let slow = host.append(&store).await.unwrap();
        other.must_prune(&store, std::slice::from_ref(&scene.first), &mut book).await;
        other.must_backup(&store, &cargo(&[3, 10]), &mut book).await;
        let freezing = PausingStore::new(store.clone());
        freezing.pause_at(Which::All, n);
        let mut sweep = Box::pin(other.prune(&freezing, &[], AT_ONCE));
        if freezing.run_until_paused(&mut sweep).await.is_some() {
            break;
        }
        frozen += 1;
        println!("operation {n}");
        reported += u64::from(end(&host, &slow, &mut book).await);
        Host::new(&scene.ship).must_backup(&store, &cargo(&[SHARED, 3, 5]), &mut book).await;
        freezing.resume();
        sweep.await.unwrap();
        scene.settle([&host, &other], &store, book).await;
    }
    println!("frozen {frozen} times, reported {reported} times");
    assert!(frozen >= 40 && (1..frozen).contains(&reported), "{frozen} {reported}");
}

#[tokio::test]
async fn a_prune_that_stands_still_before_it_condemns_harms_no_backup() {
    let scene = scene().await;
    let mut frozen = 0;
    for n in 1.. {
        let (store, mut book) = (scene.store.fork(), scene.book.clone());
        let (host, other) = (Host::new(&scene.ship), Host::new(&scene.ship));
        let slow = host.append(&store).await.unwrap();
        let freezing = PausingStore::new(store.clone());
        freezing.pause_at(Which::All, n);
        let forget = [scene.first.clone()];
        let mut prune = Box::pin(other.prune(&freezing, &forget, AT_ONCE));
        if freezing.run_until_paused(&mut prune).await.is_some() {
            break;
        }
        frozen += 1;
        println!("operation {n}");
        let cargo = book.kept.remove(&scene.first).unwrap();
        book.leaving.insert(scene.first.clone(), cargo);
        assert!(end(&host, &slow, &mut book).await, "nothing was removed");
        freezing.resume();
        prune.await.unwrap();
        book.leaving.clear();
        scene.settle([&host, &other], &store, book).await;
    }
    assert!(frozen >= 20, "{frozen}");
}

#[tokio::test]
async fn a_sweep_that_stands_still_while_others_prune_takes_nothing_that_is_needed() {
    let scene = scene().await;
    let mut frozen = 0;
    for n in 1.. {
        let (store, mut book) = (scene.store.fork(), scene.book.clone());
        let (host, other) = (Host::new(&scene.ship), Host::new(&scene.ship));
        other.must_prune(&store, std::slice::from_ref(&scene.first), &mut book).await;
        other.must_backup(&store, &cargo(&[3, 10]), &mut book).await;
        let freezing = PausingStore::new(store.clone());
        freezing.pause_at(Which::All, n);
        let mut sweep = Box::pin(other.prune(&freezing, &[], AT_ONCE));
        if freezing.run_until_paused(&mut sweep).await.is_some() {
            break;
        }
        frozen += 1;
        println!("operation {n}");
        for seed in [11, 12] {
            let forget = book.kept.keys().next_back().unwrap().clone();
            scene.cycle(&host, &store, &mut book, &forget, seed).await;
        }
        freezing.resume();
        assert_told(sweep.await);
        scene.settle([&host, &other], &store, book).await;
    }
    assert!(frozen >= 40, "{frozen}");
}

#[tokio::test]
async fn a_list_that_comes_late_under_an_old_number_misleads_no_backup() {
    let scene = scene().await;
    let mut frozen = 0;
    for n in 1.. {
        let (store, mut book) = (scene.store.fork(), scene.book.clone());
        let (host, other) = (Host::new(&scene.ship), Host::new(&scene.ship));
        let freezing = PausingStore::new(store.clone());
        freezing.pause_at(Which::All, n);
        let forget = [scene.first.clone()];
        let mut prune = Box::pin(other.prune(&freezing, &forget, AT_ONCE));
        if freezing.run_until_paused(&mut prune).await.is_some() {
            break;
        }
        frozen += 1;
        println!("operation {n}");
        let cargo_of_first = book.kept.remove(&scene.first).unwrap();
        book.leaving.insert(scene.first.clone(), cargo_of_first);
        for seed in [11, 12, 13] {
            let forget = book.kept.keys().next_back().unwrap().clone();
            scene.cycle(&host, &store, &mut book, &forget, seed).await;
        }
        let slow = host.append(&store).await.unwrap();
        freezing.resume();
        assert_told(prune.await);
        other.must_backup(&store, &cargo(&[3, 14]), &mut book).await;
        other.must_prune(&store, &[], &mut book).await;
        end(&host, &slow, &mut book).await;
        scene.settle([&host, &other], &store, book).await;
    }
    assert!(frozen >= 20, "{frozen}");
}

#[tokio::test]
async fn a_backup_that_stands_still_before_its_signature_while_it_is_taken_for_dead_says_so() {
    let scene = scene().await;
    let mut outcomes = [0, 0];
    // Frozen: the put of the signature, and every operation after it, while a whole life of prune goes by.
    for sweeps in 0..3 {
        for n in 1.. {
            let (store, mut book) = (scene.store.fork(), scene.book.clone());
            let (host, other) = (Host::new(&scene.ship), Host::new(&scene.ship));
            let slow = PausingStore::new(store.clone());
            slow.pause_at(Which::All, n);
            let wanted = cargo(&[3, 4]);
            let mut run = Box::pin(host.backup(&slow, &wanted));
            if slow.run_until_paused(&mut run).await.is_some() {
                break;
            }
            let is_unsigned = keys_under(&store, layout::REFS).len() % 2 == 1;
            if !is_unsigned {
                slow.resume();
                run.await.unwrap();
                continue;
            }
            other.must_prune(&store, &[], &mut book).await;
            for seed in 0..sweeps {
                other.must_backup(&store, &cargo(&[3, 10 + seed]), &mut book).await;
                other.must_prune(&store, &[], &mut book).await;
            }
            slow.resume();
            let failure = run.await.expect_err("it was taken for dead");
            assert!(failure.to_string().contains("taken for dead"), "{:?}", failure.chain());
            outcomes[usize::from(keys_under(&store, layout::REFS).len() % 2 == 1)] += 1;
            book.tried.push(wanted);
            scene.settle([&host, &other], &store, book).await;
        }
    }
    println!("{outcomes:?}");
    assert!(outcomes[0] > 0);
}

#[tokio::test]
async fn a_backup_that_stands_still_while_others_are_made_looks_like_no_forgery() {
    let scene = scene().await;
    for n in 1.. {
        let (store, mut book) = (scene.store.fork(), scene.book.clone());
        let (host, other) = (Host::new(&scene.ship), Host::new(&scene.ship));
        let slow = PausingStore::new(store.clone());
        slow.pause_at(Which::All, n);
        let wanted = cargo(&[SHARED, 3, 4]);
        let mut run = Box::pin(host.backup(&slow, &wanted));
        if slow.run_until_paused(&mut run).await.is_some() {
            assert!(n > 20);
            break;
        }
        for seed in 10..14 {
            other.must_backup(&store, &cargo(&[3, seed]), &mut book).await;
        }
        slow.resume();
        println!("operation {n}");
        let made = run.await.unwrap();
        book.kept.insert(made.id, wanted);
        scene.settle([&host, &other], &store, book).await;
    }
}
