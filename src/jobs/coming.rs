//! What of a snapshot is wanted: counted for a plan, and shown to the target that looks at it before a restore.
//!
//! *Crash.* Nothing is changed.

use std::collections::{BTreeMap, BTreeSet};

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

    /// Takes an entry into account for [`Self::check_time`].
    fn note_time(&mut self, only: &Selection, meta: &EntryMeta) {
        self.younger.note(only, meta);
        self.data += u64::from(only.wants(meta) && meta.stage == Stage::Data);
    }

    /// Refuses a time that the snapshot of a source, taken at `taken`, knows nothing of, and one at which a restore
    /// that `replaces` would leave nothing to see of a bucket; returns what a person should know of one that it knows
    /// of.
    pub(super) fn check_time(
        &self,
        only: &Selection,
        name: &SourceName,
        taken: DateTime<Utc>,
        replaces: bool,
    ) -> Result<Option<Remark>> {
        let Some(as_of) = only.as_of() else { return Ok(None) };
        if as_of > taken {
            let what = format!(
                "the snapshot of `{name}` was taken at {} and knows nothing of {}",
                stamp(taken),
                stamp(as_of)
            );
            let hint = "Take a younger snapshot, or an earlier time for --as-of.";
            return Err(Failure::new(ExitCode::Usage, what).hint(hint));
        }
        let Younger { things, oldest, .. } = &self.younger;
        if self.data == 0
            && let Some(oldest) = oldest.values().min()
        {
            return Err(nothing_stood(name, as_of, *oldest));
        }
        // Neither a restore that leaves what else is there nor one of only a part of a source removes anything.
        let empties = replaces && only.is_of_all();
        let mut emptied = oldest.iter().filter(|(_, oldest)| empties && **oldest > as_of);
        if let Some((item, oldest)) = emptied.next() {
            let items: Vec<_> = std::iter::once(item).chain(emptied.map(|(item, _)| item)).cloned().collect();
            let what = format!(
                "nothing of `{item}` is as old as {}: its oldest version in the snapshot of `{name}` is of {}",
                stamp(as_of),
                stamp(*oldest)
            );
            let why = format!("there would be nothing left to see in `{}`", items.join("`, `"));
            let hint =
                "Take a later time for --as-of, or name the others with --only: nothing is removed then.";
            return Err(Failure::new(ExitCode::Usage, what).because(why).hint(hint));
        }
        let why = format!(
            "{things} have no version as old as {}: they count as not there then, though rules of a bucket may have \
             removed older ones",
            stamp(as_of)
        );
        Ok((*things > 0).then(|| Remark::new(Weight::Note, "what is younger", &why)))
    }
}

/// Makes the failure of a time at which nothing that is asked for stood.
fn nothing_stood(name: &SourceName, as_of: DateTime<Utc>, oldest: DateTime<Utc>) -> Failure {
    let what = if oldest > as_of {
        format!(
            "nothing that is asked for of `{name}` is as old as {}: the oldest version in the snapshot is of {}",
            stamp(as_of),
            stamp(oldest)
        )
    } else {
        let as_of = stamp(as_of);
        format!(
            "nothing that is asked for of `{name}` was there at {as_of}: what had been made was deleted by then"
        )
    };
    Failure::new(ExitCode::Usage, what)
        .hint("Take another time for --as-of, or a snapshot of that time: `lifeboat snapshots` shows them.")
}

/// What has no version as old as the time that is asked for.
#[derive(Default)]
struct Younger {
    things: u64,
    /// When the oldest version was made, by the item that it is of.
    oldest: BTreeMap<String, DateTime<Utc>>,
    last: String,
}

