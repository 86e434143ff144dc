//! What prune would do: a pure function of what was read, so that the plan that is shown is the plan that is carried
//! out.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};

use super::{Inspection, Terms, came};
use crate::{
    names::{PackId, SnapshotId},
    repo::{
        marks::Forgotten,
        survey::{Generation, Ledger, SignedRefs},
    },
};

/// A snapshot that is to be forgotten.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removal {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// Why.
    pub reason: String,
    /// Its commit; `None` for refs that were never signed.
    pub commit: Option<Forgotten>,
}

/// What becomes of a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PackState {
    /// A snapshot needs it.
    Live,
    /// Snapshots need it, and no new one will.
    Retired,
    /// No snapshot needs it yet: a run may be at work.
    Young,
    /// No snapshot needs it; this plan condemns it.
    Unneeded,
    /// It was condemned and waits.
    Condemned,
    /// It is swept by this plan.
    Due,
}

impl PackState {
    /// Every state, in the order in which a pack goes through them.
    pub const ALL: [Self; 6] =
        [Self::Live, Self::Retired, Self::Young, Self::Unneeded, Self::Condemned, Self::Due];

    /// Returns the word that people and `--json` see.
    pub fn word(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Retired => "retired",
            Self::Young => "young",
            Self::Unneeded => "unneeded",
            Self::Condemned => "condemned",
            Self::Due => "due",
        }
    }
}

/// A pack and what becomes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackLine {
    /// The pack.
    pub pack: PackId,
    /// Its size.
    pub size_bytes: u64,
    /// What becomes of it.
    pub state: PackState,
    /// When it may be swept at the earliest.
    pub goes: Option<DateTime<Utc>>,
    /// How many snapshots need it.
    pub needed_by: u64,
    /// The newest snapshot that needs it: the one that keeps it longest.
    pub kept_by: Option<SnapshotId>,
}

/// What prune would do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrunePlan {
    /// The newest generation that the store had; the plan is void once there is a newer one.
    pub basis: u64,
    /// The snapshots to forget.
    pub remove: Vec<Removal>,
    /// The packs to condemn, with their sizes.
    pub condemn: BTreeMap<PackId, u64>,
    /// The generations to sweep.
    pub sweep: Vec<u64>,
    /// Snapshots that were forgotten and that no waiting generation will sweep: a run died, or somebody read them.
    pub unswept: Vec<SnapshotId>,
    /// Generations whose sweep began and did not end.
    pub open: Vec<u64>,
    /// Every pack.
    pub packs: Vec<PackLine>,
    /// How long things wait.
    pub terms: Terms,
    /// When the plan was made.
    pub at: DateTime<Utc>,
}

impl PartialEq for Terms {
    fn eq(&self, other: &Self) -> bool {
        (self.grace, self.session, self.is_copy) == (other.grace, other.session, other.is_copy)
    }
}

impl Eq for Terms {}

impl PrunePlan {
    /// Returns whether there is something to do.
    pub fn is_empty(&self) -> bool {
        self.generation().is_none() && self.sweep.is_empty()
    }

    /// Returns the generation that this plan makes, if it makes one.
    pub fn generation(&self) -> Option<u64> {
        let idle = self.remove.is_empty() && self.condemn.is_empty() && self.unswept.is_empty();
        (!idle).then_some(self.basis + 1)
    }

    /// Returns how many packs of a state there are and how big they are together.
    pub fn sum(&self, state: PackState) -> (u64, u64) {
        let of_state = self.packs.iter().filter(|line| line.state == state);
        of_state.fold((0, 0), |(count, bytes), line| (count + 1, bytes + line.size_bytes))
    }
}

