//! What a person chooses about a restore is what the server gets, and nothing else.

use lifeboat::{
    error::{ExitCode, Failure},
    flow::{FlowError, Selection, Tally, WriteOptions},
    mysql::{AccountsRule, Choices, GtidRule, Naming},
    policy::MysqlConfig,
};
use mysql_async::prelude::Queryable;

use crate::{
    rows::Recorded,
    support::{Product, Server, choosing, own},
};

crate::on_both!(
    accounts_that_are_there_are_kept_replaced_or_left_out_as_was_said,
    a_restore_moves_the_binlog_unless_it_is_told_to_stay_out,
    a_server_takes_the_snapshots_gtids_only_where_it_can,
    events_of_a_copy_do_not_run,
    a_database_comes_back_by_another_name_beside_the_original,
    what_cannot_go_by_another_name_is_left_out_and_told,
    foreign_keys_of_a_copy_stay_among_what_came_along,
);

async fn restored(
    recorded: &Recorded,
    config: &MysqlConfig,
    choices: Choices,
    options: WriteOptions,
) -> Result<Tally, Failure> {
    let (target, _) = choosing(config, choices);
    recorded.write_to(target, options).await.map_err(|error| match error {
        FlowError::Failed(failure) => failure,
        other => panic!("the restore fails by itself: {other:?}"),
    })
}

fn replacing() -> WriteOptions {
    WriteOptions { replace: true, ..WriteOptions::default() }
}

async fn accounts_that_are_there_are_kept_replaced_or_left_out_as_was_said(product: Product) {
    let (from, to) = (Server::empty(product).await, Server::empty(product).await);
    from.run([
        "CREATE DATABASE lbt_acc",
        "CREATE TABLE lbt_acc.t (id INT PRIMARY KEY)",
        "CREATE USER there@'%' IDENTIFIED BY 'source'",
        "CREATE USER missing@'%' IDENTIFIED BY 'source'",
        "CREATE USER restorer@'%' IDENTIFIED BY 'source'",
        "GRANT SELECT ON lbt_acc.* TO there@'%', missing@'%'",
    ])
    .await;
    to.run([
        "CREATE USER there@'%' IDENTIFIED BY 'target'",
        "CREATE USER restorer@'%' IDENTIFIED BY 'target'",
        "GRANT ALL ON *.* TO restorer@'%' WITH GRANT OPTION",
    ])
    .await;
    let recorded = Recorded::read(&from.config).await;
    let config = to.as_user(to.config.clone(), "restorer", "target");

    let none = Choices { accounts: Some(AccountsRule::None), ..Choices::default() };
    let tally = restored(&recorded, &config, none, WriteOptions::default()).await.unwrap();
    assert!(tally.notes.iter().any(|note| note.contains("no account was made")), "{:?}", tally.notes);
    to.conn_as("missing", "source").await.expect_err("no account is made");

    // Also where what is in the way is removed: that is about data.
    let tally = restored(&recorded, &config, Choices::default(), replacing()).await.unwrap();
    let notes = tally.notes.join("\n");
    assert!(notes.contains("`there`@`%` was there already"), "{notes}");
    to.conn_as("there", "target").await.expect("it keeps its password");
    let missing = to.conn_as("missing", "source").await;
    missing
        .expect("a missing one is made")
        .query_drop("SELECT * FROM lbt_acc.t")
        .await
        .expect("with its grants");

    let replace = Choices { accounts: Some(AccountsRule::Replace), ..Choices::default() };
    restored(&recorded, &config, replace, replacing()).await.unwrap();
    to.conn_as("there", "source").await.expect("it is the snapshot's now");
    to.conn_as("restorer", "target").await.expect("the account that restores is never touched");
    to.run(["SELECT 1"]).await;
}

