//! Lock: lets the service of an offsite refuse to delete what its snapshots need, and tries out whether it does.
//!
//! *Order.* After each sync, also one that failed, what is kept is locked ([`after_sync`]); on a schedule of its own
//! the tamper test tries what a thief of the credential would ([`of_stack`]). Neither needs a key. *Crash.* A lock is
//! one request; the next run does the rest, see [`extend`].

pub mod extend;
mod note;

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};

use self::extend::{Counts, Depth, Extended, Notes, Wanted, count, go_through};
#[cfg(test)]
pub(crate) use self::note::locked_copy;
pub use self::note::{FailedNote, LockNote, TestNote};
use super::{
    open::{self, Opening, offsite_of},
    run::{Outcome, Remembered, RunContext, noted, stopped},
};
use crate::{
    catalog::{Catalog, Count},
    clock::Ground,
    error::{ExitCode, Failure, Result},
    event::SharedMonitor,
    names::{Job, Key, PackId, Task},
    policy::{LockMode, OffsiteConfig, Stack},
    repo::{Kept, format::layout},
    store::lock::{
        Locker, Mode, NoLock,
        tamper::{self, Attempt, Verdict},
    },
};

/// What a tamper test found.
#[derive(Clone, Debug)]
pub struct Tested {
    /// The offsite.
    pub name: String,
    /// Where it is.
    pub place: String,
    /// The mode that was tried out.
    pub mode: LockMode,
    /// What it says as a whole.
    pub verdict: Verdict,
    /// One for each attempt.
    pub attempts: Vec<Attempt>,
    /// How well what is kept is locked, as far as it is known.
    counts: Option<Counts>,
}

impl Tested {
    /// Returns how a process that did only this would end.
    pub fn exit(&self) -> ExitCode {
        match self.verdict {
            Verdict::Proven => ExitCode::Ok,
            Verdict::Broken => ExitCode::Failed,
            Verdict::Unproven => ExitCode::Partial,
        }
    }

    /// Returns what is not as it must be, the worst first.
    pub fn wrong(&self) -> Vec<&Attempt> {
        use crate::finding::Status;
        let mut wrong: Vec<&Attempt> = self.attempts.iter().filter(|one| one.status != Status::Ok).collect();
        wrong.sort_by_key(|one| std::cmp::Reverse(one.status));
        wrong
    }
}

impl Remembered for Tested {
    fn outcome(&self) -> Outcome {
        let wrong = self.wrong();
        let first = wrong.first();
        let count = |what: &str, value: u64| Count { about: String::new(), what: what.to_owned(), value };
        let counts = self
            .counts
            .iter()
            .flat_map(|counts| [count("locked", counts.locked), count("immutable", counts.immutable)]);
        Outcome {
            exit: Some(self.exit()),
            message: first.map(|one| format!("`{}` does not hold: {}", one.law, one.detail)),
            hint: first.and_then(|one| one.hint.clone()),
            counts: counts.collect(),
            ..Outcome::default()
        }
    }
}

/// How an offsite's locks are.
#[derive(Clone, Debug)]
pub struct Looked {
    /// The offsite.
    pub name: String,
    /// Where it is.
    pub place: String,
    /// What was found and what is remembered of the last test.
    pub note: LockNote,
    /// What was done, where something was asked for.
    pub extended: Option<Extended>,
    /// Why nothing can be locked there, if that is so.
    pub no_lock: Option<NoLock>,
}

impl Looked {
    /// Returns how a process that did only this would end.
    pub fn exit(&self) -> ExitCode {
        let Some(extended) = &self.extended else { return ExitCode::Ok };
        let is_whole = extended.failed.is_empty() && self.no_lock.is_none();
        if is_whole { ExitCode::Ok } else { ExitCode::Partial }
    }
}

