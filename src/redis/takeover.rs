//! The restore of a whole dump into a running server, as its primary for one full synchronisation.
//!
//! *Order.* Settings are remembered; `masterauth` becomes a token that only we and the server know,
//! `repl-diskless-load` is switched off, so that the server has the whole dump on its own disk before it
//! empties itself; `REPLICAOF` us; the dump goes over; the keys are counted while the server still is a
//! replica, because replicas neither expire keys nor take writes; `REPLICAOF NO ONE`; the rewrite of the
//! append-only file is waited for, because a restart before its end loads the old one. Whatever happened,
//! the settings are put back.
//!
//! *Crash.* If the dump did not go over whole, the server still has its old data and is released with
//! `REPLICAOF NO ONE`. If it went over whole and the server did not load it, the server may be empty while
//! its append-only file still holds the old data: then `REPLICAOF NO ONE` would rewrite that file empty, so
//! the server is left as it is and the failure says what to do. If lifeboat itself dies, the server waits
//! for a primary that is gone, with the old or the new data: `REPLICAOF NO ONE` and `CONFIG SET masterauth`
//! by hand, or a restart, bring it back; no file of it was changed by us.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::time::{Instant, sleep};

use super::{
    archive::Archive,
    control::Control,
    preflight::Target,
    primary::{Primary, Progress},
    server::Server,
};
use crate::{
    clock::Ground,
    error::{ExitCode, Failure, Result},
    event::SharedMonitor,
    names::SourceName,
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
/// How long the server may rewrite its append-only file.
const REWRITE_SECONDS_MAX: u64 = 6 * 3600;

/// The settings that are changed for the time of a restore, and to what.
const SETTINGS: [(&str, Option<&str>); 4] = [
    ("masterauth", None),
    ("masteruser", Some("")),
    ("tls-replication", Some("no")),
    ("repl-diskless-load", Some("disabled")),
];

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
    /// `host` or `host:port` under which the server reaches us, when the policy says.
    pub(super) advertise: Option<&'a str>,
    /// Time and chance.
    pub(super) ground: &'a Ground,
    /// Hears the steps.
    pub(super) monitor: &'a SharedMonitor,
}

