//! All paths below the policy's, in order.
//!
//! *Order.* A folder comes before what is inside it, and names come by their bytes, part by part: the order
//! of [`Path`]'s own comparison. The next run walks the same way beside this one.
//!
//! *Limits.* The names of the folders on the way down are in memory, not those of the whole tree.

use std::{
    collections::VecDeque,
    fs, io,
    path::{Path, PathBuf},
};

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

use super::facts::is_plain;
use crate::{
    error::{Context, ExitCode, Failure, Result},
    policy::FilesConfig,
};

/// Walks one root.
pub(super) struct Walk {
    /// What is left of each folder on the way down.
    levels: Vec<VecDeque<PathBuf>>,
    exclude: GlobSet,
}

impl Walk {
    /// Begins at `root`.
    pub(super) fn new(root: &Path, exclude: GlobSet) -> Self {
        Self { levels: vec![VecDeque::from([root.to_owned()])], exclude }
    }

    /// Returns the next path that is not excluded.
    pub(super) fn next(&mut self) -> Option<PathBuf> {
        loop {
            let level = self.levels.last_mut()?;
            match level.pop_front() {
                None => drop(self.levels.pop()),
                Some(path) if self.exclude.is_match(&path) => {}
                Some(path) => return Some(path),
            }
        }
    }

    /// Goes down into a folder that [`Self::next`] returned.
    pub(super) fn descend(&mut self, folder: &Path) -> io::Result<()> {
        let names: io::Result<Vec<_>> = fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name())).collect();
        let mut names = names?;
        names.sort();
        self.levels.push(names.into_iter().map(|name| folder.join(name)).collect());
        Ok(())
    }
}

/// Returns what a policy takes: its roots, and the set of paths to leave out.
///
/// A pattern that leaves out a whole root is refused: it was meant for what is inside, and a snapshot of nothing
/// would count as whole.
pub(super) fn plan(config: &FilesConfig) -> Result<(Vec<PathBuf>, GlobSet)> {
    let (roots, exclude) = (roots(&config.paths)?, exclusion(&config.exclude)?);
    let Some(root) = roots.iter().find(|root| exclude.is_match(root)) else { return Ok((roots, exclude)) };
    let patterns = config.exclude.iter();
    let leaves_out = |pattern: &&String| exclusion(&[(*pattern).clone()]).is_ok_and(|set| set.is_match(root));
    let named: Vec<String> = patterns.filter(leaves_out).map(|pattern| format!("`{pattern}`")).collect();
    let (named, root) = (named.join(", "), root.display());
    let what = format!("`exclude` of a files source leaves out all of its path `{root}`: {named}");
    Err(Failure::new(ExitCode::Usage, what)
        .hint("Write the pattern so that it matches only what is inside, or take the path out of `paths`."))
}

/// Returns the roots of a policy, sorted, without those that lie inside another.
pub(super) fn roots(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut roots: Vec<PathBuf> = Vec::new();
    let mut sorted = paths.to_vec();
    sorted.sort();
    for path in sorted {
        // Built anew from its parts, a path has no trailing or doubled slashes.
        let path: PathBuf = path.components().collect();
        if !is_plain(&path) {
            let what = format!("path `{}` of a files source is not absolute and plain", path.display());
            return Err(Failure::new(ExitCode::Usage, what).hint("Write it from the root on, without `..`."));
        }
        if !roots.iter().any(|root| path.starts_with(root)) {
            roots.push(path);
        }
    }
    Ok(roots)
}

