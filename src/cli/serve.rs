//! `lifeboat serve`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::session::Session;
use crate::{
    error::{ExitCode, Failure, Result},
    names::Job,
    policy,
    serve::{self, Format, Options},
};

/// Run the schedule: backups, copies, prune, checks, reports, metrics and messages.
#[derive(Debug, Args)]
pub struct Serve {
    /// Where metrics and health are told [default: the policy's]
    #[arg(long, value_name = "ADDRESS", conflicts_with = "once")]
    listen: Option<String>,
    /// A file for the metrics, for the node exporter's textfile collector [default: the policy's]
    #[arg(long, value_name = "FILE")]
    textfile: Option<PathBuf>,
    /// How lines of the log are written
    #[arg(long, value_enum, default_value = "text", value_name = "FORM")]
    log: Lines,
    /// Do what is due, or these jobs, once and end: for a timer of the system
    #[arg(long, num_args = 0.., value_name = "JOB")]
    once: Option<Vec<String>>,
}

/// How lines of the log are written.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Lines {
    /// For people
    Text,
    /// An object a line
    Json,
}

pub(super) async fn run(args: Serve, session: &Session) -> Result<ExitCode> {
    let format = match args.log {
        Lines::Text => Format::Text,
        Lines::Json => Format::Json,
    };
    let (stack, ground) = (session.stack()?, session.ground.clone());
    if let Some(words) = &args.once {
        let jobs = words.iter().map(|word| job(word)).collect::<Result<Vec<Job>>>()?;
        return serve::once(stack, &jobs, args.textfile, format, ground, &session.stop).await;
    }
    if stack.schedule.jobs().next().is_none() {
        return Err(Failure::new(ExitCode::Usage, "nothing is on the schedule")
            .hint("Add a [schedule] to the policy: `backup = \"0 2 * * *\"`."));
    }
    let policy = policy::find_policy(session.policy.clone())?;
    let options = Options { policy, stack, listen: args.listen, textfile: args.textfile, format, ground };
    serve::serve(options).await?;
    Ok(ExitCode::Ok)
}

fn job(word: &str) -> Result<Job> {
    Job::of(word).ok_or_else(|| {
        let words: Vec<&str> = Job::ALL.into_iter().map(Job::word).collect();
        Failure::new(ExitCode::Usage, format!("`{word}` is no job of a schedule"))
            .hint(format!("It may be one of {}.", words.join(", ")))
    })
}
