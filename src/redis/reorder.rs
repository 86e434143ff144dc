//! A dump with its databases and keys in ascending order, so that the next one is found to be mostly the same.
//!
//! A server writes keys as they lie in its hash tables, whose order depends on a seed of the process: after a restart
//! everything is elsewhere. In order, what did not change stands between the same neighbours, and only what changed is
//! stored again ([decision 24](../../docs/decisions/0024-redis-chunks.md)). The result is a plain RDB: header,
//! auxiliary fields, functions and what modules keep before keys as they came; each database with the sizes of its
//! tables; each key with its options and its value, byte for byte; what modules keep behind keys; an end with a
//! checksum of its own. Only hints for the tables of cluster slots are left out.
//!
//! *Order.* The dump is walked and its keys gathered in runs of [`RUN_BYTES`], each sorted and written to a file. Then
//! the first dump is let go and the runs are merged. Whoever sends the result compares its digest with the first one's.
//!
//! *Crash.* All files are without names and go with the process. A folder that has no room for the runs, or for the
//! result where no runs were needed, leaves the dump as it came.
//!
//! *Limits.* One run and [`MERGE_BYTES`] of readers in memory; values beyond [`LARGE_BYTES`] are only passed through.
//! On disk two dumps at a time.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    fs::File,
    io::{self, BufRead, BufReader, Read, Write},
    ops::Range,
    path::PathBuf,
};

use super::{
    crc::crc64,
    rdb::{Flavour, Found, Item, RdbError, Survey, Tape, Walker, members},
    spool::{Spool, SpoolReader},
};
use crate::error::{Context, ExitCode, Result};

/// Bytes of keys and values that are sorted in memory.
const RUN_BYTES: usize = 32 << 20;
/// Bytes that the readers of all runs may hold together.
const MERGE_BYTES: usize = 32 << 20;
/// Bytes from which on a value is not held in memory.
const LARGE_BYTES: u64 = 64 << 10;
/// What a key takes in memory besides its bytes.
const RECORD_BYTES: usize = size_of::<Record>();
/// Bytes that are written at a time.
const WRITE_BYTES: usize = 1 << 20;

/// A dump that was put in order, or that stayed as it was.
pub(super) struct Ordered {
    /// The dump.
    pub(super) spool: Spool,
    /// What it holds.
    pub(super) survey: Survey,
    /// Why it stayed as it came, when there was no room.
    pub(super) no_room: Option<io::Error>,
}

/// Puts a proven dump in order. One that this version cannot look into stays as it is.
pub(super) async fn by_key(spool: Spool, survey: Survey, folder: Option<PathBuf>) -> Result<Ordered> {
    if !survey.introspected {
        return Ok(Ordered { spool, survey, no_room: None });
    }
    let sorting = tokio::task::spawn_blocking(move || {
        let limits = Limits { run_bytes: RUN_BYTES, large_bytes: LARGE_BYTES };
        sort(spool, survey, folder.as_ref(), limits)
    });
    sorting.await.failed(ExitCode::Failed, unsorted)?
}

fn unsorted() -> String {
    "the dump cannot be put in order".to_owned()
}

/// How much is held in memory; tests hold less.
#[derive(Clone, Copy)]
struct Limits {
    run_bytes: usize,
    large_bytes: u64,
}

fn sort(spool: Spool, survey: Survey, folder: Option<&PathBuf>, limits: Limits) -> Result<Ordered> {
    let mut runs = Runs::new(&spool, Output::new(folder)?, limits);
    match gather(&spool, &mut runs) {
        Ok(()) => {}
        Err(RdbError::Copy(error)) => return Ok(Ordered { spool, survey, no_room: Some(error) }),
        Err(error) => return Err(error).failed(ExitCode::Failed, unsorted),
    }
    let out = Output::new(folder)?;
    // What fits into memory needs no file; of what does not, everything is in the runs then: two dumps lie on the
    // disk, never three.
    let (spool, size_bytes) = if runs.ranges.is_empty() {
        match runs.write_held(&spool, out) {
            Ok(written) => written,
            Err(error) => return Ok(Ordered { spool, survey, no_room: Some(error) }),
        }
    } else {
        // A reader of it lives as long as the runs do.
        spool.empty()?;
        runs.merge(out).failed(ExitCode::Failed, unsorted)?
    };
    // The checksum stays the one that the server's bytes came with.
    let survey = Survey { size_bytes, sorted: true, ..survey };
    Ok(Ordered { spool, survey, no_room: None })
}

