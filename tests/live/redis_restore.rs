//! A restore into a running server when something goes wrong: what is refused leaves it untouched, what is stopped lets
//! it go, what it held is kept, and success is told only when a restart would find the new data.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use lifeboat::{
    clock::Ground,
    crypt::{Identities, NewIdentity},
    error::ExitCode,
    event::{Event, Monitor, NoMonitor, Recorder, SharedMonitor},
    finding::Status,
    flow::{FlowError, Tally, Target, Verified, Verify, WriteOptions, pipe},
    policy::RedisConfig,
    redis::{Home, RedisTarget, Waived, pledge},
};
use secrecy::ExposeSecret as _;
use tokio_util::sync::CancellationToken;

use super::{ALL, dump_of, failed, feed, redis_pieces::proxy, replication_settings, role};
use crate::redis_lab::{Lab, PASSWORD, name};

/// Settings of a server with an append-only file and a password.
const USUAL: [&str; 4] = ["--appendonly", "yes", "--requirepass", PASSWORD];
/// A server so slow that what is done to it in the middle of a restore is done in the middle.
pub const SLOW: &str = "0.03";

/// Does something when a step is told that begins so.
struct At<F: Fn() + Send + Sync> {
    step: &'static str,
    act: F,
}

impl<F: Fn() + Send + Sync> Monitor for At<F> {
    fn event(&self, event: Event) {
        if let Event::Step { what, .. } = event
            && what.starts_with(self.step)
        {
            (self.act)();
        }
    }
}

pub fn at(step: &'static str, act: impl Fn() + Send + Sync + 'static) -> SharedMonitor {
    Arc::new(At { step, act })
}

pub struct House {
    pub home: Home,
    folder: tempfile::TempDir,
    key: NewIdentity,
}

pub fn house() -> House {
    let (folder, key) = (tempfile::tempdir().unwrap(), NewIdentity::recovery("today"));
    let home = Home { folder: folder.path().join("state"), recipients: vec![key.recipient.clone()] };
    House { home, folder, key }
}

impl House {
    /// Returns what opens the copies.
    pub fn identities(&self) -> Identities {
        Identities::from_text(self.key.text.expose_secret()).unwrap()
    }

    pub fn notes(&self) -> Vec<String> {
        let listed = std::fs::read_dir(&self.home.folder).into_iter().flatten().flatten();
        let names = listed.map(|entry| entry.file_name().into_string().unwrap());
        names.filter(|name| name.starts_with("takeover-")).collect()
    }

    pub fn copies(&self) -> Vec<std::path::PathBuf> {
        let listed = std::fs::read_dir(self.home.folder.join("safety")).into_iter().flatten().flatten();
        listed.map(|entry| entry.path()).collect()
    }
}

pub fn target(config: RedisConfig, home: Option<&Home>, monitor: SharedMonitor) -> Box<RedisTarget> {
    Box::new(RedisTarget::new(name(), config, Ground::system(), monitor).at_home(home.cloned()))
}

/// Restores a dump into a target.
pub async fn give(target: Box<dyn Target>, dump: &[u8], options: WriteOptions) -> Result<Tally, FlowError> {
    use lifeboat::flow::{EntryMeta, Point, STREAM_DEPTH, Stage, channel, fixed_path, settle};
    let (sink, stream) = channel(STREAM_DEPTH);
    let dump = dump.to_vec();
    let send = async move {
        sink.announce(vec!["dump".into()]).await?;
        sink.put(EntryMeta::new(fixed_path("dump.rdb"), Stage::Data, "dump"), dump).await?;
        sink.complete("dump");
        sink.finish(Point::at(chrono::DateTime::UNIX_EPOCH)).await
    };
    let (read, written) = tokio::join!(send, target.write(options, stream));
    settle(read, written).map(|((), tally)| tally)
}

fn stopping(replace: bool) -> (WriteOptions, CancellationToken) {
    let stop = CancellationToken::new();
    (WriteOptions { replace, stop: stop.clone(), ..WriteOptions::default() }, stop)
}

