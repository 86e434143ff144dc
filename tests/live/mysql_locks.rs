//! Every lock that the instant may be taken under: none tears it, and none keeps others waiting.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use lifeboat::{
    error::{ExitCode, Failure},
    flow::{
        EntryMeta, FlowError, FlowResult, Point, STREAM_DEPTH, Stage, channel, conformance::read_all, settle,
    },
    policy::MysqlConfig,
};
use mysql_async::prelude::Queryable;

use crate::{
    failures::account,
    rows::Recorded,
    snapshot::{Writers, fields, transfers},
    support::{Process, Product, Server, heard, own, processes, source, until_seen},
};

crate::on_both!(
    no_lock_tears_an_instant,
    a_database_that_the_binlog_leaves_out_is_read_at_one_instant,
    nobody_waits_long_behind_a_reading_while_a_long_statement_runs,
    a_definition_that_changes_is_held_or_fails_the_reading,
    statements_with_letters_of_four_bytes_hinder_no_reading,
    a_row_that_moves_between_ranges_is_read_once,
    work_tables_that_come_and_go_fail_no_reading,
    an_account_of_a_managed_server_reads_at_one_instant,
    a_replica_tells_the_position_of_its_primary,
    tables_without_transactions_are_named,
    one_killed_session_fails_the_reading,
    a_slow_store_is_waited_for_and_a_killed_statement_or_a_restart_fails,
);

/// What an account needs for reading alone.
pub const READ: &str = "SELECT, SHOW VIEW, TRIGGER, EVENT, PROCESS ON *.*";

fn failure(error: FlowError) -> Failure {
    match error {
        FlowError::Failed(failure) => failure,
        other => panic!("not a failure: {other}"),
    }
}

/// Returns how many rounds of chance a test makes; more of them are for a long run by hand.
pub fn rounds(few: usize) -> usize {
    std::env::var("LIFEBOAT_TEST_ROUNDS").map_or(few, |text| text.parse().expect("a number of rounds"))
}

/// Reads a source, and calls `at_entry` when an entry begins; the reading stands still meanwhile.
async fn read_with(
    config: &MysqlConfig,
    mut at_entry: impl AsyncFnMut(usize, &EntryMeta),
) -> FlowResult<(Point, u64)> {
    let (sink, mut stream) = channel(STREAM_DEPTH);
    let take = async {
        let (mut entries, mut bytes) = (0, 0);
        while let Some(mut entry) = stream.next().await? {
            at_entry(entries, &entry.meta).await;
            while let Some(data) = entry.body.next().await? {
                bytes += data.len() as u64;
            }
            entries += 1;
        }
        Ok((stream.point().cloned().expect("a finished stream has a point"), bytes))
    };
    let (read, taken) = tokio::join!(source(config).read(sink, None), take);
    settle(read, taken).map(|((), taken)| taken)
}

async fn sums_are_whole(server: &Server, db: &'static str, accounts: &[(&str, &[&str])]) {
    let writers = transfers(server, db).await;
    for (mode, grants) in accounts {
        let user = format!("by_{mode}");
        account(server, &user, grants).await;
        let mut config = server.as_user(server.only(&[db]), &user, "x");
        config.threads = 4;
        let (mut seen, mut round) = (0, 0);
        while seen < rounds(3) {
            round += 1;
            assert!(round < 20 * rounds(3), "no moment between two commits was found");
            writers.progress(20).await;
            let recorded = Recorded::read(&config).await;
            let got = recorded.point.marks["lock_mode"].as_str();
            // Whether there is a moment between two commits is chance; these accounts may then take no lock.
            assert!(
                got == *mode || (*mode == "equal" && got == "single"),
                "round {round}: {:?}",
                recorded.point
            );
            seen += usize::from(got == *mode);
            let balance = |table| fields(&recorded.rows(&format!("b{table}")))[0][1].parse::<i64>().unwrap();
            let sum: i64 = (0..4).map(balance).sum();
            assert_eq!(sum, 4000, "round {round}: {:?}", recorded.point);
        }
    }
    writers.stop().await;
}

