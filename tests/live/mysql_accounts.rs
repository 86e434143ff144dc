//! Accounts: what a server shows of each is the same on the copy.

use lifeboat::{
    flow::{Piece, Tally, WriteOptions, conformance::read_all, pipe},
    mysql::compare::differing_accounts,
    policy::MysqlConfig,
};
use mysql_async::{Conn, Row, prelude::Queryable};

use crate::{
    export, on_both,
    rows::Recorded,
    support::{Product, Server, source, target},
};

on_both!(
    every_account_comes_back_with_all_that_it_may_do,
    the_accounts_of_the_guide_back_up_and_restore_everything,
);

/// The database that some grants are for.
const DB: &str = "lbt_`a'_%b";

const GUIDE: &str = include_str!("../../docs/mysql.md");

/// Returns the statements of the guide for an account that makes backups.
fn for_backups(product: Product) -> Vec<String> {
    let block = GUIDE.split("```sql\n").nth(if product == Product::Mysql { 1 } else { 2 }).unwrap();
    let block = block.split("```").next().unwrap();
    assert!(block.starts_with("CREATE USER 'lifeboat'@'%'"), "{block}");
    let statements = block.split(';').map(|statement| statement.trim().replace('…', "x"));
    statements.filter(|statement| !statement.is_empty()).collect()
}

/// Returns the statements of the guide for an account that restores accounts without a `PROXY`, which our own root may
/// not give over the network.
fn for_restores() -> Vec<String> {
    let grant = GUIDE.split('`').find(|code| code.starts_with("GRANT ALL ON")).unwrap();
    let create = "CREATE USER 'restorer'@'%' IDENTIFIED BY 'x'".to_owned();
    vec![create, grant.replace('…', "'restorer'@'%'")]
}

async fn the_accounts_of_the_guide_back_up_and_restore_everything(product: Product) {
    let (server, other) = tokio::join!(Server::empty(product), Server::empty(product));
    server
        .run([
            "CREATE DATABASE shop",
            "CREATE USER 'app'@'%' IDENTIFIED BY 'x'",
            "GRANT SELECT, INSERT ON shop.* TO 'app'@'%'",
            "CREATE TABLE shop.t (a INT PRIMARY KEY AUTO_INCREMENT, b TEXT, KEY (b(9)))",
            "INSERT INTO shop.t (b) VALUES ('one'), ('two')",
            "CREATE DEFINER = 'app'@'%' VIEW shop.v AS SELECT * FROM shop.t",
            "CREATE DEFINER = 'app'@'%' TRIGGER shop.b BEFORE INSERT ON shop.t FOR EACH ROW SET NEW.b = UPPER(NEW.b)",
            "CREATE DEFINER = 'app'@'%' FUNCTION shop.f () RETURNS INT DETERMINISTIC RETURN 1",
            "CREATE DEFINER = 'app'@'%' PROCEDURE shop.p () SELECT 1",
            "CREATE DEFINER = 'app'@'%' EVENT shop.e ON SCHEDULE EVERY 1 DAY DO DELETE FROM shop.t",
        ])
        .await;
    server.run(for_backups(product)).await;
    other.run(for_restores()).await;
    let all = |server: &Server, user| {
        let config = MysqlConfig { exclude: Vec::new(), ..server.only(&["*"]) };
        server.as_user(config, user, "x")
    };
    let read = read_all(source(&all(&server, "lifeboat"))).await.unwrap();
    assert_eq!(read.problems, []);
    let best = if product == Product::Mysql { "equal" } else { "stage" };
    assert_eq!(read.point.marks["lock_mode"], best);
    let from = source(&all(&server, "lifeboat"));
    pipe(from, target(&all(&other, "restorer")), WriteOptions::default()).await.unwrap();

    let of_shop = async |server: &Server| read_all(source(&server.only(&["shop"]))).await.unwrap().entries;
    assert_eq!(of_shop(&server).await, of_shop(&other).await);
    let app = async |server: &Server| {
        let mut conn = server.conn().await;
        let grants = "SHOW GRANTS FOR 'app'@'%'";
        conn.query::<String, _>(grants).await.unwrap()
    };
    assert_eq!(app(&server).await, app(&other).await);
}

