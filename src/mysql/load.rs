//! Writes the rows of one piece into a table: one transaction, counted, or nothing.
//!
//! *Order.* Begin; note the piece; stream the rows; compare what the server says it took (`Records`, `Skipped`,
//! `Warnings`) with what the piece's end says; commit.
//!
//! *Crash.* The driver ends a broken stream as if it were whole and the server executes it, last half row
//! included. So the transaction is only committed after the comparison, and on any error the connection is
//! given up with its transaction open: the server takes everything back.

use bytes::Bytes;
use futures_util::{StreamExt, future::Either, future::select, stream};
use mysql_async::{Conn, prelude::Queryable};
use tokio::sync::mpsc;

use super::{
    conn::{Server, code, number},
    layout::{Layout, Place},
    ledger::Ledger,
    sql::ident,
};
use crate::{
    error::{ExitCode, Failure},
    flow::{Attrs, Body, FlowError, FlowResult},
    names::EntryPath,
};

/// Frames that wait between the stream and the server.
const FEED_DEPTH: usize = 2;
/// Bytes of one `INSERT`, where rows cannot be streamed.
pub(super) const INSERT_BYTES: usize = 1 << 20;
/// Bytes of a row's key that are told.
const KEY_SHOWN_BYTES: usize = 64;

/// How rows get into a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// `LOAD DATA LOCAL INFILE`.
    Infile,
    /// `INSERT` of many rows, where the server has `local_infile` off.
    Insert,
}

impl Way {
    /// Asks the server which way is open.
    pub async fn of(server: &Server, conn: &mut Conn) -> crate::error::Result<Self> {
        let rows = server.rows(conn, "SELECT @@GLOBAL.local_infile", "ask how rows can be loaded").await?;
        let on = rows.first().and_then(|row| super::conn::text(row, 0)).is_some_and(|value| value == "1");
        Ok(if on { Self::Infile } else { Self::Insert })
    }
}

/// Loads one piece, notes it in the ledger, and returns its rows and bytes. On an error `conn` must not be used again.
pub(super) async fn load(
    server: &Server,
    conn: &mut Conn,
    way: Way,
    at: &Place,
    layout: &Layout,
    noted: Option<(&Ledger, &EntryPath)>,
    body: &mut Body,
) -> FlowResult<(u64, u64)> {
    let doing = format!("load rows into `{at}`");
    server.run(conn, "START TRANSACTION", &doing).await?;
    let mut body = Counted { body, bytes: 0 };
    if let Some((ledger, path)) = noted
        && let Some(rows) = ledger.take(server, conn, path, at).await?
    {
        // A session that was given up got it in before it went.
        server.run(conn, "ROLLBACK", &doing).await?;
        while body.next().await?.is_some() {}
        return Ok((rows, body.bytes));
    }
    let done = match way {
        Way::Infile => infile(server, conn, at, layout, &mut body).await?,
        Way::Insert => insert(server, conn, at, layout, &mut body).await?,
    };
    let sent = Done::of_trailer(body.body.trailer(), at)?;
    if done != sent {
        let what = format!(
            "`{}`: table `{at}` took {} rows with {} warnings of {} rows with {}",
            server.name, done.rows, done.warnings, sent.rows, sent.warnings
        );
        return Err(Failure::new(ExitCode::Failed, what)
            .hint(
                "Nothing of this piece was kept. Does the table on this server have the columns and \
                types of the source?",
            )
            .into());
    }
    if let Some((ledger, path)) = noted {
        ledger.count(server, conn, path, done.rows).await?;
    }
    server.run(conn, "COMMIT", &doing).await?;
    Ok((done.rows, body.bytes))
}

/// A body whose bytes are counted.
struct Counted<'a> {
    body: &'a mut Body,
    bytes: u64,
}

impl Counted<'_> {
    async fn next(&mut self) -> FlowResult<Option<Bytes>> {
        let next = self.body.next().await?;
        self.bytes += next.as_ref().map_or(0, |bytes| bytes.len() as u64);
        Ok(next)
    }
}

/// What a server took, or what a source sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Done {
    rows: u64,
    warnings: u64,
}

