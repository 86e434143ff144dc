//! The recorded place in the binlog is the instant of the rows, under each lock and on a replica.

use std::{collections::BTreeSet, time::Duration};

use lifeboat::{flow::conformance::read_all, policy::MysqlConfig};
use mysql_async::{Row, prelude::Queryable};

use crate::{
    failures::account,
    locks::{READ, rounds},
    rows::Recorded,
    snapshot::{Writers, fields},
    support::{Product, Server, heard},
};

crate::on_both!(
    the_recorded_position_is_the_instant,
    a_replica_records_the_place_of_its_rows_in_the_journal_of_its_primary,
    a_replica_that_stands_still_needs_no_lock_to_tell_the_place_of_its_primary,
);

/// Tables of the database that is read; each has a writer of its own.
const TABLES: u64 = 3;

/// MySQL's ways to an instant, and what an account needs to come to it by each and no better one.
const MODES_OF_MYSQL: [(&str, &str); 4] = [
    ("equal", "BACKUP_ADMIN, REPLICATION CLIENT"),
    ("global", "RELOAD, REPLICATION CLIENT"),
    ("tables", "LOCK TABLES, REPLICATION CLIENT"),
    ("single", "REPLICATION CLIENT"),
];

/// A row as the binlog has it.
struct Logged {
    table: String,
    n: u64,
    /// Where its transaction begins.
    pos: u64,
    /// The global name of its transaction: what names its series, and its number there.
    gtid: (String, u64),
}

/// Returns the arguments of a server whose transactions have global names.
fn gtids(product: Product) -> &'static [&'static str] {
    match product {
        Product::Mysql => &["--gtid-mode=ON", "--enforce-gtid-consistency=ON"],
        Product::Mariadb => &[],
    }
}

/// Lets a writer count in each table, and another one in a database that is not read.
async fn counting(server: &Server, product: Product) -> Writers {
    server.run(["CREATE DATABASE lbt_count", "CREATE DATABASE lbt_other"]).await;
    let tables = (0..TABLES).map(|table| format!("lbt_count.c{table}"));
    let tables = tables.chain([format!("lbt_other.c{TABLES}")]);
    server.run(tables.map(|table| format!("CREATE TABLE {table} (n BIGINT PRIMARY KEY)"))).await;
    let prepare = match product {
        Product::Mysql => "SET SESSION binlog_rows_query_log_events = ON",
        Product::Mariadb => "SET SESSION binlog_annotate_row_events = ON",
    };
    Writers::start(server, TABLES + 1, prepare, |writer, n| {
        let db = if writer < TABLES { "lbt_count" } else { "lbt_other" };
        vec![format!("INSERT INTO {db}.c{writer} VALUES ({n})")]
    })
    .await
}

/// Returns where the binlog ends now.
async fn end_of_binlog(server: &Server, product: Product) -> (String, u64) {
    let log = if product == Product::Mysql { "BINARY LOG" } else { "MASTER" };
    let mut conn = server.conn().await;
    let row: Option<Row> = conn.query_first(format!("SHOW {log} STATUS")).await.expect("it is told");
    let row = row.expect("there is a binlog");
    (row.get(0).expect("a file"), row.get(1).expect("a position"))
}

/// Returns the rows of the tables that are read, as the binlog has them from there on.
async fn logged(server: &Server, (file, pos): &(String, u64)) -> Vec<Logged> {
    let mut conn = server.conn().await;
    let sql = format!("SHOW BINLOG EVENTS IN '{file}' FROM {pos}");
    let rows: Vec<Row> = conn.query(sql).await.expect("the position is the border of an event");
    let (mut all, mut begun) = (Vec::new(), None);
    for row in rows {
        let info: String = row.get::<Option<String>, _>("Info").flatten().unwrap_or_default();
        if let Some(gtid) = gtid_of(&info) {
            begun = Some((row.get("Pos").expect("each has one"), gtid));
        } else if let Some((_, inserted)) = info.split_once("INSERT INTO lbt_count.") {
            let (table, n) =
                inserted.trim_end_matches(')').split_once(" VALUES (").expect("as it is written");
            let (pos, gtid) = begun.clone().expect("a transaction has a name");
            all.push(Logged { table: table.to_owned(), n: n.parse().expect("a number"), pos, gtid });
        }
    }
    all
}

/// Reads `SET @@SESSION.GTID_NEXT= 'uuid:7'` and `BEGIN GTID 0-77-7`.
fn gtid_of(info: &str) -> Option<(String, u64)> {
    let (series, number) = match info.split_once("GTID_NEXT= '") {
        Some((_, name)) => name.trim_end_matches('\'').rsplit_once(':')?,
        None => info.split_once("GTID ")?.1.split(' ').next()?.rsplit_once('-')?,
    };
    Some((series.to_owned(), number.parse().ok()?))
}

