//! One connection of a restore key by key: it walks the dump for its share of the keys and sends a command for each.
//!
//! *Order.* In the dump's. [`WINDOW_COMMANDS`] or [`WINDOW_BYTES`] are on their way before answers are waited for.
//!
//! *Crash.* Each key is whole or not there.
//!
//! *Limits.* A value is read from the spool piece by piece while it is sent, so memory does not grow with values; only
//! keys are held. Keys that a cluster sends elsewhere are held until the walk has ended.

use std::{
    collections::{HashSet, VecDeque},
    io,
    sync::Arc,
};

use tokio::sync::mpsc;

use super::{
    archive::Archive,
    cluster::{Shard, slot_of},
    commands::each_command,
    crc::crc64,
    rdb::{Found, Item, RdbError, Tape, Version, Walker},
    server::Server,
    spool::Spool,
    wanted::{PAYLOAD_BYTES, Reach, Wanted, shown_key},
    wire::{Reply, Wire, command},
};
use crate::error::{Context, ExitCode, Failure, Result};

/// Commands that are sent before their answers are read.
const WINDOW_COMMANDS: usize = 256;
/// Bytes that are sent before answers are read.
const WINDOW_BYTES: u64 = 4 << 20;
/// Bytes of a value that are read at a time.
const PIECE_BYTES: usize = 256 * 1024;
/// Pieces that wait between the walk and the socket.
const PIECES_WAITING: usize = 16;

/// A server and which of the keys it gets.
#[derive(Clone, Debug)]
pub(super) struct Lane {
    /// The server.
    pub(super) server: Arc<Server>,
    /// Its share.
    pub(super) share: Share,
}

/// Which of the keys a connection has to do with.
#[derive(Clone, Debug)]
pub(super) enum Share {
    /// The `nth` part of `of` parts of about the same size.
    Part {
        /// From 0.
        nth: u64,
        /// How many there are.
        of: u64,
    },
    /// Those of the slots of this part of a cluster.
    Slots(Arc<Shard>),
    /// Those that another node has sent here, by database and key. Their slot may still be on its way, so the node is
    /// told that we know.
    Sent(Arc<HashSet<(u64, Vec<u8>)>>),
}

impl Share {
    /// Returns whether what a dump holds is in it.
    pub(super) fn has(&self, found: &Found) -> bool {
        match self {
            Self::Sent(keys) => keys.contains(&(found.db, found.key.clone())),
            _ => self.has_key(&found.key),
        }
    }

    /// Returns whether a key of any database is in it.
    pub(super) fn has_key(&self, key: &[u8]) -> bool {
        match self {
            Self::Sent(keys) => keys.iter().any(|(_, sent)| sent == key),
            Self::Part { nth, of } => crc64(0, key) % of == *nth,
            Self::Slots(shard) => shard.has(slot_of(key)),
        }
    }

    /// Returns whether what is the whole server's goes this way.
    pub(super) fn has_functions(&self) -> bool {
        !matches!(self, Self::Part { nth: 1.., .. } | Self::Sent(_))
    }
}

/// What is done with each wanted key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    /// Ask whether it exists.
    Look,
    /// Store it where there is none.
    Put,
    /// Store it in place of what is there.
    Replace,
}

/// All that a lane must know.
#[derive(Clone, Debug)]
pub(super) struct Task {
    /// Which keys.
    pub(super) wanted: Wanted,
    /// What the server takes.
    pub(super) reach: Reach,
    /// The format that values are said to have.
    pub(super) stamp: u16,
    /// What is done.
    pub(super) act: Act,
}

/// A command whose answer is awaited.
#[derive(Debug)]
enum Sent {
    /// No key's: which, as messages say it.
    Other(&'static str),
    /// One of several that put this key together; the last is the key's own.
    Part(Arc<Found>),
    /// A key's.
    Key(Arc<Found>),
}

/// What the walk hands to the socket.
enum Step {
    /// Bytes of commands.
    Bytes(Vec<u8>),
    /// A command ended.
    Ended(Sent),
}

/// What became of a key.
#[derive(Debug)]
pub(super) enum Heard {
    /// It was looked for and is there.
    There,
    /// It was looked for and is not there.
    NotThere,
    /// It was stored.
    Stored,
    /// It was there already, and stays as it was.
    Busy,
}

/// Where a cluster sends a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Elsewhere {
    /// Host, empty for the same, and port.
    pub(super) place: (String, u16),
    /// Whether only this once: the slot is on its way there.
    pub(super) is_asked: bool,
}

