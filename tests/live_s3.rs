//! The S3 engine against a real server.
//!
//! Run by `fixtures/test`; each test has buckets of its own and removes them. Faults are made by a proxy of a
//! few lines ([`proxy`]) that stands between the engine and the server.

#![allow(clippy::unwrap_used)] // A test that cannot go on says so by panicking, in its helpers too.

#[path = "live_s3/anomalies.rs"]
mod anomalies;
#[path = "live_s3/facts.rs"]
mod facts;
#[path = "live_s3/others.rs"]
mod others;
#[path = "live_s3/parts.rs"]
mod parts;
#[path = "live_s3/plans.rs"]
mod plans;
#[path = "live_s3/proxy.rs"]
mod proxy;
#[path = "live_s3/ranges.rs"]
mod ranges;
#[path = "live_s3/rights.rs"]
mod rights;
#[path = "live_s3/stage.rs"]
mod stage;
#[path = "live_s3/uploads.rs"]
mod uploads;
#[path = "live_s3/versions.rs"]
mod versions;

use std::{collections::BTreeMap, sync::Arc};

use aws_sdk_s3::{config::http::HttpRequest, primitives::ByteStream};
use lifeboat::{
    error::ExitCode,
    event::Recorder,
    flow::{
        FlowError, Likeness, STREAM_DEPTH, Selection, Source, Target, Verified, WriteOptions, channel,
        conformance, pipe,
    },
    s3::{S3Likeness, Sample, WHOLE_MIN},
};

use self::{
    proxy::{Fault, Proxy},
    stage::{Bucket, ODD_KEYS, Renamed, body, read, read_after, remembered, replay, write},
};

fn failure<T: std::fmt::Debug>(result: Result<T, FlowError>) -> lifeboat::error::Failure {
    match result {
        Err(FlowError::Failed(failure)) => failure,
        other => panic!("this should have failed for a reason: {other:?}"),
    }
}

#[tokio::test]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn headers_metadata_and_tags_come_back() {
    let bucket = Bucket::new("facts").await;
    let dress = |request: &mut HttpRequest| {
        for (name, value) in [
            ("content-type", "image/png; x=1"),
            ("content-encoding", "gzip"),
            ("content-disposition", "attachment; filename=\"a b.png\""),
            ("content-language", "zh-CN"),
            ("cache-control", "max-age=60"),
            ("expires", "Thu, 01 Dec 2033 16:00:00 GMT"),
            ("x-amz-meta-file-hash", "abc def"),
            ("x-amz-meta-name", "图片"),
            ("x-amz-tagging", "kind=a%20b&owner=%E5%9B%BE"),
        ] {
            request.headers_mut().insert(name, value.to_owned());
        }
    };
    let put = bucket.client.put_object().bucket(&bucket.name).key("a").body(body(b"not gzip at all"));
    put.customize().mutate_request(dress).send().await.unwrap();
    bucket.put("empty", b"").await;
    let before = read(&bucket.source()).await;

    let copy = Bucket::absent("facts-copy");
    let target = bucket.target().into_bucket(Some(copy.name.clone()));
    let tally = replay(&before, Box::new(target), false).await.unwrap();
    assert_eq!(tally.verified, Verified::Counts);
    assert_eq!(tally.entries, 3);

    let after = read(&copy.source()).await;
    for key in ["a", "empty"] {
        let (one, two) = (before.object(&bucket.name, key), after.object(&copy.name, key));
        for fact in ["headers", "meta", "tags", "etag", "size"] {
            assert_eq!(one.meta.attrs.get(fact), two.meta.attrs.get(fact), "{fact} of {key}");
        }
        assert_eq!(one.bytes, two.bytes);
    }
    let attrs = &after.object(&copy.name, "a").meta.attrs;
    assert_eq!(attrs["headers"]["content-encoding"], "gzip");
    assert_eq!(attrs["headers"]["expires"], "Thu, 01 Dec 2033 16:00:00 GMT");
    assert_eq!(attrs["meta"]["name"], "图片");
    assert_eq!(attrs["tags"]["kind"], "a b");
    assert_eq!(attrs["tags"]["owner"], "图");
}

