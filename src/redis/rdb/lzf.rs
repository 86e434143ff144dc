//! LZF, the packing of long strings, as a stream.
//!
//! Layout: liblzf `lzf_d.c`. A reference reaches back [`WINDOW_BYTES`] at most, because its offset has thirteen bits:
//! so that much is remembered, whatever the string's length.

use std::io::Read;

use super::{RdbError, Tape};

/// Bytes that a reference can reach back.
const WINDOW_BYTES: usize = 1 << 13;
/// Bytes that are shown at a time.
const PIECE_BYTES: usize = 64 << 10;
/// The most plain bytes that one packed byte can stand for: three bytes give 264.
const EXPANSION_MAX: u64 = 264;

/// Unpacks the next `packed_bytes` of the tape and shows what they become, which must be `plain_bytes`.
pub(super) fn each<R: Read>(
    tape: &mut Tape<R>,
    packed_bytes: u64,
    plain_bytes: u64,
    mut show: impl FnMut(&[u8]),
) -> Result<(), RdbError> {
    let begin = tape.offset();
    let broken = || RdbError::malformed(begin, "a packed string cannot be unpacked");
    if plain_bytes > packed_bytes.saturating_mul(EXPANSION_MAX) {
        return Err(broken());
    }
    let end = begin.checked_add(packed_bytes).ok_or_else(broken)?;
    let room = usize::try_from(plain_bytes).unwrap_or(usize::MAX).min(PIECE_BYTES + WINDOW_BYTES);
    // What was made: first what is remembered, then, from `shown` on, what is still to be shown.
    let (mut plain, mut shown, mut made_bytes) = (Vec::with_capacity(room), 0, 0_u64);
    while tape.offset() < end {
        let before = plain.len();
        step(tape, &mut plain, broken)?;
        made_bytes += (plain.len() - before) as u64;
        if made_bytes > plain_bytes {
            return Err(broken());
        }
        if plain.len() >= PIECE_BYTES + WINDOW_BYTES {
            show(&plain[shown..]);
            plain.drain(..plain.len() - WINDOW_BYTES);
            shown = plain.len();
        }
    }
    // A last step that took more than the packed bytes has passed their end.
    if tape.offset() != end || made_bytes != plain_bytes {
        return Err(broken());
    }
    show(&plain[shown..]);
    Ok(())
}

/// Reads one literal run or one reference.
fn step<R: Read>(
    tape: &mut Tape<R>,
    plain: &mut Vec<u8>,
    broken: impl Fn() -> RdbError,
) -> Result<(), RdbError> {
    let control = tape.byte()?;
    if control < 32 {
        return tape.each(u64::from(control) + 1, |piece| plain.extend_from_slice(piece));
    }
    let mut count = usize::from(control >> 5) + 2;
    if count == 9 {
        count += usize::from(tape.byte()?);
    }
    let back = (usize::from(control & 31) << 8 | usize::from(tape.byte()?)) + 1;
    let from = plain.len().checked_sub(back).ok_or_else(broken)?;
    // Source and destination may overlap: that is how runs are written.
    if count <= back {
        plain.extend_from_within(from..from + count);
    } else {
        for at in from..from + count {
            plain.push(plain[at]);
        }
    }
    Ok(())
}
