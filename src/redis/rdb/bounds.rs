//! Memory does not grow with a dump: neither with its longest value nor with the number of its keys.
//!
//! The dumps are made while they are read. `LIFEBOAT_REDIS_VALUE_MIB` and `LIFEBOAT_REDIS_KEYS` ask for more than a
//! build without optimisations has time for.

use std::{
    io::{self, Read},
    time::Instant,
};

use super::{Survey, sample::Sample};

/// What a walk may take, with its own 256 KiB of read-ahead.
const WALK_MIB_MAX: u64 = 24;

/// A dump that is made piece by piece.
struct Made<I>(I, io::Cursor<Vec<u8>>);

impl<I: Iterator<Item = Vec<u8>>> Read for Made<I> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            let count = self.1.read(into)?;
            if count > 0 || into.is_empty() {
                return Ok(count);
            }
            let Some(next) = self.0.next() else { return Ok(0) };
            self.1 = io::Cursor::new(next);
        }
    }
}

/// Returns a dump of what these pieces make; without a checksum, as of a server with `rdbchecksum no`.
pub(in crate::redis) fn made(pieces: impl Iterator<Item = Vec<u8>>) -> impl Read {
    let ends = [255, 0, 0, 0, 0, 0, 0, 0, 0].to_vec();
    Made(pieces.chain([ends]), io::Cursor::new(b"REDIS0011".to_vec()))
}

/// Returns what a sample adds, without the end.
pub(in crate::redis) fn raw(sample: Sample) -> Vec<u8> {
    let bytes = sample.end();
    bytes[..bytes.len() - 9].to_vec()
}

/// Returns the number in a variable of the environment, or the usual one.
pub(in crate::redis) fn number(variable: &str, usual: u64) -> u64 {
    std::env::var(variable).map_or(usual, |number| number.parse().unwrap())
}

/// Returns the most that this process had; the system counts it in batches, so it may seem to shrink a little.
pub(in crate::redis) fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

/// Walks it and looks into it; returns how many keys there were.
fn walk(what: &str, digesting: bool, dump: impl Read) -> u64 {
    let (before, began) = (peak_mib(), Instant::now());
    let survey = Survey::of_all(dump, 0, digesting).unwrap();
    let (grown, took) = (peak_mib().saturating_sub(before), began.elapsed());
    println!("{what}: {} bytes, {grown} MiB more, {took:.1?}", survey.size_bytes);
    assert!(grown < WALK_MIB_MAX, "{what}: {grown} MiB");
    survey.keys_by_db().values().sum()
}

#[test]
fn a_long_value_is_never_held_plain_or_packed_alone_or_as_a_member() {
    let mib = number("LIFEBOAT_REDIS_VALUE_MIB", 48);
    let size = mib << 20;
    let long = |sample: Sample| raw(sample.raw(&[0x81]).raw(&size.to_be_bytes()));
    let plain = || (0..mib).map(|n| vec![n.to_le_bytes()[0]; 1 << 20]);
    // LZF: a literal byte, then references to the byte before, 264 bytes at a time.
    let (runs, rest) = ((size - 1) / 264, (size - 1) % 264);
    assert!(rest >= 9, "the last run has a length byte of its own");
    let packed_bytes = 2 + 3 * runs + 3;
    let head = |sample: Sample| raw(sample.raw(&[0xc3]).length(packed_bytes).length(size).raw(&[0, b'a']));
    let packed = || {
        let last = vec![0xe0, u8::try_from(rest - 9).unwrap(), 0];
        (0..runs.div_ceil(10_000))
            .map(move |n| [0xe0, 255, 0].repeat(usize::try_from((runs - n * 10_000).min(10_000)).unwrap()))
            .chain([last])
    };
    let begin = || Sample::begin("");
    for digesting in [false, true] {
        let count =
            walk("a plain string", digesting, made([long(begin().key(0, "k"))].into_iter().chain(plain())));
        assert_eq!(count, 1);
        let string = [head(begin().key(0, "k"))].into_iter().chain(packed());
        assert_eq!(walk("a packed string", digesting, made(string)), 1);
        let field = [head(begin().key(4, "k").length(1).text("field"))].into_iter().chain(packed());
        assert_eq!(walk("the value of a field", digesting, made(field)), 1);
        let member = [long(begin().key(1, "k").length(1))].into_iter().chain(plain());
        assert_eq!(walk("an item of a list", digesting, made(member)), 1);
    }
}

#[test]
fn keys_pass_without_being_remembered() {
    let count = number("LIFEBOAT_REDIS_KEYS", 200_000);
    let keys = || {
        (0..count)
            .map(|n| raw(Sample::begin("").string(&format!("im:session:{n:016}"), "a session of someone")))
    };
    for digesting in [false, true] {
        assert_eq!(walk("small keys", digesting, made(keys())), count);
    }
}
