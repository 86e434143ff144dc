//! When an answer of retention looks like a mistake or an attack, so that a person has to look first.
//!
//! A mistake is a policy that was changed, a zone that was mistyped, a first prune after a year. Its mark is the
//! *share*: more than `remove_percent_max` of the snapshots would go. A single removal is never too many, as of
//! two or three snapshots even one is a large share, and `min_keep` watches over those.
//!
//! An attacker may hold the writer's key. That key removes nothing, but it can add snapshots until retention drops
//! the good ones by itself. What stands against that:
//!
//! - More than [`FLOOD_PER_DAY_MAX`] snapshots within any 24 hours are no schedule ([`Flood::Day`]). Partial ones
//!   count here: they displace nothing, but they could thin out the share.
//! - `last` has no calendar. When the newest 24 hours fill it and no rule reaches farther back, while older ones
//!   would go, all history is about to become one day ([`Flood::Last`]). Two snapshots are never a flood: two
//!   nightly runs can lie within 24 hours. Beside an hourly schedule this asks for a calendar rule or `within`.
//! - The share is taken once more with the newest 24 hours counted as one snapshot, so that many new ones do not
//!   make many old ones look few ([`Flood::Share`]).
//! - Future-dated ones displace nothing, and none of these figures counts them.
//!
//! What this cannot see is a lie about the past: one forged snapshot in each of many days takes each day's place.
//! So [`Candidate::began`](super::Candidate::began) should be the time at which the store received it, or the
//! caller should refuse those whose two times differ. The newest proven one stays in any case.

use std::fmt;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde::{Serialize, Serializer};

use super::{Rules, Weighing};

/// More snapshots than this within 24 hours are a flood: one each quarter of an hour, and some by hand.
pub const FLOOD_PER_DAY_MAX: usize = 100;

/// Fewer snapshots than this are no flood, however short `last` is.
const FLOOD_LAST_MIN: usize = 3;

const DAY: TimeDelta = TimeDelta::hours(24);

/// Why a person should look before anything is removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Guard {
    /// Too large a share of all snapshots, without the future-dated ones, would go.
    Share {
        /// So many would go.
        remove: usize,
        /// Of so many.
        of: usize,
        /// The policy's limit.
        percent_max: u32,
    },
    /// Somebody may have added snapshots so that others go.
    Flood(Flood),
}

/// What a flood looks like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Flood {
    /// Too many snapshots within 24 hours.
    Day {
        /// So many.
        count: usize,
        /// The newest of them.
        until: DateTime<Utc>,
    },
    /// The newest 24 hours fill `last`, and no rule keeps anything older.
    Last {
        /// What `last` keeps.
        last: u32,
        /// So many older ones would go.
        remove: usize,
    },
    /// Too large a share would go when the newest 24 hours count as one snapshot.
    Share {
        /// So many older ones would go.
        remove: usize,
        /// Of so many.
        of: usize,
        /// The policy's limit.
        percent_max: u32,
    },
}

/// Returns what speaks against doing what was decided.
pub(super) fn guards(weighing: &Weighing<'_>, rules: &Rules) -> Vec<Guard> {
    let present: Vec<Snapshot> = (0..weighing.all.len())
        .filter(|at| !weighing.future[*at])
        .map(|at| Snapshot {
            began: weighing.all[at].began,
            goes: weighing.reasons[at].is_empty(),
            is_complete: weighing.all[at].complete,
            has_rule: weighing.reasons[at].iter().any(super::Reason::is_rule),
        })
        .collect();
    if !present.iter().any(|snapshot| snapshot.goes) {
        return Vec::new();
    }
    let share = share(&present, rules.remove_percent_max);
    let newest = weighing.newest();
    let (fresh, old): (Vec<&Snapshot>, Vec<&Snapshot>) =
        present.iter().partition(|snapshot| newest.is_some_and(|newest| newest - snapshot.began < DAY));
    let thinned = if share.is_none() { thinned_share(&old, rules.remove_percent_max) } else { None };
    let floods = [day(&present), last(&fresh, &old, rules.last.unwrap_or(0)), thinned];
    share.into_iter().chain(floods.into_iter().flatten().map(Guard::Flood)).collect()
}

/// What the guards look at; the newest first, and none is future-dated.
struct Snapshot {
    began: DateTime<Utc>,
    goes: bool,
    is_complete: bool,
    has_rule: bool,
}

fn is_large_share(remove: usize, of: usize, percent_max: u32) -> bool {
    remove > 1 && remove as u128 * 100 > of as u128 * u128::from(percent_max)
}

fn share(present: &[Snapshot], percent_max: u32) -> Option<Guard> {
    let (remove, of) = (present.iter().filter(|snapshot| snapshot.goes).count(), present.len());
    is_large_share(remove, of, percent_max).then_some(Guard::Share { remove, of, percent_max })
}

fn thinned_share(old: &[&Snapshot], percent_max: u32) -> Option<Flood> {
    let (remove, of) = (old.iter().filter(|snapshot| snapshot.goes).count(), old.len() + 1);
    is_large_share(remove, of, percent_max).then_some(Flood::Share { remove, of, percent_max })
}

/// Looks for the fullest 24 hours.
fn day(present: &[Snapshot]) -> Option<Flood> {
    let (mut fullest, mut end) = (Flood::Day { count: 0, until: DateTime::<Utc>::MIN_UTC }, 0);
    let mut most = 0;
    for (at, newest) in present.iter().enumerate() {
        while present.get(end).is_some_and(|snapshot| newest.began - snapshot.began < DAY) {
            end += 1;
        }
        if end - at > most {
            most = end - at;
            fullest = Flood::Day { count: most, until: newest.began };
        }
    }
    (most > FLOOD_PER_DAY_MAX).then_some(fullest)
}

fn last(fresh: &[&Snapshot], old: &[&Snapshot], last: u32) -> Option<Flood> {
    let count = fresh.iter().filter(|snapshot| snapshot.is_complete).count();
    let is_full = last > 0 && count >= (last as usize).max(FLOOD_LAST_MIN);
    let remove = old.iter().filter(|snapshot| snapshot.goes && snapshot.is_complete).count();
    let reaches_back = old.iter().any(|snapshot| snapshot.has_rule);
    (is_full && remove > 0 && !reaches_back).then_some(Flood::Last { last, remove })
}

impl fmt::Display for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Share { remove, of, percent_max } => {
                write!(f, "{remove} of {of} snapshots would go, more than {percent_max} %")
            }
            Self::Flood(flood) => write!(f, "{flood}"),
        }
    }
}

impl fmt::Display for Flood {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Day { count, until } => {
                let until = until.to_rfc3339_opts(SecondsFormat::Secs, true);
                write!(
                    f,
                    "{count} snapshots lie within the 24 h until {until}, more than {FLOOD_PER_DAY_MAX}"
                )
            }
            Self::Last { last, remove } => {
                write!(f, "the newest 24 h fill `last = {last}` and {remove} older snapshots would go")
            }
            Self::Share { remove, of, percent_max } => {
                write!(f, "with the newest 24 h counted as one snapshot, {remove} of {of} would go, ")?;
                write!(f, "more than {percent_max} %")
            }
        }
    }
}

impl Serialize for Guard {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
