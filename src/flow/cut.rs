//! Cutting bytes where their content says so (`FastCDC`), whoever decides on the sizes.

use bytes::{Bytes, BytesMut};
use fastcdc::v2020::{FastCDC, Normalization};

/// The sizes and the seed that cut points depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContentCut {
    /// Bytes of the smallest chunk.
    pub min: usize,
    /// Bytes of the average chunk.
    pub avg: usize,
    /// Bytes of the largest chunk.
    pub max: usize,
    /// The seed.
    pub seed: u64,
}

impl ContentCut {
    /// Takes the chunks that are sure out of what waits; with `ended`, all of it. A cut is sure when the bytes behind
    /// it could not have moved it, that is when at least the largest size was there to look at.
    pub fn take(self, waiting: &mut BytesMut, ended: bool) -> Vec<Bytes> {
        let Self { min, avg, max, seed } = self;
        let all = waiting.split().freeze();
        let (mut chunks, mut at) = (Vec::new(), 0);
        for chunk in FastCDC::with_level_and_seed(&all, min, avg, max, Normalization::Level1, seed) {
            if !ended && all.len() - chunk.offset < max {
                break;
            }
            at = chunk.offset + chunk.length;
            chunks.push(all.slice(chunk.offset..at));
        }
        waiting.extend_from_slice(&all[at..]);
        chunks
    }
}