fn everywhere() -> Vec<String> {
    let db = DB.replace('`', "``");
    vec![
        format!("CREATE DATABASE `{db}`"),
        format!("CREATE TABLE `{db}`.t (a INT PRIMARY KEY, `b,``c` INT)"),
        format!("CREATE TABLE `{db}`.gone (a INT)"),
        format!("CREATE PROCEDURE `{db}`.`p``p` () SELECT 1"),
        format!("CREATE FUNCTION `{db}`.f () RETURNS INT DETERMINISTIC RETURN 1"),
        "CREATE USER 'plain'@'%' IDENTIFIED BY 'it''s'".to_owned(),
        "CREATE USER 'a@b'@'%' IDENTIFIED BY 'x'".to_owned(),
        "CREATE USER 'q''q`q\"q'@'10.0.%' IDENTIFIED BY 'x'".to_owned(),
        "CREATE USER 'back\\\\slash'@'%', 'new\nline'@'%', ' DEFAULT ROLE x'@'%', '密信'@'%'".to_owned(),
        "CREATE USER ''@'192.168.%'".to_owned(),
        "CREATE USER 'locked'@'%' IDENTIFIED BY 'x' ACCOUNT LOCK".to_owned(),
        "CREATE USER 'aging'@'%' IDENTIFIED BY 'x' PASSWORD EXPIRE INTERVAL 90 DAY".to_owned(),
        "CREATE USER 'expired'@'%' IDENTIFIED BY 'x' PASSWORD EXPIRE".to_owned(),
        "CREATE USER 'few'@'%' IDENTIFIED BY 'x' REQUIRE SUBJECT '/CN=a b' ISSUER '/CN=b' \
            WITH MAX_QUERIES_PER_HOUR 5 MAX_USER_CONNECTIONS 3"
            .to_owned(),
        format!("GRANT SELECT, CREATE VIEW ON `{db}`.* TO 'plain'@'%' WITH GRANT OPTION"),
        format!("GRANT INSERT (a), UPDATE (`b,``c`) ON `{db}`.t TO 'a@b'@'%'"),
        format!("GRANT EXECUTE ON PROCEDURE `{db}`.`p``p` TO 'a@b'@'%'"),
        format!("GRANT EXECUTE, ALTER ROUTINE ON FUNCTION `{db}`.f TO 'q''q`q\"q'@'10.0.%'"),
        format!("GRANT SELECT ON `{db}`.gone TO 'plain'@'%'"),
        format!("DROP TABLE `{db}`.gone"),
        "GRANT SELECT ON `any%`.* TO 'plain'@'%'".to_owned(),
        "GRANT SELECT ON `one\\_\\%db`.* TO 'plain'@'%'".to_owned(),
        "GRANT RELOAD, PROCESS ON *.* TO 'new\nline'@'%'".to_owned(),
    ]
}

fn of_mysql() -> Vec<String> {
    [
        "SET GLOBAL partial_revokes = ON",
        "CREATE ROLE 'reader'@'%', 'r @ 3'@'10.%', 'of''roles'@'%'",
        "GRANT 'reader'@'%' TO 'of''roles'@'%'",
        "GRANT 'reader'@'%', 'r @ 3'@'10.%' TO 'plain'@'%' WITH ADMIN OPTION",
        "GRANT 'of''roles'@'%' TO 'a@b'@'%'",
        "SET DEFAULT ROLE 'reader'@'%', 'r @ 3'@'10.%' TO 'plain'@'%'",
        "SET GLOBAL mandatory_roles = 'of''roles'",
        "CREATE USER 'PUBLIC'@'%' IDENTIFIED BY 'a name like any other'",
        "CREATE USER 'careful'@'%' IDENTIFIED BY 'x' FAILED_LOGIN_ATTEMPTS 3 PASSWORD_LOCK_TIME 2 PASSWORD HISTORY 5 \
            PASSWORD REUSE INTERVAL 3 DAY PASSWORD REQUIRE CURRENT",
        "ALTER USER 'careful'@'%' ATTRIBUTE '{\"a\": \"it''s \\\\\"q\\\\\" b\\\\\\\\s \\\\n\", \"ü\": [1, null]}'",
        "CREATE USER 'noted'@'%' COMMENT 'it''s \\\\ a \"note\"'",
        "CREATE USER 'older'@'%' IDENTIFIED WITH sha256_password BY 'x'",
        // Its salt can be printed, so that the server shows the hash as text: `it's\"b"REQUIRExxxxx` and the rest.
        "CREATE USER 'graphic'@'%' IDENTIFIED WITH caching_sha2_password AS \
            0x24412430303524697427735C226222524551554952457878787878696F466F686D364C\
            4F62417651505175346B6C43687634673755485867385A55396E504562444C56706A41",
        "CREATE USER 'dual'@'%' IDENTIFIED BY 'one' PASSWORD HISTORY 5",
        "ALTER USER 'dual'@'%' IDENTIFIED BY 'two' RETAIN CURRENT PASSWORD",
        "CREATE USER 'stale'@'%' IDENTIFIED BY 'one'",
        "ALTER USER 'stale'@'%' IDENTIFIED BY 'two' RETAIN CURRENT PASSWORD PASSWORD EXPIRE",
        "GRANT BACKUP_ADMIN, ROLE_ADMIN ON *.* TO 'locked'@'%' WITH GRANT OPTION",
        "GRANT SELECT, INSERT ON *.* TO 'aging'@'%'",
        "REVOKE INSERT ON `lbt_``a'_%b`.* FROM 'aging'@'%'",
    ]
    .map(str::to_owned)
    .to_vec()
}

