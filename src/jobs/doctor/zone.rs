//! The policy's zone: whether the host knows it, and the nights on which its clocks change.

use chrono::{DateTime, NaiveDateTime, Offset, TimeDelta, Utc};
use chrono_tz::Tz;
use croner::Cron;

use super::schedule::cron;
use crate::{
    finding::{Finding, Status, laws},
    policy::Stack,
};

laws! {
    page "zone";
    HOST = "zone.host",
        "the policy's zone and the host's are known",
        "Set the host's zone: timedatectl set-timezone Asia/Shanghai";
    DST = "zone.dst",
        "no clock change of the next year skips or doubles a time of the schedule",
        "Move that time out of the hour that the clock skips or repeats, as to 04:00.";
}

/// How far ahead is looked.
const AHEAD: TimeDelta = TimeDelta::days(366);
/// What runs in more hours of a day than this is not harmed by one that is skipped or repeated.
const HOURS_MAX: usize = 6;

/// Looks at the policy's zone and schedule.
pub(super) fn look(stack: &Stack, now: DateTime<Utc>) -> Vec<Finding> {
    let host = iana_time_zone::get_timezone().ok();
    let jobs: Vec<(&str, &str)> = stack.schedule.jobs().collect();
    vec![judge_host(stack.timezone, host.as_deref(), now), judge_jobs(stack.timezone, &jobs, now)]
}

fn judge_host(zone: Tz, host: Option<&str>, now: DateTime<Utc>) -> Finding {
    let shown = |zone: Tz| format!("{} ({})", zone.name(), now.with_timezone(&zone).offset().fix());
    let rules = chrono_tz::IANA_TZDB_VERSION;
    match host.map(|name| (name, name.parse::<Tz>())) {
        Some((_, Ok(host))) if host == zone => HOST.ok(format!("{}, zone rules {rules}", shown(zone))),
        Some((_, Ok(host))) => HOST.ok(format!(
            "the policy's times are of {}, the host's own log is of {}; zone rules {rules}",
            shown(zone),
            shown(host)
        )),
        Some((name, Err(_))) => {
            HOST.found(Status::Warn, format!("the host's zone `{name}` is none that zone rules {rules} know"))
        }
        None => HOST.found(Status::Unknown, "the host does not tell its zone"),
    }
}

/// One change of a zone's clocks: the local times from the first to before the second are skipped, or lived twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Change {
    from: NaiveDateTime,
    until: NaiveDateTime,
    is_skipped: bool,
}

/// Returns the changes between `now` and [`AHEAD`].
fn changes(zone: Tz, now: DateTime<Utc>) -> Vec<Change> {
    let offset = |at: DateTime<Utc>| i64::from(at.with_timezone(&zone).offset().fix().local_minus_utc());
    let mut found = Vec::new();
    let mut hour = now;
    while hour < now + AHEAD {
        let next = hour + TimeDelta::hours(1);
        let (before, after) = (offset(hour), offset(next));
        if before != after {
            // All zones of this century change on a full minute.
            let minutes = (1..=60).map(|minute| hour + TimeDelta::minutes(minute));
            let at = minutes.into_iter().find(|at| offset(*at) != before).unwrap_or(next);
            let at = at - TimeDelta::seconds(at.timestamp().rem_euclid(60));
            let (old, new) =
                (at.naive_utc() + TimeDelta::seconds(before), at.naive_utc() + TimeDelta::seconds(after));
            found.push(Change { from: old.min(new), until: old.max(new), is_skipped: new > old });
        }
        hour = next;
    }
    found
}

impl Change {
    /// Returns whether the fields name a time within the change.
    fn concerns(&self, cron: &Cron) -> bool {
        let minutes = (self.until - self.from).num_minutes();
        let names = |at: NaiveDateTime| cron.is_time_matching(&at.and_utc()).unwrap_or(false);
        if !(0..minutes).any(|minute| names(self.from + TimeDelta::minutes(minute))) {
            return false;
        }
        let day = self.from.date().and_time(chrono::NaiveTime::MIN);
        let hours = (0..24).filter(|hour| {
            (0..60).any(|minute| names(day + TimeDelta::hours(*hour) + TimeDelta::minutes(minute)))
        });
        hours.count() <= HOURS_MAX
    }
}

