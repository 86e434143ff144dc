//! What a drill asks, asked of real servers.
#![allow(clippy::unwrap_used, reason = "clippy takes only the outermost function of a test for one")]

#[path = "live_support/redis.rs"]
mod redis_connection;
#[path = "live_support/mysql.rs"]
#[allow(dead_code, reason = "each test file uses a part of it")]
mod support;

use std::{
    collections::BTreeMap,
    ops::ControlFlow,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, TimeZone as _, Utc};
use lifeboat::{
    clock::{Ground, StoppedClock},
    drill::{Answer, Assertion},
    error::{ExitCode, Result},
    event::{NoMonitor, SharedMonitor},
    flow::{STREAM_DEPTH, Source as _, channel, settle},
    jobs::drill::{Asking, Cast, Dumps, ObjectBook},
    lab::{Ended, Lab, Program, Running, Server as LabServer},
    mysql,
    names::{SnapshotId, SourceName},
    policy::{DrillConfig, RedisConfig, SecretRef, SourceConfig, SourceKind},
    redis::{
        RedisSource,
        compare::Dump,
        keys::{Keys, beginning_with},
    },
};
use support::{Product, Server, own};

const HASH: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// A lab whose servers are those of the fixtures.
struct Fixtures;

#[async_trait]
impl Lab for Fixtures {
    fn describe(&self) -> String {
        "fixtures".to_owned()
    }
    async fn start(&self, _: &[LabServer]) -> Result<Vec<Running>> {
        unreachable!("they run")
    }
    async fn check(&self) -> Result<()> {
        Ok(())
    }
    async fn run(&self, _: &Program) -> Result<Ended> {
        unreachable!("no program is asked for")
    }
    async fn remove(&self) -> Result<()> {
        unreachable!("they stay")
    }
}

/// The dump of a snapshot, to be asked for once.
struct Held(Mutex<Option<Dump>>);

#[async_trait]
impl Dumps for Held {
    async fn dump(&self, _: &SourceName, _: &RedisConfig) -> Result<Dump> {
        Ok(self.0.lock().unwrap().take().unwrap())
    }
}

/// Takes a dump of all that a Redis holds.
async fn dumped(config: &RedisConfig) -> Held {
    let (sink, entries) = channel(STREAM_DEPTH);
    let source = RedisSource::new(name("redis"), config.clone(), Ground::system(), NoMonitor::shared());
    let (read, taken) = tokio::join!(Box::new(source).read(sink, None), Dump::take(entries, config, 0));
    Held(Mutex::new(Some(settle(read, taken).unwrap().1)))
}

fn name(name: &str) -> SourceName {
    SourceName::new(name).unwrap()
}

/// The shared Redis of a major version, and keys there that nobody else has.
struct Redis {
    config: RedisConfig,
    client: redis::Client,
    prefix: String,
    _secret: tempfile::TempDir,
}

/// The database that these tests write to.
const DB: u32 = 13;

impl Redis {
    fn shared(major: u8) -> Self {
        let variable = format!("REDIS{major}_URL");
        let url = std::env::var(&variable)
            .unwrap_or_else(|_| panic!("{variable} is not set: run `source <(fixtures/stack env)` first"));
        let client = redis::Client::open(format!("{}/{DB}", url.trim_end_matches('/'))).unwrap();
        let secret = tempfile::tempdir().unwrap();
        let file = secret.path().join("password");
        std::fs::write(&file, client.get_connection_info().redis_settings().password().unwrap()).unwrap();
        let address = url.rsplit_once('@').unwrap().1.trim_end_matches('/');
        let mut config: RedisConfig = toml::from_str(&format!("url = \"redis://{address}\"")).unwrap();
        config.password = Some(SecretRef::File(file));
        Self { config, client, prefix: format!("{}:", own("questions")), _secret: secret }
    }

    fn key(&self, name: &[u8]) -> Vec<u8> {
        [self.prefix.as_bytes(), name].concat()
    }

    async fn set(&self, names: impl IntoIterator<Item = Vec<u8>>) {
        let mut connection = redis_connection::connect(&self.client).await.unwrap();
        let mut commands = redis::pipe();
        for name in names {
            // What a run that broke down leaves behind goes by itself.
            commands.cmd("SET").arg(self.key(&name)).arg("x").arg("EX").arg(600).ignore();
        }
        commands.query_async::<()>(&mut connection).await.unwrap();
    }

