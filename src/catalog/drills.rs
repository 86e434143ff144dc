//! What drills found: a row for each, with its whole report.
//!
//! A catalog that was lost knows of none, and none of those that other hosts made: their proofs are in the repository,
//! signed. Whoever reads them notes what they tell ([`Catalog::learn_drill`]), or the report where that can be opened.

use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use rusqlite::{Connection, OptionalExtension, Row, TransactionBehavior, params};

use super::{Catalog, instant, runs::KEPT, text_of};
use crate::{
    drill::{Outcome, Past, Report, SourceReport, TREND_MAX, Way},
    error::{Context, ExitCode, Result},
    names::{SnapshotId, SourceName},
};

/// One drill.
#[derive(Clone, Debug, PartialEq)]
pub struct Drilled {
    /// Its number in the catalog, in the order in which that learned of drills: not that in which they were made. None
    /// is given twice.
    pub number: i64,
    /// Its id.
    pub id: SnapshotId,
    /// How it restored.
    pub way: Way,
    /// Where the bytes came from: `repository`, or the name of an offsite.
    pub from: String,
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// When the drill began.
    pub began: DateTime<Utc>,
    /// When it ended.
    pub ended: DateTime<Utc>,
    /// What came of it.
    pub outcome: Outcome,
    /// Whether all that did not hold is that the restore was too slow.
    pub is_only_slow: bool,
    /// How long the restore of everything took.
    pub rto_seconds: Option<f64>,
    /// How long it may take.
    pub objective_seconds: Option<u64>,
    /// Assertions that held, that did not, and that could not be asked.
    pub assertions: [u64; 3],
    /// Plain bytes that were restored.
    pub size_bytes: u64,
    /// The sources that the snapshot has or should have, where that is known.
    pub covers: Option<Vec<SourceName>>,
    /// Where its report lies for people, if it does.
    pub files: Option<PathBuf>,
    /// What of it could not be recorded, if something.
    pub trouble: Option<String>,
}

impl Drilled {
    /// Returns what a later report's trend says of this drill.
    pub fn past(&self) -> Past {
        Past {
            id: self.id.clone(),
            snapshot: self.snapshot.clone(),
            ended: self.ended,
            outcome: self.outcome,
            rto_seconds: self.rto_seconds,
            size_bytes: self.size_bytes,
        }
    }
}

/// A failure that nothing has answered: no drill of the same way and place that ended later, of the same snapshot or a
/// newer one of the same sources at least, brought back what it lacked. What was only slow had brought back everything,
/// and may be slow still.
const UNANSWERED: &str = "outcome = 'failed' AND NOT is_settled AND NOT EXISTS (SELECT 1 FROM drills AS later
    WHERE later.way = drills.way AND later.place = drills.place AND later.snapshot >= drills.snapshot
    AND (later.snapshot = drills.snapshot OR drills.sources IS NOT NULL AND later.sources IS NOT NULL AND NOT EXISTS (
        SELECT value FROM json_each(drills.sources) EXCEPT SELECT value FROM json_each(later.sources)))
    AND (later.ended, later.n) > (drills.ended, drills.n)
    AND (later.outcome = 'passed' OR later.is_only_slow AND NOT drills.is_only_slow))";

const COLUMNS: &str = "n, id, way, place, snapshot, began, ended, outcome, is_only_slow, rto_seconds, \
    objective_seconds, held, failed, unasked, size_bytes, files, trouble, sources";

