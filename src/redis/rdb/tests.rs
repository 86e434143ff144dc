//! The walk over dumps: real shapes are understood whole, hostile ones are refused and never believed.

use std::io::{self, Read};

use proptest::prelude::*;

use super::{
    Checksum, Item, RdbError, Survey, Tape, Walker, encoding,
    sample::{Sample, everything},
};

/// Reads one byte at a time.
struct Drops<'a>(&'a [u8]);

impl Read for Drops<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.0.len().min(1).min(into.len());
        into[..count].copy_from_slice(&self.0[..count]);
        self.0 = &self.0[count..];
        Ok(count)
    }
}

#[test]
fn every_type_is_walked_and_counted_whatever_the_reads() {
    for magic in ["REDIS0009", "REDIS0012", "VALKEY080"] {
        let (bytes, keys) = everything(magic);
        for digesting in [false, true] {
            let whole = Survey::of_all(&bytes[..], 2_000_000, digesting).unwrap();
            assert_eq!(whole.keys_by_db().into_iter().collect::<Vec<_>>(), keys, "{magic}");
            assert_eq!(whole.size_bytes, bytes.len() as u64);
            assert_eq!((whole.checksum, whole.introspected), (Checksum::Verified, true));
            let expired: Vec<_> =
                whole.expired.iter().map(|(db, count)| (*db, count.values().sum())).collect();
            assert_eq!((whole.functions, expired), (1, vec![(0, 1_u64)]));
            assert_eq!(whole.modules.iter().collect::<Vec<_>>(), ["_________"]);
            assert_eq!((whole.aux["redis-ver"].as_str(), whole.aux["used-mem"].as_str()), ("8.0.6", "65536"));
            assert_eq!(whole.keys[&0]["stream"], 3);
            assert_eq!(Survey::of_all(Drops(&bytes), 2_000_000, digesting).unwrap(), whole, "R1");
        }
    }
}

#[test]
fn strings_are_read_as_clients_see_them() {
    let read = |bytes: &[u8]| {
        encoding::string(&mut Tape::new(bytes, None), 1 << 20).map(|t| t.escape_ascii().to_string())
    };
    assert_eq!(read(&[3, b'a', 0, 0xff]).unwrap(), r"a\x00\xff");
    assert_eq!(read(&[0xc0, 0x80]).unwrap(), "-128");
    assert_eq!(read(&[0xc1, 0xff, 0x7f]).unwrap(), "32767");
    assert_eq!(read(&[0xc2, 0xff, 0xff, 0xff, 0xff]).unwrap(), "-1");
    assert_eq!(read(&[0xc3, 5, 12, 0, b'a', 0xe0, 2, 0]).unwrap(), "a".repeat(12));
    // A claim that no packed bytes can keep, a reference before the beginning, an unknown encoding.
    assert!(read(&[0xc3, 1, 0x80, 0, 8, 0, 0, 0]).is_err());
    assert!(read(&[0xc3, 2, 9, 0xe0, 0]).is_err());
    assert!(read(&[0xc4]).is_err());
}

#[test]
fn the_offsets_of_a_value_are_those_of_its_dump_payload() {
    let bytes = Sample::begin("REDIS0010").db(1).string("k", "value").end();
    let mut walker = Walker::begin(Tape::new(&bytes[..], None), false).unwrap();
    let Item::Key(found) = walker.next().unwrap() else { panic!("a key") };
    let value = &bytes[usize::try_from(found.begin).unwrap()..usize::try_from(found.end).unwrap()];
    assert_eq!((found.db, found.key.as_slice(), value), (1, &b"k"[..], &b"\x05value"[..]));
}

#[test]
fn a_length_beyond_four_gigabytes_is_no_allocation() {
    let bytes =
        Sample::begin("REDIS0010").key(0, "k").raw(&[0x81, 0, 0, 0, 2, 0, 0, 0, 0]).raw(b"short").end();
    for digesting in [false, true] {
        assert!(matches!(Survey::of_all(&bytes[..], 0, digesting), Err(RdbError::Ended { .. })));
    }
}

#[test]
fn what_stands_at_the_end_is_checked() {
    let good = Sample::begin("REDIS0010").string("k", "v").end();
    let take = |bytes: &[u8]| Survey::of_all(bytes, 0, false);
    let mut bad = good.clone();
    *bad.last_mut().unwrap() ^= 1;
    assert!(matches!(take(&bad), Err(RdbError::Checksum)), "R6");
    let mut none = good.clone();
    let at = none.len() - 8;
    none[at..].fill(0);
    assert_eq!(take(&none).unwrap().checksum, Checksum::Absent, "R6: a server with rdbchecksum no");
    assert!(matches!(take(&[&good[..], b"x"].concat()), Err(RdbError::Malformed { .. })));
    for end in 0..good.len() {
        assert!(take(&good[..end]).is_err(), "{end} bytes of it are not whole");
    }
}

