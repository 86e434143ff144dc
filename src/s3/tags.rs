//! Tags that change alone: which objects are to be asked, and what `MinIO` tells of all in the listing itself.
//!
//! A change of tags moves neither `ETag` nor date. `MinIO` tells tags in a listing that is asked with
//! `metadata=true` (`generateListObjectsV2Response` in its `cmd/api-response.go`): of each object that the caller may
//! read a `UserMetadata`, and a `UserTags` of one that has tags and whose tags may be read. Where no server tells, the
//! policy says which objects are asked one by one.

use std::collections::BTreeMap;

use aws_sdk_s3::config::http::HttpRequest;
use percent_encoding::percent_decode_str;
use quick_xml::{
    Reader, escape,
    events::{BytesStart, Event},
};

use super::{
    facts::{Facts, TAGS_UNREAD},
    listing::Listed,
};
use crate::{flow::Attrs, policy::S3Tags};

/// An object's tags by name.
pub(super) type Tags = BTreeMap<String, String>;

/// What is to be done about the tags of an object that is otherwise as it was.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Nothing: they are as they were, as far as can be known for nothing.
    Nothing,
    /// These are its tags now.
    Told(Tags),
    /// It must be asked.
    Ask,
}

/// Tells what is due for an object that the snapshot before has with these attributes.
pub(super) fn due(rule: S3Tags, before: &Attrs, listed: &Listed) -> Due {
    let had = Facts::of_attrs(before).tags;
    let is_unread = before.contains_key(TAGS_UNREAD);
    match &listed.tags {
        Some(told) if !told.is_empty() && (is_unread || *told != had) => Due::Told(told.clone()),
        Some(told) if !told.is_empty() => Due::Nothing,
        _ if is_unread => Due::Ask,
        // Whom the server does not let read tags it tells none as well, so an end of tags is asked for.
        Some(_) | None if !had.is_empty() => Due::Ask,
        None if rule == S3Tags::Always => Due::Ask,
        Some(_) | None => Due::Nothing,
    }
}

/// Makes a request for a listing one for the listing that tells tags.
pub(super) fn ask(request: &mut HttpRequest) {
    let uri = format!("{}&metadata=true", request.uri());
    // One that is no address after all goes as it was: the page tells no tags then.
    request.set_uri(uri).ok();
}

/// Returns the tags that a page of a listing tells, of each of its objects in order: none of one of which it tells
/// nothing. `None` where it cannot be read.
pub(super) fn of_page(page: &str) -> Option<Vec<Option<Tags>>> {
    let mut reader = Reader::from_str(page);
    let (mut all, mut object) = (Vec::new(), None::<Option<Tags>>);
    loop {
        match reader.read_event().ok()? {
            Event::Start(tag) if is(&tag, "Contents") => object = Some(None),
            Event::Start(tag) => {
                let Some(told) = &mut object else { continue };
                if is(&tag, "UserTags") {
                    let text = reader.read_text(tag.name()).ok()?;
                    *told = Some(form(&escape::unescape(&text).ok()?)?);
                    continue;
                }
                if is(&tag, "UserMetadata") {
                    told.get_or_insert_default();
                }
                reader.read_to_end(tag.name()).ok()?;
            }
            Event::Empty(tag) if is(&tag, "UserMetadata") => {
                object.as_mut().map(Option::get_or_insert_default);
            }
            Event::End(_) => all.extend(object.take()),
            Event::Eof => return Some(all),
            _ => {}
        }
    }
}

fn is(tag: &BytesStart<'_>, name: &str) -> bool {
    tag.local_name().as_ref() == name
}

/// Reads `a=b&c=d`, escaped like a form.
fn form(text: &str) -> Option<Tags> {
    let plain = |text: &str| {
        let spaced = text.replace('+', " ");
        percent_decode_str(&spaced).decode_utf8().ok().map(std::borrow::Cow::into_owned)
    };
    let pairs = text.split('&').filter(|pair| !pair.is_empty());
    let pairs = pairs.map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        Some((plain(name)?, plain(value)?))
    });
    pairs.collect()
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use proptest::prelude::*;

    use super::*;

    fn tags(pairs: &[(&str, &str)]) -> Tags {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn tags_are_read_out_of_a_page_object_by_object() {
        let page = "<?xml version=\"1.0\"?><ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
            <Name>b</Name><Contents><Key>a</Key><Owner><ID>x</ID></Owner><UserMetadata><content-type>a/b</content-type>\
            <X-Amz-Meta-UserTags>no</X-Amz-Meta-UserTags><UserTags>no=1</UserTags></UserMetadata>\
            <UserTags>colour=dark+red&amp;a%26b=%E5%9B%BE&amp;empty=</UserTags><Internal><K>1</K></Internal></Contents>\
            <Contents><Key>b</Key><UserMetadata/></Contents><Contents><Key>c</Key></Contents>\
            <CommonPrefixes><Prefix>p</Prefix></CommonPrefixes></ListBucketResult>";
        let told = tags(&[("colour", "dark red"), ("a&b", "图"), ("empty", "")]);
        assert_eq!(of_page(page), Some(vec![Some(told), Some(Tags::new()), None]));
        assert_eq!(of_page("<a><Contents></a>"), None);
        assert_eq!(of_page("<a><Contents><UserTags>a=%FF</UserTags></Contents></a>"), None);
    }

    #[test]
    fn only_what_may_have_changed_is_asked() {
        let listed = |tags: Option<Tags>| Listed {
            key: "k".to_owned(),
            etag: "e".to_owned(),
            size_bytes: 1,
            last_modified: DateTime::UNIX_EPOCH,
            storage_class: None,
            version: None,
            tags,
        };
        let before = |tags: &Tags| {
            let mut attrs = Attrs::new();
            Facts::put_tags(&mut attrs, Ok(tags.clone()));
            attrs
        };
        let (none, red, blue) = (Tags::new(), tags(&[("colour", "red")]), tags(&[("colour", "blue")]));
        for (rule, had, told, expected) in [
            (S3Tags::Known, &none, None, Due::Nothing),
            (S3Tags::Known, &red, None, Due::Ask),
            (S3Tags::Always, &none, None, Due::Ask),
            (S3Tags::Always, &none, Some(&none), Due::Nothing),
            (S3Tags::Known, &none, Some(&red), Due::Told(red.clone())),
            (S3Tags::Known, &red, Some(&red), Due::Nothing),
            (S3Tags::Known, &red, Some(&blue), Due::Told(blue.clone())),
            (S3Tags::Known, &red, Some(&none), Due::Ask),
        ] {
            assert_eq!(
                due(rule, &before(had), &listed(told.cloned())),
                expected,
                "{rule:?} {had:?} {told:?}"
            );
        }
        let mut unread = Attrs::new();
        Facts::put_tags(&mut unread, Err("denied".to_owned()));
        assert_eq!(due(S3Tags::Known, &unread, &listed(Some(none))), Due::Ask);
        assert_eq!(due(S3Tags::Known, &unread, &listed(Some(red.clone()))), Due::Told(red));
    }

    proptest! {
        #[test]
        fn no_page_makes_it_panic(page in "[<>/a-zA-Z&;%=\" ]{0,80}") {
            of_page(&page);
        }
    }
}
