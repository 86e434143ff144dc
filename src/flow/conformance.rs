//! The laws of the flow as a suite that every engine's tests run on real servers.
//!
//! An engine gives a way to make its source and an empty target; the suite does the rest. Failures are
//! told as text, so that the caller's assertion shows what law was broken and by which entry.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

pub use super::Seen;
use super::{
    EntryMeta, FlowError, Likeness, Point, Source, Stage, Target, WriteOptions, channel, compare, pipe,
};

/// A whole reading of a source.
#[derive(Clone, Debug)]
pub struct Reading {
    /// What was announced.
    pub inventory: Vec<String>,
    /// The entries by path.
    pub entries: BTreeMap<String, Seen>,
    /// The instant it was read at.
    pub point: Point,
    /// What was left out.
    pub problems: Vec<super::Problem>,
}

/// Reads a source to its end and remembers what it sent.
///
/// Checks on the way that stages ascend, that paths are unique and that each entry's item was announced.
pub async fn read_all(source: Box<dyn Source>) -> Result<Reading, FlowError> {
    let (sink, mut stream) = channel(super::STREAM_DEPTH);
    let take = async {
        let mut entries = BTreeMap::new();
        let mut stage = Stage::Schema;
        let mut readers = tokio::task::JoinSet::new();
        while let Some(mut entry) = stream.next().await? {
            assert!(entry.meta.stage >= stage, "`{}` comes after a later stage", entry.meta.path);
            stage = entry.meta.stage;
            assert!(
                stream.inventory().contains(&entry.meta.item),
                "`{}` belongs to `{}`, which was not announced",
                entry.meta.path,
                entry.meta.item
            );
            readers.spawn(async move {
                let mut hash = Sha256::new();
                let mut size_bytes = 0;
                while let Some(bytes) = entry.body.next().await? {
                    hash.update(&bytes);
                    size_bytes += bytes.len() as u64;
                }
                let trailer = entry.body.trailer().clone();
                let sha256 = hex::encode(hash.finalize());
                Ok::<_, FlowError>(Seen { meta: entry.meta, trailer, sha256, size_bytes })
            });
        }
        while let Some(seen) = readers.join_next().await {
            let seen = seen.expect("a reader does not panic")?;
            let path = seen.meta.path.to_string();
            assert!(entries.insert(path.clone(), seen).is_none(), "`{path}` was sent twice");
        }
        let point = stream.point().cloned().expect("a finished stream has a point");
        let (inventory, problems) = (stream.inventory().to_vec(), stream.problems().to_vec());
        Ok(Reading { inventory, entries, point, problems })
    };
    let (read, taken) = tokio::join!(source.read(sink, None), take);
    super::settle(read, taken).map(|((), reading)| reading)
}

/// Makes the two ends that the laws are checked on.
pub trait Pair {
    /// Returns a source that reads what is to be copied.
    fn source(&self) -> Box<dyn Source>;
    /// Returns a target whose place is empty.
    fn target(&self) -> Box<dyn Target>;
    /// Returns a source that reads what the target wrote.
    fn copy(&self) -> Box<dyn Source>;
    /// Returns the engine's notion of what is the same.
    fn likeness(&self) -> &dyn Likeness {
        &compare::Exact
    }
}

/// Checks laws 1 and 2: a straight pipe is a migration, and what was written reads as what was read.
///
/// # Panics
/// When a law is broken; the text says which entry differs.
pub async fn piping_is_copying(pair: &dyn Pair) {
    let before = read_all(pair.source()).await.expect("the source can be read");
    let options = WriteOptions::default();
    pipe(pair.source(), pair.target(), options).await.expect("the pipe runs");
    let after = read_all(pair.copy()).await.expect("the copy can be read");
    assert_eq!(before.inventory, after.inventory, "the copy has another inventory");
    let normal = |reading: &Reading| -> BTreeMap<String, Seen> {
        let kept = reading.entries.values().filter_map(|seen| pair.likeness().canonical(seen.clone()));
        kept.map(|seen| (seen.meta.path.to_string(), seen)).collect()
    };
    let (before, after) = (normal(&before), normal(&after));
    for (path, seen) in &before {
        let copy = after.get(path).unwrap_or_else(|| panic!("`{path}` is missing in the copy"));
        let facts = pair.likeness().differences(seen, copy);
        assert!(facts.is_empty(), "`{path}` differs in the copy: {}\n{seen:#?}\n{copy:#?}", facts.join(", "));
    }
    assert_eq!(before.len(), after.len(), "the copy has entries that the source had not");
}

/// Checks law 3: a target whose stream breaks off fails, and does not report the break as a success.
///
/// # Panics
/// When the target returns success.
pub async fn a_broken_stream_is_never_a_success(target: Box<dyn Target>, item: &str, meta: EntryMeta) {
    let (sink, stream) = channel(super::STREAM_DEPTH);
    let item = item.to_owned();
    let send = async move {
        sink.announce(vec![item]).await?;
        let mut body = sink.begin(meta).await?;
        body.write("half of it".into()).await
    };
    let options = WriteOptions::default();
    let (_, written) = tokio::join!(send, target.write(options, stream));
    assert!(written.is_err(), "a stream that broke off was taken for whole");
}
