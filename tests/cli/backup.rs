//! `lifeboat backup`: what is taken, what it tells, and what keeps it from running.

use std::fs::{self, File};

use rustix::fs::{FlockOperation, flock};

use crate::{
    assert_screen,
    stage::{Stage, closed_port},
};

#[test]
fn it_tells_what_was_taken() {
    let stage = Stage::with_files();
    let json = stage.run(&["backup", "--json"]).ends(0).json();
    assert_eq!(json["schema"], "lifeboat.backup/1");
    assert_eq!(json["status"], "complete");
    let source = &json["sources"][0];
    assert_eq!((&source["name"], &source["status"]), (&"config".into(), &"complete".into()));
    assert!(source["entries"].as_u64().unwrap() >= 3);
    assert!(source["bytes_read"].as_u64().unwrap() > 40_000);
    assert!(source["point"]["at"].is_string(), "{source}");
    assert!(json["bytes_added"].as_u64().unwrap() > 0);
}

#[test]
fn a_second_one_of_the_same_data_adds_nearly_nothing() {
    let (stage, _) = Stage::with_snapshot();
    let json = stage.run(&["backup", "--json"]).ends(0).json();
    assert_eq!(json["sources"][0]["bytes_added"], 0, "{json}");
    assert!(json["bytes_added"].as_u64().unwrap() < 1024, "{json}");
}

#[test]
fn a_source_that_the_policy_has_not_is_a_wrong_command_line() {
    let stage = Stage::with_files();
    assert_screen!(stage, stage.run(&["backup", "confg"]).ends(2).err);
}

#[test]
fn only_the_sources_that_were_named_are_taken() {
    let stage = Stage::with_files();
    stage.add_redis(closed_port(), "hush");
    let json = stage.run(&["backup", "config", "--json"]).ends(0).json();
    assert_eq!(json["sources"].as_array().unwrap().len(), 1);
    assert_eq!((&json["status"], &json["sources"][0]["status"]), (&"chosen".into(), &"complete".into()));
    let listed = stage.run(&["snapshots", "--json"]).ends(0).json();
    assert_eq!(
        (&listed["snapshots"][0]["status"], &listed["snapshots"][0]["proven"]),
        (&"chosen".into(), &false.into())
    );
    assert!(stage.run(&["snapshots"]).ends(0).out.contains("chosen"));
    assert!(stage.run(&["backup", "config"]).ends(0).out.contains(" is chosen: "));
}

#[test]
fn sources_that_were_all_named_are_the_whole_stack() {
    let stage = Stage::with_files();
    let json = stage.run(&["backup", "config", "--json"]).ends(0).json();
    assert_eq!(json["status"], "complete");
}

#[test]
fn a_snapshot_of_named_sources_takes_no_place_of_a_whole_one() {
    let stage = Stage::with_files();
    let policy = stage.read("lifeboat.toml");
    let whole = [stage.snapshot(), stage.snapshot()];
    stage.add_redis(closed_port(), "hush");
    stage.edit(|text| {
        let (before, rest) = text.split_once("\n[retention]\n").unwrap();
        let after = rest.find("\n[").map_or("", |end| &rest[end..]);
        format!("{before}\n[retention]\nlast = 2\nmin_keep = 1\n{after}")
    });
    let named: Vec<String> = (0..3)
        .map(|_| {
            let json = stage.run(&["backup", "config", "--json"]).ends(0).json();
            json["snapshot"].as_str().unwrap().to_owned()
        })
        .collect();
    let plan = stage.run(&["prune", "--plan", "--json"]).ends(0).json();
    assert_eq!(plan["remove"], serde_json::json!([]), "{plan}");
    let reasons = |id: &String| {
        let kept = plan["keep"].as_array().unwrap().iter().find(|one| one["id"] == id.as_str()).unwrap();
        kept["reasons"][0].as_str().unwrap().to_owned()
    };
    assert_eq!(whole.each_ref().map(reasons), ["last 2 of 2", "last 1 of 2"]);
    assert!(named.iter().map(reasons).all(|why| why == "newest partial, no complete one is newer"));
    stage.write("lifeboat.toml", &policy);
    // A catalog that is made anew does not take one of them for last night's backup.
    fs::remove_dir_all(stage.path("state")).unwrap();
    let status = |stage: &Stage| stage.run(&["status", "--json"]).json();
    stage.run(&["catalog", "rebuild"]).ends(0);
    let told = status(&stage);
    let backup = told["tasks"].as_array().unwrap().iter().find(|one| one["task"]["job"] == "backup").cloned();
    let last = &backup.as_ref().unwrap()["last_run"]["snapshot"];
    assert_eq!(*last, whole[1].as_str(), "{told}");
}

