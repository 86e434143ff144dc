//! `lifeboat restore --salvage`: what is not damaged comes back, what is missing is named.

use std::fmt::Write as _;
use std::{fs, path::PathBuf};

use crate::{assert_screen, stage::Stage};

/// Makes a stack of large files that share a pack and returns that pack.
fn large() -> (Stage, PathBuf) {
    let stage = Stage::new();
    for n in 0..4_u64 {
        // Text that does not compress away, so that each file fills frames of its own.
        let mut state = n + 1;
        let mut text = String::new();
        while text.len() < 800_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            write!(text, "{state:x}").unwrap();
        }
        stage.write(&format!("data/{n}.txt"), &text);
    }
    stage.add_files("config", "data");
    stage.snapshot();
    let mut packs = stage.files("repo/packs");
    packs.sort_by_key(|pack| pack.metadata().unwrap().len());
    let pack = packs.pop().unwrap();
    (stage, pack)
}

fn flip(pack: &PathBuf) {
    let mut bytes = fs::read(pack).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::remove_file(pack).unwrap();
    fs::write(pack, bytes).unwrap();
}

#[test]
fn without_it_damage_ends_the_restore_and_the_way_on_is_told() {
    let (stage, pack) = large();
    flip(&pack);
    let into = format!("config={}", stage.at("out"));
    let ran = stage.run(&["restore", "latest", "--into", &into, "--yes", "demo"]).ends(40);
    ran.tells("cannot be read back").tells("lifeboat restore --salvage").tells("lifeboat verify");
}

#[test]
fn what_is_not_damaged_comes_back_and_the_rest_is_named() {
    let (stage, pack) = large();
    flip(&pack);
    let into = format!("config={}", stage.at("out"));
    let words = ["restore", "latest", "--salvage", "--into", &into];
    let plan = stage.run(&[&words[..], &["--plan", "--json"]].concat()).ends(0).json();
    let planned = plan["plan"]["missing"].as_array().unwrap().clone();
    assert!(!stage.exists("out"));
    let json = stage.run(&[&words[..], &["--yes", "demo", "--json"]].concat()).ends(40).json();
    let missing = json["missing"].as_array().unwrap();
    assert_eq!(*missing, planned, "the plan says it before");
    let pack = pack.file_name().unwrap().to_str().unwrap()[..64].to_owned();
    for one in missing {
        assert_eq!((&one["source"], &one["damaged"]), (&"config".into(), &true.into()));
        assert!(one["why"].as_str().unwrap().contains(&pack), "{one}");
    }
    let mut back = 0;
    for n in 0..4 {
        let file = stage.at(&format!("data/{n}.txt"));
        let is_missing = missing.iter().any(|one| file.ends_with(one["entry"].as_str().unwrap()));
        let restored = fs::read_to_string(stage.at(&format!("out{file}")));
        assert_eq!(restored.is_err(), is_missing, "{file} is there or named");
        back += u64::from(restored.is_ok_and(|text| text == stage.read(&format!("data/{n}.txt"))));
    }
    assert_eq!(back, 4 - missing.len() as u64, "what is there is right");
    assert!((1..=3).contains(&missing.len()), "{missing:?}");
    assert_eq!(json["restored"][0]["verified"], "counts");
}

#[test]
fn a_salvage_over_what_is_there_takes_nothing_away() {
    let (stage, pack) = large();
    flip(&pack);
    let words = ["restore", "latest", "--salvage", "--replace", "--yes", "demo", "--quiet"];
    let ran = stage.run(&words).ends(40);
    assert!(ran.out.lines().all(|line| line.starts_with("MISSING config/")), "{}", ran.out);
    assert!(!ran.out.is_empty());
    for n in 0..4 {
        assert_eq!(stage.read(&format!("data/{n}.txt")).len() / 1000, 800, "{n}");
    }
}

#[test]
fn a_salvage_of_a_good_snapshot_is_a_restore() {
    let (stage, _) = Stage::with_snapshot();
    let into = format!("config={}", stage.at("out"));
    let words = ["restore", "latest", "--salvage", "--into", &into, "--yes", "demo", "--json"];
    let json = stage.run(&words).ends(0).json();
    assert_eq!(json["missing"], serde_json::json!([]));
}

#[test]
fn where_nothing_is_left_nothing_is_touched() {
    let (stage, _) = Stage::with_snapshot();
    for pack in stage.files("repo/packs") {
        fs::remove_file(pack).unwrap();
    }
    let into = format!("config={}", stage.at("out"));
    let ran = stage.run(&["restore", "latest", "--salvage", "--into", &into, "--yes", "demo"]).ends(40);
    let told = without_packs(&ran.err);
    assert_screen!(stage, told);
    assert!(!stage.exists("out"));
}

/// Chunks and packs are named by hashes that differ from run to run.
fn without_packs(text: &str) -> String {
    let word = |word: &str| if word.starts_with("`packs/") { "`[pack]`".to_owned() } else { word.to_owned() };
    text.lines().map(|line| line.split(' ').map(word).collect::<Vec<_>>().join(" ") + "\n").collect()
}
