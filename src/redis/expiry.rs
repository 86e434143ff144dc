//! A dump whose keys, and fields of hashes, expire at other times than its server had set, or never.
//!
//! The dump is written anew before anything looks at it, so that both ways of a restore, and what is compared
//! afterwards, have one truth. What had expired when the snapshot was made stays gone by either rule.
//!
//! *Order.* Key by key, as the dump has them; all but the times is copied as it is. A hash with expiring fields is
//! written field by field, in the layout for tables that its product has, or without times as a plain one.
//!
//! *Limits.* The spool needs room for the dump twice. Of a hash, memory holds a field at a time.

use std::io::{BufWriter, Write};

use super::{
    merge::{MAGIC_BYTES, MergeError, Out},
    rdb::{Flavour, Found, Item, Member, RdbError, Tape, Walker, each_member},
    spool::Spool,
};

/// What becomes of expiries in a restore.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ttl {
    /// They stay at the instants that they had: what is due is gone.
    #[default]
    Keep,
    /// What was left of each at the snapshot is left of it now.
    Shift,
    /// Nothing expires.
    Drop,
}

impl Ttl {
    /// Returns the word of the command line.
    pub fn word(self) -> &'static str {
        match self {
            Self::Keep => "keep",
            Self::Shift => "shift",
            Self::Drop => "drop",
        }
    }

    /// Returns the rule for a snapshot of `at_ms` that is restored at `now_ms`; none where all stays as it is.
    pub(super) fn rule(self, at_ms: i64, now_ms: i64) -> Option<Rule> {
        match self {
            Self::Keep => None,
            Self::Shift => Some(Rule { at_ms, later_ms: Some(now_ms.saturating_sub(at_ms).max(0)) }),
            Self::Drop => Some(Rule { at_ms, later_ms: None }),
        }
    }
}

/// How times of expiry change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    /// The instant of the snapshot.
    at_ms: i64,
    /// By how much they are later; never where nothing expires.
    later_ms: Option<i64>,
}

impl Rule {
    /// Returns whether it was there at the snapshot.
    fn keeps(self, expires: Option<i64>) -> bool {
        expires.is_none_or(|at| at > self.at_ms)
    }

    /// Returns the new time of what expires.
    fn time(self, expires: Option<i64>) -> Option<i64> {
        Some(expires?.saturating_add(self.later_ms?))
    }

    /// Returns the new time of a field of a hash: not later than a server takes, unless it was already.
    fn field_time(self, expires: Option<i64>) -> Option<i64> {
        let (old, new) = (expires?, self.time(expires)?);
        Some(new.min(FIELD_TIME_MS_MAX.max(old)))
    }
}

/// The latest time that `HPEXPIREAT` takes for a field: a quarter of what a time in a server's tables and in a dump can
/// be, which is 2^48 - 2 (redis `src/ebuckets.h`, `EB_EXPIRE_TIME_MAX`; `src/t_hash.c`, `HFE_MAX_ABS_TIME_MSEC`). A
/// dump with a later one than that is refused as damaged while it is loaded.
const FIELD_TIME_MS_MAX: i64 = ((1 << 48) - 2) >> 2;

/// Type codes of hashes (redis and valkey `src/rdb.h`): a plain table, one with the times of fields, and Valkey's.
const PLAIN: u8 = 4;
const TIMED: u8 = 24;
const TIMED_VALKEY: u8 = 22;

/// Writes a dump with the times that a rule gives to `into`, which is empty.
pub(super) fn rewrite(from: &Spool, rule: Rule, into: &Spool) -> Result<(), MergeError> {
    let mut walker = Walker::begin(Tape::new(from.reader(0), None), false)?;
    let flavour = walker.version().flavour;
    let file = into.rewound().map_err(|failure| std::io::Error::other(failure.one_line()))?;
    let mut out = Out::to(BufWriter::new(file));
    out.copy(from, (0, MAGIC_BYTES))?;
    loop {
        match walker.next()? {
            Item::Key(found) if !rule.keeps(found.expires_at_ms) => {}
            Item::Key(found) => {
                let found = Found { expires_at_ms: rule.time(found.expires_at_ms), ..found };
                if matches!(found.code, 22..=25) {
                    Hash { from, rule, flavour, found }.write(&mut out)?;
                } else {
                    out.head(&found)?;
                    out.copy(from, (found.begin, found.end))?;
                }
            }
            Item::End { .. } => return out.end(),
            Item::Aux(..) | Item::Function { .. } | Item::ModuleAux(_) => {
                let span = walker.span();
                out.copy(from, (span.start, span.end))?;
            }
        }
    }
}

