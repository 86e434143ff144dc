//! A store in a folder, by our own hand: opendal's `fs` does not make names durable, and its create-only
//! is a check and then a rename.
//!
//! *Order.* A put writes `tmp/<pid>-<n>`, block by block where there is a pace, syncs the file, renames it without
//! replacing, then syncs the folder, and the folders above it that this process saw for the first time. Only then it
//! returns.
//!
//! *Crash.* Before the rename: a leftover in `tmp/`, which no listing shows and [`Delete::tidy`] removes.
//! After the rename and before the last sync: the object is there or it is not, whole in both cases, and
//! nobody was told that it is. What a delete does, and what a crash leaves of it, is told in `trash`.
//!
//! Every step works on open folders, part by part and without following symbolic links, so no object can
//! lie outside the root. A root that is missing is an error for everything but the search for one object:
//! a disk that is not mounted must never look like an empty repository that may be written to.

mod trash;

use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, Write},
    ops::Range,
    os::{fd::OwnedFd, unix::fs::FileExt},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures_util::StreamExt;
use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags, RenameFlags, Stat},
    io::Errno,
};

use super::{
    Delete, Get, Listed, Put, StoreError, Trash,
    pace::{Pace, blocks},
};
use crate::names::Key;

/// The folder for what is not whole yet; no key may begin with it.
const TMP: &str = "tmp";
/// The folder for what was deleted; no key may begin with it either.
const TRASH: &str = "trash";
/// Folders are for their owner: names tell when backups ran and how big they are.
const FOLDER_MODE: Mode = Mode::RWXU;
/// Objects never change, so not even their owner may write to them.
const FILE_MODE: Mode = Mode::RUSR;
/// How a folder is opened on the way to an object.
const FOLDER_FLAGS: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Objects as files under one folder. Clones share what is known of it.
#[derive(Clone, Debug)]
pub struct FsStore {
    inner: Arc<Inner>,
    pace: Option<Pace>,
}

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    /// Numbers the temporary files of this process.
    next_tmp: AtomicU64,
    /// Folders whose own name is known to be durable.
    durable: Mutex<BTreeSet<String>>,
}

impl FsStore {
    /// Names the folder; it need not exist until something is put.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        let (next_tmp, durable) = (AtomicU64::new(0), Mutex::default());
        Self { inner: Arc::new(Inner { root: root.into(), next_tmp, durable }), pace: None }
    }

    /// Lets bytes be written at this pace and no faster.
    #[must_use]
    pub fn paced(mut self, pace: Pace) -> Self {
        self.pace = Some(pace);
        self
    }

    /// Makes the folder and those above it, if they are not there.
    pub fn create(root: impl Into<PathBuf>) -> io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        let root = root.into();
        if !root.is_dir() {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&root)?;
            if let Some(parent) = root.parent().filter(|parent| !parent.as_os_str().is_empty()) {
                File::open(parent)?.sync_all()?;
            }
        }
        Ok(Self::new(root))
    }

    /// Returns the folder.
    pub fn root(&self) -> &Path {
        &self.inner.root
    }

    /// Runs `work` where it may block.
    async fn blocking<T: Send + 'static>(
        &self,
        at: &str,
        work: impl FnOnce(&Inner) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let inner = Arc::clone(&self.inner);
        let joined = tokio::task::spawn_blocking(move || work(&inner)).await;
        joined.map_err(|error| StoreError::Broken { at: at.to_owned(), source: error.into() })?
    }
}

#[async_trait]
impl Put for FsStore {
    async fn put(&self, key: &Key, body: Bytes) -> Result<(), StoreError> {
        let (at, began) = (key.to_string(), key.clone());
        let mut writing = self.blocking(&at, move |inner| inner.begin(&began)).await?;
        let mut blocks = std::pin::pin!(blocks(body, self.pace.clone()));
        while let Some(block) = blocks.next().await {
            writing = self.blocking(&at, move |_| writing.add(&block)).await?;
        }
        self.blocking(&at, move |_| writing.place()).await
    }
}

