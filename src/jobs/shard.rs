//! One snapshot that several processes make together, on one host or on many, with nothing between them but the store.
//!
//! *Order.* Whoever comes first puts the plan: who reads which source, and where the buckets are divided. Each process
//! reads its share and puts a part. The process of part 0 then waits for the others, judges what is gone for the whole,
//! joins the parts and commits one snapshot.
//!
//! *Crash.* A process that dies leaves no part; no snapshot is made without it. When it is run again under the same run
//! it reads its share, and no other process reads anything again.
//!
//! *Limits.* Part 0 waits as long as it was told to, and a run ends [`crate::repo::RUN_TAKES_MAX`] after it began.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    str::FromStr,
    time::{Duration, Instant},
};

use sha2::{Digest, Sha256};

use super::{
    backup::{self, Before, Ready, Report, SourceReport},
    open::{Opening, RunLock},
    registry,
    run::{Outcome, Remembered, RunContext, noted, stopped},
};
use crate::{
    error::{Context, ExitCode, Failure, Result},
    flow::Problem,
    names::{Job, PackId, RunName, SnapshotId, Task},
    policy::SourceConfig,
    repo::{
        Append, Division, Joined, Part, PartFailure, Planned, PlannedShare, PlannedSource, Repository,
        RunPlan,
        format::{FORMAT, SourceManifest, Status},
    },
    s3::Shrink,
};

/// Parts that a run may have.
const PARTS_MAX: u32 = 1000;
/// Between the first two looks for the parts of others; each time it is twice as long.
const LOOK_AFTER: Duration = Duration::from_secs(1);
/// Between two looks at most.
const LOOK_EVERY_MAX: Duration = Duration::from_secs(15);

/// One of several processes that make a snapshot together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// Which it is, from 0.
    index: u32,
    /// How many there are.
    of: u32,
}

impl FromStr for Shard {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let numbers = text.split_once('/').map(|(index, of)| (index.parse().ok(), of.parse().ok()));
        match numbers {
            Some((Some(index), Some(of))) if index < of && of <= PARTS_MAX => Ok(Self { index, of }),
            _ => Err(format!(
                "it is I/N, with I from 0 and less than N, and N at most {PARTS_MAX}: 0/3, 1/3 and 2/3 are all of three"
            )),
        }
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.of)
    }
}

/// What is asked of one process of a run.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Which part it makes.
    pub shard: Shard,
    /// The run, by a name that all of its processes are given.
    pub run: RunName,
    /// How long part 0 waits for the others.
    pub wait: Duration,
    /// A word to find the snapshot by; that of the process which comes first counts.
    pub tag: Option<String>,
    /// Why it is to be kept for ever; as `tag`.
    pub pin: Option<String>,
}

/// What a process made.
#[derive(Debug)]
pub enum Made {
    /// Its part; the process of part 0 commits.
    Part(PartReport),
    /// The snapshot of all parts.
    Whole(Box<Report>),
    /// Nothing: the run had become this snapshot before, whole or not.
    Before(SnapshotId, Status),
}

/// What became of one part.
#[derive(Debug)]
pub struct PartReport {
    /// The run.
    pub run: RunName,
    /// Which part it is.
    pub shard: Shard,
    /// Whether it was there already; nothing was read then.
    pub was_there: bool,
    /// What it has of each source.
    pub sources: Vec<SourceReport>,
    /// Bytes that it added to the store.
    pub added_bytes: u64,
    /// Packs that it added to the store.
    pub added_packs: u64,
}

impl Made {
    /// Returns how the process ends.
    pub fn exit(&self) -> ExitCode {
        match self {
            Self::Whole(report) => report.exit(),
            // What a part lacks is told when it is made, and by the snapshot: one that is asked for again is there.
            Self::Part(part) if part.was_there => ExitCode::Ok,
            Self::Part(part) => backup::exit_of(&part.sources),
            Self::Before(_, Status::Complete) => ExitCode::Ok,
            Self::Before(..) => ExitCode::Partial,
        }
    }
}

