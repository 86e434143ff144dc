//! What runs leave beside snapshots so that others can see them without a key: sessions, tombstones and the
//! generations of prune. All in the clear; what removes something is signed, and its signature lies there first.
//!
//! Names sort by generation: numbers have eight digits.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{
    clock::stored_time,
    names::{Key, PackId, SnapshotId},
};

/// `sessions/<session>-<n>.json`: somebody is at work. Advice only: it makes prune wait, never delete.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionMark {
    /// [`super::format::FORMAT`].
    pub format: u32,
    /// What is done.
    pub kind: SessionKind,
    /// The newest generation of prune when it began.
    pub generation: u64,
    /// The snapshots that it needs until it ends.
    pub snapshots: BTreeSet<SnapshotId>,
}

/// What a session does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SessionKind {
    /// Adds a snapshot.
    Backup,
    /// Adds copies of snapshots.
    Sync,
    /// Reads snapshots.
    Read,
}

/// `tombstones/<snapshot>.g<generation>.json`: why a snapshot is gone, or will be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tombstone {
    /// [`super::format::FORMAT`].
    pub format: u32,
    /// The repository's id.
    pub repository: String,
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// The generation that removes it.
    pub generation: u64,
    /// The commit that is forgotten; `null` for refs that nobody had signed when the tombstone was made. Such a
    /// tombstone says nothing about a snapshot that was signed after all.
    pub commit: Option<Forgotten>,
    /// Why, in words.
    pub reason: String,
    /// When, by the clock of whoever forgot it.
    #[serde(deserialize_with = "stored_time")]
    pub at: DateTime<Utc>,
}

/// The commit that a tombstone is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Forgotten {
    /// SHA-256 of its refs.
    pub refs: PackId,
    /// Who signed them.
    pub signer: String,
    /// Their number in the signer's chain.
    pub seq: u64,
}

/// `prune/<generation>.condemned.json`: packs that no snapshot needs. No backup may rely on them from here on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Condemned {
    /// [`super::format::FORMAT`].
    pub format: u32,
    /// The repository's id.
    pub repository: String,
    /// Its number, counted from 1.
    pub generation: u64,
    /// When, by the clock of whoever condemned them.
    #[serde(deserialize_with = "stored_time")]
    pub at: DateTime<Utc>,
    /// The packs, with their sizes.
    pub packs: BTreeMap<PackId, u64>,
}

/// `prune/<generation>.open.json`: the sweep of a generation has begun.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Open {
    /// [`super::format::FORMAT`].
    pub format: u32,
    /// The repository's id.
    pub repository: String,
    /// The generation.
    pub generation: u64,
    /// Tells two runs apart that open at one instant.
    pub run: String,
    /// When it began.
    #[serde(deserialize_with = "stored_time")]
    pub at: DateTime<Utc>,
}

/// `prune/<generation>.done.json`: the sweep has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Done {
    /// [`super::format::FORMAT`].
    pub format: u32,
    /// The repository's id.
    pub repository: String,
    /// The generation.
    pub generation: u64,
    /// When it ended.
    #[serde(deserialize_with = "stored_time")]
    pub at: DateTime<Utc>,
    /// Packs that were deleted.
    pub deleted: BTreeSet<PackId>,
    /// Packs that a snapshot needed after all.
    pub rescued: BTreeSet<PackId>,
    /// Snapshots whose objects were deleted.
    pub snapshots: BTreeSet<SnapshotId>,
}

/// The steps of a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// [`Condemned`].
    Condemned,
    /// [`Open`].
    Open,
    /// [`Done`].
    Done,
}

impl Step {
    const ALL: [Self; 3] = [Self::Condemned, Self::Open, Self::Done];

    fn word(self) -> &'static str {
        match self {
            Self::Condemned => "condemned",
            Self::Open => "open",
            Self::Done => "done",
        }
    }
}

/// What the mark of an end holds.
const ENDED: &[u8] = b"ended\n";

/// Where sessions are.
pub const SESSIONS: &str = "sessions/";
/// Where tombstones are.
pub const TOMBSTONES: &str = "tombstones/";
/// Where generations of prune are.
pub const PRUNE: &str = "prune/";
/// Tombstones of another repository that this one is a copy of: they explain what was never copied.
pub const UPSTREAM: &str = "tombstones/upstream/";