    async fn remove(&self, name: &[u8]) {
        let mut connection = redis_connection::connect(&self.client).await.unwrap();
        redis::cmd("DEL").arg(self.key(name)).exec_async(&mut connection).await.unwrap();
    }
}

async fn all(server: &Server, query: &str) -> Result<Vec<mysql::Answer>> {
    let mut rows = Vec::new();
    let hear = |row| {
        rows.push(row);
        Ok(ControlFlow::Continue(()))
    };
    mysql::ask(&name("mysql"), &server.config, query, hear).await?;
    Ok(rows)
}

fn texts(row: &mysql::Answer) -> Vec<Option<&str>> {
    row.iter().map(|value| value.as_deref().map(|value| std::str::from_utf8(value).unwrap())).collect()
}

/// Makes a test for each product of an async function that takes one.
macro_rules! on_both {
    ($($test:ident),* $(,)?) => {
        mod mysql_server {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                #[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
                async fn $test() {
                    super::$test(crate::support::Product::Mysql).await;
                }
            )*
        }
        mod mariadb_server {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                #[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
                async fn $test() {
                    super::$test(crate::support::Product::Mariadb).await;
                }
            )*
        }
    };
}
on_both!(
    a_question_is_answered_row_by_row,
    a_question_changes_nothing,
    a_refused_question_says_the_servers_number_and_words,
    every_question_of_a_policy_is_asked,
);

async fn a_question_is_answered_row_by_row(product: Product) {
    let server = Server::shared(product).await;
    let db = own("ask");
    server
        .run([
            format!("CREATE DATABASE {db}"),
            format!(
                "CREATE TABLE {db}.t (n INT, name VARCHAR(99) CHARACTER SET latin1, raw VARBINARY(9), \
                 at DATETIME(3), stamp TIMESTAMP NULL, price DECIMAL(9,2))"
            ),
            "SET time_zone = '+08:00'".to_owned(),
            format!("INSERT INTO {db}.t VALUES (1, 'é', x'ff00', '2026-11-01 02:00:00.5', NULL, 12.5)"),
        ])
        .await;
    let rows = all(&server, &format!("SELECT *, '密', COUNT(*) OVER () FROM {db}.t")).await.unwrap();
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0][2].as_deref(), Some(b"\xff\0".as_slice()), "bytes stay bytes");
    let mut row = rows[0].clone();
    row.remove(2);
    assert_eq!(
        texts(&row),
        [Some("1"), Some("é"), Some("2026-11-01 02:00:00.500"), None, Some("12.50"), Some("密"), Some("1")]
    );
    let rows = all(&server, "SELECT FROM_UNIXTIME(1793501940)").await.unwrap();
    assert_eq!(texts(&rows[0]), [Some("2026-11-01 02:59:00")], "times are in UTC");
    assert_eq!(all(&server, &format!("SELECT n FROM {db}.t WHERE n = 2;")).await.unwrap().len(), 0);
    // Whoever has heard enough is not sent the rest.
    let mut heard = 0;
    let hear = |_| {
        heard += 1;
        Ok(if heard == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    };
    let many =
        "WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM n WHERE i < 900) SELECT i FROM n";
    mysql::ask(&name("mysql"), &server.config, many, hear).await.unwrap();
    assert_eq!(heard, 3);
    server.run([format!("DROP DATABASE {db}")]).await;
}

async fn a_question_changes_nothing(product: Product) {
    let server = Server::shared(product).await;
    let db = own("calm");
    server.run([format!("CREATE DATABASE {db}"), format!("CREATE TABLE {db}.t (n INT)")]).await;
    for statement in [
        format!("INSERT INTO {db}.t VALUES (1)"),
        format!("DROP TABLE {db}.t"),
        format!("SELECT 1; DELETE FROM {db}.t"),
    ] {
        let failure = all(&server, &statement).await.unwrap_err();
        assert!(failure.chain().join(": ").contains("error 1792"), "{statement}: {:?}", failure.chain());
    }
    assert_eq!(server.ask(&format!("SELECT COUNT(*) FROM {db}.t")).await, "0");
    server.run([format!("DROP DATABASE {db}")]).await;
}

async fn a_refused_question_says_the_servers_number_and_words(product: Product) {
    let server = Server::shared(product).await;
    let failure = all(&server, "SELECT * FROM nowhere.at_all").await.unwrap_err();
    assert_eq!(failure.exit(), ExitCode::Failed);
    let chain = failure.chain();
    assert!(chain[0].starts_with("`mysql`: failed to answer the question at "), "{chain:?}");
    let numbers = ["error 1146: Table 'nowhere.at_all'", "error 1049: Unknown database 'nowhere'"];
    assert!(numbers.iter().any(|begin| chain[1].starts_with(begin)), "{chain:?}");
}

