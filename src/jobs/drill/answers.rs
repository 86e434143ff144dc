//! What a single answer is worth: a number within its limits, an instant that is new enough.

use chrono::{DateTime, MappedLocalTime, NaiveDate, NaiveDateTime, TimeDelta, TimeZone as _, Utc};
use chrono_tz::Tz;

use super::rows::shown;
use crate::{
    drill::{Assertion, Question},
    mysql::Answer,
    policy::{ExpectConfig, FreshnessConfig},
};

/// How much newer than its snapshot a row may be before a clock is wrong.
const AHEAD_MAX: TimeDelta = TimeDelta::minutes(5);

/// The answer to a question that has one value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Single {
    /// There was no row.
    NoRow,
    /// There was one row with one value; `None` for NULL.
    Value(Option<Vec<u8>>),
    /// There was more than that, as a text says.
    Several(String),
}

impl Single {
    /// Takes a further row.
    pub(super) fn and(self, row: Answer) -> Self {
        match (self, row.len()) {
            (Self::NoRow, 1) => Self::Value(row.into_iter().next().flatten()),
            (Self::NoRow, count) => Self::Several(format!("the query returns {count} columns, not one")),
            (Self::Value(_), _) => Self::Several("the query returns several rows, not one".to_owned()),
            (several, _) => several,
        }
    }

    /// Returns the value as text, or what is wrong with the answer.
    fn text(&self) -> Result<String, String> {
        match self {
            Self::NoRow => Err("the query returned no row".to_owned()),
            Self::Value(None) => Err("the answer is NULL: no rows".to_owned()),
            Self::Value(Some(bytes)) => Ok(shown(bytes)),
            Self::Several(why) => Err(why.clone()),
        }
    }
}

/// A number between two whole ones, which are the same when it is whole itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Number {
    floor: i128,
    ceil: i128,
}

impl Number {
    /// Reads `12`, `-3.50`, `1.5e3`.
    fn parse(text: &str) -> Option<Self> {
        let (digits, fraction) = text.split_once('.').unwrap_or((text, "0"));
        let unsigned = digits.strip_prefix('-').unwrap_or(digits);
        let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if is_digits(unsigned) && is_digits(fraction) {
            let whole: i128 = digits.parse().ok()?;
            let step = i128::from(fraction.bytes().any(|digit| digit != b'0'));
            return Some(if digits.starts_with('-') {
                Self { floor: whole.checked_sub(step)?, ceil: whole }
            } else {
                Self { floor: whole, ceil: whole.checked_add(step)? }
            });
        }
        // Floating point: MySQL writes no infinities, and Rust's words for them are none of its answers.
        if !text.bytes().all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte)) {
            return None;
        }
        let float: f64 = text.parse().ok()?;
        #[expect(clippy::cast_possible_truncation, reason = "a cast of a float gives way at its ends")]
        let whole = |float: f64| float as i128;
        Some(Self { floor: whole(float.floor()), ceil: whole(float.ceil()) })
    }

    fn whole(self) -> Option<i64> {
        if self.floor == self.ceil { i64::try_from(self.floor).ok() } else { None }
    }
}

/// Judges an answer that must be a number within limits.
pub(super) fn judge_number(config: &ExpectConfig, answer: &Single) -> Assertion {
    let (kind, name) = (Question::Expectation, &config.name);
    let text = match answer.text() {
        Ok(text) => text,
        Err(why) => return Assertion::failed(kind, name, why),
    };
    let Some(number) = Number::parse(&text) else {
        return Assertion::failed(kind, name, format!("the answer `{text}` is no number"));
    };
    let too_little = config.at_least.filter(|least| number.floor < i128::from(*least));
    let too_much = config.at_most.filter(|most| number.ceil > i128::from(*most));
    let assertion = match (too_little, too_much) {
        (Some(least), _) => {
            Assertion::failed(kind, name, format!("the answer is {text}, and must be at least {least}"))
        }
        (None, Some(most)) => {
            Assertion::failed(kind, name, format!("the answer is {text}, and may be at most {most}"))
        }
        (None, None) => Assertion::held(kind, name, format!("the answer is {text}")),
    };
    match number.whole() {
        Some(value) => assertion.with_value(value),
        None => assertion,
    }
}

