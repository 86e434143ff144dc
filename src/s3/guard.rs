//! Whether what is about to be overwritten is still what was seen there; and whether the server sees to that itself.
//!
//! *Order.* Each bucket of a restore is tried once, before its first object: an object of a name of our own is written
//! on conditions that hold and on such that do not, and removed. AWS and `MinIO` keep to both kinds. Ceph keeps to
//! `If-None-Match`, in buckets without versions only, and others keep to none: there an object is looked at right
//! before it is written, which leaves the moment between the two, and a person is told.
//!
//! *Crash.* A process that is killed within the trial leaves [`PROBE`], an empty object, in the bucket.

use aws_sdk_s3::{error::ProvideErrorMetadata, primitives::ByteStream};

use super::{
    client::{CallError, Server, Told},
    facts::dress,
    listing::bare,
};
use crate::error::Result;

/// The key of the object that a bucket is tried with.
pub(super) const PROBE: &str = ".lifeboat-probe";
/// Why an object was left as it is.
pub(super) const CHANGED: &str = "somebody else wrote it since the restore began, so it was left as it is";

/// What must still hold when an object is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Guard {
    /// Nothing: what stands there may not be looked at.
    None,
    /// No object is there.
    Absent,
    /// The object has this `ETag`.
    Is(String),
    /// It did not hold when a version before this one was to be written.
    Broken,
}

/// Which conditions a bucket keeps to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Conditions {
    /// `If-None-Match: *`.
    create: bool,
    /// `If-Match`.
    replace: bool,
}

impl Guard {
    /// Looks whether it holds now.
    pub(super) async fn look(&self, server: &Server, bucket: &str, key: &str) -> Result<bool> {
        let wanted = match self {
            Self::None => return Ok(true),
            Self::Broken => return Ok(false),
            Self::Absent => None,
            Self::Is(etag) => Some(etag),
        };
        let there = match server.client.head_object().bucket(bucket).key(key).send().await {
            Ok(answer) => Some(answer.e_tag().map(bare).unwrap_or_default()),
            Err(error) => match Told::from(&error) {
                Some(told) if told.is_absent() => None,
                // Who may write and not look has to write blindly.
                Some(told) if told.status < 500 => return Ok(true),
                _ => return Err(server.failure("look at an object", error)),
            },
        };
        Ok(there.as_ref() == wanted)
    }
}

impl Conditions {
    /// Tries what a bucket keeps to.
    ///
    /// Where that cannot be tried nothing is relied on: in a bucket that locks objects, where what is tried with would
    /// stay, and where an object of that name stands.
    pub(super) async fn probe(server: &Server, bucket: &str) -> Result<Self> {
        if !can_be_tried(server, bucket).await? {
            return Ok(Self::default());
        }
        let mut trial = Trial { server, bucket, etag: None, versions: Vec::new() };
        let conditions = trial.run().await;
        trial.clear().await;
        conditions
    }

    /// Returns whether it keeps to all.
    pub(super) fn all(self) -> bool {
        self.create && self.replace
    }

    /// Returns the header that makes the server see to a guard; none where it would not.
    pub(super) fn header(self, guard: &Guard) -> Option<(String, String)> {
        match guard {
            Guard::Absent if self.create => Some(("if-none-match".to_owned(), "*".to_owned())),
            Guard::Is(etag) if self.replace && !etag.is_empty() && !etag.starts_with("W/") => {
                Some(("if-match".to_owned(), format!("\"{etag}\"")))
            }
            _ => None,
        }
    }
}

/// Returns whether what a bucket is tried with goes away again and takes nothing's place.
async fn can_be_tried(server: &Server, bucket: &str) -> Result<bool> {
    match server.client.get_object_lock_configuration().bucket(bucket).send().await {
        Ok(_) => return Ok(false),
        // Who may not look has to take it for one that locks objects.
        Err(error) if Told::from(&error).is_some_and(|told| matches!(told.status, 401 | 403)) => {
            return Ok(false);
        }
        Err(_) => {}
    }
    match server.client.head_object().bucket(bucket).key(PROBE).send().await {
        Err(error) if Told::from(&error).is_some_and(|told| told.is_absent()) => Ok(true),
        Err(error) if Told::from(&error).is_none() => Err(server.failure("look at an object", error)),
        _ => Ok(false),
    }
}

