//! `lifeboat init`: what it makes, and that it never overwrites anything.

use std::os::unix::fs::PermissionsExt as _;

use crate::{assert_screen, stage::Stage};

const WORDS: [&str; 5] = ["init", "--root", "repo", "--keys", "keys"];

#[test]
fn it_makes_keys_that_only_their_owner_reads_a_repository_and_a_policy() {
    let stage = Stage::bare();
    let made = stage.run(&[&WORDS[..], &["--stack", "shop-2", "--json"]].concat()).ends(0).json();
    assert_eq!(made["schema"], "lifeboat.init/1");
    assert_eq!(made["policy"], "lifeboat.toml");
    assert_eq!(made["identity_file"], stage.at("keys/identity.txt"));
    assert_eq!(made["repository"].as_str().unwrap().len(), 32);
    let recipient = made["recipient"].as_str().unwrap();
    assert!(recipient.starts_with("age1"), "{recipient}");
    let policy = stage.read("lifeboat.toml");
    assert_eq!(policy.lines().next(), Some("stack = \"shop-2\""));
    assert!(policy.contains(recipient));
    let keys = stage.files("keys");
    assert_eq!(keys.len(), 4, "{keys:?}");
    for key in keys {
        assert_eq!(key.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{}", key.display());
    }
    assert!(stage.exists("repo/config.json"));
    assert!(stage.exists("repo/RECOVERY.md"));
}

#[test]
fn it_says_what_to_do_with_the_identity() {
    let stage = Stage::bare();
    let ran = stage.run(&WORDS).ends(0);
    assert_screen!(stage, ran.out);
    assert_eq!(ran.err, "");
}

/// Runs an init that must be refused, and checks that it changed nothing at all.
fn refused(stage: &Stage, words: &[&str], why: &str) {
    let before: Vec<_> =
        stage.files("").into_iter().map(|file| (std::fs::read(&file).unwrap(), file)).collect();
    let folders = |stage: &Stage| std::fs::read_dir(stage.path("")).unwrap().count();
    let count = folders(stage);
    stage.run(words).ends(2).tells(why).tells("hint: ");
    let after: Vec<_> =
        stage.files("").into_iter().map(|file| (std::fs::read(&file).unwrap(), file)).collect();
    assert_eq!(before, after);
    assert_eq!(folders(stage), count);
}

#[test]
fn it_overwrites_neither_policy_nor_keys_nor_repository() {
    let stage = Stage::bare();
    stage.run(&WORDS).ends(0);
    refused(&stage, &["init", "--root", "r2", "--keys", "k2"], "policy `lifeboat.toml` exists already");
    let other = ["--policy", "other.toml", "init"];
    refused(&stage, &[&other[..], &["--root", "r2", "--keys", "keys"]].concat(), "exists already");
    refused(&stage, &[&other[..], &["--root", "repo", "--keys", "k2"]].concat(), "there is a repository at");
}

#[test]
fn one_key_file_is_enough_to_refuse_the_folder() {
    let stage = Stage::bare();
    stage.write("keys/signing.pub", "mine");
    refused(&stage, &WORDS, "signing.pub` exists already");
}

#[test]
fn a_stack_name_that_the_policy_would_not_take_is_refused() {
    let stage = Stage::bare();
    refused(&stage, &[&WORDS[..], &["--stack", "My Shop"]].concat(), "`My Shop` is not a stack name");
}

#[test]
fn the_new_policy_needs_only_sources() {
    let stage = Stage::bare();
    stage.run(&WORDS).ends(0);
    stage.run(&["policy", "check"]).ends(2).tells("the policy has no [[source]]");
    stage.add_files("config", "data");
    let ran = stage.run(&["policy", "check"]).ends(0);
    assert_eq!(ran.out, "lifeboat.toml: stack im-suite with 1 source is valid\n");
}

#[test]
fn what_a_host_remembers_goes_to_the_folder_that_the_policy_names() {
    let (stage, _) = Stage::with_snapshot();
    let files: Vec<String> = stage
        .files("state")
        .iter()
        .map(|file| file.extension().unwrap().to_string_lossy().into_owned())
        .collect();
    assert!(files.contains(&"lock".to_owned()) && files.contains(&"sqlite".to_owned()), "{files:?}");
    assert!(!stage.exists(".local"));
}

#[test]
fn a_policy_is_made_from_a_compose_file() {
    let stage = Stage::bare();
    stage.write(
        "docker-compose.yml",
        "services:\n  db:\n    image: mysql:8.0\n    environment:\n      MYSQL_ROOT_PASSWORD: ${DB_PASSWORD}\n    \
         ports: [\"127.0.0.1:${DB_PORT:-3306}:3306\"]\n  cache:\n    image: redis:7-alpine\n    \
         command: redis-server --appendonly yes --requirepass ${CACHE_PASSWORD}\n",
    );
    stage.write(".env", "DB_PASSWORD=hunter2\nCACHE_PASSWORD=hunter2\nDB_PORT=33306\n");
    let words = ["init", "--root", "repo", "--keys", "keys", "--stack", "demo"];
    let from = ["--from-compose", "docker-compose.yml", "--env", ".env"];
    stage.run(&[&words[..], &from].concat()).ends(0).hides("hunter2");
    let policy = stage.read("lifeboat.toml");
    assert!(policy.contains("port = 33306") && !policy.contains("hunter2"), "{policy}");
    stage.run(&["policy", "check"]).ends(2).tells("DB_PASSWORD");
    let variables = [("DB_PASSWORD", "a"), ("CACHE_PASSWORD", "b")];
    let ran = stage.run_with(&["policy", "check"], &variables, "").ends(0);
    assert!(ran.out.contains("with 3 sources"), "{}", ran.out);
    // What is no compose file leaves nothing behind.
    let stage = Stage::bare();
    stage.write("docker-compose.yml", "services:\n  web:\n    image: nginx\n");
    stage.run(&[&words[..], &from[..2]].concat()).ends(2).tells("no MySQL, MariaDB, Redis, Valkey or MinIO");
    assert!(!stage.exists("repo") && !stage.exists("keys") && !stage.exists("lifeboat.toml"));
}
