//! What every verb starts from: the policy, the keys, the monitor and the clock.

use std::{path::PathBuf, sync::Arc};

use clap::Args;
use tokio_util::sync::CancellationToken;

use super::{passphrase::Asking, say, screen::Screen};
use crate::{
    clock::Ground,
    crypt::{Identities, files},
    error::{ExitCode, Failure, Result},
    event::{Monitor, SharedMonitor},
    jobs::{
        no_source,
        open::{Opening, believed},
        run::RunContext,
        when::When,
    },
    names::SnapshotId,
    policy::{self, Need, SourceConfig, Stack},
    repo::{Hold, Read, Repository, format::Refs},
};

/// Where snapshots are read from.
#[derive(Debug, Args)]
pub struct Origin {
    /// Read straight from this offsite of the policy [default: the repository]
    #[arg(long, value_name = "OFFSITE")]
    pub from: Option<String>,
}

/// The command line's surroundings.
pub struct Session {
    /// `--policy`.
    pub policy: Option<PathBuf>,
    /// `--identity`.
    pub identity: Option<PathBuf>,
    /// Where the passphrase of a protected identity comes from.
    pub passphrase: Asking,
    /// `--json`.
    pub json: bool,
    /// `--quiet`.
    pub quiet: bool,
    /// Where people see what happens.
    pub screen: Arc<Screen>,
    /// Time and dice.
    pub ground: Ground,
    /// Asks what runs to end early.
    pub stop: CancellationToken,
}

impl Session {
    /// Returns the policy, checked.
    pub fn stack(&self) -> Result<Stack> {
        self.load(Need::Sources)
    }

    /// Returns the policy for a verb that only looks at the repository: on a host that is being rebuilt the
    /// policy may name no source yet.
    pub fn repository_of_stack(&self) -> Result<Stack> {
        self.load(Need::Repository)
    }

    fn load(&self, need: Need) -> Result<Stack> {
        let path = policy::find_policy(self.policy.clone())?;
        Ok(Stack::load_for(&path, need)?)
    }

    /// Says that all went well, unless only what is wrong was asked for.
    pub fn report(&self, text: &str) {
        if !self.quiet {
            say(text);
        }
    }

    /// Returns what a run is made with.
    pub fn context<'a>(&'a self, stack: &'a Stack, monitor: &'a SharedMonitor) -> RunContext<'a> {
        RunContext { stack, ground: &self.ground, monitor, stop: &self.stop, attempt: 1 }
    }

    /// Returns the monitor as jobs take it.
    pub fn monitor(&self) -> SharedMonitor {
        self.screen.clone()
    }

    /// Returns the identity that was given, or the one in the keys folder if it is still there. For one there
    /// that is protected nobody is asked: the host's own key may be enough.
    pub fn identity(&self, stack: &Stack) -> Result<Option<Identities>> {
        if let Some(path) = &self.identity {
            return Identities::from_protected_file(path, &self.passphrase).map(Some);
        }
        let beside = stack.repository.settings.keys.join(files::IDENTITY);
        let opens_itself = beside.exists() && !Identities::is_protected(&beside);
        opens_itself.then(|| Identities::from_file(&beside)).transpose()
    }

    /// Returns the identity, or says that one is needed.
    pub fn identity_needed(&self, stack: &Stack) -> Result<Identities> {
        let beside = stack.repository.settings.keys.join(files::IDENTITY);
        if self.identity.is_none() && Identities::is_protected(&beside) {
            return Identities::from_protected_file(&beside, &self.passphrase);
        }
        self.identity(stack)?.ok_or_else(|| {
            Failure::new(ExitCode::KeyRefused, "no identity was given, and the data opens to nobody else")
                .hint(
                    "Give the recovery identity with --identity FILE; your recovery sheet says where it is.",
                )
        })
    }

    /// Opens the store that snapshots are read from.
    pub fn open(&self, stack: &Stack, origin: &Origin) -> Result<Opening> {
        Opening::named(stack, origin.from.as_deref(), &self.monitor())
    }

    /// Opens the repository for reading data.
    pub async fn read(&self, stack: &Stack, opening: &Opening) -> Result<Repository<Read>> {
        let identity = self.identity_needed(stack)?;
        opening.read(identity, &self.monitor()).await
    }

    /// Opens the repository for looking at what needs no data.
    pub async fn look(&self, stack: &Stack, opening: &Opening) -> Result<Repository<Read>> {
        let identity = self.identity(stack)?;
        opening.look(stack, identity, &self.monitor()).await
    }

    /// Says in the store that a snapshot is being read, until [`Self::release`].
    pub async fn hold(&self, opening: &Opening, snapshot: &SnapshotId) -> Option<Hold> {
        opening.hold(std::slice::from_ref(snapshot), &self.ground, &self.monitor()).await
    }

    /// Says that it was read. Should that fail, the mark counts for some days and goes by itself.
    pub async fn release(&self, hold: Option<Hold>) {
        if let Some(hold) = hold
            && let Err(failure) = hold.end().await
        {
            self.screen.step(None, failure.one_line());
        }
    }

    /// Returns the snapshot that `when` means.
    pub async fn pick(&self, stack: &Stack, repository: &Repository<Read>, when: &str) -> Result<SnapshotId> {
        let when = When::parse(when, stack.timezone, self.ground.clock.now())?;
        let refs = self.believed(repository).await?;
        when.pick(&refs.into_iter().map(|refs| refs.snapshot).collect::<Vec<_>>())
    }

    /// As [`believed`], telling on the screen.
    pub async fn believed(&self, repository: &Repository<Read>) -> Result<Vec<Refs>> {
        Ok(believed(repository, &self.monitor()).await?.0)
    }
}

/// Returns the policy's source of this name, or says which there are.
pub fn known<'s>(stack: &'s Stack, name: &str) -> Result<&'s SourceConfig> {
    stack.source(name).ok_or_else(|| no_source(stack, name))
}
