//! Deleting in a folder: an object moves to `trash/`, under its own key, and is purged later.
//!
//! *Order.* The object's time becomes now and is synced, it is renamed into the trash, then the trash's folder is
//! synced and the object's after it. Its time in the trash is therefore when it was deleted, by the store's own
//! clock, and an object is never purged by the time at which it was made.
//!
//! *Crash.* Before the rename the object is where it was, only its time is younger. The rename is one step: the
//! object is in one place or in the other. When a delete that broke off is asked for again it finds nothing to
//! move, and syncs what the first one may not have.
//!
//! A name that lies in the trash already is replaced there: objects that bear the same name hold the same bytes.
//! What probes put was never anybody's data and is removed at once.
//! Empty folders stay, so that a purge never takes one away in which another process is about to put something.

use rustix::fs::{Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};

use super::{
    super::{PROBES, Trash},
    AtFlags, DateTime, Errno, Inner, Key, Listed, Mode, OFlags, OwnedFd, StoreError, TMP, TRASH, Utc,
    entries, io, is_file, is_reserved, modified, open_folder, sort, split, walk,
};

impl Inner {
    pub(super) fn delete(&self, key: &Key) -> Result<(), StoreError> {
        let at = key.as_str();
        if is_reserved(at) {
            return Err(sort(at, Errno::INVAL));
        }
        let (folder_path, name) = split(key);
        let root = self.open_root().map_err(|errno| self.no_root(errno))?;
        let moved = open_folder(&root, folder_path).and_then(|folder| {
            let moved = if at.starts_with(PROBES) {
                rustix::fs::unlinkat(&folder, name, AtFlags::empty())
            } else {
                self.move_to_trash(&root, &folder, folder_path, name)
            };
            match moved {
                Ok(()) | Err(Errno::NOENT) => rustix::fs::fsync(&folder),
                Err(errno) => Err(errno),
            }
        });
        match moved {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(Errno::ISDIR) => Err(StoreError::of_io(at, io::Error::other("it is no file"))),
            Err(errno) => Err(sort(at, errno)),
        }
    }

    fn move_to_trash(&self, root: &OwnedFd, folder: &OwnedFd, path: &str, name: &str) -> Result<(), Errno> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = rustix::fs::openat(folder, name, flags, Mode::empty())?;
        if !is_file(&rustix::fs::fstat(&file)?) {
            return Err(Errno::ISDIR);
        }
        let there = self.make_folder(root, &format!("{TRASH}/{path}"))?;
        let now = |tv_nsec| Timespec { tv_sec: 0, tv_nsec };
        let times = Timestamps { last_access: now(UTIME_OMIT), last_modification: now(UTIME_NOW) };
        rustix::fs::futimens(&file, &times)?;
        rustix::fs::fsync(&file)?;
        rustix::fs::renameat(folder, name, &there, name)?;
        rustix::fs::fsync(&there)
    }

    /// Purges what broke off in `tmp/` and what lies in the trash; returns how many bytes that freed.
    pub(super) fn tidy(
        &self,
        leftovers_before: DateTime<Utc>,
        trash_before: DateTime<Utc>,
    ) -> Result<u64, StoreError> {
        let root = self.open_root().map_err(|errno| self.no_root(errno))?;
        let leftovers = purge_leftovers(&root, leftovers_before).map_err(|errno| sort(TMP, errno))?;
        let trash = purge_trash(&root, trash_before).map_err(|errno| sort(TRASH, errno))?;
        Ok(leftovers + trash)
    }

    /// Tells what lies in the trash.
    pub(super) fn trash(&self) -> Result<Trash, StoreError> {
        let root = self.open_root().map_err(|errno| self.no_root(errno))?;
        let listed = match open_trash(&root) {
            Ok(Some(trash)) => list(&trash),
            Ok(None) => Ok(Vec::new()),
            Err(errno) => Err(errno),
        };
        let listed = listed.map_err(|errno| sort(TRASH, errno))?;
        Ok(Trash {
            objects: listed.len() as u64,
            size_bytes: listed.iter().map(|object| object.size_bytes).sum(),
            oldest: listed.iter().filter_map(|object| object.modified).min(),
        })
    }
}

fn open_trash(root: &OwnedFd) -> Result<Option<OwnedFd>, Errno> {
    match open_folder(root, TRASH) {
        Ok(folder) => Ok(Some(folder)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Lists the trash by the keys that its objects had.
fn list(trash: &OwnedFd) -> Result<Vec<Listed>, Errno> {
    let mut listed = Vec::new();
    walk(trash, "", &mut listed)?;
    Ok(listed)
}

fn purge_leftovers(root: &OwnedFd, before: DateTime<Utc>) -> Result<u64, Errno> {
    let folder = match open_folder(root, TMP) {
        Ok(folder) => folder,
        Err(Errno::NOENT) => return Ok(0),
        Err(errno) => return Err(errno),
    };
    let mut freed_bytes = 0;
    for (name, stat) in entries(&folder)? {
        if is_file(&stat) && modified(&stat).is_some_and(|modified| modified < before) {
            freed_bytes += remove(&folder, &name, u64::try_from(stat.st_size).unwrap_or(0))?;
        }
    }
    Ok(freed_bytes)
}

fn purge_trash(root: &OwnedFd, before: DateTime<Utc>) -> Result<u64, Errno> {
    let Some(trash) = open_trash(root)? else { return Ok(0) };
    let mut freed_bytes = 0;
    for object in list(&trash)? {
        if object.modified.is_some_and(|deleted| deleted < before) {
            let (folder_path, name) = split(&object.key);
            let folder = open_folder(&trash, folder_path)?;
            freed_bytes += remove(&folder, name, object.size_bytes)?;
        }
    }
    Ok(freed_bytes)
}

/// Removes a file for good; one that another process removed first freed nothing here.
fn remove(folder: &OwnedFd, name: &str, size_bytes: u64) -> Result<u64, Errno> {
    match rustix::fs::unlinkat(folder, name, AtFlags::empty()) {
        Ok(()) => Ok(size_bytes),
        Err(Errno::NOENT) => Ok(0),
        Err(errno) => Err(errno),
    }
}
