//! What stands in the target's buckets already, walked beside the entries that come.
//!
//! *Order.* Both come sorted by bucket and key. What the snapshot does not have is written to a temporary
//! file, so memory does not grow with it, and removed only when every object of the snapshot is in place.
//!
//! *Crash.* A run that stops has removed nothing.

use std::{
    fs::File,
    io::{BufRead, BufReader, BufWriter, Seek, Write},
};

use aws_sdk_s3::types::{Delete, ObjectIdentifier};
use globset::GlobSet;

use super::{
    client::Server,
    listing::{Listed, Lister},
};
use crate::error::{Context, ExitCode, Failure, Result};

/// Keys that one request removes.
const DELETE_BATCH: usize = 1000;

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
            note(&mut self.extras, &self.spared, &walk.bucket, &listed.key)?;
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
            note(&mut self.extras, &self.spared, &walk.bucket, &listed.key)?;
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

fn note(extras: &mut Extras, spared: &GlobSet, bucket: &str, key: &str) -> Result<()> {
    if spared.is_match(format!("{bucket}/{key}")) { Ok(()) } else { extras.add(bucket, key) }
}

/// Objects that the snapshot does not have.
pub(super) struct Extras {
    file: BufWriter<File>,
    /// How many there are.
    pub(super) count: u64,
}

impl Extras {
    fn new() -> Result<Self> {
        let file = tempfile::tempfile().failed(ExitCode::Failed, Self::what)?;
        Ok(Self { file: BufWriter::new(file), count: 0 })
    }

    fn what() -> String {
        "failed to use a temporary file for the list of objects to remove".to_owned()
    }

    fn add(&mut self, bucket: &str, key: &str) -> Result<()> {
        self.count += 1;
        // As JSON, because a key may hold a line end.
        let line = serde_json::json!([bucket, key]);
        writeln!(self.file, "{line}").failed(ExitCode::Failed, Self::what)
    }

    /// Removes them all.
    pub(super) async fn remove(self, server: &Server) -> Result<()> {
        let mut file = self.file.into_inner().failed(ExitCode::Failed, Self::what)?;
        file.rewind().failed(ExitCode::Failed, Self::what)?;
        let (mut bucket, mut batch) = (String::new(), Vec::new());
        for line in BufReader::new(file).lines() {
            let line = line.failed(ExitCode::Failed, Self::what)?;
            let (of, key): (String, String) =
                serde_json::from_str(&line).failed(ExitCode::Failed, Self::what)?;
            if of != bucket || batch.len() == DELETE_BATCH {
                remove_batch(server, &bucket, std::mem::take(&mut batch)).await?;
                bucket = of;
            }
            if key.chars().any(char::is_control) {
                // The XML of a batch cannot hold such a key.
                remove_one(server, &bucket, &key).await?;
            } else {
                batch.push(key);
            }
        }
        remove_batch(server, &bucket, batch).await
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
    let sent = server.client.delete_objects().bucket(bucket).delete(delete).send().await;
    let answer =
        sent.map_err(|error| server.failure(&format!("remove objects of bucket `{bucket}`"), error))?;
    let Some(first) = answer.errors().first() else { return Ok(()) };
    let what = format!("{} objects of bucket `{bucket}` cannot be removed", answer.errors().len());
    let (key, why) = (first.key().unwrap_or_default(), first.message().or(first.code()).unwrap_or_default());
    Err(Failure::new(ExitCode::Partial, what)
        .because(format!("`{}`: {why}", key.escape_debug()))
        .hint("All objects of the snapshot are in place; these are there beside them."))
}
