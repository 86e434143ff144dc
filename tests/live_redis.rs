//! The Redis engine against real servers: what was read comes back, and a server that cannot be restored
//! is left as it was.
//!
//! Each test starts servers of its own from the images of `fixtures/stack`; the trap numbers are those of
//! the engine's list of ways to lose data.

#![allow(clippy::unwrap_used, reason = "a test may end here")]

#[path = "cli/stage.rs"]
mod stage;

mod redis_lab;
#[path = "live/redis_pieces.rs"]
mod redis_pieces;

#[path = "live/redis_files.rs"]
mod redis_files;
#[path = "live/redis_kills.rs"]
mod redis_kills;
#[path = "live/redis_modules.rs"]
mod redis_modules;
#[path = "live/redis_pull.rs"]
mod redis_pull;
#[path = "live/redis_restore.rs"]
mod redis_restore;
#[path = "live/redis_safety.rs"]
mod redis_safety;
#[path = "live/redis_topology.rs"]
mod redis_topology;

use lifeboat::redis::compare::RedisLikeness;
use lifeboat::{
    error::{ExitCode, Failure},
    event::Recorder,
    flow::{
        EntryMeta, FlowError, Likeness, Point, STREAM_DEPTH, Selection, Source, Stage, Target, Verified,
        WriteOptions, channel,
        conformance::{Pair, a_broken_stream_is_never_a_success, piping_is_copying, read_all},
        fixed_path, pipe, settle,
    },
};
use redis_lab::{Lab, PASSWORD};

const ALL: fn(bool) -> WriteOptions = |replace| WriteOptions { replace, ..WriteOptions::default() };

struct Two {
    from: Lab,
    to: Lab,
}

impl Pair for Two {
    fn source(&self) -> Box<dyn Source> {
        self.from.source()
    }
    fn target(&self) -> Box<dyn Target> {
        self.to.target()
    }
    fn copy(&self) -> Box<dyn Source> {
        self.to.source()
    }
    fn likeness(&self) -> &dyn Likeness {
        &RedisLikeness
    }
}

