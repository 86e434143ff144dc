//! Why a snapshot stays or goes, in words that people read.

use std::fmt;

use serde::{Serialize, Serializer};

use super::{PARTIAL_DAYS, Period, Unit, Within};

/// Why a snapshot stays. Its text is what a person and `--json` see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It is one of the newest.
    Last {
        /// Which, from 1.
        number: u32,
        /// How many `last` keeps.
        of: u32,
    },
    /// It is the newest of a period that counts.
    Period(Period),
    /// It is the oldest, and this rule has not had so many periods yet.
    Oldest(Unit),
    /// It is not older than this, seen from the newest.
    Within(Within),
    /// There is no rule.
    NoRule,
    /// A person said so.
    Pinned,
    /// No newer complete one was proven by a drill.
    NewestProven,
    /// It is one of the newest complete ones.
    MinKeep {
        /// Which, from 1.
        number: u32,
        /// How many are never removed.
        of: u32,
    },
    /// Its time has not come.
    Future,
    /// It is partial, and there is nothing better that is newer.
    PartialNewest,
    /// It is partial, and somebody may still need it.
    PartialYoung,
    /// The original of this copy has it, or had it so many days ago.
    Original {
        /// So many days.
        days: u32,
    },
}

impl Reason {
    /// Returns whether a rule keeps it, and not only care.
    pub(super) fn is_rule(&self) -> bool {
        matches!(self, Self::Last { .. } | Self::Period(_) | Self::Oldest(_) | Self::Within(_))
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Last { number, of } => write!(f, "last {number} of {of}"),
            Self::Period(period) => write!(f, "{period}"),
            Self::Oldest(unit) => write!(f, "oldest, kept until {unit} is full"),
            Self::Within(within) => write!(f, "within {within}"),
            Self::NoRule => f.write_str("no rule removes anything"),
            Self::Pinned => f.write_str("pinned"),
            Self::NewestProven => f.write_str("newest proven"),
            Self::MinKeep { number, of } => write!(f, "newest good, {number} of {of} (min_keep)"),
            Self::Future => f.write_str("future date, displaces nothing"),
            Self::Original { days } => write!(f, "the original has it, or had it less than {days} days ago"),
            Self::PartialNewest => f.write_str("newest partial, no complete one is newer"),
            Self::PartialYoung => write!(f, "partial, not older than {PARTIAL_DAYS} days"),
        }
    }
}

/// Why a snapshot goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gone {
    /// No rule keeps it.
    NoRule,
    /// It is partial, old, and a complete one is newer.
    Partial,
    /// A person named it.
    Named,
}

impl fmt::Display for Gone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoRule => "no rule keeps it",
            Self::Partial => "partial, a complete one is newer",
            Self::Named => "named by a person",
        })
    }
}

impl Serialize for Reason {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for Gone {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
