//! Writes a server: [`MysqlTarget`].
//!
//! *Order.* Look what is in the way: refuse, or remove it if that was asked for. Definitions as they come,
//! tables without secondary indexes and foreign keys. Rows by several sessions, a transaction for each piece.
//! When the stream has ended well: indexes, row counts, foreign keys, users, routines, views, triggers,
//! events, and grants last.
//!
//! *Crash.* A stream that breaks off leaves tables that hold whole pieces only, and no programs and no
//! accounts; the error is reported and nothing pretends to be finished. The next restore finds the remains
//! in the way.
//!
//! *What does not come.* Where the stream reports problems, tables are filled with the rows that come, no database
//! is dropped as a whole, and programs that need what is missing are left out and told.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use async_trait::async_trait;
use mysql_async::Conn;
use tokio::{
    sync::{Mutex, mpsc},
    task::JoinSet,
};

use super::{
    accounts::{Accounts, parts},
    apply::{self, Filled},
    conn::{Flavor, Purpose, Server},
    cross::{Dialect, Fitted},
    ddl,
    layout::{Layout, Place, parse_item, table_item},
    load::{Way, load},
    part::{self, Part},
    preflight,
    sql::{Script, ident},
};
use crate::{
    clock::Ground,
    error::{Context, ExitCode, Failure, Result},
    event::SharedMonitor,
    flow::{
        Coming, Entry, EntryMeta, EntryStream, FlowError, FlowResult, Preflight, Problem, Selection, Stage,
        Tally, Target, TargetState, WriteOptions,
    },
    names::SourceName,
    policy::MysqlConfig,
};

/// Bytes that a definition may have.
pub(super) const SCRIPT_BYTES_MAX: usize = 64 << 20;

/// Writes a MySQL or MariaDB server.
pub struct MysqlTarget {
    name: SourceName,
    config: MysqlConfig,
    monitor: SharedMonitor,
}

impl MysqlTarget {
    /// Makes a target; nothing is connected yet.
    pub fn new(name: SourceName, config: MysqlConfig, _ground: Ground, monitor: SharedMonitor) -> Self {
        Self { name, config, monitor }
    }
}

#[async_trait]
impl Target for MysqlTarget {
    fn name(&self) -> &SourceName {
        &self.name
    }

    async fn inspect(&mut self, inventory: &[String]) -> Result<TargetState> {
        let server = Server::new(&self.name, &self.config, true)?;
        let mut conn = server.open(Purpose::WriteNames).await?;
        let (_, version) = server.version(&mut conn).await?;
        let found = apply::obstacles(&server, &mut conn, inventory, &Selection::all()).await?;
        Ok(TargetState {
            version,
            in_the_way: found.iter().map(apply::Obstacle::line).collect(),
            ..TargetState::default()
        })
    }

    async fn preflight(&mut self, options: &WriteOptions, coming: &mut dyn Coming) -> Result<Preflight> {
        let server = Server::new(&self.name, &self.config, true)?;
        preflight::look(&server, options, coming).await
    }

    async fn write(self: Box<Self>, options: WriteOptions, mut entries: EntryStream) -> FlowResult<Tally> {
        let server = Server::new(&self.name, &self.config, true)?;
        let mut names = server.open(Purpose::WriteNames).await?;
        let (dialect, _) = Dialect::of(&server, &mut names, &options.fit.collations).await?;
        let mut writing = Writing {
            server: &server,
            flavor: dialect.flavor,
            parts: part::find(&server, &mut names, &options.only).await?,
            dialect,
            unfit: BTreeSet::new(),
            names,
            options,
            tables: BTreeMap::new(),
            after: Vec::new(),
            databases: BTreeSet::new(),
            lacking: BTreeSet::new(),
            tally: Tally::default(),
        };
        let mut next = entries.next().await?;
        writing.lacking.extend(entries.problems().iter().map(|problem| problem.what.clone()));
        writing.make_room(entries.inventory()).await?;
        let mut loaders = Loaders::default();
        while let Some(entry) = next {
            writing.tally.entries += 1;
            let taken = match entry.meta.stage {
                Stage::Schema => writing.define(entry).await,
                Stage::Data => writing.dispatch(entry, &mut loaders).await,
                Stage::After => writing.keep(entry).await,
            };
            next = match taken {
                Ok(()) => loaders.or_failed(entries.next()).await,
                Err(error) => Err(error),
            }
            .or_else(|error| loaders.blame(error))?;
        }
        let loaded = loaders.finish().await?;
        writing.finish(loaded, &self.monitor).await
    }
}

