//! Reads a server: [`MysqlSource`].
//!
//! *Order.* Take the instant; announce; definitions; rows by all workers; programs; accounts; check that no
//! session lost the instant; only then is anything complete.
//!
//! *Crash.* Nothing is written to the server, and all locks end with their sessions. What was sent before
//! an error is never completed, so the other side cannot take it for whole.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use serde_json::json;

use super::{
    accounts,
    conn::{PACKET_BYTES_MAX, Server},
    engines,
    layout::{
        ACCOUNTS, Database, Layout, Place, TableKind, Wanted, database_item, databases, layouts, table_item,
        table_meta, unknown_tables,
    },
    lossy,
    programs::{self, of_kind},
    range::{Division, WALK_ROWS},
    rename::Renames,
    rows::{self, Reader, Table},
    snapshot::Snapshot,
    sql::Script,
};
use crate::{
    clock::Ground,
    error::{Context, ExitCode, Result},
    event::{Monitor, SharedMonitor},
    flow::{
        EntryMeta, EntrySink, FlowError, FlowResult, Piece, Previous, Problem, STREAM_DEPTH, Selection,
        Source, Stage, channel, settle,
    },
    names::SourceName,
    policy::MysqlConfig,
};

/// Reads a MySQL or MariaDB server.
pub struct MysqlSource {
    name: SourceName,
    config: MysqlConfig,
    ground: Ground,
    monitor: SharedMonitor,
    only: Option<Place>,
    range_rows: u64,
    row_bytes_max: usize,
    selected: Option<Selection>,
    names: BTreeMap<String, String>,
}

impl MysqlSource {
    /// Makes a source; nothing is connected yet.
    pub fn new(name: SourceName, config: MysqlConfig, ground: Ground, monitor: SharedMonitor) -> Self {
        Self {
            name,
            config,
            ground,
            monitor,
            only: None,
            range_rows: WALK_ROWS,
            row_bytes_max: PACKET_BYTES_MAX,
            selected: None,
            names: BTreeMap::new(),
        }
    }

    /// Divides tables into ranges of about so many rows, for tests: a table that is divided need not be large then.
    #[doc(hidden)]
    #[must_use]
    pub fn ranges_of(mut self, rows: u64) -> Self {
        self.range_rows = rows.max(1);
        self
    }

    /// Takes rows of so many bytes at most, for tests: what is too long need not be a gibibyte then.
    #[doc(hidden)]
    #[must_use]
    pub fn rows_of_at_most(mut self, bytes: usize) -> Self {
        self.row_bytes_max = bytes;
        self
    }

    /// Reads one table, and nothing of others.
    #[must_use]
    pub fn only_table(mut self, db: &str, table: &str) -> Self {
        self.only = Some(Place { db: db.to_owned(), table: table.to_owned() });
        self
    }

    /// Reads the databases and tables that are selected, and no accounts, without a lock: what is read is one instant
    /// only where nobody writes.
    #[must_use]
    pub fn selecting(mut self, selected: Selection) -> Self {
        self.selected = Some(selected);
        self
    }
}

impl MysqlSource {
    /// Reads databases that go by other names there, by their old names.
    #[must_use]
    pub fn calling(mut self, names: BTreeMap<String, String>) -> Self {
        self.names = names;
        self
    }

    async fn read_as_is(self: Box<Self>, sink: EntrySink) -> FlowResult<()> {
        let server = Server::new(&self.name, &self.config, false)?.with_packets_of(self.row_bytes_max);
        let renames = Renames::known(&self.names);
        let only = self.only.map(|at| Place { db: renames.get(&at.db).to_owned(), ..at });
        let wanted = Wanted::new(&self.config)?.only(only).selecting(self.selected).called(renames);
        let mut snapshot =
            Snapshot::take(&server, &wanted, self.range_rows, &self.ground, &*self.monitor).await?;
        let content = Content::read(&server, &wanted, &mut snapshot, &self.monitor).await?;
        content.tell_torn(&server, &mut snapshot, &*self.monitor);
        sink.announce(content.inventory(&snapshot)).await?;
        engines::report_unknown(&content.unknown, &sink).await?;
        if let Some(names) = engines::mark(&snapshot.listed) {
            snapshot.mark("definition_only", &names);
        }
        let division = Division { rows: self.range_rows, is_counted: snapshot.is_shared() };
        let mut reading =
            Reading { server: &server, snapshot, content, sink, division, monitor: &self.monitor };
        reading.definitions().await?;
        reading.doubts().await?;
        let counts = reading.rows().await?;
        reading.programs().await?;
        reading.accounts(&wanted).await?;
        reading.end(&wanted, &counts).await
    }
}

