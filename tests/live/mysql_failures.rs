//! What goes wrong is told, with the right exit code, and nothing is touched that should not be.

use std::sync::Arc;

use lifeboat::{
    clock::Ground,
    error::{ExitCode, Failure},
    event::{Recorder, SharedMonitor},
    flow::{
        EntryMeta, FlowError, Stage, WriteOptions,
        conformance::{a_broken_stream_is_never_a_success, read_all},
    },
    mysql::MysqlSource,
    names::{EntryPath, SourceName},
};

use mysql_async::prelude::Queryable;

use crate::{
    rows::Recorded,
    support::{Product, Server, own, processes, source, target},
};

crate::on_both!(
    a_target_that_is_not_empty_is_refused_and_untouched,
    a_wrong_password_is_a_source_that_is_down,
    a_server_that_is_not_there_is_down,
    a_server_lost_meanwhile_is_an_error,
    a_missing_privilege_is_named,
    without_the_right_to_lock_there_is_another_way,
    a_stream_that_ends_early_is_never_a_success,
    a_lock_that_is_not_granted_in_time_is_given_up,
    accounts_that_may_not_be_read_are_a_problem,
    an_account_that_the_server_does_not_know_is_told_and_the_others_are_read,
);

fn failure(error: FlowError) -> Failure {
    match error {
        FlowError::Failed(failure) => failure,
        other => panic!("not a failure: {other}"),
    }
}

async fn database(server: &Server, db: &str) {
    server
        .run([
            format!("DROP DATABASE IF EXISTS {db}"),
            format!("CREATE DATABASE {db}"),
            format!("CREATE TABLE {db}.t (id INT PRIMARY KEY, v VARCHAR(20))"),
            format!("INSERT INTO {db}.t VALUES (1, 'one'), (2, 'two')"),
        ])
        .await;
}

async fn a_target_that_is_not_empty_is_refused_and_untouched(product: Product) {
    let server = Server::shared(product).await;
    let db = &own("refused");
    database(&server, db).await;
    let config = server.only(&[db]);
    let recorded = Recorded::read(&config).await;
    server.run([format!("UPDATE {db}.t SET v = 'new'")]).await;
    let state = target(&config).inspect(&recorded.inventory).await.expect("the target is looked at");
    assert_eq!(state.in_the_way, [format!("database {db}: 1 table")]);
    let options = WriteOptions::default();
    let failure = failure(recorded.write(&config, options).await.expect_err("it is refused"));
    assert_eq!(failure.exit(), ExitCode::TargetNotEmpty);
    assert!(failure.hints()[0].contains("--replace"));
    assert_eq!(server.ask(&format!("SELECT COUNT(*) FROM {db}.t WHERE v = 'new'")).await, "2");
    server.run([format!("DROP DATABASE {db}")]).await;
    let state = target(&config).inspect(&recorded.inventory).await.expect("the target is looked at");
    assert!(state.in_the_way.is_empty() && state.version.contains('.'), "{state:?}");
}

async fn a_wrong_password_is_a_source_that_is_down(product: Product) {
    let server = Server::shared(product).await;
    let config = server.as_user(server.only(&["lbt_none"]), "root", "very-secret-guess");
    let failure = failure(read_all(source(&config)).await.expect_err("the login is refused"));
    assert_eq!(failure.exit(), ExitCode::SourceDown);
    let all = format!("{:?} {:?}", failure.chain(), failure.hints());
    assert!(!all.contains("very-secret-guess"), "{all}");
    for part in ["`mysql`", "127.0.0.1:", "`root`", "password"] {
        assert!(all.contains(part), "{part} is missing in {all}");
    }
}

async fn a_server_that_is_not_there_is_down(product: Product) {
    let server = Server::shared(product).await;
    let mut nobody = server.only(&["lbt_none"]);
    // A port that was ours a moment ago: nobody listens there now.
    let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).unwrap();
    nobody.port = free.port();
    let mut unknown = server.only(&["lbt_none"]);
    "no-such-host.invalid".clone_into(&mut unknown.host);
    for config in [nobody, unknown] {
        let failure = failure(read_all(source(&config)).await.expect_err("nobody answers"));
        assert_eq!(failure.exit(), ExitCode::SourceDown, "{:?}", failure.chain());
        assert!(failure.to_string().contains(&format!("{}:{}", config.host, config.port)));
        assert!(!failure.hints().is_empty());
    }
}

