//! `lifeboat serve --once`, for hosts with a timer of their own.

use chrono::Duration;
use rustix::process::Signal;

use crate::{
    host::{Left, kept_slot, scheduled, set_schedule, snapshots},
    stage::{Silent, ran, send},
};

const NIGHTLY: &str = "backup = \"0 2 * * *\"";

#[test]
fn what_is_due_is_done_once_and_nothing_else() {
    let stage = scheduled(NIGHTLY);
    stage.run(&["serve", "--once"]).ends(0);
    assert!(!stage.exists("repo/refs"), "nothing was due");
    kept_slot(&stage, "backup", Duration::days(2));
    stage.run(&["serve", "--once"]).ends(0).says("backup ended: ok");
    stage.run(&["serve", "--once"]).ends(0);
    assert_eq!(snapshots(&stage), 1);
}

#[test]
fn a_job_that_is_named_is_done_now_and_ends_as_it_would_by_hand() {
    let stage = scheduled(NIGHTLY);
    stage.run(&["serve", "--once", "backup", "--textfile", &stage.at("metrics.prom")]).ends(0);
    assert_eq!(snapshots(&stage), 1);
    assert!(stage.read("metrics.prom").contains("lifeboat_last_success_timestamp_seconds"));
    stage.run(&["serve", "--once", "verify", "prune"]).ends(0).says("verify ended: ok");
    stage.run(&["serve", "--once", "dance"]).ends(2).tells("`dance` is no job of a schedule");
    set_schedule(&stage, &format!("{NIGHTLY}\nretries = 0"));
    stage.append("[drill]\nsocket = \"/nowhere/docker.sock\"\n");
    stage.run(&["serve", "--once", "drill"]).ends(42).tells("");
    std::fs::rename(stage.path("repo"), stage.path("gone")).unwrap();
    stage.run(&["serve", "--once", "backup"]).ends(10);
    let open = stage.run(&["incidents", "--json"]).ends(0).json();
    let kinds: Vec<_> = open["open"].as_array().unwrap().iter().map(|one| one["kind"].clone()).collect();
    assert!(kinds.contains(&"failed".into()) && kinds.contains(&"drill".into()), "{kinds:?}");
}

#[test]
fn an_incident_can_be_acknowledged_and_muted_with_an_end() {
    let stage = scheduled(&format!("{NIGHTLY}\nretries = 0"));
    std::fs::rename(stage.path("repo"), stage.path("gone")).unwrap();
    stage.run(&["serve", "--once", "backup"]).ends(10);
    let open = stage.run(&["incidents", "--json"]).ends(0).json();
    let number = open["open"][0]["number"].to_string();
    stage.run(&["incidents", "acknowledge", &number, "--note", " "]).ends(2).tells("the note is empty");
    stage.run(&["incidents", "acknowledge", "99", "--note", "x"]).ends(2).tells("no incident 99 is open");
    stage.run(&["incidents", "acknowledge", &number, "--note", "the disk is on its way"]).ends(0);
    stage.run(&["incidents", "mute", &number, "--hours", "0"]).ends(2);
    stage.run(&["incidents", "mute", &number, "--hours", "8"]).ends(0).says("nobody is reminded of incident");
    stage.run(&["incidents"]).ends(0).says("acknowledged: the disk is on its way");
    std::fs::rename(stage.path("gone"), stage.path("repo")).unwrap();
    stage.run(&["serve", "--once", "backup"]).ends(0);
    stage.run(&["incidents", "--json"]).ends(0);
    let after = stage.run(&["incidents", "--json"]).ends(0).json();
    assert_eq!(after["open"], serde_json::json!([]));
    assert_eq!(after["resolved"][0]["kind"], "failed");
}

#[test]
fn a_drill_that_failed_stops_prune_until_a_later_one_passes() {
    let stage = scheduled(NIGHTLY);
    stage.run(&["serve", "--once", "backup", "--textfile", &stage.at("metrics.prom")]).ends(0);
    stage.run(&["status"]).ends(0).says("last drill: none yet; no restore is proven");
    assert!(!stage.read("metrics.prom").contains("lifeboat_drill_passed{"));
    stage.drilled("20261101T000000Z-0001", "oss", "failed", "failed");
    stage.run(&["prune", "--apply"]).ends(1).tells("1 of 1 assertions did not hold of what came from `oss`");
    let standing = stage.run(&["status", "--json"]).ends(0).json();
    assert_eq!((&standing["verdict"], &standing["drill"]["outcome"]), (&"danger".into(), &"failed".into()));
    assert!(standing["prune_frozen"].as_str().unwrap().starts_with("drill failed"), "{standing}");
    stage.drilled("20261101T000000Z-0002", "oss", "passed", "held");
    stage.run(&["status"]).ends(0).says("last drill: passed").says("1 held, 0 failed, 0 not asked");
    stage.run(&["prune", "--apply"]).ends(0);
    stage.run(&["serve", "--once", "digest", "--textfile", &stage.at("metrics.prom")]).ends(0);
    assert!(stage.read("metrics.prom").contains("lifeboat_drill_passed{"));
}

