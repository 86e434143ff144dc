//! Sends the rows of all tables, by several sessions at once.
//!
//! *Order.* Each worker reads the tables that are its own. Meanwhile one task walks the others, largest first, and puts
//! ranges into a short queue; a worker that is done with its own takes a range, begins an entry, and sends the rows as
//! they come, so that all end together. An entry ends at a border once it is long.
//!
//! *Crash.* A worker that fails drops its unfinished body, which the other side sees as truncated, and its
//! error ends the run; a range is never read again in another snapshot.

use std::{collections::BTreeMap, sync::Arc};

use mysql_async::Conn;
use tokio::{
    sync::{Mutex, mpsc},
    task::JoinSet,
};

use super::{
    codec::{Bound, Codec},
    conn::{Server, is_too_long},
    layout::{Layout, Place, table_meta},
    range::{Division, Stretch, Walk},
    tsv::{Cutter, KeyHash, push_field},
    wire::{TextRow, Wire},
};
use crate::{
    error::{ExitCode, Failure, Result},
    flow::{Attrs, BodyWriter, Cut, EntrySink, FlowError, FlowResult, Stage},
    names::ByteCount,
    plain::of_bytes,
};

/// Bytes after which an entry ends at the next border.
const PIECE_BYTES_SOFT: u64 = 56 << 20;
/// Bytes of a binlog after which an entry ends wherever it is. A piece is loaded as one transaction, and a server with
/// group replication takes 150,000,000 bytes of one (`group_replication_transaction_size_limit`: MySQL 9 manual,
/// 20.9.1).
const PIECE_LOGGED_BYTES: u64 = 100_000_000;
/// Bytes that are gathered before they are sent.
const BUFFER_BYTES: usize = 256 << 10;
/// Bytes after which a row or a value is written in parts, so that its written form is never held whole.
const LONG_BYTES: usize = 1 << 20;
/// Characters of each field of a key that an error shows.
const KEY_CHARS_SHOWN: usize = 80;
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
    stretch: Stretch,
}

/// A session that reads, and the tables that it alone does.
pub(super) struct Reader {
    pub wire: Wire,
    pub own: Vec<Arc<Table>>,
}

/// Ranges and rows of each table.
type Sums = BTreeMap<Place, (u32, u64)>;

/// Reads all tables into `sink` and returns how many rows each had. `names` walks those that are `shared`, and the
/// readers read; all sessions are still inside their snapshot afterwards.
pub(super) async fn send(
    server: &Server,
    shared: Vec<Arc<Table>>,
    division: Division,
    names: &mut Conn,
    readers: Vec<Reader>,
    sink: &EntrySink,
) -> FlowResult<(BTreeMap<Place, u64>, Vec<Wire>)> {
    let (ranges, queue) = mpsc::channel::<Range>(QUEUE_DEPTH);
    let queue = Arc::new(Mutex::new(queue));
    let mut running = JoinSet::new();
    for reader in readers {
        running.spawn(work(server.clone(), reader, division, Arc::clone(&queue), sink.clone()));
    }
    drop(queue);
    let walking = walk(server, names, &shared, division, ranges);
    let working = async {
        let (mut sums, mut wires) = (Sums::new(), Vec::new());
        while let Some(ended) = running.join_next().await {
            let (wire, done) = ended.map_err(|error| {
                let what = format!("`{}`: a reading task broke down", server.name);
                Failure::new(ExitCode::Failed, what).because(error)
            })??;
            wires.push(wire);
            for (place, (ranges, rows)) in done {
                let sum = sums.entry(place).or_default();
                *sum = (sum.0 + ranges, sum.1 + rows);
            }
        }
        Ok::<_, FlowError>((sums, wires))
    };
    // A worker's error ends the walk, and the walk's error the workers: dropping the set aborts them.
    let (planned, (done, wires)) = tokio::try_join!(walking, working)?;
    for (place, ranges) in planned {
        let read = done.get(&place).map_or(0, |(read, _)| *read);
        if read != ranges {
            let what = format!("`{}`: table `{place}` was read in {read} of {ranges} ranges", server.name);
            return Err(Failure::new(ExitCode::Failed, what).into());
        }
    }
    Ok((done.into_iter().map(|(place, (_, rows))| (place, rows)).collect(), wires))
}

