//! A copy into an empty server is the source again, whatever the source holds.

use lifeboat::{
    flow::{
        Likeness, Selection, Source, Target, WriteOptions,
        conformance::{Pair, piping_is_copying, read_all},
        pipe,
    },
    mysql::compare::MysqlLikeness,
    policy::MysqlConfig,
};

use mysql_async::prelude::Queryable;

use crate::support::{Product, Server, own, source, target};

crate::on_both!(
    a_copy_into_an_empty_server_is_the_source_again,
    accounts_are_copied_and_those_that_exist_are_left_alone,
    one_table_comes_back_alone,
    a_view_that_points_nowhere_is_kept_as_text_and_noted,
    what_the_policy_leaves_out_is_not_read,
);

/// The database that holds most of the sample, and one whose name must be quoted in every way.
pub(crate) fn names() -> [String; 2] {
    [own("copy"), own("odd.`%'db")]
}

pub(crate) struct Copy {
    pub from: MysqlConfig,
    pub to: MysqlConfig,
}

impl Pair for Copy {
    fn source(&self) -> Box<dyn Source> {
        source(&self.from)
    }
    fn target(&self) -> Box<dyn Target> {
        target(&self.to)
    }
    fn copy(&self) -> Box<dyn Source> {
        source(&self.to)
    }
    fn likeness(&self) -> &dyn Likeness {
        &MysqlLikeness
    }
}

pub(crate) fn drops() -> [String; 2] {
    names().map(|db| format!("DROP DATABASE IF EXISTS {}", quoted(&db)))
}

pub(crate) fn quoted(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

async fn a_copy_into_an_empty_server_is_the_source_again(product: Product) {
    let (from, to) = (Server::shared(product).await, Server::empty(product).await);
    from.run(drops()).await;
    from.run(sample(product)).await;
    let pair = Copy { from: from.only(&[&own("copy"), &own("odd*")]), to: to.only(&["lbt_*"]) };
    piping_is_copying(&pair).await;
    let checksum = format!("CHECKSUM TABLE {}.kinds", own("copy"));
    assert_eq!(checksum_of(&from, &checksum).await, checksum_of(&to, &checksum).await);

    // The same again through INSERT, over what is there.
    to.run(["SET GLOBAL local_infile = 0"]).await;
    let options = WriteOptions { replace: true, ..WriteOptions::default() };
    pipe(pair.source(), pair.target(), options)
        .await
        .expect("rows are inserted where they cannot be streamed");
    let (before, after) = (read_all(pair.source()).await.unwrap(), read_all(pair.copy()).await.unwrap());
    assert_eq!(before.entries, after.entries);
    from.run(drops()).await;
}

async fn checksum_of(server: &Server, sql: &str) -> String {
    let mut conn = server.conn().await;
    let row: (String, u64) = conn.query_first(sql).await.unwrap().unwrap();
    row.1.to_string()
}

/// Everything that a database may hold and that something once lost.
pub(crate) fn sample(product: Product) -> Vec<String> {
    let mut all = session();
    all.extend(tables().map(str::to_owned));
    all.extend(values().map(str::to_owned));
    all.extend(match product {
        Product::Mysql => mysql_only().map(str::to_owned).to_vec(),
        Product::Mariadb => mariadb_only().map(str::to_owned).to_vec(),
    });
    all.extend(odd_names());
    all.extend(programs().map(str::to_owned));
    all
}

fn session() -> Vec<String> {
    let [db, odd] = names();
    vec![
        "SET NAMES utf8mb4, SESSION sql_mode = 'NO_AUTO_VALUE_ON_ZERO', SESSION time_zone = '+08:00'".into(),
        // The charset's own collation: MySQL writes another one out twice when a table is made from its text.
        format!("CREATE DATABASE {db} CHARACTER SET utf8mb4"),
        format!("CREATE DATABASE {} CHARACTER SET latin1", quoted(&odd)),
        format!("USE {db}"),
    ]
}

fn tables() -> [&'static str; 10] {
    [
        "CREATE TABLE kinds (
            id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
            f FLOAT, d DOUBLE, de DECIMAL(65,30), bt BIT(64), b1 BIT(1), y YEAR,
            e ENUM('', 'a', '3') NOT NULL, s SET('x', 'y', 'z'), e2 ENUM('é', 'ß') CHARACTER SET latin1,
            t TEXT, l VARCHAR(60) CHARACTER SET latin1, u VARCHAR(60) CHARACTER SET utf16,
            g VARCHAR(60) CHARACTER SET gbk, c CHAR(10) NOT NULL DEFAULT 'it''s',
            bin BINARY(8), vb VARBINARY(300), bl LONGBLOB, j JSON, p POINT,
            dt DATETIME(6), ts TIMESTAMP(3) NULL, da DATE, ti TIME(6),
            KEY k_l (l), UNIQUE KEY u_de (de, d), KEY k_long (t(20)), FULLTEXT KEY ft (t))
            ENGINE=InnoDB AUTO_INCREMENT=9000 COMMENT='VIEW, isn''t it \\\\ `?'",
        "CREATE TABLE gen (
            a INT PRIMARY KEY, b INT AS (a + 1) VIRTUAL, c INT AS (a * 2) STORED, h INT INVISIBLE DEFAULT 7,
            KEY k_b (b), CONSTRAINT positive CHECK (a > 0))",
        "CREATE TABLE parted (id INT NOT NULL, at DATE NOT NULL, v VARCHAR(20), PRIMARY KEY (id, at), KEY (v))
            PARTITION BY RANGE (TO_DAYS(at)) (
                PARTITION p1 VALUES LESS THAN (TO_DAYS('2025-01-01')),
                PARTITION p2 VALUES LESS THAN MAXVALUE)",
        "CREATE TABLE keyless (a INT, b VARCHAR(10))",
        "CREATE TABLE counts_second (a INT NOT NULL, n INT NOT NULL AUTO_INCREMENT, PRIMARY KEY (a, n), \
            KEY k_n (n))",
        "CREATE TABLE unique_null (a INT NULL, b INT, UNIQUE KEY (a))",
        "CREATE TABLE empty_one (id INT PRIMARY KEY)",
        "CREATE TABLE parent (id INT PRIMARY KEY, child INT, KEY (child))",
        "CREATE TABLE child (id INT PRIMARY KEY, parent INT, at INT,
            CONSTRAINT up FOREIGN KEY (parent) REFERENCES parent (id) ON DELETE CASCADE,
            CONSTRAINT self FOREIGN KEY (at) REFERENCES child (id))",
        "ALTER TABLE parent ADD CONSTRAINT down FOREIGN KEY (child) REFERENCES child (id)",
    ]
}

