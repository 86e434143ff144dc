//! What a whole RDB holds: the facts that are kept in the manifest and compared after a restore.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Read,
};

use serde::{Deserialize, Serialize};

use super::{Flavour, Found, Item, RdbError, Tape, Version, Walker};
use crate::flow::unordered::Sum;

/// Whether the bytes were proven by the checksum at their end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Checksum {
    /// It was there and matched.
    Verified,
    /// The server computes none (`rdbchecksum no`).
    Absent,
}

impl Checksum {
    /// Compares a stored checksum with a computed one; a stored 0 means that there is none.
    pub(crate) fn compare(stored: u64, computed: u64) -> Result<Self, RdbError> {
        match stored {
            0 => Ok(Self::Absent),
            _ if stored == computed => Ok(Self::Verified),
            _ => Err(RdbError::Checksum),
        }
    }
}

/// A survey while it is made.
struct Summing {
    /// What was seen so far; whole once the end was noted.
    survey: Survey,
    now_ms: i64,
    digesting: bool,
    common: Sum,
    exact: Sum,
    last: Option<(u64, Vec<u8>)>,
}

impl Summing {
    /// Begins at the header.
    fn begin<R: Read>(walker: &Walker<R>, now_ms: i64, digesting: bool) -> Self {
        let survey = Survey::new(walker.version());
        Self { survey, now_ms, digesting, common: Sum::default(), exact: Sum::default(), last: None }
    }

