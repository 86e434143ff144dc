//! The dumps of a cluster's shards as one dump, so that they go back the ways that every dump goes.
//!
//! A key belongs to one shard, but while slots move its bytes may lie on another one, or on both, and a server that
//! loads one key twice exits. So a key counts where its slot is; one that lies elsewhere only is taken from there.
//!
//! *Order.* First all dumps are walked for what lies elsewhere, for functions and for what cannot be put together;
//! then they are copied value by value, as they are. Memory holds the keys that lie elsewhere.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, BufWriter, Read, Write},
};

use super::{
    cluster::slot_of,
    crc::crc64,
    rdb::{Found, Item, RdbError, Tape, Version, Walker, text_at},
    spool::Spool,
};

/// Bytes that are copied at a time.
const PIECE_BYTES: u64 = 256 << 10;
/// Bytes of the magic.
pub(super) const MAGIC_BYTES: u64 = 9;
/// Auxiliary fields that are not true of the whole.
const OWN_AUX: [&[u8]; 4] = [b"used-mem", b"repl-id", b"repl-offset", b"repl-stream-db"];

/// One shard's dump.
#[derive(Clone, Debug)]
pub(super) struct Part {
    /// The dump, proven.
    pub(super) spool: Spool,
    /// The shard's slots; all where nothing was noted.
    pub(super) slots: Vec<(u16, u16)>,
}

