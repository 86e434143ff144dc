//! The sealed copies of what servers held before a restore: how they are called, which stay, and loading one.
//!
//! A name is `SOURCE-TIME`, or `SOURCE@PLACE-TIME` where the restore went elsewhere by `--into`: so each place has
//! copies of its own, and a copy goes back to where it was taken.
//!
//! *Order.* A copy that is loaded is opened and proven whole before any server hears of it; then it is restored as any
//! dump. It is not cleared away meanwhile, however many copies are newer.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use async_trait::async_trait;
use bytes::BytesMut;
use chrono::{DateTime, NaiveDateTime, SecondsFormat, TimeDelta, Utc};
use sha2::{Digest, Sha256};
use tokio::io::AsyncReadExt as _;

use super::{
    archive,
    home::Home,
    moment,
    rdb::Survey,
    sealed::{self, Facts},
    source::{DUMP, FACTS, send_json},
    spool::Spool,
};
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

/// How many copies of a place stay, and for how long; none goes on its first day, however often a restore is tried.
const COPIES_MAX: usize = 3;
const DAYS_MAX: i64 = 30;
const DAYS_MIN: i64 = 1;
const ENDING: &str = ".rdb.zst.age";
const UNFINISHED: &str = ".part";
const TIME: &str = "%Y%m%dT%H%M%SZ";
/// Begins the place in a name, and what stands for a place that is too long for one: file names have 255 bytes.
const AT: char = '@';
const CUT: char = '~';
const PLACE_CHARS_MAX: usize = 120;
/// Begins a place that is a database of the source's own server.
const DATABASE: &str = "db=";
/// What goes without saying in a place.
const USUAL_SCHEME: &str = "redis://";
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
    /// Where it was taken, as its name has it; empty for the source's own server.
    place: String,
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
        let (of, time) = stem.rsplit_once('-')?;
        let at = NaiveDateTime::parse_from_str(time, TIME).ok()?.and_utc();
        let (source, place) = of.split_at(of.find(AT).unwrap_or(of.len()));
        let source = SourceName::new(source).ok()?;
        Some(Self { path: path.to_owned(), source, at, place: place.to_owned(), is_whole })
    }

    /// Returns where it was taken, as `--into` says it; `None` for the source's own server, and for a place that its
    /// name is too short for.
    pub fn elsewhere(&self) -> Option<String> {
        said(&self.place)
    }

    /// Returns where it was taken, for people.
    pub fn shown_place(&self) -> String {
        let cut = || self.place.trim_start_matches(AT).to_owned();
        if self.place.is_empty() { "its own".to_owned() } else { self.elsewhere().unwrap_or_else(cut) }
    }

    /// Returns the command that loads it into where it was taken.
    pub fn command(&self) -> String {
        let into =
            self.elsewhere().map(|into| format!(" --into {}", word(&format!("{}={into}", self.source))));
        let (file, into) = (self.path.display().to_string(), into.unwrap_or_default());
        format!("lifeboat restore --safety {}{into} --replace", word(&file))
    }
}

/// Writes a word as a shell takes it.
fn word(text: &str) -> Cow<'_, str> {
    let is_plain = |c: char| c.is_alphanumeric() || "/._-:=@%+,~".contains(c);
    if text.chars().all(is_plain) { text.into() } else { format!("'{}'", text.replace('\'', "'\\''")).into() }
}

/// Returns the part of a name that says where a copy was taken.
fn part(into: Option<&str>) -> String {
    let Some(into) = into else { return String::new() };
    let mut part = String::from(AT);
    for byte in into.strip_prefix(USUAL_SCHEME).unwrap_or(into).bytes() {
        if byte.is_ascii_alphanumeric() || b"._-:=@[]".contains(&byte) {
            part.push(byte.into());
        } else {
            part.extend(["%", &hex::encode_upper([byte])]);
        }
    }
    if part.len() > PLACE_CHARS_MAX {
        part.truncate(PLACE_CHARS_MAX);
        part.push(CUT);
        part.push_str(&hex::encode(&Sha256::digest(into)[..4]));
    }
    part
}

