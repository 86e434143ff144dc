//! A season of a repository and its copy: two writers, a sync, a prune of each place by the rules of a real policy,
//! requests that fail, processes that die or are suspended for days, hosts that lose their memory.
//!
//! A model knows what each snapshot holds and which ones somebody has asked to forget. Whatever happens, a snapshot
//! that was reported and that nobody asked to forget restores byte for byte, from both places; nothing that is listed
//! fails to restore; nobody ever cries theft; and when the trouble is over, all garbage goes.
//!
//! The seed is printed and can be given as `LIFEBOAT_SEED`. It decides the days and the faults; keys and nonces of
//! `age` are random all the same, so requests that run beside each other may come in another order.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration as Wait,
};

use chrono::{DateTime, Duration, Utc};
use lifeboat::{
    clock::{Clock, Dice, Ground, StoppedClock},
    crypt::{SigningKey, Trust},
    error::{ExitCode, Failure, Result},
    event::{Event, Recorder, SharedMonitor},
    flow::{Problem, STREAM_DEPTH, Source, channel, settle},
    jobs::prune::{self, Asked},
    names::{Key, SnapshotId},
    repo::{
        Append, CopySettings, Label, Maintain, MemoryIndex, MemoryWitness, Patience, Place, Read, Repository,
        Terms, VerifyOptions,
        format::{Refs, layout},
    },
    retention::Rules,
    store::{Fault, FaultStore, Get, MemoryStore, PausingStore, Store, Which},
};

use crate::fixture::{self, Cargo, Parcel, Ship, noise, parcel};

const DAYS: u32 = 90;
/// The seed of the run that everybody makes.
const SEED: u64 = 20_251_010;
/// A pack is closed early, so that packs are shared and outlive each other.
const PACK_BYTES: u64 = 16 << 10;
const QUICK: Patience = Patience { interval: Wait::ZERO, looks: 2 };
/// Days that the copy keeps what the original forgot.
const DELAY_DAYS: u32 = 14;

/// A store as one process sees it: it may fail, die and be suspended.
type Link = PausingStore<FaultStore<MemoryStore>>;

/// Numbers that a seed decides.
#[derive(Clone)]
struct Chance(Arc<Mutex<u64>>);

impl Chance {
    fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(seed)))
    }

    fn next(&self) -> u64 {
        let mut state = self.0.lock().unwrap();
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = *state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn index(&self, len: usize) -> usize {
        usize::try_from(self.below(len as u64)).unwrap()
    }

    /// Returns true so many times of a hundred.
    fn percent(&self, of_hundred: u64) -> bool {
        self.below(100) < of_hundred
    }
}

impl Dice for Chance {
    fn fill(&self, bytes: &mut [u8]) {
        for byte in bytes {
            *byte = self.next().to_le_bytes()[0];
        }
    }
}

/// The two places.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Where {
    Original,
    Copy,
}

/// What is known from outside.
#[derive(Default)]
struct Model {
    /// What each snapshot holds that anybody ever began.
    begun: BTreeMap<SnapshotId, Cargo>,
    /// Snapshots of which somebody was told that they exist, in each place.
    reported: BTreeMap<Where, BTreeSet<SnapshotId>>,
    /// Snapshots that somebody has planned to forget, in each place; the plan may have failed.
    asked_to_go: BTreeMap<Where, BTreeSet<SnapshotId>>,
    /// How runs ended.
    ended: BTreeMap<String, u64>,
}

impl Model {
    /// Returns the snapshots that must be there.
    fn must_be(&self, place: Where) -> BTreeSet<SnapshotId> {
        let of = |map: &BTreeMap<Where, BTreeSet<SnapshotId>>| map.get(&place).cloned().unwrap_or_default();
        &of(&self.reported) - &of(&self.asked_to_go)
    }
}

/// A host that makes snapshots: its key, its memory, and the files it protects.
struct Writer {
    name: &'static str,
    signing: SigningKey,
    known: Mutex<Arc<MemoryIndex>>,
    witness: Mutex<Arc<MemoryWitness>>,
    /// The version of each file.
    files: Mutex<Vec<u64>>,
}

