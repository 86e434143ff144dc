//! Messages that are to reach people: written before anybody tries to send them, so no crash and no cancelled job
//! swallows one.

use chrono::{DateTime, Duration, Utc};
use rusqlite::{OptionalExtension, params};

use super::{Catalog, text_of};
use crate::error::Result;

/// How far ahead a message is tried again. What lies further ahead was written by a clock that was ahead, and counts as
/// due.
const RETRY_AHEAD_MAX: Duration = Duration::hours(1);

/// A message on its way to one channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    /// The message's number.
    pub message: i64,
    /// The channel's name in the policy.
    pub channel: String,
    /// What is to be sent, as the sender wrote it.
    pub body: String,
    /// How often it was tried.
    pub tries: u32,
}

/// How one try to deliver a message ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// It was taken.
    Sent,
    /// It was not taken; it is tried again then.
    Again {
        /// When.
        not_before: DateTime<Utc>,
        /// Why.
        error: String,
    },
    /// It was not taken, and is not tried again.
    GaveUp {
        /// Why.
        error: String,
    },
}

impl Catalog {
    /// Adds a message for these channels, each with the instant before which it must not be sent.
    pub fn add_message(
        &self,
        body: &str,
        channels: &[(String, DateTime<Utc>)],
        now: DateTime<Utc>,
    ) -> Result<i64> {
        let mut connection = self.connection();
        let mut write = || -> rusqlite::Result<i64> {
            let work = connection.transaction()?;
            work.execute("INSERT INTO messages (at, body) VALUES (?1, ?2)", params![text_of(now), body])?;
            let message = work.last_insert_rowid();
            for (channel, not_before) in channels {
                let add = "INSERT INTO deliveries VALUES (?1, ?2, ?3, 0, NULL, NULL, NULL)";
                work.execute(add, params![message, channel, text_of(*not_before)])?;
            }
            work.commit()?;
            Ok(message)
        };
        write().map_err(|error| self.trouble(error))
    }

    /// Sends a message to another channel too; nothing happens where it is on its way already.
    pub fn add_delivery(&self, message: i64, channel: &str, not_before: DateTime<Utc>) -> Result<()> {
        let add = "INSERT OR IGNORE INTO deliveries VALUES (?1, ?2, ?3, 0, NULL, NULL, NULL)";
        let added = self.connection().execute(add, params![message, channel, text_of(not_before)]);
        added.map(drop).map_err(|error| self.trouble(error))
    }

    /// Returns what is to be sent now, the oldest message first.
    pub fn due_messages(&self, now: DateTime<Utc>) -> Result<Vec<Due>> {
        let connection = self.connection();
        let read = || {
            let mut query = connection.prepare_cached(
                "SELECT message, channel, body, tries FROM deliveries JOIN messages ON n = message
                 WHERE sent IS NULL AND gave_up IS NULL AND (not_before <= ?1 OR (tries > 0 AND not_before > ?2))
                 ORDER BY message, channel",
            )?;
            let rows = query.query_map(params![text_of(now), text_of(now + RETRY_AHEAD_MAX)], |row| {
                Ok(Due { message: row.get(0)?, channel: row.get(1)?, body: row.get(2)?, tries: row.get(3)? })
            })?;
            rows.collect::<rusqlite::Result<Vec<Due>>>()
        };
        read().map_err(|error| self.trouble(error))
    }

    /// Returns until when a channel waits because it refused a message, and what it said then.
    pub fn channel_waits(
        &self,
        channel: &str,
        now: DateTime<Utc>,
    ) -> Result<Option<(DateTime<Utc>, String)>> {
        let connection = self.connection();
        let read = || {
            let mut query = connection.prepare_cached(
                "SELECT not_before, coalesce(error, '') FROM deliveries WHERE channel = ?1 AND tries > 0
                 AND sent IS NULL AND gave_up IS NULL AND not_before > ?2 AND not_before <= ?3
                 ORDER BY not_before LIMIT 1",
            )?;
            let latest = text_of(now + RETRY_AHEAD_MAX);
            let found = query.query_row(params![channel, text_of(now), latest], |row| {
                Ok((super::maybe_instant(row, 0)?, row.get::<_, String>(1)?))
            });
            found.optional()
        };
        let found = read().map_err(|error| self.trouble(error))?;
        Ok(found.and_then(|(until, error)| Some((until?, error))))
    }

