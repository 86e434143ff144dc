//! The RDB format, read structurally: where each thing begins and ends, without knowing what it means.
//!
//! Format sources: redis `src/rdb.c`, `src/rdb.h`, `src/rdb.h` of valkey where it differs. A walk finds the
//! true end of an RDB (a marker or a length can lie, a checksum comes only behind it), counts what is in
//! it, and finds the bytes of each value for `RESTORE`.
//!
//! *Hostile bytes.* Every length is believed only as far as bytes really arrive; nothing is allocated for
//! a claim. Errors say at which offset.

mod digest;
mod encoding;
mod members;
mod packed;
mod survey;
mod tape;
mod value;
mod walk;

use std::io;

pub(super) use self::{
    members::{Member, each_member, has_members},
    survey::{Checksum, KeyCount, Survey},
    tape::Tape,
    walk::{Flavour, Found, Item, Version, Walker},
};

/// Bytes that one string may have: `proto-max-bulk-len` allows 512 MiB by default, nobody sets it higher
/// than this.
const STRING_BYTES_MAX: u64 = 4 << 30;

/// Why an RDB cannot be read to its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum RdbError {
    /// The reader failed.
    #[error("the dump cannot be read on")]
    Read(#[source] io::Error),
    /// The copy could not be written.
    #[error("the dump cannot be written to the spool")]
    Copy(#[source] io::Error),
    /// The bytes ended before the RDB did.
    #[error("the dump breaks off after {offset} bytes")]
    Ended {
        /// How many bytes there were.
        offset: u64,
    },
    /// It is no RDB, or a damaged one.
    #[error("the dump is damaged at byte {offset}: {what}")]
    Malformed {
        /// Where.
        offset: u64,
        /// What is wrong there.
        what: &'static str,
    },
    /// A type or code that this version does not know.
    #[error("the dump holds code {code} at byte {offset}, which this version does not know")]
    Unknown {
        /// Where.
        offset: u64,
        /// Which.
        code: u8,
    },
    /// The checksum at its end is another one.
    #[error("the dump's checksum does not match its bytes")]
    Checksum,
}

impl RdbError {
    fn malformed(offset: u64, what: &'static str) -> Self {
        Self::Malformed { offset, what }
    }
}

#[cfg(test)]
pub(super) mod sample;
#[cfg(test)]
mod tests;
