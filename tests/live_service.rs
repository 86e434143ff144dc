//! Nights of `lifeboat serve --once` on real servers: what goes wrong there is a failed run and one message, and costs
//! nothing that was there before.
#![allow(clippy::unwrap_used, reason = "clippy takes only the outermost function of a test for one")]

#[path = "live_s3/stage.rs"]
#[allow(dead_code, reason = "made for the tests of the S3 engine")]
mod buckets;
#[path = "service/host.rs"]
#[allow(dead_code, reason = "made for the tests of the service")]
mod host;
#[path = "../src/notify/tests/receiver.rs"]
#[allow(dead_code, reason = "made for the tests of channels")]
mod receiver;
#[path = "cli/stage.rs"]
mod stage;
#[path = "live_support/mysql.rs"]
#[allow(dead_code, reason = "made for the tests of the MySQL engine")]
mod support;

#[path = "live_service/between.rs"]
mod between;
#[path = "live_service/lost_data.rs"]
mod lost_data;
#[path = "live_service/lost_server.rs"]
mod lost_server;
#[path = "live_service/night.rs"]
mod night;
