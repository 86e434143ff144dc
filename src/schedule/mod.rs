//! When tasks run: cron fields in a place's own time, and what is due now.
//!
//! Pure: instants come as arguments, nothing is remembered. What becomes of a slot is the catalog's to keep and the
//! service's to do.
//!
//! A *slot* is an instant at which a task was to run. Whoever asks says which slots are accounted for; [`due`] says
//! what is to be done about the others: one is run, what lies before it was missed. So a night that the host slept
//! through is made up for once and not five times, and the slots that nobody kept are known by name.

use std::collections::BTreeSet;

use chrono::{DateTime, Duration, Utc};
use chrono_tz::Tz;
use croner::{
    Cron as Pattern,
    parser::{CronParser, Seconds, Year},
};
use sha2::{Digest, Sha256};

/// Slots that are counted one by one when a host was away; of a longer time only the newest are named.
pub const MISSED_MAX: usize = 500;
/// A slot that is found this long after its time was missed and is made up for; before that it is on time.
pub const LATE_AFTER: Duration = Duration::minutes(5);
/// How many slots ahead are looked at, at least, to find the longest time between two.
const SLOTS_AHEAD: usize = 40;
/// The same, of a schedule with many slots a day: whatever the minutes are, an hour's end is among them.
const SLOTS_AHEAD_DENSE: usize = 62;
/// How far ahead is looked at least: a night and a weekend are in it.
const TIME_AHEAD: Duration = Duration::days(8);

/// Five cron fields in a time zone.
///
/// A local time that a change of clocks skips runs at the end of the gap; one that comes twice runs once, the first
/// time. Fields that mean every so many minutes go on through both.
#[derive(Clone, Debug)]
pub struct Cron {
    pattern: Pattern,
    zone: Tz,
}

impl Cron {
    /// Parses minute, hour, day of month, month, day of week. The error is a fragment that says what is wrong.
    pub fn parse(fields: &str, zone: Tz) -> Result<Self, String> {
        let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
        let pattern = parser.parse(fields).map_err(|error| error.to_string())?;
        let cron = Self { pattern, zone };
        if cron.next_after(DateTime::UNIX_EPOCH).is_none() {
            return Err("there is no such day".to_owned());
        }
        Ok(cron)
    }

    /// Returns the first slot after `instant`; none when the calendar has no more.
    pub fn next_after(&self, instant: DateTime<Utc>) -> Option<DateTime<Utc>> {
        self.after(instant).next()
    }

    /// Returns the slots after `instant`, each later than the one before.
    pub fn after(&self, instant: DateTime<Utc>) -> impl Iterator<Item = DateTime<Utc>> {
        let mut last = instant;
        self.pattern.iter_after(instant.with_timezone(&self.zone)).map(|slot| slot.to_utc()).filter(
            move |slot| {
                let is_later = *slot > last;
                last = last.max(*slot);
                is_later
            },
        )
    }

    /// Returns the newest slot that is not after `instant`.
    pub fn last_before(&self, instant: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let from = (instant + Duration::seconds(1)).with_timezone(&self.zone);
        self.pattern.iter_before(from).map(|slot| slot.to_utc()).find(|slot| *slot <= instant)
    }

    /// Returns the longest time between two slots that follow each other, from the last one before `now` on.
    ///
    /// The first slots are looked at one by one; that tells all times of up to an hour, for the minutes are the same in
    /// each hour. For longer ones, what lies less than the longest so far behind a slot is skipped.
    pub fn interval_max(&self, now: DateTime<Utc>) -> Option<Duration> {
        let first = self.last_before(now).or_else(|| self.next_after(now))?;
        let end = first + TIME_AHEAD;
        let (mut slot, mut longest) = (first, Duration::zero());
        for (at, next) in self.after(first).take(SLOTS_AHEAD_DENSE).enumerate() {
            if at >= SLOTS_AHEAD && slot >= end {
                break;
            }
            longest = longest.max(next - slot);
            slot = next;
        }
        while slot < end {
            let reach = slot + longest.max(Duration::hours(1));
            if let Some(newest) = self.last_before(reach).filter(|newest| *newest > slot) {
                slot = newest;
                continue;
            }
            let Some(next) = self.next_after(slot) else { break };
            longest = longest.max(next - slot);
            slot = next;
        }
        (longest > Duration::zero()).then_some(longest)
    }
}

/// Returns how long a run of `slot` is put off: by chance, but the same chance whenever it is asked for, so that a
/// service that starts anew does not throw again. `seed` names the host, the stack and the task.
pub fn jitter(seed: &str, slot: DateTime<Utc>, seconds_max: u32) -> Duration {
    if seconds_max == 0 {
        return Duration::zero();
    }
    let digest = Sha256::digest(format!("{seed} {}", slot.timestamp()));
    let drawn = digest.iter().take(8).fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
    Duration::seconds(i64::try_from(drawn % (u64::from(seconds_max) + 1)).unwrap_or_default())
}

/// What is to be done about slots whose time came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Due {
    /// Slots that nobody kept and that are not made up for, the oldest first.
    pub missed: Vec<DateTime<Utc>>,
    /// The slot that runs now, and whether it is late.
    pub run: Option<(DateTime<Utc>, bool)>,
}

/// Says what is due of a task.
///
/// `accounted` are the slots that are known, whatever became of them; those after `now` were noted by a clock that was
/// wrong and count for nothing but themselves. `watched_since` is when somebody first watched over this task: what was
/// before is nobody's fault. `makes_up` says whether the newest slot runs though it is late.
pub fn due(
    cron: &Cron,
    accounted: &BTreeSet<DateTime<Utc>>,
    watched_since: DateTime<Utc>,
    put_off: impl Fn(DateTime<Utc>) -> Duration,
    makes_up: bool,
    now: DateTime<Utc>,
) -> Due {
    let since = accounted.range(..=now).next_back().copied().unwrap_or(watched_since.min(now));
    let mut open: Vec<DateTime<Utc>> = Vec::new();
    for slot in cron.after(since).take_while(|slot| *slot <= now) {
        if !accounted.contains(&slot) && slot + put_off(slot) <= now {
            open.push(slot);
        }
        if open.len() > 2 * MISSED_MAX {
            open.drain(..MISSED_MAX);
        }
    }
    let Some(newest) = open.pop() else { return Due::default() };
    let is_late = now - newest - put_off(newest) > LATE_AFTER;
    let run = (makes_up || !is_late).then_some((newest, is_late));
    if run.is_none() {
        open.push(newest);
    }
    let too_many = open.len().saturating_sub(MISSED_MAX);
    Due { missed: open.split_off(too_many), run }
}

#[cfg(test)]
mod tests;