fn judge_jobs(zone: Tz, jobs: &[(&str, &str)], now: DateTime<Utc>) -> Finding {
    let changes = changes(zone, now);
    let mut told = Vec::new();
    for (job, fields) in jobs {
        let Some(cron) = cron(fields) else { continue };
        for change in changes.iter().filter(|change| change.concerns(&cron)) {
            let word = if change.is_skipped { "is skipped" } else { "comes twice" };
            told.push(format!("the time of {job} ({fields}) {word} on {}", change.from.date()));
        }
    }
    match (told.is_empty(), changes.is_empty()) {
        (false, _) => DST.found(Status::Warn, told.join("; ")),
        (true, true) => DST.ok(format!("{} does not change its clocks", zone.name())),
        (true, false) => {
            let days: Vec<String> = changes.iter().map(|change| change.from.date().to_string()).collect();
            DST.ok(format!("clocks change on {}, at no time of the schedule", days.join(" and ")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> DateTime<Utc> {
        DateTime::parse_from_rfc3339("2026-01-10T12:34:56Z").unwrap().to_utc()
    }

    fn judged(zone: Tz, jobs: &[(&str, &str)]) -> (Status, String) {
        let found = judge_jobs(zone, jobs, now());
        (found.status, found.detail)
    }

    #[test]
    fn a_zone_without_changes_has_nothing_to_tell() {
        assert_eq!(
            judged(Tz::Asia__Shanghai, &[("backup", "30 2 * * *")]),
            (Status::Ok, "Asia/Shanghai does not change its clocks".to_owned())
        );
    }

    #[test]
    fn a_time_that_is_skipped_or_comes_twice_is_named_with_its_day() {
        assert_eq!(
            judged(Tz::Europe__Berlin, &[("backup", "30 2 * * *"), ("prune", "0 4 * * *")]),
            (
                Status::Warn,
                "the time of backup (30 2 * * *) is skipped on 2026-03-29; \
                 the time of backup (30 2 * * *) comes twice on 2026-10-25"
                    .to_owned()
            )
        );
        // There the clock goes back to 01:00.
        let (status, detail) = judged(Tz::America__New_York, &[("verify", "0 1 * * 0")]);
        assert_eq!(status, Status::Warn);
        assert_eq!(detail, "the time of verify (0 1 * * 0) comes twice on 2026-11-01");
        assert_eq!(judged(Tz::America__New_York, &[("verify", "0 1 * * 1")]).0, Status::Ok);
    }

    #[test]
    fn what_runs_all_day_is_not_harmed_by_an_hour() {
        for fields in ["0 * * * *", "*/15 * * * *", "30 */3 * * *"] {
            assert_eq!(judged(Tz::Europe__Berlin, &[("backup", fields)]).0, Status::Ok, "{fields}");
        }
    }

    #[test]
    fn a_change_of_half_an_hour_is_seen() {
        let found = changes(Tz::Australia__Lord_Howe, now());
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].until - found[0].from).num_minutes(), 30);
        assert_eq!([found[0].is_skipped, found[1].is_skipped], [false, true]);
        assert_eq!(found[1].from.to_string(), "2026-10-04 02:00:00");
    }

    #[test]
    fn the_hosts_zone_must_be_known() {
        let judged = |host| judge_host(Tz::Asia__Shanghai, host, now());
        assert_eq!(judged(Some("Asia/Shanghai")).status, Status::Ok);
        let found = judged(Some("Etc/UTC"));
        assert_eq!(found.status, Status::Ok);
        assert!(found.detail.contains("Asia/Shanghai (+08:00)") && found.detail.contains("Etc/UTC (+00:00)"));
        assert_eq!(judged(Some("Middle/Earth")).status, Status::Warn);
        assert_eq!(judged(None).status, Status::Unknown);
    }
}
