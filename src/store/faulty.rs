//! A wrapper that fails on purpose: the n-th operation, before or after it took effect, once or for ever,
//! or any operation by dice that a seed decides.
//!
//! Crash enumeration is a loop over `n` with [`FaultStore::die_at`] until nothing fails any more: each
//! round is a process that died at another step, and what it left must still verify, back up and restore.
//!
//! A fault on an operation that it has no meaning for shows itself like [`Fault::Before`].

use std::{
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};

use super::{Delete, Get, Listed, Put, Store, StoreError, Trash};
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
    /// A put stores the first half of its bytes and fails, as where puts are not whole or nothing.
    Partial,
    /// A write takes effect twice, as when something below us tries again: of a put the second answer is
    /// heard, which says "exists" of our own object.
    Duplicate,
    /// A write is said to be done, but takes effect only after so many more operations.
    Delay(u64),
    /// A get returns its bytes with one bit of the byte at this offset turned over.
    Flip(usize),
    /// A get returns only so many bytes, as if that were all.
    Truncate(usize),
    /// A listing shows the store as it was before the last so many writes.
    StaleList(usize),
}

impl Fault {
    /// The faults of a store that keeps its promises; any job must come through them without harm.
    pub const OF_GOOD_STORES: [Self; 4] = [Self::Before, Self::After, Self::Full, Self::Duplicate];

    /// Returns whether the fault means something to an operation of this kind.
    fn suits(self, is_write: bool) -> bool {
        match self {
            Self::Before => true,
            Self::After | Self::Full | Self::Partial | Self::Duplicate | Self::Delay(_) => is_write,
            Self::Flip(_) | Self::Truncate(_) | Self::StaleList(_) => !is_write,
        }
    }
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

impl Which {
    pub(super) fn counts(self, is_write: bool) -> bool {
        match self {
            Self::All => true,
            Self::Writes => is_write,
            Self::Reads => !is_write,
        }
    }
}

#[derive(Debug, Default)]
struct Script {
    seen: u64,
    strikes: u64,
    plan: Plan,
    dead: bool,
    /// Writes that were said to be done, and after how many more operations they are.
    delayed: Vec<(u64, Deed)>,
    /// How to undo each write in a listing, the oldest first.
    undo: Vec<Undo>,
}

#[derive(Debug, Default)]
enum Plan {
    #[default]
    Nothing,
    At(Armed),
    Random {
        state: u64,
        per_mille: u16,
        among: Vec<Fault>,
    },
}

#[derive(Clone, Copy, Debug)]
struct Armed {
    which: Which,
    at: u64,
    fault: Fault,
    /// Whether all that comes after fails as well.
    dies: bool,
}

/// A write.
#[derive(Clone, Debug)]
enum Deed {
    Put(Key, Bytes),
    Delete(Key),
}

#[derive(Debug)]
enum Undo {
    Put(Key),
    Delete(Listed),
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
        self.set(Plan::At(Armed { which, at: n, fault, dies: false }));
    }

    /// Lets the `n`-th operation of this kind from now on fail, and everything after it as well.
    pub fn die_at(&self, which: Which, n: u64, fault: Fault) {
        self.set(Plan::At(Armed { which, at: n, fault, dies: true }));
    }

    /// Lets so many of a thousand operations fail, by [`Fault::OF_GOOD_STORES`].
    ///
    /// The same seed and the same order of operations give the same faults.
    pub fn random(&self, seed: u64, per_mille: u16) {
        self.random_among(seed, per_mille, &Fault::OF_GOOD_STORES);
    }

    /// As [`Self::random`], by the faults of `among` that mean something to the operation.
    pub fn random_among(&self, seed: u64, per_mille: u16, among: &[Fault]) {
        self.set(Plan::Random { state: seed, per_mille, among: among.to_vec() });
    }

    /// Ends all trouble. A write that is still delayed takes effect before the next operation.
    pub fn heal(&self) {
        self.set(Plan::Nothing);
        self.script().delayed.iter_mut().for_each(|(left, _)| *left = 0);
    }

    /// Returns whether a fault has struck since it was set.
    pub fn has_struck(&self) -> bool {
        self.strikes() > 0
    }

    /// Returns how many faults have struck since they were set; what fails because all is dead is none.
    pub fn strikes(&self) -> u64 {
        self.script().strikes
    }

    /// Returns what is inside.
    pub fn inner(&self) -> &S {
        &self.inner
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, plan: Plan) {
        let mut script = self.script();
        (script.seen, script.strikes, script.dead, script.plan) = (0, 0, false, plan);
    }
}

