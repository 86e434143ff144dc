//! The reader: every path below the policy's, reading only files that changed.
//!
//! *Order.* Roots, then their paths as [`super::walk`] has them, one after the other.
//!
//! *Crash.* Nothing is written anywhere. A file is taken up to the length that it had when it was opened (a log is
//! never whole). When its size or one of its times is another afterwards, or when it was changed so shortly before that
//! they cannot tell, what was read is compared with what is there: equal bytes say that it only grew, or that only its
//! mode or name changed. If they are not equal, a small file is read again up to [`READ_TRIES`] times; a bigger one is
//! sent as it was found, reported and marked [`TORN`].
//! What cannot be read is reported.

use std::{
    cmp::Ordering,
    fs::{self, File, Metadata},
    io::{self, Read, Seek},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use globset::GlobSet;
use sha2::{Digest, Sha256};
use tokio::runtime::Handle;

use super::{
    facts::{
        FRESH, Kind, LINKS, SAME_AS, SPARSE, entry, name_of, nanoseconds, put_name, put_xattrs, xattrs_of,
    },
    found::{Found, Seen},
    holes,
    links::{Links, state},
    walk::{Step, Walk, plan},
    xattr,
};
use crate::{
    clock::Ground,
    error::{Context, ExitCode, Failure, Result},
    event::SharedMonitor,
    flow::{
        Attrs, BodyWriter, EntryMeta, EntrySink, FRAME_BYTES_MAX, FlowResult, Point, Previous, PreviousEntry,
        Problem, Source, TORN,
    },
    names::SourceName,
    policy::FilesConfig,
};

/// How often a small file that changes while it is read is read again.
const READ_TRIES: u32 = 3;
/// Bytes up to which a file is read before its entry begins.
const WHOLE_BYTES_MAX: u64 = FRAME_BYTES_MAX as u64;
/// Nanoseconds within which two changes of a file may carry the same stamp, with room for coarse file systems.
const STAMP_NS: i64 = 2_000_000_000;

/// Reads files of this host.
#[derive(Clone)]
pub struct FilesSource {
    name: SourceName,
    config: FilesConfig,
    ground: Ground,
    monitor: SharedMonitor,
}

impl FilesSource {
    /// Makes a source; nothing is looked at yet.
    pub fn new(name: SourceName, config: FilesConfig, ground: Ground, monitor: SharedMonitor) -> Self {
        Self { name, config, ground, monitor }
    }

    fn read_all(
        self,
        handle: Handle,
        sink: EntrySink,
        previous: Option<Box<dyn Previous>>,
    ) -> FlowResult<()> {
        let (roots, exclude) = plan(&self.config)?;
        if !roots.iter().any(|root| fs::symlink_metadata(root).is_ok()) {
            let what = format!("none of the paths of `{}` is there", self.name);
            return Err(Failure::new(ExitCode::SourceDown, what)
                .hint("Check `paths` of this source, and that what they lie on is mounted.")
                .into());
        }
        let at = self.ground.clock.now();
        let items: Vec<String> = roots.iter().map(|root| root.to_string_lossy().into_owned()).collect();
        handle.block_on(sink.announce(items.clone()))?;
        let previous = Beside::new(previous);
        let mut run = Run {
            source: &self,
            handle,
            sink,
            previous,
            exclude,
            changed_after_ns: self.changed_after_ns(at),
            links: Links::default(),
            vanished: 0,
            not_kept: 0,
            too_old: 0,
        };
        for (root, item) in roots.iter().zip(&items) {
            run.root(root, item)?;
            run.sink.complete(item);
        }
        let end = self.ground.clock.now().to_rfc3339();
        let point = Point::at(at)
            .mark("window_begin", at.to_rfc3339())
            .mark("window_end", end)
            .mark("vanished", run.vanished.to_string())
            .mark("not_kept", run.not_kept.to_string())
            .mark("too_old", run.too_old.to_string());
        if run.not_kept > 0 {
            let what = format!("sockets, pipes and devices are not kept: {} were left out", run.not_kept);
            self.monitor.step(Some(&self.name), what);
        }
        if run.links.forgotten > 0 {
            let what = format!("{} files with several names will come back apart", run.links.forgotten);
            self.monitor.warn(
                Some(&self.name),
                what,
                Some("Fewer hard links in one source are all remembered."),
            );
        }
        run.handle.block_on(run.sink.finish(point))
    }

    /// Returns the change that a file must have had since, to be taken.
    fn changed_after_ns(&self, now: DateTime<Utc>) -> Option<i64> {
        let days = i64::from(self.config.max_age_days?);
        let since = now.checked_sub_signed(TimeDelta::try_days(days)?)?;
        since.timestamp_nanos_opt()
    }
}

#[async_trait]
impl Source for FilesSource {
    fn name(&self) -> &SourceName {
        &self.name
    }

    async fn read(self: Box<Self>, sink: EntrySink, previous: Option<Box<dyn Previous>>) -> FlowResult<()> {
        let handle = Handle::current();
        // Files have no asynchronous reads worth the name: one thread walks, and waits where it must.
        let reading = tokio::task::spawn_blocking(move || self.read_all(handle, sink, previous));
        reading.await.failed(ExitCode::Failed, || "reading files was stopped".to_owned())?
    }
}

struct Run<'a> {
    source: &'a FilesSource,
    handle: Handle,
    sink: EntrySink,
    previous: Beside,
    exclude: GlobSet,
    /// Files that were last changed before are left out.
    changed_after_ns: Option<i64>,
    links: Links,
    vanished: u64,
    not_kept: u64,
    too_old: u64,
}