/// Reads back what [`part`] wrote.
fn said(place: &str) -> Option<String> {
    let place = place.strip_prefix(AT).filter(|place| !place.contains(CUT))?;
    let mut bytes = Vec::new();
    let mut rest = place.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let mut digit = || char::from(rest.next()?).to_digit(16);
            let code = digit()? * 16 + digit()?;
            bytes.push(u8::try_from(code).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    let text = String::from_utf8(bytes).ok()?;
    let is_whole = text.contains("://") || text.starts_with(DATABASE);
    Some(if is_whole { text } else { format!("{USUAL_SCHEME}{text}") })
}

/// Returns the command that loads a copy which [`free_paths`] named.
pub(super) fn command(file: &Path) -> String {
    let plain = || format!("lifeboat restore --safety {} --replace", word(&file.display().to_string()));
    Copy::named(file).map_or_else(plain, |copy| copy.command())
}

/// Whose copies are meant: of a source, where a restore went; `None` for its own server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Of {
    /// The source.
    pub(super) source: SourceName,
    /// Where the restore went, as `--into` says it.
    pub(super) into: Option<String>,
}

impl Of {
    fn stem(&self) -> String {
        format!("{}{}", self.source, part(self.into.as_deref()))
    }

    fn has(&self, copy: &Copy) -> bool {
        copy.source == self.source && copy.place == part(self.into.as_deref())
    }
}

