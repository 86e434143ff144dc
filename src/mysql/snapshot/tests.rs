//! What no client can do to a snapshot from outside.

use mysql_async::Opts;

use super::*;
use crate::{event::NoMonitor, names::SourceName, policy::SecretRef};

/// Takes an instant of a server of the fixtures.
async fn taken(variable: &str) -> (tempfile::TempDir, Server, Snapshot) {
    let url = std::env::var(variable).expect("fixtures/stack env is sourced");
    let opts = Opts::from_url(&url).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("password");
    std::fs::write(&secret, opts.pass().unwrap_or_default()).unwrap();
    let mut config: crate::policy::MysqlConfig = toml::from_str("user = \"root\"").unwrap();
    opts.ip_or_hostname().clone_into(&mut config.host);
    config.port = opts.tcp_port();
    config.password = Some(SecretRef::File(secret));
    config.databases = vec!["lbt_no_such_database".to_owned()];
    let server = Server::new(&SourceName::new("mysql").unwrap(), &config, false).unwrap();
    let wanted = Wanted::new(&config).unwrap();
    let snapshot = Snapshot::take(&server, &wanted, &Ground::system(), &NoMonitor).await.unwrap();
    (folder, server, snapshot)
}

async fn a_session_that_lost_its_transaction_is_found(variable: &str) {
    let (_folder, server, mut snapshot) = taken(variable).await;
    snapshot.check_still_open(&server).await.expect("all are open");
    snapshot.workers[1].query_drop("COMMIT").await.unwrap();
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
