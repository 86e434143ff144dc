//! The reader: buckets and their objects, in order, reading only what changed.
//!
//! *Order.* Inventory (the buckets), then every bucket's settings, then bucket by bucket its objects in key
//! order; where only a sample of them is read whole, each bucket is listed before to draw it. Entries begin in
//! that order so that the next run can walk this one beside its listing; bodies stream side by side, at most
//! `concurrency` objects at a time.
//!
//! *Crash.* Nothing is written anywhere; a run that stops is run again. Objects that vanish between listing
//! and reading are counted (`vanished` in the point), and objects that cannot be read are reported.
//!
//! *Anomalies.* A bad listing must not look like deletions. A bucket that is suddenly empty, gone or much smaller than
//! in the snapshot before ends the reading: the source is not in this snapshot, and the one before stays what the next
//! run is compared with, until a person says that it is right.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::SecondsFormat;
use globset::{Glob, GlobSet, GlobSetBuilder};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::{JoinHandle, JoinSet},
};

use super::{
    admin::{self, Admin},
    bucket,
    client::Server,
    facts::{Facts, TAGS_UNREAD},
    fetch::{Extent, Fetcher, Opened},
    listing::{Listed, Lister},
    merge::{Change, Merge, Shrink},
    sample::Sample,
    tags::{self, Due},
};
use crate::{
    clock::Ground,
    error::{Context, ExitCode, Failure, Result},
    event::SharedMonitor,
    flow::{EntrySink, FlowResult, Point, Previous, PreviousEntry, Problem, Reuse, Source},
    names::SourceName,
    policy::{AnomalyConfig, S3Config, S3Tags},
};

/// Problems after which a run gives up: so many are a fault of the whole and not of the objects.
const PROBLEMS_MAX: u64 = 1000;

/// Reads the buckets of one S3 server.
#[derive(Clone)]
pub struct S3Source {
    name: SourceName,
    config: S3Config,
    ground: Ground,
    monitor: SharedMonitor,
    sample: Option<Sample>,
    shrink: Shrink,
}

impl S3Source {
    /// Makes a source; nothing is asked of the server yet.
    pub fn new(name: SourceName, config: S3Config, ground: Ground, monitor: SharedMonitor) -> Self {
        let shrink = Shrink::Percent(AnomalyConfig::default().shrink_percent);
        Self { name, config, ground, monitor, sample: None, shrink }
    }

    /// Judges what is gone since the snapshot before by another limit.
    #[must_use]
    pub fn shrinking(mut self, shrink: Shrink) -> Self {
        self.shrink = shrink;
        self
    }

    /// Reads the objects of a sample whole, and of all others only what the server says of them: each is sent as one
    /// that is reused from nothing, so this is for comparing and not for a backup.
    #[must_use]
    pub fn sampled(mut self, sample: Sample) -> Self {
        self.sample = Some(sample);
        self
    }
}

/// One object's turn: what was known of it before, or its bytes on their way.
enum Turn {
    Same(Box<PreviousEntry>),
    /// The same object, whose tags are asked for; and whether they are known.
    Asking(JoinHandle<Result<(PreviousEntry, bool)>>),
    Opening(JoinHandle<Result<Opened>>, OwnedSemaphorePermit),
}

/// What all buckets of a run share.
struct Run {
    server: Server,
    name: SourceName,
    monitor: SharedMonitor,
    shrink: Shrink,
    /// The buckets that the policy takes.
    wanted: GlobSet,
    fetcher: Fetcher,
    exclude: GlobSet,
    sample: Option<Sample>,
    tags: S3Tags,
    permits: Arc<Semaphore>,
    concurrency: usize,
    sink: EntrySink,
    vanished: AtomicU64,
    untagged: AtomicU64,
    problems: Arc<AtomicU64>,
}

#[async_trait]
impl Source for S3Source {
    fn name(&self) -> &SourceName {
        &self.name
    }