struct Pair<'a>(&'a Bucket, &'a Bucket);
impl conformance::Pair for Pair<'_> {
    fn source(&self) -> Box<dyn Source> {
        Box::new(self.0.source())
    }
    fn target(&self) -> Box<dyn Target> {
        Box::new(self.0.target().into_bucket(Some(self.1.name.clone())))
    }
    fn copy(&self) -> Box<dyn Source> {
        Box::new(Renamed { inner: self.1.source(), from: self.1.name.clone(), to: self.0.name.clone() })
    }
    fn likeness(&self) -> &dyn Likeness {
        &S3Likeness
    }
}

#[tokio::test]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn odd_keys_big_objects_and_settings_are_copied_by_a_pipe() {
    let bucket = Bucket::new("odd").await;
    for key in ODD_KEYS {
        bucket.put(key, key.as_bytes()).await;
    }
    bucket.put(&"k".repeat(1024), b"a key of 1,024 bytes").await;
    let big: Vec<u8> = (0..(17_u32 << 20)).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    bucket.put("big", &big).await;
    let policy = format!(
        r#"{{"Version":"2012-10-17","Statement":[{{"Effect":"Allow","Principal":"*","Action":"s3:GetObject","Resource":"arn:aws:s3:::{}/public/*"}}]}}"#,
        bucket.name
    );
    bucket.client.put_bucket_policy().bucket(&bucket.name).policy(&policy).send().await.unwrap();
    bucket.expire_after_days(3000).await;
    bucket.allow_origin("https://im.example").await;

    let copy = Bucket::absent("odd-copy");
    conformance::piping_is_copying(&Pair(&bucket, &copy)).await;

    let settings = |all: &stage::Snapshot, bucket: &str| -> serde_json::Value {
        serde_json::from_slice(&all.entries[&format!("%bucket/{bucket}.json")].bytes).unwrap()
    };
    let (before, after) = (read(&bucket.source()).await, read(&copy.source()).await);
    let (before, after) = (settings(&before, &bucket.name), settings(&after, &copy.name));
    for name in ["lifecycle", "cors"] {
        assert!(before[name].is_string(), "{name} was not read: {before:#}");
        assert_eq!(before[name], after[name], "{name}");
    }
    let renamed = before["policy"].as_str().unwrap().replace(&bucket.name, &copy.name);
    assert_eq!(after["policy"].as_str().unwrap(), renamed);
}

#[tokio::test]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn the_second_run_reads_only_what_changed() {
    let bucket = Bucket::new("second").await;
    for n in 0..40 {
        bucket.put(&format!("2025/{n:03}"), format!("body {n}").as_bytes()).await;
    }
    // By bytes `-` sorts before `/` and `%` sorts elsewhere escaped: the merge must go by keys.
    for key in ["2025-x", "2025%", "2025//", "a\nb"] {
        bucket.put(key, key.as_bytes()).await;
    }
    let first = read(&bucket.source()).await;
    bucket.put("2025/007", b"changed").await;
    bucket.put("2025/new", b"new").await;
    bucket.delete("2025/008").await;

    let proxy = Proxy::start(&stage::endpoint(), vec![]).await;
    let second = read_after(&bucket.source_at(&proxy.url()), remembered(&first)).await;
    let gets = proxy.requests().into_iter().filter(|line| stage::reads_an_object(line)).count();
    assert_eq!(gets, 2, "{:#?}", proxy.requests());
    assert!(!proxy.requests().iter().any(|line| line.starts_with("HEAD ")));
    assert_eq!(second.reused(), 42);
    assert_eq!(second.object(&bucket.name, "2025/007").bytes, b"changed");
    assert!(!second.entries.contains_key(&format!("{}/2025/008", bucket.name)));

    let third = read_after(&bucket.source_at(&proxy.url()), remembered(&second)).await;
    assert_eq!(third.reused(), 44);
    let gets = proxy.requests().into_iter().filter(|line| stage::reads_an_object(line)).count();
    assert_eq!(gets, 2, "an unchanged bucket was read");
}