/// Tries whether an object can be written at all; returns why not. Where that cannot be tried it is believed.
pub(super) async fn try_object(server: &Server, bucket: &str) -> Result<Result<(), String>> {
    if !can_be_tried(server, bucket).await? {
        return Ok(Ok(()));
    }
    let body = ByteStream::from_static(b"lifeboat");
    match server.client.put_object().bucket(bucket).key(PROBE).body(body).send().await {
        Ok(answer) => {
            let versions = vec![answer.version_id().map(str::to_owned)];
            Trial { server, bucket, etag: None, versions }.clear().await;
            Ok(Ok(()))
        }
        Err(error) => match Told::from(&error) {
            Some(told) => Ok(Err(told.text())),
            None => Err(server.failure(&format!("write to bucket `{bucket}`"), error)),
        },
    }
}

/// A bucket being tried.
struct Trial<'a> {
    server: &'a Server,
    bucket: &'a str,
    etag: Option<String>,
    /// The versions that were made.
    versions: Vec<Option<String>>,
}

impl Trial<'_> {
    async fn run(&mut self) -> Result<Conditions> {
        let mut conditions = Conditions::default();
        if !self.put("if-none-match", "*").await? {
            return Ok(conditions);
        }
        conditions.create = !self.put("if-none-match", "*").await?;
        let etag = self.etag.clone().unwrap_or_default();
        let wrong = format!("\"{}\"", "0".repeat(32));
        conditions.replace =
            self.put("if-match", &format!("\"{etag}\"")).await? && !self.put("if-match", &wrong).await?;
        Ok(conditions)
    }

    /// Returns whether the server wrote it on this condition.
    async fn put(&mut self, condition: &str, value: &str) -> Result<bool> {
        let headers = vec![(condition.to_owned(), value.to_owned())];
        let request = self.server.client.put_object().bucket(self.bucket).key(PROBE).customize();
        match request.mutate_request(dress(headers)).send().await {
            Ok(answer) => {
                self.etag = answer.e_tag().map(bare);
                self.versions.push(answer.version_id().map(str::to_owned));
                Ok(true)
            }
            Err(error) if is_answer(&error) => Ok(false),
            Err(error) => Err(self.server.failure(&format!("write to bucket `{}`", self.bucket), error)),
        }
    }

    /// Removes what was written. Best effort: what stays is an empty object whose name says whose it is.
    async fn clear(&self) {
        let mut versions = self.versions.clone();
        versions.dedup();
        // The answer to the first may have been lost, and it was sent again in vain.
        if versions.is_empty() {
            let asked = self.server.client.head_object().bucket(self.bucket).key(PROBE).send().await;
            versions.extend(asked.ok().map(|answer| answer.version_id().map(str::to_owned)));
        }
        for version in versions {
            let delete = self.server.client.delete_object().bucket(self.bucket).key(PROBE);
            let is_gone = delete.clone().set_version_id(version.clone()).send().await.is_ok();
            // To remove a version is a right of its own; without it a delete marker hides the object.
            if !is_gone && version.is_some() {
                delete.send().await.ok();
            }
        }
    }
}

fn is_answer<E: ProvideErrorMetadata>(error: &CallError<E>) -> bool {
    Told::from(error).is_some_and(|told| told.status < 500 || told.is_unknown_request())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_is_sent_only_to_who_keeps_to_it() {
        let (all, none) = (Conditions { create: true, replace: true }, Conditions::default());
        let ceph = Conditions { create: true, replace: false };
        let (absent, is) = (Guard::Absent, Guard::Is("ab".to_owned()));
        let header = |name: &str, value: &str| Some((name.to_owned(), value.to_owned()));
        assert_eq!(all.header(&absent), header("if-none-match", "*"));
        assert_eq!(all.header(&is), header("if-match", "\"ab\""));
        assert_eq!((ceph.header(&absent), ceph.header(&is)), (header("if-none-match", "*"), None));
        assert_eq!((none.header(&absent), none.header(&is)), (None, None));
        for unsure in [Guard::None, Guard::Broken, Guard::Is(String::new()), Guard::Is("W/\"ab".to_owned())] {
            assert_eq!(all.header(&unsure), None);
        }
    }
}
