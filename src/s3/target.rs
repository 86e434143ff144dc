//! The writer: buckets, their objects, and last their settings.
//!
//! *Order.* Look what is in the way and refuse before anything is touched; create buckets; write objects, at
//! most `concurrency` at a time; with `replace` and everything selected, remove what the snapshot does not
//! have, unless some of the snapshot did not come; set the buckets' settings, lifecycle rules last.
//!
//! A bucket of which the snapshot has all versions keeps them from before its first object; the versions of a key are
//! written one after the other, on top of what is there, those that stand there in their order left out.
//!
//! *Crash.* Each object appears whole or not at all, and nothing is removed before all is in place. A run
//! that stopped is run again with `replace`: objects that are equal already are not written twice. What somebody else
//! writes meanwhile is neither overwritten nor removed ([`super::guard`]). Lifecycle rules that
//! had to be taken away meanwhile are put back however a run ends, unless it is killed ([`super::rules`]). So is a
//! bucket suspended again that kept no versions before.
//!
//! *Limits.* [`MEMORY_MIB`] of bodies are in memory at a time, whatever `concurrency` is; an object whose parts are
//! longer than that is written alone. After [`REFUSED_MAX`] refused objects a run ends.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
};

use async_trait::async_trait;
use aws_sdk_s3::types::BucketVersioningStatus;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use tokio::{
    sync::{Semaphore, oneshot},
    task::JoinSet,
};

use super::{
    admin::{self, Admin},
    bucket::{self, Settings},
    client::Server,
    facts::{Facts, bucket_path},
    guard::Conditions,
    in_hand::Fate,
    listing::Lister,
    present::Present,
    put::{self, Done, Job, NEWEST_LACKS, Putter, Tentative, There, not_all},
    rules::Rules,
    survey::Survey,
    uploads::{self, Uploads},
    versions::{self, VERSIONS},
};
use crate::{
    error::{Context, ExitCode, Failure, Result},
    event::SharedMonitor,
    flow::{
        Changes, Coming, Entry, EntryMeta, EntryStream, FlowResult, Preflight, Problem, Selection, Stage,
        Tally, Target, TargetState, Verified, WriteOptions,
    },
    names::SourceName,
    policy::S3Config,
};

/// Bytes of bodies in memory, in MiB.
const MEMORY_MIB: u32 = 80;
/// Objects that may be refused before a run ends: so many are a fault of the whole.
const REFUSED_MAX: usize = 1000;
/// Objects that are named where others are only counted.
const NAMED_MAX: usize = 20;
/// Bytes that a bucket's settings may have.
const SETTINGS_BYTES_MAX: usize = 4 << 20;
/// Objects that are counted before a bucket is just called full.
const COUNT_MAX: usize = 12;

/// Writes buckets to one S3 server.
pub struct S3Target {
    pub(super) name: SourceName,
    pub(super) config: S3Config,
    monitor: SharedMonitor,
    bucket: Option<String>,
    pub(super) iam: bool,
    notes: Option<PathBuf>,
}

impl S3Target {
    /// Makes a target; nothing is asked of the server yet.
    pub fn new(name: SourceName, config: S3Config, monitor: SharedMonitor) -> Self {
        Self { name, config, monitor, bucket: None, iam: false, notes: None }
    }

    /// Writes the one bucket that is restored to another, if one is named.
    #[must_use]
    pub fn into_bucket(mut self, bucket: Option<String>) -> Self {
        self.bucket = bucket;
        self
    }

    /// Puts users, groups and rights back too, where the snapshot has them.
    #[must_use]
    pub fn with_iam(mut self, iam: bool) -> Self {
        self.iam = iam;
        self
    }

    /// Notes uploads in parts in this folder, and throws away what killed restores that did so have left.
    #[must_use]
    pub fn noting(mut self, folder: Option<PathBuf>) -> Self {
        self.notes = folder;
        self
    }

    /// Sweeps what killed restores have left, and begins to note uploads. That neither can be done ends no restore.
    async fn uploads(&self, server: &Server) -> (Uploads, u64) {
        let Some(folder) = &self.notes else { return (Uploads::default(), 0) };
        let swept = uploads::sweep(folder, server).await;
        let uploads = Uploads::begin(folder, server).unwrap_or_else(|failure| {
            let hint = "If this restore is killed, parts of objects may stay in the buckets.";
            self.monitor.warn(Some(&self.name), failure.one_line(), Some(hint));
            Uploads::default()
        });
        (uploads, swept)
    }

