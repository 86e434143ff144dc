//! Opens the repository of a policy for what a job does with it.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use chrono::{DateTime, Duration, Utc};
use rustix::fs::{FlockOperation, flock};
use sha2::{Digest, Sha256};

use super::known::CatalogIndex;
use crate::{
    catalog::Catalog,
    clock::Ground,
    crypt::{Identities, SigningKey, Trust},
    drill::Report,
    error::{ExitCode, Failure, Result},
    event::SharedMonitor,
    names::{Key, PackId, SnapshotId, Task},
    policy::{OffsiteConfig, Stack, StoreConfig},
    redis::Home,
    repo::{
        Append, Clear, CopyReport, CopySettings, Hold, Maintain, Place, Read, Repository,
        format::{Proof, Refs},
    },
    store::{
        self, Opened, Pace, Trash,
        probe::{probe, refuses_prune, refuses_prune_of_kept},
    },
};

/// How old what a broken put left behind must be before it is removed: a slow one may still be at it.
const LEFTOVERS_STAY: Duration = Duration::days(2);
const BYTES_PER_MIB: u64 = 1 << 20;

/// What a job holds while it works on a repository. The powers over the store stay inside: each way to open gives
/// the repository only those that it needs, and only [`Self::maintain`] the one to remove.
pub struct Opening {
    /// The host's memory.
    pub catalog: Arc<Catalog>,
    store: Opened,
    place: Place,
    /// Whether the service was asked to refuse deletions.
    is_locked: bool,
}

impl Opening {
    /// Opens the store and the catalog; reads nothing from the repository yet.
    pub fn new(stack: &Stack, monitor: &SharedMonitor) -> Result<Self> {
        Self::at(stack, &stack.repository.place, None, monitor)
    }

    /// As [`Self::new`], of the stack's repository or, by its name, of a copy.
    pub fn named(stack: &Stack, offsite: Option<&str>, monitor: &SharedMonitor) -> Result<Self> {
        match offsite {
            None => Self::new(stack, monitor),
            Some(name) => {
                let offsite = offsite_of(stack, name)?;
                let limit = offsite.settings.limit_mib_per_second;
                let pace = limit.map(|mib| Pace::new(u64::from(mib) * BYTES_PER_MIB));
                let is_locked = offsite.settings.lock_days.is_some();
                Ok(Self { is_locked, ..Self::at(stack, &offsite.place, pace, monitor)? })
            }
        }
    }

    fn at(stack: &Stack, place: &StoreConfig, pace: Option<Pace>, monitor: &SharedMonitor) -> Result<Self> {
        let store = store::open_paced(&place.store, &place.resolve()?, pace)?;
        let settings = &stack.repository.settings;
        let trust = Trust::parse(&settings.signers, &settings.maintainers, &settings.revoked_after())?;
        let (catalog, was_broken) = open_catalog(stack, place, monitor)?;
        if was_broken {
            told_broken(monitor);
        }
        let catalog = Arc::new(catalog);
        let known = Arc::new(CatalogIndex::new(catalog.clone()));
        let witness = known.clone();
        let place = Place { get: store.get.clone(), trust, known, witness, shown: store.place.clone() };
        Ok(Self { catalog, store, place, is_locked: false })
    }

    /// Returns where the store is, as a person would say it.
    pub fn shown(&self) -> &str {
        &self.store.place
    }

    /// Opens the repository for looking at what is in the clear; needs no key.
    pub async fn clear(&self) -> Result<Repository<Clear>> {
        Repository::clear(self.place.clone()).await
    }

    /// Copies what `from` has and this place has not. There need be no repository here yet.
    pub async fn copy_from(
        &self,
        from: &Repository<Clear>,
        settings: CopySettings,
        ground: &Ground,
        monitor: &SharedMonitor,
    ) -> Result<CopyReport> {
        let (to, put) = (self.place.clone(), self.store.put.clone());
        from.copy_to(to, put, settings, ground, monitor).await
    }

    /// Opens the repository for removing what nobody needs, with this host's own keys. The index key is not needed;
    /// with it indexes that tell of nothing are removed too.
    pub async fn maintain(&self, stack: &Stack, monitor: &SharedMonitor) -> Result<Repository<Maintain>> {
        let settings = &stack.repository.settings;
        let signing = SigningKey::from_file(&settings.signing_key())?;
        let index = settings.index_key();
        let index = if index.exists() { Some(Identities::from_file(&index)?) } else { None };
        let (put, delete) = (self.store.put.clone(), self.store.delete.clone());
        let place = self.place.clone();
        let repository = Repository::maintain(place, put, delete, signing, index, monitor).await?;
        Ok(if self.is_locked { repository.retaining() } else { repository })
    }

