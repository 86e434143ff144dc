//! Which entries a person asked for: `--only` patterns.

use std::{ffi::OsStr, os::unix::ffi::OsStrExt, path::Path};

use globset::{Glob, GlobSet, GlobSetBuilder};

use super::{Attrs, EntryMeta, KeyRange};
use crate::error::{Context, ExitCode, Failure, Result};

/// A set of `--only` patterns; without any, everything is wanted.
///
/// Patterns are globs over `db`, `db.table`, `bucket/key`, or a file's path. A pattern that names a
/// container (`im`, `bucket`, a directory) wants all that is inside. One that ends in a range of keys
/// (`im.messages[100..200]`) wants these rows of one table.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    globs: GlobSet,
    patterns: Vec<String>,
    ranges: Vec<KeyRange>,
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
        let selection = Self { globs: globs(whole.iter().copied())?, patterns: patterns.to_vec(), ranges };
        let is_whole = |range: &&KeyRange| !whole.is_empty() && selection.names(&range.table, Some('.'));
        if let Some(twice) = selection.ranges.iter().find(is_whole) {
            let what = format!("table `{}` is asked for whole and in part", twice.table);
            return Err(Failure::new(ExitCode::Usage, what).hint("Leave one of both out."));
        }
        Ok(Self { globs: all, ..selection })
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
        // A thing with a path is inside its item (`bucket/key`, a file below a root); a table is its own item.
        let has_path = meta.select != meta.item || meta.select.starts_with('/');
        let divider = if has_path { '/' } else { '.' };
        self.names(&meta.select, Some(divider))
    }

    /// Returns whether a pattern matches `name`, or a container around it where `divider` tells containers
    /// from what is inside.
    pub fn names(&self, name: &str, divider: Option<char>) -> bool {
        let borders = name.char_indices().filter(|(at, c)| *at > 0 && Some(*c) == divider);
        self.is_all()
            || self.globs.is_match(name)
            || borders.into_iter().any(|(at, _)| self.globs.is_match(&name[..at]))
    }

    /// Returns whether a pattern matches a name that need not be text, byte by byte; nothing is around such a name.
    pub fn names_bytes(&self, name: &[u8]) -> bool {
        let name = Path::new(OsStr::from_bytes(name));
        self.is_all() || self.globs.is_match(name)
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

    #[test]
    fn a_table_is_wanted_whole_or_in_part() {
        for whole in ["im", "im.messages", "*"] {
            let patterns = [whole.to_owned(), "im.messages[1..2]".to_owned()];
            assert!(Selection::new(&patterns).is_err(), "{whole}");
        }
    }
}
