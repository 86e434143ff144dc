//! Stores that are really there: each promise tried out over WebDAV and S3, and a disk that runs full.
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

#[path = "live_store/disk.rs"]
mod disk;
#[path = "live_store/laws.rs"]
mod laws;