async fn copies(from: u8, to: u8) {
    let pair = Two { from: Lab::start(from).await, to: Lab::start(to).await };
    pair.from.fill(from).await;
    piping_is_copying(&pair).await;
    assert_eq!(pair.from.sizes().await, pair.to.sizes().await);
    let answer: i64 = pair.to.say(0, "FCALL f 0").await;
    assert_eq!(answer, 7, "the function came along");
    let pending: Vec<redis::Value> = pair.to.say(0, "XPENDING stream g").await;
    assert_eq!(pending[0], redis::Value::Int(6), "the group's pending entries came along");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn piping_7_to_7_is_copying() {
    copies(7, 7).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn piping_8_to_8_is_copying() {
    copies(8, 8).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn piping_7_to_8_is_copying() {
    copies(7, 8).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn piping_valkey_to_valkey_is_copying() {
    let pair = Two { from: Lab::valkey().await, to: Lab::valkey().await };
    pair.from.fill(7).await;
    piping_is_copying(&pair).await;
    assert_eq!(pair.from.sizes().await, pair.to.sizes().await);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_broken_stream_leaves_the_server_alone() {
    let lab = Lab::start(7).await;
    let meta = EntryMeta::new(fixed_path("dump.rdb"), Stage::Data, "dump");
    a_broken_stream_is_never_a_success(lab.target(), "dump", meta).await;
    assert_eq!(role(&lab).await, "master");
}

async fn role(lab: &Lab) -> String {
    let answer: Vec<redis::Value> = lab.say(0, "ROLE").await;
    redis::from_redis_value(answer.into_iter().next().unwrap()).unwrap()
}

/// R15, R16: a copied dump file is ignored under `appendonly yes`, and a success that is told before the
/// append-only file is rewritten is lost by a restart.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn restored_data_survives_a_restart() {
    // Each key takes two milliseconds to write, so the new append-only file takes seconds.
    let settings = ["--appendonly", "yes", "--requirepass", PASSWORD, "--rdb-key-save-delay", "2000"];
    let (from, mut to) = (Lab::start(7).await, Lab::start_with(7, &settings).await);
    from.fill(7).await;
    let _: () = to.say(0, "SET old data").await;
    let _: () = to.say(9, "SET old data").await;
    let tally = pipe(from.source(), to.target(), ALL(true)).await.unwrap();
    assert_eq!(tally.verified, Verified::Digests);
    to.crash().await;
    assert_eq!(to.sizes().await, from.sizes().await, "a crash brought other data");
    to.restart().await;
    assert_eq!(to.sizes().await, from.sizes().await, "a restart brought other data");
    assert_eq!(role(&to).await, "master");
}

/// R17, first half: a server that holds something is refused and stays as it is.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_server_that_is_not_empty_is_refused_untouched() {
    let (from, to) = (Lab::start(7).await, Lab::start(7).await);
    let _: () = from.say(0, "SET new data").await;
    let _: () = to.say(2, "SET old data").await;
    let state = to.target().inspect(&[]).await.unwrap();
    assert_eq!(state.in_the_way, ["db 2: 1 key"]);
    assert!(state.version.starts_with("Redis 7."), "{}", state.version);
    let failure = failed(pipe(from.source(), to.target(), ALL(false)).await);
    assert_eq!(failure.exit(), ExitCode::TargetNotEmpty);
    assert_eq!(to.sizes().await, [(2, 1)]);
    assert_eq!(role(&to).await, "master");
}

/// R17, second half: a format that the server cannot load would be noticed by it after it is empty.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_dump_of_a_newer_version_is_refused_before_the_server_is_emptied() {
    let (from, to) = (Lab::start(8).await, Lab::start(7).await);
    let _: () = from.say(0, "SET new data").await;
    let _: () = to.say(0, "SET old data").await;
    let failure = failed(pipe(from.source(), to.target(), ALL(true)).await);
    assert!(failure.to_string().contains("cannot load this dump"), "{failure}");
    assert!(failure.hints()[0].contains("8.0"), "{:?}", failure.hints());
    let old: String = to.say(0, "GET old").await;
    assert_eq!(old, "data");
    assert_eq!(role(&to).await, "master");
}

/// R18: a damaged dump makes a server exit, and may stay behind as its own file.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_damaged_dump_never_reaches_a_server() {
    let (from, to) = (Lab::start(7).await, Lab::start(7).await);
    from.fill(7).await;
    let _: () = to.say(0, "SET old data").await;
    let whole = dump_of(&from).await;
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 0x55;
    for (damaged, why) in [
        (flipped, "a flipped byte"),
        (whole[..whole.len() / 2].to_vec(), "half of it"),
        (b"REDIS".to_vec(), "nothing"),
    ] {
        let failure = failed(feed(&to, damaged, ALL(true)).await);
        assert_eq!(failure.exit(), ExitCode::Damage, "{why}: {failure}");
        let old: String = to.say(0, "GET old").await;
        assert_eq!(old, "data", "{why}");
        assert_eq!(role(&to).await, "master", "{why}");
    }
    feed(&to, whole, ALL(true)).await.expect("the whole dump is taken");
}

/// Reads a source to the end; returns the bytes of its dump and its point.
async fn read_dump(source: Box<dyn Source>) -> Result<(Vec<u8>, Point), FlowError> {
    let (sink, mut stream) = channel(STREAM_DEPTH);
    let take = async {
        let mut dump = Vec::new();
        while let Some(mut entry) = stream.next().await? {
            let bytes = entry.body.read_all(1 << 30).await?;
            if entry.meta.path.as_str() == "dump.rdb" {
                dump = bytes;
            }
        }
        Ok::<_, FlowError>((dump, stream.point().cloned().unwrap()))
    };
    let (read, taken) = tokio::join!(source.read(sink, None), take);
    settle(read, taken).map(|((), taken)| taken)
}

/// Returns the bytes of a server's dump.
async fn dump_of(lab: &Lab) -> Vec<u8> {
    read_dump(lab.source()).await.unwrap().0
}

/// Gives a target these bytes as a dump.
async fn feed(lab: &Lab, dump: Vec<u8>, options: WriteOptions) -> Result<lifeboat::flow::Tally, FlowError> {
    let (sink, stream) = channel(STREAM_DEPTH);
    let send = async move {
        sink.announce(vec!["dump".into()]).await?;
        sink.put(EntryMeta::new(fixed_path("dump.rdb"), Stage::Data, "dump"), dump).await?;
        sink.complete("dump");
        sink.finish(Point::at(chrono::DateTime::UNIX_EPOCH)).await
    };
    let (read, written) = tokio::join!(send, lab.target().write(options, stream));
    lifeboat::flow::settle(read, written).map(|((), tally)| tally)
}

fn failed<T>(result: Result<T, FlowError>) -> Failure {
    match result {
        Ok(_) => panic!("it must fail"),
        Err(error) => error.about(&redis_lab::name()),
    }
}

/// R19: what a replica is told to log in with belongs to the server's owner.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn settings_are_put_back_after_success_and_after_failure() {
    let settings = ["--requirepass", PASSWORD, "--masterauth", "theirs 'x'", "--masteruser", "them"];
    let settings = [&settings[..], &["--repl-diskless-load", "on-empty-db"]].concat();
    let (from, to) = (Lab::start(7).await, Lab::start_with(7, &settings).await);
    let _: () = from.say(0, "SET new data").await;
    let before = replication_settings(&to).await;
    pipe(from.source(), to.target(), ALL(false)).await.unwrap();
    assert_eq!(replication_settings(&to).await, before);

    // An address at which nobody listens: the server cannot reach us, and nothing may change.
    let mut config = to.config();
    config.advertise = Some("192.0.2.1".into());
    let target = lifeboat::redis::RedisTarget::new(
        redis_lab::name(),
        config,
        lifeboat::clock::Ground::system(),
        lifeboat::event::NoMonitor::shared(),
    );
    let failure = failed(pipe(from.source(), Box::new(target), ALL(true)).await);
    assert!(failure.hints().iter().any(|hint| hint.contains("advertise")), "{:?}", failure.hints());
    assert_eq!(replication_settings(&to).await, before);
    assert_eq!(role(&to).await, "master");
    let new: String = to.say(0, "GET new").await;
    assert_eq!(new, "data", "the old data survived the failure");
}

