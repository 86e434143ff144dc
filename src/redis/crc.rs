//! The checksum at the end of an RDB and of a `DUMP` payload: CRC-64 after Jones, as Redis computes it.
//!
//! Reflected polynomial, no initial value, no final one (redis `src/crc64.c`). Eight tables instead of one:
//! the checksum runs at the speed of the wire and must not be what holds the server's fork open.

const POLYNOMIAL: u64 = 0x95ac_9329_ac4b_c9b5;

static TABLES: [[u64; 256]; 8] = tables();

const fn tables() -> [[u64; 256]; 8] {
    let mut tables = [[0; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u64;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ POLYNOMIAL } else { crc >> 1 };
            bit += 1;
        }
        tables[0][byte] = crc;
        byte += 1;
    }
    let mut level = 1;
    while level < 8 {
        let mut byte = 0;
        while byte < 256 {
            let before = tables[level - 1][byte];
            tables[level][byte] = tables[0][(before & 0xff) as usize] ^ (before >> 8);
            byte += 1;
        }
        level += 1;
    }
    tables
}

/// Continues the checksum `crc` (0 at the beginning) over `bytes`.
pub(super) fn crc64(mut crc: u64, bytes: &[u8]) -> u64 {
    let mut words = bytes.chunks_exact(8);
    for word in &mut words {
        let mut eight = [0; 8];
        eight.copy_from_slice(word);
        let lanes = (crc ^ u64::from_le_bytes(eight)).to_le_bytes();
        crc = (0..8).fold(0, |sum, lane| sum ^ TABLES[7 - lane][usize::from(lanes[lane])]);
    }
    for byte in words.remainder() {
        crc = TABLES[0][usize::from(crc.to_le_bytes()[0] ^ byte)] ^ (crc >> 8);
    }
    crc
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_check_value_is_the_one_in_the_servers_own_test() {
        // redis src/crc64.c, crc64Test: "123456789" gives e9c6d914c4b8d9ca.
        assert_eq!(crc64(0, b"123456789"), 0xe9c6_d914_c4b8_d9ca);
        assert_eq!(crc64(0, b""), 0);
    }

    proptest! {
        #[test]
        fn a_checksum_may_be_computed_in_pieces(
            bytes in prop::collection::vec(any::<u8>(), 0..100),
            at in 0_usize..100,
        ) {
            let (head, tail) = bytes.split_at(at.min(bytes.len()));
            prop_assert_eq!(crc64(crc64(0, head), tail), crc64(0, &bytes));
        }
    }
}
