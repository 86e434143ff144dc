//! Offsites in use: filled after a backup, and read from when nothing else is left.

use std::{fs, path::PathBuf};

use serde_json::json;

use crate::{stage::Stage, sync::add_offsite};

/// Adds an offsite in a folder that is there, with more lines of settings.
fn add(stage: &Stage, name: &str, more: &str) {
    add_offsite(stage, name);
    stage.append(more);
    fs::create_dir(stage.path(name)).unwrap();
}

/// Returns what lies below a folder, by the path inside it.
fn contents(stage: &Stage, folder: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let root = stage.path(folder);
    let read = |path: PathBuf| (path.strip_prefix(&root).unwrap().to_owned(), fs::read(&path).unwrap());
    stage.files(folder).into_iter().map(read).collect()
}

#[test]
fn with_the_repository_gone_every_verb_that_reads_works_from_the_offsite() {
    let (stage, id) = Stage::with_snapshot();
    add(&stage, "far", "");
    stage.run(&["sync"]).ends(0);
    fs::remove_dir_all(stage.path("repo")).unwrap();
    fs::remove_dir_all(stage.path("state")).unwrap();
    stage.run(&["snapshots"]).ends(10);

    let listed = stage.run(&["snapshots", "--from", "far", "--json"]).ends(0).json();
    assert_eq!(listed["snapshots"][0]["id"], id);
    let verified = stage.run(&["verify", "--read-data", "--from", "far", "--json"]).ends(0).json();
    assert!(verified["chunks_read"].as_u64().unwrap() > 0, "{verified}");
    assert!(stage.run(&["ls", "latest", "--from", "far"]).ends(0).out.contains("app.env"));
    let exported = stage.run(&["export", "latest", "config", "--format", "tar", "--from", "far"]).ends(0);
    assert!(exported.out.contains("COLOUR=blue"));

    let into = format!("config={}", stage.at("out"));
    let plan = stage.run(&["restore", "latest", "--from", "far", "--into", &into, "--plan"]).ends(0).out;
    assert!(plan.starts_with(&format!("Restore of stack demo to snapshot {id}, read from offsite far, ")));
    let words = ["restore", "latest", "--from", "far", "--into", &into, "--plan", "--json"];
    let plan = stage.run(&words).ends(0).json();
    assert_eq!(plan["plan"]["from"], json!({ "offsite": "far", "place": stage.at("far") }));
    stage.run(&["restore", "latest", "--from", "far", "--into", &into, "--yes", "demo"]).ends(0);
    let out = contents(&stage, "out");
    for (path, bytes) in contents(&stage, "data") {
        assert!(out.iter().any(|(there, same)| there.ends_with(&path) && *same == bytes), "{path:?}");
    }
    assert!(!stage.exists("repo"), "nothing was made in the place of the repository");
}

#[test]
fn an_offsite_that_the_policy_has_not_is_a_wrong_command_line() {
    let (stage, _) = Stage::with_snapshot();
    add_offsite(&stage, "far");
    add_offsite(&stage, "near");
    let verbs: [&[&str]; 5] = [
        &["snapshots"],
        &["verify"],
        &["ls", "latest"],
        &["export", "latest", "config", "--format", "tar"],
        &["restore", "latest", "--plan"],
    ];
    for verb in verbs {
        let words = [verb, &["--from", "../fra"]].concat();
        let ran = stage.run(&words).ends(2);
        ran.tells("the policy has no offsite `../fra`").tells("It has: far, near.");
    }
}

#[test]
fn damage_of_the_copy_is_found_in_the_copy() {
    let (stage, _) = Stage::with_snapshot();
    add(&stage, "far", "");
    stage.run(&["sync"]).ends(0);
    let pack = stage.files("far/packs").remove(0);
    fs::remove_file(pack).unwrap();
    stage.run(&["verify"]).ends(0);
    stage.run(&["verify", "--from", "far"]).ends(40);
}

#[test]
fn a_backup_fills_the_offsites_that_want_it_at_once() {
    let stage = Stage::with_files();
    add(
        &stage,
        "far",
        "after_backup = true\nlimit_mib_per_second = 100\nconcurrency = 4\nreread_percent = 100\n",
    );
    add(&stage, "near", "");
    let made = stage.run(&["backup", "--json"]).ends(0).json();
    let id = &made["snapshot"];
    let far = &made["offsites"][0];
    assert_eq!((&far["name"], &far["snapshots"][0], &far["lag_seconds"]), (&json!("far"), id, &json!(0)));
    assert_eq!(far["copied"]["packs"], far["copied"]["packs_reread"]);
    assert_eq!((&far["there"]["snapshots"], &far["there"]["newest"]["id"]), (&json!(1), id));
    assert_eq!((made["offsites"].as_array().unwrap().len(), &made["failed"]), (1, &json!([])));
    assert_eq!(stage.files("near"), Vec::<PathBuf>::new());
    let told = stage.run(&["backup", "config"]).ends(0).out;
    assert!(told.contains("far: 1 snapshots copied, 1 were there"), "{told}");
    let made = stage.run(&["backup", "--no-sync", "--json"]).ends(0).json();
    assert_eq!(made["offsites"], json!([]));
    let synced = stage.run(&["sync", "far", "--json"]).ends(0).json();
    assert_eq!(synced["offsites"][0]["snapshots"], json!([made["snapshot"]]));
}

#[test]
fn a_copy_that_fails_takes_no_snapshot_back_and_keeps_no_other_copy_from_being_made() {
    let stage = Stage::with_files();
    add_offsite(&stage, "far");
    stage.append("after_backup = true\n");
    add(&stage, "near", "after_backup = true\n");
    // A file where the folder should be: nothing can be put there.
    stage.write("far", "no folder");
    let ran = stage.run(&["backup"]).ends(3);
    assert!(ran.out.contains("is complete in the repository; its copy in far is not"), "{}", ran.out);
    assert!(!ran.out.contains("its copy in near"), "{}", ran.out);
    let quiet = stage.run(&["backup", "--quiet"]).ends(3);
    assert_eq!(quiet.out.lines().count(), 1, "{}", quiet.out);
    let made = stage.run(&["backup", "--json"]).ends(3).json();
    assert_eq!((&made["status"], &made["failed"][0]["name"]), (&json!("complete"), &json!("far")));
    assert_eq!(made["offsites"][0]["name"], "near");
    let listed = stage.run(&["snapshots", "--from", "near", "--json"]).ends(0).json();
    assert_eq!(listed["snapshots"].as_array().unwrap().len(), 3);
    stage.run(&["backup", "--no-sync"]).ends(0);
}
