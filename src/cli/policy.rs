//! `lifeboat policy`.

use clap::{Args, Subcommand};
use serde_json::json;

use super::{json, say, session::Session};
use crate::{
    crypt::{Recipients, TrustedKeys},
    error::{Context, ExitCode, Failure, Result},
    jobs::registry,
    policy::{self, Problem, Stack},
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
        Verb::Show { .. } => show(&session.repository_of_stack()?, session.json),
        Verb::Schema => {
            say(&policy::schema().to_string());
            Ok(ExitCode::Ok)
        }
    }
}

fn show(stack: &Stack, json: bool) -> Result<ExitCode> {
    if json {
        let effective = serde_json::to_value(stack)
            .failed(ExitCode::Failed, || "the policy cannot be written".to_owned())?;
        json::print(&json::document("policy", json!({ "effective": effective })));
    } else {
        say(stack.effective()?.trim_end());
    }
    Ok(ExitCode::Ok)
}

fn check(session: &Session) -> Result<ExitCode> {
    let path = policy::find_policy(session.policy.clone())?;
    let stack = match Stack::load(&path) {
        Ok(stack) => stack,
        Err(problems) if session.json => {
            let facts = json!({ "valid": false, "problems": problems.problems });
            json::print(&json::document("policy", facts));
            return Ok(ExitCode::Usage);
        }
        Err(problems) => return Err(problems.into()),
    };
    let wrong = beyond_the_file(&stack);
    if session.json {
        let problems: Vec<Problem> = wrong.iter().map(|(key, failure)| problem(key, failure)).collect();
        json::print(&json::document("policy", json!({ "valid": wrong.is_empty(), "problems": problems })));
    } else {
        for (_, failure) in &wrong {
            session.screen.failure(failure);
        }
        if wrong.is_empty() {
            let count = stack.sources.len();
            let sources = if count == 1 { "source" } else { "sources" };
            session.report(&format!(
                "{}: stack {} with {count} {sources} is valid",
                path.display(),
                stack.name
            ));
        }
    }
    Ok(if wrong.is_empty() { ExitCode::Ok } else { ExitCode::Usage })
}

/// Returns what the text of the file cannot tell: secrets that cannot be read, keys that are none, what an engine
/// refuses.
fn beyond_the_file(stack: &Stack) -> Vec<(String, Failure)> {
    let settings = &stack.repository.settings;
    let secrets =
        stack.secrets().into_iter().filter_map(|(key, secret)| Some((key, secret.resolve().err()?)));
    let mut wrong: Vec<(String, Failure)> = secrets.collect();
    let recipients = Recipients::parse(&settings.recipients).err();
    wrong.extend(recipients.map(|failure| ("repository.recipients".to_owned(), failure)));
    let signers = TrustedKeys::parse(&settings.signers).err();
    wrong.extend(signers.map(|failure| ("repository.signers".to_owned(), failure)));
    if !settings.maintainers.is_empty() {
        let maintainers = TrustedKeys::parse(&settings.maintainers).err();
        wrong.extend(maintainers.map(|failure| ("repository.maintainers".to_owned(), failure)));
    }
    let judged = stack.sources.iter().filter_map(|source| Some((source, registry::judge(source).err()?)));
    wrong.extend(judged.map(|(source, failure)| (format!("source {}", source.name), failure)));
    wrong
}

/// Returns the failure in the form of the problems that have a line.
fn problem(key: &str, failure: &Failure) -> Problem {
    Problem {
        line: 0,
        column: 0,
        key: key.to_owned(),
        message: failure.one_line(),
        hint: failure.first_hint().map(str::to_owned),
    }
}
