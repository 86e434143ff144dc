//! A range of keys comes back: these rows, no others, or nothing at all.

use lifeboat::{
    clock::Ground,
    error::ExitCode,
    event::NoMonitor,
    flow::{FlowError, FlowResult, Selection, Tally, Verified, WriteOptions},
    mysql::MysqlSource,
    names::SourceName,
    policy::MysqlConfig,
};

use crate::{
    rows::Recorded,
    support::{Product, Server},
};

crate::on_both!(
    a_range_of_any_kind_of_key_comes_back_and_nothing_else,
    what_cannot_be_put_back_leaves_everything_as_it_was,
    a_range_across_pieces_reads_only_those_that_may_hold_it,
    a_parent_that_is_gone_and_checks_of_one_name_are_no_obstacle,
);

fn part(range: &str, replace: bool) -> WriteOptions {
    WriteOptions { replace, only: Selection::new(&[range.to_owned()]).unwrap(), ..WriteOptions::default() }
}

async fn restore(recorded: &Recorded, config: &MysqlConfig, range: &str, replace: bool) -> FlowResult<Tally> {
    recorded.write(config, part(range, replace)).await
}

fn refusal(done: FlowResult<Tally>) -> (ExitCode, String) {
    match done {
        Err(FlowError::Failed(failure)) => (failure.exit(), failure.chain().join(": ")),
        other => panic!("a failure, not {other:?}"),
    }
}

async fn keys(server: &Server, table: &str, key: &str) -> String {
    let sql = format!(
        "SELECT COALESCE(GROUP_CONCAT({key} ORDER BY {key} SEPARATOR ' '), '') FROM lbt_part.{table}"
    );
    server.ask(&sql).await
}

async fn scratch(server: &Server) -> String {
    server
        .ask("SELECT CONCAT(COUNT(*)) FROM information_schema.schemata WHERE schema_name = 'lifeboat_ranges'")
        .await
}

const SAMPLE: [&str; 20] = [
    "CREATE DATABASE lbt_part CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci",
    "USE lbt_part",
    "SET NAMES utf8mb4, SESSION sql_mode = ''",
    "CREATE TABLE ints (id BIGINT PRIMARY KEY AUTO_INCREMENT, v VARCHAR(20), e ENUM('', 'x'), g INT AS (CHAR_LENGTH(v)) \
        VIRTUAL, h INT INVISIBLE DEFAULT 7, f FLOAT, b VARBINARY(9), UNIQUE KEY (v), CONSTRAINT small CHECK (v <> '!'))",
    "INSERT INTO ints (id, v, e, f, b) VALUES (-5, 'a', '', 0.1, x'00'), (1, 'b', 0, 3.4e38, x'FF'), (2, 'c', 'x', \
        1e-45, NULL), (3, 'd', 'x', NULL, x''), (10, 'é', 'x', 16777216, x'5C')",
    "CREATE TABLE texts (k VARCHAR(20) CHARACTER SET latin1 COLLATE latin1_german1_ci PRIMARY KEY, v INT)",
    "INSERT INTO texts VALUES ('A', 1), ('Ärger', 2), ('b', 3), ('B''s', 4), ('ß', 5), ('z', 6)",
    "CREATE TABLE dates (k DATETIME(3) PRIMARY KEY, v INT)",
    "INSERT INTO dates VALUES ('2025-01-31 23:59:59.999', 1), ('2025-02-01', 2), ('2025-02-28 12:00:00', 3), \
        ('2025-03-01', 4)",
    "CREATE TABLE pairs (a INT, b VARCHAR(9), v INT, PRIMARY KEY (a, b))",
    "INSERT INTO pairs VALUES (1, 'x', 1), (7, 'a', 2), (7, 'm', 3), (7, 'z', 4), (8, 'a', 5), (9, 'a', 6)",
    "CREATE TABLE bins (k VARBINARY(4) PRIMARY KEY, v INT)",
    "INSERT INTO bins VALUES (x'00', 1), (x'00FF', 2), (x'7F', 3), (x'FF', 4)",
    "CREATE TABLE years (k YEAR PRIMARY KEY)",
    "CREATE TABLE keyless (id INT)",
    "CREATE TABLE triggered (id INT PRIMARY KEY)",
    "CREATE TRIGGER t BEFORE INSERT ON triggered FOR EACH ROW SET NEW.id = NEW.id + 100",
    "CREATE TABLE parent (id INT PRIMARY KEY, v INT)",
    "CREATE TABLE child (id INT PRIMARY KEY, at INT, CONSTRAINT up FOREIGN KEY (at) REFERENCES parent (id) ON DELETE \
        CASCADE)",
    "INSERT INTO parent VALUES (1, 1), (2, 2), (3, 3)",
];