fn of_mariadb() -> Vec<String> {
    [
        "CREATE ROLE reader",
        "CREATE ROLE `it's @ role`",
        "CREATE ROLE of_roles WITH ADMIN 'plain'@'%'",
        "GRANT reader TO of_roles WITH ADMIN OPTION",
        "GRANT SELECT ON `lbt_``a'_%b`.* TO reader",
        "GRANT `it's @ role` TO 'plain'@'%'",
        "SET DEFAULT ROLE `it's @ role` FOR 'plain'@'%'",
        "CREATE USER 'either'@'%' IDENTIFIED VIA mysql_native_password USING PASSWORD('x') OR unix_socket",
        "CREATE USER 'nobody'@'%' IDENTIFIED VIA mysql_native_password USING 'invalid'",
        "ALTER USER 'few'@'%' WITH MAX_STATEMENT_TIME 2.5",
        "ALTER USER 'few'@'%' PASSWORD EXPIRE",
        "GRANT INSERT ON *.* TO PUBLIC",
        "GRANT UPDATE (a) ON `lbt_``a'_%b`.t TO PUBLIC",
        "GRANT EXECUTE ON PROCEDURE `lbt_``a'_%b`.`p``p` TO PUBLIC",
        "GRANT reader TO PUBLIC",
        "SET sql_mode = ORACLE",
        "CREATE PACKAGE `lbt_``a'_%b`.k AS FUNCTION f RETURN INT; END",
        "CREATE PACKAGE BODY `lbt_``a'_%b`.k AS FUNCTION f RETURN INT AS BEGIN RETURN 1; END; END",
        "GRANT EXECUTE ON PACKAGE `lbt_``a'_%b`.k TO 'plain'@'%'",
        "GRANT EXECUTE ON PACKAGE BODY `lbt_``a'_%b`.k TO PUBLIC",
    ]
    .map(str::to_owned)
    .to_vec()
}

/// Returns what a server shows of each account, but for those that are its own.
async fn shown(server: &Server, product: Product) -> Vec<String> {
    let mut conn = server.conn().await;
    conn.query_drop("SET NAMES utf8mb4").await.unwrap();
    let mut all = Vec::new();
    for account in accounts(&mut conn, product).await {
        all.extend(lines(&mut conn, &format!("SHOW GRANTS FOR {account}")).await);
        if account.contains("`@`") {
            all.extend(lines(&mut conn, &format!("SHOW CREATE USER {account}")).await);
        }
    }
    if product == Product::Mysql {
        let of = "SELECT CONCAT(user, ' also ', JSON_EXTRACT(User_attributes, '$.additional_password')) FROM mysql.user \
                  WHERE JSON_EXTRACT(User_attributes, '$.additional_password') IS NOT NULL ORDER BY user";
        all.extend(lines(&mut conn, of).await);
        all.extend(
            lines(&mut conn, "SELECT CONCAT(user, default_role_user) FROM mysql.default_roles ORDER BY 1")
                .await,
        );
    }
    conn.disconnect().await.unwrap();
    all
}

async fn accounts(conn: &mut Conn, product: Product) -> Vec<String> {
    let name = "CONCAT('`', REPLACE(user, '`', '``'), '`')";
    let is_role = if product == Product::Mysql { "'N'" } else { "is_role" };
    let sql = format!(
        "SELECT IF({is_role} = 'Y', {name}, CONCAT({name}, '@`', host, '`')) FROM mysql.user \
         WHERE user <> 'root' AND user NOT LIKE 'mysql.%' AND user NOT LIKE 'mariadb.%' ORDER BY user, host"
    );
    if product == Product::Mysql {
        conn.query_drop("SET SESSION print_identified_with_as_hex = ON").await.unwrap();
    }
    lines(conn, &sql).await
}

async fn lines(conn: &mut Conn, sql: &str) -> Vec<String> {
    let rows: Vec<Row> = conn.query(sql).await.unwrap_or_else(|error| panic!("{error} in {sql}"));
    rows.into_iter().map(|row| mysql_async::from_row::<(String,)>(row).0).collect()
}

async fn copy(from: &Server, to: &Server) -> Tally {
    pipe(source(&from.config), target(&to.config), WriteOptions::default())
        .await
        .unwrap_or_else(|error| panic!("the accounts are copied: {error:?}"))
}

