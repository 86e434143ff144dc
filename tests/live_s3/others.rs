//! Somebody else writes into a bucket while it is restored.

use lifeboat::{error::ExitCode, names::EntryPath};

use super::{
    failure,
    proxy::{Fault, Proxy},
    stage::{Bucket, Hand, endpoint, read, replay},
};

/// Lets somebody write a key right before a request is handed on.
fn meanwhile(method: &'static str, target: &'static str, hand: Hand, key: &'static str) -> Fault {
    Fault::before(method, target, move || {
        let hand = hand.clone();
        Box::pin(async move { hand.put(key, b"a user's").await })
    })
}

#[tokio::test]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn what_is_written_where_nothing_stood_is_not_overwritten() {
    let bucket = Bucket::new("fresh").await;
    let half = vec![7; 5 << 20];
    bucket.put("a", b"from the snapshot").await;
    bucket.put("b", b"from the snapshot").await;
    bucket.put_in_parts("big", &[&half, b"end"]).await;
    let seen = read(&bucket.source()).await;
    // Ceph keeps to conditions of writing only in buckets without versions; both must come to the same.
    for versions in [false, true] {
        let copy = Bucket::new("fresh-copy").await;
        if versions {
            copy.keep_versions().await;
        }
        let method = if versions { "HEAD" } else { "PUT" };
        let faults =
            vec![meanwhile(method, "/a", copy.hand(), "a"), meanwhile("HEAD", "/big", copy.hand(), "big")];
        let proxy = Proxy::start(&endpoint(), faults).await;
        let target = bucket.target_at(&proxy.url()).into_bucket(Some(copy.name.clone()));
        let failure = failure(replay(&seen, Box::new(target), false).await);
        assert_eq!(failure.exit(), ExitCode::Partial, "{:?}", failure.chain());
        assert!(failure.chain()[1].contains("somebody else wrote it"), "{:?}", failure.chain());
        for (key, bytes) in [("a", &b"a user's"[..]), ("b", b"from the snapshot"), ("big", b"a user's")] {
            assert_eq!(copy.get(key).await, bytes, "{key}, versions {versions}");
        }
        let page = copy.client.list_object_versions().bucket(&copy.name).send().await.unwrap();
        assert_eq!(page.versions().len(), 3, "what the bucket was tried with is gone: {page:?}");
        assert!(page.delete_markers().is_empty(), "{page:?}");
    }
}

#[tokio::test]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn what_is_written_after_it_was_listed_is_neither_replaced_nor_removed() {
    let bucket = Bucket::new("listed").await;
    for key in ["a", "b"] {
        bucket.put(key, b"from the snapshot").await;
    }
    let seen = read(&bucket.source()).await;
    for key in ["a", "b", "x", "y"] {
        bucket.put(key, b"since").await;
    }
    let proxy = Proxy::start(&endpoint(), vec![meanwhile("HEAD", "/b", bucket.hand(), "b")]).await;
    let failure = failure(replay(&seen, Box::new(bucket.target_at(&proxy.url())), true).await);
    assert!(failure.chain()[1].contains("/b`: somebody else wrote it"), "{:?}", failure.chain());
    assert_eq!(bucket.get("a").await, b"from the snapshot");
    assert_eq!(bucket.get("b").await, b"a user's");
    assert_eq!(bucket.keys().await, ["a", "b", "x", "y"], "with one refused nothing is removed");

    let proxy = Proxy::start(&endpoint(), vec![meanwhile("HEAD", "/x", bucket.hand(), "x")]).await;
    let tally = replay(&seen, Box::new(bucket.target_at(&proxy.url())), true).await.unwrap();
    assert_eq!(bucket.keys().await, ["a", "b", "x"]);
    assert_eq!(bucket.get("x").await, b"a user's");
    for note in [
        "1 objects that the snapshot does not have were removed",
        "1 objects that the snapshot does not have were written or removed meanwhile",
    ] {
        assert!(tally.notes.iter().any(|one| one.starts_with(note)), "{note}: {:?}", tally.notes);
    }
}

#[tokio::test]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_target_that_refuses_everything_is_not_fed_to_the_end() {
    let bucket = Bucket::new("refusing").await;
    bucket.put("k", b"some").await;
    let mut seen = read(&bucket.source()).await;
    let (path, kept) = (seen.order.pop().unwrap(), seen.object(&bucket.name, "k").clone());
    for n in 0..1500 {
        let (path, mut kept) = (format!("{path}{n:04}"), kept.clone());
        kept.meta.path = EntryPath::new(&path).unwrap();
        kept.meta.attrs.insert("key".to_owned(), format!("k{n:04}").into());
        seen.order.push(path.clone());
        seen.entries.insert(path, kept);
    }
    let copy = Bucket::new("refusing-copy").await;
    let proxy = Proxy::start(&endpoint(), vec![Fault::status("PUT", "/k", 403).always()]).await;
    let target = bucket.target_at(&proxy.url()).into_bucket(Some(copy.name.clone()));
    let failure = failure(replay(&seen, Box::new(target), false).await);
    assert_eq!(failure.exit(), ExitCode::Partial);
    assert!(failure.to_string().starts_with("1000 objects"), "{failure}");
    let tried =
        proxy.requests().iter().filter(|line| line.starts_with("PUT ") && line.contains("/k")).count();
    assert!((1000..1100).contains(&tried), "{tried} were tried");
}

#[tokio::test]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_write_whose_answer_was_lost_is_known_as_our_own() {
    let bucket = Bucket::new("lost-answer").await;
    bucket.put("a", b"from the snapshot").await;
    let seen = read(&bucket.source()).await;
    let copy = Bucket::new("lost-copy").await;
    // The server writes it, the answer breaks off, and the SDK sends the request again.
    let proxy = Proxy::start(&endpoint(), vec![Fault::lost("PUT", "/a")]).await;
    let target = bucket.target_at(&proxy.url()).into_bucket(Some(copy.name.clone()));
    replay(&seen, Box::new(target), false).await.unwrap();
    assert_eq!(copy.get("a").await, b"from the snapshot");
    let puts =
        proxy.requests().iter().filter(|line| line.starts_with("PUT ") && line.contains("/a?")).count();
    assert_eq!(puts, 2);
}
