//! Hours, days, weeks, months and years of one zone.

use std::fmt;

use chrono::{DateTime, Datelike, FixedOffset, NaiveDate, Offset, Timelike, Utc};
use chrono_tz::Tz;

/// What a calendar rule counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Hours of the zone's clock.
    Hour,
    /// Days, midnight to midnight.
    Day,
    /// ISO weeks, Monday to Sunday.
    Week,
    /// Months.
    Month,
    /// Years.
    Year,
}

impl Unit {
    /// Returns the period of `zone` in which `instant` lies.
    pub fn period_of(self, instant: DateTime<Utc>, zone: Tz) -> Period {
        let local = instant.with_timezone(&zone);
        match self {
            Self::Hour => {
                Period::Hour { day: local.date_naive(), hour: local.hour(), offset: local.offset().fix() }
            }
            Self::Day => Period::Day(local.date_naive()),
            Self::Week => Period::Week { year: local.iso_week().year(), week: local.iso_week().week() },
            Self::Month => Period::Month { year: local.year(), month: local.month() },
            Self::Year => Period::Year(local.year()),
        }
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hour => "hourly",
            Self::Day => "daily",
            Self::Week => "weekly",
            Self::Month => "monthly",
            Self::Year => "yearly",
        })
    }
}

/// One hour, day, week, month or year.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Period {
    /// An hour of the clock. The offset tells apart the two that a clock shows when summer ends.
    Hour {
        /// The day.
        day: NaiveDate,
        /// The hour that the clock shows.
        hour: u32,
        /// How far the clock is from UTC.
        offset: FixedOffset,
    },
    /// A day.
    Day(NaiveDate),
    /// An ISO week; its year is that of its Thursday.
    Week {
        /// The year that the week belongs to.
        year: i32,
        /// Its number, 1 to 53.
        week: u32,
    },
    /// A month.
    Month {
        /// The year.
        year: i32,
        /// The month, 1 to 12.
        month: u32,
    },
    /// A year.
    Year(i32),
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hour { day, hour, offset } => write!(f, "{} {day} {hour:02}:00 {offset}", Unit::Hour),
            Self::Day(day) => write!(f, "{} {day}", Unit::Day),
            Self::Week { year, week } => write!(f, "{} {year}-W{week:02}", Unit::Week),
            Self::Month { year, month } => write!(f, "{} {year}-{month:02}", Unit::Month),
            Self::Year(year) => write!(f, "{} {year}", Unit::Year),
        }
    }
}