impl Younger {
    /// Takes an entry; those of one thing come one after the other, the oldest first.
    fn note(&mut self, only: &Selection, meta: &EntryMeta) {
        let (Some(as_of), Some((thing, made))) = (only.as_of(), only.dated(meta)) else { return };
        match self.oldest.get_mut(&meta.item) {
            Some(oldest) => *oldest = made.min(*oldest),
            None => drop(self.oldest.insert(meta.item.clone(), made)),
        }
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
        found.note_time(only, &record.meta);
        if only.wants(&record.meta) {
            found.entries += 1;
            found.size_bytes += record.size_bytes;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::EntryPath;

    fn at(day: u32) -> DateTime<Utc> {
        format!("2026-10-{day:02}T00:00:00Z").parse().unwrap()
    }

    /// A version: bucket, key, the day that it was made, and whether it is a delete marker.
    type Made<'t> = (&'t str, &'t str, u32, bool);
    type Checked = Result<Option<String>, (String, Vec<String>)>;

    /// Checks the time of a restore that replaces what is there against versions.
    fn check(versions: &[Made<'_>], only: &[&str], day: u32) -> Checked {
        check_for(versions, only, day, true)
    }

    fn check_for(versions: &[Made<'_>], only: &[&str], day: u32, replaces: bool) -> Checked {
        let patterns: Vec<String> = only.iter().map(|pattern| (*pattern).to_owned()).collect();
        let only = Selection::new(&patterns).unwrap().at(Some(at(day)));
        let mut found = Found::default();
        for (n, (bucket, key, made, is_marker)) in versions.iter().enumerate() {
            let next = versions.get(n + 1).filter(|next| (next.0, next.1) == (*bucket, *key));
            let path = EntryPath::of_parts(&[bucket, key, n.to_string().as_str()]).unwrap();
            let mut meta = EntryMeta::new(path, Stage::Data, *bucket).with("last_modified", stamp(at(*made)));
            meta.select = format!("{bucket}/{key}");
            if let Some(next) = next {
                meta = meta.with("until", stamp(at(next.2))).with("version_of", *key);
            }
            if *is_marker {
                meta = meta.with("delete_marker", true);
            }
            found.note_time(&only, &meta);
        }
        let checked = found.check_time(&only, &SourceName::new("minio").unwrap(), at(20), replaces);
        checked
            .map(|remark| remark.map(|remark| remark.why[..1].to_owned()))
            .map_err(|failure| (failure.to_string(), failure.chain()))
    }

    #[test]
    fn a_time_that_would_empty_one_bucket_of_several_is_refused_by_its_name() {
        let versions = [
            ("a", "1", 1, false),
            ("a", "2", 9, false),
            ("b", "1", 5, false),
            ("b", "2", 6, false),
            ("c", "gone", 2, true),
            ("c", "gone", 7, false),
        ];
        assert_eq!(check(&versions, &[], 10), Ok(None));
        assert_eq!(check(&versions, &[], 8), Ok(Some("1".to_owned())));
        let (what, chain) = check(&versions, &[], 6).unwrap_err();
        assert!(what.contains("nothing of `c` is as old as 2026-10-06"), "{what}");
        let (what, chain) = (check(&versions, &[], 4).unwrap_err().0, chain);
        assert!(what.contains("nothing of `b` is as old as 2026-10-04"), "{what}");
        assert!(what.ends_with("is of 2026-10-05T00:00:00Z") && chain[1].ends_with("in `c`"), "{chain:?}");
        // With patterns, or beside what is there, nothing is removed: what is younger is counted.
        assert_eq!(check_for(&versions, &[], 4, false), Ok(Some("4".to_owned())));
        assert_eq!(check(&versions, &["a", "b"], 4), Ok(Some("3".to_owned())));
    }

    #[test]
    fn a_time_at_which_nothing_stood_is_refused_for_what_it_is() {
        let versions = [("a", "1", 3, false), ("a", "1", 5, true), ("a", "1", 9, false)];
        let why = |day| check(&versions, &[], day).unwrap_err().0;
        assert!(why(2).contains("the oldest version in the snapshot is of 2026-10-03"), "{}", why(2));
        assert!(why(6).contains("was there at 2026-10-06") && why(6).contains("deleted"), "{}", why(6));
        assert!(why(21).contains("knows nothing of"), "{}", why(21));
        assert_eq!(check(&versions, &[], 9), Ok(None));
    }
}
