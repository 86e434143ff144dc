//! The plan of a restore into a server, and a range of keys, from the command line.

use crate::{
    support::{Product, Server},
    town::Town,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_plan_tells_of_tables_and_rows_and_a_range_of_keys_comes_back() {
    let town = Town::with_policy("plan").await;
    town.run(&["backup"]).ends(0);
    let users = format!("{}.users", town.db);
    let checksum = format!("CHECKSUM TABLE {users}, {}.files", town.db);
    let before = town.mysql.ask(&checksum).await;
    let words = ["restore", "latest", "--source", "mysql", "--only", town.db.as_str(), "--plan"];
    let shown = town.run(&words).ends(0);
    shown.says("mysql: 2 tables, 70 rows; they take about");
    let json = town.run(&[&words[..], &["--json"]].concat()).ends(0).json();
    let found = &json["plan"]["sources"][0]["preflight"];
    assert_eq!((&found["tables"], &found["rows"]), (&2.into(), &70.into()), "{json}");

    let range = format!("{users}[10..19]");
    let part = ["restore", "latest", "--source", "mysql", "--only", range.as_str()];
    let in_the_way = format!("table {users}: 10 rows with id from 10 to 19, included");
    let json = town.run(&[&part[..], &["--plan", "--json"]].concat()).ends(0).json();
    assert_eq!(json["plan"]["sources"][0]["in_the_way"], serde_json::json!([in_the_way]), "{json}");
    town.run(&[&part[..], &["--yes", "demo"]].concat()).ends(21).tells(&in_the_way);
    assert_eq!(town.mysql.ask(&checksum).await, before, "neither a plan nor a refusal touches anything");

    let sum = format!("SELECT SUM(CRC32(CONCAT(id, name))) FROM {users}");
    let before = town.mysql.ask(&sum).await;
    town.mysql.run([format!("UPDATE {users} SET name = 'wrong' WHERE id BETWEEN 10 AND 19")]).await;
    town.mysql.run([format!("INSERT INTO {users} VALUES (99, 'kept')")]).await;
    town.run(&[&part[..], &["--replace", "--yes", "demo"]].concat()).ends(0);
    town.mysql.run([format!("DELETE FROM {users} WHERE id = 99 AND name = 'kept'")]).await;
    assert_eq!(town.mysql.ask(&sum).await, before);
    let table = format!("mysql/{}/users[10..19]", town.db);
    town.run(&["export", "latest", &table, "--format", "tsv"]).ends(2).tells("can be restored, not exported");
    town.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn what_another_product_cannot_hold_is_refused_before_anything_is_touched() {
    let town = Town::with_policy("unfit").await;
    let db = &town.db;
    town.mysql
        .run([
            format!("CREATE TABLE {db}.functional (id INT PRIMARY KEY, KEY k ((id + 1)))"),
            format!("ALTER TABLE {db}.users COLLATE utf8mb4_0900_ai_ci"),
        ])
        .await;
    town.run(&["backup"]).ends(0);
    let other = Server::shared(Product::Mariadb).await;
    let into = format!("mysql=mysql://root@127.0.0.1:{}", other.config.port);
    let password = std::env::var("MARIADB_URL").unwrap();
    let password = password.split([':', '@']).nth(2).unwrap();
    let variables = [("LIFEBOAT_INTO_PASSWORD", password)];
    let words =
        ["restore", "latest", "--source", "mysql", "--only", db.as_str(), "--into", &into, "--yes", "demo"];
    let refused = town.stage.run_with(&words, &variables, "").ends(1);
    refused.tells(&format!("table {db}.functional: MariaDB has no indexes on expressions"));
    let there =
        format!("SELECT CONCAT(COUNT(*)) FROM information_schema.schemata WHERE schema_name = '{db}'");
    assert_eq!(other.ask(&there).await, "0", "nothing was made");
    let words = [&words[..], &["--leave-out-unfit"]].concat();
    town.stage
        .run_with(&words, &variables, "")
        .ends(0)
        .says("was left out: MariaDB has no indexes on expressions");
    let count = other.ask(&format!("SELECT CONCAT(COUNT(*)) FROM {db}.users")).await;
    other.run([format!("DROP DATABASE {db}")]).await;
    assert_eq!(count, "50");
    town.end().await;
}
