//! 7 days, 4 weeks and 3 months over a year of nights, each followed by its prune.

use chrono::Days;

use super::*;

const ZONE: Tz = Tz::Asia__Shanghai;

/// Nights whose prune is shown: the first weeks, month borders, a drill on the first of each month.
const SHOWN: [&str; 10] = [
    "2025-01-03",
    "2025-01-07",
    "2025-01-08",
    "2025-01-09",
    "2025-01-31",
    "2025-02-28",
    "2025-04-01",
    "2025-10-12",
    "2025-12-31",
    "2026-01-01",
];

#[test]
fn seven_days_four_weeks_and_three_months_over_a_year_of_nights() {
    let rules = Rules { daily: Some(7), weekly: Some(4), monthly: Some(3), ..Rules::default() };
    let mut left: Vec<Candidate> = Vec::new();
    let mut text = String::new();
    let first = at("2025-01-01 02:00", ZONE);
    for night in 0..=365 {
        let began = first + Days::new(night);
        let now = began + TimeDelta::minutes(150);
        let day = began.with_timezone(&ZONE).format("%Y-%m-%d").to_string();
        left.push(Candidate { proven: day.ends_with("-01"), ..candidate(began, 0) });
        if SHOWN.contains(&day.as_str()) {
            writeln!(text, "== night of {day}\n{}", table(&left, &rules, now, ZONE)).unwrap();
        }
        let decided = decide(&left, &rules, now, ZONE).unwrap();
        assert!(decided.guards.is_empty() && decided.remove.len() <= 4, "{day}: {decided:#?}");
        left.retain(|candidate| decided.keep.iter().any(|kept| kept.id == candidate.id));
        assert!(left.len() <= 15, "{day}");
    }
    insta::assert_snapshot!(text);
}
