//! A connection of our own, for the sessions that read rows: the driver makes a vector of each value, and most of the
//! time that a reading takes of ours would go into that. Everything else speaks through the driver.
//!
//! *Order.* One statement at a time. Its rows are taken where they were read, one after the other; the next statement
//! comes when the result is at its end.
//!
//! *Crash.* A session that is dropped in the middle of a result hangs up, and the server ends the transaction. What the
//! server says against the protocol is an error of the line: nothing is guessed.

mod handshake;
mod packet;
mod row;
mod tls;

use mysql_async::{Conn, Opts, OptsBuilder, Result, ServerError, consts::CapabilityFlags};
use tokio::io::{AsyncRead, AsyncWrite};

pub(super) use self::row::TextRow;
use self::{
    handshake::Refused,
    packet::{Packets, broken},
    row::Span,
};
use super::hostile::Fields;

/// Columns that a table has at most, with much to spare.
const COLUMNS_MAX: usize = 1 << 16;
/// The longest packet that ends a result for servers that know no other end.
const EOF_BYTES_MAX: usize = 8;
/// Bytes of a packet that begins as an end does, and is a row.
const LONG_ROW_BYTES_MIN: usize = 0xFF_FFFF;

const QUIT: u8 = 1;
const QUERY: u8 = 3;

/// What packets go over.
pub(super) trait Line: AsyncRead + AsyncWrite + Send + Sync + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Line for T {}

/// A session.
pub(super) struct Wire {
    packets: Packets<Box<dyn Line>>,
    /// Whether the server ends a result as all do since MySQL 5.7 and MariaDB 10.2.
    ends_with_ok: bool,
    /// Whether a statement was sent whose answer has not begun: one that was given up then is answered to the next.
    waits: bool,
    /// The columns of the result that is being read.
    columns: Option<usize>,
    spans: Vec<Span>,
}

impl Wire {
    /// Connects and logs in.
    pub async fn open(opts: &Opts) -> Result<Self> {
        let begun = match handshake::begin(opts).await {
            Err(Refused::WantsPassword) => {
                // The driver seals it with the server's key. Then the server remembers it for a while.
                Conn::new(opts.clone()).await?.disconnect().await?;
                handshake::begin(opts).await
            }
            begun => begun,
        };
        match begun {
            Ok((packets, can)) => Ok(Self::over(packets, can)),
            Err(Refused::Failed(error)) => Err(error),
            Err(Refused::WantsPassword) => Err(broken("the server forgets who has just logged in")),
        }
    }

    fn over(packets: Packets<Box<dyn Line>>, can: CapabilityFlags) -> Self {
        let ends_with_ok = can.contains(CapabilityFlags::CLIENT_DEPRECATE_EOF);
        Self { packets, ends_with_ok, waits: false, columns: None, spans: Vec::new() }
    }

    /// Runs a statement, and reads what it gives to the end.
    pub async fn exec(&mut self, sql: &[u8]) -> Result<()> {
        self.query(sql).await?;
        while self.next().await?.is_some() {}
        Ok(())
    }

    /// Begins a statement, and returns how many columns its rows have: none where it gives no rows.
    pub async fn query(&mut self, sql: &[u8]) -> Result<usize> {
        while self.next().await?.is_some() {}
        if std::mem::replace(&mut self.waits, true) {
            return Err(broken("the session waits for the answer to another statement"));
        }
        let columns = self.ask(sql).await;
        self.waits = false;
        columns
    }

    async fn ask(&mut self, sql: &[u8]) -> Result<usize> {
        self.packets.command(&[&[QUERY], sql].concat()).await?;
        let head = self.packets.next().await?;
        if let Some(error) = server_error(head) {
            return Err(error);
        }
        let columns = match row::length(head) {
            Some((columns, read)) if read == head.len() && (1..=COLUMNS_MAX).contains(&columns) => columns,
            _ if head.first() == Some(&0) => return Ok(0),
            _ => return Err(broken("the server answered a query with something else than rows")),
        };
        // What the columns are called is known already.
        for _ in 0..columns {
            let column = self.packets.next().await?;
            if let Some(error) = server_error(column) {
                return Err(error);
            }
        }
        if !self.ends_with_ok && !is_end(self.packets.next().await?, false) {
            return Err(broken("the columns that the server announced do not end"));
        }
        self.columns = Some(columns);
        Ok(columns)
    }

    /// Returns the next row, `None` behind the last.
    pub async fn next(&mut self) -> Result<Option<TextRow<'_>>> {
        let Some(columns) = self.columns else { return Ok(None) };
        let packet = self.packets.next().await?;
        if let Some(error) = server_error(packet) {
            self.columns = None;
            return Err(error);
        }
        if is_end(packet, self.ends_with_ok) {
            self.columns = None;
            return Ok(None);
        }
        TextRow::parse(packet, columns, &mut self.spans).map(Some)
    }

    /// Runs a query and returns the fields of its rows, which the caller knows to be few.
    pub async fn fields(&mut self, sql: &str) -> Result<Vec<Fields>> {
        self.query(sql.as_bytes()).await?;
        let mut rows = Vec::new();
        while let Some(row) = self.next().await? {
            rows.push(row.fields().map(|field| field.map(<[u8]>::to_vec)).collect());
        }
        Ok(rows)
    }

    /// Says goodbye, so that the server does not note a client that was lost.
    pub async fn quit(mut self) {
        let _gone_already = self.packets.command(&[QUIT]).await;
    }
}

/// Returns whether a packet ends a result. A row that begins in the same way is longer.
fn is_end(packet: &[u8], with_ok: bool) -> bool {
    let bytes_min = if with_ok { LONG_ROW_BYTES_MIN } else { EOF_BYTES_MAX + 1 };
    packet.first() == Some(&0xFE) && packet.len() < bytes_min
}

/// Returns the error that a packet tells, if it tells one.
fn server_error(packet: &[u8]) -> Option<mysql_async::Error> {
    let (&[0xFF, low, high], rest) = packet.split_first_chunk()? else { return None };
    let (state, message) = match rest {
        [b'#', rest @ ..] if rest.len() >= 5 => rest.split_at(5),
        _ => (&b"HY000"[..], rest),
    };
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    let code = u16::from_le_bytes([low, high]);
    Some(ServerError { code, message: text(message), state: text(state) }.into())
}

/// Reads what a server says, for `fuzz/`: from its greeting over the login to the end of one result.
pub(super) async fn hear(said: Vec<u8>) -> Option<Vec<Fields>> {
    let line: Box<dyn Line> = Box::new(tokio::io::join(std::io::Cursor::new(said), tokio::io::sink()));
    let opts =
        OptsBuilder::default().user(Some("lifeboat")).pass(Some("secret")).max_allowed_packet(Some(1 << 24));
    let (packets, can) = handshake::open(line, &opts.into(), true).await.ok()?;
    let mut wire = Wire::over(packets, can);
    wire.fields("SELECT 1").await.ok()
}

#[cfg(test)]
mod tests;