/// Makes a plan that forgets the snapshots in `remove`, each with its reason, besides what died unsigned and what a
/// revoked key signed.
pub fn plan(
    seen: &Inspection,
    remove: &BTreeMap<SnapshotId, String>,
    terms: Terms,
    now: DateTime<Utc>,
) -> PrunePlan {
    let ledger = &seen.ledger;
    let removals = removals(ledger, remove, terms, now);
    let users = users(ledger, remove, terms, now);
    let waiting = waiting(ledger);
    let due = due(ledger, terms, now);
    // What is younger than the oldest run that is at work may be of that run.
    let at_work =
        ledger.sessions.iter().filter(|(id, one)| is_at_work(ledger, id, one.ended, one.last, terms, now));
    let began: Vec<_> = at_work.map(|(_, one)| one.first).collect();
    let mut packs = Vec::new();
    for (pack, stored) in &ledger.packs {
        let by = users.get(pack);
        let generation = waiting.get(pack);
        // Where the store tells no times, everything may be of a run at work.
        let is_young = began.iter().any(|began| stored.modified >= *began || stored.modified.is_none());
        let state = match (by, generation) {
            (Some(_), _) if seen.avoided.contains(pack) => PackState::Retired,
            (Some(_), _) => PackState::Live,
            (None, Some((number, _))) if due.contains(number) => PackState::Due,
            (None, Some(_)) => PackState::Condemned,
            (None, None) if is_young => PackState::Young,
            (None, None) => PackState::Unneeded,
        };
        let goes = match state {
            PackState::Condemned => generation.map(|(_, since)| *since + terms.grace),
            PackState::Unneeded => Some(now + terms.grace),
            PackState::Due => Some(now),
            _ => None,
        };
        let (needed_by, kept_by) = by.map_or((0, None), |by| (by.count, by.last.cloned()));
        packs.push(PackLine { pack: *pack, size_bytes: stored.size_bytes, state, goes, needed_by, kept_by });
    }
    let condemn = packs.iter().filter(|line| line.state == PackState::Unneeded);
    let condemn = condemn.map(|line| (line.pack, line.size_bytes)).collect();
    let open = ledger
        .generations
        .iter()
        .filter(|(_, one)| one.open && one.done.is_none() && one.condemned.is_some());
    let open = open.map(|(number, _)| *number).collect();
    // Also numbers of which only a signature came: a name is used once.
    let basis = ledger.generations.keys().next_back().copied().unwrap_or_default().max(ledger.last_tombstone);
    let unswept = unswept(ledger);
    PrunePlan {
        basis,
        remove: removals,
        condemn,
        sweep: due.into_iter().collect(),
        unswept,
        open,
        packs,
        terms,
        at: now,
    }
}

/// Returns the forgotten snapshots that lie there still and that no waiting generation will remove.
fn unswept(ledger: &Ledger) -> Vec<SnapshotId> {
    let is_waiting =
        |one: &Generation| one.condemned.is_some() && !one.void && !one.open && one.done.is_none();
    let last = ledger.generations.iter().filter(|(_, one)| is_waiting(one)).map(|(number, _)| *number).max();
    let there = ledger.survey.forgotten.iter().chain(&ledger.survey.revoked).map(|one| &one.refs.snapshot);
    let there: BTreeSet<&SnapshotId> =
        there.chain(ledger.unsigned.iter().map(|one| &one.snapshot)).chain(ledger.strays.keys()).collect();
    let late = ledger.tombstones.iter().filter(|tombstone| {
        there.contains(&tombstone.snapshot) && last.is_none_or(|last| tombstone.generation > last)
    });
    late.map(|tombstone| tombstone.snapshot.clone()).collect()
}

/// Returns whether a session may still put or need something: it has not ended, has made no commit, and was heard of
/// not long ago.
pub(super) fn is_at_work(
    ledger: &Ledger,
    id: &SnapshotId,
    ended: bool,
    last: Option<DateTime<Utc>>,
    terms: Terms,
    now: DateTime<Utc>,
) -> bool {
    let survey = &ledger.survey;
    let committed = survey.good.iter().chain(&survey.forgotten).any(|one| one.refs.snapshot == *id);
    !ended && !committed && last.unwrap_or(id.time()) + terms.session > now
}

fn commit_of(one: &SignedRefs) -> Forgotten {
    Forgotten { refs: one.digest, signer: one.signer.clone(), seq: one.refs.seq }
}

