//! A backup that is stopped or killed leaves nothing that looks whole, and nothing to unlock.

use std::{fs::File, io::Write as _};

use rustix::process::Signal;

use crate::stage::{Silent, Stage, ran, send, wait_until};

/// Bytes of a source that fills several packs: the first one lies in the store long before the last.
const LARGE_BYTES: usize = 192 << 20;

/// Writes bytes that nothing can compress.
fn write_large(stage: &Stage) {
    std::fs::create_dir_all(stage.path("large")).unwrap();
    let mut file = File::create(stage.path("large/file")).unwrap();
    let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
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
    write_large(&stage);
    stage.add_files("large", "large");
    for (signal, exit) in [(Signal::INT, 130), (Signal::TERM, 130), (Signal::KILL, 128)] {
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
