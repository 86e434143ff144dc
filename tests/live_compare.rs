//! A lab that holds what the snapshot holds is told from one that does not, and what differs is named.

#![allow(clippy::unwrap_used, reason = "clippy takes only the outermost function of a test for one")]

#[path = "live_s3/stage.rs"]
#[allow(dead_code, reason = "made for the tests of the S3 engine")]
mod buckets;
#[path = "repository/fixture.rs"]
#[allow(dead_code, reason = "made for the tests of the repository")]
mod fixture;
#[path = "live_s3/proxy.rs"]
#[allow(dead_code, reason = "made for the tests of the S3 engine")]
mod proxy;
#[path = "redis_lab/mod.rs"]
mod redis_lab;
#[path = "live_support/mysql.rs"]
#[allow(dead_code, reason = "made for the tests of the MySQL engine")]
mod support;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use fixture::Ship;
use lifeboat::{
    clock::Ground,
    drill::{Answer, Assertion},
    error::{ExitCode, Failure, Result},
    event::NoMonitor,
    files::FilesTarget,
    flow::{STREAM_DEPTH, Selection, Target, WriteOptions, channel, settle},
    jobs::{
        drill::{Cast, Scene, contents},
        registry,
    },
    lab::{Ended, Lab, Program, Running, Server},
    names::SnapshotId,
    policy::{FilesConfig, Need, S3Config, SourceConfig, SourceKind, Stack, Versions},
    repo::Label,
    s3::{Sample, Shrink, WHOLE_MIN},
    store::MemoryStore,
};

const POLICY: &str = r#"
stack = "im-suite"
[repository]
store = "fs"
options = { root = "/var/backups/lifeboat" }
recipients = ["age1abc"]
"#;

/// A lab whose servers a test has started by itself.
#[derive(Default)]
struct Found {
    broken: Option<&'static str>,
}

#[async_trait]
impl Lab for Found {
    fn describe(&self) -> String {
        "a test".to_owned()
    }
    async fn start(&self, _servers: &[Server]) -> Result<Vec<Running>> {
        Ok(Vec::new())
    }
    async fn check(&self) -> Result<()> {
        self.broken.map_or(Ok(()), |why| Err(Failure::new(ExitCode::DrillNotRun, why)))
    }
    async fn run(&self, _program: &Program) -> Result<Ended> {
        Err(Failure::new(ExitCode::DrillNotRun, "nothing runs here"))
    }
    async fn remove(&self) -> Result<()> {
        Ok(())
    }
}

/// A source that is backed up, and what takes its place.
struct Stage {
    ship: Ship,
    store: MemoryStore,
    id: SnapshotId,
    original: SourceConfig,
    copy: SourceConfig,
    /// Where files that take its place lie as they were.
    folder: Option<PathBuf>,
    lab: Found,
    objects_percent: u32,
}

impl Stage {
    /// Backs `original` up.
    async fn of(original: SourceKind, copy: SourceKind) -> Self {
        let name = lifeboat::names::SourceName::new("source").unwrap();
        let config = |kind| SourceConfig { name: name.clone(), kind };
        let (original, copy) = (config(original), config(copy));
        let (ship, store) = Ship::launched().await;
        let repository = ship.append(&store, &Arc::default()).await.unwrap();
        let mut writer = repository.begin(ship.ground(), ship.monitor(), 1).await.unwrap();
        let source = registry::source(&original, Shrink::Accepted, &Ground::system(), &NoMonitor::shared())
            .source
            .unwrap();
        let (sink, stream) = channel(STREAM_DEPTH);
        let written = writer.write_source(&name, original.kind.word(), stream);
        let (read, written) = tokio::join!(source.read(sink, None), written);
        settle(read, written).unwrap();
        let label = Label { stack: "im-suite".into(), host: "test".into(), ..Label::default() };
        let id = writer.commit(label, Vec::new()).await.unwrap().id;
        Self { ship, store, id, original, copy, folder: None, lab: Found::default(), objects_percent: 100 }
    }

    /// Restores the snapshot into `target`.
    async fn restore(&self, target: Box<dyn Target>) {
        let snapshot = self.ship.reader(&self.store).await.unwrap().snapshot(&self.id).await.unwrap();
        let (sink, stream) = channel(STREAM_DEPTH);
        let (all, monitor) = (Selection::all(), NoMonitor::shared());
        let options = WriteOptions::default();
        let read = snapshot.read_source(&self.original.name, &all, sink, &monitor);
        let (read, written) = tokio::join!(read, target.write(options, stream));
        settle(read, written).unwrap();
    }

