//! We play a primary for one replica: listen, let in who has the token, send the dump once.
//!
//! Protocol: redis `src/replication.c` (`syncWithMaster`, `readSyncBulkPayload`).
//!
//! *Order.* The replica sends `PING`, `AUTH`, `REPLCONF …`, `PSYNC`; we answer, send `+FULLRESYNC`, the
//! dump with its length, and then ask every [`ASK_MILLISECONDS`] how far it has come, which also keeps the
//! link alive while it loads. An answer beyond the offset of the dump means that it is loaded.
//!
//! *Crash.* Dropping a [`Primary`] closes everything. A dump that was sent in part is a file that the
//! replica throws away, because `repl-diskless-load` is off while we serve. Between the last byte and
//! [`Primary::close`] one comes first, for good: who closes knows whether the replica can have the whole dump.
//!
//! *Limits.* Only one connection is served at a time, and [`SERVINGS_MAX`] in all; a connection without the
//! token is told nothing and closed after [`SILENCE_SECONDS_MAX`].

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::{AbortHandle, JoinSet},
    time::timeout,
};
use tokio_rustls::TlsAcceptor;

use super::{
    spool::Spool,
    wire::{Stream, command},
};

/// How often the replica is asked for its offset.
const ASK_MILLISECONDS: u64 = 300;
/// How long a connection may be silent before it has the dump, and a write may be stuck.
const SILENCE_SECONDS_MAX: u64 = 60;
/// How often the dump is sent when the link breaks.
const SERVINGS_MAX: u32 = 3;
/// Connections that are listened to at a time.
const CONNECTIONS_MAX: usize = 8;
/// Words in a request, and bytes in a line or word, that are accepted.
const WORDS_MAX: usize = 32;
const WORD_BYTES_MAX: usize = 4096;
/// The offset that the dump is said to stand at.
const OFFSET: u64 = 1;

/// Whether the last byte of the dump may go, went at least once, or never will.
const OPEN: u8 = 0;
const WHOLE: u8 = 1;
const CLOSED: u8 = 2;

/// What is served, to whom, and who hears of it.
pub(super) struct Terms {
    /// What the replica must log in with.
    pub(super) token: String,
    /// The name of the replication history.
    pub(super) replid: String,
    /// The dump.
    pub(super) spool: Spool,
    /// Its length.
    pub(super) size_bytes: u64,
    /// Encrypts, where the replica wants that.
    pub(super) tls: Option<TlsAcceptor>,
    /// Called before the last byte goes; it does not go where this fails.
    pub(super) before_last: Box<dyn Fn() -> io::Result<()> + Send + Sync>,
}

/// What is served, and how far it has come.
struct Offer {
    terms: Terms,
    one: Semaphore,
    let_in: AtomicBool,
    knocked: AtomicBool,
    servings: AtomicU32,
    sent: AtomicU64,
    last: AtomicU8,
    acked: AtomicU64,
}

/// A listening primary.
pub(super) struct Primary {
    offer: Arc<Offer>,
    address: SocketAddr,
    accepting: AbortHandle,
}

impl Drop for Primary {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// How far the replica has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "they are answers to separate questions")]
pub(super) struct Progress {
    /// Whether anybody came at all.
    pub(super) knocked: bool,
    /// Whether anybody came with the token.
    pub(super) let_in: bool,
    /// Bytes of the dump sent, this time.
    pub(super) sent: u64,
    /// Whether all of it was sent at least once.
    pub(super) sent_all: bool,
    /// Whether the replica said that it is beyond the dump.
    pub(super) loaded: bool,
    /// Whether the replica came back more often than we serve: it cannot load the dump.
    pub(super) given_up: bool,
}

impl Primary {
    /// Listens at `bind`, with any free port for port 0.
    pub(super) async fn listen(bind: (IpAddr, u16), terms: Terms) -> io::Result<Self> {
        let listener = TcpListener::bind(bind).await?;
        let address = listener.local_addr()?;
        let offer = Arc::new(Offer {
            terms,
            one: Semaphore::new(1),
            let_in: AtomicBool::new(false),
            knocked: AtomicBool::new(false),
            servings: AtomicU32::new(0),
            sent: AtomicU64::new(0),
            last: AtomicU8::new(OPEN),
            acked: AtomicU64::new(0),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&offer))).abort_handle();
        Ok(Self { offer, address, accepting })
    }

