//! Buckets divided among several processes: which part of the keys is whose, and what their parts make together.
//!
//! All objects of a source stand in one order: by bucket, then by the bytes of the key. A [`Share`] is what lies
//! between two [`Border`]s of it, without the first and with the second: a listing can begin after a key and not at
//! one. So every object belongs to exactly one share, and the entries of all shares one after the other are the
//! entries of the whole.
//!
//! *Order.* The first share has the settings of all buckets, for these come before all objects; the last has what comes
//! behind them.
//!
//! *Crash.* Nothing is written here; borders are kept by whoever asked for them.
//!
//! *Limits.* [`SAMPLE_MAX`] keys are in memory; without a snapshot before, [`LISTED_MAX`] objects are listed to
//! divide them.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use chrono::SecondsFormat;

use super::{
    client::Server,
    judge::Judge,
    listing::Lister,
    merge::{Change, Shrink},
    source::{exclusion, wanted_buckets},
    versions,
};
use crate::{
    error::{ExitCode, Failure, Result},
    event::SharedMonitor,
    flow::{Point, Previous, PreviousEntry, Problem, Stage},
    names::SourceName,
    policy::S3Config,
};

/// Keys that are looked at to divide them evenly.
const SAMPLE_MAX: usize = 8192;
/// Objects that are listed to divide them when no snapshot tells of them: a hundred pages.
const LISTED_MAX: usize = 100_000;
/// The mark of a point that tells what a share counted.
const COUNTED: &str = "counted";
/// Bytes that keys often begin with, in their order: where nothing is known of them they are divided by these.
const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";

/// A place in the order of all objects: a bucket and a key in it.
pub type Border = (String, String);

/// The objects between two borders; all of them by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// It begins behind this one.
    after: Option<Border>,
    /// The last one that may be in it.
    to: Option<Border>,
}

/// The keys of one bucket that a share has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) after: Option<String>,
    pub(super) to: Option<String>,
}

impl Share {
    /// Returns the shares that these borders make, one more than there are borders. They must not descend.
    pub fn all(borders: &[Border]) -> Vec<Self> {
        let after = std::iter::once(None).chain(borders.iter().cloned().map(Some));
        let to = borders.iter().cloned().map(Some).chain([None]);
        after.zip(to).map(|(after, to)| Self { after, to }).collect()
    }

    /// Returns whether an object is in it.
    pub fn holds(&self, bucket: &str, key: &str) -> bool {
        let is_behind = |border: &Border| (border.0.as_str(), border.1.as_str()) < (bucket, key);
        self.after.as_ref().is_none_or(is_behind) && !self.to.as_ref().is_some_and(is_behind)
    }

    /// Returns whether it begins before all objects.
    pub(super) fn is_first(&self) -> bool {
        self.after.is_none()
    }

    /// Returns whether it ends behind all objects.
    pub(super) fn is_last(&self) -> bool {
        self.to.is_none()
    }

    /// Returns which keys of a bucket it has; `None` when it cannot have one.
    pub(super) fn span(&self, bucket: &str) -> Option<Span> {
        let is_outside = self.after.as_ref().is_some_and(|after| after.0.as_str() > bucket)
            || self.to.as_ref().is_some_and(|to| to.0.as_str() < bucket)
            || self.after.is_some() && self.after == self.to;
        let key = |border: &Option<Border>| {
            border.as_ref().filter(|border| border.0 == bucket).map(|border| border.1.clone())
        };
        // S3 takes no empty key to begin after; every key is behind it.
        let after = key(&self.after).filter(|after| !after.is_empty());
        (!is_outside).then(|| Span { after, to: key(&self.to) })
    }

    /// Shows only the share's part of a snapshot.
    pub(super) fn only(self, previous: Box<dyn Previous>) -> Box<dyn Previous> {
        Box::new(Within { previous, share: self })
    }
}

/// The objects of an older snapshot that are in a share.
struct Within {
    previous: Box<dyn Previous>,
    share: Share,
}

#[async_trait]
impl Previous for Within {
    async fn next(&mut self) -> Result<Option<PreviousEntry>> {
        while let Some(entry) = self.previous.next().await? {
            let is_in = object_of(&entry).is_some_and(|(bucket, key)| self.share.holds(&bucket, &key));
            if is_in {
                return Ok(Some(entry));
            }
        }
        Ok(None)
    }
}

fn object_of(entry: &PreviousEntry) -> Option<Border> {
    let key = versions::key_of(&entry.meta).filter(|_| entry.meta.stage == Stage::Data)?;
    Some((entry.meta.item.clone(), key.to_owned()))
}

/// Every so many of the keys that it was shown: evenly, in their order, in bounded room.
#[derive(Default)]
struct Sieve {
    kept: Vec<Border>,
    /// One of so many is kept, as a power of two.
    thinned: u32,
    seen: usize,
}