#[test]
fn a_code_of_the_future_leaves_the_dump_unexplained_but_proven() {
    let dump = Sample::begin("REDIS0099").string("k", "v").key(99, "new").raw(b"whatever").end();
    let survey = Survey::of_all(&dump[..], 0, false).unwrap();
    assert_eq!((survey.introspected, survey.checksum), (false, Checksum::Verified));
    assert_eq!((survey.size_bytes, survey.keys.len()), (dump.len() as u64, 0));
    assert_eq!(Survey::of_all(Drops(&dump), 0, false).unwrap(), survey);
    let mut bad = dump.clone();
    bad[12] ^= 1;
    assert!(Survey::of_all(&bad[..], 0, false).is_err());
    let mut unproven = dump;
    let at = unproven.len() - 8;
    unproven[at..].fill(0);
    assert!(Survey::of_all(&unproven[..], 0, false).is_err(), "neither structure nor checksum");
}

#[test]
fn the_digest_does_not_depend_on_order_or_packing() {
    let digest = |sample: Sample| Survey::of_all(&sample.end()[..], 0, true).unwrap().digest.unwrap();
    let begin = || Sample::begin("REDIS0012").db(0);
    let listed = super::sample::listpack(&["a", "5"]);
    let packed = digest(begin().key(20, "s").text(&listed).string("n", "5"));
    let plain = digest(begin().key(0, "n").raw(&[0xc0, 5]).key(2, "s").length(2).text("5").text("a"));
    assert_eq!(packed, plain);
    let other = digest(begin().key(20, "s").text(listed).string("n", "6"));
    assert_ne!(packed, other);
    // A list has an order, an expiry is content, a database is part of a key's name.
    let list = |a: &str, b: &str| digest(begin().key(1, "l").length(2).text(a).text(b));
    assert_ne!(list("a", "b"), list("b", "a"));
    let expiring = digest(begin().raw(&[252]).raw(&[9; 8]).string("k", "v"));
    let forever = digest(begin().string("k", "v"));
    assert!(expiring != forever && forever != digest(begin().db(1).string("k", "v")));
    let hash = digest(begin().key(4, "h").length(1).text("f").text("v"));
    assert_eq!(hash, digest(begin().key(16, "h").text(super::sample::listpack(&["f", "v"]))));
    assert_ne!(hash, digest(begin().key(24, "h").raw(&[9; 8]).length(1).length(1).text("f").text("v")));
}

/// Dumps of real servers, of every type that they have: the seeds of `fuzz/`.
const REAL: [(&str, &[u8], u16, &str); 3] = [
    ("redis", include_bytes!("../../../fuzz/seeds/rdb/redis-7.rdb"), 10, "7.0.15"),
    ("redis", include_bytes!("../../../fuzz/seeds/rdb/redis-8.rdb"), 12, "8.0.6"),
    ("valkey", include_bytes!("../../../fuzz/seeds/rdb/valkey-9.rdb"), 80, "9.1.2"),
];

#[test]
fn dumps_of_real_servers_are_understood_whole() {
    let mut digests = Vec::new();
    for (flavour, bytes, version, server) in REAL {
        let survey = Survey::of_all(bytes, 0, true).unwrap();
        assert_eq!((survey.flavour.as_str(), survey.rdb_version), (flavour, version));
        assert_eq!((survey.written_by().as_str(), survey.checksum), (server, Checksum::Verified));
        assert!(survey.introspected && survey.functions == 1, "{flavour} {version}");
        let kinds: Vec<(&str, u64)> = survey.keys[&0].iter().map(|(kind, n)| (kind.as_str(), *n)).collect();
        let hashes = if version == 10 { 2 } else { 4 };
        let common = [("list", 1), ("set", 3), ("stream", 3), ("string", 8), ("zset", 3)];
        assert_eq!(kinds, [&[("hash", hashes)], &common[..]].concat());
        assert_eq!(survey.keys[&3]["string"], 1);
        digests.push((survey.digest, survey.digest_exact));
    }
    let distinct: std::collections::BTreeSet<_> = digests.iter().collect();
    assert_eq!(distinct.len(), 3, "their expiries differ");
}

/// Returns the digests of all keys of a stream.
fn stream_digests(magic: &str, code: u8) -> (String, String) {
    let dump = super::sample::stream(Sample::begin(magic).db(0), code, "s", 1).end();
    let survey = Survey::of_all(&dump[..], 0, true).unwrap();
    (survey.digest.unwrap(), survey.digest_exact.unwrap())
}