/// A dump with values that do not compress, `mib` MiB of them.
async fn large(mib: usize) -> (Lab, Vec<u8>) {
    let lab = Lab::start_with(7, &["--requirepass", PASSWORD]).await;
    for n in 0..mib {
        let mut value = vec![0; 1 << 20];
        lifeboat::clock::Dice::fill(&lifeboat::clock::System, &mut value);
        let _: () = lab.run(0, &[b"SET", format!("large:{n}").as_bytes(), &value]).await;
    }
    let dump = dump_of(&lab).await;
    (lab, dump)
}

/// Fails with a failure that touched nothing: the old key is there, and the server is nobody's replica.
pub async fn untouched(lab: &Lab) {
    let old: String = lab.say(0, "GET old").await;
    assert_eq!(old, "data");
    assert_eq!(role(lab).await, "master");
    let keyspace: String = lab.say(0, "INFO keyspace").await;
    let sizes: Vec<&str> =
        keyspace.lines().filter_map(|line| line.split(',').next()?.strip_prefix("db")).collect();
    assert_eq!(sizes, ["0:keys=1"]);
}

async fn crashed_keeps(lab: &mut Lab, sizes: &[(i64, u64)]) {
    lab.crash().await;
    assert_eq!(lab.sizes().await, sizes, "a crash brought other data");
}

/// R17: each of these would empty the server, or make it exit, before it noticed.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn what_a_server_cannot_load_is_refused_before_it_is_touched() {
    let few = [&USUAL[..], &["--databases", "8"]].concat();
    let (from, to) = (Lab::start(7).await, Lab::start_with(7, &few).await);
    from.fill(7).await;
    let _: () = to.say(0, "SET old data").await;
    let failure = failed(pipe(from.source(), to.target(), ALL(true)).await);
    assert!(failure.hints()[0].contains("databases 16"), "{failure:?}");
    untouched(&to).await;
    // Also where the settings cannot be asked for.
    let poor = to.as_user("poor", "+@all -config").await;
    let dump = dump_of(&from).await;
    let failure = failed(give(target(poor, None, NoMonitor::shared()), &dump, ALL(true)).await);
    assert!(failure.hints()[0].contains("databases 16"), "{failure:?}");
    untouched(&to).await;

    let (redis8, valkey) = (Lab::start(8).await, Lab::valkey().await);
    for lab in [&redis8, &valkey] {
        let _: () = lab.say(0, "SET old data").await;
    }
    // A format of tomorrow: nobody knows which modules it needs.
    let mut unknown = b"REDIS0010\xfa\x09redis-ver\x066.0.99\xfe\x00\x7f\x01k\x01v\xff".to_vec();
    let crc = crc64(&unknown);
    unknown.extend_from_slice(&crc.to_le_bytes());
    let failure = failed(feed(&redis8, unknown, ALL(true)).await);
    assert!(failure.hints()[0].contains("--waive modules"), "{failure:?}");
    untouched(&redis8).await;

    for (from, to, why) in [(&valkey, &redis8, "no Redis reads"), (&redis8, &valkey, "no Valkey reads")] {
        let failure = failed(pipe(from.source(), to.target(), ALL(true)).await);
        assert!(failure.chain().join(" ").contains(why), "{failure:?}");
        untouched(to).await;
    }
}

/// The checksum of a dump, bit by bit.
fn crc64(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ u64::from(*byte), |crc: u64, _| {
            if crc & 1 == 1 { (crc >> 1) ^ 0x95ac_9329_ac4b_c9b5 } else { crc >> 1 }
        })
    })
}

