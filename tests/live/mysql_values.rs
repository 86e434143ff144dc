//! Values of every type, in every charset, from a server of one habit to a server of another: each byte as it was.

use std::collections::BTreeMap;

use lifeboat::{
    event::Recorder,
    flow::{Stage, WriteOptions},
    mysql::MysqlSource,
};
use mysql_async::prelude::Queryable;

use crate::{
    rows::{Recorded, fill, fresh},
    support::{Product, Server, own, source, target},
};

crate::on_both!(
    every_value_comes_back_on_a_server_of_other_habits,
    what_a_server_does_not_show_is_told,
    a_long_value_comes_back_in_bounded_memory,
    a_row_that_is_too_long_is_told_by_table_and_key,
    a_changed_hundredth_adds_little,
);

/// How the source and the target differ from a server as it comes.
fn habits(product: Product) -> [Vec<&'static str>; 2] {
    match product {
        Product::Mysql => [
            vec![
                "--sql-mode=NO_BACKSLASH_ESCAPES,PAD_CHAR_TO_FULL_LENGTH",
                "--default-time-zone=-03:30",
                "--show-gipk-in-create-table-and-information-schema=OFF",
            ],
            vec![
                "--sql-mode=ANSI,PIPES_AS_CONCAT,STRICT_ALL_TABLES,NO_ZERO_DATE",
                "--default-time-zone=+05:45",
                "--sql-generate-invisible-primary-key=ON",
            ],
        ],
        Product::Mariadb => [
            vec!["--sql-mode=ORACLE,PAD_CHAR_TO_FULL_LENGTH", "--default-time-zone=-03:30"],
            vec!["--sql-mode=ANSI,NO_BACKSLASH_ESCAPES,STRICT_ALL_TABLES", "--default-time-zone=+05:45"],
        ],
    }
}

/// The charsets, each with text of its own as bytes: letters whose second byte is a backslash, or a tab, or none.
const CHARSETS: [(&str, &str); 12] = [
    ("latin1", "E9DF5CFF80"),
    ("gbk", "815CD6D0"),
    ("sjis", "835C955CB1"),
    ("big5", "A55CA4A4"),
    ("cp932", "955C835C8160"),
    ("ucs2", "005C00094E2D0A5C"),
    ("utf16", "005C0009D83DDC2C0A0D"),
    ("utf16le", "5C0009003DD82CDC0D0A"),
    ("utf32", "0000005C0001F42C00000009"),
    ("utf8mb3", "C3A9E4B8AD5C"),
    ("utf8mb4", "F09F90ACC3A95C4E"),
    ("binary", "FF005C090A0D1A2227C3"),
];

/// Text that something once took for something else, as hexadecimal ASCII.
const AWKWARD: [&str; 9] = [
    "",
    "5C4E",
    "4E554C4C",
    "0008090A0D1A22275C5F25",
    "5C5C275C30",
    "20",
    "61202020",
    "5C745C6E5C30",
    "2C282930783B2D2D",
];

/// Makes the table of one charset, with the awkward values in all types of text.
fn of_charset(charset: &str, own_text: &str) -> Vec<String> {
    let members = if charset == "binary" { "'a','?'" } else { "'a','it''s','Z\t','\\\\n'" };
    let mut all = vec![format!(
        "CREATE TABLE in_{charset} (id INT PRIMARY KEY, c CHAR(40), v VARCHAR(60), t TEXT, l LONGTEXT, \
         e ENUM({members}), s SET({members}), n VARCHAR(9) DEFAULT 'it''s') CHARACTER SET {charset}"
    )];
    let ascii = |hex: &str| format!("CONVERT(_latin1 x'{hex}' USING {charset})");
    let mut texts: Vec<String> = AWKWARD.iter().map(|hex| ascii(hex)).collect();
    texts.push(format!("_{charset} x'{own_text}'"));
    // What a client of another charset once stored: UTF-8 taken for letters of Latin 1.
    texts.push(ascii("C3A9C3AF"));
    for (at, text) in texts.iter().enumerate() {
        let (id, member) = (at + 1, 1 + at % 2);
        all.push(format!(
            "INSERT INTO in_{charset} VALUES ({id}, {text}, {text}, {text}, {text}, {member}, {member}, NULL)"
        ));
    }
    all
}

