//! `lifeboat drill` in a lab of processes, of stacks that are files alone: no server is needed.

use serde_json::Value;

use crate::stage::Stage;

/// A stack of one source and a snapshot; its drills need no container engine.
fn rehearsed() -> (Stage, String) {
    let (stage, id) = Stage::with_snapshot();
    stage.append("[drill]\nlab = \"process\"\n");
    (stage, id)
}

fn drilled(stage: &Stage, words: &[&str], exit: i32) -> Value {
    stage.run(&[&["--json", "drill"], words].concat()).ends(exit).json()
}

/// Returns the answers of a drill: what was asked, of which source, and what came of it.
fn answers(drill: &Value) -> Vec<(&str, &str, &str)> {
    let all = drill["assertions"].as_array().unwrap().iter();
    all.map(|one| {
        let text = |name: &str| one[name].as_str().unwrap_or_default();
        (text("name"), text("source"), text("result"))
    })
    .collect()
}

/// Turns one bit in the middle of each file below a folder of the repository.
fn damage(stage: &Stage, folder: &str) {
    for file in stage.files(folder) {
        let mut bytes = std::fs::read(&file).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::remove_file(&file).unwrap();
        std::fs::write(&file, bytes).unwrap();
    }
}

#[test]
fn a_whole_snapshot_passes() {
    let (stage, id) = rehearsed();
    let drill = drilled(&stage, &[], 0);
    assert_eq!(drill["snapshot"], id.as_str());
    let all = [("everything was restored", "", "held"), ("contents", "config", "held")];
    assert_eq!(answers(&drill), all, "{drill:#}");
    assert_eq!(drill["notes"], Value::Array(Vec::new()));
}

#[test]
fn a_snapshot_whose_packs_were_changed_fails_and_is_not_a_drill_that_could_not_run() {
    let (stage, _) = rehearsed();
    damage(&stage, "repo/packs");
    let drill = drilled(&stage, &[], 41);
    assert_eq!(answers(&drill), [("everything was restored", "", "failed")], "{drill:#}");
    assert_eq!(drill["problem"], Value::Null);
}

#[test]
fn a_manifest_that_was_changed_ends_a_drill_as_damage() {
    let (stage, _) = rehearsed();
    damage(&stage, "repo/manifests");
    stage.run(&["drill"]).ends(40);
}
