//! Prune: what the policy keeps is kept, what nobody needs goes.
//!
//! *Order.* A plan that a person reads, then that same plan carried out: forget, condemn; days later sweep. Before it
//! is carried out the catalog learns what drills of any host found, by their proofs: a failure stops it here too.
//! *Crash.* Nothing that counts as a snapshot ever lacks anything; see `repo::prune`.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Duration, Utc};
use chrono_tz::Tz;

use super::{
    drilled,
    open::Opening,
    run::{Outcome, Remembered, RunContext, noted},
    seen::PlaceSeen,
    watch,
};
use crate::{
    catalog::Catalog,
    clock::Ground,
    error::{ExitCode, Failure, Result},
    event::SharedMonitor,
    names::{Job, SnapshotId, Task},
    policy::Stack,
    repo::{self, Inspection, Maintain, PrunePlan, PruneReport, Repository, Terms, format::Proof},
    retention::{self, Candidate, Decided, Rules},
    status::Kind,
    store::Trash,
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
    /// Whether each signer's snapshots are counted by themselves, as each holds other sources.
    pub sharded: bool,
    /// Signers that sign no more: the last snapshot of one may go, by name.
    pub revoked: BTreeSet<String>,
    /// How long things wait.
    pub terms: Terms,
}

/// What a person asks of a prune that is carried out.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// The offsite; the stack's repository when none is named.
    pub offsite: Option<String>,
    /// Snapshots that are to go whatever the rules say.
    pub forget: BTreeSet<SnapshotId>,
    /// How many snapshots a person agreed to lose.
    pub accepted: Option<usize>,
    /// Whether what lies in the trash is removed at once.
    pub empty_trash: bool,
}

/// What a prune did.
pub struct Pruned {
    /// The plan that was carried out.
    pub planned: Planned,
    /// What was done.
    pub report: PruneReport,
    /// Bytes that were freed.
    pub freed_bytes: u64,
    /// What lies in the trash now.
    pub trash: Trash,
}

impl Remembered for Pruned {
    fn outcome(&self) -> Outcome {
        let Planned { decided, proven, .. } = &self.planned;
        let still = decided.keep.iter().filter(|kept| proven.contains(&kept.id)).count() as u64;
        let place = PlaceSeen {
            snapshots: Some(decided.keep.len() as u64),
            proven: Some(still),
            ..PlaceSeen::default()
        };
        Outcome { place, ..Outcome::default() }
    }
}

/// Plans and carries the plan out, as a run.
pub async fn of_stack(context: RunContext<'_>, wanted: Wanted) -> Result<Pruned> {
    let RunContext { stack, ground, monitor, .. } = context;
    let task = Task { job: Job::Prune, place: wanted.offsite.clone() };
    let ledger = context.ledger()?;
    noted(context, &task, async {
        let opening = Opening::named(stack, wanted.offsite.as_deref(), monitor)?;
        let repository = opening.maintain(stack, monitor).await?;
        let asked = asked(stack, wanted.offsite.as_deref(), wanted.forget)?;
        let planned = plan(&repository, &asked, ground, monitor).await?;
        // Also what answers a failure may be known by its proof alone.
        drilled::learn(stack, &ledger, &planned.drills, ground.clock.now())?;
        check_not_frozen(stack, &ledger, ground)?;
        opening.check_for_prune(ground).await?;
        let report = apply(&repository, planned.clone(), wanted.accepted, ground, monitor).await?;
        let stays = if wanted.empty_trash { Duration::zero() } else { TRASH_STAYS };
        let freed_bytes = opening.tidy(ground.clock.now() - stays, ground).await?;
        let trash = opening.trash().await?;
        Ok(Pruned { planned, report, freed_bytes, trash })
    })
    .await
}

/// Returns why nothing may be removed until a person has looked, if that is so.
pub fn frozen(stack: &Stack, ledger: &Catalog, now: DateTime<Utc>) -> Result<Option<String>> {
    let open = ledger.open_incidents()?;
    let freezes = open.iter().find(|one| one.kind == Kind::Anomaly && one.acknowledged.is_none());
    match freezes {
        Some(one) => Ok(Some(format!("{} (incident {})", one.what, one.number))),
        None => drilled::freezes(stack, ledger, &open, now),
    }
}

/// Fails while a source looks as if much of it were lost, or no drill shows that what is there can be restored: the
/// older snapshots may be all that is left. Looks by itself, for nobody may have since the newest backup.
fn check_not_frozen(stack: &Stack, ledger: &Catalog, ground: &Ground) -> Result<()> {
    watch::look(stack, ledger, ground)?;
    let Some(why) = frozen(stack, ledger, ground.clock.now())? else { return Ok(()) };
    Err(Failure::new(ExitCode::Failed, "prune stands still until a person has looked")
        .because(why)
        .hint("If that is right, run `lifeboat incidents acknowledge NUMBER --note WHY`.")
        .frozen())
}

