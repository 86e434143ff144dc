//! Laws for any history and any rules, and the calendar rules once more as a set.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

const ZONES: [Tz; 6] = [
    Tz::UTC,
    Tz::Asia__Shanghai,
    Tz::Europe__Berlin,
    Tz::Asia__Kolkata,
    Tz::Australia__Lord_Howe,
    Tz::America__New_York,
];

fn now() -> DateTime<Utc> {
    at("2025-11-30 12:00", Tz::UTC)
}

/// Snapshots of about two years and a few of the next days, often several a day, sometimes of one second.
fn candidates() -> impl Strategy<Value = Vec<Candidate>> {
    let mark = |percent: u32| prop::bool::weighted(f64::from(percent) / 100.0);
    let minutes = prop_oneof![4 => -3000i64..100, 3 => -60_000i64..0, 3 => -1_100_000i64..0];
    let one = (minutes, mark(15), mark(8), mark(20));
    prop::collection::vec(one, 0..60).prop_map(|all| {
        let made = all.into_iter().zip(0u16..).map(|((minutes, partial, pinned, proven), salt)| {
            // Steps of 20 minutes, so that some meet.
            let made = candidate(now() + TimeDelta::minutes(minutes / 20 * 20), salt);
            Candidate { complete: !partial, pinned, proven, ..made }
        });
        made.collect()
    })
}

fn count() -> impl Strategy<Value = Option<u32>> {
    prop_oneof![2 => Just(None), 1 => Just(Some(0)), 5 => (1u32..12).prop_map(Some)]
}

prop_compose! {
    fn any_rules()(
        counts in prop::collection::vec(count(), 6),
        within in prop::option::weighted(0.3, (1u32..60, prop::sample::select(vec!['h', 'd', 'w', 'm', 'y']))),
        min_keep in 0u32..5,
    ) -> Rules {
        Rules {
            last: counts[0],
            hourly: counts[1],
            daily: counts[2],
            weekly: counts[3],
            monthly: counts[4],
            yearly: counts[5],
            within: within.map(|(count, unit)| Within::parse(&format!("{count}{unit}")).unwrap()),
            min_keep,
            ..Rules::default()
        }
    }
}

fn good_rules() -> impl Strategy<Value = Rules> {
    any_rules().prop_filter("rules that keep nothing are refused", |rules| rules.check().is_ok())
}

fn zones() -> impl Strategy<Value = Tz> {
    prop::sample::select(ZONES.to_vec())
}

fn kept_set(all: &[Candidate], rules: &Rules, zone: Tz) -> BTreeSet<SnapshotId> {
    kept(all, rules, now(), zone).into_iter().collect()
}

fn is_good(candidate: &Candidate) -> bool {
    candidate.complete && candidate.began <= now()
}

/// Returns what a calendar rule keeps, told another way: group by the written period, take the newest of each
/// group, of those the newest so many; with fewer groups than that also the oldest of all.
fn by_groups(all: &[Candidate], format: &str, count: usize, zone: Tz) -> BTreeSet<SnapshotId> {
    let mut groups: BTreeMap<String, (DateTime<Utc>, &SnapshotId)> = BTreeMap::new();
    for candidate in all.iter().filter(|candidate| is_good(candidate)).filter(|candidate| !candidate.pinned) {
        let group = candidate.began.with_timezone(&zone).format(format).to_string();
        let newest = groups.entry(group).or_insert((candidate.began, &candidate.id));
        *newest = (*newest).max((candidate.began, &candidate.id));
    }
    let mut newest: Vec<_> = groups.into_values().collect();
    newest.sort();
    let oldest = all.iter().filter(|candidate| is_good(candidate)).filter(|candidate| !candidate.pinned);
    let oldest =
        oldest.min_by_key(|candidate| (candidate.began, &candidate.id)).filter(|_| newest.len() < count);
    newest
        .iter()
        .rev()
        .take(count)
        .map(|(_, id)| *id)
        .chain(oldest.map(|oldest| &oldest.id))
        .cloned()
        .collect()
}

