//! Entries of any source as plain files below a folder: what `restore --into mysql=/some/folder` gives.
//!
//! Each entry becomes the file that its path names. Where that cannot be, the file is called a little
//! differently and a note says so: a file in the place of a folder gets the suffix `%` (which no entry's name
//! can end with), a name that is too long for a file system ends in a hash. What holds only a part of a thing
//! never has that thing's name but one with [`TORN_ENDING`]. A snapshot knows it beforehand: then a file that
//! has the thing's name already stays.
//!
//! *Order.* Entries as they come; when all are on the disk, [`SIDECAR`]: one JSON line for each entry with its path,
//! file, facts and SHA-256. *Crash.* A folder without that file is not whole.
//!
//! *Limits.* [`OPEN_MAX`] entries are written at a time; renamed files are remembered, others are not.

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

use super::place::{Place, create, flush, kind_at, make_folder_of_many, remove, rename};
use crate::{
    error::{Context, ExitCode, Failure, Result},
    flow::{
        Attrs, Body, EntryMeta, EntryStream, FlowResult, Problem, TORN, TORN_ENDING, Tally, Target,
        TargetState, Verified, WriteOptions,
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

impl Line {
    /// Returns why the file is not the thing that the entry stands for, if so.
    fn torn(&self) -> Option<String> {
        let told = self.trailer.get(TORN).and_then(serde_json::Value::as_str);
        let size = self.entry.attrs.get("size").and_then(serde_json::Value::as_u64);
        let short = || {
            let size = size.filter(|size| *size != self.size_bytes)?;
            Some(format!("{} of its {size} bytes came", self.size_bytes))
        };
        told.map(str::to_owned).or_else(short)
    }
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
            let is_torn = entry.body.foretold().contains_key(TORN);
            let claimed = run.claim(&entry.meta, is_torn);
            let (file, name) = claimed.failed(ExitCode::Failed, || self.trouble(entry.meta.path.as_str()))?;
            let trouble = self.trouble(entry.meta.path.as_str());
            run.writers.spawn(write(file, name, entry.meta, entry.body, trouble));
            next = entries.next().await?;
        }
        run.end(entries.problems()).await
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
            place: Place::open_for_many(&target.folder).failed(ExitCode::Failed, what)?,
            replace,
            writers: JoinSet::new(),
            lines: BufWriter::new(tempfile::tempfile().failed(ExitCode::Failed, what)?),
            moved: BTreeMap::new(),
            tally: Tally::default(),
        })
    }

    /// Makes the file of an entry and returns it with its name below the folder.
    fn claim(&mut self, meta: &EntryMeta, is_torn: bool) -> io::Result<(File, String)> {
        let path = meta.path.as_str();
        let mut names: Vec<String> = path.split('/').map(|name| short(name, "")).collect();
        if is_torn {
            names.pop();
            names.push(torn_name(meta));
        }
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
        if written != path && !is_torn {
            self.tally.notes.push(format!("{path} is written as {written}"));
        }
        Ok((file, written))
    }

    async fn join(&mut self) -> FlowResult<()> {
        let Some(joined) = self.writers.join_next().await else { return Ok(()) };
        let stopped = || "writing a file was stopped".to_owned();
        let mut line = joined.failed(ExitCode::Failed, stopped)??;
        if let Some(why) = line.torn() {
            self.put_aside(&mut line, why).failed(ExitCode::Failed, || {
                format!("entry `{}` is torn and its file cannot be renamed", line.entry.path)
            })?;
        }
        self.tally.entries += 1;
        self.tally.bytes += line.size_bytes;
        put_line(&mut self.lines, &line).failed(ExitCode::Failed, sidecar_trouble)?;
        Ok(())
    }

    /// Takes the name of the whole thing from a file that is not.
    fn put_aside(&mut self, line: &mut Line, why: String) -> io::Result<()> {
        let now = self.moved.remove(&line.file).unwrap_or_else(|| line.file.clone());
        let (mut names, aside) = (now.split('/').collect::<Vec<_>>(), torn_name(&line.entry));
        let name = names.pop().unwrap_or_default();
        if name != aside {
            let parent = self.place.folder(&names)?;
            rename(&parent, OsStr::new(name), OsStr::new(&aside), self.replace)?;
        }
        names.push(&aside);
        line.file = names.join("/");
        self.tally.notes.push(format!("{} is written as {}: {why}", line.entry.path, line.file));
        self.tally.left_out.push(Problem { what: line.entry.select.clone(), why });
        Ok(())
    }

    /// Ends the run; what the source has reported is no news.
    async fn end(mut self, problems: &[Problem]) -> FlowResult<Tally> {
        while !self.writers.is_empty() {
            self.join().await?;
        }
        self.tally.left_out.retain(|one| !problems.iter().any(|problem| problem.what == one.what));
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
    make_folder_of_many(parent, name)
}

