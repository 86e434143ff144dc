//! Tells people: a [`Message`] in words, and one sender for each kind of channel.
//!
//! A message is facts; it is put into words when it is sent, in the policy's language and zone. [`Notifier::send`]
//! tries once and says how it ended; what is tried again, when, and who hears of it instead is the business of
//! `jobs/notify`. A channel counts as reached only when the service itself said so: chat robots answer HTTP 200 to
//! what they refuse.
//!
//! *Secrets.* Addresses of robots hold tokens. No error shows more of an address than its host, and what a server
//! answers is shown without anything that is secret ([`hidden`]).

mod channel;
mod email;
mod exec;
mod hidden;
mod http;
mod robots;
mod text;

use std::{fmt, time::Duration};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

pub use self::{channel::Notifier, text::Words};
use crate::{
    names::Task,
    policy::{Language, Occasion},
    status::{DrillStanding, Incident, RunStanding, Standing, Urgency},
};

/// What is told, with all that its words need. It lies in the catalog as JSON until it is sent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// The stack.
    pub stack: String,
    /// The host that tells.
    pub host: String,
    /// When it was written.
    pub at: DateTime<Utc>,
    /// The language of its words.
    pub language: Language,
    /// The zone of its times, by its IANA name.
    pub timezone: String,
    /// What it is about.
    pub topic: Topic,
    /// Channels that should have told it and could not be reached.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unreached: Vec<String>,
    /// Whether somebody only tries a channel.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_trial: bool,
}

/// What a message is about.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Topic {
    /// Something is wrong.
    Opened(Incident),
    /// It still is.
    Reminder(Incident),
    /// It is over.
    Resolved(Incident),
    /// A run was done.
    Done(RunStanding),
    /// A drill ended.
    Drill(DrillStanding),
    /// The daily report.
    Digest(Box<Standing>),
    /// A run began or ended, for a service that misses it when it does not.
    Ping {
        /// What runs.
        task: Task,
        /// How far it is.
        phase: Phase,
        /// The exit code that the command line would have had.
        exit: Option<u8>,
        /// What failed, if something did.
        text: Option<String>,
    },
    /// Nothing: somebody tries whether messages come.
    Test,
}

/// How far a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// It began.
    Started,
    /// It was done.
    Succeeded,
    /// It failed.
    Failed,
}

impl Message {
    /// Returns the occasion that channels subscribe to; `None` for pings and tests, which are for certain channels.
    pub fn occasion(&self) -> Option<Occasion> {
        match &self.topic {
            Topic::Opened(_) | Topic::Reminder(_) | Topic::Resolved(_) => Some(Occasion::Trouble),
            Topic::Done(_) => Some(Occasion::Success),
            Topic::Drill(_) => Some(Occasion::Drill),
            Topic::Digest(_) => Some(Occasion::Digest),
            Topic::Ping { .. } | Topic::Test => None,
        }
    }

    /// Returns the incident that it is about.
    pub fn incident(&self) -> Option<&Incident> {
        match &self.topic {
            Topic::Opened(incident) | Topic::Reminder(incident) | Topic::Resolved(incident) => Some(incident),
            _ => None,
        }
    }

    /// Returns whether it goes out at night too. The end of what woke somebody does as well: they may sleep again.
    pub fn is_urgent(&self) -> bool {
        self.incident().is_some_and(|incident| incident.urgency == Urgency::Page)
    }

    /// Returns whether it is a ping.
    pub fn is_ping(&self) -> bool {
        matches!(self.topic, Topic::Ping { .. })
    }
}

/// A channel did not take a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Why, a fragment as of a `Failure`; it holds no secret.
    pub why: String,
    /// Whether trying again later may help.
    pub again: bool,
    /// What to do about it, a whole sentence.
    pub hint: Option<String>,
}

impl Refused {
    /// Returns a refusal that time may heal.
    pub(crate) fn for_now(why: impl Into<String>) -> Self {
        Self { why: why.into(), again: true, hint: None }
    }

    /// Returns a refusal that somebody must do something about.
    pub(crate) fn for_good(why: impl Into<String>) -> Self {
        Self { why: why.into(), again: false, hint: None }
    }

    /// Adds what to do.
    #[must_use]
    pub(crate) fn hint(mut self, hint: &str) -> Self {
        self.hint = (!hint.is_empty()).then(|| hint.to_owned());
        self
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

impl std::error::Error for Refused {}

/// How long a try may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// A request, from the name of the server to the last byte of its answer.
    pub request: Duration,
    /// A conversation with a mail server; some let strangers wait.
    pub mail: Duration,
    /// A program.
    pub program: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            request: Duration::from_secs(10),
            mail: Duration::from_secs(30),
            program: Duration::from_secs(30),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