#[tokio::test]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn objects_that_change_or_vanish_during_the_run_are_seen_as_they_are() {
    let bucket = Bucket::new("moving").await;
    for key in ["a", "b", "c"] {
        bucket.put(key, b"old").await;
    }
    let (one, two) = (bucket.hand(), bucket.hand());
    let proxy = Proxy::start(
        &stage::endpoint(),
        vec![
            Fault::before("GET", "/a", move || {
                let hand = one.clone();
                Box::pin(async move { hand.put("a", b"newer").await })
            }),
            Fault::before("GET", "/b", move || {
                let hand = two.clone();
                Box::pin(async move { hand.delete("b").await })
            }),
        ],
    )
    .await;
    let seen = read(&bucket.source_at(&proxy.url())).await;
    assert_eq!(seen.object(&bucket.name, "a").bytes, b"newer");
    assert_eq!(seen.object(&bucket.name, "c").bytes, b"old");
    assert!(!seen.entries.contains_key(&format!("{}/b", bucket.name)));
    assert_eq!(seen.point.marks["vanished"], "1");
    assert!(seen.problems.is_empty(), "{:?}", seen.problems);
}

#[tokio::test]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn objects_that_are_not_read_are_told_as_they_are() {
    let bucket = Bucket::new("facts").await;
    let keys: Vec<String> = (0..WHOLE_MIN + 6).map(|n| format!("k{n:03}")).collect();
    for key in &keys {
        bucket.put(key, b"old").await;
    }
    let sample = Sample::new("seed", 1);
    let mut by_lot = keys.clone();
    by_lot.sort_by_key(|key| sample.lot(&bucket.name, key.as_bytes()));
    let [changed, gone, refused, parts, tagged, plain] = &by_lot[WHOLE_MIN..] else { unreachable!() };
    bucket.put_in_parts(parts, &[b"old"]).await;
    let put = bucket.client.put_object().bucket(&bucket.name).key(tagged).tagging("colour=red&size=s");
    put.content_type("text/x-old").metadata("owner", "me").body(stage::body(b"old")).send().await.unwrap();

    let (one, two) = (bucket.hand(), bucket.hand());
    let target = |key: &str| -> &'static str { format!("/{key}").leak() };
    let (newer, lost) = (changed.clone(), gone.clone());
    let faults = vec![
        Fault::before("HEAD", target(changed), move || {
            let (hand, key) = (one.clone(), newer.clone());
            Box::pin(async move { hand.put(&key, b"newer").await })
        }),
        Fault::before("HEAD", target(gone), move || {
            let (hand, key) = (two.clone(), lost.clone());
            Box::pin(async move { hand.delete(&key).await })
        }),
        Fault::status("HEAD", target(refused), 403).always(),
    ];
    let proxy = Proxy::start(&stage::endpoint(), faults).await;
    let seen = read(&bucket.source_at(&proxy.url()).sampled(sample)).await;

    assert_eq!(seen.reused(), 4, "those of which the bytes were not read");
    let object = |key: &String| seen.object(&bucket.name, key);
    assert_eq!(object(changed).meta.attrs["size"], 5);
    assert_eq!(object(changed).trailer["md5"], object(changed).meta.attrs["etag"]);
    assert!(!seen.entries.contains_key(&format!("{}/{gone}", bucket.name)));
    assert_eq!(seen.point.marks["vanished"], "1");
    assert_eq!(seen.problems.len(), 1, "{:?}", seen.problems);
    assert_eq!(seen.problems[0].what, format!("{}/{refused}", bucket.name));
    assert!(!object(parts).trailer.contains_key("md5"), "its ETag is no MD5: {:?}", object(parts).meta.attrs);
    assert_eq!(object(plain).bytes, b"");
    // The facts are those of a reading of the bytes.
    let whole = read(&bucket.source()).await;
    for key in [tagged, plain, parts] {
        assert_eq!(object(key).meta, whole.object(&bucket.name, key).meta);
    }
    assert_eq!(object(tagged).meta.attrs["tags"]["colour"], "red");
    let read = proxy.requests().iter().filter(|line| stage::reads_an_object(line)).count();
    assert_eq!(read, WHOLE_MIN);
}

#[tokio::test]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn an_object_that_never_stands_still_is_reported() {
    let bucket = Bucket::new("restless").await;
    bucket.put("a", b"0").await;
    bucket.put("b", b"calm").await;
    let hand = bucket.hand();
    let count = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let restless = Fault::before("GET", "/a", move || {
        let (hand, n) = (hand.clone(), count.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
        Box::pin(async move { hand.put("a", format!("version {n}").as_bytes()).await })
    });
    let proxy = Proxy::start(&stage::endpoint(), vec![restless.always()]).await;
    let seen = read(&bucket.source_at(&proxy.url())).await;
    assert_eq!(seen.problems.len(), 1);
    assert_eq!(seen.problems[0].what, format!("{}/a", bucket.name));
    assert_eq!(seen.object(&bucket.name, "b").bytes, b"calm");
}

