//! Storage engines that keep no rows of their own: their tables are kept as definitions.
//!
//! What a `MERGE` table shows are the rows of other tables here, what a `FEDERATED` one shows those of another server,
//! and `CONNECT`'s may be anything's. Read as tables, such rows would be stored twice, and a restore would write them
//! into places that it was not asked to touch.

use mysql_async::Conn;

use super::{
    conn::Server,
    layout::{Listed, Place, TableKind, table_item},
    programs::{of_kind, send_definition},
};
use crate::{
    event::SharedMonitor,
    flow::{EntrySink, FlowResult, Problem},
};

/// Engines whose tables show rows that are kept elsewhere.
const ELSEWHERE: [&str; 7] = ["MRG_MYISAM", "MERGE", "FEDERATED", "CONNECT", "SPIDER", "OQGRAPH", "SPHINX"];

/// Returns whether an engine, as `information_schema.tables.engine` names it, keeps the rows that it shows.
pub(super) fn keeps_rows(engine: &str) -> bool {
    !ELSEWHERE.iter().any(|one| one.eq_ignore_ascii_case(engine))
}

/// Returns the tables whose rows are kept elsewhere, as the snapshot's point lists them; `None` where there are none.
pub(super) fn mark(listed: &[Listed]) -> Option<String> {
    let names: Vec<String> = of_kind(listed, TableKind::Elsewhere).map(ToString::to_string).collect();
    (!names.is_empty()).then(|| names.join(", "))
}

/// Sends the definitions of tables whose rows are kept elsewhere; after all other tables, which they may be made of.
pub(super) async fn send_definitions(
    server: &Server,
    conn: &mut Conn,
    listed: &[Listed],
    sink: &EntrySink,
    monitor: &SharedMonitor,
) -> FlowResult<()> {
    for at in of_kind(listed, TableKind::Elsewhere) {
        if let Some(why) = send_definition(server, conn, at, sink).await? {
            sink.report(Problem { what: table_item(&at.db, &at.table), why }).await?;
            continue;
        }
        monitor.warn(
            Some(&server.name),
            format!("table `{at}` shows rows that are kept elsewhere: only its definition is stored"),
            Some("Back up the place where the rows are; exclude the table to be told no more."),
        );
    }
    Ok(())
}

/// Reports what the server lists as something that this version does not know: left out, and never without a word.
pub(super) async fn report_unknown(unknown: &[(Place, String)], sink: &EntrySink) -> FlowResult<()> {
    for (at, kind) in unknown {
        let why = format!("the server lists it as {kind}, which this version cannot read");
        sink.report(Problem { what: table_item(&at.db, &at.table), why }).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::{STREAM_DEPTH, channel};

    #[test]
    fn an_engine_without_rows_is_known_however_it_is_written() {
        for engine in ["MRG_MyISAM", "MRG_MYISAM", "FEDERATED", "CONNECT"] {
            assert!(!keeps_rows(engine), "{engine}");
        }
        for engine in ["InnoDB", "MyISAM", "Aria", "MEMORY", "ARCHIVE", "CSV", "BLACKHOLE", ""] {
            assert!(keeps_rows(engine), "{engine}");
        }
    }

    #[tokio::test]
    async fn a_kind_of_table_that_is_not_known_is_a_problem_of_the_snapshot() {
        let (sink, mut stream) = channel(STREAM_DEPTH);
        sink.announce(Vec::new()).await.unwrap();
        let at = Place { db: "im".into(), table: "odd".into() };
        report_unknown(&[(at, "MATERIALIZED VIEW".to_owned())], &sink).await.unwrap();
        drop(sink);
        let _unfinished = stream.next().await;
        assert_eq!(stream.problems()[0].what, "im.odd");
        assert!(stream.problems()[0].why.contains("MATERIALIZED VIEW"));
    }
}
