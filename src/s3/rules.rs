//! Lifecycle rules of a target's buckets while a restore writes to them.
//!
//! An object's days count from when it arrives, and a rule has one at least, so rules of days may stay. A rule of a
//! date takes everything as soon as that has passed, also what arrives later (S3 User Guide, "Lifecycle configuration
//! elements").
//!
//! *Order.* Rules are noted before they are taken away, and forgotten when those of the snapshot stand in their place.
//! A bucket of which a part is restored keeps its rules, as all its settings: that they may take it is told.
//!
//! *Crash.* What was taken away and not replaced is put back however a restore ends, unless its process is killed.

use std::collections::BTreeMap;

use chrono::{DateTime, NaiveDate, NaiveTime, Utc};

use super::{bucket, client::Server};
use crate::{error::Result, event::SharedMonitor, names::SourceName};

/// The rules of the buckets that one restore writes to.
pub(super) struct Rules {
    server: Server,
    name: SourceName,
    monitor: SharedMonitor,
    /// Rules that were taken away and not replaced yet, by bucket.
    stopped: BTreeMap<String, String>,
    /// What a person should know.
    notes: Vec<String>,
}

impl Rules {
    /// Begins; nothing is asked of the server yet.
    pub(super) fn new(server: &Server, name: &SourceName, monitor: &SharedMonitor) -> Self {
        Self {
            server: server.clone(),
            name: name.clone(),
            monitor: monitor.clone(),
            stopped: BTreeMap::new(),
            notes: Vec::new(),
        }
    }

    /// Sees to it that a bucket that was there does not expire what arrives. Of one that is not `ours` to set it is
    /// told that it may, and so it is of one that may not be looked at.
    pub(super) async fn stop(&mut self, bucket: &str, ours: bool) -> Result<()> {
        let rules = match bucket::dated_rules(&self.server, bucket).await? {
            Ok(Some(rules)) => rules,
            Ok(None) => return Ok(()),
            Err(why) => {
                let what = format!("lifecycle rules of bucket {bucket} may expire what is restored: {why}");
                self.warn(
                    what,
                    "They could not be looked at. See by hand that none has a date that is over.",
                );
                return Ok(());
            }
        };
        if !ours {
            self.tell(bucket, &rules);
            return Ok(());
        }
        // Noted first: a stop may come while the server does it.
        self.stopped.insert(bucket.to_owned(), rules);
        bucket::stop_lifecycle(&self.server, bucket).await?;
        let what = format!("bucket {bucket} has no lifecycle rules until the restore has ended");
        self.monitor.step(Some(&self.name), what);
        Ok(())
    }

    /// Takes note that the rules of the snapshot, or none, stand in the place of a bucket's own.
    pub(super) fn replaced(&mut self, bucket: &str, by: Option<&str>) {
        self.stopped.remove(bucket);
        if let Some(rules) = by {
            self.tell(bucket, rules);
        }
    }

    /// Puts back what was taken away and not replaced; returns what a person should know of the rules.
    pub(super) async fn put_back(&mut self) -> Vec<String> {
        for (bucket, rules) in std::mem::take(&mut self.stopped) {
            match bucket::put_lifecycle_back(&self.server, &bucket, &rules).await {
                Ok(()) => self.tell(&bucket, &rules),
                Err(failure) => {
                    let what =
                        format!("bucket {bucket} is without its lifecycle rules: {}", failure.one_line());
                    self.warn(what, "Set them again by hand.");
                }
            }
        }
        std::mem::take(&mut self.notes)
    }

    /// Tells that rules that stand in a bucket may take what was restored.
    fn tell(&mut self, bucket: &str, rules: &str) {
        if is_over(rules, self.server.date().as_deref()) {
            let what =
                format!("lifecycle rules of bucket {bucket} may expire what is restored: their date is over");
            self.warn(what, "Take them away if it is to stay.");
        }
    }

    fn warn(&mut self, what: String, hint: &str) {
        self.monitor.warn(Some(&self.name), what.clone(), Some(hint));
        self.notes.push(what);
    }
}

/// Returns whether rules have a date that is over by the server's clock, which is what counts. What cannot be read is
/// taken to be over.
pub(super) fn is_over(rules: &str, now: Option<&str>) -> bool {
    let now = now.and_then(|now| DateTime::parse_from_rfc2822(now).ok());
    let dates = rules.split("<Date>").skip(1).map(|rest| rest.split('<').next().unwrap_or_default().trim());
    dates.map(date).any(|date| date.zip(now).is_none_or(|(date, now)| date <= now))
}

/// Reads the date of a rule: a moment, or a day where a server keeps what it was sent.
fn date(text: &str) -> Option<DateTime<Utc>> {
    let moment = DateTime::parse_from_rfc3339(text).map(|moment| moment.to_utc());
    let day = || text.parse::<NaiveDate>().map(|day| day.and_time(NaiveTime::MIN).and_utc());
    moment.or_else(|_| day()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_over_by_the_clock_of_the_server_and_where_it_cannot_be_read() {
        let now = Some("Tue, 24 Nov 2026 11:49:06 GMT");
        for (date, over) in [
            ("2020-01-01T00:00:00.000Z", true),
            ("2026-11-24T00:00:00+00:00", true),
            ("2020-01-01", true),
            ("soon", true),
            ("2026-11-25T00:00:00Z", false),
            ("2033-01-01", false),
        ] {
            let rules = format!("<Rule><Date>2044-01-01</Date></Rule><Rule><Date>{date}</Date></Rule>");
            assert_eq!(is_over(&rules, now), over, "{date}");
            assert!(is_over(&rules, None), "nobody knows what time it is there");
        }
        assert!(!is_over("<Rule><Days>1</Days></Rule>", now));
    }
}