#[test]
fn a_stream_has_one_digest_in_all_versions_and_an_exact_one_in_each() {
    let [old, seven, later] =
        [("REDIS0009", 15), ("REDIS0010", 19), ("REDIS0012", 21)].map(|(m, code)| stream_digests(m, code));
    assert_eq!((&old.0, &seven.0), (&seven.0, &later.0));
    assert_eq!(old.0, old.1, "versions before 7.0 keep no more than all do");
    assert_ne!(old.1, seven.1, "7.0 and later count what was added and read");
    assert_eq!(seven.1, later.1, "when a consumer was active is not compared");
}

#[test]
fn digests_that_are_stored_already_are_the_exact_ones() {
    // As the version told them that had one kind only.
    let stored = [
        "b828489cdb45ddd7968a4bc6421c182ede92adf9be7b6dfc5168c742361c5bbe",
        "88bb4fdaff3408b50c3b0648bbf389e608f7c78902f18c49beea64cfaba1ec22",
        "140b2a0864085e1c0d0c810b26610286bb93a9eea945ee68b9b6c3eb978f674f",
    ];
    for ((_, bytes, ..), stored) in REAL.into_iter().zip(stored) {
        let survey = Survey::of_all(bytes, 0, true).unwrap();
        assert_eq!(survey.digest_exact.as_deref(), Some(stored));
        assert_ne!(survey.digest, survey.digest_exact, "there are streams in it");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn packed_strings_are_the_same_whole_and_in_pieces(
        words in prop::collection::vec((0_u8..4, any::<u8>()), 1..9000),
    ) {
        // Literals and references of every length, as far back as what was made and the format reach.
        let (mut packed, mut plain) = (Vec::new(), Vec::<u8>::new());
        for (kind, n) in words {
            if kind < 2 || plain.is_empty() {
                let run: Vec<u8> = (0..=n % 32).map(|step| n.wrapping_mul(step)).collect();
                packed.push(n % 32);
                packed.extend_from_slice(&run);
                plain.extend_from_slice(&run);
                continue;
            }
            let back = (usize::from(n) * 37 + 1).min(plain.len()).min(8192);
            let [high, low] = u16::try_from(back - 1).unwrap().to_be_bytes();
            let count = if kind == 2 { usize::from(n % 6) + 3 } else { usize::from(n) + 9 };
            let control = if kind == 2 { n % 6 + 1 } else { 7 };
            packed.push(control << 5 | high);
            if kind == 3 {
                packed.push(n);
            }
            packed.push(low);
            (0..count).for_each(|_| plain.push(plain[plain.len() - back]));
        }
        let sample = Sample::begin("").raw(&[0xc3]).length(packed.len() as u64).length(plain.len() as u64);
        let bytes = sample.raw(&packed).raw(b"behind").end();
        let mut tape = Tape::new(Drops(&bytes), None);
        prop_assert_eq!(&encoding::string(&mut tape, 1 << 30).unwrap(), &plain);
        prop_assert_eq!(tape.byte().unwrap(), b'b');
        let mut shown = Vec::new();
        encoding::show_string(&mut Tape::over(&bytes), 1 << 30, |piece| shown.extend_from_slice(piece)).unwrap();
        prop_assert_eq!(&shown[..8], &(plain.len() as u64).to_le_bytes()[..]);
        prop_assert_eq!(&shown[8..], &plain[..]);
    }

    #[test]
    fn any_bytes_are_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), digesting: bool) {
        let hostile = [b"REDIS0012", &bytes[..]].concat();
        drop(Survey::of_all(&hostile[..], 0, digesting));
        drop(Survey::of_all(&bytes[..], 0, digesting));
    }

    #[test]
    fn a_changed_byte_is_never_taken_for_whole(at in 0_usize..10_000, with in 1_u8.., digesting: bool, valkey: bool) {
        let (mut bytes, _) = everything(if valkey { "VALKEY080" } else { "REDIS0012" });
        // The last eight bytes may become zero, which means that there is no checksum.
        let at = at % (bytes.len() - 8);
        bytes[at] ^= with;
        prop_assert!(Survey::of_all(&bytes[..], 0, digesting).is_err());
    }

    #[test]
    fn a_dump_that_breaks_off_is_never_taken_for_whole(at in 0_usize..10_000, digesting: bool) {
        let (bytes, _) = everything("REDIS0012");
        prop_assert!(Survey::of_all(&bytes[..at % bytes.len()], 0, digesting).is_err());
    }
}