/// A hash with expiring fields.
struct Hash<'a> {
    from: &'a Spool,
    rule: Rule,
    flavour: Flavour,
    found: Found,
}

impl Hash<'_> {
    fn write(&self, out: &mut Out<impl Write>) -> Result<(), MergeError> {
        let (mut count, mut first) = (0_u64, None::<i64>);
        self.each(|_, _, expires| {
            count += 1;
            first = expires.map_or(first, |at| Some(first.map_or(at, |first| first.min(at))));
            Ok(())
        })?;
        if count == 0 {
            return Ok(());
        }
        let code = match (first, self.flavour) {
            (None, _) => PLAIN,
            (Some(_), Flavour::Redis) => TIMED,
            (Some(_), Flavour::Valkey) => TIMED_VALKEY,
        };
        out.head(&Found { code, ..self.found.clone() })?;
        let first = first.unwrap_or_default();
        if code == TIMED {
            out.put(&first.to_le_bytes())?;
        }
        out.length(count)?;
        self.each(|field, value, expires| {
            if code == TIMED {
                // Counted from the earliest; 0 stands for never.
                out.length(expires.map_or(0, |at| at.saturating_sub(first).unsigned_abs() + 1))?;
            }
            out.text(field)?;
            out.text(value)?;
            if code == TIMED_VALKEY {
                out.put(&expires.unwrap_or(-1).to_le_bytes())?;
            }
            Ok(())
        })
    }

    /// Shows each field that stays, with its new time.
    fn each(
        &self,
        mut show: impl FnMut(&[u8], &[u8], Option<i64>) -> Result<(), MergeError>,
    ) -> Result<(), MergeError> {
        let mut tape = Tape::new(self.from.reader(self.found.begin), None);
        let mut shown = Ok(());
        each_member(&mut tape, (self.flavour, self.found.code), &mut |member| {
            if let Member::Field(field, value, expires) = member
                && self.rule.keeps(expires)
                && shown.is_ok()
            {
                shown = show(&field, &value, self.rule.field_time(expires));
            }
        })
        .map_err(|error: RdbError| MergeError::Rdb(error))?;
        shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redis::rdb::{
        Checksum, Survey,
        sample::{Sample, everything, listpack},
    };

    const AT: i64 = 1_000_000;

    fn spool(bytes: &[u8]) -> Spool {
        let spool = Spool::new(None).unwrap();
        spool.rewound().unwrap().write_all(bytes).unwrap();
        spool
    }

    fn rewritten(dump: &[u8], ttl: Ttl, now_ms: i64) -> Survey {
        let into = Spool::new(None).unwrap();
        rewrite(&spool(dump), ttl.rule(AT, now_ms).unwrap(), &into).unwrap();
        let survey = Survey::of_all(into.reader(0), 0, true).unwrap();
        assert_eq!(survey.checksum, Checksum::Verified);
        survey
    }

    fn survey(dump: &[u8]) -> Survey {
        Survey::of_all(dump, 0, true).unwrap()
    }

    fn dumped(shift_ms: Option<i64>) -> Vec<u8> {
        let dump =
            Sample::begin("REDIS0012").raw(&[250]).text("redis-ver").text("8.0").raw(&[245]).text("lib");
        let dump = dump.db(0).raw(&[251, 3, 1]).string("stays", "1").db(5);
        let dump = match shift_ms {
            Some(later) => dump.raw(&[252]).raw(&(AT + 5 + later).to_le_bytes()),
            None => dump,
        };
        dump.raw(&[248]).length(70).string("expires", "2").end()
    }

    fn due(dump: &[u8]) -> Vec<u8> {
        // One that had expired when the snapshot was made.
        let end = dump.len() - 9;
        let gone = Sample::begin("REDIS0012").raw(&dump[9..end]).raw(&[252]).raw(&AT.to_le_bytes());
        gone.string("gone", "3").end()
    }

    #[test]
    fn times_are_later_by_the_age_of_the_snapshot_or_gone_and_all_else_stays() {
        let dump = due(&dumped(Some(0)));
        for (ttl, now_ms, expected) in [
            (Ttl::Shift, AT + 1000, dumped(Some(1000))),
            (Ttl::Shift, AT, dumped(Some(0))),
            // A clock that is behind makes nothing expire sooner.
            (Ttl::Shift, AT - 9, dumped(Some(0))),
            (Ttl::Drop, AT + 1000, dumped(None)),
        ] {
            let (found, expected) = (rewritten(&dump, ttl, now_ms), survey(&expected));
            assert_eq!(found.keys_by_db(), [(0, 1), (5, 1)].into());
            assert_eq!(found.aux, expected.aux);
            assert_eq!((found.digest, found.functions), (expected.digest, 1), "{ttl:?} at {now_ms}");
        }
        assert_eq!(Ttl::Keep.rule(AT, AT + 1), None);
    }

    #[test]
    fn fields_of_hashes_follow_the_same_rule_in_every_layout() {
        let hash = |magic: &str, later: i64| {
            let redis = |dump: Sample| {
                let dump = dump.key(TIMED, "h").raw(&(AT + 3 + later).to_le_bytes()).length(3);
                let dump = dump.length(1).text("a").text("1").length(0).text("b").text("2");
                dump.length(5).text("c").text("3")
            };
            let valkey = |dump: Sample| {
                let dump = dump.key(TIMED_VALKEY, "h").length(3);
                let dump = dump.text("a").text("1").raw(&(AT + 3 + later).to_le_bytes());
                let dump = dump.text("b").text("2").raw(&(-1_i64).to_le_bytes());
                dump.text("c").text("3").raw(&(AT + 7 + later).to_le_bytes())
            };
            let dump = Sample::begin(magic).db(0);
            if magic.starts_with('V') { valkey(dump).end() } else { redis(dump).end() }
        };
        let plain = |magic: &str| {
            let dump = Sample::begin(magic).db(0).key(PLAIN, "h").length(3);
            dump.text("a").text("1").text("b").text("2").text("c").text("3").end()
        };
        for magic in ["REDIS0012", "VALKEY080"] {
            let dump = hash(magic, 0);
            let found = rewritten(&dump, Ttl::Shift, AT + 500);
            assert_eq!(found.digest, survey(&hash(magic, 500)).digest, "{magic}");
            assert_eq!(rewritten(&dump, Ttl::Drop, AT).digest, survey(&plain(magic)).digest, "{magic}");
        }
        // Packed, with one field that had expired; where all had, so had the hash.
        let packed = |times: [i64; 2]| {
            let [one, two] = times.map(|at| at.to_string());
            let pack = listpack(&["a", "1", &one, "b", "2", &two]);
            Sample::begin("REDIS0012").db(0).key(25, "h").raw(&times[0].to_le_bytes()).text(pack).end()
        };
        let left = Sample::begin("REDIS0012").db(0).key(PLAIN, "h").length(1).text("b").text("2").end();
        assert_eq!(rewritten(&packed([AT, AT + 1]), Ttl::Drop, AT).digest, survey(&left).digest);
        assert_eq!(rewritten(&packed([AT - 1, AT]), Ttl::Shift, AT).keys_by_db(), [].into());
    }

    #[test]
    fn a_field_never_expires_later_than_a_server_takes() {
        let hash = |at: i64| {
            let dump = Sample::begin("REDIS0012").db(0).key(TIMED, "h").raw(&at.to_le_bytes()).length(1);
            dump.length(1).text("a").text("1").end()
        };
        let age = 1000;
        for (at, then) in [
            (AT + 5, AT + 5 + age),
            (FIELD_TIME_MS_MAX - age, FIELD_TIME_MS_MAX),
            (FIELD_TIME_MS_MAX - 1, FIELD_TIME_MS_MAX),
            ((1 << 48) - 2, (1 << 48) - 2),
        ] {
            let found = rewritten(&hash(at), Ttl::Shift, AT + age);
            assert_eq!(found.digest, survey(&hash(then)).digest, "{at}");
        }
    }

    #[test]
    fn whatever_a_dump_holds_is_a_dump_afterwards() {
        for magic in ["REDIS0012", "VALKEY080"] {
            let (dump, _) = everything(magic);
            for ttl in [Ttl::Shift, Ttl::Drop] {
                let into = Spool::new(None).unwrap();
                rewrite(&spool(&dump), ttl.rule(0, 77).unwrap(), &into).unwrap();
                let found = Survey::of_all(into.reader(0), 0, true).unwrap();
                let before = survey(&dump);
                assert_eq!((found.keys_by_db(), found.functions), (before.keys_by_db(), before.functions));
            }
        }
    }
}
