//! A whole cluster as a source: a dump of every shard, and who had which slots.
//!
//! *Order.* The map is asked, then the shards are pulled one after the other, each from its best node, so that one
//! server forks at a time; then the map is asked again. When slots moved meanwhile, all is pulled again, once: a key
//! that moves from a shard that is still to be read to one that was read already is in neither dump. What moves even
//! then is told, and makes the snapshot partial. Only then the entries are sent: `cluster.json`, `server.json`, and
//! `dump-<first slot>.rdb` of each shard.
//!
//! *Crash.* As with one server: nothing is sent before all dumps are proven.
//!
//! *Limits.* The spool holds the dumps of all shards. They are of different instants; the point is the earliest.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{
    cluster::{Shard, SlotMap},
    control::Control,
    replica::{Chosen, choose},
    server::{Server, may_pass},
    source::{DUMP, FACTS, FAILOVER_SECONDS_MAX, Pulled, RedisSource, send_dump, send_json},
};
use crate::{
    clock::Ground,
    error::{ExitCode, Failure, Result},
    flow::{Attrs, EntrySink, FlowResult, Point, Problem},
    names::SourceName,
    policy::{Prefer, RedisConfig},
};

/// Path and item of the map.
pub(super) const MAP: (&str, &str) = ("cluster.json", "cluster");
/// How long is waited between two questions while a failover goes on.
const ASK_MILLISECONDS: u64 = 250;
/// Within what time all nodes of a cluster know that a node follows another.
const GOSSIP_SECONDS_MAX: u64 = 10;

/// How a cluster stands; as JSON, the entry `cluster.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Standing {
    /// The version of its map: each move of a slot and each failover raises it.
    pub(super) epoch: u64,
    /// The map.
    #[serde(flatten)]
    pub(super) map: SlotMap,
    /// Slots that are on their way from one node to another, as `CLUSTER NODES` writes them.
    #[serde(skip)]
    pub(super) moving: Vec<String>,
}

impl Standing {
    /// Asks a cluster: the first of the policy's nodes that answers.
    pub(super) async fn ask(name: &SourceName, config: &RedisConfig) -> Result<(Arc<Server>, Self)> {
        let (seed, control) = open(name, config).await?;
        Ok((Arc::clone(&seed), Self::of(&seed, control).await?))
    }

    /// Asks again, meanwhile: where none of the policy's nodes answers any more, those that the cluster had.
    async fn again(source: &RedisSource, seed: &Server, known: &SlotMap) -> Result<(Arc<Server>, Self)> {
        let (seed, control) = match open(&source.name, &source.config).await {
            Ok(opened) => opened,
            Err(failure) => open_known(seed, known).await.ok_or(failure)?,
        };
        Ok((Arc::clone(&seed), Self::of(&seed, control).await?))
    }

    /// Asks the node `seed` for all, and each primary for what it is giving away.
    async fn of(seed: &Server, mut control: Control) -> Result<Self> {
        let info: String = control.ask(&["CLUSTER", "INFO"]).await?;
        let epoch = info.lines().find_map(|line| line.trim_end().strip_prefix("cluster_current_epoch:"));
        let epoch = epoch.and_then(|epoch| epoch.parse().ok()).unwrap_or_default();
        let map = SlotMap::ask(&mut control).await?;
        let mut moving = Vec::new();
        for node in map.primaries().filter(|node| node.is_online) {
            // One that is down is told when its dump is pulled.
            if let Ok(mut control) = Control::open(&Arc::new(node.server(seed))).await {
                moving.extend(on_their_way(&control.ask::<String>(&["CLUSTER", "NODES"]).await?));
            }
        }
        Ok(Self { epoch, map, moving })
    }

    /// Returns whether no slot has moved since `before`.
    pub(super) fn is_still(&self, before: &Self) -> bool {
        let slots = |standing: &Self| -> Vec<_> {
            standing.map.with_slots().map(|shard| shard.slots.clone()).collect()
        };
        self.epoch == before.epoch && slots(self) == slots(before)
    }
}

