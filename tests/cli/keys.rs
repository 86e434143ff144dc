//! Keys that are missing, wrong or not enough: always 12, always with a way out.

use std::os::unix::fs::PermissionsExt as _;

use crate::{
    assert_screen,
    stage::{Ran, Stage, ran},
    terminal::at_a_terminal,
};

const PHRASE: &str = "correct horse battery staple";

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

/// Makes a stack with a snapshot whose identity is protected, at `keys/identity.txt.age`, and moved away.
fn with_protected_identity() -> Stage {
    let (stage, _) = Stage::with_snapshot();
    stage.write("phrase", &format!("{PHRASE}\n"));
    stage.run(&["--passphrase-file", "phrase", "keys", "protect", "keys/identity.txt"]).ends(0);
    std::fs::rename(stage.path("keys/identity.txt"), stage.path("safe.txt")).unwrap();
    stage
}

const EXPORT: [&str; 7] =
    ["--identity", "keys/identity.txt.age", "export", "latest", "config", "--format", "tar"];

#[test]
fn a_protected_identity_opens_the_data_with_its_passphrase_only() {
    let stage = with_protected_identity();
    let with = |variables: &[(&str, &str)]| stage.run_with(&EXPORT, variables, "");
    with(&[("LIFEBOAT_PASSPHRASE_FILE", "phrase")]).ends(0);
    stage.write("credentials/lifeboat-passphrase", PHRASE);
    with(&[("CREDENTIALS_DIRECTORY", &stage.at("credentials"))]).ends(0);
    stage.write("wrong", "incorrect horse battery");
    let wrong = with(&[("LIFEBOAT_PASSPHRASE_FILE", "wrong")]).ends(12).hides("incorrect horse");
    assert_screen!(stage, wrong.err);
    with(&[("LIFEBOAT_PASSPHRASE_FILE", "nowhere")]).ends(12).tells("nowhere");
    let nobody = stage.run_with(&EXPORT, &[], &format!("{PHRASE}\n")).ends(12).hides(PHRASE);
    insta::assert_snapshot!(nobody.err, @"
    error: key file `keys/identity.txt.age` needs a passphrase, and nobody sits at a terminal
     hint: Name a file that holds it with --passphrase-file, or give systemd the credential lifeboat-passphrase.
    ");
}

#[test]
fn a_protected_identity_beside_the_hosts_keys_is_asked_for_only_when_it_is_needed() {
    let stage = with_protected_identity();
    std::fs::rename(stage.path("keys/identity.txt.age"), stage.path("keys/identity.txt")).unwrap();
    stage.run(&["snapshots"]).ends(0);
    let export = ["export", "latest", "config", "--format", "tar"];
    stage.run(&export).ends(12).tells("needs a passphrase");
    stage.run(&[&["--passphrase-file", "phrase"], &export[..]].concat()).ends(0);
}

#[test]
fn a_passphrase_is_asked_for_without_echo_and_twice_for_a_new_file() {
    let stage = Stage::new();
    let line = format!("exec {} keys protect keys/identity.txt", env!("CARGO_BIN_EXE_lifeboat"));
    let typed = |first: &str, second: &str| {
        let answers = [("Passphrase of keys/identity.txt.age: ", first), ("Once more: ", second)];
        ran(&at_a_terminal(&stage.program(), &line, &answers)).hides(PHRASE)
    };
    let differ = typed(PHRASE, "something else").ends(12);
    assert!(differ.out.contains("the two passphrases are not the same"), "{}", differ.out);
    assert!(!stage.exists("keys/identity.txt.age"));
    let done = typed(PHRASE, PHRASE).ends(0);
    assert_screen!(stage, done.out.replace("\r\n", "\n"));
    stage.write("phrase", PHRASE);
    let other = ["--passphrase-file", "phrase", "keys", "protect", "keys/identity.txt.age"];
    stage.run(&other).ends(2).tells("is protected by a passphrase already");
}

#[test]
fn protecting_an_identity_keeps_the_plain_one_and_never_overwrites() {
    let stage = Stage::new();
    stage.write("phrase", PHRASE);
    let plain = stage.read("keys/identity.txt");
    let protect = ["--passphrase-file", "phrase", "keys", "protect", "keys/identity.txt"];
    stage.write("short", "short\n");
    stage.run(&[&["--passphrase-file", "short"], &protect[2..]].concat()).ends(2).tells("too short");
    assert!(!stage.exists("keys/identity.txt.age"));
    let made = stage.run(&[&protect[..], &["--json"]].concat()).ends(0).json();
    assert_eq!(made["protected"], "keys/identity.txt.age");
    assert_eq!(stage.read("keys/identity.txt"), plain);
    let sealed = stage.read("keys/identity.txt.age");
    let mode = std::fs::metadata(stage.path("keys/identity.txt.age")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    stage.run(&protect).ends(2).tells("exists already");
    assert_eq!(stage.read("keys/identity.txt.age"), sealed);
    stage.run(&["--passphrase-file", "phrase", "keys", "protect", "keys/signing.pub"]).ends(12);
}

#[test]
fn a_hosts_own_key_with_a_passphrase_is_refused_with_a_way_out() {
    let stage = with_protected_identity();
    stage.run(&["--passphrase-file", "phrase", "keys", "protect", "keys/index.key"]).ends(0);
    std::fs::rename(stage.path("keys/index.key.age"), stage.path("keys/index.key")).unwrap();
    stage.run(&["backup"]).ends(12).tells("work unattended");
}

/// Returns the key of a role in `keys list --json`.
fn key<'j>(list: &'j serde_json::Value, role: &str) -> &'j serde_json::Value {
    list["keys"].as_array().unwrap().iter().find(|key| key["role"] == role).unwrap()
}

