//! Rows of the text protocol: fields one behind the other, each with its length before it.

use mysql_async::Result;

use super::packet::broken;

/// Marks a field that is NULL.
const NULL: u8 = 0xFB;

/// Where a field lies in its row, `None` for NULL.
pub(in super::super) type Span = Option<(usize, usize)>;

/// A row where it was read.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct TextRow<'a> {
    bytes: &'a [u8],
    spans: &'a [Span],
}

impl<'a> TextRow<'a> {
    /// Finds the fields of a row; there must be as many as there are columns, and nothing behind them.
    pub fn parse(bytes: &'a [u8], columns: usize, spans: &'a mut Vec<Span>) -> Result<Self> {
        spans.clear();
        let mut at = 0;
        while at < bytes.len() && spans.len() < columns {
            let span = if bytes[at] == NULL {
                at += 1;
                None
            } else {
                let (from, to) = field(bytes, at).ok_or_else(|| broken("a row of the server is cut off"))?;
                at = to;
                Some((from, to))
            };
            spans.push(span);
        }
        if spans.len() < columns || at < bytes.len() {
            return Err(broken(format!(
                "a row of the server has not the {columns} fields that it announced"
            )));
        }
        Ok(Self { bytes, spans })
    }

    /// Returns how many fields there are.
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Returns how many bytes the row has on its way.
    pub fn wire_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Returns a field, `None` for NULL.
    #[inline]
    pub fn get(&self, at: usize) -> Option<&'a [u8]> {
        let (from, to) = (*self.spans.get(at)?)?;
        self.bytes.get(from..to)
    }

    /// Returns all fields.
    pub fn fields(self) -> impl Iterator<Item = Option<&'a [u8]>> {
        self.spans.iter().map(move |span| span.and_then(|(from, to)| self.bytes.get(from..to)))
    }
}

/// Returns where the field lies whose length is at `at`.
#[inline]
fn field(bytes: &[u8], at: usize) -> Option<(usize, usize)> {
    let (from, size_bytes) = match bytes[at] {
        short if short < NULL => (at + 1, usize::from(short)),
        _ => {
            let (size_bytes, read) = length(&bytes[at..])?;
            (at + read, size_bytes)
        }
    };
    let to = from.checked_add(size_bytes).filter(|to| *to <= bytes.len())?;
    Some((from, to))
}

/// Reads a number in the protocol's own form, and returns it with the count of its bytes.
pub(super) fn length(bytes: &[u8]) -> Option<(usize, usize)> {
    let (first, rest) = bytes.split_first()?;
    let digits = match first {
        short if *short < NULL => return Some((usize::from(*short), 1)),
        0xFC => 2,
        0xFD => 3,
        0xFE => 8,
        _ => return None,
    };
    let mut number = [0; 8];
    number[..digits].copy_from_slice(rest.get(..digits)?);
    Some((usize::try_from(u64::from_le_bytes(number)).ok()?, digits + 1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(fields: &[Option<Vec<u8>>]) -> Vec<u8> {
        let mut row = Vec::new();
        for field in fields {
            let Some(field) = field else {
                row.push(NULL);
                continue;
            };
            match field.len() {
                short @ 0..=250 => row.push(short as u8),
                middle @ ..=0xFFFF => row.extend([&[0xFC], &middle.to_le_bytes()[..2]].concat()),
                long => row.extend([&[0xFD], &long.to_le_bytes()[..3]].concat()),
            }
            row.extend(field);
        }
        row
    }

    fn parsed(row: &[u8], columns: usize) -> Result<Vec<Option<Vec<u8>>>> {
        let mut spans = Vec::new();
        let row = TextRow::parse(row, columns, &mut spans)?;
        Ok(row.fields().map(|field| field.map(<[u8]>::to_vec)).collect())
    }

    proptest! {
        #[test]
        fn every_row_is_read_as_it_was_written(
            fields in prop::collection::vec(prop::option::of(prop::collection::vec(any::<u8>(), 0..600)), 1..9)
        ) {
            prop_assert_eq!(parsed(&written(&fields), fields.len()).unwrap(), fields);
        }

        #[test]
        fn no_bytes_break_the_reading(row in prop::collection::vec(any::<u8>(), 0..80), columns in 1..9_usize) {
            if let Ok(fields) = parsed(&row, columns) {
                prop_assert_eq!(fields.len(), columns);
            }
        }
    }

    #[test]
    fn long_fields_have_long_lengths() {
        let fields = [250, 251, 65535, 65536, 70_000].map(|size| Some(vec![b'x'; size]));
        assert_eq!(parsed(&written(&fields), 5).unwrap(), fields);
        assert_eq!(parsed(b"\xFE\x02\0\0\0\0\0\0\0ab", 1).unwrap(), [Some(b"ab".to_vec())]);
    }

    #[test]
    fn rows_that_lie_are_refused() {
        for (row, columns) in [
            (&b"\x05abc"[..], 1),
            (b"\xFC\xFF", 1),
            (b"\xFE\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFFab", 1),
            (b"\xFF", 1),
            (b"\x01a", 2),
            (b"\x01a\x01b", 1),
            (b"", 1),
        ] {
            assert!(parsed(row, columns).is_err(), "{row:?}");
        }
    }
}
