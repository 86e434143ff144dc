//! Streams that are read and written in awkward ways must neither hang nor commit what is not whole.

use std::{sync::Arc, time::Duration};

use futures_util::FutureExt;
use lifeboat::{
    error::{ExitCode, Failure},
    event::NoMonitor,
    flow::{FlowError, FlowResult, Problem, STREAM_DEPTH, Selection, Source, channel, fixed_path, settle},
    names::SourceName,
    repo::{Label, MemoryIndex},
    store::{Fault, FaultStore, MemoryStore, Which},
};

use crate::fixture::{Cargo, Ship, Trouble, noise, parcel};

/// Fails a test that hangs; nothing waits for it otherwise.
async fn in_time<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_mins(1), work).await.expect("it hangs")
}

#[tokio::test]
async fn more_parallel_bodies_than_are_read_at_once_do_not_hang() {
    let (ship, store) = Ship::launched().await;
    let cargo = Cargo::of("minio", (0..24).map(|n| parcel(&format!("{n:02}"), noise(700_000, n))).collect());
    let repository = ship.append(&store, &Arc::default()).await.unwrap();
    let mut writer = repository.begin(ship.ground(), ship.monitor(), 1).await.unwrap();
    let (sink, stream) = channel(STREAM_DEPTH);
    let send = async {
        sink.announce(cargo.inventory()).await?;
        // All bodies are written by tasks of their own, the last ones first wherever there is room.
        let mut tasks = tokio::task::JoinSet::new();
        for entry in &cargo.entries {
            let mut body = sink.begin(entry.meta.clone()).await?;
            let entry = entry.clone();
            tasks.spawn(async move {
                for piece in entry.pieces {
                    if let lifeboat::flow::Piece::Data(bytes) = piece {
                        body.write(bytes).await?;
                    }
                }
                body.finish_with(entry.trailer).await
            });
        }
        while let Some(task) = tasks.join_next().await {
            task.expect("no panic")?;
        }
        cargo.inventory().iter().for_each(|item| sink.complete(item));
        sink.finish(cargo.point.clone()).await
    };
    let (read, written) =
        in_time(async { tokio::join!(send, writer.write_source(&cargo.name, "test", stream)) }).await;
    settle(read, written).unwrap();
    let committed = writer.commit(Label::default(), Vec::new()).await.unwrap();
    ship.assert_holds(&store, &committed.id, &cargo).await;
}

#[tokio::test]
async fn a_target_may_read_bodies_in_any_order_among_those_that_are_open() {
    let (ship, store) = (Ship::new(), MemoryStore::new());
    ship.create(&store).await;
    // All chunks lie in one pack, so that every body waits for the same one.
    let cargo = Cargo::of("minio", (0..12).map(|n| parcel(&format!("{n:02}"), noise(9 << 20, n))).collect());
    let committed = ship.backup(&store, &cargo).await.unwrap();
    let snapshot = ship.reader(&store).await.unwrap().snapshot(&committed.id).await.unwrap();
    let (sink, mut stream) = channel(STREAM_DEPTH);
    let only = Selection::all();
    let monitor = NoMonitor::shared();
    let send = snapshot.read_source(&cargo.name, &only, sink, &monitor);
    let take = async {
        let mut bytes = 0;
        loop {
            // Entries are taken six at a time and their bodies read from the last to the first.
            let mut some = Vec::new();
            while some.len() < 6 {
                match stream.next().await? {
                    Some(entry) => some.push(entry),
                    None => break,
                }
            }
            if some.is_empty() {
                return Ok::<_, FlowError>(bytes);
            }
            while let Some(mut entry) = some.pop() {
                while let Some(part) = entry.body.next().await? {
                    bytes += part.len();
                }
            }
        }
    };
    let (given, taken) = in_time(async { tokio::join!(send, take) }).await;
    assert_eq!(settle(given, taken).unwrap().1, 12 * (9 << 20));
}

#[tokio::test]
async fn a_target_that_goes_away_ends_the_reading() {
    let (ship, store) = Ship::launched().await;
    let cargo = Cargo::of("minio", (0..9).map(|n| parcel(&format!("{n}"), noise(3 << 20, n))).collect());
    let committed = ship.backup(&store, &cargo).await.unwrap();
    let snapshot = ship.reader(&store).await.unwrap().snapshot(&committed.id).await.unwrap();
    let (sink, mut stream) = channel(STREAM_DEPTH);
    let (only, monitor) = (Selection::all(), NoMonitor::shared());
    let take = async move {
        let mut entry = stream.next().await?.expect("an entry");
        entry.body.next().await?;
        Err::<(), _>(FlowError::Failed(Failure::new(ExitCode::SourceDown, "the target is full")))
    };
    let send = snapshot.read_source(&cargo.name, &only, sink, &monitor);
    let (given, taken) = in_time(async { tokio::join!(send, take) }).await;
    assert!(matches!(given, Err(FlowError::Closed)));
    assert_eq!(settle(given, taken).unwrap_err().to_string(), "the target is full");
}

