//! A Redis or Valkey server as a target.
//!
//! *Order.* A server that an interrupted restore left is let go. The whole dump is spooled and proven, the server is
//! asked everything that could forbid the restore, what it holds is copied where it would be replaced, and only then is
//! it touched: by replication when all is wanted ([`super::takeover`]), key by key when some is or when the server may
//! not replicate ([`super::pieces`]).
//!
//! *Crash.* See the two ways. Until the first of their steps nothing on the server has changed.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use async_trait::async_trait;

use super::{
    archive::Archive,
    cluster_write,
    control::Control,
    crossing::Crossing,
    expiry::Ttl,
    home::{Home, Waived},
    pieces::{self, Job, Proven, Stored},
    pledge::{self, Owed, Owner, Place, Pledge},
    preflight::{self, Target as State},
    rdb::KeyCount,
    readback,
    safety::{Keeper, Safety},
    sentinel,
    server::Server,
    takeover::Takeover,
    wanted::Wanted,
};
use crate::{
    clock::Ground,
    error::{ExitCode, Failure, Result},
    event::SharedMonitor,
    flow::{
        Attrs, Coming, EntryStream, FlowResult, Preflight, Remark, Selection, Tally, Target, TargetState,
        Verified, Verify, Weight, WriteOptions,
    },
    names::SourceName,
    policy::RedisConfig,
};

/// Restores a Redis or Valkey server.
pub struct RedisTarget {
    name: SourceName,
    config: RedisConfig,
    home: Option<Home>,
    waived: Waived,
    into: Option<String>,
    into_db: Option<u64>,
    ttl: Ttl,
    copy: Option<PathBuf>,
    ground: Ground,
    monitor: SharedMonitor,
}

/// How a dump gets into a server.
enum Way {
    /// By replication.
    Takeover(Crossing),
    /// Key by key, for this reason, and what has been proven for it.
    Keys(&'static str, Box<Proven>),
}

/// What was found out before anything is touched.
struct Ready {
    control: Control,
    before: State,
    archive: Archive,
    safety: Option<Safety>,
    notes: Vec<String>,
}

impl RedisTarget {
    /// Makes a target; the server is reached when it is inspected or written.
    pub fn new(name: SourceName, config: RedisConfig, ground: Ground, monitor: SharedMonitor) -> Self {
        let (waived, ttl) = (Waived::default(), Ttl::default());
        Self { name, config, home: None, waived, into: None, into_db: None, ttl, copy: None, ground, monitor }
    }

    /// Says where this host keeps what must outlive a restore; without it nothing is noted, and what the server held
    /// is kept for the time of the restore only.
    #[must_use]
    pub fn at_home(mut self, home: Option<Home>) -> Self {
        self.home = home;
        self
    }

    /// Says what a person takes upon themselves.
    #[must_use]
    pub fn waiving(mut self, waived: Waived) -> Self {
        self.waived = waived;
        self
    }

    /// Says where the restore goes, as `--into` says it, where that is not the source's own server.
    #[must_use]
    pub fn placed(mut self, into: Option<String>) -> Self {
        self.into = into;
        self
    }

    /// Makes it restore into one database only, beside whatever the others hold.
    #[must_use]
    pub fn into_database(mut self, db: Option<u32>) -> Self {
        self.into_db = db.map(u64::from);
        self
    }

    /// Says what becomes of times of expiry.
    #[must_use]
    pub fn expiring(mut self, ttl: Ttl) -> Self {
        self.ttl = ttl;
        self
    }

    /// Says that what comes is the safety copy in this file, which stays; one database is filled with what the copy
    /// has of it.
    #[must_use]
    pub fn from_copy(mut self, file: Option<PathBuf>) -> Self {
        self.copy = file;
        self
    }

    fn now_ms(&self) -> i64 {
        self.ground.clock.now().timestamp_millis()
    }

    fn say(&self, what: String) {
        self.monitor.step(Some(&self.name), what);
    }

    /// Asks what the server, or the one database that is meant, is and holds.
    async fn state(&self, server: &Arc<Server>, control: &mut Control) -> Result<State> {
        let mut state = State::ask(control, self.waived).await?;
        if state.is_clustered() {
            (state.keys, state.functions) = cluster_write::held(&cluster_write::lanes(server).await?).await?;
        }
        if let Some(db) = self.into_db {
            state.narrow(db);
        }
        Ok(state)
    }

