//! The two faces: what goes to which stream, when it is quiet, when it has colours, and who has gone away.

use std::{
    fs::OpenOptions,
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
};

use crate::{
    assert_screen,
    stage::{Stage, closed_port, ran},
};

#[test]
fn help_lists_the_exit_codes_and_every_verb() {
    let stage = Stage::bare();
    let help = stage.run(&["--help"]).ends(0);
    assert_eq!(help.err, "");
    for part in ["Exit codes:", "130  interrupted", "22  tampering", "restore", "verify", "LIFEBOAT_POLICY"] {
        assert!(help.out.contains(part), "`{part}` is missing:\n{}", help.out);
    }
    assert!(stage.run(&["--version"]).ends(0).out.starts_with("lifeboat "));
}

#[test]
fn completions_are_there_for_each_shell() {
    let stage = Stage::bare();
    for shell in ["bash", "zsh", "fish"] {
        let script = stage.run(&["completions", shell]).ends(0).out;
        assert!(script.contains("lifeboat") && script.lines().count() > 20, "{shell}");
    }
    stage.run(&["completions", "tcsh"]).ends(2).tells("possible values");
}

#[test]
fn a_wrong_command_line_is_told_in_both_faces() {
    let stage = Stage::bare();
    for words in [&["bckup"][..], &[], &["backup", "--tagg", "x"], &["--quiet", "-v", "snapshots"]] {
        let ran = stage.run(words).ends(2);
        assert_eq!(ran.out, "");
        assert!(ran.err.contains("Usage: lifeboat"), "{words:?}: {}", ran.err);
    }
    let json = stage.run(&["bckup", "--json"]).ends(2).json();
    assert_eq!((&json["exit"], &json["code"]), (&2.into(), &"usage".into()));
}

#[test]
fn lines_and_no_escapes_go_to_what_is_no_terminal() {
    let stage = Stage::with_files();
    let ran = stage.run(&["backup"]).ends(0);
    assert!(!ran.err.contains('\u{1b}') && !ran.out.contains('\u{1b}'), "{}{}", ran.err, ran.out);
    assert_screen!(stage, format!("{}---\n{}", ran.err, ran.out));
}

#[test]
fn quiet_says_only_what_is_wrong() {
    let stage = Stage::with_files();
    let into = format!("config={}", stage.at("out"));
    let verbs: [&[&str]; 5] = [
        &["--quiet", "policy", "check"],
        &["--quiet", "backup"],
        &["--quiet", "verify", "--read-data"],
        &["--quiet", "catalog", "rebuild"],
        &["--quiet", "restore", "latest", "--into", &into, "--yes", "demo"],
    ];
    for words in verbs {
        let ran = stage.run(words).ends(0);
        assert_eq!((ran.out.as_str(), ran.err.as_str()), ("", ""), "{words:?}");
    }
    // What was asked for is not noise, and neither is trouble.
    assert!(stage.run(&["--quiet", "snapshots"]).ends(0).out.contains("complete"));
    stage.add_redis(closed_port(), "hush");
    let partial = stage.run(&["--quiet", "backup"]).ends(20).tells("redis");
    assert!(partial.out.contains("partial"), "{}", partial.out);
}

#[test]
fn verbose_says_every_step() {
    let stage = Stage::with_files();
    let plain = stage.run(&["backup"]).ends(0).err;
    let verbose = stage.run(&["-v", "backup"]).ends(0).err;
    assert!(verbose.contains("committed ") && !plain.contains("committed "), "{verbose}");
}

#[test]
fn json_is_one_document_whatever_else_is_asked() {
    let stage = Stage::with_files();
    for noise in ["--quiet", "-v"] {
        stage.run(&["--json", noise, "backup"]).ends(0).json();
        stage.run(&["--json", noise, "verify", "--read-data"]).ends(0).json();
        stage.run(&["--json", noise, "snapshots"]).ends(0).json();
    }
    std::fs::remove_dir_all(stage.path("repo")).unwrap();
    let json = stage.run(&["--json", "snapshots"]).ends(10).json();
    assert_eq!(json["schema"], "lifeboat.failure/1");
    assert_eq!((&json["exit"], &json["code"]), (&10.into(), &"no_repository".into()));
    assert!(json["error"].is_array() && json["hints"][0].is_string());
}

/// Runs the program in a terminal of its own and returns what was shown there.
fn in_terminal(stage: &Stage, words: &str, variables: &[(&str, &str)]) -> String {
    let line = format!("{} {words}", env!("CARGO_BIN_EXE_lifeboat"));
    let mut script = Command::new("script");
    script.args(["-qec", &line, "/dev/null"]).current_dir(stage.path("")).env("TERM", "xterm");
    script.env("LIFEBOAT_POLICY", "lifeboat.toml").env_remove("NO_COLOR").envs(variables.iter().copied());
    ran(&script.stdin(Stdio::null()).output().unwrap()).out
}

#[test]
fn a_terminal_gets_colours_unless_told_otherwise() {
    let stage = Stage::new();
    let shown = in_terminal(&stage, "ls latest", &[]);
    assert!(shown.contains("\u{1b}[31;1merror:\u{1b}[0m there is no snapshot yet"), "{shown:?}");
    let plain = in_terminal(&stage, "ls latest", &[("NO_COLOR", "1")]);
    assert!(plain.contains("error: there is no snapshot yet"), "{plain:?}");
    let empty = in_terminal(&stage, "ls latest", &[("NO_COLOR", "")]);
    assert!(empty.contains("\u{1b}[31;1m"), "an empty NO_COLOR is none: {empty:?}");
}

#[test]
fn a_reader_of_stdout_that_has_enough_is_no_failure() {
    let (stage, _) = Stage::with_snapshot();
    for words in [
        &["ls", "latest"][..],
        &["ls", "latest", "--json"],
        &["snapshots"],
        &["completions", "bash"],
        &["--help"],
    ] {
        let mut child = stage.start(words);
        // The reader is gone before the first line, or after it.
        drop(child.stdout.take());
        let ran = ran(&child.wait_with_output().unwrap());
        assert_eq!((ran.exit, ran.err.as_str()), (0, ""), "{words:?}");
    }
}

#[test]
fn a_reader_of_stderr_that_goes_away_stops_no_backup() {
    let stage = Stage::with_files();
    stage.add_redis(closed_port(), "hush");
    let mut child = stage.start(&["-v", "backup"]);
    let mut line = String::new();
    BufReader::new(child.stderr.take().unwrap()).read_line(&mut line).unwrap();
    let ran = ran(&child.wait_with_output().unwrap()).ends(20);
    assert!(ran.out.contains("is partial"), "{}", ran.out);
}

#[test]
fn output_that_a_full_disk_swallows_is_a_failure() {
    let (stage, _) = Stage::with_snapshot();
    for words in [&["ls", "latest"][..], &["snapshots", "--json"], &["completions", "fish"]] {
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let output = stage.program().args(words).stdout(full).output().unwrap();
        ran(&output).ends(1).tells("the output cannot be written").tells("No space left on device");
    }
}
