//! What the tests stand on: keys, a clock that moves an hour with each backup, a source of named entries, and a host
//! that remembers what it has seen.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Duration, Utc};
use lifeboat::{
    clock::{Ground, StoppedClock, System},
    crypt::{Identities, NewKeys, SigningKey, Trust, files, make_keys},
    error::{Failure, Result},
    event::{NoMonitor, Recorder, SharedMonitor},
    flow::{
        Attrs, Cut, EntryMeta, EntrySink, FlowResult, Piece, Point, Previous, Problem, STREAM_DEPTH,
        Selection, Source, Stage, channel, conformance, fixed_path, settle,
    },
    names::{Key, SnapshotId, SourceName},
    repo::{
        self, Append, Committed, KnownChunks, Label, Lost, Maintain, MemoryIndex, MemoryWitness,
        NewRepository, Patience, Place, Prove, PruneReport, Read, Repository, Salvage, Snapshot, Terms,
        VerifyOptions, VerifyReport,
        format::{Config, layout},
    },
    store::{Delete, Get, MemoryStore, Put, Store},
};
use tempfile::TempDir;

pub use lifeboat::flow::conformance::Reading;

/// Keys and a clock; stores are handed in, so that one pair of keys may look at many.
pub struct Ship {
    pub keys: TempDir,
    pub made: NewKeys,
    pub clock: StoppedClock,
    pub heard: Arc<Recorder>,
    /// What the host has seen of repositories; nothing, unless a test gives it a memory.
    pub witness: Mutex<Option<Arc<MemoryWitness>>>,
}

/// Terms under which nothing waits: every conflict between runs can happen.
pub const AT_ONCE: Terms = Terms { grace: Duration::zero(), session: Duration::zero(), is_copy: false };

/// A pack size at which even small tests fill several.
pub const SMALL_PACKS: u64 = 64 << 10;

impl Ship {
    pub fn new() -> Self {
        let keys = tempfile::tempdir().unwrap();
        let made = make_keys(keys.path(), "for a test").unwrap();
        let clock = StoppedClock::at("2025-10-10T18:00:00Z".parse::<DateTime<Utc>>().unwrap());
        Self { keys, made, clock, heard: Arc::default(), witness: Mutex::default() }
    }

    /// Returns keys and a repository in memory that closes its packs early.
    pub async fn launched() -> (Self, MemoryStore) {
        let (ship, store) = (Self::new(), MemoryStore::new());
        ship.create(&store).await;
        ship.set_pack_size(&store, SMALL_PACKS).await;
        (ship, store)
    }

    /// As [`Self::launched`], with a store that stamps objects with the ship's time.
    pub async fn launched_with_times() -> (Self, MemoryStore) {
        let ship = Self::new();
        let store = MemoryStore::with_clock(Arc::new(ship.clock.clone()));
        ship.create(&store).await;
        ship.set_pack_size(&store, SMALL_PACKS).await;
        (ship, store)
    }

    pub fn signing(&self) -> SigningKey {
        SigningKey::from_file(&self.keys.path().join(files::SIGNING)).unwrap()
    }

    pub fn identities(&self) -> Identities {
        Identities::from_file(&self.keys.path().join(files::IDENTITY)).unwrap()
    }

    pub fn index_key(&self) -> Identities {
        Identities::from_file(&self.keys.path().join(files::INDEX)).unwrap()
    }

    pub fn trust(&self) -> Trust {
        Trust::parse(&[self.made.signer.as_str()], &[], &[]).unwrap()
    }

    /// Lets the host remember from here on what it sees.
    pub fn remember(&self) {
        *self.witness.lock().unwrap() = Some(Arc::default());
    }

    pub fn monitor(&self) -> SharedMonitor {
        self.heard.clone()
    }

    pub fn ground(&self) -> Ground {
        self.clock.advance(Duration::hours(1));
        Ground { clock: Arc::new(self.clock.clone()), dice: Arc::new(System) }
    }