    pub(super) fn renamed(&self, bucket: &str) -> String {
        self.bucket.clone().unwrap_or_else(|| bucket.to_owned())
    }

    /// Refuses to write several buckets into one.
    fn check_names(&self, buckets: &[String]) -> Result<()> {
        let Some(to) = self.bucket.as_ref().filter(|_| buckets.len() > 1) else { return Ok(()) };
        let what = format!("`{}`: {} buckets do not go into bucket `{to}`", self.name, buckets.len());
        Err(Failure::new(ExitCode::Usage, what)
            .because(buckets.join(", "))
            .hint("Choose one with --only BUCKET, or leave the bucket out of --into: all keep their names."))
    }

    /// Refuses to put rights back without an administrator's keys.
    fn check_admin(&self) -> Result<()> {
        if self.iam && self.config.admin.is_none() { Err(admin::no_keys(&self.name)) } else { Ok(()) }
    }

    async fn look(&self, server: &Server, inventory: &[String]) -> Result<TargetState> {
        let mut in_the_way = Vec::new();
        for bucket in inventory.iter().map(|bucket| self.renamed(bucket)) {
            if !bucket::exists(server, &bucket).await? {
                continue;
            }
            let (mut lister, mut count) = (Lister::new(server, &bucket), 0);
            while count < COUNT_MAX && lister.next().await?.is_some() {
                count += 1;
            }
            match count {
                0 => {}
                1 => in_the_way.push(format!("bucket {bucket}: 1 object")),
                COUNT_MAX => in_the_way.push(format!("bucket {bucket}: {COUNT_MAX}+ objects")),
                _ => in_the_way.push(format!("bucket {bucket}: {count} objects")),
            }
        }
        Ok(TargetState { version: server.version(), in_the_way, ..TargetState::default() })
    }

    /// Returns the buckets of which something is wanted.
    fn reached(only: &Selection, inventory: &[String]) -> Result<Vec<String>> {
        let mut reached = Vec::new();
        for bucket in inventory.iter().filter(|item| admin::is_bucket(item)) {
            let mut meta = EntryMeta::new(bucket_path(bucket)?, Stage::Schema, bucket.as_str());
            meta.container = true;
            if only.wants(&meta) {
                reached.push(bucket.clone());
            }
        }
        Ok(reached)
    }

    /// Fails when these buckets are not empty.
    async fn refuse_the_full(&self, server: &Server, reached: &[String]) -> Result<()> {
        let state = self.look(server, reached).await?;
        if state.in_the_way.is_empty() {
            return Ok(());
        }
        let what = format!("the target of `{}` is not empty: {}", self.name, state.in_the_way.join(", "));
        Err(Failure::new(ExitCode::TargetNotEmpty, what)
            .hint("Say --replace to make these buckets equal to the snapshot; objects that it does not have are removed."))
    }
}

#[async_trait]
impl Target for S3Target {
    fn name(&self) -> &SourceName {
        &self.name
    }

    async fn inspect(&mut self, inventory: &[String]) -> Result<TargetState> {
        let buckets: Vec<String> = inventory.iter().filter(|item| admin::is_bucket(item)).cloned().collect();
        self.check_names(&buckets)?;
        self.check_admin()?;
        let server = Server::new(&self.name, &self.config)?;
        self.look(&server, &buckets).await
    }

    /// Tells what would be written, and what stands there.
    async fn preflight(&mut self, options: &WriteOptions, coming: &mut dyn Coming) -> Result<Preflight> {
        let server = Server::new(&self.name, &self.config)?;
        Survey::new(self, &server, options, coming.problems())?.all(coming).await
    }

    fn ends_itself(&self) -> bool {
        true
    }

