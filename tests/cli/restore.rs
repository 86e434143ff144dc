//! `lifeboat restore`: nothing is touched before it was planned, confirmed and found to be possible.

use std::io::Read as _;

use crate::{
    assert_screen,
    stage::{Stage, closed_port, ran, say_to, send, wait_until},
};

/// Returns `--into config=…` for a folder of the stage.
fn into(stage: &Stage, folder: &str) -> String {
    format!("config={}", stage.at(folder))
}

#[test]
fn what_was_stored_comes_back() {
    let (stage, id) = Stage::with_snapshot();
    let into = into(&stage, "out");
    let json = stage.run(&["restore", "latest", "--into", &into, "--yes", "demo", "--json"]).ends(0).json();
    assert_eq!((&json["schema"], &json["snapshot"]), (&"lifeboat.restore/1".into(), &id.as_str().into()));
    assert_eq!(
        (&json["restored"][0]["source"], &json["restored"][0]["verified"]),
        (&"config".into(), &"counts".into())
    );
    for file in ["data/app.env", "data/conf/nginx.conf", "data/conf/empty"] {
        let back = stage.at(&format!("out{}", stage.at(file)));
        assert_eq!(std::fs::read_to_string(back).unwrap(), stage.read(file), "{file}");
    }
}

#[test]
fn a_plan_shows_what_would_be_done_and_touches_nothing() {
    let (stage, id) = Stage::with_snapshot();
    let into = into(&stage, "out");
    let words = ["restore", "latest", "--into", &into, "--plan"];
    assert_screen!(stage, stage.run(&words).ends(0).out);
    let json = stage.run(&[&words[..], &["--json"]].concat()).ends(0).json();
    let plan = &json["plan"];
    assert_eq!((&plan["stack"], &plan["snapshot"]), (&"demo".into(), &id.as_str().into()));
    assert_eq!(plan["sources"][0]["in_the_way"], serde_json::json!([]));
    assert!(!stage.exists("out"));
}

#[test]
fn a_plan_says_how_long_it_takes_as_drills_from_the_same_place_have_measured() {
    let (stage, _) = Stage::with_snapshot();
    let words = ["restore", "latest", "--plan"];
    stage.run(&words).ends(0).says("no drill has measured it yet");
    stage.drilled("20261101T000000Z-0001", "oss", "passed", "held");
    assert_eq!(
        stage.run(&[&words[..], &["--json"]].concat()).ends(0).json()["plan"]["predicted_seconds"],
        serde_json::Value::Null
    );
    stage.drilled("20261101T000000Z-0002", "repository", "passed", "held");
    let plan = stage.run(&[&words[..], &["--json"]].concat()).ends(0).json()["plan"].clone();
    let bytes = plan["sources"][0]["bytes"].as_f64().unwrap();
    assert!(bytes > 0.0);
    assert_eq!(plan["predicted_seconds"].as_f64(), Some(bytes));
    assert_eq!(plan["sources"][0]["predicted_seconds"].as_f64(), Some(bytes));
    stage.run(&words).ends(0).says("by what drills have measured");
}

#[test]
fn a_target_that_is_not_empty_is_refused_and_left_alone() {
    let (stage, _) = Stage::with_snapshot();
    stage.write("data/app.env", "COLOUR=red\n");
    let ran = stage.run(&["restore", "latest", "--yes", "demo"]).ends(21);
    assert_screen!(stage, ran.err);
    assert_eq!(
        stage.run(&["restore", "latest", "--yes", "demo", "--json"]).ends(21).json()["code"],
        "target_not_empty"
    );
    assert_eq!(stage.read("data/app.env"), "COLOUR=red\n");
    // Looking at the plan is no failure.
    stage.run(&["restore", "latest", "--plan"]).ends(0);
    stage.run(&["restore", "latest", "--replace", "--yes", "demo"]).ends(0);
    assert_eq!(stage.read("data/app.env"), "COLOUR=blue\n");
}

