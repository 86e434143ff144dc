//! The reader: buckets and their objects, in order, reading only what changed.
//!
//! *Order.* Inventory (the buckets), then every bucket's settings, then bucket by bucket its objects in key
//! order, of a key the oldest version first; where only a sample of them is read whole, each bucket is listed before
//! to draw it. Entries begin in that order so that the next run can walk this one beside its listing; bodies stream
//! side by side, at most `concurrency` objects at a time; turns that no object takes read ranges of big ones ahead.
//!
//! *Crash.* Nothing is written anywhere; a run that stops is run again. Objects that vanish between listing
//! and reading are counted (`vanished` in the point), and objects that cannot be read are reported.
//!
//! *Anomalies.* A bad listing must not look like deletions. A bucket that is suddenly empty, gone or much smaller than
//! in the snapshot before ends the reading: the source is not in this snapshot, and the one before stays what the next
//! run is compared with, until a person says that it is right.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
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
    alike::Alike,
    bucket,
    client::Server,
    facts::{Facts, TAGS_UNREAD},
    fetch::{Extent, Fetcher, Opened},
    judge::Judge,
    listing::{Listed, Lister},
    merge::{Change, Merge, Shrink},
    ranges::{Counted, Share, Span},
    sample::Sample,
    tags::{self, Due},
    versions::{Numbers, VERSIONS, Walk, marker_meta},
};
use crate::{
    clock::Ground,
    error::{Context, ExitCode, Failure, Result},
    event::SharedMonitor,
    flow::{EntryMeta, EntrySink, FlowResult, Point, Previous, PreviousEntry, Problem, Reuse, Source},
    names::SourceName,
    policy::{AnomalyConfig, S3Config, S3Tags, Versions},
};

/// Problems after which a run gives up: so many are a fault of the whole and not of the objects.
const PROBLEMS_MAX: u64 = 1000;
/// The mark with the kinds of bucket settings that the server does not know: their names, with `, ` between.
const UNKNOWN_SETTINGS: &str = "unknown_settings";

/// Reads the buckets of one S3 server.
#[derive(Clone)]
pub struct S3Source {
    name: SourceName,
    config: S3Config,
    ground: Ground,
    monitor: SharedMonitor,
    sample: Option<Sample>,
    shrink: Shrink,
    share: Option<Share>,
}

impl S3Source {
    /// Makes a source; nothing is asked of the server yet.
    pub fn new(name: SourceName, config: S3Config, ground: Ground, monitor: SharedMonitor) -> Self {
        let shrink = Shrink::Percent(AnomalyConfig::default().shrink_percent);
        Self { name, config, ground, monitor, sample: None, shrink, share: None }
    }

    /// Judges what is gone since the snapshot before by another limit.
    #[must_use]
    pub fn shrinking(mut self, shrink: Shrink) -> Self {
        self.shrink = shrink;
        self
    }

