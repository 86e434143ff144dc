//! Which entries a person asked for: `--only` patterns.

use globset::{Glob, GlobSet, GlobSetBuilder};

use super::EntryMeta;
use crate::error::{Context, ExitCode, Result};

/// A set of `--only` patterns; without any, everything is wanted.
///
/// Patterns are globs over `db`, `db.table`, `bucket/key`, or a file's path. A pattern that names a
/// container (`im`, `bucket`, a directory) wants all that is inside.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    globs: GlobSet,
    patterns: Vec<String>,
}

impl Selection {
    /// Wants everything.
    pub fn all() -> Self {
        Self::default()
    }

    /// Checks the patterns.
    pub fn new(patterns: &[String]) -> Result<Self> {
        let mut builder = GlobSetBuilder::new();
        for pattern in patterns {
            let glob =
                Glob::new(pattern).failed(ExitCode::Usage, || format!("pattern `{pattern}` is no glob"))?;
            builder.add(glob);
        }
        let globs = builder.build().failed(ExitCode::Usage, || "the patterns are too many".to_owned())?;
        Ok(Self { globs, patterns: patterns.to_vec() })
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
}