/// Puts all ranges into the queue; returns how many each table has.
async fn walk(
    server: &Server,
    conn: &mut Conn,
    tables: &[Arc<Table>],
    division: Division,
    ranges: mpsc::Sender<Range>,
) -> FlowResult<BTreeMap<Place, u32>> {
    let mut planned = BTreeMap::new();
    for table in tables {
        let mut walk = Walk::new(&table.layout, &table.at, division);
        let mut number = 0;
        while let Some(stretch) = walk.next(server, conn).await? {
            number += 1;
            let range = Range { table: Arc::clone(table), number, stretch };
            if ranges.send(range).await.is_err() {
                // The workers are gone: their error is the one to tell.
                return Ok(planned);
            }
        }
        planned.insert(table.at.clone(), number);
    }
    Ok(planned)
}

/// Reads its own tables, then ranges until there are no more.
async fn work(
    server: Server,
    reader: Reader,
    division: Division,
    queue: Arc<Mutex<mpsc::Receiver<Range>>>,
    sink: EntrySink,
) -> FlowResult<(Wire, Sums)> {
    let Reader { mut wire, own } = reader;
    let mut done = Sums::new();
    for table in own {
        let (mut walk, mut sum) = (Walk::new(&table.layout, &table.at, division).expects_few(), (0, 0));
        while let Some(stretch) = walk.next(&server, &mut wire).await? {
            let range = Range { table: Arc::clone(&table), number: sum.0 + 1, stretch };
            sum = (range.number, sum.1 + send_range(&server, &mut wire, &range, &sink).await?);
        }
        done.insert(table.at.clone(), sum);
    }
    loop {
        let next = queue.lock().await.recv().await;
        let Some(range) = next else { return Ok((wire, done)) };
        let rows = send_range(&server, &mut wire, &range, &sink).await?;
        let sum = done.entry(range.table.at.clone()).or_default();
        *sum = (sum.0 + 1, sum.1 + rows);
    }
}

async fn send_range(server: &Server, wire: &mut Wire, range: &Range, sink: &EntrySink) -> FlowResult<u64> {
    let Table { at, layout } = &*range.table;
    let condition = &range.stretch.condition;
    let condition = if condition.is_empty() { String::new() } else { format!(" WHERE {condition}") };
    let sql = format!("SELECT {} {}{condition}{}", layout.read_list(), layout.from(at), layout.order());
    let fail = |error| server.failure(&format!("read table `{at}`"), error);
    let mut pieces = Pieces::new(server, range, sink);
    let columns = wire.query(sql.as_bytes()).await.map_err(fail)?;
    check_columns(server, range, columns)?;
    loop {
        match wire.next().await {
            Ok(Some(row)) => pieces.row(row).await?,
            Ok(None) => break,
            Err(error) if is_too_long(&error) => return Err(pieces.too_long().into()),
            Err(error) => return Err(fail(error).into()),
        }
    }
    check_rows(server, range, pieces.rows + pieces.piece_rows)?;
    pieces.finish().await
}

/// Checks that the server sends the columns that it was asked for.
fn check_columns(server: &Server, range: &Range, columns: usize) -> Result<()> {
    let Table { at, layout } = &*range.table;
    // Of a table of generated columns alone the rows are asked for, and nothing in them.
    let wanted = layout.columns.len().max(1);
    if columns == wanted {
        return Ok(());
    }
    let what = format!("`{}`: table `{at}` gave {columns} columns of {wanted}", server.name);
    Err(Failure::new(ExitCode::Failed, what).hint("Look into the server's own log, then run this again."))
}

/// Checks that a session read as many rows as the walk had counted.
fn check_rows(server: &Server, range: &Range, read: u64) -> Result<()> {
    let Some(counted) = range.stretch.rows.filter(|counted| *counted != read) else { return Ok(()) };
    let what = format!(
        "`{}`: range {} of table `{}` gave {read} rows, and {counted} were counted at the same instant",
        server.name, range.number, range.table.at
    );
    Err(Failure::new(ExitCode::Failed, what).hint(
        "Nothing of it was kept. Check the table and its indexes on the server (CHECK TABLE), then run this again.",
    ))
}

/// Returns the first field of the key, where rows come in its order and it is a number.
fn number_field(layout: &Layout) -> Option<usize> {
    let ascends = layout.reading.walkable && layout.reading.descending.first() == Some(&false);
    let first = layout.key_fields().first().copied().filter(|_| ascends)?;
    (layout.columns.get(first)?.bound == Some(Bound::Number)).then_some(first)
}

