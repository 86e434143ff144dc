//! What a plan tells of what stands in the target, and what keys showed at a time.

use std::collections::BTreeMap;

use aws_sdk_s3::types::BucketVersioningStatus;
use chrono::{DateTime, TimeDelta, Utc};
use lifeboat::{
    error::ExitCode,
    flow::{Changes, EntryMeta, FlowResult, Preflight, Selection, Stage, Target, WriteOptions, fixed_path},
    s3::S3Target,
};

use super::{
    failure,
    proxy::Proxy,
    stage::{Bucket, Kept, Snapshot, endpoint, look, read, write},
    versions::{self, history, target_at},
};

fn replacing(only: Selection) -> WriteOptions {
    WriteOptions { replace: true, only, ..WriteOptions::default() }
}

/// Returns what a plan tells, after making sure that it only reads.
async fn plan(all: &Snapshot, make: impl Fn(&str) -> Box<S3Target>, only: &Selection) -> Preflight {
    let proxy = Proxy::start(&endpoint(), vec![]).await;
    let found = look(all, &mut *make(&proxy.url()), &replacing(only.clone())).await.unwrap();
    let asked = proxy.requests();
    assert!(!asked.is_empty() && asked.iter().all(|line| line.starts_with("GET ")), "{asked:#?}");
    let of_an_object = asked.iter().filter(|line| super::stage::reads_an_object(line)).count();
    assert_eq!(of_an_object, 0, "it lists and asks for no object: {asked:#?}");
    found
}

/// Carries a plan out and checks that it told the truth.
async fn carry_out(all: &Snapshot, make: impl Fn(&str) -> Box<S3Target>, only: Selection) -> Changes {
    let planned = plan(all, &make, &only).await.changes.unwrap();
    let tally = write(all, make(&endpoint()), replacing(only)).await.unwrap();
    let done = tally.changes.unwrap();
    assert_eq!(planned, done);
    done
}

#[tokio::test]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_plan_counts_what_is_equal_changed_new_and_extra_as_the_restore_then_does() {
    let bucket = Bucket::new("planned").await;
    for n in 0..12 {
        bucket.put(&format!("k{n:02}"), format!("body {n}").as_bytes()).await;
    }
    let seen = read(&bucket.source()).await;
    bucket.put("k03", b"changed").await;
    bucket.delete("k04").await;
    bucket.delete("k11").await;
    let extras: Vec<String> = (0..25).map(|n| format!("x{n:02}")).collect();
    for key in &extras {
        bucket.put(key, b"extra").await;
    }
    let before = bucket.all().await;
    let make = |endpoint: &str| Box::new(bucket.target_at(endpoint));
    let part = Selection::new(&[format!("{}/k0?", bucket.name)]).unwrap();
    let of_part = plan(&seen, make, &part).await.changes.unwrap();
    assert_eq!((of_part.equal, of_part.changed, of_part.new, of_part.extra), (8, 1, 1, 0));
    let planned = plan(&seen, make, &Selection::all()).await.changes.unwrap();
    assert_eq!((planned.equal, planned.changed, planned.new, planned.extra), (9, 1, 2, 25));
    let named: Vec<String> = extras[..20].iter().map(|key| format!("{}/{key}", bucket.name)).collect();
    assert_eq!(planned.extra_named, named);
    assert_eq!(bucket.all().await, before);
    assert_eq!(carry_out(&seen, make, Selection::all()).await, planned);
    let after = carry_out(&seen, make, Selection::all()).await;
    assert_eq!((after.equal, after.changed, after.new, after.extra), (12, 0, 0, 0));
}

#[tokio::test]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_plan_of_a_bucket_that_is_not_there_makes_none_and_one_that_lacks_something_removes_nothing() {
    let bucket = Bucket::new("plan-new").await;
    for key in ["a", "b"] {
        bucket.put(key, b"x").await;
    }
    let mut seen = read(&bucket.source()).await;
    let copy = Bucket::absent("plan-new-copy");
    let into = |endpoint: &str| Box::new(bucket.target_at(endpoint).into_bucket(Some(copy.name.clone())));
    let planned = plan(&seen, into, &Selection::all()).await.changes.unwrap();
    assert_eq!((planned.equal, planned.new, planned.extra), (0, 2, 0));
    let head = copy.client.head_bucket().bucket(&copy.name).send().await;
    assert!(head.is_err(), "the bucket was made");

    bucket.put("x", b"extra").await;
    let why = "it could not be read".to_owned();
    seen.problems.push(lifeboat::flow::Problem { what: format!("{}/x", bucket.name), why });
    let found = plan(&seen, |endpoint| Box::new(bucket.target_at(endpoint)), &Selection::all()).await;
    assert_eq!(found.changes.unwrap().extra, 0);
    assert!(found.remarks[0].why.starts_with("nothing is removed"), "{:?}", found.remarks);
}

