//! Where objects lie: three small powers, [`Put`], [`Get`] and [`Delete`], over any place that can keep bytes.
//!
//! The powers are apart so that a job holds only what it needs: sync takes a [`Get`] and a [`Put`] and
//! therefore cannot pass on a deletion; only prune, and the probes for their own objects, are ever handed a
//! [`Delete`].
//!
//! What a store promises (`conformance` checks it on each):
//! - an object appears whole or not at all, and its bytes never change after that;
//! - a put to a name that is taken fails with [`StoreError::Exists`] and changes nothing. Where the
//!   service cannot promise this between two writers, [`Guarantees`] says so;
//! - once a put returned, the object outlives a crash of this machine;
//! - a listing is complete and sorted. A place that cannot be reached is an error, never an empty list.

pub mod conformance;
mod counting;
mod error;
mod faulty;
mod fs;
pub mod lock;
mod memory;
mod pace;
mod pausing;
mod place;
pub mod probe;
mod remote;

use std::{ops::Range, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};

pub use self::{
    counting::{Call, CountingStore, Verb},
    error::StoreError,
    faulty::{Fault, FaultStore, Which},
    fs::FsStore,
    memory::MemoryStore,
    pace::Pace,
    pausing::PausingStore,
    place::{Opened, SCHEMES, create, open, open_paced},
    remote::RemoteStore,
};
use crate::names::Key;

/// Where the probes' objects lie; no other object's key begins with it.
pub const PROBES: &str = "probe/";

/// Adds objects.
#[async_trait]
pub trait Put: Send + Sync {
    /// Stores `body` under `key`, whole or not at all; fails with [`StoreError::Exists`] if `key` is taken.
    async fn put(&self, key: &Key, body: Bytes) -> Result<(), StoreError>;
}

/// Reads objects.
#[async_trait]
pub trait Get: Send + Sync {
    /// Returns the bytes of `range`, or all. Fewer bytes than asked for are an error.
    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Bytes, StoreError>;

    /// Returns the object's size, `None` when there is no such object.
    async fn size(&self, key: &Key) -> Result<Option<u64>, StoreError>;

    /// Returns all objects whose key begins with `prefix`, sorted by key. Names that no [`Key`] can have
    /// are left out, for we never made them.
    async fn list(&self, prefix: &str) -> Result<Vec<Listed>, StoreError>;
}

/// Removes objects.
#[async_trait]
pub trait Delete: Send + Sync {
    /// Removes `key`; succeeds also when it is not there. A store that has a trash moves it there.
    async fn delete(&self, key: &Key) -> Result<(), StoreError>;

    /// Removes for good what puts that broke off before `leftovers_before` left behind and what was deleted
    /// before `trash_before`, both by the store's own clock; returns how many bytes that freed.
    ///
    /// Neither is ever listed. Most stores have none of both.
    async fn tidy(
        &self,
        leftovers_before: DateTime<Utc>,
        trash_before: DateTime<Utc>,
    ) -> Result<u64, StoreError> {
        let _ = (leftovers_before, trash_before);
        Ok(0)
    }

    /// Tells what was deleted and not yet removed for good. Most stores have no trash.
    async fn trash(&self) -> Result<Trash, StoreError> {
        Ok(Trash::default())
    }
}

/// All three powers in one thing.
pub trait Store: Put + Get + Delete {}

impl<T: Put + Get + Delete> Store for T {}

/// One object of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub key: Key,
    /// Its size.
    pub size_bytes: u64,
    /// When it was stored, by the store's own clock, where the store tells.
    pub modified: Option<DateTime<Utc>>,
}

/// What was deleted and not yet removed for good.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trash {
    /// How many objects.
    pub objects: u64,
    /// Their bytes, which [`Delete::tidy`] would free.
    pub size_bytes: u64,
    /// When the first of them was deleted, by the store's own clock.
    pub oldest: Option<DateTime<Utc>>,
}

/// How far a store's promises go; shown by `doctor`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guarantees {
    /// Whether of two writers that put one key at the same instant exactly one wins.
    pub create_only_is_atomic: bool,
    /// What a person should know, whole sentences.
    pub notes: Vec<String>,
}

impl Guarantees {
    /// Returns the promises of a store that keeps all of them.
    pub fn full() -> Self {
        Self { create_only_is_atomic: true, notes: Vec::new() }
    }
}

/// Puts `body` unless the very same bytes lie there already.
///
/// For objects that are named by their content, where a second put of the same is no mistake: a resumed
/// run, a copy that was interrupted. Other bytes under the name stay an error.
pub async fn put_same(put: &dyn Put, get: &dyn Get, key: &Key, body: Bytes) -> Result<(), StoreError> {
    match put.put(key, body.clone()).await {
        Err(StoreError::Exists { .. }) if get.get(key, None).await? == body => Ok(()),
        other => other,
    }
}

/// A store as it is handed around where all powers are needed at once.
pub type SharedStore = Arc<dyn Store>;
