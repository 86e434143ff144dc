//! Metrics: a stack's [`Standing`] as Prometheus reads it.
//!
//! The text is made from the facts each time, so nothing latches: what is over is gone from it, and what nobody knows
//! has no line at all, as a 0 would say that it is known. It is `OpenMetrics` ([`CONTENT_TYPE`]) and keeps to what the
//! older text format has too (gauges only, no `UNIT`), so `node_exporter`'s textfile collector takes the same bytes.
//!
//! Labels hold names of the policy (stack, places, sources) and words of this program, never what is inside a source.
//!
//! *Order.* A text file is written whole beside its place and then renamed. *Crash.* The older one stays, and its age
//! is in it: `lifeboat_scrape_timestamp_seconds`.

use std::{collections::BTreeMap, fmt, fs, io::Write, os::unix::fs::PermissionsExt, path::Path};

use chrono::{DateTime, Utc};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, text},
    metrics::{MetricType, gauge::ConstGauge},
    registry::Registry,
};

use crate::{
    drill::{Outcome, Way},
    error::{Context, ExitCode, Result},
    names::{Job, Task},
    status::{
        DrillStanding, Kind, PlaceStanding, SourceStanding, Standing, TaskStanding, TaskState, Urgency,
        Verdict,
    },
};

/// What an HTTP answer with these metrics says that it is.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The `store` of what is done to the stack's own repository, and of what is asked of all places at once.
const REPOSITORY: &str = "repository";

/// What a source's size may be counted in; another word is not shown.
const COUNTED: [&str; 5] = ["entries", "rows", "keys", "objects", "files"];

/// What the service that keeps a place may say of deleting there.
const LOCK_STATES: [&str; 3] = ["proven", "broken", "unproven"];

const TASK_STATES: [TaskState; 5] =
    [TaskState::Ok, TaskState::Partial, TaskState::Failed, TaskState::Overdue, TaskState::Waiting];

const VERDICTS: [Verdict; 4] = [Verdict::Good, Verdict::Unknown, Verdict::Attention, Verdict::Danger];

/// Every metric there is, in order of its name, and what it says.
pub const METRICS: [(&str, &str); 30] = [
    ("lifeboat_assertions", "Assertions of the last drill, by what became of them"),
    ("lifeboat_build_info", "Always 1; the version is a label"),
    ("lifeboat_clock_skew_seconds", "How far the clock of the place or source is ahead of this host's"),
    ("lifeboat_drill_objective_seconds", "How long a restore of everything may take"),
    ("lifeboat_drill_passed", "1 if every assertion of the last drill held"),
    ("lifeboat_drill_rto_seconds", "How long the restore of everything took in the last drill"),
    ("lifeboat_drill_timestamp_seconds", "When the last drill ended"),
    ("lifeboat_expected_interval_seconds", "The longest time between two slots of the schedule"),
    ("lifeboat_full_in_seconds", "How long until the place is full, if it goes on as it did"),
    ("lifeboat_incidents", "Incidents that are open"),
    ("lifeboat_last_run_exit_code", "How the last run ended, as the command line's exit code"),
    ("lifeboat_last_run_timestamp_seconds", "When the last run ended"),
    ("lifeboat_last_success_timestamp_seconds", "When the last run that succeeded ended"),
    ("lifeboat_lock_state", "1 for what is known of the lock: whether the service refuses to delete"),
    ("lifeboat_next_run_timestamp_seconds", "The next slot of the schedule"),
    ("lifeboat_offsite_lag_bytes", "Bytes of packs that the repository has and the copy lacks"),
    ("lifeboat_offsite_lag_seconds", "How long the oldest snapshot that the copy lacks has waited"),
    ("lifeboat_point_timestamp_seconds", "The instant that the source can be taken back to"),
    ("lifeboat_points", "Snapshots: all, those that passed a drill, those that cannot be deleted yet"),
    ("lifeboat_prune_frozen", "1 while nothing may be removed until a person has looked"),
    ("lifeboat_repo_bytes", "Bytes of the newest snapshot (logical), of all packs (stored), and free"),
    (
        "lifeboat_rpo_seconds",
        "What would be lost: the age of the instant that the source can be taken back to",
    ),
    ("lifeboat_run_added_bytes", "Bytes that the last run added to the store"),
    ("lifeboat_run_seconds", "How long the last run took"),
    ("lifeboat_running_since_timestamp_seconds", "When the run that is at work began"),
    ("lifeboat_scrape_timestamp_seconds", "When these facts were gathered"),
    ("lifeboat_source_bytes", "Plain bytes of the source in the newest snapshot that has it"),
    ("lifeboat_source_items", "What was counted of the source in the newest snapshot that has it"),
    ("lifeboat_task_state", "1 for how it is with the task"),
    ("lifeboat_verdict", "1 for the worst that is true of the stack"),
];

