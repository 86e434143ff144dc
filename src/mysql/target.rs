//! Writes a server: [`MysqlTarget`].
//!
//! *Order.* Look what is in the way: refuse, or remove it if that was asked for. Definitions as they come,
//! tables without secondary indexes and foreign keys. Rows by several sessions, a transaction for each piece.
//! When the stream has ended well: indexes, row counts, foreign keys, orphans, users, routines, views, triggers,
//! events, and grants last.
//!
//! *Crash.* A stream that breaks off leaves tables that hold whole pieces only, and no programs and no
//! accounts; the error is reported and nothing pretends to be finished. The ledger stays with it: the next restore
//! of the same may continue, and any other finds the remains in the way. What it continues with is looked at and not
//! believed: tables by their columns, indexes and foreign keys by name, pieces by the ledger.
//!
//! *What does not come.* Where the stream reports problems, tables are filled with the rows that come, no database
//! is dropped as a whole, and programs that need what is missing are left out and told.

mod left_out;
mod room;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use async_trait::async_trait;
use mysql_async::Conn;

use self::left_out::is_of_the_thing;
use super::{
    apply::{self, Filled},
    choices::{AccountsRule, Choices, Naming},
    conn::{Flavor, Purpose, Server},
    cross::Dialect,
    ddl, gtid,
    layout::{LEDGER, Layout, Place, is_transactional, parse_item, table_item},
    ledger::{self, Ledger, Opened, Standing},
    loaders::{Job, Loaded, Loaders},
    orphans,
    part::{self, Part},
    preflight,
    programs::create_table,
    rename::{self, Renamed, Renames},
    sql::{Script, ident},
    swap::{self, Exchange, Held},
    trial::{Programs, Tables},
};
use crate::{
    clock::Ground,
    error::{Context, ExitCode, Failure, Result},
    event::SharedMonitor,
    flow::{
        Coming, Entry, EntryMeta, EntryStream, FlowResult, Preflight, Stage, Tally, Target, TargetState,
        Verified, Verify, WriteOptions,
    },
    names::{EntryPath, SourceName},
    policy::MysqlConfig,
};

/// Bytes that a definition may have.
pub(super) const SCRIPT_BYTES_MAX: usize = 64 << 20;

/// Writes a MySQL or MariaDB server.
#[derive(Clone)]
pub struct MysqlTarget {
    name: SourceName,
    config: MysqlConfig,
    monitor: SharedMonitor,
    choices: Choices,
    /// The names that [`Target::inspect`] found.
    renames: Renames,
    held: swap::Shared,
    /// The programs that [`Target::preflight`] saw.
    coming: Programs,
    /// The tables that it saw.
    coming_tables: Tables,
    /// The pieces that [`Target::done`] told: the stream comes without them.
    told: BTreeSet<EntryPath>,
    /// The sessions of this restore, also of its attempts before.
    opened: Arc<Opened>,
}

impl MysqlTarget {
    /// Makes a target; nothing is connected yet.
    pub fn new(name: SourceName, config: MysqlConfig, ground: &Ground, monitor: SharedMonitor) -> Self {
        let (choices, renames) = (Choices::default(), Renames::default());
        let (held, told) = (swap::Shared::default(), BTreeSet::new());
        let opened = Arc::new(Opened::new(ground.hex(16)));
        let (coming, coming_tables) = (Programs::default(), Tables::default());
        Self { name, config, monitor, choices, renames, held, coming, coming_tables, told, opened }
    }

    /// Does as was chosen.
    #[must_use]
    pub fn choosing(mut self, choices: Choices) -> Self {
        self.choices = choices;
        self
    }

    /// Returns the exchange that follows the restore, if one was chosen.
    pub fn exchange(&self) -> Result<Option<Exchange>> {
        let Naming::Swap { beside, was } = &self.choices.naming else { return Ok(None) };
        let (beside, was, held) = (beside.clone(), was.clone(), Arc::clone(&self.held));
        Ok(Some(Exchange { server: self.server()?, beside, was, held, monitor: self.monitor.clone() }))
    }

