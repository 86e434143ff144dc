//! A digest of what keys hold, the same for two servers that hold the same.
//!
//! `DUMP` bytes and RDB bytes differ between equal servers: the order in hash tables depends on a seed,
//! small collections are packed in ways that change between versions. So values are decoded: members of
//! sets, hashes and sorted sets are summed up without order, lists and streams in order, numbers as decimal
//! digits. When a consumer was last seen is left out (it changes by looking), as is what modules hold
//! (only they can read it; that the key exists counts).
//!
//! *Two kinds.* Servers before 7.0 keep less of a stream: not how many entries were ever added, which one was deleted
//! last, how many a group has read. [`Content::common`] knows what all versions keep and can be compared with any
//! server; [`Content::exact`] knows the rest too and means something only between dumps of one format version.
//!
//! *Limits.* Strings and members are hashed as they pass, packed or not; only collections that are packed into one
//! string (listpacks, ziplists, intsets) are held whole.

use std::io::Read;

use sha2::{Digest, Sha256};

use super::{
    Flavour, RdbError, STRING_BYTES_MAX, Tape,
    encoding::{number, show_string, string},
    packed::{self, Members},
    value::{ascii_score, times},
};
use crate::flow::unordered::Sum;

/// Bytes that a packed collection may have (redis `src/listpack.c`, `LISTPACK_MAX_SAFETY_LIMIT`).
const PACKED_BYTES_MAX: u64 = 1 << 30;

/// What a value holds, in two digests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Content {
    /// Of what servers of all versions keep.
    pub(super) common: [u8; 32],
    /// Of all that this dump holds.
    pub(super) exact: [u8; 32],
}

impl From<[u8; 32]> for Content {
    fn from(digest: [u8; 32]) -> Self {
        Self { common: digest, exact: digest }
    }
}

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

/// Adds the next string of the tape, as [`add_text`] does.
fn add_string<R: Read>(tape: &mut Tape<R>, hash: &mut Sha256) -> Result<(), RdbError> {
    show_string(tape, STRING_BYTES_MAX, |piece| hash.update(piece))
}

/// Digests a function library's text.
pub(super) fn of_function(text: &[u8]) -> [u8; 32] {
    of_texts(&[b"function", text])
}

/// Digests a key with a digest of its content.
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
) -> Result<Option<Content>, RdbError> {
    let digest = match code {
        0 | 9 => of_text(tape)?,
        1 | 10 | 14 | 18 => of_list(tape, code)?,
        2 | 11 | 20 => of_set(tape, code)?,
        3 | 5 | 12 | 17 => of_sorted_set(tape, code)?,
        15 | 19 | 21 => return of_stream(tape, code).map(Some),
        _ => return Ok(of_hash(tape, flavour, code, judged_at_ms)?.map(Content::from)),
    };
    Ok(Some(digest.into()))
}

fn of_text<R: Read>(tape: &mut Tape<R>) -> Result<[u8; 32], RdbError> {
    let mut hash = Sha256::new();
    add_string(tape, &mut hash)?;
    Ok(hash.finalize().into())
}

/// Reads a packed collection: `code` says how it is packed.
pub(super) fn members<R: Read>(tape: &mut Tape<R>, code: u8) -> Result<Members, RdbError> {
    let at = tape.offset();
    let bytes = string(tape, PACKED_BYTES_MAX)?;
    let members = match code {
        11 => packed::intset(&bytes),
        10 | 12 | 13 | 14 => packed::ziplist(&bytes),
        _ => packed::listpack(&bytes),
    };
    members.ok_or(RdbError::malformed(at, "a packed collection cannot be unpacked"))
}

