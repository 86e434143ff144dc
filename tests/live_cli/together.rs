//! Several processes that make one snapshot of a bucket together: it is the one that a single process makes, also when
//! one of them is killed and run again.

use std::{
    collections::BTreeMap,
    fs,
    process::{Child, Command},
};

use serde_json::Value;

use crate::{
    buckets::{Bucket, endpoint},
    stage::{Ran, Stage, ran, wait_until},
    town::secret_key,
};

/// Objects in the bucket of a test.
const OBJECTS: usize = 240;
/// Processes that make a snapshot together.
const PARTS: usize = 4;

/// Makes a bucket with objects.
async fn filled(what: &str) -> Bucket {
    let bucket = Bucket::new(what).await;
    for n in 0..OBJECTS {
        let key = format!("2026/{:02}/图 {n:04}.bin", n / 40);
        bucket.put(&key, format!("object {n} ").repeat(n).as_bytes()).await;
    }
    for key in ["+", "a/b", "a-b", "new\nline", "z/", "zz%2F"] {
        bucket.put(key, key.as_bytes()).await;
    }
    bucket
}

/// Makes a stack with one bucket and two folders.
fn stage(bucket: &Bucket) -> Stage {
    let stage = Stage::with_files();
    stage.write("more/file", "more");
    stage.add_files("more", "more");
    stage.secret("s3-id", &std::env::var("S3_ACCESS_KEY").unwrap());
    stage.secret("s3", &secret_key());
    let (id, secret, name) = (stage.at("secrets/s3-id"), stage.at("secrets/s3"), &bucket.name);
    stage.append(&format!(
        "[[source]]\nname = \"minio\"\nkind = \"s3\"\nendpoint = \"{}\"\nbuckets = [\"{name}\"]\n\
         access_key = {{ file = \"{id}\" }}\nsecret_key = {{ file = \"{secret}\" }}\n",
        endpoint(),
    ));
    stage
}

fn words(run: &str, part: usize, of: usize, wait: u32) -> Vec<String> {
    let (shard, wait) = (format!("{part}/{of}"), wait.to_string());
    let words = ["backup", "--json", "--run", run, "--shard", &shard, "--wait", &wait];
    words.map(str::to_owned).to_vec()
}

fn part(stage: &Stage, run: &str, part: usize, of: usize) -> Ran {
    let words = words(run, part, of, 0);
    stage.run(&words.iter().map(String::as_str).collect::<Vec<_>>())
}

fn start(stage: &Stage, run: &str, part: usize, of: usize) -> Child {
    let words = words(run, part, of, 2);
    stage.start(&words.iter().map(String::as_str).collect::<Vec<_>>())
}

/// Runs all parts at the same time; returns what the one of part 0 says.
fn together(stage: &Stage, run: &str) -> Value {
    let all: Vec<Child> = (0..PARTS).map(|number| start(stage, run, number, PARTS)).collect();
    let all: Vec<Ran> =
        all.into_iter().map(|child| ran(&child.wait_with_output().unwrap()).ends(0)).collect();
    for other in &all[1..] {
        assert_eq!(other.json()["status"], "part");
    }
    all[0].json()
}

/// Returns the lines of a snapshot's entries, of all sources.
fn entries(stage: &Stage, id: &str) -> Vec<Value> {
    let listed = stage.run(&["ls", id, "--json"]).ends(0);
    let mut lines: Vec<Value> = listed.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    // Of files only the first snapshot says that they were just written.
    for attrs in lines.iter_mut().filter_map(|line| line["attrs"].as_object_mut()) {
        attrs.remove("fresh");
    }
    assert!(lines.len() > OBJECTS);
    lines
}

/// Checks that two snapshots hold the same entries, in the same order.
#[track_caller]
fn same_entries(stage: &Stage, one: &str, other: &str) {
    let (one, other) = (entries(stage, one), entries(stage, other));
    for (one, other) in one.iter().zip(&other) {
        assert_eq!(one, other);
    }
    assert_eq!(one.len(), other.len());
}

