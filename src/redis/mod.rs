//! The Redis and Valkey engine: a dump over the wire, and back into a running server.
//!
//! Out: we ask the server for replication as a replica would and keep only the full synchronisation
//! ([`RedisSource`]): no access to its disk, no `BGSAVE` that overwrites its own file, everything in it.
//! Back: we act as the server's primary for one full synchronisation ([`RedisTarget`]), which keeps all
//! types, groups, expiries, functions and databases, and is right with `appendonly yes`.
//!
//! | file | duty |
//! |---|---|
//! | `server` `wire` `control` | reach a server: dial, raw lines, questions |
//! | `cluster` | who has which slots of a cluster |
//! | `psync` `source` `describe` | out: pull a dump, send it as entries, describe the server |
//! | `rdb` `crc` `spool` | the dump itself: walk it, sum it up, keep it |
//! | `archive` `preflight` | back: prove a dump, refuse before anything is touched |
//! | `examine` | whether a server can be backed up |
//! | `keys` | which keys there are, for a drill |
//! | `compare` | whether two dumps hold the same, and which keys differ |
//! | `target` `takeover` `primary` | back: choose the way, by replication |
//! | `pieces` `wanted` `rights` `lane` `commands` `cluster_write` `readback` | back: key by key |

mod archive;
mod cluster;
mod cluster_write;
mod commands;
pub mod compare;
mod control;
mod crc;
mod describe;
pub mod examine;
pub mod keys;
mod lane;
mod pieces;
mod preflight;
mod primary;
mod psync;
mod rdb;
mod readback;
mod rights;
mod server;
mod source;
mod spool;
mod takeover;
mod target;
mod wanted;
mod wire;

pub use self::{source::RedisSource, target::RedisTarget};
