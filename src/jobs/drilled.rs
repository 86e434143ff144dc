//! What past drills say: how it is shown, what is wrong, whether prune stands still, and how long a restore takes.
//!
//! All of it is worked out from the drills that the catalog knows, so a drill that passes puts right by itself what an
//! earlier one found: of the same way and place, and of no older a snapshot. One that could not run, that came from
//! elsewhere or that restored what was older puts nothing right. Nothing here names what is inside a source; the report
//! does.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use chrono::{DateTime, Utc};

use super::{backup::host_name, notify, seen::REPOSITORY, standing, tasks};
use crate::{
    catalog::{Catalog, Drilled, Run},
    clock::Ground,
    drill::{Outcome, Way},
    error::{ExitCode, Result},
    names::{Job, Task},
    notify::Topic,
    policy::Stack,
    repo::format::Proof,
    status::{Condition, DrillStanding, Incident, Kind, Urgency},
};

/// Drills that brought everything back and tell how fast a restore is.
const MEASURED: u32 = 5;
/// The newest drills among which a run's own is looked for.
const TOLD_OF: u32 = 20;

/// Returns the way in which a task of the schedule drills.
pub fn way_of(task: &Task) -> Way {
    match &task.place {
        Some(place) if place == Way::ByHand.word() => Way::ByHand,
        _ => Way::Restore,
    }
}

/// Returns the task of the schedule that drills in a way.
pub fn task_of(way: Way) -> Task {
    match way {
        Way::Restore => Task::of(Job::Drill),
        Way::ByHand => Task::at(Job::Drill, way.word()),
    }
}

/// Returns how a run that made such a drill ends.
pub fn exit_of(outcome: Outcome) -> ExitCode {
    match outcome {
        Outcome::Passed => ExitCode::Ok,
        Outcome::Failed => ExitCode::DrillFailed,
        Outcome::CouldNotRun => ExitCode::DrillNotRun,
    }
}

/// Returns the last drill of a way as it is shown.
pub fn last(ledger: &Catalog, way: Way) -> Result<Option<DrillStanding>> {
    Ok(ledger.last_drill(way)?.map(shown))
}

fn shown(drill: Drilled) -> DrillStanding {
    let rounded = |seconds: f64| Duration::try_from_secs_f64(seconds.round()).ok().map(|time| time.as_secs());
    DrillStanding {
        way: drill.way,
        from: drill.from,
        snapshot: drill.snapshot,
        ended: drill.ended,
        outcome: drill.outcome,
        rto_seconds: drill.rto_seconds.and_then(rounded),
        objective_seconds: drill.objective_seconds,
        assertions: drill.assertions,
        trouble: drill.trouble,
    }
}

/// Writes a message about the drill that a run of `task` made since `since`, however it ended. A run that ended before
/// it could make a report is told by its incident. Which drill that is, the report of this host tells.
pub fn tell(
    stack: &Stack,
    ledger: &Catalog,
    task: &Task,
    since: DateTime<Utc>,
    ground: &Ground,
) -> Result<()> {
    let host = host_name();
    for drill in ledger.drills(way_of(task), TOLD_OF)?.into_iter().filter(|drill| drill.began >= since) {
        // What another host drilled meanwhile may have been learned from its proof.
        if ledger.drill_report(&drill.id)?.is_some_and(|report| report.host == host) {
            return notify::tell(stack, ledger, Topic::Drill(shown(drill)), ground).map(drop);
        }
    }
    Ok(())
}