async fn open(name: &SourceName, config: &RedisConfig) -> Result<(Arc<Server>, Control)> {
    let mut last = None;
    for url in config.addresses() {
        let config = RedisConfig { url: url.to_owned(), ..config.clone() };
        let seed = Arc::new(Server::of(name, &config)?);
        match Control::open(&seed).await {
            Ok(control) => return Ok((seed, control)),
            Err(failure) => last = Some(failure),
        }
    }
    Err(last.unwrap_or_else(|| Failure::new(ExitCode::Usage, format!("source `{name}` has no address"))))
}

/// Opens the first of the nodes that answers.
async fn open_known(like: &Server, known: &SlotMap) -> Option<(Arc<Server>, Control)> {
    for node in known.shards.iter().flat_map(|shard| &shard.nodes).filter(|node| node.is_online) {
        let server = Arc::new(node.server(like));
        if let Ok(control) = Control::open(&server).await {
            return Some((server, control));
        }
    }
    None
}

/// Reads from `CLUSTER NODES` which slots the node that answers gives away or takes; it says so of itself only.
fn on_their_way(told: &str) -> Vec<String> {
    let own = told.lines().filter(|line| {
        line.split(' ').nth(2).is_some_and(|flags| flags.split(',').any(|flag| flag == "myself"))
    });
    let words = own.flat_map(|line| line.split_whitespace().skip(8));
    words.filter(|word| word.starts_with('[')).map(str::to_owned).collect()
}

/// Chooses the node of a shard that is read.
pub(super) async fn choose_of(
    shard: &Shard,
    seed: &Server,
    prefer: Prefer,
    ground: &Ground,
) -> Result<Chosen> {
    let Some(primary) = shard.primary() else {
        return Err(Failure::new(ExitCode::SourceDown, format!("{} has no primary", named(shard))));
    };
    let mut replicas: Vec<_> = shard.nodes.iter().filter(|node| !node.is_primary && node.is_online).collect();
    replicas.sort_by_key(|node| std::cmp::Reverse(node.offset));
    let replicas = replicas.into_iter().map(|node| node.server(seed)).collect();
    choose(primary.server(seed), replicas, prefer, ground).await
}

/// Returns a shard as a person finds it: by its slots.
fn named(shard: &Shard) -> String {
    format!("the shard of {}", ranges(&shard.slots))
}

/// Returns ranges of slots as text.
pub(super) fn ranges(slots: &[(u16, u16)]) -> String {
    let range = |(first, last): &(u16, u16)| {
        if first == last { format!("slot {first}") } else { format!("slots {first}-{last}") }
    };
    slots.iter().map(range).collect::<Vec<_>>().join(", ")
}

/// Reads the whole cluster.
pub(super) async fn read(source: &RedisSource, sink: EntrySink) -> FlowResult<()> {
    let (seed, mut before) = Standing::ask(&source.name, &source.config).await?;
    let mut shards = pull_all(source, &seed, &before).await?;
    let (_, mut after) = Standing::again(source, &seed, &before.map).await?;
    if !after.is_still(&before) && after.moving.is_empty() {
        let what = "the cluster's slots or primaries changed meanwhile: all shards are read once more";
        source.monitor.warn(Some(&source.name), what.to_owned(), None);
        drop(shards);
        before = after;
        shards = pull_all(source, &seed, &before).await?;
        (_, after) = Standing::again(source, &seed, &before.map).await?;
    }
    let mut problems: Vec<Problem> = shards.iter().filter_map(Read::problem).collect();
    problems.extend(changed(&before, &after));
    problems.extend(uncovered(&before.map));
    send(&sink, &before, &shards, problems).await?;
    sink.finish(point(&before, &shards)).await
}

/// What became of a shard.
struct Read {
    shard: Shard,
    pulled: Result<Pulled>,
}

impl Read {
    fn problem(&self) -> Option<Problem> {
        let failure = self.pulled.as_ref().err()?;
        Some(Problem { what: ranges(&self.shard.slots), why: failure.one_line() })
    }
}