/// Returns all that says where the binlog is.
async fn position(product: Product, server: &Server) -> String {
    let sql = if product == Product::Mysql { "SHOW BINARY LOG STATUS" } else { "SHOW MASTER STATUS" };
    let mut conn = server.conn().await;
    let row: mysql_async::Row = conn.query_first(sql).await.unwrap().unwrap();
    let gtid = if product == Product::Mysql { "SELECT @@gtid_executed" } else { "SELECT @@gtid_binlog_pos" };
    let gtid: Option<String> = conn.query_first(gtid).await.unwrap();
    conn.disconnect().await.unwrap();
    format!("{:?} {:?} {gtid:?}", row.as_ref(0), row.as_ref(1))
}

async fn a_restore_moves_the_binlog_unless_it_is_told_to_stay_out(product: Product) {
    let from = Server::shared(product).await;
    let db = &own("binlog");
    from.run(small(db)).await;
    let recorded = Recorded::read(&from.only(&[db])).await;
    from.run([format!("DROP DATABASE {db}")]).await;
    let gtid: &[&str] = match product {
        Product::Mysql => &["--gtid-mode=ON", "--enforce-gtid-consistency=ON"],
        Product::Mariadb => &[],
    };
    let to = Server::empty_with(product, gtid).await;
    to.run([
        "CREATE USER mortal@'%' IDENTIFIED BY 'pw'".to_owned(),
        format!("GRANT ALL ON {db}.* TO mortal@'%'"),
    ])
    .await;
    let off = Choices { binlog_off: true, ..Choices::default() };
    let before = position(product, &to).await;

    let mortal = to.as_user(to.config.clone(), "mortal", "pw");
    let failure = restored(&recorded, &mortal, off.clone(), WriteOptions::default()).await.unwrap_err();
    assert!(failure.hints().iter().any(|hint| hint.contains("BINLOG ADMIN")), "{failure:?}");

    restored(&recorded, &to.config, off, WriteOptions::default()).await.unwrap();
    assert_eq!(to.ask(&format!("SELECT CONCAT(COUNT(*)) FROM {db}.users")).await, "3");
    assert_eq!(position(product, &to).await, before, "no replica hears of it");
    restored(&recorded, &to.config, Choices::default(), replacing()).await.unwrap();
    assert_ne!(position(product, &to).await, before, "replicas follow");
}

async fn a_server_takes_the_snapshots_gtids_only_where_it_can(product: Product) {
    let gtid: &[&str] = match product {
        Product::Mysql => &["--gtid-mode=ON", "--enforce-gtid-consistency=ON"],
        Product::Mariadb => &["--server-id=79"],
    };
    let to = Server::empty_with(product, gtid).await;
    let from = Server::shared(product).await;
    let db = &own("gtid");
    from.run(small(db)).await;
    let recorded = Recorded::read(&from.only(&[db])).await;
    from.run([format!("DROP DATABASE {db}")]).await;
    let (first, other, foreign, reset, now) = match product {
        Product::Mysql => (
            "3e11fa47-71ca-11e1-9e33-c80aa9429562:1-5",
            "3e11fa47-71ca-11e1-9e33-c80aa9429562:4-9",
            "0-77-12",
            "RESET BINARY LOGS AND GTIDS",
            "SELECT @@GLOBAL.gtid_purged",
        ),
        Product::Mariadb => (
            "7-5-1200",
            "7-5-900",
            "3e11fa47-71ca-11e1-9e33-c80aa9429562:1-5",
            "RESET MASTER",
            "SELECT @@GLOBAL.gtid_slave_pos",
        ),
    };
    to.run([reset]).await;
    let telling = |rule, set: &str| Choices { gtid: Some((rule, set.to_owned())), ..Choices::default() };
    let count = format!("SELECT CONCAT(COUNT(*)) FROM information_schema.tables WHERE table_schema = '{db}'");

    let failure =
        restored(&recorded, &to.config, telling(GtidRule::Append, foreign), WriteOptions::default())
            .await
            .unwrap_err();
    assert_eq!(failure.exit(), ExitCode::Usage);
    restored(&recorded, &to.config, telling(GtidRule::Append, first), WriteOptions::default()).await.unwrap();
    assert_eq!(to.ask(now).await, first);

    // It has seen some of these: refused while all is as it was.
    to.run([format!("DROP DATABASE {db}")]).await;
    let refused =
        restored(&recorded, &to.config, telling(GtidRule::Append, other), WriteOptions::default()).await;
    let failure = refused.unwrap_err();
    assert_eq!(failure.exit(), ExitCode::Usage, "{failure:?}");
    assert_eq!(to.ask(&count).await, "0");
    if product == Product::Mysql {
        // It would forget 1-3.
        let refused =
            restored(&recorded, &to.config, telling(GtidRule::Replace, other), WriteOptions::default()).await;
        assert!(refused.unwrap_err().chain().join(" ").contains("forget"));
        let uuid = to.ask("SELECT @@server_uuid").await;
        let own = telling(GtidRule::Append, &format!("{uuid}:90000-90009"));
        let failure = restored(&recorded, &to.config, own, WriteOptions::default()).await.unwrap_err();
        assert!(failure.hints().iter().any(|hint| hint.contains("--binlog off")), "{failure:?}");
        assert_eq!(to.ask(&count).await, "0");
    }
    let wider = if product == Product::Mysql { "3e11fa47-71ca-11e1-9e33-c80aa9429562:1-9" } else { other };
    restored(&recorded, &to.config, telling(GtidRule::Replace, wider), WriteOptions::default())
        .await
        .unwrap();
    assert_eq!(to.ask(now).await, wider);
}

