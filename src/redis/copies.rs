//! The sealed copies of what servers held before a restore: how they are called, which stay, and loading one.
//!
//! *Order.* A copy that is loaded is opened and proven whole before any server hears of it; then it is restored as any
//! dump. It is not cleared away meanwhile, however many copies are newer.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use async_trait::async_trait;
use bytes::BytesMut;
use chrono::{DateTime, NaiveDateTime, SecondsFormat, TimeDelta, Utc};
use tokio::io::AsyncReadExt as _;

use super::{archive, home::Home, moment, rdb::Survey, source::DUMP, spool::Spool};
use crate::{
    clock::Ground,
    crypt::Identities,
    error::{Context, ExitCode, Failure, Result},
    finding::{Finding, Status, laws},
    flow::{Attrs, EntryMeta, EntrySink, FlowResult, Point, Previous, Source, Stage, fixed_path},
    names::SourceName,
    policy::RedisConfig,
};

laws! {
    page "redis";
    COPIES = "redis.copies",
        "what restores replaced is kept for 30 days",
        "Load one with `lifeboat restore --safety FILE --replace`.";
}

/// How many copies of a source stay, and for how long; none goes on its first day, however often a restore is tried.
const COPIES_MAX: usize = 3;
const DAYS_MAX: i64 = 30;
const DAYS_MIN: i64 = 1;
const ENDING: &str = ".rdb.zst.age";
const UNFINISHED: &str = ".part";
const TIME: &str = "%Y%m%dT%H%M%SZ";
/// Bytes of a dump that are handed on at a time.
const PIECE_BYTES: usize = 256 << 10;

/// A copy by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copy {
    /// Where it is.
    pub path: PathBuf,
    /// What it is of.
    pub source: SourceName,
    /// When it was made.
    pub at: DateTime<Utc>,
    is_whole: bool,
}

impl Copy {
    /// Reads the name that a copy was given; another file is none.
    pub fn named(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?;
        let (stem, is_whole) = match name.strip_suffix(ENDING) {
            Some(stem) => (stem, true),
            None => (name.strip_suffix(UNFINISHED)?, false),
        };
        let (source, time) = stem.rsplit_once('-')?;
        let at = NaiveDateTime::parse_from_str(time, TIME).ok()?.and_utc();
        Some(Self { path: path.to_owned(), source: SourceName::new(source).ok()?, at, is_whole })
    }

    /// Returns the command that loads it.
    pub fn command(&self) -> String {
        command(&self.path)
    }
}

/// Returns the command that loads a copy.
pub(super) fn command(file: &Path) -> String {
    format!("lifeboat restore --safety {} --replace", file.display())
}

/// Returns the names of a new copy: while it is written, and then. No other copy has them.
pub(super) fn free_paths(folder: &Path, source: &SourceName, now: DateTime<Utc>) -> (PathBuf, PathBuf) {
    let mut at = now;
    loop {
        let path = |ending| folder.join(format!("{source}-{}{ending}", at.format(TIME)));
        let (unfinished, whole) = (path(UNFINISHED), path(ENDING));
        if !whole.exists() && !unfinished.exists() {
            return (unfinished, whole);
        }
        at += TimeDelta::seconds(1);
    }
}

/// Returns where a source's copies are kept.
pub fn folder(home: &Home, config: &RedisConfig) -> PathBuf {
    config.safety_dir.clone().unwrap_or_else(|| home.folder.join("safety"))
}

/// Returns the copies of a source, the newest first.
pub fn kept(folder: &Path, source: &SourceName) -> Vec<Copy> {
    let (mut whole, _) = listed(folder, source);
    whole.sort_by_key(|copy| std::cmp::Reverse(copy.at));
    whole
}

fn listed(folder: &Path, source: &SourceName) -> (Vec<Copy>, Vec<Copy>) {
    let found = fs::read_dir(folder).into_iter().flatten().flatten();
    let copies = found.filter_map(|entry| Copy::named(&entry.path()));
    copies.filter(|copy| copy.source == *source).partition(|copy| copy.is_whole)
}

