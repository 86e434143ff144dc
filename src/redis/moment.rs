//! The instant that a dump stands at, which may be long before it was asked for.
//!
//! A server that is saving to its disk for another replica gives us the same save (redis `src/replication.c`,
//! `syncCommand`, case 1): what comes is as old as that save's fork, and no line of the protocol says so. Two things
//! tell: the offset of the grant, when it lies before the one that the server named just before it was asked, and the
//! field `ctime` of the dump, the second in which the forked child began to write.
//!
//! *Law.* What was written before the instant is in the dump. So each step here errs to the earlier side.

use std::{collections::BTreeMap, io::Read, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::{Instant, sleep};

use super::{
    psync::{self, Granted},
    rdb::{Item, Survey, Tape, Walker},
    server::Server,
    spool::Spool,
    wire::Wire,
};
use crate::{
    clock::Ground,
    error::{Context, ExitCode, Result},
};

/// How often a dump is asked for, if the server gives us one that it had begun before.
pub(super) const ASKS_MAX: u32 = 3;
/// How often a server that saves for another replica is asked whether it is done.
const LOOK_MILLISECONDS: u64 = 500;
/// How long after the fork the child may begin to write; it stamps the dump only then.
const CHILD_DELAY: TimeDelta = TimeDelta::seconds(1);
/// How old a dump may be without being taken for another's. The server tells whole seconds only.
const AGE_MAX: TimeDelta = TimeDelta::seconds(2);

/// What a server said of itself just before it was asked for a dump.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Before {
    /// This host's clock before the first question.
    asked: DateTime<Utc>,
    /// The server's clock thereafter, where `TIME` is allowed.
    theirs: Option<DateTime<Utc>>,
    /// The fields of `INFO`, none where it is not allowed.
    info: BTreeMap<String, String>,
}

/// The instant of a dump.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Moment {
    /// Not after it, by this host's clock.
    pub(super) at: DateTime<Utc>,
    /// How long before the question the dump was taken, where it is not of after the question.
    pub(super) age: Option<TimeDelta>,
}

impl Moment {
    /// Returns whether another dump may be younger. One that is as old as the `last` was not begun before the question:
    /// the clock that dated both is not ours.
    pub(super) fn may_be_bettered(&self, last: Option<TimeDelta>) -> bool {
        self.age.is_some_and(|age| last.is_none_or(|last| last - age > AGE_MAX))
    }
}

impl Before {
    /// Asks the server.
    async fn ask(server: &Server, wire: &mut Wire, ground: &Ground) -> Result<Self> {
        let asked = ground.clock.now();
        let time = server.heard(wire.texts(&[b"TIME"])).await?;
        let info = server.heard(wire.texts(&[b"INFO"])).await?;
        let fields =
            info.iter().flatten().flat_map(|text| text.lines()).filter_map(|line| line.split_once(':'));
        let info = fields.map(|(name, value)| (name.to_owned(), value.trim_end().to_owned())).collect();
        Ok(Self { asked, theirs: time.ok().as_deref().and_then(instant), info })
    }

    /// Asks the server, and again while it saves for another replica, but not beyond `until`: that save would be given
    /// to us too. `waits` is called before each wait.
    pub(super) async fn in_turn(
        server: &Server,
        wire: &mut Wire,
        ground: &Ground,
        until: Instant,
        mut waits: impl FnMut(),
    ) -> Result<Self> {
        loop {
            let before = Self::ask(server, wire, ground).await?;
            if !before.would_share() || Instant::now() >= until {
                return Ok(before);
            }
            waits();
            sleep(Duration::from_millis(LOOK_MILLISECONDS)).await;
        }
    }

    /// Asks for a dump now, proves it while it comes to the spool, and finds out which instant it stands at. With
    /// `digesting` its digests are taken too, at a pace of their own: the server waits for the disk only.
    pub(super) async fn pull(
        &self,
        server: &Server,
        mut wire: Wire,
        spool: &Spool,
        digesting: bool,
        ground: &Ground,
    ) -> Result<(Granted, Survey, Moment)> {
        let granted = psync::ask(server, &mut wire, ground).await?;
        let now_ms = granted.at.timestamp_millis();
        let (writer, follower) = spool.followed()?;
        let digests =
            digesting.then(|| tokio::task::spawn_blocking(move || Survey::of_all(follower, now_ms, true)));
        let mut survey = psync::receive(server, wire, granted.frame, writer, now_ms).await?;
        if let Some(digests) = digests {
            let unread = || format!("the dump of {} cannot be read from the spool", server.shown());
            let seen = digests.await.failed(ExitCode::Failed, unread)?.failed(ExitCode::Failed, unread)?;
            (survey.digest, survey.digest_exact) = (seen.digest, seen.digest_exact);
        }
        let moment = self.moment(&granted, begun_at(spool.reader(0)));
        Ok((granted, survey, moment))
    }