/// Tells of drills that failed, each until a later one answers it: see [`Catalog::unanswered_drills`]. Only what does
/// not come back of a real restore is lost for good: a restore that is slow, or a recipe that must be mended, waits for
/// the next working day.
pub fn condition(ledger: &Catalog, task: &Task) -> Result<Option<Condition>> {
    if task.job != Job::Drill {
        return Ok(None);
    }
    let failures = ledger.unanswered_drills(way_of(task))?;
    let lost = failures.iter().find(|drill| !drill.is_only_slow);
    let Some(drill) = lost.or(failures.first()) else { return Ok(None) };
    let [held, failed, unasked] = drill.assertions;
    let mut what = if drill.is_only_slow {
        format!("{task} was slower than it may be; everything came back from `{}`", drill.from)
    } else {
        let all = held + failed + unasked;
        format!("{task} failed: {failed} of {all} assertions did not hold of what came from `{}`", drill.from)
    };
    let others: BTreeSet<&str> =
        failures.iter().map(|one| &*one.from).filter(|from| *from != drill.from).collect();
    if !others.is_empty() {
        let names: Vec<String> = others.iter().map(|from| format!("`{from}`")).collect();
        what = format!("{what}; what came from {} did not pass either", names.join(", "));
    }
    let report = match &drill.files {
        Some(path) => format!("Read its report: `{}`.", path.display()),
        None => "Read its report, on the host that made it.".to_owned(),
    };
    let (from, snapshot) = (&drill.from, &drill.snapshot);
    let over =
        format!("It is over when a drill from `{from}` passes, of snapshot {snapshot} or a newer one.");
    let is_page = drill.way == Way::Restore && !drill.is_only_slow;
    Ok(Some(Condition {
        kind: Kind::Drill,
        about: task.to_string(),
        urgency: if is_page { Urgency::Page } else { Urgency::Ticket },
        what,
        hint: Some(format!("{report} {over}")),
        // That one more was slow is no news to whoever took note of what is lost.
        drill: failures
            .iter()
            .filter(|one| one.is_only_slow == drill.is_only_slow)
            .map(|one| one.number)
            .max(),
    }))
}

/// Ends, by a person's word, the failures of drills from places, or of sources, that the policy does not name any more:
/// no drill will answer them.
pub fn settle(stack: &Stack, ledger: &Catalog, about: &str) -> Result<()> {
    let is_named = |from: &str| from == REPOSITORY || stack.offsite(from).is_some();
    // A host that only drills or prunes need not know the sources.
    let knows_sources = !stack.sources.is_empty();
    let lacks_source = |drill: &Drilled| {
        knows_sources && drill.covers.iter().flatten().any(|name| stack.source(name.as_str()).is_none())
    };
    for way in Way::ALL.into_iter().filter(|way| task_of(*way).to_string() == about) {
        for drill in &ledger.unanswered_drills(way)? {
            if !is_named(&drill.from) || lacks_source(drill) {
                ledger.settle_drill(drill)?;
            }
        }
    }
    Ok(())
}

/// Takes in what drills of any host found, as their proofs in a repository or a copy tell: what fails elsewhere counts
/// here by the same rules.
pub fn learn(stack: &Stack, ledger: &Catalog, proofs: &[Proof], now: DateTime<Utc>) -> Result<()> {
    let drills: Vec<Drilled> = proofs.iter().map(of_proof).collect();
    // Proofs are never removed, and a catalog remembers for some time only.
    ledger.learn_drills(&drills, now - chrono::Duration::days(i64::from(stack.serve.remember_days)))
}

/// Returns what a proof says of its drill.
pub fn of_proof(proof: &Proof) -> Drilled {
    Drilled {
        number: 0,
        id: proof.drill.clone(),
        way: proof.way,
        from: proof.from.as_ref().map_or(REPOSITORY, |from| from.as_str()).to_owned(),
        snapshot: proof.snapshot.clone(),
        began: proof.began,
        ended: proof.ended,
        outcome: proof.outcome,
        is_only_slow: proof.only_slow,
        rto_seconds: proof.rto_seconds,
        objective_seconds: None,
        assertions: proof.assertions,
        size_bytes: 0,
        covers: proof.covers.clone(),
        files: None,
        trouble: None,
    }
}

/// Returns why prune stands still, if that is for drills of a restore: one found stored bytes missing or changed before
/// it could make a report, one failed and none has answered it, or none has passed for too long, and nobody has
/// acknowledged that. What was acknowledged are the drills known until then: one that fails later stops prune again.
/// The older snapshots may be all that can be restored. A stack that never drills is not kept from pruning.
pub fn freezes(
    stack: &Stack,
    ledger: &Catalog,
    open: &[Incident],
    now: DateTime<Utc>,
) -> Result<Option<String>> {
    let task = task_of(Way::Restore);
    let about = task.to_string();
    let told = |kinds: &[Kind]| {
        let is_told =
            |one: &&Incident| kinds.contains(&one.kind) && one.about == about && one.acknowledged.is_none();
        open.iter().find(is_told)
    };
    if !stack.drill.freeze_prune {
        return Ok(None);
    }
    let mut why = told(&[Kind::Damage, Kind::Tampering]);
    if why.is_none() && ledger.unanswered_drills(Way::Restore)?.iter().any(|drill| !drill.is_only_slow) {
        why = told(&[Kind::Drill]);
    }
    if why.is_none() && is_overdue(stack, ledger, &task, now)? {
        why = told(&[Kind::Overdue]);
    }
    Ok(why.map(|incident| format!("{} (incident {})", incident.what, incident.number)))
}

