//! Room: how much of it is free, and how long it lasts.
//!
//! The forecast is a pure function of what was free before. It goes by the median of all slopes between two looks, so
//! a single large backup, or one clean-up, moves it little.

use std::path::{Path, PathBuf};

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use super::{FOLDER_LIMIT, Looking, ask_folder};
use crate::{
    catalog::Catalog,
    error::{Context, ExitCode, Failure, Result},
    finding::{Finding, Status, laws},
    names::{ByteCount, Job, Task},
};

laws! {
    page "room";
    FREE_NOW = "place.room",
        "there is room for the next packs",
        "Free space, or move it to a larger disk.";
    FORECAST = "place.forecast",
        "the disk lasts for another month",
        "Free space, add a disk, or keep fewer snapshots: `lifeboat prune` shows what would go.";
}

/// What is counted of a place at each look.
pub(super) const FREE: &str = "free_bytes";
/// With less than this free the next pack may be the one that does not fit.
const ROOM_MIN_BYTES: u64 = 64 * 1024 * 1024;
/// With a smaller share free a person should look.
const ROOM_MIN_PERCENT: u64 = 10;
/// What was seen longer ago says little about tomorrow.
const HISTORY: TimeDelta = TimeDelta::days(60);
/// With less history nothing is foretold.
const HISTORY_MIN: TimeDelta = TimeDelta::days(3);
/// Looks that are compared with each other.
const LOOKS_MAX: usize = 200;
/// Days below which a person should look, and below which it is late.
const DAYS: (u64, u64) = (30, 7);
/// Days beyond which a disk counts as large enough.
const DAYS_MAX: f64 = 3650.0;

/// How much room a place has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Room {
    /// Bytes that are free.
    pub free_bytes: u64,
    /// Bytes that there are.
    pub total_bytes: u64,
    /// Days until it is full, if it goes on as it did; `None` where that is not known, or where it does not fill.
    pub full_in_days: Option<u64>,
}

/// Looks at the file system of `folder`. `extra` is told with what is free.
pub(super) async fn look(
    looking: Looking<'_>,
    place: &str,
    folder: PathBuf,
    extra: &str,
) -> (Vec<Finding>, Option<Room>) {
    let shown = folder.display().to_string();
    let measured = ask_folder(FOLDER_LIMIT, move || measure(&folder)).await;
    told(looking, place, measured.unwrap_or_else(|| Err(silent(&shown))), extra)
}

fn silent(folder: &str) -> Failure {
    let what = format!("the file system of `{folder}` has not answered for {} s", FOLDER_LIMIT.as_secs());
    Failure::new(ExitCode::Failed, what).hint("Look whether the server that it is mounted from is there.")
}

/// Tells what was measured, and what it means for the days to come.
fn told(
    looking: Looking<'_>,
    place: &str,
    measured: Result<(u64, u64)>,
    extra: &str,
) -> (Vec<Finding>, Option<Room>) {
    let (free_bytes, total_bytes) = match measured {
        Ok(measured) => measured,
        Err(failure) => return (vec![FREE_NOW.failed(Status::Unknown, &failure)], None),
    };
    let detail = format!("{} of {} are free{extra}", ByteCount(free_bytes), ByteCount(total_bytes));
    let mut findings = vec![FREE_NOW.found(enough(free_bytes, total_bytes), detail)];
    let now = looking.ground.clock.now();
    let forecast = forecast(&history(looking.history, place, free_bytes, now), free_bytes);
    findings.push(judge(forecast));
    let full_in_days = match forecast {
        Forecast::FullIn(days) => Some(days),
        Forecast::Unknown | Forecast::Lasts => None,
    };
    (findings, Some(Room { free_bytes, total_bytes, full_in_days }))
}

fn measure(folder: &Path) -> Result<(u64, u64)> {
    let stat = rustix::fs::statvfs(folder).failed(ExitCode::Failed, || {
        format!("the file system of `{}` does not tell its size", folder.display())
    })?;
    Ok((stat.f_bavail.saturating_mul(stat.f_frsize), stat.f_blocks.saturating_mul(stat.f_frsize)))
}

