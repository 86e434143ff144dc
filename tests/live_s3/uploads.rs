//! Uploads in parts that a killed restore has left.

use std::{fs, path::Path, sync::Arc};

use lifeboat::s3::S3Target;
use tokio::sync::Notify;

use super::{
    proxy::{Fault, Proxy},
    stage::{Bucket, Snapshot, endpoint, read, replay},
};

async fn uploads(bucket: &Bucket) -> Vec<String> {
    let page = bucket.client.list_multipart_uploads().bucket(&bucket.name).send().await.unwrap();
    page.uploads().iter().filter_map(|upload| upload.key().map(str::to_owned)).collect()
}

fn notes(folder: &Path) -> usize {
    fs::read_dir(folder).unwrap().count()
}

fn target(endpoint: &str, from: &Bucket, to: &Bucket, folder: &Path) -> Box<S3Target> {
    let target = from.target_at(endpoint).into_bucket(Some(to.name.clone()));
    Box::new(target.noting(Some(folder.to_owned())))
}

/// Begins a restore, and is gone like a killed process once a part is on its way.
async fn killed(
    seen: Arc<Snapshot>,
    proxy: String,
    (from, to): (Bucket, Bucket),
    folder: &Path,
    at: Arc<Notify>,
) {
    let folder = folder.to_owned();
    let run = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let target = target(&proxy, &from, &to, &folder);
            tokio::select! {
                done = replay(&seen, target, true) => panic!("it was to be killed: {done:?}"),
                () = at.notified() => {
                    // What is dropped sends its last words into a runtime that is gone.
                }
            }
        });
        runtime.shutdown_background();
        (from, to)
    };
    let (from, to) = tokio::task::spawn_blocking(run).await.unwrap();
    // The buckets are the test's: it removes them.
    std::mem::forget((from, to));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn what_a_killed_restore_left_is_thrown_away_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let bucket = Bucket::new("swept").await;
    bucket.put_in_parts("big", &[&vec![7; 5 << 20], b"end"]).await;
    let seen = Arc::new(read(&bucket.source()).await);
    let copy = Bucket::new("swept-copy").await;
    let others = copy.client.create_multipart_upload().bucket(&copy.name).key("others");
    others.send().await.unwrap();

    let under_way = Arc::new(Notify::new());
    let told = Arc::clone(&under_way);
    let stuck = Fault::before("PUT", "partNumber=1", move || {
        told.notify_one();
        Box::pin(std::future::pending())
    });
    let proxy = Proxy::start(&endpoint(), vec![stuck]).await;
    let again = |bucket: &Bucket| Bucket { name: bucket.name.clone(), client: bucket.client.clone() };
    let both = (again(&bucket), again(&copy));
    killed(Arc::clone(&seen), proxy.url(), both, folder.path(), under_way).await;
    assert_eq!(uploads(&copy).await, ["big", "others"]);
    assert_eq!(notes(folder.path()), 1);

    // Another server's are its own.
    let elsewhere = Bucket::absent("swept-elsewhere");
    replay(&seen, target(&endpoint(), &bucket, &elsewhere, folder.path()), true).await.unwrap();
    // And those of a restore that lives.
    let file = fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
    let held = fs::File::open(&file).unwrap();
    held.lock().unwrap();
    replay(&seen, target(&proxy.url(), &bucket, &elsewhere, folder.path()), true).await.unwrap();
    assert_eq!(uploads(&copy).await, ["big", "others"]);
    assert_eq!(notes(folder.path()), 1);
    drop(held);

    let tally = replay(&seen, target(&proxy.url(), &bucket, &copy, folder.path()), true).await.unwrap();
    assert!(tally.notes[0].starts_with("1 uploads that a killed restore"), "{:?}", tally.notes);
    assert_eq!(uploads(&copy).await, ["others"]);
    assert_eq!(notes(folder.path()), 0);
    assert_eq!(copy.get("big").await.len(), (5 << 20) + 3);
}