    /// Returns whether the server knows only its own clock, or ours as well.
    pub(super) fn knows_both_clocks(&self) -> bool {
        self.theirs.is_some()
    }

    /// Returns how much memory the data takes, where that is known.
    pub(super) fn dataset_bytes(&self) -> Option<u64> {
        self.info.get("used_memory_dataset")?.parse().ok()
    }

    /// Returns whether a save is under way that we would be given too.
    fn would_share(&self) -> bool {
        let waits = |name: &str, value: &str| {
            name.starts_with("slave") && value.split(',').any(|field| field == "state=wait_bgsave")
        };
        self.info.get("rdb_bgsave_in_progress").is_some_and(|text| text == "1")
            && self.info.iter().any(|(name, value)| waits(name, value))
    }

    /// Returns the instant of a dump that was granted, given what it says of its own beginning.
    fn moment(&self, granted: &Granted, began: Option<DateTime<Utc>>) -> Moment {
        let began = began.map(|began| self.earliest(began));
        let fork = began.map(|began| began - CHILD_DELAY);
        let holds_all = self.holds_all(granted);
        let (at, age) = match fork {
            Some(fork) if holds_all == Some(true) => (fork.max(self.asked), None),
            Some(fork) => (fork, began.map(|began| self.asked - began).filter(|age| *age > AGE_MAX)),
            None if holds_all == Some(false) => (self.asked, Some(TimeDelta::MAX)),
            None => (self.asked, None),
        };
        Moment { at: at.min(granted.at), age }
    }

    /// Returns whether the dump holds all that was written before the server was asked how far it is, where that can
    /// be told: histories with other ids cannot be compared.
    pub(super) fn holds_all(&self, granted: &Granted) -> Option<bool> {
        let offset: u64 = self.info.get("master_repl_offset")?.parse().ok()?;
        let is_same = self.info.get("master_replid").is_some_and(|replid| *replid == granted.replid);
        is_same.then_some(granted.offset >= offset)
    }

    /// Returns the earliest that one of the server's instants can be on our clock. Without the right to `TIME` their
    /// clock is taken for ours.
    fn earliest(&self, theirs: DateTime<Utc>) -> DateTime<Utc> {
        self.theirs.map_or(theirs, |then| self.asked + (theirs - then))
    }
}

/// Reads the answer to `TIME`: seconds and microseconds.
fn instant(answer: &[String]) -> Option<DateTime<Utc>> {
    let [seconds, micros] = answer else { return None };
    let at = DateTime::from_timestamp(seconds.parse().ok()?, 0)?;
    at.checked_add_signed(TimeDelta::microseconds(micros.parse().ok()?))
}

