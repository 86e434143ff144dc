//! The walk over an RDB: header, auxiliary fields, functions, keys with their options, end.

use std::{borrow::Cow, io::Read, ops::Range};

use super::{
    RdbError, STRING_BYTES_MAX, Tape,
    digest::{self, Content},
    encoding, value,
};

/// Whose numbering the version and the types follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flavour {
    /// Magic `REDIS` and four digits.
    Redis,
    /// Magic `VALKEY` and three digits, Valkey 9 and later; type 22 means something else there.
    Valkey,
}

impl Flavour {
    /// Returns the product's name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Redis => "redis",
            Self::Valkey => "valkey",
        }
    }
}

/// What the first nine bytes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Version {
    /// Whose format.
    pub(crate) flavour: Flavour,
    /// The format's number.
    pub(crate) number: u16,
}

/// A thing in an RDB.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Item {
    /// An auxiliary field: `redis-ver`, `used-mem`, `ctime`, …
    Aux(Vec<u8>, Vec<u8>),
    /// A function library; its bytes, as `FUNCTION RESTORE` wants them, are `begin..end`.
    Function {
        /// Offset of the first byte behind the opcode.
        begin: u64,
        /// Offset behind the last byte.
        end: u64,
        /// Digest of its text, when the walk computes digests.
        digest: Option<[u8; 32]>,
    },
    /// Data that a module keeps outside keys.
    ModuleAux(String),
    /// A key.
    Key(Found),
    /// The end; the checksum as it is stored, 0 when the server computes none.
    End {
        /// Of the bytes before it, as computed here.
        computed: u64,
        /// As it is stored, 0 when the server computes none.
        stored: u64,
    },
}

/// A key and where its value lies.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Found {
    /// The database's number.
    pub(crate) db: u64,
    /// The key.
    pub(crate) key: Vec<u8>,
    /// The RDB's type code, the first byte of a `DUMP` payload.
    pub(crate) code: u8,
    /// The type as a person calls it: `string`, `hash`, `module:vectorset`.
    pub(crate) kind: Cow<'static, str>,
    /// When it expires, milliseconds of unix time.
    pub(crate) expires_at_ms: Option<i64>,
    /// Seconds for which it was not used (LRU policies).
    pub(crate) idle_seconds: Option<u64>,
    /// How often it is used (LFU policies).
    pub(crate) frequency: Option<u8>,
    /// Offset of the value's first byte.
    pub(crate) begin: u64,
    /// Offset behind the value's last byte.
    pub(crate) end: u64,
    /// Digest of database, key, content and expiry, when the walk computes digests: of what all versions keep.
    pub(crate) digest: Option<[u8; 32]>,
    /// The same of all that this dump holds; between dumps of one format version only.
    pub(crate) exact: Option<[u8; 32]>,
    /// Whether it has expired at the instant that the walk judges by, the key or all that is in it.
    pub(crate) expired: bool,
}

/// What stands before a key and belongs to it.
#[derive(Default)]
struct Options {
    expires_at_ms: Option<i64>,
    idle_seconds: Option<u64>,
    frequency: Option<u8>,
}

/// Reads an RDB thing by thing.
pub(crate) struct Walker<R> {
    tape: Tape<R>,
    version: Version,
    db: u64,
    digesting: bool,
    judged_at_ms: Option<i64>,
    began: u64,
    unknown: Option<u8>,
}

impl<R: Read> Walker<R> {
    /// Reads the header. With `digesting`, values are decoded and their canonical digest computed.
    pub(crate) fn begin(mut tape: Tape<R>, digesting: bool) -> Result<Self, RdbError> {
        let magic: [u8; 9] = tape.array()?;
        let (flavour, digits) = if let Some(digits) = magic.strip_prefix(b"REDIS") {
            (Flavour::Redis, digits)
        } else if let Some(digits) = magic.strip_prefix(b"VALKEY") {
            (Flavour::Valkey, digits)
        } else {
            return Err(RdbError::malformed(0, "it does not begin like a dump of Redis or Valkey"));
        };
        let number = std::str::from_utf8(digits).ok().and_then(|text| text.parse().ok());
        let number = number.ok_or(RdbError::malformed(0, "its version is no number"))?;
        let version = Version { flavour, number };
        Ok(Self { tape, version, db: 0, digesting, judged_at_ms: None, began: 0, unknown: None })
    }

    /// Makes the walk say what has expired at an instant; fields of hashes that have are no part of a digest then.
    pub(crate) fn judge_at(mut self, now_ms: i64) -> Self {
        self.judged_at_ms = Some(now_ms);
        self
    }

    /// Returns what the header said.
    pub(crate) fn version(&self) -> Version {
        self.version
    }

    /// Returns where the last thing lies: from its opcode, of a key its type code without the options before it, to
    /// behind its last byte.
    pub(crate) fn span(&self) -> Range<u64> {
        self.began..self.tape.offset()
    }