impl Sieve {
    fn add(&mut self, object: Border) {
        if self.seen.trailing_zeros() >= self.thinned || self.seen == 0 {
            self.kept.push(object);
        }
        self.seen += 1;
        if self.kept.len() > SAMPLE_MAX {
            let mut at = 0;
            self.kept.retain(|_| {
                at += 1;
                at % 2 == 1
            });
            self.thinned += 1;
        }
    }

    /// Returns the borders of `count` shares of about as many objects each; none when it was shown less than that.
    fn borders(&self, count: usize) -> Option<Vec<Border>> {
        let all = self.kept.len();
        (all >= count).then(|| (1..count).map(|n| self.kept[n * all / count].clone()).collect())
    }
}

/// Divides the objects of a source into `count` shares of about as many objects: by the snapshot before; or else by
/// their listing, where it is short enough; or else by how keys often begin.
pub async fn borders(
    name: &SourceName,
    config: &S3Config,
    previous: Option<Box<dyn Previous>>,
    count: usize,
) -> Result<Vec<Border>> {
    let mut sieve = Sieve::default();
    if let Some(mut previous) = previous {
        while let Some(entry) = previous.next().await? {
            if let Some(object) = object_of(&entry) {
                sieve.add(object);
            }
        }
    }
    if let Some(borders) = sieve.borders(count) {
        return Ok(borders);
    }
    let server = Server::new(name, config)?;
    let buckets = wanted_buckets(&server, &config.buckets).await?;
    let mut sieve = Sieve::default();
    for bucket in &buckets {
        let mut lister = Lister::new(&server, bucket);
        while let Some(listed) = lister.next().await? {
            sieve.add((bucket.clone(), listed.key));
            if sieve.seen > LISTED_MAX {
                return Ok(by_bytes(&buckets, count));
            }
        }
    }
    Ok(sieve.borders(count).unwrap_or_else(|| by_bytes(&buckets, count)))
}

/// Divides buckets of which nothing is known: each counts alike, and in each the ways in which a key can begin.
pub fn by_bytes(buckets: &[String], count: usize) -> Vec<Border> {
    let digits = DIGITS.len();
    let of_bucket = digits * digits;
    let border = |n: usize| {
        let at = n * buckets.len() * of_bucket / count;
        let (bucket, at) = (at / of_bucket, at % of_bucket);
        let key = [DIGITS[at / digits], DIGITS[at % digits]].map(char::from);
        (buckets.get(bucket).cloned().unwrap_or_default(), String::from_iter(key))
    };
    (1..count).map(border).collect()
}

/// What shares counted of each bucket, to be judged for the whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Counted {
    /// How each bucket changed.
    pub(super) buckets: BTreeMap<String, Change>,
    /// Buckets that the snapshot before has objects of and that were not met.
    pub(super) missing: BTreeSet<String>,
    /// Buckets whose settings were read, of the first share.
    pub(super) settings: BTreeSet<String>,
}

impl Counted {
    /// Writes it into a point, where the parts of a run carry it.
    pub(super) fn mark(&self, point: Point) -> Point {
        point.mark(COUNTED, serde_json::to_string(self).unwrap_or_default())
    }

    fn take(point: &mut Point) -> Result<Self> {
        let text = point.marks.remove(COUNTED).unwrap_or_default();
        serde_json::from_str(&text).map_err(|cause| {
            Failure::new(ExitCode::Damage, "a part of a run does not tell what it counted").because(cause)
        })
    }

    fn add(&mut self, other: Self) {
        for (bucket, change) in other.buckets {
            self.buckets.entry(bucket).or_default().add(change);
        }
        self.missing.extend(other.missing);
        self.settings.extend(other.settings);
    }
}

/// Makes one point of those of all shares, judges what they counted together, and returns the point and what is to be
/// reported besides: how many of these are losses too.
pub async fn joined(
    name: &SourceName,
    config: &S3Config,
    shrink: Shrink,
    monitor: &SharedMonitor,
    points: Vec<Point>,
) -> Result<(Point, Vec<Problem>, u64)> {
    let mut all = Counted::default();
    let mut whole: Option<Point> = None;
    for mut point in points {
        all.add(Counted::take(&mut point)?);
        whole = Some(match whole {
            None => point,
            Some(whole) => together(whole, point),
        });
    }
    let Some(mut point) = whole else {
        return Err(Failure::new(ExitCode::Damage, format!("no part has anything of `{name}`")));
    };
    let begin = point.at.to_rfc3339_opts(SecondsFormat::Millis, true);
    point.marks.insert("window_begin".to_owned(), begin);
    let judge =
        Judge { server: Server::new(name, config)?, name: name.clone(), monitor: monitor.clone(), shrink };
    let (mut problems, mut gone) = (Vec::new(), 0);
    let wanted = exclusion(&config.buckets)?;
    for bucket in &all.missing {
        gone += u64::from(judge.gone(bucket, &wanted)?.is_some_and(|problem| {
            problems.push(problem);
            true
        }));
    }
    for (bucket, change) in &all.buckets {
        judge.bucket(bucket, *change).await?;
        if !all.settings.contains(bucket) {
            let why = "it came while the run was under way: its settings were not read".to_owned();
            problems.push(Problem { what: format!("bucket {bucket}"), why });
        }
    }
    Ok((point, problems, gone))
}

