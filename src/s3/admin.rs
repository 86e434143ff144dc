//! What `MinIO` exports to its administrators: users, groups and their rights, and its own form of buckets' settings.
//!
//! `GET /minio/admin/v3/export-iam` and `…/export-bucket-metadata` answer with a plain zip, and are signed like any
//! request to S3 (`ExportIAM` in `cmd/admin-handlers-users.go`, `ExportBucketMetadataHandler` in
//! `cmd/admin-bucket-handlers.go`). No bucket is ever called `minio` there, so these are what the SDK sends for objects
//! of one. Both hold secrets in clear: users' keys, and those of replication targets.
//!
//! *Crash.* Reading changes nothing. What is put back is put by one request, which replaces what has the same name and
//! leaves everything else; a run that stopped is run again.
//!
//! *Limits.* [`EXPORT_BYTES_MAX`] for each export.

use std::time::Duration;

use aws_sdk_s3::primitives::ByteStream;
use bytes::{Bytes, BytesMut};
use serde_json::Value;
use tokio::time::timeout;

use super::{
    capture::Capture,
    client::{BODY_SECONDS, Server, Told},
};
use crate::{
    error::{ExitCode, Failure, Result},
    event::SharedMonitor,
    flow::{EntryMeta, EntrySink, FlowResult, Problem, Stage, fixed_path},
    names::SourceName,
    policy::S3Config,
};

/// The inventory item of what is the server's and no bucket's; no bucket can have this name.
pub(super) const ITEM: &str = "%admin";
/// The bucket that the requests are about as the SDK sees them.
const ROOT: &str = "minio";
/// Bytes that one export may have.
pub(super) const EXPORT_BYTES_MAX: usize = 64 << 20;
/// How many of the things that were not put back are named.
const NAMED_MAX: usize = 10;
/// The path of the export that can be put back.
const IAM: &str = "%admin/iam.zip";

/// The exports: the path of the entry, the end of the request's path, and what it holds.
const EXPORTS: [(&str, &str, &str); 2] = [
    (IAM, "admin/v3/export-iam", "users, groups and rights"),
    ("%admin/bucket-metadata.zip", "admin/v3/export-bucket-metadata", "MinIO's own settings of buckets"),
];
/// The requests that put users, groups and rights back, the newer before the older.
const IMPORTS: [&str; 2] = ["admin/v3/import-iam-v2", "admin/v3/import-iam"];

/// Returns whether an item of an inventory is a bucket.
pub fn is_bucket(item: &str) -> bool {
    item != ITEM
}

/// Returns whether a problem of a snapshot is that an export could not be had: no object is missing then.
pub(super) fn is_about_export(problem: &Problem) -> bool {
    EXPORTS.iter().any(|(_, _, what)| problem.what == lacking(what))
}

fn lacking(what: &str) -> String {
    format!("the export of {what}")
}

/// Returns whether an entry is an export.
pub(super) fn is_export(meta: &EntryMeta) -> bool {
    meta.item == ITEM
}

/// Returns whether an export is the one that can be put back.
pub(super) fn is_iam(meta: &EntryMeta) -> bool {
    meta.path.as_str() == IAM
}

/// A server as its administrator sees it.
pub(super) struct Admin {
    server: Server,
}

/// Why there is no export.
enum Lack {
    /// The server has no such thing.
    NotKnown,
    /// It is there and cannot be had.
    Refused(String),
}

impl Admin {
    /// Makes a connection with the administrator's keys, where the policy names them.
    pub(super) fn of(name: &SourceName, config: &S3Config) -> Result<Option<Self>> {
        let Some(admin) = &config.admin else { return Ok(None) };
        let (access_key, secret_key) = (admin.access_key.clone(), admin.secret_key.clone());
        let config = S3Config { access_key, secret_key, admin: None, ..config.clone() };
        Ok(Some(Self { server: Server::new(name, &config)? }))
    }

