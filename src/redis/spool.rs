//! A whole dump on local disk, for the time between its arrival and its departure.
//!
//! A reader that is slow keeps the server's fork and its memory alive, and a dump that turns out damaged
//! must not reach anybody: so the dump lies here first. The file has no name, is readable by this user only
//! and disappears with the process, whatever ends it.
//!
//! Where the policy names no folder and nobody set `TMPDIR`, memory that looks like a folder is passed over:
//! a dump in it would be counted against what this process may use.

use std::{
    fs::File,
    io::{self, Read, Seek, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, PoisonError},
};

use rustix::fs::FsWord;

use crate::error::{Context, ExitCode, Result};

/// How the kernel calls file systems that lie in memory: `tmpfs` and `ramfs`.
const MEMORY: [FsWord; 2] = [0x0102_1994, 0x8584_58f6];
/// Where temporary files are on disk, on every system that knows the hierarchy.
const ON_DISK: &str = "/var/tmp";
/// A dump is rarely smaller than the data in memory by more than this: values that repeat themselves are packed.
const PACKED_BY_MAX: u64 = 8;

/// An unnamed temporary file; clones are the same file.
#[derive(Clone, Debug)]
pub(super) struct Spool {
    file: Arc<File>,
}

impl Spool {
    /// Makes an empty one in `folder`, or where temporary files belong.
    pub(super) fn new(folder: Option<&PathBuf>) -> Result<Self> {
        let folder = folder.cloned().unwrap_or_else(usual_folder);
        let file = tempfile::tempfile_in(&folder).failed(ExitCode::Failed, || {
            format!("no file can be made in the spool folder `{}`", folder.display())
        })?;
        Ok(Self { file: Arc::new(file) })
    }

    /// Throws away what it holds.
    pub(super) fn empty(&self) -> Result<()> {
        self.file.set_len(0).failed(ExitCode::Failed, || "the spooled dump cannot be thrown away".to_owned())
    }

    /// Returns how many bytes this user may still write to its file system.
    pub(super) fn free_bytes(&self) -> Result<u64> {
        let stat = rustix::fs::fstatvfs(&self.file).failed(ExitCode::Failed, || {
            "the file system of the spool folder does not tell its size".to_owned()
        })?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    /// Returns the file at its beginning. Such handles share one position: use one at a time.
    pub(super) fn rewound(&self) -> Result<File> {
        let what = || "the spooled dump cannot be read".to_owned();
        let mut file = self.file.try_clone().failed(ExitCode::Failed, what)?;
        file.rewind().failed(ExitCode::Failed, what)?;
        Ok(file)
    }

    /// Returns a writer from its beginning, and a blocking reader that follows it: one that has come as far as the
    /// writer waits, and ends when the writer is gone.
    pub(super) fn followed(&self) -> Result<(SpoolWriter, Follower)> {
        let written = Arc::new(Written::default());
        let writer = SpoolWriter { file: self.rewound()?, written: Arc::clone(&written) };
        Ok((writer, Follower { reader: self.reader(0), written }))
    }

    /// Returns a blocking reader of the bytes from `begin` on, with a position of its own.
    pub(super) fn reader(&self, begin: u64) -> SpoolReader {
        SpoolReader { file: Arc::clone(&self.file), at: begin }
    }
}

/// Returns the folder for temporary files: the system's, or the one on disk where the former lies in memory.
fn usual_folder() -> PathBuf {
    let usual = std::env::temp_dir();
    let on_disk = PathBuf::from(ON_DISK);
    let is_chosen = std::env::var_os("TMPDIR").is_some();
    let is_better = !is_chosen && lies_in_memory(&usual) && on_disk.is_dir() && !lies_in_memory(&on_disk);
    if is_better { on_disk } else { usual }
}

/// Returns whether what is written to a folder takes memory.
fn lies_in_memory(folder: &Path) -> bool {
    rustix::fs::statfs(folder).is_ok_and(|stat| MEMORY.contains(&stat.f_type))
}

/// Whether a dump will fit, as far as that can be known before it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// There is as much room as the data takes in memory.
    Enough,
    /// There may be too little.
    Tight,
    /// However well the data packs, there is too little.
    Hopeless,
}

