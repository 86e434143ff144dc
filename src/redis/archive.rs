//! A dump that came back from a repository: spooled whole and proven before any server hears of it.
//!
//! A live server that is fed a damaged dump exits, and may keep the damaged file as its own; so checksum
//! and structure are checked here, over all bytes, first.

use std::collections::BTreeMap;

use tokio::io::AsyncWriteExt;

use super::{
    cluster_read::MAP,
    describe::ServerFacts,
    expiry::{self, Ttl},
    merge::{MergeError, Part, merge},
    rdb::{Item, KeyCount, RdbError, Survey, Tape, Walker},
    source::{DUMP, FACTS, is_dump},
    spool::Spool,
};
use crate::{
    error::{Context, ExitCode, Failure, Result},
    flow::{Attrs, Entry, EntryStream, FlowResult},
    policy::RedisConfig,
};

/// Bytes that the server's facts may have.
const FACTS_BYTES_MAX: usize = 16 << 20;

/// Bytes that a server uses without keys, and beside the bytes of each key: its place in the table, its object.
const EMPTY_SERVER_BYTES: u64 = 1 << 20;
const KEY_BYTES: u64 = 56;

/// A proven dump and what is known of the server that it came from.
pub(super) struct Archive {
    /// The dump.
    pub(super) spool: Spool,
    /// What it holds.
    pub(super) survey: Survey,
    /// What the server said of itself, where that was stored.
    pub(super) facts: Option<ServerFacts>,
    /// Entries that came.
    pub(super) entries: u64,
    /// Bytes that came.
    pub(super) bytes: u64,
    /// The instant that it holds, milliseconds of unix time.
    pub(super) at_ms: i64,
}

impl Archive {
    /// Takes all entries to the end of the stream and proves the dump.
    pub(super) async fn take(mut stream: EntryStream, config: &RedisConfig, now_ms: i64) -> FlowResult<Self> {
        let (mut facts, mut dumps) = (None, Vec::new());
        let (mut entries, mut bytes) = (0, 0);
        while let Some(mut entry) = stream.next().await? {
            entries += 1;
            match entry.meta.path.as_str() {
                path if is_dump(path) => {
                    let spool = Spool::new(config.spool_dir.as_ref())?;
                    bytes += fill(&spool, &mut entry).await?;
                    dumps.push((spool, entry.body.trailer().clone()));
                }
                // Each dump says itself which slots it has.
                path if path == MAP.0 => bytes += entry.body.read_all(FACTS_BYTES_MAX).await?.len() as u64,
                path if path == FACTS.0 => {
                    let json = entry.body.read_all(FACTS_BYTES_MAX).await?;
                    bytes += json.len() as u64;
                    let read = serde_json::from_slice(&json);
                    facts = read.failed(ExitCode::Damage, || format!("entry `{path}` cannot be read"))?;
                }
                path => {
                    let what = format!("entry `{path}` is none that a redis source writes");
                    return Err(Failure::new(ExitCode::Failed, what)
                        .hint("The snapshot was made by a newer version: use that one.")
                        .into());
                }
            }
        }
        // Of a cluster, a shard that is damaged is missing in the whole.
        if let Some(problem) = stream.problems().iter().find(|problem| is_dump_item(&problem.what)) {
            return Err(Failure::new(
                ExitCode::Damage,
                "the dump is damaged, and a part of one is of no use",
            )
            .because(problem.why.clone())
            .hint("Nothing was changed on the server. Restore another snapshot of this source.")
            .into());
        }
        if dumps.is_empty() {
            let what = format!("the snapshot holds no `{}` for this source", DUMP.0);
            return Err(Failure::new(ExitCode::Failed, what).into());
        }
        let mut parts = Vec::new();
        for (spool, trailer) in dumps {
            let survey = prove(&spool, now_ms).await?;
            compare(&survey, &trailer)?;
            parts.push((Part { spool, slots: slots(&trailer) }, survey));
        }
        let (spool, survey) = whole(parts, config, now_ms).await.map_err(|failure| match failure.exit() {
            ExitCode::Damage => failure,
            _ => failure.hint(
                "Nothing was changed. `lifeboat export latest SOURCE/dump-….rdb --format rdb` writes each shard's dump to a file.",
            ),
        })?;
        let at_ms = stream.point().map_or(now_ms, |point| point.at.timestamp_millis());
        Ok(Self { spool, survey, facts, entries, bytes, at_ms })
    }

    /// Gives what expires other times, where that was chosen.
    pub(super) async fn expiring(self, ttl: Ttl, config: &RedisConfig, now_ms: i64) -> Result<Self> {
        let Some(rule) = ttl.rule(self.at_ms, now_ms) else { return Ok(self) };
        if !self.survey.introspected {
            let what = "the dump is of a newer format than this version can take apart";
            return Err(Failure::new(ExitCode::Failed, what).hint("Nothing was changed. Leave --ttl out."));
        }
        let (from, into) = (self.spool.clone(), Spool::new(config.spool_dir.as_ref())?);
        let to = into.clone();
        let what = || "the dump was not written with other times of expiry".to_owned();
        let written = tokio::task::spawn_blocking(move || expiry::rewrite(&from, rule, &to)).await;
        written.failed(ExitCode::Failed, what)?.failed(ExitCode::Failed, what).map_err(|failure| {
            failure.hint("Nothing was changed. The spool folder needs room for the dump twice.")
        })?;
        let survey = prove(&into, now_ms).await?;
        Ok(Self { spool: into, survey, ..self })
    }