/// Judges an answer that must be an instant shortly before `point`. The value is the age in seconds.
pub(super) fn judge_age(config: &FreshnessConfig, answer: &Single, point: DateTime<Utc>) -> Assertion {
    let (kind, name) = (Question::Freshness, &config.name);
    let zone = config.timezone.as_deref().unwrap_or("UTC");
    let newest = answer.text().and_then(|text| {
        let zone: Tz = zone.parse().map_err(|_| format!("`{zone}` is no time zone"))?;
        instant(&text, zone, point)
    });
    let newest = match newest {
        Ok(newest) => newest,
        Err(why) => return Assertion::failed(kind, name, why),
    };
    let age = point - newest;
    let at = format!("the newest is of {} UTC", newest.format("%Y-%m-%d %H:%M:%S"));
    let assertion = if age < -AHEAD_MAX {
        let ahead = span(-age);
        let why = format!("{at}, {ahead} after its source was read: a clock is wrong, or `timezone`");
        Assertion::failed(kind, name, why)
    } else if age > TimeDelta::minutes(i64::from(config.within_minutes)) {
        let within = config.within_minutes;
        Assertion::failed(
            kind,
            name,
            format!("{at}, {} before its source was read; {within} min may be", span(age)),
        )
    } else {
        let age = span(age.max(TimeDelta::zero()));
        Assertion::held(kind, name, format!("{at}, {age} before its source was read"))
    };
    assertion.with_value(age.num_seconds())
}

/// Returns a time as people say it.
fn span(time: TimeDelta) -> String {
    match time.num_minutes() {
        0 => format!("{} s", time.num_seconds()),
        minutes @ 1..=119 => format!("{minutes} min"),
        minutes @ 120..=2879 => format!("{} h {} min", minutes / 60, minutes % 60),
        minutes => format!("{} days", minutes / 1440),
    }
}

/// Reads an instant: a date and time of `zone`, with or without a fraction; one with its own offset; a date; or
/// seconds, milliseconds or microseconds since 1970.
fn instant(text: &str, zone: Tz, point: DateTime<Utc>) -> Result<DateTime<Utc>, String> {
    let no_time = || format!("the answer `{text}` is no date and time");
    if let Ok(instant) = DateTime::parse_from_rfc3339(text) {
        return Ok(instant.to_utc());
    }
    if text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return since_1970(text).ok_or_else(no_time);
    }
    let forms = ["%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f"];
    let read = forms.iter().find_map(|form| NaiveDateTime::parse_from_str(text, form).ok());
    let day = || NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?.and_hms_opt(0, 0, 0);
    let local = read.or_else(day).ok_or_else(no_time)?;
    match zone.from_local_datetime(&local) {
        MappedLocalTime::Single(instant) => Ok(instant.to_utc()),
        // A clock that was put back shows an hour twice. A row is never newer than its snapshot, so the later one is
        // meant unless it has not come yet.
        MappedLocalTime::Ambiguous(earlier, later) => {
            let (earlier, later) = (earlier.to_utc(), later.to_utc());
            Ok(if later <= point + AHEAD_MAX { later } else { earlier })
        }
        MappedLocalTime::None => {
            Err(format!("there was no `{text}` in {}: is `timezone` the zone of the rows?", zone.name()))
        }
    }
}

/// Reads a UNIX time by its size: in our days seconds have ten digits, milliseconds 13, microseconds 16.
fn since_1970(text: &str) -> Option<DateTime<Utc>> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let number: i64 = whole.parse().ok()?;
    match number {
        0 => None,
        1..100_000_000_000 => {
            let digits: String = fraction.chars().chain("000000".chars()).take(6).collect();
            DateTime::from_timestamp_micros(number * 1_000_000 + digits.parse::<i64>().ok()?)
        }
        100_000_000_000..100_000_000_000_000 => DateTime::from_timestamp_millis(number),
        _ => DateTime::from_timestamp_micros(number),
    }
}

#[cfg(test)]
mod tests;
