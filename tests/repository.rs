//! The repository as a whole: what goes in comes out, whatever breaks on the way or lies there forged.
//!
//! Everything runs in memory, with a small source of named entries and keys made for the occasion.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "repository/copies.rs"]
mod copies;
#[path = "repository/crash.rs"]
mod crash;
#[path = "repository/damage.rs"]
mod damage;
#[path = "repository/fixture.rs"]
mod fixture;
#[path = "repository/forgery.rs"]
mod forgery;
#[path = "repository/keys.rs"]
mod keys;
#[path = "repository/matrix.rs"]
mod matrix;
#[path = "repository/model.rs"]
mod model;
#[path = "repository/order.rs"]
mod order;
#[path = "repository/pause.rs"]
mod pause;
#[path = "repository/proofs.rs"]
mod proofs;
#[path = "repository/prune.rs"]
mod prune;
#[path = "repository/random_access.rs"]
mod random_access;
#[path = "repository/retained.rs"]
mod retained;
#[path = "repository/rotation.rs"]
mod rotation;
#[path = "repository/round_trip.rs"]
mod round_trip;
#[path = "repository/runs.rs"]
mod runs;
#[path = "repository/salvage.rs"]
mod salvage;
#[path = "repository/simulation.rs"]
mod simulation;
#[path = "repository/streams.rs"]
mod streams;
#[path = "repository/sync.rs"]
mod sync;
#[path = "repository/tampering.rs"]
mod tampering;
