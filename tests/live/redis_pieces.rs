//! Restores key by key: some keys, one database, clusters, and servers that allow little.

use std::sync::Arc;

use lifeboat::{
    clock::Ground,
    error::ExitCode,
    event::NoMonitor,
    flow::{
        EntryMeta, FlowError, Point, STREAM_DEPTH, Selection, Stage, Tally, Target, Verified, WriteOptions,
        channel, fixed_path, pipe,
    },
    policy::RedisConfig,
    redis::{RedisTarget, Waived},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::{
    dump_of, failed,
    redis_lab::{Cluster, Lab, PASSWORD, name},
};

fn target(config: &RedisConfig) -> RedisTarget {
    let target = RedisTarget::new(name(), config.clone(), Ground::system(), NoMonitor::shared());
    // That what a server held is copied first has tests of its own.
    target.waiving(Waived { safety: true, ..Waived::default() })
}

/// Gives a target these bytes as a dump.
async fn feed(to: RedisTarget, dump: &[u8], options: WriteOptions) -> Result<Tally, FlowError> {
    let (sink, stream) = channel(STREAM_DEPTH);
    let dump = dump.to_vec();
    let send = async move {
        sink.announce(vec!["dump".into()]).await?;
        sink.put(EntryMeta::new(fixed_path("dump.rdb"), Stage::Data, "dump"), dump).await?;
        sink.complete("dump");
        sink.finish(Point::at(chrono::DateTime::UNIX_EPOCH)).await
    };
    let (read, written) = tokio::join!(send, Box::new(to).write(options, stream));
    lifeboat::flow::settle(read, written).map(|((), tally)| tally)
}

fn only(patterns: &[&str], replace: bool) -> WriteOptions {
    let patterns: Vec<String> = patterns.iter().map(|pattern| (*pattern).to_owned()).collect();
    WriteOptions { replace, only: Selection::new(&patterns).unwrap(), ..WriteOptions::default() }
}

fn all(replace: bool) -> WriteOptions {
    WriteOptions { replace, ..WriteOptions::default() }
}

/// Makes an ACL user of few rights and returns the settings with which it is used.
async fn user(lab: &Lab, rights: &str) -> RedisConfig {
    lab.as_user("restorer", &format!("~* +ping +info {rights}")).await
}

const ALONE: [&str; 4] = ["--requirepass", PASSWORD, "--rename-command", "REPLICAOF"];

/// Before, the server was emptied and then the first key was refused.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_right_that_is_missing_is_named_before_the_server_is_emptied() {
    let settings = [&ALONE[..], &[""]].concat();
    let (from, to) = (Lab::start(7).await, Lab::start_with(7, &settings).await);
    from.fill(7).await;
    let _: () = to.say(2, "SET old data").await;
    let dump = dump_of(&from).await;
    let enough = "+select +restore +flushall +function|restore +acl|dryrun +acl|whoami +del";
    for (missing, named) in [
        ("+select", "+select"),
        ("+restore", "+restore"),
        ("+function|restore", "+function|restore"),
        ("+flushall", "+flushall +acl|dryrun +acl|whoami"),
        ("+select +restore", "+select +restore"),
    ] {
        let rights = missing.split(' ').fold(enough.to_owned(), |rights, right| rights.replace(right, ""));
        let config = user(&to, &rights).await;
        let failure = failed(feed(target(&config), &dump, all(true)).await);
        assert_eq!(failure.exit(), ExitCode::SourceDown, "{missing}");
        assert_eq!(failure.chain()[1], format!("its user lacks {named}"), "{missing}");
        assert_eq!(to.sizes().await, [(2, 1)], "{missing}: nothing was written and nothing stayed");
    }
    // Keys of its own only, and looking before storing.
    let config = user(&to, "resetkeys ~x:* +restore +select").await;
    let failure = failed(feed(target(&config), &dump, only(&["k:1*"], false)).await);
    assert!(failure.chain()[1].contains("a pattern for the keys"), "{:?}", failure.chain());
    let config = user(&to, "+restore +select").await;
    let failure = failed(feed(target(&config), &dump, only(&["k:1*"], false)).await);
    assert_eq!(failure.chain()[1], "its user lacks +exists");
    // A server that may not be flushed, and does not say so, is emptied key by key.
    let config = user(&to, "+select +restore +function|restore +scan +unlink").await;
    let tally = feed(target(&config), &dump, all(true)).await.unwrap();
    assert_eq!(tally.verified, Verified::Counts);
    assert!(tally.notes[1].contains("+dump +pexpiretime"), "{:?}", tally.notes);
    assert_eq!(to.sizes().await, from.sizes().await);
    // The smallest set of rights for all of it, with the comparison.
    let config = user(&to, &format!("{enough} +dump +pexpiretime")).await;
    let tally = feed(target(&config), &dump, all(true)).await.unwrap();
    assert_eq!(tally.verified, Verified::Digests);
    assert_eq!(to.sizes().await, from.sizes().await);
}

