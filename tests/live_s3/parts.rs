//! Objects made in parts, and facts that need a second look.

use lifeboat::flow::Verified;

use super::{
    proxy::{Fault, Proxy},
    stage::{self, Bucket, read, read_after, remembered, replay},
};

fn bytes(count: u32) -> Vec<u8> {
    (0..count).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

#[tokio::test]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn objects_made_in_parts_are_proven_and_come_back_with_their_etags() {
    const MIB: usize = 1 << 20;
    let bucket = Bucket::new("made").await;
    let big = bytes(17 << 20);
    // Of several sizes that give two parts this is not the likeliest.
    bucket.put_in_parts("in two", &[&big[..6 * MIB], &big[..5 * MIB]]).await;
    bucket.put_in_parts("in one", &[b"short"]).await;
    bucket.put("whole", &big).await;
    let seen = read(&bucket.source()).await;
    assert_eq!(seen.object(&bucket.name, "in two").trailer["part_bytes"], 6 * MIB);
    assert_eq!(seen.object(&bucket.name, "in one").trailer["part_bytes"], 5);
    assert!(!seen.object(&bucket.name, "whole").trailer.contains_key("part_bytes"));
    assert_eq!(seen.point.marks["unproven"], "0");

    let copy = Bucket::absent("made-copy");
    let target = || bucket.target().into_bucket(Some(copy.name.clone()));
    replay(&seen, Box::new(target()), false).await.unwrap();
    let after = read(&copy.source()).await;
    for key in ["in two", "in one", "whole"] {
        let (one, two) = (seen.object(&bucket.name, key), after.object(&copy.name, key));
        assert_eq!((&one.meta.attrs["etag"], &one.trailer), (&two.meta.attrs["etag"], &two.trailer), "{key}");
    }
    let proxy = Proxy::start(&stage::endpoint(), vec![]).await;
    let target = bucket.target_at(&proxy.url()).into_bucket(Some(copy.name.clone()));
    let tally = replay(&seen, Box::new(target), true).await.unwrap();
    assert_eq!(tally.verified, Verified::Counts);
    let writes = |line: &&String| stage::writes_an_object(line) || line.contains("uploads");
    assert_eq!(proxy.requests().iter().filter(writes).count(), 0, "{:#?}", proxy.requests());
}

#[tokio::test]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn parts_of_uneven_sizes_are_read_and_counted_as_unproven() {
    let bucket = Bucket::new("uneven").await;
    let big = bytes(6 << 20);
    bucket.put_in_parts("odd", &[&big[..5 << 20], &big, b"end"]).await;
    let seen = read(&bucket.source()).await;
    assert_eq!((seen.point.marks["unproven"].as_str(), seen.problems.len()), ("1", 0));
    assert_eq!(seen.object(&bucket.name, "odd").bytes.len(), (11 << 20) + 3);
}

#[tokio::test]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn metadata_that_is_no_text_is_kept_as_a_record_and_told_at_the_restore() {
    let bucket = Bucket::new("raw").await;
    bucket.put("a", b"a").await;
    let raw = Fault::header("GET", "/a?x-id", b"x-amz-meta-name: caf\xe9");
    let proxy = Proxy::start(&stage::endpoint(), vec![raw]).await;
    let seen = read(&bucket.source_at(&proxy.url())).await;
    let kept = seen.object(&bucket.name, "a");
    assert_eq!(
        (kept.bytes.as_slice(), &kept.meta.attrs["raw"]["x-amz-meta-name"]),
        (&b"a"[..], &"636166e9".into())
    );
    let copy = Bucket::absent("raw-copy");
    let target = bucket.target().into_bucket(Some(copy.name.clone()));
    let tally = replay(&seen, Box::new(target), false).await.unwrap();
    assert!(tally.notes.iter().any(|note| note.contains("metadata that is no text")), "{:?}", tally.notes);
    assert_eq!(copy.get("a").await, b"a");
}

#[tokio::test]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn no_count_of_tags_means_none_only_to_who_may_read_them() {
    let bucket = Bucket::new("count").await;
    for key in ["a", "b", "c"] {
        bucket.put(key, b"a").await;
    }
    // AWS counts the tags for who may read them, and sends no count for none.
    let aws = |denied| {
        let mut faults = vec![Fault::header("GET", "", b"server: AmazonS3").always()];
        if denied {
            let refused = ["/a?tagging", "/b?tagging", "/c?tagging"];
            faults.splice(0..0, refused.map(|target| Fault::status("GET", target, 403).always()));
        }
        faults
    };
    let proxy = Proxy::start(&stage::endpoint(), aws(true)).await;
    let seen = read(&bucket.source_at(&proxy.url())).await;
    assert_eq!(seen.problems.len(), 1, "{:?}", seen.problems);
    assert!(seen.problems[0].why.contains("tags of 3 objects"), "{:?}", seen.problems);

    let proxy = Proxy::start(&stage::endpoint(), aws(false)).await;
    let again = read_after(&bucket.source_at(&proxy.url()), remembered(&seen)).await;
    assert_eq!((again.reused(), again.problems.len()), (3, 0));
    let of_an_object =
        |line: &&String| ["/a?tagging", "/b?tagging", "/c?tagging"].iter().any(|one| line.contains(one));
    let asked = proxy.requests().iter().filter(of_an_object).count();
    assert_eq!(asked, 3, "what was lacking is asked for: {:#?}", proxy.requests());
    let proxy = Proxy::start(&stage::endpoint(), aws(false)).await;
    assert_eq!(read(&bucket.source_at(&proxy.url())).await.problems, []);
    let asked = proxy.requests().iter().filter(of_an_object).count();
    assert_eq!(asked, 1, "the right is tried once: {:#?}", proxy.requests());
}
