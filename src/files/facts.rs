//! What is kept of a path beside its bytes, and how names that are no text become entry paths.

use std::{
    ffi::{OsStr, OsString},
    fmt::Write,
    os::unix::{
        ffi::{OsStrExt, OsStringExt},
        fs::MetadataExt,
    },
    path::{Component, Path, PathBuf},
};

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::xattr::Xattrs;
use crate::{
    error::{ExitCode, Failure, Result},
    flow::{Attrs, EntryMeta, Stage},
    names::EntryPath,
};

/// The attribute of a file that has several names: how many.
pub(super) const LINKS: &str = "links";
/// The attribute of every further name of a file: the first one.
pub(super) const SAME_AS: &str = "same_as";
/// The attribute of a file that takes less room than its length.
pub(super) const SPARSE: &str = "sparse";
/// The attribute with a path's extended attributes, in hex.
pub(super) const XATTRS: &str = "xattrs";
/// The attribute of a file that was changed so shortly before it was read that a later change could carry the
/// same stamp; the next run reads it again.
pub(super) const FRESH: &str = "fresh";

/// What a path leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A folder.
    Folder,
    /// A regular file.
    File,
    /// A symbolic link.
    Link,
}

impl Kind {
    /// Returns the word that attributes hold.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Folder => "folder",
            Self::File => "file",
            Self::Link => "link",
        }
    }

    /// Returns what the file system says, `None` for what is not kept.
    pub(super) fn of(meta: &std::fs::Metadata) -> Option<Self> {
        match meta.file_type() {
            kind if kind.is_dir() => Some(Self::Folder),
            kind if kind.is_file() => Some(Self::File),
            kind if kind.is_symlink() => Some(Self::Link),
            _ => None,
        }
    }
}

/// What a restore sets again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    /// What it is.
    pub(super) kind: Kind,
    /// The absolute path that it had.
    pub(super) path: PathBuf,
    /// The permission bits.
    pub(super) mode: u32,
    /// The owner.
    pub(super) uid: u32,
    /// The group.
    pub(super) gid: u32,
    /// When its content changed, in nanoseconds since 1970.
    pub(super) mtime_ns: i64,
    /// Where a link points.
    pub(super) target: Option<PathBuf>,
    /// How long a file is.
    pub(super) size_bytes: Option<u64>,
    /// Whether a file had several names.
    pub(super) is_linked: bool,
    /// The first name of such a file, if this is another.
    pub(super) same_as: Option<PathBuf>,
    /// Whether a file had holes.
    pub(super) is_sparse: bool,
    /// Extended attributes.
    pub(super) xattrs: Xattrs,
}

impl Facts {
    /// Takes the facts out of an entry's attributes.
    pub(super) fn of_entry(meta: &EntryMeta) -> Result<Self> {
        let odd = |why: &str| {
            let what = format!("entry `{}` is no file's", meta.path);
            Failure::new(ExitCode::Damage, what).because(why.to_owned())
        };
        let kind = [Kind::Folder, Kind::File, Kind::Link];
        let kind = kind.into_iter().find(|kind| meta.text("kind") == Some(kind.word()));
        let number = |name: &str| meta.attrs.get(name).and_then(Value::as_u64);
        let small = |name: &str| number(name).and_then(|n| u32::try_from(n).ok()).unwrap_or(0);
        let mode = meta.text("mode").and_then(|mode| u32::from_str_radix(mode, 8).ok());
        let path = name_of(&meta.attrs, "path").ok_or_else(|| odd("it names no path"))?;
        if !is_plain(&path) {
            return Err(odd("its path is not absolute and plain"));
        }
        Ok(Self {
            kind: kind.ok_or_else(|| odd("it does not say what it is"))?,
            path,
            mode: mode.ok_or_else(|| odd("it has no mode"))?,
            uid: small("uid"),
            gid: small("gid"),
            mtime_ns: meta.attrs.get("mtime_ns").and_then(Value::as_i64).unwrap_or(0),
            target: name_of(&meta.attrs, "target"),
            size_bytes: number("size"),
            is_linked: meta.attrs.contains_key(LINKS),
            same_as: name_of(&meta.attrs, SAME_AS),
            is_sparse: meta.attrs.get(SPARSE).and_then(Value::as_bool) == Some(true),
            xattrs: xattrs_of(&meta.attrs).ok_or_else(|| odd("its extended attributes are no text"))?,
        })
    }
}