/// Judges how much room is left.
fn enough(free_bytes: u64, all_bytes: u64) -> Status {
    if free_bytes < ROOM_MIN_BYTES {
        Status::Broken
    } else if free_bytes < all_bytes / 100 * ROOM_MIN_PERCENT {
        Status::Warn
    } else {
        Status::Ok
    }
}

type Seen = Vec<(DateTime<Utc>, f64)>;

/// Returns what was free at each look, this one last. Where the looks do not reach back far enough, what backups added
/// to the repository stands in for them.
fn history(catalog: Option<&Catalog>, place: &str, free_bytes: u64, now: DateTime<Utc>) -> Seen {
    let Some(catalog) = catalog else { return Vec::new() };
    let since = now - HISTORY;
    // What cannot be read is as what was never seen.
    let looks = catalog.counted_since(place, FREE, since).unwrap_or_default();
    let mut seen: Seen = looks.into_iter().map(|(at, bytes)| (at, bytes as f64)).collect();
    seen.push((now, free_bytes as f64));
    if place != super::REPOSITORY || reaches_back(&seen) {
        return seen;
    }
    let limit = u32::try_from(LOOKS_MAX).unwrap_or(u32::MAX);
    let mut runs = catalog.runs_of(&Task::of(Job::Backup), limit).unwrap_or_default();
    runs.retain(|run| run.began >= since);
    let mut free = free_bytes as f64;
    let mut seen = vec![(now, free)];
    for run in runs {
        seen.push((run.began, free));
        free += run.end.map_or(0, |end| end.added_bytes) as f64;
    }
    seen.reverse();
    seen
}

fn reaches_back(seen: &Seen) -> bool {
    matches!((seen.first(), seen.last()), (Some(first), Some(last)) if last.0 - first.0 >= HISTORY_MIN)
}

/// How long a disk lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Forecast {
    /// Too little was seen so far.
    Unknown,
    /// It does not fill, or not within years.
    Lasts,
    /// It is full in so many days.
    FullIn(u64),
}