/// Returns the offsites that the policy wants to be locked, or the one of this name.
pub fn wanted<'s>(stack: &'s Stack, name: Option<&str>) -> Result<Vec<&'s OffsiteConfig>> {
    let all = match name {
        Some(name) => vec![offsite_of(stack, name)?],
        None => stack.offsites.iter().collect(),
    };
    let locked: Vec<_> = all.into_iter().filter(|one| one.settings.lock_days.is_some()).collect();
    if locked.is_empty() {
        let what = name.map_or("no offsite has `lock_days`".to_owned(), |name| {
            format!("offsite `{name}` has no `lock_days`")
        });
        return Err(Failure::new(ExitCode::Usage, what).hint(
            "Add lock_days = 30 to an [[offsite]] in a bucket with Object Lock; see docs/offsite.md.",
        ));
    }
    Ok(locked)
}

/// Returns what is remembered of an offsite's lock.
pub fn remembered(ledger: &Catalog, name: &str) -> Result<LockNote> {
    Ok(ledger.observed(&observation(name))?.map(|(note, _)| note).unwrap_or_default())
}

fn observation(name: &str) -> String {
    format!("lock.{name}")
}

/// The observation that holds the lock of each object.
fn notes_of(name: &str) -> String {
    format!("lock.{name}.objects")
}

/// Runs the tamper test of the offsite of this name, as a run.
pub async fn of_stack(context: RunContext<'_>, name: &str) -> Result<Tested> {
    let RunContext { stack, ground, monitor, stop, .. } = context;
    // What the test leaves when it is dropped the next one clears away.
    noted(context, &Task::at(Job::Lock, name), async {
        stop.run_until_cancelled(test(stack, name, ground, monitor)).await.unwrap_or_else(|| Err(stopped()))
    })
    .await
}

async fn test(stack: &Stack, name: &str, ground: &Ground, monitor: &SharedMonitor) -> Result<Tested> {
    let site = Site::of(stack, name)?;
    let ledger = open::ledger(stack, monitor)?;
    let (attempts, place) = match site.locker()? {
        Ok(locker) => (
            Box::pin(tamper::test(&locker, site.mode(), ground.clock.now())).await,
            locker.place().to_owned(),
        ),
        Err(no) => (vec![tamper::no_lock(&no)], String::new()),
    };
    let mut note = remembered(&ledger, name)?;
    let (verdict, now) = (Verdict::of(&attempts), ground.clock.now());
    let counts = note.counts.as_ref().map(|(counts, _)| counts.clone());
    let mode = site.offsite.settings.lock_mode();
    let tested = Tested { name: name.to_owned(), place, mode, verdict, attempts, counts };
    note.place.clone_from(&tested.place);
    let wrong =
        tested.wrong().into_iter().map(|one| (format!("{}: {}", one.law, one.detail), one.hint.clone()));
    note.test = Some(TestNote { at: now, verdict: verdict.word().to_owned(), wrong: wrong.collect() });
    ledger.observe(&observation(name), &note, now)?;
    Ok(tested)
}

/// Locks what the copy has after a sync, where the policy wants that: also when the sync failed, for what was copied
/// before must not run out meanwhile. `again` are packs that it has put again where they were gone. What goes wrong is
/// told and remembered; the copy is there all the same.
pub async fn after_sync(
    stack: &Stack,
    name: &str,
    again: &BTreeSet<PackId>,
    ground: &Ground,
    monitor: &SharedMonitor,
) {
    if offsite_of(stack, name).is_ok_and(|offsite| offsite.settings.lock_days.is_none()) {
        return;
    }
    match extend(stack, name, again, ground, monitor).await {
        // The sync that failed tells why there is no copy yet.
        Err(failure) if failure.exit() == ExitCode::NoRepository => {
            monitor.step(None, format!("{name}: nothing was locked: {failure}"));
        }
        Err(failure) => {
            let what = format!("{name}: nothing was locked: {}", failure.one_line());
            monitor.warn(None, what, failure.first_hint());
        }
        Ok(Looked { no_lock: Some(no), .. }) => {
            monitor.warn(None, format!("{name}: the lock is unproven: {}", no.what), Some(no.hint));
        }
        Ok(Looked { note: LockNote { failed: Some(failed), .. }, extended: Some(_), .. }) => {
            monitor.warn(None, format!("{name}: {}", failed.why), failed.hint.as_deref());
        }
        Ok(Looked { extended: Some(done), .. }) => monitor.step(
            None,
            format!("{name}: {} locked, {} extended, {} were", done.locked, done.extended, done.left),
        ),
        Ok(_) => {}
    }
}