/// Passes bytes on to a server; before the command that stores a key goes by, `before` is awaited. Returns its port.
pub async fn proxy<F: Future<Output = bool> + Send>(
    lab: &Lab,
    key: &'static str,
    before: impl Fn() -> F + Send + Sync + 'static,
) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, server) = (listener.local_addr().unwrap().port(), lab.published(6379).unwrap());
    let mark = format!("RESTORE\r\n${}\r\n{key}\r\n", key.len()).into_bytes();
    let before = Arc::new(before);
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let (mark, before) = (mark.clone(), before.clone());
            tokio::spawn(async move {
                let server = TcpStream::connect(("127.0.0.1", server)).await.unwrap();
                let ((mut from, mut to), (mut back, mut home)) = (client.into_split(), server.into_split());
                let answers = tokio::spawn(async move { drop(tokio::io::copy(&mut back, &mut to).await) });
                let mut bytes = vec![0; 1 << 20];
                let mut tail = Vec::new();
                while let Ok(count @ 1..) = from.read(&mut bytes).await {
                    tail.extend_from_slice(&bytes[..count]);
                    let is_it = tail.windows(mark.len()).any(|window| window == mark);
                    tail.drain(..tail.len().saturating_sub(mark.len()));
                    if is_it && !before().await {
                        break;
                    }
                    if home.write_all(&bytes[..count]).await.is_err() {
                        break;
                    }
                }
                answers.abort();
            });
        }
    });
    port
}

/// Nothing is overwritten without permission, also what was not there when it was looked for.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_key_that_comes_into_being_meanwhile_stays_and_is_named() {
    let (from, to) = (Lab::start(7).await, Arc::new(Lab::start(7).await));
    from.fill(7).await;
    let dump = dump_of(&from).await;
    let busy = Arc::clone(&to);
    let port = proxy(&to, "k:1234", move || {
        let busy = Arc::clone(&busy);
        async move {
            let _: () = busy.say(0, "SET k:1234 mine").await;
            true
        }
    })
    .await;
    let config = RedisConfig { url: format!("redis://127.0.0.1:{port}"), ..to.config() };
    let tally = feed(target(&config), &dump, only(&["k:1*"], false)).await.unwrap();
    assert_eq!(tally.left_out[0].what, "keys `k:1234`");
    assert_eq!((tally.left_out.len(), tally.verified), (1, Verified::Digests));
    assert!(tally.notes[0].starts_with("1110 keys restored"), "{:?}", tally.notes);
    let values: Vec<String> = to.say(0, "MGET k:1234 k:1235").await;
    assert_eq!(values, ["mine", "value 1235"]);

    // The server is lost on the way: what came is told, and it is done again with permission.
    let port = proxy(&to, "k:234", || async { false }).await;
    let config = RedisConfig { url: format!("redis://127.0.0.1:{port}"), ..to.config() };
    let failure = failed(feed(target(&config), &dump, only(&["k:*"], true)).await);
    assert_eq!(failure.exit(), ExitCode::SourceDown);
    let tally = feed(target(&to.config()), &dump, only(&["k:*"], true)).await.unwrap();
    assert_eq!((tally.left_out.len(), tally.verified), (0, Verified::Digests));
    assert_eq!(to.sizes().await, [(0, 2000)]);
}

