//! Whether two readings of the same things hold the same: what a repository stored, and what a source reads now.
//!
//! Nothing is fetched from the repository: an entry's facts, size and digest stand in its entry list. The other side is
//! read by the engine's own [`Source`], and its bytes are hashed on the way.
//!
//! *Order.* Both sides go forward together, and an entry that only one of them has shown waits for the other. Two sides
//! that send in one order need no memory for it; where the order differs, what lies between waits.
//!
//! *Crash.* A reading that breaks off is an error and never a difference.
//!
//! *Limits.* [`READERS_MAX`] bodies are hashed at a time, [`WAITING_MAX`] entries wait, and with them
//! [`KEPT_BYTES_WAITING_MAX`] of entries that are handed on whole.

use std::collections::{BTreeMap, HashMap, hash_map::Entry as Slot};

use async_trait::async_trait;
use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::task::JoinSet;

use super::{Attrs, Entry, EntryMeta, FlowResult, Point, Problem, STREAM_DEPTH, Source, channel, settle};
use crate::error::{Context, ExitCode, Result};

/// Bodies that are hashed at the same time.
pub const READERS_MAX: usize = 8;
/// Entries that may wait for the other side.
pub const WAITING_MAX: usize = 1 << 17;
/// Bytes of an entry up to which it is handed on whole, where its engine wants that.
pub const KEPT_BYTES_MAX: usize = 16 << 20;
/// Bytes of whole entries that may wait together; beyond that an entry is compared by its digest alone.
pub const KEPT_BYTES_WAITING_MAX: usize = 64 << 20;

/// An entry as it was read: all that must survive a round trip.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// What was known at its beginning.
    pub meta: EntryMeta,
    /// What was known at its end.
    pub trailer: Attrs,
    /// The SHA-256 of its bytes, as hex; empty when they were not read.
    pub sha256: String,
    /// How many bytes it has.
    pub size_bytes: u64,
}

/// How much there is of what, by a word in the plural: `rows`, `keys`, `objects`.
pub type Counts = BTreeMap<String, u64>;

/// When two entries of an engine hold the same, and what a person calls them.
pub trait Likeness: Send + Sync {
    /// Takes out of an entry what two equal things may differ in (an inode, a server's own dates). `None` for what is
    /// not compared at all.
    fn canonical(&self, seen: Seen) -> Option<Seen>;

    /// Returns the names of the facts in which two canonical entries differ; none when they hold the same.
    fn differences(&self, stored: &Seen, found: &Seen) -> Vec<String> {
        differences(stored, found)
    }

    /// Returns what a person calls it: `object im-files/a.jpg`.
    fn name(&self, meta: &EntryMeta) -> String;

    /// Counts what an entry holds; its bytes are there when they were kept.
    fn count(&self, seen: &Seen, bytes: Option<&Bytes>, counts: &mut Counts);

    /// Returns whether the bytes of a small entry are wanted: they tell more than their digest.
    fn keeps(&self, _meta: &EntryMeta) -> bool {
        false
    }
}

/// The likeness of engines of which everything must be equal.
pub struct Exact;

impl Likeness for Exact {
    fn canonical(&self, seen: Seen) -> Option<Seen> {
        Some(seen)
    }

    fn name(&self, meta: &EntryMeta) -> String {
        meta.path.to_string()
    }

    fn count(&self, _seen: &Seen, _bytes: Option<&Bytes>, counts: &mut Counts) {
        *counts.entry("entries".to_owned()).or_default() += 1;
    }
}

/// How one entry differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Oddity {
    /// It was stored and is not there.
    Missing,
    /// It is there and was not stored.
    Extra,
    /// It is another one.
    Different,
}

impl Oddity {
    /// Returns what is said of a thing: `row 7 is missing`.
    pub fn verb(self) -> &'static str {
        match self {
            Self::Missing => "is missing",
            Self::Extra => "is extra",
            Self::Different => "differs",
        }
    }
}