    async fn write(self: Box<Self>, options: WriteOptions, mut entries: EntryStream) -> FlowResult<Tally> {
        self.check_admin()?;
        let server = Server::new(&self.name, &self.config)?;
        let next = entries.next().await?;
        let reached = S3Target::reached(&options.only, entries.inventory())?;
        self.check_names(&reached)?;
        if !options.replace {
            self.refuse_the_full(&server, &reached).await?;
        }
        let (uploads, swept) = self.uploads(&server).await;
        let mut run = Run::new(&self, Putter::new(&server, uploads), &options, entries.problems())?;
        if swept > 0 {
            run.tally.notes.push(format!("{swept} uploads that a killed restore had left were thrown away"));
        }
        let done = options.stop.run_until_cancelled(Box::pin(run.all(next, entries))).await;
        let stopped = || Failure::new(ExitCode::Interrupted, "the restore was stopped").into();
        let done = done.unwrap_or_else(|| Err(stopped()));
        run.put_back().await;
        done.map(|()| run.tally)
    }
}

/// Returns what a snapshot knows that it has not, and how many objects or buckets of it are not there as they should.
pub(super) fn lacking(problems: &[Problem]) -> (BTreeSet<String>, u64) {
    let lacking = problems.iter().filter(|problem| !admin::is_about_export(problem)).count() as u64;
    (problems.iter().map(|problem| problem.what.clone()).collect(), lacking)
}

/// Makes a version what its key shows. What is none of the versions of a key is not all that the key showed.
pub(super) fn make_object(meta: &mut EntryMeta, bucket: &str) -> Result<()> {
    if !versions::is_version(meta) {
        return Err(only_current(bucket));
    }
    versions::make_object(meta);
    Ok(())
}

/// Makes the failure of a restore as of a time, of a bucket of which the snapshot has no versions.
pub(super) fn only_current(bucket: &str) -> Failure {
    let what = format!("the snapshot has no versions of bucket `{bucket}`: only what each key showed then");
    Failure::new(ExitCode::Usage, what)
        .because("the bucket kept none, or the source was not told `versions = \"all\"`")
        .hint("Leave --as-of out and take an older snapshot, or choose other buckets with --only.")
}

/// One restore under way.
struct Run<'a> {
    target: &'a S3Target,
    server: Server,
    putter: Putter,
    present: Present<'a>,
    /// The buckets met so far, by the name that they have in the target.
    buckets: BTreeMap<String, Found>,
    last: (String, String),
    /// The time as of which objects are written, where it is not the latest.
    as_of: Option<DateTime<Utc>>,
    objects: Arc<Semaphore>,
    memory: Arc<Semaphore>,
    puts: JoinSet<FlowResult<Done>>,
    refused: Vec<(String, String)>,
    changes: Changes,
    locked: u64,
    /// Objects with headers that are no text.
    raw: u64,
    /// Objects that may have had tags that the snapshot does not have, and the first of them.
    untagged: (u64, Vec<String>),
    /// What should have come and did not: what stands in its place is not to go.
    lacking: u64,
    /// Users, groups and rights that are put back when all else is: our own may be among them.
    iam: Option<Bytes>,
    /// Why settings and rights are not what they are in the snapshot.
    unset: Vec<Failure>,
    /// Why settings are not what they are in the snapshot that no object needs: told, and no failure.
    lesser: Vec<String>,
    /// What buckets did with versions before they were made to keep them, as long as nothing else was set.
    switched: BTreeMap<String, Option<BucketVersioningStatus>>,
    rules: Rules,
    tally: Tally,
}

/// A bucket of the target.
struct Found {
    settings: Settings,
    /// Whether its settings are ours to set: we made it, or it was empty, or it is to equal the snapshot.
    ours: bool,
    conditions: Conditions,
    /// Versions that were left out, because the bucket keeps none.
    left_out: u64,
}

impl<'a> Run<'a> {
    fn new(
        target: &'a S3Target,
        putter: Putter,
        options: &'a WriteOptions,
        problems: &[Problem],
    ) -> Result<Self> {
        let server = putter.server.clone();
        let (lacks, lacking) = lacking(problems);
        let (is_empty, spared) = (!options.replace, &target.config.exclude);
        let present = Present::new(&server, &options.only, is_empty, spared, lacks)?;
        let rules = Rules::new(&server, &target.name, &target.monitor);
        Ok(Self {
            target,
            server,
            putter,
            present,
            buckets: BTreeMap::new(),
            last: (String::new(), String::new()),
            as_of: options.only.as_of(),
            objects: Arc::new(Semaphore::new(target.config.concurrency.max(1))),
            memory: Arc::new(Semaphore::new(MEMORY_MIB as usize)),
            puts: JoinSet::new(),
            refused: Vec::new(),
            changes: Changes::default(),
            locked: 0,
            raw: 0,
            untagged: (0, Vec::new()),
            lacking,
            iam: None,
            unset: Vec::new(),
            lesser: Vec::new(),
            switched: BTreeMap::new(),
            rules,
            tally: Tally::default(),
        })
    }

