//! What `doctor` finds, says to do, and ends with.

use std::{collections::BTreeMap, fs, os::unix::fs::PermissionsExt, process::Command};

use serde_json::Value;

use lifeboat::{
    catalog::Count,
    finding::{Finding, Status},
    jobs::doctor::{CLOCKS, FINDINGS, Room, room_of},
    names::{Job, Task},
};

use crate::stage::{Ran, Silent, Stage, filters, ran};

/// As `assert_screen`, for sizes of every disk.
macro_rules! assert_findings {
    ($stage:expr, $text:expr) => {{
        let dir = $stage.at("");
        let mut filters = filters(&dir);
        filters.insert(0, (r"\d+(\.\d+)? [KMGTP]iB", "[size]"));
        filters.insert(0, (r"(zone\.host +┆ [^┆]+┆ )[^│]+", "$1[zones] "));
        insta::with_settings!({ filters => filters, omit_expression => true }, {
            insta::assert_snapshot!($text);
        });
    }};
}

/// Returns a finding of a document.
#[track_caller]
fn finding<'d>(document: &'d Value, id: &str) -> &'d Value {
    let all = document["findings"].as_array().unwrap();
    all.iter().find(|finding| finding["id"] == id).unwrap_or_else(|| panic!("{id} is not in {document:#}"))
}

/// Runs the program with the repository on a small empty disk of its own: how full the machine's is must not show.
fn on_disk(stage: &Stage, size: &str, words: &str) -> Ran {
    let script = format!(
        "set -eu; cp -a repo whole; mount -t tmpfs -o size={size},mode=700 tmpfs repo; cp -a whole/. repo; rm -r whole\n\
         mkdir -p state; mount -t tmpfs -o size=256m,mode=700 tmpfs state\n\
         exec {} {words}",
        env!("CARGO_BIN_EXE_lifeboat")
    );
    let mut shell = Command::new("unshare");
    shell.args(["--user", "--map-root-user", "--mount", "sh", "-c", &script]).current_dir(stage.path(""));
    ran(&shell.env("LIFEBOAT_POLICY", "lifeboat.toml").env("HOME", stage.path("")).output().unwrap())
}

fn mode(stage: &Stage, path: &str, mode: u32) {
    fs::set_permissions(stage.path(path), fs::Permissions::from_mode(mode)).unwrap();
}

/// Makes a stack with one source and no drill: whether this machine has a container engine must not show.
fn undrilled() -> Stage {
    let stage = Stage::with_files();
    stage.edit(|text| {
        text.lines().filter(|line| !line.starts_with("drill = ")).collect::<Vec<_>>().join("\n")
    });
    stage
}

/// Makes a stack with nothing to look at but that its forecast is not known yet: an identity that is away, two
/// recipients, a copy, a zone without clock changes, somebody who hears, no drill.
fn healthy() -> Stage {
    let stage = undrilled();
    stage.run(&["keys", "new", "--out", "second.txt"]).ends(0);
    let second = stage.read("second.txt");
    let second = second.lines().find_map(|line| line.strip_prefix("# public key: ")).unwrap().to_owned();
    fs::rename(stage.path("keys/identity.txt"), stage.path("identity.txt")).unwrap();
    fs::create_dir(stage.path("copy")).unwrap();
    let copy = stage.at("copy");
    stage.edit(|text| {
        let text = text.replace("recipients = [", &format!("recipients = [\n    \"{second}\","));
        let zone = text.lines().find(|line| line.starts_with("timezone")).unwrap().to_owned();
        text.replace(&zone, "timezone = \"Asia/Shanghai\"")
    });
    stage.append(&format!(
        "[[offsite]]\nname = \"copy\"\nstore = \"fs\"\noptions = {{ root = \"{copy}\" }}\nafter_backup = true\n\
         [[notify]]\nkind = \"exec\"\ncommand = [\"/bin/true\"]\n"
    ));
    stage
}

/// Returns the ids of all findings that are not ok.
fn not_ok(document: &Value) -> Vec<(&str, &str)> {
    let all = document["findings"].as_array().unwrap().iter();
    let wrong = all.filter(|one| one["status"] != "ok");
    wrong.map(|one| (one["id"].as_str().unwrap(), one["status"].as_str().unwrap())).collect()
}

