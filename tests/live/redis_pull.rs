//! Reading a Redis server on its bad days: busy with other saves, killed, demoted, behind certificates, half closed.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use lifeboat::{
    clock::{Clock as _, Ground, System},
    error::{ExitCode, Failure},
    event::{Event, NoMonitor, Recorder},
    finding::Status,
    flow::{
        Point,
        conformance::{Reading, read_all},
    },
    policy::{RedisConfig, SecretRef},
    redis::RedisSource,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{
    read_dump,
    redis_lab::{self, Lab, PASSWORD},
    stage::{PATIENCE, STACK, Stage, ran, send},
};

/// Microseconds that a server takes for each key while it saves.
const DELAY: &str = "rdb-key-save-delay";

fn source_of(config: &RedisConfig, recorder: &Arc<Recorder>) -> Box<RedisSource> {
    let monitor = Arc::clone(recorder);
    Box::new(RedisSource::new(redis_lab::name(), config.clone(), Ground::system(), monitor))
}

/// Reads a server to the end; returns the bytes of its dump, its point and what was heard meanwhile.
async fn pulled(config: &RedisConfig) -> Result<(Vec<u8>, Point, Arc<Recorder>), Failure> {
    let recorder = Arc::new(Recorder::default());
    let source = source_of(config, &recorder);
    let (dump, point) = read_dump(source).await.map_err(|error| error.about(&redis_lab::name()))?;
    Ok((dump, point, recorder))
}

async fn failure_of(config: &RedisConfig) -> Failure {
    pulled(config).await.map(drop).expect_err("it must fail")
}

fn steps(recorder: &Recorder) -> String {
    let steps = recorder.events().into_iter().filter_map(|event| match event {
        Event::Step { what, .. } => Some(what),
        _ => None,
    });
    steps.collect::<Vec<_>>().join("\n")
}

fn holds(dump: &[u8], text: &str) -> bool {
    dump.windows(text.len()).any(|window| window == text.as_bytes())
}

/// Waits until the server says so.
async fn until(lab: &Lab, section: &str, what: &str, is_so: impl Fn(&str) -> bool) {
    let waiting = async {
        loop {
            let info: String = lab.say(0, &format!("INFO {section}")).await;
            if info.lines().any(&is_so) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("waited too long until {what}"));
}

async fn until_saving(lab: &Lab) {
    until(lab, "persistence", "a save runs", |line| line == "rdb_bgsave_in_progress:1").await;
}

async fn until_no_replica(lab: &Lab) {
    until(lab, "replication", "no replica is left", |line| line == "connected_slaves:0").await;
}

async fn populate(lab: &Lab, keys: u32) {
    let () = lab.say(0, &format!("DEBUG POPULATE {keys} k 10")).await;
}

async fn delay(lab: &Lab, microseconds: u32) {
    let () = lab.say(0, &format!("CONFIG SET {DELAY} {microseconds}")).await;
}

/// Makes a user with a password of its own; the file holds it.
async fn user(lab: &Lab, name: &str, rights: &str) -> (RedisConfig, tempfile::NamedTempFile) {
    let () = lab.say(0, &format!("ACL SETUSER {name} on >{name}-password {rights}")).await;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!("{name}-password")).unwrap();
    let password = Some(SecretRef::File(file.path().to_owned()));
    (RedisConfig { user: Some(name.to_owned()), password, ..lab.config() }, file)
}

/// Asks for replication as any replica would, and reads what comes until the server ends it.
async fn replica(lab: &Lab) -> tokio::task::JoinHandle<()> {
    let address = lab.config().url.trim_start_matches("redis://").to_owned();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let words = |words: &[&str]| {
        let all = words
            .iter()
            .map(|word| ["$", &word.len().to_string(), "\r\n", word, "\r\n"].concat())
            .collect::<String>();
        format!("*{}\r\n{all}", words.len())
    };
    for command in [&["AUTH", PASSWORD][..], &["REPLCONF", "capa", "psync2", "capa", "eof"]] {
        stream.write_all(words(command).as_bytes()).await.unwrap();
        let mut answer = [0; 5];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"+OK\r\n");
    }
    stream.write_all(words(&["PSYNC", "?", "-1"]).as_bytes()).await.unwrap();
    tokio::spawn(async move { drop(tokio::io::copy(&mut stream, &mut tokio::io::sink()).await) })
}