#[tokio::test]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_body_cut_at_nine_tenths_is_never_stored_short() {
    let bucket = Bucket::new("cut").await;
    let big: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    bucket.put("big", &big).await;
    bucket.put("small", &big[..100_000]).await;
    let faults = vec![Fault::cut("GET", "/big?x-id", 90), Fault::cut("GET", "/small?x-id", 90)];
    let proxy = Proxy::start(&stage::endpoint(), faults).await;
    let seen = read(&bucket.source_at(&proxy.url())).await;
    assert!(seen.problems.is_empty(), "{:?}", seen.problems);
    assert_eq!(seen.object(&bucket.name, "big").bytes, big);
    assert_eq!(seen.object(&bucket.name, "small").bytes, &big[..100_000]);
    let goes_on = |(first, last): &(u64, u64)| *last == 2_999_999 && (2_690_000..2_710_000).contains(first);
    assert_eq!(proxy.ranges().iter().filter(|range| goes_on(range)).count(), 1, "{:?}", proxy.ranges());

    // A connection that breaks each time: reported, and nobody takes the part for the whole.
    let faults =
        vec![Fault::cut("GET", "/big?x-id", 90).always(), Fault::cut("GET", "/small?x-id", 90).always()];
    let proxy = Proxy::start(&stage::endpoint(), faults).await;
    let seen = read(&bucket.source_at(&proxy.url())).await;
    assert_eq!(seen.problems.len(), 2, "{:?}", seen.problems);
    assert!(!seen.entries.contains_key(&format!("{}/small", bucket.name)));
    assert!(seen.object(&bucket.name, "big").trailer.contains_key("torn"));
    let copy = Bucket::absent("cut-copy");
    let target = bucket.target().into_bucket(Some(copy.name.clone()));
    let failure = failure(replay(&seen, Box::new(target), false).await);
    assert_eq!(failure.exit(), ExitCode::Partial);
    assert!(failure.chain()[1].contains("/big"), "{:?}", failure.chain());
    assert_eq!(copy.keys().await, Vec::<String>::new());
    // And the next run reads it again, although the listing shows no change.
    let again = read_after(&bucket.source(), remembered(&seen)).await;
    assert_eq!(again.object(&bucket.name, "big").bytes, big);
}

#[tokio::test]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn tags_that_cannot_be_read_are_told_and_cost_no_object() {
    let bucket = Bucket::new("tags").await;
    bucket.put("a", b"a").await;
    let proxy =
        Proxy::start(&stage::endpoint(), vec![Fault::status("GET", "/a?tagging", 403).always()]).await;
    let seen = read(&bucket.source_at(&proxy.url())).await;
    assert_eq!(seen.object(&bucket.name, "a").bytes, b"a");
    assert!(seen.problems[0].why.contains("tags of 1 objects"), "{:?}", seen.problems);
    // The bytes are those of before, and so is what is wrong, until the tags can be read.
    let again = read_after(&bucket.source_at(&proxy.url()), remembered(&seen)).await;
    assert_eq!((again.reused(), again.problems.len()), (1, 1));
    let again = read_after(&bucket.source(), remembered(&again)).await;
    assert_eq!((again.reused(), again.problems.len()), (1, 0));
    assert!(!again.object(&bucket.name, "a").meta.attrs.contains_key("tags_unread"));
}

#[tokio::test]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_busy_server_is_asked_again() {
    let bucket = Bucket::new("busy").await;
    bucket.put("a", b"a").await;
    let faults = vec![Fault::status("GET", "/a", 503), Fault::status("GET", "list-type=2", 503)];
    let proxy = Proxy::start(&stage::endpoint(), faults).await;
    let seen = read(&bucket.source_at(&proxy.url())).await;
    assert_eq!(seen.object(&bucket.name, "a").bytes, b"a");

    let copy = Bucket::absent("busy-copy");
    let proxy = Proxy::start(&stage::endpoint(), vec![Fault::status("PUT", "/a", 503)]).await;
    let target = bucket.target_at(&proxy.url()).into_bucket(Some(copy.name.clone()));
    replay(&seen, Box::new(target), false).await.unwrap();
    assert_eq!(copy.get("a").await, b"a");
}