impl Catalog {
    /// Notes what a drill found, and where its report lies for people. One that is known already is replaced.
    pub fn note_drill(&self, report: &Report, files: Option<&Path>) -> Result<()> {
        let body = serde_json::to_string(report)
            .failed(ExitCode::Failed, || format!("the report of drill `{}` cannot be written", report.id))?;
        let [held, failed, unasked] = report.counts();
        let noted = self.connection().execute(
            "INSERT INTO drills (id, way, place, snapshot, began, ended, outcome, is_only_slow, rto_seconds,
                 objective_seconds, held, failed, unasked, size_bytes, files, report, sources)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17)
             ON CONFLICT (id) DO UPDATE SET way = ?2, place = ?3, snapshot = ?4, began = ?5, ended = ?6,
                 outcome = ?7, is_only_slow = ?8, rto_seconds = ?9, objective_seconds = ?10, held = ?11,
                 failed = ?12, unasked = ?13, size_bytes = ?14, files = ?15, report = ?16,
                 sources = ?17",
            params![
                report.id.as_str(),
                report.way.word(),
                report.from,
                report.snapshot.as_str(),
                text_of(report.began),
                text_of(report.ended),
                report.outcome.word(),
                report.is_only_slow(),
                report.rto_seconds,
                report.objective_seconds,
                held,
                failed,
                unasked,
                report.size_bytes(),
                files.map(|path| path.to_string_lossy()),
                body,
                report.covers.as_deref().map(names)
            ],
        );
        noted.map(drop).map_err(|error| self.trouble(error))
    }

    /// Notes a drill of which only the proof is known, unless more of it is known already. Returns whether it was new.
    pub fn learn_drill(&self, drill: &Drilled) -> Result<bool> {
        learn(&self.connection(), drill).map_err(|error| self.trouble(error))
    }

    /// As [`Self::learn_drill`] for many, and forgets those that ended before `before` as [`Self::forget_drills`] does.
    /// Whoever looks meanwhile sees all of it or nothing: a failure without its answer is no failure.
    pub fn learn_drills(&self, drills: &[Drilled], before: DateTime<Utc>) -> Result<()> {
        let mut connection = self.connection();
        let mut work = || {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            for drill in drills {
                learn(&transaction, drill)?;
            }
            forget(&transaction, before)?;
            transaction.commit()
        };
        work().map_err(|error| self.trouble(error))
    }

    /// Notes what of a drill could not be recorded, if something.
    pub fn note_drill_trouble(&self, id: &SnapshotId, trouble: Option<&str>) -> Result<()> {
        let update = "UPDATE drills SET trouble = ?2 WHERE id = ?1";
        let noted = self.connection().execute(update, params![id.as_str(), trouble]);
        noted.map(drop).map_err(|error| self.trouble(error))
    }

    /// Returns the newest `limit` drills of a way, the newest first.
    pub fn drills(&self, way: Way, limit: u32) -> Result<Vec<Drilled>> {
        self.some_drills("way = ?2", params![limit, way.word()])
    }

    /// Returns the newest drill of a way, however it ended.
    pub fn last_drill(&self, way: Way) -> Result<Option<Drilled>> {
        Ok(self.drills(way, 1)?.pop())
    }

    /// Returns the newest drill of a way that brought everything back, if only too slowly.
    pub fn last_whole_drill(&self, way: Way) -> Result<Option<Drilled>> {
        let whole = "way = ?2 AND (outcome = ?3 OR is_only_slow)";
        Ok(self.some_drills(whole, params![1, way.word(), Outcome::Passed.word()])?.pop())
    }

    /// Returns the newest drill of a way that could tell, of those whose report is here: one that could not run mended
    /// nothing and broke nothing.
    pub fn last_told_drill(&self, way: Way) -> Result<Option<Drilled>> {
        let told = "way = ?2 AND outcome <> ?3 AND report <> ''";
        Ok(self.some_drills(told, params![1, way.word(), Outcome::CouldNotRun.word()])?.pop())
    }

    /// Returns the drills of a way whose failure still holds, the newest first. One is answered by a later drill of the
    /// same way and place that passed, of the same snapshot or a newer one with the same sources at least: what comes
    /// from elsewhere, was older, or has others says nothing about it. Where the sources are not known only the very
    /// same snapshot counts.
    pub fn unanswered_drills(&self, way: Way) -> Result<Vec<Drilled>> {
        self.some_drills(&format!("way = ?2 AND {UNANSWERED}"), params![u32::MAX, way.word()])
    }

    /// Notes that a person's word ends the failure of a drill: no later drill can answer it.
    pub fn settle_drill(&self, drill: &Drilled) -> Result<()> {
        let update = "UPDATE drills SET is_settled = 1 WHERE n = ?1";
        let noted = self.connection().execute(update, params![drill.number]);
        noted.map(drop).map_err(|error| self.trouble(error))
    }

    /// Returns what the next report's trend begins with, the oldest first.
    pub fn drill_trend(&self, way: Way) -> Result<Vec<Past>> {
        let newest = self.drills(way, u32::try_from(TREND_MAX).unwrap_or(u32::MAX))?;
        Ok(newest.iter().rev().map(Drilled::past).collect())
    }

    /// Returns the report of a drill. What cannot be read was written by another version and counts as not there.
    pub fn drill_report(&self, id: &SnapshotId) -> Result<Option<Report>> {
        let connection = self.connection();
        let read = || {
            let mut query = connection.prepare_cached("SELECT report FROM drills WHERE id = ?1")?;
            query.query_row(params![id.as_str()], |row| row.get::<_, String>(0)).optional()
        };
        let body = read().map_err(|error| self.trouble(error))?;
        Ok(body.and_then(|body| serde_json::from_str(&body).ok()))
    }

    /// Returns the sources of the newest `limit` drills that brought everything back from this place, if only too
    /// slowly, the newest first: they tell how long a real restore from there takes.
    pub fn drilled_sources(&self, from: &str, limit: u32) -> Result<Vec<SourceReport>> {
        let passed = self.some_drills(
            "way = ?2 AND place = ?3 AND (outcome = ?4 OR is_only_slow) AND report <> ''",
            params![limit, Way::Restore.word(), from, Outcome::Passed.word()],
        )?;
        let mut sources = Vec::new();
        for one in passed {
            sources.extend(self.drill_report(&one.id)?.into_iter().flat_map(|report| report.sources));
        }
        Ok(sources)
    }

    /// Forgets drills that ended before `before`, but the newest of each way, those whose failure still holds, and
    /// those whose failure a person has ended: their proofs would tell it anew.
    pub fn forget_drills(&self, before: DateTime<Utc>) -> Result<()> {
        forget(&self.connection(), before).map_err(|error| self.trouble(error))
    }

    fn some_drills(&self, condition: &str, values: &[&dyn rusqlite::ToSql]) -> Result<Vec<Drilled>> {
        let connection = self.connection();
        let read = || {
            let query = format!(
                "SELECT {COLUMNS} FROM drills WHERE {condition} ORDER BY ended DESC, n DESC LIMIT ?1"
            );
            let mut query = connection.prepare_cached(&query)?;
            query.query_map(values, drilled_of)?.collect::<rusqlite::Result<Vec<Drilled>>>()
        };
        read().map_err(|error| self.trouble(error))
    }
}

