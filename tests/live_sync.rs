//! Offsites that are really there: the same stack in an S3 bucket, in a folder and on a WebDAV server, each of which
//! alone brings everything back.
//!
//! Run by `fixtures/test`.

#![allow(clippy::unwrap_used)] // A test that cannot go on says so by panicking, in its helpers too.

#[path = "live_s3/stage.rs"]
#[allow(dead_code, reason = "made for the tests of the S3 engine")]
mod buckets;
#[path = "cli/stage.rs"]
mod stage;
#[path = "live_store/webdav.rs"]
mod webdav;

#[path = "live_sync/offsites.rs"]
mod offsites;
