//! `WHEN`: how people say which snapshot they mean.
//!
//! A pure function of the text, the snapshots, the policy's zone and the present instant.

use chrono::{DateTime, Duration, NaiveDateTime, TimeZone, Utc};
use chrono_tz::Tz;

use crate::{
    error::{ExitCode, Failure, Result},
    names::SnapshotId,
};

/// Characters of a snapshot's id before its `-`: `20251010T180000Z`.
const ID_TIME_CHARS: usize = 16;

/// What a `WHEN` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum When {
    /// The newest one.
    Latest,
    /// The newest one that is not younger than this instant.
    NotAfter(DateTime<Utc>),
    /// The one whose id begins so.
    Id(String),
}

impl When {
    /// Parses `latest`, an id or its beginning, `20251011-150000` (in `zone`), RFC 3339, or `2 hours ago`.
    pub fn parse(text: &str, zone: Tz, now: DateTime<Utc>) -> Result<Self> {
        let text = text.trim();
        if text == "latest" {
            return Ok(Self::Latest);
        }
        if let Ok(instant) = DateTime::parse_from_rfc3339(text) {
            return Ok(Self::NotAfter(instant.to_utc()));
        }
        if let Ok(local) = NaiveDateTime::parse_from_str(text, "%Y%m%d-%H%M%S") {
            // In the hour that a zone lives twice, the later reading: "not after" then leaves nothing out.
            let instant = zone.from_local_datetime(&local).latest();
            return match instant {
                Some(instant) => Ok(Self::NotAfter(instant.to_utc())),
                None => Err(Failure::new(ExitCode::Usage, format!("`{text}` never happened in {zone}"))
                    .hint("The clock was put forward over it; name a second before or after.")),
            };
        }
        if let Some(age) = ago(text) {
            return Ok(Self::NotAfter(now - age?));
        }
        let id_like = !text.is_empty()
            && text.len() <= 21
            && text.starts_with(|c: char| c.is_ascii_digit())
            // A day that no month has must not be looked for as an id.
            && text.find('-').is_none_or(|at| at == ID_TIME_CHARS)
            && text.chars().all(|c| c.is_ascii_hexdigit() || c == 'T' || c == 'Z' || c == '-');
        if id_like {
            return Ok(Self::Id(text.to_owned()));
        }
        Err(Failure::new(ExitCode::Usage, format!("`{text}` does not say when"))
            .hint("Say latest, a snapshot id or its beginning, 20251011-150000, 2025-10-11T15:00:00+08:00, or \"2 hours ago\"."))
    }

    /// Returns the snapshots that can be meant, the newest first and never none; `ids` come oldest first.
    pub fn fitting(&self, ids: &[SnapshotId]) -> Result<Vec<SnapshotId>> {
        let hint = "`lifeboat snapshots` lists them.";
        let fits = |id: &&SnapshotId| match self {
            Self::Latest => true,
            Self::NotAfter(instant) => id.time() <= *instant,
            Self::Id(start) => id.as_str().starts_with(start),
        };
        let fitting: Vec<SnapshotId> = ids.iter().rev().filter(fits).cloned().collect();
        match (self, fitting.len()) {
            (Self::Latest, 0) => Err(Failure::new(ExitCode::Usage, "there is no snapshot yet")
                .hint("Make one with `lifeboat backup`.")),
            (Self::NotAfter(instant), 0) => {
                let what = format!("no snapshot is as old as {}", instant.to_rfc3339());
                Err(Failure::new(ExitCode::Usage, what).hint(hint))
            }
            (Self::Id(start), 0) => {
                Err(Failure::new(ExitCode::Usage, format!("no snapshot id begins with `{start}`")).hint(hint))
            }
            (Self::Id(start), 2..) => {
                let what = format!("{} snapshot ids begin with `{start}`", fitting.len());
                Err(Failure::new(ExitCode::Usage, what).hint("Give more of the id."))
            }
            _ => Ok(fitting),
        }
    }

