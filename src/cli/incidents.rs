//! `lifeboat incidents`.

use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;
use clap::{Args, Subcommand};
use serde_json::json;

use super::{json, say, session::Session};
use crate::{
    catalog::Catalog,
    error::{ExitCode, Failure, Result},
    jobs::{open, watch},
    status::Incident,
};

/// How long what is over is listed.
const RESOLVED_SHOWN: TimeDelta = TimeDelta::days(7);
/// A mute longer than this is a way to forget.
const MUTE_HOURS_MAX: u32 = 24 * 30;

/// What is wrong, since when, and what was said to it.
#[derive(Debug, Args)]
pub struct Incidents {
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List what is wrong, and what was in the last week [default]
    List,
    /// Say that a person has looked: nobody is reminded any more, and prune goes on
    Acknowledge {
        /// The incident
        number: i64,
        /// What the person found
        #[arg(long)]
        note: String,
    },
    /// Remind nobody for some hours
    Mute {
        /// The incident
        number: i64,
        /// For how long
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..=i64::from(MUTE_HOURS_MAX)))]
        hours: u32,
    },
}

pub(super) fn run(args: &Incidents, session: &Session) -> Result<ExitCode> {
    let stack = session.repository_of_stack()?;
    let ledger = open::ledger(&stack, &session.monitor())?;
    let now = session.ground.clock.now();
    match &args.verb {
        None | Some(Verb::List) => list(&ledger, session, stack.timezone, now)?,
        Some(Verb::Acknowledge { number, note }) => {
            let note = note.trim();
            if note.is_empty() {
                return Err(Failure::new(ExitCode::Usage, "the note is empty")
                    .hint("Write what you found; the next person reads it."));
            }
            let incident = watch::acknowledge(&stack, &ledger, *number, note, &session.ground)?;
            changed(session, &incident, &format!("incident {number} is acknowledged: {note}"));
        }
        Some(Verb::Mute { number, hours }) => {
            let until = now + TimeDelta::hours(i64::from(*hours));
            let incident = Incident { muted_until: Some(until), ..watch::open_one(&ledger, *number)? };
            ledger.mute(*number, until)?;
            let local = until.with_timezone(&stack.timezone).format("%F %H:%M");
            changed(session, &incident, &format!("nobody is reminded of incident {number} until {local}"));
        }
    }
    Ok(ExitCode::Ok)
}

fn changed(session: &Session, incident: &Incident, text: &str) {
    if session.json {
        json::print(&json::document("incidents", json!({ "incident": incident })));
    } else {
        session.report(text);
    }
}

fn list(ledger: &Catalog, session: &Session, zone: Tz, now: DateTime<Utc>) -> Result<()> {
    let (open, resolved) = (ledger.open_incidents()?, ledger.resolved_incidents(now - RESOLVED_SHOWN)?);
    if session.json {
        json::print(&json::document("incidents", json!({ "open": open, "resolved": resolved })));
        return Ok(());
    }
    if open.is_empty() {
        say("nothing is wrong that is known");
    }
    for incident in open.iter().chain(&resolved) {
        for line in lines(incident, zone) {
            say(&line);
        }
    }
    Ok(())
}

fn lines(incident: &Incident, zone: Tz) -> Vec<String> {
    let local = |time: DateTime<Utc>| time.with_timezone(&zone).format("%F %H:%M").to_string();
    let until = match incident.resolved {
        Some(over) => format!("from {} to {}", local(incident.opened), local(over)),
        None => format!("since {}", local(incident.opened)),
    };
    let lead = format!("{} {} {} {until}", incident.number, incident.urgency.word(), incident.kind.word());
    let mut lines = vec![lead, format!("   {}", incident.what)];
    if incident.resolved.is_none() {
        lines.extend(incident.hint.iter().map(|hint| format!("   hint: {hint}")));
    }
    lines.extend(incident.acknowledged.iter().map(|note| format!("   acknowledged: {note}")));
    lines.extend(incident.muted_until.map(|until| format!("   muted until {}", local(until))));
    lines
}