/// An entry that differs.
#[derive(Clone, Debug)]
pub struct Difference {
    /// How.
    pub oddity: Oddity,
    /// The entry, as it was stored where it was.
    pub meta: EntryMeta,
    /// What differs of it: `content`, `size`, `content-type`.
    pub facts: Vec<String>,
    /// The bytes that are there, where its engine wants them.
    pub bytes: Option<Bytes>,
}

impl Difference {
    /// Says it: `object im-files/a.jpg differs: content, size`.
    pub fn text(&self, likeness: &dyn Likeness) -> String {
        let name = likeness.name(&self.meta);
        let facts =
            if self.facts.is_empty() { String::new() } else { format!(": {}", self.facts.join(", ")) };
        format!("{name} {}{facts}", self.oddity.verb())
    }
}

/// Hears what a comparison meets.
pub trait Observer: Send {
    /// An entry that is there.
    fn held(&mut self, _seen: &Seen, _bytes: Option<&Bytes>) {}

    /// An entry that differs.
    fn differs(&mut self, difference: Difference);
}

/// What a comparison found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compared {
    /// Entries that are the same.
    pub same: u64,
    /// Entries that were stored and are not there.
    pub missing: u64,
    /// Entries that are there and were not stored.
    pub extra: u64,
    /// Entries that are others.
    pub different: u64,
    /// Entries that could not be matched, because too many waited.
    pub unmatched: u64,
    /// Entries that were stored and are compared.
    pub stored: u64,
    /// Entries that are there and are compared.
    pub found: u64,
    /// What is there.
    pub counts: Counts,
    /// The instant that was read at.
    pub point: Option<Point>,
    /// What could not be read.
    pub problems: Vec<Problem>,
}

impl Compared {
    /// Returns whether all of it was compared and is the same.
    pub fn is_same(&self) -> bool {
        self.odd() == 0 && self.unmatched == 0
    }

    /// Returns how many entries differ.
    pub fn odd(&self) -> u64 {
        self.missing + self.extra + self.different
    }
}

/// The entries that were stored, in the order in which they were sent.
#[async_trait]
pub trait Stored: Send {
    /// Returns the next one, `None` at the end.
    async fn next(&mut self) -> Result<Option<Seen>>;
}

/// Reads `source` to its end and compares it with what was stored.
pub async fn compare(
    stored: &mut dyn Stored,
    source: Box<dyn Source>,
    likeness: &dyn Likeness,
    observer: &mut dyn Observer,
) -> FlowResult<Compared> {
    let (sink, mut stream) = channel(STREAM_DEPTH);
    let mut comparison = Comparison::new(likeness, observer, WAITING_MAX);
    let take = async {
        let mut readers = JoinSet::new();
        let mut more = true;
        while more || !readers.is_empty() {
            tokio::select! {
                entry = stream.next(), if more && readers.len() < READERS_MAX => match entry? {
                    Some(entry) => drop(readers.spawn(hash(likeness.keeps(&entry.meta), entry))),
                    None => more = false,
                },
                Some(done) = readers.join_next() => {
                    let (seen, bytes) = done.failed(ExitCode::Failed, || "a reading was stopped".to_owned())??;
                    comparison.found(seen, bytes);
                    if let Some(record) = stored.next().await? {
                        comparison.stored(record);
                    } else {
                        comparison.stored_ended();
                    }
                }
            }
        }
        comparison.found_ended();
        while let Some(record) = stored.next().await? {
            comparison.stored(record);
        }
        FlowResult::Ok(())
    };
    let (read, taken) = tokio::join!(source.read(sink, None), take);
    settle(read, taken)?;
    let mut compared = comparison.finish();
    compared.point = stream.point().cloned();
    compared.problems = stream.problems().to_vec();
    Ok(compared)
}

