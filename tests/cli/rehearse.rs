//! `lifeboat drill` in a lab of processes, of stacks that are files alone: no server is needed.

use serde_json::Value;

use crate::{
    shards::{divided, id_of, sources, without_source},
    stage::Stage,
};

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

/// Adds a source of one file.
fn add(stage: &Stage, name: &str) {
    stage.write(&format!("{name}/file"), name);
    stage.add_files(name, name);
}

/// Takes a source out of the policy.
fn remove(stage: &Stage, name: &str) {
    stage.edit(|text| without_source(&text, name));
}

/// Makes a snapshot by a policy that lacks a source, which it has again afterwards.
fn snapshot_without(stage: &Stage, name: &str) -> String {
    let policy = stage.read("lifeboat.toml");
    remove(stage, name);
    let id = stage.snapshot();
    stage.write("lifeboat.toml", &policy);
    id
}

fn notes(drill: &Value) -> Vec<&str> {
    drill["notes"].as_array().unwrap().iter().map(|note| note.as_str().unwrap()).collect()
}

fn detail<'d>(drill: &'d Value, name: &str) -> &'d str {
    let all = drill["assertions"].as_array().unwrap();
    all.iter().find(|one| one["name"] == name).unwrap()["detail"].as_str().unwrap()
}

const RESTORED: (&str, &str, &str) = ("everything was restored", "", "held");
const CONFIG: (&str, &str, &str) = ("contents", "config", "held");
const MORE: (&str, &str, &str) = ("contents", "more", "held");
const UNKNOWN: (&str, &str, &str) = ("the source was restored", "more", "could_not_run");

#[test]
fn a_source_that_the_policy_lost_keeps_a_drill_from_passing_until_the_next_backup() {
    let (stage, _) = rehearsed();
    add(&stage, "more");
    let old = stage.snapshot();
    remove(&stage, "more");
    let drill = drilled(&stage, &[], 42);
    assert_eq!(drill["snapshot"], old.as_str());
    assert_eq!(answers(&drill), [UNKNOWN, RESTORED, CONFIG], "{drill:#}");
    let how = "put it back, or drill a snapshot that was made since it was taken out";
    assert!(detail(&drill, UNKNOWN.0).ends_with(how), "{drill:#}");
    let new = stage.snapshot();
    assert_eq!(drilled(&stage, &[], 0)["snapshot"], new.as_str());
    // What nobody can restore any more is not drawn while there is something else.
    stage.edit(|text| text.replacen("[drill]\n", "[drill]\npick = \"random\"\n", 1));
    for _ in 0..6 {
        assert_ne!(drilled(&stage, &[], 0)["snapshot"], old.as_str());
    }
}

#[test]
fn of_a_snapshot_whose_sources_are_all_gone_from_the_policy_nothing_is_known() {
    let (stage, _) = rehearsed();
    add(&stage, "more");
    remove(&stage, "config");
    let drill = drilled(&stage, &[], 42);
    let gone = ("the source was restored", "config", "could_not_run");
    assert_eq!(answers(&drill), [UNKNOWN, gone], "{drill:#}");
    // What an older snapshot had is lost all the same.
    stage.snapshot();
    let policy = stage.read("lifeboat.toml");
    remove(&stage, "more");
    stage.add_files("config", "data");
    let id = stage.snapshot();
    stage.write("lifeboat.toml", &policy);
    let drill = drilled(&stage, &[&id], 41);
    assert_eq!(answers(&drill), [gone, ("everything was restored", "", "failed")], "{drill:#}");
}

#[test]
fn a_source_that_is_newer_than_the_snapshot_is_a_note_once_it_was_backed_up() {
    let (stage, old) = rehearsed();
    add(&stage, "more");
    stage.append("[[drill.command]]\nname = \"smoke\"\ncommand = [\"true\"]\n");
    let drill = drilled(&stage, &[], 42);
    assert_eq!(answers(&drill)[..2], [UNKNOWN, RESTORED], "{drill:#}");
    assert_eq!(detail(&drill, UNKNOWN.0), "no snapshot has it yet: drill one that is made from now on");
    stage.snapshot();
    let smoke = ("smoke", "", "held");
    assert_eq!(answers(&drilled(&stage, &[], 0)), [RESTORED, CONFIG, MORE, smoke]);
    let drill = drilled(&stage, &[&old], 0);
    assert_eq!(answers(&drill), [RESTORED, CONFIG], "{drill:#}");
    let told = [
        "more: newer than the snapshot; only younger ones have it",
        "`smoke` was not asked: `more` is not in the snapshot",
    ];
    assert_eq!(notes(&drill), told);
}

#[test]
fn a_source_that_an_older_snapshot_has_and_this_one_has_not_is_lost() {
    let (stage, _) = rehearsed();
    add(&stage, "more");
    stage.snapshot();
    let id = snapshot_without(&stage, "more");
    let drill = drilled(&stage, &[&id], 41);
    assert_eq!(answers(&drill), [("everything was restored", "", "failed"), CONFIG], "{drill:#}");
    let lost = "more: the snapshot does not have it, and one before it does";
    assert_eq!(drill["assertions"][0]["findings"][0], lost, "{drill:#}");
}

