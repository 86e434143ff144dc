//! A backup that is stopped or killed leaves nothing that looks whole, and nothing to unlock.

use std::{fs::File, io::Write as _};

use rustix::process::Signal;

use crate::stage::{Silent, Stage, ran, send, wait_until};

/// Bytes of a source that fills several packs: the first one lies in the store long before the last.
const LARGE_BYTES: usize = 192 << 20;

/// Writes bytes that nothing can compress and that are in no pack of another round.
fn write_large(stage: &Stage, round: u64) {
    std::fs::create_dir_all(stage.path("large")).unwrap();
    let mut file = File::create(stage.path("large/file")).unwrap();
    let mut state: u64 = 0x9e37_79b9_7f4a_7c15 ^ round;
    let mut block = vec![0; 1 << 20];
    for _ in 0..LARGE_BYTES / block.len() {
        for word in block.chunks_exact_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        file.write_all(&block).unwrap();
    }
}

#[test]
fn a_backup_that_waits_for_a_server_stops_at_once() {
    for (signal, name) in [(Signal::INT, "SIGINT"), (Signal::TERM, "SIGTERM")] {
        let stage = Stage::with_files();
        let server = Silent::new();
        stage.add_redis(server.port(), "hush");
        for words in [&["backup"][..], &["backup", "--json"]] {
            let child = stage.start(words);
            let caller = server.caller();
            send(&child, signal);
            let ran = ran(&child.wait_with_output().unwrap()).ends(130).tells(&format!("stopped by {name}"));
            if words.len() > 1 {
                assert_eq!(ran.json()["code"], "interrupted");
            }
            drop(caller);
        }
        assert_eq!(stage.run(&["snapshots"]).ends(0).out, "there is no snapshot yet\n");
        stage.run(&["backup", "config"]).ends(0);
    }
}

#[test]
fn a_backup_that_dies_among_its_packs_is_no_snapshot_and_locks_nobody_out() {
    let stage = Stage::new();
    write_large(&stage, 0);
    stage.add_files("large", "large");
    for (round, (signal, exit)) in
        [(Signal::INT, 130), (Signal::TERM, 130), (Signal::KILL, 128)].into_iter().enumerate()
    {
        write_large(&stage, round as u64);
        let before = stage.files("repo/packs").len();
        let child = stage.start(&["backup"]);
        wait_until("a pack is stored", || stage.files("repo/packs").len() > before);
        send(&child, signal);
        ran(&child.wait_with_output().unwrap()).ends(exit);
        assert_eq!(stage.run(&["snapshots"]).ends(0).out, "there is no snapshot yet\n");
        stage.run(&["verify"]).ends(0);
    }
    stage.run(&["backup"]).ends(0);
    stage.run(&["verify", "--read-data"]).ends(0);
}

#[test]
fn a_backup_that_is_asked_to_stop_finishes_its_packs_and_the_next_one_takes_them_over() {
    let stage = Stage::new();
    write_large(&stage, 7);
    stage.add_files("large", "large");
    let child = stage.start(&["backup"]);
    wait_until("a pack is stored", || !stage.files("repo/packs").is_empty());
    send(&child, Signal::TERM);
    ran(&child.wait_with_output().unwrap()).ends(130);
    assert!(!stage.files("repo/index").is_empty(), "what was stored is in an index");
    let whole = stage.run(&["backup", "--json"]).ends(0).json();
    let added = whole["bytes_added"].as_u64().unwrap();
    assert!(added < LARGE_BYTES as u64 * 9 / 10, "{added} bytes were sent again");
}
