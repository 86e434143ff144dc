//! What a drill found, as facts: which snapshot was restored, how long that took, what was asked and what held.
//!
//! A drill is *passed* only when something was asked, everything that was asked held and nothing kept it from asking:
//! "could not run" is its own answer and never a good one. One that was only too slow has failed, and yet shows that
//! everything comes back. Reports, metrics, messages, retention and the signed proof
//! in the repository all show these facts.

#[cfg(test)]
pub(crate) mod tests;

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    names::{SnapshotId, SourceName},
    plain,
};

/// What a report says it is.
pub const SCHEMA: &str = "lifeboat.drill-report/1";
/// Findings of one assertion that are named; more are counted.
pub const FINDINGS_MAX: usize = 20;
/// Characters of one text that are shown.
const SHOWN_CHARS_MAX: usize = 500;
/// Earlier drills that a report shows.
pub const TREND_MAX: usize = 12;

/// Everything that a drill found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: String,
    /// The drill's own id, made as a snapshot's: `20261101T030000Z-7f3a`.
    #[schemars(with = "String")]
    pub id: SnapshotId,
    /// The stack.
    pub stack: String,
    /// The host that made the drill.
    pub host: String,
    /// The program that made it.
    pub lifeboat: String,
    /// The policy's zone, by its IANA name: reports show times in it.
    pub timezone: String,
    /// How it restored.
    pub way: Way,
    /// Where the bytes came from: `repository`, or the name of an offsite.
    pub from: String,
    /// The snapshot.
    #[schemars(with = "String")]
    pub snapshot: SnapshotId,
    /// When the snapshot was begun.
    pub snapshot_began: DateTime<Utc>,
    /// What it was restored into, as a person would say it: `docker 28.3`.
    pub lab: String,
    /// When the drill began.
    pub began: DateTime<Utc>,
    /// When it ended.
    pub ended: DateTime<Utc>,
    /// What came of it.
    pub outcome: Outcome,
    /// What kept it from being run to its end, if something did.
    pub problem: Option<Trouble>,
    /// Seconds that a restore of everything took: opening the repository and restoring every source. Starting the lab
    /// is not part of it. `None` when not everything was restored.
    pub rto_seconds: Option<f64>,
    /// Seconds that it may take, as the policy says.
    pub objective_seconds: Option<u64>,
    /// What was done, in order.
    pub phases: Vec<Phase>,
    /// The sources that were restored.
    pub sources: Vec<SourceReport>,
    /// The names of all sources that the snapshot has or should have: a drill of others says nothing about it. The
    /// first reports did not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Vec<String>>")]
    pub covers: Option<Vec<SourceName>>,
    /// What was asked, and the answers.
    pub assertions: Vec<Assertion>,
    /// What a person should know, a line each.
    pub notes: Vec<String>,
    /// Earlier drills of the same way, the oldest first.
    pub trend: Vec<Past>,
}

/// How a drill restores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// By the same code as a real restore.
    Restore,
    /// By the repository's own recipe, with stock tools and without lifeboat.
    ByHand,
}

impl Way {
    /// Both of them.
    pub const ALL: [Self; 2] = [Self::Restore, Self::ByHand];

    /// Returns the word for documents, tasks and the catalog.
    pub fn word(self) -> &'static str {
        match self {
            Self::Restore => "restore",
            Self::ByHand => "by-hand",
        }
    }
}

/// What came of a drill.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Everything was restored and every assertion held.
    Passed,
    /// An assertion did not hold.
    Failed,
    /// It is not known: the lab did not start, nothing was asked, the time was up.
    CouldNotRun,
}

impl Outcome {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Passed, Self::Failed, Self::CouldNotRun];

    /// Returns the word for documents and the catalog.
    pub fn word(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::CouldNotRun => "could_not_run",
        }
    }

    /// Judges a drill: what is lost is lost whatever else could not be asked; what could not be asked has not held;
    /// nothing asked is nothing proven; and it was too slow only where all else is known to be good.
    pub fn judge(assertions: &[Assertion], problem: Option<&Trouble>) -> Self {
        let any = |answer: Answer| assertions.iter().any(|one| one.answer == answer);
        let is_lost = |one: &Assertion| one.answer == Answer::Failed && one.kind != Question::Objective;
        if assertions.iter().any(is_lost) {
            Self::Failed
        } else if problem.is_some() || any(Answer::CouldNotRun) || !any(Answer::Held) {
            Self::CouldNotRun
        } else if any(Answer::Failed) {
            Self::Failed
        } else {
            Self::Passed
        }
    }
}

/// Why something could not be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Trouble {
    /// What failed and why, outermost first.
    pub what: String,
    /// What to do, as whole sentences.
    pub hints: Vec<String>,
}

/// A part of a drill.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Phase {
    /// What was done.
    pub step: Step,
    /// The source that it was about, if one.
    pub source: Option<String>,
    /// Seconds from the drill's beginning to the phase's.
    pub began_seconds: f64,
    /// Seconds that it took.
    pub seconds: f64,
}

/// What is done in a drill.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// The repository is opened and the snapshot's facts are read.
    Open,
    /// The lab's servers are started.
    Lab,
    /// Data is restored.
    Restore,
    /// Questions are asked.
    Check,
    /// The lab is removed.
    Remove,
}

impl Step {
    /// Returns whether a real restore has this step too, so that its time counts for the RTO.
    pub fn counts(self) -> bool {
        matches!(self, Self::Open | Self::Restore)
    }
}

