//! Stores that are not there, newer than this program, read-only or full.

use std::process::Command;

use crate::{
    assert_screen,
    stage::{Ran, Stage, ran},
};

#[test]
fn a_repository_that_is_not_there_is_told_with_its_place() {
    let stage = Stage::with_files();
    std::fs::rename(stage.path("repo"), stage.path("away")).unwrap();
    for words in [
        &["backup"][..],
        &["snapshots"],
        &["verify"],
        &["restore", "latest", "--plan"],
        &["catalog", "rebuild"],
    ] {
        stage.run(words).ends(10).tells("there is no repository at");
    }
    assert_screen!(stage, stage.run(&["backup"]).err);
    assert!(!stage.exists("repo"), "a disk that is not mounted must not be written beside");
}

#[test]
fn a_repository_of_a_newer_format_is_left_alone() {
    let stage = Stage::with_files();
    let config = stage.read("repo/config.json");
    stage.write("repo/config.json", &config.replace("\"format\": 3", "\"format\": 4"));
    assert_screen!(stage, stage.run(&["backup"]).ends(10).err);
}

#[test]
fn a_config_that_was_changed_is_tampering() {
    let stage = Stage::with_files();
    let config = stage.read("repo/config.json");
    stage.write("repo/config.json", &config.replace("\"format\": 3", "\"format\":  3"));
    stage.run(&["backup"]).ends(22).tells("is not signed by a key that the policy trusts");
}

/// Runs a shell script in which the store is a small disk of its own, mounted at `repo`.
fn with_disk(stage: &Stage, script: &str) -> Ran {
    std::fs::create_dir_all(stage.path("repo")).unwrap();
    let whole = format!(
        "set -eu; mount -t tmpfs -o size=4m,mode=700 tmpfs repo\n\
         lifeboat() {{ {} \"$@\"; }}\n\
         lifeboat --quiet init --root repo --keys keys --stack demo\n\
         printf '[[source]]\\nname = \"config\"\\nkind = \"files\"\\npaths = [\"%s\"]\\n' \"$PWD/data\" >>lifeboat.toml\n\
         lifeboat --quiet backup\n{script}\n",
        env!("CARGO_BIN_EXE_lifeboat")
    );
    let mut shell = Command::new("unshare");
    shell.args(["--user", "--map-root-user", "--mount", "sh", "-c", &whole]).current_dir(stage.path(""));
    shell.env("LIFEBOAT_POLICY", "lifeboat.toml").env("XDG_STATE_HOME", stage.path("state"));
    ran(&shell.env("HOME", stage.path("")).output().unwrap())
}

#[test]
fn a_full_disk_ends_with_thirty_and_harms_no_snapshot() {
    let stage = Stage::bare();
    stage.write("data/small", "it fits\n");
    let ran = with_disk(
        &stage,
        "head -c 8000000 /dev/urandom >data/large\n\
         if lifeboat backup; then exit 99; else [ $? = 30 ]; fi\n\
         lifeboat snapshots | grep -c complete\n\
         lifeboat verify --read-data\n\
         lifeboat restore latest --into config=\"$PWD/out\" --yes demo >/dev/null\n\
         rm data/large; lifeboat --quiet backup; lifeboat snapshots | grep -c complete",
    )
    .ends(0)
    .tells("the store has no space left")
    .tells("hint: Free space");
    assert!(ran.out.starts_with("1\n") && ran.out.ends_with("\n2\n"), "{}", ran.out);
    assert!(ran.out.contains("no damage"), "{}", ran.out);
}

#[test]
fn a_store_that_may_not_be_written_can_still_be_read() {
    let stage = Stage::bare();
    stage.write("data/small", "it fits\n");
    let ran = with_disk(
        &stage,
        "mount -o remount,ro repo; echo more >data/more\n\
         if lifeboat backup; then exit 99; else [ $? = 30 ]; fi\n\
         lifeboat snapshots | grep -c complete",
    )
    .ends(0)
    .tells("the store refuses access")
    .tells("hint: ");
    assert_eq!(ran.out, "1\n");
}
