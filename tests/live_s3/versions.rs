//! Buckets that keep versions: all of them are read, in their order, and come back in it.

use aws_sdk_s3::types::BucketVersioningStatus;
use lifeboat::{
    clock::Ground,
    error::ExitCode,
    event::NoMonitor,
    flow::{
        FlowResult, Likeness, Selection, Source, Target, WriteOptions,
        compare::{Comparison, Difference, Observer, Seen},
        conformance,
    },
    policy::{S3Config, Versions},
    s3::{S3Likeness, S3Source, S3Target, Sample},
};
use sha2::{Digest, Sha256};

use super::{
    failure,
    proxy::{Fault, Proxy},
    stage::{
        self, Bucket, Kept, Renamed, Snapshot, config, endpoint, name, read, read_after, remembered, replay,
        write, writes_an_object,
    },
};

pub fn all_of(endpoint: &str, bucket: &Bucket) -> S3Config {
    S3Config { versions: Versions::All, ..config(endpoint, &bucket.name) }
}

fn source_at(endpoint: &str, bucket: &Bucket) -> S3Source {
    S3Source::new(name(), all_of(endpoint, bucket), Ground::system(), NoMonitor::shared())
}

pub fn source(bucket: &Bucket) -> S3Source {
    source_at(&endpoint(), bucket)
}

pub fn target_at(endpoint: &str, from: &Bucket, to: &Bucket) -> Box<S3Target> {
    let target = S3Target::new(name(), all_of(endpoint, from), NoMonitor::shared());
    Box::new(target.into_bucket(Some(to.name.clone())))
}

fn target(from: &Bucket, to: &Bucket) -> Box<S3Target> {
    target_at(&endpoint(), from, to)
}

/// Returns the contents of a key's versions, the oldest first; a delete marker is a dash.
pub async fn history(bucket: &Bucket, key: &str) -> Vec<String> {
    let page = bucket.client.list_object_versions().bucket(&bucket.name).prefix(key).send().await.unwrap();
    let mut all = Vec::new();
    for marker in page.delete_markers().iter().filter(|marker| marker.key() == Some(key)) {
        all.push((marker.last_modified().unwrap().as_nanos(), "-".to_owned()));
    }
    for version in page.versions().iter().filter(|version| version.key() == Some(key)) {
        let get = bucket.client.get_object().bucket(&bucket.name).key(key);
        let answer = get.version_id(version.version_id().unwrap()).send().await.unwrap();
        let bytes = answer.body.collect().await.unwrap().to_vec();
        all.push((version.last_modified().unwrap().as_nanos(), String::from_utf8(bytes).unwrap()));
    }
    all.sort();
    all.into_iter().map(|(_, content)| content).collect()
}

const KEYS: [&str; 7] = ["a", "a-b", "a/b", "before", "gone", "late", "only-marker"];

async fn histories(bucket: &Bucket) -> Vec<(&'static str, Vec<String>)> {
    let mut all = Vec::new();
    for key in KEYS {
        all.push((key, history(bucket, key).await));
    }
    all
}

pub async fn versioning(bucket: &Bucket) -> Option<BucketVersioningStatus> {
    let asked = bucket.client.get_bucket_versioning().bucket(&bucket.name).send().await.unwrap();
    asked.status().cloned()
}

/// Makes a bucket with all that a history can have.
pub async fn lived_in() -> Bucket {
    let bucket = Bucket::new("lived-in").await;
    bucket.put("before", b"n0").await;
    bucket.put("a", b"a0").await;
    bucket.keep_versions().await;
    bucket.put("before", b"n1").await;
    for (key, contents) in [("a", ["a1", "a2"]), ("a/b", ["ab1", "ab2"]), ("a-b", ["a-b1", "a-b2"])] {
        for content in contents {
            bucket.put(key, content.as_bytes()).await;
        }
    }
    bucket.delete("a").await;
    bucket.put("a", b"a3").await;
    bucket.put("gone", b"g1").await;
    bucket.delete("gone").await;
    bucket.delete("only-marker").await;
    bucket.suspend_versions().await;
    bucket.put("a", b"a4").await;
    bucket.put("late", b"l1").await;
    bucket
}

fn versions_of<'a>(all: &'a Snapshot, key: &str) -> Vec<&'a Kept> {
    let entries = all.order.iter().map(|path| &all.entries[path]);
    entries
        .filter(|kept| [kept.meta.text("key"), kept.meta.text("version_of")].contains(&Some(key)))
        .collect()
}

