//! Repositories that older versions made, kept for ever: they list, verify, restore, grow and are pruned like new ones.

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use sha2::{Digest, Sha256};

use crate::stage::Stage;

/// What lies in the repository of format 1: path and SHA-256.
const HELD: [(&str, &str); 3] = [
    ("a.txt", "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"),
    ("dir/图 片.txt", "f64e172f6ff38dbde923764934907601b4c9acc3cdac270131e492370b0a1947"),
    ("noise.bin", "012c2720bd32c3ced4e8331b67609f2d3eb0a32c6cf6d87fc9f31c68a839bca4"),
];
/// What the second run found changed.
const CHANGED: (&str, &str) = ("a.txt", "6052eef1a76d3ff777269e8a1720524953b74c4d96e4689679c8982699a32beb");
const FIRST: &str = "20261123T015653Z-b5bb";
const SECOND: &str = "20261123T015653Z-0657";

/// Copies the repository of format 1 and writes a policy for it.
fn format_1() -> Stage {
    let stage = Stage::bare();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/format-1");
    for folder in ["repo", "keys"] {
        let copied = Command::new("cp").arg("-r").arg(golden.join(folder)).arg(stage.path("")).status();
        assert!(copied.unwrap().success());
    }
    // What git keeps may be read by all; keys may not.
    assert!(Command::new("chmod").args(["-R", "go="]).arg(stage.path("keys")).status().unwrap().success());
    let config: serde_json::Value = serde_json::from_str(&stage.read("repo/config.json")).unwrap();
    assert_eq!(config["format"], 1);
    stage.write("data/now.txt", "written by today's version\n");
    let policy = format!(
        "stack = \"golden\"\ntimezone = \"UTC\"\n[repository]\nstore = \"fs\"\n\
         options = {{ root = \"{}\" }}\nrecipients = [{}]\nsigners = [{}]\nkeys = \"{}\"\nstate_dir = \"{}\"\n\
         [retention]\nlast = 1\nmin_keep = 1\n\
         [[source]]\nname = \"config\"\nkind = \"files\"\npaths = [\"{}\"]\n",
        stage.at("repo"),
        config["data_recipients"][0],
        config["signers"][0],
        stage.at("keys"),
        stage.at("state"),
        stage.at("data"),
    );
    stage.write("lifeboat.toml", &policy);
    stage
}

fn hashes(stage: &Stage, folder: &str) -> BTreeMap<String, String> {
    let root = stage.path(folder);
    let files = stage.files(folder).into_iter().map(|file| {
        let hash = hex::encode(Sha256::digest(fs::read(&file).unwrap()));
        (file.strip_prefix(&root).unwrap().to_str().unwrap().to_owned(), hash)
    });
    files.collect()
}

fn held(id: &str) -> BTreeMap<String, String> {
    let changed = (id == SECOND).then_some(&CHANGED);
    HELD.iter().chain(changed).map(|(path, hash)| ((*path).to_owned(), (*hash).to_owned())).collect()
}

#[test]
fn a_repository_of_format_1_lists_verifies_and_restores_to_the_byte() {
    let stage = format_1();
    let listed = stage.run(&["snapshots", "--json"]).ends(0).json();
    let ids: Vec<&str> =
        listed["snapshots"].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap()).collect();
    assert_eq!(ids, [FIRST, SECOND]);
    assert_eq!(listed["snapshots"][0]["tag"], "first");
    let verified = stage.run(&["verify", "--read-data", "--json"]).ends(0).json();
    assert_eq!((&verified["snapshots"], &verified["damage"]), (&2.into(), &serde_json::json!([])));
    for id in [FIRST, SECOND] {
        let into = format!("config={}", stage.at(id));
        stage.run(&["restore", id, "--into", &into, "--yes", "golden"]).ends(0);
        assert_eq!(hashes(&stage, &format!("{id}/tmp/g1/data")), held(id));
    }
}

#[test]
fn a_repository_of_format_1_takes_new_snapshots_beside_the_old_ones() {
    let stage = format_1();
    let id = stage.snapshot();
    stage.run(&["verify", "--read-data"]).ends(0);
    let into = format!("config={}", stage.at("new"));
    stage.run(&["restore", &id, "--into", &into, "--yes", "golden"]).ends(0);
    assert_eq!(stage.read(&format!("new{}", stage.at("data/now.txt"))), "written by today's version\n");
    let into = format!("config={}", stage.at("old"));
    stage.run(&["restore", SECOND, "--into", &into, "--yes", "golden"]).ends(0);
    assert_eq!(hashes(&stage, "old/tmp/g1/data"), held(SECOND));
}

#[test]
fn what_is_pinned_in_format_1_is_kept_also_by_who_cannot_read_why() {
    let stage = format_1();
    stage.snapshot();
    let kept = |stage: &Stage| -> BTreeMap<String, serde_json::Value> {
        let plan = stage.run(&["prune", "--plan", "--json"]).ends(0).json();
        let kept = plan["keep"].as_array().unwrap().iter();
        kept.map(|one| (one["id"].as_str().unwrap().to_owned(), one["pin"].clone())).collect()
    };
    let with_key = kept(&stage);
    assert_eq!(with_key[FIRST], "golden");
    assert!(!with_key.contains_key(SECOND), "{with_key:?}");
    fs::remove_file(stage.path("keys/index.key")).unwrap();
    let without = kept(&stage);
    assert!(without.contains_key(FIRST) && without.contains_key(SECOND), "{without:?}");
}
