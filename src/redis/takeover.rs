//! The restore of a whole dump into a running server, as its primary for one full synchronisation.
//!
//! *Order.* Settings are read and noted ([`super::pledge`]); a `masterauth` that the server has is what it must come
//! with, else it becomes a token that only we and the server know; `repl-diskless-load` is switched off, so that the
//! server has the whole dump on its own disk before it empties itself; `REPLICAOF` us; the dump goes over; the keys
//! are counted and read back while the server still is a replica, because replicas neither expire keys nor take
//! writes; `REPLICAOF NO ONE`; the rewrite of the append-only file is waited for, because a restart before its end
//! loads the old one. Whatever happened, the settings are put back.
//!
//! *Stop.* Until the last byte of the dump is on its way, a stop lets the server go with its old data. After that it
//! is waited for, a while, because a server that loads can only be let go when it has loaded.
//!
//! *Crash.* If the dump did not go over whole, the server still has its old data and is released with
//! `REPLICAOF NO ONE`. If it went over whole and the server did not load it, the server may be empty while its
//! append-only file still holds the old data: then what it held is put back, once; where that cannot be done it is left
//! as it is and the failure says what to do, for `REPLICAOF NO ONE` would rewrite that file empty. If lifeboat itself
//! dies, the server waits for a primary that is gone, with the old or the new data, until the next run finds the note.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::{
    archive::Archive,
    control::Control,
    crossing::Crossing,
    home::Home,
    pledge::{Change, Owed, Pledge},
    preflight::Target,
    primary::{Primary, Progress, Terms},
    readback,
    rewrite::{Judged, Rewrite},
    safety::Safety,
    server::Server,
};
use crate::{
    clock::Ground,
    error::{ExitCode, Failure, Result},
    event::SharedMonitor,
    flow::{Verified, Verify},
    names::SourceName,
    policy::RedisConfig,
};

/// How often the server is asked how far it is.
const ASK_MILLISECONDS: u64 = 200;
/// How long the server may take to find us at one address; it tries once a second.
const CONTACT_SECONDS_MAX: u64 = 15;
/// How often it is asked meanwhile, at another port each time: a packet that is lost while it connects leaves it
/// waiting for longer than that, and asked for the same place again it does nothing.
const CONTACTS_MAX: u64 = 3;
/// How long nothing may move: neither bytes sent nor bytes loaded.
const STILL_SECONDS_MAX: u64 = 180;
/// How long a server may refuse connections before it counts as gone, and how soon it refuses them then.
const GONE_SECONDS_MAX: u64 = 8;
const REFUSED_SECONDS_MAX: u64 = 3;
/// How long a server that is gone may take to come back before what it held is put back.
const BACK_SECONDS_MAX: u64 = 6;
/// How long the server may rewrite its append-only file.
const REWRITE_SECONDS_MAX: u64 = 6 * 3600;
/// How long a server that has the whole dump may load it, and then rewrite its file, when we are to stop: together
/// less than a stop has patience for.
const STOP_LOAD_SECONDS_MAX: u64 = 100;
const STOP_REWRITE_SECONDS_MAX: u64 = 40;

/// A restore that is under way.
pub(super) struct Takeover<'a> {
    /// The server that is restored.
    pub(super) server: &'a Arc<Server>,
    /// Its name in messages.
    pub(super) name: &'a SourceName,
    /// The control connection.
    pub(super) control: &'a mut Control,
    /// What it held before.
    pub(super) before: &'a Target,
    /// The dump.
    pub(super) archive: &'a Archive,
    /// What it held before, as a dump, where it held something.
    pub(super) safety: Option<&'a Safety>,
    /// The ways by which it may reach us.
    pub(super) crossing: Crossing,
    /// How it is reached.
    pub(super) config: &'a RedisConfig,
    /// Where what is owed to it is noted.
    pub(super) home: Option<&'a Home>,
    /// How what it loads is checked.
    pub(super) verify: Verify,
    /// Says when to end early.
    pub(super) stop: &'a CancellationToken,
    /// Time and chance.
    pub(super) ground: &'a Ground,
    /// Hears the steps.
    pub(super) monitor: &'a SharedMonitor,
}

/// What the server is told for the time of a restore.
struct Conditions {
    /// What it must log in with.
    token: String,
    /// Settings with their old and new values.
    settings: Vec<(String, String, String)>,
    /// The note of what is owed.
    pledge: Option<Pledge>,
    /// What its append-only file was like before.
    persistence: BTreeMap<String, String>,
}

/// Why a dump was not loaded, and whether the server may have emptied itself for it.
struct NotLoaded {
    failure: Failure,
    whole: bool,
}

