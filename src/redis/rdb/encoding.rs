//! Lengths and strings, the two things that everything in an RDB is made of.

use std::io::Read;

use super::{RdbError, Tape};

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

/// Reads a string as the client sees it: numbers as decimal digits, LZF unpacked.
pub(super) fn string<R: Read>(tape: &mut Tape<R>, limit_bytes: u64) -> Result<Vec<u8>, RdbError> {
    let at = tape.offset();
    match length(tape)? {
        Length::Plain(count) => tape.collect(count, limit_bytes),
        Length::Special(code) => special_string(tape, at, code, limit_bytes),
    }
}

/// Shows a string piece by piece where it lies plainly, in one piece otherwise; first its length.
pub(super) fn show_string<R: Read>(
    tape: &mut Tape<R>,
    limit_bytes: u64,
    mut show: impl FnMut(&[u8]),
) -> Result<(), RdbError> {
    let at = tape.offset();
    // Only the plain form is worth streaming; a packed one is at most as long as the server's buffer was.
    match length(tape)? {
        Length::Plain(count) => {
            show(&count.to_le_bytes());
            tape.each(count, show)
        }
        Length::Special(code) => {
            let text = special_string(tape, at, code, limit_bytes)?;
            show(&(text.len() as u64).to_le_bytes());
            show(&text);
            Ok(())
        }
    }
}

/// Reads the rest of a string with a special encoding.
fn special_string<R: Read>(
    tape: &mut Tape<R>,
    at: u64,
    code: u8,
    limit_bytes: u64,
) -> Result<Vec<u8>, RdbError> {
    Ok(match code {
        0 => i8::from_le_bytes(tape.array()?).to_string().into_bytes(),
        1 => i16::from_le_bytes(tape.array()?).to_string().into_bytes(),
        2 => i32::from_le_bytes(tape.array()?).to_string().into_bytes(),
        3 => {
            let packed = number(tape)?;
            let plain = number(tape)?;
            if plain > limit_bytes {
                return Err(RdbError::malformed(at, "a string is longer than any server allows"));
            }
            let packed = tape.collect(packed, limit_bytes)?;
            unpack(&packed, plain).ok_or(RdbError::malformed(at, "a packed string cannot be unpacked"))?
        }
        _ => return Err(RdbError::malformed(at, "a string has an unknown encoding")),
    })
}

/// Unpacks LZF (liblzf `lzf_d.c`); `None` when the bytes are none or give another length.
pub(super) fn unpack(packed: &[u8], plain_bytes: u64) -> Option<Vec<u8>> {
    let plain_bytes = usize::try_from(plain_bytes).ok()?;
    // Three bytes give at most 264: a claim beyond that is a lie, and nothing is allocated for it.
    if plain_bytes > packed.len().saturating_mul(264) {
        return None;
    }
    let mut plain: Vec<u8> = Vec::new();
    let mut rest = packed;
    while let Some((&control, after)) = rest.split_first() {
        rest = after;
        if control < 32 {
            let count = usize::from(control) + 1;
            plain.extend_from_slice(rest.get(..count)?);
            rest = &rest[count..];
        } else {
            let mut count = usize::from(control >> 5) + 2;
            if count == 9 {
                let (&more, after) = rest.split_first()?;
                count += usize::from(more);
                rest = after;
            }
            let (&low, after) = rest.split_first()?;
            rest = after;
            let back = (usize::from(control & 31) << 8 | usize::from(low)) + 1;
            let from = plain.len().checked_sub(back)?;
            // Source and destination may overlap: that is how runs are written.
            for at in from..from + count {
                plain.push(plain[at]);
            }
        }
        if plain.len() > plain_bytes {
            return None;
        }
    }
    (plain.len() == plain_bytes).then_some(plain)
}