    /// Fails while nothing is touched where the server would not take the snapshot's GTIDs in the end.
    /// `resumes`: it may be this restore that told it of them.
    async fn check_gtid(
        &self,
        server: &Server,
        conn: &mut Conn,
        flavor: Flavor,
        resumes: bool,
    ) -> Result<()> {
        match &self.choices.gtid {
            Some((rule, position)) => gtid::check(server, conn, flavor, (*rule, position), resumes).await,
            None => Ok(()),
        }
    }

    fn server(&self) -> Result<Server> {
        let server = Server::new(&self.name, &self.config, true)?.noting(&self.opened);
        Ok(server.binlog_off(self.choices.binlog_off))
    }
}

#[async_trait]
impl Target for MysqlTarget {
    fn name(&self) -> &SourceName {
        &self.name
    }

    async fn inspect(&mut self, inventory: &[String]) -> Result<TargetState> {
        let server = self.server()?;
        let mut conn = server.open(Purpose::WriteNames).await?;
        let (flavor, version) = server.version(&mut conn).await?;
        let unfinished = ledger::jobs(&server, &mut conn).await?;
        self.check_gtid(&server, &mut conn, flavor, !unfinished.is_empty()).await?;
        let renames = Renames::of(&self.choices.naming, inventory)?;
        let found = apply::obstacles(&server, &mut conn, &renames.items(inventory)).await?;
        let in_the_way = found.iter().map(apply::Obstacle::line).collect();
        let names = renames.changed();
        self.renames = renames;
        Ok(TargetState { version, in_the_way, names, unfinished, ..TargetState::default() })
    }

    async fn done(&mut self, job: &str) -> Result<BTreeSet<EntryPath>> {
        let server = self.server()?;
        let mut conn = server.open(Purpose::WriteNames).await?;
        let standing = Ledger::new(job).standing(&server, &mut conn).await?;
        self.told = standing.map(|standing| standing.done.into_keys().collect()).unwrap_or_default();
        Ok(self.told.clone())
    }

    async fn preflight(&mut self, options: &WriteOptions, coming: &mut dyn Coming) -> Result<Preflight> {
        let server = self.server()?;
        let mut coming = Renamed { coming, renames: &self.renames };
        let (found, programs, tables) =
            preflight::look(&server, options, self.choices.accounts(), &mut coming).await?;
        (self.coming, self.coming_tables) = (programs, tables);
        Ok(found)
    }

    async fn write(self: Box<Self>, options: WriteOptions, mut entries: EntryStream) -> FlowResult<Tally> {
        let mut server = self.server()?;
        let mut names = server.open(Purpose::WriteNames).await?;
        server.ask_packet(&mut names).await?;
        let (dialect, _) = Dialect::of(&server, &mut names, &options.fit.collations).await?;
        let parts = part::find(&server, &mut names, &options.only).await?;
        let next = entries.next().await?;
        let wanted = entries.inventory().iter().filter(|item| options.only.names(item, Some('.')));
        let wanted: Vec<String> = wanted.cloned().collect();
        let renames = Renames::of(&self.choices.naming, &wanted)?;
        let (ledger, standing) = begun(&server, &mut names, &options, &renames.items(&wanted)).await?;
        let standing = ledger::agreed(&self.name, standing, &self.told)?;
        server.resumes = standing.is_some();
        self.check_gtid(&server, &mut names, dialect.flavor, server.resumes).await?;
        let mut writing = Writing {
            server: &server,
            parts,
            dialect,
            unfit: BTreeSet::new(),
            names,
            options,
            choices: self.choices.clone(),
            ledger,
            standing: standing.unwrap_or_default(),
            tables: BTreeMap::new(),
            coming: self.coming,
            coming_tables: self.coming_tables,
            after: Vec::new(),
            stand_ins: BTreeMap::new(),
            databases: BTreeSet::new(),
            lacking: BTreeSet::new(),
            renames,
            held: matches!(self.choices.naming, Naming::Swap { .. }).then(Held::default),
            tally: Tally::default(),
        };
        writing.lacking.extend(entries.problems().iter().map(|problem| problem.what.clone()));
        writing.make_room(entries.inventory(), &self.monitor).await?;
        let loaded = match writing.take_all(next, &mut entries).await {
            Ok(loaded) => loaded,
            Err(error) => {
                writing.leave_scratch().await;
                writing.leave_ledger().await;
                return Err(error);
            }
        };
        let (tally, held) = writing.finish(loaded, &self.monitor).await?;
        *self.held.lock().await = held;
        Ok(tally)
    }
}

