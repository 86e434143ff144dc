//! Whether a server lets us restore key by key: proven before anything on it is changed.
//!
//! What can be tried harmlessly is tried, on a key of our own that lives for seconds: that proves more than any rule
//! that can be read (renamed commands, a full disk, too few replicas). What cannot be tried is asked for with
//! `ACL DRYRUN` (7.0); where that is not known or not allowed, another way is taken that can be tried.
//!
//! *Order.* The probe is stored with an old format that every server reads; its `DUMP` tells the newest that this one
//! writes; then once more with the dump's own format. It is removed, and where that is not allowed it expires.

use ::redis::Value;

use super::{
    archive::Archive,
    control::Control,
    crc::crc64,
    describe::ServerFacts,
    lane::{Lane, Share, footer},
    preflight::newest_format,
    wanted::{Needs, Reach, Wanted},
};
use crate::error::{ExitCode, Failure, Result};

/// How long the probe lives at most.
const PROBE_MILLISECONDS: &[u8] = b"3000";
/// The format of the probe: that of Redis 5, which everybody reads.
const OLD_FORMAT: u16 = 9;
/// Bytes that a word of a command may have where the server does not tell; its own default.
const WORD_BYTES_DEFAULT: u64 = 512 << 20;
/// Bytes of a key that the probe's name begins with, so that a right for keys by pattern covers it.
const KEY_BYTES_MAX: usize = 1024;

/// How a server is emptied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Emptying {
    /// Not at all.
    #[default]
    Never,
    /// With `FLUSHALL`, or `FLUSHDB` where only one database is meant.
    Flush,
    /// Key by key: `SCAN` and `UNLINK`.
    Walk,
}

/// What is going to be done.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deed<'a> {
    /// Which keys.
    pub(super) wanted: &'a Wanted,
    /// Whether the server, or the one database, is emptied first.
    pub(super) empties: bool,
    /// Whether functions that are there go first.
    pub(super) empties_functions: bool,
    /// Whether each key is looked for first.
    pub(super) looks: bool,
}

/// What was proven of one server.
#[derive(Clone, Copy, Debug)]
pub(super) struct Proof {
    /// What it takes.
    pub(super) reach: Reach,
    /// How it is emptied.
    pub(super) emptying: Emptying,
    /// Whether keys can be read back without a trace.
    pub(super) reads_back: bool,
}

/// Finds out what a server takes and allows; changes nothing that lasts. `needs` is what is known without the server.
pub(super) async fn prove(lane: &Lane, archive: &Archive, deed: Deed<'_>, needs: &Needs) -> Result<Proof> {
    let mut control = Control::open(&lane.server).await?;
    let mut probe =
        Probe { lane, key: name(&lane.share, &needs.first), control: &mut control, lacks: Vec::new() };
    let dbs = needs.keys.keys().copied().max().into_iter().chain(deed.wanted.into_db);
    if let Some(db) = dbs.max().filter(|db| *db > 0) {
        probe.select(db).await?;
    }
    let newest = probe.newest().await?;
    let dump = archive.survey.rdb_version;
    let word_bytes_max = probe.word_bytes_max().await;
    let reach = newest.map(|newest| Reach { newest, word_bytes_max });
    let mut stamp = dump;
    if let Some(reach) = reach {
        stamp = probe.stamp(reach, dump).await?;
    }
    if deed.looks {
        probe.must("+exists", &[b"EXISTS", &probe.key.clone()]).await?;
    }
    let emptying = if deed.empties { probe.emptying(deed.wanted).await? } else { Emptying::Never };
    if needs.functions > 0 || deed.empties_functions {
        probe.must("+function|restore", &[b"FUNCTION", b"RESTORE", &no_functions(stamp), b"APPEND"]).await?;
    }
    let reads_back = probe.reads_back(needs).await?;
    probe.remove().await?;
    probe.done(Proof { reach: reach.unwrap_or(Reach { newest: dump, word_bytes_max }), emptying, reads_back })
}

