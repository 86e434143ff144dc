//! A Redis or Valkey server as a target.
//!
//! *Order.* A server that an interrupted restore left is let go. The whole dump is spooled and proven, the server is
//! asked everything that could forbid the restore, what it holds is copied where it would be replaced, and only then is
//! it touched: by replication when all is wanted ([`super::takeover`]), key by key when some is or when the server may
//! not replicate ([`super::pieces`]).
//!
//! *Crash.* See the two ways. Until the first of their steps nothing on the server has changed.

use std::sync::Arc;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use super::{
    archive::Archive,
    control::Control,
    crc::crc64,
    crossing::Crossing,
    home::{Home, Waived},
    pieces,
    pledge::{self, Owner},
    preflight::{self, Target as State},
    readback,
    safety::Safety,
    sentinel,
    server::Server,
    takeover::Takeover,
    wire::Reply,
};
use crate::{
    clock::Ground,
    error::{ExitCode, Failure, Result},
    event::SharedMonitor,
    flow::{EntryStream, FlowResult, Selection, Tally, Target, TargetState, Verified, Verify, WriteOptions},
    names::SourceName,
    policy::RedisConfig,
};

/// Restores a Redis or Valkey server.
pub struct RedisTarget {
    name: SourceName,
    config: RedisConfig,
    home: Option<Home>,
    waived: Waived,
    ground: Ground,
    monitor: SharedMonitor,
}

