//! `lifeboat policy`: what is wrong, where, and what was probably meant.

use serde_json::Value;

use crate::{assert_screen, stage::Stage};

/// Returns the problems that `policy check` finds, in both faces.
#[track_caller]
fn problems(stage: &Stage, variables: &[(&str, &str)]) -> (String, Vec<Value>) {
    let screen = stage.run_with(&["policy", "check"], variables, "").ends(2);
    assert_eq!(screen.out, "");
    let json = stage.run_with(&["policy", "check", "--json"], variables, "").ends(2).json();
    assert_eq!(json["schema"], "lifeboat.policy/1");
    assert_eq!(json["valid"], false);
    (screen.err, json["problems"].as_array().unwrap().clone())
}

#[test]
fn a_valid_policy_is_said_to_be_valid() {
    let stage = Stage::with_files();
    let json = stage.run(&["policy", "check", "--json"]).ends(0).json();
    assert_eq!((&json["valid"], json["problems"].as_array().unwrap().len()), (&Value::Bool(true), 0));
}

#[test]
fn an_unknown_key_is_told_with_its_place_and_the_nearest_one() {
    let stage = Stage::with_files();
    stage.append("[[source]]\nname = \"db\"\nkind = \"mysql\"\nuser = \"root\"\npasword = { env = \"X\" }\n");
    let (screen, problems) = problems(&stage, &[]);
    assert_screen!(stage, screen);
    let line = stage.read("lifeboat.toml").lines().position(|line| line.starts_with("pasword")).unwrap() + 1;
    assert_eq!(problems.len(), 1);
    assert_eq!((&problems[0]["line"], &problems[0]["column"]), (&line.into(), &1.into()));
    assert_eq!(problems[0]["hint"], "Did you mean `password`?");
}

#[test]
fn every_secret_that_cannot_be_read_is_named() {
    let stage = Stage::new();
    stage.append(
        "[[source]]\nname = \"a\"\nkind = \"mysql\"\nuser = \"u\"\n\
         password = { env = \"DB_PASSWORD\" }\n\
         [[source]]\nname = \"b\"\nkind = \"mysql\"\nuser = \"u\"\n\
         password = { file = \"/no/such/secret\" }\n",
    );
    let (screen, found) = problems(&stage, &[]);
    assert_screen!(stage, screen);
    let keys: Vec<&str> = found.iter().map(|problem| problem["key"].as_str().unwrap()).collect();
    assert_eq!(keys, ["source a password", "source b password"]);
    let (_, found) = problems(&stage, &[("DB_PASSWORD", "hush")]);
    assert_eq!(found.len(), 1);
}

#[test]
fn a_pattern_that_leaves_out_a_whole_path_is_found() {
    let stage = Stage::new();
    stage.append(
        "[[source]]\nname = \"config\"\nkind = \"files\"\npaths = [\"/srv/im/config\"]\nexclude = [\"**/config\"]\n",
    );
    let (screen, found) = problems(&stage, &[]);
    assert!(screen.contains("leaves out all of its path `/srv/im/config`: `**/config`"), "{screen}");
    assert_eq!((found.len(), found[0]["key"].as_str()), (1, Some("source config")));
    assert!(found[0]["hint"].as_str().unwrap().contains("only what is inside"));
}

#[test]
fn a_recipient_that_is_none_is_found() {
    for (bad, why) in [
        ("age1qqqq", "is not an age public key"),
        ("ssh-ed25519 AAAA", "is no age recipient"),
        ("AGE-SECRET-KEY-1QQQQ", "a secret key stands where the public one belongs"),
    ] {
        let stage = Stage::with_files();
        stage.edit(|text| {
            let list = text.find("recipients = [").unwrap();
            let end = list + text[list..].find(']').unwrap();
            format!("{}recipients = [\"{bad}\"{}", &text[..list], &text[end..])
        });
        let (screen, problems) = problems(&stage, &[]);
        assert!(screen.contains(why), "{screen}");
        assert_eq!(problems.len(), 1);
        assert!(!bad.starts_with("AGE-SECRET") || !screen.contains(bad), "{screen}");
    }
}

#[test]
fn a_policy_that_believes_no_signer_is_refused() {
    let stage = Stage::with_files();
    stage.edit(|text| {
        let list = text.find("signers = [").unwrap();
        let end = list + text[list..].find("]\n").unwrap() + 2;
        format!("{}{}", &text[..list], &text[end..])
    });
    let (screen, problems) = problems(&stage, &[]);
    assert_eq!(problems[0]["key"], "repository.signers");
    assert_screen!(stage, screen);
    stage.run(&["snapshots"]).ends(2).tells("there is no signer to believe");
}

#[test]
fn a_policy_that_is_not_there_is_never_replaced_by_another() {
    let stage = Stage::with_files();
    stage.run(&["--policy", "nowhere.toml", "snapshots"]).ends(2).tells("nowhere.toml: cannot be read");
    let mut bare = stage.program();
    bare.env_remove("LIFEBOAT_POLICY").current_dir("/").arg("snapshots");
    let ran = crate::stage::ran(&bare.output().unwrap()).ends(2);
    assert_screen!(stage, ran.err);
}

#[test]
fn the_effective_policy_is_toml_or_one_document_and_shows_no_secret() {
    let stage = Stage::with_files();
    stage.add_redis(1, "hunter2");
    let toml = stage.run(&["policy", "show", "--effective"]).ends(0).hides("hunter2");
    let read: toml::Table = toml.out.parse().unwrap();
    assert_eq!(read["stack"].as_str(), Some("demo"));
    let json = stage.run(&["policy", "show", "--effective", "--json"]).ends(0).hides("hunter2").json();
    assert_eq!(json["effective"]["source"][1]["password"]["file"], stage.at("secrets/redis"));
}

#[test]
fn the_schema_is_one_document() {
    let json = Stage::bare().run(&["policy", "schema"]).ends(0).json();
    assert!(json["properties"]["source"].is_object());
}
