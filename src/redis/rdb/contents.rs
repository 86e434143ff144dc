//! A value member by member: what the commands that build it want to know.
//!
//! *Limits.* A packed collection lies in memory whole; a long string comes in pieces, any other member at once.

use std::io::Read;

use super::{
    Flavour, RdbError, STRING_BYTES_MAX, Tape, digest,
    encoding::{number, show_string, string},
    value::{ascii_score, times},
};

/// A part of a value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Member {
    /// The next bytes of a string.
    Text(Vec<u8>),
    /// The next member of a list, or any of a set.
    Item(Vec<u8>),
    /// A member of a sorted set.
    Scored(Vec<u8>, f64),
    /// A field of a hash, its value, and when it expires, milliseconds of unix time.
    Field(Vec<u8>, Vec<u8>, Option<i64>),
}

/// Returns whether values of this code have members that commands can put together again.
pub(crate) fn has_members(code: u8) -> bool {
    matches!(code, 0..=5 | 10..=14 | 16..=18 | 20 | 22..=25)
}

/// Reads a value, whose code [`has_members`], and hands each to `hear`.
pub(crate) fn each_member<R: Read>(
    tape: &mut Tape<R>,
    (flavour, code): (Flavour, u8),
    hear: &mut impl FnMut(Member),
) -> Result<(), RdbError> {
    let text = |tape: &mut Tape<R>| string(tape, STRING_BYTES_MAX);
    match code {
        0 => show_text(tape, hear),
        1 | 2 => times(tape, |tape| {
            hear(Member::Item(text(tape)?));
            Ok(())
        }),
        3 | 5 => times(tape, |tape| {
            let member = text(tape)?;
            let score = if code == 3 { ascii_score(tape)? } else { f64::from_le_bytes(tape.array()?) };
            hear(Member::Scored(member, score));
            Ok(())
        }),
        4 => times(tape, |tape| {
            hear(Member::Field(text(tape)?, text(tape)?, None));
            Ok(())
        }),
        14 | 18 => times(tape, |tape| {
            if code == 18 && number(tape)? == 1 {
                hear(Member::Item(text(tape)?));
                return Ok(());
            }
            show_items(tape, code, hear)
        }),
        10 | 11 | 20 => show_items(tape, code, hear),
        12 | 17 => {
            let at = tape.offset();
            let members = digest::members(tape, code)?;
            let mut all = members.iter();
            while let Some(member) = all.next() {
                let score = all.next().and_then(digest::packed_score);
                let score = score.ok_or(RdbError::malformed(at, "a score is no number"))?;
                hear(Member::Scored(member.to_vec(), score));
            }
            Ok(())
        }
        13 | 16 | 22..=25 => digest::each_field(
            tape,
            (flavour, code),
            |tape| Ok((text(tape)?, text(tape)?)),
            |field, value| (field.to_vec(), value.to_vec()),
            |(field, value), expires| hear(Member::Field(field, value, (expires != 0).then_some(expires))),
        ),
        _ => Err(RdbError::Unknown { offset: tape.offset(), code }),
    }
}

fn show_items<R: Read>(tape: &mut Tape<R>, code: u8, hear: &mut impl FnMut(Member)) -> Result<(), RdbError> {
    digest::members(tape, code)?.iter().for_each(|member| hear(Member::Item(member.to_vec())));
    Ok(())
}

fn show_text<R: Read>(tape: &mut Tape<R>, hear: &mut impl FnMut(Member)) -> Result<(), RdbError> {
    // The length comes first.
    let mut begun = false;
    show_string(tape, STRING_BYTES_MAX, |piece| {
        if begun && !piece.is_empty() {
            hear(Member::Text(piece.to_vec()));
        }
        begun = true;
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redis::rdb::{Item, Walker, sample::everything};

    #[test]
    fn every_value_but_streams_and_modules_comes_member_by_member() {
        for magic in ["REDIS0012", "VALKEY080"] {
            let (bytes, _) = everything(magic);
            let mut walker = Walker::begin(Tape::new(&bytes[..], None), false).unwrap();
            let flavour = walker.version().flavour;
            let mut seen = std::collections::BTreeMap::new();
            loop {
                match walker.next().unwrap() {
                    Item::Key(found) if has_members(found.code) => {
                        let from = usize::try_from(found.begin).unwrap();
                        let mut tape = Tape::new(&bytes[from..], None);
                        let mut members = Vec::new();
                        each_member(&mut tape, (flavour, found.code), &mut |member| members.push(member))
                            .unwrap();
                        assert_eq!(tape.offset(), found.end - found.begin, "code {}", found.code);
                        assert!(!members.is_empty(), "code {}", found.code);
                        seen.insert(String::from_utf8(found.key).unwrap(), members);
                    }
                    Item::Key(found) => assert!(matches!(found.code, 7 | 15 | 19 | 21), "{}", found.code),
                    Item::End { .. } => break,
                    _ => {}
                }
            }
            assert_eq!(seen["i8"], [Member::Text(b"-1".to_vec())]);
            assert_eq!(seen["zset1"][1], Member::Scored(b"b".to_vec(), f64::INFINITY));
            assert_eq!(seen["hfe25"], [Member::Field(b"f".to_vec(), b"v".to_vec(), Some(123))]);
            assert_eq!(seen["intset"], [Member::Item(b"5".to_vec())]);
        }
    }
}