#[tokio::test]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_full_target_is_refused_and_stays_as_it_is() {
    let bucket = Bucket::new("full").await;
    bucket.put("a", b"from the snapshot").await;
    let seen = read(&bucket.source()).await;
    bucket.put("a", b"newer").await;
    bucket.put("b", b"unknown to the snapshot").await;
    let mut target = bucket.target();
    let state = target.inspect(std::slice::from_ref(&bucket.name)).await.unwrap();
    assert_eq!(state.in_the_way, [format!("bucket {}: 2 objects", bucket.name)]);
    let failure = failure(replay(&seen, Box::new(target), false).await);
    assert_eq!(failure.exit(), ExitCode::TargetNotEmpty);
    assert!(failure.hints()[0].contains("--replace"));
    assert_eq!(bucket.get("a").await, b"newer");
    assert_eq!(bucket.get("b").await, b"unknown to the snapshot");
}

#[tokio::test]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn replace_makes_the_bucket_equal_and_writes_only_what_differs() {
    let bucket = Bucket::new("replace").await;
    for n in 0..12 {
        bucket.put(&format!("k{n:02}"), format!("body {n}").as_bytes()).await;
    }
    let seen = read(&bucket.source()).await;
    bucket.put("k03", b"changed").await;
    bucket.delete("k04").await;
    for key in ["a-before", "k05x", "z-after", "line\nend"] {
        bucket.put(key, b"extra").await;
    }
    let proxy = Proxy::start(&stage::endpoint(), vec![]).await;
    let tally = replay(&seen, Box::new(bucket.target_at(&proxy.url())), true).await.unwrap();
    let puts = proxy.requests().into_iter().filter(|line| stage::writes_an_object(line)).count();
    assert_eq!(puts, 2, "{:#?}", proxy.requests());
    assert!(tally.notes.iter().any(|note| note == "10 objects were equal already"), "{:?}", tally.notes);
    assert!(tally.notes.iter().any(|note| note.starts_with("4 objects")), "{:?}", tally.notes);
    let keys: Vec<String> = (0..12).map(|n| format!("k{n:02}")).collect();
    assert_eq!(bucket.keys().await, keys);
    assert_eq!(bucket.get("k03").await, b"body 3");
}

#[tokio::test]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn replacing_a_part_removes_nothing() {
    let bucket = Bucket::new("part").await;
    for key in ["2024/a", "2025/a", "2025/b"] {
        bucket.put(key, b"old").await;
    }
    let seen = read(&bucket.source()).await;
    for key in ["2024/a", "2025/a", "2025/c"] {
        bucket.put(key, b"new").await;
    }
    let only = Selection::new(&[format!("{}/2025/*", bucket.name)]).unwrap();
    let options = WriteOptions { replace: true, only, ..WriteOptions::default() };
    write(&seen, Box::new(bucket.target()), options).await.unwrap();
    let all: BTreeMap<String, Vec<u8>> = bucket.all().await;
    let all: Vec<(&str, &[u8])> = all.iter().map(|(k, v)| (k.as_str(), v.as_slice())).collect();
    let expected: [(&str, &[u8]); 4] =
        [("2024/a", b"new"), ("2025/a", b"old"), ("2025/b", b"old"), ("2025/c", b"new")];
    assert_eq!(all, expected);
}

#[tokio::test]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_restore_that_is_stopped_gives_lifecycle_rules_back() {
    let bucket = Bucket::new("stopped").await;
    // Midnight of a day long ago: what comes now would go with the server's next look.
    bucket.expire_at(1_577_836_800).await;
    let seen = read(&bucket.source()).await;
    let (sink, stream) = channel(STREAM_DEPTH);
    let options = WriteOptions { replace: true, ..WriteOptions::default() };
    let stop = options.stop.clone();
    let target: Box<dyn Target> = Box::new(bucket.target());
    let writing = tokio::spawn(target.write(options, stream));
    sink.announce(seen.inventory.clone()).await.unwrap();
    let settings = &seen.entries[&seen.order[0]];
    sink.put(settings.meta.clone(), settings.bytes.clone()).await.unwrap();
    while bucket.expires().await {
        tokio::task::yield_now().await;
    }
    stop.cancel();
    let failure = failure(writing.await.unwrap());
    assert_eq!(failure.exit(), ExitCode::Interrupted);
    assert!(bucket.expires().await, "the rules are back");
}

