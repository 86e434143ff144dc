//! Pulling a dump over the wire: we ask for replication and take only the full synchronisation.
//!
//! Protocol: redis `src/replication.c` (`syncCommand`, `replicationSetupSlaveForFullResync`) and
//! `redis-cli --rdb` (`src/redis-cli.c`, `sendReplconf`, `sendSync`).
//!
//! *Order.* Greeting, `REPLCONF capa eof`, `REPLCONF rdb-only 1`, `PSYNC ? -1`, any number of empty lines as
//! signs of life, `+FULLRESYNC`, more empty lines, the header, the dump. The end of the dump is where its
//! structure ends; header and marker only have to agree with it. A marker is constant for the life of a
//! server process, so anyone may have stored it as a value: it is never searched for.
//!
//! *Limits.* A server that is silent for [`Patience::silence`] is given up, and so is one that begins no dump for
//! [`Patience::turn`] although it gives signs of life: another save goes first. A save itself may take as long as it
//! needs, as long as it is heard of.
//!
//! *Crash.* Nothing leaves this module before structure, frame and checksum have agreed.

use std::io::{Read, Write};

use chrono::{DateTime, Utc};
use tokio::sync::mpsc;

use super::{
    rdb::{RdbError, Survey, Tape, Walker},
    server::{Patience, Server},
    wire::{Arrivals, Reply, Wire},
};
use crate::{
    clock::Ground,
    error::{Context, ExitCode, Failure, Result},
};

/// Reads that wait between the socket and the spool.
const READS_WAITING: usize = 32;
/// Length of the random marker in the `$EOF:` frame.
const MARKER_BYTES: usize = 40;

/// How the server says where the dump ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// `$<length>`: it knew beforehand.
    Length(u64),
    /// `$EOF:<marker>`: this marker follows the dump.
    Marker([u8; MARKER_BYTES]),
}

/// A synchronisation that was granted.
#[derive(Clone, Debug)]
pub(super) struct Granted {
    /// The replication history's id.
    pub(super) replid: String,
    /// The offset in it that the dump stands at.
    pub(super) offset: u64,
    /// This host's clock when it was granted; later the instant that the dump stands at.
    pub(super) at: DateTime<Utc>,
    /// Whether that instant is by the server's clock, because it did not tell how far that is from ours.
    pub(super) is_their_clock: bool,
    /// How the dump is framed.
    pub(super) frame: Frame,
}

/// Asks for a dump and waits until its first byte is next.
pub(super) async fn ask(server: &Server, wire: &mut Wire, ground: &Ground) -> Result<Granted> {
    expect(server, wire, &[b"REPLCONF", b"capa", b"psync2", b"capa", b"eof"]).await?;
    // Valkey 9 sends an old format to replicas that do not name their version, and fails when the data does
    // not fit into it. Redis and older Valkey refuse the word, which is fine.
    server.heard(wire.call(&[b"REPLCONF", b"version", b"9.1.2"])).await?;
    expect(server, wire, &[b"REPLCONF", b"rdb-only", b"1"]).await?;
    wire.send(&[b"PSYNC", b"?", b"-1"]).await.map_err(|error| server.down(error))?;
    let Patience { turn, .. } = server.patience();
    let granted = tokio::time::timeout(turn, line_with_text(server, wire)).await;
    let granted = match granted.unwrap_or_else(|_| Err(no_turn(server)))? {
        line if line.starts_with("+FULLRESYNC ") => line,
        line => return Err(unexpected(server, &line)),
    };
    let at = ground.clock.now();
    let mut words = granted.split(' ').skip(1);
    let replid = words.next().unwrap_or_default().to_owned();
    let offset = words.next().and_then(|word| word.parse().ok());
    let offset = offset.ok_or_else(|| unexpected(server, &granted))?;
    let header = line_with_text(server, wire).await?;
    let frame = frame(&header).ok_or_else(|| unexpected(server, &header))?;
    Ok(Granted { replid, offset, at, is_their_clock: false, frame })
}

/// Reads the line before the dump.
fn frame(header: &str) -> Option<Frame> {
    let rest = header.strip_prefix('$')?;
    match rest.strip_prefix("EOF:") {
        Some(marker) => Some(Frame::Marker(marker.as_bytes().try_into().ok()?)),
        None => rest.parse().ok().map(Frame::Length),
    }
}

async fn expect(server: &Server, wire: &mut Wire, words: &[&[u8]]) -> Result<()> {
    match server.heard(wire.call(words)).await? {
        Reply::Said(_) => Ok(()),
        Reply::Refused(text) => Err(server.refused("REPLCONF", &text)),
    }
}