    async fn read(self: Box<Self>, sink: EntrySink, previous: Option<Box<dyn Previous>>) -> FlowResult<()> {
        let server = Server::new(&self.name, &self.config)?;
        let buckets = wanted_buckets(&server, &self.config.buckets).await?;
        let is_first = previous.is_none();
        let mut merge = Merge::new(previous).await?;
        let admin = Admin::of(&self.name, &self.config)?;
        let items = buckets.iter().cloned().chain(admin.iter().map(|_| admin::ITEM.to_owned()));
        sink.announce(items.collect()).await?;
        for name in &buckets {
            self.send_settings(&server, name, &sink).await?;
        }
        let begin = self.ground.clock.now();
        let concurrency = self.config.concurrency.max(1);
        let run = Run {
            fetcher: Fetcher::new(&server),
            server,
            name: self.name.clone(),
            monitor: self.monitor.clone(),
            shrink: self.shrink,
            wanted: exclusion(&self.config.buckets)?,
            exclude: exclusion(&self.config.exclude)?,
            sample: self.sample,
            tags: self.config.tags,
            permits: Arc::new(Semaphore::new(concurrency)),
            concurrency,
            sink: sink.clone(),
            vanished: AtomicU64::new(0),
            untagged: AtomicU64::new(0),
            problems: Arc::default(),
        };
        // As empty as the snapshot before is no news.
        if buckets.is_empty() && (is_first || !merge.is_over()) {
            let patterns = self.config.buckets.join("`, `");
            run.refuse(
                format!("`{}` has no bucket that matches `{patterns}`", self.name),
                "the server shows none",
            )?;
        }
        for name in &buckets {
            run.gone(merge.enter(name).await?).await?;
            run.bucket(name, &mut merge).await?;
            sink.complete(name);
        }
        run.gone(merge.leave().await?).await?;
        if let Some(admin) = admin {
            admin.send(&sink, &self.name, &self.monitor).await?;
        }
        if run.fetcher.unproven() > 0 {
            let what = format!(
                "{} objects were made in parts of unusual sizes: their ETags do not prove their bytes",
                run.fetcher.unproven()
            );
            self.monitor.warn(Some(&self.name), what, None);
        }
        let rfc3339 = |at: chrono::DateTime<chrono::Utc>| at.to_rfc3339_opts(SecondsFormat::Millis, true);
        let point = Point::at(begin)
            .mark("window_begin", rfc3339(begin))
            .mark("window_end", rfc3339(self.ground.clock.now()))
            .mark("vanished", run.vanished.into_inner().to_string())
            .mark("unproven", run.fetcher.unproven().to_string());
        sink.finish(point).await
    }
}

impl S3Source {
    async fn send_settings(&self, server: &Server, name: &str, sink: &EntrySink) -> FlowResult<()> {
        let settings = bucket::read(server, name).await?;
        if settings.versioning.is_some() {
            self.monitor.warn(
                Some(&self.name),
                format!("bucket `{name}` keeps versions: only the latest of each object is taken"),
                Some("Older versions are safe only in the bucket itself so far."),
            );
        }
        for (setting, why) in &settings.unread {
            let what = format!("{setting} of bucket {name}");
            sink.report(Problem { what, why: why.clone() }).await?;
        }
        sink.put(settings.entry(name)?, settings.to_json()).await
    }
}

impl Run {
    /// Sends a bucket's objects and waits until the last byte of them is on its way.
    async fn bucket(&self, name: &str, merge: &mut Merge) -> FlowResult<()> {
        // The queue's depth bounds how far the listing runs ahead of the objects.
        let (queue, turns) = mpsc::channel(self.concurrency * 2);
        let vanished = self.vanished.load(Ordering::Relaxed);
        let (mut change, ()) = tokio::try_join!(self.list(name, merge, queue), self.take_turns(turns))?;
        change.vanished = self.vanished.load(Ordering::Relaxed) - vanished;
        self.judge(name, change).await?;
        match self.untagged.swap(0, Ordering::Relaxed) {
            0 => Ok(()),
            count => {
                // One line for all of them: it is a right that is missing, not the objects' fault.
                let why = format!("the tags of {count} objects cannot be read, their bytes were");
                self.sink.report(Problem { what: format!("bucket {name}"), why }).await
            }
        }
    }

    async fn list(&self, name: &str, merge: &mut Merge, queue: mpsc::Sender<Turn>) -> FlowResult<Change> {
        let (limit, fetcher) = (self.limit(name).await?, self.fetcher.for_bucket());
        let mut lister = Lister::new(&self.server, name).with_tags();
        let mut change = Change::default();
        while let Some(listed) = lister.next().await? {
            change.listed += 1;
            let same = merge.unchanged(name, &listed, &mut change).await?;
            if self.is_excluded(name, &listed.key) {
                continue;
            }
            let turn = if let Some(previous) = same {
                let Some(turn) = self.same(previous, &listed, &fetcher).await else { break };
                turn
            } else {
                let Ok(permit) = Arc::clone(&self.permits).acquire_owned().await else { break };
                let (fetcher, bucket) = (fetcher.clone(), name.to_owned());
                let extent = self.extent(name, &listed.key, limit);
                let opening = tokio::spawn(async move { fetcher.open(&bucket, listed, extent).await });
                Turn::Opening(opening, permit)
            };
            if queue.send(turn).await.is_err() {
                // The other half failed, and says why.
                return Ok(change);
            }
        }
        merge.finish(name, &mut change).await?;
        for key in lister.take_unreadable() {
            let why = "its key is not UTF-8".to_owned();
            self.sink.report(Problem { what: format!("{name}/{key}"), why }).await?;
        }
        Ok(change)
    }