/// R27, first half: a save that another replica asked for is given to us too, and is as old as its fork.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_save_for_another_replica_is_not_taken_for_ours() {
    let lab = Lab::start_with(7, &["--requirepass", PASSWORD, "--repl-diskless-sync", "no"]).await;
    populate(&lab, 1000).await;
    delay(&lab, 6000).await;
    let before_fork = System.now();
    let other = replica(&lab).await;
    until_saving(&lab).await;
    let after_fork = System.now();
    let () = lab.say(0, "SET after-the-fork x").await;
    let written = System.now();
    // The child has its own copy of the setting: the saves after it are quick.
    delay(&lab, 0).await;
    let age = |line: &str| {
        let seconds = line.strip_prefix("rdb_current_bgsave_time_sec:");
        seconds.is_some_and(|text| text.parse::<i64>().unwrap() > 3)
    };
    until(&lab, "persistence", "the save is old", age).await;

    let (bare, _file) = user(&lab, "bare", "+psync +replconf +ping").await;
    let whole = lab.config();
    let hasty = RedisConfig { save_wait_seconds: Some(1), ..lab.config() };
    let (patient, blind, kept) = tokio::join!(pulled(&whole), pulled(&bare), pulled(&hasty));

    let (dump, point, heard) = patient.unwrap();
    assert!(steps(&heard).contains("waiting until the server has saved for another replica"));
    assert!(holds(&dump, "after-the-fork") && point.at >= written, "{point:?}");
    assert_eq!(point.marks.get("clock"), None);

    let (dump, point, heard) = blind.unwrap();
    assert!(steps(&heard).contains("asking for another one"), "{}", steps(&heard));
    assert!(holds(&dump, "after-the-fork"));
    assert_eq!(point.marks["clock"], "server");

    let (dump, point, heard) = kept.unwrap();
    assert!(!holds(&dump, "after-the-fork"), "it was given the other's save");
    // Early by what the questions took and a second or two, and never late.
    let earliest = before_fork - TimeDelta::seconds(30);
    assert!((earliest..=after_fork).contains(&point.at), "{earliest} {} {after_fork}", point.at);
    assert!(heard.warnings()[0].contains("had begun before it was asked"), "{:?}", heard.warnings());
    other.abort();
}

/// R27, second half: behind the save of a user we wait for one of our own, and not for ever.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn the_save_of_a_user_is_waited_for() {
    let lab = Lab::start_with(7, &["--requirepass", PASSWORD, "--repl-diskless-sync", "no"]).await;
    populate(&lab, 1000).await;
    delay(&lab, 4000).await;
    let _: String = lab.say(0, "BGSAVE").await;
    let () = lab.say(0, "SET after-the-fork x").await;
    delay(&lab, 0).await;
    let hasty = RedisConfig { save_wait_seconds: Some(1), ..lab.config() };
    let config = lab.config();
    let (patient, failure) = tokio::join!(pulled(&config), failure_of(&hasty));
    assert!(holds(&patient.unwrap().0, "after-the-fork"));
    assert_eq!(failure.exit(), ExitCode::SourceDown);
    assert!(failure.to_string().ends_with("began no dump within 1 s"), "{failure}");
    until_no_replica(&lab).await;
}