struct World {
    ship: Ship,
    clock: StoppedClock,
    chance: Chance,
    heard: Arc<Recorder>,
    writers: [Writer; 2],
    stores: [MemoryStore; 2],
    /// What the hosts that prune and verify have seen of each place.
    witnesses: [Arc<MemoryWitness>; 2],
    /// What readers know of the chunks of each place.
    indexes: [Arc<MemoryIndex>; 2],
    model: Mutex<Model>,
    /// Requests of a thousand that fail, while there is trouble.
    per_mille: u16,
}

/// What a process is about to do.
type Work = Pin<Box<dyn Future<Output = ()>>>;

/// A process that is suspended.
struct Sleeper {
    job: Job,
    until: DateTime<Utc>,
    links: [Link; 2],
    task: Work,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Job {
    Backup(usize),
    Sync,
    Prune(Where),
}

fn index(place: Where) -> usize {
    usize::from(place == Where::Copy)
}

impl World {
    async fn new(seed: u64) -> Arc<Self> {
        let (ship, heard) = (Ship::new(), Arc::<Recorder>::default());
        let clock = ship.clock.clone();
        let writer = |name, signing| Writer {
            name,
            signing,
            known: Mutex::default(),
            witness: Mutex::default(),
            files: Mutex::new((0..6).collect()),
        };
        let writers = [writer("a", ship.signing()), writer("b", SigningKey::generate().unwrap())];
        let stores = [(); 2].map(|()| MemoryStore::with_clock(Arc::new(clock.clone())));
        ship.create(&stores[0]).await;
        ship.set_pack_size(&stores[0], PACK_BYTES).await;
        Arc::new(Self {
            ship,
            clock,
            chance: Chance::new(seed),
            heard,
            writers,
            stores,
            witnesses: Default::default(),
            indexes: Default::default(),
            model: Mutex::default(),
            per_mille: 2,
        })
    }

    fn model(&self) -> MutexGuard<'_, Model> {
        self.model.lock().unwrap()
    }

    fn ground(&self) -> Ground {
        Ground { clock: Arc::new(self.clock.clone()), dice: Arc::new(self.chance.clone()) }
    }

    fn monitor(&self) -> SharedMonitor {
        self.heard.clone()
    }

    fn trust(&self) -> Trust {
        let signers = self.writers.each_ref().map(|writer| writer.signing.public());
        Trust::parse(&signers, &[], &[]).unwrap()
    }