#[test]
fn a_source_that_is_down_leaves_the_others_in_a_partial_snapshot() {
    let stage = Stage::with_files();
    let port = closed_port();
    stage.add_redis(port, "hunter2");
    let ran = stage.run(&["backup", "--json"]).ends(20).hides("hunter2");
    assert!(ran.err.contains(&format!("127.0.0.1:{port}")) && ran.err.contains("hint: "), "{}", ran.err);
    let json = ran.json();
    assert_eq!(json["status"], "partial");
    assert_eq!(
        (&json["sources"][0]["name"], &json["sources"][0]["status"]),
        (&"redis".into(), &"failed".into())
    );
    assert!(json["sources"][0]["error"][0].as_str().unwrap().contains("redis"));
    assert_eq!(json["sources"][1]["status"], "complete");
    let listed = stage.run(&["snapshots", "--json"]).ends(0).json();
    assert_eq!(listed["snapshots"][0]["status"], "partial");
    assert_eq!(listed["snapshots"][0]["sources"], serde_json::json!(["config"]));
    // Asked for it, the snapshot says why it is not there.
    stage
        .run(&["export", "latest", "redis", "--format", "rdb"])
        .ends(2)
        .tells("it could not be read that time");
}

#[test]
fn when_nothing_can_be_read_there_is_no_snapshot() {
    let stage = Stage::new();
    stage.add_redis(closed_port(), "hunter2");
    let json = stage.run(&["backup", "--json"]).ends(20).json();
    assert_eq!((&json["schema"], &json["code"]), (&"lifeboat.failure/1".into(), &"source_down".into()));
    assert_eq!(stage.run(&["snapshots"]).ends(0).out, "there is no snapshot yet\n");
}

#[test]
fn a_file_that_cannot_be_read_makes_the_snapshot_partial() {
    let stage = Stage::with_files();
    stage.edit(|text| {
        text.replace(
            &format!("[\"{}\"]", stage.at("data")),
            &format!("[\"{}\", \"{}\"]", stage.at("data"), stage.at("gone")),
        )
    });
    stage.run(&["backup"]).ends(3).says(&stage.at("gone"));
    let listed = stage.run(&["snapshots", "--json"]).ends(0).json();
    assert_eq!(listed["snapshots"][0]["status"], "partial");
}

#[test]
fn a_second_run_on_the_host_is_told_to_wait() {
    let (stage, _) = Stage::with_snapshot();
    let lock =
        stage.files("state").into_iter().find(|file| file.extension().is_some_and(|e| e == "lock")).unwrap();
    let held = File::open(lock).unwrap();
    flock(&held, FlockOperation::LockExclusive).unwrap();
    let ran = stage.run(&["backup"]).ends(11);
    assert_screen!(stage, ran.err);
    assert_eq!(stage.run(&["backup", "--json"]).ends(11).json()["code"], "busy");
    // Who only looks is not in the way.
    stage.run(&["snapshots"]).ends(0);
    drop(held);
    stage.run(&["backup"]).ends(0);
}

#[test]
fn a_state_folder_that_cannot_be_written_is_named() {
    let stage = Stage::with_files();
    stage.write("state", "a file where the folder belongs");
    stage.run(&["backup"]).ends(1).tells("lock file").tells("hint: Set state_dir");
    // Looking works without a memory.
    stage.run(&["snapshots"]).ends(0).tells("warning: ");
}
