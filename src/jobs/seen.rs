//! What runs saw of places, kept so that nobody has to ask a store in order to show how a stack stands.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{catalog::Catalog, error::Result, names::SnapshotId};

/// The name of the stack's own repository among places.
pub const REPOSITORY: &str = "repository";

/// What was seen of the repository or a copy of it. What nobody saw is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PlaceSeen {
    /// Snapshots there.
    pub snapshots: Option<u64>,
    /// How many of them a drill has proven.
    pub proven: Option<u64>,
    /// The newest of them.
    pub newest: Option<SnapshotId>,
    /// When that was begun.
    pub newest_began: Option<DateTime<Utc>>,
    /// Plain bytes of the newest.
    pub logical_bytes: Option<u64>,
    /// Bytes of the packs there.
    pub stored_bytes: Option<u64>,
    /// Bytes of packs that the copy has not.
    pub lag_bytes: Option<u64>,
    /// What the copy lacked when it was last synced.
    pub behind: Option<Behind>,
}

/// What a copy lacked when it was last synced.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Behind {
    /// The oldest snapshot that it lacked, whoever made it, and when that was begun.
    pub oldest: Option<(SnapshotId, DateTime<Utc>)>,
}

impl PlaceSeen {
    /// Takes over what `newer` has seen.
    fn update(&mut self, newer: Self) {
        fn take<T>(old: &mut Option<T>, new: Option<T>) {
            if new.is_some() {
                *old = new;
            }
        }
        take(&mut self.snapshots, newer.snapshots);
        take(&mut self.proven, newer.proven);
        take(&mut self.newest, newer.newest);
        take(&mut self.newest_began, newer.newest_began);
        take(&mut self.logical_bytes, newer.logical_bytes);
        take(&mut self.stored_bytes, newer.stored_bytes);
        take(&mut self.lag_bytes, newer.lag_bytes);
        take(&mut self.behind, newer.behind);
    }
}

fn name_of(place: &str) -> String {
    format!("place.{place}")
}

/// Returns what was seen of a place.
pub fn place(ledger: &Catalog, place: &str) -> Result<PlaceSeen> {
    Ok(ledger.observed::<PlaceSeen>(&name_of(place))?.map(|(seen, _)| seen).unwrap_or_default())
}

/// Notes what was seen of a place; what `newer` does not know stays.
pub fn note_place(ledger: &Catalog, at: &str, newer: PlaceSeen, now: DateTime<Utc>) -> Result<()> {
    let mut seen = place(ledger, at)?;
    seen.update(newer);
    ledger.observe(&name_of(at), &seen, now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_run_did_not_see_stays_as_another_saw_it() {
        let catalog = Catalog::in_memory().unwrap();
        let now = DateTime::UNIX_EPOCH;
        let first =
            PlaceSeen { snapshots: Some(3), proven: Some(2), stored_bytes: Some(7), ..PlaceSeen::default() };
        note_place(&catalog, "oss", first, now).unwrap();
        note_place(&catalog, "oss", PlaceSeen { snapshots: Some(4), ..PlaceSeen::default() }, now).unwrap();
        let seen = place(&catalog, "oss").unwrap();
        assert_eq!((seen.snapshots, seen.proven, seen.stored_bytes), (Some(4), Some(2), Some(7)));
        assert_eq!(place(&catalog, REPOSITORY).unwrap(), PlaceSeen::default());
    }
}
