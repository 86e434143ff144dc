//! One function for each kind of bytes that somebody else may have chosen: a thief of the store, or a slip of the pen.
//!
//! The laws, of every function: it returns. What was read writes itself as something that reads the same. Numbers
//! that passed a check lead to reads of bounded size. `tests/fuzz_corpus.rs` runs them on the seeds and on a fixed
//! number of changed seeds in each build; `cargo fuzz` searches further ([README](../README.md)).

use std::{
    collections::BTreeSet,
    fmt::Debug,
    path::{Component, Path},
};

use chrono::{DateTime, TimeZone, Utc};
use chrono_tz::Tz;
use lifeboat::{
    crypt::{CIPHER_CHUNK_BYTES, Identities, Payload, Recipients, TrustedKeys, payload_offset},
    flow::Selection,
    jobs::when::When,
    mysql::hostile as mysql,
    names::{EntryPath, Key, PackId, SnapshotId, SourceName},
    policy::{Need, Stack},
    redis::hostile as redis,
    repo::{
        KnownChunks, MemoryIndex,
        format::{self, Config, EntryRecord, FRAME_BYTES_MAX, Manifest, PackRecord, Proof, Refs, layout},
        hostile,
    },
    retention::{Unit, Within},
};
use serde::{Serialize, de::DeserializeOwned};

/// Takes bytes that somebody else chose; panics when a law does not hold.
pub type Target = fn(&[u8]);

/// Every target under its name.
pub const TARGETS: [(&str, Target); 19] = [
    ("age", age),
    ("config", config),
    ("entry", entry),
    ("index", index),
    ("key", key),
    ("manifest", manifest),
    ("marks", marks),
    ("mysql_packets", mysql_packets),
    ("pack", pack),
    ("packed", packed),
    ("path", path),
    ("policy", policy),
    ("proof", proof),
    ("psync", psync),
    ("rdb", rdb),
    ("refs", refs),
    ("signature", signature),
    ("when", when),
    ("within", within),
];

const ZONES: [Tz; 6] = [
    Tz::UTC,
    Tz::Asia__Shanghai,
    Tz::Europe__Berlin,
    Tz::America__New_York,
    Tz::Pacific__Apia,
    Tz::Australia__Lord_Howe,
];

/// Bytes that one range read may ask for: the largest frame where zstd found nothing to save, and a border at
/// each end.
const READ_BYTES_MAX: u64 = (FRAME_BYTES_MAX as u64) * 129 / 128 + 2 * CIPHER_CHUNK_BYTES;

// The keys of the repository that the seeds were taken from. They open and sign nothing else.
const IDENTITY: &str = include_str!("../../tests/golden/format-1/keys/identity.txt");
const SIGNER: &str = include_str!("../../tests/golden/format-1/keys/signing.pub");
const SIGNED: &[u8] = include_bytes!("../../tests/golden/format-1/repo/config.json");
const SIGNATURE: &str = include_str!("../../tests/golden/format-1/repo/config.json.minisig");

/// Reads bytes as JSON of the format. What reads must write itself as something that reads the same.
fn read<T: Serialize + DeserializeOwned + PartialEq + Debug>(bytes: &[u8]) -> Option<T> {
    let first: T = format::parse(bytes, "input").ok()?;
    let written = format::write(&first);
    let again: T = format::parse(&written, "output").expect("what was written can be read");
    assert_eq!(first, again);
    Some(first)
}

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

/// What retention computes from an instant that a manifest, refs or a tombstone tell.
fn dated(instant: DateTime<Utc>) {
    for zone in ZONES {
        for unit in [Unit::Hour, Unit::Day, Unit::Week, Unit::Month, Unit::Year] {
            let _ = unit.period_of(instant, zone).to_string();
        }
        for span in ["1h", "9999h", "7d", "9999w", "6m", "9999y"] {
            let before = Within::parse(span).expect("a span").before(instant, zone);
            assert!(before <= instant, "{span} before {instant} is {before}");
        }
    }
    let _ = instant.to_rfc3339();
}

/// Refs: which packs a snapshot needs.
pub fn refs(bytes: &[u8]) {
    let Some(refs) = read::<Refs>(bytes) else { return };
    let key = layout::refs(&refs.snapshot, refs.revision);
    assert_eq!(layout::refs_of(&key), Some((refs.snapshot.clone(), refs.revision)));
    assert_eq!(layout::signed_by(&layout::signature(&key)), Some(key));
    for pack in refs.packs.keys() {
        assert_eq!(layout::pack_of(&layout::pack(*pack)), Some(*pack));
    }
    let _ = refs.snapshot.time();
    dated(refs.began);
}

