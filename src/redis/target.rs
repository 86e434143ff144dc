//! A Redis or Valkey server as a target.
//!
//! *Order.* The whole dump is spooled and proven, the server is asked everything that could forbid the
//! restore, and only then is it touched: by replication when all is wanted ([`super::takeover`]), key by key
//! when some is or when the server may not replicate ([`super::pieces`]).
//!
//! *Crash.* See the two ways. Until the first of their steps nothing on the server has changed.

use std::sync::Arc;

use async_trait::async_trait;

use super::{
    archive::Archive,
    cluster_write,
    control::Control,
    pieces::{self, Job},
    preflight::{self, Target as State},
    server::Server,
    takeover::Takeover,
    wanted::Wanted,
};
use crate::{
    clock::Ground,
    error::{ExitCode, Failure, Result},
    event::SharedMonitor,
    flow::{EntryStream, FlowResult, Tally, Target, TargetState, Verified, Verify, WriteOptions},
    names::SourceName,
    policy::RedisConfig,
};

/// Restores a Redis or Valkey server.
pub struct RedisTarget {
    name: SourceName,
    config: RedisConfig,
    ground: Ground,
    monitor: SharedMonitor,
    into_db: Option<u64>,
}

impl RedisTarget {
    /// Makes a target; the server is reached when it is inspected or written.
    pub fn new(name: SourceName, config: RedisConfig, ground: Ground, monitor: SharedMonitor) -> Self {
        Self { name, config, ground, monitor, into_db: None }
    }

    /// Makes it restore into one database only, beside whatever the others hold.
    pub fn into_database(mut self, db: Option<u32>) -> Self {
        self.into_db = db.map(u64::from);
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
        let mut state = State::ask(control).await?;
        if state.is_clustered() {
            (state.keys, state.functions) = cluster_write::held(&cluster_write::lanes(server).await?).await?;
        }
        if let Some(db) = self.into_db {
            state.narrow(db);
        }
        Ok(state)
    }

    /// Restores key by key: what is wanted, or all where the server follows no other.
    async fn write_pieces(
        &self,
        (server, control): (&Arc<Server>, &mut Control),
        before: &State,
        archive: &Archive,
        options: &WriteOptions,
    ) -> Result<Tally> {
        let wanted = Wanted { only: options.only.clone(), into_db: self.into_db, now_ms: self.now_ms() };
        let (replace, is_all) = (options.replace, options.only.is_all());
        let empties = is_all && replace && !before.is_empty();
        let job = Job { server, before, archive, wanted, replace, empties, ground: &self.ground };
        self.say("asking the server whether it takes the keys one by one".to_owned());
        let proven = pieces::probe(&job).await?;
        if !is_all && !replace {
            pieces::check_absent(&job, &proven).await?;
        }
        if empties {
            self.say("emptying the server".to_owned());
            pieces::empty(&job, &proven).await?;
        }
        self.say(format!("restoring {} keys one by one", proven.needs.count()));
        let stored = pieces::store(&job, &proven).await?;
        self.check_evicted(server, control, before).await?;
        let mut tally = Tally { left_out: stored.left_out().into_iter().collect(), ..Tally::default() };
        tally.verified = match options.verify {
            Verify::Nothing => Verified::No,
            Verify::Digests if proven.reads_back() => {
                self.say("reading the keys back".to_owned());
                pieces::read_back(&job, &proven, &stored).await?
            }
            Verify::Digests | Verify::Counts => Verified::Counts,
        };
        if options.verify == Verify::Digests && tally.verified == Verified::Counts {
            let note = "the keys were counted and not read back: that takes the rights +dump +pexpiretime, and where \
                        the dump says how keys were used +client|no-touch (7.2)";
            tally.notes.push(note.to_owned());
        }
        let functions = match job.wanted.has_functions() {
            true => String::new(),
            false => "; functions are restored only with everything".to_owned(),
        };
        tally.notes.push(format!("{} keys restored{functions}", stored.keys));
        Ok(tally)
    }