    fn place<S: Store + Clone + 'static>(
        &self,
        store: &S,
        known: &Arc<MemoryIndex>,
        witness: &Arc<MemoryWitness>,
    ) -> Place {
        Place { trust: self.trust(), witness: witness.clone(), ..self.ship.place(store, known) }
    }

    /// Returns the files of a writer as they are today, some of them changed; now and then an old version is back.
    fn cargo(&self, writer: &Writer) -> Cargo {
        let mut files = writer.files.lock().unwrap();
        for version in files.iter_mut().filter(|_| self.chance.percent(25)) {
            *version = self.chance.below(60);
        }
        let content = |(n, version): (usize, &u64)| -> Parcel {
            let seed = version * 10 + n as u64;
            let mut file = parcel(&format!("{n}"), noise(2_000 + 997 * (seed % 7) as usize, seed));
            file.trailer.insert("version".to_owned(), seed.into());
            file
        };
        let mut cargo = Cargo::of(writer.name, files.iter().enumerate().map(content).collect()).reusing();
        if self.chance.percent(4) {
            cargo.problems.push(Problem { what: "6".into(), why: "it could not be read".into() });
        }
        cargo
    }

    async fn backup(&self, n: usize, link: &Link) -> Result<()> {
        let writer = &self.writers[n];
        let (known, witness) = (writer.known.lock().unwrap().clone(), writer.witness.lock().unwrap().clone());
        let place = self.place(link, &known, &witness);
        let signing = clone_of(&writer.signing);
        let put = Arc::new(link.clone());
        let repository: Repository<Append> =
            Repository::append(place, put, self.ship.index_key(), signing, &self.monitor())
                .await?
                .with_patience(QUICK);
        let mut snapshot = repository.begin(self.ground(), self.monitor(), 1).await?;
        let cargo = self.cargo(writer);
        self.model().begun.insert(snapshot.id().clone(), cargo.clone());
        let previous = repository.previous(&cargo.name).await?;
        let (sink, stream) = channel(STREAM_DEPTH);
        let read = Box::new(cargo.clone()).read(sink, previous);
        let (read, written) = tokio::join!(read, snapshot.write_source(&cargo.name, "test", stream));
        settle(read, written).map_err(|error| error.about(&cargo.name))?;
        let pin = self.chance.percent(2).then(|| "before a release".to_owned());
        let label = Label { stack: "sim".into(), host: writer.name.into(), pin, ..Label::default() };
        let committed = snapshot.commit(label, Vec::new()).await?;
        self.model().reported.entry(Where::Original).or_default().insert(committed.id);
        repository.retire(&committed.thin)
    }

    async fn sync(&self, from: &Link, to: &Link) -> Result<()> {
        let place = |link, n: usize| self.place(link, &Arc::default(), &self.witnesses[n]);
        let original = Repository::clear(place(from, 0)).await?.explaining(self.ship.signing());
        let put = Arc::new(to.clone());
        let (ground, monitor) = (self.ground(), self.monitor());
        let settings = CopySettings { patience: QUICK, ..CopySettings::default() };
        let report = original.copy_to(place(to, 1), put, settings, &ground, &monitor).await?;
        assert_eq!(report.damaged, [], "nothing here is ever damaged");
        self.model().reported.entry(Where::Copy).or_default().extend(report.copied);
        Ok(())
    }

    async fn maintain(&self, place: Where, link: &Link) -> Result<Repository<Maintain>> {
        let witness = &self.witnesses[index(place)];
        let (put, delete) = (Arc::new(link.clone()), Arc::new(link.clone()));
        // A host without the index key prunes as well.
        let key = self.chance.percent(80).then(|| self.ship.index_key());
        let at = self.place(link, &self.indexes[index(place)], witness);
        Repository::maintain(at, put, delete, self.ship.signing(), key, &self.monitor()).await
    }

    async fn prune(&self, place: Where, link: &Link, keeps_all: bool) -> Result<()> {
        let repository = self.maintain(place, link).await?;
        let asked = asked(place, keeps_all);
        let planned = prune::plan(&repository, &asked, &self.ground(), &self.monitor()).await?;
        let remove: Vec<SnapshotId> = planned.decided.remove.iter().map(|one| one.id.clone()).collect();
        let count = remove.len();
        self.model().asked_to_go.entry(place).or_default().extend(remove);
        prune::apply(&repository, planned, Some(count), &self.ground(), &self.monitor()).await?;
        Ok(())
    }

    /// Runs a job to its end and takes note how it ended.
    async fn run(self: Arc<Self>, job: Job, links: [Link; 2], keeps_all: bool) {
        let [original, copy] = &links;
        let ended = match job {
            Job::Backup(n) => self.backup(n, original).await,
            Job::Sync => self.sync(original, copy).await,
            Job::Prune(Where::Original) => self.prune(Where::Original, original, keeps_all).await,
            Job::Prune(Where::Copy) => self.prune(Where::Copy, copy, keeps_all).await,
        };
        let word = match &ended {
            Ok(()) => "ok".to_owned(),
            Err(failure) => {
                assert_ne!(failure.exit(), ExitCode::Tampering, "{job:?}: {:?}", failure.chain());
                assert_ne!(failure.exit(), ExitCode::Damage, "{job:?}: {:?}", failure.chain());
                told(failure)
            }
        };
        *self.model().ended.entry(format!("{job:?}: {word}")).or_default() += 1;
    }

    /// Returns links of a new process: most see some requests fail, some die at one.
    fn links(&self) -> [Link; 2] {
        self.stores.each_ref().map(|store| {
            let store = FaultStore::new(store.clone());
            if self.chance.percent(5) {
                let fault = if self.chance.percent(50) { Fault::Before } else { Fault::After };
                store.die_at(Which::All, 1 + self.chance.below(60), fault);
            } else {
                store.random(self.chance.next(), self.per_mille);
            }
            PausingStore::new(store)
        })
    }

    /// Asserts that what must be there is, and restores some of it, or all.
    async fn check(&self, place: Where, some: Option<usize>) {
        let store = &self.stores[index(place)];
        if store.size(&layout::config()).await.unwrap().is_none() {
            assert!(self.model().must_be(place).is_empty());
            return;
        }
        let (known, witness) = (&self.indexes[index(place)], &self.witnesses[index(place)]);
        let place_of = self.place(store, known, witness);
        let reader: Repository<Read> =
            Repository::read(place_of, self.ship.identities(), &self.monitor()).await.unwrap();
        let listed = reader.refs().await.unwrap_or_else(|failure| panic!("{place:?}: {:?}", failure.chain()));
        let listed: Vec<SnapshotId> = listed.into_iter().map(|refs| refs.snapshot).collect();
        for id in self.model().must_be(place) {
            assert!(listed.contains(&id), "{place:?} has lost snapshot {id}");
        }
        let count = some.unwrap_or(listed.len()).min(listed.len());
        let first = self.chance.index(listed.len().max(1));
        for n in 0..count {
            // The neighbours of a random one; all of them when all are wanted.
            let id = &listed[(first + n) % listed.len()];
            let cargo = self.model().begun[id].clone();
            let snapshot = reader.snapshot(id).await.unwrap();
            let read = fixture::read(snapshot, &cargo.name, lifeboat::flow::Selection::all()).await;
            let read = read.unwrap_or_else(|failure| panic!("{place:?}: {id}: {:?}", failure.chain()));
            fixture::assert_same(&cargo.reading().await, &read);
        }
    }

    /// Verifies a place to the last byte.
    async fn verify(&self, place: Where) {
        let store = &self.stores[index(place)];
        if store.size(&layout::config()).await.unwrap().is_none() {
            return;
        }
        let place_of = self.place(store, &Arc::default(), &self.witnesses[index(place)]);
        let reader: Repository<Read> =
            Repository::read(place_of, self.ship.identities(), &self.monitor()).await.unwrap();
        let options = VerifyOptions { read_percent: 100.0 };
        let report = reader.verify(options, &self.ground(), &self.monitor()).await.unwrap();
        assert_eq!(report.damage, [], "{place:?} on {}", self.clock.now());
    }

    /// Ends sweeps whose run is dead, as an operator does who knows that it is.
    async fn close_dead(&self, place: Where) {
        let link = PausingStore::new(FaultStore::new(self.stores[index(place)].clone()));
        let Ok(repository) = self.maintain(place, &link).await else { return };
        let asked = asked(place, true);
        let planned = prune::plan(&repository, &asked, &self.ground(), &self.monitor()).await.unwrap();
        for generation in planned.plan.open {
            repository.close(generation, &self.ground()).await.unwrap();
        }
    }

    fn forget_memory(&self) {
        for writer in &self.writers {
            if self.chance.percent(4) {
                *writer.known.lock().unwrap() = Arc::default();
                *writer.witness.lock().unwrap() = Arc::default();
            }
        }
    }

    fn assert_no_alarm(&self) {
        let alarms: Vec<Event> = self
            .heard
            .events()
            .into_iter()
            .filter(|event| matches!(event, Event::Tampering { .. }))
            .collect();
        assert_eq!(alarms, []);
    }
}

