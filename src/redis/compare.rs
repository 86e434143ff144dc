//! Whether two dumps hold the same, and which keys differ.
//!
//! The bytes of two dumps of one server differ, so digests over all keys are compared. A digest of long ago knows keys
//! that have expired since: when two differ, both dumps are walked again and judged at one instant, after the later one
//! was taken. What has expired by then, on either side, counts on neither.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;

use super::{
    archive::Archive,
    rdb::{Item, KeyCount, RdbError, Tape, Walker},
    source,
    spool::Spool,
};
use crate::{
    error::{Context, ExitCode, Failure, Result},
    flow::{
        Cut, EntryMeta, EntryStream, FlowResult, Likeness, Seen,
        compare::{Counts, differences},
        unordered::{Listing, Odds, Sums, Thing},
    },
    plain::of_bytes,
    policy::RedisConfig,
};

/// Characters of a key that are shown.
const KEY_CHARS_SHOWN: usize = 200;
/// How many keys there are, in [`Counts`]; those of each type have its name before this.
pub const KEYS: &str = "keys";
/// How many there are whose time has run out.
pub const EXPIRED: &str = "expired since the snapshot";
/// What is compared of what a dump's end tells: the rest is the server's own.
const COMPARED: [&str; 7] = ["keys", "functions", "modules", DIGEST, DIGEST_EXACT, VERSION[0], VERSION[1]];
/// Which format a dump has.
const VERSION: [&str; 2] = ["rdb_flavour", "rdb_version"];
/// The digest of what servers of all versions keep. Snapshots that know no exact one have that in its place.
const DIGEST: &str = "digest";
/// The digest of all that a dump of one format version holds.
const DIGEST_EXACT: &str = "digest_exact";

/// When two entries of a Redis source hold the same.
pub struct RedisLikeness;

impl Likeness for RedisLikeness {
    fn canonical(&self, mut seen: Seen) -> Option<Seen> {
        if !is_dump(seen.meta.path.as_str()) {
            return None;
        }
        seen.sha256.clear();
        seen.size_bytes = 0;
        // Where chunks are cut is a matter of storage.
        seen.meta.cut = Cut::default();
        seen.trailer.retain(|name, _| COMPARED.contains(&name.as_str()));
        Some(seen)
    }

    fn differences(&self, stored: &Seen, found: &Seen) -> Vec<String> {
        let (stored, found) = comparable(stored.clone(), found.clone());
        differences(&stored, &found)
    }

    fn name(&self, meta: &EntryMeta) -> String {
        format!("entry {}", meta.path)
    }

    fn count(&self, seen: &Seen, _bytes: Option<&Bytes>, counts: &mut Counts) {
        let by_kind = |name: &str| -> KeyCount {
            let told = seen.trailer.get(name).cloned();
            let told: BTreeMap<u64, KeyCount> =
                told.and_then(|told| serde_json::from_value(told).ok()).unwrap_or_default();
            told.into_values().flatten().fold(KeyCount::new(), |mut sum, (kind, count)| {
                *sum.entry(kind).or_default() += count;
                sum
            })
        };
        // A dump has keys that are gone for everybody who asks for them.
        let expired = by_kind("expired");
        for (kind, count) in by_kind("keys") {
            let gone = expired.get(&kind).copied().unwrap_or(0).min(count);
            note_keys(counts, &kind, count - gone);
            *counts.entry(EXPIRED.to_owned()).or_default() += gone;
        }
    }
}

/// Leaves of two dumps the digest by which they can be compared.
fn comparable(mut stored: Seen, mut found: Seen) -> (Seen, Seen) {
    let version = |seen: &Seen| VERSION.map(|name| seen.trailer.get(name).cloned());
    let is_one_version = version(&stored) == version(&found);
    let both = [&stored, &found].iter().all(|seen| seen.trailer.contains_key(DIGEST_EXACT));
    for seen in [&mut stored, &mut found] {
        seen.trailer.retain(|name, _| !VERSION.contains(&name.as_str()));
        // A snapshot that has only one digest has the exact one under the name of the other.
        if let Some(exact) = seen.trailer.remove(DIGEST_EXACT)
            && (is_one_version || !both)
        {
            seen.trailer.insert(DIGEST.to_owned(), exact);
        }
    }
    (stored, found)
}

