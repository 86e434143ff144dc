//! Whether a store keeps what we rely on, tried out on the very store that a person will use.
//!
//! A service's documents and opendal's table of capabilities say what should be. Here a few small objects under
//! [`PROBES`] show what is: some S3 servers ignore create-only writes, some listings lag behind, some clocks are
//! wrong. `doctor` shows all of it; prune asks [`refuses_prune`] first, for it deletes by what listings say.
//!
//! The objects bear a name of their own run, so two hosts can probe one store at once. They are deleted at the
//! end, as are those that a run left behind when it died; where deleting is refused, a finding says what stays.

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::future::join_all;

use super::{Listed, Opened, PROBES, StoreError};
use crate::{
    clock::Ground,
    error::{ExitCode, Failure},
    names::Key,
};

/// How far a store's clock may be from ours.
pub const DRIFT_MAX: TimeDelta = TimeDelta::minutes(5);
/// About how big the first object is.
const BODY_BYTES: usize = 64 * 1024;
/// The end of the name that is put to twice.
const TAKEN: &str = "taken";
/// How many puts race for one name.
const RACERS: u8 = 8;
/// How many names they race for.
const RACES: usize = 3;
/// After this time what a probe left behind belongs to one that died.
const LEFT_BEHIND: TimeDelta = TimeDelta::hours(1);

/// How a law was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Status {
    /// It holds.
    Ok,
    /// It does not hold, which may be what is wanted.
    Warn,
    /// It could not be found out.
    Unknown,
    /// It does not hold.
    Broken,
}

impl Status {
    /// Returns the word for screens and documents.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Unknown => "unknown",
            Self::Broken => "broken",
        }
    }
}

/// What was found about one law.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The law's name for programs.
    pub id: &'static str,
    /// What must be true.
    pub law: &'static str,
    /// Whether it is.
    pub status: Status,
    /// What was seen.
    pub detail: String,
    /// What to do.
    pub hint: Option<String>,
    /// Whether prune must not run unless it holds.
    pub needed_by_prune: bool,
}

/// Something that must be true of a store.
struct Law {
    id: &'static str,
    text: &'static str,
    needed_by_prune: bool,
    hint: &'static str,
}

const ANSWERS: Law = Law {
    id: "answers",
    text: "the store answers and takes new objects",
    needed_by_prune: true,
    hint: "Check the address, the credentials, the space, and that the disk is mounted.",
};
const PUT_GET: Law = Law {
    id: "put_get",
    text: "what was put comes back, byte for byte",
    needed_by_prune: false,
    hint: "Something between this host and the store changes bytes: do not use it for backups.",
};
const CREATE_ONLY: Law = Law {
    id: "create_only",
    text: "a put to a taken name is refused and changes nothing",
    needed_by_prune: true,
    hint: "The service ignores `If-None-Match: *`: update it, or keep a copy in another store.",
};
const RACE: Law = Law {
    id: "race",
    text: "of puts to one name at the same instant exactly one wins",
    needed_by_prune: true,
    hint: "Let one host alone write to this store, and let nothing prune it.",
};
const LIST_AFTER_PUT: Law = Law {
    id: "list_after_put",
    text: "a listing shows an object as soon as it was put",
    needed_by_prune: true,
    hint: "A cache or a replica answers: point the policy at the service itself.",
};
const RANGE: Law = Law {
    id: "range",
    text: "a range of an object comes back exactly",
    needed_by_prune: false,
    hint: "A proxy that ignores `Range` may stand before the service: point the policy at the service itself.",
};
const MISSING: Law = Law {
    id: "missing",
    text: "an object that is not there is told as such",
    needed_by_prune: false,
    hint: "On S3 the credentials must also be allowed to list the bucket, or a missing object looks forbidden.",
};
const CLOCK: Law = Law {
    id: "clock",
    text: "the store's clock is within 5 minutes of this host's",
    needed_by_prune: true,
    hint: "Set both clocks by NTP: `timedatectl` shows this host's.",
};
const DELETE: Law = Law {
    id: "delete",
    text: "objects can be deleted",
    needed_by_prune: true,
    hint: "Right for a host that only adds snapshots. Prune must run elsewhere, with credentials that may delete.",
};
const LIST_AFTER_DELETE: Law = Law {
    id: "list_after_delete",
    text: "a listing no longer shows an object that was deleted",
    needed_by_prune: true,
    hint: "A cache or a replica answers: point the policy at the service itself.",
};

