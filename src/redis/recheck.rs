//! Whether a server holds what was wanted of a dump: each key is read back with `DUMP` and its digest compared.
//!
//! Only the wanted keys are read, nothing is forked, and any server of a cluster can be asked; other keys of the server
//! are not looked at. What modules hold is not compared, because only they can read it.
//!
//! *Limits.* [`WINDOW_KEYS`] keys or [`WINDOW_BYTES`] are asked for at a time, and a value is digested while it comes.

use std::{
    collections::{HashSet, VecDeque},
    io::{self, BufRead, BufReader, Read},
    sync::Arc,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::mpsc,
};

use super::{
    archive::Archive,
    lane::{Elsewhere, Lane, Share},
    rdb::{Flavour, Found, Item, RdbError, Tape, Walker},
    spool::Spool,
    wanted::{NAMED_MAX, PAYLOAD_BYTES, VALKEY_FROM, Wanted, shown_key},
    wire::{Arrivals, command},
};
use crate::{
    clock::Ground,
    error::{Context, ExitCode, Result},
};

/// Keys that are asked for before their values are read.
const WINDOW_KEYS: usize = 128;
/// Bytes of values that are asked for before they are read.
const WINDOW_BYTES: u64 = 4 << 20;
/// Bytes that one read asks for, and reads that wait for the comparison.
const READ_BYTES: usize = 64 * 1024;
const READS_WAITING: usize = 16;
/// Commands that wait for the socket.
const COMMANDS_WAITING: usize = 2 * WINDOW_KEYS;
/// How far the server's clock may be ahead of ours.
const CLOCK_MILLISECONDS: i64 = 60_000;
/// How long the server may take for an answer.
const SILENCE_SECONDS_MAX: u64 = 120;

/// Keys by database and name.
pub(super) type Keys = Arc<HashSet<(u64, Vec<u8>)>>;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Compared {
    /// Keys that hold what the dump holds.
    pub(super) same: u64,
    /// Keys that do not.
    pub(super) other: u64,
    /// Some of those, with what is wrong.
    pub(super) named: Vec<String>,
    /// Keys that are at another node of the cluster, which the server names.
    pub(super) away: Vec<((u64, Vec<u8>), Elsewhere)>,
}

/// Compares the wanted keys of a lane's share; those in `but`, by database and key, are not looked at. With `untouched`
/// the server does not take this for a use of the keys.
pub(super) async fn compare(
    lane: &Lane,
    archive: &Archive,
    wanted: &Wanted,
    (newest, untouched): (u16, bool),
    (but, ground): (Keys, &Ground),
) -> Result<Compared> {
    let wire = lane.server.dial().await?;
    let (mut read, mut write) = tokio::io::split(wire.into_stream());
    let (send, mut commands) = mpsc::channel::<Vec<u8>>(COMMANDS_WAITING);
    let (answers, take) = mpsc::channel::<Bytes>(READS_WAITING);
    let (spool, wanted, share) = (archive.spool.clone(), wanted.clone(), lane.share.clone());
    let there = if newest >= VALKEY_FROM { Flavour::Valkey } else { Flavour::Redis };
    let flavours = (archive.survey.flavour(), there);
    let ground = ground.clone();
    let comparing = tokio::task::spawn_blocking(move || {
        let answers = BufReader::with_capacity(READ_BYTES, Arrivals::new(take));
        let mut reading = Reading {
            spool: &spool,
            wanted: &wanted,
            ground: &ground,
            flavours,
            is_asking: matches!(share, Share::Sent(_)),
            send,
            answers,
            open: VecDeque::new(),
            bytes: 0,
            found: Compared::default(),
        };
        if untouched {
            reading.say(&[b"CLIENT", b"NO-TOUCH", b"ON"]);
            reading.open.push_back(Expected::Done);
        }
        reading.all(|found| share.has(found) && !but.contains(&(found.db, found.key.clone())))?;
        Ok::<_, RdbError>(reading.found)
    });
    let writing = async {
        while let Some(bytes) = commands.recv().await {
            write.write_all(&bytes).await?;
        }
        write.flush().await?;
        // The end of the commands is not the end of the answers.
        std::future::pending::<io::Result<()>>().await
    };
    let reading = async {
        loop {
            let mut bytes = BytesMut::with_capacity(READ_BYTES);
            let limit = Duration::from_secs(SILENCE_SECONDS_MAX);
            let count = tokio::time::timeout(limit, read.read_buf(&mut bytes)).await??;
            if count == 0 || answers.send(bytes.freeze()).await.is_err() {
                drop(answers);
                return io::Result::Ok(());
            }
        }
    };
    tokio::pin!(comparing);
    let compared = tokio::select! {
        wrote = writing => { wrote.map_err(|error| lane.server.down(error))?; comparing.await }
        heard = reading => { heard.map_err(|error| lane.server.down(error))?; comparing.await }
        compared = &mut comparing => compared,
    };
    let what = || format!("what {} holds was not compared", lane.server.shown());
    compared.failed(ExitCode::Failed, what)?.failed(ExitCode::SourceDown, what)
}

