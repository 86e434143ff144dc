//! Which keys there are, where their private halves lie on this host, and whether they do what they are for.
//!
//! *Order.* The policy says whose keys count, the repository's config whom it seals to, the keys folder what this
//! host holds. *Crash.* Nothing is changed, but by [`rotate`]: a
//! new config is in force or is not.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use super::open::Opening;
use crate::{
    clock::Ground,
    crypt::{Identities, Recipients, SigningKey, Trust},
    error::{ExitCode, Failure, Result},
    event::SharedMonitor,
    policy::{RepositorySettings, Stack},
    repo::format::Config,
};

/// What a key is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Data is sealed to it.
    Data,
    /// Indexes and manifests are sealed to it besides.
    Index,
    /// Its signatures on snapshots are believed.
    Signer,
    /// Its signatures on what removes are believed.
    Maintainer,
}

impl Role {
    /// Returns the word that people and `--json` see.
    pub fn word(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Index => "index",
            Self::Signer => "signer",
            Self::Maintainer => "maintainer",
        }
    }
}

/// One key in one role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyFacts {
    /// What it is for.
    pub role: Role,
    /// Its public half, `age1…` or `RW…`.
    pub public: String,
    /// Whether the policy names it; a policy names no index recipients.
    pub in_policy: Option<bool>,
    /// Whether the repository's config names it; it names no maintainers.
    pub in_repository: Option<bool>,
    /// Its private half, if that lies on this host.
    pub private: Option<PrivateHalf>,
    /// The last sequence number that is believed of it, if it was revoked.
    pub revoked_after: Option<u64>,
}

/// A private half on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrivateHalf {
    /// Its file.
    pub file: PathBuf,
    /// The file's permissions.
    pub mode: u32,
    /// Whether it opened what was sealed to the public half, or signed what that half believes.
    pub works: bool,
}

impl PrivateHalf {
    /// Returns whether others than its owner may read or change the file.
    pub fn is_open_to_others(&self) -> bool {
        self.mode & 0o077 != 0
    }
}

/// All that is known about keys on this host.
#[derive(Clone, Debug)]
pub struct KeyList {
    /// The keys, role by role.
    pub keys: Vec<KeyFacts>,
    /// Identity files on this host that open with a passphrase only; whose they are does not show.
    pub protected: Vec<PathBuf>,
}

/// Returns what policy and `config` say about keys, and what lies on this host: in the keys folder, and at
/// `more`.
pub fn list(stack: &Stack, config: Option<&Config>, more: Option<&Path>) -> Result<KeyList> {
    let settings = &stack.repository.settings;
    let trust = Trust::parse(&settings.signers, &settings.maintainers, &settings.revoked_after())?;
    let found = Found::look(settings, more);
    let none = Vec::new();
    let in_config = |pick: fn(&Config) -> &Vec<String>| config.map_or(&none, pick);
    let host_index: Vec<String> = found.recipients_in(&settings.index_key());
    let roles: [(Role, &[String], &[String]); 4] = [
        (Role::Data, &settings.recipients, in_config(|config| &config.data_recipients)),
        (Role::Index, &host_index, in_config(|config| &config.index_recipients)),
        (Role::Signer, &settings.signers, in_config(|config| &config.signers)),
        (Role::Maintainer, &trust.maintainers.texts(), &none),
    ];
    let mut keys = Vec::new();
    for (role, policy, repository) in roles {
        let mut all: Vec<&String> = policy.iter().collect();
        all.extend(repository.iter().filter(|public| !policy.contains(public)));
        for public in all {
            keys.push(KeyFacts {
                role,
                public: public.clone(),
                in_policy: (role != Role::Index).then(|| policy.contains(public)),
                in_repository: config
                    .filter(|_| role != Role::Maintainer)
                    .map(|_| repository.contains(public)),
                private: found.private_half(public)?,
                revoked_after: trust.revoked.get(public).copied().filter(|_| role == Role::Signer),
            });
        }
    }
    Ok(KeyList { keys, protected: found.protected })
}