/// How many bytes rows take in a binlog at most: a short number, and a short document, take more there than as text.
#[derive(Clone, Copy)]
struct Logged {
    /// Beside its text, by a row.
    row_bytes: u64,
    /// Whether there are JSON documents; an empty array in a list of them takes 9 bytes, and 4 as text.
    has_json: bool,
}

impl Logged {
    fn of(layout: &Layout) -> Self {
        let declared = || layout.columns.iter().map(|column| column.declared.as_str());
        // The digits of a DECIMAL take 30 bytes (65 of them), any other number 8, and a length up to 4.
        let row_bytes = declared().map(|kind| if kind.starts_with("decimal") { 30 } else { 8 }).sum();
        Self { row_bytes, has_json: declared().any(|kind| kind == "json") }
    }

    fn bytes(self, rows: u64, text_bytes: u64) -> u64 {
        let text_bytes = if self.has_json { text_bytes * 5 / 2 } else { text_bytes };
        rows * self.row_bytes + text_bytes
    }
}

/// Writes rows into as many entries as it takes.
struct Pieces<'a> {
    server: &'a Server,
    range: &'a Range,
    sink: &'a EntrySink,
    key_fields: Vec<usize>,
    /// The first field of the key, where it is a number that ascends.
    number_field: Option<usize>,
    codecs: Vec<Codec>,
    /// The written fields of the last row's key, each with a tab behind it.
    last_key: Vec<u8>,
    /// The columns that cannot be NULL.
    must: Vec<bool>,
    logged: Logged,
    body: Option<BodyWriter>,
    part: u32,
    buffer: Vec<u8>,
    fields: Vec<(usize, usize)>,
    cutter: Cutter,
    piece_bytes: u64,
    piece_rows: u64,
    piece_enum_zeros: u64,
    /// The first and the last key of the piece, where they are whole numbers.
    piece_keys: Option<(Vec<u8>, Vec<u8>)>,
    longest_row_bytes: u64,
    rows: u64,
}