/// Reads a score that lies packed.
pub(super) fn packed_score(text: &[u8]) -> Option<f64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn of_list<R: Read>(tape: &mut Tape<R>, code: u8) -> Result<[u8; 32], RdbError> {
    let mut hash = Sha256::new();
    match code {
        10 => members(tape, code)?.iter().for_each(|member| add_text(&mut hash, member)),
        1 => times(tape, |tape| add_string(tape, &mut hash))?,
        // A quicklist: nodes that are packed lists or (code 18, container 1) one long member each.
        _ => times(tape, |tape| {
            if code == 18 && number(tape)? == 1 {
                return add_string(tape, &mut hash);
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
            sum.add(&of_text(tape)?);
            Ok(())
        })?;
    } else {
        members(tape, code)?.iter().for_each(|member| sum.add(&of_texts(&[member])));
    }
    Ok(sum.bytes())
}

fn of_sorted_set<R: Read>(tape: &mut Tape<R>, code: u8) -> Result<[u8; 32], RdbError> {
    let mut sum = Sum::default();
    let mut add = |mut hash: Sha256, score: f64| {
        // Zero has two signs and one place in the order.
        let score = if score == 0.0 { 0.0 } else { score };
        add_text(&mut hash, &score.to_bits().to_le_bytes());
        sum.add(&hash.finalize().into());
    };
    if code == 3 || code == 5 {
        times(tape, |tape| {
            let mut hash = Sha256::new();
            add_string(tape, &mut hash)?;
            let score = if code == 3 { ascii_score(tape)? } else { f64::from_le_bytes(tape.array()?) };
            add(hash, score);
            Ok(())
        })?;
    } else {
        let at = tape.offset();
        let members = members(tape, code)?;
        let mut all = members.iter();
        while let Some(member) = all.next() {
            let mut hash = Sha256::new();
            add_text(&mut hash, member);
            let score = all.next().and_then(packed_score);
            add(hash, score.ok_or(RdbError::malformed(at, "a score is no number"))?);
        }
    }
    Ok(sum.bytes())
}

/// The fields of a hash.
#[derive(Default)]
struct Fields {
    sum: Sum,
    judged_at_ms: Option<i64>,
    live: u64,
    expired: u64,
}

impl Fields {
    /// Adds a field: the digest of its name and value, and when it expires, absolute, 0 for never.
    fn add(&mut self, mut hash: Sha256, expires_at_ms: i64) {
        if expires_at_ms != 0 && self.judged_at_ms.is_some_and(|now_ms| expires_at_ms <= now_ms) {
            self.expired += 1;
            return;
        }
        self.live += 1;
        add_text(&mut hash, &expires_at_ms.to_le_bytes());
        self.sum.add(&hash.finalize().into());
    }
}

/// Reads a field's name and value.
fn pair<R: Read>(tape: &mut Tape<R>) -> Result<Sha256, RdbError> {
    let mut hash = Sha256::new();
    add_string(tape, &mut hash)?;
    add_string(tape, &mut hash)?;
    Ok(hash)
}

/// Digests a hash; a field's own expiry is part of it.
fn of_hash<R: Read>(
    tape: &mut Tape<R>,
    flavour: Flavour,
    code: u8,
    judged_at_ms: Option<i64>,
) -> Result<Option<[u8; 32]>, RdbError> {
    let mut fields = Fields { judged_at_ms, ..Fields::default() };
    let packed = |field: &[u8], value: &[u8]| {
        let mut hash = Sha256::new();
        add_text(&mut hash, field);
        add_text(&mut hash, value);
        hash
    };
    each_field(tape, (flavour, code), pair, packed, |hash, expires_at_ms| fields.add(hash, expires_at_ms))?;
    Ok((fields.live > 0 || fields.expired == 0).then(|| fields.sum.bytes()))
}

/// Reads a hash and hands on each field and when it expires, absolute, 0 for never: `pair` reads its name and value,
/// `packed` takes them where they lie packed.
pub(super) fn each_field<R: Read, P>(
    tape: &mut Tape<R>,
    (flavour, code): (Flavour, u8),
    pair: impl Fn(&mut Tape<R>) -> Result<P, RdbError>,
    packed: impl Fn(&[u8], &[u8]) -> P,
    mut add: impl FnMut(P, i64),
) -> Result<(), RdbError> {
    match code {
        4 => times(tape, |tape| {
            add(pair(tape)?, 0);
            Ok(())
        }),
        22 if flavour == Flavour::Valkey => times(tape, |tape| {
            let both = pair(tape)?;
            add(both, i64::from_le_bytes(tape.array()?).max(0));
            Ok(())
        }),
        22 | 24 => {
            let earliest = if code == 24 { i64::from_le_bytes(tape.array()?) } else { 1 };
            times(tape, |tape| {
                // Stored relative to the earliest one, plus one (redis `src/rdb.c`, RDB_TYPE_HASH_METADATA).
                let relative = number(tape)?.cast_signed();
                let expires = if relative == 0 { 0 } else { relative.wrapping_add(earliest).wrapping_sub(1) };
                add(pair(tape)?, expires);
                Ok(())
            })
        }
        23 | 25 => {
            tape.skip(if code == 25 { 8 } else { 0 })?;
            let members = members(tape, code)?;
            let mut all = members.iter();
            while let (Some(field), Some(value), Some(expires)) = (all.next(), all.next(), all.next()) {
                let expires = std::str::from_utf8(expires).ok().and_then(|text| text.parse().ok());
                add(packed(field, value), expires.unwrap_or(0));
            }
            Ok(())
        }
        _ => {
            let members = members(tape, code)?;
            let mut all = members.iter();
            while let Some(field) = all.next() {
                add(packed(field, all.next().unwrap_or_default()), 0);
            }
            Ok(())
        }
    }
}

/// The two digests of a stream while they are made.
#[derive(Default)]
struct Twin {
    common: Sha256,
    exact: Sha256,
}

impl Twin {
    fn both(&mut self, bytes: &[u8]) {
        self.common.update(bytes);
        self.exact.update(bytes);
    }

    fn string<R: Read>(&mut self, tape: &mut Tape<R>) -> Result<(), RdbError> {
        show_string(tape, STRING_BYTES_MAX, |piece| self.both(piece))
    }

    /// Adds `common` numbers that all versions keep, and `more` that this one keeps besides.
    fn numbers<R: Read>(&mut self, tape: &mut Tape<R>, common: usize, more: usize) -> Result<(), RdbError> {
        for _ in 0..common {
            self.both(&number(tape)?.to_le_bytes());
        }
        for _ in 0..more {
            self.exact.update(number(tape)?.to_le_bytes());
        }
        Ok(())
    }
}

/// Digests a stream in the order of `rdbSaveObject`, without the times at which consumers were seen.
fn of_stream<R: Read>(tape: &mut Tape<R>, code: u8) -> Result<Content, RdbError> {
    let mut twin = Twin::default();
    let since_7 = code >= 19;
    times(tape, |tape| {
        // A node: the id of its first entry, and the packed entries, which a server keeps as they are.
        twin.string(tape)?;
        twin.string(tape)
    })?;
    // Length and last id; then first id, greatest deleted id and the count of all additions.
    twin.numbers(tape, 3, if since_7 { 5 } else { 0 })?;
    times(tape, |tape| {
        twin.string(tape)?;
        // The group's last id; then how many entries it has read.
        twin.numbers(tape, 2, usize::from(since_7))?;
        times(tape, |tape| {
            twin.both(&tape.array::<24>()?);
            twin.numbers(tape, 1, 0)
        })?;
        times(tape, |tape| {
            twin.string(tape)?;
            tape.skip(if code >= 21 { 16 } else { 8 })?;
            times(tape, |tape| {
                twin.both(&tape.array::<16>()?);
                Ok(())
            })
        })
    })?;
    Ok(Content { common: twin.common.finalize().into(), exact: twin.exact.finalize().into() })
}
