//! What the previous snapshot had, walked beside the listing.
//!
//! *Order.* Both sides come sorted by bucket and key, the versions of a key from the oldest on, so one step forward on
//! either side is enough and nothing is remembered: memory does not grow with the number of objects. What counts as
//! gone is the object that a key shows, never an older version.

use std::cmp::Ordering;

use super::{
    facts::{put_class, stamp},
    listing::Listed,
    versions::{self, VERSION_ID},
};
use crate::{
    error::Result,
    flow::{Previous, PreviousEntry, Stage, TORN},
};

/// Objects that a bucket must have had for a share of them to mean anything.
const SHARE_MIN: u64 = 10;

/// How much of a bucket may be gone since the snapshot before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shrink {
    /// So many percent, and never all.
    Percent(u32),
    /// All of it: a person says that it is right.
    Accepted,
}

/// A cursor over the previous snapshot's objects.
pub(super) struct Merge {
    previous: Option<Box<dyn Previous>>,
    next: Option<PreviousEntry>,
    /// The last key that the listing shows an object of.
    shown: Option<String>,
    /// The last key whose object was counted as gone.
    missed: Option<String>,
}

/// How a bucket changed since the previous snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Change {
    /// Objects that it had.
    pub(super) had: u64,
    /// Objects of those that are gone.
    pub(super) gone: u64,
    /// Objects that the listing shows.
    pub(super) listed: u64,
    /// Objects of those that were not there when they were read.
    pub(super) vanished: u64,
}

impl Change {
    /// Adds what was counted of another part of the bucket.
    pub(super) fn add(&mut self, other: Self) {
        self.had += other.had;
        self.gone += other.gone;
        self.listed += other.listed;
        self.vanished += other.vanished;
    }

    /// Returns what is odd about it, if anything.
    pub(super) fn anomaly(self, percent: u32) -> Option<String> {
        let Self { had, gone, listed, vanished } = self;
        if had > 0 && listed == 0 {
            return Some(format!("it is empty now and had {had} objects in the previous snapshot"));
        }
        let is_too_much = |part, of| is_more(part, of, percent);
        if is_too_much(vanished, listed) {
            return Some(format!("{vanished} of the {listed} objects that it lists are not there"));
        }
        // A bucket whose objects expire and are replaced by others is as big as it was.
        (is_too_much(gone, had) && is_too_much(had.saturating_sub(listed), had))
            .then(|| format!("{gone} of its {had} objects are gone since the previous snapshot"))
    }

    /// Returns what is worth telling though it is no loss: most of a bucket is another than it was.
    pub(super) fn turnover(self, percent: u32) -> Option<String> {
        let Self { had, gone, listed, .. } = self;
        is_more(gone, had, percent).then(|| {
            format!("{gone} of its {had} objects are gone since the previous snapshot, and it has {listed}")
        })
    }
}

/// Returns whether a part is more than so many percent of what is enough for a share to mean anything.
fn is_more(part: u64, of: u64, percent: u32) -> bool {
    of >= SHARE_MIN && u128::from(part) * 100 > u128::from(of) * u128::from(percent)
}

impl Merge {
    /// Returns whether there is nothing that could be compared.
    pub(super) fn is_over(&self) -> bool {
        self.next.is_none()
    }

    /// Begins at the previous snapshot's first object.
    pub(super) async fn new(previous: Option<Box<dyn Previous>>) -> Result<Self> {
        let mut merge = Self { previous, next: None, shown: None, missed: None };
        merge.step().await?;
        Ok(merge)
    }

    /// Goes to `bucket`; returns the buckets passed over, which are gone.
    pub(super) async fn enter(&mut self, bucket: &str) -> Result<Vec<String>> {
        (self.shown, self.missed) = (None, None);
        self.pass_while(|other| other < bucket).await
    }

    /// Goes to the end; returns the buckets passed over.
    pub(super) async fn leave(&mut self) -> Result<Vec<String>> {
        self.pass_while(|_| true).await
    }

    async fn pass_while(&mut self, passed: impl Fn(&str) -> bool) -> Result<Vec<String>> {
        let mut buckets: Vec<String> = Vec::new();
        while let Some(bucket) = self.next.as_ref().map(|entry| entry.meta.item.clone()).filter(|b| passed(b))
        {
            if buckets.last() != Some(&bucket) {
                buckets.push(bucket);
            }
            self.step().await?;
        }
        Ok(buckets)
    }