/// One source that was restored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SourceReport {
    /// Its name.
    pub name: String,
    /// Its engine: `mysql`, `redis`, `s3`, `files`.
    pub kind: String,
    /// The instant that it was read at.
    pub point: DateTime<Utc>,
    /// The server's version when it was backed up, where the snapshot tells.
    pub version: Option<String>,
    /// The lab's.
    pub lab_version: Option<String>,
    /// The image that the lab's server ran from, with its digest where there is one.
    pub image: Option<String>,
    /// Entries that were applied.
    pub entries: u64,
    /// Their plain bytes.
    pub size_bytes: u64,
    /// Seconds that the restore took.
    pub seconds: f64,
}

/// Returns the first two numbers of a version, within which servers understand each other: `8.0` of
/// `MySQL 8.0.36-debian`.
pub fn release(version: &str) -> Option<String> {
    let numbers =
        version.split([' ', '-', '+', ':']).find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?;
    let mut parts = numbers.split('.');
    let (major, minor) = (parts.next()?, parts.next()?);
    let is_number = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_digit());
    (is_number(major) && is_number(minor)).then(|| format!("{major}.{minor}"))
}

/// Something that was asked of what was restored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Assertion {
    /// What reports call it.
    pub name: String,
    /// What kind of question it is.
    pub kind: Question,
    /// The source that was asked, if one.
    pub source: Option<String>,
    /// The answer.
    pub answer: Answer,
    /// One line: what was found, or why it could not be found.
    pub detail: String,
    /// What did not hold, each naming its row, key or object; at most [`FINDINGS_MAX`].
    pub findings: Vec<String>,
    /// How many there are in all.
    pub findings_total: u64,
    /// The number that was found, where the answer is one.
    pub value: Option<i64>,
}

/// A kind of question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Question {
    /// Could everything be restored?
    Restored,
    /// Does the lab hold what the snapshot holds, neither more nor less?
    Contents,
    /// Does each row have its object or key, and each object its row?
    Reference,
    /// Is the answer of a query what it must be?
    Expectation,
    /// Is the newest row as new as it must be?
    Freshness,
    /// Does the operator's own program say that all is well?
    Command,
    /// Was the restore as fast as it must be?
    Objective,
}

/// The answer to an assertion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// It held.
    Held,
    /// It did not.
    Failed,
    /// It could not be asked.
    CouldNotRun,
}

impl Answer {
    /// Returns the word for documents.
    pub fn word(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Failed => "failed",
            Self::CouldNotRun => "could_not_run",
        }
    }
}

impl Assertion {
    /// Makes an assertion that held.
    pub fn held(kind: Question, name: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            name: printable(&name.into()),
            kind,
            source: None,
            answer: Answer::Held,
            detail: printable(&detail.into()),
            findings: Vec::new(),
            findings_total: 0,
            value: None,
        }
    }

    /// Makes an assertion that did not hold.
    pub fn failed(kind: Question, name: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { answer: Answer::Failed, ..Self::held(kind, name, detail) }
    }

    /// Makes an assertion that could not be asked.
    pub fn could_not_run(kind: Question, name: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { answer: Answer::CouldNotRun, ..Self::held(kind, name, detail) }
    }

    /// Says which source was asked.
    #[must_use]
    pub fn about(mut self, source: impl Into<String>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Says which number was found.
    #[must_use]
    pub fn with_value(mut self, value: i64) -> Self {
        self.value = Some(value);
        self
    }

    /// Names what did not hold; the first [`FINDINGS_MAX`] of `total` stay.
    #[must_use]
    pub fn with_findings(mut self, findings: Vec<String>, total: u64) -> Self {
        self.findings_total = total.max(findings.len() as u64);
        self.findings = findings.into_iter().take(FINDINGS_MAX).map(|finding| printable(&finding)).collect();
        self
    }
}

/// Returns a text that a terminal, a page and a chat show as it is, and not longer than a few lines: names of rows,
/// keys and objects hold whatever somebody put there.
fn printable(text: &str) -> String {
    plain::visible(text, SHOWN_CHARS_MAX)
}

/// An earlier drill, for the trend.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Past {
    /// Its id.
    #[schemars(with = "String")]
    pub id: SnapshotId,
    /// The snapshot that it restored.
    #[schemars(with = "String")]
    pub snapshot: SnapshotId,
    /// When it ended.
    pub ended: DateTime<Utc>,
    /// What came of it.
    pub outcome: Outcome,
    /// How long the restore of everything took.
    pub rto_seconds: Option<f64>,
    /// Plain bytes that were restored.
    pub size_bytes: u64,
}

impl Report {
    /// Returns how many assertions held, failed, and could not be asked.
    pub fn counts(&self) -> [u64; 3] {
        let count = |answer| self.assertions.iter().filter(|one| one.answer == answer).count() as u64;
        [count(Answer::Held), count(Answer::Failed), count(Answer::CouldNotRun)]
    }

    /// Returns the plain bytes that were restored.
    pub fn size_bytes(&self) -> u64 {
        self.sources.iter().fold(0, |sum, source| sum.saturating_add(source.size_bytes))
    }

    /// Returns whether all that did not hold is that the restore was too slow: everything is there, for all else was
    /// asked and held.
    pub fn is_only_slow(&self) -> bool {
        let mut failed = self.assertions.iter().filter(|one| one.answer == Answer::Failed);
        self.outcome == Outcome::Failed && failed.all(|one| one.kind == Question::Objective)
    }

    /// Returns what a later report's trend says of this drill.
    pub fn past(&self) -> Past {
        Past {
            id: self.id.clone(),
            snapshot: self.snapshot.clone(),
            ended: self.ended,
            outcome: self.outcome,
            rto_seconds: self.rto_seconds,
            size_bytes: self.size_bytes(),
        }
    }
}
