//! What is kept of an object beside its bytes: headers, user metadata, tags; out of answers, into
//! attributes, and back into requests.

use std::collections::BTreeMap;

use aws_sdk_s3::{
    config::http::HttpRequest,
    operation::{get_object::GetObjectOutput, head_object::HeadObjectOutput},
    primitives::{DateTime as SdkTime, DateTimeFormat, SdkBody},
    types::Tag,
};
use chrono::SecondsFormat;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value};

use super::{client::unwrap_raw, listing::Listed, versions};
use crate::{
    error::{ExitCode, Failure, Result},
    flow::{Attrs, EntryMeta, Stage},
    names::EntryPath,
};

/// The attribute of an object whose tags could not be read; the next run tries again.
pub(super) const TAGS_UNREAD: &str = "tags_unread";
/// The attribute with metadata that is no text, in hex.
pub(super) const RAW: &str = "raw";

/// What the names of user metadata begin with as headers.
const USER: &str = "x-amz-meta-";

/// The facts of one object that a restore sets again, and some that it only tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// HTTP headers by their lower-case name, as they were sent.
    pub(super) headers: BTreeMap<String, String>,
    /// User metadata, names without `x-amz-meta-`.
    pub(super) meta: BTreeMap<String, String>,
    /// Headers and user metadata whose values are no text, by the whole name of the header, in hex: kept as a record,
    /// for no request carries them.
    pub(super) raw: BTreeMap<String, String>,
    /// Tags.
    pub(super) tags: BTreeMap<String, String>,
    /// Retention and legal hold: kept as a record, not set again (a date in the past is refused, and a
    /// compliance lock could never be undone).
    pub(super) lock: BTreeMap<String, String>,
    /// How the server encrypts it; with a key of the customer or of a KMS the `ETag` is no MD5.
    pub(super) encryption: Option<String>,
    /// Why the tags could not be read, if they could not.
    pub(super) tags_unread: Option<String>,
    /// How many tags the server says there are, where it does.
    pub(super) tag_count: Option<i32>,
}

macro_rules! facts_of {
    ($output:expr) => {{
        let answer = $output;
        let headers = [
            ("cache-control", answer.cache_control()),
            ("content-disposition", answer.content_disposition()),
            ("content-encoding", answer.content_encoding()),
            ("content-language", answer.content_language()),
            ("content-type", answer.content_type()),
            ("expires", answer.expires_string()),
            ("x-amz-website-redirect-location", answer.website_redirect_location()),
        ];
        let until = answer.object_lock_retain_until_date().map(time);
        let lock = [
            ("mode", answer.object_lock_mode().map(|mode| mode.as_str())),
            ("until", until.as_deref()),
            ("legal_hold", answer.object_lock_legal_hold_status().map(|hold| hold.as_str())),
        ];
        let customer = answer.sse_customer_algorithm().map(|_| "customer".to_owned());
        let server = answer.server_side_encryption().map(|kind| kind.as_str().to_owned());
        Facts {
            headers: present(&headers),
            meta: answer.metadata().into_iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect(),
            raw: BTreeMap::new(),
            tags: BTreeMap::new(),
            tags_unread: None,
            lock: present(&lock),
            encryption: customer.or(server),
            tag_count: answer.tag_count(),
        }
    }};
}

impl Facts {
    /// Takes the facts of a GET's answer; the tags are not among them.
    pub(super) fn of_get(answer: &GetObjectOutput) -> Self {
        facts_of!(answer).sorted()
    }

    /// Takes the facts of a HEAD's answer; the tags are not among them.
    pub(super) fn of_head(answer: &HeadObjectOutput) -> Self {
        facts_of!(answer).sorted()
    }

    /// Puts what is no text apart.
    fn sorted(mut self) -> Self {
        let raw = &mut self.raw;
        for (prefix, map) in [("", &mut self.headers), (USER, &mut self.meta)] {
            map.retain(|name, value| match unwrap_raw(value) {
                Some(hex) => {
                    raw.insert(format!("{prefix}{name}"), hex.to_owned());
                    false
                }
                None => true,
            });
        }
        self
    }

    /// Takes the facts out of an entry's attributes.
    pub(super) fn of_attrs(attrs: &Attrs) -> Self {
        Self {
            headers: texts(attrs.get("headers")),
            meta: texts(attrs.get("meta")),
            raw: texts(attrs.get(RAW)),
            tags: texts(attrs.get("tags")),
            lock: texts(attrs.get("lock")),
            encryption: attrs.get("encryption").and_then(Value::as_str).map(str::to_owned),
            tags_unread: attrs.get(TAGS_UNREAD).and_then(Value::as_str).map(str::to_owned),
            tag_count: None,
        }
    }

    /// Returns whether an object with these facts needs none of `other`'s to be set again. Tags that could not be read
    /// are not known to be others.
    pub(super) fn same_as(&self, other: &Self) -> bool {
        self.looks_like(other) && (other.tags_unread.is_some() || self.tags == other.tags)
    }

