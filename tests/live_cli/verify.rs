//! What a restore has written is read back, and a difference is no success.

use crate::{
    support::{Product, Server},
    town::Town,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_row_that_is_not_as_in_the_snapshot_fails_the_restore_and_is_named() {
    let town = Town::with_policy("verify").await;
    town.run(&["backup"]).ends(0);
    let db = &town.db;
    let other = Server::empty(Product::Mysql).await;
    // What every new session does on this server: it changes one row as soon as that is there.
    other
        .run([
            "CREATE DATABASE spoiler".to_owned(),
            format!(
                "CREATE PROCEDURE spoiler.spoil() SQL SECURITY DEFINER BEGIN \
                 DECLARE CONTINUE HANDLER FOR SQLEXCEPTION BEGIN END; \
                 UPDATE {db}.users SET name = 'spoilt' WHERE id = 7; END"
            ),
            "CREATE USER tom IDENTIFIED BY 'cat'".to_owned(),
            format!("GRANT ALL ON {db}.* TO tom"),
            "GRANT EXECUTE ON spoiler.* TO tom".to_owned(),
            "SET GLOBAL init_connect = 'CALL spoiler.spoil()'".to_owned(),
        ])
        .await;
    let into = format!("mysql=mysql://tom@127.0.0.1:{}", other.config.port);
    let restore = |more: &[&str]| {
        let words = ["restore", "latest", "--source", "mysql", "--into", &into, "--yes", "demo", "--replace"];
        town.stage.run_with(&[&words, more].concat(), &[("LIFEBOAT_INTO_PASSWORD", "cat")], "")
    };
    let spoilt = restore(&[]).ends(1);
    assert!(spoilt.err.contains(&format!("{db}.users id=7 differs: name")), "{}", spoilt.err);
    // Only what was restored is compared.
    let only = format!("{db}.files");
    assert_eq!(restore(&["--only", &only, "--json"]).ends(0).json()["restored"][0]["verified"], "digests");
    for (how, word) in [("counts", "counts"), ("none", "no")] {
        assert_eq!(restore(&["--verify", how, "--json"]).ends(0).json()["restored"][0]["verified"], word);
    }
    town.end().await;
}
