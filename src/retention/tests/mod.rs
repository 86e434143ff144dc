//! Histories and tables: who stays, who goes and why, as a person would read it.

mod cases;
mod guards;
mod laws;
mod year;
mod zones;

use std::fmt::Write as _;

use chrono::{DateTime, NaiveDateTime, TimeZone, Utc};
use chrono_tz::Tz;

use super::*;

/// Returns the instant at which the zone's clock shows `local` (the first, where it shows it twice).
fn at(local: &str, zone: Tz) -> DateTime<Utc> {
    let local = NaiveDateTime::parse_from_str(local, "%Y-%m-%d %H:%M").unwrap();
    zone.from_local_datetime(&local).earliest().unwrap().to_utc()
}

fn candidate(began: DateTime<Utc>, salt: u16) -> Candidate {
    let id = SnapshotId::at(began, salt);
    Candidate { id, began, complete: true, pinned: false, proven: false }
}

/// Reads a history: a line for each snapshot, its local time and what it is (`partial`, `pinned`, `proven`).
fn history(text: &str, zone: Tz) -> Vec<Candidate> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let snapshot = |(line, salt): (&str, u16)| {
        let (time, marks) = line.split_at(16);
        Candidate {
            complete: !marks.contains("partial"),
            pinned: marks.contains("pinned"),
            proven: marks.contains("proven"),
            ..candidate(at(time, zone), salt)
        }
    };
    lines.zip(0..).map(snapshot).collect()
}

fn marks(candidate: &Candidate) -> String {
    let all = [(!candidate.complete, "partial"), (candidate.pinned, "pinned"), (candidate.proven, "proven")];
    let marks: Vec<&str> = all.into_iter().filter(|(is, _)| *is).map(|(_, mark)| mark).collect();
    if marks.is_empty() { String::new() } else { format!("[{}] ", marks.join(" ")) }
}

/// Writes each snapshot in the order of the answer, the newest first, and the guards below.
fn table(candidates: &[Candidate], rules: &Rules, now: DateTime<Utc>, zone: Tz) -> String {
    let decided = decide(candidates, rules, now, zone).unwrap();
    let mut lines: Vec<(DateTime<Utc>, &SnapshotId, String)> = Vec::new();
    let told = decided.keep.iter().map(|kept| {
        let reasons: Vec<String> = kept.reasons.iter().map(ToString::to_string).collect();
        (&kept.id, format!("keep    {}", reasons.join("; ")))
    });
    for (id, fate) in
        told.chain(decided.remove.iter().map(|gone| (&gone.id, format!("remove  {}", gone.reason))))
    {
        let candidate = candidates.iter().find(|candidate| candidate.id == *id).unwrap();
        let local = candidate.began.with_timezone(&zone).format("%a %Y-%m-%d %H:%M");
        lines.push((candidate.began, id, format!("{id}  {local}  {}{fate}", marks(candidate))));
    }
    lines.sort_by(|a, b| (b.0, b.1).cmp(&(a.0, a.1)));
    let mut text: String = lines.into_iter().map(|(_, _, line)| line + "\n").collect();
    for guard in &decided.guards {
        writeln!(text, "guard: {guard}").unwrap();
    }
    text
}

/// No rule, and none of the care that would hide what a rule does.
fn bare() -> Rules {
    Rules { min_keep: 0, remove_percent_max: 100, ..Rules::default() }
}

/// Reads `last 3, daily 7, within 2d`.
fn rules(text: &str) -> Rules {
    let mut rules = bare();
    for rule in text.split(", ").filter(|rule| !rule.is_empty()) {
        let (name, value) = rule.split_once(' ').unwrap();
        let count = value.parse().ok();
        match name {
            "last" => rules.last = count,
            "hourly" => rules.hourly = count,
            "daily" => rules.daily = count,
            "weekly" => rules.weekly = count,
            "monthly" => rules.monthly = count,
            "yearly" => rules.yearly = count,
            "within" => rules.within = Some(Within::parse(value).unwrap()),
            "min_keep" => rules.min_keep = count.unwrap(),
            _ => panic!("{name}"),
        }
    }
    rules
}

fn kept(candidates: &[Candidate], rules: &Rules, now: DateTime<Utc>, zone: Tz) -> Vec<SnapshotId> {
    decide(candidates, rules, now, zone).unwrap().keep.into_iter().map(|kept| kept.id).collect()
}

