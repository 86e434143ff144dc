//! The packs of a copy: sent, and a share of them read back before a snapshot relies on them.
//!
//! *Order.* A pack is read whole, its hash compared with its name, put, and its size asked for. When all packs of a
//! snapshot are there, the dice choose some that no snapshot of the copy has relied on before, also those that a run
//! that died has put; they are read back and hashed, twice where the first time was wrong. A pack that this host has
//! found damaged in the copy once is read back whenever it is needed, until it comes back whole.
//!
//! *Limits.* As many packs are in memory as are sent at the same time.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use sha2::{Digest, Sha256};
use tokio::task::spawn_blocking;

use super::Copy;
use crate::{
    clock::Dice,
    error::{Context, ExitCode, Failure, Result},
    event::Event,
    names::PackId,
    repo::{format::layout, verify::share},
    store::StoreError,
};

/// Packs after which the session may be due to be noted again.
const PACKS_PER_MARK: usize = 16;

/// What to do about an object of the copy that is not what it must be.
pub(super) const REMOVE_BY_HAND: &str =
    "An object is never overwritten: remove that one by hand and run the sync again.";

impl Copy<'_> {
    /// Copies the packs that are missing; each must have the hash in its name.
    pub(super) async fn copy_packs(&mut self, needed: &BTreeMap<PackId, u64>) -> Result<()> {
        for (pack, size_bytes) in needed {
            if self.packs.get(pack).is_some_and(|found| found != size_bytes) {
                let what = format!("`{}` of the copy does not have its size", layout::pack(*pack));
                return Err(Failure::new(ExitCode::StoreDown, what).hint(REMOVE_BY_HAND));
            }
        }
        let missing = needed.iter().filter(|(pack, _)| !self.packs.contains_key(pack));
        let missing: Vec<(PackId, u64)> = missing.map(|(pack, size_bytes)| (*pack, *size_bytes)).collect();
        for some in missing.chunks(PACKS_PER_MARK) {
            self.mark().await?;
            let (copied, failed) = self.some_packs(some).await;
            self.report.packs += copied.len() as u64;
            self.report.packs_bytes += copied.iter().map(|(_, size_bytes)| size_bytes).sum::<u64>();
            self.packs.extend(copied);
            failed?;
        }
        Ok(())
    }

    /// Copies packs, and returns those that were also when one of them failed: nothing is sent twice.
    async fn some_packs(&self, packs: &[(PackId, u64)]) -> (Vec<(PackId, u64)>, Result<()>) {
        let copies = packs.iter().map(|(pack, size_bytes)| async move {
            self.pack(*pack, *size_bytes).await?;
            Ok::<_, Failure>((*pack, *size_bytes))
        });
        let mut copies = stream::iter(copies).buffer_unordered(self.settings.packs_at_once.max(1));
        let (mut copied, mut failed) = (Vec::new(), Ok(()));
        while let Some(one) = copies.next().await {
            match one {
                Ok(one) => copied.push(one),
                Err(failure) if failure.exit() == ExitCode::Damage => failed = failed.and(Err(failure)),
                Err(failure) => return (copied, Err(failure)),
            }
        }
        (copied, failed)
    }

    async fn pack(&self, pack: PackId, size_bytes: u64) -> Result<()> {
        let key = layout::pack(pack);
        let bytes = self.take(&key).await?;
        if hash(bytes.clone()).await? != pack {
            let what = format!("`{key}` does not have the hash in its name");
            return Err(Failure::new(ExitCode::Damage, what));
        }
        match self.put.put(&key, bytes).await {
            // A run that died, or another one, was faster; its name says what it is.
            Err(StoreError::Exists { .. }) => {}
            other => other?,
        }
        match self.to.get.size(&key).await? {
            Some(found) if found == size_bytes => {
                self.monitor.event(Event::PackStored { size_bytes });
                Ok(())
            }
            _ => Err(Failure::new(
                ExitCode::StoreDown,
                format!("`{key}` was put into the copy and is not there whole"),
            )
            .hint("Check the offsite store; `lifeboat doctor` tries what it promises.")),
        }
    }

    /// Reads back a share of what a snapshot needs. It may rely on its packs when this returns.
    pub(super) async fn reread(&mut self, needed: &BTreeMap<PackId, u64>) -> Result<()> {
        let chosen = self.chosen(needed)?;
        for some in chosen.chunks(PACKS_PER_MARK) {
            self.mark().await?;
            let sizes = some.iter().filter_map(|pack| needed.get_key_value(pack));
            let reads = sizes.map(|(pack, size_bytes)| self.reread_one(*pack, *size_bytes));
            let reads = stream::iter(reads).buffer_unordered(self.settings.packs_at_once.max(1));
            reads.try_collect::<()>().await?;
        }
        self.report.packs_reread += chosen.len() as u64;
        for pack in needed.keys() {
            *self.relied_on.entry(*pack).or_default() += 1;
        }
        Ok(())
    }

    /// Chooses the packs that are read back: by dice, and those that were found damaged here before.
    fn chosen(&self, needed: &BTreeMap<PackId, u64>) -> Result<Vec<PackId>> {
        let mut pool: Vec<PackId> =
            needed.keys().filter(|pack| !self.relied_on.contains_key(pack)).copied().collect();
        if pool.is_empty() {
            pool.extend(needed.keys());
        }
        let count = share(pool.len(), f64::from(self.settings.reread_percent));
        let mut chosen = some_of(pool, count, self.ground.dice.as_ref());
        chosen.extend(self.to.known.avoided()?.into_iter().filter(|pack| needed.contains_key(pack)));
        Ok(chosen.into_iter().collect())
    }

    async fn reread_one(&self, pack: PackId, size_bytes: u64) -> Result<()> {
        // What came wrong over the wire once may be whole; only the store's second word counts.
        if self.comes_back_whole(pack, size_bytes).await? || self.comes_back_whole(pack, size_bytes).await? {
            return self.to.known.note_read(&pack, self.ground.clock.now(), false);
        }
        self.to.known.distrust(&[pack].into(), false)?;
        let what = format!("`{}` was put into the copy and does not come back whole", layout::pack(pack));
        let failure = Failure::new(ExitCode::StoreDown, what);
        Err(match self.relied_on.get(&pack) {
            None => failure
                .hint("Check the offsite store. No snapshot relies on that object: remove it by hand if it is damaged.")
                .hint("The next sync reads it again, and puts it again where it is gone."),
            Some(count) => failure
                .hint(format!("{count} snapshots of the copy rely on that object: do not remove it yet."))
                .hint("Run `lifeboat verify --from` that offsite first: it tells whether the object is damaged."),
        })
    }

    /// Reads a pack of the copy and hashes it. The range says how much will come, so the store has the time for it.
    async fn comes_back_whole(&self, pack: PackId, size_bytes: u64) -> Result<bool> {
        match self.to.get.get(&layout::pack(pack), Some(0..size_bytes)).await {
            Ok(bytes) => Ok(hash(bytes).await? == pack),
            Err(StoreError::NotFound { .. } | StoreError::Short { .. }) => Ok(false),
            Err(other) => Err(other.into()),
        }
    }
}

