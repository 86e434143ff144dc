//! Which entries a person asked for: `--only` patterns.

use std::{borrow::Cow, ffi::OsStr, os::unix::ffi::OsStrExt, path::Path};

use chrono::{DateTime, Utc};
use globset::{Glob, GlobSet, GlobSetBuilder};

use super::{Attrs, EntryMeta, KeyRange};
use crate::error::{Context, ExitCode, Failure, Result};

/// A set of `--only` patterns; without any, everything is wanted.
///
/// Patterns are globs over `db`, `db.table`, `bucket/key`, or a file's path. A pattern that names a
/// container (`im`, `bucket`, a directory) wants all that is inside. One that ends in a range of keys
/// (`im.messages[100..200]`) wants these rows of one table.
///
/// As of a time it wants, of entries that say from when on and until when they stood (`last_modified`, `until`), those
/// that stood then, by the name of what they were a version of.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    globs: GlobSet,
    patterns: Vec<String>,
    ranges: Vec<KeyRange>,
    as_of: Option<DateTime<Utc>>,
}

impl Selection {
    /// Wants everything.
    pub fn all() -> Self {
        Self::default()
    }

    /// Checks the patterns.
    pub fn new(patterns: &[String]) -> Result<Self> {
        let (mut ranges, mut whole) = (Vec::new(), Vec::new());
        for pattern in patterns {
            match KeyRange::parse(pattern)? {
                Some(range) => ranges.push(range),
                None => whole.push(pattern.as_str()),
            }
        }
        let tables = ranges.iter().map(|range| range.table.as_str());
        let all = globs(whole.iter().copied().chain(tables))?;
        let selection =
            Self { globs: globs(whole.iter().copied())?, patterns: patterns.to_vec(), ranges, as_of: None };
        let is_whole = |range: &&KeyRange| !whole.is_empty() && selection.names(&range.table, Some('.'));
        if let Some(twice) = selection.ranges.iter().find(is_whole) {
            let what = format!("table `{}` is asked for whole and in part", twice.table);
            return Err(Failure::new(ExitCode::Usage, what).hint("Leave one of both out."));
        }
        Ok(Self { globs: all, ..selection })
    }

    /// Wants what stood at a time, and not what stands now.
    #[must_use]
    pub fn at(mut self, as_of: Option<DateTime<Utc>>) -> Self {
        self.as_of = as_of;
        self
    }

    /// Returns the time as of which entries are wanted, where it is not the latest.
    pub fn as_of(&self) -> Option<DateTime<Utc>> {
        self.as_of
    }

    /// Returns the ranges of keys that are wanted.
    pub fn ranges(&self) -> &[KeyRange] {
        &self.ranges
    }

    /// Returns whether only ranges of keys of this item are wanted.
    pub fn is_in_part(&self, item: &str) -> bool {
        self.ranges.iter().any(|range| range.table == item)
    }

    /// Returns whether a piece of data may hold something that is wanted; `trailer` is what was told at its end.
    pub fn may_hold(&self, meta: &EntryMeta, trailer: &Attrs) -> bool {
        let key = |name: &str| trailer.get(name).and_then(serde_json::Value::as_str);
        let (Some(first), Some(last)) = (key("first_key"), key("last_key")) else { return true };
        let mut ranges = self.ranges.iter().filter(|range| range.table == meta.select).peekable();
        ranges.peek().is_none() || ranges.any(|range| range.may_hold(first, last))
    }

    /// Returns whether everything is wanted.
    pub fn is_all(&self) -> bool {
        self.is_of_all() && self.as_of.is_none()
    }

    /// Returns whether all things are wanted, be it as of a time.
    pub fn is_of_all(&self) -> bool {
        self.patterns.is_empty()
    }

    /// Returns the patterns as they were given.
    pub fn patterns(&self) -> &[String] {
        &self.patterns
    }

    /// Returns whether this entry is wanted, be it only for what is inside.
    pub fn wants(&self, meta: &EntryMeta) -> bool {
        self.picks(meta) || (meta.container && self.reaches_into(&meta.select))
    }

    /// Returns whether a pattern means this entry itself.
    pub fn picks(&self, meta: &EntryMeta) -> bool {
        match self.as_of {
            None => self.means(meta, &meta.select),
            Some(as_of) => stood(meta, as_of) && self.means(meta, &versioned(meta)),
        }
    }

    /// Returns what an entry that says when it was made is a version of, and that time, if this is wanted by its name.
    /// What only says that its name was gone is no version.
    pub fn dated(&self, meta: &EntryMeta) -> Option<(String, DateTime<Utc>)> {
        let (made, name) = (time(meta, "last_modified")?, versioned(meta));
        (!is_marker(meta) && self.means(meta, &name)).then(|| (name.into_owned(), made))
    }

    /// Returns whether a pattern means what an entry is called.
    fn means(&self, meta: &EntryMeta, name: &str) -> bool {
        // A thing with a path is inside its item (`bucket/key`, a file below a root); a table is its own item.
        let has_path = meta.select != meta.item || meta.select.starts_with('/');
        self.names(name, Some(if has_path { '/' } else { '.' }))
    }

