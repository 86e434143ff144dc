//! The RDB format, read structurally: where each thing begins and ends, without knowing what it means.
//!
//! Format sources: redis `src/rdb.c`, `src/rdb.h`, `src/rdb.h` of valkey where it differs. A walk finds the
//! true end of an RDB (a marker or a length can lie, a checksum comes only behind it), counts what is in
//! it, and finds the bytes of each value for `RESTORE`.
//!
//! *Hostile bytes.* Every length is believed only as far as bytes really arrive; nothing is allocated for
//! a claim. Errors say at which offset.

mod contents;
mod digest;
mod encoding;
mod lzf;
pub(super) mod members;
mod packed;
mod survey;
mod tape;
mod value;
mod walk;

use std::io;

pub(super) use self::{
    contents::{Member, each_member, has_members},
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

/// Reads the string that begins here: a function library's text, for one.
pub(super) fn text_at(from: impl io::Read) -> Result<Vec<u8>, RdbError> {
    encoding::string(&mut Tape::new(from, None), STRING_BYTES_MAX)
}

impl RdbError {
    fn malformed(offset: u64, what: &'static str) -> Self {
        Self::Malformed { offset, what }
    }
}

/// Unpacks one collection or, of any other kind, one string; `None` when the bytes are none.
pub(super) fn unpack(kind: u8, bytes: &[u8]) -> Option<Vec<Vec<u8>>> {
    let members = match kind {
        0 => packed::listpack(bytes),
        1 => packed::ziplist(bytes),
        2 => packed::intset(bytes),
        _ => return encoding::string(&mut Tape::over(bytes), STRING_BYTES_MAX).ok().map(|text| vec![text]),
    };
    Some(members?.iter().map(<[u8]>::to_vec).collect())
}

#[cfg(test)]
pub(super) mod bounds;
#[cfg(test)]
pub(super) mod sample;
#[cfg(test)]
mod tests;
