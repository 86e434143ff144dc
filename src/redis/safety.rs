//! What a server held before it is emptied: a dump that is kept until the restore has succeeded, and for a while after.
//!
//! *Order.* The dump is pulled and proven as for a backup, of a cluster from every primary, one after the other. A
//! sealed copy is on disk under its name before anything of the server is touched; the plain one stays open in the
//! spool, so that putting it back needs no key. Then copies that are too many or too old go ([`super::copies`]).
//!
//! *Crash.* A copy that was not finished has another ending, and goes with the next one.

use std::{
    fs, io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use chrono::{DateTime, Utc};
use tokio::time::Instant;

use super::{
    archive::{self, Archive},
    cluster_read::Standing,
    copies::{self, Of},
    describe::ServerFacts,
    home::{Home, make_folder, sync_names},
    merge::Part,
    moment::{ASKS_MAX, Before},
    pledge,
    rdb::Survey,
    sealed::{self, Facts},
    server::Server,
    spool::Spool,
};
use crate::{
    clock::Ground,
    crypt::Recipients,
    error::{Context, ExitCode, Failure, Result},
    names::SourceName,
    policy::RedisConfig,
};

/// How often all shards of a cluster are pulled, when its slots move meanwhile.
const CLUSTER_PULLS_MAX: usize = 2;

/// Whose copies they are, and where they are kept.
pub(super) struct Keeper<'a> {
    /// The source's name.
    pub(super) name: &'a SourceName,
    /// How it is reached.
    pub(super) config: &'a RedisConfig,
    /// Where the restore goes, as `--into` says it; `None` for the source's own server.
    pub(super) into: Option<&'a str>,
    /// Where this host keeps what outlives a restore.
    pub(super) home: Option<&'a Home>,
    /// What the server says of itself, where it is known.
    pub(super) facts: Option<&'a ServerFacts>,
    /// A copy that stays although it is old.
    pub(super) spared: Option<&'a Path>,
    /// Time and chance.
    pub(super) ground: &'a Ground,
}

/// What a server held.
pub(super) struct Safety {
    /// Its dump.
    pub(super) archive: Archive,
    /// The sealed copy, where this host has a place for one.
    pub(super) file: Option<PathBuf>,
}

impl Safety {
    /// Pulls what the server, or all of its cluster, holds and keeps it.
    pub(super) async fn take(server: &Arc<Server>, is_clustered: bool, keeper: &Keeper<'_>) -> Result<Self> {
        let Keeper { name, config, into, home, facts, spared, ground } = *keeper;
        let pulled = if is_clustered {
            pull_cluster((name, config), ground).await
        } else {
            pull(server, config, ground).await
        };
        let (spool, survey, at) = pulled.map_err(|failure| {
            failure.hint(
                "Nothing was changed. What the server holds is copied before it is replaced: allow +psync +replconf, \
                 or say --waive safety to go without that copy.",
            )
        })?;
        let (now, at_ms) = (ground.clock.now(), at.timestamp_millis());
        let archive = Archive { spool, survey, facts: facts.cloned(), entries: 0, bytes: 0, at_ms };
        let Some(home) = home else { return Ok(Self { archive, file: None }) };
        let folder = copies::folder(home, config);
        // Users are none of what a copy brings back.
        let server = facts.map(|facts| ServerFacts { acl: None, ..facts.clone() });
        let (source, into, url) = (name.clone(), into.map(str::to_owned), config.url.clone());
        let facts = Facts { source, into, url, server };
        let (recipients, spool) = (home.recipients.clone(), archive.spool.clone());
        let mut kept = pledge::copies(home);
        kept.extend(spared.map(Path::to_owned));
        let what = || "the safety copy was not made".to_owned();
        let keep = tokio::task::spawn_blocking(move || {
            let file = keep(&folder, &facts, &recipients, &spool, at)?;
            let of = Of { source: facts.source, into: facts.into };
            copies::tidy(&folder, &of, &kept, now);
            Ok::<_, Failure>(file)
        });
        let file = keep.await.failed(ExitCode::Failed, what)??;
        Ok(Self { archive, file: Some(file) })
    }

    /// Says where the copy is and how it is loaded.
    pub(super) fn hint(&self) -> Option<String> {
        self.file.as_deref().map(how_to_load)
    }
}

/// Says how a copy is loaded.
pub(super) fn how_to_load(file: &Path) -> String {
    format!("What the server held is kept: `{}` loads it.", copies::command(file))
}

/// Pulls what all primaries of a cluster hold, as one dump. A slot that moves meanwhile could hide a key from both
/// dumps: then all are pulled again, and there is no copy while slots are on their way.
async fn pull_cluster(
    (name, config): (&SourceName, &RedisConfig),
    ground: &Ground,
) -> Result<(Spool, Survey, DateTime<Utc>)> {
    let (seed, mut before) = Standing::ask(name, config).await?;
    for _ in 0..CLUSTER_PULLS_MAX {
        let (mut parts, mut earliest) = (Vec::new(), ground.clock.now());
        for shard in before.map.with_slots() {
            let Some(primary) = shard.primary() else {
                let what = format!("a shard of the cluster of {} has slots and no primary", seed.shown());
                return Err(Failure::new(ExitCode::SourceDown, what));
            };
            let (spool, survey, at) = pull(&Arc::new(primary.server(&seed)), config, ground).await?;
            earliest = earliest.min(at);
            parts.push((Part { spool, slots: shard.slots.clone() }, survey));
        }
        let (_, after) = Standing::ask(name, config).await?;
        if after.is_still(&before) && before.moving.is_empty() && after.moving.is_empty() {
            let (spool, survey) = archive::whole(parts, config, earliest.timestamp_millis()).await?;
            return Ok((spool, survey, earliest));
        }
        before = after;
    }
    let what = format!("the cluster of {} moves slots while it is copied", seed.shown());
    Err(Failure::new(ExitCode::SourceDown, what).hint(
        "Wait until its slots have been moved; `redis-cli --cluster fix` ends a move that was broken off.",
    ))
}

