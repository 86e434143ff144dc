//! A store where the host may add and not remove: whoever takes the host over cannot take the backups along.

use crate::{
    buckets::{Bucket, endpoint},
    stage::Stage,
    town::secret_key,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_host_that_may_not_delete_backs_up_and_cannot_prune_or_erase() {
    let bucket = Bucket::new("addonly").await;
    let stage = Stage::bare();
    stage.write("id", &std::env::var("S3_ACCESS_KEY").unwrap());
    stage.write("secret", &secret_key());
    let options = [
        format!("bucket={}", bucket.name),
        format!("endpoint={}", endpoint()),
        "region=us-east-1".to_owned(),
        format!("access_key_id=file:{}", stage.at("id")),
        format!("secret_access_key=file:{}", stage.at("secret")),
    ];
    let mut words = vec!["init", "--store", "s3", "--keys", "keys", "--stack", "demo"];
    words.extend(options.iter().flat_map(|option| ["--option", option.as_str()]));
    stage.run(&words).ends(0);
    stage
        .edit(|text| text.replace("\nkeys = ", &format!("\nstate_dir = \"{}\"\nkeys = ", stage.at("state"))));
    stage.write("data/app.env", "COLOUR=blue\n");
    stage.add_files("config", "data");
    let policy = format!(
        r#"{{"Version":"2012-10-17","Statement":[{{"Effect":"Deny","Principal":"*","Action":["s3:DeleteObject",
        "s3:DeleteObjectVersion"],"Resource":"arn:aws:s3:::{}/*"}}]}}"#,
        bucket.name
    );
    bucket.client.put_bucket_policy().bucket(&bucket.name).policy(policy).send().await.unwrap();
    stage.run(&["backup"]).ends(0);
    stage.write("data/app.env", "COLOUR=red\n");
    stage.run(&["backup"]).ends(0);
    let keys = bucket.keys().await;
    // Neither lifeboat nor the thief of its credentials removes a thing.
    let pruned = stage.run(&["prune", "--apply"]);
    let key = keys.iter().find(|key| key.starts_with("refs/")).unwrap();
    let erased = bucket.client.delete_object().bucket(&bucket.name).key(key).send().await;
    let after = bucket.keys().await;
    bucket.client.delete_bucket_policy().bucket(&bucket.name).send().await.unwrap();
    assert_ne!(pruned.exit, 0, "{}", pruned.out);
    assert!(pruned.err.contains("Right for a host that only adds"), "{}", pruned.err);
    assert!(erased.is_err(), "the store lets it be deleted");
    assert!(keys.iter().all(|key| after.contains(key)), "something is gone");
    stage.run(&["verify", "--read-data"]).ends(0);
    let into = format!("config={}", stage.at("out"));
    stage.run(&["restore", "latest", "--into", &into, "--yes", "demo"]).ends(0);
}
