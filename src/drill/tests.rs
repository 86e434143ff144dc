//! The verdict is never better than what is known.

use super::*;

/// A source that was restored in so many seconds.
pub(crate) fn restored(name: &str, size_bytes: u64, seconds: f64) -> SourceReport {
    SourceReport {
        name: name.to_owned(),
        kind: "mysql".to_owned(),
        point: DateTime::UNIX_EPOCH,
        version: None,
        lab_version: None,
        image: None,
        entries: 1,
        size_bytes,
        seconds,
    }
}

/// The report of a drill that ended at this instant, a minute after it began.
pub(crate) fn report(
    way: Way,
    at: DateTime<Utc>,
    assertions: Vec<Assertion>,
    problem: Option<Trouble>,
) -> Report {
    Report {
        schema: SCHEMA.to_owned(),
        id: SnapshotId::at(at, u16::from(way == Way::ByHand)),
        stack: "shop".to_owned(),
        host: "host".to_owned(),
        lifeboat: "0.1.0".to_owned(),
        timezone: "UTC".to_owned(),
        way,
        from: "repository".to_owned(),
        snapshot: SnapshotId::at(DateTime::UNIX_EPOCH, 7),
        snapshot_began: DateTime::UNIX_EPOCH,
        lab: "docker".to_owned(),
        began: at,
        ended: at + chrono::Duration::minutes(1),
        outcome: Outcome::judge(&assertions, problem.as_ref()),
        problem,
        rto_seconds: Some(40.25),
        objective_seconds: Some(3600),
        phases: Vec::new(),
        sources: vec![restored("mysql", 4000, 40.0)],
        covers: Some(vec![SourceName::new("mysql").unwrap()]),
        assertions,
        notes: Vec::new(),
        trend: Vec::new(),
    }
}

fn held() -> Assertion {
    Assertion::held(Question::Contents, "contents", "all of it")
}

fn trouble() -> Trouble {
    Trouble { what: "the lab did not start".to_owned(), hints: Vec::new() }
}

#[test]
fn a_drill_passes_only_when_something_was_asked_and_all_of_it_held() {
    let failed = Assertion { answer: Answer::Failed, ..held() };
    let unasked = Assertion { answer: Answer::CouldNotRun, ..held() };
    assert_eq!(Outcome::judge(&[held(), held()], None), Outcome::Passed);
    assert_eq!(Outcome::judge(&[], None), Outcome::CouldNotRun, "nothing asked is nothing proven");
    assert_eq!(Outcome::judge(std::slice::from_ref(&unasked), None), Outcome::CouldNotRun);
    assert_eq!(Outcome::judge(&[held(), unasked.clone()], None), Outcome::CouldNotRun);
    assert_eq!(Outcome::judge(&[held(), unasked, failed.clone()], None), Outcome::Failed);
    assert_eq!(Outcome::judge(&[held()], Some(&trouble())), Outcome::CouldNotRun);
    assert_eq!(Outcome::judge(&[failed], Some(&trouble())), Outcome::Failed, "what failed stays failed");
    let slow = Assertion::failed(Question::Objective, "rto", "61 min of 60");
    assert_eq!(Outcome::judge(&[held(), slow.clone()], None), Outcome::Failed);
    let given_up = Outcome::judge(&[held(), slow.clone()], Some(&trouble()));
    assert_eq!(given_up, Outcome::CouldNotRun, "that everything came back is not known");
    let unasked = Assertion { answer: Answer::CouldNotRun, ..held() };
    assert_eq!(Outcome::judge(&[held(), slow, unasked], None), Outcome::CouldNotRun);
}

#[test]
fn findings_beyond_the_limit_are_counted_and_not_named() {
    let many = (0..FINDINGS_MAX + 5).map(|n| format!("row {n}")).collect();
    let assertion =
        Assertion::failed(Question::Reference, "files", "rows lack their object").with_findings(many, 9000);
    assert_eq!((assertion.findings.len(), assertion.findings_total), (FINDINGS_MAX, 9000));
}

#[test]
fn a_drill_is_only_slow_when_nothing_but_its_time_did_not_hold() {
    let slow = Assertion::failed(Question::Objective, "rto", "61 min of 60");
    let lost = Assertion::failed(Question::Reference, "files", "rows lack their object");
    let of = |assertions, problem| report(Way::Restore, DateTime::UNIX_EPOCH, assertions, problem);
    let is_only_slow = |assertions| of(assertions, None).is_only_slow();
    assert!(!of(vec![held(), slow.clone()], Some(trouble())).is_only_slow(), "nobody knows what else");
    assert!(is_only_slow(vec![held(), slow.clone()]));
    assert!(!is_only_slow(vec![slow, lost]));
    assert!(!is_only_slow(vec![held()]));
}

#[test]
fn what_somebody_put_into_a_name_turns_no_terminal_around() {
    let finding = format!("key \u{1b}[2J\n\u{202e}evil {}", "x".repeat(1000));
    let assertion = Assertion::failed(Question::Reference, "a\tb", "c\0d").with_findings(vec![finding], 1);
    assert_eq!((assertion.name.as_str(), assertion.detail.as_str()), ("a\\tb", "c\\u{0}d"));
    assert!(assertion.findings[0].starts_with("key \\u{1b}[2J\\n\\u{202e}evil xxx"));
    assert!(assertion.findings[0].ends_with("x… (+515)"));
}

#[test]
fn a_release_is_the_first_two_numbers_of_a_version() {
    let of = |text| release(text);
    assert_eq!(of("MySQL 8.0.36-debian").as_deref(), Some("8.0"));
    assert_eq!(of("MariaDB 10.11.6-MariaDB-0+deb12u1").as_deref(), Some("10.11"));
    assert_eq!(of("Redis 7.0.15").as_deref(), Some("7.0"));
    assert_eq!(of("Redis 255.255.255").as_deref(), Some("255.255"));
    assert_eq!(of("unknown"), None);
    assert_eq!(of("9"), None);
}
