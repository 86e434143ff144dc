//! What a source's point tells people: how it was taken, and what does not belong to it.

use crate::{flow::Point, names::SourceName};

/// Names that are told; the JSON has all.
const NAMES_MAX: usize = 8;

/// Tells which lock the instant was taken under, where there was a choice.
pub(super) fn lock(source: &SourceName, point: &Point) -> Option<String> {
    let mark = |name: &str| point.marks.get(name).map(String::as_str);
    let held = match (mark("lock_mode")?, mark("lock_ms")?) {
        (mode, "0") => format!("lock {mode}, commits went on"),
        (mode, ms) => format!("lock {mode}, commits held back for {ms} ms"),
    };
    Some(format!("{source}: read at one instant, {held}"))
}

/// Tells what was read beside the instant.
pub(super) fn beside(source: &SourceName, point: &Point) -> Option<String> {
    let all: Vec<&str> = point.marks.get("nontransactional")?.split(", ").collect();
    let mut told = all[..all.len().min(NAMES_MAX)].join(", ");
    if all.len() > NAMES_MAX {
        told = format!("{told} and {} more", all.len() - NAMES_MAX);
    }
    Some(format!("{source}: not at one instant with the rest, as their engines have no transactions: {told}"))
}

/// Tells which settings of buckets the server does not know, so that the snapshot cannot have them.
pub(super) fn unknown(source: &SourceName, point: &Point) -> Option<String> {
    let names = point.marks.get("unknown_settings")?;
    Some(format!("{source}: the server does not know these settings of buckets: {names}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name() -> SourceName {
        SourceName::new("db").unwrap()
    }

    fn point(marks: &[(&str, &str)]) -> Point {
        marks
            .iter()
            .fold(Point::at(chrono::DateTime::UNIX_EPOCH), |point, (name, value)| point.mark(name, *value))
    }

    #[test]
    fn the_lock_is_told_with_the_time_that_commits_waited() {
        let told = lock(&name(), &point(&[("lock_mode", "stage"), ("lock_ms", "12")])).unwrap();
        assert_eq!(told, "db: read at one instant, lock stage, commits held back for 12 ms");
        let told = lock(&name(), &point(&[("lock_mode", "equal"), ("lock_ms", "0")])).unwrap();
        assert_eq!(told, "db: read at one instant, lock equal, commits went on");
        assert_eq!(lock(&name(), &point(&[("window_end", "x")])), None);
    }

    #[test]
    fn tables_beside_the_instant_are_named_and_many_are_counted() {
        let told = beside(&name(), &point(&[("nontransactional", "im.a, im.b")])).unwrap();
        assert!(told.ends_with("have no transactions: im.a, im.b"), "{told}");
        let many: Vec<String> = (0..10).map(|n| format!("im.t{n}")).collect();
        let told = beside(&name(), &point(&[("nontransactional", &many.join(", "))])).unwrap();
        assert!(told.ends_with("im.t7 and 2 more"), "{told}");
        assert_eq!(beside(&name(), &point(&[])), None);
    }

    #[test]
    fn settings_that_the_server_does_not_know_are_told_in_one_line() {
        let told = unknown(&name(), &point(&[("unknown_settings", "cors, encryption")])).unwrap();
        assert_eq!(told, "db: the server does not know these settings of buckets: cors, encryption");
        assert_eq!(unknown(&name(), &point(&[])), None);
    }
}
