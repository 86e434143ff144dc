//! A raw connection that speaks RESP by the line: what the replication protocol needs and clients hide.
//!
//! *Limits.* A line may have [`LINE_BYTES_MAX`] and a text [`TEXT_BYTES_MAX`]; the buffer holds one read beyond that.

use std::{
    io::{self, Read},
    net::SocketAddr,
};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::mpsc,
};

/// Bytes that a line may have; error replies are the longest.
const LINE_BYTES_MAX: usize = 64 * 1024;
/// Bytes that a text may have; `INFO` takes some thousand.
const TEXT_BYTES_MAX: usize = 1024 * 1024;
/// Texts that a list of them may have; `TIME` answers with two.
const TEXTS_MAX: usize = 16;
/// Bytes that one read asks for.
const READ_BYTES: usize = 128 * 1024;

/// A connection of any kind: TCP, TLS, unix socket.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A simple answer: `+…`, `:…` or `-…`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// What the server said.
    Said(String),
    /// Why it refused, without the `-`.
    Refused(String),
}

/// A connection with a read buffer of its own.
pub(super) struct Wire {
    stream: Box<dyn Stream>,
    local: Option<SocketAddr>,
    buffer: BytesMut,
}

impl Wire {
    /// Takes over a fresh connection.
    pub(super) fn new(stream: Box<dyn Stream>, local: Option<SocketAddr>) -> Self {
        Self { stream, local, buffer: BytesMut::new() }
    }

    /// Returns this end's own address, where the connection has one.
    pub(super) fn local(&self) -> Option<SocketAddr> {
        self.local
    }

    /// Gives the connection to another client, which is possible only between two answers.
    pub(super) fn into_stream(self) -> Box<dyn Stream> {
        assert!(self.buffer.is_empty(), "bytes were read ahead and would be lost");
        self.stream
    }

    /// Sends a command.
    pub(super) async fn send(&mut self, words: &[&[u8]]) -> io::Result<()> {
        self.stream.write_all(&command(words)).await?;
        self.stream.flush().await
    }

    /// Sends bytes as they are.
    pub(super) async fn send_raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await?;
        self.stream.flush().await
    }

    /// Sends a command and waits for its simple answer.
    pub(super) async fn call(&mut self, words: &[&[u8]]) -> io::Result<Reply> {
        self.send(words).await?;
        self.reply().await
    }

    /// Reads a simple answer; empty lines before it are signs of life.
    pub(super) async fn reply(&mut self) -> io::Result<Reply> {
        loop {
            let line = self.line().await?;
            match line.split_at_checked(1) {
                None => {}
                Some(("-", text)) => return Ok(Reply::Refused(text.to_owned())),
                Some(("+" | ":", text)) => return Ok(Reply::Said(text.to_owned())),
                Some(_) => return Err(io::Error::other("the server speaks another protocol than Redis")),
            }
        }
    }

    /// Sends a command and returns the texts that it is answered with, or why it was refused.
    pub(super) async fn texts(&mut self, words: &[&[u8]]) -> io::Result<Result<Vec<String>, String>> {
        self.send(words).await?;
        let line = self.line().await?;
        let other = || io::Error::other("the server answered with something that is no text");
        let count =
            |text: &str, max: usize| text.parse().ok().filter(|count| *count <= max).ok_or_else(other);
        match line.split_at_checked(1) {
            Some(("-", text)) => Ok(Err(text.to_owned())),
            Some(("$", length)) => Ok(Ok(vec![self.text(count(length, TEXT_BYTES_MAX)?).await?])),
            Some(("*", length)) => {
                let mut texts = Vec::new();
                for _ in 0..count(length, TEXTS_MAX)? {
                    let head = self.line().await?;
                    let length = count(head.strip_prefix('$').ok_or_else(other)?, TEXT_BYTES_MAX)?;
                    texts.push(self.text(length).await?);
                }
                Ok(Ok(texts))
            }
            _ => Err(other()),
        }
    }

    /// Reads a text of `length` bytes and the line's end behind it.
    async fn text(&mut self, length: usize) -> io::Result<String> {
        let end = b"\r\n".len();
        while self.buffer.len() < length + end {
            self.fill().await?;
        }
        let text = self.buffer.split_to(length + end);
        Ok(String::from_utf8_lossy(&text[..length]).into_owned())
    }

    /// Reads a line without its end.
    pub(super) async fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(end + 1);
                let line = &line[..end];
                return Ok(String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(line)).into_owned());
            }
            if self.buffer.len() > LINE_BYTES_MAX {
                return Err(io::Error::other("the server sent a line without an end"));
            }
            self.fill().await?;
        }
    }

    /// Returns the next bytes, whatever they are; none at the end.
    pub(super) async fn some(&mut self) -> io::Result<Bytes> {
        if self.buffer.is_empty() {
            self.buffer.reserve(READ_BYTES);
            self.stream.read_buf(&mut self.buffer).await?;
        }
        Ok(self.buffer.split().freeze())
    }

    async fn fill(&mut self) -> io::Result<()> {
        self.buffer.reserve(READ_BYTES);
        match self.stream.read_buf(&mut self.buffer).await? {
            0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection")),
            _ => Ok(()),
        }
    }
}

/// Bytes that arrive through a channel, as a blocking reader.
pub(super) struct Arrivals {
    take: mpsc::Receiver<Bytes>,
    now: Bytes,
}

impl Arrivals {
    /// Reads what comes from there.
    pub(super) fn new(take: mpsc::Receiver<Bytes>) -> Self {
        Self { take, now: Bytes::new() }
    }
}

impl Read for Arrivals {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.now.is_empty() {
            self.now = self.take.blocking_recv().unwrap_or_default();
        }
        let count = into.len().min(self.now.len());
        into[..count].copy_from_slice(&self.now.split_to(count));
        Ok(count)
    }
}

/// Encodes a command.
pub(super) fn command(words: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        bytes.extend_from_slice(word);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}