/// Removes those of a source that go: unfinished ones, old ones, and those beyond the newest few. The one that is
/// `spared` stays.
pub(super) fn tidy(folder: &Path, source: &SourceName, spared: Option<&Path>, now: DateTime<Utc>) {
    let (_, unfinished) = listed(folder, source);
    let age = |copy: &Copy| now - copy.at;
    let real = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let spared = spared.map(real);
    let goes = |(rank, copy): &(usize, Copy)| {
        let is_surplus = *rank >= COPIES_MAX && age(copy) > TimeDelta::days(DAYS_MIN);
        (is_surplus || age(copy) > TimeDelta::days(DAYS_MAX)) && spared != Some(real(&copy.path))
    };
    // A younger one may be another restore's, which is still writing it.
    let unfinished = unfinished.into_iter().filter(|copy| age(copy) > TimeDelta::days(DAYS_MIN));
    let old = kept(folder, source).into_iter().enumerate().filter(goes).map(|(_, copy)| copy);
    for copy in unfinished.chain(old) {
        // One that stays is looked at again the next time.
        drop(fs::remove_file(copy.path));
    }
}

/// Tells which copies of a source there are; a source without has no finding.
pub fn examine(name: &SourceName, config: &RedisConfig, home: &Home) -> Vec<Finding> {
    let copies = kept(&folder(home, config), name);
    let Some(newest) = copies.first() else { return Vec::new() };
    let count = if copies.len() == 1 { "1 copy".to_owned() } else { format!("{} copies", copies.len()) };
    let at = newest.at.to_rfc3339_opts(SecondsFormat::Secs, true);
    let detail = format!("{count}, the newest of {at}: `{}` loads it", newest.command());
    vec![COPIES.found(Status::Ok, detail)]
}

/// A copy that was opened and proven, as a source.
pub struct CopySource {
    name: SourceName,
    at: DateTime<Utc>,
    spool: Spool,
    survey: Survey,
}

impl CopySource {
    /// Opens and proves the copy of a source in `file`, of an instant that its name need not say.
    pub async fn open(
        (name, config): (&SourceName, &RedisConfig),
        file: &Path,
        identities: Identities,
        ground: &Ground,
    ) -> Result<Self> {
        let now = ground.clock.now();
        let spool = Spool::new(config.spool_dir.as_ref())?;
        let (into, path) = (spool.clone(), file.to_owned());
        let what = || format!("the safety copy `{}` cannot be read", file.display());
        let unseal = tokio::task::spawn_blocking(move || unseal(&path, &identities, &into));
        unseal.await.failed(ExitCode::Failed, what)??;
        let survey = archive::prove(&spool, now.timestamp_millis()).await?;
        // One that was given another name says itself when it was begun.
        let began = || moment::begun_at(spool.reader(0)).unwrap_or(now);
        let at = Copy::named(file).map_or_else(began, |copy| copy.at);
        Ok(Self { name: name.clone(), at, spool, survey })
    }

    /// Returns when it was made.
    pub fn at(&self) -> DateTime<Utc> {
        self.at
    }

    /// Returns its keys by database; `None` where its format is not known.
    pub fn keys(&self) -> Option<BTreeMap<u64, u64>> {
        self.survey.introspected.then(|| self.survey.keys_by_db())
    }

    /// Returns the size of the dump.
    pub fn size_bytes(&self) -> u64 {
        self.survey.size_bytes
    }
}

fn unseal(path: &Path, identities: &Identities, into: &Spool) -> Result<()> {
    let shown = path.display().to_string();
    let what = || format!("the safety copy `{shown}` cannot be read");
    let sealed = fs::File::open(path).failed(ExitCode::Usage, what)?;
    let packed = identities.reader(io::BufReader::new(sealed), &shown)?;
    let mut file = into.rewound()?;
    let mut plain = zstd::Decoder::new(packed).failed(ExitCode::Damage, what)?;
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        // What cannot be read is damage; what cannot be written is want of room.
        let count = plain.read(&mut piece).failed(ExitCode::Damage, what)?;
        if count == 0 {
            return Ok(());
        }
        io::Write::write_all(&mut file, &piece[..count])
            .failed(ExitCode::Failed, || "the dump cannot be written to the spool folder".to_owned())?;
    }
}

