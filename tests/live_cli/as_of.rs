//! A bucket put back to a time, from the command line.

use crate::{
    buckets::{Bucket, endpoint},
    stage::Stage,
    town::secret_key,
};

fn stage(bucket: &Bucket) -> Stage {
    let stage = Stage::new();
    stage.secret("s3-id", &std::env::var("S3_ACCESS_KEY").unwrap());
    stage.secret("s3", &secret_key());
    let (id, secret, name) = (stage.at("secrets/s3-id"), stage.at("secrets/s3"), &bucket.name);
    stage.append(&format!(
        "[[source]]\nname = \"minio\"\nkind = \"s3\"\nendpoint = \"{}\"\nbuckets = [\"{name}\"]\n\
         versions = \"all\"\naccess_key = {{ file = \"{id}\" }}\nsecret_key = {{ file = \"{secret}\" }}\n",
        endpoint(),
    ));
    stage
}

/// Returns when the oldest version of a key was made, as the list of the snapshot tells it.
fn made(stage: &Stage, key: &str) -> String {
    let listed = stage.run(&["ls", "latest", "minio", "--json"]).ends(0).out;
    let mut times: Vec<String> = listed
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .filter(|entry| [&entry["attrs"]["key"], &entry["attrs"]["version_of"]].contains(&&key.into()))
        .map(|entry| entry["attrs"]["last_modified"].as_str().unwrap().to_owned())
        .collect();
    times.sort();
    times.remove(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_bucket_shows_again_what_it_showed_at_a_time() {
    let bucket = Bucket::new("cli-as-of").await;
    bucket.keep_versions().await;
    for (key, bytes) in [("a", "a1"), ("b", "b1"), ("c", "c1")] {
        bucket.put(key, bytes.as_bytes()).await;
    }
    bucket.put("a", b"a2").await;
    bucket.delete("b").await;
    bucket.put("late", b"l1").await;
    let stage = stage(&bucket);
    stage.run(&["backup"]).ends(0);
    let (first, then) = (made(&stage, "a"), made(&stage, "c"));
    let words = |time: &str| ["restore", "latest", "--replace", "--as-of", time].map(str::to_owned);
    let run = |time: &str, more: &[&str]| {
        let words = words(time);
        stage.run(&[&words.each_ref().map(String::as_str)[..], more].concat())
    };
    let before = bucket.all().await;
    let shown = run(&then, &["--plan"]).ends(0);
    let shown = shown.says("minio: 1 are there already, 1 will be overwritten, 1 are new");
    let shown = shown.says("  1 are there that the snapshot does not have: WILL BE REMOVED");
    let shown = shown.says(&format!("    {}/late\n", bucket.name));
    shown.says("note: what is younger: 1 have no version as old as");
    let plan = run(&then, &["--plan", "--json"]).ends(0).json();
    let (plan, source) = (&plan["plan"], &plan["plan"]["sources"][0]);
    assert_eq!((&plan["as_of"], &source["entries"]), (&then.as_str().into(), &4.into()), "{plan}");
    let changes = serde_json::json!(
        {"equal": 1, "changed": 1, "new": 1, "extra": 1, "extra_named": [format!("{}/late", bucket.name)]}
    );
    assert_eq!(source["preflight"]["changes"], changes, "{plan}");
    run("2001-01-01T00:00:00Z", &["--yes", "demo"])
        .ends(2)
        .tells(&format!("in the snapshot is of {}", &first[..19]));
    run("2100-01-01T00:00:00Z", &["--yes", "demo"]).ends(2).tells("knows nothing of 2100-01-01");
    assert_eq!(bucket.all().await, before, "neither a plan nor a refusal touches anything");

    let done = run(&then, &["--yes", "demo", "--json"]).ends(0).json();
    assert_eq!(done["restored"][0]["changes"], changes, "{done}");
    let expected = [("a", "a1"), ("b", "b1"), ("c", "c1")].map(|(key, bytes)| (key.to_owned(), bytes.into()));
    assert_eq!(bucket.all().await, expected.into());
}
