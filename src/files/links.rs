//! Hard links: names that lead to one file. Each name's entry holds all bytes, so that each can be restored without the
//! others, and names the first of them, so that a restore of several makes one file of them again.
//!
//! A restore takes the first name's bytes for all. So only a name of which the very same state of the file was stored
//! refers to it: one that was written in between is a file of its own in the snapshot.

use std::{
    collections::HashMap,
    fs::Metadata,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// Files with several names that are remembered at a time.
const GROUPS_MAX: usize = 1 << 18;

/// What tells one state of a file from another: device, inode, length, and the times of both kinds of changes. A
/// program can set one of these back, and not the other.
pub(super) type State = (u64, u64, u64, i64, i64, i64, i64);

/// Returns the state of a file.
pub(super) fn state(meta: &Metadata) -> State {
    let (mtime, ctime) = ((meta.mtime(), meta.mtime_nsec()), (meta.ctime(), meta.ctime_nsec()));
    (meta.dev(), meta.ino(), meta.size(), mtime.0, mtime.1, ctime.0, ctime.1)
}

/// The files that more names are expected of.
#[derive(Default)]
pub(super) struct Links {
    /// The first name that was stored of each, and how many are to come.
    groups: HashMap<State, (PathBuf, u64)>,
    /// Files that were not remembered.
    pub(super) forgotten: u64,
}

impl Links {
    /// Returns the name under which this state of a file is stored already.
    pub(super) fn first(&self, state: &State) -> Option<&Path> {
        self.groups.get(state).map(|(first, _)| first.as_path())
    }

    /// Notes that a file was stored whole, in this state, under one of its names.
    pub(super) fn stored(&mut self, path: &Path, state: State, names: u64) {
        if names < 2 {
            return;
        }
        if let Some((_, to_come)) = self.groups.get_mut(&state) {
            *to_come -= 1;
            if *to_come == 0 {
                self.groups.remove(&state);
            }
        } else if self.groups.len() < GROUPS_MAX {
            self.groups.insert(state, (path.to_owned(), names - 1));
        } else {
            self.forgotten += 1;
        }
    }
}