async fn write(ship: &Ship, store: &MemoryStore, cargo: &Cargo) -> FlowResult<()> {
    let repository = ship.append(store, &Arc::default()).await?;
    let mut writer = repository.begin(ship.ground(), ship.monitor(), 1).await.unwrap();
    let (sink, stream) = channel(STREAM_DEPTH);
    let source = Box::new(cargo.clone());
    let (read, written) = in_time(async {
        tokio::join!(source.read(sink, None), writer.write_source(&cargo.name, "test", stream))
    })
    .await;
    settle(read, written).map(drop)
}

#[tokio::test]
async fn a_source_that_breaks_off_is_no_snapshot_and_says_why() {
    let (ship, store) = Ship::launched().await;
    let entries = || (0..9).map(|n| parcel(&format!("{n}"), noise(50_000, n))).collect();
    let cargo = |trouble| Cargo::of("minio", entries()).with_trouble(trouble);
    let failed = write(&ship, &store, &cargo(Trouble::FailsAfter(5))).await.unwrap_err();
    assert_eq!(failed.to_string(), "the server went away");
    let failed = write(&ship, &store, &cargo(Trouble::DropsBodyOf(3))).await.unwrap_err();
    assert!(matches!(failed, FlowError::Truncated { path } if path == fixed_path("3")));
    let failed = write(&ship, &store, &cargo(Trouble::ForgetsLastItem)).await.unwrap_err();
    assert!(matches!(failed, FlowError::Incomplete { missing } if missing == ["8"]));
    assert!(ship.listed(&store).await.is_empty());
}

#[tokio::test]
async fn what_a_broken_source_did_not_hand_over_is_stored_for_the_next_one() {
    let (ship, store) = Ship::launched().await;
    let name = |name| SourceName::new(name).unwrap();
    for stop_after in 0..40u64 {
        let repository = ship.append(&store, &Arc::default()).await.unwrap();
        let mut writer = repository.begin(ship.ground(), ship.monitor(), 1).await.unwrap();
        // New bytes every time, the same in both sources.
        let entries = |n| parcel(&format!("{n}"), noise(500_000, 1000 * stop_after + n));
        let cargo = Cargo::of("second", (0..8).map(entries).collect());
        let (sink, stream) = channel(STREAM_DEPTH);
        let mut first = Box::pin(Box::new(cargo.clone()).read(sink, None).fuse());
        let broken = name("first");
        let mut taking = Box::pin(writer.write_source(&broken, "test", stream).fuse());
        // The first source is dropped somewhere in the middle, as a cancelled one is.
        for _ in 0..stop_after * 4 {
            let _ = futures_util::poll!(&mut first);
            let _ = futures_util::poll!(&mut taking);
            tokio::task::spawn_blocking(|| ()).await.unwrap();
        }
        drop((first, taking));
        let (sink, stream) = channel(STREAM_DEPTH);
        let source = Box::new(cargo.clone());
        let (read, written) = in_time(async {
            tokio::join!(source.read(sink, None), writer.write_source(&cargo.name, "t", stream))
        })
        .await;
        settle(read, written).unwrap();
        let committed = writer.commit(Label::default(), Vec::new()).await.unwrap();
        ship.assert_holds(&store, &committed.id, &cargo).await;
    }
}

#[tokio::test]
async fn a_full_store_is_the_cause_that_is_told_and_older_snapshots_are_not_harmed() {
    let (ship, store) = Ship::launched().await;
    let old = Cargo::of("minio", vec![parcel("a", noise(300_000, 1))]);
    let first = ship.backup(&store, &old).await.unwrap();
    let faulty = FaultStore::new(store.clone());
    let new = Cargo::of("minio", (0..30).map(|n| parcel(&format!("{n}"), noise(300_000, 50 + n))).collect());
    let known: Arc<MemoryIndex> = Arc::default();
    ship.append(&faulty, &known).await.unwrap();
    faulty.die_at(Which::Writes, 3, Fault::Full);
    let failure =
        in_time(ship.backup_knowing(&faulty, &known, &[new.clone(), old.clone()])).await.unwrap_err();
    // Every read failed as well once the store was dead; the first cause is the one that counts.
    assert_eq!(failure.exit(), ExitCode::StoreDown);
    assert!(failure.to_string().contains("no space left for `packs/"), "{:?}", failure.chain());
    ship.assert_holds(&store, &first.id, &old).await;
    assert_eq!(ship.listed(&store).await, [first.id]);
    let second = ship.backup(&store, &new).await.unwrap();
    ship.assert_holds(&store, &second.id, &new).await;
}

