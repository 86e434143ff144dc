//! Rules and their combinations, on one history with gaps, several snapshots a day and two of one second.

use super::*;

/// Two years: year borders, a leap day, nothing for months, then every few days, then several a day.
const IRREGULAR: &str = "
    2023-12-30 22:00
    2023-12-31 22:00
    2024-01-01 06:00
    2024-02-29 12:00
    2024-03-31 12:00
    2024-12-28 09:00
    2024-12-29 09:00
    2024-12-30 09:00
    2024-12-31 09:00
    2025-01-01 09:00
    2025-01-05 09:00
    2025-01-06 09:00
    2025-05-31 23:59
    2025-06-01 00:00
    2025-08-08 10:20
    2025-08-10 10:20
    2025-08-13 10:20
    2025-08-13 10:20
    2025-08-15 10:20
    2025-08-18 10:20
    2025-08-22 10:20
    2025-09-20 10:20
    2025-09-22 10:20
    2025-10-01 10:20
    2025-10-02 10:20
    2025-10-05 10:20
    2025-10-06 10:20
    2025-10-20 10:20
    2025-10-24 12:28
    2025-11-08 10:20
    2025-11-13 10:20
    2025-11-15 10:20
    2025-11-17 12:00
    2025-11-18 12:00
    2025-11-20 01:00
    2025-11-20 01:30
    2025-11-20 07:00
    2025-11-22 10:23
    2025-11-22 11:23
    2025-11-22 12:23
    2025-11-22 12:24
    2025-11-22 12:28
    2025-11-22 16:23
    2025-11-23 09:02
    2025-11-24 12:28
";

/// Returns a table for each combination, only of what stays.
fn tables(cases: &[&str]) -> String {
    let all = history(IRREGULAR, Tz::UTC);
    let now = at("2025-11-30 00:00", Tz::UTC);
    let mut text = String::new();
    for case in cases {
        let table = table(&all, &rules(case), now, Tz::UTC);
        let kept: Vec<&str> = table.lines().filter(|line| line.contains("  keep ")).collect();
        writeln!(text, "== {case}: {} of {} stay\n{}\n", kept.len(), all.len(), kept.join("\n")).unwrap();
    }
    text
}

#[test]
fn last_counts_snapshots() {
    insta::assert_snapshot!(tables(&["last 1", "last 3", "last 10", "last 44", "last 99"]));
}

#[test]
fn calendar_rules_count_periods_that_have_snapshots() {
    insta::assert_snapshot!(tables(&[
        "hourly 5",
        "hourly 20",
        "daily 1",
        "daily 3",
        "daily 10",
        "weekly 2",
        "weekly 4",
        "monthly 6",
        "yearly 2",
    ]));
}

#[test]
fn a_rule_that_is_not_full_keeps_the_oldest_as_well() {
    insta::assert_snapshot!(tables(&["yearly 3", "yearly 4", "yearly 10", "monthly 99", "weekly 99"]));
}

#[test]
fn rules_are_added_to_each_other() {
    insta::assert_snapshot!(tables(&[
        "last 5, daily 5",
        "last 2, daily 10",
        "hourly 4, daily 4",
        "daily 3, weekly 4",
        "daily 2, weekly 2, monthly 6",
        "daily 7, weekly 2, monthly 3, yearly 10",
        "last 0, daily 2",
        "within 1d, weekly 2",
    ]));
}

#[test]
fn within_is_measured_from_the_newest() {
    insta::assert_snapshot!(tables(&[
        "within 1h",
        "within 27h",
        "within 28h",
        "within 1d",
        "within 2d",
        "within 7d",
        "within 2w",
        "within 1m",
        "within 6m",
        "within 1y",
    ]));
}

#[test]
fn the_order_of_the_candidates_does_not_matter() {
    let all = history(IRREGULAR, Tz::UTC);
    let mut turned = all.clone();
    turned.reverse();
    turned.rotate_left(17);
    let (rules, now) = (rules("last 3, daily 5, monthly 4, within 9d"), at("2025-11-22 12:30", Tz::UTC));
    assert_eq!(decide(&all, &rules, now, Tz::UTC).unwrap(), decide(&turned, &rules, now, Tz::UTC).unwrap());
}
