//! The verdict is never better than what is known.

use super::*;

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
    assert_eq!(Outcome::judge(&[unasked.clone()], None), Outcome::CouldNotRun);
    assert_eq!(Outcome::judge(&[held(), unasked.clone()], None), Outcome::CouldNotRun);
    assert_eq!(Outcome::judge(&[held(), unasked, failed.clone()], None), Outcome::Failed);
    assert_eq!(Outcome::judge(&[held()], Some(&trouble())), Outcome::CouldNotRun);
    assert_eq!(Outcome::judge(&[failed], Some(&trouble())), Outcome::Failed, "what failed stays failed");
}

#[test]
fn findings_beyond_the_limit_are_counted_and_not_named() {
    let many = (0..FINDINGS_MAX + 5).map(|n| format!("row {n}")).collect();
    let assertion =
        Assertion::failed(Question::Reference, "files", "rows lack their object").with_findings(many, 9000);
    assert_eq!((assertion.findings.len(), assertion.findings_total), (FINDINGS_MAX, 9000));
}