    /// Restores the snapshot into what takes the original's place.
    async fn restore_copy(&self) {
        let (ground, monitor) = (Ground::system(), NoMonitor::shared());
        self.restore(registry::target(&self.copy, None, &ground, &monitor).unwrap().target).await;
    }

    /// Compares; returns the answer and the objects that were met, if these were all.
    async fn ask(&self) -> (Assertion, Option<BTreeSet<String>>) {
        let snapshot = self.ship.reader(&self.store).await.unwrap().snapshot(&self.id).await.unwrap();
        let mut stack = Stack::parse(POLICY, "policy.toml", Need::Repository).unwrap();
        stack.sources.push(self.original.clone());
        stack.drill.objects_percent = self.objects_percent;
        let (ground, monitor) = (Ground::system(), NoMonitor::shared());
        let scene = Scene {
            drill: self.id.clone(),
            stack: &stack,
            snapshot: &snapshot,
            lab: &self.lab,
            cast: vec![Cast { config: self.copy.clone(), running: None, folder: self.folder.clone() }],
            ground: &ground,
            monitor: &monitor,
        };
        let mut objects = BTreeSet::new();
        let mut each = |_: &lifeboat::names::SourceName, seen: &lifeboat::flow::Seen| {
            objects.extend(seen.meta.text("key").map(str::to_owned));
        };
        let (asked, is_read) = contents::compare(&scene, &scene.cast[0], &mut each).await;
        (asked, is_read.then_some(objects))
    }

    #[track_caller]
    fn held(asked: &(Assertion, Option<BTreeSet<String>>)) {
        assert_eq!(asked.0.answer, Answer::Held, "{:#?}", asked.0);
        assert!(asked.0.detail.ends_with(": the same"), "{}", asked.0.detail);
    }

    #[track_caller]
    fn failed(asked: &(Assertion, Option<BTreeSet<String>>), findings: &[&str]) {
        assert_eq!(asked.0.answer, Answer::Failed, "{:#?}", asked.0);
        assert_eq!(asked.0.findings, findings);
        assert_eq!(asked.0.findings_total, findings.len() as u64);
    }
}