/// Writes names of sources as a list that `SQLite` can read.
fn names(sources: &[SourceName]) -> String {
    sources.iter().map(SourceName::as_str).collect::<serde_json::Value>().to_string()
}

fn learn(connection: &Connection, drill: &Drilled) -> rusqlite::Result<bool> {
    let [held, failed, unasked] = drill.assertions;
    let noted = connection.execute(
        "INSERT OR IGNORE INTO drills (id, way, place, snapshot, began, ended, outcome, is_only_slow, rto_seconds,
             objective_seconds, held, failed, unasked, size_bytes, files, trouble, report, sources)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, NULL, NULL, '', ?15)",
        params![
            drill.id.as_str(),
            drill.way.word(),
            drill.from,
            drill.snapshot.as_str(),
            text_of(drill.began),
            text_of(drill.ended),
            drill.outcome.word(),
            drill.is_only_slow,
            drill.rto_seconds,
            drill.objective_seconds,
            held,
            failed,
            unasked,
            drill.size_bytes,
            drill.covers.as_deref().map(names),
        ],
    );
    noted.map(|count| count > 0)
}

fn forget(connection: &Connection, before: DateTime<Utc>) -> rusqlite::Result<()> {
    let delete = format!(
        "DELETE FROM drills WHERE ended < ?1 AND NOT is_settled AND n NOT IN (SELECT n FROM
         (SELECT n, row_number() OVER (PARTITION BY way ORDER BY ended DESC, n DESC) AS rank FROM drills)
         WHERE rank <= ?2) AND n NOT IN (SELECT n FROM drills WHERE {UNANSWERED})"
    );
    connection.execute(&delete, params![text_of(before), KEPT]).map(drop)
}

fn drilled_of(row: &Row<'_>) -> rusqlite::Result<Drilled> {
    let word = |column| row.get::<_, String>(column);
    let strange = || rusqlite::Error::InvalidQuery;
    let id = |column| SnapshotId::new(&word(column)?).map_err(|_| strange());
    let (way, outcome) = (word(2)?, word(7)?);
    Ok(Drilled {
        number: row.get(0)?,
        id: id(1)?,
        way: Way::ALL.into_iter().find(|one| one.word() == way).ok_or_else(strange)?,
        from: word(3)?,
        snapshot: id(4)?,
        began: instant(row, 5)?,
        ended: instant(row, 6)?,
        outcome: Outcome::ALL.into_iter().find(|one| one.word() == outcome).ok_or_else(strange)?,
        is_only_slow: row.get(8)?,
        rto_seconds: row.get(9)?,
        objective_seconds: row.get(10)?,
        assertions: [row.get(11)?, row.get(12)?, row.get(13)?],
        size_bytes: row.get(14)?,
        files: row.get::<_, Option<String>>(15)?.map(PathBuf::from),
        trouble: row.get(16)?,
        covers: row
            .get::<_, Option<String>>(17)?
            .map(|names| serde_json::from_str(&names))
            .transpose()
            .map_err(|_| strange())?,
    })
}

