//! From a policy's sources to the engines that read and write them: the only place that names all engines.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use chrono::TimeDelta;

use super::backup::{Before, Ready};
use crate::{
    clock::Ground,
    error::{ExitCode, Failure, Result},
    event::SharedMonitor,
    files::{self, EntryFolder, FilesLikeness, FilesSource, FilesTarget},
    finding::{Finding, Law},
    flow::{Likeness, Point, Previous, Problem, Source, Target},
    mysql::{
        Choices, Exchange, MysqlSource, MysqlTarget,
        compare::{MysqlLikeness, patterns_of},
        renamed_items,
    },
    names::SourceName,
    policy::{MysqlConfig, SourceConfig, SourceKind, bucket_of, redis_database_of},
    redis::{Home, RedisSource, RedisTarget, Ttl, Waived, compare::RedisLikeness},
    s3::{self, Border, S3Likeness, S3Source, S3Target, Share, Shrink},
};

/// Makes the source that a policy describes. `shrink` is how much of a bucket may be gone since the snapshot before.
pub fn source(config: &SourceConfig, shrink: Shrink, ground: &Ground, monitor: &SharedMonitor) -> Ready {
    let (name, ground, monitor) = (config.name.clone(), ground.clone(), monitor.clone());
    let source: Box<dyn Source> = match config.kind.clone() {
        SourceKind::Mysql(kind) => Box::new(MysqlSource::new(name, kind, ground, monitor)),
        SourceKind::Redis(kind) => Box::new(RedisSource::new(name, kind, ground, monitor)),
        SourceKind::S3(kind) => Box::new(S3Source::new(name, kind, ground, monitor).shrinking(shrink)),
        SourceKind::Files(kind) => Box::new(FilesSource::new(name, kind, ground, monitor)),
    };
    Ready { name: config.name.clone(), kind: config.kind.word(), source: Ok(source), before: Before::Newest }
}

/// Judges what a policy asks of a source, as far as its engine can without looking at anything.
pub fn judge(config: &SourceConfig) -> Result<()> {
    match &config.kind {
        SourceKind::Files(kind) => files::judge(kind),
        SourceKind::Mysql(_) | SourceKind::Redis(_) | SourceKind::S3(_) => Ok(()),
    }
}

/// Returns whether several processes can each read a part of a source.
pub fn divides(config: &SourceConfig) -> bool {
    matches!(config.kind, SourceKind::S3(_))
}

/// Divides a source into `count` shares of about the same size; returns their borders.
pub async fn borders(
    config: &SourceConfig,
    previous: Option<Box<dyn Previous>>,
    count: usize,
) -> Result<Vec<Border>> {
    match &config.kind {
        SourceKind::S3(kind) => s3::borders(&config.name, kind, previous, count).await,
        _ => Ok(blind_borders(count)),
    }
}

/// Returns borders that leave everything to the last share.
pub fn blind_borders(count: usize) -> Vec<Border> {
    s3::by_bytes(&[], count)
}

/// Makes the part of a source that lies in one of the shares which these borders make.
pub fn share(
    config: &SourceConfig,
    borders: &[Border],
    index: usize,
    ground: &Ground,
    monitor: &SharedMonitor,
) -> Ready {
    let mut ready = source(config, Shrink::Accepted, ground, monitor);
    if let (SourceKind::S3(kind), Some(share)) = (&config.kind, Share::all(borders).into_iter().nth(index)) {
        let source = S3Source::new(config.name.clone(), kind.clone(), ground.clone(), monitor.clone());
        ready.source = Ok(Box::new(source.share(share)));
    }
    ready
}

/// Makes one point of those of all shares of a source, and judges what is gone for the whole. Returns also what is to
/// be reported, and how much of that is gone.
pub async fn joined(
    config: &SourceConfig,
    shrink: Shrink,
    monitor: &SharedMonitor,
    points: Vec<Point>,
) -> Result<(Point, Vec<Problem>, u64)> {
    match &config.kind {
        SourceKind::S3(kind) => s3::joined(&config.name, kind, shrink, monitor, points).await,
        _ => Err(Failure::new(ExitCode::Usage, format!("`{}` cannot be divided", config.name))),
    }
}

/// Returns the word of an engine as the program writes it.
pub fn kind_word(word: &str) -> &'static str {
    ["mysql", "redis", "s3", "files"].into_iter().find(|kind| *kind == word).unwrap_or("unknown")
}

/// Returns when two entries of a source are the same. What is compared may be a copy that lies below `folder`.
pub fn likeness(config: &SourceConfig, folder: Option<&Path>) -> Box<dyn Likeness> {
    match (&config.kind, folder) {
        (SourceKind::Mysql(_), _) => Box::new(MysqlLikeness),
        (SourceKind::Redis(_), _) => Box::new(RedisLikeness),
        (SourceKind::S3(_), _) => Box::new(S3Likeness),
        (SourceKind::Files(_), Some(folder)) => Box::new(FilesLikeness::below(folder)),
        (SourceKind::Files(_), None) => Box::new(FilesLikeness::in_place()),
    }
}