impl Elsewhere {
    /// Reads `MOVED 3999 10.0.0.9:6379` or `ASK …`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let is_asked = match words.next()? {
            "MOVED" => false,
            "ASK" => true,
            _ => return None,
        };
        let (host, port) = words.nth(1)?.rsplit_once(':')?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        Some(Self { place: (host, port.parse().ok()?), is_asked })
    }
}

impl Lane {
    /// Walks the dump and does the task with each key of the share; `hear` learns what became of each. Returns the
    /// keys that are elsewhere.
    pub(super) async fn run(
        &self,
        archive: &Archive,
        task: &Task,
        mut hear: impl FnMut(&Found, Heard),
    ) -> Result<Vec<(Arc<Found>, Elsewhere)>> {
        let mut wire = self.server.dial().await?;
        let (send, mut take) = mpsc::channel(PIECES_WAITING);
        let (spool, share, owned) = (archive.spool.clone(), self.share.clone(), task.clone());
        let walk = tokio::task::spawn_blocking(move || {
            Walk { spool: &spool, share: &share, task: &owned, send: &send, is_heard: true }.all()
        });
        let mut window = Window { server: &self.server, act: task.act, open: VecDeque::new(), bytes: 0 };
        let mut elsewhere = Vec::new();
        let mut bytes_begun = 0;
        while let Some(step) = take.recv().await {
            match step {
                Step::Bytes(bytes) => {
                    bytes_begun += bytes.len() as u64;
                    wire.send_raw(&bytes).await.map_err(|error| self.server.down(error))?;
                }
                Step::Ended(sent) => {
                    window.bytes += bytes_begun;
                    window.open.push_back((sent, std::mem::take(&mut bytes_begun)));
                }
            }
            if window.open.len() >= WINDOW_COMMANDS || window.bytes >= WINDOW_BYTES {
                let left = window.open.len() / 2;
                window.hear(&mut wire, left, &mut elsewhere, &mut hear).await?;
            }
        }
        window.hear(&mut wire, 0, &mut elsewhere, &mut hear).await?;
        let unread = || "the spooled dump cannot be read again".to_owned();
        walk.await.failed(ExitCode::Failed, unread)?.failed(ExitCode::Failed, unread)?;
        Ok(elsewhere)
    }
}

/// Commands whose answers are awaited, in order.
struct Window<'a> {
    server: &'a Server,
    act: Act,
    open: VecDeque<(Sent, u64)>,
    bytes: u64,
}

impl Window<'_> {
    /// Hears answers until only `left` commands have none.
    async fn hear(
        &mut self,
        wire: &mut Wire,
        left: usize,
        elsewhere: &mut Vec<(Arc<Found>, Elsewhere)>,
        hear: &mut impl FnMut(&Found, Heard),
    ) -> Result<()> {
        while self.open.len() > left
            && let Some((sent, bytes)) = self.open.pop_front()
        {
            self.bytes -= bytes;
            let reply = reply(wire).await.map_err(|error| self.server.down(error))?;
            // Once one command of a key was sent elsewhere, all of them have to go there.
            let is_away = |found: &Arc<Found>| {
                elsewhere.last().is_some_and(|(other, _): &(Arc<Found>, _)| Arc::ptr_eq(other, found))
            };
            match (sent, reply) {
                (Sent::Key(found) | Sent::Part(found), _) if is_away(&found) => {}
                (Sent::Key(found), reply) => match self.judge(&found, &reply)? {
                    Ok(heard) => hear(&found, heard),
                    Err(place) => elsewhere.push((found, place)),
                },
                (_, Reply::Said(_)) => {}
                (Sent::Other(what), Reply::Refused(text)) => return Err(self.server.refused(what, &text)),
                (Sent::Part(found), Reply::Refused(text)) => match Elsewhere::parse(&text) {
                    Some(place) => elsewhere.push((found, place)),
                    None => return Err(self.refused(&found, &text)),
                },
            }
        }
        Ok(())
    }

    fn judge(&self, found: &Found, reply: &Reply) -> Result<Result<Heard, Elsewhere>> {
        let text = match reply {
            Reply::Said(text) if self.act == Act::Look => {
                return Ok(Ok(if text == "0" { Heard::NotThere } else { Heard::There }));
            }
            // RENAMENX says 0 where the name is taken.
            Reply::Said(text) => return Ok(Ok(if text == "0" { Heard::Busy } else { Heard::Stored })),
            Reply::Refused(text) => text,
        };
        if self.act == Act::Put && text.starts_with("BUSYKEY") {
            return Ok(Ok(Heard::Busy));
        }
        Elsewhere::parse(text).map(Err).ok_or_else(|| self.refused(found, text))
    }

    fn refused(&self, found: &Found, text: &str) -> Failure {
        let verb = if self.act == Act::Look { "EXISTS" } else { "RESTORE" };
        self.server.refused(&format!("{verb} of key {}", shown_key(&found.key)), text)
    }
}

