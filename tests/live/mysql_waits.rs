//! Locks that were asked for and are not granted: others are let through, and nothing of them stays behind.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use lifeboat::{
    error::{ExitCode, Failure},
    flow::{FlowError, conformance::read_all},
    policy::MysqlConfig,
};
use mysql_async::{Conn, prelude::Queryable};

use crate::{
    at_once::watched,
    failures::account,
    locks::READ,
    support::{Process, Product, Server, processes, source, until_seen},
};

crate::on_both!(
    a_lock_that_waits_behind_an_idle_session_lets_others_through,
    a_reading_that_dies_while_its_lock_waits_lets_others_through,
    a_migration_of_a_table_that_is_held_is_let_through_while_another_one_is_waited_for,
);

/// For how long the policy lets a reading wait for its lock: whoever waits behind it all the time waits for as long.
const LIMIT_SECONDS: u64 = 16;
/// For how long anybody may wait: one attempt lasts 3 seconds, and the machine may be busy.
const WAIT_MAX: Duration = Duration::from_secs(LIMIT_SECONDS / 2);

/// Makes a server with a table that is locked and one that is not, and an account that may flush and nothing else.
async fn with_flusher(product: Product) -> (Server, MysqlConfig) {
    let server = Server::empty(product).await;
    server
        .run([
            "CREATE DATABASE lbt_waits",
            "CREATE TABLE lbt_waits.held (id INT PRIMARY KEY)",
            "CREATE TABLE lbt_waits.gone (id INT PRIMARY KEY)",
            "CREATE TABLE lbt_waits.free (id INT PRIMARY KEY AUTO_INCREMENT)",
        ])
        .await;
    account(&server, "flusher", &[READ, "RELOAD ON *.*"]).await;
    let mut config = server.as_user(server.only(&["lbt_waits"]), "flusher", "x");
    config.lock_wait_seconds = LIMIT_SECONDS;
    (server, config)
}