#[test]
fn only_who_types_the_name_of_the_stack_goes_on() {
    let (stage, _) = Stage::with_snapshot();
    let into = into(&stage, "out");
    let words = ["restore", "latest", "--into", &into];
    for input in ["", "\n", "other\n", "Demo\n"] {
        let ran = stage.run_with(&words, &[], input).ends(2).tells("Type the stack's name to go on: ");
        assert!(ran.err.contains("nothing was touched"), "{input:?}: {}", ran.err);
        assert!(ran.out.contains("Restore of stack demo"), "the plan comes first: {}", ran.out);
        assert!(!stage.exists("out"));
    }
    assert_screen!(stage, stage.run_with(&words, &[], "").err);
    stage.run_with(&words, &[], "demo\n").ends(0);
}

#[test]
fn a_wrong_name_after_yes_is_refused_before_anything_is_opened() {
    let stage = Stage::with_files();
    std::fs::remove_dir_all(stage.path("repo")).unwrap();
    let ran = stage.run(&["restore", "latest", "--yes", "prod"]).ends(2);
    assert_screen!(stage, ran.err);
}

#[test]
fn a_signal_ends_the_question() {
    let (stage, _) = Stage::with_snapshot();
    let into = into(&stage, "out");
    let mut child = stage.start(&["restore", "latest", "--into", &into]);
    let (mut told, mut byte) = (Vec::new(), [0]);
    while !told.ends_with(b"to go on: ") {
        assert_eq!(child.stderr.as_mut().unwrap().read(&mut byte).unwrap(), 1, "it ended without a question");
        told.push(byte[0]);
    }
    say_to(&mut child, "de");
    send(&child, rustix::process::Signal::INT);
    wait_until("it ends", || child.try_wait().unwrap().is_some());
    ran(&child.wait_with_output().unwrap()).ends(130).tells("stopped by SIGINT");
    assert!(!stage.exists("out"));
}

#[test]
fn only_what_fits_a_pattern_is_restored() {
    let (stage, _) = Stage::with_snapshot();
    let into = into(&stage, "out");
    let only = stage.at("data/app.env");
    stage.run(&["restore", "latest", "--into", &into, "--only", &only, "--yes", "demo"]).ends(0);
    let files = stage.files("out");
    assert_eq!(files.len(), 1, "{files:?}");
    stage
        .run(&["restore", "latest", "--only", "/nowhere", "--plan"])
        .ends(2)
        .tells("nothing in the snapshot fits");
}

#[test]
fn words_that_make_no_sense_are_refused_before_anything_is_opened() {
    let stage = Stage::with_files();
    stage.add_redis(closed_port(), "hush");
    std::fs::remove_dir_all(stage.path("repo")).unwrap();
    let cases: [(&[&str], &str); 10] = [
        (&["latest", "--source", "confg"], "the policy has no source `confg`"),
        (&["latest", "--only", "[a"], "pattern `[a` is no glob"),
        (&["--at", "20251011-150000"], "lifeboat restore 20251011-150000"),
        (&["latest", "--at", "x"], "cannot be used with"),
        (&[], "required arguments were not provided"),
        (&["latest", "--into", "config"], "--into does not begin with a source's name"),
        (&["latest", "--into", "config=relative"], "neither a URL nor an absolute folder"),
        (&["latest", "--into", "nosuch=/x"], "the policy has no source `nosuch`"),
        (&["latest", "--into", "redis=mysql://h"], "`mysql` is not how a redis source is reached"),
        (&["latest", "--into", "redis=/x", "--into", "redis=/y"], "--into names `redis` twice"),
    ];
    for (words, why) in cases {
        stage.run(&[&["restore"], words].concat()).ends(2).tells(why);
        let json = stage.run(&[&["restore", "--json"], words].concat()).ends(2).json();
        assert_eq!(json["schema"], "lifeboat.failure/1", "{words:?}");
    }
}