/// Reads the next line that is not a mere sign of life.
async fn line_with_text(server: &Server, wire: &mut Wire) -> Result<String> {
    loop {
        let line = server.heard(wire.line()).await?;
        if !line.is_empty() {
            return Ok(line);
        }
    }
}

fn unexpected(server: &Server, line: &str) -> Failure {
    match line.strip_prefix('-') {
        Some(text) => server.refused("PSYNC", text),
        None => server.down("it answered PSYNC with something that is no full synchronisation"),
    }
}

/// Tells that the server lives and begins no dump.
fn no_turn(server: &Server) -> Failure {
    let seconds = server.patience().turn.as_secs();
    Failure::new(ExitCode::SourceDown, format!("{} began no dump within {seconds} s", server.shown()))
        .because("another save or rewrite of its own files goes first")
        .hint("INFO persistence on the server tells what it is doing. Where its saves take longer than that, raise `save_wait_seconds` of this source.")
}

/// Receives the dump into `spool` as fast as it comes and returns what it holds.
pub(super) async fn receive(
    server: &Server,
    mut wire: Wire,
    frame: Frame,
    spool: impl Write + Send + 'static,
    now_ms: i64,
) -> Result<Survey> {
    let (send, take) = mpsc::channel(READS_WAITING);
    // Parsing and disk writes block: they have a thread of their own, and the socket is never kept waiting
    // for more than the channel holds, because a slow reader holds the server's fork open.
    let parse = tokio::task::spawn_blocking(move || parse(Arrivals::new(take), frame, spool, now_ms));
    let pump = async {
        loop {
            let bytes = server.heard(wire.some()).await?;
            if bytes.is_empty() || send.send(bytes).await.is_err() {
                // The end, or the parser has seen enough.
                drop(send);
                return Ok::<_, Failure>(());
            }
        }
    };
    // A server may keep the connection open behind the dump, so the parser's end ends the pump too.
    tokio::pin!(parse);
    let parsed = tokio::select! {
        pumped = pump => {
            pumped?;
            parse.await
        }
        parsed = &mut parse => parsed,
    };
    let parsed =
        parsed.failed(ExitCode::Failed, || format!("the dump of {} was not read", server.shown()))?;
    parsed.map_err(|error| not_whole(server, error))
}

/// Tells why a dump was not taken.
fn not_whole(server: &Server, error: RdbError) -> Failure {
    match error {
        RdbError::Copy(error) => {
            Failure::new(ExitCode::Failed, format!("the dump of {} cannot be spooled", server.shown()))
                .because(error)
                .hint("Make room for one whole dump in the spool folder, or set `spool_dir` of this source.")
        }
        error => Failure::new(ExitCode::SourceDown, format!("{} sent no whole dump", server.shown()))
            .because(error)
            .hint("Nothing was stored. The server's log says why it broke off."),
    }
}

/// Walks the dump while it arrives, writes it to `spool`, and checks that frame and structure agree.
fn parse(
    from: impl Read,
    frame: Frame,
    spool: impl Write + Send + 'static,
    now_ms: i64,
) -> Result<Survey, RdbError> {
    let limit = match frame {
        Frame::Length(length) => length,
        Frame::Marker(_) => u64::MAX,
    };
    let mut walker = Walker::begin(Tape::new(from.take(limit), Some(Box::new(spool))), false)?;
    let survey = match Survey::take(&mut walker, now_ms, false) {
        Ok(survey) => survey,
        Err(RdbError::Unknown { .. }) => return opaque(walker, frame),
        Err(error) => return Err(error),
    };
    let mut tape = walker.into_tape();
    let size_bytes = tape.offset();
    tape.end_copy()?;
    match frame {
        Frame::Length(length) if length == size_bytes => {}
        Frame::Length(_) => {
            return Err(RdbError::Malformed { offset: size_bytes, what: "it is shorter than announced" });
        }
        Frame::Marker(marker) => {
            if tape.array()? != marker {
                return Err(RdbError::Malformed {
                    offset: size_bytes,
                    what: "its end is not followed by the marker",
                });
            }
        }
    }
    Ok(Survey { size_bytes, ..survey })
}

/// Takes a dump of a newer format, where only frame and checksum can agree.
fn opaque(walker: Walker<impl Read>, frame: Frame) -> Result<Survey, RdbError> {
    let marker = match frame {
        Frame::Length(_) => &[][..],
        Frame::Marker(ref marker) => marker,
    };
    let (survey, after) = Survey::of_unknown(walker, marker.len())?;
    let agreed = match frame {
        Frame::Length(length) => length == survey.size_bytes,
        Frame::Marker(marker) => after == marker,
    };
    if agreed { Ok(survey) } else { Err(RdbError::Ended { offset: survey.size_bytes }) }
}

#[cfg(test)]
mod tests;
