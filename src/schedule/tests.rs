//! Slots over changes of clocks, sleeps and wrong clocks.

use chrono::TimeZone;
use proptest::prelude::*;

use super::*;

fn utc(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

fn cron(fields: &str, zone: &str) -> Cron {
    Cron::parse(fields, zone.parse().unwrap()).unwrap()
}

fn slots(fields: &str, zone: &str, from: &str, count: usize) -> Vec<String> {
    let zone_of: Tz = zone.parse().unwrap();
    let slots = cron(fields, zone).after(utc(from)).take(count).collect::<Vec<_>>();
    slots.into_iter().map(|slot| slot.with_timezone(&zone_of).to_rfc3339()).collect()
}

#[test]
fn a_time_that_the_clocks_skip_runs_once_when_they_have() {
    // 2026-03-08 02:00 to 03:00 does not exist in New York, 2026-03-29 02:00 to 03:00 not in Berlin.
    assert_eq!(
        slots("30 2 * * *", "America/New_York", "2026-03-07T00:00:00Z", 3),
        ["2026-03-07T02:30:00-05:00", "2026-03-08T03:00:00-04:00", "2026-03-09T02:30:00-04:00"]
    );
    assert_eq!(
        slots("0 2 * * *", "Europe/Berlin", "2026-03-27T12:00:00Z", 3),
        ["2026-03-28T02:00:00+01:00", "2026-03-29T03:00:00+02:00", "2026-03-30T02:00:00+02:00"]
    );
}

#[test]
fn a_time_that_comes_twice_runs_once() {
    assert_eq!(
        slots("30 1 * * *", "America/New_York", "2026-10-31T00:00:00Z", 3),
        ["2026-10-31T01:30:00-04:00", "2026-11-01T01:30:00-04:00", "2026-11-02T01:30:00-05:00"]
    );
    assert_eq!(
        slots("0 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", 2),
        ["2026-10-25T02:00:00+02:00", "2026-10-26T02:00:00+01:00"]
    );
}

#[test]
fn every_half_hour_goes_on_through_a_change_of_clocks() {
    let instants: Vec<_> =
        cron("*/30 * * * *", "America/New_York").after(utc("2026-11-01T04:00:00Z")).take(8).collect();
    for two in instants.windows(2) {
        assert_eq!(two[1] - two[0], Duration::minutes(30), "{two:?}");
    }
}

#[test]
fn the_longest_time_between_slots_counts_nights_and_weekends_whenever_it_is_asked_for() {
    for hour in 0..24 {
        let now = utc("2026-11-23T00:07:00Z") + Duration::hours(hour);
        let longest = |fields: &str| cron(fields, "UTC").interval_max(now).unwrap();
        assert_eq!(longest("*/15 8-18 * * *"), Duration::minutes(13 * 60 + 15), "{now}");
        assert_eq!(longest("*/15 8-18 * * 1-5"), Duration::minutes(48 * 60 + 13 * 60 + 15), "{now}");
        assert_eq!(longest("0-40 * * * *"), Duration::minutes(20), "{now}");
        assert_eq!(longest("* * * * *"), Duration::minutes(1), "{now}");
        assert_eq!(longest("0 2 * * 0"), Duration::days(7), "{now}");
    }
}

proptest! {
    #[test]
    fn the_longest_time_between_slots_is_that_of_all_of_them(
        minutes in prop::collection::btree_set(0_u8..60, 1..6),
        hours in prop::collection::btree_set(0_u8..24, 1..24),
        asked in 0_i64..20_000,
    ) {
        let list = |of: &BTreeSet<u8>| of.iter().map(u8::to_string).collect::<Vec<_>>().join(",");
        let cron = cron(&format!("{} {} * * *", list(&minutes), list(&hours)), "UTC");
        let now = utc("2026-11-23T00:00:00Z") + Duration::minutes(asked);
        let slots: Vec<_> = cron.after(now).take_while(|slot| *slot < now + Duration::days(3)).collect();
        let longest = slots.windows(2).map(|two| two[1] - two[0]).max();
        prop_assert_eq!(cron.interval_max(now), longest);
    }
}

#[test]
fn shanghai_has_no_odd_days() {
    let nights = slots("0 2 * * *", "Asia/Shanghai", "2026-11-22T18:00:00Z", 2);
    assert_eq!(nights, ["2026-11-24T02:00:00+08:00", "2026-11-25T02:00:00+08:00"]);
}

#[test]
fn what_is_no_time_of_a_schedule_is_refused() {
    for fields in ["", "0 2 * *", "0 25 * * *", "0 0 31 2 *", "60 * * * *", "* * * * * *", "two o'clock"] {
        assert!(Cron::parse(fields, Tz::UTC).is_err(), "{fields}");
    }
}

#[test]
fn the_interval_is_the_longest_of_an_uneven_schedule() {
    let now = utc("2026-11-22T00:00:00Z");
    assert_eq!(cron("0 2 * * 1-5", "UTC").interval_max(now), Some(Duration::days(3)));
    assert_eq!(cron("0 3 1 * *", "UTC").interval_max(now), Some(Duration::days(31)));
    assert_eq!(cron("0 2 * * *", "Asia/Shanghai").interval_max(now), Some(Duration::days(1)));
}

#[test]
fn jitter_stays_within_its_limit_and_is_thrown_once() {
    let slot = utc("2026-11-22T02:00:00Z");
    let thrown: BTreeSet<i64> =
        (0..200).map(|host| jitter(&format!("host{host} backup"), slot, 300).num_seconds()).collect();
    assert!(thrown.len() > 80, "{thrown:?}");
    assert!(thrown.iter().all(|seconds| (0..=300).contains(seconds)));
    assert_eq!(jitter("a", slot, 300), jitter("a", slot, 300));
    assert_eq!(jitter("a", slot, 0), Duration::zero());
}

/// What is due of a nightly task.
fn nightly(accounted: &[&str], since: &str, now: &str) -> Due {
    let accounted = accounted.iter().map(|slot| utc(slot)).collect();
    due(&cron("0 2 * * *", "UTC"), &accounted, utc(since), |_| Duration::zero(), true, utc(now))
}

#[test]
fn a_slot_runs_when_its_time_comes_and_not_again() {
    let began = "2026-11-20T12:00:00Z";
    assert_eq!(nightly(&[], began, "2026-11-21T01:59:59Z"), Due::default());
    let on_time = Due { missed: vec![], run: Some((utc("2026-11-21T02:00:00Z"), false)) };
    assert_eq!(nightly(&[], began, "2026-11-21T02:00:00Z"), on_time);
    assert_eq!(nightly(&["2026-11-21T02:00:00Z"], began, "2026-11-21T02:00:01Z"), Due::default());
}

#[test]
fn nights_that_the_host_slept_through_are_made_up_for_once_and_named() {
    let due = nightly(&["2026-11-18T02:00:00Z"], "2026-11-01T00:00:00Z", "2026-11-21T09:30:00Z");
    assert_eq!(due.run, Some((utc("2026-11-21T02:00:00Z"), true)));
    assert_eq!(due.missed, [utc("2026-11-19T02:00:00Z"), utc("2026-11-20T02:00:00Z")]);
}

#[test]
fn a_first_start_owes_nothing() {
    assert_eq!(nightly(&[], "2026-11-21T09:30:00Z", "2026-11-21T09:30:00Z"), Due::default());
}

#[test]
fn where_nothing_is_made_up_for_a_late_slot_is_missed() {
    let accounted = BTreeSet::from([utc("2026-11-20T02:00:00Z")]);
    let due = |now: &str| {
        due(&cron("0 2 * * *", "UTC"), &accounted, utc(now), |_| Duration::zero(), false, utc(now))
    };
    assert_eq!(due("2026-11-21T02:04:00Z").run, Some((utc("2026-11-21T02:00:00Z"), false)));
    assert_eq!(due("2026-11-21T03:00:00Z"), Due { missed: vec![utc("2026-11-21T02:00:00Z")], run: None });
}

#[test]
fn a_clock_that_was_set_back_runs_no_slot_twice_and_one_that_was_years_ahead_stops_nothing() {
    let known = ["2026-11-20T02:00:00Z", "2026-11-21T02:00:00Z"];
    assert_eq!(nightly(&known, "2026-11-01T00:00:00Z", "2026-11-21T01:30:00Z"), Due::default());
    assert_eq!(nightly(&known, "2026-11-01T00:00:00Z", "2026-11-21T02:00:30Z"), Due::default());
    let odd = ["2026-11-20T02:00:00Z", "2031-01-01T02:00:00Z"];
    let due = nightly(&odd, "2026-11-01T00:00:00Z", "2026-11-21T02:00:30Z");
    assert_eq!(due.run, Some((utc("2026-11-21T02:00:00Z"), false)));
    // The very first watch was by a clock that was ahead.
    assert_eq!(nightly(&[], "2031-01-01T00:00:00Z", "2026-11-21T02:00:30Z"), Due::default());
}

#[test]
fn a_run_that_chance_puts_off_waits_and_is_not_late() {
    let accounted = BTreeSet::from([utc("2026-11-20T02:00:00Z")]);
    let put_off = |_| Duration::minutes(20);
    let due = |now: &str| due(&cron("0 2 * * *", "UTC"), &accounted, utc(now), put_off, true, utc(now));
    assert_eq!(due("2026-11-21T02:19:59Z"), Due::default());
    assert_eq!(due("2026-11-21T02:20:00Z").run, Some((utc("2026-11-21T02:00:00Z"), false)));
}

#[test]
fn a_year_of_minutes_is_named_in_part_and_quickly() {
    let accounted = BTreeSet::from([utc("2026-01-01T00:00:00Z")]);
    let now = utc("2026-03-01T00:00:10Z");
    let due = due(&cron("* * * * *", "UTC"), &accounted, now, |_| Duration::zero(), true, now);
    assert_eq!(due.run, Some((utc("2026-03-01T00:00:00Z"), false)));
    assert_eq!(due.missed.len(), MISSED_MAX);
    assert_eq!(due.missed.last(), Some(&utc("2026-02-28T23:59:00Z")));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// However the host sleeps and its clock jumps, no slot is accounted for twice, and none that a steady clock passed
    /// is left out.
    #[test]
    fn every_slot_is_accounted_for_once(
        steps in prop::collection::vec((-90_i64..400, any::<bool>()), 1..80),
        zone in prop::sample::select(vec!["UTC", "America/New_York", "Europe/Berlin", "Asia/Shanghai"]),
    ) {
        let cron = cron("15 */2 * * *", zone);
        let begin = Utc.with_ymd_and_hms(2026, 10, 24, 12, 0, 0).unwrap();
        let (mut now, mut highest, mut accounted) = (begin, begin, BTreeSet::new());
        for (minutes, makes_up) in steps {
            now = (now + Duration::minutes(minutes)).max(begin);
            highest = highest.max(now);
            let due = due(&cron, &accounted, begin, |slot| jitter("x", slot, 120), makes_up, now);
            let run = due.run.map(|(slot, _)| slot);
            for slot in due.missed.into_iter().chain(run) {
                prop_assert!(slot <= now);
                prop_assert!(accounted.insert(slot), "{slot} twice");
            }
        }
        now = highest + Duration::hours(1);
        let last = due(&cron, &accounted, begin, |slot| jitter("x", slot, 120), true, now);
        accounted.extend(last.missed.into_iter().chain(last.run.map(|(slot, _)| slot)));
        let newest = accounted.last().copied().unwrap_or(begin);
        let all: BTreeSet<_> = cron.after(begin).take_while(|slot| *slot <= newest).collect();
        prop_assert_eq!(accounted, all);
    }
}
