//! Looks whether a server can be backed up: [`examine`].
//!
//! No synchronisation is begun: a server would fork for it. Whether `PSYNC` is allowed is asked with an offset that is
//! no number, which servers from 7.0 refuse as such after they have looked at the user's rights.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta};

use super::{
    cluster::SlotMap,
    cluster_read::{Standing, choose_of, ranges},
    control::Control,
    describe::ServerFacts,
    replica, sentinel,
    server::{Server, is_withheld},
    spool::{Room, Spool},
    wire::Reply,
};
use crate::{
    clock::Ground,
    error::Result,
    finding::{Finding, Status, laws, skew_seconds},
    names::{ByteCount, SourceName},
    policy::RedisConfig,
};

laws! {
    page "redis";
    ANSWERS = "redis.answers",
        "the server answers and lets us in",
        "Check that the server runs, and `url`, `user` and `password` of this source.";
    VERSION = "redis.version",
        "the server is of a version that lifeboat is tested with",
        "It is made for Redis 6.2 to 8 and Valkey 7.2 to 9, and tested with Redis 7.0 and 8.0 and Valkey 9.1. Make a drill before you rely on another one.";
    RIGHTS = "redis.rights",
        "the user may do all that a whole backup needs",
        "ACL SETUSER the user: +psync +replconf +ping +info +config|get +acl|list +module|list +time";
    APPENDONLY = "redis.appendonly",
        "it is known whether the server loads an append-only file",
        "Allow +info, so that it is known what a restart loads.";
    REPLICATION = "redis.replication",
        "the server can send a dump",
        "Set repl-diskless-sync yes, and look into the server's log for why its last save failed.";
    EVICTION = "redis.eviction",
        "the server throws nothing away by itself",
        "Set maxmemory-policy noeviction where the data matters: what was evicted is in no backup.";
    ROLE = "redis.role",
        "the server is a primary, or a replica that keeps up",
        "Repair the link to its primary, or name the primary as the source.";
    ROOM = "redis.room",
        "the spool folder has room for a whole dump",
        "Make room in the spool folder, or set `spool_dir` of this source to a larger one.";
    TOPOLOGY = "redis.topology",
        "it is known which servers are read, and together they have everything",
        "Look at the cluster with `redis-cli --cluster check HOST:PORT`, at Sentinels with `sentinel replicas NAME`.";
    CLOCK = "redis.clock",
        "the server's clock is within 5 minutes of this host's",
        "Set both clocks by NTP: `timedatectl` shows this host's.";
}

/// Bytes below which a limit on what waits for a replica breaks a dump off.
const REPLICA_BUFFER_BYTES_MIN: u64 = 64 << 20;

/// Looks at the servers that a backup would read now.
pub async fn examine(name: &SourceName, config: &RedisConfig, ground: &Ground) -> Vec<Finding> {
    let (servers, topology) = match meant(name, config, ground).await {
        Ok(meant) => meant,
        Err(failure) => return vec![ANSWERS.failed(Status::Broken, &failure)],
    };
    let mut findings: Vec<Finding> = Vec::new();
    let several = servers.len() > 1;
    for server in servers {
        for mut finding in examine_one(&server, config, topology.is_none(), ground).await {
            if several {
                finding.detail = format!("{}: {}", server.address(), finding.detail);
            }
            // Of several servers the worst is told.
            match findings.iter_mut().find(|found| found.id == finding.id) {
                Some(found) if found.status < finding.status => *found = finding,
                Some(_) => {}
                None => findings.push(finding),
            }
        }
    }
    findings.extend(topology);
    findings
}

/// Finds the servers that are read, and what is to be said of them as a whole.
async fn meant(
    name: &SourceName,
    config: &RedisConfig,
    ground: &Ground,
) -> Result<(Vec<Arc<Server>>, Option<Finding>)> {
    if config.cluster {
        return of_cluster(name, config, ground).await;
    }
    if config.sentinels.is_empty() {
        return Ok((vec![Arc::new(Server::of(name, config)?)], None));
    }
    let watched = sentinel::ask(name, config).await?;
    let by = watched.by.clone();
    let chosen = replica::choose(watched.primary, watched.replicas, config.prefer, ground).await?;
    let finding = if chosen.passed_over.is_empty() {
        TOPOLOGY.ok(format!("{} is read, says Sentinel {by}", chosen.shown()))
    } else {
        TOPOLOGY.found(Status::Warn, format!("{} is read; {}", chosen.shown(), chosen.passed_over.join("; ")))
    };
    Ok((vec![chosen.server], Some(finding)))
}

