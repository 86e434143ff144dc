//! Holes of sparse files: a disk image of a gigabyte that takes a megabyte takes a megabyte again. The entry has the
//! zeros, which cost nothing once they are compressed; where the file had holes, blocks of zeros are not written back.

use std::{
    fs::{File, Metadata},
    io,
    os::unix::fs::{FileExt, MetadataExt},
};

/// The least that a hole can be.
const BLOCK_BYTES: usize = 4096;
/// The unit in which the system counts what a file takes, whatever the file system's own (stat(2)).
const COUNTED_BYTES: u64 = 512;

/// Returns whether a file takes less room than its length.
pub(super) fn are_in(meta: &Metadata) -> bool {
    meta.size().saturating_sub(meta.blocks().saturating_mul(COUNTED_BYTES)) >= BLOCK_BYTES as u64
}

/// Writes bytes that come `at` some place of a new file, without those blocks of it that are nothing but zeros.
pub(super) fn write(file: &File, at: u64, bytes: &[u8]) -> io::Result<()> {
    let put = |from: usize, to: usize| file.write_all_at(&bytes[from..to], at + from as u64);
    let past_border = usize::try_from(at % BLOCK_BYTES as u64).map_err(io::Error::other)?;
    let (mut unwritten, mut from) = (0, 0);
    let mut to = BLOCK_BYTES - past_border;
    while from < bytes.len() {
        to = to.min(bytes.len());
        if bytes[from..to].iter().all(|byte| *byte == 0) {
            put(unwritten, from)?;
            unwritten = to;
        }
        (from, to) = (to, to + BLOCK_BYTES);
    }
    put(unwritten, bytes.len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_around_holes_reads_as_it_was(
            runs in prop::collection::vec((0_u8..3, 1_usize..9000), 0..6),
            cuts in prop::collection::vec(1_usize..9000, 0..6),
        ) {
            let whole: Vec<u8> = runs.iter().flat_map(|(byte, length)| vec![*byte; *length]).collect();
            let file = tempfile::tempfile().unwrap();
            let (mut at, mut rest) = (0, whole.as_slice());
            for cut in cuts.into_iter().chain([usize::MAX]) {
                let (bytes, after) = rest.split_at(cut.min(rest.len()));
                write(&file, at, bytes).unwrap();
                (at, rest) = (at + bytes.len() as u64, after);
            }
            file.set_len(whole.len() as u64).unwrap();
            let mut read = vec![9; whole.len()];
            file.read_exact_at(&mut read, 0).unwrap();
            prop_assert_eq!(read, whole);
        }
    }
}