/// Locks what the snapshots of the offsite of this name need.
pub async fn extend_now(
    stack: &Stack,
    name: &str,
    ground: &Ground,
    monitor: &SharedMonitor,
) -> Result<Looked> {
    extend(stack, name, &BTreeSet::new(), ground, monitor).await
}

async fn extend(
    stack: &Stack,
    name: &str,
    again: &BTreeSet<PackId>,
    ground: &Ground,
    monitor: &SharedMonitor,
) -> Result<Looked> {
    let site = Site::of(stack, name)?;
    let depth = Depth::Extend(Wanted { days: site.days, mode: site.mode() });
    let done = site.go(depth, again, ground, monitor).await;
    if let Err(failure) = &done
        && failure.exit() != ExitCode::NoRepository
    {
        let (ledger, at) = (open::ledger(stack, monitor)?, ground.clock.now());
        let why = format!("nothing was locked: {}", failure.one_line());
        let failed = FailedNote { at, why, hint: failure.first_hint().map(str::to_owned) };
        let note = LockNote { failed: Some(failed), ..remembered(&ledger, name)? };
        ledger.observe(&observation(name), &note, at)?;
    }
    done
}

/// Returns what to remember of objects that could not be locked.
fn failed_of(done: &Extended, at: DateTime<Utc>) -> Option<FailedNote> {
    let (key, why) = done.failed.first()?;
    let why = format!("{} objects could not be locked, as `{key}`: {why}", done.failed.len());
    Some(FailedNote { at, why, hint: Some("Run `lifeboat lock --extend` to try again.".to_owned()) })
}

/// Asks the service how what the snapshots of the offsite of this name need is locked; changes nothing.
pub async fn look(stack: &Stack, name: &str, ground: &Ground, monitor: &SharedMonitor) -> Result<Looked> {
    Site::of(stack, name)?.go(Depth::Look, &BTreeSet::new(), ground, monitor).await
}

/// An offsite that is to be locked.
struct Site<'s> {
    stack: &'s Stack,
    offsite: &'s OffsiteConfig,
    days: u32,
}

impl<'s> Site<'s> {
    fn of(stack: &'s Stack, name: &str) -> Result<Self> {
        let found = wanted(stack, Some(name))?.into_iter().next();
        let found = found.and_then(|offsite| Some((offsite, offsite.settings.lock_days?)));
        let (offsite, days) =
            found.ok_or_else(|| Failure::new(ExitCode::Usage, "nothing is to be locked"))?;
        Ok(Self { stack, offsite, days })
    }

    fn mode(&self) -> Mode {
        match self.offsite.settings.lock_mode() {
            LockMode::Governance => Mode::Governance,
            LockMode::Compliance => Mode::Compliance,
        }
    }

    fn locker(&self) -> Result<std::result::Result<Locker, NoLock>> {
        let place = &self.offsite.place;
        Ok(Locker::new(&place.store, &place.resolve()?))
    }