/// A table on its way.
struct Loading {
    create: Option<String>,
    layout: Option<Arc<Layout>>,
    pieces: u64,
}

/// A restore under way.
struct Writing<'a> {
    server: &'a Server,
    flavor: Flavor,
    names: Conn,
    options: WriteOptions,
    tables: BTreeMap<Place, Loading>,
    after: Vec<(EntryMeta, Script)>,
    /// Databases that were made.
    databases: BTreeSet<String>,
    /// Items that the stream has not whole.
    lacking: BTreeSet<String>,
    /// Tables of which ranges of keys come.
    parts: BTreeMap<Place, Part>,
    /// What the server knows.
    dialect: Dialect,
    /// Items that it cannot hold, and that the person leaves out.
    unfit: BTreeSet<String>,
    tally: Tally,
}

impl Writing<'_> {
    async fn make_room(&mut self, inventory: &[String]) -> FlowResult<()> {
        // Dropped as a whole, a database would take along what does not come back.
        let lacks =
            |of: &str| self.lacking.iter().filter_map(|item| parse_item(item)).any(|(db, _)| db == of);
        let whole = |item: &&String| !matches!(parse_item(item), Some((db, None)) if lacks(&db));
        let whole = |item: &&String| whole(item) && !self.options.only.is_in_part(item);
        let inventory: Vec<String> = inventory.iter().filter(whole).cloned().collect();
        let found = apply::obstacles(self.server, &mut self.names, &inventory, &self.options.only).await?;
        let mut lines: Vec<String> = found.iter().map(apply::Obstacle::line).collect();
        for part in self.parts.values() {
            lines.extend(part.in_the_way(self.server, &mut self.names).await?);
        }
        if !lines.is_empty() && !self.options.replace {
            let what = format!(
                "`{}`: the server at {} is not empty: {}",
                self.server.name,
                self.server.place(),
                lines.join("; ")
            );
            return Err(Failure::new(ExitCode::TargetNotEmpty, what)
                .hint("Restore into an empty server, or say --replace to remove what is there first.")
                .into());
        }
        if !self.parts.is_empty() {
            part::begin(self.server, &mut self.names).await?;
        }
        Ok(apply::remove(self.server, &mut self.names, &found).await?)
    }

    /// Applies an entry of the first stage.
    async fn define(&mut self, mut entry: Entry) -> FlowResult<()> {
        let bytes = entry.body.read_all(SCRIPT_BYTES_MAX).await?;
        self.tally.bytes += bytes.len() as u64;
        let meta = &entry.meta;
        let db = attr(meta, "db")?;
        apply::refuse_system(self.server, &db)?;
        let kind = attr(meta, "kind")?;
        if kind == "layout" {
            let layout: Layout = serde_json::from_slice(&bytes)
                .failed(ExitCode::Damage, || format!("entry `{}` is no layout", meta.path))?;
            let at = place(meta)?;
            if let Some(part) = self.parts.get_mut(&at) {
                part.compare(self.server, &mut self.names, &layout).await?;
            }
            if !self.unfit.contains(&meta.item) {
                self.table(at).layout = Some(Arc::new(layout));
            }
            return Ok(());
        }
        let mut script = Script::parse(&bytes, meta.path.as_str())?;
        if !self.fits(meta, &mut script)? {
            return Ok(());
        }
        let doing = format!("make `{}`", meta.item);
        if self.databases.insert(db.clone()) && kind != "database" && !self.lacking.is_empty() {
            // The database's own definition did not come; its defaults are the server's then.
            let sql = format!("CREATE DATABASE IF NOT EXISTS {}", ident(&db));
            self.server.run(&mut self.names, sql, &doing).await?;
        }
        match kind.as_str() {
            "database" => self.define_database(meta, &db, &script, &doing).await?,
            "table" => {
                let create = script.statements.pop().and_then(|text| String::from_utf8(text).ok());
                let create = create.ok_or_else(|| {
                    Failure::new(ExitCode::Damage, format!("entry `{}` holds no table", meta.path))
                })?;
                if let Some(part) = self.parts.get(&place(meta)?) {
                    part.define(self.server, &mut self.names, &script, &create).await?;
                    return Ok(());
                }
                script.push(ddl::split(&create, defers(&create)).create);
                apply::run(self.server, &mut self.names, &script, &doing).await?;
                self.table(place(meta)?).create = Some(create);
            }
            _ => apply::run(self.server, &mut self.names, &script, &doing).await?,
        }
        Ok(())
    }

    async fn define_database(
        &mut self,
        meta: &EntryMeta,
        db: &str,
        script: &Script,
        doing: &str,
    ) -> FlowResult<()> {
        apply::run(self.server, &mut self.names, script, doing).await?;
        // One that was there already and empty gets the source's defaults; one with other tables does not.
        if self.options.only.is_all() || self.options.only.names(&meta.select, Some('.')) {
            let collation = attr(meta, "collation")?;
            let collation = self.dialect.collation(&collation).unwrap_or(collation);
            let sql = format!(
                "ALTER DATABASE {} CHARACTER SET {} COLLATE {collation}",
                ident(db),
                attr(meta, "charset")?
            );
            self.server.run(&mut self.names, sql, doing).await?;
        }
        Ok(())
    }

    fn table(&mut self, at: Place) -> &mut Loading {
        self.tables.entry(at).or_insert(Loading { create: None, layout: None, pieces: 0 })
    }

    /// Writes a definition in the server's words. One that the server cannot hold is left out where the person said
    /// so, and an error otherwise.
    fn fits(&mut self, meta: &EntryMeta, script: &mut Script) -> Result<bool> {
        let Fitted { mapped, unfit } = self.dialect.fit_script(meta, script);
        let what = preflight::name(meta);
        let Some(why) = unfit.first() else {
            self.tally.notes.extend(mapped.iter().map(|line| format!("{what}: {line}")));
            return Ok(true);
        };
        if !self.options.fit.leave_out {
            let what = format!("`{}`: the server cannot hold {what}", self.server.name);
            return Err(Failure::new(ExitCode::Usage, what).because(why.clone()).hint(preflight::LEAVE_OUT));
        }
        self.tally.notes.push(format!("{what} was left out: {why}"));
        self.unfit.insert(meta.item.clone());
        Ok(false)
    }

    /// Hands a piece of rows to a loader.
    async fn dispatch(&mut self, mut entry: Entry, loaders: &mut Loaders) -> FlowResult<()> {
        if self.unfit.contains(&entry.meta.item) {
            while entry.body.next().await?.is_some() {}
            return Ok(());
        }
        let at = place(&entry.meta)?;
        let table = self.table(at.clone());
        table.pieces += 1;
        let layout = table.layout.clone().ok_or_else(|| {
            Failure::new(ExitCode::Damage, format!("rows of table `{at}` came without its layout"))
        })?;
        if loaders.jobs.is_none() {
            loaders.start(self.server, &mut self.names).await?;
        }
        let at = self.parts.get(&at).map_or(at, |part| part.scratch.clone());
        loaders.give(Job { entry, at, layout }).await
    }

    /// Keeps an entry of the last stage until all rows are in.
    async fn keep(&mut self, mut entry: Entry) -> FlowResult<()> {
        let bytes = entry.body.read_all(SCRIPT_BYTES_MAX).await?;
        self.tally.bytes += bytes.len() as u64;
        let mut script = Script::parse(&bytes, entry.meta.path.as_str())?;
        // A table keeps its own triggers when rows of it are restored.
        let is_kept = self.options.only.is_in_part(&entry.meta.item);
        let is_whole = entry.meta.text("kind") == Some("accounts") || self.fits(&entry.meta, &mut script)?;
        if is_whole
            && !is_kept
            && !(entry.meta.text("table").is_some() && self.unfit.contains(&entry.meta.item))
        {
            self.after.push((entry.meta, script));
        }
        Ok(())
    }

    async fn finish(mut self, loaded: Loaded, monitor: &SharedMonitor) -> FlowResult<Tally> {
        self.tally.bytes += loaded.bytes;
        let filled = self.filled(&loaded)?;
        monitor.step(Some(&self.server.name), "building indexes and counting rows".to_owned());
        apply::finish_tables(self.server, &mut self.names, &filled).await?;
        self.finish_parts(&loaded).await?;
        let accounts = self.take("accounts").pop().map(|(_, script)| script);
        let mut accounts = match accounts {
            Some(script) => Some(Accounts::new(self.fitting_accounts(script).await?)),
            None => None,
        };
        if let Some(accounts) = &mut accounts {
            accounts.create(self.server, &mut self.names, self.flavor, self.options.replace).await?;
        }
        self.programs(&["routines"]).await?;
        // Grants come after the routines that some are on, and before the views: a server looks through a view with
        // its definer's rights, and keeps views on it marked as broken when those are not there yet.
        if let Some(mut accounts) = accounts {
            let granted = accounts.grant(self.server, &mut self.names).await;
            self.or_left_out("grants", granted)?;
            self.tally.notes.append(&mut accounts.notes);
        }
        self.programs(&["view", "triggers", "events"]).await?;
        self.check_nothing_is_left()?;
        self.tally.verified = true;
        Ok(self.tally)
    }

    /// Leaves accounts out that the server cannot hold, where the person said so.
    async fn fitting_accounts(&mut self, mut script: Script) -> Result<Script> {
        let kept = preflight::kept_accounts(self.server, &mut self.names, self.options.replace).await?;
        let unfit = preflight::unfit_accounts(&self.dialect, &script, &kept);
        if let Some((account, why)) = unfit.iter().next().filter(|_| !self.options.fit.leave_out) {
            let what = format!("`{}`: the server cannot hold account {account}", self.server.name);
            return Err(Failure::new(ExitCode::Usage, what).because(why.clone()).hint(preflight::LEAVE_OUT));
        }
        let is_unfit =
            |statement: &Vec<u8>| parts(statement).is_ok_and(|(account, _)| unfit.contains_key(&account));
        script.statements.retain(|statement| !is_unfit(statement));
        let notes = unfit.iter().map(|(account, why)| format!("account {account} was left out: {why}"));
        self.tally.notes.extend(notes);
        Ok(script)
    }

    /// Puts ranges of keys into their tables.
    async fn finish_parts(&mut self, loaded: &Loaded) -> Result<()> {
        if self.parts.is_empty() {
            return Ok(());
        }
        let replace = self.options.replace;
        let rows = part::finish(self.server, &mut self.names, &self.parts, replace).await?;
        part::end(self.server, &mut self.names, &self.parts).await?;
        let read: u64 = self.parts.values().filter_map(|part| loaded.rows.get(&part.scratch)).sum();
        self.tally.notes.push(format!("{rows} rows were restored, chosen from {read}"));
        Ok(())
    }

    /// Returns the tables with what is still to be done to them.
    fn filled(&mut self, loaded: &Loaded) -> FlowResult<Vec<Filled>> {
        let mut filled = Vec::new();
        let parts = &self.parts;
        for (at, table) in std::mem::take(&mut self.tables) {
            if parts.contains_key(&at) {
                continue;
            }
            let (Some(create), Some(layout)) = (&table.create, &table.layout) else {
                return Err(incomplete(self.server, &at, "its definition is").into());
            };
            if table.pieces == 0 && !self.lacking.contains(&table_item(&at.db, &at.table)) {
                return Err(incomplete(self.server, &at, "its rows are").into());
            }
            filled.push(Filled {
                parts: ddl::split(create, defers(create)),
                layout: Layout::clone(layout),
                rows: loaded.rows.get(&at).copied().unwrap_or_default(),
                at,
            });
        }
        Ok(filled)
    }

    fn take(&mut self, kind: &str) -> Vec<(EntryMeta, Script)> {
        self.after.extract_if(.., |(meta, _)| meta.text("kind") == Some(kind)).collect()
    }

    /// Makes programs of these kinds, in this order.
    async fn programs(&mut self, kinds: &[&str]) -> FlowResult<()> {
        // These scripts change their session in every way.
        let mut conn = self.server.open(Purpose::WriteNames).await?;
        for kind in kinds {
            for (meta, script) in self.take(kind) {
                let doing = format!("make the {kind} of `{}`", meta.item);
                let made = apply::run(self.server, &mut conn, &script, &doing).await;
                match made {
                    Err(failure) if meta.attrs.contains_key("invalid") => {
                        let why = failure.chain().pop().unwrap_or_default();
                        let note = format!(
                            "view `{}` was broken when it was backed up, and was not made: {why}",
                            meta.item
                        );
                        self.tally.notes.push(note);
                    }
                    other => self.or_left_out(&format!("{kind} of {}", meta.item), other)?,
                }
            }
        }
        Ok(())
    }

    /// Takes what failed for what needs something that did not come, where something did not come.
    fn or_left_out(&mut self, what: &str, done: Result<()>) -> Result<()> {
        match done {
            Err(failure) if self.options.fit.leave_out && failure.exit() == ExitCode::Failed => {
                self.tally.notes.push(format!("{what} could not be made: {}", failure.one_line()));
                Ok(())
            }
            Err(failure) if !self.lacking.is_empty() && failure.exit() != ExitCode::StoreDown => {
                let why = failure.one_line();
                self.tally.left_out.push(Problem { what: what.to_owned(), why });
                Ok(())
            }
            other => other,
        }
    }

    fn check_nothing_is_left(&self) -> Result<()> {
        match self.after.first() {
            None => Ok(()),
            Some((meta, _)) => {
                let what = format!("entry `{}` is of a kind that this version does not know", meta.path);
                Err(Failure::new(ExitCode::Failed, what).hint("Restore with a newer lifeboat."))
            }
        }
    }
}

