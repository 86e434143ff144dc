//! Whether a restart would find the data: the server's append-only file is rewritten after a restore, and until then a
//! restart loads the old one.
//!
//! A server tries again and again when that fails, and says each time that it is about to: so failures are counted.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

/// How long a rewrite may stand as failed, with none at work, before it is believed to fail for good.
const FAILED_SECONDS_MAX: u64 = 30;
/// Rewrites that may fail after each other.
const FAILURES_MAX: u64 = 2;

/// What is known of the rewrite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Judged {
    /// A restart finds the data, as far as an append-only file goes.
    Written,
    /// It is under way, or about to be.
    Waiting,
    /// It fails.
    Failed,
}

/// Watches a rewrite through what `INFO persistence` says.
#[derive(Debug, Default)]
pub(super) struct Rewrite {
    failures_before: u64,
    failed_since: Option<Instant>,
}

impl Rewrite {
    /// Begins to watch, with what `INFO persistence` said before the restore.
    pub(super) fn since(persistence: &BTreeMap<String, String>) -> Self {
        Self { failures_before: failures(persistence), failed_since: None }
    }

    /// Judges the newest look.
    pub(super) fn judge(&mut self, persistence: &BTreeMap<String, String>, now: Instant) -> Judged {
        let field = |name: &str| persistence.get(name).map_or("", String::as_str);
        if field("aof_enabled") != "1" {
            return Judged::Written;
        }
        let at_work = field("aof_rewrite_in_progress") == "1";
        let failed = field("aof_last_bgrewrite_status") == "err" || field("aof_last_write_status") == "err";
        if !failed && !at_work && field("aof_rewrite_scheduled") != "1" {
            return Judged::Written;
        }
        // Another save keeps the next attempt waiting, which is no failure.
        if !failed || at_work || field("rdb_bgsave_in_progress") == "1" {
            self.failed_since = None;
            return Judged::Waiting;
        }
        let since = *self.failed_since.get_or_insert(now);
        let failures = failures(persistence);
        let again = failures >= FAILURES_MAX && failures > self.failures_before;
        if again || now - since >= Duration::from_secs(FAILED_SECONDS_MAX) {
            return Judged::Failed;
        }
        Judged::Waiting
    }
}

/// Counts the failures after each other; servers before 7.0 do not.
fn failures(persistence: &BTreeMap<String, String>) -> u64 {
    let counted = persistence.get("aof_rewrites_consecutive_failures");
    counted.and_then(|text| text.parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_rewrite_that_fails_and_is_tried_again_for_ever_is_told() {
        let now = Instant::now();
        let failing =
            [("aof_enabled", "1"), ("aof_rewrite_scheduled", "1"), ("aof_last_bgrewrite_status", "err")];
        let mut rewrite = Rewrite::default();
        assert_eq!(rewrite.judge(&info(&failing), now), Judged::Waiting, "the failure may be an old one");
        let later = now + Duration::from_secs(FAILED_SECONDS_MAX);
        assert_eq!(rewrite.judge(&info(&failing), later), Judged::Failed);
        // A server that counts tells sooner.
        let counted = [&failing[..], &[("aof_rewrites_consecutive_failures", "2")]].concat();
        assert_eq!(Rewrite::default().judge(&info(&counted), now), Judged::Failed);
        assert_eq!(Rewrite::since(&info(&counted)).judge(&info(&counted), now), Judged::Waiting);
        let full =
            [("aof_enabled", "1"), ("aof_last_bgrewrite_status", "ok"), ("aof_last_write_status", "err")];
        let mut rewrite = Rewrite::default();
        assert_eq!(rewrite.judge(&info(&full), now), Judged::Waiting);
        assert_eq!(rewrite.judge(&info(&full), later), Judged::Failed);
    }

    #[test]
    fn a_rewrite_is_waited_for_as_long_as_it_is_at_work() {
        let now = Instant::now();
        let mut rewrite = Rewrite::default();
        let at_work = info(&[
            ("aof_enabled", "1"),
            ("aof_rewrite_in_progress", "1"),
            ("aof_last_bgrewrite_status", "err"),
        ]);
        let hours = now + Duration::from_hours(4);
        assert_eq!(rewrite.judge(&at_work, now), Judged::Waiting);
        assert_eq!(rewrite.judge(&at_work, hours), Judged::Waiting);
        let behind = info(&[
            ("aof_enabled", "1"),
            ("aof_rewrite_scheduled", "1"),
            ("aof_last_bgrewrite_status", "err"),
            ("rdb_bgsave_in_progress", "1"),
        ]);
        assert_eq!(rewrite.judge(&behind, now), Judged::Waiting);
        assert_eq!(rewrite.judge(&behind, hours), Judged::Waiting);
        let scheduled = info(&[
            ("aof_enabled", "1"),
            ("aof_rewrite_scheduled", "1"),
            ("aof_last_bgrewrite_status", "ok"),
        ]);
        assert_eq!(rewrite.judge(&scheduled, hours), Judged::Waiting);
    }

    #[test]
    fn a_server_without_an_append_only_file_has_nothing_to_wait_for() {
        let now = Instant::now();
        let mut rewrite = Rewrite::default();
        let off = info(&[("aof_enabled", "0"), ("aof_last_bgrewrite_status", "err")]);
        assert_eq!(rewrite.judge(&off, now), Judged::Written);
        let done = info(&[("aof_enabled", "1"), ("aof_last_bgrewrite_status", "ok")]);
        assert_eq!(rewrite.judge(&done, now), Judged::Written);
    }
}
