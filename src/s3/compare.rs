//! When two objects are the same: what a server sets by itself is not compared; content is, and what its owner said.

use bytes::Bytes;

use super::{
    admin::is_export,
    facts::{RAW, TAGS_UNREAD},
    fetch::MD5,
    layout::PART_SIZE,
    versions::{NTH, UNTIL, VERSION_ID, VERSION_OF, VERSIONS, is_marker, version_path},
};
use crate::flow::{
    EntryMeta, Likeness, Seen, Stage, TORN,
    compare::{Counts, differences},
};

/// What objects are counted by of which the bytes were read.
pub const READ_WHOLE: &str = "objects read whole";

/// What a server sets by itself or a restore leaves to it: dates, the form of an `ETag`, where and how it keeps the
/// object. Retention and metadata that is no text are kept as a record and not set again; the length stands in the
/// entry itself.
const OWN: [&str; 11] = [
    "size",
    "last_modified",
    "etag",
    "storage_class",
    "encryption",
    "lock",
    RAW,
    TAGS_UNREAD,
    VERSION_ID,
    UNTIL,
    VERSIONS,
];

/// When two entries of an S3 source hold the same.
pub struct S3Likeness;

impl Likeness for S3Likeness {
    fn canonical(&self, mut seen: Seen) -> Option<Seen> {
        // Bytes that are those of no object are restored as none. What an administrator exports is the server's.
        if seen.trailer.contains_key(TORN) || is_export(&seen.meta) {
            return None;
        }
        if seen.meta.container {
            // A server lays out its documents as it likes. One that it refuses fails the restore.
            (seen.sha256, seen.size_bytes) = (String::new(), 0);
        }
        place(&mut seen.meta);
        seen.trailer.remove(PART_SIZE);
        seen.meta.attrs.retain(|name, _| !OWN.contains(&name.as_str()));
        Some(seen)
    }

    /// Where bytes were not read, the server's MD5 of them is compared; where they were, their digest says more.
    fn differences(&self, stored: &Seen, found: &Seen) -> Vec<String> {
        let mut facts = differences(stored, found);
        let count = facts.len();
        facts.retain(|fact| fact != MD5);
        let are_known = [stored, found].iter().all(|seen| seen.trailer.contains_key(MD5));
        if facts.len() < count && are_known && !facts.iter().any(|fact| fact == "content") {
            facts.push("content".to_owned());
        }
        facts
    }

    fn name(&self, meta: &EntryMeta) -> String {
        if let (Some(bucket), Some(key), Some(nth)) =
            (meta.text("bucket"), meta.text(VERSION_OF), meta.attrs.get(NTH))
        {
            let what = if is_marker(meta) { "delete marker" } else { "version" };
            return format!("{what} {nth} of object {bucket}/{}", key.escape_debug());
        }
        match (meta.text("bucket"), meta.text("key")) {
            (Some(bucket), Some(key)) => format!("object {bucket}/{}", key.escape_debug()),
            (Some(bucket), None) => format!("bucket {bucket}"),
            _ => format!("entry {}", meta.path),
        }
    }

    fn count(&self, seen: &Seen, _bytes: Option<&Bytes>, counts: &mut Counts) {
        let what = match (seen.meta.stage, seen.meta.attrs.contains_key(VERSION_OF)) {
            (Stage::Data, false) => "objects",
            (Stage::Data, true) if is_marker(&seen.meta) => "delete markers",
            (Stage::Data, true) => "older versions",
            _ => "buckets",
        };
        *counts.entry(what.to_owned()).or_default() += 1;
        if what == "objects" && !seen.sha256.is_empty() {
            *counts.entry(READ_WHOLE.to_owned()).or_default() += 1;
        }
        *counts.entry("bytes".to_owned()).or_default() += if what == "buckets" { 0 } else { seen.size_bytes };
    }
}

/// Gives a version the place of the how-manieth of its key: ids are the server's own.
fn place(meta: &mut EntryMeta) {
    let (Some(bucket), Some(key), Some(nth)) =
        (meta.text("bucket"), meta.text(VERSION_OF), meta.attrs.get(NTH))
    else {
        return;
    };
    if let Ok(path) = version_path(bucket, key, &format!("n-{nth}")) {
        meta.path = path;
        meta.select = meta.path.to_string();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::EntryPath;

    const HASH: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn object(sha256: &str, md5: Option<&str>, size_bytes: u64) -> Seen {
        let meta = EntryMeta::new(EntryPath::new("b/k").unwrap(), Stage::Data, "b").with("size", size_bytes);
        let trailer = md5.map(|md5| (MD5.to_owned(), md5.into())).into_iter().collect();
        S3Likeness.canonical(Seen { meta, trailer, sha256: sha256.to_owned(), size_bytes }).unwrap()
    }

    #[test]
    fn the_servers_md5_stands_in_for_bytes_that_were_not_read() {
        let stored = object(HASH, Some("aa"), 3);
        for (found, facts) in [
            (object("", Some("aa"), 3), vec![]),
            (object("", Some("bb"), 3), vec!["content"]),
            (object("", Some("bb"), 4), vec!["size", "content"]),
            // Of an object that was put together from parts the server has none.
            (object("", None, 3), vec![]),
            (object("", None, 4), vec!["size"]),
            (object(&HASH.replace('e', "f"), Some("bb"), 3), vec!["content"]),
        ] {
            assert_eq!(S3Likeness.differences(&stored, &found), facts, "{found:?}");
        }
        assert!(S3Likeness.differences(&object(HASH, None, 3), &object("", Some("aa"), 3)).is_empty());
    }

    #[test]
    fn objects_that_were_read_are_counted_apart() {
        let mut counts = Counts::new();
        for seen in [object(HASH, None, 3), object("", None, 4)] {
            S3Likeness.count(&seen, None, &mut counts);
        }
        let counts: Vec<_> = counts.iter().map(|(name, count)| (name.as_str(), *count)).collect();
        assert_eq!(counts, [("bytes", 7), ("objects", 2), (READ_WHOLE, 1)]);
    }
}