/// Pulls one shard after the other. One that cannot be read does not cost the others; if none can, that is told.
async fn pull_all(source: &RedisSource, seed: &Server, standing: &Standing) -> Result<Vec<Read>> {
    let mut shards = Vec::new();
    for shard in standing.map.with_slots() {
        let mut pulled = pull(source, seed, shard).await;
        if let Err(failure) = &pulled
            && may_pass(failure)
        {
            let what = format!("{} is asked for once more: {}", named(shard), failure.one_line());
            source.monitor.warn(Some(&source.name), what, None);
            pulled = pull_again(source, seed, standing, shard).await;
        }
        shards.push(Read { shard: shard.clone(), pulled });
    }
    if shards.iter().any(|read| read.pulled.is_ok()) {
        return Ok(shards);
    }
    let failure = shards.into_iter().find_map(|read| read.pulled.err());
    Err(failure.unwrap_or_else(|| {
        Failure::new(ExitCode::SourceDown, format!("{} belongs to a cluster without slots", seed.shown()))
            .hint("`redis-cli --cluster check` tells what is missing.")
    }))
}

async fn pull(source: &RedisSource, seed: &Server, shard: &Shard) -> Result<Pulled> {
    let chosen = choose_of(shard, seed, source.config.prefer, &source.ground).await?;
    source.tell_choice(&chosen);
    source.pull_from(chosen).await
}

/// Pulls a shard whose node went away: as soon as another one has taken its place.
async fn pull_again(source: &RedisSource, seed: &Server, before: &Standing, lost: &Shard) -> Result<Pulled> {
    let began = Instant::now();
    let until = began + Duration::from_secs(FAILOVER_SECONDS_MAX);
    loop {
        let (seed, standing) = match Standing::again(source, seed, &before.map).await {
            Err(failure) if may_pass(&failure) && Instant::now() < until => {
                sleep(Duration::from_millis(ASK_MILLISECONDS)).await;
                continue;
            }
            asked => asked?,
        };
        let slot = lost.slots.first().map_or(0, |range| range.0);
        let shard = standing.map.shard_of(slot).unwrap_or(lost);
        let tried = match choose_of(shard, &seed, source.config.prefer, &source.ground).await {
            Ok(chosen) => {
                source.tell_choice(&chosen);
                source.pull_from(chosen).await
            }
            Err(failure) => Err(failure),
        };
        // Without a replica nobody takes its place; who follows whom is not known everywhere at once.
        let has_replica = lost.nodes.len().max(shard.nodes.len()) > 1;
        let until = if has_replica { until } else { began + Duration::from_secs(GOSSIP_SECONDS_MAX) };
        match tried {
            Err(failure) if may_pass(&failure) && Instant::now() < until => {
                sleep(Duration::from_millis(ASK_MILLISECONDS)).await;
            }
            tried => return tried,
        }
    }
}

/// Tells that keys may be missing because slots moved.
fn changed(before: &Standing, after: &Standing) -> Option<Problem> {
    let moving: Vec<&str> = before.moving.iter().chain(&after.moving).map(String::as_str).collect();
    let why = if let Some(first) = moving.first() {
        format!("slots were on their way between nodes ({first}) while the shards were read")
    } else if !after.is_still(before) {
        "slots or primaries changed while the shards were read, twice".to_owned()
    } else {
        return None;
    };
    let why =
        format!("{why}: keys that moved may be missing; back up again when the cluster has come to rest");
    Some(Problem { what: "cluster".to_owned(), why })
}

fn uncovered(map: &SlotMap) -> Option<Problem> {
    let holes = map.uncovered();
    let why =
        "no node of the cluster has them: keys of these slots can be neither read nor written".to_owned();
    (!holes.is_empty()).then(|| Problem { what: ranges(&holes), why })
}

/// Returns path and item of a shard's dump; shards are in the order of their first slots.
fn dump_names(shard: &Shard) -> (String, String) {
    let first = shard.slots.first().map_or(0, |range| range.0);
    (format!("{}-{first:05}.rdb", DUMP.1), format!("{}-{first:05}", DUMP.1))
}

