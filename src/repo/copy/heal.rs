//! The snapshots that a copy has: whether their packs are there, and what to do about those that are not.
//!
//! The listing with which the run began tells. A pack that is gone is copied again from the original; its name says
//! what it must be. One that has another size is left as it is, for an object is never overwritten.
//!
//! *Order.* The packs of one snapshot after the other, the oldest first, before anything new is copied. *Crash.* What
//! was copied again is found there by the next run.

use std::collections::BTreeMap;

use super::{Copy, packs::REMOVE_BY_HAND};
use crate::{
    error::{ExitCode, Result},
    names::PackId,
    repo::{SignedRefs, format::layout},
};

impl Copy<'_> {
    /// Copies again what a snapshot of the copy needs and what is gone there, or takes note that it cannot be.
    pub(super) async fn heal(&mut self, one: &SignedRefs) -> Result<()> {
        let id = &one.refs.snapshot;
        if self.known.forgotten.contains(id) {
            return Ok(());
        }
        let (mut gone, mut changed) = (BTreeMap::new(), Vec::new());
        one.packs.for_each(|pack, size_bytes| match self.packs.get(&pack) {
            Some(found) if *found == size_bytes => {}
            Some(_) => changed.push(pack),
            None => {
                gone.insert(pack, size_bytes);
            }
        });
        let copied = self.copy_packs(&gone).await;
        let again: Vec<PackId> = gone.into_keys().filter(|pack| self.packs.contains_key(pack)).collect();
        if !again.is_empty() {
            let count = again.len();
            let what =
                format!("{count} packs of snapshot {id} were gone from the copy and were copied again");
            let hint = "Look into who removed them there, and run `lifeboat verify --from` that offsite.";
            self.monitor.warn(None, what, Some(hint));
            self.report.healed.extend(again);
        }
        let unhealed = match (copied, changed.first()) {
            (Err(failure), _) if failure.exit() != ExitCode::Damage => return Err(failure),
            (Err(failure), _) => Some((failure.one_line(), "Run `lifeboat verify`.")),
            (Ok(()), Some(pack)) => {
                let key = layout::pack(*pack);
                Some((format!("`{key}` of the copy does not have its size"), REMOVE_BY_HAND))
            }
            (Ok(()), None) => None,
        };
        if let Some((why, hint)) = unhealed {
            let what = format!("snapshot {id} cannot be restored from the copy: {why}");
            self.monitor.warn(None, what, Some(hint));
            self.report.unhealed.push((id.clone(), why));
        }
        Ok(())
    }
}
