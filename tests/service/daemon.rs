//! `lifeboat serve`.

use std::os::unix::net::UnixDatagram;

use chrono::Duration;
use rustix::process::Signal;

use crate::{
    host::{Left, Service, kept_slot, scheduled, set_schedule, snapshots},
    stage::{Silent, Stage, closed_port, wait_until},
};

const NIGHTLY: &str = "backup = \"0 2 * * *\"";

#[test]
fn a_night_that_was_missed_is_made_up_for_at_once_told_and_over_when_it_is_done() {
    let stage = scheduled(NIGHTLY);
    kept_slot(&stage, "backup", Duration::days(3));
    let service = Service::start(&stage);
    service.says("backup ended: ok");
    service.says("incident opened: backup did not run at ");
    service.says("incident is over: backup did not run at ");
    assert_eq!(snapshots(&stage), 1, "once, not three times");
    assert_eq!(service.get("/healthz").0, 200);
    let (status, ready) = service.get("/readyz");
    assert_eq!(status, 200);
    assert!(ready.contains("\"verdict\":\"good\""), "{ready}");
    let (status, metrics) = service.get("/metrics");
    assert_eq!(status, 200);
    assert!(metrics.contains("lifeboat_last_success_timestamp_seconds{"), "{metrics}");
    assert_eq!(service.get("/").0, 200);
    assert_eq!(service.get("/etc/passwd").0, 404);
    let standing = stage.run(&["status", "--json", "--check"]).ends(0).json();
    assert_eq!(standing["verdict"], "good");
    assert_eq!(standing["tasks"][0]["state"], "ok");
    service.stop();
}

#[test]
fn a_policy_that_cannot_be_used_changes_nothing_and_is_told_until_a_good_one_comes() {
    let stage = scheduled(NIGHTLY);
    let service = Service::start(&stage);
    let good = stage.read("lifeboat.toml");
    stage.edit(|policy| policy.replace("[retention]", "[retention]\ndayly = 7"));
    service.send(Signal::HUP);
    service.says("the policy cannot be used");
    service.says("incident opened: the policy's file cannot be used, the older one still counts");
    assert_eq!(service.get("/healthz").0, 200);
    stage.write("lifeboat.toml", &good.replace("0 2 * * *", "0 3 * * *"));
    service.send(Signal::HUP);
    service.says("the policy was read again");
    service.says("incident is over: the policy's file cannot be used");
    stage.write("lifeboat.toml", &good.replace("stack = \"demo\"", "stack = \"other\""));
    service.send(Signal::HUP);
    service.says("it names another stack, repository or state folder");
    service.stop();
}

#[test]
fn a_backup_by_hand_and_one_of_the_service_never_meet() {
    let stage = scheduled(NIGHTLY);
    let server = Silent::new();
    stage.add_redis(server.port(), "hush");
    kept_slot(&stage, "backup", Duration::days(2));
    let service = Service::start(&stage);
    let caller = server.caller();
    stage.run(&["backup"]).ends(11).tells("another backup of stack `demo` is at work");
    let standing = stage.run(&["status", "--json"]).ends(0).json();
    assert!(standing["tasks"][0]["running_since"].is_string(), "{standing}");
    service.stop();
    drop(caller);
}

#[test]
fn a_service_that_is_stopped_at_work_ends_well_and_the_next_one_takes_it_up() {
    let stage = scheduled(NIGHTLY);
    let server = Silent::new();
    stage.add_redis(server.port(), "hush");
    kept_slot(&stage, "backup", Duration::days(2));
    let service = Service::start(&stage);
    let caller = server.caller();
    service.stop();
    drop(caller);
    stage.edit(|policy| policy.split("[[source]]\nname = \"redis\"").next().unwrap().to_owned());
    let service = Service::start(&stage);
    service.says("backup ended: ok");
    service.stop();
    assert_eq!(snapshots(&stage), 1);
}

#[test]
fn a_service_that_is_killed_at_work_loses_nothing_and_the_next_one_says_so() {
    let stage = scheduled(NIGHTLY);
    stage.snapshot();
    let server = Silent::new();
    let whole = stage.read("lifeboat.toml");
    stage.add_redis(server.port(), "hush");
    kept_slot(&stage, "backup", Duration::days(2));
    let mut service = Service::start(&stage);
    let caller = server.caller();
    service.send(Signal::KILL);
    service.gone();
    drop(caller);
    assert_eq!(snapshots(&stage), 1);
    stage.run(&["verify"]).ends(0);
    stage.write("lifeboat.toml", &whole);
    let service = Service::start(&stage);
    service.says("backup died with the service before this one");
    service.says("backup begins, try 2");
    service.says("backup ended: ok");
    service.stop();
    assert_eq!(snapshots(&stage), 2);
}