fn source<'a>(report: &'a Value, name: &str) -> &'a Value {
    report["sources"].as_array().unwrap().iter().find(|source| source["name"] == name).unwrap()
}

fn count_of_snapshots(stage: &Stage) -> usize {
    stage.run(&["snapshots", "--json"]).ends(0).json()["snapshots"].as_array().unwrap().len()
}

/// Returns all files below a folder by their paths in it, but for the list of them, whose lines stand as they came.
fn contents(stage: &Stage, folder: &str) -> BTreeMap<String, Vec<u8>> {
    let root = stage.at(folder);
    let name = |path: &std::path::Path| path.strip_prefix(&root).unwrap().to_string_lossy().into_owned();
    let files = stage.files(folder).into_iter().filter(|path| !path.ends_with("ENTRIES.jsonl"));
    files.map(|path| (name(&path), fs::read(&path).unwrap())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn four_processes_make_the_snapshot_that_one_makes() {
    let bucket = filled("together").await;
    let stage = stage(&bucket);
    let first = together(&stage, "first");
    assert_eq!(first["status"], "complete");
    let names: Vec<&str> =
        first["sources"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["minio", "config", "more"]);
    // In another repository, one process.
    let other = self::stage(&bucket);
    let alone = other.run(&["backup", "--json"]).ends(0).json();
    for name in names {
        for what in ["entries", "bytes", "bytes_read", "bytes_added", "status"] {
            assert_eq!(source(&first, name)[what], source(&alone, name)[what], "{what} of {name}");
        }
    }
    // In the same one, nothing of what the four have stored is read again.
    let alone = stage.run(&["backup", "--json"]).ends(0).json();
    let settings_bytes = source(&alone, "minio")["bytes_read"].as_u64().unwrap();
    assert!(settings_bytes < 1000, "only the bucket's settings are read each time: {settings_bytes}");
    let (one, other) = (first["snapshot"].as_str().unwrap(), alone["snapshot"].as_str().unwrap());
    same_entries(&stage, one, other);
    // Divided by the snapshot before, only what changed is read.
    bucket.put("2026/01/图 0041.bin", b"another").await;
    bucket.put("a new one", b"new").await;
    bucket.delete("a/b").await;
    let second = together(&stage, "second");
    assert_eq!(
        (&second["status"], &source(&second, "minio")["bytes_read"]),
        (&"complete".into(), &(10 + settings_bytes).into())
    );
    let after = stage.run(&["backup", "--json"]).ends(0).json();
    assert_eq!(source(&after, "minio")["bytes_read"], settings_bytes);
    let (one, other) = (second["snapshot"].as_str().unwrap(), after["snapshot"].as_str().unwrap());
    same_entries(&stage, one, other);
    stage.run(&["verify", "--read-data"]).ends(0);
    for (id, folder) in [(one, "restored"), (other, "also")] {
        let into = format!("minio={}", stage.at(folder));
        stage
            .run(&["restore", id, "--source", "minio", "--into", &into, "--yes", crate::stage::STACK])
            .ends(0);
    }
    let restored = contents(&stage, "restored");
    assert!(restored.len() > OBJECTS);
    assert_eq!(restored, contents(&stage, "also"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_process_that_is_killed_leaves_no_snapshot_until_its_part_is_made_again() {
    let bucket = filled("killed").await;
    let stage = stage(&bucket);
    // Each is done by itself, so that it is certain who has put what when one dies.
    for number in [1, 3] {
        part(&stage, "night", number, PARTS).ends(0);
    }
    // It is killed when it has begun to store and before its part is there.
    let sessions = || stage.files("repo/sessions").len();
    let before = sessions();
    let mut dies = start(&stage, "night", 2, PARTS);
    wait_until("the process is at work", || sessions() > before);
    dies.kill().unwrap();
    dies.wait().unwrap();
    assert!(!stage.exists("repo/runs/night/part-2.json.zst.age"), "it was too fast to be killed");
    part(&stage, "night", 0, PARTS)
        .ends(1)
        .tells("run `night` lacks part 2 of 4: no snapshot was made")
        .tells("lifeboat backup --run night --shard 2/4");
    assert_eq!(count_of_snapshots(&stage), 0);
    // Others read nothing again, and nobody can make a part of another division.
    assert_eq!(part(&stage, "night", 3, PARTS).ends(0).json()["was_there"], true);
    part(&stage, "night", 2, 3).ends(2).tells("was begun with 4 parts, not 3");
    part(&stage, "night", 2, PARTS).ends(0);
    let made = part(&stage, "night", 0, PARTS).ends(0).json();
    assert_eq!((&made["status"], count_of_snapshots(&stage)), (&"complete".into(), 1));
    // The run has ended: whoever comes late reads nothing and commits nothing.
    assert_eq!(part(&stage, "night", 0, PARTS).ends(0).json()["snapshot"], made["snapshot"]);
    assert_eq!(count_of_snapshots(&stage), 1);
    let alone = stage.run(&["backup", "--json"]).ends(0).json();
    let (one, other) = (made["snapshot"].as_str().unwrap(), alone["snapshot"].as_str().unwrap());
    same_entries(&stage, one, other);
    stage.run(&["verify", "--read-data"]).ends(0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn two_processes_of_one_part_do_no_harm() {
    let bucket = filled("twice").await;
    let stage = stage(&bucket);
    part(&stage, "twice", 0, 2).ends(1);
    // The second policy has a state folder of its own, as another host has: no lock keeps them apart.
    let text = stage.read("lifeboat.toml").replace(&stage.at("state"), &stage.at("other-state"));
    stage.write("other.toml", &text);
    let mut words = words("twice", 1, 2, 0);
    let program = |words: &[String]| -> Command {
        let mut program = stage.program();
        program.args(words).stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        program
    };
    let one = program(&words).spawn().unwrap();
    words.splice(0..0, ["--policy".to_owned(), "other.toml".to_owned()]);
    let two = program(&words).spawn().unwrap();
    let ended = [one, two].map(|child| ran(&child.wait_with_output().unwrap()));
    assert!(ended.iter().any(|ran| ran.exit == 0), "{ended:?}");
    for late in ended.into_iter().filter(|ran| ran.exit != 0) {
        late.ends(11).tells("another process has stored part 1 of run `twice`");
    }
    let made = part(&stage, "twice", 0, 2).ends(0).json();
    let alone = stage.run(&["backup", "--json"]).ends(0).json();
    let (one, other) = (made["snapshot"].as_str().unwrap(), alone["snapshot"].as_str().unwrap());
    same_entries(&stage, one, other);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn what_is_gone_is_judged_for_the_whole_bucket() {
    let bucket = filled("shrunk").await;
    let stage = stage(&bucket);
    together(&stage, "first");
    // A sixth of all, which is most of what one part has: no anomaly of the bucket.
    for n in 0..40 {
        bucket.delete(&format!("2026/00/图 {n:04}.bin")).await;
    }
    assert_eq!(together(&stage, "second")["status"], "complete");
    for n in 40..160 {
        bucket.delete(&format!("2026/{:02}/图 {n:04}.bin", n / 40)).await;
    }
    let all: Vec<Child> = (0..PARTS).map(|number| start(&stage, "third", number, PARTS)).collect();
    let all: Vec<Ran> = all.into_iter().map(|child| ran(&child.wait_with_output().unwrap())).collect();
    assert_eq!(all[1..].iter().map(|ran| ran.exit).collect::<Vec<_>>(), [0, 0, 0]);
    assert_eq!(all[0].exit, 20, "{}", all[0].err);
    let report = all[0].json();
    let minio = source(&report, "minio");
    assert_eq!((&report["status"], &minio["status"]), (&"partial".into(), &"failed".into()));
    assert!(minio["error"].to_string().contains("has lost too much"), "{minio}");
    assert!(minio["error"].to_string().contains("120 of its 206 objects are gone"), "{minio}");
}