/// A stop before the last byte keeps the old data, one after it waits for the new; the settings are put back both
/// times.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_restore_that_is_stopped_lets_the_server_go() {
    let slow = ["--key-load-delay", "600", "--loading-process-events-interval-bytes", "1024"];
    let settings = [&USUAL[..], &slow, &["--repl-diskless-load", "on-empty-db"]].concat();
    let to = Lab::start_with(7, &settings).await;
    let _: () = to.say(0, "SET old data").await;
    let before = replication_settings(&to).await;
    let house = house();

    // While the server looks for us where nobody is.
    let (options, stop) = stopping(true);
    let config = RedisConfig { advertise: Some("192.0.2.1".into()), ..to.config() };
    let monitor = at("asking the server to synchronise", move || stop.cancel());
    let (_large, dump) = large(24).await;
    let failure = failed(give(target(config, Some(&house.home), monitor), &dump, options).await);
    assert_eq!(failure.exit(), ExitCode::Interrupted, "{failure:?}");
    untouched(&to).await;

    // While the dump goes over.
    to.limit_cpus(SLOW);
    let (options, stop) = stopping(true);
    let monitor = at("sending the dump", move || stop.cancel());
    let failure = failed(give(target(to.config(), Some(&house.home), monitor), &dump, options).await);
    to.limit_cpus("2");
    assert_eq!(failure.exit(), ExitCode::Interrupted, "{failure:?}");
    assert!(failure.to_string().contains("keeps its old data"), "{failure:?}");
    untouched(&to).await;
    assert_eq!(replication_settings(&to).await, before);
    assert_eq!(house.notes(), [""; 0]);

    // While the server loads it.
    let from = Lab::start(7).await;
    from.fill(7).await;
    let dump = dump_of(&from).await;
    let (options, stop) = stopping(true);
    let giving = give(target(to.config(), Some(&house.home), NoMonitor::shared()), &dump, options);
    let stopping = async {
        to.until("persistence", "loading:1").await;
        stop.cancel();
    };
    let (given, ()) = tokio::join!(giving, stopping);
    let failure = failed(given);
    assert_eq!(failure.exit(), ExitCode::Interrupted, "{failure:?}");
    assert!(failure.to_string().contains("holds the restored data"), "{failure:?}");
    let mut to = to;
    assert_eq!(to.sizes().await, from.sizes().await);
    assert_eq!((role(&to).await.as_str(), replication_settings(&to).await), ("master", before));
    crashed_keeps(&mut to, &from.sizes().await).await;
}

/// What SIGKILL leaves, the next doctor and the next restore clear away.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_server_that_a_killed_restore_left_is_let_go() {
    let slow = ["--key-load-delay", "600", "--loading-process-events-interval-bytes", "1024"];
    let to = Lab::start_with(7, &[&USUAL[..], &slow].concat()).await;
    let from = Lab::start(7).await;
    from.fill(7).await;
    let _: () = to.say(0, "SET old data").await;
    let before = replication_settings(&to).await;
    let (house, small) = (house(), dump_of(&from).await);
    let (_large, large) = large(24).await;

    // Dropped in the middle as the end of a process does; the kernel takes the lock away.
    let kill = async |dump: &[u8], slow: bool, when: &'static str| {
        let dead = CancellationToken::new();
        let heard = dead.clone();
        let monitor = at("sending the dump", move || {
            if when.is_empty() {
                heard.cancel();
            }
        });
        if slow {
            to.limit_cpus(SLOW);
        }
        let giving = give(target(to.config(), Some(&house.home), monitor), dump, ALL(true));
        let waiting = async {
            if when.is_empty() {
                dead.cancelled().await;
            } else {
                to.until("persistence", when).await;
            }
        };
        tokio::select! {
            given = giving => panic!("it must be in the middle: {given:?}"),
            () = waiting => {}
        }
        to.limit_cpus("2");
        assert_eq!(role(&to).await, "slave");
        assert_eq!(house.notes().len(), 1);
    };
    kill(&large, true, "").await;
    let findings = pledge::examine(&name(), &to.config(), &house.home).await;
    assert_eq!(findings[0].status, Status::Warn, "{findings:?}");
    assert!(findings[0].detail.contains("let go with the data that it had"), "{findings:?}");
    untouched(&to).await;
    assert_eq!(replication_settings(&to).await, before);
    assert!(pledge::examine(&name(), &to.config(), &house.home).await.is_empty());

    // Killed while it loads: it goes on loading by itself.
    kill(&small, false, "loading:1").await;
    to.until("persistence", "loading:0").await;
    let findings = pledge::examine(&name(), &to.config(), &house.home).await;
    assert!(findings[0].detail.contains("let go with the restored data"), "{findings:?}");
    assert_eq!(to.sizes().await, from.sizes().await);

    // A restore does the same, and goes on.
    kill(&large, true, "").await;
    let tally = give(target(to.config(), Some(&house.home), NoMonitor::shared()), &small, ALL(true)).await;
    let tally = tally.unwrap();
    assert!(tally.notes[0].contains("was killed before"), "{:?}", tally.notes);
    assert_eq!(to.sizes().await, from.sizes().await);
    assert_eq!((role(&to).await.as_str(), replication_settings(&to).await), ("master", before));
    assert_eq!(house.notes(), [""; 0]);
}

