//! What stands in the target's buckets already, walked beside the entries that come.
//!
//! *Order.* Both come sorted by bucket and key. What the snapshot does not have is written to a temporary
//! file, so memory does not grow with it, and removed only when every object of the snapshot is in place, and only if
//! it is still what was noted: what was written since stays. So few are looked at and then removed at a time that
//! hardly a moment lies between the two. What the server does not let go stays, and the others are removed all the
//! same.
//!
//! *Crash.* A run that stops before its end has removed nothing.
//!
//! *Limits.* After [`KEPT_MAX`] objects that the server does not let go no more are tried.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufRead, BufReader, BufWriter, Seek, Write},
};

use aws_sdk_s3::{
    error::ProvideErrorMetadata,
    types::{Delete, Error, ObjectIdentifier},
};
use futures_util::{StreamExt, TryStreamExt, stream};
use globset::GlobSet;
use serde::{Deserialize, Serialize};

use super::{
    client::{CallError, Server, Told, md5_alone},
    listing::{Listed, Lister, bare},
    ranges::Span,
};
use crate::error::{Context, ExitCode, Failure, Result};

/// Objects that are looked at and then removed by one request: S3 takes a thousand, of which the first would have been
/// looked at long before.
const BATCH: usize = 64;
/// Objects that are looked at side by side before they are removed.
const LOOKS: usize = 16;
/// Objects that may stay against our will before no more are tried: so many are a fault of the whole.
const KEPT_MAX: u64 = 1000;
/// Objects that the snapshot does not have that are named; the others are counted.
const NAMED_MAX: usize = 20;

/// A cursor over the objects of the target.
pub(super) struct Standing {
    server: Server,
    spared: Spared,
    walk: Option<Walk>,
    extras: Extras,
}

/// Keys that the policy leaves out of backups; that the snapshot has them not is no reason to remove them.
struct Spared {
    globs: GlobSet,
    /// What buckets are called in the snapshot, by the name that they have in the target.
    sources: BTreeMap<String, String>,
}

impl Spared {
    /// The policy speaks of the source's buckets; what its words say of the target's is heeded as well.
    fn takes(&self, bucket: &str, key: &str) -> bool {
        let names = self.sources.get(bucket).map(String::as_str).into_iter().chain([bucket]);
        names.into_iter().any(|name| self.globs.is_match(format!("{name}/{key}")))
    }
}

struct Walk {
    bucket: String,
    lister: Lister,
    next: Option<Listed>,
}

impl Standing {
    /// Begins before the first bucket.
    pub(super) fn new(server: &Server, spared: GlobSet) -> Result<Self> {
        let spared = Spared { globs: spared, sources: BTreeMap::new() };
        Ok(Self { server: server.clone(), spared, walk: None, extras: Extras::new()? })
    }

    /// Takes note of what a bucket is called in the snapshot.
    pub(super) fn enter(&mut self, bucket: &str, source: &str) {
        self.spared.sources.insert(bucket.to_owned(), source.to_owned());
    }

    /// Walks the rest of a bucket, behind a key.
    pub(super) async fn begin_behind(&mut self, bucket: &str, key: String) -> Result<()> {
        let span = Span { after: Some(key), to: None };
        let mut lister = Lister::new(&self.server, bucket).within(span);
        let next = lister.next().await?;
        self.walk = Some(Walk { bucket: bucket.to_owned(), lister, next });
        Ok(())
    }

    /// Returns the object that stands under this key, after noting all before it as extra.
    pub(super) async fn at(&mut self, bucket: &str, key: &str) -> Result<Option<Listed>> {
        if self.walk.as_ref().is_none_or(|walk| walk.bucket != bucket) {
            self.finish().await?;
            let mut lister = Lister::new(&self.server, bucket);
            let next = lister.next().await?;
            self.walk = Some(Walk { bucket: bucket.to_owned(), lister, next });
        }
        let Some(walk) = &mut self.walk else { return Ok(None) };
        while let Some(listed) = walk.next.take_if(|listed| listed.key.as_str() < key) {
            note(&mut self.extras, &self.spared, &walk.bucket, &listed)?;
            walk.next = walk.lister.next().await?;
        }
        match walk.next.take_if(|listed| listed.key == key) {
            Some(listed) => {
                walk.next = walk.lister.next().await?;
                Ok(Some(listed))
            }
            None => Ok(None),
        }
    }