#[tokio::test]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn all_versions_come_back_in_their_order_and_a_second_restore_adds_none() {
    let bucket = lived_in().await;
    let before = histories(&bucket).await;
    let seen = read(&source(&bucket)).await;
    assert_eq!(seen.problems, []);
    let a = versions_of(&seen, "a");
    let contents: Vec<&[u8]> = a.iter().map(|kept| kept.bytes.as_slice()).collect();
    // Suspending did away with `a0`, whose place is taken by what was written since.
    assert_eq!(contents, [&b"a1"[..], b"a2", b"", b"a3", b"a4"]);
    assert_eq!(a[2].meta.attrs["delete_marker"], true);
    assert_eq!(a[4].meta.path.as_str(), format!("{}/a", bucket.name));
    assert_eq!(a[4].meta.text("version_id"), Some("null"));
    for (older, newer) in a.iter().zip(&a[1..]) {
        assert_eq!(older.meta.attrs["until"], newer.meta.attrs["last_modified"]);
    }

    let copy = Bucket::absent("lived-in-copy");
    replay(&seen, target(&bucket, &copy), false).await.unwrap();
    assert_eq!(histories(&copy).await, before);
    assert_eq!(versioning(&copy).await, Some(BucketVersioningStatus::Suspended));

    let proxy = Proxy::start(&endpoint(), vec![]).await;
    let tally = replay(&seen, target_at(&proxy.url(), &bucket, &copy), true).await.unwrap();
    assert!(tally.notes.iter().any(|note| note == "15 objects were equal already"), "{:?}", tally.notes);
    // Each bucket is tried first, and what it is tried with is removed.
    let is_write = |line: &String| {
        let line = line.replacen("DELETE ", "PUT ", 1);
        writes_an_object(&line)
    };
    let written: Vec<String> = proxy.requests().into_iter().filter(is_write).collect();
    assert_eq!(written, [""; 0]);
    assert_eq!(histories(&copy).await, before);
}

#[tokio::test]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_restore_that_broke_off_is_continued_and_what_the_target_has_is_kept() {
    let bucket = lived_in().await;
    let (before, seen) = (histories(&bucket).await, read(&source(&bucket)).await);
    let mut half = read(&source(&bucket)).await;
    let third = versions_of(&seen, "a")[2].meta.path.to_string();
    half.order.truncate(half.order.iter().position(|path| *path == third).unwrap());
    let copy = Bucket::absent("half");
    replay(&half, target(&bucket, &copy), false).await.unwrap();
    assert_eq!(history(&copy, "a").await, ["a1", "a2"]);
    replay(&seen, target(&bucket, &copy), true).await.unwrap();
    assert_eq!(histories(&copy).await, before);

    copy.keep_versions().await;
    copy.put("a", b"since").await;
    copy.put("extra", b"x").await;
    copy.delete("late").await;
    replay(&seen, target(&bucket, &copy), true).await.unwrap();
    assert_eq!(history(&copy, "a").await, ["a1", "a2", "-", "a3", "a4", "since", "a4"]);
    assert_eq!(history(&copy, "extra").await, ["x", "-"], "hidden and not destroyed");
    assert_eq!(history(&copy, "late").await, ["l1", "-", "l1"]);
    let after = histories(&copy).await;
    replay(&seen, target(&bucket, &copy), true).await.unwrap();
    assert_eq!(histories(&copy).await, after);
    assert_eq!(history(&copy, "extra").await, ["x", "-"]);
}

struct Pair<'a>(&'a Bucket, &'a Bucket);
impl conformance::Pair for Pair<'_> {
    fn source(&self) -> Box<dyn Source> {
        Box::new(source(self.0))
    }
    fn target(&self) -> Box<dyn Target> {
        target(self.0, self.1)
    }
    fn copy(&self) -> Box<dyn Source> {
        Box::new(Renamed { inner: source(self.1), from: self.1.name.clone(), to: self.0.name.clone() })
    }
    fn likeness(&self) -> &dyn Likeness {
        &S3Likeness
    }
}

#[tokio::test]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_bucket_with_its_versions_is_copied_by_a_pipe_and_compared_as_the_same() {
    let bucket = lived_in().await;
    let copy = Bucket::absent("piped");
    conformance::piping_is_copying(&Pair(&bucket, &copy)).await;
}

struct Named(Vec<String>);
impl Observer for Named {
    fn differs(&mut self, difference: Difference) {
        self.0.push(difference.text(&S3Likeness));
    }
}