/// Returns whether a task drills, and no drill has shown for too long that what there is can be restored. One that was
/// only too slow has not succeeded, and has shown it.
pub fn is_overdue(stack: &Stack, ledger: &Catalog, task: &Task, now: DateTime<Utc>) -> Result<bool> {
    let Some(interval) = tasks::interval(stack, task, now).filter(|_| task.job == Job::Drill) else {
        return Ok(false);
    };
    let whole = ledger.last_whole_drill(way_of(task))?;
    let has_shown = whole.is_some_and(|drill| now - drill.ended <= standing::overdue_after(interval));
    Ok(!has_shown && standing::is_overdue(stack, ledger, task, now)?)
}

/// Returns how many bytes of each source a restore from this place brings back in a second: the median of the last
/// drills that brought everything back.
pub fn rates(ledger: &Catalog, from: &str) -> Result<BTreeMap<String, f64>> {
    let mut all: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for source in ledger.drilled_sources(from, MEASURED)? {
        let rate = source.size_bytes as f64 / source.seconds;
        if rate.is_finite() && rate > 0.0 {
            all.entry(source.name).or_default().push(rate);
        }
    }
    Ok(all.into_iter().filter_map(|(name, rates)| Some((name, median(rates)?))).collect())
}

/// Returns the median; of two in the middle the lower one, which promises less.
fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len().checked_sub(1)? / 2).copied()
}