    /// Returns the present without moving the clock.
    pub fn now(&self) -> Ground {
        Ground { clock: Arc::new(self.clock.clone()), dice: Arc::new(System) }
    }

    pub async fn create<S: Store>(&self, store: &S) -> Config {
        let (signing, ground) = (self.signing(), self.ground());
        let new = NewRepository {
            data_recipients: vec![self.made.recipient.clone()],
            index_recipients: vec![self.made.index_recipient.clone()],
            signing: &signing,
            ground: &ground,
        };
        repo::create(store, store, new).await.unwrap()
    }

    /// Signs a config with another pack size.
    pub async fn set_pack_size(&self, store: &MemoryStore, size_bytes: u64) {
        self.change_config(store, |config| config.pack_size_bytes = size_bytes).await;
    }

    /// Signs a config with another size of the largest chunk, before anything is stored.
    pub async fn set_chunk_size(&self, store: &MemoryStore, size_bytes: u32) {
        self.change_config(store, |config| {
            let chunker = &mut config.chunker;
            (chunker.min_bytes, chunker.avg_bytes) = (size_bytes / 4, size_bytes / 2);
            chunker.max_bytes = size_bytes;
        })
        .await;
    }

    pub async fn change_config(&self, store: &MemoryStore, change: impl FnOnce(&mut Config)) {
        let bytes = store.get(&layout::config(), None).await.unwrap();
        let mut config: Config = serde_json::from_slice(&bytes).unwrap();
        change(&mut config);
        let bytes = serde_json::to_vec(&config).unwrap();
        let signature = self.signing().sign(&bytes, "changed by a test").unwrap();
        store.overwrite(&layout::config(), bytes);
        store.overwrite(&layout::signature(&layout::config()), signature);
    }

