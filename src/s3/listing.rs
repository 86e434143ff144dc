//! All keys of a bucket, in order, with proof that the order held.
//!
//! *Order.* Keys come strictly ascending by their UTF-8 bytes, which S3 promises and the merge with the
//! previous snapshot needs. A server that breaks the promise, repeats a page or loops in its tokens is
//! refused: a listing that cannot be trusted must not look like deletions.
//!
//! *Limits.* One page of at most 1,000 objects is in memory.

use std::collections::{BTreeMap, VecDeque};

use aws_sdk_s3::{
    operation::list_objects_v2::{ListObjectsV2Error, ListObjectsV2Output},
    types::{EncodingType, ObjectStorageClass},
};
use chrono::{DateTime, Utc};
use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};

use super::{
    alike::Alike,
    capture::{self, Capture},
    client::{CallError, LIST_SECONDS, Server, Told, timeouts},
    ranges::Span,
    tags,
    versions::Version,
};
use crate::{
    error::{ExitCode, Failure, Result},
    flow::Problem,
};

/// An object as a listing shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Listed {
    /// Its key.
    pub(super) key: String,
    /// Its `ETag` without quotes.
    pub(super) etag: String,
    /// Its size.
    pub(super) size_bytes: u64,
    /// When it was written, to the millisecond where the server tells.
    pub(super) last_modified: DateTime<Utc>,
    /// The storage class, where it is not the default.
    pub(super) storage_class: Option<String>,
    /// Which version of its key it is, where versions are read.
    pub(super) version: Option<Version>,
    /// Its tags, where the listing tells; none are told also to whom may not read them.
    pub(super) tags: Option<BTreeMap<String, String>>,
}

/// Why a page is not had.
type Refusal = CallError<ListObjectsV2Error>;

/// Walks a bucket.
#[derive(Debug)]
pub(super) struct Lister {
    server: Server,
    bucket: String,
    prefix: Option<String>,
    span: Span,
    page_size: Option<i32>,
    page: VecDeque<Listed>,
    token: Option<String>,
    last_key: Option<String>,
    ended: bool,
    tells_tags: bool,
    unreadable: Alike,
}

impl Lister {
    /// Begins at the bucket's first key.
    pub(super) fn new(server: &Server, bucket: &str) -> Self {
        Self {
            server: server.clone(),
            bucket: bucket.to_owned(),
            prefix: None,
            span: Span::default(),
            page_size: None,
            page: VecDeque::new(),
            token: None,
            last_key: None,
            ended: false,
            tells_tags: false,
            unreadable: Alike::default(),
        }
    }

    /// Lists only the keys between two: no page before the first is asked for, and at most one behind the last.
    pub(super) fn within(mut self, span: Span) -> Self {
        self.span = span;
        self
    }

    /// Asks for the tags of each object as well, where the server is one that tells them.
    #[must_use]
    pub(super) fn with_tags(mut self) -> Self {
        self.tells_tags = self.server.is_minio();
        self
    }

    /// Returns the keys that are not UTF-8 and so were left out so far.
    pub(super) fn take_unreadable(&mut self) -> Alike {
        std::mem::take(&mut self.unreadable)
    }

    /// Looks up one key as a listing shows it; a HEAD would round its date to the second.
    pub(super) async fn look_up(server: &Server, bucket: &str, key: &str) -> Result<Option<Listed>> {
        let mut lister = Self::new(server, bucket);
        (lister.prefix, lister.page_size) = (Some(key.to_owned()), Some(1));
        // The key itself sorts before everything that it is a prefix of.
        Ok(lister.next().await?.filter(|listed| listed.key == key))
    }