#[tokio::test]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn several_buckets_do_not_go_into_one() {
    let bucket = Bucket::new("one-of-two").await;
    let names = [bucket.name.clone(), format!("{}-b", bucket.name)];
    let mut target = bucket.target().into_bucket(Some(format!("{}-into", bucket.name)));
    let failure = target.inspect(&names).await.unwrap_err();
    assert_eq!(failure.exit(), ExitCode::Usage);
    assert!(target.inspect(&names[..1]).await.unwrap().in_the_way.is_empty());
}

#[tokio::test]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn that_a_bucket_keeps_versions_is_told() {
    let bucket = Bucket::new("versions").await;
    bucket.keep_versions().await;
    let recorder = Arc::new(Recorder::default());
    let seen = read(&stage::source(&stage::endpoint(), &bucket.name, recorder.clone())).await;
    assert!(recorder.warnings()[0].contains("keeps versions"), "{:?}", recorder.warnings());
    let settings = &seen.entries[&format!("%bucket/{}.json", bucket.name)];
    assert_eq!(settings.meta.attrs["versioning"], "Enabled");
}

#[tokio::test]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn wrong_credentials_an_absent_bucket_and_a_dead_server_are_told_apart() {
    let bucket = Bucket::absent("nothing");
    let refused = failure(stage::try_read(bucket.source_with_secret("wrong-secret-123")).await);
    assert_eq!(refused.exit(), ExitCode::SourceDown);
    assert!(refused.hints()[0].contains("secret_key"), "{:?}", refused.hints());
    assert!(!format!("{refused:?}").contains("wrong-secret-123"));

    let absent = failure(stage::try_read(bucket.source()).await);
    assert_eq!(absent.exit(), ExitCode::SourceDown);
    assert!(absent.to_string().contains(&bucket.name) && absent.to_string().contains(&stage::endpoint()));
    assert!(absent.hints()[0].contains("bucket"), "{:?}", absent.hints());

    let dead = failure(stage::try_read(bucket.source_at("http://127.0.0.1:9")).await);
    assert_eq!(dead.exit(), ExitCode::SourceDown);
    assert!(dead.to_string().contains("`minio`") && dead.to_string().contains("does not answer"));
}

#[tokio::test]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_stream_that_breaks_off_is_no_success_and_leaves_no_object() {
    let bucket = Bucket::new("broken").await;
    let meta = lifeboat::flow::EntryMeta::new(
        lifeboat::flow::fixed_path("x/a"),
        lifeboat::flow::Stage::Data,
        bucket.name.as_str(),
    )
    .with("bucket", bucket.name.as_str())
    .with("key", "a")
    .with("size", 12);
    conformance::a_broken_stream_is_never_a_success(Box::new(bucket.target()), &bucket.name, meta).await;
    assert_eq!(bucket.keys().await, Vec::<String>::new());
}

#[tokio::test]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn an_upload_that_breaks_off_leaves_no_parts() {
    let bucket = Bucket::new("parts").await;
    let meta = lifeboat::flow::EntryMeta::new(
        lifeboat::flow::fixed_path("x/big"),
        lifeboat::flow::Stage::Data,
        bucket.name.as_str(),
    )
    .with("bucket", bucket.name.as_str())
    .with("key", "big")
    .with("size", 40 << 20);
    let (sink, stream) = lifeboat::flow::channel(4);
    let send = async {
        sink.announce(vec![bucket.name.clone()]).await?;
        let mut body = sink.begin(meta).await?;
        body.write(vec![1; 20 << 20].into()).await?;
        drop(body);
        sink.complete(&bucket.name);
        sink.finish(lifeboat::flow::Point::at(chrono::DateTime::UNIX_EPOCH)).await
    };
    let options = WriteOptions::default();
    let (_, written) = tokio::join!(send, Box::new(bucket.target()).write(options, stream));
    assert!(matches!(written, Err(FlowError::Truncated { .. })), "{written:?}");
    assert_eq!(bucket.keys().await, Vec::<String>::new());
    let uploads = bucket.client.list_multipart_uploads().bucket(&bucket.name).send().await.unwrap();
    assert!(uploads.uploads().is_empty(), "{uploads:?}");
}

