//! Where the policy of today and a snapshot have other sources, and what that means for a drill.
//!
//! What the snapshot never could have is no fault of it: a note. What it lost fails. What nobody can tell, for the
//! policy knows no more what it was, or no snapshot has it yet, could not be asked; the next backup puts that right.

use std::collections::BTreeSet;

use crate::{
    drill::{Assertion, Question},
    names::SourceName,
    policy::{DrillConfig, Stack},
    repo::{
        Read, Repository, Snapshot,
        format::{Manifest, Refs},
    },
};

/// What is asked of a source that could not be restored at all.
const RESTORED: &str = "the source was restored";

const REMOVED: &str = "the policy does not have it any more, so nobody knows how to restore it: put it back, or drill a \
                       snapshot that was made since it was taken out";
const REUSED: &str = "the policy has another kind of source by this name, so nobody knows how to restore it: drill a \
                      snapshot that was made since the name was given away";

/// Why a source of the policy is not in a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lack {
    /// The snapshot is of the time when each host backed up sources of its own.
    Shard,
    /// Only younger snapshots have it.
    Newer,
    /// No snapshot has it.
    Never,
    /// A person chose what to back up.
    Chosen,
    /// An older snapshot has it, and this is the newest.
    Lost,
    /// An older snapshot has it, and there are younger ones than this: the policy of its day may not have had it.
    Away,
}

/// The sources that only one of the two has.
#[derive(Clone, Debug, Default)]
pub(super) struct Drift {
    /// Those of the policy.
    absent: Vec<(SourceName, Lack)>,
    /// Those of the snapshot, and why nobody knows how to restore them.
    removed: Vec<(SourceName, &'static str)>,
}

impl Drift {
    /// Compares a snapshot with the policy. Others of `refs`, which are the oldest first, are looked into only where it
    /// lacks something.
    pub(super) async fn of(
        stack: &Stack,
        snapshot: &Snapshot,
        repository: &Repository<Read>,
        refs: &[Refs],
    ) -> Self {
        let manifest = &snapshot.manifest;
        let is_absent = |name: &&SourceName| !had(manifest, name);
        let absent: Vec<SourceName> =
            stack.sources.iter().map(|config| &config.name).filter(is_absent).cloned().collect();
        let removed = manifest.sources.iter().filter_map(|source| {
            let why = match stack.source(source.name.as_str()) {
                None => REMOVED,
                Some(config) if config.kind.word() != source.kind => REUSED,
                Some(_) => return None,
            };
            Some((source.name.clone(), why))
        });
        let mut drift = Self { absent: Vec::new(), removed: removed.collect() };
        let is_newest = !refs.iter().any(|one| !one.chosen && one.began > snapshot.refs.began);
        // The newest one is what a restore would take: it must have all, whoever made it.
        let is_of_shard = stack.repository.settings.sharded && !is_newest;
        let is_clear = absent.is_empty() || snapshot.refs.chosen || is_of_shard;
        let [before, after] =
            if is_clear { Default::default() } else { beside(&absent, snapshot, repository, refs).await };
        for name in absent {
            let lack = match () {
                () if snapshot.refs.chosen => Lack::Chosen,
                () if is_of_shard => Lack::Shard,
                () if before.contains(&name) => {
                    if is_newest {
                        Lack::Lost
                    } else {
                        Lack::Away
                    }
                }
                () if after.contains(&name) => Lack::Newer,
                () => Lack::Never,
            };
            drift.absent.push((name, lack));
        }
        drift
    }

    /// Returns what counts for the recipe: it brings back all that the snapshot has, whatever the policy knows of it.
    pub(super) fn by_hand(self) -> Self {
        Self { removed: Vec::new(), ..self }
    }

    /// Returns what the snapshot should have and does not, a line each.
    pub(super) fn lost(&self) -> impl Iterator<Item = String> {
        let lost = self.absent.iter().filter(|(_, lack)| *lack == Lack::Lost);
        lost.map(|(name, _)| format!("{name}: the snapshot does not have it, and one before it does"))
    }

    /// Returns what a person should know, a line each.
    pub(super) fn notes(&self) -> impl Iterator<Item = String> {
        self.absent.iter().filter_map(|(name, lack)| match lack {
            Lack::Shard => Some(format!(
                "{name}: the snapshot is of a host that had other sources; of this one it says nothing"
            )),
            Lack::Newer => Some(format!("{name}: newer than the snapshot; only younger ones have it")),
            _ => None,
        })
    }

    /// Returns what could not be found out, and how to go on.
    pub(super) fn unknown(&self) -> impl Iterator<Item = Assertion> {
        let absent = self.absent.iter().filter_map(|(name, lack)| match lack {
            Lack::Never => Some((name, "no snapshot has it yet: drill one that is made from now on")),
            Lack::Chosen => Some((
                name,
                "a person chose the sources of this snapshot, and not this one: drill another snapshot",
            )),
            Lack::Away => Some((
                name,
                "the snapshot does not have it, and one before it does: perhaps the policy of its day did not; drill a \
                 younger one",
            )),
            _ => None,
        });
        let removed = self.removed.iter().map(|(name, why)| (name, *why));
        absent.chain(removed).map(|(name, why)| {
            Assertion::could_not_run(Question::Restored, RESTORED, why).about(name.as_str())
        })
    }

    /// Returns the questions that this snapshot can answer, and a note on each of the others.
    pub(super) fn questions(&self, drill: &DrillConfig) -> (DrillConfig, Vec<String>) {
        let excused: BTreeSet<&str> = self
            .absent
            .iter()
            .filter(|(_, lack)| matches!(lack, Lack::Shard | Lack::Newer))
            .map(|(name, _)| name.as_str())
            .collect();
        let (mut drill, mut notes) = (drill.clone(), Vec::new());
        let mut asks = |what: &str, sources: &[&str]| {
            let lacking = sources.iter().find(|source| excused.contains(*source));
            notes.extend(
                lacking.map(|source| format!("`{what}` was not asked: `{source}` is not in the snapshot")),
            );
            lacking.is_none()
        };
        drill.references.retain(|one| asks(&super::references::name_of(one), &[&one.source, &one.inside]));
        drill.expectations.retain(|one| asks(&one.name, &[&one.source]));
        drill.freshness.retain(|one| asks(&one.name, &[&one.source]));
        // Which sources a program asks is its own affair: it is made for all.
        let all: Vec<&str> = excused.iter().copied().collect();
        drill.commands.retain(|one| asks(&one.name, &all));
        (drill, notes)
    }
}

/// Returns whether a snapshot has a source, or tells why it could not be read.
fn had(manifest: &Manifest, name: &SourceName) -> bool {
    manifest.sources.iter().any(|source| source.name == *name)
        || manifest.failed.iter().any(|failed| failed.what == name.as_str())
}

/// Returns which of `names` are in an older snapshot, and which in a younger one. What cannot be read is told
/// elsewhere.
async fn beside(
    names: &[SourceName],
    snapshot: &Snapshot,
    repository: &Repository<Read>,
    refs: &[Refs],
) -> [BTreeSet<SourceName>; 2] {
    let (mut before, mut after) = (BTreeSet::new(), BTreeSet::new());
    for one in refs.iter().filter(|one| one.snapshot != snapshot.refs.snapshot) {
        let Ok(manifest) = repository.manifest(one).await else { continue };
        let side = if one.began <= snapshot.refs.began { &mut before } else { &mut after };
        side.extend(names.iter().filter(|name| had(&manifest, name)).cloned());
        if names.iter().all(|name| before.contains(name) || after.contains(name)) {
            break;
        }
    }
    [before, after]
}