#[tokio::test]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn of_a_part_with_many_objects_the_rest_of_the_bucket_is_listed() {
    const COUNT: usize = 1020;
    let bucket = Bucket::new("many-looks").await;
    let keys: Vec<String> = (0..COUNT).map(|n| format!("k{n:04}")).collect();
    for n in [3, 1010, 1012, 1019] {
        bucket.put(&keys[n], b"same").await;
    }
    bucket.put(&keys[1015], b"other").await;
    bucket.put("k1013-between", b"nobody's").await;
    let mut seen = read(&bucket.source()).await;
    let like = seen.object(&bucket.name, &keys[3]).clone();
    // The plan asks for no bytes, so those of the others need not be anywhere.
    for key in &keys {
        let meta = EntryMeta { select: format!("{}/{key}", bucket.name), ..like.meta.clone() };
        let kept = Kept { meta: meta.with("key", key.as_str()), ..like.clone() };
        seen.entries.insert(format!("{}/{key}", bucket.name), kept);
    }
    seen.order.retain(|path| path.starts_with('%'));
    seen.order.extend(keys.iter().map(|key| format!("{}/{key}", bucket.name)));
    let part = Selection::new(&[format!("{}/k*", bucket.name)]).unwrap();
    let found = plan(&seen, |endpoint| Box::new(bucket.target_at(endpoint)), &part).await;
    let changes = found.changes.unwrap();
    assert_eq!((changes.equal, changes.changed, changes.new), (4, 1, COUNT as u64 - 5));
}

#[tokio::test]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_plan_of_histories_counts_as_the_restore_then_does() {
    let bucket = versions::lived_in().await;
    let seen = read(&versions::source(&bucket)).await;
    let copy = Bucket::absent("plan-history");
    let make = |endpoint: &str| target_at(endpoint, &bucket, &copy);
    let first = carry_out(&seen, make, Selection::all()).await;
    assert_eq!((first.equal, first.changed, first.new, first.extra), (0, 0, 15, 0));
    copy.keep_versions().await;
    copy.put("a", b"since").await;
    copy.put("extra", b"x").await;
    copy.delete("late").await;
    let again = carry_out(&seen, make, Selection::all()).await;
    assert_eq!((again.changed, again.new, again.extra), (0, 2, 1), "{again:?}");

    let flat = Bucket::new("plan-flat").await;
    flat.put("a", b"other").await;
    let only = Selection::new(std::slice::from_ref(&bucket.name)).unwrap();
    let make = |endpoint: &str| target_at(endpoint, &bucket, &flat);
    let remarks = plan(&seen, make, &only).await.remarks;
    assert!(remarks.iter().any(|remark| remark.why.contains("find no place")), "{remarks:?}");
    let into_flat = carry_out(&seen, make, only).await;
    assert_eq!((into_flat.equal, into_flat.changed), (0, 1), "{into_flat:?}");
}

/// Returns when the versions of a key were made, the oldest first.
fn made(seen: &Snapshot, key: &str) -> Vec<DateTime<Utc>> {
    let of = |meta: &EntryMeta| [meta.text("key"), meta.text("version_of")].contains(&Some(key));
    let metas = seen.order.iter().map(|path| &seen.entries[path].meta).filter(|meta| of(meta));
    metas.map(|meta| meta.text("last_modified").unwrap().parse().unwrap()).collect()
}

fn content(pairs: &[(&str, &str)]) -> BTreeMap<String, Vec<u8>> {
    pairs.iter().map(|(key, bytes)| ((*key).to_owned(), bytes.as_bytes().to_vec())).collect()
}

/// Makes a bucket of which `b` was deleted, `a` written over, `d` made later and `e` deleted and made again.
async fn moved_on() -> Bucket {
    let bucket = Bucket::new("moved-on").await;
    bucket.keep_versions().await;
    for (key, bytes) in [("a", "a1"), ("b", "b1"), ("c", "c1"), ("e", "e1")] {
        bucket.put(key, bytes.as_bytes()).await;
    }
    bucket.delete("b").await;
    bucket.put("a", b"a2").await;
    bucket.delete("e").await;
    bucket.put("d", b"d1").await;
    bucket.put("e", b"e2").await;
    bucket
}