#[cfg(test)]
mod tests {
    use chrono::Duration;

    use super::*;
    use crate::drill::{
        Assertion, Question, Trouble,
        tests::{report, restored},
    };

    fn at(hours: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + Duration::hours(hours)
    }

    fn trouble() -> Trouble {
        Trouble { what: "the lab did not start".to_owned(), hints: Vec::new() }
    }

    #[test]
    fn a_drill_is_there_once_as_it_was_noted_last_and_with_its_whole_report() {
        let catalog = Catalog::in_memory().unwrap();
        let held = Assertion::held(Question::Contents, "contents", "all of it");
        let failed = Assertion::failed(Question::Reference, "files", "a row lacks its object");
        let first = report(Way::Restore, at(1), vec![held.clone(), failed], None);
        catalog.note_drill(&first, None).unwrap();
        catalog.note_drill(&first, Some(Path::new("/reports/a.html"))).unwrap();
        catalog.note_drill_trouble(&first.id, Some("no proof")).unwrap();
        let by_hand = report(Way::ByHand, at(2), vec![held], None);
        catalog.note_drill(&by_hand, None).unwrap();
        let noted = catalog.drills(Way::Restore, 9).unwrap();
        assert_eq!(noted.len(), 1);
        let (one, past) = (&noted[0], first.past());
        assert_eq!((one.past(), one.assertions, one.outcome), (past, [1, 1, 0], Outcome::Failed));
        assert_eq!((&*one.from, one.began, one.objective_seconds), ("repository", at(1), Some(3600)));
        assert_eq!(one.files.as_deref(), Some(Path::new("/reports/a.html")));
        assert_eq!(one.trouble.as_deref(), Some("no proof"));
        assert_eq!(catalog.drill_report(&first.id).unwrap(), Some(first));
        assert_eq!(catalog.last_drill(Way::ByHand).unwrap().map(|one| one.id), Some(by_hand.id));
        assert_eq!(catalog.drill_report(&SnapshotId::at(at(9), 9)).unwrap(), None);
    }

    #[test]
    fn a_drill_that_could_not_run_does_not_hide_the_one_that_could_tell() {
        let catalog = Catalog::in_memory().unwrap();
        let slow = Assertion::failed(Question::Objective, "rto", "61 min of 60");
        let held = Assertion::held(Question::Contents, "contents", "all of it");
        let first = report(Way::Restore, at(1), vec![held, slow], None);
        let second = report(Way::Restore, at(2), Vec::new(), Some(trouble()));
        assert_eq!(catalog.last_told_drill(Way::Restore).unwrap(), None);
        catalog.note_drill(&first, None).unwrap();
        catalog.note_drill(&second, None).unwrap();
        assert_eq!(catalog.last_drill(Way::Restore).unwrap().unwrap().outcome, Outcome::CouldNotRun);
        let told = catalog.last_told_drill(Way::Restore).unwrap().unwrap();
        assert_eq!((told.id, told.is_only_slow), (first.id.clone(), true));
        assert_eq!(catalog.drill_trend(Way::Restore).unwrap(), [first.past(), second.past()]);
    }

