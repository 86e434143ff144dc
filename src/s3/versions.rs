//! All versions of a bucket's objects: listed, with proof that the order held, and named.
//!
//! *Order.* A listing shows keys ascending and of each key the newest version first; which of two versions is the newer
//! tells nothing but the place in the answer, for dates may be of whole seconds. Keys that go back, a second latest
//! version and a page that repeats end the reading, as in [`super::listing`]. [`super::history`] turns each key's
//! versions round.
//!
//! A page begins behind the version that the one before ended with. Where that is gone meanwhile (rules of a bucket
//! remove old versions) a server sends the key's versions again, or none of them: that is noticed, and the key listed
//! once more. A delete marker is not asked for, because servers answer that in several ways.
//!
//! *Limits.* A page of at most 1,000 versions is in memory.

use std::collections::VecDeque;

use aws_sdk_s3::types::{DeleteMarkerEntry, EncodingType, ObjectVersion};
use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};

use super::{
    alike::Alike,
    capture::{self, Capture},
    client::{LIST_SECONDS, Server, Told, timeouts},
    facts::{Facts, object_meta, object_path},
    history::{Histories, History},
    listing::{self, Listed, Lister, bare, decode, untrusted},
    ranges::Span,
};
use crate::{
    error::{ExitCode, Failure, Result},
    flow::EntryMeta,
    names::EntryPath,
};

/// The attribute of an object of a bucket whose versions are kept: the version's id.
pub(super) const VERSION_ID: &str = "version_id";
/// The attribute of a version that is not its key's object now: the key.
pub(super) const VERSION_OF: &str = "version_of";
/// The attribute of an entry that is a delete marker.
pub(super) const DELETE_MARKER: &str = "delete_marker";
/// The attribute of a delete marker that hides its key now.
pub(super) const LATEST: &str = "latest";
/// The attribute with the time from which the next version was the latest.
pub(super) const UNTIL: &str = "until";
/// The attribute with the place of a version in its key's history, from 1, the oldest.
pub(super) const NTH: &str = "nth";
/// The attribute of a bucket of which all versions were read.
pub(super) const VERSIONS: &str = "versions";

/// Which of its key's versions a listed object is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Version {
    /// Its id; `null` for one that was made while no versions were kept.
    pub(super) id: String,
    /// Whether it is what the key shows.
    pub(super) is_latest: bool,
    /// Whether it is a delete marker.
    pub(super) is_marker: bool,
    /// When the next version took its place.
    pub(super) until: Option<DateTime<Utc>>,
}

impl Listed {
    /// Returns the version's id, where versions are read.
    pub(super) fn version_id(&self) -> Option<String> {
        self.version.as_ref().map(|version| version.id.clone())
    }

    /// Returns whether it is the object that its key shows.
    pub(super) fn is_current(&self) -> bool {
        self.version.as_ref().is_none_or(|version| version.is_latest && !version.is_marker)
    }

    /// Returns whether it is a delete marker.
    pub(super) fn is_marker(&self) -> bool {
        self.version.as_ref().is_some_and(|version| version.is_marker)
    }

    /// Returns what `--only` calls it: `bucket/key`, with `?versionId=…` where the key shows something else.
    pub(super) fn select(&self, bucket: &str) -> String {
        match &self.version {
            Some(version) if !self.is_current() => {
                format!("{bucket}/{}?versionId={}", self.key, version.id)
            }
            _ => format!("{bucket}/{}", self.key),
        }
    }
}

