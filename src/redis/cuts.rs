//! Where a dump in order is cut into chunks: by its content, finer than other bodies are.
//!
//! Keys are small and what changes of them lies scattered: a chunk is stored again when one of its keys changed, so
//! the fewer keys it has, the less is stored. Each chunk costs about a hundred bytes in indexes and lists, and large
//! dumps must not become millions of chunks: so the size grows with the dump, in steps that are far apart
//! ([decision 24](../../docs/decisions/0024-redis-chunks.md)).
//!
//! Where the borders lie is no part of the format, but the same bytes must be cut alike for years, or nothing is ever
//! found again: `tests::the_cut_points_never_move`.

use bytes::{Bytes, BytesMut};

use crate::flow::ContentCut;

/// Bytes of an average chunk of dumps up to a size.
const SIZES: [(u64, usize); 3] = [(512 << 20, 4 << 10), (8 << 30, 64 << 10), (u64::MAX, 1 << 20)];

/// Cuts one dump.
pub(super) struct Cuts {
    sizes: ContentCut,
    waiting: BytesMut,
}

impl Cuts {
    /// Begins with a dump of so many bytes.
    pub(super) fn begin(size_bytes: u64) -> Self {
        let fits = SIZES.iter().find(|(up_to, _)| size_bytes <= *up_to);
        let avg = fits.map_or(1 << 20, |(_, average)| *average);
        Self { sizes: ContentCut { min: avg / 4, avg, max: 4 * avg, seed: 0 }, waiting: BytesMut::new() }
    }

    /// Takes bytes and returns the chunks that are sure now.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Vec<Bytes> {
        self.waiting.extend_from_slice(bytes);
        self.sizes.take(&mut self.waiting, false)
    }

    /// Returns the last chunks.
    pub(super) fn finish(mut self) -> Vec<Bytes> {
        self.sizes.take(&mut self.waiting, true)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sha2::{Digest, Sha256};

    use super::*;

    fn noise(size: usize) -> Vec<u8> {
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        std::iter::repeat_with(move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        })
        .take(size)
        .collect()
    }

    fn cut(of_bytes: u64, bytes: &[u8], step: usize) -> Vec<Bytes> {
        let mut cuts = Cuts::begin(of_bytes);
        let mut chunks: Vec<Bytes> = bytes.chunks(step).flat_map(|piece| cuts.push(piece)).collect();
        chunks.extend(cuts.finish());
        chunks
    }

    #[test]
    fn the_cut_points_never_move() {
        let chunks = cut(1, &noise(1 << 20), 10_000);
        let lengths: Vec<usize> = chunks.iter().map(Bytes::len).collect();
        let digest = hex::encode(Sha256::digest(format!("{lengths:?}")));
        assert_eq!((lengths.len(), &digest[..16]), (213, "8a3b9d1f4e7b9803"));
    }

    #[test]
    fn large_dumps_have_larger_chunks() {
        let bytes = noise(4 << 20);
        let count = |of_bytes| cut(of_bytes, &bytes, 1 << 20).len();
        let counts = [count(1), count(1 << 30), count(1 << 40)];
        assert!(counts[0] > 600 && (30..120).contains(&counts[1]) && counts[2] < 12, "{counts:?}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn chunks_are_the_bytes_whatever_the_pieces(size in 0_usize..100_000, step in 1_usize..40_000) {
            let bytes = noise(size);
            let chunks = cut(1, &bytes, step);
            prop_assert_eq!(&chunks, &cut(1, &bytes, usize::MAX));
            prop_assert_eq!(chunks.concat(), bytes);
        }
    }
}
