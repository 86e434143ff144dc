//! All paths below the policy's, in order.
//!
//! *Order.* A folder comes before what is inside it, and names come by their bytes, part by part: the order
//! of [`Path`]'s own comparison. The next run walks the same way beside this one. A folder that was changed meanwhile
//! is listed again when its names are through, and what has come comes then: logs are renamed when they rotate, and
//! what was listed under one name would else be in no entry. What comes is found in the folder that was listed,
//! whatever has taken its place.
//!
//! *Limits.* The names of the folders on the way down are in memory, not those of the whole tree; these folders are
//! open. A folder that never rests is listed [`LISTINGS_MAX`] times.

use std::{
    collections::{BTreeSet, VecDeque},
    ffi::OsString,
    io,
    path::{Path, PathBuf},
};

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use rustix::fs::Stat;

use super::{
    facts::is_plain,
    found::{Found, Parent, list},
};
use crate::{
    error::{Context, ExitCode, Failure, Result},
    policy::FilesConfig,
};

/// How often a folder is listed that was changed each time.
const LISTINGS_MAX: u32 = 4;

/// Walks one root.
pub(super) struct Walk {
    /// The root, before it has come.
    root: Option<Found>,
    /// The folders on the way down.
    levels: Vec<Level>,
    exclude: GlobSet,
}

/// What comes next.
#[derive(Debug)]
pub(super) enum Step {
    /// A path that is not excluded.
    Path(Found),
    /// A folder that another one has taken the place of since it was listed.
    Replaced(PathBuf),
}

/// A folder on the way down.
struct Level {
    folder: Found,
    open: Parent,
    /// As it was right before it was listed.
    then: Stat,
    /// All names that were listed.
    names: BTreeSet<OsString>,
    /// Those of them that are to come.
    left: VecDeque<OsString>,
    listings: u32,
}

impl Level {
    fn of(folder: &Found) -> io::Result<Self> {
        let open = folder.folder()?;
        let (then, names) = list(&open)?;
        let names: BTreeSet<OsString> = names.into_iter().collect();
        let left = names.iter().cloned().collect();
        Ok(Self { folder: folder.clone(), open, then, names, left, listings: 1 })
    }

    /// Lists the names again that have come since. Returns whether its name leads to another folder by now.
    fn is_another_since(&mut self) -> bool {
        // One that is gone took its names along, and each of them has been missed.
        let Ok(now) = self.folder.stat() else { return false };
        if (now.st_dev, now.st_ino) != (self.then.st_dev, self.then.st_ino) {
            return true;
        }
        let stamp = |stat: &Stat| (stat.st_mtime, stat.st_mtime_nsec);
        if stamp(&now) != stamp(&self.then)
            && self.listings < LISTINGS_MAX
            && let Ok((then, names)) = list(&self.open)
        {
            let names: BTreeSet<OsString> = names.into_iter().collect();
            self.left = names.difference(&self.names).cloned().collect();
            self.names.extend(names);
            (self.then, self.listings) = (then, self.listings + 1);
        }
        false
    }
}

impl Walk {
    /// Begins at `root`.
    pub(super) fn new(root: &Path, exclude: GlobSet) -> io::Result<Self> {
        Ok(Self { root: Some(Found::root(root)?), levels: Vec::new(), exclude })
    }

    /// Returns what comes next, `None` at the end.
    pub(super) fn next(&mut self) -> Option<Step> {
        if let Some(root) = self.root.take().filter(|root| !self.exclude.is_match(root.path())) {
            return Some(Step::Path(root));
        }
        loop {
            let level = self.levels.last_mut()?;
            if let Some(name) = level.left.pop_front() {
                let found = Found::in_folder(level.folder.path(), &level.open, name);
                if !self.exclude.is_match(found.path()) {
                    return Some(Step::Path(found));
                }
                continue;
            }
            let is_another = level.is_another_since();
            if level.left.is_empty() {
                let level = self.levels.pop()?;
                if is_another {
                    return Some(Step::Replaced(level.folder.path().to_owned()));
                }
            }
        }
    }