/// Returns whether a set (`uuid:1-7:9,uuid:1`), or a position (`0-77-7`), holds a transaction.
fn holds(set: &str, (series, number): &(String, u64)) -> bool {
    let number = *number;
    let is_in = |range: &str| {
        let (from, to) = range.split_once('-').unwrap_or((range, range));
        (from.parse().unwrap()..=to.parse().unwrap()).contains(&number)
    };
    set.split(',').any(|part| match part.split_once(':') {
        Some((uuid, ranges)) => uuid.trim() == series && ranges.split(':').any(is_in),
        None => {
            part.rsplit_once('-').is_some_and(|(of, last)| of == series && number <= last.parse().unwrap())
        }
    })
}

/// Checks that each table has what its writer wrote up to some row, and returns what has been read.
fn read_rows(recorded: &Recorded) -> BTreeSet<(String, u64)> {
    let mut all = BTreeSet::new();
    for table in (0..TABLES).map(|table| format!("c{table}")) {
        let rows = fields(&recorded.rows(&table));
        let read: BTreeSet<u64> = rows.iter().map(|row| row[0].parse().expect("a number")).collect();
        assert_eq!(read.last().map_or(0, |last| last + 1), read.len() as u64, "`{table}` lacks a row");
        all.extend(read.into_iter().map(|n| (table.clone(), n)));
    }
    all
}

/// Compares what was read with what the binlog has: `is_before` says what it is to be.
fn is_exact(logged: &[Logged], read: &BTreeSet<(String, u64)>, is_before: impl Fn(&Logged) -> bool) -> bool {
    let is_read = |one: &Logged| read.contains(&(one.table.clone(), one.n));
    assert!(logged.iter().any(is_read) && !logged.iter().all(is_read), "the instant is in the midst of it");
    logged.iter().all(|one| is_read(one) == is_before(one))
}

async fn the_recorded_position_is_the_instant(product: Product) {
    let server = Server::empty_with(product, gtids(product)).await;
    let writers = counting(&server, product).await;
    // MariaDB tells a transaction its place without a privilege; these accounts have it from there.
    let modes: &[(&str, &str)] = match product {
        Product::Mysql => &MODES_OF_MYSQL,
        Product::Mariadb => &[
            ("stage", "RELOAD, REPLICATION CLIENT"),
            ("stage", "RELOAD"),
            ("tables", "LOCK TABLES, REPLICATION CLIENT"),
            ("tables", "LOCK TABLES"),
            ("single", "PROCESS"),
        ],
    };
    for (mode, given) in modes {
        let config = reader(&server, given).await;
        for round in 0..rounds(3) {
            let case = format!("{mode} by {given}, round {round}");
            let (began, recorded) =
                reading_under(&server, product, &writers, (&config, mode), async || {}).await;
            let (marks, read) = (&recorded.point.marks, read_rows(&recorded));
            if product == Product::Mysql && *mode == "single" {
                assert_eq!(marks["position"], "unknown", "{case}");
                assert!(!marks.contains_key("binlog_file") && !marks.contains_key("gtid"), "{marks:?}");
                continue;
            }
            assert_eq!(marks["binlog_file"], began.0, "{case}");
            let logged = logged(&server, &began).await;
            let pos: u64 = marks["binlog_pos"].parse().expect("a number");
            assert!(is_exact(&logged, &read, |one| one.pos < pos), "{case}: {marks:?}");
            assert!(is_exact(&logged, &read, |one| holds(&marks["gtid"], &one.gtid)), "{case}: {marks:?}");
        }
    }
    writers.stop().await;
}

/// Makes the account that reads, with what it is given, and returns its configuration.
async fn reader(server: &Server, given: &str) -> MysqlConfig {
    account(server, "reader", &[READ, &format!("{given} ON *.*")]).await;
    let mut config = server.as_user(server.only(&["lbt_count"]), "reader", "x");
    config.threads = 4;
    config
}

/// Reads under a lock while others write; returns also where the binlog ended a while before. A server that is never
/// at rest has a moment between two commits by chance only: the writers rest now and then. Where it came too late, the
/// account may take no lock and reads by one session, and it is read again.
async fn reading_under(
    server: &Server,
    product: Product,
    writers: &Writers,
    (config, mode): (&MysqlConfig, &str),
    has_come: impl AsyncFn(),
) -> ((String, u64), Recorded) {
    let mut rest = Duration::from_millis(5);
    for _ in 0..20 * rounds(3) {
        let began = end_of_binlog(server, product).await;
        writers.progress_of_each(5).await;
        // A replica that is slower than its primary would fall behind for ever.
        writers.rest_for(has_come()).await;
        let recorded = tokio::select! {
            recorded = Recorded::read(config) => recorded,
            never = rest_now_and_then(writers, &has_come, &mut rest) => match never {},
        };
        writers.go_on();
        writers.progress_of_each(5).await;
        let got = &recorded.point.marks["lock_mode"];
        if got == mode {
            return (began, recorded);
        }
        assert!(mode == "equal" && got == "single", "{:?}", recorded.point);
    }
    panic!("no moment between two commits was found");
}

