//! Objects of every kind under names of every kind: they come back equal and do the same, or it is told why not.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use lifeboat::{
    clock::Ground,
    error::ExitCode,
    event::{Event, Monitor},
    flow::{
        FlowError, WriteOptions,
        conformance::{piping_is_copying, read_all},
        pipe,
    },
    mysql::MysqlSource,
    names::SourceName,
    policy::MysqlConfig,
};

use crate::{
    copy::{Copy, quoted},
    on_both,
    support::{Product, Server, own, source, target},
};

on_both!(
    names_and_kinds_of_every_sort_come_back,
    programs_do_the_same_after_a_restore,
    a_program_whose_text_is_hidden_fails_the_reading,
    programs_of_databases_of_the_same_letters_are_not_mixed,
);

/// Names that something on the way once took for something else.
fn odd_names() -> Vec<String> {
    let mut names: Vec<String> =
        ["Twin", "twin", "select", "*/ /* x", "a`b``c\\N", "new\nline\ttab", "it's \"q\"", "-- %41 trail."]
            .map(str::to_owned)
            .to_vec();
    // Files of a server take no longer ones.
    names.push("é".repeat(64));
    names
}

/// Makes one thing of each kind for each name, in a database of the last of the names' kind.
fn oddly_named(db: &str) -> Vec<String> {
    let mut all = vec![format!("CREATE DATABASE {}", quoted(db)), format!("USE {}", quoted(db))];
    for (at, name) in odd_names().iter().enumerate() {
        let partitions = if name.contains(['*', '`']) {
            let partition = quoted(&name.chars().take(8).collect::<String>());
            format!(
                " PARTITION BY RANGE ({}) (PARTITION {partition} VALUES LESS THAN (10), PARTITION px VALUES LESS THAN \
                 MAXVALUE)",
                quoted(name)
            )
        } else {
            String::new()
        };
        let name = quoted(name);
        all.extend([
            format!(
                "CREATE TABLE {name} ({name} INT NOT NULL, v INT, PRIMARY KEY ({name}), KEY {name} (v)){partitions}"
            ),
            format!("INSERT INTO {name} VALUES (1, 1), (11, 2)"),
        ]);
        // Names of programs have no case.
        if at != 1 {
            all.push(format!("CREATE TRIGGER {name} BEFORE INSERT ON {name} FOR EACH ROW SET NEW.v = 1"));
            all.push(format!("CREATE PROCEDURE {name} ({name} INT) SELECT {name}"));
        }
    }
    // Two keys of two columns each, under names that are equal to the server's lists.
    for twin in ["Keyed", "keyed"] {
        all.push(format!(
            "CREATE TABLE {twin} (a INT, b INT, c INT, PRIMARY KEY (b, a), UNIQUE KEY u (c, a))"
        ));
        all.push(format!("INSERT INTO {twin} VALUES (1, 1, 1), (2, 1, 2), (1, 2, 3)"));
    }
    let long = quoted(&"表".repeat(64));
    all.extend([
        format!("CREATE TABLE kept ({long} INT, KEY {long} ({long}), CONSTRAINT {long} CHECK ({long} > 0))"),
        format!("CREATE PROCEDURE {long} () COMMENT '*/' SELECT {long} FROM kept"),
        "CREATE EVENT `a``b */ 'c\nd` ON SCHEDULE AT '2037-01-01 00:00:00' DISABLE DO DO 1".to_owned(),
        format!("CREATE EVENT {long} ON SCHEDULE EVERY 1 DAY DISABLE COMMENT '`*/' DO CALL {long}()"),
    ]);
    for name in odd_names() {
        // A view shares its names with tables.
        let view = quoted(&format!("v{}", name.chars().take(63).collect::<String>()));
        all.push(format!("CREATE VIEW {view} AS SELECT {0}, v AS {view} FROM {0}", quoted(&name)));
    }
    all
}