async fn send(
    sink: &EntrySink,
    standing: &Standing,
    shards: &[Read],
    problems: Vec<Problem>,
) -> FlowResult<()> {
    let pulled: Vec<(&Shard, &Pulled)> =
        shards.iter().filter_map(|read| Some((&read.shard, read.pulled.as_ref().ok()?))).collect();
    let facts = pulled.iter().find_map(|(_, pulled)| pulled.facts.as_ref());
    let mut items = vec![MAP.1.to_owned()];
    items.extend(facts.map(|_| FACTS.1.to_owned()));
    items.extend(pulled.iter().map(|(shard, _)| dump_names(shard).1));
    sink.announce(items).await?;
    for problem in problems {
        sink.report(problem).await?;
    }
    send_json(sink, MAP, standing).await?;
    if let Some(facts) = facts {
        send_json(sink, FACTS, facts).await?;
    }
    for (shard, pulled) in pulled {
        let (path, item) = dump_names(shard);
        let granted = &pulled.granted;
        let mut more = Attrs::new();
        more.insert("slots".to_owned(), json!(shard.slots));
        more.insert("node".to_owned(), json!(pulled.chosen.server.address()));
        more.insert("role".to_owned(), json!(pulled.chosen.role));
        more.insert("at".to_owned(), json!(instant(granted.at)));
        more.insert("replid".to_owned(), json!(granted.replid));
        more.insert("offset".to_owned(), json!(granted.offset));
        send_dump(sink, (&path, &item), pulled, more).await?;
    }
    Ok(())
}

fn instant(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// Returns the instant that all dumps hold: the earliest.
fn point(standing: &Standing, shards: &[Read]) -> Point {
    let instants: Vec<DateTime<Utc>> =
        shards.iter().filter_map(|read| Some(read.pulled.as_ref().ok()?.granted.at)).collect();
    let first = instants.iter().min().copied().unwrap_or_default();
    let last = instants.iter().max().copied().unwrap_or_default();
    let point = Point::at(first)
        .mark("window_end", instant(last))
        .mark("cluster_epoch", standing.epoch.to_string())
        .mark("shards", instants.len().to_string());
    let mut granted = shards.iter().filter_map(|read| Some(&read.pulled.as_ref().ok()?.granted));
    if granted.any(|granted| granted.is_their_clock) { point.mark("clock", "server") } else { point }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(epoch: u64, slots: &[&[(u16, u16)]], moving: &[&str]) -> Standing {
        let shards = slots.iter().map(|slots| Shard { slots: slots.to_vec(), nodes: Vec::new() }).collect();
        let moving = moving.iter().map(|word| (*word).to_owned()).collect();
        Standing { epoch, map: SlotMap { shards }, moving }
    }

    #[test]
    fn only_what_the_answering_node_itself_gives_away_is_on_its_way() {
        let told = "\
            0a 10.0.0.1:6379@16379 myself,master - 0 0 1 connected 0-5460 [93-<-0b] [12->-0c]\n\
            0b 10.0.0.2:6379@16379 master - 0 0 2 connected 5461-10922 [7->-0a]\n";
        assert_eq!(on_their_way(told), ["[93-<-0b]", "[12->-0c]"]);
        assert_eq!(on_their_way(""), [""; 0]);
    }

    #[test]
    fn a_slot_that_moved_or_moves_is_told() {
        let before = standing(3, &[&[(0, 99)], &[(100, 16_383)]], &[]);
        assert_eq!(changed(&before, &before), None);
        for after in [
            standing(4, &[&[(0, 99)], &[(100, 16_383)]], &[]),
            standing(3, &[&[(0, 98)], &[(99, 16_383)]], &[]),
            standing(3, &[&[(0, 99)], &[(100, 16_383)]], &["[5->-0b]"]),
        ] {
            assert!(changed(&before, &after).unwrap().why.contains("may be missing"), "{after:?}");
        }
    }

    #[test]
    fn slots_without_a_node_are_a_problem() {
        let problem = uncovered(&standing(1, &[&[(0, 5)], &[(7, 100), (102, 16_383)]], &[]).map).unwrap();
        assert_eq!(problem.what, "slot 6, slot 101");
        assert_eq!(uncovered(&standing(1, &[&[(0, 16_383)]], &[]).map), None);
    }
}