impl<'a> Pieces<'a> {
    fn new(server: &'a Server, range: &'a Range, sink: &'a EntrySink) -> Self {
        let layout = &range.table.layout;
        Self {
            key_fields: layout.key_fields(),
            number_field: number_field(layout),
            codecs: layout.columns.iter().map(|column| column.codec).collect(),
            last_key: Vec::new(),
            must: layout.columns.iter().map(|column| !column.nullable).collect(),
            logged: Logged::of(layout),
            body: None,
            server,
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

    async fn row(&mut self, row: TextRow<'_>) -> FlowResult<()> {
        let is_long = row.wire_bytes() > LONG_BYTES;
        let (hash, row_bytes) = if is_long { self.push_long(row).await? } else { self.push(row)? };
        self.piece_bytes += row_bytes;
        self.piece_rows += 1;
        self.longest_row_bytes = self.longest_row_bytes.max(row_bytes);
        self.note_key(row);
        let ends_chunk = self.cutter.row(hash, row_bytes);
        if self.logged.bytes(self.piece_rows, self.piece_bytes) >= PIECE_LOGGED_BYTES {
            self.cutter = Cutter::default();
            self.flush().await?;
            self.end_piece().await?;
        } else if ends_chunk {
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
    fn push(&mut self, row: TextRow<'_>) -> FlowResult<(u64, u64)> {
        let began = self.buffer.len();
        // Digits or escapes double a value at most, and a field has a tab besides.
        self.buffer.reserve(row.wire_bytes() * 2 + row.len() * 2);
        self.fields.clear();
        for (at, value) in row.fields().enumerate() {
            if at > 0 {
                self.buffer.push(b'\t');
            }
            let from = self.buffer.len();
            self.push_value(at, value)?;
            self.fields.push((from, self.buffer.len()));
        }
        self.buffer.push(b'\n');
        let mut hash = KeyHash::new();
        self.last_key.clear();
        for at in &self.key_fields {
            let (from, to) = self.fields[*at];
            hash.field(&self.buffer[from..to]);
            if self.last_key.len() < KEY_CHARS_SHOWN {
                let shown = to.min(from + KEY_CHARS_SHOWN);
                self.last_key.extend_from_slice(&self.buffer[from..shown]);
                self.last_key.push(b'\t');
            }
        }
        Ok((hash.finish(), (self.buffer.len() - began) as u64))
    }

    /// Appends one field to the buffer.
    fn push_value(&mut self, at: usize, value: Option<&[u8]>) -> FlowResult<()> {
        match value {
            Some(bytes) => {
                let codec = self.codec(at);
                codec.push(&mut self.buffer, bytes);
                if bytes == b"0" && codec == Codec::Enum {
                    self.piece_enum_zeros += 1;
                }
            }
            None if self.must.get(at) == Some(&true) => return Err(self.null_at(at)),
            None => push_field(&mut self.buffer, None),
        }
        Ok(())
    }

    fn codec(&self, at: usize) -> Codec {
        self.codecs.get(at).copied().unwrap_or(Codec::Raw)
    }

    /// Writes a long row part by part; returns its key's hash and its length, as [`Self::push`].
    async fn push_long(&mut self, row: TextRow<'_>) -> FlowResult<(u64, u64)> {
        let hash = self.hash_long(row);
        let mut row_bytes = 0;
        for at in 0..row.len() {
            let mut began = self.buffer.len();
            if at > 0 {
                self.buffer.push(b'\t');
            }
            match row.get(at) {
                Some(bytes) if bytes.len() > LONG_BYTES => {
                    for part in bytes.chunks(BUFFER_BYTES) {
                        self.codec(at).push(&mut self.buffer, part);
                        row_bytes += self.buffer.len() - began;
                        self.flush().await?;
                        began = 0;
                    }
                }
                value => {
                    self.push_value(at, value)?;
                    row_bytes += self.buffer.len() - began;
                    if self.buffer.len() >= BUFFER_BYTES {
                        self.flush().await?;
                    }
                }
            }
        }
        self.buffer.push(b'\n');
        Ok((hash, row_bytes as u64 + 1))
    }

    /// Hashes the key of a long row, as [`Self::push`] does: by the written form of its fields.
    fn hash_long(&mut self, row: TextRow<'_>) -> u64 {
        let (mut hash, mut written) = (KeyHash::new(), Vec::new());
        let mut last_key = std::mem::take(&mut self.last_key);
        last_key.clear();
        for at in &self.key_fields {
            let shown = if last_key.len() < KEY_CHARS_SHOWN { last_key.len() + KEY_CHARS_SHOWN } else { 0 };
            let mut part = |written: &[u8]| {
                hash.part(written);
                let room = shown.saturating_sub(last_key.len()).min(written.len());
                last_key.extend_from_slice(&written[..room]);
            };
            match row.get(*at) {
                Some(bytes) => {
                    for bytes in bytes.chunks(BUFFER_BYTES) {
                        written.clear();
                        self.codec(*at).push(&mut written, bytes);
                        part(&written);
                    }
                }
                None => part(b"\\N"),
            }
            hash.end();
            if shown > 0 {
                last_key.push(b'\t');
            }
        }
        self.last_key = last_key;
        hash.finish()
    }

    /// Tells that a row is longer than a client can take. Only the row before it is known.
    fn too_long(&self) -> Failure {
        let Table { at, layout } = &*self.range.table;
        let fields = self.last_key.split(|byte| *byte == b'\t').filter(|field| !field.is_empty());
        let key: Vec<String> = fields.map(|field| of_bytes(field, KEY_CHARS_SHOWN)).collect();
        let which = match key.join(", ") {
            _ if layout.key.is_empty() => "a row".to_owned(),
            key if key.is_empty() => format!("the first row of range {}", self.range.number),
            key => format!("the row behind key ({key})"),
        };
        let most = ByteCount(self.server.packet_bytes_max() as u64);
        let what = format!("`{}`: table `{at}`: {which} is longer than {most}", self.server.name);
        Failure::new(ExitCode::Failed, what)
            .hint("No client can take a longer row from a MySQL server. Shorten it, or exclude the table.")
    }

    /// Tells that the server gave no value where there must be one: it lost something on the way.
    fn null_at(&self, at: usize) -> FlowError {
        let Table { at: place, layout } = &*self.range.table;
        let column = layout.columns.get(at).map(|column| column.name.as_str()).unwrap_or_default();
        let what = format!(
            "`{}`: column `{column}` of table `{place}` cannot be NULL, and the server sent NULL",
            self.server.name
        );
        let hint =
            "Nothing of it was kept. Look into the server's own log and check the table (CHECK TABLE).";
        Failure::new(ExitCode::Failed, what).hint(hint).into()
    }

    /// Notes the first column of the row's key, so that who wants a range of keys need not read all pieces.
    fn note_key(&mut self, row: TextRow<'_>) {
        let Some(key) = self.number_field.and_then(|at| row.get(at)) else { return };
        match &mut self.piece_keys {
            Some((_, last)) => {
                last.clear();
                last.extend_from_slice(key);
            }
            None => self.piece_keys = Some((key.to_vec(), key.to_vec())),
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
            let text = |key: Vec<u8>| String::from_utf8_lossy(&key).into_owned().into();
            trailer.extend([("first_key".to_owned(), text(first)), ("last_key".to_owned(), text(last))]);
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

#[cfg(test)]
mod tests {
    use super::super::layout::{Column, Reading};
    use super::*;
    use crate::{flow::channel, names::SourceName};

    fn range() -> Range {
        let column = |name: &str, nullable| Column {
            name: name.to_owned(),
            declared: String::new(),
            codec: Codec::Raw,
            auto_increment: false,
            bound: None,
            nullable,
            default: None,
        };
        let layout = Layout {
            columns: vec![column("may", true), column("must", false)],
            key: Vec::new(),
            engine: "InnoDB".to_owned(),
            history: false,
            own_history: false,
            reading: Reading::default(),
        };
        let at = Place { db: "im".into(), table: "t".into() };
        let stretch = Stretch { condition: String::new(), rows: None };
        Range { table: Arc::new(Table { at, layout }), number: 1, stretch }
    }

    fn server() -> Server {
        let config = toml::from_str("user = \"x\"").unwrap();
        Server::new(&SourceName::new("mysql").unwrap(), &config, false).unwrap()
    }

    #[test]
    fn a_range_that_gave_other_rows_than_were_counted_fails_the_reading() {
        let (server, mut range) = (server(), range());
        assert!(check_rows(&server, &range, 7).is_ok(), "what was not counted cannot be compared");
        range.stretch.rows = Some(7);
        assert!(check_rows(&server, &range, 7).is_ok());
        let error = check_rows(&server, &range, 6).unwrap_err();
        assert!(error.to_string().contains("range 1 of table `im.t` gave 6 rows, and 7 were"), "{error}");
    }

    #[test]
    fn no_value_where_there_must_be_one_fails_the_reading() {
        let (server, (sink, _stream), range) = (server(), channel(1), range());
        let mut pieces = Pieces::new(&server, &range, &sink);
        let mut spans = Vec::new();
        let mut push = |row: &[u8]| pieces.push(TextRow::parse(row, 2, &mut spans).unwrap());
        assert!(push(b"\xFB\x011").is_ok());
        let error = push(b"\x011\xFB").unwrap_err();
        assert!(error.to_string().contains("column `must` of table `im.t` cannot be NULL"), "{error}");
    }

    #[tokio::test]
    async fn no_piece_is_a_longer_transaction_than_group_replication_takes() {
        const ROWS: u64 = 100_000;
        const FIELDS: u64 = 60;
        // The shortest text of the longest numbers: 2 bytes each, and 29 in a binlog.
        let mut range = range();
        let table = Arc::get_mut(&mut range.table).unwrap();
        let mut column = table.layout.columns.remove(1);
        "decimal(65,0)".clone_into(&mut column.declared);
        table.layout.columns = vec![column; usize::try_from(FIELDS).unwrap()];
        let (server, (sink, mut stream)) = (server(), channel(1));
        let write = async {
            let (row, mut spans) = (b"\x010".repeat(usize::try_from(FIELDS).unwrap()), Vec::new());
            let row = TextRow::parse(&row, usize::try_from(FIELDS).unwrap(), &mut spans).unwrap();
            sink.announce(Vec::new()).await?;
            let mut pieces = Pieces::new(&server, &range, &sink);
            for _ in 0..ROWS {
                pieces.row(row).await?;
            }
            assert_eq!(pieces.finish().await?, ROWS);
            sink.finish(crate::flow::Point::at(chrono::DateTime::UNIX_EPOCH)).await
        };
        let take = async {
            let mut sum = 0;
            while let Some(mut entry) = stream.next().await? {
                while entry.body.next().await?.is_some() {}
                let rows = entry.body.trailer()["rows"].as_u64().unwrap();
                assert!(rows * FIELDS * 29 < 150_000_000, "{rows} rows in a piece");
                sum += rows;
            }
            Ok::<_, FlowError>(sum)
        };
        let (written, taken) = tokio::join!(write, take);
        written.unwrap();
        assert_eq!(taken.unwrap(), ROWS);
    }
}
