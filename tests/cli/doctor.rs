//! What `doctor` finds, says to do, and ends with.

use std::{fs, os::unix::fs::PermissionsExt, process::Command};

use serde_json::Value;

use crate::stage::{Ran, Stage, filters, ran};

/// As `assert_screen`, for sizes of every disk.
macro_rules! assert_findings {
    ($stage:expr, $text:expr) => {{
        let dir = $stage.at("");
        let mut filters = filters(&dir);
        filters.insert(0, (r"\d+(\.\d+)? [MGTP]iB", "[size]"));
        insta::with_settings!({ filters => filters, omit_expression => true }, {
            insta::assert_snapshot!($text);
        });
    }};
}

/// Returns a finding of a document.
#[track_caller]
fn finding<'d>(document: &'d Value, id: &str) -> &'d Value {
    let all = document["findings"].as_array().unwrap();
    all.iter().find(|finding| finding["id"] == id).unwrap_or_else(|| panic!("{id} is not in {document:#}"))
}

/// Runs the program with the repository on a small empty disk of its own: how full the machine's is must not show.
fn on_disk(stage: &Stage, size: &str, words: &str) -> Ran {
    let script = format!(
        "set -eu; cp -a repo whole; mount -t tmpfs -o size={size},mode=700 tmpfs repo; cp -a whole/. repo; rm -r whole\n\
         exec {} {words}",
        env!("CARGO_BIN_EXE_lifeboat")
    );
    let mut shell = Command::new("unshare");
    shell.args(["--user", "--map-root-user", "--mount", "sh", "-c", &script]).current_dir(stage.path(""));
    ran(&shell.env("LIFEBOAT_POLICY", "lifeboat.toml").env("HOME", stage.path("")).output().unwrap())
}

fn mode(stage: &Stage, path: &str, mode: u32) {
    fs::set_permissions(stage.path(path), fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_healthy_stack_has_one_thing_to_look_at_and_keeps_no_trace_of_it() {
    let stage = Stage::with_files();
    let before = stage.files("repo");
    stage.run(&["doctor"]).ends(0);
    assert_eq!(stage.files("repo"), before);
    assert_findings!(stage, on_disk(&stage, "256m", "doctor").ends(0).out);
    fs::remove_file(stage.path("keys/identity.txt")).unwrap();
    let ran = on_disk(&stage, "256m", "--quiet doctor").ends(0);
    assert_eq!(ran.out, "", "there is nothing wrong to say");
}

#[test]
fn the_document_has_every_finding_with_its_hint() {
    let stage = Stage::with_files();
    let document = stage.run(&["doctor", "--json"]).ends(0).json();
    assert_eq!(document["schema"], "lifeboat.doctor/1");
    for one in document["findings"].as_array().unwrap() {
        let keys: Vec<_> = one.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(keys, ["detail", "hint", "id", "status", "what"]);
        assert_eq!(one["hint"].is_string(), one["status"] != "ok", "{one}");
    }
    assert_eq!(finding(&document, "repository.race")["status"], "ok");
    assert_eq!(finding(&document, "repository.race")["detail"], "3 races of 8");
    assert_eq!(finding(&document, "key.identity")["status"], "warn");
}

#[test]
fn keys_that_others_can_read_are_broken() {
    let stage = Stage::with_files();
    mode(&stage, "keys/signing.key", 0o640);
    mode(&stage, "keys/index.key", 0o604);
    let ran = on_disk(&stage, "256m", "--quiet doctor").ends(1);
    assert_findings!(stage, ran.out);
}

#[test]
fn a_key_that_is_missing_or_not_believed_is_broken() {
    let stage = Stage::with_files();
    fs::remove_file(stage.path("keys/index.key")).unwrap();
    stage.run(&["--policy", "other.toml", "init", "--root", "other", "--keys", "stranger"]).ends(0);
    fs::rename(stage.path("stranger/signing.key"), stage.path("keys/signing.key")).unwrap();
    let document = stage.run(&["doctor", "--json"]).ends(1).json();
    for (id, detail) in
        [("key.index", "cannot be read"), ("key.signing", "is not among the policy's signers")]
    {
        assert_eq!(finding(&document, id)["status"], "broken");
        assert!(finding(&document, id)["detail"].as_str().unwrap().contains(detail), "{document:#}");
    }
}

#[test]
fn a_secret_and_a_state_folder_out_of_reach_are_broken() {
    let stage = Stage::with_files();
    stage.add_redis(1, "hush");
    fs::remove_file(stage.path("secrets/redis")).unwrap();
    fs::write(stage.path("state"), "a file").unwrap();
    let ran = on_disk(&stage, "256m", "--quiet doctor").ends(1);
    assert_findings!(stage, ran.hides("hush").out);
}

#[test]
fn where_no_repository_is_nothing_is_written() {
    let stage = Stage::with_files();
    fs::rename(stage.path("repo"), stage.path("away")).unwrap();
    let document = stage.run(&["doctor", "--json"]).ends(30).json();
    assert_eq!(finding(&document, "repository.there")["status"], "broken");
    assert!(!stage.exists("repo"));
    // A mount point without its disk.
    fs::create_dir(stage.path("repo")).unwrap();
    let document = stage.run(&["doctor", "--json"]).ends(1).json();
    assert_eq!(finding(&document, "repository.there")["status"], "broken");
    assert!(stage.files("repo").is_empty());
    assert_eq!(fs::read_dir(stage.path("repo")).unwrap().count(), 0);
}

#[test]
fn every_offsite_is_tried_out_by_its_name() {
    let stage = Stage::with_files();
    fs::create_dir(stage.path("copy")).unwrap();
    let offsite = |name: &str| {
        let root = stage.at(name);
        stage.append(&format!(
            "[[offsite]]\nname = \"{name}\"\nstore = \"fs\"\noptions = {{ root = \"{root}\" }}\n"
        ));
    };
    offsite("copy");
    let document = stage.run(&["doctor", "--json"]).ends(0).json();
    assert_eq!(finding(&document, "offsite.copy.create_only")["status"], "ok");
    offsite("far");
    let document = stage.run(&["doctor", "--json"]).ends(30).json();
    assert_eq!(finding(&document, "offsite.far.answers")["status"], "broken");
    assert_eq!(finding(&document, "offsite.copy.answers")["status"], "ok", "one that is down hides no other");
}

#[test]
fn a_disk_that_is_nearly_full_is_broken_before_a_backup_finds_out() {
    let stage = Stage::with_files();
    let document = on_disk(&stage, "16m", "doctor --json").ends(1).json();
    let room = finding(&document, "repository.room");
    assert_eq!(room["status"], "broken");
    assert!(room["detail"].as_str().unwrap().ends_with(" of 16.0 MiB are free"), "{room}");
    assert_eq!(finding(&document, "repository.list_after_delete")["status"], "ok");
}