    async fn take_over(
        &self,
        (server, control): (&Arc<Server>, &mut Control),
        before: &State,
        archive: &Archive,
    ) -> Result<()> {
        let takeover = Takeover {
            server,
            name: &self.name,
            control,
            before,
            archive,
            advertise: self.config.advertise.as_deref(),
            ground: &self.ground,
            monitor: &self.monitor,
        };
        takeover.run().await
    }

    async fn check_evicted(&self, server: &Server, control: &mut Control, before: &State) -> Result<()> {
        let evicted = preflight::evicted(control).await?.saturating_sub(before.evicted);
        if evicted == 0 {
            return Ok(());
        }
        let what = format!("{} evicted {evicted} keys during the restore", server.shown());
        Err(Failure::new(ExitCode::Partial, what)
            .hint("Raise maxmemory, or set maxmemory-policy noeviction, and restore again."))
    }

    /// Checks what can be seen only after the server is free again.
    async fn check_after(
        &self,
        server: &Server,
        control: &mut Control,
        before: &State,
        archive: &Archive,
    ) -> Result<()> {
        self.check_evicted(server, control, before).await?;
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
    async fn notes(&self, control: &mut Control, archive: &Archive) -> Result<Vec<String>> {
        let mut notes = Vec::new();
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

/// Returns whether the server may follow us: managed services and careful owners remove a command for it, and a node of
/// a cluster follows only its own.
async fn can_replicate(state: &State, control: &mut Control) -> Result<bool> {
    if state.is_clustered() {
        return Ok(false);
    }
    // Without arguments a server refuses them before it looks at anybody's rights, and says whether it knows them.
    for command in [&b"REPLICAOF"[..], b"CONFIG"] {
        let told = control.attempt(&[command]).await?;
        if told.err().is_some_and(|text| text.contains("unknown command")) {
            return Ok(false);
        }
    }
    Ok(true)
}

#[async_trait]
impl Target for RedisTarget {
    fn name(&self) -> &SourceName {
        &self.name
    }

    async fn inspect(&mut self, _inventory: &[String]) -> Result<TargetState> {
        let server = Arc::new(Server::of(&self.name, &self.config)?);
        let mut control = Control::open(&server).await?;
        Ok(self.state(&server, &mut control).await?.state())
    }

    async fn write(self: Box<Self>, options: WriteOptions, entries: EntryStream) -> FlowResult<Tally> {
        let server = Arc::new(Server::of(&self.name, &self.config)?);
        let empty_is_needed = options.only.is_all() && !options.replace;
        if empty_is_needed {
            // Asked again below: this only saves the wait for a dump that will be refused.
            let mut control = Control::open(&server).await?;
            self.state(&server, &mut control).await?.check_empty(&server.shown())?;
        }
        let archive = Archive::take(entries, &self.config, self.now_ms()).await?;
        let mut control = Control::open(&server).await?;
        let before = self.state(&server, &mut control).await?;
        if empty_is_needed {
            before.check_empty(&server.shown())?;
        }
        let is_all = options.only.is_all() && self.into_db.is_none();
        let mut tally = if is_all && can_replicate(&before, &mut control).await? {
            before.check(&server.shown(), &archive, &mut control).await?;
            self.take_over((&server, &mut control), &before, &archive).await?;
            let verified = if archive.survey.introspected { Verified::Counts } else { Verified::No };
            Tally { verified, ..Tally::default() }
        } else {
            self.write_pieces((&server, &mut control), &before, &archive, &options).await?
        };
        if is_all {
            self.check_after(&server, &mut control, &before, &archive).await?;
            tally.notes.extend(self.notes(&mut control, &archive).await?);
        }
        (tally.entries, tally.bytes) = (archive.entries, archive.bytes);
        Ok(tally)
    }
}
