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
    conn::Server,
    layout::{
        ACCOUNTS, Database, Layout, Place, TableKind, Wanted, database_item, databases, layouts, table_item,
        table_meta,
    },
    programs::{self, of_kind},
    rows::{self, Table},
    snapshot::Snapshot,
    sql::Script,
};
use crate::{
    clock::Ground,
    error::{Context, ExitCode, Result},
    event::SharedMonitor,
    flow::{EntryMeta, EntrySink, FlowResult, Previous, Problem, Source, Stage},
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
}

impl MysqlSource {
    /// Makes a source; nothing is connected yet.
    pub fn new(name: SourceName, config: MysqlConfig, ground: Ground, monitor: SharedMonitor) -> Self {
        Self { name, config, ground, monitor, only: None }
    }

    /// Reads one table, and nothing of others.
    #[must_use]
    pub fn only_table(mut self, db: &str, table: &str) -> Self {
        self.only = Some(Place { db: db.to_owned(), table: table.to_owned() });
        self
    }
}

#[async_trait]
impl Source for MysqlSource {
    fn name(&self) -> &SourceName {
        &self.name
    }

    async fn read(self: Box<Self>, sink: EntrySink, _previous: Option<Box<dyn Previous>>) -> FlowResult<()> {
        let server = Server::new(&self.name, &self.config, false)?;
        let wanted = Wanted::new(&self.config)?.only(self.only);
        let mut snapshot = Snapshot::take(&server, &wanted, &self.ground, &*self.monitor).await?;
        let content = Content::read(&server, &wanted, &mut snapshot, &self.monitor).await?;
        sink.announce(content.inventory(&snapshot)).await?;
        let mut reading = Reading { server: &server, snapshot, content, sink, monitor: &self.monitor };
        reading.definitions().await?;
        let counts = reading.rows().await?;
        reading.programs().await?;
        reading.accounts(&wanted).await?;
        reading.end(&counts).await
    }
}

/// What the server holds at the instant.
struct Content {
    databases: Vec<Database>,
    tables: Vec<Arc<Table>>,
    accounts: Option<Script>,
}

impl Content {
    async fn read(
        server: &Server,
        wanted: &Wanted,
        snapshot: &mut Snapshot,
        monitor: &SharedMonitor,
    ) -> Result<Self> {
        let databases = databases(server, &mut snapshot.names, wanted).await?;
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
        Ok(Self { databases, tables, accounts })
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
            self.warn_if_torn(table);
            programs::send_table(server, &mut self.snapshot.names, &table.at, sink).await?;
            send_layout(&table.at, &table.layout, sink).await?;
        }
        for at in of_kind(&self.snapshot.listed, TableKind::View) {
            programs::send_placeholder(server, &mut self.snapshot.names, at, sink).await?;
        }
        Ok(())
    }

    fn warn_if_torn(&self, table: &Table) {
        if table.layout.own_history {
            self.monitor.warn(
                Some(&self.server.name),
                format!(
                    "table `{}` counts its history in transactions, which only this server knows: the rows of now are \
                     kept, those of the past are not",
                    table.at
                ),
                Some("Keep the period in TIMESTAMP(6) columns: such a history is kept whole."),
            );
        }
        if !table.layout.is_transactional() {
            self.monitor.warn(
                Some(&self.server.name),
                format!(
                    "table `{}` is kept by engine {}, which has no transactions: rows written meanwhile \
                        may be in the snapshot or not",
                    table.at, table.layout.engine
                ),
                Some("Convert it to InnoDB, or make sure that nothing writes to it during a backup."),
            );
        }
    }

    /// From here on results are not converted: keys bound ranges by their bytes in the charset of their column, and
    /// programs are kept as they are written.
    async fn rows(&mut self) -> FlowResult<BTreeMap<Place, u64>> {
        let workers = std::mem::take(&mut self.snapshot.workers);
        let tables = by_size(self.server, &mut self.snapshot, &self.content.tables).await?;
        let as_they_are = "SET SESSION character_set_results=binary";
        self.server.run(&mut self.snapshot.names, as_they_are, "prepare its session").await?;
        let (counts, workers) =
            rows::send(self.server, tables, &mut self.snapshot.names, workers, &self.sink).await?;
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
    async fn end(mut self, counts: &BTreeMap<Place, u64>) -> FlowResult<()> {
        self.snapshot.check_still_open(self.server).await?;
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

/// Returns the tables, those first that the server believes to be the largest.
async fn by_size(server: &Server, snapshot: &mut Snapshot, tables: &[Arc<Table>]) -> Result<Vec<Arc<Table>>> {
    let sql = "SELECT table_schema, table_name, data_length FROM information_schema.tables";
    let rows = server.rows(&mut snapshot.names, sql, "ask the tables' sizes").await?;
    let sizes: BTreeMap<Place, u64> = rows
        .iter()
        .filter_map(|row| {
            let at = Place { db: super::conn::text(row, 0)?, table: super::conn::text(row, 1)? };
            Some((at, super::conn::text(row, 2)?.parse().ok()?))
        })
        .collect();
    let mut sorted = tables.to_vec();
    sorted.sort_by_key(|table| std::cmp::Reverse(sizes.get(&table.at).copied().unwrap_or_default()));
    Ok(sorted)
}
