//! `lifeboat snapshots` and `lifeboat ls`: what there is, and how people say which.

use crate::{assert_screen, stage::Stage};

#[test]
fn an_empty_repository_says_so() {
    let stage = Stage::new();
    assert_eq!(stage.run(&["snapshots"]).ends(0).out, "there is no snapshot yet\n");
    let json = stage.run(&["snapshots", "--json"]).ends(0).json();
    assert_eq!(json["snapshots"].as_array().unwrap().len(), 0);
    stage.run(&["ls", "latest"]).ends(2).tells("there is no snapshot yet").tells("`lifeboat backup`");
}

#[test]
fn the_list_tells_of_each_snapshot_what_a_person_asks_first() {
    let stage = Stage::with_files();
    let id = stage.run(&["backup", "--json", "--tag", "before-upgrade"]).ends(0).json()["snapshot"].clone();
    assert_screen!(stage, stage.run(&["snapshots"]).ends(0).out);
    let json = stage.run(&["snapshots", "--json"]).ends(0).json();
    assert_eq!(json["schema"], "lifeboat.snapshots/1");
    let one = &json["snapshots"][0];
    assert_eq!((&one["id"], &one["tag"]), (&id, &"before-upgrade".into()));
    assert_eq!((&one["status"], &one["sources"][0]), (&"complete".into(), &"config".into()));
    assert!(one["bytes"].as_u64().unwrap() > 40_000);
    assert_eq!(one["proven"], false);
}

#[test]
fn a_new_host_lists_what_there_is_before_it_knows_any_source() {
    let (stage, id) = Stage::with_snapshot();
    stage.edit(|text| {
        text[..text.find("\n[[source]]\nname = \"config\"\nkind = \"files\"\npaths").unwrap()].to_owned()
    });
    assert!(stage.run(&["snapshots"]).ends(0).out.contains(&id));
    assert!(stage.run(&["ls", "latest"]).ends(0).out.contains("app.env"));
    stage.run(&["verify", "--read-data"]).ends(0);
    stage.run(&["backup"]).ends(2).tells("the policy has no [[source]]");
}

#[test]
fn a_snapshot_is_found_by_every_way_to_say_when() {
    let (stage, id) = Stage::with_snapshot();
    for when in ["latest", &id, &id[..18], "0 seconds ago", "2099-01-01T00:00:00+08:00", "20990101-000000"] {
        stage.run(&["ls", when]).ends(0);
    }
    for (when, why) in [
        ("yesterday", "`yesterday` does not say when"),
        ("19990101T", "no snapshot id begins with `19990101T`"),
        ("3 weeks ago", "no snapshot is as old as"),
        ("20250230-000000", "does not say when"),
    ] {
        stage.run(&["ls", when]).ends(2).tells(why).tells("hint: ");
    }
}

#[test]
fn an_id_that_fits_two_snapshots_is_refused() {
    let (stage, first) = Stage::with_snapshot();
    let second = stage.snapshot();
    let shared: String =
        first.chars().zip(second.chars()).take_while(|(a, b)| a == b).map(|(a, _)| a).collect();
    stage
        .run(&["ls", &shared])
        .ends(2)
        .tells("2 snapshot ids begin with")
        .tells("hint: Give more of the id.");
}

#[test]
fn a_path_limits_the_list_to_what_is_at_or_below_it() {
    let (stage, _) = Stage::with_snapshot();
    let all = stage.run(&["ls", "latest"]).ends(0).out;
    let inner: Vec<String> = all
        .lines()
        .filter_map(|line| line.split_whitespace().last())
        .filter(|path| path.contains("/conf"))
        .map(str::to_owned)
        .collect();
    assert_eq!(inner.len(), 3, "{all}");
    let folder = &inner[0];
    for path in [folder.clone(), format!("{folder}/")] {
        let listed = stage.run(&["ls", "latest", &path]).ends(0).out;
        assert_eq!(listed.lines().count(), 3, "{listed}");
    }
    assert_eq!(stage.run(&["ls", "latest", "config"]).ends(0).out, all);
    let half = &folder[..folder.len() - 1];
    stage.run(&["ls", "latest", half]).ends(2).tells("nothing is at");
    stage.run(&["ls", "latest", "nosuch"]).ends(2).tells("Begin the path with a source's name");
}

#[test]
fn the_json_of_a_list_is_a_line_for_each_entry() {
    let (stage, _) = Stage::with_snapshot();
    let ran = stage.run(&["ls", "latest", "--json"]).ends(0);
    let lines: Vec<serde_json::Value> =
        ran.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines.iter().all(|line| line["schema"] == "lifeboat.ls/1" && line["source"] == "config"));
    let env = lines.iter().find(|line| line["path"].as_str().unwrap().ends_with("app.env")).unwrap();
    assert_eq!(env["size_bytes"], 12);
}