    /// Fails when the store does not keep what prune relies on.
    pub async fn check_for_prune(&self, ground: &Ground) -> Result<()> {
        let findings = probe(&self.store, ground).await;
        let refuses = if self.is_locked { refuses_prune_of_kept } else { refuses_prune };
        refuses(&findings).map_or(Ok(()), Err)
    }

    /// Returns what lies in the store's trash.
    pub async fn trash(&self) -> Result<Trash> {
        Ok(self.store.delete.trash().await?)
    }

    /// Removes what broken puts left behind, and what has lain in the trash since before `trash_before`. Returns
    /// how many bytes that freed.
    pub async fn tidy(&self, trash_before: DateTime<Utc>, ground: &Ground) -> Result<u64> {
        Ok(self.store.delete.tidy(ground.clock.now() - LEFTOVERS_STAY, trash_before).await?)
    }

    /// Says in the store that snapshots are being read, so that no prune takes them away meanwhile. A store that
    /// cannot be written to is read all the same.
    pub async fn hold(
        &self,
        snapshots: &[SnapshotId],
        ground: &Ground,
        monitor: &SharedMonitor,
    ) -> Option<Hold> {
        match Hold::begin(self.store.put.clone(), snapshots, ground).await {
            Ok(hold) => Some(hold),
            Err(failure) => {
                monitor.step(None, format!("no session was noted: {}", failure.one_line()));
                None
            }
        }
    }

    /// Opens the repository for adding snapshots, with this host's own keys.
    pub async fn append(&self, stack: &Stack, monitor: &SharedMonitor) -> Result<Repository<Append>> {
        let index = Identities::from_file(&stack.repository.settings.index_key())?;
        let signing = SigningKey::from_file(&stack.repository.settings.signing_key())?;
        let (place, put) = (self.place.clone(), self.store.put.clone());
        let repository = Repository::append(place, put, index, signing, monitor).await?;
        let recipients = &stack.repository.settings.recipients;
        check_recipients(recipients, &repository.config().data_recipients, monitor)?;
        Ok(repository)
    }

    /// Puts what a drill found, with this host's signing key and without the power to do anything else here. `refs` is
    /// the SHA-256 of the refs that were restored, `files` are those of its report.
    pub async fn record_proof(
        &self,
        stack: &Stack,
        drill: &Report,
        refs: PackId,
        files: &[(String, Vec<u8>)],
    ) -> Result<Recorded> {
        let signing = SigningKey::from_file(&stack.repository.settings.signing_key())?;
        let (place, put) = (self.place.clone(), self.store.put.clone());
        let repository = Repository::prove(place, put, signing).await?;
        let proof = repository.record_drill(drill, refs, files).await?;
        // Only a figure: that it cannot be had must not spoil what exists.
        let points = repository.restore_points().await.ok();
        Ok(Recorded { proof, proven: points.map(|points| points.proven.len() as u64) })
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

/// Returns the refs of all snapshots, oldest first, and the names of those that are forged or broken: they are told and
/// keep nobody from the others.
pub async fn believed(
    repository: &Repository<Read>,
    monitor: &SharedMonitor,
) -> Result<(Vec<Refs>, Vec<Key>)> {
    let (good, bad) = repository.survey().await?;
    for (_, failure) in &bad {
        monitor.warn(None, format!("left out: {}", failure.one_line()), failure.first_hint());
    }
    Ok((good, bad.into_iter().map(|(key, _)| key).collect()))
}

/// A proof that lies in a repository.
#[derive(Clone, Debug, PartialEq)]
pub struct Recorded {
    /// The proof.
    pub proof: Proof,
    /// Snapshots there that are proven now, where it was counted.
    pub proven: Option<u64>,
}

/// Returns the copy of this name, or says which there are.
pub fn offsite_of<'s>(stack: &'s Stack, name: &str) -> Result<&'s OffsiteConfig> {
    stack.offsite(name).ok_or_else(|| {
        let names: Vec<&str> = stack.offsites.iter().map(|one| one.name.as_str()).collect();
        let failure = Failure::new(ExitCode::Usage, format!("the policy has no offsite `{name}`"));
        if names.is_empty() {
            failure.hint("Add an [[offsite]] table to it.")
        } else {
            failure.hint(format!("It has: {}.", names.join(", ")))
        }
    })
}

