//! What is wrong with servers, and with what they hold, that no good server shows: odd headers, refusals, parts.

use std::{collections::BTreeSet, fs, path::Path};

use lifeboat::{
    clock::Ground,
    error::ExitCode,
    event::NoMonitor,
    files::EntryFolder,
    flow::{WriteOptions, pipe},
    policy::S3Config,
    s3::{S3Source, S3Target},
};
use md5::{Digest, Md5};
use serde_json::Value;

use super::{
    failure,
    fake_bucket::{Content, FakeBucket, HELD, Object, Script},
    minio::{Seen, config_of, name, read},
};

const BUCKET: &str = "files";
/// More often than anything is tried.
const ALWAYS: usize = usize::MAX;

async fn server(scripts: Vec<Script>) -> FakeBucket {
    FakeBucket::start(BUCKET, false, scripts).await
}

fn config(server: &FakeBucket) -> S3Config {
    config_of(server.url(), BUCKET)
}

fn source(server: &FakeBucket) -> Box<S3Source> {
    Box::new(S3Source::new(name(), config(server), Ground::system(), NoMonitor::shared()))
}

fn target(server: &FakeBucket) -> Box<S3Target> {
    Box::new(S3Target::new(name(), config(server), NoMonitor::shared()))
}

fn replacing() -> WriteOptions {
    WriteOptions { replace: true, ..WriteOptions::default() }
}

fn attrs<'a>(seen: &'a Seen, key: &str) -> &'a lifeboat::flow::Attrs {
    &seen.entries.iter().find(|(meta, _)| meta.text("key") == Some(key)).unwrap().0.attrs
}

#[tokio::test]
async fn a_server_that_knows_no_ranges_sends_a_big_object_as_one_stream() {
    let server = server(vec![]).await;
    let size_bytes = 70 << 20;
    let zeros = vec![0; 1 << 20];
    let md5 = (0..70).fold(Md5::new(), |md5, _| md5.chain_update(&zeros)).finalize();
    let content = Content::Long(size_bytes);
    server.put("big", Object { etag: hex::encode(md5), headers: vec![], content, parts: vec![] });
    let seen = read(config(&server), None).await.unwrap();
    assert!(seen.problems.is_empty(), "{:?}", seen.problems);
    let big = seen.entries.iter().find(|(meta, _)| meta.text("key") == Some("big")).unwrap();
    assert_eq!(big.1.as_ref().unwrap().len() as u64, size_bytes);
    assert_eq!(server.count("GET", "/big?x-id"), 1);
}

#[tokio::test]
async fn metadata_that_comes_twice_or_is_very_long_is_kept_and_told_where_it_does_not_go_back() {
    let from = server(vec![]).await;
    let twice =
        [("x-amz-meta-a", "one"), ("x-amz-meta-a", "two"), ("x-amz-meta-b", "x"), ("x-amz-meta-b", "x")];
    let said_again = [("cache-control", "no-cache"), ("cache-control", "no-cache")];
    let headers = twice.into_iter().chain(said_again);
    from.put("twice", headers.fold(Object::of(b"a"), |object, (name, value)| object.with(name, value)));
    from.put("long", Object::of(b"b").with("x-amz-meta-a", &"l".repeat(3000)));
    from.put("text", Object::of(b"c").with("x-amz-meta-name", "图片"));

    let seen = read(config(&from), None).await.unwrap();
    assert_eq!(seen.problems, []);
    assert_eq!(attrs(&seen, "twice")["meta"], serde_json::json!({"a": "one, two", "b": "x, x"}));
    assert_eq!(attrs(&seen, "twice")["headers"]["cache-control"], "no-cache");
    assert_eq!(attrs(&seen, "long")["meta"]["a"].as_str().unwrap().len(), 3000);
    assert_eq!(attrs(&seen, "text")["meta"]["name"], "图片");

    let to = server(vec![]).await;
    let refused = failure(pipe(source(&from), target(&to), WriteOptions::default()).await);
    assert_eq!(refused.exit(), ExitCode::Partial);
    let why = &refused.chain()[1];
    assert!(why.contains("`files/long`") && why.contains("MetadataTooLarge"), "{why}");
    let objects = to.objects();
    assert_eq!(objects.keys().collect::<Vec<_>>(), ["text", "twice"]);
    assert!(objects["twice"].headers.contains(&("x-amz-meta-a".to_owned(), "one, two".to_owned())));
    assert!(objects["text"].headers.contains(&("x-amz-meta-name".to_owned(), "图片".to_owned())));
}

