//! A lab: throwaway servers that a snapshot is restored into, in containers or as plain processes of this host.
//!
//! A lab knows no engine: it starts what it is told to, says where it can be reached, and goes away again.
//!
//! *Order.* What an earlier lab of the same drill left behind is removed first; then all servers start at the same
//! time; a lab is ready when each accepts a connection. *Crash.* Everything that a lab makes carries its label
//! ([`Marks`]), so that the next one of the same drill finds and removes what a killed process left behind; nobody
//! else's things are touched.
//!
//! *Limits.* Each server has the memory, processors and time that [`Limits`] says. Servers are reached on this host
//! only and have no way out.

pub mod docker;
mod process;
mod tree;

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, time::Duration};

use async_trait::async_trait;
use secrecy::SecretString;

pub use self::{
    process::{ProcessLab, reap as reap_processes},
    tree::remove_tree,
};
use crate::{
    error::{ExitCode, Failure, Result},
    policy::LabKind,
};

/// What kind of server is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Product {
    /// MySQL.
    Mysql,
    /// `MariaDB`.
    Mariadb,
    /// Redis or Valkey.
    Redis,
    /// An S3 server with the command line of `MinIO`.
    S3,
}

impl Product {
    /// Returns the port that it listens on in a container.
    pub fn port(self) -> u16 {
        match self {
            Self::Mysql | Self::Mariadb => 3306,
            Self::Redis => 6379,
            Self::S3 => 9000,
        }
    }

    /// Returns the user that [`Server::password`] belongs to.
    pub fn user(self) -> &'static str {
        match self {
            Self::Mysql | Self::Mariadb => "root",
            Self::Redis => "default",
            Self::S3 => "lifeboat",
        }
    }
}

/// A server that a lab is to have.
#[derive(Clone, Debug)]
pub struct Server {
    /// The source whose place it takes; also its name on the lab's network.
    pub name: String,
    /// What it is.
    pub product: Product,
    /// The image that it is made from, in a lab of containers.
    pub image: String,
    /// Arguments for the server beside the lab's own.
    pub arguments: Vec<String>,
    /// The password (S3: the secret key) of [`Product::user`]: made for this lab and worth nothing outside.
    pub password: SecretString,
}

/// What a lab may use.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of memory of each server.
    pub memory_bytes: u64,
    /// Processor time of each server, 100 for one processor; all there is when not given.
    pub cpu_percent: Option<u32>,
    /// Whether data lies in memory instead of on a disk.
    pub data_in_memory: bool,
    /// How long a server may take until it accepts a connection.
    pub start: Duration,
    /// How long the lab may stay: whatever is older is garbage for anybody who looks.
    pub lifetime: Duration,
}

/// Whose lab it is; stands on everything that it makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marks {
    /// The stack.
    pub stack: String,
    /// The host that makes the drill.
    pub host: String,
    /// The task: a drill of one stack and host has at most one lab of each.
    pub task: String,
    /// The drill's id.
    pub drill: String,
}

/// A server that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Running {
    /// The source whose place it takes.
    pub name: String,
    /// Where this process reaches it.
    pub address: SocketAddr,
    /// Where a command inside the lab reaches it: `host:port`.
    pub inside: String,
    /// What it was made from: an image with its digest, or a program's path.
    pub image: String,
}

/// A program that is run inside a lab.
#[derive(Clone, Debug)]
pub struct Program {
    /// What reports call it.
    pub name: String,
    /// The image, in a lab of containers; that of [`Program::beside`] when not given.
    pub image: Option<String>,
    /// The server whose image is taken when none is given.
    pub beside: Option<String>,
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Its environment: addresses and the lab's own throwaway credentials, never a secret of the stack.
    pub environment: BTreeMap<String, String>,
    /// Files and folders that it may read, and where it finds them.
    pub read_only: Vec<(PathBuf, PathBuf)>,
    /// Folders that it may write to, and where it finds them.
    pub writable: Vec<(PathBuf, PathBuf)>,
    /// Whether it needs no network: in a container it has none, and does not find the servers either.
    pub is_alone: bool,
    /// How long it may take.
    pub timeout: Duration,
}

/// How a program ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Its exit code; `None` when it was killed because its time was up.
    pub code: Option<i64>,
    /// The last of what it wrote, both outputs together.
    pub output: String,
}

/// Bytes of a program's output that are kept, the last ones.
pub const OUTPUT_BYTES_MAX: usize = 64 << 10;

/// Throwaway servers and programs. Dropping a lab leaves everything to the next one's reaping: call [`Lab::remove`].
#[async_trait]
pub trait Lab: Send + Sync {
    /// Returns what it is, as a person would say it: `docker 28.3.0`.
    fn describe(&self) -> String;

    /// Starts all servers at the same time and returns them in the same order, once each accepts a connection.
    /// Fails with [`ExitCode::DrillNotRun`]; what was started stays until [`Lab::remove`].
    async fn start(&self, servers: &[Server]) -> Result<Vec<Running>>;

    /// Fails with [`ExitCode::DrillNotRun`] and the reason when a server that was started runs no more: it was out of
    /// memory, or ended by itself.
    async fn check(&self) -> Result<()>;

    /// Runs a program where the servers can be reached by their names, and nothing else can.
    async fn run(&self, program: &Program) -> Result<Ended>;

    /// Removes everything that this lab made. May be called more than once.
    async fn remove(&self) -> Result<()>;
}

/// Returns the failure of a lab: a drill that it keeps from running is not passed.
pub(crate) fn not_run(what: impl Into<String>) -> Failure {
    Failure::new(ExitCode::DrillNotRun, what)
}

/// Returns what people call a kind of lab.
pub fn word(kind: LabKind) -> &'static str {
    match kind {
        LabKind::Docker => "docker",
        LabKind::Process => "process",
    }
}