    /// Sends all exports. One that cannot be had is a problem; a server that knows none is only told of.
    pub(super) async fn send(
        &self,
        sink: &EntrySink,
        name: &SourceName,
        monitor: &SharedMonitor,
    ) -> FlowResult<()> {
        for (path, route, what) in EXPORTS {
            match self.export(route).await {
                Ok(bytes) => sink.put(EntryMeta::new(fixed_path(path), Stage::After, ITEM), bytes).await?,
                Err(Lack::NotKnown) => {
                    let told = format!("{what} are not kept: the server has no export of them");
                    monitor.warn(Some(name), told, Some("Leave `admin` out if it is not MinIO."));
                }
                Err(Lack::Refused(why)) => {
                    sink.report(Problem { what: lacking(what), why }).await?;
                }
            }
        }
        sink.complete(ITEM);
        Ok(())
    }

    /// Reads the exports as a backup does, and keeps nothing of them; returns whether the server has such, or why one
    /// cannot be had.
    pub(super) async fn try_exports(&self) -> Result<bool, String> {
        for (_, route, what) in EXPORTS {
            match self.export(route).await {
                Ok(_) => {}
                Err(Lack::NotKnown) => return Ok(false),
                Err(Lack::Refused(why)) => return Err(format!("{what}: {why}")),
            }
        }
        Ok(true)
    }

    async fn export(&self, route: &str) -> Result<Bytes, Lack> {
        let answer = match self.server.client.get_object().bucket(ROOT).key(route).send().await {
            Ok(answer) => answer,
            Err(error) => {
                return Err(match Told::from(&error) {
                    // Who speaks S3 says what is not there; a page of a proxy does not.
                    Some(told) if told.is_absent() && told.code.is_empty() => {
                        Lack::Refused(format!("{}, and not in the words of S3: a proxy?", told.text()))
                    }
                    Some(told) if is_unknown(&told) => Lack::NotKnown,
                    Some(told) => Lack::Refused(told.text()),
                    None => Lack::Refused(self.server.failure("read an export", error).one_line()),
                });
            }
        };
        let bytes = collect(answer.body).await.map_err(Lack::Refused)?;
        // A proxy may answer anything with a page of its own.
        if is_whole_zip(&bytes) {
            Ok(bytes)
        } else {
            Err(Lack::Refused("what came is no whole zip".to_owned()))
        }
    }

    /// Puts users, groups and rights back: those of the same name are replaced, others stay. The newer of the two ways
    /// tells in its answer what was not taken.
    pub(super) async fn put_iam(&self, zip: Bytes) -> Result<()> {
        for (index, route) in IMPORTS.into_iter().enumerate() {
            let (body, capture) = (ByteStream::from(zip.clone()), Capture::default());
            let request = self.server.client.put_object().bucket(ROOT).key(route).body(body).customize();
            let Err(error) = request.interceptor(capture.clone()).send().await else {
                return not_taken(&capture.text());
            };
            let is_unknown = Told::from(&error).is_some_and(|told| is_unknown(&told));
            if !is_unknown || index + 1 == IMPORTS.len() {
                return Err(self.server.failure("put users, groups and rights back", error));
            }
        }
        Ok(())
    }
}

/// Returns whether the server has no such route; `MinIO` asks for another version of the interface then (426).
fn is_unknown(told: &Told) -> bool {
    told.is_absent()
        || told.is_unknown_request()
        || told.status == 426
        || told.code == "XMinioUnknownAPIRequest"
}

/// Fails when the answer to an import names what was not taken (`IAMImportResult` of madmin: of each kind a list of
/// things with names under `failed`). An answer that tells nothing is the older way's.
fn not_taken(answer: &str) -> Result<()> {
    let told: Value = serde_json::from_str(answer).unwrap_or_default();
    let kinds = told.get("failed").and_then(Value::as_object).into_iter().flatten();
    let failed: Vec<String> = kinds
        .flat_map(|(kind, things)| things.as_array().into_iter().flatten().map(move |thing| (kind, thing)))
        .map(|(kind, thing)| format!("{kind} `{}`", thing.get("name").and_then(Value::as_str).unwrap_or("?")))
        .collect();
    if failed.is_empty() {
        return Ok(());
    }
    let shown = failed.iter().take(NAMED_MAX).cloned().collect::<Vec<_>>().join(", ");
    let what = format!("{} users, groups or rights were not put back", failed.len());
    Err(Failure::new(ExitCode::Partial, what)
        .because(shown)
        .hint("The server's log says why; the others are back."))
}

