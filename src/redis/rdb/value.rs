//! The shape of each type's value: enough to know where it ends.
//!
//! Type codes and layouts: redis `src/rdb.h` (`RDB_TYPE_*`) and `rdbLoadObject` in `src/rdb.c`.

use std::io::Read;

use super::{
    Flavour, RdbError, Tape,
    encoding::{number, skip_string},
};

/// The code of a module's value with self-describing fields.
pub(super) const MODULE: u8 = 7;

/// Returns what a person calls the type, `None` for codes that this version cannot pass over.
pub(super) fn kind(code: u8) -> Option<&'static str> {
    Some(match code {
        0 => "string",
        1 | 10 | 14 | 18 => "list",
        2 | 11 | 20 => "set",
        3 | 5 | 12 | 17 => "zset",
        4 | 9 | 13 | 16 | 22..=25 => "hash",
        MODULE => "module",
        15 | 19 | 21 => "stream",
        _ => return None,
    })
}

/// Passes over the value of a type that [`kind`] knows, modules excepted.
pub(super) fn skip<R: Read>(tape: &mut Tape<R>, flavour: Flavour, code: u8) -> Result<(), RdbError> {
    match code {
        // One string: plain, or a whole collection packed into it.
        0 | 9..=13 | 16 | 17 | 20 | 23 => skip_string(tape),
        1 | 2 | 14 => times(tape, skip_string),
        3 => times(tape, |tape| {
            skip_string(tape)?;
            ascii_score(tape).map(|_| ())
        }),
        4 => times(tape, |tape| skip_strings(tape, 2)),
        5 => times(tape, |tape| {
            skip_string(tape)?;
            tape.skip(8)
        }),
        18 => times(tape, |tape| {
            number(tape)?;
            skip_string(tape)
        }),
        15 | 19 | 21 => skip_stream(tape, code),
        22 if flavour == Flavour::Valkey => times(tape, |tape| {
            skip_strings(tape, 2)?;
            tape.skip(8)
        }),
        22 | 24 => {
            // The earliest expiry of all fields stands first since code 24.
            tape.skip(if code == 24 { 8 } else { 0 })?;
            times(tape, |tape| {
                number(tape)?;
                skip_strings(tape, 2)
            })
        }
        25 => {
            tape.skip(8)?;
            skip_string(tape)
        }
        _ => Err(RdbError::Unknown { offset: tape.offset(), code }),
    }
}

/// Reads a count and does `each` so many times.
pub(super) fn times<R: Read>(
    tape: &mut Tape<R>,
    mut each: impl FnMut(&mut Tape<R>) -> Result<(), RdbError>,
) -> Result<(), RdbError> {
    let count = number(tape)?;
    for _ in 0..count {
        each(tape)?;
    }
    Ok(())
}

fn skip_strings<R: Read>(tape: &mut Tape<R>, count: u64) -> Result<(), RdbError> {
    (0..count).try_for_each(|_| skip_string(tape))
}

/// Reads a score as versions before 4.0 wrote it: a length byte and digits (`rdbLoadDoubleValue`).
pub(super) fn ascii_score<R: Read>(tape: &mut Tape<R>) -> Result<f64, RdbError> {
    let at = tape.offset();
    match tape.byte()? {
        253 => Ok(f64::NAN),
        254 => Ok(f64::INFINITY),
        255 => Ok(f64::NEG_INFINITY),
        count => {
            let digits = tape.collect(u64::from(count), 255)?;
            let text = std::str::from_utf8(&digits).ok().and_then(|text| text.trim().parse().ok());
            text.ok_or(RdbError::malformed(at, "a score is no number"))
        }
    }
}

/// Passes over a stream: nodes, counters, consumer groups with what each consumer still owes.
fn skip_stream<R: Read>(tape: &mut Tape<R>, code: u8) -> Result<(), RdbError> {
    times(tape, |tape| skip_strings(tape, 2))?;
    // Length and last id; since code 19 also first id, greatest deleted id and the count of all additions.
    for _ in 0..if code >= 19 { 8 } else { 3 } {
        number(tape)?;
    }
    times(tape, |tape| {
        skip_string(tape)?;
        // The group's last id; since code 19 also how many entries it has read.
        for _ in 0..if code >= 19 { 3 } else { 2 } {
            number(tape)?;
        }
        times(tape, |tape| {
            tape.skip(16 + 8)?;
            number(tape).map(|_| ())
        })?;
        times(tape, |tape| {
            skip_string(tape)?;
            // When it was seen, since code 21 also when it was active.
            tape.skip(if code >= 21 { 16 } else { 8 })?;
            times(tape, |tape| tape.skip(16))
        })
    })
}

/// Passes over a module's value and returns the module type's name.
pub(super) fn skip_module_value<R: Read>(tape: &mut Tape<R>) -> Result<String, RdbError> {
    let name = module_name(number(tape)?);
    skip_module(tape)?;
    Ok(name)
}

/// Passes over a module's fields, each of which says what it is (`RDB_MODULE_OPCODE_*`).
pub(super) fn skip_module<R: Read>(tape: &mut Tape<R>) -> Result<(), RdbError> {
    loop {
        let at = tape.offset();
        match number(tape)? {
            0 => return Ok(()),
            1 | 2 => number(tape).map(|_| ())?,
            3 => tape.skip(4)?,
            4 => tape.skip(8)?,
            5 => skip_string(tape)?,
            _ => return Err(RdbError::malformed(at, "a module's field is of an unknown kind")),
        }
    }
}

/// Returns the nine letters that a module type's id is made of (redis `src/module.c`, `moduleTypeNameByID`).
pub(super) fn module_name(id: u64) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    (0..9).map(|nth| char::from(LETTERS[(id >> (58 - 6 * nth) & 63) as usize])).collect()
}