/// Returns the metrics of a stack as `OpenMetrics` text.
pub fn render(standing: &Standing) -> String {
    let mut sheet = Sheet { stack: standing.stack.clone(), samples: BTreeMap::new() };
    of_stack(&mut sheet, standing);
    for task in &standing.tasks {
        of_task(&mut sheet, task);
    }
    for source in &standing.sources {
        of_source(&mut sheet, source, standing.at);
    }
    for place in &standing.places {
        of_place(&mut sheet, place);
    }
    for drill in standing.drill.iter().chain(&standing.by_hand) {
        of_drill(&mut sheet, drill);
    }
    let mut registry = Registry::default();
    registry.register_collector(Box::new(sheet));
    let mut out = String::new();
    // Writing into a String cannot fail.
    let _ = text::encode(&mut out, &registry);
    out
}

/// Writes metrics to where `node_exporter` looks for them, so that it never reads half of them.
pub fn write_textfile(path: &Path, text: &str) -> Result<()> {
    let failed = || format!("failed to write the metrics to `{}`", path.display());
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // The collector reads what ends in `.prom`; this does not.
    let name = tempfile::Builder::new().prefix(".lifeboat-").suffix(".new").tempfile_in(folder);
    let mut file = name.failed(ExitCode::Failed, failed)?;
    file.write_all(text.as_bytes()).failed(ExitCode::Failed, failed)?;
    // Another user reads it.
    let readable = fs::Permissions::from_mode(0o644);
    file.as_file().set_permissions(readable).failed(ExitCode::Failed, failed)?;
    file.persist(path).map(drop).failed(ExitCode::Failed, failed)
}

/// The word for a job in the label `job`. A copy and the daily report go by what they are for.
fn word(job: Job) -> &'static str {
    match job {
        Job::Sync => "offsite",
        Job::Digest => "notify",
        other => other.word(),
    }
}

fn place_of(task: &Task) -> &str {
    task.place.as_deref().unwrap_or(REPOSITORY)
}

