//! Rows as lines of tab-separated bytes, and where chunks of such lines end.
//!
//! Four escapes and no more: `\\`, `\t`, `\n` and `\0`; `\N` is NULL. One value has one form, so equal rows
//! are equal bytes. Chunk borders follow rows: whether a row is a border depends on its key and its own
//! length alone, never on what stands before it, so that an inserted row moves no border but its own.

/// Bytes that a chunk has at least.
pub(super) const CHUNK_BYTES_MIN: u64 = 256 << 10;
/// Bytes that a chunk has on average.
pub(super) const CHUNK_BYTES_MEAN: u64 = 1 << 20;
/// Bytes after which a chunk ends wherever it is.
pub(super) const CHUNK_BYTES_MAX: u64 = 4 << 20;

/// Bytes that are looked at in one step.
const STEP_BYTES: usize = 16;

/// Appends one field, without tab or line end.
pub(super) fn push_field(out: &mut Vec<u8>, value: Option<&[u8]>) {
    let Some(mut rest) = value else {
        out.extend_from_slice(b"\\N");
        return;
    };
    while let Some(at) = find(rest, [b'\\', b'\t', b'\n', 0]) {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(match rest[at] {
            b'\\' => b"\\\\",
            b'\t' => b"\\t",
            b'\n' => b"\\n",
            _ => b"\\0",
        });
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
}

/// Returns where the first of these bytes is.
#[inline]
pub(super) fn find<const N: usize>(bytes: &[u8], wanted: [u8; N]) -> Option<usize> {
    // Without a way out before the end of a step the compiler looks at all of its bytes at once.
    let is_one = |byte: u8| wanted.iter().fold(0, |any, one| any | u8::from(byte == *one));
    let mut from = 0;
    for step in bytes.chunks_exact(STEP_BYTES) {
        if step.iter().fold(0, |any, byte| any | is_one(*byte)) != 0 {
            break;
        }
        from += STEP_BYTES;
    }
    let rest = &bytes[from..];
    if rest.len() < STEP_BYTES && !is_any_in_short(rest, wanted) {
        return None;
    }
    rest.iter().position(|byte| is_one(*byte) != 0).map(|at| from + at)
}

/// Returns whether one of these bytes is among fewer than a step's: numbers, dates and short names, so most fields.
#[inline]
fn is_any_in_short<const N: usize>(bytes: &[u8], wanted: [u8; N]) -> bool {
    let is_any_in = |word: u64| wanted.iter().any(|one| has_zero(word ^ u64::from_ne_bytes([*one; 8])));
    // The first and the last bytes of it overlap where they are more than all.
    if let (Some(first), Some(last)) = (bytes.first_chunk(), bytes.last_chunk()) {
        return is_any_in(u64::from_ne_bytes(*first)) || is_any_in(u64::from_ne_bytes(*last));
    }
    if let (Some([a, b, c, d]), Some([e, f, g, h])) = (bytes.first_chunk(), bytes.last_chunk()) {
        return is_any_in(u64::from_ne_bytes([*a, *b, *c, *d, *e, *f, *g, *h]));
    }
    bytes.iter().any(|byte| wanted.contains(byte))
}

/// Returns whether one of the bytes of a word is zero.
#[inline]
fn has_zero(word: u64) -> bool {
    let (ones, tops) = (u64::from_ne_bytes([1; 8]), u64::from_ne_bytes([0x80; 8]));
    word.wrapping_sub(ones) & !word & tops != 0
}

/// Reads one field back; `None` is NULL. The program itself lets the server do this.
#[cfg(test)]
pub(super) fn read_field(field: &[u8]) -> Option<Vec<u8>> {
    if field == b"\\N" {
        return None;
    }
    let mut out = Vec::new();
    let mut bytes = field.iter();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'\\' => match bytes.next().expect("an escape has two bytes") {
                b't' => b'\t',
                b'n' => b'\n',
                b'0' => 0,
                other => *other,
            },
            other => *other,
        });
    }
    Some(out)
}

/// Hashes the written form of a row's key. FNV-1a with a finishing mix: it must never change, because
/// borders that move make everything be stored again.
#[derive(Clone, Copy, Debug)]
pub(super) struct KeyHash(u64);

impl KeyHash {
    /// Begins a key.
    pub fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    /// Adds the written form of one key column.
    pub fn field(&mut self, bytes: &[u8]) {
        self.part(bytes);
        self.end();
    }

