//! What ends a drill before its time, and what is left of its verdict.

use std::{fs, path::Path, sync::Arc, time::Instant};

use chrono::DateTime;

use super::*;
use crate::{event::NoMonitor, policy::Need};

/// A stack whose state lies in this folder.
fn stack(state: &Path, more: &str) -> Stack {
    let text = format!(
        "stack = \"shop\"\n[repository]\nstore = \"fs\"\noptions = {{ root = \"/repo\" }}\n\
         recipients = [\"age1abc\"]\nstate_dir = \"{}\"\n{more}",
        state.display()
    );
    Stack::parse(&text, "p.toml", Need::Repository).unwrap()
}

/// The report of a drill that found this so far.
fn found(assertions: Vec<Assertion>) -> Report {
    crate::drill::tests::report(Way::Restore, DateTime::UNIX_EPOCH, assertions, None)
}

fn judged(report: &Report) -> Outcome {
    Outcome::judge(&report.assertions, report.problem.as_ref())
}

fn held() -> Assertion {
    Assertion::held(Question::Contents, "contents", "all of it")
}

fn failure(exit: ExitCode) -> Failure {
    Failure::new(exit, "pack ab12 was changed").hint("Run `lifeboat verify`.")
}

#[test]
fn a_drill_that_finds_damage_at_its_beginning_ends_as_damage_and_not_as_not_run() {
    for exit in [ExitCode::Damage, ExitCode::Tampering, ExitCode::Interrupted, ExitCode::Usage] {
        assert_eq!(not_begun(failure(exit)).exit(), exit);
    }
    for exit in [ExitCode::StoreDown, ExitCode::KeyRefused, ExitCode::Failed, ExitCode::Busy] {
        let failure = not_begun(failure(exit));
        assert_eq!(failure.exit(), ExitCode::DrillNotRun);
        assert_eq!(failure.chain(), ["the drill could not begin", "pack ab12 was changed"]);
        assert_eq!(failure.hints(), ["Run `lifeboat verify`."]);
    }
}

#[test]
fn damage_that_breaks_a_drill_off_fails_it_and_any_other_trouble_only_says_that_nobody_knows() {
    for exit in [ExitCode::Damage, ExitCode::Tampering] {
        let mut report = found(vec![held()]);
        settle(&mut report, Err(failure(exit))).unwrap();
        assert_eq!((judged(&report), &report.problem), (Outcome::Failed, &None));
        let last = report.assertions.last().unwrap();
        assert_eq!((last.answer, last.kind), (Answer::Failed, Question::Restored));
        assert_eq!(last.detail, "pack ab12 was changed");
        assert_eq!(last.findings, ["Run `lifeboat verify`."]);
    }
    let mut report = found(vec![held()]);
    settle(&mut report, Err(failure(ExitCode::StoreDown))).unwrap();
    assert_eq!(judged(&report), Outcome::CouldNotRun);
    assert_eq!(report.problem.unwrap().what, "pack ab12 was changed");
    let stopped = settle(&mut found(vec![]), Err(failure(ExitCode::Interrupted)));
    assert_eq!(stopped.unwrap_err().exit(), ExitCode::Interrupted);
}

#[test]
fn a_drill_that_is_stopped_keeps_what_it_found_to_be_lost() {
    let lost = Assertion::failed(Question::Contents, "contents", "a row is missing");
    let mut report = found(vec![held(), lost]);
    settle(&mut report, Err(stopped())).unwrap();
    assert_eq!(judged(&report), Outcome::Failed);
    assert!(report.problem.is_some());
    let slow = Assertion::failed(Question::Objective, "time", "too slow");
    let ended = settle(&mut found(vec![held(), slow]), Err(stopped()));
    assert_eq!(ended.unwrap_err().exit(), ExitCode::Interrupted);
}

#[test]
fn what_the_lab_reads_back_damaged_is_not_the_backups_damage() {
    assert_eq!(of_lab(failure(ExitCode::Damage)).exit(), ExitCode::DrillNotRun);
    assert_eq!(of_lab(failure(ExitCode::StoreDown)).exit(), ExitCode::StoreDown);
}

#[test]
fn a_folder_that_stays_behind_is_told_and_takes_nothing_from_the_verdict() {
    let state = tempfile::tempdir().unwrap();
    let stack = stack(state.path(), "");
    // What is no folder cannot be removed as one.
    let left = Workplace::of(&stack, Way::Restore);
    fs::create_dir(state.path().join("drills")).unwrap();
    fs::write(&left, "").unwrap();
    let lost = Assertion::failed(Question::Contents, "contents", "a row is missing");
    let mut report = found(vec![held(), lost]);
    let monitor: SharedMonitor = Arc::new(NoMonitor);
    clear_away(&stack, &mut report, &monitor);
    settle(&mut report, Ok(())).unwrap();
    assert!(report.notes[0].contains("-restore.work` cannot be removed"), "{:?}", report.notes);
    assert_eq!((judged(&report), &report.problem), (Outcome::Failed, &None));
    assert!(left.exists());
}

#[tokio::test(start_paused = true)]
async fn a_part_of_a_drill_ends_when_its_time_is_up() {
    let state = tempfile::tempdir().unwrap();
    let (stack, left) = (stack(state.path(), "[drill]\ndeadline_minutes = 5\n"), Duration::from_mins(3));
    assert_eq!(in_time(&stack, left, async { Ok(7) }).await.unwrap(), 7);
    let began = tokio::time::Instant::now();
    let late = in_time(&stack, left, std::future::pending::<Result<()>>()).await.unwrap_err();
    assert_eq!((late.exit(), began.elapsed().as_secs()), (ExitCode::DrillNotRun, 180));
    assert_eq!(late.to_string(), "the drill was given up after 5 minutes");
}

#[test]
fn the_deadline_counts_from_the_drills_own_beginning() {
    let (hour, now) = (Duration::from_hours(1), Instant::now());
    let began = |minutes| Watch::since(now.checked_sub(Duration::from_mins(minutes)).unwrap());
    let left = began(0).left(hour);
    assert!(left <= Duration::from_mins(57) && left > Duration::from_mins(50), "{left:?}");
    // What opening took is not given again.
    let left = began(40).left(hour);
    assert!(left <= Duration::from_mins(17) && left > Duration::from_mins(10), "{left:?}");
    assert_eq!(began(58).left(hour), Duration::ZERO);
}
