//! When two paths are the same: what a file system sets by itself is not compared, nor what only root can restore when
//! we are not root.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use serde_json::Value;

use super::{
    facts::{FRESH, LINKS, SAME_AS, SPARSE, XATTRS, entry_path, name_of, put_name, put_xattrs, xattrs_of},
    xattr::is_roots,
};
use crate::flow::{EntryMeta, Likeness, Seen, TORN, compare::Counts};

/// Facts that belong to one place of one file system. The length stands in the entry itself.
const OWN: [&str; 6] = ["inode", "ctime_ns", "size", LINKS, SPARSE, FRESH];

/// When two entries of a files source hold the same.
pub struct FilesLikeness {
    below: Option<PathBuf>,
    is_root: bool,
}

impl FilesLikeness {
    /// Compares paths as they are.
    pub fn in_place() -> Self {
        Self { below: None, is_root: rustix::process::geteuid().is_root() }
    }

    /// Compares what was put below `folder` with what it was outside.
    pub fn below(folder: &Path) -> Self {
        Self { below: Some(folder.to_owned()), ..Self::in_place() }
    }

    /// Takes the folder off the paths of an entry.
    fn outside(&self, meta: &mut EntryMeta) {
        let Some(folder) = &self.below else { return };
        let original = |path: &Path| path.strip_prefix(folder).ok().map(|path| Path::new("/").join(path));
        let Some(path) = name_of(&meta.attrs, "path").and_then(|path| original(&path)) else { return };
        let Ok(place) = entry_path(&path) else { return };
        meta.path = place;
        meta.select = path.to_string_lossy().into_owned();
        if let Some(item) = original(Path::new(&meta.item)) {
            meta.item = item.to_string_lossy().into_owned();
        }
        let first = name_of(&meta.attrs, SAME_AS).and_then(|path| original(&path));
        for (name, path) in [("path", Some(path)), (SAME_AS, first)] {
            let Some(path) = path else { continue };
            meta.attrs.remove(&format!("{name}_hex"));
            meta.attrs.remove(name);
            put_name(&mut meta.attrs, name, &path);
        }
    }
}

impl Likeness for FilesLikeness {
    fn canonical(&self, mut seen: Seen) -> Option<Seen> {
        self.outside(&mut seen.meta);
        seen.meta.attrs.retain(|name, _| !OWN.contains(&name.as_str()));
        // A file that changed while it was read is restored as it was found.
        seen.trailer.remove(TORN);
        if !self.is_root {
            seen.meta.attrs.retain(|name, _| name != "uid" && name != "gid");
            let mode = seen.meta.text("mode").and_then(|mode| u32::from_str_radix(mode, 8).ok());
            if let Some(mode) = mode {
                seen.meta.attrs.insert("mode".to_owned(), Value::from(format!("{:04o}", mode & 0o1777)));
            }
            if let Some(mut xattrs) = xattrs_of(&seen.meta.attrs) {
                xattrs.retain(|name, _| !is_roots(name));
                seen.meta.attrs.remove(XATTRS);
                put_xattrs(&mut seen.meta.attrs, &xattrs);
            }
        }
        Some(seen)
    }

    fn name(&self, meta: &EntryMeta) -> String {
        let path = name_of(&meta.attrs, "path").unwrap_or_else(|| PathBuf::from(meta.path.as_str()));
        let kind = meta.text("kind").unwrap_or("path");
        format!("{kind} {}", path.display().to_string().escape_debug())
    }

    fn count(&self, seen: &Seen, _bytes: Option<&Bytes>, counts: &mut Counts) {
        let kind = seen.meta.text("kind").unwrap_or("path");
        *counts.entry(format!("{kind}s")).or_default() += 1;
        *counts.entry("bytes".to_owned()).or_default() += seen.size_bytes;
    }
}
