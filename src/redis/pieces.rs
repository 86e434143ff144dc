//! A restore key by key, with `RESTORE`: for some keys of a dump, and for servers that may not replicate.
//!
//! *Order.* Without permission to replace, all wanted keys are looked for first and nothing is written when
//! one exists. Then keys go over in the dump's order, in windows of [`WINDOW_COMMANDS`]. Expired keys are
//! left out.
//!
//! *Crash.* Each key is whole or not there; a restore that broke off is repeated with permission to replace.
//!
//! *Limits.* A value is read from the spool piece by piece while it is sent, so memory does not grow with
//! values; only keys are held.

use std::{io, sync::Arc};

use tokio::sync::mpsc;

use super::{
    archive::Archive,
    crc::crc64,
    rdb::{Found, Item, RdbError, Tape, Walker},
    server::Server,
    spool::Spool,
    wire::{Reply, Wire, command},
};
use crate::{
    error::{Context, ExitCode, Failure, Result},
    flow::Selection,
};

/// Commands that are sent before their answers are read.
const WINDOW_COMMANDS: usize = 256;
/// Bytes of a value that are read at a time.
const PIECE_BYTES: usize = 256 * 1024;
/// Pieces that wait between the walk and the socket.
const PIECES_WAITING: usize = 16;
/// Keys that a message names.
const NAMED_MAX: usize = 5;
/// What stands behind a value in a `DUMP` payload: version and checksum.
const FOOTER_BYTES: u64 = 10;

/// What is done with each wanted key.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Act {
    /// Ask whether it exists.
    Look,
    /// Store it.
    Put,
}

/// What the walk hands to the socket.
enum Step {
    /// Bytes of commands.
    Bytes(Vec<u8>),
    /// A command ended; this is the key that it was about, if one.
    Ended(Option<Vec<u8>>),
}

/// How many keys were stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Stored {
    /// Keys.
    pub(super) keys: u64,
    /// Function libraries.
    pub(super) functions: u64,
}

/// Which keys are wanted, and what is known for all of them.
#[derive(Clone)]
struct Plan {
    only: Selection,
    now_ms: i64,
    act: Act,
}

/// Refuses when one of the wanted keys exists on the server.
pub(super) async fn check_absent(
    server: &Arc<Server>,
    archive: &Archive,
    only: &Selection,
    now_ms: i64,
) -> Result<()> {
    let plan = Plan { only: only.clone(), now_ms, act: Act::Look };
    let (mut there, mut named) = (0_u64, Vec::new());
    run(server, archive, plan, |key, reply| {
        if let (Some(key), Reply::Said(text)) = (key, reply)
            && text == "1"
        {
            there += 1;
            if named.len() < NAMED_MAX {
                named.push(format!("`{}`", String::from_utf8_lossy(&key)));
            }
        }
        Ok(())
    })
    .await?;
    if there == 0 {
        return Ok(());
    }
    let more = there - named.len() as u64;
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let what = format!("{} has some of these keys already", server.shown());
    Err(Failure::new(ExitCode::TargetNotEmpty, what)
        .because(format!("{}{more}", named.join(", ")))
        .hint("Nothing was changed. Say --replace to overwrite these keys; others stay."))
}

/// Stores the wanted keys, and the functions when everything is wanted.
pub(super) async fn store(
    server: &Arc<Server>,
    archive: &Archive,
    only: &Selection,
    now_ms: i64,
) -> Result<Stored> {
    let plan = Plan { only: only.clone(), now_ms, act: Act::Put };
    let mut stored = Stored::default();
    run(server, archive, plan, |key, reply| {
        match (key, reply) {
            (_, Reply::Refused(text)) => return Err(server.refused("RESTORE", &text)),
            (Some(_), Reply::Said(_)) => stored.keys += 1,
            (None, Reply::Said(_)) => {}
        }
        Ok(())
    })
    .await?;
    stored.functions = if only.is_all() { archive.survey.functions } else { 0 };
    Ok(stored)
}

/// Walks the dump, sends a command for each wanted thing and hears the answers in order.
async fn run(
    server: &Arc<Server>,
    archive: &Archive,
    plan: Plan,
    mut hear: impl FnMut(Option<Vec<u8>>, Reply) -> Result<()>,
) -> Result<()> {
    if !archive.survey.introspected {
        let what = "the dump is of a newer format than this version can take apart";
        return Err(
            Failure::new(ExitCode::Failed, what).hint("Restore all of it, into a server of its own version.")
        );
    }
    let mut wire = server.dial().await?;
    let (send, mut take) = mpsc::channel(PIECES_WAITING);
    let spool = archive.spool.clone();
    let walk = tokio::task::spawn_blocking(move || walk(&spool, &plan, &send));
    let mut open = Vec::new();
    while let Some(step) = take.recv().await {
        match step {
            Step::Bytes(bytes) => wire.send_raw(&bytes).await.map_err(|error| server.down(error))?,
            Step::Ended(key) => open.push(key),
        }
        if open.len() >= WINDOW_COMMANDS {
            hear_all(server, &mut wire, &mut open, &mut hear).await?;
        }
    }
    hear_all(server, &mut wire, &mut open, &mut hear).await?;
    let unread = || "the spooled dump cannot be read again".to_owned();
    walk.await.failed(ExitCode::Failed, unread)?.failed(ExitCode::Failed, unread)
}

