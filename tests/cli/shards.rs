//! `lifeboat backup --shard`: sources divided over hosts, and what retention must know of it.

use serde_json::Value;

use crate::stage::Stage;

/// Makes a stack of three sources and two shards: the first has the usual policy, the other `second.toml`.
pub fn divided() -> Stage {
    let stage = Stage::with_files();
    for name in ["more", "most"] {
        stage.write(&format!("{name}/file"), name);
        stage.add_files(name, name);
    }
    let made = stage.run(&["keys", "new", "--signing", "--out", "keys/second.key", "--json"]).ends(0).json();
    let second = made["signer"].as_str().unwrap();
    stage.edit(|text| {
        let (before, rest) = text.split_once("signers = [").unwrap();
        let (first, rest) = rest.split_once(']').unwrap();
        let first = first.trim_end_matches([',', '\n', ' ']);
        format!("{before}sharded = true\nsigners = [{first}, \"{second}\"]{rest}")
    });
    second_policy(&stage);
    stage
}

/// Writes the second host's policy: the same with another signing key.
fn second_policy(stage: &Stage) {
    let key = format!("\nsigning_key = \"{}\"\nkeys = ", stage.at("keys/second.key"));
    stage.write("second.toml", &stage.read("lifeboat.toml").replacen("\nkeys = ", &key, 1));
}

pub fn sources(stage: &Stage, policy: &str, shard: &str) -> Vec<String> {
    let words = ["--policy", policy, "backup", "--shard", shard, "--json"];
    let report = stage.run(&words).ends(0).json();
    let sources = report["sources"].as_array().unwrap().iter();
    sources.map(|source| source["name"].as_str().unwrap().to_owned()).collect()
}

fn count(plan: &Value, what: &str) -> usize {
    plan[what].as_array().unwrap().len()
}

#[test]
fn all_shards_together_take_every_source_once() {
    let stage = divided();
    assert_eq!(sources(&stage, "lifeboat.toml", "0/2"), ["config", "most"]);
    assert_eq!(sources(&stage, "second.toml", "1/2"), ["more"]);
    stage.run(&["verify", "--read-data"]).ends(0);
}

#[test]
fn retention_keeps_the_newest_of_each_shard_and_not_of_all() {
    let stage = divided();
    for _ in 0..2 {
        sources(&stage, "lifeboat.toml", "0/2");
        sources(&stage, "second.toml", "1/2");
    }
    stage.edit(|text| {
        let (before, rest) = text.split_once("\n[retention]\n").unwrap();
        let after = rest.find("\n[").map_or("", |end| &rest[end..]);
        format!("{before}\n[retention]\nlast = 1\nmin_keep = 1\n{after}")
    });
    let plan = stage.run(&["prune", "--plan", "--json"]).ends(0).json();
    assert_eq!((count(&plan, "keep"), count(&plan, "remove")), (2, 2), "{plan}");
    stage.run(&["prune", "--apply"]).ends(0);
    let left = stage.run(&["snapshots", "--json"]).ends(0).json();
    let mut sources: Vec<String> = left["snapshots"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|one| {
            one["sources"].as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned())
        })
        .collect();
    sources.sort();
    assert_eq!(sources, ["config", "more", "most"]);
    // This is what would become of them if they were counted together.
    stage.edit(|text| text.replace("sharded = true", "sharded = false"));
    let plan = stage.run(&["prune", "--plan", "--json"]).ends(0).json();
    assert_eq!((count(&plan, "keep"), count(&plan, "remove")), (1, 1), "{plan}");
}

#[test]
fn the_last_snapshot_of_a_shard_is_never_removed_by_name() {
    let stage = divided();
    sources(&stage, "lifeboat.toml", "0/2");
    sources(&stage, "second.toml", "1/2");
    let id_of = |source: &str| {
        let listed = stage.run(&["snapshots", "--json"]).ends(0).json();
        let has = |one: &&Value| one["sources"].as_array().unwrap().contains(&source.into());
        // The newest comes last.
        let all: Vec<&Value> = listed["snapshots"].as_array().unwrap().iter().filter(has).collect();
        all.iter().map(|one| one["id"].as_str().unwrap().to_owned()).max().unwrap()
    };
    let only = id_of("more");
    let words = ["prune", "--plan", "--forget", &only];
    let refused = stage.run(&words).ends(2).tells("no snapshot of signer `RW");
    let signer = refused.tells("The last one is never removed").err.split('`').nth(1).unwrap().to_owned();
    // A key that signs no more is a group that ends.
    let whole = stage.read("lifeboat.toml");
    stage.append(&format!("[[repository.revoked]]\nsigner = \"{signer}\"\nafter_seq = 99\n"));
    stage.run(&words).ends(0);
    stage.write("lifeboat.toml", &whole);
    // The other shard's do not stand in for it, however many there are.
    sources(&stage, "lifeboat.toml", "0/2");
    stage.run(&words).ends(2);
    stage.run(&["prune", "--plan", "--forget", &id_of("config")]).ends(0);
    sources(&stage, "second.toml", "1/2");
    stage.run(&words).ends(0);
    // Where nothing is divided, one snapshot is as good as another.
    stage.edit(|text| text.replace("sharded = true", "sharded = false"));
    stage.run(&["prune", "--plan", "--forget", &only, "--forget", &id_of("more")]).ends(0);
}

#[test]
fn a_shard_needs_the_policy_and_the_key_in_its_place() {
    let stage = divided();
    stage.run(&["backup", "--shard", "1/2"]).ends(12).tells("shard 1/2 may not sign with");
    stage.run(&["backup", "--shard", "3/4"]).ends(2).tells("shard 3/4 has no source: the stack has 3");
    stage.edit(|text| text.replace("sharded = true\n", ""));
    stage.run(&["backup", "--shard", "0/2"]).ends(2).tells("sharded = true");
}

#[test]
fn a_shard_that_is_none_is_refused() {
    let stage = divided();
    for bad in ["2/2", "0/0", "1", "a/2", "-1/2", ""] {
        stage.run(&["backup", &format!("--shard={bad}")]).ends(2);
    }
    stage.run(&["backup", "--shard", "0/2", "config"]).ends(2).tells("cannot be used with");
}