impl Remembered for Made {
    fn outcome(&self) -> Outcome {
        match self {
            Self::Whole(report) => report.outcome(),
            Self::Part(_) => Outcome { exit: Some(self.exit()), ..Outcome::default() },
            Self::Before(id, _) => {
                Outcome { snapshot: Some(id.clone()), exit: Some(self.exit()), ..Outcome::default() }
            }
        }
    }
}

/// Makes one part of a run, and of part 0 the snapshot.
pub async fn of_stack(context: RunContext<'_>, wanted: Wanted) -> Result<Made> {
    if wanted.shard.index == 0 {
        let work = Box::pin(whole(context, &wanted));
        return noted(context, &Task::of(Job::Backup), work).await;
    }
    // What counts for the schedule is the snapshot, and that is noted by the host that commits it.
    let _lock = RunLock::of_part(context.stack, wanted.shard.index)?;
    Process::begin(context, &wanted).await?.part(context).await
}

async fn whole(context: RunContext<'_>, wanted: &Wanted) -> Result<Made> {
    let process = Process::begin(context, wanted).await?;
    let made = process.part(context).await?;
    if let Made::Before(..) = made {
        return Ok(made);
    }
    let waiting = process.wait(context, wanted.wait);
    let Some(parts) = context.stop.run_until_cancelled(waiting).await else { return Err(stopped()) };
    let mut report = process.commit(context, parts?).await?;
    // From the first process on, whose clock may be ahead.
    report.seconds = (context.ground.clock.now() - report.began).as_seconds_f64().max(0.0);
    Ok(Made::Whole(Box::new(report)))
}

/// One process of a run.
struct Process {
    opening: Opening,
    repository: Repository<Append>,
    planned: Planned,
    shard: Shard,
}

impl Process {
    /// Opens the repository and learns the plan, or makes it.
    async fn begin(context: RunContext<'_>, wanted: &Wanted) -> Result<Self> {
        let (stack, monitor) = (context.stack, context.monitor);
        let (shard, run) = (wanted.shard, &wanted.run);
        let opening = Opening::new(stack, monitor)?;
        let repository = opening.append(stack, monitor).await?;
        let planned = match repository.planned(run).await? {
            Some(planned) => planned,
            None => repository.plan_run(plan(context, &repository, wanted).await?).await?,
        };
        check(&planned.plan, context, wanted, repository.config().revision)?;
        Ok(Self { opening, repository, planned, shard })
    }

    /// Reads the share of this process, unless its part is there.
    async fn part(&self, context: RunContext<'_>) -> Result<Made> {
        if let Some((snapshot, status)) = self.repository.run_ended(&self.planned).await? {
            return Ok(Made::Before(snapshot, status));
        }
        let report = |was_there, sources, part: &Part| PartReport {
            run: self.planned.plan.run.clone(),
            shard: self.shard,
            was_there,
            sources,
            added_bytes: part.packs.values().sum(),
            added_packs: part.packs.len() as u64,
        };
        if let Some(part) = self.repository.part(&self.planned, self.shard.index).await? {
            let sources = part.sources.iter().map(|source| SourceReport::of(source, &part.tallies));
            let failed = part.failed.iter().map(|one| self.unread(one));
            return Ok(Made::Part(report(true, sources.chain(failed).collect(), &part)));
        }
        let RunContext { stack, ground, monitor, stop, .. } = context;
        let level = stack.repository.settings.compression_level;
        let mut writer = self.repository.begin(ground.clone(), monitor.clone(), level).await?;
        let sources = self.sources(context);
        let Some(mut reports) = backup::read(&self.repository, &mut writer, sources, monitor, stop).await?
        else {
            writer.abandon().await?;
            return Err(stopped());
        };
        let failed = reports.iter().filter_map(|report| {
            let failure = report.failure.as_ref()?;
            let (source, exit) = (report.name.clone(), failure.exit().number());
            Some(PartFailure { source, exit, why: failure.one_line() })
        });
        let failed = failed.collect();
        let part = writer.end_as_part(&self.planned, self.shard.index, backup::host_name(), failed).await?;
        for one in &mut reports {
            one.fill(&part.sources, &part.tallies);
        }
        Ok(Made::Part(report(false, reports, &part)))
    }

