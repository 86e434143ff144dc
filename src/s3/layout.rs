//! How an object that was made in parts was cut, told by its `ETag`.
//!
//! Such an `ETag` is the MD5 of the parts' MD5s and their count. Who made the object chose one size for all parts but
//! the last, nearly always a round one. So of the few sizes that give that count each is tried beside the others
//! while the bytes pass by. One that gives the `ETag` proves the bytes, and with parts of that size the object gets
//! the same `ETag` again.
//!
//! A server that tells the sizes of the parts is asked: one size is tried then, or the sizes as they are where they are
//! uneven.

use md5::{Digest, Md5};

/// The trailer's name for the size of the parts that an object was made in.
pub(super) const PART_SIZE: &str = "part_bytes";

/// Parts that S3 allows.
pub(super) const PARTS_MAX: u64 = 10_000;
/// Sizes of parts in MiB that programs choose, the more usual before the others.
const USUAL_MIB: [u64; 32] = [
    8, 16, 5, 64, 10, 15, 32, 128, 20, 25, 50, 100, 6, 7, 9, 12, 24, 30, 40, 48, 60, 80, 96, 150, 200, 250,
    256, 300, 400, 500, 512, 1024,
];
/// Sizes in millions of bytes that programs choose.
const USUAL_MILLIONS: [u64; 8] = [5, 8, 10, 16, 20, 50, 64, 100];
/// Parts up to which each is asked for its size, where they are not all alike.
pub(super) const PARTS_ASKED_MAX: u64 = 100;
/// Sizes that are tried beside each other: each costs an MD5 over all bytes.
const TRIES_MAX: usize = 8;

/// Returns how many parts an `ETag` tells of, with the hash; `None` where it is of another form.
fn parse(etag: &str) -> Option<(&str, u64)> {
    let (hash, count) = etag.split_once('-')?;
    let count = count.parse().ok().filter(|count| (1..=PARTS_MAX).contains(count))?;
    super::listing::is_md5(hash).then_some((hash, count))
}

/// Returns the sizes of parts that an object of this `ETag` and size may be made of, the likeliest first.
fn fitting(count: u64, size_bytes: u64) -> Vec<u64> {
    if count == 1 {
        // One part of whatever size: all of it.
        return vec![size_bytes.max(1)];
    }
    let usual = USUAL_MIB.map(|mib| mib << 20).into_iter().chain(USUAL_MILLIONS.map(|n| n * 1_000_000));
    let even = size_bytes.div_ceil(count);
    let mut sizes: Vec<u64> = Vec::new();
    for size in usual.chain([even.div_ceil(1 << 20) << 20, even]) {
        if size > 0 && size_bytes.div_ceil(size) == count && !sizes.contains(&size) {
            sizes.push(size);
        }
    }
    sizes.truncate(TRIES_MAX);
    sizes
}

/// Returns how many parts an object has that a server may be asked about, `None` where there is nothing to ask.
pub(super) fn askable(etag: &str) -> Option<u64> {
    parse(etag).map(|(_, count)| count).filter(|count| *count > 1)
}

/// How an object was cut, as its server tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Cuts {
    /// All parts but the last have this size.
    Even(u64),
    /// The sizes of the parts in their order.
    Sizes(Vec<u64>),
}

impl Cuts {
    /// Returns the cuts of an object whose first and last part have these sizes, if that tells those of the others:
    /// uneven parts give that sum by the rarest chance, and are then no proof.
    pub(super) fn of_ends(count: u64, (first, last): (u64, u64), size_bytes: u64) -> Option<Self> {
        let sum = first.checked_mul(count.checked_sub(1)?)?.checked_add(last)?;
        (first > 0 && first >= last && sum == size_bytes).then_some(Self::Even(first))
    }

    /// Returns the cuts of an object whose parts have these sizes, if they are all of it.
    pub(super) fn of_all(sizes: Vec<u64>, size_bytes: u64) -> Option<Self> {
        let sum = sizes.iter().try_fold(0_u64, |sum, size| sum.checked_add(*size))?;
        (sum == size_bytes).then_some(Self::Sizes(sizes))
    }
}

/// What the bytes of an object were proven with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Proven {
    /// Parts of this size, all but the last.
    Even(u64),
    /// Parts of several sizes.
    Uneven,
}

/// Returns the likeliest size of the parts that an object was made in, `None` where it was not.
pub(super) fn likely(etag: &str, size_bytes: u64) -> Option<u64> {
    fitting(parse(etag)?.1, size_bytes).first().copied()
}

/// Tries to prove bytes by an `ETag` while they pass by.
pub(super) struct Prover {
    hash: String,
    tries: Vec<Try>,
}

/// One way in which an object may have been cut.
struct Try {
    cuts: Cuts,
    /// Which part is in hand.
    at: usize,
    /// Bytes that the part in hand lacks.
    left: u64,
    part: Md5,
    whole: Md5,
}

impl Prover {
    /// Begins; `None` where the `ETag` is not that of an object made in parts. What the server tells is believed as
    /// far as the bytes give the `ETag` with it.
    pub(super) fn new(etag: &str, size_bytes: u64, told: Option<Cuts>) -> Option<Self> {
        let (hash, count) = parse(etag)?;
        let all = told.map_or_else(
            || fitting(count, size_bytes).into_iter().map(Cuts::Even).collect(),
            |cuts| vec![cuts],
        );
        Some(Self { hash: hash.to_owned(), tries: all.into_iter().map(Try::new).collect() })
    }