#[tokio::test]
async fn what_a_server_does_not_know_is_marked_and_what_is_not_set_is_not() {
    let unset = server(vec![]).await;
    let seen = read(config(&unset), None).await.unwrap();
    assert_eq!(seen.point.marks.get("unknown_settings"), None);

    let unknown = (501, "", "<Error><Code>NotImplemented</Code></Error>");
    let forbidden = (405, "", "<Error><Code>MethodNotAllowed</Code></Error>");
    let scripts = [("GET /files/?cors", unknown), ("GET /files/?encryption", forbidden)];
    let server = server(scripts.map(|(line, answer)| Script { line, answer, times: ALWAYS }).into()).await;
    server.put("a", Object::of(b"a"));
    let seen = read(config(&server), None).await.unwrap();
    assert_eq!(seen.problems, []);
    assert_eq!(seen.point.marks["unknown_settings"], "cors, encryption");
}

#[tokio::test]
async fn all_that_is_set_of_a_bucket_is_set_again_as_it_was() {
    let settings = [
        ("policy", "{\"Version\":\"2012-10-17\",\"Statement\":[{\"Sid\":\"读\",\"Effect\":\"Allow\"}]}"),
        (
            "cors",
            "<CORSConfiguration><CORSRule><AllowedMethod>GET</AllowedMethod></CORSRule></CORSConfiguration>",
        ),
        ("lifecycle", "<LifecycleConfiguration><Rule><ID>old</ID></Rule></LifecycleConfiguration>"),
        (
            "notification",
            "<NotificationConfiguration><QueueConfiguration><Id>n</Id><Queue>arn:minio:sqs::1:webhook</Queue>\
             <Event>s3:ObjectCreated:*</Event></QueueConfiguration></NotificationConfiguration>",
        ),
        (
            "encryption",
            "<ServerSideEncryptionConfiguration><Rule><ApplyServerSideEncryptionByDefault><SSEAlgorithm>AES256\
             </SSEAlgorithm></ApplyServerSideEncryptionByDefault></Rule></ServerSideEncryptionConfiguration>",
        ),
        ("tagging", "<Tagging><TagSet><Tag><Key>team</Key><Value>图</Value></Tag></TagSet></Tagging>"),
    ];
    let (from, to) = (server(vec![]).await, server(vec![]).await);
    for (name, text) in settings {
        from.set(name, text);
    }
    from.put("a", Object::of(b"a"));
    pipe(source(&from), target(&to), replacing()).await.unwrap();
    for (name, text) in settings {
        assert_eq!(to.setting(name).as_deref(), Some(text), "{name}");
    }
    let own = |name: &str| settings.iter().any(|(known, _)| *known == name);
    assert!(to.set_names().iter().all(|name| own(name)), "{:?}", to.set_names());
}

