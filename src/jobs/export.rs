//! An export: entries of a snapshot as one stream, for other tools and for a person at a shell.
//!
//! A stream carries no marks. So what the snapshot holds only a part of is called otherwise in an archive (it ends with
//! [`TORN_ENDING`]), and an export that has such a thing in it ends as one that is not whole.

mod aof;

use std::io::{self, Read, Write};

use bytes::Bytes;
use tokio::{sync::mpsc, task::spawn_blocking};

use self::aof::AofBase;
use crate::{
    error::{Context, ExitCode, Failure, Result},
    event::NoMonitor,
    flow::{STREAM_DEPTH, Selection, TORN, TORN_ENDING, Target, WriteOptions, channel, settle},
    mysql::SqlScript,
    names::{EntryPath, SourceName},
    repo::{
        Snapshot,
        format::{EntryRecord, PackKind},
    },
};

/// Where an export goes.
pub type Output = Box<dyn Write + Send>;

/// What the stream looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A mysqldump-like script for `mysql <`.
    Sql {
        /// Whether users, roles and grants come along.
        accounts: bool,
    },
    /// The rows of one table, tab-separated.
    Tsv,
    /// A Redis dump file.
    Rdb,
    /// A tar of the folder that a Redis server with `appendonly yes` starts from.
    Aof,
    /// All entries as a tar archive.
    Tar,
    /// The bytes of one entry.
    Raw,
}

/// Writes what is at `path` of a source (all of it without a path) to `out`.
pub async fn run(
    snapshot: &Snapshot,
    source: &SourceName,
    path: Option<&str>,
    form: Form,
    mut out: Output,
) -> Result<()> {
    let found = find(snapshot, source, path).await?;
    let is = |record: &&EntryRecord, ending: &str| record.meta.path.as_str().ends_with(ending);
    match form {
        Form::Tar => archive(snapshot, found, out).await,
        Form::Raw => {
            let one = only_one(&found.iter().collect::<Vec<_>>(), "raw")?;
            copy(snapshot, one, &mut out).await?;
            whole(&[one])
        }
        Form::Rdb => {
            let dumps: Vec<&EntryRecord> = found.iter().filter(|record| is(record, ".rdb")).collect();
            copy(snapshot, only_one(&dumps, "rdb")?, &mut out).await
        }
        Form::Aof => {
            let dumps: Vec<&EntryRecord> = found.iter().filter(|record| is(record, ".rdb")).collect();
            let dump = only_one(&dumps, "aof")?;
            let facts = found.iter().find(|record| is(record, "server.json"));
            let base = AofBase::of(snapshot, dump, facts).await?;
            base.write(snapshot, dump, out).await
        }
        Form::Tsv => {
            for piece in pieces(found.iter().collect())? {
                copy(snapshot, piece, &mut out).await?;
            }
            Ok(())
        }
        Form::Sql { accounts } => script(snapshot, source, path, accounts, out).await,
    }
}

/// Returns the pieces of one table in the order of its rows: they were stored in the order in which they were ready.
fn pieces(mut found: Vec<&EntryRecord>) -> Result<Vec<&EntryRecord>> {
    const ONE: &str = "Name a table: SOURCE/db/table.";
    found.retain(|record| record.meta.text("kind") == Some("rows"));
    let Some(first) = found.first() else { return Err(no_such("tsv").hint(ONE)) };
    let item = first.meta.item.clone();
    if let Some(other) = found.iter().find(|record| record.meta.item != item) {
        let what = format!("`{item}` and `{}` are two tables, and their rows are no table", other.meta.item);
        return Err(Failure::new(ExitCode::Usage, what).hint(ONE));
    }
    // `data.100000.tsv` comes behind `data.99999.tsv`.
    found.sort_by_key(|record| (record.meta.path.as_str().len(), record.meta.path.clone()));
    Ok(found)
}

