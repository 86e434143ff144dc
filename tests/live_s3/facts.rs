//! Facts beside the bytes: tags that change alone, storage classes, and settings that a server may not have.

use std::collections::BTreeMap;

use aws_sdk_s3::types::{Tag, Tagging};
use lifeboat::policy::S3Tags;
use serde_json::{Value, json};

use super::{
    proxy::{Fault, Proxy},
    stage::{self, Bucket, Snapshot, read, read_after, remembered, replay},
};

async fn tag(bucket: &Bucket, key: &str, value: Option<&str>) {
    let request = bucket.client.put_object_tagging().bucket(&bucket.name).key(key);
    let tags = value.map(|value| Tag::builder().key("colour").value(value).build().unwrap());
    let tags = Tagging::builder().set_tag_set(Some(tags.into_iter().collect())).build().unwrap();
    request.tagging(tags).send().await.unwrap();
}

fn colour(seen: &Snapshot, bucket: &Bucket, key: &str) -> Value {
    seen.object(&bucket.name, key).meta.attrs.get("tags").map_or(Value::Null, |tags| tags["colour"].clone())
}

#[tokio::test]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn tags_that_change_alone_are_seen_and_restored() {
    let bucket = Bucket::new("retag").await;
    for key in ["changed", "ended", "first", "never"] {
        bucket.put(key, key.as_bytes()).await;
    }
    tag(&bucket, "changed", Some("red")).await;
    tag(&bucket, "ended", Some("red")).await;
    let before = read(&bucket.source()).await;
    assert_eq!(colour(&before, &bucket, "changed"), "red");
    tag(&bucket, "changed", Some("blue")).await;
    tag(&bucket, "ended", None).await;
    let after = read_after(&bucket.source(), remembered(&before)).await;
    assert_eq!(
        (colour(&after, &bucket, "changed"), colour(&after, &bucket, "ended")),
        (json!("blue"), Value::Null)
    );
    tag(&bucket, "first", Some("green")).await;
    let always = bucket.source_asking(S3Tags::Always);
    let all = read_after(&always, remembered(&after)).await;
    assert_eq!(
        (colour(&all, &bucket, "first"), colour(&all, &bucket, "never")),
        (json!("green"), Value::Null)
    );
    assert_eq!(all.problems.len(), 0);

    // Restored beside, they have the tags of that run.
    let copy = Bucket::absent("retag-copy");
    let target = bucket.target().into_bucket(Some(copy.name.clone()));
    let kept: BTreeMap<_, _> = all
        .entries
        .clone()
        .into_iter()
        .map(|(path, mut kept)| {
            if let Some(first) = before.entries.get(&path) {
                kept.bytes.clone_from(&first.bytes);
            }
            kept.reused = false;
            (path, kept)
        })
        .collect();
    let all = Snapshot { entries: kept, ..all };
    replay(&all, Box::new(target), false).await.unwrap();
    let again = read(&copy.source()).await;
    assert_eq!(
        (colour(&again, &copy, "changed"), colour(&again, &copy, "first")),
        (json!("blue"), json!("green"))
    );
}

#[tokio::test]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn tags_that_the_backup_could_not_read_are_left_on_what_is_the_same_and_told_where_it_is_not() {
    let bucket = Bucket::new("unread").await;
    for key in ["same", "changed"] {
        bucket.put(key, b"old").await;
        tag(&bucket, key, Some("red")).await;
    }
    let fault = Fault::status("GET", "?tagging", 403).always();
    let proxy = Proxy::start(&stage::endpoint(), vec![fault]).await;
    let seen = read(&bucket.source_at(&proxy.url())).await;
    assert!(seen.object(&bucket.name, "same").meta.attrs.contains_key("tags_unread"));
    bucket.put("changed", b"new").await;
    tag(&bucket, "changed", Some("blue")).await;
    let tally = replay(&seen, Box::new(bucket.target()), true).await.unwrap();
    let changes = tally.changes.unwrap();
    assert_eq!((changes.equal, changes.changed), (1, 1));
    let told: Vec<_> = tally.notes.iter().filter(|note| note.contains("without the tags")).collect();
    let named = format!(
        "1 objects were written without the tags that the backup could not read: `{}/changed`",
        bucket.name
    );
    assert_eq!(told, [&named]);
    let after = read(&bucket.source()).await;
    assert_eq!(colour(&after, &bucket, "same"), "red");
    assert_eq!(after.object(&bucket.name, "changed").bytes, b"old");
}

#[tokio::test]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_storage_class_that_the_server_has_not_costs_no_object() {
    let bucket = Bucket::new("class").await;
    bucket.put("small", b"small").await;
    bucket.put_in_parts("parts", &[b"in one"]).await;
    bucket.put("cold", b"cold").await;
    let mut seen = read(&bucket.source()).await;
    for (key, class) in [("small", "NO_SUCH_CLASS"), ("parts", "NO_SUCH_CLASS"), ("cold", "GLACIER")] {
        let kept = seen.entries.values_mut().find(|kept| kept.meta.text("key") == Some(key)).unwrap();
        kept.meta.attrs.insert("storage_class".to_owned(), class.into());
    }
    let copy = Bucket::absent("class-copy");
    let target = bucket.target().into_bucket(Some(copy.name.clone()));
    let tally = replay(&seen, Box::new(target), false).await.unwrap();
    assert_eq!(copy.get("small").await, b"small");
    assert_eq!(copy.get("cold").await, b"cold");
    let notes: Vec<_> = tally.notes.iter().filter(|note| note.contains("NO_SUCH_CLASS")).collect();
    let after = read(&copy.source()).await;
    let class = after.object(&copy.name, "small").meta.attrs.get("storage_class").cloned();
    // A server refuses a class or takes any name for one; what it does is told, or done.
    assert!(
        notes.len() == 1 && class.is_none() || class == Some("NO_SUCH_CLASS".into()),
        "{notes:?} {class:?}"
    );
    assert!(!after.object(&copy.name, "cold").meta.attrs.contains_key("storage_class"));
}