/// Makes an entry say which version it is, whatever it said before.
pub(super) fn place(meta: &mut EntryMeta, bucket: &str, listed: &Listed) -> Result<()> {
    for name in [VERSION_ID, VERSION_OF, DELETE_MARKER, LATEST, UNTIL, NTH] {
        meta.attrs.remove(name);
    }
    let key = if listed.is_current() { "key" } else { VERSION_OF };
    meta.attrs.remove("key");
    meta.attrs.insert(key.to_owned(), listed.key.as_str().into());
    meta.select = listed.select(bucket);
    let Some(version) = &listed.version else {
        meta.path = object_path(bucket, &listed.key)?;
        return Ok(());
    };
    meta.attrs.insert(VERSION_ID.to_owned(), version.id.as_str().into());
    if let Some(until) = &version.until {
        let until = until.to_rfc3339_opts(SecondsFormat::Millis, true);
        meta.attrs.insert(UNTIL.to_owned(), until.into());
    }
    if version.is_marker {
        meta.attrs.retain(|name, _| name != "etag" && name != "size");
        meta.attrs.insert(DELETE_MARKER.to_owned(), true.into());
        if version.is_latest {
            meta.attrs.insert(LATEST.to_owned(), true.into());
        }
    }
    meta.path = if listed.is_current() {
        object_path(bucket, &listed.key)?
    } else {
        version_path(bucket, &listed.key, &format!("v-{}", escaped(&version.id)))?
    };
    Ok(())
}

/// Makes a version what its key shows, as if the bucket had never kept versions.
pub(super) fn make_object(meta: &mut EntryMeta) {
    let key = meta.attrs.remove(VERSION_OF);
    for name in [VERSION_ID, LATEST, UNTIL, NTH] {
        meta.attrs.remove(name);
    }
    meta.attrs.extend(key.map(|key| ("key".to_owned(), key)));
}

/// Makes the entry of a delete marker.
pub(super) fn marker_meta(bucket: &str, listed: &Listed) -> Result<EntryMeta> {
    object_meta(bucket, listed, &Facts::default())
}

/// Returns whether an entry is one of a key's versions, be it the latest.
pub(super) fn is_version(meta: &EntryMeta) -> bool {
    meta.attrs.contains_key(VERSION_ID)
}

/// Returns whether an entry is a delete marker.
pub(super) fn is_marker(meta: &EntryMeta) -> bool {
    meta.attrs.contains_key(DELETE_MARKER)
}

/// Returns the key that an entry is an object or a version of.
pub(super) fn key_of(meta: &EntryMeta) -> Option<&str> {
    meta.text("key").or_else(|| meta.text(VERSION_OF))
}

/// Returns where a version lies that its key does not show; no object can, and nothing below it either, because a `%`
/// of a key is always escaped.
pub(super) fn version_path(bucket: &str, key: &str, leaf: &str) -> Result<EntryPath> {
    let object = object_path(bucket, key)?;
    EntryPath::new(&format!("%versions/{object}/%{leaf}")).map_err(|error| {
        Failure::new(ExitCode::Failed, format!("a version of object `{key}` of `{bucket}` has no path"))
            .because(error)
    })
}

/// Returns an id as a part of a path; ids are plain text on all known servers.
fn escaped(id: &str) -> String {
    percent_encoding::utf8_percent_encode(id, percent_encoding::CONTROLS).to_string().replace('/', "%2F")
}

/// Counts the versions of each key as they come.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    place: (String, String),
    count: u64,
}

impl Numbers {
    /// Returns whether versions of a key have just come.
    pub(super) fn has(&self, bucket: &str, key: &str) -> bool {
        self.place.0 == bucket && self.place.1 == key
    }

    /// Notes in a version's attributes the how-manieth it is.
    pub(super) fn number(&mut self, meta: &mut EntryMeta) {
        if !is_version(meta) {
            return;
        }
        let (bucket, key) = (meta.text("bucket").unwrap_or_default(), key_of(meta).unwrap_or_default());
        if self.place.0 != bucket || self.place.1 != key {
            *self = Self { place: (bucket.to_owned(), key.to_owned()), count: 0 };
        }
        self.count += 1;
        if meta.attrs.contains_key(VERSION_OF) {
            meta.attrs.insert(NTH.to_owned(), self.count.into());
        }
    }
}

