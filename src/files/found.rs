//! A path that a walk has come to: a name in a folder that is open, so that whoever owns a folder on the way cannot
//! lead a reader elsewhere by putting a link in its place meanwhile.
//!
//! The folder that a path of the policy lies in is trusted as it is named; from there on no link is followed.

use std::{
    ffi::{OsStr, OsString},
    fs::{File, Metadata},
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::ffi::{OsStrExt, OsStringExt},
    },
    path::{Path, PathBuf},
    rc::Rc,
};

use rustix::{
    fs::{AtFlags, Dir, Mode, OFlags, Stat, fstat, open, openat, readlinkat, statat},
    io::Errno,
};

use super::xattr::{self, Xattrs};

/// A folder that is open, for what is found in it.
pub(super) type Parent = Rc<OwnedFd>;

/// A path that a walk has come to.
#[derive(Clone, Debug)]
pub(super) struct Found {
    path: PathBuf,
    parent: Parent,
    name: OsString,
}

impl Found {
    /// Returns a path of the policy.
    pub(super) fn root(path: &Path) -> io::Result<Self> {
        let (parent, name) = match (path.parent(), path.file_name()) {
            (Some(parent), Some(name)) => (parent, name),
            // The root of all lies in itself.
            _ => (path, OsStr::new(".")),
        };
        let parent = open(parent, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { path: path.to_owned(), parent: Rc::new(parent), name: name.to_owned() })
    }

    /// Returns what has this name in a folder.
    pub(super) fn in_folder(folder: &Path, parent: &Parent, name: OsString) -> Self {
        Self { path: folder.join(&name), parent: parent.clone(), name }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns what is told of whatever has the name now.
    pub(super) fn stat(&self) -> io::Result<Stat> {
        Ok(statat(&*self.parent, &self.name, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// Looks at it; nothing is opened for reading.
    pub(super) fn look(&self) -> io::Result<Seen> {
        let handle = File::from(self.open_as(OFlags::PATH)?);
        let meta = handle.metadata()?;
        Ok(Seen { handle, meta })
    }

    /// Opens a regular file and nothing else, whatever the path became since it was listed.
    pub(super) fn open(&self) -> io::Result<(File, Metadata)> {
        let file = File::from(self.open_as(OFlags::NONBLOCK)?);
        let meta = file.metadata()?;
        if !meta.is_file() {
            return Err(io::Error::other("it is no regular file any more"));
        }
        Ok((file, meta))
    }

    /// Opens a folder to list it.
    pub(super) fn folder(&self) -> io::Result<Parent> {
        Ok(Rc::new(self.open_as(OFlags::DIRECTORY)?))
    }

    fn open_as(&self, flags: OFlags) -> io::Result<OwnedFd> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(openat(&*self.parent, &self.name, flags, Mode::empty()).map_err(|error| match error {
            // A link in the place of a folder (open(2)).
            Errno::LOOP => Errno::NOTDIR,
            error => error,
        })?)
    }
}

/// Lists the names in a folder, and returns what it was like right before.
pub(super) fn list(folder: &Parent) -> io::Result<(Stat, Vec<OsString>)> {
    let then = fstat(folder)?;
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        let name = OsStr::from_bytes(entry?.file_name().to_bytes()).to_owned();
        if name != "." && name != ".." {
            names.push(name);
        }
    }
    Ok((then, names))
}

/// A path that was looked at; it is the same one, whatever has its name by now.
pub(super) struct Seen {
    handle: File,
    pub(super) meta: Metadata,
}

impl Seen {
    /// Returns its extended attributes.
    pub(super) fn xattrs(&self) -> io::Result<Xattrs> {
        // What was not opened for reading is asked by the name that the system has for it (proc(5)).
        xattr::of_path(Path::new(&format!("/proc/self/fd/{}", self.handle.as_raw_fd())))
    }

    /// Returns where a symbolic link points.
    pub(super) fn target(&self) -> io::Result<PathBuf> {
        let target = readlinkat(&self.handle, "", Vec::new())?;
        Ok(PathBuf::from(OsString::from_vec(target.into_bytes())))
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Read, os::unix::fs::symlink};

    use super::*;

    fn read(found: &Found) -> io::Result<String> {
        let mut text = String::new();
        found.open()?.0.read_to_string(&mut text)?;
        Ok(text)
    }

    #[test]
    fn a_link_in_the_place_of_a_folder_on_the_way_leads_nobody_astray() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        for (folder, text) in [("root/sub/of", "ours"), ("elsewhere/of", "secret")] {
            fs::create_dir_all(at(folder)).unwrap();
            fs::write(at(folder).join("file"), text).unwrap();
        }
        let mut found = Found::root(&at("root")).unwrap();
        for name in ["sub", "of", "file"] {
            let folder = found.folder().unwrap();
            assert_eq!(list(&folder).unwrap().1, [name]);
            found = Found::in_folder(&found.path, &folder, name.into());
        }
        fs::rename(at("root/sub"), at("root/was")).unwrap();
        symlink(at("elsewhere"), at("root/sub")).unwrap();
        assert_eq!(fs::read_to_string(found.path()).unwrap(), "secret", "who goes by the path is led astray");
        assert_eq!(read(&found).unwrap(), "ours");
        assert_eq!(found.look().unwrap().meta.len(), 4);
    }

    #[test]
    fn a_link_in_the_place_of_a_file_or_folder_itself_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("folder")).unwrap();
        fs::write(dir.path().join("folder/file"), "x").unwrap();
        symlink("folder", dir.path().join("to_folder")).unwrap();
        symlink("folder/file", dir.path().join("to_file")).unwrap();
        let at = |name: &str| Found::root(&dir.path().join(name)).unwrap();
        assert_eq!(at("to_folder").folder().unwrap_err().kind(), io::ErrorKind::NotADirectory);
        read(&at("to_file")).unwrap_err();
        let seen = at("to_file").look().unwrap();
        assert!(seen.meta.is_symlink());
        assert_eq!(seen.target().unwrap(), Path::new("folder/file"));
        // The path of the policy itself may lie behind a link, as a person named it.
        assert_eq!(read(&at("to_folder/file")).unwrap(), "x");
    }

    #[test]
    fn the_root_of_all_is_found() {
        let (_, names) = list(&Found::root(Path::new("/")).unwrap().folder().unwrap()).unwrap();
        assert!(names.iter().any(|name| name == "etc"), "{names:?}");
    }
}
