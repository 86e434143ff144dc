//! `doctor` on real servers: a good set-up is well, and each thing that is wrong is named.
#![allow(clippy::unwrap_used, reason = "clippy takes only the outermost function of a test for one")]

#[path = "live_s3/stage.rs"]
#[allow(dead_code, reason = "made for the tests of the S3 engine")]
mod buckets;
#[path = "redis_lab/mod.rs"]
mod redis_lab;
#[path = "cli/stage.rs"]
mod stage;
#[path = "live_support/mysql.rs"]
#[allow(dead_code, reason = "made for the tests of the MySQL engine")]
mod support;
#[path = "live_cli/town.rs"]
#[allow(dead_code, reason = "made for the tests of the command line")]
mod town;

#[path = "live_doctor/certificates.rs"]
mod certificates;
#[path = "live_doctor/sources.rs"]
mod sources;

/// Returns a finding of a document.
#[track_caller]
fn finding<'d>(document: &'d serde_json::Value, id: &str) -> &'d serde_json::Value {
    let all = document["findings"].as_array().unwrap();
    all.iter().find(|finding| finding["id"] == id).unwrap_or_else(|| panic!("{id} is not in {document:#}"))
}