#[test]
fn rules_that_keep_nothing_are_refused_and_no_rules_keep_everything() {
    let all = history("2025-01-01 00:00\n2025-01-02 00:00\n2025-01-03 00:00 partial\n", Tz::UTC);
    let now = at("2025-06-01 00:00", Tz::UTC);
    for text in [
        "last 0",
        "daily 0",
        "last 0, hourly 0, daily 0, weekly 0, monthly 0, yearly 0",
        "min_keep 3, daily 0",
    ] {
        let failure = decide(&all, &rules(text), now, Tz::UTC).unwrap_err();
        assert_eq!(failure.exit(), ExitCode::Usage, "{text}");
        assert_eq!(failure.to_string(), "no rule of `retention` keeps anything");
        assert_eq!(failure.hints().len(), 1);
    }
    let decided = decide(&all, &bare(), now, Tz::UTC).unwrap();
    assert!(decided.remove.is_empty() && decided.guards.is_empty());
    assert!(decided.keep.iter().all(|kept| kept.reasons == [Reason::NoRule]));
}

#[test]
fn nothing_in_means_nothing_out() {
    assert_eq!(decide(&[], &rules("daily 7"), DateTime::UNIX_EPOCH, Tz::UTC).unwrap(), Decided::default());
}

#[test]
fn a_snapshot_that_is_listed_twice_is_refused() {
    let one = candidate(at("2025-01-01 00:00", Tz::UTC), 7);
    let failure = decide(&[one.clone(), one], &rules("daily 7"), DateTime::UNIX_EPOCH, Tz::UTC).unwrap_err();
    assert_eq!(failure.to_string(), "snapshot `20250101T000000Z-0007` is listed twice");
}

#[test]
fn two_snapshots_of_one_second_are_told_apart_by_their_ids() {
    let began = at("2025-01-01 00:00", Tz::UTC);
    let two = [candidate(began, 1), candidate(began, 2), candidate(began, 0)];
    assert_eq!(kept(&two, &rules("last 1"), began, Tz::UTC), [SnapshotId::at(began, 2)]);
}

#[test]
fn a_partial_snapshot_goes_only_when_a_complete_one_is_newer() {
    let text =
        "2025-01-01 02:00 partial\n2025-01-02 02:00 partial\n2025-01-02 02:00\n2025-01-03 02:00 partial\n";
    let all = history(text, Tz::UTC);
    let now = at("2025-06-01 00:00", Tz::UTC);
    let decided = decide(&all, &rules("last 1"), now, Tz::UTC).unwrap();
    assert_eq!(decided.remove, [Removed { id: all[0].id.clone(), reason: Gone::Partial }]);
    // While nothing is complete, the partial ones are all there is.
    let partial: Vec<Candidate> = all.into_iter().filter(|candidate| !candidate.complete).collect();
    assert_eq!(kept(&partial, &rules("last 1"), now, Tz::UTC).len(), 3);
}

#[test]
fn what_is_care_and_what_is_a_rule_read_differently() {
    let text = "
        2025-03-14 02:00
        2025-03-12 02:00 partial
        2025-03-11 02:00 partial pinned
        2025-03-10 03:00 partial
        2025-03-10 02:00
        2025-03-09 02:00 proven
        2025-03-08 02:00 partial proven
        2025-03-04 02:00 partial
        2025-03-04 01:59 partial
        2025-03-03 02:00
        2025-03-02 02:00 proven
        2025-03-01 02:00 pinned
        2025-02-28 02:00
        2025-02-27 02:00
    ";
    let all = history(text, Tz::UTC);
    let now = at("2025-03-11 02:00", Tz::UTC);
    insta::assert_snapshot!(table(&all, &rules("last 1, weekly 3, min_keep 2"), now, Tz::UTC));
}

#[test]
fn the_answer_is_written_as_text() {
    let all = history("2025-01-01 00:00\n2025-01-01 01:00\n2025-01-01 02:00 pinned\n", Tz::UTC);
    let mut rules = rules("last 1");
    rules.remove_percent_max = 30;
    let decided = decide(&all, &rules, at("2025-01-02 00:00", Tz::UTC), Tz::UTC).unwrap();
    insta::assert_json_snapshot!(decided);
}