/// Pulls a server's dump to a spool and proves it; returns its instant too. What was written before the question is in
/// it: a dump that the server had begun for another replica is asked for again, and taken for none at last.
pub(super) async fn pull(
    server: &Arc<Server>,
    config: &RedisConfig,
    ground: &Ground,
) -> Result<(Spool, Survey, DateTime<Utc>)> {
    let spool = Spool::new(config.spool_dir.as_ref())?;
    let (until, mut last) = (Instant::now() + server.patience().turn, None);
    for _ in 0..ASKS_MAX {
        let mut wire = server.dial().await?;
        let before = Before::in_turn(server, &mut wire, ground, until, || ()).await?;
        let (granted, survey, moment) = before.pull(server, wire, &spool, false, ground).await?;
        if before.holds_all(&granted) != Some(false) && !moment.may_be_bettered(last) {
            return Ok((spool, survey, moment.at));
        }
        last = moment.age;
        spool.empty()?;
    }
    let what = format!("{} gave only dumps that it had begun before it was asked", server.shown());
    Err(Failure::new(ExitCode::SourceDown, what).hint("Wait until it has saved for its other replicas."))
}

/// Writes the sealed copy; on return it is on disk under its name.
fn keep(
    folder: &Path,
    facts: &Facts,
    recipients: &[String],
    spool: &Spool,
    now: DateTime<Utc>,
) -> Result<PathBuf> {
    let of = Of { source: facts.source.clone(), into: facts.into.clone() };
    let (unfinished, path) = copies::free_paths(folder, &of, now);
    let what = || format!("the safety copy `{}` cannot be written", path.display());
    let recipients = Recipients::parse(recipients)?;
    let write = || -> io::Result<()> {
        make_folder(folder)?;
        let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
        sealed::write(&file, &recipients, facts, spool)?;
        fs::rename(&unfinished, &path)?;
        sync_names(folder)
    };
    write().map_err(|error| {
        // What is half written helps nobody and takes room that is short already.
        drop(fs::remove_file(&unfinished));
        Failure::new(ExitCode::Failed, what())
            .because(error)
            .hint("Nothing was changed on the server. Make room there, set `safety_dir` of this source, or say --waive safety.")
    })?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use std::{io::Write as _, os::unix::fs::PermissionsExt as _};

    use chrono::TimeDelta;

    use super::*;
    use crate::crypt::{Identities, NewIdentity};

    fn facts(of: &Of) -> Facts {
        Facts { source: of.source.clone(), into: of.into.clone(), url: "redis://h".into(), server: None }
    }

    fn day(day: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000, 0).unwrap() + TimeDelta::days(day)
    }

    #[test]
    fn a_copy_is_sealed_and_the_newest_three_of_thirty_days_stay() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().join("safety");
        let named = |name: &str| Of { source: SourceName::new(name).unwrap(), into: None };
        let (name, other) = (named("redis"), named("redis-2"));
        let key = NewIdentity::recovery("today");
        let recipients = [key.recipient.clone()];
        let spool = Spool::new(None).unwrap();
        spool.rewound().unwrap().write_all(b"REDIS0011 and more").unwrap();
        let beside = keep(&at, &facts(&other), &recipients, &spool, day(0)).unwrap();
        fs::write(at.join("redis-20260101T000000Z.part"), "half").unwrap();
        let mut kept = Vec::new();
        for on in [0, 1, 2, 3] {
            kept.push(keep(&at, &facts(&name), &recipients, &spool, day(on)).unwrap());
            copies::tidy(&at, &name, &[], day(on));
        }
        let there = |path: &PathBuf| path.exists();
        assert_eq!(kept.iter().map(there).collect::<Vec<_>>(), [false, true, true, true]);
        let last = keep(&at, &facts(&name), &recipients, &spool, day(40)).unwrap();
        copies::tidy(&at, &name, &[], day(40));
        assert!(!kept.iter().any(there), "they are older than 30 days");
        assert!(there(&beside), "another source's copies are its own");
        let left: Vec<_> = fs::read_dir(&at).unwrap().flatten().map(|entry| entry.path()).collect();
        assert_eq!(left.len(), 2, "{left:?}");

        assert_eq!(fs::metadata(&last).unwrap().permissions().mode() & 0o777, 0o600);
        let identities = Identities::from_text(secrecy::ExposeSecret::expose_secret(&key.text)).unwrap();
        let plain = identities.open(&fs::read(&last).unwrap(), "the copy").unwrap();
        assert_eq!(zstd::decode_all(plain.as_slice()).unwrap(), b"REDIS0011 and more");
    }

    #[test]
    fn a_copy_that_cannot_be_written_is_told_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().join("a file");
        let of = Of { source: SourceName::new("redis").unwrap(), into: None };
        fs::write(&at, "").unwrap();
        let spool = Spool::new(None).unwrap();
        let key = NewIdentity::recovery("today").recipient;
        let failure = keep(&at, &facts(&of), &[key], &spool, day(0)).unwrap_err();
        assert!(failure.hints()[0].contains("--waive safety"), "{failure:?}");
    }
}