    /// Returns whether a pattern matches `name`, or a container around it where `divider` tells containers
    /// from what is inside.
    pub fn names(&self, name: &str, divider: Option<char>) -> bool {
        let borders = name.char_indices().filter(|(at, c)| *at > 0 && Some(*c) == divider);
        self.is_of_all() || self.matches(name) || borders.into_iter().any(|(at, _)| self.matches(&name[..at]))
    }

    /// Returns whether a pattern matches a name, or is that name letter by letter: keys may hold brackets.
    fn matches(&self, name: &str) -> bool {
        self.globs.is_match(name) || self.patterns.iter().any(|pattern| pattern == name)
    }

    /// Returns whether a pattern matches a name that need not be text, byte by byte; nothing is around such a name.
    pub fn names_bytes(&self, name: &[u8]) -> bool {
        let name = Path::new(OsStr::from_bytes(name));
        self.is_of_all() || self.globs.is_match(name)
    }

    /// Returns whether a pattern may match something inside `container`; a container without a name
    /// (a dump whose keys only its target can tell apart) holds anything.
    fn reaches_into(&self, container: &str) -> bool {
        if container.is_empty() {
            return true;
        }
        self.patterns.iter().any(|pattern| {
            let plain = pattern.find(['*', '?', '[', '{']).map_or(pattern.as_str(), |at| &pattern[..at]);
            let inside = plain.strip_prefix(container).is_some_and(|rest| rest.starts_with(['.', '/']));
            inside || container.starts_with(plain) && plain.len() < pattern.len()
        })
    }
}

/// Returns whether an entry stood at a time, as far as it says; one that says that its name was gone did not.
fn stood(meta: &EntryMeta, as_of: DateTime<Utc>) -> bool {
    time(meta, "last_modified").is_none_or(|from| from <= as_of)
        && time(meta, "until").is_none_or(|until| as_of < until)
        && !is_marker(meta)
}

/// Returns whether an entry only says that its name was gone.
fn is_marker(meta: &EntryMeta) -> bool {
    meta.attrs.contains_key("delete_marker")
}

/// Returns a time that an entry says.
fn time(meta: &EntryMeta, name: &str) -> Option<DateTime<Utc>> {
    DateTime::parse_from_rfc3339(meta.text(name)?).ok().map(|time| time.to_utc())
}

/// Returns the name of what an entry is a version of, or its own.
fn versioned(meta: &EntryMeta) -> Cow<'_, str> {
    match meta.text("version_of") {
        Some(of) => format!("{}/{of}", meta.item).into(),
        None => meta.select.as_str().into(),
    }
}