#[tokio::test]
async fn a_bucket_that_is_elsewhere_and_a_clock_that_is_wrong_end_the_run_with_what_to_do() {
    let moved = (301, "x-amz-bucket-region: eu-west-1\r\n", "<Error><Code>PermanentRedirect</Code></Error>");
    let region = "<Error><Code>AuthorizationHeaderMalformed</Code><Region>eu-west-1</Region></Error>";
    let skewed = "<Error><Code>RequestTimeTooSkewed</Code></Error>";
    for (line, answer, hint) in [
        ("list-type=2", moved, "region = \"eu-west-1\""),
        ("GET /files/a", moved, "region = \"eu-west-1\""),
        ("GET /files/a", (307, "", ""), "check `endpoint` and `region`"),
        ("list-type=2", (400, "", region), "region = \"eu-west-1\""),
        ("GET /files/a", (403, "", skewed), "clocks"),
    ] {
        let server = server(vec![Script { line, answer, times: ALWAYS }]).await;
        for key in ["a", "b", "c"] {
            server.put(key, Object::of(b"a"));
        }
        let failure = failure(read(config(&server), None).await.map(|seen| seen.problems));
        assert_eq!(failure.exit(), ExitCode::SourceDown, "{line} {answer:?}");
        assert!(failure.hints()[0].contains(hint), "{line} {answer:?}: {:?}", failure.hints());
    }
}

#[tokio::test]
async fn an_answer_that_is_not_as_long_as_listed_is_no_object() {
    let server = server(vec![]).await;
    server.put("a", Object::of(b"abc").with("content-length", "9"));
    server.put("b", Object::of(b"abc"));
    let seen = read(config(&server), None).await.unwrap();
    assert_eq!(seen.problems.len(), 1, "{:?}", seen.problems);
    assert_eq!(seen.problems[0].what, "files/a");
    assert!(seen.problems[0].why.contains("says 3 bytes, the server sends 9"), "{:?}", seen.problems);
    assert!(!seen.entries.iter().any(|(meta, _)| meta.text("key") == Some("a")));
}

#[tokio::test]
async fn a_bucket_whose_name_has_dots_is_asked_for_by_its_path() {
    const DOTS: &str = "im.files.2026";
    let server = FakeBucket::start(DOTS, false, vec![]).await;
    server.put("a", Object::of(b"a"));
    let endpoint = server.url().replace("127.0.0.1", "localhost");
    let seen = read(config_of(endpoint, DOTS), None).await.unwrap();
    assert_eq!(attrs(&seen, "a")["bucket"], DOTS);
    let requests = server.requests();
    for (line, headers) in &requests {
        assert!(line.contains(" /im.files.2026") && headers["host"].starts_with("localhost:"), "{line}");
    }
}

#[tokio::test]
async fn an_old_and_strict_server_gets_the_md5_of_each_body_and_nothing_newer() {
    let settings = [
        ("?policy", "{\"Statement\":[]}"),
        (
            "?cors",
            "<CORSConfiguration><CORSRule><AllowedMethod>GET</AllowedMethod></CORSRule></CORSConfiguration>",
        ),
    ];
    let scripts = settings.map(|(line, text)| Script { line, answer: (200, "", text), times: ALWAYS });
    let from = server(scripts.into()).await;
    let big: Vec<u8> = (0..(17_u32 << 20)).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    from.put("in parts", Object::of_parts(&[&big[..16 << 20], &big[16 << 20..]]));
    from.put("empty", Object::of(b""));
    from.put("small", Object::of(b"small"));
    let to = server(vec![]).await;
    to.put("small", Object::of(b"other"));
    to.put("extra", Object::of(b"extra"));
    pipe(source(&from), target(&to), replacing()).await.unwrap();
    let (one, two) = (from.objects(), to.objects());
    assert_eq!(one.keys().collect::<Vec<_>>(), two.keys().collect::<Vec<_>>());
    for (key, object) in &one {
        let copy = &two[key];
        assert_eq!((&object.etag, object.size_bytes()), (&copy.etag, copy.size_bytes()), "{key}");
    }
    let written = ["uploadId", "?policy", "?cors"].map(|text| to.count("PUT", text));
    assert_eq!((written, to.count("POST", "?delete")), ([2, 1, 1], 1));
}