#[async_trait]
impl Get for FsStore {
    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Bytes, StoreError> {
        let key = key.clone();
        self.blocking(&key.to_string(), move |inner| inner.get(&key, range)).await
    }

    async fn size(&self, key: &Key) -> Result<Option<u64>, StoreError> {
        let key = key.clone();
        self.blocking(&key.to_string(), move |inner| inner.size(&key)).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Listed>, StoreError> {
        let prefix = prefix.to_owned();
        self.blocking(&prefix.clone(), move |inner| inner.list(&prefix)).await
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Delete for FsStore {
    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        let key = key.clone();
        self.blocking(&key.to_string(), move |inner| inner.delete(&key)).await
    }

    async fn tidy(
        &self,
        leftovers_before: DateTime<Utc>,
        trash_before: DateTime<Utc>,
    ) -> Result<u64, StoreError> {
        self.blocking(TMP, move |inner| inner.tidy(leftovers_before, trash_before)).await
    }

    async fn trash(&self) -> Result<Trash, StoreError> {
        self.blocking(TRASH, Inner::trash).await
    }
}

/// Splits a key into its folder (empty for the root) and its last part.
fn split(key: &Key) -> (&str, &str) {
    key.as_str().rsplit_once('/').unwrap_or(("", key.as_str()))
}

/// Returns whether a path lies where no object can.
fn is_reserved(path: &str) -> bool {
    [TMP, TRASH].contains(&path.split('/').next().unwrap_or_default())
}

/// Sorts an error of the operating system.
fn sort(at: &str, errno: Errno) -> StoreError {
    // A symbolic link, or a file where a folder belongs, is not ours: say so plainly.
    let error = match errno {
        Errno::LOOP => io::Error::other("a symbolic link is in the way"),
        Errno::NOTDIR => io::Error::other("a link or a file lies where a folder belongs"),
        other => other.into(),
    };
    StoreError::of_io(at, error)
}

impl Inner {
    /// Begins an object: looks whether its name is free, and makes the folders and a file of no name of ours.
    fn begin(&self, key: &Key) -> Result<Writing, StoreError> {
        let at = key.as_str();
        let fail = |errno: Errno| sort(at, errno);
        let (folder_path, name) = split(key);
        if is_reserved(at) {
            return Err(sort(at, Errno::INVAL));
        }
        let root = self.open_root().map_err(|errno| self.no_root(errno))?;
        let folder = self.make_folder(&root, folder_path).map_err(fail)?;
        match rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => return Err(StoreError::Exists { key: key.clone() }),
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(fail(errno)),
        }
        let tmp = self.make_folder(&root, TMP).map_err(fail)?;
        let (tmp_name, file) = self.create_tmp(&tmp).map_err(fail)?;
        Ok(Writing { key: key.clone(), folder, tmp, tmp_name, file, is_placed: false })
    }

    fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Bytes, StoreError> {
        let at = key.as_str();
        let Some(file) = self.open_object(key)? else {
            return Err(StoreError::NotFound { key: key.clone() });
        };
        let size_bytes = file.metadata().map_err(|error| StoreError::of_io(at, error))?.len();
        let range = range.unwrap_or(0..size_bytes);
        if range.end > size_bytes || range.start > range.end {
            return Err(StoreError::Short { key: key.clone(), size_bytes, wanted: range.end });
        }
        let mut bytes = vec![0; usize::try_from(range.end - range.start).unwrap_or(usize::MAX)];
        file.read_exact_at(&mut bytes, range.start).map_err(|error| StoreError::of_io(at, error))?;
        Ok(bytes.into())
    }

    fn size(&self, key: &Key) -> Result<Option<u64>, StoreError> {
        let Some(file) = self.open_object(key)? else { return Ok(None) };
        let metadata = file.metadata().map_err(|error| StoreError::of_io(key.as_str(), error))?;
        Ok(Some(metadata.len()))
    }

    fn list(&self, prefix: &str) -> Result<Vec<Listed>, StoreError> {
        let folder_path = prefix.rsplit_once('/').map_or("", |(folder, _)| folder);
        if is_reserved(folder_path) {
            return Ok(Vec::new());
        }
        let root = self.open_root().map_err(|errno| self.no_root(errno))?;
        let mut listed = Vec::new();
        match open_folder(&root, folder_path) {
            Ok(folder) => walk(&folder, folder_path, &mut listed).map_err(|errno| sort(prefix, errno))?,
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(sort(prefix, errno)),
        }
        listed.retain(|object| object.key.as_str().starts_with(prefix));
        listed.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(listed)
    }

    /// Opens the root; it is the one folder whose path may hold links, for a person chose it.
    fn open_root(&self) -> Result<OwnedFd, Errno> {
        let flags = FOLDER_FLAGS.difference(OFlags::NOFOLLOW);
        rustix::fs::open(&self.root, flags, Mode::empty())
    }

    fn no_root(&self, errno: Errno) -> StoreError {
        let at = self.root.display().to_string();
        match errno {
            Errno::NOENT | Errno::NOTDIR => {
                StoreError::Unavailable { at, source: Box::new(io::Error::from(errno)) }
            }
            other => sort(&at, other),
        }
    }

    /// Opens an object for reading; a missing one, or a missing root, is `None`.
    fn open_object(&self, key: &Key) -> Result<Option<File>, StoreError> {
        let (folder_path, name) = split(key);
        if is_reserved(key.as_str()) {
            return Ok(None);
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let opened = self
            .open_root()
            .and_then(|root| open_folder(&root, folder_path))
            .and_then(|folder| rustix::fs::openat(&folder, name, flags, Mode::empty()));
        match opened {
            Ok(file) if rustix::fs::fstat(&file).is_ok_and(|stat| is_file(&stat)) => Ok(Some(file.into())),
            Ok(_) => Err(StoreError::of_io(key.as_str(), io::Error::other("it is no file"))),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(sort(key.as_str(), errno)),
        }
    }

    /// Opens a folder under the root, making what is missing; on return its name is durable.
    fn make_folder(&self, root: &OwnedFd, path: &str) -> Result<OwnedFd, Errno> {
        let mut folder = rustix::fs::openat(root, ".", FOLDER_FLAGS, Mode::empty())?;
        let mut so_far = String::new();
        for part in path.split('/').filter(|part| !part.is_empty()) {
            match rustix::fs::mkdirat(&folder, part, FOLDER_MODE) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno),
            }
            let next = rustix::fs::openat(&folder, part, FOLDER_FLAGS, Mode::empty())?;
            so_far.push('/');
            so_far.push_str(part);
            self.make_durable(&so_far, &folder)?;
            folder = next;
        }
        Ok(folder)
    }

