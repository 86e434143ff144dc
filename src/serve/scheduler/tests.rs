//! Nights, played: no run is real here, and the clock stands where the test puts it.

use super::*;
use crate::{
    clock::{Dice, Ground, StoppedClock},
    jobs::watch,
    names::SnapshotId,
    policy::Need,
    status::{Kind, incident::Change},
};

/// Dice that always fall the same way.
struct Loaded;

impl Dice for Loaded {
    fn fill(&self, bytes: &mut [u8]) {
        bytes.fill(7);
    }
}

/// A stack with a schedule, its catalog and a clock.
struct Stage {
    dir: tempfile::TempDir,
    ledger: Arc<Catalog>,
    clock: StoppedClock,
    scheduler: Scheduler,
    stack: Arc<Stack>,
}

fn utc(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

fn stack(dir: &tempfile::TempDir, schedule: &str, more: &str) -> Arc<Stack> {
    let at = dir.path().display();
    let text = format!(
        "stack = \"shop\"\n[repository]\nstore = \"fs\"\noptions = {{ root = \"{at}/repo\" }}\n\
         recipients = [\"age1abc\"]\nstate_dir = \"{at}\"\n[[source]]\nname = \"data\"\nkind = \"files\"\n\
         paths = [\"{at}\"]\n[schedule]\n{schedule}\n{more}"
    );
    Arc::new(Stack::parse(&text, "p.toml", Need::Sources).unwrap())
}

impl Stage {
    fn new(schedule: &str, more: &str, now: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let stack = stack(&dir, schedule, more);
        let ledger = Arc::new(Catalog::in_memory().unwrap());
        let scheduler = Scheduler::new(stack.clone(), ledger.clone(), "host");
        let mut stage = Self { dir, ledger, clock: StoppedClock::at(utc(now)), scheduler, stack };
        assert!(stage.tick().is_empty(), "a first start owes nothing");
        stage
    }

    fn now(&self) -> DateTime<Utc> {
        crate::clock::Clock::now(&self.clock)
    }

    /// Puts the clock to an instant, forth or back.
    fn at(&self, instant: &str) {
        self.clock.advance(utc(instant) - self.now());
    }

    fn tick(&mut self) -> Vec<Start> {
        self.scheduler.tick(self.now())
    }

    /// Notes that a run began as a job does, and returns its number.
    fn begun(&self, start: &Start) -> i64 {
        self.ledger.begin_run(&start.task, start.attempt, self.now()).unwrap()
    }

    /// Plays a run that ends so at once.
    fn ends(&mut self, start: &Start, exit: ExitCode) {
        let run = self.begun(start);
        let made = matches!(exit, ExitCode::Ok | ExitCode::Partial) && start.task.job == Job::Backup;
        let outcome = Outcome {
            exit: Some(exit),
            snapshot: made.then(|| SnapshotId::at(self.now(), 1)),
            message: (exit != ExitCode::Ok).then(|| "it broke".to_owned()),
            ..Outcome::default()
        };
        self.ledger.end_run(run, &outcome.clone().end(self.now())).unwrap();
        self.scheduler.ended(&start.task, outcome, self.now());
    }

    fn slots(&self, task: &Task) -> Vec<(String, &'static str, bool)> {
        let mut slots = self.ledger.slots(task, 50).unwrap();
        slots.reverse();
        let shown =
            |slot: Slot| (slot.expected.format("%d %H:%M").to_string(), slot.state.word(), slot.is_late);
        slots.into_iter().map(shown).collect()
    }

    /// Looks what is wrong; returns what people are told.
    fn look(&self) -> Vec<String> {
        let ground = Ground { clock: Arc::new(self.clock.clone()), dice: Arc::new(Loaded) };
        let changes = watch::look(&self.stack, &self.ledger, &ground).unwrap();
        changes
            .into_iter()
            .filter_map(|change| match change {
                Change::Opened(condition) => {
                    Some(format!("opened {} {}", condition.kind.word(), condition.about))
                }
                Change::Reminded(one) => Some(format!("reminded {} {}", one.kind.word(), one.about)),
                Change::Resolved(one) => Some(format!("resolved {} {}", one.kind.word(), one.about)),
                Change::Altered(_) => None,
            })
            .collect()
    }

    /// Kills the service and starts it anew.
    fn restart(&mut self) -> Vec<Task> {
        self.scheduler = Scheduler::new(self.stack.clone(), self.ledger.clone(), "host");
        self.scheduler.recover(self.now())
    }
}

const NIGHTLY: &str = "backup = \"0 2 * * *\"";

fn backup() -> Task {
    Task::of(Job::Backup)
}

#[test]
fn a_night_runs_once_and_is_noted() {
    let mut stage = Stage::new(NIGHTLY, "", "2026-11-20T12:00:00Z");
    stage.at("2026-11-21T01:59:59Z");
    assert!(stage.tick().is_empty());
    assert_eq!(stage.scheduler.next(stage.now()), Some(utc("2026-11-21T02:00:00Z")));
    stage.at("2026-11-21T02:00:00Z");
    let starts = stage.tick();
    assert_eq!((starts.len(), &starts[0].task, starts[0].attempt), (1, &backup(), 1));
    assert!(stage.tick().is_empty(), "it is at work");
    assert_eq!(stage.slots(&backup()), [("21 02:00".to_owned(), "running", false)]);
    stage.ends(&starts[0], ExitCode::Ok);
    assert_eq!(stage.slots(&backup()), [("21 02:00".to_owned(), "done", false)]);
    assert!(stage.tick().is_empty());
    assert_eq!(stage.look(), [""; 0]);
}

#[test]
fn what_failed_is_tried_again_twice_as_late_each_time_and_only_then_told_once() {
    let mut stage = Stage::new(NIGHTLY, "", "2026-11-20T12:00:00Z");
    for (attempt, at) in [(1, "02:00"), (2, "02:05"), (3, "02:15")] {
        stage.at(&format!("2026-11-21T{at}:00Z"));
        let start = stage.tick().remove(0);
        assert_eq!(start.attempt, attempt);
        stage.ends(&start, ExitCode::SourceDown);
        assert!(stage.tick().is_empty());
        let told = stage.look();
        assert_eq!(told, if attempt == 3 { vec!["opened failed backup"] } else { vec![] }, "try {attempt}");
    }
    assert_eq!(stage.slots(&backup()), [("21 02:00".to_owned(), "failed", false)]);
    stage.at("2026-11-22T02:00:00Z");
    assert_eq!(stage.look(), ["reminded failed backup"]);
    let start = stage.tick().remove(0);
    stage.ends(&start, ExitCode::Ok);
    assert_eq!(stage.look(), ["resolved failed backup"]);
}

#[test]
fn what_a_person_must_put_right_is_not_tried_again() {
    for exit in [ExitCode::KeyRefused, ExitCode::Usage, ExitCode::Tampering, ExitCode::Damage] {
        let mut stage = Stage::new(NIGHTLY, "", "2026-11-20T12:00:00Z");
        stage.at("2026-11-21T02:00:00Z");
        let start = stage.tick().remove(0);
        stage.ends(&start, exit);
        assert!(!stage.scheduler.waits(), "{exit:?}");
        let kind = match exit {
            ExitCode::Tampering => "tampering",
            ExitCode::Damage => "damage",
            _ => "failed",
        };
        assert_eq!(stage.look(), [format!("opened {kind} backup")]);
    }
}

#[test]
fn a_run_that_is_still_at_work_lets_the_next_slot_go_or_wait_as_the_policy_says() {
    for (overlap, second) in [("skip", "skipped"), ("queue", "waiting")] {
        let schedule = format!("backup = \"0 * * * *\"\noverlap = \"{overlap}\"");
        let mut stage = Stage::new(&schedule, "", "2026-11-20T12:30:00Z");
        stage.at("2026-11-20T13:00:00Z");
        let start = stage.tick().remove(0);
        stage.at("2026-11-20T14:00:00Z");
        assert!(stage.tick().is_empty());
        assert_eq!(stage.slots(&backup())[1], ("20 14:00".to_owned(), second, false));
        stage.ends(&start, ExitCode::Ok);
        assert_eq!(stage.tick().len(), usize::from(overlap == "queue"));
        if overlap == "skip" {
            assert_eq!(stage.look(), ["opened missed backup"]);
        }
    }
}

#[test]
fn a_run_that_takes_too_long_is_asked_to_end_and_told() {
    let mut stage = Stage::new(&format!("{NIGHTLY}\ndeadline_minutes = 110"), "", "2026-11-20T12:00:00Z");
    stage.at("2026-11-21T02:00:00Z");
    let start = stage.tick().remove(0);
    let run = stage.begun(&start);
    stage.at("2026-11-21T03:50:00Z");
    stage.tick();
    assert!(!start.stop.is_cancelled());
    stage.at("2026-11-21T03:50:01Z");
    stage.tick();
    assert!(start.stop.is_cancelled());
    let stopped = Outcome::failed(&crate::jobs::run::stopped());
    stage.ledger.end_run(run, &stopped.clone().end(stage.now())).unwrap();
    let outcome = stage.scheduler.ended(&backup(), stopped, stage.now());
    assert_eq!(outcome.message.as_deref(), Some("given up: not done after 110 minutes"));
    assert_eq!(stage.slots(&backup()), [("21 02:00".to_owned(), "failed", false)]);
    assert_eq!(stage.look(), ["opened failed backup"]);
    assert!(!stage.scheduler.waits(), "what takes too long would again");
}

#[test]
fn a_run_that_was_dropped_is_noted_as_ended() {
    let mut stage = Stage::new(NIGHTLY, "", "2026-11-20T12:00:00Z");
    stage.at("2026-11-21T02:00:00Z");
    let start = stage.tick().remove(0);
    stage.begun(&start);
    stage.scheduler.ended(&backup(), Outcome::failed(&crate::jobs::run::stopped()), stage.now());
    assert_eq!(stage.ledger.open_runs().unwrap(), []);
}

#[test]
fn nights_without_the_service_are_named_and_made_up_for_once() {
    let mut stage = Stage::new(NIGHTLY, "", "2026-11-20T12:00:00Z");
    stage.at("2026-11-21T02:00:00Z");
    let start = stage.tick().remove(0);
    stage.ends(&start, ExitCode::Ok);
    stage.at("2026-11-24T09:00:00Z");
    assert_eq!(stage.restart(), []);
    let starts = stage.tick();
    assert_eq!(starts.len(), 1, "once, not three times");
    assert_eq!(stage.look(), ["opened missed backup"]);
    stage.ends(&starts[0], ExitCode::Ok);
    assert_eq!(stage.look(), ["resolved missed backup"]);
    let slot = |day: &str, state, is_late| (format!("{day} 02:00"), state, is_late);
    assert_eq!(
        stage.slots(&backup()),
        [
            slot("21", "done", false),
            slot("22", "missed", false),
            slot("23", "missed", false),
            slot("24", "done", true)
        ]
    );
}

#[test]
fn a_service_that_was_killed_at_work_takes_the_slot_up_again() {
    let mut stage = Stage::new(NIGHTLY, "", "2026-11-20T12:00:00Z");
    stage.at("2026-11-21T02:00:00Z");
    let start = stage.tick().remove(0);
    stage.begun(&start);
    stage.at("2026-11-21T02:10:00Z");
    assert_eq!(stage.restart(), [backup()]);
    let starts = stage.tick();
    assert_eq!((starts.len(), starts[0].attempt), (1, 2));
    stage.ends(&starts[0], ExitCode::Ok);
    assert_eq!(stage.slots(&backup()), [("21 02:00".to_owned(), "done", true)]);
    assert!(stage.tick().is_empty());
}

#[test]
fn a_service_that_dies_of_its_run_each_time_gives_the_run_up() {
    let mut stage = Stage::new(NIGHTLY, "", "2026-11-20T12:00:00Z");
    stage.at("2026-11-21T02:00:00Z");
    let mut tries = 0;
    let mut starts = stage.tick();
    while let Some(start) = starts.first() {
        tries += 1;
        stage.begun(start);
        stage.clock.advance(Duration::seconds(30));
        stage.restart();
        starts = stage.tick();
    }
    assert_eq!(tries, 3);
    assert_eq!(stage.look(), ["opened failed backup"]);
}

#[test]
fn a_service_that_was_stopped_at_work_spends_no_try_on_that() {
    let mut stage = Stage::new(NIGHTLY, "", "2026-11-20T12:00:00Z");
    stage.at("2026-11-21T02:00:00Z");
    for _ in 0..5 {
        let start = stage.tick().remove(0);
        assert_eq!(start.attempt, 1);
        assert_eq!(stage.scheduler.stop(), [backup()]);
        stage.ends(&start, ExitCode::Interrupted);
        assert_eq!(stage.look().iter().filter(|told| told.contains("failed")).count(), 0);
        stage.clock.advance(Duration::minutes(1));
        stage.restart();
    }
    assert_eq!(stage.tick().len(), 1);
}

const COPIES: &str = "[[offsite]]\nname = \"nas\"\nstore = \"fs\"\noptions = { root = \"/nas\" }\nafter_backup = true\n\
    [[offsite]]\nname = \"oss\"\nstore = \"fs\"\noptions = { root = \"/oss\" }\n";

#[test]
fn a_copy_that_follows_each_backup_begins_when_one_is_made_and_each_copy_stands_for_itself() {
    let schedule = format!("{NIGHTLY}\nsync = \"0 4 * * *\"");
    let mut stage = Stage::new(&schedule, COPIES, "2026-11-20T12:00:00Z");
    stage.at("2026-11-21T02:00:00Z");
    let start = stage.tick().remove(0);
    stage.ends(&start, ExitCode::Ok);
    let follower = stage.tick();
    assert_eq!(follower.iter().map(|one| one.task.to_string()).collect::<Vec<_>>(), ["sync nas"]);
    stage.ends(&follower[0], ExitCode::Ok);
    stage.at("2026-11-21T04:00:00Z");
    let copies = stage.tick();
    assert_eq!(copies.iter().map(|one| one.task.to_string()).collect::<Vec<_>>(), ["sync nas", "sync oss"]);
    stage.ends(&copies[0], ExitCode::Usage);
    stage.ends(&copies[1], ExitCode::Ok);
    assert_eq!(stage.look(), ["opened failed sync nas"]);
}

#[test]
fn a_backup_that_failed_sends_nothing_after_it() {
    let mut stage = Stage::new(&format!("{NIGHTLY}\nretries = 0"), COPIES, "2026-11-20T12:00:00Z");
    stage.at("2026-11-21T02:00:00Z");
    let start = stage.tick().remove(0);
    stage.ends(&start, ExitCode::StoreDown);
    assert!(stage.tick().is_empty());
}

#[test]
fn a_task_without_success_for_too_long_is_overdue_however_that_came() {
    let mut stage = Stage::new(NIGHTLY, "", "2026-11-20T12:00:00Z");
    stage.at("2026-11-21T02:00:00Z");
    let start = stage.tick().remove(0);
    stage.ends(&start, ExitCode::Ok);
    // A wrong clock noted tomorrow's slot already: nothing begins, and nothing is noted.
    let slot = Slot {
        task: backup(),
        expected: utc("2026-11-22T02:00:00Z"),
        state: SlotState::Done,
        is_late: false,
    };
    stage.ledger.note_slot(&slot, stage.now()).unwrap();
    stage.at("2026-11-22T13:59:00Z");
    assert!(stage.tick().is_empty());
    assert_eq!(stage.look(), [""; 0]);
    stage.at("2026-11-22T14:00:01Z");
    assert_eq!(stage.look(), ["opened overdue backup"]);
}

#[test]
fn another_policy_takes_effect_and_what_is_at_work_ends_as_it_began() {
    let mut stage = Stage::new(NIGHTLY, "", "2026-11-20T12:00:00Z");
    stage.at("2026-11-21T02:00:00Z");
    let start = stage.tick().remove(0);
    let next = stack(&stage.dir, "backup = \"0 3 * * *\"\nverify = \"0 5 * * *\"", "");
    stage.scheduler.adopt(next);
    assert!(stage.tick().is_empty());
    stage.ends(&start, ExitCode::Ok);
    stage.at("2026-11-21T03:00:00Z");
    assert_eq!(stage.tick().len(), 1);
    let none = stack(&stage.dir, "verify = \"0 5 * * *\"", "");
    stage.scheduler.adopt(none);
    stage.at("2026-11-21T05:00:00Z");
    assert_eq!(stage.tick()[0].task, Task::of(Job::Verify));
    assert_eq!(stage.scheduler.at_work(), [backup(), Task::of(Job::Verify)]);
}

#[test]
fn many_hosts_do_not_begin_at_once_and_each_keeps_its_time() {
    let dir = tempfile::tempdir().unwrap();
    let stack = stack(&dir, &format!("{NIGHTLY}\njitter_seconds = 600"), "");
    let mut times = BTreeSet::new();
    for host in 0..40 {
        let ledger = Arc::new(Catalog::in_memory().unwrap());
        let host = format!("host{host}");
        let mut scheduler = Scheduler::new(stack.clone(), ledger.clone(), &host);
        scheduler.tick(utc("2026-11-20T12:00:00Z"));
        let next = scheduler.next(utc("2026-11-20T12:00:00Z")).unwrap();
        assert!(scheduler.tick(next - Duration::seconds(1)).is_empty());
        // In between it is started anew.
        let mut scheduler = Scheduler::new(stack.clone(), ledger, &host);
        assert_eq!(scheduler.tick(next).len(), 1);
        times.insert(next);
    }
    assert!(times.len() > 30, "{times:?}");
}

#[test]
fn an_unusual_backup_stops_prune_until_a_person_has_looked() {
    use crate::catalog::Count;
    let mut stage = Stage::new(NIGHTLY, "", "2026-11-10T12:00:00Z");
    let night = |stage: &mut Stage, day: u32, rows: u64| {
        stage.at(&format!("2026-11-{day}T02:00:00Z"));
        let start = stage.tick().remove(0);
        stage.ends(&start, ExitCode::Ok);
        let run = stage.ledger.runs(1).unwrap()[0].number;
        let count = Count { about: "mysql".into(), what: "rows".into(), value: rows };
        stage.ledger.note_counts(run, &[count]).unwrap();
        stage.look()
    };
    for day in 11..18 {
        assert_eq!(night(&mut stage, day, 1000), [""; 0]);
    }
    assert_eq!(night(&mut stage, 18, 400), ["opened anomaly mysql"]);
    let frozen =
        |stage: &Stage| crate::jobs::prune::frozen(&stage.stack, &stage.ledger, stage.now()).unwrap();
    assert!(frozen(&stage).unwrap().contains("60 % less"));
    // Next night all is as before: what happened still waits for a person.
    night(&mut stage, 19, 1000);
    assert!(frozen(&stage).is_some());
    let mut incident = stage.ledger.open_incidents().unwrap().remove(0);
    assert_eq!(incident.kind, Kind::Anomaly);
    incident.acknowledged = Some("archived on purpose".into());
    stage.ledger.note_incident(&incident).unwrap();
    assert_eq!(frozen(&stage), None);
    assert_eq!(stage.look(), ["resolved anomaly mysql"]);
}

#[test]
fn what_an_incident_forbids_is_not_tried_again_and_is_told_by_that_alone() {
    let mut stage = Stage::new("prune = \"0 4 * * *\"", "", "2026-11-20T12:00:00Z");
    stage.at("2026-11-21T04:00:00Z");
    let start = stage.tick().remove(0);
    let run = stage.begun(&start);
    let forbidden = Failure::new(ExitCode::Failed, "prune stands still").frozen();
    let outcome = Outcome::failed(&forbidden);
    stage.ledger.end_run(run, &outcome.clone().end(stage.now())).unwrap();
    stage.scheduler.ended(&start.task, outcome, stage.now());
    assert!(!stage.scheduler.waits());
    assert_eq!(stage.slots(&start.task), [("21 04:00".to_owned(), "done", false)]);
    assert_eq!(stage.look(), [""; 0]);
}

#[test]
fn a_catalog_that_takes_no_notes_costs_no_night_and_repeats_none() {
    let mut stage = Stage::new(&format!("{NIGHTLY}\nverify = \"0 2 * * *\""), COPIES, "2026-11-20T12:00:00Z");
    stage.ledger.refuse_writes(true);
    stage.at("2026-11-21T02:00:00Z");
    let starts = stage.tick();
    assert_eq!(starts.len(), 4, "the backup and three looks at what is stored");
    assert!(stage.scheduler.take_trouble().is_some());
    assert!(stage.tick().is_empty());
    for start in &starts {
        let snapshot = (start.task.job == Job::Backup).then(|| SnapshotId::at(stage.now(), 1));
        let outcome = Outcome { snapshot, ..Outcome::default() };
        stage.scheduler.ended(&start.task, outcome, stage.now());
    }
    let follower = stage.tick();
    assert_eq!(follower.iter().map(|one| one.task.to_string()).collect::<Vec<_>>(), ["sync nas"]);
    stage.scheduler.ended(&follower[0].task, Outcome::default(), stage.now());
    for _ in 0..3 {
        stage.clock.advance(Duration::minutes(1));
        assert!(stage.tick().is_empty(), "no slot is kept twice");
    }
    stage.ledger.refuse_writes(false);
    stage.scheduler.take_trouble();
    stage.at("2026-11-22T02:00:00Z");
    assert_eq!(stage.tick().len(), 4);
    assert!(stage.scheduler.take_trouble().is_none());
}

#[test]
fn a_copy_that_was_to_follow_when_the_service_was_stopped_follows_at_the_next_start() {
    let mut stage = Stage::new(NIGHTLY, COPIES, "2026-11-20T12:00:00Z");
    stage.at("2026-11-21T02:00:00Z");
    let start = stage.tick().remove(0);
    stage.ends(&start, ExitCode::Ok);
    let follower = stage.tick().remove(0);
    stage.ends(&follower, ExitCode::Interrupted);
    stage.restart();
    let again = stage.tick();
    assert_eq!(again.iter().map(|one| one.task.to_string()).collect::<Vec<_>>(), ["sync nas"]);
}

#[test]
fn what_another_process_is_at_work_on_is_not_taken_up() {
    let mut stage = Stage::new(NIGHTLY, "", "2026-11-20T12:00:00Z");
    stage.at("2026-11-21T02:00:00Z");
    let start = stage.tick().remove(0);
    stage.begun(&start);
    let lock = RunLock::take(&stage.stack, &backup()).unwrap();
    assert_eq!(stage.restart(), []);
    assert!(stage.tick().is_empty());
    assert_eq!(stage.slots(&backup()), [("21 02:00".to_owned(), "running", false)]);
    drop(lock);
    assert_eq!(stage.restart(), [backup()]);
}

const DRILLS: &str =
    "[drill]\nby_hand = true\nby_hand_image = \"tools\"\nafter_backup = true\ndeadline_minutes = 30\n";

/// Returns the tasks that begin now.
fn begun(starts: &[Start]) -> Vec<String> {
    starts.iter().map(|start| start.task.to_string()).collect()
}

#[test]
fn one_drill_is_made_at_a_time() {
    let mut stage = Stage::new("drill = \"0 3 * * *\"", DRILLS, "2026-11-20T12:00:00Z");
    stage.at("2026-11-21T03:00:00Z");
    let first = stage.tick();
    assert_eq!(begun(&first), ["drill"]);
    stage.clock.advance(Duration::minutes(10));
    assert!(stage.tick().is_empty());
    let wakes = stage.scheduler.next(stage.now());
    assert_eq!(wakes, Some(utc("2026-11-21T03:30:00Z")), "the deadline of the first");
    stage.ends(&first[0], ExitCode::Ok);
    let second = stage.tick();
    assert_eq!(begun(&second), ["drill by-hand"]);
    stage.ends(&second[0], ExitCode::Ok);
    assert_eq!(stage.slots(&second[0].task), [("21 03:00".to_owned(), "done", false)]);
    assert_eq!(stage.look(), [""; 0]);
}

#[test]
fn a_drill_follows_a_whole_backup_when_the_copies_have() {
    let mut stage = Stage::new(NIGHTLY, &format!("{DRILLS}{COPIES}"), "2026-11-20T12:00:00Z");
    stage.at("2026-11-21T02:00:00Z");
    let backup = stage.tick().remove(0);
    stage.ends(&backup, ExitCode::Ok);
    let copy = stage.tick();
    assert_eq!(begun(&copy), ["sync nas"]);
    assert!(stage.tick().is_empty());
    // A copy that fails is tried again later, and holds up nobody.
    stage.ends(&copy[0], ExitCode::StoreDown);
    let drill = stage.tick();
    assert_eq!(begun(&drill), ["drill"]);
    stage.ends(&drill[0], ExitCode::Ok);
    stage.at("2026-11-22T02:00:00Z");
    let starts = stage.tick();
    let backup = starts.iter().find(|start| start.task.job == Job::Backup).unwrap();
    stage.ends(backup, ExitCode::Partial);
    for start in starts.iter().filter(|start| start.task.job == Job::Sync) {
        stage.ends(start, ExitCode::Ok);
    }
    let after = stage.tick();
    assert_eq!(begun(&after), ["sync nas"], "what lacks a source is not drilled");
}

#[test]
fn a_drill_that_was_to_follow_a_backup_follows_it_after_a_restart() {
    let mut stage = Stage::new(NIGHTLY, DRILLS, "2026-11-20T12:00:00Z");
    stage.at("2026-11-21T02:00:00Z");
    let backup = stage.tick().remove(0);
    stage.ends(&backup, ExitCode::Ok);
    stage.restart();
    let drill = stage.tick();
    assert_eq!(begun(&drill), ["drill"]);
    stage.ends(&drill[0], ExitCode::DrillFailed);
    stage.restart();
    assert!(stage.tick().is_empty());
}

#[test]
fn a_drill_has_a_deadline_of_its_own_and_one_that_is_given_up_has_not_failed() {
    let mut stage = Stage::new("drill = \"0 3 * * *\"\ndeadline_minutes = 5", DRILLS, "2026-11-20T12:00:00Z");
    stage.at("2026-11-21T03:00:00Z");
    let drill = stage.tick().remove(0);
    stage.clock.advance(Duration::minutes(30));
    stage.tick();
    assert!(!drill.stop.is_cancelled());
    stage.clock.advance(Duration::minutes(1));
    stage.tick();
    assert!(drill.stop.is_cancelled());
    let outcome = Outcome { exit: Some(ExitCode::Interrupted), ..Outcome::default() };
    let outcome = stage.scheduler.ended(&drill.task, outcome, stage.now());
    assert_eq!(outcome.exit(), ExitCode::DrillNotRun);
    assert_eq!(outcome.message.as_deref(), Some("given up: not done after 30 minutes"));
    assert!(outcome.hint.unwrap().contains("[drill]"));
    assert_eq!(stage.slots(&drill.task), [("21 03:00".to_owned(), "failed", false)]);
}

#[test]
fn a_drill_that_could_not_run_is_tried_again_and_one_that_failed_is_not() {
    for (exit, is_tried_again) in [(ExitCode::DrillNotRun, true), (ExitCode::DrillFailed, false)] {
        let mut stage = Stage::new("drill = \"0 3 * * *\"", "", "2026-11-20T12:00:00Z");
        stage.at("2026-11-21T03:00:00Z");
        let drill = stage.tick().remove(0);
        stage.ends(&drill, exit);
        assert_eq!(stage.scheduler.waits(), is_tried_again, "{exit:?}");
    }
}
