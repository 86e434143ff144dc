//! Rows as `INSERT` statements: where a server lets nothing be streamed, and in scripts.
//!
//! The four escapes of a stored field mean the same between quotes, in a session that knows backslashes and whose names
//! are binary. So a field is given as it is stored, with its quotes doubled and its codec's expression around it.

use mysql_async::Conn;

use super::{
    conn::Server,
    layout::{Layout, Place},
    load::{Counted, Done},
    sql::ident,
    tsv::find,
};
use crate::{
    error::{ExitCode, Failure, Result},
    flow::FlowResult,
};

/// Bytes of one `INSERT`.
pub(super) const INSERT_BYTES: usize = 1 << 20;
/// Bytes of a row's key that are told.
const KEY_SHOWN_BYTES: usize = 64;

/// Inserts the rows of a piece, inside the transaction that is open.
pub(super) async fn insert(
    server: &Server,
    conn: &mut Conn,
    at: &Place,
    layout: &Layout,
    body: &mut Counted<'_>,
) -> FlowResult<Done> {
    let (rows, statement, row, done) = (Rows::of(at, layout), Vec::new(), Vec::new(), Done::default());
    let mut inserter = Inserter { server, conn, at, layout, rows, statement, row, done };
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
    rows: Rows,
    statement: Vec<u8>,
    /// The row that is added next.
    row: Vec<u8>,
    done: Done,
}

impl Inserter<'_> {
    async fn row(&mut self, line: &[u8]) -> FlowResult<()> {
        self.row.clear();
        self.rows.push(&mut self.row, line);
        self.done.rows += 1;
        let most_bytes = INSERT_BYTES.min(self.server.packet_bytes / 2);
        if self.statement.len() + self.row.len() >= most_bytes {
            self.flush().await?;
        }
        if self.statement.is_empty() {
            let begin = self.rows.begin();
            let statement_bytes = begin.len() + self.row.len();
            if statement_bytes > most_bytes {
                let doing = format!(
                    "insert row {} of a piece, {}, into `{}`",
                    self.done.rows,
                    self.key(line),
                    self.at
                );
                self.server.check_fits(statement_bytes, &doing)?;
            }
            self.statement.extend_from_slice(begin.as_bytes());
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
        let doing = format!("insert rows into `{}`", self.at);
        self.server.run(self.conn, &self.statement, &doing).await?;
        self.statement.clear();
        self.done.warnings += u64::from(self.conn.get_warnings());
        Ok(())
    }
}

/// How the rows of one table are written as SQL.
pub(super) struct Rows {
    begin: String,
    /// What stands before and behind each value.
    around: Vec<(String, String)>,
}

impl Rows {
    /// Learns the columns.
    pub fn of(at: &Place, layout: &Layout) -> Self {
        let names: Vec<String> = layout.columns.iter().map(|column| ident(&column.name)).collect();
        let begin = format!("INSERT INTO {} ({}) VALUES ", at.sql(), names.join(","));
        let around = layout.columns.iter().map(|column| {
            // The codec's expression around a mark that the value takes the place of.
            let around = column.codec.write("?").unwrap_or_else(|| "?".to_owned());
            let (before, behind) = around.split_once('?').unwrap_or((&around, ""));
            (format!("{before}'"), format!("'{behind}"))
        });
        Self { begin, around: around.collect() }
    }

    /// Returns the words of an `INSERT` before its rows.
    pub fn begin(&self) -> &str {
        &self.begin
    }

    /// Appends a row, which is a line of its fields.
    pub fn push(&self, out: &mut Vec<u8>, line: &[u8]) {
        out.push(b'(');
        let mut rest = line;
        for (at, (before, behind)) in self.around.iter().enumerate() {
            if at > 0 {
                out.push(b',');
            }
            let end = find(rest, [b'\t']).unwrap_or(rest.len());
            let field = &rest[..end];
            rest = rest.get(end + 1..).unwrap_or_default();
            if field == b"\\N" {
                out.extend_from_slice(b"NULL");
                continue;
            }
            out.extend_from_slice(before.as_bytes());
            push_quoted(out, field);
            out.extend_from_slice(behind.as_bytes());
        }
        out.push(b')');
    }
}

