//! `lifeboat lock`.

use chrono::{DateTime, Utc};
use clap::Args;
use serde_json::{Value, json};

use super::{json, say, session::Session};
use crate::{
    error::{ExitCode, Failure, Result},
    finding::Status,
    jobs::lock::{self, LockNote, Looked, Tested},
    policy::{OffsiteConfig, Stack},
    store::lock::tamper::{self, Attempt},
};

/// Objects that could not be locked and are named on the screen.
const FAILED_SHOWN: usize = 5;

/// Show how an offsite's Object Lock is, renew it, or try to break it.
#[derive(Debug, Args)]
pub struct Lock {
    /// The offsite of the policy [default: all with `lock_days`]
    name: Option<String>,
    /// Lock what the kept snapshots need, as each sync does
    #[arg(long)]
    extend: bool,
    /// Try to delete and to unlock an object of the test's own, with the credential of the policy
    #[arg(long, conflicts_with = "extend")]
    test: bool,
}

/// What was done for one offsite.
enum Done {
    Looked(Box<Looked>),
    Tested(Tested),
}

impl Done {
    fn exit(&self) -> ExitCode {
        match self {
            Self::Looked(looked) => looked.exit(),
            Self::Tested(tested) => tested.exit(),
        }
    }
}

pub(super) async fn run(args: Lock, session: &Session) -> Result<ExitCode> {
    let stack = session.repository_of_stack()?;
    let offsites = lock::wanted(&stack, args.name.as_deref())?;
    let (mut done, mut failed) = (Vec::new(), Vec::new());
    for offsite in offsites {
        // One place that is down hides no other.
        match one(&args, &stack, offsite.name.as_str(), session).await {
            Ok(found) => done.push((offsite, found)),
            Err(failure) => failed.push((offsite.name.to_string(), failure)),
        }
    }
    if session.json {
        let offsites: Vec<Value> = done.iter().map(|(offsite, found)| facts(offsite, found)).collect();
        let failed: Vec<Value> = failed.iter().map(facts_of_failure).collect();
        json::print(&json::document("lock", json!({ "offsites": offsites, "failed": failed })));
    } else {
        for line in done.iter().flat_map(|(offsite, found)| lines(&stack, offsite, found)) {
            say(&line);
        }
    }
    for (_, failure) in &failed {
        session.screen.failure(failure);
    }
    let worst = failed.first().map(|(_, failure)| failure.exit());
    let exits: Vec<ExitCode> = done.iter().map(|(_, found)| found.exit()).collect();
    // A lock that was broken is worse than one of which nothing is known.
    let not_ok = [ExitCode::Failed, ExitCode::Partial].into_iter().find(|exit| exits.contains(exit));
    Ok(worst.or(not_ok).unwrap_or(ExitCode::Ok))
}

async fn one(args: &Lock, stack: &Stack, name: &str, session: &Session) -> Result<Done> {
    let monitor = session.monitor();
    if args.test {
        return lock::of_stack(session.context(stack, &monitor), name).await.map(Done::Tested);
    }
    let (ground, work) = (&session.ground, args.extend);
    let looked = if work {
        lock::extend_now(stack, name, ground, &monitor).await
    } else {
        lock::look(stack, name, ground, &monitor).await
    };
    looked.map(|looked| Done::Looked(Box::new(looked)))
}

fn facts_of_failure((name, failure): &(String, Failure)) -> Value {
    json!({ "name": name, "error": failure.chain(), "hints": failure.hints() })
}

fn facts(offsite: &OffsiteConfig, done: &Done) -> Value {
    let settings = &offsite.settings;
    let mut facts = json!({
        "name": offsite.name,
        "lock_days": settings.lock_days,
        "lock_mode": settings.lock_mode().word(),
    });
    match done {
        Done::Tested(tested) => {
            let attempt = |one: &Attempt| {
                json!({
                    "id": one.id,
                    "status": one.status.word(),
                    "what": one.law,
                    "detail": one.detail,
                    "hint": one.hint,
                })
            };
            facts["place"] = tested.place.clone().into();
            facts["verdict"] = tested.verdict.word().into();
            facts["findings"] = tested.attempts.iter().map(attempt).collect();
        }
        Done::Looked(looked) => {
            let LockNote { test, counts, .. } = &looked.note;
            facts["place"] = looked.place.clone().into();
            facts["test"] = json!(test);
            facts["counts"] = json!(counts.as_ref().map(|(counts, _)| counts));
            facts["no_lock"] =
                json!(looked.no_lock.as_ref().map(|no| json!({ "what": no.what, "hint": no.hint })));
            facts["extended"] = json!(looked.extended.as_ref().map(|done| json!({
                "locked": done.locked,
                "extended": done.extended,
                "left": done.left,
                "failed": done.failed.iter()
                    .map(|(key, why)| json!({ "object": key, "why": why })).collect::<Vec<_>>(),
            })));
        }
    }
    facts
}

