//! Entries of any source as plain files below a folder: what `restore --into mysql=/some/folder` gives.
//!
//! Each entry becomes the file that its path names. Where that cannot be, the file is called a little
//! differently and a note says so: a file in the place of a folder gets the suffix `%` (which no entry's name
//! can end with), a name that is too long for a file system ends in a hash.
//!
//! *Order.* Entries as they come; when all are on the disk, [`SIDECAR`]: one JSON line for each entry with its path,
//! file, facts and SHA-256. *Crash.* A folder without that file is not whole.
//!
//! *Limits.* [`OPEN_MAX`] entries are written at a time; folders and renamed files are remembered, others are not.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fs::{self, File},
    io::{self, BufRead, BufReader, BufWriter, Seek, Write},
    os::fd::OwnedFd,
    path::PathBuf,
};

use async_trait::async_trait;
use rustix::fs::FileType;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::{io::AsyncWriteExt, task::JoinSet};

use super::place::{Place, create, flush, kind_at, make_folder, remove, rename};
use crate::{
    error::{Context, ExitCode, Failure, Result},
    flow::{
        Attrs, Body, EntryMeta, EntryStream, FlowResult, Tally, Target, TargetState, Verified, WriteOptions,
    },
    names::SourceName,
};

/// The file that tells what all others are.
const SIDECAR: &str = "ENTRIES.jsonl";
/// Entries that are written at a time.
const OPEN_MAX: usize = 64;
/// Bytes that a file's name may have on the file systems there are.
const NAME_BYTES_MAX: usize = 255;
/// Bytes of a long name that are kept before its hash, with room for a suffix.
const NAME_BYTES_KEPT: usize = 200;

/// Writes entries of any source as plain files.
pub struct EntryFolder {
    name: SourceName,
    folder: PathBuf,
}

/// One line of the sidecar.
#[derive(Serialize, Deserialize)]
struct Line {
    /// Where the file is, below the folder.
    file: String,
    /// What was known of the entry at its beginning.
    entry: EntryMeta,
    /// What was known at its end.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    trailer: Attrs,
    size_bytes: u64,
    sha256: String,
}

impl EntryFolder {
    /// Makes a target that writes below `folder`.
    pub fn new(name: SourceName, folder: impl Into<PathBuf>) -> Self {
        Self { name, folder: folder.into() }
    }

    fn look(&self) -> Result<TargetState> {
        let shown = self.folder.display();
        let in_the_way = match fs::read_dir(&self.folder).map(Iterator::count) {
            Ok(0) => vec![],
            Ok(1) => vec![format!("folder {shown}: 1 entry")],
            Ok(count) => vec![format!("folder {shown}: {count} entries")],
            Err(error) if error.kind() == io::ErrorKind::NotFound => vec![],
            Err(error) => {
                let what = format!("folder `{shown}` cannot be used");
                return Err(Failure::new(ExitCode::Failed, what).because(error));
            }
        };
        Ok(TargetState { version: format!("folder {shown}"), in_the_way, ..TargetState::default() })
    }

    fn trouble(&self, path: &str) -> String {
        format!("entry `{path}` cannot be written below `{}`", self.folder.display())
    }
}

#[async_trait]
impl Target for EntryFolder {
    fn name(&self) -> &SourceName {
        &self.name
    }

    async fn inspect(&mut self, _inventory: &[String]) -> Result<TargetState> {
        self.look()
    }

    async fn write(self: Box<Self>, options: WriteOptions, mut entries: EntryStream) -> FlowResult<Tally> {
        let mut next = entries.next().await?;
        let state = self.look()?;
        if !options.replace && !state.in_the_way.is_empty() {
            let what = format!("the target of `{}` is not empty: {}", self.name, state.in_the_way.join(", "));
            return Err(Failure::new(ExitCode::TargetNotEmpty, what)
                .hint("Name an empty folder, or say --replace to overwrite files that have the same names.")
                .into());
        }
        let mut run = Run::new(&self, options.replace)?;
        while let Some(entry) = next {
            while run.writers.len() >= OPEN_MAX {
                run.join().await?;
            }
            let (file, name) =
                run.claim(&entry.meta).failed(ExitCode::Failed, || self.trouble(entry.meta.path.as_str()))?;
            let trouble = self.trouble(entry.meta.path.as_str());
            run.writers.spawn(write(file, name, entry.meta, entry.body, trouble));
            next = entries.next().await?;
        }
        run.end().await
    }
}

/// Writes one entry's bytes into its file.
async fn write(
    file: File,
    name: String,
    entry: EntryMeta,
    mut body: Body,
    trouble: String,
) -> FlowResult<Line> {
    let mut file = tokio::fs::File::from_std(file);
    let (mut sha256, mut size_bytes) = (Sha256::new(), 0);
    while let Some(bytes) = body.next().await? {
        file.write_all(&bytes).await.failed(ExitCode::Failed, || trouble.clone())?;
        sha256.update(&bytes);
        size_bytes += bytes.len() as u64;
    }
    file.flush().await.failed(ExitCode::Failed, || trouble.clone())?;
    file.sync_all().await.failed(ExitCode::Failed, || trouble)?;
    let sha256 = hex::encode(sha256.finalize());
    Ok(Line { file: name, entry, trailer: body.trailer().clone(), size_bytes, sha256 })
}