#[test]
fn a_source_that_is_down_is_a_failed_run_at_its_slot_and_an_incident() {
    let stage = scheduled(&format!("{NIGHTLY}\nretries = 0"));
    stage.edit(|policy| policy.split("[[source]]\nname = \"config\"").next().unwrap().to_owned());
    stage.add_redis(closed_port(), "hush");
    kept_slot(&stage, "backup", Duration::days(2));
    let service = Service::start(&stage);
    service.says("backup ended: source_down");
    service.says("incident opened: backup failed");
    let standing = stage.run(&["status", "--json"]).ends(0).json();
    assert_eq!((&standing["verdict"], &standing["tasks"][0]["state"]), (&"danger".into(), &"failed".into()));
    stage.run(&["status", "--check"]).ends(1);
    let open = stage.run(&["incidents", "--json"]).ends(0).json();
    assert_eq!((&open["open"][0]["kind"], &open["open"][0]["urgency"]), (&"failed".into(), &"page".into()));
    service.stop();
}

#[test]
fn a_catalog_that_breaks_or_goes_is_made_again_and_the_past_is_recalled() {
    let stage = scheduled(NIGHTLY);
    stage.snapshot();
    stage.snapshot();
    for file in stage.files("state") {
        std::fs::remove_file(file).unwrap();
    }
    let service = Service::start(&stage);
    service.says("the catalog is new: 2 backups were recalled from the store");
    let standing = stage.run(&["status", "--json"]).ends(0).json();
    assert_eq!((&standing["tasks"][0]["state"], &standing["verdict"]), (&"ok".into(), &"good".into()));
    assert_eq!(standing["places"][0]["snapshots"], 2);
    assert!(standing["sources"][0]["point"].is_string());
    // Now somebody tidies up while the service holds it open.
    for file in stage.files("state").into_iter().filter(|file| file.to_string_lossy().contains("sqlite")) {
        std::fs::remove_file(file).unwrap();
    }
    service.says("the catalog was broken or gone and was made again");
    service.says_times("2 backups were recalled from the store", 2);
    wait_until("the service is well again", || service.get("/readyz").0 == 200);
    stage.run(&["backup"]).ends(0);
    service.stop();
}

#[test]
fn systemd_hears_that_it_is_ready_alive_and_at_its_end() {
    let stage = scheduled(NIGHTLY);
    let path = stage.at("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
    let service = Service::start_with(&stage, &[("NOTIFY_SOCKET", &path)]);
    let hears = |wanted: &str| {
        let mut buffer = [0; 4096];
        loop {
            let count = socket.recv(&mut buffer).unwrap();
            if String::from_utf8_lossy(&buffer[..count]).contains(wanted) {
                return;
            }
        }
    };
    hears("READY=1");
    hears("WATCHDOG=1");
    hears("STATUS=next run at ");
    service.stop();
    hears("STOPPING=1");
}

#[test]
fn what_keeps_it_from_starting_is_told() {
    let stage = Stage::with_files();
    set_schedule(&stage, "");
    stage.run(&["serve"]).ends(2).tells("nothing is on the schedule");
    set_schedule(&stage, NIGHTLY);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    stage.run(&["serve", "--listen", &address]).ends(1).tells("another service may be at work there");
}

#[test]
fn the_log_is_json_with_the_time_the_level_and_the_task_and_holds_no_secret() {
    let stage = scheduled(NIGHTLY);
    stage.write("secrets/redis", "s3cr3t-of-redis");
    kept_slot(&stage, "backup", Duration::days(2));
    let service = Service::start(&stage);
    service.says("backup ended: ok");
    for line in service.lines() {
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert!(
            line["time"].is_string() && line["level"].is_string() && line["message"].is_string(),
            "{line}"
        );
        assert!(!line.to_string().contains("s3cr3t"), "{line}");
    }
    assert!(service.lines().iter().any(|line| line.contains("\"task\":\"backup\"")));
    service.stop();
}

#[test]
fn what_a_killed_drill_left_is_removed_when_the_service_starts_though_none_is_on_the_schedule() {
    let stage = scheduled(NIGHTLY);
    stage.snapshot();
    stage.append("[drill]\nlab = \"process\"\n");
    let left = Left::by_a_killed_drill(&stage);
    let service = Service::start(&stage);
    left.is_gone(&stage);
    service.says("removed 1 labs that drills had left behind");
    service.stop();
}
