//! A bucket that shows less than it did.

use lifeboat::{error::ExitCode, s3::Shrink};

use super::{
    failure,
    proxy::{Fault, Proxy},
    stage::{Bucket, endpoint, read, remembered, source_of, try_read, try_read_after},
};

#[tokio::test]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn an_emptied_or_shrunken_bucket_is_refused_until_a_person_says_that_it_is_right() {
    let bucket = Bucket::new("anomaly").await;
    for n in 0..12 {
        bucket.put(&format!("k{n:02}"), b"some").await;
    }
    let first = read(&bucket.source()).await;
    for n in 0..4 {
        bucket.delete(&format!("k{n:02}")).await;
    }
    let refused = failure(try_read_after(bucket.source(), remembered(&first)).await);
    assert_eq!(refused.exit(), ExitCode::SourceDown);
    assert!(refused.chain()[1].contains("4 of its 12 objects are gone"), "{:?}", refused.chain());
    assert!(refused.hints()[0].contains("lifeboat backup minio --accept-shrink"), "{:?}", refused.hints());
    // Another night of the same is refused the same: it is compared with what was there before.
    failure(try_read_after(bucket.source(), remembered(&first)).await);
    let looser = bucket.source().shrinking(Shrink::Percent(34));
    assert_eq!(try_read_after(looser, remembered(&first)).await.unwrap().problems, []);

    for key in bucket.keys().await {
        bucket.delete(&key).await;
    }
    let refused = failure(try_read_after(bucket.source(), remembered(&first)).await);
    assert!(refused.chain()[1].contains("empty now and had 12"), "{:?}", refused.chain());
    let accepted = bucket.source().shrinking(Shrink::Accepted);
    let empty = try_read_after(accepted, remembered(&first)).await.unwrap();
    assert_eq!((empty.problems.len(), empty.entries.len()), (0, 1));
    // What was accepted is what the next run is compared with.
    assert_eq!(try_read_after(bucket.source(), remembered(&empty)).await.unwrap().problems, []);
}

#[tokio::test]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_listing_that_is_empty_once_is_named_as_what_it_is() {
    const EMPTY: &str =
        "<ListBucketResult><KeyCount>0</KeyCount><IsTruncated>false</IsTruncated></ListBucketResult>";
    let bucket = Bucket::new("listing").await;
    bucket.put("a", b"a").await;
    let first = read(&bucket.source()).await;
    let proxy = Proxy::start(&endpoint(), vec![Fault::answer("GET", "encoding-type=url", EMPTY)]).await;
    let refused = failure(try_read_after(bucket.source_at(&proxy.url()), remembered(&first)).await);
    assert_eq!(refused.exit(), ExitCode::SourceDown);
    assert!(refused.to_string().contains("cannot be trusted"), "{refused}");
    assert!(refused.chain()[1].contains("had 0 objects and, a moment later, 1"), "{:?}", refused.chain());
}

#[tokio::test]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_pattern_that_finds_no_bucket_backs_up_nothing_and_says_so() {
    let nothing = Bucket::absent("none");
    let source = || source_of(&format!("{}-*", nothing.name));
    let refused = failure(try_read(source()).await);
    assert_eq!(refused.exit(), ExitCode::SourceDown);
    assert!(refused.to_string().contains("has no bucket that matches"), "{refused}");
    let empty = try_read(source().shrinking(Shrink::Accepted)).await.unwrap();
    assert!(empty.inventory.is_empty());
    assert!(try_read_after(source(), remembered(&empty)).await.unwrap().entries.is_empty());
}

#[tokio::test]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_bucket_that_the_policy_takes_no_more_is_told_and_one_that_is_gone_is_refused() {
    let (one, two) = (Bucket::new("taken").await, Bucket::new("taken").await);
    for bucket in [&one, &two] {
        bucket.put("a", b"a").await;
    }
    // Both names, or one that begins as the other does.
    let both = source_of(&format!("{{{},{}}}", one.name, two.name));
    let first = read(&both).await;
    assert_eq!(first.inventory.len(), 2);
    let left = try_read_after(one.source(), remembered(&first)).await.unwrap();
    assert_eq!(left.problems.len(), 1, "{:?}", left.problems);
    assert!(left.problems[0].why.contains("the policy does not take it"), "{:?}", left.problems);

    two.delete("a").await;
    two.client.delete_bucket().bucket(&two.name).send().await.unwrap();
    let refused = failure(try_read_after(both, remembered(&first)).await);
    assert!(refused.to_string().ends_with("is gone"), "{refused}");
}