/// Proves also that the commands may be used with which long values are put together.
pub(super) async fn prove_commands(lane: &Lane, needs: &Needs) -> Result<()> {
    let mut control = Control::open(&lane.server).await?;
    let mut probe =
        Probe { lane, key: name(&lane.share, &needs.first), control: &mut control, lacks: Vec::new() };
    let (key, other) = (probe.key.clone(), [&probe.key[..], b":2"].concat());
    for verb in needs.commands.iter().copied() {
        let right = format!("+{}", verb.to_lowercase());
        let mut words: Vec<&[u8]> = vec![verb.as_bytes(), &key];
        words.extend(match verb {
            "ZADD" => vec![&b"1"[..], b"x"],
            "PEXPIREAT" => vec![&b"1"[..]],
            "HSET" => vec![&b"x"[..], b"x"],
            "HPEXPIREAT" => vec![&b"1"[..], b"FIELDS", b"1", b"x"],
            "RENAME" | "RENAMENX" => vec![&other[..]],
            _ => vec![&b"x"[..]],
        });
        if let Err(text) = probe.control.attempt(&words).await?
            // There may be no key to rename, or one of another type: both are told to those who may.
            && !text.contains("no such key")
        {
            probe.judge(right, verb, &text)?;
        }
        probe.must("+del", &[b"DEL", &key, &other]).await?;
    }
    probe.done(())
}

/// Returns a payload of `FUNCTION RESTORE` without functions.
pub(super) fn no_functions(stamp: u16) -> [u8; 10] {
    footer(0, stamp)
}

/// Names the probe: after a wanted key, in a slot that the server has.
fn name(share: &Share, like: &[u8]) -> Vec<u8> {
    let like = &like[..like.len().min(KEY_BYTES_MAX)];
    let mut name = Vec::new();
    for nth in 0_u32..100_000 {
        // A part in braces would decide the slot alone, whatever the number.
        let like = if nth < 1000 { like } else { b"" };
        name = [like, format!(":lifeboat-probe:{nth}").as_bytes()].concat();
        if share.has_key(&name) || matches!(share, Share::Part { .. }) {
            break;
        }
    }
    name
}

struct Probe<'a> {
    lane: &'a Lane,
    key: Vec<u8>,
    control: &'a mut Control,
    /// Rights that are missing, as `ACL SETUSER` writes them.
    lacks: Vec<String>,
}

