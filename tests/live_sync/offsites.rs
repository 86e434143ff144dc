//! Three offsites of three kinds at once, and then one after the other with nothing else left.

use std::{collections::BTreeMap, env, fmt::Write as _, fs, path::PathBuf};

use crate::{
    buckets::{Bucket, endpoint},
    stage::Stage,
    webdav::Webdav,
};

const OFFSITES: [&str; 3] = ["ceph", "attic", "dav"];

fn var(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("{name}: source fixtures/stack env"))
}

/// Adds an offsite; options that must not be written out are put into files.
fn add(stage: &Stage, name: &str, store: &str, options: &BTreeMap<String, String>, more: &str) {
    let mut table =
        format!("[[offsite]]\nname = \"{name}\"\nstore = \"{store}\"\n{more}\n[offsite.options]\n");
    for (option, value) in options {
        if ["secret_access_key", "password"].contains(&option.as_str()) {
            let file = format!("secrets/{name}");
            stage.write(&file, value);
            writeln!(table, "{option} = {{ file = \"{}\" }}", stage.at(&file)).unwrap();
        } else {
            writeln!(table, "{option} = \"{value}\"").unwrap();
        }
    }
    stage.append(&table);
}

fn s3_options(bucket: &Bucket) -> BTreeMap<String, String> {
    let pairs = [
        ("bucket", bucket.name.clone()),
        ("endpoint", endpoint()),
        ("region", "us-east-1".to_owned()),
        ("root", "/copies".to_owned()),
        ("access_key_id", var("S3_ACCESS_KEY")),
        ("secret_access_key", var("S3_SECRET_KEY")),
    ];
    pairs.map(|(name, value)| (name.to_owned(), value)).into()
}

/// Text that does not compress to nothing and is the same in every run.
fn noise(lines: u64, mut state: u64) -> String {
    let mut text = String::new();
    for _ in 0..lines {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        writeln!(text, "{state:016x}").unwrap();
    }
    text
}

/// Returns what lies below a folder, by the path inside it.
fn contents(stage: &Stage, folder: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let root = stage.path(folder);
    let read = |path: PathBuf| (path.strip_prefix(&root).unwrap().to_owned(), fs::read(&path).unwrap());
    stage.files(folder).into_iter().map(read).collect()
}

/// Checks that an offsite alone tells, verifies and restores all of it.
fn restores_from(stage: &Stage, offsite: &str, ids: &[String]) {
    let listed = stage.run(&["snapshots", "--from", offsite, "--json"]).ends(0).json();
    let there: Vec<&str> =
        listed["snapshots"].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap()).collect();
    assert_eq!(there, ids, "{offsite}");
    let verified = stage.run(&["verify", "--read-data", "--from", offsite, "--json"]).ends(0).json();
    assert!(verified["chunks_read"].as_u64().unwrap() > 0, "{offsite}: {verified}");
    let out = format!("out-{offsite}");
    let into = format!("config={}", stage.at(&out));
    stage.run(&["restore", "latest", "--from", offsite, "--into", &into, "--yes", "demo"]).ends(0);
    let (restored, original) = (contents(stage, &out), contents(stage, "data"));
    assert_eq!(original.len(), 4);
    for (path, bytes) in original {
        let same = restored.iter().any(|(there, same)| there.ends_with(&path) && *same == bytes);
        assert!(same, "{offsite}: {} is not the same", path.display());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn each_offsite_alone_brings_everything_back_when_the_repository_is_gone() {
    let (server, bucket) = (Webdav::start(), Bucket::new("sync").await);
    let stage = Stage::with_files();
    stage.write("data/large.txt", &noise(500_000, 7));
    let paced = "after_backup = true\nlimit_mib_per_second = 64\nconcurrency = 4\nreread_percent = 100";
    add(&stage, "ceph", "s3", &s3_options(&bucket), paced);
    let folder = BTreeMap::from([("root".to_owned(), stage.at("attic"))]);
    fs::create_dir(stage.path("attic")).unwrap();
    add(&stage, "attic", "fs", &folder, paced);
    add(&stage, "dav", "webdav", &server.options("/backups"), paced);

    let first = stage.run(&["backup", "--json"]).ends(0).json();
    assert_eq!(first["offsites"].as_array().unwrap().len(), 3, "{first}");
    stage.write("data/app.env", "COLOUR=green\n");
    let second = stage.run(&["backup", "--no-sync", "--json"]).ends(0).json();
    let synced = stage.run(&["sync", "--json"]).ends(0).json();
    for (one, name) in synced["offsites"].as_array().unwrap().iter().zip(OFFSITES) {
        assert_eq!((one["name"].as_str().unwrap(), &one["skipped"]), (name, &1.into()), "{one}");
        assert_eq!(one["snapshots"][0], second["snapshot"], "{one}");
        assert_eq!(one["copied"]["packs"], one["copied"]["packs_reread"], "{one}");
        assert_eq!((&one["lag_bytes"], &one["lag_seconds"]), (&0.into(), &0.into()), "{one}");
        assert_eq!(one["there"]["newest"]["id"], second["snapshot"], "{one}");
    }

    fs::remove_dir_all(stage.path("repo")).unwrap();
    fs::remove_dir_all(stage.path("state")).unwrap();
    let ids: Vec<String> =
        [first, second].iter().map(|made| made["snapshot"].as_str().unwrap().to_owned()).collect();
    for offsite in OFFSITES {
        restores_from(&stage, offsite, &ids);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn an_offsite_that_is_down_is_told_and_the_others_are_filled() {
    let (server, bucket) = (Webdav::start(), Bucket::new("sync-down").await);
    let (stage, id) = Stage::with_snapshot();
    let mut nowhere = s3_options(&bucket);
    nowhere.insert("bucket".to_owned(), "lifeboat-no-such-bucket".to_owned());
    add(&stage, "nowhere", "s3", &nowhere, "");
    add(&stage, "dav", "webdav", &server.options("/backups"), "");
    add(&stage, "ceph", "s3", &s3_options(&bucket), "");
    let synced = stage.run(&["sync", "--json"]).ends(30).json();
    assert_eq!(synced["failed"][0]["name"], "nowhere");
    let filled: Vec<&str> = synced["offsites"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|one| one["snapshots"][0] == id.as_str())
        .map(|one| one["name"].as_str().unwrap())
        .collect();
    assert_eq!(filled, ["dav", "ceph"]);
}
