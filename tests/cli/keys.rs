//! Keys that are missing, wrong or not enough: always 12, always with a way out.

use crate::{
    assert_screen,
    stage::{Ran, Stage},
};

fn stranger(stage: &Stage) -> String {
    stage.run(&["--policy", "other.toml", "init", "--root", "other", "--keys", "stranger"]).ends(0);
    stage.at("stranger/identity.txt")
}

#[test]
fn a_host_without_its_signing_key_cannot_back_up() {
    let stage = Stage::with_files();
    std::fs::remove_file(stage.path("keys/signing.key")).unwrap();
    assert_screen!(stage, stage.run(&["backup"]).ends(12).err);
}

#[test]
fn a_signing_key_that_the_policy_does_not_believe_cannot_commit() {
    let stage = Stage::with_files();
    stranger(&stage);
    std::fs::rename(stage.path("stranger/signing.key"), stage.path("keys/signing.key")).unwrap();
    stage.run(&["backup"]).ends(12).tells("is not among the policy's signers").tells("hint: ");
}

#[test]
fn a_policy_that_believes_somebody_else_takes_the_repository_for_forged() {
    let (stage, _) = Stage::with_snapshot();
    stranger(&stage);
    let (mine, other) = (stage.read("keys/signing.pub"), stage.read("stranger/signing.pub"));
    stage.edit(|text| text.replace(mine.trim(), other.trim()));
    assert_screen!(stage, stage.run(&["snapshots"]).ends(22).err);
}

#[test]
fn data_opens_with_the_identity_only() {
    let (stage, _) = Stage::with_snapshot();
    std::fs::rename(stage.path("keys/identity.txt"), stage.path("offline.txt")).unwrap();
    let restore = ["restore", "latest", "--into", "config=/tmp/never", "--yes", "demo"];
    let without: [&[&str]; 2] = [&restore, &["export", "latest", "config", "--format", "tar"]];
    for words in without {
        let ran = stage.run(words).ends(12).tells("no identity was given");
        assert_eq!(ran.out, "", "{words:?}");
    }
    assert_screen!(stage, stage.run(&restore).err);
    // The host's own key is enough to look.
    stage.run(&["ls", "latest"]).ends(0);
    stage.run(&["verify", "--read-data"]).ends(0);
    let offline = stage.at("offline.txt");
    stage.run(&["--identity", &offline, "export", "latest", "config", "--format", "tar"]).ends(0);
}

#[test]
fn a_strangers_identity_is_refused_before_anything_is_called_damaged() {
    let (stage, _) = Stage::with_snapshot();
    let identity = stranger(&stage);
    let with = |words: &[&str]| -> Ran { stage.run(&[&["--identity", &identity], words].concat()) };
    let verbs: [&[&str]; 4] = [
        &["snapshots"],
        &["ls", "latest"],
        &["verify", "--read-data"],
        &["restore", "latest", "--into", "config=/tmp/never", "--yes", "demo"],
    ];
    for words in verbs {
        let ran = with(words).ends(12);
        assert!(!ran.err.contains("warning"), "{words:?}: {}", ran.err);
    }
    assert_screen!(stage, with(&["snapshots"]).err);
}

#[test]
fn the_index_key_is_refused_before_a_restore_touches_its_target() {
    let (stage, _) = Stage::with_snapshot();
    let index = stage.at("keys/index.key");
    let words = ["--identity", &index, "restore", "latest", "--replace", "--yes", "demo"];
    stage.run(&words).ends(12).tells("opens the index, not the data");
    assert_eq!(stage.read("data/app.env"), "COLOUR=blue\n");
}

#[test]
fn an_identity_file_that_is_none_is_named_and_its_lines_are_not_shown() {
    let (stage, _) = Stage::with_snapshot();
    stage.write("bad.txt", "AGE-SECRET-KEY-1NOTREALATALL\n");
    let ran = stage.run(&["--identity", "bad.txt", "snapshots"]).ends(12).hides("NOTREAL");
    assert_screen!(stage, ran.err);
    stage.run(&["--identity", "nowhere.txt", "snapshots"]).ends(12).tells("nowhere.txt` cannot be read");
}

#[test]
fn a_recipient_that_the_repository_does_not_seal_to_stops_the_backup() {
    let stage = Stage::with_files();
    let made = stage.run(&["--policy", "o.toml", "init", "--root", "o", "--keys", "ok", "--json"]).json();
    let recipient = made["recipient"].as_str().unwrap().to_owned();
    stage.edit(|text| text.replace("recipients = [\n", &format!("recipients = [\n    \"{recipient}\",\n")));
    assert_screen!(stage, stage.run(&["backup"]).ends(2).err);
    stage.run(&["snapshots"]).ends(0);
}