    /// Notes a thing; returns whether it was the end.
    fn note(&mut self, item: &Item) -> Result<bool, RdbError> {
        match item {
            Item::Aux(name, value) => self.survey.note_aux(name, value),
            Item::Function { digest, .. } => {
                self.survey.functions += 1;
                self.add(digest.as_ref(), digest.as_ref());
            }
            Item::ModuleAux(name) => drop(self.survey.modules.insert(name.clone())),
            Item::Key(found) => self.note_key(found),
            Item::End { computed, stored } => {
                self.survey.checksum = Checksum::compare(*stored, *computed)?;
                let hex = |sum: Sum| self.digesting.then(|| hex::encode(sum.bytes()));
                (self.survey.digest, self.survey.digest_exact) = (hex(self.common), hex(self.exact));
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn add(&mut self, common: Option<&[u8; 32]>, exact: Option<&[u8; 32]>) {
        if let (Some(common), Some(exact)) = (common, exact) {
            self.common.add(common);
            self.exact.add(exact);
        }
    }

    fn note_key(&mut self, found: &Found) {
        let survey = &mut self.survey;
        if let Some(module) = found.kind.strip_prefix("module:") {
            survey.modules.insert(module.to_owned());
        }
        if found.expires_at_ms.is_some_and(|at| at <= self.now_ms) {
            count(&mut survey.expired, found);
        }
        count(&mut survey.keys, found);
        if survey.sorted {
            let one = (found.db, found.key.as_slice());
            survey.sorted = self.last.as_ref().is_none_or(|(db, key)| (*db, key.as_slice()) < one);
            self.last = Some((found.db, found.key.clone()));
        }
        self.add(found.digest.as_ref(), found.exact.as_ref());
    }
}

fn count(counts: &mut BTreeMap<u64, KeyCount>, found: &Found) {
    let of_db = counts.entry(found.db).or_default();
    match of_db.get_mut(found.kind.as_ref()) {
        Some(count) => *count += 1,
        None => drop(of_db.insert(found.kind.clone().into_owned(), 1)),
    }
}

/// How many keys a database holds, by type.
pub(crate) type KeyCount = BTreeMap<String, u64>;

/// The facts about an RDB, as they stand in the trailer of the entry `dump.rdb`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Survey {
    /// `redis` or `valkey`: whose format.
    pub(crate) flavour: String,
    /// The format's version.
    pub(crate) rdb_version: u16,
    /// Bytes with header and checksum.
    pub(crate) size_bytes: u64,
    /// Whether the checksum proved them.
    pub(crate) checksum: Checksum,
    /// Whether the structure was understood to the end; without it there are no counts.
    pub(crate) introspected: bool,
    /// The code that was not understood.
    pub(crate) unknown_code: Option<u8>,
    /// Whether databases and keys stand in ascending order, as [`crate::redis::reorder`] writes them.
    pub(crate) sorted: bool,
    /// Keys by database and type.
    pub(crate) keys: BTreeMap<u64, KeyCount>,
    /// Those of them whose expiry had passed at the time given to the walk.
    pub(crate) expired: BTreeMap<u64, KeyCount>,
    /// Function libraries.
    pub(crate) functions: u64,
    /// Module types in values and outside them.
    pub(crate) modules: BTreeSet<String>,
    /// Auxiliary fields that a person may want: the server's version, its memory.
    pub(crate) aux: BTreeMap<String, String>,
    /// The canonical digest of all keys and functions, as hex, when it was computed: of what all versions keep.
    pub(crate) digest: Option<String>,
    /// The same of all that this dump holds; between dumps of one format version only.
    pub(crate) digest_exact: Option<String>,
}

impl Survey {
    fn new(version: Version) -> Self {
        Self {
            flavour: version.flavour.name().to_owned(),
            rdb_version: version.number,
            size_bytes: 0,
            checksum: Checksum::Absent,
            introspected: true,
            unknown_code: None,
            sorted: true,
            keys: BTreeMap::new(),
            expired: BTreeMap::new(),
            functions: 0,
            modules: BTreeSet::new(),
            aux: BTreeMap::new(),
            digest: None,
            digest_exact: None,
        }
    }

    /// Takes a dump whose structure this version knows only in part: newer servers can be backed up, only
    /// not looked into. Its end is where the sender stopped, less `behind` bytes, which are returned.
    ///
    /// The checksum alone proves it then, so there must be one.
    pub(crate) fn of_unknown<R: Read>(walker: Walker<R>, behind: usize) -> Result<(Self, Vec<u8>), RdbError> {
        const CHECKSUM_BYTES: usize = 8;
        let (version, unknown_code) = (walker.version(), walker.unknown());
        let mut tape = walker.into_tape();
        let mut tail = tape.rest_but(CHECKSUM_BYTES + behind)?;
        let all_bytes = tape.offset();
        let ended = RdbError::Ended { offset: all_bytes };
        let Some(stored) = tail.first_chunk::<CHECKSUM_BYTES>().copied() else { return Err(ended) };
        let after = tail.split_off(CHECKSUM_BYTES);
        if after.len() != behind {
            return Err(ended);
        }
        let checksum = Checksum::compare(u64::from_le_bytes(stored), tape.crc()?)?;
        if checksum == Checksum::Absent {
            return Err(RdbError::malformed(all_bytes, "it is of a newer format and has no checksum"));
        }
        tape.copy_on(&stored)?;
        tape.end_copy()?;
        let size_bytes = all_bytes - behind as u64;
        let survey = Self::new(version);
        let survey =
            Self { introspected: false, unknown_code, sorted: false, size_bytes, checksum, ..survey };
        Ok((survey, after))
    }

    /// Walks to the end of an RDB and returns what it holds, and the tape, which stands behind it.
    ///
    /// `now_ms` decides which keys count as expired; with `digesting` the canonical digest is computed.
    pub(crate) fn take<R: Read>(
        walker: &mut Walker<R>,
        now_ms: i64,
        digesting: bool,
    ) -> Result<Self, RdbError> {
        let mut summing = Summing::begin(walker, now_ms, digesting);
        while !summing.note(&walker.next()?)? {}
        Ok(summing.survey)
    }

    /// Walks a whole RDB that nothing follows.
    pub(crate) fn of_all(from: impl Read, now_ms: i64, digesting: bool) -> Result<Self, RdbError> {
        let mut walker = Walker::begin(Tape::new(from, None), digesting)?;
        let mut survey = match Self::take(&mut walker, now_ms, digesting) {
            Err(RdbError::Unknown { .. }) => return Self::of_unknown(walker, 0).map(|(survey, _)| survey),
            taken => taken?,
        };
        let mut tape = walker.into_tape();
        survey.size_bytes = tape.offset();
        match tape.byte() {
            Err(RdbError::Ended { .. }) => Ok(survey),
            Err(error) => Err(error),
            Ok(_) => Err(RdbError::malformed(survey.size_bytes, "bytes follow behind the end")),
        }
    }

    fn note_aux(&mut self, name: &[u8], value: &[u8]) {
        const KEPT: [&str; 8] = [
            "redis-ver",
            "valkey-ver",
            "redis-bits",
            "ctime",
            "used-mem",
            "repl-id",
            "repl-offset",
            "aof-base",
        ];
        let name = String::from_utf8_lossy(name);
        if KEPT.contains(&name.as_ref()) && value.len() <= 200 {
            self.aux.insert(name.into_owned(), String::from_utf8_lossy(value).into_owned());
        }
    }

    /// Returns how many keys each database holds.
    pub(crate) fn keys_by_db(&self) -> BTreeMap<u64, u64> {
        self.keys.iter().map(|(db, count)| (*db, count.values().sum())).collect()
    }

    /// Returns whose format it is.
    pub(crate) fn flavour(&self) -> Flavour {
        if self.flavour == Flavour::Valkey.name() { Flavour::Valkey } else { Flavour::Redis }
    }

    /// Returns the version of the server that wrote it, as far as it says.
    pub(crate) fn written_by(&self) -> String {
        let version = self.aux.get("valkey-ver").or_else(|| self.aux.get("redis-ver"));
        version.cloned().unwrap_or_else(|| "unknown".to_owned())
    }
}
