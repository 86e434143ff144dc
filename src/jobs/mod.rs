//! What lifeboat does, a file for each verb: the only floor on which engines, repository and catalog meet.
//!
//! A job takes no input but its arguments, returns a report or a [`crate::error::Failure`], and tells a
//! [`crate::event::Monitor`] what happens meanwhile. The command line and the service call the same jobs.

pub mod anomaly;
pub mod backup;
mod coming;
pub mod compose;
mod contents;
pub mod digest;
pub mod doctor;
pub mod drill;
pub mod drilled;
pub mod export;
pub mod init;
pub mod keys;
pub mod kit;
mod known;
pub mod lock;
pub mod notify;
pub mod open;
pub mod prune;
pub mod recall;
pub mod registry;
pub mod restore;
pub mod run;
pub mod seen;
pub mod shard;
pub mod standing;
pub mod sync;
pub mod tasks;
pub mod verify;
pub mod watch;
pub mod when;

use crate::{
    error::{ExitCode, Failure},
    policy::Stack,
};

/// Returns the failure of a source that the policy does not have, with those that it has.
pub fn no_source(stack: &Stack, name: &str) -> Failure {
    let names: Vec<&str> = stack.sources.iter().map(|source| source.name.as_str()).collect();
    Failure::new(ExitCode::Usage, format!("the policy has no source `{name}`"))
        .hint(format!("It has: {}.", names.join(", ")))
}