/// What a server held can be had back: it is sealed, and whole.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn what_a_server_held_is_kept_before_it_is_replaced() {
    let (from, to) = (Lab::start(7).await, Lab::start(7).await);
    from.fill(7).await;
    let _: () = to.say(0, "SET old data").await;
    let _: () = to.say(9, "RPUSH more a b c").await;
    let held = to.sizes().await;
    let (house, dump) = (house(), dump_of(&from).await);

    // Who may not have a copy has no restore either, unless it is said.
    let poor =
        RedisConfig { advertise: Some(to.gateway()), ..to.as_user("poor", "+@all -psync ~* &*").await };
    let refused = target(poor.clone(), Some(&house.home), NoMonitor::shared());
    let failure = failed(give(refused, &dump, ALL(true)).await);
    assert!(failure.hints().iter().any(|hint| hint.contains("--waive safety")), "{failure:?}");
    assert_eq!((to.sizes().await, house.copies().len()), (held.clone(), 0));

    let tally =
        give(target(to.config(), Some(&house.home), NoMonitor::shared()), &dump, ALL(true)).await.unwrap();
    assert_eq!(tally.verified, Verified::Digests);
    let copies = house.copies();
    assert_eq!(copies.len(), 1);
    let shown = copies[0].display().to_string();
    assert!(tally.notes[0].contains(&shown), "{:?}", tally.notes);
    let plain = house.identities().open(&std::fs::read(&copies[0]).unwrap(), "the copy").unwrap();
    let rdb = zstd::decode_all(plain.as_slice()).unwrap();

    // Without a copy, and without reading back: only counted.
    let recorder = Arc::new(Recorder::default());
    let waiving = RedisTarget::new(name(), poor, Ground::system(), recorder.clone())
        .at_home(Some(house.home.clone()))
        .waiving(Waived { safety: true, ..Waived::default() });
    let tally = give(Box::new(waiving), &rdb, ALL(true)).await.unwrap();
    assert_eq!((tally.verified, house.copies().len()), (Verified::Counts, 1));
    assert!(recorder.warnings()[0].contains("not read back"), "{:?}", recorder.warnings());
    assert_eq!(to.sizes().await, held, "the copy is what it held");
    let counted = WriteOptions { verify: Verify::Counts, ..ALL(true) };
    assert_eq!(feed(&to, dump.clone(), counted).await.unwrap().verified, Verified::Counts);
    let unlooked = WriteOptions { verify: Verify::Nothing, ..ALL(true) };
    assert_eq!(feed(&to, dump, unlooked).await.unwrap().verified, Verified::No);
    drop(house.folder);
}