impl Script {
    /// Counts one operation and tells what is to go wrong with it.
    fn strike(&mut self, is_write: bool) -> Option<Fault> {
        if self.dead {
            return Some(Fault::Before);
        }
        let struck = match &mut self.plan {
            Plan::Nothing => None,
            Plan::At(armed) => {
                self.seen += u64::from(armed.which.counts(is_write));
                let struck = armed.which.counts(is_write) && self.seen == armed.at;
                self.dead = struck && armed.dies;
                struck.then_some(armed.fault)
            }
            Plan::Random { state, per_mille, among } => {
                let (strikes, pick) = (next(state) % 1000 < u64::from(*per_mille), next(state));
                let fit: Vec<Fault> = among.iter().copied().filter(|fault| fault.suits(is_write)).collect();
                let index = usize::try_from(pick % fit.len().max(1) as u64).unwrap_or(0);
                fit.get(index).copied().filter(|_| strikes)
            }
        };
        self.strikes += u64::from(struck.is_some());
        struck
    }

    /// Takes out the delayed writes whose time has come.
    fn due(&mut self) -> Vec<Deed> {
        let (due, later): (Vec<_>, _) =
            std::mem::take(&mut self.delayed).into_iter().partition(|(left, _)| *left == 0);
        self.delayed = later;
        self.delayed.iter_mut().for_each(|(left, _)| *left -= 1);
        due.into_iter().map(|(_, deed)| deed).collect()
    }
}

/// Returns the next number of a splitmix64 sequence: plain, and the same on every machine.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// Returns the error that `fault` shows itself by.
fn error(fault: Fault, at: &str) -> StoreError {
    let (at, source) = (at.to_owned(), "a fault on purpose".into());
    match fault {
        Fault::Full => StoreError::Full { at, source },
        _ => StoreError::Unavailable { at, source },
    }
}

impl<S: Store> FaultStore<S> {
    /// Begins an operation: what was delayed until now takes effect, then the dice fall.
    async fn begin(&self, is_write: bool) -> Option<Fault> {
        let (fault, due) = {
            let mut script = self.script();
            let fault = script.strike(is_write);
            // The dead reach the store no more: nothing is counted there.
            (fault, if script.dead { Vec::new() } else { script.due() })
        };
        for deed in due {
            // Whoever asked for it was told long ago that it is done.
            let _ = self.perform(deed).await;
        }
        fault
    }

    /// Does a write and keeps how a listing looked without it.
    async fn perform(&self, deed: Deed) -> Result<(), StoreError> {
        let undo = match deed {
            Deed::Put(key, body) => {
                self.inner.put(&key, body).await?;
                Some(Undo::Put(key))
            }
            Deed::Delete(key) => {
                let before = self.inner.list(key.as_str()).await?;
                self.inner.delete(&key).await?;
                before.into_iter().find(|object| object.key == key).map(Undo::Delete)
            }
        };
        self.script().undo.extend(undo);
        Ok(())
    }

    /// Does a write, or what the fault makes of it.
    async fn write(&self, at: &Key, deed: Deed) -> Result<(), StoreError> {
        let Some(fault) = self.begin(true).await else { return self.perform(deed).await };
        match (fault, deed) {
            (Fault::After, deed) => self.perform(deed).await?,
            (Fault::Partial, Deed::Put(key, body)) => {
                self.perform(Deed::Put(key, body.slice(..body.len() / 2))).await?;
            }
            (Fault::Duplicate, deed) => {
                self.perform(deed.clone()).await?;
                return self.perform(deed).await;
            }
            (Fault::Delay(operations), deed) => {
                self.script().delayed.push((operations, deed));
                return Ok(());
            }
            _ => {}
        }
        Err(error(fault, at.as_str()))
    }