async fn no_lock_tears_an_instant(product: Product) {
    let server = Server::empty(product).await;
    match product {
        Product::Mysql => {
            let all: [(&str, &[&str]); 4] = [
                ("equal", &[READ, "BACKUP_ADMIN, REPLICATION CLIENT ON *.*"]),
                ("global", &[READ, "RELOAD ON *.*"]),
                ("tables", &[READ, "LOCK TABLES ON *.*"]),
                ("single", &[READ]),
            ];
            sums_are_whole(&server, "lbt_bank", &all).await;
        }
        Product::Mariadb => {
            let all: [(&str, &[&str]); 3] = [
                ("stage", &[READ, "RELOAD ON *.*"]),
                ("tables", &[READ, "LOCK TABLES, REPLICATION CLIENT ON *.*"]),
                ("single", &[READ]),
            ];
            sums_are_whole(&server, "lbt_bank", &all).await;
            // Without a binlog no place in it proves anything.
            let server = Server::empty_with(product, &["--skip-log-bin"]).await;
            let all: [(&str, &[&str]); 2] = [("tables", &[READ, "LOCK TABLES ON *.*"]), ("single", &[READ])];
            sums_are_whole(&server, "lbt_bank", &all).await;
        }
    }
}

/// The place in a binlog proves nothing about what is kept out of it.
async fn a_database_that_the_binlog_leaves_out_is_read_at_one_instant(product: Product) {
    let server = Server::empty_with(product, &["--binlog-ignore-db=lbt_unlogged"]).await;
    let given = match product {
        Product::Mysql => "LOCK TABLES, BACKUP_ADMIN, REPLICATION CLIENT ON *.*",
        Product::Mariadb => "LOCK TABLES, REPLICATION CLIENT ON *.*",
    };
    account(&server, "reader", &[READ, given]).await;
    let writers = transfers(&server, "lbt_unlogged").await;
    let mut config = server.as_user(server.only(&["lbt_unlogged"]), "reader", "x");
    config.threads = 8;
    for _ in 0..rounds(3) {
        writers.progress(20).await;
        let recorded = Recorded::read(&config).await;
        let balance = |table| fields(&recorded.rows(&format!("b{table}")))[0][1].parse::<i64>().unwrap();
        assert_eq!((0..4).map(balance).sum::<i64>(), 4000, "{:?}", recorded.point);
        if product == Product::Mariadb {
            assert_eq!(recorded.point.marks["lock_mode"], "tables");
        }
    }
    writers.stop().await;
}