/// Views and foreign keys that go round between two databases.
fn in_a_circle(one: &str, two: &str) -> Vec<String> {
    let columns: Vec<String> = (0..60).map(|at| format!("c{at} CHAR(255), ")).collect();
    let columns = columns.concat();
    vec![
        format!("CREATE DATABASE {one}"),
        format!("CREATE DATABASE {two}"),
        format!("CREATE TABLE {one}.z (id INT PRIMARY KEY, other INT, KEY (other)) COMMENT='VIEW'"),
        format!("CREATE TABLE {two}.a (id INT PRIMARY KEY, other INT, KEY (other))"),
        format!("INSERT INTO {one}.z VALUES (1, 1)"),
        format!("INSERT INTO {two}.a VALUES (1, 1)"),
        format!("ALTER TABLE {one}.z ADD CONSTRAINT go FOREIGN KEY (other) REFERENCES {two}.a (id)"),
        format!("ALTER TABLE {two}.a ADD CONSTRAINT back FOREIGN KEY (other) REFERENCES {one}.z (id)"),
        format!("CREATE VIEW {one}.v3 AS SELECT id FROM {two}.a"),
        format!("CREATE VIEW {two}.v2 AS SELECT id FROM {one}.v3"),
        format!("CREATE VIEW {one}.v1 AS SELECT id FROM {two}.v2"),
        "CREATE USER IF NOT EXISTS lbt_goes@'%'".to_owned(),
        format!("CREATE DEFINER=lbt_goes@'%' VIEW {one}.orphan AS SELECT 1 AS one"),
        format!("CREATE DEFINER=lbt_goes@'%' PROCEDURE {one}.orphan () SELECT 1"),
        format!(
            "CREATE DEFINER=lbt_goes@'%' TRIGGER {one}.orphan BEFORE INSERT ON {one}.z FOR EACH ROW SET NEW.id = 1"
        ),
        "DROP USER lbt_goes@'%'".to_owned(),
        format!("USE {one}"),
        // Its rows may be longer than a page takes.
        "SET SESSION innodb_strict_mode = OFF".to_owned(),
        format!(
            "CREATE TABLE wide ({columns}id INT PRIMARY KEY, v INT, KEY (v)) ROW_FORMAT=COMPACT CHARSET=latin1"
        ),
        "SET SESSION innodb_strict_mode = ON".to_owned(),
        "INSERT INTO wide (id, v, c59) VALUES (1, 2, 'last')".to_owned(),
        "SET SESSION sql_mode = 'ANSI_QUOTES,PIPES_AS_CONCAT'".to_owned(),
        "CREATE VIEW ansi AS SELECT 'a' || \"id\" AS \"x\" FROM \"z\"".to_owned(),
        "CREATE FUNCTION ansi () RETURNS TEXT DETERMINISTIC RETURN 'a' || 'b'".to_owned(),
        "CREATE TRIGGER ansi BEFORE DELETE ON \"z\" FOR EACH ROW SET @\"x y\" = \"OLD\".\"id\" || ''"
            .to_owned(),
        "SET SESSION sql_mode = DEFAULT".to_owned(),
    ]
}

fn of_mysql() -> Vec<&'static str> {
    vec![
        "CREATE TABLE multi (id INT PRIMARY KEY, j JSON, KEY m ((CAST(j->'$.a' AS UNSIGNED ARRAY))), \
            KEY c (id, (CAST(j->'$.b' AS CHAR(10) ARRAY))))",
        "INSERT INTO multi VALUES (1, '{\"a\": [1, 2], \"b\": [\"x\"]}'), (2, NULL)",
        "CREATE TABLE words (id INT PRIMARY KEY, t TEXT, FULLTEXT KEY n (t) WITH PARSER ngram, FULLTEXT KEY p (t))",
        "INSERT INTO words VALUES (1, '密信 is a boat')",
        "CREATE TABLE squeezed (id INT PRIMARY KEY, KEY k (id)) ROW_FORMAT=COMPRESSED KEY_BLOCK_SIZE=8",
        "CREATE TABLE of_system (id INT PRIMARY KEY) TABLESPACE innodb_system",
        "CREATE TABLE second (id INT PRIMARY KEY, v INT NOT SECONDARY, KEY k (v)) SECONDARY_ENGINE=none_such",
        "CREATE TABLE hidden (id INT PRIMARY KEY, v INT, KEY k (v) INVISIBLE, KEY d (v DESC, id), KEY f ((v + 1)), \
            CHECK (v > 0) NOT ENFORCED)",
        "SET SESSION restrict_fk_on_non_standard_key = OFF",
        "CREATE TABLE some (id INT PRIMARY KEY, n INT, KEY k (n))",
        "CREATE TABLE any_of (id INT PRIMARY KEY, n INT, CONSTRAINT loose FOREIGN KEY (n) REFERENCES some (n))",
        "INSERT INTO some VALUES (1, 7), (2, 7)",
        "INSERT INTO any_of VALUES (1, 7)",
        "CREATE TABLE shelf (a INT NOT NULL, n INT NOT NULL AUTO_INCREMENT, KEY (a, n), KEY k (n))",
        "INSERT INTO shelf (a) VALUES (1), (1), (2)",
    ]
}