/// Tables of bits, sets, times, and as many columns as there can be.
fn of_many_columns() -> Vec<String> {
    let bits: Vec<String> = (1..=64).map(|n| format!("b{n} BIT({n})")).collect();
    let members: Vec<String> = (0..64).map(|n| format!("'m{n}'")).collect();
    let ones: Vec<String> = (1..=64).map(|n| format!("b'{}'", "1".repeat(n))).collect();
    let some: Vec<String> = (1..=64).map(|n| format!("b'{}'", &"10".repeat(n)[..n])).collect();
    let zeros = ["0"; 64];
    let wide: Vec<String> = (0..1_017).map(|n| format!("c{n} TINYINT")).collect();
    let numbers: Vec<String> = (0..1_017).map(|n| (n % 100).to_string()).collect();
    let fractions: Vec<String> =
        (0..=6).map(|n| format!("d{n} DATETIME({n}), t{n} TIME({n}), s{n} TIMESTAMP({n}) NULL")).collect();
    let least = "'0000-00-00 00:00:00', '-838:59:59', '1970-01-01 00:00:01'";
    let most = "'9999-12-31 23:59:59', '838:59:59', '2038-01-19 03:14:07'";
    let split = "'0000-01-01 00:00:00.987654', '-00:00:00.123456', '2025-11-02 01:30:00.999999'";
    let seven = |values: &str| [values; 7].join(",");
    vec![
        format!("CREATE TABLE bits (id INT PRIMARY KEY, {})", bits.join(",")),
        format!(
            "INSERT INTO bits VALUES (1, {}), (2, {}), (3, {})",
            ones.join(","),
            some.join(","),
            zeros.join(",")
        ),
        format!("CREATE TABLE sets (id INT PRIMARY KEY, s SET({}))", members.join(",")),
        "INSERT INTO sets VALUES (1, 0), (2, 18446744073709551615), (3, 9223372036854775808), \
         (4, 6148914691236517205), (5, NULL)"
            .to_owned(),
        format!("CREATE TABLE wide ({})", wide.join(",")),
        format!("INSERT INTO wide VALUES ({})", numbers.join(",")),
        "INSERT INTO wide (c1016) VALUES (-128)".to_owned(),
        format!("CREATE TABLE times (id INT PRIMARY KEY, y YEAR, da DATE, {})", fractions.join(",")),
        format!("INSERT INTO times VALUES (1, 0, '0000-00-00', {})", seven(least)),
        format!("INSERT INTO times VALUES (2, 2155, '9999-12-31', {})", seven(most)),
        format!("INSERT INTO times VALUES (3, 1901, '0000-01-01', {})", seven(split)),
        "INSERT INTO times (id, da) VALUES (4, '2025-02-00'), (5, '0001-01-01')".to_owned(),
    ]
}