    /// Picks the newest snapshot that can be meant; `ids` come oldest first.
    pub fn pick(&self, ids: &[SnapshotId]) -> Result<SnapshotId> {
        self.fitting(ids).map(|mut fitting| fitting.swap_remove(0))
    }
}

/// Parses `2 hours ago`; `None` when the text is nothing of the kind.
fn ago(text: &str) -> Option<Result<Duration>> {
    let mut words = text.strip_suffix(" ago")?.split_whitespace();
    let (count, unit, rest) = (words.next()?, words.next()?, words.next());
    let seconds = match unit.trim_end_matches('s') {
        "second" | "sec" => 1,
        "minute" | "min" => 60,
        "hour" => 3600,
        "day" => 86_400,
        "week" => 7 * 86_400,
        _ => return None,
    };
    if rest.is_some() {
        return None;
    }
    let count: i64 = count.parse().ok().filter(|count| *count >= 0)?;
    let age =
        count.checked_mul(seconds).and_then(Duration::try_seconds).filter(|age| age.num_days() < 100_000);
    Some(age.ok_or_else(|| Failure::new(ExitCode::Usage, format!("`{text}` is too long ago"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ZONE: Tz = Tz::Asia__Shanghai;

    fn now() -> DateTime<Utc> {
        DateTime::parse_from_rfc3339("2025-10-12T00:00:00Z").unwrap().to_utc()
    }

    fn ids() -> Vec<SnapshotId> {
        ["20251010T180000Z-7f3a", "20251011T065959Z-0001", "20251011T070000Z-0002", "20251011T180000Z-aaaa"]
            .map(|id| SnapshotId::new(id).unwrap())
            .to_vec()
    }

    fn pick(text: &str) -> String {
        let picked = When::parse(text, ZONE, now()).and_then(|when| when.pick(&ids()));
        picked.map_or_else(|failure| failure.to_string(), |id| id.to_string())
    }

    #[test]
    fn every_way_to_say_when_finds_its_snapshot() {
        assert_eq!(pick("latest"), "20251011T180000Z-aaaa");
        assert_eq!(pick("20251010T18"), "20251010T180000Z-7f3a");
        assert_eq!(pick("20251011-150000"), "20251011T070000Z-0002", "15:00 in Shanghai is 07:00 UTC");
        assert_eq!(pick("20251011-145959"), "20251011T065959Z-0001");
        assert_eq!(pick("2025-10-11T14:59:59+08:00"), "20251011T065959Z-0001");
        assert_eq!(pick("1 day ago"), "20251010T180000Z-7f3a");
        assert_eq!(pick("2 hours ago"), "20251011T180000Z-aaaa");
    }

    #[test]
    fn what_fits_nothing_or_too_much_is_said_so() {
        assert_eq!(pick("20251011T"), "3 snapshot ids begin with `20251011T`");
        assert_eq!(pick("20240101T"), "no snapshot id begins with `20240101T`");
        assert_eq!(pick("20200101-000000"), "no snapshot is as old as 2019-12-31T16:00:00+00:00");
        assert_eq!(pick("yesterday"), "`yesterday` does not say when");
        assert_eq!(pick("20250230-000000"), "`20250230-000000` does not say when");
        assert_eq!(pick("99999999999999999 weeks ago"), "`99999999999999999 weeks ago` is too long ago");
        assert_eq!(pick("-1 hours ago"), "`-1 hours ago` does not say when");
        assert_eq!(When::Latest.pick(&[]).unwrap_err().to_string(), "there is no snapshot yet");
    }

    #[test]
    fn the_hour_that_a_zone_skips_is_refused_and_the_one_it_repeats_reads_late() {
        let parse = |text| When::parse(text, Tz::Europe__Berlin, now());
        assert!(parse("20250330-023000").unwrap_err().to_string().contains("never happened"));
        let late = DateTime::parse_from_rfc3339("2025-10-26T01:30:00Z").unwrap().to_utc();
        assert_eq!(parse("20251026-023000").unwrap(), When::NotAfter(late));
    }
}