#[test]
fn a_healthy_stack_has_nothing_to_look_at_and_keeps_no_trace_of_it() {
    let stage = healthy();
    let before = stage.files("repo");
    let document = stage.run(&["doctor", "--json"]).ends(0).json();
    assert_eq!(stage.files("repo"), before);
    let left = not_ok(&document);
    // How full this machine's disk is, is not the stack's.
    let left: Vec<_> = left.into_iter().filter(|(id, _)| id.rsplit('.').next() != Some("room")).collect();
    let expected = ["state_dir.forecast", "repository.forecast", "offsite.copy.forecast"];
    assert_eq!(left, expected.map(|id| (id, "unknown")));
}

#[test]
fn the_screen_shows_the_worst_first_and_ends_with_the_counts() {
    let stage = undrilled();
    stage.edit(|text| {
        let zone = text.lines().find(|line| line.starts_with("timezone")).unwrap().to_owned();
        text.replace(&zone, "timezone = \"Asia/Shanghai\"")
    });
    mode(&stage, "keys/signing.key", 0o640);
    let ran = on_disk(&stage, "256m", "doctor").ends(1);
    assert_findings!(stage, ran.out);
}

#[test]
fn the_document_has_every_finding_with_its_hint() {
    let stage = undrilled();
    let document = stage.run(&["doctor", "--json"]).ends(0).json();
    assert_eq!(document["schema"], "lifeboat.doctor/1");
    for one in document["findings"].as_array().unwrap() {
        let keys: Vec<_> = one.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(keys, ["detail", "hint", "id", "page", "status", "what"]);
        assert_eq!(one["hint"].is_string(), one["status"] != "ok", "{one}");
    }
    assert_eq!(finding(&document, "repository.race")["status"], "ok");
    assert_eq!(finding(&document, "repository.race")["detail"], "3 races of 8");
    assert_eq!(finding(&document, "key.identity")["status"], "warn");
}

#[test]
fn keys_that_others_can_read_are_broken() {
    let stage = undrilled();
    mode(&stage, "keys/signing.key", 0o640);
    mode(&stage, "keys/index.key", 0o604);
    let document = stage.run(&["doctor", "--json"]).ends(1).json();
    for (id, file) in [("key.signing", "signing.key has mode 0640"), ("key.index", "index.key has mode 0604")]
    {
        assert_eq!(finding(&document, id)["status"], "broken");
        assert!(finding(&document, id)["detail"].as_str().unwrap().contains(file), "{document:#}");
    }
}

#[test]
fn a_key_that_is_missing_or_not_believed_is_broken() {
    let stage = undrilled();
    fs::remove_file(stage.path("keys/index.key")).unwrap();
    stage.run(&["--policy", "other.toml", "init", "--root", "other", "--keys", "stranger"]).ends(0);
    fs::rename(stage.path("stranger/signing.key"), stage.path("keys/signing.key")).unwrap();
    let document = stage.run(&["doctor", "--json"]).ends(1).json();
    for (id, detail) in
        [("key.index", "cannot be read"), ("key.signing", "is not among the policy's signers")]
    {
        assert_eq!(finding(&document, id)["status"], "broken");
        assert!(finding(&document, id)["detail"].as_str().unwrap().contains(detail), "{document:#}");
    }
}

#[test]
fn a_secret_and_a_state_folder_out_of_reach_are_broken() {
    let stage = undrilled();
    stage.add_redis(1, "hush");
    fs::remove_file(stage.path("secrets/redis")).unwrap();
    fs::write(stage.path("state"), "a file").unwrap();
    let ran = stage.run(&["doctor", "--json"]).hides("hush");
    let document = ran.ends(20).json();
    for (id, detail) in [
        ("secret.readable", "source redis password: secret file"),
        ("state_dir.writable", "state: "),
        ("source.redis.answers", "secret file"),
    ] {
        assert_eq!(finding(&document, id)["status"], "broken");
        assert!(finding(&document, id)["detail"].as_str().unwrap().contains(detail), "{document:#}");
    }
}

#[test]
fn a_secret_that_others_can_read_is_broken_and_the_policy_is_not() {
    let stage = undrilled();
    let server = Silent::new();
    stage.add_redis(server.port(), "hush");
    drop(server);
    mode(&stage, "lifeboat.toml", 0o644);
    let document = stage.run(&["doctor", "--json"]).ends(20).json();
    assert_eq!(finding(&document, "secret.mode")["status"], "ok");
    mode(&stage, "secrets/redis", 0o644);
    let document = stage.run(&["doctor", "--json"]).hides("hush").ends(20).json();
    let found = finding(&document, "secret.mode");
    assert_eq!(found["status"], "broken");
    assert!(found["hint"].as_str().unwrap().contains("chmod 600"), "{found}");
    assert_eq!(found["page"], "docs/runbook/keys.md#secret-mode");
}