/// What was written at an instant is in the dump, or the instant is after the point.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn what_is_not_in_a_dump_was_written_after_its_point() {
    let lab = Lab::start(7).await;
    populate(&lab, 200).await;
    for (diskless, wait) in [("no", "0"), ("yes", "0"), ("yes", "1")] {
        let () = lab.say(0, &format!("CONFIG SET repl-diskless-sync {diskless}")).await;
        let () = lab.say(0, &format!("CONFIG SET repl-diskless-sync-delay {wait}")).await;
        let _: u64 = lab.say(0, "DEL stamp").await;
        let mut connection = lab.connect(0).await;
        let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
        let writer = tokio::spawn(async move {
            let mut acknowledged: Vec<DateTime<Utc>> = Vec::new();
            loop {
                // One more behind the dump, which cannot be in it.
                let is_last = stopped.try_recv().is_ok();
                let value = format!("stamp:{:09}", acknowledged.len());
                let () =
                    redis::cmd("SET").arg("stamp").arg(value).query_async(&mut connection).await.unwrap();
                acknowledged.push(System.now());
                if is_last {
                    break;
                }
            }
            acknowledged
        });
        let (dump, point, _) = pulled(&lab.config()).await.unwrap();
        stop.send(()).unwrap();
        let acknowledged = writer.await.unwrap();
        let at = dump.windows(6).position(|window| window == b"stamp:");
        let last = at.map(|at| str::from_utf8(&dump[at + 6..at + 15]).unwrap().parse::<usize>().unwrap());
        let first_missing = last.map_or(0, |last| last + 1);
        assert!(
            acknowledged[first_missing] > point.at,
            "diskless {diskless}: {first_missing} of {} was written before {}",
            acknowledged.len(),
            point.at
        );
    }
}

/// A stack that takes one server.
fn stage_of(lab: &Lab) -> Stage {
    let stage = Stage::new();
    stage.add_redis(port_of(lab), PASSWORD);
    stage
}

fn port_of(lab: &Lab) -> u16 {
    lab.config().url.rsplit(':').next().unwrap().parse().unwrap()
}

fn assert_nothing_is_stored(stage: &Stage) {
    let listed = stage.run(&["snapshots", "--json"]).ends(0).json();
    assert_eq!(listed["snapshots"].as_array().unwrap().len(), 0, "{listed}");
}

/// Writes while the server saves, and returns how many replicas have it.
async fn waited_for(lab: &Lab) -> u64 {
    until_saving(lab).await;
    let mut pipe = redis::pipe();
    pipe.cmd("SET").arg("k:0").arg("anew").ignore().cmd("WAIT").arg(1).arg(100);
    let (replicas,) = pipe.query_async(&mut lab.connect(0).await).await.unwrap();
    replicas
}

/// Killed or demoted in the middle of a dump, a server has sent none; whatever ends a run, no replica stays behind.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn what_ends_in_the_middle_stores_nothing_and_leaves_no_replica() {
    let settings = [
        "--requirepass",
        PASSWORD,
        "--repl-diskless-sync",
        "yes",
        "--repl-diskless-sync-delay",
        "0",
        "--save",
        "",
    ];
    let mut lab = Lab::start_with(7, &settings).await;
    let stage = stage_of(&lab);
    populate(&lab, 5000).await;
    delay(&lab, 4000).await;

    // We are killed.
    let mut child = stage.start(&["backup"]);
    until_saving(&lab).await;
    send(&child, rustix::process::Signal::KILL);
    child.wait().unwrap();
    until_no_replica(&lab).await;
    until(&lab, "persistence", "the save was given up", |line| line == "rdb_bgsave_in_progress:0").await;
    assert_nothing_is_stored(&stage);

    // We stop reading. R23: whoever waits for replicas meanwhile does not take us for one.
    let config = lab.config();
    tokio::select! {
        read = pulled(&config) => panic!("it cannot have ended: {:?}", read.map(|(_, point, _)| point)),
        replicas = waited_for(&lab) => assert_eq!(replicas, 0),
    }
    until_no_replica(&lab).await;

    // It is demoted, as by a failover: what it had begun as a primary is whole, and dated so; there is no more of it.
    delay(&lab, 300).await;
    let demote = async {
        until_saving(&lab).await;
        let at = System.now();
        let _: String = lab.say(0, "REPLICAOF 127.0.0.1 1").await;
        at
    };
    let (read, demoted_at) = tokio::join!(pulled(&config), demote);
    match read {
        Ok((dump, point, _)) => assert!(point.at <= demoted_at && holds(&dump, "k:4999"), "{point:?}"),
        Err(failure) => assert_eq!(failure.exit(), ExitCode::SourceDown, "{failure:?}"),
    }
    let failure = failure_of(&config).await;
    assert_eq!(failure.exit(), ExitCode::SourceDown);
    assert!(failure.chain()[1].starts_with("NOMASTERLINK"), "{failure:?}");
    let _: String = lab.say(0, "REPLICAOF NO ONE").await;
    delay(&lab, 4000).await;

    // It is killed.
    let child = stage.start(&["backup"]);
    until_saving(&lab).await;
    lab.crash().await;
    let ended = ran(&child.wait_with_output().unwrap()).ends(20);
    ended.tells("redis");
    assert_nothing_is_stored(&stage);

    // And then all is well. A container that starts again has another port.
    let stage = stage_of(&lab);
    let () = lab.say(0, "SET alive x").await;
    stage.run(&["backup"]).ends(0);
    until_no_replica(&lab).await;
}