/// R18: a server that dies of what it is given comes back empty where its disk is gone with it; what it held is put
/// back.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn what_a_server_held_is_put_back_when_it_dies_of_the_new() {
    // The same key twice is structure that is right and data that no server takes.
    let mut twice = b"REDIS0010\xfe\x00".to_vec();
    for _ in 0..2 {
        twice.extend_from_slice(b"\x00\x01k\x01v");
    }
    twice.push(0xff);
    let crc = crc64(&twice);
    twice.extend_from_slice(&crc.to_le_bytes());

    // A port that is the same when the server is started again.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let publish = format!("127.0.0.1:{port}:6379");
    let docker = ["--tmpfs", "/data", "--restart", "always", "-p", &publish];
    let settings = ["--requirepass", PASSWORD, "--save", ""];
    let volatile = Lab::start_as("redis7", &docker, &settings).await;
    let _: () = volatile.say(0, "SET old data").await;
    let house = house();
    let config = RedisConfig { url: format!("redis://127.0.0.1:{port}"), ..volatile.config() };
    let failure =
        failed(give(target(config, Some(&house.home), NoMonitor::shared()), &twice, ALL(true)).await);
    assert!(failure.hints().iter().any(|hint| hint.contains("was put back")), "{failure:?}");
    let old: String = volatile.inside(&["GET", "old"]);
    assert_eq!(old, "data");
    assert_eq!(house.notes(), [""; 0]);

    // With a file of its own it is down, or comes back with the old data; the copy is named either way.
    let mut lasting = Lab::start(7).await;
    let _: () = lasting.say(0, "SET old data").await;
    let target = target(lasting.config(), Some(&house.home), NoMonitor::shared());
    let failure = failed(give(target, &twice, ALL(true)).await);
    let hints = failure.hints().join(" ");
    assert!(hints.contains("lifeboat restore --safety") && hints.contains("safety/redis-"), "{failure:?}");
    lasting.again().await;
    untouched(&lasting).await;
    assert_eq!(house.copies().len(), 2);
}

/// R16: the data is there, and a restart would lose it: that is told in time, and a success never.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn success_is_not_told_before_a_restart_would_find_the_data() {
    // Room for the dump, and not for the append-only file beside it.
    let docker = ["--tmpfs", "/data:size=12m"];
    let full = Lab::start_as("redis7", &docker, &USUAL).await;
    let (_large, dump) = large(8).await;
    let began = std::time::Instant::now();
    let failure = failed(feed(&full, dump, ALL(true)).await);
    assert!(failure.to_string().contains("did not finish its append-only file"), "{failure:?}");
    assert!(failure.hints()[0].contains("BGREWRITEAOF"), "{failure:?}");
    assert!(began.elapsed() < Duration::from_secs(90));
    assert_eq!(role(&full).await, "master");

    // Killed while it writes the new file.
    let slow = [&USUAL[..], &["--rdb-key-save-delay", "2000"]].concat();
    let from = Lab::start(7).await;
    from.fill(7).await;
    let mut to = Lab::start_with(7, &slow).await;
    let _: () = to.say(0, "SET old data").await;
    let killed = to.killer();
    let monitor = at("waiting until the server has rewritten", killed);
    let options = WriteOptions { verify: Verify::Counts, ..ALL(true) };
    let dump = dump_of(&from).await;
    let failure = failed(give(target(to.config(), None, monitor), &dump, options).await);
    assert!(failure.hints().iter().any(|hint| hint.contains("brings the old data back")), "{failure:?}");
    to.again().await;

    // Without an append-only file the dump that the server received is its own.
    let mut plain = Lab::start_with(7, &["--requirepass", PASSWORD]).await;
    feed(&plain, dump, ALL(true)).await.unwrap();
    crashed_keeps(&mut plain, &from.sizes().await).await;
}

/// A server that goes down or is told to be a primary in the middle is not waited for.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_server_that_is_restarted_in_the_middle_keeps_its_data() {
    let to = Lab::start(7).await;
    let _: () = to.say(0, "SET old data").await;
    let (_large, dump) = large(24).await;
    let mut connection = to.connect(0).await;
    to.limit_cpus(SLOW);
    let heard = Arc::new(Mutex::new(false));
    let seen = Arc::clone(&heard);
    let monitor = at("sending the dump", move || *seen.lock().unwrap() = true);
    let giving = give(target(to.config(), None, monitor), &dump, ALL(true));
    let freeing = async {
        while !*heard.lock().unwrap() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let mut free = redis::cmd("REPLICAOF");
        free.arg("NO").arg("ONE").query_async::<()>(&mut connection).await.unwrap();
        to.limit_cpus("2");
    };
    let (given, ()) = tokio::join!(giving, freeing);
    let failure = failed(given);
    assert!(failure.chain().join(" ").contains("told to be a primary"), "{failure:?}");
    untouched(&to).await;
    let auth: Vec<String> = to.say(0, "CONFIG GET masterauth").await;
    assert_eq!(auth[1], "", "the token did not stay");
}