    /// Returns the previous entry of this object when it is the same object still; counts in `change`
    /// what was passed over.
    pub(super) async fn unchanged(
        &mut self,
        bucket: &str,
        listed: &Listed,
        change: &mut Change,
    ) -> Result<Option<PreviousEntry>> {
        if listed.is_current() {
            change.gone -= u64::from(self.missed.take_if(|key| *key == listed.key).is_some());
            self.shown = Some(listed.key.clone());
        }
        loop {
            let order = self.key_in(bucket).map(|key| key.cmp(listed.key.as_str()));
            let is_later = || self.next.as_ref().is_some_and(|entry| is_later(entry, listed));
            match order {
                None | Some(Ordering::Greater) => return Ok(None),
                Some(Ordering::Equal) if is_later() => return Ok(None),
                Some(order) => {
                    let Some(mut entry) = self.pass(change).await? else { return Ok(None) };
                    if order == Ordering::Equal && is_that(&entry, listed) {
                        if !is_same(&entry, listed) {
                            return Ok(None);
                        }
                        if listed.version.is_some() || versions::is_version(&entry.meta) {
                            versions::place(&mut entry.meta, bucket, listed)?;
                        }
                        put_class(&mut entry.meta.attrs, listed);
                        return Ok(Some(entry));
                    }
                }
            }
        }
    }

    /// Passes over the rest of `bucket`, which the listing does not have.
    pub(super) async fn finish(&mut self, bucket: &str, change: &mut Change) -> Result<()> {
        while self.key_in(bucket).is_some() {
            self.pass(change).await?;
        }
        Ok(())
    }

    /// Goes one entry forward and returns the one that was at the cursor; counts it if its key showed it.
    async fn pass(&mut self, change: &mut Change) -> Result<Option<PreviousEntry>> {
        let entry = self.next.take();
        self.step().await?;
        if let Some(key) = entry.as_ref().and_then(|entry| entry.meta.text("key")) {
            change.had += 1;
            if self.shown.as_deref() != Some(key) {
                change.gone += 1;
                self.missed = Some(key.to_owned());
            }
        }
        Ok(entry)
    }

    /// Returns the key at the cursor, if it is in `bucket`.
    fn key_in(&self, bucket: &str) -> Option<&str> {
        let entry = self.next.as_ref().filter(|entry| entry.meta.item == bucket)?;
        versions::key_of(&entry.meta)
    }

    async fn step(&mut self) -> Result<()> {
        self.next = None;
        let Some(previous) = &mut self.previous else { return Ok(()) };
        while let Some(entry) = previous.next().await? {
            if entry.meta.stage == Stage::Data && versions::key_of(&entry.meta).is_some() {
                self.next = Some(entry);
                return Ok(());
            }
        }
        self.previous = None;
        Ok(())
    }
}

/// Returns whether an entry of the same key is another version that was made after the listed one.
fn is_later(entry: &PreviousEntry, listed: &Listed) -> bool {
    let date = entry.meta.text("last_modified").unwrap_or_default();
    listed.version.is_some() && !is_that(entry, listed) && date > stamp(listed).as_str()
}

/// Returns whether an entry of the same key is what is listed, though it may have changed since. A snapshot without
/// versions knows no id: there the object itself tells.
fn is_that(entry: &PreviousEntry, listed: &Listed) -> bool {
    match (entry.meta.text(VERSION_ID), &listed.version) {
        (Some(id), Some(version)) => id == version.id,
        (None, Some(_)) => is_same(entry, listed),
        (_, None) => entry.meta.text("key").is_some(),
    }
}

