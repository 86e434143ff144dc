//! A standing in which everything that can be known is known.

use std::collections::BTreeMap;

use chrono::{DateTime, Duration, Utc};
use lifeboat::{
    drill::{Outcome, Way},
    names::{Job, SnapshotId, Task},
    status::{
        Condition, DrillStanding, Incident, Kind, PlaceStanding, RunStanding, SourceStanding, Standing,
        TaskStanding, TaskState, Upcoming, Urgency, Verdict,
    },
};

pub fn now() -> DateTime<Utc> {
    "2026-11-23T00:00:00Z".parse().expect("a time")
}

fn id() -> SnapshotId {
    SnapshotId::at(now() - Duration::hours(6), 0x7f3a)
}

fn task(task: Task, hours_ago: i64, interval_hours: u64) -> TaskStanding {
    let ended = now() - Duration::hours(hours_ago);
    TaskStanding {
        state: TaskState::Ok,
        interval_seconds: Some(interval_hours * 3600),
        last_success: Some(ended),
        last_run: Some(RunStanding {
            task: task.clone(),
            began: ended - Duration::seconds(90),
            ended,
            exit: 0,
            snapshot: Some(id()),
            added_bytes: 4096,
            message: Some("`mysql` lacks im.salaries: the password is hunter2".to_owned()),
            hint: Some("look at /opt/im-suite/.env".to_owned()),
        }),
        running_since: Some(now()),
        next: Some(now() + Duration::hours(18)),
        task,
    }
}

fn place(name: &str, is_offsite: bool) -> PlaceStanding {
    PlaceStanding {
        name: name.to_owned(),
        is_offsite,
        snapshots: Some(14),
        proven: 2,
        immutable: 7,
        newest: Some(id()),
        newest_began: Some(now() - Duration::hours(6)),
        logical_bytes: Some(200 << 30),
        stored_bytes: Some(90 << 30),
        lag_bytes: is_offsite.then_some(0),
        lag_seconds: is_offsite.then_some(0),
        free_bytes: Some(400 << 30),
        full_in_days: Some(211),
        lock: is_offsite.then(|| "proven".to_owned()),
    }
}

fn source(name: &str, kind: &str, counts: &[(&str, u64)]) -> SourceStanding {
    SourceStanding {
        name: name.to_owned(),
        kind: kind.to_owned(),
        point: Some(now() - Duration::hours(6)),
        point_offsite: Some(now() - Duration::hours(30)),
        counts: counts.iter().map(|(what, count)| ((*what).to_owned(), *count)).collect(),
    }
}

fn incident(number: i64, kind: Kind, urgency: Urgency) -> Incident {
    Incident {
        number,
        condition: Condition {
            kind,
            about: "im.salaries".to_owned(),
            urgency,
            what: "the table `im.salaries` is gone".to_owned(),
            drill: None,
            hint: Some("ask hunter2".to_owned()),
        },
        opened: now(),
        reminders: 0,
        told: now(),
        resolved: None,
        acknowledged: None,
        muted_until: None,
    }
}

pub fn full() -> Standing {
    Standing {
        stack: "im-suite".to_owned(),
        host: "im-prod-1".to_owned(),
        at: now(),
        timezone: "Asia/Shanghai".to_owned(),
        verdict: Verdict::Attention,
        tasks: vec![
            task(Task::of(Job::Backup), 6, 24),
            task(Task::at(Job::Sync, "oss"), 4, 24),
            task(Task::of(Job::Prune), 3, 24),
            task(Task::at(Job::Prune, "oss"), 3, 24),
            task(Task::of(Job::Verify), 27, 168),
            task(Task::of(Job::Drill), 500, 744),
            task(Task::of(Job::Digest), 16, 24),
            task(Task::of(Job::Doctor), 1, 24),
        ],
        sources: vec![
            source("mysql", "mysql", &[("bytes", 1 << 40), ("entries", 58), ("rows", 1_234_567)]),
            source("redis", "redis", &[("bytes", 2048), ("keys", 99), ("im.salaries", 3)]),
            source("minio", "s3", &[("bytes", 4096), ("objects", 600)]),
        ],
        places: vec![place("repository", false), place("oss", true)],
        incidents: vec![
            incident(1, Kind::Anomaly, Urgency::Page),
            incident(2, Kind::Doctor, Urgency::Ticket),
            incident(3, Kind::Doctor, Urgency::Ticket),
        ],
        resolved: Vec::new(),
        prune_frozen: Some("im.salaries has lost half of its rows (incident 1)".to_owned()),
        drill: Some(DrillStanding {
            way: Way::Restore,
            from: "oss".to_owned(),
            snapshot: id(),
            ended: now() - Duration::hours(500),
            outcome: Outcome::Passed,
            rto_seconds: Some(680),
            objective_seconds: Some(3600),
            assertions: [41, 0, 1],
            trouble: None,
        }),
        by_hand: Some(DrillStanding {
            way: Way::ByHand,
            from: "repository".to_owned(),
            snapshot: id(),
            ended: now() - Duration::hours(499),
            outcome: Outcome::CouldNotRun,
            rto_seconds: None,
            objective_seconds: None,
            assertions: [0, 0, 3],
            trouble: None,
        }),
        clock_skew_seconds: [("repository", 0.0), ("oss", -0.25), ("mysql", 70.5)]
            .map(|(thing, seconds)| (thing.to_owned(), seconds))
            .into(),
        next: vec![Upcoming { task: Task::of(Job::Backup), at: now() + Duration::hours(18) }],
    }
}

/// A stack of which nothing is known yet.
pub fn empty() -> Standing {
    let unknown = |place: PlaceStanding| PlaceStanding {
        snapshots: None,
        proven: 0,
        immutable: 0,
        newest: None,
        newest_began: None,
        logical_bytes: None,
        stored_bytes: None,
        lag_bytes: None,
        lag_seconds: None,
        free_bytes: None,
        full_in_days: None,
        lock: None,
        ..place
    };
    let never = |task: TaskStanding| TaskStanding {
        state: TaskState::Waiting,
        last_success: None,
        last_run: None,
        running_since: None,
        ..task
    };
    let full = full();
    Standing {
        verdict: Verdict::Unknown,
        tasks: full.tasks.into_iter().map(never).collect(),
        sources: vec![SourceStanding {
            name: "mysql".to_owned(),
            kind: "mysql".to_owned(),
            point: None,
            point_offsite: None,
            counts: Vec::new(),
        }],
        places: full.places.into_iter().map(unknown).collect(),
        incidents: Vec::new(),
        prune_frozen: None,
        drill: None,
        by_hand: None,
        clock_skew_seconds: BTreeMap::new(),
        ..full
    }
}