    /// Takes some bytes of a field.
    pub fn part(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    /// Ends a field.
    pub fn end(&mut self) {
        // The tab that would stand here: ("a", "bc") is not ("ab", "c").
        self.0 = (self.0 ^ u64::from(b'\t')).wrapping_mul(0x0100_0000_01b3);
    }

    /// Ends the key.
    pub fn finish(self) -> u64 {
        let mut hash = self.0;
        hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        hash ^ (hash >> 33)
    }
}

/// Returns whether a piece may begin at the row with this key; true for one of 256.
pub(super) fn begins_piece(hash: u64) -> bool {
    hash.trailing_zeros() >= 8
}

/// Decides where chunks end.
#[derive(Debug, Default)]
pub(super) struct Cutter {
    chunk_bytes: u64,
}

impl Cutter {
    /// Takes notice of a row, and returns whether a chunk ends behind it.
    ///
    /// A row of n bytes is a border with probability n / (mean − min): borders are as dense in bytes
    /// whatever the rows' size, and no statistics, which change from night to night, are asked.
    pub fn row(&mut self, hash: u64, row_bytes: u64) -> bool {
        self.chunk_bytes += row_bytes;
        let span = u128::from(CHUNK_BYTES_MEAN - CHUNK_BYTES_MIN);
        let chosen = u128::from(hash) * span < u128::from(row_bytes) << 64;
        let ends = self.chunk_bytes >= CHUNK_BYTES_MAX || (chosen && self.chunk_bytes >= CHUNK_BYTES_MIN);
        if ends {
            self.chunk_bytes = 0;
        }
        ends
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn hash_of(fields: &[&[u8]]) -> u64 {
        let mut hash = KeyHash::new();
        for field in fields {
            hash.field(field);
        }
        hash.finish()
    }

    /// Cuts rows of 300 bytes with these keys; a chunk is the list of its keys.
    fn chunks(keys: impl IntoIterator<Item = u64>) -> Vec<Vec<u64>> {
        let mut cutter = Cutter::default();
        let mut all = vec![Vec::new()];
        for key in keys {
            all.last_mut().unwrap().push(key);
            if cutter.row(hash_of(&[key.to_string().as_bytes()]), 300) {
                all.push(Vec::new());
            }
        }
        all
    }

    proptest! {
        #[test]
        fn every_value_survives(value in prop::option::of(prop::collection::vec(any::<u8>(), 0..40))) {
            let mut out = Vec::new();
            push_field(&mut out, value.as_deref());
            prop_assert!(!out.contains(&b'\t') && !out.contains(&b'\n') && !out.contains(&0));
            prop_assert_eq!(read_field(&out), value);
        }
    }

    proptest! {
        #[test]
        fn the_first_of_the_bytes_is_found(bytes in prop::collection::vec(0_u8..9, 0..70), wanted in any::<[u8; 2]>()) {
            let wanted = wanted.map(|byte| byte % 64);
            prop_assert_eq!(find(&bytes, wanted), bytes.iter().position(|byte| wanted.contains(byte)));
        }
    }

    #[test]
    fn null_and_the_text_that_looks_like_it_differ() {
        let mut out = Vec::new();
        push_field(&mut out, Some(b"\\N"));
        assert_eq!(out, b"\\\\N");
        assert_eq!(read_field(&out).unwrap(), b"\\N");
    }

    #[test]
    fn the_key_hash_never_changes() {
        assert_eq!(hash_of(&[]), 0xefd0_1f60_ba99_2926);
        assert_eq!(hash_of(&[b"1"]), 0x9e54_1ba0_d67f_df92);
        assert_eq!(hash_of(&[b"a", b"bc"]), 0x7eb0_7b45_ec7e_d3e6);
        assert_ne!(hash_of(&[b"a", b"bc"]), hash_of(&[b"ab", b"c"]));
    }

    #[test]
    fn chunks_are_about_a_mebibyte() {
        let cut = chunks(0..200_000);
        let mean = 200_000 * 300 / cut.len() as u64;
        assert!((700 << 10..1400 << 10).contains(&mean), "{mean}");
        let sizes = cut[..cut.len() - 1].iter().map(|chunk| chunk.len() as u64 * 300);
        for size in sizes {
            assert!((CHUNK_BYTES_MIN..CHUNK_BYTES_MAX + 300).contains(&size), "{size}");
        }
    }

    #[test]
    fn an_inserted_row_changes_one_chunk_or_two() {
        let before: HashSet<Vec<u64>> = chunks((0..100_000).map(|n| n * 2)).into_iter().collect();
        let mut keys: Vec<u64> = (0..100_000).map(|n| n * 2).collect();
        keys.insert(31_337, 62_673);
        let after: HashSet<Vec<u64>> = chunks(keys).into_iter().collect();
        assert!(after.difference(&before).count() <= 2);
    }
}
