//! Cuts bytes into chunks: where their content says so (`FastCDC`), or where the source marked it.
//!
//! The cut points are part of the format: the same bytes must be cut alike for years, or nothing is ever
//! found again. The crate is pinned and `tests::the_cut_points_never_move` holds golden ones.

use bytes::{Bytes, BytesMut};

use super::format::ChunkerConfig;
use crate::{
    error::{ExitCode, Failure, Result},
    flow::{ContentCut, Cut},
};

/// The only algorithm of format 1.
pub const ALGORITHM: &str = "fastcdc-v2020";

/// The sizes and the seed that cut points depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunker {
    sizes: ContentCut,
}

impl Chunker {
    /// Bytes of the smallest, the average and the largest chunk of a new repository.
    pub const SIZES: (u32, u32, u32) = (256 << 10, 1 << 20, 4 << 20);

    /// Checks the config's sizes; `seed` was unsealed from it.
    pub fn new(config: &ChunkerConfig, seed: u64) -> Result<Self> {
        let (min, avg, max) =
            (config.min_bytes as usize, config.avg_bytes as usize, config.max_bytes as usize);
        let sizes_good = (64..=1 << 20).contains(&min) && min < avg && avg < max && max <= 16 << 20;
        // FastCDC v5 cuts differently when sizes are not powers of two.
        let even = [min, avg, max].iter().all(|size| size.is_power_of_two());
        if config.algorithm != ALGORITHM || !sizes_good || !even {
            let what = format!("chunker `{}` with sizes {min}, {avg}, {max} is not known", config.algorithm);
            return Err(Failure::new(ExitCode::NoRepository, what));
        }
        Ok(Self { sizes: ContentCut { min, avg, max, seed } })
    }

    /// Begins to cut one body.
    pub fn begin(&self, cut: Cut) -> Cutter {
        Cutter { chunker: *self, cut, waiting: BytesMut::new() }
    }
}

/// Cuts one body. Bytes wait here until their chunk's end is sure.
pub struct Cutter {
    chunker: Chunker,
    cut: Cut,
    waiting: BytesMut,
}

impl Cutter {
    /// Takes bytes and returns the chunks that are sure now. At most the largest chunk's size and one frame
    /// stay behind.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<Bytes> {
        self.waiting.extend_from_slice(bytes);
        match self.cut {
            Cut::Content if self.waiting.len() >= 2 * self.chunker.sizes.max => {
                self.chunker.sizes.take(&mut self.waiting, false)
            }
            Cut::Content => Vec::new(),
            // A marked chunk that grows beyond the largest size is cut by force: memory is bounded.
            Cut::Marked => {
                let mut chunks = Vec::new();
                while self.waiting.len() > self.chunker.sizes.max {
                    chunks.push(self.waiting.split_to(self.chunker.sizes.max).freeze());
                }
                chunks
            }
        }
    }

    /// Takes the source's border; means nothing where content decides.
    pub fn border(&mut self) -> Option<Bytes> {
        (self.cut == Cut::Marked && !self.waiting.is_empty()).then(|| self.waiting.split().freeze())
    }

    /// Returns the rest.
    pub fn finish(mut self) -> Vec<Bytes> {
        match self.cut {
            Cut::Content => self.chunker.sizes.take(&mut self.waiting, true),
            Cut::Marked => self.border().into_iter().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sha2::{Digest, Sha256};

    use super::*;

    fn config() -> ChunkerConfig {
        let (min_bytes, avg_bytes, max_bytes) = Chunker::SIZES;
        let algorithm = ALGORITHM.to_owned();
        ChunkerConfig { algorithm, min_bytes, avg_bytes, max_bytes, seed_sealed: String::new() }
    }

    fn noise(size: usize) -> Vec<u8> {
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        let next = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 24) as u8
        };
        std::iter::repeat_with(next).take(size).collect()
    }

    fn cut(bytes: &[u8], step: usize, seed: u64) -> Vec<Bytes> {
        let mut cutter = Chunker::new(&config(), seed).unwrap().begin(Cut::Content);
        let mut chunks: Vec<Bytes> = bytes.chunks(step).flat_map(|part| cutter.push(part)).collect();
        chunks.extend(cutter.finish());
        chunks
    }

    #[test]
    fn the_cut_points_never_move() {
        let bytes = noise(24 << 20);
        let lengths: Vec<usize> =
            cut(&bytes, 1 << 20, 0x0123_4567_89ab_cdef).iter().map(Bytes::len).collect();
        let digest = hex::encode(Sha256::digest(format!("{lengths:?}")));
        insta::assert_snapshot!(format!("{} chunks, {digest}", lengths.len()));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(8))]
        #[test]
        fn how_bytes_arrive_does_not_move_a_cut(step in 1usize..3_000_000, size in 0usize..20_000_000) {
            let bytes = noise(size);
            let chunks = cut(&bytes, step, 7);
            prop_assert_eq!(&chunks, &cut(&bytes, usize::MAX, 7));
            prop_assert_eq!(chunks.concat(), bytes);
            prop_assert!(chunks.iter().all(|chunk| chunk.len() <= 4 << 20));
        }
    }

    #[test]
    fn an_insertion_moves_few_chunks() {
        let mut bytes = noise(16 << 20);
        let before: std::collections::HashSet<Bytes> = cut(&bytes, 1 << 20, 1).into_iter().collect();
        bytes.splice(1_000_000..1_000_000, [1, 2, 3]);
        let after = cut(&bytes, 1 << 20, 1);
        let new = after.iter().filter(|chunk| !before.contains(*chunk)).count();
        assert!(new <= 3, "{new} of {} chunks are new", after.len());
    }

    #[test]
    fn marked_chunks_end_where_the_source_says_or_at_the_largest_size() {
        let mut cutter = Chunker::new(&config(), 0).unwrap().begin(Cut::Marked);
        assert!(cutter.border().is_none());
        assert!(cutter.push(&[1; 1000]).is_empty());
        assert_eq!(cutter.border().unwrap().len(), 1000);
        let forced: usize = cutter.push(&vec![2; 9 << 20]).iter().map(Bytes::len).sum();
        assert_eq!(forced, 8 << 20);
        assert_eq!(cutter.finish()[0].len(), 1 << 20);
    }

    #[test]
    fn an_unknown_chunker_is_refused() {
        for bad in [
            ChunkerConfig { algorithm: "rabin".into(), ..config() },
            ChunkerConfig { avg_bytes: 12288, ..config() },
            ChunkerConfig { max_bytes: 64 << 20, ..config() },
            ChunkerConfig { min_bytes: 4 << 20, ..config() },
        ] {
            assert_eq!(Chunker::new(&bad, 0).unwrap_err().exit(), ExitCode::NoRepository);
        }
    }
}
