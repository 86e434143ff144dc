//! The command line: one file for each verb, the screen and the JSON face.

mod backup;
mod catalog;
mod export;
mod init;
mod json;
mod ls;
mod policy;
mod restore;
mod screen;
mod session;
mod snapshots;
mod verify;

use std::{io::Write, path::PathBuf, sync::Arc};

use clap::{CommandFactory, Parser, Subcommand};

use self::{screen::Screen, session::Session};
use crate::{
    clock::Ground,
    error::{Context, ExitCode, Failure, Result},
};

const EXIT_CODES: &str = "\
Exit codes:
    0  done                          20  a server does not answer or refuses us
    1  failed                        21  the target of a restore is not empty
    2  wrong command line or policy  22  tampering: changed by someone without the key
    3  partial: something is missing 30  the store does not answer, is full or refuses us
   10  no repository                 40  damage: stored bytes are missing or changed
   11  busy: another run is at work  41  a drill failed    42  a drill could not run
   12  a key is missing or wrong    130  interrupted";

/// Backup and disaster recovery for stacks of MySQL, Redis, S3 object stores and files.
#[derive(Debug, Parser)]
#[command(name = "lifeboat", version, after_help = EXIT_CODES, disable_help_subcommand = true)]
pub struct Args {
    /// The policy file [default: ./lifeboat.toml, then /etc/lifeboat/policy.toml]
    #[arg(long, global = true, env = "LIFEBOAT_POLICY", value_name = "FILE")]
    policy: Option<PathBuf>,
    /// The age identity that opens the data (`identity.txt` of the keys folder when it is there)
    #[arg(long, global = true, env = "LIFEBOAT_IDENTITY", value_name = "FILE")]
    identity: Option<PathBuf>,
    /// Print one JSON document on stdout
    #[arg(long, global = true)]
    json: bool,
    /// Say only what is wrong
    #[arg(long, global = true, conflicts_with = "verbose")]
    quiet: bool,
    /// Say every step
    #[arg(short, long, global = true)]
    verbose: bool,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make keys, a repository and a starter policy
    Init(init::Init),
    /// Check or show the policy
    Policy(policy::Policy),
    /// Make a snapshot now
    Backup(backup::Backup),
    /// List the restore points
    Snapshots,
    /// List the entries of a snapshot
    Ls(ls::Ls),
    /// Restore a snapshot: shows the plan, asks, restores, verifies
    Restore(restore::Restore),
    /// Write entries of a snapshot to stdout
    Export(export::Export),
    /// Look for damage and tampering
    Verify(verify::Verify),
    /// The local memory of what the repository holds
    Catalog(catalog::Catalog),
    /// Print the completions of a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// Runs the program and returns how it ends.
pub fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            // Clap prints help and version with success, everything else as a usage error.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::Usage } else { ExitCode::Ok };
        }
    };
    let (json, screen) = (args.json, Arc::new(Screen::new(args.quiet, args.verbose)));
    let ended = runtime().and_then(|runtime| {
        let ended = runtime.block_on(until_interrupted(run(args, screen.clone())));
        // A blocking read of a terminal must not keep a process that was told to stop.
        runtime.shutdown_background();
        ended
    });
    screen.end();
    match ended {
        Ok(exit) => exit,
        Err(failure) => {
            screen.failure(&failure);
            if json {
                json::print(&json::failure(&failure));
            }
            failure.exit()
        }
    }
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .failed(ExitCode::Failed, || "the runtime cannot be started".to_owned())
}

/// Runs a job until it ends or a signal says stop. A job that is dropped leaves nothing half done that anybody
/// would take for whole, so stopping is nothing more than this.
async fn until_interrupted(job: impl Future<Output = Result<ExitCode>>) -> Result<ExitCode> {
    use tokio::signal::unix::{SignalKind, signal};
    let listen = |kind| signal(kind).failed(ExitCode::Failed, || "signals cannot be heard".to_owned());
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    tokio::select! {
        ended = job => ended,
        _ = interrupt.recv() => Err(stopped("SIGINT")),
        _ = terminate.recv() => Err(stopped("SIGTERM")),
    }
}

fn stopped(signal: &str) -> Failure {
    Failure::new(ExitCode::Interrupted, format!("stopped by {signal}"))
        .hint("Nothing half done counts; run it again. What was stored already is used again.")
}

async fn run(args: Args, screen: Arc<Screen>) -> Result<ExitCode> {
    let Args { policy, identity, json, verb, .. } = args;
    let session = Session { policy, identity, json, screen, ground: Ground::system() };
    match verb {
        Verb::Init(verb) => init::run(verb, &session).await,
        Verb::Policy(verb) => policy::run(&verb, &session),
        Verb::Backup(verb) => backup::run(verb, &session).await,
        Verb::Snapshots => snapshots::run(&session).await,
        Verb::Ls(verb) => ls::run(verb, &session).await,
        Verb::Restore(verb) => restore::run(verb, &session).await,
        Verb::Export(verb) => export::run(verb, &session).await,
        Verb::Verify(verb) => verify::run(verb, &session).await,
        Verb::Catalog(verb) => catalog::run(&verb, &session).await,
        Verb::Completions { shell } => {
            clap_complete::generate(shell, &mut Args::command(), "lifeboat", &mut std::io::stdout());
            Ok(ExitCode::Ok)
        }
    }
}

/// Writes a line to stdout. A reader that went away (`| head`) is no failure of ours.
fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Args::command().debug_assert();
    }
}
