//! The history of one key on its way to a target: what becomes of each of its versions.
//!
//! *Order.* Versions come oldest first, and not before the next entry is it known which is the last that is wanted of a
//! key. What depends on that waits with its bytes ([`Tentative`]): in a bucket that keeps no versions only the last one
//! is written, and a version that was named has to be what the key shows in the end, also where it stands among the
//! older ones already.
//!
//! *Crash.* What waits is not written before it is told; whoever goes away without a word tells it not to be.

use tokio::sync::oneshot;

use super::{
    guard::Guard,
    history::{History, Line},
    listing::Listed,
    put::{Tentative, There},
    versions::{self, LATEST},
};
use crate::{error::Result, flow::EntryMeta};

/// The history of one key on its way.
pub(super) struct InHand {
    /// What of it stands in the target; `None` where that keeps no versions.
    line: Option<Line>,
    /// What stands under the key before the first version is written.
    there: There,
    /// The id of the version that the key shows before that.
    pub(super) shown: Option<String>,
    /// Whether versions of it were asked for by their ids, and not all that belongs to the key.
    is_by_name: bool,
    /// Whether nothing is added to it, because the newest of it is not in the snapshot and the key shows something.
    is_shut: bool,
    /// Whether that was told.
    is_told: bool,
    /// Comes when the version before is written, or is not: what must still hold then.
    pub(super) turn: Option<oneshot::Receiver<Guard>>,
    /// Who waits to hear whether it is the last.
    waiting: Option<oneshot::Sender<bool>>,
}

/// What becomes of a version.
pub(super) enum Fate {
    /// It is written, unless it is the same as what stands there.
    Write(There),
    /// So it is if it is the last that is wanted of its key.
    IfLast(There, Tentative),
    /// The bucket keeps no versions and has no place for it.
    LeftOut,
    /// It would hide what the key shows.
    Shut {
        /// Whether it is the first such of its key.
        is_first: bool,
    },
}

impl InHand {
    /// Begins one in a bucket that keeps versions, with what that has of it.
    pub(super) fn kept(history: Option<History>, is_by_name: bool, lacks_newest: bool) -> Self {
        let shown = history.as_ref().map(|history| &history.newest).filter(|newest| newest.is_current());
        let there = shown.map_or(There::Nothing, |newest| There::Object(newest.etag.clone()));
        let is_shut = lacks_newest && !is_by_name && there != There::Nothing;
        let shown = shown.and_then(Listed::version_id);
        Self {
            line: Some(Line::new(history)),
            there,
            shown,
            is_by_name,
            is_shut,
            is_told: false,
            turn: None,
            waiting: None,
        }
    }

    /// Begins one in a bucket that keeps no versions.
    pub(super) fn flat(there: There, is_by_name: bool) -> Self {
        Self {
            line: None,
            there,
            shown: None,
            is_by_name,
            is_shut: false,
            is_told: false,
            turn: None,
            waiting: None,
        }
    }

    /// Returns what becomes of the next version.
    pub(super) fn fate(&mut self, meta: &EntryMeta) -> Result<Fate> {
        self.tell(false);
        let (is_object, is_marker) = (meta.attrs.contains_key("key"), versions::is_marker(meta));
        let is_latest = is_object || meta.attrs.contains_key(LATEST);
        let Some(line) = &mut self.line else {
            return Ok(match (is_marker, is_latest) {
                (true, _) => Fate::LeftOut,
                (_, true) => Fate::Write(self.there.clone()),
                _ => self.if_last(false),
            });
        };
        Ok(match line.find(&meta.attrs, is_latest)? {
            // What the key shows is the same in all that is said of it, or is written once more.
            Some(found) if is_object => Fate::Write(There::Object(found.etag)),
            Some(_) if self.is_by_name && !is_latest && !(is_marker && self.there == There::Nothing) => {
                self.if_last(true)
            }
            Some(_) => Fate::Write(There::Same),
            None if self.is_shut => Fate::Shut { is_first: !std::mem::replace(&mut self.is_told, true) },
            None => Fate::Write(std::mem::replace(&mut self.there, There::Older)),
        })
    }

    /// Takes a version that cannot be written: it has a place in its history, and none in the target's.
    pub(super) fn pass(&mut self) {
        self.tell(false);
    }

    /// Tells the version that waits that no other follows.
    pub(super) fn end(mut self) {
        self.tell(true);
    }