/// Reads and checks the repository's config. It is in the clear: no identity is needed.
pub async fn config(stack: &Stack, monitor: &SharedMonitor) -> Result<Config> {
    Ok(Opening::new(stack, monitor)?.clear().await?.config().clone())
}

/// Seals everything from now on to the recipients of the policy. `index_recipients` replaces whom indexes are sealed
/// to besides, when there are any; `opens` opens what is sealed to all of them today.
pub async fn rotate(
    stack: &Stack,
    index_recipients: Vec<String>,
    opens: &Identities,
    ground: &Ground,
    monitor: &SharedMonitor,
) -> Result<Config> {
    let opening = Opening::new(stack, monitor)?;
    let repository = opening.maintain(stack, monitor).await?;
    opening.check_for_prune(ground).await?;
    let data_recipients = stack.repository.settings.recipients.clone();
    let index_recipients = if index_recipients.is_empty() {
        repository.config().index_recipients.clone()
    } else {
        index_recipients
    };
    let config = repository.config();
    if config.data_recipients == data_recipients && config.index_recipients == index_recipients {
        return Err(Failure::new(ExitCode::Usage, "the repository is sealed to just these already")
            .hint("Change recipients in [repository] of the policy first, or name an --index-recipient."));
    }
    repository.rotate(data_recipients, index_recipients, opens).await
}

/// The private halves on this host, by public half, and where each lies.
struct Found {
    identities: BTreeMap<String, (PathBuf, Identities)>,
    signing: BTreeMap<String, PathBuf>,
    protected: Vec<PathBuf>,
}

impl Found {
    /// Looks at every file where keys are kept. What is no key, or cannot be read, is passed over.
    fn look(settings: &RepositorySettings, more: Option<&Path>) -> Self {
        let listed = fs::read_dir(&settings.keys).into_iter().flatten().flatten();
        let mut files: Vec<PathBuf> = listed.map(|entry| entry.path()).collect();
        files.extend([settings.index_key(), settings.signing_key()]);
        files.extend(more.map(Path::to_owned));
        files.sort();
        files.dedup();
        let mut found = Self { identities: BTreeMap::new(), signing: BTreeMap::new(), protected: Vec::new() };
        for file in files.into_iter().filter(|file| file.is_file()) {
            if Identities::is_protected(&file) {
                found.protected.push(file);
            } else if let Ok(identities) = Identities::from_file(&file) {
                for public in identities.recipients() {
                    found.identities.entry(public).or_insert((file.clone(), identities.clone()));
                }
            } else if let Ok(signing) = SigningKey::from_file(&file) {
                found.signing.entry(signing.public()).or_insert(file);
            }
        }
        found
    }

    fn recipients_in(&self, file: &Path) -> Vec<String> {
        let there = self.identities.iter().filter(|(_, (at, _))| at == file);
        there.map(|(public, _)| public.clone()).collect()
    }

    fn private_half(&self, public: &str) -> Result<Option<PrivateHalf>> {
        let (file, works) = if let Some((file, identities)) = self.identities.get(public) {
            let sealed = Recipients::parse(&[public])?.seal(b"trial")?;
            (file, identities.open(&sealed, "the trial").is_ok_and(|plain| plain == b"trial"))
        } else if let Some(file) = self.signing.get(public) {
            let signature = SigningKey::from_file(file)?.sign(b"trial", "trial")?;
            let trust = Trust::parse(&[public], &[], &[])?;
            (file, trust.writers.verify(b"trial", &signature, "the trial").is_ok())
        } else {
            return Ok(None);
        };
        let mode = fs::metadata(file).map_or(0, |metadata| metadata.mode() & 0o7777);
        Ok(Some(PrivateHalf { file: file.clone(), mode, works }))
    }
}