fn of_mariadb() -> Vec<&'static str> {
    vec![
        "CREATE TABLE aria (id INT PRIMARY KEY, t TEXT, FULLTEXT KEY k (t)) ENGINE=Aria TRANSACTIONAL=0",
        "INSERT INTO aria VALUES (1, 'x')",
        "CREATE TABLE isam (a INT NOT NULL, n INT NOT NULL AUTO_INCREMENT, PRIMARY KEY (a, n)) ENGINE=MyISAM",
        "INSERT INTO isam (a) VALUES (1), (1), (2)",
        "CREATE TABLE periods (id INT, s DATE, e DATE, PERIOD FOR p (s, e), PRIMARY KEY (id, p WITHOUT OVERLAPS))",
        "INSERT INTO periods VALUES (1, '2020-01-01', '2020-02-01'), (1, '2020-02-01', '2020-03-01')",
        "CREATE TABLE monthly (id INT PRIMARY KEY, v INT WITHOUT SYSTEM VERSIONING) WITH SYSTEM VERSIONING \
            PARTITION BY SYSTEM_TIME INTERVAL 1 MONTH STARTS '2026-01-01 00:00:00' PARTITIONS 3",
        "INSERT INTO monthly VALUES (1, 1), (2, 2)",
        "DELETE FROM monthly WHERE id = 1",
        "CREATE TABLE counted (id INT PRIMARY KEY, s BIGINT UNSIGNED GENERATED ALWAYS AS ROW START, \
            e BIGINT UNSIGNED GENERATED ALWAYS AS ROW END, PERIOD FOR SYSTEM_TIME (s, e)) WITH SYSTEM VERSIONING",
        "INSERT INTO counted (id) VALUES (1), (2)",
        "DELETE FROM counted WHERE id = 1",
        "CREATE TABLE odd_keys (id INT PRIMARY KEY, v INT DEFAULT (id + 1), KEY k (v) IGNORED, KEY d (v DESC), \
            CONSTRAINT c CHECK (v > 0))",
        "CREATE SEQUENCE back START WITH 5 INCREMENT BY -2 MINVALUE -100 MAXVALUE 10 CYCLE NOCACHE",
        "DO NEXTVAL(back)",
        "CREATE SEQUENCE ended MAXVALUE 2 CACHE 5",
        "DO NEXTVAL(ended)",
        "DO NEXTVAL(ended)",
        "SET SESSION sql_mode = ORACLE",
        "CREATE PACKAGE pk AS FUNCTION f RETURN INT; PROCEDURE p (a INT); END",
        "CREATE PACKAGE BODY pk AS x INT := 0; FUNCTION f RETURN INT AS BEGIN RETURN 7 + x; END; \
            PROCEDURE p (a INT) AS BEGIN SELECT a; END; BEGIN x := 5; END",
        "CREATE PROCEDURE oracle (a OUT INT) AS b INT := 3; BEGIN a := b; END",
    ]
}

/// Hears what a reading warns of.
#[derive(Default)]
struct Heard(Mutex<Vec<String>>);

impl Monitor for Heard {
    fn event(&self, event: Event) {
        if let Event::Warning { what, .. } = event {
            self.0.lock().unwrap().push(what);
        }
    }
}

