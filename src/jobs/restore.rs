//! A restore: a plan that a person reads, then the same plan carried out.
//!
//! *Order.* Plan: snapshot chosen, every target looked at, nothing touched. Execute: refuse if anything is in
//! the way; then source by source in the order of the backup. A target that is lost on the way and notes what it has
//! done is waited for. *Crash.* A restore that dies leaves its target half written and the repository untouched; run it
//! again with `--resume` where the target can tell what is done, else with `--replace`.
//!
//! *Damage* ends a restore where it is met. A salvage reads everything before it touches a target, and then restores
//! what is not damaged; whatever is missing is in its report.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use super::{
    coming::{Upcoming, find},
    contents,
    registry::{Reader, ReadyTarget},
    run::interrupted,
    when::When,
};
use crate::{
    error::{ExitCode, Failure, Result},
    event::{Event, SharedMonitor},
    flow::{
        Fit, FlowError, FlowResult, Point, Remark, STREAM_DEPTH, Selection, Tally, Target, TargetState,
        Verify, Weight, WriteOptions, channel, settle,
    },
    names::{SnapshotId, SourceName},
    repo::{Lost, Read, Repository, Salvage, Snapshot, format::Refs},
};

/// How long a target that was lost is waited for at first, at most at a time, and altogether.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_mins(1);
const PATIENCE: Duration = Duration::from_mins(10);
/// What will be restored into one target.
pub struct SourcePlan {
    /// The source.
    pub source: SourceName,
    /// Its engine.
    pub kind: String,
    /// The instant it was read at.
    pub point: Point,
    /// Entries that will be applied.
    pub entries: u64,
    /// Their plain bytes.
    pub size_bytes: u64,
    /// Where they go.
    pub place: String,
    /// What is there.
    pub state: TargetState,
    /// How long it will take, if past drills measured that.
    pub predicted_seconds: Option<f64>,
    /// What was chosen, where the target leaves a choice: a name and a word.
    pub choices: BTreeMap<&'static str, String>,
    /// Whether an interrupted restore of the same is continued there.
    pub continues: bool,
    job: Option<String>,
    target: ReadyTarget,
    salvage: Option<Salvage>,
}

/// Something that should be restored and is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// Its source.
    pub source: String,
    /// The entry, or what it is about; `None` for all that the reason speaks of.
    pub entry: Option<String>,
    /// Why.
    pub why: String,
    /// Whether the repository has lost it; otherwise the backup had not got it.
    pub damaged: bool,
}

impl Missing {
    fn damaged(source: &SourceName, entry: Option<String>, why: String) -> Self {
        Self { source: source.to_string(), entry, why, damaged: true }
    }
}

/// What a restore will do; carried out at most once.
pub struct Plan {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// The stack that it is of.
    pub stack: String,
    /// The sources, in the order of the backup.
    pub sources: Vec<SourcePlan>,
    /// What was asked for.
    pub only: Selection,
    /// Whether what is in the way may be removed.
    pub replace: bool,
    /// How what is written is checked.
    pub verify: Verify,
    /// What becomes of things that a target does not know.
    pub fit: Fit,
    /// What will not be there afterwards.
    pub missing: Vec<Missing>,
    /// How long all of it will take, if past drills measured each source.
    pub predicted_seconds: Option<f64>,
}

/// What a restore did.
#[derive(Debug, Default)]
pub struct Outcome {
    /// What was restored, source by source.
    pub restored: Vec<Restored>,
    /// What is not there now.
    pub missing: Vec<Missing>,
}

impl Outcome {
    /// Returns how a run with this outcome ends.
    pub fn exit(&self) -> ExitCode {
        if self.missing.iter().any(|missing| missing.damaged) {
            ExitCode::Damage
        } else if self.missing.is_empty() && self.restored.iter().all(Restored::is_whole) {
            ExitCode::Ok
        } else {
            ExitCode::Partial
        }
    }
}

