//! Marks in the store that somebody is at work. Prune leaves what is being read, also when it was forgotten meanwhile,
//! and what a run has put, though nothing needs it yet.
//!
//! *Crash.* A mark of a run that died counts for as long as sessions do, and goes with the next prune.

use std::{collections::BTreeSet, sync::Arc};

use bytes::Bytes;
use chrono::{DateTime, Duration, Utc};

use super::{
    format::{self, FORMAT},
    marks::{self, SessionKind, SessionMark},
};
use crate::{
    clock::Ground,
    error::Result,
    names::{Key, SnapshotId},
    store::Put,
};

/// How often a long run says that it is still at work, at most.
const MARK_EVERY: Duration = Duration::hours(1);

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
        let (key, mark) = marks::end_of(&self.session);
        Ok(self.put.put(&key, mark).await?)
    }
}

/// The marks of a run that adds to the store. Advice; the fence does not rely on them.
pub(super) struct AtWork {
    session: SnapshotId,
    kind: SessionKind,
    /// The newest generation of prune when the run began.
    generation: u64,
    /// The number of the next mark, and when the last one was due.
    next: (u32, Option<DateTime<Utc>>),
}

impl AtWork {
    /// Begins a session.
    pub(super) fn new(session: SnapshotId, kind: SessionKind, generation: u64) -> Self {
        Self { session, kind, generation, next: (0, None) }
    }

    /// Returns the mark to put now, if one is due.
    pub(super) fn mark(&mut self, now: DateTime<Utc>) -> Option<(Key, Bytes)> {
        let (number, last) = self.next;
        if last.is_some_and(|last| now < last + MARK_EVERY) {
            return None;
        }
        self.next = (number + 1, Some(now));
        let (kind, generation) = (self.kind, self.generation);
        let mark = SessionMark { format: FORMAT, kind, generation, snapshots: BTreeSet::new() };
        Some((marks::session(&self.session, number), format::write(&mark).into()))
    }

    /// Returns the mark of its end.
    pub(super) fn end(&self) -> (Key, Bytes) {
        marks::end_of(&self.session)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_due_at_first_and_then_once_an_hour_under_a_new_name() {
        let now = DateTime::UNIX_EPOCH;
        let mut at_work = AtWork::new(SnapshotId::at(now, 7), SessionKind::Sync, 3);
        let mut due =
            |minutes| at_work.mark(now + Duration::minutes(minutes)).map(|(key, _)| key.to_string());
        let keys = [0, 0, 59, 60, 61, 300].map(&mut due);
        let key = |n: u32| Some(format!("sessions/19700101T000000Z-0007-{n}.json"));
        assert_eq!(keys, [key(0), None, None, key(1), None, key(2)]);
    }
}