/// Tables of numbers, bytes, shapes and documents, and of columns that fill themselves.
fn of_other_types(product: Product) -> Vec<String> {
    // MariaDB takes documents of so many levels, MySQL of a hundred.
    let levels = if product == Product::Mysql { 99 } else { 31 };
    vec![
        "CREATE TABLE numbers (id BIGINT UNSIGNED PRIMARY KEY, ti TINYINT, s SMALLINT UNSIGNED, m MEDIUMINT, \
         i INT UNSIGNED ZEROFILL, b BIGINT, f FLOAT, d DOUBLE, de DECIMAL(65,30), d2 DECIMAL(20,0))"
            .to_owned(),
        "INSERT INTO numbers VALUES (0, -128, 65535, -8388608, 7, -9223372036854775808, 1e-45, 5e-324, \
         -99999999999999999999999999999999999.999999999999999999999999999999, 0), \
         (18446744073709551615, 127, 0, 8388607, 4294967295, 9223372036854775807, 3.4028234e38, \
         1.7976931348623157e308, 0.000000000000000000000000000001, -99999999999999999999), \
         (2, 0, 0, 0, 0, 0, -0e0, -0e0, 0, 0), (3, 1, 1, 1, 1, 1, 16777217, 0.1, 0.1, 1), \
         (4, 1, 1, 1, 1, 1, 0.1, 1e15, -0.5, 1), (5, 1, 1, 1, 1, 1, 1.17549435e-38, 123456789012345678, 1, 1)"
            .to_owned(),
        "CREATE TABLE bytes (id INT PRIMARY KEY, b BINARY(8), v VARBINARY(20), tb TINYBLOB, bl BLOB, mb MEDIUMBLOB)"
            .to_owned(),
        "INSERT INTO bytes VALUES (1, x'00', x'', x'00', x'5C4E', x'FF'), (2, x'2020000000000020', x'20', \
         x'0A', x'', x'00'), (3, NULL, NULL, NULL, NULL, NULL)"
            .to_owned(),
        "CREATE TABLE shapes (id INT PRIMARY KEY, g GEOMETRY, p POINT, l LINESTRING)".to_owned(),
        "INSERT INTO shapes VALUES (1, ST_GeomFromText('GEOMETRYCOLLECTION EMPTY'), NULL, NULL), \
         (2, ST_GeomFromText('POINT(1 2)', 4326), ST_GeomFromText('POINT(-0.1 1e300)'), \
         ST_GeomFromText('LINESTRING(0 0,1 1,2 -3)'))"
            .to_owned(),
        "CREATE TABLE by_default (id INT PRIMARY KEY, u VARCHAR(40) DEFAULT (UUID()), n INT DEFAULT (1 + 1), \
         d DATE DEFAULT (CURRENT_DATE), at TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP(3) ON UPDATE \
         CURRENT_TIMESTAMP(3))"
            .to_owned(),
        "INSERT INTO by_default VALUES (1, 'kept', 5, '2001-02-03', '2001-02-03 04:05:06.789'), \
         (2, NULL, NULL, NULL, '1999-12-31 23:59:59')"
            .to_owned(),
        "CREATE TABLE documents (id INT PRIMARY KEY, j JSON)".to_owned(),
        format!(
            "INSERT INTO documents VALUES (1, '{}1{}'), (2, '[1.0, -0.0, 18446744073709551615, 1e300, null, true]'), \
             (3, '\"\"'), (4, '{{\"a\": 1, \"b\": {{\"中文\": \"🐬\"}}, \"a\": 2}}'), (5, NULL)",
            "[".repeat(levels),
            "]".repeat(levels)
        ),
        "CREATE TABLE only_generated (a INT AS (1) STORED, b INT AS (a + 1) VIRTUAL)".to_owned(),
        "INSERT INTO only_generated () VALUES (), (), ()".to_owned(),
        "CREATE TABLE counted (id INT AUTO_INCREMENT PRIMARY KEY, v INT, KEY (v))".to_owned(),
        "INSERT INTO counted (v) VALUES (1), (2), (3), (4), (5)".to_owned(),
        "DELETE FROM counted WHERE id > 2".to_owned(),
    ]
}

/// Tables whose primary key the server made, and does not show.
fn with_hidden_keys(product: Product) -> Vec<String> {
    if product == Product::Mariadb {
        return Vec::new();
    }
    [
        "SET SESSION sql_generate_invisible_primary_key = ON, \
         show_gipk_in_create_table_and_information_schema = ON",
        "CREATE TABLE hidden_key (v VARCHAR(9))",
        "SET SESSION sql_generate_invisible_primary_key = OFF",
        "INSERT INTO hidden_key (my_row_id, v) VALUES (7, 'seven'), (9, 'nine'), (18446744073709551614, 'last')",
        "CREATE TABLE no_key (v VARCHAR(9))",
        "INSERT INTO no_key VALUES ('a'), ('a')",
    ]
    .map(str::to_owned)
    .to_vec()
}

