//! What a restore has just written, read back and compared with the snapshot's digests.
//!
//! Only what was restored is read, by sessions that lock nothing: the server may be in use. The accounts are not
//! compared, for a restore leaves those alone that are there already. A server of another release tells the same
//! definitions in other words: of that, the rows are compared.
//!
//! *Order.* After all is restored. *Crash.* Nothing is changed anywhere.

use std::collections::BTreeSet;

use super::rows::{self, Held};
use crate::{
    error::{ExitCode, Failure, Result},
    event::SharedMonitor,
    flow::{Selection, Tally, Verified, compare::Compared},
    jobs::{contents::Findings, registry::Reader},
    names::SourceName,
    plain::grouped,
    repo::Snapshot,
};

/// Findings that a failure tells.
const FINDINGS_TOLD: usize = 5;

/// Fails when the server does not hold what is selected of a source, as the snapshot has it; otherwise `tally` tells
/// how far that was compared.
pub async fn check(
    snapshot: &Snapshot,
    name: &SourceName,
    (reader, version): (&Reader, &str),
    only: &Selection,
    tally: &mut Tally,
    monitor: &SharedMonitor,
) -> Result<()> {
    let in_part: BTreeSet<String> = only.ranges().iter().map(|range| range.table.clone()).collect();
    if !in_part.is_empty() {
        tally.notes.push("rows of a range of keys were counted, and not compared".to_owned());
        if only.patterns().len() == only.ranges().len() {
            return Ok(());
        }
    }
    let is_all = in_part.is_empty();
    let manifest = snapshot.source(name)?;
    let stored_version = manifest.point.marks.get("version").map_or("", String::as_str);
    let held = Held {
        snapshot,
        manifest,
        config: reader.config_for(&manifest.inventory),
        ground: &reader.ground,
        monitor,
        only: Some(only),
        rows_only: tally.reworded || release(stored_version) != release(version) || !reader.names.is_empty(),
        names: reader.names.clone(),
        without: tally.without.iter().cloned().chain(in_part).collect(),
        own: |failure| failure,
    };
    let (compared, findings) = rows::compare(&held).await.map_err(|failure| {
        failure.hint("All is restored, and could not be read back: `--verify counts` restores without that.")
    })?;
    if findings.total > 0 {
        return Err(differs(name, &findings));
    }
    match uncompared(&compared, findings) {
        None => {
            tally.verified = if is_all { Verified::Digests } else { Verified::Counts };
            if held.rows_only {
                let why = if !reader.names.is_empty() {
                    "it is of databases by other names".to_owned()
                } else if tally.reworded {
                    "some were written in other words".to_owned()
                } else {
                    format!("it is of {stored_version}")
                };
                tally.notes.push(format!(
                    "the rows were compared with the snapshot; the definitions were not, for {why}"
                ));
            }
        }
        Some(why) => tally.notes.push(format!("not all was compared with the snapshot: {why}")),
    }
    Ok(())
}

/// Returns the product and the release, whose servers tell a definition in the same words.
fn release(version: &str) -> &str {
    version.match_indices('.').nth(1).map_or(version, |(at, _)| &version[..at])
}

fn uncompared(compared: &Compared, findings: Findings) -> Option<String> {
    let unread = compared.problems.first().map(|problem| format!("{}: {}", problem.what, problem.why));
    let unmatched = (compared.unmatched > 0).then(|| "too much of it comes in another order".to_owned());
    unread.or(unmatched).or(findings.uncompared)
}

fn differs(name: &SourceName, findings: &Findings) -> Failure {
    let told: Vec<&str> = findings.named.iter().take(FINDINGS_TOLD).map(String::as_str).collect();
    let has_more = findings.is_open || findings.total > told.len() as u64;
    let more = if has_more { "; and more" } else { "" };
    let at_least = if findings.is_open { "at least " } else { "" };
    let things = if findings.total == 1 { "thing is" } else { "things are" };
    let total = grouped(findings.total);
    let what = format!("`{name}`: {at_least}{total} {things} not as in the snapshot after the restore");
    Failure::new(ExitCode::Failed, what).because(format!("{}{more}", told.join("; "))).hint(
        "Did anything else write there meanwhile, the server's own events included? Keep others away and restore \
         again with --replace.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_of_one_release_tell_definitions_in_the_same_words() {
        assert_eq!(release("MySQL 9.7.4-2"), release("MySQL 9.7.10"));
        assert_ne!(release("MySQL 8.0.4"), release("MySQL 8.4.4"));
        assert_ne!(release("MySQL 10.11.2"), release("MariaDB 10.11.2"));
        assert_eq!(release(""), "");
    }

    #[test]
    fn what_differs_is_told_and_the_rest_is_counted() {
        let mut findings = Findings::default();
        findings.extend((1..=7).map(|id| format!("row {id} of table im.users differs")).collect());
        let failure = differs(&SourceName::new("mysql").unwrap(), &findings);
        assert_eq!(failure.exit(), ExitCode::Failed);
        let told = failure.chain();
        assert_eq!(told[0], "`mysql`: 7 things are not as in the snapshot after the restore");
        assert!(told[1].contains("row 5") && told[1].ends_with("; and more"), "{told:?}");
    }
}