/// Why dumps cannot be put together.
#[derive(Debug, thiserror::Error)]
pub(super) enum MergeError {
    /// One of them cannot be read.
    #[error(transparent)]
    Rdb(#[from] RdbError),
    /// The whole cannot be written.
    #[error("the dumps cannot be written as one")]
    Write(#[from] io::Error),
    /// They are of different products.
    #[error("some dumps are of Redis and some of Valkey")]
    Flavours,
    /// A module keeps data outside keys, which cannot be added up.
    #[error("module {0} keeps data outside keys")]
    Module(String),
}

impl Part {
    fn walk(&self) -> Result<Walker<impl Read + use<>>, RdbError> {
        Walker::begin(Tape::new(self.spool.reader(0), None), false)
    }

    fn owns(&self, found: &Found) -> bool {
        let slot = slot_of(&found.key);
        self.slots.is_empty() || self.slots.iter().any(|(first, last)| (*first..=*last).contains(&slot))
    }
}

/// What stands in a dump before the keys, and the keys that lie elsewhere.
#[derive(Default)]
struct Survey {
    newest: Option<(Version, usize)>,
    aux: Vec<(Vec<u8>, Vec<u8>)>,
    memory_bytes: u64,
    functions: BTreeMap<Vec<u8>, (usize, u64, u64)>,
    strays: BTreeMap<(u64, Vec<u8>), usize>,
}

/// Writes all parts as one dump to `into`, which is empty.
pub(super) fn merge(parts: &[Part], into: &Spool) -> Result<(), MergeError> {
    let mut survey = Survey::default();
    for (index, part) in parts.iter().enumerate() {
        survey.add(index, part)?;
    }
    let file = into.rewound().map_err(|failure| io::Error::other(failure.one_line()))?;
    let mut out = Out::to(BufWriter::new(file));
    survey.write_head(parts, &mut out)?;
    let mut strays = survey.strays;
    for part in parts {
        let mut walker = part.walk()?;
        each_key(&mut walker, |found| {
            if part.owns(&found) {
                strays.remove(&(found.db, found.key.clone()));
                out.key(part, &found)?;
            }
            Ok(())
        })?;
    }
    let left: BTreeSet<usize> = strays.values().copied().collect();
    for index in left {
        let mut walker = parts[index].walk()?;
        each_key(&mut walker, |found| {
            let is_here = strays.get(&(found.db, found.key.clone())) == Some(&index);
            if is_here && !parts[index].owns(&found) { out.key(&parts[index], &found) } else { Ok(()) }
        })?;
    }
    out.end()
}

fn each_key(
    walker: &mut Walker<impl Read>,
    mut visit: impl FnMut(Found) -> Result<(), MergeError>,
) -> Result<(), MergeError> {
    loop {
        match walker.next()? {
            Item::Key(found) => visit(found)?,
            Item::End { .. } => return Ok(()),
            _ => {}
        }
    }
}

impl Survey {
    fn add(&mut self, index: usize, part: &Part) -> Result<(), MergeError> {
        let mut walker = part.walk()?;
        let version = walker.version();
        match self.newest {
            Some((newest, _)) if newest.flavour != version.flavour => return Err(MergeError::Flavours),
            Some((newest, _)) if newest.number >= version.number => {}
            _ => self.newest = Some((version, index)),
        }
        loop {
            match walker.next()? {
                Item::Aux(name, value) if name == b"used-mem" => {
                    let bytes = String::from_utf8_lossy(&value).parse().unwrap_or(0);
                    self.memory_bytes = self.memory_bytes.saturating_add(bytes);
                }
                Item::Aux(name, value) if index == 0 && !OWN_AUX.contains(&name.as_slice()) => {
                    self.aux.push((name, value));
                }
                Item::Function { begin, end, .. } => {
                    // Each primary has functions of its own, and a name can be there once.
                    let text = text_at(part.spool.reader(begin))?;
                    self.functions.entry(library(&text)).or_insert((index, begin, end));
                }
                Item::ModuleAux(name) => return Err(MergeError::Module(name)),
                Item::Key(found) if !part.owns(&found) => {
                    self.strays.entry((found.db, found.key)).or_insert(index);
                }
                Item::Aux(..) | Item::Key(_) => {}
                Item::End { .. } => return Ok(()),
            }
        }
    }

    fn write_head(&self, parts: &[Part], out: &mut Out<impl Write>) -> Result<(), MergeError> {
        let newest = self.newest.map_or(0, |(_, index)| index);
        out.copy(&parts[newest].spool, (0, MAGIC_BYTES))?;
        let memory = (b"used-mem".to_vec(), self.memory_bytes.to_string().into_bytes());
        for (name, value) in self.aux.iter().chain([&memory]) {
            out.put(&[250])?;
            out.text(name)?;
            out.text(value)?;
        }
        for (index, begin, end) in self.functions.values() {
            out.put(&[245])?;
            out.copy(&parts[*index].spool, (*begin, *end))?;
        }
        Ok(())
    }
}

/// Returns the name in the first line of a library, `#!lua name=…`; all of the text where it has none.
fn library(text: &[u8]) -> Vec<u8> {
    let line = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let name = line.split(u8::is_ascii_whitespace).find_map(|word| word.strip_prefix(b"name="));
    name.unwrap_or(text).to_vec()
}

/// A dump that is being written.
pub(super) struct Out<W> {
    file: W,
    crc: u64,
    db: Option<u64>,
}

impl<W: Write> Out<W> {
    /// Begins to write one.
    pub(super) fn to(file: W) -> Self {
        Self { file, crc: 0, db: None }
    }

    /// Writes bytes as they are.
    pub(super) fn put(&mut self, bytes: &[u8]) -> Result<(), MergeError> {
        self.crc = crc64(self.crc, bytes);
        Ok(self.file.write_all(bytes)?)
    }

    /// Writes a length (redis `src/rdb.c`, `rdbSaveLen`).
    pub(super) fn length(&mut self, length: u64) -> Result<(), MergeError> {
        let bytes = length.to_be_bytes();
        match length {
            0..64 => self.put(&bytes[7..]),
            64..16_384 => self.put(&[0x40 | bytes[6], bytes[7]]),
            _ => {
                self.put(&[0x81])?;
                self.put(&bytes)
            }
        }
    }

    /// Writes a plain string.
    pub(super) fn text(&mut self, text: &[u8]) -> Result<(), MergeError> {
        self.length(text.len() as u64)?;
        self.put(text)
    }

    /// Writes what stands in a spool.
    pub(super) fn copy(&mut self, from: &Spool, (begin, end): (u64, u64)) -> Result<(), MergeError> {
        let mut reader = from.reader(begin).take(end - begin);
        let mut piece = Vec::new();
        loop {
            piece.clear();
            let read = (&mut reader).take(PIECE_BYTES).read_to_end(&mut piece).map_err(RdbError::Read)?;
            if read == 0 {
                return Ok(());
            }
            self.put(&piece)?;
        }
    }

    fn key(&mut self, part: &Part, found: &Found) -> Result<(), MergeError> {
        self.head(found)?;
        self.copy(&part.spool, (found.begin, found.end))
    }

    /// Writes all of a key but its value.
    pub(super) fn head(&mut self, found: &Found) -> Result<(), MergeError> {
        if self.db != Some(found.db) {
            self.db = Some(found.db);
            self.put(&[254])?;
            self.length(found.db)?;
        }
        if let Some(expires) = found.expires_at_ms {
            self.put(&[252])?;
            self.put(&expires.to_le_bytes())?;
        }
        if let Some(seconds) = found.idle_seconds {
            self.put(&[248])?;
            self.length(seconds)?;
        }
        if let Some(frequency) = found.frequency {
            self.put(&[249, frequency])?;
        }
        self.put(&[found.code])?;
        self.text(&found.key)
    }

    /// Ends it with its checksum.
    pub(super) fn end(mut self) -> Result<(), MergeError> {
        self.put(&[255])?;
        let crc = self.crc;
        self.file.write_all(&crc.to_le_bytes())?;
        Ok(self.file.flush()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redis::rdb::{self, sample::Sample};

    fn part(sample: Sample, slots: &[(u16, u16)]) -> Part {
        let spool = Spool::new(None).unwrap();
        spool.rewound().unwrap().write_all(&sample.end()).unwrap();
        Part { spool, slots: slots.to_vec() }
    }

    /// Returns what a merged dump holds, and its digest, after its checksum has proven it.
    fn merged(parts: &[Part]) -> Result<rdb::Survey, MergeError> {
        let into = Spool::new(None).unwrap();
        merge(parts, &into)?;
        let survey = rdb::Survey::of_all(into.reader(0), 0, true)?;
        assert_eq!(survey.checksum, rdb::Checksum::Verified);
        Ok(survey)
    }

    const LIBRARY: &str = "#!lua name=lib\nredis.register_function('f', function() return 7 end)";

    #[test]
    fn shards_become_one_dump_with_all_that_each_key_carries() {
        let shard = || Sample::begin("REDIS0011").raw(&[250]).text("used-mem").text("100");
        let whole = Sample::begin("REDIS0011").raw(&[245]).text(LIBRARY).db(0);
        // `foo` is in slot 12182, `bar` in 5061, `hello` in 866.
        let first = shard().raw(&[245]).text(LIBRARY).db(0).raw(&[252]).raw(&99_i64.to_le_bytes());
        let first = first.raw(&[248]).length(70).string("bar", "1").raw(&[249, 5]).string("hello", "2");
        let second = shard().raw(&[245]).text(LIBRARY).db(0).string("foo", "x".repeat(300_000));
        let whole = whole.raw(&[252]).raw(&99_i64.to_le_bytes()).string("bar", "1").string("hello", "2");
        let whole = whole.string("foo", "x".repeat(300_000));

        let parts = [part(first, &[(0, 8191)]), part(second, &[(8192, 16_383)])];
        let found = merged(&parts).unwrap();
        let expected = merged(&[part(whole, &[])]).unwrap();
        assert_eq!((found.digest, found.functions), (expected.digest, 1));
        assert_eq!(found.aux["used-mem"], "200");

        let into = Spool::new(None).unwrap();
        merge(&parts, &into).unwrap();
        let mut walker = Walker::begin(Tape::new(into.reader(0), None), false).unwrap();
        let mut options = Vec::new();
        each_key(&mut walker, |found| {
            options.push((found.expires_at_ms, found.idle_seconds, found.frequency));
            Ok(())
        })
        .unwrap();
        assert_eq!(options, [(Some(99), Some(70), None), (None, None, Some(5)), (None, None, None)]);
    }

    #[test]
    fn a_key_on_two_shards_counts_where_its_slot_is_and_one_that_is_elsewhere_only_is_kept() {
        let dump = || Sample::begin("REDIS0010").db(0);
        let owner = dump().string("hello", "owner's");
        let other = dump().string("foo", "1").string("hello", "left over").string("bar", "elsewhere only");
        let parts = [part(other, &[(8192, 16_383)]), part(owner, &[(0, 8191)])];
        let found = merged(&parts).unwrap();
        let expected = dump().string("foo", "1").string("hello", "owner's").string("bar", "elsewhere only");
        assert_eq!(found.digest, merged(&[part(expected, &[])]).unwrap().digest);
        assert_eq!(found.keys_by_db()[&0], 3);
    }

    #[test]
    fn what_cannot_be_added_up_is_refused() {
        let redis = || part(Sample::begin("REDIS0011").db(0).string("foo", "1"), &[(8192, 16_383)]);
        let valkey = part(Sample::begin("VALKEY080").db(0).string("bar", "1"), &[(0, 8191)]);
        assert!(matches!(merged(&[redis(), valkey]), Err(MergeError::Flavours)));
        // The newer format is the whole's.
        let newer = part(Sample::begin("REDIS0012").db(0).string("bar", "1"), &[(0, 8191)]);
        assert_eq!(merged(&[redis(), newer]).unwrap().rdb_version, 12);
    }
}
