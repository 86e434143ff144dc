//! What a restore replaces can be had back: copies of clusters, the command that loads a copy, a program that is
//! killed in the middle; and when what came back expires.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use chrono::TimeDelta;
use lifeboat::{
    clock::{Clock as _, Ground, System},
    event::{Event, Monitor, NoMonitor},
    flow::{
        EntryMeta, FlowError, Point, STREAM_DEPTH, Selection, Stage as Step, Tally, Verified, WriteOptions,
        channel, fixed_path, settle,
    },
    policy::RedisConfig,
    redis::{RedisTarget, Ttl},
};
use rustix::process::Signal;

use super::{
    ALL, dump_of, failed,
    redis_lab::{Cluster, Lab, PASSWORD, name},
    redis_restore::{SLOW, give, house, target},
    replication_settings, role,
    stage::{STACK, Stage, send},
};

/// Makes a node full while it is filled for the first time, and gives it room again when it is filled with what it
/// held.
struct Fills<F: Fn(&[&str]) + Send + Sync> {
    client: F,
    done: AtomicBool,
}

impl<F: Fn(&[&str]) + Send + Sync> Monitor for Fills<F> {
    fn event(&self, event: Event) {
        let Event::Step { what, .. } = event else { return };
        if what.starts_with("restoring") && !self.done.swap(true, Ordering::SeqCst) {
            (self.client)(&["CONFIG", "SET", "maxmemory", "1"]);
        }
        if what.starts_with("putting back") {
            (self.client)(&["CONFIG", "SET", "maxmemory", "0"]);
        }
    }
}

async fn fill(lab: &Lab, word: &str) -> Vec<u8> {
    let mut pipe = redis::pipe();
    pipe.cmd("FLUSHALL").ignore();
    for nth in 0..600 {
        pipe.cmd("SET").arg(format!("u:{nth}")).arg(format!("{word} {nth}")).ignore();
    }
    pipe.cmd("SET").arg(format!("only:{word}")).arg(word).arg("EX").arg(90_000).ignore();
    pipe.query_async::<()>(&mut lab.connect(0).await).await.unwrap();
    dump_of(lab).await
}

/// Returns the keys of a cluster and what one of each node holds.
async fn held(cluster: &Cluster) -> (u64, Vec<String>) {
    let (mut keys, mut values) = (0, Vec::new());
    for node in &cluster.nodes {
        keys += node.say::<u64>(0, "DBSIZE").await;
    }
    for key in ["u:1", "u:2", "u:3", "u:4", "u:5", "u:6"] {
        let slot: u16 = cluster.nodes[0].say(0, &format!("CLUSTER KEYSLOT {key}")).await;
        let node = usize::from(slot > 5460) + usize::from(slot > 10_922);
        values.push(cluster.nodes[node].say(0, &format!("GET {key}")).await);
    }
    (keys, values)
}