struct Run {
    place: Place,
    replace: bool,
    writers: JoinSet<FlowResult<Line>>,
    /// The sidecar's lines, before files moved.
    lines: BufWriter<File>,
    /// Files that had to give way to a folder: old name to new.
    moved: BTreeMap<String, String>,
    tally: Tally,
}

impl Run {
    fn new(target: &EntryFolder, replace: bool) -> Result<Self> {
        let what = || format!("folder `{}` cannot be used", target.folder.display());
        Ok(Self {
            place: Place::open(&target.folder).failed(ExitCode::Failed, what)?,
            replace,
            writers: JoinSet::new(),
            lines: BufWriter::new(tempfile::tempfile().failed(ExitCode::Failed, what)?),
            moved: BTreeMap::new(),
            tally: Tally::default(),
        })
    }

    /// Makes the file of an entry and returns it with its name below the folder.
    fn claim(&mut self, meta: &EntryMeta) -> io::Result<(File, String)> {
        let path = meta.path.as_str();
        let mut names: Vec<String> = path.split('/').map(short).collect();
        if names.len() == 1 && names[0] == SIDECAR {
            names[0].push('%');
        }
        let mut name = names.pop().unwrap_or_default();
        let mut gave_way = Vec::new();
        let step =
            |depth: usize, parent: &OwnedFd, name: &OsStr| step_aside(depth, parent, name, &mut gave_way);
        let parent = self.place.folder_or(&names, step)?;
        for index in gave_way {
            let file = names[..=index].join("/");
            self.tally.notes.push(format!("{file} is written as {file}%: there is a folder of that name"));
            self.moved.insert(file.clone(), format!("{file}%"));
        }
        if kind_at(&parent, OsStr::new(&name))? == Some(FileType::Directory) {
            name.push('%');
        }
        if self.replace && kind_at(&parent, OsStr::new(&name))?.is_some() {
            remove(&parent, OsStr::new(&name))?;
        }
        let file = create(&parent, OsStr::new(&name))?;
        names.push(name);
        let written = names.join("/");
        if written != path {
            self.tally.notes.push(format!("{path} is written as {written}"));
        }
        Ok((file, written))
    }

    async fn join(&mut self) -> FlowResult<()> {
        let Some(joined) = self.writers.join_next().await else { return Ok(()) };
        let stopped = || "writing a file was stopped".to_owned();
        let line = joined.failed(ExitCode::Failed, stopped)??;
        self.tally.entries += 1;
        self.tally.bytes += line.size_bytes;
        put_line(&mut self.lines, &line).failed(ExitCode::Failed, sidecar_trouble)?;
        Ok(())
    }

    async fn end(mut self) -> FlowResult<Tally> {
        while !self.writers.is_empty() {
            self.join().await?;
        }
        self.write_sidecar().failed(ExitCode::Failed, sidecar_trouble)?;
        self.tally.verified = Verified::Counts;
        Ok(self.tally)
    }

    fn write_sidecar(&mut self) -> io::Result<()> {
        self.lines.flush()?;
        let lines = self.lines.get_mut();
        lines.rewind()?;
        if let Some((_, error)) = self.place.flush(|_| false).into_iter().next() {
            return Err(error);
        }
        let folder = self.place.folder::<OsString>(&[])?;
        if self.replace && kind_at(&folder, OsStr::new(SIDECAR))?.is_some() {
            remove(&folder, OsStr::new(SIDECAR))?;
        }
        let mut sidecar = BufWriter::new(create(&folder, OsStr::new(SIDECAR))?);
        for line in BufReader::new(lines).lines() {
            let mut line: Line = serde_json::from_str(&line?)?;
            if let Some(moved) = self.moved.get(&line.file) {
                line.file.clone_from(moved);
            }
            put_line(&mut sidecar, &line)?;
        }
        sidecar.into_inner()?.sync_all()?;
        flush(&folder)
    }
}

/// Makes a folder; a file of that name gives way to it.
fn step_aside(depth: usize, parent: &OwnedFd, name: &OsStr, gave_way: &mut Vec<usize>) -> io::Result<()> {
    if kind_at(parent, name)? == Some(FileType::RegularFile) {
        let mut aside = name.to_owned();
        aside.push("%");
        rename(parent, name, &aside, false)?;
        gave_way.push(depth);
    }
    make_folder(parent, name)
}

fn sidecar_trouble() -> String {
    format!("`{SIDECAR}` cannot be written")
}

fn put_line(to: &mut impl Write, line: &Line) -> io::Result<()> {
    serde_json::to_writer(&mut *to, line)?;
    to.write_all(b"\n")
}

/// Returns a name that file systems take; two long names never become one.
fn short(name: &str) -> String {
    if name.len() < NAME_BYTES_MAX {
        return name.to_owned();
    }
    let kept = name.floor_char_boundary(NAME_BYTES_KEPT);
    let hash = hex::encode(Sha256::digest(name));
    format!("{}%~{}", &name[..kept], &hash[..16])
}