/// Puts a dump that is in memory in order, in runs of so many bytes; `None` when that cannot be.
pub(super) fn in_memory(dump: &[u8], run_bytes: usize) -> Option<Vec<u8>> {
    let survey = Survey::of_all(dump, 0, false).ok().filter(|survey| survey.introspected)?;
    let spool = Spool::new(None).ok()?;
    spool.rewound().ok()?.write_all(dump).ok()?;
    let limits = Limits { run_bytes, large_bytes: 1 + run_bytes as u64 / 4 };
    let ordered = sort(spool, survey, None, limits).ok()?;
    let mut bytes = Vec::new();
    ordered.spool.reader(0).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// Walks the dump and takes all of it in.
fn gather(spool: &Spool, runs: &mut Runs) -> Result<(), RdbError> {
    let mut walker = Walker::begin(Tape::new(spool.reader(0), None), false)?;
    runs.flavour = walker.version().flavour;
    runs.beside(0..walker.span().end)?;
    loop {
        match walker.next()? {
            Item::Key(found) => runs.key(spool, &found, walker.span())?,
            Item::End { .. } => return runs.end(spool).map_err(RdbError::Copy),
            _ => runs.beside(walker.span())?,
        }
    }
}

/// A key on its way to its place. Its bytes lie with those of all others of the run.
struct Record {
    db: u64,
    /// Where the key lies, and behind it what is held: options, and code, key and value unless it is large.
    begin: usize,
    key_bytes: usize,
    held_bytes: usize,
    /// Where code, key and value of a large one lie in the first dump.
    large: Range<u64>,
}

impl Record {
    fn key<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        &bytes[self.begin..self.begin + self.key_bytes]
    }

    fn size_bytes(&self) -> u64 {
        self.held_bytes as u64 + (self.large.end - self.large.start)
    }

    /// Writes what stands in the dump.
    fn write(&self, bytes: &[u8], spool: &Spool, out: &mut Output) -> io::Result<()> {
        let held = self.begin + self.key_bytes;
        out.write_all(&bytes[held..held + self.held_bytes])?;
        let size_bytes = self.large.end - self.large.start;
        if size_bytes == 0 {
            return Ok(());
        }
        pass(&mut BufReader::with_capacity(WRITE_BYTES, spool.reader(self.large.start)), size_bytes, out)
    }
}

/// All that a dump holds, sorted piece by piece.
struct Runs {
    limits: Limits,
    flavour: Flavour,
    ahead: Ahead,
    /// Header and what stands before the first key, as it came.
    head: Vec<u8>,
    /// What stands behind a key and is none, as it came.
    tail: Vec<u8>,
    /// Keys, and those of them that expire, by database.
    sizes: BTreeMap<u64, (u64, u64)>,
    records: Vec<Record>,
    /// The bytes of the records.
    held: Vec<u8>,
    file: Output,
    /// Where each run lies in the file.
    ranges: Vec<Range<u64>>,
}

impl Runs {
    fn new(spool: &Spool, file: Output, limits: Limits) -> Self {
        Self {
            limits,
            flavour: Flavour::Redis,
            ahead: Ahead { from: spool.reader(0), begin: 0, block: Vec::new() },
            head: Vec::new(),
            tail: Vec::new(),
            sizes: BTreeMap::new(),
            records: Vec::new(),
            held: Vec::new(),
            file,
            ranges: Vec::new(),
        }
    }

    /// Takes what is no key.
    fn beside(&mut self, span: Range<u64>) -> Result<(), RdbError> {
        let bytes = self.ahead.bytes(span).map_err(RdbError::Read)?;
        let place = if self.sizes.is_empty() { &mut self.head } else { &mut self.tail };
        place.extend_from_slice(bytes);
        Ok(())
    }