/// Walks a bucket, with its versions or without.
pub(super) enum Walk {
    /// The object of each key.
    Current(Box<Lister>),
    /// All versions, oldest first.
    All(Box<Oldest>),
}

/// The histories of a bucket, one version after the other.
pub(super) struct Oldest {
    histories: Histories,
    history: Option<History>,
}

impl Oldest {
    async fn next(&mut self) -> Result<Option<Listed>> {
        loop {
            if let Some(listed) = self.history.as_mut().map(History::next).transpose()?.flatten() {
                return Ok(Some(listed));
            }
            self.history = self.histories.next().await?;
            if self.history.is_none() {
                return Ok(None);
            }
        }
    }
}

impl Walk {
    /// Begins at the first of a bucket's keys that are wanted.
    pub(super) fn new(server: &Server, bucket: &str, with_versions: bool, span: Span) -> Self {
        if with_versions {
            Self::All(Box::new(Oldest { histories: Histories::new(server, bucket, span), history: None }))
        } else {
            Self::Current(Box::new(Lister::new(server, bucket).within(span).with_tags()))
        }
    }

    /// Returns the next object or version.
    pub(super) async fn next(&mut self) -> Result<Option<Listed>> {
        match self {
            Self::Current(lister) => lister.next().await,
            Self::All(oldest) => oldest.next().await,
        }
    }

    /// Returns the keys that are not UTF-8 and so were left out so far.
    pub(super) fn take_unreadable(&mut self) -> Alike {
        match self {
            Self::Current(lister) => lister.take_unreadable(),
            Self::All(oldest) => oldest.histories.take_unreadable(),
        }
    }
}

/// Looks up again what was listed. Of a long history only the newest thousand are looked through: what is not among
/// them counts as gone.
pub(super) async fn look_up(server: &Server, bucket: &str, listed: &Listed) -> Result<Option<Listed>> {
    let Some(version) = &listed.version else { return Lister::look_up(server, bucket, &listed.key).await };
    let mut lister = VersionLister::new(server, bucket).of(&listed.key);
    lister.turn().await?;
    let is_it = |one: &Listed| one.key == listed.key && one.version_id().as_ref() == Some(&version.id);
    let found = lister.page.into_iter().find(|one| is_it(one) && !one.is_marker());
    // A `null` version that was written anew is the latest then, and has no other place in a history.
    let found = found.filter(|found| found.etag == listed.etag || version.is_latest);
    Ok(found.map(|found| Listed { version: Some(version.clone()), ..found }))
}

/// Walks the versions of a bucket as the server lists them.
#[derive(Debug)]
pub(super) struct VersionLister {
    server: Server,
    bucket: String,
    prefix: Option<String>,
    span: Span,
    page: VecDeque<Listed>,
    /// The key and the version that the last page ended with.
    marker: Option<(String, String)>,
    last: Option<Listed>,
    /// The key of which a part may lack, or came twice.
    torn: Option<String>,
    ended: bool,
    unreadable: Alike,
}

impl VersionLister {
    /// Begins at the bucket's first key.
    pub(super) fn new(server: &Server, bucket: &str) -> Self {
        Self {
            server: server.clone(),
            bucket: bucket.to_owned(),
            prefix: None,
            span: Span::default(),
            page: VecDeque::new(),
            marker: None,
            last: None,
            torn: None,
            ended: false,
            unreadable: Alike::default(),
        }
    }

    /// Walks only the keys that begin with this one.
    pub(super) fn of(self, key: &str) -> Self {
        Self { prefix: Some(key.to_owned()), ..self }
    }

    /// Walks only the keys between two.
    pub(super) fn within(self, span: Span) -> Self {
        Self { span, ..self }
    }

    /// Returns the keys that are not UTF-8 and so were left out so far.
    pub(super) fn take_unreadable(&mut self) -> Alike {
        std::mem::take(&mut self.unreadable)
    }