#[tokio::test]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn as_of_a_time_each_key_shows_what_it_showed_then() {
    let bucket = moved_on().await;
    let seen = read(&versions::source(&bucket)).await;
    let (a, b, d, e) = (made(&seen, "a"), made(&seen, "b"), made(&seen, "d"), made(&seen, "e"));
    let moments = [
        (a[0], content(&[("a", "a1")])),
        (e[0], content(&[("a", "a1"), ("b", "b1"), ("c", "c1"), ("e", "e1")])),
        (b[1], content(&[("a", "a1"), ("c", "c1"), ("e", "e1")])),
        (a[1] - TimeDelta::milliseconds(1), content(&[("a", "a1"), ("c", "c1"), ("e", "e1")])),
        (a[1], content(&[("a", "a2"), ("c", "c1"), ("e", "e1")])),
        (e[1], content(&[("a", "a2"), ("c", "c1")])),
        (d[0], content(&[("a", "a2"), ("c", "c1"), ("d", "d1")])),
        (e[2], content(&[("a", "a2"), ("c", "c1"), ("d", "d1"), ("e", "e2")])),
    ];
    for (time, expected) in moments {
        let copy = Bucket::absent("then");
        let only = Selection::all().at(Some(time));
        let make = |endpoint: &str| target_at(endpoint, &bucket, &copy);
        let done = carry_out(&seen, make, only).await;
        assert_eq!((done.new, copy.all().await), (expected.len() as u64, expected), "as of {time}");
    }
    let copy = Bucket::absent("then-one");
    let only = Selection::new(&[format!("{}/[ab]", bucket.name)]).unwrap().at(Some(b[1]));
    write(&seen, target_at(&endpoint(), &bucket, &copy), replacing(only)).await.unwrap();
    assert_eq!(copy.all().await, content(&[("a", "a1")]));
}

#[tokio::test]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_bucket_that_is_put_back_to_a_time_keeps_what_it_showed_since_beneath() {
    let bucket = moved_on().await;
    bucket.suspend_versions().await;
    bucket.put("late", b"l1").await;
    bucket.put("c", b"c2").await;
    let seen = read(&versions::source(&bucket)).await;
    let then = made(&seen, "e")[0];
    let make = |endpoint: &str| target_at(endpoint, &bucket, &bucket);
    let done = carry_out(&seen, make, Selection::all().at(Some(then))).await;
    assert_eq!((done.equal, done.changed, done.new, done.extra), (0, 3, 1, 2));
    assert_eq!(done.extra_named, ["d", "late"].map(|key| format!("{}/{key}", bucket.name)));
    assert_eq!(bucket.all().await, content(&[("a", "a1"), ("b", "b1"), ("c", "c1"), ("e", "e1")]));
    assert_eq!(history(&bucket, "a").await, ["a1", "a2", "a1"]);
    assert_eq!(history(&bucket, "b").await, ["b1", "-", "b1"]);
    assert_eq!(history(&bucket, "d").await, ["d1", "-"]);
    // What was written while no versions were kept would be gone for good.
    assert_eq!(history(&bucket, "c").await, ["c1", "c2", "c1"]);
    assert_eq!(history(&bucket, "late").await, ["l1", "-"]);
    assert_eq!(versions::versioning(&bucket).await, Some(BucketVersioningStatus::Suspended));
    let again = carry_out(&seen, make, Selection::all().at(Some(then))).await;
    assert_eq!((again.equal, again.changed, again.new, again.extra), (4, 0, 0, 0));
}

#[tokio::test]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_snapshot_of_what_keys_show_is_restored_as_of_no_other_time() {
    fn refused<T: std::fmt::Debug>(done: FlowResult<T>) {
        let refused = failure(done);
        assert_eq!(refused.exit(), ExitCode::Usage);
        assert!(refused.to_string().contains("has no versions of bucket"), "{refused}");
    }
    let bucket = moved_on().await;
    let mut seen = read(&bucket.source()).await;
    let copy = Bucket::absent("only-current");
    let target = || target_at(&endpoint(), &bucket, &copy);
    let options = || replacing(Selection::all().at("2100-01-01T00:00:00Z".parse().ok()));
    // Also where the settings, which say so, could not be read.
    for _ in 0..2 {
        refused(look(&seen, &mut *target(), &options()).await.map_err(Into::into));
        refused(write(&seen, target(), options()).await);
        seen.order.retain(|path| !path.starts_with('%'));
    }
    assert!(copy.client.head_bucket().bucket(&copy.name).send().await.is_err(), "the bucket was made");
}

/// Rights are told without a word to the server.
#[tokio::test]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_plan_tells_what_becomes_of_users_and_rights() {
    let bucket = Bucket::new("plan-rights").await;
    let mut seen = read(&bucket.source()).await;
    let without = |iam: bool| move |endpoint: &str, bucket: &Bucket| bucket.target_at(endpoint).with_iam(iam);
    let remark = async |seen: &Snapshot, iam: bool| {
        let mut target = without(iam)(&endpoint(), &bucket);
        let found = look(seen, &mut target as &mut dyn Target, &WriteOptions::default()).await.unwrap();
        found.remarks.first().map(|remark| remark.why.clone()).unwrap_or_default()
    };
    assert_eq!(remark(&seen, false).await, "");
    assert!(remark(&seen, true).await.starts_with("none would come"));
    let meta = EntryMeta::new(fixed_path("%admin/iam.zip"), Stage::After, "%admin");
    let kept = Kept { meta, trailer: BTreeMap::default(), bytes: vec![], reused: false };
    seen.entries.insert("%admin/iam.zip".to_owned(), kept);
    seen.order.push("%admin/iam.zip".to_owned());
    assert!(remark(&seen, false).await.ends_with("--iam does"));
    assert!(remark(&seen, true).await.starts_with("they are put back"));
}