impl Run<'_> {
    fn root(&mut self, root: &Path, item: &str) -> FlowResult<()> {
        if fs::symlink_metadata(root).is_ok_and(|meta| meta.is_symlink()) {
            self.source.monitor.warn(
                Some(&self.source.name),
                format!("`{item}` is a symbolic link: the link is taken, not what it points to"),
                Some("Name the path that it points to in `paths`."),
            );
        }
        let mut walk = match Walk::new(root, self.exclude.clone()) {
            Ok(walk) => walk,
            Err(error) => return self.report(root, error.to_string()),
        };
        while let Some(step) = walk.next() {
            let found = match step {
                Step::Path(found) => found,
                Step::Replaced(folder) => {
                    self.report(&folder, "another folder took its place while it was read".to_owned())?;
                    continue;
                }
            };
            match self.path(&found, item, &mut walk)? {
                Ok(()) => {}
                // Deleted after its folder was listed, which is nobody's fault.
                Err(error) if error.kind() == io::ErrorKind::NotFound && found.path() != root => {
                    self.vanished += 1;
                }
                Err(error) => self.report(found.path(), error.to_string())?,
            }
        }
        Ok(())
    }

    /// Sends one path; the inner error is the path's own and does not end the run.
    fn path(&mut self, found: &Found, item: &str, walk: &mut Walk) -> FlowResult<io::Result<()>> {
        let seen = match found.look() {
            Ok(seen) => seen,
            Err(error) => return Ok(Err(error)),
        };
        let Some(kind) = Kind::of(&seen.meta) else {
            self.not_kept += 1;
            return Ok(Ok(()));
        };
        let path = found.path();
        match kind {
            Kind::File => self.file(found, item, &seen),
            Kind::Folder => {
                // The root of all has no name to be kept under.
                if path != Path::new("/") {
                    let mut listed = entry(path, item, kind, &seen.meta, None)?;
                    match seen.xattrs() {
                        Ok(xattrs) => put_xattrs(&mut listed.attrs, &xattrs),
                        Err(error) => self.report(path, error.to_string())?,
                    }
                    self.put(listed)?;
                }
                Ok(walk.descend(found))
            }
            Kind::Link => match seen.target() {
                Ok(target) => self.put(entry(path, item, kind, &seen.meta, Some(&target))?).map(Ok),
                Err(error) => Ok(Err(error)),
            },
        }
    }

    fn file(&mut self, found: &Found, item: &str, seen: &Seen) -> FlowResult<io::Result<()>> {
        let (path, meta) = (found.path(), &seen.meta);
        if self.changed_after_ns.is_some_and(|after| nanoseconds(meta.mtime(), meta.mtime_nsec()) < after) {
            self.too_old += 1;
            return Ok(Ok(()));
        }
        let first = self.links.first(&state(meta)).map(Path::to_owned);
        let listed = file_entry(path, item, meta, first.as_deref())?;
        if let Some(before) = self.previous.at(&self.handle, path, &listed)? {
            let PreviousEntry { meta: known, trailer, reuse, .. } = *before;
            // One that was stored when they could not be read, or were not kept, is read again.
            if seen.xattrs().is_ok_and(|now| xattrs_of(&known.attrs).as_ref() == Some(&now)) {
                self.links.stored(path, state(meta), meta.nlink());
                return self.handle.block_on(self.sink.reuse(known, trailer, reuse)).map(Ok);
            }
        }
        for attempt in 1..=READ_TRIES {
            let (mut file, now) = match found.open() {
                Ok(opened) => opened,
                Err(error) => return Ok(Err(error)),
            };
            let mut listed = self.opened_entry(path, item, &file, &now)?;
            let age_ns = self.source.ground.clock.now().timestamp_nanos_opt().unwrap_or(i64::MAX)
                - nanoseconds(now.ctime(), now.ctime_nsec());
            let is_fresh = age_ns < STAMP_NS;
            if is_fresh {
                listed = listed.with(FRESH, true);
            }
            if now.size() > WHOLE_BYTES_MAX {
                return self.stream((path, &now), listed, &mut file, is_fresh);
            }
            let bytes = match read_up_to(&mut file, now.size()) {
                Ok(bytes) => bytes,
                Err(error) => return Ok(Err(error)),
            };
            let torn =
                change((&mut file, is_fresh), &now, bytes.len() as u64, || Sha256::digest(&bytes).into());
            if torn.is_none() || attempt == READ_TRIES {
                let writer = self.handle.block_on(self.sink.begin(listed))?;
                return self.end((path, &now), writer, bytes, torn).map(Ok);
            }
        }
        Ok(Ok(()))
    }

    /// Makes the entry of a file that is open.
    fn opened_entry(
        &mut self,
        path: &Path,
        item: &str,
        file: &File,
        meta: &Metadata,
    ) -> FlowResult<EntryMeta> {
        let mut listed = file_entry(path, item, meta, self.links.first(&state(meta)))?;
        match xattr::of_file(file) {
            Ok(xattrs) => put_xattrs(&mut listed.attrs, &xattrs),
            Err(error) => self.report(path, error.to_string())?,
        }
        Ok(listed)
    }

    /// Sends a long file as it is read.
    fn stream(
        &mut self,
        (path, meta): (&Path, &Metadata),
        listed: EntryMeta,
        file: &mut File,
        is_fresh: bool,
    ) -> FlowResult<io::Result<()>> {
        let mut writer = self.handle.block_on(self.sink.begin(listed))?;
        let (mut done, mut digest) = (0, Sha256::new());
        let torn = loop {
            match read_up_to(file, (meta.size() - done).min(FRAME_BYTES_MAX as u64)) {
                Ok(bytes) if bytes.is_empty() => {
                    break change((file, is_fresh), meta, done, || digest.finalize().into());
                }
                Ok(bytes) => {
                    done += bytes.len() as u64;
                    digest.update(&bytes);
                    self.handle.block_on(writer.write(bytes))?;
                }
                Err(error) => break Some(format!("it cannot be read after {done} bytes: {error}")),
            }
        };
        self.end((path, meta), writer, Bytes::new(), torn).map(Ok)
    }

    /// Ends a file's entry, and reports it when it is torn.
    fn end(
        &mut self,
        (path, meta): (&Path, &Metadata),
        mut writer: BodyWriter,
        bytes: Bytes,
        torn: Option<String>,
    ) -> FlowResult<()> {
        let trailer = torn.iter().map(|why| (TORN.to_owned(), why.clone().into())).collect::<Attrs>();
        self.handle.block_on(async {
            writer.write(bytes).await?;
            writer.finish_with(trailer).await
        })?;
        if let Some(why) = torn {
            return self.report(path, why);
        }
        self.links.stored(path, state(meta), meta.nlink());
        Ok(())
    }

    fn put(&mut self, meta: EntryMeta) -> FlowResult<()> {
        self.handle.block_on(self.sink.put(meta, Bytes::new()))
    }

    fn report(&mut self, path: &Path, why: String) -> FlowResult<()> {
        let what = path.to_string_lossy().into_owned();
        self.handle.block_on(self.sink.report(Problem { what, why }))
    }
}