/// Returns the rights that the guide gives to an account for restores.
fn documented_rights() -> String {
    let guide = include_str!("../../docs/redis.md");
    let (_, after) = guide.split_once("ACL SETUSER lifeboat-restore on >PASSWORD ").unwrap();
    let (rights, _) = after.split_once("```").unwrap();
    rights.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A cluster whose filling breaks off holds what it held; and the documented rights are enough for all of it.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn what_a_cluster_held_is_copied_from_every_shard_and_put_back_by_slot() {
    let (from, cluster) = (Lab::start(7).await, Cluster::start(7).await);
    let (old, new) = (fill(&from, "old").await, fill(&from, "new").await);
    let house = house();
    give(target(cluster.config(), Some(&house.home), NoMonitor::shared()), &old, ALL(false)).await.unwrap();
    let before = held(&cluster).await;
    assert_eq!((before.0, before.1[0].as_str(), house.copies().len()), (601, "old 1", 0));

    let monitor = Arc::new(Fills { client: cluster.nodes[1].client(), done: AtomicBool::new(false) });
    let filling = target(cluster.config(), Some(&house.home), monitor);
    let failure = failed(give(filling, &new, ALL(true)).await);
    let hints = failure.hints().join(" ");
    assert!(hints.contains("was put back") && hints.contains("lifeboat restore --safety"), "{failure:?}");
    assert_eq!(held(&cluster).await, before);
    assert_eq!(house.copies().len(), 1);

    let rights = format!("{} +cluster|shards +cluster|info +cluster|nodes", documented_rights());
    let mut config = cluster.config();
    for node in &cluster.nodes {
        config = RedisConfig { url: config.url, ..node.as_user("restorer", &rights).await };
    }
    let tally = give(target(config, Some(&house.home), NoMonitor::shared()), &new, ALL(true)).await.unwrap();
    assert_eq!(tally.verified, Verified::Digests, "{:?}", tally.notes);
    let after = held(&cluster).await;
    assert_eq!((after.0, after.1[0].as_str(), house.copies().len()), (601, "new 1", 2));
    assert!(tally.notes.iter().any(|note| note.contains("safety/redis-")), "{:?}", tally.notes);
}

/// The account of the guide can do all that a restore into one server does, either way.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn the_documented_account_restores_both_ways() {
    let (from, to) = (Lab::start(8).await, Lab::start(8).await);
    from.fill(8).await;
    let _: () = to.say(2, "SET old data").await;
    let (house, dump) = (house(), dump_of(&from).await);
    let restorer = to.as_user("restorer", &documented_rights()).await;
    let config = RedisConfig { advertise: Some(to.gateway()), ..restorer };
    let giving =
        |options| give(target(config.clone(), Some(&house.home), NoMonitor::shared()), &dump, options);
    let tally = giving(ALL(true)).await.unwrap();
    assert_eq!((tally.verified, to.sizes().await), (Verified::Digests, from.sizes().await));
    let only = Selection::new(&["*".to_owned()]).unwrap();
    let tally = giving(WriteOptions { only, ..ALL(true) }).await.unwrap();
    assert_eq!((tally.verified, to.sizes().await), (Verified::Digests, from.sizes().await));
    // One database, emptied.
    let _: () = to.say(3, "SET old data").await;
    let one = target(config.clone(), Some(&house.home), NoMonitor::shared());
    let one = one.into_database(Some(3)).from_copy(Some("copy".into()));
    let tally = give(Box::new(one), &dump, ALL(true)).await.unwrap();
    assert_eq!((tally.verified, to.sizes().await), (Verified::Digests, from.sizes().await));
}

/// Restores a dump of an hour ago.
async fn an_hour_later(to: &Lab, ttl: Ttl, dump: &[u8], options: WriteOptions) -> Result<Tally, FlowError> {
    let target = RedisTarget::new(name(), to.config(), Ground::system(), NoMonitor::shared()).expiring(ttl);
    let (sink, stream) = channel(STREAM_DEPTH);
    let dump = dump.to_vec();
    let send = async move {
        sink.announce(vec!["dump".into()]).await?;
        sink.put(EntryMeta::new(fixed_path("dump.rdb"), Step::Data, "dump"), dump).await?;
        sink.complete("dump");
        sink.finish(Point::at(System.now() - TimeDelta::hours(1))).await
    };
    let (read, written) =
        tokio::join!(send, lifeboat::flow::Target::write(Box::new(target), options, stream));
    settle(read, written).map(|((), tally)| tally)
}

