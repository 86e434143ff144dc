//! Sends the rows of all tables, by several sessions at once.
//!
//! *Order.* One task walks the tables, largest first, and puts ranges into a short queue; each worker takes
//! a range, begins an entry, and sends the rows as they come. An entry ends at a border once it is long.
//!
//! *Crash.* A worker that fails drops its unfinished body, which the other side sees as truncated, and its
//! error ends the run; a range is never read again in another snapshot.

use std::{collections::BTreeMap, sync::Arc};

use mysql_async::{Conn, Row, Value, prelude::Queryable};
use tokio::{
    sync::{Mutex, mpsc},
    task::JoinSet,
};

use super::{
    codec::{Bound, Codec},
    conn::Server,
    layout::{Layout, Place, table_meta},
    range::Walk,
    tsv::{Cutter, KeyHash, push_field},
};
use crate::{
    error::{ExitCode, Failure},
    flow::{Attrs, BodyWriter, Cut, EntrySink, FlowError, FlowResult, Stage},
};

/// Bytes after which an entry ends at the next border.
const PIECE_BYTES_SOFT: u64 = 56 << 20;
/// Bytes that are gathered before they are sent.
const BUFFER_BYTES: usize = 256 << 10;
/// Ranges that wait for a worker.
const QUEUE_DEPTH: usize = 2;

/// A table and how it is read.
pub(super) struct Table {
    pub at: Place,
    pub layout: Layout,
}

struct Range {
    table: Arc<Table>,
    number: u32,
    condition: String,
}

/// Reads all tables into `sink` and returns how many rows each had. `names` walks, `workers` read; both are
/// returned, still inside their snapshot.
pub(super) async fn send(
    server: &Server,
    tables: Vec<Arc<Table>>,
    names: &mut Conn,
    workers: Vec<Conn>,
    sink: &EntrySink,
) -> FlowResult<(BTreeMap<Place, u64>, Vec<Conn>)> {
    let (ranges, queue) = mpsc::channel::<Range>(QUEUE_DEPTH);
    let queue = Arc::new(Mutex::new(queue));
    let mut running = JoinSet::new();
    for conn in workers {
        running.spawn(work(server.clone(), conn, Arc::clone(&queue), sink.clone()));
    }
    drop(queue);
    let walking = walk(server, names, &tables, ranges);
    let working = async {
        let (mut rows, mut conns) = (BTreeMap::<Place, (u32, u64)>::new(), Vec::new());
        while let Some(ended) = running.join_next().await {
            let (conn, done) = ended.map_err(|error| {
                let what = format!("`{}`: a reading task broke down", server.name);
                Failure::new(ExitCode::Failed, what).because(error)
            })??;
            conns.push(conn);
            for (place, count) in done {
                let sum = rows.entry(place).or_default();
                *sum = (sum.0 + 1, sum.1 + count);
            }
        }
        Ok::<_, FlowError>((rows, conns))
    };
    // A worker's error ends the walk, and the walk's error the workers: dropping the set aborts them.
    let (planned, (done, conns)) = tokio::try_join!(walking, working)?;
    let mut counts = BTreeMap::new();
    for (place, ranges) in planned {
        let (read, rows) = done.get(&place).copied().unwrap_or_default();
        if read != ranges {
            let what = format!("`{}`: table `{place}` was read in {read} of {ranges} ranges", server.name);
            return Err(Failure::new(ExitCode::Failed, what).into());
        }
        counts.insert(place, rows);
    }
    Ok((counts, conns))
}

/// Puts all ranges into the queue; returns how many each table has.
async fn walk(
    server: &Server,
    conn: &mut Conn,
    tables: &[Arc<Table>],
    ranges: mpsc::Sender<Range>,
) -> FlowResult<BTreeMap<Place, u32>> {
    let mut planned = BTreeMap::new();
    for table in tables {
        let mut walk = Walk::new(&table.layout, &table.at);
        let mut number = 0;
        while let Some(condition) = walk.next(server, conn).await? {
            number += 1;
            let range = Range { table: Arc::clone(table), number, condition };
            if ranges.send(range).await.is_err() {
                // The workers are gone: their error is the one to tell.
                return Ok(planned);
            }
        }
        planned.insert(table.at.clone(), number);
    }
    Ok(planned)
}

/// Reads ranges until there are no more.
async fn work(
    server: Server,
    mut conn: Conn,
    queue: Arc<Mutex<mpsc::Receiver<Range>>>,
    sink: EntrySink,
) -> FlowResult<(Conn, Vec<(Place, u64)>)> {
    let mut done = Vec::new();
    loop {
        let next = queue.lock().await.recv().await;
        let Some(range) = next else { return Ok((conn, done)) };
        let rows = send_range(&server, &mut conn, &range, &sink).await?;
        done.push((range.table.at.clone(), rows));
    }
}

async fn send_range(server: &Server, conn: &mut Conn, range: &Range, sink: &EntrySink) -> FlowResult<u64> {
    let Table { at, layout } = &*range.table;
    let condition =
        if range.condition.is_empty() { String::new() } else { format!(" WHERE {}", range.condition) };
    let sql = format!("SELECT {} {}{condition}{}", layout.read_list(), layout.from(at), layout.order());
    let fail = |error| server.failure(&format!("read table `{at}`"), error);
    let mut pieces = Pieces::new(range, sink);
    let mut result = conn.query_iter(sql).await.map_err(fail)?;
    while let Some(row) = result.next().await.map_err(fail)? {
        pieces.row(&row).await?;
    }
    result.drop_result().await.map_err(fail)?;
    pieces.finish().await
}