/// Nothing is emptied before it is known that it can be filled.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_server_that_takes_no_keys_is_not_emptied() {
    let settings = [&USUAL[..], &["--rename-command", "REPLICAOF", ""]].concat();
    let (from, to) = (Lab::start(7).await, Lab::start_with(7, &settings).await);
    from.fill(7).await;
    let _: () = to.say(0, "SET old data").await;
    let dump = dump_of(&from).await;
    let house = house();
    for (lacks, named) in [
        ("-restore", vec!["+restore"]),
        ("-restore -select", vec!["+select", "+restore"]),
        ("-flushall -scan", vec!["+flushall"]),
        ("-function", vec!["+function|restore"]),
    ] {
        let config = to.as_user("poor", &format!("+@all ~* &* {lacks}")).await;
        let target = target(config, Some(&house.home), NoMonitor::shared());
        let failure = failed(give(target, &dump, ALL(true)).await);
        assert!(named.iter().all(|name| failure.chain().join(" ").contains(name)), "{lacks}: {failure:?}");
        untouched(&to).await;
    }
    // What can be filled and breaks off has its old data back.
    let once = Arc::new(AtomicBool::new(true));
    let port = proxy(&to, "k:77", move || {
        let breaks = once.swap(false, Ordering::SeqCst);
        async move { !breaks }
    })
    .await;
    let config = RedisConfig { url: format!("redis://127.0.0.1:{port}"), ..to.config() };
    let broken = target(config, Some(&house.home), NoMonitor::shared());
    let failure = failed(give(broken, &dump, ALL(true)).await);
    assert!(failure.hints().iter().any(|hint| hint.contains("was put back")), "{failure:?}");
    untouched(&to).await;
    let tally =
        give(target(to.config(), Some(&house.home), NoMonitor::shared()), &dump, ALL(true)).await.unwrap();
    assert_eq!((tally.verified, to.sizes().await), (Verified::Digests, from.sizes().await));
}

/// R14, R19, R28: where it must be, the dump goes over encrypted, with what the server has set already.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_server_that_wants_its_replication_encrypted_has_it_so() {
    let folder = tempfile::tempdir().unwrap();
    super::make_certificate(folder.path());
    let settings = "--appendonly yes --tls-port 6380 --tls-cert-file /shared/cert.pem --tls-key-file /shared/key.pem \
                    --tls-ca-cert-file /shared/cert.pem --tls-auth-clients no --tls-replication yes --masterauth theirs";
    let settings: Vec<&str> = settings.split_whitespace().chain(["--requirepass", PASSWORD]).collect();
    let to = Lab::start_sharing(7, Some(folder.path()), &settings).await;
    let from = Lab::start(7).await;
    from.fill(7).await;
    let dump = dump_of(&from).await;
    let file = |name: &str| Some(folder.path().join(name));
    let config = RedisConfig { cert_file: file("cert.pem"), key_file: file("key.pem"), ..to.config() };
    let given = give(target(config.clone(), None, NoMonitor::shared()), &dump, ALL(false)).await;
    assert_eq!(given.unwrap().verified, Verified::Digests);
    assert_eq!(to.sizes().await, from.sizes().await);
    let stats: String = to.say(0, "INFO commandstats").await;
    assert!(
        !stats.contains("config|set"),
        "its masterauth and tls-replication are what we came with: {stats}"
    );

    // Without a certificate of ours the dump stays on this machine, or goes another way.
    let far = RedisConfig { advertise: Some("192.0.2.1".into()), ..to.config() };
    let failure = failed(give(target(far.clone(), None, NoMonitor::shared()), &dump, ALL(true)).await);
    assert!(failure.to_string().contains("in clear"), "{failure:?}");
    let url = format!("rediss://localhost:{}", to.published(6380).unwrap());
    let far = RedisConfig { url, ca_file: file("cert.pem"), ..far };
    let recorder = Arc::new(Recorder::default());
    give(target(far, None, recorder.clone()), &dump, ALL(true)).await.unwrap();
    assert!(format!("{:?}", recorder.events()).contains("in clear: restoring key by key"));
    let stats: String = to.say(0, "INFO commandstats").await;
    assert!(!stats.contains("config|set"), "{stats}");
}

