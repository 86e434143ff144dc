//! Sentinels and clusters: the right server is read, and of a cluster everything.

use std::sync::{Arc, Mutex};

use lifeboat::{
    clock::Ground,
    error::ExitCode,
    event::{Event, Monitor, NoMonitor, Recorder, SharedMonitor},
    finding::Status,
    flow::{
        Source, Verified,
        conformance::{Reading, read_all},
        pipe,
    },
    policy::{Prefer, RedisConfig, SecretRef},
    redis::{RedisSource, RedisTarget, examine::examine},
};
use serde_json::json;

use super::{
    ALL,
    redis_lab::{Cluster, Lab, Network, PASSWORD, name, sentinels::Watched},
    stage::Stage,
};

fn source(config: RedisConfig, monitor: SharedMonitor) -> Box<dyn Source> {
    Box::new(RedisSource::new(name(), config, Ground::system(), monitor))
}

async fn read(config: &RedisConfig) -> Reading {
    read_all(source(config.clone(), NoMonitor::shared())).await.unwrap()
}

fn node(reading: &Reading) -> (&str, &str) {
    let marks = &reading.point.marks;
    (&marks["node"], &marks["role"])
}

/// Returns what doctor says about the topology.
async fn topology(config: &RedisConfig) -> (Status, String) {
    let findings = examine(&name(), config, &Ground::system()).await;
    let found = findings.into_iter().find(|finding| finding.id == "redis.topology").unwrap();
    (found.status, found.detail)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn sentinels_say_which_server_is_read_and_a_failover_meanwhile_is_followed() {
    let watched = Watched::start().await;
    // A container that was killed has no address any more.
    let old_host = watched.primary.address();
    let (old, new) = (format!("{old_host}:6379"), format!("{}:6379", watched.replica.address()));
    watched.primary.fill(7).await;
    let config = watched.config();

    // A replica lags; what was written before the backup began is in it all the same.
    for round in 0..5 {
        let () = watched.primary.say(0, &format!("SET round:{round} x")).await;
        let keys: u64 = watched.primary.say(0, "DBSIZE").await;
        let reading = read(&config).await;
        assert_eq!(node(&reading), (new.as_str(), "replica"));
        let there: u64 = reading.entries["dump.rdb"].trailer["keys"]["0"]
            .as_object()
            .unwrap()
            .values()
            .map(|count| count.as_u64().unwrap())
            .sum();
        assert_eq!(there, keys, "round {round}");
    }
    let (status, detail) = topology(&config).await;
    assert_eq!(status, Status::Ok);
    assert!(detail.starts_with(&format!("replica {new} is read")), "{detail}");
    let primary = RedisConfig { prefer: Prefer::Primary, ..config.clone() };
    assert_eq!(node(&read(&primary).await), (old.as_str(), "primary"));

    refused_at_once(&watched).await;
    promoted_in_the_middle(&watched, &config).await;
    // Back to the roles of before.
    watched.change_roles().await;

    // The primary dies while it sends; the replica takes its place.
    let () = watched.primary.say(0, "CONFIG SET rdb-key-save-delay 3000").await;
    let heard = Arc::new(Recorder::default());
    let reading = tokio::spawn(read_all(source(primary.clone(), heard.clone())));
    loop {
        let info: String = watched.primary.say(0, "INFO persistence").await;
        if info.contains("rdb_bgsave_in_progress:1") {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    watched.hasten().await;
    watched.primary.kill();
    let reading = reading.await.unwrap().unwrap();
    assert_eq!(node(&reading), (new.as_str(), "primary"));
    let warnings = heard.warnings();
    assert!(warnings.iter().any(|text| text.contains("asked once more")), "{warnings:?}");

    // No replica is left: the primary is read.
    watched.until_down(&old_host).await;
    assert_eq!(node(&read(&config).await), (new.as_str(), "primary"));

    // Back into what the Sentinels name, without a change of roles.
    let sizes = watched.replica.sizes().await;
    let target = Box::new(RedisTarget::new(name(), config.clone(), Ground::system(), NoMonitor::shared()));
    let tally = pipe(source(config, NoMonitor::shared()), target, ALL(true)).await.unwrap();
    assert_ne!(tally.verified, Verified::No);
    assert_eq!(watched.replica.sizes().await, sizes);
    let info: String = watched.replica.say(0, "INFO replication").await;
    assert!(info.contains("role:master"), "{info}");
}

/// Waiting does not make a password right.
async fn refused_at_once(watched: &Watched) {
    let wrong = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(wrong.path(), "wrong").unwrap();
    let password = || Some(SecretRef::File(wrong.path().to_owned()));
    let cases = [
        (RedisConfig { sentinel_password: password(), ..watched.config() }, "`sentinel_password`"),
        (RedisConfig { sentinel_password: None, ..watched.config() }, "`sentinel_password`"),
        (RedisConfig { password: password(), ..watched.config() }, "Check `password`"),
    ];
    for (mut config, hint) in cases {
        // A Sentinel that does not answer is waited for: it may be the one that lets us in.
        config.sentinels.remove(0);
        let heard = Arc::new(Recorder::default());
        let reading = read_all(source(config, heard.clone()));
        // One minute is what a failover is given.
        let failure = tokio::time::timeout(std::time::Duration::from_secs(50), reading).await.unwrap();
        let failure = super::failed(failure);
        assert_eq!(failure.exit(), ExitCode::SourceDown);
        assert!(failure.hints().iter().any(|told| told.contains(hint)), "{failure:?}");
        assert_eq!(heard.warnings(), Vec::<String>::new(), "nobody is asked once more");
    }
}

/// The replica that is read becomes the primary: what it had sent is thrown away, and all is read from one server.
async fn promoted_in_the_middle(watched: &Watched, config: &RedisConfig) {
    let whole = read(config).await;
    // Longer than Sentinels take for it on a busy machine; the dump ends with the promotion.
    let () = watched.replica.say(0, "CONFIG SET rdb-key-save-delay 10000").await;
    let heard = Arc::new(Recorder::default());
    let reading = tokio::spawn(read_all(source(config.clone(), heard.clone())));
    watched.replica.until("persistence", "rdb_bgsave_in_progress:1").await;
    let () = watched.replica.say(0, "CONFIG SET rdb-key-save-delay 0").await;
    watched.change_roles().await;
    let reading = reading.await.unwrap().unwrap();
    let warnings = heard.warnings();
    assert!(warnings.iter().any(|text| text.contains("asked once more")), "{warnings:?}");
    let (at, role) = node(&reading);
    let is_new = at == format!("{}:6379", watched.replica.address());
    assert!(!is_new || role == "primary", "{:?}", reading.point);
    let digest = |reading: &Reading| reading.entries["dump.rdb"].trailer["digest"].clone();
    assert_eq!(digest(&reading), digest(&whole));
    // Until the old primary is told, it is one: its history is the old one then, and the new one in all other cases.
    let is_old_history = reading.point.marks["replid"] == whole.point.marks["replid"];
    assert_eq!(is_old_history, !is_new && role == "primary", "{:?}", reading.point);
}

/// Returns a hash tag whose slot the node has.
async fn tag_of(lab: &Lab, (first, last): (u16, u16)) -> String {
    for number in 0..10_000 {
        let tag = format!("{{{number}}}");
        let slot: u16 = lab.say(0, &format!("CLUSTER KEYSLOT {tag}")).await;
        if (first..=last).contains(&slot) {
            return tag;
        }
    }
    panic!("no tag is in {first}-{last}");
}

async fn fill(cluster: &Cluster) {
    for (node, slots) in cluster.nodes.iter().zip([(0, 5460), (5461, 10_922), (10_923, 16_383)]) {
        let tag = tag_of(node, slots).await;
        let mut pipe = redis::pipe();
        for number in 0..100 {
            pipe.cmd("SET").arg(format!("{tag}k:{number}")).arg(number).ignore();
        }
        pipe.cmd("HSET").arg(format!("{tag}hash")).arg("f").arg("v").ignore();
        pipe.cmd("SET").arg(format!("{tag}ttl")).arg("x").arg("EX").arg(86_400).ignore();
        let library = "#!lua name=mylib\nredis.register_function('f', function() return 7 end)";
        pipe.cmd("FUNCTION").arg("LOAD").arg(library).ignore();
        pipe.query_async::<()>(&mut node.connect(0).await).await.unwrap();
    }
}

fn dumps(reading: &Reading) -> Vec<&str> {
    reading.entries.keys().map(String::as_str).filter(|path| path.starts_with("dump")).collect()
}

fn problems(reading: &Reading) -> Vec<(&str, &str)> {
    reading.problems.iter().map(|problem| (problem.what.as_str(), problem.why.as_str())).collect()
}

/// Does something once, when the second shard is about to be read.
struct AtSecondShard(Mutex<u8>, Box<dyn Fn() + Send + Sync>, Recorder);

impl Monitor for AtSecondShard {
    fn event(&self, event: Event) {
        if matches!(&event, Event::Step { what, .. } if what.starts_with("reading the")) {
            let mut count = self.0.lock().unwrap();
            *count += 1;
            if *count == 2 {
                (self.1)();
            }
        }
        self.2.event(event);
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_cluster_is_read_whole_and_what_moves_meanwhile_is_told() {
    let cluster = Cluster::start(7).await;
    fill(&cluster).await;
    for node in &cluster.nodes {
        let () = node.say(0, "CONFIG SET repl-diskless-sync-delay 0").await;
    }
    let one = cluster.config();
    // The first node that is asked does not answer; the second knows the others.
    let nodes = vec![one.url.clone()];
    let config = RedisConfig { url: "redis://127.0.0.1:1".to_owned(), cluster: true, nodes, ..one.clone() };

    let reading = read(&config).await;
    assert_eq!(problems(&reading), []);
    assert_eq!(dumps(&reading), ["dump-00000.rdb", "dump-05461.rdb", "dump-10923.rdb"]);
    let trailer = &reading.entries["dump-05461.rdb"].trailer;
    assert_eq!(trailer["slots"], json!([[5461, 10_922]]));
    assert_eq!(trailer["node"], json!(format!("{}:6379", cluster.nodes[1].address())));
    assert_eq!(trailer["keys"]["0"], json!({"hash": 1, "string": 101}));
    assert!(reading.entries.keys().any(|path| path.as_str() == "cluster.json"));
    assert_eq!(reading.point.marks["shards"], "3");
    assert!(*reading.point.marks["window_end"] >= reading.point.at.to_rfc3339()[..19]);
    assert_eq!(topology(&config).await.0, Status::Ok);

    // By itself a node is a part, and says so.
    let reading = read(&one).await;
    assert_eq!((dumps(&reading), problems(&reading)[0].0), (vec!["dump.rdb"], "cluster"));
    assert_eq!(topology(&one).await.0, Status::Warn);

    // All shards go into one server that stands for itself.
    let to = Lab::start(7).await;
    pipe(source(config.clone(), NoMonitor::shared()), to.target(), ALL(false)).await.unwrap();
    assert_eq!(to.sizes().await, [(0, 306)]);
    let seven: i64 = to.say(0, "FCALL f 0").await;
    assert_eq!(seven, 7);
    let tag = tag_of(&cluster.nodes[1], (5461, 10_922)).await;
    let ttl: i64 = to.say(0, &format!("TTL {tag}ttl")).await;
    assert!((86_000..=86_400).contains(&ttl), "{ttl}");

    moved(&cluster, &config).await;
    a_node_is_down(cluster, &config).await;
}

/// A slot changes its node while the second shard is read: all is read again. One that stays on its way is told.
async fn moved(cluster: &Cluster, config: &RedisConfig) {
    let id = cluster.id(1).await;
    let nodes: Vec<_> = cluster.nodes.iter().map(Lab::client).collect();
    let give = move || nodes.iter().for_each(|node| node(&["CLUSTER", "SETSLOT", "1", "NODE", &id]));
    let heard = Arc::new(AtSecondShard(Mutex::new(0), Box::new(give), Recorder::default()));
    let reading = read_all(source(config.clone(), heard.clone())).await.unwrap();
    assert_eq!(problems(&reading), []);
    let warnings = heard.2.warnings();
    assert!(warnings.iter().any(|text| text.contains("read once more")), "{warnings:?}");
    assert_eq!(dumps(&reading), ["dump-00000.rdb", "dump-00001.rdb", "dump-10923.rdb"]);

    let to = cluster.id(2).await;
    let () = cluster.nodes[0].say(0, &format!("CLUSTER SETSLOT 2 MIGRATING {to}")).await;
    let reading = read(config).await;
    assert_eq!(problems(&reading)[0].0, "cluster");
    assert!(problems(&reading)[0].1.contains(&format!("[2->-{to}]")), "{:?}", problems(&reading));
    assert_eq!(topology(config).await.0, Status::Warn);
    let () = cluster.nodes[0].say(0, "CLUSTER SETSLOT 2 STABLE").await;
}

/// A shard that cannot be read does not cost the others.
async fn a_node_is_down(cluster: Cluster, config: &RedisConfig) {
    cluster.nodes[2].kill();
    let reading = read(config).await;
    assert_eq!(dumps(&reading), ["dump-00000.rdb", "dump-00001.rdb"]);
    assert_eq!(problems(&reading)[0].0, "slots 10923-16383");
    assert_eq!(topology(config).await.0, Status::Broken);
}

fn mark<'a>(reading: &'a Reading, dump: &str, name: &str) -> &'a str {
    reading.entries[dump].trailer[name].as_str().unwrap()
}

/// Returns the digests of all dumps.
fn digests(reading: &Reading) -> Vec<&serde_json::Value> {
    dumps(reading).iter().map(|dump| &reading.entries[*dump].trailer["digest"]).collect()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn replicas_of_a_cluster_are_read_and_a_failover_meanwhile_is_followed() {
    const SHARD: &str = "dump-00000.rdb";
    let cluster = Cluster::start(7).await;
    fill(&cluster).await;
    let replica = cluster.follow(0).await;
    let address = |lab: &Lab| format!("{}:6379", lab.address());
    let (first, second) = (address(&cluster.nodes[0]), address(&replica));
    let config = RedisConfig { cluster: true, ..cluster.config() };
    let whole = read(&config).await;
    assert_eq!(problems(&whole), []);
    assert_eq!((mark(&whole, SHARD, "node"), mark(&whole, SHARD, "role")), (second.as_str(), "replica"));
    assert_eq!(mark(&whole, "dump-05461.rdb", "role"), "primary");

    // The replica that is read becomes the primary.
    let () = replica.say(0, "CONFIG SET rdb-key-save-delay 20000").await;
    let heard = Arc::new(Recorder::default());
    let reading = tokio::spawn(read_all(source(config.clone(), heard.clone())));
    replica.until("persistence", "rdb_bgsave_in_progress:1").await;
    let () = replica.say(0, "CONFIG SET rdb-key-save-delay 0").await;
    let () = replica.say(0, "CLUSTER FAILOVER").await;
    replica.until("replication", "role:master").await;
    let reading = reading.await.unwrap().unwrap();
    assert_eq!((problems(&reading), digests(&reading)), (vec![], digests(&whole)));
    let role = if mark(&reading, SHARD, "node") == second { "primary" } else { "replica" };
    assert_eq!(mark(&reading, SHARD, "role"), role);
    assert_ne!(mark(&reading, SHARD, "replid"), mark(&whole, SHARD, "replid"));
    let warnings = heard.warnings();
    assert!(warnings.iter().any(|text| text.contains("read once more")), "{warnings:?}");
    cluster.nodes[0].until("replication", "master_link_status:up").await;

    // The primary dies while it is read; it was the only node that the policy names.
    let url = format!("redis://{second}");
    let config = RedisConfig { url, prefer: Prefer::Primary, ..config };
    let () = replica.say(0, "CONFIG SET rdb-key-save-delay 20000").await;
    let heard = Arc::new(Recorder::default());
    let reading = tokio::spawn(read_all(source(config, heard.clone())));
    replica.until("persistence", "rdb_bgsave_in_progress:1").await;
    replica.kill();
    let reading = reading.await.unwrap().unwrap();
    assert_eq!((problems(&reading), digests(&reading)), (vec![], digests(&whole)));
    assert_eq!((mark(&reading, SHARD, "node"), mark(&reading, SHARD, "role")), (first.as_str(), "primary"));
    let warnings = heard.warnings();
    assert!(warnings.iter().any(|text| text.contains("is asked for once more")), "{warnings:?}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_cluster_behind_certificates_is_read_and_restored() {
    let (network, folder) = (Network::make(), tempfile::tempdir().unwrap());
    let names: Vec<String> = network.addresses().iter().map(|address| format!("IP:{address}")).collect();
    super::redis_pull::make_certificates(folder.path(), &names.join(","));
    let share = format!("{}:/shared", folder.path().display());
    let settings = "--tls-port 6380 --tls-cluster yes --tls-replication yes --tls-cert-file /shared/server.pem \
                    --tls-key-file /shared/server.key --tls-ca-cert-file /shared/authority.pem";
    let settings: Vec<&str> = settings.split_whitespace().collect();
    let cluster = Cluster::start_in(7, network, &["-v", &share], &settings).await;
    fill(&cluster).await;
    let at = |name: &str| Some(folder.path().join(name));
    let config = RedisConfig {
        url: format!("rediss://{}:6380", cluster.nodes[0].address()),
        cluster: true,
        ca_file: at("authority.pem"),
        cert_file: at("server.pem"),
        key_file: at("server.key"),
        ..cluster.config()
    };
    let reading = read(&config).await;
    assert_eq!((problems(&reading), dumps(&reading).len()), (vec![], 3));
    let node = format!("{}:6380", cluster.nodes[1].address());
    assert_eq!(mark(&reading, "dump-05461.rdb", "node"), node, "by its encrypted port");
    assert_eq!(topology(&config).await.0, Status::Ok);

    let between = Lab::start(7).await;
    pipe(source(config.clone(), NoMonitor::shared()), between.target(), ALL(false)).await.unwrap();
    for node in &cluster.nodes {
        let () = node.say(0, "FLUSHALL").await;
        let () = node.say(0, "FUNCTION FLUSH").await;
    }
    let target = RedisTarget::new(name(), config.clone(), Ground::system(), NoMonitor::shared());
    let tally = pipe(between.source(), Box::new(target), ALL(false)).await.unwrap();
    assert_eq!(tally.verified, Verified::Digests);
    assert_eq!(digests(&read(&config).await), digests(&reading));

    // Nobody is believed without the authority, and nobody is asked again for it.
    let stranger = RedisConfig { ca_file: None, ..config };
    let failure = super::failed(read_all(source(stranger, NoMonitor::shared())).await);
    assert!(failure.hints().iter().any(|hint| hint.contains("ca_file")), "{failure:?}");
}

/// Starts a cluster of one primary that has all slots.
async fn alone(image: &str, settings: &[&str]) -> (Lab, RedisConfig) {
    let settings = [&["--requirepass", PASSWORD, "--cluster-enabled", "yes"], settings].concat();
    let lab = Lab::start_image(image, None, &settings).await;
    let () = lab.say(0, "CLUSTER ADDSLOTSRANGE 0 16383").await;
    lab.until_clustered().await;
    let url = format!("redis://{}:6379", lab.address());
    let config = RedisConfig { url, cluster: true, ..lab.config() };
    (lab, config)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn databases_of_a_valkey_cluster_come_back_and_go_nowhere_else() {
    let many = ["--cluster-databases", "16"];
    let ((from, config), (to, into), (few, narrow)) =
        tokio::join!(alone("valkey9", &many), alone("valkey9", &many), alone("valkey9", &[]));
    for (db, count) in [(0, 20), (3, 30), (15, 1)] {
        for number in 0..count {
            let () = from.say(db, &format!("SET k:{number} in-{db} EX 90000")).await;
        }
    }
    let reading = read(&config).await;
    assert_eq!(problems(&reading), []);
    assert_eq!(
        reading.entries["dump-00000.rdb"].trailer["keys"],
        json!({"0": {"string": 20}, "3": {"string": 30}, "15": {"string": 1}})
    );
    let target = |config| Box::new(RedisTarget::new(name(), config, Ground::system(), NoMonitor::shared()));
    let piped = |into| pipe(source(config.clone(), NoMonitor::shared()), target(into), ALL(false));
    let tally = piped(into.clone()).await.unwrap();
    assert_eq!(tally.verified, Verified::Digests);
    assert_eq!(digests(&read(&into).await), digests(&reading));
    assert_eq!(to.say::<String>(15, "GET k:0").await, "in-15");

    let failure = super::failed(piped(narrow).await);
    assert!(failure.one_line().contains("database"), "{failure:?}");
    assert_eq!(few.say::<u64>(0, "DBSIZE").await, 0, "nothing was written");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_drill_makes_one_server_of_a_cluster() {
    let cluster = Cluster::start(7).await;
    fill(&cluster).await;
    let stage = Stage::new();
    let url = cluster.config().url;
    stage.secret("redis", PASSWORD);
    let image = std::env::var("REDIS7_IMAGE").unwrap_or_else(|_| "lifeboat-redis7:latest".to_owned());
    stage.append(&format!(
        "[[source]]\nname = \"redis\"\nkind = \"redis\"\nurl = \"{url}\"\ncluster = true\n\
         password = {{ file = \"{}\" }}\n[drill]\nmemory_mib = 512\n[drill.images]\nredis = \"{image}\"\n",
        stage.at("secrets/redis")
    ));
    stage.run(&["backup"]).ends(0);
    let drilled = stage.run(&["--json", "drill"]).ends(0).json();
    assert_eq!(drilled["passed"], true, "{drilled:#}");
    let all = drilled["assertions"].as_array().unwrap();
    let contents = all.iter().find(|one| one["kind"] == "contents").unwrap();
    assert_eq!(contents["result"], "held", "{drilled:#}");
    // One key fewer in what was stored would be seen: the drill knows how many there are.
    assert!(contents["detail"].as_str().unwrap().contains("306"), "{contents:#}");
    stage.run(&["verify"]).ends(0);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_cluster_of_one_primary_is_complete_either_way() {
    let (lab, config) = alone("redis7", &[]).await;
    let () = lab.say(0, "SET key value").await;
    let plain = read(&lab.config()).await;
    assert_eq!((problems(&plain), dumps(&plain)), (vec![], vec!["dump.rdb"]));
    assert_eq!(topology(&lab.config()).await.0, Status::Ok);
    // It never met another node and does not know its own address; its port there is not the one that is published.
    let whole = read(&config).await;
    assert_eq!((problems(&whole), dumps(&whole)), (vec![], vec!["dump-00000.rdb"]));
    assert_eq!(
        whole.entries["dump-00000.rdb"].trailer["digest"],
        plain.entries["dump.rdb"].trailer["digest"]
    );
}
