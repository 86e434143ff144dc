//! The middle of a drill: lab, restore, questions.
//!
//! *Order.* Servers start; each is waited for until it answers; all sources are restored; then the questions, those
//! about the contents first, for what they read of the objects answers the references. *Crash.* See the drill.

use std::{collections::BTreeMap, time::Duration};

use futures_util::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use super::{
    Opened, REPOSITORY, blame,
    by_hand::{self, Recovery},
    contents, not_sound,
    objects::ObjectBook,
    questions::Asking,
    scene::{Cast, Scene},
    stage::{self, Origin},
    watch::{Watch, Workplace, judge_time, rto_seconds},
};
use crate::{
    clock::Ground,
    drill::{self, Answer, Assertion, Phase, Question, Report, SourceReport, Step, Way},
    error::{ExitCode, Failure, Result},
    event::SharedMonitor,
    flow::{Fit, Seen, Selection, Verify},
    jobs::{
        registry::{self, Into, ReadyTarget},
        restore::{self, Missing, Plan, Resume},
    },
    lab::{Lab, Server},
    names::SourceName,
    policy::{DrillConfig, SourceConfig, Stack},
    repo::{Snapshot, format::SourceManifest},
};

/// How long a server that accepts connections may take until it answers.
const ANSWER_SECONDS_MAX: u64 = 120;
/// What a drill asks first.
const RESTORED: &str = "everything was restored";
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// Something that is done to a restored lab before it is asked.
pub type Meddle = Box<dyn for<'s> FnOnce(&'s Scene<'s>) -> BoxFuture<'s, ()> + Send>;

/// A drill under way.
pub(super) struct Rehearsal<'a> {
    pub(super) stack: &'a Stack,
    pub(super) ground: &'a Ground,
    pub(super) monitor: &'a SharedMonitor,
    pub(super) opened: &'a Opened,
    pub(super) lab: &'a dyn Lab,
    /// The drill before of the same way.
    pub(super) previous: Option<&'a Report>,
    pub(super) report: &'a mut Report,
    pub(super) watch: &'a mut Watch,
}