/// Returns what a drill would say of a copy.
fn compared(stored: &Snapshot, found: &Snapshot, names: (&str, &str)) -> Vec<String> {
    let seen = |kept: &Kept, is_copy: bool| {
        let text = serde_json::to_string(&kept.meta).unwrap();
        let text = if is_copy { text.replace(names.1, names.0) } else { text };
        let sha256 = if kept.reused { String::new() } else { hex::encode(Sha256::digest(&kept.bytes)) };
        let size = kept.meta.attrs.get("size").and_then(serde_json::Value::as_u64).unwrap_or_default();
        Seen {
            meta: serde_json::from_str(&text).unwrap(),
            trailer: kept.trailer.clone(),
            sha256,
            size_bytes: size,
        }
    };
    let mut named = Named(Vec::new());
    let mut comparison = Comparison::new(&S3Likeness, &mut named, 1000);
    stored.order.iter().for_each(|path| comparison.stored(seen(&stored.entries[path], false)));
    comparison.stored_ended();
    found.order.iter().for_each(|path| comparison.found(seen(&found.entries[path], true), None));
    comparison.found_ended();
    comparison.finish();
    named.0.sort();
    named.0
}

#[tokio::test]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_comparison_names_the_version_that_differs() {
    let bucket = lived_in().await;
    let (seen, copy) = (read(&source(&bucket)).await, Bucket::absent("compared"));
    replay(&seen, target(&bucket, &copy), false).await.unwrap();
    let names = (bucket.name.as_str(), copy.name.as_str());
    assert_eq!(compared(&seen, &read(&source(&copy)).await, names), [""; 0]);
    let sampled = source(&copy).sampled(Sample::new("seed", 1));
    assert_eq!(compared(&seen, &read(&sampled).await, names), [""; 0]);

    let page = copy.client.list_object_versions().bucket(&copy.name).prefix("a/b").send().await.unwrap();
    let oldest = page.versions().last().unwrap().version_id().unwrap();
    let delete = copy.client.delete_object().bucket(&copy.name).key("a/b").version_id(oldest);
    delete.send().await.unwrap();
    let odd = compared(&seen, &read(&source(&copy)).await, names);
    assert_eq!(odd, [format!("version 1 of object {}/a/b is missing", bucket.name)]);
}

#[tokio::test]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn unchanged_versions_cost_no_request_also_where_another_became_the_latest() {
    let bucket = Bucket::new("again").await;
    bucket.keep_versions().await;
    for key in ["a", "b", "c"] {
        bucket.put(key, b"one").await;
        bucket.put(key, key.as_bytes()).await;
    }
    // A snapshot that took the objects alone serves as the one before, too.
    let first = read(&bucket.source()).await;
    assert_eq!(first.entries.len(), 4);
    let proxy = Proxy::start(&endpoint(), vec![]).await;
    let reads = || proxy.requests().into_iter().filter(|line| stage::reads_an_object(line)).count();
    let second = read_after(&source_at(&proxy.url(), &bucket), remembered(&first)).await;
    assert_eq!((second.reused(), reads()), (3, 3));

    bucket.put("a", b"three").await;
    bucket.delete("b").await;
    let third = read_after(&source_at(&proxy.url(), &bucket), remembered(&second)).await;
    assert_eq!((third.reused(), reads()), (6, 4), "{:#?}", proxy.requests());
    let contents: Vec<_> = versions_of(&third, "a").iter().map(|kept| kept.bytes.clone()).collect();
    assert_eq!(contents, [&b"one"[..], b"a", b"three"]);
    let fourth = read_after(&source_at(&proxy.url(), &bucket), remembered(&third)).await;
    assert_eq!((fourth.reused(), reads()), (7, 4));
    assert!(!proxy.requests().iter().any(|line| line.starts_with("HEAD ")));
    // And back: what a snapshot with versions has serves one without.
    let fifth = read_after(&bucket.source_at(&proxy.url()), remembered(&fourth)).await;
    assert_eq!((fifth.reused(), reads(), fifth.entries.len()), (2, 4, 3));
    assert_eq!(fifth.object(&bucket.name, "a").meta.text("version_id"), None);
}