async fn replication_settings(lab: &Lab) -> Vec<(String, String)> {
    let mut all = Vec::new();
    for name in ["masterauth", "masteruser", "repl-diskless-load", "tls-replication"] {
        let pair: Vec<String> = lab.say(0, &format!("CONFIG GET {name}")).await;
        all.push((pair[0].clone(), pair[1].clone()));
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_wrong_password_and_a_server_that_is_down_are_told_without_secrets() {
    let lab = Lab::start(7).await;
    let with = |user: Option<&str>, password: &str| {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), password).unwrap();
        let mut config = lab.config();
        config.user = user.map(str::to_owned);
        config.password = Some(lifeboat::policy::SecretRef::File(file.path().to_owned()));
        let ground = lifeboat::clock::Ground::system();
        let monitor = lifeboat::event::NoMonitor::shared();
        (file, Box::new(lifeboat::redis::RedisSource::new(redis_lab::name(), config, ground, monitor)))
    };
    let (_file, source) = with(None, "wr0ng and secret");
    let failure = read_all(source).await.unwrap_err().about(&redis_lab::name());
    assert_eq!(failure.exit(), ExitCode::SourceDown);
    assert!(failure.to_string().contains("`redis` at `127.0.0.1:"), "{failure}");
    assert!(!format!("{failure:?} {:?}", failure.chain()).contains("wr0ng"));

    // A user without the right to replicate is told which right it lacks.
    let _: () = lab.say(0, "ACL SETUSER poor on >poor +ping +info +replconf").await;
    let (_file, source) = with(Some("poor"), "poor");
    let failure = read_all(source).await.unwrap_err().about(&redis_lab::name());
    assert!(failure.to_string().contains("refused PSYNC"), "{failure}");
    assert!(failure.hints()[0].contains("+psync"), "{:?}", failure.hints());

    // The smallest set of rights that is enough for the data.
    let _: () = lab.say(0, "ACL SETUSER backup on >pw +psync +replconf +ping").await;
    let (_file, source) = with(Some("backup"), "pw");
    read_all(source).await.expect("replication rights are enough");

    lab.stop();
    let failure = read_all(lab.source()).await.unwrap_err().about(&redis_lab::name());
    assert_eq!(failure.exit(), ExitCode::SourceDown);
    assert!(failure.to_string().contains("`redis` at `127.0.0.1:"), "{failure}");
}

