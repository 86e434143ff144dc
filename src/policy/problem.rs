//! What is wrong with a policy: all of it at once, each with the place where it stands.

use std::{error::Error, fmt};

use serde::Serialize;

use crate::error::{ExitCode, Failure};

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The line, from 1; 0 when it concerns the file as a whole.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
    /// The key, as a path through the file: `source.mysql.port`.
    pub key: String,
    /// What is wrong, in the grammar of [`crate::error`].
    pub message: String,
    /// What to do, a whole sentence.
    pub hint: Option<String>,
}

/// All that is wrong with one policy file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PolicyProblems {
    /// The file, as it was named.
    pub file: String,
    /// The problems, in the order of the file; never empty.
    pub problems: Vec<Problem>,
}

impl PolicyProblems {
    /// Makes the one problem of a file that cannot be read at all.
    pub(super) fn unreadable(file: String, message: String, hint: &str) -> Self {
        let hint = Some(hint.to_owned());
        Self { file, problems: vec![Problem { line: 0, column: 0, key: String::new(), message, hint }] }
    }

    /// Returns each problem as one line: `policies/x.toml:12:3: unknown key …`.
    pub fn lines(&self) -> Vec<String> {
        let line = |problem: &Problem| match problem {
            Problem { line: 0, message, .. } => format!("{}: {message}", self.file),
            Problem { line, column, message, .. } => format!("{}:{line}:{column}: {message}", self.file),
        };
        self.problems.iter().map(line).collect()
    }
}

impl fmt::Display for PolicyProblems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.problems.len() {
            1 => "a problem".to_owned(),
            count => format!("{count} problems"),
        };
        write!(f, "policy `{}` has {what}", self.file)
    }
}

impl Error for PolicyProblems {}

/// A line of text whose cause is the next line, because a failure tells its causes one per line.
#[derive(Debug)]
struct Line {
    text: String,
    next: Option<Box<Line>>,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Error for Line {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.next.as_deref().map(|line| line as &(dyn Error + 'static))
    }
}

impl From<PolicyProblems> for Failure {
    fn from(all: PolicyProblems) -> Self {
        let chained =
            all.lines().into_iter().rev().fold(None, |next, text| Some(Box::new(Line { text, next })));
        let mut failure = Failure::new(ExitCode::Usage, all.to_string());
        if let Some(first) = chained {
            failure = failure.because(first);
        }
        for problem in &all.problems {
            if let Some(hint) = &problem.hint {
                failure = failure.hint(match problem.line {
                    0 => hint.clone(),
                    line => format!("Line {line}: {hint}"),
                });
            }
        }
        failure
    }
}
