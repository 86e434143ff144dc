//! Rows are read and written by several sessions at the same moment.

use std::time::Duration;

use lifeboat::flow::{WriteOptions, pipe};
use mysql_async::prelude::Queryable;

use crate::{
    rows::{fill, fresh},
    support::{Process, Product, Server, processes, source, target},
};

crate::on_both!(one_table_is_read_and_written_by_two_sessions_at_once);

/// Lets something run, and returns also how many sessions of this kind were seen at one moment.
pub async fn watched<T>(
    server: &Server,
    is_meant: impl Fn(&Process) -> bool,
    run: impl Future<Output = T>,
) -> (T, usize) {
    let (mut watch, mut most) = (server.conn().await, 0);
    tokio::pin!(run);
    loop {
        let look = async {
            tokio::time::sleep(Duration::from_millis(5)).await;
            processes(&mut watch).await
        };
        tokio::select! {
            done = &mut run => return (done, most),
            all = look => most = most.max(all.iter().filter(|one| is_meant(one)).count()),
        }
    }
}

/// Waits until the server knows the size of the table: whether it is worth more than one session hangs on that.
async fn is_known_to_be_large(server: &Server, db: &str) {
    let mut conn = server.conn().await;
    // MariaDB has no such setting, and needs none.
    let _unknown = conn.query_drop("SET SESSION information_schema_stats_expiry = 0").await;
    let size = format!(
        "SELECT data_length FROM information_schema.tables WHERE table_schema = '{db}' AND table_name = 't'"
    );
    while conn.query_first::<u64, _>(&size).await.expect("it is told").unwrap_or_default() < 32 << 20 {
        conn.query_drop(format!("ANALYZE TABLE {db}.t")).await.expect("it is looked at");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn one_table_is_read_and_written_by_two_sessions_at_once(product: Product) {
    let server = Server::empty(product).await;
    let db = "lbt_at_once";
    fresh(&server, db).await;
    fill(&server, db, "t", "PRIMARY KEY (id)", 400_000).await;
    is_known_to_be_large(&server, db).await;
    let (from, rows) = (server.only(&[db]), format!("`{db}`.`t`"));
    // The one that walks the table looks for borders and counts; the others are those that read rows.
    let reads = |one: &Process| {
        let (sql, is_of_walk) =
            (&one.statement, ["COUNT(*)", " LIMIT "].map(|word| one.statement.contains(word)));
        sql.starts_with("SELECT") && sql.contains(&rows) && is_of_walk == [false, false]
    };
    for (infile, begin) in [("ON", "LOAD DATA LOCAL INFILE"), ("OFF", "INSERT INTO")] {
        let other = Server::empty_with(product, &[&format!("--local-infile={infile}")]).await;
        let writes = |one: &Process| one.statement.starts_with(begin) && one.statement.contains(&rows);
        let moving = pipe(source(&from), target(&other.only(&[db])), WriteOptions::default());
        let ((moved, reading), writing) = watched(&other, writes, watched(&server, reads, moving)).await;
        moved.expect("it is copied");
        assert_eq!((reading, writing), (2, 2), "sessions at one moment, by {begin}");
        assert_eq!(other.ask(&format!("SELECT COUNT(*) FROM {rows}")).await, "400000");
    }
}