    /// Returns the code at which the walk had to stop, because this version does not know it.
    pub(crate) fn unknown(&self) -> Option<u8> {
        self.unknown
    }

    fn stop_at(&mut self, offset: u64, code: u8) -> RdbError {
        self.unknown = Some(code);
        RdbError::Unknown { offset, code }
    }

    /// Gives the tape back: behind [`Item::End`] it stands at the first byte that is not the RDB's.
    pub(crate) fn into_tape(self) -> Tape<R> {
        self.tape
    }

    /// Returns the next thing; [`Item::End`] is the last.
    pub(crate) fn next(&mut self) -> Result<Item, RdbError> {
        let mut options = Options::default();
        loop {
            let at = self.tape.offset();
            self.began = at;
            // Opcodes of redis `src/rdb.h`, RDB_OPCODE_*.
            match self.tape.byte()? {
                // What belongs to a key and only modules read, of Redis; of Valkey, a slot that is moving.
                code @ (243 | 246) => return Err(self.stop_at(at, code)),
                244 => {
                    for _ in 0..3 {
                        encoding::number(&mut self.tape)?;
                    }
                }
                245 => return self.function(),
                247 => return self.module_aux(),
                248 => options.idle_seconds = Some(encoding::number(&mut self.tape)?),
                249 => options.frequency = Some(self.tape.byte()?),
                250 => {
                    let name = encoding::string(&mut self.tape, STRING_BYTES_MAX)?;
                    return Ok(Item::Aux(name, encoding::string(&mut self.tape, STRING_BYTES_MAX)?));
                }
                251 => {
                    encoding::number(&mut self.tape)?;
                    encoding::number(&mut self.tape)?;
                }
                252 => options.expires_at_ms = Some(i64::from_le_bytes(self.tape.array()?)),
                253 => {
                    let seconds = i32::from_le_bytes(self.tape.array()?);
                    options.expires_at_ms = Some(i64::from(seconds) * 1000);
                }
                254 => self.db = encoding::number(&mut self.tape)?,
                255 => return self.end(),
                code => return self.key(at, code, &options),
            }
        }
    }

    fn function(&mut self) -> Result<Item, RdbError> {
        let begin = self.tape.offset();
        let digest = if self.digesting {
            let text = encoding::string(&mut self.tape, STRING_BYTES_MAX)?;
            Some(digest::of_function(&text))
        } else {
            encoding::skip_string(&mut self.tape)?;
            None
        };
        Ok(Item::Function { begin, end: self.tape.offset(), digest })
    }

    fn module_aux(&mut self) -> Result<Item, RdbError> {
        let name = value::module_name(encoding::number(&mut self.tape)?);
        // RDB_OPCODE_MODULE_AUX: id, the code of an integer, when it was saved, then the module's fields.
        encoding::number(&mut self.tape)?;
        encoding::number(&mut self.tape)?;
        value::skip_module(&mut self.tape)?;
        Ok(Item::ModuleAux(name))
    }

    fn key(&mut self, at: u64, code: u8, options: &Options) -> Result<Item, RdbError> {
        let Some(kind) = value::kind(code) else {
            return Err(self.stop_at(at, code));
        };
        let key = encoding::string(&mut self.tape, STRING_BYTES_MAX)?;
        let begin = self.tape.offset();
        let mut kind = Cow::Borrowed(kind);
        let due = |now_ms: i64| options.expires_at_ms.is_some_and(|at| at <= now_ms);
        let mut expired = self.judged_at_ms.is_some_and(due);
        let mut content = None;
        if code == value::MODULE {
            kind = format!("module:{}", value::skip_module_value(&mut self.tape)?).into();
            content = self.digesting.then(Content::default);
        } else if self.digesting {
            let held = digest::of_value(&mut self.tape, self.version.flavour, code, self.judged_at_ms)?;
            expired |= held.is_none();
            content = Some(held.unwrap_or_default());
        } else {
            value::skip(&mut self.tape, self.version.flavour, code)?;
        }
        let of = |content: &[u8; 32]| digest::of_key(self.db, &key, &kind, options.expires_at_ms, content);
        let digest = content.map(|content| of(&content.common));
        let exact =
            content.and_then(
                |content| {
                    if content.exact == content.common { digest } else { Some(of(&content.exact)) }
                },
            );
        let end = self.tape.offset();
        let Options { expires_at_ms, idle_seconds, frequency } = *options;
        let db = self.db;
        Ok(Item::Key(Found {
            db,
            key,
            code,
            kind,
            expires_at_ms,
            idle_seconds,
            frequency,
            begin,
            end,
            digest,
            exact,
            expired,
        }))
    }

    fn end(&mut self) -> Result<Item, RdbError> {
        // Before version 5 there was no checksum; no server that speaks PSYNC as we do writes those.
        let computed = self.tape.crc()?;
        let stored = u64::from_le_bytes(self.tape.array()?);
        Ok(Item::End { computed, stored })
    }
}
