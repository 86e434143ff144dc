//! The service's log: a line for each thing that happens, as text for people or as JSON for machines.
//!
//! On standard output: journald and container runtimes keep it, rotate it and put the time in where they do.

use std::{
    io::Write as _,
    sync::{Arc, Mutex, PoisonError},
};

use chrono::SecondsFormat;
use serde_json::{Map, Value, json};

use crate::{
    clock::Clock,
    error::{ExitCode, Failure},
    event::{Event, Monitor},
    jobs::{notify::Delivered, run::Outcome},
    names::{ByteCount, Task},
    status::incident::Change,
};

/// How lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// An object a line.
    Json,
}

/// Writes lines.
pub(super) struct Log {
    format: Format,
    clock: Arc<dyn Clock>,
    /// Whole lines only, from however many threads.
    line: Arc<Mutex<()>>,
    task: Option<Task>,
}

/// How much a line matters.
#[derive(Clone, Copy)]
enum Level {
    Info,
    Warning,
    Error,
}

impl Level {
    fn word(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

impl Log {
    pub(super) fn new(format: Format, clock: Arc<dyn Clock>) -> Self {
        Self { format, clock, line: Arc::default(), task: None }
    }

    /// Returns the log of one run: its lines say of which.
    pub(super) fn of(&self, task: &Task) -> Self {
        let (clock, line) = (self.clock.clone(), self.line.clone());
        Self { format: self.format, clock, line, task: Some(task.clone()) }
    }

    /// Tells how a run ended.
    pub(super) fn ended(&self, task: &Task, outcome: &Outcome) {
        let level = match outcome.exit() {
            ExitCode::Ok => Level::Info,
            ExitCode::Partial | ExitCode::Interrupted => Level::Warning,
            // The incident that forbade it is told as loudly as it deserves.
            _ if outcome.is_frozen => Level::Warning,
            _ => Level::Error,
        };
        let mut text = format!("{task} ended: {}", outcome.exit().word());
        if let Some(snapshot) = &outcome.snapshot {
            text = format!("{text}; snapshot {snapshot}, {} added", ByteCount(outcome.added_bytes));
        }
        if let Some(message) = &outcome.message {
            text = format!("{text}; {message}");
        }
        let facts = json!({
            "task": task.to_string(),
            "exit": outcome.exit().number(),
            "snapshot": outcome.snapshot,
            "bytes_added": outcome.added_bytes,
            "hint": outcome.hint,
        });
        self.write(level, &text, facts);
    }

    /// Tells what changed about an incident.
    pub(super) fn change(&self, change: &Change) {
        let (level, word, condition, number) = match change {
            Change::Opened(condition) => (Level::Error, "opened", condition, None),
            Change::Reminded(incident) => {
                (Level::Error, "goes on", &incident.condition, Some(incident.number))
            }
            Change::Resolved(incident) => {
                (Level::Info, "is over", &incident.condition, Some(incident.number))
            }
            Change::Altered(_) => return,
        };
        let facts = json!({
            "incident": number,
            "kind": condition.kind.word(),
            "about": condition.about,
            "urgency": condition.urgency.word(),
            "hint": condition.hint,
        });
        self.write(level, &format!("incident {word}: {}", condition.what), facts);
    }

    /// Tells what became of messages, if there were any.
    pub(super) fn delivered(&self, delivered: &Delivered) {
        if delivered.sent > 0 {
            self.write(Level::Info, &format!("{} messages were taken", delivered.sent), Value::Null);
        }
        for one in &delivered.gave_up {
            let instead = if one.passed_on { "; another channel has it" } else { "" };
            let text = format!("channel {} did not take a message: {}{instead}", one.channel, one.why);
            self.write(Level::Error, &text, json!({ "channel": one.channel }));
        }
    }

    /// Tells a failure of the service itself.
    pub(super) fn failure(&self, failure: &Failure) {
        self.write(Level::Error, &failure.one_line(), json!({ "hint": failure.first_hint() }));
    }

    fn write(&self, level: Level, text: &str, facts: Value) {
        let time = self.clock.now().to_rfc3339_opts(SecondsFormat::Millis, true);
        let task = self.task.as_ref().map(Task::to_string);
        let line = match self.format {
            Format::Text => {
                let task = task.map(|task| format!("{task}: ")).unwrap_or_default();
                format!("{time} {:<7} {task}{text}", level.word())
            }
            Format::Json => {
                let mut object = Map::from_iter([
                    ("time".to_owned(), time.into()),
                    ("level".to_owned(), level.word().into()),
                    ("message".to_owned(), text.into()),
                ]);
                object.extend(task.map(|task| ("task".to_owned(), task.into())));
                if let Value::Object(facts) = facts {
                    object.extend(facts.into_iter().filter(|(_, value)| !value.is_null()));
                }
                Value::Object(object).to_string()
            }
        };
        let _whole = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        // That nobody reads the log must not stop a backup.
        let _ = writeln!(std::io::stdout(), "{line}");
    }
}

impl Monitor for Log {
    fn event(&self, event: Event) {
        let of = |source: Option<crate::names::SourceName>| {
            source.map(|one| format!("{one}: ")).unwrap_or_default()
        };
        match event {
            Event::Step { source, what } => {
                self.write(Level::Info, &format!("{}{what}", of(source)), Value::Null);
            }
            Event::Warning { source, what, hint } => {
                self.write(Level::Warning, &format!("{}{what}", of(source)), json!({ "hint": hint }));
            }
            Event::Tampering { object, what } => {
                self.write(Level::Error, &format!("TAMPERING {object}: {what}"), json!({ "object": object }));
            }
            Event::SourceBegan { source, verb, .. } => {
                self.write(Level::Info, &format!("{source}: {verb} begins"), Value::Null);
            }
            Event::SourceEnded { source } => {
                self.write(Level::Info, &format!("{source}: read"), Value::Null);
            }
            Event::Committed { snapshot } => {
                self.write(Level::Info, &format!("committed {snapshot}"), json!({ "snapshot": snapshot }));
            }
            Event::Copied { snapshot } => {
                self.write(Level::Info, &format!("copied {snapshot}"), json!({ "snapshot": snapshot }));
            }
            Event::SourceMoved { .. } | Event::PackStored { .. } => {}
        }
    }
}