/// Writes into the table that nobody locks until told to stop, and returns how long the longest statement took.
async fn longest_wait(server: &Server, stop: &AtomicBool) -> Duration {
    let (mut conn, mut longest) = (server.conn().await, Duration::ZERO);
    while !stop.load(Ordering::Relaxed) {
        let began = Instant::now();
        conn.query_drop("INSERT INTO lbt_waits.free VALUES (NULL)").await.expect("it is let through");
        longest = longest.max(began.elapsed());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    longest
}

/// Returns whether the account has been waiting for a lock by this statement, and not only passed it.
fn is_waiting(one: &Process, statement: &str) -> bool {
    one.user == "flusher" && one.statement.starts_with(statement) && one.seconds >= 1
}

/// Reads, which is to fail after `asked` has waited, while somebody writes; returns what is told.
async fn gives_up(server: &Server, config: &MysqlConfig, asked: &str) -> Failure {
    let stop = AtomicBool::new(false);
    let reading = async {
        let (read, waited) = watched(server, |one| is_waiting(one, asked), read_all(source(config))).await;
        assert_eq!(waited, 1, "`{asked}` was sent and waited");
        let all = processes(&mut server.conn().await).await;
        let left: Vec<&String> =
            all.iter().filter(|one| one.user == "flusher").map(|one| &one.statement).collect();
        assert!(left.iter().all(|statement| statement.is_empty()), "{left:?} are left behind");
        stop.store(true, Ordering::Relaxed);
        match read.expect_err("the lock is not granted") {
            FlowError::Failed(failure) => failure,
            other => panic!("not a failure: {other}"),
        }
    };
    let (failure, longest) = tokio::join!(reading, longest_wait(server, &stop));
    assert!(longest < WAIT_MAX, "somebody waited for {longest:?}");
    assert_eq!(failure.exit(), ExitCode::Failed, "{:?}", failure.chain());
    let told = format!("`mysql`: the lock for a common instant was not granted within {LIMIT_SECONDS} s");
    assert!(failure.to_string().starts_with(&told), "{failure}");
    failure
}

/// Checks that nothing is in the way any more.
async fn is_read_now(config: &MysqlConfig, product: Product) {
    let mode = if product == Product::Mysql { "global" } else { "stage" };
    let reading = read_all(source(config)).await.expect("now it is read");
    assert_eq!(reading.point.marks["lock_mode"], mode);
}

/// Lets an idle session hold a table; returns it, and the lock that then waits.
async fn idle(server: &Server, product: Product) -> (Conn, &'static str) {
    let mut holder = server.conn().await;
    holder.query_drop("LOCK TABLES lbt_waits.held WRITE").await.expect("the table is locked");
    (holder, if product == Product::Mysql { "FLUSH NO_WRITE_TO_BINLOG TABLES" } else { "BACKUP STAGE " })
}

async fn a_lock_that_waits_behind_an_idle_session_lets_others_through(product: Product) {
    let (server, config) = with_flusher(product).await;
    let (mut holder, asked) = idle(&server, product).await;
    let failure = gives_up(&server, &config, asked).await;
    // Nobody's statement is in the way: none is named, and nobody is told to end one.
    assert!(!failure.to_string().contains("statement "), "{failure}");
    assert!(!failure.hints()[0].contains("KILL"), "{:?}", failure.hints());
    holder.query_drop("UNLOCK TABLES").await.expect("the table is free");
    is_read_now(&config, product).await;
}

/// What all writers wait behind, on MySQL, when it has been sent and waits itself.
const FLUSH: &str = "FLUSH TABLES WITH READ LOCK";

/// Lets a `DROP TABLE` wait for a transaction, which is returned: it has no table open that a first flush would wait
/// for, and keeps everybody from locking all.
async fn waiting_drop(server: &Server) -> Conn {
    let (mut holder, mut dropper) = (server.conn().await, server.conn().await);
    for statement in ["BEGIN", "SELECT * FROM lbt_waits.gone"] {
        holder.query_drop(statement).await.expect("it is read");
    }
    tokio::spawn(async move { dropper.query_drop("DROP TABLE lbt_waits.gone").await });
    until_seen(server, |one| one.statement.starts_with("DROP TABLE") && one.seconds >= 1).await;
    holder
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_flush_that_all_writers_wait_behind_lets_them_through() {
    let (server, mut config) = with_flusher(Product::Mysql).await;
    // No statement is a long one, so that the flush is sent.
    config.long_query_seconds = 3600;
    let mut holder = waiting_drop(&server).await;
    let failure = gives_up(&server, &config, FLUSH).await;
    assert!(failure.to_string().contains("of user `root` has been running for "), "{failure}");
    holder.query_drop("COMMIT").await.expect("the transaction ends");
    is_read_now(&config, Product::Mysql).await;
}

async fn a_reading_that_dies_while_its_lock_waits_lets_others_through(product: Product) {
    let (server, mut config) = with_flusher(product).await;
    config.long_query_seconds = 3600;
    let (mut holder, asked) = match product {
        Product::Mysql => (waiting_drop(&server).await, FLUSH),
        Product::Mariadb => idle(&server, product).await,
    };
    let stop = AtomicBool::new(false);
    let dies = async {
        let program = tokio::runtime::Runtime::new().expect("a runtime of its own");
        let reading = source(&config);
        program.spawn(async move { read_all(reading).await.map(|_| ()) });
        until_seen(&server, |one| is_waiting(one, asked)).await;
        // Its connections break off, and it says nothing to the server.
        program.shutdown_background();
        let mut watch = server.conn().await;
        let began = Instant::now();
        while processes(&mut watch).await.iter().any(|one| is_waiting(one, asked)) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        stop.store(true, Ordering::Relaxed);
        began.elapsed()
    };
    let (left, longest) = tokio::join!(dies, longest_wait(&server, &stop));
    assert!(longest < WAIT_MAX, "somebody waited for {longest:?}");
    assert!(left < WAIT_MAX, "the lock of nobody was waited for during {left:?}");
    for statement in ["COMMIT", "UNLOCK TABLES"] {
        holder.query_drop(statement).await.expect("what is held is given back");
    }
    is_read_now(&config, product).await;
}

/// A reading holds table after table. What it has would keep a migration waiting, and everybody behind it, for as long
/// as it waits for the next one.
async fn a_migration_of_a_table_that_is_held_is_let_through_while_another_one_is_waited_for(
    product: Product,
) {
    let (server, config) = with_flusher(product).await;
    account(&server, "unlocked", &[READ]).await;
    let mut config = server.as_user(config, "unlocked", "x");
    // Longer than the test may take: who had to wait until the end of that would never get through.
    config.lock_wait_seconds = 3600;
    let (mut holder, _) = idle(&server, product).await;
    let reading = tokio::spawn(async move { read_all(source(&config)).await });
    until_seen(&server, |one| one.statement.starts_with("SELECT 1 FROM `lbt_waits`.`held`")).await;
    let waits_behind = async {
        until_seen(&server, |one| one.statement.starts_with("ALTER TABLE")).await;
        server.run(["INSERT INTO lbt_waits.free (id) VALUES (NULL)"]).await;
    };
    let migrates = server.run(["ALTER TABLE lbt_waits.free ADD COLUMN more INT DEFAULT 7"]);
    tokio::join!(migrates, waits_behind);
    assert!(!reading.is_finished(), "they were let through, and waited for no end of it");
    holder.query_drop("UNLOCK TABLES").await.expect("the table is free");
    let reading = reading.await.expect("it ends").expect("what is free now is read");
    assert_eq!(reading.point.marks["lock_mode"], "single");
    let text = format!("{:?}", reading.entries.keys());
    assert!(text.contains("free") && text.contains("held"), "{text}");
}
