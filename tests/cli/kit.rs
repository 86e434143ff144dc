//! The recovery sheet: what it says works, and it says no secret.

use std::fs;

use crate::{secrets::no_secret_in_keys, stage::Stage};

#[test]
fn the_sheet_holds_what_is_needed_and_no_secret() {
    let stage = Stage::with_files();
    let id = stage.run(&["keys", "list", "--json"]).ends(0).json()["repository"].clone();
    let words = ["kit", "--out", "kit.html", "--text", "--note", "safe in room 3"];
    let ran = stage.run(&words).ends(0);
    let page = stage.read("kit.html");
    let repo = stage.at("repo");
    let needed = [id.as_str().unwrap(), stage.read("keys/signing.pub").trim(), &repo, "safe in room 3"]
        .map(str::to_owned);
    for form in [&page, &ran.out] {
        for part in &needed {
            assert!(form.contains(part), "`{part}` is not in\n{form}");
        }
        for part in ["AGE-SECRET-KEY", "untrusted comment", &stage.at("keys")] {
            assert!(!form.contains(part), "`{part}` is in\n{form}");
        }
        no_secret_in_keys(&stage, form);
    }
    stage.run(&words).ends(1).tells("never overwritten");
    assert_eq!(stage.read("kit.html"), page);
}

#[test]
fn the_facts_are_a_document_too() {
    let stage = Stage::new();
    let kit = stage.run(&["kit", "--text", "--json"]).ends(0).json();
    assert_eq!((&kit["schema"], &kit["facts"]["stack"]), (&"lifeboat.kit/1".into(), &"demo".into()));
    assert_eq!(kit["facts"]["place"], format!("fs root={}", stage.at("repo")));
    assert_eq!(kit["facts"]["signers"][0], stage.read("keys/signing.pub").trim());
    stage.run(&["kit"]).ends(2);
    stage.run(&["kit", "--text", "--note", "AGE-SECRET-KEY-1HUNTER2"]).ends(2).hides("HUNTER2");
}

#[test]
fn the_commands_of_the_sheet_work_on_a_host_that_has_nothing_else() {
    let stage = Stage::with_files();
    stage.snapshot();
    let sheet = stage.run(&["kit", "--text", "--language", "en"]).ends(0).out;
    let lines: Vec<&str> = sheet.lines().filter_map(|line| line.strip_prefix("    ")).collect();
    let begins = |lead: &str| lines.iter().position(|line| line.starts_with(lead)).unwrap();
    let policy = lines[begins("stack = ")..begins("lifeboat ")].join("\n");
    let host = Stage::bare();
    host.write("sheet.toml", &policy);
    fs::copy(stage.path("keys/identity.txt"), host.path("identity.txt")).unwrap();
    let mut tried = 0;
    for line in &lines {
        let command = line.strip_prefix("lifeboat ").filter(|line| line.contains("sheet.toml"));
        let Some(command) = command else { continue };
        let command = command.split(" > ").next().unwrap().replace("SOURCE", "config");
        host.run(&command.split(' ').collect::<Vec<_>>()).ends(0);
        tried += 1;
    }
    assert_eq!(tried, 4, "{sheet}");
    let by_hand = lines.iter().find(|line| line.starts_with("bash recover.sh ")).unwrap();
    assert!(by_hand.contains(stage.read("keys/signing.pub").trim()), "{by_hand}");
}

#[test]
fn there_is_no_sheet_of_a_repository_that_is_not_there_or_not_ours() {
    let stage = Stage::new();
    stage.edit(|text| text.replace(stage.read("keys/signing.pub").trim(), &other_signer()));
    stage.run(&["kit", "--text"]).ends(22);
    fs::rename(stage.path("repo"), stage.path("gone")).unwrap();
    stage.run(&["kit", "--text"]).ends(10);
}

fn other_signer() -> String {
    Stage::new().read("keys/signing.pub").trim().to_owned()
}
