//! What was found when something was looked at: a store, a source, a key, a clock.
//!
//! A [`Law`] is what must be true, known before anything is looked at: its id, its words and its place in the runbook.
//! A [`Finding`] is what became of it. Findings are made from laws only, so every id that a person can meet stands
//! in the list of a module ([`laws!`] makes both), and a test compares those lists with the runbook.

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use crate::error::Failure;

/// Seconds that two clocks may differ without anybody being told.
pub const SKEW_SECONDS_USUAL: f64 = 5.0;
/// Seconds beyond which two clocks do not belong to one backup any more.
pub const SKEW_SECONDS_MAX: f64 = 300.0;

/// How a law was found, the best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It holds.
    Ok,
    /// It does not hold, which may be what is wanted.
    Warn,
    /// It could not be found out.
    Unknown,
    /// It does not hold.
    Broken,
}

impl Status {
    /// All of them, the worst first.
    pub const WORST_FIRST: [Self; 4] = [Self::Broken, Self::Unknown, Self::Warn, Self::Ok];

    /// Returns the word for screens and documents.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Unknown => "unknown",
            Self::Broken => "broken",
        }
    }
}

/// Something that must be true.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Law {
    /// Its family and its own name: `store.race`, `mysql.grants`.
    pub id: &'static str,
    /// The runbook's page that explains it, without ending.
    pub page: &'static str,
    /// What must be true.
    pub what: &'static str,
    /// What to do where it is not, as whole sentences.
    pub hint: &'static str,
}

/// What was found about one law.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// Its name for programs: `repository.race`, `source.mysql.grants`, `key.signing`.
    pub id: String,
    /// Whether it is as it must be.
    pub status: Status,
    /// What must be true.
    pub what: String,
    /// What was seen.
    pub detail: String,
    /// What to do, if anything is to be done.
    pub hint: Option<String>,
    /// Where the runbook tells more.
    pub page: String,
    /// The number behind it, where there is one: seconds of a clock, days of a certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub figure: Option<f64>,
}

impl Law {
    /// Returns the heading of the runbook's page, which is also the end of a link to it.
    pub fn heading(&self) -> String {
        self.id.replace(['.', '_'], "-")
    }

    /// Makes a finding; what is not ok says what to do about it.
    pub fn found(&self, status: Status, detail: impl Into<String>) -> Finding {
        Finding {
            id: self.id.to_owned(),
            status,
            what: self.what.to_owned(),
            detail: detail.into(),
            hint: (status != Status::Ok).then(|| self.hint.to_owned()),
            page: format!("docs/runbook/{}.md#{}", self.page, self.heading()),
            figure: None,
        }
    }

    /// Tells that it holds.
    pub fn ok(&self, detail: impl Into<String>) -> Finding {
        self.found(Status::Ok, detail)
    }

    /// Tells that it does not hold.
    pub fn broken(&self, detail: impl Into<String>) -> Finding {
        self.found(Status::Broken, detail)
    }

    /// Tells a failure. What it advises is nearer to the matter than the law's own words.
    pub fn failed(&self, status: Status, failure: &Failure) -> Finding {
        let found = self.found(status, failure.one_line());
        if failure.hints().is_empty() { found } else { found.hint(failure.hints().join(" ")) }
    }

    /// Judges how far a clock is from this host's; positive seconds are ahead.
    pub fn skew(&self, seconds: f64) -> Finding {
        let status = match seconds.abs() {
            off if off <= SKEW_SECONDS_USUAL => Status::Ok,
            off if off <= SKEW_SECONDS_MAX => Status::Warn,
            _ => Status::Broken,
        };
        let detail = match seconds {
            off if off.abs() < 1.0 => "no difference was seen".to_owned(),
            off if off < 0.0 => format!("it is {:.0} s behind this host", -off),
            off => format!("it is {off:.0} s ahead of this host"),
        };
        Finding { figure: Some(seconds), ..self.found(status, detail) }
    }
}

impl Finding {
    /// Says what to do in other words than the law's.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Returns the law's own name: `race` of `offsite.copy.race`.
    pub fn name(&self) -> &str {
        self.id.rsplit_once('.').map_or(&self.id, |(_, name)| name)
    }