/// Only what was asked for is touched, and nothing is overwritten without permission.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn some_keys_are_restored_beside_others() {
    for major in [7, 8] {
        let (from, to) = (Lab::start(major).await, Lab::start(major).await);
        from.fill(major).await;
        let _: () = to.say(0, "SET other mine").await;
        let _: () = to.say(0, "SET k:7 mine").await;
        let only = |patterns: &[&str], replace| {
            let patterns: Vec<String> = patterns.iter().map(|p| (*p).to_owned()).collect();
            WriteOptions { replace, only: Selection::new(&patterns).unwrap(), ..WriteOptions::default() }
        };
        let dump = dump_of(&from).await;
        let failure = failed(feed(&to, dump.clone(), only(&["k:1*", "k:7"], false)).await);
        assert_eq!(failure.exit(), ExitCode::TargetNotEmpty);
        assert_eq!(failure.chain()[1], "`k:7`");
        assert_eq!(to.sizes().await, [(0, 2)], "nothing was written");

        let tally = feed(&to, dump.clone(), only(&["k:1*", "k:7", "only-in-3"], true)).await.unwrap();
        assert!(tally.notes[0].starts_with("1113 keys restored"), "{:?}", tally.notes);
        assert_eq!(to.sizes().await, [(0, 1113), (3, 1)]);
        let values: Vec<String> = to.say(0, "MGET other k:7 k:1999").await;
        assert_eq!(values, ["mine", "value 7", "value 1999"]);
        let ttl: i64 = to.say(3, "TTL only-in-3").await;
        assert!(ttl > 80_000, "{ttl}");

        // Every type, key by key: the digest says that they are the same.
        feed(&to, dump, only(&["*"], true)).await.unwrap();
        let _: () = to.say(0, "DEL other").await;
        let library = "#!lua name=mylib\nredis.register_function('f', function() return 7 end)";
        let _: String = to.run(0, &[b"FUNCTION", b"LOAD", library.as_bytes()]).await;
        let digest = |reading: lifeboat::flow::conformance::Reading| {
            reading.entries["dump.rdb"].trailer["digest"].as_str().unwrap().to_owned()
        };
        let (there, here) = (read_all(from.source()).await.unwrap(), read_all(to.source()).await.unwrap());
        assert_eq!(digest(there), digest(here), "redis {major}");
    }
}

/// Managed services take `REPLICAOF` away; then all keys go over one by one, functions too.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_server_that_may_not_replicate_is_restored_key_by_key() {
    let settings = ["--appendonly", "yes", "--requirepass", PASSWORD, "--rename-command", "REPLICAOF", ""];
    let pair = Two { from: Lab::start(7).await, to: Lab::start_with(7, &settings).await };
    pair.from.fill(7).await;
    piping_is_copying(&pair).await;
    // Again, over what is there.
    let _: () = pair.to.say(4, "SET old data").await;
    pipe(pair.source(), pair.target(), ALL(true)).await.unwrap();
    assert_eq!(pair.from.sizes().await, pair.to.sizes().await);
}

/// What the server says of itself is kept, and no password with it.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn the_description_of_a_server_holds_users_and_no_secrets() {
    let settings = ["--requirepass", PASSWORD, "--masterauth", "t0psecret"];
    let (lab, to) = (Lab::start_with(8, &settings).await, Lab::start(8).await);
    let _: () = lab.say(0, "ACL SETUSER alice on >hidden ~cache:* +get").await;
    let (sink, mut stream) = channel(STREAM_DEPTH);
    let take = async {
        let mut facts = String::new();
        while let Some(mut entry) = stream.next().await.unwrap() {
            let bytes = entry.body.read_all(1 << 24).await.unwrap();
            if entry.meta.path.as_str() == "server.json" {
                facts = String::from_utf8(bytes).unwrap();
            }
        }
        (facts, stream.point().cloned().unwrap())
    };
    let (read, (facts, point)) = tokio::join!(lab.source().read(sink, None), take);
    read.unwrap();
    assert!(facts.contains("user alice on") && facts.contains("vectorset"), "{facts}");
    for secret in ["quoted", "t0psecret", "hidden", "requirepass", "masterauth"] {
        assert!(!facts.contains(secret), "{secret}: {facts}");
    }
    assert_eq!(point.marks["replid"].len(), 40);
    assert!(point.marks["offset"].parse::<u64>().is_ok());

    let recorder = std::sync::Arc::new(Recorder::default());
    let tally = pipe(lab.source(), to.target_heard_by(recorder.clone()), ALL(false)).await.unwrap();
    assert!(tally.notes.iter().any(|note| note.contains("`alice`")), "{:?}", tally.notes);
    assert!(!format!("{:?}", recorder.events()).contains("t0psecret"));
}

