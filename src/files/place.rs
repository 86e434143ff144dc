//! A folder that nothing written through it can leave.
//!
//! Every step below it is one name, opened from the folder before it and never through a symbolic link, so
//! that neither an entry's path nor a link that somebody plants meanwhile leads elsewhere.
//!
//! *Order* of a file: a draft beside its final name, its bytes, owner, mode and times, flushed to the disk,
//! then one rename; the names in a folder are flushed when all is written ([`Place::flush`]). *Crash*: what has the
//! final name is whole; drafts are called `.lifeboat-…` and a draft that is dropped removes itself.

use std::{
    collections::HashMap,
    ffi::{OsStr, OsString},
    fs::{self, File},
    io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use rustix::{
    fs::{
        AtFlags, FileType, Mode, OFlags, RenameFlags, Timespec, Timestamps, chownat, fchmod, fchown, fstat,
        fsync, futimens, linkat, mkdirat, open, openat, renameat, renameat_with, statat, symlinkat, syncfs,
        unlinkat, utimensat,
    },
    io::Errno,
    process::{Gid, Uid, geteuid},
};

use super::{facts::Facts, xattr};

/// Device and inode of a file.
pub(super) type Identity = (u64, u64);

/// How often another name is tried for a draft.
const DRAFT_TRIES: u32 = 100;

/// A folder that nothing written through it can leave.
#[derive(Debug)]
pub(super) struct Place {
    base: OwnedFd,
    /// The folders that were opened to write into them, by their names; `None` where the whole file system is flushed
    /// in the end.
    opened: Option<HashMap<Identity, Vec<OsString>>>,
}

impl Place {
    /// Opens a folder that is trusted as it is named, and makes it when it is not there.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let missing: Vec<&Path> = path.ancestors().take_while(|folder| !folder.exists()).collect();
        fs::create_dir_all(path)?;
        for parent in missing.iter().filter_map(|folder| folder.parent()) {
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            match open(parent, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) {
                // Where we may write and not look, there is nothing to flush it by.
                Err(Errno::ACCESS) => {}
                opened => flush(&opened?)?,
            }
        }
        let base = open(path, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { base, opened: Some(HashMap::new()) })
    }

    /// The same for very many folders: none is remembered, nor flushed by itself when it is made.
    pub(super) fn open_for_many(path: &Path) -> io::Result<Self> {
        Ok(Self { opened: None, ..Self::open(path)? })
    }

    /// Opens the folder that these names lead to, to write into it, and makes those that are not there.
    pub(super) fn folder<N: AsRef<OsStr>>(&mut self, names: &[N]) -> io::Result<OwnedFd> {
        self.folder_or(names, |_, parent, name| make_folder(parent, name))
    }

    /// The same; `missing` is asked to make the one of an index that is not there or is no folder.
    pub(super) fn folder_or<N: AsRef<OsStr>>(
        &mut self,
        names: &[N],
        missing: impl FnMut(usize, &OwnedFd, &OsStr) -> io::Result<()>,
    ) -> io::Result<OwnedFd> {
        let folder = self.walk(names, missing)?;
        if let Some(opened) = &mut self.opened {
            let names = || names.iter().map(|name| name.as_ref().to_owned()).collect();
            opened.entry(identity(&folder)?).or_insert_with(names);
        }
        Ok(folder)
    }

    /// Opens a folder again that is there, and refuses another that has taken its place.
    pub(super) fn again<N: AsRef<OsStr>>(&self, names: &[N], expected: Identity) -> io::Result<OwnedFd> {
        let gone = |_, _: &OwnedFd, _: &OsStr| Err(io::Error::other("it was taken away meanwhile"));
        let folder = self.walk(names, gone)?;
        if identity(&folder)? != expected {
            return Err(io::Error::other("another folder has taken its place meanwhile"));
        }
        Ok(folder)
    }

    /// Flushes the names in all folders that were opened to write into them, but those that somebody else will flush.
    /// Returns the folders where that failed.
    pub(super) fn flush(&self, is_others: impl Fn(Identity) -> bool) -> Vec<(PathBuf, io::Error)> {
        let Some(opened) = &self.opened else {
            return syncfs(&self.base)
                .err()
                .map(|error| (PathBuf::new(), error.into()))
                .into_iter()
                .collect();
        };
        let ours = opened.iter().filter(|(folder, _)| !is_others(**folder));
        let flushed =
            ours.map(|(folder, names)| (names, self.again(names, *folder).and_then(|it| flush(&it))));
        flushed.filter_map(|(names, flushed)| Some((names.iter().collect(), flushed.err()?))).collect()
    }

    fn walk<N: AsRef<OsStr>>(
        &self,
        names: &[N],
        mut missing: impl FnMut(usize, &OwnedFd, &OsStr) -> io::Result<()>,
    ) -> io::Result<OwnedFd> {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut folder = self.base.try_clone()?;
        for (index, name) in names.iter().enumerate() {
            let name = name.as_ref();
            let next = match openat(&folder, name, flags, Mode::empty()) {
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
                    missing(index, &folder, name)?;
                    openat(&folder, name, flags, Mode::empty())
                }
                other => other,
            };
            folder = next?;
        }
        Ok(folder)
    }
}

