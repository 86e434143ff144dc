//! Everything that lies in a store, as types: the format of version 3. `docs/FORMAT.md` tells it in words.
//!
//! Readers accept [`FORMAT_MIN`] to [`FORMAT`]; a newer number is refused with the number in the text. Unknown fields
//! are refused too: what a reader does not know it cannot keep.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{
    clock::stored_time,
    drill::{Outcome, Way},
    error::{Context, ExitCode, Failure, Result},
    flow::{Attrs, EntryMeta, Point, Problem},
    names::{ChunkId, Key, PackId, SnapshotId, SourceName},
};

/// The format's version. Every change of what lies in a store raises it.
pub const FORMAT: u32 = 3;
/// The oldest version that is read. Version 1 knew no prune: refs did not tell what is pinned.
pub const FORMAT_MIN: u32 = 1;

/// zstd level of the small metadata objects.
const META_LEVEL: i32 = 3;
/// Bytes that a metadata object may have when unpacked; a larger one is hostile.
const META_BYTES_MAX: usize = 1 << 30;
/// Bytes at which packs are closed at most; one is in memory while it fills, and two while they are put.
const PACK_SIZE_BYTES_MAX: u64 = 512 << 20;
/// Plain bytes that a frame may have: the largest chunk, its header, and a frame that was almost full.
pub const FRAME_BYTES_MAX: usize = 24 << 20;
/// Plain bytes that a frame has at least: the header of one member.
const MEMBER_BYTES_MIN: u32 = 512;
/// Bytes by which zstd may make a frame larger, beside one in 128 of what does not compress: readers plan by plain
/// bytes and fetch packed ones.
const FRAME_OVERHEAD_BYTES_MAX: u32 = 256;
/// Seconds that a restore may be told to have taken: thirty years, so that they are a span of time anywhere.
const RTO_SECONDS_MAX: f64 = 1e9;
/// Bytes that the age header of a pack may have; sixteen recipients need 1,800.
const HEAD_BYTES_MAX: u64 = 64 << 10;

/// `config.json`, later `config.r<revision>.json`: what a repository is. Signed, in the clear.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// [`FORMAT`].
    pub format: u32,
    /// Random id, 32 hex digits.
    pub repository: String,
    /// When it was made.
    #[serde(deserialize_with = "stored_time")]
    pub created: DateTime<Utc>,
    /// How chunks are cut.
    pub chunker: ChunkerConfig,
    /// Whom packs are sealed to.
    pub data_recipients: Vec<String>,
    /// Whom indexes, manifests and entry lists are sealed to besides.
    pub index_recipients: Vec<String>,
    /// Who may sign, `RW…`.
    pub signers: Vec<String>,
    /// Bytes at which a pack is closed.
    pub pack_size_bytes: u64,
    /// Counts up when readers change; the highest one is in force.
    #[serde(default)]
    pub revision: u32,
}

/// How chunks are cut.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChunkerConfig {
    /// `fastcdc-v2020`, normalization level 1.
    pub algorithm: String,
    /// Bytes of the smallest chunk.
    pub min_bytes: u32,
    /// Bytes of a chunk on average.
    pub avg_bytes: u32,
    /// Bytes of the largest chunk.
    pub max_bytes: u32,
    /// The gear seed as 16 hex digits, sealed to all recipients, base16: without it nobody can guess from
    /// pack sizes what a chunk holds.
    pub seed_sealed: String,
}

