//! Days, hours and weeks of one zone: when the clock is changed, half hours, year borders, and spans back.

use super::*;

fn periods(unit: Unit, zone: Tz, instants: &[&str]) -> Vec<String> {
    instants.iter().map(|utc| unit.period_of(at(utc, Tz::UTC), zone).to_string()).collect()
}

#[test]
fn a_day_begins_at_midnight_of_the_zone() {
    let instants = ["2025-10-10 15:59", "2025-10-10 16:00", "2025-10-10 18:29", "2025-10-10 18:30"];
    let days = |zone| periods(Unit::Day, zone, &instants);
    let (tenth, next) = ("daily 2025-10-10", "daily 2025-10-11");
    assert_eq!(days(Tz::Asia__Shanghai), [tenth, next, next, next]);
    assert_eq!(days(Tz::Asia__Kolkata), [tenth, tenth, tenth, next]);
    assert_eq!(days(Tz::UTC), [tenth, tenth, tenth, tenth]);
}

#[test]
fn hours_of_a_half_hour_zone_begin_on_the_half_hour() {
    assert_eq!(
        periods(Unit::Hour, Tz::Asia__Kolkata, &["2025-10-10 18:29", "2025-10-10 18:30", "2025-10-10 19:29"]),
        [
            "hourly 2025-10-10 23:00 +05:30",
            "hourly 2025-10-11 00:00 +05:30",
            "hourly 2025-10-11 00:00 +05:30"
        ]
    );
}

#[test]
fn an_hour_that_the_clock_shows_twice_is_two_hours() {
    assert_eq!(
        periods(
            Unit::Hour,
            Tz::Europe__Berlin,
            &["2025-10-26 00:30", "2025-10-26 01:30", "2025-10-26 02:30"]
        ),
        [
            "hourly 2025-10-26 02:00 +02:00",
            "hourly 2025-10-26 02:00 +01:00",
            "hourly 2025-10-26 03:00 +01:00"
        ]
    );
    // Lord Howe's clock goes back by half an hour: 01:30 to 02:00 is shown twice.
    assert_eq!(
        periods(Unit::Hour, Tz::Australia__Lord_Howe, &["2025-04-05 14:45", "2025-04-05 15:15"]),
        ["hourly 2025-04-06 01:00 +11:00", "hourly 2025-04-06 01:00 +10:30"]
    );
}

#[test]
fn weeks_begin_on_monday_and_belong_to_the_year_of_their_thursday() {
    let days =
        ["2026-12-27 12:00", "2026-12-28 12:00", "2027-01-03 12:00", "2027-01-04 12:00", "2024-12-30 12:00"];
    let weeks =
        ["2026-W52", "2026-W53", "2026-W53", "2027-W01", "2025-W01"].map(|week| format!("weekly {week}"));
    assert_eq!(periods(Unit::Week, Tz::UTC, &days), weeks);
}

#[test]
fn a_year_border_falls_into_one_week_and_two_of_all_else() {
    let first = at("2026-12-20 02:00", Tz::Asia__Shanghai);
    let all: Vec<Candidate> = (0..18).map(|n| candidate(first + TimeDelta::days(i64::from(n)), n)).collect();
    let now = at("2027-01-06 04:30", Tz::Asia__Shanghai);
    insta::assert_snapshot!(table(
        &all,
        &rules("daily 2, weekly 3, monthly 2, yearly 2"),
        now,
        Tz::Asia__Shanghai
    ));
}

#[test]
fn nights_when_the_clock_is_changed_are_one_day_each() {
    let zone = Tz::Europe__Berlin;
    let begin = at("2025-10-25 00:15", zone);
    let all: Vec<Candidate> = (0..13).map(|n| candidate(begin + TimeDelta::hours(n * 4), 0)).collect();
    let autumn = table(&all, &rules("hourly 3, daily 3"), begin + TimeDelta::days(3), zone);
    let begin = at("2025-03-29 00:15", zone);
    let all: Vec<Candidate> = (0..13).map(|n| candidate(begin + TimeDelta::hours(n * 4), 0)).collect();
    let spring = table(&all, &rules("hourly 3, daily 3"), begin + TimeDelta::days(3), zone);
    insta::assert_snapshot!(format!("{autumn}\n{spring}"));
}

#[test]
fn spans_are_read_strictly() {
    for good in ["1h", "48h", "7d", "4w", "6m", "1y", "9999y"] {
        assert_eq!(Within::parse(good).unwrap().to_string(), good);
    }
    for bad in [
        "",
        "d",
        "7",
        "7 d",
        "7D",
        "+7d",
        "-7d",
        "0d",
        "007x",
        "10000h",
        "1d12h",
        "７d",
        "7天",
        "99999999999d",
    ] {
        let failure = Within::parse(bad).unwrap_err();
        assert_eq!(failure.to_string(), format!("`{bad}` is no span of time"));
        assert_eq!(failure.exit(), ExitCode::Usage);
    }
}

#[test]
fn spans_follow_the_calendar() {
    let zone = Tz::Europe__Berlin;
    let before = |span: &str, newest: &str| {
        let border = Within::parse(span).unwrap().before(at(newest, zone), zone);
        border.with_timezone(&zone).format("%Y-%m-%d %H:%M %:z").to_string()
    };
    // The clock was changed on 2025-10-26: days keep the time of the day, hours do not.
    assert_eq!(before("7d", "2025-10-30 02:00"), "2025-10-23 02:00 +02:00");
    assert_eq!(before("168h", "2025-10-30 02:00"), "2025-10-23 03:00 +02:00");
    assert_eq!(before("2w", "2025-11-06 02:00"), "2025-10-23 02:00 +02:00");
    // Months end on different days.
    assert_eq!(before("1m", "2025-03-31 12:00"), "2025-02-28 12:00 +01:00");
    assert_eq!(before("1m", "2024-03-31 12:00"), "2024-02-29 12:00 +01:00");
    assert_eq!(before("1y", "2024-02-29 12:00"), "2023-02-28 12:00 +01:00");
    assert_eq!(before("13m", "2025-01-15 12:00"), "2023-12-15 12:00 +01:00");
    // 02:30 was shown twice on 2025-10-26 and not at all on 2025-03-30: the earlier reading.
    assert_eq!(before("1d", "2025-10-27 02:30"), "2025-10-26 02:30 +02:00");
    assert_eq!(before("1d", "2025-03-31 02:30"), "2025-03-30 01:30 +01:00");
    assert_eq!(before("9999y", "2025-03-31 02:30"), "-7974-03-31 02:30 +00:53");
}

#[test]
fn within_is_strict_and_does_not_look_at_the_future() {
    let text = "2025-10-01 02:00\n2025-10-02 02:00\n2025-10-02 02:01\n2025-10-09 02:00\n2025-10-20 02:00\n";
    let all = history(text, Tz::Asia__Shanghai);
    let now = at("2025-10-10 00:00", Tz::Asia__Shanghai);
    insta::assert_snapshot!(table(&all, &rules("within 7d"), now, Tz::Asia__Shanghai), @r"
    20251019T180000Z-0004  Mon 2025-10-20 02:00  keep    future date, displaces nothing
    20251008T180000Z-0003  Thu 2025-10-09 02:00  keep    within 7d
    20251001T180100Z-0002  Thu 2025-10-02 02:01  keep    within 7d
    20251001T180000Z-0001  Thu 2025-10-02 02:00  remove  no rule keeps it
    20250930T180000Z-0000  Wed 2025-10-01 02:00  remove  no rule keeps it
    ");
}
