//! Does the lab hold what the snapshot holds, neither more nor less?
//!
//! The very source that makes backups reads the lab, and what it sends is compared with the snapshot's entry lists; no
//! data is fetched for that. Only where something differs both sides are read again, to name the row, key or object.
//!
//! *Order.* One source at a time, in the order of the backup. *Crash.* Nothing is changed anywhere; what cannot be read
//! could not be asked, which is not the same as held.
//!
//! *Limits.* Those of [`crate::flow::compare`] and [`crate::flow::unordered`]; findings are named up to
//! [`FINDINGS_MAX`].

mod entries;
mod keys;
mod rows;

use async_trait::async_trait;

use super::{Cast, Scene};
use crate::{
    drill::{Assertion, FINDINGS_MAX, Question},
    error::{Failure, Result},
    event::{Event, NoMonitor},
    flow::{
        Likeness, Seen, Source,
        compare::{self, Compared, Counts, Observer, Stored},
    },
    jobs::registry,
    names::SourceName,
    policy::SourceKind,
    repo::{EntryLines, format::SourceManifest},
};

/// The name of the assertion in reports.
const NAME: &str = "contents";

/// Hears of each object of the lab: the source, and what was read of it.
pub type EachObject<'a> = &'a mut (dyn FnMut(&SourceName, &Seen) + Send);

/// Asks whether the lab holds of one source what the snapshot holds; `each_object` is called with all objects of the
/// lab on the way.
pub async fn compare(scene: &Scene<'_>, cast: &Cast, each_object: EachObject<'_>) -> Assertion {
    let source = cast.config.name.clone();
    scene.monitor.event(Event::SourceBegan {
        source: source.clone(),
        verb: "compare",
        size_bytes_expected: None,
    });
    let asked = match of_source(scene, cast, each_object).await {
        Ok(assertion) => assertion,
        Err(failure) => could_not(scene, failure).await,
    };
    scene.monitor.event(Event::SourceEnded { source: source.clone() });
    asked.about(source.to_string())
}

/// One source of a scene: its two sides, to be read as often as it takes.
struct Pair<'a> {
    scene: &'a Scene<'a>,
    cast: &'a Cast,
    manifest: &'a SourceManifest,
    likeness: Box<dyn Likeness>,
}

async fn of_source(scene: &Scene<'_>, cast: &Cast, each_object: EachObject<'_>) -> Result<Assertion> {
    let name = &cast.config.name;
    let likeness = registry::likeness(&cast.config, cast.folder.as_deref());
    let pair = Pair { scene, cast, manifest: scene.snapshot.source(name)?, likeness };
    match &cast.config.kind {
        SourceKind::Mysql(config) => rows::compare(&pair, config).await,
        SourceKind::Redis(config) => keys::compare(&pair, config).await,
        SourceKind::S3(_) => entries::compare(&pair, "objects", &mut |seen| each_object(name, seen)).await,
        SourceKind::Files(_) => entries::compare(&pair, "files", &mut |_| {}).await,
    }
}

impl Pair<'_> {
    /// Returns the source that reads the lab. What it has to say was said when the original was read.
    fn source(&self) -> Result<Box<dyn Source>> {
        registry::source(&self.cast.config, self.scene.ground, &NoMonitor::shared()).source
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

    /// Says what was found. `counts` are what the detail tells, the first of them the assertion's value.
    fn verdict(&self, compared: &Compared, findings: Findings, counts: &[&str]) -> Assertion {
        let known = |what: &String| self.manifest.problems.iter().any(|problem| problem.what == *what);
        let mut unread = compared.problems.iter().filter(|problem| !known(&problem.what));
        let held = tell(&compared.counts, counts);
        let value = counts.first().and_then(|first| compared.counts.get(*first)).copied().unwrap_or(0);
        let assertion = if findings.total > 0 {
            let at_least = if findings.is_open { "at least " } else { "" };
            let detail = format!("{held}: {at_least}{} not as in the snapshot", grouped(findings.total));
            Assertion::failed(Question::Contents, NAME, detail).with_findings(findings.named, findings.total)
        } else if let Some(problem) = unread.next() {
            let detail = format!("{held}, but {} cannot be read: {}", problem.what, problem.why);
            Assertion::could_not_run(Question::Contents, NAME, detail)
        } else if compared.unmatched > 0 {
            let count = grouped(compared.unmatched);
            let detail = format!("{held}, but {count} entries come in an order too different to be compared");
            Assertion::could_not_run(Question::Contents, NAME, detail)
        } else {
            Assertion::held(Question::Contents, NAME, format!("{held}: the same"))
        };
        assertion.with_value(i64::try_from(value).unwrap_or(i64::MAX))
    }
}

/// What was found not to hold.
#[derive(Debug, Default)]
struct Findings {
    named: Vec<String>,
    total: u64,
    /// Whether there may be more than that.
    is_open: bool,
}

impl Findings {
    fn add(&mut self, line: String) {
        self.total += 1;
        if self.room() > 0 {
            self.named.push(line);
        }
    }

    fn extend(&mut self, lines: Vec<String>) {
        for line in lines {
            self.add(line);
        }
    }

    /// Returns how many more are named.
    fn room(&self) -> usize {
        FINDINGS_MAX.saturating_sub(self.named.len())
    }
}

/// The entries of a snapshot as they stand in its entry list.
struct Listed(EntryLines);

#[async_trait]
impl Stored for Listed {
    async fn next(&mut self) -> Result<Option<Seen>> {
        let record = self.0.next().await?;
        Ok(record.map(|record| Seen {
            meta: record.meta,
            trailer: record.trailer,
            sha256: record.sha256.to_string(),
            size_bytes: record.size_bytes,
        }))
    }
}

/// Says why a source could not be compared: what became of the lab is told first.
async fn could_not(scene: &Scene<'_>, failure: Failure) -> Assertion {
    let mut lines = match scene.lab.check().await {
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

fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
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
