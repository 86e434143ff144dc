//! What is unusual about a backup: a source whose counts are far from the median of the backups before.
//!
//! The backup after a disaster succeeds: an emptied table is dumped in no time, a bucket whose listing came back empty
//! is mirrored without an error. Retention would then let the good snapshots go, one night after the other. So a count
//! that is far from what it used to be is told, and prune stands still until a person has looked.

use crate::{
    catalog::{Catalog, Run},
    error::Result,
    policy::AnomalyConfig,
    status::{Condition, Kind, Urgency},
};

/// Backups that a count is compared with.
const HISTORY: u32 = 7;
/// With fewer there is no telling what is usual.
const HISTORY_MIN: usize = 3;
/// Below this a count of things is too small for shares to mean anything.
const THINGS_MIN: u64 = 16;
/// The same, for bytes.
const BYTES_MIN: u64 = 64 * 1024;
/// What is compared; entries are not, for an engine may cut tables into pieces in another way.
const COMPARED: [&str; 5] = ["rows", "bytes", "objects", "keys", "files"];

/// Returns the median; of two in the middle the lower one.
fn median(values: &[u64]) -> Option<u64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len().checked_sub(1)? / 2).copied()
}

/// Says how a count differs from what is usual, if it does so too much.
pub fn unusual(config: &AnomalyConfig, what: &str, value: u64, before: &[u64]) -> Option<String> {
    if before.len() < HISTORY_MIN {
        return None;
    }
    let usual = median(before)?;
    let least = if what == "bytes" { BYTES_MIN } else { THINGS_MIN };
    if value == 0 && usual > 0 {
        return Some(format!("no {what} at all, usually {usual}"));
    }
    if value.max(usual) < least {
        return None;
    }
    let share = |percent: u32| u128::from(usual) * u128::from(percent) / 100;
    if u128::from(value) < u128::from(usual).saturating_sub(share(config.shrink_percent)) {
        let percent = (u128::from(usual - value) * 100).div_ceil(u128::from(usual));
        return Some(format!("{value} {what}, usually {usual}: {percent} % less"));
    }
    if config.grow_percent > 0 && u128::from(value) > u128::from(usual) + share(config.grow_percent) {
        let percent = u128::from(value - usual) * 100 / u128::from(usual.max(1));
        return Some(format!("{value} {what}, usually {usual}: {percent} % more"));
    }
    None
}

/// Returns what is unusual about a backup, a condition for each source.
pub fn of_run(ledger: &Catalog, config: &AnomalyConfig, run: &Run) -> Result<Vec<Condition>> {
    let mut told: Vec<(String, Vec<String>)> = Vec::new();
    for count in ledger.counts(run.number)? {
        if !COMPARED.contains(&count.what.as_str()) {
            continue;
        }
        let before = ledger.counts_before(run.number, &count.about, &count.what, HISTORY)?;
        let Some(text) = unusual(config, &count.what, count.value, &before) else { continue };
        match told.iter_mut().find(|(about, _)| *about == count.about) {
            Some((_, texts)) => texts.push(text),
            None => told.push((count.about, vec![text])),
        }
    }
    let condition = |(about, texts): (String, Vec<String>)| {
        Condition {
        kind: Kind::Anomaly,
        urgency: Urgency::Page,
        what: format!("source `{about}` is unusual: {}", texts.join("; ")),
        about,
        hint: Some(
            "Prune stands still. If that is right, run `lifeboat incidents acknowledge NUMBER --note WHY`; if not, \
             restore from an older snapshot: all of them are still there."
                .to_owned(),
        ),
    }
    };
    Ok(told.into_iter().map(condition).collect())
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use proptest::prelude::*;

    use super::*;
    use crate::{
        catalog::Count,
        names::{Job, Task},
    };

    fn tells(what: &str, value: u64, before: &[u64]) -> Option<String> {
        unusual(&AnomalyConfig::default(), what, value, before)
    }

    #[test]
    fn a_source_that_lost_a_third_or_all_is_told_and_one_that_grows_is_not() {
        let week = [1000, 1010, 990, 1005, 1000, 1020, 1030];
        assert_eq!(tells("rows", 1100, &week), None);
        assert_eq!(tells("rows", 704, &week), None);
        assert_eq!(tells("rows", 703, &week).unwrap(), "703 rows, usually 1005: 31 % less");
        assert_eq!(tells("objects", 0, &week).unwrap(), "no objects at all, usually 1005");
        assert_eq!(tells("keys", 6000, &week).unwrap(), "6000 keys, usually 1005: 497 % more");
    }

    #[test]
    fn one_odd_night_does_not_shift_what_is_usual() {
        assert_eq!(tells("rows", 1000, &[0, 1000, 1000, 1000]), None);
        assert!(tells("rows", 3, &[0, 1000, 1000, 1000]).is_some());
    }

    #[test]
    fn what_is_small_or_new_is_not_judged() {
        assert_eq!(tells("keys", 2, &[15, 15, 15]), None);
        assert_eq!(tells("bytes", 900, &[5000, 5000, 5000]), None);
        assert_eq!(tells("rows", 1, &[1000, 1000]), None);
        assert_eq!(tells("keys", 0, &[1, 1, 1]).unwrap(), "no keys at all, usually 1");
        assert_eq!(tells("keys", 0, &[0, 0, 0]), None);
    }

    #[test]
    fn growth_can_be_left_out() {
        let config = AnomalyConfig { grow_percent: 0, ..AnomalyConfig::default() };
        assert_eq!(unusual(&config, "rows", u64::MAX, &[1000; 7]), None);
    }

    #[test]
    fn a_run_is_compared_with_those_before_it_and_told_by_source() {
        let catalog = Catalog::in_memory().unwrap();
        let night = |rows, objects, point| {
            let run = catalog.begin_run(&Task::of(Job::Backup), 1, DateTime::UNIX_EPOCH).unwrap();
            let count =
                |about: &str, what: &str, value| Count { about: about.into(), what: what.into(), value };
            let counts = [
                count("mysql", "rows", rows),
                count("mysql", "bytes", rows * 1000),
                count("mysql", "point", point),
                count("minio", "objects", objects),
            ];
            catalog.note_counts(run, &counts).unwrap();
            let all = catalog.runs(1).unwrap().remove(0);
            of_run(&catalog, &AnomalyConfig::default(), &all).unwrap()
        };
        for night_number in 0..7 {
            assert_eq!(night(1000, 50, night_number * 86_400), []);
        }
        let told = night(10, 50, 8 * 86_400);
        assert_eq!(told.len(), 1);
        assert_eq!(
            told[0].what,
            "source `mysql` is unusual: 10000 bytes, usually 1000000: 99 % less; 10 rows, usually 1000: 99 % less"
        );
    }

    proptest! {
        #[test]
        fn whatever_is_counted_nothing_overflows_and_the_usual_is_usual(
            before in prop::collection::vec(any::<u64>(), 3..8), value in any::<u64>(),
        ) {
            let _ = tells("rows", value, &before);
            let usual = median(&before).unwrap();
            prop_assert_eq!(tells("rows", usual, &before), None);
        }
    }
}