fn incomplete(server: &Server, at: &Place, what: &str) -> Failure {
    Failure::new(
        ExitCode::Damage,
        format!("`{}`: table `{at}` cannot be restored: {what} missing", server.name),
    )
}

/// Returns whether a table's secondary indexes may come later: only `InnoDB`'s, and not where history is kept.
fn defers(create: &str) -> bool {
    let options = create.rsplit_once("\n)").map_or("", |(_, options)| options);
    options.contains("ENGINE=InnoDB") && !create.contains("WITH SYSTEM VERSIONING")
}

pub(super) fn attr(meta: &EntryMeta, name: &str) -> Result<String> {
    meta.text(name).map(str::to_owned).ok_or_else(|| {
        Failure::new(ExitCode::Damage, format!("entry `{}` does not tell its {name}", meta.path))
    })
}

pub(super) fn place(meta: &EntryMeta) -> Result<Place> {
    Ok(Place { db: attr(meta, "db")?, table: attr(meta, "table")? })
}

/// A piece of rows and where it goes.
struct Job {
    entry: Entry,
    at: Place,
    layout: Arc<Layout>,
}

/// What was loaded.
#[derive(Default)]
struct Loaded {
    rows: BTreeMap<Place, u64>,
    bytes: u64,
}

/// Sessions that load pieces.
#[derive(Default)]
struct Loaders {
    jobs: Option<mpsc::Sender<Job>>,
    running: JoinSet<FlowResult<Loaded>>,
}

