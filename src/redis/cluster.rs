//! A cluster's map: which node has which slots, and which slot a key belongs to.
//!
//! `CLUSTER SHARDS` (7.0) tells health and offsets as well; older servers answer `CLUSTER SLOTS`, which tells neither.
//! Both are parsed to one [`SlotMap`]. A node that does not know its own address is reached where it was asked.

use ::redis::Value;
use serde::{Deserialize, Serialize};

use super::{control::Control, server::Server};
use crate::error::{ExitCode, Failure, Result};

/// Slots that a cluster has; each key belongs to one.
pub(super) const SLOTS: u16 = 16_384;

/// Returns the slot of a key (redis `src/cluster.c`, `keyHashSlot`): of the part in the first braces, if it has any.
pub(super) fn slot_of(key: &[u8]) -> u16 {
    let tag = key.iter().position(|byte| *byte == b'{').and_then(|open| {
        let rest = &key[open + 1..];
        let close = rest.iter().position(|byte| *byte == b'}')?;
        (close > 0).then(|| &rest[..close])
    });
    crc16(tag.unwrap_or(key)) % SLOTS
}

/// CRC-16 as XMODEM has it: polynomial 0x1021, no initial value.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc: u16, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc, _| {
            if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
        })
    })
}

/// One server of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Node {
    /// The name that the cluster has for it.
    pub(super) id: String,
    /// Host name or address.
    pub(super) host: String,
    /// The port for this kind of connection, encrypted or not.
    pub(super) port: u16,
    /// Whether it takes writes.
    pub(super) is_primary: bool,
    /// Whether the cluster thinks that it works; where it does not say, it does.
    #[serde(skip, default)]
    pub(super) is_online: bool,
    /// How far it has come in its primary's history, where that is told.
    #[serde(skip, default)]
    pub(super) offset: u64,
}

impl Node {
    /// Returns it as a server that lets us in as `like` does.
    pub(super) fn server(&self, like: &Server) -> Server {
        like.elsewhere(&self.host, self.port)
    }
}

/// The nodes that hold the same keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Shard {
    /// Its slots: first and last of each range, in order. A shard may have none.
    pub(super) slots: Vec<(u16, u16)>,
    /// Its nodes, in the order of their names.
    pub(super) nodes: Vec<Node>,
}

impl Shard {
    /// Returns the node that takes writes.
    pub(super) fn primary(&self) -> Option<&Node> {
        let mut primaries: Vec<&Node> = self.nodes.iter().filter(|node| node.is_primary).collect();
        // Behind a failover the old one may still be listed.
        primaries.sort_by_key(|node| !node.is_online);
        primaries.first().copied()
    }

    /// Returns whether it has a slot.
    pub(super) fn has(&self, slot: u16) -> bool {
        self.slots.iter().any(|(first, last)| (*first..=*last).contains(&slot))
    }
}

/// Who has what in a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SlotMap {
    /// The shards in the order of their first slots; those without slots come last.
    pub(super) shards: Vec<Shard>,
}

impl SlotMap {
    /// Asks one node for the whole map.
    pub(super) async fn ask(control: &mut Control) -> Result<Self> {
        let server = control.server();
        let told: Result<Value> = control.ask(&["CLUSTER", "SHARDS"]).await;
        let map = match told {
            Ok(shards) => Self::of_shards(&shards, &server),
            // Before 7.0 the server does not know the word; a user may have been given only the older one.
            Err(_) => Self::of_slots(&control.ask(&["CLUSTER", "SLOTS"]).await?, &server),
        };
        map.ok_or_else(|| {
            Failure::new(ExitCode::SourceDown, format!("{} tells no map of its cluster", server.shown()))
                .hint("Check with `redis-cli cluster shards` whether the node has joined its cluster.")
        })
    }

    /// Returns the shard that has a slot.
    pub(super) fn shard_of(&self, slot: u16) -> Option<&Shard> {
        self.shards.iter().find(|shard| shard.has(slot))
    }

    /// Returns the shards that have slots.
    pub(super) fn with_slots(&self) -> impl Iterator<Item = &Shard> {
        self.shards.iter().filter(|shard| !shard.slots.is_empty())
    }

    /// Returns all nodes that take writes, those without slots included.
    pub(super) fn primaries(&self) -> impl Iterator<Item = &Node> {
        self.shards.iter().filter_map(Shard::primary)
    }

    /// Returns the ranges of slots that nobody has.
    pub(super) fn uncovered(&self) -> Vec<(u16, u16)> {
        let mut ranges: Vec<(u16, u16)> = self.shards.iter().flat_map(|shard| shard.slots.clone()).collect();
        ranges.sort_unstable();
        let (mut next, mut holes) = (0, Vec::new());
        for (first, last) in ranges.into_iter().chain([(SLOTS, SLOTS)]) {
            if first > next {
                holes.push((next, first - 1));
            }
            next = next.max(last.saturating_add(1));
        }
        holes
    }

