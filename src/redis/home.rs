//! What of this host outlives a restore: where notes and safety copies lie, and who can read them.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

/// A host's folder for what must outlive a process, and the readers of what is sealed there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Home {
    /// The folder; made when it is needed.
    pub folder: PathBuf,
    /// The public keys (`age1…`) of those who can read a safety copy.
    pub recipients: Vec<String>,
}

/// What a person takes upon themselves with `--waive`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waived {
    /// No copy of what the server holds is made before it is emptied.
    pub safety: bool,
    /// The dump is loaded although it seems not to fit into the server's memory.
    pub memory: bool,
    /// A dump that cannot be looked into is loaded although nobody knows which modules it needs.
    pub modules: bool,
}

/// Makes what was done to the names in `folder` last.
pub(super) fn sync_names(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Makes a folder and all above it.
pub(super) fn make_folder(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    folder.parent().map_or(Ok(()), sync_names)
}
