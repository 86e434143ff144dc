//! `lifeboat export`: bytes to stdout and nothing else.

use std::process::{Command, Stdio};

use crate::stage::{Stage, ran};

fn entry(stage: &Stage, ending: &str) -> String {
    let listed = stage.run(&["ls", "latest"]).ends(0).out;
    let paths = listed.lines().filter_map(|line| line.split_whitespace().last());
    paths.filter(|path| path.ends_with(ending)).map(str::to_owned).next().unwrap()
}

#[test]
fn raw_gives_the_bytes_of_one_entry() {
    let (stage, _) = Stage::with_snapshot();
    let path = entry(&stage, "nginx.conf");
    let out = stage.run(&["export", "latest", &path, "--format", "raw"]).ends(0).out;
    assert_eq!(out, stage.read("data/conf/nginx.conf"));
}

#[test]
fn tar_gives_all_entries_in_an_archive_that_tar_reads() {
    let (stage, _) = Stage::with_snapshot();
    let mut export = stage.program();
    let tar = export.args(["export", "latest", "config", "--format", "tar"]).output().unwrap();
    assert!(tar.status.success());
    std::fs::write(stage.path("out.tar"), &tar.stdout).unwrap();
    let listed = Command::new("tar").arg("-tf").arg(stage.path("out.tar")).output().unwrap();
    let listed = ran(&listed).ends(0).out;
    assert!(listed.contains("data/conf/nginx.conf") && listed.contains("data/app.env"), "{listed}");
}

#[test]
fn what_fits_nothing_or_too_much_is_told_on_stderr_and_leaves_stdout_empty() {
    let (stage, _) = Stage::with_snapshot();
    let cases: [(&[&str], &str); 6] = [
        (&["config", "--format", "raw"], "entries fit, this form takes one"),
        (&["config/nowhere", "--format", "raw"], "is not in snapshot"),
        (&["nosuch", "--format", "raw"], "has no source `nosuch`"),
        (&["config", "--format", "rdb"], "no entry of this source can be exported as rdb"),
        (&["config", "--format", "sql"], "hint: "),
        (&["No Source", "--format", "raw"], "begins with no source"),
    ];
    for (words, why) in cases {
        for face in [&[][..], &["--json"]] {
            let ran =
                stage.run(&[&["export", "latest"], words, face].concat()).ends(2).tells(why).tells("hint: ");
            assert_eq!(ran.out, "", "{words:?}");
        }
    }
}

#[test]
fn a_reader_that_goes_away_is_a_failure_and_no_panic() {
    let (stage, _) = Stage::with_snapshot();
    let path = entry(&stage, "nginx.conf");
    let mut child = stage
        .program()
        .args(["export", "latest", &path, "--format", "raw"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let ran = ran(&child.wait_with_output().unwrap()).ends(1);
    assert!(ran.err.contains("the output cannot be written") && !ran.err.contains("panic"), "{}", ran.err);
}

#[test]
fn an_archive_whose_bytes_are_damaged_ends_with_forty_and_is_no_whole_archive() {
    let (stage, _) = Stage::with_snapshot();
    crate::verify::flip_data_pack(&stage);
    let mut export = stage.program();
    let tar = export.args(["export", "latest", "config", "--format", "tar"]).output().unwrap();
    assert_eq!(tar.status.code(), Some(40));
    assert!(!tar.stdout.ends_with(&[0; 1024]), "an archive that broke off must not look whole");
}

#[test]
fn accounts_go_with_a_script_of_a_whole_source() {
    let (stage, _) = Stage::with_snapshot();
    for (what, format) in [("config", "tar"), ("config/data", "sql")] {
        let ran = stage.run(&["export", "latest", what, "--accounts", "--format", format]).ends(2);
        ran.tells("--accounts goes with --format sql and a whole source");
    }
}