#[test]
fn choices_that_exclude_each_other_are_refused_before_anything_is_opened() {
    let stage = Stage::with_files();
    stage.add_redis(closed_port(), "hush");
    for name in ["mysql", "other"] {
        stage.append(&format!("[[source]]\nname = \"{name}\"\nkind = \"mysql\"\nuser = \"u\"\n"));
    }
    std::fs::remove_dir_all(stage.path("repo")).unwrap();
    let cases: [(&[&str], &str); 15] = [
        (&["--beside"], "`config` is no MySQL server"),
        (&["--source", "mysql", "--source", "redis", "--swap"], "`redis` is no MySQL server"),
        (&["--source", "mysql", "--swap", "--into", "mysql=mysql://h"], "`mysql` goes elsewhere by --into"),
        (&["--source", "mysql", "--swap", "--beside"], "cannot be used with"),
        (&["--source", "mysql", "--swap", "--salvage"], "--swap and --salvage exclude each other"),
        (&["--source", "redis", "--binlog", "off"], "--binlog is about MySQL servers, and none is restored"),
        (
            &["--source", "mysql", "--into", "mysql=/x", "--events", "disabled"],
            "--events is about MySQL servers",
        ),
        (
            &["--source", "mysql", "--beside", "--accounts", "keep"],
            "--accounts is for databases that keep their names",
        ),
        (&["--into", "mysql=mysql://h/im_old", "--accounts", "replace"], "databases that keep their names"),
        (
            &["--source", "mysql", "--gtid", "append", "--only", "im"],
            "--gtid is for a source that is restored whole",
        ),
        (
            &["--source", "mysql", "--gtid", "replace", "--swap"],
            "--gtid is for a source that is restored whole",
        ),
        (
            &["--source", "mysql", "--gtid", "append", "--salvage"],
            "--gtid is for a source that is restored whole",
        ),
        (&["--source", "mysql", "--accounts", "some"], "invalid value 'some'"),
        (&["--source", "mysql", "--binlog", "maybe"], "invalid value 'maybe'"),
        (&["--into", "mysql=mysql://h/a/b"], "no plain name of a database"),
    ];
    for (words, why) in cases {
        stage.run(&[&["restore", "latest"], words].concat()).ends(2).tells(why);
        let json = stage.run(&[&["restore", "latest", "--json"], words].concat()).ends(2).json();
        assert_eq!(json["schema"], "lifeboat.failure/1", "{words:?}");
    }
}

#[test]
fn a_place_for_a_source_that_is_not_restored_is_refused() {
    let (stage, _) = Stage::with_snapshot();
    stage.add_redis(closed_port(), "hush");
    let words = ["restore", "latest", "--source", "config", "--into", "redis=/x", "--yes", "demo"];
    stage.run(&words).ends(2).tells("--into names `redis`, which is not restored");
}

#[test]
fn a_password_in_a_place_is_refused_and_never_repeated() {
    let stage = Stage::with_files();
    stage.add_redis(closed_port(), "hush");
    for place in [
        "redis=redis://default:hunter2@127.0.0.1:6379",
        "redis=redis://:hunter2@127.0.0.1",
        "redis=root:hunter2@127.0.0.1",
        "redis=mysql://root:hunter2@127.0.0.1",
        "redis://:hunter2@127.0.0.1",
        "mysql://root:hunter2=x@127.0.0.1",
        "nosuch=redis://:hunter2@127.0.0.1",
    ] {
        for face in [&[][..], &["--json"]] {
            stage.run(&[&["restore", "latest", "--into", place], face].concat()).ends(2).hides("hunter2");
        }
    }
}

#[test]
fn a_range_of_keys_is_of_a_table_and_a_mapping_is_of_two_collations() {
    let (stage, _) = Stage::with_snapshot();
    let only = |pattern: &str| stage.run(&["restore", "latest", "--only", pattern, "--plan"]);
    only("im.messages[1..2..3]").ends(2).tells("is no range of keys").tells("[100..]");
    only("*[1..2]").ends(2).tells("a table must stand before it");
    stage.run(&["restore", "latest", "--map-collation", "a=b;c", "--plan"]).ends(2).tells("is not FROM=TO");
}