impl Loaders {
    async fn start(&mut self, server: &Server, names: &mut Conn) -> Result<()> {
        let way = Way::of(server, names).await?;
        let (jobs, queue) = mpsc::channel(1);
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..server.config.threads.clamp(1, 64) {
            let conn = server.open(Purpose::WriteRows).await?;
            self.running.spawn(load_all(server.clone(), conn, way, Arc::clone(&queue)));
        }
        self.jobs = Some(jobs);
        Ok(())
    }

    async fn give(&mut self, job: Job) -> FlowResult<()> {
        let Some(jobs) = self.jobs.clone() else { return Err(FlowError::Closed) };
        self.or_failed(async move { jobs.send(job).await.map_err(|_| FlowError::Closed) }).await
    }

    /// Waits for `step`, or for a loader to fail: while jobs may come, none ends otherwise.
    async fn or_failed<T>(&mut self, step: impl Future<Output = FlowResult<T>>) -> FlowResult<T> {
        tokio::select! {
            done = step => done,
            Some(ended) = self.running.join_next() => match joined(ended) {
                Ok(_) => Err(FlowError::Closed),
                Err(error) => Err(error),
            },
        }
    }

    /// Returns the error to tell: a loader that failed for a reason of its own knows better than an echo.
    fn blame<T>(&mut self, error: FlowError) -> FlowResult<T> {
        let mut told = error;
        while let Some(ended) = self.running.try_join_next() {
            if let Err(other) = joined(ended)
                && told.is_echo()
            {
                told = other;
            }
        }
        Err(told)
    }