/// A value that is longer than a word of a command may be goes over in commands, or nothing does.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn values_that_are_too_long_for_one_command_go_over_in_several() {
    let settings = ["--requirepass", PASSWORD, "--proto-max-bulk-len", "1mb"];
    let (from, to) = (Lab::start(8).await, Lab::start_with(8, &settings).await);
    let mut pipe = redis::pipe();
    // What does not compress, so that the dump has it at its length.
    let noise = |seed: u32, count: u32| -> Vec<u8> {
        let mut state = seed.wrapping_mul(2_654_435_761).max(1);
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state.to_le_bytes()[1]
        };
        (0..count).map(|_| next()).collect()
    };
    for nth in 1..=40 {
        let long = noise(nth, 70_000);
        pipe.cmd("RPUSH").arg("list").arg(&long[..]).arg(nth).ignore();
        pipe.cmd("SADD").arg("{set}").arg(&long[..]).ignore();
        pipe.cmd("ZADD").arg("zset").arg(f64::from(nth) / 7.0).arg(&long[..]).ignore();
        pipe.cmd("HSET").arg("hash").arg(nth).arg(&long[..]).ignore();
    }
    pipe.cmd("HEXPIRE").arg("hash").arg(90_000).arg("FIELDS").arg(1).arg(7).ignore();
    pipe.cmd("PEXPIRE").arg("list").arg(90_000_000).ignore();
    pipe.cmd("SET").arg("string").arg(noise(99, 1 << 20)).ignore();
    pipe.cmd("SET").arg("longer").arg(noise(98, (1 << 20) + 1)).ignore();
    pipe.query_async::<()>(&mut from.connect(0).await).await.unwrap();
    let dump = dump_of(&from).await;
    let failure = failed(feed(target(&to.config()), &dump, only(&["*"], false)).await);
    assert!(failure.chain()[1].starts_with("`longer` holds a string of 1048577 bytes"), "{failure:?}");
    assert_eq!(to.sizes().await, [], "nothing was written");
    let wanted = ["list", "?set?", "zset", "hash", "string"];
    let tally = feed(target(&to.config()), &dump, only(&wanted, false)).await.unwrap();
    assert_eq!(tally.verified, Verified::Digests, "{:?}", tally.notes);
    assert_eq!(to.sizes().await, [(0, 5)], "no key of our own stayed");
    let failure = failed(feed(target(&to.config()), &dump, only(&wanted, false)).await);
    assert_eq!(failure.exit(), ExitCode::TargetNotEmpty);
    feed(target(&to.config()), &dump, only(&wanted, true)).await.unwrap();
    assert_eq!(to.sizes().await, [(0, 5)]);
}