/// What was restored from one source.
#[derive(Debug)]
pub struct Restored {
    /// The source.
    pub source: SourceName,
    /// What the target did.
    pub tally: Tally,
    /// How long it took.
    pub seconds: f64,
    /// Whether it stands beside what is live, because it is not whole and must not take its place.
    pub stands_beside: bool,
}

impl Restored {
    fn is_whole(&self) -> bool {
        self.tally.dangling == 0 && !self.stands_beside
    }
}

/// What is wanted from a snapshot.
pub struct Wanted {
    /// The sources with their targets, in any order.
    pub targets: Vec<(SourceName, ReadyTarget)>,
    /// Whether the sources were asked for by name.
    pub by_name: bool,
    /// Which entries.
    pub only: Selection,
    /// Whether what is in the way may be removed.
    pub replace: bool,
    /// Whether what is not damaged is to be restored where something is.
    pub salvage: bool,
    /// What becomes of things that a target does not know.
    pub fit: Fit,
    /// How what is written is checked.
    pub verify: Verify,
    /// What becomes of it when it is interrupted.
    pub resume: Resume,
}

/// What becomes of a restore that is interrupted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Resume {
    /// Nothing is noted.
    Never,
    /// It is tried again for a while, and can be continued later.
    #[default]
    Later,
    /// As that; and one that was interrupted is continued now.
    Now,
}

/// Looks at the snapshot and at every target; touches nothing. A salvage reads all that is wanted, and so does what
/// restores a snapshot of which packs are missing: what gives way to rows that cannot come would be lost with them.
pub async fn plan(snapshot: &Snapshot, wanted: Wanted, monitor: &SharedMonitor) -> Result<Plan> {
    let Wanted { targets, by_name, only, replace, salvage: is_salvage, verify, resume, fit } = wanted;
    let options = WriteOptions { replace, only: only.clone(), fit, verify, ..WriteOptions::default() };
    let (mut sources, mut damaged) = (Vec::new(), Vec::new());
    let lacking = if is_salvage { 0 } else { snapshot.lacking_packs().await? };
    for (name, mut target) in targets {
        let source = snapshot.source(&name)?;
        let (salvage, unread) = match (is_salvage, lacking) {
            (false, 0) => (None, None),
            (true, _) => (Some(examine(snapshot, &name, &only, monitor).await?), None),
            (false, lacking) => (None, check_whole(snapshot, &name, &only, lacking, monitor).await?),
        };
        let found = find(snapshot, &name, &only, salvage.as_ref()).await.map_err(or_salvage)?;
        let lost = salvage.iter().flat_map(|salvage| &salvage.lost);
        damaged.extend(lost.map(|lost| {
            Missing::damaged(&name, lost.entry.as_ref().map(ToString::to_string), lost.why.clone())
        }));
        if !found.is_meant(by_name) {
            continue;
        }
        check_ranges(&only, &source.kind, &target)?;
        let of_time = found.check_time(&only, &source.name, source.point.at, replace)?;
        let mut state = target.target.inspect(&found.inventory).await?;
        let mut coming = Upcoming::of(snapshot, source, &only, salvage.as_ref())?;
        state.preflight = target.target.preflight(&options, &mut coming).await?;
        state.preflight.remarks.extend(of_time.into_iter().chain(unread));
        state.in_the_way.extend(state.preflight.in_the_way.iter().cloned());
        // What is lost of a damaged repository may be more the next time: a salvage begins anew. Ranges of keys come
        // in one transaction, or not at all.
        let is_noted = resume != Resume::Never && !is_salvage && only.ranges().is_empty();
        let way = (&only, &options.fit);
        let job = is_noted.then(|| job(&snapshot.refs.snapshot, &name, way, &target.choices, &state.names));
        let is_own = job.as_ref().is_some_and(|job| state.unfinished.contains(job));
        sources.push(SourcePlan {
            source: name,
            kind: source.kind.clone(),
            point: source.point.clone(),
            entries: found.entries,
            size_bytes: found.size_bytes,
            place: target.place.clone(),
            state,
            predicted_seconds: None,
            choices: target.choices.clone(),
            continues: resume == Resume::Now && is_own,
            job,
            target,
            salvage,
        });
    }
    if sources.is_empty() {
        return Err(nothing_to_restore(&only, damaged.first()));
    }
    let missing = missing(snapshot, &sources, by_name).into_iter().chain(damaged).collect();
    let order = &snapshot.manifest.sources;
    sources.sort_by_key(|plan| order.iter().position(|source| source.name == plan.source));
    Ok(Plan {
        snapshot: snapshot.refs.snapshot.clone(),
        stack: snapshot.manifest.stack.clone(),
        sources,
        only,
        replace,
        verify,
        fit: options.fit,
        missing,
        predicted_seconds: None,
    })
}