#[tokio::test]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_key_of_more_versions_than_a_page_has_is_read_in_order() {
    const COUNT: usize = 1010;
    let bucket = Bucket::new("many").await;
    bucket.put("m", b"before").await;
    bucket.keep_versions().await;
    for n in 1..COUNT {
        bucket.put("m", format!("{n}").as_bytes()).await;
    }
    for key in ["l", "m/", "n"] {
        bucket.put(key, key.as_bytes()).await;
    }
    let proxy = Proxy::start(&endpoint(), vec![]).await;
    let seen = read(&source_at(&proxy.url(), &bucket)).await;
    let is_list = |line: &String| line.contains("encoding-type=url");
    let lists: Vec<String> = proxy.requests().into_iter().filter(is_list).collect();
    // A server may make its pages shorter than they may be.
    assert!((2..COUNT / 100).contains(&lists.len()), "{lists:#?}");
    let many = versions_of(&seen, "m");
    let contents: Vec<String> =
        many.iter().map(|kept| String::from_utf8(kept.bytes.clone()).unwrap()).collect();
    let expected: Vec<String> =
        (0..COUNT).map(|n| if n == 0 { "before".to_owned() } else { n.to_string() }).collect();
    assert_eq!(contents, expected);
    assert_eq!(many[0].meta.text("version_id"), Some("null"));
    assert_eq!(many[COUNT - 2].meta.attrs["nth"], COUNT - 1);
    assert_eq!(seen.entries.len(), COUNT + 4);

    let again = read_after(&source(&bucket), remembered(&seen)).await;
    assert_eq!(again.reused(), COUNT + 3);
}

#[tokio::test]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn one_version_is_restored_by_its_name_and_becomes_the_latest() {
    let bucket = lived_in().await;
    let seen = read(&source(&bucket)).await;
    let second = versions_of(&seen, "a")[1].meta.select.clone();
    assert!(second.contains("/a?versionId="), "{second}");
    let copy = Bucket::new("one-version").await;
    copy.put("a", b"other").await;
    let only = |pattern: &str| WriteOptions {
        replace: true,
        only: Selection::new(&[pattern.to_owned()]).unwrap(),
        ..WriteOptions::default()
    };
    write(&seen, target(&bucket, &copy), only(&second)).await.unwrap();
    assert_eq!(copy.get("a").await, b"a2");
    assert_eq!(versioning(&copy).await, None, "the settings of a bucket that is there are its own");
    // The object alone is what a key names.
    write(&seen, target(&bucket, &copy), only(&format!("{}/before", bucket.name))).await.unwrap();
    assert_eq!(copy.get("before").await, b"n1");
    // A history into a bucket that keeps none: nothing where a delete marker is the last, else the last.
    let proxy = Proxy::start(&endpoint(), vec![]).await;
    let through = || target_at(&proxy.url(), &bucket, &copy);
    let tally = write(&seen, through(), only(&format!("{}/gone?versionId=*", bucket.name))).await.unwrap();
    assert!(
        tally.notes[0].contains("2 older versions and delete markers were left out"),
        "{:?}",
        tally.notes
    );
    let tally = write(&seen, through(), only(&format!("{}/a/*", bucket.name))).await.unwrap();
    assert!(
        tally.notes[0].contains("1 older versions and delete markers were left out"),
        "{:?}",
        tally.notes
    );
    assert_eq!(copy.get("a/b").await, b"ab2");
    assert_eq!(copy.keys().await, ["a", "a/b", "before"]);
    let written: Vec<String> = proxy.requests().into_iter().filter(|line| writes_an_object(line)).collect();
    assert_eq!(written.len(), 1, "{written:?}");

    copy.keep_versions().await;
    let all = only(&format!("{}/a*", bucket.name));
    write(&seen, target(&bucket, &copy), all.clone()).await.unwrap();
    let after = history(&copy, "a").await;
    assert_eq!(after, ["a2", "a1", "a2", "-", "a3", "a4"]);
    write(&seen, target(&bucket, &copy), all).await.unwrap();
    assert_eq!(history(&copy, "a").await, after);
}

#[tokio::test]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_history_of_more_than_a_page_comes_back_in_its_order_and_once() {
    const COUNT: usize = 1010;
    let bucket = Bucket::new("long").await;
    bucket.keep_versions().await;
    bucket.put("a", b"before it").await;
    for n in 0..COUNT {
        bucket.put("long", n.to_string().as_bytes()).await;
    }
    bucket.put("z", b"behind it").await;
    let contents = |all: &Snapshot, key: &str| -> Vec<Vec<u8>> {
        versions_of(all, key).into_iter().map(|kept| kept.bytes.clone()).collect()
    };
    let seen = read(&source(&bucket)).await;
    let expected: Vec<Vec<u8>> = (0..COUNT).map(|n| n.to_string().into_bytes()).collect();
    assert_eq!(contents(&seen, "long"), expected);
    let copy = Bucket::absent("long-copy");
    replay(&seen, target(&bucket, &copy), false).await.unwrap();
    // The target's history is walked across the border of its pages too.
    let again = replay(&seen, target(&bucket, &copy), true).await.unwrap();
    assert_eq!(again.changes.unwrap().equal, COUNT as u64 + 2);
    let after = read(&source(&copy)).await;
    for key in ["a", "long", "z"] {
        assert_eq!(contents(&after, key), contents(&seen, key), "{key}");
    }
}