fn values() -> [&'static str; 13] {
    [
        "INSERT INTO kinds (id, f, d, de, bt, b1, y, e, s) VALUES
            (0, 16777216, 0.1, 1, b'1', b'1', 2155, 'a', 'x,z'), (1, 3.4028234e38, 5e-324, -1.5, ~0, \
                b'0', 1901, '', ''),
            (2, 1e-45, -0e0, 99999999999999999999999999999999999.000000000000000000000000000001, 0, \
                NULL, 0000, '3', NULL),
            (18446744073709551614, 0.1, 1.7976931348623157e308, NULL, NULL, NULL, NULL, 'a', 'y')",
        "INSERT INTO kinds (id, e, e2) VALUES (5, 'no such member', 'é'), (6, 0, 'ß')",
        "INSERT INTO kinds (id, e, t, l, u, g) VALUES (10, 'a', '密信 🚢 é', 'é ß', '𝄞 x', '中文')",
        "INSERT INTO kinds (id, e, t, c) VALUES (11, 'a', '\\\\N', 'NULL'), (12, 'a', '', ''), (13, 'a', \
            NULL, 'a '), (14, 'a', 'a\\tb\\nc\\\\d\\re\\Z\\'\"%_', 'x')",
        "INSERT INTO kinds (id, e, t) VALUES (15, 'a', CONCAT('nul', CHAR(0), 'nul', CHAR(8), 'bs'))",
        "INSERT INTO kinds (id, e, bin, vb, bl) VALUES (20, 'a', x'00', x'', \
            x'0001090A0D1A22275C5F25FF'), (21, 'a', NULL, NULL, REPEAT(x'00FF5C0A', 700000))",
        "INSERT INTO kinds (id, e, j) VALUES (30, 'a', '{\"a\": [1.0, 18446744073709551615, null], \
            \"ü\": \"🚢\\\\n\"}'), (31, 'a', '[]')",
        "INSERT INTO kinds (id, e, p) VALUES (40, 'a', ST_GeomFromText('POINT(1.5 -2)')), (41, 'a', \
            ST_GeomFromText('POINT(1 2)', 4326))",
        "INSERT INTO kinds (id, e, dt, ts, da, ti) VALUES
            (50, 'a', '0000-00-00 00:00:00', '2025-11-02 01:30:00.123', '0000-00-00', '-838:59:59'),
            (51, 'a', '9999-12-31 23:59:59.999999', '1970-01-01 08:00:01', '2025-00-00', '838:59:59')",
        "INSERT INTO gen (a, h) VALUES (1, 1), (2, DEFAULT)",
        "INSERT INTO parted VALUES (1, '2024-06-01', 'old'), (2, '2025-06-01', 'new'), (1, '2025-06-01', \
            'x')",
        "INSERT INTO keyless VALUES (1, 'a'), (1, 'a'), (NULL, NULL)",
        "INSERT INTO unique_null VALUES (1, 1), (NULL, 2), (NULL, 2)",
    ]
}

