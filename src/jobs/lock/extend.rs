//! Locks what the kept snapshots of an offsite need, and makes locks longer that are about to end.
//!
//! A lock is renewed when a quarter of its days has passed, so an object is touched every few nights and not every
//! night; between those it is locked for at least three quarters of `lock_days`. What a lock was found or made to be
//! is noted, and counts as long as a listing shows the object with the time that it had then. One with another time was
//! replaced after it was locked: it fails and is never locked, for that would keep what a thief has put. Only what a
//! sync has just put again in place of what was gone is another matter.
//!
//! *Order.* Each object alone, in no order. *Crash.* What was locked is locked; a run that died notes nothing, and the
//! next one asks for each object once more.
//!
//! *Limits.* [`LOCKS_AT_ONCE`] requests at a time. After [`SILENCES_MAX`] that the service did not answer, the rest is
//! left for the next run.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU32, Ordering},
};

use chrono::{DateTime, Duration, Utc};
use futures_util::{StreamExt, stream};
use serde::{Deserialize, Serialize};

use crate::{
    names::Key,
    repo::{Kept, format::layout},
    store::lock::{LockError, Locker, Mode, Retention},
};

/// Objects that are asked for or locked at the same time.
const LOCKS_AT_ONCE: usize = 8;
/// So many requests without an answer are enough.
const SILENCES_MAX: u32 = 16;
/// Why an object with another time than it had is not locked.
const REPLACED: &str = "it was replaced after it was locked; see docs/runbook/object-lock.md";

/// What the policy wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// For how many days.
    pub days: u32,
    /// How hard.
    pub mode: Mode,
}

/// What has to be done about one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// It is locked long enough.
    Nothing,
    /// It is not locked, or not any more.
    Lock(Retention),
    /// Its lock is to be longer, or harder.
    Extend(Retention),
}

impl Wanted {
    /// Returns what has to be done about an object with this lock. Never makes one shorter or softer.
    pub fn due(&self, have: Option<Retention>, now: DateTime<Utc>) -> Due {
        let days = Duration::days(i64::from(self.days));
        let wanted = Retention { mode: self.mode, until: now + days };
        match have.filter(|have| have.until > now) {
            None => Due::Lock(wanted),
            Some(have) if have.mode >= self.mode && have.until >= wanted.until - days / 4 => Due::Nothing,
            Some(have) => Due::Extend(Retention {
                mode: have.mode.max(wanted.mode),
                until: have.until.max(wanted.until),
            }),
        }
    }
}

/// A lock as it was last seen or made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Noted {
    lock: Retention,
    /// When the object reached the store, as the listing told then.
    stored: DateTime<Utc>,
}

/// The locks that are known of a place.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notes {
    /// The place; another one has other locks.
    place: String,
    objects: BTreeMap<Key, Noted>,
}

impl Notes {
    /// Returns what is known of this place, if these notes are of it.
    #[must_use]
    pub fn of(self, place: &str) -> Self {
        if self.place == place { self } else { Self { place: place.to_owned(), objects: BTreeMap::new() } }
    }

    /// Returns these notes without these objects, which were put again.
    #[must_use]
    pub fn without<'k>(mut self, keys: impl IntoIterator<Item = &'k Key>) -> Self {
        for key in keys {
            self.objects.remove(key);
        }
        self
    }

    /// Returns the note of an object that has another time now.
    fn of_replaced(&self, key: &Key, stored: Option<DateTime<Utc>>) -> Option<Noted> {
        let noted = self.objects.get(key)?;
        (stored? != noted.stored).then_some(*noted)
    }

    fn get(&self, key: &Key, stored: Option<DateTime<Utc>>) -> Option<Retention> {
        self.objects.get(key).filter(|noted| Some(noted.stored) == stored).map(|noted| noted.lock)
    }
}

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extended {
    /// Objects that had no lock and have one now.
    pub locked: u64,
    /// Objects whose lock is longer now.
    pub extended: u64,
    /// Objects whose lock was long enough.
    pub left: u64,
    /// Objects that could not be locked, and why.
    pub failed: Vec<(Key, String)>,
}