/// Makes the set of paths to leave out; a glob that names a folder leaves out all that is inside.
///
/// As in a shell, `*` and `?` stay inside one name and `**` does not. A pattern that does not begin at the root is
/// looked for at any depth.
fn exclusion(patterns: &[String]) -> Result<GlobSet> {
    let mut builder = GlobSetBuilder::new();
    for pattern in patterns {
        let anywhere = if pattern.starts_with('/') { "" } else { "**/" };
        let folder = pattern.trim_end_matches('/');
        for whole in [format!("{anywhere}{folder}"), format!("{anywhere}{folder}/**")] {
            let glob = GlobBuilder::new(&whole).literal_separator(true).build();
            let trouble = || format!("pattern `{pattern}` of a files source is no glob");
            builder.add(glob.failed(ExitCode::Usage, trouble)?);
        }
    }
    builder.build().failed(ExitCode::Usage, || "the patterns of a files source are too many".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roots_inside_roots_are_taken_once() {
        let paths: Vec<PathBuf> = ["/b//c/", "/a", "/b", "/ab"].map(PathBuf::from).to_vec();
        assert_eq!(roots(&paths).unwrap(), ["/a", "/ab", "/b"].map(PathBuf::from));
        assert_eq!(roots(&["rel".into()]).unwrap_err().exit(), ExitCode::Usage);
        assert!(roots(&["/a/../b".into()]).is_err());
    }

    #[test]
    fn a_pattern_that_leaves_out_a_whole_path_of_the_policy_is_refused() {
        let config = |exclude: &[&str]| FilesConfig {
            paths: vec!["/opt/im/config".into(), "/opt/im/.env".into()],
            exclude: exclude.iter().map(|pattern| (*pattern).to_owned()).collect(),
            max_age_days: None,
        };
        for pattern in ["**/config", "/opt/**", "/opt/im/.env", "/opt/im", "/"] {
            let refused = plan(&config(&["*.tmp", pattern])).unwrap_err();
            assert_eq!(refused.exit(), ExitCode::Usage, "{pattern}");
            assert!(refused.to_string().contains(&format!(": `{pattern}`")), "{refused}");
        }
        for pattern in ["/opt/im/config/config", "/opt/im/config/**/config", "/opt/im/config/**", "/srv"] {
            assert!(plan(&config(&[pattern])).is_ok(), "{pattern}");
        }
    }

    #[test]
    fn a_star_stays_inside_one_name_and_a_pattern_from_the_root_is_found_there_alone() {
        let left_out = |pattern: &str, path: &str| exclusion(&[pattern.to_owned()]).unwrap().is_match(path);
        for (pattern, path) in [
            ("/srv/*/tmp", "/srv/app/tmp"),
            ("/srv/*/tmp/", "/srv/app/tmp"),
            ("/srv/*/tmp", "/srv/app/tmp/deep/er"),
            ("/srv/**/tmp", "/srv/app/data/users/tmp"),
            ("/var/log/*.gz", "/var/log/im.log.gz"),
            ("*.gz", "/var/log/nginx/im.log.gz"),
            ("**/*.gz", "/var/log/nginx/im.log.gz"),
            ("cache", "/srv/app/cache/x"),
            ("cache/*.bin", "/srv/app/cache/x.bin"),
            ("{/srv,/opt}/*/tmp", "/opt/app/tmp"),
        ] {
            assert!(left_out(pattern, path), "{pattern} {path}");
        }
        for (pattern, path) in [
            ("/srv/*/tmp", "/srv/app/data/users/tmp"),
            ("/srv/?tmp", "/srv/a/tmp"),
            ("/var/log/*.gz", "/var/log/nginx/im.log.gz"),
            ("cache/*.bin", "/srv/app/cache/x/y.bin"),
            ("{/srv,/opt}/*/tmp", "/home/opt/app/tmp"),
            ("cache", "/srv/app/cache2"),
        ] {
            assert!(!left_out(pattern, path), "{pattern} {path}");
        }
    }

    #[test]
    fn the_walk_has_the_order_of_paths() {
        let dir = tempfile::tempdir().unwrap();
        for path in ["b/x", "b-/y", "a.txt", "a/z/1", "a/z2"] {
            fs::create_dir_all(dir.path().join(path).parent().unwrap()).unwrap();
            fs::write(dir.path().join(path), "").unwrap();
        }
        let mut walk = Walk::new(dir.path(), exclusion(&["**/z2".to_owned()]).unwrap());
        let mut seen = Vec::new();
        while let Some(path) = walk.next() {
            if path.is_dir() {
                walk.descend(&path).unwrap();
            }
            seen.push(path);
        }
        let mut sorted = seen.clone();
        sorted.sort();
        assert_eq!(seen, sorted);
        assert_eq!(seen.len(), 9);
    }
}
