//! What is unusual about a backup: a source whose counts are far from the median of the backups before.
//!
//! The backup after a disaster succeeds: an emptied table is dumped in no time, a bucket whose listing came back empty
//! is mirrored without an error. Retention would then let the good snapshots go, one night after the other. So a count
//! that is far from what it used to be is told, and prune stands still until a person has looked.
//!
//! *Accepting.* A person who acknowledges that accepts what the source has now: until the median has caught up, a count
//! is silent while it is usual beside the accepted one and all that came after it. So a further loss is told anew.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};

use super::backup::GONE;
use crate::{
    catalog::{Catalog, Count, Run},
    error::Result,
    names::{Job, Task},
    policy::AnomalyConfig,
    status::{Condition, Kind, Urgency},
};

/// Backups that a count is compared with.
const HISTORY: u32 = 7;
/// Backups that are looked through for the newest of each source.
const RUNS_BACK: u32 = 20;
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

/// The observation that keeps the run whose counts of a source a person accepted.
fn accepted_name(about: &str) -> String {
    format!("accepted.{about}")
}

/// Returns the newest backup that counted something of a source.
pub fn newest(ledger: &Catalog, about: &str) -> Result<Option<Run>> {
    for run in ledger.runs_of(&Task::of(Job::Backup), RUNS_BACK)? {
        if made_snapshot(&run) && ledger.counts(run.number)?.iter().any(|count| count.about == about) {
            return Ok(Some(run));
        }
    }
    Ok(None)
}

fn made_snapshot(run: &Run) -> bool {
    run.end.as_ref().is_some_and(|end| end.snapshot.is_some())
}

/// Notes that a person accepts what `run` counted of a source.
pub fn accept(ledger: &Catalog, about: &str, run: &Run, now: DateTime<Utc>) -> Result<()> {
    ledger.observe(&accepted_name(about), &run.number, now)
}

/// Returns whether a count is what a person accepted: far from neither the accepted one nor any that came after it, and
/// the median has not had the time to catch up.
fn is_accepted(ledger: &Catalog, config: &AnomalyConfig, run: i64, count: &Count) -> Result<bool> {
    let Some((first, _)) = ledger.observed::<i64>(&accepted_name(&count.about))? else { return Ok(false) };
    if run == first {
        return Ok(true);
    }
    let since = ledger.counts_between(first, run, &count.about, &count.what)?;
    let is_usual =
        |before: &u64| unusual(config, &count.what, count.value, &[*before; HISTORY_MIN]).is_none();
    Ok(!since.is_empty() && since.len() <= HISTORY as usize && since.iter().all(is_usual))
}

/// Returns what is unusual about the newest backup of each source: one of some sources says nothing of the others.
pub fn of_newest(ledger: &Catalog, config: &AnomalyConfig) -> Result<Vec<Condition>> {
    let (mut judged, mut found) = (BTreeSet::new(), Vec::new());
    for run in ledger.runs_of(&Task::of(Job::Backup), RUNS_BACK)?.iter().filter(|run| made_snapshot(run)) {
        found.extend(of_run(ledger, config, run)?.into_iter().filter(|one| !judged.contains(&one.about)));
        judged.extend(ledger.counts(run.number)?.into_iter().map(|count| count.about));
    }
    Ok(found)
}

/// Returns the counts of a backup that are far from what is usual, each with how.
fn unusual_of(ledger: &Catalog, config: &AnomalyConfig, run: i64) -> Result<Vec<(Count, String)>> {
    let mut found = Vec::new();
    for count in ledger.counts(run)?.into_iter().filter(|count| COMPARED.contains(&count.what.as_str())) {
        let before = ledger.counts_before(run, &count.about, &count.what, HISTORY)?;
        found.extend(unusual(config, &count.what, count.value, &before).map(|text| (count, text)));
    }
    Ok(found)
}

/// Returns whether all that a backup left out is gone from sources that have unusually little since: one fact, and the
/// anomaly tells of it, until a person has accepted that.
pub fn tells_of(ledger: &Catalog, config: &AnomalyConfig, run: &Run) -> Result<bool> {
    let mut gone = ledger.counts(run.number)?;
    gone.retain(|count| count.what == GONE);
    let shrunk = unusual_of(ledger, &AnomalyConfig { grow_percent: 0, ..config.clone() }, run.number)?;
    let is_told = |one: &Count| shrunk.iter().any(|(count, _)| count.about == one.about);
    Ok(!gone.is_empty() && gone.iter().all(is_told))
}

