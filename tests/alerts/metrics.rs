//! What `/metrics` and the text file say of a standing.

use std::{collections::BTreeSet, fs, os::unix::fs::PermissionsExt};

use lifeboat::{
    serve::metrics::{METRICS, render, write_textfile},
    status::{PlaceStanding, Standing},
};

use super::{metrics_in, standing};

/// Returns the lines that are samples.
fn samples(text: &str) -> Vec<&str> {
    text.lines().filter(|line| !line.starts_with('#')).collect()
}

#[test]
fn a_full_standing_is_these_metrics() {
    let text = render(&standing::full());
    insta::with_settings!({filters => vec![(env!("CARGO_PKG_VERSION"), "VERSION")]}, {
        insta::assert_snapshot!(text);
    });
}

#[test]
fn every_metric_of_the_list_is_told_of_a_full_standing_and_no_other() {
    let told = metrics_in(&samples(&render(&standing::full())).join("\n"));
    let listed: BTreeSet<String> = METRICS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(told, listed);
    assert!(METRICS.is_sorted(), "a reader looks for a name in its place");
}

#[test]
fn what_is_unknown_has_no_line_and_is_not_0() {
    let text = render(&standing::empty());
    insta::with_settings!({filters => vec![(env!("CARGO_PKG_VERSION"), "VERSION")]}, {
        insta::assert_snapshot!(samples(&text).join("\n"));
    });
}

#[test]
fn what_is_over_is_gone_from_the_next_text() {
    let calm = Standing { incidents: Vec::new(), prune_frozen: None, ..standing::full() };
    let (before, after) = (render(&standing::full()), render(&calm));
    for (name, was) in [
        (r#"lifeboat_incidents{stack="im-suite",kind="anomaly",urgency="page"}"#, 1.0),
        (r#"lifeboat_prune_frozen{stack="im-suite",store="repository"}"#, 1.0),
    ] {
        assert!(before.contains(&format!("{name} {was:?}\n")), "{before}");
        assert!(after.contains(&format!("{name} 0.0\n")), "{after}");
    }
}

#[test]
fn no_label_names_what_is_inside_a_source_or_a_message() {
    let text = render(&standing::full());
    for secret in ["salaries", "hunter2", "/opt", ".env", "half of"] {
        assert!(!text.contains(secret), "{secret} in {text}");
    }
    let labels: BTreeSet<&str> = samples(&text)
        .into_iter()
        .flat_map(|line| line.split(['{', ',']).filter_map(|part| part.split_once("=\"")))
        .map(|(label, _)| label)
        .collect();
    let known = [
        "job", "kind", "result", "stack", "state", "store", "urgency", "verdict", "version", "what", "where",
    ];
    assert_eq!(labels, BTreeSet::from(known));
}

#[test]
fn names_that_need_it_are_escaped_and_no_line_is_there_twice() {
    let mut odd = Standing { stack: "a\"b\\c\nd".to_owned(), ..standing::full() };
    let twin: PlaceStanding = odd.places[0].clone();
    odd.places.push(twin);
    let text = render(&odd);
    assert!(text.contains(r#"stack="a\"b\\c\nd""#), "{text}");
    let lines = samples(&text);
    let names: BTreeSet<&str> = lines.iter().filter_map(|line| Some(line.rsplit_once(' ')?.0)).collect();
    assert_eq!(names.len(), lines.len());
}

#[test]
fn the_text_file_is_replaced_whole_for_everybody_to_read() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("lifeboat.prom");
    fs::write(&path, "old").expect("a file");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("a mode");
    write_textfile(&path, "new\n").expect("written");
    assert_eq!(fs::read_to_string(&path).expect("read"), "new\n");
    assert_eq!(fs::metadata(&path).expect("metadata").permissions().mode() & 0o777, 0o644);
    assert_eq!(fs::read_dir(dir.path()).expect("list").count(), 1, "nothing else is left there");
}

#[test]
fn a_text_file_that_cannot_be_written_is_told_with_its_name() {
    let dir = tempfile::tempdir().expect("a folder");
    let failure = write_textfile(&dir.path().join("gone/lifeboat.prom"), "x").expect_err("no folder");
    assert!(failure.chain()[0].contains("gone/lifeboat.prom"), "{:?}", failure.chain());
}