/// Returns for each table one digest of all its values, as the server itself tells their bytes.
async fn digests(server: &Server, product: Product, db: &str) -> BTreeMap<String, String> {
    let mut conn = server.conn().await;
    conn.query_drop(
        "SET NAMES utf8mb4, SESSION sql_mode = '', time_zone = '+00:00', group_concat_max_len = 50000000",
    )
    .await
    .unwrap();
    if product == Product::Mysql {
        conn.query_drop("SET SESSION show_gipk_in_create_table_and_information_schema = ON").await.unwrap();
    }
    let columns: Vec<(String, String, String)> = conn
        .query(format!(
            "SELECT table_name, column_name, data_type FROM information_schema.columns WHERE table_schema = '{db}' \
             ORDER BY table_name, ordinal_position"
        ))
        .await
        .unwrap();
    let mut tables: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (table, column, data_type) in columns {
        let told = match data_type.as_str() {
            "float" => format!("CAST({column} AS DOUBLE)"),
            "enum" | "set" => format!("CONCAT(CAST({column} AS UNSIGNED), HEX({column}))"),
            "json" => format!("HEX(CAST({column} AS CHAR))"),
            kind if kind.contains("int") || ["decimal", "double", "year"].contains(&kind) => column,
            kind if kind.contains("date") || kind.contains("time") => column,
            _ => format!("HEX({column})"),
        };
        tables.entry(table).or_default().push(format!("IFNULL({told}, 'NULL')"));
    }
    let mut digests = BTreeMap::new();
    for (table, told) in tables {
        // A statement may not be so wide that each row's text would be too long.
        let row = format!("SHA2(CONCAT_WS('|', {}), 256)", told.join(", "));
        let sql = format!("SELECT SHA2(GROUP_CONCAT({row} ORDER BY {row}), 256) FROM {db}.{table}");
        let digest: Option<String> = conn.query_first(sql).await.unwrap().expect("a row");
        digests.insert(table, digest.expect("a digest"));
    }
    conn.disconnect().await.unwrap();
    digests
}

async fn every_value_comes_back_on_a_server_of_other_habits(product: Product) {
    let [of_source, of_target] = habits(product);
    let (from, to) =
        tokio::join!(Server::empty_with(product, &of_source), Server::empty_with(product, &of_target));
    let db = "all_values";
    let mut statements = vec![
        "SET NAMES utf8mb4, SESSION sql_mode = 'NO_AUTO_VALUE_ON_ZERO', SESSION time_zone = '+00:00'"
            .to_owned(),
        format!("CREATE DATABASE {db} CHARACTER SET utf8mb4"),
        format!("USE {db}"),
    ];
    for (charset, own_text) in CHARSETS {
        statements.extend(of_charset(charset, own_text));
    }
    statements.extend(of_many_columns());
    statements.extend(of_other_types(product));
    statements.extend(with_hidden_keys(product));
    from.run(statements).await;
    let expected = digests(&from, product, db).await;
    let recorded = Recorded::read(&from.only(&[db])).await;
    for (way, local_infile) in [("LOAD DATA", 1), ("INSERT", 0)] {
        to.run([format!("SET GLOBAL local_infile = {local_infile}")]).await;
        let options = WriteOptions { replace: true, ..WriteOptions::default() };
        recorded.write(&to.only(&[db]), options).await.unwrap_or_else(|error| panic!("{way}: {error:?}"));
        assert_eq!(digests(&to, product, db).await, expected, "by {way}");
        let again = Recorded::read(&to.only(&[db])).await;
        for table in expected.keys() {
            assert!(again.rows(table) == recorded.rows(table), "`{table}` is read otherwise after {way}");
        }
        let definitions = |of: &Recorded| -> BTreeMap<String, Vec<lifeboat::flow::Piece>> {
            let schema = of.entries.iter().filter(|(meta, ..)| meta.stage == Stage::Schema);
            schema.map(|(meta, pieces, _)| (meta.path.to_string(), pieces.clone())).collect()
        };
        assert_eq!(definitions(&again), definitions(&recorded), "after {way}");
    }
    // A number that was given once is not given again, not even when the server forgot what it had in mind.
    to.restart().await;
    to.run([format!("INSERT INTO {db}.counted (v) VALUES (6)")]).await;
    assert_eq!(to.ask(&format!("SELECT MAX(id) FROM {db}.counted")).await, "6");
}