/// Makes the entry of a path.
pub(super) fn entry(
    path: &Path,
    item: &str,
    kind: Kind,
    meta: &std::fs::Metadata,
    target: Option<&Path>,
) -> Result<EntryMeta> {
    let shown = path.to_string_lossy().into_owned();
    let place = entry_path(path)?;
    let mut entry = EntryMeta::new(place, Stage::Data, item)
        .with("kind", kind.word())
        .with("mode", format!("{:04o}", meta.mode() & 0o7777))
        .with("uid", meta.uid())
        .with("gid", meta.gid())
        .with("mtime_ns", nanoseconds(meta.mtime(), meta.mtime_nsec()));
    entry.select = shown;
    entry.container = kind == Kind::Folder;
    put_name(&mut entry.attrs, "path", path);
    if let Some(target) = target {
        put_name(&mut entry.attrs, "target", target);
    }
    if kind == Kind::File {
        entry = entry
            .with("size", meta.size())
            .with("inode", meta.ino())
            .with("ctime_ns", nanoseconds(meta.ctime(), meta.ctime_nsec()));
    }
    Ok(entry)
}

/// Joins the two halves of a time; the year 2262 is the last that fits.
pub(super) fn nanoseconds(seconds: i64, nanoseconds: i64) -> i64 {
    seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds)
}

/// Returns whether a path is absolute and neither climbs nor repeats itself.
pub(super) fn is_plain(path: &Path) -> bool {
    let mut parts = path.components();
    parts.next() == Some(Component::RootDir)
        && parts.all(|part| matches!(part, Component::Normal(_)))
        && !path.as_os_str().as_bytes().contains(&0)
}

/// Returns where a path lies inside its source.
///
/// As [`EntryPath::of_parts`], and bytes that are no text are escaped like control characters are, so that
/// two names never share a path. One that is too long for an entry's path, because of its escapes, ends with `%~` and
/// its SHA-256, which nothing escaped does; the attributes have the path itself.
pub(super) fn entry_path(path: &Path) -> Result<EntryPath> {
    let parts = path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(escape(name)),
        _ => None,
    });
    EntryPath::new(&short(parts.collect::<Vec<_>>().join("/"))).map_err(|error| {
        let shown = path.display().to_string();
        Failure::new(ExitCode::Failed, format!("`{}` has no entry path", shown.escape_debug())).because(error)
    })
}

fn short(path: String) -> String {
    if path.len() <= EntryPath::MAX_BYTES {
        return path;
    }
    let hash = hex::encode(Sha256::digest(&path));
    let kept = path.floor_char_boundary(EntryPath::MAX_BYTES - hash.len() - 2);
    format!("{}%~{hash}", &path[..kept])
}

fn escape(name: &OsStr) -> String {
    let mut out = String::new();
    for chunk in name.as_bytes().utf8_chunks() {
        for c in chunk.valid().chars() {
            if c == '%' || c.is_control() {
                let mut bytes = [0; 4];
                c.encode_utf8(&mut bytes).bytes().for_each(|byte| push_hex(&mut out, byte));
            } else {
                out.push(c);
            }
        }
        chunk.invalid().iter().for_each(|byte| push_hex(&mut out, *byte));
    }
    out
}

/// Takes back what [`escape`] did.
fn unescape(name: &str) -> Option<Vec<u8>> {
    let mut parts = name.split('%');
    let mut out = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let (code, text) = part.split_at_checked(2)?;
        out.push(u8::from_str_radix(code, 16).ok()?);
        out.extend_from_slice(text.as_bytes());
    }
    Some(out)
}

