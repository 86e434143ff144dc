//! Finds what of a snapshot can still be read, before anything is written anywhere.
//!
//! *Order.* Every wanted entry is read once and compared with its hash, nothing is sent; then what hangs on a lost
//! entry is counted as lost too. An entry list with a hole is read on behind it.
//! *Crash.* Reading leaves nothing behind.
//!
//! *Limits.* As for reading a source ([`BODIES_MAX`]); what is lost is in memory by name, what is sound is not.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use futures_util::{StreamExt, stream::FuturesUnordered};

use super::{
    format::EntryRecord,
    reader::{BODIES_MAX, EntryLines, Snapshot, report_problems},
};
use crate::{
    error::{ExitCode, Result},
    event::SharedMonitor,
    flow::{EntrySink, FlowError, FlowResult, Problem, Selection, Stage},
    names::{EntryPath, SourceName},
};

/// An entry that cannot be restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// Which one; `None` for entries whose very names are lost.
    pub entry: Option<EntryPath>,
    /// What is wrong.
    pub why: String,
    what: String,
}

/// What of a source cannot be restored, and so what can.
#[derive(Debug, Default)]
pub struct Salvage {
    /// What is lost, by path.
    pub lost: Vec<Lost>,
    without: Arc<BTreeSet<EntryPath>>,
    /// The items that have a sound entry, or are asked for none.
    items: BTreeSet<String>,
}

impl Salvage {
    /// Returns what a target is told of.
    pub fn problems(&self) -> impl Iterator<Item = Problem> {
        self.lost.iter().map(|lost| Problem { what: lost.what.clone(), why: lost.why.clone() })
    }
}

impl Snapshot {
    /// Returns how many packs of this snapshot are not in the store, cut short, or told of by no index, as far as a
    /// listing tells.
    pub async fn lacking_packs(&self) -> Result<usize> {
        self.chunks.lacking().await
    }

    /// Returns whether an identity is there that opens data of this repository, though perhaps not all of it.
    pub fn opens_data(&self) -> bool {
        self.chunks.opens_data()
    }

    /// Reads every wanted entry of a source and returns which of them are damaged.
    ///
    /// A definition that is lost takes its whole item along: rows of a table that cannot be made are of no use, and
    /// what is not announced is not removed from a target either.
    pub async fn salvage(
        &self,
        name: &SourceName,
        only: &Selection,
        monitor: &SharedMonitor,
    ) -> Result<Salvage> {
        let source = self.source(name)?;
        let mut lines = self.entries(source).without(Arc::default());
        let (mut seen, mut lost) = (0, BTreeMap::new());
        let mut broken_items = BTreeMap::new();
        let mut open = FuturesUnordered::new();
        loop {
            let record = lines.next().await?;
            let is_end = record.is_none();
            seen += u64::from(!is_end);
            open.extend(record.filter(|one| only.wants(&one.meta)).map(|one| self.check(name, one, monitor)));
            while open.len() >= BODIES_MAX || is_end {
                let Some(checked) = open.next().await else { break };
                let Some((record, why)): Option<(EntryRecord, String)> = checked? else { continue };
                if record.meta.stage == Stage::Schema && !record.meta.container {
                    broken_items.insert(record.meta.item.clone(), record.meta.path.clone());
                }
                lost.insert(record.meta.path.clone(), lost_entry(&record, why));
            }
            if is_end {
                break;
            }
        }
        let holes = lines.holes();
        let mut items = BTreeSet::new();
        let mut lines = self.entries(source).without(Arc::default());
        while let Some(record) = lines.next().await? {
            if lost.contains_key(&record.meta.path) || !only.wants(&record.meta) {
                continue;
            }
            match broken_items.get(&record.meta.item) {
                Some(path) => {
                    let why = format!("it is of no use without `{path}`, which is lost");
                    lost.insert(record.meta.path.clone(), lost_entry(&record, why));
                }
                None => drop(items.insert(record.meta.item)),
            }
        }
        let without = Arc::new(lost.keys().cloned().collect());
        let mut lost: Vec<Lost> = lost.into_values().collect();
        if seen < source.entries {
            let unnamed = source.entries - seen;
            let why =
                format!("{unnamed} entries whose names are lost with a piece of the entry list: {holes}");
            lost.push(Lost { entry: None, why, what: name.to_string() });
        }
        Ok(Salvage { lost, without, items })
    }

    /// Reads one entry; returns it with the reason when it is damaged.
    async fn check(
        &self,
        name: &SourceName,
        record: EntryRecord,
        monitor: &SharedMonitor,
    ) -> Result<Option<(EntryRecord, String)>> {
        match self.pass_body(name, &record, None, monitor).await {
            Ok(()) => Ok(None),
            Err(FlowError::Failed(failure)) if failure.exit() == ExitCode::Damage => {
                // The first line names the entry, which is told beside it.
                Ok(Some((record, failure.chain().split_off(1).join(": "))))
            }
            Err(other) => Err(other.about(name)),
        }
    }

    /// Returns the entries of a source that are not lost.
    pub fn sound_entries(&self, name: &SourceName, salvage: &Salvage) -> Result<EntryLines> {
        Ok(self.entries(self.source(name)?).without(salvage.without.clone()))
    }

    /// Sends the wanted entries that are not lost, and reports those that are before the first of them, as
    /// [`Snapshot::read_source`] does with what the backup could not read.
    pub async fn read_sound(
        &self,
        name: &SourceName,
        only: &Selection,
        salvage: &Salvage,
        sink: EntrySink,
        monitor: &SharedMonitor,
    ) -> FlowResult<()> {
        let source = self.source(name)?;
        let announced = source.inventory.iter().filter(|item| salvage.items.contains(*item)).cloned();
        let announced: Vec<String> = announced.collect();
        sink.announce(announced.clone()).await?;
        report_problems(source, &sink).await?;
        for problem in salvage.problems() {
            sink.report(problem).await?;
        }
        let lines = self.sound_entries(name, salvage)?;
        self.send(source, lines, announced, (only, &BTreeSet::new()), sink, monitor).await
    }
}

fn lost_entry(record: &EntryRecord, why: String) -> Lost {
    let meta = &record.meta;
    let what = if meta.select.is_empty() { &meta.item } else { &meta.select };
    Lost { entry: Some(meta.path.clone()), why, what: what.clone() }
}