/// `refs/<snapshot>.r<rev>.json`: which packs a snapshot needs, in the clear; its signature is the commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Refs {
    /// [`FORMAT`].
    pub format: u32,
    /// The repository's id, so that refs cannot be carried to another one.
    pub repository: String,
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// Counts up when packs are rewritten.
    pub revision: u32,
    /// Counts the writer's commits, from 1.
    pub seq: u64,
    /// SHA-256 of the writer's previous refs file, if there is one.
    pub previous: Option<PackId>,
    /// Whether the snapshot is whole.
    pub status: Status,
    /// When it was begun.
    #[serde(deserialize_with = "stored_time")]
    pub began: DateTime<Utc>,
    /// The manifest's SHA-256.
    pub manifest: PackId,
    /// The manifest's size.
    pub manifest_size_bytes: u64,
    /// Every pack that a chunk of this snapshot is in, with its size.
    pub packs: BTreeMap<PackId, u64>,
    /// Whether it is kept for ever; the reason is in the manifest. Unknown in version 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pinned: Option<bool>,
    /// The revision of the config that it was made with: an older one that comes back is noticed.
    #[serde(default)]
    pub config: u32,
    /// Whether it holds only those of the stack's sources that a person named. Unknown before version 3.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub chosen: bool,
}

impl Refs {
    /// Returns whether the snapshot stands for all that its host was to back up: no source is missing, and none was
    /// left aside.
    pub fn is_whole(&self) -> bool {
        self.status == Status::Complete && !self.chosen
    }

    /// Returns the word that people and `--json` see: `complete` is a snapshot that stands for the whole stack.
    pub fn word(&self) -> &'static str {
        match self.status {
            Status::Complete if self.chosen => CHOSEN,
            status => status.word(),
        }
    }
}

/// The word for a snapshot of sources that a person named.
pub const CHOSEN: &str = "chosen";

/// Whether a snapshot holds all that its sources announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Everything.
    Complete,
    /// Something is missing; the manifest names it.
    Partial,
}

impl Status {
    /// Returns the word that people and `--json` see.
    pub fn word(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Partial => "partial",
        }
    }
}

/// `manifests/<snapshot>.json.zst.age`: what a snapshot holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: u32,
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// The stack's name.
    pub stack: String,
    /// The host that made it.
    pub host: String,
    /// The program that made it.
    pub lifeboat: String,
    /// When it was begun.
    #[serde(deserialize_with = "stored_time")]
    pub began: DateTime<Utc>,
    /// When the last source was read.
    #[serde(deserialize_with = "stored_time")]
    pub ended: DateTime<Utc>,
    /// A word that the operator gave it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// Why it is kept for ever, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pin: Option<String>,
    /// The sources, in the order in which they were read.
    pub sources: Vec<SourceManifest>,
    /// The sources that should be in it and could not be read, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failed: Vec<Problem>,
    /// SHA-256 of the plan of the run, where several processes made it together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<PackId>,
}

/// One source of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceManifest {
    /// Its name.
    pub name: SourceName,
    /// Its engine: `mysql`, `redis`, `s3`, `files`.
    pub kind: String,
    /// The instant it was read at.
    pub point: Point,
    /// When its reading began.
    #[serde(deserialize_with = "stored_time")]
    pub began: DateTime<Utc>,
    /// When its reading ended.
    #[serde(deserialize_with = "stored_time")]
    pub ended: DateTime<Utc>,
    /// What it announced.
    pub inventory: Vec<String>,
    /// What it had to leave out.
    pub problems: Vec<Problem>,
    /// How many entries it has.
    pub entries: u64,
    /// Their plain bytes.
    pub size_bytes: u64,
    /// Plain bytes that the source sent; less than `size_bytes` where it could tell what did not change.
    pub read_bytes: u64,
    /// Plain bytes of the chunks that were not in the repository before.
    pub added_bytes: u64,
    /// The chunks of the entry list: JSON lines, an [`EntryRecord`] each.
    pub list: Vec<ChunkId>,
}

/// A line of an entry list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EntryRecord {
    /// What is known of it.
    pub meta: EntryMeta,
    /// What was told at its end.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub trailer: Attrs,
    /// Its plain bytes.
    pub size_bytes: u64,
    /// SHA-256 of all its plain bytes.
    pub sha256: ChunkId,
    /// Its chunks in order, or the chunks of that list.
    pub body: BodyRecord,
}

/// Where an entry's bytes are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BodyRecord {
    /// The chunks, in order.
    Chunks(Vec<ChunkId>),
    /// Chunks that hold the list of chunks, an id a line: for entries of very many chunks.
    Lists(Vec<ChunkId>),
}