/// Appends a field with each quote twice.
fn push_quoted(out: &mut Vec<u8>, mut field: &[u8]) {
    while let Some(at) = find(field, [b'\'']) {
        out.extend_from_slice(&field[..=at]);
        out.push(b'\'');
        field = &field[at + 1..];
    }
    out.extend_from_slice(field);
}

/// Cuts the bytes of a piece into the lines of its rows, however they arrive.
#[derive(Default)]
pub(super) struct Lines {
    bytes: Vec<u8>,
    from: usize,
    /// Behind `from`, up to where no line ends: a long row is not searched again with each of its frames.
    searched: usize,
}

impl Lines {
    /// Takes bytes; those of lines that were returned are let go.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.from);
        self.searched -= self.from;
        self.from = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// Returns the next whole line without its end.
    pub fn next(&mut self) -> Option<&[u8]> {
        let begin = self.from;
        let Some(len) = find(&self.bytes[self.searched..], [b'\n']) else {
            self.searched = self.bytes.len();
            return None;
        };
        let end = self.searched + len;
        self.from = end + 1;
        self.searched = self.from;
        Some(&self.bytes[begin..end])
    }

    /// Returns how many bytes wait for the end of their line.
    pub fn waiting_bytes(&self) -> usize {
        self.bytes.len() - self.from
    }

    /// Fails when the piece ended inside a row.
    pub fn finish(self, at: &Place) -> Result<()> {
        if self.waiting_bytes() == 0 {
            return Ok(());
        }
        Err(Failure::new(ExitCode::Damage, format!("a piece of table `{at}` ends inside a row")))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{
        codec::Codec,
        layout::{Column, Reading},
    };
    use super::*;

    fn rows() -> Rows {
        let column = |name: &str, codec| Column {
            name: name.to_owned(),
            declared: String::new(),
            codec,
            auto_increment: false,
            bound: None,
            nullable: true,
            default: None,
        };
        let layout = Layout {
            columns: vec![column("a", Codec::Raw), column("b`", Codec::Hex)],
            key: vec!["a".to_owned()],
            engine: "InnoDB".to_owned(),
            history: false,
            own_history: false,
            reading: Reading::default(),
        };
        Rows::of(&Place { db: "d".into(), table: "t".into() }, &layout)
    }

    #[test]
    fn a_line_becomes_values() {
        let rows = rows();
        let of = |line: &[u8]| {
            let mut out = Vec::new();
            rows.push(&mut out, line);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(rows.begin(), "INSERT INTO `d`.`t` (`a`,`b```) VALUES ");
        assert_eq!(of(b"it's\\t\t00FF"), r"('it''s\t',UNHEX('00FF'))");
        assert_eq!(of(b"\\N\t\\N"), "(NULL,NULL)");
        assert_eq!(of(b"''\t"), "('''''',UNHEX(''))");
    }

    proptest! {
        #[test]
        fn lines_are_the_same_however_they_arrive(
            lines in prop::collection::vec("[a-c]{0,9}", 0..9),
            cuts in prop::collection::vec(1_usize..7, 1..30),
        ) {
            let whole: String = lines.iter().flat_map(|line| [line.as_str(), "\n"]).collect();
            let (mut rest, mut cut, mut found) = (whole.as_bytes(), Lines::default(), Vec::new());
            for len in cuts.iter().cycle() {
                let (now, later) = rest.split_at((*len).min(rest.len()));
                cut.push(now);
                while let Some(line) = cut.next() {
                    found.push(String::from_utf8(line.to_vec()).unwrap());
                }
                rest = later;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(cut.waiting_bytes(), 0);
            prop_assert_eq!(found, lines);
        }
    }
}
