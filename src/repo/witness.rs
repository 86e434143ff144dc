//! What this host has seen of a repository and a store cannot take back: a snapshot that was there and is gone
//! without a tombstone, a config that was newer. Only a memory outside of the store can know of the newest ones.
//!
//! *Crash.* What is remembered late is remembered by the next run; nothing is remembered that was not seen.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{error::Result, names::PackId};

/// The last commit of a signer that was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Its number in the signer's chain.
    pub seq: u64,
    /// SHA-256 of its refs.
    pub refs: PackId,
}

/// Remembers what was seen of repositories, each by its id. What is seen only grows.
pub trait Witness: Send + Sync {
    /// Returns the highest revision of the config that was seen.
    fn config(&self, repository: &str) -> Result<Option<u32>>;

    /// Notes a revision of the config.
    fn saw_config(&self, repository: &str, revision: u32) -> Result<()>;

    /// Returns the newest commit of each signer that was seen.
    fn heads(&self, repository: &str) -> Result<BTreeMap<String, Head>>;

    /// Notes a commit; one that is older than what was seen changes nothing.
    fn saw_head(&self, repository: &str, signer: &str, head: Head) -> Result<()>;
}

/// A witness in memory.
#[derive(Default)]
pub struct MemoryWitness(Mutex<Seen>);

#[derive(Default)]
struct Seen {
    configs: BTreeMap<String, u32>,
    heads: BTreeMap<String, BTreeMap<String, Head>>,
}

impl MemoryWitness {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Witness for MemoryWitness {
    fn config(&self, repository: &str) -> Result<Option<u32>> {
        Ok(self.seen().configs.get(repository).copied())
    }

    fn saw_config(&self, repository: &str, revision: u32) -> Result<()> {
        let mut seen = self.seen();
        let last = seen.configs.entry(repository.to_owned()).or_default();
        *last = revision.max(*last);
        Ok(())
    }

    fn heads(&self, repository: &str) -> Result<BTreeMap<String, Head>> {
        Ok(self.seen().heads.get(repository).cloned().unwrap_or_default())
    }

    fn saw_head(&self, repository: &str, signer: &str, head: Head) -> Result<()> {
        let mut seen = self.seen();
        let last =
            seen.heads.entry(repository.to_owned()).or_default().entry(signer.to_owned()).or_insert(head);
        if head.seq > last.seq {
            *last = head;
        }
        Ok(())
    }
}
