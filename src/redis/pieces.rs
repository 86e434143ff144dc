//! A restore key by key, with `RESTORE`: for some keys of a dump, into one database, into clusters, and for servers
//! that may not replicate.
//!
//! *Order.* [`probe`] proves that all of it can be done and changes nothing; [`check_absent`] looks for the wanted
//! keys; [`empty`] empties; [`store`] stores; [`read_back`] compares. Expired keys are left out. Without permission to
//! replace nothing is ever overwritten: a key that comes into being between the look and its turn stays, and is named.
//!
//! *Crash.* Each key is whole or not there; a restore that broke off is repeated with permission to replace.
//!
//! *Limits.* [`CONNECTIONS`] to a server, one to each primary of a cluster.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use futures_util::future::try_join_all;

use super::{
    archive::Archive,
    cluster_write::{self, Away, ROUNDS_MAX},
    control::Control,
    lane::{Act, Heard, Lane, Share, Task},
    preflight::Target as State,
    recheck,
    rights::{self, Deed, Emptying, Proof},
    server::Server,
    wanted::{NAMED_MAX, Needs, Reach, Wanted, shown_key},
};
use crate::{
    clock::Ground,
    error::{ExitCode, Failure, Result},
    flow::{Problem, Verified},
};

/// Connections to a server that is no cluster.
const CONNECTIONS: u64 = 2;
/// Keys that are removed at a time where a server cannot be flushed.
const PAGE_KEYS: &str = "500";

/// What is to be restored, and how.
pub(super) struct Job<'a> {
    /// The server, or any node of a cluster.
    pub(super) server: &'a Arc<Server>,
    /// What it is and holds.
    pub(super) before: &'a State,
    /// The dump.
    pub(super) archive: &'a Archive,
    /// Which keys of it.
    pub(super) wanted: Wanted,
    /// Whether keys that exist may be overwritten.
    pub(super) replace: bool,
    /// Whether the server, or the one database, is emptied first.
    pub(super) empties: bool,
    /// Whether anything may have been changed on the server.
    pub(super) is_touched: AtomicBool,
    /// Time and chance.
    pub(super) ground: &'a Ground,
}

impl Job<'_> {
    /// Returns whether functions that are there go first. Where they cannot be listed, they go if others come.
    fn empties_functions(&self, needs: &Needs) -> bool {
        let are_there = self.before.functions.map_or(needs.functions > 0, |count| count > 0);
        self.empties && self.wanted.has_functions() && are_there
    }
}

/// What [`probe`] has proven: the only way to the steps that change something.
pub(super) struct Proven {
    /// Each server once.
    servers: Vec<(Lane, Proof)>,
    /// What is least of what they take.
    reach: Reach,
    stamp: u16,
    /// What the wanted keys need.
    pub(super) needs: Needs,
}

impl Proven {
    /// Returns whether the keys can be read back without a trace.
    pub(super) fn reads_back(&self) -> bool {
        self.servers.iter().all(|(_, proof)| proof.reads_back)
    }

    /// Returns the connections over which keys go.
    fn lanes(&self) -> Vec<Lane> {
        match &self.servers[..] {
            [(Lane { server, share: Share::Part { .. } }, _)] => {
                let part = |nth| Share::Part { nth, of: CONNECTIONS };
                (0..CONNECTIONS).map(|nth| Lane { server: Arc::clone(server), share: part(nth) }).collect()
            }
            servers => servers.iter().map(|(lane, _)| lane.clone()).collect(),
        }
    }

    fn task(&self, job: &Job<'_>, act: Act) -> Task {
        Task { wanted: job.wanted.clone(), reach: self.reach, stamp: self.stamp, act }
    }
}

/// What [`store`] did.
#[derive(Debug, Default)]
pub(super) struct Stored {
    /// Keys that were stored.
    pub(super) keys: u64,
    /// Keys that somebody else had stored meanwhile, and that stayed; by their old database and key.
    pub(super) busy: Arc<HashSet<(u64, Vec<u8>)>>,
}