    /// Returns the channels that refused a message and have not taken it since.
    pub fn refused_by(&self, message: i64) -> Result<Vec<String>> {
        let connection = self.connection();
        let read = || {
            let mut query = connection.prepare_cached(
                "SELECT channel FROM deliveries WHERE message = ?1 AND sent IS NULL AND error IS NOT NULL
                 ORDER BY channel",
            )?;
            let rows = query.query_map(params![message], |row| row.get(0))?;
            rows.collect::<rusqlite::Result<Vec<String>>>()
        };
        read().map_err(|error| self.trouble(error))
    }

    /// Notes how a try ended.
    pub fn note_delivery(&self, due: &Due, how: &Delivery, now: DateTime<Utc>) -> Result<()> {
        let (sent, gave_up, not_before, error) = match how {
            Delivery::Sent => (Some(text_of(now)), None, None, None),
            Delivery::Again { not_before, error } => (None, None, Some(text_of(*not_before)), Some(error)),
            Delivery::GaveUp { error } => (None, Some(text_of(now)), None, Some(error)),
        };
        let update = self.connection().execute(
            "UPDATE deliveries SET tries = ?7, sent = ?3, gave_up = ?4,
             not_before = coalesce(?5, not_before), error = ?6 WHERE message = ?1 AND channel = ?2",
            params![due.message, due.channel, sent, gave_up, not_before, error, due.tries + 1],
        );
        update.map(drop).map_err(|error| self.trouble(error))
    }

    /// Returns when a channel last took a message.
    pub fn last_sent(&self, channel: &str) -> Result<Option<DateTime<Utc>>> {
        self.delivery_time("SELECT max(sent) FROM deliveries WHERE channel = ?1", channel)
    }

    /// Notes that a channel took a message that is not in the ledger: somebody tried it out.
    pub fn note_reached(&self, channel: &str, now: DateTime<Utc>) -> Result<()> {
        self.observe(&reached(channel), &true, now)
    }

    /// Returns what a channel said when it was given up on for a message, if it took none since, not even a trial.
    pub fn last_refusal(&self, channel: &str) -> Result<Option<String>> {
        let connection = self.connection();
        let read = || {
            let mut query = connection.prepare_cached(
                "SELECT error FROM deliveries WHERE channel = ?1 AND (sent IS NOT NULL OR gave_up IS NOT NULL)
                 AND coalesce(sent, gave_up) > coalesce((SELECT at FROM observations WHERE key = ?2), '')
                 ORDER BY coalesce(sent, gave_up) DESC, sent IS NULL LIMIT 1",
            )?;
            let found =
                query.query_row(params![channel, reached(channel)], |row| row.get::<_, Option<String>>(0));
            found.optional()
        };
        Ok(read().map_err(|error| self.trouble(error))?.flatten())
    }

    /// Forgets messages that were written before `before` and are not on their way any more.
    pub fn forget_messages(&self, before: DateTime<Utc>) -> Result<()> {
        let delete = self.connection().execute(
            "DELETE FROM messages WHERE at < ?1 AND n NOT IN
             (SELECT message FROM deliveries WHERE sent IS NULL AND gave_up IS NULL)",
            params![text_of(before)],
        );
        delete.map(drop).map_err(|error| self.trouble(error))
    }

    fn delivery_time(&self, query: &str, channel: &str) -> Result<Option<DateTime<Utc>>> {
        let connection = self.connection();
        let read = || {
            let mut query = connection.prepare_cached(query)?;
            query.query_row(params![channel], |row| super::maybe_instant(row, 0))
        };
        read().map_err(|error| self.trouble(error))
    }
}

/// Returns the name of the observation that a channel was reached by a trial.
fn reached(channel: &str) -> String {
    format!("channel {channel} reached")
}

