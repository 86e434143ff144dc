//! What questions are asked of: a snapshot, and the lab that it was restored into.

use std::path::PathBuf;

use crate::{
    clock::Ground,
    event::SharedMonitor,
    lab::{Lab, Running},
    names::{SnapshotId, SourceName},
    policy::{SourceConfig, Stack},
    repo::Snapshot,
};

/// One source of the snapshot and the server of the lab that took its place.
#[derive(Clone, Debug)]
pub struct Cast {
    /// The source as the policy has it, with the lab's address and credentials: what reads the original with the
    /// policy's words reads the copy with these.
    pub config: SourceConfig,
    /// The server; `None` for files.
    pub running: Option<Running>,
    /// The folder below which files were put as they were; `None` for servers.
    pub folder: Option<PathBuf>,
}

/// A restored stack.
pub struct Scene<'a> {
    /// The drill: what is drawn by lot is drawn anew for each.
    pub drill: SnapshotId,
    /// The policy.
    pub stack: &'a Stack,
    /// What was restored.
    pub snapshot: &'a Snapshot,
    /// Where it was restored to.
    pub lab: &'a dyn Lab,
    /// The sources that were restored, in the order of the backup.
    pub cast: Vec<Cast>,
    /// Time and chance.
    pub ground: &'a Ground,
    /// Who hears what happens.
    pub monitor: &'a SharedMonitor,
}

impl Scene<'_> {
    /// Returns the copy of a source.
    pub fn copy_of(&self, name: &SourceName) -> Option<&Cast> {
        self.cast.iter().find(|one| one.config.name == *name)
    }
}