    /// Syncs `parent` unless this process did so since it first met `path`.
    ///
    /// Also for a folder that was there already: another process may have made it and died before its sync.
    fn make_durable(&self, path: &str, parent: &OwnedFd) -> Result<(), Errno> {
        let known = || self.durable.lock().unwrap_or_else(PoisonError::into_inner);
        if !known().contains(path) {
            rustix::fs::fsync(parent)?;
            known().insert(path.to_owned());
        }
        Ok(())
    }

    /// Creates a file of a name that nobody has.
    fn create_tmp(&self, tmp: &OwnedFd) -> Result<(String, File), Errno> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        loop {
            let name = format!("{}-{}", std::process::id(), self.next_tmp.fetch_add(1, Ordering::Relaxed));
            match rustix::fs::openat(tmp, &name, flags, FILE_MODE) {
                // A process of this number died here before us, or works on another host.
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno),
                Ok(file) => return Ok((name, file.into())),
            }
        }
    }
}

/// An object on its way. Dropped before it is in its place, it leaves nothing.
struct Writing {
    key: Key,
    folder: OwnedFd,
    tmp: OwnedFd,
    tmp_name: String,
    file: File,
    is_placed: bool,
}

impl Writing {
    /// Writes the next bytes.
    fn add(mut self, block: &[u8]) -> Result<Self, StoreError> {
        self.file.write_all(block).map_err(|error| StoreError::of_io(self.key.as_str(), error))?;
        Ok(self)
    }