/// Tells how long what is free lasts, by the median of the slopes between all looks.
fn forecast(seen: &Seen, free_bytes: u64) -> Forecast {
    if !reaches_back(seen) {
        return Forecast::Unknown;
    }
    let step = seen.len().div_ceil(LOOKS_MAX).max(1);
    let looks: Seen = seen.iter().rev().step_by(step).copied().collect();
    let mut slopes = Vec::new();
    for (at, later) in looks.iter().enumerate() {
        for earlier in &looks[at + 1..] {
            let days = (later.0 - earlier.0).as_seconds_f64() / 86_400.0;
            // Two looks on one day tell of the day's own ups and downs.
            if days >= 0.5 {
                slopes.push((later.1 - earlier.1) / days);
            }
        }
    }
    slopes.sort_by(f64::total_cmp);
    let Some(slope) = slopes.get(slopes.len() / 2) else { return Forecast::Unknown };
    let days = free_bytes as f64 / -slope;
    if *slope >= 0.0 || days > DAYS_MAX {
        return Forecast::Lasts;
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is from 0 to DAYS_MAX")]
    Forecast::FullIn(days as u64)
}

fn judge(forecast: Forecast) -> Finding {
    match forecast {
        Forecast::Unknown => FORECAST
            .found(Status::Unknown, "not known before three days of looks")
            .hint("Nothing yet: let `lifeboat doctor` look once a day."),
        Forecast::Lasts => FORECAST.ok("it does not fill"),
        Forecast::FullIn(days) => {
            let status = match days {
                days if days < DAYS.1 => Status::Broken,
                days if days < DAYS.0 => Status::Warn,
                _ => Status::Ok,
            };
            Finding { figure: Some(days as f64), ..FORECAST.found(status, format!("full in {days} days")) }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{catalog::RunEnd, jobs::doctor::REPOSITORY};

    const GIB: u64 = 1 << 30;

    fn at(day: f64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::milliseconds((day * 86_400_000.0) as i64)
    }

    fn seen(days: &[(f64, u64)]) -> Seen {
        days.iter().map(|(day, free)| (at(*day), *free as f64)).collect()
    }

    #[test]
    fn room_is_judged_by_bytes_and_by_share() {
        for (free_bytes, all_bytes, status) in [
            (50 * GIB, 100 * GIB, Status::Ok),
            (9 * GIB, 100 * GIB, Status::Warn),
            (ROOM_MIN_BYTES, 100 * GIB, Status::Warn),
            (ROOM_MIN_BYTES - 1, ROOM_MIN_BYTES, Status::Broken),
            (0, 0, Status::Broken),
        ] {
            assert_eq!(enough(free_bytes, all_bytes), status, "{free_bytes} of {all_bytes}");
        }
    }

    #[test]
    fn a_file_system_that_does_not_answer_is_unknown_and_named() {
        let found = FREE_NOW.failed(Status::Unknown, &silent("/mnt/nas"));
        assert_eq!(found.detail, "the file system of `/mnt/nas` has not answered for 20 s");
        assert!(found.hint.unwrap().contains("mounted"));
    }

    #[test]
    fn nothing_is_foretold_from_less_than_three_days() {
        assert_eq!(forecast(&Vec::new(), 5), Forecast::Unknown);
        assert_eq!(forecast(&seen(&[(0.0, 100), (2.9, 10)]), 10), Forecast::Unknown);
        assert_eq!(forecast(&seen(&[(0.0, 100), (3.0, 70)]), 70), Forecast::FullIn(7));
    }

    #[test]
    fn one_clean_up_and_one_large_backup_move_the_forecast_little() {
        let mut days: Vec<(f64, u64)> = (0..20).map(|day| (f64::from(day), 1000 - 10 * day as u64)).collect();
        assert_eq!(forecast(&seen(&days), 810), Forecast::FullIn(81));
        days[10].1 = 5000;
        days[15].1 = 1;
        assert_eq!(forecast(&seen(&days), 810), Forecast::FullIn(81));
    }

    #[test]
    fn what_backups_added_stands_in_for_looks_that_reach_back_too_little() {
        let catalog = Catalog::in_memory().unwrap();
        for day in 0..6 {
            let run = catalog.begin_run(&Task::of(Job::Backup), 1, at(f64::from(day))).unwrap();
            let end = RunEnd {
                ended: at(f64::from(day)),
                exit: 0,
                snapshot: None,
                added_bytes: 100,
                message: None,
                hint: None,
                is_frozen: false,
            };
            catalog.end_run(run, &end).unwrap();
        }
        let seen = history(Some(&catalog), REPOSITORY, 1000, at(5.5));
        assert_eq!(forecast(&seen, 1000), Forecast::FullIn(10));
        assert_eq!(forecast(&history(Some(&catalog), "oss", 1000, at(5.5)), 1000), Forecast::Unknown);
        assert_eq!(forecast(&history(None, REPOSITORY, 1000, at(5.5)), 1000), Forecast::Unknown);
    }

    #[test]
    fn a_disk_that_does_not_fill_lasts() {
        assert_eq!(forecast(&seen(&[(0.0, 10), (4.0, 10)]), 10), Forecast::Lasts);
        assert_eq!(forecast(&seen(&[(0.0, 10), (4.0, 50)]), 50), Forecast::Lasts);
        assert_eq!(forecast(&seen(&[(0.0, 1_000_001), (4.0, 1_000_000)]), 1_000_000), Forecast::Lasts);
    }

    #[test]
    fn a_month_is_enough_and_a_week_is_late() {
        for (days, status) in [
            (30, Status::Ok),
            (29, Status::Warn),
            (7, Status::Warn),
            (6, Status::Broken),
            (0, Status::Broken),
        ] {
            assert_eq!(judge(Forecast::FullIn(days)).status, status, "{days}");
        }
        assert_eq!(judge(Forecast::Unknown).status, Status::Unknown);
    }

    proptest! {
        #[test]
        fn no_history_makes_it_panic_or_foretell_years(
            history in prop::collection::vec((0.0_f64..60.0, 0_u64..1 << 50), 0..300),
            free in 0_u64..1 << 50,
        ) {
            let mut history = seen(&history);
            history.sort_by_key(|one| one.0);
            if let Forecast::FullIn(days) = forecast(&history, free) {
                prop_assert!(days <= 3650);
            }
        }
    }
}
