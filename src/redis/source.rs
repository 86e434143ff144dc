//! A Redis or Valkey server as a source: one dump over the wire, and what the server says about itself.
//!
//! *Order.* Facts are asked first, then the dump is pulled to the spool at line rate and proven, and only
//! then are the entries sent: `server.json`, `dump.rdb`. While they are sent the server is already free.
//!
//! A dump that the server had begun for somebody else is asked for again, after that save has ended: MySQL was read
//! before, and what its rows refer to must be in here.
//!
//! *Limits.* A dump is asked for [`ASKS_MAX`] times at most.
//!
//! *Crash.* A dump that breaks off, fails its checksum or its structure ends the reading with an error
//! before the inventory is finished; nothing of it is ever taken for whole.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{
    control::Control,
    describe::ServerFacts,
    moment::{self, Before, Moment},
    psync::{self, Granted},
    rdb::{Checksum, Survey},
    server::{Server, is_withheld},
    spool::{Room, Spool},
    wire::Wire,
};
use crate::{
    clock::Ground,
    error::{Context, ExitCode, Failure, Result},
    event::SharedMonitor,
    flow::{
        Attrs, Cut, EntryMeta, EntrySink, FRAME_BYTES_MAX, FlowResult, Point, Previous, Problem, Source,
        Stage, fixed_path,
    },
    names::{ByteCount, SourceName},
    policy::RedisConfig,
};

/// Path and item of the dump.
pub(super) const DUMP: (&str, &str) = ("dump.rdb", "dump");
/// Path and item of the server's facts.
pub(super) const FACTS: (&str, &str) = ("server.json", "server");

/// How often a dump is asked for, if the server gives us one that it had begun before.
const ASKS_MAX: u32 = 3;
/// How often a server that saves for another replica is asked whether it is done.
const LOOK_MILLISECONDS: u64 = 500;

/// Reads a Redis or Valkey server.
pub struct RedisSource {
    name: SourceName,
    config: RedisConfig,
    ground: Ground,
    monitor: SharedMonitor,
}

impl RedisSource {
    /// Makes a source; the server is reached when it is read.
    pub fn new(name: SourceName, config: RedisConfig, ground: Ground, monitor: SharedMonitor) -> Self {
        Self { name, config, ground, monitor }
    }

    /// Asks the server for its facts and warns of what a person should know.
    async fn facts(&self, server: &Arc<Server>) -> Result<Option<ServerFacts>> {
        let mut control = Control::open(server).await?;
        match ServerFacts::ask(&mut control).await {
            Ok(facts) => Ok(Some(facts)),
            // The right to replicate is enough for the data.
            Err(failure) if failure.chain().iter().any(|line| is_withheld(line)) => {
                self.monitor.warn(
                    Some(&self.name),
                    "the server's settings and users are not backed up: INFO is not allowed".to_owned(),
                    Some("Give the backup user +info +config|get +acl|list +module|list +time."),
                );
                Ok(None)
            }
            Err(failure) => Err(failure),
        }
    }

    /// Pulls and proves the dump, and finds out which instant it stands at.
    async fn pull(&self, server: &Server, spool: &Spool) -> Result<(Granted, Survey)> {
        let until = Instant::now() + server.patience().turn;
        let (mut asks, mut last) = (0, None);
        loop {
            let mut wire = server.dial().await?;
            let before = self.turn(server, &mut wire, until).await?;
            self.check_room(server, &before, spool)?;
            self.monitor.step(Some(&self.name), format!("asking {} for a dump", server.shown()));
            let mut granted = psync::ask(server, &mut wire, &self.ground).await?;
            let now_ms = granted.at.timestamp_millis();
            let survey = psync::receive(server, wire, granted.frame, spool.rewound()?, now_ms).await?;
            let moment = before.moment(&granted, moment::begun_at(spool.reader(0)));
            asks += 1;
            if moment.may_be_bettered(last) && asks < ASKS_MAX && Instant::now() < until {
                let what = "the server gave a dump that it had begun before; asking for another one";
                self.monitor.step(Some(&self.name), what.to_owned());
                last = moment.age;
                spool.empty()?;
                continue;
            }
            granted.is_their_clock = !before.knows_both_clocks();
            self.tell(&survey, &moment, granted.is_their_clock);
            granted.at = moment.at;
            return Ok((granted, survey));
        }
    }