fn files(path: &Path) -> SourceKind {
    SourceKind::Files(FilesConfig { paths: vec![path.to_owned()], ..FilesConfig::default() })
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_differ_are_named() {
    let (here, lab) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let root = here.path().join("etc");
    fs::create_dir_all(root.join("sub")).unwrap();
    for name in ["a", "b", "sub/c", "d"] {
        fs::write(root.join(name), name).unwrap();
    }
    let copied = lab.path().join(root.strip_prefix("/").unwrap());
    let mut stage = Stage::of(files(&root), files(&copied)).await;
    stage.folder = Some(lab.path().to_owned());
    let name = stage.original.name.clone();
    stage.restore(Box::new(FilesTarget::into(name, lab.path(), NoMonitor::shared()))).await;
    let asked = stage.ask().await;
    Stage::held(&asked);
    assert_eq!(asked.0.value, Some(4));

    let stamp = fs::metadata(copied.join("b")).unwrap().modified().unwrap();
    let folder = fs::metadata(&copied).unwrap().modified().unwrap();
    let stamps = fs::FileTimes::new().set_modified(stamp);
    fs::write(copied.join("b"), "B").unwrap();
    fs::File::options().write(true).open(copied.join("b")).unwrap().set_times(stamps).unwrap();
    fs::remove_file(copied.join("d")).unwrap();
    fs::write(copied.join("x"), "x").unwrap();
    fs::File::open(&copied).unwrap().set_times(fs::FileTimes::new().set_modified(folder)).unwrap();
    let shown = |name: &str| root.join(name).display().to_string();
    let mut asked = stage.ask().await;
    asked.0.findings.sort();
    let lines = ["b", "d", "x"].map(shown);
    let [b, d, x] = &lines;
    let lines =
        [format!("file {b} differs: content"), format!("file {d} is missing"), format!("file {x} is extra")];
    Stage::failed(&asked, &lines.each_ref().map(String::as_str));

    fs::remove_dir_all(&copied).unwrap();
    stage.lab.broken = Some("the server was out of memory");
    let (asked, _) = stage.ask().await;
    assert_eq!(asked.answer, Answer::CouldNotRun);
    assert!(asked.detail.starts_with("the server was out of memory: none of the paths"), "{}", asked.detail);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn objects_that_differ_are_named() {
    let bucket = buckets::Bucket::new("compare").await;
    for key in ["a", "b/ü", "c"] {
        bucket.put(key, key.as_bytes()).await;
    }
    let config = || SourceKind::S3(buckets::config(&buckets::endpoint(), &bucket.name));
    let mut stage = Stage::of(config(), config()).await;
    // The same again, written later: the dates are the server's own.
    bucket.put("a", b"a").await;
    let asked = stage.ask().await;
    Stage::held(&asked);
    assert_eq!(asked.1, Some(["a", "b/ü", "c"].map(str::to_owned).into()));

    bucket.delete("a").await;
    bucket.put("b/ü", b"longer").await;
    let put = bucket.client.put_object().bucket(&bucket.name).key("c").body(buckets::body(b"c"));
    put.content_type("image/png").metadata("owner", "me").send().await.unwrap();
    bucket.put("d", b"d").await;
    let (mut asked, objects) = stage.ask().await;
    asked.findings.sort();
    let name = &bucket.name;
    let lines = [
        format!("object {name}/a is missing"),
        format!("object {name}/b/ü differs: size, content"),
        format!("object {name}/c differs: content-type, meta owner"),
        format!("object {name}/d is extra"),
    ];
    Stage::failed(&(asked, objects), &lines.each_ref().map(String::as_str));

    // A server that is gone is no answer, and what was not read is not missing.
    let SourceKind::S3(copy) = &mut stage.copy.kind else { unreachable!("it is a bucket") };
    copy.endpoint = "http://127.0.0.1:1".to_owned();
    let (asked, objects) = stage.ask().await;
    assert_eq!((asked.answer, objects), (Answer::CouldNotRun, None));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn versions_that_differ_are_named_and_are_no_objects() {
    let bucket = buckets::Bucket::new("compare-versions").await;
    bucket.keep_versions().await;
    for key in ["a", "b", "gone"] {
        bucket.put(key, b"one").await;
        bucket.put(key, key.as_bytes()).await;
    }
    bucket.delete("gone").await;
    let config = || {
        let config = buckets::config(&buckets::endpoint(), &bucket.name);
        SourceKind::S3(S3Config { versions: Versions::All, ..config })
    };
    let stage = Stage::of(config(), config()).await;
    let asked = stage.ask().await;
    Stage::held(&asked);
    assert_eq!(asked.1, Some(["a", "b"].map(str::to_owned).into()));

    bucket.put("a", b"a").await;
    let (mut asked, objects) = stage.ask().await;
    asked.findings.sort();
    let line = format!("version 2 of object {}/a is extra", bucket.name);
    Stage::failed(&(asked, objects), &[&line]);
}

/// Returns the keys of objects whose bytes were asked for, sorted.
fn read_keys(proxy: &proxy::Proxy) -> Vec<String> {
    let lines = proxy.requests().into_iter().filter(|line| buckets::reads_an_object(line));
    let key = |line: String| line.split(['/', '?', ' ']).nth(3).unwrap_or_default().to_owned();
    let mut keys: Vec<String> = lines.map(key).collect();
    keys.sort();
    keys
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn of_objects_outside_the_sample_all_but_the_bytes_is_compared() {
    let bucket = buckets::Bucket::new("sample").await;
    let name = bucket.name.clone();
    let keys: Vec<String> = (0..WHOLE_MIN + 10).map(|n| format!("k{n:03}")).collect();
    for key in &keys {
        bucket.put(key, key.as_bytes()).await;
    }
    let config = |endpoint: &str| SourceKind::S3(buckets::config(endpoint, &name));
    let proxy = proxy::Proxy::start(&buckets::endpoint(), Vec::new()).await;
    let mut stage = Stage::of(config(&buckets::endpoint()), config(&proxy.url())).await;
    stage.objects_percent = 1;
    let lots = Sample::new(stage.id.as_str(), 1);
    let mut by_lot = keys.clone();
    by_lot.sort_by_key(|key| lots.lot(&name, key.as_bytes()));
    let (read, unread) = by_lot.split_at(WHOLE_MIN);
    let mut read = read.to_vec();
    read.sort();

    let asked = stage.ask().await;
    Stage::held(&asked);
    let detail = "110 objects, 1 bucket, 440 bytes; \
                  100 of 110 objects read whole, the rest by size and facts: the same";
    assert_eq!(asked.0.detail, detail);
    let there = asked.1.as_ref().map(std::collections::BTreeSet::len);
    assert_eq!((asked.0.value, there), (Some(110), Some(110)), "all are known to be there");
    assert_eq!(read_keys(&proxy), read, "and no other");

    let [gone, longer, other, typed, tagged, ..] = unread else { unreachable!() };
    bucket.put(&read[0], b"K000").await;
    bucket.delete(gone).await;
    bucket.put(longer, b"longer").await;
    // Its length is the same, and the server tells that its bytes are not.
    bucket.put(other, &other.to_uppercase().into_bytes()).await;
    let again = |key: &String| {
        let put = bucket.client.put_object().bucket(&name).key(key);
        put.body(buckets::body(key.as_bytes()))
    };
    again(typed).content_type("image/png").send().await.unwrap();
    again(tagged).tagging("colour=red").send().await.unwrap();
    let (mut asked, objects) = stage.ask().await;
    let mut lines = [
        format!("object {name}/{} differs: content", read[0]),
        format!("object {name}/{gone} is missing"),
        format!("object {name}/{longer} differs: size, content"),
        format!("object {name}/{other} differs: content"),
        format!("object {name}/{typed} differs: content-type"),
        format!("object {name}/{tagged} differs: tags colour"),
    ];
    lines.sort();
    asked.findings.sort();
    Stage::failed(&(asked, objects), &lines.each_ref().map(String::as_str));
    assert!(unread.iter().all(|key| !read_keys(&proxy).contains(key)), "{:?}", read_keys(&proxy));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_bucket_of_few_objects_is_read_whole_whatever_the_share() {
    let bucket = buckets::Bucket::new("few").await;
    for key in ["a", "b/ü", "c"] {
        bucket.put(key, key.as_bytes()).await;
    }
    let config = || SourceKind::S3(buckets::config(&buckets::endpoint(), &bucket.name));
    let mut stage = Stage::of(config(), config()).await;
    stage.objects_percent = 1;
    let asked = stage.ask().await;
    Stage::held(&asked);
    assert_eq!(asked.0.detail, "3 objects, 1 bucket, 6 bytes; 3 of 3 objects read whole: the same");
}

/// Waits until a command's answer is a number.
async fn until(lab: &redis_lab::Lab, line: &str, number: u64) {
    for _ in 0..600 {
        let answer: u64 = lab.say(0, line).await;
        if answer == number {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("`{line}` does not become {number}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn keys_that_differ_are_named_and_those_that_expired_meanwhile_are_not() {
    let (from, to) = (redis_lab::Lab::start(8).await, redis_lab::Lab::start(8).await);
    from.fill(8).await;
    let _: String = from.say(0, "SET soon x PX 4000").await;
    let _: u64 = from.say(0, "HSET fields a 1 b 2").await;
    let _: Vec<i64> = from.say(0, "HPEXPIRE fields 4000 FIELDS 1 a").await;
    let _: u64 = from.say(0, "HSET all a 1").await;
    let _: Vec<i64> = from.say(0, "HPEXPIRE all 4000 FIELDS 1 a").await;
    let kind = |lab: &redis_lab::Lab| SourceKind::Redis(lab.config());
    let stage = Stage::of(kind(&from), kind(&to)).await;
    stage.restore_copy().await;
    until(&to, "EXISTS soon", 0).await;
    until(&to, "HLEN fields", 1).await;
    until(&to, "EXISTS all", 0).await;
    let asked = stage.ask().await;
    Stage::held(&asked);
    assert!(asked.0.detail.contains("string keys"), "{}", asked.0.detail);

    let _: u64 = to.say(0, "DEL k:7").await;
    let _: u64 = to.run(0, &[b"DEL", b"bin\x00\xff\r\n\xfe"]).await;
    let _: u64 = to.say(0, "APPEND k:8 x").await;
    let _: u64 = to.say(0, "SADD bigset more").await;
    let _: String = to.say(3, "SET new x").await;
    let _: u64 = to.say(0, "PERSIST ttl").await;
    Stage::failed(
        &stage.ask().await,
        &[
            "db 0 key \"bigset\" differs",
            "db 0 key \"bin\\u{0}\\xff\\r\\n\\xfe\" is missing",
            "db 0 key \"k:7\" is missing",
            "db 0 key \"k:8\" differs",
            "db 0 key \"ttl\" differs",
            "db 3 key \"new\" is extra",
        ],
    );
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn keys_that_have_all_expired_prove_nothing() {
    let from = redis_lab::Lab::start(8).await;
    let copies = [redis_lab::Lab::start(8).await, redis_lab::Lab::start(8).await];
    // What has expired stays until somebody asks for it: the dumps have it, also when this takes long.
    for lab in [&from, &copies[1]] {
        let _: String = lab.say(0, "DEBUG SET-ACTIVE-EXPIRE 0").await;
    }
    let _: u64 = from.say(3, "RPUSH c x").await;
    let _: u64 = from.say(3, "PEXPIRE c 2000").await;
    for key in ["a", "b"] {
        let _: String = from.say(0, &format!("SET {key} x PX 2000")).await;
    }
    let kind = |lab: &redis_lab::Lab| SourceKind::Redis(lab.config());
    let mut stages = Vec::new();
    for copy in &copies {
        let stage = Stage::of(kind(&from), kind(copy)).await;
        stage.restore_copy().await;
        stages.push(stage);
    }
    until(&from, "EXISTS a b", 0).await;
    until(&copies[0], "DBSIZE", 0).await;
    until(&copies[1], "DBSIZE", 2).await;
    for stage in &stages {
        let (asked, _) = stage.ask().await;
        assert_eq!(asked.answer, Answer::CouldNotRun, "{asked:#?}");
        assert_eq!(asked.detail, "all 3 keys have expired since the snapshot: nothing was compared");
        assert_eq!(asked.value, Some(0));
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn keys_that_have_expired_are_told_beside_those_that_are_there() {
    let (from, to) = (redis_lab::Lab::start(8).await, redis_lab::Lab::start(8).await);
    for lab in [&from, &to] {
        let _: String = lab.say(0, "DEBUG SET-ACTIVE-EXPIRE 0").await;
    }
    let _: String = from.say(0, "SET stays x").await;
    let _: String = from.say(0, "SET goes x PX 2000").await;
    let kind = |lab: &redis_lab::Lab| SourceKind::Redis(lab.config());
    let stage = Stage::of(kind(&from), kind(&to)).await;
    stage.restore_copy().await;
    until(&from, "EXISTS goes", 0).await;
    let detail = "1 key, 1 string key, 1 expired since the snapshot: the same";
    for there in [2, 1] {
        until(&to, "DBSIZE", there).await;
        let asked = stage.ask().await;
        Stage::held(&asked);
        assert_eq!((asked.0.detail.as_str(), asked.0.value), (detail, Some(1)));
        let _: String = to.say(0, "DEBUG SET-ACTIVE-EXPIRE 1").await;
    }
}

/// What the original holds.
const SAMPLE: [&str; 17] = [
    "CREATE DATABASE im CHARACTER SET utf8mb4",
    "USE im",
    "CREATE TABLE messages (id BIGINT, part INT, body TEXT, n INT, PRIMARY KEY (id, part))",
    "INSERT INTO messages VALUES (1, 1, 'a\\tb', 1), (1, 2, 'b', NULL), (2, 1, 'c', 3), (3, 1, 'd', 4)",
    "CREATE TABLE keyless (a INT, b VARCHAR(10))",
    "INSERT INTO keyless VALUES (1, 'x'), (1, 'x'), (2, 'y')",
    "CREATE TABLE whole (id INT PRIMARY KEY)",
    "INSERT INTO whole VALUES (1)",
    "CREATE TRIGGER t_a BEFORE INSERT ON messages FOR EACH ROW SET NEW.n = 1",
    "CREATE TRIGGER t_b BEFORE UPDATE ON messages FOR EACH ROW SET NEW.n = 2",
    "CREATE TRIGGER t_x BEFORE INSERT ON keyless FOR EACH ROW SET NEW.a = 1",
    "CREATE VIEW v AS SELECT id FROM messages",
    "CREATE PROCEDURE p () SELECT 1",
    "CREATE FUNCTION f (n INT) RETURNS INT DETERMINISTIC RETURN n",
    "CREATE USER 'app'@'%' IDENTIFIED BY 'secret'",
    "GRANT SELECT ON im.* TO 'app'@'%'",
    "CREATE USER 'other'@'%' IDENTIFIED BY 'secret'",
];

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn accounts_that_are_too_many_to_be_compared_are_not_told_as_the_same() {
    let product = support::Product::Mysql;
    let (from, to) = (support::Server::empty(product).await, support::Server::empty(product).await);
    from.run(["CREATE USER 'app'@'%' IDENTIFIED BY 'secret'"]).await;
    let kind = |server: &support::Server| SourceKind::Mysql(server.config.clone());
    let few = Stage::of(kind(&from), kind(&to)).await;
    few.restore_copy().await;
    Stage::held(&few.ask().await);
    let comment = "x".repeat(1 << 20);
    from.run((0..17).map(|n| format!("CREATE USER 'u{n}'@'%' COMMENT '{comment}'"))).await;
    let many = Stage::of(kind(&from), kind(&to)).await;
    // Whichever side has too many.
    for stage in [Stage { copy: many.original.clone(), ..few }, many] {
        let (asked, _) = stage.ask().await;
        assert_eq!(asked.answer, Answer::CouldNotRun, "{asked:#?}");
        let why = "but the users, roles and grants are more than 16.0 MiB: too many to be compared";
        assert!(asked.detail.ends_with(why), "{}", asked.detail);
    }
}

async fn rows_and_programs_that_differ_are_named(product: support::Product) {
    let (from, to) = (support::Server::empty(product).await, support::Server::empty(product).await);
    from.run(SAMPLE).await;
    let kind = |server: &support::Server| SourceKind::Mysql(server.config.clone());
    let stage = Stage::of(kind(&from), kind(&to)).await;
    stage.restore_copy().await;
    let asked = stage.ask().await;
    Stage::held(&asked);
    let detail = "8 rows, 3 tables, 1 view, 3 triggers, 2 routines, 1 database: the same";
    assert_eq!(asked.0.detail, detail);

    to.run([
        "USE im",
        // A table without a key in another order, and with the same rows, is the same.
        "DELETE FROM keyless WHERE a = 1",
        "INSERT INTO keyless VALUES (1, 'x'), (1, 'x')",
    ])
    .await;
    Stage::held(&stage.ask().await);

    to.run([
        "USE im",
        "DROP TRIGGER t_a",
        "DROP TRIGGER t_x",
        "DROP TRIGGER t_b",
        "UPDATE messages SET body = 'A' WHERE id = 1 AND part = 1",
        "DELETE FROM messages WHERE id = 2",
        "INSERT INTO messages VALUES (9, 1, 'e', 5)",
        "CREATE TRIGGER t_b BEFORE UPDATE ON messages FOR EACH ROW SET NEW.n = 3",
        "INSERT INTO keyless VALUES (2, 'y')",
        "DROP TABLE whole",
        "DROP VIEW v",
        "DROP PROCEDURE p",
        "DROP USER 'other'@'%'",
        "REVOKE SELECT ON im.* FROM 'app'@'%'",
    ])
    .await;
    let (mut asked, objects) = stage.ask().await;
    asked.findings.sort();
    Stage::failed(
        &(asked, objects),
        &[
            "account `app`@`%` differs: a grant, the password or a role",
            "account `other`@`%` is missing",
            "im.keyless row (a=2 b=y) is extra",
            "im.messages id=1 part=1 differs: body",
            "im.messages id=2 part=1 is missing",
            "im.messages id=9 part=1 is extra",
            "procedure im.p is missing",
            "table im.whole is missing",
            "trigger im.t_a is missing",
            "trigger im.t_b differs",
            "trigger im.t_x is missing",
            "view im.v is missing",
        ],
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn rows_and_programs_that_differ_are_named_by_mysql() {
    rows_and_programs_that_differ_are_named(support::Product::Mysql).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn rows_and_programs_that_differ_are_named_by_mariadb() {
    rows_and_programs_that_differ_are_named(support::Product::Mariadb).await;
}
