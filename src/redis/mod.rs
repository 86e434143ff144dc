//! The Redis and Valkey engine: a dump over the wire, and back into a running server.
//!
//! Out: we ask the server for replication as a replica would and keep only the full synchronisation
//! ([`RedisSource`]): no access to its disk, no `BGSAVE` that overwrites its own file, everything in it.
//! Back: we act as the server's primary for one full synchronisation ([`RedisTarget`]), which keeps all
//! types, groups, expiries, functions and databases, and is right with `appendonly yes`.
//!
//! | file | duty |
//! |---|---|
//! | `server` `tls` `wire` `control` | reach a server: dial, certificates, raw lines, questions |
//! | `sentinel` `replica` | which of several servers is meant, and which of them is read |
//! | `cluster` `cluster_read` `merge` | a cluster: who has which slots, a dump of each shard, all as one |
//! | `psync` `moment` `source` `describe` | out: pull a dump, date it, send it as entries, describe the server |
//! | `rdb` `crc` `spool` | the dump itself: walk it, sum it up, keep it |
//! | `reorder` `cuts` | put its keys in order and cut it, so that the next one is mostly known |
//! | `archive` `preflight` | back: prove a dump, refuse before anything is touched |
//! | `safety` `sealed` `copies` `home` | back: keep what the server held, as what, where, and load it again |
//! | `expiry` | back: other times at which keys expire |
//! | `pledge` | what a takeover owes a server, for the next run |
//! | `examine` | whether a server can be backed up |
//! | `keys` | which keys there are, for a drill |
//! | `compare` | whether two dumps hold the same, and which keys differ |
//! | `hostile` | what tests with hostile bytes may call |
//! | `target` `takeover` `primary` | back: choose the way, by replication |
//! | `pieces` `wanted` `rights` `lane` `commands` `cluster_write` `recheck` | back: key by key |
//! | `crossing` `nearby` | whether a dump may go that way in clear |
//! | `rewrite` `readback` | whether a restart would find it, whether it is the same |

mod archive;
mod cluster;
mod cluster_read;
mod cluster_write;
mod commands;
pub mod compare;
mod control;
pub mod copies;
mod crc;
mod crossing;
mod cuts;
mod describe;
pub mod examine;
mod expiry;
mod home;
pub mod hostile;
pub mod keys;
mod lane;
mod merge;
mod moment;
mod nearby;
mod pieces;
pub mod pledge;
mod preflight;
mod primary;
mod psync;
mod rdb;
mod readback;
mod recheck;
mod reorder;
mod replica;
mod rewrite;
mod rights;
mod safety;
mod sealed;
mod sentinel;
mod server;
mod source;
mod spool;
mod takeover;
mod target;
mod tls;
mod wanted;
mod wire;

pub use self::{
    expiry::Ttl,
    home::{Home, Waived},
    source::RedisSource,
    target::RedisTarget,
};