fn programs() -> [&'static str; 21] {
    [
        "SET foreign_key_checks = 0",
        "INSERT INTO parent VALUES (1, 2), (2, NULL)",
        "INSERT INTO child VALUES (1, 1, NULL), (2, 2, 1)",
        "INSERT INTO counts_second (a) VALUES (1), (1), (2)",
        "CREATE TABLE log (n INT PRIMARY KEY AUTO_INCREMENT, what VARCHAR(40))",
        // A view that needs another whose name comes later, and a function.
        "CREATE FUNCTION twice (n INT) RETURNS INT DETERMINISTIC RETURN n * 2",
        "CREATE VIEW z_base AS SELECT id, 'it''s é 🚢' AS text FROM kinds",
        "CREATE VIEW a_top AS SELECT id, twice(1) AS two, text FROM z_base WHERE id > 0",
        "CREATE SQL SECURITY INVOKER VIEW m_other (`odd ``column`) AS SELECT two FROM a_top",
        "CREATE TRIGGER t1 BEFORE INSERT ON keyless FOR EACH ROW SET NEW.a = NEW.a + 1",
        "CREATE TRIGGER t3 BEFORE INSERT ON keyless FOR EACH ROW FOLLOWS t1 SET NEW.a = NEW.a * 2",
        "CREATE TRIGGER t2 BEFORE INSERT ON keyless FOR EACH ROW PRECEDES t3 INSERT INTO log (what) \
            VALUES ('t2; ''x'' ;; é')",
        "SET SESSION sql_mode = 'ANSI_QUOTES,NO_BACKSLASH_ESCAPES'",
        "CREATE PROCEDURE quoting () BEGIN DECLARE \"x y\" INT; SET \"x y\" = 1; INSERT INTO log (what) \
            VALUES ('a\\'); END",
        "SET SESSION sql_mode = 'STRICT_TRANS_TABLES'",
        "SET NAMES latin1 COLLATE latin1_german1_ci",
        "CREATE PROCEDURE other_charset () COMMENT 'x' SELECT 'latin1 text'",
        "SET NAMES utf8mb4, SESSION time_zone = '+02:00'",
        "CREATE EVENT later ON SCHEDULE EVERY 1 DAY STARTS '2037-01-01 00:00:00' ON COMPLETION PRESERVE \
            DISABLE COMMENT 'it''s' DO BEGIN DELETE FROM log; END",
        "ALTER DATABASE COLLATE utf8mb4_unicode_ci",
        "CREATE PROCEDURE other_collation (INOUT x VARCHAR(10)) SET x = 'é'",
    ]
}

fn mysql_only() -> [&'static str; 8] {
    [
        "SET SESSION sql_generate_invisible_primary_key = ON",
        "CREATE TABLE gipk (a VARCHAR(10))",
        "SET SESSION sql_generate_invisible_primary_key = OFF",
        "INSERT INTO gipk VALUES ('x'), ('y')",
        "CREATE TABLE functional (id INT PRIMARY KEY, j JSON, KEY k ((CAST(j->>'$.a' AS UNSIGNED))), KEY \
            d (id DESC))",
        "INSERT INTO functional VALUES (1, '{\"a\": 7}')",
        "CREATE TABLE vectors (id INT PRIMARY KEY, v VECTOR(3), g GEOMETRY NOT NULL SRID 4326, SPATIAL \
            KEY (g))",
        "INSERT INTO vectors VALUES (1, TO_VECTOR('[1,2.5,-3]'), ST_GeomFromText('POINT(1 2)', 4326))",
    ]
}