async fn events_of_a_copy_do_not_run(product: Product) {
    let server = Server::shared(product).await;
    let (db, copy) = (&own("events"), &own("events_copy"));
    let mut all = small(db);
    all.extend([
        format!("DROP DATABASE IF EXISTS {copy}"),
        format!("CREATE EVENT {db}.`PRESERVE ENABLE` ON SCHEDULE EVERY 1 DAY STARTS '2037-01-01 00:00:00' COMMENT 'ENABLE' DO DELETE FROM users"),
        format!("CREATE EVENT {db}.off ON SCHEDULE EVERY 1 DAY DISABLE DO DELETE FROM users"),
    ]);
    server.run(all).await;
    let config = server.only(&[db]);
    let recorded = Recorded::read(&config).await;
    let into = || Choices { naming: Naming::Into(copy.clone()), ..Choices::default() };
    let enabled = |db: &str| {
        format!(
            "SELECT CONCAT(COUNT(*)) FROM information_schema.events WHERE event_schema = '{db}' AND status = 'ENABLED'"
        )
    };
    let tally = restored(&recorded, &config, into(), WriteOptions::default()).await.unwrap();
    assert_eq!(server.ask(&enabled(copy)).await, "0");
    assert_eq!(server.ask(&enabled(db)).await, "1", "the live one still runs");
    assert!(tally.notes.iter().any(|note| note.contains("made disabled: 1")), "{:?}", tally.notes);
    let told = Choices { events_disabled: Some(false), ..into() };
    restored(&recorded, &config, told, replacing()).await.unwrap();
    assert_eq!(server.ask(&enabled(copy)).await, "1");
    let same = Choices { events_disabled: Some(true), ..Choices::default() };
    restored(&recorded, &config, same, replacing()).await.unwrap();
    assert_eq!(server.ask(&enabled(db)).await, "0");
    server.run([format!("DROP DATABASE {db}"), format!("DROP DATABASE {copy}")]).await;
}

/// Returns what makes a small database.
fn small(db: &str) -> Vec<String> {
    vec![
        format!("DROP DATABASE IF EXISTS {db}"),
        format!("CREATE DATABASE {db} CHARACTER SET utf8mb4"),
        format!("CREATE TABLE {db}.users (id INT PRIMARY KEY, name VARCHAR(20), KEY (name))"),
        format!("INSERT INTO {db}.users VALUES (1, 'é'), (2, '密'), (3, NULL)"),
    ]
}