/// Asks and writes all the time until told to stop, and returns the longest wait.
async fn longest_wait(server: &Server, until: Instant) -> Duration {
    let ask = async |sql: &str| {
        let (mut conn, mut longest) = (server.conn().await, Duration::ZERO);
        while Instant::now() < until {
            let began = Instant::now();
            conn.query_drop(sql).await.expect("the statement is let through");
            longest = longest.max(began.elapsed());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        longest
    };
    let (read, written, elsewhere) = tokio::join!(
        ask("SELECT COUNT(*) FROM lbt_long.t"),
        ask("INSERT INTO lbt_long.t VALUES (NULL)"),
        ask("INSERT INTO lbt_long.other VALUES (NULL)"),
    );
    read.max(written).max(elsewhere)
}

async fn nobody_waits_long_behind_a_reading_while_a_long_statement_runs(product: Product) {
    let server = Server::empty(product).await;
    server
        .run([
            "CREATE DATABASE lbt_long",
            "CREATE TABLE lbt_long.t (id INT PRIMARY KEY AUTO_INCREMENT)",
            "CREATE TABLE lbt_long.other (id INT PRIMARY KEY AUTO_INCREMENT)",
            "INSERT INTO lbt_long.t VALUES (NULL)",
        ])
        .await;
    account(&server, "flusher", &[READ, "RELOAD, LOCK TABLES, REPLICATION CLIENT ON *.*"]).await;
    account(&server, "blocked", &[READ, "RELOAD ON *.*"]).await;
    let mut slow = server.conn().await;
    let long = tokio::spawn(async move {
        slow.query_drop("SELECT SLEEP(14) FROM lbt_long.t LIMIT 1").await.expect("it ends by itself");
    });
    until_seen(&server, |one| one.statement.starts_with("SELECT SLEEP") && one.seconds >= 3).await;
    // As long as the statement, and a while longer.
    let until = Instant::now() + Duration::from_secs(12);
    let readings = async {
        let mut config = server.only(&["lbt_long"]);
        config.lock_wait_seconds = 2;
        let (best, next) = match product {
            Product::Mysql => ("equal", "tables"),
            Product::Mariadb => ("stage", "stage"),
        };
        for (user, mode) in [("root", best), ("flusher", next)] {
            let config =
                if user == "root" { config.clone() } else { server.as_user(config.clone(), user, "x") };
            let reading = read_all(source(&config)).await.expect("there is a lock that needs not wait");
            assert_eq!(reading.point.marks["lock_mode"], mode, "{user}");
        }
        let blocked = read_all(source(&server.as_user(config, "blocked", "x"))).await;
        match product {
            Product::Mysql => {
                let failure = failure(blocked.expect_err("a flush would have to wait"));
                assert_eq!(failure.exit(), ExitCode::Failed);
                let told = failure.to_string();
                assert!(told.contains("of user `root` has been running for "), "{told}");
                let all = format!("{:?} {:?}", failure.chain(), failure.hints());
                assert!(all.contains("KILL QUERY ") && !all.contains("SLEEP"), "{all}");
            }
            Product::Mariadb => {
                assert_eq!(blocked.expect("it waits for no query").point.marks["lock_mode"], "stage");
            }
        }
        assert!(!long.is_finished(), "all of it happened while the statement ran");
    };
    let ((), longest) = tokio::join!(readings, longest_wait(&server, until));
    long.await.expect("the long statement ends");
    // One attempt may last 3 seconds; the statement itself would make them wait for many more.
    assert!(longest < Duration::from_secs(5), "somebody waited for {longest:?}");
}

/// Tries a change in a session that does not wait for long; returns whether it went through. What does not is held by
/// somebody, and not wrong in itself.
async fn goes_through(server: &Server, change: &str, wait_seconds: u8) -> bool {
    let mut conn = server.conn().await;
    let wait = format!("SET SESSION lock_wait_timeout = {wait_seconds}");
    conn.query_drop(wait).await.expect("the session is prepared");
    conn.query_drop("USE lbt_ddl").await.expect("the database is there");
    match conn.query_drop(change).await {
        Ok(()) => true,
        Err(mysql_async::Error::Server(error)) if error.code == 1205 => false,
        Err(error) => panic!("{change}: {error}"),
    }
}

async fn a_definition_that_changes_is_held_or_fails_the_reading(product: Product) {
    let server = Server::empty(product).await;
    server
        .run([
            "CREATE DATABASE lbt_ddl",
            "CREATE TABLE lbt_ddl.t (id INT PRIMARY KEY)",
            "INSERT INTO lbt_ddl.t VALUES (1)",
            // Its entries keep a reading whose first is not taken from programs: MySQL holds those that were read.
            "CREATE TABLE lbt_ddl.tween (id INT PRIMARY KEY)",
            "CREATE VIEW lbt_ddl.v AS SELECT id FROM lbt_ddl.t",
            "CREATE PROCEDURE lbt_ddl.p() SELECT 1",
        ])
        .await;
    account(&server, "unlocked", &[READ, "RELOAD, REPLICATION CLIENT ON *.*"]).await;
    let mut of_tables = vec![
        "ALTER TABLE t ADD COLUMN more INT",
        "TRUNCATE TABLE t",
        "DROP TABLE t",
        "RENAME TABLE t TO u",
        "CREATE INDEX more ON t (id)",
    ];
    if product == Product::Mariadb {
        of_tables.push("CREATE OR REPLACE TABLE t (other INT)");
    }
    // Each differs from the round before by `?`.
    let of_programs = [
        (&["CREATE OR REPLACE VIEW v AS SELECT id + ? AS id FROM t"][..], "view `lbt_ddl.v` was changed"),
        (&["ALTER PROCEDURE p COMMENT '?'"], "procedure `lbt_ddl.p` was changed"),
        (&["CREATE FUNCTION f() RETURNS INT DETERMINISTIC RETURN 1"], "function `lbt_ddl.f` was made"),
        (&["DROP FUNCTION f"], "function `lbt_ddl.f`"),
        (&["ALTER DATABASE lbt_ddl COLLATE utf8mb?_bin"], "database `lbt_ddl` was changed"),
    ];
    let unlocked = server.as_user(server.only(&["lbt_ddl"]), "unlocked", "x");
    let has_lock = product == Product::Mysql;
    for (round, config, is_locked) in [("3", server.only(&["lbt_ddl"]), has_lock), ("4", unlocked, false)] {
        let programs = of_programs.iter().filter(|_| is_locked).flat_map(|(changes, _)| *changes);
        let held = of_tables.iter().chain(programs).map(|change| change.replace('?', round));
        let held: Vec<String> = held.collect();
        let read = read_with(&config, async |entry, _| {
            if entry == 0 {
                let went = join_all(held.iter().map(|change| goes_through(&server, change, 1))).await;
                assert!(!went.contains(&true), "{went:?} of {held:?}");
            }
        });
        let (point, _) = read.await.expect("the reading is whole");
        assert_eq!(point.marks["ddl_locked"], if is_locked { "yes" } else { "no" });
        for (changes, told) in of_programs.iter().filter(|_| !is_locked) {
            // MySQL lets nobody alter a database whose tables are held. All else goes through as soon as the server has
            // let the session of the reading before go.
            let is_held = has_lock && told.starts_with("database");
            let wait_seconds = if is_held { 1 } else { 60 };
            let mut went = false;
            let read = read_with(&config, async |entry, _| {
                for change in changes.iter().filter(|_| entry == 0) {
                    went |= goes_through(&server, &change.replace('?', round), wait_seconds).await;
                }
            });
            let read = read.await;
            assert_eq!(went, !is_held, "{changes:?}");
            match read {
                Ok(_) => assert!(is_held, "{told} was not found"),
                Err(error) => {
                    let failure = failure(error);
                    assert!(failure.to_string().contains(told), "{failure}");
                    assert_eq!(failure.exit(), ExitCode::Failed);
                }
            }
        }
    }
}

async fn statements_with_letters_of_four_bytes_hinder_no_reading(product: Product) {
    let server = Server::empty(product).await;
    server
        .run([
            "CREATE DATABASE lbt_emoji",
            "CREATE TABLE lbt_emoji.t (id INT PRIMARY KEY)",
            "INSERT INTO lbt_emoji.t VALUES (1), (2)",
        ])
        .await;
    let (mut chat, mut watch) = (server.conn().await, server.conn().await);
    let talk = tokio::spawn(async move {
        // In a transaction, so that the engine's list has the statement too.
        chat.query_drop("BEGIN").await.expect("it begins");
        let ended = chat.query_drop("SELECT SLEEP(60), '🐬' FROM lbt_emoji.t").await;
        if let Err(error) = ended {
            assert!(error.to_string().contains("interrupted"), "{error}");
        }
    });
    let talks = |one: &Process| one.statement.contains("🐬");
    let talking = loop {
        let mut all = processes(&mut watch).await.into_iter();
        if let Some(session) = all.find(talks) {
            break session.id;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let (_, bytes) = read_with(&server.only(&["lbt_emoji"]), async |_, _| {}).await.expect("it is read");
    assert!(bytes > 0);
    assert!(processes(&mut watch).await.iter().any(talks), "it went on all the while");
    watch.query_drop(format!("KILL QUERY {talking}")).await.expect("it is ours");
    talk.await.expect("the statement ends");
}

async fn a_row_that_moves_between_ranges_is_read_once(product: Product) {
    let server = Server::empty(product).await;
    server
        .run([
            "CREATE DATABASE lbt_move",
            "CREATE TABLE lbt_move.digit (d INT PRIMARY KEY)",
            "INSERT INTO lbt_move.digit VALUES (0),(1),(2),(3),(4),(5),(6),(7),(8),(9)",
            "CREATE TABLE lbt_move.t (id INT PRIMARY KEY, token INT)",
            // Enough for several ranges.
            "INSERT INTO lbt_move.t SELECT a.d + 10 * b.d + 100 * c.d + 1000 * d.d + 10000 * e.d + 100000 * f.d, NULL \
             FROM lbt_move.digit a, lbt_move.digit b, lbt_move.digit c, lbt_move.digit d, lbt_move.digit e, \
             lbt_move.digit f WHERE f.d < 2",
            "UPDATE lbt_move.t SET token = id, id = id - 10 WHERE id < 3",
        ])
        .await;
    let prepare = "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED";
    let writers = Writers::start(&server, 3, prepare, |writer, n| {
        let (low, high) = (format!("{writer} - 10"), format!("{writer} + 300000"));
        let (from, to) = if n % 2 == 0 { (low, high) } else { (high, low) };
        vec![format!("UPDATE lbt_move.t SET id = {to} WHERE id = {from}")]
    })
    .await;
    for _ in 0..rounds(2) {
        writers.progress(2).await;
        let recorded = Recorded::read(&server.only(&["lbt_move"])).await;
        let entries = recorded.rows("t");
        assert!(entries.len() > 1, "the table was read in several ranges");
        let mut tokens: Vec<String> =
            fields(&entries).into_iter().filter(|row| row[1] != "\\N").map(|row| row[1].clone()).collect();
        tokens.sort_unstable();
        assert_eq!(tokens, ["0", "1", "2"]);
    }
    writers.stop().await;
}

async fn work_tables_that_come_and_go_fail_no_reading(product: Product) {
    let server = Server::empty(product).await;
    server
        .run([
            "CREATE DATABASE lbt_work",
            "CREATE TABLE lbt_work.kept (id INT PRIMARY KEY)",
            "INSERT INTO lbt_work.kept VALUES (1)",
        ])
        .await;
    account(&server, "unlocked", &[READ, "RELOAD, LOCK TABLES, REPLICATION CLIENT ON *.*"]).await;
    let writers = Writers::start(&server, 2, "DO 0", |writer, n| {
        let table = format!("lbt_work.w{writer}_{n}");
        vec![
            format!("CREATE TABLE {table} (a INT PRIMARY KEY)"),
            format!("INSERT INTO {table} VALUES (1)"),
            "DO SLEEP(0.2)".to_owned(),
            format!("DROP TABLE {table}"),
        ]
    })
    .await;
    let config = server.only(&["lbt_work"]);
    for config in [server.as_user(config.clone(), "unlocked", "x"), config] {
        for _ in 0..rounds(4) {
            writers.progress(2).await;
            let recorded = Recorded::read(&config).await;
            assert_eq!(recorded.rows("kept"), [b"1\n".to_vec()]);
        }
    }
    writers.stop().await;
}

async fn an_account_of_a_managed_server_reads_at_one_instant(product: Product) {
    let server = Server::empty(product).await;
    server.run(["CREATE DATABASE lbt_rds", "CREATE TABLE lbt_rds.t (id INT PRIMARY KEY)"]).await;
    // What such a server gives its owner, as far as it matters here.
    let given = [READ, "LOCK TABLES, REPLICATION CLIENT, CREATE, DROP, INSERT, UPDATE, DELETE ON *.*"];
    account(&server, "owner", &given).await;
    let by = |user: &str| heard(&server.as_user(server.only(&["lbt_rds"]), user, "x"));
    let (told, source) = by("owner");
    let reading = read_all(source).await.expect("it is read");
    let marks = reading.point.marks;
    assert_eq!(marks["lock_mode"], "tables");
    assert!(marks.contains_key("binlog_file") && !marks.contains_key("position"), "{marks:?}");
    assert!(told.warnings().is_empty(), "{:?}", told.warnings());
    // Without the right to ask for the position there is none, and it is told.
    account(&server, "less", &[READ, "LOCK TABLES ON *.*"]).await;
    let (told, source) = by("less");
    let marks = read_all(source).await.expect("it is read").point.marks;
    match product {
        Product::Mysql => {
            assert_eq!(marks["position"], "unknown");
            assert!(
                told.warnings()[0].contains("may not ask where the binlog stands"),
                "{:?}",
                told.warnings()
            );
        }
        Product::Mariadb => assert!(marks.contains_key("binlog_file"), "{marks:?}"),
    }
}

async fn a_replica_tells_the_position_of_its_primary(product: Product) {
    let primary = Server::empty(product).await;
    let replica = Server::replica_of(&primary, product).await;
    primary
        .run([
            "CREATE DATABASE lbt_copied",
            "CREATE TABLE lbt_copied.t (id INT PRIMARY KEY)",
            "INSERT INTO lbt_copied.t VALUES (1), (2), (3)",
        ])
        .await;
    let copied = "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = 'lbt_copied'";
    while replica.ask(copied).await == "0" || replica.ask("SELECT COUNT(*) FROM lbt_copied.t").await != "3" {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let config = replica.only(&["lbt_copied"]);
    let at_primary = Recorded::read(&primary.only(&["lbt_copied"])).await.point.marks;
    // The applier notes what it has done a moment after it did it.
    let marks = loop {
        let recorded = Recorded::read(&config).await;
        assert_eq!(recorded.rows("t"), [b"1\n2\n3\n".to_vec()]);
        if recorded.point.marks["primary_pos"] == at_primary["binlog_pos"] {
            break recorded.point.marks;
        }
    };
    assert_eq!(marks["primary_file"], at_primary["binlog_file"]);
    assert_eq!(marks["primary_applied"], "yes");
    match product {
        Product::Mysql => {
            assert_eq!(marks["primary_uuid"], at_primary["server_uuid"]);
            assert!(marks["server_uuid"] != marks["primary_uuid"]);
        }
        Product::Mariadb => {
            assert_eq!(marks["primary_uuid"], "77", "MariaDB names a primary by its server_id");
            assert_eq!(marks["primary_gtid"], at_primary["gtid"]);
        }
    }
    // An account that may take no lock: on MariaDB the applier's commits pass the replica's binlog by.
    account(&replica, "reader", &[READ]).await;
    let mode = Recorded::read(&replica.as_user(config.clone(), "reader", "x")).await.point.marks;
    assert_eq!(mode["lock_mode"], "single");
    let stop = if product == Product::Mysql { "STOP REPLICA SQL_THREAD" } else { "STOP SLAVE SQL_THREAD" };
    replica.run([stop]).await;
    let (told, source) = heard(&config);
    let marks = read_all(source).await.expect("it is read").point.marks;
    assert_eq!(marks["primary_applied"], "no");
    assert!(told.warnings()[0].contains("a replica that applies nothing"), "{:?}", told.warnings());
}

async fn tables_without_transactions_are_named(product: Product) {
    let server = Server::shared(product).await;
    let db = &own("torn");
    let other = if product == Product::Mysql { "MEMORY" } else { "Aria" };
    server
        .run([
            format!("DROP DATABASE IF EXISTS {db}"),
            format!("CREATE DATABASE {db}"),
            format!("CREATE TABLE {db}.safe (a INT PRIMARY KEY)"),
            format!("CREATE TABLE {db}.m (a INT PRIMARY KEY) ENGINE = MyISAM"),
            format!("CREATE TABLE {db}.o (a INT PRIMARY KEY) ENGINE = {other}"),
            format!("INSERT INTO {db}.m VALUES (1)"),
        ])
        .await;
    let (heard, told) = heard(&server.only(&[db]));
    let reading = read_all(told).await.expect("it is read");
    assert_eq!(reading.point.marks["nontransactional"], format!("{db}.m, {db}.o"));
    let told = heard.warnings();
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].contains("engine MyISAM") && told[1].contains(&format!("engine {other}")), "{told:?}");
    assert!(reading.entries.contains_key(&format!("{db}/m/data.00001.tsv")));
    server.run([format!("DROP TABLE {db}.m, {db}.o")]).await;
    let reading = read_all(source(&server.only(&[db]))).await.expect("it is read");
    assert!(!reading.point.marks.contains_key("nontransactional"));
    server.run([format!("DROP DATABASE {db}")]).await;
}

/// Makes a table of rows that fill every buffer on the way, for this account.
async fn large(server: &Server, db: &str, product: Product) -> MysqlConfig {
    server
        .run([
            format!("DROP DATABASE IF EXISTS {db}"),
            format!("CREATE DATABASE {db}"),
            format!("CREATE TABLE {db}.big (id INT PRIMARY KEY AUTO_INCREMENT, v LONGTEXT)"),
            format!(
                "INSERT INTO {db}.big (v) VALUES {}",
                (0..8).map(|n| format!("(REPEAT('{n}', 4000000))")).collect::<Vec<_>>().join(", ")
            ),
        ])
        .await;
    let lock = if product == Product::Mysql { "BACKUP_ADMIN ON *.*" } else { "RELOAD ON *.*" };
    account(server, db, &[READ, lock]).await;
    server.as_user(server.only(&[db]), db, "x")
}

async fn sessions_of(server: &Server, user: &str) -> Vec<u64> {
    let mut conn = server.conn().await;
    let all = processes(&mut conn).await.into_iter();
    let mut ids: Vec<u64> = all.filter(|session| session.user == user).map(|session| session.id).collect();
    ids.sort_unstable();
    ids
}

async fn one_killed_session_fails_the_reading(product: Product) {
    let server = Server::shared(product).await;
    let db = &own("killed");
    let config = large(&server, db, product).await;
    let (_, whole) = read_with(&config, async |_, _| {}).await.expect("it is read");
    assert!(whole > 32_000_000);
    // The keeper, the one of the names, and both workers.
    for round in 0..rounds(4) {
        let mut killed = None;
        let read = read_with(&config, async |_, meta| {
            if meta.stage == Stage::Data && killed.is_none() {
                let ids = sessions_of(&server, db).await;
                assert_eq!(ids.len(), 4, "{ids:?}");
                killed = Some(round % 4);
                server.run([format!("KILL {}", ids[round % 4])]).await;
            }
        });
        let failure = failure(read.await.err().unwrap_or_else(|| panic!("{killed:?} was not missed")));
        assert_eq!(failure.exit(), ExitCode::SourceDown, "{killed:?}: {:?}", failure.chain());
    }
    server.run([format!("DROP DATABASE {db}"), format!("DROP USER {db}")]).await;
}

async fn a_slow_store_is_waited_for_and_a_killed_statement_or_a_restart_fails(product: Product) {
    let server = Server::empty_with(product, &["--net-write-timeout=1"]).await;
    let config = large(&server, "lbt_slow", product).await;
    let (_, whole) = read_with(&config, async |_, _| {}).await.expect("it is read");
    let (_, waited_for) = read_with(&config, async |_, meta| {
        if meta.stage == Stage::Data {
            // Longer than the server waits for a client that did not ask it to.
            tokio::time::sleep(Duration::from_millis(2500)).await;
        }
    })
    .await
    .expect("the server waits");
    assert_eq!(whole, waited_for);
    let killed = read_with(&config, async |_, meta| {
        if meta.stage == Stage::Data {
            let mut all = processes(&mut server.conn().await).await.into_iter();
            let sends = |one: &Process| one.user == "lbt_slow" && !one.statement.is_empty();
            let id = all.find(sends).expect("rows are sent").id;
            server.run([format!("KILL QUERY {id}")]).await;
        }
    });
    let failed = failure(killed.await.expect_err("the end of a killed statement is not the end of a table"));
    assert_eq!(failed.exit(), ExitCode::Failed, "{:?}", failed.chain());
    let restarted = read_with(&config, async |_, meta| {
        if meta.stage == Stage::Data {
            server.restart().await;
        }
    });
    let failed = failure(restarted.await.expect_err("the instant is gone"));
    assert_eq!(failed.exit(), ExitCode::SourceDown, "{:?}", failed.chain());
}
