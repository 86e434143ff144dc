//! A source as one script: the stock client plays it, and the server is the source again.

use std::{
    io::Write,
    sync::{Arc, Mutex},
};

use lifeboat::{
    flow::{
        Likeness, Seen, WriteOptions,
        conformance::{Reading, read_all},
        pipe,
    },
    mysql::{SqlScript, compare::MysqlLikeness},
    names::SourceName,
    policy::MysqlConfig,
};

use crate::{
    copy::{drops, names, quoted, sample},
    failures::account,
    on_both,
    support::{Product, Server, own, source},
};

on_both!(a_script_played_by_the_stock_client_is_the_source_again, a_view_on_what_is_gone_stops_no_client);

/// Bytes that are kept for the test when the target is gone.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Returns what a server holds as a script.
pub(crate) async fn script(config: &MysqlConfig, accounts: bool) -> Vec<u8> {
    let kept = Kept::default();
    let script = SqlScript::new(SourceName::new("mysql").unwrap(), Box::new(kept.clone()));
    let script = if accounts { script.with_accounts() } else { script };
    pipe(source(config), Box::new(script), WriteOptions::default()).await.expect("the script is written");
    kept.0.lock().unwrap().clone()
}

/// Plays a script with the stock client of the server's own version.
pub(crate) fn play(server: &Server, product: Product, script: &[u8]) {
    play_as(server, product, ("root", "lbt-empty-root"), script);
}

/// Plays a script as this account, whose password is told too.
pub(crate) fn play_as(server: &Server, product: Product, (user, password): (&str, &str), script: &[u8]) {
    server.exec(&["sh", "-c", &playing(server, product, (user, password), script)]);
}

/// Returns the line of a shell that plays a script.
fn playing(server: &Server, product: Product, (user, password): (&str, &str), script: &[u8]) -> String {
    std::fs::write(server.socket().with_file_name("script.sql"), script).unwrap();
    let client = if product == Product::Mysql { "mysql" } else { "mariadb" };
    format!(
        "{client} --binary-mode --comments --max-allowed-packet=1G -u{user} -p{password} -S/lbt/server.sock < /lbt/script.sql"
    )
}

/// Everything but stand-ins and views that are text only.
fn made(reading: &Reading) -> Vec<Seen> {
    reading.entries.values().filter_map(|seen| MysqlLikeness.canonical(seen.clone())).collect()
}

fn are_equal(before: &Reading, after: &Reading) {
    for (before, after) in made(before).iter().zip(&made(after)) {
        assert_eq!(before, after);
    }
    assert_eq!(made(before).len(), made(after).len());
    assert_eq!(before.inventory, after.inventory);
}

/// What a client that reads line by line takes for something else.
fn traps() -> [&'static str; 4] {
    [
        "CREATE PROCEDURE by_line () COMMENT 'a -- b' BEGIN\r\n-- it's a comment; ;;\r\n# and `another\r\n/* a \" third \
            */ SELECT 'two\r\nlines', \"$$ //\";\r\nEND",
        "CREATE VIEW `a``b -- c` AS SELECT 'x''''y; ;;' AS `it's`, '\\\\' AS `\"`",
        "CREATE PROCEDURE `delimiter` () BEGIN DECLARE delimiter_ INT; SET delimiter_ = 1; END",
        "CREATE TABLE `/* c */` (a INT PRIMARY KEY COMMENT '*/ ;; -- \\r\\n', `#b` TEXT)",
    ]
}

async fn a_script_played_by_the_stock_client_is_the_source_again(product: Product) {
    let (from, to) = tokio::join!(Server::shared(product), Server::empty(product));
    from.run(drops()).await;
    from.run(sample(product)).await;
    let usual = format!("USE {}", quoted(&names()[0]));
    from.run([usual.as_str()].into_iter().chain(traps())).await;
    let config = from.only(&[&own("copy"), &own("odd*")]);
    let written = script(&config, false).await;
    let text = String::from_utf8_lossy(&written);
    assert!(
        !text.contains("sandbox") && !text.contains("\\C "),
        "nothing that a client takes for a command of its own"
    );
    play(&to, product, &written);
    let (before, after) = (read_all(source(&config)).await, read_all(source(&to.only(&["lbt_*"]))).await);
    let (before, after) = (before.unwrap(), after.unwrap());
    are_equal(&before, &after);

    let last = text.lines().last().unwrap();
    let of = |kind: &str| before.entries.values().filter(|seen| seen.meta.text("kind") == Some(kind)).count();
    let rows: u64 = before.entries.values().filter_map(|seen| seen.trailer.get("rows")?.as_u64()).sum();
    assert!(last.starts_with("-- Dump completed: databases 2, events 1, "), "{last}");
    for count in
        [format!(" tables {}", of("table")), format!(" views {}", of("view")), format!(" rows {rows}")]
    {
        assert!(last.contains(&count), "{count}: {last}");
    }
    from.run(drops()).await;
}