fn of_stack(sheet: &mut Sheet, standing: &Standing) {
    let store = ("store", REPOSITORY);
    sheet.put("lifeboat_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1.0);
    sheet.put("lifeboat_scrape_timestamp_seconds", &[], seconds(standing.at));
    for verdict in VERDICTS {
        let is = f64::from(verdict == standing.verdict);
        sheet.put("lifeboat_verdict", &[("verdict", verdict.word())], is);
    }
    for kind in Kind::ALL {
        for urgency in [Urgency::Info, Urgency::Ticket, Urgency::Page] {
            let alike = standing.incidents.iter().filter(|one| one.kind == kind && one.urgency == urgency);
            let labels = [("kind", kind.word()), ("urgency", urgency.word())];
            sheet.put("lifeboat_incidents", &labels, alike.count() as f64);
        }
    }
    sheet.put("lifeboat_prune_frozen", &[store], f64::from(standing.prune_frozen.is_some()));
    for (thing, skew) in &standing.clock_skew_seconds {
        sheet.put("lifeboat_clock_skew_seconds", &[("store", thing)], *skew);
    }
}

fn of_task(sheet: &mut Sheet, task: &TaskStanding) {
    let (store, job) = (("store", place_of(&task.task)), ("job", word(task.task.job)));
    let mut put = |name, value: Option<f64>| {
        if let Some(value) = value {
            sheet.put(name, &[store, job], value);
        }
    };
    put("lifeboat_last_success_timestamp_seconds", task.last_success.map(seconds));
    put("lifeboat_expected_interval_seconds", task.interval_seconds.map(|interval| interval as f64));
    put("lifeboat_next_run_timestamp_seconds", task.next.map(seconds));
    put("lifeboat_running_since_timestamp_seconds", task.running_since.map(seconds));
    if let Some(run) = &task.last_run {
        put("lifeboat_last_run_timestamp_seconds", Some(seconds(run.ended)));
        put("lifeboat_last_run_exit_code", Some(f64::from(run.exit)));
        put("lifeboat_run_seconds", Some(seconds(run.ended) - seconds(run.began)));
        put("lifeboat_run_added_bytes", Some(run.added_bytes as f64));
    }
    for state in TASK_STATES {
        let is = f64::from(state == task.state);
        sheet.put("lifeboat_task_state", &[store, job, ("state", state.word())], is);
    }
}

fn of_source(sheet: &mut Sheet, source: &SourceStanding, now: DateTime<Utc>) {
    let store = ("store", source.name.as_str());
    for (place, point) in [("local", source.point), ("offsite", source.point_offsite)] {
        let Some(point) = point else { continue };
        let labels = [store, ("where", place)];
        sheet.put("lifeboat_point_timestamp_seconds", &labels, seconds(point));
        // A point in the future stays visible as a negative age.
        sheet.put("lifeboat_rpo_seconds", &labels, seconds(now) - seconds(point));
    }
    for (what, count) in &source.counts {
        if what == "bytes" {
            sheet.put("lifeboat_source_bytes", &[store], *count as f64);
        } else if COUNTED.contains(&what.as_str()) {
            sheet.put("lifeboat_source_items", &[store, ("what", what)], *count as f64);
        }
    }
}

fn of_place(sheet: &mut Sheet, place: &PlaceStanding) {
    let store = ("store", place.name.as_str());
    let mut put = |name, labels: &[(&'static str, &str)], value: Option<u64>| {
        if let Some(value) = value {
            sheet.put(name, &[&[store], labels].concat(), value as f64);
        }
    };
    put("lifeboat_points", &[("state", "all")], place.snapshots);
    let known = |count: u64| place.snapshots.is_some().then_some(count);
    put("lifeboat_points", &[("state", "proven")], known(place.proven));
    put("lifeboat_points", &[("state", "immutable")], known(place.immutable));
    put("lifeboat_repo_bytes", &[("kind", "logical")], place.logical_bytes);
    put("lifeboat_repo_bytes", &[("kind", "stored")], place.stored_bytes);
    put("lifeboat_repo_bytes", &[("kind", "free")], place.free_bytes);
    put("lifeboat_offsite_lag_bytes", &[], place.lag_bytes);
    put("lifeboat_offsite_lag_seconds", &[], place.lag_seconds);
    put("lifeboat_full_in_seconds", &[], place.full_in_days.map(|days| days.saturating_mul(86_400)));
    for state in LOCK_STATES.iter().filter(|_| place.lock.is_some()) {
        put(
            "lifeboat_lock_state",
            &[("state", state)],
            Some(u64::from(place.lock.as_deref() == Some(state))),
        );
    }
}

fn of_drill(sheet: &mut Sheet, drill: &DrillStanding) {
    // As with the task that makes it: where the bytes came from may change from drill to drill.
    let store = match drill.way {
        Way::Restore => ("store", REPOSITORY),
        Way::ByHand => ("store", drill.way.word()),
    };
    sheet.put("lifeboat_drill_passed", &[store], f64::from(drill.outcome == Outcome::Passed));
    sheet.put("lifeboat_drill_timestamp_seconds", &[store], seconds(drill.ended));
    if let Some(rto) = drill.rto_seconds {
        sheet.put("lifeboat_drill_rto_seconds", &[store], rto as f64);
    }
    if let Some(objective) = drill.objective_seconds {
        sheet.put("lifeboat_drill_objective_seconds", &[store], objective as f64);
    }
    for (result, count) in ["passed", "failed", "could_not_run"].into_iter().zip(drill.assertions) {
        sheet.put("lifeboat_assertions", &[store, ("result", result)], count as f64);
    }
}

fn seconds(at: DateTime<Utc>) -> f64 {
    at.timestamp_millis() as f64 / 1000.0
}

type Labels = Vec<(&'static str, String)>;

/// The samples of one scrape, by metric and labels, so that the same facts are always the same text.
#[derive(Debug)]
struct Sheet {
    stack: String,
    samples: BTreeMap<&'static str, BTreeMap<Labels, f64>>,
}

impl Sheet {
    /// Adds a sample. One with the same labels is replaced: a line that is there twice spoils the whole scrape.
    fn put(&mut self, name: &'static str, labels: &[(&'static str, &str)], value: f64) {
        debug_assert!(METRICS.iter().any(|(known, _)| *known == name), "{name} is not in the list");
        let mut all = vec![("stack", self.stack.clone())];
        all.extend(labels.iter().map(|(label, value)| (*label, (*value).to_owned())));
        self.samples.entry(name).or_default().insert(all, value);
    }
}

impl Collector for Sheet {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        for (name, help) in METRICS {
            let Some(samples) = self.samples.get(name) else { continue };
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (labels, value) in samples {
                ConstGauge::new(*value).encode(metric.encode_family(labels)?)?;
            }
        }
        Ok(())
    }
}