/// Returns what runs the program with a folder of so many MiB as its spool, which is gone when it ends.
fn cramped(stage: &Stage, mib: u32) -> Command {
    let program = stage.program();
    let spool = stage.at("spool");
    let script = format!("mount -t tmpfs -o size={mib}m none '{spool}' && exec \"$@\"");
    let mut command = Command::new("unshare");
    let own = if rustix::process::geteuid().is_root() { "-m" } else { "-rm" };
    command.args([own, "sh", "-c", &script, "sh"]).arg(program.get_program()).arg("backup");
    command.current_dir(program.get_current_dir().unwrap()).env_clear();
    command.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.stdin(std::process::Stdio::null());
    command
}

/// A spool that fills in the middle costs the dump or its order, and says so; nothing is taken for whole.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_spool_that_is_full_stores_nothing_or_the_dump_as_it_came() {
    let lab = Lab::start_with(7, &["--requirepass", PASSWORD, "--repl-diskless-sync", "yes"]).await;
    let (mut pipe, mut state) = (redis::pipe(), 7_u64);
    // Values that cannot be packed.
    let mut byte = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_be_bytes()[0]
    };
    for n in 0..100 {
        let value: Vec<u8> = (0..100_000).map(|_| byte()).collect();
        pipe.cmd("SET").arg(format!("k:{n}")).arg(value).ignore();
    }
    pipe.query_async::<()>(&mut lab.connect(0).await).await.unwrap();
    let stage = stage_of(&lab);
    std::fs::create_dir(stage.path("spool")).unwrap();
    let spool = stage.at("spool");
    stage.edit(|text| format!("{text}spool_dir = \"{spool}\"\n"));

    let ended = ran(&cramped(&stage, 5).output().unwrap()).ends(1);
    ended.tells("cannot be spooled").tells("spool_dir");
    until_no_replica(&lab).await;
    assert_nothing_is_stored(&stage);

    let ended = ran(&cramped(&stage, 14).output().unwrap()).ends(0);
    ended.tells("stored as it came");
    until_no_replica(&lab).await;
    let to = Lab::start(7).await;
    let into = format!("redis=redis://127.0.0.1:{}", port_of(&to));
    let identity = stage.at("keys/identity.txt");
    let words = ["restore", "latest", "--into", &into, "--identity", &identity, "--yes", STACK];
    stage.run_with(&words, &[("LIFEBOAT_INTO_PASSWORD", PASSWORD)], "").ends(0);
    assert_eq!(to.sizes().await, lab.sizes().await);
}

/// Nothing is buffered for us on the server, so no limit on that ends a dump, however much is written meanwhile.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_limit_on_buffers_does_not_end_a_dump() {
    let settings = "--repl-diskless-sync yes --repl-diskless-sync-delay 1 \
                    --client-output-buffer-limit replica 1mb 1mb 1";
    let settings: Vec<&str> = settings.split_whitespace().chain(["--requirepass", PASSWORD]).collect();
    let lab = Lab::start_with(8, &settings).await;
    populate(&lab, 1000).await;
    delay(&lab, 2000).await;
    // A replica that wants the commands too shows that the limit is reached.
    let other = replica(&lab).await;
    let write = async {
        until_saving(&lab).await;
        let megabyte = vec![b'x'; 1 << 20];
        let mut connection = lab.connect(0).await;
        for _ in 0..100 {
            let () = redis::cmd("SET").arg("busy").arg(&megabyte).query_async(&mut connection).await.unwrap();
        }
    };
    let config = lab.config();
    let (read, ()) = tokio::join!(pulled(&config), write);
    assert!(holds(&read.unwrap().0, "k:999"));
    let over = |line: &str| line == "client_output_buffer_limit_disconnections:1";
    until(&lab, "stats", "the other replica was cut off", over).await;
    other.await.unwrap();
}

