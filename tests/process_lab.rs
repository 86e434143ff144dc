//! A lab of processes: real servers from the host's programs, what they are kept from, and what is left when lifeboat
//! is killed.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "live_support/redis.rs"]
mod redis_connection;

use std::{
    collections::BTreeMap,
    env, fs,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command},
    time::Duration,
};

use lifeboat::{
    error::ExitCode,
    lab::{self, Lab, Limits, Marks, ProcessLab, Product, Program, Running, Server},
};
use mysql_async::prelude::Queryable;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

const PASSWORD: &str = "5f1c0a7e9b3d4c2f8a6e1d0b";
/// Says to a process of this test that it is the one that will be killed.
const OWNER: &str = "LIFEBOAT_TEST_LAB_ROOT";

fn limits() -> Limits {
    Limits {
        memory_bytes: 256 << 20,
        cpu_percent: None,
        data_in_memory: false,
        start: Duration::from_mins(4),
        lifetime: Duration::from_hours(1),
    }
}

fn marks(task: &str, drill: &str) -> Marks {
    Marks { stack: "town".into(), host: "tower".into(), task: task.into(), drill: drill.into() }
}

/// Returns a folder through which servers without rights can pass.
fn root() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o711)).unwrap();
    dir
}

async fn open(root: &Path, task: &str, drill: &str) -> ProcessLab {
    ProcessLab::open(root, marks(task, drill), limits()).await.unwrap()
}

fn server(name: &str, product: Product) -> Server {
    let (name, password) = (name.to_owned(), PASSWORD.into());
    Server { name, product, image: String::new(), arguments: Vec::new(), password }
}

fn both() -> [Server; 2] {
    [server("shop", Product::Mariadb), server("cache", Product::Redis)]
}

/// Returns the only lab's folder below `root`, and what its file tells.
fn folder(root: &Path) -> (PathBuf, Value) {
    let mut all = fs::read_dir(root).unwrap().map(|item| item.unwrap().path());
    let folder = all.next().expect("there is no lab");
    assert_eq!(all.next(), None);
    let trace = serde_json::from_slice(&fs::read(folder.join("lab.json")).unwrap()).unwrap();
    (folder, trace)
}

fn pids(trace: &Value) -> Vec<i32> {
    let all = trace["processes"].as_array().unwrap().iter();
    all.map(|process| i32::try_from(process["pid"].as_i64().unwrap()).unwrap()).collect()
}

/// Returns whether a process runs; one that only waits to be taken leave of does not.
fn runs(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|text| !text.rsplit_once(')').unwrap().1.trim_start().starts_with('Z'))
}

fn kill(pid: i32) {
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
}

/// Removes what is left of a stack and host's labs, and returns how many that were.
async fn reap(root: &Path, stack: &str, host: &str, task: &str) -> u64 {
    let (count, troubles) = lab::reap_processes(root, stack, host, task).await;
    assert!(troubles.is_empty(), "{troubles:?}");
    count
}

fn is_empty(root: &Path) -> bool {
    fs::read_dir(root).unwrap().next().is_none()
}

async fn database(at: &Running, password: &str) -> Result<mysql_async::Conn, mysql_async::Error> {
    let opts = mysql_async::OptsBuilder::default().ip_or_hostname("127.0.0.1").tcp_port(at.address.port());
    mysql_async::Conn::new(opts.user(Some("root")).pass(Some(password))).await
}

async fn cache(at: &Running, password: &str) -> redis::RedisResult<String> {
    let client = redis::Client::open(format!("redis://:{password}@{}/", at.address)).unwrap();
    let mut connection = redis_connection::connect(&client).await?;
    redis::cmd("PING").query_async(&mut connection).await
}

/// Returns the addresses that a process listens on, as `/proc` writes them.
fn listening(pid: i32) -> Vec<String> {
    let open = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let held: Vec<String> =
        open.filter_map(|item| Some(fs::read_link(item.ok()?.path()).ok()?.to_str()?.to_owned())).collect();
    let mut found = Vec::new();
    for table in ["tcp", "tcp6"] {
        for line in fs::read_to_string(format!("/proc/net/{table}")).unwrap().lines().skip(1) {
            let fields: Vec<&str> = line.split_ascii_whitespace().collect();
            if fields[3] == "0A" && held.contains(&format!("socket:[{}]", fields[9])) {
                found.push(fields[1].to_owned());
            }
        }
    }
    found
}