    pub fn place<S: Store + Clone + 'static>(&self, store: &S, known: &Arc<MemoryIndex>) -> Place {
        Place {
            get: Arc::new(store.clone()),
            trust: self.trust(),
            known: known.clone() as Arc<dyn KnownChunks>,
            witness: self.witness.lock().unwrap().clone().unwrap_or_default(),
            shown: "memory".to_owned(),
        }
    }

    pub async fn append<S: Store + Clone + 'static>(
        &self,
        store: &S,
        known: &Arc<MemoryIndex>,
    ) -> Result<Repository<Append>> {
        let put = Arc::new(store.clone());
        let place = self.place(store, known);
        Repository::append(place, put, self.index_key(), self.signing(), &self.monitor()).await
    }

    pub async fn reader<S: Store + Clone + 'static>(&self, store: &S) -> Result<Repository<Read>> {
        Repository::read(self.place(store, &Arc::default()), self.identities(), &self.monitor()).await
    }

    /// Opens for adding proofs of drills.
    pub async fn prove<S: Store + Clone + 'static>(&self, store: &S) -> Result<Repository<Prove>> {
        Repository::prove(self.place(store, &Arc::default()), Arc::new(store.clone()), self.signing()).await
    }

    /// Opens for removing, with the host's own keys.
    pub async fn maintain<S: Store + Clone + 'static>(&self, store: &S) -> Result<Repository<Maintain>> {
        self.maintain_knowing(store, &Arc::default()).await
    }

    /// Opens for removing with an index that knows something from before.
    pub async fn maintain_knowing<S: Store + Clone + 'static>(
        &self,
        store: &S,
        known: &Arc<MemoryIndex>,
    ) -> Result<Repository<Maintain>> {
        let (put, delete) = (Arc::new(store.clone()), Arc::new(store.clone()));
        let (place, index) = (self.place(store, known), Some(self.index_key()));
        Repository::maintain(place, put, delete, self.signing(), index, &self.monitor()).await
    }

    /// Forgets `remove` and sweeps what is due, as one run of prune does.
    pub async fn prune<S: Store + Clone + 'static>(
        &self,
        store: &S,
        remove: &[&SnapshotId],
        terms: Terms,
    ) -> Result<PruneReport> {
        let repository = self.maintain(store).await?;
        let seen = repository.inspect(&self.now(), &self.monitor()).await?;
        seen.check(&BTreeSet::new())?;
        let remove = remove.iter().map(|id| ((*id).clone(), "a test says so".to_owned())).collect();
        let plan = repo::plan(&seen, &remove, terms, self.now().clock.now());
        repository.apply(plan, &self.now(), &self.monitor()).await
    }

    /// Makes a snapshot of one source, with a local index that begins empty.
    pub async fn backup<S: Store + Clone + 'static>(&self, store: &S, cargo: &Cargo) -> Result<Committed> {
        self.backup_knowing(store, &Arc::default(), std::slice::from_ref(cargo)).await
    }

    /// Makes a snapshot of several sources. What `known` knows from before is used.
    pub async fn backup_knowing<S: Store + Clone + 'static>(
        &self,
        store: &S,
        known: &Arc<MemoryIndex>,
        all: &[Cargo],
    ) -> Result<Committed> {
        let repository = self.append(store, known).await?;
        self.write(&repository, all).await
    }

    /// Makes a snapshot of several sources in a repository that is open.
    pub async fn write(&self, repository: &Repository<Append>, all: &[Cargo]) -> Result<Committed> {
        let label = Label { stack: "im-suite".into(), host: "test".into(), ..Label::default() };
        self.write_labelled(repository, all, label).await
    }

    /// Makes a snapshot of which this is said.
    pub async fn write_labelled(
        &self,
        repository: &Repository<Append>,
        all: &[Cargo],
        label: Label,
    ) -> Result<Committed> {
        let mut writer = repository.begin(self.ground(), self.monitor(), 1).await?;
        for cargo in all {
            let previous = repository.previous(&cargo.name).await?;
            let (sink, stream) = channel(STREAM_DEPTH);
            let source = Box::new(cargo.clone());
            let (read, written) =
                tokio::join!(source.read(sink, previous), writer.write_source(&cargo.name, "test", stream));
            settle(read, written).map_err(|error| error.about(&cargo.name))?;
        }
        writer.commit(label, Vec::new()).await
    }

    /// Reads a whole source of a snapshot back.
    pub async fn read_back<S: Store + Clone + 'static>(
        &self,
        store: &S,
        id: &SnapshotId,
        name: &SourceName,
    ) -> Result<Reading> {
        let snapshot = self.reader(store).await?.snapshot(id).await?;
        read(snapshot, name, Selection::all()).await
    }

    /// Asserts that a snapshot holds just what `cargo` has, in its order.
    pub async fn assert_holds<S: Store + Clone + 'static>(&self, store: &S, id: &SnapshotId, cargo: &Cargo) {
        let want = cargo.reading().await;
        let got = self.read_back(store, id, &cargo.name).await.unwrap_or_else(|failure| {
            panic!("snapshot {id} cannot be read: {:?}", failure.chain());
        });
        assert_same(&want, &got);
        let snapshot = self.reader(store).await.unwrap().snapshot(id).await.unwrap();
        let mut lines = snapshot.entries(snapshot.source(&cargo.name).unwrap());
        for entry in &cargo.entries {
            let line = lines.next().await.unwrap().expect("as many entries as were sent");
            assert_eq!(line.meta.path, entry.meta.path, "the order is kept");
        }
        assert!(lines.next().await.unwrap().is_none());
    }

    pub async fn verify<S: Store + Clone + 'static>(&self, store: &S) -> VerifyReport {
        let reader = self.reader(store).await.unwrap();
        reader.verify(VerifyOptions { read_percent: 100.0 }, &self.now(), &NoMonitor::shared()).await.unwrap()
    }

    pub async fn listed<S: Store + Clone + 'static>(&self, store: &S) -> Vec<SnapshotId> {
        let refs = self.reader(store).await.unwrap().refs().await.unwrap();
        refs.into_iter().map(|refs| refs.snapshot).collect()
    }
}

