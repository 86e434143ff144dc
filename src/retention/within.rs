//! A span of time as people write it: `48h`, `7d`, `4w`, `6m`, `1y`.

use std::fmt;

use chrono::{DateTime, Days, Months, NaiveDateTime, Offset, TimeDelta, TimeZone, Utc};
use chrono_tz::Tz;

use crate::error::{ExitCode, Failure, Result};

/// The most of one unit; enough for anybody, and far from where calendars end.
const COUNT_MAX: u32 = 9999;

/// How far back a rule reaches.
///
/// Hours are hours. Days and weeks are days of the calendar: seven days before Monday 02:00 is Monday 02:00 also
/// when the clock was changed between. Months and years keep the day, or take the last of the month where there
/// is no such day: a month before 31 March is 28 or 29 February.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Within {
    count: u32,
    unit: char,
}

impl Within {
    /// Reads a number from 1 to 9999 with `h`, `d`, `w`, `m` or `y` behind it.
    pub fn parse(text: &str) -> Result<Self> {
        Self::read(text).ok_or_else(|| {
            Failure::new(ExitCode::Usage, format!("`{text}` is no span of time"))
                .hint(format!("A number from 1 to {COUNT_MAX} with h, d, w, m or y behind it, as 7d."))
        })
    }

    fn read(text: &str) -> Option<Self> {
        let unit = text.chars().last().filter(|unit| "hdwmy".contains(*unit))?;
        let digits = &text[..text.len() - 1];
        // `parse` alone would take a sign.
        let count = digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())??;
        (1..=COUNT_MAX).contains(&count).then_some(Self { count, unit })
    }

    /// Returns the instant that lies so far before `newest`; where the clock showed that time twice or never, the
    /// earlier of the two readings.
    pub fn before(self, newest: DateTime<Utc>, zone: Tz) -> DateTime<Utc> {
        let local = newest.with_timezone(&zone).naive_local();
        let count = self.count;
        let earlier = match self.unit {
            'h' => {
                return newest
                    .checked_sub_signed(TimeDelta::hours(i64::from(count)))
                    .unwrap_or(DateTime::<Utc>::MIN_UTC);
            }
            'd' => local.checked_sub_days(Days::new(u64::from(count))),
            'w' => local.checked_sub_days(Days::new(u64::from(count) * 7)),
            'm' => local.checked_sub_months(Months::new(count)),
            _ => local.checked_sub_months(Months::new(count * 12)),
        };
        earlier.map_or(DateTime::<Utc>::MIN_UTC, |earlier| instant_of(earlier, zone))
    }
}

/// Returns the first instant at which the zone's clock shows `local`, or would have if it had not been changed.
fn instant_of(local: NaiveDateTime, zone: Tz) -> DateTime<Utc> {
    zone.from_local_datetime(&local).earliest().map_or_else(
        || {
            // The clock skipped this time. A day before and a day after it ran with the two offsets between which
            // it jumped; the larger gives the earlier instant.
            let day = TimeDelta::days(1);
            let offsets = [local - day, local + day].map(|near| zone.offset_from_utc_datetime(&near).fix());
            let seconds =
                offsets.map(|offset| offset.local_minus_utc()).into_iter().max().unwrap_or_default();
            (local - TimeDelta::seconds(i64::from(seconds))).and_utc()
        },
        |instant| instant.with_timezone(&Utc),
    )
}

impl fmt::Display for Within {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.count, self.unit)
    }
}
