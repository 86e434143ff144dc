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

/// The snapshots of the repository of format 2: the first is pinned, a second was forgotten, and before the third a
/// reader was added.
const OF_FORMAT_2: [&str; 2] = ["20261123T033812Z-6057", "20261123T033815Z-1bc8"];
/// What `a.txt` is in the last of them.
const LAST: (&str, &str) = ("a.txt", "7a06324680e94b066ba2c6fa56f3f9d2a67f623be23c39ca12b5a623132695bc");

/// The snapshots of the repository of format 3: a drill proved the first, and for the second a person chose a source.
const OF_FORMAT_3: [&str; 2] = ["20261123T091922Z-be2e", "20261123T091922Z-3b3d"];

/// Copies the repository of format 1 and writes a policy for it.
fn format_1() -> Stage {
    let stage = golden("format-1", "config.json");
    let config: serde_json::Value = serde_json::from_str(&stage.read("repo/config.json")).unwrap();
    assert_eq!(config["format"], 1);
    stage
}

/// Copies a repository and writes a policy for it by this config of its.
fn golden(name: &str, config: &str) -> Stage {
    let stage = Stage::bare();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    for folder in ["repo", "keys"] {
        let copied = Command::new("cp").arg("-r").arg(golden.join(folder)).arg(stage.path("")).status();
        assert!(copied.unwrap().success());
    }
    // What git keeps may be read by all; keys may not.
    assert!(Command::new("chmod").args(["-R", "go="]).arg(stage.path("keys")).status().unwrap().success());
    let config: serde_json::Value = serde_json::from_str(&stage.read(&format!("repo/{config}"))).unwrap();
    stage.write("data/now.txt", "written by today's version\n");
    let policy = format!(
        "stack = \"golden\"\ntimezone = \"UTC\"\n[repository]\nstore = \"fs\"\n\
         options = {{ root = \"{}\" }}\nrecipients = {}\nsigners = [{}]\nkeys = \"{}\"\nstate_dir = \"{}\"\n\
         [retention]\nlast = 1\nmin_keep = 1\n\
         [[source]]\nname = \"config\"\nkind = \"files\"\npaths = [\"{}\"]\n",
        stage.at("repo"),
        config["data_recipients"],
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

#[test]
fn a_repository_of_format_2_is_read_with_all_its_marks() {
    let stage = golden("format-2", "config.r1.json");
    let listed = stage.run(&["snapshots", "--json"]).ends(0).json();
    let listed = listed["snapshots"].as_array().unwrap().clone();
    let ids: Vec<&str> = listed.iter().map(|one| one["id"].as_str().unwrap()).collect();
    assert_eq!(ids, OF_FORMAT_2);
    let verified = stage.run(&["verify", "--read-data", "--json"]).ends(0).json();
    assert_eq!((&verified["snapshots"], &verified["damage"]), (&2.into(), &serde_json::json!([])));
    // The reader that was added opens what was stored since, and nothing older.
    for (identity, id, code) in [
        ("keys/identity.txt", OF_FORMAT_2[0], 0),
        ("keys/identity.txt", OF_FORMAT_2[1], 0),
        ("keys/second.txt", OF_FORMAT_2[1], 0),
        ("keys/second.txt", OF_FORMAT_2[0], 12),
    ] {
        let folder = format!("{}-{id}", identity.len());
        let into = format!("config={}", stage.at(&folder));
        stage.run(&["--identity", identity, "restore", id, "--into", &into, "--yes", "golden"]).ends(code);
        if code == 0 {
            let mut held: BTreeMap<String, String> = held(FIRST);
            held.extend((id == OF_FORMAT_2[1]).then(|| (LAST.0.to_owned(), LAST.1.to_owned())));
            assert_eq!(hashes(&stage, &format!("{folder}/tmp/g1/g2/data")), held);
        }
    }
    let plan = stage.run(&["prune", "--plan", "--json"]).ends(0).json();
    assert_eq!(plan["packs"]["condemned"]["count"], 2, "{plan}");
    assert_eq!(plan["keep"].as_array().unwrap().len(), 2, "{plan}");
    stage.snapshot();
    stage.run(&["prune", "--apply"]).ends(0);
    stage.run(&["verify", "--read-data"]).ends(0);
}

#[test]
fn a_repository_of_format_3_tells_what_was_proven_and_what_was_chosen() {
    let stage = golden("format-3", "config.json");
    let listed = stage.run(&["snapshots", "--json"]).ends(0).json();
    let facts = |what: &str| -> Vec<serde_json::Value> {
        listed["snapshots"].as_array().unwrap().iter().map(|one| one[what].clone()).collect()
    };
    assert_eq!(facts("id"), OF_FORMAT_3);
    assert_eq!(facts("status"), ["complete", "chosen"]);
    assert_eq!(facts("proven"), [true, false]);
    let verified = stage.run(&["verify", "--read-data", "--json"]).ends(0).json();
    let found = ["snapshots", "proofs", "damage"].map(|what| verified[what].clone());
    assert_eq!(found, [2.into(), 1.into(), serde_json::json!([])]);
    let into = format!("config={}", stage.at("old"));
    stage.run(&["restore", OF_FORMAT_3[0], "--source", "config", "--into", &into, "--yes", "golden"]).ends(0);
    assert_eq!(stage.read("old/tmp/g3/data/a.txt"), "hello\n");
    // Of three, the rules keep one; the proven one stays, and the chosen one took no place of it.
    stage.snapshot();
    stage.snapshot();
    let plan = stage.run(&["prune", "--plan", "--json"]).ends(0).json();
    let kept = plan["keep"].as_array().unwrap().iter().find(|one| one["id"] == OF_FORMAT_3[0]).unwrap();
    assert_eq!((&kept["reasons"][0], &kept["proven"]), (&"newest proven".into(), &true.into()));
    stage.run(&["prune", "--apply"]).ends(0);
    assert_eq!(stage.run(&["verify", "--json"]).ends(0).json()["proofs"], 1);
}