/// Returns what is unusual about a backup, a condition for each source.
pub fn of_run(ledger: &Catalog, config: &AnomalyConfig, run: &Run) -> Result<Vec<Condition>> {
    let mut told: Vec<(String, Vec<String>)> = Vec::new();
    for (count, text) in unusual_of(ledger, config, run.number)? {
        if is_accepted(ledger, config, run.number, &count)? {
            continue;
        }
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
        drill: None,
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
    use crate::catalog::RunEnd;

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

    /// A catalog into which nights are played.
    struct Nights(Catalog);

    impl Nights {
        /// Notes a backup with so many rows of these sources, and returns what is told then.
        fn night(&self, rows: &[(&str, u64)]) -> Vec<String> {
            let run = self.0.begin_run(&Task::of(Job::Backup), 1, DateTime::UNIX_EPOCH).unwrap();
            let count = |(about, value): &(&str, u64)| Count {
                about: (*about).into(),
                what: "rows".into(),
                value: *value,
            };
            self.0.note_counts(run, &rows.iter().map(count).collect::<Vec<_>>()).unwrap();
            let end = RunEnd {
                ended: DateTime::UNIX_EPOCH,
                exit: 0,
                snapshot: Some(crate::names::SnapshotId::at(DateTime::UNIX_EPOCH, 1)),
                added_bytes: 0,
                message: None,
                hint: None,
                is_frozen: false,
            };
            self.0.end_run(run, &end).unwrap();
            self.told()
        }

        fn told(&self) -> Vec<String> {
            let told = of_newest(&self.0, &AnomalyConfig::default()).unwrap();
            told.into_iter().map(|one| one.what).collect()
        }

        fn accept(&self, about: &str) {
            let run = newest(&self.0, about).unwrap().unwrap();
            accept(&self.0, about, &run, DateTime::UNIX_EPOCH).unwrap();
        }
    }

    #[test]
    fn what_a_person_accepted_is_silent_and_a_further_loss_is_not() {
        let nights = Nights(Catalog::in_memory().unwrap());
        for _ in 0..7 {
            assert_eq!(nights.night(&[("mysql", 1000)]), [""; 0]);
        }
        assert_eq!(nights.night(&[("mysql", 400)]).len(), 1);
        nights.accept("mysql");
        assert_eq!(nights.told(), [""; 0]);
        assert_eq!(nights.night(&[("mysql", 390)]), [""; 0]);
        assert_eq!(
            nights.night(&[("mysql", 100)]),
            ["source `mysql` is unusual: 100 rows, usually 1000: 90 % less"]
        );
    }

    #[test]
    fn what_was_accepted_counts_no_more_once_the_data_is_back() {
        let nights = Nights(Catalog::in_memory().unwrap());
        for rows in [1000, 1000, 1000, 1000, 400] {
            nights.night(&[("mysql", rows)]);
        }
        nights.accept("mysql");
        assert_eq!(nights.night(&[("mysql", 900)]), [""; 0]);
        assert_eq!(nights.night(&[("mysql", 400)]).len(), 1);
    }

    #[test]
    fn the_median_catches_up_with_what_was_accepted_before_that_ends() {
        let nights = Nights(Catalog::in_memory().unwrap());
        for rows in [1000, 1000, 1000, 1000, 1000, 1000, 1000, 0] {
            nights.night(&[("mysql", rows)]);
        }
        nights.accept("mysql");
        for _ in 0..20 {
            assert_eq!(nights.night(&[("mysql", 0)]), [""; 0]);
        }
    }

    #[test]
    fn a_backup_of_some_sources_hides_nothing_of_the_others() {
        let nights = Nights(Catalog::in_memory().unwrap());
        for _ in 0..4 {
            nights.night(&[("mysql", 1000), ("redis", 50)]);
        }
        assert_eq!(nights.night(&[("mysql", 10), ("redis", 50)]).len(), 1);
        assert_eq!(nights.night(&[("redis", 50)]).len(), 1);
        assert_eq!(nights.night(&[("mysql", 1000)]), [""; 0]);
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