/// How well what is kept is locked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Objects that a kept snapshot needs.
    pub objects: u64,
    /// Those of them that are locked.
    pub locked: u64,
    /// When the first of these locks ends.
    pub until: Option<DateTime<Utc>>,
    /// Packs that a kept snapshot needs.
    pub packs: u64,
    /// Those of them that are not locked.
    pub packs_unlocked: u64,
    /// Snapshots that are kept.
    pub snapshots: u64,
    /// Those of them all of whose objects are locked.
    pub immutable: u64,
}

/// Whether locks are only looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Every object is asked for, whatever the notes say.
    Look,
    /// What the notes do not know is asked for, and what is due is locked.
    Extend(Wanted),
}

/// What became of one object.
struct One {
    key: Key,
    noted: Option<Noted>,
    done: Result<Due, String>,
}

/// Looks at or locks all that `kept` needs. Returns what was done and what is known from now on.
pub async fn go_through(
    locker: &Locker,
    kept: &Kept,
    depth: Depth,
    notes: &Notes,
    now: DateTime<Utc>,
) -> (Extended, Notes) {
    let silences = AtomicU32::new(0);
    let visits = kept.objects().into_iter().map(|key| visit(locker, kept, depth, notes, now, key, &silences));
    let mut visits = stream::iter(visits).buffer_unordered(LOCKS_AT_ONCE);
    let (mut report, mut known) = (Extended::default(), Notes::default().of(locker.place()));
    while let Some(one) = visits.next().await {
        match one.done {
            Ok(Due::Nothing) => report.left += 1,
            Ok(Due::Lock(_)) => report.locked += 1,
            Ok(Due::Extend(_)) => report.extended += 1,
            Err(why) => report.failed.push((one.key.clone(), why)),
        }
        if let Some(noted) = one.noted {
            known.objects.insert(one.key, noted);
        }
    }
    report.failed.sort();
    (report, known)
}

async fn visit(
    locker: &Locker,
    kept: &Kept,
    depth: Depth,
    notes: &Notes,
    now: DateTime<Utc>,
    key: Key,
    silences: &AtomicU32,
) -> One {
    let Some(stored) = kept.stored(&key) else {
        let done = Err("it is not in the store, or a delete marker hides it".to_owned());
        return One { key, noted: None, done };
    };
    if let Some(old) = notes.of_replaced(&key, stored) {
        return One { key, noted: Some(old), done: Err(REPLACED.to_owned()) };
    }
    let noted = |lock: Retention| stored.map(|stored| Noted { lock, stored });
    if silences.load(Ordering::Relaxed) >= SILENCES_MAX {
        let done = Err("the service did not answer for others".to_owned());
        return One { noted: notes.get(&key, stored).and_then(noted), key, done };
    }
    let hear = |error: LockError| {
        if matches!(error, LockError::Unanswered(_)) {
            silences.fetch_add(1, Ordering::Relaxed);
        }
        error.to_string()
    };
    let known = if depth == Depth::Look { None } else { notes.get(&key, stored) };
    // A note that a lock is about to end may be old: another host may have made it longer since.
    let is_enough = |lock: &Retention| match depth {
        Depth::Look => false,
        Depth::Extend(wanted) => wanted.due(Some(*lock), now) == Due::Nothing,
    };
    let have = match known.filter(is_enough) {
        Some(lock) => Some(lock),
        None => match locker.retention(&key).await {
            Ok(have) => have,
            Err(error) => {
                // A lock that was seen holds, whether the service answers or not.
                let seen = notes.get(&key, stored).filter(|_| error != LockError::Absent);
                return One { noted: seen.and_then(noted), key, done: Err(hear(error)) };
            }
        },
    };
    let due = match depth {
        Depth::Look => Due::Nothing,
        Depth::Extend(wanted) => wanted.due(have, now),
    };
    let (Due::Lock(lock) | Due::Extend(lock)) = due else {
        return One { key, noted: have.and_then(noted), done: Ok(due) };
    };
    match locker.lock(&key, lock).await {
        Ok(()) => One { key, noted: noted(lock), done: Ok(due) },
        Err(error) => One { key, noted: have.and_then(noted), done: Err(hear(error)) },
    }
}