impl Takeover<'_> {
    /// Does all of it; returns once the server is a primary of its own again and its files are written.
    pub(super) async fn run(mut self) -> Result<()> {
        let old = self.settings().await?;
        let token = self.ground.hex(32);
        let restored = match self.change_settings(&old, &token).await {
            Ok(()) => self.restore(&token).await,
            Err(failure) => Err(failure),
        };
        let put_back = self.put_back(&old).await;
        restored.and(put_back)
    }

    async fn settings(&mut self) -> Result<BTreeMap<String, String>> {
        let mut old = BTreeMap::new();
        for (name, _) in SETTINGS {
            // A setting that the version does not know needs no change.
            old.extend(self.control.settings(name).await?.into_iter().filter(|(found, _)| found == name));
        }
        Ok(old)
    }

    async fn change_settings(&mut self, old: &BTreeMap<String, String>, token: &str) -> Result<()> {
        for (name, wanted) in SETTINGS {
            let wanted = wanted.unwrap_or(token);
            if old.get(name).is_some_and(|value| value != wanted) {
                self.control.set(name, wanted).await?;
            }
        }
        Ok(())
    }

    async fn put_back(&mut self, old: &BTreeMap<String, String>) -> Result<()> {
        let mut failure = None;
        for (name, value) in old {
            let mut done = self.control.set(name, value).await;
            if done.is_err() && self.reopen().await {
                done = self.control.set(name, value).await;
            }
            failure = failure.or(done.err());
        }
        failure.map_or(Ok(()), |failure| {
            Err(Failure::new(ExitCode::Failed, format!("the settings of {} were not put back", self.server.shown()))
                .because(failure)
                .hint("Restart the server, or set masterauth, masteruser, tls-replication and repl-diskless-load again."))
        })
    }

    async fn restore(&mut self, token: &str) -> Result<()> {
        let (primary, loaded) = match self.find_way(token).await? {
            Some(primary) => {
                let loaded = self.wait_loaded(&primary).await;
                (Some(primary), loaded)
            }
            None => (None, Err(self.not_reached())),
        };
        if let Err(failure) = loaded {
            let sent_all = primary.as_ref().is_some_and(|primary| primary.progress().sent_all);
            drop(primary);
            return Err(self.release(failure, sent_all).await);
        }
        let counted = self.count().await;
        self.say("making the server a primary of its own again");
        let _: String = self.control.ask(&["REPLICAOF", "NO", "ONE"]).await?;
        drop(primary);
        self.wait_rewritten().await?;
        counted
    }

    fn say(&self, what: &str) {
        self.monitor.step(Some(self.name), what.to_owned());
    }

    /// Tries the addresses under which the server may reach us until it comes with the token.
    async fn find_way(&mut self, token: &str) -> Result<Option<Primary>> {
        for (host, port) in self.candidates().await {
            // A port that the policy names is the only one that the server can reach.
            let contacts = if port == 0 { CONTACTS_MAX } else { 1 };
            for _ in 0..contacts {
                let Some(primary) = self.listen(&host, port, token).await else { break };
                self.say(&format!("asking the server to synchronise from {host}:{}", primary.port()));
                let _: String = self.control.ask(&["REPLICAOF", &host, &primary.port().to_string()]).await?;
                let until = Instant::now() + Duration::from_secs(CONTACT_SECONDS_MAX / contacts);
                while Instant::now() < until {
                    if primary.progress().let_in {
                        return Ok(Some(primary));
                    }
                    sleep(Duration::from_millis(ASK_MILLISECONDS)).await;
                }
            }
        }
        Ok(None)
    }

    /// Returns addresses of this host, the likeliest first.
    async fn candidates(&mut self) -> Vec<(String, u16)> {
        if let Some(advertise) = self.advertise {
            let (host, port) = match advertise.rsplit_once(':') {
                Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
                    (host, port.parse().unwrap_or(0))
                }
                _ => (advertise, 0),
            };
            return vec![(host.trim_matches(['[', ']']).to_owned(), port)];
        }
        // The address that the server sees us under is ours, or that of a gateway which is ours: so it is
        // for a container whose port is published here. Behind any other translation the policy must say.
        let seen: String = self.control.ask(&["CLIENT", "INFO"]).await.unwrap_or_default();
        let seen = seen.split(' ').find_map(|field| field.strip_prefix("addr=")?.parse::<SocketAddr>().ok());
        let mut hosts: Vec<IpAddr> = Vec::new();
        for address in [seen, self.control.local()].into_iter().flatten() {
            if !hosts.contains(&address.ip()) {
                hosts.push(address.ip());
            }
        }
        if hosts.is_empty() {
            hosts.push(Ipv4Addr::LOCALHOST.into());
        }
        hosts.into_iter().map(|host| (host.to_string(), 0)).collect()
    }

    /// Listens at `host` itself where it is an address of this machine, everywhere else otherwise.
    async fn listen(&self, host: &str, port: u16, token: &str) -> Option<Primary> {
        let anywhere: IpAddr = Ipv4Addr::UNSPECIFIED.into();
        let exact = host.parse().unwrap_or(anywhere);
        for bind in [exact, anywhere] {
            let replid = self.ground.hex(20);
            let (spool, size_bytes) = (self.archive.spool.clone(), self.archive.survey.size_bytes);
            if let Ok(primary) =
                Primary::listen((bind, port), token.to_owned(), replid, spool, size_bytes).await
            {
                return Some(primary);
            }
        }
        None
    }

    /// Waits until the server has loaded the dump and follows us.
    async fn wait_loaded(&mut self, primary: &Primary) -> Result<()> {
        self.say("sending the dump");
        let mut last: Option<(Progress, String)> = None;
        let mut until = Instant::now();
        loop {
            let (link_up, state) = self.link().await;
            let progress = primary.progress();
            if link_up && progress.loaded {
                return Ok(());
            }
            let now = Some((progress, state));
            if now != last {
                last = now;
                until = Instant::now() + Duration::from_secs(STILL_SECONDS_MAX);
            }
            if progress.given_up || Instant::now() > until {
                let what = format!("{} did not take the dump", self.server.shown());
                let why = if progress.given_up {
                    "it asked for it again and again".to_owned()
                } else {
                    format!("nothing moved for {STILL_SECONDS_MAX} seconds")
                };
                return Err(Failure::new(ExitCode::Failed, what).because(why).hint("Its log says why."));
            }
            sleep(Duration::from_millis(ASK_MILLISECONDS)).await;
        }
    }

    /// Returns whether the link to us is up, and figures that move while the server works.
    async fn link(&mut self) -> (bool, String) {
        let replication = self.control.info("replication").await;
        let persistence = self.control.info("persistence").await;
        let (Ok(replication), Ok(persistence)) = (replication, persistence) else {
            self.reopen().await;
            return (false, "no answer".to_owned());
        };
        let field = |name: &str| {
            let value = replication.get(name).or_else(|| persistence.get(name));
            value.map_or("", String::as_str)
        };
        let up = field("master_link_status") == "up" && field("loading") == "0";
        let moving =
            ["master_link_status", "master_sync_read_bytes", "loading_loaded_bytes", "async_loading"];
        (up, moving.map(field).join(" "))
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
        if !self.archive.survey.introspected {
            return Ok(());
        }
        let (wanted, found) = (self.archive.survey.keys_by_db(), self.control.keys_by_db().await?);
        if wanted == found {
            return Ok(());
        }
        let what = format!("{} holds other keys than the dump", self.server.shown());
        Err(Failure::new(ExitCode::Partial, what)
            .because(format!("keys by database: {found:?}, in the dump: {wanted:?}")))
    }

    /// Waits until a restart would find the new data.
    async fn wait_rewritten(&mut self) -> Result<()> {
        let until = Instant::now() + Duration::from_secs(REWRITE_SECONDS_MAX);
        let mut said = false;
        loop {
            let persistence = self.control.info("persistence").await?;
            let field = |name: &str| persistence.get(name).map_or("", String::as_str);
            let busy = field("aof_rewrite_in_progress") == "1" || field("aof_rewrite_scheduled") == "1";
            if field("aof_enabled") != "1" || (!busy && field("aof_last_bgrewrite_status") == "ok") {
                return Ok(());
            }
            if Instant::now() > until || (!busy && field("aof_last_bgrewrite_status") == "err") {
                let what = format!("{} did not finish its append-only file", self.server.shown());
                return Err(Failure::new(ExitCode::Failed, what).hint(
                    "The data is loaded, but a restart would bring the old data back: make room on the server's disk and run BGREWRITEAOF.",
                ));
            }
            if !said {
                self.say("waiting until the server has rewritten its append-only file");
                said = true;
            }
            sleep(Duration::from_millis(ASK_MILLISECONDS)).await;
        }
    }

    fn not_reached(&self) -> Failure {
        Failure::new(ExitCode::Failed, format!("{} did not reach this host", self.server.shown()))
            .because(format!("it was asked to and did not connect within {CONTACT_SECONDS_MAX} seconds"))
            .hint("Set `advertise` of this source to an address, or address:port, of this host that the server can reach.")
    }

    /// Lets go of the server after a failure, if that cannot cost the old data.
    async fn release(&mut self, failure: Failure, sent_all: bool) -> Failure {
        let held = match self.control.keys_by_db().await {
            Ok(held) => Some(held),
            Err(_) if self.reopen().await => self.control.keys_by_db().await.ok(),
            Err(_) => None,
        };
        let safe = !sent_all || self.before.is_empty() || held.as_ref() == Some(&self.before.keys);
        if safe && held.is_some() {
            let released: Result<String> = self.control.ask(&["REPLICAOF", "NO", "ONE"]).await;
            if released.is_ok() {
                return failure.hint("The server was left with the data that it had.");
            }
        }
        failure.hint(
            "The server was left as a replica without a primary, because it may hold neither the old nor the new data: restart it to load its own append-only file, or run REPLICAOF NO ONE to keep what it holds now.",
        )
    }
}
