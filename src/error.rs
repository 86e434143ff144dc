//! How a run can end badly: the exit codes, and [`Failure`], the one error that reaches a person.
//!
//! Grammar of the text: a lower-case fragment that fits after "failed to" or stands alone, no full stop,
//! the thing in backticks, never the cause (the face prints the chain, one per line). A hint is a whole
//! sentence that says what to do. Errors are for the world; our own mistakes are asserts.

use std::{error::Error, fmt};

/// What the process's exit status means. The numbers are part of the command line's contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum ExitCode {
    /// All of it was done.
    Ok = 0,
    /// It failed for a reason that has no code of its own.
    Failed = 1,
    /// The command line or the policy is wrong.
    Usage = 2,
    /// Done, but something named in the report is missing.
    Partial = 3,
    /// There is no repository at the place the policy names, or none that this version can read.
    NoRepository = 10,
    /// Another run holds what this one needs.
    Busy = 11,
    /// A key is missing, wrong or not allowed.
    KeyRefused = 12,
    /// A source or target server does not answer or refuses us.
    SourceDown = 20,
    /// The target of a restore is not empty and `--replace` was not said.
    TargetNotEmpty = 21,
    /// The repository was changed by someone without the key.
    Tampering = 22,
    /// The store does not answer, is full or refuses us.
    StoreDown = 30,
    /// Stored bytes are missing or changed.
    Damage = 40,
    /// A drill ran and an assertion did not hold.
    DrillFailed = 41,
    /// A drill could not run, which is not the same as passed.
    DrillNotRun = 42,
    /// Stopped by a signal.
    Interrupted = 130,
}

impl ExitCode {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::Ok,
        Self::Failed,
        Self::Usage,
        Self::Partial,
        Self::NoRepository,
        Self::Busy,
        Self::KeyRefused,
        Self::SourceDown,
        Self::TargetNotEmpty,
        Self::Tampering,
        Self::StoreDown,
        Self::Damage,
        Self::DrillFailed,
        Self::DrillNotRun,
        Self::Interrupted,
    ];

    /// Returns the code of this number.
    pub fn of_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.number() == number)
    }

    /// Returns the number that the process exits with.
    pub fn number(self) -> u8 {
        self as u8
    }

    /// Returns the word that `--json` carries for this code.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failed => "failed",
            Self::Usage => "usage",
            Self::Partial => "partial",
            Self::NoRepository => "no_repository",
            Self::Busy => "busy",
            Self::KeyRefused => "key_refused",
            Self::SourceDown => "source_down",
            Self::TargetNotEmpty => "target_not_empty",
            Self::Tampering => "tampering",
            Self::StoreDown => "store_down",
            Self::Damage => "damage",
            Self::DrillFailed => "drill_failed",
            Self::DrillNotRun => "drill_not_run",
            Self::Interrupted => "interrupted",
        }
    }
}

type Cause = Box<dyn Error + Send + Sync + 'static>;

/// A failure with what a person needs: what, on which thing, why, and what to do now.
#[derive(Debug)]
pub struct Failure {
    exit: ExitCode,
    what: String,
    cause: Option<Cause>,
    hints: Vec<String>,
    is_frozen: bool,
}

/// The result of what can fail in the world.
pub type Result<T, E = Failure> = std::result::Result<T, E>;

impl Failure {
    /// Makes a failure that ends the process with `exit`; `what` follows the grammar above.
    pub fn new(exit: ExitCode, what: impl Into<String>) -> Self {
        Self { exit, what: what.into(), cause: None, hints: Vec::new(), is_frozen: false }
    }

    /// Adds the error that led here; it is printed as a line of its own.
    #[must_use]
    pub fn because(mut self, cause: impl Into<Cause>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    /// Adds a sentence that says what to do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Replaces the exit code, where a caller knows better what the failure means.
    #[must_use]
    pub fn with_exit(mut self, exit: ExitCode) -> Self {
        self.exit = exit;
        self
    }

    /// Says that nothing went wrong: an open incident forbids the work until a person has looked, and tells of it.
    #[must_use]
    pub fn frozen(mut self) -> Self {
        self.is_frozen = true;
        self
    }

    /// Returns whether an open incident forbids the work, and tells of it.
    pub fn is_frozen(&self) -> bool {
        self.is_frozen
    }

    /// Returns the code that the process ends with.
    pub fn exit(&self) -> ExitCode {
        self.exit
    }

    /// Returns the sentences that say what to do, the most useful first.
    pub fn hints(&self) -> &[String] {
        &self.hints
    }

    /// Returns the sentence that says what to do first: what a warning has room for.
    pub fn first_hint(&self) -> Option<&str> {
        self.hints.first().map(String::as_str)
    }

    /// Returns what failed and why in one line, for a warning or a note.
    pub fn one_line(&self) -> String {
        self.chain().join(": ")
    }

    /// Returns what failed and why, outermost first, without saying one thing twice.
    pub fn chain(&self) -> Vec<String> {
        let mut lines = vec![self.what.clone()];
        let mut next = self.source();
        while let Some(error) = next {
            let text = error.to_string();
            // Some libraries print their cause inside their own text; one telling is enough.
            if !lines.last().is_some_and(|last| last.contains(&text)) {
                lines.push(text);
            }
            next = error.source();
        }
        lines
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl Error for Failure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.cause.as_deref().map(|cause| cause as &(dyn Error + 'static))
    }
}

/// Turns any error into a [`Failure`] at the place that knows what was being done.
pub trait Context<T> {
    /// Wraps an error as the cause of a failure with this code and text.
    fn failed(self, exit: ExitCode, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<Cause>> Context<T> for std::result::Result<T, E> {
    fn failed(self, exit: ExitCode, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|cause| Failure::new(exit, what()).because(cause))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chain_tells_each_cause_once() {
        let inner = std::io::Error::other("connection refused");
        let failure = Failure::new(ExitCode::SourceDown, "failed to reach `mysql`")
            .because(Failure::new(ExitCode::Failed, "dial: connection refused").because(inner))
            .hint("Is the server running?");
        assert_eq!(failure.chain(), ["failed to reach `mysql`", "dial: connection refused"]);
        assert_eq!(failure.exit().number(), 20);
        assert_eq!(failure.hints(), ["Is the server running?"]);
        assert_eq!(failure.one_line(), "failed to reach `mysql`: dial: connection refused");
        let failure = failure.hint("Is the port right?");
        assert_eq!(failure.first_hint(), Some("Is the server running?"));
    }

    #[test]
    fn every_exit_code_has_the_number_that_is_documented() {
        let table = [
            (ExitCode::Ok, 0),
            (ExitCode::Failed, 1),
            (ExitCode::Usage, 2),
            (ExitCode::Partial, 3),
            (ExitCode::NoRepository, 10),
            (ExitCode::Busy, 11),
            (ExitCode::KeyRefused, 12),
            (ExitCode::SourceDown, 20),
            (ExitCode::TargetNotEmpty, 21),
            (ExitCode::Tampering, 22),
            (ExitCode::StoreDown, 30),
            (ExitCode::Damage, 40),
            (ExitCode::DrillFailed, 41),
            (ExitCode::DrillNotRun, 42),
            (ExitCode::Interrupted, 130),
        ];
        for (code, number) in table {
            assert_eq!(code.number(), number, "{}", code.word());
        }
    }
}
