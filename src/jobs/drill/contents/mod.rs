//! Does the lab hold what the snapshot holds, neither more nor less?
//!
//! The very source that makes backups reads the lab, and what it sends is compared with the snapshot's entry lists; no
//! data is fetched for that. Only where something differs both sides are read again, to name the row, key or object.
//!
//! *Order.* One source at a time, in the order of the backup. *Crash.* Nothing is changed anywhere; what cannot be read
//! could not be asked, which is not the same as held.
//!
//! *Limits.* Those of [`crate::jobs::contents`].

mod entries;
mod keys;
use super::{Cast, Scene, is_damage, of_lab, sample, unsound};
use std::collections::BTreeMap;

use crate::{
    drill::{Assertion, Question},
    error::{Failure, Result},
    event::{Event, NoMonitor},
    flow::{
        Likeness, Problem, Seen, Source,
        compare::{self, Compared, Counts, Observer},
    },
    jobs::{
        contents::{Findings, Listed, rows},
        registry,
    },
    lab::Lab,
    names::SourceName,
    plain::grouped,
    policy::{MysqlConfig, SourceKind},
    repo::format::SourceManifest,
    s3::{READ_WHOLE, S3Source, Sample, Shrink},
};

/// The name of the assertion in reports.
const NAME: &str = "contents";

/// Hears of each object of the lab: the source, and what was read of it.
pub type EachObject<'a> = &'a mut (dyn FnMut(&SourceName, &Seen) + Send);

/// Asks whether the lab holds of one source what the snapshot holds, and says whether all that the lab holds of it was
/// read; `each_object` is called with all objects of the lab on the way.
pub async fn compare(scene: &Scene<'_>, cast: &Cast, each_object: EachObject<'_>) -> (Assertion, bool) {
    let source = cast.config.name.clone();
    scene.monitor.event(Event::SourceBegan {
        source: source.clone(),
        verb: "compare",
        size_bytes_expected: None,
    });
    let (asked, is_read) = match of_source(scene, cast, each_object).await {
        Ok(asked) => asked,
        Err(failure) => (could_not(scene.lab, failure).await, false),
    };
    scene.monitor.event(Event::SourceEnded { source: source.clone() });
    (asked.about(source.to_string()), is_read)
}

/// One source of a scene: its two sides, to be read as often as it takes.
struct Pair<'a> {
    scene: &'a Scene<'a>,
    cast: &'a Cast,
    manifest: &'a SourceManifest,
    likeness: Box<dyn Likeness>,
    /// The objects that are read whole; all when not given.
    sample: Option<Sample>,
}

/// Asks of one source; says whether all that the lab holds of it was read.
async fn of_source(scene: &Scene<'_>, cast: &Cast, each_object: EachObject<'_>) -> Result<(Assertion, bool)> {
    let name = &cast.config.name;
    let likeness = registry::likeness(&cast.config, cast.folder.as_deref());
    let sample = sample::of_source(scene, cast).await;
    let pair = Pair { scene, cast, manifest: scene.snapshot.source(name)?, likeness, sample };
    match &cast.config.kind {
        SourceKind::Mysql(config) => Ok((of_rows(&pair, config).await?, true)),
        SourceKind::Redis(config) => Ok((keys::compare(&pair, config).await?, true)),
        SourceKind::S3(_) => entries::compare(&pair, "objects", &mut |seen| each_object(name, seen)).await,
        SourceKind::Files(_) => entries::compare(&pair, "files", &mut |_| {}).await,
    }
}

/// Compares a server of rows.
async fn of_rows(pair: &Pair<'_>, config: &MysqlConfig) -> Result<Assertion> {
    let held = rows::Held {
        snapshot: pair.scene.snapshot,
        manifest: pair.manifest,
        config: config.clone(),
        ground: pair.scene.ground,
        monitor: pair.scene.monitor,
        only: None,
        rows_only: false,
        names: BTreeMap::new(),
        without: std::collections::BTreeSet::new(),
        own: of_lab,
    };
    let (compared, findings) = rows::compare(&held).await?;
    Ok(pair.verdict(&compared, findings, &rows::COUNTS))
}

