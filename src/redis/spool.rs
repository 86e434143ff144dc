//! A whole dump on local disk, for the time between its arrival and its departure.
//!
//! A reader that is slow keeps the server's fork and its memory alive, and a dump that turns out damaged
//! must not reach anybody: so the dump lies here first. The file has no name, is readable by this user only
//! and disappears with the process, whatever ends it.

use std::{fs::File, io::Seek, path::PathBuf};

use crate::error::{Context, ExitCode, Result};

/// An unnamed temporary file.
#[derive(Debug)]
pub(super) struct Spool {
    file: File,
}

impl Spool {
    /// Makes an empty one in `folder`, or in the system's temporary folder.
    pub(super) fn new(folder: Option<&PathBuf>) -> Result<Self> {
        let folder = folder.cloned().unwrap_or_else(std::env::temp_dir);
        let file = tempfile::tempfile_in(&folder).failed(ExitCode::Failed, || {
            format!("no file can be made in the spool folder `{}`", folder.display())
        })?;
        Ok(Self { file })
    }

    /// Returns the file, positioned at its beginning. All handles share one position: use one at a time.
    pub(super) fn rewound(&self) -> Result<File> {
        let what = || "the spooled dump cannot be read".to_owned();
        let mut file = self.file.try_clone().failed(ExitCode::Failed, what)?;
        file.rewind().failed(ExitCode::Failed, what)?;
        Ok(file)
    }
}