proptest! {
    #[test]
    fn every_snapshot_is_decided_once_with_a_reason(all in candidates(), rules in good_rules(), zone in zones()) {
        let decided = decide(&all, &rules, now(), zone).unwrap();
        let keep = decided.keep.iter().map(|kept| &kept.id);
        let both: BTreeSet<_> = keep.chain(decided.remove.iter().map(|gone| &gone.id)).collect();
        prop_assert_eq!(both.len(), all.len());
        prop_assert_eq!(decided.keep.len() + decided.remove.len(), all.len());
        prop_assert!(decided.keep.iter().all(|kept| !kept.reasons.is_empty()));
        prop_assert!(all.is_empty() || !decided.keep.is_empty());
    }

    #[test]
    fn what_is_never_removed_is_not(all in candidates(), rules in good_rules(), zone in zones()) {
        let stays = kept_set(&all, &rules, zone);
        let mut good: Vec<&Candidate> = all.iter().filter(|candidate| is_good(candidate)).collect();
        good.sort_by_key(|candidate| std::cmp::Reverse((candidate.began, &candidate.id)));
        let newest = good.iter().take(rules.min_keep as usize).copied();
        let proven = good.iter().find(|candidate| candidate.proven).copied();
        let held = all.iter().filter(|candidate| candidate.pinned || candidate.began > now());
        for candidate in newest.chain(proven).chain(held) {
            prop_assert!(stays.contains(&candidate.id), "{}", candidate.id);
        }
    }

    #[test]
    fn deciding_again_on_what_stayed_removes_nothing_more(
        all in candidates(), rules in good_rules(), zone in zones(),
    ) {
        let stays = kept_set(&all, &rules, zone);
        let left: Vec<Candidate> = all.into_iter().filter(|candidate| stays.contains(&candidate.id)).collect();
        let again = decide(&left, &rules, now(), zone).unwrap();
        prop_assert!(again.remove.is_empty() && again.guards.is_empty(), "{:?}", again);
    }

    #[test]
    fn a_higher_count_never_removes_more(
        all in candidates(), rules in good_rules(), zone in zones(), rule in 0usize..7, more in 1u32..9,
    ) {
        prop_assume!(!rules.is_empty());
        let mut higher = rules.clone();
        let count = match rule {
            0 => &mut higher.last,
            1 => &mut higher.hourly,
            2 => &mut higher.daily,
            3 => &mut higher.weekly,
            4 => &mut higher.monthly,
            5 => &mut higher.yearly,
            _ => &mut Some(0),
        };
        *count = Some(count.unwrap_or(0) + more);
        if rule == 6 {
            higher.min_keep += more;
        }
        prop_assert!(kept_set(&all, &rules, zone).is_subset(&kept_set(&all, &higher, zone)));
    }

    #[test]
    fn the_order_of_any_candidates_does_not_matter(
        (all, turned) in candidates().prop_flat_map(|all| (Just(all.clone()), Just(all).prop_shuffle())),
        rules in any_rules(), zone in zones(),
    ) {
        let (one, other) = (decide(&all, &rules, now(), zone), decide(&turned, &rules, now(), zone));
        prop_assert_eq!(one.ok(), other.ok());
    }

    #[test]
    fn future_and_partial_ones_never_change_what_happens_to_complete_ones(
        all in candidates(), rules in good_rules(), zone in zones(),
    ) {
        let good: Vec<Candidate> = all.iter().filter(|candidate| is_good(candidate)).cloned().collect();
        let alone = kept_set(&good, &rules, zone);
        let mut among = kept_set(&all, &rules, zone);
        among.retain(|id| good.iter().any(|candidate| candidate.id == *id));
        prop_assert_eq!(alone, among);
    }

    #[test]
    fn a_calendar_rule_keeps_what_grouping_by_the_written_period_keeps(
        all in candidates(), count in 1u32..40, zone in zones(),
    ) {
        let all: Vec<Candidate> =
            all.into_iter().map(|candidate| Candidate { proven: false, pinned: false, ..candidate }).collect();
        let none = bare();
        for (format, rules) in [
            ("%F %H %z", Rules { hourly: Some(count), ..none.clone() }),
            ("%F", Rules { daily: Some(count), ..none.clone() }),
            ("%G-%V", Rules { weekly: Some(count), ..none.clone() }),
            ("%Y-%m", Rules { monthly: Some(count), ..none.clone() }),
            ("%Y", Rules { yearly: Some(count), ..none.clone() }),
        ] {
            let mut stays = kept_set(&all, &rules, zone);
            stays.retain(|id| all.iter().filter(|candidate| is_good(candidate)).any(|candidate| candidate.id == *id));
            prop_assert_eq!(stays, by_groups(&all, format, count as usize, zone), "{}", format);
        }
    }

    #[test]
    fn a_pin_uses_up_no_count(all in candidates(), count in 1u32..9, zone in zones()) {
        let rules = Rules { last: Some(count), daily: Some(count), monthly: Some(count), ..bare() };
        let all: Vec<Candidate> = all.into_iter().map(|candidate| Candidate { proven: false, ..candidate }).collect();
        let without: Vec<Candidate> =
            all.iter().filter(|candidate| !(candidate.pinned && is_good(candidate))).cloned().collect();
        let mut among = kept_set(&all, &rules, zone);
        let mut alone = kept_set(&without, &rules, zone);
        for stays in [&mut among, &mut alone] {
            stays.retain(|id| without.iter().any(|candidate| candidate.id == *id && is_good(candidate)));
        }
        prop_assert_eq!(among, alone);
    }
}
