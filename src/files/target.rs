//! The writer: paths as they were, at their old place or below a folder.
//!
//! *Order.* Look what is in the way and refuse before anything is touched; folders as they come, files and
//! links by a draft and a rename; at the end, the deepest first, the folders' owners, attributes, modes and times,
//! which writing into them would have changed; what was written is on the disk before it counts. A further name of a
//! file that was written in this run becomes one; where it cannot, or where the first was not asked for, it becomes a
//! file of its own.
//!
//! *Crash.* Each file is the old or the new one. A run that stopped is run again with `replace`, which
//! overwrites what the snapshot has and leaves everything else alone: unlike a bucket, a folder is not made
//! equal, because other programs' files live in it.
//!
//! *Limits.* Folders, and files with several names, are remembered until the end, other files are not.

use std::{
    collections::{HashMap, HashSet, hash_map},
    ffi::{OsStr, OsString},
    fs,
    io::{self, Write},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use async_trait::async_trait;
use rustix::fs::FileType;
use tokio::runtime::Handle;

use super::{
    facts::{Facts, Kind, entry_path},
    holes,
    place::{Draft, Identity, Place, dress, flush, identity, kind_at, make_private_folder, remove},
    walk::roots,
};
use crate::{
    error::{Context, ExitCode, Failure, Result},
    event::SharedMonitor,
    flow::{
        Entry, EntryMeta, EntryStream, FlowError, FlowResult, Selection, Stage, TORN, Tally, Target,
        TargetState, Verified, WriteOptions,
    },
    names::SourceName,
    policy::FilesConfig,
};

/// Paths that are named in a failure.
const SHOWN: usize = 20;

/// Writes files to this host.
pub struct FilesTarget {
    name: SourceName,
    /// The policy's paths: above them, links of the system are followed.
    trusted: Vec<PathBuf>,
    below: Option<PathBuf>,
    monitor: SharedMonitor,
}

impl FilesTarget {
    /// Makes a target that writes to the paths that the entries had.
    pub fn new(name: SourceName, config: FilesConfig, monitor: SharedMonitor) -> Self {
        Self { name, trusted: config.paths, below: None, monitor }
    }

    /// Makes a target that writes `/a/b` to `folder/a/b`.
    pub fn into(name: SourceName, folder: impl Into<PathBuf>, monitor: SharedMonitor) -> Self {
        Self { name, trusted: Vec::new(), below: Some(folder.into()), monitor }
    }

    /// Returns where a path goes.
    fn goes_to(&self, path: &Path) -> PathBuf {
        match &self.below {
            Some(folder) => folder.join(path.strip_prefix("/").unwrap_or(path)),
            None => path.to_owned(),
        }
    }

    /// Splits a path into the folder that is trusted and the names below it.
    fn split(&self, path: &Path) -> Result<(PathBuf, Vec<OsString>)> {
        if let Some(folder) = &self.below {
            let names = path.strip_prefix("/").unwrap_or(path);
            return Ok((folder.clone(), names.iter().map(OsStr::to_owned).collect()));
        }
        let root = roots(&self.trusted)?.into_iter().find(|root| path.starts_with(root));
        let base =
            root.and_then(|root| root.parent().map(Path::to_owned)).unwrap_or_else(|| PathBuf::from("/"));
        let names = path.strip_prefix(&base).unwrap_or(path);
        Ok((base, names.iter().map(OsStr::to_owned).collect()))
    }

    fn look(&self, inventory: &[String]) -> TargetState {
        let mut in_the_way = Vec::new();
        for path in inventory.iter().map(|item| self.goes_to(Path::new(item))) {
            let shown = path.display();
            match fs::symlink_metadata(&path) {
                Err(_) => {}
                Ok(meta) if meta.is_dir() => match fs::read_dir(&path).map(Iterator::count) {
                    Ok(0) => {}
                    Ok(1) => in_the_way.push(format!("folder {shown}: 1 entry")),
                    Ok(count) => in_the_way.push(format!("folder {shown}: {count} entries")),
                    Err(error) => in_the_way.push(format!("folder {shown}: {error}")),
                },
                Ok(_) => in_the_way.push(format!("file {shown}")),
            }
        }
        TargetState { version: "files of this host".to_owned(), in_the_way, ..TargetState::default() }
    }

    fn refuse_the_full(&self, only: &Selection, inventory: &[String]) -> Result<()> {
        let mut reached = Vec::new();
        for item in inventory {
            let Ok(path) = entry_path(Path::new(item)) else { continue };
            let mut meta = EntryMeta::new(path, Stage::Data, item.as_str());
            meta.container = true;
            if only.wants(&meta) {
                reached.push(item.clone());
            }
        }
        let state = self.look(&reached);
        if state.in_the_way.is_empty() {
            return Ok(());
        }
        let what = format!("the target of `{}` is not empty: {}", self.name, state.in_the_way.join(", "));
        Err(Failure::new(ExitCode::TargetNotEmpty, what)
            .hint("Say --replace: files of the snapshot overwrite those that are there, all others stay."))
    }

    fn write_all(
        self,
        handle: &Handle,
        options: &WriteOptions,
        mut entries: EntryStream,
    ) -> FlowResult<Tally> {
        let mut next = handle.block_on(entries.next())?;
        if !options.replace {
            self.refuse_the_full(&options.only, entries.inventory())?;
        }
        let mut run = Run {
            target: &self,
            handle,
            replace: options.replace,
            inventory: entries.inventory().to_vec(),
            folders: Vec::new(),
            written: HashMap::new(),
            bare: (0, None),
            refused: Vec::new(),
            places: HashMap::new(),
            tally: Tally::default(),
        };
        while let Some(entry) = next {
            run.entry(entry)?;
            next = handle.block_on(entries.next())?;
        }
        run.end()
    }
}

#[async_trait]
impl Target for FilesTarget {
    fn name(&self) -> &SourceName {
        &self.name
    }

    async fn inspect(&mut self, inventory: &[String]) -> Result<TargetState> {
        Ok(self.look(inventory))
    }

    async fn write(self: Box<Self>, options: WriteOptions, entries: EntryStream) -> FlowResult<Tally> {
        let handle = Handle::current();
        let writing = tokio::task::spawn_blocking(move || self.write_all(&handle, &options, entries));
        writing.await.failed(ExitCode::Failed, || "writing files was stopped".to_owned())?
    }
}

/// One restore under way.
struct Run<'a> {
    target: &'a FilesTarget,
    handle: &'a Handle,
    replace: bool,
    /// The items that were announced: nothing is written outside of them.
    inventory: Vec<String>,
    /// What to do for the folders at the end, and which they are.
    folders: Vec<(Facts, Identity)>,
    /// Files with several names, by the first that they had: the path that was written, and the file.
    written: HashMap<PathBuf, (PathBuf, Identity)>,
    /// How many paths lack their owner or some of their extended attributes, and the first with what it lacks.
    bare: (u64, Option<String>),
    refused: Vec<String>,
    /// The places below the trusted folders.
    places: HashMap<PathBuf, Place>,
    tally: Tally,
}

