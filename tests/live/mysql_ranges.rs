//! Tables divided by keys of every type, order and distribution: each row comes once.

use std::collections::BTreeSet;

use lifeboat::{clock::Ground, event::NoMonitor, mysql::MysqlSource, names::SourceName, policy::MysqlConfig};

use crate::{
    rows::Recorded,
    support::{Product, Server, own},
};

crate::on_both!(
    a_table_is_divided_by_a_key_of_any_type,
    a_table_is_divided_by_text_as_its_collation_orders_it,
    no_distribution_of_keys_loses_a_row_or_gives_it_twice,
);

/// Rows of each table, and of each range: three ranges and more.
const ROWS: u64 = 2_500;
const RANGE_ROWS: u64 = 600;

/// A table that is divided: its name, the definition of its key, what the key of row `n` is, and how many ranges it
/// must at least have. A key that cannot be divided is read in one.
type Keyed = (&'static str, &'static str, &'static str, usize);

const BY_TYPE: [Keyed; 24] = [
    ("negative", "k BIGINT, PRIMARY KEY (k)", "CAST(n AS SIGNED) * 3 - 4000", 3),
    ("huge", "k BIGINT UNSIGNED, PRIMARY KEY (k)", "18446744073709551615 - n * 7", 3),
    ("gap", "k BIGINT, PRIMARY KEY (k)", "IF(n < 1250, n, 9000000000000000000 + n)", 3),
    ("decimals", "k DECIMAL(65,30), PRIMARY KEY (k)", "n / 7 - 1000000000000000000000000000000000.5", 3),
    ("floats", "k FLOAT, PRIMARY KEY (k)", "n / 7 - 100", 3),
    ("tiny_floats", "k FLOAT, PRIMARY KEY (k)", "(n + 1) * 1e-43", 3),
    ("doubles", "k DOUBLE, PRIMARY KEY (k)", "IF(n MOD 2, -1, 1) * POW(1.2, n) * 1e-150", 3),
    ("bits", "k BIT(64), PRIMARY KEY (k)", "n * 7378697629483820", 3),
    ("few_bits", "k BIT(12), PRIMARY KEY (k)", "n", 3),
    ("years", "y YEAR, k INT, PRIMARY KEY (y, k)", "IF(n MOD 9 = 0, 0, 1901 + n MOD 250), n", 3),
    (
        "dates",
        "k DATE, PRIMARY KEY (k)",
        "IF(n = 0, '0000-00-00', DATE_ADD('1000-01-01', INTERVAL n DAY))",
        3,
    ),
    (
        "moments",
        "k DATETIME(6), PRIMARY KEY (k)",
        "DATE_ADD('1969-12-31', INTERVAL n * 900001 MICROSECOND)",
        3,
    ),
    ("stamps", "k TIMESTAMP(3) NOT NULL, PRIMARY KEY (k)", "FROM_UNIXTIME(n * 499 + 1000 + n / 1000)", 3),
    ("times", "k TIME(3), PRIMARY KEY (k)", "SEC_TO_TIME(CAST(n AS SIGNED) * 601 - 800000 + 0.125)", 3),
    ("digests", "k BINARY(16), PRIMARY KEY (k)", "UNHEX(LEFT(SHA2(n, 256), 32))", 3),
    ("zeros", "k VARBINARY(40), PRIMARY KEY (k)", "CONCAT(n DIV 3, REPEAT(CHAR(0), n MOD 3))", 3),
    ("down", "k INT, PRIMARY KEY (k DESC)", "n", 3),
    ("up_down", "g INT, k VARCHAR(40), PRIMARY KEY (g, k DESC)", "n > 100, LEFT(SHA2(n, 256), 40)", 3),
    (
        "down_up",
        "g DATE, k INT UNSIGNED, PRIMARY KEY (g DESC, k)",
        "DATE_ADD('2024-01-01', INTERVAL n MOD 5 DAY), n",
        3,
    ),
    (
        "skewed",
        "g INT, h CHAR(4), k INT, PRIMARY KEY (g, h, k)",
        "n MOD 100 = 0, IF(n MOD 50 = 0, 'b', 'a'), n",
        3,
    ),
    ("unique_key", "k INT NOT NULL, UNIQUE KEY (k)", "n * 2", 3),
    ("enums", "e ENUM('z', 'a', '') NOT NULL, k INT, PRIMARY KEY (e, k)", "1 + n MOD 3, n", 1),
    ("sets", "s SET('z', 'a') NOT NULL, k INT, PRIMARY KEY (s, k)", "n MOD 4, n", 1),
    ("with_nulls", "k INT NULL, UNIQUE KEY (k)", "IF(n MOD 10 = 0, NULL, n)", 1),
];

const MARIADB_TYPES: [Keyed; 3] = [
    (
        "uuids",
        "k UUID, PRIMARY KEY (k)",
        "CONCAT(LEFT(SHA2(n, 256), 8), '-0000-1000-8000-', LEFT(SHA2(n, 256), 12))",
        3,
    ),
    ("inet6", "k INET6, PRIMARY KEY (k)", "CONCAT('2001:db8::', LOWER(HEX(n * 7)))", 3),
    ("inet4", "k INET4, PRIMARY KEY (k)", "INET_NTOA(n * 999983)", 3),
];

/// Makes `tables`, each with a row `n` for every number below [`ROWS`].
async fn fill(server: &Server, db: &str, tables: &[(String, String, String)]) {
    let mut all = vec![
        format!("DROP DATABASE IF EXISTS {db}"),
        format!("CREATE DATABASE {db} CHARACTER SET utf8mb4"),
        format!("USE {db}"),
        "SET SESSION sql_mode = 'NO_AUTO_VALUE_ON_ZERO', time_zone = '+00:00'".to_owned(),
        "CREATE TABLE digits (n INT UNSIGNED PRIMARY KEY)".to_owned(),
        "INSERT INTO digits VALUES (0),(1),(2),(3),(4),(5),(6),(7),(8),(9)".to_owned(),
        "CREATE TABLE numbers (n BIGINT UNSIGNED PRIMARY KEY)".to_owned(),
        format!(
            "INSERT INTO numbers SELECT x.n FROM (SELECT a.n + b.n * 10 + c.n * 100 + d.n * 1000 n FROM digits a, \
             digits b, digits c, digits d) x WHERE x.n < {ROWS}"
        ),
    ];
    for (name, key, value) in tables {
        all.push(format!("CREATE TABLE {name} ({key}, row_number_ INT)"));
        all.push(format!("INSERT INTO {name} SELECT {value}, n FROM numbers"));
    }
    server.run(all).await;
}

/// Reads a server in ranges of so many rows.
async fn read(config: &MysqlConfig, range_rows: u64) -> Recorded {
    let name = SourceName::new("mysql").unwrap();
    let source = MysqlSource::new(name, config.clone(), Ground::system(), NoMonitor::shared());
    let read = Recorded::of(Box::new(source.ranges_of(range_rows))).await;
    read.unwrap_or_else(|error| panic!("the source is read: {error:?}"))
}

/// Checks that each row of a table came once, in at least so many ranges.
fn check(recorded: &Recorded, table: &str, ranges: usize) {
    let pieces = recorded.rows(table);
    let lines = pieces.iter().flat_map(|piece| piece.split(|b| *b == b'\n')).filter(|line| !line.is_empty());
    let last = |line: &[u8]| line.rsplit(|b| *b == b'\t').next().map(<[u8]>::to_vec).expect("a field");
    let numbers: Vec<Vec<u8>> = lines.map(last).collect();
    let distinct: BTreeSet<&Vec<u8>> = numbers.iter().collect();
    assert_eq!((numbers.len() as u64, distinct.len() as u64), (ROWS, ROWS), "`{table}`");
    // No gap in the keys, and no lump of them, makes more: each but the last has as many rows as it should.
    let most = usize::try_from(ROWS / RANGE_ROWS + 1).unwrap();
    assert!((ranges..=most).contains(&pieces.len()), "`{table}` came in {} ranges", pieces.len());
}

async fn a_table_is_divided_by_a_key_of_any_type(product: Product) {
    let server = Server::shared(product).await;
    let db = &own("key_types");
    let more: &[Keyed] = if product == Product::Mariadb { &MARIADB_TYPES } else { &[] };
    let tables: Vec<&Keyed> = BY_TYPE.iter().chain(more).collect();
    let texts: Vec<_> =
        tables.iter().map(|(name, key, value, _)| ((*name).into(), (*key).into(), (*value).into())).collect();
    fill(&server, db, &texts).await;
    let recorded = read(&server.only(&[db]), RANGE_ROWS).await;
    for (name, _, _, ranges) in tables {
        check(&recorded, name, *ranges);
    }
    server.run([format!("DROP DATABASE {db}")]).await;
}

/// Collations and what the keys begin with; letters that another order, another charset or a fold would misplace.
fn collations(product: Product) -> Vec<(&'static str, &'static str)> {
    let mut all = vec![
        ("latin1_swedish_ci", "'a','Z','é','ß'"),
        ("latin1_german1_ci", "'ä','Z','a','ß'"),
        ("latin1_bin", "'a','A','é','_'"),
        ("gbk_chinese_ci", "'中','文','a','Z'"),
        ("big5_chinese_ci", "'中','功','a','Z'"),
        ("sjis_japanese_ci", "'表','ソ','a','Z'"),
        ("cp932_japanese_ci", "'表','ソ','ア','Z'"),
        ("utf16_unicode_ci", "'密','b','É','ß'"),
        ("utf16le_general_ci", "'密','b','É','z'"),
        ("utf32_general_ci", "'密','b','É','🐬'"),
        ("ucs2_general_ci", "'密','b','É','z'"),
        ("utf8mb3_general_ci", "'é','ß','中','z'"),
        ("utf8mb4_general_ci", "'🐬','é','Z','_'"),
        ("utf8mb4_unicode_ci", "'🐬','é','Z','ß'"),
        ("utf8mb4_bin", "'🐬','é','E','e'"),
    ];
    all.extend(match product {
        Product::Mysql => {
            vec![("utf8mb4_0900_ai_ci", "'É','ß','Z','_'"), ("utf8mb4_0900_as_cs", "'É','e','E','é'")]
        }
        Product::Mariadb => {
            vec![("utf8mb4_nopad_bin", "'É','e','E','é'"), ("utf8mb4_uca1400_ai_ci", "'É','ß','Z','_'")]
        }
    });
    all
}

async fn a_table_is_divided_by_text_as_its_collation_orders_it(product: Product) {
    let server = Server::shared(product).await;
    let db = &own("key_texts");
    let mut tables = Vec::new();
    for (collation, letters) in collations(product) {
        let charset = collation.split('_').next().unwrap();
        let key = format!("k VARCHAR(60) CHARACTER SET {charset} COLLATE {collation}, PRIMARY KEY (k)");
        // Behind a space comes what a padded comparison sorts before the end of a shorter text.
        let end = "ELT(1 + n MOD 3, '', CHAR(9 USING utf8mb4), ' ~')";
        let value = format!("CONCAT(ELT(1 + n MOD 4, {letters}), n DIV 12, '.', n MOD 12, {end})");
        tables.push((collation.to_owned(), key, value));
    }
    let fixed = "k CHAR(30) CHARACTER SET latin1, j INT, PRIMARY KEY (k, j DESC)";
    tables.push(("fixed".to_owned(), fixed.to_owned(), "CONCAT('é', n MOD 40), n".to_owned()));
    // Without padding two keys differ in a trailing space only; with a binary collation in case only.
    let nopad = if product == Product::Mysql { "utf8mb4_0900_ai_ci" } else { "utf8mb4_nopad_bin" };
    let twins = format!("k VARCHAR(60) CHARACTER SET utf8mb4 COLLATE {nopad}, PRIMARY KEY (k)");
    tables.push(("spaces".to_owned(), twins, "CONCAT(n DIV 2, IF(n MOD 2, ' ', ''))".to_owned()));
    let cases = "k VARCHAR(60) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin, PRIMARY KEY (k)".to_owned();
    tables.push(("cases".to_owned(), cases, "CONCAT(IF(n MOD 2, 'key', 'KEY'), n DIV 2)".to_owned()));
    fill(&server, db, &tables).await;
    let recorded = read(&server.only(&[db]), RANGE_ROWS).await;
    for (name, ..) in &tables {
        check(&recorded, name, 3);
    }
    server.run([format!("DROP DATABASE {db}")]).await;
}

/// Numbers that a seed decides.
struct Seeded(u64);

impl Seeded {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Returns the keys of one table: dense, sparse, clustered, in two lumps, or growing as powers do.
    fn keys(&mut self) -> BTreeSet<i64> {
        let (kind, count) = (self.next() % 5, 1 + self.next() % 2_000);
        let base = self.next().cast_signed() / 4;
        let one = |seeded: &mut Self, at: u64| match kind {
            0 => base + at.cast_signed(),
            1 => seeded.next().cast_signed(),
            2 => base + ((seeded.next() % 40) * 1_000_000_007 + seeded.next() % 100).cast_signed(),
            3 if at.is_multiple_of(2) => 621_355_968_000_000_000 + at.cast_signed() * 10_000,
            3 => -at.cast_signed(),
            _ => (1_i64 << (seeded.next() % 62)) + (at % 50).cast_signed(),
        };
        (0..count).map(|at| one(self, at)).collect()
    }
}

/// How many distributions are tried; more by hand with `LIFEBOAT_DISTRIBUTIONS`.
fn distributions() -> u64 {
    std::env::var("LIFEBOAT_DISTRIBUTIONS").map_or(50, |count| count.parse().expect("a number"))
}

async fn no_distribution_of_keys_loses_a_row_or_gives_it_twice(product: Product) {
    let server = Server::shared(product).await;
    let db = &own("spread");
    let mut statements =
        vec![format!("DROP DATABASE IF EXISTS {db}"), format!("CREATE DATABASE {db}"), format!("USE {db}")];
    let tables: Vec<(String, BTreeSet<i64>)> =
        (0..distributions()).map(|seed| (format!("seed_{seed}"), Seeded(seed).keys())).collect();
    for (name, keys) in &tables {
        let values: Vec<String> = keys.iter().map(|key| format!("({key})")).collect();
        statements.push(format!("CREATE TABLE {name} (k BIGINT PRIMARY KEY)"));
        statements.push(format!("INSERT INTO {name} VALUES {}", values.join(",")));
    }
    server.run(statements).await;
    let recorded = read(&server.only(&[db]), 150).await;
    for (name, keys) in &tables {
        let pieces = recorded.rows(name);
        let text = String::from_utf8(pieces.concat()).unwrap();
        let read: Vec<i64> = text.lines().map(|line| line.parse().unwrap()).collect();
        assert!(read.iter().eq(keys.iter()), "`{name}`: {} of {} keys", read.len(), keys.len());
        assert!(pieces.len() >= keys.len() / 2_048, "`{name}` came in {} ranges", pieces.len());
    }
    let ranges: usize = tables.iter().map(|(name, _)| recorded.rows(name).len()).sum();
    assert!(ranges > tables.len() * 2, "{ranges} ranges of {} tables", tables.len());
    server.run([format!("DROP DATABASE {db}")]).await;
}