async fn a_range_of_any_kind_of_key_comes_back_and_nothing_else(product: Product) {
    let server = Server::empty(product).await;
    server.run(SAMPLE).await;
    let config = server.only(&["lbt_part"]);
    let recorded = Recorded::read(&config).await;
    let all = server.ask("CHECKSUM TABLE lbt_part.ints").await;
    let sum = "SELECT SUM(CRC32(CONCAT_WS('|', id, v, e + 0, g, h, f, HEX(b)))) FROM lbt_part.ints";
    let (before, _) = (server.ask(sum).await, all);

    server.run(["DELETE FROM lbt_part.ints WHERE id BETWEEN 1 AND 3"]).await;
    let tally = restore(&recorded, &config, "lbt_part.ints[1..<3]", false).await.unwrap();
    assert!(
        tally.verified == Verified::Counts
            && tally.notes.iter().any(|note| note.starts_with("2 rows were restored")),
        "{tally:?}"
    );
    assert_eq!(keys(&server, "ints", "id").await, "-5 1 2 10");
    restore(&recorded, &config, "lbt_part.ints[3..3]", false).await.unwrap();
    assert_eq!(server.ask(sum).await, before, "every value is what it was");
    // With --replace a row that came meanwhile goes, if it is in the range.
    server.run(["INSERT INTO lbt_part.ints (id, v) VALUES (4, 'new'), (11, 'kept')"]).await;
    restore(&recorded, &config, "lbt_part.ints[2..10]", true).await.unwrap();
    assert_eq!(keys(&server, "ints", "id").await, "-5 1 2 3 10 11");
    restore(&recorded, &config, "lbt_part.ints[11..]", true).await.unwrap();
    restore(&recorded, &config, "lbt_part.ints[..-5]", true).await.unwrap();
    assert_eq!(server.ask(sum).await, before);

    for (table, key, range, expected) in [
        // The collation has Ä and A, b and B for one letter; ß is its s.
        ("texts", "k", "['ä'..'b']", "A Ärger b"),
        ("texts", "k", "[\"B's\"..<'z']", "B's ß"),
        ("dates", "k", "[2025-02-01..<2025-03-01]", "2025-02-01 00:00:00.000 2025-02-28 12:00:00.000"),
        ("pairs", "CONCAT(a, b)", "[(7,'m')..(8,a)]", "7m 7z 8a"),
        ("pairs", "CONCAT(a, b)", "[7..7]", "7a 7m 7z"),
        ("pairs", "CONCAT(a, b)", "[(8)..]", "8a 9a"),
        ("bins", "HEX(k)", "[0x00FF..0x7F]", "00FF 7F"),
    ] {
        server.run([format!("DELETE FROM lbt_part.{table}")]).await;
        restore(&recorded, &config, &format!("lbt_part.{table}{range}"), false).await.unwrap();
        assert_eq!(keys(&server, table, key).await, expected, "{table}{range}");
    }
    assert_eq!(scratch(&server).await, "0", "the scratch database is gone");
}

async fn what_cannot_be_put_back_leaves_everything_as_it_was(product: Product) {
    let server = Server::empty(product).await;
    server.run(SAMPLE).await;
    server.run(["INSERT INTO lbt_part.child VALUES (1, 1), (2, 2)"]).await;
    let config = server.only(&["lbt_part"]);
    let recorded = Recorded::read(&config).await;

    let (exit, why) = refusal(restore(&recorded, &config, "lbt_part.ints[1..2]", false).await);
    assert_eq!(exit, ExitCode::TargetNotEmpty);
    assert!(why.contains("table lbt_part.ints: 2 rows with id from 1 to 2, included"), "{why}");
    for (range, why) in [
        ("lbt_part.keyless[1..2]", "has no primary key"),
        ("lbt_part.triggered[1..2]", "has triggers"),
        ("lbt_part.nothing[1..2]", "is not there"),
        ("lbt_part.ints[a..b]", "`a` is no value for column `id`"),
        ("lbt_part.years[70..99]", "`70` is no value for column `k`"),
        ("lbt_part.ints[(1,2)..]", "is (id), 2 values were given"),
        ("lbt_part.dates['x'..]", "`x` is no value for column `k`"),
        ("lbt_part.texts['中'..]", "cannot be written in charset latin1"),
    ] {
        let (exit, told) = refusal(restore(&recorded, &config, range, true).await);
        assert!(exit == ExitCode::Usage && told.contains(why), "{range}: {told}");
    }

    // A row outside of the range has the unique value of one inside.
    let sums = "SELECT CONCAT(SUM(CRC32(CONCAT(id, v))), ' ', COUNT(*)) FROM lbt_part.ints";
    server
        .run([
            "UPDATE lbt_part.ints SET v = 'other' WHERE id = 1",
            "UPDATE lbt_part.ints SET v = 'b' WHERE id = 10",
        ])
        .await;
    let before = server.ask(sums).await;
    let (_, why) = refusal(restore(&recorded, &config, "lbt_part.ints[1..2]", true).await);
    assert!(why.contains("1062"), "{why}");
    assert_eq!((server.ask(sums).await, scratch(&server).await), (before.clone(), "0".into()));

    // A stream that breaks off.
    let cut = recorded.write_cut(&config, part("lbt_part.ints[1..2]", true)).await;
    assert!(cut.is_err());
    assert_eq!(
        (server.ask(sums).await, scratch(&server).await),
        (before, "0".into()),
        "nothing is left behind"
    );

    // Rows of others would be left without theirs: a child of a parent that came later, and a lost parent of a child.
    server
        .run(["INSERT INTO lbt_part.parent VALUES (4, 4)", "INSERT INTO lbt_part.child VALUES (4, 4)"])
        .await;
    let (_, why) = refusal(restore(&recorded, &config, "lbt_part.parent[3..9]", true).await);
    assert!(why.contains("1 rows of `lbt_part.child` would refer to rows of `lbt_part.parent`"), "{why}");
    assert_eq!(keys(&server, "parent", "id").await, "1 2 3 4");
    server.run(["SET foreign_key_checks = 0", "DELETE FROM lbt_part.parent WHERE id = 2"]).await;
    restore(&recorded, &config, "lbt_part.parent[2..2]", false).await.unwrap();
    assert_eq!(keys(&server, "child", "id").await, "1 2 4", "nothing cascades");

    // Another table of the same name.
    server.run(["ALTER TABLE lbt_part.dates ADD COLUMN more INT"]).await;
    let (_, why) = refusal(restore(&recorded, &config, "lbt_part.dates[2025-01-01..]", true).await);
    assert!(why.contains("the snapshot has no column `more`"), "{why}");
    assert_eq!(keys(&server, "dates", "v").await, "1 2 3 4");
}

