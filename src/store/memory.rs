//! A store in memory, for tests: keeps every promise, and lets a test do what no store should.

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};

use super::{Delete, Get, Listed, Put, StoreError, Trash};
use crate::{clock::Clock, names::Key};

/// One object and when it came.
type Object = (Bytes, Option<DateTime<Utc>>);

/// Objects in memory. Clones share them.
#[derive(Clone, Default)]
pub struct MemoryStore {
    objects: Arc<Mutex<BTreeMap<Key, Object>>>,
    clock: Option<Arc<dyn Clock>>,
}

impl MemoryStore {
    /// Makes an empty store that does not tell when objects came.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes an empty store that stamps objects with `clock`'s time.
    pub fn with_clock(clock: Arc<dyn Clock>) -> Self {
        Self { objects: Arc::default(), clock: Some(clock) }
    }

    /// Puts bytes in place whatever lies there: a test's way to damage or to forge.
    pub fn overwrite(&self, key: &Key, body: impl Into<Bytes>) {
        let object = (body.into(), self.now());
        self.objects().insert(key.clone(), object);
    }

    /// Returns a copy of all objects, to compare or to put back.
    pub fn dump(&self) -> BTreeMap<Key, Bytes> {
        self.objects().iter().map(|(key, (body, _))| (key.clone(), body.clone())).collect()
    }

    /// Returns a second store with the same objects, which goes its own way from here.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self { objects: Arc::new(Mutex::new(self.objects().clone())), clock: self.clock.clone() }
    }

    fn objects(&self) -> MutexGuard<'_, BTreeMap<Key, Object>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Option<DateTime<Utc>> {
        self.clock.as_ref().map(|clock| clock.now())
    }
}

#[async_trait]
impl Put for MemoryStore {
    async fn put(&self, key: &Key, body: Bytes) -> Result<(), StoreError> {
        let now = self.now();
        let mut objects = self.objects();
        if objects.contains_key(key) {
            return Err(StoreError::Exists { key: key.clone() });
        }
        objects.insert(key.clone(), (body, now));
        Ok(())
    }
}

#[async_trait]
impl Get for MemoryStore {
    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Bytes, StoreError> {
        let objects = self.objects();
        let (body, _) = objects.get(key).ok_or_else(|| StoreError::NotFound { key: key.clone() })?;
        match range {
            None => Ok(body.clone()),
            Some(range) => slice(key, body, &range),
        }
    }

    async fn size(&self, key: &Key) -> Result<Option<u64>, StoreError> {
        Ok(self.objects().get(key).map(|(body, _)| body.len() as u64))
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Listed>, StoreError> {
        let objects = self.objects();
        let wanted = objects.iter().filter(|(key, _)| key.as_str().starts_with(prefix));
        let listed = wanted.map(|(key, (body, modified))| Listed {
            key: key.clone(),
            size_bytes: body.len() as u64,
            modified: *modified,
        });
        Ok(listed.collect())
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Delete for MemoryStore {
    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        self.objects().remove(key);
        Ok(())
    }

    async fn tidy(
        &self,
        _leftovers_before: DateTime<Utc>,
        _trash_before: DateTime<Utc>,
    ) -> Result<u64, StoreError> {
        Ok(0)
    }

    async fn trash(&self) -> Result<Trash, StoreError> {
        Ok(Trash::default())
    }
}

/// Cuts `range` out of `body`; a range that reaches past the end is an error.
pub(super) fn slice(key: &Key, body: &Bytes, range: &Range<u64>) -> Result<Bytes, StoreError> {
    let size_bytes = body.len() as u64;
    if range.end > size_bytes || range.start > range.end {
        return Err(StoreError::Short { key: key.clone(), size_bytes, wanted: range.end });
    }
    let at = |offset: u64| usize::try_from(offset).unwrap_or(usize::MAX);
    Ok(body.slice(at(range.start)..at(range.end)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::conformance;

    #[tokio::test]
    async fn the_suite() {
        conformance::run(&MemoryStore::new(), conformance::Quirks::default()).await;
    }
}
