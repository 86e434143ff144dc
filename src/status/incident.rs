//! An incident: one thing that is wrong, from the moment it is seen until it is over.
//!
//! *Order.* Whoever looks tells the [`Condition`]s that hold now; [`settle`] compares them with the incidents that are
//! open and says what changed. So an incident opens once, is reminded of more and more rarely, and resolves by itself
//! when its condition no longer holds: nothing latches, and nobody has to close anything. What must not go away
//! by itself (an anomaly whose next run looks normal again because the loss is now usual) is marked as such and waits
//! for a person.
//!
//! Pure: the catalog keeps incidents, `notify` tells of them.

use chrono::{DateTime, Duration, Utc};
use serde::{Deserialize, Serialize};

/// How urgent an incident is, the least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Urgency {
    /// Worth a line in the daily report.
    Info,
    /// For the next working day; keeps quiet at night.
    Ticket,
    /// Now: what is lost meanwhile may be lost for good.
    Page,
}

impl Urgency {
    /// Returns the word for screens, documents and the catalog.
    pub fn word(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Ticket => "ticket",
            Self::Page => "page",
        }
    }

    /// Returns the urgency of this word.
    pub fn of(word: &str) -> Option<Self> {
        [Self::Info, Self::Ticket, Self::Page].into_iter().find(|urgency| urgency.word() == word)
    }
}

/// What is wrong, as a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A run failed, also after its retries.
    Failed,
    /// A run left something out.
    Partial,
    /// A run did not happen at its time.
    Missed,
    /// No run succeeded for longer than the schedule allows.
    Overdue,
    /// A source is much smaller or larger than it used to be.
    Anomaly,
    /// Stored bytes are missing or changed.
    Damage,
    /// Somebody without the keys changed the repository.
    Tampering,
    /// A copy is behind its original.
    Lag,
    /// The service would delete what it was asked to keep.
    Lock,
    /// `doctor` found something.
    Doctor,
    /// The policy's file cannot be used.
    Policy,
    /// A message reached nobody.
    Notify,
    /// A drill did not pass.
    Drill,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::Failed,
        Self::Partial,
        Self::Missed,
        Self::Overdue,
        Self::Anomaly,
        Self::Damage,
        Self::Tampering,
        Self::Lag,
        Self::Lock,
        Self::Doctor,
        Self::Policy,
        Self::Notify,
        Self::Drill,
    ];

    /// Returns the word for screens, documents, the catalog and the page of the runbook.
    pub fn word(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Partial => "partial",
            Self::Missed => "missed",
            Self::Overdue => "overdue",
            Self::Anomaly => "anomaly",
            Self::Damage => "damage",
            Self::Tampering => "tampering",
            Self::Lag => "lag",
            Self::Lock => "lock",
            Self::Doctor => "doctor",
            Self::Policy => "policy",
            Self::Notify => "notify",
            Self::Drill => "drill",
        }
    }

    /// Returns the kind of this word.
    pub fn of(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.word() == word)
    }

    /// Returns whether only a person can end it.
    pub fn waits_for_a_person(self) -> bool {
        matches!(self, Self::Anomaly)
    }
}

/// Something that is wrong now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    /// What is wrong, as a kind.
    pub kind: Kind,
    /// What it concerns: a task (`backup`, `sync oss`), a source (`mysql`), a finding (`disk.room`).
    pub about: String,
    /// How urgent it is.
    pub urgency: Urgency,
    /// What is wrong, a fragment as of a `Failure`.
    pub what: String,
    /// What to do, whole sentences.
    pub hint: Option<String>,
    /// The newest drill that shows it, where drills do, by its number in the catalog, or by its run's where it has no
    /// report: one that fails and that nobody knew of is news, whatever a person said before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drill: Option<i64>,
}

/// One thing that is wrong, from the moment it is seen until it is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incident {
    /// Its number in the catalog.
    pub number: i64,
    /// What is wrong.
    #[serde(flatten)]
    pub condition: Condition,
    /// When it was first seen.
    pub opened: DateTime<Utc>,
    /// How often people were reminded.
    pub reminders: u32,
    /// When people were last told.
    pub told: DateTime<Utc>,
    /// When it was over.
    pub resolved: Option<DateTime<Utc>>,
    /// What the person who took note of it wrote.
    pub acknowledged: Option<String>,
    /// Until when nobody is reminded.
    pub muted_until: Option<DateTime<Utc>>,
}

impl std::ops::Deref for Incident {
    type Target = Condition;
    fn deref(&self) -> &Condition {
        &self.condition
    }
}

/// When people are reminded, counted from the last time they were told; the last one goes on.
pub const REMIND_AFTER: [Duration; 3] = [Duration::hours(1), Duration::hours(6), Duration::hours(24)];

/// What changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It was not there before.
    Opened(Condition),
    /// It is still there, and is told again; its words may be new.
    Reminded(Incident),
    /// It is still there with other words or another urgency; nobody is told.
    Altered(Incident),
    /// It is over.
    Resolved(Incident),
}