#[test]
fn the_list_tells_of_each_key_what_it_is_for_and_where_its_private_half_is() {
    let stage = Stage::new();
    let list = stage.run(&["keys", "list", "--json"]).ends(0).json();
    assert_eq!(list["schema"], "lifeboat.keys/1");
    for (role, file) in [
        ("data", "identity.txt"),
        ("index", "index.key"),
        ("signer", "signing.key"),
        ("maintainer", "signing.key"),
    ] {
        let key = key(&list, role);
        assert_eq!(key["file"], stage.at(&format!("keys/{file}")), "{key}");
        assert_eq!((&key["works"], &key["mode"]), (&true.into(), &"0600".into()), "{key}");
    }
    assert_eq!(key(&list, "signer")["public"], stage.read("keys/signing.pub").trim());
    assert_screen!(stage, stage.run(&["keys", "list"]).ends(0).out);
}

#[test]
fn the_list_tells_what_is_amiss_and_what_is_elsewhere() {
    let stage = Stage::new();
    stage.write("phrase", PHRASE);
    stage.run(&["--passphrase-file", "phrase", "keys", "protect", "keys/identity.txt"]).ends(0);
    std::fs::remove_file(stage.path("keys/identity.txt")).unwrap();
    let signer = stage.read("keys/signing.pub").trim().to_owned();
    stage.edit(|text| {
        let revoked = format!("revoked = [{{ signer = \"{signer}\", after_seq = 41 }}]\nkeys =");
        text.replacen("keys =", &revoked, 1)
    });
    let open = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(stage.path("keys/signing.key"), open).unwrap();
    let ran = stage.run(&["keys", "list", "--json"]).ends(0).tells("has mode 0644: others may read it");
    let list = ran.json();
    assert_eq!(key(&list, "data")["file"], serde_json::Value::Null);
    assert_eq!(key(&list, "signer")["revoked_after"], 41);
    assert!(list["keys"].as_array().unwrap().iter().all(|key| key["role"] != "maintainer"), "{list}");
    assert_eq!(list["protected"][0], stage.at("keys/identity.txt.age"));
    std::fs::rename(stage.path("repo"), stage.path("gone")).unwrap();
    let list = stage.run(&["keys", "list", "--json"]).ends(10).tells("there is no repository").json();
    assert_eq!(key(&list, "signer")["in_repository"], serde_json::Value::Null);
}

