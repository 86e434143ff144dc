//! How times, spans and counts are written in a language, wherever people read them.

use std::time::Duration;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;

use super::Language;

/// Seconds of a day, an hour, a minute and a second.
const UNITS_SECONDS: [u64; 4] = [86_400, 3_600, 60, 1];
/// Which of them is the minute.
const MINUTES: usize = 2;

impl Language {
    /// Writes how long ago something was, with its two largest units at most: `3 h 20 min`.
    pub fn span(self, seconds: i64) -> String {
        let seconds = u64::try_from(seconds).unwrap_or(0);
        let first = first_unit(seconds);
        // Seconds beside minutes and minutes beside days help nobody who waits.
        self.units(seconds, if first == MINUTES { 1 } else { 2 })
    }

    /// Writes how long something took, as it was measured: `0.4 s`, `11 min 20 s`.
    pub fn took(self, seconds: f64) -> String {
        let whole = Duration::try_from_secs_f64(seconds.max(0.0).round()).unwrap_or(Duration::ZERO).as_secs();
        if !(0.05..9.95).contains(&seconds) {
            return self.units(whole, 2);
        }
        let digits = format!("{seconds:.1}");
        format!("{}{}", digits.trim_end_matches(".0"), self.unit(3))
    }

    fn units(self, seconds: u64, shown: usize) -> String {
        let first = first_unit(seconds);
        let mut left = seconds;
        let mut texts = Vec::new();
        for (at, size) in UNITS_SECONDS.into_iter().enumerate() {
            let count = left / size;
            left %= size;
            if (first..first + shown).contains(&at) && (count > 0 || at == first) {
                texts.push(format!("{count}{}", self.unit(at)));
            }
        }
        texts.join(" ")
    }

    fn unit(self, at: usize) -> &'static str {
        match self {
            Self::En => [" d", " h", " min", " s"][at],
            Self::Zh => [" 天", " 小时", " 分钟", " 秒"][at],
        }
    }
}

/// Returns the largest unit that there is one of.
fn first_unit(seconds: u64) -> usize {
    UNITS_SECONDS.iter().position(|size| seconds >= *size).unwrap_or(3)
}

/// Writes an instant in a zone, with its offset: `2026-11-23 02:00 UTC+08:00`. `form` is chrono's.
pub fn local(time: DateTime<Utc>, zone: Tz, form: &str) -> String {
    let local = time.with_timezone(&zone);
    let offset = local.format("%:z").to_string();
    let offset = if offset == "+00:00" { "" } else { &offset };
    format!("{} UTC{offset}", local.format(form))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_has_two_units_at_most_and_what_was_measured_keeps_its_seconds() {
        let en = Language::En;
        let spans = [-5, 0, 42, 680, 3600, 12_345, 90_000].map(|seconds| en.span(seconds));
        assert_eq!(spans, ["0 s", "0 s", "42 s", "11 min", "1 h", "3 h 25 min", "1 d 1 h"]);
        let took = [0.0, 0.4, 4.04, 9.96, 59.7, 680.2, 12_345.0].map(|seconds| en.took(seconds));
        assert_eq!(took, ["0 s", "0.4 s", "4 s", "10 s", "1 min", "11 min 20 s", "3 h 25 min"]);
        assert_eq!(Language::Zh.took(680.2), "11 分钟 20 秒");
    }

    #[test]
    fn what_is_no_span_is_none() {
        for odd in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1.0] {
            assert_eq!(Language::En.took(odd), "0 s");
        }
    }

    #[test]
    fn an_instant_has_its_offset() {
        let zoned = |zone| local(DateTime::UNIX_EPOCH, zone, "%Y-%m-%d %H:%M");
        assert_eq!(zoned(Tz::Asia__Shanghai), "1970-01-01 08:00 UTC+08:00");
        assert_eq!(zoned(Tz::UTC), "1970-01-01 00:00 UTC");
    }
}
