//! Storage engines that are not `InnoDB`, and keys that an engine does not order by.

use std::collections::BTreeSet;

use lifeboat::{
    flow::{Source, Stage, WriteOptions},
    policy::MysqlConfig,
};

use crate::{
    rows::Recorded,
    support::{Product, Server, own, source},
};

crate::on_both!(
    no_reading_sorts_a_table_whatever_its_key,
    tables_without_rows_of_their_own_come_back_as_definitions,
    a_table_of_tables_that_are_gone_is_a_problem_and_no_failure,
    tables_of_other_engines_come_back,
);

/// Rows of each table; enough that a sort of them is told from the sorts of the server's own lists.
const ROWS: u64 = 15_000;

/// Tables whose keys a server is tempted to sort by: name, key column, the rest of the definition.
const KEYS: [(&str, &str, &str); 11] = [
    ("prefix", "VARCHAR(300) NOT NULL", "PRIMARY KEY (a(12)))"),
    ("blob_key", "BLOB NOT NULL", "PRIMARY KEY (a(20)))"),
    ("prefix_second", "VARCHAR(300) NOT NULL", "PRIMARY KEY (b, a(9)))"),
    ("uniq", "VARCHAR(40) NOT NULL", "UNIQUE KEY `u``` (a))"),
    ("uniq_null", "VARCHAR(40)", "UNIQUE KEY u (a))"),
    ("uniq_prefix", "VARCHAR(300) NOT NULL", "UNIQUE KEY u (a(12)))"),
    ("descends", "VARCHAR(40) NOT NULL", "PRIMARY KEY (a, b DESC))"),
    ("all_descends", "VARCHAR(40) NOT NULL", "PRIMARY KEY (b DESC))"),
    ("hash", "VARCHAR(40) NOT NULL", "PRIMARY KEY (b)) ENGINE=MEMORY"),
    ("isam", "VARCHAR(40) NOT NULL", "PRIMARY KEY (a)) ENGINE=MyISAM"),
    ("parts", "VARCHAR(40) NOT NULL", "PRIMARY KEY (b)) PARTITION BY HASH (b) PARTITIONS 3"),
];

/// Such tables that one product has and the other has not.
fn keys_of(product: Product) -> Vec<(&'static str, &'static str, &'static str)> {
    let mut all = KEYS.to_vec();
    match product {
        Product::Mysql => all.extend([
            ("hidden", "VARCHAR(40)", "UNIQUE KEY u (a) INVISIBLE)"),
            ("expression", "VARCHAR(40) NOT NULL", "UNIQUE KEY u (b, (LOWER(a))))"),
        ]),
        Product::Mariadb => all.extend([
            ("hidden", "VARCHAR(40)", "UNIQUE KEY u (a) IGNORED)"),
            ("long_unique", "LONGTEXT NOT NULL", "UNIQUE KEY u (a))"),
            ("kept", "VARCHAR(40)", "PRIMARY KEY (b)) WITH SYSTEM VERSIONING"),
        ]),
    }
    all
}

async fn no_reading_sorts_a_table_whatever_its_key(product: Product) {
    let arguments = ["--sort-buffer-size=32K", "--tmp-table-size=64M", "--max-heap-table-size=64M"];
    let server = Server::empty_with(product, &arguments).await;
    let db = &own("sorts");
    server
        .run([
            format!("CREATE DATABASE {db} CHARACTER SET utf8mb4"),
            format!("CREATE TABLE {db}.n (n INT PRIMARY KEY)"),
            format!("INSERT INTO {db}.n VALUES (0),(1),(2),(3),(4),(5),(6),(7),(8),(9)"),
        ])
        .await;
    let tables = keys_of(product);
    for (name, column, rest) in &tables {
        let create = format!("CREATE TABLE {db}.{name} (a {column}, b INT NOT NULL, v VARCHAR(90), {rest}");
        server.run([create]).await;
    }
    // The server's own lists are sorted too; what comes on top with the rows is a sort of rows.
    let (_, of_lists) = read_and_count_sorts(&server, db).await;
    for (name, ..) in &tables {
        server
            .run([format!(
                "INSERT INTO {db}.{name} SELECT CONCAT(LEFT(SHA2(n, 256), 12), '-', n), n, \
                 REPEAT('v', 80) FROM (SELECT a.n + b.n * 10 + c.n * 100 + d.n * 1000 + e.n * 10000 n \
                 FROM {db}.n a, {db}.n b, {db}.n c, {db}.n d, {db}.n e) all_n WHERE n < {ROWS}"
            )])
            .await;
    }
    let (recorded, sorts) = read_and_count_sorts(&server, db).await;
    assert!(sorts.rows < of_lists.rows + ROWS / 2, "{sorts:?} against {of_lists:?} of empty tables");
    assert!(sorts.merges <= of_lists.merges + 1, "{sorts:?} against {of_lists:?} of empty tables");
    for (name, ..) in &tables {
        let pieces = recorded.rows(name);
        let lines: BTreeSet<&[u8]> =
            pieces.iter().flat_map(|piece| piece.split(|b| *b == b'\n')).filter(|l| !l.is_empty()).collect();
        assert_eq!(lines.len() as u64, ROWS, "`{name}`");
    }
    // The same rows give the same bytes, where there is an order at all.
    let again = Recorded::read(&server.only(&[db])).await;
    for (name, ..) in &tables {
        assert!(recorded.rows(name) == again.rows(name), "`{name}` is read in another order");
    }
}