    /// Returns the same without regard to tags. What is no text cannot be set, so that it is missing does not matter.
    pub(super) fn looks_like(&self, other: &Self) -> bool {
        let is_same = self.raw.is_empty() || self.raw == other.raw;
        self.headers == other.headers && self.meta == other.meta && is_same
    }

    /// Makes an entry of before know these tags, or again that they could not be read.
    pub(super) fn put_tags(attrs: &mut Attrs, tags: Result<BTreeMap<String, String>, String>) {
        attrs.remove(TAGS_UNREAD);
        match tags {
            Ok(tags) if tags.is_empty() => drop(attrs.remove("tags")),
            Ok(tags) => drop(attrs.insert("tags".to_owned(), object(&tags).into())),
            Err(why) => drop(attrs.insert(TAGS_UNREAD.to_owned(), why.into())),
        }
    }

    /// Returns whether a plain `ETag` may be taken for the MD5 of the bytes.
    pub(super) fn etag_is_of_plain_bytes(&self) -> bool {
        !matches!(self.encryption.as_deref(), Some("customer" | "aws:kms" | "aws:kms:dsse"))
    }

    /// Returns the request headers that set these facts, or why they cannot be sent.
    pub(super) fn request_headers(&self) -> Result<Vec<(String, String)>, String> {
        let meta = self.meta.iter().map(|(name, value)| (format!("{USER}{name}"), value.clone()));
        let mut headers: Vec<_> = self.headers.clone().into_iter().chain(meta).collect();
        if !self.tags.is_empty() {
            headers.push(("x-amz-tagging".to_owned(), query(&self.tags)));
        }
        let mut probe = HttpRequest::new(SdkBody::empty());
        for (name, value) in &headers {
            let tried = probe.headers_mut().try_insert(name.clone(), value.clone());
            tried.map_err(|_| format!("its `{name}` cannot be sent as a header"))?;
        }
        Ok(headers)
    }
}

/// Puts headers into a request before it is signed; they are known to be valid.
pub(super) fn dress(headers: Vec<(String, String)>) -> impl Fn(&mut HttpRequest) + Send + Sync + 'static {
    move |request| {
        for (name, value) in &headers {
            request.headers_mut().insert(name.clone(), value.clone());
        }
    }
}

/// Makes the entry of an object.
pub(super) fn object_meta(bucket: &str, listed: &Listed, facts: &Facts) -> Result<EntryMeta> {
    let mut meta = EntryMeta::new(object_path(bucket, &listed.key)?, Stage::Data, bucket)
        .with("bucket", bucket)
        .with("etag", listed.etag.as_str())
        .with("size", listed.size_bytes)
        .with("last_modified", stamp(listed));
    versions::place(&mut meta, bucket, listed)?;
    let maps = [
        ("headers", &facts.headers),
        ("meta", &facts.meta),
        (RAW, &facts.raw),
        ("tags", &facts.tags),
        ("lock", &facts.lock),
    ];
    for (name, map) in maps.into_iter().filter(|(_, map)| !map.is_empty()) {
        meta = meta.with(name, object(map));
    }
    for (name, text) in [("encryption", &facts.encryption), (TAGS_UNREAD, &facts.tags_unread)] {
        if let Some(text) = text {
            meta = meta.with(name, text.as_str());
        }
    }
    put_class(&mut meta.attrs, listed);
    Ok(meta)
}

/// Notes the storage class that the listing shows: rules of a bucket change it, and neither date nor `ETag` with it.
pub(super) fn put_class(attrs: &mut Attrs, listed: &Listed) {
    match &listed.storage_class {
        Some(class) => drop(attrs.insert("storage_class".to_owned(), class.as_str().into())),
        None => drop(attrs.remove("storage_class")),
    }
}

/// Returns where an object lies inside its source.
pub(super) fn object_path(bucket: &str, key: &str) -> Result<EntryPath> {
    let parts: Vec<&str> = std::iter::once(bucket).chain(key.split('/')).collect();
    EntryPath::of_parts(&parts).map_err(|error| {
        Failure::new(ExitCode::Failed, format!("object `{key}` of bucket `{bucket}` has no path"))
            .because(error)
    })
}

/// Returns where a bucket's own settings lie: no object can, because a `%` of a key is always escaped.
pub(super) fn bucket_path(bucket: &str) -> Result<EntryPath> {
    EntryPath::new(&format!("%bucket/{bucket}.json")).map_err(|error| {
        Failure::new(ExitCode::Failed, format!("bucket `{bucket}` has no path")).because(error)
    })
}

