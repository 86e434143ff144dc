//! A snapshot of one product comes back on the other, as far as that can be; what cannot is named first.

use std::collections::BTreeMap;

use lifeboat::{
    flow::{Fit, Selection, Weight, WriteOptions},
    policy::MysqlConfig,
};

use crate::{
    rows::Recorded,
    support::{Product, Server},
};

crate::on_both!(a_snapshot_comes_back_on_the_other_product, definitions_of_older_servers_come_back);

fn other(product: Product) -> Product {
    if product == Product::Mysql { Product::Mariadb } else { Product::Mysql }
}

/// What both products can hold, in the words and with the defaults of each.
fn common(product: Product) -> Vec<String> {
    let collation = match product {
        Product::Mysql => "utf8mb4_0900_ai_ci",
        Product::Mariadb => "utf8mb4_uca1400_ai_ci",
    };
    let cased = match product {
        Product::Mysql => "utf8mb4_0900_as_cs",
        Product::Mariadb => "utf8mb4_uca1400_as_cs",
    };
    let hidden = if product == Product::Mysql { "INVISIBLE" } else { "IGNORED" };
    let mode = if product == Product::Mysql {
        "STRICT_TRANS_TABLES"
    } else {
        "STRICT_TRANS_TABLES,NO_AUTO_CREATE_USER"
    };
    vec![
        format!("SET NAMES utf8mb4 COLLATE {collation}"),
        format!("SET SESSION sql_mode = '{mode}'"),
        format!("CREATE DATABASE lbt_cross CHARACTER SET utf8mb4 COLLATE {collation}"),
        "USE lbt_cross".into(),
        format!(
            "CREATE TABLE kinds (id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY, f FLOAT, d DOUBLE, de \
             DECIMAL(65,30), bt BIT(64), y YEAR, e ENUM('', 'a', 'é') NOT NULL, s SET('x', 'y'), t TEXT, l VARCHAR(60) \
             CHARACTER SET latin1, g VARCHAR(60) CHARACTER SET gbk, c VARCHAR(9) COLLATE {cased}, bin BINARY(8), bl \
             LONGBLOB, j JSON, p POINT, dt DATETIME(6), ts TIMESTAMP(3) NULL DEFAULT CURRENT_TIMESTAMP(3) ON UPDATE \
             CURRENT_TIMESTAMP(3), ti TIME(6), u CHAR(36) DEFAULT (UUID()), h INT INVISIBLE DEFAULT 7, KEY k_l (l) \
             {hidden}, UNIQUE KEY u_c (c), FULLTEXT KEY ft (t), KEY down (d DESC)) COMMENT='COLLATE {collation}'"
        ),
        "INSERT INTO kinds (id, f, d, de, bt, y, e, s, t, l, g, c, bin, bl, j, p, dt, ts, ti, u) VALUES (1, 0.1, \
         5e-324, -1.5, ~0, 2025, 'é', 'x,y', '密信 🚢', 'é', '中文', 'Ä', x'00', x'00FF5C0A', '{\"a\": [1, null]}', \
         ST_GeomFromText('POINT(1.5 -2)'), '9999-12-31 23:59:59.999999', '2025-11-02 01:30:00.123', '-838:59:59', 'u')"
            .into(),
        "INSERT INTO kinds (id, e, c, ts, u) VALUES (2, '', 'a', NULL, 'v'), (3, 'a', 'A', NULL, 'w')".into(),
        "CREATE TABLE gen (a INT PRIMARY KEY, b INT AS (a + 1) VIRTUAL, c INT AS (a * 2) STORED, KEY (b), CONSTRAINT \
         positive CHECK (a > 0))"
            .into(),
        "INSERT INTO gen (a) VALUES (1), (2)".into(),
        "CREATE TABLE parted (id INT PRIMARY KEY, v INT) PARTITION BY RANGE (id) (PARTITION p1 VALUES LESS THAN (10), \
         PARTITION p2 VALUES LESS THAN MAXVALUE)"
            .into(),
        "INSERT INTO parted VALUES (1, 1), (20, 2)".into(),
        "CREATE TABLE child (id INT PRIMARY KEY, at INT, CONSTRAINT up FOREIGN KEY (at) REFERENCES gen (a))".into(),
        "INSERT INTO child VALUES (1, 1)".into(),
        "CREATE TABLE log (what VARCHAR(40))".into(),
        "CREATE VIEW seen AS SELECT id, 'it''s é' AS text FROM kinds WHERE t <> 'x'".into(),
        "CREATE FUNCTION twice (n INT) RETURNS INT DETERMINISTIC RETURN n * 2".into(),
        "CREATE PROCEDURE noting (x VARCHAR(9)) INSERT INTO log VALUES (CONCAT(x, 'é'))".into(),
        "CREATE TRIGGER noted AFTER INSERT ON parted FOR EACH ROW CALL noting('t')".into(),
        "CREATE EVENT later ON SCHEDULE EVERY 1 DAY STARTS '2037-01-01 00:00:00' DISABLE DO DELETE FROM log".into(),
    ]
}