impl Stored {
    /// Returns what was not restored, for a person.
    pub(super) fn left_out(&self) -> Option<Problem> {
        let mut busy: Vec<_> = self.busy.iter().collect();
        busy.sort();
        let names: Vec<String> = busy.iter().take(NAMED_MAX).map(|(_, key)| shown_key(key)).collect();
        let why = "came into being on the server during the restore, and nothing was overwritten";
        (!busy.is_empty())
            .then(|| Problem { what: listed("keys", busy.len() as u64, &names), why: why.to_owned() })
    }
}

/// Writes ``keys `a`, `b` and 3 more``.
fn listed(what: &str, count: u64, names: &[String]) -> String {
    let more = count - names.len() as u64;
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{what} {}{more}", names.join(", ")).trim_start().to_owned()
}

/// Proves, before anything is changed, that the server takes each wanted key and allows each step. Everything that is
/// missing stands in one failure.
pub(super) async fn probe(job: &Job<'_>) -> Result<Proven> {
    job.before.check_role(&job.server.shown())?;
    let needs = Needs::of(job.archive, &job.wanted, None).await?;
    check_one_db(job, &needs)?;
    job.before.check_modules(&job.server.shown(), job.archive, &needs.modules)?;
    let lanes = if job.before.is_clustered() {
        cluster_write::lanes(job.server).await?
    } else {
        vec![Lane { server: Arc::clone(job.server), share: Share::Part { nth: 0, of: 1 } }]
    };
    let deed = Deed {
        wanted: &job.wanted,
        empties: job.empties,
        empties_functions: job.empties_functions(&needs),
        looks: !job.replace && !job.wanted.only.is_all(),
    };
    let mut servers = Vec::new();
    for lane in lanes {
        let proof = rights::prove(&lane, job.archive, deed, &needs).await?;
        check_room(&lane.server, job.empties, needs.size_bytes / lane_count(job)).await?;
        servers.push((lane, proof));
    }
    let least = |of: fn(&Proof) -> u64| servers.iter().map(|(_, proof)| of(proof)).min().unwrap_or_default();
    let newest = u16::try_from(least(|proof| proof.reach.newest.into())).unwrap_or_default();
    let reach = Reach { newest, word_bytes_max: least(|proof| proof.reach.word_bytes_max) };
    let needs = Needs::of(job.archive, &job.wanted, Some(reach)).await?;
    if let [first, ..] = &needs.refused[..] {
        let what = format!("{} cannot take all of these keys", job.server.shown());
        return Err(Failure::new(ExitCode::Failed, what).because(first.clone()).hint(
            "Nothing was changed. Leave such keys out with --only, or restore into the version that the dump is of.",
        ));
    }
    if needs.in_commands > 0 {
        for (lane, _) in &servers {
            rights::prove_commands(lane, &needs).await?;
        }
    }
    Ok(Proven { servers, reach, stamp: reach.stamp(job.archive.survey.rdb_version), needs })
}

/// Returns among how many servers the keys are divided, at least; a cluster has them by slot, so roughly.
fn lane_count(job: &Job<'_>) -> u64 {
    if job.before.is_clustered() { 16 } else { 1 }
}

/// Keys of several databases would lie on one another.
fn check_one_db(job: &Job<'_>, needs: &Needs) -> Result<()> {
    let Some(into) = job.wanted.into_db.filter(|_| needs.from_dbs.len() > 1) else { return Ok(()) };
    let dbs: Vec<String> = needs.from_dbs.iter().map(u64::to_string).collect();
    let what = format!("keys of databases {} do not go into database {into} together", dbs.join(", "));
    Err(Failure::new(ExitCode::Usage, what)
        .hint("Nothing was changed. Pick keys of one database with --only, or restore without a database."))
}

