//! Big objects, which are read in ranges side by side.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Notify, time::timeout};

use super::{
    proxy::{Fault, Proxy},
    stage::{self, Bucket, read, read_after, remembered},
};

const MIB: u64 = 1 << 20;

/// Bytes none of whose ranges is like another.
fn noise(count: u64) -> Vec<u8> {
    let mut state = 88_172_645_463_325_252_u64;
    let words = (0..count.div_ceil(8)).flat_map(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.take(usize::try_from(count).unwrap()).collect()
}

/// The ranges in which an object is asked for.
fn ranges(size_bytes: u64) -> Vec<(u64, u64)> {
    let starts = (0..size_bytes).step_by(usize::try_from(16 * MIB).unwrap());
    starts.map(|first| (first, (first + 16 * MIB).min(size_bytes) - 1)).collect()
}

#[tokio::test]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_big_object_is_read_in_ranges_side_by_side_and_written_in_order() {
    let bucket = Bucket::new("ranges").await;
    let big = noise(90 * MIB + 5);
    bucket.put("big", &big).await;
    bucket.put("less", &big[..usize::try_from(64 * MIB).unwrap()]).await;
    // The second range is kept back until the fourth was asked for: what comes first is not what is written first.
    let (fourth, is_early) = (Arc::new(Notify::new()), Arc::new(AtomicBool::new(false)));
    let (waits, tells, early) = (Arc::clone(&fourth), Arc::clone(&fourth), Arc::clone(&is_early));
    let faults = vec![
        Fault::before("GET", "bytes=16777216-", move || {
            let (waits, early) = (Arc::clone(&waits), Arc::clone(&early));
            Box::pin(async move {
                let came = timeout(Duration::from_mins(1), waits.notified()).await.is_ok();
                early.store(came, Ordering::SeqCst);
            })
        }),
        Fault::before("GET", "bytes=50331648-", move || {
            tells.notify_one();
            Box::pin(std::future::ready(()))
        }),
    ];
    let proxy = Proxy::start(&stage::endpoint(), faults).await;
    let seen = read(&bucket.source_at(&proxy.url())).await;
    assert!(is_early.load(Ordering::SeqCst), "the fourth range is asked for before the second has come");
    assert!(seen.problems.is_empty(), "{:?}", seen.problems);
    assert!(seen.object(&bucket.name, "big").bytes == big, "the bytes are another order's");
    assert_eq!(seen.object(&bucket.name, "less").bytes.len() as u64, 64 * MIB);
    assert_eq!(proxy.ranges(), ranges(big.len() as u64), "each once, and the smaller object as one stream");
}

#[tokio::test]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_range_that_breaks_off_goes_on_where_it_broke() {
    let bucket = Bucket::new("range-cut").await;
    let big = noise(70 * MIB);
    let put = bucket.client.put_object().bucket(&bucket.name).key("big").body(stage::body(&big));
    put.content_type("video/mp4").metadata("owner", "me").tagging("colour=red").send().await.unwrap();
    let faults = vec![Fault::cut("GET", "bytes=33554432-", 50), Fault::cut("GET", "bytes=0-", 25)];
    let proxy = Proxy::start(&stage::endpoint(), faults).await;
    let seen = read(&bucket.source_at(&proxy.url())).await;
    assert!(seen.problems.is_empty(), "{:?}", seen.problems);
    assert!(seen.object(&bucket.name, "big").bytes == big);
    let attrs = &seen.object(&bucket.name, "big").meta.attrs;
    assert_eq!(attrs["headers"]["content-type"], "video/mp4", "{attrs:?}");
    assert_eq!(
        (&attrs["meta"]["owner"], &attrs["tags"]["colour"]),
        (&"me".into(), &"red".into()),
        "{attrs:?}"
    );
    let whole = ranges(70 * MIB);
    let rest: Vec<_> = proxy.ranges().into_iter().filter(|range| !whole.contains(range)).collect();
    let [(of_first, first_end), (of_third, third_end)] = rest[..] else { panic!("{rest:?}") };
    assert_eq!((first_end, third_end), (16 * MIB - 1, 48 * MIB - 1));
    assert!((3 * MIB..5 * MIB).contains(&of_first) && (39 * MIB..41 * MIB).contains(&of_third), "{rest:?}");

    // A range that breaks each time: the object is torn, and read again by the next run.
    let faults = vec![Fault::cut("GET", "-67108863", 50).always()];
    let proxy = Proxy::start(&stage::endpoint(), faults).await;
    let seen = read(&bucket.source_at(&proxy.url())).await;
    assert_eq!(seen.problems.len(), 1, "{:?}", seen.problems);
    assert!(seen.object(&bucket.name, "big").trailer.contains_key("torn"));
    let again = read_after(&bucket.source(), remembered(&seen)).await;
    assert!(again.object(&bucket.name, "big").bytes == big);
}

#[tokio::test]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn ranges_of_two_versions_are_never_put_together() {
    let bucket = Arc::new(Bucket::new("range-change").await);
    let big = noise(70 * MIB);
    bucket.put("big", &big).await;
    let other = Arc::clone(&bucket);
    let faults = vec![Fault::before("GET", "-67108863", move || {
        let other = Arc::clone(&other);
        Box::pin(async move { other.put("big", &vec![7; usize::try_from(70 * MIB).unwrap()]).await })
    })];
    let proxy = Proxy::start(&stage::endpoint(), faults).await;
    let seen = read(&bucket.source_at(&proxy.url())).await;
    assert_eq!(seen.problems.len(), 1, "{:?}", seen.problems);
    assert!(seen.problems[0].why.contains("replaced while it was read"), "{:?}", seen.problems);
    assert!(seen.object(&bucket.name, "big").trailer.contains_key("torn"));
}
