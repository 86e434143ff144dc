//! A drill: everything is restored into a lab and asked whether it is what was backed up.
//!
//! *Order.* The repository or a copy is opened, a snapshot is chosen, the lab's servers are started; every source is
//! restored by the very code of a real restore; questions are asked; the lab is removed; the report is signed and
//! stored. *Crash.* What a killed drill leaves behind is removed by the next one, and when the service starts
//! ([`reap`]). A drill that was not run to its end is never one that passed.
//!
//! *Limits.* The lab's are in the policy; the whole drill has `deadline_minutes`.

mod answers;
mod blame;
pub mod by_hand;
pub mod contents;
mod drift;
#[cfg(test)]
mod endings;
mod objects;
mod pick;
mod programs;
mod questions;
mod reap;
mod record;
mod references;
mod rehearse;
mod rows;
mod sample;
mod scene;
mod stage;
mod watch;

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

#[cfg(test)]
pub(crate) use self::watch::Workplace;
use self::{drift::Drift, rehearse::Rehearsal, watch::Watch};
pub use self::{
    objects::ObjectBook,
    questions::Asking,
    reap::{Reaped, reap},
    record::Recorded,
    rehearse::Meddle,
    scene::{Cast, Dumps, Scene},
};
use super::{
    backup::host_name,
    drilled::{exit_of, task_of},
    open::{Opening, believed, state_dir},
    restore,
    run::{Outcome as RunOutcome, Remembered, RunContext, noted, stopped},
    when::When,
};
use crate::{
    clock::Ground,
    crypt::{Identities, files},
    drill::{self, Answer, Assertion, Outcome, Question, Report, Step, Trouble, Way},
    error::{ExitCode, Failure, Result},
    event::SharedMonitor,
    lab::{self, Lab, Limits, Marks, ProcessLab, docker::DockerLab},
    names::{PackId, SnapshotId, SourceName, Task},
    policy::{LabKind, Stack},
    repo::{Read, Repository, Snapshot, format::Manifest},
};

/// The word for the stack's own repository where a drill may come from several places.
pub const REPOSITORY: &str = "repository";
/// What a drill finds not to hold where stored bytes are missing or changed.
const SOUND: &str = "the snapshot can be read";
/// How long a server of the lab may take until it accepts a connection.
const START: Duration = Duration::from_mins(5);
/// How long a lab may be older than the drill's deadline before anybody may remove it.
const LIFETIME_GRACE: Duration = Duration::from_hours(1);

/// What a person asks of a drill.
pub struct Wanted {
    /// How it restores.
    pub way: Way,
    /// The snapshot; as the policy picks it when not given.
    pub when: Option<When>,
    /// Where it comes from: [`REPOSITORY`] or the name of an offsite; as the policy says when not given.
    pub from: Option<String>,
    /// Opens the data; the policy's `identity` when not given.
    pub identity: Option<Identities>,
    /// The file that it is in: recovery by hand hands it to the recipe.
    pub identity_file: Option<PathBuf>,
    /// What is done to the lab between the restore and the questions: how drills themselves are tested.
    pub meddle: Option<Meddle>,
}

impl Wanted {
    /// Returns what the schedule asks for.
    pub fn of(way: Way) -> Self {
        Self { way, when: None, from: None, identity: None, identity_file: None, meddle: None }
    }

    fn task(&self) -> Task {
        task_of(self.way)
    }
}

/// A drill that was made, whatever came of it.
#[derive(Clone, Debug)]
pub struct Drilled {
    /// What it found.
    pub report: Report,
    /// Where the report lies, and what could not be done with it.
    pub recorded: Recorded,
}

impl Drilled {
    /// Returns how a process that did only this would end.
    pub fn exit(&self) -> ExitCode {
        exit_of(self.report.outcome)
    }
}

impl Remembered for Drilled {
    /// Nothing here names a table, a key or a file: the message may go into a chat. The report has the names.
    fn outcome(&self) -> RunOutcome {
        let [held, failed, unasked] = self.report.counts();
        let found = match self.report.outcome {
            Outcome::Passed => None,
            Outcome::Failed => Some(format!("{failed} of {} checks did not hold", held + failed + unasked)),
            Outcome::CouldNotRun => Some(match &self.report.problem {
                Some(problem) => {
                    let what = problem.what.lines().next().unwrap_or_default();
                    format!("the drill could not be run to its end: {what}")
                }
                None => format!("{unasked} of {} checks could not be made", held + failed + unasked),
            }),
        };
        let report =
            self.recorded.folder.as_ref().map(|folder| format!("Read the report in {}.", folder.display()));
        let hint = self.report.problem.iter().flat_map(|problem| problem.hints.iter().cloned()).chain(report);
        let hint = hint.chain(self.recorded.troubles.iter().filter_map(|(_, hint)| hint.clone()));
        let message: Vec<String> = found.into_iter().chain(self.recorded.trouble()).collect();
        let message = (!message.is_empty()).then(|| message.join("; "));
        let hint = hint.collect::<Vec<_>>().join(" ");
        RunOutcome {
            exit: Some(self.exit()),
            snapshot: Some(self.report.snapshot.clone()),
            hint: message.is_some().then_some(hint).filter(|hint| !hint.is_empty()),
            message,
            ..RunOutcome::default()
        }
    }
}

