//! Two sets of things, rows or keys, that come in any order and are far too many to remember: which of them differ?
//!
//! *Order.* First each side is summed up: a thing's key picks one of [`BUCKETS`] buckets, and each bucket has a sum of
//! digests that does not depend on their order. Buckets that are equal hold the same. Then both sides are read once
//! more, and only things of unequal buckets are looked at ([`Listing`]): equal ones cancel out, and the rest is what
//! differs.
//!
//! *Limits.* [`Sums`] take 3 MiB. A listing looks at buckets that hold [`LISTED_MAX`] things together; things of more
//! unequal buckets than that are counted as far as the sums tell, and not named.

use std::collections::HashMap;

use sha2::{Digest, Sha256};

use super::Oddity;

/// How many buckets there are.
pub const BUCKETS: usize = 1 << 16;
/// Things that one listing may look at.
pub const LISTED_MAX: u64 = 1 << 17;

/// A sum of digests that does not depend on their order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum([u64; 4]);

impl Sum {
    /// Adds one digest.
    pub fn add(&mut self, digest: &[u8; 32]) {
        for (lane, bytes) in self.0.iter_mut().zip(digest.chunks_exact(8)) {
            let mut eight = [0; 8];
            eight.copy_from_slice(bytes);
            *lane = lane.wrapping_add(u64::from_le_bytes(eight));
        }
    }

    /// Returns the sum as bytes.
    pub fn bytes(self) -> [u8; 32] {
        let mut bytes = [0; 32];
        for (eight, lane) in bytes.chunks_exact_mut(8).zip(self.0) {
            eight.copy_from_slice(&lane.to_le_bytes());
        }
        bytes
    }
}

/// A thing: the digest of what names it, and the digest of all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thing {
    /// Of its key. Things without one are named by all that they are.
    pub key: [u8; 32],
    /// Of all of it.
    pub whole: [u8; 32],
}

impl Thing {
    /// Digests a key.
    pub fn key(parts: &[&[u8]]) -> [u8; 32] {
        let mut hash = Sha256::new();
        for part in parts {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        hash.finalize().into()
    }

    fn bucket(&self) -> usize {
        usize::from(u16::from_le_bytes([self.key[0], self.key[1]]))
    }
}

/// One side, summed up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sums {
    buckets: Vec<(u64, Sum)>,
}

impl Default for Sums {
    fn default() -> Self {
        Self { buckets: vec![(0, Sum::default()); BUCKETS] }
    }
}

impl Sums {
    /// Adds a thing.
    pub fn add(&mut self, thing: &Thing) {
        let (count, sum) = &mut self.buckets[thing.bucket()];
        *count += 1;
        sum.add(&thing.whole);
    }

    /// Returns how many things there are.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|(count, _)| count).sum()
    }
}

/// A thing that differs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Odd {
    /// What a person calls it.
    pub name: String,
    /// How it differs.
    pub oddity: Oddity,
    /// The numbers of the parts that differ, where the thing is there on both sides.
    pub parts: Vec<usize>,
}

/// What differs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Odds {
    /// The first ones, by name.
    pub named: Vec<Odd>,
    /// All of them.
    pub total: u64,
    /// Whether there may be even more: the limit was reached.
    pub is_open: bool,
}

/// One version of a thing that has no equal yet.
struct Version {
    whole: [u8; 32],
    name: String,
    parts: Vec<u64>,
}

#[derive(Default)]
struct Versions {
    stored: Vec<Version>,
    found: Vec<Version>,
}

/// Things of unequal buckets.
pub struct Listing {
    chosen: Vec<bool>,
    left: HashMap<[u8; 32], Versions>,
    /// Things that differ for sure in buckets that are not looked at.
    beyond: u64,
}

impl Listing {
    /// Chooses the buckets to look at; `None` when all are equal.
    pub fn of(stored: &Sums, found: &Sums) -> Option<Self> {
        Self::limited(stored, found, LISTED_MAX)
    }

    fn limited(stored: &Sums, found: &Sums, listed_max: u64) -> Option<Self> {
        let (mut chosen, mut room, mut beyond, mut any) = (vec![false; BUCKETS], listed_max, 0, false);
        for (at, (one, two)) in stored.buckets.iter().zip(&found.buckets).enumerate() {
            if one == two {
                continue;
            }
            let need = one.0 + two.0;
            // The first one is looked at whatever its size: something is to be named.
            if need <= room || !any {
                chosen[at] = true;
                room = room.saturating_sub(need);
            } else {
                beyond += one.0.abs_diff(two.0).max(1);
            }
            any = true;
        }
        any.then(|| Self { chosen, left: HashMap::new(), beyond })
    }

    /// Returns whether a thing is looked at.
    pub fn wants(&self, thing: &Thing) -> bool {
        self.chosen[thing.bucket()]
    }

    /// Takes a thing that was stored; `parts` are digests of its parts.
    pub fn stored(&mut self, thing: &Thing, name: String, parts: Vec<u64>) {
        let versions = self.left.entry(thing.key).or_default();
        put(&mut versions.found, &mut versions.stored, Version { whole: thing.whole, name, parts });
        self.forget(&thing.key);
    }

    /// Takes a thing that is there.
    pub fn found(&mut self, thing: &Thing, name: String, parts: Vec<u64>) {
        let versions = self.left.entry(thing.key).or_default();
        put(&mut versions.stored, &mut versions.found, Version { whole: thing.whole, name, parts });
        self.forget(&thing.key);
    }