impl Done {
    fn of_trailer(trailer: &Attrs, at: &Place) -> FlowResult<Self> {
        let get = |name: &str| trailer.get(name).and_then(serde_json::Value::as_u64);
        // Each ENUM of index 0 costs one warning, whatever is done.
        if let (Some(rows), Some(warnings)) = (get("rows"), get("enum_zeros")) {
            return Ok(Self { rows, warnings });
        }
        let what = format!("a piece of table `{at}` does not tell its rows");
        Err(Failure::new(ExitCode::Damage, what).into())
    }

    /// Reads `Records: 3  Deleted: 0  Skipped: 0  Warnings: 0`; skipped rows are no rows.
    fn of_info(info: &str) -> Option<Self> {
        let words: Vec<&str> = info.split_whitespace().collect();
        let get = |name: &str| {
            let at = words.iter().position(|word| *word == name)?;
            words.get(at + 1)?.parse::<u64>().ok()
        };
        let skipped = get("Skipped:").unwrap_or(0) + get("Duplicates:").unwrap_or(0);
        Some(Self { rows: get("Records:")?.checked_sub(skipped)?, warnings: get("Warnings:")? })
    }
}

async fn infile(
    server: &Server,
    conn: &mut Conn,
    at: &Place,
    layout: &Layout,
    body: &mut Counted<'_>,
) -> FlowResult<Done> {
    let (feed, frames) = mpsc::channel::<std::io::Result<Bytes>>(FEED_DEPTH);
    conn.set_infile_handler(async move {
        let stream =
            stream::unfold(
                frames,
                |mut frames| async move { frames.recv().await.map(|frame| (frame, frames)) },
            );
        Ok(stream.boxed())
    });
    let most_bytes = server.packet_bytes / 4;
    let feeding = feed_body(body, feed, most_bytes);
    let sql = load_statement(at, layout);
    let loaded = {
        let loading = conn.query_drop(sql);
        match select(Box::pin(loading), Box::pin(feeding)).await {
            // Refused before it asked for rows, or broke off: nobody listens to the feed any more.
            Either::Left((Err(error), _)) => Err(error),
            Either::Left((Ok(()), feeding)) => {
                feeding.await?;
                Ok(())
            }
            Either::Right((sent, loading)) => {
                let loaded = loading.await;
                sent?;
                loaded
            }
        }
    };
    loaded.map_err(|error| load_failure(server, at, error))?;
    Done::of_info(&conn.info()).ok_or_else(|| {
        let what = format!("`{}`: the server does not say how many rows `{at}` took", server.name);
        Failure::new(ExitCode::Failed, what).into()
    })
}

/// Hands the body's bytes to the server's reader, at most `most_bytes` in a packet; a body that breaks off breaks the
/// reader off.
async fn feed_body(
    body: &mut Counted<'_>,
    feed: mpsc::Sender<std::io::Result<Bytes>>,
    most_bytes: usize,
) -> FlowResult<()> {
    loop {
        match body.next().await {
            Ok(Some(mut bytes)) => {
                while !bytes.is_empty() {
                    let part = bytes.split_to(bytes.len().min(most_bytes));
                    if feed.send(Ok(part)).await.is_err() {
                        // The server stopped listening; its error is the one to tell.
                        return Ok(());
                    }
                }
            }
            Ok(None) => return Ok(()),
            Err(error) => {
                let _also_gone = feed.send(Err(std::io::Error::other(error.to_string()))).await;
                return Err(error);
            }
        }
    }
}

fn load_failure(server: &Server, at: &Place, error: mysql_async::Error) -> FlowError {
    let off = matches!(
        number(&error),
        Some(code::NO_LOCAL_INFILE | code::NO_LOCAL_INFILE_OLD | code::NO_LOCAL_INFILE_MARIADB)
    );
    let too_long = matches!(number(&error), Some(code::PACKET_TOO_LARGE | code::RESULT_TOO_LARGE));
    let failure = server.failure(&format!("load rows into `{at}`"), error);
    if off {
        failure.hint(
            "local_infile was switched off meanwhile; run this again, with --resume: rows are then inserted.",
        )
    } else if too_long {
        // Nothing but JSON has to fit in a packet here, and the server does not say how long it is.
        failure.hint(server.packet_hint(server.packet_bytes * 4))
    } else {
        failure
    }
    .into()
}