#[cfg(test)]
impl Catalog {
    /// Makes every write fail, as on a disk that is full, or none any more.
    pub(crate) fn refuse_writes(&self, refuses: bool) {
        self.connection().pragma_update(None, "query_only", refuses).unwrap();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(message: i64, channel: &str) -> Due {
        Due { message, channel: channel.to_owned(), body: "{}".to_owned(), tries: 0 }
    }

    #[test]
    fn a_retry_that_a_clock_put_far_ahead_is_due_and_holds_nothing_up() {
        let catalog = Catalog::in_memory().unwrap();
        let at = |minutes| DateTime::UNIX_EPOCH + Duration::minutes(minutes);
        let message = catalog.add_message("{}", &[("duty".to_owned(), at(600))], at(0)).unwrap();
        let count = |minutes| catalog.due_messages(at(minutes)).unwrap().len();
        assert_eq!(count(0), 0, "quiet hours may be long");
        let again = Delivery::Again { not_before: at(6000), error: "HTTP 502".into() };
        catalog.note_delivery(&due(message, "duty"), &again, at(5999)).unwrap();
        assert_eq!((count(5939), count(5940), count(6000)), (1, 0, 1));
        let waits = |minutes| catalog.channel_waits("duty", at(minutes)).unwrap().is_some();
        assert_eq!((waits(5939), waits(5940), waits(6000)), (false, true, false));
    }

    #[test]
    fn a_refusal_counts_until_the_channel_takes_a_message_or_a_trial() {
        let catalog = Catalog::in_memory().unwrap();
        let at = |minutes| DateTime::UNIX_EPOCH + Duration::minutes(minutes);
        let refusal = || catalog.last_refusal("spare").unwrap();
        let end = |how: &Delivery, minutes| {
            let message = catalog.add_message("{}", &[("spare".to_owned(), at(0))], at(0)).unwrap();
            catalog.note_delivery(&due(message, "spare"), how, at(minutes)).unwrap();
        };
        let gave_up = Delivery::GaveUp { error: "no_service".into() };
        end(&gave_up, 1);
        catalog.note_reached("chat", at(2)).unwrap();
        assert_eq!(refusal().as_deref(), Some("no_service"));
        catalog.note_reached("spare", at(2)).unwrap();
        assert_eq!(refusal(), None);
        end(&gave_up, 3);
        assert!(refusal().is_some(), "it is in trouble again");
        end(&Delivery::Sent, 3);
        assert_eq!(refusal(), None);
    }

    #[test]
    fn a_message_is_due_until_each_channel_took_it_or_gave_up() {
        let catalog = Catalog::in_memory().unwrap();
        let at = |minutes| DateTime::UNIX_EPOCH + Duration::minutes(minutes);
        let channels = [("duty".to_owned(), at(0)), ("mail".to_owned(), at(10))];
        let message = catalog.add_message("{}", &channels, at(0)).unwrap();
        let waiting = |minutes| -> Vec<String> {
            catalog.due_messages(at(minutes)).unwrap().into_iter().map(|one| one.channel).collect()
        };
        assert_eq!(waiting(9), ["duty"]);
        assert_eq!(waiting(10), ["duty", "mail"]);
        let again = Delivery::Again { not_before: at(20), error: "errcode 310000".into() };
        catalog.note_delivery(&due(message, "duty"), &again, at(10)).unwrap();
        assert_eq!(waiting(19), ["mail"]);
        assert_eq!(catalog.due_messages(at(20)).unwrap()[0].tries, 1);
        assert_eq!(catalog.last_refusal("duty").unwrap(), None, "it is tried again");
        assert_eq!(catalog.refused_by(message).unwrap(), ["duty"]);
        assert_eq!(
            catalog.channel_waits("duty", at(19)).unwrap(),
            Some((at(20), "errcode 310000".to_owned()))
        );
        assert_eq!(catalog.channel_waits("duty", at(20)).unwrap(), None);
        assert_eq!(catalog.channel_waits("mail", at(5)).unwrap(), None);
        catalog.note_delivery(&due(message, "duty"), &Delivery::Sent, at(21)).unwrap();
        assert_eq!(catalog.last_sent("duty").unwrap(), Some(at(21)));
        assert_eq!(catalog.last_refusal("duty").unwrap(), None);
        assert_eq!(catalog.refused_by(message).unwrap(), [""; 0]);
        catalog
            .note_delivery(&due(message, "mail"), &Delivery::GaveUp { error: "refused".into() }, at(22))
            .unwrap();
        catalog.add_delivery(message, "duty", at(23)).unwrap();
        assert_eq!(waiting(99), [""; 0]);
        catalog.add_delivery(message, "sms", at(23)).unwrap();
        catalog.forget_messages(at(99)).unwrap();
        assert_eq!(waiting(99), ["sms"]);
        catalog.note_delivery(&due(message, "sms"), &Delivery::Sent, at(99)).unwrap();
        catalog.forget_messages(at(99)).unwrap();
        assert_eq!(catalog.last_sent("sms").unwrap(), None);
    }
}