    /// Writes it all.
    async fn all(&mut self, mut next: Option<Entry>, mut entries: EntryStream) -> FlowResult<()> {
        while let Some(entry) = next {
            self.entry(entry).await?;
            next = entries.next().await?;
        }
        self.end().await
    }

    /// Lets nothing of this run go on, and gives back the lifecycle rules that are still away, and to buckets that
    /// kept no versions that they keep none.
    async fn put_back(&mut self) {
        self.puts.shutdown().await;
        for (bucket, before) in std::mem::take(&mut self.switched) {
            let failure = match &before {
                Some(before) => bucket::set_versioning(&self.server, &bucket, before).await.err(),
                // Who kept versions once cannot be made to have kept none.
                None => Some(Failure::new(ExitCode::Failed, "it never did before")),
            };
            if let Some(failure) = failure {
                let what =
                    format!("bucket {bucket} keeps versions since this restore: {}", failure.one_line());
                let hint = "Suspend them by hand if it is to keep none.";
                self.target.monitor.warn(Some(&self.target.name), what, Some(hint));
            }
        }
        let told = self.rules.put_back().await;
        self.tally.notes.extend(told);
    }

    async fn entry(&mut self, mut entry: Entry) -> FlowResult<()> {
        if admin::is_export(&entry.meta) {
            return self.export(entry).await;
        }
        let Some(from) = entry.meta.text("bucket").map(str::to_owned) else {
            return Err(self.odd(&entry.meta, "it names no bucket").into());
        };
        let bucket = self.target.renamed(&from);
        if entry.meta.stage == Stage::Data {
            if self.as_of.is_some() {
                make_object(&mut entry.meta, &from)?;
            }
            return self.object(&from, bucket, entry).await;
        }
        let keeps = entry.meta.attrs.contains_key(VERSIONS);
        let json = entry.body.read_all(SETTINGS_BYTES_MAX).await?;
        let mut settings = Settings::from_json(&from, &json)?;
        if self.as_of.is_some() && !keeps {
            return Err(only_current(&from).into());
        }
        if from != bucket
            && let Some(Some(policy)) = settings.documents.get_mut("policy")
        {
            *policy = bucket::rename_in_policy(policy, &from, &bucket);
        }
        self.found(&bucket, &from, settings, keeps).await?;
        self.tally.entries += 1;
        self.tally.bytes += json.len() as u64;
        Ok(())
    }

    /// Takes an export in, for the end, where that was asked for.
    async fn export(&mut self, mut entry: Entry) -> FlowResult<()> {
        let zip = entry.body.read_all(admin::EXPORT_BYTES_MAX).await?;
        self.tally.entries += 1;
        self.tally.bytes += zip.len() as u64;
        if !admin::is_iam(&entry.meta) {
            return Ok(());
        }
        if self.target.iam {
            self.iam = Some(zip.into());
        } else {
            let what = "users, groups and rights of the server are in the snapshot and were not put back: --iam does";
            self.tally.notes.push(what.to_owned());
        }
        Ok(())
    }

    /// Puts users, groups and rights back where that was asked for.
    async fn put_iam(&mut self) -> Result<()> {
        let (name, zip) = (&self.target.name, self.iam.take());
        if !self.target.iam {
            return Ok(());
        }
        let admin = Admin::of(name, &self.target.config)?.ok_or_else(|| admin::no_keys(name))?;
        admin.put_iam(zip.ok_or_else(|| admin::no_export(name))?).await?;
        self.tally.notes.push("users, groups and rights were put back".to_owned());
        Ok(())
    }

