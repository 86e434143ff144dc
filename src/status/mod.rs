//! How well a stack is protected, as one value.
//!
//! Metrics, the daily report, `lifeboat status` and messages all show a [`Standing`]: what one of them says the others
//! say too. It holds facts only; how they are put into words is each face's own business. Nothing in it names a table,
//! a file, a key or a secret, so all of it may go into a message or a metric.

pub mod incident;

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

pub use self::incident::{Condition, Incident, Kind, Urgency};
use crate::{
    drill::{Outcome, Way},
    names::{SnapshotId, Task},
};

/// How well a stack is protected at one instant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Standing {
    /// The stack.
    pub stack: String,
    /// The host that looked.
    pub host: String,
    /// When it looked.
    pub at: DateTime<Utc>,
    /// The policy's zone, by its IANA name.
    pub timezone: String,
    /// The worst that is true of it.
    pub verdict: Verdict,
    /// What is on the schedule, and what ran although it is not.
    pub tasks: Vec<TaskStanding>,
    /// The sources, in the order in which they are read.
    pub sources: Vec<SourceStanding>,
    /// The repository first, then the offsites.
    pub places: Vec<PlaceStanding>,
    /// What is wrong and not over, the most urgent first.
    pub incidents: Vec<Incident>,
    /// Incidents that ended in the last 24 hours.
    pub resolved: Vec<Incident>,
    /// Why prune stands still, if it does.
    pub prune_frozen: Option<String>,
    /// The last drill of a restore.
    pub drill: Option<DrillStanding>,
    /// The last drill of the recipe for recovery without lifeboat.
    pub by_hand: Option<DrillStanding>,
    /// How far each clock is ahead of this host's, where it was found out: `repository`, offsites and sources by name.
    pub clock_skew_seconds: BTreeMap<String, f64>,
    /// The next runs, the nearest first.
    pub next: Vec<Upcoming>,
}

/// The worst that is true of a stack, the best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// All is as it should be.
    Good,
    /// It is not known: nothing ran yet, or nobody could look.
    Unknown,
    /// Something should be looked at on the next working day.
    Attention,
    /// What is lost now may be lost for good.
    Danger,
}

impl Verdict {
    /// Returns the word for screens, documents and metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Unknown => "unknown",
            Self::Attention => "attention",
            Self::Danger => "danger",
        }
    }
}

/// How it is with one task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskStanding {
    /// The task.
    pub task: Task,
    /// How it is.
    pub state: TaskState,
    /// The longest time between two slots of its schedule; `None` when it is not on the schedule.
    pub interval_seconds: Option<u64>,
    /// When it last succeeded.
    pub last_success: Option<DateTime<Utc>>,
    /// Its last run that ended.
    pub last_run: Option<RunStanding>,
    /// Since when a run is at work, if one is.
    pub running_since: Option<DateTime<Utc>>,
    /// Its next slot.
    pub next: Option<DateTime<Utc>>,
}

/// How it is with a task. A run that is at work hides nothing: it says how the one before ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TaskState {
    /// The last run succeeded, and not too long ago.
    Ok,
    /// The last run left something out.
    Partial,
    /// The last run failed.
    Failed,
    /// No run succeeded for longer than its schedule allows.
    Overdue,
    /// It never ran, and its first slot has not come.
    Waiting,
}

impl TaskState {
    /// Returns the word for screens and documents.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Partial => "partial",
            Self::Failed => "failed",
            Self::Overdue => "overdue",
            Self::Waiting => "waiting",
        }
    }
}

/// One run that ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunStanding {
    /// What ran.
    pub task: Task,
    /// When it began.
    pub began: DateTime<Utc>,
    /// When it ended.
    pub ended: DateTime<Utc>,
    /// The exit code that the command line would have had.
    pub exit: u8,
    /// The snapshot that it made.
    pub snapshot: Option<SnapshotId>,
    /// Bytes that it added to the store.
    pub added_bytes: u64,
    /// What failed, if it did.
    pub message: Option<String>,
    /// What to do about that.
    pub hint: Option<String>,
}

/// How it is with one source.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SourceStanding {
    /// Its name.
    pub name: String,
    /// Its engine: `mysql`, `redis`, `s3`, `files`.
    pub kind: String,
    /// The instant that it can be taken back to: its point in the newest snapshot that has it.
    pub point: Option<DateTime<Utc>>,
    /// The same, of the newest snapshot that an offsite has.
    pub point_offsite: Option<DateTime<Utc>>,
    /// What was counted in the newest snapshot that has it: `bytes`, `entries`, `rows`, `keys`, `objects`, `files`.
    pub counts: Vec<(String, u64)>,
}

/// How it is with the repository or a copy of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlaceStanding {
    /// `repository`, or the offsite's name.
    pub name: String,
    /// Whether it is a copy.
    pub is_offsite: bool,
    /// Snapshots that are there, as far as it is known.
    pub snapshots: Option<u64>,
    /// How many of them passed a drill.
    pub proven: u64,
    /// How many of them the service refuses to delete.
    pub immutable: u64,
    /// The newest of them.
    pub newest: Option<SnapshotId>,
    /// When that was begun.
    pub newest_began: Option<DateTime<Utc>>,
    /// Plain bytes of the newest snapshot.
    pub logical_bytes: Option<u64>,
    /// Bytes of the packs.
    pub stored_bytes: Option<u64>,
    /// How many bytes of packs the repository has and this copy has not, where it is known.
    pub lag_bytes: Option<u64>,
    /// How long the oldest snapshot that this copy lacks has waited; 0 when it lacks none.
    pub lag_seconds: Option<u64>,
    /// Bytes that are free there, where the store tells.
    pub free_bytes: Option<u64>,
    /// Days until it is full, if it goes on as it did.
    pub full_in_days: Option<u64>,
    /// Whether the service refuses to delete: `proven`, `broken`, `unproven`.
    pub lock: Option<String>,
}

/// The last drill.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DrillStanding {
    /// How it restored.
    pub way: Way,
    /// Where the bytes came from: `repository`, or the name of an offsite.
    pub from: String,
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// When it ended.
    pub ended: DateTime<Utc>,
    /// What came of it.
    pub outcome: Outcome,
    /// How long the restore of everything took, if everything was restored.
    pub rto_seconds: Option<u64>,
    /// How long it may take.
    pub objective_seconds: Option<u64>,
    /// Assertions that held, that did not, and that could not be asked.
    pub assertions: [u64; 3],
    /// What of it could not be recorded: its report, its proof.
    #[serde(default)]
    pub trouble: Option<String>,
}

/// A run that will be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Upcoming {
    /// What will run.
    pub task: Task,
    /// When.
    pub at: DateTime<Utc>,
}

impl Standing {
    /// Returns the worst that these facts say. A run at work hides no failure, and what nobody knows is not good.
    pub fn judge(tasks: &[TaskStanding], incidents: &[Incident]) -> Verdict {
        let of_incidents = incidents.iter().map(|incident| match incident.urgency {
            Urgency::Page => Verdict::Danger,
            Urgency::Ticket => Verdict::Attention,
            Urgency::Info => Verdict::Good,
        });
        let of_tasks = tasks.iter().map(|task| match task.state {
            TaskState::Ok => Verdict::Good,
            TaskState::Waiting => Verdict::Unknown,
            TaskState::Partial | TaskState::Failed | TaskState::Overdue => Verdict::Attention,
        });
        of_incidents.chain(of_tasks).max().unwrap_or(Verdict::Unknown)
    }
}