fn openssl(folder: &Path, words: &str) {
    let out = Command::new("openssl").args(words.split_whitespace()).current_dir(folder).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

/// Makes an authority, and a certificate that it signed for a name.
fn make_authority(folder: &Path, authority: &str, leaf: &str, names: &str) {
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30";
    openssl(
        folder,
        &format!("req -x509 {key} -subj /CN={authority} -keyout {authority}.key -out {authority}.pem"),
    );
    let signed = format!("-CA {authority}.pem -CAkey {authority}.key -addext subjectAltName={names}");
    let no_authority = "-addext basicConstraints=critical,CA:FALSE";
    openssl(
        folder,
        &format!(
            "req -x509 {key} {signed} {no_authority} -subj /CN={leaf} -keyout {leaf}.key -out {leaf}.pem"
        ),
    );
}

/// Makes an authority, and a certificate of it for these names that a server in a container can read.
pub fn make_certificates(folder: &Path, names: &str) {
    make_authority(folder, "authority", "server", names);
    // The server runs as a user of its own.
    let mode = || std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(folder, mode()).unwrap();
    for file in std::fs::read_dir(folder).unwrap() {
        std::fs::set_permissions(file.unwrap().path(), mode()).unwrap();
    }
}

/// R14: Redis asks each client for a certificate unless it is told not to.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_server_that_asks_for_certificates_is_shown_one() {
    let folder = tempfile::tempdir().unwrap();
    make_authority(folder.path(), "stranger", "nobody", "DNS:localhost");
    make_certificates(folder.path(), "DNS:localhost");
    let settings = "--tls-port 6380 --tls-cert-file /shared/server.pem --tls-key-file /shared/server.key \
                    --tls-ca-cert-file /shared/authority.pem";
    let settings: Vec<&str> = settings.split_whitespace().chain(["--requirepass", PASSWORD]).collect();
    let at = |name: &str| Some(folder.path().join(name));
    for major in [7, 8] {
        let lab = Lab::start_sharing(major, Some(folder.path()), &settings).await;
        let () = lab.say(0, "SET guarded x").await;
        let with = |cert_file: Option<PathBuf>, key_file: Option<PathBuf>| RedisConfig {
            url: format!("rediss://localhost:{}", lab.published(6380).unwrap()),
            ca_file: at("authority.pem"),
            cert_file,
            key_file,
            ..lab.config()
        };
        let right = with(at("server.pem"), at("server.key"));
        assert!(holds(&pulled(&right).await.unwrap().0, "guarded"), "redis {major}");
        let findings = lifeboat::redis::examine::examine(&redis_lab::name(), &right, &Ground::system()).await;
        assert!(findings[0].detail.ends_with(", encrypted, with a certificate of ours"), "{:?}", findings[0]);

        let none = with(None, None);
        let failure = failure_of(&none).await;
        assert_eq!(failure.exit(), ExitCode::SourceDown);
        assert!(failure.hints()[1].contains("cert_file"), "redis {major}: {failure:?}");
        let findings = lifeboat::redis::examine::examine(&redis_lab::name(), &none, &Ground::system()).await;
        assert_eq!(findings[0].status, Status::Broken);
        assert!(findings[0].hint.as_ref().unwrap().contains("cert_file"), "{:?}", findings[0]);

        let failure = failure_of(&with(at("nobody.pem"), at("nobody.key"))).await;
        assert_eq!(failure.exit(), ExitCode::SourceDown);
        assert!(failure.hints()[1].contains("tls-ca-cert-file"), "redis {major}: {failure:?}");

        let failure = failure_of(&with(at("server.pem"), at("nobody.key"))).await;
        assert_eq!(failure.exit(), ExitCode::Usage, "a key of another certificate: {failure:?}");
    }
}