/// Makes the entry of a file that may have holes, and other names.
fn file_entry(path: &Path, item: &str, meta: &Metadata, first: Option<&Path>) -> Result<EntryMeta> {
    let mut listed = entry(path, item, Kind::File, meta, None)?;
    if meta.nlink() > 1 {
        listed = listed.with(LINKS, meta.nlink());
    }
    if let Some(first) = first {
        put_name(&mut listed.attrs, SAME_AS, first);
    }
    if holes::are_in(meta) {
        listed = listed.with(SPARSE, true);
    }
    Ok(listed)
}

fn read_up_to(file: &mut File, limit_bytes: u64) -> io::Result<Bytes> {
    let mut bytes = Vec::with_capacity(usize::try_from(limit_bytes).unwrap_or(FRAME_BYTES_MAX));
    file.take(limit_bytes).read_to_end(&mut bytes)?;
    Ok(bytes.into())
}

/// Tells how a file changed while `read_bytes` with this digest were read, `None` when they are what is there. Of one
/// that is fresh, the stamps say nothing: another change may have the same.
fn change(
    (file, is_fresh): (&mut File, bool),
    before: &Metadata,
    read_bytes: u64,
    digest: impl FnOnce() -> [u8; 32],
) -> Option<String> {
    if read_bytes < before.size() {
        return Some(format!("it shrank from {} to {read_bytes} bytes while it was read", before.size()));
    }
    let compare = |file: &mut File| -> io::Result<bool> {
        let is_same = !is_fresh && state(before) == state(&file.metadata()?);
        Ok(is_same || digest_of(file, read_bytes)? == digest())
    };
    match compare(file) {
        Ok(true) => None,
        Ok(false) => Some("it changed while it was read".to_owned()),
        Err(error) => Some(error.to_string()),
    }
}

