//! The versions of one key, oldest first; and what of them stands in a target.
//!
//! *Order.* A listing shows the newest version first. A history is handed on oldest first: so it is written again, and
//! so it grows at its end.
//!
//! *Crash.* Versions of a long history wait in a temporary file without a name.
//!
//! *Limits.* [`BLOCK`] versions are in memory.

use std::{
    cmp::Ordering,
    fs::File,
    io::{Read, Seek, SeekFrom, Write},
};

use chrono::{DateTime, Utc};

use super::{
    alike::Alike,
    client::Server,
    listing::{Listed, untrusted},
    ranges::Span,
    versions::{DELETE_MARKER, VersionLister},
};
use crate::{
    error::{Context, ExitCode, Result},
    flow::Attrs,
};

/// Versions of one key that are in memory.
const BLOCK: usize = 1000;
/// Times that a key is listed whose versions go away meanwhile.
const TRIES: u32 = 5;

/// Walks the histories of a bucket's keys.
pub(super) struct Histories {
    lister: VersionLister,
    next: Option<Listed>,
}

impl Histories {
    /// Begins at the first of a bucket's keys.
    pub(super) fn new(server: &Server, bucket: &str, span: Span) -> Self {
        Self { lister: VersionLister::new(server, bucket).within(span), next: None }
    }

    /// Returns the keys that are not UTF-8 and so were left out so far.
    pub(super) fn take_unreadable(&mut self) -> Alike {
        self.lister.take_unreadable()
    }

    /// Returns the history of one key.
    pub(super) async fn of_key(server: &Server, bucket: &str, key: &str) -> Result<Option<History>> {
        for _ in 0..TRIES {
            let lister = VersionLister::new(server, bucket).of(key);
            let mut histories = Self { lister, next: None };
            let history = histories.listed().await?.filter(|history| history.key == key);
            if !histories.is_torn(key) {
                return Ok(history);
            }
        }
        Err(untrusted(bucket, &format!("versions of `{key}` went away each time that they were listed")))
    }

    fn is_torn(&mut self, key: &str) -> bool {
        self.lister.take_torn().is_some_and(|torn| torn == key)
    }

    /// Returns the history of a key, after passing over all keys before it.
    pub(super) async fn at(&mut self, key: &str) -> Result<Option<History>> {
        loop {
            match self.peek().await?.map(|next| next.key.as_str().cmp(key)) {
                None | Some(Ordering::Greater) => return Ok(None),
                Some(Ordering::Equal) => return self.next().await,
                Some(Ordering::Less) => self.next = None,
            }
        }
    }

    async fn peek(&mut self) -> Result<Option<&Listed>> {
        if self.next.is_none() {
            self.next = self.lister.next().await?;
        }
        Ok(self.next.as_ref())
    }

    /// Returns the history of the next key.
    pub(super) async fn next(&mut self) -> Result<Option<History>> {
        while let Some(history) = self.listed().await? {
            if !self.is_torn(&history.key) {
                return Ok(Some(history));
            }
            let (server, bucket) = self.lister.place();
            if let Some(whole) = Self::of_key(server, bucket, &history.key).await? {
                return Ok(Some(whole));
            }
        }
        Ok(None)
    }

    /// Returns the history of the next key as it was listed.
    async fn listed(&mut self) -> Result<Option<History>> {
        let Some(newest) = self.peek().await?.cloned() else { return Ok(None) };
        let (mut history, mut until) = (History::new(newest.clone(), BLOCK), None::<DateTime<Utc>>);
        while self.peek().await?.is_some_and(|next| next.key == newest.key) {
            let Some(mut listed) = self.next.take() else { break };
            if let Some(version) = &mut listed.version {
                version.until = until;
                // An upload in parts is dated when it began, so an older version may bear the later date.
                until = Some(until.map_or(listed.last_modified, |until| until.min(listed.last_modified)));
            }
            history.push(listed)?;
        }
        Ok(Some(history))
    }
}

/// The versions of one key: put in newest first, taken out oldest first.
#[derive(Debug)]
pub(super) struct History {
    key: String,
    /// The newest of them, which the key shows unless it is a delete marker.
    pub(super) newest: Listed,
    block_max: usize,
    /// The versions at hand, the oldest at the end.
    block: Vec<Listed>,
    spill: Option<Spill>,
}

/// Full blocks of newer versions.
#[derive(Debug)]
struct Spill {
    file: File,
    /// Where each begins; the last ends where the next would begin.
    begins: Vec<u64>,
    end: u64,
}