async fn names_and_kinds_of_every_sort_come_back(product: Product) {
    let (from, to) = tokio::join!(Server::shared(product), Server::empty(product));
    let (odd, one, two) = (own("od`d"), own("circle"), own("circle_too"));
    let drops = [&odd, &one, &two].map(|db| format!("DROP DATABASE IF EXISTS {}", quoted(db)));
    // A foreign key of one keeps the other.
    let drops: Vec<String> = [vec!["SET foreign_key_checks = 0".to_owned()], drops.to_vec()].concat();
    from.run(&drops).await;
    let special = if product == Product::Mysql { of_mysql() } else { of_mariadb() };
    let special = special.into_iter().map(str::to_owned);
    from.run(oddly_named(&odd).into_iter().chain(in_a_circle(&one, &two)).chain(special)).await;
    let pair = Copy { from: from.only(&[&own("od*"), &own("circle*")]), to: to.only(&["lbt_*"]) };
    piping_is_copying(&pair).await;
    assert_eq!(to.ask(&format!("SELECT id FROM {one}.v1")).await, "1");
    let made = "SELECT definer FROM information_schema.views WHERE table_name = 'orphan'";
    assert_eq!(to.ask(made).await, "lbt_goes@%", "a view whose definer is gone is made again");
    if product == Product::Mariadb {
        for sequence in ["back", "ended"] {
            let state =
                format!("SELECT CONCAT_WS(' ', next_not_cached_value, increment) FROM {one}.{sequence}");
            assert_eq!(to.ask(&state).await, from.ask(&state).await);
        }
        let f = format!("SELECT {one}.f_of_package() FROM DUAL");
        to.run([
            "SET SESSION sql_mode = ORACLE".to_owned(),
            format!("USE {one}"),
            "CREATE FUNCTION f_of_package RETURN INT DETERMINISTIC AS BEGIN RETURN pk.f(); END".to_owned(),
        ])
        .await;
        assert_eq!(to.ask(&f).await, "12", "a package begins as it did");
        tells_of_a_history_of_its_own(&pair.from, &one).await;
    }
    from.run(&drops).await;
}

async fn tells_of_a_history_of_its_own(config: &MysqlConfig, db: &str) {
    let heard = Arc::new(Heard::default());
    let name = SourceName::new("mysql").unwrap();
    let source =
        MysqlSource::new(name, config.clone(), Ground::system(), Arc::clone(&heard) as Arc<dyn Monitor>);
    let reading = read_all(Box::new(source)).await.unwrap();
    let rows = &reading.entries[&format!("{db}/counted/data.00001.tsv")];
    assert_eq!(rows.trailer["rows"], 1, "the row of now");
    let heard = heard.0.lock().unwrap();
    assert!(
        heard.iter().any(|what| what.contains(&format!("`{db}.counted` counts its history"))),
        "{heard:?}"
    );
}

