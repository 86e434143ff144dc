//! A whole dump on local disk, for the time between its arrival and its departure.
//!
//! A reader that is slow keeps the server's fork and its memory alive, and a dump that turns out damaged
//! must not reach anybody: so the dump lies here first. The file has no name, is readable by this user only
//! and disappears with the process, whatever ends it.

use std::{
    fs::File,
    io::{self, Read, Seek},
    os::unix::fs::FileExt,
    path::PathBuf,
    sync::Arc,
};

use crate::error::{Context, ExitCode, Result};

/// An unnamed temporary file; clones are the same file.
#[derive(Clone, Debug)]
pub(super) struct Spool {
    file: Arc<File>,
}

impl Spool {
    /// Makes an empty one in `folder`, or in the system's temporary folder.
    pub(super) fn new(folder: Option<&PathBuf>) -> Result<Self> {
        let folder = folder.cloned().unwrap_or_else(std::env::temp_dir);
        let file = tempfile::tempfile_in(&folder).failed(ExitCode::Failed, || {
            format!("no file can be made in the spool folder `{}`", folder.display())
        })?;
        Ok(Self { file: Arc::new(file) })
    }

    /// Returns the file at its beginning. Such handles share one position: use one at a time.
    pub(super) fn rewound(&self) -> Result<File> {
        let what = || "the spooled dump cannot be read".to_owned();
        let mut file = self.file.try_clone().failed(ExitCode::Failed, what)?;
        file.rewind().failed(ExitCode::Failed, what)?;
        Ok(file)
    }

    /// Returns a blocking reader of the bytes from `begin` on, with a position of its own.
    pub(super) fn reader(&self, begin: u64) -> SpoolReader {
        SpoolReader { file: Arc::clone(&self.file), at: begin }
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
