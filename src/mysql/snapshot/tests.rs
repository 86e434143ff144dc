//! What no client can do to a snapshot from outside.

use mysql_async::Opts;

use super::{
    super::{conn::bytes, range::WALK_ROWS},
    *,
};
use crate::{event::NoMonitor, names::SourceName, policy::SecretRef};

/// Takes an instant of a database on a server of the fixtures.
async fn taken(variable: &str, db: &str) -> (tempfile::TempDir, Server, Wanted, Snapshot) {
    let url = std::env::var(variable).expect("fixtures/stack env is sourced");
    let opts = Opts::from_url(&url).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("password");
    std::fs::write(&secret, opts.pass().unwrap_or_default()).unwrap();
    let mut config: crate::policy::MysqlConfig = toml::from_str("user = \"root\"").unwrap();
    opts.ip_or_hostname().clone_into(&mut config.host);
    config.port = opts.tcp_port();
    config.password = Some(SecretRef::File(secret));
    config.databases = vec![db.to_owned()];
    let server = Server::new(&SourceName::new("mysql").unwrap(), &config, false).unwrap();
    let wanted = Wanted::new(&config).unwrap();
    let snapshot = Snapshot::take(&server, &wanted, WALK_ROWS, &Ground::system(), &NoMonitor).await.unwrap();
    (folder, server, wanted, snapshot)
}

async fn a_session_that_lost_its_transaction_is_found(variable: &str) {
    let (_folder, server, _, mut snapshot) = taken(variable, "lbt_no_such_database").await;
    snapshot.check_still_open(&server).await.expect("all are open");
    snapshot.workers[1].exec(b"COMMIT").await.unwrap();
    let failure = snapshot.check_still_open(&server).await.expect_err("one is not");
    assert_eq!(failure.to_string(), "`mysql`: a session lost its snapshot while it read");
}

#[tokio::test]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn mysql_a_session_that_lost_its_transaction_is_found() {
    a_session_that_lost_its_transaction_is_found("MYSQL_URL").await;
}

#[tokio::test]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn mariadb_a_session_that_lost_its_transaction_is_found() {
    a_session_that_lost_its_transaction_is_found("MARIADB_URL").await;
}

/// A table without transactions is seen as one that was there before the instant, although it came later.
async fn what_came_too_late_to_be_locked_makes_all_begin_again(variable: &str) {
    let db = format!("lbt_late_{}", std::process::id());
    let (_folder, server, wanted, mut snapshot) = taken(variable, &db).await;
    snapshot.unlock_definitions(&server).await.unwrap();
    snapshot.listing = Listing::Slow;
    assert_eq!(snapshot.hold(&server, &wanted).await.unwrap(), Pinned::All);
    let mut other = server.open(Purpose::ReadNames).await.unwrap();
    for sql in [
        format!("DROP DATABASE IF EXISTS {db}"),
        format!("CREATE DATABASE {db}"),
        format!("CREATE TABLE {db}.t (a INT) ENGINE = MyISAM"),
        format!("INSERT INTO {db}.t VALUES (1)"),
    ] {
        other.query_drop(sql).await.unwrap();
    }
    let late = Pinned::Gone(Place { db: db.clone(), table: "t".to_owned() });
    assert_eq!(snapshot.hold(&server, &wanted).await.unwrap(), late, "its database was not noted");
    snapshot.let_go(&server).await.unwrap();
    snapshot.programs = Programs::note(&server, &mut snapshot.keeper, &wanted).await.unwrap();
    snapshot.listed.clear();
    assert_eq!(snapshot.hold(&server, &wanted).await.unwrap(), Pinned::All, "no lock was of tables");
    assert_eq!(snapshot.listed.len(), 1);
    snapshot.mark("lock_mode", Lock::Tables.word());
    snapshot.listed.clear();
    assert_eq!(snapshot.hold(&server, &wanted).await.unwrap(), late, "it was not locked");
    snapshot.let_go(&server).await.unwrap();
    other.query_drop(format!("DROP DATABASE {db}")).await.unwrap();
}

#[tokio::test]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn mysql_what_came_too_late_to_be_locked_makes_all_begin_again() {
    what_came_too_late_to_be_locked_makes_all_begin_again("MYSQL_URL").await;
}

#[tokio::test]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn mariadb_what_came_too_late_to_be_locked_makes_all_begin_again() {
    what_came_too_late_to_be_locked_makes_all_begin_again("MARIADB_URL").await;
}

/// Values of each length of a length, and a row that goes on in a second packet.
const VALUES: &str = "SELECT 1, NULL, '', x'00090A5CFB', REPEAT('x', 250), REPEAT('x', 251), REPEAT('y', 70000), \
    REPEAT('z', 9000000), REPEAT('z', 9000000) UNION ALL SELECT 2, 'a', NULL, '', '', '', '', REPEAT('w', 16777210), 1";

async fn rows_are_those_that_the_driver_reads(variable: &str) {
    let (_folder, server, _, mut snapshot) = taken(variable, "lbt_no_such_database").await;
    server.run(&mut snapshot.names, "SET NAMES binary", "test").await.unwrap();
    let rows = server.rows(&mut snapshot.names, VALUES, "test").await.unwrap();
    let wire = &mut snapshot.workers[0];
    assert_eq!(wire.query(VALUES.as_bytes()).await.unwrap(), 9);
    for row in &rows {
        let own = wire.next().await.unwrap().expect("there are as many rows");
        for at in 0..9 {
            assert!(own.get(at).map(<[u8]>::to_vec) == bytes(row, at), "field {at}");
        }
    }
    assert!(wire.next().await.unwrap().is_none());
    assert!(rows.iter().all(|row| bytes(row, 7).is_some()), "the server made all values");
    snapshot.check_still_open(&server).await.expect("the session goes on");
    snapshot.leave().await;
}

#[tokio::test]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn mysql_rows_are_those_that_the_driver_reads() {
    rows_are_those_that_the_driver_reads("MYSQL_URL").await;
}

#[tokio::test]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn mariadb_rows_are_those_that_the_driver_reads() {
    rows_are_those_that_the_driver_reads("MARIADB_URL").await;
}