    /// Reads only a share. What is gone is then counted and not judged: see [`super::joined`].
    #[must_use]
    pub fn share(mut self, share: Share) -> Self {
        self.share = Some(share);
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

/// What is under way of a bucket.
#[derive(Default)]
struct Sending {
    pumps: JoinSet<FlowResult<()>>,
    numbers: Numbers,
    archived: Alike,
}

/// One object's turn: what was known of it before, or its bytes on their way.
enum Turn {
    Same(Box<PreviousEntry>),
    /// The same object, whose tags are asked for; and whether they are known.
    Asking(JoinHandle<Result<(PreviousEntry, bool)>>),
    Opening(JoinHandle<Result<Opened>>, OwnedSemaphorePermit),
    Marker(Box<EntryMeta>),
}

/// What all buckets of a run share.
struct Run {
    server: Server,
    judge: Judge,
    share: Share,
    /// What is counted instead of judged, when this is a share of the whole.
    counted: Option<Mutex<Counted>>,
    /// The buckets that the policy takes.
    wanted: GlobSet,
    /// The buckets of which all versions are read.
    with_versions: BTreeSet<String>,
    fetcher: Fetcher,
    exclude: GlobSet,
    sample: Option<Sample>,
    tags: S3Tags,
    permits: Arc<Semaphore>,
    concurrency: usize,
    sink: EntrySink,
    vanished: AtomicU64,
    /// Versions that went while they were read and that no key showed.
    expired: AtomicU64,
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
        let all = wanted_buckets(&server, &self.config.buckets).await?;
        let is_first = previous.is_none();
        let share = self.share.clone().unwrap_or_default();
        let previous = match &self.share {
            Some(share) => previous.map(|previous| share.clone().only(previous)),
            None => previous,
        };
        let mut merge = Merge::new(previous).await?;
        let mut buckets = all.clone();
        buckets.retain(|name| share.is_first() || share.span(name).is_some());
        let admin = if share.is_last() { Admin::of(&self.name, &self.config)? } else { None };
        let items = buckets.iter().cloned().chain(admin.iter().map(|_| admin::ITEM.to_owned()));
        sink.announce(items.collect()).await?;
        let (mut with_versions, mut unknown) = (BTreeSet::new(), BTreeSet::new());
        for name in &buckets {
            if self.settings(&server, name, share.is_first().then_some(&sink), &mut unknown).await? {
                with_versions.insert(name.clone());
            }
        }
        let begin = self.ground.clock.now();
        let with_settings = if share.is_first() { buckets.clone() } else { Vec::new() };
        let run = self.begin(server, share, with_settings, with_versions, &sink)?;
        // As empty as the snapshot before is no news.
        if all.is_empty() && (is_first || !merge.is_over()) {
            let patterns = self.config.buckets.join("`, `");
            run.judge.refuse(
                format!("`{}` has no bucket that matches `{patterns}`", self.name),
                "the server shows none",
            )?;
        }
        for name in &buckets {
            run.gone(merge.enter(name).await?).await?;
            if let Some(span) = run.share.span(name) {
                run.bucket(name, span, &mut merge).await?;
            }
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
            .mark("vanished", (run.vanished.into_inner() + run.expired.into_inner()).to_string())
            .mark("unproven", run.fetcher.unproven().to_string());
        let point = if unknown.is_empty() {
            point
        } else {
            point.mark(UNKNOWN_SETTINGS, unknown.into_iter().collect::<Vec<_>>().join(", "))
        };
        let point = match &run.counted {
            Some(counted) => lock(counted).mark(point),
            None => point,
        };
        sink.finish(point).await
    }
}

impl S3Source {
    /// Returns what all buckets of a run share. `with_settings` are those whose settings were read, `with_versions`
    /// those of which all versions are.
    fn begin(
        &self,
        server: Server,
        share: Share,
        with_settings: Vec<String>,
        with_versions: BTreeSet<String>,
        sink: &EntrySink,
    ) -> Result<Run> {
        let concurrency = self.config.concurrency.max(1);
        let permits = Arc::new(Semaphore::new(concurrency));
        Ok(Run {
            fetcher: Fetcher::new(&server, Arc::clone(&permits)),
            judge: Judge {
                server: server.clone(),
                name: self.name.clone(),
                monitor: self.monitor.clone(),
                shrink: self.shrink,
            },
            server,
            counted: self.share.as_ref().map(|_| {
                Mutex::new(Counted { settings: with_settings.into_iter().collect(), ..Counted::default() })
            }),
            share,
            wanted: exclusion(&self.config.buckets)?,
            with_versions,
            exclude: exclusion(&self.config.exclude)?,
            sample: self.sample.clone(),
            tags: self.config.tags,
            permits,
            concurrency,
            sink: sink.clone(),
            vanished: AtomicU64::new(0),
            expired: AtomicU64::new(0),
            untagged: AtomicU64::new(0),
            problems: Arc::default(),
        })
    }

    /// Reads a bucket's settings, and sends them where there is a sink: one share of a source has them all. Returns
    /// whether all versions of its objects are read, and adds what the server does not know to `unknown`.
    async fn settings(
        &self,
        server: &Server,
        name: &str,
        sink: Option<&EntrySink>,
        unknown: &mut BTreeSet<&'static str>,
    ) -> FlowResult<bool> {
        if sink.is_none() && self.config.versions != Versions::All {
            return Ok(false);
        }
        let settings = bucket::read(server, name).await?;
        let is_unknown = settings.unread.iter().any(|(setting, _)| *setting == "versioning");
        let all = self.config.versions == Versions::All && (settings.versioning.is_some() || is_unknown);
        let Some(sink) = sink else { return Ok(all) };
        if settings.versioning.is_some() && !all {
            self.monitor.warn(
                Some(&self.name),
                format!("bucket `{name}` keeps versions: only the latest of each object is taken"),
                Some("Write versions = \"all\" in this source to take all of them."),
            );
        }
        unknown.extend(&settings.unknown);
        for (setting, why) in &settings.unread {
            let what = format!("{setting} of bucket {name}");
            sink.report(Problem { what, why: why.clone() }).await?;
        }
        let mut meta = settings.entry(name)?;
        if all {
            meta = meta.with(VERSIONS, "all");
        }
        sink.put(meta, settings.to_json()).await?;
        Ok(all)
    }
}

impl Run {
    /// Sends a bucket's objects and waits until the last byte of them is on its way.
    async fn bucket(&self, name: &str, span: Span, merge: &mut Merge) -> FlowResult<()> {
        // The queue's depth bounds how far the listing runs ahead of the objects.
        let (queue, turns) = mpsc::channel(self.concurrency * 2);
        let vanished = self.vanished.load(Ordering::Relaxed);
        let (mut change, ()) =
            tokio::try_join!(self.list(name, span, merge, queue), self.take_turns(name, turns))?;
        change.vanished = self.vanished.load(Ordering::Relaxed) - vanished;
        match &self.counted {
            Some(counted) => drop(lock(counted).buckets.insert(name.to_owned(), change)),
            None => self.judge.bucket(name, change).await?,
        }
        match self.untagged.swap(0, Ordering::Relaxed) {
            0 => Ok(()),
            count => {
                // One line for all of them: it is a right that is missing, not the objects' fault.
                let why = format!("the tags of {count} objects cannot be read, their bytes were");
                self.sink.report(Problem { what: format!("bucket {name}"), why }).await
            }
        }
    }

    async fn list(
        &self,
        name: &str,
        span: Span,
        merge: &mut Merge,
        queue: mpsc::Sender<Turn>,
    ) -> FlowResult<Change> {
        let (limit, fetcher) = (self.limit(name).await?, self.fetcher.for_bucket());
        let mut walk = Walk::new(&self.server, name, self.with_versions.contains(name), span);
        let mut change = Change::default();
        while let Some(listed) = walk.next().await? {
            change.listed += u64::from(listed.is_current());
            let same = merge.unchanged(name, &listed, &mut change).await?;
            if self.is_excluded(name, &listed.key) {
                continue;
            }
            let turn = if listed.is_marker() {
                Turn::Marker(Box::new(marker_meta(name, &listed)?))
            } else if let Some(previous) = same {
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
        walk.take_unreadable().report(name, &self.sink).await?;
        Ok(change)
    }

    /// Sees to the tags of an object that is otherwise as it was.
    async fn same(&self, mut previous: PreviousEntry, listed: &Listed, fetcher: &Fetcher) -> Option<Turn> {
        // Those of a version that another one has followed are read once.
        let is_read = !listed.is_current() && !previous.meta.attrs.contains_key(TAGS_UNREAD);
        if is_read {
            return Some(Turn::Same(Box::new(previous)));
        }
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

    /// Judges buckets that the snapshot before had and that were not met.
    async fn gone(&self, buckets: Vec<String>) -> FlowResult<()> {
        for bucket in buckets {
            if let Some(counted) = &self.counted {
                lock(counted).missing.insert(bucket);
            } else if let Some(problem) = self.judge.gone(&bucket, &self.wanted)? {
                self.sink.report_gone(problem).await?;
            }
        }
        Ok(())
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

    async fn take_turns(&self, bucket: &str, mut turns: mpsc::Receiver<Turn>) -> FlowResult<()> {
        let mut sending = Sending::default();
        while let Some(turn) = turns.recv().await {
            match turn {
                Turn::Same(previous) => self.reuse(*previous, &mut sending.numbers).await?,
                Turn::Asking(asking) => {
                    let (previous, is_known) =
                        asking.await.failed(ExitCode::Failed, || "a read was stopped".to_owned())??;
                    self.untagged.fetch_add(u64::from(!is_known), Ordering::Relaxed);
                    self.reuse(previous, &mut sending.numbers).await?;
                }
                Turn::Opening(opening, permit) => {
                    let opened =
                        opening.await.failed(ExitCode::Failed, || "a read was stopped".to_owned())??;
                    self.send(bucket, opened, permit, &mut sending).await?;
                }
                Turn::Marker(mut meta) => {
                    sending.numbers.number(&mut meta);
                    self.sink.put(*meta, Bytes::new()).await?;
                }
            }
            while let Some(pumped) = sending.pumps.try_join_next() {
                joined(pumped)?;
            }
        }
        while let Some(pumped) = sending.pumps.join_next().await {
            joined(pumped)?;
        }
        sending.archived.report(bucket, &self.sink).await
    }

    async fn reuse(&self, previous: PreviousEntry, numbers: &mut Numbers) -> FlowResult<()> {
        let PreviousEntry { mut meta, trailer, reuse, .. } = previous;
        numbers.number(&mut meta);
        self.sink.reuse(meta, trailer, reuse).await
    }

    async fn send(
        &self,
        bucket: &str,
        mut opened: Opened,
        permit: OwnedSemaphorePermit,
        Sending { pumps, numbers, archived }: &mut Sending,
    ) -> FlowResult<()> {
        if let Opened::Whole { meta, .. } | Opened::Streaming { meta, .. } | Opened::Known { meta, .. } =
            &mut opened
        {
            numbers.number(meta);
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
            Opened::Vanished { was_current } => {
                let count = if was_current { &self.vanished } else { &self.expired };
                count.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            // What knows that it lacks what the key shows puts none of the older versions over it.
            Opened::Archived { problem, shown_by }
                if shown_by.as_ref().is_some_and(|key| numbers.has(bucket, key)) =>
            {
                self.sink.report(problem).await
            }
            Opened::Archived { problem, .. } => {
                archived.add(problem);
                Ok(())
            }
            Opened::Refused(problem) => report(&self.sink, &self.problems, problem).await,
        }
    }
}

fn lock(counted: &Mutex<Counted>) -> MutexGuard<'_, Counted> {
    counted.lock().unwrap_or_else(PoisonError::into_inner)
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
pub(super) async fn wanted_buckets(server: &Server, patterns: &[String]) -> Result<Vec<String>> {
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