async fn a_range_across_pieces_reads_only_those_that_may_hold_it(product: Product) {
    let server = Server::empty(product).await;
    server
        .run([
            "CREATE DATABASE lbt_part",
            "USE lbt_part",
            "CREATE TABLE digits (n INT PRIMARY KEY)",
            "INSERT INTO digits VALUES (0),(1),(2),(3),(4),(5),(6),(7),(8),(9)",
            "CREATE TABLE many (id INT PRIMARY KEY, v INT)",
            "INSERT INTO many SELECT a.n + b.n * 10 + c.n * 100 + d.n * 1000 AS n, 1 FROM digits a, digits b, digits c, \
             digits d WHERE d.n < 5",
        ])
        .await;
    let config = server.only(&["lbt_part"]);
    let name = SourceName::new("mysql").unwrap();
    let source = MysqlSource::new(name, config.clone(), Ground::system(), NoMonitor::shared());
    let recorded = Recorded::of(Box::new(source.ranges_of(600))).await.unwrap();
    server.run(["DELETE FROM lbt_part.many WHERE id BETWEEN 1000 AND 2000"]).await;
    let only = Selection::new(&["lbt_part.many[1000..2000]".to_owned()]).unwrap();
    let pieces = |held: bool| {
        let rows = recorded
            .entries
            .iter()
            .filter(|(meta, ..)| only.wants(meta) && meta.text("kind") == Some("rows"));
        rows.filter(|(meta, _, trailer)| only.may_hold(meta, trailer) == held).count()
    };
    assert!(pieces(true) >= 2 && pieces(false) >= 1, "{} pieces and {} others", pieces(true), pieces(false));
    restore(&recorded, &config, "lbt_part.many[1000..2000]", false).await.unwrap();
    let sum = "SELECT CONCAT(COUNT(*), ' ', SUM(id)) FROM lbt_part.many";
    assert_eq!(server.ask(sum).await, format!("5000 {}", 4_999_u64 * 2_500));
}

async fn a_parent_that_is_gone_and_checks_of_one_name_are_no_obstacle(product: Product) {
    let server = Server::empty(product).await;
    server
        .run([
            "CREATE DATABASE lbt_part",
            "USE lbt_part",
            "SET foreign_key_checks = 0",
            "CREATE TABLE lbt_part.lost (id INT PRIMARY KEY, up INT, CONSTRAINT gone FOREIGN KEY (up) REFERENCES \
             nowhere (id))",
            "INSERT INTO lbt_part.lost VALUES (1, 1), (2, NULL), (3, 3)",
            "CREATE DATABASE lbt_part_b",
            "CREATE TABLE lbt_part.checked (id INT PRIMARY KEY, CONSTRAINT positive CHECK (id > 0))",
            "CREATE TABLE lbt_part_b.checked (id INT PRIMARY KEY, CONSTRAINT positive CHECK (id > 0))",
            "INSERT INTO lbt_part.checked VALUES (1)",
            "INSERT INTO lbt_part_b.checked VALUES (2)",
        ])
        .await;
    let both = server.only(&["lbt_part", "lbt_part_b"]);
    let later = Recorded::read(&both).await;
    restore(&later, &both, "lbt_part.lost[1..2]", true).await.unwrap();
    server.run(["DELETE FROM lbt_part.lost WHERE id = 3"]).await;
    let (_, why) = refusal(restore(&later, &both, "lbt_part.lost[3..3]", true).await);
    assert!(why.contains("1 rows of `lbt_part.lost` would refer to rows of `lbt_part.nowhere`"), "{why}");
    let ranges = ["lbt_part.checked[..9]".to_owned(), "lbt_part_b.checked[..9]".to_owned()];
    let options =
        WriteOptions { replace: true, only: Selection::new(&ranges).unwrap(), ..WriteOptions::default() };
    later.write(&both, options).await.unwrap();
    assert_eq!(scratch(&server).await, "0", "the scratch database is gone");
}