/// Refuses what surely does not fit: the values alone, without what a server adds to each.
async fn check_room(server: &Server, empties: bool, size_bytes: u64) -> Result<()> {
    let server = Arc::new(server.clone());
    let memory = Control::open(&server).await?.info("memory").await?;
    let number = |name: &str| memory.get(name).and_then(|text| text.parse::<u64>().ok()).unwrap_or_default();
    let limit = number("maxmemory");
    let used = if empties { 0 } else { number("used_memory") };
    if limit == 0 || used.saturating_add(size_bytes) <= limit {
        return Ok(());
    }
    let what = format!("{} has too little memory for these keys", server.shown());
    Err(Failure::new(ExitCode::Failed, what)
        .because(format!("they have {size_bytes} bytes, {used} are in use, and maxmemory is {limit}"))
        .hint("Nothing was changed. Raise maxmemory, or pick fewer keys with --only."))
}

/// Refuses when one of the wanted keys exists on the server.
pub(super) async fn check_absent(job: &Job<'_>, proven: &Proven) -> Result<()> {
    let heard = walk(job, proven, Act::Look).await?;
    if heard.there == 0 {
        return Ok(());
    }
    let what = format!("{} has some of these keys already", job.server.shown());
    Err(Failure::new(ExitCode::TargetNotEmpty, what)
        .because(listed("", heard.there, &heard.named))
        .hint("Nothing was changed. Say --replace to overwrite these keys; others stay."))
}

/// Empties the server, each primary of a cluster, or the one database.
pub(super) async fn empty(job: &Job<'_>, proven: &Proven) -> Result<()> {
    for (lane, proof) in &proven.servers {
        let mut control = Control::open(&lane.server).await?;
        job.is_touched.store(true, Ordering::Relaxed);
        match (proof.emptying, job.wanted.into_db) {
            (Emptying::Never, _) => return Ok(()),
            (Emptying::Flush, None) => drop(control.ask::<String>(&["FLUSHALL"]).await?),
            (Emptying::Flush, Some(db)) => {
                let _: String = control.ask(&["SELECT", &db.to_string()]).await?;
                let _: String = control.ask(&["FLUSHDB"]).await?;
            }
            (Emptying::Walk, db) => {
                for held in control.keys_by_db().await?.into_keys() {
                    if db.is_none_or(|db| db == held) {
                        unlink_all(&mut control, held).await?;
                    }
                }
            }
        }
        if job.empties_functions(&proven.needs) {
            let none = rights::no_functions(proven.stamp);
            let flushed = control.attempt(&[b"FUNCTION", b"RESTORE", &none, b"FLUSH"]).await?;
            flushed.map_err(|text| lane.server.refused("FUNCTION RESTORE", &text))?;
        }
    }
    Ok(())
}

async fn unlink_all(control: &mut Control, db: u64) -> Result<()> {
    if db > 0 {
        let _: String = control.ask(&["SELECT", &db.to_string()]).await?;
    }
    let mut cursor = "0".to_owned();
    loop {
        let (next, keys): (String, Vec<Vec<u8>>) =
            control.ask(&["SCAN", &cursor, "COUNT", PAGE_KEYS]).await?;
        if !keys.is_empty() {
            let mut unlink = ::redis::pipe();
            unlink.cmd("UNLINK").arg(&keys);
            let _: (u64,) = control.ask_all("UNLINK", &unlink).await?;
        }
        if next == "0" {
            return Ok(());
        }
        cursor = next;
    }
}

/// Stores the wanted keys, and the functions when everything is wanted.
pub(super) async fn store(job: &Job<'_>, proven: &Proven) -> Result<Stored> {
    let act = if job.replace { Act::Replace } else { Act::Put };
    let heard = walk(job, proven, act).await?;
    let (all, here) = (proven.needs.count(), heard.stored + heard.busy.len() as u64);
    if here != all {
        let what = format!("{} keys of {all} were not stored in {}", all.abs_diff(here), job.server.shown());
        return Err(Failure::new(ExitCode::Partial, what));
    }
    Ok(Stored { keys: heard.stored, busy: Arc::new(heard.busy) })
}