/// A host: it has the keys of a ship, and remembers its index and what it has seen from run to run.
pub struct Host<'a> {
    pub ship: &'a Ship,
    pub known: Arc<MemoryIndex>,
    pub witness: Arc<MemoryWitness>,
}

/// What people believe of a repository, to be compared with what is there.
#[derive(Clone, Default)]
pub struct Book {
    /// Snapshots that were reported and that nobody wants forgotten: each must be there and whole.
    pub kept: BTreeMap<SnapshotId, Cargo>,
    /// Snapshots that a run was told to forget, and nobody knows whether it did: whole if there.
    pub leaving: BTreeMap<SnapshotId, Cargo>,
    /// What runs that failed were to store: a snapshot that is there and was not reported holds one of these.
    pub tried: Vec<Cargo>,
}

impl<'a> Host<'a> {
    /// Returns a host that has seen nothing yet.
    pub fn new(ship: &'a Ship) -> Self {
        Self { ship, known: Arc::default(), witness: Arc::default() }
    }

    fn place<S: Store + Clone + 'static>(&self, store: &S) -> Place {
        Place { witness: self.witness.clone(), ..self.ship.place(store, &self.known) }
    }

    /// Opens for adding, with little patience.
    pub async fn append<S: Store + Clone + 'static>(&self, store: &S) -> Result<Repository<Append>> {
        let (put, ship) = (Arc::new(store.clone()), self.ship);
        let patience = Patience { interval: std::time::Duration::from_millis(1), looks: 3 };
        let place = self.place(store);
        let repository =
            Repository::append(place, put, ship.index_key(), ship.signing(), &ship.monitor()).await?;
        Ok(repository.with_patience(patience))
    }

    /// Makes a snapshot of one source.
    pub async fn backup<S: Store + Clone + 'static>(&self, store: &S, cargo: &Cargo) -> Result<Committed> {
        let repository = self.append(store).await?;
        self.ship.write(&repository, std::slice::from_ref(cargo)).await
    }

    /// Forgets `remove` and sweeps what is due, as one run of prune does.
    pub async fn prune<S: Store + Clone + 'static>(
        &self,
        store: &S,
        remove: &[SnapshotId],
        terms: Terms,
    ) -> Result<PruneReport> {
        let ship = self.ship;
        let (put, delete): (Arc<dyn Put>, Arc<dyn Delete>) =
            (Arc::new(store.clone()), Arc::new(store.clone()));
        let (place, index) = (self.place(store), Some(ship.index_key()));
        let repository =
            Repository::maintain(place, put, delete, ship.signing(), index, &ship.monitor()).await?;
        let seen = repository.inspect(&ship.now(), &ship.monitor()).await?;
        seen.check(&BTreeSet::new())?;
        let remove = remove.iter().map(|id| (id.clone(), "a test says so".to_owned())).collect();
        let plan = repo::plan(&seen, &remove, terms, ship.now().clock.now());
        repository.apply(plan, &ship.now(), &ship.monitor()).await
    }

    /// Makes a snapshot that must succeed, and writes it down.
    pub async fn must_backup(&self, store: &MemoryStore, cargo: &Cargo, book: &mut Book) -> SnapshotId {
        let made = self.backup(store, cargo).await;
        let id = made.unwrap_or_else(|failure| panic!("a backup failed: {:?}", failure.chain())).id;
        book.kept.insert(id.clone(), cargo.clone());
        id
    }

    /// Runs a prune at once that must succeed; what it forgets is crossed out.
    pub async fn must_prune<S: Store + Clone + 'static>(
        &self,
        store: &S,
        remove: &[SnapshotId],
        book: &mut Book,
    ) -> PruneReport {
        let report = self.prune(store, remove, AT_ONCE).await;
        for id in remove {
            book.kept.remove(id);
            book.leaving.remove(id);
        }
        report.unwrap_or_else(|failure| panic!("a prune failed: {:?}", failure.chain()))
    }

    /// Asserts that what was reported is there, that all that is there is whole, and that nothing looks like damage
    /// or theft to a host that has seen it all.
    pub async fn assert_whole<S: Store + Clone + 'static>(&self, store: &S, book: &Book) {
        let ship = self.ship;
        let reader = Repository::read(self.place(store), ship.identities(), &ship.monitor()).await.unwrap();
        let refs = reader.refs().await.unwrap_or_else(|failure| panic!("{:?}", failure.chain()));
        let listed: BTreeSet<SnapshotId> = refs.iter().map(|refs| refs.snapshot.clone()).collect();
        for id in book.kept.keys() {
            assert!(listed.contains(id), "snapshot {id} was reported and is gone");
        }
        for id in &listed {
            let known = book.kept.get(id).or_else(|| book.leaving.get(id));
            let may_be: Vec<&Cargo> = known.map_or_else(|| book.tried.iter().collect(), |cargo| vec![cargo]);
            let name = &may_be.first().unwrap_or_else(|| panic!("nobody made snapshot {id}")).name;
            let got = read(reader.snapshot(id).await.unwrap(), name, Selection::all()).await;
            let got = got.unwrap_or_else(|failure| panic!("{id} cannot be read: {:?}", failure.chain()));
            let mut fits = false;
            for cargo in may_be {
                let want = cargo.reading().await;
                fits |= want.entries == got.entries && want.inventory == got.inventory;
            }
            assert!(fits, "snapshot {id} holds something else");
        }
        let options = VerifyOptions { read_percent: 100.0 };
        let report = reader.verify(options, &ship.now(), &NoMonitor::shared()).await.unwrap();
        assert_eq!(report.damage, []);
    }

    /// Asserts that nothing lies in the store but what snapshots need, and the few marks that stay for ever.
    pub async fn assert_clean<S: Store + Clone + 'static>(&self, store: &S) {
        let known: Arc<MemoryIndex> = Arc::default();
        let repository = self.ship.append(store, &known).await.unwrap();
        let refs = repository.refs().await.unwrap();
        let needed: BTreeSet<Key> =
            refs.iter().flat_map(|refs| refs.packs.keys().map(|pack| layout::pack(*pack))).collect();
        let told = known.told().unwrap();
        let mut expected: BTreeSet<Key> = needed.clone();
        for refs in &refs {
            let key = layout::refs(&refs.snapshot, refs.revision);
            expected.extend([layout::signature(&key), key, layout::manifest(&refs.snapshot)]);
        }
        for (key, packs) in told {
            if packs.iter().any(|pack| needed.contains(&layout::pack(*pack))) {
                expected.extend([layout::signature(&key), key]);
            }
        }
        let data = ["packs/", "refs/", "manifests/", "index/"];
        let all: BTreeSet<Key> = store.list("").await.unwrap().into_iter().map(|one| one.key).collect();
        let there = all.iter().filter(|key| data.iter().any(|prefix| key.as_str().starts_with(prefix)));
        assert_eq!(expected, there.cloned().collect(), "just what the snapshots need");
        // A session may be of the last backup. A generation may be the newest, or one whose run died in its sweep;
        // of the others the signature of the list stays, so that nobody uses the number again.
        let alive: BTreeSet<&str> = refs.iter().map(|refs| refs.snapshot.as_str()).collect();
        for key in all.iter().filter(|key| key.as_str().starts_with("sessions/")) {
            assert!(alive.iter().any(|id| key.as_str().contains(id)), "`{key}` is of a run that is gone");
        }
        let number_of =
            |key: &Key| key.as_str().strip_prefix("prune/").and_then(|name| name.get(..8)).map(str::to_owned);
        let newest = all.iter().filter_map(number_of).max();
        let step = |number: &str, step: &str| Key::new(&format!("prune/{number}.{step}.json")).unwrap();
        for number in all.iter().filter_map(number_of).filter(|number| Some(number) != newest.as_ref()) {
            let died = all.contains(&step(&number, "open")) && !all.contains(&step(&number, "done"));
            let left: Vec<&Key> = all.iter().filter(|key| number_of(key).as_ref() == Some(&number)).collect();
            let stub = layout::signature(&step(&number, "condemned"));
            assert!(died || left == [&stub], "generation {number} is over and lies there still: {left:?}");
        }
    }
}