/// Reads an answer. `HPEXPIREAT` answers with a list of one, of which the one counts.
async fn reply(wire: &mut Wire) -> io::Result<Reply> {
    loop {
        let line = wire.line().await?;
        match line.split_at_checked(1) {
            None | Some(("*", _)) => {}
            Some(("-", text)) => return Ok(Reply::Refused(text.to_owned())),
            Some(("+" | ":", text)) => return Ok(Reply::Said(text.to_owned())),
            Some(_) => return Err(io::Error::other("the server speaks another protocol than Redis")),
        }
    }
}

/// Makes the commands; when nobody listens any more it ends.
struct Walk<'a> {
    spool: &'a Spool,
    share: &'a Share,
    task: &'a Task,
    send: &'a mpsc::Sender<Step>,
    is_heard: bool,
}

impl Walk<'_> {
    fn all(mut self) -> Result<(), RdbError> {
        let mut walker = Walker::begin(Tape::new(self.spool.reader(0), None), false)?;
        let version = walker.version();
        let mut selected = 0;
        let puts = self.task.act != Act::Look;
        while self.is_heard {
            match walker.next()? {
                Item::End { .. } => return Ok(()),
                Item::Function { begin, end, .. }
                    if puts && self.task.wanted.has_functions() && self.share.has_functions() =>
                {
                    let head = payload_command(&[b"FUNCTION", b"RESTORE"], end - begin, 1);
                    self.payload(head, (245, begin, end), &[b"REPLACE"])?;
                    self.ended(Sent::Other("FUNCTION RESTORE"));
                }
                Item::Key(found) if self.task.wanted.has(&found) && self.share.has(&found) => {
                    let db = self.task.wanted.db(&found);
                    if db != selected {
                        selected = db;
                        self.bytes(command(&[b"SELECT", db.to_string().as_bytes()]));
                        self.ended(Sent::Other("SELECT"));
                    }
                    self.key(version, &Arc::new(found))?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn bytes(&mut self, bytes: Vec<u8>) {
        self.is_heard = self.is_heard && self.send.blocking_send(Step::Bytes(bytes)).is_ok();
    }

    fn ended(&mut self, sent: Sent) {
        self.is_heard = self.is_heard && self.send.blocking_send(Step::Ended(sent)).is_ok();
    }

    /// Says that the next command is one that another node has sent here.
    fn asking(&mut self) {
        if matches!(self.share, Share::Sent(_)) {
            self.bytes(command(&[b"ASKING"]));
            self.ended(Sent::Other("ASKING"));
        }
    }

    /// Sends what one key needs; `version` is the dump's.
    fn key(&mut self, version: Version, found: &Arc<Found>) -> Result<(), RdbError> {
        if self.task.act == Act::Look {
            self.asking();
            self.bytes(command(&[b"EXISTS", &found.key]));
        } else if self.task.reach.takes_whole(found, version.number) {
            self.asking();
            self.restore(found)?;
        } else {
            let mut tape = Tape::new(self.spool.reader(found.begin), None);
            let replace = self.task.act == Act::Replace;
            return each_command(&mut tape, (version.flavour, found), replace, &mut |bytes, is_last| {
                self.asking();
                self.bytes(bytes);
                let found = Arc::clone(found);
                self.ended(if is_last { Sent::Key(found) } else { Sent::Part(found) });
            });
        }
        self.ended(Sent::Key(Arc::clone(found)));
        Ok(())
    }

    fn restore(&mut self, found: &Found) -> Result<(), RdbError> {
        let expires = found.expires_at_ms.unwrap_or(0).to_string();
        let mut options: Vec<Vec<u8>> = vec![b"ABSTTL".to_vec()];
        if self.task.act == Act::Replace {
            options.push(b"REPLACE".to_vec());
        }
        if let Some(seconds) = found.idle_seconds {
            options.extend([b"IDLETIME".to_vec(), seconds.to_string().into_bytes()]);
        } else if let Some(frequency) = found.frequency {
            options.extend([b"FREQ".to_vec(), frequency.to_string().into_bytes()]);
        }
        let options: Vec<&[u8]> = options.iter().map(Vec::as_slice).collect();
        let words: [&[u8]; 3] = [b"RESTORE", &found.key, expires.as_bytes()];
        let head = payload_command(&words, found.end - found.begin, options.len());
        self.payload(head, (found.code, found.begin, found.end), &options)
    }

    /// Sends a `DUMP` payload (redis `src/cluster.c`, `createDumpPayload`): type, value, version, checksum.
    fn payload(
        &mut self,
        head: Vec<u8>,
        (code, begin, end): (u8, u64, u64),
        options: &[&[u8]],
    ) -> Result<(), RdbError> {
        let mut bytes = head;
        bytes.push(code);
        let mut crc = crc64(0, &[code]);
        let mut from = self.spool.reader(begin);
        let mut left = end - begin;
        while left > 0 && self.is_heard {
            let count = usize::try_from(left).unwrap_or(usize::MAX).min(PIECE_BYTES);
            let at = bytes.len();
            bytes.resize(at + count, 0);
            io::Read::read_exact(&mut from, &mut bytes[at..]).map_err(RdbError::Read)?;
            crc = crc64(crc, &bytes[at..]);
            left -= count as u64;
            if left > 0 {
                self.bytes(std::mem::take(&mut bytes));
            }
        }
        bytes.extend_from_slice(&footer(crc, self.task.stamp));
        bytes.extend_from_slice(b"\r\n");
        for option in options {
            bytes.extend_from_slice(format!("${}\r\n", option.len()).as_bytes());
            bytes.extend_from_slice(option);
            bytes.extend_from_slice(b"\r\n");
        }
        self.bytes(bytes);
        Ok(())
    }
}

/// Returns what stands behind a payload with this checksum: the format and the checksum over both.
pub(super) fn footer(crc: u64, version: u16) -> [u8; 10] {
    let version = version.to_le_bytes();
    let crc = crc64(crc, &version).to_le_bytes();
    let mut footer = [0; 10];
    footer[..2].copy_from_slice(&version);
    footer[2..].copy_from_slice(&crc);
    footer
}

/// Begins a command whose next word is a payload with a value of this size and some options behind it.
fn payload_command(words: &[&[u8]], value_bytes: u64, options: usize) -> Vec<u8> {
    let mut head = command(words);
    let counted = format!("*{}\r\n", words.len());
    let all = format!("*{}\r\n", words.len() + 1 + options);
    head.splice(..counted.len(), all.into_bytes());
    head.extend_from_slice(format!("${}\r\n", value_bytes + PAYLOAD_BYTES).as_bytes());
    head
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_says_where_a_key_is() {
        let place = |host: &str, port| (host.to_owned(), port);
        let moved = Elsewhere::parse("MOVED 3999 10.0.0.9:6381").unwrap();
        assert_eq!(moved, Elsewhere { place: place("10.0.0.9", 6381), is_asked: false });
        let asked = Elsewhere::parse("ASK 3999 ::1:6381").unwrap();
        assert_eq!(asked, Elsewhere { place: place("::1", 6381), is_asked: true });
        assert_eq!(Elsewhere::parse("MOVED 1 :6381").unwrap().place, place("", 6381));
        for other in ["ERR no", "MOVED", "MOVED 1", "MOVED 1 host", "MOVED 1 host:port"] {
            assert_eq!(Elsewhere::parse(other), None, "{other}");
        }
    }

    #[test]
    fn every_key_is_in_one_share() {
        let parts = [Share::Part { nth: 0, of: 2 }, Share::Part { nth: 1, of: 2 }];
        let thirds = [(0, 5460), (5461, 10_922), (10_923, 16_383)];
        let thirds =
            thirds.map(|range| Share::Slots(Arc::new(Shard { slots: vec![range], nodes: Vec::new() })));
        let mut counts = [0; 5];
        for nth in 0..1000 {
            let key = format!("k:{nth}");
            let has = |share: &Share| usize::from(share.has_key(key.as_bytes()));
            let all: Vec<usize> = parts.iter().chain(&thirds).map(has).collect();
            assert_eq!((all[..2].iter().sum::<usize>(), all[2..].iter().sum::<usize>()), (1, 1), "{key}");
            counts.iter_mut().zip(all).for_each(|(count, one)| *count += one);
        }
        assert!(counts.iter().all(|count| *count > 250), "{counts:?}");
        assert!(parts[0].has_functions() && !parts[1].has_functions() && thirds[2].has_functions());
    }
}