/// Keeps others away, and returns the ledger and what an interrupted restore of the same has done.
async fn begun(
    server: &Server,
    conn: &mut Conn,
    options: &WriteOptions,
    inventory: &[String],
) -> Result<(Option<Ledger>, Option<Standing>)> {
    let databases = inventory.iter().filter_map(|item| parse_item(item)).map(|(db, _)| db).collect();
    ledger::lock(server, conn, options.job.as_deref(), &databases).await?;
    let Some(job) = &options.job else { return Ok((None, None)) };
    let ledger = Ledger::new(job);
    let standing = if options.resume { ledger.standing(server, conn).await? } else { None };
    Ok((Some(ledger), standing))
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
    names: Conn,
    options: WriteOptions,
    choices: Choices,
    ledger: Option<Ledger>,
    /// What was done before this restore was interrupted.
    standing: Standing,
    tables: BTreeMap<Place, Loading>,
    /// The programs that will come, as far as they are known.
    coming: Programs,
    /// The tables that will come, as far as they are known.
    coming_tables: Tables,
    after: Vec<(EntryMeta, Script)>,
    /// What was made for views whose own text has not come yet, with their items.
    stand_ins: BTreeMap<Place, String>,
    /// Databases that were made.
    databases: BTreeSet<String>,
    /// Items that the stream has not whole.
    lacking: BTreeSet<String>,
    renames: Renames,
    /// What is kept for an exchange, where one follows.
    held: Option<Held>,
    /// Tables of which ranges of keys come.
    parts: BTreeMap<Place, Part>,
    /// What the server knows.
    dialect: Dialect,
    /// Items that it cannot hold, and that the person leaves out.
    unfit: BTreeSet<String>,
    tally: Tally,
}