/// Returns what makes a database whose things refer to each other in every way.
fn woven(product: Product, db: &str) -> Vec<String> {
    let mut all = small(db);
    all.extend([
        format!("USE {db}"),
        "CREATE TABLE files (id INT PRIMARY KEY, owner INT, self INT, CONSTRAINT up FOREIGN KEY (owner) REFERENCES \
         users (id), CONSTRAINT own FOREIGN KEY (self) REFERENCES files (id), CONSTRAINT pos CHECK (id > 0))"
            .to_owned(),
        "INSERT INTO files VALUES (1, 1, NULL), (2, 2, 1)".to_owned(),
        "CREATE TABLE log (n INT PRIMARY KEY AUTO_INCREMENT, what VARCHAR(40))".to_owned(),
        "CREATE FUNCTION twice (n INT) RETURNS INT DETERMINISTIC RETURN n * 2".to_owned(),
        format!("CREATE VIEW z_base AS SELECT id, '`{db}`.' AS text FROM users"),
        format!("CREATE VIEW a_top AS SELECT u.id, {db}.twice(u.id) AS two, z.text FROM users u JOIN z_base z USING (id)"),
        format!("CREATE TRIGGER {db}.t1 BEFORE INSERT ON {db} . files FOR EACH ROW INSERT INTO log (what) VALUES ('{db}.x')"),
        format!("CREATE PROCEDURE names () SELECT COUNT(*) FROM {db}.users"),
    ]);
    if product == Product::Mariadb {
        all.extend([
            "CREATE SEQUENCE seq START WITH 100".to_owned(),
            "CREATE TABLE of_seq (id BIGINT DEFAULT NEXTVAL(seq) PRIMARY KEY)".to_owned(),
            "INSERT INTO of_seq VALUES (7)".to_owned(),
        ]);
    }
    all
}

/// Returns a sum over all tables of a database.
async fn sums(server: &Server, db: &str) -> String {
    let list = format!(
        "SELECT GROUP_CONCAT(table_name ORDER BY table_name) FROM information_schema.tables WHERE table_schema = '{db}' AND table_type = 'BASE TABLE'"
    );
    let mut all = Vec::new();
    for table in server.ask(&list).await.split(',') {
        let mut conn = server.conn().await;
        let row: mysql_async::Row =
            conn.query_first(format!("CHECKSUM TABLE {db}.{table}")).await.unwrap().unwrap();
        conn.disconnect().await.unwrap();
        all.push(format!("{table} {:?}", row.as_ref(1)));
    }
    all.join("\n")
}

async fn a_database_comes_back_by_another_name_beside_the_original(product: Product) {
    let server = Server::shared(product).await;
    let (db, copy) = (&own("woven"), &own("woven_copy"));
    server.run([format!("DROP DATABASE IF EXISTS {copy}")]).await;
    server.run(woven(product, db)).await;
    let config = server.only(&[db]);
    let recorded = Recorded::read(&config).await;
    let before = sums(&server, db).await;
    let into = Choices { naming: Naming::Into(copy.clone()), ..Choices::default() };
    let tally = restored(&recorded, &config, into.clone(), WriteOptions::default()).await.unwrap();
    assert_eq!(sums(&server, copy).await, before);
    assert_eq!(sums(&server, db).await, before, "the original is untouched");
    let again = Recorded::read(&config).await;
    assert_eq!(again.inventory, recorded.inventory);
    assert!(
        tally.notes.iter().any(|note| note.contains("names database") || note.contains("name database")),
        "{:?}",
        tally.notes
    );

    // What is done to the copy reaches nothing of the original.
    server
        .run([
            format!("INSERT INTO {copy}.users VALUES (9, 'new')"),
            format!("INSERT INTO {copy}.files VALUES (9, 9, NULL)"),
        ])
        .await;
    assert_eq!(
        server.ask(&format!("SELECT CONCAT(two, text) FROM {copy}.a_top WHERE id = 9")).await,
        format!("18`{db}`.")
    );
    assert_eq!(
        server.ask(&format!("SELECT CONCAT(COUNT(*)) FROM {copy}.log")).await,
        "1",
        "the trigger is the copy's"
    );
    assert_eq!(sums(&server, db).await, before);
    if product == Product::Mariadb {
        let next = server.ask(&format!("SELECT CONCAT(NEXTVAL({db}.seq))")).await;
        server.run([format!("INSERT INTO {copy}.of_seq VALUES (DEFAULT)")]).await;
        let after: u64 = server.ask(&format!("SELECT CONCAT(NEXTVAL({db}.seq))")).await.parse().unwrap();
        assert_eq!(after, next.parse::<u64>().unwrap() + 1, "the copy counts by itself");
    }
    let definition = server.ask(&format!("SELECT view_definition FROM information_schema.views WHERE table_schema = '{copy}' AND table_name = 'a_top'")).await;
    assert!(!definition.contains(&format!("`{db}`.`")), "{definition}");
    let refused = restored(&recorded, &config, into, WriteOptions::default()).await.unwrap_err();
    assert!(
        refused.chain()[0].contains(&format!("database {copy}")),
        "what is there is in the way: {refused:?}"
    );
    server.run([format!("DROP DATABASE {db}"), format!("DROP DATABASE {copy}")]).await;
}

