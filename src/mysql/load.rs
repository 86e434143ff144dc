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
    conn::{Server, code, number, text},
    insert::insert,
    layout::{Layout, Place},
    ledger::Ledger,
    sql::ident,
};
use crate::{
    error::{ExitCode, Failure, Result},
    flow::{Attrs, Body, FlowError, FlowResult},
    names::EntryPath,
};

/// Frames that wait between the stream and the server.
const FEED_DEPTH: usize = 2;

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
    pub async fn of(server: &Server, conn: &mut Conn) -> Result<Self> {
        let rows = server.rows(conn, "SELECT @@GLOBAL.local_infile", "ask how rows can be loaded").await?;
        let on = rows.first().and_then(|row| text(row, 0)).is_some_and(|value| value == "1");
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
pub(super) struct Counted<'a> {
    body: &'a mut Body,
    bytes: u64,
}

impl Counted<'_> {
    /// Returns the next bytes, `None` at the end.
    pub async fn next(&mut self) -> FlowResult<Option<Bytes>> {
        let next = self.body.next().await?;
        self.bytes += next.as_ref().map_or(0, |bytes| bytes.len() as u64);
        Ok(next)
    }
}

/// What a server took, or what a source sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Done {
    pub rows: u64,
    pub warnings: u64,
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
}
