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
    control::Control,
    pieces,
    preflight::{self, Target as State},
    sentinel,
    server::Server,
    takeover::Takeover,
};
use crate::{
    clock::Ground,
    error::{ExitCode, Failure, Result},
    event::SharedMonitor,
    flow::{EntryStream, FlowResult, Tally, Target, TargetState, Verified, WriteOptions},
    names::SourceName,
    policy::RedisConfig,
};

/// Restores a Redis or Valkey server.
pub struct RedisTarget {
    name: SourceName,
    config: RedisConfig,
    ground: Ground,
    monitor: SharedMonitor,
}

impl RedisTarget {
    /// Makes a target; the server is reached when it is inspected or written.
    pub fn new(name: SourceName, config: RedisConfig, ground: Ground, monitor: SharedMonitor) -> Self {
        Self { name, config, ground, monitor }
    }

    fn now_ms(&self) -> i64 {
        self.ground.clock.now().timestamp_millis()
    }

    fn say(&self, what: String) {
        self.monitor.step(Some(&self.name), what);
    }

    /// Restores all of it; `before` is what the server held.
    async fn write_all(
        &self,
        server: &Arc<Server>,
        control: &mut Control,
        before: &State,
        archive: &Archive,
    ) -> Result<()> {
        // Sentinels would fail over a primary that follows us; a restore key by key changes no roles.
        if self.config.sentinels.is_empty() && can_replicate(control).await {
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
            return takeover.run().await;
        }
        if !before.is_empty() {
            self.say("emptying the server".to_owned());
            let _: String = control.ask(&["FLUSHALL"]).await?;
            let _: Result<String> = control.ask(&["FUNCTION", "FLUSH"]).await;
        }
        let why = if self.config.sentinels.is_empty() {
            "the server may not replicate"
        } else {
            "Sentinels watch the server"
        };
        self.say(format!("{why}: restoring key by key"));
        pieces::store(server, archive, &crate::flow::Selection::all(), self.now_ms()).await.map(|_| ())
    }

    /// Checks what can be seen only after the server is free again.
    async fn check_after(
        &self,
        server: &Server,
        control: &mut Control,
        before: &State,
        archive: &Archive,
    ) -> Result<()> {
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

/// Returns whether the server has the command at all; managed services and careful owners remove it.
async fn can_replicate(control: &mut Control) -> bool {
    let info: Result<Vec<::redis::Value>> = control.ask(&["COMMAND", "INFO", "replicaof"]).await;
    // Who may not ask may still be allowed to do it; a refusal then comes before anything is changed.
    info.map_or(true, |info| !matches!(info.first(), None | Some(::redis::Value::Nil)))
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

    async fn write(self: Box<Self>, options: WriteOptions, entries: EntryStream) -> FlowResult<Tally> {
        let server = Arc::new(sentinel::primary(&self.name, &self.config).await?);
        let empty_is_needed = options.only.is_all() && !options.replace;
        if empty_is_needed {
            // Asked again below: this only saves the wait for a dump that will be refused.
            State::ask(&mut Control::open(&server).await?).await?.check_empty(&server.shown())?;
        }
        let archive = Archive::take(entries, &self.config, self.now_ms()).await?;
        let mut control = Control::open(&server).await?;
        let before = State::ask(&mut control).await?;
        before.check(&server.shown(), &archive, &mut control, self.config.sentinels.is_empty()).await?;

        let mut tally = Tally {
            entries: archive.entries,
            bytes: archive.bytes,
            verified: Verified::Counts,
            ..Tally::default()
        };
        if options.only.is_all() {
            if empty_is_needed {
                before.check_empty(&server.shown())?;
            }
            self.write_all(&server, &mut control, &before, &archive).await?;
            self.check_after(&server, &mut control, &before, &archive).await?;
            if !archive.survey.introspected {
                tally.verified = Verified::No;
            }
            tally.notes = self.notes(&mut control, &archive).await?;
        } else {
            if !options.replace {
                pieces::check_absent(&server, &archive, &options.only, self.now_ms()).await?;
            }
            let stored = pieces::store(&server, &archive, &options.only, self.now_ms()).await?;
            tally
                .notes
                .push(format!("{} keys restored; functions are restored only with everything", stored.keys));
        }
        Ok(tally)
    }
}