async fn of_cluster(
    name: &SourceName,
    config: &RedisConfig,
    ground: &Ground,
) -> Result<(Vec<Arc<Server>>, Option<Finding>)> {
    let (seed, standing) = Standing::ask(name, config).await?;
    let (mut servers, mut shown, mut wrong) = (Vec::new(), Vec::new(), Vec::new());
    for shard in standing.map.with_slots() {
        match choose_of(shard, &seed, config.prefer, ground).await {
            Ok(chosen) => {
                shown.push(chosen.shown());
                wrong.extend(chosen.passed_over);
                servers.push(chosen.server);
            }
            Err(failure) => wrong.push(format!("{}: {}", ranges(&shard.slots), failure.one_line())),
        }
    }
    let holes = standing.map.uncovered();
    if !holes.is_empty() {
        wrong.push(format!("no node has {}", ranges(&holes)));
    }
    wrong.extend(standing.moving.iter().map(|moving| format!("slots are on their way: {moving}")));
    let whole = holes.is_empty() && servers.len() == standing.map.with_slots().count();
    let detail = format!("shards: {}; read: {}", standing.map.with_slots().count(), shown.join(", "));
    let finding = match (whole, wrong.is_empty()) {
        (true, true) => TOPOLOGY.ok(detail),
        (true, false) => TOPOLOGY.found(Status::Warn, format!("{detail}; {}", wrong.join("; "))),
        (false, _) => TOPOLOGY.broken(format!("{detail}; {}", wrong.join("; "))),
    };
    Ok((servers, Some(finding)))
}

/// Says what a server that stands for itself is part of.
async fn of_one(facts: &ServerFacts, control: &mut Control) -> Finding {
    if facts.field("cluster_enabled") != Some("1") {
        return TOPOLOGY.ok("one server, no cluster");
    }
    let hint = "Set cluster = true to take every shard; the user needs +cluster|shards +cluster|info +cluster|nodes.";
    match SlotMap::ask(control).await {
        Err(failure) => TOPOLOGY.failed(Status::Unknown, &failure).hint(hint),
        Ok(map) if map.with_slots().count() == 1 && map.uncovered().is_empty() => {
            TOPOLOGY.ok("a cluster of one primary")
        }
        Ok(map) => {
            let shards = map.with_slots().count();
            TOPOLOGY
                .found(Status::Warn, format!("one of {shards} shards of a cluster: only its slots are taken"))
                .hint(hint)
        }
    }
}

/// Looks at one server.
async fn examine_one(
    server: &Arc<Server>,
    config: &RedisConfig,
    is_alone: bool,
    ground: &Ground,
) -> Vec<Finding> {
    let mut control = match Control::open(server).await {
        Ok(control) => control,
        Err(failure) => return vec![ANSWERS.failed(Status::Broken, &failure)],
    };
    let mut findings = vec![ANSWERS.ok(format!("{}{}", server.shown(), server.protection()))];
    let facts = ServerFacts::ask(&mut control).await;
    findings.push(rights(server, facts.as_ref().ok()).await);
    match &facts {
        Err(failure) => findings.push(VERSION.failed(Status::Unknown, failure).hint(RIGHTS.hint)),
        Ok(facts) => findings.extend([
            version(facts),
            appendonly(facts),
            role(facts),
            replication(facts),
            eviction(facts),
        ]),
    }
    findings.push(room(&mut control, config).await);
    if let Ok(facts) = &facts
        && is_alone
    {
        findings.push(of_one(facts, &mut control).await);
    }
    findings.push(clock(&mut control, ground).await);
    findings
}

/// Compares what is free in the spool folder with what the data takes in memory, which a dump seldom exceeds.
async fn room(control: &mut Control, config: &RedisConfig) -> Finding {
    let asked = async {
        let memory = control.info("memory").await?;
        let free_bytes = Spool::new(config.spool_dir.as_ref())?.free_bytes()?;
        Ok((memory.get("used_memory_dataset").and_then(|text| text.parse().ok()), free_bytes))
    };
    match asked.await {
        Ok((Some(dataset_bytes), free_bytes)) => judge_room(free_bytes, dataset_bytes),
        Ok((None, _)) => ROOM.found(Status::Unknown, "INFO does not tell how much memory the data takes"),
        Err(failure) => ROOM.failed(Status::Unknown, &failure),
    }
}

