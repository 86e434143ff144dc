//! A wrapper that fails on purpose: the n-th operation, before or after it took effect, once or for ever.
//!
//! Crash enumeration is a loop over `n` with [`FaultStore::die_at`] until nothing fails any more: each
//! round is a process that died at another step, and what it left must still verify, back up and restore.

use std::{
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};

use super::{Delete, Get, Listed, Put, StoreError};
use crate::names::Key;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The operation does nothing and fails.
    Before,
    /// The operation takes effect, then the answer is lost.
    After,
    /// No space is left; nothing takes effect.
    Full,
    /// A get returns its bytes with one bit of the byte at this offset turned over.
    Flip(usize),
    /// A get returns only so many bytes, as if that were all.
    Truncate(usize),
}

/// Which operations count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// Those that change the store.
    Writes,
    /// Those that do not.
    Reads,
    /// Each.
    All,
}

#[derive(Debug, Default)]
struct Script {
    seen: u64,
    armed: Option<Armed>,
    dead: bool,
}

#[derive(Clone, Copy, Debug)]
struct Armed {
    which: Which,
    at: u64,
    fault: Fault,
    /// Whether all that comes after fails as well.
    dies: bool,
}

/// Fails on purpose. Clones share one script.
#[derive(Clone)]
pub struct FaultStore<S> {
    inner: S,
    script: Arc<Mutex<Script>>,
}

impl<S> FaultStore<S> {
    /// Wraps `inner`; nothing fails until a fault is set.
    pub fn new(inner: S) -> Self {
        Self { inner, script: Arc::default() }
    }

    /// Lets the `n`-th operation of this kind from now on (1 is the next) fail, and those after it work.
    pub fn fail_at(&self, which: Which, n: u64, fault: Fault) {
        self.arm(Armed { which, at: n, fault, dies: false });
    }

    /// Lets the `n`-th operation of this kind from now on fail, and everything after it as well.
    pub fn die_at(&self, which: Which, n: u64, fault: Fault) {
        self.arm(Armed { which, at: n, fault, dies: true });
    }

    /// Ends all trouble.
    pub fn heal(&self) {
        *self.script.lock().unwrap_or_else(PoisonError::into_inner) = Script::default();
    }

    /// Returns whether the fault that was set has struck.
    pub fn has_struck(&self) -> bool {
        let script = self.script.lock().unwrap_or_else(PoisonError::into_inner);
        script.armed.is_some_and(|armed| script.seen >= armed.at)
    }

    /// Returns what is inside.
    pub fn inner(&self) -> &S {
        &self.inner
    }

    fn arm(&self, armed: Armed) {
        *self.script.lock().unwrap_or_else(PoisonError::into_inner) =
            Script { seen: 0, armed: Some(armed), dead: false };
    }

    /// Counts one operation and tells what is to go wrong with it.
    fn strike(&self, is_write: bool) -> Option<Fault> {
        let mut script = self.script.lock().unwrap_or_else(PoisonError::into_inner);
        if script.dead {
            return Some(Fault::Before);
        }
        let armed = script.armed?;
        let counts = match armed.which {
            Which::All => true,
            Which::Writes => is_write,
            Which::Reads => !is_write,
        };
        if !counts {
            return None;
        }
        script.seen += 1;
        (script.seen == armed.at).then(|| {
            script.dead = armed.dies;
            armed.fault
        })
    }
}

/// Returns the error that `fault` shows itself by.
fn error(fault: Fault, at: &str) -> StoreError {
    let (at, source) = (at.to_owned(), "a fault on purpose".into());
    match fault {
        Fault::Full => StoreError::Full { at, source },
        _ => StoreError::Unavailable { at, source },
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<S: Put> Put for FaultStore<S> {
    async fn put(&self, key: &Key, body: Bytes) -> Result<(), StoreError> {
        match self.strike(true) {
            None => self.inner.put(key, body).await,
            Some(Fault::After) => {
                self.inner.put(key, body).await?;
                Err(error(Fault::After, key.as_str()))
            }
            Some(fault) => Err(error(fault, key.as_str())),
        }
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<S: Get> Get for FaultStore<S> {
    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Bytes, StoreError> {
        match self.strike(false) {
            None => self.inner.get(key, range).await,
            Some(Fault::Flip(offset)) => {
                let mut bytes = self.inner.get(key, range).await?.to_vec();
                if let Some(byte) = bytes.get_mut(offset) {
                    *byte ^= 1;
                }
                Ok(bytes.into())
            }
            Some(Fault::Truncate(len)) => {
                let mut bytes = self.inner.get(key, range).await?;
                bytes.truncate(len);
                Ok(bytes)
            }
            Some(fault) => Err(error(fault, key.as_str())),
        }
    }

    async fn size(&self, key: &Key) -> Result<Option<u64>, StoreError> {
        match self.strike(false) {
            Some(fault) => Err(error(fault, key.as_str())),
            None => self.inner.size(key).await,
        }
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Listed>, StoreError> {
        match self.strike(false) {
            Some(fault) => Err(error(fault, prefix)),
            None => self.inner.list(prefix).await,
        }
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<S: Delete> Delete for FaultStore<S> {
    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        match self.strike(true) {
            None => self.inner.delete(key).await,
            Some(Fault::After) => {
                self.inner.delete(key).await?;
                Err(error(Fault::After, key.as_str()))
            }
            Some(fault) => Err(error(fault, key.as_str())),
        }
    }

    async fn tidy(&self, before: DateTime<Utc>) -> Result<u64, StoreError> {
        match self.strike(true) {
            None => self.inner.tidy(before).await,
            Some(fault) => Err(error(fault, "")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{MemoryStore, conformance};

    fn key(text: &str) -> Key {
        Key::new(text).unwrap()
    }

    #[tokio::test]
    async fn without_a_fault_it_is_just_a_store() {
        conformance::run(&FaultStore::new(MemoryStore::new()), conformance::Quirks::default()).await;
    }

    #[tokio::test]
    async fn the_answer_can_be_lost_after_the_deed() {
        let store = FaultStore::new(MemoryStore::new());
        store.fail_at(Which::Writes, 2, Fault::After);
        store.put(&key("a"), "a".into()).await.unwrap();
        assert_eq!(store.get(&key("a"), None).await.unwrap(), "a");
        assert!(!store.has_struck());
        assert!(store.put(&key("b"), "b".into()).await.is_err());
        assert!(store.has_struck());
        assert_eq!(store.get(&key("b"), None).await.unwrap(), "b");
        store.put(&key("c"), "c".into()).await.unwrap();
    }

    #[tokio::test]
    async fn the_dead_stay_dead_until_healed() {
        let store = FaultStore::new(MemoryStore::new());
        store.die_at(Which::All, 1, Fault::Before);
        assert!(store.put(&key("a"), "a".into()).await.is_err());
        assert!(store.list("").await.is_err());
        store.heal();
        assert!(store.list("").await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn bytes_can_come_back_changed_or_short() {
        let store = FaultStore::new(MemoryStore::new());
        store.put(&key("a"), "abc".into()).await.unwrap();
        store.fail_at(Which::Reads, 1, Fault::Flip(1));
        assert_eq!(store.get(&key("a"), None).await.unwrap(), "acc");
        store.fail_at(Which::Reads, 1, Fault::Truncate(1));
        assert_eq!(store.get(&key("a"), None).await.unwrap(), "a");
    }
}