/// R21: what a key, or a field of a hash, had left is what it has left, or nothing expires; read back by the same rule.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn keys_and_fields_expire_by_the_rule_that_was_chosen_either_way() {
    let (redis, valkey) = tokio::join!(Lab::start(8), Lab::valkey());
    for lab in [&redis, &valkey] {
        for line in [
            "SET stays 1",
            "SET expires 2 EX 10000",
            "HSET hash a 1 b 2",
            "HEXPIRE hash 10000 FIELDS 1 a",
            "HSET large z 1",
            "HEXPIRE large 10000 FIELDS 1 z",
        ] {
            let _: redis::Value = lab.say(0, line).await;
        }
        for nth in 0..600 {
            let _: () = lab.say(0, &format!("HSET large f{nth} {nth}")).await;
        }
        let dump = dump_of(lab).await;
        let only = || WriteOptions { only: Selection::new(&["*".to_owned()]).unwrap(), ..ALL(true) };
        for (ttl, least, most) in
            [(Ttl::Keep, 9000, 10_000), (Ttl::Shift, 13_000, 13_600), (Ttl::Drop, -1, -1)]
        {
            for options in [ALL(true), only()] {
                let tally = an_hour_later(lab, ttl, &dump, options).await.unwrap();
                assert_eq!(tally.verified, Verified::Digests, "{ttl:?}");
                let key: i64 = lab.say(0, "TTL expires").await;
                let small: Vec<i64> = lab.say(0, "HTTL hash FIELDS 2 a b").await;
                let large: Vec<i64> = lab.say(0, "HTTL large FIELDS 2 z f7").await;
                for left in [key, small[0], large[0]] {
                    assert!((least..=most).contains(&left), "{ttl:?}: {left}");
                }
                assert_eq!((small[1], large[1]), (-1, -1));
                let count: (u64, u64, i64) = (
                    lab.say(0, "DBSIZE").await,
                    lab.say(0, "HLEN large").await,
                    lab.say(0, "TTL stays").await,
                );
                assert_eq!(count, (4, 601, -1));
            }
        }
    }
}

/// Makes a stack whose one source is this server.
fn stack(lab: &Lab) -> Stage {
    let stage = Stage::new();
    let port = lab.config().url.rsplit(':').next().unwrap().parse().unwrap();
    stage.add_redis(port, PASSWORD);
    stage
}

const YES: [&str; 4] = ["--source", "redis", "--yes", STACK];

/// What a restore replaced is found again by the words that it says, and comes back.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_safety_copy_is_listed_planned_and_loaded_by_the_program() {
    let lab = Lab::start(7).await;
    let stage = stack(&lab);
    let _: () = lab.say(0, "SET k first").await;
    let _: () = lab.say(3, "SET other first").await;
    stage.run(&["backup"]).ends(0);
    let _: () = lab.say(0, "SET k second").await;
    let _: () = lab.say(9, "SET more second").await;
    stage.run(&["restore", "--safety"]).ends(0).says("No copies");

    // Keys of two databases do not go into one, and the plan says so.
    let into = ["restore", "latest", "--source", "redis", "--into", "db=5"];
    stage
        .run(&[&into[..], &["--plan"]].concat())
        .ends(0)
        .says("NOT POSSIBLE: database 5: keys of databases 0, 3");
    stage.run(&[&into[..], &["--yes", STACK]].concat()).ends(1).tells("do not go into one together");
    let into = ["restore", "latest", "--into", "redis=3", "--plan"];
    stage.run(&[&into[..], &["--source", "redis"]].concat()).ends(2);
    let into = ["restore", "latest", "--into", "redis=db=5", "--only", "k"];
    stage.run(&[&into[..], &YES].concat()).ends(0);
    assert_eq!(lab.say::<String>(5, "GET k").await, "first");

    let restored = stage.run(&[&["restore", "latest", "--replace"], &YES[..]].concat()).ends(0);
    let json = stage.run(&["restore", "--safety", "--json"]).ends(0).json();
    let file = json["copies"][0]["file"].as_str().unwrap();
    assert!(restored.out.contains(file), "{}", restored.out);
    assert_eq!(lab.sizes().await, [(0, 1), (3, 1)]);
    stage.run(&["restore", "--safety"]).ends(0).says(file);
    stage.run(&["doctor", "redis"]).says("copies");

    let load = ["restore", "--safety", file];
    stage.run(&[&load[..], &["--plan"]].concat()).ends(0).says("db 9: 1").says("in the way");
    stage.run(&["restore", "--safety", "/no/such", "--yes", STACK]).ends(2).tells(file);
    stage.run(&["restore", "--safety", file, "latest"]).ends(2);
    stage.run(&[&load[..], &["--yes", STACK]].concat()).ends(21).tells("--replace");
    assert_eq!(lab.say::<String>(0, "GET k").await, "first", "nothing was touched so far");

    // One database of it, beside the others; then all.
    let one = ["--into", "db=9", "--yes", STACK];
    stage.run(&[&load[..], &one].concat()).ends(0);
    assert_eq!(lab.sizes().await, [(0, 1), (3, 1), (9, 1)]);
    let json = stage.run(&[&load[..], &["--replace", "--yes", STACK, "--json"]].concat()).ends(0).json();
    assert_eq!(json["restored"][0]["verified"], "digests", "{json}");
    assert_eq!(lab.sizes().await, [(0, 1), (3, 1), (5, 1), (9, 1)]);
    assert_eq!(lab.say::<String>(0, "GET k").await, "second");

    // A copy that is damaged touches nothing.
    let mut bytes = std::fs::read(file).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(file, bytes).unwrap();
    stage.run(&[&load[..], &["--replace", "--yes", STACK]].concat()).ends(40);
    assert_eq!(lab.say::<String>(0, "GET k").await, "second");
}