impl Writing<'_> {
    /// Takes all entries, and waits until their rows are in.
    async fn take_all(&mut self, mut next: Option<Entry>, entries: &mut EntryStream) -> FlowResult<Loaded> {
        let mut loaders = Loaders::default();
        while let Some(entry) = next {
            next = match self.take_in(entry, &mut loaders).await {
                Ok(()) => loaders.or_failed(entries.next()).await,
                Err(error) => Err(error),
            }
            .or_else(|error| loaders.blame(error))?;
        }
        loaders.finish().await
    }

    /// Takes an entry for what it is, by the name that it goes by here.
    async fn take_in(&mut self, mut entry: Entry, loaders: &mut Loaders) -> FlowResult<()> {
        self.tally.entries += 1;
        if let Some(held) = &mut self.held
            && held.waits(&entry.meta)?
        {
            return self.keep(entry).await;
        }
        self.renames.meta(&mut entry.meta);
        match entry.meta.stage {
            Stage::Schema => self.define(entry).await,
            Stage::Data => self.dispatch(entry, loaders).await,
            Stage::After => self.keep(entry).await,
        }
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
        // It was found out on trial that the server does not make it.
        if kind == "table" && self.unfit.contains(&meta.item) {
            return Ok(());
        }
        // What holds no rows itself is tried, and left out where it cannot be made.
        if kind != "definition" && !self.fits(meta, &mut script)? {
            return Ok(());
        }
        let doing = format!("make `{}`", meta.item);
        // What is exchanged later refers to sequences by the name that it will have.
        let last = if self.held.is_some() && kind == "table" { script.statements.pop() } else { None };
        self.renames.script(meta, &mut script).map_err(|unclear| unclear.failure(meta))?;
        script.statements.extend(last);
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
                script.push(apply::NO_SUBSTITUTE);
                script.push(ddl::split(&create, ddl::defers(&create)).create);
                self.make_table(&place(meta)?, &create, &script, &doing).await?;
                self.table(place(meta)?).create = Some(create);
            }
            "definition" => {
                let made = apply::run(self.server, &mut self.names, &script, &doing).await;
                self.or_not_made(&meta.item, made)?;
            }
            _ => apply::run(self.server, &mut self.names, &script, &doing).await?,
        }
        if kind == "placeholder" {
            self.stand_ins.insert(place(meta)?, meta.item.clone());
        }
        Ok(())
    }

    /// Makes a table. One that is there from an interrupted restore must be the same; one whose pieces were no
    /// transactions is made again.
    async fn make_table(&mut self, at: &Place, create: &str, script: &Script, doing: &str) -> Result<()> {
        let (server, resumes) = (self.server, self.server.resumes);
        if resumes && !is_transactional(ddl::engine(create)) {
            server.run(&mut self.names, format!("DROP TABLE IF EXISTS {}", at.sql()), doing).await?;
        }
        apply::run(server, &mut self.names, script, doing).await?;
        if resumes {
            let there = create_table(server, &mut self.names, at).await?;
            if ddl::columns(&String::from_utf8_lossy(&there)) != ddl::columns(create) {
                let what =
                    format!("`{}`: table `{at}` is not what the interrupted restore made", server.name);
                return Err(Failure::new(ExitCode::TargetNotEmpty, what)
                    .hint("Say --replace instead of --resume to remove what is there and begin anew."));
            }
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
        if !loaders.have_begun() {
            loaders.start(self.server, &mut self.names, self.ledger.as_ref()).await?;
        }
        let at = self.parts.get(&at).map_or(at, |part| part.scratch.clone());
        loaders.give(Job { entry, at, layout }).await
    }

    /// Keeps an entry of the last stage until all rows are in.
    async fn keep(&mut self, mut entry: Entry) -> FlowResult<()> {
        let bytes = entry.body.read_all(SCRIPT_BYTES_MAX).await?;
        self.tally.bytes += bytes.len() as u64;
        let mut script = Script::parse(&bytes, entry.meta.path.as_str())?;
        let is_accounts = entry.meta.text("kind") == Some("accounts");
        let is_left_out = entry.meta.text("table").is_some() && self.unfit.contains(&entry.meta.item);
        // A table keeps its own triggers when rows of it are restored.
        let is_kept = self.options.only.is_in_part(&entry.meta.item);
        if is_kept || is_left_out {
            return Ok(());
        }
        if !is_accounts && !self.fits(&entry.meta, &mut script)? {
            return self.leave_out(&entry.meta).await;
        }
        if self.choices.events_disabled() && entry.meta.text("kind") == Some("events") {
            let (item, count) = (&entry.meta.item, rename::disable_events(&mut script));
            if count > 0 {
                self.tally.notes.push(format!("events of {item} that were made disabled: {count}"));
            }
        }
        if let Some(held) = self.held.as_mut().filter(|_| Held::is_of(&entry.meta)) {
            held.programs.push((entry.meta, script));
            return Ok(());
        }
        let was = self.renames.original(entry.meta.text("db").unwrap_or_default()).to_owned();
        if let Err(unclear) = self.renames.script(&entry.meta, &mut script) {
            let EntryMeta { item, .. } = &entry.meta;
            self.tally.notes.push(format!("{item}: not made by another name than {was}: {unclear}"));
            return self.leave_out(&entry.meta).await;
        }
        let names = script.statements.iter().filter(|s| rename::names_database(s, &was)).count();
        if self.renames.is_renamed(&was) && names > 0 && entry.meta.text("kind") != Some("view") {
            let note = format!(
                "{}: programs that name database {was} in their text still do: {names}",
                entry.meta.item
            );
            self.tally.notes.push(note);
        }
        if entry.meta.text("kind") == Some("view") {
            self.stand_ins.remove(&place(&entry.meta)?);
        }
        self.after.push((entry.meta, script));
        Ok(())
    }

    async fn finish(mut self, loaded: Loaded, monitor: &SharedMonitor) -> FlowResult<(Tally, Option<Held>)> {
        self.tally.bytes += loaded.bytes;
        let filled = self.filled(&loaded)?;
        monitor.step(Some(&self.server.name), "building indexes and counting rows".to_owned());
        let counts = self.options.verify != Verify::Nothing;
        apply::finish_tables(self.server, &mut self.names, &filled, counts).await?;
        self.finish_parts(&loaded).await?;
        if counts {
            self.look_for_orphans(&filled).await?;
        }
        let rule = self.choices.accounts();
        let mut accounts = match self.take("accounts").pop() {
            Some(_) if rule == AccountsRule::None => {
                self.tally.notes.push("no account was made, and no grant given".to_owned());
                None
            }
            Some((_, script)) => Some(self.accounts(script, rule).await?),
            None => None,
        };
        if let Some(accounts) = &mut accounts {
            accounts.create(self.server, &mut self.names, self.dialect.flavor).await?;
        }
        self.programs(&["routines"]).await?;
        self.give_kept_grants(accounts.as_ref()).await?;
        // Grants come after the routines that some are on, and before the views: a server looks through a view with
        // its definer's rights, and keeps views on it marked as broken when those are not there yet.
        if let Some(mut accounts) = accounts {
            let granted = accounts.grant(self.server, &mut self.names).await;
            self.or_left_out("grants", granted)?;
            self.tally.notes.append(&mut accounts.notes);
        }
        self.programs(&["view", "triggers", "events"]).await?;
        self.check_nothing_is_left()?;
        self.drop_stand_ins().await?;
        if let Some((rule, position)) = &self.choices.gtid {
            gtid::tell(self.server, &mut self.names, self.dialect.flavor, *rule, position).await?;
        }
        if counts {
            self.tally.verified = Verified::Counts;
        }
        self.end_ledger().await?;
        let back = self.renames.back();
        self.tally.without = self.unfit.iter().map(|item| back.item(item)).collect();
        Ok((self.tally, self.held))
    }

    /// Forgets what was noted of a restore that has made nothing: there is nothing to go on with.
    async fn leave_ledger(&mut self) {
        // Grants on routines that made room are nowhere else by then.
        let has_begun = self.server.resumes || !self.databases.is_empty() || !self.standing.grants.is_empty();
        if let Some(ledger) = self.ledger.as_ref().filter(|_| !has_begun) {
            // What cannot be forgotten now, the next restore of the same forgets.
            let _or_later = ledger.end(self.server, &mut self.names).await;
        }
    }

    async fn end_ledger(&mut self) -> Result<()> {
        let Some(ledger) = &self.ledger else { return Ok(()) };
        let left = ledger.end(self.server, &mut self.names).await?;
        if left > 0 {
            let other = if left == 1 { "another restore" } else { "other restores" };
            self.tally.notes.push(format!(
                "database {LEDGER} has notes of {other} that did not end; DROP DATABASE {LEDGER} if none is to be continued"
            ));
        }
        Ok(())
    }

    /// Tells rows that refer to nothing. Where all was restored, the source had them too.
    async fn look_for_orphans(&mut self, filled: &[Filled]) -> Result<()> {
        let is_whole = self.options.only.is_all() && self.lacking.is_empty();
        for found in orphans::find(self.server, &mut self.names, filled).await? {
            self.tally.dangling += if is_whole { 0 } else { found.rows };
            self.tally.notes.push(found.line);
        }
        Ok(())
    }

    /// Puts ranges of keys into their tables.
    async fn finish_parts(&mut self, loaded: &Loaded) -> Result<()> {
        if self.parts.is_empty() {
            return Ok(());
        }
        let replace = self.options.replace;
        let rows = part::finish(self.server, &mut self.names, &self.parts, replace).await?;
        part::end(self.server, &mut self.names).await?;
        let read: u64 = self.parts.values().filter_map(|part| loaded.rows.get(&part.scratch)).sum();
        self.tally.notes.push(format!("{rows} rows were restored, chosen from {read}"));
        Ok(())
    }

    /// Returns the tables with what is still to be done to them.
    fn filled(&mut self, loaded: &Loaded) -> FlowResult<Vec<Filled>> {
        let mut before: BTreeMap<Place, (u64, u64)> = BTreeMap::new();
        for (at, rows) in std::mem::take(&mut self.standing.done).into_values() {
            let of_table = before.entry(at).or_default();
            *of_table = (of_table.0 + 1, of_table.1 + rows);
        }
        let mut filled = Vec::new();
        let come: BTreeSet<Place> = self.tables.keys().cloned().collect();
        for (at, table) in std::mem::take(&mut self.tables) {
            if self.parts.contains_key(&at) {
                continue;
            }
            let (Some(create), Some(layout)) = (&table.create, &table.layout) else {
                return Err(incomplete(self.server, &at, "its definition is").into());
            };
            let (pieces_before, rows_before) = before.remove(&at).unwrap_or_default();
            if table.pieces + pieces_before == 0 && !self.lacking.contains(&table_item(&at.db, &at.table)) {
                return Err(incomplete(self.server, &at, "its rows are").into());
            }
            let mut parts = ddl::split(create, ddl::defers(create));
            self.part_foreign_keys(&at, &mut parts.foreign_keys, &come);
            filled.push(Filled {
                parts,
                layout: Layout::clone(layout),
                rows: loaded.rows.get(&at).copied().unwrap_or_default() + rows_before,
                at,
            });
        }
        Ok(filled)
    }

    /// Takes out the foreign keys that a table by another name has to tables that did not come along: what stands
    /// beside a live system is not tied to it.
    fn part_foreign_keys(&mut self, at: &Place, keys: &mut Vec<String>, come: &BTreeSet<Place>) {
        let was = Place { db: self.renames.original(&at.db).to_owned(), table: at.table.clone() };
        if !self.renames.is_renamed(&was.db) {
            return;
        }
        let apart = self.renames.foreign_keys(at, keys, come);
        match &mut self.held {
            Some(held) => held.outward.extend(apart.into_iter().map(|key| (was.clone(), key))),
            None if apart.is_empty() => {}
            None => {
                let note = format!(
                    "{at}: foreign keys to tables that were not restored along, left out: {}",
                    apart.len()
                );
                self.tally.notes.push(note);
            }
        }
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
                let mut replaced = Vec::new();
                for program in apply::programs(&script) {
                    let doing = format!("make the {kind} of `{}`", meta.item);
                    let made = if self.replaces_programs(&meta) {
                        let made = apply::run_over(self.server, &mut conn, &program.script, &doing).await;
                        made.map(|more| replaced.extend(more))
                    } else {
                        apply::run(self.server, &mut conn, &program.script, &doing).await
                    };
                    let back = apply::run(self.server, &mut conn, &program.back, &doing).await;
                    self.or_broken(&meta, kind, program.name, made)?;
                    self.or_broken(&meta, kind, None, back)?;
                }
                self.tell_replaced(&meta, &replaced);
            }
        }
        Ok(())
    }

    /// Goes on without a view that was broken before, and without what may be left out.
    fn or_broken(
        &mut self,
        meta: &EntryMeta,
        kind: &str,
        name: Option<String>,
        made: Result<()>,
    ) -> FlowResult<()> {
        match made {
            Err(failure) if meta.attrs.contains_key("invalid") && is_of_the_thing(&failure) => {
                let (item, why) = (&meta.item, failure.chain().pop().unwrap_or_default());
                let note = format!("view `{item}` was broken when it was backed up, and was not made: {why}");
                self.tally.notes.push(note);
            }
            other => {
                let what = name.unwrap_or_else(|| kind.to_owned());
                self.or_left_out(&format!("{what} of {}", meta.item), other)?;
            }
        }
        Ok(())
    }

    /// Tells the programs that others took the place of.
    fn tell_replaced(&mut self, meta: &EntryMeta, replaced: &[String]) {
        if !replaced.is_empty() {
            let db = meta.text("db").unwrap_or_default();
            self.tally.notes.push(format!("{db}: there already, and replaced: {}", replaced.join(", ")));
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

pub(super) fn attr(meta: &EntryMeta, name: &str) -> Result<String> {
    meta.text(name).map(str::to_owned).ok_or_else(|| {
        Failure::new(ExitCode::Damage, format!("entry `{}` does not tell its {name}", meta.path))
    })
}

pub(super) fn place(meta: &EntryMeta) -> Result<Place> {
    Ok(Place { db: attr(meta, "db")?, table: attr(meta, "table")? })
}