/// Makes a drill, as a run. Fails only where there is no snapshot to speak of, or when it was asked to end.
pub async fn of_stack(context: RunContext<'_>, wanted: Wanted) -> Result<Drilled> {
    let task = wanted.task();
    noted(context, &task, Box::pin(make(context, wanted))).await
}

/// Whoever can take a drill's run lock may remove its lab; so a lab is told apart by all that the lock is.
fn marks_of(stack: &Stack, task: &Task, drill: &str) -> Marks {
    Marks {
        stack: stack.name.clone(),
        host: format!("{}-{}", host_name(), super::open::state_mark(stack)),
        task: task.to_string().replace(' ', "-"),
        drill: drill.to_owned(),
    }
}

/// Returns the folder of labs that are plain processes.
fn labs(stack: &Stack) -> PathBuf {
    state_dir(stack).join("labs")
}

async fn make(context: RunContext<'_>, wanted: Wanted) -> Result<Drilled> {
    let RunContext { stack, ground, monitor, stop, .. } = context;
    let (task, way, began) = (wanted.task(), wanted.way, ground.clock.now());
    let deadline = Duration::from_secs(u64::from(stack.drill.deadline_minutes) * 60);
    let mut watch = Watch::start();
    let opening = in_time(stack, watch.left(deadline), open(context, &wanted));
    let opened = watch.time(Step::Open, opening).await.map_err(not_begun)?;
    let mut report = blank(stack, ground.id_at(began), way, &opened, began);
    let hold = opened.opening.hold(std::slice::from_ref(&report.snapshot), ground, monitor).await;

    let limits = limits(stack, deadline);
    let marks = marks_of(stack, &task, report.id.as_str());
    monitor.step(None, format!("starting a lab for snapshot {}", report.snapshot));
    // Whoever asks a drill to end waits for this: it removes what a killed one left.
    let lab = in_time(stack, watch.left(deadline), open_lab(stack, marks, limits, ground)).await;
    let ended = match lab {
        Ok(lab) => {
            report.lab = lab.describe();
            let previous = record::previous(context, way);
            let left = watch.left(deadline);
            let rehearsal = Rehearsal {
                stack,
                ground,
                monitor,
                opened: &opened,
                lab: &*lab,
                previous: previous.as_ref(),
                report: &mut report,
                watch: &mut watch,
            };
            let work = in_time(stack, left, Box::pin(rehearsal.run(wanted.meddle)));
            let ended = stop.run_until_cancelled(work).await.unwrap_or_else(|| Err(stopped()));
            if let Err(failure) = watch.time(Step::Remove, lab.remove()).await {
                report.notes.push(failure.one_line());
            }
            ended
        }
        Err(failure) => Err(failure),
    };
    release(hold, monitor).await;
    clear_away(stack, &mut report, monitor);
    settle(&mut report, ended)?;
    watch.conclude(&mut report);
    report.ended = ground.clock.now();
    report.outcome = Outcome::judge(&report.assertions, report.problem.as_ref());
    let recorded = record::record(context, &opened, &mut report).await;
    Ok(Drilled { report, recorded })
}

/// Does a part of a drill, unless its time is up before that is done.
async fn in_time<T>(stack: &Stack, left: Duration, work: impl Future<Output = Result<T>>) -> Result<T> {
    let late = |_| Err(late(stack.drill.deadline_minutes));
    tokio::time::timeout(left, work).await.unwrap_or_else(late)
}

/// What a drill restores from.
struct Opened {
    /// [`REPOSITORY`] or the name of an offsite.
    from: String,
    opening: Opening,
    repository: Repository<Read>,
    snapshot: Snapshot,
    /// Where the policy has other sources.
    drift: Drift,
    /// SHA-256 of its refs.
    refs: PackId,
    /// The file with the identity.
    identity: PathBuf,
    /// What is said of snapshots that cannot be believed.
    left_out: Option<String>,
}