    /// Goes down into a folder that [`Self::next`] returned.
    pub(super) fn descend(&mut self, folder: &Found) -> io::Result<()> {
        self.levels.push(Level::of(folder)?);
        Ok(())
    }
}

/// Judges the paths and patterns of a policy; nothing is looked at.
pub fn judge(config: &FilesConfig) -> Result<()> {
    plan(config).map(drop)
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
    use std::fs;

    use super::*;

    #[test]
    fn roots_inside_roots_are_taken_once() {
        let paths: Vec<PathBuf> = ["/b//c/", "/a", "/b", "/ab"].map(PathBuf::from).to_vec();
        assert_eq!(roots(&paths).unwrap(), ["/a", "/ab", "/b"].map(PathBuf::from));
        assert_eq!(roots(&["rel".into()]).unwrap_err().exit(), ExitCode::Usage);
        assert!(roots(&["/a/../b".into()]).is_err());
    }

    /// Walks a folder whose files are these, and does something when the first one has come.
    fn walked(files: &[&str], meanwhile: impl FnOnce(&Path)) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("logs");
        fs::create_dir(&root).unwrap();
        for file in files {
            fs::write(root.join(file), file).unwrap();
        }
        // Older than the clock's own steps.
        let long_ago = std::time::SystemTime::UNIX_EPOCH;
        fs::File::open(&root).unwrap().set_modified(long_ago).unwrap();
        let mut walk = Walk::new(&root, GlobSet::empty()).unwrap();
        let Some(Step::Path(found)) = walk.next() else { panic!("the root comes first") };
        assert_eq!(found.path(), root);
        walk.descend(&found).unwrap();
        let (mut seen, mut meanwhile) = (Vec::new(), Some(meanwhile));
        while let Some(step) = walk.next() {
            let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
            seen.push(match &step {
                Step::Path(found) => name(found.path()),
                Step::Replaced(folder) => format!("replaced: {}", name(folder)),
            });
            if let Some(meanwhile) = meanwhile.take() {
                meanwhile(&root);
            }
        }
        seen
    }

    #[test]
    fn logs_that_rotate_meanwhile_come_under_their_new_names() {
        let rotate = |root: &Path| {
            fs::rename(root.join("im.log.2"), root.join("im.log.3.gz")).unwrap();
            fs::rename(root.join("im.log.1"), root.join("im.log.2")).unwrap();
        };
        assert_eq!(walked(&["im.log.1", "im.log.2"], rotate), ["im.log.1", "im.log.2", "im.log.3.gz"]);
        assert_eq!(walked(&["a", "b"], |_| {}), ["a", "b"]);
        assert_eq!(walked(&["a", "b"], |root| fs::remove_dir_all(root).unwrap()), ["a", "b"]);
    }

    #[test]
    fn a_folder_that_another_one_took_the_place_of_is_told() {
        let swap = |root: &Path| {
            fs::rename(root, root.with_extension("old")).unwrap();
            fs::create_dir(root).unwrap();
        };
        assert_eq!(walked(&["a", "b"], swap), ["a", "b", "replaced: logs"]);
        let link = |root: &Path| {
            fs::rename(root, root.with_extension("old")).unwrap();
            std::os::unix::fs::symlink("/", root).unwrap();
        };
        assert_eq!(walked(&["a", "b"], link), ["a", "b", "replaced: logs"]);
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
        let mut walk = Walk::new(dir.path(), exclusion(&["**/z2".to_owned()]).unwrap()).unwrap();
        let mut seen = Vec::new();
        while let Some(Step::Path(found)) = walk.next() {
            if found.path().is_dir() {
                walk.descend(&found).unwrap();
            }
            seen.push(found.path().to_owned());
        }
        let mut sorted = seen.clone();
        sorted.sort();
        assert_eq!(seen, sorted);
        assert_eq!(seen.len(), 9);
    }
}