/// Fails when the policy promises a reader whom nothing is sealed to: it is better that tonight's backup says so
/// than that the person finds out when the data is needed. A reader whom the policy does not name any more is told
/// and stops no backup.
fn check_recipients(policy: &[String], repository: &[String], monitor: &SharedMonitor) -> Result<()> {
    if let Some(stranger) = repository.iter().find(|recipient| !policy.contains(recipient)) {
        let what = format!("backups are still sealed to `{stranger}`, which the policy does not name");
        monitor.warn(None, what, Some("Run `lifeboat keys rotate` to seal to the policy's recipients only."));
    }
    let Some(stranger) = policy.iter().find(|recipient| !repository.contains(recipient)) else {
        return Ok(());
    };
    let what = format!("recipient `{stranger}` of the policy cannot read this repository");
    Err(Failure::new(ExitCode::Usage, what)
        .hint("Run `lifeboat keys rotate` to seal to the policy's recipients from now on."))
}

/// Opens the catalog; a host whose state folder cannot be written works from memory, only slower.
fn open_catalog(stack: &Stack, place: &StoreConfig, monitor: &SharedMonitor) -> Result<(Catalog, bool)> {
    match Catalog::open(&state_file(stack, place, "sqlite")) {
        Ok(opened) => Ok(opened),
        Err(failure) => {
            let hint = "Set state_dir in the policy to a folder that this user may write.";
            monitor.warn(None, failure.one_line(), Some(hint));
            Ok((Catalog::in_memory()?, false))
        }
    }
}

/// Returns a file of this stack and this repository: two repositories never share one.
fn state_file(stack: &Stack, place: &StoreConfig, ending: &str) -> PathBuf {
    let digest = Sha256::digest(format!("{} {:?}", place.store, place.options));
    state_dir(stack).join(format!("{}-{}.{ending}", stack.name, hex::encode(&digest[..4])))
}

/// Returns a word that tells the state of this stack, repository and folder from every other on this host.
pub(super) fn state_mark(stack: &Stack) -> String {
    let file = state_file(stack, &stack.repository.place, "");
    hex::encode(&Sha256::digest(file.as_os_str().as_encoded_bytes())[..4])
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

/// Returns where a restore of this stack's servers notes and keeps what must outlive it.
pub fn home(stack: &Stack) -> Home {
    Home { folder: state_dir(stack), recipients: stack.repository.settings.recipients.clone() }
}

/// Returns the catalog that remembers the runs of a stack.
pub fn ledger(stack: &Stack, monitor: &SharedMonitor) -> Result<Arc<Catalog>> {
    let (catalog, was_broken) = open_catalog(stack, &stack.repository.place, monitor)?;
    if was_broken {
        told_broken(monitor);
    }
    Ok(Arc::new(catalog))
}

fn told_broken(monitor: &SharedMonitor) {
    monitor.warn(None, "the catalog was broken and is made again from the repository".to_owned(), None);
}

/// Keeps a second run of the same task of a stack on this host from being at work at the same time.
///
/// The kernel holds it and lets it go with the process, however that ends: there is nothing to unlock.
#[derive(Debug)]
pub struct RunLock(#[expect(dead_code, reason = "held for its lock")] std::fs::File);

impl RunLock {
    /// Takes the lock, or fails at once with [`ExitCode::Busy`].
    pub fn take(stack: &Stack, task: &Task) -> Result<Self> {
        let ending = format!("{}.lock", task.to_string().replace(' ', "-"));
        let what = format!("another {task} of stack `{}` is at work on this host", stack.name);
        Self::of_file(&state_file(stack, &stack.repository.place, &ending), what)
    }

    /// Takes the lock of one part of a run that several processes make together. Part 0 has that of the backup.
    pub fn of_part(stack: &Stack, part: u32) -> Result<Self> {
        let what = format!("another process makes part {part} for stack `{}` on this host", stack.name);
        Self::of_file(&state_file(stack, &stack.repository.place, &format!("backup-part-{part}.lock")), what)
    }

    /// Takes the lock of whoever keeps the schedule of a stack on this host: two would keep each slot twice.
    pub fn of_schedule(stack: &Stack) -> Result<Self> {
        let what = format!("another service keeps the schedule of stack `{}` on this host", stack.name);
        Self::of_file(&state_file(stack, &stack.repository.place, "schedule.lock"), what)
    }

    fn of_file(path: &Path, busy: String) -> Result<Self> {
        let open = || {
            path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
            std::fs::OpenOptions::new().create(true).truncate(false).write(true).open(path)
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
                Err(Failure::new(ExitCode::Busy, busy)
                    .hint("Wait until it ends; a run that died holds nothing."))
            }
            Err(errno) => Err(cannot(errno.into())),
        }
    }
}
