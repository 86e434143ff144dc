//! A wrapper that stands still on purpose: freezes a process at its n-th operation while another runs.
//!
//! Pause enumeration is a loop over `n`: freeze the first process at its n-th operation, run a second one to
//! its end, let the first go on, and look whether both were told the truth. The loop ends with the first `n`
//! that the work does not reach.
//!
//! A suspended machine does nothing at all, so while it is paused no further operation begins; those that
//! began before end as requests do that are on their way already.

use std::{future::Future, ops::Range, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use tokio::sync::watch;

use super::{Delete, Get, Listed, Put, StoreError, Trash, Which};
use crate::names::Key;

#[derive(Clone, Copy, Debug, Default)]
struct Gate {
    /// At which operation it closes; it stays so until it is opened.
    closes_at: Option<(Which, u64)>,
    seen: u64,
    closed: bool,
}

/// Stands still on purpose. Clones share one gate: give each process a wrapper of its own.
#[derive(Clone)]
pub struct PausingStore<S> {
    inner: S,
    gate: Arc<watch::Sender<Gate>>,
}

impl<S> PausingStore<S> {
    /// Wraps `inner`; nothing pauses until a pause is set.
    pub fn new(inner: S) -> Self {
        Self { inner, gate: Arc::new(watch::Sender::new(Gate::default())) }
    }

    /// Lets the `n`-th operation of this kind from now on (1 is the next) wait, before it has any effect,
    /// until [`Self::resume`]; all that come after it wait too.
    pub fn pause_at(&self, which: Which, n: u64) {
        self.gate.send_replace(Gate { closes_at: Some((which, n)), seen: 0, closed: false });
    }

    /// Lets everything go on, also when the pause is still ahead.
    pub fn resume(&self) {
        self.gate.send_replace(Gate::default());
    }

    /// Returns when the pause is reached; never, when it is not: see [`Self::run_until_paused`].
    pub async fn wait_until_paused(&self) {
        // The sender is our own, so the wait cannot break off.
        let _ = self.gate.subscribe().wait_for(|gate| gate.closed).await;
    }

    /// Drives `work` until the pause is reached, and then returns `None`; returns the work's result when it
    /// ends without reaching it.
    ///
    /// Takes a pinned future or a task's handle; after [`Self::resume`] the caller awaits it to its end.
    pub async fn run_until_paused<F: Future + Unpin>(&self, work: &mut F) -> Option<F::Output> {
        tokio::select! {
            biased;
            () = self.wait_until_paused() => None,
            ended = work => Some(ended),
        }
    }

    /// Returns what is inside: the store as other processes see it.
    pub fn inner(&self) -> &S {
        &self.inner
    }

    /// Waits as long as the gate is closed.
    async fn pass(&self, is_write: bool) {
        let mut gate = self.gate.subscribe();
        self.gate.send_if_modified(|gate| {
            let Some((which, n)) = gate.closes_at.filter(|_| !gate.closed) else { return false };
            gate.seen += u64::from(which.counts(is_write));
            gate.closed = which.counts(is_write) && gate.seen == n;
            gate.closed
        });
        // The sender is our own, so the wait cannot break off.
        let _ = gate.wait_for(|gate| !gate.closed).await;
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<S: Put> Put for PausingStore<S> {
    async fn put(&self, key: &Key, body: Bytes) -> Result<(), StoreError> {
        self.pass(true).await;
        self.inner.put(key, body).await
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<S: Get> Get for PausingStore<S> {
    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Bytes, StoreError> {
        self.pass(false).await;
        self.inner.get(key, range).await
    }

    async fn size(&self, key: &Key) -> Result<Option<u64>, StoreError> {
        self.pass(false).await;
        self.inner.size(key).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Listed>, StoreError> {
        self.pass(false).await;
        self.inner.list(prefix).await
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<S: Delete> Delete for PausingStore<S> {
    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        self.pass(true).await;
        self.inner.delete(key).await
    }

    async fn tidy(
        &self,
        leftovers_before: DateTime<Utc>,
        trash_before: DateTime<Utc>,
    ) -> Result<u64, StoreError> {
        self.pass(true).await;
        self.inner.tidy(leftovers_before, trash_before).await
    }

    async fn trash(&self) -> Result<Trash, StoreError> {
        self.pass(false).await;
        self.inner.trash().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{MemoryStore, conformance};

    fn key(text: &str) -> Key {
        Key::new(text).unwrap()
    }

    async fn names(store: &impl Get) -> Vec<String> {
        store.list("").await.unwrap().iter().map(|object| object.key.to_string()).collect()
    }

    async fn put_two(store: &PausingStore<MemoryStore>) -> &'static str {
        store.put(&key("a"), "a".into()).await.unwrap();
        store.put(&key("b"), "b".into()).await.unwrap();
        "both"
    }

    #[tokio::test]
    async fn without_a_pause_it_is_just_a_store() {
        conformance::run(&PausingStore::new(MemoryStore::new()), conformance::Quirks::default()).await;
    }

    #[tokio::test]
    async fn the_nth_operation_waits_before_its_effect() {
        let store = PausingStore::new(MemoryStore::new());
        store.pause_at(Which::Writes, 2);
        let mut work = Box::pin(put_two(&store));
        assert_eq!(store.run_until_paused(&mut work).await, None);
        assert_eq!(names(store.inner()).await, ["a"]);
        store.inner().put(&key("c"), "another process".into()).await.unwrap();
        store.resume();
        assert_eq!(work.await, "both");
        assert_eq!(names(&store).await, ["a", "b", "c"]);
    }

    #[tokio::test]
    async fn work_that_ends_before_its_pause_says_so() {
        let store = PausingStore::new(MemoryStore::new());
        store.pause_at(Which::Reads, 1);
        assert_eq!(store.run_until_paused(&mut Box::pin(put_two(&store))).await, Some("both"));
        store.pause_at(Which::All, 3);
        store.delete(&key("a")).await.unwrap();
        store.delete(&key("b")).await.unwrap();
        store.resume();
        assert_eq!(store.run_until_paused(&mut Box::pin(put_two(&store))).await, Some("both"));
    }

    #[tokio::test]
    async fn nothing_of_a_frozen_process_moves() {
        let store = PausingStore::new(MemoryStore::new());
        store.pause_at(Which::Writes, 1);
        let (writer, reader) = (store.clone(), store.clone());
        let mut writer = tokio::spawn(async move { writer.put(&key("a"), "a".into()).await });
        assert!(store.run_until_paused(&mut writer).await.is_none());
        let mut reader = Box::pin(reader.list(""));
        let reader_ended =
            tokio::select! { biased; _ = &mut reader => true, () = std::future::ready(()) => false };
        assert!(!reader_ended, "a read went through a closed gate");
        store.resume();
        writer.await.unwrap().unwrap();
        reader.await.unwrap();
        assert_eq!(names(&store).await, ["a"]);
    }
}