#[tokio::test]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn notification_and_encryption_that_a_server_refuses_are_told_and_are_no_failure() {
    let bucket = Bucket::new("settings").await;
    bucket.put("a", b"a").await;
    let mut seen = read(&bucket.source()).await;
    let path = format!("%bucket/{}.json", bucket.name);
    let kept = seen.entries.get_mut(&path).unwrap();
    let mut settings: Value = serde_json::from_slice(&kept.bytes).unwrap();
    settings["notification"] = "<NotificationConfiguration><TopicConfiguration><Id>n</Id>\
        <Topic>arn:aws:sns:default::no-such-topic</Topic><Event>s3:ObjectCreated:*</Event>\
        </TopicConfiguration></NotificationConfiguration>"
        .into();
    settings["encryption"] = "<ServerSideEncryptionConfiguration><Rule><ApplyServerSideEncryptionByDefault>\
        <SSEAlgorithm>no-such</SSEAlgorithm></ApplyServerSideEncryptionByDefault></Rule>\
        </ServerSideEncryptionConfiguration>"
        .into();
    kept.bytes = settings.to_string().into_bytes();
    let copy = Bucket::absent("settings-copy");
    let target = bucket.target().into_bucket(Some(copy.name.clone()));
    let tally = replay(&seen, Box::new(target), false).await.unwrap();
    assert_eq!(copy.get("a").await, b"a");
    let told = tally.notes.iter().filter(|note| note.contains("a setting of bucket")).count();
    assert_eq!(told, 2, "{:?}", tally.notes);
}

#[tokio::test]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn lifecycle_rules_come_after_the_last_object() {
    let bucket = Bucket::new("rules").await;
    for n in 0..12 {
        bucket.put(&format!("logs/{n}"), b"old").await;
    }
    bucket.expire_after_days(3000).await;
    let seen = read(&bucket.source()).await;
    let copy = Bucket::absent("rules-copy");
    let proxy = Proxy::start(&stage::endpoint(), vec![]).await;
    let target = bucket.target_at(&proxy.url()).into_bucket(Some(copy.name.clone()));
    replay(&seen, Box::new(target), false).await.unwrap();
    let requests = proxy.requests();
    let sets_rules = |line: &String| line.starts_with("PUT ") && line.contains("?lifecycle");
    let rules = requests.iter().position(sets_rules).unwrap();
    let last = requests.iter().rposition(|line| stage::writes_an_object(line)).unwrap();
    assert!(last < rules, "{requests:#?}");
    assert!(copy.expires().await);
}

#[tokio::test]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn encryption_with_a_key_that_the_server_has_not_keeps_no_object_away() {
    const RULE: &str = "<ServerSideEncryptionConfiguration><Rule/></ServerSideEncryptionConfiguration>";
    let bucket = Bucket::new("kms").await;
    bucket.put("a", b"a").await;
    let mut seen = read(&bucket.source()).await;
    let kept = seen.entries.get_mut(&format!("%bucket/{}.json", bucket.name)).unwrap();
    let mut settings: Value = serde_json::from_slice(&kept.bytes).unwrap();
    settings["encryption"] = "<ServerSideEncryptionConfiguration><Rule><ApplyServerSideEncryptionByDefault>\
        <SSEAlgorithm>aws:kms</SSEAlgorithm><KMSMasterKeyID>no-such-key</KMSMasterKeyID>\
        </ApplyServerSideEncryptionByDefault></Rule></ServerSideEncryptionConfiguration>"
        .into();
    kept.bytes = settings.to_string().into_bytes();
    let copy = Bucket::absent("kms-copy");
    // Others take the name of any key, and then refuse what is written.
    let faults = vec![Fault::answer("PUT", "?encryption", ""), Fault::status("PUT", "/.lifeboat-probe", 400)];
    let proxy = Proxy::start(&stage::endpoint(), faults).await;
    let target = bucket.target_at(&proxy.url()).into_bucket(Some(copy.name.clone()));
    let tally = replay(&seen, Box::new(target), false).await.unwrap();
    assert_eq!(copy.all().await, [("a".to_owned(), b"a".to_vec())].into());
    let is_told = tally.notes.iter().any(|note| note.contains("nothing can be written with it"));
    assert!(is_told, "{:?}", tally.notes);
    let asked = proxy.requests();
    // To this server, which shows no such setting, its removal would be that of the empty bucket.
    let takes_away = |line: &String| line.starts_with("DELETE ") && line.contains("?encryption");
    assert!(!asked.iter().any(takes_away), "{asked:#?}");
    // Where it is shown it is taken away again before an object is written.
    let faults = vec![
        Fault::status("GET", "?encryption", 404),
        Fault::answer("GET", "?encryption", RULE),
        Fault::answer("PUT", "?encryption", ""),
        Fault::status("PUT", "/.lifeboat-probe", 400),
        Fault::answer("DELETE", "?encryption", ""),
    ];
    let copy = Bucket::absent("kms-shown");
    let proxy = Proxy::start(&stage::endpoint(), faults).await;
    let target = bucket.target_at(&proxy.url()).into_bucket(Some(copy.name.clone()));
    replay(&seen, Box::new(target), false).await.unwrap();
    let asked = proxy.requests();
    let taken_away = asked.iter().position(takes_away);
    let written = asked.iter().position(|line| stage::writes_an_object(line));
    assert!(taken_away.is_some() && taken_away < written, "{asked:#?}");
}