    /// Returns the sources of this process, ready to be read.
    fn sources(&self, context: RunContext<'_>) -> Vec<Ready> {
        let RunContext { stack, ground, monitor, .. } = context;
        let shrink = Shrink::Percent(stack.anomaly.shrink_percent);
        let ready = |source: &PlannedSource| {
            let config = stack.source(source.name.as_str())?;
            match &source.share {
                PlannedShare::Whole(part) => {
                    (*part == self.shard.index).then(|| registry::source(config, shrink, ground, monitor))
                }
                PlannedShare::Divided(division) => {
                    let share = registry::share(
                        config,
                        &division.borders,
                        self.shard.index as usize,
                        ground,
                        monitor,
                    );
                    let before = division.previous.clone().map_or(Before::Nothing, Before::Snapshot);
                    Some(Ready { before, ..share })
                }
            }
        };
        self.planned.plan.sources.iter().filter_map(ready).collect()
    }

    /// Waits for the parts of all others.
    async fn wait(&self, context: RunContext<'_>, limit: Duration) -> Result<BTreeMap<u32, Part>> {
        let (began, run) = (Instant::now(), &self.planned.plan.run);
        let (mut told, mut parts, mut pause) = (BTreeSet::new(), BTreeMap::new(), LOOK_AFTER);
        loop {
            self.repository.take_parts(&self.planned, &mut parts).await?;
            let missing: BTreeSet<u32> =
                (0..self.planned.plan.parts).filter(|number| !parts.contains_key(number)).collect();
            if missing.is_empty() {
                return Ok(parts);
            }
            if began.elapsed() >= limit {
                return Err(self.lacks(&missing, limit));
            }
            if missing != told {
                let numbers = listed(&missing);
                context.monitor.step(None, format!("wait for part {numbers} of run {run}"));
                told = missing;
            }
            tokio::time::sleep(pause.min(limit.saturating_sub(began.elapsed()))).await;
            pause = (pause * 2).min(LOOK_EVERY_MAX);
        }
    }

    fn lacks(&self, missing: &BTreeSet<u32>, limit: Duration) -> Failure {
        let (run, of, first) = (&self.planned.plan.run, self.shard.of, missing.first().unwrap_or(&0));
        let what = format!("run `{run}` lacks part {} of {of}: no snapshot was made", listed(missing));
        Failure::new(ExitCode::Failed, what)
            .because(format!("it did not come within {} s", limit.as_secs()))
            .hint(format!(
                "Look why that process ended, run `lifeboat backup --run {run} --shard {first}/{of}` again, then \
                 `lifeboat backup --run {run} --shard 0/{of}`: the parts that are there are not read again."
            ))
    }

    /// Joins the parts and commits them.
    async fn commit(&self, context: RunContext<'_>, parts: BTreeMap<u32, Part>) -> Result<Report> {
        let RunContext { stack, ground, monitor, .. } = context;
        let mut joined = Joined { sources: Vec::new(), tallies: BTreeMap::new(), failed: Vec::new() };
        let mut reports = Vec::new();
        for planned in &self.planned.plan.sources {
            let config = stack.source(planned.name.as_str());
            let config = config.ok_or_else(|| super::no_source(stack, planned.name.as_str()))?;
            match self.join(context, config, &parts, &mut joined).await {
                Ok(source) => {
                    reports.push(SourceReport::of(&source, &joined.tallies));
                    joined.sources.push(source);
                }
                Err(failure) if failure.exit() == ExitCode::StoreDown => return Err(failure),
                Err(failure) => {
                    monitor.warn(Some(&planned.name), failure.one_line(), failure.first_hint());
                    let (what, why) = (planned.name.to_string(), failure.one_line());
                    joined.failed.push(Problem { what, why });
                    reports.push(SourceReport::unread(planned.name.clone(), config.kind.word(), failure));
                }
            }
        }
        if joined.sources.is_empty() {
            return Err(backup::first_failure(reports));
        }
        let host = backup::host_name();
        let committed =
            self.repository.commit_run(&self.planned, &parts, joined, host, ground, monitor).await?;
        if committed.status == Status::Complete {
            self.repository.retire(&committed.thin)?;
        }
        let mut report = Report::of(committed, reports, false);
        report.count(context, &self.opening);
        Ok(report)
    }