    fn in_order(mut shards: Vec<Shard>) -> Self {
        for shard in &mut shards {
            shard.slots.sort_unstable();
            shard.nodes.sort_by(|one, other| one.id.cmp(&other.id));
        }
        shards.sort_by_key(|shard| shard.slots.first().map_or(SLOTS, |range| range.0));
        Self { shards }
    }

    /// Reads the answer to `CLUSTER SHARDS`: a list of maps of `slots` and `nodes`.
    fn of_shards(told: &Value, asked: &Server) -> Option<Self> {
        let shard = |told: &Value| {
            let bounds: Vec<u16> =
                list(field(told, "slots")?)?.iter().map(whole::<u16>).collect::<Option<_>>()?;
            let slots = bounds.chunks(2).map(range).collect::<Option<_>>()?;
            let nodes = list(field(told, "nodes")?)?.iter().map(|node| Self::node(node, asked));
            Some(Shard { slots, nodes: nodes.collect::<Option<_>>()? })
        };
        Some(Self::in_order(list(told)?.iter().map(shard).collect::<Option<_>>()?))
    }

    fn node(told: &Value, asked: &Server) -> Option<Node> {
        let named = |name: &str| field(told, name).and_then(text).filter(|text| is_address(text));
        let own = if asked.is_encrypted() { "tls-port" } else { "port" };
        let port = field(told, own).or_else(|| field(told, "port"))?;
        Some(Node {
            id: text(field(told, "id")?)?,
            host: named("endpoint").or_else(|| named("ip")).unwrap_or_else(|| asked.host()),
            port: whole(port)?,
            is_primary: text(field(told, "role")?)? == "master",
            is_online: field(told, "health").and_then(text).is_none_or(|health| health == "online"),
            offset: field(told, "replication-offset").and_then(whole).unwrap_or_default(),
        })
    }

    /// Reads the answer to `CLUSTER SLOTS`: first slot, last slot, the primary, its replicas; a line for each range.
    fn of_slots(told: &Value, asked: &Server) -> Option<Self> {
        let mut shards: Vec<Shard> = Vec::new();
        for line in list(told)? {
            let [first, last, nodes @ ..] = list(line)? else { return None };
            let node = |(index, told): (usize, &Value)| {
                let fields = list(told)?;
                Some(Node {
                    id: fields.get(2).and_then(text)?,
                    host: fields
                        .first()
                        .and_then(text)
                        .filter(|text| is_address(text))
                        .unwrap_or_else(|| asked.host()),
                    port: whole(fields.get(1)?)?,
                    is_primary: index == 0,
                    is_online: true,
                    offset: 0,
                })
            };
            let nodes: Vec<Node> = nodes.iter().enumerate().map(node).collect::<Option<_>>()?;
            let slots = range(&[whole(first)?, whole(last)?])?;
            match shards.iter_mut().find(|shard| shard.nodes.first() == nodes.first()) {
                Some(shard) => shard.slots.push(slots),
                None => shards.push(Shard { slots: vec![slots], nodes }),
            }
        }
        Some(Self::in_order(shards))
    }
}

/// Returns a range of slots, if it is one.
fn range(bounds: &[u16]) -> Option<(u16, u16)> {
    match *bounds {
        [first, last] if first <= last && last < SLOTS => Some((first, last)),
        _ => None,
    }
}

/// Returns whether it is a name or address: `?` stands for one that is wanted and not known.
fn is_address(text: &str) -> bool {
    !text.is_empty() && text != "?"
}

fn list(value: &Value) -> Option<&[Value]> {
    match value {
        Value::Array(values) => Some(values),
        _ => None,
    }
}

