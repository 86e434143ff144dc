//! What of a snapshot is wanted: counted for a plan, and shown to the target that looks at it before a restore.
//!
//! *Crash.* Nothing is changed.

use std::collections::BTreeSet;

use async_trait::async_trait;
use chrono::{DateTime, SecondsFormat, Utc};

use crate::{
    error::{ExitCode, Failure, Result},
    flow::{Coming, ComingEntry, EntryMeta, Problem, Remark, Selection, Stage, Weight},
    names::SourceName,
    repo::{EntryLines, Salvage, Snapshot, format::SourceManifest},
};

/// Bytes that a definition may have to be looked into before a restore.
const DEFINITION_BYTES_MAX: u64 = 64 << 20;

/// What of a source is wanted.
#[derive(Default)]
pub(super) struct Found {
    /// Entries.
    pub(super) entries: u64,
    /// Their plain bytes.
    pub(super) size_bytes: u64,
    /// The items that they are of.
    pub(super) inventory: Vec<String>,
    /// Entries that a pattern means, not only something inside them.
    picked: u64,
    /// Entries of which only their target can tell what is inside: a dump of keys.
    opaque: u64,
    /// Entries with data.
    data: u64,
    younger: Younger,
}

impl Found {
    /// Returns whether the person meant this source. A pattern may always mean a key inside a dump, so a dump
    /// is taken only when its source was asked for by name.
    pub(super) fn is_meant(&self, by_name: bool) -> bool {
        self.picked > 0 || (by_name && self.opaque > 0)
    }

    /// Refuses a time that the snapshot of a source knows nothing of; returns what a person should know of one that
    /// it knows of.
    pub(super) fn check_time(&self, only: &Selection, source: &SourceManifest) -> Result<Option<Remark>> {
        let (Some(as_of), taken) = (only.as_of(), source.point.at) else { return Ok(None) };
        let name = &source.name;
        if as_of > taken {
            let what = format!(
                "the snapshot of `{name}` was taken at {} and knows nothing of {}",
                stamp(taken),
                stamp(as_of)
            );
            let hint = "Take a younger snapshot, or an earlier time for --as-of.";
            return Err(Failure::new(ExitCode::Usage, what).hint(hint));
        }
        let Younger { things, oldest: Some(oldest), .. } = &self.younger else { return Ok(None) };
        if self.data == 0 {
            let what = format!(
                "nothing that is asked for of `{name}` is as old as {}: the oldest version in the snapshot is of {}",
                stamp(as_of),
                stamp(*oldest)
            );
            let hint =
                "Take a later time for --as-of, or a snapshot of that time: `lifeboat snapshots` shows them.";
            return Err(Failure::new(ExitCode::Usage, what).hint(hint));
        }
        let why = format!(
            "{things} have no version as old as {}: they count as not there then, though rules of a bucket may have \
             removed older ones",
            stamp(as_of)
        );
        Ok((*things > 0).then(|| Remark::new(Weight::Note, "what is younger", &why)))
    }
}

/// What has no version as old as the time that is asked for.
#[derive(Default)]
struct Younger {
    things: u64,
    oldest: Option<DateTime<Utc>>,
    last: String,
}

impl Younger {
    /// Takes an entry; those of one thing come one after the other, the oldest first.
    fn note(&mut self, only: &Selection, meta: &EntryMeta) {
        let (Some(as_of), Some((thing, made))) = (only.as_of(), only.dated(meta)) else { return };
        self.oldest = Some(self.oldest.map_or(made, |oldest| oldest.min(made)));
        if thing != self.last {
            self.things += u64::from(made > as_of);
            self.last = thing;
        }
    }
}

fn stamp(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// Looks for what is wanted of a source.
pub(super) async fn find(
    snapshot: &Snapshot,
    name: &SourceName,
    only: &Selection,
    salvage: Option<&Salvage>,
) -> Result<Found> {
    let source = snapshot.source(name)?;
    let is_whole = salvage.is_none_or(|salvage| salvage.lost.is_empty());
    if only.is_all() && is_whole {
        let (entries, size_bytes, inventory) = (source.entries, source.size_bytes, source.inventory.clone());
        // A source that was empty is restored too: its target becomes empty.
        return Ok(Found { entries, size_bytes, inventory, picked: entries.max(1), ..Found::default() });
    }
    let mut lines: EntryLines = match salvage {
        Some(salvage) => snapshot.sound_entries(name, salvage)?,
        None => snapshot.entries(source),
    };
    let mut found = Found::default();
    let mut items = BTreeSet::new();
    while let Some(record) = lines.next().await? {
        found.younger.note(only, &record.meta);
        if only.wants(&record.meta) {
            found.entries += 1;
            found.size_bytes += record.size_bytes;
            found.data += u64::from(record.meta.stage == Stage::Data);
            let is_picked = only.picks(&record.meta);
            let is_opaque = record.meta.container && record.meta.select.is_empty();
            found.picked += u64::from(is_picked);
            found.opaque += u64::from(is_opaque);
            // What only lies around a picked thing is made if it is missing, and never in the way.
            if (is_picked || is_opaque) && !only.is_in_part(&record.meta.item) {
                items.insert(record.meta.item);
            }
        }
    }
    found.inventory = items.into_iter().collect();
    Ok(found)
}

/// The wanted entries of a source, with the definitions among them.
pub(super) struct Upcoming<'a> {
    snapshot: &'a Snapshot,
    lines: EntryLines,
    problems: Vec<Problem>,
    only: &'a Selection,
    /// Whether data opens: one refusal is enough, each costs a whole pack.
    opens: bool,
}

impl<'a> Upcoming<'a> {
    /// Begins before the first; of what a salvage has found lost none comes.
    pub(super) fn of(
        snapshot: &'a Snapshot,
        source: &SourceManifest,
        only: &'a Selection,
        salvage: Option<&Salvage>,
    ) -> Result<Self> {
        let lines = match salvage {
            Some(salvage) => snapshot.sound_entries(&source.name, salvage)?,
            None => snapshot.entries(source),
        };
        let mut problems = source.problems.clone();
        problems.extend(salvage.iter().flat_map(|salvage| salvage.problems()));
        Ok(Self { snapshot, lines, problems, only, opens: true })
    }
}

#[async_trait]
impl Coming for Upcoming<'_> {
    async fn next(&mut self) -> Result<Option<ComingEntry>> {
        while let Some(record) = self.lines.next().await? {
            if !self.only.wants(&record.meta) || !self.only.may_hold(&record.meta, &record.trailer) {
                continue;
            }
            let definition = if record.meta.stage == Stage::Data || !self.opens {
                None
            } else {
                match self.snapshot.entry_bytes(&record, DEFINITION_BYTES_MAX).await {
                    Ok(bytes) => Some(bytes),
                    // Without the recovery identity nothing can be read; what is damaged the restore itself tells.
                    Err(failure) if matches!(failure.exit(), ExitCode::KeyRefused | ExitCode::Damage) => {
                        self.opens = failure.exit() != ExitCode::KeyRefused;
                        None
                    }
                    Err(failure) => return Err(failure),
                }
            };
            let (meta, trailer, size_bytes) = (record.meta, record.trailer, record.size_bytes);
            return Ok(Some(ComingEntry { meta, trailer, size_bytes, definition }));
        }
        Ok(None)
    }

    fn problems(&self) -> &[Problem] {
        &self.problems
    }
}