/// The proof of a drill, and the tar that its report lies in.
pub fn proof(bytes: &[u8]) {
    if let Ok(files) = hostile::report_members(bytes, "input") {
        let names: BTreeSet<&String> = files.iter().map(|(name, _)| name).collect();
        assert_eq!(names.len(), files.len());
        let is_plain = |name: &&&String| {
            matches!(Path::new(name).components().collect::<Vec<_>>()[..], [Component::Normal(_)])
        };
        assert_eq!(names.iter().filter(is_plain).count(), names.len());
    }
    let Ok(proof) = Proof::parse(bytes, "input") else { return };
    Proof::parse(&format::write(&proof), "output").expect("what was written can be read");
    let key = layout::drill(&proof.drill);
    assert_eq!(layout::drill_of(&key), Some(proof.drill.clone()));
    assert_eq!(layout::drill_of(&layout::drill_report(&proof.drill)), None);
    assert!(proof.rto_seconds.is_none_or(|seconds| std::time::Duration::try_from_secs_f64(seconds).is_ok()));
    dated(proof.ended);
}

/// The config, which is read before its signature is checked.
pub fn config(bytes: &[u8]) {
    let _ = read::<Config>(bytes);
    let Ok(config) = Config::parse(bytes) else { return };
    assert!(config.cuts_like(&config.clone()));
    let _ = config.check();
    let _ = Recipients::parse(&config.data_recipients);
    let _ = TrustedKeys::parse(&config.signers);
}

/// The manifest: what a snapshot holds.
pub fn manifest(bytes: &[u8]) {
    let Some(manifest) = read::<Manifest>(bytes) else { return };
    let _ = manifest.size_bytes();
    dated(manifest.began);
}

/// A line of an entry list.
pub fn entry(bytes: &[u8]) {
    let Some(entry) = read::<EntryRecord>(bytes) else { return };
    path(entry.meta.path.as_str().as_bytes());
    assert!(Selection::all().wants(&entry.meta));
    let some = Selection::new(&["*/users*".to_owned(), "{im,shop}.*".to_owned()]).expect("two patterns");
    let _ = some.wants(&entry.meta);
}

/// An index object, unpacked, and the range reads that it leads to.
pub fn index(bytes: &[u8]) {
    for line in bytes.split(|byte| *byte == b'\n') {
        let _ = read::<PackRecord>(line);
    }
    let Ok(records) = PackRecord::parse_lines(bytes, "input") else { return };
    let known = MemoryIndex::default();
    known.add(&layout::index("20251010T180000Z-7f3a", 0), "RW", &records).expect("memory takes it");
    for record in &records {
        let map = known.pack(&record.pack).expect("memory answers").expect("it was added");
        for range in hostile::ranges(&map) {
            let range = range.expect("a pack that passed its check can be read");
            assert!(range.start < range.end && range.end <= map.size_bytes);
            assert!(range.end - range.start <= READ_BYTES_MAX, "{range:?} in one read");
        }
        for chunk in &record.inner.chunks {
            for at in known.locations(&chunk.id, record.kind).expect("memory answers") {
                let map = known.pack(&at.pack).expect("memory answers").expect("it was added");
                let frame = map.frames[at.frame as usize];
                assert!(u64::from(at.offset) + u64::from(at.size_bytes) <= u64::from(frame.plain_bytes));
            }
        }
    }
}

/// The plain side of a pack. Bytes that are not compressed are taken for the tar: a search gets further so.
pub fn pack(bytes: &[u8]) {
    let packed = match bytes {
        [0x28, 0xb5, 0x2f, 0xfd, ..] => bytes.to_vec(),
        _ => zstd::bulk::compress(bytes, 1).expect("memory"),
    };
    let mut chunks = 0;
    let each = |_, content: &[u8]| {
        assert!(content.len() <= FRAME_BYTES_MAX);
        chunks += 1;
        Ok(())
    };
    if let Ok(index) = hostile::read_members(&packed[..], PackId([0; 32]), each) {
        let again: format::PackIndex =
            format::parse(&format::write(&index), "output").expect("it was written");
        assert_eq!(index, again);
    }
}