    /// Returns the next object, `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Listed>> {
        let listed = loop {
            while self.page.is_empty() && !self.ended {
                self.turn().await?;
            }
            let Some(listed) = self.page.pop_front() else { return Ok(None) };
            // A server may take the key to begin behind for the one to begin with, or begin where it always does.
            if self.span.after.as_ref().is_none_or(|after| listed.key > *after) {
                break listed;
            }
        };
        if self.last_key.as_deref().is_some_and(|last| last >= listed.key.as_str()) {
            let last = self.last_key.take().unwrap_or_default();
            return Err(untrusted(&self.bucket, &format!("`{}` came after `{last}`", listed.key)));
        }
        if self.span.to.as_ref().is_some_and(|to| listed.key > *to) {
            self.ended = true;
            self.page.clear();
            return Ok(None);
        }
        self.last_key = Some(listed.key.clone());
        Ok(Some(listed))
    }

    /// Asks for the next page; with it comes what it tells of tags, `None` where the page cannot be relied on.
    async fn ask(&self) -> Result<(ListObjectsV2Output, Option<Vec<Option<tags::Tags>>>), Refusal> {
        let override_ = aws_sdk_s3::Config::builder().timeout_config(timeouts(LIST_SECONDS));
        let request = self.server.client.list_objects_v2().bucket(&self.bucket);
        let request = request
            .encoding_type(EncodingType::Url)
            .set_prefix(self.prefix.clone())
            .set_start_after(self.span.after.clone())
            .set_max_keys(self.page_size)
            .set_continuation_token(self.token.clone())
            .customize()
            .config_override(override_);
        let request = if self.tells_tags { request.mutate_request(tags::ask) } else { request };
        let capture = Capture::default();
        let page = request.interceptor(capture.clone()).send().await?;
        let (text, objects) = (capture.text(), page.contents().len());
        let is_whole = capture::below_root(&text, &["Contents"]).is_some_and(|found| found.len() == objects);
        // Names of metadata are written as names of elements, and some are none.
        let told = if self.tells_tags { tags::of_page(&text) } else { Some(vec![None; objects]) };
        let told = told.filter(|told| is_whole && told.len() == objects);
        Ok((page, told))
    }

    /// Fetches the next page.
    async fn turn(&mut self) -> Result<()> {
        let mut asked = self.ask().await;
        // What a server refuses or writes unreadably because of the tags it gives without them.
        let is_usable = match &asked {
            Ok((_, told)) => told.is_some(),
            Err(error) => Told::from(error).is_none(),
        };
        if self.tells_tags && !is_usable {
            self.tells_tags = false;
            asked = self.ask().await;
        }
        let (page, told) =
            asked.map_err(|error| self.server.failure(&format!("list bucket `{}`", self.bucket), error))?;
        let Some(told) = told else {
            return Err(untrusted(&self.bucket, "a page of it is no whole document"));
        };
        let mut told = told.into_iter();
        let encoded = page.encoding_type() == Some(&EncodingType::Url);
        for object in page.contents() {
            let raw = object.key().unwrap_or_default();
            let key = if encoded { decode(raw) } else { Some(raw.to_owned()) };
            let tags = told.next().flatten();
            match key {
                Some(key) => self.page.push_back(Listed { tags, ..listed(object, key) }),
                None => self.unreadable.add(unreadable(&self.bucket, raw)),
            }
        }
        if !page.is_truncated().unwrap_or(false) {
            self.ended = true;
            return Ok(());
        }
        let token = page.next_continuation_token().map(str::to_owned);
        if token.is_none() || token == self.token {
            return Err(untrusted(&self.bucket, "it says that there is more, but not where"));
        }
        self.token = token;
        Ok(())
    }
}

/// Makes the failure of a listing that breaks its promises.
pub(super) fn untrusted(bucket: &str, why: &str) -> Failure {
    Failure::new(ExitCode::Failed, format!("the listing of bucket `{bucket}` cannot be trusted"))
        .because(why.to_owned())
        .hint("Look for trouble in the server's log; nothing was taken for deleted.")
}

/// Makes the problem of a key that is not UTF-8, named as the server wrote it.
pub(super) fn unreadable(bucket: &str, raw: &str) -> Problem {
    Problem { what: format!("{bucket}/{raw}"), why: "its key is not UTF-8".to_owned() }
}

fn listed(object: &aws_sdk_s3::types::Object, key: String) -> Listed {
    let modified = object.last_modified().and_then(|at| at.to_millis().ok());
    let unusual = |class: &&str| *class != "STANDARD";
    Listed {
        key,
        etag: object.e_tag().map(bare).unwrap_or_default(),
        size_bytes: object.size().and_then(|size| u64::try_from(size).ok()).unwrap_or(0),
        last_modified: modified.and_then(DateTime::from_timestamp_millis).unwrap_or_default(),
        storage_class: object
            .storage_class()
            .map(ObjectStorageClass::as_str)
            .filter(unusual)
            .map(str::to_owned),
        version: None,
        tags: None,
    }
}

/// Returns an `ETag` without its quotes.
pub(super) fn bare(etag: &str) -> String {
    etag.trim_matches('"').to_owned()
}

/// Undoes `encoding-type=url`, in which a space may be `+`; `None` when the bytes are not UTF-8.
pub(super) fn decode(key: &str) -> Option<String> {
    let spaced = key.replace('+', " ");
    percent_decode_str(&spaced).decode_utf8().ok().map(std::borrow::Cow::into_owned)
}

/// Returns whether an `ETag` is the MD5 of the object's bytes, as far as its form tells.
pub(super) fn is_md5(etag: &str) -> bool {
    etag.len() == 32 && etag.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

#[cfg(test)]
mod tests {
    use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn keys_that_xml_cannot_hold_come_out_of_their_encoding() {
        for (sent, key) in [
            ("a+b", "a b"),
            ("a%20b", "a b"),
            ("a%2Bb", "a+b"),
            ("a%252Fb", "a%2Fb"),
            ("new%0Aline%0D%09%01%7F", "new\nline\r\t\u{1}\u{7f}"),
            ("../x//./", "../x//./"),
            ("%E5%9B%BE%E7%89%87%F0%9F%9A%A3", "图片🚣"),
            ("e%CC%81", "e\u{301}"),
            ("%3C%26%3E%22%5C%3A%3F%23", "<&>\"\\:?#"),
        ] {
            assert_eq!(decode(sent).as_deref(), Some(key), "{sent}");
        }
        assert_eq!(decode("%FF"), None);
    }

    #[test]
    fn only_a_plain_etag_is_an_md5() {
        assert!(is_md5("d41d8cd98f00b204e9800998ecf8427e"));
        for other in ["d41d8cd98f00b204e9800998ecf8427e-2", "", "D41D8CD98F00B204E9800998ECF8427E"] {
            assert!(!is_md5(other), "{other}");
        }
    }

    proptest! {
        #[test]
        fn every_key_survives_the_encoding(key in ".{1,60}") {
            let encoded = utf8_percent_encode(&key, NON_ALPHANUMERIC).to_string();
            prop_assert_eq!(decode(&encoded).unwrap(), key);
        }
    }
}
