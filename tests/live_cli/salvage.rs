//! A damaged repository on real servers: what is whole comes back, what is not is named, and nothing that stands there
//! is taken away for it.

use std::{fs, path::PathBuf};

use serde_json::Value;

use crate::town::Town;

/// Takes the packs of one run away; returns them.
fn lose(town: &Town, packs: &[PathBuf]) {
    for pack in packs {
        fs::remove_file(pack).unwrap();
    }
    // What the host remembers of them must not help.
    fs::remove_dir_all(town.stage.at("state")).unwrap();
}

/// Backs up and returns the packs that this run has added.
fn back_up(town: &Town) -> Vec<PathBuf> {
    let before = town.stage.files("repo/packs");
    town.run(&["backup"]).ends(0);
    town.stage.files("repo/packs").into_iter().filter(|pack| !before.contains(pack)).collect()
}

/// Loses the data pack among `packs`, the larger one here.
fn data_of(mut packs: Vec<PathBuf>) -> Vec<PathBuf> {
    packs.sort_by_key(|pack| {
        let bytes = fs::read(pack).unwrap();
        bytes.windows(9).filter(|window| window == b"-> X25519").count()
    });
    packs.truncate(1);
    packs
}

fn entries(json: &Value) -> Vec<String> {
    let missing = json["missing"].as_array().unwrap().iter();
    missing.map(|one| one["entry"].as_str().unwrap_or("all of it").to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_table_is_restored_without_the_rows_that_are_lost() {
    let town = Town::new("lostrows").await;
    let db = &town.db;
    town.take_only(&town.mysql_source(town.mysql.config.port, &town.mysql_password()));
    town.mysql.run([format!("CREATE VIEW {db}.names AS SELECT name FROM {db}.users")]).await;
    back_up(&town);
    // The rows of one table change; only they lie in the new pack.
    town.mysql.run([format!("UPDATE {db}.users SET name = 'new' WHERE id = 7")]).await;
    let second = data_of(back_up(&town));
    lose(&town, &second);
    // Nothing gives way to rows that cannot come.
    let count = |table: &str| format!("SELECT CONCAT(COUNT(*)) FROM {db}.{table}");
    for words in [&["restore", "latest", "--plan"][..], &["restore", "latest", "--replace", "--yes", "demo"]]
    {
        town.run(words).ends(40).tells("nothing was touched").tells("--salvage");
        assert_eq!(town.mysql.ask(&count("users")).await, "50");
    }
    // What is wanted and whole comes.
    let words = ["restore", "latest", "--replace", "--yes", "demo", "--only", &format!("{db}.files")];
    town.run(&words).ends(0);
    town.mysql.run([format!("DROP DATABASE {db}")]).await;
    town.run(&["restore", "latest", "--yes", "demo"]).ends(40).tells("nothing was touched");
    let json = town.run(&["restore", "latest", "--salvage", "--yes", "demo", "--json"]).ends(40).json();
    assert!(entries(&json).iter().all(|entry| entry.starts_with(&format!("{db}/users/data."))), "{json}");
    assert_eq!(town.mysql.ask(&count("files")).await, "20");
    assert_eq!(town.mysql.ask(&count("users")).await, "0", "its only piece is lost");
    assert_eq!(town.mysql.ask(&count("names")).await, "0", "the view is there");
    town.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_table_whose_definition_is_lost_stays_as_it_stands_with_what_needs_it() {
    let town = Town::new("losttable").await;
    let db = &town.db;
    town.take_only(&town.mysql_source(town.mysql.config.port, &town.mysql_password()));
    back_up(&town);
    town.mysql.run([format!("ALTER TABLE {db}.users ADD COLUMN age INT")]).await;
    town.mysql.run([format!("CREATE VIEW {db}.names AS SELECT name FROM {db}.users")]).await;
    let second = data_of(back_up(&town));
    lose(&town, &second);
    let words = ["restore", "latest", "--salvage", "--replace", "--yes", "demo", "--json"];
    let json = town.run(&words).ends(40).json();
    let missing = entries(&json);
    assert!(missing.contains(&format!("{db}/users/table.sql")), "{missing:?}");
    let count = |table: &str| format!("SELECT CONCAT(COUNT(*)) FROM {db}.{table}");
    assert_eq!(town.mysql.ask(&count("files")).await, "20");
    assert_eq!(town.mysql.ask(&count("users")).await, "50", "what cannot come back is not removed");
    town.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_bucket_keeps_what_the_snapshot_has_lost() {
    let town = Town::new("lostobject").await;
    town.take_only(&town.s3_source(&crate::buckets::endpoint(), &crate::town::secret_key()));
    back_up(&town);
    town.bucket.put("a/20.bin", b"a new one").await;
    let second = data_of(back_up(&town));
    lose(&town, &second);
    town.bucket.delete("a/3.bin").await;
    town.bucket.put("stray", b"not in the snapshot").await;
    let words = ["restore", "latest", "--salvage", "--replace", "--yes", "demo", "--json"];
    let json = town.run(&words).ends(40).json();
    let missing = entries(&json);
    assert!(missing.len() == 1 && missing[0].ends_with("a/20.bin"), "{missing:?}");
    let keys = town.bucket.keys().await;
    assert_eq!(keys.len(), 22, "all that stood there stands, and one came back: {keys:?}");
    assert!(json["restored"][0]["notes"].to_string().contains("nothing was removed"), "{json}");
    // Into an empty place the object is left out, and the others are whole.
    for key in keys {
        town.bucket.delete(&key).await;
    }
    town.run(&["restore", "latest", "--salvage", "--yes", "demo"]).ends(40);
    assert_eq!(town.bucket.keys().await.len(), 20);
    town.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_damaged_dump_touches_no_redis_and_holds_up_no_other_source() {
    let town = Town::new("lostdump").await;
    town.take_only(&town.redis_source(town.redis_port(), crate::redis_lab::PASSWORD));
    town.stage.write("data/app.env", "COLOUR=blue\n");
    town.stage.add_files("config", "data");
    back_up(&town);
    // Only the dump changes, so the new pack holds nothing else.
    let () = town.redis.run(0, &[b"SET", b"late", b"comer"]).await;
    let before = town.redis.sizes().await;
    let second = data_of(back_up(&town));
    lose(&town, &second);
    let words = ["restore", "latest", "--salvage", "--replace", "--yes", "demo", "--json"];
    let json = town.run(&words).ends(40).json();
    assert_eq!(entries(&json), ["dump.rdb", "server.json"], "{json}");
    assert_eq!(json["restored"][0]["source"], "config");
    assert_eq!(town.redis.sizes().await, before, "the server was not touched");
    town.end().await;
}
