//! Looks at what a backup needs before it needs it: keys, secrets, stores, sources, certificates, clocks, room, the
//! schedule.
//!
//! *Order.* What is free of effects comes first; then places, sources and certificates at once, each with a limit of
//! its own, so that one that hangs keeps nobody from hearing of the others. A store is written to only when a
//! repository is found at the policy's place, for a disk that is not mounted must not be written beside; what is put
//! there is small, lies under `probe/` and is deleted again. A copy elsewhere may still be empty and is tried out as
//! it is.
//!
//! *Crash.* Nothing is changed that anybody needs. What was found is remembered when all of it was looked at.
//!
//! | module | duty |
//! |---|---|
//! | [`keys`] | key files, secrets, and who else can read them |
//! | [`places`] | the repository, its copies, the state folder |
//! | [`room`] | how long until a disk is full |
//! | [`sources`] | the engines' own looking, with a limit of time |
//! | [`certificates`] | when a server's certificate runs out |
//! | [`schedule`] | whether the policy protects what it seems to |
//! | [`zone`] | the policy's zone, and the nights on which its clocks change |
//! | [`lab`] | the container socket that drills need |

mod certificates;
mod keys;
mod lab;
mod places;
mod room;
mod schedule;
mod sources;
mod zone;

use std::{collections::BTreeMap, time::Duration};

use chrono::{DateTime, Utc};

pub use self::room::Room;
use super::{
    registry,
    run::{Outcome, Remembered, RunContext, noted, stopped},
};
use crate::{
    catalog::{Catalog, Count},
    clock::Ground,
    error::{ExitCode, Failure, Result},
    finding::{Finding, Law, Status},
    names::{Job, Task},
    policy::Stack,
    store::probe,
};

/// The observation that keeps the findings of the last whole look.
pub const FINDINGS: &str = "doctor";
/// The observation that keeps how far each clock is ahead of this host's, in seconds: [`Report::clock_skew_seconds`].
pub const CLOCKS: &str = "clocks";
pub use super::seen::REPOSITORY;

/// Returns the observation that keeps the [`Room`] of a place: `repository`, an offsite's name, `state_dir`,
/// `spool.<source>`.
pub fn room_of(place: &str) -> String {
    format!("room.{place}")
}

/// Returns everything that is looked at: each has its heading in the runbook.
pub fn laws() -> impl Iterator<Item = &'static Law> {
    let own = [
        keys::LAWS,
        places::LAWS,
        room::LAWS,
        sources::LAWS,
        certificates::LAWS,
        schedule::LAWS,
        zone::LAWS,
        lab::LAWS,
        probe::LAWS,
    ];
    own.into_iter().flatten().chain(registry::laws())
}

/// All that was found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// One for each thing that was looked at.
    pub findings: Vec<Finding>,
    /// Whether a store does not answer, is full or refuses us.
    pub store_is_down: bool,
    /// Whether a source does not answer or refuses us.
    pub source_is_down: bool,
    /// How much room each place has, where that can be told.
    pub rooms: BTreeMap<String, Room>,
    /// Bytes that each place holds, where that can be told.
    pub stored_bytes: BTreeMap<String, u64>,
}

impl Report {
    /// Returns how a run with these findings ends.
    pub fn exit(&self) -> ExitCode {
        if self.store_is_down {
            ExitCode::StoreDown
        } else if self.source_is_down {
            ExitCode::SourceDown
        } else if self.findings.iter().any(|finding| finding.status == Status::Broken) {
            ExitCode::Failed
        } else {
            ExitCode::Ok
        }
    }

    /// Returns how many findings have this status.
    pub fn count(&self, status: Status) -> usize {
        self.findings.iter().filter(|finding| finding.status == status).count()
    }

    /// Returns how far each clock that was seen is ahead of this host's, by the name of its place or source. Where an
    /// offsite and a source have one name, the clock that is farther off counts.
    pub fn clock_skew_seconds(&self) -> BTreeMap<String, f64> {
        let mut clocks: BTreeMap<String, f64> = BTreeMap::new();
        for finding in &self.findings {
            let (Some(thing), Some(seconds)) = (finding.id.strip_suffix(".clock"), finding.figure) else {
                continue;
            };
            let name = thing.split_once('.').map_or(thing, |(_, name)| name);
            let skew = clocks.entry(name.to_owned()).or_default();
            if seconds.abs() > skew.abs() {
                *skew = seconds;
            }
        }
        clocks
    }

    fn take(&mut self, looked: Looked) {
        self.findings.extend(looked.findings);
        self.store_is_down |= looked.store_is_down;
        self.source_is_down |= looked.source_is_down;
        self.rooms.extend(looked.rooms);
        self.stored_bytes.extend(looked.stored_bytes);
    }

