//! A file system that runs full under a backup: nothing older is harmed, and room is all that it needs.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
};

use crate::stage::Stage;

/// Bytes of the disk.
const DISK_BYTES: u64 = 16 * 1024 * 1024;

/// An ext4 of 16 MiB in a file, mounted for as long as it is held.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(stage: &Stage, at: &str) -> Self {
        let (image, folder) = (stage.path("disk.img"), stage.path(at));
        std::fs::File::create(&image).unwrap().set_len(DISK_BYTES).unwrap();
        std::fs::create_dir_all(&folder).unwrap();
        // Without room that only root may use: tests run as root.
        run(Command::new("mkfs.ext4").args(["-q", "-m", "0"]).arg(&image));
        run(Command::new("mount").args(["-o", "loop"]).args([&image, &folder]));
        Self(folder)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[track_caller]
fn run(command: &mut Command) {
    let out = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(out.status.success(), "{command:?} (this needs root): {}", String::from_utf8_lossy(&out.stderr));
}

/// Returns bytes that no compression makes fewer, others for each seed.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..len).map(|_| next()).collect()
}

/// A stack whose repository lies on a small disk and holds one snapshot of `data/small`.
fn stack_on_a_small_disk() -> (SmallDisk, Stage) {
    let stage = Stage::bare();
    let disk = SmallDisk::mount(&stage, "disk");
    stage.run(&["init", "--root", "disk/repo", "--keys", "keys", "--stack", "demo"]).ends(0);
    stage
        .edit(|text| text.replace("\nkeys = ", &format!("\nstate_dir = \"{}\"\nkeys = ", stage.at("state"))));
    stage.write("data/small", "it fits\n");
    stage.add_files("config", "data");
    stage.snapshot();
    (disk, stage)
}

#[track_caller]
fn restores(stage: &Stage, when: &str, into: &str) {
    let target = format!("config={}", stage.at(into));
    stage.run(&["restore", when, "--into", &target, "--yes", "demo"]).ends(0);
}

#[track_caller]
fn snapshots(stage: &Stage) -> usize {
    stage.run(&["snapshots", "--json"]).ends(0).json()["snapshots"].as_array().unwrap().len()
}

#[test]
#[ignore = "mounts a small disk, which needs root: run fixtures/test"]
fn a_disk_that_runs_full_harms_no_snapshot_and_room_is_all_it_needs() {
    let (disk, stage) = stack_on_a_small_disk();
    // Somebody else fills the disk too.
    std::fs::write(stage.path("disk/other"), noise(1, 6 << 20)).unwrap();
    std::fs::write(stage.path("data/large"), noise(2, 9 << 20)).unwrap();
    for _ in 0..2 {
        stage.run(&["backup"]).ends(30).tells("the store has no space left").tells("hint: Free space");
    }
    assert_eq!(snapshots(&stage), 1);
    assert_eq!(std::fs::read_dir(stage.path("disk/repo/tmp")).unwrap().count(), 0, "half a pack stays");
    stage.run(&["verify", "--read-data"]).ends(0);
    restores(&stage, "latest", "out");
    assert_eq!(stage.read(&in_folder(&stage, "out", "small")), "it fits\n");

    std::fs::remove_file(stage.path("disk/other")).unwrap();
    let second = stage.snapshot();
    assert_eq!(snapshots(&stage), 2);
    restores(&stage, &second, "again");
    let large = stage.path(&in_folder(&stage, "again", "large"));
    assert!(std::fs::read(large).unwrap() == noise(2, 9 << 20), "other bytes came back");
    stage.run(&["verify", "--read-data"]).ends(0);
    drop(disk);
}

/// Returns where a restored file lies below a folder of the stage.
fn in_folder(stage: &Stage, folder: &str, name: &str) -> String {
    let found = stage.files(folder).into_iter().find(|file| file.ends_with(name)).unwrap();
    found.strip_prefix(stage.path("")).unwrap().to_str().unwrap().to_owned()
}

#[test]
#[ignore = "mounts a small disk, which needs root: run fixtures/test"]
fn doctor_sees_a_small_disk_and_a_full_one() {
    let (_disk, stage) = stack_on_a_small_disk();
    stage.run(&["doctor"]).ends(1);
    fill(&stage);
    let document = stage.run(&["doctor", "--json"]).ends(30).json();
    let answers = document["findings"].as_array().unwrap().iter().find(|f| f["id"] == "repository.answers");
    assert!(answers.unwrap()["detail"].as_str().unwrap().contains("no space left"), "{document:#}");
}

/// Fills the disk to the last block. A file system keeps some back until what was written is synced, so this
/// ends when a new file takes nothing more.
fn fill(stage: &Stage) {
    for n in 0.. {
        let Ok(mut file) = std::fs::File::create(stage.path(&format!("disk/other-{n}"))) else { return };
        let full = std::io::copy(&mut std::io::repeat(1), &mut file).unwrap_err();
        assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
        file.sync_all().unwrap();
        if file.metadata().unwrap().len() == 0 {
            return;
        }
    }
}
