//! What a server does to a reader while it reads.

use std::fmt::Write;

use lifeboat::policy::{S3Config, Versions};

use super::{
    fake_bucket::{Content, Event, FakeBucket, Object, Script},
    minio::{Seen, config_of, read},
};

const BUCKET: &str = "files";
/// More often than anything is tried.
const ALWAYS: usize = usize::MAX;
/// What a server says of an archived object.
const ARCHIVED: (u16, &str, &str) = (403, "", "<Error><Code>InvalidObjectState</Code></Error>");

async fn server(scripts: Vec<Script>) -> FakeBucket {
    FakeBucket::start(BUCKET, false, scripts).await
}

fn config(server: &FakeBucket) -> S3Config {
    config_of(server.url(), BUCKET)
}

/// Returns the bytes of an object.
fn bytes<'a>(seen: &'a Seen, key: &str) -> Option<&'a [u8]> {
    seen.entries.iter().find(|(meta, _)| meta.text("key") == Some(key))?.1.as_deref()
}

#[tokio::test]
async fn a_stream_that_broke_is_not_taken_up_again_where_nothing_tells_that_it_is_of_the_same_object() {
    for (etag, is_same) in [("", false), ("W/\"1\"", false), ("1-1", true)] {
        let server = server(vec![]).await;
        server.know_ranges();
        let old = Object { etag: etag.to_owned(), ..Object::of(&vec![1; 2 << 20]) };
        let new =
            Object { content: Content::Bytes(vec![if is_same { 1 } else { 2 }; 2 << 20]), ..old.clone() };
        server.put("big", old);
        server.expect(Event {
            line: "GET /files/big?x-id",
            breaks_off: Some(3 << 19),
            key: "big",
            then: new,
        });
        let seen = read(config(&server), None).await.unwrap();
        if is_same {
            assert!(bytes(&seen, "big").unwrap() == vec![1; 2 << 20]);
            assert_eq!(seen.problems, []);
            continue;
        }
        assert_eq!(seen.problems.len(), 1, "{etag:?}: bytes of two objects were taken for one");
        assert!(seen.problems[0].why.contains("has no ETag"), "{etag:?}: {:?}", seen.problems);
        assert_eq!(server.count("GET", "/big?x-id"), 1);
    }
}

/// Returns what is told, without the 20 that are named.
fn told_behind_the_named(seen: &Seen) -> Vec<(&str, &str)> {
    let told = seen.problems.iter().skip(20);
    told.map(|problem| (problem.what.as_str(), problem.why.as_str())).collect()
}

#[tokio::test]
async fn any_number_of_archived_objects_keeps_no_other_from_the_snapshot() {
    let server = server(vec![Script { line: "/files/cold", answer: ARCHIVED, times: ALWAYS }]).await;
    for n in 0..1100 {
        server.put(&format!("cold/{n:04}"), Object::of(b"cold"));
    }
    server.put("warm", Object::of(b"warm"));
    let seen = read(config(&server), None).await.unwrap();
    assert_eq!(bytes(&seen, "warm"), Some(&b"warm"[..]));
    assert_eq!(seen.problems[19].what, "files/cold/0019");
    let [(what, why)] = told_behind_the_named(&seen)[..] else { panic!("{:?}", seen.problems) };
    assert_eq!(what, "bucket files");
    assert!(
        why.starts_with("1080 more objects cannot be read either; of `files/cold/0019`: it is archived"),
        "{why}"
    );
}

#[tokio::test]
async fn an_archived_object_is_named_wherever_the_snapshot_has_older_versions_of_its_key() {
    let mut page =
        "<ListVersionsResult><EncodingType>url</EncodingType><IsTruncated>false</IsTruncated>".to_owned();
    let etag = Object::of(b"x").etag;
    for n in 0..25 {
        for (id, is_latest) in [("new", true), ("old", false)] {
            write!(
                page,
                "<Version><Key>k{n:02}</Key><VersionId>{id}</VersionId><IsLatest>{is_latest}</IsLatest>\
                 <LastModified>2026-01-02T03:04:05.678Z</LastModified><ETag>\"{etag}\"</ETag><Size>1</Size></Version>"
            )
            .unwrap();
        }
    }
    let page = (page + "</ListVersionsResult>").leak();
    let enabled = "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>";
    let scripts = [
        ("GET /files/?versioning", (200, "", enabled)),
        ("GET /files/?versions", (200, "", page)),
        ("versionId=new", ARCHIVED),
    ];
    let server = server(scripts.map(|(line, answer)| Script { line, answer, times: ALWAYS }).into()).await;
    for n in 0..25 {
        server.put(&format!("k{n:02}"), Object::of(b"x"));
    }
    let seen = read(S3Config { versions: Versions::All, ..config(&server) }, None).await.unwrap();
    assert_eq!(seen.entries.iter().filter(|(meta, _)| meta.text("version_of").is_some()).count(), 25);
    let named = (0..25).map(|n| format!("files/k{n:02}"));
    assert_eq!(
        seen.problems.iter().map(|problem| problem.what.clone()).collect::<Vec<_>>(),
        named.collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn any_number_of_keys_that_are_not_utf_8_keeps_no_other_from_the_snapshot() {
    let mut page =
        "<ListBucketResult><EncodingType>url</EncodingType><IsTruncated>false</IsTruncated>".to_owned();
    let etag = Object::of(b"a").etag;
    for key in (0..1100).map(|n| format!("%FF{n:04}")).chain(["a".to_owned()]) {
        write!(
            page,
            "<Contents><Key>{key}</Key><LastModified>2026-01-02T03:04:05.678Z</LastModified>\
             <ETag>\"{etag}\"</ETag><Size>1</Size></Contents>"
        )
        .unwrap();
    }
    let page = (page + "</ListBucketResult>").leak();
    let server = server(vec![Script { line: "list-type=2", answer: (200, "", page), times: ALWAYS }]).await;
    server.put("a", Object::of(b"a"));
    let seen = read(config(&server), None).await.unwrap();
    assert_eq!(bytes(&seen, "a"), Some(&b"a"[..]));
    assert_eq!(seen.problems[0].what, "files/%FF0000");
    let why = "1080 more objects cannot be read either; of `files/%FF0019`: its key is not UTF-8";
    assert_eq!(told_behind_the_named(&seen), [("bucket files", why)]);
}

#[tokio::test]
async fn an_object_never_gets_the_tags_of_the_one_that_took_its_place() {
    let tags = "<Tagging><TagSet><Tag><Key>colour</Key><Value>new</Value></Tag></TagSet></Tagging>";
    let server =
        server(vec![Script { line: "GET /files/a?tagging", answer: (200, "", tags), times: ALWAYS }]).await;
    let tagged = |bytes: &[u8]| Object::of(bytes).with("x-amz-tagging-count", "1");
    server.put("a", tagged(b"old"));
    server.expect(Event { line: "GET /files/a?x-id", breaks_off: None, key: "a", then: tagged(b"new") });
    let seen = read(config(&server), None).await.unwrap();
    assert_eq!(seen.problems, []);
    let (meta, _) = seen.entries.iter().find(|(meta, _)| meta.text("key") == Some("a")).unwrap();
    assert_eq!(meta.attrs["tags"], serde_json::json!({"colour": "new"}));
    assert_eq!(bytes(&seen, "a"), Some(&b"new"[..]));
    // One look for each of two reads; what has no tags is not looked at.
    server.put("b", Object::of(b"plain"));
    read(config(&server), None).await.unwrap();
    assert_eq!((server.count("HEAD", "/files/a"), server.count("HEAD", "/files/b")), (3, 0));
}
