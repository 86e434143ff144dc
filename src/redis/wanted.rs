//! Which keys of a dump are wanted, and what they need of a server: only that is judged, not the rest of the dump.
//!
//! *Limits.* Of the keys only counts, and the names of [`NAMED_MAX`], are held.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    archive::Archive,
    rdb::{Found, Item, Member, RdbError, Tape, Walker, each_member, has_members},
    spool::Spool,
};
use crate::{
    error::{Context, ExitCode, Failure, Result},
    flow::Selection,
    plain::of_bytes,
};

/// Keys that a message names.
pub(super) const NAMED_MAX: usize = 5;
/// Characters of a key that are shown.
const KEY_CHARS_SHOWN: usize = 100;

/// Returns a key as messages show it.
pub(super) fn shown_key(key: &[u8]) -> String {
    format!("`{}`", of_bytes(key, KEY_CHARS_SHOWN))
}

/// Which keys are wanted, and where they go.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    /// The patterns.
    pub(super) only: Selection,
    /// The database that they go into, where it is not the one that they are from.
    pub(super) into_db: Option<u64>,
    /// The one database that they are from, where not all count.
    pub(super) from_db: Option<u64>,
    /// Keys that have expired by then are left out.
    pub(super) now_ms: i64,
}

impl Wanted {
    /// Returns whether a key is wanted.
    pub(super) fn has(&self, found: &Found) -> bool {
        self.from_db.is_none_or(|db| db == found.db)
            && self.only.names_bytes(&found.key)
            && found.expires_at_ms.is_none_or(|expires| expires > self.now_ms)
    }

    /// Returns the database that a key goes into.
    pub(super) fn db(&self, found: &Found) -> u64 {
        self.into_db.unwrap_or(found.db)
    }

    /// Returns whether the functions are wanted too: they are of the whole server.
    pub(super) fn has_functions(&self) -> bool {
        self.only.is_all() && self.into_db.is_none()
    }
}

/// What a server can take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reach {
    /// The newest format that it reads, as its `DUMP` says.
    pub(super) newest: u16,
    /// Bytes that one word of a command may have.
    pub(super) word_bytes_max: u64,
}

/// The number from which formats are those of Valkey 9 and later.
pub(super) const VALKEY_FROM: u16 = 80;

impl Reach {
    /// Returns whether a server that reads up to this format knows the code (redis and valkey `src/rdb.h`).
    fn knows(self, code: u8) -> bool {
        code <= match self.newest {
            ..=9 => 15,
            10 => 19,
            11 => 21,
            12 => 25,
            13..VALKEY_FROM => u8::MAX,
            VALKEY_FROM.. => 22,
        }
    }

    /// Returns whether a value goes over whole, as `RESTORE` takes it, when the dump has this format.
    pub(super) fn takes_whole(self, found: &Found, dump: u16) -> bool {
        found.end - found.begin + PAYLOAD_BYTES <= self.word_bytes_max
            // Of hashes with expiring fields the layouts differ; all else is the same under either name.
            && (dump == self.newest || self.knows(found.code) && !(self.is_foreign(dump) && found.code == 22))
    }

    /// Returns whether the dump is of the other product's numbering.
    pub(super) fn is_foreign(self, dump: u16) -> bool {
        (dump >= VALKEY_FROM) != (self.newest >= VALKEY_FROM)
    }

    /// Returns the format that values are said to have: the dump's own, or the newest that both products share.
    pub(super) fn stamp(self, dump: u16) -> u16 {
        let shared = if self.is_foreign(dump) { 11 } else { u16::MAX };
        dump.min(self.newest).min(shared)
    }
}

/// What stands around a value in a `DUMP` payload: type, version and checksum.
pub(super) const PAYLOAD_BYTES: u64 = 11;

/// What the wanted keys need.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Needs {
    /// Keys, by the database that they go into.
    pub(super) keys: BTreeMap<u64, u64>,
    /// The databases that they are from.
    pub(super) from_dbs: BTreeSet<u64>,
    /// Bytes of keys and values.
    pub(super) size_bytes: u64,
    /// Types of modules among them.
    pub(super) modules: BTreeSet<String>,
    /// Function libraries.
    pub(super) functions: u64,
    /// The first key, after which a probe is named.
    pub(super) first: Vec<u8>,
    /// Whether the dump says how often or how long ago keys were used.
    pub(super) has_use: bool,
    /// Keys that go over in commands, because they cannot go whole: how many.
    pub(super) in_commands: u64,
    /// The commands that these need.
    pub(super) commands: BTreeSet<&'static str>,
    /// Keys that can go neither way, with the reason; some are named.
    pub(super) refused: Vec<String>,
}

impl Needs {
    /// Walks the dump and judges what is wanted of it. Without a reach only what does not depend on the server.
    pub(super) async fn of(archive: &Archive, wanted: &Wanted, reach: Option<Reach>) -> Result<Self> {
        if !archive.survey.introspected {
            let what = "the dump is of a newer format than this version can take apart";
            return Err(Failure::new(ExitCode::Failed, what)
                .hint("Restore all of it, into a server of its own version."));
        }
        let (spool, wanted, functions) = (archive.spool.clone(), wanted.clone(), archive.survey.functions);
        let unread = || "the spooled dump cannot be read again".to_owned();
        let walked = tokio::task::spawn_blocking(move || Self::walk(&spool, &wanted, reach)).await;
        let mut needs = walked.failed(ExitCode::Failed, unread)?.failed(ExitCode::Failed, unread)?;
        needs.functions = if needs.functions > 0 { functions } else { 0 };
        Ok(needs)
    }