/// Sends on what a source sends, by the names of before.
async fn by_old_names(
    names: &BTreeMap<String, String>,
    source: Box<MysqlSource>,
    sink: EntrySink,
) -> FlowResult<()> {
    let back = Renames::known(names).back();
    let (inner, mut stream) = channel(STREAM_DEPTH);
    let forward = async {
        let mut next = stream.next().await?;
        let inventory = back.items(stream.inventory());
        sink.announce(inventory.clone()).await?;
        while let Some(mut entry) = next {
            back.whole_meta(&mut entry.meta)?;
            let mut body = sink.begin(entry.meta).await?;
            while let Some(piece) = entry.body.next_piece().await? {
                match piece {
                    Piece::Data(bytes) => body.write(bytes).await?,
                    Piece::Border => body.border().await?,
                }
            }
            body.finish_with(entry.body.trailer().clone()).await?;
            next = stream.next().await?;
        }
        for problem in stream.problems() {
            sink.report(problem.clone()).await?;
        }
        for item in &inventory {
            sink.complete(item);
        }
        match stream.point() {
            Some(point) => sink.finish(point.clone()).await,
            None => Err(FlowError::Unfinished),
        }
    };
    let (read, sent) = tokio::join!(source.read_as_is(inner), forward);
    settle(read, sent).map(|_| ())
}

#[async_trait]
impl Source for MysqlSource {
    fn name(&self) -> &SourceName {
        &self.name
    }

    async fn read(self: Box<Self>, sink: EntrySink, _previous: Option<Box<dyn Previous>>) -> FlowResult<()> {
        if self.names.is_empty() {
            return self.read_as_is(sink).await;
        }
        let names = self.names.clone();
        by_old_names(&names, self, sink).await
    }
}

/// What the server holds at the instant.
struct Content {
    databases: Vec<Database>,
    tables: Vec<Arc<Table>>,
    /// What the server lists as something else than tables, views and sequences.
    unknown: Vec<(Place, String)>,
    accounts: Option<Script>,
}

impl Content {
    async fn read(
        server: &Server,
        wanted: &Wanted,
        snapshot: &mut Snapshot,
        monitor: &SharedMonitor,
    ) -> Result<Self> {
        let mut databases = databases(server, &mut snapshot.names, wanted).await?;
        databases.retain(|db| snapshot.has_database(&db.name));
        let mut tables = Vec::new();
        for db in &databases {
            let layouts = layouts(server, &mut snapshot.names, &db.name, &snapshot.listed).await?;
            let all = layouts.into_iter();
            tables.extend(
                all.map(|(table, layout)| {
                    Arc::new(Table { at: Place { db: db.name.clone(), table }, layout })
                }),
            );
        }
        let accounts = if wanted.accounts() {
            // Never on a session that sees the instant: on some servers SHOW CREATE USER ends a transaction.
            accounts::read(server, &mut snapshot.keeper, snapshot.flavor).await?
        } else {
            None
        };
        let accounts = accounts.map(|found| {
            warn_of_unknown(server, &found.unknown, monitor);
            found.script
        });
        let unknown = unknown_tables(server, &mut snapshot.names, wanted).await?;
        Ok(Self { databases, tables, unknown, accounts })
    }

