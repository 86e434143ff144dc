//! Whether the commits of a repository are all there and are what they say: a pure question to what was read.
//!
//! Every signer numbers its commits and names the one before. A number that is missing must be explained by a
//! signed tombstone; a commit that this host has seen must be there or explained; times must not run backwards.
//! Whoever cannot sign cannot make any of this right again.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Duration, Utc};

use super::{
    core::Core,
    format::layout,
    survey::{Ledger, SignedRefs, Survey},
    witness::Head,
};
use crate::{
    error::{ExitCode, Result},
    names::PackId,
};

/// How far clocks may be apart before a commit counts as dated wrongly.
pub const CLOCK_SLACK: Duration = Duration::hours(1);
/// How long a run may have been at work: others that began after it may have committed before it.
pub const RUN_MAX: Duration = Duration::hours(72);

/// Something that nobody who holds the keys would have done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incident {
    /// The object that shows it.
    pub object: String,
    /// What is wrong with it.
    pub what: String,
    /// Whether somebody without the key must have done it; otherwise bytes were damaged.
    pub tampering: bool,
}

/// What one signer has committed, by number.
#[derive(Default)]
struct Chain<'a> {
    there: BTreeMap<u64, Vec<&'a SignedRefs>>,
    explained: BTreeMap<u64, BTreeSet<PackId>>,
    /// The highest number that was forgotten here.
    forgotten: u64,
}

impl Core {
    /// Reads what is in the clear and looks for what does not fit together. Objects are listed one prefix after the
    /// other, so a prune that ran meanwhile can look like a theft: only what is seen twice is told.
    pub(super) async fn checked_ledger(&self, now: DateTime<Utc>) -> Result<(Ledger, Vec<Incident>)> {
        let ledger = self.ledger().await?;
        let found = self.check_integrity(&ledger, now)?;
        if found.is_empty() {
            return Ok((ledger, found));
        }
        let ledger = self.ledger().await?;
        let found = self.check_integrity(&ledger, now)?;
        Ok((ledger, found))
    }

    /// Looks for what does not fit together, and remembers the newest commits when everything does.
    fn check_integrity(&self, ledger: &Ledger, now: DateTime<Utc>) -> Result<Vec<Incident>> {
        let repository = &self.config.repository;
        let found = incidents(ledger, &self.witness.heads(repository)?, self.config.revision, now);
        if found.is_empty() {
            let Survey { good, forgotten, doubted, .. } = &ledger.survey;
            for one in good.iter().chain(forgotten).filter(|one| !doubted.contains(&one.refs.snapshot)) {
                let head = Head { seq: one.refs.seq, refs: one.digest };
                self.witness.saw_head(repository, &one.signer, head)?;
            }
        }
        Ok(found)
    }
}

/// Returns everything that does not fit together. `heads` is what this host has seen, `config` the revision of the
/// config in force.
pub fn incidents(
    ledger: &Ledger,
    heads: &BTreeMap<String, Head>,
    config: u32,
    now: DateTime<Utc>,
) -> Vec<Incident> {
    let mut found = Vec::new();
    for (key, failure) in ledger.survey.bad.iter().chain(&ledger.bad).chain(&ledger.proofs.bad) {
        found.push(Incident {
            object: key.to_string(),
            what: failure.one_line(),
            tampering: failure.exit() == ExitCode::Tampering,
        });
    }
    let all = || ledger.survey.good.iter().chain(&ledger.survey.forgotten);
    // Refs that are there and not believed are the likely end of a broken chain, and were told already.
    if ledger.survey.bad.is_empty() {
        found.extend(losses(ledger, heads).into_iter().map(Loss::told));
    }
    for chain in chains(ledger, heads).values() {
        chain.check_dates(now, &mut found);
    }
    for one in all().filter(|one| one.refs.config > config) {
        let what = format!("it was made with config revision {}, which is gone", one.refs.config);
        found.push(tampering(object(one), what));
    }
    found
}

/// A commit that was there and is gone, and no tombstone says why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Loss {
    /// Who signed it.
    pub(super) signer: String,
    /// Its number.
    pub(super) seq: u64,
    /// SHA-256 of its refs, if a later commit or this host knows it.
    pub(super) refs: Option<PackId>,
    /// What shows that it was there.
    shown_by: String,
}