#[test]
fn a_source_that_lost_most_of_its_data_stops_prune_until_a_person_has_looked() {
    let stage = scheduled(NIGHTLY);
    stage.write("data/large", &"a row of the ledger\n".repeat(20_000));
    for _ in 0..4 {
        stage.run(&["serve", "--once", "backup"]).ends(0);
    }
    stage.run(&["prune", "--apply"]).ends(0);
    stage.write("data/large", "");
    stage.run(&["serve", "--once", "backup"]).ends(0).says("incident opened: source `config` is unusual");
    stage.run(&["prune", "--apply"]).ends(1).tells("prune stands still until a person has looked");
    stage.run(&["prune", "--plan"]).ends(0);
    let standing = stage.run(&["status", "--json"]).ends(0).json();
    assert_eq!(standing["verdict"], "danger");
    assert!(standing["prune_frozen"].as_str().unwrap().contains("% less"), "{standing}");
    // The next night looks usual for what is left; that must not thaw anything.
    stage.run(&["serve", "--once", "backup"]).ends(0);
    stage.run(&["prune", "--apply"]).ends(1);
    stage.run(&["serve", "--once", "verify"]).ends(0);
    let open = stage.run(&["incidents", "--json"]).ends(0).json();
    let kinds: Vec<_> = open["open"].as_array().unwrap().iter().map(|one| one["kind"].clone()).collect();
    assert_eq!(kinds, ["anomaly"], "what stands still on purpose has not failed");
    let number = standing["incidents"][0]["number"].to_string();
    stage.run(&["incidents", "acknowledge", &number, "--note", "the ledger was archived"]).ends(0);
    stage.run(&["prune", "--apply"]).ends(0);
}

#[test]
fn a_timer_that_comes_again_while_much_is_to_be_done_leaves_it_to_who_is_at_it() {
    let stage = scheduled(NIGHTLY);
    let server = Silent::new();
    stage.add_redis(server.port(), "hush");
    kept_slot(&stage, "backup", Duration::days(2));
    let first = stage.start(&["serve", "--once"]);
    let caller = server.caller();
    stage.run(&["serve", "--once"]).ends(0).says("another service keeps the schedule of stack `demo`");
    stage.run(&["serve", "--listen", "127.0.0.1:0"]).ends(11).tells("another service keeps the schedule");
    send(&first, Signal::TERM);
    ran(&first.wait_with_output().unwrap()).ends(130);
    drop(caller);
    let slots = stage.run(&["status", "--json"]).ends(0).json();
    assert_eq!(slots["tasks"][0]["last_success"], serde_json::Value::Null);
}

#[test]
fn a_run_that_died_under_a_timer_is_told_by_the_next_one() {
    let stage = scheduled(NIGHTLY);
    let server = Silent::new();
    stage.add_redis(server.port(), "hush");
    let first = stage.start(&["serve", "--once", "backup"]);
    let caller = server.caller();
    send(&first, Signal::KILL);
    ran(&first.wait_with_output().unwrap()).ends(128);
    drop(caller);
    stage
        .run(&["serve", "--once", "verify"])
        .ends(0)
        .says("backup died with the process before this one")
        .says("incident opened: backup failed: the process ended before the run did");
}

#[test]
fn prune_by_hand_right_after_a_backup_by_hand_sees_what_that_lost() {
    let stage = scheduled(NIGHTLY);
    stage.write("data/large", &"a row of the ledger\n".repeat(20_000));
    for _ in 0..4 {
        stage.run(&["backup"]).ends(0);
    }
    stage.run(&["prune", "--apply"]).ends(0);
    stage.write("data/large", &"a row of the ledger\n".repeat(10_000));
    stage.run(&["backup"]).ends(0);
    stage.run(&["prune", "--apply"]).ends(1).tells("prune stands still until a person has looked");
    let open = stage.run(&["incidents", "--json"]).ends(0).json();
    let number = open["open"][0]["number"].to_string();
    stage.run(&["incidents", "acknowledge", &number, "--note", "the ledger was archived"]).ends(0);
    stage.run(&["prune", "--apply"]).ends(0);
    // What is accepted guards the source all the same.
    stage.write("data/large", "");
    stage.run(&["backup"]).ends(0);
    stage.run(&["prune", "--apply"]).ends(1).tells("prune stands still until a person has looked");
}

#[test]
fn a_timer_removes_what_a_killed_drill_left() {
    let stage = scheduled(NIGHTLY);
    stage.snapshot();
    stage.append("[drill]\nlab = \"process\"\n");
    for call in [&["serve", "--once"][..], &["serve", "--once", "verify"]] {
        let policy = stage.read("lifeboat.toml");
        let left = Left::by_a_killed_drill(&stage);
        stage.run(call).ends(0).says("removed 1 labs that drills had left behind");
        left.is_gone(&stage);
        stage.write("lifeboat.toml", &policy);
    }
}
