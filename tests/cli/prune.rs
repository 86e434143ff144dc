//! `lifeboat prune`: the plan that is shown is the plan that is carried out, and what is unusual is asked for.

use serde_json::{Value, json};

use crate::{
    assert_screen,
    stage::{Ran, Stage},
};

/// Makes a stack with so many snapshots of which the rules keep the newest; returns their ids, the oldest first.
fn with_snapshots(count: usize, retention: &str) -> (Stage, Vec<String>) {
    let stage = Stage::with_files();
    // The rules that `init` wrote give way.
    stage.edit(|text| {
        let (before, rest) = text.split_once("\n[retention]\n").unwrap();
        format!("{before}{}", rest.find("\n[").map_or("", |end| &rest[end..]))
    });
    stage.append(&format!("[retention]\n{retention}\n"));
    let ids = (0..count).map(|n| {
        stage.write("data/app.env", &format!("COLOUR={n}\n"));
        stage.snapshot()
    });
    let ids = ids.collect();
    (stage, ids)
}

fn plan(stage: &Stage, more: &[&str]) -> Value {
    stage.run(&[&["prune", "--plan", "--json"], more].concat()).ends(0).json()
}

fn ids(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap()).collect()
}

fn listed(stage: &Stage) -> usize {
    stage.run(&["snapshots", "--json"]).ends(0).json()["snapshots"].as_array().unwrap().len()
}

const TWO: &str = "last = 2\nmin_keep = 1";

#[test]
fn the_plan_shows_what_stays_what_goes_and_why_and_changes_nothing() {
    let (stage, made) = with_snapshots(3, TWO);
    let before = stage.files("repo");
    assert_screen!(stage, stage.run(&["prune"]).ends(0).out);
    let json = plan(&stage, &[]);
    assert_eq!(json["schema"], "lifeboat.prune/1");
    assert_eq!(ids(&json["keep"]), [made[2].as_str(), &made[1]]);
    assert_eq!(ids(&json["remove"]), [made[0].as_str()]);
    assert!(json["remove"][0]["reason"].is_string());
    assert_eq!((&json["generation"], &json["sweep"], &json["open"]), (&json!(1), &json!([]), &json!([])));
    let unneeded = json["packs"]["unneeded"]["count"].as_u64().unwrap();
    assert!(unneeded > 0 && json["packs"]["live"]["count"].as_u64().unwrap() > 0, "{json}");
    assert_eq!(stage.files("repo"), before);
}

#[test]
fn to_apply_does_what_the_plan_said_and_then_nothing_is_left_to_do() {
    let (stage, made) = with_snapshots(3, TWO);
    let planned = plan(&stage, &[]);
    let done = stage.run(&["prune", "--apply", "--json"]).ends(0).json();
    assert_eq!((&done["keep"], &done["remove"]), (&planned["keep"], &planned["remove"]));
    assert_eq!(done["done"]["generation"], planned["generation"]);
    assert_eq!(done["done"]["forgotten"], json!([made[0]]));
    assert_eq!(done["done"]["condemned"], planned["packs"]["unneeded"]["count"]);
    assert_eq!(done["done"]["swept"], json!([]), "nothing is swept before its grace is over");
    assert_eq!(listed(&stage), 2);
    let after = plan(&stage, &[]);
    assert_eq!((&after["generation"], &after["remove"]), (&Value::Null, &json!([])));
    assert_eq!(after["packs"]["condemned"]["count"], planned["packs"]["unneeded"]["count"]);
    assert!(stage.run(&["prune", "--apply"]).ends(0).out.contains("nothing to do"));
    stage.run(&["verify", "--read-data"]).ends(0);
    stage.run(&["ls", &made[0]]).ends(2);
}

#[test]
fn every_pack_is_told_with_its_state_and_who_keeps_it() {
    let (stage, made) = with_snapshots(2, "last = 1\nmin_keep = 1");
    let json = plan(&stage, &["--packs"]);
    let packs = json["every_pack"].as_array().unwrap();
    assert_eq!(packs.len(), stage.files("repo/packs").len());
    for pack in packs {
        match pack["state"].as_str().unwrap() {
            "live" => assert_eq!(pack["kept_by"], made[1].as_str()),
            "unneeded" => assert!(pack["kept_by"].is_null() && pack["goes"].is_string()),
            other => panic!("{other}: {pack}"),
        }
    }
    let screen = stage.run(&["prune", "--packs"]).ends(0).out;
    assert!(screen.contains("kept by") && screen.contains("unneeded"), "{screen}");
}

#[test]
fn a_snapshot_that_is_named_goes_whatever_the_rules_say_but_never_the_last_one() {
    let (stage, made) = with_snapshots(2, "last = 9");
    assert_eq!(ids(&plan(&stage, &["--forget", &made[1]])["remove"]), [made[1].as_str()]);
    stage.run(&["prune", "--apply", "--forget", &made[1]]).ends(0);
    assert_eq!(listed(&stage), 1);
    stage.run(&["prune", "--apply", "--forget", &made[0]]).ends(2).tells("no snapshot would be left");
    stage.run(&["prune", "--forget", "latest"]).ends(2);
    stage.run(&["prune", "--forget", "20200101T000000Z-beef"]).ends(2).tells("there is no snapshot");
}

