//! What lifeboat does, a file for each verb: the only floor on which engines, repository and catalog meet.
//!
//! A job takes no input but its arguments, returns a report or a [`crate::error::Failure`], and tells a
//! [`crate::event::Monitor`] what happens meanwhile. The command line and the service call the same jobs.

pub mod backup;
pub mod compose;
pub mod doctor;
pub mod export;
pub mod init;
pub mod keys;
pub mod kit;
mod known;
pub mod open;
pub mod prune;
pub mod registry;
pub mod restore;
pub mod sync;
pub mod when;