impl Takeover<'_> {
    /// Does all of it; returns once the server is a primary of its own again and its files are written.
    pub(super) async fn run(mut self) -> Result<Verified> {
        let conditions = self.conditions().await?;
        let restored = self.restore(&conditions).await;
        let put_back = self.put_back(&conditions).await;
        if put_back.is_ok()
            && self.is_free().await
            && let Some(pledge) = conditions.pledge
        {
            if restored.is_ok() { pledge.paid() } else { pledge.given_back() }?;
        }
        match (restored, put_back) {
            (Err(failure), Err(other)) => Err(failure.hint(other.one_line())),
            (restored, put_back) => restored.and_then(|verified| put_back.map(|()| verified)),
        }
    }

    /// Reads what there is and notes what will be owed; changes nothing.
    async fn conditions(&mut self) -> Result<Conditions> {
        let mut old = BTreeMap::new();
        for name in ["masterauth", "tls-replication", "repl-diskless-load"] {
            // A setting that the version does not know needs no change.
            old.extend(self.control.settings(name).await?.into_iter().filter(|(found, _)| found == name));
        }
        let theirs = old.get("masterauth").filter(|auth| !auth.is_empty()).cloned();
        let token = theirs.unwrap_or_else(|| self.ground.hex(32));
        let encrypted = if self.crossing.tls.is_some() { "yes" } else { "no" };
        let wanted = [
            ("masterauth", token.as_str()),
            ("tls-replication", encrypted),
            ("repl-diskless-load", "disabled"),
        ];
        let settings: Vec<_> = wanted
            .iter()
            .filter_map(|(name, new)| Some((*name, old.get(*name)?, *new)))
            .filter(|(_, old, new)| old != new)
            .map(|(name, old, new)| (name.to_owned(), old.clone(), new.to_owned()))
            .collect();
        let persistence = self.control.info("persistence").await?;
        let pledge = Pledge::begin_at(self.home, self.owed(&settings), self.monitor)?;
        Ok(Conditions { token, settings, pledge, persistence })
    }

    fn owed(&self, settings: &[(String, String, String)]) -> Owed {
        Owed {
            source: self.name.to_string(),
            url: self.config.url.clone(),
            changes: settings.iter().map(|(name, old, new)| Change::new(name, old, new)).collect(),
            before: self.before.keys.clone(),
            wanted: self.archive.survey.introspected.then(|| self.archive.survey.keys_by_db()),
            safety: self.safety.and_then(|safety| safety.file.clone()),
            filling: None,
        }
    }

    async fn change_settings(&mut self, conditions: &Conditions) -> Result<()> {
        for (name, _, new) in &conditions.settings {
            self.control.set(name, new).await?;
        }
        Ok(())
    }

    async fn put_back(&mut self, conditions: &Conditions) -> Result<()> {
        let mut failure = None;
        for (name, old, _) in &conditions.settings {
            let mut done = self.control.set(name, old).await;
            if done.is_err() && self.reopen().await {
                done = self.control.set(name, old).await;
            }
            failure = failure.or(done.err());
        }
        failure.map_or(Ok(()), |failure| {
            let names: Vec<&str> = conditions.settings.iter().map(|(name, ..)| name.as_str()).collect();
            Err(Failure::new(
                ExitCode::Failed,
                format!("the settings of {} were not put back", self.server.shown()),
            )
            .because(failure)
            .hint(format!("Restart the server, or set {} again.", names.join(", "))))
        })
    }

    /// Makes the server follow nobody; tried again on a new connection, because it takes no writes until then.
    async fn free(&mut self) -> Result<()> {
        let words = ["REPLICAOF", "NO", "ONE"];
        let mut freed: Result<String> = self.control.ask(&words).await;
        if freed.is_err() && self.reopen().await {
            freed = self.control.ask(&words).await;
        }
        freed.map(drop)
    }

    /// Returns whether the server follows nobody.
    async fn is_free(&mut self) -> bool {
        let replication = self.control.info("replication").await;
        replication.is_ok_and(|fields| fields.get("role").is_some_and(|role| role == "master"))
    }

    async fn restore(&mut self, conditions: &Conditions) -> Result<Verified> {
        match self.load(conditions, self.archive).await {
            Ok(primary) => self.finish(conditions, primary).await,
            Err(broken) => Err(self.recover(conditions, broken).await),
        }
    }

    /// Has the server load a dump; it still follows the primary that comes back.
    async fn load(&mut self, conditions: &Conditions, archive: &Archive) -> Result<Primary, NotLoaded> {
        let not_begun = |failure| NotLoaded { failure, whole: false };
        self.change_settings(conditions).await.map_err(not_begun)?;
        let (found, knocked) = self.find_way(conditions, archive).await.map_err(not_begun)?;
        let Some(primary) = found else { return Err(not_begun(self.not_reached(knocked))) };
        match self.wait_loaded(&primary).await {
            Ok(()) => Ok(primary),
            Err(failure) => Err(NotLoaded { failure, whole: primary.close() }),
        }
    }

    /// Checks what was loaded, and makes the server a primary of its own.
    async fn finish(&mut self, conditions: &Conditions, primary: Primary) -> Result<Verified> {
        let checked = self.check().await;
        self.say("making the server a primary of its own again");
        self.free().await?;
        drop(primary);
        self.wait_rewritten(conditions).await?;
        if self.stop.is_cancelled() {
            let what =
                "the restore was stopped after the dump had gone over: the server holds the restored data";
            return Err(Failure::new(ExitCode::Interrupted, what).hint(
                "It is a primary again and takes writes; what it loaded was counted and not read back.",
            ));
        }
        checked
    }

    /// Compares what was loaded with the dump while nothing can change it.
    async fn check(&mut self) -> Result<Verified> {
        if self.verify == Verify::Nothing || !self.archive.survey.introspected {
            return Ok(Verified::No);
        }
        self.count().await?;
        if self.verify == Verify::Counts {
            return Ok(Verified::Counts);
        }
        self.say("reading the keys back");
        let compared = readback::compare(self.server, self.config, self.archive, self.ground);
        match self.stop.run_until_cancelled(compared).await {
            None => Ok(Verified::Counts),
            Some(Ok(verified)) => Ok(verified),
            Some(Err(failure)) if failure.exit() == ExitCode::SourceDown => {
                let what = format!("the keys were counted and not read back: {}", failure.one_line());
                self.monitor.warn(
                    Some(self.name),
                    what,
                    Some("Give the user +psync +replconf, or say --verify counts."),
                );
                Ok(Verified::Counts)
            }
            Some(Err(failure)) => Err(failure),
        }
    }

    fn say(&self, what: &str) {
        self.monitor.step(Some(self.name), what.to_owned());
    }

    /// Tries the addresses under which the server may reach us until it comes with the token; tells also whether
    /// anybody came at all.
    async fn find_way(
        &mut self,
        conditions: &Conditions,
        archive: &Archive,
    ) -> Result<(Option<Primary>, bool)> {
        let mut knocked = false;
        for (host, port) in self.crossing.hosts.clone() {
            // A port that the policy names is the only one that the server can reach.
            let contacts = if port == 0 { CONTACTS_MAX } else { 1 };
            for _ in 0..contacts {
                let Some(primary) = self.listen(&host, port, conditions, archive).await else { break };
                if let Some(pledge) = &conditions.pledge {
                    pledge.asked(&host, primary.port())?;
                }
                self.say(&format!("asking the server to synchronise from {host}:{}", primary.port()));
                let _: String = self.control.ask(&["REPLICAOF", &host, &primary.port().to_string()]).await?;
                let until = Instant::now() + Duration::from_secs(CONTACT_SECONDS_MAX / contacts);
                while Instant::now() < until {
                    if self.stop.is_cancelled() && !primary.close() {
                        return Err(stopped());
                    }
                    if primary.progress().let_in {
                        return Ok((Some(primary), true));
                    }
                    sleep(Duration::from_millis(ASK_MILLISECONDS)).await;
                }
                knocked |= primary.progress().knocked;
                // One that came in the very last moment is served.
                if primary.close() {
                    return Ok((Some(primary), true));
                }
            }
        }
        Ok((None, knocked))
    }

    /// Listens at `host` itself where it is an address of this machine, everywhere else otherwise.
    async fn listen(
        &self,
        host: &str,
        port: u16,
        conditions: &Conditions,
        archive: &Archive,
    ) -> Option<Primary> {
        let anywhere: IpAddr = Ipv4Addr::UNSPECIFIED.into();
        let exact = host.parse().unwrap_or(anywhere);
        for bind in [exact, anywhere] {
            let pledge = conditions.pledge.clone();
            let terms = Terms {
                token: conditions.token.clone(),
                replid: self.ground.hex(20),
                spool: archive.spool.clone(),
                size_bytes: archive.survey.size_bytes,
                tls: self.crossing.tls.clone(),
                before_last: Box::new(move || pledge.as_ref().map_or(Ok(()), Pledge::whole)),
            };
            if let Ok(primary) = Primary::listen((bind, port), terms).await {
                return Some(primary);
            }
        }
        None
    }

    /// Waits until the server has loaded the dump and follows us.
    async fn wait_loaded(&mut self, primary: &Primary) -> Result<()> {
        self.say("sending the dump");
        let mut patience = Patience::new();
        loop {
            let link = self.link().await;
            let progress = primary.progress();
            if link.up && progress.loaded {
                return Ok(());
            }
            let is_stopped = self.stop.is_cancelled();
            if is_stopped && !primary.close() {
                return Err(stopped());
            }
            if let Some(why) = patience.ended(progress, link, is_stopped) {
                let exit = if is_stopped { ExitCode::Interrupted } else { ExitCode::Failed };
                let what = format!("{} did not take the dump", self.server.shown());
                return Err(Failure::new(exit, what).because(why).hint("Its log says why."));
            }
            sleep(Duration::from_millis(ASK_MILLISECONDS)).await;
        }
    }

    /// Asks how the server follows us.
    async fn link(&mut self) -> Link {
        let replication = self.control.info("replication").await;
        let persistence = self.control.info("persistence").await;
        let (Ok(replication), Ok(persistence)) = (replication, persistence) else {
            let began = Instant::now();
            let refused = !self.reopen().await && began.elapsed() < Duration::from_secs(REFUSED_SECONDS_MAX);
            return Link { refused, ..Link::default() };
        };
        let field = |name: &str| {
            let value = replication.get(name).or_else(|| persistence.get(name));
            value.map_or("", String::as_str)
        };
        let moving =
            ["master_link_status", "master_sync_read_bytes", "loading_loaded_bytes", "async_loading"];
        Link {
            up: field("master_link_status") == "up" && field("loading") == "0",
            free: field("role") == "master",
            refused: false,
            moving: moving.map(field).join(" "),
        }
    }

    /// Opens the control connection again; the server may have closed it or be gone.
    async fn reopen(&mut self) -> bool {
        match Control::open(self.server).await {
            Ok(control) => {
                *self.control = control;
                true
            }
            Err(_) => false,
        }
    }

    /// Compares the keys with the dump's while nothing can change them.
    async fn count(&mut self) -> Result<()> {
        let (wanted, found) = (self.archive.survey.keys_by_db(), self.control.keys_by_db().await?);
        if wanted == found {
            return Ok(());
        }
        let what = format!("{} holds other keys than the dump", self.server.shown());
        Err(Failure::new(ExitCode::Partial, what)
            .because(format!("keys by database: {found:?}, in the dump: {wanted:?}")))
    }

    /// Waits until a restart would find the new data.
    async fn wait_rewritten(&mut self, conditions: &Conditions) -> Result<()> {
        let began = Instant::now();
        let mut rewrite = Rewrite::since(&conditions.persistence);
        let mut said = false;
        let what = format!("{} did not finish its append-only file", self.server.shown());
        loop {
            let persistence = self.control.info("persistence").await.map_err(|failure| {
                failure.hint("A restart before its append-only file is rewritten brings the old data back: restore again.")
            })?;
            let limit = if self.stop.is_cancelled() { STOP_REWRITE_SECONDS_MAX } else { REWRITE_SECONDS_MAX };
            match rewrite.judge(&persistence, Instant::now()) {
                Judged::Written => return Ok(()),
                Judged::Failed => {
                    return Err(Failure::new(ExitCode::Failed, what).because("it tries and fails").hint(
                        "The data is loaded, but a restart would bring the old data back: make room on the server's disk and run BGREWRITEAOF.",
                    ));
                }
                Judged::Waiting if began.elapsed() > Duration::from_secs(limit) => {
                    let exit =
                        if self.stop.is_cancelled() { ExitCode::Interrupted } else { ExitCode::Failed };
                    return Err(Failure::new(exit, what).hint(
                        "The data is loaded; until INFO shows aof_rewrite_in_progress:0 a restart would bring the old data back.",
                    ));
                }
                Judged::Waiting => {}
            }
            if !said {
                self.say("waiting until the server has rewritten its append-only file");
                said = true;
            }
            sleep(Duration::from_millis(ASK_MILLISECONDS)).await;
        }
    }

    fn not_reached(&self, knocked: bool) -> Failure {
        let failure =
            Failure::new(ExitCode::Failed, format!("{} did not reach this host", self.server.shown()));
        if knocked {
            return failure.because("it connected and did not log in as a replica does").hint(
                "Its log says why. Where it wants its replication encrypted, its tls-ca-cert-file must hold the authority of `cert_file`.",
            );
        }
        failure
            .because(format!("it was asked to and did not connect within {CONTACT_SECONDS_MAX} seconds"))
            .hint("Set `advertise` of this source to an address, or address:port, of this host that the server can reach.")
    }

    /// Lets go of the server after a failure, if that cannot cost the old data; puts it back where it may be lost.
    async fn recover(&mut self, conditions: &Conditions, broken: NotLoaded) -> Failure {
        let NotLoaded { failure, whole } = broken;
        let held = self.held().await;
        let safe = !whole || self.before.is_empty() || held.as_ref() == Some(&self.before.keys);
        if safe && held.is_some() && (self.is_free().await || self.free().await.is_ok()) {
            return failure.hint("The server was left with the data that it had.");
        }
        let Some(safety) = self.safety.filter(|_| whole) else { return failure.hint(LEFT) };
        let failure = if held.is_none() || self.stop.is_cancelled() {
            failure.hint(LEFT)
        } else {
            self.say("putting back what the server held");
            match self.put_data_back(conditions, safety).await {
                Ok(()) => return failure.hint("What the server held before was put back."),
                Err(again) => {
                    failure.hint(format!("What it held was not put back: {}", again.one_line())).hint(LEFT)
                }
            }
        };
        match safety.hint() {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }

    /// Returns what the server holds; one that is gone may come back.
    async fn held(&mut self) -> Option<BTreeMap<u64, u64>> {
        let until = Instant::now() + Duration::from_secs(BACK_SECONDS_MAX);
        loop {
            if let Ok(held) = self.control.keys_by_db().await {
                let persistence = self.control.info("persistence").await.unwrap_or_default();
                if persistence.get("loading").is_some_and(|loading| loading == "0") {
                    return Some(held);
                }
            } else {
                self.reopen().await;
            }
            if Instant::now() > until {
                return None;
            }
            sleep(Duration::from_millis(ASK_MILLISECONDS)).await;
        }
    }

    async fn put_data_back(&mut self, conditions: &Conditions, safety: &Safety) -> Result<()> {
        let loaded = self.load(conditions, &safety.archive).await;
        let primary = loaded.map_err(|broken| broken.failure)?;
        self.free().await?;
        drop(primary);
        self.wait_rewritten(conditions).await
    }
}

