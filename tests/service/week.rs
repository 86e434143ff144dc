//! A week on a clock that the test turns: real jobs, a real repository, real faults, and what people were told.

use std::{collections::BTreeSet, fs, path::PathBuf, sync::Arc};

use chrono::{DateTime, Duration, Utc};
use lifeboat::{
    catalog::{Catalog, SlotState},
    clock::{Clock, Ground, StoppedClock, System},
    event::NoMonitor,
    jobs::{
        open,
        run::{Outcome, RunContext},
        tasks, watch,
    },
    names::{Job, Task},
    policy::Stack,
    serve::scheduler::{Scheduler, Start},
    status::incident::Change,
};

use crate::{host::set_schedule, stage::Stage};

/// A Monday, and the policy's zone is UTC.
const BEGIN: &str = "2026-11-23T00:00:00Z";

/// A stack whose days are played.
struct Week {
    stage: Stage,
    stack: Arc<Stack>,
    ledger: Arc<Catalog>,
    clock: StoppedClock,
    ground: Ground,
    scheduler: Scheduler,
    runtime: tokio::runtime::Runtime,
    /// What people were told, and how runs ended that did not end well.
    diary: Vec<String>,
    /// Files whose time is the test's.
    aged: BTreeSet<PathBuf>,
}

impl Week {
    fn begin() -> Self {
        let stage = Stage::with_files();
        for folder in ["near", "far"] {
            let root = stage.at(folder);
            fs::create_dir(&root).unwrap();
            stage.append(&format!(
                "[[offsite]]\nname = \"{folder}\"\nstore = \"fs\"\noptions = {{ root = \"{root}\" }}\nafter_backup = {}\n",
                folder == "near"
            ));
        }
        set_schedule(
            &stage,
            "backup = \"0 2 * * *\"\nsync = \"0 4 * * *\"\nverify = \"0 5 * * 0\"\ndigest = \"0 8 * * *\"\n\
             deadline_minutes = 110\n[anomaly]\nshrink_percent = 30\n",
        );
        let stack = Arc::new(Stack::load(&stage.path("lifeboat.toml")).unwrap());
        let ledger = open::ledger(&stack, &NoMonitor::shared()).unwrap();
        let clock = StoppedClock::at(BEGIN.parse().unwrap());
        let ground = Ground { clock: Arc::new(clock.clone()), dice: Arc::new(System) };
        let scheduler = Scheduler::new(stack.clone(), ledger.clone(), "host");
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let (diary, aged) = (Vec::new(), BTreeSet::new());
        let mut week = Self { stage, stack, ledger, clock, ground, scheduler, runtime, diary, aged };
        week.age_files();
        week
    }

    fn now(&self) -> DateTime<Utc> {
        self.clock.now()
    }

    /// Plays until an instant: `"Tue 02:07"`.
    fn until(&mut self, when: &str) {
        let end = Self::instant(when);
        while self.now() < end {
            self.go_round();
            let next = self.scheduler.next(self.now()).unwrap_or(end).min(end);
            // As the service: it looks every so often though nothing is due.
            let step = (next - self.now()).clamp(Duration::seconds(1), Duration::minutes(10));
            self.clock.advance(step);
        }
        self.go_round();
    }

    /// Lets time pass without the service, and starts it again.
    fn away_until(&mut self, when: &str) {
        self.clock.advance(Self::instant(when) - self.now());
        self.scheduler = Scheduler::new(self.stack.clone(), self.ledger.clone(), "host");
        self.scheduler.recover(self.now());
    }

    fn instant(when: &str) -> DateTime<Utc> {
        let (day, time) = when.split_once(' ').unwrap();
        let days = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun", "End"];
        let begin: DateTime<Utc> = BEGIN.parse().unwrap();
        let at = days.iter().position(|one| *one == day).unwrap();
        let (hour, minute) = time.split_once(':').unwrap();
        begin
            + Duration::days(i64::try_from(at).unwrap())
            + Duration::hours(hour.parse().unwrap())
            + Duration::minutes(minute.parse().unwrap())
    }

    fn go_round(&mut self) {
        let starts = self.scheduler.tick(self.now());
        self.look();
        for start in starts {
            self.play(&start);
        }
    }

    fn play(&mut self, start: &Start) {
        let monitor = NoMonitor::shared();
        let context = RunContext {
            stack: &self.stack,
            ground: &self.ground,
            monitor: &monitor,
            stop: &start.stop,
            attempt: start.attempt,
        };
        let ended = self.runtime.block_on(tasks::perform(context, &start.task));
        let outcome = ended.unwrap_or_else(|failure| Outcome::failed(&failure));
        self.clock.advance(Duration::seconds(40));
        self.age_files();
        if outcome.exit().number() != 0 {
            let why = outcome.message.clone().unwrap_or_default().replace(&self.stage.at(""), "[dir]/");
            let word = outcome.exit().word();
            self.write(&format!("{} try {} ended: {word}: {why}", start.task, start.attempt));
        }
        self.scheduler.ended(&start.task, outcome, self.now());
        self.look();
    }