#[tokio::test]
async fn a_stopped_packer_tells_each_source_why() {
    let (ship, store) = Ship::launched().await;
    let faulty = FaultStore::new(store);
    let repository = ship.append(&faulty, &Arc::default()).await.unwrap();
    let mut writer = repository.begin(ship.ground(), ship.monitor(), 1).await.unwrap();
    faulty.fail_at(Which::Writes, 1, Fault::Full);
    for round in 0..2 {
        let entries = (0..30).map(|n| parcel(&format!("{n}"), noise(100_000, 100 * round + n)));
        let cargo = Cargo::of("minio", entries.collect());
        let (sink, stream) = channel(STREAM_DEPTH);
        let source = Box::new(cargo.clone());
        let (read, written) = in_time(async {
            tokio::join!(source.read(sink, None), writer.write_source(&cargo.name, "t", stream))
        })
        .await;
        let error = settle(read, written).unwrap_err();
        assert!(error.to_string().contains("no space left"), "{error}");
    }
    let failure = in_time(writer.commit(Label::default(), Vec::new())).await.unwrap_err();
    assert!(failure.to_string().contains("no space left"), "{failure}");
}

#[tokio::test]
async fn a_target_hears_what_the_backup_could_not_read_before_it_changes_anything() {
    let (ship, store) = Ship::launched().await;
    let mut cargo = Cargo::of("minio", vec![parcel("im/a", "here")]);
    cargo.problems = vec![Problem { what: "im/precious".into(), why: "access denied".into() }];
    let id = ship.backup(&store, &cargo).await.unwrap().id;
    let snapshot = ship.reader(&store).await.unwrap().snapshot(&id).await.unwrap();
    let monitor = NoMonitor::shared();
    let only = Selection::all();
    let (sink, mut stream) = channel(STREAM_DEPTH);
    let read = snapshot.read_source(&cargo.name, &only, sink, &monitor);
    // Dropped, the first body ends the reading: what was heard until then is asked.
    let take = async {
        let first = stream.next().await.unwrap().expect("an entry");
        let heard = stream.problems().to_vec();
        drop(first);
        heard
    };
    let (_, heard) = in_time(async { tokio::join!(read, take) }).await;
    assert_eq!(heard, cargo.problems);
}

#[tokio::test]
async fn what_the_backup_could_not_read_at_all_is_not_announced() {
    let (ship, store) = Ship::launched().await;
    let repository = ship.append(&store, &Arc::default()).await.unwrap();
    let mut writer = repository.begin(ship.ground(), ship.monitor(), 1).await.unwrap();
    let cargo = Cargo::of("mysql", vec![parcel("im/users", "here")]);
    let here = cargo.inventory().remove(0);
    let problem = |what: &str| Problem { what: what.into(), why: "access denied".into() };
    let (sink, stream) = channel(STREAM_DEPTH);
    let send = async {
        let inventory = [here.as_str(), "empty", "unread"].map(str::to_owned);
        sink.announce(inventory.to_vec()).await?;
        let mut body = sink.begin(cargo.entries[0].meta.clone()).await?;
        body.write("here".into()).await?;
        body.finish().await?;
        sink.report(problem("unread")).await?;
        sink.report(problem(&here)).await?;
        for item in &inventory {
            sink.complete(item);
        }
        sink.finish(cargo.point.clone()).await
    };
    let (sent, written) =
        in_time(async { tokio::join!(send, writer.write_source(&cargo.name, "test", stream)) }).await;
    settle(sent, written).unwrap();
    let id = writer.commit(Label::default(), Vec::new()).await.unwrap().id;
    let snapshot = ship.reader(&store).await.unwrap().snapshot(&id).await.unwrap();
    let reading = crate::fixture::read(snapshot, &cargo.name, Selection::all()).await.unwrap();
    assert_eq!(reading.inventory, [here, "empty".to_owned()], "what is there in part, or empty, is");
}