#[tokio::test]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn an_older_version_that_was_named_undoes_an_overwrite_and_a_deletion() {
    let bucket = Bucket::new("undo").await;
    bucket.keep_versions().await;
    for content in [b"a1", b"a2"] {
        bucket.put("a", content).await;
        bucket.put("b", content).await;
    }
    bucket.delete("a").await;
    bucket.put("b", b"b3").await;
    let seen = read(&source(&bucket)).await;
    for (key, n, after) in [("a", 1, ["a1", "a2", "-", "a2"]), ("b", 0, ["a1", "a2", "b3", "a1"])] {
        let only = Selection::new(&[versions_of(&seen, key)[n].meta.select.clone()]).unwrap();
        let options = || WriteOptions { replace: true, only: only.clone(), ..WriteOptions::default() };
        for _ in 0..2 {
            write(&seen, target(&bucket, &bucket), options()).await.unwrap();
            assert_eq!(history(&bucket, key).await, after);
        }
    }
}

#[tokio::test]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_bucket_that_keeps_no_versions_gets_the_last_of_each_key_alone() {
    let bucket = Bucket::new("flat").await;
    bucket.keep_versions().await;
    for n in 0..20 {
        bucket.put("a", format!("a{n}").as_bytes()).await;
        bucket.put("gone", b"g").await;
    }
    bucket.put_in_parts("parts", &[b"first"]).await;
    bucket.put_in_parts("parts", &[b"second"]).await;
    bucket.delete("gone").await;
    let seen = read(&source(&bucket)).await;
    let copy = Bucket::new("flat-copy").await;
    copy.put("parts", b"other").await;
    let only = Selection::new(std::slice::from_ref(&bucket.name)).unwrap();
    let options = || WriteOptions { replace: true, only: only.clone(), ..WriteOptions::default() };
    let proxy = Proxy::start(&endpoint(), vec![]).await;
    let tally = write(&seen, target_at(&proxy.url(), &bucket, &copy), options()).await.unwrap();
    // 19 of `a`, 20 and the marker of `gone`, one of `parts`.
    assert!(tally.notes[0].contains("41 older versions and delete markers"), "{:?}", tally.notes);
    assert_eq!(copy.keys().await, ["a", "parts"]);
    assert_eq!((copy.get("a").await, copy.get("parts").await), (b"a19".to_vec(), b"second".to_vec()));
    let whole = |line: &&String| writes_an_object(line) && !line.contains("partNumber");
    assert_eq!(proxy.requests().iter().filter(whole).count(), 1);
    // Where the newest did not come, no older one takes the place of what stands there.
    let mut lacking = seen;
    lacking.order.retain(|path| !path.ends_with(&format!("{}/a", bucket.name)));
    let refused = failure(write(&lacking, target(&bucket, &copy), options()).await);
    assert!(
        refused.chain()[1].contains("the newest version is not in the snapshot"),
        "{:?}",
        refused.chain()
    );
    assert_eq!(copy.get("a").await, b"a19");
    // Its settings did not come: the versions tell that it has to keep them.
    let made = Bucket::absent("flat-made");
    lacking.order.retain(|path| lacking.entries[path].meta.attrs.contains_key("version_id"));
    replay(&lacking, target(&bucket, &made), true).await.unwrap();
    assert_eq!(history(&made, "gone").await.len(), 21);
}

