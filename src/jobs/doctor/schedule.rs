//! Whether the policy protects what it seems to: pure functions of a policy and an instant.

use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;
use croner::{
    Cron,
    parser::{CronParser, Seconds, Year},
};

use crate::{
    finding::{Finding, Status, laws},
    policy::{RetentionConfig, Stack},
};

laws! {
    page "schedule";
    BACKUP = "schedule.backup",
        "backups are on the schedule",
        "Set `backup` in [schedule], as \"0 2 * * *\".";
    OFFSITE = "schedule.offsite",
        "there is a copy in another place",
        "Add an [[offsite]] table: fire, theft and ransom take a host and its disks together.";
    SYNC = "schedule.sync",
        "copies are made by themselves",
        "Set `after_backup = true` for the offsite, or `sync` in [schedule].";
    DEADLINE = "schedule.deadline",
        "a backup is given up before the next copy begins",
        "Set `deadline_minutes` in [schedule] to less than the time from the backup to the sync.";
    RETENTION = "schedule.retention",
        "it is said how long snapshots stay",
        "Add rules to [retention], as daily = 7, weekly = 4, monthly = 3: otherwise the disk fills.";
    RECIPIENTS = "schedule.recipients",
        "two or more recovery keys can open the backups",
        "Make another one with `lifeboat keys new`, add it to `recipients`, then `lifeboat keys rotate`.";
    NOTIFY = "schedule.notify",
        "somebody hears of trouble",
        "Add a [[notify]] table: a backup that fails silently is no backup.";
}

/// Runs that are looked at for the longest time between two.
const RUNS: usize = 40;

/// Looks at the policy.
pub(super) fn look(stack: &Stack, now: DateTime<Utc>) -> Vec<Finding> {
    let mut findings = vec![backup(stack), offsite(stack)];
    if !stack.offsites.is_empty() {
        findings.push(sync(stack));
    }
    findings.extend(deadline(stack, now));
    findings.extend([retention(stack), recipients(stack), notify(stack)]);
    findings
}

/// Reads cron fields as the policy's check does.
pub(super) fn cron(fields: &str) -> Option<Cron> {
    let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
    parser.parse(fields).ok()
}

/// Returns the longest time between two backups of the schedule.
pub(super) fn backups_every(stack: &Stack, now: DateTime<Utc>) -> Option<TimeDelta> {
    longest_gap(&cron(stack.schedule.backup.as_deref()?)?, stack.timezone, now)
}

fn longest_gap(cron: &Cron, zone: Tz, now: DateTime<Utc>) -> Option<TimeDelta> {
    let runs: Vec<DateTime<Tz>> = cron.iter_after(now.with_timezone(&zone)).take(RUNS).collect();
    runs.windows(2).map(|pair| pair[1] - pair[0]).max()
}

fn backup(stack: &Stack) -> Finding {
    match &stack.schedule.backup {
        Some(fields) => BACKUP.ok(format!("{fields} {}", stack.timezone)),
        None => BACKUP.found(Status::Warn, "by hand only"),
    }
}

fn offsite(stack: &Stack) -> Finding {
    let names: Vec<&str> = stack.offsites.iter().map(|offsite| offsite.name.as_str()).collect();
    if names.is_empty() {
        return OFFSITE.found(Status::Warn, "every snapshot lies in one place");
    }
    OFFSITE.ok(names.join(", "))
}

fn sync(stack: &Stack) -> Finding {
    let by_hand = stack.offsites.iter().filter(|one| !one.settings.after_backup);
    let by_hand: Vec<&str> = by_hand.map(|one| one.name.as_str()).collect();
    match &stack.schedule.sync {
        Some(fields) => SYNC.ok(fields.clone()),
        None if by_hand.is_empty() => SYNC.ok("after each backup"),
        None => SYNC.found(Status::Warn, format!("by hand only: {}", by_hand.join(", "))),
    }
}

/// A backup that still runs when the copy begins is copied a day later.
fn deadline(stack: &Stack, now: DateTime<Utc>) -> Option<Finding> {
    let (backup, sync) = (stack.schedule.backup.as_deref()?, stack.schedule.sync.as_deref()?);
    let (backup, sync) = (cron(backup)?, cron(sync)?);
    let zone = stack.timezone;
    let distance = backup
        .iter_after(now.with_timezone(&zone))
        .take(RUNS)
        .filter_map(|at| Some(sync.find_next_occurrence(&at, false).ok()? - at))
        .min()?;
    let minutes = distance.num_minutes();
    Some(match stack.schedule.deadline_minutes {
        Some(deadline) if i64::from(deadline) <= minutes => {
            DEADLINE.ok(format!("given up after {deadline} minutes, the copy begins after {minutes}"))
        }
        Some(deadline) => DEADLINE.found(
            Status::Warn,
            format!("given up after {deadline} minutes, but the copy begins after {minutes}"),
        ),
        None => {
            DEADLINE.found(Status::Warn, format!("never given up; the copy begins after {minutes} minutes"))
        }
    })
}