#[tokio::test]
async fn an_object_that_may_not_be_removed_stays_and_is_told() {
    let from = server(vec![]).await;
    from.put("a", Object::of(b"a"));
    let to = server(vec![]).await;
    for (key, object) in
        [("a", Object::of(b"old")), ("extra", Object::of(b"x")), ("held", Object::of(b"x").with(HELD, "ON"))]
    {
        to.put(key, object);
    }
    let failure = failure(pipe(source(&from), target(&to), replacing()).await);
    assert_eq!(failure.exit(), ExitCode::Partial, "{failure:?}");
    assert!(failure.chain()[1].contains("held"), "{:?}", failure.chain());
    let objects = to.objects();
    assert_eq!(objects.keys().collect::<Vec<_>>(), ["a", "held"]);
    assert_eq!(objects["a"].etag, Object::of(b"a").etag);
}

#[tokio::test]
async fn parts_of_uneven_sizes_prove_the_bytes_where_the_server_tells_them() {
    // As many as parts of the first one's size would be.
    let uneven = Object::of_parts(&[b"abcdef", b"gh", b"ijklmnop"]);
    let damaged = Object { content: Content::Bytes(b"abcdefghijklmnoX".to_vec()), ..uneven.clone() };
    let even = Object::of_parts(&[b"abcd", b"efgh", b"ij"]);
    for (tells, unproven, asked) in [(true, "1", 8), (false, "2", 1)] {
        let server = FakeBucket::start(BUCKET, tells, vec![]).await;
        for (key, object) in [("uneven", &uneven), ("damaged", &damaged), ("even", &even)] {
            server.put(key, object.clone());
        }
        server.put("whole", Object::of(b"in one request"));
        let seen = read(S3Config { concurrency: 1, ..config(&server) }, None).await.unwrap();
        assert_eq!((seen.problems.len(), seen.point.marks["unproven"].as_str()), (0, unproven), "{tells}");
        assert_eq!(server.count("HEAD", "partNumber"), asked, "{tells} {:#?}", server.requests());
    }
}

/// Returns all files below a folder.
fn files(folder: &Path) -> BTreeSet<String> {
    let mut files = BTreeSet::new();
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if entry.file_type().unwrap().is_dir() {
            files.extend(self::files(&entry.path()).into_iter().map(|below| format!("{name}/{below}")));
        } else {
            files.insert(name);
        }
    }
    files
}

#[tokio::test]
async fn keys_that_are_no_names_of_files_stay_in_the_folder_and_apart() {
    let server = server(vec![]).await;
    let keys = [
        "../climb",
        "x/../../../climb",
        "/etc/passwd",
        "//",
        "a",
        "a/b",
        "a//b",
        "dir/",
        ".",
        "..",
        "a/./b",
        "nul\0",
        "line\nend",
        "caf\u{e9}",
        "cafe\u{301}",
        "Case",
        "case",
        "CON",
        "a:b",
        "dot.",
        "space ",
        "back\\slash",
    ];
    for key in keys {
        server.put(key, Object::of(key.as_bytes()));
    }
    let outside = tempfile::tempdir().unwrap();
    let folder = outside.path().join("in/side");
    fs::create_dir_all(&folder).unwrap();
    pipe(source(&server), Box::new(EntryFolder::new(name(), &folder)), WriteOptions::default())
        .await
        .unwrap();
    let all = files(outside.path());
    assert!(all.iter().all(|file| file.starts_with("in/side/")), "{all:#?}");
    let mut found = BTreeSet::new();
    for line in fs::read_to_string(folder.join("ENTRIES.jsonl")).unwrap().lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let Some(key) = line["entry"]["attrs"]["key"].as_str() else { continue };
        let file = line["file"].as_str().unwrap();
        assert_eq!(fs::read(folder.join(file)).unwrap(), key.as_bytes(), "{file}");
        found.insert(key.to_owned());
    }
    assert_eq!(found, keys.map(str::to_owned).into());
}