/// Counts how well `kept` is locked, as far as it is known.
pub fn count(kept: &Kept, notes: &Notes, now: DateTime<Utc>) -> Counts {
    let lock = |key: &Key| {
        let stored = kept.stored(key)?;
        notes.get(key, stored).filter(|lock| lock.until > now)
    };
    let objects = kept.objects();
    let ends: Vec<DateTime<Utc>> = objects.iter().filter_map(lock).map(|lock| lock.until).collect();
    let packs = kept.packs();
    let unlocked = packs.iter().filter(|pack| lock(&layout::pack(**pack)).is_none());
    Counts {
        objects: objects.len() as u64,
        locked: ends.len() as u64,
        until: ends.into_iter().min(),
        packs_unlocked: unlocked.count() as u64,
        packs: packs.len() as u64,
        snapshots: kept.snapshots(),
        immutable: kept.snapshots_of_only(|key| lock(key).is_some()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WANTED: Wanted = Wanted { days: 40, mode: Mode::Compliance };

    fn days(days: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + Duration::days(days)
    }

    fn lock(mode: Mode, until: i64) -> Retention {
        Retention { mode, until: days(until) }
    }

    #[test]
    fn a_lock_is_renewed_after_a_quarter_of_its_days() {
        let due = |until| WANTED.due(Some(lock(Mode::Compliance, until)), days(0));
        assert_eq!(WANTED.due(None, days(0)), Due::Lock(lock(Mode::Compliance, 40)));
        assert_eq!(due(40), Due::Nothing);
        assert_eq!(due(30), Due::Nothing);
        assert_eq!(due(29), Due::Extend(lock(Mode::Compliance, 40)));
        assert_eq!(due(0), Due::Lock(lock(Mode::Compliance, 40)), "it has run out");
    }

    #[test]
    fn a_lock_becomes_harder_and_never_shorter_or_softer() {
        assert_eq!(
            WANTED.due(Some(lock(Mode::Governance, 90)), days(0)),
            Due::Extend(lock(Mode::Compliance, 90))
        );
        let soft = Wanted { mode: Mode::Governance, ..WANTED };
        assert_eq!(soft.due(Some(lock(Mode::Compliance, 90)), days(0)), Due::Nothing);
        assert_eq!(
            soft.due(Some(lock(Mode::Compliance, 1)), days(0)),
            Due::Extend(lock(Mode::Compliance, 40))
        );
    }

    #[test]
    fn a_note_counts_for_one_place_and_for_the_very_object_only() {
        let key = Key::new("packs/x").unwrap();
        let noted = Noted { lock: lock(Mode::Compliance, 9), stored: days(1) };
        let notes = Notes { place: "here".into(), objects: [(key.clone(), noted)].into() };
        assert_eq!(notes.get(&key, Some(days(1))), Some(noted.lock));
        assert_eq!(notes.get(&key, Some(days(2))), None, "it was replaced");
        assert_eq!(notes.get(&key, None), None, "the store does not tell");
        assert_eq!(notes.of_replaced(&key, Some(days(2))), Some(noted));
        assert_eq!((notes.of_replaced(&key, Some(days(1))), notes.of_replaced(&key, None)), (None, None));
        assert_eq!(notes.clone().without([&key]).of_replaced(&key, Some(days(2))), None, "it was put again");
        assert_eq!(notes.clone().of("here"), notes);
        assert_eq!(notes.of("there").get(&key, Some(days(1))), None);
    }

    proptest! {
        #[test]
        fn after_what_is_due_nothing_is_due(
            wanted in 1_u32..400, have in -10_i64..800, hard in any::<bool>(), wants_hard in any::<bool>(),
        ) {
            let mode = |hard| if hard { Mode::Compliance } else { Mode::Governance };
            let wanted = Wanted { days: wanted, mode: mode(wants_hard) };
            let have = lock(mode(hard), have);
            match wanted.due(Some(have), days(0)) {
                Due::Nothing => prop_assert!(have.until > days(0) && have.mode >= wanted.mode),
                Due::Lock(made) | Due::Extend(made) => {
                    prop_assert!(made.until >= have.until && made.mode >= wanted.mode);
                    prop_assert!(made.mode >= have.mode || have.until <= days(0));
                    prop_assert_eq!(wanted.due(Some(made), days(0)), Due::Nothing);
                }
            }
        }
    }
}