    /// Takes a key whose code, key and value lie at `span`.
    fn key(&mut self, spool: &Spool, found: &Found, span: Range<u64>) -> Result<(), RdbError> {
        let sizes = self.sizes.entry(found.db).or_default();
        sizes.0 += 1;
        sizes.1 += u64::from(found.expires_at_ms.is_some());
        let (begin, mut large) = (self.held.len(), 0..0);
        self.held.extend_from_slice(&found.key);
        put_options(&mut self.held, found);
        let is_tabled = members::are_tabled(found.code);
        let held_max = if is_tabled { members::ORDERED_BYTES_MAX as u64 } else { self.limits.large_bytes };
        if span.end - span.start > held_max {
            large = span;
        } else {
            let value = usize::try_from(found.begin - span.start).unwrap_or(usize::MAX);
            let bytes = self.ahead.bytes(span).map_err(RdbError::Read)?;
            self.held.extend_from_slice(&bytes[..value]);
            members::put_in_order(&mut self.held, self.flavour, found.code, &bytes[value..])?;
        }
        let key_bytes = found.key.len();
        let held_bytes = self.held.len() - begin - key_bytes;
        self.records.push(Record { db: found.db, begin, key_bytes, held_bytes, large });
        if self.held.len() + self.records.len() * RECORD_BYTES >= self.limits.run_bytes {
            self.flush(spool).map_err(RdbError::Copy)?;
        }
        Ok(())
    }

    /// Ends the taking: one run stays in memory, of several the last is written too.
    fn end(&mut self, spool: &Spool) -> io::Result<()> {
        self.ahead.block = Vec::new();
        if !self.ranges.is_empty() {
            return self.flush(spool);
        }
        self.sort();
        Ok(())
    }

    fn sort(&mut self) {
        let bytes = &self.held;
        self.records.sort_by(|one, two| (one.db, one.key(bytes)).cmp(&(two.db, two.key(bytes))));
    }

    /// Writes a run: of each record its database, its key and its bytes, with their lengths before them.
    fn flush(&mut self, spool: &Spool) -> io::Result<()> {
        self.sort();
        let begin = self.file.size_bytes;
        for record in self.records.drain(..) {
            self.file.write_all(&record.db.to_le_bytes())?;
            self.file.write_all(&(record.key_bytes as u64).to_le_bytes())?;
            self.file.write_all(&record.size_bytes().to_le_bytes())?;
            self.file.write_all(record.key(&self.held))?;
            record.write(&self.held, spool, &mut self.file)?;
        }
        self.file.flush()?;
        self.held.clear();
        self.ranges.push(begin..self.file.size_bytes);
        Ok(())
    }

    /// Writes the dump out of memory.
    fn write_held(self, spool: &Spool, mut out: Output) -> io::Result<(Spool, u64)> {
        out.write_all(&self.head)?;
        let mut place = None;
        for record in &self.records {
            select(&mut out, &mut place, record.db, &self.sizes)?;
            record.write(&self.held, spool, &mut out)?;
        }
        out.end(&self.tail)
    }

    /// Writes the dump out of its runs.
    fn merge(self, mut out: Output) -> io::Result<(Spool, u64)> {
        out.write_all(&self.head)?;
        let buffer_bytes = (MERGE_BYTES / self.ranges.len()).clamp(16 << 10, 1 << 20);
        let mut runs = Vec::new();
        let mut first = BinaryHeap::new();
        for (nth, range) in self.ranges.iter().enumerate() {
            let from = self.file.spool.reader(range.start).take(range.end - range.start);
            let mut run = BufReader::with_capacity(buffer_bytes, from);
            first.extend(next(nth, &mut run)?.map(Reverse));
            runs.push(run);
        }
        let mut place = None;
        while let Some(Reverse(record)) = first.pop() {
            let run = &mut runs[record.run];
            select(&mut out, &mut place, record.db, &self.sizes)?;
            pass(run, record.size_bytes, &mut out)?;
            first.extend(next(record.run, run)?.map(Reverse));
        }
        out.end(&self.tail)
    }
}

/// The next record of a run, whose bytes follow.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Next {
    db: u64,
    key: Vec<u8>,
    /// Which run: what came first goes first.
    run: usize,
    size_bytes: u64,
}

fn next(nth: usize, run: &mut impl BufRead) -> io::Result<Option<Next>> {
    if run.fill_buf()?.is_empty() {
        return Ok(None);
    }
    let mut number = || {
        let mut bytes = [0; 8];
        run.read_exact(&mut bytes).map(|()| u64::from_le_bytes(bytes))
    };
    let (db, key_bytes, size_bytes) = (number()?, number()?, number()?);
    let mut key = vec![0; usize::try_from(key_bytes).map_err(io::Error::other)?];
    run.read_exact(&mut key)?;
    Ok(Some(Next { db, key, run: nth, size_bytes }))
}

