//! A dump that came back from a repository: spooled whole and proven before any server hears of it.
//!
//! A live server that is fed a damaged dump exits, and may keep the damaged file as its own; so checksum
//! and structure are checked here, over all bytes, first.

use std::collections::BTreeMap;

use tokio::io::AsyncWriteExt;

use super::{
    describe::ServerFacts,
    rdb::{Item, KeyCount, RdbError, Survey, Tape, Walker},
    source::{DUMP, FACTS},
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
}

impl Archive {
    /// Takes all entries to the end of the stream and proves the dump.
    pub(super) async fn take(mut stream: EntryStream, config: &RedisConfig, now_ms: i64) -> FlowResult<Self> {
        let spool = Spool::new(config.spool_dir.as_ref())?;
        let (mut facts, mut trailer) = (None, None);
        let (mut entries, mut bytes) = (0, 0);
        while let Some(mut entry) = stream.next().await? {
            entries += 1;
            match entry.meta.path.as_str() {
                path if path == DUMP.0 => {
                    bytes += fill(&spool, &mut entry).await?;
                    trailer = Some(entry.body.trailer().clone());
                }
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
        let Some(trailer) = trailer else {
            if let Some(problem) = stream.problems().iter().find(|problem| problem.what == DUMP.1) {
                return Err(Failure::new(
                    ExitCode::Damage,
                    "the dump is damaged, and a part of one is of no use",
                )
                .because(problem.why.clone())
                .hint("Nothing was changed on the server. Restore another snapshot of this source.")
                .into());
            }
            let what = format!("the snapshot holds no `{}` for this source", DUMP.0);
            return Err(Failure::new(ExitCode::Failed, what).into());
        };
        let survey = prove(&spool, now_ms).await?;
        compare(&survey, &trailer)?;
        Ok(Self { spool, survey, facts, entries, bytes })
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
async fn prove(spool: &Spool, now_ms: i64) -> Result<Survey> {
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