async fn open(context: RunContext<'_>, wanted: &Wanted) -> Result<Opened> {
    let RunContext { stack, ground, monitor, .. } = context;
    let from = wanted.from.clone().unwrap_or_else(|| stack.drill.from.clone());
    let offsite = (from != REPOSITORY).then_some(from.as_str());
    let opening = Opening::named(stack, offsite, monitor)?;
    let (identity, file) = match (&wanted.identity, &wanted.identity_file) {
        (Some(identity), Some(file)) => (identity.clone(), file.clone()),
        _ => identity(stack)?,
    };
    let repository = opening.read(identity, monitor).await?;
    let (refs, unbelieved) = believed(&repository, monitor).await?;
    let left_out = pick::left_out(unbelieved.iter());
    let id = match &wanted.when {
        Some(when) => {
            let sources: Vec<SourceName> = stack.sources.iter().map(|source| source.name.clone()).collect();
            restore::choose(&repository, &refs, when, &sources).await?
        }
        None => pick::choose(stack, &repository, &refs, ground).await?,
    };
    let snapshot = repository.snapshot(&id).await?;
    let drift = Drift::of(stack, &snapshot, &repository, &refs).await;
    let drift = match wanted.way {
        Way::Restore => drift,
        Way::ByHand => drift.by_hand(),
    };
    let refs = snapshot.refs_sha256;
    Ok(Opened { from, opening, repository, snapshot, drift, refs, identity: file, left_out })
}

/// Returns the identity that the policy names, or the one in the keys folder where it opens without a passphrase; and
/// its file.
fn identity(stack: &Stack) -> Result<(Identities, PathBuf)> {
    let beside = stack.repository.settings.keys.join(files::IDENTITY);
    let beside = Some(beside).filter(|path| path.exists() && !Identities::is_protected(path));
    if let Some(path) = stack.drill.identity.clone().or(beside) {
        return Ok((Identities::from_file(&path)?, path));
    }
    Err(Failure::new(ExitCode::KeyRefused, "no identity is there that opens the data")
        .hint("Set identity in [drill] to a file that opens without a passphrase, best on a host of its own.")
        .hint("By hand: `lifeboat --identity FILE drill`."))
}

/// Returns the failure of a drill that did not come as far as a snapshot.
fn not_begun(failure: Failure) -> Failure {
    if matches!(failure.exit(), ExitCode::Interrupted | ExitCode::Usage) || is_damage(&failure) {
        return failure;
    }
    let hints = failure.hints().to_vec();
    let outer = Failure::new(ExitCode::DrillNotRun, "the drill could not begin").because(failure);
    hints.into_iter().fold(outer, Failure::hint)
}

/// Removes what the drill has on this host. What was found counts, whatever stays behind.
fn clear_away(stack: &Stack, report: &mut Report, monitor: &SharedMonitor) {
    if let Err(failure) = watch::Workplace::clear(stack, report.way) {
        monitor.warn(None, failure.one_line(), failure.first_hint());
        report.notes.push(failure.one_line());
    }
}

/// Puts into the report what broke a drill off. Damage is an answer, and a bad one: the backup cannot be restored. One
/// that was asked to end and has found nothing bad leaves no report.
fn settle(report: &mut Report, ended: Result<()>) -> Result<()> {
    match ended {
        Err(failure) if failure.exit() == ExitCode::Interrupted && !is_lost(report) => return Err(failure),
        Err(failure) if is_damage(&failure) => report.assertions.push(not_sound(SOUND, &failure)),
        Err(failure) => report.problem = Some(trouble(&failure)),
        Ok(()) => {}
    }
    Ok(())
}

/// Returns whether something was found that does not hold, whatever is still to be asked. Too slow is not that.
fn is_lost(report: &Report) -> bool {
    let is_lost = |one: &Assertion| one.answer == Answer::Failed && one.kind != Question::Objective;
    report.assertions.iter().any(is_lost)
}

/// Returns whether a failure says that the backup itself is bad, wherever it was met.
fn is_damage(failure: &Failure) -> bool {
    matches!(failure.exit(), ExitCode::Damage | ExitCode::Tampering)
}

/// Returns the assertion that a failure of the backup is; what to do stands below it.
fn not_sound(name: &str, failure: &Failure) -> Assertion {
    unsound(Question::Restored, name, failure)
}

/// The same, where it was met while something was asked.
fn unsound(kind: Question, name: &str, failure: &Failure) -> Assertion {
    let findings = failure.hints().to_vec();
    let total = findings.len() as u64;
    Assertion::failed(kind, name, failure.one_line()).with_findings(findings, total)
}

/// Returns a failure that the lab's side of a comparison met: what is damaged there is not the backup.
fn of_lab(failure: Failure) -> Failure {
    if is_damage(&failure) { failure.with_exit(ExitCode::DrillNotRun) } else { failure }
}