/// Returns whether a backup that began at `since` still lacks the drill that follows it. A drill whose process died is
/// not begun anew by the next service: it may be why.
pub fn is_owed(ledger: &Catalog, since: DateTime<Utc>) -> Result<bool> {
    let was_stopped =
        |run: &Run| run.end.as_ref().is_some_and(|end| end.exit == ExitCode::Interrupted.number());
    let newest = ledger.runs_of(&task_of(Way::Restore), 1)?.into_iter().next();
    Ok(newest.is_none_or(|run| run.began < since || was_stopped(&run)))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        catalog::RunEnd,
        clock::{StoppedClock, System},
        drill::{
            Assertion, Question, Report,
            tests::{report, restored},
        },
        jobs::{prune, watch},
        names::SnapshotId,
        policy::Need,
        status::{Verdict, incident::Change},
    };

    fn at(hours: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + chrono::Duration::hours(hours)
    }

    fn stack(more: &str) -> Stack {
        let text = format!(
            "stack = \"shop\"\n[repository]\nstore = \"fs\"\noptions = {{ root = \"/repo\" }}\n\
             recipients = [\"age1abc\"]\nstate_dir = \"/state\"\n{more}"
        );
        Stack::parse(&text, "p.toml", Need::Repository).unwrap()
    }

    fn held() -> Assertion {
        Assertion::held(Question::Contents, "contents", "all of im.salaries")
    }

    fn lost() -> Assertion {
        Assertion::failed(Question::Reference, "im.salaries", "hunter2 lacks its object")
    }

    fn slow() -> Assertion {
        Assertion::failed(Question::Objective, "rto", "61 min of 60")
    }

    /// A stack whose drills are played, and its catalog.
    struct Stage {
        stack: Stack,
        ledger: Catalog,
        clock: StoppedClock,
    }

    impl Stage {
        fn new(more: &str) -> Self {
            let (ledger, clock) = (Catalog::in_memory().unwrap(), StoppedClock::at(at(0)));
            Self { stack: stack(more), ledger, clock }
        }

        fn ground(&self) -> Ground {
            Ground { clock: Arc::new(self.clock.clone()), dice: Arc::new(System) }
        }

        fn now(&self) -> DateTime<Utc> {
            self.ground().clock.now()
        }

        /// Plays a drill that ends now, as the job notes it; one that asked nothing could not run.
        fn drilled(&self, way: Way, assertions: Vec<Assertion>) -> Report {
            self.drilled_of(way, "repository", 0, assertions)
        }

        /// As [`Self::drilled`], from this place and of the snapshot of this day.
        fn drilled_of(&self, way: Way, from: &str, day: i64, assertions: Vec<Assertion>) -> Report {
            self.clock.advance(chrono::Duration::hours(1));
            let snapshot = SnapshotId::at(at(24 * day), 7);
            let found = report(way, self.now(), assertions, None);
            let found = Report { from: from.to_owned(), snapshot, host: host_name(), ..found };
            self.ledger.note_drill(&found, None).unwrap();
            self.ran(way, exit_of(found.outcome), found.ended);
            found
        }

        /// Plays a drill that ends so before it has a report.
        fn ended(&self, way: Way, exit: ExitCode) {
            self.clock.advance(chrono::Duration::hours(1));
            self.ran(way, exit, self.now());
        }

        fn ran(&self, way: Way, exit: ExitCode, ended: DateTime<Utc>) {
            let run = self.ledger.begin_run(&task_of(way), 1, self.now()).unwrap();
            let end = RunEnd {
                ended,
                exit: exit.number(),
                snapshot: None,
                added_bytes: 0,
                message: Some("why".to_owned()),
                hint: None,
                is_frozen: false,
            };
            self.ledger.end_run(run, &end).unwrap();
        }

        /// Looks what is wrong; returns what is open then.
        fn open(&self) -> Vec<(Kind, String, Urgency)> {
            watch::look(&self.stack, &self.ledger, &self.ground()).unwrap();
            let open = self.ledger.open_incidents().unwrap();
            open.into_iter().map(|one| (one.kind, one.condition.about, one.condition.urgency)).collect()
        }

        fn frozen(&self) -> Option<String> {
            prune::frozen(&self.stack, &self.ledger, self.now()).unwrap()
        }

        fn acknowledge(&self) {
            for one in self.ledger.open_incidents().unwrap() {
                watch::acknowledge(&self.stack, &self.ledger, one.number, "seen", &self.ground()).unwrap();
            }
        }
    }

    fn told(task: &str, urgency: Urgency) -> Vec<(Kind, String, Urgency)> {
        vec![(Kind::Drill, task.to_owned(), urgency)]
    }

    #[test]
    fn a_drill_that_failed_pages_until_a_later_one_passes_and_one_that_could_not_run_ends_nothing() {
        let stage = Stage::new("");
        stage.drilled(Way::Restore, vec![held()]);
        assert_eq!(stage.open(), []);
        stage.drilled(Way::Restore, vec![held(), lost()]);
        assert_eq!(stage.open(), told("drill", Urgency::Page));
        stage.drilled(Way::Restore, Vec::new());
        assert_eq!(stage.open(), told("drill", Urgency::Page));
        let standing = standing::gather(&stage.stack, &stage.ledger, stage.now()).unwrap();
        assert_eq!(standing.verdict, Verdict::Danger);
        assert_eq!(standing.drill.map(|drill| drill.outcome), Some(Outcome::CouldNotRun));
        stage.drilled(Way::Restore, vec![held()]);
        assert_eq!(stage.open(), []);
    }

    #[test]
    fn a_failure_is_over_only_when_its_place_gives_back_that_snapshot_or_a_newer_one() {
        let stage = Stage::new("");
        stage.drilled_of(Way::Restore, "oss", 5, vec![held(), lost()]);
        for (from, day) in [("repository", 9), ("oss", 4)] {
            stage.drilled_of(Way::Restore, from, day, vec![held()]);
            assert_eq!(stage.open(), told("drill", Urgency::Page), "{from} {day}");
            assert!(stage.frozen().is_some(), "{from} {day}");
        }
        stage.drilled_of(Way::Restore, "repository", 9, vec![held(), slow()]);
        assert_eq!(
            stage.open(),
            told("drill", Urgency::Page),
            "what is lost counts for more than what is slow"
        );
        let what = stage.ledger.open_incidents().unwrap().remove(0).condition.what;
        assert_eq!(
            what,
            "drill failed: 1 of 2 assertions did not hold of what came from `oss`; what came from `repository` \
             did not pass either"
        );
        stage.drilled_of(Way::Restore, "oss", 6, vec![held()]);
        assert_eq!((stage.open(), stage.frozen()), (told("drill", Urgency::Ticket), None));
        stage.drilled_of(Way::Restore, "repository", 9, vec![held()]);
        assert_eq!(stage.open(), []);
    }

    #[test]
    fn what_could_not_run_was_only_slow_or_was_the_recipe_waits_for_the_morning() {
        let stage = Stage::new("[drill]\nby_hand = true\nby_hand_image = \"tools\"\n");
        stage.drilled(Way::Restore, Vec::new());
        assert_eq!(stage.open(), told("drill", Urgency::Ticket));
        let what = stage.ledger.open_incidents().unwrap().remove(0).condition.what;
        assert_eq!(what, "drill could not run: why");
        stage.drilled(Way::Restore, vec![held(), slow()]);
        assert_eq!(stage.open(), told("drill", Urgency::Ticket));
        assert_eq!(stage.frozen(), None, "everything came back");
        stage.drilled(Way::Restore, vec![held()]);
        stage.drilled(Way::ByHand, vec![lost()]);
        assert_eq!(stage.open(), told("drill by-hand", Urgency::Ticket));
        assert_eq!(stage.frozen(), None, "lifeboat itself restores");
        let standing = standing::gather(&stage.stack, &stage.ledger, stage.now()).unwrap();
        let outcomes = [standing.drill, standing.by_hand].map(|drill| drill.unwrap().outcome);
        assert_eq!((outcomes, standing.verdict), ([Outcome::Passed, Outcome::Failed], Verdict::Attention));
    }

    #[test]
    fn an_incident_of_a_drill_names_the_report_and_nothing_that_is_inside_a_source() {
        let stage = Stage::new("");
        let found = stage.drilled(Way::Restore, vec![held(), lost()]);
        let condition = || condition(&stage.ledger, &task_of(Way::Restore)).unwrap().unwrap();
        let over = "It is over when a drill from `repository` passes, of snapshot 19700101T000000Z-0007 or a newer one.";
        assert_eq!(condition().hint.unwrap(), format!("Read its report, on the host that made it. {over}"));
        stage.ledger.note_drill(&found, Some(std::path::Path::new("/reports/one.html"))).unwrap();
        let Condition { what, hint, .. } = condition();
        assert_eq!(what, "drill failed: 1 of 2 assertions did not hold of what came from `repository`");
        assert_eq!(hint.unwrap(), format!("Read its report: `/reports/one.html`. {over}"));
    }

    #[test]
    fn prune_stands_still_while_the_last_drill_failed_until_somebody_says_so_or_one_passes() {
        let stage = Stage::new("");
        assert_eq!((stage.open(), stage.frozen()), (Vec::new(), None), "who never drills may prune");
        stage.drilled(Way::Restore, vec![lost()]);
        stage.open();
        let why = "drill failed: 1 of 1 assertions did not hold of what came from `repository` (incident 1)";
        assert_eq!(stage.frozen().as_deref(), Some(why));
        stage.drilled(Way::Restore, Vec::new());
        stage.open();
        assert_eq!(stage.frozen().as_deref(), Some(why), "what could not run mends nothing");
        stage.acknowledge();
        assert_eq!(stage.frozen(), None);
        stage.drilled(Way::Restore, vec![held()]);
        stage.open();
        stage.drilled(Way::Restore, vec![lost()]);
        stage.open();
        assert!(stage.frozen().is_some(), "it failed anew");
        stage.drilled(Way::Restore, vec![held()]);
        stage.open();
        assert_eq!(stage.frozen(), None);
    }

    #[test]
    fn a_failure_after_one_that_was_acknowledged_is_told_and_stops_prune_again() {
        let stage = Stage::new("");
        stage.drilled(Way::Restore, vec![lost()]);
        stage.open();
        stage.acknowledge();
        stage.open();
        assert_eq!(stage.frozen(), None);
        // What nobody has acknowledged, of a drill that did not come, says nothing about the one that failed.
        let missed = Condition {
            kind: Kind::Missed,
            about: "drill".to_owned(),
            urgency: Urgency::Info,
            what: "it did not run".to_owned(),
            hint: None,
            drill: None,
        };
        stage.ledger.open_incident(&missed, stage.now()).unwrap();
        assert_eq!(stage.frozen(), None);
        stage.drilled(Way::Restore, vec![lost()]);
        let changes = watch::look(&stage.stack, &stage.ledger, &stage.ground()).unwrap();
        assert!(
            changes.iter().any(|one| matches!(one, Change::Reminded(one) if one.kind == Kind::Drill)),
            "{changes:?}"
        );
        assert!(stage.frozen().is_some());
        stage.acknowledge();
        stage.drilled_of(Way::Restore, "oss", 3, vec![lost()]);
        stage.open();
        assert!(stage.frozen().is_some(), "another place, another failure");
        stage.acknowledge();
        stage.drilled_of(Way::Restore, "oss", 3, vec![held()]);
        stage.open();
        assert_eq!(stage.frozen(), None, "a person took note of the one that is left");
    }

    #[test]
    fn a_drill_that_was_only_too_slow_does_not_unsay_what_a_person_said_to_a_loss() {
        let stage = Stage::new("");
        stage.drilled_of(Way::Restore, "repository", 3, vec![lost()]);
        stage.open();
        stage.acknowledge();
        stage.drilled_of(Way::Restore, "repository", 2, vec![held(), slow()]);
        assert_eq!((stage.open(), stage.frozen()), (told("drill", Urgency::Page), None));
        stage.drilled(Way::Restore, vec![lost()]);
        stage.open();
        assert!(stage.frozen().is_some(), "and one that lost something does");
    }

    #[test]
    fn a_failure_of_a_place_that_is_gone_is_over_when_somebody_has_taken_note() {
        let far = "[[offsite]]\nname = \"far\"\nstore = \"fs\"\noptions = { root = \"/far\" }\n";
        let mut stage = Stage::new(far);
        stage.drilled_of(Way::Restore, "far", 3, vec![lost()]);
        stage.open();
        stage.acknowledge();
        assert_eq!(stage.open(), told("drill", Urgency::Page), "a drill from there may answer it");
        stage.stack = stack("");
        assert_eq!(stage.open(), told("drill", Urgency::Page), "nothing goes away by an edit of the policy");
        stage.acknowledge();
        assert_eq!((stage.open(), stage.frozen()), (Vec::new(), None));
        stage.drilled_of(Way::Restore, "far", 3, vec![lost()]);
        assert_eq!(stage.open(), told("drill", Urgency::Page), "and yet it comes back");
    }

    #[test]
    fn a_failure_of_a_source_that_is_gone_is_over_when_somebody_has_taken_note() {
        let source =
            |name: &str| format!("[[source]]\nname = \"{name}\"\nkind = \"files\"\npaths = [\"/srv\"]\n");
        let mut stage = Stage::new(&source("mysql"));
        stage.drilled(Way::Restore, vec![lost()]);
        stage.open();
        stage.acknowledge();
        assert_eq!(stage.open(), told("drill", Urgency::Page), "a drill of it may answer it");
        stage.stack = stack(&source("redis"));
        stage.acknowledge();
        assert_eq!(stage.open(), []);
    }

    #[test]
    fn a_failure_after_one_that_could_not_run_was_acknowledged_stops_prune_all_the_same() {
        let stage = Stage::new("");
        stage.drilled(Way::Restore, Vec::new());
        stage.open();
        stage.acknowledge();
        stage.drilled(Way::Restore, vec![lost()]);
        assert_eq!(stage.open(), told("drill", Urgency::Page));
        assert!(stage.frozen().is_some());
    }

    #[test]
    fn a_policy_may_leave_prune_free() {
        let stage = Stage::new("[drill]\nfreeze_prune = false\n");
        stage.drilled(Way::Restore, vec![lost()]);
        stage.open();
        assert_eq!(stage.frozen(), None);
    }

    #[test]
    fn prune_stands_still_when_drills_do_not_come_whatever_keeps_them() {
        let scheduled = || {
            let stage = Stage::new("[schedule]\ndrill = \"0 3 * * *\"\n");
            standing::watch(&stage.ledger, &task_of(Way::Restore), stage.now()).unwrap();
            stage
        };
        let never = scheduled();
        never.clock.advance(chrono::Duration::hours(35));
        assert_eq!((never.open(), never.frozen()), (Vec::new(), None));
        never.clock.advance(chrono::Duration::hours(2));
        assert_eq!(never.open(), [(Kind::Overdue, "drill".to_owned(), Urgency::Ticket)]);
        assert!(never.frozen().unwrap().starts_with("drill has never succeeded"));
        never.acknowledge();
        assert_eq!(never.frozen(), None);
        let broken = scheduled();
        for _ in 0..36 {
            broken.drilled(Way::Restore, Vec::new());
        }
        assert_eq!((broken.open(), broken.frozen()), (told("drill", Urgency::Ticket), None));
        broken.drilled(Way::Restore, Vec::new());
        let overdue = (Kind::Overdue, "drill".to_owned(), Urgency::Ticket);
        assert_eq!(broken.open(), [told("drill", Urgency::Ticket), vec![overdue]].concat());
        assert!(broken.frozen().unwrap().starts_with("drill has never succeeded"));
    }

    #[test]
    fn what_was_acknowledged_long_ago_does_not_hide_that_nothing_is_shown_to_restore_any_more() {
        let stage = Stage::new("[schedule]\ndrill = \"0 3 * * *\"\n");
        standing::watch(&stage.ledger, &task_of(Way::Restore), stage.now()).unwrap();
        stage.drilled(Way::Restore, vec![held()]);
        stage.drilled(Way::Restore, vec![lost()]);
        stage.open();
        stage.acknowledge();
        assert_eq!(stage.frozen(), None);
        for _ in 0..60 {
            stage.drilled(Way::Restore, Vec::new());
        }
        let overdue = (Kind::Overdue, "drill".to_owned(), Urgency::Ticket);
        assert_eq!(stage.open(), [told("drill", Urgency::Page), vec![overdue]].concat());
        assert!(stage.frozen().unwrap().starts_with("drill has not succeeded since"));
        stage.acknowledge();
        assert_eq!(stage.frozen(), None);
    }

    #[test]
    fn damage_that_a_drill_meets_before_it_has_a_report_stops_prune_until_somebody_says_so() {
        for (exit, kind) in [(ExitCode::Damage, Kind::Damage), (ExitCode::Tampering, Kind::Tampering)] {
            let stage = Stage::new("[schedule]\ndrill = \"0 3 * * *\"\n");
            standing::watch(&stage.ledger, &task_of(Way::Restore), stage.now()).unwrap();
            let damaged = (kind, "drill".to_owned(), Urgency::Page);
            stage.ended(Way::Restore, exit);
            assert_eq!(stage.open(), std::slice::from_ref(&damaged));
            assert_eq!(stage.frozen().as_deref(), Some("drill failed: why (incident 1)"));
            stage.acknowledge();
            assert_eq!((stage.open().len(), stage.frozen()), (1, None));
            stage.ended(Way::Restore, exit);
            stage.open();
            assert!(stage.frozen().is_some(), "it is there anew");
            stage.acknowledge();
            stage.ended(Way::ByHand, exit);
            stage.open();
            assert_eq!(stage.frozen(), None, "lifeboat itself restores");
            stage.clock.advance(chrono::Duration::hours(40));
            stage.ended(Way::Restore, exit);
            let overdue = (Kind::Overdue, "drill".to_owned(), Urgency::Ticket);
            assert!(stage.open().contains(&overdue), "damage hides nothing");
            stage.acknowledge();
            assert_eq!(stage.frozen(), None);
            stage.drilled(Way::Restore, vec![held()]);
            assert!(!stage.open().contains(&damaged));
            assert_eq!(stage.frozen(), None);
        }
    }

    #[test]
    fn drills_that_are_always_too_slow_keep_nobody_from_pruning() {
        let stage = Stage::new("[schedule]\ndrill = \"0 3 * * *\"\n");
        standing::watch(&stage.ledger, &task_of(Way::Restore), stage.now()).unwrap();
        for _ in 0..5 {
            stage.clock.advance(chrono::Duration::hours(23));
            stage.drilled(Way::Restore, vec![held(), slow()]);
            assert_eq!((stage.open(), stage.frozen()), (told("drill", Urgency::Ticket), None));
        }
        stage.clock.advance(chrono::Duration::hours(37));
        stage.open();
        assert!(stage.frozen().is_some(), "none came any more");
    }

    #[test]
    fn the_median_of_the_last_five_that_passed_is_how_fast_a_source_comes_back() {
        let ledger = Catalog::in_memory().unwrap();
        let note = |hours, seconds: &[f64]| {
            let sources =
                ["mysql", "redis"].iter().zip(seconds).map(|(name, took)| restored(name, 1000, *took));
            let one = report(Way::Restore, at(hours), vec![held()], None);
            ledger.note_drill(&Report { sources: sources.collect(), ..one }, None).unwrap();
        };
        assert_eq!(rates(&ledger, "repository").unwrap(), BTreeMap::new());
        // The first of the six is too old to count, and no time at all measures nothing.
        for (hours, seconds) in
            [&[1.0, 2.0][..], &[10.0, 0.0], &[20.0], &[40.0], &[5.0], &[10.0]].iter().enumerate()
        {
            note(i64::try_from(hours).unwrap(), seconds);
        }
        assert_eq!(rates(&ledger, "repository").unwrap(), BTreeMap::from([("mysql".to_owned(), 100.0)]));
        assert_eq!(rates(&ledger, "oss").unwrap(), BTreeMap::new());
        assert_eq!(median(vec![4.0, 1.0, 3.0, 2.0]), Some(2.0));
    }

    #[test]
    fn a_drill_is_told_once_by_the_run_that_made_it() {
        let hears = "[[notify]]\nkind = \"slack\"\nwebhook = { env = \"HOOK\" }\n";
        let stage = Stage::new(hears);
        let messages = || stage.ledger.due_messages(stage.now()).unwrap().len();
        let tell = |since| {
            let task = task_of(Way::Restore);
            tell(&stage.stack, &stage.ledger, &task, since, &stage.ground()).unwrap();
        };
        tell(at(0));
        assert_eq!(messages(), 0);
        stage.drilled(Way::Restore, vec![held()]);
        tell(at(2));
        assert_eq!(messages(), 0, "a run that made none tells of none");
        tell(at(1));
        assert_eq!(messages(), 1);
        let ours = stage.ledger.last_drill(Way::Restore).unwrap().unwrap();
        let id = SnapshotId::at(at(9), 9);
        let theirs = Drilled { id, ended: at(9), from: "oss".to_owned(), outcome: Outcome::Failed, ..ours };
        assert!(stage.ledger.learn_drill(&theirs).unwrap());
        tell(at(1));
        let due = stage.ledger.due_messages(stage.now()).unwrap();
        assert_eq!(due.len(), 2);
        assert_eq!(due[0].body, due[1].body, "what another host drilled is not this run's");
        tell(at(2));
        assert_eq!(messages(), 2);
    }

    #[test]
    fn a_drill_that_died_with_its_service_is_not_owed_and_one_that_was_stopped_is() {
        let (ledger, task) = (Catalog::in_memory().unwrap(), task_of(Way::Restore));
        assert!(is_owed(&ledger, at(2)).unwrap());
        let run = ledger.begin_run(&task, 1, at(1)).unwrap();
        assert!(is_owed(&ledger, at(2)).unwrap(), "it is of the backup before");
        assert!(!is_owed(&ledger, at(1)).unwrap());
        let end = |exit: ExitCode| RunEnd {
            ended: at(3),
            exit: exit.number(),
            snapshot: None,
            added_bytes: 0,
            message: None,
            hint: None,
            is_frozen: false,
        };
        ledger.end_run(run, &end(ExitCode::Failed)).unwrap();
        assert!(!is_owed(&ledger, at(1)).unwrap());
        ledger.end_run(run, &end(ExitCode::Interrupted)).unwrap();
        assert!(is_owed(&ledger, at(1)).unwrap());
    }

    #[test]
    fn each_way_has_its_task_and_each_task_its_way() {
        for way in Way::ALL {
            assert_eq!(way_of(&task_of(way)), way);
        }
    }
}