#[tokio::test]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_key_whose_newest_version_could_not_be_read_shows_what_the_target_shows() {
    let bucket = Bucket::new("newest").await;
    bucket.keep_versions().await;
    for content in [b"a1", b"a2", b"a3"] {
        bucket.put("a", content).await;
        bucket.put("b", content).await;
    }
    let newest = bucket.client.head_object().bucket(&bucket.name).key("a").send().await.unwrap();
    let id = newest.version_id().unwrap().to_owned();
    let fault = Fault::status("GET", String::leak(format!("/a?x-id=GetObject&versionId={id}")), 403).always();
    let proxy = Proxy::start(&endpoint(), vec![fault]).await;
    let seen = stage::try_read(source_at(&proxy.url(), &bucket)).await.unwrap();
    assert_eq!(seen.problems.len(), 1, "{:#?}", proxy.requests());
    assert_eq!(seen.problems[0].what, format!("{}/a", bucket.name));
    let copy = Bucket::new("newest-copy").await;
    copy.keep_versions().await;
    copy.put("a", b"good").await;
    let refused = failure(replay(&seen, target(&bucket, &copy), true).await);
    assert_eq!(refused.exit(), ExitCode::Partial);
    assert!(
        refused.chain()[1].contains("the newest version is not in the snapshot"),
        "{:?}",
        refused.chain()
    );
    assert_eq!(refused.chain()[1].matches("the newest version").count(), 1, "a key is named once");
    assert_eq!(history(&copy, "a").await, ["good"]);
    assert_eq!(history(&copy, "b").await, ["a1", "a2", "a3"]);
    // Where nothing is shown nothing can be hidden.
    let empty = Bucket::absent("newest-empty");
    replay(&seen, target(&bucket, &empty), false).await.unwrap();
    assert_eq!(history(&empty, "a").await, ["a1", "a2"]);
}

#[tokio::test]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_version_that_vanishes_is_counted_and_one_that_cannot_be_read_is_named() {
    let bucket = Bucket::new("expiring").await;
    bucket.keep_versions().await;
    for content in [b"one", b"two"] {
        bucket.put("a", content).await;
        bucket.put("b", content).await;
    }
    let page = bucket.client.list_object_versions().bucket(&bucket.name).prefix("a").send().await.unwrap();
    let oldest = page.versions().iter().rfind(|version| version.is_latest() == Some(false));
    let oldest = oldest.unwrap().version_id().unwrap().to_owned();
    let remove = bucket.client.delete_object().bucket(&bucket.name).key("a").version_id(&oldest);
    let expire = Fault::before("GET", "/a?", move || {
        let remove = remove.clone();
        Box::pin(async move { drop(remove.send().await.unwrap()) })
    });
    let proxy = Proxy::start(&endpoint(), vec![expire]).await;
    let seen: FlowResult<Snapshot> = stage::try_read(source_at(&proxy.url(), &bucket)).await;
    let seen = seen.unwrap();
    assert_eq!((seen.point.marks["vanished"].as_str(), seen.problems.len()), ("1", 0), "{:?}", seen.problems);
    assert_eq!(versions_of(&seen, "a").len(), 1);
    assert_eq!(seen.object(&bucket.name, "a").bytes, b"two");

    let proxy = Proxy::start(&endpoint(), vec![Fault::status("GET", "/b?", 403).always()]).await;
    let seen = stage::try_read(source_at(&proxy.url(), &bucket)).await.unwrap();
    assert_eq!(seen.problems.len(), 2, "{:?}", seen.problems);
    assert!(seen.problems[0].what.contains("/b?versionId="), "{:?}", seen.problems);
    assert_eq!(seen.problems[1].what, format!("{}/b", bucket.name));
}

#[tokio::test]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_write_that_makes_no_version_of_its_own_ends_the_restore() {
    for (key, method, target) in [("a", "PUT", "/a?"), ("p", "POST", "/p?uploadId")] {
        let bucket = Bucket::new("unkept").await;
        bucket.keep_versions().await;
        for content in [&b"one"[..], b"two", b"three"] {
            match key {
                "a" => bucket.put("a", content).await,
                _ => bucket.put_in_parts("p", &[content]).await,
            }
        }
        let seen = read(&source(&bucket)).await;
        let copy = Bucket::new("unkept-copy").await;
        copy.keep_versions().await;
        copy.put("p", b"good").await;
        let hand = copy.hand();
        let suspend = Fault::before(method, target, move || {
            let hand = hand.clone();
            Box::pin(async move { hand.suspend_versions().await })
        });
        let proxy = Proxy::start(&endpoint(), vec![suspend]).await;
        let ended = failure(replay(&seen, target_at(&proxy.url(), &bucket, &copy), true).await);
        assert_eq!(ended.exit(), ExitCode::SourceDown);
        assert!(ended.chain()[0].contains("no longer keeps what is overwritten"), "{:?}", ended.chain());
        assert!(ended.chain()[1].contains(&format!("`{key}`")), "{:?}", ended.chain());
        assert_eq!(history(&copy, key).await.last().unwrap(), "one");
    }
}