async fn what_a_server_does_not_show_is_told(product: Product) {
    let server = Server::shared(product).await;
    let db = &own("doubts");
    server
        .run([
            "SET NAMES utf8mb4".to_owned(),
            format!("DROP DATABASE IF EXISTS {db}"),
            format!("CREATE DATABASE {db} CHARACTER SET utf8mb4"),
            format!("USE {db}"),
            "CREATE TABLE t (id INT PRIMARY KEY, e ENUM('🐬', 'b'), d VARCHAR(9) DEFAULT '🐬?', q VARCHAR(9) \
             DEFAULT 'why?', j JSON, k JSON, l JSON)"
                .to_owned(),
            "INSERT INTO t (id, e, j, k, l) VALUES (1, 1, JSON_OBJECT('at', CAST('2025-01-02' AS DATE)), '{\"a\": 1.5}', \
             JSON_OBJECT('d', CAST('0.12345678901234567891' AS DECIMAL(30, 20)))), (2, 2, NULL, NULL, NULL)"
                .to_owned(),
        ])
        .await;
    let watch = std::sync::Arc::new(Recorder::default());
    let monitor: std::sync::Arc<dyn lifeboat::event::Monitor> = watch.clone();
    let name = lifeboat::names::SourceName::new("mysql").unwrap();
    let ground = lifeboat::clock::Ground::system();
    let source = MysqlSource::new(name, server.only(&[db]), ground, monitor);
    let recorded = Recorded::of(Box::new(source)).await.expect("it is read");
    let lossy: &[&str] = if product == Product::Mysql { &["e", "j", "l"] } else { &["e", "d"] };
    let columns: Vec<String> = lossy.iter().map(|column| format!("{db}.t.{column}")).collect();
    assert_eq!(recorded.point.marks["lossy_columns"], columns.join(", "));
    let warnings = watch.warnings();
    assert_eq!(warnings.len(), lossy.len(), "{warnings:?}");
    server.run([format!("DROP DATABASE {db}")]).await;
}

/// Returns the most memory that this process has held so far.
fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("the kernel tells it");
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() >> 10
}

/// How long the long value is; longer by hand with `LIFEBOAT_LONG_MIB`.
fn long_mib() -> u64 {
    std::env::var("LIFEBOAT_LONG_MIB").map_or(32, |mib| mib.parse().expect("a number"))
}

async fn a_long_value_comes_back_in_bounded_memory(product: Product) {
    let log =
        if product == Product::Mysql { "--innodb-redo-log-capacity=2G" } else { "--innodb-log-file-size=1G" };
    let arguments = ["--max-allowed-packet=1G", "--skip-log-bin", log];
    let (from, to) =
        tokio::join!(Server::empty_with(product, &arguments), Server::empty_with(product, &arguments));
    from.run([
        "CREATE DATABASE big".to_owned(),
        "CREATE TABLE big.t (id INT PRIMARY KEY, b LONGBLOB)".to_owned(),
        format!(
            "INSERT INTO big.t VALUES (1, 'x'), (2, REPEAT(x'00FF0A5C', {})), (3, 'y')",
            long_mib() << 18
        ),
    ])
    .await;
    let digest = "SELECT SHA2(b, 256) FROM big.t WHERE id = 2";
    let expected = from.ask(digest).await;
    let before = peak_mib();
    let piped = lifeboat::flow::pipe(
        source(&from.only(&["big"])),
        target(&to.only(&["big"])),
        WriteOptions::default(),
    );
    piped.await.expect("it is copied");
    eprintln!("{product:?}: peak {} MiB, {before} MiB before", peak_mib());
    assert_eq!(to.ask(digest).await, expected);
    assert_eq!(to.ask("SELECT COUNT(*) FROM big.t").await, "3");
    // The packet and the value taken out of it; nothing else is held whole.
    assert!(peak_mib() < 100 + 3 * long_mib(), "{} MiB", peak_mib());
}

