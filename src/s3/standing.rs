//! What stands in the target's buckets already, walked beside the entries that come.
//!
//! *Order.* Both come sorted by bucket and key. What the snapshot does not have is written to a temporary
//! file, so memory does not grow with it, and removed only when every object of the snapshot is in place, and only if
//! it is still what was noted: what was written since stays.
//!
//! *Crash.* A run that stops has removed nothing.

use std::{
    fs::File,
    io::{BufRead, BufReader, BufWriter, Seek, Write},
};

use aws_sdk_s3::types::{Delete, ObjectIdentifier};
use futures_util::{StreamExt, TryStreamExt, stream};
use globset::GlobSet;
use serde::{Deserialize, Serialize};

use super::{
    client::{Server, Told, md5_alone},
    listing::{Listed, Lister, bare},
    ranges::Span,
};
use crate::error::{Context, ExitCode, Failure, Result};

/// Keys that one request removes.
const DELETE_BATCH: usize = 1000;
/// Objects that are looked at side by side before they are removed.
const LOOKS: usize = 16;
/// Objects that the snapshot does not have that are named; the others are counted.
const NAMED_MAX: usize = 20;

/// A cursor over the objects of the target.
pub(super) struct Standing {
    server: Server,
    /// Keys that the policy leaves out of backups; that the snapshot has them not is no reason to remove
    /// them.
    spared: GlobSet,
    walk: Option<Walk>,
    extras: Extras,
}

struct Walk {
    bucket: String,
    lister: Lister,
    next: Option<Listed>,
}

impl Standing {
    /// Begins before the first bucket.
    pub(super) fn new(server: &Server, spared: GlobSet) -> Result<Self> {
        Ok(Self { server: server.clone(), spared, walk: None, extras: Extras::new()? })
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

fn note(extras: &mut Extras, spared: &GlobSet, bucket: &str, listed: &Listed) -> Result<()> {
    if spared.is_match(format!("{bucket}/{}", listed.key)) { Ok(()) } else { extras.add(bucket, listed) }
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

    /// Removes all that are still what was noted; returns how many.
    pub(super) async fn remove(self, server: &Server) -> Result<u64> {
        let mut file = self.file.into_inner().failed(ExitCode::Failed, Self::what)?;
        file.rewind().failed(ExitCode::Failed, Self::what)?;
        let (mut bucket, mut batch, mut removed) = (String::new(), Vec::new(), 0);
        for line in BufReader::new(file).lines() {
            let line = line.failed(ExitCode::Failed, Self::what)?;
            let extra: Extra = serde_json::from_str(&line).failed(ExitCode::Failed, Self::what)?;
            if extra.bucket != bucket || batch.len() == DELETE_BATCH {
                removed += remove_unchanged(server, &bucket, std::mem::take(&mut batch)).await?;
                bucket.clone_from(&extra.bucket);
            }
            batch.push(extra);
        }
        Ok(removed + remove_unchanged(server, &bucket, batch).await?)
    }
}

/// Removes those that are still what was noted; returns how many.
async fn remove_unchanged(server: &Server, bucket: &str, extras: Vec<Extra>) -> Result<u64> {
    let looks = extras.into_iter().map(|extra| async move {
        let is_noted = extra.stands(server).await?;
        Ok::<_, Failure>(is_noted.then_some(extra.key))
    });
    let looked: Vec<Option<String>> = stream::iter(looks).buffered(LOOKS).try_collect().await?;
    let keys: Vec<String> = looked.into_iter().flatten().collect();
    let count = keys.len() as u64;
    // The XML of a batch cannot hold a control character.
    let (odd, plain): (Vec<_>, Vec<_>) = keys.into_iter().partition(|key| key.chars().any(char::is_control));
    for key in odd {
        remove_one(server, bucket, &key).await?;
    }
    remove_batch(server, bucket, plain).await?;
    Ok(count)
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

async fn remove_one(server: &Server, bucket: &str, key: &str) -> Result<()> {
    let sent = server.client.delete_object().bucket(bucket).key(key).send().await;
    sent.map(drop).map_err(|error| server.failure(&format!("remove an object of bucket `{bucket}`"), error))
}

async fn remove_batch(server: &Server, bucket: &str, keys: Vec<String>) -> Result<()> {
    if keys.is_empty() {
        return Ok(());
    }
    let identify = |key: String| ObjectIdentifier::builder().key(key).build();
    let objects: Result<Vec<_>, _> = keys.into_iter().map(identify).collect();
    let delete = objects.and_then(|objects| Delete::builder().set_objects(Some(objects)).quiet(true).build());
    let delete = delete.failed(ExitCode::Failed, || format!("no request removes objects of `{bucket}`"))?;
    let request = server.client.delete_objects().bucket(bucket).delete(delete);
    let sent = request.customize().mutate_request(md5_alone).send().await;
    let answer =
        sent.map_err(|error| server.failure(&format!("remove objects of bucket `{bucket}`"), error))?;
    let Some(first) = answer.errors().first() else { return Ok(()) };
    let what = format!("{} objects of bucket `{bucket}` cannot be removed", answer.errors().len());
    let (key, why) = (first.key().unwrap_or_default(), first.message().or(first.code()).unwrap_or_default());
    Err(Failure::new(ExitCode::Partial, what)
        .because(format!("`{}`: {why}", key.escape_debug()))
        .hint("All objects of the snapshot are in place; these are there beside them."))
}