/// Returns an answer as text, if it is one.
pub(super) fn text(value: &Value) -> Option<String> {
    match value {
        Value::BulkString(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
        Value::SimpleString(text) => Some(text.clone()),
        _ => None,
    }
}

fn whole<T: TryFrom<i64>>(value: &Value) -> Option<T> {
    match value {
        Value::Int(number) => T::try_from(*number).ok(),
        _ => None,
    }
}

/// Returns a field of a map, which is a list of names and values.
fn field<'a>(map: &'a Value, name: &str) -> Option<&'a Value> {
    let pairs = list(map)?;
    pairs.chunks_exact(2).find(|pair| text(&pair[0]).as_deref() == Some(name)).map(|pair| &pair[1])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{names::SourceName, policy::RedisConfig};

    fn asked() -> Server {
        let config = RedisConfig { url: "redis://seed:7000".to_owned(), ..RedisConfig::default() };
        Server::of(&SourceName::new("redis").unwrap(), &config).unwrap()
    }

    fn said(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    fn all(values: Vec<Value>) -> Value {
        Value::Array(values)
    }

    fn shard_node(id: &str, endpoint: Value, role: &str, health: &str) -> Value {
        let pairs = [
            ("id", said(id)),
            ("port", Value::Int(6379)),
            ("ip", said("10.0.0.9")),
            ("endpoint", endpoint),
            ("role", said(role)),
            ("replication-offset", Value::Int(42)),
            ("health", said(health)),
        ];
        all(pairs.into_iter().flat_map(|(name, value)| [said(name), value]).collect())
    }

    #[test]
    fn slots_are_those_of_the_specification() {
        // From the cluster's specification, and `CLUSTER KEYSLOT` of a server.
        assert_eq!(slot_of(b"123456789"), 12_739);
        assert_eq!((slot_of(b""), slot_of(b"foo"), slot_of(b"somekey")), (0, 12_182, 11_058));
        assert_eq!(slot_of(b"foo{hash_tag}"), 2515);
        assert_eq!(slot_of(b"{user1000}.following"), slot_of(b"user1000"));
        assert_eq!(slot_of(b"foo{bar}{zap}"), slot_of(b"bar"));
        assert_eq!(slot_of(b"foo{{bar}}zap"), slot_of(b"{bar"));
        // Nothing in the braces: the whole key counts.
        assert_ne!(slot_of(b"foo{}{bar}"), slot_of(b"bar"));
    }

    #[test]
    fn shards_are_read_and_a_node_without_an_address_is_where_it_was_asked() {
        let told = all(vec![
            all(vec![
                said("slots"),
                all([8192, 16_383].map(Value::Int).to_vec()),
                said("nodes"),
                all(vec![shard_node("c", said("?"), "master", "online")]),
            ]),
            all(vec![
                said("slots"),
                all([100, 8191, 0, 98].map(Value::Int).to_vec()),
                said("nodes"),
                all(vec![
                    shard_node("b", said("b.example"), "master", "online"),
                    shard_node("a", Value::Nil, "replica", "loading"),
                ]),
            ]),
        ]);
        let map = SlotMap::of_shards(&told, &asked()).unwrap();
        assert_eq!(map.uncovered(), [(99, 99)]);
        assert_eq!(map.shards[0].slots, [(0, 98), (100, 8191)]);
        let hosts: Vec<&str> = map.shards[0].nodes.iter().map(|node| node.host.as_str()).collect();
        assert_eq!(hosts, ["10.0.0.9", "b.example"]);
        assert_eq!(map.shard_of(5).and_then(Shard::primary).unwrap().id, "b");
        assert!(!map.shards[0].nodes[0].is_online);
        assert_eq!((map.shard_of(99), map.primaries().count()), (None, 2));
    }

    #[test]
    fn slots_are_read_where_shards_are_not_known() {
        let node = |id: &str, host: Value| all(vec![host, Value::Int(7001), said(id)]);
        let told = all(vec![
            all(vec![Value::Int(0), Value::Int(10), node("a", said("h")), node("b", said("i"))]),
            all(vec![Value::Int(12), Value::Int(16_383), node("a", said("h")), node("b", said("i"))]),
            all(vec![Value::Int(11), Value::Int(11), node("c", Value::Nil)]),
        ]);
        let map = SlotMap::of_slots(&told, &asked()).unwrap();
        assert_eq!(map.uncovered(), []);
        assert_eq!(map.shards[0].slots, [(0, 10), (12, 16_383)]);
        assert!(map.shards[0].nodes[0].is_primary && !map.shards[0].nodes[1].is_primary);
        assert_eq!(map.shard_of(11).and_then(Shard::primary).unwrap().host, "seed");
    }

    #[test]
    fn an_answer_that_is_no_map_is_not_taken_for_one() {
        let shards = |bounds: &[i64]| {
            let slots = all(bounds.iter().copied().map(Value::Int).collect());
            let told = all(vec![all(vec![said("slots"), slots, said("nodes"), all(vec![])])]);
            SlotMap::of_shards(&told, &asked())
        };
        assert!(shards(&[0, 5]).is_some());
        for wrong in [&[0_i64, 16_384][..], &[5, 4], &[0, 5, 7], &[-1, 5], &[0, 65_536]] {
            assert_eq!(shards(wrong), None, "{wrong:?}");
        }
        assert_eq!(SlotMap::of_slots(&all(vec![all(vec![Value::Int(0)])]), &asked()), None);
    }

    proptest! {
        #[test]
        fn only_the_tag_decides(tag in "[^{}]{1,9}", before in "[^{}]{0,9}", behind in ".{0,9}") {
            prop_assert_eq!(slot_of(format!("{before}{{{tag}}}{behind}").as_bytes()), slot_of(tag.as_bytes()));
        }
    }
}
