//! `lifeboat sync`: fills offsites, tells how far each is, and carries on where one is down.

use crate::{assert_screen, stage::Stage};

/// Adds an offsite in a folder of this name.
pub fn add_offsite(stage: &Stage, name: &str) {
    let root = stage.at(name);
    stage.append(&format!(
        "[[offsite]]\nname = \"{name}\"\nstore = \"fs\"\noptions = {{ root = \"{root}\" }}\ndelay_days = 14\n"
    ));
}

#[test]
fn an_offsite_is_filled_and_then_has_everything() {
    let (stage, first) = Stage::with_snapshot();
    add_offsite(&stage, "far");
    std::fs::create_dir(stage.path("far")).unwrap();
    let screen = stage.run(&["sync"]).ends(0).out;
    assert_screen!(stage, screen);
    let second = stage.snapshot();
    let json = stage.run(&["sync", "far", "--json"]).ends(0).json();
    assert_eq!(json["schema"], "lifeboat.sync/1");
    let far = &json["offsites"][0];
    assert_eq!((&far["name"], &far["snapshots"]), (&"far".into(), &serde_json::json!([second])));
    assert_eq!((&far["skipped"], &far["lag_seconds"]), (&1.into(), &0.into()));
    assert_eq!((&far["damaged"], &far["waiting"]), (&serde_json::json!([]), &serde_json::json!([])));
    assert!(stage.exists(&format!("far/refs/{first}.r0.json.minisig")));
    assert!(stage.exists(&format!("far/refs/{second}.r0.json.minisig")));
}

#[test]
fn one_that_is_down_does_not_keep_the_others_from_being_filled() {
    let (stage, id) = Stage::with_snapshot();
    add_offsite(&stage, "near");
    add_offsite(&stage, "far");
    // A file where the folder should be: nothing can be put there.
    stage.write("near", "no folder");
    std::fs::create_dir(stage.path("far")).unwrap();
    let ran = stage.run(&["sync", "--json"]);
    assert_ne!(ran.exit, 0);
    let json = ran.json();
    assert_eq!(json["failed"][0]["name"], "near");
    assert!(!json["failed"][0]["error"].as_array().unwrap().is_empty());
    assert_eq!(json["offsites"][0]["snapshots"], serde_json::json!([id]));
}

#[test]
fn what_is_damaged_is_named_left_out_and_ends_with_the_exit_code_of_damage() {
    let (stage, first) = Stage::with_snapshot();
    add_offsite(&stage, "far");
    std::fs::create_dir(stage.path("far")).unwrap();
    stage.write("data/app.env", "COLOUR=green\n");
    let second = stage.snapshot();
    std::fs::remove_file(stage.path(&format!("repo/manifests/{first}.json.zst.age"))).unwrap();
    stage.run(&["sync"]).ends(40).tells(&format!("snapshot {first} is not copied"));
    let json = stage.run(&["sync", "--json"]).ends(40).json();
    assert_eq!(json["offsites"][0]["damaged"][0]["id"], first);
    assert!(
        stage.exists(&format!("far/refs/{second}.r0.json.minisig")),
        "the host's key explained the first"
    );
    let policy = stage.read("lifeboat.toml");
    // The copy as somebody sees it who has nothing else.
    stage.edit(|text| {
        let alone = text.split("[[offsite]]").next().unwrap().to_owned();
        alone.replace(&stage.at("repo"), &stage.at("far")).replace("root = \"repo\"", "root = \"far\"")
    });
    stage.run(&["verify", "--read-data"]).ends(0);
    stage.write("lifeboat.toml", &policy);
    stage.run(&["prune", "--apply", "--forget", &first]).ends(0);
    stage.run(&["sync"]).ends(0);
}

#[test]
fn without_a_key_what_comes_after_damage_waits() {
    let (stage, first) = Stage::with_snapshot();
    add_offsite(&stage, "far");
    std::fs::create_dir(stage.path("far")).unwrap();
    stage.write("data/app.env", "COLOUR=green\n");
    let second = stage.snapshot();
    std::fs::remove_file(stage.path(&format!("repo/manifests/{first}.json.zst.age"))).unwrap();
    std::fs::rename(stage.path("keys"), stage.path("elsewhere")).unwrap();
    let json = stage.run(&["sync", "--json"]).ends(40).json();
    assert_eq!(json["offsites"][0]["waiting"], serde_json::json!([second]));
    assert!(json["offsites"][0]["lag_seconds"].as_i64().unwrap() >= 0);
    assert!(!stage.exists(&format!("far/refs/{second}.r0.json.minisig")));
}

#[test]
fn a_sync_to_nowhere_says_what_to_do() {
    let (stage, _) = Stage::with_snapshot();
    stage.run(&["sync"]).ends(2).tells("the policy has no offsite").tells("hint: ");
    add_offsite(&stage, "far");
    stage.run(&["sync", "near"]).ends(2).tells("the policy has no offsite `near`").tells("It has: far.");
}
