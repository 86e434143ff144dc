//! What the ledger could not be told: on a disk that is full, a message must not go out again every few seconds.
//!
//! *Crash.* It is forgotten with the process; the next one sends those messages again.

use std::collections::BTreeMap;

use chrono::{DateTime, Duration, Utc};

use super::{Delivered, MESSAGE_AGE_MAX};
use crate::{
    catalog::{Catalog, Delivery, Due},
    error::{Failure, Result},
};

/// How long after the first failure the ledger is left alone; after each further one twice as long.
const WAIT_MIN: Duration = Duration::seconds(2);
/// How long it is left alone at most.
const WAIT_MAX: Duration = Duration::seconds(64);

/// How a try ended, and who else is to hear of it.
#[derive(Clone, Debug)]
pub(super) struct Note {
    pub(super) how: Delivery,
    pub(super) at: DateTime<Utc>,
    /// The fallbacks that are given the message, each with the instant before which it is not sent.
    pub(super) fallbacks: Vec<(String, DateTime<Utc>)>,
}

impl Note {
    /// Writes it down: the fallbacks first, so a crash between cannot lose what was given up.
    fn write(&self, due: &Due, ledger: &Catalog) -> Result<()> {
        for (fallback, not_before) in &self.fallbacks {
            ledger.add_delivery(due.message, fallback, *not_before)?;
        }
        ledger.note_delivery(due, &self.how, self.at)
    }
}

/// Notes that wait for a ledger that can be written.
#[derive(Debug, Default)]
pub(super) struct Unnoted {
    notes: BTreeMap<(i64, String), (Due, Note)>,
    failures: u32,
    until: Option<DateTime<Utc>>,
    failure: Option<Failure>,
    untold: Delivered,
}

impl Unnoted {
    /// Returns how the last try of this message ended, if the ledger does not know it, and what was tried then.
    /// A ledger that was made anew counts from one again, so its messages are told apart by their text.
    pub(super) fn of(&self, due: &Due) -> Option<(Due, Note)> {
        self.notes.get(&(due.message, due.channel.clone())).filter(|(kept, _)| kept.body == due.body).cloned()
    }

    /// Writes a note down, or keeps it in mind. Returns whether the ledger has it.
    pub(super) fn note(&mut self, due: &Due, note: Note, ledger: &Catalog, now: DateTime<Utc>) -> bool {
        let is_written = self.try_write(now, || note.write(due, ledger));
        let key = (due.message, due.channel.clone());
        if is_written {
            self.notes.remove(&key);
        } else {
            self.notes.insert(key, (due.clone(), note));
        }
        is_written
    }

    /// Writes to the ledger unless that failed just now. Returns whether it was done.
    pub(super) fn try_write(&mut self, now: DateTime<Utc>, write: impl FnOnce() -> Result<()>) -> bool {
        // A wait that is longer than any was begun by a clock that was ahead.
        if self.until.is_some_and(|until| now < until && until - now <= WAIT_MAX) {
            return false;
        }
        match write() {
            Ok(()) => {
                (self.failures, self.until) = (0, None);
                true
            }
            Err(failure) => {
                self.until = Some(now + (WAIT_MIN * (1 << self.failures.min(5))).min(WAIT_MAX));
                self.failures += 1;
                self.failure = Some(failure);
                false
            }
        }
    }

    /// Ends a delivery: what was done is told with the next one when the ledger failed in this one.
    pub(super) fn end(&mut self, done: Delivered, now: DateTime<Utc>) -> Result<Delivered> {
        self.notes.retain(|_, (_, note)| note.at > now - MESSAGE_AGE_MAX);
        self.untold.add(done);
        match self.failure.take() {
            Some(failure) => Err(failure),
            None => Ok(std::mem::take(&mut self.untold)),
        }
    }
}