    /// Makes the bytes durable, gives them their name, and makes that durable.
    fn place(mut self) -> Result<(), StoreError> {
        let at = self.key.as_str();
        self.file.sync_all().map_err(|error| StoreError::of_io(at, error))?;
        let (_, name) = split(&self.key);
        rename_new(&self.tmp, &self.tmp_name, &self.folder, name).map_err(|errno| match errno {
            Errno::EXIST => StoreError::Exists { key: self.key.clone() },
            other => sort(at, other),
        })?;
        self.is_placed = true;
        rustix::fs::fsync(&self.folder).map_err(|errno| sort(self.key.as_str(), errno))
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        if !self.is_placed {
            // A full disk needs the room at once; what cannot be removed now `tidy` removes later.
            let _ = rustix::fs::unlinkat(&self.tmp, &self.tmp_name, AtFlags::empty());
        }
    }
}

/// Renames without replacing; a file system that cannot is asked for a second name instead, which can
/// not replace either.
fn rename_new(tmp: &OwnedFd, tmp_name: &str, folder: &OwnedFd, name: &str) -> Result<(), Errno> {
    match rustix::fs::renameat_with(tmp, tmp_name, folder, name, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => link_new(tmp, tmp_name, folder, name),
        other => other,
    }
}

fn link_new(tmp: &OwnedFd, tmp_name: &str, folder: &OwnedFd, name: &str) -> Result<(), Errno> {
    rustix::fs::linkat(tmp, tmp_name, folder, name, AtFlags::empty())?;
    // The object is in place; a second name in `tmp/` costs nothing until `tidy`.
    let _ = rustix::fs::unlinkat(tmp, tmp_name, AtFlags::empty());
    Ok(())
}

/// Opens a folder under `root`, part by part, through no symbolic link.
fn open_folder(root: &OwnedFd, path: &str) -> Result<OwnedFd, Errno> {
    let mut folder = rustix::fs::openat(root, ".", FOLDER_FLAGS, Mode::empty())?;
    for part in path.split('/').filter(|part| !part.is_empty()) {
        if part == ".." {
            return Err(Errno::INVAL);
        }
        folder = rustix::fs::openat(&folder, part, FOLDER_FLAGS, Mode::empty())?;
    }
    Ok(folder)
}

/// Adds all objects under `folder`, which is not reserved, to `listed`.
fn walk(folder: &OwnedFd, path: &str, listed: &mut Vec<Listed>) -> Result<(), Errno> {
    for (name, stat) in entries(folder)? {
        let inside = if path.is_empty() { name.clone() } else { format!("{path}/{name}") };
        // `lost+found` and the like are no names of ours.
        let Ok(key) = Key::new(&inside) else { continue };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory if is_reserved(&inside) => {}
            FileType::Directory => match rustix::fs::openat(folder, &name, FOLDER_FLAGS, Mode::empty()) {
                Ok(child) => walk(&child, &inside, listed)?,
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno),
            },
            FileType::RegularFile => {
                let size_bytes = u64::try_from(stat.st_size).unwrap_or(0);
                listed.push(Listed { key, size_bytes, modified: modified(&stat) });
            }
            _ => {}
        }
    }
    Ok(())
}

/// Returns what lies in a folder; what vanishes meanwhile, and names that are no text, are left out.
fn entries(folder: &OwnedFd) -> Result<Vec<(String, Stat)>, Errno> {
    let mut found = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().to_str() else { continue };
        if name == "." || name == ".." {
            continue;
        }
        match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => found.push((name.to_owned(), stat)),
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(found)
}

fn is_file(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
}

fn modified(stat: &Stat) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp(stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests;
