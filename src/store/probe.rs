//! Whether a store keeps what we rely on, tried out on the very store that a person will use.
//!
//! A service's documents and opendal's table of capabilities say what should be. Here a few small objects under
//! [`PROBES`] show what is: some S3 servers ignore create-only writes, some listings lag behind, some clocks are
//! wrong. `doctor` shows all of it; prune asks [`refuses_prune`] first, for it deletes by what listings say.
//!
//! The objects bear a name of their own run, so two hosts can probe one store at once. They are deleted at the
//! end, as are those that a run left behind when it died; where deleting is refused, a finding says what stays.

use std::ops::Deref;

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::future::join_all;

use super::{Listed, Opened, PROBES, StoreError};
use crate::{
    clock::Ground,
    error::{ExitCode, Failure},
    finding::{Finding, Law, Status, laws, skew_seconds},
    names::Key,
};

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

/// What was found about a law of stores.
#[derive(Clone, Debug, PartialEq)]
pub struct Probed {
    /// What was found.
    pub finding: Finding,
    /// Whether prune must not run like this.
    pub stops_prune: bool,
}

impl Deref for Probed {
    type Target = Finding;
    fn deref(&self) -> &Finding {
        &self.finding
    }
}

laws! {
    page "stores";
    ANSWERS = "store.answers",
        "the store answers and takes new objects",
        "Check the address, the credentials, the space, and that the disk is mounted.";
    PUT_GET = "store.put_get",
        "what was put comes back, byte for byte",
        "Something between this host and the store changes bytes: do not use it for backups.";
    CREATE_ONLY = "store.create_only",
        "a put to a taken name is refused and changes nothing",
        "The service ignores `If-None-Match: *`: update it, or keep a copy in another store.";
    RACE = "store.race",
        "of puts to one name at the same instant exactly one wins",
        "Let one host alone write to this store, and let nothing prune it.";
    LIST_AFTER_PUT = "store.list_after_put",
        "a listing shows an object as soon as it was put",
        "A cache or a replica answers: point the policy at the service itself.";
    RANGE = "store.range",
        "a range of an object comes back exactly",
        "A proxy that ignores `Range` may stand before the service: point the policy at the service itself.";
    MISSING = "store.missing",
        "an object that is not there is told as such",
        "On S3 the credentials must also be allowed to list the bucket, or a missing object looks forbidden.";
    CLOCK = "store.clock",
        "the store's clock is within 5 minutes of this host's",
        "Set both clocks by NTP: `timedatectl` shows this host's.";
    DELETE = "store.delete",
        "objects can be deleted",
        "Right for a host that only adds snapshots. Prune must run elsewhere, with credentials that may delete.";
    LIST_AFTER_DELETE = "store.list_after_delete",
        "a listing no longer shows an object that was deleted",
        "A cache or a replica answers: point the policy at the service itself.";
}

/// What prune relies on.
const NEEDED_BY_PRUNE: [Law; 7] =
    [ANSWERS, CREATE_ONLY, RACE, LIST_AFTER_PUT, CLOCK, DELETE, LIST_AFTER_DELETE];

/// Says of a finding whether it stops prune: what it relies on must hold, and be known to.
fn probed(finding: Finding) -> Probed {
    let is_needed = NEEDED_BY_PRUNE.iter().any(|law| law.id == finding.id);
    let enough = if finding.id == CLOCK.id { Status::Warn } else { Status::Ok };
    Probed { stops_prune: is_needed && finding.status > enough, finding }
}

/// The store failed where nothing was to fail: what to do is told by that failure, not by the law.
fn unfound(law: Law, error: StoreError) -> Finding {
    law.failed(Status::Unknown, &error.failure())
}

fn told(error: StoreError) -> String {
    error.failure().one_line()
}

/// Tries a store out. When it does not even answer, that is the only finding.
pub async fn probe(store: &Opened, ground: &Ground) -> Vec<Probed> {
    let probing = Probing { store, ground, run: ground.hex(8) };
    let (object, body) = (probing.key("a"), body(&probing.run));
    let began = ground.clock.now();
    if let Err(error) = store.get.list(PROBES).await {
        return vec![probed(ANSWERS.failed(Status::Broken, &error.failure()))];
    }
    if let Err(error) = store.put.put(&object, body.clone().into()).await {
        return vec![probed(ANSWERS.failed(Status::Broken, &error.failure()))];
    }
    let ended = ground.clock.now();
    let mut findings = vec![ANSWERS.ok(store.place.clone())];
    findings.push(probing.put_get(&object, &body).await);
    findings.push(probing.create_only().await);
    findings.push(probing.race().await);
    findings.push(probing.range(&object, &body).await);
    findings.push(probing.missing().await);
    let mut findings: Vec<Probed> = findings.into_iter().map(probed).collect();
    findings.extend(probing.list_after_put(&object, &body, began, ended).await);
    findings.extend(probing.delete(&object).await.map(probed));
    findings
}

