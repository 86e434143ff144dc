//! A Redis or Valkey server as a source: one dump over the wire, and what the server says about itself.
//!
//! Where Sentinels watch the server, they are asked which one it is, and a failover meanwhile is followed once; of a
//! cluster every shard is read ([`super::cluster_read`]).
//!
//! *Order.* Facts are asked first, then the dump is pulled to the spool at line rate and proven, its digests behind
//! that. It is put in order, and only then are the entries sent: `server.json`, `dump.rdb`. What is sent is digested
//! again and must be the same. While it is sent the server is already free.
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
use tokio::time::Instant;

use super::{
    cluster::SlotMap,
    cluster_read,
    control::Control,
    cuts::Cuts,
    describe::ServerFacts,
    moment::{ASKS_MAX, Before, Moment},
    psync::Granted,
    rdb::{Checksum, Survey},
    reorder::{self, Ordered},
    replica::Chosen,
    sentinel,
    server::{Server, may_pass, withholds},
    spool::{Room, Spool},
    wire::Wire,
};
use crate::{
    clock::Ground,
    error::{Context, ExitCode, Failure, Result},
    event::SharedMonitor,
    flow::{
        Attrs, BodyWriter, Cut, EntryMeta, EntrySink, FRAME_BYTES_MAX, FlowResult, Point, Previous, Problem,
        Source, Stage, fixed_path,
    },
    names::{ByteCount, SourceName},
    policy::RedisConfig,
};

/// Path and item of the dump.
pub(super) const DUMP: (&str, &str) = ("dump.rdb", "dump");
/// Path and item of the server's facts.
pub(super) const FACTS: (&str, &str) = ("server.json", "server");
/// How long a failover may take: Sentinels and clusters wait some seconds before they believe that a server is down.
pub(super) const FAILOVER_SECONDS_MAX: u64 = 60;

/// Returns whether an entry of a Redis source is a dump: of a server, or of one of a cluster's shards.
pub(super) fn is_dump(path: &str) -> bool {
    path == DUMP.0 || path.strip_suffix(".rdb").is_some_and(|stem| stem.starts_with("dump-"))
}

/// Reads a Redis or Valkey server.
pub struct RedisSource {
    pub(super) name: SourceName,
    pub(super) config: RedisConfig,
    pub(super) ground: Ground,
    pub(super) monitor: SharedMonitor,
}

/// A proven dump in the spool, and where it came from.
pub(super) struct Pulled {
    pub(super) chosen: Chosen,
    pub(super) facts: Option<ServerFacts>,
    pub(super) spool: Spool,
    pub(super) granted: Granted,
    pub(super) survey: Survey,
    /// What the dump cannot hold.
    pub(super) gap: Option<Problem>,
}

impl RedisSource {
    /// Makes a source; the server is reached when it is read.
    pub fn new(name: SourceName, config: RedisConfig, ground: Ground, monitor: SharedMonitor) -> Self {
        Self { name, config, ground, monitor }
    }

    /// Finds the server and pulls its dump.
    async fn pull_chosen(&self) -> Result<Pulled> {
        if self.config.sentinels.is_empty() {
            let server = Server::of(&self.name, &self.config)?;
            return self.pull_from(Chosen::only(Arc::new(server))).await;
        }
        match self.pull_from(self.watched().await?).await {
            Err(failure) if may_pass(&failure) => {
                let what = format!("the Sentinels are asked once more: {}", failure.one_line());
                self.monitor.warn(Some(&self.name), what, None);
                self.pull_from(self.watched().await?).await
            }
            pulled => pulled,
        }
    }

    /// Asks the Sentinels which server is read.
    async fn watched(&self) -> Result<Chosen> {
        self.monitor.step(Some(&self.name), "asking the Sentinels".to_owned());
        let patience = Duration::from_secs(FAILOVER_SECONDS_MAX);
        let chosen = sentinel::place(&self.name, &self.config, &self.ground, patience).await?;
        self.tell_choice(&chosen);
        Ok(chosen)
    }

