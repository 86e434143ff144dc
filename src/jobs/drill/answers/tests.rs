//! Answers at their edges.

use chrono::TimeZone as _;

use super::*;
use crate::drill::Answer as Verdict;

fn expect(more: &str) -> ExpectConfig {
    toml::from_str(&format!("name = \"users\"\nsource = \"mysql\"\nquery = \"SELECT 1\"\n{more}")).unwrap()
}

fn freshness(more: &str) -> FreshnessConfig {
    let text =
        format!("name = \"messages\"\nsource = \"mysql\"\nquery = \"SELECT 1\"\nwithin_minutes = 15\n{more}");
    toml::from_str(&text).unwrap()
}

fn of(text: &str) -> Single {
    Single::Value(Some(text.as_bytes().to_vec()))
}

fn number(more: &str, text: &str) -> Assertion {
    judge_number(&expect(more), &of(text))
}

#[test]
fn a_number_within_its_limits_holds() {
    for (text, value) in [
        ("10", Some(10)),
        ("1", Some(1)),
        ("20", Some(20)),
        ("10.000", Some(10)),
        ("1.5", None),
        ("1e1", Some(10)),
        ("1.25e1", None),
    ] {
        let assertion = number("at_least = 1\nat_most = 20", text);
        assert_eq!((assertion.answer, assertion.value), (Verdict::Held, value), "{text}");
        assert_eq!(assertion.detail, format!("the answer is {text}"));
    }
}

#[test]
fn a_number_outside_says_its_limit() {
    for (text, detail) in [
        ("0", "the answer is 0, and must be at least 1"),
        ("0.99", "the answer is 0.99, and must be at least 1"),
        ("-0.5", "the answer is -0.5, and must be at least 1"),
        ("21", "the answer is 21, and may be at most 20"),
        ("20.0001", "the answer is 20.0001, and may be at most 20"),
        ("1e40", "the answer is 1e40, and may be at most 20"),
        ("99999999999999999999999", "the answer is 99999999999999999999999, and may be at most 20"),
    ] {
        let assertion = number("at_least = 1\nat_most = 20", text);
        assert_eq!((assertion.answer, assertion.detail.as_str()), (Verdict::Failed, detail));
    }
    assert_eq!(number("at_most = -1", "-0.5").answer, Verdict::Failed);
    assert_eq!(number("at_least = -1", "-0.5").answer, Verdict::Held);
    assert_eq!(number("at_least = 18", "18446744073709551615").value, None, "a number that has no room");
}

#[test]
fn what_is_not_one_number_fails() {
    let row = |values: &[&str]| values.iter().map(|value| Some(value.as_bytes().to_vec())).collect();
    let answers = [
        (Single::NoRow, "the query returned no row"),
        (Single::NoRow.and(vec![None]), "the answer is NULL: no rows"),
        (Single::NoRow.and(row(&["1", "2"])), "the query returns 2 columns, not one"),
        (Single::NoRow.and(row(&["1"])).and(row(&["2"])), "the query returns several rows, not one"),
        (of("many"), "the answer `many` is no number"),
        (of(""), "the answer `` is no number"),
        (of("-"), "the answer `-` is no number"),
        (of("1."), "the answer is 1."),
        (of("NaN"), "the answer `NaN` is no number"),
        (of("inf"), "the answer `inf` is no number"),
        (of("1 "), "the answer `1 ` is no number"),
        (of("0x10"), "the answer `0x10` is no number"),
        (Single::Value(Some(b"\x01".to_vec())), "the answer `\\u{1}` is no number"),
    ];
    for (answer, detail) in answers {
        let assertion = judge_number(&expect("at_least = 1"), &answer);
        let verdict = if detail == "the answer is 1." { Verdict::Held } else { Verdict::Failed };
        assert_eq!((assertion.answer, assertion.detail.as_str()), (verdict, detail));
    }
}

fn point() -> DateTime<Utc> {
    Utc.with_ymd_and_hms(2026, 11, 1, 3, 0, 0).unwrap()
}