impl Law {
    fn found(&self, status: Status, detail: impl Into<String>) -> Finding {
        Finding {
            id: self.id,
            law: self.text,
            status,
            detail: detail.into(),
            hint: (status != Status::Ok).then(|| self.hint.to_owned()),
            needed_by_prune: self.needed_by_prune,
        }
    }

    fn ok(&self, detail: impl Into<String>) -> Finding {
        self.found(Status::Ok, detail)
    }

    fn broken(&self, detail: impl Into<String>) -> Finding {
        self.found(Status::Broken, detail)
    }

    /// The store failed where nothing was to fail: what to do is told by that failure, not by the law.
    fn failed(&self, error: StoreError) -> Finding {
        let failure = error.failure();
        let hint = Some(failure.hints().join(" "));
        Finding { hint, ..self.found(Status::Unknown, failure.chain().join(": ")) }
    }
}

fn told(error: StoreError) -> String {
    error.failure().chain().join(": ")
}

/// Tries a store out. When it does not even answer, that is the only finding.
pub async fn probe(store: &Opened, ground: &Ground) -> Vec<Finding> {
    let probing = Probing { store, ground, run: ground.hex(8) };
    let (object, body) = (probing.key("a"), body(&probing.run));
    let began = ground.clock.now();
    if let Err(error) = store.get.list(PROBES).await {
        return vec![ANSWERS.broken(told(error))];
    }
    if let Err(error) = store.put.put(&object, body.clone().into()).await {
        return vec![ANSWERS.broken(told(error))];
    }
    let ended = ground.clock.now();
    let mut findings = vec![ANSWERS.ok(store.place.clone())];
    findings.push(probing.put_get(&object, &body).await);
    findings.push(probing.create_only().await);
    findings.push(probing.race().await);
    findings.push(probing.range(&object, &body).await);
    findings.push(probing.missing().await);
    findings.extend(probing.list_after_put(&object, &body, began, ended).await);
    findings.extend(probing.delete(&object).await);
    findings
}

/// Returns why prune must not run, from what [`probe`] found: the first law that it depends on and that does
/// not hold, or of which that is not known.
pub fn refuses_prune(findings: &[Finding]) -> Option<Failure> {
    let needed = |finding: &&Finding| finding.needed_by_prune && finding.status != Status::Ok;
    findings.iter().find(needed).map(|finding| {
        let what = format!("prune cannot rely on this store: `{}` does not hold", finding.law);
        let failure = Failure::new(ExitCode::Failed, what).because(finding.detail.clone());
        finding.hint.iter().fold(failure, |failure, hint| failure.hint(hint.clone()))
    })
}

/// As [`refuses_prune`], of a store that was asked to keep what it has: that it refuses to delete is right there.
pub fn refuses_prune_of_kept(findings: &[Finding]) -> Option<Failure> {
    let refuses = |finding: &&Finding| finding.id == DELETE.id && finding.status == Status::Warn;
    if findings.iter().find(refuses).is_none() {
        return refuses_prune(findings);
    }
    let of_deletes = [DELETE.id, LIST_AFTER_DELETE.id];
    let others = findings.iter().filter(|finding| !of_deletes.contains(&finding.id)).cloned();
    refuses_prune(&others.collect::<Vec<_>>())
}

/// Returns bytes of every value, which a store that thinks of text would change, and enough of them to find a
/// disk full that has a block left.
fn body(run: &str) -> Vec<u8> {
    (0..=255).cycle().take(BODY_BYTES).chain(run.bytes()).collect()
}