    #[test]
    fn a_failure_is_answered_by_a_later_pass_of_its_way_and_place_and_of_no_older_snapshot() {
        let held = || Assertion::held(Question::Contents, "contents", "all of it");
        let lost = || Assertion::failed(Question::Contents, "contents", "a row is gone");
        let slow = || Assertion::failed(Question::Objective, "rto", "61 min of 60");
        let made = |hours, from: &str, day: i64, assertion| Report {
            from: from.to_owned(),
            snapshot: SnapshotId::at(at(24 * day), 7),
            ..report(Way::Restore, at(hours), vec![held(), assertion], None)
        };
        let covering = |names: &[&str]| {
            let covers = names.iter().map(|name| SourceName::new(name).unwrap()).collect();
            Report { covers: Some(covers), ..made(8, "oss", 6, held()) }
        };
        let by_hand = report(Way::ByHand, at(99), vec![held()], None);
        let by_hand = Report { snapshot: SnapshotId::at(at(24 * 9), 7), ..by_hand };
        for (what, later, stands) in [
            ("the same snapshot", made(8, "oss", 5, held()), false),
            ("a newer one", made(8, "oss", 6, held()), false),
            ("an older one", made(8, "oss", 4, held()), true),
            ("another place", made(8, "repository", 6, held()), true),
            ("one with more sources", covering(&["files", "mysql"]), false),
            ("another shard", covering(&["files", "redis"]), true),
            ("one of which nobody knows", Report { covers: None, ..made(8, "oss", 6, held()) }, true),
            ("the same, of which nobody knows", Report { covers: None, ..made(8, "oss", 5, held()) }, false),
            ("another way", by_hand, true),
            ("a drill before", made(6, "oss", 6, held()), true),
            ("one that was slow, and brought it back", made(8, "oss", 5, slow()), false),
        ] {
            let catalog = Catalog::in_memory().unwrap();
            let failed = made(7, "oss", 5, lost());
            catalog.note_drill(&failed, None).unwrap();
            catalog.note_drill(&later, None).unwrap();
            let unanswered = catalog.unanswered_drills(Way::Restore).unwrap();
            assert_eq!(unanswered.iter().any(|one| one.id == failed.id), stands, "{what}");
        }
        let catalog = Catalog::in_memory().unwrap();
        catalog.note_drill(&made(1, "oss", 5, slow()), None).unwrap();
        catalog.note_drill(&made(2, "oss", 5, slow()), None).unwrap();
        assert_eq!(catalog.unanswered_drills(Way::Restore).unwrap().len(), 2, "slow is no answer to slow");
    }

    #[test]
    fn a_drill_that_is_learned_from_its_proof_counts_and_hides_no_report() {
        let catalog = Catalog::in_memory().unwrap();
        let lost = Assertion::failed(Question::Contents, "contents", "a row is gone");
        let own = report(Way::Restore, at(5), vec![lost.clone()], None);
        catalog.note_drill(&own, None).unwrap();
        let noted = catalog.last_drill(Way::Restore).unwrap().unwrap();
        assert!(!catalog.learn_drill(&Drilled { size_bytes: 0, ..noted.clone() }).unwrap());
        assert_eq!(catalog.last_drill(Way::Restore).unwrap(), Some(noted.clone()));
        let other =
            Drilled { id: SnapshotId::at(at(9), 9), ended: at(9), from: "oss".to_owned(), ..noted.clone() };
        assert!(catalog.learn_drill(&other).unwrap());
        let learned = catalog.last_drill(Way::Restore).unwrap().unwrap();
        assert!(learned.number > noted.number);
        assert_eq!(learned, Drilled { number: learned.number, ..other });
        assert_eq!(catalog.drill_report(&learned.id).unwrap(), None);
        assert_eq!(catalog.last_told_drill(Way::Restore).unwrap(), Some(noted), "it has the report");
        assert_eq!(catalog.unanswered_drills(Way::Restore).unwrap().len(), 2);
        // What was found is written down after its proof lies there.
        let whole = report(Way::Restore, at(9), vec![lost], None);
        catalog.note_drill(&Report { id: learned.id.clone(), ..whole }, None).unwrap();
        assert_eq!(catalog.last_told_drill(Way::Restore).unwrap().unwrap().number, learned.number);
    }

    #[test]
    fn a_failure_that_holds_is_not_forgotten_however_old_it_is() {
        let catalog = Catalog::in_memory().unwrap();
        let lost = Assertion::failed(Question::Contents, "contents", "a row is gone");
        let failed = report(Way::Restore, at(0), vec![lost], None);
        catalog.note_drill(&Report { from: "oss".to_owned(), ..failed.clone() }, None).unwrap();
        for hours in 1..i64::from(KEPT) + 4 {
            let held = Assertion::held(Question::Contents, "contents", "all of it");
            catalog.note_drill(&report(Way::Restore, at(hours), vec![held], None), None).unwrap();
        }
        catalog.forget_drills(at(999)).unwrap();
        let all = catalog.drills(Way::Restore, 99).unwrap();
        assert_eq!((all.len(), &all[all.len() - 1].id), (KEPT as usize + 1, &failed.id));
        // Nor is what a person has ended, or its proof would tell it anew.
        let failed = all[all.len() - 1].clone();
        catalog.settle_drill(&failed).unwrap();
        catalog.forget_drills(at(999)).unwrap();
        assert!(!catalog.learn_drill(&failed).unwrap());
        assert_eq!(catalog.unanswered_drills(Way::Restore).unwrap(), []);
    }