/// Chunk ids that a record holds itself; a longer list goes into chunks of its own.
pub const CHUNKS_IN_RECORD_MAX: usize = 4096;

/// A line of an index object: one pack and where things are in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PackRecord {
    /// The pack.
    pub pack: PackId,
    /// Its size in the store.
    pub size_bytes: u64,
    /// Where its age payload begins.
    pub payload_offset: u64,
    /// Who can open it.
    pub kind: PackKind,
    /// The revision of the config whose readers it is sealed to.
    #[serde(default)]
    pub config: u32,
    /// Its frames and chunks.
    pub inner: PackIndex,
}

/// Who can open a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PackKind {
    /// Data recipients only.
    Data,
    /// The index recipients too: it holds entry lists.
    Meta,
}

/// `PACK-INDEX.json`, the last member of every pack: with the key, an index can be made anew from packs alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackTail {
    /// Who can open the pack; unknown in format 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<PackKind>,
    /// The revision of the config whose readers it is sealed to.
    #[serde(default)]
    pub config: u32,
    /// Its frames and chunks.
    #[serde(flatten)]
    pub index: PackIndex,
}

/// What lies where in a pack.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackIndex {
    /// The zstd frames before the one that holds this index.
    pub frames: Vec<FrameRecord>,
    /// The chunks.
    pub chunks: Vec<ChunkRecord>,
}

/// One zstd frame of a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FrameRecord {
    /// Where it begins in the age payload.
    pub offset: u64,
    /// Its compressed bytes.
    pub size_bytes: u32,
    /// Its plain bytes.
    pub plain_bytes: u32,
}

/// One chunk of a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChunkRecord {
    /// The chunk.
    pub id: ChunkId,
    /// The number of its frame.
    pub frame: u32,
    /// Where it begins in the plain frame.
    pub offset: u32,
    /// Its bytes.
    pub size_bytes: u32,
}

/// `drills/<drill>.json`: what a drill found, in the clear; its signature is what counts. What it found in detail names
/// tables, rows and keys, and lies sealed beside it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proof {
    /// [`FORMAT`].
    pub format: u32,
    /// The repository's id.
    pub repository: String,
    /// The drill.
    pub drill: SnapshotId,
    /// The snapshot that was restored.
    pub snapshot: SnapshotId,
    /// SHA-256 of the refs that it was restored by: a proof is of that very commit and no other.
    pub refs: PackId,
    /// How it was restored.
    pub way: Way,
    /// Where the bytes came from, as the policy of the host that drilled calls it: `repository`, or the name of an
    /// offsite. The first proofs did not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<SourceName>,
    /// What came of it.
    pub outcome: Outcome,
    /// Whether it failed for its time alone: everything was restored, and all else that was asked held.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub only_slow: bool,
    /// When the drill began.
    #[serde(deserialize_with = "stored_time")]
    pub began: DateTime<Utc>,
    /// When it ended.
    #[serde(deserialize_with = "stored_time")]
    pub ended: DateTime<Utc>,
    /// Seconds that the restore of everything took, if everything was restored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rto_seconds: Option<f64>,
    /// How many sources were restored.
    pub sources: u64,
    /// The names of all sources that the snapshot has or should have: a drill of others says nothing about it. The
    /// first proofs did not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub covers: Option<Vec<SourceName>>,
    /// How many assertions held, failed, and could not be asked.
    pub assertions: [u64; 3],
    /// The full report, if it was kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<SealedReport>,
}

/// Where the full report of a drill lies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SealedReport {
    /// The object.
    pub object: Key,
    /// SHA-256 of its bytes.
    pub sha256: PackId,
    /// Its size.
    pub size_bytes: u64,
}

/// Names of the objects in a store.
pub mod layout {
    use super::{Key, PackId, SnapshotId};