#[derive(Debug)]
struct Sorts {
    rows: u64,
    merges: u64,
}

async fn read_and_count_sorts(server: &Server, db: &str) -> (Recorded, Sorts) {
    let before = (status(server, "Sort_rows").await, status(server, "Sort_merge_passes").await);
    let recorded = Recorded::read(&server.only(&[db])).await;
    let rows = status(server, "Sort_rows").await - before.0;
    (recorded, Sorts { rows, merges: status(server, "Sort_merge_passes").await - before.1 })
}

async fn status(server: &Server, name: &str) -> u64 {
    let is_mariadb = server.ask("SELECT VERSION()").await.contains("MariaDB");
    let schema = if is_mariadb { "information_schema" } else { "performance_schema" };
    let sql = format!("SELECT variable_value FROM {schema}.global_status WHERE variable_name = ");
    server.ask(&format!("{sql}'{name}'")).await.parse().unwrap()
}

/// Makes two tables and one that shows the rows of both, and on MySQL one that shows those of another server.
async fn with_shown_rows(server: &Server, product: Product, db: &str) {
    let collation = if product == Product::Mysql { "utf8mb4_0900_ai_ci" } else { "utf8mb4_general_ci" };
    server
        .run([
            // The charset's own collation: MySQL writes another one out twice when a table is made from its text.
            format!("CREATE DATABASE {db} CHARACTER SET utf8mb4 COLLATE {collation}"),
            format!("CREATE TABLE {db}.z1 (id INT PRIMARY KEY, v VARCHAR(20)) ENGINE=MyISAM"),
            format!("CREATE TABLE {db}.z2 LIKE {db}.z1"),
            format!("INSERT INTO {db}.z1 VALUES (1, 'one'), (2, 'two')"),
            format!("INSERT INTO {db}.z2 VALUES (3, 'three')"),
            format!(
                "CREATE TABLE {db}.all_of_z (id INT NOT NULL, v VARCHAR(20), KEY (id)) ENGINE=MERGE \
                 UNION=({db}.z1, {db}.z2) INSERT_METHOD=LAST"
            ),
        ])
        .await;
    if product == Product::Mysql {
        server
            .run([format!(
                "CREATE TABLE {db}.far (id INT NOT NULL, PRIMARY KEY (id)) ENGINE=FEDERATED \
                 CONNECTION='mysql://nobody:secret@127.0.0.1:9/x/y'"
            )])
            .await;
    }
}

async fn tables_without_rows_of_their_own_come_back_as_definitions(product: Product) {
    let arguments: &[&str] = if product == Product::Mysql { &["--federated"] } else { &[] };
    let server = Server::empty_with(product, arguments).await;
    let db = &own("shown");
    with_shown_rows(&server, product, db).await;
    let config = server.only(&[db]);
    let recorded = Recorded::read(&config).await;
    let of_rows = |table: &str| recorded.rows(table).concat();
    assert_eq!(of_rows("all_of_z"), b"", "rows of other tables are read once");
    assert_eq!(of_rows("z1"), b"1\tone\n2\ttwo\n");
    let listed = recorded.point.marks["definition_only"].as_str();
    let far = if product == Product::Mysql { format!(", {db}.far") } else { String::new() };
    assert_eq!(listed, format!("{db}.all_of_z{far}"));
    let replace = WriteOptions { replace: true, ..WriteOptions::default() };
    let tally = recorded.write(&config, replace).await.expect("it is restored");
    assert_eq!(tally.left_out, []);
    assert_eq!(server.ask(&format!("SELECT COUNT(*) FROM {db}.all_of_z")).await, "3");
    let again = Recorded::read(&config).await;
    let definitions = |of: &Recorded| -> Vec<_> {
        of.entries.iter().filter(|(meta, ..)| meta.stage == Stage::Schema).cloned().collect()
    };
    assert_eq!(definitions(&recorded), definitions(&again));

    // A server that cannot make one of them makes all the rest.
    if product == Product::Mysql {
        let other = Server::empty(product).await;
        let tally =
            recorded.write(&other.only(&[db]), WriteOptions::default()).await.expect("the rest comes");
        let left_out: Vec<&str> = tally.left_out.iter().map(|problem| problem.what.as_str()).collect();
        assert_eq!(left_out, [format!("{db}.far")]);
        assert_eq!(other.ask(&format!("SELECT COUNT(*) FROM {db}.all_of_z")).await, "3");
    }
}

