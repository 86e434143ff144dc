//! A terabyte's worth of small facts: what prune reads of a large repository, and how long the catalog of ten million
//! chunks takes.
//!
//! What can be counted is asserted on a small scale. The figures of the large one are printed by the tests that are
//! left out by default: `cargo test --release --test scale -- --ignored --nocapture`.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::Arc,
    time::Instant,
};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Duration, Utc};
use lifeboat::{
    catalog::{Catalog, ChunkRow, FrameRow, PackRow, TrustedPacks},
    clock::{Ground, StoppedClock, System},
    crypt::{SigningKey, Trust},
    event::NoMonitor,
    names::{ChunkId, Key, PackId, SnapshotId},
    repo::{
        self, MemoryIndex, MemoryWitness, NewRepository, PackState, Place, Repository, Terms,
        format::{FORMAT, Refs, Status, layout},
    },
    store::{CountingStore, Get, Listed, MemoryStore, StoreError, Verb},
};
use sha2::{Digest, Sha256};

/// A store of many snapshots that makes their refs when they are asked for.
#[derive(Clone)]
struct Large {
    small: MemoryStore,
    refs: Arc<Vec<Refs>>,
    packs: Arc<BTreeMap<PackId, u64>>,
    at: DateTime<Utc>,
}

impl Large {
    fn bytes(&self, n: usize) -> Bytes {
        bytes_of(&self.refs[n], &self.packs)
    }
}

fn bytes_of(refs: &Refs, packs: &BTreeMap<PackId, u64>) -> Bytes {
    serde_json::to_vec(&Refs { packs: packs.clone(), ..refs.clone() }).unwrap().into()
}

fn listed(key: Key, size_bytes: u64, at: DateTime<Utc>) -> Listed {
    Listed { key, size_bytes, modified: Some(at) }
}

#[async_trait]
impl Get for Large {
    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Bytes, StoreError> {
        let n = layout::refs_of(key).and_then(|(id, _)| self.refs.iter().position(|one| one.snapshot == id));
        match n {
            Some(n) => Ok(self.bytes(n)),
            None => self.small.get(key, range).await,
        }
    }

    async fn size(&self, key: &Key) -> Result<Option<u64>, StoreError> {
        self.small.size(key).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Listed>, StoreError> {
        let mut all = self.small.list(prefix).await?;
        if prefix == layout::PACKS {
            all.extend(self.packs.iter().map(|(pack, size)| listed(layout::pack(*pack), *size, self.at)));
        }
        if prefix == layout::REFS {
            all.extend(self.refs.iter().map(|one| listed(layout::refs(&one.snapshot, 0), 1, self.at)));
        }
        all.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(all)
    }
}

fn pack(n: u64) -> PackId {
    PackId(Sha256::digest(n.to_le_bytes()).into())
}

/// Makes a repository of so many snapshots that need each of so many packs; one pack is needed by nobody.
async fn large(snapshots: u32, packs: u64) -> (Large, SigningKey, Trust, Ground) {
    let signing = SigningKey::generate().unwrap();
    let trust = Trust::parse(&[signing.public()], &[], &[]).unwrap();
    let at: DateTime<Utc> = "2025-10-10T18:00:00Z".parse().unwrap();
    let clock = StoppedClock::at(at);
    let ground = Ground { clock: Arc::new(clock.clone()), dice: Arc::new(System) };
    let small = MemoryStore::with_clock(Arc::new(clock.clone()));
    let dir = tempfile::tempdir().unwrap();
    let made = lifeboat::crypt::make_keys(dir.path(), "for a test").unwrap();
    let new = NewRepository {
        data_recipients: vec![made.recipient.clone()],
        index_recipients: vec![made.index_recipient],
        signing: &signing,
        ground: &ground,
    };
    let config = repo::create(&small, &small, new).await.unwrap();
    let packs: BTreeMap<PackId, u64> = (0..packs).map(|n| (pack(n), 64 << 20)).collect();
    let (mut all, mut previous) = (Vec::new(), None);
    for n in 0..snapshots {
        clock.advance(Duration::hours(1));
        let began = at + Duration::hours(i64::from(n) + 1);
        let refs = Refs {
            format: FORMAT,
            repository: config.repository.clone(),
            snapshot: SnapshotId::at(began, 7),
            revision: 0,
            seq: u64::from(n) + 1,
            previous,
            status: Status::Complete,
            began,
            manifest: PackId([1; 32]),
            manifest_size_bytes: 1,
            packs: BTreeMap::new(),
            pinned: Some(false),
            config: 0,
            chosen: false,
        };
        let bytes = bytes_of(&refs, &packs);
        previous = Some(PackId(Sha256::digest(&bytes).into()));
        let signature = signing.sign(&bytes, "lifeboat refs").unwrap();
        small.overwrite(&layout::signature(&layout::refs(&refs.snapshot, 0)), signature);
        small.overwrite(&layout::manifest(&refs.snapshot), "sealed");
        all.push(refs);
    }
    small.overwrite(&layout::pack(pack(u64::MAX)), "needed by nobody");
    (Large { small, refs: Arc::new(all), packs: Arc::new(packs), at }, signing, trust, ground)
}

/// Makes a plan that forgets the older half, and returns it with the calls that it took.
async fn plan(snapshots: u32, packs: u64) -> (repo::PrunePlan, CountingStore<Large>, std::time::Duration) {
    let (store, signing, trust, ground) = large(snapshots, packs).await;
    let remove =
        store.refs.iter().take(snapshots as usize / 2).map(|one| (one.snapshot.clone(), "old".into()));
    let remove: BTreeMap<SnapshotId, String> = remove.collect();
    let (power, get) = (Arc::new(store.small.clone()), CountingStore::new(store));
    let place = Place {
        get: Arc::new(get.clone()),
        trust,
        known: Arc::new(MemoryIndex::default()),
        witness: Arc::new(MemoryWitness::default()),
        shown: "large".to_owned(),
    };
    let monitor = NoMonitor::shared();
    let began = Instant::now();
    let repository =
        Repository::maintain(place, power.clone(), power, signing, None, &monitor).await.unwrap();
    let seen = repository.inspect(&ground, &monitor).await.unwrap();
    seen.check(&BTreeSet::new()).unwrap();
    let plan = repo::plan(&seen, &remove, Terms::default(), ground.clock.now());
    (plan, get, began.elapsed())
}

#[tokio::test]
async fn a_plan_reads_each_commit_once_and_no_pack() {
    let (snapshots, packs) = (40, 300);
    let (plan, store, _) = plan(snapshots, packs).await;
    assert_eq!((plan.remove.len(), plan.condemn.len()), (20, 1));
    assert_eq!(plan.sum(PackState::Live), (packs, packs * (64 << 20)));
    assert_eq!(store.count(Verb::Get, layout::REFS), 2 * snapshots as usize, "refs and signature");
    assert_eq!(store.count(Verb::Get, layout::PACKS) + store.count(Verb::Get, layout::MANIFESTS), 0);
    assert_eq!(store.count(Verb::Size, layout::REFS), 0);
    let lists = store.count(Verb::List, "");
    assert!(lists <= 10, "{lists} listings, whatever the number of snapshots");
}

/// Returns this process's memory now and at its peak, as the kernel tells it.
fn memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let lines = status.lines().filter(|line| line.starts_with("VmRSS") || line.starts_with("VmHWM"));
    lines.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>().join(", ")
}

