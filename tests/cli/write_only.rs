//! A host that can only write: with everything that lies on its disk nobody reads one byte of what it backed up.

use std::fs;

use lifeboat::{
    crypt::{Identities, SigningKey},
    error::ExitCode,
};

use crate::stage::Stage;

const CANARY: &str = "canary-5f0c1d9e-in-a-file-and-nowhere-else";

/// A host without the recovery identity, after two backups and a prune.
fn host() -> Stage {
    let stage = Stage::with_files();
    fs::remove_file(stage.path("keys/identity.txt")).unwrap();
    stage.edit(|text| {
        let from = text.find("[retention]").unwrap();
        let to = from + text[from..].find("\n\n").unwrap();
        format!("{}[retention]\nlast = 1\nmin_keep = 1{}", &text[..from], &text[to..])
    });
    stage.write("data/secret.txt", &format!("{CANARY}\n").repeat(100));
    stage.run(&["backup"]).ends(0);
    stage.write("data/app.env", "COLOUR=red\n");
    let second = stage.run(&["backup", "--json"]).ends(0).json();
    assert!(second["bytes_added"].as_u64().unwrap() < 4096, "what is known is not stored again: {second}");
    let plan = stage.run(&["prune", "--plan", "--json"]).ends(0).json();
    assert_eq!(plan["remove"].as_array().unwrap().len(), 1, "{plan}");
    stage.run(&["prune", "--apply", "--accept", "1"]).ends(0);
    stage.run(&["verify"]).ends(0);
    stage
}

/// Returns what a sealed object holds, unpacked if it is packed.
fn opened(identities: &Identities, bytes: &[u8], name: &str) -> Result<Vec<u8>, ExitCode> {
    let plain = identities.open(bytes, name).map_err(|failure| failure.exit())?;
    Ok(zstd::stream::decode_all(&plain[..]).unwrap_or(plain))
}

fn holds_canary(bytes: &[u8]) -> bool {
    bytes.windows(CANARY.len()).any(|window| window == CANARY.as_bytes())
}

#[test]
fn what_lies_on_a_host_that_only_writes_opens_no_data() {
    let stage = host();
    let mut identities = Vec::new();
    for file in stage.files("").into_iter().filter(|file| !file.starts_with(stage.path("data"))) {
        let bytes = fs::read(&file).unwrap();
        assert!(!holds_canary(&bytes), "{} holds what was backed up", file.display());
        identities.extend(Identities::from_file(&file).ok());
    }
    assert_eq!(identities.len(), 1, "the index key is the only one");
    SigningKey::from_file(&stage.path("keys/signing.key")).unwrap();
    let (mut data, mut lists, mut rest) = (0, 0, 0);
    for file in stage.files("repo").into_iter().filter(|file| file.extension().is_some_and(|e| e == "age")) {
        let (name, bytes) = (file.display().to_string(), fs::read(&file).unwrap());
        match opened(&identities[0], &bytes, &name) {
            Err(exit) => {
                assert_eq!(exit, ExitCode::KeyRefused, "{name}");
                assert!(name.contains("/packs/"), "{name} must open");
                data += 1;
            }
            Ok(plain) => {
                assert!(!holds_canary(&plain), "{name} holds what was backed up");
                let of = if name.contains("/packs/") { &mut lists } else { &mut rest };
                *of += 1;
            }
        }
    }
    assert!(data >= 2 && lists >= 2 && rest >= 3, "{data} {lists} {rest}");
}

#[test]
fn such_a_host_is_told_that_it_cannot_read() {
    let stage = host();
    let into = format!("config={}", stage.at("out"));
    for words in [
        &["restore", "latest", "--into", &into, "--yes", "demo"][..],
        &["restore", "latest", "--salvage", "--into", &into, "--yes", "demo"],
        &["export", "latest", "config", "--format", "tar"],
    ] {
        stage.run(words).ends(12).tells("no identity was given").hides(CANARY);
        let index_key = stage.at("keys/index.key");
        let with_index = [words, &["--identity", &index_key]].concat();
        stage.run(&with_index).ends(12).tells("opens the index, not the data").hides(CANARY);
    }
    assert!(!stage.exists("out"));
}

#[test]
fn a_plan_needs_no_identity_of_the_data_where_packs_are_missing_either() {
    let stage = host();
    let index = Identities::from_file(&stage.path("keys/index.key")).unwrap();
    let is_data = |file: &std::path::PathBuf| opened(&index, &fs::read(file).unwrap(), "pack").is_err();
    fs::remove_file(stage.files("repo/packs").into_iter().find(is_data).unwrap()).unwrap();
    let (into, index_key) = (format!("config={}", stage.at("out")), stage.at("keys/index.key"));
    let words = ["restore", "latest", "--plan", "--into", &into, "--identity", &index_key];
    let ran = stage.run(&words).ends(0);
    let told = ran.out.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        told.contains("packs of the snapshot are missing, cut short or told of by no index: 1"),
        "{}",
        ran.out
    );
    assert!(told.contains("only with the identity of the data"), "{}", ran.out);
}