impl Room {
    /// Judges by how much is free and how much memory the data takes.
    pub(super) fn judge(free_bytes: u64, dataset_bytes: u64) -> Self {
        if free_bytes >= dataset_bytes {
            Self::Enough
        } else if free_bytes >= dataset_bytes / PACKED_BY_MAX {
            Self::Tight
        } else {
            Self::Hopeless
        }
    }
}

/// Reads a spool from a position of its own.
pub(super) struct SpoolReader {
    file: Arc<File>,
    at: u64,
}

impl SpoolReader {
    /// Goes on reading from another position.
    pub(super) fn seek_to(&mut self, begin: u64) {
        self.at = begin;
    }
}

impl Read for SpoolReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(into, self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

/// How far a spool was written.
#[derive(Default)]
struct Written {
    so_far: Mutex<SoFar>,
    more: Condvar,
}

#[derive(Clone, Copy, Default)]
struct SoFar {
    size_bytes: u64,
    is_all: bool,
}

impl Written {
    fn note(&self, change: impl FnOnce(&mut SoFar)) {
        change(&mut self.so_far.lock().unwrap_or_else(PoisonError::into_inner));
        self.more.notify_all();
    }

    /// Waits until more than `size_bytes` were written, or nothing more will be; returns how many there are.
    fn beyond(&self, size_bytes: u64) -> u64 {
        let so_far = self.so_far.lock().unwrap_or_else(PoisonError::into_inner);
        let waits = |so_far: &mut SoFar| so_far.size_bytes <= size_bytes && !so_far.is_all;
        self.more.wait_while(so_far, waits).unwrap_or_else(PoisonError::into_inner).size_bytes
    }
}

/// Writes a spool that somebody reads meanwhile.
pub(super) struct SpoolWriter {
    file: File,
    written: Arc<Written>,
}

impl Write for SpoolWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.written.note(|so_far| so_far.size_bytes += count as u64);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for SpoolWriter {
    fn drop(&mut self) {
        self.written.note(|so_far| so_far.is_all = true);
    }
}

/// Reads a spool while it is written.
pub(super) struct Follower {
    reader: SpoolReader,
    written: Arc<Written>,
}

impl Read for Follower {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let ahead = self.written.beyond(self.reader.at).saturating_sub(self.reader.at);
        let count = usize::try_from(ahead).unwrap_or(usize::MAX).min(into.len());
        self.reader.read(&mut into[..count])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_follows_a_writer_reads_all_of_it_and_ends_with_it() {
        let spool = Spool::new(None).unwrap();
        let (mut writer, mut follower) = spool.followed().unwrap();
        let reading = std::thread::spawn(move || {
            let mut all = Vec::new();
            follower.read_to_end(&mut all).map(|_| all)
        });
        let written: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
        written.chunks(7001).for_each(|piece| writer.write_all(piece).unwrap());
        assert!(!reading.is_finished(), "the writer is still there");
        drop(writer);
        assert_eq!(reading.join().unwrap().unwrap(), written);
    }

    #[test]
    fn an_emptied_spool_holds_nothing_of_the_dump_before() {
        let spool = Spool::new(None).unwrap();
        spool.rewound().unwrap().write_all(b"a long dump").unwrap();
        spool.empty().unwrap();
        spool.rewound().unwrap().write_all(b"short").unwrap();
        let mut held = String::new();
        spool.reader(0).read_to_string(&mut held).unwrap();
        assert_eq!(held, "short");
    }

    #[test]
    fn room_is_judged_by_what_the_data_takes_in_memory() {
        assert_eq!(Room::judge(100, 100), Room::Enough);
        assert_eq!(Room::judge(0, 0), Room::Enough);
        assert_eq!(Room::judge(99, 100), Room::Tight);
        assert_eq!(Room::judge(100, 800), Room::Tight);
        assert_eq!(Room::judge(99, 800), Room::Hopeless);
    }

    #[test]
    fn memory_that_looks_like_a_folder_is_known_as_such() {
        assert!(!lies_in_memory(Path::new("/proc")), "it is no place for files, but no tmpfs either");
        assert!(!lies_in_memory(Path::new("/no/such/folder")));
        // Every Linux has it, and it is always memory.
        assert!(lies_in_memory(Path::new("/dev/shm")));
    }
}