    /// What the names of configs begin with.
    pub const CONFIG_PREFIX: &str = "config.";
    /// The first config.
    pub const CONFIG: &str = "config.json";
    /// Where packs are.
    pub const PACKS: &str = "packs/";
    /// Where indexes are.
    pub const INDEX: &str = "index/";
    /// Where refs and their signatures are.
    pub const REFS: &str = "refs/";
    /// Where manifests are.
    pub const MANIFESTS: &str = "manifests/";
    /// Where proofs of drills and their reports are.
    pub const DRILLS: &str = "drills/";
    /// What a signature's name ends with.
    pub const SIGNATURE: &str = ".minisig";

    fn key(text: &str) -> Key {
        Key::new(text).unwrap_or_else(|error| panic!("{error}"))
    }

    /// `config.json`.
    pub fn config() -> Key {
        key(CONFIG)
    }

    /// `config.json`, or `config.r<revision>.json` for a later one.
    pub fn config_revision(revision: u32) -> Key {
        if revision == 0 { config() } else { key(&format!("{CONFIG_PREFIX}r{revision}.json")) }
    }

    /// The revision that `key` names.
    pub fn config_of(key: &Key) -> Option<u32> {
        if key.as_str() == CONFIG {
            return Some(0);
        }
        let revision = key.as_str().strip_prefix(CONFIG_PREFIX)?.strip_prefix('r')?.strip_suffix(".json")?;
        let revision = revision.parse().ok()?;
        (config_revision(revision) == *key).then_some(revision)
    }

    /// `packs/ab/ab….tar.zst.age`.
    pub fn pack(id: PackId) -> Key {
        let id = id.to_string();
        key(&format!("{PACKS}{}/{id}.tar.zst.age", &id[..2]))
    }

    /// The pack that `key` names.
    pub fn pack_of(key: &Key) -> Option<PackId> {
        let name = key.as_str().strip_prefix(PACKS)?.split_once('/')?.1;
        let id = name.strip_suffix(".tar.zst.age")?.parse().ok()?;
        (pack(id) == *key).then_some(id)
    }

    /// `index/<session>-<n>.jsonl.zst.age`.
    pub fn index(session: &str, number: u32) -> Key {
        key(&format!("{INDEX}{session}-{number}.jsonl.zst.age"))
    }

    /// The run that put the index `key`.
    pub fn index_of(key: &Key) -> Option<SnapshotId> {
        let name = key.as_str().strip_prefix(INDEX)?.strip_suffix(".jsonl.zst.age")?;
        SnapshotId::new(name.rsplit_once('-')?.0).ok()
    }

    /// `manifests/<snapshot>.json.zst.age`.
    pub fn manifest(snapshot: &SnapshotId) -> Key {
        key(&format!("{MANIFESTS}{snapshot}.json.zst.age"))
    }

    /// The snapshot that the manifest `key` is of.
    pub fn manifest_of(key: &Key) -> Option<SnapshotId> {
        SnapshotId::new(key.as_str().strip_prefix(MANIFESTS)?.strip_suffix(".json.zst.age")?).ok()
    }

    /// `refs/<snapshot>.r<revision>.json`.
    pub fn refs(snapshot: &SnapshotId, revision: u32) -> Key {
        key(&format!("{REFS}{snapshot}.r{revision}.json"))
    }

    /// The snapshot and revision that `key` names.
    pub fn refs_of(key: &Key) -> Option<(SnapshotId, u32)> {
        let name = key.as_str().strip_prefix(REFS)?.strip_suffix(".json")?;
        let (snapshot, revision) = name.split_once(".r")?;
        let (snapshot, revision) = (SnapshotId::new(snapshot).ok()?, revision.parse().ok()?);
        (refs(&snapshot, revision) == *key).then_some((snapshot, revision))
    }

    /// `drills/<drill>.json`.
    pub fn drill(drill: &SnapshotId) -> Key {
        key(&format!("{DRILLS}{drill}.json"))
    }

    /// `drills/<drill>.tar.zst.age`.
    pub fn drill_report(drill: &SnapshotId) -> Key {
        key(&format!("{DRILLS}{drill}.tar.zst.age"))
    }

