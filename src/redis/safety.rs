//! What a server held before it is emptied: a dump that is kept until the restore has succeeded, and for a while after.
//!
//! *Order.* The dump is pulled and proven as for a backup. A sealed copy is on disk under its name before anything of
//! the server is touched; the plain one stays open in the spool, so that putting it back needs no key. Then copies that
//! are too many or too old go.
//!
//! *Crash.* A copy that was not finished has another ending, and goes with the next one.

use std::{
    fs, io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use chrono::{DateTime, NaiveDateTime, TimeDelta, Utc};

use super::{
    archive::Archive,
    home::{Home, make_folder, sync_names},
    psync,
    rdb::Survey,
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

/// How many copies of a source stay, and for how long.
const COPIES_MAX: usize = 3;
const DAYS_MAX: i64 = 30;
/// How hard a copy is compressed.
const ZSTD_LEVEL: i32 = 3;
const ENDING: &str = ".rdb.zst.age";
const UNFINISHED: &str = ".part";
const TIME: &str = "%Y%m%dT%H%M%SZ";

/// What a server held.
pub(super) struct Safety {
    /// Its dump.
    pub(super) archive: Archive,
    /// The sealed copy, where this host has a place for one.
    pub(super) file: Option<PathBuf>,
}

impl Safety {
    /// Pulls what the server holds and keeps it.
    pub(super) async fn take(
        server: &Arc<Server>,
        (name, config): (&SourceName, &RedisConfig),
        home: Option<&Home>,
        ground: &Ground,
    ) -> Result<Self> {
        let pulled = pull(server, config, ground).await;
        let (spool, survey) = pulled.map_err(|failure| {
            failure.hint(
                "Nothing was changed. What the server holds is copied before it is replaced: allow +psync +replconf, \
                 or say --waive safety to go without that copy.",
            )
        })?;
        let archive = Archive { spool, survey, facts: None, entries: 0, bytes: 0 };
        let Some(home) = home else { return Ok(Self { archive, file: None }) };
        let folder = config.safety_dir.clone().unwrap_or_else(|| home.folder.join("safety"));
        let (name, recipients, spool) = (name.clone(), home.recipients.clone(), archive.spool.clone());
        let now = ground.clock.now();
        let what = || "the safety copy was not made".to_owned();
        let keep = tokio::task::spawn_blocking(move || keep(&folder, &name, &recipients, &spool, now));
        let file = keep.await.failed(ExitCode::Failed, what)??;
        Ok(Self { archive, file: Some(file) })
    }

    /// Says where the copy is and how it is read.
    pub(super) fn hint(&self) -> Option<String> {
        self.file.as_deref().map(how_to_read)
    }
}

/// Says how a copy is read.
pub(super) fn how_to_read(file: &Path) -> String {
    let file = file.display();
    format!(
        "What the server held is in `{file}`: `age -d -i IDENTITY {file} | zstd -d > dump.rdb`, which a server with \
         appendonly no loads when it starts."
    )
}

/// Pulls a server's dump to a spool and proves it.
pub(super) async fn pull(
    server: &Arc<Server>,
    config: &RedisConfig,
    ground: &Ground,
) -> Result<(Spool, Survey)> {
    let spool = Spool::new(config.spool_dir.as_ref())?;
    let mut wire = server.dial().await?;
    let granted = psync::ask(server, &mut wire, ground).await?;
    let now_ms = granted.at.timestamp_millis();
    let survey = psync::receive(server, wire, granted.frame, spool.rewound()?, now_ms).await?;
    Ok((spool, survey))
}

/// Writes the sealed copy; on return it is on disk under its name.
fn keep(
    folder: &Path,
    name: &SourceName,
    recipients: &[String],
    spool: &Spool,
    now: DateTime<Utc>,
) -> Result<PathBuf> {
    let path = folder.join(format!("{name}-{}{ENDING}", now.format(TIME)));
    let unfinished = folder.join(format!("{name}-{}{UNFINISHED}", now.format(TIME)));
    let what = || format!("the safety copy `{}` cannot be written", path.display());
    let recipients = Recipients::parse(recipients)?;
    let write = || -> io::Result<()> {
        make_folder(folder)?;
        let file =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
        let sealing = recipients.writer(&file).map_err(io::Error::other)?;
        let mut packing = zstd::Encoder::new(sealing, ZSTD_LEVEL)?;
        io::copy(&mut spool.reader(0), &mut packing)?;
        packing.finish()?.finish()?;
        file.sync_all()?;
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
    for old in outdated(&copies(folder, name), now) {
        // One that stays is looked at again the next time.
        drop(fs::remove_file(folder.join(old)));
    }
    Ok(path)
}

/// Returns the names of a source's copies with their times.
fn copies(folder: &Path, source: &SourceName) -> Vec<(DateTime<Utc>, String)> {
    let listed = fs::read_dir(folder).into_iter().flatten().flatten();
    let names = listed.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter_map(|name| Some((time_of(&name, source)?, name))).collect()
}

fn time_of(name: &str, source: &SourceName) -> Option<DateTime<Utc>> {
    let rest = name.strip_prefix(source.as_str())?.strip_prefix('-')?;
    let time = rest.strip_suffix(ENDING).or_else(|| rest.strip_suffix(UNFINISHED))?;
    Some(NaiveDateTime::parse_from_str(time, TIME).ok()?.and_utc())
}

/// Returns the names of those that go: unfinished ones, those beyond the newest few, and old ones.
fn outdated(copies: &[(DateTime<Utc>, String)], now: DateTime<Utc>) -> Vec<&str> {
    let (mut whole, unfinished): (Vec<_>, Vec<_>) =
        copies.iter().partition(|(_, name)| name.ends_with(ENDING));
    whole.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
    let old = |at: &DateTime<Utc>| now - *at > TimeDelta::days(DAYS_MAX);
    let goes = whole.into_iter().enumerate().filter(|(rank, (at, _))| *rank >= COPIES_MAX || old(at));
    goes.map(|(_, one)| one).chain(unfinished).map(|(_, name)| name.as_str()).collect()
}

#[cfg(test)]
mod tests {
    use std::{io::Write as _, os::unix::fs::PermissionsExt as _};

    use super::*;
    use crate::crypt::{Identities, NewIdentity};

    fn day(day: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000, 0).unwrap() + TimeDelta::days(day)
    }

    #[test]
    fn a_copy_is_sealed_and_the_newest_three_of_thirty_days_stay() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().join("safety");
        let (name, other) = (SourceName::new("redis").unwrap(), SourceName::new("redis-2").unwrap());
        let key = NewIdentity::recovery("today");
        let recipients = [key.recipient.clone()];
        let spool = Spool::new(None).unwrap();
        spool.rewound().unwrap().write_all(b"REDIS0011 and more").unwrap();
        let beside = keep(&at, &other, &recipients, &spool, day(0)).unwrap();
        fs::write(at.join("redis-20260101T000000Z.part"), "half").unwrap();
        let mut kept = Vec::new();
        for on in [0, 1, 2, 3] {
            kept.push(keep(&at, &name, &recipients, &spool, day(on)).unwrap());
        }
        let there = |path: &PathBuf| path.exists();
        assert_eq!(kept.iter().map(there).collect::<Vec<_>>(), [false, true, true, true]);
        let last = keep(&at, &name, &recipients, &spool, day(40)).unwrap();
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
        let (at, name) = (folder.path().join("a file"), SourceName::new("redis").unwrap());
        fs::write(&at, "").unwrap();
        let spool = Spool::new(None).unwrap();
        let key = NewIdentity::recovery("today").recipient;
        let failure = keep(&at, &name, &[key], &spool, day(0)).unwrap_err();
        assert!(failure.hints()[0].contains("--waive safety"), "{failure:?}");
    }
}