/// What is not wanted is not judged: a newer dump's keys go into an older server where it knows their types.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn keys_of_a_newer_dump_go_into_an_older_server_where_it_knows_them() {
    let (from, to) = (Lab::start(8).await, Lab::start(7).await);
    from.fill(8).await;
    let _: () = from.run(0, &[b"SET", b"bin\xfe", b"other"]).await;
    let dump = dump_of(&from).await;
    let wanted =
        ["k:1?", "bigset", "smallset", "*list", "*z", "?igh", "smallh", "hll", "geo", "bin?*", "only-in-*"];
    let tally = feed(target(&to.config()), &dump, only(&wanted, false)).await.unwrap();
    assert_eq!(tally.verified, Verified::Digests);
    let set: Vec<String> = to.say(0, "SMEMBERS smallset").await;
    assert_eq!(
        set.iter().map(String::as_str).collect::<std::collections::BTreeSet<_>>(),
        ["7", "a", "b"].into()
    );
    // Names are bytes: one is not the other although neither is text.
    let other: String = to.run(0, &[b"GET", b"bin\xfe"]).await;
    assert_eq!(other, "other");
    for (key, why) in [("hfe", "HPEXPIREAT"), ("stream", "stream"), ("vectors", "modules")] {
        let sizes = to.sizes().await;
        let failure = failed(feed(target(&to.config()), &dump, only(&[key], false)).await);
        let text = format!("{failure} {:?}", failure.chain());
        assert!(text.contains(why), "{key}: {text}");
        assert_eq!(to.sizes().await, sizes, "{key}: nothing was written");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_dump_of_one_database_goes_into_another_beside_what_is_there() {
    let (from, to) = (Lab::start(7).await, Lab::start(7).await);
    from.fill(7).await;
    let _: () = to.say(0, "SET other mine").await;
    let _: () = to.say(5, "SET other mine").await;
    let dump = dump_of(&from).await;
    let into = |db| target(&to.config()).into_database(Some(db));
    let failure = failed(feed(into(3), &dump, all(false)).await);
    assert_eq!(failure.exit(), ExitCode::Usage, "{failure}");
    assert!(failure.to_string().contains("databases 0, 3, 15"), "{failure}");
    assert_eq!(into(3).inspect(&[]).await.unwrap().in_the_way, Vec::<String>::new());
    let tally = feed(into(3), &dump, only(&["k:1*"], false)).await.unwrap();
    assert_eq!(tally.verified, Verified::Digests);
    assert_eq!(to.sizes().await, [(0, 1), (3, 1111), (5, 1)]);
    assert_eq!(into(3).inspect(&[]).await.unwrap().in_the_way, ["db 3: 1111 keys"]);

    // All of a dump that has one database only, in place of that database.
    let one = Lab::start(7).await;
    let _: () = one.say(9, "SET nine 9").await;
    let dump = dump_of(&one).await;
    let failure = failed(feed(into(3), &dump, all(false)).await);
    assert_eq!(failure.exit(), ExitCode::TargetNotEmpty);
    let tally = feed(into(3), &dump, all(true)).await.unwrap();
    assert_eq!(tally.verified, Verified::Digests);
    assert_eq!(to.sizes().await, [(0, 1), (3, 1), (5, 1)], "the others stay");
    let failure = failed(feed(into(99), &dump, all(false)).await);
    assert!(failure.to_string().contains("has no database 99"), "{failure}");
}

/// How long ago and how often keys were used decides what a full server evicts.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn how_keys_were_used_comes_along_and_is_not_changed_by_the_comparison() {
    for (major, policy, ask) in [(8, "allkeys-lfu", "FREQ"), (7, "allkeys-lru", "IDLETIME")] {
        let settings = ["--requirepass", PASSWORD, "--maxmemory-policy", policy, "--lfu-decay-time", "0"];
        let (from, to) = (Lab::start_with(major, &settings).await, Lab::start_with(major, &settings).await);
        let (word, value) = if ask == "FREQ" { ("FREQ", 77) } else { ("IDLETIME", 5000) };
        let _: () = from.say(0, "SET seed x").await;
        let dumped: Vec<u8> = from.say(0, "DUMP seed").await;
        for nth in 0..20 {
            let (key, used) = (format!("k:{nth}"), (value + nth).to_string());
            let words: [&[u8]; 6] =
                [b"RESTORE", key.as_bytes(), b"0", &dumped, word.as_bytes(), used.as_bytes()];
            let _: () = from.run(0, &words).await;
        }
        let tally = feed(target(&to.config()), &dump_of(&from).await, only(&["k:*"], false)).await.unwrap();
        // Before 7.2 a key cannot be read without a trace.
        let expected = if major == 8 { Verified::Digests } else { Verified::Counts };
        assert_eq!(tally.verified, expected, "{:?}", tally.notes);
        for nth in 0..20 {
            let used: i64 = to.say(0, &format!("OBJECT {ask} k:{nth}")).await;
            let wanted = value + nth;
            assert!((wanted..=wanted + 60).contains(&used), "{ask} of k:{nth}: {used}, not {wanted}");
        }
    }
}

/// A server whose settings cannot be read cannot be made our replica and given back as it was.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_server_whose_settings_are_hidden_is_restored_key_by_key() {
    let settings = ["--requirepass", PASSWORD, "--rename-command", "CONFIG", ""];
    let (from, to) = (Lab::start(7).await, Lab::start_with(7, &settings).await);
    from.fill(7).await;
    let tally = pipe(from.source(), to.target(), all(false)).await.unwrap();
    assert_eq!(tally.verified, Verified::Digests);
    assert_eq!(to.sizes().await, from.sizes().await);
    let answer: i64 = to.say(0, "FCALL f 0").await;
    assert_eq!(answer, 7, "the function came along");
}