    #[test]
    fn what_is_learned_from_proofs_is_seen_with_its_answer_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Catalog::open(&dir.path().join("catalog.sqlite")).unwrap().0;
        let (catalog, other) = (open(), open());
        let lost = Assertion::failed(Question::Contents, "contents", "a row is gone");
        let held = Assertion::held(Question::Contents, "contents", "all of it");
        catalog.note_drill(&report(Way::Restore, at(1), vec![lost], None), None).unwrap();
        catalog.note_drill(&report(Way::Restore, at(2), vec![held], None), None).unwrap();
        let mut all = catalog.drills(Way::Restore, 9).unwrap();
        all.reverse();
        catalog.connection().execute("DELETE FROM drills", []).unwrap();
        // The second cannot be written: then the first is not there either.
        let refuse = "CREATE TRIGGER refuse BEFORE INSERT ON drills WHEN new.outcome = 'passed'
            BEGIN SELECT RAISE(ABORT, 'no'); END";
        catalog.connection().execute_batch(refuse).unwrap();
        catalog.learn_drills(&all, at(0)).unwrap_err();
        assert_eq!(other.drills(Way::Restore, 9).unwrap(), []);
        catalog.connection().execute_batch("DROP TRIGGER refuse").unwrap();
        catalog.learn_drills(&all, at(0)).unwrap();
        assert_eq!(other.drills(Way::Restore, 9).unwrap().len(), 2);
        assert_eq!(other.unanswered_drills(Way::Restore).unwrap(), []);
    }

    #[test]
    fn the_number_of_a_drill_that_was_forgotten_is_not_given_again() {
        let catalog = Catalog::in_memory().unwrap();
        let note = |hours| {
            catalog.note_drill(&report(Way::Restore, at(hours), Vec::new(), None), None).unwrap();
            catalog.last_drill(Way::Restore).unwrap().unwrap().number
        };
        let first = note(1);
        catalog.connection().execute("DELETE FROM drills", []).unwrap();
        assert!(note(2) > first);
    }

    #[test]
    fn only_what_came_back_from_the_same_place_tells_how_fast_a_restore_is() {
        let catalog = Catalog::in_memory().unwrap();
        let held = || vec![Assertion::held(Question::Contents, "contents", "all of it")];
        let slow = || Assertion::failed(Question::Objective, "rto", "61 min of 60");
        let note = |hours, from: &str, assertions, seconds| {
            let sources = vec![restored("mysql", 1000, seconds)];
            let one = report(Way::Restore, at(hours), assertions, None);
            catalog.note_drill(&Report { from: from.to_owned(), sources, ..one }, None).unwrap();
        };
        note(1, "repository", held(), 1.0);
        note(2, "repository", Vec::new(), 2.0);
        note(3, "oss", held(), 3.0);
        note(5, "nas", [held(), vec![slow()]].concat(), 7.0);
        note(4, "repository", held(), 4.0);
        let seconds = |from, limit| {
            let sources = catalog.drilled_sources(from, limit).unwrap();
            sources.into_iter().map(|one| one.seconds).collect::<Vec<_>>()
        };
        assert_eq!(seconds("repository", 5), [4.0, 1.0]);
        assert_eq!(seconds("repository", 1), [4.0]);
        assert_eq!(seconds("oss", 5), [3.0]);
        assert_eq!(seconds("nas", 5), [7.0], "what was too slow is how slow it is");
        assert_eq!(seconds("far", 5), [0.0; 0]);
    }

    #[test]
    fn old_drills_are_forgotten_but_the_newest_of_each_way_stay() {
        let catalog = Catalog::in_memory().unwrap();
        catalog.note_drill(&report(Way::ByHand, at(0), Vec::new(), None), None).unwrap();
        for hours in 0..i64::from(KEPT) + 4 {
            catalog.note_drill(&report(Way::Restore, at(hours), Vec::new(), None), None).unwrap();
        }
        catalog.forget_drills(at(2)).unwrap();
        assert_eq!(catalog.drills(Way::Restore, 99).unwrap().len(), KEPT as usize + 2);
        catalog.forget_drills(at(999)).unwrap();
        assert_eq!(catalog.drills(Way::Restore, 99).unwrap().len(), KEPT as usize);
        assert_eq!(catalog.drills(Way::ByHand, 99).unwrap().len(), 1);
    }
}