    /// Returns whether the whole server is to hold the dump and nothing else.
    fn is_whole(&self, options: &WriteOptions) -> bool {
        options.only.is_all() && self.into_db.is_none()
    }

    /// Returns what of the server is to hold the dump and nothing else.
    fn place(&self, options: &WriteOptions) -> Option<Place> {
        let place = self.into_db.map_or(Place::Whole, Place::Database);
        options.only.is_all().then_some(place)
    }

    /// Notes that the server is filled key by key, so that a part of it is never taken for the whole.
    fn note_filling(&self, ready: &Ready, options: &WriteOptions) -> Result<Option<Pledge>> {
        let Some(place) = self.place(options) else { return Ok(None) };
        let owed = Owed {
            source: self.name.to_string(),
            url: self.config.url.clone(),
            before: ready.before.keys.clone(),
            safety: ready.safety.as_ref().and_then(|safety| safety.file.clone()),
            filling: Some(place),
            ..Owed::default()
        };
        Pledge::begin_at(self.home.as_ref(), owed, &self.monitor)
    }

    /// Says what is to be done key by key.
    fn job<'a>(
        &'a self,
        server: &'a Arc<Server>,
        (before, archive): (&'a State, &'a Archive),
        options: &WriteOptions,
    ) -> Job<'a> {
        let from_db = self.into_db.filter(|_| self.copy.is_some());
        let wanted =
            Wanted { only: options.only.clone(), into_db: self.into_db, from_db, now_ms: self.now_ms() };
        let empties = options.only.is_all() && options.replace && !before.is_empty();
        Job {
            server,
            before,
            archive,
            wanted,
            replace: options.replace,
            empties,
            is_touched: AtomicBool::new(false),
            ground: &self.ground,
        }
    }

    /// Does all that touches nothing but what an interrupted restore left.
    async fn prepare(
        &self,
        server: &Arc<Server>,
        options: &WriteOptions,
        entries: EntryStream,
    ) -> FlowResult<(Ready, Way)> {
        let is_all = options.only.is_all();
        let mut notes = Vec::new();
        if let Some(home) = &self.home {
            let replaces = self.place(options).filter(|_| options.replace);
            let owner = Owner { name: &self.name, config: &self.config, replaces };
            notes.extend(pledge::repay(home, server, &owner).await?);
        }
        let empty_is_needed = is_all && !options.replace;
        if empty_is_needed {
            // Asked again below: this only saves the wait for a dump that will be refused.
            let mut control = Control::open(server).await?;
            self.state(server, &mut control).await?.check_empty(&server.shown())?;
        }
        let archive = Archive::take(entries, &self.config, self.now_ms()).await?;
        let archive = archive.expiring(self.ttl, &self.config, self.now_ms()).await?;
        let mut control = Control::open(server).await?;
        let before = self.state(server, &mut control).await?;
        if empty_is_needed {
            before.check_empty(&server.shown())?;
        }
        let way = self.way(server, (&before, &archive), &mut control, options).await?;
        let mut safety = None;
        if is_all && !before.is_empty() && !self.waived.safety {
            safety = Some(self.copy(server, &before).await?);
        }
        Ok((Ready { control, before, archive, safety, notes }, way))
    }

    /// Chooses how the dump gets there, and proves that it can.
    async fn way(
        &self,
        server: &Arc<Server>,
        (before, archive): (&State, &Archive),
        control: &mut Control,
        options: &WriteOptions,
    ) -> Result<Way> {
        let why = match self.crossing(server, (before, archive), control, options).await? {
            Ok(crossing) => {
                before.check_sentinel(&server.shown(), control).await?;
                return Ok(Way::Takeover(crossing));
            }
            Err(why) => why,
        };
        self.say("asking the server whether it takes the keys one by one".to_owned());
        let job = self.job(server, (before, archive), options);
        let proven = pieces::probe(&job).await?;
        if !options.only.is_all() && !options.replace {
            pieces::check_absent(&job, &proven).await?;
        }
        Ok(Way::Keys(why, Box::new(proven)))
    }

    /// Returns how the server can follow us, or why it is to be filled key by key. A server that may follow us and
    /// could not load the dump is refused.
    async fn crossing(
        &self,
        server: &Server,
        (before, archive): (&State, &Archive),
        control: &mut Control,
        options: &WriteOptions,
    ) -> Result<Result<Crossing, &'static str>> {
        if !options.only.is_all() {
            return Ok(Err("not all of it is wanted"));
        }
        if self.into_db.is_some() {
            return Ok(Err("one database is meant"));
        }
        // Sentinels would fail over a primary that follows us; a restore key by key changes no roles.
        if !self.config.sentinels.is_empty() {
            return Ok(Err("Sentinels watch the server"));
        }
        if before.is_clustered() {
            return Ok(Err("a node of a cluster follows only its own"));
        }
        if !can_replicate(control).await? {
            return Ok(Err("the server may not replicate, or its settings cannot be asked for"));
        }
        before.check(server, archive, control).await?;
        match Crossing::find(control, &self.config).await {
            Ok(crossing) => Ok(Ok(crossing)),
            // Key by key the dump goes by the connection that we made, which is encrypted.
            Err(failure)
                if failure.exit() == ExitCode::Failed && self.config.url.starts_with("rediss://") =>
            {
                Ok(Err("by replication the dump would cross the network in clear"))
            }
            Err(failure) => Err(failure),
        }
    }

    /// Copies what will be replaced.
    async fn copy(&self, server: &Arc<Server>, before: &State) -> Result<Safety> {
        self.say("copying what the server holds".to_owned());
        let keeper = Keeper {
            name: &self.name,
            config: &self.config,
            into: self.into.as_deref(),
            home: self.home.as_ref(),
            facts: Some(&before.facts),
            spared: self.copy.as_deref(),
            ground: &self.ground,
        };
        Safety::take(server, before.is_clustered(), &keeper).await
    }

    /// Restores all of it as the server's primary.
    async fn take_over(
        &self,
        server: &Arc<Server>,
        ready: &mut Ready,
        options: &WriteOptions,
        crossing: Crossing,
    ) -> Result<Verified> {
        let Ready { control, before, archive, safety, .. } = ready;
        let takeover = Takeover {
            server,
            name: &self.name,
            control,
            before,
            archive,
            safety: safety.as_ref(),
            crossing,
            config: &self.config,
            home: self.home.as_ref(),
            verify: options.verify,
            stop: &options.stop,
            ground: &self.ground,
            monitor: &self.monitor,
        };
        takeover.run().await
    }

    /// Restores what is wanted key by key. However it ends, whoever asked for it is told.
    async fn write_keys(
        &self,
        server: &Arc<Server>,
        ready: &mut Ready,
        (proven, options): (&Proven, &WriteOptions),
        tally: &mut Tally,
    ) -> Result<()> {
        let pledge = self.note_filling(ready, options)?;
        let written = self.write_noted(server, ready, (proven, options), tally).await;
        let end = if written.is_ok() { Pledge::paid } else { Pledge::given_back };
        let ended = pledge.map_or(Ok(()), end);
        written.and(ended)
    }

    async fn write_noted(
        &self,
        server: &Arc<Server>,
        ready: &mut Ready,
        (proven, options): (&Proven, &WriteOptions),
        tally: &mut Tally,
    ) -> Result<()> {
        let job = self.job(server, (&ready.before, &ready.archive), options);
        let filling = self.fill(&job, proven);
        let stored = match options.stop.run_until_cancelled(filling).await {
            Some(Ok(stored)) => stored,
            Some(Err(failure)) if job.is_touched.load(Ordering::Relaxed) => {
                // What the server held needs nothing that it lacks.
                ready.before.waived.modules = true;
                return Err(self.put_back(server, ready, failure).await);
            }
            Some(Err(failure)) => return Err(failure.hint("Nothing was changed on the server.")),
            None => {
                let what = "the restore was stopped before all keys were there";
                let failure = Failure::new(ExitCode::Interrupted, what)
                    .hint("What was restored stays: restore again with --replace.");
                return Err(with_copy(failure, ready.safety.as_ref()));
            }
        };
        tally.left_out.extend(stored.left_out());
        let functions =
            if job.wanted.has_functions() { "" } else { "; functions are restored only with everything" };
        tally.notes.push(format!("{} keys restored{functions}", stored.keys));
        let checked = self.check_keys(&job, (proven, &stored), options);
        let checked = options.stop.run_until_cancelled(checked).await.unwrap_or_else(|| {
            let what = "the restore was stopped: all keys are there, and were not read back";
            Err(Failure::new(ExitCode::Interrupted, what))
        });
        tally.verified = checked?;
        if options.verify == Verify::Digests && tally.verified == Verified::Counts {
            let note = "the keys were counted and not read back: that takes the rights +dump +pexpiretime, and where \
                        the dump says how keys were used +client|no-touch (7.2)";
            tally.notes.push(note.to_owned());
        }
        Ok(())
    }

    /// Empties where that is meant, and stores the keys.
    async fn fill(&self, job: &Job<'_>, proven: &Proven) -> Result<Stored> {
        if job.empties {
            self.say("emptying the server".to_owned());
            pieces::empty(job, proven).await?;
        }
        self.say(format!("restoring {} keys one by one", proven.needs.count()));
        job.is_touched.store(true, Ordering::Relaxed);
        pieces::store(job, proven).await
    }

    /// Puts back what a server held that could not be filled.
    async fn put_back(&self, server: &Arc<Server>, ready: &Ready, failure: Failure) -> Failure {
        let Some(safety) = &ready.safety else { return failure };
        let failure = with_copy(failure, Some(safety));
        self.say("putting back what the server held".to_owned());
        let again = async {
            let options = WriteOptions { replace: true, only: Selection::all(), ..WriteOptions::default() };
            let mut job = self.job(server, (&ready.before, &safety.archive), &options);
            // What stands in the other databases is not ours.
            job.wanted.from_db = self.into_db;
            let proven = pieces::probe(&job).await?;
            self.fill(&job, &proven).await
        };
        match again.await {
            Ok(_) => failure.hint("What the server held before was put back."),
            Err(again) => failure.hint(format!("What it held was not put back: {}", again.one_line())),
        }
    }

    /// Reads back what came key by key. Clients may have written other keys meanwhile.
    async fn check_keys(
        &self,
        job: &Job<'_>,
        (proven, stored): (&Proven, &Stored),
        options: &WriteOptions,
    ) -> Result<Verified> {
        match options.verify {
            Verify::Nothing => return Ok(Verified::No),
            Verify::Counts => return Ok(Verified::Counts),
            Verify::Digests => self.say("reading the keys back".to_owned()),
        }
        if proven.reads_back() {
            return pieces::read_back(job, proven, stored).await;
        }
        if !self.is_whole(options) || job.before.is_clustered() {
            return Ok(Verified::Counts);
        }
        match readback::compare(job.server, &self.config, job.archive, &self.ground).await {
            Err(failure) if failure.exit() == ExitCode::SourceDown => Ok(Verified::Counts),
            compared => compared,
        }
    }

    async fn check_evicted(&self, server: &Server, ready: &mut Ready) -> Result<()> {
        let evicted = preflight::evicted(&mut ready.control).await?.saturating_sub(ready.before.evicted);
        if evicted == 0 {
            return Ok(());
        }
        let what = format!("{} evicted {evicted} keys during the restore", server.shown());
        Err(Failure::new(ExitCode::Partial, what)
            .hint("Raise maxmemory, or set maxmemory-policy noeviction, and restore again."))
    }

    /// Checks the functions, which come only with everything.
    async fn check_functions(&self, server: &Server, ready: &mut Ready) -> Result<()> {
        let Ready { control, archive, .. } = ready;
        let functions = preflight::functions(control).await;
        if let Some(found) = functions.filter(|found| *found != archive.survey.functions)
            && archive.survey.introspected
        {
            let what = format!("{} holds {found} function libraries", server.shown());
            let why = format!("the dump holds {}", archive.survey.functions);
            return Err(Failure::new(ExitCode::Partial, what).because(why));
        }
        Ok(())
    }

    /// Returns what a person should know afterwards.
    async fn notes(&self, ready: &mut Ready) -> Result<Vec<String>> {
        let Ready { control, archive, .. } = ready;
        let mut notes = Vec::new();
        if let Some(file) = ready.safety.as_ref().and_then(|safety| safety.file.as_ref()) {
            notes.push(format!("what the server held before is in `{}`, sealed", file.display()));
        }
        let expired = archive.expired_by(self.now_ms()).await?;
        if expired > 0 {
            notes.push(format!("{expired} keys of the snapshot have expired since and are gone"));
        }
        let there = archive.facts.as_ref().and_then(|facts| facts.acl.clone()).unwrap_or_default();
        let here: Vec<String> = control.ask(&["ACL", "LIST"]).await.unwrap_or_default();
        let user = |line: &String| line.split(' ').nth(1).unwrap_or_default().to_owned();
        let here: Vec<String> = here.iter().map(user).collect();
        let missing: Vec<String> = there.iter().map(user).filter(|name| !here.contains(name)).collect();
        if !missing.is_empty() {
            let names = missing.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
            notes.push(format!("users are not restored: {names} stand in the snapshot's server.json"));
        }
        Ok(notes)
    }
}