/// Asserts that two readings are the same, naming the entry that differs.
pub fn assert_same(want: &Reading, got: &Reading) {
    assert_eq!(want.inventory, got.inventory);
    for (path, seen) in &want.entries {
        assert_eq!(Some(seen), got.entries.get(path), "`{path}`");
    }
    assert_eq!(want.entries.len(), got.entries.len());
    assert_eq!(want.point, got.point);
    assert_eq!(want.problems, got.problems);
}

/// Reads the wanted entries of a snapshot's source.
pub async fn read(snapshot: Snapshot, name: &SourceName, only: Selection) -> Result<Reading> {
    let stored = Stored { snapshot, name: name.clone(), only, salvage: None };
    conformance::read_all(Box::new(stored)).await.map_err(|error| error.about(name))
}

/// Reads what of a snapshot's source is not damaged, and returns what is, too.
pub async fn read_sound(snapshot: Snapshot, name: &SourceName) -> Result<(Reading, Vec<Lost>)> {
    let only = Selection::all();
    let salvage = snapshot.salvage(name, &only, &NoMonitor::shared()).await?;
    let lost = salvage.lost.clone();
    let unread = snapshot.source(name)?.problems.len();
    let stored = Stored { snapshot, name: name.clone(), only, salvage: Some(salvage) };
    let reading = conformance::read_all(Box::new(stored)).await.map_err(|error| error.about(name))?;
    assert_eq!(reading.problems.len(), unread + lost.len(), "a target hears of all that is lost");
    Ok((reading, lost))
}