/// Writes a database source as a script, the same way in which it would be restored.
async fn script(
    snapshot: &Snapshot,
    source: &SourceName,
    path: Option<&str>,
    accounts: bool,
    out: Output,
) -> Result<()> {
    if snapshot.source(source)?.kind != "mysql" {
        return Err(Failure::new(
            ExitCode::Usage,
            format!("source `{source}` is no database, so it has no SQL"),
        )
        .hint("Use --format tar, or rdb for Redis."));
    }
    let only = match path {
        None => Selection::all(),
        // `db/table` in a path is `db.table` in a pattern; a file of a table means the table.
        Some(path) => {
            let parts =
                EntryPath::new(path).failed(ExitCode::Usage, || format!("`{path}` is no path"))?.parts();
            let name = parts.iter().take(2).map(|part| globset::escape(part)).collect::<Vec<_>>().join(".");
            Selection::new(&[name])?
        }
    };
    let options = WriteOptions { only: only.clone(), ..WriteOptions::default() };
    let mut target = Box::new(SqlScript::new(source.clone(), out));
    if accounts {
        *target = target.with_accounts();
    }
    let (sink, stream) = channel(STREAM_DEPTH);
    let monitor = NoMonitor::shared();
    let (read, written) =
        tokio::join!(snapshot.read_source(source, &only, sink, &monitor), target.write(options, stream));
    let tally = settle(read, written).map(|((), tally)| tally).map_err(|error| error.about(source))?;
    let Some(first) = tally.left_out.first() else { return Ok(()) };
    let what = format!(
        "the script is written; of `{source}` the backup had not got {} things, which are named at its end",
        tally.left_out.len()
    );
    Err(Failure::new(ExitCode::Partial, what).because(format!("{}: {}", first.what, first.why)))
}

/// Returns the entries at `path` or below it.
async fn find(snapshot: &Snapshot, source: &SourceName, path: Option<&str>) -> Result<Vec<EntryRecord>> {
    let fits = |record: &EntryRecord| {
        let own = record.meta.path.as_str();
        path.is_none_or(|path| {
            own == path || own.strip_prefix(path).is_some_and(|rest| rest.starts_with('/'))
        })
    };
    let mut found = Vec::new();
    let mut lines = snapshot.entries(snapshot.source(source)?);
    while let Some(record) = lines.next().await? {
        if fits(&record) {
            found.push(record);
        }
    }
    if found.is_empty() && path.is_some_and(|path| path.ends_with(']') && path.contains("..")) {
        let what = "a range of keys can be restored, not exported: only a server compares keys";
        return Err(Failure::new(ExitCode::Usage, what).hint(
            "Export the whole table, or restore the range: --only 'db.table[…]' --into SOURCE=URL of another server.",
        ));
    }
    if found.is_empty() {
        let what =
            format!("`{source}/{}` is not in snapshot `{}`", path.unwrap_or(""), snapshot.refs.snapshot);
        return Err(Failure::new(ExitCode::Usage, what).hint("`lifeboat ls` shows what there is."));
    }
    Ok(found)
}

fn no_such(form: &str) -> Failure {
    Failure::new(ExitCode::Usage, format!("no entry of this source can be exported as {form}"))
        .hint("`lifeboat ls` shows what there is.")
}

fn only_one<'a>(found: &[&'a EntryRecord], form: &str) -> Result<&'a EntryRecord> {
    match found {
        [one] => Ok(one),
        [] => Err(no_such(form)),
        many => {
            Err(Failure::new(ExitCode::Usage, format!("{} entries fit, this form takes one", many.len()))
                .hint("Name one entry as `lifeboat ls` shows it, or use --format tar."))
        }
    }
}

fn broken_pipe() -> String {
    "the output cannot be written".to_owned()
}

/// Writes an entry's bytes, each chunk compared with its id.
async fn copy(snapshot: &Snapshot, record: &EntryRecord, out: &mut Output) -> Result<()> {
    for id in snapshot.chunks().body_chunks(&record.body).await? {
        let bytes = snapshot.chunks().chunk(PackKind::Data, id).await?;
        out.write_all(&bytes).failed(ExitCode::Failed, broken_pipe)?;
    }
    out.flush().failed(ExitCode::Failed, broken_pipe)
}

/// A member on its way into the archive, whose bytes follow through a channel.
struct Member {
    path: String,
    size_bytes: u64,
    bytes: mpsc::Receiver<Bytes>,
}