    /// Returns the next version, the newest of a key first.
    pub(super) async fn next(&mut self) -> Result<Option<Listed>> {
        let listed = loop {
            while self.page.is_empty() && !self.ended {
                let unreadable = self.unreadable.clone();
                let border = self.marker.clone();
                self.turn().await?;
                if let Some((key, id)) = border
                    && !self.is_again(&key, &id)
                    && !self.goes_on(&key, &id).await?
                {
                    // All that is behind the key is asked for again.
                    self.unreadable = unreadable;
                    self.page.clear();
                    (self.marker, self.ended) = (None, false);
                    self.span.after = Some(key.clone());
                    self.torn = Some(key);
                }
            }
            let Some(listed) = self.page.pop_front() else { return Ok(None) };
            // A key without a version may be taken for the one to begin with, or behind.
            if self.span.after.as_ref().is_none_or(|after| listed.key > *after) {
                break listed;
            }
        };
        if self.span.to.as_ref().is_some_and(|to| listed.key > *to) {
            self.ended = true;
            self.page.clear();
            return Ok(None);
        }
        if let Some(last) = &self.last
            && let Err(why) = follows(last, &listed)
        {
            return Err(untrusted(&self.bucket, &why));
        }
        self.last = Some(listed.clone());
        Ok(Some(listed))
    }

    /// Returns the server and the bucket that it walks.
    pub(super) fn place(&self) -> (&Server, &str) {
        (&self.server, &self.bucket)
    }

    /// Returns the key, once, of which a part may lack or came twice because a version went away between two pages.
    pub(super) fn take_torn(&mut self) -> Option<String> {
        self.torn.take()
    }

    /// Takes a version that the page before ended with from the beginning of this one; returns whether it stood there:
    /// a server may take the marker for the version to begin with.
    fn is_again(&mut self, key: &str, id: &str) -> bool {
        self.page
            .pop_front_if(|first| first.key == key && first.version_id().as_deref() == Some(id))
            .is_some()
    }

    /// Returns whether the page that came goes on behind this version, with which the one before ended.
    async fn goes_on(&self, key: &str, id: &str) -> Result<bool> {
        if self.page.front().is_some_and(|first| first.key == key && is_latest(first)) {
            return Ok(false);
        }
        if self.last.as_ref().is_some_and(Listed::is_marker) {
            return Ok(true);
        }
        let head = self.server.client.head_object().bucket(&self.bucket).key(key).version_id(id);
        match head.send().await {
            Ok(_) => Ok(true),
            Err(error) => match Told::from(&error) {
                Some(told) if told.is_absent() => Ok(false),
                // Who may not look has to believe it.
                Some(told) if told.status < 500 => Ok(true),
                _ => Err(self.server.failure("look at a version of an object", error)),
            },
        }
    }

