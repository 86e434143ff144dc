//! A restore of which the server or the program itself is killed is not lost.

use std::time::Duration;

use mysql_async::{Conn, prelude::Queryable};

use crate::{
    stage::ran,
    support::{Product, Server},
    town::Town,
};

/// Lets every new session of an ordinary account wait, once rows are in, until the session that is returned ends.
async fn hold(server: &Server) -> Conn {
    let mut holder = server.conn().await;
    holder.query_drop("START TRANSACTION").await.unwrap();
    holder.query_drop("SELECT * FROM holder.gate FOR UPDATE").await.unwrap();
    server.run(["SET GLOBAL init_connect = 'CALL holder.hold()'"]).await;
    holder
}

/// Waits until a session is held.
async fn held(server: &Server, restore: &mut std::process::Child) {
    let sql = "SELECT CONCAT(COUNT(*)) FROM performance_schema.data_lock_waits";
    for _ in 0..600 {
        if server.ask(sql).await != "0" {
            return;
        }
        if restore.try_wait().unwrap().is_some() {
            let mut said = String::new();
            std::io::Read::read_to_string(restore.stderr.as_mut().unwrap(), &mut said).unwrap();
            panic!("the restore has ended: {said}");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("no session is held");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_restore_outlives_its_server_and_can_be_continued_when_it_was_killed_itself() {
    let town = Town::with_policy("resume").await;
    town.run(&["backup"]).ends(0);
    let db = &town.db;
    let other = Server::empty(Product::Mysql).await;
    other
        .run([
            "CREATE DATABASE holder".to_owned(),
            "CREATE TABLE holder.gate (id INT PRIMARY KEY)".to_owned(),
            "INSERT INTO holder.gate VALUES (1)".to_owned(),
            "CREATE PROCEDURE holder.hold() SQL SECURITY DEFINER BEGIN DECLARE CONTINUE HANDLER FOR SQLEXCEPTION \
             BEGIN END; SET @rows = 0; SELECT COUNT(*) INTO @rows FROM lifeboat_restore.done; \
             IF @rows > 0 THEN SELECT id INTO @rows FROM holder.gate FOR UPDATE; END IF; END"
                .to_owned(),
            "CREATE USER tom IDENTIFIED BY 'cat'".to_owned(),
            format!("GRANT ALL ON {db}.* TO tom"),
            "GRANT ALL ON lifeboat_restore.* TO tom".to_owned(),
            "GRANT EXECUTE ON holder.* TO tom".to_owned(),
        ])
        .await;
    let into = format!("mysql=mysql://tom@127.0.0.1:{}", other.config.port);
    let words = ["restore", "latest", "--source", "mysql", "--into", &into, "--yes", "demo", "--json"];
    let secret = [("LIFEBOAT_INTO_PASSWORD", "cat")];
    let start = || {
        let mut program = town.stage.program();
        program
            .args(words)
            .envs(secret)
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped());
        program.spawn().unwrap()
    };
    // The server falls, and comes back.
    let _holder = hold(&other).await;
    let mut restore = start();
    held(&other, &mut restore).await;
    other.kill();
    other.start().await;
    let output = tokio::task::spawn_blocking(|| restore.wait_with_output()).await.unwrap().unwrap();
    let restored = ran(&output).ends(0);
    assert!(restored.err.contains("it goes on in"), "{}", restored.err);
    assert_eq!(restored.json()["restored"][0]["verified"], "digests");
    // The program falls.
    other.run([format!("DROP DATABASE {db}")]).await;
    let holder = hold(&other).await;
    let mut restore = start();
    held(&other, &mut restore).await;
    restore.kill().unwrap();
    restore.wait().unwrap();
    other.run(["SET GLOBAL init_connect = ''"]).await;
    holder.disconnect().await.unwrap();
    let refused = town.stage.run_with(&words, &secret, "").ends(21);
    assert!(refused.out.contains("--source mysql --resume"), "{} {}", refused.out, refused.err);
    let plan = [&words[..], &["--resume", "--plan"]].concat();
    let plan = town.stage.run_with(&plan, &secret, "").ends(0).json();
    assert_eq!(plan["plan"]["sources"][0]["continues"], true);
    let continued = town.stage.run_with(&[&words[..], &["--resume"]].concat(), &secret, "").ends(0).json();
    assert_eq!(continued["restored"][0]["verified"], "digests");
    let left =
        "SELECT CONCAT(COUNT(*)) FROM information_schema.schemata WHERE schema_name = 'lifeboat_restore'";
    assert_eq!(other.ask(left).await, "0");
    town.end().await;
}
