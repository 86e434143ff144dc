//! What a person chooses about a restore into Redis or Valkey: `--waive`, `--ttl` and `--safety`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::{
    error::{ExitCode, Failure, Result},
    jobs::registry::Into,
    policy::{SourceConfig, SourceKind},
    redis::{Ttl, Waived},
};

/// The heading that they stand under.
const HEADING: &str = "Choices for Redis and Valkey";

/// The choices as the command line has them.
#[derive(Debug, Default, Args)]
pub(super) struct RedisChoosing {
    /// Go without a check: safety (a copy of what the server holds before it is replaced), memory (whether the keys
    /// fit), modules (of a dump that cannot be looked into); may be repeated
    #[arg(long, value_enum, value_name = "CHECK", help_heading = HEADING)]
    waive: Vec<Waive>,
    /// When keys and fields expire: at the time that they had, after the time that was left at the snapshot, never
    /// [default: keep]
    #[arg(long, value_enum, value_name = "RULE", help_heading = HEADING)]
    ttl: Option<Rule>,
    /// Load a safety copy: what a server held before a restore replaced it. Without FILE: list them
    #[arg(
        long,
        value_name = "FILE",
        help_heading = HEADING,
        conflicts_with_all = ["when", "at", "resume", "salvage", "from"]
    )]
    #[expect(clippy::option_option, reason = "not said, said alone, and said of a file")]
    pub(super) safety: Option<Option<PathBuf>>,
}

/// The words of `--waive`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Waive {
    Safety,
    Memory,
    Modules,
}

/// The words of `--ttl`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Rule {
    Keep,
    Shift,
    Drop,
}

impl RedisChoosing {
    /// Refuses choices that no server could follow. `sources` are those that are restored.
    pub(super) fn check(&self, sources: &[(&SourceConfig, Option<&Into>)]) -> Result<()> {
        let goes = |(one, into): &(&SourceConfig, Option<&Into>)| {
            matches!(one.kind, SourceKind::Redis(_)) && !matches!(into, Some(Into::Folder(_)))
        };
        let made = [(!self.waive.is_empty(), "--waive"), (self.ttl.is_some(), "--ttl")];
        let made = made.iter().find(|(is, _)| *is).map(|(_, word)| *word);
        let Some(word) = made.filter(|_| !sources.iter().any(goes)) else { return Ok(()) };
        let what = format!("{word} is about Redis servers, and none is restored");
        Err(Failure::new(ExitCode::Usage, what).hint("Leave it out, or add the source with --source."))
    }

    /// Returns what is waived.
    pub(super) fn waived(&self) -> Waived {
        let has = |word| self.waive.contains(&word);
        Waived { safety: has(Waive::Safety), memory: has(Waive::Memory), modules: has(Waive::Modules) }
    }

    /// Returns what becomes of expiries.
    pub(super) fn ttl(&self) -> Ttl {
        match self.ttl {
            None | Some(Rule::Keep) => Ttl::Keep,
            Some(Rule::Shift) => Ttl::Shift,
            Some(Rule::Drop) => Ttl::Drop,
        }
    }
}
