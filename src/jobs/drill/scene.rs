//! What questions are asked of: a snapshot, and the lab that it was restored into.

use std::path::PathBuf;

use async_trait::async_trait;

use crate::{
    clock::Ground,
    error::Result,
    event::SharedMonitor,
    flow::{STREAM_DEPTH, Selection, channel, settle},
    lab::{Lab, Running},
    names::{SnapshotId, SourceName},
    policy::{RedisConfig, SourceConfig, Stack},
    redis::compare::Dump,
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

/// The dumps that a snapshot holds.
#[async_trait]
pub trait Dumps: Sync {
    /// Returns the stored dump of a Redis source. `config` says where a dump may lie meanwhile.
    async fn dump(&self, source: &SourceName, config: &RedisConfig) -> Result<Dump>;
}

#[async_trait]
impl Dumps for Scene<'_> {
    async fn dump(&self, source: &SourceName, config: &RedisConfig) -> Result<Dump> {
        let (sink, entries) = channel(STREAM_DEPTH);
        let (all, now_ms) = (Selection::all(), self.ground.clock.now().timestamp_millis());
        let read = self.snapshot.read_source(source, &all, sink, self.monitor);
        let (read, taken) = tokio::join!(read, Dump::take(entries, config, now_ms));
        let ((), dump) = settle(read, taken).map_err(|error| error.about(source))?;
        Ok(dump)
    }
}