/// Returns what the policy asks of a prune.
pub fn asked(stack: &Stack, offsite: Option<&str>, forget: BTreeSet<SnapshotId>) -> Result<Asked> {
    let offsite = offsite.and_then(|name| stack.offsite(name));
    let retention = offsite.and_then(|offsite| offsite.retention.as_ref()).unwrap_or(&stack.retention);
    Ok(Asked {
        rules: retention.rules()?,
        zone: stack.timezone,
        forget,
        delay_days: offsite.map(|offsite| offsite.settings.delay_days),
        sharded: stack.repository.settings.sharded,
        revoked: stack.repository.settings.revoked.iter().map(|one| one.signer.clone()).collect(),
        terms: Terms::default(),
    })
}

/// A plan, and why it is so.
#[derive(Clone)]
pub struct Planned {
    /// What the rules decided.
    pub decided: Decided,
    /// Why snapshots are pinned.
    pub pins: BTreeMap<SnapshotId, String>,
    /// The snapshots that a drill has proven.
    pub proven: BTreeSet<SnapshotId>,
    /// When each snapshot was begun.
    pub began: BTreeMap<SnapshotId, chrono::DateTime<Utc>>,
    /// What drills found, the oldest first.
    pub drills: Vec<Proof>,
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
    let mut decided = decide(&seen, asked, now)?;
    stay_for_now(&mut decided, &seen, asked, now);
    name(&mut decided, &seen, asked)?;
    let remove = decided.remove.iter().map(|one| (one.id.clone(), one.reason.to_string())).collect();
    let began = seen.snapshots().map(|one| (one.refs.snapshot.clone(), one.refs.began)).collect();
    let terms = Terms { is_copy: asked.delay_days.is_some(), ..asked.terms };
    let plan = repo::plan(&seen, &remove, terms, now);
    let drills = seen.drills().cloned().collect();
    let proven = seen.proven.into_keys().collect();
    Ok(Planned { decided, pins: seen.pins, proven, began, drills, plan })
}

/// Asks the rules; where hosts had sources of their own, for each signer's snapshots by themselves. Counted together,
/// the last one of a day would be that day's snapshot, and the other hosts' sources in none that stays.
fn decide(seen: &Inspection, asked: &Asked, now: chrono::DateTime<Utc>) -> Result<Decided> {
    let mut groups: BTreeMap<&str, Vec<Candidate>> = BTreeMap::new();
    for one in seen.snapshots() {
        let group = if asked.sharded { one.signer.as_str() } else { "" };
        groups.entry(group).or_default().push(Candidate {
            id: one.refs.snapshot.clone(),
            began: one.refs.began,
            complete: one.refs.is_whole(),
            pinned: seen.pins.contains_key(&one.refs.snapshot),
            proven: seen.proven.contains_key(&one.refs.snapshot),
        });
    }
    let groups = if groups.is_empty() { vec![Vec::new()] } else { groups.into_values().collect() };
    let mut all = Decided { keep: Vec::new(), remove: Vec::new(), guards: Vec::new() };
    for candidates in groups {
        let decided = retention::decide(&candidates, &asked.rules, now, asked.zone)?;
        all.keep.extend(decided.keep);
        all.remove.extend(decided.remove);
        all.guards.extend(decided.guards);
    }
    if asked.sharded {
        all.keep.sort_by(|a, b| b.id.cmp(&a.id));
        all.remove.sort_by(|a, b| b.id.cmp(&a.id));
    }
    Ok(all)
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
fn name(decided: &mut Decided, seen: &Inspection, asked: &Asked) -> Result<()> {
    for id in &asked.forget {
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
    let bereft = |what: &str| {
        let failure = Failure::new(ExitCode::Usage, format!("no snapshot {what}would be left"));
        Err(failure.hint("The last one is never removed; make another backup first."))
    };
    if decided.keep.is_empty() && !asked.forget.is_empty() {
        return bereft("");
    }
    match without(decided, seen, asked).filter(|_| asked.sharded) {
        Some(signer) => bereft(&format!("of signer `{signer}` ")),
        None => Ok(()),
    }
}

/// Returns a signer that signs on and of whose snapshots none would stay, as a person named them: where hosts had
/// sources of their own, those of that host would be in no snapshot.
fn without<'a>(decided: &Decided, seen: &'a Inspection, asked: &Asked) -> Option<&'a str> {
    let signer: BTreeMap<&SnapshotId, &str> =
        seen.snapshots().map(|one| (&one.refs.snapshot, one.signer.as_str())).collect();
    let left: BTreeSet<&str> = decided.keep.iter().filter_map(|one| signer.get(&one.id).copied()).collect();
    let named = asked.forget.iter().filter_map(|id| signer.get(id).copied());
    named.into_iter().find(|signer| !left.contains(signer) && !asked.revoked.contains(*signer))
}

/// Carries a plan out. Where a guard asks, `accepted` must be the number of snapshots that go; that it was refused is a
/// failure like others, for nothing else would tell of it.
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