/// Compares what holds now with what is open. `conditions` with the same kind and subject count once. What waited for a
/// person is over with the person's word; what is unusual beyond that is a new incident. What is over comes first.
pub fn settle(open: &[Incident], conditions: &[Condition], now: DateTime<Utc>) -> Vec<Change> {
    let mut changes = Vec::new();
    let same = |incident: &Incident, condition: &Condition| {
        incident.kind == condition.kind && incident.about == condition.about
    };
    let is_settled =
        |incident: &Incident| incident.kind.waits_for_a_person() && incident.acknowledged.is_some();
    let over = |incident: &Incident| Change::Resolved(Incident { resolved: Some(now), ..incident.clone() });
    changes.extend(open.iter().filter(|incident| is_settled(incident)).map(over));
    for (at, condition) in conditions.iter().enumerate() {
        let told_before =
            conditions[..at].iter().any(|c| c.kind == condition.kind && c.about == condition.about);
        let is_open = |incident: &Incident| same(incident, condition) && !is_settled(incident);
        if !told_before && !open.iter().any(is_open) {
            changes.push(Change::Opened(condition.clone()));
        }
    }
    for incident in open.iter().filter(|incident| !is_settled(incident)) {
        match conditions.iter().find(|condition| same(incident, condition)) {
            Some(condition) => changes.extend(stays(incident, condition, now)),
            None if incident.kind.waits_for_a_person() => {
                changes.extend(stays(incident, &incident.condition, now));
            }
            None => changes.push(over(incident)),
        }
    }
    changes
}

