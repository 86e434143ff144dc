//! What was stored comes back: all of it, a part of it, and on another server.

use std::{
    io::Write,
    process::{Command, Stdio},
};

use crate::{
    buckets::{Bucket, ODD_KEYS, endpoint},
    stage::Stage,
    support::{Product, Server},
    town::{Town, secret_key},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn all_sources_come_back_after_the_worst_day() {
    let town = Town::with_policy("all").await;
    let before = town.contents().await;
    let first = town.run(&["backup", "--json"]).ends(0).json();
    assert_eq!(first["status"], "complete", "{first}");
    let mysql = first["sources"].as_array().unwrap().iter().find(|source| source["name"] == "mysql").unwrap();
    let marks = &mysql["point"]["marks"];
    assert!(marks["lock_mode"].is_string() && marks["lock_ms"].is_string(), "{mysql}");
    // A second one of the same data adds nearly nothing; a small Redis dump is one chunk and tells its time.
    let second = town.run(&["backup", "--json"]).ends(0).json();
    for source in second["sources"].as_array().unwrap().iter().filter(|source| source["name"] != "redis") {
        assert!(source["bytes_added"].as_u64().unwrap() < 4096, "{source}");
    }
    assert!(second["bytes_added"].as_u64().unwrap() < first["bytes_added"].as_u64().unwrap(), "{second}");
    town.run(&["verify", "--read-data"]).ends(0);
    town.lose_all().await;
    let words = ["--source", "mysql", "--source", "redis", "--source", "minio", "--yes", "demo", "--json"];
    let json = town.run(&[&["restore", "latest"], &words[..]].concat()).ends(0).json();
    let restored = json["restored"].as_array().unwrap();
    assert!(
        restored.len() == 3
            && restored.iter().all(|one| (one["verified"] == "digests") == (one["source"] != "minio")),
        "{json}"
    );
    assert_eq!(town.contents().await, before);
    town.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn one_table_comes_back_alone() {
    let town = Town::with_policy("table").await;
    let told = town.run(&["backup"]).ends(0);
    assert!(told.out.contains("mysql: read at one instant, lock "), "{}{}", told.out, told.err);
    let users = town.mysql.ask(&format!("SELECT SUM(CRC32(CONCAT(id, name))) FROM {}.users", town.db)).await;
    town.mysql.run([format!("DROP TABLE {}.users", town.db)]).await;
    town.mysql.run([format!("DELETE FROM {}.files WHERE id > 4", town.db)]).await;
    let only = format!("{}.users", town.db);
    let words = ["restore", "latest", "--source", "mysql", "--only", &only, "--yes", "demo"];
    town.run(&words).ends(0);
    let back = town.mysql.ask(&format!("SELECT SUM(CRC32(CONCAT(id, name))) FROM {}.users", town.db)).await;
    assert_eq!(back, users);
    let files = town.mysql.ask(&format!("SELECT CONCAT(COUNT(*)) FROM {}.files", town.db)).await;
    assert_eq!(files, "5", "what was not asked for stays as it is");
    town.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_database_comes_back_on_another_server() {
    let town = Town::with_policy("into").await;
    town.run(&["backup"]).ends(0);
    let other = Server::shared(Product::Mariadb).await;
    let into = format!("mysql=mysql://root@127.0.0.1:{}", other.config.port);
    let password = std::env::var("MARIADB_URL").unwrap();
    let password = password.split([':', '@']).nth(2).unwrap();
    let words = ["restore", "latest", "--source", "mysql", "--into", &into, "--yes", "demo"];
    let variables = [("LIFEBOAT_INTO_PASSWORD", password)];
    let ran = town.stage.run_with(&words, &variables, "").ends(0).hides(password);
    // Another product tells the same definitions in other words.
    assert!(ran.out.contains("digests") && ran.out.contains("the definitions were not"), "{}", ran.out);
    let count = other.ask(&format!("SELECT CONCAT(COUNT(*)) FROM {}.users", town.db)).await;
    other.run([format!("DROP DATABASE {}", town.db)]).await;
    assert_eq!(count, "50");
    town.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn objects_of_any_name_come_back_in_another_bucket() {
    let town = Town::new("otherbucket").await;
    town.take_only(&town.s3_source(&endpoint(), &secret_key()));
    let longest = "密".repeat(341) + "k";
    for key in ODD_KEYS.iter().copied().chain([longest.as_str()]) {
        town.bucket.put(key, key.as_bytes()).await;
    }
    let before = town.bucket.all().await;
    assert!(before.contains_key("../climb") && before.contains_key(&longest));
    town.run(&["backup"]).ends(0);
    let other = Bucket::absent("into-other");
    let into = format!("minio={}/{}", endpoint(), other.name);
    town.run(&["restore", "latest", "--into", &into, "--yes", "demo"]).ends(0);
    assert_eq!(other.all().await, before);
    assert_eq!(town.bucket.all().await, before, "the bucket of the source is as it was");
    town.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn each_source_can_be_exported_and_restored_into_a_folder() {
    let town = Town::with_policy("export").await;
    town.run(&["backup"]).ends(0);
    let mut rdb = town.stage.program();
    let rdb = rdb.args(["export", "latest", "redis", "--format", "rdb"]).output().unwrap();
    assert!(rdb.status.success() && rdb.stdout.starts_with(b"REDIS"), "{rdb:?}");
    let table = format!("mysql/{}/users", town.db);
    let tsv = town.run(&["export", "latest", &table, "--format", "tsv"]).ends(0).out;
    assert_eq!(tsv.lines().count(), 50, "{tsv}");
    let folder = town.stage.at("folder");
    let into = format!("minio={folder}");
    town.run(&["restore", "latest", "--source", "minio", "--into", &into, "--yes", "demo"]).ends(0);
    let objects = town.stage.files("folder");
    assert!(objects.iter().any(|file| file.ends_with("a/7.bin")), "{objects:?}");
    town.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_script_played_by_the_stock_client_is_the_database() {
    let town = Town::with_policy("script").await;
    town.run(&["backup"]).ends(0);
    let sum = format!("SELECT CONCAT(SUM(CRC32(CONCAT(id, name))), '/', COUNT(*)) FROM {}.users", town.db);
    let users = town.mysql.ask(&sum).await;
    let definition = format!("SHOW CREATE TABLE {}.users", town.db);
    let before = town.mysql.ask(&definition).await;
    let script = town.run(&["export", "latest", "mysql", "--format", "sql"]).ends(0).out;
    assert!(script.lines().last().unwrap().starts_with("-- Dump completed: "), "{script}");
    town.mysql.run([format!("DROP DATABASE {}", town.db)]).await;
    let url = std::env::var("MYSQL_URL").unwrap();
    let password = url.split([':', '@']).nth(2).unwrap();
    let mut client = Command::new("docker")
        .args(["exec", "-i", "-e", "MYSQL_PWD", "lifeboat-mysql", "mysql", "-uroot"])
        .env("MYSQL_PWD", password)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    client.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    assert!(client.wait().unwrap().success());
    assert_eq!(town.mysql.ask(&sum).await, users);
    assert_eq!(town.mysql.ask(&definition).await, before);
    town.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_repository_may_lie_in_an_object_store() {
    let bucket = Bucket::new("repository").await;
    let stage = Stage::bare();
    stage.write("id", &std::env::var("S3_ACCESS_KEY").unwrap());
    stage.write("secret", &secret_key());
    let options = [
        format!("bucket={}", bucket.name),
        format!("endpoint={}", endpoint()),
        "region=us-east-1".to_owned(),
        format!("access_key_id=file:{}", stage.at("id")),
        format!("secret_access_key=file:{}", stage.at("secret")),
    ];
    let mut words = vec!["init", "--store", "s3", "--keys", "keys", "--stack", "demo"];
    words.extend(options.iter().flat_map(|option| ["--option", option.as_str()]));
    stage.run(&words).ends(0).hides(&secret_key());
    assert!(!stage.read("lifeboat.toml").contains(&secret_key()));
    stage
        .edit(|text| text.replace("\nkeys = ", &format!("\nstate_dir = \"{}\"\nkeys = ", stage.at("state"))));
    stage.write("data/app.env", "COLOUR=blue\n");
    stage.add_files("config", "data");
    stage.run(&["backup"]).ends(0).hides(&secret_key());
    let second = stage.run(&["backup", "--json"]).ends(0).json();
    assert_eq!(second["packs_added"].as_u64().unwrap(), u64::from(second["bytes_added"] != 0), "{second}");
    // A host that knows nothing finds all of it in the store.
    std::fs::remove_dir_all(stage.at("state")).unwrap();
    stage.run(&["verify", "--read-data"]).ends(0);
    let into = format!("config={}", stage.at("out"));
    stage.run(&["restore", "latest", "--into", &into, "--yes", "demo"]).ends(0);
    let back = format!("out{}", stage.at("data/app.env"));
    assert_eq!(stage.read(&back), "COLOUR=blue\n");
    stage.run(&words).ends(2);
}
