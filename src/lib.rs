//! lifeboat: backup and disaster recovery for stacks made of MySQL, Redis, S3 object stores and files.
//!
//! The modules stand on floors; each imports lower floors only (`tests/floors.rs` checks it):
//!
//! | floor | modules | duty |
//! |---|---|---|
//! | 0 | [`names`], [`plain`] | what things are called, values as people read them |
//! | 1 | [`clock`], [`error`], [`event`] | time and chance, how runs end, what happens meanwhile |
//! | 1 | [`drill`] | what a drill found |
//! | 2 | [`finding`], [`flow`], [`retention`] | what was seen, entries on their way, which snapshots stay |
//! | 2 | [`schedule`], [`status`] | what is due, how well a stack is protected |
//! | 3 | [`policy`], [`store`], [`crypt`] | what a person asked for, where objects lie, who can read and sign |
//! | 4 | [`mysql`], [`redis`], [`s3`], [`files`] | the engines |
//! | 4 | [`repo`], [`catalog`], [`notify`] | repository, memory, messages |
//! | 4 | [`lab`], [`report`] | throwaway servers, how a drill's report is shown |
//! | 5 | [`jobs`] | what lifeboat does, a file for each verb |
//! | 6 | [`serve`] | the service: scheduler, HTTP, metrics |
//! | 7 | [`cli`] | the command line |

#![cfg_attr(not(test), warn(clippy::unwrap_used))]
// Numbers of tests are small.
#![cfg_attr(test, allow(clippy::cast_possible_truncation, clippy::cast_sign_loss))]

pub mod names;
pub mod plain;

pub mod clock;
pub mod drill;
pub mod error;
pub mod event;

pub mod finding;
pub mod flow;
pub mod retention;
pub mod schedule;
pub mod status;

pub mod crypt;
pub mod policy;
pub mod store;

pub mod catalog;
pub mod files;
pub mod lab;
pub mod mysql;
pub mod notify;
pub mod redis;
pub mod repo;
pub mod report;
pub mod s3;

pub mod jobs;

pub mod serve;

pub mod cli;