    /// Makes one source of what all parts have of it.
    async fn join(
        &self,
        context: RunContext<'_>,
        config: &SourceConfig,
        parts: &BTreeMap<u32, Part>,
        joined: &mut Joined,
    ) -> Result<SourceManifest> {
        let name = &config.name;
        if let Some(failed) = parts.values().flat_map(|part| &part.failed).find(|one| one.source == *name) {
            return Err(failure_of(failed));
        }
        let mut tally = crate::repo::SourceTally::default();
        parts.values().filter_map(|part| part.tallies.get(name)).for_each(|one| tally.add(one));
        let found = parts.values().flat_map(|part| &part.sources).filter(|source| source.name == *name);
        let mut shares: Vec<SourceManifest> = found.cloned().collect();
        let whole =
            match &self.planned.plan.sources.iter().find(|one| one.name == *name).map(|one| &one.share) {
                Some(PlannedShare::Divided(_)) if shares.len() == self.shard.of as usize => {
                    let points = shares.iter().map(|share| share.point.clone()).collect();
                    let shrink = Shrink::Percent(context.stack.anomaly.shrink_percent);
                    let (point, problems, gone) =
                        registry::joined(config, shrink, context.monitor, points).await?;
                    tally.gone += gone;
                    let mut whole = together(shares);
                    whole.point = point;
                    whole.problems.extend(problems);
                    whole
                }
                Some(PlannedShare::Whole(_)) if shares.len() == 1 => shares.remove(0),
                _ => {
                    let what = format!("the parts have {} shares of `{name}`", shares.len());
                    return Err(Failure::new(ExitCode::Damage, what));
                }
            };
        joined.tallies.insert(name.clone(), tally);
        Ok(whole)
    }

    fn unread(&self, failed: &PartFailure) -> SourceReport {
        let planned = self.planned.plan.sources.iter().find(|one| one.name == failed.source);
        let kind = planned.map_or("", |one| registry::kind_word(&one.kind));
        SourceReport::unread(failed.source.clone(), kind, failure_of(failed))
    }
}

fn failure_of(failed: &PartFailure) -> Failure {
    Failure::new(ExitCode::of_number(failed.exit).unwrap_or(ExitCode::Failed), failed.why.clone())
}

/// Puts shares of a source one behind the other, which is the order of the whole; its point is the first one's.
fn together(shares: Vec<SourceManifest>) -> SourceManifest {
    let mut shares = shares.into_iter();
    let mut whole = shares.next().expect("a run has at least one part");
    for share in shares {
        whole.began = whole.began.min(share.began);
        whole.ended = whole.ended.max(share.ended);
        whole.inventory.extend(share.inventory);
        whole.entries += share.entries;
        whole.size_bytes += share.size_bytes;
        whole.read_bytes += share.read_bytes;
        whole.added_bytes += share.added_bytes;
        whole.list.extend(share.list);
        for problem in share.problems {
            if !whole.problems.contains(&problem) {
                whole.problems.push(problem);
            }
        }
    }
    whole.inventory.sort();
    whole.inventory.dedup();
    whole
}