/// Returns the databases that hold something, as a dump's trailer tells it.
fn living(trailer: &Attrs) -> Vec<u64> {
    let noted = |name: &str| -> BTreeMap<u64, KeyCount> {
        let noted = trailer.get(name).cloned();
        noted.and_then(|noted| serde_json::from_value(noted).ok()).unwrap_or_default()
    };
    let sum = |count: Option<&KeyCount>| count.map_or(0, |count| count.values().sum::<u64>());
    let expired = noted("expired");
    let lives = |(db, count): (u64, KeyCount)| (sum(Some(&count)) > sum(expired.get(&db))).then_some(db);
    noted("keys").into_iter().filter_map(lives).collect()
}

/// Returns whether the server may follow us: managed services and careful owners remove a command for it.
async fn can_replicate(control: &mut Control) -> Result<bool> {
    // Without arguments a server refuses them before it looks at anybody's rights, and says whether it knows them.
    for command in [&b"REPLICAOF"[..], b"CONFIG"] {
        let told = control.attempt(&[command]).await?;
        if told.err().is_some_and(|text| text.contains("unknown command")) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Says where the copy of what the server held is.
fn with_copy(failure: Failure, safety: Option<&Safety>) -> Failure {
    match safety.and_then(Safety::hint) {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

#[async_trait]
impl Target for RedisTarget {
    fn name(&self) -> &SourceName {
        &self.name
    }

    async fn inspect(&mut self, _inventory: &[String]) -> Result<TargetState> {
        let server = Arc::new(sentinel::primary(&self.name, &self.config).await?);
        let mut control = Control::open(&server).await?;
        Ok(self.state(&server, &mut control).await?.state())
    }

    /// Tells what its manifest says already: keys of several databases would lie on one another in one.
    async fn preflight(&mut self, options: &WriteOptions, coming: &mut dyn Coming) -> Result<Preflight> {
        let mut found = Preflight::default();
        let Some(into) = self.into_db.filter(|_| options.only.is_all() && self.copy.is_none()) else {
            return Ok(found);
        };
        let mut from = BTreeSet::new();
        while let Some(entry) = coming.next().await? {
            from.extend(living(&entry.trailer));
        }
        if from.len() > 1 {
            let dbs: Vec<String> = from.iter().map(u64::to_string).collect();
            let why = format!(
                "keys of databases {} do not go into one together: pick keys of one with --only",
                dbs.join(", ")
            );
            found.remarks.push(Remark::new(Weight::Blocks, format!("database {into}"), why));
        }
        Ok(found)
    }

    /// A server that follows us must be let go.
    fn ends_itself(&self) -> bool {
        true
    }

    async fn write(self: Box<Self>, options: WriteOptions, entries: EntryStream) -> FlowResult<Tally> {
        let server = Arc::new(sentinel::primary(&self.name, &self.config).await?);
        let preparing = self.prepare(&server, &options, entries);
        let Some(ready) = options.stop.run_until_cancelled(Box::pin(preparing)).await else {
            let what = "the restore was stopped; nothing on the server was changed";
            return Err(Failure::new(ExitCode::Interrupted, what).into());
        };
        let (mut ready, way) = ready?;
        let mut tally = Tally {
            entries: ready.archive.entries,
            bytes: ready.archive.bytes,
            notes: std::mem::take(&mut ready.notes),
            ..Tally::default()
        };
        match way {
            Way::Takeover(crossing) => {
                tally.verified = Box::pin(self.take_over(&server, &mut ready, &options, crossing)).await?;
            }
            Way::Keys(why, proven) => {
                self.say(format!("{why}: restoring key by key"));
                let filling = self.write_keys(&server, &mut ready, (&proven, &options), &mut tally);
                Box::pin(filling).await?;
            }
        }
        self.check_evicted(&server, &mut ready).await?;
        if self.is_whole(&options) {
            self.check_functions(&server, &mut ready).await?;
            tally.notes.extend(self.notes(&mut ready).await?);
        }
        Ok(tally)
    }
}