/// Returns the listing's date as attributes hold it, to the millisecond.
pub(super) fn stamp(listed: &Listed) -> String {
    listed.last_modified.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// Writes tags the way the `x-amz-tagging` header wants them.
fn query(tags: &BTreeMap<String, String>) -> String {
    let escape = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let pairs: Vec<String> = tags.iter().map(|(k, v)| format!("{}={}", escape(k), escape(v))).collect();
    pairs.join("&")
}

fn present(pairs: &[(&str, Option<&str>)]) -> BTreeMap<String, String> {
    let some = pairs.iter().filter_map(|(name, value)| Some(((*name).to_owned(), (*value)?.to_owned())));
    some.collect()
}

/// Returns tags by name, as a server tells them.
pub(super) fn tags_of(tags: &[Tag]) -> BTreeMap<String, String> {
    tags.iter().map(|tag| (tag.key().to_owned(), tag.value().to_owned())).collect()
}

/// Returns what [`texts`] reads.
fn object(texts: &BTreeMap<String, String>) -> Map<String, Value> {
    texts.iter().map(|(name, text)| (name.clone(), text.clone().into())).collect()
}

fn texts(value: Option<&Value>) -> BTreeMap<String, String> {
    let pairs = value.and_then(Value::as_object).into_iter().flatten();
    pairs.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned()))).collect()
}

fn time(at: &SdkTime) -> String {
    at.fmt(DateTimeFormat::DateTime).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use proptest::prelude::*;

    use super::*;

    fn listed(key: &str) -> Listed {
        Listed {
            key: key.to_owned(),
            etag: "e".to_owned(),
            size_bytes: 3,
            last_modified: DateTime::from_timestamp_millis(1_700_000_000_123).unwrap(),
            storage_class: None,
            version: None,
            tags: None,
        }
    }

    #[test]
    fn facts_survive_their_attributes() {
        let mut facts = Facts::default();
        facts.headers.insert("content-type".into(), "image/png".into());
        facts.meta.insert("file-hash".into(), "密".into());
        facts.tags.insert("a b".into(), "c&d=e".into());
        facts.tags_unread = Some("the server answered 403".to_owned());
        let meta = object_meta("im-files", &listed("2025/图 1.png"), &facts).unwrap();
        assert_eq!(Facts::of_attrs(&meta.attrs), facts);
        assert_eq!(meta.path.as_str(), "im-files/2025/图 1.png");
        assert_eq!(meta.select, "im-files/2025/图 1.png");
        assert_eq!(meta.text("last_modified"), Some("2023-11-14T22:13:20.123Z"));
        let headers = facts.request_headers().unwrap();
        assert!(headers.contains(&("x-amz-tagging".into(), "a%20b=c%26d%3De".into())));
    }

    #[test]
    fn tags_that_could_not_be_read_make_no_difference() {
        let mut there = Facts::default();
        there.tags.insert("a".into(), "b".into());
        let (none, mut unread) = (Facts::default(), Facts::default());
        unread.tags_unread = Some("the server answered 403".to_owned());
        assert!(there.same_as(&unread) && !there.same_as(&none));
        there.meta.insert("a".into(), "b".into());
        assert!(!there.same_as(&unread), "all else does");
    }

    #[test]
    fn what_is_no_text_is_put_apart_and_kept() {
        let mut facts = Facts::default();
        facts.headers.insert("content-disposition".into(), "=?lifeboat-hex?e9?=".into());
        facts.meta.insert("name".into(), "=?lifeboat-hex?636166e9?=".into());
        facts.meta.insert("plain".into(), "=?lifeboat-hex?61?=".into());
        let facts = facts.sorted();
        let raw = [("content-disposition", "e9"), ("x-amz-meta-name", "636166e9")];
        assert_eq!(facts.raw, raw.map(|(name, hex)| (name.to_owned(), hex.to_owned())).into());
        assert_eq!((facts.headers.len(), facts.meta.len()), (0, 1));
        let meta = object_meta("b", &listed("k"), &facts).unwrap();
        assert_eq!(Facts::of_attrs(&meta.attrs), facts);
    }

    #[test]
    fn a_line_end_in_metadata_is_refused_before_it_is_sent() {
        let mut facts = Facts::default();
        facts.meta.insert("note".into(), "a\r\nx-evil: 1".into());
        assert!(facts.request_headers().unwrap_err().contains("x-amz-meta-note"));
    }

    #[test]
    fn the_settings_of_a_bucket_lie_where_no_object_can() {
        let settings = bucket_path("im-files").unwrap();
        for (bucket, key) in [("%bucket", "im-files.json"), ("bucket", "im-files.json"), ("%", "x")] {
            assert_ne!(object_path(bucket, key).unwrap(), settings);
        }
    }

    proptest! {
        #[test]
        fn two_keys_never_share_a_path(a in "[a/.%\n ]{1,6}", b in "[a/.%\n ]{1,6}") {
            let (one, two) = (object_path("b", &a).unwrap(), object_path("b", &b).unwrap());
            prop_assert_eq!(a == b, one == two);
        }
    }
}