/// A dump of Redis or Valkey. Bytes without a magic are taken for what stands behind one: a search gets further so.
///
/// Its checksum is made right, or every change would end there. What is walked without looking into values is walked
/// with it too, and holds the same in order.
pub fn rdb(bytes: &[u8]) {
    let is_whole = bytes.starts_with(b"REDIS") || bytes.starts_with(b"VALKEY");
    let mut dump = if is_whole { bytes.to_vec() } else { [b"REDIS0012", bytes].concat() };
    if dump.len() > 17 {
        // A checksum of zero means that there is none.
        let at = dump.len() - 8;
        dump[at..].fill(0);
    }
    let plain = redis::dump(&dump[..], false);
    let Some(told) = redis::dump(&dump[..], true) else { return };
    let plain = plain.expect("what can be looked into can be walked");
    assert_eq!((plain.size_bytes, plain.keys), (dump.len() as u64, told.keys));
    let Some(ordered) = redis::in_order(&dump, 300) else { return };
    let after = redis::dump(&ordered[..], true).expect("what was put in order can be read");
    assert_eq!((after.keys, &after.digests), (told.keys, &told.digests));
    let again = redis::in_order(&ordered, 1 << 20).expect("it is in order");
    assert!(again == ordered, "an order of two kinds");
}

/// A packed collection of Redis: the first byte says of which kind.
pub fn packed(bytes: &[u8]) {
    let Some((kind, bytes)) = bytes.split_first() else { return };
    let Some(members) = redis::unpack(kind % 4, bytes) else { return };
    let made_bytes: usize = members.iter().map(Vec::len).sum();
    // LZF makes 264 bytes of three; of a number in one byte a collection makes at most twenty digits.
    assert!(made_bytes <= 264 * bytes.len() + 20, "{made_bytes} bytes of {}", bytes.len());
    assert!(members.len() <= bytes.len() + 1);
}

/// What a server answers to who asks it for a dump, from the first greeting to behind the dump.
pub fn psync(bytes: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let Some((told, spooled)) = runtime.block_on(redis::pull(bytes.to_vec())) else { return };
    assert_eq!(told.size_bytes, spooled.len() as u64);
    assert_eq!(redis::dump(&spooled[..], false), Some(told), "what was taken for whole is whole");
    assert!(bytes.windows(spooled.len()).any(|window| window == spooled), "the bytes are the server's");
}

/// What a MySQL server says to who reads rows, from its greeting to the end of a result.
pub fn mysql_packets(bytes: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let Some(rows) = runtime.block_on(mysql::session(bytes.to_vec())) else { return };
    let columns = rows.first().map_or(0, Vec::len);
    assert!(rows.iter().all(|row| row.len() == columns), "all rows have the same columns");
    let fields = rows.iter().flatten().flatten();
    assert!(fields.clone().map(Vec::len).sum::<usize>() < bytes.len(), "there is no more than was said");
    for field in fields.filter(|field| !field.is_empty() && field.len() < 1 << 10) {
        assert!(bytes.windows(field.len()).any(|window| window == field), "the bytes are the server's");
    }
}

/// What runs leave beside snapshots: tombstones, generations of prune, sessions.
pub fn marks(bytes: &[u8]) {
    if let Some(tombstone) = read::<hostile::Tombstone>(bytes) {
        let key = hostile::tombstone(&tombstone.snapshot, tombstone.generation);
        let _ = layout::signature(&key);
        dated(tombstone.at);
    }
    if let Some(condemned) = read::<hostile::Condemned>(bytes) {
        let _ = hostile::step(condemned.generation, hostile::Step::Condemned);
    }
    let _ = read::<hostile::Open>(bytes);
    let _ = read::<hostile::Done>(bytes);
    let _ = read::<hostile::SessionMark>(bytes);
}

/// A key of a listing, and everything that a name in a store is taken for.
pub fn key(bytes: &[u8]) {
    let Some(key) = text(bytes).and_then(|text| Key::new(text).ok()) else { return };
    assert!(Path::new(key.as_str()).components().all(|part| matches!(part, Component::Normal(_))));
    let sign = |key: &Key| assert_eq!(layout::signed_by(&layout::signature(key)).as_ref(), Some(key));
    if let Some((snapshot, revision)) = layout::refs_of(&key) {
        assert_eq!(layout::refs(&snapshot, revision), key);
        sign(&key);
    }
    if let Some(revision) = layout::config_of(&key) {
        assert_eq!(layout::config_revision(revision), key);
        sign(&key);
    }
    if let Some(pack) = layout::pack_of(&key) {
        assert_eq!(layout::pack(pack), key);
    }
    if let Some((snapshot, generation)) = hostile::tombstone_of(&key) {
        let own = hostile::tombstone(&snapshot, generation);
        assert!(key == own || hostile::upstream(&own).as_ref() == Some(&key));
        let upstream = hostile::upstream(&key).expect("a copy can keep it");
        sign(&key);
        sign(&upstream);
    }
    if let Some((generation, step)) = hostile::step_of(&key) {
        assert_eq!(hostile::step(generation, step), key);
        assert!(generation <= hostile::GENERATION_MAX);
        sign(&key);
    }
    let _ = (layout::index_of(&key), hostile::session_of(&key), layout::signed_by(&key));
}