fn load_statement(at: &Place, layout: &Layout) -> String {
    let mut fields = Vec::new();
    let mut sets = Vec::new();
    for (index, column) in layout.columns.iter().enumerate() {
        let value = format!("@c{index}");
        // MariaDB forgets that the column was given once there is a SET without it, and counts up a 0.
        let own = column.auto_increment.then(|| value.clone());
        match column.codec.write(&value).or(own) {
            Some(expression) => {
                sets.push(format!("{}={expression}", ident(&column.name)));
                fields.push(value);
            }
            None => fields.push(ident(&column.name)),
        }
    }
    if fields.is_empty() {
        fields.push("@c0".to_owned());
    }
    let set = if sets.is_empty() { String::new() } else { format!(" SET {}", sets.join(",")) };
    format!(
        "LOAD DATA LOCAL INFILE 'rows' INTO TABLE {} CHARACTER SET binary FIELDS TERMINATED BY '\\t' \
         ENCLOSED BY '' ESCAPED BY '\\\\' LINES TERMINATED BY '\\n' ({}){set}",
        at.sql(),
        fields.join(",")
    )
}

async fn insert(
    server: &Server,
    conn: &mut Conn,
    at: &Place,
    layout: &Layout,
    body: &mut Counted<'_>,
) -> FlowResult<Done> {
    let begin = insert_begin(at, layout);
    let (statement, row) = (Vec::new(), Vec::new());
    let mut inserter = Inserter { server, conn, at, layout, begin, statement, row, done: Done::default() };
    let mut lines = Lines::default();
    while let Some(bytes) = body.next().await? {
        lines.push(&bytes);
        while let Some(line) = lines.next() {
            inserter.row(line).await?;
        }
    }
    lines.finish(at)?;
    inserter.flush().await?;
    Ok(inserter.done)
}

struct Inserter<'a> {
    server: &'a Server,
    conn: &'a mut Conn,
    at: &'a Place,
    layout: &'a Layout,
    begin: String,
    statement: Vec<u8>,
    /// The row that is added next.
    row: Vec<u8>,
    done: Done,
}

impl Inserter<'_> {
    async fn row(&mut self, line: &[u8]) -> FlowResult<()> {
        self.row.clear();
        push_values(&mut self.row, self.layout, line);
        self.done.rows += 1;
        let most_bytes = INSERT_BYTES.min(self.server.packet_bytes / 2);
        if self.statement.len() + self.row.len() >= most_bytes {
            self.flush().await?;
        }
        if self.statement.is_empty() {
            let doing =
                format!("insert row {} of a piece, {}, into `{}`", self.done.rows, self.key(line), self.at);
            self.server.check_fits(self.begin.len() + self.row.len(), &doing)?;
            self.statement.extend_from_slice(self.begin.as_bytes());
        } else {
            self.statement.push(b',');
        }
        self.statement.append(&mut self.row);
        Ok(())
    }

    /// Names a row by its key: `id=7`.
    fn key(&self, line: &[u8]) -> String {
        let fields = self.layout.columns.iter().zip(line.split(|b| *b == b'\t'));
        let of_key = fields.filter(|(column, _)| self.layout.key.contains(&column.name));
        let told: Vec<String> = of_key
            .map(|(column, field)| {
                let shown = String::from_utf8_lossy(&field[..field.len().min(KEY_SHOWN_BYTES)]);
                format!("{}={}", column.name, shown.escape_debug())
            })
            .collect();
        if told.is_empty() { "which has no key".to_owned() } else { told.join(", ") }
    }

    async fn flush(&mut self) -> FlowResult<()> {
        if self.statement.is_empty() {
            return Ok(());
        }
        let statement = std::mem::take(&mut self.statement);
        self.server.run(self.conn, &statement, &format!("insert rows into `{}`", self.at)).await?;
        self.done.warnings += u64::from(self.conn.get_warnings());
        Ok(())
    }
}