/// Reads when the dump was begun, by the server's clock, out of its first bytes.
pub(super) fn begun_at(dump: impl Read) -> Option<DateTime<Utc>> {
    let mut walker = Walker::begin(Tape::new(dump, None), false).ok()?;
    while let Ok(Item::Aux(name, value)) = walker.next() {
        if name == b"ctime" {
            return DateTime::from_timestamp(str::from_utf8(&value).ok()?.parse().ok()?, 0);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redis::{psync::Frame, rdb::sample::Sample};

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_000_000 + seconds, 0).unwrap()
    }

    /// Asked at second 100 by our clock.
    fn before(theirs: Option<i64>, info: &[(&str, &str)]) -> Before {
        let info = info.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Before { asked: at(100), theirs: theirs.map(at), info }
    }

    /// Granted at second 107 by our clock.
    fn granted(offset: u64) -> Granted {
        Granted { replid: "r".into(), offset, at: at(107), is_their_clock: false, frame: Frame::Length(0) }
    }

    fn told(before: &Before, offset: u64, began: Option<i64>) -> (i64, Option<i64>) {
        let moment = before.moment(&granted(offset), began.map(at));
        ((moment.at - at(0)).num_seconds(), moment.age.map(|age| age.num_seconds()))
    }

    const HISTORY: [(&str, &str); 2] = [("master_replid", "r"), ("master_repl_offset", "50")];

    #[test]
    fn a_dump_of_before_the_question_is_dated_by_its_own_beginning() {
        let equal = before(Some(100), &HISTORY);
        assert_eq!(told(&equal, 49, Some(80)), (79, Some(20)));
        assert_eq!(told(&equal, 50, Some(106)), (105, None), "diskless: the fork came after a delay");
        assert_eq!(told(&equal, 50, Some(107)), (106, None), "never after the grant");
        assert_eq!(told(&equal, 50, Some(100)), (100, None), "all of before the question is in it");
        assert_eq!(told(&equal, 49, Some(99)), (98, None), "a second is no age, and no reason to lie");
    }

    #[test]
    fn what_holds_all_is_not_old_even_when_the_clocks_say_so() {
        assert_eq!(
            told(&before(Some(100), &HISTORY), 50, Some(80)),
            (100, None),
            "nothing was written since"
        );
    }

    #[test]
    fn the_servers_clock_is_turned_into_ours() {
        // 1000 s ahead.
        let ahead = before(Some(1100), &HISTORY[..1]);
        assert_eq!(told(&ahead, 0, Some(1080)), (79, Some(20)));
        assert_eq!(told(&ahead, 0, Some(1105)), (104, None));
        // Without +time it cannot be: the dump counts as old, and asking again shows that it is not.
        assert_eq!(told(&before(None, &[]), 0, Some(80)), (79, Some(20)));
        assert_eq!(told(&before(None, &[]), 0, Some(1105)), (107, None), "never after the grant");
    }

    #[test]
    fn a_dump_without_a_date_is_old_only_when_its_offset_says_so() {
        let equal = before(Some(100), &HISTORY);
        assert_eq!(told(&equal, 50, None), (100, None));
        let old = equal.moment(&granted(49), None);
        assert_eq!(old.age, Some(TimeDelta::MAX));
        let other = before(Some(100), &[("master_replid", "other"), ("master_repl_offset", "50")]);
        assert_eq!(told(&other, 49, None), (100, None), "offsets of two histories say nothing");
    }

    #[test]
    fn a_dump_is_asked_for_again_only_while_that_helps() {
        let old = |seconds| Moment { at: at(0), age: Some(TimeDelta::seconds(seconds)) };
        assert!(!Moment { at: at(0), age: None }.may_be_bettered(None));
        assert!(old(300).may_be_bettered(None));
        assert!(!old(299).may_be_bettered(old(300).age), "their clock is 5 minutes behind");
        assert!(old(200).may_be_bettered(old(300).age));
        let undated = Moment { at: at(0), age: Some(TimeDelta::MAX) };
        assert!(undated.may_be_bettered(None) && !undated.may_be_bettered(undated.age));
        assert!(old(3).may_be_bettered(undated.age) && !undated.may_be_bettered(old(3).age));
    }

    #[test]
    fn a_save_for_another_replica_would_be_ours_too() {
        let saving = ("rdb_bgsave_in_progress", "1");
        let waits = ("slave0", "ip=1.2.3.4,port=0,state=wait_bgsave,offset=0,lag=0");
        let follows = ("slave0", "ip=1.2.3.4,port=0,state=online,offset=0,lag=0");
        assert!(before(None, &[saving, waits]).would_share());
        assert!(!before(None, &[saving, follows]).would_share(), "the save of a user is not shared");
        assert!(!before(None, &[("rdb_bgsave_in_progress", "0"), waits]).would_share());
        assert!(!before(None, &[]).would_share());
    }

    #[test]
    fn the_beginning_stands_in_the_first_fields() {
        let head = Sample::begin("REDIS0012").raw(&[250]).text("redis-ver").text("8.0.6");
        let dated = Sample::begin("REDIS0012").raw(&[250]).text("redis-ver").text("8.0.6");
        let dated = dated.raw(&[250]).text("ctime").raw(&[0xc2, 0xe7, 0x87, 0x04, 0x6b]).end();
        assert_eq!(begun_at(&dated[..]).unwrap().timestamp(), 1_795_459_047);
        assert_eq!(begun_at(&head.string("ctime", "7").end()[..]), None, "a key of that name is no date");
        assert_eq!(begun_at(&b"REDIS"[..]), None);
    }

    #[test]
    fn the_time_is_two_numbers() {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        assert_eq!(instant(&texts(&["7", "500000"])).unwrap().timestamp_millis(), 7500);
        assert_eq!(instant(&texts(&["7"])), None);
        assert_eq!(instant(&texts(&["x", "0"])), None);
    }
}
