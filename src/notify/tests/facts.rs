//! Facts that messages tell of.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use crate::{
    drill::{Outcome, Way},
    names::{Job, SnapshotId, Task},
    notify::{Message, Topic},
    policy::Language,
    status::{
        Condition, DrillStanding, Incident, Kind, PlaceStanding, RunStanding, SourceStanding, Standing,
        TaskStanding, TaskState, Upcoming, Urgency, Verdict,
    },
};

pub fn at(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

pub fn message(language: Language, topic: Topic) -> Message {
    Message {
        stack: "im-suite".into(),
        host: "im-prod-01".into(),
        at: at("2026-11-23T00:00:18Z"),
        language,
        timezone: "Asia/Shanghai".into(),
        topic,
        unreached: Vec::new(),
        is_trial: false,
    }
}

pub fn incident(kind: Kind, about: &str, urgency: Urgency) -> Incident {
    Incident {
        number: 12,
        condition: Condition {
            kind,
            about: about.into(),
            urgency,
            what: "source `mysql` cannot be read: connection refused".into(),
            drill: None,
            hint: Some("Is the server running? Start it, then run `lifeboat backup`.".into()),
        },
        opened: at("2026-11-22T18:00:14Z"),
        reminders: 2,
        told: at("2026-11-22T18:00:14Z"),
        resolved: None,
        acknowledged: None,
        muted_until: None,
    }
}

pub fn resolved() -> Incident {
    Incident { resolved: Some(at("2026-11-22T18:41:00Z")), ..incident(Kind::Failed, "backup", Urgency::Page) }
}

pub fn run(exit: u8) -> RunStanding {
    RunStanding {
        task: Task::of(Job::Backup),
        began: at("2026-11-22T18:00:00Z"),
        ended: at("2026-11-22T18:12:40Z"),
        exit,
        snapshot: (exit != 1).then(|| SnapshotId::new("20261122T180001Z-8d88").unwrap()),
        added_bytes: 1_288_490_188,
        message: (exit != 0).then(|| "source `redis` was left out: its password is wrong".into()),
        hint: (exit != 0).then(|| "Check `password` of the source.".into()),
    }
}

pub fn drill(outcome: Outcome) -> DrillStanding {
    DrillStanding {
        way: Way::Restore,
        from: "repository".into(),
        snapshot: SnapshotId::new("20261122T180001Z-8d88").unwrap(),
        ended: at("2026-11-22T19:21:20Z"),
        outcome,
        rto_seconds: (outcome != Outcome::CouldNotRun).then_some(680),
        objective_seconds: Some(3600),
        assertions: match outcome {
            Outcome::Passed => [7, 0, 0],
            Outcome::Failed => [5, 1, 1],
            Outcome::CouldNotRun => [0, 0, 7],
        },
        trouble: None,
    }
}

fn task(task: Task, state: TaskState) -> TaskStanding {
    let last_run = RunStanding { task: task.clone(), ..run(u8::from(state != TaskState::Ok)) };
    TaskStanding {
        task,
        state,
        interval_seconds: Some(86_400),
        last_success: (state != TaskState::Waiting).then(|| at("2026-11-21T18:12:00Z")),
        last_run: (state != TaskState::Waiting).then_some(last_run),
        running_since: (state == TaskState::Overdue).then(|| at("2026-11-22T23:00:00Z")),
        next: Some(at("2026-11-23T18:00:00Z")),
    }
}

fn source(name: &str, kind: &str, point: Option<&str>, counts: &[(&str, u64)]) -> SourceStanding {
    SourceStanding {
        name: name.into(),
        kind: kind.into(),
        point: point.map(at),
        point_offsite: point.map(|_| at("2026-11-21T18:00:02Z")),
        counts: counts.iter().map(|(what, count)| ((*what).to_owned(), *count)).collect(),
    }
}

fn place(name: &str, lag_seconds: Option<u64>) -> PlaceStanding {
    PlaceStanding {
        name: name.into(),
        is_offsite: name != "repository",
        snapshots: Some(14),
        proven: 2,
        immutable: if name == "repository" { 0 } else { 13 },
        newest: Some(SnapshotId::new("20261122T180001Z-8d88").unwrap()),
        newest_began: Some(at("2026-11-22T18:00:01Z")),
        logical_bytes: Some(53_687_091_200),
        stored_bytes: Some(21_474_836_480),
        lag_bytes: lag_seconds.map(|_| 1_288_490_188),
        lag_seconds,
        free_bytes: (name == "repository").then_some(107_374_182_400),
        full_in_days: (name == "repository").then_some(83),
        lock: (name != "repository").then(|| "proven".into()),
    }
}

/// A stack that needs somebody.
pub fn standing() -> Standing {
    let noted = Incident {
        acknowledged: Some("disk ordered".into()),
        ..incident(Kind::Doctor, "disk.room", Urgency::Ticket)
    };
    Standing {
        stack: "im-suite".into(),
        host: "im-prod-01".into(),
        at: at("2026-11-23T00:00:18Z"),
        timezone: "Asia/Shanghai".into(),
        verdict: Verdict::Danger,
        tasks: vec![
            task(Task::of(Job::Backup), TaskState::Ok),
            task(Task::at(Job::Sync, "oss"), TaskState::Failed),
            task(Task::of(Job::Verify), TaskState::Overdue),
            task(Task::of(Job::Drill), TaskState::Waiting),
        ],
        sources: vec![
            source(
                "mysql",
                "mysql",
                Some("2026-11-23T00:00:00Z"),
                &[("bytes", 32_212_254_720), ("rows", 81_234_567)],
            ),
            source("redis", "redis", Some("2026-11-22T23:59:42Z"), &[("keys", 120_345)]),
            source("minio", "s3", Some("2026-11-23T00:00:10Z"), &[("objects", 45_001)]),
        ],
        places: vec![place("repository", None), place("oss", Some(10_800)), place("attic", Some(0))],
        incidents: vec![incident(Kind::Tampering, "repository", Urgency::Page), noted],
        resolved: vec![resolved()],
        prune_frozen: Some("somebody without the keys changed the repository".into()),
        drill: Some(drill(Outcome::Passed)),
        by_hand: Some(DrillStanding { way: Way::ByHand, ..drill(Outcome::CouldNotRun) }),
        clock_skew_seconds: BTreeMap::new(),
        next: vec![
            Upcoming { task: Task::of(Job::Backup), at: at("2026-11-23T18:00:00Z") },
            Upcoming { task: Task::at(Job::Sync, "oss"), at: at("2026-11-23T20:00:00Z") },
        ],
    }
}

/// A stack that is as it should be.
pub fn calm() -> Standing {
    let whole = standing();
    Standing {
        verdict: Verdict::Good,
        tasks: whole.tasks[..1].to_vec(),
        places: vec![place("repository", None), place("oss", Some(0))],
        incidents: Vec::new(),
        resolved: Vec::new(),
        prune_frozen: None,
        by_hand: Some(DrillStanding { way: Way::ByHand, ..drill(Outcome::Passed) }),
        ..whole
    }
}