/// Returns the words of an `INSERT` before its rows.
pub(super) fn insert_begin(at: &Place, layout: &Layout) -> String {
    let names: Vec<String> = layout.columns.iter().map(|column| ident(&column.name)).collect();
    format!("INSERT INTO {} ({}) VALUES ", at.sql(), names.join(","))
}

/// Cuts the bytes of a piece into the lines of its rows, however they arrive.
#[derive(Default)]
pub(super) struct Lines {
    bytes: Vec<u8>,
    from: usize,
}

impl Lines {
    /// Takes bytes; those of lines that were returned are let go.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.from);
        self.from = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// Returns the next whole line without its end.
    pub fn next(&mut self) -> Option<&[u8]> {
        let begin = self.from;
        let len = self.bytes[begin..].iter().position(|b| *b == b'\n')?;
        self.from = begin + len + 1;
        Some(&self.bytes[begin..begin + len])
    }

    /// Returns how many bytes wait for the end of their line.
    pub fn waiting_bytes(&self) -> usize {
        self.bytes.len() - self.from
    }

    /// Fails when the piece ended inside a row.
    pub fn finish(self, at: &Place) -> crate::error::Result<()> {
        if self.waiting_bytes() == 0 {
            return Ok(());
        }
        Err(Failure::new(ExitCode::Damage, format!("a piece of table `{at}` ends inside a row")))
    }
}

/// Appends one row as SQL. The escapes of a field mean the same between quotes; only quotes are added.
pub(super) fn push_values(out: &mut Vec<u8>, layout: &Layout, line: &[u8]) {
    out.push(b'(');
    for (index, (column, field)) in layout.columns.iter().zip(line.split(|b| *b == b'\t')).enumerate() {
        if index > 0 {
            out.push(b',');
        }
        if field == b"\\N" {
            out.extend_from_slice(b"NULL");
            continue;
        }
        // The codec's expression around a mark that the value takes the place of.
        let around = column.codec.write("?").unwrap_or_else(|| "?".to_owned());
        let (before, after) = around.split_once('?').unwrap_or((&around, ""));
        out.extend_from_slice(before.as_bytes());
        out.push(b'\'');
        for byte in field {
            if *byte == b'\'' {
                out.push(b'\'');
            }
            out.push(*byte);
        }
        out.push(b'\'');
        out.extend_from_slice(after.as_bytes());
    }
    out.push(b')');
}

#[cfg(test)]
mod tests {
    use super::super::{codec::Codec, layout::Column};
    use super::*;

    fn layout() -> Layout {
        let column = |name: &str, codec| Column {
            name: name.to_owned(),
            declared: String::new(),
            codec,
            auto_increment: false,
            bound: None,
            nullable: true,
            default: None,
        };
        Layout {
            columns: vec![column("a", Codec::Raw), column("b`", Codec::Hex)],
            key: vec!["a".to_owned()],
            engine: "InnoDB".to_owned(),
            history: false,
            own_history: false,
            reading: super::super::layout::Reading::default(),
        }
    }

    #[test]
    fn skipped_rows_are_no_rows() {
        let info = "Records: 5  Deleted: 0  Skipped: 2  Warnings: 3";
        assert_eq!(Done::of_info(info), Some(Done { rows: 3, warnings: 3 }));
        assert_eq!(Done::of_info(""), None);
    }

    #[test]
    fn the_statement_gives_each_value_through_its_codec() {
        let at = Place { db: "d".into(), table: "t".into() };
        let sql = load_statement(&at, &layout());
        assert!(sql.starts_with("LOAD DATA LOCAL INFILE 'rows' INTO TABLE `d`.`t` CHARACTER SET binary"));
        assert!(sql.ends_with("(`a`,@c1) SET `b```=UNHEX(@c1)"), "{sql}");
    }

    #[test]
    fn a_line_becomes_values() {
        let mut out = Vec::new();
        push_values(&mut out, &layout(), b"it's\\t\t00FF");
        assert_eq!(out, b"('it''s\\t',UNHEX('00FF'))");
        out.clear();
        push_values(&mut out, &layout(), b"\\N\t\\N");
        assert_eq!(out, b"(NULL,NULL)");
    }
}