fn judge_room(free_bytes: u64, dataset_bytes: u64) -> Finding {
    let status = match Room::judge(free_bytes, dataset_bytes) {
        Room::Enough => Status::Ok,
        Room::Tight => Status::Warn,
        Room::Hopeless => Status::Broken,
    };
    let (free, dataset) = (ByteCount(free_bytes), ByteCount(dataset_bytes));
    ROOM.found(status, format!("{free} are free and the data takes {dataset} in memory"))
}

async fn clock(control: &mut Control, ground: &Ground) -> Finding {
    let began = ground.clock.now();
    let told: Result<Vec<i64>> = control.ask(&["TIME"]).await;
    let ended = ground.clock.now();
    let theirs = match told.as_deref() {
        Ok([seconds, micros]) => {
            DateTime::from_timestamp(*seconds, 0).map(|at| at + TimeDelta::microseconds(*micros))
        }
        Ok(_) => None,
        Err(failure) => return CLOCK.failed(Status::Unknown, failure).hint("Give the user the right: +time"),
    };
    theirs.map_or_else(
        || CLOCK.found(Status::Unknown, "its answer to TIME is no time"),
        |theirs| CLOCK.skew(skew_seconds(theirs, began, ended, TimeDelta::zero())),
    )
}

/// What became of a command that was tried.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Right {
    Given,
    Refused(String),
    Untried,
}

/// Tries the commands that a dump needs on a connection of their own, and tells what else was refused.
async fn rights(server: &Server, facts: Option<&ServerFacts>) -> Finding {
    let tried = async {
        let mut wire = server.dial().await?;
        let down = |error| server.down(error);
        let replconf = wire.call(&[b"REPLCONF", b"capa", b"psync2"]).await.map_err(down)?;
        // Older servers would take a wrong offset for a wish to begin anew.
        let is_safe =
            facts.is_some_and(|facts| facts.product == "valkey" || number(&facts.version) >= (7, 0));
        let psync = if is_safe {
            right(&wire.call(&[b"PSYNC", b"?", b"x"]).await.map_err(down)?)
        } else {
            Right::Untried
        };
        Ok((right(&replconf), psync))
    };
    match tried.await {
        Ok((replconf, psync)) => judge_rights(&[("REPLCONF", replconf), ("PSYNC", psync)], facts),
        Err(failure) => RIGHTS.failed(Status::Unknown, &failure),
    }
}

fn right(reply: &Reply) -> Right {
    match reply {
        Reply::Refused(text) if is_withheld(text) => {
            let is_forbidden = text.starts_with("NOPERM");
            Right::Refused(if is_forbidden { "NOPERM" } else { "renamed or not offered" }.to_owned())
        }
        Reply::Refused(text) if text.starts_with("NOMASTERLINK") => Right::Refused("NOMASTERLINK".to_owned()),
        _ => Right::Given,
    }
}

fn judge_rights(tried: &[(&str, Right)], facts: Option<&ServerFacts>) -> Finding {
    let refused: Vec<String> = tried
        .iter()
        .filter_map(|(name, right)| match right {
            Right::Refused(why) => Some(format!("{name} ({why})")),
            _ => None,
        })
        .collect();
    if !refused.is_empty() {
        return RIGHTS.broken(format!("refused: {}", refused.join(", ")));
    }
    let Some(facts) = facts else {
        return RIGHTS
            .found(Status::Warn, "refused: INFO; the server's settings and users are not backed up");
    };
    if !facts.refused.is_empty() {
        let detail = format!("refused: {}; these are not backed up", facts.refused.join(", "));
        return RIGHTS.found(Status::Warn, detail);
    }
    if tried.iter().any(|(_, right)| *right == Right::Untried) {
        let detail = "REPLCONF is allowed; whether PSYNC is cannot be asked of this version without a dump";
        return RIGHTS.found(Status::Unknown, detail).hint("Run `lifeboat backup`, which tells.");
    }
    RIGHTS.ok("REPLCONF, PSYNC, INFO, CONFIG GET, ACL LIST, MODULE LIST")
}