fn nothing_to_restore(only: &Selection, damaged: Option<&Missing>) -> Failure {
    if let Some(first) = damaged {
        return Failure::new(ExitCode::Damage, "nothing that is wanted can be read any more")
            .because(first.why.clone())
            .hint("Take an older snapshot, or another copy of the repository.");
    }
    let what = format!("nothing in the snapshot fits {}", only.patterns().join(", "));
    Failure::new(ExitCode::Usage, what).hint("`lifeboat ls` shows what there is.")
}

/// Returns what a target calls this restore: the same again, in the same way, has the same name.
fn job(
    snapshot: &SnapshotId,
    source: &SourceName,
    (only, fit): (&Selection, &Fit),
    choices: &BTreeMap<&'static str, String>,
    names: &BTreeMap<String, String>,
) -> String {
    let mut all = vec![snapshot.as_str(), source.as_str()];
    let as_of = only.as_of().map(|as_of| format!("as of {}", as_of.to_rfc3339()));
    all.extend(only.patterns().iter().chain(&as_of).map(String::as_str));
    all.extend(fit.collations.iter().chain(names).flat_map(|(old, new)| [old.as_str(), new.as_str()]));
    // Half of it in the binlog, and half of it not, is what no replica can take. Of names, only the way: each exchange
    // has an ending of its own for what was there.
    let way = |word: &'_ str| word.split(':').next().unwrap_or_default().to_owned();
    let words: Vec<String> = choices.iter().map(|(name, word)| format!("{name} {}", way(word))).collect();
    all.extend(words.iter().map(String::as_str));
    hex::encode(Sha256::digest(all.join("\n")))
}

/// Refuses ranges of keys where there are no tables.
fn check_ranges(only: &Selection, kind: &str, target: &ReadyTarget) -> Result<()> {
    let Some(range) = only.ranges().first().filter(|_| kind != "mysql" || !target.is_native) else {
        return Ok(());
    };
    let what = format!("a range of keys of `{}` goes into a table of a server only", range.table);
    Err(Failure::new(ExitCode::Usage, what).hint("Leave the brackets out, or pick sources with --source."))
}

/// Returns what the backup could not read of what is now to be restored.
fn missing(snapshot: &Snapshot, plans: &[SourcePlan], by_name: bool) -> Vec<Missing> {
    let failed = snapshot.manifest.failed.iter().filter(|_| !by_name);
    let failed = failed.map(|failed| Missing {
        source: failed.what.clone(),
        entry: None,
        why: failed.why.clone(),
        damaged: false,
    });
    let planned = |name: &SourceName| plans.iter().any(|plan| plan.source == *name);
    let sources = snapshot.manifest.sources.iter().filter(|source| planned(&source.name));
    let left_out = sources.flat_map(|source| {
        source.problems.iter().map(|problem| Missing {
            source: source.name.to_string(),
            entry: Some(problem.what.clone()),
            why: problem.why.clone(),
            damaged: false,
        })
    });
    failed.chain(left_out).collect()
}

