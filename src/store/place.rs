//! From the settings of a policy to an open store.

use std::{collections::BTreeMap, sync::Arc};

use super::{Delete, FsStore, Get, Guarantees, Pace, Put, RemoteStore, Store};
use crate::error::{Context, ExitCode, Failure, Result};

/// The kinds of store this program was built with, as a policy names them.
pub const SCHEMES: [&str; 6] = ["cos", "fs", "obs", "oss", "s3", "webdav"];

/// An open store, its powers apart.
#[derive(Clone)]
pub struct Opened {
    /// Adds objects.
    pub put: Arc<dyn Put>,
    /// Reads objects.
    pub get: Arc<dyn Get>,
    /// Removes objects; hand it to nothing but prune and the probes.
    pub delete: Arc<dyn Delete>,
    /// Where it is, as a person would say it; without secrets.
    pub place: String,
    /// How far its promises go.
    pub guarantees: Guarantees,
}

impl Opened {
    /// Takes the powers of `store` apart.
    pub fn of<S: Store + 'static>(store: S, place: impl Into<String>, guarantees: Guarantees) -> Self {
        let store = Arc::new(store);
        let (put, get, delete) = (Arc::<S>::clone(&store), Arc::<S>::clone(&store), store);
        Self { put, get, delete, place: place.into(), guarantees }
    }
}

/// Opens a store. Nothing is asked of it yet, so this succeeds while the place is out of reach.
pub fn open(scheme: &str, options: &BTreeMap<String, String>) -> Result<Opened> {
    open_paced(scheme, options, None)
}

/// As [`open`]; the bytes of what is put leave at this pace and no faster.
pub fn open_paced(scheme: &str, options: &BTreeMap<String, String>, pace: Option<Pace>) -> Result<Opened> {
    match scheme {
        "fs" => {
            let store = FsStore::new(fs_root(options)?);
            let store = if let Some(pace) = pace { store.paced(pace) } else { store };
            let place = store.root().display().to_string();
            Ok(Opened::of(store, place, Guarantees::full()))
        }
        scheme if SCHEMES.contains(&scheme) => {
            let store = RemoteStore::new(scheme, options)?;
            let store = if let Some(pace) = pace { store.paced(pace)? } else { store };
            let (place, guarantees) = (store.place().to_owned(), store.guarantees());
            Ok(Opened::of(store, place, guarantees))
        }
        other => Err(Failure::new(ExitCode::Usage, format!("store `{other}` is not known"))
            .hint(format!("Use one of {}.", SCHEMES.join(", ")))),
    }
}

/// Opens a store that may be new: as [`open`], but a missing folder is made.
///
/// Only `init` calls this. To any other verb a missing folder is a disk that is not mounted.
pub fn create(scheme: &str, options: &BTreeMap<String, String>) -> Result<Opened> {
    if scheme == "fs" {
        let root = fs_root(options)?;
        FsStore::create(root).failed(ExitCode::StoreDown, || format!("folder `{root}` cannot be made"))?;
    }
    open(scheme, options)
}

fn fs_root(options: &BTreeMap<String, String>) -> Result<&str> {
    if let Some(other) = options.keys().find(|name| *name != "root") {
        return Err(Failure::new(ExitCode::Usage, format!("store `fs` has no option `{other}`"))
            .hint("It has one option: `root`, the folder."));
    }
    let root = options.get("root").filter(|root| !root.is_empty());
    root.map(String::as_str).ok_or_else(|| {
        Failure::new(ExitCode::Usage, "store `fs` needs the option `root`")
            .hint("Write options = { root = \"/var/backups/lifeboat\" }.")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::Key;

    fn options(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[tokio::test]
    async fn a_new_folder_is_made_only_when_that_was_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("a/b").display().to_string();
        let options = options(&[("root", &root)]);
        let key = Key::new("x").unwrap();
        assert!(open("fs", &options).unwrap().put.put(&key, "x".into()).await.is_err());
        let made = create("fs", &options).unwrap();
        made.put.put(&key, "x".into()).await.unwrap();
        assert_eq!(made.place, root);
    }

    #[test]
    fn wrong_settings_are_told_apart() {
        let told = |scheme: &str, pairs: &[(&str, &str)]| match open(scheme, &options(pairs)) {
            Ok(_) => panic!("`{scheme}` was opened"),
            Err(failure) => {
                assert_eq!(failure.exit(), ExitCode::Usage);
                failure.to_string()
            }
        };
        assert_eq!(told("ftp", &[]), "store `ftp` is not known");
        assert_eq!(told("fs", &[]), "store `fs` needs the option `root`");
        assert_eq!(told("fs", &[("rot", "/x")]), "store `fs` has no option `rot`");
        assert_eq!(told("s3", &[("region", "x")]), "the settings of store `s3` are not complete");
    }

    #[test]
    fn a_place_shows_no_secret() {
        let s3 = [
            ("bucket", "im-suite"),
            ("endpoint", "https://user:pass@s3.example.com"),
            ("region", "eu-1"),
            ("root", "a/b"),
            ("secret_access_key", "hush"),
        ];
        let opened = open("s3", &options(&s3)).unwrap();
        assert_eq!(opened.place, "s3://im-suite/a/b at https://s3.example.com");
        assert!(opened.guarantees.create_only_is_atomic);
    }
}
