//! When two objects are the same: what a server sets by itself is not compared; content is, and what its owner said.

use bytes::Bytes;

use super::{facts::TAGS_UNREAD, merge::TORN};
use crate::flow::{EntryMeta, Likeness, Seen, Stage, compare::Counts};

/// What a server sets by itself or a restore leaves to it: dates, the form of an `ETag`, where and how it keeps the
/// object. Retention is kept as a record and not set again; the length stands in the entry itself.
const OWN: [&str; 7] = ["size", "last_modified", "etag", "storage_class", "encryption", "lock", TAGS_UNREAD];

/// When two entries of an S3 source hold the same.
pub struct S3Likeness;

impl Likeness for S3Likeness {
    fn canonical(&self, mut seen: Seen) -> Option<Seen> {
        // Bytes that are those of no object are restored as none.
        if seen.trailer.contains_key(TORN) {
            return None;
        }
        if seen.meta.container {
            // A server lays out its documents as it likes. One that it refuses fails the restore.
            (seen.sha256, seen.size_bytes) = (String::new(), 0);
        }
        seen.meta.attrs.retain(|name, _| !OWN.contains(&name.as_str()));
        // The digest of the bytes says more, and is there when the bytes were read.
        seen.trailer.remove("md5");
        Some(seen)
    }

    fn name(&self, meta: &EntryMeta) -> String {
        match (meta.text("bucket"), meta.text("key")) {
            (Some(bucket), Some(key)) => format!("object {bucket}/{}", key.escape_debug()),
            (Some(bucket), None) => format!("bucket {bucket}"),
            _ => format!("entry {}", meta.path),
        }
    }

    fn count(&self, seen: &Seen, _bytes: Option<&Bytes>, counts: &mut Counts) {
        let what = if seen.meta.stage == Stage::Data { "objects" } else { "buckets" };
        *counts.entry(what.to_owned()).or_default() += 1;
        *counts.entry("bytes".to_owned()).or_default() += if what == "objects" { seen.size_bytes } else { 0 };
    }
}