    /// Makes sure that a bucket is there.
    async fn found(&mut self, bucket: &str, from: &str, settings: Settings, mut keeps: bool) -> Result<()> {
        let created = !bucket::exists(&self.server, bucket).await?;
        if created {
            bucket::create(&self.server, bucket, &self.target.config.region, &settings).await?;
        }
        let ours = created || !self.present.is_patch();
        if !created {
            self.rules.stop(bucket, ours).await?;
        }
        if ours && let Err(failure) = bucket::set_encryption(&self.server, bucket, &settings).await {
            self.lesser.push(failure.one_line());
        }
        if keeps {
            keeps = self.keep_versions(bucket, ours, created).await?;
        }
        // As of a time no history is written, but what is written over stays beneath.
        self.present.enter(bucket, from, keeps && self.as_of.is_none(), created);
        let conditions = Conditions::probe(&self.server, bucket).await?;
        if !conditions.all() {
            let what = format!(
                "the server keeps to conditions of writing in bucket {bucket} in part or not at all: each object is \
                 looked at right before it is overwritten"
            );
            self.target.monitor.step(Some(&self.target.name), what);
        }
        let found = Found { settings, ours, conditions, left_out: 0 };
        self.buckets.insert(bucket.to_owned(), found);
        Ok(())
    }

    /// Returns whether a bucket keeps versions, after making it do so where it is ours.
    async fn keep_versions(&mut self, bucket: &str, ours: bool, created: bool) -> Result<bool> {
        let before = bucket::versioning(&self.server, bucket).await?;
        if before == Some(BucketVersioningStatus::Enabled) || !ours {
            return Ok(before == Some(BucketVersioningStatus::Enabled));
        }
        if !created {
            // Noted first: a stop may come while the server does it.
            self.switched.insert(bucket.to_owned(), before);
        }
        bucket::keep_versions(&self.server, bucket).await?;
        Ok(true)
    }

    async fn object(&mut self, from: &str, bucket: String, entry: Entry) -> FlowResult<()> {
        let Some(key) = versions::key_of(&entry.meta).map(str::to_owned) else {
            return Err(self.odd(&entry.meta, "it names no key").into());
        };
        let here = (bucket.clone(), key.clone());
        if here < self.last || here == self.last && !versions::is_version(&entry.meta) {
            return Err(self.odd(&entry.meta, "it does not come in the order of keys").into());
        }
        let is_version = versions::is_version(&entry.meta);
        if !self.buckets.contains_key(&bucket) {
            // Its settings did not come.
            self.found(&bucket, from, Settings::default(), is_version).await?;
        }
        if here != self.last {
            self.present.key_ended();
            self.last = here;
        }
        let conditions = self.buckets.get(&bucket).map(|found| found.conditions).unwrap_or_default();
        let is_kept = is_version && self.present.keeps(&bucket);
        let facts = Facts::of_attrs(&entry.meta.attrs);
        let (there, tentative) = if is_version {
            match self.fate(&bucket, &entry, &facts).await? {
                Ok(written) => written,
                Err(done) => return self.pass_over(entry, done).await,
            }
        } else {
            (self.present.at(&bucket, &key).await?, None)
        };
        let (next, waiting) = oneshot::channel();
        let (turn, next, shown) = (self.present.turn(waiting), Some(next), self.present.shown());
        self.locked += u64::from(!facts.lock.is_empty());
        self.raw += u64::from(!facts.raw.is_empty());
        self.start(Job { bucket, key, entry, there, shown, conditions, turn, next, is_kept, tentative }).await
    }

    /// Returns what stands where a version goes, and what it waits for; or what becomes of it if it is not written.
    async fn fate(
        &mut self,
        bucket: &str,
        entry: &Entry,
        facts: &Facts,
    ) -> Result<Result<(There, Option<Tentative>), Done>> {
        let key = versions::key_of(&entry.meta).unwrap_or_default();
        // What cannot be written is found nowhere either, and would have all that follow be written again.
        if let Some(why) = put::unwritable(entry, facts) {
            self.present.pass(bucket, &entry.meta).await?;
            return Ok(Err(Done::Refused { what: put::name_of(bucket, key, &entry.meta), why }));
        }
        Ok(match self.present.fate(bucket, &entry.meta).await? {
            Fate::Write(there) => Ok((there, None)),
            Fate::IfLast(there, tentative) => Ok((there, Some(tentative))),
            Fate::LeftOut => Err(Done::LeftOut { bucket: bucket.to_owned() }),
            Fate::Shut { is_first: true } => {
                Err(Done::Refused { what: format!("{bucket}/{key}"), why: NEWEST_LACKS.to_owned() })
            }
            Fate::Shut { is_first: false } => Err(Done::Shut),
        })
    }