fn globs<'a>(patterns: impl Iterator<Item = &'a str>) -> Result<GlobSet> {
    let mut builder = GlobSetBuilder::new();
    for pattern in patterns {
        let glob =
            Glob::new(pattern).failed(ExitCode::Usage, || format!("pattern `{pattern}` is no glob"))?;
        builder.add(glob);
    }
    builder.build().failed(ExitCode::Usage, || "the patterns are too many".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{flow::Stage, names::EntryPath};

    fn wants(patterns: &[&str], select: &str, container: bool) -> bool {
        let patterns: Vec<String> = patterns.iter().map(|p| (*p).to_owned()).collect();
        let item = select.split_once('/').map_or(select, |(bucket, _)| bucket);
        let mut meta = EntryMeta::new(EntryPath::new("x").unwrap(), Stage::Data, item);
        meta.select = select.to_owned();
        meta.container = container;
        Selection::new(&patterns).unwrap().wants(&meta)
    }

    #[test]
    fn no_pattern_wants_everything() {
        assert!(wants(&[], "im.messages", false));
    }

    #[test]
    fn a_pattern_names_a_thing_or_what_is_around_it() {
        assert!(wants(&["im"], "im.messages", false));
        assert!(wants(&["im.messages"], "im.messages", false));
        assert!(wants(&["im.mess*"], "im.messages", false));
        assert!(!wants(&["im.messages"], "im.users", false));
        assert!(!wants(&["im"], "image.users", false));
        assert!(wants(&["im-files/2025/*"], "im-files/2025/10/a.jpg", false));
        assert!(wants(&["im-files"], "im-files/2025/10/a.jpg", false));
        assert!(wants(&["im-files/a[1].jpg"], "im-files/a[1].jpg", false));
        assert!(wants(&["im-files/[1]"], "im-files/[1]/a?b*", false));
        assert!(!wants(&["im-files/a[1].jpg"], "im-files/a[2].jpg", false));
    }

    #[test]
    fn a_dot_divides_tables_and_not_the_names_of_objects_and_files() {
        assert!(!wants(&["im-files/a"], "im-files/a.jpg", false));
        assert!(!wants(&["/x/a"], "/x/a.txt", false));
        assert!(wants(&["/x/a"], "/x/a/b", false));
        assert!(wants(&["im"], "im.odd", false));
    }

    #[test]
    fn a_container_comes_along_with_what_is_inside() {
        assert!(wants(&["im.messages"], "im", true));
        assert!(wants(&["*.messages"], "im", true));
        assert!(!wants(&["other.messages"], "im", true));
        assert!(!wants(&["im.messages"], "im", false));
        assert!(!wants(&["image.x"], "im", true));
        assert!(wants(&["user:*"], "", true));
        assert!(!wants(&["user:*"], "", false));
    }

    #[test]
    fn a_range_wants_its_table_and_pieces_that_may_hold_it() {
        let only = Selection::new(&["im.messages[100..200]".to_owned(), "im.users".to_owned()]).unwrap();
        let meta = |name: &str| EntryMeta::new(EntryPath::new("x").unwrap(), Stage::Data, name);
        assert!(only.picks(&meta("im.messages")) && only.picks(&meta("im.users")));
        assert!(only.is_in_part("im.messages") && !only.is_in_part("im.users"));
        let trailer: Attrs =
            [("first_key", "1"), ("last_key", "99")].map(|(name, key)| (name.to_owned(), key.into())).into();
        assert!(!only.may_hold(&meta("im.messages"), &trailer) && only.may_hold(&meta("im.users"), &trailer));
        assert!(only.may_hold(&meta("im.messages"), &Attrs::new()));
        assert!(wants(&["im.messages[1..2]"], "im", true));
    }

    #[test]
    fn names_that_are_no_text_are_matched_byte_by_byte() {
        let only = |pattern: &str| Selection::new(&[pattern.to_owned()]).unwrap();
        let (one, other) = (b"bin\xff\n/x".as_slice(), b"bin\xfe\n/x".as_slice());
        assert!(
            only("bin*").names_bytes(one) && only("bin?\n/x").names_bytes(one) && only("*").names_bytes(b"")
        );
        assert!(!only("bin\u{fffd}\n/x").names_bytes(one), "what cannot be shown is not its replacement");
        assert!(only("k:[12]*").names_bytes(b"k:1\xff") && !only("k:[12]*").names_bytes(b"k:3"));
        assert!(only("密:*").names_bytes("密:1".as_bytes()) && !only("bin").names_bytes(other));
        assert!(Selection::all().names_bytes(other));
    }

    /// Returns what a key showed at a time: of its versions, the oldest first, the last that was made by then, unless
    /// it hid the key.
    fn shown(history: &[(i64, bool)], as_of: i64) -> Option<usize> {
        let nth = history.iter().rposition(|(from, _)| *from <= as_of)?;
        (!history[nth].1).then_some(nth)
    }

    fn version(history: &[(i64, bool)], nth: usize) -> EntryMeta {
        let stamp = |seconds| DateTime::from_timestamp(seconds, 0).unwrap().to_rfc3339();
        let mut meta = EntryMeta::new(EntryPath::new("x").unwrap(), Stage::Data, "b")
            .with("last_modified", stamp(history[nth].0));
        meta.select = "b/k".to_owned();
        if let Some(until) = history[nth + 1..].iter().map(|(from, _)| *from).min() {
            meta.select = format!("b/k?versionId={nth}");
            meta = meta.with("until", stamp(until)).with("version_of", "k");
        }
        if history[nth].1 { meta.with("delete_marker", true) } else { meta }
    }

    proptest::proptest! {
        #[test]
        fn as_of_a_time_one_version_of_a_key_is_wanted_at_most_and_it_is_what_the_key_showed(
            history in proptest::collection::vec((0..9_i64, proptest::prelude::any::<bool>()), 0..8),
            as_of in -1..10_i64,
        ) {
            for patterns in [vec![], vec!["b".to_owned()], vec!["b/k".to_owned()], vec!["other".to_owned()]] {
                let is_meant = patterns != ["other"];
                let only = Selection::new(&patterns).unwrap().at(DateTime::from_timestamp(as_of, 0));
                let wanted: Vec<usize> =
                    (0..history.len()).filter(|nth| only.wants(&version(&history, *nth))).collect();
                let expected: Vec<usize> = shown(&history, as_of).filter(|_| is_meant).into_iter().collect();
                proptest::prop_assert_eq!(wanted, expected);
            }
        }
    }

    #[test]
    fn what_says_nothing_of_time_is_wanted_as_of_any() {
        let only = Selection::all().at(Some(DateTime::UNIX_EPOCH));
        assert!(!only.is_all() && only.is_of_all());
        assert!(only.wants(&EntryMeta::new(EntryPath::new("x").unwrap(), Stage::Schema, "b")));
    }

    #[test]
    fn a_table_is_wanted_whole_or_in_part() {
        for whole in ["im", "im.messages", "*"] {
            let patterns = [whole.to_owned(), "im.messages[1..2]".to_owned()];
            assert!(Selection::new(&patterns).is_err(), "{whole}");
        }
    }
}