    /// Waits until all pieces are in.
    async fn finish(mut self) -> FlowResult<Loaded> {
        self.jobs = None;
        let mut all = Loaded::default();
        while let Some(ended) = self.running.join_next().await {
            let loaded = joined(ended)?;
            all.bytes += loaded.bytes;
            for (at, rows) in loaded.rows {
                *all.rows.entry(at).or_default() += rows;
            }
        }
        Ok(all)
    }
}

fn joined(ended: Result<FlowResult<Loaded>, tokio::task::JoinError>) -> FlowResult<Loaded> {
    ended.unwrap_or_else(|error| {
        Err(Failure::new(ExitCode::Failed, "a loading task broke down").because(error).into())
    })
}

async fn load_all(
    server: Server,
    mut conn: Conn,
    way: Way,
    queue: Arc<Mutex<mpsc::Receiver<Job>>>,
) -> FlowResult<Loaded> {
    let mut loaded = Loaded::default();
    loop {
        let next = queue.lock().await.recv().await;
        let Some(mut job) = next else {
            // Told politely; all is committed.
            let _gone_anyway = conn.disconnect().await;
            return Ok(loaded);
        };
        let (rows, bytes) = load(&server, &mut conn, way, &job.at, &job.layout, &mut job.entry.body).await?;
        loaded.bytes += bytes;
        *loaded.rows.entry(job.at).or_default() += rows;
    }
}
