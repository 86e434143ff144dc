//! Which laws real services keep: the suite and the probes over each, and the program on top.

use std::{collections::BTreeMap, env};

use futures_util::future::join_all;
use lifeboat::{
    clock::Ground,
    finding::Status,
    names::Key,
    store::{
        self, Get, Put, RemoteStore,
        conformance::{self, Quirks},
        probe::{Probed, probe, refuses_prune},
    },
};

use crate::{
    buckets::{Bucket, endpoint},
    stage::Stage,
    webdav::Webdav,
};

/// Returns the laws that were not found to hold.
fn not_ok(findings: &[Probed]) -> Vec<(&str, Status)> {
    findings
        .iter()
        .filter(|found| found.status != Status::Ok)
        .map(|found| (found.id.trim_start_matches("store."), found.status))
        .collect()
}

async fn probed(scheme: &str, options: &BTreeMap<String, String>) -> Vec<Probed> {
    let opened = store::open(scheme, options).unwrap();
    let findings = probe(&opened, &Ground::system()).await;
    assert_eq!(opened.get.list("").await.unwrap(), [], "the probes left something behind");
    findings
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn webdav_is_a_store_for_one_writer() {
    let server = Webdav::start();
    let store = RemoteStore::new("webdav", &server.options("/suite")).unwrap();
    assert!(!store.guarantees().create_only_is_atomic, "{:?}", store.guarantees());
    conformance::run(&store, Quirks { create_only_is_atomic: false, tells_time: true }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn on_webdav_a_race_has_many_winners_and_prune_is_refused() {
    let server = Webdav::start();
    let findings = probed("webdav", &server.options("/probes")).await;
    assert_eq!(not_ok(&findings), [("race", Status::Broken)], "{findings:#?}");
    let refused = refuses_prune(&findings).unwrap();
    assert!(refused.to_string().contains("exactly one wins"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn on_webdav_puts_at_once_into_folders_that_are_new_all_arrive() {
    let server = Webdav::start();
    let store = RemoteStore::new("webdav", &server.options("/many")).unwrap();
    let puts = (0..64).map(|n| {
        let (store, key) = (store.clone(), Key::new(&format!("packs/{}/{n:02}", n % 4)).unwrap());
        async move { store.put(&key, format!("object {n}").into()).await }
    });
    let failed: Vec<_> = join_all(puts).await.into_iter().filter_map(Result::err).collect();
    assert!(failed.is_empty(), "{failed:?}");
    assert_eq!(store.list("packs/").await.unwrap().len(), 64);
}

fn s3_options(bucket: &Bucket) -> BTreeMap<String, String> {
    let var = |name: &str| env::var(name).unwrap_or_else(|_| panic!("{name}: source fixtures/stack env"));
    let pairs = [
        ("bucket", bucket.name.clone()),
        ("endpoint", endpoint()),
        ("region", "us-east-1".to_owned()),
        ("access_key_id", var("S3_ACCESS_KEY")),
        ("secret_access_key", var("S3_SECRET_KEY")),
    ];
    pairs.map(|(name, value)| (name.to_owned(), value)).into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_real_s3_keeps_every_law() {
    let bucket = Bucket::new("store-laws").await;
    let findings = probed("s3", &s3_options(&bucket)).await;
    assert_eq!(not_ok(&findings), [], "{findings:#?}");
    assert!(refuses_prune(&findings).is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn where_deleting_is_forbidden_the_other_laws_hold_and_prune_is_refused() {
    let bucket = Bucket::new("store-add-only").await;
    let policy = format!(
        r#"{{"Version":"2012-10-17","Statement":[{{"Effect":"Deny","Principal":"*","Action":"s3:DeleteObject",
        "Resource":"arn:aws:s3:::{}/*"}}]}}"#,
        bucket.name
    );
    bucket.client.put_bucket_policy().bucket(&bucket.name).policy(policy).send().await.unwrap();
    let opened = store::open("s3", &s3_options(&bucket)).unwrap();
    let findings = probe(&opened, &Ground::system()).await;
    bucket.client.delete_bucket_policy().bucket(&bucket.name).send().await.unwrap();
    let want = [("delete", Status::Warn), ("list_after_delete", Status::Unknown)];
    assert_eq!(not_ok(&findings), want, "{findings:#?}");
    let refused = refuses_prune(&findings).unwrap();
    assert!(refused.hints()[0].starts_with("Right for a host that only adds"), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_repository_on_webdav_is_backed_up_to_and_restored_from() {
    let server = Webdav::start();
    let stage = Stage::bare();
    let options: Vec<String> = server
        .options("/backups")
        .into_iter()
        .filter(|(name, _)| name != "password")
        .map(|(name, value)| format!("--option={name}={value}"))
        .collect();
    stage.write("secret", &server.options("")["password"]);
    let own = <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o600);
    std::fs::set_permissions(stage.at("secret"), own).unwrap();
    let password = format!("--option=password=file:{}", stage.at("secret"));
    let mut words = vec!["init", "--store", "webdav", "--keys", "keys", "--stack", "demo", &password];
    words.extend(options.iter().map(String::as_str));
    stage.run(&words).ends(0);
    stage
        .edit(|text| text.replace("\nkeys = ", &format!("\nstate_dir = \"{}\"\nkeys = ", stage.at("state"))));
    stage.write("data/a", &"some text\n".repeat(9999));
    stage.add_files("config", "data");
    stage.snapshot();
    let into = format!("config={}", stage.at("out"));
    stage.run(&["restore", "latest", "--into", &into, "--yes", "demo"]).ends(0);
    stage.run(&["verify", "--read-data"]).ends(0);
    let restored = stage.files("out");
    assert_eq!(
        std::fs::read(restored.first().unwrap()).unwrap(),
        std::fs::read(stage.path("data/a")).unwrap()
    );
    let document = stage.run(&["doctor", "--json"]).ends(1).json();
    let broken: Vec<_> =
        document["findings"].as_array().unwrap().iter().filter(|f| f["status"] == "broken").collect();
    assert_eq!(broken.len(), 1, "{broken:?}");
    assert_eq!(broken[0]["id"], "repository.race");
}