#[test]
fn a_further_identity_is_made_and_never_over_another() {
    let stage = Stage::with_files();
    let made = stage.run(&["keys", "new", "--out", "second.txt", "--json"]).ends(0).json();
    let text = stage.read("second.txt");
    assert!(text.contains(made["recipient"].as_str().unwrap()) && text.contains("AGE-SECRET-KEY-1"));
    assert_eq!(std::fs::metadata(stage.path("second.txt")).unwrap().permissions().mode() & 0o777, 0o600);
    stage.run(&["keys", "new", "--out", "second.txt"]).ends(2).tells("exists already");
    assert_eq!(stage.read("second.txt"), text);
    stage.write("phrase", PHRASE);
    let sealed = ["--passphrase-file", "phrase", "keys", "new", "--passphrase", "--out", "third.age"];
    let third = stage.run(&[&sealed[..], &["--json"]].concat()).ends(0).json();
    assert!(stage.read("third.age").starts_with("-----BEGIN AGE ENCRYPTED FILE-----"));
    // A repository that was made for it opens with it.
    let recipient = third["recipient"].as_str().unwrap();
    let init = ["--policy", "o.toml", "init", "--root", "o", "--keys", "ok", "--recipient", recipient];
    stage.run(&init).ends(0);
    let check = ["--policy", "o.toml", "--identity", "third.age", "keys", "check"];
    stage.run(&[&check[..], &["--passphrase-file", "phrase"]].concat()).ends(0);
    stage.run(&check).ends(12);
}

#[test]
fn a_check_tells_what_an_identity_opens() {
    let (stage, id) = Stage::with_snapshot();
    let stranger = stranger(&stage);
    let check = |identity: &str| stage.run(&["--identity", identity, "keys", "check", "--json"]);
    let data = check("keys/identity.txt").ends(0).json();
    assert_eq!((&data["opens"], &data["snapshot"]), (&"data".into(), &id.into()));
    check("keys/index.key").ends(12).tells("opens the index, not the data");
    check(&stranger).ends(12).tells("opens nothing in this repository");
    std::fs::remove_file(stage.path("keys/identity.txt")).unwrap();
    let own = stage.run(&["keys", "check"]).ends(0);
    assert_screen!(stage, own.out);
    // A manifest that is damaged is told as damage, not as a key that does not fit.
    let manifest = stage.files("repo/manifests").pop().unwrap();
    std::fs::remove_file(manifest).unwrap();
    stage.run(&["keys", "check"]).ends(40);
}

#[test]
fn a_lost_signing_key_is_replaced_and_the_old_snapshots_are_still_believed() {
    let (stage, old) = Stage::with_snapshot();
    std::fs::remove_file(stage.path("keys/signing.key")).unwrap();
    let make = ["keys", "new", "--signing", "--out", "keys/signing.key"];
    let made = stage.run(&[&make[..], &["--json"]].concat()).ends(0).json();
    let fresh = made["signer"].as_str().unwrap();
    stage.run(&make).ends(2).tells("exists already");
    stage.edit(|text| text.replacen("signers = [", &format!("signers = [\"{fresh}\", "), 1));
    let new = stage.snapshot();
    let listed = stage.run(&["snapshots", "--json"]).ends(0).json();
    let ids: Vec<&str> =
        listed["snapshots"].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap()).collect();
    assert!(ids.contains(&old.as_str()) && ids.contains(&new.as_str()), "{ids:?}");
    let list = stage.run(&["keys", "list", "--json"]).ends(0).json();
    assert_eq!(key(&list, "signer")["public"], fresh);
    assert_eq!(key(&list, "signer")["in_repository"], false);
}

#[test]
fn a_recovery_identity_stands_in_for_a_lost_index_key() {
    let (stage, _) = Stage::with_snapshot();
    std::fs::remove_file(stage.path("keys/index.key")).unwrap();
    stage.run(&["backup"]).ends(12);
    let identity = stage.at("keys/identity.txt");
    stage.edit(|text| text.replacen("keys = ", &format!("index_key = \"{identity}\"\nkeys = "), 1));
    stage.run(&["backup"]).ends(0);
}