    /// Looks at or renews the locks, and remembers what was found.
    async fn go(
        &self,
        depth: Depth,
        again: &BTreeSet<PackId>,
        ground: &Ground,
        monitor: &SharedMonitor,
    ) -> Result<Looked> {
        let (name, now) = (self.offsite.name.as_str(), ground.clock.now());
        let ledger = open::ledger(self.stack, monitor)?;
        let locker = match self.locker()? {
            Ok(locker) => match locker.check().await {
                Ok(()) => locker,
                Err(no) => return self.without(no, depth, &ledger, now),
            },
            Err(no) => return self.without(no, depth, &ledger, now),
        };
        let kept = self.kept(monitor).await?;
        let notes: Option<(Notes, _)> = ledger.observed(&notes_of(name))?;
        let notes = notes.map(|(notes, _)| notes).unwrap_or_default().of(locker.place());
        let again: Vec<Key> = again.iter().map(|pack| layout::pack(*pack)).collect();
        let notes = notes.without(&again);
        let (done, notes) = go_through(&locker, &kept, depth, &notes, now).await;
        ledger.observe(&notes_of(name), &notes, now)?;
        // Read only now: a test may have ended meanwhile.
        let mut note = remembered(&ledger, name)?;
        locker.place().clone_into(&mut note.place);
        note.counts = Some((count(&kept, &notes, now), now));
        if depth != Depth::Look {
            note.failed = failed_of(&done, now);
        }
        ledger.observe(&observation(name), &note, now)?;
        let (name, place) = (name.to_owned(), locker.place().to_owned());
        let extended = (depth != Depth::Look).then_some(done);
        Ok(Looked { name, place, note, extended, no_lock: None })
    }

    /// Returns what the offsite's snapshots need; those that cannot be believed are told and need nothing.
    async fn kept(&self, monitor: &SharedMonitor) -> Result<Kept> {
        let name = self.offsite.name.as_str();
        let kept = Opening::named(self.stack, Some(name), monitor)?.clear().await?.kept().await?;
        for (key, failure) in &kept.bad {
            let what = format!("{name}: `{key}` is not locked: {}", failure.one_line());
            monitor.warn(None, what, failure.first_hint());
        }
        Ok(kept)
    }

    /// Remembers that nothing can be locked here, or why it could not be asked.
    fn without(&self, no: NoLock, depth: Depth, ledger: &Catalog, now: DateTime<Utc>) -> Result<Looked> {
        let name = self.offsite.name.as_str();
        let mut note = remembered(ledger, name)?;
        if !no.is_unknown {
            let wrong = vec![(no.what.clone(), Some(no.hint.to_owned()))];
            let verdict = Verdict::Unproven.word().to_owned();
            note.test = Some(TestNote { at: now, verdict, wrong });
            (note.counts, note.failed) = (None, None);
        } else if depth != Depth::Look {
            let why = format!("nothing was locked: {}", no.what);
            note.failed = Some(FailedNote { at: now, why, hint: Some(no.hint.to_owned()) });
        }
        ledger.observe(&observation(name), &note, now)?;
        let place = note.place.clone();
        let extended = (depth != Depth::Look).then(Extended::default);
        Ok(Looked { name: name.to_owned(), place, note, extended, no_lock: Some(no) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Status;

    fn attempt(id: &'static str, status: Status) -> Attempt {
        Attempt { id, law: "a lock holds", status, detail: id.to_owned(), hint: Some("Look.".to_owned()) }
    }

    fn tested(attempts: Vec<Attempt>) -> Tested {
        let (verdict, mode) = (Verdict::of(&attempts), LockMode::Compliance);
        Tested { name: "far".into(), place: "s3://b".into(), mode, verdict, attempts, counts: None }
    }

    #[test]
    fn a_run_is_remembered_by_the_worst_that_was_found() {
        let proven = tested(vec![attempt("a", Status::Ok)]).outcome();
        assert_eq!((proven.exit(), proven.message), (ExitCode::Ok, None));
        let unproven = tested(vec![attempt("a", Status::Ok), attempt("b", Status::Unknown)]).outcome();
        assert_eq!(unproven.exit(), ExitCode::Partial);
        let broken = tested(vec![attempt("b", Status::Unknown), attempt("c", Status::Broken)]).outcome();
        assert_eq!(broken.exit(), ExitCode::Failed);
        assert_eq!(broken.message.as_deref(), Some("`a lock holds` does not hold: c"));
        assert_eq!(broken.hint.as_deref(), Some("Look."));
    }
}
