//! What a person chooses about a restore into MySQL: `--accounts`, `--binlog`, `--gtid`, `--events`, `--beside` and
//! `--swap`.
//!
//! Choices that contradict each other, or that nothing restored could follow, are refused before anything is opened.

use clap::{Args, ValueEnum};

use super::restore::Restore;
use crate::{
    clock::Ground,
    error::{ExitCode, Failure, Result},
    flow::Selection,
    jobs::registry::Into,
    mysql::{AccountsRule, Choices, GtidRule, Naming, OLD_MARK},
    policy::{SourceConfig, SourceKind, database_of},
    repo::Snapshot,
};

/// The choices as the command line has them.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Choices for MySQL and MariaDB")]
pub(super) struct Choosing {
    /// Accounts: make missing ones (keep), make all anew but root and our own (replace), make none
    ///
    /// The default is keep, and none where databases go by another name.
    #[arg(long, value_name = "RULE")]
    accounts: Option<Accounts>,
    /// Whether the restore is written to the server's binlog, so that replicas follow [default: on]
    #[arg(long, value_name = "STATE")]
    binlog: Option<OnOff>,
    /// Tell the server that it has seen the snapshot's transactions (whole sources only) [default: off]
    #[arg(long, value_name = "RULE")]
    gtid: Option<Gtid>,
    /// Events: as they were, or all disabled
    ///
    /// The default is enabled (each as it was), and disabled where databases go by another name beside a live one.
    #[arg(long, value_name = "STATE")]
    events: Option<Events>,
    /// On the same server, each database beside the live one: im becomes `im__lb_SNAPSHOT`
    #[arg(long, conflicts_with = "swap")]
    beside: bool,
    /// Beside, compare, then exchange with the live tables in one act; the old ones stay in `im__was_TIME`
    #[arg(long)]
    swap: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Accounts {
    Keep,
    Replace,
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum OnOff {
    On,
    Off,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Gtid {
    Off,
    Append,
    Replace,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Events {
    Enabled,
    Disabled,
}

impl Choosing {
    /// Returns the first choice that was made, as it is written.
    fn word(&self) -> Option<&'static str> {
        let made = [
            (self.accounts.is_some(), "--accounts"),
            (self.binlog.is_some(), "--binlog"),
            (self.gtid.is_some(), "--gtid"),
            (self.events.is_some(), "--events"),
            (self.beside, "--beside"),
            (self.swap, "--swap"),
        ];
        made.iter().find(|(is, _)| *is).map(|(_, word)| *word)
    }

    fn gtid(&self) -> Option<GtidRule> {
        match self.gtid {
            None | Some(Gtid::Off) => None,
            Some(Gtid::Append) => Some(GtidRule::Append),
            Some(Gtid::Replace) => Some(GtidRule::Replace),
        }
    }

    /// Refuses what contradicts itself or what nothing could follow. `sources` are those that are restored.
    pub fn check(
        &self,
        args: &Restore,
        only: &Selection,
        sources: &[(&SourceConfig, Option<&Into>)],
    ) -> Result<()> {
        let goes = |(source, into): &(&SourceConfig, Option<&Into>)| {
            matches!(source.kind, SourceKind::Mysql(_)) && !matches!(into, Some(Into::Folder(_)))
        };
        if let Some(word) = self.word().filter(|_| !sources.iter().any(goes)) {
            return Err(usage(format!("{word} is about MySQL servers, and none is restored"))
                .hint(format!("Leave {word} out, or add the source with --source.")));
        }
        let beside = self.beside_word();
        if let Some(word) = beside {
            if let Some((source, into)) = sources.iter().find(|one| !goes(one) || one.1.is_some()) {
                let why = if into.is_some() { "goes elsewhere by --into" } else { "is no MySQL server" };
                return Err(usage(format!(
                    "{word} restores beside the live databases, and `{}` {why}",
                    source.name
                ))
                .hint("Pick the MySQL source with --source, and leave its --into out."));
            }
            if self.swap && args.salvage {
                return Err(usage("--swap and --salvage exclude each other".to_owned()).hint(
                    "Restore what is whole with --beside --salvage, look at it, and copy what is good.",
                ));
            }
        }
        let is_renamed = beside.is_some() || sources.iter().any(|(_, into)| renamed(*into).is_some());
        if is_renamed && !only.ranges().is_empty() {
            return Err(usage("a range of keys goes into the table that it is of".to_owned()).hint(
                "Leave the brackets out to restore the whole table beside it, and copy the rows that you want.",
            ));
        }
        if is_renamed && self.accounts.is_some_and(|rule| rule != Accounts::None) {
            return Err(usage("--accounts is for databases that keep their names".to_owned())
                .hint("Leave it out: grants are for the old names, so none is given."));
        }
        if self.gtid().is_some() && (is_renamed || !args.only.is_empty() || args.salvage) {
            return Err(usage("--gtid is for a source that is restored whole and by its names".to_owned())
                .hint("Leave it out: the server would skip transactions that it does not have."));
        }
        Ok(())
    }

    fn beside_word(&self) -> Option<&'static str> {
        if self.swap { Some("--swap") } else { self.beside.then_some("--beside") }
    }

    /// Returns what was chosen for one source.
    pub fn choices(
        &self,
        source: &SourceConfig,
        into: Option<&Into>,
        snapshot: &Snapshot,
        ground: &Ground,
    ) -> Result<Choices> {
        let gtid = match self.gtid().filter(|_| matches!(source.kind, SourceKind::Mysql(_))) {
            None => None,
            Some(rule) => {
                let position = snapshot.source(&source.name)?.point.marks.get("gtid").cloned();
                let position = position.ok_or_else(|| {
                    usage(format!("the snapshot has no GTID position of `{}`", source.name))
                        .hint("Leave --gtid off.")
                })?;
                Some((rule, position))
            }
        };
        let id = snapshot.refs.snapshot.to_string();
        // The day and what tells it from others of that day: names of databases are short.
        let beside = format!("__lb_{}_{}", &id[..8], &id[id.len() - 4..]);
        let naming = match (self.beside, self.swap, renamed(into)) {
            (true, ..) => Naming::Beside(beside),
            (_, true, _) => {
                let time = ground.clock.now().format("%Y%m%dt%H%M%Sz");
                Naming::Swap { beside, was: format!("{OLD_MARK}{time}") }
            }
            (_, _, Some(name)) => Naming::Into(name),
            _ => Naming::Same,
        };
        Ok(Choices {
            accounts: self.accounts.map(|rule| match rule {
                Accounts::Keep => AccountsRule::Keep,
                Accounts::Replace => AccountsRule::Replace,
                Accounts::None => AccountsRule::None,
            }),
            binlog_off: self.binlog == Some(OnOff::Off),
            gtid,
            events_disabled: self.events.map(|events| events == Events::Disabled),
            naming,
        })
    }
}

/// Returns the other name that `--into` gives to a database.
fn renamed(into: Option<&Into>) -> Option<String> {
    match into {
        Some(Into::Server(url)) => database_of(url),
        _ => None,
    }
}

fn usage(what: String) -> Failure {
    Failure::new(ExitCode::Usage, what)
}