impl Probe<'_> {
    /// Tries a command that changes nothing; notes a missing right and fails on any other refusal.
    async fn must(&mut self, right: &str, words: &[&[u8]]) -> Result<bool> {
        match self.control.attempt(words).await? {
            Ok(_) => Ok(true),
            Err(text) => {
                let verb = String::from_utf8_lossy(words[0]).into_owned();
                self.judge(right.to_owned(), &verb, &text)?;
                Ok(false)
            }
        }
    }

    fn judge(&mut self, right: String, verb: &str, text: &str) -> Result<()> {
        if !text.starts_with("NOPERM") {
            return Err(self
                .lane
                .server
                .refused(verb, text)
                .hint("Nothing was changed: this was tried on a key of our own before the restore."));
        }
        let is_key = text.contains("key") && !text.contains("command");
        let right = if is_key { "a pattern for the keys, such as ~*".to_owned() } else { right };
        if !self.lacks.contains(&right) {
            self.lacks.push(right);
        }
        Ok(())
    }

    /// Fails when a right is missing.
    fn done<T>(self, proven: T) -> Result<T> {
        if self.lacks.is_empty() {
            return Ok(proven);
        }
        let what = format!("{} does not allow a restore key by key", self.lane.server.shown());
        let lacks = self.lacks.join(" ");
        Err(Failure::new(ExitCode::SourceDown, what)
            .because(format!("its user lacks {lacks}"))
            .hint(format!("Nothing was changed. Give the user these rights: ACL SETUSER … {lacks}")))
    }

    async fn select(&mut self, db: u64) -> Result<()> {
        let Err(text) = self.control.attempt(&[b"SELECT", db.to_string().as_bytes()]).await? else {
            return Ok(());
        };
        let shown = self.lane.server.shown();
        let refuse = |what: String, hint: &str| {
            let hint = format!("Nothing was changed. {hint}");
            Err(Failure::new(ExitCode::Failed, what).because(text.clone()).hint(hint))
        };
        if text.contains("cluster") {
            return refuse(
                format!("{shown} has only database 0, as clusters do, and keys of database {db} are wanted"),
                "Restore them into a server of its own, or only keys of database 0 with --only.",
            );
        }
        if text.contains("out of range") {
            return refuse(
                format!("{shown} has no database {db}"),
                "Set `databases` of the server higher and restart it.",
            );
        }
        self.judge("+select".to_owned(), "SELECT", &text)
    }

    /// Stores the probe and returns the newest format that the server writes, and so reads.
    async fn newest(&mut self) -> Result<Option<u16>> {
        let (key, payload) = (self.key.clone(), probe_payload(OLD_FORMAT));
        if !self.must("+restore", &[b"RESTORE", &key, PROBE_MILLISECONDS, &payload, b"REPLACE"]).await? {
            return Ok(None);
        }
        let dumped = self.control.attempt(&[b"DUMP", &key]).await?;
        if let Ok(Value::BulkString(dumped)) = dumped
            && let Some(at) = dumped.len().checked_sub(10)
        {
            return Ok(Some(u16::from_le_bytes([dumped[at], dumped[at + 1]])));
        }
        // Whoever may not read the probe may still know the version.
        let facts = ServerFacts::ask(self.control).await?;
        Ok(Some(newest_format(self.control, &facts).await))
    }

    /// Finds the format that values are said to have, and proves that the server reads it.
    async fn stamp(&mut self, reach: Reach, dump: u16) -> Result<u16> {
        let stamp = reach.stamp(dump);
        let (key, payload) = (self.key.clone(), probe_payload(stamp));
        self.must("+restore", &[b"RESTORE", &key, PROBE_MILLISECONDS, &payload, b"REPLACE"]).await?;
        Ok(stamp)
    }

    async fn word_bytes_max(&mut self) -> u64 {
        let mut least = None;
        for name in ["proto-max-bulk-len", "client-query-buffer-limit"] {
            let told = self.control.settings(name).await.unwrap_or_default();
            let told = told.get(name).and_then(|text| text.parse::<u64>().ok()).filter(|bytes| *bytes > 0);
            least = [least, told].into_iter().flatten().min();
        }
        least.unwrap_or(WORD_BYTES_DEFAULT)
    }

    async fn emptying(&mut self, wanted: &Wanted) -> Result<Emptying> {
        let verb: &[u8] = if wanted.into_db.is_some() { b"FLUSHDB" } else { b"FLUSHALL" };
        let user = match self.control.attempt(&[b"ACL", b"WHOAMI"]).await? {
            Ok(Value::BulkString(user)) => user,
            Ok(Value::SimpleString(user)) => user.into_bytes(),
            _ => self.lane.server.user().as_bytes().to_vec(),
        };
        let told = self.control.attempt(&[b"ACL", b"DRYRUN", &user, verb]).await?;
        if matches!(told, Ok(Value::Okay)) {
            return Ok(Emptying::Flush);
        }
        let key = self.key.clone();
        // Either way will do; the flush is the one to ask for.
        let right = format!("+{} +acl|dryrun +acl|whoami", String::from_utf8_lossy(verb).to_lowercase());
        let walks = match self.control.attempt(&[b"SCAN", b"0", b"COUNT", b"1"]).await? {
            Ok(_) => self.control.attempt(&[b"UNLINK", &key]).await?.map(|_| ()),
            Err(text) => Err(text),
        };
        if let Err(text) = walks {
            self.judge(right, "UNLINK", &text)?;
        }
        Ok(Emptying::Walk)
    }

    /// Returns whether keys may be read back, and how they were used stays as it is.
    async fn reads_back(&mut self, needs: &Needs) -> Result<bool> {
        let key = self.key.clone();
        let dumps = self.control.attempt(&[b"DUMP", &key]).await?.is_ok();
        let expires = self.control.attempt(&[b"PEXPIRETIME", &key]).await?.is_ok();
        let leaves = !needs.has_use || self.control.attempt(&[b"CLIENT", b"NO-TOUCH", b"ON"]).await?.is_ok();
        Ok(dumps && expires && leaves)
    }

    async fn remove(&mut self) -> Result<()> {
        let key = self.key.clone();
        for verb in [&b"DEL"[..], b"UNLINK"] {
            if self.control.attempt(&[verb, &key]).await?.is_ok() {
                break;
            }
        }
        Ok(())
    }
}

/// Returns a payload that holds the string `x`.
fn probe_payload(version: u16) -> Vec<u8> {
    let value = [0, 1, b'x'];
    [&value[..], &footer(crc64(0, &value), version)].concat()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::redis::cluster::{Shard, slot_of};

    #[test]
    fn the_probe_is_named_after_a_wanted_key_and_in_a_slot_of_the_server() {
        let part = Share::Part { nth: 1, of: 2 };
        assert!(name(&part, b"im:session:7").starts_with(b"im:session:7:lifeboat-probe:"));
        for range in [(0, 5460), (12_000, 12_000)] {
            let share = Share::Slots(Arc::new(Shard { slots: vec![range], nodes: Vec::new() }));
            for like in [&b"im:session:7"[..], b"{tag}x"] {
                let slot = slot_of(&name(&share, like));
                assert!((range.0..=range.1).contains(&slot), "{slot}");
            }
        }
    }
}