/// How a whole dump gets into a server.
enum Way {
    /// By replication.
    Takeover(Crossing),
    /// Key by key, for this reason.
    Keys(&'static str),
}

/// What was found out before anything is touched.
struct Ready {
    control: Control,
    before: State,
    archive: Archive,
    way: Way,
    safety: Option<Safety>,
    notes: Vec<String>,
}

impl RedisTarget {
    /// Makes a target; the server is reached when it is inspected or written.
    pub fn new(name: SourceName, config: RedisConfig, ground: Ground, monitor: SharedMonitor) -> Self {
        Self { name, config, home: None, waived: Waived::default(), ground, monitor }
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

    fn now_ms(&self) -> i64 {
        self.ground.clock.now().timestamp_millis()
    }

    fn say(&self, what: String) {
        self.monitor.step(Some(&self.name), what);
    }

    /// Does all that touches nothing but what an interrupted restore left.
    async fn prepare(
        &self,
        server: &Arc<Server>,
        options: &WriteOptions,
        entries: EntryStream,
    ) -> FlowResult<Ready> {
        let is_all = options.only.is_all();
        let mut notes = Vec::new();
        if let Some(home) = &self.home {
            let owner =
                Owner { name: &self.name, config: &self.config, may_empty: is_all && options.replace };
            notes.extend(pledge::repay(home, server, &owner).await?);
        }
        let empty_is_needed = is_all && !options.replace;
        if empty_is_needed {
            // Asked again below: this only saves the wait for a dump that will be refused.
            State::ask(&mut Control::open(server).await?).await?.check_empty(&server.shown())?;
        }
        let archive = Archive::take(entries, &self.config, self.now_ms()).await?;
        let mut control = Control::open(server).await?;
        let before = State::ask(&mut control).await?;
        before.check(server, &archive, &mut control, self.waived).await?;
        if empty_is_needed {
            before.check_empty(&server.shown())?;
        }
        let way = if is_all { self.way(&mut control).await? } else { Way::Keys("not all of it is wanted") };
        let mut safety = None;
        if is_all {
            match &way {
                Way::Takeover(_) => before.check_sentinel(&server.shown(), &mut control).await?,
                Way::Keys(_) => probe(server, &archive, &self.ground).await?,
            }
            if !before.is_empty() && !self.waived.safety {
                self.say("copying what the server holds".to_owned());
                let whose = (&self.name, &self.config);
                safety = Some(Safety::take(server, whose, self.home.as_ref(), &self.ground).await?);
            }
        }
        Ok(Ready { control, before, archive, way, safety, notes })
    }

    /// Chooses how all of a dump gets there.
    async fn way(&self, control: &mut Control) -> Result<Way> {
        // Sentinels would fail over a primary that follows us; a restore key by key changes no roles.
        if !self.config.sentinels.is_empty() {
            return Ok(Way::Keys("Sentinels watch the server"));
        }
        if !can_replicate(control).await {
            return Ok(Way::Keys("the server may not replicate"));
        }
        match Crossing::find(control, &self.config).await {
            Ok(crossing) => Ok(Way::Takeover(crossing)),
            Err(failure) if failure.chain().iter().any(|line| line.contains("unknown command")) => {
                Ok(Way::Keys("the server's settings cannot be asked for"))
            }
            // Key by key the dump goes by the connection that we made, which is encrypted.
            Err(failure)
                if failure.exit() == ExitCode::Failed && self.config.url.starts_with("rediss://") =>
            {
                Ok(Way::Keys("by replication the dump would cross the network in clear"))
            }
            Err(failure) => Err(failure),
        }
    }

    /// Restores all of it.
    async fn write_all(
        &self,
        server: &Arc<Server>,
        ready: &mut Ready,
        options: &WriteOptions,
    ) -> Result<Verified> {
        let Ready { control, before, archive, way, safety, .. } = ready;
        let verified = match way {
            Way::Takeover(crossing) => {
                let takeover = Takeover {
                    server,
                    name: &self.name,
                    control,
                    before,
                    archive,
                    safety: safety.as_ref(),
                    crossing: crossing.clone(),
                    config: &self.config,
                    home: self.home.as_ref(),
                    verify: options.verify,
                    stop: &options.stop,
                    ground: &self.ground,
                    monitor: &self.monitor,
                };
                takeover.run().await?
            }
            Way::Keys(why) => {
                self.say(format!("{why}: restoring key by key"));
                self.refill(server, ready, &options.stop).await?;
                let checked = self.check_keys(server, ready, options.verify);
                options.stop.run_until_cancelled(checked).await.unwrap_or_else(|| {
                    let what = "the restore was stopped: all keys are there, and were not read back";
                    Err(Failure::new(ExitCode::Interrupted, what))
                })?
            }
        };
        self.check_after(server, ready).await?;
        Ok(verified)
    }

    /// Empties the server and fills it key by key; puts back what it held where that fails.
    async fn refill(&self, server: &Arc<Server>, ready: &mut Ready, stop: &CancellationToken) -> Result<()> {
        let was_empty = ready.before.is_empty();
        if !was_empty {
            self.say("emptying the server".to_owned());
            empty(&mut ready.control).await?;
        }
        let all = Selection::all();
        let filled = pieces::store(server, &ready.archive, &all, self.now_ms());
        let failure = match stop.run_until_cancelled(filled).await {
            Some(Ok(_)) => return Ok(()),
            Some(Err(failure)) => failure,
            None => Failure::new(ExitCode::Interrupted, "the restore was stopped before all keys were there")
                .hint("What was restored stays: restore again with --replace."),
        };
        let Some(safety) = &ready.safety else { return Err(failure) };
        let failure = match safety.hint() {
            Some(hint) => failure.hint(hint),
            None => failure,
        };
        if failure.exit() == ExitCode::Interrupted {
            return Err(failure);
        }
        self.say("putting back what the server held".to_owned());
        let again = async {
            let mut control = Control::open(server).await?;
            empty(&mut control).await?;
            pieces::store(server, &safety.archive, &Selection::all(), self.now_ms()).await
        };
        Err(match again.await {
            Ok(_) => failure.hint("What the server held before was put back."),
            Err(again) => failure.hint(format!("What it held was not put back: {}", again.one_line())),
        })
    }

    /// Checks what came key by key. Clients may have written meanwhile: what is more than the dump's is no loss.
    async fn check_keys(&self, server: &Arc<Server>, ready: &mut Ready, verify: Verify) -> Result<Verified> {
        if verify == Verify::Nothing {
            return Ok(Verified::No);
        }
        if verify == Verify::Digests {
            match readback::compare(server, &self.config, &ready.archive, &self.ground).await {
                Err(failure) if failure.exit() == ExitCode::SourceDown => {}
                compared => return compared,
            }
        }
        let wanted: u64 = ready.archive.survey.keys_by_db().values().sum();
        let wanted = wanted - ready.archive.expired_by(self.now_ms()).await?;
        let found: u64 = ready.control.keys_by_db().await?.values().sum();
        if found >= wanted {
            return Ok(Verified::Counts);
        }
        let what = format!("{} holds fewer keys than the dump", server.shown());
        Err(Failure::new(ExitCode::Partial, what).because(format!("{found} keys, in the dump: {wanted}")))
    }

    /// Checks what can be seen only after the server is free again.
    async fn check_after(&self, server: &Server, ready: &mut Ready) -> Result<()> {
        let Ready { control, before, archive, .. } = ready;
        let evicted = preflight::evicted(control).await?.saturating_sub(before.evicted);
        if evicted > 0 {
            let what = format!("{} evicted {evicted} keys during the restore", server.shown());
            return Err(Failure::new(ExitCode::Partial, what)
                .hint("Raise maxmemory, or set maxmemory-policy noeviction, and restore again."));
        }
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

/// Returns whether the server has the command at all; managed services and careful owners remove it.
async fn can_replicate(control: &mut Control) -> bool {
    let info: Result<Vec<::redis::Value>> = control.ask(&["COMMAND", "INFO", "replicaof"]).await;
    // Who may not ask may still be allowed to do it; a refusal then comes before anything is changed.
    info.map_or(true, |info| !matches!(info.first(), None | Some(::redis::Value::Nil)))
}

/// Removes all keys and functions; servers before 7.0 have no functions.
async fn empty(control: &mut Control) -> Result<()> {
    let _: String = control.ask(&["FLUSHALL"]).await?;
    let _: Result<String> = control.ask(&["FUNCTION", "FLUSH"]).await;
    Ok(())
}

/// Proves by doing that the server takes this dump's values key by key, and names what it refuses.
/// Emptying needs no proof: it is the first thing that is done, and refused it changes nothing.
async fn probe(server: &Server, archive: &Archive, ground: &Ground) -> Result<()> {
    if !archive.survey.introspected {
        let what = "the dump is of a newer format than this version can take apart";
        return Err(Failure::new(ExitCode::Failed, what)
            .hint("Nothing was changed. Restore it into a server of its own version that may replicate."));
    }
    let key = format!("lifeboat:probe:{}", ground.hex(8));
    // It goes by itself where the user may not remove it.
    let until = (ground.clock.now().timestamp_millis() + 60_000).to_string();
    let mut payload = vec![0, 1, b'x'];
    payload.extend_from_slice(&archive.survey.rdb_version.to_le_bytes());
    payload.extend_from_slice(&crc64(0, &payload).to_le_bytes());
    let db = archive.survey.keys.keys().max().copied().unwrap_or_default().to_string();
    let key = key.as_bytes();
    let tried: [&[&[u8]]; 3] = [
        &[b"SELECT", db.as_bytes()],
        &[b"RESTORE", key, until.as_bytes(), &payload, b"REPLACE", b"ABSTTL"],
        &[b"DEL", key],
    ];
    let mut wire = server.dial().await?;
    let mut refused = Vec::new();
    for words in tried {
        if let Reply::Refused(text) = wire.call(words).await.map_err(|error| server.down(error))? {
            refused.push((String::from_utf8_lossy(words[0]).into_owned(), text));
        }
    }
    let Some((_, first)) = refused.first() else { return Ok(()) };
    let names: Vec<&str> = refused.iter().map(|(name, _)| name.as_str()).collect();
    Err(server.refused(&names.join(", "), first).hint("Nothing was changed on the server."))
}

#[async_trait]
impl Target for RedisTarget {
    fn name(&self) -> &SourceName {
        &self.name
    }

    async fn inspect(&mut self, _inventory: &[String]) -> Result<TargetState> {
        let server = Arc::new(sentinel::primary(&self.name, &self.config).await?);
        let mut control = Control::open(&server).await?;
        Ok(State::ask(&mut control).await?.state())
    }

    /// A server that follows us must be let go.
    fn ends_itself(&self) -> bool {
        true
    }

    async fn write(self: Box<Self>, options: WriteOptions, entries: EntryStream) -> FlowResult<Tally> {
        let server = Arc::new(sentinel::primary(&self.name, &self.config).await?);
        let stopped = |what: &str| Failure::new(ExitCode::Interrupted, what);
        let preparing = self.prepare(&server, &options, entries);
        let Some(ready) = options.stop.run_until_cancelled(Box::pin(preparing)).await else {
            return Err(stopped("the restore was stopped; nothing on the server was changed").into());
        };
        let mut ready = ready?;
        let mut tally = Tally {
            entries: ready.archive.entries,
            bytes: ready.archive.bytes,
            notes: std::mem::take(&mut ready.notes),
            ..Tally::default()
        };
        if options.only.is_all() {
            tally.verified = Box::pin(self.write_all(&server, &mut ready, &options)).await?;
            tally.notes.extend(self.notes(&mut ready).await?);
            return Ok(tally);
        }
        let some = async {
            if !options.replace {
                pieces::check_absent(&server, &ready.archive, &options.only, self.now_ms()).await?;
            }
            pieces::store(&server, &ready.archive, &options.only, self.now_ms()).await
        };
        let stored = options.stop.run_until_cancelled(some).await;
        let stored =
            stored.unwrap_or_else(|| Err(stopped("the restore was stopped before all keys were there")))?;
        tally
            .notes
            .push(format!("{} keys restored; functions are restored only with everything", stored.keys));
        Ok(tally)
    }
}
