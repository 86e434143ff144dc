//! The command line on real servers: what is stored comes back, what is refused is left alone, what is down
//! is named.

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
mod town;

#[path = "live_cli/add_only.rs"]
mod add_only;
#[path = "live_cli/as_of.rs"]
mod as_of;
#[path = "live_cli/choices.rs"]
mod choices;
#[path = "live_cli/export.rs"]
mod export;
#[path = "live_cli/failures.rs"]
mod failures;
#[path = "live_cli/plan.rs"]
mod plan;
#[path = "live_cli/refusals.rs"]
mod refusals;
#[path = "live_cli/resume.rs"]
mod resume;
#[path = "live_cli/round_trip.rs"]
mod round_trip;
#[path = "live_cli/salvage.rs"]
mod salvage;
#[path = "live_cli/together.rs"]
mod together;
#[path = "live_cli/verify.rs"]
mod verify;