    /// Sees to the tags of an object that is otherwise as it was.
    async fn same(&self, mut previous: PreviousEntry, listed: &Listed, fetcher: &Fetcher) -> Option<Turn> {
        match tags::due(self.tags, &previous.meta.attrs, listed) {
            Due::Nothing => {}
            Due::Told(tags) => Facts::put_tags(&mut previous.meta.attrs, Ok(tags)),
            Due::Ask => {
                let permit = Arc::clone(&self.permits).acquire_owned().await.ok()?;
                let fetcher = fetcher.clone();
                return Some(Turn::Asking(tokio::spawn(async move {
                    let asked = fetcher.tags_again(previous).await;
                    drop(permit);
                    asked
                })));
            }
        }
        Some(Turn::Same(Box::new(previous)))
    }

    /// Fails when too much of a bucket is gone; it is listed again first, for a server that is being started may show
    /// less than it has.
    async fn judge(&self, bucket: &str, change: Change) -> Result<()> {
        let Shrink::Percent(percent) = self.shrink else { return Ok(()) };
        let Some(why) = change.anomaly(percent) else {
            if let Some(what) = change.turnover(percent) {
                self.monitor.warn(Some(&self.name), format!("bucket `{bucket}`: {what}"), None);
            }
            return Ok(());
        };
        let (mut lister, mut again) = (Lister::new(&self.server, bucket), 0_u64);
        while lister.next().await?.is_some() {
            again += 1;
        }
        let found = again.saturating_sub(change.listed);
        let now = Change { gone: change.gone.saturating_sub(found), listed: again, ..change };
        if again > change.listed && now.anomaly(percent).is_none() {
            let what = format!("the listing of bucket `{bucket}` of `{}` cannot be trusted", self.name);
            let why = format!("it had {} objects and, a moment later, {again}", change.listed);
            let hint = "Nothing was taken for deleted. Run the backup again once the server is well.";
            return Err(Failure::new(ExitCode::SourceDown, what).because(why).hint(hint));
        }
        self.refuse(format!("bucket `{bucket}` of `{}` has lost too much", self.name), &why)
    }

    /// Judges buckets that the snapshot before had and that were not met. That one is taken no more is a change of the
    /// policy, and told; one that is taken and not there is a loss.
    async fn gone(&self, buckets: Vec<String>) -> FlowResult<()> {
        for bucket in buckets {
            if self.wanted.is_match(&bucket) {
                let why = "the previous snapshot had objects in it, now the server does not show it";
                self.refuse(format!("bucket `{bucket}` of `{}` is gone", self.name), why)?;
            } else {
                let why =
                    "the previous snapshot had objects in it, now the policy does not take it".to_owned();
                self.sink.report_gone(Problem { what: format!("bucket {bucket}"), why }).await?;
            }
        }
        Ok(())
    }

    /// Fails for an anomaly, unless a person said that it is right.
    fn refuse(&self, what: String, why: &str) -> Result<()> {
        if self.shrink == Shrink::Accepted {
            self.monitor.step(Some(&self.name), format!("{what}, which was accepted: {why}"));
            return Ok(());
        }
        let hint = format!(
            "If that is right, run `lifeboat backup {} --accept-shrink` once. If not, look at the server: older snapshots \
             are as they were.",
            self.name
        );
        Err(Failure::new(ExitCode::SourceDown, what).because(why.to_owned()).hint(hint))
    }

    fn is_excluded(&self, bucket: &str, key: &str) -> bool {
        self.exclude.is_match(format!("{bucket}/{key}"))
    }

    /// Returns the highest lot of a bucket that is read whole.
    async fn limit(&self, bucket: &str) -> Result<u64> {
        let Some(sample) = &self.sample else { return Ok(u64::MAX) };
        let (mut lister, mut lots) = (Lister::new(&self.server, bucket), sample.count());
        while let Some(listed) = lister.next().await? {
            let counts = !self.is_excluded(bucket, &listed.key);
            if counts && lots.add(sample.lot(bucket, listed.key.as_bytes())) {
                break;
            }
        }
        Ok(lots.limit())
    }

    fn extent(&self, bucket: &str, key: &str, limit: u64) -> Extent {
        match &self.sample {
            Some(sample) if !sample.takes(bucket, key, limit) => Extent::Facts,
            _ => Extent::Whole,
        }
    }