/// Returns how many keys each node has.
async fn held(cluster: &Cluster) -> Vec<u64> {
    let mut held = Vec::new();
    for node in &cluster.nodes {
        held.push(node.say(0, "DBSIZE").await);
    }
    held
}

/// Fills a server so that each third of the slots has many keys, of which those of one tag are together.
async fn fill_for_cluster(from: &Lab) {
    from.fill(7).await;
    let mut pipe = redis::pipe();
    for nth in 0..20_000 {
        pipe.cmd("SET").arg(format!("u:{{{}}}:{nth}", nth % 997)).arg(nth).ignore();
    }
    pipe.query_async::<()>(&mut from.connect(0).await).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_dump_goes_into_a_cluster_by_slot_also_while_one_is_moved() {
    let (from, cluster) = (Lab::start(7).await, Cluster::start(7).await);
    fill_for_cluster(&from).await;
    let failure = failed(feed(target(&cluster.config()), &dump_of(&from).await, all(false)).await);
    assert!(failure.to_string().contains("only database 0"), "{failure}");
    assert_eq!(held(&cluster).await, [0, 0, 0], "nothing was written");
    for db in [3, 15] {
        let _: () = from.say(db, "FLUSHDB").await;
    }
    let (dump, keys) = (dump_of(&from).await, from.sizes().await[0].1);

    // One slot is on its way: what is not there yet goes to where it will be.
    let slot: u16 = cluster.nodes[0].say(0, "CLUSTER KEYSLOT {42}").await;
    let owner = usize::from(slot > 5460) + usize::from(slot > 10_922);
    let (old, new) = (&cluster.nodes[owner], &cluster.nodes[(owner + 1) % 3]);
    let (old_id, new_id) = (cluster.id(owner).await, cluster.id((owner + 1) % 3).await);
    let _: () = new.say(0, &format!("CLUSTER SETSLOT {slot} IMPORTING {old_id}")).await;
    let _: () = old.say(0, &format!("CLUSTER SETSLOT {slot} MIGRATING {new_id}")).await;
    let tally = feed(target(&cluster.config()), &dump, all(false)).await.unwrap();
    assert_eq!(tally.verified, Verified::Digests, "{:?}", tally.notes);
    let counts = held(&cluster).await;
    assert_eq!(counts.iter().sum::<u64>(), keys);
    assert!(counts.iter().all(|count| *count > 5000), "{counts:?}");
    let there: u64 = new.say(0, &format!("CLUSTER COUNTKEYSINSLOT {slot}")).await;
    assert!(there >= 20, "the keys of the slot that is moved: {there}");
    for node in &cluster.nodes {
        let answer: i64 = node.say(0, "FCALL f 0").await;
        assert_eq!(answer, 7, "every node has the function");
    }
    for node in [new, old] {
        let _: () = node.say(0, &format!("CLUSTER SETSLOT {slot} NODE {new_id}")).await;
    }

    // Again: refused, then in place of it, on every node.
    let state = target(&cluster.config()).inspect(&[]).await.unwrap();
    assert_eq!(state.in_the_way[0], format!("db 0: {keys} keys"));
    let failure = failed(feed(target(&cluster.config()), &dump, all(false)).await);
    assert_eq!(failure.exit(), ExitCode::TargetNotEmpty);
    let _: () = new.say(0, "SET u:{42}:other 1").await;
    let tally = feed(target(&cluster.config()), &dump, all(true)).await.unwrap();
    assert_eq!(tally.verified, Verified::Digests);
    assert_eq!(held(&cluster).await.iter().sum::<u64>(), keys, "what else was there is gone");

    // A node that is down is named, and no other is touched.
    let (before, address) = (held(&cluster).await[0], cluster.nodes[2].address());
    cluster.nodes[2].kill();
    let failure = failed(feed(target(&cluster.config()), &dump, only(&["u:*"], true)).await);
    let text = format!("{failure} {:?}", failure.chain());
    assert!(text.contains(&address), "{text}");
    let size: u64 = cluster.nodes[0].say(0, "DBSIZE").await;
    assert_eq!(size, before);
}
