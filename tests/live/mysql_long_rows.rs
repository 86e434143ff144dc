//! Tables whose rows may be longer than a page takes, of a source that was not strict: a strict server gets them whole.

use lifeboat::{
    flow::{Selection, WriteOptions},
    mysql::{Choices, Naming},
    policy::MysqlConfig,
};

use crate::{
    export::{play, play_as, script},
    failures::account,
    rows::Recorded,
    support::{Product, Server, choosing, own},
};

crate::on_both!(
    a_table_of_long_rows_comes_back_with_all_its_indexes_on_a_strict_server,
    a_script_with_long_rows_is_played_on_a_strict_server_and_asks_for_no_privilege,
);

/// Two tables of long rows, one with indexes of each sort, that refer to others.
fn sample(db: &str) -> Vec<String> {
    let columns: Vec<String> = (0..60).map(|at| format!("c{at} CHAR(255)")).collect();
    let long = format!("{}) ROW_FORMAT=COMPACT CHARSET=latin1", columns.join(", "));
    vec![
        format!("CREATE DATABASE {db}"),
        format!("CREATE TABLE {db}.plain (id INT PRIMARY KEY)"),
        "SET SESSION innodb_strict_mode=OFF".to_owned(),
        format!(
            "CREATE TABLE {db}.wide (id INT PRIMARY KEY, up INT, v INT, words TEXT, KEY k (v), KEY u (up), FULLTEXT KEY \
             ft (words), CONSTRAINT up FOREIGN KEY (up) REFERENCES plain (id), {long}"
        ),
        format!(
            "CREATE TABLE {db}.deep (id INT PRIMARY KEY, w INT, words TEXT, KEY w (w), FULLTEXT KEY ft (words), \
             CONSTRAINT down FOREIGN KEY (w) REFERENCES wide (id), {long}"
        ),
        format!("INSERT INTO {db}.plain VALUES (1)"),
        format!(
            "INSERT INTO {db}.wide (id, up, v, words, c59) VALUES (1, 1, 7, 'a boat', 'last'), (2, 1, 8, '', '')"
        ),
        format!("INSERT INTO {db}.deep (id, w) VALUES (1, 1)"),
    ]
}

struct Scene {
    server: Server,
    db: String,
    config: MysqlConfig,
    recorded: Recorded,
}

impl Scene {
    async fn restore(&self, naming: Naming, only: Option<&str>) {
        let (target, exchange) = choosing(&self.config, Choices { naming, ..Choices::default() });
        let only = only.map(|what| Selection::new(&[format!("{}.{what}", self.db)]).unwrap());
        let options =
            WriteOptions { replace: true, only: only.unwrap_or_default(), ..WriteOptions::default() };
        self.recorded.write_to(target, options).await.expect("it is restored");
        if let Some(exchange) = exchange {
            exchange.run().await.expect("it is exchanged");
        }
    }

    /// Checks that the tables of a database are what they were.
    async fn is_whole(&self, suffix: &str) {
        let db = &format!("{}{suffix}", self.db);
        let found = format!("SELECT CONCAT(id, c59, v) FROM {db}.wide WHERE MATCH (words) AGAINST ('boat')");
        assert_eq!(self.server.ask(&found).await, "1last7");
        let indexes = format!(
            "SELECT GROUP_CONCAT(DISTINCT table_name, '.', index_name ORDER BY table_name, index_name) FROM \
             information_schema.statistics WHERE table_schema = '{db}'"
        );
        let all = "deep.ft,deep.PRIMARY,deep.w,plain.PRIMARY,wide.ft,wide.k,wide.PRIMARY,wide.u";
        assert_eq!(self.server.ask(&indexes).await, all);
        let keys = format!(
            "SELECT GROUP_CONCAT(constraint_name, ' ', unique_constraint_schema ORDER BY constraint_name) FROM \
             information_schema.referential_constraints WHERE constraint_schema = '{db}'"
        );
        assert_eq!(self.server.ask(&keys).await, format!("down {db},up {db}"));
    }

    async fn clear(&self) {
        let drops = ["", "__lb_1", "__lb_2", "__was_1", "__was_2"];
        let drops = drops.map(|suffix| format!("DROP DATABASE IF EXISTS {}{suffix}", self.db));
        self.server.run(["SET foreign_key_checks=0".to_owned()].into_iter().chain(drops)).await;
    }
}

async fn a_table_of_long_rows_comes_back_with_all_its_indexes_on_a_strict_server(product: Product) {
    let server = Server::shared(product).await;
    assert_eq!(server.ask("SELECT IF(@@GLOBAL.innodb_strict_mode, 'on', 'off')").await, "on");
    let db = own("long_rows");
    server.run([format!("DROP DATABASE IF EXISTS {db}")].into_iter().chain(sample(&db))).await;
    let config = server.only(&[&db]);
    let recorded = Recorded::read(&config).await;
    let scene = Scene { server, db, config, recorded };
    scene.is_whole("").await;
    scene.restore(Naming::Same, None).await;
    scene.is_whole("").await;
    scene.restore(Naming::Beside("__lb_2".to_owned()), None).await;
    scene.is_whole("__lb_2").await;
    let swap = |n: u8| Naming::Swap { beside: "__lb_1".to_owned(), was: format!("__was_{n}") };
    scene.restore(swap(1), None).await;
    scene.is_whole("").await;
    // One that refers to a table that stays, and that one of long rows refers to that stays.
    scene.restore(swap(2), Some("wide")).await;
    scene.is_whole("").await;
    // A part of it.
    scene.server.run([format!("UPDATE {}.wide SET c59 = 'changed'", scene.db)]).await;
    scene.restore(Naming::Same, Some("wide[1..1]")).await;
    scene.is_whole("").await;
    scene.clear().await;
}

async fn a_script_with_long_rows_is_played_on_a_strict_server_and_asks_for_no_privilege(product: Product) {
    let server = Server::empty(product).await;
    let db = "lbt_long";
    server.run(sample(db)).await;
    let long = script(&server.only(&[db]), false).await;
    server.run(["SET foreign_key_checks=0".to_owned(), format!("DROP TABLE {db}.wide, {db}.deep")]).await;
    let plain = script(&server.only(&[db]), false).await;
    server.run([format!("DROP DATABASE {db}")]).await;
    play(&server, product, &long);
    let found = format!("SELECT c59 FROM {db}.wide WHERE MATCH (words) AGAINST ('boat')");
    assert_eq!(server.ask(&found).await, "last");
    server.run([format!("DROP DATABASE {db}")]).await;
    account(&server, "lbt_plain", &[&format!("ALL ON {db}.*")]).await;
    play_as(&server, product, ("lbt_plain", "x"), &plain);
    assert_eq!(server.ask(&format!("SELECT CONCAT(id) FROM {db}.plain")).await, "1");
}