async fn hear_all(
    server: &Server,
    wire: &mut Wire,
    open: &mut Vec<Option<Vec<u8>>>,
    hear: &mut impl FnMut(Option<Vec<u8>>, Reply) -> Result<()>,
) -> Result<()> {
    for key in open.drain(..) {
        let reply = wire.reply().await.map_err(|error| server.down(error))?;
        hear(key, reply)?;
    }
    Ok(())
}

/// Makes the commands; an error of the channel only means that nobody listens any more.
fn walk(spool: &Spool, plan: &Plan, send: &mpsc::Sender<Step>) -> Result<(), RdbError> {
    let mut walker = Walker::begin(Tape::new(spool.reader(0), None), false)?;
    let version = walker.version().number;
    let mut selected = 0;
    loop {
        let said = match walker.next()? {
            Item::End { .. } => return Ok(()),
            Item::Function { begin, end, .. } if plan.act == Act::Put && plan.only.is_all() => {
                let head = payload_command(&[b"FUNCTION", b"RESTORE"], end - begin);
                payload(spool, send, head, (245, begin, end, version), &[b"REPLACE"])
                    .map(|()| send.blocking_send(Step::Ended(None)).is_ok())?
            }
            Item::Key(found) if plan.wants(&found) => {
                let mut alive = true;
                if found.db != selected {
                    selected = found.db;
                    let select = command(&[b"SELECT", selected.to_string().as_bytes()]);
                    alive = send.blocking_send(Step::Bytes(select)).is_ok()
                        && send.blocking_send(Step::Ended(None)).is_ok();
                }
                alive && key(spool, plan.act, send, version, found)?
            }
            _ => true,
        };
        if !said {
            return Ok(());
        }
    }
}

impl Plan {
    fn wants(&self, found: &Found) -> bool {
        self.only.names(&String::from_utf8_lossy(&found.key), None)
            && found.expires_at_ms.is_none_or(|expires| expires > self.now_ms)
    }
}

/// Sends the command for one key; returns whether somebody still listens.
fn key(
    spool: &Spool,
    act: Act,
    send: &mpsc::Sender<Step>,
    version: u16,
    found: Found,
) -> Result<bool, RdbError> {
    if act == Act::Look {
        let look = command(&[b"EXISTS", &found.key]);
        return Ok(send.blocking_send(Step::Bytes(look)).is_ok()
            && send.blocking_send(Step::Ended(Some(found.key))).is_ok());
    }
    let expires = found.expires_at_ms.unwrap_or(0).to_string();
    let mut options: Vec<Vec<u8>> = vec![b"REPLACE".to_vec(), b"ABSTTL".to_vec()];
    if let Some(seconds) = found.idle_seconds {
        options.extend([b"IDLETIME".to_vec(), seconds.to_string().into_bytes()]);
    } else if let Some(frequency) = found.frequency {
        options.extend([b"FREQ".to_vec(), frequency.to_string().into_bytes()]);
    }
    let options: Vec<&[u8]> = options.iter().map(Vec::as_slice).collect();
    let words: [&[u8]; 3] = [b"RESTORE", &found.key, expires.as_bytes()];
    let head = payload_command_with(&words, found.end - found.begin, options.len());
    payload(spool, send, head, (found.code, found.begin, found.end, version), &options)?;
    Ok(send.blocking_send(Step::Ended(Some(found.key))).is_ok())
}

fn payload_command(words: &[&[u8]], value_bytes: u64) -> Vec<u8> {
    payload_command_with(words, value_bytes, 1)
}

/// Begins a command whose next word is a payload with a value of this size and some options behind it.
fn payload_command_with(words: &[&[u8]], value_bytes: u64, options: usize) -> Vec<u8> {
    let mut head = command(words);
    let counted = format!("*{}\r\n", words.len());
    let all = format!("*{}\r\n", words.len() + 1 + options);
    head.splice(..counted.len(), all.into_bytes());
    head.extend_from_slice(format!("${}\r\n", 1 + value_bytes + FOOTER_BYTES).as_bytes());
    head
}

/// Sends a `DUMP` payload (redis `src/cluster.c`, `createDumpPayload`): type, value, version, checksum.
fn payload(
    spool: &Spool,
    send: &mpsc::Sender<Step>,
    head: Vec<u8>,
    (code, begin, end, version): (u8, u64, u64, u16),
    options: &[&[u8]],
) -> Result<(), RdbError> {
    let mut bytes = head;
    bytes.push(code);
    let mut crc = crc64(0, &[code]);
    let mut from = spool.reader(begin);
    let mut left = end - begin;
    while left > 0 {
        let count = usize::try_from(left).unwrap_or(usize::MAX).min(PIECE_BYTES);
        let at = bytes.len();
        bytes.resize(at + count, 0);
        io::Read::read_exact(&mut from, &mut bytes[at..]).map_err(RdbError::Read)?;
        crc = crc64(crc, &bytes[at..]);
        left -= count as u64;
        if left > 0 && send.blocking_send(Step::Bytes(std::mem::take(&mut bytes))).is_err() {
            return Ok(());
        }
    }
    crc = crc64(crc, &version.to_le_bytes());
    bytes.extend_from_slice(&version.to_le_bytes());
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes.extend_from_slice(b"\r\n");
    for option in options {
        bytes.extend_from_slice(format!("${}\r\n", option.len()).as_bytes());
        bytes.extend_from_slice(option);
        bytes.extend_from_slice(b"\r\n");
    }
    drop(send.blocking_send(Step::Bytes(bytes)));
    Ok(())
}