/// Returns whether the listing shows the very object that the previous snapshot holds.
fn is_same(entry: &PreviousEntry, listed: &Listed) -> bool {
    !listed.etag.is_empty()
        && entry.meta.text("etag") == Some(listed.etag.as_str())
        && entry.meta.text("last_modified") == Some(stamp(listed).as_str())
        && entry.size_bytes == listed.size_bytes
        && !entry.trailer.contains_key(TORN)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use chrono::DateTime;

    use super::{
        super::facts::{Facts, object_meta},
        *,
    };
    use crate::flow::{Attrs, Reuse};

    struct Before(std::vec::IntoIter<PreviousEntry>);

    #[async_trait::async_trait]
    impl Previous for Before {
        async fn next(&mut self) -> Result<Option<PreviousEntry>> {
            Ok(self.0.next())
        }
    }

    fn listed(key: &str, size_bytes: u64) -> Listed {
        Listed {
            key: key.to_owned(),
            etag: format!("{size_bytes:032x}"),
            size_bytes,
            last_modified: DateTime::UNIX_EPOCH,
            storage_class: None,
            version: None,
            tags: None,
        }
    }

    async fn merge(objects: &[(&str, &str, u64)]) -> Merge {
        let entry = |(bucket, key, size): &(&str, &str, u64)| PreviousEntry {
            meta: object_meta(bucket, &listed(key, *size), &Facts::default()).unwrap(),
            trailer: Attrs::new(),
            size_bytes: *size,
            reuse: Reuse(Bytes::new()),
        };
        let all: Vec<_> = objects.iter().map(entry).collect();
        Merge::new(Some(Box::new(Before(all.into_iter())))).await.unwrap()
    }

    #[tokio::test]
    async fn only_what_changed_is_read_again() {
        // `a-b` sorts before `a/b` by bytes, whatever their paths look like.
        let mut merge = merge(&[("x", "a-b", 1), ("x", "a/b", 2), ("x", "gone", 3), ("x", "z", 4)]).await;
        let mut change = Change::default();
        let mut same = Vec::new();
        for (key, size) in [("a-b", 1), ("a/b", 20), ("new", 1), ("z", 4)] {
            let now = listed(key, size);
            same.push(merge.unchanged("x", &now, &mut change).await.unwrap().is_some());
        }
        merge.finish("x", &mut change).await.unwrap();
        assert_eq!(same, [true, false, false, true]);
        assert_eq!(change, Change { had: 4, gone: 1, ..Change::default() });
    }

    #[tokio::test]
    async fn an_object_that_a_rule_moved_to_another_class_is_the_same_in_that_class() {
        let mut merge = merge(&[("x", "a", 1), ("x", "b", 1)]).await;
        let mut change = Change::default();
        let moved = Listed { storage_class: Some("STANDARD_IA".to_owned()), ..listed("a", 1) };
        let same = merge.unchanged("x", &moved, &mut change).await.unwrap().unwrap();
        assert_eq!(same.meta.text("storage_class"), Some("STANDARD_IA"));
        merge.next.as_mut().unwrap().meta.attrs.insert("storage_class".to_owned(), "STANDARD_IA".into());
        let back = merge.unchanged("x", &listed("b", 1), &mut change).await.unwrap().unwrap();
        assert_eq!(back.meta.text("storage_class"), None);
    }

    #[tokio::test]
    async fn a_bucket_that_is_gone_is_noticed() {
        let mut merge = merge(&[("a", "1", 1), ("a", "2", 1), ("b", "1", 1), ("c", "1", 1)]).await;
        assert_eq!(merge.enter("b").await.unwrap(), ["a"]);
        let mut change = Change::default();
        assert!(merge.unchanged("b", &listed("1", 1), &mut change).await.unwrap().is_some());
        assert_eq!(merge.leave().await.unwrap(), ["c"]);
    }

    #[test]
    fn an_empty_or_shrunken_bucket_is_an_anomaly() {
        let is_odd =
            |had, gone, listed, vanished| Change { had, gone, listed, vanished }.anomaly(20).is_some();
        assert!(is_odd(1, 1, 0, 0));
        assert!(!is_odd(0, 0, 0, 0));
        assert!(is_odd(100, 21, 79, 0));
        assert!(!is_odd(100, 20, 80, 0));
        assert!(!is_odd(3, 2, 1, 0));
        assert!(!is_odd(100, 90, 100, 0), "others have come in their place");
        assert!(Change { had: 100, gone: 90, listed: 100, vanished: 0 }.turnover(20).is_some());
        assert!(Change { had: 100, gone: 20, listed: 100, vanished: 0 }.turnover(20).is_none());
        assert!(is_odd(0, 0, 100, 21), "a first listing of objects that are not there");
        assert!(!is_odd(0, 0, 100, 20));
        assert!(Change { had: 100, gone: 99, listed: 1, vanished: 0 }.anomaly(100).is_none());
    }
}
