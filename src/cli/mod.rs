//! The command line: one file for each verb, the screen and the JSON face.

mod backup;
mod catalog;
mod choices;
mod copies;
mod doctor;
mod drill;
mod export;
mod incidents;
mod init;
mod instant;
mod json;
mod keys;
mod kit;
mod lock;
mod ls;
mod notify;
mod passphrase;
mod policy;
mod prune;
mod redis_choices;
mod restore;
mod s3_choices;
mod screen;
mod serve;
mod session;
mod snapshots;
mod status;
mod sync;
mod verify;

use std::{
    io::{self, Write},
    path::PathBuf,
    sync::{Arc, OnceLock},
    time::Duration,
};

use clap::{CommandFactory, Parser, Subcommand};
use tokio_util::sync::CancellationToken;

use self::{passphrase::Asking, screen::Screen, session::Session};
use crate::{
    clock::Ground,
    error::{Context, ExitCode, Failure, Result},
    jobs::run::interrupted,
};

/// How long a run that was asked to end may take to finish what it has in hand.
const STOP_PATIENCE: Duration = Duration::from_secs(20);

/// The same, for a drill: it removes its lab.
const LAB_PATIENCE: Duration = Duration::from_mins(1);

/// The same, for a restore: a server that follows us has to be let go, and may be loading what it was sent.
const RESTORE_PATIENCE: Duration = Duration::from_mins(3);