fn note_keys(counts: &mut Counts, kind: &str, count: u64) {
    *counts.entry(format!("{kind} {KEYS}")).or_default() += count;
    *counts.entry(KEYS.to_owned()).or_default() += count;
}

/// Returns whether an entry of a Redis source is a dump: of a server, or of one of a cluster's shards.
pub fn is_dump(path: &str) -> bool {
    source::is_dump(path)
}

/// Returns whether an entry of a reading tells nothing of its keys: they are of a newer format than this version knows.
pub fn is_opaque(seen: &Seen) -> bool {
    is_dump(seen.meta.path.as_str()) && !seen.trailer.contains_key("digest")
}

/// A dump on local disk.
pub struct Dump(Spool);

impl Dump {
    /// Takes a dump that is on local disk already, and proven.
    pub(super) fn of(spool: Spool) -> Self {
        Self(spool)
    }

    /// Takes the dump out of the entries of a Redis source, to their end.
    pub async fn take(entries: EntryStream, config: &RedisConfig, now_ms: i64) -> FlowResult<Self> {
        Ok(Self(Archive::take(entries, config, now_ms).await?.spool))
    }

    /// Hands each key of a database that has expired by `now_ms` to `hear`. Blocks until the dump is read.
    pub fn expired(&self, db: u32, now_ms: i64, mut hear: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        // With digests, for only they look into hashes, of which all fields may have expired.
        let begun = Walker::begin(Tape::new(self.0.reader(0), None), true);
        let mut walker = begun.map_err(unreadable)?.judge_at(now_ms);
        loop {
            match walker.next().map_err(unreadable)? {
                Item::Key(found) if found.expired && found.db == u64::from(db) => hear(&found.key)?,
                Item::End { .. } => return Ok(()),
                _ => {}
            }
        }
    }
}

/// Both dumps were proven when they were taken: one that cannot be walked now says nothing of what was stored.
fn unreadable(error: RdbError) -> Failure {
    Failure::new(ExitCode::Failed, "the dump cannot be walked").because(error)
}

/// What two dumps differ in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyOdds {
    /// The keys.
    pub odds: Odds,
    /// The keys that are there and have not expired, and how many of the stored dump have: [`EXPIRED`].
    pub counts: Counts,
}

/// Compares two dumps as they are at `now_ms`, which is not before the later of them was taken.
pub async fn differing_keys(stored: Dump, found: Dump, now_ms: i64, named_max: usize) -> Result<KeyOdds> {
    let (stored, found) = (Arc::new(stored.0), Arc::new(found.0));
    let walked = tokio::task::spawn_blocking(move || differing(&stored, &found, now_ms, named_max)).await;
    let walked = walked.failed(ExitCode::Failed, || "the dumps were not compared".to_owned())?;
    walked.map_err(unreadable)
}

fn differing(stored: &Spool, found: &Spool, now_ms: i64, named_max: usize) -> Result<KeyOdds, RdbError> {
    let (mut one, mut two) = (Sums::default(), Sums::default());
    let version = |spool: &Spool| Walker::begin(Tape::new(spool.reader(0), None), false).map(|w| w.version());
    let is_exact = version(stored)? == version(found)?;
    let walk = |spool: &Spool, visit: &mut dyn FnMut(&Thing, &What<'_>)| walk(spool, now_ms, is_exact, visit);
    let expired = walk(stored, &mut |thing, _| one.add(thing))?;
    let mut counts = Counts::from([(EXPIRED.to_owned(), expired)]);
    walk(found, &mut |thing, what| {
        if let What::Key { kind, .. } = what {
            note_keys(&mut counts, kind, 1);
        }
        two.add(thing);
    })?;
    let Some(mut listing) = Listing::of(&one, &two) else {
        return Ok(KeyOdds { odds: Odds::default(), counts });
    };
    walk(stored, &mut |thing, what| {
        if listing.wants(thing) {
            listing.stored(thing, what.name(), Vec::new());
        }
    })?;
    walk(found, &mut |thing, what| {
        if listing.wants(thing) {
            listing.found(thing, what.name(), Vec::new());
        }
    })?;
    Ok(KeyOdds { odds: listing.finish(named_max), counts })
}

/// What a thing of a dump is.
enum What<'a> {
    Key { db: u64, key: &'a [u8], kind: &'a str },
    Function,
}