fn lines(stack: &Stack, offsite: &OffsiteConfig, done: &Done) -> Vec<String> {
    let name = offsite.name.as_str();
    match done {
        Done::Tested(tested) => {
            let mut lines = vec![format!("{name}: {} ({} mode)", tested.verdict.word(), tested.mode.word())];
            for one in &tested.attempts {
                lines.push(format!("{:>9}  {}: {}", word(one), one.law, one.detail));
                lines.extend(one.hint.iter().map(|hint| format!("{:>9}  {hint}", "hint:")));
            }
            lines
        }
        Done::Looked(looked) => lines_of_look(stack, offsite, looked),
    }
}

/// The word for an attempt: what was refused is as it must be.
fn word(attempt: &Attempt) -> &'static str {
    match attempt.status {
        Status::Ok if [tamper::HAS_LOCK_ID, tamper::CONTROL_ID].contains(&attempt.id) => "ok",
        Status::Ok => "refused",
        Status::Broken => "POSSIBLE",
        Status::Warn | Status::Unknown => "unknown",
    }
}

fn lines_of_look(stack: &Stack, offsite: &OffsiteConfig, looked: &Looked) -> Vec<String> {
    let name = offsite.name.as_str();
    let time = |at: &DateTime<Utc>| at.with_timezone(&stack.timezone).format("%Y-%m-%d %H:%M").to_string();
    let mut lines = Vec::new();
    lines.push(match &looked.note.test {
        Some(test) => format!("{name}: {}, tried out {}", test.verdict, time(&test.at)),
        None => format!("{name}: never tried out; `lifeboat lock --test` does it"),
    });
    for (what, hint) in looked.note.test.iter().flat_map(|test| &test.wrong) {
        lines.push(format!("    {what}"));
        lines.extend(hint.iter().map(|hint| format!("    hint: {hint}")));
    }
    if let Some(no) = looked.no_lock.as_ref().filter(|no| no.is_unknown) {
        lines.push(format!("    {}", no.what));
        lines.push(format!("    hint: {}", no.hint));
    }
    if let Some(done) = &looked.extended {
        let (locked, extended, left) = (done.locked, done.extended, done.left);
        lines.push(format!("    {locked} objects were locked, {extended} extended, {left} left as they are"));
        for (key, why) in done.failed.iter().take(FAILED_SHOWN) {
            lines.push(format!("    FAILED {key}: {why}"));
        }
        if done.failed.len() > FAILED_SHOWN {
            lines.push(format!("    and {} more could not be locked", done.failed.len() - FAILED_SHOWN));
        }
    }
    if let Some((counts, _)) = &looked.note.counts {
        let until = counts.until.map(|until| format!(", all until {} at least", time(&until)));
        let (locked, objects) = (counts.locked, counts.objects);
        lines.push(format!("    {locked} of {objects} objects are locked{}", until.unwrap_or_default()));
        lines.push(format!("    {} of {} kept packs are not locked", counts.packs_unlocked, counts.packs));
        lines.push(format!("    {} of {} snapshots cannot be deleted", counts.immutable, counts.snapshots));
    }
    lines
}

#[cfg(test)]
mod tests {
    use chrono::{Duration, TimeZone};

    use super::*;
    use crate::{
        jobs::lock::{
            TestNote,
            extend::{Counts, Extended},
            locked_copy,
        },
        names::Key,
    };

    #[test]
    fn a_look_tells_what_a_person_asks_first() {
        let stack = locked_copy();
        let at = Utc.with_ymd_and_hms(2026, 1, 2, 3, 4, 5).unwrap();
        let hint = Some("Set lock_mode.".to_owned());
        let wrong = vec![("a lock cannot be shortened: the lock is weaker".to_owned(), hint)];
        let test = TestNote { at, verdict: "broken".into(), wrong };
        let until = Some(at + Duration::days(23));
        let counts = Counts {
            objects: 12,
            locked: 11,
            until,
            packs: 4,
            packs_unlocked: 1,
            snapshots: 3,
            immutable: 2,
        };
        let note =
            LockNote { place: "s3://b".into(), test: Some(test), counts: Some((counts, at)), failed: None };
        let failed =
            (0..7).map(|n| (Key::new(&format!("packs/{n}")).unwrap(), "403 AccessDenied".to_owned()));
        let extended = Extended { locked: 1, extended: 2, left: 2, failed: failed.collect() };
        let (name, place) = ("far".to_owned(), "s3://b".to_owned());
        let looked = Looked { name, place, note, extended: Some(extended), no_lock: None };
        assert_eq!(looked.exit(), ExitCode::Partial);
        insta::assert_snapshot!(lines_of_look(&stack, &stack.offsites[0], &looked).join("\n"), @"
        far: broken, tried out 2026-01-02 03:04
            a lock cannot be shortened: the lock is weaker
            hint: Set lock_mode.
            1 objects were locked, 2 extended, 2 left as they are
            FAILED packs/0: 403 AccessDenied
            FAILED packs/1: 403 AccessDenied
            FAILED packs/2: 403 AccessDenied
            FAILED packs/3: 403 AccessDenied
            FAILED packs/4: 403 AccessDenied
            and 2 more could not be locked
            11 of 12 objects are locked, all until 2026-01-25 03:04 at least
            1 of 4 kept packs are not locked
            2 of 3 snapshots cannot be deleted
        ");
    }
}