#[tokio::test]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_bucket_that_was_suspended_is_so_again_when_a_restore_ends_early() {
    let bucket = lived_in().await;
    let seen = read(&source(&bucket)).await;
    let copy = Bucket::new("early").await;
    copy.keep_versions().await;
    copy.suspend_versions().await;
    let options = WriteOptions { replace: true, ..WriteOptions::default() };
    let stop = options.stop.clone();
    let halt = Fault::before("PUT", "/a-b?", move || {
        let stop = stop.clone();
        Box::pin(async move { stop.cancel() })
    });
    let proxy = Proxy::start(&endpoint(), vec![halt]).await;
    let ended = failure(write(&seen, target_at(&proxy.url(), &bucket, &copy), options).await);
    assert_eq!(ended.exit(), ExitCode::Interrupted);
    assert!(proxy.requests().iter().any(|line| line.starts_with("PUT ") && line.contains("?versioning")));
    assert_eq!(versioning(&copy).await, Some(BucketVersioningStatus::Suspended));
    replay(&seen, target(&bucket, &copy), true).await.unwrap();
    assert_eq!(versioning(&copy).await, Some(BucketVersioningStatus::Suspended));
    assert_eq!(history(&copy, "a").await.last().unwrap(), "a4");
}

#[tokio::test]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_version_that_cannot_be_written_does_not_make_those_after_it_be_written_again() {
    let bucket = Bucket::new("torn").await;
    bucket.keep_versions().await;
    for content in [b"a1", b"a2", b"a3"] {
        bucket.put("a", content).await;
    }
    let mut seen = read(&source(&bucket)).await;
    let second = versions_of(&seen, "a")[1].meta.path.to_string();
    seen.entries.get_mut(&second).unwrap().trailer.insert("torn".to_owned(), "it broke off".into());
    let copy = Bucket::absent("torn-copy");
    for _ in 0..2 {
        let refused = failure(replay(&seen, target(&bucket, &copy), true).await);
        assert!(refused.chain()[1].contains("only a part of it: it broke off"), "{:?}", refused.chain());
        assert_eq!(history(&copy, "a").await, ["a1", "a3"]);
    }
}

#[tokio::test]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_key_that_somebody_else_wrote_gets_none_of_its_versions() {
    let bucket = Bucket::new("baton").await;
    bucket.keep_versions().await;
    for content in [b"v1", b"v2", b"v3"] {
        bucket.put("key", content).await;
    }
    let seen = read(&source(&bucket)).await;
    let refused =
        || vec![Fault::status("PUT", "/key", 400), Fault::header("HEAD", "/key", b"x-seen: before")];
    // Also where the first of its versions was refused, before the second is written.
    for (faults, named) in [(vec![], 1), (refused(), 2)] {
        let copy = Bucket::new("baton-copy").await;
        copy.keep_versions().await;
        copy.put("key", b"shown").await;
        let hand = copy.hand();
        let meanwhile = Fault::before("HEAD", "/key", move || {
            let hand = hand.clone();
            Box::pin(async move { hand.put("key", b"newer").await })
        });
        let faults = faults.into_iter().chain([meanwhile]).collect();
        let proxy = Proxy::start(&endpoint(), faults).await;
        let failure = failure(replay(&seen, target_at(&proxy.url(), &bucket, &copy), true).await);
        assert_eq!(history(&copy, "key").await, ["shown", "newer"]);
        assert!(failure.to_string().starts_with(&format!("{named} object")), "{failure}");
        assert!(failure.chain()[1].contains("somebody else wrote it"), "{:?}", failure.chain());
    }
}

#[tokio::test]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_key_whose_newest_version_is_refused_shows_what_it_showed() {
    const KEY: &str = "图/a b+c";
    let bucket = Bucket::new("newest").await;
    bucket.keep_versions().await;
    for content in [b"v1", b"v2", b"v3"] {
        bucket.put(KEY, content).await;
    }
    let seen = read(&source(&bucket)).await;
    let refused = || Fault::status("PUT", "b%2Bc", 400);
    let passed = || Fault::header("PUT", "b%2Bc", b"x-seen: before");
    let copy = Bucket::new("newest-copy").await;
    copy.keep_versions().await;
    copy.put(KEY, b"shown").await;
    let after = ["shown", "v1", "v2", "shown"];
    // The second time those that are there are not written, and the third is put over nothing.
    for faults in [vec![passed(), passed(), refused()], vec![refused()]] {
        let proxy = Proxy::start(&endpoint(), faults).await;
        let failure = failure(replay(&seen, target_at(&proxy.url(), &bucket, &copy), true).await);
        assert_eq!(history(&copy, KEY).await, after, "{:?}", failure.chain());
    }
    // Where nothing was shown the versions that could be written are.
    let new = Bucket::absent("newest-new");
    let proxy = Proxy::start(&endpoint(), vec![passed(), passed(), refused()]).await;
    failure(replay(&seen, target_at(&proxy.url(), &bucket, &new), false).await);
    assert_eq!(history(&new, KEY).await, after[1..3]);
}