#[tokio::test]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn keys_that_the_server_refuses_are_named_and_nothing_is_removed() {
    let bucket = Bucket::new("refused").await;
    bucket.put("a", b"a").await;
    bucket.put("b", b"b").await;
    let mut seen = read(&bucket.source()).await;
    // A key of 1,025 bytes, as only other servers hold it.
    let long = "k".repeat(1025);
    let path = format!("{}/b", bucket.name);
    let kept = seen.entries.get_mut(&path).unwrap();
    kept.meta.attrs.insert("key".into(), long.clone().into());
    bucket.put("extra", b"extra").await;
    bucket.put("a", b"other").await;
    let failure = failure(replay(&seen, Box::new(bucket.target()), true).await);
    assert_eq!(failure.exit(), ExitCode::Partial);
    assert!(failure.chain()[1].contains(&long), "{:?}", failure.chain());
    assert_eq!(bucket.keys().await, ["a", "b", "extra"]);
    assert_eq!(bucket.get("a").await, b"a");
}

#[tokio::test]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn an_object_that_is_listed_and_not_there_is_no_deletion() {
    let bucket = Bucket::new("ghost").await;
    bucket.put("a", b"a").await;
    let proxy = Proxy::start(&stage::endpoint(), vec![Fault::status("GET", "/a?x-id", 404).always()]).await;
    let seen = read(&bucket.source_at(&proxy.url())).await;
    assert_eq!((seen.problems.len(), seen.point.marks["vanished"].as_str()), (1, "0"));
}

#[tokio::test]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_locked_bucket_comes_back_with_its_lock() {
    let bucket = Bucket::absent("lock");
    bucket.create_with_lock(1).await;
    bucket.put("a", b"a").await;
    bucket.put_in_parts("b", &[b"b"]).await;
    let source = bucket.source();
    let before = read(&source).await;
    let copy = Bucket::absent("lock-copy");
    let target = bucket.target().into_bucket(Some(copy.name.clone()));
    replay(&before, Box::new(target), false).await.unwrap();
    let lock = |all: &stage::Snapshot, name: &str| -> serde_json::Value {
        let settings = &all.entries[&format!("%bucket/{name}.json")].bytes;
        serde_json::from_slice::<serde_json::Value>(settings).unwrap()["lock"].clone()
    };
    let after = read(&copy.source()).await;
    assert!(lock(&before, &bucket.name).as_str().unwrap().contains("GOVERNANCE"));
    assert_eq!(lock(&before, &bucket.name), lock(&after, &copy.name));
    // What is written now comes into a bucket that locks it.
    bucket.put("a", b"anew").await;
    bucket.put_in_parts("c", &[b"c"]).await;
    let before = read(&source).await;
    let target = bucket.target().into_bucket(Some(copy.name.clone()));
    replay(&before, Box::new(target), true).await.unwrap();
    let after = read(&copy.source()).await;
    for (key, is_locked) in [("a", true), ("b", false), ("c", true)] {
        let copied = after.object(&copy.name, key);
        assert_eq!(copied.bytes, before.object(&bucket.name, key).bytes, "{key}");
        assert_eq!(copied.meta.attrs.contains_key("lock"), is_locked, "{key}");
    }
}

#[tokio::test]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn excluded_objects_are_neither_read_nor_removed() {
    let bucket = Bucket::new("exclude").await;
    bucket.put("keep", b"keep").await;
    bucket.put("tmp/scratch", b"scratch").await;
    let seen = read(&bucket.source_without(&format!("{}/tmp", bucket.name))).await;
    assert_eq!(seen.entries.len(), 2);
    bucket.put("stray", b"stray").await;
    let target = bucket.target_without(&format!("{}/tmp", bucket.name));
    replay(&seen, Box::new(target), true).await.unwrap();
    assert_eq!(bucket.keys().await, ["keep", "tmp/scratch"]);
}

#[tokio::test]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_pipe_moves_one_bucket_beside_itself() {
    let bucket = Bucket::new("pipe").await;
    bucket
        .client
        .put_object()
        .bucket(&bucket.name)
        .key("k")
        .body(ByteStream::from_static(b"v"))
        .send()
        .await
        .unwrap();
    let copy = Bucket::absent("pipe-copy");
    let target = bucket.target().into_bucket(Some(copy.name.clone()));
    let options = WriteOptions::default();
    let tally = pipe(Box::new(bucket.source()), Box::new(target), options).await.unwrap();
    assert_eq!(tally.verified, Verified::Counts);
    assert_eq!(copy.get("k").await, b"v");
}
