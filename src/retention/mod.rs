//! Which snapshots stay and which go, each with a reason: a pure function of snapshots, rules, time and zone.
//!
//! The rules are those that people know from restic. Newest first, a calendar rule keeps the newest snapshot of
//! each period (hour, day, ISO week, month, year) until its count is used up. Only periods that have a snapshot
//! count, so a host that slept for a month loses nothing by it. While a count is left the oldest snapshot stays as
//! well, so that history grows from the first day. A snapshot stays if any rule keeps it. All periods are those of
//! one zone, the policy's, whatever the hosts' clocks were set to; an hour that the clock shows twice is two hours.
//!
//! What no rule can take away:
//!
//! - pinned snapshots, which use up no count either;
//! - the newest complete snapshot that a drill proved (what a partial one lacks was not proven, so it never is it);
//! - the newest [`Rules::min_keep`] complete ones;
//! - snapshots dated in the future: they stay until their time has come, and until then they are not the newest,
//!   use up no count and displace nothing.
//!
//! *Partial* snapshots, which lack a source, be it that it failed or that a person left it aside, displace nothing:
//! no count, no `within` and no `min_keep` sees them. One stays while no complete snapshot is newer, as it may hold
//! the only copy of yesterday; and for [`PARTIAL_DAYS`] days in any case. It goes when a complete one is newer
//! *and* it is older than that.
//!
//! No rule at all keeps everything. Rules that are all 0 are refused: nobody means that.
//!
//! [`decide`] removes nothing. It also says by [`Guard`] when its answer looks like a mistake or an attack; then the
//! caller stops and asks. See `guard.rs` for what that finds and what it cannot.
//!
//! Laws (tests hold each of them): the order of the candidates does not matter; deciding again on what stayed, at
//! the same time, removes nothing more (though the oldest that is left may stay for one reason more than before);
//! with a rule there already, raising or adding a count never removes more; a future-dated or partial snapshot
//! never changes what happens to a complete one; as long as there is a snapshot, one stays.

mod guard;
mod period;
mod reason;
#[cfg(test)]
mod tests;
mod within;

use std::collections::HashSet;

use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;
use serde::Serialize;

pub use self::{
    guard::{FLOOD_PER_DAY_MAX, Flood, Guard},
    period::{Period, Unit},
    reason::{Gone, Reason},
    within::Within,
};
use crate::{
    error::{ExitCode, Failure, Result},
    names::SnapshotId,
};

/// Days that a partial snapshot stays although a complete one is newer.
pub const PARTIAL_DAYS: u32 = 7;

/// How long snapshots stay. A rule that is not given keeps nothing; without any rule everything stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// The newest so many.
    pub last: Option<u32>,
    /// The newest of each of so many hours.
    pub hourly: Option<u32>,
    /// The newest of each of so many days.
    pub daily: Option<u32>,
    /// The newest of each of so many ISO weeks.
    pub weekly: Option<u32>,
    /// The newest of each of so many months.
    pub monthly: Option<u32>,
    /// The newest of each of so many years.
    pub yearly: Option<u32>,
    /// All that began less than this before the newest.
    pub within: Option<Within>,
    /// So many of the newest complete ones stay whatever the other rules say.
    pub min_keep: u32,
    /// Removing more than this share of all snapshots at once is a [`Guard::Share`].
    pub remove_percent_max: u32,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            last: None,
            hourly: None,
            daily: None,
            weekly: None,
            monthly: None,
            yearly: None,
            within: None,
            min_keep: 3,
            remove_percent_max: 50,
        }
    }
}

impl Rules {
    /// Returns whether there is no rule, so that everything stays.
    pub fn is_empty(&self) -> bool {
        self.counts().iter().all(Option::is_none) && self.within.is_none()
    }

    /// Refuses rules that are there and keep nothing.
    pub fn check(&self) -> Result<()> {
        let keeps = self.counts().into_iter().flatten().any(|count| count > 0) || self.within.is_some();
        if keeps || self.is_empty() {
            return Ok(());
        }
        Err(Failure::new(ExitCode::Usage, "no rule of `retention` keeps anything")
            .hint("To keep everything leave all rules out; else let one of them be more than 0."))
    }

    fn counts(&self) -> [Option<u32>; 6] {
        [self.last, self.hourly, self.daily, self.weekly, self.monthly, self.yearly]
    }

    fn by_unit(&self) -> [(Unit, u32); 5] {
        [
            (Unit::Hour, self.hourly.unwrap_or(0)),
            (Unit::Day, self.daily.unwrap_or(0)),
            (Unit::Week, self.weekly.unwrap_or(0)),
            (Unit::Month, self.monthly.unwrap_or(0)),
            (Unit::Year, self.yearly.unwrap_or(0)),
        ]
    }
}

/// A committed snapshot, as far as retention cares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its id.
    pub id: SnapshotId,
    /// When it began, or when the store received it where the caller knows that: a writer can lie about the first.
    pub began: DateTime<Utc>,
    /// Whether it holds every source that it was meant to.
    pub complete: bool,
    /// Whether a person said that it stays.
    pub pinned: bool,
    /// Whether a drill restored it and found it good.
    pub proven: bool,
}

/// A snapshot that stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Kept {
    /// Its id.
    pub id: SnapshotId,
    /// Why, the rules first; never empty.
    pub reasons: Vec<Reason>,
}

/// A snapshot that goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Removed {
    /// Its id.
    pub id: SnapshotId,
    /// Why.
    pub reason: Gone,
}