    /// Passes over an entry that is not written.
    async fn pass_over(&mut self, mut entry: Entry, done: Done) -> FlowResult<()> {
        while entry.body.next().await?.is_some() {}
        self.count(Ok(Ok(done)))
    }

    /// Waits for a place and for memory, then writes beside the others.
    async fn start(&mut self, job: Job) -> FlowResult<()> {
        let size = job.entry.meta.attrs.get("size").and_then(serde_json::Value::as_u64);
        let (part_bytes, _) = job.cut();
        let mib = size.map_or(part_bytes, |size| size.min(part_bytes)) >> 20;
        let need = u32::try_from(mib).map_or(MEMORY_MIB, |mib| mib.saturating_add(1).min(MEMORY_MIB));
        let stopped = || "the restore was stopped".to_owned();
        let place = Arc::clone(&self.objects).acquire_owned().await.failed(ExitCode::Failed, stopped)?;
        let memory =
            Arc::clone(&self.memory).acquire_many_owned(need).await.failed(ExitCode::Failed, stopped)?;
        let putter = self.putter.clone();
        self.puts.spawn(async move {
            let done = putter.put(job).await;
            drop((place, memory));
            done
        });
        while let Some(done) = self.puts.try_join_next() {
            self.count(done)?;
        }
        Ok(())
    }

    fn count(&mut self, done: Result<FlowResult<Done>, tokio::task::JoinError>) -> FlowResult<()> {
        match done.failed(ExitCode::Failed, || "a write was stopped".to_owned())?? {
            Done::Refused { what, why } => {
                let shown = what.escape_debug();
                self.target.monitor.warn(
                    Some(&self.target.name),
                    format!("object `{shown}` was not restored: {why}"),
                    None,
                );
                self.refused.push((what, why));
                if self.refused.len() >= REFUSED_MAX {
                    let hint = "So many are a fault of the whole: the restore was ended there.";
                    return Err(not_all(&self.target.name, &self.refused).hint(hint).into());
                }
                return Ok(());
            }
            Done::Same { bytes } => {
                self.changes.equal += 1;
                self.tally.bytes += bytes;
            }
            Done::LeftOut { bucket } => {
                if let Some(found) = self.buckets.get_mut(&bucket) {
                    found.left_out += 1;
                }
            }
            Done::Shut => return Ok(()),
            Done::Written { bytes, is_new, untagged } => {
                self.tally.bytes += bytes;
                if let Some(what) = untagged {
                    self.untagged.0 += 1;
                    if self.untagged.1.len() < NAMED_MAX {
                        self.untagged.1.push(format!("`{}`", what.escape_debug()));
                    }
                }
                *(if is_new { &mut self.changes.new } else { &mut self.changes.changed }) += 1;
            }
        }
        self.tally.entries += 1;
        Ok(())
    }

    async fn end(&mut self) -> FlowResult<()> {
        self.present.key_ended();
        while let Some(done) = self.puts.join_next().await {
            self.count(done)?;
        }
        let mirrored = self.present.is_mirror();
        let mut failures = Vec::new();
        if mirrored && self.refused.is_empty() {
            if self.lacking == 0 {
                failures.extend(self.remove_extras().await?);
            } else {
                let what = "nothing was removed: what should have come and did not may stand there";
                self.tally.notes.push(what.to_owned());
            }
        }
        self.apply_settings(mirrored).await;
        self.tell();
        if !self.refused.is_empty() {
            return Err(not_all(&self.target.name, &self.refused).into());
        }
        failures.extend(std::mem::take(&mut self.unset).into_iter().map(|failure| {
            let hint = "All objects are in place. Set this setting by hand: the snapshot shows it.";
            failure.with_exit(ExitCode::Partial).hint(hint)
        }));
        if let Err(failure) = self.put_iam().await {
            self.warn(failure.one_line());
            let hint = "All objects of the snapshot are in place.";
            failures.push(failure.with_exit(ExitCode::Partial).hint(hint));
        }
        // All of them were told as they came.
        if let Some(first) = failures.into_iter().next() {
            return Err(first.into());
        }
        self.tally.verified = Verified::Counts;
        Ok(())
    }