impl Rehearsal<'_> {
    /// Restores and asks. Fails when it could not be run to its end; what did not hold stands in the report.
    pub(super) async fn run(mut self, meddle: Option<Meddle>) -> Result<()> {
        let workplace = Workplace::make(self.stack, self.report.way)?;
        self.tell_drift();
        if self.report.way == Way::ByHand {
            return self.by_hand(&workplace).await;
        }
        let origins = stage::origins(&self.opened.snapshot).await?;
        let cast = self.raise(&origins, &workplace).await?;
        if cast.is_empty() {
            self.tell_nothing();
            return Ok(());
        }
        if !self.restore(&cast, &origins).await? {
            return Ok(());
        }
        let (questions, left_out) = self.opened.drift.questions(&self.stack.drill);
        self.report.notes.extend(left_out);
        let scene = Scene {
            drill: self.report.id.clone(),
            stack: self.stack,
            snapshot: &self.opened.snapshot,
            lab: self.lab,
            cast,
            ground: self.ground,
            monitor: self.monitor,
        };
        if let Some(meddle) = meddle {
            meddle(&scene).await;
        }
        let previous = self.previous;
        let asking = ask(&scene, &questions, previous, &mut self.report.assertions);
        self.watch.time(Step::Check, asking).await;
        self.lab.check().await
    }

    /// Starts the lab's servers and returns how each source is reached there.
    async fn raise(
        &mut self,
        origins: &BTreeMap<SourceName, Origin>,
        workplace: &Workplace,
    ) -> Result<Vec<Cast>> {
        let wanted = wanted(self.stack, &self.opened.snapshot);
        let unknown = Origin::default();
        let servers: Vec<(&SourceConfig, Option<Server>)> = wanted
            .iter()
            .map(|config| {
                let origin = origins.get(&config.name).unwrap_or(&unknown);
                (*config, stage::server(self.stack, config, origin, self.ground))
            })
            .collect();
        let to_start: Vec<Server> = servers.iter().filter_map(|(_, server)| server.clone()).collect();
        let mut running = self.watch.time(Step::Lab, self.lab.start(&to_start)).await?.into_iter();
        let mut cast = Vec::new();
        for (config, server) in &servers {
            let inventory = &self.opened.snapshot.source(&config.name)?.inventory;
            let Some(server) = server else {
                cast.push(stage::cast_files(config, inventory, workplace.path()));
                continue;
            };
            let running = running.next().ok_or_else(|| {
                let what = format!("the lab has no server for `{}`", config.name);
                Failure::new(ExitCode::DrillNotRun, what)
            })?;
            cast.push(stage::cast(config, inventory, (server, &running), workplace.path())?);
        }
        Ok(cast)
    }

    /// Restores all sources. Returns whether that went so well that something can be asked.
    async fn restore(&mut self, cast: &[Cast], origins: &BTreeMap<SourceName, Origin>) -> Result<bool> {
        let mut targets = Vec::new();
        for one in cast {
            targets.push((one.config.name.clone(), self.ready(one).await?));
        }
        let began = self.watch.elapsed();
        let wanted = restore::Wanted {
            targets,
            by_name: false,
            only: Selection::all(),
            replace: false,
            salvage: false,
            // The questions read all of it.
            verify: Verify::Counts,
            // A lab that is lost is lost with all that was done.
            resume: Resume::Never,
            fit: Fit::default(),
        };
        let snapshot = &self.opened.snapshot;
        let planned = restore::plan(snapshot, wanted, self.monitor).await;
        let versions = planned.as_ref().map(versions).unwrap_or_default();
        self.note_releases(origins, &versions);
        let done = match planned {
            // A drill that is stopped drops all of this and removes the lab.
            Ok(plan) => restore::execute(snapshot, plan, &CancellationToken::new(), self.monitor).await,
            Err(failure) => Err(failure),
        };
        let done = match done {
            Ok(done) => done,
            Err(failure) => return self.not_restored(failure, cast, began).await,
        };
        let seconds = self.watch.elapsed() - began;
        self.note_phases(&done, began, seconds);
        self.note_sources(&done, cast, origins, &versions);
        let missing = self.missing(&done.missing);
        let total = missing.len() as u64;
        let is_asked = self.opened.drift.unknown().next().is_none();
        let is_whole = missing.is_empty() && count(&done) > 0 && is_asked;
        let what = format!("{} sources, {} entries", done.restored.len(), count(&done));
        self.report.assertions.push(if missing.is_empty() && count(&done) == 0 {
            // Nothing was compared with nothing: that proves nothing.
            Assertion::could_not_run(Question::Restored, RESTORED, "the snapshot holds no entry")
        } else if missing.is_empty() {
            Assertion::held(Question::Restored, RESTORED, what)
        } else {
            Assertion::failed(Question::Restored, RESTORED, format!("{what}; {total} are missing"))
                .with_findings(missing, total)
        });
        self.conclude_time(is_whole);
        Ok(true)
    }

    /// Recovers by the repository's own recipe.
    async fn by_hand(self, workplace: &Workplace) -> Result<()> {
        let (stack, opened) = (self.stack, self.opened);
        let offsite = (opened.from != REPOSITORY).then(|| stack.offsite(&opened.from)).flatten();
        let place = offsite.map_or(&stack.repository.place, |offsite| &offsite.place);
        let root = place.folder();
        let settings = &stack.repository.settings;
        let signers: Vec<String> = settings.signers.iter().chain(&settings.maintainers).cloned().collect();
        let scratch = workplace.path().join("recovery");
        let lost: Vec<String> = opened.drift.lost().collect();
        let recovery = Recovery {
            repository: &opened.repository,
            snapshot: &opened.snapshot,
            lost: &lost,
            folder: root.as_deref(),
            identity: &opened.identity,
            signers: &signers,
            image: stack.drill.by_hand_image.as_deref(),
            scratch: &scratch,
            timeout: Duration::from_secs(u64::from(stack.drill.deadline_minutes) * 60),
        };
        let began = self.watch.elapsed();
        by_hand::recover(self.lab, &recovery, &mut self.report.assertions).await?;
        let seconds = self.watch.elapsed() - began;
        // Recovering and comparing are one here: the files are compared one by one, and each is removed.
        self.watch.note(Phase { step: Step::Restore, source: None, began_seconds: began, seconds });
        let is_whole = self.report.assertions.iter().all(|one| one.answer == Answer::Held);
        self.report.rto_seconds = rto_seconds(self.watch.phases(), is_whole);
        self.report.objective_seconds = None;
        Ok(())
    }

    /// Waits until a server of the lab answers.
    async fn ready(&self, cast: &Cast) -> Result<ReadyTarget> {
        let until = tokio::time::Instant::now() + Duration::from_secs(ANSWER_SECONDS_MAX);
        loop {
            match self.answering(cast).await {
                Ok(target) => return Ok(target),
                Err(failure) if tokio::time::Instant::now() >= until => return Err(silent(cast, failure)),
                Err(_) => self.lab.check().await?,
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }

    /// Returns the target of a restore, if it answers.
    async fn answering(&self, cast: &Cast) -> Result<ReadyTarget> {
        let into = cast.folder.as_ref().map(|folder| Into::Folder(folder.clone()));
        let mut target = registry::target(&cast.config, into.as_ref(), self.ground, self.monitor)?;
        target.target.inspect(&[]).await?;
        Ok(target)
    }

    /// Tells a backup that cannot be restored from a lab that could not take it.
    async fn not_restored(&mut self, failure: Failure, cast: &[Cast], began: f64) -> Result<bool> {
        let seconds = self.watch.elapsed() - began;
        self.watch.note(Phase { step: Step::Restore, source: None, began_seconds: began, seconds });
        if matches!(failure.exit(), ExitCode::StoreDown | ExitCode::KeyRefused | ExitCode::Interrupted) {
            return Err(failure);
        }
        if let Some(reason) = blame::of_lab(self.lab, &failure).await {
            return Err(reason);
        }
        if failure.exit() == ExitCode::SourceDown {
            // A server that runs and answers nobody refused nothing.
            for one in cast {
                self.answering(one).await.map_err(|failure| silent(one, failure))?;
            }
        }
        self.report.assertions.push(not_sound(RESTORED, &failure));
        Ok(false)
    }

    /// Sources are restored one after the other; each one's time is known, and what is left over is shared by all.
    fn note_phases(&mut self, done: &restore::Outcome, began: f64, seconds: f64) {
        let of_sources: f64 = done.restored.iter().map(|one| one.seconds).sum();
        let mut at = began + (seconds - of_sources).max(0.0);
        self.watch.note(Phase {
            step: Step::Restore,
            source: None,
            began_seconds: began,
            seconds: at - began,
        });
        for one in &done.restored {
            let source = Some(one.source.to_string());
            self.watch.note(Phase { step: Step::Restore, source, began_seconds: at, seconds: one.seconds });
            at += one.seconds;
        }
    }

    /// Tells where the lab is of another release, whatever comes of the restore. Targets of other kinds tell where they
    /// are, which is no version.
    fn note_releases(
        &mut self,
        origins: &BTreeMap<SourceName, Origin>,
        versions: &BTreeMap<SourceName, String>,
    ) {
        for source in self.opened.snapshot.manifest.sources.iter().filter(|source| is_server(&source.kind)) {
            let here = origins.get(&source.name).and_then(|origin| origin.version.as_deref());
            let (Some(here), Some(there)) = (here, versions.get(&source.name)) else { continue };
            if drill::release(here) != drill::release(there) {
                self.report.notes.push(format!(
                    "{}: backed up from {here}, restored into {there}: set the image in [drill.images]",
                    source.name
                ));
            }
        }
    }

    fn note_sources(
        &mut self,
        done: &restore::Outcome,
        cast: &[Cast],
        origins: &BTreeMap<SourceName, Origin>,
        versions: &BTreeMap<SourceName, String>,
    ) {
        for one in &done.restored {
            let manifest =
                self.opened.snapshot.manifest.sources.iter().find(|source| source.name == one.source);
            let Some(manifest) = manifest else { continue };
            let version = origins.get(&one.source).and_then(|origin| origin.version.clone());
            let lab_version = versions.get(&one.source).filter(|_| is_server(&manifest.kind)).cloned();
            let config = self.stack.source(one.source.as_str());
            self.report.notes.extend(config.and_then(|config| stage::unmatched(self.stack, config)));
            self.report.notes.extend(one.tally.notes.iter().map(|note| format!("{}: {note}", one.source)));
            let running = cast.iter().find(|cast| cast.config.name == one.source);
            self.report.sources.push(SourceReport {
                name: one.source.to_string(),
                kind: manifest.kind.clone(),
                point: manifest.point.at,
                version,
                lab_version,
                image: running.and_then(|cast| Some(cast.running.as_ref()?.image.clone())),
                entries: one.tally.entries,
                size_bytes: one.tally.bytes,
                seconds: one.seconds,
            });
        }
    }

    /// Returns what is not there now, a line each: what the restore says, and sources that the snapshot lost.
    fn missing(&self, missing: &[Missing]) -> Vec<String> {
        let line = |one: &Missing| match &one.entry {
            Some(entry) => format!("{}: {entry}: {}", one.source, one.why),
            None => format!("{}: {}", one.source, one.why),
        };
        missing.iter().map(line).chain(self.opened.drift.lost()).collect()
    }

    /// Tells where the policy has other sources than the snapshot.
    fn tell_drift(&mut self) {
        self.report.notes.extend(self.opened.drift.notes());
        self.report.assertions.extend(self.opened.drift.unknown());
    }

    /// Tells of a snapshot of which nothing can be restored what it should have had. What the policy lost was told.
    fn tell_nothing(&mut self) {
        let failed = self.opened.snapshot.manifest.failed.iter();
        let failed = failed.map(|failed| format!("{}: {}", failed.what, failed.why));
        let missing: Vec<String> = failed.chain(self.opened.drift.lost()).collect();
        let total = missing.len() as u64;
        if total > 0 {
            let none =
                Assertion::failed(Question::Restored, RESTORED, format!("0 sources; {total} are missing"));
            self.report.assertions.push(none.with_findings(missing, total));
        }
    }

    /// Notes the RTO, and whether it is what it must be.
    fn conclude_time(&mut self, is_whole: bool) {
        let rto_seconds = rto_seconds(self.watch.phases(), is_whole);
        self.report.rto_seconds = rto_seconds;
        let asked = self.report.objective_seconds.map(|objective| judge_time(rto_seconds, objective));
        self.report.assertions.extend(asked);
    }
}

fn is_server(kind: &str) -> bool {
    matches!(kind, "mysql" | "redis")
}

fn silent(cast: &Cast, failure: Failure) -> Failure {
    let what = format!("the lab's server for `{}` does not answer", cast.config.name);
    Failure::new(ExitCode::DrillNotRun, what).because(failure)
}

/// Returns the policy's sources that the snapshot has, of the same kind.
fn wanted<'s>(stack: &'s Stack, snapshot: &Snapshot) -> Vec<&'s SourceConfig> {
    let has = |config: &&SourceConfig| {
        let is_same =
            |source: &SourceManifest| source.name == config.name && source.kind == config.kind.word();
        snapshot.manifest.sources.iter().any(is_same)
    };
    stack.sources.iter().filter(has).collect()
}