/// What becomes of each snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Decided {
    /// Those that stay, the newest first.
    pub keep: Vec<Kept>,
    /// Those that go, the newest first.
    pub remove: Vec<Removed>,
    /// Why a person should look at this before it is done; empty as a rule.
    pub guards: Vec<Guard>,
}

/// Decides what becomes of all committed snapshots of a repository.
///
/// Fails on rules that keep nothing at all, and on a snapshot that is listed twice.
pub fn decide(candidates: &[Candidate], rules: &Rules, now: DateTime<Utc>, zone: Tz) -> Result<Decided> {
    rules.check()?;
    let mut weighing = Weighing::new(candidates, now)?;
    if rules.is_empty() {
        weighing.reasons.iter_mut().for_each(|reasons| reasons.push(Reason::NoRule));
        return Ok(weighing.decided());
    }
    weighing.by_last(rules.last.unwrap_or(0));
    weighing.by_period(rules, zone);
    weighing.by_within(rules.within, zone);
    weighing.by_safety(rules.min_keep);
    weighing.future_and_partial(now);
    let guards = guard::guards(&weighing, rules);
    Ok(Decided { guards, ..weighing.decided() })
}

/// The snapshots while the reasons to keep each are gathered.
struct Weighing<'a> {
    /// All, the newest first; of one second the one with the higher id first.
    all: Vec<&'a Candidate>,
    /// For each of `all`, whether its time has not come.
    future: Vec<bool>,
    /// For each of `all`, why it stays.
    reasons: Vec<Vec<Reason>>,
    /// The places in `all` of those that are complete and not future-dated.
    good: Vec<usize>,
}

impl<'a> Weighing<'a> {
    fn new(candidates: &'a [Candidate], now: DateTime<Utc>) -> Result<Self> {
        let mut seen = HashSet::new();
        if let Some(twice) = candidates.iter().find(|candidate| !seen.insert(&candidate.id)) {
            // Kept once and removed once would mean removed.
            return Err(Failure::new(ExitCode::Failed, format!("snapshot `{}` is listed twice", twice.id)));
        }
        let mut all: Vec<&Candidate> = candidates.iter().collect();
        all.sort_by(|a, b| (b.began, &b.id).cmp(&(a.began, &a.id)));
        let future: Vec<bool> = all.iter().map(|candidate| candidate.began > now).collect();
        let good = (0..all.len()).filter(|at| all[*at].complete && !future[*at]).collect();
        Ok(Self { reasons: vec![Vec::new(); all.len()], all, future, good })
    }

    /// Returns the newest that rules are measured from.
    fn newest(&self) -> Option<DateTime<Utc>> {
        self.good.first().map(|at| self.all[*at].began)
    }

    /// Returns those that use up counts.
    fn counted(&self) -> Vec<usize> {
        self.good.iter().copied().filter(|at| !self.all[*at].pinned).collect()
    }

    fn by_last(&mut self, of: u32) {
        for (at, number) in self.counted().into_iter().zip(1..=of) {
            self.reasons[at].push(Reason::Last { number, of });
        }
    }

    fn by_period(&mut self, rules: &Rules, zone: Tz) {
        let counted = self.counted();
        for (unit, count) in rules.by_unit() {
            let (mut left, mut last) = (count, None);
            for at in &counted {
                if left == 0 {
                    break;
                }
                let period = unit.period_of(self.all[*at].began, zone);
                if last != Some(period) {
                    self.reasons[*at].push(Reason::Period(period));
                    (left, last) = (left - 1, Some(period));
                } else if Some(at) == counted.last() {
                    self.reasons[*at].push(Reason::Oldest(unit));
                }
            }
        }
    }

    fn by_within(&mut self, within: Option<Within>, zone: Tz) {
        let (Some(within), Some(newest)) = (within, self.newest()) else { return };
        let border = within.before(newest, zone);
        for at in &self.good {
            if self.all[*at].began > border {
                self.reasons[*at].push(Reason::Within(within));
            }
        }
    }

    /// Keeps what no rule may take away.
    fn by_safety(&mut self, min_keep: u32) {
        for (reasons, candidate) in self.reasons.iter_mut().zip(&self.all) {
            if candidate.pinned {
                reasons.push(Reason::Pinned);
            }
        }
        if let Some(at) = self.good.iter().find(|at| self.all[**at].proven) {
            self.reasons[*at].push(Reason::NewestProven);
        }
        for (at, number) in self.good.iter().zip(1..=min_keep) {
            self.reasons[*at].push(Reason::MinKeep { number, of: min_keep });
        }
    }

    fn future_and_partial(&mut self, now: DateTime<Utc>) {
        let newest = self.newest();
        for (at, candidate) in self.all.iter().enumerate() {
            let reason = if self.future[at] {
                Reason::Future
            } else if candidate.complete {
                continue;
            } else if newest.is_none_or(|newest| candidate.began >= newest) {
                Reason::PartialNewest
            } else if now - candidate.began <= TimeDelta::days(i64::from(PARTIAL_DAYS)) {
                Reason::PartialYoung
            } else {
                continue;
            };
            self.reasons[at].push(reason);
        }
    }

    fn decided(self) -> Decided {
        let mut decided = Decided::default();
        for (candidate, reasons) in self.all.into_iter().zip(self.reasons) {
            let id = candidate.id.clone();
            if !reasons.is_empty() {
                decided.keep.push(Kept { id, reasons });
            } else if candidate.complete {
                decided.remove.push(Removed { id, reason: Gone::NoRule });
            } else {
                decided.remove.push(Removed { id, reason: Gone::Partial });
            }
        }
        decided
    }
}