    /// Removes what the snapshot does not have; returns the failure of what the server does not let go.
    async fn remove_extras(&mut self) -> Result<Option<Failure>> {
        let Some(extras) = self.present.take_extras().await? else { return Ok(None) };
        let removed = extras.remove(&self.server).await?;
        let kept = removed.failure();
        let notes = [
            (removed.count, "objects that the snapshot does not have were removed"),
            (
                removed.changed,
                "objects that the snapshot does not have were written or removed meanwhile: left as they are",
            ),
        ];
        let told = notes.iter().filter(|(count, _)| *count > 0);
        self.tally.notes.extend(told.map(|(count, what)| format!("{count} {what}")));
        (self.changes.extra, self.changes.extra_named) = (removed.count, removed.named);
        if let Some(failure) = &kept {
            self.warn(failure.one_line());
        }
        Ok(kept)
    }

    /// Sets the settings of buckets that we made or that are to equal the snapshot.
    async fn apply_settings(&mut self, mirrored: bool) {
        for (bucket, found) in self.buckets.iter().filter(|(_, found)| found.ours) {
            // The queues that a bucket tells of its objects may be another server's.
            let told = bucket::set_notification(&self.server, bucket, &found.settings, mirrored).await;
            self.lesser.extend(told.err().map(|failure| failure.one_line()));
            if let Some(status) = &found.settings.versioning {
                let status = BucketVersioningStatus::from(status.as_str());
                match bucket::set_versioning(&self.server, bucket, &status).await {
                    Ok(()) => drop(self.switched.remove(bucket)),
                    Err(failure) => self.unset.push(failure),
                }
            }
            let applied = bucket::apply(&self.server, bucket, &found.settings, mirrored).await;
            if applied.has_rules {
                self.rules.replaced(bucket, found.settings.rules());
            }
            self.unset.extend(applied.refused);
        }
        let told = self.unset.iter().map(Failure::one_line).chain(std::mem::take(&mut self.lesser));
        for what in told.collect::<Vec<_>>() {
            self.warn(what);
        }
    }

    /// Tells something that is not as it should be, now and at the end.
    fn warn(&mut self, what: String) {
        self.target.monitor.warn(Some(&self.target.name), what.clone(), None);
        self.tally.notes.push(what);
    }

    /// Adds what a person should know.
    fn tell(&mut self) {
        let left_out = self.buckets.iter().filter(|(_, found)| found.left_out > 0).map(|(bucket, found)| {
            format!(
                "bucket {bucket} keeps no versions: of each key at most the newest that was asked for was written, and \
                 {} older versions and delete markers were left out",
                found.left_out
            )
        });
        for what in left_out.collect::<Vec<_>>() {
            self.warn(what);
        }
        let Changes { equal, changed, new, .. } = self.changes;
        if equal > 0 {
            self.tally.notes.push(format!("{equal} objects were equal already"));
        }
        if equal + changed > 0 {
            self.tally.notes.push(format!("{changed} objects were overwritten, {new} are new"));
        }
        self.tally.changes = Some(std::mem::take(&mut self.changes));
        if self.locked > 0 {
            self.tally.notes.push(format!(
                "{} objects had a retention or a legal hold, which the snapshot keeps and which was not set again",
                self.locked
            ));
        }
        if self.raw > 0 {
            self.tally.notes.push(format!(
                "{} objects had metadata that is no text, which the snapshot keeps and which was not set again",
                self.raw
            ));
        }
        let (count, named) = std::mem::take(&mut self.untagged);
        if count > 0 {
            let more = count - named.len() as u64;
            let more = if more == 0 { String::new() } else { format!(" and {more} more") };
            self.warn(format!(
                "{count} objects were written without the tags that the backup could not read: {}{more}",
                named.join(", ")
            ));
        }
        for class in self.putter.refused_classes() {
            self.tally.notes.push(format!(
                "the server has no storage class {class}: its objects were written to the default one"
            ));
        }
        if self.putter.loses_tags() {
            self.warn("the server does not keep tags of objects".to_owned());
        }
    }

    fn odd(&self, meta: &EntryMeta, why: &str) -> Failure {
        let what = format!("entry `{}` of `{}` cannot be written to S3", meta.path, self.target.name);
        Failure::new(ExitCode::Damage, what).because(why.to_owned())
    }
}