    fn forget(&mut self, key: &[u8; 32]) {
        if self.left.get(key).is_some_and(|left| left.stored.is_empty() && left.found.is_empty()) {
            self.left.remove(key);
        }
    }

    /// Returns what differs; `named_max` of it with its name.
    pub fn finish(self, named_max: usize) -> Odds {
        let mut odds = Odds { total: self.beyond, is_open: self.beyond > 0, named: Vec::new() };
        for Versions { stored, found } in self.left.into_values() {
            let (mut stored, mut found) = (stored.into_iter(), found.into_iter());
            loop {
                let odd = match (stored.next(), found.next()) {
                    (None, None) => break,
                    (Some(one), None) => Odd { name: one.name, oddity: Oddity::Missing, parts: Vec::new() },
                    (None, Some(two)) => Odd { name: two.name, oddity: Oddity::Extra, parts: Vec::new() },
                    (Some(one), Some(two)) => {
                        let parts = one.parts.iter().zip(&two.parts).enumerate();
                        let parts = parts.filter(|(_, (a, b))| a != b).map(|(at, _)| at).collect();
                        Odd { name: one.name, oddity: Oddity::Different, parts }
                    }
                };
                odds.total += 1;
                odds.named.push(odd);
            }
        }
        odds.named.sort();
        odds.named.truncate(named_max);
        odds
    }
}

/// Cancels a version out with an equal one of the other side, or keeps it.
fn put(other: &mut Vec<Version>, own: &mut Vec<Version>, version: Version) {
    match other.iter().position(|one| one.whole == version.whole) {
        Some(at) => drop(other.swap_remove(at)),
        None => own.push(version),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn thing(key: u32, value: u32) -> Thing {
        let key = key.to_le_bytes();
        Thing { key: Thing::key(&[&key]), whole: Thing::key(&[&key, &value.to_le_bytes()]) }
    }

    fn odds(stored: &[(u32, u32)], found: &[(u32, u32)], listed_max: u64) -> Odds {
        let (mut one, mut two) = (Sums::default(), Sums::default());
        for (key, value) in stored {
            one.add(&thing(*key, *value));
        }
        for (key, value) in found {
            two.add(&thing(*key, *value));
        }
        let Some(mut listing) = Listing::limited(&one, &two, listed_max) else { return Odds::default() };
        let wanted = |all: &[(u32, u32)], listing: &Listing| -> Vec<(u32, u32)> {
            all.iter().copied().filter(|(k, v)| listing.wants(&thing(*k, *v))).collect()
        };
        for (key, value) in wanted(stored, &listing) {
            listing.stored(&thing(key, value), format!("{key:04}"), vec![0, u64::from(value)]);
        }
        for (key, value) in wanted(found, &listing) {
            listing.found(&thing(key, value), format!("{key:04}"), vec![0, u64::from(value)]);
        }
        listing.finish(usize::MAX)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// Every edit is named and nothing else, in whatever order the two sides come.
        #[test]
        fn every_edit_is_named_and_nothing_else(
            rows in prop::collection::btree_map(0_u32..2000, any::<u32>(), 0..300),
            edits in prop::collection::btree_map(0_u32..2000, prop::option::of(any::<u32>()), 0..30),
            seed in any::<u64>(),
        ) {
            let mut after = rows.clone();
            let mut expected = Vec::new();
            for (key, edit) in &edits {
                let name = format!("{key:04}");
                let odd = |oddity, parts: &[usize]| Odd { name: name.clone(), oddity, parts: parts.to_vec() };
                match (rows.get(key), edit) {
                    (Some(_), None) => expected.push(odd(Oddity::Missing, &[])),
                    (None, Some(_)) => expected.push(odd(Oddity::Extra, &[])),
                    (Some(before), Some(now)) if before != now => expected.push(odd(Oddity::Different, &[1])),
                    _ => {}
                }
                match edit {
                    None => drop(after.remove(key)),
                    Some(value) => drop(after.insert(*key, *value)),
                }
            }
            let stored: Vec<_> = rows.into_iter().collect();
            let mut found: Vec<_> = after.into_iter().collect();
            found.sort_by_key(|(key, _)| u64::from(*key).wrapping_mul(seed | 1).rotate_left(17));
            let odds = odds(&stored, &found, LISTED_MAX);
            prop_assert_eq!(odds.total, expected.len() as u64);
            prop_assert!(!odds.is_open);
            prop_assert_eq!(odds.named, expected);
        }

        /// Things without a key are counted as often as they are there.
        #[test]
        fn copies_are_counted(
            before in prop::collection::vec(0_u32..6, 0..40),
            after in prop::collection::vec(0_u32..6, 0..40),
        ) {
            let pairs = |all: &[u32]| -> Vec<(u32, u32)> { all.iter().map(|n| (*n, 0)).collect() };
            let mut balance = BTreeMap::<u32, i64>::new();
            for n in &before {
                *balance.entry(*n).or_default() += 1;
            }
            for n in &after {
                *balance.entry(*n).or_default() -= 1;
            }
            let odds = odds(&pairs(&before), &pairs(&after), LISTED_MAX);
            prop_assert_eq!(odds.total, balance.values().map(|n| n.unsigned_abs()).sum::<u64>());
        }
    }

    #[test]
    fn beyond_the_limit_something_is_named_and_the_rest_is_counted_as_far_as_it_is_known() {
        let stored: Vec<(u32, u32)> = (0..500).map(|n| (n, n)).collect();
        let odds = odds(&stored, &[], 10);
        assert!(odds.is_open && odds.total == 500, "{odds:?}");
        assert!((1..=11).contains(&odds.named.len()), "{}", odds.named.len());
    }
}