#[test]
fn what_would_remove_much_is_asked_for_and_accepted_by_its_number() {
    let (stage, _) = with_snapshots(4, "last = 1\nmin_keep = 1");
    assert!(!plan(&stage, &[])["guards"].as_array().unwrap().is_empty());
    assert!(stage.run(&["prune"]).ends(0).out.contains("CAREFUL: "));
    let refused = |ran: Ran| ran.ends(1).tells("prune stands still").tells("--accept 3");
    refused(stage.run(&["prune", "--apply"]));
    refused(stage.run(&["prune", "--apply", "--accept", "2"]));
    // Nothing but the failed run tells of it.
    stage.run(&["incidents"]).ends(0).says("prune failed: prune stands still");
    assert_eq!(listed(&stage), 4);
    stage.run(&["prune", "--apply", "--accept", "3"]).ends(0);
    assert_eq!(listed(&stage), 1);
    stage.run(&["prune", "--accept", "3"]).ends(2);
}

#[test]
fn a_snapshot_that_somebody_took_away_stops_every_prune_until_a_person_says_why() {
    let (stage, made) = with_snapshots(3, TWO);
    stage.run(&["verify"]).ends(0);
    for file in stage.files("repo/refs").iter().chain(&stage.files("repo/manifests")) {
        if file.to_str().unwrap().contains(&made[1]) {
            std::fs::remove_file(file).unwrap();
        }
    }
    stage.run(&["prune"]).ends(22).tells("prune stands still").tells("hint: ");
    stage.run(&["prune", "--apply"]).ends(22);
    stage.run(&["verify"]).ends(22);
    let json = stage.run(&["prune", "--accept-loss", "the disk ate it", "--json"]).ends(0).json();
    assert_eq!(json["accepted_losses"], 1);
    stage.run(&["verify"]).ends(0);
    stage.run(&["prune", "--apply"]).ends(0);
    assert_eq!(
        stage.run(&["prune", "--accept-loss", "again", "--json"]).ends(0).json()["accepted_losses"],
        0
    );
}

#[test]
fn a_sweep_that_died_is_told_and_closed() {
    let (stage, _) = with_snapshots(3, TWO);
    stage.run(&["prune", "--close", "1"]).ends(2).tells("generation 1 has no sweep that is under way");
    stage.run(&["prune", "--apply"]).ends(0);
    stage.write("repo/prune/00000001.open.json", "{}");
    assert!(stage.run(&["prune"]).ends(0).out.contains("generation 1 was begun and has not ended"));
    assert_eq!(plan(&stage, &[])["open"], json!([1]));
    assert_eq!(stage.run(&["prune", "--close", "1", "--json"]).ends(0).json()["closed"], 1);
    assert_eq!(plan(&stage, &[])["open"], json!([]));
    stage.run(&["prune", "--close", "1"]).ends(2);
}

#[test]
fn an_offsite_keeps_what_its_original_keeps_and_what_that_forgot_for_some_days() {
    let (stage, made) = with_snapshots(3, TWO);
    crate::sync::add_offsite(&stage, "far");
    std::fs::create_dir(stage.path("far")).unwrap();
    stage.run(&["sync"]).ends(0);
    let far = plan(&stage, &["--offsite", "far"]);
    assert_eq!(ids(&far["remove"]), Vec::<&str>::new());
    stage.run(&["prune", "--apply"]).ends(0);
    stage.run(&["sync"]).ends(0);
    let far = plan(&stage, &["--offsite", "far"]);
    assert!(ids(&far["keep"]).contains(&made[0].as_str()), "its delay is not over");
    let before = stage.files("repo");
    stage.run(&["prune", "--apply", "--offsite", "far", "--forget", &made[0]]).ends(0);
    assert_eq!(stage.files("repo"), before);
    assert!(stage.exists(&format!("far/tombstones/{}.g00000001.json", made[0])));
    stage.run(&["prune", "--offsite", "near"]).ends(2).tells("the policy has no offsite `near`");
}

#[test]
fn prune_needs_no_key_that_opens_anything() {
    let (stage, made) = with_snapshots(3, TWO);
    std::fs::remove_file(stage.path("keys/index.key")).unwrap();
    assert_eq!(ids(&plan(&stage, &[])["remove"]), [made[0].as_str()]);
    let done = stage.run(&["prune", "--apply", "--json"]).ends(0).json();
    assert_eq!(done["done"]["forgotten"], json!([made[0]]));
}

#[test]
fn what_lies_in_the_trash_is_told_and_freed_at_once_when_asked_for() {
    let (stage, _) = with_snapshots(1, TWO);
    stage.write("repo/trash/packs/ab", "deleted just now");
    let plan = stage.run(&["prune", "--plan", "--json"]).ends(0).json();
    assert_eq!((&plan["trash"]["objects"], &plan["trash"]["bytes"]), (&json!(1), &json!(16)));
    assert!(plan["trash"]["goes"].is_string(), "{plan}");
    let shown = stage.run(&["prune", "--plan"]).ends(0).out;
    assert!(shown.contains("trash: deleted, the first of them goes"), "{shown}");
    let ran = stage.run(&["prune", "--apply"]).ends(0);
    assert!(ran.out.contains("in 1 objects lie in the trash for 7 days"), "{}", ran.out);
    let done = stage.run(&["prune", "--apply", "--json"]).ends(0).json();
    assert_eq!((&done["trash"], &done["freed_bytes"]), (&json!({ "objects": 1, "bytes": 16 }), &json!(0)));
    let freed = stage.run(&["prune", "--apply", "--empty-trash", "--json"]).ends(0).json();
    assert_eq!((&freed["trash"], &freed["freed_bytes"]), (&json!({ "objects": 0, "bytes": 0 }), &json!(16)));
    stage.run(&["prune", "--empty-trash"]).ends(2);
}

#[test]
fn words_that_exclude_each_other_are_refused() {
    let (stage, _) = with_snapshots(1, TWO);
    for words in
        [&["--plan", "--apply"][..], &["--close", "1", "--apply"], &["--accept-loss", "why", "--close", "1"]]
    {
        stage.run(&[&["prune"], words].concat()).ends(2);
    }
}
