//! `lifeboat drill` in a lab of plain processes, and what other hosts hear of it: of files alone it needs no server.

use serde_json::Value;

use crate::stage::{Ran, Stage};

/// Makes a stack of files with a copy, `far`, that has its one snapshot.
fn with_copy() -> Stage {
    let stage = Stage::with_files();
    stage.edit(|text| text.replace("drill = \"0 3 1 * *\"\n", ""));
    std::fs::create_dir(stage.path("copy")).unwrap();
    let root = stage.at("copy");
    stage.append(&format!(
        "[[offsite]]\nname = \"far\"\nstore = \"fs\"\noptions = {{ root = \"{root}\" }}\n[drill]\nlab = \"process\"\n"
    ));
    stage.snapshot();
    stage.run(&["sync"]).ends(0);
    stage
}

/// Writes the policy of another host of the stack, where the operator's own program says yes or no.
fn elsewhere(stage: &Stage, program: &str) -> String {
    let text = stage.read("lifeboat.toml").replace(&stage.at("state"), &stage.at("state-elsewhere"));
    let asked = format!("[[drill.command]]\nname = \"the application starts\"\ncommand = [\"{program}\"]\n");
    stage.write("elsewhere.toml", &(text + &asked));
    stage.at("elsewhere.toml")
}

/// Makes a drill on that other host.
fn drill_elsewhere(stage: &Stage, program: &str, more: &[&str]) -> Ran {
    let policy = elsewhere(stage, program);
    stage.run(&[&["--policy", &*policy, "--json", "drill"], more].concat())
}

fn proofs(stage: &Stage, place: &str) -> usize {
    stage.files(place).iter().filter(|file| file.to_string_lossy().ends_with(".json.minisig")).count()
}

fn standing(stage: &Stage) -> Value {
    stage.run(&["status", "--json"]).ends(0).json()
}

#[test]
fn a_place_that_cannot_be_written_to_keeps_the_proof_from_no_other_and_is_told() {
    let stage = with_copy();
    stage.write("copy/drills", "");
    let ran = stage.run(&["--json", "drill", "--from", "far"]).ends(0);
    let ran = ran.tells("the proof of the drill is not in `far`");
    let json = ran.json();
    assert_eq!((&json["passed"], &json["proof"]), (&true.into(), &true.into()), "{json:#}");
    assert_eq!(json["unrecorded"].as_array().unwrap().len(), 1, "{json:#}");
    assert!(json["unrecorded"][0]["what"].as_str().unwrap().contains("`far`"), "{json:#}");
    assert_eq!(proofs(&stage, "repo/drills"), 1);
    let standing = standing(&stage);
    for told in [&standing["drill"]["trouble"], &standing["tasks"]] {
        assert!(told.to_string().contains("the proof of the drill is not in `far`"), "{standing:#}");
    }
    // The other way around the copy has it.
    std::fs::remove_file(stage.path("copy/drills")).unwrap();
    std::fs::remove_dir_all(stage.path("repo/drills")).unwrap();
    stage.write("repo/drills", "");
    let ran = stage.run(&["--json", "drill", "--from", "far"]).ends(0);
    assert_eq!(ran.tells("is not in `repository`").json()["proof"], false);
    assert_eq!(proofs(&stage, "copy/drills"), 1);
}

#[test]
fn a_host_that_signs_nothing_says_that_its_drill_proves_nothing_to_others() {
    let stage = with_copy();
    std::fs::remove_file(stage.path("keys/signing.key")).unwrap();
    let json = stage.run(&["--json", "drill"]).ends(0).tells("proves nothing to others").json();
    assert_eq!((&json["passed"], &json["proof"]), (&true.into(), &false.into()), "{json:#}");
    assert_eq!(json["unrecorded"].as_array().unwrap().len(), 1, "{json:#}");
}

#[test]
fn a_failure_that_another_host_found_stops_prune_until_it_is_answered_or_acknowledged() {
    let stage = with_copy();
    stage.run(&["prune", "--apply"]).ends(0);
    drill_elsewhere(&stage, "false", &["--from", "far"]).ends(41);
    let frozen =
        stage.run(&["prune", "--apply"]).ends(1).tells("prune stands still until a person has looked");
    frozen.tells("drill failed: 1 of 3 assertions did not hold of what came from `far`");
    let open = stage.run(&["incidents", "--json"]).ends(0).json();
    let one = &open["open"][0];
    assert_eq!((&one["kind"], &one["urgency"]), (&"drill".into(), &"page".into()), "{open:#}");
    // That the repository restores says nothing about the copy.
    drill_elsewhere(&stage, "true", &[]).ends(0);
    stage.run(&["prune", "--apply"]).ends(1);
    let number = one["number"].to_string();
    stage.run(&["incidents", "acknowledge", &number, "--note", "a broken check"]).ends(0);
    stage.run(&["prune", "--apply"]).ends(0);
    drill_elsewhere(&stage, "false", &["--from", "far"]).ends(41);
    stage.run(&["prune", "--apply"]).ends(1);
    drill_elsewhere(&stage, "true", &["--from", "far"]).ends(0);
    stage.run(&["prune", "--apply"]).ends(0);
    assert_eq!(standing(&stage)["drill"]["outcome"], "passed");
}

#[test]
fn a_failure_that_only_the_copy_tells_of_is_learned_when_the_copy_is_pruned() {
    let stage = with_copy();
    stage.write("repo/drills", "");
    drill_elsewhere(&stage, "false", &["--from", "far"]).ends(41);
    std::fs::remove_file(stage.path("repo/drills")).unwrap();
    stage.run(&["prune", "--apply"]).ends(0);
    stage.run(&["prune", "--apply", "--offsite", "far"]).ends(1).tells("did not hold");
    stage.run(&["prune", "--apply"]).ends(1).tells("did not hold");
}

#[test]
fn a_catalog_that_was_lost_learns_again_what_drills_have_found() {
    let stage = with_copy();
    stage.run(&["drill"]).ends(0);
    drill_elsewhere(&stage, "false", &["--from", "far"]).ends(41);
    let rebuild = || {
        std::fs::remove_dir_all(stage.path("state")).unwrap();
        let ran = stage.run(&["--json", "catalog", "rebuild"]).ends(0);
        assert_eq!(ran.json()["drills"], 2, "{ran:?}");
        let standing = standing(&stage);
        let drill = &standing["drill"];
        assert_eq!((&drill["outcome"], &drill["from"]), (&"failed".into(), &"far".into()), "{standing:#}");
        stage.run(&["prune", "--apply"]).ends(1).tells("of what came from `far`");
        ran
    };
    rebuild();
    let into = format!("config={}", stage.at("back"));
    let plan = ["restore", "latest", "--plan", "--into", &into];
    stage.run(&plan).ends(0).says("by what drills have measured");
    // Where the reports are lost or closed, their proofs tell what counts.
    for file in stage.files("repo/drills").iter().filter(|file| file.extension().is_some_and(|e| e == "age"))
    {
        std::fs::remove_file(file).unwrap();
    }
    rebuild().tells("is missing");
    stage.run(&plan).ends(0).says("no drill has measured it yet");
}