/// The same, for the service: it waits for its runs and then for its last messages.
const SERVICE_PATIENCE: Duration = Duration::from_secs(150);

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
    /// The file with the passphrase of a protected identity; asked for at the terminal when not given
    #[arg(long, global = true, env = "LIFEBOAT_PASSPHRASE_FILE", value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
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
    /// Look at all that the next backup will need
    Doctor(doctor::Doctor),
    /// Make a snapshot now
    Backup(backup::Backup),
    /// List the restore points
    Snapshots(snapshots::Snapshots),
    /// List the entries of a snapshot
    Ls(ls::Ls),
    /// Restore a snapshot: shows the plan, asks, restores, verifies
    Restore(restore::Restore),
    /// Write entries of a snapshot to stdout
    Export(export::Export),
    /// Look for damage and tampering
    Verify(verify::Verify),
    /// Look at keys, make them and protect them
    Keys(keys::Keys),
    /// Make a recovery sheet to print
    Kit(kit::Kit),
    /// Copy snapshots to an offsite repository
    Sync(sync::Sync),
    /// Forget what no rule keeps, and remove what nobody needs
    Prune(prune::Prune),
    /// Restore everything into throwaway servers, and ask whether it is what was backed up
    Drill(drill::Drill),
    /// Run the schedule: backups, copies, prune, checks, reports, metrics and messages
    Serve(serve::Serve),
    /// Show how well the stack is protected
    Status(status::Status),
    /// What is wrong, since when, and what was said to it
    Incidents(incidents::Incidents),
    /// Show how an offsite's Object Lock is, renew it, or try to break it
    Lock(lock::Lock),
    /// Try out the ways to tell people
    Notify(notify::Notify),
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
            if !error.use_stderr() {
                return ExitCode::Ok;
            }
            if std::env::args_os().any(|argument| argument == "--json") {
                json::print(&json::failure(&misspoken(&error)));
            }
            return ExitCode::Usage;
        }
    };
    // The bytes of an export must not be followed by anything.
    let json = args.json && !matches!(args.verb, Verb::Export(_) | Verb::Completions { .. });
    let screen = Arc::new(Screen::new(args.quiet, args.verbose));
    let stop = CancellationToken::new();
    let ended = runtime().and_then(|runtime| {
        let ended = runtime.block_on(until_interrupted(
            stop.clone(),
            args.verb.patience(),
            run(args, screen.clone(), stop),
        ));
        // A blocking read of a terminal must not keep a process that was told to stop.
        runtime.shutdown_background();
        ended
    });
    screen.end();
    match ended.and_then(|exit| check_output().map(|()| exit)) {
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

/// Returns what is wrong with the command line, as a failure.
fn misspoken(error: &clap::Error) -> Failure {
    let text = error.to_string();
    let first = text.lines().next().unwrap_or_default();
    Failure::new(ExitCode::Usage, "the command line is wrong")
        .because(first.trim_start_matches("error: "))
        .hint("See `lifeboat --help`.")
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .failed(ExitCode::Failed, || "the runtime cannot be started".to_owned())
}

/// Runs a job until it ends or a signal says stop. The first signal asks the job to end, which finishes what it has
/// in hand; the second one, or patience that ran out, drops it: nothing half done is left that anybody would take for
/// whole, so that is safe too.
async fn until_interrupted(
    stop: CancellationToken,
    patience: Duration,
    job: impl Future<Output = Result<ExitCode>>,
) -> Result<ExitCode> {
    use tokio::signal::unix::{SignalKind, signal};
    let listen = |kind| signal(kind).failed(ExitCode::Failed, || "signals cannot be heard".to_owned());
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    let mut job = std::pin::pin!(job);
    let heard = tokio::select! {
        ended = &mut job => return ended,
        _ = interrupt.recv() => "SIGINT",
        _ = terminate.recv() => "SIGTERM",
    };
    stop.cancel();
    tokio::select! {
        ended = &mut job => match ended {
            Err(failure) if failure.exit() == ExitCode::Interrupted => Err(ended_by(heard, failure)),
            ended => ended,
        },
        _ = interrupt.recv() => Err(stopped(heard)),
        _ = terminate.recv() => Err(stopped(heard)),
        () = tokio::time::sleep(patience) => Err(stopped(heard)),
    }
}

impl Verb {
    /// Returns how long the verb may take to end when it is asked to.
    fn patience(&self) -> Duration {
        match self {
            Self::Backup(_) | Self::Sync(_) | Self::Verify(_) => STOP_PATIENCE,
            Self::Drill(_) => LAB_PATIENCE,
            Self::Restore(_) => RESTORE_PATIENCE,
            Self::Serve(_) => SERVICE_PATIENCE,
            _ => Duration::ZERO,
        }
    }
}

fn stopped(signal: &str) -> Failure {
    interrupted(format!("stopped by {signal}"))
}

/// Says which signal a job ended by, and what it says of its end: it alone knows what it left.
fn ended_by(signal: &str, failure: Failure) -> Failure {
    let hints = failure.hints().to_vec();
    let told = Failure::new(ExitCode::Interrupted, format!("stopped by {signal}")).because(failure);
    hints.into_iter().fold(told, Failure::hint)
}

async fn run(args: Args, screen: Arc<Screen>, stop: CancellationToken) -> Result<ExitCode> {
    let Args { policy, identity, passphrase_file, json, quiet, verb, .. } = args;
    let passphrase = Asking { file: passphrase_file };
    let ground = Ground::system();
    let session = Session { policy, identity, passphrase, json, quiet, screen, ground, stop };
    match verb {
        Verb::Init(verb) => init::run(verb, &session).await,
        Verb::Policy(verb) => policy::run(&verb, &session),
        Verb::Doctor(verb) => doctor::run(verb, &session).await,
        Verb::Backup(verb) => backup::run(verb, &session).await,
        Verb::Snapshots(verb) => snapshots::run(verb, &session).await,
        Verb::Ls(verb) => ls::run(verb, &session).await,
        // A restore holds more on its way than belongs on a stack.
        Verb::Restore(verb) => Box::pin(restore::run(verb, &session)).await,
        Verb::Export(verb) => export::run(verb, &session).await,
        Verb::Verify(verb) => verify::run(verb, &session).await,
        Verb::Keys(verb) => keys::run(verb, &session).await,
        Verb::Kit(verb) => kit::run(verb, &session).await,
        Verb::Sync(verb) => sync::run(verb, &session).await,
        Verb::Prune(verb) => prune::run(verb, &session).await,
        Verb::Drill(verb) => Box::pin(drill::run(verb, &session)).await,
        Verb::Serve(verb) => Box::pin(serve::run(verb, &session)).await,
        Verb::Status(verb) => status::run(&verb, &session),
        Verb::Incidents(verb) => incidents::run(&verb, &session),
        Verb::Lock(verb) => lock::run(verb, &session).await,
        Verb::Notify(verb) => notify::run(verb, &session).await,
        Verb::Catalog(verb) => catalog::run(&verb, &session).await,
        Verb::Completions { shell } => {
            // By way of memory: the generator panics when its reader goes away.
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Args::command(), "lifeboat", &mut script);
            say(String::from_utf8_lossy(&script).trim_end());
            Ok(ExitCode::Ok)
        }
    }
}

/// What stdout said when it took no more.
static OUTPUT_ENDED: OnceLock<io::Error> = OnceLock::new();

/// Writes a line to stdout.
fn say(line: &str) {
    if let Err(cause) = writeln!(io::stdout(), "{line}") {
        OUTPUT_ENDED.get_or_init(|| cause);
    }
}

/// Returns whether nobody hears any more what is said.
fn output_ended() -> bool {
    OUTPUT_ENDED.get().is_some()
}

/// Fails when stdout did not take all that was said, as on a full disk. A reader that went away (`| head`)
/// had enough: that is no failure.
fn check_output() -> Result<()> {
    match OUTPUT_ENDED.get() {
        Some(cause) if cause.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::new(ExitCode::Failed, "the output cannot be written").because(cause.to_string()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Args::command().debug_assert();
    }
}