async fn a_row_that_is_too_long_is_told_by_table_and_key(product: Product) {
    let server = Server::shared(product).await;
    let db = &own("too_long");
    server
        .run([
            format!("DROP DATABASE IF EXISTS {db}"),
            format!("CREATE DATABASE {db}"),
            format!("CREATE TABLE {db}.t (name VARCHAR(20) PRIMARY KEY, b LONGBLOB)"),
            format!(
                "INSERT INTO {db}.t VALUES ('a', 'x'), ('aa', REPEAT('x', 1500000)), ('b', REPEAT('x', 3000000)), \
                 ('c', 'x')"
            ),
        ])
        .await;
    let name = lifeboat::names::SourceName::new("mysql").unwrap();
    let (ground, monitor) = (lifeboat::clock::Ground::system(), lifeboat::event::NoMonitor::shared());
    let source = MysqlSource::new(name, server.only(&[db]), ground, monitor).rows_of_at_most(2 << 20);
    let error = Recorded::of(Box::new(source)).await.err().expect("a row is too long").to_string();
    assert!(
        error.contains(&format!("table `{db}.t`: the row behind key (aa) is longer than 2.00 MiB")),
        "{error}"
    );
    server.run([format!("DROP DATABASE {db}")]).await;
}

async fn a_changed_hundredth_adds_little(product: Product) {
    let server = Server::shared(product).await;
    let db = &own("adds");
    fresh(&server, db).await;
    fill(&server, db, "t", "PRIMARY KEY (id)", 300_000).await;
    let config = server.only(&[db]);
    let before = Recorded::read(&config).await.chunks();
    let whole: usize = before.values().sum();
    let added = |after: &BTreeMap<Vec<u8>, usize>| {
        let new = after.iter().filter(|(id, _)| !before.contains_key(*id)).map(|(_, size)| size);
        new.sum::<usize>() as f64 * 100.0 / whole as f64
    };
    // What a chat does in a day: a hundredth more, and some of the newest rows again.
    server
        .run([
            format!("INSERT INTO {db}.t SELECT id + 600000, grp, name, v FROM {db}.t WHERE id < 6000"),
            format!(
                "UPDATE {db}.t SET v = CONCAT('edited ', LEFT(v, 200)) WHERE id >= 588000 AND id MOD 20 = 0"
            ),
        ])
        .await;
    let recent = added(&Recorded::read(&config).await.chunks());
    eprintln!(
        "{product:?}: 1 % appended and 0.2 % of the newest rows updated adds {recent:.1} % of {whole} bytes"
    );
    assert!(recent <= 6.0, "{recent:.1} % were added");
    // One row in every part of the table costs the chunk that it is in, and no more.
    server
        .run([format!("UPDATE {db}.t SET v = 'x' WHERE id IN (1000, 100000, 200000, 300000, 400000)")])
        .await;
    let scattered = added(&Recorded::read(&config).await.chunks());
    eprintln!("{product:?}: five rows apart on top of that: {scattered:.1} %");
    let most = recent + 5.0 * f64::from(4 << 20) * 100.0 / whole as f64;
    assert!(scattered <= most, "{scattered:.1} % were added");
    server.run([format!("DROP DATABASE {db}")]).await;
}
