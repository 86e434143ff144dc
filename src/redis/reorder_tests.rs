//! A dump in order holds what it held before, and the next one is mostly known.

use std::{
    collections::{BTreeMap, HashSet},
    io::Write as _,
    time::Instant,
};

use proptest::prelude::*;
use sha2::{Digest, Sha256};

use super::*;
use crate::redis::{
    cuts::Cuts,
    rdb::{
        Checksum,
        bounds::{made, number, peak_mib, raw},
        sample::{self, Sample},
    },
};

const SMALL: Limits = Limits { run_bytes: 2000, large_bytes: 100 };
const USUAL: Limits = Limits { run_bytes: RUN_BYTES, large_bytes: LARGE_BYTES };

fn spooled(bytes: &[u8]) -> Spool {
    let spool = Spool::new(None).unwrap();
    spool.rewound().unwrap().write_all(bytes).unwrap();
    spool
}

fn read(spool: &Spool) -> Vec<u8> {
    let mut bytes = Vec::new();
    spool.reader(0).read_to_end(&mut bytes).unwrap();
    bytes
}

fn ordered(bytes: &[u8], limits: Limits) -> (Vec<u8>, Survey) {
    let survey = Survey::of_all(bytes, 0, true).unwrap();
    let ordered = sort(spooled(bytes), survey, None, limits).unwrap();
    assert!(ordered.no_room.is_none());
    (read(&ordered.spool), ordered.survey)
}

#[test]
fn everything_is_held_and_stands_in_order_whatever_fits_into_memory() {
    for magic in ["REDIS0009", "REDIS0012", "VALKEY080"] {
        let (bytes, _) = sample::everything(magic);
        let before = Survey::of_all(&bytes[..], 0, true).unwrap();
        let (one, told) = ordered(&bytes, USUAL);
        let after = Survey::of_all(&one[..], 0, true).unwrap();
        assert_eq!(told, after, "what is told of it is what it is");
        assert!(after.sorted && !before.sorted);
        assert_eq!(after.checksum, Checksum::Verified);
        let same = |survey: Survey| Survey { sorted: true, size_bytes: 0, ..survey };
        assert_eq!(same(after), same(before), "{magic}");
        for run_bytes in [1, 500, 2000, 5000] {
            let limits = Limits { run_bytes, ..SMALL };
            assert_eq!(ordered(&bytes, limits).0, one, "{magic}: runs of {run_bytes} bytes");
        }
        assert_eq!(ordered(&one, USUAL).0, one, "what is in order stays as it is");
    }
}

