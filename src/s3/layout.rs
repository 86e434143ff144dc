//! How an object that was made in parts was cut, told by its `ETag`.
//!
//! Such an `ETag` is the MD5 of the parts' MD5s and their count. Who made the object chose one size for all parts but
//! the last, nearly always a round one. So of the few sizes that give that count each is tried beside the others
//! while the bytes pass by. One that gives the `ETag` proves the bytes, and with parts of that size the object gets
//! the same `ETag` again.

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

/// Returns the likeliest size of the parts that an object was made in, `None` where it was not.
pub(super) fn likely(etag: &str, size_bytes: u64) -> Option<u64> {
    fitting(parse(etag)?.1, size_bytes).first().copied()
}

/// Tries to prove bytes by an `ETag` while they pass by.
pub(super) struct Prover {
    hash: String,
    tries: Vec<Try>,
}

/// One size of parts.
struct Try {
    part_bytes: u64,
    /// Bytes that the part in hand lacks.
    left: u64,
    part: Md5,
    whole: Md5,
}

impl Prover {
    /// Begins; `None` where the `ETag` is not that of an object made in parts.
    pub(super) fn new(etag: &str, size_bytes: u64) -> Option<Self> {
        let (hash, count) = parse(etag)?;
        let begin = |part_bytes| Try { part_bytes, left: part_bytes, part: Md5::new(), whole: Md5::new() };
        let tries = fitting(count, size_bytes).into_iter().map(begin).collect();
        Some(Self { hash: hash.to_owned(), tries })
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

    /// Returns the size of the parts with which the bytes give the `ETag`, if there is one.
    pub(super) fn finish(self) -> Option<u64> {
        let hash = self.hash;
        self.tries.into_iter().find_map(|mut one| {
            one.fold();
            (hex::encode(one.whole.finalize()) == hash).then_some(one.part_bytes)
        })
    }
}

impl Try {
    fn fold(&mut self) {
        self.whole.update(self.part.finalize_reset());
        self.left = self.part_bytes;
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
            let mut prover = Prover::new(&etag, bytes.len() as u64).unwrap();
            bytes.chunks(1_000_003).for_each(|some| prover.update(some));
            assert_eq!(prover.finish(), Some(part_bytes.min(bytes.len()) as u64), "{etag}");
        }
        let etag = etag(&bytes, 8 << 20);
        bytes[20_000_000] ^= 1;
        let mut prover = Prover::new(&etag, bytes.len() as u64).unwrap();
        prover.update(&bytes);
        assert_eq!(prover.finish(), None);
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