/// Writes rows into as many entries as it takes.
struct Pieces<'a> {
    range: &'a Range,
    sink: &'a EntrySink,
    key_fields: Vec<usize>,
    codecs: Vec<Codec>,
    body: Option<BodyWriter>,
    part: u32,
    buffer: Vec<u8>,
    fields: Vec<(usize, usize)>,
    cutter: Cutter,
    piece_bytes: u64,
    piece_rows: u64,
    piece_enum_zeros: u64,
    /// The first and the last key of the piece, where they are whole numbers.
    piece_keys: Option<(String, String)>,
    longest_row_bytes: u64,
    rows: u64,
}

impl<'a> Pieces<'a> {
    fn new(range: &'a Range, sink: &'a EntrySink) -> Self {
        let layout = &range.table.layout;
        Self {
            key_fields: layout.key_fields(),
            codecs: layout.columns.iter().map(|column| column.codec).collect(),
            body: None,
            range,
            sink,
            part: 0,
            buffer: Vec::with_capacity(BUFFER_BYTES * 2),
            fields: Vec::new(),
            cutter: Cutter::default(),
            piece_bytes: 0,
            piece_rows: 0,
            piece_enum_zeros: 0,
            piece_keys: None,
            longest_row_bytes: 0,
            rows: 0,
        }
    }

    async fn row(&mut self, row: &Row) -> FlowResult<()> {
        let (hash, row_bytes) = self.push(row);
        self.piece_bytes += row_bytes;
        self.piece_rows += 1;
        self.longest_row_bytes = self.longest_row_bytes.max(row_bytes);
        if self.cutter.row(hash, row_bytes) {
            self.flush().await?;
            if self.piece_bytes >= PIECE_BYTES_SOFT {
                self.end_piece().await?;
            } else {
                self.body().await?.border().await?;
            }
        } else if self.buffer.len() >= BUFFER_BYTES {
            self.flush().await?;
        }
        Ok(())
    }

    /// Appends the row to the buffer; returns its key's hash and its length.
    fn push(&mut self, row: &Row) -> (u64, u64) {
        let began = self.buffer.len();
        self.fields.clear();
        for at in 0..row.len() {
            if at > 0 {
                self.buffer.push(b'\t');
            }
            let from = self.buffer.len();
            match row.as_ref(at) {
                Some(Value::Bytes(bytes)) => {
                    let codec = self.codecs.get(at).copied().unwrap_or(Codec::Raw);
                    codec.push(&mut self.buffer, bytes);
                    if bytes == b"0" && codec == Codec::Enum {
                        self.piece_enum_zeros += 1;
                    }
                }
                Some(Value::NULL) | None => push_field(&mut self.buffer, None),
                Some(other) => push_field(&mut self.buffer, Some(other.as_sql(true).as_bytes())),
            }
            self.fields.push((from, self.buffer.len()));
        }
        self.buffer.push(b'\n');
        let mut hash = KeyHash::new();
        for at in &self.key_fields {
            let (from, to) = self.fields[*at];
            hash.field(&self.buffer[from..to]);
        }
        self.note_key();
        (hash.finish(), (self.buffer.len() - began) as u64)
    }

    /// Notes the first column of the row's key, so that who wants a range of keys need not read all pieces.
    fn note_key(&mut self) {
        let layout = &self.range.table.layout;
        let first = self.key_fields.first().filter(|at| layout.columns[**at].bound == Some(Bound::Number));
        let Some((from, to)) = first.map(|at| self.fields[*at]).filter(|_| layout.walkable) else { return };
        let key = String::from_utf8_lossy(&self.buffer[from..to]);
        match &mut self.piece_keys {
            Some((_, last)) => {
                last.clear();
                last.push_str(&key);
            }
            None => self.piece_keys = Some((key.clone().into_owned(), key.into_owned())),
        }
    }

    async fn flush(&mut self) -> FlowResult<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let full = std::mem::replace(&mut self.buffer, Vec::with_capacity(BUFFER_BYTES * 2));
        self.body().await?.write(full.into()).await
    }

    /// Returns the entry that is being written; begins one where there is none.
    async fn body(&mut self) -> FlowResult<&mut BodyWriter> {
        let body = if let Some(body) = self.body.take() {
            body
        } else {
            self.part += 1;
            begin_piece(self.range, self.sink, self.part).await?
        };
        Ok(self.body.insert(body))
    }

    /// Ends the entry. The next one begins only after that: a reader may take one after the other.
    async fn end_piece(&mut self) -> FlowResult<()> {
        self.rows += self.piece_rows;
        self.piece_bytes = 0;
        let mut trailer = Attrs::from([
            ("rows".to_owned(), std::mem::take(&mut self.piece_rows).into()),
            ("enum_zeros".to_owned(), std::mem::take(&mut self.piece_enum_zeros).into()),
            ("longest_row_bytes".to_owned(), std::mem::take(&mut self.longest_row_bytes).into()),
        ]);
        if let Some((first, last)) = self.piece_keys.take() {
            trailer.extend([("first_key".to_owned(), first.into()), ("last_key".to_owned(), last.into())]);
        }
        match self.body.take() {
            Some(body) => body.finish_with(trailer).await,
            None => Ok(()),
        }
    }

    async fn finish(mut self) -> FlowResult<u64> {
        self.flush().await?;
        if self.part == 0 {
            // A range without rows is an entry too: nothing was forgotten.
            self.body().await?;
        }
        self.end_piece().await?;
        Ok(self.rows)
    }
}

async fn begin_piece(range: &Range, sink: &EntrySink, part: u32) -> FlowResult<BodyWriter> {
    let number = range.number;
    let file =
        if part == 1 { format!("data.{number:05}.tsv") } else { format!("data.{number:05}_{part:03}.tsv") };
    let mut meta = table_meta("rows", &range.table.at, Stage::Data, &file)?;
    meta.cut = Cut::Marked;
    sink.begin(meta).await
}