/// What an answer must be.
enum Expected {
    /// That something was done.
    Done,
    /// When a key expires, and what it holds.
    Key(Box<Found>),
}

/// What is wrong with a key.
enum Wrong {
    /// Another node has it.
    Away(Elsewhere),
    /// As a message says it.
    Other(&'static str),
}

/// A comparison that is under way.
struct Reading<'a, R> {
    spool: &'a Spool,
    wanted: &'a Wanted,
    ground: &'a Ground,
    /// Of the dump, and of what the server answers.
    flavours: (Flavour, Flavour),
    is_asking: bool,
    send: mpsc::Sender<Vec<u8>>,
    answers: BufReader<R>,
    open: VecDeque<Expected>,
    bytes: u64,
    found: Compared,
}

impl<R: Read> Reading<'_, R> {
    fn all(&mut self, mut is_meant: impl FnMut(&Found) -> bool) -> Result<(), RdbError> {
        let mut walker = Walker::begin(Tape::new(self.spool.reader(0), None), false)?;
        let mut selected = 0;
        loop {
            match walker.next()? {
                Item::End { .. } => return self.hear(0),
                Item::Key(found) if self.wanted.has(&found) && is_meant(&found) => {
                    let db = self.wanted.db(&found);
                    if db != selected {
                        selected = db;
                        self.say(&[b"SELECT", db.to_string().as_bytes()]);
                        self.open.push_back(Expected::Done);
                    }
                    for verb in [&b"PEXPIRETIME"[..], b"DUMP"] {
                        if self.is_asking {
                            self.say(&[b"ASKING"]);
                        }
                        self.say(&[verb, &found.key]);
                    }
                    self.bytes += found.end - found.begin;
                    self.open.push_back(Expected::Key(Box::new(found)));
                    if self.open.len() >= WINDOW_KEYS || self.bytes >= WINDOW_BYTES {
                        self.hear(self.open.len() / 2)?;
                    }
                }
                _ => {}
            }
        }
    }

    /// Sends a command. One that cannot be sent has no answer, which is noticed then.
    fn say(&self, words: &[&[u8]]) {
        drop(self.send.blocking_send(command(words)));
    }

    fn hear(&mut self, left: usize) -> Result<(), RdbError> {
        while self.open.len() > left
            && let Some(expected) = self.open.pop_front()
        {
            match expected {
                Expected::Done => drop(self.line()?),
                Expected::Key(found) => {
                    self.bytes -= found.end - found.begin;
                    match self.one(&found)? {
                        Ok(()) => self.found.same += 1,
                        Err(Wrong::Away(place)) => self.found.away.push(((found.db, found.key), place)),
                        Err(Wrong::Other(wrong)) => {
                            self.found.other += 1;
                            if self.found.named.len() < NAMED_MAX {
                                self.found.named.push(format!("{} {wrong}", shown_key(&found.key)));
                            }
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Reads the answers about one key.
    fn one(&mut self, found: &Found) -> Result<Result<(), Wrong>, RdbError> {
        let expires = self.answer()?;
        let expires = expires.strip_prefix(':').and_then(|text| text.parse::<i64>().ok());
        let expires = expires.filter(|at| *at >= 0);
        let head = self.answer()?;
        let value = Read::take(self.spool.reader(found.begin), found.end - found.begin);
        let ours =
            digest((found, found.expires_at_ms, found.code), self.flavours.0, value, self.wanted.now_ms)?;
        if head.starts_with("$-1") {
            let now_ms = self.ground.clock.now().timestamp_millis();
            let may_be_due = found.expires_at_ms.is_some_and(|at| at <= now_ms + CLOCK_MILLISECONDS);
            return Ok(if may_be_due || ours.is_none() { Ok(()) } else { Err(Wrong::Other("is not there")) });
        }
        let Some(count) = head.strip_prefix('$').and_then(|text| text.parse::<u64>().ok()) else {
            let place = head.strip_prefix('-').and_then(Elsewhere::parse);
            return Ok(Err(place.map_or(Wrong::Other("cannot be read back"), Wrong::Away)));
        };
        let mut code = [0];
        self.answers.read_exact(&mut code).map_err(RdbError::Read)?;
        let value_bytes = count.saturating_sub(PAYLOAD_BYTES);
        let (flavour, judged_at_ms) = (self.flavours.1, self.wanted.now_ms);
        let mut payload = Read::take(&mut self.answers, count.saturating_sub(1));
        let value = Read::take(&mut payload, value_bytes);
        // What cannot be read as a value is not the same.
        let theirs = digest((found, expires, code[0]), flavour, value, judged_at_ms).unwrap_or_default();
        io::copy(&mut payload, &mut io::sink()).map_err(RdbError::Read)?;
        self.line()?;
        let is_due = expires == found.expires_at_ms;
        let wrong = if is_due { "holds something else" } else { "expires at another time" };
        Ok(if theirs == ours { Ok(()) } else { Err(Wrong::Other(wrong)) })
    }

    /// Reads the first line of an answer.
    fn answer(&mut self) -> Result<String, RdbError> {
        if self.is_asking {
            self.line()?;
        }
        self.line()
    }

    fn line(&mut self) -> Result<String, RdbError> {
        let mut line = Vec::new();
        let count = self.answers.read_until(b'\n', &mut line).map_err(RdbError::Read)?;
        if count == 0 {
            let gone = io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection");
            return Err(RdbError::Read(gone));
        }
        Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
    }
}

/// Digests a key with a value; `None` when all that is in it has expired.
fn digest(
    (found, expires, code): (&Found, Option<i64>, u8),
    flavour: Flavour,
    value: impl Read,
    judged_at_ms: i64,
) -> Result<Option<[u8; 32]>, RdbError> {
    let begin = as_dump(found, flavour, expires, code);
    let mut walker = Walker::begin(Tape::new(Read::chain(begin, value), None), true)?.judge_at(judged_at_ms);
    match walker.next()? {
        Item::Key(found) if !found.expired => Ok(found.digest),
        _ => Ok(None),
    }
}

/// Begins a dump that holds one key, whose value follows.
fn as_dump(found: &Found, flavour: Flavour, expires: Option<i64>, code: u8) -> io::Cursor<Vec<u8>> {
    let magic: &[u8] = if flavour == Flavour::Valkey { b"VALKEY080" } else { b"REDIS0012" };
    let mut bytes = magic.to_vec();
    let length = |bytes: &mut Vec<u8>, count: u64| {
        bytes.push(0x81);
        bytes.extend_from_slice(&count.to_be_bytes());
    };
    bytes.push(254);
    length(&mut bytes, found.db);
    if let Some(at) = expires {
        bytes.push(252);
        bytes.extend_from_slice(&at.to_le_bytes());
    }
    bytes.push(code);
    length(&mut bytes, found.key.len() as u64);
    bytes.extend_from_slice(&found.key);
    io::Cursor::new(bytes)
}
