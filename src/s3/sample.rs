//! Which objects of a bucket a reading takes byte for byte, where it does not take all.
//!
//! Each object draws a lot: a hash of the reading's seed, the bucket and the key. Those with the lowest lots are read.
//! So the same seed reads the same objects, in whatever order they come, and another seed reads others: over many
//! readings all objects have their turn.
//!
//! *Order.* A bucket's lots are counted before its first object is read; that ends as soon as enough of them are low.
//!
//! *Limits.* [`WHOLE_MIN`] lots are in memory, and the objects that are read whatever they draw.

use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use sha2::{Digest, Sha256};

/// So many objects of each bucket are read at least; a bucket with fewer is read whole.
pub const WHOLE_MIN: usize = 100;

/// A share of objects, drawn by lot.
#[derive(Clone, Debug)]
pub struct Sample {
    seed: String,
    percent: u32,
    /// Keys by bucket.
    chosen: BTreeMap<String, BTreeSet<String>>,
}

impl Sample {
    /// Takes `percent` of a hundred objects, and others with each seed.
    pub fn new(seed: &str, percent: u32) -> Self {
        Self { seed: seed.to_owned(), percent, chosen: BTreeMap::new() }
    }

    /// Takes an object whatever it draws.
    pub fn choose(&mut self, bucket: &str, key: &str) {
        self.chosen.entry(bucket.to_owned()).or_default().insert(key.to_owned());
    }

    /// Returns an object's lot; the lowest are read.
    pub fn lot(&self, bucket: &str, key: &[u8]) -> u64 {
        let mut hash = Sha256::new();
        // Neither a seed nor a bucket's name has a zero byte.
        for part in [self.seed.as_bytes(), b"\0", bucket.as_bytes(), b"\0", key] {
            hash.update(part);
        }
        hash.finalize().first_chunk().map_or(0, |first| u64::from_be_bytes(*first))
    }

    /// Begins to count a bucket's lots.
    pub(super) fn count(&self) -> Lots {
        let share = u128::from(u64::MAX) * u128::from(self.percent.min(100)) / 100;
        Lots { share: u64::try_from(share).unwrap_or(u64::MAX), lowest: BinaryHeap::new(), within: 0 }
    }

    /// Returns whether an object is read when lots up to `limit` are.
    pub(super) fn takes(&self, bucket: &str, key: &str, limit: u64) -> bool {
        self.lot(bucket, key.as_bytes()) <= limit
            || self.chosen.get(bucket).is_some_and(|keys| keys.contains(key))
    }
}

/// The lots of a bucket, counted until it is known which of them are read.
pub(super) struct Lots {
    /// The highest lot within the share.
    share: u64,
    /// The lowest lots, the highest of them on top.
    lowest: BinaryHeap<u64>,
    /// Lots within the share.
    within: usize,
}

impl Lots {
    /// Counts one; returns whether enough are known.
    pub(super) fn add(&mut self, lot: u64) -> bool {
        self.within += usize::from(lot <= self.share);
        self.lowest.push(lot);
        if self.lowest.len() > WHOLE_MIN {
            self.lowest.pop();
        }
        self.within >= WHOLE_MIN
    }

    /// Returns the highest lot that is read.
    pub(super) fn limit(&self) -> u64 {
        match self.lowest.peek() {
            Some(highest) if self.lowest.len() >= WHOLE_MIN => self.share.max(*highest),
            // All of it.
            _ => u64::MAX,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Returns which of `count` objects are read.
    fn read(sample: &Sample, keys: impl Iterator<Item = u32> + Clone) -> Vec<u32> {
        let mut lots = sample.count();
        for key in keys.clone() {
            if lots.add(sample.lot("im-files", key.to_string().as_bytes())) {
                break;
            }
        }
        let limit = lots.limit();
        keys.filter(|key| sample.takes("im-files", &key.to_string(), limit)).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn the_share_is_near_and_never_below_the_minimum(seed: String, percent in 1..=100_u32, count in 0..8000_u32) {
            let read = read(&Sample::new(&seed, percent), 0..count).len();
            let least = WHOLE_MIN.min(count as usize);
            prop_assert!(read >= least, "{read} of {count}");
            let expected = f64::from(count) * f64::from(percent) / 100.0;
            // Six times the scatter of a draw of so many, and some for draws of few: once in a billion.
            let scatter = 10.0 + 6.0 * (expected * (1.0 - f64::from(percent) / 100.0)).sqrt();
            let most = (expected + scatter).max(least as f64);
            prop_assert!(read as f64 <= most && read as f64 >= expected - scatter, "{read} of {count} at {percent}%");
            if percent == 100 {
                prop_assert_eq!(read, count as usize);
            }
        }

        #[test]
        fn one_seed_reads_the_same_objects_in_any_order_and_another_seed_others(seed in "[a-z]{1,8}") {
            let sample = Sample::new(&seed, 10);
            let forward = read(&sample, 0..3000);
            let mut backward = read(&sample, (0..3000).rev());
            backward.reverse();
            prop_assert_eq!(&forward, &backward);
            let other = read(&Sample::new(&format!("{seed}'"), 10), 0..3000);
            let both = forward.iter().filter(|key| other.contains(key)).count();
            prop_assert!(both * 2 < forward.len(), "{both} of {} are the same", forward.len());
        }
    }

    #[test]
    fn over_many_readings_every_object_has_its_turn() {
        let mut seen = BTreeSet::new();
        for drill in 0..100 {
            seen.extend(read(&Sample::new(&drill.to_string(), 20), 0..1000));
        }
        assert_eq!(seen.len(), 1000);
    }

    #[test]
    fn a_small_bucket_is_read_whole_and_a_larger_one_in_part() {
        let sample = Sample::new("seed", 1);
        assert_eq!(read(&sample, 0..100).len(), 100);
        assert_eq!(read(&sample, 0..101).len(), WHOLE_MIN);
        assert_eq!(read(&sample, 0..9000).len(), WHOLE_MIN, "one in a hundred would be fewer");
    }

    #[test]
    fn what_was_chosen_is_read_whatever_it_draws() {
        let mut sample = Sample::new("seed", 1);
        assert!(!sample.takes("im-files", "a", 0));
        sample.choose("im-files", "a");
        assert!(sample.takes("im-files", "a", 0));
        assert!(!sample.takes("other", "a", 0), "its neighbour of the same name is another object");
    }

    #[test]
    fn each_bucket_draws_for_itself() {
        let sample = Sample::new("seed", 1);
        assert_ne!(sample.lot("a", b"bc"), sample.lot("ab", b"c"));
    }
}