const SUM: &str = "SELECT SUM(CRC32(CONCAT_WS('|', id, f, d, de, HEX(bt), y, e + 0, s + 0, HEX(t), HEX(l), HEX(g), \
    HEX(c), HEX(bin), HEX(bl), JSON_EXTRACT(j, '$.a[0]'), ST_AsText(p), dt, ts, ti, u, h))) FROM lbt_cross.kinds";

async fn a_snapshot_comes_back_on_the_other_product(product: Product) {
    let (from, to) = (Server::empty(product).await, Server::empty(other(product)).await);
    from.run(common(product)).await;
    from.run(only_there(product)).await;
    let config = from.only(&["lbt_cross"]);
    let recorded = Recorded::read(&config).await;
    let to_config = to.only(&["lbt_cross"]);

    // All that does not fit is named before anything is made.
    let found = recorded.preflight(&to_config, WriteOptions::default()).await;
    let told: Vec<String> = found
        .remarks
        .iter()
        .filter(|remark| remark.weight == Weight::DoesNotFit)
        .map(|remark| format!("{}: {}", remark.what, remark.why))
        .collect();
    let expected: &[&str] = match product {
        Product::Mysql => &[
            "table lbt_cross.functional: MariaDB has no indexes on expressions",
            "table lbt_cross.vectors: this MariaDB has no type VECTOR",
            "table lbt_cross.chinese, view lbt_cross.sorted: the server does not know collation utf8mb4_zh_0900_as_cs",
            "table lbt_cross.unchecked: MariaDB enforces every check",
        ],
        Product::Mariadb => &[
            "sequence lbt_cross.seq: MySQL has no sequences",
            "table lbt_cross.ids: MySQL has no type UUID",
            "table lbt_cross.versioned: MySQL keeps no history",
        ],
    };
    for line in expected {
        assert!(told.iter().any(|told| told.starts_with(line)), "{line} is not in {told:#?}");
    }
    assert_eq!(told.len(), expected.len(), "{told:#?}");
    assert!(found.remarks.iter().any(|remark| remark.weight == Weight::Mapped), "{:#?}", found.remarks);
    assert!(found.remarks.iter().all(|remark| remark.weight != Weight::Blocks), "{:#?}", found.remarks);

    let options = WriteOptions { fit: Fit { leave_out: true, ..Fit::default() }, ..WriteOptions::default() };
    let tally = recorded.write(&to_config, options).await.unwrap_or_else(|error| panic!("{error:?}"));
    let notes = tally.notes.join("\n");
    assert!(notes.contains("becomes") && notes.contains("was left out"), "{notes}");
    let is_told = notes.contains("function `lateral_` of lbt_cross could not be made");
    assert_eq!(is_told, product == Product::Mysql, "{notes}");
    assert_eq!(to.ask(SUM).await, from.ask(SUM).await);
    for (sql, expected) in [
        ("SELECT CONCAT(SUM(b), ' ', SUM(c)) FROM lbt_cross.gen", "5 6"),
        ("SELECT CONCAT(COUNT(*)) FROM lbt_cross.parted PARTITION (p2)", "1"),
        ("SELECT CONCAT(COUNT(*)) FROM lbt_cross.seen", "1"),
        ("SELECT CONCAT(lbt_cross.twice(21))", "42"),
        ("SELECT CONCAT(COUNT(*)) FROM lbt_cross.log", "0"),
        ("SELECT CONCAT(COUNT(*)) FROM information_schema.tables WHERE table_schema = 'lbt_cross'", "6"),
    ] {
        assert_eq!(to.ask(sql).await, expected, "{sql}");
    }
    to.run(["INSERT INTO lbt_cross.parted VALUES (30, 3)"]).await;
    assert_eq!(to.ask("SELECT what FROM lbt_cross.log").await, "té", "the trigger and its procedure work");
    // The unique key tells A from a as before.
    to.run(["INSERT INTO lbt_cross.kinds (e, c) VALUES ('a', 'á')"]).await;

    if product == Product::Mysql {
        the_person_may_name_a_collation(&recorded, &to, &to_config).await;
    }
}