fn versions(plan: &Plan) -> BTreeMap<SourceName, String> {
    plan.sources.iter().map(|source| (source.source.clone(), source.state.version.clone())).collect()
}

fn count(done: &restore::Outcome) -> u64 {
    done.restored.iter().map(|one| one.tally.entries).sum()
}

/// Asks everything; each answer is told as soon as it is there. The objects that are read for the first question are
/// noted for the others.
async fn ask(
    scene: &Scene<'_>,
    questions: &DrillConfig,
    previous: Option<&Report>,
    answers: &mut Vec<Assertion>,
) {
    let mut book = ObjectBook::new();
    for cast in &scene.cast {
        let mut note = |source: &SourceName, seen: &Seen| {
            let noted = book
                .as_mut()
                .map(|book| book.note_entry(source.as_str(), &seen.meta, seen.size_bytes, &seen.sha256));
            // A book that lacks an object is none: the object would be taken for missing in the lab.
            if let Ok(Err(failure)) = noted {
                book = Err(failure);
            }
        };
        let (answer, is_read) = contents::compare(scene, cast, &mut note).await;
        answers.push(answer);
        if let (Ok(book), false) = (&mut book, is_read) {
            book.note_unread(cast.config.name.as_str());
        }
    }
    let asking = Asking { drill: questions, ..Asking::of(scene) };
    asking.ask(book.as_ref(), previous, answers).await;
}