fn mariadb_only() -> [&'static str; 11] {
    [
        "CREATE SEQUENCE seq START WITH 100 INCREMENT BY 5 CACHE 10",
        "DO NEXTVAL(seq)",
        "CREATE TABLE of_seq (id BIGINT DEFAULT NEXTVAL(seq) PRIMARY KEY, u UUID, i4 INET4, i6 INET6)",
        "INSERT INTO of_seq (u, i4, i6) VALUES ('123e4567-e89b-12d3-a456-426655440000', '10.0.0.1', '::1')",
        "CREATE TABLE versioned (id INT PRIMARY KEY, v INT, KEY (v)) WITH SYSTEM VERSIONING",
        "INSERT INTO versioned VALUES (1, 1), (2, 2)",
        "UPDATE versioned SET v = 3 WHERE id = 1",
        "DELETE FROM versioned WHERE id = 2",
        "CREATE TABLE period (id INT PRIMARY KEY, s TIMESTAMP(6) GENERATED ALWAYS AS ROW START, e \
            TIMESTAMP(6) GENERATED ALWAYS AS ROW END, PERIOD FOR SYSTEM_TIME (s, e)) WITH SYSTEM VERSIONING",
        "INSERT INTO period (id) VALUES (1), (2)",
        "DELETE FROM period WHERE id = 1",
    ]
}

fn odd_names() -> Vec<String> {
    let db = quoted(&names()[1]);
    let names = ["a.b", "new\nline", "per%cent", "sla/sh", "schema.sql", "`tick'\"", "..", "表"];
    let tables = names.map(|name| {
        let table = quoted(name);
        [
            format!(
                "CREATE TABLE {db}.{table} (`x``y` INT PRIMARY KEY, `a b,(` VARCHAR(9) DEFAULT \
                '),`', KEY `k,(` (`a b,(`)) COMMENT='{}'",
                name.replace('\'', "''")
            ),
            format!("INSERT INTO {db}.{table} VALUES (1, 'v')"),
        ]
    });
    tables.into_iter().flatten().collect()
}

async fn accounts_are_copied_and_those_that_exist_are_left_alone(product: Product) {
    let (from, to) = (Server::empty(product).await, Server::empty(product).await);
    let role = if product == Product::Mysql { "`keeper`@`%`" } else { "`keeper`" };
    let setup = vec![
        "CREATE DATABASE lbt_acc".to_owned(),
        "CREATE TABLE lbt_acc.t (a INT PRIMARY KEY, b INT)".to_owned(),
        "CREATE TABLE lbt_acc.gone (a INT)".to_owned(),
        format!("CREATE ROLE {role}"),
        "CREATE USER 'app'@'%' IDENTIFIED BY 'it''s secret'".to_owned(),
        "CREATE USER 'o''dd @ `user'@'10.%' IDENTIFIED BY 'x'".to_owned(),
        "CREATE USER 'there'@'%' IDENTIFIED BY 'source'".to_owned(),
        format!("GRANT SELECT ON lbt_acc.* TO {role}"),
        format!("GRANT {role} TO 'app'@'%'"),
        "GRANT INSERT (a), UPDATE (b) ON lbt_acc.t TO 'app'@'%' WITH GRANT OPTION".to_owned(),
        "GRANT SELECT ON lbt_acc.gone TO 'app'@'%'".to_owned(),
        "DROP TABLE lbt_acc.gone".to_owned(),
        match product {
            Product::Mysql => "SET DEFAULT ROLE `keeper` TO 'app'@'%'".to_owned(),
            Product::Mariadb => "SET DEFAULT ROLE keeper FOR 'app'@'%'".to_owned(),
        },
        "CREATE DEFINER='app'@'%' VIEW lbt_acc.v AS SELECT a FROM lbt_acc.t".to_owned(),
    ];
    from.run(setup).await;
    to.run(["CREATE USER 'there'@'%' IDENTIFIED BY 'target'"]).await;
    let options = WriteOptions::default();
    let tally = pipe(source(&from.config), target(&to.config), options).await;
    let tally = tally.unwrap_or_else(|error| panic!("the pipe runs: {error:?}"));
    let notes = tally.notes.join("\n");
    assert!(notes.contains("`there`@`%`") && notes.contains("`root`"), "{notes}");
    assert!(notes.contains("not there"), "the grant for the dropped table is noted: {notes}");

    let mut app = to.conn_as("app", "it's secret").await.expect("the copied account logs in");
    let query = "SELECT COUNT(*) FROM lbt_acc.t";
    let count: Option<u64> = app.query_first(query).await.unwrap();
    assert_eq!(count, Some(0), "the default role is active");
    to.conn_as("there", "target").await.expect("an account that existed keeps its password");
}