/// Looks whether a source can be backed up, and lets a server go that a restore left because it was killed.
/// `backups_every` is the longest time between two backups of the schedule.
pub async fn examine(
    config: &SourceConfig,
    backups_every: Option<TimeDelta>,
    home: &Home,
    ground: &Ground,
) -> Vec<Finding> {
    let name = &config.name;
    match &config.kind {
        SourceKind::Mysql(kind) => crate::mysql::examine::examine(name, kind, backups_every, ground).await,
        SourceKind::Redis(kind) => {
            // What a restore left comes first: it may be why the rest is not well.
            let mut findings = crate::redis::pledge::examine(name, kind, home).await;
            findings.extend(crate::redis::copies::examine(name, kind, home));
            findings.extend(crate::redis::examine::examine(name, kind, ground).await);
            findings
        }
        SourceKind::S3(kind) => crate::s3::examine::examine(name, kind, ground).await,
        SourceKind::Files(kind) => crate::files::examine::examine(kind).await,
    }
}

/// Returns what must be true of sources, of every kind.
pub fn laws() -> impl Iterator<Item = &'static Law> {
    [
        crate::mysql::examine::LAWS,
        crate::redis::examine::LAWS,
        crate::redis::pledge::LAWS,
        crate::redis::copies::LAWS,
        crate::s3::examine::LAWS,
        crate::files::examine::LAWS,
    ]
    .into_iter()
    .flatten()
}

/// Where a restore goes instead of where the source was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Into {
    /// Another server, as a URL without a password.
    Server(String),
    /// One database of the source's own Redis server.
    Database(u32),
    /// A folder.
    Folder(PathBuf),
}

impl Into {
    /// Parses the right side of `--into SOURCE=…`.
    pub fn parse(text: &str) -> Result<Self> {
        if text.contains("://") {
            return Ok(Self::Server(text.to_owned()));
        }
        if let Some(db) = text.strip_prefix("db=").and_then(|db| db.parse().ok()) {
            return Ok(Self::Database(db));
        }
        let path = PathBuf::from(text);
        if path.is_absolute() {
            return Ok(Self::Folder(path));
        }
        Err(Failure::new(ExitCode::Usage, "--into names neither a URL nor an absolute folder").hint(
            "Write --into mysql=mysql://user@host:3306/, --into redis=db=3 or --into mysql=/absolute/folder.",
        ))
    }

    /// Returns the one database of a Redis server that is meant.
    fn redis_database(&self) -> Option<u32> {
        match self {
            Self::Server(url) => redis_database_of(url),
            Self::Database(db) => Some(*db),
            Self::Folder(_) => None,
        }
    }

    /// Returns a server or database as `--into` says it, in one way for each place; `None` for the source's own server,
    /// whatever it was called.
    fn said(&self, is_own: bool) -> Option<String> {
        match (self, self.redis_database()) {
            (Self::Database(db), _) => Some(format!("db={db}")),
            (Self::Server(_), db) if is_own => db.map(|db| format!("db={db}")),
            (Self::Server(url), _) => Some(url.trim_end_matches('/').to_owned()),
            (Self::Folder(_), _) => None,
        }
    }

    /// Refuses a place that a source of this kind does not go into. What was written is not repeated.
    pub fn check(&self, kind: &SourceKind) -> Result<()> {
        match (self, kind) {
            (Self::Server(url), _) => kind.clone().redirect(url),
            (Self::Database(_), SourceKind::Redis(_)) | (Self::Folder(_), _) => Ok(()),
            (Self::Database(_), _) => {
                let what = format!("a {} source has no databases by number", kind.word());
                Err(Failure::new(ExitCode::Usage, what).hint("Only Redis has: --into redis=db=3."))
            }
        }
    }
}

/// A target that is ready, and how people name it.
pub struct ReadyTarget {
    /// The target.
    pub target: Box<dyn Target>,
    /// Where it is, without secrets.
    pub place: String,
    /// Whether entries become again what they were there, and not plain files.
    pub is_native: bool,
    /// What was chosen, where the target leaves a choice: a name and a word.
    pub choices: BTreeMap<&'static str, String>,
    /// What follows once everything is restored and compared.
    pub exchange: Option<Exchange>,
    /// How what was written can be read back, where that proves more than the writing did.
    pub reader: Option<Reader>,
}