/// What went wrong with one path, or with all.
enum Trouble {
    Path(io::Error),
    Run(FlowError),
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        // On a full or dead disk the next path fares no better.
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::ReadOnlyFilesystem => {
                Self::Run(Failure::new(ExitCode::Failed, "the disk takes no more").because(error).into())
            }
            _ => Self::Path(error),
        }
    }
}

impl From<FlowError> for Trouble {
    fn from(error: FlowError) -> Self {
        Self::Run(error)
    }
}

impl Run<'_> {
    fn entry(&mut self, mut entry: Entry) -> FlowResult<()> {
        let facts = Facts::of_entry(&entry.meta)?;
        self.refuse_the_strange(&facts, &entry.meta)?;
        match self.write(&facts, &mut entry) {
            Ok(bytes) => {
                self.tally.entries += 1;
                self.tally.bytes += bytes;
                // Folders and links have an end, too, which must find somebody who waits for it.
                while self.handle.block_on(entry.body.next())?.is_some() {}
                Ok(())
            }
            Err(Trouble::Run(error)) => Err(error),
            Err(Trouble::Path(error)) => {
                self.refuse(&facts.path, &error);
                // The sender must not take a path's trouble for the end of the run.
                while self.handle.block_on(entry.body.next())?.is_some() {}
                Ok(())
            }
        }
    }

    /// Refuses an entry whose path does not lie in its item, which was announced: no backup wrote it.
    fn refuse_the_strange(&self, facts: &Facts, meta: &EntryMeta) -> Result<()> {
        if facts.path.starts_with(&meta.item) && self.inventory.contains(&meta.item) {
            return Ok(());
        }
        let what = format!("entry `{}` does not lie where it says", meta.path);
        let why = format!("its path is `{}`, its item `{}`", facts.path.display(), meta.item);
        Err(Failure::new(ExitCode::Damage, what).because(why))
    }

    fn refuse(&mut self, path: &Path, error: &io::Error) {
        let what = format!("`{}` was not restored: {error}", path.display());
        self.target.monitor.warn(Some(&self.target.name), what, None);
        self.refused.push(format!("`{}`: {error}", path.display()));
    }

    fn write(&mut self, facts: &Facts, entry: &mut Entry) -> Result<u64, Trouble> {
        let (base, names) = self.target.split(&facts.path).map_err(FlowError::from)?;
        let Some((name, above)) = names.split_last() else { return Ok(0) };
        let parent = self.place(base.clone())?.folder(above)?;
        match (facts.kind, &facts.target) {
            (Kind::Folder, _) => {
                self.folder(&parent, name)?;
                let folder = self.place(base)?.folder(&names)?;
                self.folders.push((facts.clone(), identity(folder)?));
                Ok(0)
            }
            (Kind::Link, Some(target)) => {
                let (draft, lacking) = Draft::link(parent, target, facts)?;
                draft.finish(name, self.replace)?;
                self.lacks(facts, lacking);
                Ok(0)
            }
            (Kind::Link, None) => Err(io::Error::other("the snapshot does not say where it points").into()),
            (Kind::File, _) => {
                if let Some(draft) = self.further_name(&parent, facts)? {
                    draft.finish(name, self.replace)?;
                    return Ok(0);
                }
                let (draft, file) = Draft::file(parent)?;
                let written = identity(&file)?;
                let bytes = self.fill(&file, facts, entry)?;
                draft.finish(name, self.replace)?;
                if facts.is_linked {
                    let first = facts.same_as.as_ref().unwrap_or(&facts.path);
                    self.written.insert(first.clone(), (facts.path.clone(), written));
                }
                Ok(bytes)
            }
        }
    }

    /// Returns the place below a trusted folder.
    fn place(&mut self, base: PathBuf) -> io::Result<&mut Place> {
        Ok(match self.places.entry(base) {
            hash_map::Entry::Occupied(open) => open.into_mut(),
            hash_map::Entry::Vacant(closed) => {
                let place = Place::open(closed.key())?;
                closed.insert(place)
            }
        })
    }

    /// Begins another name of a file that was written in this run.
    fn further_name(&mut self, parent: &OwnedFd, facts: &Facts) -> io::Result<Option<Draft>> {
        let Some((path, file)) = facts.same_as.as_ref().and_then(|first| self.written.get(first)).cloned()
        else {
            return Ok(None);
        };
        let (base, names) = self.target.split(&path).map_err(io::Error::other)?;
        let Some((name, above)) = names.split_last() else { return Ok(None) };
        let folder = self.place(base)?.folder(above)?;
        match Draft::same(parent.try_clone()?, (&folder, name), file) {
            Ok(draft) => Ok(Some(draft)),
            Err(error) => {
                let (path, first) = (facts.path.display(), path.display());
                self.tally.notes.push(format!("{path} and {first} were one file and are two now: {error}"));
                Ok(None)
            }
        }
    }

    /// Makes a folder where none is.
    fn folder(&self, parent: &OwnedFd, name: &OsStr) -> io::Result<()> {
        match kind_at(parent, name)? {
            Some(FileType::Directory) => return Ok(()),
            Some(_) if self.replace => remove(parent, name)?,
            _ => {}
        }
        make_private_folder(parent, name)
    }

    fn fill(&mut self, mut file: &fs::File, facts: &Facts, entry: &mut Entry) -> Result<u64, Trouble> {
        let mut size_bytes = 0;
        while let Some(bytes) = self.handle.block_on(entry.body.next())? {
            if facts.is_sparse {
                holes::write(file, size_bytes, &bytes)?;
            } else {
                file.write_all(&bytes)?;
            }
            size_bytes += bytes.len() as u64;
        }
        if facts.is_sparse {
            file.set_len(size_bytes)?;
        }
        if let Some(why) = entry.body.trailer().get(TORN).and_then(serde_json::Value::as_str) {
            self.tally.notes.push(format!("{} is as it was found: {why}", facts.path.display()));
        } else if facts.size_bytes.is_some_and(|size| size != size_bytes) {
            return Err(io::Error::other(format!("the snapshot has only {size_bytes} bytes of it")).into());
        }
        let lacking = dress(file, facts)?;
        self.lacks(facts, lacking);
        file.sync_all()?;
        let there = file.metadata()?.len();
        if there != size_bytes {
            return Err(
                io::Error::other(format!("{size_bytes} bytes were written, {there} are there")).into()
            );
        }
        Ok(size_bytes)
    }

    fn end(mut self) -> FlowResult<Tally> {
        self.flush();
        for (facts, folder) in std::mem::take(&mut self.folders).into_iter().rev() {
            match self.dress_folder(&facts, folder) {
                Ok(lacking) => self.lacks(&facts, lacking),
                Err(error) => self.refuse(&facts.path, &error),
            }
        }
        if !rustix::process::geteuid().is_root() {
            self.tally.notes.push("owners and capabilities were not set, which only root can".to_owned());
        }
        if let (paths, Some(first)) = &self.bare {
            self.tally
                .notes
                .push(format!("paths that lack their owner or extended attributes: {paths}, first {first}"));
        }
        if self.refused.is_empty() {
            self.tally.verified = Verified::Counts;
            return Ok(self.tally);
        }
        let count = self.refused.len();
        let paths = if count == 1 { "1 path".to_owned() } else { format!("{count} paths") };
        let shown = self.refused[..count.min(SHOWN)].join("; ");
        let more = if count > SHOWN { format!(" and {} more", count - SHOWN) } else { String::new() };
        Err(Failure::new(ExitCode::Partial, format!("{paths} of `{}` could not be restored", self.target.name))
            .because(format!("{shown}{more}"))
            .hint("All other paths are in place. Clear what is in the way of these and run it again with --replace.")
            .into())
    }

    /// Notes what a path lacks of its owner and its extended attributes.
    fn lacks(&mut self, facts: &Facts, lacking: Option<String>) {
        let Some(what) = lacking else { return };
        self.bare.0 += 1;
        self.bare.1.get_or_insert_with(|| format!("{}: {what}", facts.path.display()));
    }

    /// Flushes the names in the folders that were written into and are not among those that are dressed.
    fn flush(&mut self) {
        let dressed: HashSet<Identity> = self.folders.iter().map(|(_, folder)| *folder).collect();
        let places = std::mem::take(&mut self.places);
        for (base, place) in &places {
            for (folder, error) in place.flush(|folder| dressed.contains(&folder)) {
                self.refuse(&base.join(folder), &error);
            }
        }
        self.places = places;
    }

    /// Gives a folder what the snapshot says of it, and flushes that to the disk with the names in it.
    fn dress_folder(&mut self, facts: &Facts, folder: Identity) -> io::Result<Option<String>> {
        let (base, names) = self.target.split(&facts.path).map_err(io::Error::other)?;
        let folder = self.place(base)?.again(&names, folder)?;
        let lacking = dress(&folder, facts)?;
        flush(&folder)?;
        Ok(lacking)
    }
}