fn listed(numbers: &BTreeSet<u32>) -> String {
    numbers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Divides the stack: buckets among all, other sources by their place in the policy.
async fn plan(context: RunContext<'_>, repository: &Repository<Append>, wanted: &Wanted) -> Result<RunPlan> {
    let RunContext { stack, ground, monitor, .. } = context;
    let count = wanted.shard.of as usize;
    let mut sources = Vec::new();
    for config in stack.sources_in_order() {
        let share = if registry::divides(config) {
            let before = repository.newest_of(&config.name, |_| true).await?;
            let (previous, entries) = before.map_or((None, None), |(id, entries)| (Some(id), Some(entries)));
            let borders = match registry::borders(config, entries, count).await {
                Ok(borders) => borders,
                Err(failure) if failure.exit() == ExitCode::StoreDown => return Err(failure),
                Err(failure) => {
                    // Whoever reads it will say so too; the other sources are worth having.
                    monitor.warn(Some(&config.name), failure.one_line(), failure.first_hint());
                    registry::blind_borders(count)
                }
            };
            PlannedShare::Divided(Division { previous, borders })
        } else {
            let position = stack.sources.iter().position(|one| one.name == config.name).unwrap_or_default();
            PlannedShare::Whole(u32::try_from(position % count).unwrap_or_default())
        };
        let (name, kind) = (config.name.clone(), config.kind.word().to_owned());
        sources.push(PlannedSource { name, kind, policy: policy_of(config)?, share });
    }
    Ok(RunPlan {
        format: FORMAT,
        repository: repository.config().repository.clone(),
        run: wanted.run.clone(),
        parts: wanted.shard.of,
        stack: stack.name.clone(),
        config: repository.config().revision,
        began: ground.clock.now(),
        tag: wanted.tag.clone(),
        pin: wanted.pin.clone(),
        sources,
    })
}

/// Fails unless this process is one of those that the plan is for.
fn check(plan: &RunPlan, context: RunContext<'_>, wanted: &Wanted, revision: u32) -> Result<()> {
    let (run, shard) = (&plan.run, wanted.shard);
    let new = "Give the next run another name, such as its date.";
    if plan.parts != shard.of {
        let what = format!("run `{run}` was begun with {} parts, not {}", plan.parts, shard.of);
        return Err(Failure::new(ExitCode::Usage, what).hint("Say the same N everywhere.").hint(new));
    }
    plan.check_age(context.ground.clock.now(), ExitCode::Usage)?;
    if plan.config != revision {
        let what = format!("the keys of the repository changed since run `{run}` began");
        return Err(Failure::new(ExitCode::Usage, what)
            .because("its parts are sealed to those that could read then")
            .hint(new));
    }
    let is_said = |mine: &Option<String>, planned: &Option<String>| mine.is_none() || mine == planned;
    if !is_said(&wanted.tag, &plan.tag) || !is_said(&wanted.pin, &plan.pin) {
        let what = format!("run `{run}` was begun with another tag or pin");
        return Err(Failure::new(ExitCode::Usage, what)
            .hint("Give all of its processes the same.")
            .hint(new));
    }
    let sources = context.stack.sources_in_order();
    let mine: Vec<_> =
        sources.into_iter().map(|one| Ok((&one.name, policy_of(one)?))).collect::<Result<_>>()?;
    let planned = plan.sources.iter().map(|one| (&one.name, one.policy));
    if plan.stack != context.stack.name || !mine.into_iter().eq(planned) {
        let what = format!("run `{run}` is of other sources than this policy has");
        return Err(Failure::new(ExitCode::Usage, what)
            .hint("Give all processes of a run the same policy, and the next run another name."));
    }
    let is_divided = |one: &PlannedSource| match &one.share {
        PlannedShare::Divided(division) => division.borders.len() + 1 == plan.parts as usize,
        PlannedShare::Whole(part) => *part < plan.parts,
    };
    if !plan.sources.iter().all(is_divided) {
        return Err(Failure::new(
            ExitCode::Damage,
            format!("the plan of run `{run}` does not fit its parts"),
        )
        .hint(new));
    }
    Ok(())
}

/// Returns the digest of what the policy says of a source; of secrets it says only where they are.
fn policy_of(config: &SourceConfig) -> Result<PackId> {
    let told = serde_json::to_vec(&config.kind).failed(ExitCode::Failed, || {
        format!("what the policy says of `{}` cannot be written", config.name)
    })?;
    Ok(PackId(Sha256::digest(told).into()))
}
