//! A bucket that shows less than it did: the backup succeeds, and takes nothing away.

use std::env;

use crate::{
    between::halving,
    buckets::{Bucket, endpoint},
    night::Night,
};

/// With fewer nights nobody can tell what is usual.
const NIGHTS: usize = 3;

/// Makes a stack of a bucket of forty objects and a copy elsewhere, and lets some nights pass.
async fn usual(what: &str) -> (Night, Bucket) {
    let (night, bucket) = (Night::new().await, Bucket::new(what).await);
    for n in 0..40 {
        bucket.put(&format!("a/{n:02}.bin"), format!("object {n}").repeat(500).as_bytes()).await;
    }
    night.stage.secret("id", &env::var("S3_ACCESS_KEY").unwrap());
    night.stage.secret("key", &env::var("S3_SECRET_KEY").unwrap());
    std::fs::create_dir(night.stage.path("far")).unwrap();
    let at = |path: &str| night.stage.at(path);
    night.stage.append(&format!(
        "[[source]]\nname = \"minio\"\nkind = \"s3\"\nendpoint = \"{}\"\nbuckets = [\"{}\"]\n\
         access_key = {{ file = \"{}\" }}\nsecret_key = {{ file = \"{}\" }}\n\
         [[offsite]]\nname = \"far\"\nstore = \"fs\"\noptions = {{ root = \"{}\" }}\nafter_backup = true\n",
        endpoint(),
        bucket.name,
        at("secrets/id"),
        at("secrets/key"),
        at("far")
    ));
    for _ in 0..NIGHTS {
        night.passes(0);
    }
    night.stage.run(&["prune", "--apply"]).ends(0);
    assert_eq!((night.snapshots().len(), night.told()), (NIGHTS, Vec::new()));
    (night, bucket)
}

/// Lets the night pass after which less is there, and checks what it may not cost.
fn nothing_goes(night: &Night, says: &str) {
    let (made, far) = (night.snapshots(), night.contents("far"));
    night.passes(3).says("incident opened: source `minio` is unusual").says(says);
    assert_eq!((night.open(), night.told().len()), (vec!["anomaly".to_owned()], 1), "one fact, one incident");
    // Another such night is whole, as nothing went since the last one. That thaws nothing.
    night.passes(0);
    assert_eq!(night.open(), ["anomaly"], "{:?}", night.told());
    for words in [&["prune", "--apply"][..], &["prune", "--apply", "--offsite", "far"]] {
        night.stage.run(words).ends(1).tells("prune stands still until a person has looked");
    }
    let now = night.snapshots();
    assert!(made.iter().all(|id| now.contains(id)), "{made:?} in {now:?}");
    assert_eq!(now.len(), NIGHTS + 2);
    let far_now = night.contents("far");
    let changed = |file: &&std::path::PathBuf| far_now.get(*file) != far.get(*file);
    assert_eq!(far.keys().filter(changed).collect::<Vec<_>>(), Vec::<&std::path::PathBuf>::new());
    night.stage.run(&["verify", "--read-data"]).ends(0);
    night.stage.run(&["verify", "--read-data", "--from", "far"]).ends(0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_bucket_that_was_emptied_stops_prune_and_costs_no_older_snapshot_here_or_elsewhere() {
    let (night, bucket) = usual("emptied").await;
    for key in bucket.keys().await {
        bucket.delete(&key).await;
    }
    nothing_goes(&night, "no objects at all, usually 40");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_bucket_that_is_listed_by_half_stops_prune_and_costs_no_older_snapshot_here_or_elsewhere() {
    let (night, bucket) = usual("halved").await;
    let half = halving(&endpoint()).await;
    night.stage.edit(|policy| policy.replace(&endpoint(), &half));
    nothing_goes(&night, "20 objects, usually 40: 50 % less");
    assert_eq!(bucket.keys().await.len(), 40, "they were there all the time");
}