#[test]
fn files_that_are_gone_are_told_by_their_source() {
    let stage = undrilled();
    assert_eq!(
        finding(&stage.run(&["doctor", "--json"]).ends(0).json(), "source.config.readable")["status"],
        "ok"
    );
    fs::rename(stage.path("data"), stage.path("away")).unwrap();
    let document = stage.run(&["doctor", "--json"]).ends(20).json();
    let found = finding(&document, "source.config.answers");
    assert_eq!(found["status"], "broken");
    assert!(found["detail"].as_str().unwrap().contains("/data"), "{found}");
}

#[test]
fn a_name_limits_the_look_and_a_strange_one_is_refused() {
    let stage = healthy();
    let document = stage.run(&["doctor", "config", "--json"]).ends(0).json();
    let all = document["findings"].as_array().unwrap().iter();
    let ids: Vec<&str> = all.map(|one| one["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["source.config.answers", "source.config.readable"]);
    let document = stage.run(&["doctor", "copy", "--json"]).ends(0).json();
    let all = document["findings"].as_array().unwrap();
    assert!(all.iter().all(|one| one["id"].as_str().unwrap().starts_with("offsite.copy.")), "{document:#}");
    stage
        .run(&["doctor", "mysql"])
        .ends(2)
        .tells("no source or place `mysql`")
        .tells("repository, copy, config");
}

#[test]
fn what_the_policy_leaves_out_is_a_warning() {
    let stage = undrilled();
    stage.edit(|text| {
        let text = text.replace("backup = ", "# backup = ");
        ["daily", "weekly", "monthly"]
            .iter()
            .fold(text, |text, rule| text.replace(rule, &format!("# {rule}")))
    });
    let document = stage.run(&["doctor", "--json"]).ends(0).json();
    for id in ["backup", "offsite", "retention", "recipients", "notify"] {
        assert_eq!(finding(&document, &format!("schedule.{id}"))["status"], "warn", "{id}");
    }
}

#[test]
fn a_time_that_a_clock_change_skips_is_named() {
    let stage = undrilled();
    stage.edit(|text| {
        let zone = text.lines().find(|line| line.starts_with("timezone")).unwrap().to_owned();
        text.replace(&zone, "timezone = \"Europe/Berlin\"").replace("0 2 * * *", "30 2 * * *")
    });
    let document = stage.run(&["doctor", "--json"]).ends(0).json();
    let found = finding(&document, "zone.dst");
    assert_eq!(found["status"], "warn");
    let detail = found["detail"].as_str().unwrap();
    assert!(detail.contains("the time of backup (30 2 * * *) is skipped on 2"), "{found}");
}

#[test]
fn a_container_socket_that_is_not_there_breaks_the_drill_only() {
    let stage = healthy();
    stage.edit(|text| text.replace("[schedule]", "[schedule]\ndrill = \"0 3 1 * *\""));
    let nowhere = format!("unix://{}", stage.at("docker.sock"));
    let ran = stage.run_with(&["doctor", "--json"], &[("DOCKER_HOST", nowhere.as_str())], "");
    assert_eq!(finding(&ran.ends(1).json(), "lab.socket")["status"], "broken");
    stage.append("[drill]\nlab = \"process\"\n");
    let ran = stage.run_with(&["doctor", "--json"], &[("DOCKER_HOST", nowhere.as_str())], "");
    assert!(ran.ends(0).json()["findings"].as_array().unwrap().iter().all(|one| one["id"] != "lab.socket"));
}

#[test]
fn a_look_is_remembered_and_one_at_a_single_thing_is_not() {
    let stage = healthy();
    let catalog = || {
        let file =
            stage.files("state").into_iter().find(|file| file.extension().is_some_and(|e| e == "sqlite"));
        lifeboat::catalog::Catalog::open(&file.unwrap()).unwrap().0
    };
    stage.run(&["doctor", "copy"]).ends(0);
    assert_eq!(catalog().observed::<Vec<Finding>>(FINDINGS).unwrap(), None);
    stage.run(&["doctor"]).ends(0);
    let (findings, _) = catalog().observed::<Vec<Finding>>(FINDINGS).unwrap().unwrap();
    assert!(findings.iter().any(|finding| finding.id == "key.signing" && finding.status == Status::Ok));
    for place in ["repository", "copy", "state_dir"] {
        let (room, _) = catalog().observed::<Room>(&room_of(place)).unwrap().unwrap();
        assert!(room.free_bytes <= room.total_bytes && room.full_in_days.is_none(), "{room:?}");
    }
    let (clocks, _) = catalog().observed::<BTreeMap<String, f64>>(CLOCKS).unwrap().unwrap();
    assert_eq!(clocks.into_keys().collect::<Vec<_>>(), ["copy", "repository"]);
    let run = catalog().runs(1).unwrap().remove(0);
    assert_eq!(run.task, Task::of(Job::Doctor));
    let counted = catalog().counts(run.number).unwrap();
    assert!(counted.iter().any(|count| count.about == "copy" && count.what == "stored_bytes"), "{counted:?}");
}

#[test]
fn a_disk_that_fills_is_foretold_from_the_looks_before() {
    let stage = healthy();
    stage.run(&["doctor"]).ends(0);
    let file = stage.files("state").into_iter().find(|file| file.extension().is_some_and(|e| e == "sqlite"));
    let catalog = lifeboat::catalog::Catalog::open(&file.unwrap()).unwrap().0;
    let (room, now) = catalog.observed::<Room>(&room_of("copy")).unwrap().unwrap();
    // A tenth of what is free went each day.
    for days in 1..=6_u32 {
        let at = now - chrono::TimeDelta::days(i64::from(days));
        let run = catalog.begin_run(&Task::of(Job::Doctor), 1, at).unwrap();
        let value = room.free_bytes + room.free_bytes / 10 * u64::from(days);
        let count = Count { about: "copy".into(), what: "free_bytes".into(), value };
        catalog.note_counts(run, &[count]).unwrap();
    }
    drop(catalog);
    let document = stage.run(&["doctor", "copy", "--json"]).ends(0).json();
    let found = finding(&document, "offsite.copy.forecast");
    assert_eq!(found["status"], "warn", "{found}");
    let days = found["detail"].as_str().unwrap();
    assert!(["full in 9 days", "full in 10 days"].contains(&days), "{days}");
}

#[test]
fn where_no_repository_is_nothing_is_written() {
    let stage = undrilled();
    fs::rename(stage.path("repo"), stage.path("away")).unwrap();
    let document = stage.run(&["doctor", "--json"]).ends(30).json();
    assert_eq!(finding(&document, "repository.there")["status"], "broken");
    assert!(!stage.exists("repo"));
    // A mount point without its disk.
    fs::create_dir(stage.path("repo")).unwrap();
    let document = stage.run(&["doctor", "--json"]).ends(1).json();
    assert_eq!(finding(&document, "repository.there")["status"], "broken");
    assert!(stage.files("repo").is_empty());
    assert_eq!(fs::read_dir(stage.path("repo")).unwrap().count(), 0);
}

#[test]
fn every_offsite_is_tried_out_by_its_name() {
    let stage = undrilled();
    fs::create_dir(stage.path("copy")).unwrap();
    let offsite = |name: &str| {
        let root = stage.at(name);
        stage.append(&format!(
            "[[offsite]]\nname = \"{name}\"\nstore = \"fs\"\noptions = {{ root = \"{root}\" }}\n"
        ));
    };
    offsite("copy");
    let document = stage.run(&["doctor", "--json"]).ends(0).json();
    assert_eq!(finding(&document, "offsite.copy.create_only")["status"], "ok");
    offsite("far");
    let document = stage.run(&["doctor", "--json"]).ends(30).json();
    assert_eq!(finding(&document, "offsite.far.answers")["status"], "broken");
    assert_eq!(finding(&document, "offsite.copy.answers")["status"], "ok", "one that is down hides no other");
}

#[test]
fn a_disk_that_is_nearly_full_is_broken_before_a_backup_finds_out() {
    let stage = undrilled();
    let document = on_disk(&stage, "16m", "doctor --json").ends(1).json();
    let room = finding(&document, "repository.room");
    assert_eq!(room["status"], "broken");
    assert!(room["detail"].as_str().unwrap().ends_with(" of 16.0 MiB are free"), "{room}");
    assert_eq!(finding(&document, "repository.list_after_delete")["status"], "ok");
}