    /// Notes the rest of the bucket that is being walked.
    async fn finish(&mut self) -> Result<()> {
        let Some(mut walk) = self.walk.take() else { return Ok(()) };
        while let Some(listed) = walk.next.take() {
            note(&mut self.extras, &self.spared, &walk.bucket, &listed)?;
            walk.next = walk.lister.next().await?;
        }
        Ok(())
    }

    /// Walks a whole bucket that the snapshot has no objects of.
    pub(super) async fn pass(&mut self, bucket: &str) -> Result<()> {
        self.at(bucket, "").await?;
        self.finish().await
    }

    /// Ends the walk; what is left is extra.
    pub(super) async fn into_extras(mut self) -> Result<Extras> {
        self.finish().await?;
        Ok(self.extras)
    }
}

fn note(extras: &mut Extras, spared: &Spared, bucket: &str, listed: &Listed) -> Result<()> {
    if spared.takes(bucket, &listed.key) { Ok(()) } else { extras.add(bucket, listed) }
}

/// An object that the snapshot does not have, as it was noted.
#[derive(Serialize, Deserialize)]
struct Extra {
    bucket: String,
    key: String,
    etag: String,
    size_bytes: u64,
    /// When it was written, in seconds: a HEAD tells no more.
    written: i64,
}

/// Objects that the snapshot does not have.
pub(super) struct Extras {
    file: BufWriter<File>,
    /// How many there are.
    pub(super) count: u64,
    /// The first of them, as `bucket/key`.
    pub(super) named: Vec<String>,
}

impl Extras {
    fn new() -> Result<Self> {
        let file = tempfile::tempfile().failed(ExitCode::Failed, Self::what)?;
        Ok(Self { file: BufWriter::new(file), count: 0, named: Vec::new() })
    }

    fn what() -> String {
        "failed to use a temporary file for the list of objects to remove".to_owned()
    }

    fn add(&mut self, bucket: &str, listed: &Listed) -> Result<()> {
        self.count += 1;
        if self.named.len() < NAMED_MAX {
            self.named.push(format!("{bucket}/{}", listed.key));
        }
        // As JSON, because a key may hold a line end.
        let extra = Extra {
            bucket: bucket.to_owned(),
            key: listed.key.clone(),
            etag: listed.etag.clone(),
            size_bytes: listed.size_bytes,
            written: listed.last_modified.timestamp(),
        };
        let line = serde_json::to_string(&extra).failed(ExitCode::Failed, Self::what)?;
        writeln!(self.file, "{line}").failed(ExitCode::Failed, Self::what)
    }

    /// Removes all that are still what was noted and that the server lets go.
    pub(super) async fn remove(self, server: &Server) -> Result<Removed> {
        let mut file = self.file.into_inner().failed(ExitCode::Failed, Self::what)?;
        file.rewind().failed(ExitCode::Failed, Self::what)?;
        let (mut batch, mut removed) = (Vec::new(), Removed::default());
        for line in BufReader::new(file).lines() {
            let line = line.failed(ExitCode::Failed, Self::what)?;
            let extra: Extra = serde_json::from_str(&line).failed(ExitCode::Failed, Self::what)?;
            let is_full = batch.len() == BATCH;
            if is_full || batch.last().is_some_and(|last: &Extra| last.bucket != extra.bucket) {
                remove_unchanged(server, std::mem::take(&mut batch), &mut removed).await?;
            }
            if removed.kept >= KEPT_MAX {
                break;
            }
            batch.push(extra);
        }
        remove_unchanged(server, batch, &mut removed).await?;
        Ok(removed)
    }
}

/// What became of objects that the snapshot does not have.
#[derive(Default)]
pub(super) struct Removed {
    /// How many are removed.
    pub(super) count: u64,
    /// The first of them, as `bucket/key`.
    pub(super) named: Vec<String>,
    /// How many somebody wrote or removed since they were noted.
    pub(super) changed: u64,
    /// How many the server did not let go.
    kept: u64,
    /// The first of these, and why.
    why: Option<(String, String)>,
}

impl Removed {
    /// Returns the failure of what the server did not let go.
    pub(super) fn failure(&self) -> Option<Failure> {
        let (what, why) = self.why.as_ref()?;
        let more = if self.kept < KEPT_MAX { "" } else { ", and no more were tried" };
        let failure =
            Failure::new(ExitCode::Partial, format!("{} objects cannot be removed{more}", self.kept));
        Some(
            failure
                .because(format!("`{}`: {why}", what.escape_debug()))
                .hint("All objects of the snapshot are in place; these are there beside them."),
        )
    }

    fn gone(&mut self, bucket: &str, key: &str) {
        self.count += 1;
        if self.named.len() < NAMED_MAX {
            self.named.push(format!("{bucket}/{key}"));
        }
    }