/// Reads an entry to its end.
async fn hash(keeps: bool, mut entry: Entry) -> FlowResult<(Seen, Option<Bytes>)> {
    if entry.body.reused().is_some() {
        let size_bytes = entry.meta.attrs.get("size").and_then(serde_json::Value::as_u64).unwrap_or(0);
        let trailer = entry.body.trailer().clone();
        return Ok((Seen { meta: entry.meta, trailer, sha256: String::new(), size_bytes }, None));
    }
    let mut hash = Sha256::new();
    let (mut size_bytes, mut kept) = (0, keeps.then(Vec::new));
    while let Some(bytes) = entry.body.next().await? {
        hash.update(&bytes);
        size_bytes += bytes.len() as u64;
        kept = kept.filter(|kept| kept.len() + bytes.len() <= KEPT_BYTES_MAX);
        if let Some(kept) = &mut kept {
            kept.extend_from_slice(&bytes);
        }
    }
    let trailer = entry.body.trailer().clone();
    let seen = Seen { meta: entry.meta, trailer, sha256: hex::encode(hash.finalize()), size_bytes };
    Ok((seen, kept.map(Bytes::from)))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Stored,
    Found,
}

struct Waiting {
    side: Side,
    seen: Seen,
    bytes: Option<Bytes>,
}

impl Waiting {
    fn kept_bytes(&self) -> usize {
        self.bytes.as_ref().map_or(0, Bytes::len)
    }
}

/// Two sides in lockstep.
pub struct Comparison<'a> {
    likeness: &'a dyn Likeness,
    observer: &'a mut dyn Observer,
    waiting: HashMap<String, Waiting>,
    waiting_max: usize,
    /// Bytes that wait with them.
    kept_bytes: usize,
    /// Sides that have shown everything.
    ended: [bool; 2],
    /// Entries of each side for which there was no room.
    dropped: [u64; 2],
    compared: Compared,
}

impl<'a> Comparison<'a> {
    /// Begins one in which `waiting_max` entries may wait.
    pub fn new(likeness: &'a dyn Likeness, observer: &'a mut dyn Observer, waiting_max: usize) -> Self {
        Self {
            likeness,
            observer,
            waiting: HashMap::new(),
            waiting_max,
            kept_bytes: 0,
            ended: [false; 2],
            dropped: [0; 2],
            compared: Compared::default(),
        }
    }

    /// Takes an entry that was stored.
    pub fn stored(&mut self, seen: Seen) {
        if let Some(seen) = self.likeness.canonical(seen) {
            self.compared.stored += 1;
            self.meet(Waiting { side: Side::Stored, seen, bytes: None });
        }
    }

    /// Takes an entry that is there.
    pub fn found(&mut self, seen: Seen, bytes: Option<Bytes>) {
        self.observer.held(&seen, bytes.as_ref());
        self.likeness.count(&seen, bytes.as_ref(), &mut self.compared.counts);
        if let Some(seen) = self.likeness.canonical(seen) {
            self.compared.found += 1;
            self.meet(Waiting { side: Side::Found, seen, bytes });
        }
    }

    /// Says that all that was stored was shown.
    pub fn stored_ended(&mut self) {
        self.ended[Side::Stored as usize] = true;
    }

    /// Says that all that is there was shown.
    pub fn found_ended(&mut self) {
        self.ended[Side::Found as usize] = true;
    }

    fn meet(&mut self, mut one: Waiting) {
        let other = if one.side == Side::Stored { Side::Found } else { Side::Stored };
        let (is_full, path) = (self.waiting.len() >= self.waiting_max, one.seen.meta.path.to_string());
        match self.waiting.entry(path) {
            Slot::Occupied(slot) if slot.get().side == other => {
                let two = slot.remove();
                self.kept_bytes -= two.kept_bytes();
                let (stored, found) = if other == Side::Found { (one, two) } else { (two, one) };
                self.settle(&stored.seen, found);
            }
            // Nobody can come any more, unless it was shown already and there was no room for it.
            _ if self.ended[other as usize] && self.dropped[other as usize] == 0 => self.alone(one),
            Slot::Vacant(slot) if !is_full => {
                if self.kept_bytes + one.kept_bytes() > KEPT_BYTES_WAITING_MAX {
                    one.bytes = None;
                }
                self.kept_bytes += one.kept_bytes();
                slot.insert(one);
            }
            _ => self.dropped[one.side as usize] += 1,
        }
    }