    /// Tells which tables are not kept whole, and marks those that no transaction sees at the instant.
    fn tell_torn(&self, server: &Server, snapshot: &mut Snapshot, monitor: &dyn Monitor) {
        for table in self.tables.iter().filter(|table| table.layout.own_history) {
            monitor.warn(
                Some(&server.name),
                format!(
                    "table `{}` counts its history in transactions, which only this server knows: the rows of now are \
                     kept, those of the past are not",
                    table.at
                ),
                Some("Keep the period in TIMESTAMP(6) columns: such a history is kept whole."),
            );
        }
        let torn = || self.tables.iter().filter(|table| !table.layout.is_transactional());
        let items: Vec<String> = torn().map(|table| table_item(&table.at.db, &table.at.table)).collect();
        if items.is_empty() {
            return;
        }
        snapshot.mark("nontransactional", &items.join(", "));
        for table in torn() {
            monitor.warn(
                Some(&server.name),
                format!(
                    "table `{}` is kept by engine {}, which has no transactions: rows written meanwhile \
                        may be in the snapshot or not",
                    table.at, table.layout.engine
                ),
                Some("Convert it to InnoDB, or make sure that nothing writes to it during a backup."),
            );
        }
    }

    fn inventory(&self, snapshot: &Snapshot) -> Vec<String> {
        let databases = self.databases.iter().map(|db| database_item(&db.name));
        let tables = snapshot.listed.iter().map(|listed| table_item(&listed.at.db, &listed.at.table));
        let accounts = self.accounts.iter().map(|_| ACCOUNTS.to_owned());
        databases.chain(tables).chain(accounts).collect()
    }
}

/// A reading under way.
struct Reading<'a> {
    server: &'a Server,
    snapshot: Snapshot,
    content: Content,
    sink: EntrySink,
    division: Division,
    monitor: &'a SharedMonitor,
}

