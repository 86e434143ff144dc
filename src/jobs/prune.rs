//! Prune: what the policy keeps is kept, what nobody needs goes.
//!
//! *Order.* A plan that a person reads, then that same plan carried out: forget, condemn; days later sweep.
//! *Crash.* Nothing that counts as a snapshot ever lacks anything; see `repo::prune`.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{Duration, Utc};
use chrono_tz::Tz;

use crate::{
    clock::Ground,
    error::{ExitCode, Failure, Result},
    event::SharedMonitor,
    names::SnapshotId,
    repo::{self, Inspection, Maintain, PrunePlan, PruneReport, Repository, Terms, format::Status},
    retention::{self, Candidate, Decided, Rules},
};

/// How long what was deleted from a folder lies in its trash.
pub const TRASH_STAYS: Duration = Duration::days(7);

/// What prune is asked for.
pub struct Asked {
    /// The rules.
    pub rules: Rules,
    /// The zone in which a day begins.
    pub zone: Tz,
    /// Snapshots that are to go whatever the rules say.
    pub forget: BTreeSet<SnapshotId>,
    /// Days that a copy keeps what its original has forgotten; `None` for an original.
    pub delay_days: Option<u32>,
    /// How long things wait.
    pub terms: Terms,
}

/// A plan, and why it is so.
#[derive(Clone)]
pub struct Planned {
    /// What the rules decided.
    pub decided: Decided,
    /// Why snapshots are pinned.
    pub pins: BTreeMap<SnapshotId, String>,
    /// When each snapshot was begun.
    pub began: BTreeMap<SnapshotId, chrono::DateTime<Utc>>,
    /// What is done by it.
    pub plan: PrunePlan,
}

/// Makes a plan; changes nothing.
pub async fn plan(
    repository: &Repository<Maintain>,
    asked: &Asked,
    ground: &Ground,
    monitor: &SharedMonitor,
) -> Result<Planned> {
    let seen = repository.inspect(ground, monitor).await?;
    seen.check(&asked.forget)?;
    let now = ground.clock.now();
    let candidates: Vec<Candidate> = seen
        .snapshots()
        .map(|one| Candidate {
            id: one.refs.snapshot.clone(),
            began: one.refs.began,
            complete: one.refs.status == Status::Complete,
            pinned: seen.pins.contains_key(&one.refs.snapshot),
            proven: false,
        })
        .collect();
    let mut decided = retention::decide(&candidates, &asked.rules, now, asked.zone)?;
    stay_for_now(&mut decided, &seen, asked, now);
    name(&mut decided, &asked.forget)?;
    let remove = decided.remove.iter().map(|one| (one.id.clone(), one.reason.to_string())).collect();
    let began = seen.snapshots().map(|one| (one.refs.snapshot.clone(), one.refs.began)).collect();
    let terms = Terms { is_copy: asked.delay_days.is_some(), ..asked.terms };
    let plan = repo::plan(&seen, &remove, terms, now);
    Ok(Planned { decided, pins: seen.pins, began, plan })
}

/// A copy keeps what its original has, and what that has forgotten for some days more.
fn stay_for_now(decided: &mut Decided, seen: &Inspection, asked: &Asked, now: chrono::DateTime<Utc>) {
    let Some(days) = asked.delay_days else { return };
    let forgotten = seen.forgotten_upstream();
    let delay = Duration::days(i64::from(days));
    let (go, stay) = std::mem::take(&mut decided.remove)
        .into_iter()
        .partition(|one| forgotten.get(&one.id).is_some_and(|at| *at + delay <= now));
    decided.remove = go;
    for one in stay {
        decided
            .keep
            .push(retention::Kept { id: one.id, reasons: vec![retention::Reason::Original { days }] });
    }
    decided.keep.sort_by(|a, b| b.id.cmp(&a.id));
}

/// Moves the snapshots that a person named to those that go.
fn name(decided: &mut Decided, forget: &BTreeSet<SnapshotId>) -> Result<()> {
    for id in forget {
        let Some(at) = decided.keep.iter().position(|kept| kept.id == *id) else {
            if decided.remove.iter().any(|removed| removed.id == *id) {
                continue;
            }
            return Err(Failure::new(ExitCode::Usage, format!("there is no snapshot `{id}`"))
                .hint("`lifeboat snapshots` lists them."));
        };
        decided.keep.remove(at);
        decided.remove.push(retention::Removed { id: id.clone(), reason: retention::Gone::Named });
    }
    if decided.keep.is_empty() && !forget.is_empty() {
        return Err(Failure::new(ExitCode::Usage, "no snapshot would be left")
            .hint("The last one is never removed; make another backup first."));
    }
    Ok(())
}

/// Carries a plan out. Where a guard asks, `accepted` must be the number of snapshots that go.
pub async fn apply(
    repository: &Repository<Maintain>,
    planned: Planned,
    accepted: Option<usize>,
    ground: &Ground,
    monitor: &SharedMonitor,
) -> Result<PruneReport> {
    let removed = planned.decided.remove.len();
    if let Some(guard) = planned.decided.guards.first().filter(|_| accepted != Some(removed)) {
        return Err(Failure::new(ExitCode::Failed, format!("prune stands still: {guard}"))
            .hint("Look at `lifeboat prune --plan`.")
            .hint(format!("If that is right, run `lifeboat prune --apply --accept {removed}`.")));
    }
    repository.apply(planned.plan, ground, monitor).await
}