/// Returns why prune must not run, from what [`probe`] found: the first law that it depends on and that does
/// not hold, or of which that is not known.
pub fn refuses_prune(findings: &[Probed]) -> Option<Failure> {
    refusal(findings.iter())
}

fn refusal<'f>(mut findings: impl Iterator<Item = &'f Probed>) -> Option<Failure> {
    findings.find(|finding| finding.stops_prune).map(|finding| {
        let what = format!("prune cannot rely on this store: `{}` does not hold", finding.what);
        let failure = Failure::new(ExitCode::Failed, what).because(finding.detail.clone());
        finding.hint.iter().fold(failure, |failure, hint| failure.hint(hint.clone()))
    })
}

/// As [`refuses_prune`], of a store that was asked to keep what it has: that it refuses to delete is right there.
pub fn refuses_prune_of_kept(findings: &[Probed]) -> Option<Failure> {
    if !findings.iter().any(|finding| finding.id == DELETE.id && finding.status == Status::Warn) {
        return refuses_prune(findings);
    }
    let of_deletes = [DELETE.id, LIST_AFTER_DELETE.id];
    refusal(findings.iter().filter(|finding| !of_deletes.contains(&finding.id.as_str())))
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
            return unfound(CREATE_ONLY, error);
        }
        let second = self.store.put.put(&object, "second".into()).await;
        let kept = match self.store.get.get(&object, None).await {
            Ok(got) => got == "first",
            Err(error) => return unfound(CREATE_ONLY, error),
        };
        match second {
            _ if !kept => CREATE_ONLY.broken("a second put replaced the first one's bytes"),
            Ok(()) => CREATE_ONLY.broken("a second put was said to be done"),
            Err(error) if error.is_exists() => CREATE_ONLY.ok("a second put was refused"),
            Err(error) => unfound(CREATE_ONLY, error),
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
                    Err(error) => return unfound(RACE, error),
                },
                ([] | [_], Some(error)) => return unfound(RACE, error),
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
            Err(error) => return unfound(RANGE, error),
        }
        let size_bytes = body.len() as u64;
        match self.store.get.get(object, Some(size_bytes - 1..size_bytes + 1)).await {
            Err(StoreError::Short { .. }) => RANGE.ok("100 bytes; none past the end"),
            Ok(_) => RANGE.broken("a range past the end was answered"),
            Err(error) => unfound(RANGE, error),
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
    ) -> [Probed; 2] {
        let unknown =
            |listing: Finding, detail: &str| [probed(listing), probed(CLOCK.found(Status::Unknown, detail))];
        let listed = match self.store.get.list(PROBES).await {
            Ok(listed) => listed,
            Err(error) => return unknown(unfound(LIST_AFTER_PUT, error), "the listing failed"),
        };
        let Some(found) = listed.iter().find(|listed| listed.key == *object) else {
            return unknown(LIST_AFTER_PUT.broken("it is not in the listing"), "the object is not listed");
        };
        let listing = if found.size_bytes == body.len() as u64 {
            LIST_AFTER_PUT.ok(format!("{} bytes", found.size_bytes))
        } else {
            LIST_AFTER_PUT.broken(format!("it is listed with {} bytes of {}", found.size_bytes, body.len()))
        };
        // Many stores count whole seconds.
        let clock = found.modified.map_or_else(no_time, |stored| {
            probed(CLOCK.skew(skew_seconds(stored, began, ended, TimeDelta::seconds(1))))
        });
        [probed(listing), clock]
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
            Err(error) => return [unfound(DELETE, error), unknown("nothing could be deleted")],
        }
        let gone = match self.store.get.size(object).await {
            Ok(None) => DELETE.ok("the probes' objects are deleted"),
            Ok(Some(_)) => DELETE.broken("it was said to be done, but the object can still be read"),
            Err(error) => unfound(DELETE, error),
        };
        let listed = match self.store.get.list(PROBES).await {
            Ok(listed) => listed,
            Err(error) => return [gone, unfound(LIST_AFTER_DELETE, error)],
        };
        let unlisted = if listed.iter().any(|listed| listed.key == *object) {
            LIST_AFTER_DELETE.broken("it is still in the listing")
        } else {
            LIST_AFTER_DELETE.ok("one was deleted")
        };
        match self.clear(&listed).await {
            Ok(()) => [gone, unlisted],
            Err(error) => [unfound(DELETE, error), unlisted],
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
fn no_time() -> Probed {
    let finding = CLOCK.found(Status::Unknown, "listings do not tell when an object was stored");
    Probed { finding: finding.hint("Nothing: this host's own clock counts."), stops_prune: false }
}

#[cfg(test)]
mod tests;