#[tokio::test]
#[ignore = "takes a minute and a gigabyte; prints figures"]
async fn a_plan_of_a_thousand_snapshots_of_sixteen_thousand_packs() {
    let (plan, store, took) = plan(1000, 16_000).await;
    assert_eq!((plan.remove.len(), plan.condemn.len()), (500, 1));
    println!("inspect and plan, 1,000 snapshots of 16,000 packs: {took:?}, {}", memory());
    println!("{} gets, {} lists", store.count(Verb::Get, ""), store.count(Verb::List, ""));
}

fn chunk(n: u64) -> ChunkId {
    ChunkId(Sha256::digest(n.to_be_bytes()).into())
}

/// Tells the catalog of packs of 64 chunks in index objects of 16 packs, as a backup of large files puts them.
fn fill(catalog: &Catalog, chunks: u64) {
    const CHUNKS: u64 = 64;
    const PACKS: u64 = 16;
    for object in 0..chunks / CHUNKS / PACKS {
        let pack_of = |number: u64| PackRow {
            id: pack(number),
            size_bytes: 64 << 20,
            payload_offset: 300,
            kind: "data".to_owned(),
            writer: "RW1".to_owned(),
            config: 0,
            frames: (0..CHUNKS)
                .map(|n| FrameRow { offset: n << 20, size_bytes: 1 << 20, plain_bytes: 1 << 20 })
                .collect(),
            chunks: (0..CHUNKS)
                .map(|n| ChunkRow {
                    id: chunk(number * CHUNKS + n),
                    frame: u32::try_from(n).unwrap(),
                    offset: 512,
                    size_bytes: 1 << 20,
                })
                .collect(),
        };
        let rows: Vec<PackRow> = (0..PACKS).map(|n| pack_of(object * PACKS + n)).collect();
        catalog
            .add_packs(&layout::index("20251010T180000Z-7f3a", u32::try_from(object).unwrap()), &rows)
            .unwrap();
    }
}

#[test]
#[ignore = "takes minutes and gigabytes of disk; prints figures"]
fn a_catalog_of_ten_million_chunks() {
    let chunks = std::env::var("LIFEBOAT_CHUNKS").map_or(10_000_000, |text| text.parse().unwrap());
    let dir = tempfile::tempdir_in(std::env::var("CARGO_TARGET_TMPDIR").unwrap_or(".".into())).unwrap();
    let path = dir.path().join("catalog.sqlite");
    let began = Instant::now();
    fill(&Catalog::open(&path).unwrap().0, chunks);
    println!("{chunks} chunks taken in: {:?}, {}", began.elapsed(), memory());
    println!("{} MiB on disk", std::fs::metadata(&path).unwrap().len() >> 20);
    let began = Instant::now();
    let (catalog, _) = Catalog::open(&path).unwrap();
    println!("opened: {:?}", began.elapsed());
    let began = Instant::now();
    let revisions = BTreeSet::from([0]);
    let trusted = TrustedPacks { writer: "RW1", data_revisions: &revisions, meta_revisions: &revisions };
    for n in 0..100_000_u64 {
        // Half of them are there.
        let id = chunk(n.wrapping_mul(7_919) % (chunks * 2));
        let found = catalog.find_chunk(&id, Some("data"), Some(trusted)).unwrap();
        assert!(found.is_none_or(|at| at.chunk.id == id));
    }
    println!("100,000 look-ups: {:?}, {}", began.elapsed(), memory());
    let began = Instant::now();
    let there: BTreeMap<PackId, u64> = (0..chunks / 64).map(|n| (pack(n), 64 << 20)).collect();
    catalog.retain_packs(&there).unwrap();
    println!("compared with a listing: {:?}, {}", began.elapsed(), memory());
}
