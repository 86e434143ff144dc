//! The incidents of a stack: what is wrong, since when, and what a person said to it.

use chrono::{DateTime, Utc};
use rusqlite::{Row, params};

use super::{Catalog, instant, maybe_instant, text_of};
use crate::{
    error::Result,
    status::{Condition, Incident, Kind, Urgency},
};

const COLUMNS: &str = "n, kind, about, urgency, what, hint, opened, reminders, told, resolved, acknowledged,
    muted_until, drill";

impl Catalog {
    /// Opens an incident; none when one of the same kind about the same thing is open: another process that looked
    /// was first.
    pub fn open_incident(&self, condition: &Condition, now: DateTime<Utc>) -> Result<Option<Incident>> {
        let incident = Incident {
            number: 0,
            condition: condition.clone(),
            opened: now,
            reminders: 0,
            told: now,
            resolved: None,
            acknowledged: None,
            muted_until: None,
        };
        let connection = self.connection();
        let insert = connection.execute(
            "INSERT OR IGNORE INTO incidents (kind, about, urgency, what, hint, opened, reminders, told, drill)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, 0, ?6, ?7)",
            params![
                condition.kind.word(),
                condition.about,
                condition.urgency.word(),
                condition.what,
                condition.hint,
                text_of(now),
                condition.drill
            ],
        );
        let is_new = insert.map_err(|error| self.trouble(error))? > 0;
        Ok(is_new.then(|| Incident { number: connection.last_insert_rowid(), ..incident }))
    }

    /// Writes an incident as it is now, unless it is over meanwhile; returns whether it was not. What a person said to
    /// it meanwhile stays, unless it was less urgent then or an older drill's, and for how long it is mute is
    /// [`Self::mute`]'s alone.
    pub fn note_incident(&self, incident: &Incident) -> Result<bool> {
        let update = self.connection().execute(
            "UPDATE incidents SET urgency = ?2, what = ?3, hint = ?4, reminders = ?5, told = ?6, resolved = ?7,
             drill = nullif(max(coalesce(?9, 0), coalesce(drill, 0)), 0),
             acknowledged = CASE
                 WHEN coalesce(?9, 0) > coalesce(drill, 0) THEN ?8
                 WHEN urgency = 'info' AND ?2 <> 'info' OR urgency = 'ticket' AND ?2 = 'page' THEN ?8
                 ELSE coalesce(acknowledged, ?8) END
             WHERE n = ?1 AND resolved IS NULL",
            params![
                incident.number,
                incident.urgency.word(),
                incident.what,
                incident.hint,
                incident.reminders,
                text_of(incident.told),
                incident.resolved.map(text_of),
                incident.acknowledged,
                incident.drill
            ],
        );
        update.map(|count| count > 0).map_err(|error| self.trouble(error))
    }

    /// Notes what a person said to an incident that is open.
    pub fn acknowledge(&self, number: i64, note: &str) -> Result<()> {
        let update = self.connection().execute(
            "UPDATE incidents SET acknowledged = ?2 WHERE n = ?1 AND resolved IS NULL",
            params![number, note],
        );
        update.map(drop).map_err(|error| self.trouble(error))
    }

    /// Notes until when nobody is reminded of an incident that is open.
    pub fn mute(&self, number: i64, until: DateTime<Utc>) -> Result<()> {
        let update = self.connection().execute(
            "UPDATE incidents SET muted_until = ?2 WHERE n = ?1 AND resolved IS NULL",
            params![number, text_of(until)],
        );
        update.map(drop).map_err(|error| self.trouble(error))
    }

    /// Returns what is open, the most urgent first, then the oldest.
    pub fn open_incidents(&self) -> Result<Vec<Incident>> {
        let mut open = self.some_incidents("resolved IS NULL ORDER BY n", params![])?;
        open.sort_by_key(|incident| std::cmp::Reverse(incident.urgency));
        Ok(open)
    }

    /// Returns what was over at `since` or later, the newest first.
    pub fn resolved_incidents(&self, since: DateTime<Utc>) -> Result<Vec<Incident>> {
        self.some_incidents("resolved >= ?1 ORDER BY resolved DESC, n DESC", params![text_of(since)])
    }

    /// Returns the incident of this number.
    pub fn incident(&self, number: i64) -> Result<Option<Incident>> {
        Ok(self.some_incidents("n = ?1", params![number])?.pop())
    }

    fn some_incidents(&self, condition: &str, values: &[&dyn rusqlite::ToSql]) -> Result<Vec<Incident>> {
        let connection = self.connection();
        let read = || {
            let query = format!("SELECT {COLUMNS} FROM incidents WHERE {condition}");
            let mut query = connection.prepare_cached(&query)?;
            let rows = query.query_map(values, incident_of)?;
            rows.collect::<rusqlite::Result<Vec<Incident>>>()
        };
        read().map_err(|error| self.trouble(error))
    }
}