    async fn take_turns(&self, mut turns: mpsc::Receiver<Turn>) -> FlowResult<()> {
        let mut pumps = JoinSet::new();
        while let Some(turn) = turns.recv().await {
            match turn {
                Turn::Same(previous) => self.reuse(*previous).await?,
                Turn::Asking(asking) => {
                    let (previous, is_known) =
                        asking.await.failed(ExitCode::Failed, || "a read was stopped".to_owned())??;
                    self.untagged.fetch_add(u64::from(!is_known), Ordering::Relaxed);
                    self.reuse(previous).await?;
                }
                Turn::Opening(opening, permit) => {
                    let opened =
                        opening.await.failed(ExitCode::Failed, || "a read was stopped".to_owned())??;
                    self.send(opened, permit, &mut pumps).await?;
                }
            }
            while let Some(pumped) = pumps.try_join_next() {
                joined(pumped)?;
            }
        }
        while let Some(pumped) = pumps.join_next().await {
            joined(pumped)?;
        }
        Ok(())
    }

    async fn reuse(&self, previous: PreviousEntry) -> FlowResult<()> {
        let PreviousEntry { meta, trailer, reuse, .. } = previous;
        self.sink.reuse(meta, trailer, reuse).await
    }

    async fn send(
        &self,
        opened: Opened,
        permit: OwnedSemaphorePermit,
        pumps: &mut JoinSet<FlowResult<()>>,
    ) -> FlowResult<()> {
        if let Opened::Whole { meta, .. } | Opened::Streaming { meta, .. } | Opened::Known { meta, .. } =
            &opened
        {
            self.untagged.fetch_add(u64::from(meta.attrs.contains_key(TAGS_UNREAD)), Ordering::Relaxed);
        }
        match opened {
            Opened::Whole { meta, bytes, trailer } => {
                let mut writer = self.sink.begin(meta).await?;
                writer.write(bytes).await?;
                writer.finish_with(trailer).await
            }
            Opened::Streaming { meta, pump } => {
                let writer = self.sink.begin(meta).await?;
                let (sink, problems) = (self.sink.clone(), Arc::clone(&self.problems));
                pumps.spawn(async move {
                    let problem = pump.run(writer).await?;
                    drop(permit);
                    match problem {
                        Some(problem) => report(&sink, &problems, problem).await,
                        None => Ok(()),
                    }
                });
                Ok(())
            }
            Opened::Known { meta, trailer } => self.sink.reuse(meta, trailer, Reuse(Bytes::new())).await,
            Opened::Vanished => {
                self.vanished.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            Opened::Refused(problem) => report(&self.sink, &self.problems, problem).await,
        }
    }
}

fn joined(pumped: Result<FlowResult<()>, tokio::task::JoinError>) -> FlowResult<()> {
    pumped.failed(ExitCode::Failed, || "a read was stopped".to_owned())?
}

async fn report(sink: &EntrySink, count: &AtomicU64, problem: Problem) -> FlowResult<()> {
    if count.fetch_add(1, Ordering::Relaxed) >= PROBLEMS_MAX {
        let what = format!("more than {PROBLEMS_MAX} objects cannot be read, the last is `{}`", problem.what);
        return Err(Failure::new(ExitCode::SourceDown, what).because(problem.why).into());
    }
    sink.report(problem).await
}

/// Returns the buckets to take, sorted.
///
/// Names without wildcards are asked for one by one, so that a key that may not list all buckets suffices.
async fn wanted_buckets(server: &Server, patterns: &[String]) -> Result<Vec<String>> {
    let mut names: Vec<String> = Vec::new();
    if patterns.iter().any(|pattern| pattern.contains(['*', '?', '[', '{'])) {
        let globs = exclusion(patterns)?;
        let all = bucket::list(server).await?;
        for literal in patterns.iter().filter(|pattern| !pattern.contains(['*', '?', '[', '{'])) {
            if !all.contains(literal) {
                bucket::require(server, literal).await?;
            }
        }
        names.extend(all.into_iter().filter(|name| globs.is_match(name)));
    } else {
        for name in patterns {
            bucket::require(server, name).await?;
            names.push(name.clone());
        }
    }
    names.sort();
    names.dedup();
    Ok(names)
}

/// Makes the set of globs that a policy names; a glob that names a folder takes all that is inside.
pub(super) fn exclusion(patterns: &[String]) -> Result<GlobSet> {
    let mut builder = GlobSetBuilder::new();
    for pattern in patterns {
        for pattern in [pattern.clone(), format!("{}/**", pattern.trim_end_matches('/'))] {
            let glob = Glob::new(&pattern)
                .failed(ExitCode::Usage, || format!("pattern `{pattern}` of an S3 source is no glob"))?;
            builder.add(glob);
        }
    }
    builder.build().failed(ExitCode::Usage, || "the patterns of an S3 source are too many".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exclusion_takes_a_thing_and_all_that_is_inside() {
        let out = exclusion(&["im-files/tmp".to_owned(), "*.log".to_owned()]).unwrap();
        assert!(out.is_match("im-files/tmp") && out.is_match("im-files/tmp/a/b"));
        assert!(out.is_match("im-files/x/y.log"));
        assert!(!out.is_match("im-files/tmp2") && !out.is_match("im-files/tmp.txt"));
    }
}