/// Makes the failure of a restore that is to put rights back and has no administrator's keys.
pub(super) fn no_keys(name: &SourceName) -> Failure {
    Failure::new(
        ExitCode::Usage,
        format!("--iam needs an administrator's keys, and `{name}` has none for this server"),
    )
    .hint("Name them with `admin` in the policy. A server of --into has none: put the export in with `mc`.")
}

/// Makes the failure of a restore that is to put rights back and finds none in the snapshot.
pub(super) fn no_export(name: &SourceName) -> Failure {
    let what = format!("users, groups and rights of `{name}` were not put back: none came from the snapshot");
    Failure::new(ExitCode::Partial, what)
        .hint("`lifeboat ls` shows whether it has `%admin/iam.zip`; with --only that must be picked as well.")
}

/// Reads a body whose length nobody tells.
async fn collect(mut body: ByteStream) -> Result<Bytes, String> {
    let mut all = BytesMut::new();
    let pause = Duration::from_secs(BODY_SECONDS);
    loop {
        match timeout(pause, body.next()).await {
            Ok(Some(Ok(bytes))) if all.len() + bytes.len() > EXPORT_BYTES_MAX => {
                return Err(format!("it is longer than {} MiB", EXPORT_BYTES_MAX >> 20));
            }
            Ok(Some(Ok(bytes))) => all.extend_from_slice(&bytes),
            Ok(None) => return Ok(all.freeze()),
            Ok(Some(Err(_))) | Err(_) => return Err(format!("it broke off after {} bytes", all.len())),
        }
    }
}

/// Returns whether bytes are a zip that came to its end: what closes one stands at the end, with a comment behind it
/// at most (APPNOTE 4.3.16), and tells where the list of files begins.
fn is_whole_zip(bytes: &[u8]) -> bool {
    const END: &[u8] = b"PK\x05\x06";
    const END_BYTES: usize = 22;
    let tail = bytes.len().saturating_sub(END_BYTES + usize::from(u16::MAX));
    let last = bytes[tail..].windows(END_BYTES).rposition(|window| window.starts_with(END));
    last.is_some_and(|at| {
        let field = |from: usize| {
            let four = bytes[tail + at + from..].first_chunk().copied().unwrap_or_default();
            u64::from(u32::from_le_bytes(four))
        };
        // The list lies right before its end.
        field(12) + field(16) == (tail + at) as u64
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_import_did_not_take_is_named() {
        assert!(
            not_taken("").is_ok()
                && not_taken("{\"added\":{\"users\":[{\"name\":\"a\"}]},\"failed\":{}}").is_ok()
        );
        let answer = "{\"failed\":{\"policies\":null,\"userPolicies\":[{\"name\":\"im\",\"error\":\"no such policy\"}]}}";
        let failure = not_taken(answer).unwrap_err();
        assert_eq!(failure.exit(), ExitCode::Partial);
        assert!(failure.chain().iter().any(|line| line.contains("userPolicies `im`")), "{failure:?}");
    }

    #[test]
    fn only_a_zip_that_came_to_its_end_is_taken() {
        let empty = [b"PK\x05\x06".as_slice(), &[0; 18]].concat();
        assert!(is_whole_zip(&empty));
        // A list of 3 bytes that begins at 4.
        let mut end = empty.clone();
        (end[12], end[16]) = (3, 4);
        let zip = [b"PK\x03\x04dir".as_slice(), &end].concat();
        assert!(is_whole_zip(&zip));
        for cut in 0..zip.len() {
            assert!(!is_whole_zip(&zip[..cut]), "{cut}");
        }
        assert!(!is_whole_zip(&zip[1..]), "its beginning is missing");
        for other in [b"".as_slice(), b"<html></html>", &[b'P'; 100]] {
            assert!(!is_whole_zip(other));
        }
    }
}