/// Reads the first bytes of a file once more.
fn digest_of(file: &mut File, size_bytes: u64) -> io::Result<[u8; 32]> {
    file.rewind()?;
    let (mut digest, mut left) = (Sha256::new(), size_bytes);
    while left > 0 {
        let bytes = read_up_to(file, left.min(FRAME_BYTES_MAX as u64))?;
        if bytes.is_empty() {
            break;
        }
        left -= bytes.len() as u64;
        digest.update(&bytes);
    }
    Ok(digest.finalize().into())
}

/// The previous snapshot's files, walked beside this run's.
struct Beside {
    previous: Option<Box<dyn Previous>>,
    next: Option<(PathBuf, Box<PreviousEntry>)>,
}

impl Beside {
    fn new(previous: Option<Box<dyn Previous>>) -> Self {
        Self { previous, next: None }
    }

    /// Returns the entry of the same, unchanged file.
    fn at(&mut self, handle: &Handle, path: &Path, now: &EntryMeta) -> Result<Option<Box<PreviousEntry>>> {
        loop {
            if self.next.is_none() && !self.step(handle)? {
                return Ok(None);
            }
            match self.next.as_ref().map_or(Ordering::Greater, |(before, _)| before.as_path().cmp(path)) {
                Ordering::Less => self.next = None,
                Ordering::Greater => return Ok(None),
                Ordering::Equal => {
                    return Ok(self.next.take().map(|(_, entry)| entry).filter(|entry| is_same(entry, now)));
                }
            }
        }
    }

    fn step(&mut self, handle: &Handle) -> Result<bool> {
        let Some(previous) = &mut self.previous else { return Ok(false) };
        while let Some(entry) = handle.block_on(previous.next())? {
            if let Some(path) = name_of(&entry.meta.attrs, "path") {
                self.next = Some((path, Box::new(entry)));
                return Ok(true);
            }
        }
        self.previous = None;
        Ok(false)
    }
}

/// Returns whether a file is the one that the previous snapshot holds.
fn is_same(before: &PreviousEntry, now: &EntryMeta) -> bool {
    let same = |name: &str| before.meta.attrs.get(name) == now.attrs.get(name);
    let first = |of: &EntryMeta| name_of(&of.attrs, SAME_AS);
    ["kind", "size", "mtime_ns", "ctime_ns", "inode", LINKS].into_iter().all(same)
        && first(&before.meta) == first(now)
        && before.meta.item == now.item
        && now.attrs.get("size").and_then(serde_json::Value::as_u64) == Some(before.size_bytes)
        && !before.meta.attrs.contains_key(FRESH)
        && !before.trailer.contains_key(TORN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stamps_of_a_file_that_was_changed_a_moment_ago_are_not_believed() {
        let mut file = tempfile::tempfile().unwrap();
        rustix::io::write(&file, b"new").unwrap();
        let meta = file.metadata().unwrap();
        // Its first half was read before the change, within the same stamp.
        let mixed = || Sha256::digest(b"old").into();
        assert_eq!(change((&mut file, false), &meta, 3, mixed), None);
        let told = change((&mut file, true), &meta, 3, mixed);
        assert_eq!(told.unwrap(), "it changed while it was read");
        assert_eq!(change((&mut file, true), &meta, 3, || Sha256::digest(b"new").into()), None);
    }
}