#[async_trait]
impl Source for CopySource {
    fn name(&self) -> &SourceName {
        &self.name
    }

    async fn read(self: Box<Self>, sink: EntrySink, _previous: Option<Box<dyn Previous>>) -> FlowResult<()> {
        sink.announce(vec![DUMP.1.to_owned()]).await?;
        let mut body = sink.begin(EntryMeta::new(fixed_path(DUMP.0), Stage::Data, DUMP.1)).await?;
        let mut from = tokio::fs::File::from_std(self.spool.rewound()?);
        loop {
            let mut bytes = BytesMut::with_capacity(PIECE_BYTES);
            let read = from.read_buf(&mut bytes).await;
            if read.failed(ExitCode::Failed, || "the spooled dump cannot be read".to_owned())? == 0 {
                break;
            }
            body.write(bytes.freeze()).await?;
        }
        body.finish_with(Attrs::new()).await?;
        sink.complete(DUMP.1);
        sink.finish(Point::at(self.at)).await
    }
}

/// Refuses a file that is no copy, naming those that there are.
pub fn no_copy(file: &Path, there: &[Copy]) -> Failure {
    let what = format!("`{}` is not there", file.display());
    let failure = Failure::new(ExitCode::Usage, what);
    match there.first() {
        Some(newest) => failure.hint(format!(
            "`lifeboat restore --safety` lists the copies; the newest is loaded by `{}`.",
            newest.command()
        )),
        None => failure.hint("No copies are kept on this host."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_tells_by_its_name_what_it_is_of_and_of_when() {
        let copy = Copy::named(Path::new("/s/redis-2-20260102T030405Z.rdb.zst.age")).unwrap();
        assert_eq!(
            (copy.source.as_str(), copy.at.to_rfc3339().as_str()),
            ("redis-2", "2026-01-02T03:04:05+00:00")
        );
        assert_eq!(
            copy.command(),
            "lifeboat restore --safety /s/redis-2-20260102T030405Z.rdb.zst.age --replace"
        );
        for other in ["redis-20260102.rdb.zst.age", "redis.rdb", "-20260102T030405Z.rdb.zst.age", ""] {
            assert_eq!(Copy::named(Path::new(other)), None, "{other}");
        }
        let (unfinished, whole) = free_paths(Path::new("/s"), &copy.source, copy.at);
        assert_eq!(Copy::named(&whole).unwrap(), copy);
        assert!(!Copy::named(&unfinished).unwrap().is_whole);
    }

    #[test]
    fn a_restore_that_is_tried_again_and_again_keeps_the_first_copy_and_the_one_it_loads() {
        let folder = tempfile::tempdir().unwrap();
        let (at, name) = (folder.path(), SourceName::new("redis").unwrap());
        let begin = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        let make = |minutes: i64| {
            let (_, path) = free_paths(at, &name, begin + TimeDelta::minutes(minutes));
            fs::write(&path, "").unwrap();
            let (_, next) = free_paths(at, &name, begin + TimeDelta::minutes(minutes));
            assert_eq!(Copy::named(&next).unwrap().at, begin + TimeDelta::seconds(minutes * 60 + 1));
            path
        };
        let made: Vec<PathBuf> = (0..6).map(|nth| make(nth * 10)).collect();
        tidy(at, &name, None, begin + TimeDelta::hours(23));
        assert_eq!(kept(at, &name).len(), 6);
        assert_eq!(kept(at, &name)[0].path, made[5]);
        tidy(at, &name, Some(&made[0]), begin + TimeDelta::hours(26));
        let left: Vec<PathBuf> = kept(at, &name).into_iter().map(|copy| copy.path).collect();
        assert_eq!(left, [&made[5], &made[4], &made[3], &made[0]].map(Clone::clone));
    }
}
