//! What the host has for a lab: programs, and users without rights to run them as.

use std::{
    env,
    ffi::OsString,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use super::super::{Product, not_run};
use crate::error::{Failure, Result};

/// Where programs lie, also where PATH does not name it: servers are often in `sbin`.
const FOLDERS: [&str; 6] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// The folders in which programs are looked for.
#[derive(Clone, Debug)]
pub(super) struct Tools(Vec<PathBuf>);

impl Tools {
    /// Takes the folders of PATH, and the usual ones.
    pub(super) fn of_host() -> Self {
        let path = env::var_os("PATH").unwrap_or_default();
        let named = env::split_paths(&path).filter(|folder| folder.is_absolute()).collect();
        let mut all: Vec<PathBuf> = named;
        for folder in FOLDERS.map(PathBuf::from) {
            if !all.contains(&folder) {
                all.push(folder);
            }
        }
        Self(all)
    }

    /// Takes these folders and no others.
    pub(super) fn of(folders: Vec<PathBuf>) -> Self {
        Self(folders)
    }

    /// Returns the folders as PATH has them.
    pub(super) fn path(&self) -> OsString {
        env::join_paths(&self.0).unwrap_or_default()
    }

    /// Returns where a program is.
    pub(super) fn find(&self, name: &str) -> Option<PathBuf> {
        self.0.iter().map(|folder| folder.join(name)).find(|path| can_run(path))
    }

    /// Returns the first of these programs that there is.
    pub(super) fn need(&self, names: &[&str]) -> Result<PathBuf> {
        let found = names.iter().find_map(|name| self.find(name));
        found.ok_or_else(|| missing(&names.join("` or `")))
    }

    /// Returns MySQL's server. Where `MariaDB` is installed its server answers to that name too.
    pub(super) fn mysqld(&self) -> Result<PathBuf> {
        let found = self.need(&["mysqld"])?;
        let real = fs::canonicalize(&found).unwrap_or_else(|_| found.clone());
        if real.file_name().is_some_and(|name| name == "mariadbd") {
            return Err(missing("mysqld").because(format!("`{}` is MariaDB's", found.display())));
        }
        Ok(found)
    }
}

fn missing(names: &str) -> Failure {
    not_run(format!("`{names}` is not installed on this host"))
        .hint("Install it, or set lab = \"docker\" in [drill].")
}

fn can_run(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|facts| facts.is_file() && facts.permissions().mode() & 0o111 != 0)
}

/// Whom a server runs as where lifeboat itself is root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Account {
    /// Its number.
    pub(super) uid: u32,
    /// Its group's.
    pub(super) gid: u32,
}

impl Account {
    /// Returns the account for a product's server: `None` where this process has no rights to give up.
    pub(super) fn of(product: Product) -> Result<Option<Self>> {
        if !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let own: &[&str] = match product {
            Product::Mysql | Product::Mariadb => &["mysql", "nobody"],
            Product::Redis => &["redis", "valkey", "nobody"],
            Product::S3 => &["minio-user", "nobody"],
        };
        let found = own.iter().find_map(|name| Self::among(&users, name));
        let what = "there is no user without rights for the lab's servers";
        found
            .map(Some)
            .ok_or_else(|| not_run(what).hint("Add a user `nobody`, or run drills as another user."))
    }

    /// Finds a user in the text of `/etc/passwd`; root by another name does not count.
    fn among(users: &str, name: &str) -> Option<Self> {
        users.lines().find_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let &[user, _, uid, gid, ..] = fields.as_slice() else { return None };
            let account = Self { uid: uid.parse().ok()?, gid: gid.parse().ok()? };
            (user == name && account.uid != 0).then_some(account)
        })
    }
}

/// Fails when others than the owner cannot pass through all folders down to `folder`.
pub(super) fn check_passable(folder: &Path) -> Result<()> {
    for above in folder.ancestors() {
        let Ok(facts) = fs::metadata(above) else { continue };
        if facts.permissions().mode() & 0o001 == 0 {
            let what = format!("a server without rights cannot pass through `{}`", above.display());
            let hint =
                format!("Run `chmod o+x {}`, or run drills as a user without rights.", above.display());
            return Err(not_run(what).hint(hint));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_must_be_a_file_that_can_be_run() {
        let dir = tempfile::tempdir().unwrap();
        let [first, second] = ["first", "second"].map(|name| dir.path().join(name));
        for folder in [&first, &second] {
            fs::create_dir(folder).unwrap();
            fs::write(folder.join("server"), "").unwrap();
        }
        fs::create_dir(first.join("folder")).unwrap();
        let tools = Tools::of(vec![first.clone(), second.clone()]);
        assert_eq!(tools.find("server"), None);
        fs::set_permissions(second.join("server"), fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(tools.find("server"), Some(second.join("server")));
        assert_eq!(tools.find("folder"), None);
        assert_eq!(tools.need(&["other", "server"]).unwrap(), second.join("server"));
        assert_eq!(tools.path(), OsString::from(format!("{}:{}", first.display(), second.display())));
    }

    #[test]
    fn a_mysqld_that_is_mariadbs_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().join("mariadbd");
        fs::write(&real, "").unwrap();
        fs::set_permissions(&real, fs::Permissions::from_mode(0o755)).unwrap();
        std::os::unix::fs::symlink(&real, dir.path().join("mysqld")).unwrap();
        let failure = Tools::of(vec![dir.path().to_owned()]).mysqld().unwrap_err();
        let shown = dir.path().join("mysqld").display().to_string();
        assert_eq!(
            failure.chain(),
            ["`mysqld` is not installed on this host".to_owned(), format!("`{shown}` is MariaDB's")]
        );
    }

    #[test]
    fn a_user_is_found_by_its_whole_name_and_root_is_none() {
        let users =
            "root:x:0:0::/root:/bin/sh\nmysqlx:x:7:8::/:/x\nmysql:x:101:102::/:/x\ntoor:x:0:0::/:/x\n";
        assert_eq!(Account::among(users, "mysql"), Some(Account { uid: 101, gid: 102 }));
        assert_eq!(Account::among(users, "toor"), None);
        assert_eq!(Account::among(users, "redis"), None);
    }
}