/// Returns the first two numbers of a version.
fn number(version: &str) -> (u32, u32) {
    let mut parts = version.split('.').map(|part| part.parse().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

fn version(facts: &ServerFacts) -> Finding {
    let number = number(&facts.version);
    let (oldest, newest) = if facts.product == "valkey" { ((7, 2), 9) } else { ((6, 2), 8) };
    if number < oldest {
        VERSION.found(Status::Warn, format!("{} is older than any that it is made for", facts.shown()))
    } else if number.0 > newest {
        VERSION.found(Status::Warn, format!("{} is newer than any that it is made for", facts.shown()))
    } else {
        VERSION.ok(facts.shown())
    }
}

fn appendonly(facts: &ServerFacts) -> Finding {
    match facts.field("aof_enabled") {
        Some("1") => APPENDONLY.ok(
            "appendonly yes: a dump.rdb that is copied beside it is ignored at a start; `lifeboat restore` is not",
        ),
        Some(_) => APPENDONLY.ok("appendonly no: a start loads dump.rdb"),
        None => APPENDONLY.found(Status::Unknown, "INFO does not tell"),
    }
}

fn role(facts: &ServerFacts) -> Finding {
    if facts.field("loading") == Some("1") {
        return ROLE.found(Status::Warn, "it is still loading its data").hint("Wait until it has finished.");
    }
    match (facts.field("role"), facts.field("master_link_status")) {
        (Some("master"), _) => ROLE.ok("primary"),
        (Some(_), Some("up")) => ROLE.ok(format!(
            "replica of {}:{}, the link is up",
            facts.field("master_host").unwrap_or("?"),
            facts.field("master_port").unwrap_or("?")
        )),
        (Some(_), _) => ROLE.broken("replica, and the link to its primary is down"),
        (None, _) => ROLE.found(Status::Unknown, "INFO does not tell"),
    }
}

fn replication(facts: &ServerFacts) -> Finding {
    let setting = |name: &str| facts.config.as_ref().and_then(|config| config.get(name)).map(String::as_str);
    let diskless = setting("repl-diskless-sync");
    if diskless == Some("no") && facts.field("rdb_last_bgsave_status") == Some("err") {
        let detail = "repl-diskless-sync no, and the server's last save to its own disk failed";
        return REPLICATION.broken(detail);
    }
    if let Some(bytes) = setting("client-output-buffer-limit").and_then(replica_limit)
        && (1..REPLICA_BUFFER_BYTES_MIN).contains(&bytes)
    {
        let detail = format!("client-output-buffer-limit lets {bytes} bytes wait for a replica");
        let hint =
            "Set client-output-buffer-limit \"replica 256mb 64mb 60\": a busy server breaks a dump off.";
        return REPLICATION.found(Status::Warn, detail).hint(hint);
    }
    match diskless {
        Some("no") => {
            REPLICATION.ok("repl-diskless-sync no: each backup is written to the server's disk first")
        }
        Some(_) => REPLICATION.ok("repl-diskless-sync yes"),
        None => REPLICATION.found(Status::Unknown, "CONFIG GET is not allowed").hint(RIGHTS.hint),
    }
}

/// Returns the hard limit for replicas of `normal 0 0 0 slave 268435456 67108864 60 pubsub …`.
fn replica_limit(setting: &str) -> Option<u64> {
    let words: Vec<&str> = setting.split_whitespace().collect();
    let at = words.iter().position(|word| matches!(*word, "slave" | "replica"))?;
    words.get(at + 1)?.parse().ok()
}

fn eviction(facts: &ServerFacts) -> Finding {
    let policy = facts.field("maxmemory_policy").unwrap_or("unknown");
    match facts.number("maxmemory") {
        Some(0) => EVICTION.ok("no maxmemory"),
        _ if policy == "noeviction" => EVICTION.ok("maxmemory-policy noeviction"),
        Some(limit) => EVICTION.found(Status::Warn, format!("maxmemory {limit}, maxmemory-policy {policy}")),
        None => EVICTION.found(Status::Unknown, "INFO does not tell"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(info: &[(&str, &str)], config: &[(&str, &str)]) -> ServerFacts {
        let map = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        ServerFacts {
            product: "redis".into(),
            version: "7.2.4".into(),
            info: map(info),
            config: Some(map(config)),
            ..ServerFacts::default()
        }
    }

    #[test]
    fn what_is_refused_is_named_and_weighed() {
        let none = facts(&[], &[]);
        let all = [("REPLCONF", Right::Given), ("PSYNC", Right::Given)];
        assert_eq!(judge_rights(&all, Some(&none)).status, Status::Ok);
        let refused = right(&Reply::Refused("NOPERM User x has no permissions to run psync".into()));
        let found = judge_rights(&[("REPLCONF", Right::Given), ("PSYNC", refused)], Some(&none));
        assert_eq!((found.status, found.detail.as_str()), (Status::Broken, "refused: PSYNC (NOPERM)"));
        let fewer = ServerFacts { refused: vec!["ACL LIST".into()], ..none };
        let found = judge_rights(&all, Some(&fewer));
        assert_eq!(found.status, Status::Warn);
        assert!(found.detail.contains("ACL LIST"), "{found:?}");
        assert_eq!(judge_rights(&all, None).status, Status::Warn);
        let offset = right(&Reply::Refused("ERR value is not an integer or out of range".into()));
        assert_eq!(offset, Right::Given);
    }

    #[test]
    fn a_server_that_evicts_is_told() {
        let judged = |pairs: &[(&str, &str)]| eviction(&facts(pairs, &[])).status;
        assert_eq!(judged(&[("maxmemory", "0"), ("maxmemory_policy", "allkeys-lru")]), Status::Ok);
        assert_eq!(judged(&[("maxmemory", "9"), ("maxmemory_policy", "noeviction")]), Status::Ok);
        assert_eq!(judged(&[("maxmemory", "9"), ("maxmemory_policy", "allkeys-lru")]), Status::Warn);
    }

    #[test]
    fn a_command_that_was_renamed_is_told_as_such() {
        let refused =
            right(&Reply::Refused("ERR unknown command 'PSYNC', with args beginning with: '?' ".into()));
        let found = judge_rights(&[("PSYNC", refused)], None);
        assert_eq!(found.detail, "refused: PSYNC (renamed or not offered)");
    }

    #[test]
    fn a_small_spool_folder_is_told_and_a_hopeless_one_is_broken() {
        let judged = |free: u64| judge_room(free, 8 << 20).status;
        assert_eq!([judged(8 << 20), judged(4 << 20), judged(0)], [Status::Ok, Status::Warn, Status::Broken]);
        assert_eq!(
            judge_room(1 << 20, 8 << 20).detail,
            "1.00 MiB are free and the data takes 8.00 MiB in memory"
        );
    }

    #[test]
    fn a_replica_must_keep_up() {
        let judged = |pairs: &[(&str, &str)]| role(&facts(pairs, &[])).status;
        assert_eq!(judged(&[("role", "master")]), Status::Ok);
        assert_eq!(judged(&[("role", "slave"), ("master_link_status", "up")]), Status::Ok);
        assert_eq!(judged(&[("role", "slave"), ("master_link_status", "down")]), Status::Broken);
        assert_eq!(judged(&[("role", "master"), ("loading", "1")]), Status::Warn);
    }

    #[test]
    fn trouble_with_dumps_is_seen_beforehand() {
        let failed = [("rdb_last_bgsave_status", "err")];
        let judged =
            |info: &[(&str, &str)], config: &[(&str, &str)]| replication(&facts(info, config)).status;
        assert_eq!(judged(&failed, &[("repl-diskless-sync", "no")]), Status::Broken);
        assert_eq!(judged(&failed, &[("repl-diskless-sync", "yes")]), Status::Ok);
        let limit = ("client-output-buffer-limit", "normal 0 0 0 slave 1048576 0 60 pubsub 1 2 3");
        assert_eq!(judged(&[], &[("repl-diskless-sync", "yes"), limit]), Status::Warn);
        assert_eq!(replica_limit("normal 0 0 0 slave 268435456 67108864 60"), Some(268_435_456));
    }

    #[test]
    fn a_copied_dump_beside_an_append_only_file_is_told_to_be_ignored() {
        let found = appendonly(&facts(&[("aof_enabled", "1")], &[]));
        assert_eq!(found.status, Status::Ok);
        assert!(found.detail.contains("ignored"), "{found:?}");
    }
}