/// Returns the newest snapshot that `when` can mean and that holds all of `sources`; when there is none, the
/// newest that it can mean.
///
/// A backup of one source by hand must not stand in for the nightly one of all.
pub async fn choose(
    repository: &Repository<Read>,
    refs: &[Refs],
    when: &When,
    sources: &[SourceName],
) -> Result<SnapshotId> {
    let ids: Vec<SnapshotId> = refs.iter().map(|refs| refs.snapshot.clone()).collect();
    let fitting = when.fitting(&ids)?;
    for id in &fitting {
        let Some(refs) = refs.iter().find(|refs| refs.snapshot == *id) else { continue };
        // One whose manifest is damaged is not passed over in silence: opening it says what is wrong.
        let Ok(manifest) = repository.manifest(refs).await else { return Ok(id.clone()) };
        let has = |name: &SourceName| manifest.sources.iter().any(|source| source.name == *name);
        if sources.iter().all(has) {
            return Ok(id.clone());
        }
    }
    Ok(fitting[0].clone())
}

async fn examine(
    snapshot: &Snapshot,
    name: &SourceName,
    only: &Selection,
    monitor: &SharedMonitor,
) -> Result<Salvage> {
    let size_bytes_expected = Some(snapshot.source(name)?.size_bytes);
    monitor.event(Event::SourceBegan { source: name.clone(), verb: "examine", size_bytes_expected });
    let salvage = snapshot.salvage(name, only, monitor).await;
    monitor.event(Event::SourceEnded { source: name.clone() });
    salvage
}

/// Refuses what cannot be read any more, where packs of the snapshot are lacking. A plan needs no identity of the data:
/// without any, it says what it cannot tell. A restore asks for one before it touches anything.
async fn check_whole(
    snapshot: &Snapshot,
    name: &SourceName,
    only: &Selection,
    lacking: usize,
    monitor: &SharedMonitor,
) -> Result<Option<Remark>> {
    let examined = match examine(snapshot, name, only, monitor).await {
        Err(failure) if failure.exit() == ExitCode::KeyRefused && !snapshot.opens_data() => {
            let why = "whether what is wanted is in them is seen only with the identity of the data";
            return Ok(Some(Remark::new(Weight::Note, of_packs(lacking), why)));
        }
        examined => examined?,
    };
    let Some(Lost { entry, why, .. }) = examined.lost.first() else { return Ok(None) };
    let of_it = entry.as_ref().map(|entry| format!(": `{entry}`")).unwrap_or_default();
    let what = format!("`{name}`{of_it} cannot be read any more, so nothing was touched");
    Err(or_salvage(Failure::new(ExitCode::Damage, what).because(format!("{}; {why}", of_packs(lacking)))))
}

fn of_packs(lacking: usize) -> String {
    format!("packs of the snapshot are missing, cut short or told of by no index: {lacking}")
}

/// Says how to get the rest, where damage ends a restore.
fn or_salvage(failure: Failure) -> Failure {
    if failure.exit() != ExitCode::Damage {
        return failure;
    }
    failure.hint(
        "`lifeboat verify --read-data` tells all that is damaged; `lifeboat restore --salvage` restores the rest.",
    )
}

impl Plan {
    /// Says how long it will take, from the bytes of each source that past drills restored in a second. What goes into
    /// plain files instead of a server was measured by none.
    pub fn predict(&mut self, rates: &BTreeMap<String, f64>) {
        for source in &mut self.sources {
            let rate = rates.get(source.source.as_str()).filter(|_| source.target.is_native);
            source.predicted_seconds = rate.map(|rate| source.size_bytes as f64 / rate);
        }
        self.predicted_seconds = self.sources.iter().map(|source| source.predicted_seconds).sum();
    }

    /// Returns what is in the way, a line each.
    pub fn in_the_way(&self) -> Vec<String> {
        let lines = |plan: &SourcePlan| {
            plan.state.in_the_way.iter().map(|line| format!("{}: {line}", plan.source)).collect::<Vec<_>>()
        };
        self.sources.iter().filter(|plan| !plan.continues).flat_map(lines).collect()
    }

    /// Returns what stops the restore.
    fn blocking(&self) -> impl Iterator<Item = &Remark> {
        let remarks = self.sources.iter().flat_map(|source| &source.state.preflight.remarks);
        remarks.filter(|remark| match remark.weight {
            Weight::Blocks => true,
            Weight::DoesNotFit => !self.fit.leave_out,
            Weight::Mapped | Weight::Note => false,
        })
    }

