//! Small collections packed into one string: listpack, ziplist, intset.
//!
//! Layouts: redis `src/listpack.c`, `src/ziplist.c`, `src/intset.c`. Members come back as the client sees
//! them, numbers as decimal digits. `None` means that the bytes are not what they claim to be.

use std::io::Write as _;

/// The members of a collection, one behind the other: a small value is not worth an allocation for each of them.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Members {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Members {
    /// Makes room for what is packed into so many bytes.
    fn of_bytes(size_bytes: usize) -> Self {
        Self { bytes: Vec::with_capacity(size_bytes), ends: Vec::with_capacity(size_bytes / 8) }
    }

    fn text(&mut self, text: &[u8]) {
        self.bytes.extend_from_slice(text);
        self.ends.push(self.bytes.len());
    }

    fn number(&mut self, number: i64) {
        // Writing to memory does not fail.
        let _ = write!(self.bytes, "{number}");
        self.ends.push(self.bytes.len());
    }

    /// Returns the members in the order in which they lie.
    pub(super) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.ends.iter().scan(0, |begin, end| Some(&self.bytes[std::mem::replace(begin, *end)..*end]))
    }
}

/// Bytes that are taken from the front.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(count)?;
        self.0 = tail;
        Some(head)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    /// Takes a signed little-endian number of 1 to 8 bytes.
    fn signed(&mut self, count: usize) -> Option<i64> {
        let bytes = self.take(count)?;
        let negative = bytes.last()? & 0x80 != 0;
        let mut eight = if negative { [0xff; 8] } else { [0; 8] };
        eight[..count].copy_from_slice(bytes);
        Some(i64::from_le_bytes(eight))
    }

    fn unsigned(&mut self, count: usize) -> Option<usize> {
        let bytes = self.take(count)?;
        bytes.iter().rev().try_fold(0_usize, |sum, byte| Some(sum.checked_mul(256)? + usize::from(*byte)))
    }
}

/// Unpacks a listpack.
pub(super) fn listpack(bytes: &[u8]) -> Option<Members> {
    let mut from = Cursor(bytes);
    if from.unsigned(4)? != bytes.len() {
        return None;
    }
    from.take(2)?;
    let mut members = Members::of_bytes(bytes.len());
    loop {
        let before = from.0.len();
        let first = from.byte()?;
        match first {
            0xff => return from.0.is_empty().then_some(members),
            0..=0x7f => members.number(i64::from(first)),
            0x80..=0xbf => members.text(from.take(usize::from(first & 0x3f))?),
            0xc0..=0xdf => {
                let value = i64::from(first & 0x1f) << 8 | i64::from(from.byte()?);
                members.number(if value >= 1 << 12 { value - (1 << 13) } else { value });
            }
            0xe0..=0xef => {
                let count = usize::from(first & 0x0f) << 8 | usize::from(from.byte()?);
                members.text(from.take(count)?);
            }
            0xf0 => {
                let count = from.unsigned(4)?;
                members.text(from.take(count)?);
            }
            0xf1..=0xf3 => members.number(from.signed(usize::from(first - 0xf1) + 2)?),
            0xf4 => members.number(from.signed(8)?),
            _ => return None,
        }
        // Each member is followed by its own length, for walking backwards (`lpEncodeBacklen`).
        from.take(match before - from.0.len() {
            0..=127 => 1,
            128..16_383 => 2,
            16_383..2_097_151 => 3,
            2_097_151..268_435_455 => 4,
            _ => 5,
        })?;
    }
}

/// Unpacks a ziplist, the predecessor of the listpack.
pub(super) fn ziplist(bytes: &[u8]) -> Option<Members> {
    let mut from = Cursor(bytes);
    if from.unsigned(4)? != bytes.len() {
        return None;
    }
    from.take(4 + 2)?;
    let mut members = Members::of_bytes(bytes.len());
    loop {
        // The length of the member before: one byte, or 254 and four.
        match from.byte()? {
            0xff => return from.0.is_empty().then_some(members),
            0xfe => drop(from.take(4)?),
            _ => {}
        }
        let first = from.byte()?;
        match first {
            0..=0x3f => members.text(from.take(usize::from(first))?),
            0x40..=0x7f => {
                let count = usize::from(first & 0x3f) << 8 | usize::from(from.byte()?);
                members.text(from.take(count)?);
            }
            0x80..=0xbf => {
                let count = from.take(4)?.iter().fold(0_usize, |sum, byte| sum << 8 | usize::from(*byte));
                members.text(from.take(count)?);
            }
            0xc0 => members.number(from.signed(2)?),
            0xd0 => members.number(from.signed(4)?),
            0xe0 => members.number(from.signed(8)?),
            0xf0 => members.number(from.signed(3)?),
            0xfe => members.number(from.signed(1)?),
            0xf1..=0xfd => members.number(i64::from(first & 0x0f) - 1),
            _ => return None,
        }
    }
}

/// Unpacks a set of numbers.
pub(super) fn intset(bytes: &[u8]) -> Option<Members> {
    let mut from = Cursor(bytes);
    let width = from.unsigned(4)?;
    let count = from.unsigned(4)?;
    if !matches!(width, 2 | 4 | 8) || from.0.len() != count.checked_mul(width)? {
        return None;
    }
    let mut members = Members::of_bytes(bytes.len());
    for _ in 0..count {
        members.number(from.signed(width)?);
    }
    Some(members)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(members: Option<Members>) -> Vec<String> {
        let members = members.expect("it unpacks");
        members.iter().map(|member| String::from_utf8(member.to_vec()).unwrap()).collect()
    }

    #[test]
    fn a_listpack_gives_strings_and_numbers() {
        // As `LP a 5 -3 1000` lies in memory: 6-bit string, 7-bit number, 13-bit numbers.
        let mut bytes = vec![0, 0, 0, 0, 4, 0];
        bytes.extend([0x81, b'a', 2, 5, 1, 0xdf, 0xfd, 2, 0xc3, 0xe8, 2, 0xff]);
        bytes[0] = u8::try_from(bytes.len()).unwrap();
        assert_eq!(texts(listpack(&bytes)), ["a", "5", "-3", "1000"]);
        assert_eq!(listpack(&bytes[..bytes.len() - 1]), None);
    }

    #[test]
    fn a_ziplist_gives_strings_and_numbers() {
        let mut bytes = vec![0, 0, 0, 0, 0, 0, 0, 0, 3, 0];
        bytes.extend([0, 1, b'a', 3, 0xf6, 2, 0xc0, 0x18, 0xfc, 0xff]);
        bytes[0] = u8::try_from(bytes.len()).unwrap();
        assert_eq!(texts(ziplist(&bytes)), ["a", "5", "-1000"]);
        assert_eq!(ziplist(&bytes[..bytes.len() - 2]), None);
    }

    #[test]
    fn an_intset_gives_numbers_of_its_width() {
        let bytes = [2, 0, 0, 0, 2, 0, 0, 0, 0xff, 0xff, 5, 0];
        assert_eq!(texts(intset(&bytes)), ["-1", "5"]);
        assert_eq!(intset(&bytes[..11]), None);
        assert_eq!(intset(&[2, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]), None);
    }
}
