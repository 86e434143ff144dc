//! Listings of any length, good and bad ones, read by the S3 engine through its real client.
//!
//! The figures of a million objects are printed by the test that is left out by default:
//! `cargo nextest run --release --run-ignored only --no-capture --test objects`.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "fake_s3/bucket.rs"]
mod fake_bucket;
#[path = "fake_s3/minio.rs"]
mod fake_minio;
#[path = "fake_s3/mod.rs"]
mod fake_s3;
#[path = "objects/minio.rs"]
mod minio;
#[path = "objects/reading.rs"]
mod reading;
#[path = "objects/restores.rs"]
mod restores;
#[path = "objects/traps.rs"]
mod traps;

use std::{fs, time::Instant};

use async_trait::async_trait;
use bytes::Bytes;
use lifeboat::{
    clock::Ground,
    error::{Failure, Result},
    event::NoMonitor,
    flow::{
        Attrs, EntryMeta, EntryStream, FlowError, FlowResult, Previous, PreviousEntry, Reuse, STREAM_DEPTH,
        Source, Stage, channel, settle,
    },
    names::{EntryPath, SourceName},
    policy::{S3Config, S3Tags, SecretRef, Versions},
    s3::S3Source,
};

use self::fake_s3::{FakeS3, Fault, SIZE_BYTES, WRITTEN, etag_of, key_of};

const BUCKET: &str = "many";

/// A snapshot before, made up as it is read.
struct Before {
    next: usize,
    count: usize,
}

#[async_trait]
impl Previous for Before {
    async fn next(&mut self) -> Result<Option<PreviousEntry>> {
        if self.next == self.count {
            return Ok(None);
        }
        let key = key_of(self.next);
        let parts: Vec<&str> = std::iter::once(BUCKET).chain(key.split('/')).collect();
        let meta = EntryMeta::new(EntryPath::of_parts(&parts).unwrap(), Stage::Data, BUCKET)
            .with("bucket", BUCKET)
            .with("key", key.as_str())
            .with("etag", etag_of(self.next))
            .with("size", SIZE_BYTES)
            .with("last_modified", WRITTEN);
        self.next += 1;
        let reuse = Reuse(Bytes::from_static(b"token"));
        Ok(Some(PreviousEntry { meta, trailer: Attrs::new(), size_bytes: SIZE_BYTES, reuse }))
    }
}

/// A snapshot before, as it was read.
struct Kept(std::vec::IntoIter<PreviousEntry>);

#[async_trait]
impl Previous for Kept {
    async fn next(&mut self) -> Result<Option<PreviousEntry>> {
        Ok(self.0.next())
    }
}

/// Counts what is reused, and looks at the memory from time to time.
async fn count(stream: &mut EntryStream) -> FlowResult<(usize, Vec<u64>)> {
    let (mut reused, mut memory) = (0, Vec::new());
    while let Some(mut entry) = stream.next().await? {
        if entry.body.reused().is_none() {
            entry.body.read_all(1 << 20).await?;
            continue;
        }
        reused += 1;
        if reused % 5000 == 0 {
            memory.push(resident_kib());
        }
    }
    Ok((reused, memory))
}

/// Reads the bucket beside a snapshot that has the same; returns how many objects were reused.
async fn read(server: &FakeS3, count_before: usize) -> FlowResult<(usize, Vec<u64>)> {
    let secrets = tempfile::tempdir().unwrap();
    fs::write(secrets.path().join("key"), "any").unwrap();
    let secret = || SecretRef::File(secrets.path().join("key"));
    let config = S3Config {
        endpoint: server.url(),
        region: "us-east-1".to_owned(),
        buckets: vec![BUCKET.to_owned()],
        exclude: vec![],
        versions: Versions::Current,
        access_key: secret(),
        secret_key: secret(),
        concurrency: 8,
        tags: S3Tags::Known,
        admin: None,
    };
    let name = SourceName::new("minio").unwrap();
    let source = Box::new(S3Source::new(name, config, Ground::system(), NoMonitor::shared()));
    let (sink, mut stream) = channel(STREAM_DEPTH);
    let before = Box::new(Before { next: 0, count: count_before });
    let (sent, counted) = tokio::join!(source.read(sink, Some(before)), count(&mut stream));
    let ((), counted) = settle(sent, counted)?;
    assert!(stream.problems().is_empty(), "{:?}", stream.problems());
    Ok(counted)
}

/// Returns how much memory this process has now, or had at most.
fn resident_kib() -> u64 {
    of_status("VmRSS:")
}

fn of_status(name: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn failure<T: std::fmt::Debug>(result: FlowResult<T>) -> Failure {
    match result {
        Err(FlowError::Failed(failure)) => failure,
        other => panic!("this should have failed for a reason: {other:?}"),
    }
}

#[tokio::test]
async fn memory_does_not_grow_with_the_objects_and_each_page_is_asked_for_once() {
    const COUNT: usize = 60_000;
    let server = FakeS3::start(COUNT, 1000, Fault::None).await;
    let (reused, memory) = read(&server, COUNT).await.unwrap();
    assert_eq!((reused, server.pages()), (COUNT, COUNT / 1000));
    // After a sixth of them all buffers are as large as they get. To hold the keys alone would take 10 MiB more.
    let (early, most) = (memory[1], memory.iter().copied().max().unwrap());
    assert!(most < early + 6 * 1024, "KiB: {memory:?}");
}

#[tokio::test]
#[ignore = "a million objects: run by hand"]
async fn a_million_objects_in_figures() {
    const COUNT: usize = 1_000_000;
    let server = FakeS3::start(COUNT, 1000, Fault::None).await;
    let began = Instant::now();
    let (reused, memory) = read(&server, COUNT).await.unwrap();
    assert_eq!((reused, server.pages()), (COUNT, COUNT / 1000));
    let (first, last) = (memory[1], memory.last().unwrap());
    let most = of_status("VmHWM:");
    println!(
        "{:.1} s; {first} KiB after 10,000 objects, {last} after all, {most} at most",
        began.elapsed().as_secs_f64()
    );
    assert!(most < 128 * 1024, "KiB: {most}");
}

#[tokio::test]
async fn short_pages_busy_answers_and_broken_ones_are_read_to_the_end() {
    for fault in [Fault::None, Fault::Busy, Fault::Reset] {
        let server = FakeS3::start(20, 7, fault).await;
        let (reused, _) = read(&server, 20).await.unwrap();
        assert_eq!(reused, 20, "{fault:?}");
    }
}

#[tokio::test]
async fn a_listing_that_goes_in_circles_is_refused_and_nothing_is_taken_for_deleted() {
    for (fault, why) in [
        (Fault::SameToken, "it says that there is more, but not where"),
        (Fault::NoToken, "it says that there is more, but not where"),
        (Fault::SamePage, "came after"),
    ] {
        let server = FakeS3::start(20, 7, fault).await;
        let failure = failure(read(&server, 20).await);
        assert!(failure.to_string().contains("cannot be trusted"), "{fault:?}: {failure}");
        assert!(failure.chain()[1].contains(why), "{fault:?}: {:?}", failure.chain());
    }
}