/// How a target is read, and written again.
pub struct Reader {
    /// The server.
    pub config: MysqlConfig,
    /// Time and chance.
    pub ground: Ground,
    /// What goes by another name there than in the snapshot, by its old name.
    pub names: BTreeMap<String, String>,
    target: MysqlTarget,
}

impl Reader {
    /// Returns the configuration that reads what a snapshot with this inventory has, whatever the policy takes today.
    pub fn config_for(&self, inventory: &[String]) -> MysqlConfig {
        let (databases, exclude) = patterns_of(&renamed_items(&self.names, inventory));
        MysqlConfig { databases, exclude, ..self.config.clone() }
    }

    /// Makes the target once more.
    pub fn target(&self) -> Box<dyn Target> {
        Box::new(self.target.clone())
    }
}

/// Makes the target of a restore of `config`.
pub fn target(
    config: &SourceConfig,
    into: Option<&Into>,
    ground: &Ground,
    monitor: &SharedMonitor,
) -> Result<ReadyTarget> {
    chosen_target(config, into, Chosen::default(), ground, monitor)
}

/// What a person chose about a restore, and what of this host outlives it.
#[derive(Clone, Debug, Default)]
pub struct Chosen {
    /// About MySQL.
    pub mysql: Choices,
    /// About Redis.
    pub waived: Waived,
    /// What becomes of times at which keys of Redis expire.
    pub ttl: Ttl,
    /// The safety copy of a Redis server that is loaded, where it is none of a repository.
    pub copy: Option<PathBuf>,
    /// Where a server that is taken over is noted, and what it held is kept; nowhere for one that is thrown away.
    pub home: Option<Home>,
    /// Whether users, groups and rights of `MinIO` are put back.
    pub iam: bool,
}

/// Makes the target of a restore of `config` that does as was chosen; a source of another kind leaves no choice.
pub fn chosen_target(
    config: &SourceConfig,
    into: Option<&Into>,
    chosen: Chosen,
    ground: &Ground,
    monitor: &SharedMonitor,
) -> Result<ReadyTarget> {
    let Chosen { mysql: choices, waived, ttl, copy, home, iam } = chosen;
    let (name, ground, monitor) = (config.name.clone(), ground.clone(), monitor.clone());
    let mut kind = config.kind.clone();
    match into {
        Some(Into::Folder(folder)) => return Ok(folder_target(name, &kind, folder, monitor)),
        Some(Into::Server(url)) => kind.redirect(url)?,
        Some(Into::Database(_)) | None => {}
    }
    let db = into.and_then(Into::redis_database);
    let said = into.and_then(|into| into.said(kind == config.kind));
    let mut place = kind.place();
    place.extend(db.map(|db| format!(", database {db}")));
    let (mut words, mut exchange, mut reader) = (BTreeMap::new(), None, None);
    let target: Box<dyn Target> = match kind {
        SourceKind::Mysql(config) => {
            let target = MysqlTarget::new(name, config.clone(), &ground, monitor).choosing(choices.clone());
            (words, exchange) = (choices.words(), target.exchange()?);
            reader = Some(Reader { config, ground, names: BTreeMap::new(), target: target.clone() });
            Box::new(target)
        }
        SourceKind::Redis(kind) => {
            words.extend((ttl != Ttl::Keep).then(|| ("ttl", ttl.word().to_owned())));
            let target = RedisTarget::new(name, kind, ground, monitor).at_home(home).waiving(waived);
            Box::new(target.placed(said).into_database(db).expiring(ttl).from_copy(copy))
        }
        SourceKind::S3(kind) => {
            let bucket = match into {
                Some(Into::Server(url)) => bucket_of(url),
                _ => None,
            };
            place.extend(bucket.iter().flat_map(|bucket| ["/", bucket]));
            let notes = home.map(|home| home.folder.join("uploads"));
            words.extend(iam.then(|| ("iam", "replace".to_owned())));
            Box::new(S3Target::new(name, kind, monitor).into_bucket(bucket).with_iam(iam).noting(notes))
        }
        SourceKind::Files(kind) => Box::new(FilesTarget::new(name, kind, monitor)),
    };
    Ok(ReadyTarget { target, place, is_native: true, choices: words, exchange, reader })
}

/// A files source is put below the folder as it was; any other source's entries become plain files in it.
fn folder_target(name: SourceName, kind: &SourceKind, folder: &Path, monitor: SharedMonitor) -> ReadyTarget {
    let place = folder.display().to_string();
    let target: Box<dyn Target> = match kind {
        SourceKind::Files(_) => Box::new(FilesTarget::into(name, folder, monitor)),
        _ => Box::new(EntryFolder::new(name, folder)),
    };
    let is_native = matches!(kind, SourceKind::Files(_));
    ReadyTarget { target, place, is_native, choices: BTreeMap::new(), exchange: None, reader: None }
}