    /// Fails when the target cannot hold what would come, or when something is in the way and must not be removed.
    pub fn check(&self) -> Result<()> {
        let lines: Vec<String> =
            self.blocking().map(|remark| format!("{}: {}", remark.what, remark.why)).collect();
        if !lines.is_empty() {
            let what =
                format!("the target cannot take the snapshot; nothing was touched: {}", lines.join("; "));
            return Err(Failure::new(ExitCode::Failed, what).hint(
                "--plan lists it all. --leave-out-unfit restores without what does not fit; --map-collation FROM=TO \
                 names another collation.",
            ));
        }
        let in_the_way = self.in_the_way();
        if self.replace || in_the_way.is_empty() {
            return Ok(());
        }
        let what = format!("the target is not empty: {}", in_the_way.join("; "));
        let failure = Failure::new(ExitCode::TargetNotEmpty, what);
        let is_interrupted =
            |plan: &SourcePlan| plan.job.as_ref().is_some_and(|job| plan.state.unfinished.contains(job));
        let failure = match self.sources.iter().find(|plan| is_interrupted(plan) && !plan.continues) {
            None => failure,
            Some(plan) => failure.hint(format!(
                "A restore of this snapshot was interrupted there: `--source {} --resume` continues it.",
                plan.source
            )),
        };
        Err(failure
            .hint("Restore beside it with --into SOURCE=…, or say --replace to remove what is there first."))
    }
}

/// Carries out a plan. In a salvage a source of which damage leaves nothing to restore does not stop the others.
/// `stop` ends it early: what the sources before hold stays, and no further one is begun.
pub async fn execute(
    snapshot: &Snapshot,
    plan: Plan,
    stop: &CancellationToken,
    monitor: &SharedMonitor,
) -> Result<Outcome> {
    plan.check()?;
    let mut outcome = Outcome { missing: plan.missing, ..Outcome::default() };
    for source in plan.sources {
        if stop.is_cancelled() {
            return Err(stopped());
        }
        let options = WriteOptions {
            replace: plan.replace,
            only: plan.only.clone(),
            verify: plan.verify,
            job: source.job.clone(),
            resume: source.continues,
            fit: plan.fit.clone(),
            stop: stop.clone(),
        };
        let (name, is_salvage) = (source.source.clone(), source.salvage.is_some());
        match Box::pin(restore_one(snapshot, source, options, monitor)).await {
            Ok(restored) => {
                let left_out = restored.tally.left_out.iter();
                let left_out = left_out.map(|one| Missing {
                    damaged: is_salvage,
                    ..Missing::damaged(&name, Some(one.what.clone()), one.why.clone())
                });
                outcome.missing.extend(left_out);
                outcome.restored.push(restored);
            }
            Err(failure) if is_salvage && failure.exit() == ExitCode::Damage => {
                outcome.missing.push(Missing::damaged(&name, None, failure.one_line()));
            }
            Err(failure) if is_salvage => return Err(failure),
            Err(failure) => return Err(or_salvage(failure)),
        }
    }
    Ok(outcome)
}

fn stopped() -> Failure {
    interrupted("the restore was stopped")
}