#[tokio::test]
#[ignore = "needs mariadbd and redis-server: run fixtures/test"]
async fn two_servers_start_together_answer_to_their_password_and_leave_nothing() {
    let root = root();
    let lab = open(root.path(), "drill", "one").await;
    let mut servers = both();
    // The policy's words do not wake what sleeps in a lab.
    servers[0].arguments = ["--event-scheduler=ON", "--log-bin=told"].map(str::to_owned).to_vec();
    let running = lab.start(&servers).await.unwrap();
    let [shop, cache_server] = running.as_slice() else { panic!("{running:?}") };
    assert_eq!((shop.name.as_str(), cache_server.name.as_str()), ("shop", "cache"));
    assert!(shop.image.ends_with("/mariadbd") && cache_server.image.ends_with("-server"), "{running:?}");
    let mut connection = database(shop, PASSWORD).await.unwrap();
    let asked =
        "SELECT @@event_scheduler, @@log_bin, @@local_infile, @@max_allowed_packet, @@skip_name_resolve";
    let settings: Option<(String, bool, bool, u64, bool)> = connection.query_first(asked).await.unwrap();
    assert_eq!(settings, Some(("OFF".to_owned(), false, true, 1 << 30, true)));
    connection
        .query_drop("CREATE DATABASE town; GRANT SELECT ON town.* TO reader@'%' IDENTIFIED BY 'x'")
        .await
        .unwrap();
    connection.disconnect().await.unwrap();
    assert!(database(shop, "").await.is_err() && database(shop, "another").await.is_err());
    assert_eq!(cache(cache_server, PASSWORD).await.unwrap(), "PONG");
    assert!(cache(cache_server, "another").await.is_err());
    lab.check().await.unwrap();

    let (folder, trace) = folder(root.path());
    let alive: Vec<i32> = pids(&trace).into_iter().filter(|pid| runs(*pid)).collect();
    assert_eq!(alive.len(), 2, "{trace}");
    let mut heard = Vec::new();
    for pid in &alive {
        for what in ["cmdline", "environ"] {
            let bytes = fs::read(format!("/proc/{pid}/{what}")).unwrap();
            let text = String::from_utf8_lossy(&bytes).into_owned();
            assert!(!text.is_empty() && !text.contains(PASSWORD), "{text}");
            assert!(!text.contains("CARGO"), "of our environment: {text}");
        }
        heard.extend(listening(*pid));
    }
    let mut wanted: Vec<String> =
        running.iter().map(|one| format!("0100007F:{:04X}", one.address.port())).collect();
    heard.sort();
    wanted.sort();
    assert_eq!(heard, wanted, "only on 127.0.0.1");
    assert!(!folder.join("shop/accounts.sql").exists());
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&folder.join("lab.json")), 0o600);
    assert_eq!((mode(&folder.join("shop")), mode(&folder.join("cache/redis.conf"))), (0o700, 0o600));

    lab.remove().await.unwrap();
    assert!(alive.iter().all(|pid| !runs(*pid)) && is_empty(root.path()));
    lab.remove().await.unwrap();
}

#[tokio::test]
#[ignore = "needs mariadbd and redis-server: run fixtures/test"]
async fn a_lab_that_was_not_removed_is_removed_by_the_next_one_and_no_other_is() {
    let root = root();
    let cache_only = [server("cache", Product::Redis)];
    let other = open(root.path(), "by-hand", "zero").await;
    other.start(&cache_only).await.unwrap();
    let (_, of_other) = folder(root.path());
    let lab = open(root.path(), "drill", "one").await;
    let running = lab.start(&both()).await.unwrap();
    let trace = fs::read(root.path().join("town-drill-one/lab.json")).unwrap();
    let left = pids(&serde_json::from_slice(&trace).unwrap());
    drop(lab);
    assert_eq!(cache(&running[1], PASSWORD).await.unwrap(), "PONG", "a drop ends nothing");
    let next = open(root.path(), "drill", "two").await;
    assert!(left.iter().all(|pid| !runs(*pid)));
    assert!(!root.path().join("town-drill-one").exists());
    assert!(pids(&of_other).iter().all(|pid| runs(*pid)));
    // Both are at work: neither is garbage.
    assert_eq!(reap(root.path(), "town", "tower", "another").await, 0);
    // Whoever has a task's lock knows better.
    assert_eq!(reap(root.path(), "town", "tower", "drill").await, 1);
    next.remove().await.unwrap();
    other.check().await.unwrap();
    other.remove().await.unwrap();
    assert!(is_empty(root.path()));
}