/// R13: a password that must be quoted everywhere stands nowhere, however much is told.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn the_password_is_told_nowhere() {
    let lab = Lab::start(7).await;
    let stage = stage_of(&lab);
    let () = lab.say(0, "SET key x").await;
    let talkative = [("RUST_LOG", "trace"), ("RUST_BACKTRACE", "full")];
    let runs: [(&[&str], i32); 6] = [
        (&["-v", "backup"], 0),
        (&["-v", "backup", "--json"], 0),
        (&["-v", "doctor", "redis"], 0),
        (&["-v", "policy", "show", "--effective"], 0),
        (&["-v", "ls", "latest"], 0),
        (&["-v", "export", "latest", "redis/server.json", "--format", "raw"], 0),
    ];
    for (words, exit) in runs {
        stage.run_with(words, &talkative, "").ends(exit).hides(PASSWORD).hides("not secret");
    }
    for place in ["repo", "state", "lifeboat.toml"] {
        stage.holds_nowhere(place, PASSWORD);
    }
    // Neither is a wrong one, whatever the server says about it.
    let wrong = Stage::new();
    wrong.add_redis(port_of(&lab), &format!("{PASSWORD} and wrong"));
    wrong.run_with(&["-v", "backup"], &talkative, "").ends(20).hides("not secret");
}

/// R30: commands that were renamed away cost what they bring, and no more.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn renamed_commands_cost_only_what_they_bring() {
    let without = async |commands: &[&str]| {
        let mut settings = vec!["--requirepass", PASSWORD];
        settings.extend(commands.iter().flat_map(|command| ["--rename-command", command, ""]));
        let lab = Lab::start_with(7, &settings).await;
        let () = lab.say(0, "SET key whole-value").await;
        lab
    };
    let doctor = async |lab: &Lab, id: &str| {
        let all =
            lifeboat::redis::examine::examine(&redis_lab::name(), &lab.config(), &Ground::system()).await;
        all.into_iter().find(|finding| finding.id == id).unwrap()
    };
    let lab = without(&["CONFIG"]).await;
    let (dump, _, _) = pulled(&lab.config()).await.unwrap();
    assert!(holds(&dump, "whole-value"));
    assert!(doctor(&lab, "redis.rights").await.detail.contains("CONFIG GET"));

    let lab = without(&["INFO", "CONFIG", "TIME"]).await;
    let (dump, point, heard) = pulled(&lab.config()).await.unwrap();
    assert!(holds(&dump, "whole-value"));
    assert_eq!(point.marks["clock"], "server");
    assert!(heard.warnings()[0].contains("settings and users are not backed up"), "{:?}", heard.warnings());
    assert_eq!(doctor(&lab, "redis.rights").await.status, Status::Warn);

    let lab = without(&["PSYNC"]).await;
    let failure = failure_of(&lab.config()).await;
    assert_eq!(failure.exit(), ExitCode::SourceDown);
    assert!(failure.to_string().ends_with("refused PSYNC"), "{failure}");
    assert!(failure.hints()[0].contains("renamed"), "{failure:?}");
    let found = doctor(&lab, "redis.rights").await;
    assert_eq!(
        (found.status, found.detail.as_str()),
        (Status::Broken, "refused: PSYNC (renamed or not offered)")
    );
}

/// R12: Valkey 9 sends fields that expire only to those who name their version.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn valkey_9_is_read_with_fields_that_expire() {
    let lab = Lab::valkey().await;
    lab.fill(7).await;
    let () = lab.say(0, "HSET fields a 1 b 2").await;
    let _: Vec<i64> = lab.say(0, "HEXPIRE fields 90000 FIELDS 1 a").await;
    let reading: Reading = read_all(Box::new(RedisSource::new(
        redis_lab::name(),
        lab.config(),
        Ground::system(),
        NoMonitor::shared(),
    )))
    .await
    .unwrap();
    let trailer = &reading.entries["dump.rdb"].trailer;
    assert_eq!((&trailer["rdb_flavour"], &trailer["rdb_version"]), (&"valkey".into(), &80.into()));
    assert_eq!((&trailer["introspected"], &trailer["checksum"]), (&true.into(), &"verified".into()));
    let sizes = lab.sizes().await;
    for (db, count) in sizes {
        let noted = trailer["keys"][db.to_string()].as_object().unwrap();
        assert_eq!(noted.values().map(|count| count.as_u64().unwrap()).sum::<u64>(), count, "db {db}");
    }
}
