//! Removes a folder with all that is in it.
//!
//! What was restored has the modes that it was backed up with: a folder that its owner may not write to keeps what is
//! in it from everybody but root.
//!
//! *Order.* It is tried as it is first; then all folders are opened to their owner and it is tried again. Links are
//! never followed. *Crash.* What is left is removed by the next call.

use std::{
    fs::{self, Permissions},
    io::{ErrorKind, Result},
    os::unix::fs::PermissionsExt,
    path::Path,
    thread::sleep,
    time::Duration,
};

/// What the owner of a folder needs to remove what is in it.
const OPEN: u32 = 0o700;

/// How often a folder is removed into which somebody writes, and the pause between.
const TRIES: u32 = 50;
const PAUSE: Duration = Duration::from_millis(100);

/// Removes a folder with all that is in it; one that is not there is removed already.
pub fn remove_tree(folder: &Path) -> Result<()> {
    match remove(folder) {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            open(folder)?;
            remove(folder)
        }
        removed => removed,
    }
}

/// Who was told to stop may still write for a moment: what appears meanwhile is removed as well.
fn remove(folder: &Path) -> Result<()> {
    for _ in 1..TRIES {
        match fs::remove_dir_all(folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => sleep(PAUSE),
            removed => return removed,
        }
    }
    fs::remove_dir_all(folder)
}

/// Lets the owner into all folders. Somebody else's stay as they are: the removal tells what it could not do.
fn open(folder: &Path) -> Result<()> {
    if !fs::symlink_metadata(folder)?.is_dir() {
        return Ok(());
    }
    let mut found = vec![folder.to_owned()];
    while let Some(folder) = found.pop() {
        let _ = fs::set_permissions(&folder, Permissions::from_mode(OPEN));
        for item in fs::read_dir(&folder).into_iter().flatten() {
            let item = item?;
            if item.file_type()?.is_dir() {
                found.push(item.path());
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use rustix::{
        process::geteuid,
        thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid},
    };

    use super::*;

    /// Does something as a user without rights: root ignores modes. Only this thread becomes one, and it ends.
    fn without_rights(work: impl FnOnce() + Send + 'static) {
        let worked = std::thread::spawn(move || {
            if geteuid().is_root() {
                let (group, user) = (rustix::fs::Gid::from_raw(65534), rustix::fs::Uid::from_raw(65534));
                set_thread_groups(&[]).unwrap();
                set_thread_res_gid(group, group, group).unwrap();
                set_thread_res_uid(user, user, user).unwrap();
            }
            work();
        });
        worked.join().unwrap();
    }

    fn mode(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn folders_that_nobody_may_write_to_are_removed_and_what_links_lead_to_is_not() {
        without_rights(|| {
            let dir = tempfile::tempdir().unwrap();
            let (tree, outside) = (dir.path().join("tree"), dir.path().join("outside"));
            fs::create_dir_all(tree.join("etc/conf.d/closed")).unwrap();
            fs::create_dir(&outside).unwrap();
            fs::write(tree.join("etc/conf.d/closed/file"), "x").unwrap();
            fs::write(outside.join("file"), "x").unwrap();
            symlink(&outside, tree.join("etc/link")).unwrap();
            for (path, bits) in [("etc/conf.d/closed", 0o000), ("etc/conf.d", 0o555), ("etc", 0o555)] {
                mode(&tree.join(path), bits);
            }
            mode(&outside, 0o500);
            remove_tree(&tree).unwrap();
            assert!(!tree.exists());
            let bits = fs::metadata(&outside).unwrap().permissions().mode() & 0o777;
            assert!(bits == 0o500 && outside.join("file").exists());
            remove_tree(&tree).unwrap();
            mode(&outside, 0o700);
        });
    }

    #[test]
    fn what_cannot_be_removed_is_told() {
        without_rights(|| {
            let dir = tempfile::tempdir().unwrap();
            fs::create_dir(dir.path().join("tree")).unwrap();
            mode(dir.path(), 0o555);
            let refused = remove_tree(&dir.path().join("tree")).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::PermissionDenied);
            mode(dir.path(), 0o755);
        });
    }

    #[test]
    fn what_appears_while_a_folder_is_removed_is_removed_as_well() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        fs::create_dir(&tree).unwrap();
        let busy = tree.clone();
        let writes = std::thread::spawn(move || {
            for n in 0..2000 {
                // Until the folder itself has gone.
                if fs::write(busy.join(n.to_string()), "x").is_err() {
                    return;
                }
            }
        });
        remove_tree(&tree).unwrap();
        writes.join().unwrap();
        assert!(!tree.exists());
    }
}