#[test]
fn snapshots_of_chosen_sources_are_never_drawn_and_never_said_to_have_lost_the_others() {
    let (stage, _) = rehearsed();
    add(&stage, "more");
    let whole = stage.snapshot();
    let mut chosen = String::new();
    for _ in 0..3 {
        let made = stage.run(&["backup", "config", "--json"]).ends(0).json();
        made["snapshot"].as_str().unwrap().clone_into(&mut chosen);
    }
    let drill = drilled(&stage, &[&chosen], 42);
    assert_eq!(answers(&drill), [UNKNOWN, RESTORED, CONFIG], "{drill:#}");
    let by_hand = drilled(&stage, &["--by-hand", &chosen], 42);
    assert_eq!(answers(&by_hand)[..3], [UNKNOWN, BY_HAND[0], BY_HAND[1]], "{by_hand:#}");
    for pick in ["latest", "random", "second"] {
        stage.edit(|text| text.replacen("[drill]\n", &format!("[drill]\npick = \"{pick}\"\n"), 1));
        for _ in 0..6 {
            let drill = drilled(&stage, &[], 0);
            assert_ne!(drill["snapshot"], chosen.as_str());
            assert!(pick != "latest" || drill["snapshot"] == whole.as_str());
        }
        stage.edit(|text| text.replacen(&format!("pick = \"{pick}\"\n"), "", 1));
    }
}

#[test]
fn a_snapshot_of_a_host_that_had_other_sources_is_held_to_its_own_and_the_newest_to_all() {
    let stage = divided();
    sources(&stage, "first.toml");
    sources(&stage, "second.toml");
    stage.append("[drill]\nlab = \"process\"\n");
    let older = &id_of(&stage, "most");
    let drill = drilled(&stage, &[older], 0);
    assert_eq!(answers(&drill), [RESTORED, CONFIG, ("contents", "most", "held")], "{drill:#}");
    let told = "more: the snapshot is of a host that had other sources; of this one it says nothing";
    assert_eq!(notes(&drill), [told]);
    assert_eq!(notes(&drilled(&stage, &["--by-hand", older], 0)), [told]);
    // The newest is what a restore would take. It lacks what the other host has, and says so.
    let drill = drilled(&stage, &[], 41);
    assert!(
        drill.to_string().contains("config: the snapshot does not have it, and one before it does"),
        "{drill:#}"
    );
    let whole = stage.snapshot();
    let drill = drilled(&stage, &[], 0);
    assert_eq!((&drill["snapshot"], notes(&drill)), (&whole.into(), Vec::<&str>::new()));
}

#[test]
fn what_the_policy_leaves_out_today_neither_fails_nor_weakens_the_drill_of_an_older_snapshot() {
    let (stage, _) = rehearsed();
    let whole = detail(&drilled(&stage, &[], 0), CONFIG.0).to_owned();
    let paths = |names: &[&str]| {
        let names: Vec<String> = names.iter().map(|name| format!("\"{}\"", stage.at(name))).collect();
        format!("paths = [{}]", names.join(", "))
    };
    let (then, now) = (paths(&["data"]), paths(&["another", "data/conf"]));
    stage.edit(|text| text.replacen(&then, &format!("{now}\nexclude = [\"**/nginx.conf\"]"), 1));
    let drill = drilled(&stage, &[], 0);
    assert_eq!(answers(&drill), [RESTORED, CONFIG], "{drill:#}");
    assert_eq!(detail(&drill, CONFIG.0), whole);
}

const BY_HAND: [(&str, &str, &str); 2] =
    [("recover.sh brings the snapshot back", "", "held"), ("everything was brought back", "", "held")];

#[test]
fn the_recipe_is_held_to_what_its_snapshot_can_have() {
    let (stage, old) = rehearsed();
    add(&stage, "more");
    let by_hand = |id: &str, exit| drilled(&stage, &["--by-hand", id], exit);
    let drill = by_hand(&old, 42);
    assert_eq!(answers(&drill)[0], UNKNOWN, "{drill:#}");
    assert_eq!(answers(&drill)[1..3], BY_HAND, "{drill:#}");
    let whole = stage.snapshot();
    assert_eq!(notes(&by_hand(&old, 0)), ["more: newer than the snapshot; only younger ones have it"]);
    // The recipe asks no policy how to restore.
    let policy = stage.read("lifeboat.toml");
    remove(&stage, "more");
    let drill = by_hand(&whole, 0);
    assert_eq!(notes(&drill), Vec::<&str>::new(), "{drill:#}");
    let id = stage.snapshot();
    stage.write("lifeboat.toml", &policy);
    let drill = by_hand(&id, 41);
    let lost = "more: the snapshot does not have it, and one before it does";
    assert_eq!(drill["assertions"][1]["findings"][0], lost, "{drill:#}");
}

#[test]
fn a_source_that_was_out_of_the_policy_for_a_while_is_not_lost_by_the_snapshots_of_that_time() {
    let (stage, _) = rehearsed();
    add(&stage, "more");
    stage.snapshot();
    let id = snapshot_without(&stage, "more");
    stage.snapshot();
    let drill = drilled(&stage, &[&id], 42);
    assert_eq!(answers(&drill), [UNKNOWN, RESTORED, CONFIG], "{drill:#}");
    let why = "perhaps the policy of its day did not; drill a younger one";
    assert!(detail(&drill, UNKNOWN.0).ends_with(why), "{drill:#}");
}

#[test]
fn a_source_whose_name_another_kind_has_now_cannot_be_asked() {
    let (stage, _) = rehearsed();
    add(&stage, "more");
    let id = stage.snapshot();
    remove(&stage, "more");
    stage.append("[[source]]\nname = \"more\"\nkind = \"redis\"\nurl = \"redis://127.0.0.1:1\"\n");
    let drill = drilled(&stage, &[&id], 42);
    assert_eq!(answers(&drill), [UNKNOWN, RESTORED, CONFIG], "{drill:#}");
    let why = "drill a snapshot that was made since the name was given away";
    assert!(detail(&drill, UNKNOWN.0).ends_with(why), "{drill:#}");
    // The recipe needs no policy.
    drilled(&stage, &["--by-hand", &id], 0);
}