    /// Fetches the next page. The marker is the last version that came and not what the server names as the next, which
    /// is encoded by some and not by others. Keys behind it that are not UTF-8 come again.
    async fn turn(&mut self) -> Result<()> {
        let (capture, override_) =
            (Capture::default(), aws_sdk_s3::Config::builder().timeout_config(timeouts(LIST_SECONDS)));
        let (key, id) = match self.marker.clone() {
            Some((key, id)) => (Some(key), Some(id)),
            None => (self.span.after.clone(), None),
        };
        let page = self
            .server
            .client
            .list_object_versions()
            .bucket(&self.bucket)
            .encoding_type(EncodingType::Url)
            .set_prefix(self.prefix.clone())
            .set_key_marker(key)
            .set_version_id_marker(id)
            .customize()
            .config_override(override_)
            .interceptor(capture.clone())
            .send()
            .await
            .map_err(|error| {
                self.server.failure(&format!("list the versions of bucket `{}`", self.bucket), error)
            })?;
        // The SDK tells both apart and forgets how they lay among each other.
        let Some(kinds) = capture::below_root(&capture.text(), &["Version", "DeleteMarker"]) else {
            return Err(untrusted(&self.bucket, "a page of its versions is no whole document"));
        };
        let (mut versions, mut markers) = (page.versions().iter(), page.delete_markers().iter());
        let is_encoded = page.encoding_type() == Some(&EncodingType::Url);
        let (mut last, mut unreadable) = (None, Vec::new());
        for kind in kinds {
            let one = if kind == 1 { markers.next().map(of_marker) } else { versions.next().map(of_version) };
            let Some(mut one) = one else { return Err(self.confused()) };
            let key = if is_encoded { decode(&one.key) } else { Some(one.key.clone()) };
            match key {
                Some(key) => {
                    one.key = key;
                    last = Some(one.key.clone()).zip(one.version_id());
                    self.unreadable.add_all(unreadable.drain(..));
                    self.page.push_back(one);
                }
                None => unreadable.push(listing::unreadable(&self.bucket, &one.key)),
            }
        }
        if versions.next().is_some() || markers.next().is_some() {
            return Err(self.confused());
        }
        if !page.is_truncated().unwrap_or(false) {
            self.unreadable.add_all(unreadable);
            self.ended = true;
            return Ok(());
        }
        if last.is_none() && !unreadable.is_empty() {
            return Err(untrusted(
                &self.bucket,
                "a whole page of its keys is not UTF-8, and nothing tells what follows",
            ));
        }
        if last.is_none() || last == self.marker {
            return Err(untrusted(&self.bucket, "it says that there is more, but not where"));
        }
        self.marker = last;
        Ok(())
    }

    fn confused(&self) -> Failure {
        untrusted(&self.bucket, "its versions and delete markers cannot be told apart")
    }
}

/// Checks that a version may come after another; which of them is latest is what the first of a key says.
fn follows(last: &Listed, listed: &Listed) -> Result<(), String> {
    if listed.key > last.key {
        return Ok(());
    }
    let what = format!("`{}`", listed.key);
    if listed.key < last.key {
        return Err(format!("{what} came after `{}`", last.key));
    }
    if listed.version_id() == last.version_id() {
        return Err(format!("a version of {what} came twice"));
    }
    if is_latest(listed) {
        return Err(format!("{what} has two latest versions"));
    }
    Ok(())
}

fn is_latest(listed: &Listed) -> bool {
    listed.version.as_ref().is_some_and(|version| version.is_latest)
}

fn of_version(version: &ObjectVersion) -> Listed {
    Listed {
        key: version.key().unwrap_or_default().to_owned(),
        etag: version.e_tag().map(bare).unwrap_or_default(),
        size_bytes: version.size().and_then(|size| u64::try_from(size).ok()).unwrap_or(0),
        last_modified: date(version.last_modified()),
        storage_class: version
            .storage_class()
            .map(|class| class.as_str().to_owned())
            .filter(|class| class != "STANDARD"),
        tags: None,
        version: Some(Version {
            id: id(version.version_id()),
            is_latest: version.is_latest().unwrap_or(false),
            is_marker: false,
            until: None,
        }),
    }
}

fn of_marker(marker: &DeleteMarkerEntry) -> Listed {
    Listed {
        key: marker.key().unwrap_or_default().to_owned(),
        etag: String::new(),
        size_bytes: 0,
        last_modified: date(marker.last_modified()),
        storage_class: None,
        tags: None,
        version: Some(Version {
            id: id(marker.version_id()),
            is_latest: marker.is_latest().unwrap_or(false),
            is_marker: true,
            until: None,
        }),
    }
}

fn id(given: Option<&str>) -> String {
    given.filter(|id| !id.is_empty()).unwrap_or("null").to_owned()
}

fn date(at: Option<&aws_sdk_s3::primitives::DateTime>) -> DateTime<Utc> {
    let millis = at.and_then(|at| at.to_millis().ok());
    millis.and_then(DateTime::from_timestamp_millis).unwrap_or_default()
}

#[cfg(test)]
#[path = "versions_tests.rs"]
mod tests;