/// Passes so many bytes on.
fn pass(from: &mut impl BufRead, size_bytes: u64, out: &mut Output) -> io::Result<()> {
    let mut left = size_bytes;
    while left > 0 {
        let bytes = from.fill_buf()?;
        if bytes.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let count = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
        out.write_all(&bytes[..count])?;
        from.consume(count);
        left -= count as u64;
    }
    Ok(())
}

/// Writes what stands before the first key of a database: its number, and the sizes of its tables.
fn select(
    out: &mut Output,
    place: &mut Option<u64>,
    db: u64,
    sizes: &BTreeMap<u64, (u64, u64)>,
) -> io::Result<()> {
    if place.replace(db) == Some(db) {
        return Ok(());
    }
    let (keys, expiring) = sizes.get(&db).copied().unwrap_or_default();
    let mut bytes = vec![254];
    put_length(&mut bytes, db);
    bytes.push(251);
    put_length(&mut bytes, keys);
    put_length(&mut bytes, expiring);
    out.write_all(&bytes)
}

/// Appends the options of a key, in the order in which servers write them.
fn put_options(bytes: &mut Vec<u8>, found: &Found) {
    if let Some(at) = found.expires_at_ms {
        bytes.push(252);
        bytes.extend_from_slice(&at.to_le_bytes());
    }
    if let Some(seconds) = found.idle_seconds {
        bytes.push(248);
        put_length(bytes, seconds);
    }
    if let Some(frequency) = found.frequency {
        bytes.extend([249, frequency]);
    }
}

/// Writes a length in its shortest form (redis `src/rdb.c`, `rdbSaveLen`).
pub(super) fn put_length(into: &mut Vec<u8>, length: u64) {
    let bytes = length.to_be_bytes();
    match length {
        0..64 => into.push(bytes[7]),
        64..16_384 => into.extend([0x40 | bytes[6], bytes[7]]),
        16_384..=0xffff_ffff => {
            into.push(0x80);
            into.extend_from_slice(&bytes[4..]);
        }
        _ => {
            into.push(0x81);
            into.extend_from_slice(&bytes);
        }
    }
}

/// The first dump, read once more just behind the walk.
struct Ahead {
    from: SpoolReader,
    begin: u64,
    block: Vec<u8>,
}

impl Ahead {
    const BLOCK_BYTES: usize = 256 << 10;

    /// Returns the bytes at `span`, which begins where an earlier one ended or behind that.
    fn bytes(&mut self, span: Range<u64>) -> io::Result<&[u8]> {
        let count = usize::try_from(span.end - span.start).map_err(io::Error::other)?;
        let is_here = span.start >= self.begin && span.end <= self.begin + self.block.len() as u64;
        if !is_here {
            self.block.resize(count.max(Self::BLOCK_BYTES), 0);
            self.begin = span.start;
            self.from.seek_to(span.start);
            let mut filled = 0;
            while filled < self.block.len() {
                match self.from.read(&mut self.block[filled..])? {
                    0 => break,
                    more => filled += more,
                }
            }
            self.block.truncate(filled);
        }
        let at = usize::try_from(span.start - self.begin).map_err(io::Error::other)?;
        self.block.get(at..at + count).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}

/// A file that is written from its beginning, with the checksum of what was written.
struct Output {
    spool: Spool,
    file: File,
    waiting: Vec<u8>,
    crc: u64,
    size_bytes: u64,
}

impl Output {
    fn new(folder: Option<&PathBuf>) -> Result<Self> {
        let spool = Spool::new(folder)?;
        let file = spool.rewound()?;
        Ok(Self { spool, file, waiting: Vec::new(), crc: 0, size_bytes: 0 })
    }

    /// Writes what stands behind the keys, the end and the checksum.
    fn end(mut self, tail: &[u8]) -> io::Result<(Spool, u64)> {
        self.write_all(tail)?;
        self.write_all(&[255])?;
        self.flush()?;
        self.write_all(&self.crc.to_le_bytes())?;
        self.flush()?;
        Ok((self.spool, self.size_bytes))
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.waiting.extend_from_slice(bytes);
        self.size_bytes += bytes.len() as u64;
        if self.waiting.len() >= WRITE_BYTES {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.crc = crc64(self.crc, &self.waiting);
        self.file.write_all(&self.waiting)?;
        self.waiting.clear();
        Ok(())
    }
}

#[cfg(test)]
#[path = "reorder_tests.rs"]
mod tests;
