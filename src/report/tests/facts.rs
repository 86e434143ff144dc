//! A report as a drill of a real stack would make it, and what may go wrong with one.

use chrono::{DateTime, TimeDelta, TimeZone, Utc};

use crate::{
    drill::{Assertion, Outcome, Past, Phase, Question, Report, SCHEMA, SourceReport, Step, Trouble, Way},
    names::{SnapshotId, SourceName},
};

const MIB: u64 = 1 << 20;

fn id(text: &str) -> SnapshotId {
    SnapshotId::new(text).unwrap()
}

fn phase(step: Step, source: Option<&str>, began_seconds: f64, seconds: f64) -> Phase {
    Phase { step, source: source.map(str::to_owned), began_seconds, seconds }
}

fn source(name: &str, kind: &str, [entries, size_bytes]: [u64; 2], seconds: f64) -> SourceReport {
    SourceReport {
        name: name.into(),
        kind: kind.into(),
        point: Utc.with_ymd_and_hms(2026, 10, 31, 18, 0, 7).unwrap(),
        version: None,
        lab_version: None,
        image: None,
        entries,
        size_bytes,
        seconds,
    }
}

fn server(source: SourceReport, [version, lab]: [&str; 2], image: &str) -> SourceReport {
    SourceReport {
        version: Some(version.into()),
        lab_version: Some(lab.into()),
        image: Some(image.into()),
        ..source
    }
}

fn sources() -> Vec<SourceReport> {
    vec![
        server(
            source("mysql", "mysql", [412, 31_412 * MIB], 538.4),
            ["8.0.39", "8.4.6"],
            "mysql:8.4@sha256:4a4e5a2a19aab7a67870588952e8f401e17a330466ecfc55c9acf51196da5bd0",
        ),
        server(
            source("redis", "redis", [1, 1_204 * MIB], 21.9),
            ["7.2.5", "7.2.11"],
            "redis:7-alpine@sha256:bb186d083732f669da90be8b0f975a37812b15e913465bb14d845db72a4e3e08",
        ),
        server(
            source("minio", "s3", [184_230, 48_870 * MIB], 676.4),
            ["RELEASE.2025-04-22T22-12-26Z", "RELEASE.2025-04-22T22-12-26Z"],
            "minio/minio@sha256:a1ea29fa28355559ef137d71fc570e508a214ec84ff8083e39bc5428980b015e",
        ),
        source("config", "files", [63, 2 * MIB], 0.31),
    ]
}

fn phases() -> Vec<Phase> {
    vec![
        phase(Step::Open, None, 0.4, 3.8),
        phase(Step::Lab, None, 4.2, 26.1),
        phase(Step::Restore, Some("mysql"), 30.3, 538.4),
        phase(Step::Restore, Some("redis"), 30.3, 21.9),
        phase(Step::Restore, Some("minio"), 30.3, 676.4),
        phase(Step::Restore, Some("config"), 30.3, 0.31),
        phase(Step::Check, None, 706.7, 172.6),
        phase(Step::Remove, None, 879.3, 13.9),
    ]
}

fn assertions() -> Vec<Assertion> {
    let held = Assertion::held;
    vec![
        held(Question::Restored, "everything is restored", "4 sources, 184,706 entries, 79.6 GiB"),
        held(Question::Contents, "contents", "412 tables, 81,234,567 rows").about("mysql"),
        held(Question::Contents, "contents", "2,310,442 keys").about("redis"),
        held(Question::Contents, "contents", "184,230 objects").about("minio"),
        held(Question::Contents, "contents", "63 files").about("config"),
        held(Question::Reference, "each file has its object", "184,101 rows, 184,101 objects").about("mysql"),
        held(Question::Reference, "each object has its row", "129 of 184,230 have none, 500 may")
            .about("minio"),
        held(Question::Reference, "sessions belong to users", "40,112 keys, each with its row")
            .about("redis"),
        held(Question::Expectation, "there are administrators", "7, at least 1").about("mysql").with_value(7),
        held(Question::Expectation, "no message is without a sender", "0, at most 0").about("mysql"),
        held(Question::Freshness, "messages are new", "the newest is 4 min older than the snapshot")
            .about("mysql"),
        held(Question::Freshness, "uploads are new", "the newest is 11 min older than the snapshot")
            .about("minio"),
        held(Question::Command, "im-server check --offline", "exit code 0 after 14 s"),
        held(Question::Objective, "restore time", "11 min 20 s, at most 30 min"),
    ]
}