    fn counts(&self) -> Vec<Count> {
        let count = |what: &str, (place, value): (&String, u64)| Count {
            about: place.clone(),
            what: what.to_owned(),
            value,
        };
        let free = self.rooms.iter().map(|(place, room)| count(room::FREE, (place, room.free_bytes)));
        let stored = self.stored_bytes.iter().map(|(place, bytes)| count("stored_bytes", (place, *bytes)));
        free.chain(stored).collect()
    }

    /// Keeps what was found, for those who show it. That it cannot be kept is no failure of the look.
    fn remember(&self, catalog: &Catalog, now: DateTime<Utc>) -> Result<()> {
        catalog.observe(FINDINGS, &self.findings, now)?;
        // Also when none was seen: what was seen once says nothing of now.
        catalog.observe(CLOCKS, &self.clock_skew_seconds(), now)?;
        for (place, room) in &self.rooms {
            catalog.observe(&room_of(place), room, now)?;
        }
        Ok(())
    }
}

impl Remembered for Report {
    fn outcome(&self) -> Outcome {
        let worst = self.findings.iter().find(|finding| finding.status == Status::Broken);
        Outcome {
            exit: Some(self.exit()),
            message: worst.map(|finding| format!("{}: {}", finding.id, finding.detail)),
            hint: worst.and_then(|finding| finding.hint.clone()),
            counts: self.counts(),
            ..Outcome::default()
        }
    }
}

/// What one part of the look found.
#[derive(Default)]
struct Looked {
    findings: Vec<Finding>,
    store_is_down: bool,
    source_is_down: bool,
    rooms: BTreeMap<String, Room>,
    stored_bytes: BTreeMap<String, u64>,
}

/// How long a file system may take to answer.
const FOLDER_LIMIT: Duration = Duration::from_secs(20);

/// Asks a file system something that may never be answered, as by a server that is away: on a thread that nobody waits
/// for, and for no longer than `limit`. `None` when nothing was heard.
async fn ask_folder<T: Send + 'static>(
    limit: Duration,
    ask: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    tokio::time::timeout(limit, tokio::task::spawn_blocking(ask)).await.ok()?.ok()
}

/// What is looked at, and with what.
#[derive(Clone, Copy)]
struct Looking<'a> {
    stack: &'a Stack,
    ground: &'a Ground,
    /// The names of sources and places; all when there is none.
    names: &'a [String],
    /// What was seen before.
    history: Option<&'a Catalog>,
}

impl Looking<'_> {
    fn all(&self) -> bool {
        self.names.is_empty()
    }

    fn takes(&self, name: &str) -> bool {
        self.all() || self.names.iter().any(|one| one == name)
    }

    /// Looks at everything at once that takes time.
    async fn look(self) -> Report {
        let mut report = Report::default();
        if self.all() {
            report.findings.extend(keys::look(self.stack));
        }
        let sources = async {
            let looked = sources::look(self).await;
            let certificates = certificates::look_of_mysql(self, &looked.findings).await;
            (looked, certificates)
        };
        let (places, (sources, of_mysql), certificates, lab) =
            tokio::join!(places::look(self), sources, certificates::look(self), lab::look(self));
        for looked in [places, sources] {
            report.take(looked);
        }
        report.findings.extend(of_mysql);
        report.findings.extend(certificates);
        if self.all() {
            let now = self.ground.clock.now();
            report.findings.extend(schedule::look(self.stack, now));
            report.findings.extend(zone::look(self.stack, now));
        }
        report.findings.extend(lab);
        report
    }
}

/// Looks at everything, as a run, and remembers what was found.
pub async fn of_stack(context: RunContext<'_>) -> Result<Report> {
    let RunContext { stack, ground, monitor, stop, .. } = context;
    let work = Box::pin(async {
        let ledger = context.ledger()?;
        let report = Looking { stack, ground, names: &[], history: Some(&*ledger) }.look().await;
        if let Err(failure) = report.remember(&ledger, ground.clock.now()) {
            monitor.warn(None, failure.one_line(), failure.first_hint());
        }
        Ok(report)
    });
    noted(context, &Task::of(Job::Doctor), async {
        stop.run_until_cancelled(work).await.unwrap_or_else(|| Err(stopped()))
    })
    .await
}