/// Programs that do other things in another session than the one that they were made in.
fn programs() -> Vec<&'static str> {
    vec![
        "CREATE DATABASE im CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
        "USE im",
        "CREATE TABLE log (n INT AUTO_INCREMENT PRIMARY KEY, what VARCHAR(200))",
        "CREATE TABLE small (id INT PRIMARY KEY, n TINYINT)",
        "SET SESSION sql_mode = 'PIPES_AS_CONCAT,ANSI_QUOTES'",
        "CREATE FUNCTION joined () RETURNS VARCHAR(20) DETERMINISTIC RETURN 'a' || 'b'",
        "CREATE TRIGGER lenient BEFORE INSERT ON small FOR EACH ROW SET NEW.n = 3 || '00'",
        "SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_BACKSLASH_ESCAPES'",
        "CREATE FUNCTION slashed () RETURNS VARCHAR(20) DETERMINISTIC RETURN 'a\\'",
        "CREATE PROCEDURE strict () BEGIN DECLARE EXIT HANDLER FOR 1264 INSERT INTO log (what) VALUES ('out of range'); \
            UPDATE small SET n = 300; END",
        "SET SESSION sql_mode = 'NO_UNSIGNED_SUBTRACTION'",
        "CREATE FUNCTION below () RETURNS BIGINT DETERMINISTIC RETURN CAST(0 AS UNSIGNED) - 1",
        "SET NAMES utf8mb4 COLLATE utf8mb4_general_ci",
        "CREATE FUNCTION same_ci () RETURNS INT DETERMINISTIC RETURN 'a' = 'A'",
        "CREATE FUNCTION of_bin (x VARCHAR(5)) RETURNS INT DETERMINISTIC RETURN x = 'A'",
        "SET NAMES utf8mb4 COLLATE utf8mb4_bin",
        "CREATE FUNCTION same_bin () RETURNS INT DETERMINISTIC RETURN 'a' = 'A'",
        "ALTER DATABASE im COLLATE utf8mb4_unicode_ci",
        "CREATE FUNCTION of_ci (x VARCHAR(5)) RETURNS INT DETERMINISTIC RETURN x = 'A'",
        "SET NAMES latin1",
        "CREATE FUNCTION spoken () RETURNS VARCHAR(20) DETERMINISTIC RETURN HEX(CONVERT('é' USING utf8mb4))",
        "SET NAMES utf8mb4",
        "SET SESSION sql_mode = 'PIPES_AS_CONCAT', SESSION time_zone = '+05:00'",
        "CREATE EVENT often ON SCHEDULE EVERY 1 SECOND ON COMPLETION PRESERVE DO INSERT INTO log (what) \
            VALUES ('event ' || @@session.time_zone || ' ' || HOUR(FROM_UNIXTIME(0)))",
        "SET SESSION sql_mode = DEFAULT, SESSION time_zone = DEFAULT",
    ]
}

/// Lets all programs act and returns what came of it.
async fn effects(server: &Server) -> Vec<String> {
    server
        .run([
            "USE im",
            "DELETE FROM small",
            "SET SESSION sql_mode = '', SESSION time_zone = '-03:00'",
            "INSERT INTO small VALUES (1, 1)",
            "DELETE FROM log WHERE what NOT LIKE 'event%'",
            "CALL strict()",
        ])
        .await;
    let began = Instant::now();
    while server.ask("SELECT COUNT(*) FROM im.log WHERE what LIKE 'event%'").await == "0" {
        assert!(began.elapsed() < Duration::from_secs(15), "the event does not come");
    }
    let mut all = Vec::new();
    for question in [
        "SELECT CONCAT_WS(' ', im.joined(), im.slashed(), im.below(), im.same_ci(), im.same_bin())",
        "SELECT CONCAT_WS(' ', im.of_bin('a'), im.of_ci('a'), im.spoken())",
        "SELECT GROUP_CONCAT(id, '=', n) FROM im.small",
        "SELECT GROUP_CONCAT(DISTINCT what ORDER BY what) FROM im.log",
    ] {
        all.push(server.ask(question).await);
    }
    all
}

async fn programs_do_the_same_after_a_restore(product: Product) {
    let arguments = ["--event-scheduler=ON"];
    let (from, to) =
        tokio::join!(Server::empty_with(product, &arguments), Server::empty_with(product, &arguments));
    from.run(programs()).await;
    let before = effects(&from).await;
    from.run(["ALTER EVENT im.often DISABLE", "DELETE FROM im.log", "ALTER EVENT im.often ENABLE"]).await;
    pipe(source(&from.only(&["im"])), target(&to.only(&["im"])), WriteOptions::default())
        .await
        .expect("a restore");
    to.run(["DELETE FROM im.log"]).await;
    assert_eq!(effects(&to).await, before);
    assert_eq!(
        before,
        [
            "ab a\\ -1 1 0".to_owned(),
            "0 1 C383C2A9".to_owned(),
            "1=127".to_owned(),
            "event +05:00 5,out of range".to_owned()
        ]
    );
}