/// Writes a page of a listing; each version is a key, an id and whether it is the latest.
fn page(is_truncated: bool, versions: &[(&str, &str, bool)]) -> &'static str {
    let version = |(key, id, is_latest): &(&str, &str, bool)| {
        format!(
            "<Version><Key>{key}</Key><VersionId>{id}</VersionId><IsLatest>{is_latest}</IsLatest>\
             <LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>&quot;e&quot;</ETag><Size>2</Size></Version>"
        )
    };
    let versions: String = versions.iter().map(version).collect();
    String::leak(format!(
        "<ListVersionsResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><EncodingType>url</EncodingType>\
         <IsTruncated>{is_truncated}</IsTruncated>{versions}</ListVersionsResult>"
    ))
}

/// Reads a bucket through a server whose first listings are these; returns the contents of each key's versions.
async fn read_behind(bucket: &Bucket, pages: Vec<&'static str>, keys: &[&str]) -> Vec<Vec<String>> {
    let faults = pages.into_iter().map(|page| Fault::answer("GET", "encoding-type=url", page)).collect();
    let proxy = Proxy::start(&endpoint(), faults).await;
    let seen = read(&source_at(&proxy.url(), bucket)).await;
    let contents = |key: &&str| {
        let all = versions_of(&seen, key);
        all.iter().map(|kept| String::from_utf8(kept.bytes.clone()).unwrap()).collect()
    };
    keys.iter().map(contents).collect()
}

#[tokio::test]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_key_whose_versions_went_away_between_two_pages_is_listed_once_more() {
    let bucket = Bucket::new("gap").await;
    bucket.keep_versions().await;
    let mut ids = Vec::new();
    for content in ["a1", "a2", "a3", "a4"] {
        bucket.put("a", content.as_bytes()).await;
        let head = bucket.client.head_object().bucket(&bucket.name).key("a").send().await.unwrap();
        ids.push(head.version_id().unwrap().to_owned());
    }
    bucket.put("b", b"b1").await;
    let first = page(true, &[("a", &ids[3], true), ("a", &ids[2], false)]);
    // The rest was passed over.
    let gone = bucket.client.delete_object().bucket(&bucket.name).key("a").version_id(&ids[2]);
    gone.send().await.unwrap();
    let expected = vec![vec!["a1", "a2", "a4"], vec!["b1"]];
    let skipping = page(false, &[]);
    assert_eq!(read_behind(&bucket, vec![first, skipping], &["a", "b"]).await, expected);
    // It was sent again from the newest.
    let again = page(false, &[("a", &ids[3], true), ("a", &ids[1], false), ("a", &ids[0], false)]);
    assert_eq!(read_behind(&bucket, vec![first, again], &["a", "b"]).await, expected);
    assert_eq!(read_behind(&bucket, vec![first], &["a", "b"]).await, expected, "whatever this server does");
}

#[tokio::test]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_page_of_versions_that_ends_with_a_key_that_is_no_text_does_not_end_the_listing() {
    let bucket = Bucket::new("raw-end").await;
    bucket.keep_versions().await;
    bucket.put("a", b"a1").await;
    bucket.put("b", b"b1").await;
    let head = bucket.client.head_object().bucket(&bucket.name).key("a").send().await.unwrap();
    let id = head.version_id().unwrap().to_owned();
    let first = page(true, &[("a", &id, true), ("a%FF", "x", true)]);
    let rest =
        bucket.client.list_object_versions().bucket(&bucket.name).key_marker("a").send().await.unwrap();
    let b = rest.versions().iter().find(|version| version.key() == Some("b")).unwrap();
    let second = page(false, &[("a%FF", "x", true), ("b", b.version_id().unwrap(), true)]);
    let proxy = Proxy::start(
        &endpoint(),
        vec![
            Fault::answer("GET", "encoding-type=url", first),
            Fault::answer("GET", "encoding-type=url", second),
        ],
    )
    .await;
    let seen = read(&source_at(&proxy.url(), &bucket)).await;
    assert_eq!(seen.problems.len(), 1, "{:?}", seen.problems);
    assert_eq!(seen.problems[0].why, "its key is not UTF-8");
}