/// Compares what the server holds of the wanted keys with the dump. Keys that were busy are left out.
pub(super) async fn read_back(job: &Job<'_>, proven: &Proven, stored: &Stored) -> Result<Verified> {
    let mut lanes = proven.lanes();
    let (mut other, mut named) = (0, Vec::new());
    for _ in 0..ROUNDS_MAX {
        let compare = |lane: Lane| async move {
            let but = (Arc::clone(&stored.busy), job.ground);
            let way = (proven.reach.newest, proven.needs.has_use);
            recheck::compare(&lane, job.archive, &job.wanted, way, but).await
        };
        let mut away: Away = Vec::new();
        for found in try_join_all(lanes.into_iter().map(compare)).await? {
            other += found.other;
            named.extend(found.named);
            away.extend(found.away);
        }
        lanes = cluster_write::further(job.server, away);
        if lanes.is_empty() {
            break;
        }
    }
    if !lanes.is_empty() {
        return Err(cluster_write::never_there(job.server, lanes.len()));
    }
    if other == 0 {
        return Ok(Verified::Digests);
    }
    named.truncate(NAMED_MAX);
    let what = format!("{other} keys of {} are not what the snapshot holds", job.server.shown());
    Err(Failure::new(ExitCode::Partial, what).because(named.join(", ")).hint(
        "If clients write to the server meanwhile, it may be their doing: stop them, and restore again.",
    ))
}

/// What all lanes have heard.
#[derive(Default)]
struct All {
    stored: u64,
    there: u64,
    named: Vec<String>,
    busy: HashSet<(u64, Vec<u8>)>,
}

fn locked(all: &Mutex<All>) -> MutexGuard<'_, All> {
    all.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Does the same with each wanted key, on all lanes at the same time, and follows those that a cluster sends elsewhere.
async fn walk(job: &Job<'_>, proven: &Proven, act: Act) -> Result<All> {
    let (all, task) = (Mutex::new(All::default()), proven.task(job, act));
    let (all, task) = (&all, &task);
    let mut lanes = proven.lanes();
    for _ in 0..ROUNDS_MAX {
        let run = |lane: Lane| async move {
            let heard = |found: &super::rdb::Found, heard| {
                let mut all = locked(all);
                match heard {
                    Heard::NotThere => {}
                    Heard::There => {
                        all.there += 1;
                        if all.named.len() < NAMED_MAX {
                            all.named.push(shown_key(&found.key));
                        }
                    }
                    Heard::Stored => all.stored += 1,
                    Heard::Busy => drop(all.busy.insert((found.db, found.key.clone()))),
                }
            };
            lane.run(job.archive, task, heard).await
        };
        let away = try_join_all(lanes.into_iter().map(run)).await.map_err(|failure| broken(failure, all))?;
        let away = away.into_iter().flatten();
        let away: Away = away.map(|(found, place)| ((found.db, found.key.clone()), place)).collect();
        lanes = cluster_write::further(job.server, away);
        if lanes.is_empty() {
            return Ok(std::mem::take(&mut *locked(all)));
        }
    }
    Err(broken(cluster_write::never_there(job.server, lanes.len()), all))
}

/// Says how far a restore had come.
fn broken(failure: Failure, all: &Mutex<All>) -> Failure {
    match locked(all).stored {
        0 => failure,
        stored => {
            failure.hint(format!("{stored} keys were restored before that: restore again with --replace."))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_stayed_are_named_in_order_and_counted() {
        let busy = |count: u64| Stored {
            keys: 1,
            busy: Arc::new((0..count).map(|nth| (0, format!("k{nth}").into_bytes())).collect()),
        };
        assert_eq!(busy(0).left_out(), None);
        assert_eq!(busy(2).left_out().unwrap().what, "keys `k0`, `k1`");
        assert_eq!(busy(7).left_out().unwrap().what, "keys `k0`, `k1`, `k2`, `k3`, `k4` and 2 more");
    }
}