async fn hash(bytes: Bytes) -> Result<PackId> {
    let work = spawn_blocking(move || PackId(Sha256::digest(&bytes).into()));
    work.await.failed(ExitCode::Failed, || "hashing broke off".to_owned())
}

/// Chooses `count` of `pool` by dice, each as likely as any other.
fn some_of(mut pool: Vec<PackId>, count: usize, dice: &dyn Dice) -> BTreeSet<PackId> {
    for at in 0..count.min(pool.len()) {
        let mut bytes = [0; 8];
        dice.fill(&mut bytes);
        let left = (pool.len() - at) as u64;
        pool.swap(at, at + usize::try_from(u64::from_le_bytes(bytes) % left).unwrap_or_default());
    }
    pool.truncate(count);
    pool.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::System;

    #[test]
    fn the_dice_choose_as_many_as_were_asked_for_and_in_time_each_of_them() {
        let pool: Vec<PackId> = (0..9).map(|n| PackId([n; 32])).collect();
        let mut met = BTreeSet::new();
        for _ in 0..1000 {
            let some = some_of(pool.clone(), 2, &System);
            assert_eq!(some.len(), 2);
            met.extend(some);
        }
        assert_eq!(met, pool.iter().copied().collect());
        assert_eq!(some_of(pool.clone(), 9, &System), met);
        assert_eq!(some_of(pool, 0, &System), BTreeSet::new());
        assert_eq!(some_of(Vec::new(), 0, &System), BTreeSet::new());
    }
}