async fn one_table_comes_back_alone(product: Product) {
    let server = Server::shared(product).await;
    let db = &own("alone");
    server
        .run([
            format!("DROP DATABASE IF EXISTS {db}"),
            format!("CREATE DATABASE {db}"),
            format!("CREATE TABLE {db}.lost (id INT PRIMARY KEY, v INT, KEY (v))"),
            format!("CREATE TABLE {db}.kept (id INT PRIMARY KEY)"),
            format!("INSERT INTO {db}.lost VALUES (1, 1), (2, 2)"),
        ])
        .await;
    let config = server.only(&[db]);
    let recorded = crate::rows::Recorded::read(&config).await;
    server
        .run([format!("INSERT INTO {db}.kept VALUES (7)"), format!("DELETE FROM {db}.lost WHERE id = 1")])
        .await;
    let only = Selection::new(&[format!("{db}.lost")]).unwrap();
    let refused =
        recorded.write(&config, WriteOptions { only: only.clone(), ..WriteOptions::default() }).await;
    assert!(refused.unwrap_err().to_string().contains(&format!("table {db}.lost")));
    recorded
        .write(&config, WriteOptions { replace: true, only, ..WriteOptions::default() })
        .await
        .expect("one table is restored");
    assert_eq!(server.ask(&format!("SELECT COUNT(*) FROM {db}.lost")).await, "2");
    assert_eq!(server.ask(&format!("SELECT COUNT(*) FROM {db}.kept")).await, "1");
    server.run([format!("DROP DATABASE {db}")]).await;
}

async fn a_view_that_points_nowhere_is_kept_as_text_and_noted(product: Product) {
    let server = Server::shared(product).await;
    let db = &own("broken");
    server
        .run([
            format!("DROP DATABASE IF EXISTS {db}"),
            format!("CREATE DATABASE {db}"),
            format!("CREATE TABLE {db}.gone (id INT)"),
            format!("CREATE VIEW {db}.broken AS SELECT id FROM {db}.gone"),
            format!("CREATE VIEW {db}.above AS SELECT id FROM {db}.broken"),
            format!("DROP TABLE {db}.gone"),
            format!("CREATE VIEW {db}.good AS SELECT 1 AS one"),
        ])
        .await;
    let config = server.only(&[db]);
    let recorded = crate::rows::Recorded::read(&config).await;
    let views = recorded.entries.iter().filter(|(meta, ..)| meta.text("kind") == Some("view"));
    assert_eq!(views.count(), 3, "the text of all three is kept");
    let options = WriteOptions { replace: true, ..WriteOptions::default() };
    let tally = recorded.write(&config, options).await.expect("the rest is restored");
    assert_eq!(tally.notes.len(), 2, "{:?}", tally.notes);
    assert!(tally.notes.iter().any(|note| note.contains(&format!("`{db}.broken` was broken"))));
    assert_eq!(server.ask(&format!("SELECT one FROM {db}.good")).await, "1");
    let count = format!("SELECT COUNT(*) FROM information_schema.views WHERE table_schema = '{db}'");
    assert_eq!(server.ask(&count).await, "1", "no stand-in is left behind");
    server.run([format!("DROP DATABASE {db}")]).await;
}

async fn what_the_policy_leaves_out_is_not_read(product: Product) {
    let server = Server::shared(product).await;
    let (left, leftover) = (own("left"), own("leftover"));
    for db in [&left, &leftover] {
        server
            .run([
                format!("DROP DATABASE IF EXISTS {db}"),
                format!("CREATE DATABASE {db}"),
                format!("CREATE TABLE {db}.kept (id INT PRIMARY KEY)"),
                format!("CREATE TABLE {db}.log_2025 (id INT PRIMARY KEY)"),
            ])
            .await;
    }
    let mut config = server.only(&[&own("left*")]);
    config.exclude.extend([leftover.clone(), "*.log_*".to_owned()]);
    let reading = read_all(source(&config)).await.expect("the rest is read");
    assert_eq!(reading.inventory, [left.clone(), format!("{left}.kept")]);
    server.run([format!("DROP DATABASE {left}"), format!("DROP DATABASE {leftover}")]).await;
}