async fn a_server_lost_meanwhile_is_an_error(product: Product) {
    let server = Server::shared(product).await;
    let db = &own("lost");
    database(&server, db).await;
    server
        .run([
            format!("DROP USER IF EXISTS {db}"),
            format!("CREATE USER {db} IDENTIFIED BY 'x'"),
            format!("GRANT ALL ON *.* TO {db}"),
            format!("CREATE TABLE {db}.big (id INT PRIMARY KEY AUTO_INCREMENT, v LONGTEXT)"),
            format!(
                "INSERT INTO {db}.big (v) VALUES (REPEAT('x', 8000000)), (REPEAT('y', 8000000)), \
                (REPEAT('z', 8000000)), (REPEAT('z', 8000000))"
            ),
        ])
        .await;
    let config = server.as_user(server.only(&[db]), db, "x");
    let (sink, mut stream) = lifeboat::flow::channel(lifeboat::flow::STREAM_DEPTH);
    let take = async {
        while let Some(mut entry) = stream.next().await? {
            let mut killed = false;
            while entry.body.next().await?.is_some() {
                if entry.meta.stage == Stage::Data && entry.meta.text("table") == Some("big") && !killed {
                    killed = true;
                    kill_all_of(&server, db).await;
                }
            }
        }
        Ok(())
    };
    let (read, taken) = tokio::join!(source(&config).read(sink, None), take);
    let failure = failure(lifeboat::flow::settle(read, taken).expect_err("the server was lost"));
    assert_eq!(failure.exit(), ExitCode::SourceDown, "{:?}", failure.chain());
    server.run([format!("DROP DATABASE {db}"), format!("DROP USER {db}")]).await;
}

async fn kill_all_of(server: &Server, user: &str) {
    let mut conn = server.conn().await;
    let mut sessions = processes(&mut conn).await;
    sessions.retain(|session| session.user == user);
    assert!(sessions.len() >= 3, "{} sessions", sessions.len());
    for session in sessions {
        conn.query_drop(format!("KILL {}", session.id)).await.unwrap();
    }
}

/// Makes an account anew.
pub async fn account(server: &Server, user: &str, grants: &[&str]) {
    let mut statements =
        vec![format!("DROP USER IF EXISTS {user}"), format!("CREATE USER {user} IDENTIFIED BY 'x'")];
    statements.extend(grants.iter().map(|grant| format!("GRANT {grant} TO {user}")));
    server.run(statements).await;
}

async fn a_missing_privilege_is_named(product: Product) {
    let server = Server::shared(product).await;
    let db = &own("denied");
    database(&server, db).await;
    server.run([format!("CREATE VIEW {db}.v AS SELECT id FROM {db}.t")]).await;
    account(&server, db, &[&format!("SELECT ON {db}.*")]).await;
    let config = server.as_user(server.only(&[db]), db, "x");
    let failure = failure(read_all(source(&config)).await.expect_err("SHOW VIEW is missing"));
    assert_eq!(failure.exit(), ExitCode::Failed);
    assert!(failure.hints()[0].contains("SHOW VIEW"), "{:?} {:?}", failure.chain(), failure.hints());
    server.run([format!("DROP DATABASE {db}"), format!("DROP USER {db}")]).await;
}

async fn without_the_right_to_lock_there_is_another_way(product: Product) {
    let server = Server::shared(product).await;
    let db = &own("ladder");
    database(&server, db).await;
    let read = format!("SELECT, SHOW VIEW, TRIGGER, EVENT ON {db}.*");
    let lock = format!("LOCK TABLES ON {db}.*");
    let expected = ["single", "tables"];
    for (grants, mode) in [vec![read.as_str()], vec![&read, &lock]].into_iter().zip(expected) {
        account(&server, db, &grants).await;
        let config = server.as_user(server.only(&[db]), db, "x");
        let reading = read_all(source(&config)).await.expect("the database is read");
        assert_eq!(reading.point.marks["lock_mode"], mode);
        assert!(reading.entries.contains_key(&format!("{db}/t/data.00001.tsv")));
    }
    let reading = read_all(source(&server.only(&[db]))).await.expect("the database is read");
    let mode = if product == Product::Mysql { "equal" } else { "stage" };
    assert_eq!(reading.point.marks["lock_mode"], mode);
    for mark in ["binlog_file", "binlog_pos", "lock_ms", "version", "server_uuid"] {
        assert!(reading.point.marks.contains_key(mark), "{mark} is missing in {:?}", reading.point);
    }
    server.run([format!("DROP DATABASE {db}"), format!("DROP USER {db}")]).await;
}