async fn restore_one(
    snapshot: &Snapshot,
    plan: SourcePlan,
    options: WriteOptions,
    monitor: &SharedMonitor,
) -> Result<Restored> {
    let began = Instant::now();
    let (source, version) = (plan.source, plan.state.version);
    let size_bytes_expected = Some(plan.size_bytes);
    monitor.event(Event::SourceBegan { source: source.clone(), verb: "restore", size_bytes_expected });
    let (verify, only, stop) = (options.verify, options.only.clone(), options.stop.clone());
    let ReadyTarget { target, exchange, mut reader, .. } = plan.target;
    if let Some(reader) = &mut reader {
        reader.names = plan.state.names;
    }
    let lacks = plan.salvage.as_ref().is_some_and(|salvage| !salvage.lost.is_empty());
    let again = reader.as_ref().filter(|_| options.job.is_some());
    let copying = Copying { snapshot, source: &source, salvage: plan.salvage.as_ref(), monitor };
    let written = copying.with_patience(target, again, options).await;
    monitor.event(Event::SourceEnded { source: source.clone() });
    let mut tally = written.map_err(|error| error.about(&source))?;
    // Where something did not come, the target has other digests as a matter of course.
    let is_whole = !lacks && tally.left_out.is_empty();
    if let Some(reader) = reader.filter(|_| verify == Verify::Digests && is_whole) {
        monitor.event(Event::SourceBegan { source: source.clone(), verb: "verify", size_bytes_expected });
        let check = contents::check(snapshot, &source, (&reader, &version), &only, &mut tally, monitor);
        let checked = stop.run_until_cancelled(check).await;
        monitor.event(Event::SourceEnded { source: source.clone() });
        checked.unwrap_or_else(|| Err(stopped()))?;
    }
    if stop.is_cancelled() {
        return Err(stopped());
    }
    // An exchange is short and is not broken off: half of it would be worse than a short wait. Only what was found to
    // be right takes the place of what is live.
    let mut stands_beside = false;
    if let Some(exchange) = exchange {
        stands_beside = !is_whole || !tally.without.is_empty();
        if stands_beside {
            tally.notes.push(not_exchanged(&tally));
        } else {
            tally.notes.extend(exchange.run().await?);
        }
    }
    Ok(Restored { source, tally, seconds: began.elapsed().as_secs_f64(), stands_beside })
}

/// Says that what is live stays, because what should take its place is not whole.
fn not_exchanged(tally: &Tally) -> String {
    let why = tally.left_out.first().map(|one| format!(" ({}: {})", one.what, one.why));
    let why = why.or_else(|| tally.without.first().map(|one| format!(" ({one}: the server cannot hold it)")));
    format!(
        "not all came back{}, so nothing was exchanged: it stands beside what is live. Move by hand what is good, or \
         drop it and take another snapshot",
        why.unwrap_or_default()
    )
}

/// Returns whether a failure may pass: the target is lost or, when it is there again, still at what it was lost at.
fn passes(failure: &Failure, is_again: bool) -> bool {
    match failure.exit() {
        ExitCode::SourceDown => true,
        ExitCode::Busy => is_again,
        _ => false,
    }
}

/// Returns what is told in the end. That what stands in the way of a second attempt is from the first, which could note
/// nothing, is the echo of why there was a second.
fn cause(lost: Option<Failure>, failure: Failure) -> Failure {
    match lost {
        Some(lost) if failure.exit() == ExitCode::TargetNotEmpty => {
            lost.hint(format!("It could not be continued: {}", failure.one_line()))
        }
        _ => failure,
    }
}

/// A source on its way out of a snapshot.
struct Copying<'a> {
    snapshot: &'a Snapshot,
    source: &'a SourceName,
    salvage: Option<&'a Salvage>,
    monitor: &'a SharedMonitor,
}

