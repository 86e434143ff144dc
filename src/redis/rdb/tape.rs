//! Bytes of an RDB in the order in which they come: counted, summed up and copied on as they are consumed.
//!
//! A [`Tape`] reads ahead but knows what was consumed, so whoever parses decides where the RDB ends and
//! the bytes behind it stay available. The checksum and the copy are made in blocks, not per field.
//!
//! *Limits.* [`BLOCK_BYTES`] are read ahead. [`Tape::collect`] grows with what really arrived, never with
//! what a length field claims.

use std::io::{self, Read, Write};

use super::RdbError;
use crate::redis::crc::crc64;

/// Bytes that are read ahead.
const BLOCK_BYTES: usize = 256 * 1024;

/// A reader that remembers where it is, what it has seen, and hands on what was consumed.
pub(crate) struct Tape<R> {
    from: R,
    copy: Option<Box<dyn Write + Send>>,
    block: Vec<u8>,
    /// Consumed bytes in the block.
    at: usize,
    /// Of those, the ones that are in the checksum and in the copy.
    settled: usize,
    /// Bytes in the block.
    filled: usize,
    /// Where the block begins in the RDB.
    base: u64,
    crc: u64,
}

impl<'a> Tape<&'a [u8]> {
    /// Makes a tape over bytes that are in memory; it reads no further ahead than they reach.
    pub(crate) fn over(bytes: &'a [u8]) -> Self {
        Self::with_block(bytes, None, bytes.len().clamp(1, BLOCK_BYTES))
    }
}

impl<R: Read> Tape<R> {
    /// Makes a tape over `from`; what is consumed is also written to `copy`.
    pub(crate) fn new(from: R, copy: Option<Box<dyn Write + Send>>) -> Self {
        Self::with_block(from, copy, BLOCK_BYTES)
    }

    fn with_block(from: R, copy: Option<Box<dyn Write + Send>>, block_bytes: usize) -> Self {
        Self { from, copy, block: vec![0; block_bytes], at: 0, settled: 0, filled: 0, base: 0, crc: 0 }
    }

    /// Returns how many bytes were consumed.
    pub(crate) fn offset(&self) -> u64 {
        self.base + self.at as u64
    }

    /// Returns the checksum of all that was consumed.
    pub(crate) fn crc(&mut self) -> Result<u64, RdbError> {
        self.settle()?;
        Ok(self.crc)
    }

    /// Sums up and copies what was consumed since the last time.
    fn settle(&mut self) -> Result<(), RdbError> {
        let fresh = &self.block[self.settled..self.at];
        self.crc = crc64(self.crc, fresh);
        if let Some(copy) = &mut self.copy {
            copy.write_all(fresh).map_err(RdbError::Copy)?;
        }
        self.settled = self.at;
        Ok(())
    }

    /// Makes sure that a byte is there; fails at the end of the reader.
    fn fill(&mut self) -> Result<(), RdbError> {
        if self.at < self.filled {
            return Ok(());
        }
        if self.refill()? { Ok(()) } else { Err(RdbError::Ended { offset: self.offset() }) }
    }

    /// Replaces a consumed block by the next one; returns whether there was one.
    fn refill(&mut self) -> Result<bool, RdbError> {
        self.settle()?;
        self.base += self.at as u64;
        (self.at, self.settled, self.filled) = (0, 0, 0);
        loop {
            match self.from.read(&mut self.block) {
                Ok(count) => {
                    self.filled = count;
                    return Ok(count > 0);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(RdbError::Read(error)),
            }
        }
    }

    /// Consumes one byte.
    pub(crate) fn byte(&mut self) -> Result<u8, RdbError> {
        self.fill()?;
        let byte = self.block[self.at];
        self.at += 1;
        Ok(byte)
    }

    /// Consumes `N` bytes.
    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], RdbError> {
        let mut array = [0; N];
        if let Some(here) = self.block[self.at..self.filled].first_chunk() {
            self.at += N;
            return Ok(*here);
        }
        for byte in &mut array {
            *byte = self.byte()?;
        }
        Ok(array)
    }

    /// Consumes `count` bytes and shows them piece by piece.
    pub(crate) fn each(&mut self, count: u64, mut show: impl FnMut(&[u8])) -> Result<(), RdbError> {
        let mut left = count;
        while left > 0 {
            self.fill()?;
            let here = usize::try_from(left).unwrap_or(usize::MAX).min(self.filled - self.at);
            show(&self.block[self.at..self.at + here]);
            self.at += here;
            left -= here as u64;
        }
        Ok(())
    }

    /// Consumes `count` bytes and forgets them.
    pub(crate) fn skip(&mut self, count: u64) -> Result<(), RdbError> {
        self.each(count, |_| ())
    }

    /// Consumes `count` bytes into memory, at most `limit_bytes` of them.
    pub(crate) fn collect(&mut self, count: u64, limit_bytes: u64) -> Result<Vec<u8>, RdbError> {
        if count > limit_bytes {
            return Err(RdbError::malformed(self.offset(), "a string is longer than any server allows"));
        }
        let mut all = Vec::new();
        self.each(count, |piece| all.extend_from_slice(piece))?;
        Ok(all)
    }

    /// Consumes all bytes up to the last `behind`, which are consumed but neither summed up nor copied, and
    /// returned; fewer come back when there were fewer.
    ///
    /// For an RDB with a code that this version does not know: its end is then where the sender stopped.
    pub(crate) fn rest_but(&mut self, behind: usize) -> Result<Vec<u8>, RdbError> {
        let mut tail = Vec::new();
        loop {
            self.settle()?;
            tail.extend_from_slice(&self.block[self.at..self.filled]);
            // The block was moved to the tail: it is settled piece by piece from there.
            self.base += self.filled as u64;
            (self.at, self.settled, self.filled) = (0, 0, 0);
            let sure = tail.len().saturating_sub(behind);
            let rest = tail.split_off(sure);
            self.crc = crc64(self.crc, &tail);
            if let Some(copy) = &mut self.copy {
                copy.write_all(&tail).map_err(RdbError::Copy)?;
            }
            tail = rest;
            if !self.refill()? {
                return Ok(tail);
            }
        }
    }

    /// Writes bytes to the copy that were taken back by [`Self::rest_but`].
    pub(crate) fn copy_on(&mut self, bytes: &[u8]) -> Result<(), RdbError> {
        self.copy.as_mut().map_or(Ok(()), |copy| copy.write_all(bytes).map_err(RdbError::Copy))
    }

    /// Sends on what was consumed and stops copying: what follows is not part of the RDB.
    pub(crate) fn end_copy(&mut self) -> Result<(), RdbError> {
        self.settle()?;
        self.copy.take().map_or(Ok(()), |mut copy| copy.flush().map_err(RdbError::Copy))
    }
}
