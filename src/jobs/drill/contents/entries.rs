//! Objects and files: an entry is a thing, and its name is the finding.

use bytes::Bytes;

use super::Pair;
use crate::{
    drill::{Answer, Assertion},
    error::Result,
    flow::{
        Likeness, Seen, Stage,
        compare::{Compared, Difference, Observer},
    },
    jobs::contents::Findings,
    plain::grouped,
};

struct Watch<'a> {
    likeness: &'a dyn Likeness,
    each: &'a mut (dyn FnMut(&Seen) + Send),
    findings: Findings,
}

impl Observer for Watch<'_> {
    fn held(&mut self, seen: &Seen, _bytes: Option<&Bytes>) {
        if seen.meta.stage == Stage::Data {
            (self.each)(seen);
        }
    }

    fn differs(&mut self, difference: Difference) {
        self.findings.add(difference.text(self.likeness));
    }
}

/// Compares a source whose entries are what its owner knows by name; `each` hears of all that are data. Says whether
/// these were all.
pub(super) async fn compare(
    pair: &Pair<'_>,
    what: &str,
    each: &mut (dyn FnMut(&Seen) + Send),
) -> Result<(Assertion, bool)> {
    let mut watch = Watch { likeness: &*pair.likeness, each, findings: Findings::default() };
    let compared = pair.entries(&mut watch).await?;
    let mut findings = watch.findings;
    let Compared { stored, found, unmatched, .. } = compared;
    if unmatched > 0 && stored != found {
        // So much is lost that what is left of both sides no longer meets; the numbers alone say that it is.
        let (stored, found) = (grouped(stored), grouped(found));
        findings.add(format!(
            "the snapshot has {stored} entries and the lab {found}: too many differ to name them"
        ));
        findings.is_open = true;
    }
    let counts: &[&str] = if what == "objects" {
        &["objects", "buckets", "bytes"]
    } else {
        &["files", "folders", "links", "bytes"]
    };
    let assertion = pair.verdict(&compared, findings, counts);
    let is_read = assertion.answer != Answer::CouldNotRun && pair.unread(&compared).is_none();
    Ok((assertion, is_read))
}
