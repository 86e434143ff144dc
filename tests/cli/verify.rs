//! `lifeboat verify`: damage is found, named with what it affects, and told from tampering.

use std::{fs, path::PathBuf};

use lifeboat::crypt::SigningKey;

use crate::{assert_screen, stage::Stage};

fn packs(stage: &Stage) -> Vec<PathBuf> {
    let mut packs = stage.files("repo/packs");
    packs.sort_by_key(|pack| pack.metadata().unwrap().len());
    packs
}

fn change(file: &PathBuf, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(file).unwrap();
    change(&mut bytes);
    fs::remove_file(file).unwrap();
    fs::write(file, bytes).unwrap();
}

/// Returns the pack that holds the data of a stack of small files: whichever breaks a restore, not the list.
fn data_pack(stage: &Stage) -> PathBuf {
    let packs = packs(stage);
    assert_eq!(packs.len(), 2, "one of data, one of lists: {packs:?}");
    // Lists are sealed to the index key too, so their header has a line more.
    let recipients = |pack: &PathBuf| {
        let bytes = fs::read(pack).unwrap();
        bytes.windows(9).filter(|window| window == b"-> X25519").count()
    };
    packs.into_iter().min_by_key(recipients).unwrap()
}

/// Changes one byte in the middle of the data.
pub fn flip_data_pack(stage: &Stage) {
    change(&data_pack(stage), |bytes| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
    });
}

#[test]
fn a_good_repository_has_no_damage() {
    let (stage, _) = Stage::with_snapshot();
    stage.run(&["verify"]).ends(0);
    let json = stage.run(&["verify", "--read-data", "--json"]).ends(0).json();
    assert_eq!(json["schema"], "lifeboat.verify/1");
    assert_eq!((&json["snapshots"], &json["packs"]), (&1.into(), &2.into()));
    assert!(json["chunks_read"].as_u64().unwrap() > 0);
    assert_eq!(json["damage"], serde_json::json!([]));
    stage.run(&["verify", "--read-data=50%"]).ends(0);
}

#[test]
fn a_share_that_is_none_is_refused() {
    let stage = Stage::new();
    for share in ["0", "0%", "101", "-1", "half", ""] {
        stage.run(&["verify", &format!("--read-data={share}")]).ends(2).tells("is no share of the data");
    }
}

/// Spoils the data pack and checks that verify finds it and names the entry that is lost.
#[track_caller]
fn found(words: &[&str], spoil: impl FnOnce(&PathBuf)) -> (Stage, String) {
    let (stage, id) = Stage::with_snapshot();
    let pack = data_pack(&stage);
    spoil(&pack);
    let json = stage.run(&[&["verify", "--json"], words].concat()).ends(40).json();
    let name = pack.file_name().unwrap().to_str().unwrap();
    let damage = json["damage"].as_array().unwrap();
    let of_pack = damage.iter().find(|one| one["pack"].as_str().unwrap().ends_with(name));
    let affects = of_pack.unwrap_or_else(|| panic!("{json}"))["affects"].to_string();
    assert!(affects.contains(&id) && affects.contains("nginx.conf"), "{json}");
    let screen = stage.run(&[&["verify"], words].concat()).ends(40).out;
    assert!(screen.contains("DAMAGE packs/") && screen.contains("affects"), "{screen}");
    (stage, id)
}

#[test]
fn a_flipped_bit_is_found_when_the_data_is_read() {
    found(&["--read-data"], |pack| change(pack, |bytes| *bytes.last_mut().unwrap() ^= 1));
}

#[test]
fn a_truncated_pack_is_found_without_reading() {
    found(&[], |pack| change(pack, |bytes| bytes.truncate(bytes.len() / 2)));
}

#[test]
fn a_missing_pack_is_found_and_good_again_when_it_comes_back() {
    let mut kept = (PathBuf::new(), Vec::new());
    let (stage, _) = found(&[], |pack| {
        kept = (pack.clone(), fs::read(pack).unwrap());
        fs::remove_file(pack).unwrap();
    });
    stage
        .run(&["restore", "latest", "--into", &format!("config={}", stage.at("out")), "--yes", "demo"])
        .ends(40);
    fs::write(&kept.0, &kept.1).unwrap();
    stage.run(&["verify", "--read-data"]).ends(0);
    stage
        .run(&["restore", "latest", "--into", &format!("config={}", stage.at("out2")), "--yes", "demo"])
        .ends(0);
}

#[test]
fn the_next_backup_stores_again_what_was_lost() {
    let (stage, _) = found(&[], |pack| fs::remove_file(pack).unwrap());
    let id = stage.snapshot();
    let out = stage.at("out");
    stage.run(&["restore", &id, "--into", &format!("config={out}"), "--yes", "demo"]).ends(0);
}

