//! The Redis and Valkey engine: a dump over the wire, and back into a running server.
//!
//! Out: we ask the server for replication as a replica would and keep only the full synchronisation
//! ([`RedisSource`]): no access to its disk, no `BGSAVE` that overwrites its own file, everything in it.
//! Back: we act as the server's primary for one full synchronisation ([`RedisTarget`]), which keeps all
//! types, groups, expiries, functions and databases, and is right with `appendonly yes`.

mod control;
mod crc;
mod describe;
mod psync;
mod rdb;
mod server;
mod source;
mod spool;
mod wire;

pub use self::source::RedisSource;
