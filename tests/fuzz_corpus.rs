//! The functions of `fuzz/`, on every seed and on a fixed number of changed seeds: what a search with libFuzzer found
//! once is not lost, and a parser that gives way to a slip is caught in each build.
//!
//! Everything is drawn from a fixed number: a failure is the same each time, and its input is printed.
//! `LIFEBOAT_FUZZ_ROUNDS` asks for more changed seeds of each target.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "fuzz_corpus/changes.rs"]
mod changes;
#[path = "../fuzz/src/lib.rs"]
mod targets;

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
};

use changes::Changes;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use targets::TARGETS;

/// Changed seeds of each target.
const ROUNDS: usize = 2000;
/// Bytes that all seeds may have.
const SEEDS_BYTES_MAX: usize = 200 << 10;
/// Address space that this program may take; a parser that believes a number in its input asks for more. One window
/// of zstd has 128 MiB, and each thread keeps 64 MiB for its small allocations.
const MEMORY_BYTES_MAX: u64 = 2 << 30;

fn folder(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target)
}

fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let mut found: Vec<_> = fs::read_dir(folder(target))
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read(path).unwrap())
        })
        .collect();
    found.sort();
    found
}

/// Says which input was the last one, if a panic ends its turn.
struct Turn<'a> {
    of: &'a str,
    bytes: &'a [u8],
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the input, from `{}`: b\"{}\"", self.of, self.bytes.escape_ascii());
        }
    }
}

/// Runs a target on its seeds and on changed ones.
fn search(name: &str) {
    let memory = Rlimit { current: Some(MEMORY_BYTES_MAX), ..getrlimit(Resource::As) };
    setrlimit(Resource::As, memory).unwrap();
    let (_, target) = TARGETS.iter().find(|(target, _)| *target == name).unwrap();
    let seeds = seeds(name);
    for (of, bytes) in &seeds {
        let _turn = Turn { of, bytes };
        target(bytes);
    }
    let rounds = env::var("LIFEBOAT_FUZZ_ROUNDS").map_or(ROUNDS, |rounds| rounds.parse().unwrap());
    let mut changes = Changes::new(0x5EED);
    for round in 0..rounds {
        let (of, seed) = &seeds[round % seeds.len()];
        let (_, other) = &seeds[changes.below(seeds.len())];
        let bytes = &changes.apply(seed, other);
        let _turn = Turn { of, bytes };
        target(bytes);
    }
}

macro_rules! each {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                search(stringify!($name));
            }
        )*

        #[test]
        fn every_target_has_a_test_seeds_and_a_way_in_for_libfuzzer() {
            let tested = BTreeSet::from([$(stringify!($name).to_owned()),*]);
            assert_eq!(tested, TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect());
            let names = |folder: &str| -> BTreeSet<String> {
                let entries = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)).unwrap();
                let stem = |path: PathBuf| path.file_stem().unwrap().to_string_lossy().into_owned();
                entries.map(|entry| stem(entry.unwrap().path())).collect()
            };
            assert_eq!(tested, names("fuzz/seeds"));
            assert_eq!(tested, names("fuzz/fuzz_targets"));
            assert!(tested.iter().all(|name| !seeds(name).is_empty()));
        }
    };
}

each!(
    age config entry index key manifest marks mysql_packets pack packed path policy proof psync rdb refs signature when
    within
);

#[test]
fn the_seeds_stay_small() {
    let size_bytes: usize =
        TARGETS.iter().flat_map(|(name, _)| seeds(name)).map(|(_, bytes)| bytes.len()).sum();
    assert!(size_bytes < SEEDS_BYTES_MAX, "{size_bytes} bytes of seeds");
}

#[test]
fn changes_are_the_same_each_time_and_differ_from_the_seed() {
    let seed = br#"{"format":1,"packs":{"a":1},"list":["x"]}"#;
    let all = || {
        let mut changes = Changes::new(7);
        (0..200).map(|_| changes.apply(seed, b"other")).collect::<Vec<_>>()
    };
    assert_eq!(all(), all());
    let different: BTreeSet<_> = all().into_iter().filter(|bytes| bytes != seed).collect();
    assert!(different.len() > 120, "only {} changed seeds", different.len());
    let json = different.iter().filter(|bytes| serde_json::from_slice::<serde_json::Value>(bytes).is_ok());
    assert!(json.count() > 20, "too few are JSON still");
}
