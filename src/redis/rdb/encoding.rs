//! Lengths and strings, the two things that everything in an RDB is made of.

use std::io::Read;

use super::{RdbError, Tape, lzf};

/// A length field: a number, or the code of a special string encoding.
enum Length {
    Plain(u64),
    Special(u8),
}

/// Reads a length (redis `src/rdb.c`, `rdbLoadLenByRef`).
fn length<R: Read>(tape: &mut Tape<R>) -> Result<Length, RdbError> {
    let at = tape.offset();
    let first = tape.byte()?;
    Ok(match first >> 6 {
        0 => Length::Plain(u64::from(first & 63)),
        1 => Length::Plain(u64::from(first & 63) << 8 | u64::from(tape.byte()?)),
        3 => Length::Special(first & 63),
        _ if first == 0x80 => Length::Plain(u64::from(u32::from_be_bytes(tape.array()?))),
        _ if first == 0x81 => Length::Plain(u64::from_be_bytes(tape.array()?)),
        _ => return Err(RdbError::malformed(at, "a length has an impossible first byte")),
    })
}

/// Reads a length that must be a number.
pub(super) fn number<R: Read>(tape: &mut Tape<R>) -> Result<u64, RdbError> {
    let at = tape.offset();
    match length(tape)? {
        Length::Plain(number) => Ok(number),
        Length::Special(_) => Err(RdbError::malformed(at, "a number is written as a string")),
    }
}

/// Passes over a string.
pub(super) fn skip_string<R: Read>(tape: &mut Tape<R>) -> Result<(), RdbError> {
    let at = tape.offset();
    match length(tape)? {
        Length::Plain(count) => tape.skip(count),
        Length::Special(code @ 0..=2) => tape.skip(1 << code),
        Length::Special(3) => {
            let packed = number(tape)?;
            number(tape)?;
            tape.skip(packed)
        }
        Length::Special(_) => Err(RdbError::malformed(at, "a string has an unknown encoding")),
    }
}

/// What stands behind the code of a special encoding.
enum Special {
    /// The text itself: a number as decimal digits.
    Text(Vec<u8>),
    /// LZF: packed bytes, and how many they become.
    Packed { packed_bytes: u64, plain_bytes: u64 },
}

/// Reads what is between the code and the bytes.
fn special<R: Read>(tape: &mut Tape<R>, at: u64, code: u8, limit_bytes: u64) -> Result<Special, RdbError> {
    Ok(Special::Text(match code {
        0 => i8::from_le_bytes(tape.array()?).to_string().into_bytes(),
        1 => i16::from_le_bytes(tape.array()?).to_string().into_bytes(),
        2 => i32::from_le_bytes(tape.array()?).to_string().into_bytes(),
        3 => {
            let (packed_bytes, plain_bytes) = (number(tape)?, number(tape)?);
            if plain_bytes > limit_bytes {
                return Err(RdbError::malformed(at, "a string is longer than any server allows"));
            }
            return Ok(Special::Packed { packed_bytes, plain_bytes });
        }
        _ => return Err(RdbError::malformed(at, "a string has an unknown encoding")),
    }))
}

/// Reads a string as the client sees it: numbers as decimal digits, LZF unpacked.
pub(super) fn string<R: Read>(tape: &mut Tape<R>, limit_bytes: u64) -> Result<Vec<u8>, RdbError> {
    let at = tape.offset();
    let code = match length(tape)? {
        Length::Plain(count) => return tape.collect(count, limit_bytes),
        Length::Special(code) => code,
    };
    match special(tape, at, code, limit_bytes)? {
        Special::Text(text) => Ok(text),
        Special::Packed { packed_bytes, plain_bytes } => {
            let mut all = Vec::new();
            lzf::each(tape, packed_bytes, plain_bytes, |piece| all.extend_from_slice(piece))?;
            Ok(all)
        }
    }
}

/// Shows a string piece by piece, however it is written; first its length, as eight bytes.
pub(super) fn show_string<R: Read>(
    tape: &mut Tape<R>,
    limit_bytes: u64,
    mut show: impl FnMut(&[u8]),
) -> Result<(), RdbError> {
    let at = tape.offset();
    let code = match length(tape)? {
        Length::Plain(count) => {
            show(&count.to_le_bytes());
            return tape.each(count, show);
        }
        Length::Special(code) => code,
    };
    match special(tape, at, code, limit_bytes)? {
        Special::Text(text) => {
            show(&(text.len() as u64).to_le_bytes());
            show(&text);
            Ok(())
        }
        Special::Packed { packed_bytes, plain_bytes } => {
            show(&plain_bytes.to_le_bytes());
            lzf::each(tape, packed_bytes, plain_bytes, show)
        }
    }
}