impl Loss {
    fn told(self) -> Incident {
        let Self { signer, seq, shown_by, .. } = self;
        tampering(shown_by, format!("commit {seq} of {signer} is gone, and no tombstone says why"))
    }
}

/// Returns the commits that are gone without an explanation. Two runs at once may have the same number; that is no
/// harm.
pub(super) fn losses(ledger: &Ledger, heads: &BTreeMap<String, Head>) -> Vec<Loss> {
    let mut all: BTreeMap<(String, u64), Loss> = BTreeMap::new();
    for (signer, chain) in chains(ledger, heads) {
        let mut note = |seq: u64, refs: Option<PackId>, shown_by: String| {
            let loss = Loss { signer: signer.to_owned(), seq, refs, shown_by };
            all.entry((signer.to_owned(), seq)).or_insert(loss);
        };
        for one in chain.there.values().flatten() {
            let Some(previous) = one.refs.previous else { continue };
            let seq = one.refs.seq.saturating_sub(1);
            if !chain.has(seq, previous) {
                note(seq, Some(previous), object(one));
            }
        }
        if let Some(head) = heads.get(signer).filter(|head| !chain.has(head.seq, head.refs)) {
            note(head.seq, Some(head.refs), layout::REFS.to_owned());
        }
        // What is only explained was never here: a copy hears of it before it gets what came earlier.
        let newest = chain.there.keys().next_back().copied().unwrap_or_default().max(chain.forgotten);
        let is_told = |seq: &u64| chain.there.contains_key(seq) || chain.explained.contains_key(seq);
        for seq in (1..newest).filter(|seq| !is_told(seq)) {
            note(seq, None, layout::REFS.to_owned());
        }
    }
    all.into_values().collect()
}

fn chains<'a>(ledger: &'a Ledger, heads: &'a BTreeMap<String, Head>) -> BTreeMap<&'a str, Chain<'a>> {
    let mut chains: BTreeMap<&str, Chain<'_>> = BTreeMap::new();
    for one in ledger.survey.good.iter().chain(&ledger.survey.forgotten) {
        chains.entry(&one.signer).or_default().there.entry(one.refs.seq).or_default().push(one);
    }
    for commit in ledger.tombstones.iter().chain(&ledger.explanations).filter_map(|t| t.commit.as_ref()) {
        let chain = chains.entry(&commit.signer).or_default();
        chain.explained.entry(commit.seq).or_default().insert(commit.refs);
    }
    for commit in ledger.tombstones.iter().filter_map(|tombstone| tombstone.commit.as_ref()) {
        let chain = chains.entry(&commit.signer).or_default();
        chain.forgotten = chain.forgotten.max(commit.seq);
    }
    for signer in heads.keys() {
        chains.entry(signer).or_default();
    }
    chains
}

fn object(one: &SignedRefs) -> String {
    layout::refs(&one.refs.snapshot, one.refs.revision).to_string()
}

fn tampering(object: String, what: String) -> Incident {
    Incident { object, what, tampering: true }
}

impl Chain<'_> {
    fn has(&self, seq: u64, refs: PackId) -> bool {
        self.there.get(&seq).is_some_and(|all| all.iter().any(|one| one.digest == refs))
            || self.explained.get(&seq).is_some_and(|all| all.contains(&refs))
    }

    /// Checks that no commit claims a time that cannot be: later than when the store got it, or so much earlier than
    /// what its writer committed before that no run takes that long.
    fn check_dates(&self, now: DateTime<Utc>, found: &mut Vec<Incident>) {
        let mut latest: Option<DateTime<Utc>> = None;
        for one in self.there.values().flatten() {
            let began = one.refs.began;
            if began > one.received.unwrap_or(now) + CLOCK_SLACK {
                let what = format!("it says that it was begun at {began}, which is after it was stored");
                found.push(tampering(object(one), what));
                continue;
            }
            if let Some(latest) = latest.filter(|latest| began < *latest - RUN_MAX) {
                let what = format!(
                    "it says that it was begun at {began}, before its writer's earlier one of {latest}"
                );
                found.push(tampering(object(one), what));
                continue;
            }
            latest = latest.max(Some(began));
        }
    }
}