async fn a_table_of_tables_that_are_gone_is_a_problem_and_no_failure(product: Product) {
    let server = Server::shared(product).await;
    let db = &own("broken_merge");
    server
        .run([
            format!("DROP DATABASE IF EXISTS {db}"),
            format!("CREATE DATABASE {db}"),
            format!("CREATE TABLE {db}.kept (id INT PRIMARY KEY)"),
            format!("CREATE TABLE {db}.broken (id INT) ENGINE=MERGE UNION=({db}.gone)"),
        ])
        .await;
    let problems = problems_of(&server.only(&[db])).await;
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].starts_with(&format!("{db}.broken: the server does not show its definition")));
    server.run([format!("DROP DATABASE {db}")]).await;
}

/// Reads a source and returns its problems.
async fn problems_of(config: &MysqlConfig) -> Vec<String> {
    let (sink, mut stream) = lifeboat::flow::channel(lifeboat::flow::STREAM_DEPTH);
    let reading: Box<dyn Source> = source(config);
    let take = async {
        while let Some(mut entry) = stream.next().await? {
            while entry.body.next().await?.is_some() {}
        }
        Ok(stream.problems().iter().map(|problem| format!("{}: {}", problem.what, problem.why)).collect())
    };
    let (read, taken) = tokio::join!(reading.read(sink, None), take);
    lifeboat::flow::settle(read, taken).map(|((), problems)| problems).expect("it is read")
}

async fn tables_of_other_engines_come_back(product: Product) {
    let server = Server::shared(product).await;
    let db = &own("engines");
    let engines: &[&str] = match product {
        Product::Mysql => &["MyISAM", "MEMORY", "CSV", "ARCHIVE", "BLACKHOLE"],
        Product::Mariadb => {
            &["MyISAM", "MEMORY", "CSV", "Aria TRANSACTIONAL=1", "Aria ROW_FORMAT=DYNAMIC TRANSACTIONAL=0"]
        }
    };
    let mut all = vec![
        format!("DROP DATABASE IF EXISTS {db}"),
        format!("CREATE DATABASE {db} CHARACTER SET utf8mb4"),
        format!("USE {db}"),
    ];
    for (at, engine) in engines.iter().enumerate() {
        let key = if ["CSV", "ARCHIVE"].contains(engine) { "" } else { ", PRIMARY KEY (id), KEY (v)" };
        all.push(format!(
            "CREATE TABLE t{at} (id INT NOT NULL, v VARCHAR(90) NOT NULL{key}) ENGINE={engine}"
        ));
        all.push(format!("INSERT INTO t{at} VALUES (2, 'two\\t\\n'), (1, 'é \\\\N'), (3, '')"));
    }
    if product == Product::Mariadb {
        all.push(
            "CREATE TABLE booked (id INT, s DATE, e DATE, PERIOD FOR p (s, e), PRIMARY KEY (id, p WITHOUT OVERLAPS))"
                .to_owned(),
        );
        all.push(
            "INSERT INTO booked VALUES (1, '2025-01-01', '2025-02-01'), (1, '2025-02-01', '2025-03-01')"
                .to_owned(),
        );
    }
    server.run(all).await;
    let config = server.only(&[db]);
    let before = Recorded::read(&config).await;
    let replace = WriteOptions { replace: true, ..WriteOptions::default() };
    before.write(&config, replace).await.expect("they are restored");
    let after = Recorded::read(&config).await;
    let tables = (0..engines.len()).map(|at| format!("t{at}")).chain(["booked".to_owned()]);
    for table in tables {
        let (was, is) = (before.rows(&table).concat(), after.rows(&table).concat());
        assert!(was == is, "`{table}` differs");
    }
    server.run([format!("DROP DATABASE {db}")]).await;
}