/// Writes the entries as a tar archive.
async fn archive(snapshot: &Snapshot, found: Vec<EntryRecord>, out: Output) -> Result<()> {
    in_archive(out, async |members| {
        for record in &found {
            let ending = torn(record).map_or("", |_| TORN_ENDING);
            send(snapshot, record, format!("{}{ending}", record.meta.path), members).await?;
        }
        Ok(())
    })
    .await?;
    whole(&found.iter().collect::<Vec<_>>())
}

/// Returns why an entry is not the thing that it stands for, if so.
fn torn(record: &EntryRecord) -> Option<&str> {
    record.trailer.get(TORN).and_then(serde_json::Value::as_str)
}

/// Says of what was written that it is not all whole, if so.
fn whole(written: &[&EntryRecord]) -> Result<()> {
    let mut torn = written.iter().filter_map(|record| Some((record, torn(record)?)));
    let Some((first, why)) = torn.next() else { return Ok(()) };
    let what = format!("all is written, but of {} the snapshot holds only a part", entries(1 + torn.count()));
    Err(Failure::new(ExitCode::Partial, what)
        .because(format!("{}: {why}", first.meta.select))
        .hint(format!("In an archive the name of such an entry ends with `{TORN_ENDING}`. An older snapshot may have all of it.")))
}

fn entries(count: usize) -> String {
    if count == 1 { "1 entry".to_owned() } else { format!("{count} entries") }
}

/// Writes a tar archive of what `fill` sends: it is written on a blocking thread that chunks are sent to.
async fn in_archive(out: Output, fill: impl AsyncFnOnce(&mpsc::Sender<Member>) -> Result<()>) -> Result<()> {
    let (members, mut receiver) = mpsc::channel::<Member>(1);
    let writing = spawn_blocking(move || {
        let mut tar = tar::Builder::new(out);
        match append(&mut tar, &mut receiver) {
            Ok(()) => tar.into_inner()?.flush(),
            Err(error) => {
                // Dropped, it would write the mark of a whole archive behind what broke off.
                std::mem::forget(tar);
                Err(error)
            }
        }
    });
    let sent = fill(&members).await;
    drop(members);
    let written = writing.await.failed(ExitCode::Failed, || "the archive broke off".to_owned())?;
    sent.and(written.failed(ExitCode::Failed, broken_pipe))
}

/// Appends members until none comes any more.
fn append(tar: &mut tar::Builder<Output>, members: &mut mpsc::Receiver<Member>) -> io::Result<()> {
    while let Some(member) = members.blocking_recv() {
        let mut header = tar::Header::new_gnu();
        header.set_size(member.size_bytes);
        header.set_mode(0o600);
        header.set_mtime(0);
        let body = Arriving { bytes: member.bytes, part: Bytes::new(), missing_bytes: member.size_bytes };
        tar.append_data(&mut header, &member.path, body)?;
    }
    Ok(())
}

async fn send(
    snapshot: &Snapshot,
    record: &EntryRecord,
    path: String,
    members: &mpsc::Sender<Member>,
) -> Result<()> {
    let (sender, bytes) = mpsc::channel(2);
    let member = Member { path, size_bytes: record.size_bytes, bytes };
    // A closed channel means that the writing side failed, and says why when it is asked.
    if members.send(member).await.is_err() {
        return Ok(());
    }
    for id in snapshot.chunks().body_chunks(&record.body).await? {
        if sender.send(snapshot.chunks().chunk(PackKind::Data, id).await?).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// The bytes of a member as the archive writer wants to read them.
struct Arriving {
    bytes: mpsc::Receiver<Bytes>,
    part: Bytes,
    missing_bytes: u64,
}

impl Read for Arriving {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.part.is_empty() {
            match self.bytes.blocking_recv() {
                Some(part) => self.part = part,
                None if self.missing_bytes > 0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                None => return Ok(0),
            }
        }
        let count = into.len().min(self.part.len());
        into[..count].copy_from_slice(&self.part.split_to(count));
        self.missing_bytes = self.missing_bytes.saturating_sub(count as u64);
        Ok(count)
    }
}
