//! A digest of what keys hold, the same for two servers that hold the same.
//!
//! `DUMP` bytes and RDB bytes differ between equal servers: the order in hash tables depends on a seed,
//! small collections are packed in ways that change between versions. So values are decoded: members of
//! sets, hashes and sorted sets are summed up without order, lists and streams in order, numbers as decimal
//! digits. When a consumer was last seen is left out (it changes by looking), as is what modules hold
//! (only they can read it; that the key exists counts).

use std::io::Read;

use sha2::{Digest, Sha256};

use super::{
    Flavour, RdbError, STRING_BYTES_MAX, Tape,
    encoding::{number, show_string, string},
    packed,
    value::{ascii_score, times},
};
use crate::flow::unordered::Sum;

/// Digests a list of texts so that no two lists give one digest.
fn of_texts(texts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for text in texts {
        add_text(&mut hash, text);
    }
    hash.finalize().into()
}

fn add_text(hash: &mut Sha256, text: &[u8]) {
    hash.update((text.len() as u64).to_le_bytes());
    hash.update(text);
}

/// Digests a function library's text.
pub(super) fn of_function(text: &[u8]) -> [u8; 32] {
    of_texts(&[b"function", text])
}

/// Digests a key with the digest of its content.
pub(super) fn of_key(db: u64, key: &[u8], kind: &str, expires: Option<i64>, content: &[u8; 32]) -> [u8; 32] {
    let expires = expires.map(i64::to_le_bytes);
    let expires = expires.as_ref().map_or(&[][..], |bytes| &bytes[..]);
    of_texts(&[b"key", &db.to_le_bytes(), key, kind.as_bytes(), expires, content])
}

/// Reads a value and digests what it holds; `None` when it is a hash of which every field has expired by
/// `judged_at_ms`. Without that instant nothing counts as expired.
pub(super) fn of_value<R: Read>(
    tape: &mut Tape<R>,
    flavour: Flavour,
    code: u8,
    judged_at_ms: Option<i64>,
) -> Result<Option<[u8; 32]>, RdbError> {
    let digest = match code {
        0 | 9 => of_text(tape)?,
        1 | 10 | 14 | 18 => of_list(tape, code)?,
        2 | 11 | 20 => of_set(tape, code)?,
        3 | 5 | 12 | 17 => of_sorted_set(tape, code)?,
        15 | 19 | 21 => of_stream(tape, code)?,
        _ => return of_hash(tape, flavour, code, judged_at_ms),
    };
    Ok(Some(digest))
}

fn of_text<R: Read>(tape: &mut Tape<R>) -> Result<[u8; 32], RdbError> {
    let mut hash = Sha256::new();
    show_string(tape, STRING_BYTES_MAX, |piece| hash.update(piece))?;
    Ok(hash.finalize().into())
}

fn text<R: Read>(tape: &mut Tape<R>) -> Result<Vec<u8>, RdbError> {
    string(tape, STRING_BYTES_MAX)
}

/// Reads a packed collection: `code` says how it is packed.
pub(super) fn members<R: Read>(tape: &mut Tape<R>, code: u8) -> Result<Vec<Vec<u8>>, RdbError> {
    let at = tape.offset();
    let bytes = text(tape)?;
    let members = match code {
        11 => packed::intset(&bytes),
        10 | 12 | 13 | 14 => packed::ziplist(&bytes),
        _ => packed::listpack(&bytes),
    };
    members.ok_or(RdbError::malformed(at, "a packed collection cannot be unpacked"))
}

fn of_list<R: Read>(tape: &mut Tape<R>, code: u8) -> Result<[u8; 32], RdbError> {
    let mut hash = Sha256::new();
    match code {
        10 => members(tape, code)?.iter().for_each(|member| add_text(&mut hash, member)),
        1 => times(tape, |tape| {
            add_text(&mut hash, &text(tape)?);
            Ok(())
        })?,
        // A quicklist: nodes that are packed lists or (code 18, container 1) one long member each.
        _ => times(tape, |tape| {
            if code == 18 && number(tape)? == 1 {
                return show_string(tape, STRING_BYTES_MAX, |piece| hash.update(piece));
            }
            members(tape, code)?.iter().for_each(|member| add_text(&mut hash, member));
            Ok(())
        })?,
    }
    Ok(hash.finalize().into())
}

fn of_set<R: Read>(tape: &mut Tape<R>, code: u8) -> Result<[u8; 32], RdbError> {
    let mut sum = Sum::default();
    if code == 2 {
        times(tape, |tape| {
            sum.add(&of_texts(&[&text(tape)?]));
            Ok(())
        })?;
    } else {
        members(tape, code)?.iter().for_each(|member| sum.add(&of_texts(&[member])));
    }
    Ok(sum.bytes())
}