fn asked(place: Where, keeps_all: bool) -> Asked {
    let rules = Rules { daily: Some(7), weekly: Some(4), monthly: Some(3), ..Rules::default() };
    let delay_days = (place == Where::Copy).then_some(DELAY_DAYS);
    Asked {
        rules: if keeps_all { Rules::default() } else { rules },
        zone: chrono_tz::Asia::Shanghai,
        forget: BTreeSet::new(),
        delay_days,
        sharded: false,
        revoked: BTreeSet::new(),
        terms: Terms::default(),
    }
}

/// Returns how a failure is told, without names.
fn told(failure: &Failure) -> String {
    let what = failure.to_string();
    what.split('`').step_by(2).collect::<Vec<_>>().join("…")
}

fn clone_of(key: &SigningKey) -> SigningKey {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key");
    std::fs::write(&path, key.to_text().unwrap()).unwrap();
    SigningKey::from_file(&path).unwrap()
}

/// A day's work, each at its hour of the day.
const DAY: [(i64, Job); 5] = [
    (120, Job::Backup(0)),
    (150, Job::Backup(1)),
    (240, Job::Sync),
    (270, Job::Prune(Where::Original)),
    (330, Job::Prune(Where::Copy)),
];

struct Season {
    world: Arc<World>,
    sleepers: Vec<Sleeper>,
}

