//! When tasks were to run, and what became of it: so that what did not happen is known too.

use chrono::{DateTime, Utc};
use rusqlite::{OptionalExtension, Row, params};

use super::{Catalog, instant, runs::KEPT, text_of};
use crate::{error::Result, names::Task};

/// One time at which a task was to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// The task.
    pub task: Task,
    /// When it was to run.
    pub expected: DateTime<Utc>,
    /// What became of it.
    pub state: SlotState,
    /// Whether its run was made up for later, because nobody was there at the time.
    pub is_late: bool,
}

/// What became of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotState {
    /// It waits for its turn: chance puts it off a little, or a run of the same task is at work.
    Waiting,
    /// Its run is at work.
    Running,
    /// Its run did all it should, or all that it may while an incident forbids it.
    Done,
    /// Its run failed, also after the last try.
    Failed,
    /// Nothing ran: the service was not there.
    Missed,
    /// Nothing ran: the one before was still at work.
    Skipped,
}

impl SlotState {
    const ALL: [Self; 6] =
        [Self::Waiting, Self::Running, Self::Done, Self::Failed, Self::Missed, Self::Skipped];

    /// Returns the word for screens, documents and the catalog.
    pub fn word(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Running => "running",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Missed => "missed",
            Self::Skipped => "skipped",
        }
    }
}

impl Catalog {
    /// Notes what became of a slot; a new one is added.
    pub fn note_slot(&self, slot: &Slot, now: DateTime<Utc>) -> Result<()> {
        let noted = self.connection().execute(
            "INSERT INTO slots VALUES (?1, ?2, ?3, ?4, ?5, ?6)
             ON CONFLICT DO UPDATE SET state = ?4, is_late = ?5, changed = ?6",
            params![
                slot.task.job.word(),
                slot.task.place.as_deref().unwrap_or_default(),
                text_of(slot.expected),
                slot.state.word(),
                slot.is_late,
                text_of(now)
            ],
        );
        noted.map(drop).map_err(|error| self.trouble(error))
    }

    /// Returns the newest `limit` slots of a task, the newest first.
    pub fn slots(&self, task: &Task, limit: u32) -> Result<Vec<Slot>> {
        let connection = self.connection();
        let read = || {
            let mut query = connection.prepare_cached(
                "SELECT expected, state, is_late FROM slots WHERE verb = ?1 AND place = ?2
                 ORDER BY expected DESC LIMIT ?3",
            )?;
            let place = task.place.as_deref().unwrap_or_default();
            let rows = query.query_map(params![task.job.word(), place, limit], |row| slot_of(task, row))?;
            rows.collect::<rusqlite::Result<Vec<Slot>>>()
        };
        read().map_err(|error| self.trouble(error))
    }

    /// Returns the newest slot of a task that is not after `now`: a later one was noted by a clock that was wrong.
    pub fn newest_slot(&self, task: &Task, now: DateTime<Utc>) -> Result<Option<Slot>> {
        let connection = self.connection();
        let read = || {
            let mut query = connection.prepare_cached(
                "SELECT expected, state, is_late FROM slots WHERE verb = ?1 AND place = ?2 AND expected <= ?3
                 ORDER BY expected DESC LIMIT 1",
            )?;
            let place = task.place.as_deref().unwrap_or_default();
            let found =
                query.query_row(params![task.job.word(), place, text_of(now)], |row| slot_of(task, row));
            found.optional()
        };
        read().map_err(|error| self.trouble(error))
    }

    /// Forgets slots before `before`, but the newest of each task.
    pub fn forget_slots(&self, before: DateTime<Utc>) -> Result<()> {
        let delete = self.connection().execute(
            "DELETE FROM slots WHERE expected < ?1 AND (verb, place, expected) NOT IN (SELECT verb, place, expected
             FROM (SELECT *, row_number() OVER (PARTITION BY verb, place ORDER BY expected DESC) AS rank FROM slots)
             WHERE rank <= ?2)",
            params![text_of(before), KEPT],
        );
        delete.map(drop).map_err(|error| self.trouble(error))
    }
}

fn slot_of(task: &Task, row: &Row<'_>) -> rusqlite::Result<Slot> {
    let word: String = row.get(1)?;
    let state = SlotState::ALL.into_iter().find(|state| state.word() == word);
    let state = state.ok_or(rusqlite::Error::InvalidQuery)?;
    Ok(Slot { task: task.clone(), expected: instant(row, 0)?, state, is_late: row.get(2)? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::Job;

    #[test]
    fn a_slot_is_there_once_and_tells_what_became_of_it_last() {
        let catalog = Catalog::in_memory().unwrap();
        let (task, at) = (Task::at(Job::Sync, "oss"), DateTime::UNIX_EPOCH);
        let slot = |hours, state| Slot {
            task: task.clone(),
            expected: at + chrono::Duration::hours(hours),
            state,
            is_late: hours == 2,
        };
        for one in [slot(1, SlotState::Waiting), slot(2, SlotState::Missed), slot(1, SlotState::Done)] {
            catalog.note_slot(&one, at).unwrap();
        }
        assert_eq!(catalog.slots(&task, 9).unwrap(), [slot(2, SlotState::Missed), slot(1, SlotState::Done)]);
        assert_eq!(catalog.slots(&Task::of(Job::Sync), 9).unwrap(), []);
        let newest = |hours| catalog.newest_slot(&task, at + chrono::Duration::hours(hours)).unwrap();
        assert_eq!(newest(1), Some(slot(1, SlotState::Done)));
        assert_eq!(newest(0), None);
        for hours in 3..i64::from(KEPT) + 3 {
            catalog.note_slot(&slot(hours, SlotState::Done), at).unwrap();
        }
        catalog.forget_slots(at + chrono::Duration::days(9)).unwrap();
        assert_eq!(catalog.slots(&task, 99).unwrap().len(), KEPT as usize);
    }
}