    /// Walks the dump and estimates how much memory its keys take in a server, where values are not compressed.
    pub(super) async fn weigh(&self) -> Result<u64> {
        let from = self.spool.reader(0);
        let walked = tokio::task::spawn_blocking(move || weigh(from)).await;
        let walked = walked.failed(ExitCode::Failed, || "the dump was not weighed".to_owned())?;
        walked.failed(ExitCode::Failed, || "the spooled dump cannot be read again".to_owned())
    }

    /// Walks the dump again and returns how many keys have expired by `now_ms`.
    pub(super) async fn expired_by(&self, now_ms: i64) -> Result<u64> {
        Ok(prove(&self.spool, now_ms).await?.expired.values().flat_map(KeyCount::values).sum())
    }
}

/// Returns whether an item of the inventory is a dump.
fn is_dump_item(item: &str) -> bool {
    is_dump(&format!("{item}.rdb"))
}

/// Returns the slots that a dump was noted to have.
fn slots(trailer: &Attrs) -> Vec<(u16, u16)> {
    let noted = trailer.get("slots").cloned();
    noted.and_then(|noted| serde_json::from_value(noted).ok()).unwrap_or_default()
}

/// Makes one dump of those of a cluster's shards.
pub(super) async fn whole(
    mut parts: Vec<(Part, Survey)>,
    config: &RedisConfig,
    now_ms: i64,
) -> Result<(Spool, Survey)> {
    if parts.len() == 1
        && let Some((part, survey)) = parts.pop()
    {
        return Ok((part.spool, survey));
    }
    if parts.iter().any(|(_, survey)| !survey.introspected) {
        let what = "the cluster's dumps are of a newer format than this version can put together";
        return Err(Failure::new(ExitCode::Failed, what));
    }
    let spool = Spool::new(config.spool_dir.as_ref())?;
    let into = spool.clone();
    let merged = tokio::task::spawn_blocking(move || {
        let parts: Vec<Part> = parts.into_iter().map(|(part, _)| part).collect();
        merge(&parts, &into)
    });
    let merged = merged.await.failed(ExitCode::Failed, || "the dumps were not put together".to_owned())?;
    merged.map_err(|error| {
        let is_room = matches!(error, MergeError::Write(_));
        let failure =
            Failure::new(ExitCode::Failed, "the cluster's dumps cannot be put together").because(error);
        if is_room {
            return failure.hint(
                "Make room for twice all dumps in the spool folder, or set `spool_dir` of this source.",
            );
        }
        failure
    })?;
    let survey = prove(&spool, now_ms).await?;
    Ok((spool, survey))
}

fn weigh(from: impl std::io::Read) -> Result<u64, RdbError> {
    let mut walker = Walker::begin(Tape::new(from, None), false)?;
    let mut sum = EMPTY_SERVER_BYTES;
    loop {
        match walker.next()? {
            Item::Key(found) => sum += KEY_BYTES + found.key.len() as u64 + 2 * (found.end - found.begin),
            Item::End { .. } => return Ok(sum),
            _ => {}
        }
    }
}

/// Writes an entry's body to the spool and returns its size.
async fn fill(spool: &Spool, entry: &mut Entry) -> FlowResult<u64> {
    let what = || "the dump cannot be written to the spool folder".to_owned();
    let mut file = tokio::fs::File::from_std(spool.rewound()?);
    let mut count = 0;
    while let Some(bytes) = entry.body.next().await? {
        file.write_all(&bytes).await.failed(ExitCode::Failed, what)?;
        count += bytes.len() as u64;
    }
    file.flush().await.failed(ExitCode::Failed, what)?;
    Ok(count)
}

/// Checks structure and checksum of the whole dump.
pub(super) async fn prove(spool: &Spool, now_ms: i64) -> Result<Survey> {
    let from = spool.reader(0);
    let walked = tokio::task::spawn_blocking(move || Survey::of_all(from, now_ms, false)).await;
    let walked = walked.failed(ExitCode::Failed, || "the dump was not checked".to_owned())?;
    walked.map_err(|error| {
        let exit = if matches!(error, RdbError::Read(_)) { ExitCode::Failed } else { ExitCode::Damage };
        Failure::new(exit, "the dump was not given to the server")
            .because(error)
            .hint("Nothing was changed on the server. Run `lifeboat verify --read-data`, and restore another snapshot.")
    })
}

/// Compares what the dump holds with what was noted when it was stored.
fn compare(survey: &Survey, trailer: &Attrs) -> Result<()> {
    let Some(noted) = trailer.get("keys") else { return Ok(()) };
    let noted: BTreeMap<u64, KeyCount> = serde_json::from_value(noted.clone())
        .failed(ExitCode::Damage, || "the manifest's key counts cannot be read".to_owned())?;
    if survey.introspected && noted != survey.keys {
        let what = "the dump holds other keys than the manifest says";
        return Err(Failure::new(ExitCode::Damage, what)
            .hint("Nothing was changed on the server. Run `lifeboat verify --read-data`."));
    }
    Ok(())
}