async fn what_cannot_go_by_another_name_is_left_out_and_told(product: Product) {
    let server = Server::shared(product).await;
    let (db, copy) = (&own("alias"), &own("alias_copy"));
    let mut all = small(db);
    all.extend([
        format!("DROP DATABASE IF EXISTS {copy}"),
        format!("CREATE VIEW {db}.clear AS SELECT id FROM {db}.users"),
        format!("CREATE VIEW {db}.unclear AS SELECT {db}.id FROM {db}.users {db}"),
    ]);
    server.run(all).await;
    let config = server.only(&[db]);
    let recorded = Recorded::read(&config).await;
    let into = Choices { naming: Naming::Into(copy.clone()), ..Choices::default() };
    let tally = restored(&recorded, &config, into, WriteOptions::default()).await.unwrap();
    let note = format!("{copy}.unclear: not made");
    assert!(tally.notes.iter().any(|line| line.starts_with(&note)), "{:?}", tally.notes);
    let views = format!(
        "SELECT GROUP_CONCAT(table_name) FROM information_schema.views WHERE table_schema = '{copy}'"
    );
    assert_eq!(server.ask(&views).await, "clear", "nothing stands in for it");
    server.run([format!("DROP DATABASE {db}"), format!("DROP DATABASE {copy}")]).await;
}

async fn foreign_keys_of_a_copy_stay_among_what_came_along(product: Product) {
    let server = Server::shared(product).await;
    let (db, beside) = (&own("keys"), "__lb_1");
    let copy = &format!("{db}{beside}");
    server.run([format!("DROP DATABASE IF EXISTS {copy}")]).await;
    server.run(woven(product, db)).await;
    let config = server.only(&[db]);
    let recorded = Recorded::read(&config).await;
    let before = sums(&server, db).await;
    let choices = Choices { naming: Naming::Beside(beside.to_owned()), ..Choices::default() };
    let only = Selection::new(&[format!("{db}.files")]).unwrap();
    let options = WriteOptions { only, ..WriteOptions::default() };
    let tally = restored(&recorded, &config, choices, options).await.unwrap();
    assert!(tally.notes.iter().any(|note| note.contains("left out: 1")), "{:?}", tally.notes);
    let keys = format!(
        "SELECT GROUP_CONCAT(constraint_name) FROM information_schema.referential_constraints WHERE constraint_schema = '{copy}'"
    );
    assert_eq!(server.ask(&keys).await, "own");
    assert_eq!(sums(&server, db).await, before);
    server.run([format!("DROP DATABASE {db}"), format!("DROP DATABASE {copy}")]).await;
}