fn retention(stack: &Stack) -> Finding {
    let RetentionConfig { last, hourly, daily, weekly, monthly, yearly, within, .. } = &stack.retention;
    let counts = [
        ("last", last),
        ("hourly", hourly),
        ("daily", daily),
        ("weekly", weekly),
        ("monthly", monthly),
        ("yearly", yearly),
    ];
    let mut rules: Vec<String> =
        counts.into_iter().filter_map(|(name, count)| count.map(|count| format!("{name} {count}"))).collect();
    rules.extend(within.iter().map(|within| format!("within {within}")));
    if rules.is_empty() {
        return RETENTION.found(Status::Warn, "everything stays");
    }
    RETENTION.ok(rules.join(", "))
}

fn recipients(stack: &Stack) -> Finding {
    match stack.repository.settings.recipients.len() {
        count @ 0..2 => {
            RECIPIENTS.found(Status::Warn, format!("{count} recovery key: when it is lost, all is"))
        }
        count => RECIPIENTS.ok(format!("{count} recovery keys")),
    }
}

fn notify(stack: &Stack) -> Finding {
    let first = stack.notify.iter().filter(|one| !one.fallback);
    let names: Vec<&str> = first.map(|one| one.name.as_str()).collect();
    if names.is_empty() {
        return NOTIFY.found(Status::Warn, "nobody");
    }
    NOTIFY.ok(names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        DateTime::parse_from_rfc3339(text).unwrap().to_utc()
    }

    fn stack() -> Stack {
        let policy = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("policies/im-suite.toml");
        let text = std::fs::read_to_string(policy).unwrap();
        let recipient = "age1t7rxyev2z3rw82stdlrrepyc39nvn86l5078zqkf5uasdy86jp6svpy7pa";
        let second = "age1lvyvwawkr0mcnnnncaghunadrqkmuf9e6507x9y920xxpp866cnql7dp2z";
        let text = text
            .replace("age1-replace-me-with-the-key-in-the-safe", recipient)
            .replace("age1-replace-me-with-the-key-of-the-person-on-duty", second)
            .replace(
                "RW-replace-me-with-the-signer-that-init-wrote",
                "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3",
            );
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("policy.toml");
        std::fs::write(&path, text).unwrap();
        Stack::load_for(&path, crate::policy::Need::Sources).unwrap()
    }

    fn status(findings: &[Finding], id: &str) -> Status {
        findings.iter().find(|finding| finding.id == id).unwrap().status
    }

    #[test]
    fn the_policy_of_the_first_user_has_nothing_to_look_at() {
        let findings = look(&stack(), at("2026-06-01T00:00:00Z"));
        assert!(findings.iter().all(|finding| finding.status == Status::Ok), "{findings:#?}");
        assert_eq!(findings.len(), LAWS.len());
    }

    #[test]
    fn each_thing_that_is_left_out_is_told() {
        let now = at("2026-06-01T00:00:00Z");
        let mut bare = stack();
        bare.schedule.backup = None;
        bare.schedule.sync = None;
        bare.offsites[0].settings.after_backup = false;
        bare.retention = RetentionConfig::default();
        bare.repository.settings.recipients.truncate(1);
        bare.notify.retain(|one| one.fallback);
        let findings = look(&bare, now);
        for id in ["backup", "sync", "retention", "recipients", "notify"] {
            assert_eq!(status(&findings, &format!("schedule.{id}")), Status::Warn, "{id}");
        }
        bare.offsites.clear();
        assert_eq!(status(&look(&bare, now), "schedule.offsite"), Status::Warn);
    }

    #[test]
    fn a_backup_may_not_run_into_the_copy() {
        let now = at("2026-06-01T00:00:00Z");
        let mut stack = stack();
        for (minutes, wanted) in [(Some(120), Status::Ok), (Some(121), Status::Warn), (None, Status::Warn)] {
            stack.schedule.deadline_minutes = minutes;
            assert_eq!(deadline(&stack, now).unwrap().status, wanted, "{minutes:?}");
        }
    }

    #[test]
    fn the_longest_time_between_two_backups_counts() {
        let now = at("2026-06-01T00:00:00Z");
        let gap = |fields: &str| longest_gap(&cron(fields).unwrap(), Tz::Asia__Shanghai, now).unwrap();
        assert_eq!(gap("0 2 * * *"), TimeDelta::hours(24));
        assert_eq!(gap("0 2 * * 1-5"), TimeDelta::hours(72));
        assert_eq!(gap("0 2,14 * * *"), TimeDelta::hours(12));
    }
}