    /// Takes the last `writes` writes out of a listing.
    fn undone(&self, prefix: &str, mut listed: Vec<Listed>, writes: usize) -> Vec<Listed> {
        for undo in self.script().undo.iter().rev().take(writes) {
            match undo {
                Undo::Put(key) => listed.retain(|object| object.key != *key),
                Undo::Delete(object) if object.key.as_str().starts_with(prefix) => {
                    listed.push(object.clone());
                }
                Undo::Delete(_) => {}
            }
        }
        listed.sort_by(|a, b| a.key.cmp(&b.key));
        listed
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<S: Store> Put for FaultStore<S> {
    async fn put(&self, key: &Key, body: Bytes) -> Result<(), StoreError> {
        self.write(key, Deed::Put(key.clone(), body)).await
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<S: Store> Get for FaultStore<S> {
    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Bytes, StoreError> {
        match self.begin(false).await {
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
        match self.begin(false).await {
            Some(fault) => Err(error(fault, key.as_str())),
            None => self.inner.size(key).await,
        }
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Listed>, StoreError> {
        match self.begin(false).await {
            None => self.inner.list(prefix).await,
            Some(Fault::StaleList(writes)) => {
                let listed = self.inner.list(prefix).await?;
                Ok(self.undone(prefix, listed, writes))
            }
            Some(fault) => Err(error(fault, prefix)),
        }
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<S: Store> Delete for FaultStore<S> {
    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        self.write(key, Deed::Delete(key.clone())).await
    }

    async fn tidy(
        &self,
        leftovers_before: DateTime<Utc>,
        trash_before: DateTime<Utc>,
    ) -> Result<u64, StoreError> {
        match self.begin(true).await {
            None => self.inner.tidy(leftovers_before, trash_before).await,
            Some(fault) => Err(error(fault, "")),
        }
    }

    async fn trash(&self) -> Result<Trash, StoreError> {
        match self.begin(false).await {
            None => self.inner.trash().await,
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

    async fn names(store: &impl Store) -> Vec<String> {
        store.list("").await.unwrap().iter().map(|object| object.key.to_string()).collect()
    }

    #[tokio::test]
    async fn a_put_can_stop_half_way() {
        let store = FaultStore::new(MemoryStore::new());
        store.fail_at(Which::Writes, 1, Fault::Partial);
        assert!(store.put(&key("a"), "abcd".into()).await.is_err());
        assert_eq!(store.get(&key("a"), None).await.unwrap(), "ab");
    }

    #[tokio::test]
    async fn a_put_that_was_done_twice_meets_itself() {
        let store = FaultStore::new(MemoryStore::new());
        store.fail_at(Which::Writes, 1, Fault::Duplicate);
        assert!(store.put(&key("a"), "ours".into()).await.unwrap_err().is_exists());
        assert_eq!(store.get(&key("a"), None).await.unwrap(), "ours");
        store.fail_at(Which::Writes, 1, Fault::Duplicate);
        store.delete(&key("a")).await.unwrap();
        assert!(names(&store).await.is_empty());
    }

    #[tokio::test]
    async fn a_write_can_take_effect_after_others() {
        let store = FaultStore::new(MemoryStore::new());
        store.fail_at(Which::Writes, 1, Fault::Delay(2));
        store.put(&key("a"), "a".into()).await.unwrap();
        assert!(store.get(&key("a"), None).await.unwrap_err().is_not_found());
        store.put(&key("b"), "b".into()).await.unwrap();
        assert_eq!(names(&store).await, ["a", "b"]);
        store.fail_at(Which::Writes, 1, Fault::Delay(1_000));
        store.delete(&key("a")).await.unwrap();
        assert_eq!(names(&store).await, ["a", "b"]);
        store.heal();
        assert_eq!(names(&store).await, ["b"]);
    }

    #[tokio::test]
    async fn what_the_dead_had_delayed_still_happens() {
        let store = FaultStore::new(MemoryStore::new());
        store.fail_at(Which::Writes, 1, Fault::Delay(1));
        store.put(&key("a"), "a".into()).await.unwrap();
        store.die_at(Which::All, 1, Fault::Before);
        assert!(store.list("").await.is_err());
        store.heal();
        assert_eq!(names(&store).await, ["a"]);
    }

    #[tokio::test]
    async fn a_listing_can_lag_behind() {
        let store = FaultStore::new(MemoryStore::new());
        for name in ["x/a", "x/b", "y"] {
            store.put(&key(name), "1".into()).await.unwrap();
        }
        store.delete(&key("x/a")).await.unwrap();
        assert_eq!(names(&store).await, ["x/b", "y"]);
        for (writes, want) in [(1, &["x/a", "x/b"][..]), (2, &["x/a", "x/b"]), (3, &["x/a"]), (9, &[])] {
            store.fail_at(Which::Reads, 1, Fault::StaleList(writes));
            let listed = store.list("x/").await.unwrap();
            assert_eq!(listed.iter().map(|o| o.key.as_str()).collect::<Vec<_>>(), want, "{writes}");
        }
        store.fail_at(Which::Reads, 1, Fault::StaleList(1));
        assert_eq!(store.list("y").await.unwrap().len(), 1, "only what has the prefix comes back");
    }

    async fn outcome(seed: u64, per_mille: u16) -> (Vec<bool>, u64) {
        let store = FaultStore::new(MemoryStore::new());
        store.random(seed, per_mille);
        let mut worked = Vec::new();
        for n in 0..500 {
            worked.push(store.put(&key(&format!("o/{n}")), "x".into()).await.is_ok());
            worked.push(store.size(&key(&format!("o/{n}"))).await.is_ok());
        }
        (worked, store.strikes())
    }

    #[tokio::test]
    async fn a_seed_gives_the_same_faults_again() {
        let (worked, strikes) = outcome(7, 100).await;
        assert_eq!(outcome(7, 100).await, (worked.clone(), strikes));
        assert_ne!(outcome(8, 100).await.0, worked);
        assert!((50..150).contains(&strikes), "a tenth of 1000 operations was meant: {strikes}");
        assert_eq!(worked.iter().filter(|worked| !**worked).count() as u64, strikes);
        assert_eq!(outcome(7, 0).await.1, 0);
        assert_eq!(outcome(7, 1000).await.1, 1000);
    }

    #[tokio::test]
    async fn random_faults_can_be_chosen() {
        let store = FaultStore::new(MemoryStore::new());
        store.put(&key("a"), "abc".into()).await.unwrap();
        store.random_among(1, 1000, &[Fault::Flip(0)]);
        assert_eq!(store.get(&key("a"), None).await.unwrap(), "`bc");
        store.put(&key("b"), "b".into()).await.unwrap();
        assert_eq!(store.strikes(), 1, "no fault of the list suits a put");
    }
}