async fn a_lock_that_is_not_granted_in_time_is_given_up(product: Product) {
    // A server of its own: while the lock is waited for, all writers wait.
    let server = Server::empty(product).await;
    let db = "lbt_lock";
    database(&server, db).await;
    let mut writer = server.conn().await;
    writer.query_drop(format!("LOCK TABLES {db}.t WRITE")).await.expect("the tables are locked");
    let mut config = server.only(&[db]);
    config.lock_wait_seconds = 1;
    let failure = failure(read_all(source(&config)).await.expect_err("the lock is not granted"));
    assert_eq!(failure.exit(), ExitCode::Failed, "{:?}", failure.chain());
    assert!(failure.hints()[0].contains("SHOW PROCESSLIST"), "{:?}", failure.hints());
    let lock = match product {
        // Transactions begin all the same: it is the table that cannot be held (error 1205).
        Product::Mysql => format!("a lock on table `{db}.t`"),
        Product::Mariadb => "the lock for a common instant".to_owned(),
    };
    let told = failure.to_string();
    assert!(told.starts_with(&format!("`mysql`: {lock} was not granted within 1 s")), "{told}");
    // Nothing stays behind: others may write at once.
    server
        .run([format!("CREATE TABLE {db}.other (id INT)"), format!("INSERT INTO {db}.other VALUES (1)")])
        .await;
    writer.query_drop("UNLOCK TABLES").await.expect("the tables are free");
    read_all(source(&config)).await.expect("now it can be read");
}

async fn accounts_that_may_not_be_read_are_a_problem(product: Product) {
    let server = Server::shared(product).await;
    let db = &own("noacc");
    database(&server, db).await;
    account(&server, db, &[&format!("SELECT ON {db}.*")]).await;
    let mut config = server.as_user(server.only(&[db]), db, "x");
    config.exclude.clear();
    let reading = read_all(source(&config)).await.expect("the rest is read");
    assert_eq!(reading.problems.len(), 1);
    assert_eq!(reading.problems[0].what, "accounts");
    assert!(reading.problems[0].why.contains("GRANT SELECT ON mysql.*"));
    server.run([format!("DROP DATABASE {db}"), format!("DROP USER {db}")]).await;
}

async fn an_account_that_the_server_does_not_know_is_told_and_the_others_are_read(product: Product) {
    let server = Server::shared(product).await;
    let db = &own("unknown");
    database(&server, db).await;
    // As `skip_name_resolve` leaves accounts with the name of a host: in the table, and not loaded.
    let forget = match product {
        Product::Mysql => format!("DELETE FROM mysql.user WHERE user = '{db}'"),
        Product::Mariadb => format!("DELETE FROM mysql.global_priv WHERE user = '{db}'"),
    };
    let columns = "(host, user, ssl_cipher, x509_issuer, x509_subject)";
    let written = match product {
        Product::Mysql => format!("INSERT INTO mysql.user {columns} VALUES ('web1', '{db}', '', '', '')"),
        Product::Mariadb => format!("INSERT INTO mysql.global_priv VALUES ('web1', '{db}', '{{}}')"),
    };
    server.run([forget.as_str(), written.as_str()]).await;
    let mut config = server.only(&[db]);
    config.exclude.clear();
    let heard = Arc::new(Recorder::default());
    let name = SourceName::new("mysql").unwrap();
    let source = MysqlSource::new(name, config, Ground::system(), Arc::clone(&heard) as SharedMonitor);
    let reading = read_all(Box::new(source)).await.expect("all else is read");
    server.run([forget, format!("DROP DATABASE {db}")]).await;
    assert!(reading.problems.is_empty(), "{:?}", reading.problems);
    let told = heard.warnings().join("\n");
    assert!(told.contains(&format!("the server's tables have account `{db}`@`web1`, which")), "{told}");
}

async fn a_stream_that_ends_early_is_never_a_success(product: Product) {
    let server = Server::shared(product).await;
    let db = &own("early");
    let path = EntryPath::new(&format!("{db}/schema.sql")).unwrap();
    let meta = EntryMeta::new(path, Stage::Schema, db).with("kind", "database").with("db", db.as_str());
    a_broken_stream_is_never_a_success(target(&server.only(&[db])), db, meta).await;
    let count = format!("SELECT COUNT(*) FROM information_schema.schemata WHERE schema_name = '{db}'");
    assert_eq!(server.ask(&count).await, "0");
}