impl Copying<'_> {
    /// Copies it. A target that can be reached `again` is waited for when it is lost on the way: it knows what is done.
    async fn with_patience(
        &self,
        mut target: Box<dyn Target>,
        again: Option<&Reader>,
        mut options: WriteOptions,
    ) -> FlowResult<Tally> {
        let (mut pause, mut waited) = (FIRST_PAUSE, Duration::ZERO);
        let mut lost: Option<Failure> = None;
        loop {
            let failure = match (self.once(target, options.clone()).await, again) {
                (Err(FlowError::Failed(failure)), Some(_)) if passes(&failure, lost.is_some()) => failure,
                (Err(FlowError::Failed(failure)), _) => return Err(cause(lost, failure).into()),
                (other, _) => return other,
            };
            let Some(reader) = again.filter(|_| waited < PATIENCE) else { return Err(failure.into()) };
            let seconds = pause.as_secs();
            let what = format!("{}: it goes on in {seconds} s", failure.one_line());
            self.monitor.warn(Some(self.source), what, None);
            if options.stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                return Err(failure.into());
            }
            (waited, pause) = (waited + pause, (pause * 2).min(LONGEST_PAUSE));
            lost = Some(failure);
            target = reader.target();
            options.resume = true;
        }
    }

    async fn once(&self, mut target: Box<dyn Target>, options: WriteOptions) -> FlowResult<Tally> {
        let done = match &options.job {
            Some(job) if options.resume => target.done(job).await?,
            _ => BTreeSet::new(),
        };
        let only = options.only.clone();
        let (sink, stream) = channel(STREAM_DEPTH);
        let read = async {
            match self.salvage {
                Some(salvage) => {
                    self.snapshot.read_sound(self.source, &only, salvage, sink, self.monitor).await
                }
                None => self.snapshot.read_rest(self.source, &only, &done, sink, self.monitor).await,
            }
        };
        let (stop, ends_itself) = (options.stop.clone(), target.ends_itself());
        let copied = async {
            let (read, written) = tokio::join!(read, target.write(options, stream));
            settle(read, written).map(|((), tally)| tally)
        };
        tokio::select! {
            copied = copied => copied,
            () = stop.cancelled(), if !ends_itself => Err(stopped().into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::Problem;

    #[test]
    fn a_restore_in_another_way_is_another_job() {
        let (id, source) =
            (SnapshotId::new("20251011T150000Z-7f3a").unwrap(), SourceName::new("mysql").unwrap());
        let only = Selection::all();
        let name = |binlog: &str, was: &str, collation: &str| {
            let fit =
                Fit { collations: [("a_ci".to_owned(), collation.to_owned())].into(), leave_out: false };
            let names = format!("swap: *__lb, then the old ones *{was}");
            let choices = BTreeMap::from([("binlog", binlog.to_owned()), ("names", names)]);
            job(&id, &source, (&only, &fit), &choices, &BTreeMap::new())
        };
        let one = name("on", "__was_1", "b_ci");
        assert_eq!(one, name("on", "__was_2", "b_ci"), "the same a minute later");
        assert_ne!(one, name("off", "__was_1", "b_ci"));
        assert_ne!(one, name("on", "__was_1", "c_ci"));
        let as_of = |seconds| {
            let only = Selection::all().at(chrono::DateTime::from_timestamp(seconds, 0));
            job(&id, &source, (&only, &Fit::default()), &BTreeMap::new(), &BTreeMap::new())
        };
        assert_ne!(as_of(1), as_of(2));
    }

    #[test]
    fn what_was_not_exchanged_is_told_and_makes_the_run_partial() {
        let mut tally = Tally { without: ["im.odd".to_owned()].into(), ..Tally::default() };
        assert!(
            not_exchanged(&tally)
                .starts_with("not all came back (im.odd: the server cannot hold it), so nothing")
        );
        tally.left_out.push(Problem { what: "im.v".into(), why: "its table did not come".into() });
        assert!(not_exchanged(&tally).contains("(im.v: its table did not come)"));
        let source = SourceName::new("mysql").unwrap();
        let restored = |stands_beside| {
            let one =
                Restored { source: source.clone(), tally: Tally::default(), seconds: 1.0, stands_beside };
            Outcome { restored: vec![one], missing: Vec::new() }.exit()
        };
        assert_eq!((restored(false), restored(true)), (ExitCode::Ok, ExitCode::Partial));
    }

    #[test]
    fn a_target_that_was_lost_is_waited_for_and_why_it_was_is_told() {
        let failure = |exit, what: &str| Failure::new(exit, what);
        let lost = || failure(ExitCode::SourceDown, "the server went away");
        let busy = failure(ExitCode::Busy, "another restore is writing");
        assert!(passes(&lost(), false) && passes(&busy, true));
        assert!(!passes(&busy, false), "nobody waits for somebody else's");
        let not_empty = || failure(ExitCode::TargetNotEmpty, "the server is not empty");
        assert_eq!(cause(Some(lost()), not_empty()).exit(), ExitCode::SourceDown);
        assert_eq!(cause(None, not_empty()).exit(), ExitCode::TargetNotEmpty);
        assert_eq!(cause(Some(lost()), failure(ExitCode::Failed, "why")).exit(), ExitCode::Failed);
    }
}
