//! Extended attributes of files and folders: which are kept, how they are read and set again. Access control lists and
//! the capabilities of programs are such attributes (xattr(7), acl(5), capabilities(7)).
//!
//! Kept are `user.*`, `trusted.*`, both lists and `security.capability`. Labels and signatures that the system gives by
//! itself are not: `SELinux` and IMA know better what belongs to a file on another host; nor what overlayfs notes of
//! its layers. Symbolic links have none of the kinds that people set.

use std::{collections::BTreeMap, ffi::OsStr, io, os::fd::AsFd, path::Path};

use rustix::{
    fs::{XattrFlags, fgetxattr, flistxattr, fremovexattr, fsetxattr, getxattr, listxattr},
    io::Errno,
    process::geteuid,
};
use std::os::unix::ffi::OsStrExt;

/// Attributes by name, as the system has them.
pub(super) type Xattrs = BTreeMap<Vec<u8>, Vec<u8>>;

/// Bytes that all attributes of one path may have; the limit of Linux for one of them.
const BYTES_MAX: usize = 64 << 10;
/// Bytes that the names of nearly all paths fit into.
const FEW_BYTES: usize = 256;
/// The lists of who may do what; a new file or folder may inherit them from the folder that it lies in.
const LISTS: [&str; 2] = ["system.posix_acl_access", "system.posix_acl_default"];

/// Returns the attributes of something open.
pub(super) fn of_file(file: impl AsFd) -> io::Result<Xattrs> {
    let file = file.as_fd();
    collect(|to| flistxattr(file, to), |name, to| fgetxattr(file, name, to))
}

/// Returns the attributes of what a path leads to.
pub(super) fn of_path(path: &Path) -> io::Result<Xattrs> {
    collect(|to| listxattr(path, to), |name, to| getxattr(path, name, to))
}

fn collect(
    list: impl Fn(&mut [u8]) -> rustix::io::Result<usize>,
    get: impl Fn(&OsStr, &mut [u8]) -> rustix::io::Result<usize>,
) -> io::Result<Xattrs> {
    let (mut found, mut names) = (Xattrs::new(), vec![0; FEW_BYTES]);
    let listed = list(&mut names).or_else(|error| match error {
        Errno::NOTSUP | Errno::NOSYS => Ok(0),
        Errno::RANGE => {
            names = vec![0; BYTES_MAX];
            list(&mut names)
        }
        error => Err(error),
    })?;
    let (mut value, mut total_bytes) = (Vec::new(), 0);
    for name in names[..listed].split(|byte| *byte == 0).filter(|name| is_kept(name)) {
        value.resize(BYTES_MAX, 0);
        let length = match get(OsStr::from_bytes(name), &mut value) {
            // Taken away since it was listed.
            Err(Errno::NODATA) => continue,
            told => told?,
        };
        total_bytes += name.len() + length;
        if total_bytes > BYTES_MAX {
            return Err(io::Error::other(format!(
                "its extended attributes are longer than {BYTES_MAX} bytes"
            )));
        }
        found.insert(name.to_vec(), value[..length].to_vec());
    }
    Ok(found)
}

fn is_kept(name: &[u8]) -> bool {
    name.starts_with(b"user.")
        || name == b"security.capability"
        || LISTS.iter().any(|list| list.as_bytes() == name)
        || name.starts_with(b"trusted.") && !name.starts_with(b"trusted.overlay.")
}

/// Returns whether only root can set an attribute.
pub(super) fn is_roots(name: &[u8]) -> bool {
    name.starts_with(b"trusted.") || name.starts_with(b"security.")
}

/// Gives something open these attributes, and takes away the lists that are not among them: it may have inherited them,
/// or have had them before a restore. Returns the first that could not be set, and why; what only root can set is left
/// out when we are not root.
pub(super) fn set(file: impl AsFd, xattrs: &Xattrs) -> Option<String> {
    let file = file.as_fd();
    let lists = LISTS.iter().filter(|list| !xattrs.contains_key(list.as_bytes()));
    let taken = lists.map(|list| match fremovexattr(file, *list) {
        Err(Errno::NODATA | Errno::NOTSUP | Errno::NOSYS) => Ok(()),
        told => {
            told.map_err(|error| format!("`{list}`, which it should not have: {}", io::Error::from(error)))
        }
    });
    let can = |name: &[u8]| !is_roots(name) || geteuid().is_root();
    let kept = xattrs.iter().filter(|(name, _)| can(name)).map(|(name, value)| {
        let set = fsetxattr(file, OsStr::from_bytes(name), value, XattrFlags::empty());
        set.map_err(|error| format!("`{}`: {}", name.escape_ascii(), io::Error::from(error)))
    });
    taken.chain(kept).fold(None, |first, set| first.or(set.err()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_set_is_kept_and_what_the_system_sets_is_not() {
        for name in ["user.a", "trusted.md5", "security.capability", LISTS[0], LISTS[1]] {
            assert!(is_kept(name.as_bytes()), "{name}");
        }
        for name in ["", "security.selinux", "security.ima", "trusted.overlay.opaque", "system.nfs4_acl"] {
            assert!(!is_kept(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn attributes_longer_than_a_path_may_have_are_told() {
        let many: Vec<String> = (0..3).map(|n| format!("user.{n}")).collect();
        let listed = many.join("\0") + "\0";
        let list = |to: &mut [u8]| {
            if to.len() == FEW_BYTES {
                return Err(Errno::RANGE);
            }
            to.iter_mut().zip(listed.bytes()).for_each(|(to, byte)| *to = byte);
            Ok(listed.len())
        };
        let told = collect(list, |_, _| Ok(BYTES_MAX / 2)).unwrap_err();
        assert!(told.to_string().contains("longer than 65536 bytes"), "{told}");
        assert_eq!(collect(list, |_, _| Ok(9)).unwrap().len(), 3);
        assert_eq!(collect(list, |_, _| Err(Errno::NODATA)).unwrap(), Xattrs::new());
        assert_eq!(collect(|_| Err(Errno::NOTSUP), |_, _| Ok(0)).unwrap(), Xattrs::new());
    }
}
