//! What stands in a target's buckets, walked beside the entries of a snapshot: by a restore, and by its plan.
//!
//! *Order.* Buckets are entered before their objects, and those come in the order of keys.
//!
//! *Crash.* Nothing is changed here.

use std::collections::{BTreeMap, BTreeSet};

use tokio::sync::oneshot;

use super::{
    client::Server,
    guard::Guard,
    history::Histories,
    in_hand::{Fate, InHand},
    put::There,
    ranges::Span,
    source::exclusion,
    standing::{Extras, Standing},
    versions,
};
use crate::{
    error::Result,
    flow::{EntryMeta, Selection},
};

/// How objects that stand in the target are treated.
enum Mode {
    /// There are none.
    Empty,
    /// Those that the snapshot does not have are removed at the end.
    Mirror(Box<Standing>),
    /// They stay, except those that are written.
    Patch,
}

/// The target beside a snapshot.
pub(super) struct Present<'a> {
    server: Server,
    mode: Mode,
    only: &'a Selection,
    /// The objects, as `bucket/key`, that the snapshot knows that it has not.
    lacks: BTreeSet<String>,
    /// The buckets met so far, by the name that they have in the target.
    buckets: BTreeMap<String, Bucket>,
    /// The history in hand: what of it stands in the target, and what is being written of it.
    hand: Option<InHand>,
}

struct Bucket {
    /// Whether all that stands in it was compared with the snapshot.
    is_walked: bool,
    /// Whether the snapshot has all versions of its objects and the bucket keeps them.
    keeps: bool,
    /// What it has of them, where it is walked as a whole.
    histories: Option<Histories>,
}

impl<'a> Present<'a> {
    /// Begins. Where nothing may stand in the target (`is_empty`) it is not looked at. Objects that `spared` leaves
    /// out of backups are not missed in the snapshot, and those that it `lacks` are known not to be in it.
    pub(super) fn new(
        server: &Server,
        only: &'a Selection,
        is_empty: bool,
        spared: &[String],
        lacks: BTreeSet<String>,
    ) -> Result<Self> {
        let mode = match (is_empty, only.is_of_all()) {
            (true, _) => Mode::Empty,
            (false, true) => Mode::Mirror(Box::new(Standing::new(server, exclusion(spared)?)?)),
            (false, false) => Mode::Patch,
        };
        Ok(Self { server: server.clone(), mode, only, lacks, buckets: BTreeMap::new(), hand: None })
    }

    /// Returns whether only what is wanted is touched in a bucket that is there.
    pub(super) fn is_patch(&self) -> bool {
        matches!(self.mode, Mode::Patch)
    }

    /// Returns whether what the snapshot does not have is noted.
    pub(super) fn is_mirror(&self) -> bool {
        matches!(self.mode, Mode::Mirror(_))
    }

    /// Enters a bucket, which is called otherwise in the snapshot, maybe. One that is `new` was made just now.
    pub(super) fn enter(&mut self, bucket: &str, source: &str, keeps: bool, is_new: bool) {
        if let Mode::Mirror(standing) = &mut self.mode {
            standing.enter(bucket, source);
        }
        let is_listed = keeps && !is_new && !self.is_patch();
        let histories = is_listed.then(|| Histories::new(&self.server, bucket, Span::default()));
        self.buckets.insert(bucket.to_owned(), Bucket { is_walked: is_new, keeps, histories });
    }

    /// Returns whether a bucket was entered.
    pub(super) fn has(&self, bucket: &str) -> bool {
        self.buckets.contains_key(bucket)
    }

    /// Returns whether a bucket keeps the versions that come.
    pub(super) fn keeps(&self, bucket: &str) -> bool {
        self.buckets.get(bucket).is_some_and(|bucket| bucket.keeps)
    }

    /// Returns what stands under a key.
    pub(super) async fn at(&mut self, bucket: &str, key: &str) -> Result<There> {
        let Mode::Mirror(standing) = &mut self.mode else {
            return Ok(if matches!(self.mode, Mode::Empty) { There::Nothing } else { There::Unknown });
        };
        if let Some(bucket) = self.buckets.get_mut(bucket) {
            bucket.is_walked = true;
        }
        let there = standing.at(bucket, key).await?;
        Ok(there.map_or(There::Nothing, |there| There::Object(there.etag)))
    }

    /// Returns what becomes of a version.
    pub(super) async fn fate(&mut self, bucket: &str, meta: &EntryMeta) -> Result<Fate> {
        self.hand_of(bucket, meta).await?.fate(meta)
    }

    /// Takes a version that cannot be written: it has a place in its history, and none in the target's.
    pub(super) async fn pass(&mut self, bucket: &str, meta: &EntryMeta) -> Result<()> {
        self.hand_of(bucket, meta).await?.pass();
        Ok(())
    }

    /// Lets the next version of the key wait for this one; returns what this one waits for.
    pub(super) fn turn(&mut self, next: oneshot::Receiver<Guard>) -> Option<oneshot::Receiver<Guard>> {
        self.hand.as_mut().and_then(|hand| hand.turn.replace(next))
    }

    /// Returns the id of the version that the key in hand showed before any was written, where it is known.
    pub(super) fn shown(&self) -> Option<String> {
        self.hand.as_ref().and_then(|hand| hand.shown.clone())
    }

    /// Tells the last version of a key that it is.
    pub(super) fn key_ended(&mut self) {
        if let Some(hand) = self.hand.take() {
            hand.end();
        }
    }

    /// Returns the history in hand of a version's key.
    async fn hand_of(&mut self, bucket: &str, meta: &EntryMeta) -> Result<&mut InHand> {
        let hand = match self.hand.take() {
            Some(hand) => hand,
            None => self.begin_history(bucket, meta).await?,
        };
        Ok(self.hand.insert(hand))
    }

    /// Looks up what the target has of the key of a version.
    async fn begin_history(&mut self, bucket: &str, meta: &EntryMeta) -> Result<InHand> {
        let key = versions::key_of(meta).unwrap_or_default();
        let object = format!("{}/{key}", meta.text("bucket").unwrap_or_default());
        let is_by_name = !self.only.names(&object, Some('/'));
        let there = self.at(bucket, key).await?;
        let Some(found) = self.buckets.get_mut(bucket).filter(|found| found.keeps) else {
            return Ok(InHand::flat(there, is_by_name));
        };
        let history = match (&mut found.histories, &self.mode) {
            (Some(histories), _) => histories.at(key).await?,
            (None, Mode::Patch) => Histories::of_key(&self.server, bucket, key).await?,
            // The bucket was made just now.
            (None, _) => None,
        };
        Ok(InHand::kept(history, is_by_name, self.lacks.contains(&object)))
    }

    /// Ends the walk; returns what the snapshot does not have, where that is noted.
    pub(super) async fn take_extras(&mut self) -> Result<Option<Extras>> {
        let Mode::Mirror(mut standing) = std::mem::replace(&mut self.mode, Mode::Patch) else {
            return Ok(None);
        };
        let unwalked = self.buckets.iter().filter(|(_, bucket)| !bucket.is_walked).map(|(name, _)| name);
        for bucket in unwalked {
            standing.pass(bucket).await?;
        }
        standing.into_extras().await.map(Some)
    }
}