async fn every_account_comes_back_with_all_that_it_may_do(product: Product) {
    let (from, to) = tokio::join!(Server::empty(product), Server::empty(product));
    from.run(everywhere()).await;
    from.run(if product == Product::Mysql { of_mysql() } else { of_mariadb() }).await;
    at_home(&from, product, "GRANT PROXY ON 'plain'@'%' TO 'a@b'@'%' WITH GRANT OPTION");
    let notes = copy(&from, &to).await.notes;
    let told = |words: &str| notes.iter().filter(|note| note.contains(words)).count();
    assert_eq!(told("`plain`@`%` is for something that is not there"), 1, "{notes:?}");
    assert_eq!(told("`a@b`@`%` was not given a PROXY"), 1, "{notes:?}");
    assert_eq!(told("`aging`@`%` may do more than"), usize::from(product == Product::Mysql), "{notes:?}");

    // Again on a server that takes all of it.
    forget(&to, product).await;
    at_home(&to, product, "GRANT PROXY ON ''@'' TO 'root'@'%' WITH GRANT OPTION");
    if product == Product::Mysql {
        to.run(["SET GLOBAL partial_revokes = ON"]).await;
    }
    let again = copy(&from, &to).await.notes;
    assert_eq!(again.iter().filter(|note| !note.contains("was there already")).count(), 1, "{again:?}");
    // Nobody can give the grant for the table that is gone.
    let lost = |line: &String| !line.contains("`gone`");
    let before: Vec<String> = shown(&from, product).await.into_iter().filter(lost).collect();
    assert!(before.len() > 40, "{before:#?}");
    line_by_line(&before, &shown(&to, product).await);
    logins(&to, product).await;

    // And by a script that the stock client plays.
    let script = export::script(&from.config, true).await;
    forget(&to, product).await;
    export::play(&to, product, &script);
    line_by_line(&before, &shown(&to, product).await);

    // A drill compares what was stored with what it reads back.
    let (stored, found) = (stored(&from).await, stored(&to).await);
    let odd = differing_accounts(&stored.0, &found.0, &stored.1).unwrap();
    assert!(odd.is_empty(), "{odd:?}");
}

fn line_by_line(before: &[String], after: &[String]) {
    for (before, after) in before.iter().zip(after) {
        assert_eq!(before, after);
    }
    assert_eq!(before.len(), after.len());
}

/// Runs a statement as the server's first account, which alone has PROXY to give.
fn at_home(server: &Server, product: Product, sql: &str) {
    let client = if product == Product::Mysql { "mysql" } else { "mariadb" };
    server.exec(&[client, "-uroot", "-plbt-empty-root", "-S/lbt/server.sock", "-e", sql]);
}

/// Removes what a copy made.
async fn forget(server: &Server, product: Product) {
    let mut conn = server.conn().await;
    conn.query_drop(format!("DROP DATABASE `{}`", DB.replace('`', "``"))).await.unwrap();
    for account in accounts(&mut conn, product).await {
        let is_role = product == Product::Mariadb && !account.contains("`@`");
        match (is_role, account.as_str()) {
            (_, "`PUBLIC`") => {}
            (true, _) => conn.query_drop(format!("DROP ROLE {account}")).await.unwrap(),
            (false, _) => conn.query_drop(format!("DROP USER {account}")).await.unwrap(),
        }
    }
    if product == Product::Mariadb {
        // Nobody can drop it, but a row of nothing would be left as it is.
        for sql in [
            "REVOKE ALL PRIVILEGES, GRANT OPTION FROM PUBLIC",
            "DELETE FROM mysql.global_priv WHERE user = 'PUBLIC'",
            "FLUSH PRIVILEGES",
        ] {
            conn.query_drop(sql).await.unwrap();
        }
    }
    conn.disconnect().await.unwrap();
}

async fn logins(server: &Server, product: Product) {
    server.conn_as("plain", "it's").await.expect("a password is the same");
    if product == Product::Mysql {
        for password in ["one", "two"] {
            server.conn_as("dual", password).await.expect("both passwords are good");
        }
        server.conn_as("PUBLIC", "a name like any other").await.expect("a name like any other");
    }
}

async fn stored(server: &Server) -> (Vec<u8>, Vec<String>) {
    let recorded = Recorded::read(&server.config).await;
    let script = recorded.entries.iter().find(|(meta, ..)| meta.text("kind") == Some("accounts"));
    let pieces = script.expect("the accounts are read").1.iter().filter_map(|piece| match piece {
        Piece::Data(bytes) => Some(bytes.as_ref()),
        Piece::Border => None,
    });
    (pieces.collect::<Vec<_>>().concat(), recorded.inventory.clone())
}