/// The last generation: names have eight digits. Its number is taken from listings, where anybody may have put it.
pub const GENERATION_MAX: u64 = 99_999_999;

fn key(text: &str) -> Key {
    Key::new(text).unwrap_or_else(|error| panic!("{error}"))
}

/// `sessions/<session>-<n>.json`.
pub fn session(session: &SnapshotId, n: u32) -> Key {
    key(&format!("{SESSIONS}{session}-{n}.json"))
}

/// `sessions/<session>.end`.
pub fn session_end(session: &SnapshotId) -> Key {
    key(&format!("{SESSIONS}{session}.end"))
}

/// The mark of a session's end.
pub fn end_of(session: &SnapshotId) -> (Key, Bytes) {
    (session_end(session), Bytes::from_static(ENDED))
}

/// The session that `key` is of.
pub fn session_of(key: &Key) -> Option<SnapshotId> {
    let name = key.as_str().strip_prefix(SESSIONS)?;
    let id =
        name.strip_suffix(".end").or_else(|| name.strip_suffix(".json")?.rsplit_once('-').map(|(id, _)| id));
    SnapshotId::new(id?).ok()
}

/// `tombstones/<snapshot>.g<generation>.json`.
pub fn tombstone(snapshot: &SnapshotId, generation: u64) -> Key {
    key(&format!("{TOMBSTONES}{snapshot}.g{generation:08}.json"))
}

/// The snapshot and generation that `key` names.
pub fn tombstone_of(key: &Key) -> Option<(SnapshotId, u64)> {
    let name = key.as_str().strip_prefix(TOMBSTONES)?;
    let name = name.strip_prefix("upstream/").unwrap_or(name).strip_suffix(".json")?;
    let (snapshot, generation) = name.split_once(".g")?;
    Some((SnapshotId::new(snapshot).ok()?, generation_of(generation)?))
}

/// Reads a generation out of a name. Any other number of digits is no name of ours: a name that is as long as a key can
/// be leaves no room for that of its signature.
fn generation_of(digits: &str) -> Option<u64> {
    (digits.len() == 8).then(|| digits.parse().ok())?
}

/// The name under which a copy keeps a tombstone of its original.
pub fn upstream(of: &Key) -> Option<Key> {
    let name = of.as_str().strip_prefix(TOMBSTONES)?;
    let name = name.strip_prefix("upstream/").unwrap_or(name);
    Key::new(&format!("{UPSTREAM}{name}")).ok()
}

/// `prune/<generation>.<step>.json`.
pub fn step(generation: u64, step: Step) -> Key {
    key(&format!("{PRUNE}{generation:08}.{}.json", step.word()))
}

/// The generation and step that `key` names; also of a signature whose object never came.
pub fn step_of(key: &Key) -> Option<(u64, Step)> {
    let name = key.as_str().strip_prefix(PRUNE)?;
    let (generation, word) = name.strip_suffix(".json")?.split_once('.')?;
    let step = Step::ALL.into_iter().find(|step| step.word() == word)?;
    Some((generation_of(generation)?, step))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back_to_what_they_name() {
        let id = SnapshotId::new("20251010T180000Z-7f3a").unwrap();
        assert_eq!(session_of(&session(&id, 3)), Some(id.clone()));
        assert_eq!(session_of(&session_end(&id)), Some(id.clone()));
        assert_eq!(tombstone_of(&tombstone(&id, 7)), Some((id.clone(), 7)));
        assert_eq!(upstream(&tombstone(&id, 7)).and_then(|key| tombstone_of(&key)), Some((id.clone(), 7)));
        for of in Step::ALL {
            assert_eq!(step_of(&step(12, of)), Some((12, of)));
        }
        assert!(step(9, Step::Done) < step(10, Step::Condemned), "names sort by generation");
        let long = format!("prune/{}7.open.json", "0".repeat(490));
        for other in [
            &long,
            "prune/123456789.open.json",
            "prune/x.open.json",
            "prune/00000001.shut.json",
            "sessions/x",
            "tombstones/x.json",
        ] {
            let other = Key::new(other).unwrap();
            assert!(
                step_of(&other).is_none() && session_of(&other).is_none() && tombstone_of(&other).is_none()
            );
        }
    }
}