/// A policy.
pub fn policy(bytes: &[u8]) {
    let Some(text) = text(bytes) else { return };
    for need in [Need::Sources, Need::Repository] {
        match Stack::parse(text, "policy.toml", need) {
            Ok(stack) => {
                let effective = stack.effective().expect("a policy can be written");
                let again = Stack::parse(&effective, "effective.toml", need);
                let again = again.unwrap_or_else(|problems| panic!("{:#?}\n{effective}", problems.lines()));
                assert_eq!(stack, again);
            }
            Err(problems) => assert!(!problems.lines().is_empty(), "it is refused without a word"),
        }
    }
}

/// A signature, and the text of a public key. Only what was really signed is believed.
pub fn signature(bytes: &[u8]) {
    let Some(text) = text(bytes) else { return };
    let trusted = TrustedKeys::parse(&[SIGNER.trim()]).expect("a signer");
    let comment = |text: &str| trusted.verify(SIGNED, text, "input").map(|verified| verified.comment);
    if let Ok(believed) = comment(text) {
        assert_eq!(believed, comment(SIGNATURE).expect("the true one"));
    }
    assert!(trusted.verify(b"something else", text, "input").is_err());
    let _ = TrustedKeys::parse(&[text]);
}

/// A sealed object. What opens as a whole opens in parts as the same.
pub fn age(bytes: &[u8]) {
    let identities = Identities::from_text(IDENTITY).expect("an identity");
    let whole = identities.open(bytes, "input").ok();
    let parts = payload_offset(bytes).and_then(|at| {
        let (head, sealed) = bytes.split_at_checked(usize::try_from(at).ok()?)?;
        let payload = Payload::unlock(head, &identities, "input").ok()?;
        payload.open(sealed, 0, true).ok()
    });
    if whole.is_some() {
        assert_eq!(whole, parts);
    }
    let _ = text(bytes).map(Identities::from_text);
    let _ = text(bytes).map(|text| Recipients::parse(&[text]));
}

/// How people say which snapshot they mean.
pub fn when(bytes: &[u8]) {
    let Some(text) = text(bytes) else { return };
    let ids =
        ["00000101T000000Z-0000", "20251010T180000Z-7f3a", "20251010T180000Z-7f3b", "99991231T235959Z-ffff"];
    let ids = ids.map(|id| SnapshotId::new(id).expect("an id"));
    let now = Utc.with_ymd_and_hms(2025, 10, 12, 0, 0, 0).single().expect("an instant");
    for zone in ZONES {
        if let Ok(picked) = When::parse(text, zone, now).and_then(|when| when.pick(&ids)) {
            assert!(ids.contains(&picked));
        }
        let _ = When::parse(text, zone, now).and_then(|when| when.fitting(&ids[..1]));
    }
    if let Ok(id) = SnapshotId::new(text) {
        let _ = id.time();
    }
}

/// The path of an entry, and the parts that one is made of, divided by zero bytes.
pub fn path(bytes: &[u8]) {
    let Some(text) = text(bytes) else { return };
    if let Ok(path) = EntryPath::new(text) {
        assert!(Path::new(path.as_str()).components().all(|part| matches!(part, Component::Normal(_))));
        // Parts that were not escaped may become longer than a path can be.
        if let Ok(again) = EntryPath::of_parts(&path.parts()) {
            assert_eq!(again.parts(), path.parts());
        }
    }
    let parts: Vec<&str> = text.split('\0').collect();
    if let Ok(path) = EntryPath::of_parts(&parts) {
        assert_eq!(path.parts(), parts);
        assert_eq!(EntryPath::new(path.as_str()).as_ref(), Ok(&path));
    }
    let _ = SourceName::new(text);
}

/// A span of time of a retention rule.
pub fn within(bytes: &[u8]) {
    let Some(span) = text(bytes).and_then(|text| Within::parse(text).ok()) else { return };
    assert_eq!(Within::parse(&span.to_string()).expect("it was written"), span);
    // Years have four digits in all that is stored.
    let days = [(0, 1, 1), (1, 3, 31), (2024, 2, 29), (2025, 3, 30), (2025, 10, 26), (9999, 12, 31)];
    let days = days.map(|(year, month, day)| Utc.with_ymd_and_hms(year, month, day, 2, 30, 0).single());
    for newest in days.into_iter().flatten() {
        let before: BTreeSet<_> = ZONES.iter().map(|zone| span.before(newest, *zone)).collect();
        assert!(before.iter().all(|before| *before <= newest));
    }
}