/// The drills of a year: it grew slowly, one failed and one could not run.
pub(super) fn year() -> Vec<Past> {
    let times = [412, 431, 440, 468, 471, 0, 502, 540, 552, 601, 633, 658];
    let past = |(at, seconds): (usize, i32)| {
        let (year, month) = if at < 2 { (2025, at as u32 + 11) } else { (2026, at as u32 - 1) };
        let ended = Utc.with_ymd_and_hms(year, month, 1, 3, 15, 0).unwrap();
        let outcome = match at {
            5 => Outcome::CouldNotRun,
            8 => Outcome::Failed,
            _ => Outcome::Passed,
        };
        Past {
            id: SnapshotId::at(ended, at as u16),
            snapshot: SnapshotId::at(ended - TimeDelta::hours(9), at as u16),
            ended,
            outcome,
            rto_seconds: (seconds > 0).then(|| f64::from(seconds)),
            size_bytes: 60_000 * MIB,
        }
    };
    times.into_iter().enumerate().map(past).collect()
}

fn began() -> DateTime<Utc> {
    Utc.with_ymd_and_hms(2026, 11, 1, 3, 0, 0).unwrap()
}

/// A drill that passed.
pub(super) fn passed() -> Report {
    Report {
        schema: SCHEMA.to_owned(),
        id: id("20261101T030000Z-7f3a"),
        stack: "im-suite".into(),
        host: "im-prod-01".into(),
        lifeboat: "0.1.0".into(),
        timezone: "Asia/Shanghai".into(),
        way: Way::Restore,
        from: "oss".into(),
        snapshot: id("20261031T180000Z-c41d"),
        snapshot_began: Utc.with_ymd_and_hms(2026, 10, 31, 18, 0, 0).unwrap(),
        lab: "docker 28.3".into(),
        began: began(),
        ended: began() + TimeDelta::milliseconds(893_200),
        outcome: Outcome::Passed,
        problem: None,
        rto_seconds: Some(680.2),
        objective_seconds: Some(1_800),
        phases: phases(),
        sources: sources(),
        covers: Some(["files", "mysql"].map(|name| SourceName::new(name).unwrap()).to_vec()),
        assertions: assertions(),
        notes: vec![
            "MySQL 8.0 was restored into 8.4: set `image` of the drill to test the version in use.".into(),
        ],
        trend: year(),
    }
}

/// A drill that was slow, and found rows without objects.
pub(super) fn failed() -> Report {
    let mut report = passed();
    let orphans = (0..20).map(|n| {
        let row = 88_120 + n * 7;
        format!("mysql:im.files id={row} storage_path='2026/10/{row:08x}.jpg': no object im-files/2026/10/{row:08x}.jpg")
    });
    report.assertions[5] = Assertion::failed(
        Question::Reference,
        "each file has its object",
        "23 of 184,101 rows have no object, none may",
    )
    .about("mysql")
    .with_findings(orphans.collect(), 23);
    report.assertions[12] =
        Assertion::could_not_run(Question::Command, "im-server check --offline", "no answer after 5 min");
    report.assertions[13] =
        Assertion::failed(Question::Objective, "restore time", "38 min 4 s, at most 30 min");
    report.rto_seconds = Some(2_284.0);
    report.ended = report.began + TimeDelta::milliseconds(2_549_900);
    (report.phases[2].seconds, report.sources[0].seconds) = (2_280.2, 2_280.2);
    report.phases[6] = phase(Step::Check, None, 2_310.5, 230.2);
    report.phases[7] = phase(Step::Remove, None, 2_540.7, 9.2);
    report.outcome = Outcome::judge(&report.assertions, None);
    report
}

/// A drill whose lab did not start.
pub(super) fn could_not_run() -> Report {
    let mut report = passed();
    report.problem = Some(Trouble {
        what: "the lab did not start\nfailed to start `mysql` from `mysql:8.4`\nno space left on device"
            .into(),
        hints: vec![
            "Free space below /var/lib/docker: `docker system df` shows what takes it.".into(),
            "Or let the drill run on another host: see docs/runbook/drill.md.".into(),
        ],
    });
    report.ended = report.began + TimeDelta::milliseconds(19_600);
    report.outcome = Outcome::CouldNotRun;
    report.rto_seconds = None;
    report.phases.truncate(2);
    report.sources.clear();
    report.assertions.clear();
    report.notes.clear();
    report.phases[1].seconds = 15.4;
    report
}

/// A report that has nothing to tell: the drill ended as it began.
pub(super) fn shortest() -> Report {
    let mut report = could_not_run();
    report.problem = None;
    report.objective_seconds = None;
    report.ended = report.began;
    report.phases.clear();
    report.trend.clear();
    report
}
