//! `lifeboat notify`.

use clap::Subcommand;
use serde_json::json;

use super::{json, say, session::Session};
use crate::{
    error::{ExitCode, Result},
    jobs::{
        notify::{self, Trial},
        open, standing,
    },
    notify::Topic,
};

/// The arguments of `notify`.
#[derive(Debug, clap::Args)]
pub struct Notify {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Send a test message right now
    Test {
        /// Names of channels of the policy [default: all, fallbacks too]
        #[arg(value_name = "CHANNEL")]
        channels: Vec<String>,
        /// Send the daily report as it is now
        #[arg(long)]
        digest: bool,
    },
}

pub(super) async fn run(verb: Notify, session: &Session) -> Result<ExitCode> {
    let Verb::Test { channels, digest } = verb.verb;
    let stack = session.repository_of_stack()?;
    let monitor = session.monitor();
    let ledger = open::ledger(&stack, &monitor)?;
    let topic = if digest {
        Topic::Digest(Box::new(standing::gather(&stack, &ledger, session.ground.clock.now())?))
    } else {
        Topic::Test
    };
    let trials = notify::try_out(&stack, &ledger, &channels, topic, &session.ground).await?;
    for failure in trials.iter().filter_map(|trial| trial.unnoted.as_ref()) {
        monitor.warn(None, failure.one_line(), failure.first_hint());
    }
    if session.json {
        let channels: Vec<_> = trials.iter().map(facts).collect();
        json::print(&json::document("notify", json!({ "channels": channels })));
    } else {
        for trial in &trials {
            show(trial, session);
        }
    }
    let is_refused = trials.iter().any(|trial| trial.ended.is_err());
    Ok(if is_refused { ExitCode::Failed } else { ExitCode::Ok })
}

fn facts(trial: &Trial<'_>) -> serde_json::Value {
    let refused = trial.ended.as_ref().err();
    json!({
        "name": trial.channel.name,
        "kind": trial.channel.channel.word(),
        "status": if refused.is_some() { "refused" } else { "sent" },
        "error": refused.map(|refused| &refused.why),
        "hint": refused.and_then(|refused| refused.hint.as_ref()),
    })
}

fn show(trial: &Trial<'_>, session: &Session) {
    let name = format!("{} ({})", trial.channel.name, trial.channel.channel.word());
    match &trial.ended {
        Ok(()) => session.report(&format!("{name}: sent")),
        Err(refused) => {
            say(&format!("{name}: refused: {}", refused.why));
            if let Some(hint) = &refused.hint {
                say(&format!("    hint: {hint}"));
            }
        }
    }
}
