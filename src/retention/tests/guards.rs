//! Mistakes and attacks that a person has to look at first, and everyday prunes that must not ask.

use chrono::Days;

use super::*;

fn nights(count: u64) -> Vec<Candidate> {
    let first = at("2025-01-01 02:00", Tz::UTC);
    (0..count).map(|night| candidate(first + Days::new(night), 0)).collect()
}

/// Adds `count` snapshots in the two hours after the newest, one every second minute or so.
fn burst(all: &mut Vec<Candidate>, count: u16) -> DateTime<Utc> {
    let newest = all.iter().map(|candidate| candidate.began).max().unwrap();
    let step = TimeDelta::seconds(7200 / i64::from(count));
    all.extend((1..=count).map(|n| candidate(newest + step * i32::from(n), n)));
    newest + TimeDelta::hours(3)
}

fn guards(all: &[Candidate], rules: &Rules, now: DateTime<Utc>) -> Vec<String> {
    decide(all, rules, now, Tz::UTC).unwrap().guards.iter().map(ToString::to_string).collect()
}

fn rules(text: &str) -> Rules {
    Rules { remove_percent_max: 30, ..super::rules(text) }
}

#[test]
fn a_large_share_asks_and_a_single_one_never() {
    let told =
        |nights: &[Candidate], last: &str| guards(nights, &rules(last), at("2026-01-01 00:00", Tz::UTC));
    let none: [&str; 0] = [];
    assert_eq!(told(&nights(4), "last 3"), none, "1 of 4");
    assert_eq!(told(&nights(2), "last 1"), none, "1 of 2");
    assert_eq!(told(&nights(4), "last 2"), ["2 of 4 snapshots would go, more than 30 %"]);
    assert_eq!(told(&nights(10), "last 7"), none, "30 % is not more than 30 %");
    assert_eq!(told(&nights(10), "last 6"), ["4 of 10 snapshots would go, more than 30 %"]);
    let rules = Rules { remove_percent_max: 100, ..rules("last 1") };
    assert_eq!(guards(&nights(100), &rules, at("2026-01-01 00:00", Tz::UTC)), none);
}

#[test]
fn future_dated_ones_do_not_make_the_share_small() {
    let mut all = nights(10);
    let now = at("2025-01-10 03:00", Tz::UTC);
    all.extend((0..90).map(|n| candidate(now + TimeDelta::minutes(1), n)));
    assert_eq!(guards(&all, &rules("last 5"), now), ["5 of 10 snapshots would go, more than 30 %"]);
}

#[test]
fn a_burst_that_fills_last_asks() {
    let mut all = nights(7);
    let now = burst(&mut all, 7);
    let told = guards(&all, &Rules { remove_percent_max: 50, ..rules("last 7") }, now);
    assert_eq!(
        told,
        [
            "the newest 24 h fill `last = 7` and 6 older snapshots would go",
            "with the newest 24 h counted as one snapshot, 6 of 7 would go, more than 50 %",
        ]
    );
    // A rule that reaches farther back holds on to older days.
    let told = guards(&all, &rules("last 7, daily 7"), now);
    assert!(told.is_empty(), "{told:?}");
}

#[test]
fn new_ones_do_not_make_the_share_of_old_ones_small() {
    let mut all = nights(8);
    let now = burst(&mut all, 40);
    // 6 of 48 would be an eighth.
    let mut rules = rules("last 40, weekly 2");
    assert_eq!(
        guards(&all, &rules, now),
        ["with the newest 24 h counted as one snapshot, 6 of 8 would go, more than 30 %"]
    );
    rules.remove_percent_max = 75;
    assert!(guards(&all, &rules, now).is_empty());
}

#[test]
fn a_hundred_snapshots_in_a_day_are_a_schedule_and_more_are_a_flood() {
    for (count, partial) in [(99, false), (100, false), (100, true)] {
        let mut all = nights(5);
        let now = burst(&mut all, count);
        for candidate in
            all.iter_mut().filter(|candidate| partial && candidate.id.as_str() > "20250105T020001Z")
        {
            candidate.complete = false;
        }
        let rules = Rules { remove_percent_max: 100, ..rules("last 2, daily 4") };
        let told = guards(&all, &rules, now);
        if count == 99 {
            assert!(told.is_empty(), "{told:?}");
        } else {
            assert_eq!(told, ["101 snapshots lie within the 24 h until 2025-01-05T04:00:00Z, more than 100"]);
        }
    }
}

#[test]
fn a_flood_of_long_ago_is_found_as_well() {
    let mut all = nights(2);
    burst(&mut all, 150);
    all.extend((0..20).map(|day| candidate(at("2025-02-01 02:00", Tz::UTC) + Days::new(day), 0)));
    let rules = Rules { remove_percent_max: 100, ..rules("daily 21") };
    let decided = decide(&all, &rules, at("2025-03-01 00:00", Tz::UTC), Tz::UTC).unwrap();
    let Guard::Flood(Flood::Day { count, until }) = decided.guards[0] else { panic!("{:?}", decided.guards) };
    assert_eq!((count, until), (151, at("2025-01-02 04:00", Tz::UTC)));
}

#[test]
fn a_flood_that_removes_nothing_is_nobodys_trouble() {
    let mut all = nights(3);
    let now = burst(&mut all, 150);
    assert!(guards(&all, &rules("last 500"), now).is_empty());
}

#[test]
fn two_nightly_runs_within_a_day_are_no_flood() {
    let mut all = nights(3);
    all[2].began -= TimeDelta::seconds(5);
    let now = at("2025-01-04 00:00", Tz::UTC);
    for text in ["last 1", "last 2"] {
        let rules = Rules { remove_percent_max: 100, ..rules(text) };
        assert!(guards(&all, &rules, now).is_empty(), "{text}");
    }
}

#[test]
fn partial_ones_neither_fill_last_nor_are_history_that_is_lost() {
    let text = "2025-01-01 02:00\n2025-01-02 02:00\n2025-01-02 03:00 partial\n2025-01-02 04:00 partial\n";
    let now = at("2025-01-20 00:00", Tz::UTC);
    assert!(guards(&history(text, Tz::UTC), &rules("last 1, min_keep 1"), now).is_empty());
    let text = "2025-01-01 02:00 partial\n2025-01-10 01:00\n2025-01-10 02:00\n2025-01-10 03:00\n";
    let all = history(text, Tz::UTC);
    assert_eq!(decide(&all, &rules("last 3"), now, Tz::UTC).unwrap().remove[0].id, all[0].id);
    assert!(guards(&all, &rules("last 3"), now).is_empty());
}
