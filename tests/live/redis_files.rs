//! Dumps as files: what is exported is taken by the stock programs, and what is stored again is little.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::Command};

use lifeboat::{
    flow::{Likeness, Source, conformance::read_all},
    redis::compare::RedisLikeness,
};

use crate::{
    redis_lab::{Lab, PASSWORD},
    stage::Stage,
};

/// The servers that are here, the major version that decides what they can hold, and their check of dumps.
const SERVERS: [(&str, u8, &str); 3] =
    [("redis7", 7, "redis-check-rdb"), ("redis8", 8, "redis-check-rdb"), ("valkey9", 7, "valkey-check-rdb")];

/// Returns a stack with the server as its only source.
fn stage_of(lab: &Lab) -> Stage {
    let stage = Stage::new();
    stage.write("secret", PASSWORD);
    let (url, file) = (lab.config().url, stage.at("secret"));
    stage.append(&format!(
        "[[source]]\nname = \"redis\"\nkind = \"redis\"\nurl = \"{url}\"\npassword = {{ file = \"{file}\" }}\n"
    ));
    stage
}

/// Exports in a format and returns the bytes.
fn export(stage: &Stage, format: &str) -> Vec<u8> {
    let out = stage.program().args(["export", "latest", "redis", "--format", format]).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    out.stdout
}

/// Returns a folder that a server in a container may write to.
fn shared() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    open_up(folder.path());
    folder
}

fn open_up(path: &Path) {
    let mode = if path.is_dir() { 0o777 } else { 0o666 };
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            open_up(&entry.unwrap().path());
        }
    }
}

/// Checks that two servers hold the same, in all that their version keeps.
async fn hold_the_same(one: Box<dyn Source>, two: Box<dyn Source>) {
    let mut seen = Vec::new();
    for source in [one, two] {
        let mut reading = read_all(source).await.unwrap();
        let dump = reading.entries.remove("dump.rdb").unwrap();
        assert!(dump.trailer.contains_key("digest_exact") && dump.trailer["order"] == "key");
        seen.push(RedisLikeness.canonical(dump).unwrap());
    }
    assert_eq!(RedisLikeness.differences(&seen[0], &seen[1]), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn an_exported_dump_is_taken_by_the_stock_programs() {
    for (image, major, check) in SERVERS {
        let from = Lab::start_image(image, None, &["--requirepass", PASSWORD]).await;
        from.fill(major).await;
        let stage = stage_of(&from);
        stage.run(&["backup"]).ends(0);
        let folder = shared();
        fs::write(folder.path().join("export.rdb"), export(&stage, "rdb")).unwrap();
        open_up(folder.path());
        let settings = [
            "--dir",
            "/shared",
            "--dbfilename",
            "export.rdb",
            "--appendonly",
            "no",
            "--requirepass",
            PASSWORD,
        ];
        let to = Lab::start_image(image, Some(folder.path()), &settings).await;
        let checked = to.exec(&[check, "/shared/export.rdb"]).expect("it ends with 0");
        assert!(checked.contains("RDB looks OK"), "{checked}");
        hold_the_same(from.source(), to.source()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn an_exported_append_only_file_starts_a_fresh_server() {
    for (image, major, _) in SERVERS {
        let own = ["--appendfilename", "im.aof", "--requirepass", PASSWORD];
        let from = Lab::start_image(image, None, &own).await;
        from.fill(major).await;
        let stage = stage_of(&from);
        stage.run(&["backup"]).ends(0);
        let folder = shared();
        fs::write(stage.path("aof.tar"), export(&stage, "aof")).unwrap();
        let tar =
            Command::new("tar").arg("-xf").arg(stage.path("aof.tar")).arg("-C").arg(folder.path()).status();
        assert!(tar.unwrap().success());
        open_up(folder.path());
        let settings = [&["--dir", "/shared", "--appendonly", "yes"][..], &own].concat();
        let mut to = Lab::start_image(image, Some(folder.path()), &settings).await;
        hold_the_same(from.source(), to.source()).await;
        // It goes on from there as from a base of its own.
        let () = to.say(0, "SET later x").await;
        let () = from.say(0, "SET later x").await;
        to.restart().await;
        hold_the_same(from.source(), to.source()).await;
    }
}

/// Returns how many bytes a backup added to the repository's packs.
fn added_bytes(stage: &Stage) -> u64 {
    let packs =
        || -> u64 { stage.files("repo/packs").iter().map(|pack| fs::metadata(pack).unwrap().len()).sum() };
    let before = if stage.exists("repo/packs") { packs() } else { 0 };
    stage.run(&["backup"]).ends(0);
    packs() - before
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_restart_and_new_keys_store_little_again() {
    let mut lab = Lab::start(7).await;
    let keys = |from: u32, count: u32, version: u32| {
        let mut pipe = redis::pipe();
        for n in from..from + count {
            let value: String =
                (0..4).map(|part| hex::encode(mixed(n * 31 + version * 7 + part).to_be_bytes())).collect();
            pipe.cmd("SET").arg(format!("im:session:{n:07}")).arg(value).ignore();
        }
        pipe
    };
    let () = keys(0, 60_000, 0).query_async(&mut lab.connect(0).await).await.unwrap();
    let stage = stage_of(&lab);
    let first = added_bytes(&stage);
    let percent = |stage: &Stage| added_bytes(stage) * 100 / first;
    let same = percent(&stage);
    let () = keys(60_000, 600, 0).query_async(&mut lab.connect(0).await).await.unwrap();
    let appended = percent(&stage);
    lab.restart().await;
    let url = lab.config().url;
    stage.edit(|text| {
        let at = text.rfind("url = ").unwrap();
        let end = at + text[at..].find('\n').unwrap();
        format!("{}url = \"{url}\"{}", &text[..at], &text[end..])
    });
    let restarted = percent(&stage);
    for n in (0..600).map(|n| mixed(n) % 60_000) {
        let () = keys(n, 1, 1).query_async(&mut lab.connect(0).await).await.unwrap();
    }
    let spread = percent(&stage);
    println!(
        "{first} bytes; same {same} %, appended {appended} %, restarted {restarted} %, spread {spread} %"
    );
    assert!(same <= 5 && appended <= 5 && restarted <= 5, "{same} {appended} {restarted}");
    assert!(spread <= 75, "{spread}");
}

/// Returns a number that looks like chance, the same each time.
fn mixed(n: u32) -> u32 {
    let n = (n ^ (n >> 16)).wrapping_mul(0x045d_9f3b);
    (n ^ (n >> 16)).wrapping_mul(0x045d_9f3b) ^ n
}