/// Makes a folder on the way that others may look into where nothing is, and refuses where something else is. It is on
/// the disk afterwards.
pub(super) fn make_folder(parent: &OwnedFd, name: &OsStr) -> io::Result<()> {
    make(parent, name, 0o755)?;
    flush(parent)
}

/// Makes a folder on the way of which only its own place knows when it is flushed.
pub(super) fn make_folder_of_many(parent: &OwnedFd, name: &OsStr) -> io::Result<()> {
    make(parent, name, 0o755)
}

/// Makes a folder for its owner alone: what others may do there is set when all is in it.
pub(super) fn make_private_folder(parent: &OwnedFd, name: &OsStr) -> io::Result<()> {
    make(parent, name, 0o700)
}

fn make(parent: &OwnedFd, name: &OsStr, mode: u32) -> io::Result<()> {
    match mkdirat(parent, name, Mode::from_raw_mode(mode)) {
        Err(Errno::EXIST) => Err(io::Error::other(format!(
            "`{}` on the way to it is no folder, and links are not followed",
            name.display()
        ))),
        made => Ok(made?),
    }
}

/// Returns what has this name, `None` when nothing has.
pub(super) fn kind_at(parent: &OwnedFd, name: &OsStr) -> io::Result<Option<FileType>> {
    match statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode))),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Removes what has this name and is no folder.
pub(super) fn remove(parent: &OwnedFd, name: &OsStr) -> io::Result<()> {
    Ok(unlinkat(parent, name, AtFlags::empty())?)
}

/// Makes a new file with its final name; fails when the name is taken.
pub(super) fn create(parent: &OwnedFd, name: &OsStr) -> io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(parent, name, flags, Mode::from_raw_mode(0o600))?.into())
}

/// Gives something another name in the same folder; fails when that name is taken.
pub(super) fn rename(parent: &OwnedFd, from: &OsStr, to: &OsStr, replace: bool) -> io::Result<()> {
    if replace {
        return Ok(renameat(parent, from, parent, to)?);
    }
    match renameat_with(parent, from, parent, to, RenameFlags::NOREPLACE) {
        // Some file systems do not know the flag; a look first is the best that is left there.
        Err(Errno::INVAL | Errno::NOSYS) if kind_at(parent, to)?.is_none() => {
            Ok(renameat(parent, from, parent, to)?)
        }
        Err(Errno::INVAL | Errno::NOSYS) => Err(Errno::EXIST.into()),
        renamed => Ok(renamed?),
    }
}

/// Sets owner, extended attributes, mode and times of something open. Returns what is lacking of owner and
/// attributes.
///
/// The owner comes first, as changing it clears bits of the mode and capabilities; the mode after the access list, as
/// its group bits are the list's mask (acl(5)).
pub(super) fn dress(file: impl AsFd, facts: &Facts) -> io::Result<Option<String>> {
    let disowned = own(facts, |owner, group| fchown(&file, Some(owner), Some(group)))?;
    let lacking = xattr::set(&file, &facts.xattrs);
    fchmod(&file, Mode::from_raw_mode(mode(facts, disowned.is_none())))?;
    futimens(&file, &times(facts))?;
    Ok(disowned.or(lacking))
}

/// Sets an owner where we are root. Returns why this place takes none: root of a user namespace that does not know the
/// owner (EINVAL), a server that trusts no client's root, a file system without owners (chown(2)).
fn own(facts: &Facts, set: impl FnOnce(Uid, Gid) -> rustix::io::Result<()>) -> io::Result<Option<String>> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    match set(Uid::from_raw(facts.uid), Gid::from_raw(facts.gid)) {
        Err(error @ (Errno::PERM | Errno::INVAL | Errno::NOTSUP)) => {
            let (owner, group, why) = (facts.uid, facts.gid, io::Error::from(error));
            Ok(Some(format!("its owner {owner}:{group}: {why}")))
        }
        told => Ok(told.map(|()| None)?),
    }
}