    fn settle(&mut self, stored: &Seen, found: Waiting) {
        let facts = self.likeness.differences(stored, &found.seen);
        if facts.is_empty() {
            self.compared.same += 1;
            return;
        }
        self.compared.different += 1;
        let (meta, bytes) = (stored.meta.clone(), found.bytes);
        self.observer.differs(Difference { oddity: Oddity::Different, meta, facts, bytes });
    }

    fn alone(&mut self, one: Waiting) {
        let oddity = match one.side {
            Side::Stored => Oddity::Missing,
            Side::Found => Oddity::Extra,
        };
        match oddity {
            Oddity::Missing => self.compared.missing += 1,
            _ => self.compared.extra += 1,
        }
        let (meta, bytes) = (one.seen.meta, one.bytes);
        self.observer.differs(Difference { oddity, meta, facts: Vec::new(), bytes });
    }

    /// Ends it: what waits still is alone, or not known where there was no room for what it waits for.
    pub fn finish(mut self) -> Compared {
        let mut left: Vec<(String, Waiting)> = std::mem::take(&mut self.waiting).into_iter().collect();
        left.sort_by(|(a, _), (b, _)| a.cmp(b));
        for (_, one) in left {
            let other = if one.side == Side::Stored { Side::Found } else { Side::Stored };
            if self.dropped[other as usize] == 0 {
                self.alone(one);
            } else {
                self.compared.unmatched += 1;
            }
        }
        self.compared.unmatched += self.dropped.iter().sum::<u64>();
        self.compared
    }
}

/// Returns the names of the facts in which two entries differ, each of which counts.
pub fn differences(stored: &Seen, found: &Seen) -> Vec<String> {
    let mut facts = Vec::new();
    if stored.size_bytes != found.size_bytes {
        facts.push("size".to_owned());
    }
    // Bytes that one side did not read are not compared.
    let are_read = !stored.sha256.is_empty() && !found.sha256.is_empty();
    if are_read && stored.sha256 != found.sha256 {
        facts.push("content".to_owned());
    }
    let (a, b) = (&stored.meta, &found.meta);
    let fields = [
        ("stage", a.stage == b.stage),
        ("item", a.item == b.item),
        ("selection", a.select == b.select && a.container == b.container),
        ("chunks", a.cut == b.cut),
    ];
    facts.extend(fields.into_iter().filter(|(_, same)| !same).map(|(name, _)| name.to_owned()));
    of_attrs(&a.attrs, &b.attrs, &mut facts);
    of_attrs(&stored.trailer, &found.trailer, &mut facts);
    facts.dedup();
    facts
}

/// Adds the names of attributes that differ; of attributes that are lists of facts, the facts.
fn of_attrs(stored: &Attrs, found: &Attrs, facts: &mut Vec<String>) {
    let mut names: Vec<&String> = stored.keys().chain(found.keys()).collect();
    names.sort();
    names.dedup();
    for name in names {
        let (one, two) = (stored.get(name), found.get(name));
        if one == two {
            continue;
        }
        let empty = serde_json::Map::new();
        let object = |value: Option<&serde_json::Value>| match value {
            None => Some(empty.clone()),
            Some(value) => value.as_object().cloned(),
        };
        if let (Some(one), Some(two)) = (object(one), object(two)) {
            let mut inner: Vec<&String> = one.keys().chain(two.keys()).collect();
            inner.sort();
            inner.dedup();
            let differing = inner.into_iter().filter(|key| one.get(*key) != two.get(*key));
            facts.extend(
                differing.map(|key| if name == "headers" { key.clone() } else { format!("{name} {key}") }),
            );
        } else {
            facts.push(name.clone());
        }
    }
}

#[cfg(test)]
#[path = "compare_tests.rs"]
mod tests;
