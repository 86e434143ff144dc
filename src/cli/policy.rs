//! `lifeboat policy`.

use clap::{Args, Subcommand};
use serde_json::json;

use super::{json, say, session::Session};
use crate::{
    crypt::{Recipients, TrustedKeys},
    error::{ExitCode, Failure, Result},
    policy::{self, Stack},
};

/// Check or show the policy.
#[derive(Debug, Args)]
pub struct Policy {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Check every line, and that every secret can be read
    Check,
    /// Show it
    Show {
        /// With every default filled in
        #[arg(long, required = true)]
        effective: bool,
    },
    /// Print the JSON schema of policy files
    Schema,
}

pub(super) fn run(args: &Policy, session: &Session) -> Result<ExitCode> {
    match args.verb {
        Verb::Check => check(session),
        Verb::Show { .. } => {
            say(session.stack()?.effective()?.trim_end());
            Ok(ExitCode::Ok)
        }
        Verb::Schema => {
            say(&policy::schema().to_string());
            Ok(ExitCode::Ok)
        }
    }
}

fn check(session: &Session) -> Result<ExitCode> {
    let path = policy::find_policy(session.policy.clone())?;
    let stack = match Stack::load(&path) {
        Ok(stack) => stack,
        Err(problems) => {
            if session.json {
                json::print(&json::document(
                    "policy",
                    json!({ "valid": false, "problems": problems.problems }),
                ));
                return Ok(ExitCode::Usage);
            }
            return Err(problems.into());
        }
    };
    let mut wrong: Vec<Failure> = Vec::new();
    wrong.extend(stack.secrets().into_iter().filter_map(|(_, secret)| secret.resolve().err()));
    wrong.extend(Recipients::parse(&stack.repository.settings.recipients).err());
    wrong.extend(TrustedKeys::parse(&stack.repository.settings.signers).err());
    if session.json {
        let problems: Vec<_> = wrong
            .iter()
            .map(|failure| json!({ "message": failure.chain().join(": "), "hint": failure.hints().first() }))
            .collect();
        json::print(&json::document("policy", json!({ "valid": wrong.is_empty(), "problems": problems })));
    } else {
        for failure in &wrong {
            session.screen.failure(failure);
        }
        if wrong.is_empty() {
            say(&format!(
                "{}: stack {} with {} sources is valid",
                path.display(),
                stack.name,
                stack.sources.len()
            ));
        }
    }
    Ok(if wrong.is_empty() { ExitCode::Ok } else { ExitCode::Usage })
}