/// A snapshot's source as a source.
struct Stored {
    snapshot: Snapshot,
    name: SourceName,
    only: Selection,
    salvage: Option<Salvage>,
}

#[async_trait]
impl Source for Stored {
    fn name(&self) -> &SourceName {
        &self.name
    }

    async fn read(self: Box<Self>, sink: EntrySink, _previous: Option<Box<dyn Previous>>) -> FlowResult<()> {
        let monitor = NoMonitor::shared();
        match &self.salvage {
            Some(salvage) => self.snapshot.read_sound(&self.name, &self.only, salvage, sink, &monitor).await,
            None => self.snapshot.read_source(&self.name, &self.only, sink, &monitor).await,
        }
    }
}

/// One entry of a test's source.
#[derive(Clone, Debug)]
pub struct Parcel {
    pub meta: EntryMeta,
    pub pieces: Vec<Piece>,
    pub trailer: Attrs,
}

/// Returns an entry of an item of its own, with content borders.
pub fn parcel(path: &str, bytes: impl Into<Bytes>) -> Parcel {
    let bytes = bytes.into();
    let trailer = Attrs::from([("bytes".to_owned(), bytes.len().into())]);
    let meta = EntryMeta::new(fixed_path(path), Stage::Data, path).with("mode", 0o644);
    Parcel { meta, pieces: vec![Piece::Data(bytes)], trailer }
}

/// Returns an entry whose source marks a border after each part.
pub fn marked(path: &str, parts: &[Bytes]) -> Parcel {
    let mut parcel = parcel(path, Bytes::new());
    parcel.meta.cut = Cut::Marked;
    parcel.pieces = parts.iter().flat_map(|part| [Piece::Data(part.clone()), Piece::Border]).collect();
    parcel
}

