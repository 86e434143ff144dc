//! What is on one side only, or another one, is found; and nothing else.

use proptest::prelude::*;

use super::*;
use crate::flow::{Stage, fixed_path};

fn seen(path: &str, content: u8) -> Seen {
    let meta = EntryMeta::new(fixed_path(path), Stage::Data, "x").with("mode", "0600");
    Seen { meta, trailer: Attrs::new(), sha256: hex::encode([content; 32]), size_bytes: 3 }
}

#[derive(Default)]
struct Heard(Vec<(String, Oddity)>);

impl Observer for Heard {
    fn differs(&mut self, difference: Difference) {
        self.0.push((difference.meta.path.to_string(), difference.oddity));
    }
}

/// Shows both sides to a comparison as `compare` does: one of each in turn.
fn run(stored: &[(u8, u8)], found: &[(u8, u8)], waiting_max: usize) -> (Compared, Vec<(String, Oddity)>) {
    let mut heard = Heard::default();
    let mut comparison = Comparison::new(&Exact, &mut heard, waiting_max);
    let entry = |(name, content): &(u8, u8)| seen(&format!("{name:03}"), *content);
    let mut left = stored.iter();
    for one in found {
        comparison.found(entry(one), None);
        match left.next() {
            Some(two) => comparison.stored(entry(two)),
            None => comparison.stored_ended(),
        }
    }
    comparison.found_ended();
    left.for_each(|two| comparison.stored(entry(two)));
    let compared = comparison.finish();
    heard.0.sort();
    (compared, heard.0)
}

proptest! {
    /// In whatever order the sides come, exactly what differs is found.
    #[test]
    fn any_order_finds_exactly_what_differs(
        stored in prop::collection::btree_map(any::<u8>(), 0_u8..3, 0..60).prop_map(Vec::from_iter).prop_shuffle(),
        found in prop::collection::btree_map(any::<u8>(), 0_u8..3, 0..60).prop_map(Vec::from_iter).prop_shuffle(),
    ) {
        let (one, two): (BTreeMap<u8, u8>, BTreeMap<u8, u8>) =
            (stored.iter().copied().collect(), found.iter().copied().collect());
        let mut expected = Vec::new();
        for (name, content) in &one {
            match two.get(name) {
                None => expected.push((format!("{name:03}"), Oddity::Missing)),
                Some(other) if other != content => expected.push((format!("{name:03}"), Oddity::Different)),
                Some(_) => {}
            }
        }
        let extra = two.keys().filter(|name| !one.contains_key(name));
        expected.extend(extra.map(|name| (format!("{name:03}"), Oddity::Extra)));
        expected.sort();
        let (compared, heard) = run(&stored, &found, usize::MAX);
        prop_assert_eq!(&heard, &expected);
        prop_assert_eq!(compared.odd(), expected.len() as u64);
        prop_assert_eq!(compared.counts.get("entries").copied().unwrap_or(0), found.len() as u64);
    }

    /// With too little room, nothing is ever said to differ that does not, and it is never said to be the same.
    #[test]
    fn without_room_nothing_false_is_said(
        names in prop::collection::btree_set(any::<u8>(), 2..60),
        order in any::<u64>(),
        room in 0_usize..4,
    ) {
        let stored: Vec<(u8, u8)> = names.iter().map(|name| (*name, 0)).collect();
        let mut found = stored.clone();
        found.sort_by_key(|(name, _)| u64::from(*name).wrapping_mul(order | 1).rotate_left(23));
        let (compared, heard) = run(&stored, &found, room);
        prop_assert_eq!(heard, vec![]);
        prop_assert_eq!((compared.stored, compared.found), (stored.len() as u64, found.len() as u64));
        prop_assert_eq!(compared.is_same(), compared.same == stored.len() as u64);
    }
}

#[test]
fn sides_in_one_order_need_no_room() {
    let all: Vec<(u8, u8)> = (0..200).map(|n| (n, 1)).collect();
    let (compared, heard) = run(&all, &all, 1);
    assert!(compared.is_same() && compared.same == 200 && heard.is_empty());
}

#[test]
fn what_differs_is_named_by_its_facts() {
    let (mut one, mut two) = (seen("a", 1), seen("a", 2));
    let object = |pairs: &[(&str, &str)]| -> serde_json::Value {
        pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).into()))
            .collect::<serde_json::Map<_, _>>()
            .into()
    };
    one.meta = one.meta.with("headers", object(&[("content-type", "a"), ("expires", "x")]));
    two.meta = two.meta.with("headers", object(&[("content-type", "b"), ("expires", "x")]));
    two.meta = two.meta.with("tags", object(&[("owner", "me")])).with("mode", "0644");
    two.size_bytes = 4;
    assert_eq!(differences(&one, &two), ["size", "content", "content-type", "mode", "tags owner"]);
    two.sha256.clear();
    assert!(
        !differences(&one, &two).contains(&"content".to_owned()),
        "bytes that nobody read are not compared"
    );
}