    /// The drill that `key` is the proof of.
    pub fn drill_of(key: &Key) -> Option<SnapshotId> {
        SnapshotId::new(key.as_str().strip_prefix(DRILLS)?.strip_suffix(".json")?).ok()
    }

    /// What `key` is the signature of, if it is one.
    pub fn signed_by(key: &Key) -> Option<Key> {
        Key::new(key.as_str().strip_suffix(SIGNATURE)?).ok()
    }

    /// The signature of `of`.
    pub fn signature(of: &Key) -> Key {
        key(&format!("{of}{SIGNATURE}"))
    }
}

impl Manifest {
    /// Returns the plain bytes of all entries.
    pub fn size_bytes(&self) -> u64 {
        self.sources.iter().fold(0, |sum, source| sum.saturating_add(source.size_bytes))
    }
}

/// The one field that is read before all others: a newer format may have others.
#[derive(Deserialize)]
struct Version {
    format: u32,
}

impl Proof {
    /// Parses a proof; tells a newer format from a broken one. `what` names it in the failure.
    pub fn parse(bytes: &[u8], what: &str) -> Result<Self> {
        let version: Version = parse(bytes, what)?;
        check_version(version.format, &format!("`{what}`"))?;
        let proof: Self = parse(bytes, what)?;
        if proof.rto_seconds.is_none_or(|seconds| (0.0..=RTO_SECONDS_MAX).contains(&seconds)) {
            return Ok(proof);
        }
        Err(Failure::new(ExitCode::Damage, format!("`{what}` tells of a time that no restore takes")))
    }
}

impl Config {
    /// Parses a config; tells a newer format from a broken one.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let version: Version = parse(bytes, layout::CONFIG)?;
        check_version(version.format, "the repository")?;
        parse(bytes, layout::CONFIG)
    }

    /// Returns whether chunks are cut as `other` says: no revision may change that.
    pub fn cuts_like(&self, other: &Self) -> bool {
        let sizes = |config: &Self| {
            let ChunkerConfig { algorithm, min_bytes, avg_bytes, max_bytes, .. } = config.chunker.clone();
            (algorithm, min_bytes, avg_bytes, max_bytes)
        };
        sizes(self) == sizes(other)
    }

    /// Checks the numbers that memory depends on.
    pub fn check(&self) -> Result<()> {
        if (1..=PACK_SIZE_BYTES_MAX).contains(&self.pack_size_bytes) {
            return Ok(());
        }
        let what = format!("`{}` asks for packs of {} bytes", layout::CONFIG, self.pack_size_bytes);
        Err(Failure::new(ExitCode::NoRepository, what))
    }
}

/// Refuses a version that this program does not read; `what` has it.
pub(super) fn check_version(format: u32, what: &str) -> Result<()> {
    if (FORMAT_MIN..=FORMAT).contains(&format) {
        return Ok(());
    }
    let what = format!("{what} has format {format}, this lifeboat reads formats {FORMAT_MIN} to {FORMAT}");
    Err(Failure::new(ExitCode::NoRepository, what)
        .hint("Use the lifeboat that wrote it, or a newer one; RECOVERY.md works without any."))
}

impl PackRecord {
    /// Parses the lines of an index object and checks each; `what` names it in the failure.
    pub fn parse_lines(plain: &[u8], what: &str) -> Result<Vec<Self>> {
        let lines = plain.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let read = |line: &[u8]| {
            let record: Self = parse(line, what)?;
            record.check()?;
            Ok(record)
        };
        lines.map(read).collect()
    }

