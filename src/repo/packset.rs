//! The packs of many commits in little memory: each pack is kept once, and a commit holds numbers.
//!
//! A thousand snapshots of sixteen thousand packs name the same packs over and over; as maps they would take a
//! gigabyte.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard},
};

use crate::names::PackId;

/// Every pack that some commit names, with the size that it names.
#[derive(Debug, Default)]
struct Table {
    packs: Vec<(PackId, u64)>,
    numbers: HashMap<(PackId, u64), u32>,
}

/// A table that commits share. Clones share it too.
#[derive(Clone, Debug, Default)]
pub(super) struct PackTable(Arc<RwLock<Table>>);

/// The packs of one commit.
#[derive(Clone, Debug)]
pub struct PackSet {
    table: PackTable,
    numbers: Box<[u32]>,
}

impl PackTable {
    /// Keeps the packs of one commit.
    pub(super) fn keep(&self, packs: &BTreeMap<PackId, u64>) -> PackSet {
        let mut table = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let mut number = |pack: PackId, size_bytes: u64| {
            let Table { packs, numbers } = &mut *table;
            *numbers.entry((pack, size_bytes)).or_insert_with(|| {
                packs.push((pack, size_bytes));
                u32::try_from(packs.len() - 1).expect("a store has fewer packs than that")
            })
        };
        let numbers = packs.iter().map(|(pack, size_bytes)| number(*pack, *size_bytes)).collect();
        PackSet { table: self.clone(), numbers }
    }

    fn read(&self) -> RwLockReadGuard<'_, Table> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PackSet {
    /// Calls `each` with every pack and its size, in the order of their names.
    pub fn for_each(&self, mut each: impl FnMut(PackId, u64)) {
        let table = self.table.read();
        for number in &self.numbers {
            let (pack, size_bytes) = table.packs[*number as usize];
            each(pack, size_bytes);
        }
    }

    /// Returns whether one of the packs is as `wanted` says.
    pub fn any(&self, mut wanted: impl FnMut(&PackId) -> bool) -> bool {
        let table = self.table.read();
        self.numbers.iter().any(|number| wanted(&table.packs[*number as usize].0))
    }

    /// Returns the packs with their sizes.
    pub fn to_map(&self) -> BTreeMap<PackId, u64> {
        let table = self.table.read();
        self.numbers.iter().map(|number| table.packs[*number as usize]).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_was_kept_comes_back(
            all in prop::collection::vec(prop::collection::btree_map(0_u8..9, 0_u64..3, 0..9), 0..6),
        ) {
            let table = PackTable::default();
            let maps = all.iter().map(|map| map.iter().map(|(n, size)| (PackId([*n; 32]), *size)).collect());
            let maps: Vec<BTreeMap<PackId, u64>> = maps.collect();
            let kept: Vec<PackSet> = maps.iter().map(|map| table.keep(map)).collect();
            for (map, set) in maps.iter().zip(kept) {
                prop_assert_eq!(map, &set.to_map());
                let agrees = |n: u8| {
                    let pack = PackId([n; 32]);
                    set.any(|one| *one == pack) == map.contains_key(&pack)
                };
                prop_assert!((0..9).all(agrees));
            }
        }
    }
}