/// A Sentinel would fail over in the middle; that it cannot be seen is no sign that there is none.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_server_that_a_sentinel_watches_is_refused() {
    let (from, to) = (Lab::start(7).await, Lab::start(7).await);
    let _: () = from.say(0, "SET new data").await;
    let _: () = to.say(0, "SET old data").await;
    let dump = dump_of(&from).await;
    let mut told = Vec::new();
    let connection = to.connect(0).await;
    let (mut named, mut listening) = (connection.clone(), to.subscriber().await);
    for (rights, name, listens) in [
        ("+@all", "sentinel-0123abcd-cmd", false),
        ("+@all -client|list", "somebody", true),
        ("+@all -client|list -pubsub", "somebody", false),
    ] {
        let poor = to.as_user("poor", &format!("~* &* {rights}")).await;
        let poor = RedisConfig { advertise: Some(to.gateway()), ..poor };
        redis::cmd("CLIENT").arg("SETNAME").arg(name).query_async::<()>(&mut named).await.unwrap();
        if listens {
            listening.subscribe("__sentinel__:hello").await.unwrap();
        }
        let failure = failed(give(target(poor, None, NoMonitor::shared()), &dump, ALL(true)).await);
        untouched(&to).await;
        told.push(failure);
        listening.unsubscribe("__sentinel__:hello").await.unwrap();
    }
    assert!(
        told[..2].iter().all(|failure| failure.to_string().contains("watched by a Sentinel")),
        "{told:?}"
    );
    assert!(told[2].hints()[0].contains("+client|list"), "{told:?}");
}

/// R26: a server that is too small is refused with both figures; told to try, it says what it threw away.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_server_that_is_too_small_is_refused_and_evictions_are_told() {
    let small = [&USUAL[..], &["--maxmemory", "6mb", "--maxmemory-policy", "allkeys-lru"]].concat();
    let to = Lab::start_with(7, &small).await;
    let _: () = to.say(0, "SET old data").await;
    let (large, dump) = large(8).await;
    let failure = failed(feed(&to, dump.clone(), ALL(true)).await);
    let why = failure.chain().join(" ");
    assert!(why.contains("maxmemory is 6") && why.contains("the keys take about"), "{failure:?}");
    untouched(&to).await;
    let target = RedisTarget::new(name(), to.config(), Ground::system(), NoMonitor::shared());
    let waiving = target.waiving(Waived { memory: true, ..Waived::default() });
    let failure = failed(give(Box::new(waiving), &dump, ALL(true)).await);
    assert_eq!(failure.exit(), ExitCode::Partial, "{failure:?}");
    assert!(failure.to_string().contains("evicted"), "{failure:?}");

    // A small dump of a server that used much else fits.
    let _: () = large.say(0, "FLUSHALL").await;
    let _: () = large.say(0, "SET new data").await;
    let small = dump_of(&large).await;
    feed(&to, small, ALL(true)).await.unwrap();
    assert_eq!(to.sizes().await, [(0, 1)]);
}

/// What follows the server follows it through a restore.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_replica_of_the_server_has_the_restored_data_too() {
    let (from, to) = (Lab::start(7).await, Lab::start(7).await);
    from.fill(7).await;
    let _: () = to.say(0, "SET old data").await;
    let follower = Lab::start(7).await;
    let _: () = follower.run(0, &[b"CONFIG", b"SET", b"masterauth", PASSWORD.as_bytes()]).await;
    let _: () = follower.say(0, &format!("REPLICAOF {} 6379", to.address())).await;
    follower.until("replication", "master_link_status:up").await;
    pipe(from.source(), to.target(), ALL(true)).await.unwrap();
    follower.until("keyspace", "db15:keys=1,").await;
    follower.until("replication", "master_link_status:up").await;
    assert_eq!(follower.sizes().await, from.sizes().await);
}
