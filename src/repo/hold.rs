//! A reader's mark in the store: prune leaves what is being read, also when it was forgotten meanwhile.
//!
//! *Crash.* A mark of a reader that died counts for as long as sessions do, and goes with the next prune.

use std::sync::Arc;

use super::{
    format::{self, FORMAT},
    marks::{self, SessionKind, SessionMark},
};
use crate::{clock::Ground, error::Result, names::SnapshotId, store::Put};

/// Snapshots that are being read. Say when it ends.
pub struct Hold {
    put: Arc<dyn Put>,
    session: SnapshotId,
}

impl Hold {
    /// Puts the mark.
    pub async fn begin(put: Arc<dyn Put>, snapshots: &[SnapshotId], ground: &Ground) -> Result<Self> {
        let session = ground.id_at(ground.clock.now());
        let snapshots = snapshots.iter().cloned().collect();
        let mark = SessionMark { format: FORMAT, kind: SessionKind::Read, generation: 0, snapshots };
        put.put(&marks::session(&session, 0), format::write(&mark).into()).await?;
        Ok(Self { put, session })
    }

    /// Says that it ended.
    pub async fn end(self) -> Result<()> {
        Ok(self.put.put(&marks::session_end(&self.session), "ended\n".into()).await?)
    }
}