#[tokio::test]
#[ignore = "needs mariadbd and redis-server: run fixtures/test"]
async fn what_a_killed_process_left_is_found_when_the_service_starts() {
    if let Some(root) = env::var_os(OWNER) {
        let lab = open(Path::new(&root), "drill", "one").await;
        lab.start(&both()).await.unwrap();
        fs::write(Path::new(&root).with_extension("ready"), "").unwrap();
        std::future::pending::<()>().await;
    }
    let dir = root();
    let labs = dir.path().join("labs");
    let mut owner = Command::new(env::current_exe().unwrap());
    owner.args(["--exact", "what_a_killed_process_left_is_found_when_the_service_starts", "--ignored"]);
    let mut owner = owner.env(OWNER, &labs).spawn().unwrap();
    let is_ready = async {
        while !labs.with_extension("ready").exists() {
            assert_eq!(owner.try_wait().unwrap(), None, "it could not start its lab");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(4), is_ready).await.unwrap();
    assert_eq!(reap(&labs, "town", "tower", "by-hand").await, 0, "its owner is at work");
    owner.kill().unwrap();
    owner.wait().unwrap();
    let left = pids(&folder(&labs).1);
    assert_eq!(left.iter().filter(|pid| runs(**pid)).count(), 2, "servers outlive their owner");
    for (stack, host) in [("village", "tower"), ("town", "harbour")] {
        assert_eq!(reap(&labs, stack, host, "drill").await, 0, "it is not theirs");
    }
    assert_eq!(reap(&labs, "town", "tower", "by-hand").await, 1);
    assert!(left.iter().all(|pid| !runs(*pid)) && is_empty(&labs));
}

#[tokio::test]
#[ignore = "needs mariadbd and redis-server: run fixtures/test"]
async fn a_server_that_ended_or_never_began_keeps_the_drill_from_running() {
    let root = root();
    let lab = open(root.path(), "drill", "one").await;
    lab.start(&[server("cache", Product::Redis)]).await.unwrap();
    pids(&folder(root.path()).1).into_iter().for_each(kill);
    let failure = loop {
        match lab.check().await {
            Err(failure) => break failure,
            Ok(()) => tokio::task::yield_now().await,
        }
    };
    assert_eq!(failure.exit(), ExitCode::DrillNotRun);
    assert_eq!(
        failure.to_string(),
        "server `cache` of the lab was killed; the host may have been out of memory"
    );
    let mut wrong = server("second", Product::Redis);
    wrong.arguments = vec!["--no-such-setting".into(), "1".into()];
    let failure = lab.start(&[wrong]).await.unwrap_err();
    assert_eq!(failure.exit(), ExitCode::DrillNotRun);
    assert_eq!(failure.to_string(), "the process of server `second` of the lab ended with exit code 1");
    assert!(failure.chain()[1].contains("no-such-setting"), "{:?}", failure.chain());
    lab.remove().await.unwrap();
}

#[tokio::test]
async fn a_server_that_is_not_installed_keeps_the_drill_from_running() {
    let (root, nothing) = (root(), tempfile::tempdir().unwrap());
    let lab = open(root.path(), "drill", "one").await.looking_in(vec![nothing.path().to_owned()]);
    let products = [
        (Product::S3, "`minio`"),
        (Product::Mysql, "`mysqld`"),
        (Product::Mariadb, "`mariadbd`"),
        (Product::Redis, "`redis-server` or `valkey-server`"),
    ];
    for (number, (product, names)) in products.into_iter().enumerate() {
        let failure = lab.start(&[server(&format!("s{number}"), product)]).await.unwrap_err();
        assert_eq!(failure.exit(), ExitCode::DrillNotRun);
        assert_eq!(failure.to_string(), format!("{names} is not installed on this host"));
        assert_eq!(failure.hints(), ["Install it, or set lab = \"docker\" in [drill]."]);
    }
    lab.remove().await.unwrap();
}

/// A process that has nothing to do with any lab.
struct Stranger(Child);

impl Stranger {
    fn new() -> Self {
        Self(Command::new("sleep").arg("1000").process_group(0).spawn().unwrap())
    }

    fn pid(&self) -> i32 {
        self.0.id().cast_signed()
    }

    fn started(&self) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        text.rsplit_once(')').unwrap().1.split_ascii_whitespace().nth(19).unwrap().parse().unwrap()
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[tokio::test]
async fn a_number_that_another_program_got_meanwhile_is_not_touched() {
    let root = root();
    let stranger = Stranger::new();
    let process = |started| json!([{"pid": stranger.pid(), "started": started, "program": "mariadbd"}]);
    let this_boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap().trim().to_owned();
    let cases = [
        (process(stranger.started() + 1), this_boot.as_str(), true),
        (process(stranger.started()), "another boot", true),
        // The same file ends it when all is right: the others were passed over for their one difference.
        (process(stranger.started()), this_boot.as_str(), false),
    ];
    for (processes, boot, is_spared) in cases {
        drop(open(root.path(), "drill", "one").await);
        let (folder, mut trace) = folder(root.path());
        trace["processes"] = processes;
        trace["boot"] = boot.into();
        fs::write(folder.join("lab.json"), trace.to_string()).unwrap();
        let next = open(root.path(), "drill", "two").await;
        assert!(!folder.exists());
        assert_eq!(runs(stranger.pid()), is_spared);
        next.remove().await.unwrap();
    }
}

#[tokio::test]
async fn a_program_that_takes_too_long_is_ended_and_each_is_noted() {
    let root = root();
    let lab = open(root.path(), "drill", "one").await;
    let mut program = Program {
        name: "a check".to_owned(),
        image: None,
        beside: None,
        command: ["sh", "-c", "echo begun; sleep 1000"].map(str::to_owned).to_vec(),
        environment: BTreeMap::new(),
        read_only: Vec::new(),
        writable: Vec::new(),
        is_alone: false,
        timeout: Duration::from_millis(300),
    };
    let ended = lab.run(&program).await.unwrap();
    assert_eq!((ended.code, ended.output.as_str()), (None, "begun\n"));
    let (_, trace) = folder(root.path());
    assert_eq!(trace["processes"][0]["program"], "a check");
    program.command = vec!["true".to_owned()];
    program.timeout = Duration::from_mins(1);
    assert_eq!(lab.run(&program).await.unwrap().code, Some(0));
    lab.remove().await.unwrap();
}

#[tokio::test]
async fn a_file_that_cannot_be_understood_is_told_and_nothing_is_removed() {
    let root = root();
    drop(open(root.path(), "drill", "one").await);
    let (folder, _) = folder(root.path());
    fs::write(folder.join("lab.json"), "{}").unwrap();
    let failure = ProcessLab::open(root.path(), marks("drill", "two"), limits()).await.err().unwrap();
    assert_eq!(failure.exit(), ExitCode::DrillNotRun);
    assert!(failure.hints()[0].contains("remove the folder"), "{:?}", failure.hints());
    assert!(folder.exists());
}

#[tokio::test]
async fn what_a_broken_removal_left_is_told_and_an_empty_folder_goes() {
    let root = root();
    let (left, empty, new) = (root.path().join("left"), root.path().join("empty"), root.path().join("new"));
    fs::create_dir_all(left.join("data")).unwrap();
    let long_ago = std::time::SystemTime::from(lifeboat::clock::Clock::now(&lifeboat::clock::System))
        - Duration::from_hours(1);
    for folder in [&empty, &new] {
        fs::create_dir(folder).unwrap();
    }
    for folder in [&left, &empty] {
        fs::File::open(folder).unwrap().set_modified(long_ago).unwrap();
    }
    let failure = ProcessLab::open(root.path(), marks("drill", "one"), limits()).await.err().unwrap();
    assert!(failure.to_string().contains("is left of a lab, without its lab.json"), "{failure}");
    assert!(left.exists() && !empty.exists() && new.exists(), "one that is just being made stays");
}
