//! `lifeboat backup --run --shard` without buckets, and repositories of the time when each host made snapshots of its
//! own sources: what retention must know of them.

use serde_json::Value;

use crate::stage::{STACK, Stage};

/// Makes a stack of three sources, whose snapshots two hosts have made until now: `first.toml` and `second.toml` are
/// their policies, each with sources of its own and a signing key of its own.
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
    let whole = stage.read("lifeboat.toml");
    stage.write("first.toml", &without_source(&whole, "more"));
    let key = format!("\nsigning_key = \"{}\"\nkeys = ", stage.at("keys/second.key"));
    let second = without_source(&without_source(&whole, "config"), "most").replacen("\nkeys = ", &key, 1);
    stage.write("second.toml", &second);
    stage
}

/// Returns a policy without one of its sources.
pub fn without_source(text: &str, name: &str) -> String {
    let begin = text.find(&format!("[[source]]\nname = \"{name}\"")).unwrap();
    let end = text[begin + 1..].find("\n[").map_or(text.len(), |end| begin + 1 + end);
    format!("{}{}", &text[..begin], &text[end..])
}

/// Makes the snapshot of one of the two hosts; returns the names of its sources.
pub fn sources(stage: &Stage, policy: &str) -> Vec<String> {
    let report = stage.run(&["--policy", policy, "backup", "--json"]).ends(0).json();
    let sources = report["sources"].as_array().unwrap().iter();
    sources.map(|source| source["name"].as_str().unwrap().to_owned()).collect()
}

fn count(plan: &Value, what: &str) -> usize {
    plan[what].as_array().unwrap().len()
}

/// Returns the id of the newest snapshot that has a source.
pub fn id_of(stage: &Stage, source: &str) -> String {
    let listed = stage.run(&["snapshots", "--json"]).ends(0).json();
    let all = listed["snapshots"].as_array().unwrap().iter();
    let having = all.filter(|one| one["sources"].as_array().unwrap().contains(&source.into()));
    // They are listed by their beginning, oldest first; ids of one second sort by chance.
    having.map(|one| one["id"].as_str().unwrap().to_owned()).next_back().unwrap()
}

#[test]
fn snapshots_that_hosts_made_of_their_own_sources_are_restored_beside_one_that_they_make_together() {
    let stage = divided();
    assert_eq!(sources(&stage, "first.toml"), ["config", "most"]);
    assert_eq!(sources(&stage, "second.toml"), ["more"]);
    let (first, second) = (id_of(&stage, "most"), id_of(&stage, "more"));
    stage.run(&["backup", "--run", "night", "--shard", "1/2"]).ends(0);
    let made = stage.run(&["backup", "--run", "night", "--shard", "0/2", "--json"]).ends(0).json();
    let whole = made["snapshot"].as_str().unwrap();
    stage.run(&["verify", "--read-data"]).ends(0);
    for (id, source, file) in
        [(&first, "most", "most"), (&second, "more", "more"), (&whole.to_owned(), "more", "more")]
    {
        let into = format!("{source}={}", stage.at("back"));
        stage.run(&["restore", id, "--source", source, "--into", &into, "--yes", STACK]).ends(0);
        let found = stage.files("back").into_iter().find(|path| path.ends_with("file")).unwrap();
        assert_eq!(std::fs::read_to_string(found).unwrap(), file);
        std::fs::remove_dir_all(stage.path("back")).unwrap();
    }
    let plan = stage.run(&["prune", "--plan", "--json"]).ends(0).json();
    assert!(plan["keep"].to_string().contains(&second), "nothing stands in for it yet: {plan}");
}

#[test]
fn retention_keeps_the_newest_of_each_shard_and_not_of_all() {
    let stage = divided();
    for _ in 0..2 {
        sources(&stage, "first.toml");
        sources(&stage, "second.toml");
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
    sources(&stage, "first.toml");
    sources(&stage, "second.toml");
    let only = id_of(&stage, "more");
    let words = ["prune", "--plan", "--forget", &only];
    let refused = stage.run(&words).ends(2).tells("no snapshot of signer `RW");
    let signer = refused.tells("The last one is never removed").err.split('`').nth(1).unwrap().to_owned();
    // A key that signs no more is a group that ends.
    let whole = stage.read("lifeboat.toml");
    stage.append(&format!("[[repository.revoked]]\nsigner = \"{signer}\"\nafter_seq = 99\n"));
    stage.run(&words).ends(0);
    stage.write("lifeboat.toml", &whole);
    // The other shard's do not stand in for it, however many there are.
    sources(&stage, "first.toml");
    stage.run(&words).ends(2);
    stage.run(&["prune", "--plan", "--forget", &id_of(&stage, "config")]).ends(0);
    sources(&stage, "second.toml");
    stage.run(&words).ends(0);
    // Where nothing is divided, one snapshot is as good as another.
    stage.edit(|text| text.replace("sharded = true", "sharded = false"));
    stage.run(&["prune", "--plan", "--forget", &only, "--forget", &id_of(&stage, "more")]).ends(0);
}

#[test]
fn a_shard_needs_the_name_of_the_run() {
    let stage = Stage::with_files();
    stage.run(&["backup", "--shard", "0/2"]).ends(2).tells("--run <NAME>");
}

#[test]
fn a_shard_that_is_none_is_refused() {
    let stage = Stage::with_files();
    for bad in ["2/2", "0/0", "1", "a/2", "-1/2", ""] {
        stage.run(&["backup", "--run", "night", &format!("--shard={bad}")]).ends(2);
    }
    stage.run(&["backup", "--run", "night", "--shard", "0/2", "config"]).ends(2).tells("cannot be used with");
}
