//! What is remembered of an offsite's lock, and what is wrong with it by that alone.
//!
//! A copy that nobody locks any more stands unprotected in silence when its locks run out. So what is remembered
//! tells not only of the tamper test: also of packs without a lock, of locks that nobody renewed, and of counts that
//! are too old to say anything.
//!
//! *Crash.* Nothing here changes anything.

use chrono::{DateTime, Duration, Utc};
use serde::{Deserialize, Serialize};

use super::extend::Counts;
use crate::status::{Condition, Kind, Urgency};

/// What is remembered of an offsite's lock: the observation `lock.<offsite>`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockNote {
    /// Where the offsite is.
    pub place: String,
    /// The last tamper test.
    pub test: Option<TestNote>,
    /// How well what is kept was locked, and when that was looked at.
    pub counts: Option<(Counts, DateTime<Utc>)>,
    /// Why the last try to lock what is kept did not do all of it, if it did not.
    #[serde(default)]
    pub failed: Option<FailedNote>,
}

/// What is remembered of a tamper test.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TestNote {
    /// When it was.
    pub at: DateTime<Utc>,
    /// `proven`, `broken` or `unproven`.
    pub verdict: String,
    /// What was not as it must be, and what to do about it.
    pub wrong: Vec<(String, Option<String>)>,
}

/// What is remembered of a try to lock that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedNote {
    /// When it was.
    pub at: DateTime<Utc>,
    /// Why.
    pub why: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl LockNote {
    /// Returns how many kept snapshots the service refuses to delete; none that is known of once a lock has run out.
    pub fn immutable(&self, now: DateTime<Utc>) -> u64 {
        let counts = self.counts.as_ref().map(|(counts, _)| counts);
        counts
            .filter(|counts| counts.until.is_some_and(|until| until > now))
            .map_or(0, |counts| counts.immutable)
    }

    /// Returns what is wrong with the lock of the copy of this name, which is to last `days`. Counts that are older
    /// than `stale_after` say nothing any more.
    pub fn condition(
        &self,
        name: &str,
        days: u32,
        stale_after: Duration,
        now: DateTime<Utc>,
    ) -> Option<Condition> {
        let condition = |urgency, what, hint| Condition {
            kind: Kind::Lock,
            about: name.to_owned(),
            urgency,
            what,
            hint,
            drill: None,
        };
        let tested = |test: &TestNote, urgency| {
            let (wrong, hint) = test.wrong.first().cloned().unwrap_or_default();
            condition(urgency, format!("the lock of copy `{name}` is {}: {wrong}", test.verdict), hint)
        };
        let verdict = self.test.as_ref().map(|test| (test, test.verdict.as_str()));
        if let Some((test, "broken")) = verdict {
            return Some(tested(test, Urgency::Page));
        }
        if let Some(mut what) = self.gap(name, days, stale_after, now) {
            let mut hint = format!("Run `lifeboat lock {name} --extend` and see what it says.");
            if let Some(failed) = &self.failed {
                what = format!("{what}; {}", failed.why);
                hint = failed.hint.clone().unwrap_or(hint);
            }
            return Some(condition(Urgency::Ticket, what, Some(hint)));
        }
        verdict.filter(|(_, verdict)| *verdict != "proven").map(|(test, _)| tested(test, Urgency::Ticket))
    }

    /// Says what of the copy is not locked as it should be, or not for long, or not known to be.
    fn gap(&self, name: &str, days: u32, stale_after: Duration, now: DateTime<Utc>) -> Option<String> {
        let time = |at: DateTime<Utc>| at.format("%Y-%m-%d %H:%M UTC").to_string();
        let Some((counts, at)) = &self.counts else {
            return self.failed.as_ref().map(|_| format!("nothing of copy `{name}` is known to be locked"));
        };
        let (unlocked, packs) = (counts.packs_unlocked, counts.packs);
        if unlocked > 0 {
            return Some(format!("{unlocked} of {packs} kept packs of copy `{name}` are not locked"));
        }
        let half = Duration::days(i64::from(days)) / 2;
        if let Some(until) = counts.until.filter(|until| *until < now + half) {
            let verb = if until > now { "ends" } else { "has ended" };
            let when = time(until);
            return Some(format!("the first lock of copy `{name}` {verb} {when} and was not renewed"));
        }
        (*at + stale_after < now)
            .then(|| format!("how copy `{name}` is locked was last looked at {}", time(*at)))
    }
}