    /// Takes the next bytes.
    pub(super) fn update(&mut self, bytes: &[u8]) {
        for one in &mut self.tries {
            let mut rest = bytes;
            while !rest.is_empty() {
                if one.left == 0 {
                    one.fold();
                }
                let (now, later) =
                    rest.split_at(rest.len().min(usize::try_from(one.left).unwrap_or(usize::MAX)));
                one.part.update(now);
                one.left -= now.len() as u64;
                rest = later;
            }
        }
    }

    /// Returns with which cuts the bytes give the `ETag`, if there are such.
    pub(super) fn finish(self) -> Option<Proven> {
        let hash = self.hash;
        self.tries.into_iter().find_map(|mut one| {
            one.fold();
            let is_it = hex::encode(one.whole.finalize()) == hash;
            is_it.then_some(match one.cuts {
                Cuts::Even(part_bytes) => Proven::Even(part_bytes),
                Cuts::Sizes(_) => Proven::Uneven,
            })
        })
    }
}

impl Try {
    fn new(cuts: Cuts) -> Self {
        let mut one = Self { cuts, at: 0, left: 0, part: Md5::new(), whole: Md5::new() };
        one.left = one.size();
        one
    }

    /// Returns the size of the part in hand.
    fn size(&self) -> u64 {
        match &self.cuts {
            Cuts::Even(part_bytes) => *part_bytes,
            // More bytes than the parts have are no part of the object.
            Cuts::Sizes(sizes) => sizes.get(self.at).copied().unwrap_or(u64::MAX),
        }
    }

    fn fold(&mut self) {
        self.whole.update(self.part.finalize_reset());
        self.at += 1;
        self.left = self.size();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn etag(bytes: &[u8], part_bytes: usize) -> String {
        let parts: Vec<_> = bytes.chunks(part_bytes).map(Md5::digest).collect();
        format!("{}-{}", hex::encode(Md5::digest(parts.concat())), parts.len())
    }

    #[test]
    fn usual_sizes_are_found_and_a_changed_byte_proves_nothing() {
        let mut bytes: Vec<u8> =
            (0..21_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        for part_bytes in [5 << 20, 8 << 20, 16 << 20, 10_000_000, 21_000_000, 7_000_000, 40 << 20] {
            let etag = etag(&bytes, part_bytes);
            let mut prover = Prover::new(&etag, bytes.len() as u64, None).unwrap();
            bytes.chunks(1_000_003).for_each(|some| prover.update(some));
            let found = Proven::Even(part_bytes.min(bytes.len()) as u64);
            assert_eq!(prover.finish(), Some(found), "{etag}");
        }
        let etag = etag(&bytes, 8 << 20);
        bytes[20_000_000] ^= 1;
        let mut prover = Prover::new(&etag, bytes.len() as u64, None).unwrap();
        prover.update(&bytes);
        assert_eq!(prover.finish(), None);
    }

    #[test]
    fn uneven_parts_are_proven_with_the_sizes_that_a_server_tells_and_no_others() {
        let bytes: Vec<u8> = (0..1000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let parts = [&bytes[..300], &bytes[300..800], &bytes[800..]];
        let sums: Vec<_> = parts.iter().map(Md5::digest).collect();
        let etag = format!("{}-3", hex::encode(Md5::digest(sums.concat())));
        for (sizes, found) in
            [(vec![300, 500, 200], Some(Proven::Uneven)), (vec![300, 501, 199], None), (vec![300, 700], None)]
        {
            let mut prover = Prover::new(&etag, 1000, Cuts::of_all(sizes, 1000)).unwrap();
            bytes.chunks(77).for_each(|some| prover.update(some));
            assert_eq!(prover.finish(), found);
        }
        for less_or_more in [vec![300, 500], vec![600, 500], vec![u64::MAX, u64::MAX]] {
            assert_eq!(Cuts::of_all(less_or_more, 1000), None);
        }
        // The ends tell of even parts, and not where parts of that first size would be as many.
        assert_eq!(Cuts::of_ends(3, (400, 200), 1000), Some(Cuts::Even(400)));
        for (count, ends) in [(3, (400, 300)), (3, (300, 400)), (2, (u64::MAX, 1)), (3, (0, 1000))] {
            assert_eq!(Cuts::of_ends(count, ends, 1000), None, "{ends:?}");
        }
        assert_eq!(askable("d41d8cd98f00b204e9800998ecf8427e-1"), None);
    }

    #[test]
    fn only_the_etag_of_an_object_made_in_parts_tells_of_parts() {
        let plain = "d41d8cd98f00b204e9800998ecf8427e";
        assert_eq!(likely(&format!("{plain}-7"), 100 << 20), Some(16 << 20));
        for other in [plain.to_owned(), format!("{plain}-0"), format!("{plain}-10001"), format!("{plain}-x")]
        {
            assert_eq!(likely(&other, 100 << 20), None, "{other}");
        }
        // More parts than bytes: no size fits, and nothing is proven.
        assert_eq!(likely(&format!("{plain}-7"), 3), None);
    }

    proptest! {
        #[test]
        fn a_size_that_fits_gives_that_many_parts(count in 1..=PARTS_MAX, size_bytes in 1..=u64::from(u32::MAX) << 10) {
            for part_bytes in fitting(count, size_bytes) {
                prop_assert_eq!(size_bytes.div_ceil(part_bytes), count);
            }
        }
    }
}
