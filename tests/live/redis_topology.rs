//! Sentinels and clusters: the right server is read, and of a cluster everything.

use std::sync::{Arc, Mutex};

use lifeboat::{
    clock::Ground,
    event::{Event, Monitor, NoMonitor, Recorder, SharedMonitor},
    finding::Status,
    flow::{
        Source, Verified,
        conformance::{Reading, read_all},
        pipe,
    },
    policy::{Prefer, RedisConfig},
    redis::{RedisSource, RedisTarget, examine::examine},
};
use serde_json::json;

use super::{
    ALL,
    redis_lab::{Cluster, Lab, PASSWORD, name, sentinels::Watched},
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

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_cluster_of_one_primary_is_complete_either_way() {
    let lab = Lab::start_with(
        7,
        &["--requirepass", PASSWORD, "--cluster-enabled", "yes", "--repl-diskless-sync-delay", "0"],
    )
    .await;
    let () = lab.say(0, "CLUSTER ADDSLOTSRANGE 0 16383").await;
    while !lab.say::<String>(0, "CLUSTER INFO").await.contains("cluster_state:ok") {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let () = lab.say(0, "SET key value").await;
    let plain = read(&lab.config()).await;
    assert_eq!((problems(&plain), dumps(&plain)), (vec![], vec!["dump.rdb"]));
    assert_eq!(topology(&lab.config()).await.0, Status::Ok);
    // It never met another node and does not know its own address; its port there is not the one that is published.
    let config =
        RedisConfig { url: format!("redis://{}:6379", lab.address()), cluster: true, ..lab.config() };
    let whole = read(&config).await;
    assert_eq!((problems(&whole), dumps(&whole)), (vec![], vec!["dump-00000.rdb"]));
    assert_eq!(
        whole.entries["dump-00000.rdb"].trailer["digest"],
        plain.entries["dump.rdb"].trailer["digest"]
    );
}