/// Joins what two shares say of when and what they read.
fn together(mut one: Point, other: Point) -> Point {
    one.at = one.at.min(other.at);
    for (name, value) in other.marks {
        let Some(mine) = one.marks.get_mut(&name) else {
            // One share has it for all: the settings of buckets are read by one.
            one.marks.insert(name, value);
            continue;
        };
        match (mine.parse::<u64>(), value.parse::<u64>()) {
            (Ok(a), Ok(b)) => *mine = (a + b).to_string(),
            _ if name == "window_end" => *mine = value.max(mine.clone()),
            _ => {}
        }
    }
    one
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sorted(mut borders: Vec<Border>) -> Vec<Border> {
        borders.sort();
        borders
    }

    proptest! {
        #[test]
        fn every_object_is_in_exactly_one_share(
            borders in prop::collection::vec(("[a-c]{1,2}", "[a-c\u{e9}图]{0,3}"), 0..6),
            objects in prop::collection::vec(("[a-c]{1,2}", "[a-d\u{e9}图]{1,4}"), 0..40),
        ) {
            let shares = Share::all(&sorted(borders));
            for (bucket, key) in &objects {
                let holders = shares.iter().filter(|share| share.holds(bucket, key)).count();
                prop_assert_eq!(holders, 1);
            }
        }

        #[test]
        fn the_spans_of_a_bucket_are_what_its_shares_hold(
            borders in prop::collection::vec(("[a-c]{1,2}", "[a-c\u{e9}图]{0,3}"), 0..6),
            objects in prop::collection::vec(("[a-c]{1,2}", "[a-d\u{e9}图]{1,4}"), 0..40),
        ) {
            for share in Share::all(&sorted(borders)) {
                for (bucket, key) in &objects {
                    let listed = share.span(bucket).is_some_and(|span| {
                        span.after.is_none_or(|after| after.as_str() < key.as_str())
                            && span.to.is_none_or(|to| key.as_str() <= to.as_str())
                    });
                    prop_assert_eq!(listed, share.holds(bucket, key));
                }
            }
        }

        #[test]
        fn the_entries_of_all_shares_in_turn_are_those_of_the_whole(
            borders in prop::collection::vec(("[a-c]{1,2}", "[a-c]{0,3}"), 0..6),
            objects in prop::collection::btree_set(("[a-c]{1,2}", "[a-d]{1,4}"), 0..40),
        ) {
            let shares = Share::all(&sorted(borders));
            let in_turn: Vec<_> =
                shares.iter().flat_map(|share| objects.iter().filter(|(b, k)| share.holds(b, k))).collect();
            prop_assert_eq!(in_turn, objects.iter().collect::<Vec<_>>());
        }

        #[test]
        fn shares_by_bytes_ascend_whatever_is_divided(buckets in 0_usize..5, count in 1_usize..40) {
            let buckets: Vec<String> = (0..buckets).map(|n| format!("b{n}")).collect();
            let borders = by_bytes(&buckets, count);
            prop_assert_eq!(borders.len(), count - 1);
            let ascend = buckets.is_empty() || borders.is_sorted();
            prop_assert!(ascend, "{:?}", borders);
        }

        #[test]
        fn shares_of_what_was_seen_are_about_alike(seen in 1_usize..60_000, count in 1_usize..9) {
            let mut sieve = Sieve::default();
            (0..seen).for_each(|n| sieve.add(("b".to_owned(), format!("{n:08}"))));
            prop_assert!(sieve.kept.len() <= SAMPLE_MAX + 1);
            let Some(borders) = sieve.borders(count) else {
                prop_assert!(seen < count);
                return Ok(());
            };
            let mut ends: Vec<usize> = borders.iter().map(|(_, key)| key.parse::<usize>().unwrap() + 1).collect();
            ends.push(seen);
            let mut last = 0;
            for end in ends {
                let most = seen / count + seen * 2 / SAMPLE_MAX + 4;
                prop_assert!(end - last <= most, "{} of {seen} in {count}", end - last);
                last = end;
            }
        }
    }

    #[test]
    fn numbers_of_points_add_up_and_times_span() {
        let at = |seconds| chrono::DateTime::from_timestamp(seconds, 0).unwrap();
        let point = |begin, end: &str, vanished: &str| {
            Point::at(at(begin)).mark("window_end", end).mark("vanished", vanished)
        };
        let whole = together(point(20, "2026-01-02", "1"), point(10, "2026-01-03", "4"));
        assert_eq!(whole, point(10, "2026-01-03", "5"));
        let marked = point(10, "2026-01-03", "4").mark("unknown_settings", "cors");
        for whole in [together(whole.clone(), marked.clone()), together(marked, whole)] {
            assert_eq!(whole.marks["unknown_settings"], "cors");
        }
    }
}
