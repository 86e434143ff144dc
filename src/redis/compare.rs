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
    source::DUMP,
    spool::Spool,
};
use crate::{
    error::{Context, ExitCode, Failure, Result},
    flow::{
        EntryMeta, EntryStream, FlowResult, Likeness, Seen,
        compare::Counts,
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
const COMPARED: [&str; 4] = ["keys", "functions", "modules", "digest"];

/// When two entries of a Redis source hold the same.
pub struct RedisLikeness;

impl Likeness for RedisLikeness {
    fn canonical(&self, mut seen: Seen) -> Option<Seen> {
        if seen.meta.path.as_str() != DUMP.0 {
            return None;
        }
        seen.sha256.clear();
        seen.size_bytes = 0;
        seen.trailer.retain(|name, _| COMPARED.contains(&name.as_str()));
        Some(seen)
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

fn note_keys(counts: &mut Counts, kind: &str, count: u64) {
    *counts.entry(format!("{kind} {KEYS}")).or_default() += count;
    *counts.entry(KEYS.to_owned()).or_default() += count;
}

/// Returns whether an entry of a reading tells nothing of its keys: they are of a newer format than this version knows.
pub fn is_opaque(seen: &Seen) -> bool {
    seen.meta.path.as_str() == DUMP.0 && !seen.trailer.contains_key("digest")
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
    let expired = walk(stored, now_ms, |thing, _| one.add(thing))?;
    let mut counts = Counts::from([(EXPIRED.to_owned(), expired)]);
    walk(found, now_ms, |thing, what| {
        if let What::Key { kind, .. } = what {
            note_keys(&mut counts, kind, 1);
        }
        two.add(thing);
    })?;
    let Some(mut listing) = Listing::of(&one, &two) else {
        return Ok(KeyOdds { odds: Odds::default(), counts });
    };
    walk(stored, now_ms, |thing, what| {
        if listing.wants(thing) {
            listing.stored(thing, what.name(), Vec::new());
        }
    })?;
    walk(found, now_ms, |thing, what| {
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

/// Shows all that has not expired to `visit`; returns how many keys have.
fn walk(spool: &Spool, now_ms: i64, mut visit: impl FnMut(&Thing, &What<'_>)) -> Result<u64, RdbError> {
    let mut walker = Walker::begin(Tape::new(spool.reader(0), None), true)?.judge_at(now_ms);
    let mut expired = 0;
    loop {
        match walker.next()? {
            Item::Key(found) if found.expired => expired += 1,
            Item::Key(found) => {
                let key = Thing::key(&[&found.db.to_le_bytes(), &found.key]);
                let thing = Thing { key, whole: found.digest.unwrap_or_default() };
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

    #[tokio::test]
    async fn keys_that_have_expired_are_counted_by_themselves_in_both_ways_to_compare() {
        let mut trailer = crate::flow::Attrs::new();
        trailer.insert("keys".to_owned(), json!({"0": {"string": 3, "hash": 1}, "3": {"string": 1}}));
        trailer.insert("expired".to_owned(), json!({"0": {"string": 1}, "3": {"string": 1}}));
        let meta = EntryMeta::new(EntryPath::new(DUMP.0).unwrap(), Stage::Data, DUMP.1);
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
