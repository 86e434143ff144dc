//! Opens the repository of a policy for what a job does with it.

use std::{path::PathBuf, sync::Arc};

use rustix::fs::{FlockOperation, flock};
use sha2::{Digest, Sha256};

use super::known::CatalogIndex;
use crate::{
    catalog::Catalog,
    crypt::{Identities, SigningKey, Trust},
    error::{ExitCode, Failure, Result},
    event::SharedMonitor,
    policy::Stack,
    repo::{Append, Place, Read, Repository},
    store::{self, Opened},
};

/// What a job holds while it works on a repository.
pub struct Opening {
    /// The store.
    pub store: Opened,
    /// The host's memory.
    pub catalog: Arc<Catalog>,
    place: Place,
}

impl Opening {
    /// Opens the store and the catalog; reads nothing from the repository yet.
    pub fn new(stack: &Stack, monitor: &SharedMonitor) -> Result<Self> {
        let repository = &stack.repository;
        let store = store::open(&repository.place.store, &repository.place.resolve()?)?;
        let settings = &repository.settings;
        let trust = Trust::parse(&settings.signers, &settings.maintainers, &settings.revoked_after())?;
        let (catalog, was_broken) = open_catalog(stack, monitor)?;
        if was_broken {
            let what = "the catalog was broken and is made again from the repository".to_owned();
            monitor.warn(None, what, None);
        }
        let catalog = Arc::new(catalog);
        let known = Arc::new(CatalogIndex::new(catalog.clone()));
        let witness = known.clone();
        let place = Place { get: store.get.clone(), trust, known, witness, shown: store.place.clone() };
        Ok(Self { store, catalog, place })
    }

    /// Opens the repository for adding snapshots, with this host's own keys.
    pub async fn append(&self, stack: &Stack, monitor: &SharedMonitor) -> Result<Repository<Append>> {
        let index = Identities::from_file(&stack.repository.settings.index_key())?;
        let signing = SigningKey::from_file(&stack.repository.settings.signing_key())?;
        let (place, put) = (self.place.clone(), self.store.put.clone());
        let repository = Repository::append(place, put, index, signing, monitor).await?;
        check_recipients(&stack.repository.settings.recipients, &repository.config().data_recipients)?;
        Ok(repository)
    }

    /// Opens the repository for reading data with `identities`.
    pub async fn read(&self, identities: Identities, monitor: &SharedMonitor) -> Result<Repository<Read>> {
        let repository = Repository::read(self.place.clone(), identities, monitor).await?;
        repository.check_data_opens()?;
        Ok(repository)
    }

    /// Opens the repository for looking at what needs no data: with the identity if there is one, otherwise
    /// with this host's index key.
    pub async fn look(
        &self,
        stack: &Stack,
        identity: Option<Identities>,
        monitor: &SharedMonitor,
    ) -> Result<Repository<Read>> {
        let identities = match identity {
            Some(identities) => identities,
            None => Identities::from_file(&stack.repository.settings.index_key()).map_err(|failure| {
                failure.hint("Without the host's index key, give the recovery identity with --identity FILE.")
            })?,
        };
        Repository::read(self.place.clone(), identities, monitor).await
    }
}

/// Fails when the policy promises a reader whom nothing is sealed to: it is better that tonight's backup says so
/// than that the person finds out when the data is needed.
fn check_recipients(policy: &[String], repository: &[String]) -> Result<()> {
    let Some(stranger) = policy.iter().find(|recipient| !repository.contains(recipient)) else {
        return Ok(());
    };
    let what = format!("recipient `{stranger}` of the policy cannot read this repository");
    Err(Failure::new(ExitCode::Usage, what).hint(
        "Its readers were fixed when it was made: take the key out of the policy, or make a new repository.",
    ))
}

/// Opens the catalog; a host whose state folder cannot be written works from memory, only slower.
fn open_catalog(stack: &Stack, monitor: &SharedMonitor) -> Result<(Catalog, bool)> {
    match Catalog::open(&state_file(stack, "sqlite")) {
        Ok(opened) => Ok(opened),
        Err(failure) => {
            let hint = "Set state_dir in the policy to a folder that this user may write.";
            monitor.warn(None, failure.chain().join(": "), Some(hint));
            Ok((Catalog::in_memory()?, false))
        }
    }
}

/// Returns a file of this stack and this repository: two repositories never share one.
fn state_file(stack: &Stack, ending: &str) -> PathBuf {
    let place = &stack.repository.place;
    let digest = Sha256::digest(format!("{} {:?}", place.store, place.options));
    state_dir(stack).join(format!("{}-{}.{ending}", stack.name, hex::encode(&digest[..4])))
}

/// Returns the folder for the catalog and the lock.
pub(super) fn state_dir(stack: &Stack) -> PathBuf {
    if let Some(folder) = &stack.repository.settings.state_dir {
        return folder.clone();
    }
    if rustix::process::geteuid().is_root() {
        return PathBuf::from("/var/lib/lifeboat");
    }
    let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/state"));
    state.or_else(home).unwrap_or_else(std::env::temp_dir).join("lifeboat")
}

/// Keeps a second backup of the same stack on this host from running at the same time.
///
/// The kernel holds it and lets it go with the process, however that ends: there is nothing to unlock.
#[derive(Debug)]
pub struct RunLock(#[expect(dead_code, reason = "held for its lock")] std::fs::File);

impl RunLock {
    /// Takes the lock, or fails at once with [`ExitCode::Busy`].
    pub fn take(stack: &Stack) -> Result<Self> {
        let path = state_file(stack, "lock");
        let open = || {
            path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
            std::fs::OpenOptions::new().create(true).truncate(false).write(true).open(&path)
        };
        let cannot = |cause: std::io::Error| {
            Failure::new(ExitCode::Failed, format!("lock file `{}` cannot be taken", path.display()))
                .because(cause)
                .hint("Set state_dir in the policy to a folder that this user may write.")
        };
        let file = open().map_err(cannot)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self(file)),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let what = format!("another run of stack `{}` is at work on this host", stack.name);
                Err(Failure::new(ExitCode::Busy, what)
                    .hint("Wait until it ends; a run that died holds nothing."))
            }
            Err(errno) => Err(cannot(errno.into())),
        }
    }
}