/// A copy goes back to where it was taken, whether the restore went to another server or into one database; and each
/// place has copies of its own.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_copy_that_was_taken_elsewhere_is_loaded_there_by_the_command_that_is_told() {
    let (own, other) = tokio::join!(Lab::start(7), Lab::start(7));
    let stage = stack(&own);
    let _: () = own.say(0, "SET k first").await;
    stage.run(&["backup"]).ends(0);
    let _: () = own.say(0, "SET k second").await;
    let _: () = own.say(3, "SET mine 3").await;
    let _: () = other.say(0, "SET k theirs").await;
    let _: () = other.say(5, "SET more theirs").await;
    let restore = |into: Option<&str>| {
        let into = into.map(|into| vec!["--into", into]).unwrap_or_default();
        stage.run(&[&["restore", "latest", "--replace"], &into[..], &YES].concat()).ends(0)
    };
    // The newest copy of a place.
    let newest = |into: Option<&str>| {
        let json = stage.run(&["restore", "--safety", "--json"]).ends(0).json();
        let copies = json["copies"].as_array().unwrap();
        let copy = copies.iter().find(|copy| copy["into"].as_str() == into).unwrap();
        let text = |name: &str| copy[name].as_str().unwrap().to_owned();
        (text("file"), text("command"))
    };
    let load = |command: &str| {
        let words: Vec<&str> = command.split(' ').skip(1).chain(["--yes", STACK]).collect();
        stage.run(&words).ends(0)
    };

    let there = other.config().url;
    let restored = restore(Some(&format!("redis={there}")));
    let (file, command) = newest(Some(&there));
    assert!(restored.out.contains(&file) && file.contains("/redis@127.0.0.1:"), "{file}");
    assert_eq!(command, format!("lifeboat restore --safety {file} --into redis={there} --replace"));
    stage.run(&["restore", "--safety"]).ends(0).says(&command).says(&there);
    stage.run(&["doctor", "redis"]).says(&command);
    assert_eq!(other.say::<String>(0, "GET k").await, "first");
    load(&command);
    assert_eq!(other.sizes().await, [(0, 1), (5, 1)]);
    assert_eq!(other.say::<String>(0, "GET k").await, "theirs");
    // Also where nothing is said, and whatever the file is called.
    restore(Some(&format!("redis={there}/")));
    let renamed = stage.at("renamed");
    std::fs::copy(&file, &renamed).unwrap();
    stage.run(&["restore", "--safety", &renamed, "--source", "redis", "--plan"]).ends(0).says(&there);
    load(&format!("lifeboat restore --safety {renamed} --source redis --replace"));
    assert_eq!(other.say::<String>(0, "GET k").await, "theirs");
    assert_eq!(own.say::<String>(0, "GET k").await, "second", "the source's own server was not touched");

    // One database: what stands in the others stays as it is now.
    restore(Some("redis=db=3"));
    let (_, command) = newest(Some("db=3"));
    assert_eq!(own.say::<String>(3, "GET k").await, "first");
    assert!(command.contains(" --into redis=db=3 "), "{command}");
    let _: () = own.say(0, "SET k third").await;
    load(&command);
    assert_eq!(own.sizes().await, [(0, 1), (3, 1)]);
    assert_eq!(own.say::<String>(3, "GET mine").await, "3");
    assert_eq!(own.say::<String>(0, "GET k").await, "third");

    // The source's own server, which is another by now: nobody but a person can say which is meant.
    restore(None);
    let (file, command) = newest(None);
    assert!(!command.contains("--into"), "{command}");
    let (here, policy) = (own.config().url, stage.read("lifeboat.toml"));
    stage.edit(|_| policy.replace(&here, &there));
    let load_it = ["restore", "--safety", file.as_str(), "--replace", "--yes", STACK];
    stage.run(&load_it).ends(2).tells("the copy was taken at").tells(&format!("--into redis={here}"));
    assert_eq!(other.say::<String>(0, "GET k").await, "theirs");
    let said = format!("redis={here}");
    stage.run(&[&load_it[..], &["--into", &said]].concat()).ends(0);
    assert_eq!(own.say::<String>(0, "GET k").await, "third");
}