/// Puts refs of a snapshot that never was into the repository; signed by somebody if asked.
fn forge(stage: &Stage, id: &str, signer: Option<&SigningKey>) {
    let forged = "20990101T000000Z-beef";
    let text = stage.read(&format!("repo/refs/{id}.r0.json")).replace(id, forged);
    stage.write(&format!("repo/refs/{forged}.r0.json"), &text);
    if let Some(signer) = signer {
        let signature = signer.sign(text.as_bytes(), "lifeboat refs").unwrap();
        stage.write(&format!("repo/refs/{forged}.r0.json.minisig"), &signature);
    }
}

#[test]
fn refs_that_nobody_signed_are_no_snapshot() {
    let (stage, id) = Stage::with_snapshot();
    forge(&stage, &id, None);
    let json = stage.run(&["snapshots", "--json"]).ends(0).json();
    assert_eq!(json["snapshots"].as_array().unwrap().len(), 1);
    stage.run(&["ls", "20990101T"]).ends(2).tells("no snapshot id begins with");
}

#[test]
fn refs_that_a_stranger_signed_are_tampering_and_hide_no_other_snapshot() {
    let (stage, id) = Stage::with_snapshot();
    forge(&stage, &id, Some(&SigningKey::generate().unwrap()));
    let json = stage.run(&["verify", "--json"]).ends(22).json();
    assert_eq!(json["damage"][0]["tampering"], true, "{json}");
    let listed = stage.run(&["snapshots", "--json"]).ends(22).json();
    assert_eq!(listed["snapshots"][0]["id"], id.as_str());
    assert_eq!(listed["refused"][0]["code"], "tampering");
    let ran = stage.run(&["snapshots"]).ends(22);
    assert!(ran.out.contains(&id), "{}", ran.out);
    assert_screen!(stage, ran.err);
    // The good one can be read and restored, and it is what `latest` means.
    let out = format!("config={}", stage.at("out"));
    let restored = stage.run(&["restore", "latest", "--into", &out, "--yes", "demo", "--json"]).ends(0);
    assert!(restored.err.contains("is not signed by a key that the policy trusts"), "{}", restored.err);
    assert_eq!(restored.json()["snapshot"], id.as_str());
    stage.run(&["backup"]).ends(0);
}

#[test]
fn refs_that_were_changed_after_signing_are_tampering() {
    let (stage, id) = Stage::with_snapshot();
    let refs = format!("repo/refs/{id}.r0.json");
    stage.write(&refs, &stage.read(&refs).replace("complete", "partial"));
    stage.run(&["verify"]).ends(22);
    stage.run(&["snapshots"]).ends(22);
}

#[test]
fn a_manifest_that_is_gone_is_damage_and_hides_no_other_snapshot() {
    let (stage, first) = Stage::with_snapshot();
    let second = stage.snapshot();
    fs::remove_file(stage.path(&format!("repo/manifests/{second}.json.zst.age"))).unwrap();
    let json = stage.run(&["snapshots", "--json"]).ends(40).json();
    let status = |n: usize| (json["snapshots"][n]["id"].clone(), json["snapshots"][n]["status"].clone());
    assert_eq!(status(0), (first.as_str().into(), "complete".into()));
    assert_eq!(status(1), (second.as_str().into(), "damaged".into()));
    stage.run(&["verify"]).ends(40);
    stage.run(&["ls", &second]).ends(40).tells("is missing").tells("hint: ");
    stage.run(&["ls", &first]).ends(0);
}

#[test]
fn without_any_key_the_structure_is_verified_and_what_was_not_looked_at_is_told() {
    let (stage, _) = Stage::with_snapshot();
    let pack = data_pack(&stage);
    for key in ["keys/identity.txt", "keys/index.key"] {
        fs::remove_file(stage.path(key)).unwrap();
    }
    let ran = stage.run(&["verify", "--read-data"]).ends(0);
    assert_screen!(stage, ran.out);
    let json = stage.run(&["verify", "--json"]).ends(0).json();
    assert_eq!((&json["entries_looked_at"], &json["packs"]), (&false.into(), &2.into()));
    change(&pack, |bytes| *bytes.last_mut().unwrap() ^= 1);
    stage.run(&["verify"]).ends(0);
    let json = stage.run(&["verify", "--read-data", "--json"]).ends(40).json();
    assert!(json["damage"][0]["what"].to_string().contains("the hash in its name"), "{json}");
    fs::remove_file(pack).unwrap();
    let json = stage.run(&["verify", "--json"]).ends(40).json();
    assert_eq!(json["damage"][0]["what"], "it is missing");
}

#[test]
fn half_of_the_data_twice_is_all_of_it() {
    let stage = Stage::with_files();
    for n in 0..3 {
        stage.write("data/app.env", &format!("COLOUR={n}\n"));
        stage.snapshot();
    }
    let size = |pack: &PathBuf| pack.metadata().unwrap().len();
    let all: u64 = packs(&stage).iter().map(size).sum();
    let read =
        || stage.run(&["verify", "--read-data=50%", "--json"]).ends(0).json()["bytes_read"].as_u64().unwrap();
    let (first, second) = (read(), read());
    assert_eq!(first + second, all, "what was not read is read first");
    // The third time begins again with what was read longest ago.
    assert_eq!(read(), first);
}