/// Adds extended attributes, where there are any.
pub(super) fn put_xattrs(attrs: &mut Attrs, xattrs: &Xattrs) {
    let texts =
        xattrs.iter().map(|(name, value)| (escape(OsStr::from_bytes(name)), hex::encode(value).into()));
    if !xattrs.is_empty() {
        attrs.insert(XATTRS.to_owned(), Value::Object(texts.collect()));
    }
}

/// Returns what [`put_xattrs`] added; `None` when it is something else.
pub(super) fn xattrs_of(attrs: &Attrs) -> Option<Xattrs> {
    let Some(texts) = attrs.get(XATTRS) else { return Some(Xattrs::new()) };
    let one = |(name, value): (&String, &Value)| Some((unescape(name)?, hex::decode(value.as_str()?).ok()?));
    texts.as_object()?.iter().map(one).collect()
}

fn push_hex(out: &mut String, byte: u8) {
    // Writing to a string cannot fail.
    write!(out, "%{byte:02X}").ok();
}

/// Adds a name of any bytes: as text where it is text, else in hex under `<name>_hex`.
pub(super) fn put_name(attrs: &mut Attrs, name: &str, path: &Path) {
    match path.to_str() {
        Some(text) => attrs.insert(name.to_owned(), text.into()),
        None => attrs.insert(format!("{name}_hex"), hex::encode(path.as_os_str().as_bytes()).into()),
    };
}

/// Returns a name that [`put_name`] added.
pub(super) fn name_of(attrs: &Attrs, name: &str) -> Option<PathBuf> {
    if let Some(text) = attrs.get(name).and_then(Value::as_str) {
        return Some(PathBuf::from(text));
    }
    let bytes = hex::decode(attrs.get(&format!("{name}_hex"))?.as_str()?).ok()?;
    Some(PathBuf::from(OsString::from_vec(bytes)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_plain_absolute_paths_are_taken() {
        assert!(is_plain(Path::new("/opt/a b/…")));
        for bad in ["a", "", "/a/../b", "../a", "/a\0b"] {
            assert!(!is_plain(Path::new(bad)), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn a_text_name_has_the_path_that_its_parts_have(name in "[^/\0]{1,20}") {
            prop_assume!(name != "." && name != "..");
            let path = Path::new("/x").join(&name);
            prop_assert_eq!(entry_path(&path).unwrap(), EntryPath::of_parts(&["x", &name]).unwrap());
        }

        #[test]
        fn names_of_any_bytes_are_kept_apart_and_come_back(
            a in prop::collection::vec(1_u8.., 1..8),
            b in prop::collection::vec(1_u8.., 1..8),
        ) {
            let path = |bytes: &[u8]| {
                let bytes: Vec<u8> = bytes.iter().map(|b| if b"/.".contains(b) { b'_' } else { *b }).collect();
                Path::new("/x").join(OsStr::from_bytes(&bytes))
            };
            let (one, two) = (path(&a), path(&b));
            prop_assert_eq!(one == two, entry_path(&one).unwrap() == entry_path(&two).unwrap());
            let mut attrs = Attrs::new();
            put_name(&mut attrs, "path", &one);
            prop_assert_eq!(name_of(&attrs, "path").unwrap(), one);
        }

        #[test]
        fn extended_attributes_of_any_bytes_come_back(
            xattrs in prop::collection::btree_map(
                prop::collection::vec(1_u8.., 1..9), prop::collection::vec(any::<u8>(), 0..9), 0..4
            ),
        ) {
            let mut attrs = Attrs::new();
            put_xattrs(&mut attrs, &xattrs);
            prop_assert_eq!(xattrs_of(&attrs).unwrap(), xattrs);
        }

        #[test]
        fn what_was_never_escaped_is_refused_and_not_broken_by(text in ".{0,9}") {
            let odd = serde_json::json!({ text.as_str(): "zz" });
            prop_assert_eq!(xattrs_of(&Attrs::from([(XATTRS.to_owned(), odd)])), None);
            let name = unescape(&text);
            prop_assert!(name.is_none() || text.contains('%') || name.unwrap() == text.as_bytes());
        }
    }
}