/// The program itself is killed or told to end while the server follows it: nothing is lost, and what it left is
/// cleared away by whoever comes next.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_program_that_is_killed_or_stopped_in_the_middle_loses_nothing() {
    let lab = Lab::start(7).await;
    let stage = stack(&lab);
    for nth in 0..24 {
        let mut value = vec![0; 1 << 20];
        lifeboat::clock::Dice::fill(&System, &mut value);
        let _: () = lab.run(0, &[b"SET", format!("large:{nth}").as_bytes(), &value]).await;
    }
    stage.run(&["backup"]).ends(0);
    let _: () = lab.say(0, "FLUSHALL").await;
    let _: () = lab.say(0, "SET old data").await;
    let before = replication_settings(&lab).await;
    let restore = [&["restore", "latest", "--replace"], &YES[..]].concat();

    let end = async |signal: Signal| {
        // It takes the dump at a crawl.
        lab.limit_cpus(SLOW);
        let mut child = stage.start(&restore);
        lab.until("replication", "role:slave").await;
        assert!(child.try_wait().unwrap().is_none(), "it must be in the middle");
        send(&child, signal);
        let ended = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap();
        lab.limit_cpus("2");
        ended
    };
    for signal in [Signal::TERM, Signal::INT] {
        let ended = end(signal).await;
        assert_eq!(ended.status.code(), Some(130), "{}", String::from_utf8_lossy(&ended.stderr));
        assert_eq!(lab.say::<String>(0, "GET old").await, "data");
        assert_eq!((role(&lab).await.as_str(), replication_settings(&lab).await), ("master", before.clone()));
    }
    let ended = end(Signal::KILL).await;
    assert_eq!(ended.status.code(), None);
    assert_eq!(role(&lab).await, "slave");
    let told = stage.run(&["doctor", "redis"]);
    assert!(told.out.contains("let go with the data that it had"), "{}", told.out);
    assert_eq!(lab.say::<String>(0, "GET old").await, "data");
    assert_eq!((role(&lab).await.as_str(), replication_settings(&lab).await), ("master", before.clone()));

    // The next restore does the same, and goes on.
    end(Signal::KILL).await;
    stage.run(&restore).ends(0).says("was killed before");
    assert_eq!(lab.sizes().await, [(0, 24)]);
    assert_eq!((role(&lab).await.as_str(), replication_settings(&lab).await), ("master", before));
    let json = stage.run(&["restore", "--safety", "--json"]).ends(0).json();
    let copies = json["copies"].as_array().unwrap();
    assert!(!copies.is_empty() && copies.iter().all(|copy| copy["source"] == "redis"), "{json}");
}