    fn kept(&mut self, bucket: &str, key: &str, why: &str) {
        self.kept += 1;
        self.why.get_or_insert_with(|| (format!("{bucket}/{key}"), why.to_owned()));
    }
}

/// Removes those of one bucket that are still what was noted.
async fn remove_unchanged(server: &Server, extras: Vec<Extra>, removed: &mut Removed) -> Result<()> {
    let Some(bucket) = extras.first().map(|extra| extra.bucket.clone()) else { return Ok(()) };
    let count = extras.len();
    let looks = extras.into_iter().map(|extra| async move {
        let is_noted = extra.stands(server).await?;
        Ok::<_, Failure>(is_noted.then_some(extra.key))
    });
    let looked: Vec<Option<String>> = stream::iter(looks).buffered(LOOKS).try_collect().await?;
    let keys: Vec<String> = looked.into_iter().flatten().collect();
    removed.changed += (count - keys.len()) as u64;
    let (plain, odd): (Vec<_>, Vec<_>) = keys.into_iter().partition(|key| key.chars().all(is_of_xml));
    for key in odd {
        remove_one(server, &bucket, &key, removed).await?;
    }
    remove_batch(server, &bucket, plain, removed).await
}

/// Returns whether the XML of a batch holds a character as it is (XML 1.0, 2.2): a line end would come out as another.
fn is_of_xml(c: char) -> bool {
    !c.is_control() && !matches!(c, '\u{fffe}' | '\u{ffff}')
}

impl Extra {
    /// Returns whether it stands there as it was noted. What may not be looked at is not removed.
    async fn stands(&self, server: &Server) -> Result<bool> {
        let asked = server.client.head_object().bucket(&self.bucket).key(&self.key).send().await;
        let answer = match asked {
            Ok(answer) => answer,
            Err(error) if Told::from(&error).is_some_and(|told| told.status < 500) => return Ok(false),
            Err(error) => return Err(server.failure("look at an object", error)),
        };
        let size_bytes = answer.content_length().and_then(|length| u64::try_from(length).ok());
        Ok(answer.e_tag().map(bare).unwrap_or_default() == self.etag
            && size_bytes == Some(self.size_bytes)
            && answer.last_modified().is_none_or(|at| at.secs() == self.written))
    }
}

async fn remove_one(server: &Server, bucket: &str, key: &str, removed: &mut Removed) -> Result<()> {
    match server.client.delete_object().bucket(bucket).key(key).send().await {
        Ok(_) => removed.gone(bucket, key),
        Err(error) => removed.kept(bucket, key, &refused(server, bucket, error)?),
    }
    Ok(())
}

async fn remove_batch(server: &Server, bucket: &str, keys: Vec<String>, removed: &mut Removed) -> Result<()> {
    if keys.is_empty() {
        return Ok(());
    }
    let identify = |key: &String| ObjectIdentifier::builder().key(key).build();
    let objects: Result<Vec<_>, _> = keys.iter().map(identify).collect();
    let delete = objects.and_then(|objects| Delete::builder().set_objects(Some(objects)).quiet(true).build());
    let delete = delete.failed(ExitCode::Failed, || format!("no request removes objects of `{bucket}`"))?;
    let request = server.client.delete_objects().bucket(bucket).delete(delete);
    match request.customize().mutate_request(md5_alone).send().await {
        Ok(answer) => {
            let why = |error: &Error| error.message().or(error.code()).unwrap_or_default().to_owned();
            let kept: BTreeMap<_, _> =
                answer.errors().iter().map(|error| (error.key().unwrap_or_default(), why(error))).collect();
            // One that names none of these may be about any of them.
            let stray =
                kept.iter().find(|(key, _)| !keys.iter().any(|ours| ours == *key)).map(|(_, why)| why);
            for key in &keys {
                match kept.get(key.as_str()).or(stray) {
                    Some(why) => removed.kept(bucket, key, why),
                    None => removed.gone(bucket, key),
                }
            }
        }
        Err(error) => {
            let why = refused(server, bucket, error)?;
            for key in &keys {
                removed.kept(bucket, key, &why);
            }
        }
    }
    Ok(())
}

/// Returns why a server does not remove what it was told to; fails where that is about more than these objects.
fn refused<E>(server: &Server, bucket: &str, error: CallError<E>) -> Result<String>
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    match Told::from(&error) {
        Some(told) if told.is_about_objects() => Ok(told.text()),
        _ => Err(server.failure(&format!("remove objects of bucket `{bucket}`"), error)),
    }
}