    /// Tells which of several servers is read, and why no replica is.
    pub(super) fn tell_choice(&self, chosen: &Chosen) {
        for why in &chosen.passed_over {
            self.monitor.warn(Some(&self.name), format!("not read: {why}"), None);
        }
        self.monitor.step(Some(&self.name), format!("reading the {}", chosen.shown()));
    }

    /// Asks the chosen server for its facts and pulls its dump.
    pub(super) async fn pull_from(&self, chosen: Chosen) -> Result<Pulled> {
        let server = Arc::clone(&chosen.server);
        let (facts, gap) = self.facts(&server).await?;
        let spool = Spool::new(self.config.spool_dir.as_ref())?;
        let (mut granted, survey) = self.pull(&server, &spool).await?;
        if let Some(known_at) = chosen.known_at {
            // A replica lacks what was on its way when it was asked.
            granted.at = granted.at.min(known_at);
        }
        let (spool, survey) = self.sort(spool, survey).await?;
        Ok(Pulled { chosen, facts, spool, granted, survey, gap })
    }

    /// Asks the server for its facts and warns of what a person should know.
    async fn facts(&self, server: &Arc<Server>) -> Result<(Option<ServerFacts>, Option<Problem>)> {
        let mut control = Control::open(server).await?;
        match ServerFacts::ask(&mut control).await {
            Ok(facts) => {
                let gap = if self.config.cluster { None } else { gap(&facts, &mut control).await };
                Ok((Some(facts), gap))
            }
            // The right to replicate is enough for the data.
            Err(failure) if withholds(&failure) => {
                self.monitor.warn(
                    Some(&self.name),
                    "the server's settings and users are not backed up: INFO is not allowed".to_owned(),
                    Some("Give the backup user +info +config|get +acl|list +module|list +time."),
                );
                Ok((None, None))
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
            let (mut granted, survey, moment) = before.pull(server, wire, spool, true, &self.ground).await?;
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
        let tell = || {
            if !std::mem::replace(&mut is_told, true) {
                let what = "waiting until the server has saved for another replica";
                self.monitor.step(Some(&self.name), what.to_owned());
            }
        };
        Before::in_turn(server, wire, &self.ground, until, tell).await
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
        if let Some(code) = survey.unknown_code {
            let what = format!(
                "the dump holds code {code}, which this version does not know: its keys are not counted"
            );
            let hint = "It is stored whole and can be restored whole, into a server of its own version.";
            self.monitor.warn(Some(&self.name), what, Some(hint));
        }
    }

    /// Puts the dump in order, so that what did not change is found again.
    async fn sort(&self, spool: Spool, survey: Survey) -> Result<(Spool, Survey)> {
        let folder = self.config.spool_dir.clone();
        let Ordered { spool, survey, no_room } = reorder::by_key(spool, survey, folder).await?;
        if let Some(error) = no_room {
            let what = format!("the dump is stored as it came, and much of it anew each time: {error}");
            let hint = "Make room for two dumps in the spool folder, or set `spool_dir` of this source.";
            self.monitor.warn(Some(&self.name), what, Some(hint));
        }
        Ok((spool, survey))
    }
}

#[async_trait]
impl Source for RedisSource {
    fn name(&self) -> &SourceName {
        &self.name
    }

    async fn read(self: Box<Self>, sink: EntrySink, _previous: Option<Box<dyn Previous>>) -> FlowResult<()> {
        if self.config.cluster {
            return cluster_read::read(&self, sink).await;
        }
        let pulled = self.pull_chosen().await?;
        let items: Vec<String> = match pulled.facts {
            Some(_) => vec![DUMP.1.to_owned(), FACTS.1.to_owned()],
            None => vec![DUMP.1.to_owned()],
        };
        sink.announce(items).await?;
        if let Some(facts) = &pulled.facts {
            send_json(&sink, FACTS, facts).await?;
        }
        if let Some(problem) = &pulled.gap {
            sink.report(problem.clone()).await?;
        }
        send_dump(&sink, DUMP, &pulled, Attrs::new()).await?;
        let Granted { at, replid, offset, .. } = &pulled.granted;
        let mut point = Point::at(*at).mark("replid", replid).mark("offset", offset.to_string());
        if !self.config.sentinels.is_empty() {
            point = point.mark("node", pulled.chosen.server.address()).mark("role", pulled.chosen.role);
        }
        if pulled.granted.is_their_clock {
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
async fn gap(facts: &ServerFacts, control: &mut Control) -> Option<Problem> {
    if facts.field("cluster_enabled") != Some("1") {
        return None;
    }
    // A cluster of one primary has everything.
    if SlotMap::ask(control)
        .await
        .is_ok_and(|map| map.with_slots().count() == 1 && map.uncovered().is_empty())
    {
        return None;
    }
    Some(Problem {
        what: "cluster".to_owned(),
        why: "the server is part of a cluster and its dump holds only its own slots: set cluster = true to take every shard"
            .to_owned(),
    })
}

/// Sends what is known as JSON.
pub(super) async fn send_json(
    sink: &EntrySink,
    names: (&str, &str),
    facts: &impl serde::Serialize,
) -> FlowResult<()> {
    let json = serde_json::to_vec_pretty(facts)
        .failed(ExitCode::Failed, || format!("entry `{}` cannot be written", names.0))?;
    sink.put(entry(names, Stage::Schema), json).await?;
    sink.complete(names.1);
    Ok(())
}

/// Sends the spooled dump; its digest is computed on the way and told with the end, and `more` with it.
pub(super) async fn send_dump(
    sink: &EntrySink,
    names: (&str, &str),
    Pulled { spool, survey, granted, .. }: &Pulled,
    more: Attrs,
) -> FlowResult<()> {
    // One in order is cut finer than the repository does.
    let mut cuts = survey.sorted.then(|| Cuts::begin(survey.size_bytes));
    let cut = if survey.sorted { Cut::Marked } else { Cut::Content };
    let meta = EntryMeta { cut, ..entry(names, Stage::Data) };
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
        match &mut cuts {
            None => body.write(Bytes::from(bytes)).await?,
            Some(cuts) => write_cut(&mut body, cuts.push(&bytes)).await?,
        }
        left -= want as u64;
    }
    if let Some(cuts) = cuts {
        write_cut(&mut body, cuts.finish()).await?;
    }
    let unread = || "the spooled dump cannot be read again".to_owned();
    let again = digest.await.failed(ExitCode::Failed, unread)?.failed(ExitCode::Failed, unread)?;
    if let Some(again) = &again
        && !is_same(survey, again)
    {
        return Err(Failure::new(ExitCode::Failed, "the spooled dump changed while it was read").into());
    }
    let mut facts = trailer(again.as_ref().unwrap_or(survey), survey.checksum);
    facts.extend(more);
    body.finish_with(facts).await?;
    sink.complete(names.1);
    Ok(())
}

/// Returns whether what was sent is what came: a dump that was put in order has its digests from before that.
fn is_same(survey: &Survey, sent: &Survey) -> bool {
    let is_known = survey.digest.is_none() || survey.digest == sent.digest;
    let is_known = is_known && (survey.digest_exact.is_none() || survey.digest_exact == sent.digest_exact);
    is_known && (survey.size_bytes, &survey.keys) == (sent.size_bytes, &sent.keys)
}

async fn write_cut(body: &mut BodyWriter, chunks: Vec<Bytes>) -> FlowResult<()> {
    for chunk in chunks {
        body.write(chunk).await?;
        body.border().await?;
    }
    Ok(())
}

/// Returns the facts that the manifest keeps of a dump.
fn trailer(survey: &Survey, checksum: Checksum) -> Attrs {
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
    tell("checksum", json!(checksum));
    tell("introspected", json!(survey.introspected));
    if let Some(code) = survey.unknown_code {
        tell("unknown_code", json!(code));
    }
    if survey.sorted {
        tell("order", json!("key"));
    }
    for (name, digest) in [("digest", &survey.digest), ("digest_exact", &survey.digest_exact)] {
        if let Some(digest) = digest {
            tell(name, json!(digest));
        }
    }
    facts
}

#[cfg(test)]
mod tests;