    fn walk(spool: &Spool, wanted: &Wanted, reach: Option<Reach>) -> Result<Self, RdbError> {
        let mut walker = Walker::begin(Tape::new(spool.reader(0), None), false)?;
        let version = walker.version();
        let mut needs = Self::default();
        loop {
            match walker.next()? {
                Item::Function { .. } if wanted.has_functions() => needs.functions += 1,
                Item::Key(found) if wanted.has(&found) => {
                    if let Some(reach) = reach.filter(|reach| !reach.takes_whole(&found, version.number)) {
                        let mut tape = Tape::new(spool.reader(found.begin), None);
                        match commands_for(&mut tape, (version.flavour, &found), reach)? {
                            Ok(commands) => {
                                needs.in_commands += 1;
                                needs.commands.extend(commands);
                            }
                            Err(why) if needs.refused.len() < NAMED_MAX => {
                                needs.refused.push(format!("{} {why}", shown_key(&found.key)));
                            }
                            Err(_) => {}
                        }
                    }
                    needs.note(&found, wanted);
                }
                Item::End { .. } => return Ok(needs),
                _ => {}
            }
        }
    }

    fn note(&mut self, found: &Found, wanted: &Wanted) {
        if self.keys.is_empty() {
            self.first.clone_from(&found.key);
        }
        *self.keys.entry(wanted.db(found)).or_default() += 1;
        self.from_dbs.insert(found.db);
        self.size_bytes += found.end - found.begin + found.key.len() as u64;
        self.has_use |= found.idle_seconds.is_some() || found.frequency.is_some();
        if let Some(module) = found.kind.strip_prefix("module:") {
            self.modules.insert(module.to_owned());
        }
    }

    /// Returns how many keys are wanted.
    pub(super) fn count(&self) -> u64 {
        self.keys.values().sum()
    }
}

/// Returns the commands that put a value together, or why none can.
fn commands_for<R: std::io::Read>(
    tape: &mut Tape<R>,
    (flavour, found): (super::rdb::Flavour, &Found),
    reach: Reach,
) -> Result<Result<BTreeSet<&'static str>, String>, RdbError> {
    if !has_members(found.code) {
        return Ok(Err(format!("is a {} that the server cannot take in one piece", found.kind)));
    }
    let (mut commands, mut longest, mut text_bytes) = (BTreeSet::from(["RENAME", "RENAMENX"]), 0, 0);
    if found.expires_at_ms.is_some() {
        commands.insert("PEXPIREAT");
    }
    each_member(tape, (flavour, found.code), &mut |member| {
        longest = longest.max(match &member {
            Member::Text(piece) => {
                text_bytes += piece.len() as u64;
                text_bytes
            }
            Member::Item(item) | Member::Scored(item, _) => item.len() as u64,
            Member::Field(field, value, expires) => {
                if expires.is_some() {
                    commands.insert("HPEXPIREAT");
                }
                field.len().max(value.len()) as u64
            }
        });
        commands.insert(match (found.kind.as_ref(), member) {
            (_, Member::Text(_)) => "APPEND",
            ("list", _) => "RPUSH",
            (_, Member::Item(_)) => "SADD",
            (_, Member::Scored(..)) => "ZADD",
            (_, Member::Field(..)) => "HSET",
        });
    })?;
    if longest > reach.word_bytes_max {
        let limit = reach.word_bytes_max;
        return Ok(Err(format!("holds a string of {longest} bytes, and the server takes up to {limit}")));
    }
    Ok(Ok(commands))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(code: u8, size_bytes: u64) -> Found {
        Found {
            db: 0,
            key: b"k".to_vec(),
            code,
            kind: "set".into(),
            expires_at_ms: None,
            idle_seconds: None,
            frequency: None,
            begin: 100,
            end: 100 + size_bytes,
            digest: None,
            exact: None,
            expired: false,
        }
    }

    #[test]
    fn a_value_goes_whole_where_the_server_knows_its_code_and_takes_its_size() {
        let reach = |newest| Reach { newest, word_bytes_max: 1000 };
        assert!(reach(12).takes_whole(&found(20, 989), 12) && !reach(12).takes_whole(&found(20, 990), 12));
        assert!(reach(10).takes_whole(&found(18, 10), 12) && !reach(10).takes_whole(&found(20, 10), 12));
        assert!(!reach(9).takes_whole(&found(16, 10), 12) && reach(12).takes_whole(&found(25, 10), 12));
        // A Valkey's hash with expiring fields has the number of another layout of Redis.
        assert!(reach(80).takes_whole(&found(22, 10), 80));
        assert!(!reach(12).takes_whole(&found(22, 10), 80) && !reach(80).takes_whole(&found(22, 10), 12));
        assert!(reach(80).takes_whole(&found(21, 10), 12) && !reach(80).takes_whole(&found(24, 10), 12));
    }

    #[test]
    fn values_are_said_to_have_a_format_that_the_server_reads() {
        let stamp = |newest, dump| Reach { newest, word_bytes_max: 1 }.stamp(dump);
        assert_eq!((stamp(12, 10), stamp(10, 12), stamp(12, 12)), (10, 10, 12));
        assert_eq!((stamp(80, 80), stamp(80, 12), stamp(12, 80), stamp(10, 80)), (80, 11, 11, 10));
    }

    #[test]
    fn keys_that_are_no_text_are_told_apart() {
        assert_eq!(shown_key(b"a\xff\n"), "`a\\xff\\n`");
        assert_ne!(shown_key(b"a\xff"), shown_key(b"a\xfe"));
    }
}