fn sidecar_trouble() -> String {
    format!("`{SIDECAR}` cannot be written")
}

fn put_line(to: &mut impl Write, line: &Line) -> io::Result<()> {
    serde_json::to_writer(&mut *to, line)?;
    to.write_all(b"\n")
}

/// Returns the name of a file that holds only a part of a thing.
fn torn_name(meta: &EntryMeta) -> String {
    let path = meta.path.as_str();
    short(path.rsplit('/').next().unwrap_or(path), TORN_ENDING)
}

/// Returns a name with that ending that file systems take; two long names never become one.
fn short(name: &str, ending: &str) -> String {
    if name.len() + ending.len() < NAME_BYTES_MAX {
        return format!("{name}{ending}");
    }
    let kept = name.floor_char_boundary(NAME_BYTES_KEPT);
    let hash = hex::encode(Sha256::digest(name));
    format!("{}%~{}{ending}", &name[..kept], &hash[..16])
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use chrono::DateTime;

    use super::*;
    use crate::{
        flow::{Point, STREAM_DEPTH, Stage, channel, settle},
        names::EntryPath,
    };

    #[tokio::test]
    async fn what_holds_only_a_part_of_a_thing_does_not_get_its_name() {
        let long = "n".repeat(252);
        for foretells in [true, false] {
            let there = tempfile::tempdir().unwrap();
            fs::create_dir(there.path().join("b")).unwrap();
            fs::write(there.path().join("b/torn"), "of before").unwrap();
            let (sink, stream) = channel(STREAM_DEPTH);
            let send = async {
                sink.announce(vec!["b".to_owned()]).await?;
                for (name, bytes, why) in [
                    ("torn", "ab", Some("it was replaced while it was read")),
                    ("short", "ab", None),
                    ("whole", "abc", None),
                    (&long, "a", Some("it broke off")),
                ] {
                    let path = EntryPath::of_parts(&["b", name]).unwrap();
                    let mut meta = EntryMeta::new(path, Stage::Data, "b").with("size", 3);
                    meta.select = format!("b/{name}");
                    let trailer: Attrs = why.map(|why| (TORN.to_owned(), why.into())).into_iter().collect();
                    let foretold = if foretells { trailer.clone() } else { Attrs::new() };
                    let mut body = sink.begin_knowing(meta, foretold).await?;
                    body.write(Bytes::copy_from_slice(bytes.as_bytes())).await?;
                    body.finish_with(trailer).await?;
                }
                sink.report(Problem { what: "b/torn".to_owned(), why: "as above".to_owned() }).await?;
                sink.complete("b");
                sink.finish(Point::at(DateTime::UNIX_EPOCH)).await
            };
            let target = Box::new(EntryFolder::new(SourceName::new("minio").unwrap(), there.path()));
            let options = WriteOptions { replace: true, ..WriteOptions::default() };
            let (sent, written) = tokio::join!(send, target.write(options, stream));
            let ((), tally) = settle(sent, written).unwrap();

            let names = fs::read_dir(there.path().join("b")).unwrap();
            let mut names: Vec<_> =
                names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names.retain(|name| name != "torn");
            assert!(
                names[0].starts_with("nnn") && names[0].ends_with("%torn") && names[0].len() <= 255,
                "{names:?}"
            );
            assert_eq!(names[1..], ["short%torn", "torn%torn", "whole"], "{foretells}");
            assert_eq!(fs::read(there.path().join("b/torn%torn")).unwrap(), b"ab");
            assert_eq!(there.path().join("b/torn").exists(), foretells, "what a snapshot knows beforehand");
            let sidecar = fs::read_to_string(there.path().join("ENTRIES.jsonl")).unwrap();
            assert!(sidecar.contains(r#"{"file":"b/torn%torn","entry":{"path":"b/torn""#), "{sidecar}");
            // What the source has told of already is not told again.
            let told: Vec<_> =
                tally.left_out.iter().map(|one| (one.what.as_str(), one.why.as_str())).collect();
            let long = format!("b/{long}");
            let (short, broken) = (("b/short", "2 of its 3 bytes came"), (long.as_str(), "it broke off"));
            assert!(told == [short, broken] || told == [broken, short], "{told:?}");
            assert_eq!(tally.notes.len(), 3, "{:?}", tally.notes);
        }
    }
}