/// How a source breaks off.
#[derive(Clone, Debug, PartialEq)]
pub enum Trouble {
    /// It fails with a reason after so many entries.
    FailsAfter(usize),
    /// It drops the body of this entry in the middle and goes on.
    DropsBodyOf(usize),
    /// It forgets to send this item.
    ForgetsLastItem,
}

/// A source of named entries.
#[derive(Clone, Debug)]
pub struct Cargo {
    pub name: SourceName,
    pub entries: Vec<Parcel>,
    pub problems: Vec<Problem>,
    pub point: Point,
    pub reuses: bool,
    pub trouble: Option<Trouble>,
}

impl Cargo {
    pub fn of(name: &str, entries: Vec<Parcel>) -> Self {
        let at = "2025-10-10T17:59:59Z".parse().unwrap();
        let point = Point::at(at).mark("gtid", "3E11FA47-71CA-11E1-9E33-C80AA9429562:1-5");
        let name = SourceName::new(name).unwrap();
        Self { name, entries, problems: Vec::new(), point, reuses: false, trouble: None }
    }

    pub fn reusing(mut self) -> Self {
        self.reuses = true;
        self
    }

    pub fn with_trouble(mut self, trouble: Trouble) -> Self {
        self.trouble = Some(trouble);
        self
    }

    pub fn inventory(&self) -> Vec<String> {
        let mut items: Vec<String> = Vec::new();
        for entry in &self.entries {
            if !items.contains(&entry.meta.item) {
                items.push(entry.meta.item.clone());
            }
        }
        items
    }

    pub async fn reading(&self) -> Reading {
        conformance::read_all(Box::new(Self { reuses: false, ..self.clone() })).await.unwrap()
    }
}

#[async_trait]
impl Source for Cargo {
    fn name(&self) -> &SourceName {
        &self.name
    }

    async fn read(self: Box<Self>, sink: EntrySink, previous: Option<Box<dyn Previous>>) -> FlowResult<()> {
        sink.announce(self.inventory()).await?;
        let mut old = std::collections::HashMap::new();
        if let Some(mut previous) = previous.filter(|_| self.reuses) {
            while let Some(entry) = previous.next().await? {
                old.insert(entry.meta.path.clone(), entry);
            }
        }
        for (number, entry) in self.entries.iter().enumerate() {
            if self.trouble == Some(Trouble::FailsAfter(number)) {
                let what = "the server went away";
                return Err(Failure::new(lifeboat::error::ExitCode::SourceDown, what).into());
            }
            if let Some(known) = old.remove(&entry.meta.path).filter(|known| known.trailer == entry.trailer) {
                sink.reuse(known.meta, known.trailer, known.reuse).await?;
                continue;
            }
            let mut body = sink.begin(entry.meta.clone()).await?;
            let dropped = self.trouble == Some(Trouble::DropsBodyOf(number));
            for piece in &entry.pieces {
                match piece {
                    Piece::Data(bytes) => body.write(bytes.clone()).await?,
                    Piece::Border => body.border().await?,
                }
            }
            if !dropped {
                body.finish_with(entry.trailer.clone()).await?;
            }
        }
        for problem in &self.problems {
            sink.report(problem.clone()).await?;
        }
        let inventory = self.inventory();
        let forgotten = usize::from(self.trouble == Some(Trouble::ForgetsLastItem));
        inventory.iter().rev().skip(forgotten).for_each(|item| sink.complete(item));
        sink.finish(self.point.clone()).await
    }
}

/// Returns bytes that neither repeat nor compress; the same for the same seed.
pub fn noise(size: usize, seed: u64) -> Bytes {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(size);
    bytes.into()
}

/// Returns the keys under `prefix`.
pub fn keys_under(store: &MemoryStore, prefix: &str) -> Vec<Key> {
    store.dump().into_keys().filter(|key| key.as_str().starts_with(prefix)).collect()
}
