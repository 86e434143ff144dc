//! Metrics, the alert rules and the dashboard that are shipped: that they fit together, and that Prometheus takes them.

#[path = "alerts/dashboard.rs"]
mod dashboard;
#[path = "alerts/live.rs"]
mod live;
#[path = "alerts/metrics.rs"]
mod metrics;
#[path = "alerts/rules.rs"]
mod rules;
#[path = "alerts/standing.rs"]
mod standing;

use std::{collections::BTreeSet, fs, path::Path};

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).expect(path)
}

/// Returns the metrics that a text names: words that begin like ours, up to what cannot belong to a name.
fn metrics_in(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'));
    words.filter(|word| word.starts_with("lifeboat_")).map(str::to_owned).collect()
}