fn of_sorted_set<R: Read>(tape: &mut Tape<R>, code: u8) -> Result<[u8; 32], RdbError> {
    let mut sum = Sum::default();
    let mut add = |member: &[u8], score: f64| {
        // Zero has two signs and one place in the order.
        let score = if score == 0.0 { 0.0 } else { score };
        sum.add(&of_texts(&[member, &score.to_bits().to_le_bytes()]));
    };
    if code == 3 || code == 5 {
        times(tape, |tape| {
            let member = text(tape)?;
            let score = if code == 3 { ascii_score(tape)? } else { f64::from_le_bytes(tape.array()?) };
            add(&member, score);
            Ok(())
        })?;
    } else {
        let at = tape.offset();
        for pair in members(tape, code)?.chunks(2) {
            let score = pair.get(1).and_then(|text| std::str::from_utf8(text).ok()?.parse().ok());
            add(&pair[0], score.ok_or(RdbError::malformed(at, "a score is no number"))?);
        }
    }
    Ok(sum.bytes())
}

/// Digests a hash; a field's own expiry is part of it, absolute, 0 for none.
fn of_hash<R: Read>(
    tape: &mut Tape<R>,
    flavour: Flavour,
    code: u8,
    judged_at_ms: Option<i64>,
) -> Result<Option<[u8; 32]>, RdbError> {
    let (mut sum, mut live, mut expired) = (Sum::default(), 0_u64, 0_u64);
    let mut add = |field: &[u8], value: &[u8], expires_at_ms: i64| {
        if expires_at_ms != 0 && judged_at_ms.is_some_and(|now_ms| expires_at_ms <= now_ms) {
            expired += 1;
            return;
        }
        live += 1;
        sum.add(&of_texts(&[field, value, &expires_at_ms.to_le_bytes()]));
    };
    each_field(tape, flavour, code, &mut add)?;
    Ok((live > 0 || expired == 0).then(|| sum.bytes()))
}

/// Reads a hash and hands on each field, its value, and when it expires, 0 for never.
pub(super) fn each_field<R: Read>(
    tape: &mut Tape<R>,
    flavour: Flavour,
    code: u8,
    add: &mut impl FnMut(&[u8], &[u8], i64),
) -> Result<(), RdbError> {
    match code {
        4 => times(tape, |tape| {
            add(&text(tape)?, &text(tape)?, 0);
            Ok(())
        })?,
        22 if flavour == Flavour::Valkey => times(tape, |tape| {
            let (field, value) = (text(tape)?, text(tape)?);
            add(&field, &value, i64::from_le_bytes(tape.array()?).max(0));
            Ok(())
        })?,
        22 | 24 => {
            let earliest = if code == 24 { i64::from_le_bytes(tape.array()?) } else { 1 };
            times(tape, |tape| {
                // Stored relative to the earliest one, plus one (redis `src/rdb.c`, RDB_TYPE_HASH_METADATA).
                let relative = number(tape)?.cast_signed();
                let expires = if relative == 0 { 0 } else { relative.wrapping_add(earliest).wrapping_sub(1) };
                add(&text(tape)?, &text(tape)?, expires);
                Ok(())
            })?;
        }
        23 | 25 => {
            tape.skip(if code == 25 { 8 } else { 0 })?;
            for field in members(tape, code)?.chunks(3) {
                let [field, value, expires] = field else { continue };
                let expires = std::str::from_utf8(expires).ok().and_then(|text| text.parse().ok());
                add(field, value, expires.unwrap_or(0));
            }
        }
        _ => {
            for pair in members(tape, code)?.chunks(2) {
                add(&pair[0], pair.get(1).map_or(&[][..], |value| value), 0);
            }
        }
    }
    Ok(())
}

/// Digests a stream in the order of `rdbSaveObject`, without the times at which consumers were seen.
fn of_stream<R: Read>(tape: &mut Tape<R>, code: u8) -> Result<[u8; 32], RdbError> {
    let mut hash = Sha256::new();
    let numbers = |tape: &mut Tape<R>, hash: &mut Sha256, count: usize| {
        (0..count).try_for_each(|_| {
            hash.update(number(tape)?.to_le_bytes());
            Ok::<_, RdbError>(())
        })
    };
    times(tape, |tape| {
        // A node: the id of its first entry, and the packed entries, which a server keeps as they are.
        add_text(&mut hash, &text(tape)?);
        add_text(&mut hash, &text(tape)?);
        Ok(())
    })?;
    numbers(tape, &mut hash, if code >= 19 { 8 } else { 3 })?;
    times(tape, |tape| {
        add_text(&mut hash, &text(tape)?);
        numbers(tape, &mut hash, if code >= 19 { 3 } else { 2 })?;
        times(tape, |tape| {
            hash.update(tape.array::<24>()?);
            numbers(tape, &mut hash, 1)
        })?;
        times(tape, |tape| {
            add_text(&mut hash, &text(tape)?);
            tape.skip(if code >= 21 { 16 } else { 8 })?;
            times(tape, |tape| {
                hash.update(tape.array::<16>()?);
                Ok(())
            })
        })
    })?;
    Ok(hash.finalize().into())
}