/// Looks at the sources and places of these names only. That is no run, and nothing of it is remembered: what was not
/// looked at must not seem well.
pub async fn of_some(context: RunContext<'_>, names: &[String]) -> Result<Report> {
    let RunContext { stack, ground, stop, .. } = context;
    let known =
        |name: &String| name == REPOSITORY || stack.source(name).is_some() || stack.offsite(name).is_some();
    if let Some(stranger) = names.iter().find(|name| !known(name)) {
        let sources = stack.sources.iter().map(|source| source.name.as_str());
        let offsites = stack.offsites.iter().map(|offsite| offsite.name.as_str());
        let all: Vec<&str> = [REPOSITORY].into_iter().chain(offsites).chain(sources).collect();
        let what = format!("the policy has no source or place `{stranger}`");
        return Err(Failure::new(ExitCode::Usage, what).hint(format!("It has: {}.", all.join(", "))));
    }
    let ledger = context.ledger()?;
    let work = Looking { stack, ground, names, history: Some(&*ledger) }.look();
    stop.run_until_cancelled(Box::pin(work)).await.ok_or_else(stopped)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn finding(id: &str, status: Status, figure: Option<f64>) -> Finding {
        let law = laws().next().copied().unwrap();
        Finding { id: id.to_owned(), figure, ..law.found(status, "seen") }
    }

    #[test]
    fn only_what_is_broken_fails_and_what_is_down_comes_first() {
        let mut report = Report::default();
        for status in [Status::Ok, Status::Warn, Status::Unknown] {
            report.findings.push(finding("x.y", status, None));
        }
        assert_eq!(report.exit(), ExitCode::Ok);
        report.findings.push(finding("x.z", Status::Broken, None));
        assert_eq!(report.exit(), ExitCode::Failed);
        report.source_is_down = true;
        assert_eq!(report.exit(), ExitCode::SourceDown);
        report.store_is_down = true;
        assert_eq!(report.exit(), ExitCode::StoreDown);
        let outcome = report.outcome();
        assert_eq!(outcome.message.as_deref(), Some("x.z: seen"));
        assert!(outcome.hint.is_some());
    }

    #[test]
    fn each_clock_is_kept_under_the_name_of_its_thing() {
        let mut report = Report::default();
        assert_eq!(report.clock_skew_seconds(), BTreeMap::new());
        for (id, figure) in [
            ("repository.clock", Some(0.0)),
            ("offsite.oss.clock", Some(3.0)),
            ("source.mysql.clock", Some(-40.0)),
            ("source.redis.clock", None),
            ("source.redis.certificate", Some(90.0)),
            // One name for two things.
            ("offsite.minio.clock", Some(-7.0)),
            ("source.minio.clock", Some(2.0)),
        ] {
            report.findings.push(finding(id, Status::Ok, figure));
        }
        let expected = [("minio", -7.0), ("mysql", -40.0), ("oss", 3.0), ("repository", 0.0)];
        let expected = expected.map(|(name, seconds)| (name.to_owned(), seconds));
        assert_eq!(report.clock_skew_seconds(), BTreeMap::from(expected));
    }

    #[test]
    fn a_clock_that_is_not_seen_any_more_is_forgotten() {
        let catalog = Catalog::in_memory().unwrap();
        let seen = vec![finding("repository.clock", Status::Ok, Some(1.0))];
        for (findings, clocks) in [(seen, 1), (Vec::new(), 0)] {
            let report = Report { findings, ..Report::default() };
            report.remember(&catalog, DateTime::UNIX_EPOCH).unwrap();
            let (kept, _) = catalog.observed::<BTreeMap<String, f64>>(CLOCKS).unwrap().unwrap();
            assert_eq!(kept.len(), clocks);
        }
    }

    #[tokio::test]
    async fn a_folder_that_does_not_answer_is_given_up() {
        let (release, held) = std::sync::mpsc::channel::<()>();
        assert_eq!(ask_folder(Duration::ZERO, move || held.recv().is_ok()).await, None);
        // Only now does its thread end.
        release.send(()).unwrap();
        assert_eq!(ask_folder(FOLDER_LIMIT, || 7).await, Some(7));
    }

    #[test]
    fn what_was_found_is_remembered_and_read_again() {
        let catalog = Catalog::in_memory().unwrap();
        let mut report = Report {
            findings: vec![finding("offsite.oss.clock", Status::Warn, Some(6.0))],
            ..Report::default()
        };
        let room = Room { free_bytes: 7, total_bytes: 9, full_in_days: Some(3) };
        report.rooms.insert("oss".to_owned(), room.clone());
        report.stored_bytes.insert("oss".to_owned(), 2);
        report.remember(&catalog, DateTime::UNIX_EPOCH).unwrap();
        let at = DateTime::UNIX_EPOCH;
        assert_eq!(catalog.observed::<Vec<Finding>>(FINDINGS).unwrap(), Some((report.findings.clone(), at)));
        let clocks = BTreeMap::from([("oss".to_owned(), 6.0)]);
        assert_eq!(catalog.observed::<BTreeMap<String, f64>>(CLOCKS).unwrap(), Some((clocks, at)));
        assert_eq!(catalog.observed::<Room>("room.oss").unwrap(), Some((room, at)));
        let counts: Vec<_> =
            report.counts().into_iter().map(|one| (one.about, one.what, one.value)).collect();
        let expected = [("free_bytes", 7), ("stored_bytes", 2)];
        assert_eq!(counts, expected.map(|(what, value)| ("oss".to_owned(), what.to_owned(), value)));
    }

    #[test]
    fn no_two_laws_have_one_heading() {
        let mut seen = BTreeSet::new();
        for law in laws() {
            assert!(law.id.contains('.'), "{}", law.id);
            assert!(seen.insert((law.page, law.heading())), "{}", law.id);
        }
        assert!(seen.len() > 40);
    }
}