impl Season {
    /// Starts a job; it may be suspended somewhere for hours or days, while others go on.
    async fn start(&mut self, job: Job, keeps_all: bool) {
        // One host runs one backup at a time: its lock sees to that, also while it is suspended.
        if matches!(job, Job::Backup(_)) && self.sleepers.iter().any(|sleeper| sleeper.job == job) {
            return;
        }
        let chance = &self.world.chance;
        let links = self.world.links();
        let hours = chance.percent(6).then(|| 1 + chance.below(9 * 24));
        if hours.is_some() {
            links[chance.index(2)].pause_at(Which::All, 1 + chance.below(60));
        }
        let mut task: Work = Box::pin(self.world.clone().run(job, links.clone(), keeps_all));
        tokio::select! {
            biased;
            () = links[0].wait_until_paused() => {}
            () = links[1].wait_until_paused() => {}
            () = &mut task => return,
        }
        let until = self.world.clock.now() + Duration::hours(hours.unwrap_or(1).cast_signed());
        self.sleepers.push(Sleeper { job, until, links, task });
    }

    /// Lets those go on whose time has come, or all.
    async fn wake(&mut self, all: bool) {
        let now = self.world.clock.now();
        let (awake, asleep) = std::mem::take(&mut self.sleepers)
            .into_iter()
            .partition::<Vec<_>, _>(|sleeper| all || sleeper.until <= now);
        self.sleepers = asleep;
        for Sleeper { links, task, .. } in awake {
            links.iter().for_each(PausingStore::resume);
            task.await;
        }
    }

    async fn day(&mut self) {
        let midnight = self.world.clock.now();
        for (minutes, job) in DAY {
            let late = Duration::minutes(self.world.chance.below(20).cast_signed());
            let at = midnight + Duration::minutes(minutes) + late;
            self.world.clock.advance(at - self.world.clock.now());
            self.wake(false).await;
            self.start(job, false).await;
        }
        for place in [Where::Original, Where::Copy] {
            self.world.check(place, Some(1)).await;
            let sleeps = self.sleepers.iter().any(|sleeper| sleeper.job == Job::Prune(place));
            if !sleeps && self.world.chance.percent(20) {
                self.world.close_dead(place).await;
            }
        }
        self.world.forget_memory();
        self.world.clock.advance(midnight + Duration::days(1) - self.world.clock.now());
    }

    /// Ends all trouble and lets everything run until nothing is left to be removed.
    async fn calm(&mut self) {
        self.wake(true).await;
        for _ in 0..5 {
            self.world.clock.advance(Duration::hours(80));
            for place in [Where::Original, Where::Copy] {
                self.world.close_dead(place).await;
            }
            for (_, job) in DAY {
                let links = self.world.stores.each_ref();
                let links = links.map(|store| PausingStore::new(FaultStore::new(store.clone())));
                self.world.clock.advance(Duration::minutes(10));
                self.world.clone().run(job, links, true).await;
            }
        }
    }
}