/// Here two databases may have names that differ by case alone; MariaDB lists events and triggers of both for one.
async fn programs_of_databases_of_the_same_letters_are_not_mixed(product: Product) {
    let server = Server::shared(product).await;
    let (with, without) = (own("LETTERS"), own("letters"));
    let drops = [&with, &without].map(|db| format!("DROP DATABASE IF EXISTS {db}"));
    server.run(&drops).await;
    server
        .run([
            format!("CREATE DATABASE {with}"),
            format!("CREATE DATABASE {without}"),
            format!("CREATE TABLE {with}.t (id INT PRIMARY KEY)"),
            format!("CREATE TABLE {without}.t (id INT PRIMARY KEY)"),
            format!("CREATE TRIGGER {with}.b BEFORE INSERT ON {with}.t FOR EACH ROW SET NEW.id = 1"),
            format!("CREATE EVENT {with}.e ON SCHEDULE EVERY 1 YEAR DISABLE DO SELECT 1"),
            format!("CREATE PROCEDURE {with}.p() SELECT 1"),
        ])
        .await;
    for (db, has) in [(&without, false), (&with, true)] {
        let read = read_all(source(&server.only(&[db]))).await.expect("each is read by itself");
        for file in ["t/triggers.sql", "events.sql", "routines.sql"] {
            assert_eq!(read.entries.contains_key(&format!("{db}/{file}")), has, "{db} {file}");
        }
    }
    server.run(&drops).await;
}

async fn a_program_whose_text_is_hidden_fails_the_reading(product: Product) {
    let server = Server::shared(product).await;
    let (db, user) = (own("hidden"), own("weak"));
    server
        .run([
            format!("DROP DATABASE IF EXISTS {db}"),
            format!("CREATE DATABASE {db}"),
            format!("CREATE PROCEDURE {db}.secret () SELECT 1"),
            format!("DROP USER IF EXISTS {user}@'%'"),
            format!("CREATE USER {user}@'%' IDENTIFIED BY 'x'"),
            format!("GRANT SELECT, SHOW VIEW, TRIGGER, EVENT, LOCK TABLES, EXECUTE ON {db}.* TO {user}@'%'"),
        ])
        .await;
    let config = server.as_user(server.only(&[&db]), &user, "x");
    let Err(FlowError::Failed(failure)) = read_all(source(&config)).await else {
        panic!("the text is hidden")
    };
    assert_eq!(failure.exit(), ExitCode::Failed);
    assert!(failure.chain()[0].contains(&format!("procedure `{db}.secret`")), "{:?}", failure.chain());
    server.run([format!("DROP DATABASE {db}"), format!("DROP USER {user}@'%'")]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_table_in_a_place_of_its_own_needs_that_place() {
    let arguments = ["--innodb-directories=/lbt"];
    let (server, other) =
        tokio::join!(Server::empty_with(Product::Mysql, &arguments), Server::shared(Product::Mysql));
    let db = own("placed");
    other.run([format!("DROP DATABASE IF EXISTS {db}")]).await;
    for (definition, hint) in
        [("DATA DIRECTORY='/lbt/data'", "innodb_directories"), ("TABLESPACE lbt_own", "CREATE TABLESPACE")]
    {
        server
            .run([
                "CREATE TABLESPACE lbt_own ADD DATAFILE 'lbt_own.ibd'".to_owned(),
                format!("CREATE DATABASE {db}"),
                format!("CREATE TABLE {db}.t (id INT PRIMARY KEY, v INT, KEY (v)) {definition}"),
                format!("INSERT INTO {db}.t VALUES (1, 2)"),
            ])
            .await;
        let config = server.only(&[&db]);
        let before = read_all(source(&config)).await.unwrap();
        let refused = pipe(source(&config), target(&other.only(&[&db])), WriteOptions::default()).await;
        let Err(FlowError::Failed(failure)) = refused else { panic!("{definition}: {refused:?}") };
        assert!(failure.hints().join(" ").contains(hint), "{failure:?}");
        let options = WriteOptions { replace: true, ..WriteOptions::default() };
        pipe(source(&config), target(&config), options)
            .await
            .expect("where the place is known, it comes back");
        assert_eq!(read_all(source(&config)).await.unwrap().entries, before.entries);
        server.run([format!("DROP DATABASE {db}"), "DROP TABLESPACE lbt_own".to_owned()]).await;
        other.run([format!("DROP DATABASE IF EXISTS {db}")]).await;
    }
}
