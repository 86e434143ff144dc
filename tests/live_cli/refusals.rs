//! Restores that must not happen, and that touch nothing when they do not.

use crate::{stage::Ran, town::Town};

const SOURCES: [&str; 6] = ["--source", "mysql", "--source", "redis", "--source", "minio"];

fn restore(town: &Town, words: &[&str]) -> Ran {
    town.run(&[&["restore", "latest"], &SOURCES[..], words].concat())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn what_is_in_the_way_is_named_and_left_alone() {
    let town = Town::with_policy("full").await;
    town.run(&["backup"]).ends(0);
    let () = town.redis.run(0, &[b"SET", b"newer", b"than the snapshot"]).await;
    town.bucket.put("newer", b"than the snapshot").await;
    town.mysql.run([format!("INSERT INTO {}.users VALUES (99, 'newer')", town.db)]).await;
    let before = town.contents().await;
    let ran = restore(&town, &["--yes", "demo"]).ends(21).tells("the target is not empty").tells("--replace");
    for what in ["mysql: ", "redis: ", "minio: ", town.db.as_str()] {
        assert!(ran.err.contains(what), "{what}: {}", ran.err);
    }
    // Neither a plan nor a wrong name nor no name at all touches anything.
    let plan = restore(&town, &["--plan", "--replace"]).ends(0).out;
    assert!(plan.contains("WILL BE REMOVED"), "{plan}");
    let plan = restore(&town, &["--plan", "--json"]).ends(0).json();
    assert_eq!(plan["plan"]["sources"].as_array().unwrap().len(), 3, "{plan}");
    restore(&town, &["--replace", "--yes", "production"]).ends(2).tells("nothing was touched");
    let words = [&["restore", "latest", "--replace"], &SOURCES[..]].concat();
    town.stage.run_with(&words, &[], "production\n").ends(2).tells("nothing was touched");
    restore(&town, &["--replace"]).ends(2).tells("nobody typed the stack's name");
    assert_eq!(town.contents().await, before);
    town.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_target_that_is_down_is_found_before_another_is_touched() {
    let town = Town::with_policy("target").await;
    town.run(&["backup"]).ends(0);
    let before = town.contents().await;
    let port = crate::stage::closed_port();
    let into = format!("minio=http://127.0.0.1:{port}");
    let ran = restore(&town, &["--into", &into, "--replace", "--yes", "demo"]).ends(20);
    assert!(ran.err.contains(&port.to_string()), "{}", ran.err);
    assert_eq!(town.contents().await, before);
    town.end().await;
}
