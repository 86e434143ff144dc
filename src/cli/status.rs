//! `lifeboat status`.

use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;
use clap::Args;

use super::{json, say, screen::table, session::Session};
use crate::{
    drill::Way,
    error::{ExitCode, Result},
    jobs::{drilled, open, standing},
    names::ByteCount,
    status::{DrillStanding, PlaceStanding, Standing, TaskStanding, TaskState, Verdict},
};

/// Show how well the stack is protected.
#[derive(Debug, Args)]
pub struct Status {
    /// End with 1 unless all is good, for other programs
    #[arg(long)]
    check: bool,
}

pub(super) fn run(args: &Status, session: &Session) -> Result<ExitCode> {
    let stack = session.repository_of_stack()?;
    let ledger = open::ledger(&stack, &session.monitor())?;
    let standing = standing::gather(&stack, &ledger, session.ground.clock.now())?;
    let is_good = standing.verdict == Verdict::Good;
    if session.json {
        let facts = serde_json::to_value(&standing).unwrap_or_default();
        json::print(&json::document("status", facts));
    } else if !(session.quiet && is_good) {
        show(&standing, stack.timezone);
    }
    Ok(if args.check && !is_good { ExitCode::Failed } else { ExitCode::Ok })
}

fn show(standing: &Standing, zone: Tz) {
    let local = |time: DateTime<Utc>| time.with_timezone(&zone).format("%F %H:%M").to_string();
    let when = |time: Option<DateTime<Utc>>| {
        time.map_or("never".to_owned(), |time| format!("{} ({})", local(time), age(standing.at - time)))
    };
    say(&format!("{}: {}", standing.stack, standing.verdict.word()));
    for incident in &standing.incidents {
        let note = incident.acknowledged.as_ref().map(|note| format!(" [acknowledged: {note}]"));
        say(&format!(
            "  {} {}: {} (since {}){}",
            incident.number,
            incident.urgency.word(),
            incident.what,
            local(incident.opened),
            note.unwrap_or_default()
        ));
    }
    if let Some(why) = &standing.prune_frozen {
        say(&format!("  prune stands still: {why}"));
    }
    let mut sources = table(&["source", "can go back to", "from a copy, to", "what is in it"]);
    for source in &standing.sources {
        let counts: Vec<String> = source
            .counts
            .iter()
            .filter(|(what, _)| what != "entries")
            .map(|(what, value)| match what.as_str() {
                "bytes" => ByteCount(*value).to_string(),
                what => format!("{value} {what}"),
            })
            .collect();
        sources.add_row([
            source.name.clone(),
            when(source.point),
            when(source.point_offsite),
            counts.join(", "),
        ]);
    }
    say(&sources.to_string());
    let mut tasks = table(&["task", "state", "last success", "next"]);
    for one in &standing.tasks {
        let next = one.next.map_or("-".to_owned(), local);
        tasks.add_row([one.task.to_string(), state(one), when(one.last_success), next]);
    }
    say(&tasks.to_string());
    say(&drills(standing, &when));
    for place in &standing.places {
        say(&line(place, &when));
    }
}

/// Tells of the last drills, also that there was none: then it is not proven that anything can be restored.
fn drills(standing: &Standing, when: &dyn Fn(Option<DateTime<Utc>>) -> String) -> String {
    let is_late = |way: Way| {
        let task = drilled::task_of(way);
        standing.tasks.iter().any(|one| one.task == task && one.state == TaskState::Overdue)
    };
    let late = |way| if is_late(way) { "; overdue" } else { "" };
    let line = |name: &str, drill: &DrillStanding| {
        let [held, failed, unasked] = drill.assertions;
        let rto = drill.rto_seconds.map_or(String::new(), |seconds| format!("; restored in {seconds} s"));
        let word = drill.outcome.word().replace('_', " ");
        let (at, from, late) = (when(Some(drill.ended)), &drill.from, late(drill.way));
        format!(
            "{name}: {word}, {at}, from {from}{rto}; {held} held, {failed} failed, {unasked} not asked{late}"
        )
    };
    let restore = match &standing.drill {
        Some(drill) => line("last drill", drill),
        None => format!("last drill: none yet; no restore is proven{}", late(Way::Restore)),
    };
    match &standing.by_hand {
        Some(drill) => format!("{restore}\n{}", line("last drill by hand", drill)),
        None => restore,
    }
}

/// A run at work hides nothing: how the last one ended is told first.
fn state(one: &TaskStanding) -> String {
    let word = one.state.word();
    if one.running_since.is_some() { format!("{word}, running") } else { word.to_owned() }
}

fn line(place: &PlaceStanding, when: &dyn Fn(Option<DateTime<Utc>>) -> String) -> String {
    let bytes = |count: Option<u64>| count.map_or("unknown".to_owned(), |count| ByteCount(count).to_string());
    let count = place.snapshots.map_or("an unknown number of".to_owned(), |count| count.to_string());
    let mut text = format!(
        "{}: {count} snapshots, the newest {}; {} stored",
        place.name,
        when(place.newest_began),
        bytes(place.stored_bytes)
    );
    if place.proven > 0 {
        text = format!("{text}; {} proven by a drill", place.proven);
    }
    match place.lag_seconds {
        Some(0) => text.push_str("; has all"),
        Some(seconds) => {
            let behind = TimeDelta::seconds(i64::try_from(seconds).unwrap_or(i64::MAX / 1000));
            text = format!("{text}; lacks a snapshot that is {} old", age(behind).trim_end_matches(" ago"));
        }
        None if place.is_offsite => text.push_str("; how far it is behind is unknown"),
        None => {}
    }
    text
}

/// Says how long ago something was, in its largest unit.
fn age(time: TimeDelta) -> String {
    match (time.num_days(), time.num_hours(), time.num_minutes()) {
        (0, 0, minutes) if minutes < 1 => "just now".to_owned(),
        (0, 0, minutes) => format!("{minutes} min ago"),
        (0, hours, _) => format!("{hours} h ago"),
        (days, ..) => format!("{days} d ago"),
    }
}
