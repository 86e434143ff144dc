//! What is exported for other tools is what is stored, in its order.

use std::{
    io::Write,
    process::{Command, Stdio},
};

use serde_json::Value;

use crate::{
    stage::Stage,
    support::{Product, Server, own},
};

/// Makes a stack of one database that holds a table of so many rows that it is read in pieces.
async fn stage(server: &Server, db: &str) -> Stage {
    let ten = "(SELECT 0 AS n UNION ALL SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3 UNION ALL SELECT 4 UNION ALL \
               SELECT 5 UNION ALL SELECT 6 UNION ALL SELECT 7 UNION ALL SELECT 8 UNION ALL SELECT 9)";
    let number = "a.n + b.n * 10 + c.n * 100 + d.n * 1000 + e.n * 10000 + f.n * 100000";
    server
        .run([
            format!("DROP DATABASE IF EXISTS {db}"),
            format!("CREATE DATABASE {db} CHARACTER SET utf8mb4"),
            format!(
                "CREATE TABLE {db}.t (id INT PRIMARY KEY, `odd ``name` VARCHAR(40), l VARCHAR(9) CHARACTER SET latin1, \
                 f FLOAT, b BIT(9), e ENUM('x', 'y'), s SET('p', 'q'), h VARBINARY(20), j JSON, d DATETIME(3), \
                 g INT AS (id + 1))"
            ),
            format!("CREATE TABLE {db}.other (id INT PRIMARY KEY)"),
            format!("INSERT INTO {db}.other VALUES (1)"),
            format!(
                "INSERT INTO {db}.t (id, `odd ``name`, l, f, b, e, s, h, j, d) SELECT {number}, \
                 CONCAT('\\t密信\\n\\\\', {number}), 'é', 0.1, b'100000001', 'y', 'p,q', UNHEX('00090A5CFF'), \
                 '{{\"a\": [1, null]}}', '2025-01-02 03:04:05.678' \
                 FROM {ten} a, {ten} b, {ten} c, {ten} d, {ten} e, (SELECT 0 AS n UNION ALL SELECT 1) f"
            ),
            format!("UPDATE {db}.t SET l = NULL, j = NULL, f = NULL, h = '' WHERE id % 3 = 0"),
        ])
        .await;
    let Some(lifeboat::policy::SecretRef::File(password)) = &server.config.password else { unreachable!() };
    let stage = Stage::new();
    stage.append(&format!(
        "[[source]]\nname = \"mysql\"\nkind = \"mysql\"\nport = {}\nuser = \"root\"\ndatabases = [\"{db}\"]\n\
         password = {{ file = \"{}\" }}\nexclude = [\"accounts\"]\n",
        server.config.port,
        password.display()
    ));
    stage.run(&["backup"]).ends(0);
    stage
}

/// Builds the statement that docs/mysql.md describes from `table.json`.
fn load_statement(into: &str, layout: &Value) -> String {
    let (mut fields, mut sets) = (Vec::new(), Vec::new());
    for (at, column) in layout["columns"].as_array().unwrap().iter().enumerate() {
        let name = format!("`{}`", column["name"].as_str().unwrap().replace('`', "``"));
        let value = match column["codec"].as_str().unwrap() {
            "raw" | "f64" => {
                fields.push(name);
                continue;
            }
            "hex" => format!("UNHEX(@c{at})"),
            "bit" => format!("CAST(CONV(@c{at}, 16, 10) AS UNSIGNED)"),
            "enum" | "set" => format!("CAST(@c{at} AS UNSIGNED)"),
            "text" => format!("CONVERT(@c{at} USING utf8mb4)"),
            other => panic!("{other} is not described"),
        };
        fields.push(format!("@c{at}"));
        sets.push(format!("{name} = {value}"));
    }
    format!(
        "LOAD DATA LOCAL INFILE '/dev/stdin' INTO TABLE {into} CHARACTER SET binary FIELDS TERMINATED BY '\\t' \
         ESCAPED BY '\\\\' LINES TERMINATED BY '\\n' ({}) SET {}",
        fields.join(", "),
        sets.join(", ")
    )
}

async fn a_table_goes_through_tab_separated_rows(product: Product) {
    let server = Server::shared(product).await;
    let db = own("tsv");
    let stage = stage(&server, &db).await;
    let table = format!("mysql/{db}/t");
    let exported = stage.program().args(["export", "latest", &table, "--format", "tsv"]).output().unwrap();
    assert!(exported.status.success(), "{exported:?}");
    let ids = exported.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let ids: Vec<u32> = ids
        .map(|line| {
            std::str::from_utf8(line.split(|byte| *byte == b'\t').next().unwrap()).unwrap().parse().unwrap()
        })
        .collect();
    assert!(ids.len() == 200_000 && ids.is_sorted(), "all rows come, in the order of the key");

    let layout =
        stage.run(&["export", "latest", &format!("{table}/table.json"), "--format", "raw"]).ends(0).out;
    server.run([format!("CREATE TABLE {db}.copy LIKE {db}.t")]).await;
    let load = load_statement(&format!("{db}.copy"), &serde_json::from_str(&layout).unwrap());
    let (container, client, url) = match product {
        Product::Mysql => ("lifeboat-mysql", "mysql", "MYSQL_URL"),
        Product::Mariadb => ("lifeboat-mariadb", "mariadb", "MARIADB_URL"),
    };
    let url = std::env::var(url).unwrap();
    let mut client = Command::new("docker")
        .args(["exec", "-i", "-e", "MYSQL_PWD", container, client, "-uroot", "--local-infile=1", "-e", &load])
        .env("MYSQL_PWD", url.split([':', '@']).nth(2).unwrap())
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    client.stdin.take().unwrap().write_all(&exported.stdout).unwrap();
    assert!(client.wait().unwrap().success());
    let rows = |table: &str| {
        format!(
            "SELECT CONCAT(COUNT(*), ' ', BIT_XOR(CRC32(CONCAT_WS('|', id, HEX(`odd ``name`), HEX(l), f + 0e0, HEX(b), \
             e + 0, s + 0, HEX(h), j, d, g, l IS NULL, f IS NULL, h IS NULL, j IS NULL)))) FROM {db}.{table}"
        )
    };
    assert_eq!(server.ask(&rows("copy")).await, server.ask(&rows("t")).await);

    let both = stage.run(&["export", "latest", &format!("mysql/{db}"), "--format", "tsv"]).ends(2);
    both.tells("two tables").tells("Name a table");
    server.run([format!("DROP DATABASE {db}")]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_table_of_mysql_goes_through_tab_separated_rows() {
    a_table_goes_through_tab_separated_rows(Product::Mysql).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_table_of_mariadb_goes_through_tab_separated_rows() {
    a_table_goes_through_tab_separated_rows(Product::Mariadb).await;
}