async fn keys_are_found(major: u8) {
    let redis = Redis::shared(major);
    let odd: [&[u8]; 3] = ["会话 1".as_bytes(), b"\xff\0\r\n", b"[a]*?\\"];
    let names = || (0..1200).map(|n| format!("session:{n}").into_bytes()).chain(odd.map(<[u8]>::to_vec));
    redis.set(names()).await;
    let mut keys = Keys::open(&name("redis"), &redis.config, DB).await.unwrap();
    // Every third one is another.
    let asked: Vec<Vec<u8>> = names()
        .enumerate()
        .map(|(n, key)| redis.key(&if n % 3 == 0 { [key, b"?".to_vec()].concat() } else { key }))
        .collect();
    let there = keys.are_there(&asked).await.unwrap();
    let expected: Vec<bool> = (0..1203).map(|n| n % 3 != 0).collect();
    assert_eq!(there, expected);
    assert_eq!(keys.are_there(&Vec::<Vec<u8>>::new()).await.unwrap(), [false; 0]);

    let mut walked = std::collections::BTreeSet::new();
    let pattern = beginning_with(redis.prefix.as_bytes());
    let hear = |key| {
        walked.insert(key);
        Ok(())
    };
    keys.walk(&pattern, hear).await.unwrap();
    assert_eq!(walked, names().map(|key| redis.key(&key)).collect());
    let mut walked = Vec::new();
    let pattern = beginning_with(&redis.key(b"[a]*?"));
    keys.walk(&pattern, |key| {
        walked.push(key);
        Ok(())
    })
    .await
    .unwrap();
    assert_eq!(walked, [redis.key(b"[a]*?\\")]);

    let mut other = Keys::open(&name("redis"), &redis.config, DB + 1).await.unwrap();
    assert_eq!(other.are_there(&asked[1..2]).await.unwrap(), [false], "another database");
    let failure = Keys::open(&name("redis"), &redis.config, 99_999).await.err().unwrap();
    assert!(failure.to_string().contains("refused SELECT"), "{failure}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn keys_of_redis_7_are_found() {
    keys_are_found(7).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn keys_of_redis_8_are_found() {
    keys_are_found(8).await;
}

fn point() -> DateTime<Utc> {
    Utc.with_ymd_and_hms(2026, 11, 1, 3, 0, 0).unwrap()
}

/// Fills a database and a Redis, and returns what the policy asks of them.
async fn furnish(server: &Server, redis: &Redis, db: &str) -> DrillConfig {
    let key = |name: &str| String::from_utf8(redis.key(name.as_bytes())).unwrap();
    let [one, two, five] = ["session:1", "session:2", "session:5"].map(key);
    server
        .run([
            format!("CREATE DATABASE {db}"),
            format!("CREATE TABLE {db}.files (path VARCHAR(99) CHARACTER SET utf8mb4, hash CHAR(64), size BIGINT)"),
            format!("INSERT INTO {db}.files VALUES ('/im/图 1.png', '{HASH}', 3), ('/im/gone', NULL, NULL), (NULL, NULL, NULL)"),
            format!("CREATE TABLE {db}.sessions (token VARCHAR(99), at DATETIME)"),
            format!(
                "INSERT INTO {db}.sessions VALUES ('{one}', '2026-11-01 10:50:00'), \
                 ('{two}', '2026-11-01 10:51:00'), ('{five}', '2026-11-01 10:49:00')",
            ),
        ])
        .await;
    redis.set(["session:1", "session:3", "other:4", "session:5"].map(|name| name.as_bytes().to_vec())).await;
    let prefix = &redis.prefix;
    let text = format!(
        "
[[reference]]
source = \"mysql\"
query = \"SELECT path, hash, size FROM {db}.files\"
in = \"minio\"
bucket = \"im-files\"
strip_prefix = \"/im/\"
[[reference]]
name = \"sessions\"
source = \"mysql\"
query = \"SELECT token FROM {db}.sessions\"
in = \"redis\"
db = {DB}
orphans = \"{prefix}{{session,token}}:*\"
orphans_max = 0
[[reference]]
name = \"keys alone\"
source = \"mysql\"
query = \"SELECT token FROM {db}.sessions ORDER BY token LIMIT 1\"
in = \"redis\"
db = {DB}
[[expect]]
name = \"files\"
source = \"mysql\"
query = \"SELECT COUNT(*) FROM {db}.files\"
at_least = 3
[[expect]]
name = \"no such table\"
source = \"mysql\"
query = \"SELECT COUNT(*) FROM {db}.lost\"
at_least = 1
[[expect]]
name = \"total\"
source = \"mysql\"
query = \"SELECT SUM(size) FROM {db}.files WHERE size > 99\"
at_least = 1
[[freshness]]
name = \"newest\"
source = \"mysql\"
query = \"SELECT MAX(at) FROM {db}.sessions\"
within_minutes = 15
timezone = \"Asia/Shanghai\"
[[freshness]]
name = \"read as UTC\"
source = \"mysql\"
query = \"SELECT MAX(at) FROM {db}.sessions\"
within_minutes = 15
"
    );
    toml::from_str(&text).unwrap()
}

async fn every_question_of_a_policy_is_asked(product: Product) {
    let server = Server::shared(product).await;
    let redis = Redis::shared(8);
    let db = own("whole");
    let drill = furnish(&server, &redis, &db).await;
    let copy =
        |of: &str, kind| Cast { config: SourceConfig { name: name(of), kind }, running: None, folder: None };
    let s3 = "endpoint = \"http://127.0.0.1:1\"\naccess_key = { env = \"A\" }\nsecret_key = { env = \"B\" }";
    let cast = [
        copy("mysql", SourceKind::Mysql(server.config.clone())),
        copy("redis", SourceKind::Redis(redis.config.clone())),
        copy("minio", SourceKind::S3(toml::from_str(s3).unwrap())),
    ];
    let mut book = ObjectBook::new().unwrap();
    book.note("minio", "im-files", "图 1.png".as_bytes(), 3, HASH).unwrap();
    let monitor: SharedMonitor = NoMonitor::shared();
    let snapshot = SnapshotId::new("20261101T030000Z-7f3a").unwrap();
    let points = BTreeMap::from([(name("mysql"), point())]);
    // One key was there when the snapshot was made, for ten minutes; the drill is a quarter of an hour later.
    let dumps = dumped(&redis.config).await;
    redis.remove(b"session:5").await;
    let clock = Arc::new(StoppedClock::at(Ground::system().clock.now() + TimeDelta::minutes(15)));
    let ground = Ground { clock, ..Ground::system() };
    let asking = Asking {
        drill: &drill,
        snapshot: &snapshot,
        points,
        dumps: &dumps,
        cast: &cast,
        lab: &Fixtures,
        ground: &ground,
        monitor: &monitor,
    };
    let mut assertions = Vec::new();
    asking.ask(Ok(&book), None, &mut assertions).await;
    server.run([format!("DROP DATABASE {db}")]).await;

    let parts = |one: &Assertion| (one.name.clone(), one.answer, one.findings.clone());
    let told: Vec<_> = assertions.iter().map(parts).collect();
    let told: Vec<_> = told.iter().map(|(name, answer, found)| (&**name, *answer, &**found)).collect();
    let (gone, lost) = ("row `im-files/gone` has no object".to_owned(), redis.prefix.clone());
    let sessions = [format!("row `{lost}session:2` has no key"), format!("key `{lost}session:3` has no row")];
    assert_eq!(
        told,
        [
            ("mysql in minio/im-files", Answer::Failed, [gone].as_slice()),
            ("sessions", Answer::Failed, &sessions),
            ("keys alone", Answer::Held, &[]),
            ("files", Answer::Held, &[]),
            ("no such table", Answer::CouldNotRun, &[]),
            ("total", Answer::Failed, &[]),
            ("newest", Answer::Held, &[]),
            ("read as UTC", Answer::Failed, &[]),
        ]
    );
    assert_eq!(
        assertions[0].detail,
        "2 rows (1 more name nothing), 1 missing; 1 object, 0 without a row; 0 may be missing"
    );
    assert_eq!(
        assertions[1].detail,
        "3 rows, 1 missing, 1 key has expired since the snapshot; 2 keys, 1 without a row; 0 may be missing; \
         0 keys may be without a row"
    );
    assert_eq!(assertions[2].detail, "1 row, 0 missing");
    assert!(assertions[4].detail.contains("error 1146"), "{}", assertions[4].detail);
    assert_eq!(assertions[5].detail, "the answer is NULL: no rows");
    assert_eq!(assertions[6].value, Some(9 * 60));
    assert!(assertions[7].detail.contains("a clock is wrong"), "{}", assertions[7].detail);
}