impl History {
    /// Begins one, of which so many versions are in memory; its newest is not put into it yet.
    pub(super) fn new(newest: Listed, block_max: usize) -> Self {
        Self { key: newest.key.clone(), newest, block_max, block: Vec::new(), spill: None }
    }

    /// Puts an older version to it.
    pub(super) fn push(&mut self, listed: Listed) -> Result<()> {
        if self.block.len() >= self.block_max {
            self.spill()?;
        }
        self.block.push(listed);
        Ok(())
    }

    /// Takes the oldest version from it.
    pub(super) fn next(&mut self) -> Result<Option<Listed>> {
        if self.block.is_empty()
            && let Some(spill) = &mut self.spill
        {
            self.block = spill.take()?;
        }
        Ok(self.block.pop())
    }

    /// Returns whether nothing is left.
    pub(super) fn is_over(&self) -> bool {
        self.block.is_empty() && self.spill.as_ref().is_none_or(|spill| spill.begins.is_empty())
    }

    fn spill(&mut self) -> Result<()> {
        let spill = match &mut self.spill {
            Some(spill) => spill,
            none => none.insert(Spill {
                file: tempfile::tempfile().failed(ExitCode::Failed, trouble)?,
                begins: Vec::new(),
                end: 0,
            }),
        };
        let json = serde_json::to_vec(&std::mem::take(&mut self.block)).failed(ExitCode::Failed, trouble)?;
        spill.file.write_all(&json).failed(ExitCode::Failed, trouble)?;
        spill.begins.push(spill.end);
        spill.end += json.len() as u64;
        Ok(())
    }
}

impl Spill {
    /// Returns the block that was put last.
    fn take(&mut self) -> Result<Vec<Listed>> {
        let Some(begin) = self.begins.pop() else { return Ok(Vec::new()) };
        let mut json = Vec::new();
        self.file.seek(SeekFrom::Start(begin)).failed(ExitCode::Failed, trouble)?;
        (&self.file).take(self.end - begin).read_to_end(&mut json).failed(ExitCode::Failed, trouble)?;
        self.end = begin;
        serde_json::from_slice(&json).failed(ExitCode::Failed, trouble)
    }
}

fn trouble() -> String {
    "failed to use a temporary file for the versions of an object".to_owned()
}

/// What of a snapshot's history stands in a target's: each version at the first place after that of the version before,
/// the latest only where it is the latest there. What is found nowhere is written on top, and then all after it.
///
/// So every version of the snapshot comes to stand in its order, the target keeps what it has, and the same again finds
/// everything.
///
/// Delete markers that follow each other count as one: they hide the key no more than one does, and `MinIO` makes no
/// second (`DeleteObject` of a hidden key changes nothing there).
pub(super) struct Line {
    there: Option<History>,
    /// The delete marker that was found last, as long as nothing else was.
    marker: Option<Listed>,
}

impl Line {
    /// Begins with what the target has.
    pub(super) fn new(there: Option<History>) -> Self {
        Self { there, marker: None }
    }

    /// Returns the next version of the target that is this one, if there is one. Versions are compared by their bytes,
    /// as far as a listing tells them.
    pub(super) fn find(&mut self, attrs: &Attrs, is_latest: bool) -> Result<Option<Listed>> {
        let Some(history) = &mut self.there else { return Ok(None) };
        let marker = self.marker.take().filter(|_| attrs.contains_key(DELETE_MARKER));
        if marker.is_some() && (!is_latest || history.is_over()) {
            self.marker.clone_from(&marker);
            return Ok(marker);
        }
        while let Some(listed) = history.next()? {
            if (!is_latest || history.is_over()) && is_alike(attrs, &listed) {
                self.marker = Some(listed.clone()).filter(Listed::is_marker);
                return Ok(Some(listed));
            }
        }
        self.there = None;
        Ok(None)
    }
}

fn is_alike(attrs: &Attrs, listed: &Listed) -> bool {
    if attrs.contains_key(DELETE_MARKER) || listed.is_marker() {
        return attrs.contains_key(DELETE_MARKER) && listed.is_marker();
    }
    let etag = attrs.get("etag").and_then(serde_json::Value::as_str).unwrap_or_default();
    !etag.is_empty()
        && etag == listed.etag
        && attrs.get("size").and_then(serde_json::Value::as_u64) == Some(listed.size_bytes)
}

#[cfg(test)]
pub(super) mod laws {
    use chrono::DateTime;
    use proptest::prelude::*;

    use super::*;
    use crate::{
        flow::EntryMeta,
        s3::versions::{LATEST, VERSION_OF, Version, marker_meta},
    };