    /// Checks that its numbers can be true of a pack: readers add, allocate and ask the store by them.
    pub fn check(&self) -> Result<()> {
        let mut end = 0;
        let frames_good = self.inner.frames.iter().all(|frame| {
            let follows = frame.offset == end && frame.size_bytes > 0;
            end += u64::from(frame.size_bytes);
            let holds_a_member = frame.plain_bytes >= MEMBER_BYTES_MIN;
            let grew = frame.size_bytes.saturating_sub(frame.plain_bytes);
            let is_packed = grew <= frame.plain_bytes / 128 + FRAME_OVERHEAD_BYTES_MAX;
            follows && holds_a_member && is_packed && frame.plain_bytes as usize <= FRAME_BYTES_MAX
        });
        let chunks_good = self.inner.chunks.iter().all(|chunk| {
            let frame = self.inner.frames.get(chunk.frame as usize);
            let end = u64::from(chunk.offset) + u64::from(chunk.size_bytes);
            frame.is_some_and(|frame| end <= u64::from(frame.plain_bytes))
        });
        let fits = self.payload_offset <= HEAD_BYTES_MAX && self.payload_offset + end <= self.size_bytes;
        if frames_good && chunks_good && fits {
            return Ok(());
        }
        Err(Failure::new(ExitCode::Damage, format!("no pack can be as pack `{}` is told to be", self.pack)))
    }
}

/// Parses JSON that lies in a store; `what` names it in the failure.
pub fn parse<T: serde::de::DeserializeOwned>(bytes: &[u8], what: &str) -> Result<T> {
    serde_json::from_slice(bytes).failed(ExitCode::Damage, || format!("`{what}` is not what the format says"))
}

/// Writes JSON; the types of this module cannot fail.
pub fn write<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("the format's types have text keys only")
}

/// Compresses a metadata object.
pub fn pack_meta(plain: &[u8]) -> Result<Vec<u8>> {
    zstd::bulk::compress(plain, META_LEVEL).failed(ExitCode::Failed, || "compression failed".to_owned())
}

/// Unpacks a metadata object of bounded size; `what` names it in the failure.
pub fn unpack_meta(packed: &[u8], what: &str) -> Result<Vec<u8>> {
    use std::io::Read;
    let damaged = || format!("`{what}` cannot be unpacked");
    let decoder = zstd::stream::read::Decoder::new(packed).failed(ExitCode::Damage, damaged)?;
    let mut plain = Vec::new();
    let read =
        decoder.take(META_BYTES_MAX as u64 + 1).read_to_end(&mut plain).failed(ExitCode::Damage, damaged)?;
    if read > META_BYTES_MAX {
        return Err(Failure::new(
            ExitCode::Damage,
            format!("`{what}` unpacks to more than {META_BYTES_MAX} bytes"),
        ));
    }
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_the_store_lead_back_to_what_they_name() {
        let pack = PackId([0xab; 32]);
        assert!(layout::pack(pack).as_str().starts_with("packs/ab/abab"));
        assert_eq!(layout::pack_of(&layout::pack(pack)), Some(pack));
        let snapshot = SnapshotId::new("20251010T180000Z-7f3a").unwrap();
        assert_eq!(layout::refs_of(&layout::refs(&snapshot, 3)), Some((snapshot.clone(), 3)));
        assert_eq!(layout::refs_of(&layout::signature(&layout::refs(&snapshot, 3))), None);
        assert_eq!(layout::drill_of(&layout::drill(&snapshot)), Some(snapshot.clone()));
        for other in [layout::drill_report(&snapshot), layout::signature(&layout::drill(&snapshot))] {
            assert_eq!(layout::drill_of(&other), None);
        }
    }

    #[test]
    fn a_newer_format_is_told_from_a_broken_one() {
        let newer = Config::parse(br#"{"format": 4, "something": "new"}"#).unwrap_err();
        assert_eq!(newer.exit(), ExitCode::NoRepository);
        assert!(newer.to_string().contains("format 4"));
        assert_eq!(Config::parse(b"{").unwrap_err().exit(), ExitCode::Damage);
    }

    #[test]
    fn metadata_survives_its_packing_and_damage_is_an_error() {
        let plain = b"hello hello hello".repeat(100);
        let packed = pack_meta(&plain).unwrap();
        assert_eq!(unpack_meta(&packed, "x").unwrap(), plain);
        assert!(unpack_meta(&packed[..packed.len() - 1], "x").is_err());
        assert!(unpack_meta(b"no zstd", "x").is_err());
    }
}
