//! The command line as a person and a script meet it: the built program, its words, its exit codes.
//!
//! Nothing here needs a server; `live_cli.rs` has the tests that do.

#[path = "fake_s3/bucket.rs"]
#[allow(dead_code, reason = "made for the tests of the S3 engine")]
mod fake_bucket;
#[path = "fake_s3/minio.rs"]
#[allow(dead_code, reason = "made for the tests of the S3 engine")]
mod fake_minio;
#[path = "cli/stage.rs"]
mod stage;

#[path = "cli/backup.rs"]
mod backup;
#[path = "cli/catalog.rs"]
mod catalog;
#[path = "cli/doctor.rs"]
mod doctor;
#[path = "cli/drill.rs"]
mod drill;
#[path = "cli/export.rs"]
mod export;
#[path = "cli/golden.rs"]
mod golden;
#[path = "cli/init.rs"]
mod init;
#[path = "cli/keys.rs"]
mod keys;
#[path = "cli/kit.rs"]
mod kit;
#[path = "cli/listing.rs"]
mod listing;
#[path = "cli/lock.rs"]
mod lock;
#[path = "cli/minio.rs"]
mod minio;
#[path = "cli/notify.rs"]
mod notify;
#[path = "cli/offsite.rs"]
mod offsite;
#[path = "cli/policy.rs"]
mod policy;
#[path = "cli/prune.rs"]
mod prune;
#[path = "cli/rehearse.rs"]
mod rehearse;
#[path = "cli/restore.rs"]
mod restore;
#[path = "cli/salvage.rs"]
mod salvage;
#[path = "cli/screen.rs"]
mod screen;
#[path = "cli/secrets.rs"]
mod secrets;
#[path = "cli/shards.rs"]
mod shards;
#[path = "cli/signals.rs"]
mod signals;
#[path = "cli/store.rs"]
mod store;
#[path = "cli/sync.rs"]
mod sync;
mod terminal;
#[path = "cli/torn.rs"]
mod torn;
#[path = "cli/verify.rs"]
mod verify;
#[path = "cli/write_only.rs"]
mod write_only;