fn removals(
    ledger: &Ledger,
    remove: &BTreeMap<SnapshotId, String>,
    terms: Terms,
    now: DateTime<Utc>,
) -> Vec<Removal> {
    let mut all = Vec::new();
    for one in &ledger.survey.good {
        if let Some(reason) = remove.get(&one.refs.snapshot) {
            let (snapshot, reason) = (one.refs.snapshot.clone(), reason.clone());
            all.push(Removal { snapshot, reason, commit: Some(commit_of(one)) });
        }
    }
    for one in &ledger.survey.revoked {
        if ledger.tombstones.iter().any(|tombstone| tombstone.forgets(one)) {
            continue;
        }
        let reason = "signed by a key after that was revoked".to_owned();
        all.push(Removal { snapshot: one.refs.snapshot.clone(), reason, commit: Some(commit_of(one)) });
    }
    let unsigned = ledger.unsigned.iter().map(|one| (&one.snapshot, one.modified));
    let unfinished = unsigned.chain(ledger.strays.iter().map(|(id, stray)| (id, stray.last)));
    for (snapshot, modified) in unfinished {
        let came = modified.unwrap_or(snapshot.time());
        let has_tombstone = ledger.tombstones.iter().any(|tombstone| tombstone.snapshot == *snapshot);
        let session = ledger.sessions.get(snapshot);
        let at_work = session
            .is_some_and(|session| is_at_work(ledger, snapshot, session.ended, session.last, terms, now));
        let goes_on = terms.is_copy && !ledger.explanations.iter().any(|one| one.snapshot == *snapshot);
        if !has_tombstone && !at_work && !goes_on && came + terms.grace <= now {
            let reason = "its run died before it could commit".to_owned();
            all.push(Removal { snapshot: snapshot.clone(), reason, commit: None });
        }
    }
    all
}

/// Who needs a pack.
#[derive(Default)]
struct Users<'a> {
    count: u64,
    /// The one that was added last.
    last: Option<&'a SnapshotId>,
}

impl<'a> Users<'a> {
    fn add(&mut self, snapshot: &'a SnapshotId) {
        self.count += 1;
        self.last = Some(snapshot);
    }
}

/// Returns who needs each pack, oldest first: every commit that stays, refs that nobody signed yet, and forgotten
/// snapshots that somebody reads.
fn users<'a>(
    ledger: &'a Ledger,
    remove: &BTreeMap<SnapshotId, String>,
    terms: Terms,
    now: DateTime<Utc>,
) -> BTreeMap<PackId, Users<'a>> {
    let mut users: BTreeMap<PackId, Users<'_>> = BTreeMap::new();
    let read = in_use(ledger, terms, now);
    let stays = ledger.survey.good.iter().filter(|one| !remove.contains_key(&one.refs.snapshot));
    let gone = ledger.survey.good.iter().filter(|one| remove.contains_key(&one.refs.snapshot));
    let read = gone.chain(&ledger.survey.forgotten).filter(|one| read.contains(&one.refs.snapshot));
    for one in read.chain(stays) {
        one.packs.for_each(|pack, _| users.entry(pack).or_default().add(&one.refs.snapshot));
    }
    // Also of those that get a tombstone now: they count until their object is gone.
    for one in &ledger.unsigned {
        for pack in one.packs.keys() {
            users.entry(*pack).or_default().add(&one.snapshot);
        }
    }
    users
}

/// Returns the snapshots that sessions at work have named.
pub(super) fn in_use(ledger: &Ledger, terms: Terms, now: DateTime<Utc>) -> BTreeSet<SnapshotId> {
    let sessions =
        ledger.sessions.iter().filter(|(id, one)| is_at_work(ledger, id, one.ended, one.last, terms, now));
    sessions.flat_map(|(_, one)| one.snapshots.iter().cloned()).collect()
}

/// Returns the packs that wait for their sweep, with the generation and since when.
fn waiting(ledger: &Ledger) -> BTreeMap<PackId, (u64, DateTime<Utc>)> {
    let mut waiting = BTreeMap::new();
    for (number, generation) in &ledger.generations {
        // What a sweep has left behind, whether it ended or died, is condemned anew.
        let Generation {
            condemned: Some(list),
            condemned_at: Some(at),
            void: false,
            open: false,
            done: None,
            ..
        } = generation
        else {
            continue;
        };
        for pack in list.packs.keys() {
            waiting.entry(*pack).or_insert((*number, *at));
        }
    }
    waiting
}

/// Returns the generations that may be swept: condemned long enough ago, and a complete snapshot was made since.
fn due(ledger: &Ledger, terms: Terms, now: DateTime<Utc>) -> BTreeSet<u64> {
    let newest = ledger.survey.good.iter().filter(|one| one.refs.is_whole()).map(came).max();
    let due = ledger.generations.iter().filter(|(_, generation)| {
        let waits = generation.condemned.is_some()
            && !generation.void
            && !generation.open
            && generation.done.is_none();
        let since = generation.condemned_at;
        waits
            && since.is_some_and(|since| {
                since + terms.grace <= now && newest.is_some_and(|newest| newest > since)
            })
    });
    due.map(|(number, _)| *number).collect()
}
