//! What a policy says about the service, and about what it takes for unusual.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ServeConfig {
    /// Where metrics and health are told over HTTP; this host only unless another address is named.
    #[serde(default = "default_listen")]
    pub listen: String,
    /// A file that the metrics are written to as well, for the textfile collector of the node exporter.
    #[serde(default)]
    pub textfile: Option<PathBuf>,
    /// Days that runs, slots and messages are remembered.
    #[serde(default = "default_remember_days")]
    pub remember_days: u32,
}

impl Default for ServeConfig {
    fn default() -> Self {
        Self { listen: default_listen(), textfile: None, remember_days: default_remember_days() }
    }
}

/// What is unusual: how far a source's rows, bytes, objects or keys may be from the median of the last seven backups
/// before prune stands still and a person must look.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AnomalyConfig {
    /// So many percent less are unusual; 100 for only when nothing is left.
    #[serde(default = "default_shrink_percent")]
    pub shrink_percent: u32,
    /// So many percent more are unusual; 0 for never.
    #[serde(default = "default_grow_percent")]
    pub grow_percent: u32,
}

impl Default for AnomalyConfig {
    fn default() -> Self {
        Self { shrink_percent: default_shrink_percent(), grow_percent: default_grow_percent() }
    }
}

fn default_listen() -> String {
    "127.0.0.1:9412".to_owned()
}
fn default_remember_days() -> u32 {
    400
}
fn default_shrink_percent() -> u32 {
    30
}
fn default_grow_percent() -> u32 {
    400
}