/// Returns the names of a new copy: while it is written, and then. No other copy has them.
pub(super) fn free_paths(folder: &Path, of: &Of, now: DateTime<Utc>) -> (PathBuf, PathBuf) {
    let (mut at, stem) = (now, of.stem());
    loop {
        let path = |ending| folder.join(format!("{stem}-{}{ending}", at.format(TIME)));
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

/// Returns the copies of a source, wherever they were taken, the newest first.
pub fn kept(folder: &Path, source: &SourceName) -> Vec<Copy> {
    let (whole, _) = listed(folder, |copy| copy.source == *source);
    whole
}

/// Returns copies, the newest first: those that are whole, and the others.
fn listed(folder: &Path, is_meant: impl Fn(&Copy) -> bool) -> (Vec<Copy>, Vec<Copy>) {
    let found = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut copies: Vec<Copy> =
        found.filter_map(|entry| Copy::named(&entry.path())).filter(is_meant).collect();
    copies.sort_by_key(|copy| std::cmp::Reverse(copy.at));
    copies.into_iter().partition(|copy| copy.is_whole)
}

/// Removes those of a source that go: unfinished ones, old ones, and of the place at hand those beyond the newest few.
/// Those that are `spared` stay.
pub(super) fn tidy(folder: &Path, of: &Of, spared: &[PathBuf], now: DateTime<Utc>) {
    let (whole, unfinished) = listed(folder, |copy| copy.source == of.source);
    // Of the place at hand come first: their places in the list are their ranks.
    let (whole, elsewhere): (Vec<Copy>, Vec<Copy>) = whole.into_iter().partition(|copy| of.has(copy));
    let age = |copy: &Copy| now - copy.at;
    let real = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let spared: Vec<PathBuf> = spared.iter().map(|path| real(path)).collect();
    let goes = |(rank, copy): &(usize, Copy)| {
        let is_surplus = *rank >= COPIES_MAX && age(copy) > TimeDelta::days(DAYS_MIN);
        (is_surplus || age(copy) > TimeDelta::days(DAYS_MAX)) && !spared.contains(&real(&copy.path))
    };
    // A younger one may be another restore's, which is still writing it.
    let unfinished = unfinished.into_iter().filter(|copy| age(copy) > TimeDelta::days(DAYS_MIN));
    let elsewhere = elsewhere.into_iter().map(|copy| (0, copy));
    let old = whole.into_iter().enumerate().chain(elsewhere).filter(goes).map(|(_, copy)| copy);
    for copy in unfinished.chain(old) {
        // One that stays is looked at again the next time.
        drop(fs::remove_file(copy.path));
    }
}

/// Tells which copies of a source there are; a source without has no finding.
pub fn examine(name: &SourceName, config: &RedisConfig, home: &Home) -> Vec<Finding> {
    let copies = kept(&folder(home, config), name);
    // Those of the source's own server are what most people look for.
    let own = copies.iter().find(|copy| copy.place.is_empty());
    let Some(newest) = own.or(copies.first()) else { return Vec::new() };
    let count = if copies.len() == 1 { "1 copy".to_owned() } else { format!("{} copies", copies.len()) };
    let at = newest.at.to_rfc3339_opts(SecondsFormat::Secs, true);
    let detail =
        format!("{count}, the newest of {}: {at}, `{}` loads it", newest.shown_place(), newest.command());
    vec![COPIES.found(Status::Ok, detail)]
}

/// A copy that was opened and proven, as a source.
pub struct CopySource {
    name: SourceName,
    at: DateTime<Utc>,
    spool: Spool,
    survey: Survey,
    facts: Option<Facts>,
    named: Option<Copy>,
}

impl CopySource {
    /// Opens and proves the copy in `file` for a source; its name need not say what it is of and of when.
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
        let read = tokio::task::spawn_blocking(move || sealed::read(&path, &identities, &into));
        let facts = read.await.failed(ExitCode::Failed, what)??;
        let survey = archive::prove(&spool, now.timestamp_millis()).await?;
        // One that was given another name says itself when it was begun.
        let began = || moment::begun_at(spool.reader(0)).unwrap_or(now);
        let named = Copy::named(file);
        let at = named.as_ref().map_or_else(began, |copy| copy.at);
        Ok(Self { name: name.clone(), at, spool, survey, facts, named })
    }

    /// Returns where it goes when nothing is said: to where it was taken. `None` is the source's own server, which must
    /// then still be the one that it was; a copy of another source has no place in this one but that.
    pub fn goes_into(&self, config: &RedisConfig) -> Result<Option<String>> {
        let Some(facts) = &self.facts else {
            let named = self.named.as_ref().filter(|copy| copy.source == self.name);
            return Ok(named.and_then(Copy::elsewhere));
        };
        if facts.source != self.name {
            return Ok(None);
        }
        // A database alone is one of the source's own server.
        let is_elsewhere = facts.into.as_ref().is_some_and(|into| !into.starts_with(DATABASE));
        // Sentinels name another server each time, and it is the same data.
        let is_same = facts.url == config.url || facts.url.is_empty() || !config.sentinels.is_empty();
        if is_elsewhere || is_same {
            return Ok(facts.into.clone());
        }
        let (name, then, now) = (&self.name, &facts.url, &config.url);
        let what = format!("the copy was taken at {then}, and source `{name}` is {now} now");
        Err(Failure::new(ExitCode::Usage, what).hint(format!(
            "Nothing was changed. Say where it goes: --into {name}={then} or --into {name}={now}."
        )))
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

#[async_trait]
impl Source for CopySource {
    fn name(&self) -> &SourceName {
        &self.name
    }

    async fn read(self: Box<Self>, sink: EntrySink, _previous: Option<Box<dyn Previous>>) -> FlowResult<()> {
        let server = self.facts.as_ref().and_then(|facts| facts.server.as_ref());
        let items = [Some(DUMP), server.map(|_| FACTS)].into_iter().flatten();
        sink.announce(items.map(|(_, item)| item.to_owned()).collect()).await?;
        if let Some(server) = server {
            send_json(&sink, FACTS, server).await?;
        }
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
        let (unfinished, whole) = free_paths(Path::new("/s"), &of("redis-2", None), copy.at);
        assert_eq!(Copy::named(&whole).unwrap(), copy);
        assert!(!Copy::named(&unfinished).unwrap().is_whole);
    }

    fn of(source: &str, into: Option<&str>) -> Of {
        Of { source: SourceName::new(source).unwrap(), into: into.map(str::to_owned) }
    }

    #[test]
    fn a_copy_that_was_taken_elsewhere_says_so_and_goes_back_there() {
        let at = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        for (into, name, words) in [
            ("db=3", "redis@db=3-20270115T080000Z.rdb.zst.age", "redis=db=3"),
            (
                "redis://10.0.0.5:6380",
                "redis@10.0.0.5:6380-20270115T080000Z.rdb.zst.age",
                "redis=redis://10.0.0.5:6380",
            ),
            ("redis://me@h-1/3", "redis@me@h-1%2F3-20270115T080000Z.rdb.zst.age", "redis=redis://me@h-1/3"),
            (
                "rediss://[::1]:7",
                "redis@rediss:%2F%2F[::1]:7-20270115T080000Z.rdb.zst.age",
                "'redis=rediss://[::1]:7'",
            ),
            (
                "unix:///run/my redis.sock",
                "redis@unix:%2F%2F%2Frun%2Fmy%20redis.sock-20270115T080000Z.rdb.zst.age",
                "'redis=unix:///run/my redis.sock'",
            ),
        ] {
            let (unfinished, path) = free_paths(Path::new("/s"), &of("redis", Some(into)), at);
            assert_eq!(path.file_name().unwrap().to_str().unwrap(), name);
            let copy = Copy::named(&path).unwrap();
            assert_eq!(copy.elsewhere().as_deref(), Some(into));
            assert!(copy.command().ends_with(&format!(" --into {words} --replace")), "{}", copy.command());
            assert!(of("redis", Some(into)).has(&copy) && !of("redis", None).has(&copy));
            assert_eq!(Copy::named(&unfinished).unwrap().elsewhere().as_deref(), Some(into));
        }
        // A place that is too long has copies of its own too; what is sealed in them says where they go.
        let long = format!("unix:///{}/redis.sock", "folder/".repeat(30));
        let (_, path) = free_paths(Path::new("/s"), &of("redis", Some(&long)), at);
        assert!(path.file_name().unwrap().len() < 200, "{path:?}");
        let copy = Copy::named(&path).unwrap();
        assert!(of("redis", Some(&long)).has(&copy));
        assert!(!of("redis", Some(&long[1..])).has(&copy));
        assert_eq!(copy.command(), format!("lifeboat restore --safety {} --replace", path.display()));
    }

    #[test]
    fn a_restore_that_is_tried_again_and_again_keeps_the_first_copy_and_the_one_it_loads() {
        let folder = tempfile::tempdir().unwrap();
        let (at, own, name) = (folder.path(), of("redis", None), SourceName::new("redis").unwrap());
        let begin = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        let make = |minutes: i64| {
            let (_, path) = free_paths(at, &own, begin + TimeDelta::minutes(minutes));
            fs::write(&path, "").unwrap();
            let (_, next) = free_paths(at, &own, begin + TimeDelta::minutes(minutes));
            assert_eq!(Copy::named(&next).unwrap().at, begin + TimeDelta::seconds(minutes * 60 + 1));
            path
        };
        let made: Vec<PathBuf> = (0..6).map(|nth| make(nth * 10)).collect();
        tidy(at, &own, &[], begin + TimeDelta::hours(23));
        assert_eq!(kept(at, &name).len(), 6);
        assert_eq!(kept(at, &name)[0].path, made[5]);
        let elsewhere = of("redis", Some("db=3"));
        let (_, beside) = free_paths(at, &elsewhere, begin - TimeDelta::days(1));
        fs::write(&beside, "").unwrap();
        tidy(at, &own, &made[..1], begin + TimeDelta::hours(26));
        let left: Vec<PathBuf> = kept(at, &name).into_iter().map(|copy| copy.path).collect();
        assert_eq!(left, [&made[5], &made[4], &made[3], &made[0], &beside].map(Clone::clone));
        tidy(at, &elsewhere, &[], begin + TimeDelta::hours(27));
        assert_eq!(kept(at, &name).len(), 5, "each place has copies of its own");
        tidy(at, &elsewhere, &[], begin + TimeDelta::days(40));
        assert_eq!(kept(at, &name).len(), 0, "and thirty days are for all of them");
    }
}