    /// Asks how the server stands, and waits while it saves for another replica: that save would be given to us too.
    async fn turn(&self, server: &Server, wire: &mut Wire, until: Instant) -> Result<Before> {
        let mut is_told = false;
        loop {
            let before = Before::ask(server, wire, &self.ground).await?;
            if !before.would_share() || Instant::now() >= until {
                return Ok(before);
            }
            if !is_told {
                let what = "waiting until the server has saved for another replica";
                self.monitor.step(Some(&self.name), what.to_owned());
                is_told = true;
            }
            sleep(Duration::from_millis(LOOK_MILLISECONDS)).await;
        }
    }

    /// Looks whether the dump will fit, before the server forks for it.
    fn check_room(&self, server: &Server, before: &Before, spool: &Spool) -> Result<()> {
        let Some(dataset_bytes) = before.dataset_bytes() else { return Ok(()) };
        let free_bytes = spool.free_bytes()?;
        let figures = format!(
            "{} are free and the data takes {} in memory",
            ByteCount(free_bytes),
            ByteCount(dataset_bytes)
        );
        let hint = "Make room for one whole dump in the spool folder, or set `spool_dir` of this source.";
        match Room::judge(free_bytes, dataset_bytes) {
            Room::Enough => {}
            Room::Tight => {
                let what = format!("the dump may not fit into the spool folder: {figures}");
                self.monitor.warn(Some(&self.name), what, Some(hint));
            }
            Room::Hopeless => {
                let what = format!("the dump of {} will not fit into the spool folder", server.shown());
                return Err(Failure::new(ExitCode::Failed, what).because(figures).hint(hint));
            }
        }
        Ok(())
    }

    /// Warns of what a person should know about a dump that is kept.
    fn tell(&self, survey: &Survey, moment: &Moment, is_their_clock: bool) {
        if survey.checksum == Checksum::Absent {
            let what = "the dump has no checksum; only its structure was checked".to_owned();
            self.monitor.warn(Some(&self.name), what, Some("Set rdbchecksum yes on the server."));
        }
        if moment.age.is_some() {
            let at = moment.at.format("%Y-%m-%d %H:%M:%S UTC");
            let (whose, hint) = if is_their_clock {
                (
                    " by its own clock",
                    "Give the backup user +time +info, so that it can be told what that means.",
                )
            } else {
                ("", "Its other replicas synchronise again and again: the server's log says why.")
            };
            let what =
                format!("the server gave a dump that it had begun before it was asked, at {at}{whose}");
            self.monitor.warn(Some(&self.name), what, Some(hint));
        }
    }
}

#[async_trait]
impl Source for RedisSource {
    fn name(&self) -> &SourceName {
        &self.name
    }

    async fn read(self: Box<Self>, sink: EntrySink, _previous: Option<Box<dyn Previous>>) -> FlowResult<()> {
        let server = Arc::new(Server::of(&self.name, &self.config)?);
        let facts = self.facts(&server).await?;
        let spool = Spool::new(self.config.spool_dir.as_ref())?;
        let (granted, survey) = self.pull(&server, &spool).await?;

        let items: Vec<String> = match facts {
            Some(_) => vec![DUMP.1.to_owned(), FACTS.1.to_owned()],
            None => vec![DUMP.1.to_owned()],
        };
        sink.announce(items).await?;
        if let Some(facts) = &facts {
            let json = serde_json::to_vec_pretty(facts)
                .failed(ExitCode::Failed, || "the server's facts cannot be written".to_owned())?;
            sink.put(entry(FACTS, Stage::Schema), json).await?;
            sink.complete(FACTS.1);
            if let Some(problem) = gap(facts) {
                sink.report(problem).await?;
            }
        }
        send_dump(&sink, &spool, &survey, &granted).await?;
        sink.complete(DUMP.1);
        let mut point =
            Point::at(granted.at).mark("replid", granted.replid).mark("offset", granted.offset.to_string());
        if granted.is_their_clock {
            point = point.mark("clock", "server");
        }
        sink.finish(point).await
    }
}

