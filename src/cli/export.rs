//! `lifeboat export`.

use clap::{Args, ValueEnum};

use super::session::{Origin, Session};
use crate::{
    error::{Context, ExitCode, Failure, Result},
    jobs::export::{Form, run as export},
    names::SourceName,
};

/// Write entries of a snapshot to stdout.
#[derive(Debug, Args)]
pub struct Export {
    /// latest, a snapshot id, 20251011-150000, RFC 3339, or "2 hours ago"
    when: String,
    /// SOURCE, or SOURCE/PATH as `lifeboat ls` shows it
    what: String,
    /// What the stream looks like
    #[arg(long, value_enum)]
    format: Format,
    /// With --format sql of a whole source: users, roles and grants too
    #[arg(long)]
    accounts: bool,
    #[command(flatten)]
    origin: Origin,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A script for `mysql <`
    Sql,
    /// The rows of one table
    Tsv,
    /// A Redis dump file
    Rdb,
    /// A tar of what a new Redis server with `appendonly yes` starts from
    Aof,
    /// All entries as a tar archive
    Tar,
    /// The bytes of one entry
    Raw,
}

pub(super) async fn run(args: Export, session: &Session) -> Result<ExitCode> {
    let stack = session.repository_of_stack()?;
    let (source, path) = match args.what.split_once('/') {
        Some((source, path)) => (source, Some(path.trim_end_matches('/')).filter(|path| !path.is_empty())),
        None => (args.what.as_str(), None),
    };
    if args.accounts && (args.format != Format::Sql || path.is_some()) {
        let what = "--accounts goes with --format sql and a whole source";
        return Err(
            Failure::new(ExitCode::Usage, what).hint("Write `export WHEN SOURCE --format sql --accounts`.")
        );
    }
    let source = SourceName::new(source)
        .failed(ExitCode::Usage, || format!("`{}` begins with no source", args.what))
        .map_err(|failure| failure.hint("Write SOURCE, or SOURCE/PATH as `lifeboat ls` shows it."))?;
    let opening = session.open(&stack, &args.origin)?;
    let repository = session.read(&stack, &opening).await?;
    let snapshot = repository.snapshot(&session.pick(&stack, &repository, &args.when).await?).await?;
    let form = match args.format {
        Format::Sql => Form::Sql { accounts: args.accounts },
        Format::Tsv => Form::Tsv,
        Format::Rdb => Form::Rdb,
        Format::Aof => Form::Aof,
        Format::Tar => Form::Tar,
        Format::Raw => Form::Raw,
    };
    let hold = session.hold(&opening, &snapshot.refs.snapshot).await;
    let exported = export(&snapshot, &source, path, form, Box::new(std::io::stdout())).await;
    session.release(hold).await;
    exported.map(|()| ExitCode::Ok)
}