/// What only one of the products has.
fn only_there(product: Product) -> Vec<&'static str> {
    match product {
        Product::Mysql => vec![
            "USE lbt_cross",
            "CREATE TABLE functional (id INT PRIMARY KEY, KEY k ((id + 1)))",
            "CREATE TABLE vectors (id INT PRIMARY KEY, v VECTOR(3))",
            "CREATE TABLE chinese (id INT PRIMARY KEY, t VARCHAR(9) COLLATE utf8mb4_zh_0900_as_cs)",
            "INSERT INTO chinese VALUES (1, '密信')",
            // It comes before the function that both know.
            "CREATE FUNCTION lateral_ (n INT) RETURNS INT DETERMINISTIC RETURN (SELECT c FROM (SELECT n AS a) AS x, \
             LATERAL (SELECT x.a AS c) AS y)",
            "CREATE VIEW sorted AS SELECT t COLLATE utf8mb4_zh_0900_as_cs AS s FROM kinds",
            "CREATE TABLE unchecked (id INT PRIMARY KEY, CHECK (id > 0) NOT ENFORCED)",
        ],
        Product::Mariadb => vec![
            "USE lbt_cross",
            "CREATE SEQUENCE seq",
            "CREATE TABLE ids (id UUID PRIMARY KEY)",
            "CREATE TABLE versioned (id INT PRIMARY KEY) WITH SYSTEM VERSIONING",
            "INSERT INTO versioned VALUES (1)",
        ],
    }
}

async fn the_person_may_name_a_collation(recorded: &Recorded, to: &Server, config: &MysqlConfig) {
    let map = |to: &str| BTreeMap::from([("utf8mb4_zh_0900_as_cs".to_owned(), to.to_owned())]);
    let only = Selection::new(&["lbt_cross.chinese".to_owned()]).unwrap();
    let options = |to| WriteOptions {
        only: only.clone(),
        fit: Fit { collations: map(to), ..Fit::default() },
        ..WriteOptions::default()
    };
    let found = recorded.preflight(config, options("utf8mb4_nothing_ci")).await;
    assert!(found.remarks.iter().any(|one| one.why.contains("utf8mb4_nothing_ci either")), "{found:?}");
    recorded.write(config, options("utf8mb4_uca1400_as_cs")).await.unwrap();
    let column = "SELECT collation_name FROM information_schema.columns WHERE table_schema = 'lbt_cross' AND table_name \
        = 'chinese' AND column_name = 't'";
    assert_eq!(to.ask(column).await, "utf8mb4_uca1400_as_cs");
}

/// Words that servers of years ago wrote and that are still in snapshots of theirs.
async fn definitions_of_older_servers_come_back(product: Product) {
    let server = Server::empty(product).await;
    server
        .run([
            "CREATE DATABASE lbt_old CHARACTER SET utf8mb4",
            "CREATE TABLE lbt_old.t (id INT PRIMARY KEY, v INT)",
        ])
        .await;
    let config = server.only(&["lbt_old"]);
    let mut recorded = Recorded::read(&config).await;
    let old = "CREATE TABLE `t` (\n  `id` int(11) NOT NULL AUTO_INCREMENT,\n  `v` varchar(20) CHARACTER SET utf8 COLLATE \
        utf8_unicode_ci DEFAULT NULL,\n  `z` int(5) unsigned zerofill DEFAULT NULL,\n  `at` timestamp NOT NULL DEFAULT \
        CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP,\n  PRIMARY KEY (`id`) USING BTREE,\n  KEY `v` (`v`)\n) \
        ENGINE=InnoDB AUTO_INCREMENT=7 DEFAULT CHARSET=utf8 COLLATE=utf8_unicode_ci ROW_FORMAT=DYNAMIC";
    recorded.replace("lbt_old/t/table.sql", |script| {
        let from = script.find("CREATE TABLE").expect("a table");
        let to = script.rfind("\n;;\nDELIMITER").expect("an end");
        format!("{}{old}{}", &script[..from], &script[to..])
    });
    server.run(["DROP DATABASE lbt_old"]).await;
    recorded.write(&config, WriteOptions::default()).await.unwrap();
    let collation = "SELECT collation_name FROM information_schema.columns WHERE table_schema = 'lbt_old' AND column_name \
        = 'v'";
    assert_eq!(server.ask(collation).await, "utf8mb3_unicode_ci");
}