impl Pair<'_> {
    /// Returns the source that reads the lab. What it has to say was said when the original was read.
    fn source(&self) -> Result<Box<dyn Source>> {
        let (ground, monitor) = (self.scene.ground, NoMonitor::shared());
        if let (SourceKind::S3(config), Some(sample)) = (&self.cast.config.kind, &self.sample) {
            let source = S3Source::new(self.name().clone(), config.clone(), ground.clone(), monitor);
            return Ok(Box::new(source.sampled(sample.clone()).shrinking(Shrink::Accepted)));
        }
        // Whether the lab holds less than the snapshot is what is looked for.
        registry::source(&self.cast.config, Shrink::Accepted, ground, &monitor).source
    }

    fn name(&self) -> &SourceName {
        &self.cast.config.name
    }

    /// Compares the entries of both sides.
    async fn entries(&self, observer: &mut dyn Observer) -> Result<Compared> {
        let mut stored = Listed(self.scene.snapshot.entries(self.manifest));
        let compared = compare::compare(&mut stored, self.source()?, &*self.likeness, observer).await;
        compared.map_err(|error| error.about(self.name()))
    }

    /// Says how many objects were read, where that need not be all.
    fn extent(&self, counts: &Counts) -> String {
        if self.sample.is_none() {
            return String::new();
        }
        let count = |name: &str| counts.get(name).copied().unwrap_or(0);
        let (read, all) = (count(READ_WHOLE), count("objects"));
        let rest = if read < all { ", the rest by size and facts" } else { "" };
        format!("; {} of {} {READ_WHOLE}{rest}", grouped(read), grouped(all))
    }

    /// Returns something that the lab holds and that cannot be read, if the backup could read it.
    fn unread<'c>(&self, compared: &'c Compared) -> Option<&'c Problem> {
        let known = |what: &String| self.manifest.problems.iter().any(|problem| problem.what == *what);
        compared.problems.iter().find(|problem| !known(&problem.what))
    }

    /// Says what was found. `counts` are what the detail tells, the first of them the assertion's value.
    fn verdict(&self, compared: &Compared, findings: Findings, counts: &[&str]) -> Assertion {
        let held = tell(&compared.counts, counts) + &self.extent(&compared.counts);
        let value = counts.first().and_then(|first| compared.counts.get(*first)).copied().unwrap_or(0);
        let assertion = if findings.total > 0 {
            let at_least = if findings.is_open { "at least " } else { "" };
            let detail = format!("{held}: {at_least}{} not as in the snapshot", grouped(findings.total));
            Assertion::failed(Question::Contents, NAME, detail).with_findings(findings.named, findings.total)
        } else if let Some(problem) = self.unread(compared) {
            let detail = format!("{held}, but {} cannot be read: {}", problem.what, problem.why);
            Assertion::could_not_run(Question::Contents, NAME, detail)
        } else if compared.unmatched > 0 {
            let count = grouped(compared.unmatched);
            let detail = format!("{held}, but {count} entries come in an order too different to be compared");
            Assertion::could_not_run(Question::Contents, NAME, detail)
        } else if let Some(why) = findings.uncompared {
            Assertion::could_not_run(Question::Contents, NAME, format!("{held}, but {why}"))
        } else {
            Assertion::held(Question::Contents, NAME, format!("{held}: the same"))
        };
        assertion.with_value(i64::try_from(value).unwrap_or(i64::MAX))
    }
}

/// Says why a source could not be compared: what became of the lab is told first. Damage is the snapshot's, and fails.
pub(super) async fn could_not(lab: &dyn Lab, failure: Failure) -> Assertion {
    if is_damage(&failure) {
        return unsound(Question::Contents, NAME, &failure);
    }
    let mut lines = match lab.check().await {
        Ok(()) => Vec::new(),
        Err(lab) => lab.chain(),
    };
    lines.extend(failure.chain());
    let detail = lines.join(": ");
    Assertion::could_not_run(Question::Contents, NAME, detail)
}

/// Tells counts in the order of `names`: `1,204,332 rows, 412 tables`.
fn tell(counts: &Counts, names: &[&str]) -> String {
    let told = names.iter().enumerate().filter_map(|(at, name)| {
        let count = counts.get(*name).copied().unwrap_or(0);
        (count > 0 || at == 0).then(|| {
            let name = if count == 1 { singular(name) } else { name };
            format!("{} {name}", grouped(count))
        })
    });
    told.collect::<Vec<_>>().join(", ")
}

fn singular(plural: &str) -> &str {
    plural.strip_suffix('s').unwrap_or(plural)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_told_as_people_write_them() {
        let counts: Counts =
            [("rows", 1_204_332), ("tables", 1), ("views", 0)].map(|(n, c)| (n.to_owned(), c)).into();
        assert_eq!(tell(&counts, &["rows", "tables", "views"]), "1,204,332 rows, 1 table");
        assert_eq!(tell(&Counts::new(), &["keys"]), "0 keys");
    }
}
