//! The private readers of bytes that a server or a thief of the store can choose, open to the tests that choose them:
//! `fuzz/`. No program needs them.

use std::{
    io::{self, Read},
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    psync,
    rdb::{self, Survey},
    reorder,
    server::Server,
    spool::Spool,
    wire::Wire,
};
use crate::{clock::Ground, names::SourceName, policy::RedisConfig};

/// What a dump was taken for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Its bytes.
    pub size_bytes: u64,
    /// Keys of all databases.
    pub keys: u64,
    /// Whether its structure was understood.
    pub introspected: bool,
    /// Its digests, where they were asked for.
    pub digests: Option<(String, String)>,
}

fn told(survey: Survey) -> Told {
    let keys = survey.keys_by_db().values().sum();
    let digests = survey.digest.zip(survey.digest_exact);
    Told { size_bytes: survey.size_bytes, keys, introspected: survey.introspected, digests }
}

/// Walks a dump that nothing follows; `None` when it is none.
pub fn dump(from: impl Read, digesting: bool) -> Option<Told> {
    Survey::of_all(from, 0, digesting).ok().map(told)
}

/// Puts a dump in order, in runs of so many bytes; `None` when it is none that can be.
pub fn in_order(dump: &[u8], run_bytes: usize) -> Option<Vec<u8>> {
    reorder::in_memory(dump, run_bytes)
}

/// Unpacks a collection or a string: listpack, ziplist, intset, LZF.
pub fn unpack(kind: u8, bytes: &[u8]) -> Option<Vec<Vec<u8>>> {
    rdb::unpack(kind, bytes)
}

/// What a server sends to who asks for a dump; what it is sent is forgotten.
struct Said(io::Cursor<Vec<u8>>);

impl AsyncRead for Said {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let count = self.0.read(into.initialize_unfilled())?;
        into.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Said {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Pulls a dump from a server that says this; returns what it was taken for and the spooled bytes.
pub async fn pull(said: Vec<u8>) -> Option<(Told, Vec<u8>)> {
    let name = SourceName::new("redis").ok()?;
    let config = RedisConfig { url: "redis://127.0.0.1:1".to_owned(), ..RedisConfig::default() };
    let server = Server::of(&name, &config).ok()?;
    let mut wire = Wire::new(Box::new(Said(io::Cursor::new(said))), None);
    let granted = psync::ask(&server, &mut wire, &Ground::system()).await.ok()?;
    let spool = Spool::new(None).ok()?;
    let survey = psync::receive(&server, wire, granted.frame, spool.rewound().ok()?, 0).await.ok()?;
    let mut bytes = Vec::new();
    spool.reader(0).read_to_end(&mut bytes).ok()?;
    Some((told(survey), bytes))
}