fn age(more: &str, text: &str) -> Assertion {
    judge_age(&freshness(more), &of(text), point())
}

#[test]
fn an_instant_is_read_in_each_of_its_forms() {
    for text in [
        "2026-11-01 02:59:00",
        "2026-11-01 02:59:00.000000",
        "2026-11-01 02:59:00.9",
        "2026-11-01T02:59:00",
        "2026-11-01T02:59:00Z",
        "2026-11-01T10:59:00+08:00",
        "1793501940",
        "1793501940.250",
        "1793501940000",
        "1793501940000000",
    ] {
        let assertion = age("", text);
        assert_eq!(assertion.answer, Verdict::Held, "{text}: {}", assertion.detail);
        assert!(matches!(assertion.value, Some(59 | 60)), "{text}: {:?}", assertion.value);
    }
    let assertion = age("timezone = \"Asia/Shanghai\"", "2026-11-01 10:59:00");
    assert_eq!(
        assertion.detail,
        "the newest is of 2026-11-01 02:59:00 UTC, 1 min before its source was read"
    );
    let assertion = age("", "2026-11-01");
    assert_eq!(
        (assertion.answer, assertion.value),
        (Verdict::Failed, Some(3 * 3600)),
        "a day begins at midnight"
    );
}

#[test]
fn an_instant_may_be_so_old_and_no_older() {
    for (text, answer) in [
        ("2026-11-01 02:45:00", Verdict::Held),
        ("2026-11-01 02:44:59.999", Verdict::Failed),
        ("2026-11-01 03:05:00", Verdict::Held),
        ("2026-11-01 03:05:00.001", Verdict::Failed),
        ("2026-10-01 03:00:00", Verdict::Failed),
    ] {
        assert_eq!(age("", text).answer, answer, "{text}");
    }
    assert_eq!(
        age("", "2026-10-31 00:00:00").detail,
        "the newest is of 2026-10-31 00:00:00 UTC, 27 h 0 min before its source was read; 15 min may be"
    );
    assert_eq!(
        age("", "2026-11-01 11:00:00").detail,
        "the newest is of 2026-11-01 11:00:00 UTC, 8 h 0 min after its source was read: a clock is wrong, or \
         `timezone`"
    );
}

#[test]
fn what_is_no_instant_fails() {
    for text in
        ["", "yesterday", "0000-00-00 00:00:00", "2026-02-30 00:00:00", "0", "12:00:00", "1.2.3", "-5"]
    {
        let assertion = age("", text);
        assert_eq!(assertion.answer, Verdict::Failed);
        assert_eq!(assertion.detail, format!("the answer `{text}` is no date and time"));
    }
    let assertion = judge_age(&freshness(""), &Single::Value(None), point());
    assert_eq!(
        (assertion.answer, assertion.detail.as_str()),
        (Verdict::Failed, "the answer is NULL: no rows")
    );
}

#[test]
fn a_clock_that_is_put_back_shows_an_hour_twice() {
    // Berlin, 2026-10-25: 03:00 becomes 02:00 at 01:00 UTC.
    let config = freshness("timezone = \"Europe/Berlin\"");
    let at = |hour, minute| Utc.with_ymd_and_hms(2026, 10, 25, hour, minute, 0).unwrap();
    let judged = |text: &str, point| judge_age(&config, &of(text), point);
    assert_eq!(judged("2026-10-25 02:30:00", at(0, 35)).value, Some(300), "the first one");
    assert_eq!(judged("2026-10-25 02:30:00", at(1, 35)).value, Some(300), "the second one");
    assert_eq!(judged("2026-10-25 03:30:00", at(2, 35)).value, Some(300), "the hour after");
    // 2026-03-29: 02:00 becomes 03:00.
    let assertion = judged("2026-03-29 02:30:00", Utc.with_ymd_and_hms(2026, 3, 29, 1, 35, 0).unwrap());
    assert_eq!(assertion.answer, Verdict::Failed);
    assert_eq!(
        assertion.detail,
        "there was no `2026-03-29 02:30:00` in Europe/Berlin: is `timezone` the zone of the rows?"
    );
}