    fn tell(&mut self, is_last: bool) {
        if let Some(waiting) = self.waiting.take() {
            // Whoever waits no more has failed, and says so.
            waiting.send(is_last).ok();
        }
    }

    fn if_last(&mut self, is_there: bool) -> Fate {
        let (waiting, is_last) = oneshot::channel();
        self.waiting = Some(waiting);
        let tentative = Tentative { is_last, is_there, may_replace: self.is_by_name };
        Fate::IfLast(self.there.clone(), tentative)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::s3::history::laws::{contents, history, version};

    /// What a key has after these versions were written over others: oldest first, a delete marker being empty.
    struct Written {
        after: Vec<String>,
        left_out: usize,
        shut: usize,
    }

    fn restore(wanted: &[(String, bool)], mut hand: InHand, there: &[String], is_flat: bool) -> Written {
        let mut done = Written { after: there.to_vec(), left_out: 0, shut: 0 };
        let mut waiting: Option<(String, Tentative)> = None;
        let decide = |waiting: &mut Option<(String, Tentative)>, done: &mut Written| {
            let Some((etag, mut tentative)) = waiting.take() else { return };
            let is_last = tentative.is_last.try_recv().unwrap();
            if is_last && (tentative.may_replace || done.after.last().is_none_or(String::is_empty)) {
                put(&mut done.after, &etag, is_flat);
            }
        };
        for (etag, is_latest) in wanted {
            let fate = hand.fate(&version(etag, *is_latest)).unwrap();
            decide(&mut waiting, &mut done);
            match fate {
                Fate::Write(There::Same) => {}
                Fate::Write(There::Object(shown)) if *is_latest && shown == *etag => {}
                Fate::Write(_) => put(&mut done.after, etag, is_flat),
                Fate::IfLast(There::Object(shown), _) if shown == *etag => {}
                Fate::IfLast(_, tentative) => waiting = Some((etag.clone(), tentative)),
                Fate::LeftOut => done.left_out += 1,
                Fate::Shut { .. } => done.shut += 1,
            }
        }
        hand.end();
        decide(&mut waiting, &mut done);
        done
    }

    fn put(after: &mut Vec<String>, etag: &str, is_flat: bool) {
        if is_flat {
            after.clear();
        }
        after.push(etag.to_owned());
    }

    proptest! {
        #[test]
        fn the_last_version_that_was_named_is_what_the_key_shows_and_again_nothing_is_written(
            named in contents(),
            there in contents(),
        ) {
            let named: Vec<(String, bool)> = named.into_iter().map(|etag| (etag, false)).collect();
            let kept = |there: &[String]| InHand::kept(history(there, 2), true, false);
            let done = restore(&named, kept(&there), &there, false);
            prop_assert_eq!(&done.after[..there.len()], &there[..]);
            if let Some((last, _)) = named.last() {
                prop_assert_eq!(done.after.last(), Some(last));
            }
            let again = restore(&named, kept(&done.after), &done.after, false);
            prop_assert_eq!(again.after, done.after);
        }

        #[test]
        fn a_key_whose_newest_version_did_not_come_shows_what_it_showed(
            snapshot in contents(),
            there in contents(),
        ) {
            let older: Vec<(String, bool)> = snapshot.into_iter().map(|etag| (etag, false)).collect();
            let done = restore(&older, InHand::kept(history(&there, 2), false, true), &there, false);
            match there.last() {
                Some(shown) if !shown.is_empty() => prop_assert_eq!(done.after, there),
                _ => prop_assert_eq!(done.shut, 0),
            }
        }

        #[test]
        fn a_bucket_without_versions_gets_the_last_version_alone_and_none_that_a_marker_followed(
            snapshot in contents(),
            is_whole in any::<bool>(),
        ) {
            let count = snapshot.len();
            let wanted: Vec<(String, bool)> =
                snapshot.iter().cloned().enumerate().map(|(n, etag)| (etag, is_whole && n + 1 == count)).collect();
            let there = vec!["other".to_owned()];
            let hand = InHand::flat(There::Object("other".to_owned()), !is_whole);
            let done = restore(&wanted, hand, &there, true);
            match snapshot.last() {
                Some(last) if !last.is_empty() => prop_assert_eq!(done.after, [last.clone()]),
                _ => prop_assert_eq!(done.after, there),
            }
        }
    }
}
