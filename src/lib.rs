//! lifeboat: backup and disaster recovery for stacks made of MySQL, Redis, S3 object stores and files.
//!
//! The modules stand on floors; each imports lower floors only (`tests/floors.rs` checks it):
//!
//! | floor | modules | duty |
//! |---|---|---|
//! | 0 | [`names`] | what things are called |
//! | 1 | [`clock`], [`error`], [`event`] | time and chance, how runs end, what happens meanwhile |
//! | 2 | [`flow`] | entries on their way from a source to a target |
//! | 3 | [`policy`] | what a person asked for |
//! | 4 | [`s3`], [`files`] | engines: buckets, files |

pub mod names;

pub mod clock;
pub mod error;
pub mod event;

pub mod flow;

pub mod policy;

pub mod files;
pub mod s3;
