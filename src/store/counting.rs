//! A wrapper that writes down each call, so that "how many requests does this cost" is a plain assertion.

use std::{
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};

use super::{Delete, Get, Listed, Put, StoreError, Trash};
use crate::names::Key;

/// What was asked of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// [`Put::put`].
    Put,
    /// [`Get::get`].
    Get,
    /// [`Get::size`].
    Size,
    /// [`Get::list`].
    List,
    /// [`Delete::delete`].
    Delete,
    /// [`Delete::tidy`].
    Tidy,
    /// [`Delete::trash`].
    Trash,
}

/// One call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// What was asked for.
    pub verb: Verb,
    /// The key or prefix; empty for [`Verb::Tidy`] and [`Verb::Trash`].
    pub at: String,
    /// Bytes sent by a put or returned by a get.
    pub bytes: u64,
}

/// Writes down each call to the store inside. Clones share the list.
#[derive(Clone)]
pub struct CountingStore<S> {
    inner: S,
    calls: Arc<Mutex<Vec<Call>>>,
}

impl<S> CountingStore<S> {
    /// Wraps `inner`.
    pub fn new(inner: S) -> Self {
        Self { inner, calls: Arc::default() }
    }

    /// Returns the calls so far, in the order in which they began.
    pub fn calls(&self) -> Vec<Call> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns how many calls of `verb` went to keys that begin with `prefix`.
    pub fn count(&self, verb: Verb, prefix: &str) -> usize {
        self.calls().iter().filter(|call| call.verb == verb && call.at.starts_with(prefix)).count()
    }

    /// Forgets the calls so far.
    pub fn reset(&self) {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn note(&self, verb: Verb, at: &str, bytes: u64) {
        let call = Call { verb, at: at.to_owned(), bytes };
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).push(call);
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<S: Put> Put for CountingStore<S> {
    async fn put(&self, key: &Key, body: Bytes) -> Result<(), StoreError> {
        self.note(Verb::Put, key.as_str(), body.len() as u64);
        self.inner.put(key, body).await
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<S: Get> Get for CountingStore<S> {
    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Bytes, StoreError> {
        let got = self.inner.get(key, range).await;
        self.note(Verb::Get, key.as_str(), got.as_ref().map_or(0, |bytes| bytes.len() as u64));
        got
    }

    async fn size(&self, key: &Key) -> Result<Option<u64>, StoreError> {
        self.note(Verb::Size, key.as_str(), 0);
        self.inner.size(key).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Listed>, StoreError> {
        self.note(Verb::List, prefix, 0);
        self.inner.list(prefix).await
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<S: Delete> Delete for CountingStore<S> {
    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        self.note(Verb::Delete, key.as_str(), 0);
        self.inner.delete(key).await
    }

    async fn tidy(
        &self,
        leftovers_before: DateTime<Utc>,
        trash_before: DateTime<Utc>,
    ) -> Result<u64, StoreError> {
        self.note(Verb::Tidy, "", 0);
        self.inner.tidy(leftovers_before, trash_before).await
    }

    async fn trash(&self) -> Result<Trash, StoreError> {
        self.note(Verb::Trash, "", 0);
        self.inner.trash().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::MemoryStore;

    #[tokio::test]
    async fn calls_are_counted_by_verb_and_place() {
        let store = CountingStore::new(MemoryStore::new());
        let key = Key::new("packs/a").unwrap();
        store.put(&key, "four".into()).await.unwrap();
        store.get(&key, Some(1..3)).await.unwrap();
        store.list("refs/").await.unwrap();
        assert_eq!(store.count(Verb::Put, "packs/"), 1);
        assert_eq!(store.count(Verb::Put, "refs/"), 0);
        let got = Call { verb: Verb::Get, at: "packs/a".into(), bytes: 2 };
        assert_eq!(store.calls()[1], got);
        store.reset();
        assert!(store.calls().is_empty());
    }
}