    /// Lets the stores' clocks go with the test's: a commit whose date is not the store's is tampering.
    fn age_files(&mut self) {
        for folder in ["repo", "near", "far"] {
            for file in self.stage.files(folder) {
                if self.aged.insert(file.clone()) {
                    let times = fs::FileTimes::new().set_modified(self.now().into());
                    fs::File::open(&file).unwrap().set_times(times).unwrap();
                }
            }
        }
    }

    fn look(&mut self) {
        for change in watch::look(&self.stack, &self.ledger, &self.ground).unwrap() {
            let line = match change {
                Change::Opened(condition) => format!("OPENED {} {}", condition.kind.word(), condition.about),
                Change::Reminded(one) => format!("reminded of {} {}", one.kind.word(), one.about),
                Change::Resolved(one) => format!("RESOLVED {} {}", one.kind.word(), one.about),
                Change::Altered(_) => continue,
            };
            self.write(&line);
        }
    }

    fn write(&mut self, line: &str) {
        self.diary.push(format!("{} {line}", self.now().format("%a %H:%M")));
    }

    fn acknowledge(&mut self, note: &str) {
        let incident = self.ledger.open_incidents().unwrap().remove(0);
        watch::acknowledge(&self.stack, &self.ledger, incident.number, note, &self.ground).unwrap();
        self.write(&format!("a person acknowledged {} {}", incident.kind.word(), incident.about));
    }
}

#[test]
fn a_week_of_nights_with_a_fault_in_each() {
    let mut week = Week::begin();
    week.until("Tue 01:55");
    // Tuesday: the disk is away when the backup begins, and back before its last try.
    fs::rename(week.stage.path("repo"), week.stage.path("away")).unwrap();
    week.until("Tue 02:10");
    fs::rename(week.stage.path("away"), week.stage.path("repo")).unwrap();
    // Wednesday: the far copy cannot be reached, all day.
    week.until("Wed 03:00");
    fs::rename(week.stage.path("far"), week.stage.path("away")).unwrap();
    week.until("Thu 00:30");
    fs::rename(week.stage.path("away"), week.stage.path("far")).unwrap();
    // Thursday: the host is off during the night.
    week.away_until("Thu 09:10");
    // Friday: somebody empties what is backed up. The backup succeeds.
    week.until("Fri 01:00");
    fs::rename(week.stage.path("data"), week.stage.path("lost")).unwrap();
    fs::create_dir(week.stage.path("data")).unwrap();
    week.until("Fri 09:30");
    let now = week.ground.clock.now();
    assert!(lifeboat::jobs::prune::frozen(&week.stack, &week.ledger, now).unwrap().is_some());
    fs::remove_dir(week.stage.path("data")).unwrap();
    fs::rename(week.stage.path("lost"), week.stage.path("data")).unwrap();
    week.acknowledge("the data was moved by mistake, and is back");
    // Saturday: the clock is set back by an hour, after the backup.
    week.until("Sat 02:30");
    week.clock.advance(Duration::hours(-1));
    // Sunday: a pack of the repository loses its middle before it is looked at.
    week.until("Sun 04:30");
    let pack = week.stage.files("repo/packs").remove(0);
    let whole = fs::read(&pack).unwrap();
    let mut broken = whole.clone();
    broken.truncate(whole.len() / 2);
    fs::remove_file(&pack).unwrap();
    fs::write(&pack, broken).unwrap();
    week.until("End 01:00");
    let filters = [(r"packs/\S+", "[pack]"), (r"\d+ bytes instead of \d+", "[half of its bytes]")];
    insta::with_settings!({ filters => filters, omit_expression => true }, {
        insta::assert_snapshot!(week.diary.join("\n"));
    });
    all_is_accounted_for(&week);
}

/// Every slot of the week is known, each night has one snapshot, and the reports went out each morning.
fn all_is_accounted_for(week: &Week) {
    let slots = |task: Task| {
        let mut slots = week.ledger.slots(&task, 100).unwrap();
        slots.reverse();
        slots.into_iter().map(|slot| (slot.state, slot.is_late)).collect::<Vec<_>>()
    };
    let nights = slots(Task::of(Job::Backup));
    assert_eq!(nights.len(), 7);
    assert!(nights.iter().all(|(state, _)| *state == SlotState::Done), "{nights:?}");
    assert_eq!(nights.iter().filter(|(_, is_late)| *is_late).count(), 1);
    assert_eq!(slots(Task::of(Job::Digest)).len(), 7);
    let made = week.stage.run(&["snapshots", "--json"]).json();
    assert_eq!(made["snapshots"].as_array().unwrap().len(), 7);
}