/// Says what changes about an incident that is still there. What is worse, or shown by a newer drill, is news: what a
/// person took note of was something else.
fn stays(incident: &Incident, condition: &Condition, now: DateTime<Utc>) -> Option<Change> {
    let is_news = condition.urgency > incident.urgency || condition.drill > incident.drill;
    let mut next = Incident { condition: condition.clone(), ..incident.clone() };
    // When the newest is answered, those before it are no news.
    next.condition.drill = condition.drill.max(incident.drill);
    if is_news {
        next.acknowledged = None;
    }
    let is_muted = incident.muted_until.is_some_and(|until| now < until);
    let wait = REMIND_AFTER[(incident.reminders as usize).min(REMIND_AFTER.len() - 1)];
    // Told by a clock that was ahead: nobody waits until that comes.
    let is_due = (incident.told + wait <= now || incident.told > now) && condition.urgency > Urgency::Info;
    if !is_muted && (is_news || is_due && incident.acknowledged.is_none()) {
        next.reminders = next.reminders.saturating_add(1);
        next.told = now;
        return Some(Change::Reminded(next));
    }
    (next != *incident).then_some(Change::Altered(next))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(minutes: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + Duration::minutes(minutes)
    }

    fn failed(what: &str) -> Condition {
        Condition {
            kind: Kind::Failed,
            about: "backup".into(),
            urgency: Urgency::Page,
            what: what.into(),
            hint: None,
            drill: None,
        }
    }

    /// Carries changes out as the catalog does, and returns what people are told.
    fn carry_out(open: &mut Vec<Incident>, changes: Vec<Change>, now: DateTime<Utc>) -> Vec<&'static str> {
        let mut told = Vec::new();
        for change in changes {
            match change {
                Change::Opened(condition) => {
                    told.push("opened");
                    open.push(Incident {
                        number: open.iter().map(|one| one.number).max().unwrap_or(0) + 1,
                        condition,
                        opened: now,
                        reminders: 0,
                        told: now,
                        resolved: None,
                        acknowledged: None,
                        muted_until: None,
                    });
                }
                Change::Reminded(next) | Change::Altered(next) => {
                    let old = open.iter_mut().find(|one| one.number == next.number).unwrap();
                    if old.told != next.told {
                        told.push("reminded");
                    }
                    *old = next;
                }
                Change::Resolved(gone) => {
                    told.push("resolved");
                    open.retain(|one| one.number != gone.number);
                }
            }
        }
        told
    }

    #[test]
    fn an_incident_is_told_once_then_reminded_of_more_and_more_rarely_then_resolved() {
        let (mut open, mut told) = (Vec::new(), Vec::new());
        for minute in 0..3000 {
            let holds = if minute < 2900 { vec![failed("x"), failed("x")] } else { vec![] };
            let changes = settle(&open, &holds, at(minute));
            told.extend(carry_out(&mut open, changes, at(minute)).into_iter().map(|what| (minute, what)));
        }
        let expected =
            [(0, "opened"), (60, "reminded"), (420, "reminded"), (1860, "reminded"), (2900, "resolved")];
        assert_eq!(told, expected);
    }

    #[test]
    fn what_was_told_by_a_clock_that_was_years_ahead_is_told_again_now() {
        let mut open = Vec::new();
        let changes = settle(&open, &[failed("x")], at(5_000_000));
        carry_out(&mut open, changes, at(5_000_000));
        let changes = settle(&open, &[failed("x")], at(10));
        assert_eq!(carry_out(&mut open, changes, at(10)), ["reminded"]);
        assert_eq!(settle(&open, &[failed("x")], at(11)), []);
    }

    #[test]
    fn an_anomaly_that_looks_usual_the_next_day_still_waits_for_a_person() {
        let anomaly = Condition { kind: Kind::Anomaly, about: "mysql".into(), ..failed("half of the rows") };
        let mut open = Vec::new();
        let changes = settle(&open, &[anomaly], at(0));
        carry_out(&mut open, changes, at(0));
        assert_eq!(settle(&open, &[], at(30)), []);
        open[0].acknowledged = Some("a table was dropped on purpose".into());
        assert!(matches!(settle(&open, &[], at(31))[..], [Change::Resolved(_)]));
        // It is silent once it was accepted: what is unusual then is another matter, and is told.
        let further = Condition { kind: Kind::Anomaly, about: "mysql".into(), ..failed("all of the rows") };
        let changes = settle(&open, std::slice::from_ref(&further), at(31));
        assert_eq!(carry_out(&mut open, changes, at(31)), ["resolved", "opened"]);
        assert_eq!((open[0].acknowledged.clone(), open[0].condition.clone()), (None, further));
    }

    #[test]
    fn what_is_muted_or_acknowledged_is_not_reminded_of_until_it_gets_worse() {
        let mut open = Vec::new();
        let changes = settle(&open, &[Condition { urgency: Urgency::Ticket, ..failed("x") }], at(0));
        carry_out(&mut open, changes, at(0));
        open[0].muted_until = Some(at(600));
        let ticket = Condition { urgency: Urgency::Ticket, ..failed("x") };
        assert_eq!(settle(&open, std::slice::from_ref(&ticket), at(599)), []);
        assert!(matches!(settle(&open, std::slice::from_ref(&ticket), at(600))[..], [Change::Reminded(_)]));
        open[0].acknowledged = Some("seen".into());
        assert_eq!(settle(&open, &[ticket], at(6000)), []);
        let changes = settle(&open, &[failed("x")], at(6000));
        assert_eq!(carry_out(&mut open, changes, at(6000)), ["reminded"]);
        assert_eq!(open[0].acknowledged, None, "it was something less that a person had seen");
    }

    #[test]
    fn a_newer_drill_that_fails_is_told_and_unsays_what_a_person_said_to_the_one_before() {
        let of = |number| Condition {
            kind: Kind::Drill,
            drill: Some(number),
            ..failed("one of two did not hold")
        };
        let mut open = Vec::new();
        let changes = settle(&open, &[of(1)], at(0));
        carry_out(&mut open, changes, at(0));
        open[0].acknowledged = Some("seen".into());
        assert_eq!(settle(&open, &[of(1)], at(5000)), []);
        let changes = settle(&open, &[of(2)], at(5001));
        assert_eq!(carry_out(&mut open, changes, at(5001)), ["reminded"]);
        assert_eq!(open[0].acknowledged, None);
        // The newer one is answered, the first is not: that is no news, to whoever took note of both.
        open[0].acknowledged = Some("seen too".into());
        assert_eq!(settle(&open, &[of(1)], at(9000)), []);
        assert_eq!(settle(&open, &[of(2)], at(9000)), []);
        // Who wants quiet has it; prune does not go on by that.
        open[0].muted_until = Some(at(20_000));
        let changes = settle(&open, &[of(3)], at(9001));
        assert_eq!(carry_out(&mut open, changes, at(9001)), [""; 0]);
        assert_eq!(open[0].acknowledged, None);
        let changes = settle(&open, &[of(3)], at(20_000));
        assert_eq!(carry_out(&mut open, changes, at(20_000)), ["reminded"]);
    }

    proptest! {
        #[test]
        fn nothing_is_open_twice_and_all_that_is_open_holds(steps in prop::collection::vec(0_u8..16, 1..60)) {
            let kinds = [Kind::Failed, Kind::Partial, Kind::Lag, Kind::Doctor];
            let mut open = Vec::new();
            for (minute, step) in steps.into_iter().enumerate() {
                let now = at(i64::try_from(minute).unwrap() * 20);
                let holds: Vec<Condition> = kinds
                    .iter()
                    .enumerate()
                    .filter(|(bit, _)| step & (1 << bit) != 0)
                    .map(|(_, kind)| Condition { kind: *kind, ..failed("x") })
                    .collect();
                let changes = settle(&open, &holds, now);
                carry_out(&mut open, changes, now);
                let mut seen: Vec<Kind> = open.iter().map(|one| one.kind).collect();
                seen.sort_unstable();
                let mut wanted: Vec<Kind> = holds.iter().map(|one| one.kind).collect();
                wanted.sort_unstable();
                prop_assert_eq!(seen, wanted);
            }
        }
    }
}
