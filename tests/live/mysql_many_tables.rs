//! Of a table with few rows, what counts is how often the server is asked.

use lifeboat::flow::WriteOptions;

use crate::{
    rows::Recorded,
    support::{Product, Server},
};

crate::on_both!(a_small_table_costs_few_statements_and_no_session);

const TABLES: u64 = 150;

/// Returns how many statements and sessions there were so far.
async fn asked(server: &Server) -> (u64, u64) {
    let mut conn = server.conn().await;
    let sql = "SHOW GLOBAL STATUS WHERE variable_name IN ('Questions', 'Connections')";
    let rows: Vec<(String, u64)> =
        mysql_async::prelude::Queryable::query(&mut conn, sql).await.expect("the server counts");
    conn.disconnect().await.expect("the server says goodbye");
    let of = |name: &str| rows.iter().find(|(one, _)| one == name).expect("it is counted").1;
    (of("Questions"), of("Connections"))
}

async fn a_small_table_costs_few_statements_and_no_session(product: Product) {
    let server = Server::empty(product).await;
    let tables = (0..TABLES).flat_map(|n| {
        [
            format!("CREATE TABLE lbt_many.t{n} (id INT PRIMARY KEY, v VARCHAR(9), KEY (v))"),
            format!("INSERT INTO lbt_many.t{n} VALUES (1, 'a'), (2, 'b')"),
        ]
    });
    server.run(["CREATE DATABASE lbt_many".to_owned()].into_iter().chain(tables)).await;
    let config = server.only(&["lbt_many"]);
    let begun = asked(&server).await;
    let recorded = Recorded::read(&config).await;
    let read = asked(&server).await;
    server.run(["DROP DATABASE lbt_many"]).await;
    let dropped = asked(&server).await;
    let options = WriteOptions { job: Some("5eed".repeat(16)), ..WriteOptions::default() };
    recorded.write(&config, options).await.expect("it is restored");
    let written = asked(&server).await;
    for (what, (from, to), statements) in [("backup", (begun, read), 5), ("restore", (dropped, written), 17)]
    {
        let each = (to.0 - from.0) / TABLES;
        assert!(each <= statements, "{what}: {each} statements of each table");
        assert!(to.1 - from.1 <= 12, "{what}: {} sessions", to.1 - from.1);
    }
}