impl Reading<'_> {
    /// Databases first, then what tables may refer to, then tables and stand-ins for views.
    async fn definitions(&mut self) -> FlowResult<()> {
        let (server, sink, names) = (self.server, &self.sink, &mut self.snapshot.names);
        for db in &self.content.databases {
            programs::send_database(server, names, db, sink).await?;
        }
        for at in of_kind(&self.snapshot.listed, TableKind::Sequence) {
            programs::send_sequence(server, names, at, sink).await?;
        }
        for table in &self.content.tables {
            programs::send_table(server, &mut self.snapshot.names, &table.at, sink).await?;
            send_layout(&table.at, &table.layout, sink).await?;
        }
        let (names, listed) = (&mut self.snapshot.names, &self.snapshot.listed);
        engines::send_definitions(server, names, listed, sink, self.monitor).await?;
        for at in of_kind(&self.snapshot.listed, TableKind::View) {
            programs::send_placeholder(server, &mut self.snapshot.names, at, sink).await?;
        }
        Ok(())
    }

    /// Looks for what would not come back as it is, and marks it.
    async fn doubts(&mut self) -> FlowResult<()> {
        let flavor = self.snapshot.flavor;
        let mut columns = Vec::new();
        for table in &self.content.tables {
            let names = &mut self.snapshot.names;
            let found = match self.snapshot.homes.get(&table.at) {
                Some(home) => {
                    let wire = &mut self.snapshot.workers[*home];
                    lossy::find(self.server, wire, flavor, &table.at, &table.layout).await?
                }
                None => lossy::find(self.server, names, flavor, &table.at, &table.layout).await?,
            };
            for found in found {
                columns.push(found.tell(self.server, self.monitor));
            }
        }
        if !columns.is_empty() {
            self.snapshot.mark("lossy_columns", &columns.join(", "));
        }
        Ok(())
    }

    /// From here on results are not converted: keys bound ranges by their bytes in the charset of their column, and
    /// programs are kept as they are written.
    async fn rows(&mut self) -> FlowResult<BTreeMap<Place, u64>> {
        let workers = std::mem::take(&mut self.snapshot.workers);
        let mut readers: Vec<Reader> =
            workers.into_iter().map(|wire| Reader { wire, own: Vec::new() }).collect();
        let mut shared = Vec::new();
        for table in self.snapshot.by_size(&self.content.tables) {
            let home = self.snapshot.homes.get(&table.at).and_then(|home| readers.get_mut(*home));
            home.map_or(&mut shared, |reader| &mut reader.own).push(table);
        }
        let as_they_are = "SET SESSION character_set_results=binary";
        self.server.run(&mut self.snapshot.names, as_they_are, "prepare its session").await?;
        let names = &mut self.snapshot.names;
        let (counts, workers) =
            rows::send(self.server, shared, self.division, names, readers, &self.sink).await?;
        self.snapshot.workers = workers;
        Ok(counts)
    }

    /// What comes after the data.
    async fn programs(&mut self) -> FlowResult<()> {
        let (server, sink, names) = (self.server, &self.sink, &mut self.snapshot.names);
        for db in &self.content.databases {
            programs::send_routines(server, names, db, sink).await?;
        }
        for at in of_kind(&self.snapshot.listed, TableKind::View) {
            if !programs::send_view(server, names, at, sink).await? {
                self.monitor.warn(
                    Some(&server.name),
                    format!("view `{at}` refers to something that is gone; it is kept as text"),
                    Some("Repair or drop the view: a restore cannot make it."),
                );
            }
        }
        for db in &self.content.databases {
            programs::send_triggers(server, names, db, &self.snapshot.listed, sink).await?;
            programs::send_events(server, names, db, sink).await?;
        }
        Ok(())
    }

    async fn accounts(&mut self, wanted: &Wanted) -> FlowResult<()> {
        if let Some(script) = &self.content.accounts {
            let path = super::layout::path(&["accounts.sql"])?;
            let meta = EntryMeta::new(path, Stage::After, ACCOUNTS).with("kind", ACCOUNTS);
            return self.sink.put(meta, script.to_bytes()).await;
        }
        if wanted.accounts() {
            let user = &self.server.config.user;
            let why = format!(
                "user `{user}` may not read the accounts: GRANT SELECT ON mysql.* to it, or exclude \
                    `{ACCOUNTS}`"
            );
            self.sink.report(Problem { what: ACCOUNTS.to_owned(), why }).await?;
        }
        Ok(())
    }

    /// Completes what was read whole, once it is sure that all of it was read at the instant.
    async fn end(mut self, wanted: &Wanted, counts: &BTreeMap<Place, u64>) -> FlowResult<()> {
        self.snapshot.check_still_open(self.server).await?;
        self.snapshot.check_same_definitions(self.server, wanted).await?;
        for db in &self.content.databases {
            self.sink.complete(&database_item(&db.name));
        }
        for listed in &self.snapshot.listed {
            if !listed.kind.has_rows() || counts.contains_key(&listed.at) {
                self.sink.complete(&table_item(&listed.at.db, &listed.at.table));
            }
        }
        if self.content.accounts.is_some() {
            self.sink.complete(ACCOUNTS);
        }
        self.snapshot.leave().await;
        let point = self.snapshot.point.clone();
        self.sink.finish(point).await
    }
}

/// Tells which accounts nobody can log in with, and nobody can read.
fn warn_of_unknown(server: &Server, accounts: &[String], monitor: &SharedMonitor) {
    if let Some(first) = accounts.first() {
        let more = accounts.len() - 1;
        let and = if more == 0 { String::new() } else { format!(" and {more} more") };
        monitor.warn(
            Some(&server.name),
            format!("the server's tables have account {first}{and}, which it does not know: not stored"),
            Some("With skip_name_resolve accounts with the name of a host do not count: drop it, or give it an address."),
        );
    }
}

async fn send_layout(at: &Place, layout: &Layout, sink: &EntrySink) -> FlowResult<()> {
    let text = serde_json::to_string_pretty(&json!(layout))
        .failed(ExitCode::Failed, || format!("the layout of `{at}` cannot be written"))?;
    sink.put(table_meta("layout", at, Stage::Schema, "table.json")?, format!("{text}\n")).await
}