/// Returns a dump whose keys and members stand in an order that `seed` decides, as a server's process would.
fn dump(keys: &BTreeMap<String, Value>, seed: u64) -> Vec<u8> {
    let place = |name: &str| <[u8; 32]>::from(Sha256::digest(format!("{seed} {name}")));
    let mut names: Vec<&String> = keys.keys().collect();
    names.sort_by_cached_key(|name| place(name));
    let mut bytes = b"REDIS0011".to_vec();
    let text = |bytes: &mut Vec<u8>, text: &str| {
        put_length(bytes, text.len() as u64);
        bytes.extend_from_slice(text.as_bytes());
    };
    bytes.push(250);
    text(&mut bytes, "ctime");
    text(&mut bytes, &seed.to_string());
    bytes.extend([254, 0]);
    for name in names {
        match &keys[name] {
            Value::Text(value) => {
                bytes.push(0);
                text(&mut bytes, name);
                text(&mut bytes, value);
            }
            Value::Set(members) => {
                bytes.push(2);
                text(&mut bytes, name);
                put_length(&mut bytes, members.len() as u64);
                let mut members = members.clone();
                members.sort_by_cached_key(|member| place(member));
                for member in members {
                    text(&mut bytes, &member);
                }
            }
        }
    }
    bytes.push(255);
    let crc = crc64(0, &bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes
}

#[derive(Clone, Debug)]
enum Value {
    Text(String),
    Set(Vec<String>),
}

type Chunks = HashSet<Vec<u8>>;

fn chunks(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut cuts = Cuts::begin(bytes.len() as u64);
    let mut chunks: Vec<_> = bytes.chunks(1 << 20).flat_map(|piece| cuts.push(piece)).collect();
    chunks.extend(cuts.finish());
    chunks.into_iter().map(|chunk| chunk.to_vec()).collect()
}

/// Returns how many percent of a dump's bytes are in no chunk of the one before, both put in order.
fn anew_percent(before: &[u8], after: &[u8]) -> f64 {
    let known: Chunks = chunks(&ordered(before, USUAL).0).into_iter().collect();
    let after = ordered(after, USUAL).0;
    let anew: usize = chunks(&after).iter().filter(|chunk| !known.contains(*chunk)).map(Vec::len).sum();
    anew as f64 * 100.0 / after.len() as f64
}

fn value(n: usize, version: usize) -> Value {
    Value::Text(hex::encode(Sha256::digest(format!("{n} {version}"))))
}

fn sessions(count: usize) -> BTreeMap<String, Value> {
    (0..count).map(|n| (format!("im:session:{n:07}"), value(n, 0))).collect()
}

#[test]
fn a_restart_adds_nothing_and_what_changed_little() {
    let keys = sessions(20_000);
    let first = dump(&keys, 1);
    let restarted = anew_percent(&first, &dump(&keys, 2));
    assert!(restarted < 0.5, "a restart: {restarted:.2} %");

    let mut appended = sessions(20_200);
    let percent = anew_percent(&first, &dump(&appended, 1));
    assert!(percent < 2.0, "1 % more keys behind the others: {percent:.2} %");
    appended.retain(|name, _| name.as_str() >= "im:session:0000200");
    let percent = anew_percent(&first, &dump(&appended, 3));
    assert!(percent < 3.0, "the oldest gone, new ones added, restarted: {percent:.2} %");

    let mut spread = keys.clone();
    for n in (0..20_000_usize).filter(|n| Sha256::digest(n.to_string())[..2] < [2, 143][..]) {
        spread.insert(format!("im:session:{n:07}"), value(n, 1));
    }
    let percent = anew_percent(&first, &dump(&spread, 1));
    assert!((20.0..60.0).contains(&percent), "1 % of small keys, anywhere: {percent:.2} %");
    println!("restart {restarted:.2} %, spread {percent:.2} %");
}

#[test]
fn members_of_large_sets_are_in_order_too() {
    let members: Vec<String> = (0..8_000).map(|n| format!("member-{n:05}-of-a-group")).collect();
    let keys = BTreeMap::from([("group".to_owned(), Value::Set(members.clone()))]);
    let first = dump(&keys, 1);
    let percent = anew_percent(&first, &dump(&keys, 2));
    assert!(percent < 6.0, "a restart: {percent:.2} %");
    let more = [members, vec!["member-00777-and-a-half".to_owned()]].concat();
    let keys = BTreeMap::from([("group".to_owned(), Value::Set(more))]);
    let percent = anew_percent(&first, &dump(&keys, 2));
    assert!(percent < 10.0, "one member more: {percent:.2} %");
}

#[test]
fn a_folder_without_room_leaves_the_dump_as_it_came() {
    let (bytes, _) = sample::everything("REDIS0012");
    let survey = Survey::of_all(&bytes[..], 0, false).unwrap();
    let spool = spooled(&bytes);
    let full =
        Output { file: File::options().write(true).open("/dev/full").unwrap(), ..Output::new(None).unwrap() };
    let mut runs = Runs::new(&spool, full, SMALL);
    assert!(matches!(gather(&spool, &mut runs), Err(RdbError::Copy(_))), "{survey:?}");
}

/// `LIFEBOAT_REDIS_KEYS` asks for more keys, and for the runs that a backup makes of them.
#[test]
fn keys_are_put_in_order_in_bounded_memory() {
    let by_hand = number("LIFEBOAT_REDIS_KEYS", 0);
    let (count, limits) =
        if by_hand > 0 { (by_hand, USUAL) } else { (300_000, Limits { run_bytes: 2 << 20, ..USUAL }) };
    // As a server has them: without any order.
    let key = |n: u64| format!("im:session:{:020}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let keys = (0..count).map(|n| raw(Sample::begin("").string(&key(n), "a session of someone")));
    let spool = Spool::new(None).unwrap();
    std::io::copy(&mut made(keys), &mut std::io::BufWriter::new(spool.rewound().unwrap())).unwrap();
    let began = Instant::now();
    let survey = Survey::of_all(spool.reader(0), 0, true).unwrap();
    let walked = began.elapsed();
    let before = peak_mib();
    let sorted = sort(spool, survey, None, limits).unwrap();
    let (grown, took) = (peak_mib().saturating_sub(before), began.elapsed().saturating_sub(walked));
    let began = Instant::now();
    let again = Survey::of_all(sorted.spool.reader(0), 0, true).unwrap();
    println!(
        "{count} keys: walked {walked:.1?}, sorted {took:.1?}, {grown} MiB more; proven {:.1?}",
        began.elapsed()
    );
    assert_eq!((&again.digest, again.keys_by_db()[&0]), (&sorted.survey.digest, count));
    let bound = (limits.run_bytes + MERGE_BYTES) as u64 / (1 << 20) + 16;
    assert!(grown < bound, "{grown} MiB of {bound}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn two_orders_of_the_same_keys_become_one(
        keys in prop::collection::btree_map("[a-z\u{0}é]{0,12}", "[a-z0-9]{0,200}", 1..60),
        members in prop::collection::btree_set("[a-z0-9]{0,30}", 1..40),
        run_bytes in 1_usize..4000,
    ) {
        let mut keys: BTreeMap<String, Value> =
            keys.into_iter().map(|(key, value)| (key, Value::Text(value))).collect();
        keys.insert("a set".to_owned(), Value::Set(members.into_iter().collect()));
        let limits = Limits { run_bytes, ..SMALL };
        let (one, two) = (dump(&keys, 1), dump(&keys, 10));
        let (first, told) = ordered(&one, limits);
        let digest = Survey::of_all(&one[..], 0, true).unwrap().digest;
        prop_assert_eq!(told.digest.clone(), digest);
        prop_assert_eq!(Survey::of_all(&first[..], 0, true).unwrap(), told);
        // All but the field that tells when it was made, and the checksum.
        let body = |bytes: &[u8]| bytes[20..bytes.len() - 8].to_vec();
        prop_assert_eq!(body(&first[..]), body(&ordered(&two, USUAL).0[1..]));
    }
}