/// What to do with a server that was not let go.
const LEFT: &str = "The server was left as it is, perhaps as a replica without a primary, because it may hold neither the old nor the new data: restart it to load its own append-only file, or run REPLICAOF NO ONE to keep what it holds now.";

/// How the server follows us.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Link {
    /// Whether it has loaded the dump and the connection stands.
    up: bool,
    /// Whether it follows nobody.
    free: bool,
    /// Whether it takes no connections.
    refused: bool,
    /// Figures that move while it works.
    moving: String,
}

/// How long a server may take.
struct Patience {
    last: Option<(Progress, Link)>,
    until: Instant,
    stop_until: Option<Instant>,
    gone_since: Option<Instant>,
}

impl Patience {
    fn new() -> Self {
        Self { last: None, until: Instant::now(), stop_until: None, gone_since: None }
    }

    /// Returns why it is waited for no longer.
    fn ended(&mut self, progress: Progress, link: Link, is_stopped: bool) -> Option<String> {
        let now = Instant::now();
        let (refused, free) = (link.refused, link.free);
        let seen = Some((progress, link));
        if seen != self.last {
            self.last = seen;
            self.until = now + Duration::from_secs(STILL_SECONDS_MAX);
        }
        if is_stopped {
            let limit = now + Duration::from_secs(STOP_LOAD_SECONDS_MAX);
            self.until = self.until.min(*self.stop_until.get_or_insert(limit));
        }
        self.gone_since = refused.then(|| self.gone_since.unwrap_or(now));
        let is_gone =
            self.gone_since.is_some_and(|since| now - since > Duration::from_secs(GONE_SECONDS_MAX));
        if free {
            Some("it was restarted, or told to be a primary, in the middle of it".to_owned())
        } else if is_gone {
            Some("it went down in the middle of it".to_owned())
        } else if progress.given_up {
            Some("it asked for it again and again".to_owned())
        } else if now <= self.until {
            None
        } else if is_stopped {
            Some(format!(
                "the restore was stopped, and it was not loaded within {STOP_LOAD_SECONDS_MAX} seconds"
            ))
        } else {
            Some(format!("nothing moved for {STILL_SECONDS_MAX} seconds"))
        }
    }
}

fn stopped() -> Failure {
    Failure::new(ExitCode::Interrupted, "the restore was stopped; the server keeps its old data")
}
