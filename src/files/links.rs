//! Hard links: names that lead to one file. Each name's entry holds all bytes, so that each can be restored without the
//! others, and names the first of them, so that a restore of several makes one file of them again.

use std::{
    collections::HashMap,
    fs::Metadata,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// Files with several names that are remembered at a time.
const GROUPS_MAX: usize = 1 << 18;

/// The files that more names are expected of.
#[derive(Default)]
pub(super) struct Links {
    /// The first name of each, and how many are to come, by device and inode.
    groups: HashMap<(u64, u64), (PathBuf, u64)>,
    /// Files that were not remembered.
    pub(super) forgotten: u64,
}

impl Links {
    /// Takes a file's next name; returns the first that it had, `None` when this is the first.
    pub(super) fn first(&mut self, path: &Path, meta: &Metadata) -> Option<PathBuf> {
        let names = meta.nlink();
        if names < 2 {
            return None;
        }
        let file = (meta.dev(), meta.ino());
        let Some((first, to_come)) = self.groups.get_mut(&file) else {
            if self.groups.len() < GROUPS_MAX {
                self.groups.insert(file, (path.to_owned(), names - 1));
            } else {
                self.forgotten += 1;
            }
            return None;
        };
        let first = first.clone();
        *to_come -= 1;
        if *to_come == 0 {
            self.groups.remove(&file);
        }
        Some(first)
    }
}