/// A policy whose only copy is locked.
#[cfg(test)]
pub(crate) fn locked_copy() -> crate::policy::Stack {
    let copy = "[[offsite]]\nname = \"far\"\nstore = \"s3\"\noptions = { bucket = \"b\" }\nlock_days = 30\n";
    let text = format!("{}{copy}", crate::policy::SMALL);
    crate::policy::Stack::parse(&text, "p.toml", crate::policy::Need::Repository).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        catalog::Catalog,
        jobs::{lock::observation, watch},
    };

    fn days(days: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + Duration::days(days)
    }

    /// A note of a whole look at day 0, with locks until day 30.
    fn whole() -> LockNote {
        let counts = Counts {
            objects: 9,
            locked: 9,
            until: Some(days(30)),
            packs: 4,
            snapshots: 3,
            immutable: 3,
            ..Counts::default()
        };
        LockNote { counts: Some((counts, days(0))), ..LockNote::default() }
    }

    fn tested(verdict: &str) -> TestNote {
        let wrong = vec![("it was gone".to_owned(), Some("Look.".to_owned()))];
        TestNote { at: days(0), verdict: verdict.to_owned(), wrong }
    }

    /// Returns what the watch says of the lock when this is remembered.
    #[track_caller]
    fn told(note: &LockNote, now: DateTime<Utc>) -> Option<(Urgency, String)> {
        let stack = locked_copy();
        let ledger = Catalog::in_memory().unwrap();
        ledger.observe(&observation("far"), note, now).unwrap();
        let mut found = watch::conditions(&stack, &ledger, now).unwrap();
        found.retain(|one| one.kind == Kind::Lock);
        assert!(found.len() <= 1, "one incident for each copy: {found:?}");
        found.pop().map(|one| {
            assert!(one.hint.is_some() && one.about == "far", "{one:?}");
            (one.urgency, one.what)
        })
    }

    #[test]
    fn what_was_locked_counts_until_the_first_lock_ends() {
        let note = whole();
        assert_eq!((note.immutable(days(1)), note.immutable(days(30))), (3, 0));
        assert_eq!(LockNote::default().immutable(days(0)), 0);
    }

    #[test]
    fn a_lock_that_is_renewed_and_proven_is_no_incident() {
        assert_eq!(told(&LockNote::default(), days(0)), None, "no sync was yet");
        assert_eq!(told(&whole(), days(3)), None);
        assert_eq!(told(&LockNote { test: Some(tested("proven")), ..whole() }, days(1)), None);
    }

    #[test]
    fn packs_without_a_lock_are_an_incident() {
        let mut note = whole();
        note.counts.as_mut().unwrap().0.packs_unlocked = 1;
        let why = "3 objects could not be locked".to_owned();
        note.failed = Some(FailedNote { at: days(0), why, hint: Some("Ask them.".to_owned()) });
        let what = "1 of 4 kept packs of copy `far` are not locked; 3 objects could not be locked";
        assert_eq!(told(&note, days(0)), Some((Urgency::Ticket, what.to_owned())));
    }

    #[test]
    fn a_lock_that_nobody_renews_is_an_incident_long_before_it_ends() {
        let mut note = whole();
        note.counts.as_mut().unwrap().1 = days(15);
        assert_eq!(told(&note, days(15)), None);
        note.counts.as_mut().unwrap().1 = days(16);
        let (urgency, what) = told(&note, days(16)).unwrap();
        assert_eq!(urgency, Urgency::Ticket);
        assert_eq!(what, "the first lock of copy `far` ends 1970-01-31 00:00 UTC and was not renewed");
        assert!(told(&note, days(30)).unwrap().1.contains("has ended"));
    }

    #[test]
    fn counts_that_are_too_old_are_an_incident_with_the_reason() {
        let why = "the service did not answer".to_owned();
        let failed = Some(FailedNote { at: days(3), why, hint: None });
        let note = LockNote { failed, ..whole() };
        let later = days(3) + Duration::minutes(1);
        let what =
            "how copy `far` is locked was last looked at 1970-01-01 00:00 UTC; the service did not answer";
        assert_eq!(told(&note, later), Some((Urgency::Ticket, what.to_owned())));
        let never = LockNote { counts: None, ..note };
        assert!(told(&never, days(3)).unwrap().1.starts_with("nothing of copy `far` is known"));
    }

    #[test]
    fn a_test_that_was_broken_comes_before_all_else_and_one_that_proves_nothing_last() {
        let mut note = LockNote { test: Some(tested("broken")), ..whole() };
        note.counts.as_mut().unwrap().0.packs_unlocked = 1;
        let what = "the lock of copy `far` is broken: it was gone".to_owned();
        assert_eq!(told(&note, days(0)), Some((Urgency::Page, what)));
        note.test = Some(tested("unproven"));
        assert!(told(&note, days(0)).unwrap().1.contains("not locked"));
        note.counts.as_mut().unwrap().0.packs_unlocked = 0;
        assert!(told(&note, days(0)).unwrap().1.contains("unproven"));
    }

    #[test]
    fn a_note_of_an_older_version_is_read() {
        let older = r#"{"place":"s3://b","test":null,"counts":null}"#;
        assert_eq!(serde_json::from_str::<LockNote>(older).unwrap().failed, None);
    }
}