    /// Keeps the last byte of the dump back from now on; returns whether the replica can have it already.
    pub(super) fn close(&self) -> bool {
        let before = self.offer.last.compare_exchange(OPEN, CLOSED, Ordering::AcqRel, Ordering::Acquire);
        before == Err(WHOLE)
    }

    /// Returns the port that it listens at.
    pub(super) fn port(&self) -> u16 {
        self.address.port()
    }

    /// Returns how far the replica has come.
    pub(super) fn progress(&self) -> Progress {
        let servings = self.offer.servings.load(Ordering::Acquire);
        Progress {
            knocked: self.offer.knocked.load(Ordering::Acquire),
            let_in: self.offer.let_in.load(Ordering::Acquire),
            sent: self.offer.sent.load(Ordering::Acquire),
            sent_all: self.offer.last.load(Ordering::Acquire) == WHOLE,
            loaded: self.offer.acked.load(Ordering::Acquire) > OFFSET,
            given_up: servings > SERVINGS_MAX,
        }
    }
}

async fn accept(listener: TcpListener, offer: Arc<Offer>) {
    // Dropped with this task, and every connection with it.
    let mut connections = JoinSet::new();
    loop {
        while connections.len() >= CONNECTIONS_MAX {
            connections.join_next().await;
        }
        match listener.accept().await {
            Ok((stream, _)) => drop(connections.spawn(serve(stream, Arc::clone(&offer)))),
            // Out of file handles, or a peer that left again: others may still come.
            Err(_) => tokio::time::sleep(Duration::from_millis(ASK_MILLISECONDS)).await,
        }
    }
}

/// Speaks with one connection to its end. An error only ends the connection: whoever waits sees the
/// progress stand still.
async fn serve(stream: TcpStream, offer: Arc<Offer>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    offer.knocked.store(true, Ordering::Release);
    let stream: Box<dyn Stream> = match &offer.terms.tls {
        Some(tls) => Box::new(within(tls.accept(stream)).await?),
        None => Box::new(stream),
    };
    let (read, mut write) = tokio::io::split(stream);
    let mut read = BufReader::new(read);
    let mut known = false;
    loop {
        let words = within(request(&mut read)).await?;
        let name = words.first().map(|word| word.to_ascii_uppercase()).unwrap_or_default();
        let answer: &[u8] = match (name.as_slice(), known) {
            (b"AUTH", _) => {
                known = words.last().is_some_and(|given| same(given, offer.terms.token.as_bytes()));
                if known {
                    offer.let_in.store(true, Ordering::Release);
                    b"+OK\r\n"
                } else {
                    b"-WRONGPASS invalid password\r\n"
                }
            }
            (_, false) => b"-NOAUTH Authentication required.\r\n",
            (b"PING", true) => b"+PONG\r\n",
            (b"REPLCONF", true) => b"+OK\r\n",
            (b"PSYNC", true) => return hand_over(&mut read, &mut write, &offer).await,
            _ => b"-ERR unknown command\r\n",
        };
        within(send(&mut write, answer)).await?;
    }
}

async fn send(write: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    write.write_all(bytes).await?;
    write.flush().await
}

/// Compares without telling by its duration how much was right.
fn same(left: &[u8], right: &[u8]) -> bool {
    left.len() == right.len() && left.iter().zip(right).fold(0, |sum, (l, r)| sum | (l ^ r)) == 0
}

