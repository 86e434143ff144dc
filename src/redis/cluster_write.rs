//! A cluster as a target: which of its primaries gets which keys, and keys whose slot moves meanwhile.
//!
//! *Order.* All primaries are asked and proven before any of them is changed. Each gets the keys of its slots and all
//! functions. What one sends elsewhere (`MOVED`, `ASK`) goes there in a further round, [`ROUNDS_MAX`] at most.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use super::{
    cluster::{Shard, SlotMap},
    control::Control,
    lane::{Elsewhere, Lane, Share},
    server::Server,
};
use crate::error::{ExitCode, Failure, Result};

/// How often keys are sent on: a slot that moves on and on is not followed for ever.
pub(super) const ROUNDS_MAX: usize = 16;

/// Keys that are at another node than the one that was asked, by database and key.
pub(super) type Away = Vec<((u64, Vec<u8>), Elsewhere)>;

/// Asks a cluster for its primaries; refuses one that does not have all slots.
pub(super) async fn lanes(server: &Arc<Server>) -> Result<Vec<Lane>> {
    let map = SlotMap::ask(&mut Control::open(server).await?).await?;
    let refuse = |why: String, hint: &str| {
        let what = format!("the cluster of {} does not work", server.shown());
        Err(Failure::new(ExitCode::SourceDown, what)
            .because(why)
            .hint(format!("Nothing was changed. {hint}")))
    };
    if let Some((first, last)) = map.uncovered().first() {
        return refuse(
            format!("no node has slots {first} to {last}"),
            "Run `redis-cli --cluster fix`, and restore then.",
        );
    }
    if let Some(node) = map.primaries().find(|node| !node.is_online) {
        return refuse(
            format!("its primary at {} is down", node.server(server).address()),
            "Start it or let a replica take over, and restore then.",
        );
    }
    let lane = |shard: &Shard| {
        let server = Arc::new(shard.primary()?.server(server));
        Some(Lane { server, share: Share::Slots(Arc::new(shard.clone())) })
    };
    Ok(map.with_slots().filter_map(lane).collect())
}

/// Returns the lanes of a further round: one for each node that keys were sent to.
pub(super) fn further(server: &Server, away: Away) -> Vec<Lane> {
    let mut places = BTreeMap::<_, HashSet<_>>::new();
    for (key, elsewhere) in away {
        places.entry(elsewhere.place).or_default().insert(key);
    }
    let lane = |((host, port), keys): ((String, u16), _)| {
        // A node that does not know its name means the host that it was asked at.
        let host = if host.is_empty() { server.host() } else { host };
        Lane { server: Arc::new(server.elsewhere(&host, port)), share: Share::Sent(Arc::new(keys)) }
    };
    places.into_iter().map(lane).collect()
}

/// Tells that a cluster kept sending keys elsewhere.
pub(super) fn never_there(server: &Server, count: usize) -> Failure {
    let what = format!("the cluster of {} sent {count} keys from node to node", server.shown());
    Failure::new(ExitCode::SourceDown, what).hint("Wait until its slots have been moved, and restore again.")
}

/// Returns the keys that all primaries hold, by database, and the most function libraries that one has.
pub(super) async fn held(lanes: &[Lane]) -> Result<(BTreeMap<u64, u64>, Option<u64>)> {
    let (mut keys, mut functions) = (BTreeMap::new(), None);
    for lane in lanes {
        let mut control = Control::open(&lane.server).await?;
        for (db, count) in control.keys_by_db().await? {
            *keys.entry(db).or_default() += count;
        }
        functions = functions.max(super::preflight::functions(&mut control).await);
    }
    Ok((keys, functions))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{names::SourceName, policy::RedisConfig};

    #[test]
    fn keys_that_are_elsewhere_are_taken_together_by_node() {
        let config = RedisConfig { url: "redis://seed:7000".to_owned(), ..RedisConfig::default() };
        let server = Server::of(&SourceName::new("redis").unwrap(), &config).unwrap();
        let sent = |key: &str, text: &str| ((0, key.as_bytes().to_vec()), Elsewhere::parse(text).unwrap());
        let away = vec![sent("a", "MOVED 1 b:1"), sent("b", "ASK 2 b:1"), sent("c", "MOVED 3 :7002")];
        let lanes = further(&server, away);
        let shown: Vec<String> = lanes.iter().map(|lane| lane.server.shown()).collect();
        assert_eq!(shown, ["`redis` at `seed:7002`", "`redis` at `b:1`"]);
        assert!(lanes[1].share.has_key(b"b") && !lanes[0].share.has_key(b"b"));
    }
}