fn late(minutes: u32) -> Failure {
    Failure::new(ExitCode::DrillNotRun, format!("the drill was given up after {minutes} minutes"))
        .hint("Raise deadline_minutes in [drill], or give the lab a faster disk.")
}

fn trouble(failure: &Failure) -> Trouble {
    Trouble { what: failure.chain().join("\n"), hints: failure.hints().to_vec() }
}

fn limits(stack: &Stack, deadline: Duration) -> Limits {
    Limits {
        memory_bytes: u64::from(stack.drill.memory_mib) << 20,
        cpu_percent: stack.drill.cpu_percent,
        data_in_memory: stack.drill.data_in_memory,
        start: START.min(deadline),
        lifetime: deadline + LIFETIME_GRACE,
    }
}

async fn open_lab(stack: &Stack, marks: Marks, limits: Limits, ground: &Ground) -> Result<Box<dyn Lab>> {
    Ok(match stack.drill.lab {
        LabKind::Docker => {
            Box::new(DockerLab::open(stack.drill.socket.as_deref(), marks, limits, ground.clock.now()).await?)
        }
        LabKind::Process => Box::new(ProcessLab::open(&labs(stack), marks, limits).await?),
    })
}

async fn release(hold: Option<crate::repo::Hold>, monitor: &SharedMonitor) {
    if let Some(hold) = hold
        && let Err(failure) = hold.end().await
    {
        monitor.step(None, failure.one_line());
    }
}

/// Returns a report of which nothing is known but what is drilled.
fn blank(
    stack: &Stack,
    id: SnapshotId,
    way: Way,
    opened: &Opened,
    began: chrono::DateTime<chrono::Utc>,
) -> Report {
    let snapshot = &opened.snapshot;
    Report {
        schema: drill::SCHEMA.to_owned(),
        id,
        stack: stack.name.clone(),
        host: host_name(),
        lifeboat: env!("CARGO_PKG_VERSION").to_owned(),
        timezone: stack.timezone.name().to_owned(),
        way,
        from: opened.from.clone(),
        snapshot: snapshot.refs.snapshot.clone(),
        snapshot_began: snapshot.refs.began,
        lab: lab::word(stack.drill.lab).to_owned(),
        began,
        ended: began,
        outcome: Outcome::CouldNotRun,
        problem: None,
        rto_seconds: None,
        objective_seconds: stack.drill.rto_minutes.map(|minutes| u64::from(minutes) * 60),
        phases: Vec::new(),
        sources: Vec::new(),
        covers: Some(covers(&snapshot.manifest)),
        assertions: Vec::new(),
        notes: opened.left_out.iter().cloned().collect(),
        trend: Vec::new(),
    }
}

/// Returns the names of all sources that a snapshot has or should have.
fn covers(manifest: &Manifest) -> Vec<SourceName> {
    let there = manifest.sources.iter().map(|source| source.name.clone());
    let lost = manifest.failed.iter().filter_map(|source| SourceName::new(&source.what).ok());
    let all: BTreeSet<SourceName> = there.chain(lost).collect();
    all.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drill::tests::report;

    fn drilled(problem: Option<Trouble>) -> Drilled {
        let report = report(Way::Restore, chrono::DateTime::UNIX_EPOCH, Vec::new(), problem);
        Drilled { report, recorded: Recorded::default() }
    }

    #[test]
    fn only_what_failed_goes_into_the_message_and_why_stays_in_the_report() {
        let what = "the lab has no server for `mysql`\nthe image is not there\nline\nafter line".to_owned();
        let outcome = drilled(Some(Trouble { what, hints: vec!["Pull it.".to_owned()] })).outcome();
        assert_eq!(
            outcome.message.as_deref(),
            Some("the drill could not be run to its end: the lab has no server for `mysql`")
        );
        assert_eq!(outcome.hint.as_deref(), Some("Pull it."));
    }

    #[test]
    fn what_could_not_be_recorded_stands_in_the_run_and_changes_nothing_of_how_it_ended() {
        let mut passed = drilled(None);
        passed.report.outcome = Outcome::Passed;
        assert_eq!(passed.outcome().message, None);
        passed.recorded.troubles = vec![
            ("no proof in `oss`: refused\nwith a page".to_owned(), Some("Add it.".to_owned())),
            ("no room".to_owned(), None),
        ];
        let outcome = passed.outcome();
        assert_eq!(outcome.exit(), ExitCode::Ok);
        assert_eq!(outcome.message.as_deref(), Some("no proof in `oss`: refused; no room"));
        assert_eq!(outcome.hint.as_deref(), Some("Add it."));
    }
}