struct Probing<'a> {
    store: &'a Opened,
    ground: &'a Ground,
    run: String,
}

impl Probing<'_> {
    fn key(&self, name: &str) -> Key {
        let key = Key::new(&format!("{PROBES}{}-{name}", self.run));
        key.expect("hex digits and the names of this file make a key")
    }

    async fn put_get(&self, object: &Key, body: &[u8]) -> Finding {
        match self.store.get.get(object, None).await {
            Ok(got) if got == body => PUT_GET.ok(format!("{} bytes", body.len())),
            Ok(got) => {
                PUT_GET.broken(format!("{} bytes were put, {} others came back", body.len(), got.len()))
            }
            Err(error) => PUT_GET.broken(told(error)),
        }
    }

    /// Tries on an object of its own: where the law is broken, its bytes are others now.
    async fn create_only(&self) -> Finding {
        let object = self.key(TAKEN);
        if let Err(error) = self.store.put.put(&object, "first".into()).await {
            return CREATE_ONLY.failed(error);
        }
        let second = self.store.put.put(&object, "second".into()).await;
        let kept = match self.store.get.get(&object, None).await {
            Ok(got) => got == "first",
            Err(error) => return CREATE_ONLY.failed(error),
        };
        match second {
            _ if !kept => CREATE_ONLY.broken("a second put replaced the first one's bytes"),
            Ok(()) => CREATE_ONLY.broken("a second put was said to be done"),
            Err(error) if error.is_exists() => CREATE_ONLY.ok("a second put was refused"),
            Err(error) => CREATE_ONLY.failed(error),
        }
    }

    async fn race(&self) -> Finding {
        for round in 0..RACES {
            let object = self.key(&format!("race-{round}"));
            let puts = (0..RACERS).map(|racer| self.store.put.put(&object, vec![racer; 1000].into()));
            let (mut winners, mut failed) = (Vec::new(), None);
            for (racer, put) in (0..RACERS).zip(join_all(puts).await) {
                match put {
                    Ok(()) => winners.push(racer),
                    Err(error) if error.is_exists() => {}
                    Err(error) => failed = Some(error),
                }
            }
            match (&winners[..], failed) {
                ([winner], None) => match self.store.get.get(&object, None).await {
                    Ok(got) if got == vec![*winner; 1000] => {}
                    Ok(_) => return RACE.broken("the winner's bytes were replaced"),
                    Err(error) => return RACE.failed(error),
                },
                ([] | [_], Some(error)) => return RACE.failed(error),
                (winners, _) => {
                    return RACE.broken(format!("{} of {RACERS} were told that they won", winners.len()));
                }
            }
        }
        RACE.ok(format!("{RACES} races of {RACERS}"))
    }

    async fn range(&self, object: &Key, body: &[u8]) -> Finding {
        match self.store.get.get(object, Some(100..200)).await {
            Ok(got) if got == body[100..200] => {}
            Ok(got) => return RANGE.broken(format!("100 bytes were asked for, {} others came", got.len())),
            Err(error) => return RANGE.failed(error),
        }
        let size_bytes = body.len() as u64;
        match self.store.get.get(object, Some(size_bytes - 1..size_bytes + 1)).await {
            Err(StoreError::Short { .. }) => RANGE.ok("100 bytes; none past the end"),
            Ok(_) => RANGE.broken("a range past the end was answered"),
            Err(error) => RANGE.failed(error),
        }
    }

    async fn missing(&self) -> Finding {
        let nothing = self.key("nothing");
        match (self.store.get.get(&nothing, None).await, self.store.get.size(&nothing).await) {
            (Err(StoreError::NotFound { .. }), Ok(None)) => MISSING.ok("asked for one"),
            (Ok(_), _) | (_, Ok(Some(_))) => MISSING.broken("it was told to be there"),
            (Err(error), Ok(None)) | (_, Err(error)) => MISSING.broken(told(error)),
        }
    }

    /// Looks for the object in a listing, and by its time there at the store's clock.
    async fn list_after_put(
        &self,
        object: &Key,
        body: &[u8],
        began: DateTime<Utc>,
        ended: DateTime<Utc>,
    ) -> [Finding; 2] {
        let unknown = |detail: &str| CLOCK.found(Status::Unknown, detail);
        let listed = match self.store.get.list(PROBES).await {
            Ok(listed) => listed,
            Err(error) => return [LIST_AFTER_PUT.failed(error), unknown("the listing failed")],
        };
        let Some(found) = listed.iter().find(|listed| listed.key == *object) else {
            return [LIST_AFTER_PUT.broken("it is not in the listing"), unknown("the object is not listed")];
        };
        let listing = if found.size_bytes == body.len() as u64 {
            LIST_AFTER_PUT.ok(format!("{} bytes", found.size_bytes))
        } else {
            LIST_AFTER_PUT.broken(format!("it is listed with {} bytes of {}", found.size_bytes, body.len()))
        };
        [listing, found.modified.map_or_else(no_time, |stored| clock(stored, began, ended))]
    }

    /// Deletes what this run made, tells whether it went, and clears away what dead runs left.
    async fn delete(&self, object: &Key) -> [Finding; 2] {
        let unknown = |detail: &str| LIST_AFTER_DELETE.found(Status::Unknown, detail);
        match self.store.delete.delete(object).await {
            Ok(()) => {}
            Err(error @ StoreError::Denied { .. }) => {
                let detail = format!("{}; the probes' objects stay under `{PROBES}`", told(error));
                return [DELETE.found(Status::Warn, detail), unknown("nothing could be deleted")];
            }
            Err(error) => return [DELETE.failed(error), unknown("nothing could be deleted")],
        }
        let gone = match self.store.get.size(object).await {
            Ok(None) => DELETE.ok("the probes' objects are deleted"),
            Ok(Some(_)) => DELETE.broken("it was said to be done, but the object can still be read"),
            Err(error) => DELETE.failed(error),
        };
        let listed = match self.store.get.list(PROBES).await {
            Ok(listed) => listed,
            Err(error) => return [gone, LIST_AFTER_DELETE.failed(error)],
        };
        let unlisted = if listed.iter().any(|listed| listed.key == *object) {
            LIST_AFTER_DELETE.broken("it is still in the listing")
        } else {
            LIST_AFTER_DELETE.ok("one was deleted")
        };
        match self.clear(&listed).await {
            Ok(()) => [gone, unlisted],
            Err(error) => [DELETE.failed(error), unlisted],
        }
    }

    async fn clear(&self, listed: &[Listed]) -> Result<(), StoreError> {
        self.store.delete.delete(&self.key(TAKEN)).await?;
        for round in 0..RACES {
            self.store.delete.delete(&self.key(&format!("race-{round}"))).await?;
        }
        let before = self.ground.clock.now() - LEFT_BEHIND;
        for object in listed {
            if object.modified.is_some_and(|modified| modified < before) {
                self.store.delete.delete(&object.key).await?;
            }
        }
        Ok(())
    }
}

/// A store that tells no time has none that could be wrong: prune then goes by our own clock.
fn no_time() -> Finding {
    let detail = "listings do not tell when an object was stored";
    Finding { needed_by_prune: false, hint: None, ..CLOCK.found(Status::Unknown, detail) }
}

/// Compares the store's time of an object with the time in which we put it.
fn clock(stored: DateTime<Utc>, began: DateTime<Utc>, ended: DateTime<Utc>) -> Finding {
    // Many stores count whole seconds.
    let early = began - TimeDelta::seconds(1) - stored;
    let (drift, word) = if early > TimeDelta::zero() { (early, "behind") } else { (stored - ended, "ahead") };
    if drift <= TimeDelta::zero() {
        return CLOCK.ok("no difference was seen");
    }
    let detail = format!("it is {} s {word}", drift.num_seconds().max(1));
    if drift <= DRIFT_MAX { CLOCK.ok(detail) } else { CLOCK.broken(detail) }
}

#[cfg(test)]
mod tests;
