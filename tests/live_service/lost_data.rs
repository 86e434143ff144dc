//! A bucket that shows less than it did: the backup refuses it, and takes nothing away.

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

/// Lets nights pass after which less is there, and checks what they may not cost.
fn nothing_goes(night: &Night, says: &str) {
    let (made, far) = (night.snapshots(), night.contents("far"));
    for _ in 0..2 {
        // Each is compared with the last one that was right.
        let ran = night.passes(20);
        let said = format!("{}{}", ran.out, ran.err);
        assert!(said.contains("has lost too much"), "{said}");
        assert!(said.contains(says), "{said}");
        let told = night.told();
        assert_eq!((night.open().len(), told.len()), (1, 1), "one fact, one incident: {told:?}");
        assert!(told[0].contains("--accept-shrink"), "{told:?}");
    }
    let far_now = night.contents("far");
    let changed = |file: &&std::path::PathBuf| far_now.get(*file) != far.get(*file);
    assert_eq!(far.keys().filter(changed).collect::<Vec<_>>(), Vec::<&std::path::PathBuf>::new());
    night.stage.run(&["prune", "--apply"]).ends(0);
    let now = night.snapshots();
    assert!(made.iter().all(|id| now.contains(id)), "{made:?} in {now:?}");
    night.stage.run(&["verify", "--read-data"]).ends(0);
    night.stage.run(&["verify", "--read-data", "--from", "far"]).ends(0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_bucket_that_was_emptied_is_refused_until_a_person_accepts_it() {
    let (night, bucket) = usual("emptied").await;
    for key in bucket.keys().await {
        bucket.delete(&key).await;
    }
    nothing_goes(&night, "it is empty now and had 40 objects");
    night.stage.run(&["backup", "minio", "--accept-shrink"]).ends(0);
    night.passes(0);
    assert_eq!(night.open(), [""; 0], "{:?}", night.told());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_bucket_that_is_listed_by_half_is_refused_and_costs_no_older_snapshot_here_or_elsewhere() {
    let (night, bucket) = usual("halved").await;
    let half = halving(&endpoint()).await;
    night.stage.edit(|policy| policy.replace(&endpoint(), &half));
    nothing_goes(&night, "20 of its 40 objects are gone");
    assert_eq!(bucket.keys().await.len(), 40, "they were there all the time");
}