    /// Puts the name of the thing that was looked at in the place of the law's family: `store.race` of `repository`
    /// is `repository.race`.
    #[must_use]
    pub fn of(mut self, thing: &str) -> Self {
        let name = self.id.split_once('.').map_or("", |(_, name)| name);
        self.id = format!("{thing}.{name}");
        self
    }
}

/// Returns how far a clock is ahead of ours that told `theirs` between `began` and `ended`. What may be the time that
/// the answer took, or the fraction that a clock which counts in steps of `grain` leaves out, is no difference.
pub fn skew_seconds(
    theirs: DateTime<Utc>,
    began: DateTime<Utc>,
    ended: DateTime<Utc>,
    grain: TimeDelta,
) -> f64 {
    let seconds = |delta: TimeDelta| delta.as_seconds_f64();
    let (early, late) = (began - grain - theirs, theirs - ended);
    if early > TimeDelta::zero() {
        -seconds(early)
    } else if late > TimeDelta::zero() {
        seconds(late)
    } else {
        0.0
    }
}

/// Makes the constants of a module's laws, and `LAWS`, which has all of them.
macro_rules! laws {
    (page $page:literal; $($name:ident = $id:literal, $what:literal, $hint:literal;)*) => {
        $(
            const $name: $crate::finding::Law =
                $crate::finding::Law { id: $id, page: $page, what: $what, hint: $hint };
        )*
        /// Every law that is looked at here.
        pub const LAWS: &[$crate::finding::Law] = &[$($name),*];
    };
}
pub(crate) use laws;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ExitCode;

    const RACE: Law = Law { id: "store.race", page: "stores", what: "one wins", hint: "Do this." };

    #[test]
    fn a_finding_bears_the_name_of_its_thing_and_leads_to_its_law() {
        let found = RACE.broken("two won").of("offsite.copy");
        assert_eq!((found.id.as_str(), found.hint.as_deref()), ("offsite.copy.race", Some("Do this.")));
        assert_eq!(found.page, "docs/runbook/stores.md#store-race");
        assert_eq!(RACE.ok("fine").hint, None);
        let law = Law { id: "mysql.binlog_expiry", ..RACE };
        assert_eq!(law.heading(), "mysql-binlog-expiry");
    }

    #[test]
    fn the_advice_of_a_failure_comes_before_the_laws() {
        let failure = Failure::new(ExitCode::Failed, "no").because("reason");
        assert_eq!(RACE.failed(Status::Broken, &failure).hint.as_deref(), Some("Do this."));
        let found = RACE.failed(Status::Unknown, &failure.hint("Do that."));
        assert_eq!((found.detail.as_str(), found.hint.as_deref()), ("no: reason", Some("Do that.")));
    }

    #[test]
    fn a_clock_is_judged_by_five_seconds_and_five_minutes() {
        for (seconds, status, detail) in [
            (0.4, Status::Ok, "no difference was seen"),
            (-5.0, Status::Ok, "it is 5 s behind this host"),
            (6.0, Status::Warn, "it is 6 s ahead of this host"),
            (-300.0, Status::Warn, "it is 300 s behind this host"),
            (301.0, Status::Broken, "it is 301 s ahead of this host"),
        ] {
            let found = RACE.skew(seconds);
            assert_eq!((found.status, found.detail.as_str()), (status, detail));
            assert_eq!(found.figure, Some(seconds));
        }
    }

    #[test]
    fn the_time_an_answer_took_is_no_difference() {
        let at = |milliseconds| DateTime::UNIX_EPOCH + TimeDelta::milliseconds(milliseconds);
        let skew = |theirs| skew_seconds(at(theirs), at(10_000), at(12_000), TimeDelta::seconds(1));
        for (theirs, seconds) in [(9_000, 0.0), (12_000, 0.0), (8_500, -0.5), (14_000, 2.0)] {
            assert!((skew(theirs) - seconds).abs() < 1e-9, "{theirs}");
        }
    }
}