fn incident_of(row: &Row<'_>) -> rusqlite::Result<Incident> {
    let word = |column| row.get::<_, String>(column);
    let strange = || rusqlite::Error::InvalidQuery;
    Ok(Incident {
        number: row.get(0)?,
        condition: Condition {
            kind: Kind::of(&word(1)?).ok_or_else(strange)?,
            about: word(2)?,
            urgency: Urgency::of(&word(3)?).ok_or_else(strange)?,
            what: word(4)?,
            hint: row.get(5)?,
            drill: row.get(12)?,
        },
        opened: instant(row, 6)?,
        reminders: row.get(7)?,
        told: instant(row, 8)?,
        resolved: maybe_instant(row, 9)?,
        acknowledged: row.get(10)?,
        muted_until: maybe_instant(row, 11)?,
    })
}

#[cfg(test)]
mod tests {
    use chrono::Duration;

    use super::*;

    fn condition(kind: Kind, urgency: Urgency) -> Condition {
        Condition {
            kind,
            about: "backup".into(),
            urgency,
            what: "it failed".into(),
            hint: Some("Look.".into()),
            drill: None,
        }
    }

    #[test]
    fn an_incident_comes_back_as_it_was_written() {
        let catalog = Catalog::in_memory().unwrap();
        let at = DateTime::UNIX_EPOCH;
        for kind in Kind::ALL {
            catalog.open_incident(&condition(kind, Urgency::Ticket), at).unwrap();
        }
        let page = condition(Kind::Failed, Urgency::Page);
        assert_eq!(catalog.open_incident(&page, at).unwrap(), None, "one of a kind is open at a time");
        let mut first = catalog.open_incidents().unwrap().remove(0);
        first.condition.urgency = Urgency::Page;
        first.condition.drill = Some(3);
        first.reminders = 3;
        first.told = at + Duration::hours(9);
        first.acknowledged = Some("on it".into());
        first.muted_until = Some(at + Duration::days(1));
        catalog.mute(first.number, at + Duration::days(1)).unwrap();
        catalog.note_incident(&first).unwrap();
        assert_eq!(catalog.incident(first.number).unwrap(), Some(first.clone()));
        first.resolved = Some(at + Duration::days(2));
        catalog.note_incident(&first).unwrap();
        assert_eq!(catalog.open_incidents().unwrap().len(), Kind::ALL.len() - 1);
        assert_eq!(catalog.resolved_incidents(at + Duration::days(1)).unwrap(), [first]);
        assert_eq!(catalog.resolved_incidents(at + Duration::days(3)).unwrap(), []);
        catalog.open_incident(&page, at).unwrap();
        assert_eq!(catalog.open_incidents().unwrap()[0].urgency, Urgency::Page);
    }

    #[test]
    fn who_looked_a_moment_ago_neither_unsays_what_a_person_said_nor_opens_what_is_over() {
        let catalog = Catalog::in_memory().unwrap();
        let at = DateTime::UNIX_EPOCH;
        let failed = condition(Kind::Failed, Urgency::Page);
        let stale = catalog.open_incident(&failed, at).unwrap().unwrap();
        catalog.acknowledge(stale.number, "on it").unwrap();
        let newer = Condition { drill: Some(1), ..failed.clone() };
        assert!(catalog.note_incident(&Incident { condition: newer, ..stale.clone() }).unwrap());
        assert_eq!(
            catalog.incident(stale.number).unwrap().unwrap().acknowledged,
            None,
            "a newer drill failed"
        );
        catalog.acknowledge(stale.number, "on it").unwrap();
        catalog.mute(stale.number, at + Duration::days(1)).unwrap();
        assert!(catalog.note_incident(&Incident { reminders: 1, ..stale.clone() }).unwrap());
        let now = catalog.incident(stale.number).unwrap().unwrap();
        assert_eq!((now.reminders, now.acknowledged.as_deref()), (1, Some("on it")));
        assert_eq!(now.muted_until, Some(at + Duration::days(1)));
        assert!(
            catalog.note_incident(&Incident { resolved: Some(at), reminders: 1, ..stale.clone() }).unwrap()
        );
        assert!(!catalog.note_incident(&Incident { reminders: 2, ..stale.clone() }).unwrap());
        catalog.acknowledge(stale.number, "too late").unwrap();
        let over = catalog.incident(stale.number).unwrap().unwrap();
        assert_eq!(
            (over.reminders, over.resolved, over.acknowledged.as_deref()),
            (1, Some(at), Some("on it"))
        );
    }
}
