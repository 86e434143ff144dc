//! What happens while a job runs, told as facts; faces decide how it looks.
//!
//! The library never prints. Jobs and engines hand [`Event`]s to a [`Monitor`]; the terminal, the JSON
//! face, metrics and messages are monitors.

use std::sync::{Arc, Mutex};

use crate::names::{SnapshotId, SourceName};

/// One fact about a running job.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A job began to read or write one source; `size_bytes_expected` is a guess where there is one.
    SourceBegan {
        /// The source.
        source: SourceName,
        /// What is done to it, as a verb: `backup`, `restore`, `verify`.
        verb: &'static str,
        /// How many bytes are expected to move, if known.
        size_bytes_expected: Option<u64>,
    },
    /// Some more of a source was moved; the figures are what was added since the last such event.
    SourceMoved {
        /// The source.
        source: SourceName,
        /// Entries finished.
        entries: u64,
        /// Plain bytes moved.
        bytes: u64,
    },
    /// The job is done with a source.
    SourceEnded {
        /// The source.
        source: SourceName,
    },
    /// A step of the job, as a plain sentence without a full stop.
    Step {
        /// The source that it concerns, if one.
        source: Option<SourceName>,
        /// What is being done.
        what: String,
    },
    /// Something is not as it should be, and the job goes on.
    Warning {
        /// The source that it concerns, if one.
        source: Option<SourceName>,
        /// What is wrong.
        what: String,
        /// What to do about it, a whole sentence.
        hint: Option<String>,
    },
    /// Somebody without the keys changed the repository. Prune stands still until a person has looked.
    Tampering {
        /// The object that shows it.
        object: String,
        /// What is wrong with it.
        what: String,
    },
    /// A pack reached the store.
    PackStored {
        /// Its size in the store.
        size_bytes: u64,
    },
    /// A snapshot exists from now on.
    Committed {
        /// Its id.
        snapshot: SnapshotId,
    },
    /// A snapshot exists in a copy from now on.
    Copied {
        /// Its id.
        snapshot: SnapshotId,
    },
}

/// Hears what happens. Calls come from many threads and must return quickly.
pub trait Monitor: Send + Sync {
    /// Takes notice of one fact.
    fn event(&self, event: Event);

    /// Reports a step of the job.
    fn step(&self, source: Option<&SourceName>, what: String) {
        self.event(Event::Step { source: source.cloned(), what });
    }

    /// Reports something that is not as it should be.
    fn warn(&self, source: Option<&SourceName>, what: String, hint: Option<&str>) {
        self.event(Event::Warning { source: source.cloned(), what, hint: hint.map(str::to_owned) });
    }
}

/// A monitor as it is handed around.
pub type SharedMonitor = Arc<dyn Monitor>;

/// Hears nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoMonitor;

impl Monitor for NoMonitor {
    fn event(&self, _event: Event) {}
}

impl NoMonitor {
    /// Returns a monitor that hears nothing, as it is handed around.
    pub fn shared() -> SharedMonitor {
        Arc::new(Self)
    }
}

/// Remembers everything, for tests and for reports.
#[derive(Debug, Default)]
pub struct Recorder(Mutex<Vec<Event>>);

impl Recorder {
    /// Returns all events so far.
    pub fn events(&self) -> Vec<Event> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// Returns the texts of all warnings so far.
    pub fn warnings(&self) -> Vec<String> {
        let texts = self.events().into_iter().filter_map(|event| match event {
            Event::Warning { what, .. } => Some(what),
            _ => None,
        });
        texts.collect()
    }
}

impl Monitor for Recorder {
    fn event(&self, event: Event) {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recorder_keeps_the_order() {
        let recorder = Recorder::default();
        recorder.step(None, "one".into());
        recorder.warn(None, "two".into(), Some("Do three."));
        assert_eq!(recorder.events().len(), 2);
        assert_eq!(recorder.warnings(), ["two"]);
    }
}