/// Says which file something open is, among all that there are now.
pub(super) fn identity(file: impl AsFd) -> io::Result<Identity> {
    let stat = fstat(file)?;
    Ok((stat.st_dev, stat.st_ino))
}

/// Flushes a folder's names to the disk.
pub(super) fn flush(folder: &OwnedFd) -> io::Result<()> {
    match fsync(folder) {
        // Some file systems have nothing to flush for a folder.
        Err(Errno::INVAL) => Ok(()),
        flushed => Ok(flushed?),
    }
}

/// The bits to set: without the owner, a program must not gain the rights of whoever restores it.
fn mode(facts: &Facts, is_owned: bool) -> u32 {
    if is_owned && geteuid().is_root() { facts.mode } else { facts.mode & 0o1777 }
}

fn times(facts: &Facts) -> Timestamps {
    let time = Timespec {
        tv_sec: facts.mtime_ns.div_euclid(1_000_000_000),
        tv_nsec: facts.mtime_ns.rem_euclid(1_000_000_000),
    };
    Timestamps { last_access: time, last_modification: time }
}

/// A file or link that has not its final name yet.
pub(super) struct Draft {
    parent: OwnedFd,
    name: OsString,
    done: bool,
}

impl Draft {
    /// Begins a file.
    pub(super) fn file(parent: OwnedFd) -> io::Result<(Self, File)> {
        Self::try_names(parent, create)
    }

    /// Makes a symbolic link. Returns what is lacking of its owner.
    pub(super) fn link(parent: OwnedFd, target: &Path, facts: &Facts) -> io::Result<(Self, Option<String>)> {
        let make = |parent: &OwnedFd, name: &OsStr| Ok(symlinkat(target, parent, name)?);
        let (draft, ()) = Self::try_names(parent, make)?;
        // Whoever owns the folder may have put another file under that name, which must not be given away.
        let link = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let link = openat(&draft.parent, &draft.name, link, Mode::empty())?;
        if FileType::from_raw_mode(fstat(&link)?.st_mode) != FileType::Symlink {
            return Err(io::Error::other("something else has taken its place meanwhile"));
        }
        let lacking =
            own(facts, |owner, group| chownat(&link, "", Some(owner), Some(group), AtFlags::EMPTY_PATH))?;
        utimensat(&link, "", &times(facts), AtFlags::EMPTY_PATH)?;
        Ok((draft, lacking))
    }

    /// Makes a further name of a file that was written before, and refuses when another has taken its first name.
    pub(super) fn same(parent: OwnedFd, first: (&OwnedFd, &OsStr), file: Identity) -> io::Result<Self> {
        let make =
            |parent: &OwnedFd, name: &OsStr| Ok(linkat(first.0, first.1, parent, name, AtFlags::empty())?);
        let (draft, ()) = Self::try_names(parent, make)?;
        let stat = statat(&draft.parent, &draft.name, AtFlags::SYMLINK_NOFOLLOW)?;
        if (stat.st_dev, stat.st_ino) != file {
            return Err(io::Error::other("its first name leads to another file by now"));
        }
        Ok(draft)
    }

    fn try_names<T>(
        parent: OwnedFd,
        make: impl Fn(&OwnedFd, &OsStr) -> io::Result<T>,
    ) -> io::Result<(Self, T)> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let mut last = io::Error::from(io::ErrorKind::AlreadyExists);
        for _ in 0..DRAFT_TRIES {
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let draft = OsString::from(format!(".lifeboat-{}-{count}", std::process::id()));
            match make(&parent, &draft) {
                Ok(thing) => return Ok((Self { parent, name: draft, done: false }, thing)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => last = error,
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }

    /// Gives it its final name.
    pub(super) fn finish(mut self, name: &OsStr, replace: bool) -> io::Result<()> {
        rename(&self.parent, &self.name, name, replace)?;
        // Where both names led to one file already, there was nothing to do, and the draft is still there (rename(2)).
        self.done = kind_at(&self.parent, &self.name)?.is_none();
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.done {
            // Best effort: a draft that stays is a hidden file and in nobody's way.
            remove(&self.parent, &self.name).ok();
        }
    }
}