    /// A version as a listing shows it; a delete marker is the one without an `ETag`.
    pub fn listed(key: &str, id: &str, etag: &str) -> Listed {
        Listed {
            key: key.to_owned(),
            etag: etag.to_owned(),
            size_bytes: 1,
            last_modified: DateTime::UNIX_EPOCH,
            storage_class: None,
            tags: None,
            version: Some(Version {
                id: id.to_owned(),
                is_latest: false,
                is_marker: etag.is_empty(),
                until: None,
            }),
        }
    }

    /// A history of contents, the oldest first; a delete marker is the empty one.
    pub fn history(contents: &[String], block_max: usize) -> Option<History> {
        let mut newest_first = contents.iter().enumerate().rev().map(|(n, etag)| {
            let mut one = listed("k", &n.to_string(), etag);
            one.version.as_mut().unwrap().is_latest = n + 1 == contents.len();
            one
        });
        let newest = newest_first.next()?;
        let mut history = History::new(newest.clone(), block_max);
        history.push(newest).unwrap();
        newest_first.for_each(|one| history.push(one).unwrap());
        Some(history)
    }

    /// The entry of a version with this content, of the same key.
    pub fn version(etag: &str, is_latest: bool) -> EntryMeta {
        let mut meta = marker_meta("b", &listed("k", "v", etag)).unwrap();
        if is_latest && etag.is_empty() {
            meta.attrs.insert(LATEST.to_owned(), true.into());
        } else if is_latest {
            meta.attrs.remove(VERSION_OF);
            meta.attrs.insert("key".to_owned(), "k".into());
        }
        meta
    }

    /// Returns a history with one delete marker where several follow each other.
    fn folded(contents: &[String]) -> Vec<String> {
        let mut folded = contents.to_vec();
        folded.dedup_by(|one, other| one.is_empty() && other.is_empty());
        folded
    }

    /// Writes a history over another, as a restore does; returns what stands there then and how many were written.
    fn restore(snapshot: &[String], there: &[String], is_minio: bool) -> (Vec<String>, usize) {
        let (mut line, mut after, mut written) = (Line::new(history(there, 2)), there.to_vec(), 0);
        for (n, etag) in snapshot.iter().enumerate() {
            let meta = version(etag, false);
            if line.find(&meta.attrs, n + 1 == snapshot.len()).unwrap().is_none() {
                written += 1;
                if !(is_minio && etag.is_empty() && after.last().is_some_and(String::is_empty)) {
                    after.push(etag.clone());
                }
            }
        }
        (after, written)
    }

    pub fn contents() -> impl Strategy<Value = Vec<String>> {
        proptest::collection::vec("[abc]?", 0..8)
    }

    proptest! {
        #[test]
        fn a_history_comes_out_oldest_first_however_long_it_is(count in 1..50_usize, block_max in 1..7_usize) {
            let contents: Vec<String> = (0..count).map(|n| format!("e{n}")).collect();
            let mut history = history(&contents, block_max).unwrap();
            prop_assert_eq!(&history.newest.etag, contents.last().unwrap());
            prop_assert!(history.block.len() <= block_max, "the rest waits in a file");
            for etag in &contents {
                prop_assert!(!history.is_over());
                prop_assert_eq!(&history.next().unwrap().unwrap().etag, etag);
            }
            prop_assert!(history.is_over());
            prop_assert!(history.next().unwrap().is_none());
        }

        #[test]
        fn after_a_restore_all_versions_stand_in_their_order_and_nothing_is_lost(
            snapshot in contents(),
            there in contents(),
            is_minio in any::<bool>(),
        ) {
            let (after, _) = restore(&snapshot, &there, is_minio);
            prop_assert_eq!(&after[..there.len()], &there[..]);
            let mut rest = after.iter();
            prop_assert!(folded(&snapshot).iter().all(|one| rest.any(|other| other == one)), "{:?}", after);
            if let Some(latest) = snapshot.last() {
                prop_assert_eq!(after.last(), Some(latest));
            }
        }

        #[test]
        fn the_same_restore_again_writes_nothing_and_one_that_broke_off_is_continued(
            snapshot in contents(),
            there in contents(),
            broken in 0..8_usize,
            is_minio in any::<bool>(),
        ) {
            let (after, all) = restore(&snapshot, &there, is_minio);
            prop_assert_eq!(restore(&snapshot, &after, is_minio), (after.clone(), 0));
            let part = &after[..after.len().min(there.len() + broken)];
            let (again, written) = restore(&snapshot, part, is_minio);
            prop_assert_eq!(folded(&again), folded(&after));
            if folded(&snapshot) == snapshot && !is_minio {
                prop_assert_eq!(&again, &after);
                prop_assert_eq!(written, all - broken.min(all));
            }
        }
    }
}
