//! A Redis or Valkey server as a source: one dump over the wire, and what the server says about itself.
//!
//! *Order.* Facts are asked first, then the dump is pulled to the spool at line rate and proven, and only
//! then are the entries sent: `server.json`, `dump.rdb`. While they are sent the server is already free.
//!
//! *Crash.* A dump that breaks off, fails its checksum or its structure ends the reading with an error
//! before the inventory is finished; nothing of it is ever taken for whole.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use serde_json::{Value, json};

use super::{
    control::Control,
    cuts::Cuts,
    describe::ServerFacts,
    psync::{self, Granted},
    rdb::{Checksum, Survey},
    reorder::{self, Ordered},
    server::Server,
    spool::Spool,
};
use crate::{
    clock::Ground,
    error::{Context, ExitCode, Failure, Result},
    event::SharedMonitor,
    flow::{
        Attrs, BodyWriter, Cut, EntryMeta, EntrySink, FRAME_BYTES_MAX, FlowResult, Point, Previous, Problem,
        Source, Stage, fixed_path,
    },
    names::SourceName,
    policy::RedisConfig,
};

/// Path and item of the dump.
pub(super) const DUMP: (&str, &str) = ("dump.rdb", "dump");
/// Path and item of the server's facts.
pub(super) const FACTS: (&str, &str) = ("server.json", "server");

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
            Err(failure) if failure.chain().iter().any(|line| line.starts_with("NOPERM")) => {
                self.monitor.warn(
                    Some(&self.name),
                    "the server's settings and users are not backed up: INFO is not allowed".to_owned(),
                    Some("Give the backup user +info +config|get +acl|list +module|list."),
                );
                Ok(None)
            }
            Err(failure) => Err(failure),
        }
    }

    /// Pulls and proves the dump.
    async fn pull(&self, server: &Server, spool: &Spool) -> Result<(Granted, Survey)> {
        let mut wire = server.dial().await?;
        self.monitor.step(Some(&self.name), format!("asking {} for a dump", server.shown()));
        let granted = psync::ask(server, &mut wire, &self.ground).await?;
        let now_ms = granted.at.timestamp_millis();
        let survey = psync::receive(server, wire, granted.frame, spool.rewound()?, now_ms).await?;
        if survey.checksum == Checksum::Absent {
            let what = "the dump has no checksum; only its structure was checked".to_owned();
            self.monitor.warn(Some(&self.name), what, Some("Set rdbchecksum yes on the server."));
        }
        if let Some(code) = survey.unknown_code {
            let what = format!(
                "the dump holds code {code}, which this version does not know: its keys are not counted"
            );
            let hint = "It is stored whole and can be restored whole, into a server of its own version.";
            self.monitor.warn(Some(&self.name), what, Some(hint));
        }
        Ok((granted, survey))
    }

    /// Puts the dump in order, so that what did not change is found again.
    async fn sort(&self, spool: Spool, survey: Survey, granted: &Granted) -> Result<(Spool, Survey)> {
        let (folder, now_ms) = (self.config.spool_dir.clone(), granted.at.timestamp_millis());
        let Ordered { spool, survey, no_room } = reorder::by_key(spool, survey, folder, now_ms).await?;
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
        let server = Arc::new(Server::of(&self.name, &self.config)?);
        let facts = self.facts(&server).await?;
        let spool = Spool::new(self.config.spool_dir.as_ref())?;
        let (granted, survey) = self.pull(&server, &spool).await?;
        let (spool, survey) = self.sort(spool, survey, &granted).await?;

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
        let point =
            Point::at(granted.at).mark("replid", granted.replid).mark("offset", granted.offset.to_string());
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
    // One in order is cut finer than the repository does.
    let mut cuts = survey.sorted.then(|| Cuts::begin(survey.size_bytes));
    let cut = if survey.sorted { Cut::Marked } else { Cut::Content };
    let meta = EntryMeta { cut, ..entry(DUMP, Stage::Data) };
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
    body.finish_with(trailer(again.as_ref().unwrap_or(survey), survey.checksum)).await
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