/// Sends the dump and then asks for the offset until the connection ends.
async fn hand_over(
    read: &mut (impl AsyncBufRead + Unpin),
    write: &mut (impl AsyncWrite + Unpin),
    offer: &Offer,
) -> io::Result<()> {
    let Ok(_one) = offer.one.try_acquire() else {
        return within(send(write, b"-ERR another replica is served\r\n")).await;
    };
    if offer.servings.fetch_add(1, Ordering::AcqRel) >= SERVINGS_MAX {
        return within(send(write, b"-ERR the dump was sent often enough\r\n")).await;
    }
    offer.sent.store(0, Ordering::Release);
    let header = format!("+FULLRESYNC {} {OFFSET}\r\n${}\r\n", offer.terms.replid, offer.terms.size_bytes);
    within(send(write, header.as_bytes())).await?;
    send_dump(write, offer).await?;
    let ask = command(&[b"REPLCONF", b"GETACK", b"*"]);
    let asking = async {
        loop {
            within(send(write, &ask)).await?;
            tokio::time::sleep(Duration::from_millis(ASK_MILLISECONDS)).await;
        }
    };
    let listening = async {
        loop {
            let words = request(read).await?;
            // Since 7.2 a replica with an append-only file adds `FACK` and the offset that is on its disk.
            if let [name, what, offset, ..] = words.as_slice()
                && name.eq_ignore_ascii_case(b"REPLCONF")
                && what.eq_ignore_ascii_case(b"ACK")
            {
                let offset = std::str::from_utf8(offset).ok().and_then(|text| text.parse().ok());
                offer.acked.fetch_max(offset.unwrap_or(0), Ordering::AcqRel);
            }
        }
    };
    tokio::select! {
        ended = asking => ended,
        ended = listening => ended,
    }
}

async fn send_dump(write: &mut (impl AsyncWrite + Unpin), offer: &Offer) -> io::Result<()> {
    let file = offer.terms.spool.rewound().map_err(io::Error::other)?;
    let mut file = tokio::fs::File::from_std(file).take(offer.terms.size_bytes);
    let mut piece = vec![0; 256 * 1024];
    let mut left = offer.terms.size_bytes;
    while left > 0 {
        let count = file.read(&mut piece).await?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        left -= count as u64;
        if left == 0 {
            // Told before the last byte goes: a server that has all of it may empty itself at once, and that
            // it comes back for more later does not undo that.
            (offer.terms.before_last)()?;
            if offer.last.compare_exchange(OPEN, WHOLE, Ordering::AcqRel, Ordering::Acquire) == Err(CLOSED) {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
        }
        within(send(write, &piece[..count])).await?;
        offer.sent.fetch_add(count as u64, Ordering::AcqRel);
    }
    Ok(())
}

async fn within<T>(step: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(Duration::from_secs(SILENCE_SECONDS_MAX), step)
        .await
        .unwrap_or(Err(io::ErrorKind::TimedOut.into()))
}

/// Reads a request; empty lines before it are signs of life.
async fn request(read: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Vec<Vec<u8>>> {
    let count = loop {
        let line = line(read).await?;
        if !line.is_empty() {
            break number(&line, '*', WORDS_MAX)?;
        }
    };
    let mut words = Vec::with_capacity(count);
    for _ in 0..count {
        let size = number(&line(read).await?, '$', WORD_BYTES_MAX)?;
        let mut word = vec![0; size + 2];
        read.read_exact(&mut word).await?;
        word.truncate(size);
        words.push(word);
    }
    Ok(words)
}

fn number(line: &str, mark: char, limit: usize) -> io::Result<usize> {
    let number = line.strip_prefix(mark).and_then(|digits| digits.parse().ok());
    number.filter(|number| *number <= limit).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

async fn line(read: &mut (impl AsyncBufRead + Unpin)) -> io::Result<String> {
    let mut line = Vec::new();
    let mut limited = read.take(WORD_BYTES_MAX as u64);
    limited.read_until(b'\n', &mut line).await?;
    match line.pop() {
        Some(b'\n') => Ok(String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned()),
        Some(_) => Err(io::ErrorKind::InvalidData.into()),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

#[cfg(test)]
mod tests;