/// Makes an entry's meta. Patterns are matched with keys inside the dump, so the entries themselves are
/// containers without a name, which every pattern reaches into.
fn entry((path, item): (&str, &str), stage: Stage) -> EntryMeta {
    EntryMeta { select: String::new(), container: true, ..EntryMeta::new(fixed_path(path), stage, item) }
}

/// Returns what one server's dump cannot hold.
fn gap(facts: &ServerFacts) -> Option<Problem> {
    // A cluster of one primary has everything; more need one source each.
    (facts.field("cluster_enabled") == Some("1")).then(|| Problem {
        what: "cluster".to_owned(),
        why: "the server is part of a cluster and its dump holds only its own slots: add one source for each primary"
            .to_owned(),
    })
}

/// Sends the spooled dump; its digest is computed on the way and told with the end.
async fn send_dump(sink: &EntrySink, spool: &Spool, survey: &Survey, granted: &Granted) -> FlowResult<()> {
    let meta = EntryMeta { cut: Cut::Content, ..entry(DUMP, Stage::Data) };
    let mut body = sink.begin(meta).await?;
    let again = spool.reader(0);
    let (introspected, now_ms) = (survey.introspected, granted.at.timestamp_millis());
    let digest = tokio::task::spawn_blocking(move || {
        introspected.then(|| Survey::of_all(again, now_ms, true)).transpose()
    });
    let mut from = tokio::fs::File::from_std(spool.rewound()?);
    let mut left = survey.size_bytes;
    while left > 0 {
        let want = usize::try_from(left).unwrap_or(usize::MAX).min(FRAME_BYTES_MAX);
        let mut bytes = vec![0; want];
        let read = tokio::io::AsyncReadExt::read_exact(&mut from, &mut bytes).await;
        read.failed(ExitCode::Failed, || "the spooled dump cannot be read".to_owned())?;
        body.write(Bytes::from(bytes)).await?;
        left -= want as u64;
    }
    let unread = || "the spooled dump cannot be read again".to_owned();
    let again = digest.await.failed(ExitCode::Failed, unread)?.failed(ExitCode::Failed, unread)?;
    if let Some(again) = &again
        && (again.size_bytes, &again.keys) != (survey.size_bytes, &survey.keys)
    {
        return Err(Failure::new(ExitCode::Failed, "the spooled dump changed while it was read").into());
    }
    body.finish_with(trailer(survey, again.and_then(|again| again.digest))).await
}

/// Returns the facts that the manifest keeps of a dump.
fn trailer(survey: &Survey, digest: Option<String>) -> Attrs {
    let modules: Vec<&String> = survey.modules.iter().collect();
    let mut facts = Attrs::new();
    let mut tell = |name: &str, value: Value| drop(facts.insert(name.to_owned(), value));
    tell("keys", json!(survey.keys));
    if !survey.expired.is_empty() {
        tell("expired", json!(survey.expired));
    }
    tell("functions", json!(survey.functions));
    tell("modules", json!(modules));
    tell("rdb_version", json!(survey.rdb_version));
    tell("rdb_flavour", json!(survey.flavour));
    tell("redis_version", json!(survey.written_by()));
    tell("checksum", json!(survey.checksum));
    tell("introspected", json!(survey.introspected));
    if let Some(digest) = digest {
        tell("digest", json!(digest));
    }
    facts
}

#[cfg(test)]
mod tests;