async fn a_view_on_what_is_gone_stops_no_client(product: Product) {
    let server = Server::empty(product).await;
    server
        .run([
            "CREATE DATABASE im",
            "CREATE TABLE im.gone (id INT)",
            "CREATE VIEW im.broken AS SELECT id, '\n; DROP DATABASE im;' FROM im.gone",
            "DROP TABLE im.gone",
            "CREATE VIEW im.sound AS SELECT 1 AS one",
        ])
        .await;
    let written = script(&server.only(&["im"]), false).await;
    server.run(["DROP DATABASE im"]).await;
    play(&server, product, &written);
    assert_eq!(server.ask("SELECT one FROM im.sound").await, "1");
    assert_eq!(
        server.ask("SELECT COUNT(*) FROM information_schema.views WHERE table_schema = 'im'").await,
        "1"
    );
}

/// The columns of a table without a key, in the database of the test below.
const OF_KEYLESS: &str = "SELECT CAST(COALESCE(GROUP_CONCAT(column_name), 'no table') AS CHAR) \
                          FROM information_schema.columns \
                          WHERE table_schema = 'lbt_keys' AND table_name = 'without'";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_table_without_a_key_is_given_none_by_a_server_or_is_refused() {
    let server = Server::empty(Product::Mysql).await;
    let with = ["CREATE DATABASE lbt_keys", "CREATE TABLE lbt_keys.with_one (id INT PRIMARY KEY)"];
    server.run(with).await;
    let keyed = script(&server.only(&["lbt_keys"]), false).await;
    server.run(["CREATE TABLE lbt_keys.without (v INT)", "INSERT INTO lbt_keys.without VALUES (7)"]).await;
    let whole = script(&server.only(&["lbt_keys"]), false).await;
    account(&server, "plain", &["ALL ON lbt_keys.*"]).await;
    account(&server, "by_role", &["ALL ON lbt_keys.*"]).await;
    server
        .run([
            "CREATE ROLE tuner",
            "GRANT SESSION_VARIABLES_ADMIN ON *.* TO tuner",
            "GRANT tuner TO by_role",
            "SET DEFAULT ROLE ALL TO by_role",
        ])
        .await;
    for setting in ["sql_generate_invisible_primary_key", "sql_require_primary_key"] {
        server.run(["DROP DATABASE lbt_keys".to_owned(), format!("SET GLOBAL {setting}=ON")]).await;
        play_as(&server, Product::Mysql, ("by_role", "x"), &whole);
        assert_eq!(server.ask(OF_KEYLESS).await, "v", "{setting}");
        server.run(["DROP DATABASE lbt_keys"]).await;
        let line = playing(&server, Product::Mysql, ("plain", "x"), &whole);
        let told = server.exec(&["bash", "-c", &format!("! {line}")]);
        assert!(told.contains("ERROR 1227") && told.contains("SESSION_VARIABLES_ADMIN"), "{told}");
        assert_eq!(server.ask(OF_KEYLESS).await, "no table", "{setting}");
        server.run(["DROP DATABASE lbt_keys"]).await;
        play_as(&server, Product::Mysql, ("plain", "x"), &keyed);
        server.run([format!("SET GLOBAL {setting}=OFF")]).await;
    }
    server.run(["DROP DATABASE lbt_keys"]).await;
    play_as(&server, Product::Mysql, ("plain", "x"), &whole);
    assert_eq!(server.ask(OF_KEYLESS).await, "v", "nothing is to be switched off");
}