/// Asserts that a place holds what its snapshots need and nothing else, but for marks of the last days.
fn assert_nothing_is_left(world: &World, place: Where) {
    let store = &world.stores[index(place)];
    let mut expected: BTreeSet<Key> = BTreeSet::new();
    let dump = store.dump();
    for (key, bytes) in &dump {
        let Some((id, revision)) = layout::refs_of(key) else { continue };
        let refs: Refs = serde_json::from_slice(bytes).unwrap();
        let key = layout::refs(&id, revision);
        expected.extend([layout::signature(&key), key, layout::manifest(&id)]);
        expected.extend(refs.packs.into_keys().map(layout::pack));
    }
    let left = dump.keys().filter(|key| {
        let is_kept = |prefix: &str| key.as_str().starts_with(prefix);
        let of_snapshots = [layout::PACKS, layout::MANIFESTS, layout::REFS].into_iter().any(is_kept);
        of_snapshots && !expected.contains(*key)
    });
    assert_eq!(left.collect::<Vec<_>>(), Vec::<&Key>::new(), "{place:?}");
    assert!(expected.iter().all(|key| dump.contains_key(key)), "{place:?}");
    let sessions = dump.keys().filter(|key| key.as_str().starts_with("sessions/")).count();
    // The signature of each list stays, so that no number is given twice.
    let is_mark = |key: &&Key| key.as_str().starts_with("prune/") && layout::signed_by(key).is_none();
    let prune = dump.keys().filter(is_mark).count();
    let indexes = dump.keys().filter(|key| key.as_str().starts_with(layout::INDEX)).count();
    println!("{place:?}: {sessions} marks of sessions, {prune} of prune, {indexes} of indexes");
    assert!(sessions < 40 && prune < 12, "{place:?}: {sessions} marks of sessions, {prune} of prune");
}

async fn season(seed: u64, days: u32) {
    println!("LIFEBOAT_SEED={seed}");
    let world = World::new(seed).await;
    let mut season = Season { world: world.clone(), sleepers: Vec::new() };
    for day in 0..days {
        season.day().await;
        if day % 30 == 29 {
            world.verify(Where::Original).await;
            world.verify(Where::Copy).await;
        }
    }
    season.calm().await;
    for (what, times) in &world.model().ended {
        println!("{times:>5} × {what}");
    }
    for place in [Where::Original, Where::Copy] {
        world.check(place, None).await;
        world.verify(place).await;
        assert_nothing_is_left(&world, place);
    }
    world.assert_no_alarm();
    let model = world.model();
    let reported = model.reported[&Where::Original].len();
    assert!(
        reported > days as usize / 2,
        "{reported} snapshots in {days} days: too much trouble to learn from"
    );
    // A sync that failed has copied what it has copied, so the copy itself is asked.
    let copied = world.stores[index(Where::Copy)].dump();
    let forgotten = model.asked_to_go.get(&Where::Copy).cloned().unwrap_or_default();
    for id in model.must_be(Where::Original) {
        let is_there = copied.contains_key(&layout::signature(&layout::refs(&id, 0)));
        assert!(is_there || forgotten.contains(&id), "{id} was never copied, though the trouble is over");
    }
}

/// Returns the seed that was asked for.
fn wanted_seed() -> Option<u64> {
    std::env::var("LIFEBOAT_SEED").ok().map(|text| text.parse().unwrap())
}

#[tokio::test]
async fn nothing_that_was_reported_is_lost_in_ninety_days() {
    season(wanted_seed().unwrap_or(SEED), DAYS).await;
}

#[tokio::test]
#[ignore = "takes minutes: seasons of seeds that nobody has tried"]
async fn nothing_that_was_reported_is_lost_in_many_seasons() {
    let first = wanted_seed().unwrap_or_else(|| {
        let mut bytes = [0; 8];
        lifeboat::clock::System.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    });
    for n in 0..20 {
        season(first.wrapping_add(n), DAYS).await;
    }
}