impl What<'_> {
    fn name(&self) -> String {
        match self {
            Self::Key { db, key, .. } => {
                format!("db {db} key \"{}\"", of_bytes(key, KEY_CHARS_SHOWN).replace('"', "\\\""))
            }
            Self::Function => "a function library".to_owned(),
        }
    }
}

/// Shows all that has not expired to `visit`, with the digests of one version or of all; returns how many keys have.
fn walk(
    spool: &Spool,
    now_ms: i64,
    is_exact: bool,
    visit: &mut dyn FnMut(&Thing, &What<'_>),
) -> Result<u64, RdbError> {
    let mut walker = Walker::begin(Tape::new(spool.reader(0), None), true)?.judge_at(now_ms);
    let mut expired = 0;
    loop {
        match walker.next()? {
            Item::Key(found) if found.expired => expired += 1,
            Item::Key(found) => {
                let key = Thing::key(&[&found.db.to_le_bytes(), &found.key]);
                let digest = if is_exact { found.exact } else { found.digest };
                let thing = Thing { key, whole: digest.unwrap_or_default() };
                visit(&thing, &What::Key { db: found.db, key: &found.key, kind: &found.kind });
            }
            Item::Function { digest, .. } => {
                let whole = digest.unwrap_or_default();
                visit(&Thing { key: whole, whole }, &What::Function);
            }
            Item::Aux(..) | Item::ModuleAux(_) => {}
            Item::End { .. } => return Ok(expired),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::Write;

    use serde_json::json;

    use super::*;
    use crate::{flow::Stage, names::EntryPath, redis::rdb::sample::Sample};

    impl Dump {
        /// Returns a dump of strings: database, key, and when it expires.
        pub(crate) fn sample(keys: &[(u64, &str, Option<i64>)]) -> Self {
            let mut sample = Sample::begin("REDIS0011");
            for (db, key, expires_at_ms) in keys {
                sample = sample.db(*db);
                if let Some(at) = expires_at_ms {
                    sample = sample.raw(&[252]).raw(&at.to_le_bytes());
                }
                sample = sample.string(key, "value");
            }
            let spool = Spool::new(None).unwrap();
            spool.rewound().unwrap().write_all(&sample.end()).unwrap();
            Self(spool)
        }
    }

    #[test]
    fn a_dump_says_which_keys_of_a_database_have_expired() {
        let dump = Dump::sample(&[
            (0, "stays", None),
            (0, "gone", Some(1000)),
            (0, "later", Some(1001)),
            (3, "elsewhere", Some(1000)),
        ]);
        let expired = |db, now_ms| {
            let mut keys = Vec::new();
            let hear = |key: &[u8]| {
                keys.push(String::from_utf8(key.to_vec()).unwrap());
                Ok(())
            };
            dump.expired(db, now_ms, hear).unwrap();
            keys
        };
        assert_eq!(
            (expired(0, 1000), expired(3, 1000)),
            (vec!["gone".to_owned()], vec!["elsewhere".to_owned()])
        );
        assert_eq!((expired(0, 999), expired(1, 9999)), (Vec::new(), Vec::new()));
        assert_eq!(expired(0, 1001).len(), 2);
    }

    /// Returns a dump entry as it is compared, with these facts at its end.
    fn canonical(facts: serde_json::Value) -> Seen {
        let meta = EntryMeta::new(EntryPath::new("dump.rdb").unwrap(), Stage::Data, "dump");
        let trailer = serde_json::from_value(facts).unwrap();
        let seen = Seen { meta, trailer, sha256: "one".into(), size_bytes: 7 };
        RedisLikeness.canonical(seen).unwrap()
    }

    #[test]
    fn dumps_of_one_version_are_compared_exactly_and_others_by_what_both_keep() {
        let new = |version: u16, common: &str, exact: &str| {
            canonical(
                json!({"rdb_flavour": "redis", "rdb_version": version, "digest": common, "digest_exact": exact,
                "order": "key", "checksum": "verified"}),
            )
        };
        let old = |version: u16, exact: &str| {
            canonical(json!({"rdb_flavour": "redis", "rdb_version": version, "digest": exact}))
        };
        let same = |one: &Seen, two: &Seen| RedisLikeness.differences(one, two).is_empty();
        assert!(same(&new(10, "c", "e"), &new(10, "c", "e")));
        assert!(!same(&new(10, "c", "e"), &new(10, "c", "f")), "one version tells all that it keeps");
        assert!(same(&new(9, "c", "e"), &new(10, "c", "f")), "another version need not keep the rest");
        assert!(!same(&new(9, "c", "e"), &new(10, "d", "e")));
        // The one digest of an older snapshot is the exact one.
        assert!(same(&old(10, "e"), &new(10, "c", "e")) && same(&old(10, "e"), &old(10, "e")));
        assert!(!same(&old(10, "c"), &new(10, "c", "e")));
    }

    /// Returns a dump with a stream as versions before 7.0 keep it, or as later ones do.
    fn of_stream(magic: &str, code: u8, length: u64) -> Dump {
        let stream = crate::redis::rdb::sample::stream(Sample::begin(magic).db(0), code, "s", length);
        let spool = Spool::new(None).unwrap();
        spool.rewound().unwrap().write_all(&stream.end()).unwrap();
        Dump(spool)
    }

    #[tokio::test]
    async fn a_stream_of_an_older_version_holds_what_a_newer_server_made_of_it() {
        let odds = async |one: Dump, two: Dump| differing_keys(one, two, 0, 9).await.unwrap().odds;
        let old = || of_stream("REDIS0009", 15, 1);
        assert_eq!(odds(old(), of_stream("REDIS0010", 19, 1)).await, Odds::default());
        assert_eq!(odds(old(), of_stream("REDIS0012", 21, 1)).await, Odds::default());
        assert_eq!(odds(old(), old()).await, Odds::default());
        let other = odds(old(), of_stream("REDIS0012", 21, 2)).await;
        assert_eq!((other.total, other.named[0].name.as_str()), (1, "db 0 key \"s\""));
    }

    #[tokio::test]
    async fn keys_that_have_expired_are_counted_by_themselves_in_both_ways_to_compare() {
        let mut trailer = crate::flow::Attrs::new();
        trailer.insert("keys".to_owned(), json!({"0": {"string": 3, "hash": 1}, "3": {"string": 1}}));
        trailer.insert("expired".to_owned(), json!({"0": {"string": 1}, "3": {"string": 1}}));
        let meta = EntryMeta::new(EntryPath::new("dump.rdb").unwrap(), Stage::Data, "dump");
        let seen = Seen { meta, trailer, sha256: String::new(), size_bytes: 0 };
        let mut counts = Counts::new();
        RedisLikeness.count(&seen, None, &mut counts);
        let told = |counts: Counts| {
            counts.into_iter().map(|(name, count)| format!("{count} {name}")).collect::<Vec<_>>()
        };
        assert_eq!(told(counts), ["2 expired since the snapshot", "1 hash keys", "3 keys", "2 string keys"]);

        let all = [(0, "a", None), (0, "b", Some(1000)), (3, "c", Some(5))];
        let found = Dump::sample(&all[..2]);
        let odds = differing_keys(Dump::sample(&all), found, 1000, 9).await.unwrap();
        assert_eq!(odds.odds, Odds::default());
        assert_eq!(told(odds.counts), ["2 expired since the snapshot", "1 keys", "1 string keys"]);
    }
}