/// Lets writers write a little and then rest, for ever. Nothing is left to do in a rest when `has_come` says so, and
/// each is longer than the one before: so a time comes that is long enough for whatever the machine.
async fn rest_now_and_then(
    writers: &Writers,
    has_come: &impl AsyncFn(),
    rest: &mut Duration,
) -> std::convert::Infallible {
    loop {
        writers.progress_of_each(2).await;
        writers
            .rest_for(async {
                has_come().await;
                tokio::time::sleep(*rest).await;
            })
            .await;
        *rest = (*rest * 5 / 4).min(Duration::from_secs(5));
    }
}

async fn a_replica_records_the_place_of_its_rows_in_the_journal_of_its_primary(product: Product) {
    let primary = Server::empty_with(product, gtids(product)).await;
    let replica = Server::replica_with(&primary, product, gtids(product)).await;
    let writers = counting(&primary, product).await;
    let modes: &[(&str, &str)] = match product {
        Product::Mysql => &MODES_OF_MYSQL,
        Product::Mariadb => &[
            ("stage", "RELOAD, SLAVE MONITOR"),
            ("tables", "LOCK TABLES, SLAVE MONITOR"),
            ("single", "SLAVE MONITOR"),
        ],
    };
    for (mode, given) in modes {
        let config = reader(&replica, given).await;
        for round in 0..rounds(3) {
            let case = format!("{mode}, round {round}");
            let began = end_of_binlog(&primary, product).await;
            let come = async || has_come(&primary, &replica).await;
            let (_, recorded) = reading_under(&replica, product, &writers, (&config, mode), come).await;
            let marks = &recorded.point.marks;
            assert_eq!(marks["primary_applied"], "yes", "{case}: {marks:?}");
            if *mode == "single" {
                let places = ["primary_file", "primary_pos", "primary_gtid"];
                assert!(places.iter().all(|place| !marks.contains_key(*place)), "{case}: {marks:?}");
                continue;
            }
            is_at_its_place(&primary, &began, &recorded, &case).await;
        }
    }
    writers.stop().await;
}

/// Checks that what was read of a replica is what its primary's journal has up to the place that is recorded.
async fn is_at_its_place(primary: &Server, began: &(String, u64), recorded: &Recorded, case: &str) {
    let (marks, read) = (&recorded.point.marks, read_rows(recorded));
    let logged = logged(primary, began).await;
    assert!(is_exact(&logged, &read, |one| holds(&marks["primary_gtid"], &one.gtid)), "{case}: {marks:?}");
    let pos: u64 = marks["primary_pos"].parse().expect("a number");
    assert_eq!(marks["primary_file"], began.0, "{case}");
    let before = logged.iter().filter(|one| one.pos < pos);
    let lost = before.filter(|one| !read.contains(&(one.table.clone(), one.n))).count();
    assert_eq!(lost, 0, "{case}: a replica that goes on there lacks rows: {marks:?}");
}

/// Waits until the replica has what the primary has now.
async fn has_come(primary: &Server, replica: &Server) {
    let sums = (0..TABLES).map(|table| format!("(SELECT COUNT(*) FROM lbt_count.c{table})"));
    let count = format!("SELECT CONCAT({})", sums.collect::<Vec<_>>().join(" + "));
    let tables = "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = 'lbt_count'";
    while replica.ask(tables).await != TABLES.to_string() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let wanted: u64 = primary.ask(&count).await.parse().expect("a number");
    while replica.ask(&count).await.parse::<u64>().expect("a number") < wanted {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn a_replica_that_stands_still_needs_no_lock_to_tell_the_place_of_its_primary(product: Product) {
    let primary = Server::empty_with(product, gtids(product)).await;
    let replica = Server::replica_with(&primary, product, gtids(product)).await;
    let began = end_of_binlog(&primary, product).await;
    let writers = counting(&primary, product).await;
    writers.progress_of_each(5).await;
    writers.rest_for(has_come(&primary, &replica)).await;
    let (given, stop) = match product {
        Product::Mysql => ("REPLICATION CLIENT", "STOP REPLICA SQL_THREAD"),
        Product::Mariadb => ("SLAVE MONITOR", "STOP SLAVE SQL_THREAD"),
    };
    replica.run([stop]).await;
    let config = reader(&replica, given).await;
    let recorded = Recorded::read(&config).await;
    writers.progress_of_each(5).await;
    writers.stop().await;
    let marks = &recorded.point.marks;
    assert_eq!((marks["lock_mode"].as_str(), marks["primary_applied"].as_str()), ("single", "no"));
    is_at_its_place(&primary, &began, &recorded, "it stands still").await;
    let (told, source) = heard(&config);
    read_all(source).await.expect("it is read");
    let told = told.warnings();
    assert!(told.iter().any(|line| line.contains("applies nothing")), "{told:?}");
    assert!(!told.iter().any(|line| line.contains("in the primary's binlog")), "{told:?}");
}