/// R14: encrypted connections, also to a server that wants its replication encrypted.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_server_with_certificates_is_read_and_restored() {
    let folder = tempfile::tempdir().unwrap();
    make_certificate(folder.path());
    let settings = "--appendonly yes --tls-port 6380 --tls-cert-file /shared/cert.pem --tls-key-file /shared/key.pem \
                    --tls-ca-cert-file /shared/cert.pem --tls-auth-clients no --tls-replication yes";
    let settings: Vec<&str> = settings.split_whitespace().chain(["--requirepass", PASSWORD]).collect();
    let lab = Lab::start_sharing(7, Some(folder.path()), &settings).await;
    let from = Lab::start(7).await;
    from.fill(7).await;
    let mut config = lab.config();
    config.url = format!("rediss://localhost:{}", lab.published(6380).unwrap());
    let failure = read_all(source(&config)).await.unwrap_err().about(&redis_lab::name());
    assert!(
        failure.hints()[0].contains("Check that") && failure.hints()[1].contains("ca_file"),
        "{failure:?}"
    );
    config.ca_file = Some(folder.path().join("cert.pem"));
    pipe(from.source(), target(&config), ALL(false)).await.unwrap();
    assert_eq!(from.sizes().await, lab.sizes().await);
    let copy = read_all(source(&config)).await.unwrap();
    assert_eq!(copy.entries["dump.rdb"].trailer["functions"], 1);
    let replication: Vec<String> = lab.say(0, "CONFIG GET tls-replication").await;
    assert_eq!(replication[1], "yes", "the setting was put back");
}

fn make_certificate(folder: &std::path::Path) {
    let words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=localhost \
                 -addext subjectAltName=DNS:localhost -addext basicConstraints=critical,CA:FALSE \
                 -keyout key.pem -out cert.pem";
    let out =
        std::process::Command::new("openssl").args(words.split_whitespace()).current_dir(folder).output();
    let out = out.unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    // The server runs as a user of its own.
    for name in ["key.pem", "cert.pem", ""] {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(folder.join(name), mode).unwrap();
    }
}

fn source(config: &lifeboat::policy::RedisConfig) -> Box<dyn Source> {
    let ground = lifeboat::clock::Ground::system();
    let monitor = lifeboat::event::NoMonitor::shared();
    Box::new(lifeboat::redis::RedisSource::new(redis_lab::name(), config.clone(), ground, monitor))
}

fn target(config: &lifeboat::policy::RedisConfig) -> Box<dyn Target> {
    let ground = lifeboat::clock::Ground::system();
    let monitor = lifeboat::event::NoMonitor::shared();
    Box::new(lifeboat::redis::RedisTarget::new(redis_lab::name(), config.clone(), ground, monitor))
}

/// A socket tells nothing about addresses, so the policy must; with it, a restore works.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_server_behind_a_socket_is_read_and_restored() {
    let folder = tempfile::tempdir().unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(folder.path(), mode).unwrap();
    let settings =
        ["--requirepass", PASSWORD, "--unixsocket", "/shared/redis.sock", "--unixsocketperm", "777"];
    let lab = Lab::start_sharing(8, Some(folder.path()), &settings).await;
    let from = Lab::start(7).await;
    from.fill(7).await;
    let mut config = lab.config();
    config.url = format!("unix://{}", folder.path().join("redis.sock").display());
    config.advertise = Some(lab.gateway());
    pipe(from.source(), target(&config), ALL(false)).await.unwrap();
    assert_eq!(from.sizes().await, lab.sizes().await);
    let copy = read_all(source(&config)).await.unwrap();
    assert_eq!(copy.entries["dump.rdb"].trailer["checksum"], "verified");
}

/// The rights that the hint names are enough for a restore.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_user_with_few_rights_can_restore() {
    let (from, to) = (Lab::start(7).await, Lab::start(7).await);
    from.fill(7).await;
    let _: () = to
        .say(0, "ACL SETUSER restorer on >pw +replicaof +config|get +config|set +client|list +info +ping")
        .await;
    let mut config = to.config();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "pw\n").unwrap();
    config.user = Some("restorer".into());
    config.password = Some(lifeboat::policy::SecretRef::File(file.path().to_owned()));
    config.advertise = Some(to.gateway());
    pipe(from.source(), target(&config), ALL(false)).await.unwrap();
    assert_eq!(from.sizes().await, to.sizes().await);

    // One right less, and the server is left alone.
    let _: () = to.say(0, "ACL SETUSER restorer +psync +replconf -replicaof").await;
    let failure = failed(pipe(from.source(), target(&config), ALL(true)).await);
    assert!(failure.hints()[0].contains("+replicaof"), "{:?}", failure.hints());
    assert_eq!(from.sizes().await, to.sizes().await);
    assert_eq!(role(&to).await, "master");
    let auth: Vec<String> = to.say(0, "CONFIG GET masterauth").await;
    assert_eq!(auth[1], "", "the token did not stay");
}
