//! Puts restored tables in the place of those that are there: [`Exchange`].
//!
//! *Order.* The tables were restored beside and compared. Read what stands there and keep the text of its programs in
//! `<db>__was_…`.`lifeboat_kept`; drop the triggers of the old tables, as no server moves a table with triggers; one
//! `RENAME TABLE` moves the old tables away and the new ones in; foreign keys of tables that stay are made anew, as
//! they follow the old parent; the programs of the snapshot take the place of the old ones.
//!
//! *Crash.* `RENAME TABLE` is one act: at every moment each table is in its place, old or new, and the old one is
//! dropped by nobody. An error puts everything back. A death before the act leaves the old tables without triggers, one
//! after it the new tables without programs, or a table that stays without its foreign key, or with one to the old
//! table; the texts of the old ones are in `lifeboat_kept`. The exchange can be run again, which heals the programs and
//! not these foreign keys.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use mysql_async::{Conn, prelude::Queryable};
use tokio::sync::Mutex;

use super::{
    apply,
    conn::{Purpose, Server, code, number, text},
    ddl,
    layout::{Database, Listed, Place, TableKind, Wanted},
    programs,
    rename::Parent,
    sql::{Script, ident, literal},
    target::{attr, place},
};
use crate::{
    error::{ExitCode, Failure, Result},
    event::SharedMonitor,
    flow::{EntryMeta, EntrySink, FlowResult, Point, STREAM_DEPTH, channel, settle},
};

/// Time that others may wait behind one attempt to get the tables.
const LOCK_TRY_SECONDS: u64 = 3;
/// Time that others are let through between two attempts.
const LOCK_PAUSE: Duration = Duration::from_secs(1);
/// The table with the texts of the old programs.
const KEPT: &str = "lifeboat_kept";
/// Kinds of programs in the order in which they are made.
const KINDS: [&str; 5] = ["placeholder", "routines", "view", "triggers", "events"];

/// What a restore beside keeps for the exchange. All names are those of the snapshot.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// Databases with their charset and collation.
    pub databases: BTreeMap<String, (String, String)>,
    /// Databases that are exchanged with all that is in them.
    pub whole: BTreeSet<String>,
    /// Tables, sequences, and tables whose rows are kept elsewhere.
    pub tables: BTreeSet<Place>,
    /// Stand-ins for views, and programs.
    pub programs: Vec<(EntryMeta, Script)>,
    /// Foreign keys to tables that do not come along.
    pub outward: Vec<(Place, String)>,
}

impl Held {
    /// Notes an entry, and returns whether it waits for the exchange.
    pub fn waits(&mut self, meta: &EntryMeta) -> Result<bool> {
        let kind = meta.text("kind").unwrap_or_default();
        match kind {
            "database" => {
                let defaults = (attr(meta, "charset")?, attr(meta, "collation")?);
                self.databases.insert(attr(meta, "db")?, defaults);
            }
            "table" | "sequence" | "definition" => {
                self.tables.insert(place(meta)?);
            }
            _ => {}
        }
        Ok(Self::is_of(meta))
    }

    /// Returns whether a table or view of the live databases makes room: one of its name comes, or its database is
    /// exchanged as a whole. What the policy leaves out of every backup stays, as nothing would come in its place.
    fn takes_the_place_of(&self, at: &Place, policy: &Wanted) -> bool {
        let is_of = |meta: &EntryMeta| {
            meta.text("db") == Some(at.db.as_str()) && meta.text("table") == Some(at.table.as_str())
        };
        self.tables.contains(at)
            || self.programs.iter().any(|(meta, _)| is_of(meta))
            || self.whole.contains(&at.db) && !policy.leaves(at)
    }

    /// Returns whether an entry waits for the exchange.
    pub fn is_of(meta: &EntryMeta) -> bool {
        meta.text("kind").is_some_and(|kind| KINDS.contains(&kind))
    }
}

/// Where a restore leaves what the exchange needs.
pub(super) type Shared = Arc<Mutex<Option<Held>>>;

/// How far an exchange got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Kept,
    Triggers,
    Moved,
    Programs,
}

/// An exchange that waits for its restore.
pub struct Exchange {
    pub(super) server: Server,
    pub(super) beside: String,
    pub(super) was: String,
    pub(super) held: Shared,
    pub(super) monitor: SharedMonitor,
}

/// What stands where the restored tables go.
struct Old {
    tables: BTreeSet<Place>,
    databases: Vec<Database>,
    programs: Vec<(EntryMeta, Script)>,
    /// Foreign keys of tables that stay, to tables that go.
    children: Vec<Tie>,
    /// Foreign keys of tables that go, to tables that stay.
    outward: Vec<Tie>,
}

/// A foreign key between what goes and what stays.
struct Tie {
    child: Place,
    name: String,
    /// The definition, which names its parent in full.
    definition: String,
}

impl Exchange {
    /// Exchanges the tables, and says what a person should know.
    pub async fn run(self) -> Result<Vec<String>> {
        let Some(held) = self.held.lock().await.take() else {
            let what = format!("`{}`: nothing was restored that could be exchanged", self.server.name);
            return Err(Failure::new(ExitCode::Failed, what));
        };
        self.monitor.step(Some(&self.server.name), "exchanging the tables".to_owned());
        let mut conn = self.server.open(Purpose::WriteNames).await?;
        let old = self.old(&mut conn, &held).await?;
        let id = conn.id();
        let mut step = Step::Kept;
        if let Err(failure) = self.exchange(&mut conn, &held, &old, &mut step).await {
            drop(conn);
            return Err(self.put_back(id, &held, &old, step, failure).await);
        }
        self.clear(&mut conn, &held).await?;
        let mut notes: Vec<String> = self
            .was_databases(&held)
            .iter()
            .map(|was| {
                format!("what was there before is in database {was}; drop it when nobody needs it any more")
            })
            .collect();
        if !old.children.is_empty() {
            let children: BTreeSet<String> = old.children.iter().map(|tie| tie.child.to_string()).collect();
            let all = children.into_iter().collect::<Vec<_>>().join(", ");
            notes.push(format!(
                "foreign keys of {all} refer to the exchanged tables; their rows were not compared"
            ));
        }
        Ok(notes)
    }

    fn was_place(&self, at: &Place) -> Place {
        Place { db: format!("{}{}", at.db, self.was), table: at.table.clone() }
    }

    fn beside_place(&self, at: &Place) -> Place {
        Place { db: format!("{}{}", at.db, self.beside), table: at.table.clone() }
    }

    fn was_databases(&self, held: &Held) -> Vec<String> {
        databases_of(held).iter().map(|db| format!("{db}{}", self.was)).collect()
    }

    /// Reads what stands there.
    async fn old(&self, conn: &mut Conn, held: &Held) -> Result<Old> {
        let server = &self.server;
        let mut databases = Vec::new();
        let policy = Wanted::new(&server.config)?;
        let (mut tables, mut listed) = (BTreeSet::new(), Vec::new());
        for db in databases_of(held) {
            let Some(found) = database(server, conn, &db).await? else { continue };
            for one in listed_in(server, conn, &db).await? {
                if !held.takes_the_place_of(&one.at, &policy) {
                    continue;
                }
                if one.kind != TableKind::View {
                    tables.insert(one.at.clone());
                }
                listed.push(one);
            }
            databases.push(found);
        }
        let (children, outward) = ties(server, conn, &tables).await?;
        let mut reading = server.open(Purpose::ReadNames).await?;
        let as_they_are = "SET SESSION character_set_results=binary";
        server.run(&mut reading, as_they_are, "prepare its session").await?;
        let programs = read_programs(server, &mut reading, &databases, &held.whole, &listed).await?;
        Ok(Old { tables, databases, programs, children, outward })
    }

    /// Writes down what an error or a death would have to bring back.
    async fn keep(&self, conn: &mut Conn, held: &Held, old: &Old) -> Result<()> {
        for db in databases_of(held) {
            let was = ident(&format!("{db}{}", self.was));
            let doing = format!("keep what is in database `{db}`");
            self.server.run(conn, format!("CREATE DATABASE {was}"), &doing).await?;
            let table = format!("{was}.{}", ident(KEPT));
            let create = format!(
                "CREATE TABLE {table} (n INT PRIMARY KEY, what VARCHAR(600), script LONGBLOB) CHARACTER SET utf8mb4"
            );
            self.server.run(conn, create, &doing).await?;
            let programs = old.programs.iter().filter(|(meta, _)| meta.text("db") == Some(db.as_str()));
            let texts = programs.map(|(meta, script)| (meta.path.to_string(), script.to_bytes()));
            let keys = old.children.iter().chain(&old.outward).map(|Tie { child, definition, .. }| {
                let add = apply::alter(child, std::slice::from_ref(definition));
                (format!("foreign key of {child}"), add.into_bytes())
            });
            for (n, (what, bytes)) in texts.chain(keys).enumerate() {
                let row = format!(
                    "INSERT INTO {table} VALUES ({n}, {}, x'{}')",
                    literal(&what),
                    hex::encode(bytes)
                );
                self.server.run(conn, row, &doing).await?;
            }
        }
        Ok(())
    }

    async fn exchange(&self, conn: &mut Conn, held: &Held, old: &Old, step: &mut Step) -> Result<()> {
        let server = &self.server;
        self.keep(conn, held, old).await?;
        for db in databases_of(held) {
            let sql = format!("CREATE DATABASE IF NOT EXISTS {}", ident(&db));
            server.run(conn, sql, &format!("make database `{db}`")).await?;
        }
        *step = Step::Triggers;
        drop_triggers(server, conn, &old.tables).await?;
        *step = Step::Moved;
        let away = old.tables.iter().map(|at| (at.clone(), self.was_place(at)));
        let moves: Vec<(Place, Place)> =
            away.chain(held.tables.iter().map(|at| (self.beside_place(at), at.clone()))).collect();
        rename_tables(server, conn, &moves).await?;
        for (db, (charset, collation)) in held.databases.iter().filter(|(db, _)| held.whole.contains(*db)) {
            let sql = format!("ALTER DATABASE {} CHARACTER SET {charset} COLLATE {collation}", ident(db));
            server.run(conn, sql, &format!("set the defaults of database `{db}`")).await?;
        }
        tie(server, conn, &old.children).await?;
        // What is put aside holds nothing up.
        for Tie { child, name, .. } in &old.outward {
            untie(server, conn, &self.was_place(child), name).await?;
        }
        for (at, definition) in &held.outward {
            let doing = format!("add a foreign key of `{at}`");
            patiently(server, conn, &apply::alter(at, std::slice::from_ref(definition)), &doing).await?;
        }
        *step = Step::Programs;
        drop_programs(server, conn, &held.whole).await?;
        make(server, &held.programs).await
    }

    /// Brings back what was there, and returns the failure to tell.
    async fn put_back(&self, id: u32, held: &Held, old: &Old, step: Step, failure: Failure) -> Failure {
        match self.try_put_back(id, held, old, step).await {
            Ok(()) => failure.hint(format!(
                "Everything is as it was before. What was restored is beside it, in databases *{}.",
                self.beside
            )),
            Err(second) => failure.hint(format!(
                "It could not be put back whole: {}. No table is lost: the old ones are in databases *{was} or in their \
                 place, and the texts of their programs in *{was}.{KEPT}.",
                second.one_line(),
                was = self.was
            )),
        }
    }

    async fn try_put_back(&self, id: u32, held: &Held, old: &Old, step: Step) -> Result<()> {
        let server = &self.server;
        let mut conn = server.open(Purpose::WriteNames).await?;
        end_session(server, &mut conn, id).await?;
        if step >= Step::Moved && self.move_back(&mut conn, held, old).await? {
            for Database { name, charset, collation } in &old.databases {
                let sql =
                    format!("ALTER DATABASE {} CHARACTER SET {charset} COLLATE {collation}", ident(name));
                server.run(&mut conn, sql, &format!("set the defaults of database `{name}`")).await?;
            }
            tie(server, &mut conn, &old.children).await?;
            tie(server, &mut conn, &old.outward).await?;
        }
        if step >= Step::Programs {
            drop_programs(server, &mut conn, &held.whole).await?;
        }
        if step >= Step::Triggers {
            drop_triggers(server, &mut conn, &old.tables).await?;
            let is_gone = |meta: &EntryMeta| step >= Step::Programs || meta.text("kind") == Some("triggers");
            let gone: Vec<_> = old.programs.iter().filter(|(meta, _)| is_gone(meta)).cloned().collect();
            make(server, &gone).await?;
        }
        for was in self.was_databases(held) {
            drop_if_empty(server, &mut conn, &was).await?;
        }
        Ok(())
    }

    /// Moves the tables back if they were moved, and returns whether they were: whoever asked for that may not have
    /// heard the answer.
    async fn move_back(&self, conn: &mut Conn, held: &Held, old: &Old) -> Result<bool> {
        let moved = old.tables.first().map(|at| self.was_place(at)).or_else(|| held.tables.first().cloned());
        let Some(moved) = moved else { return Ok(false) };
        if !is_there(&self.server, conn, &moved).await? {
            return Ok(false);
        }
        drop_triggers(&self.server, conn, &held.tables).await?;
        let back = held.tables.iter().map(|at| (at.clone(), self.beside_place(at)));
        let moves: Vec<(Place, Place)> =
            back.chain(old.tables.iter().map(|at| (self.was_place(at), at.clone()))).collect();
        rename_tables(&self.server, conn, &moves).await?;
        Ok(true)
    }

    /// Drops the databases that the tables came from.
    async fn clear(&self, conn: &mut Conn, held: &Held) -> Result<()> {
        for db in databases_of(held) {
            drop_if_empty(&self.server, conn, &format!("{db}{}", self.beside)).await?;
        }
        Ok(())
    }
}

fn databases_of(held: &Held) -> BTreeSet<String> {
    let named = held.tables.iter().map(|at| at.db.clone()).chain(held.whole.iter().cloned());
    named.chain(held.programs.iter().filter_map(|(meta, _)| meta.text("db").map(str::to_owned))).collect()
}

async fn database(server: &Server, conn: &mut Conn, db: &str) -> Result<Option<Database>> {
    let sql = format!(
        "SELECT default_character_set_name, default_collation_name FROM information_schema.schemata \
         WHERE schema_name = {}",
        literal(db)
    );
    let rows = server.rows(conn, &sql, &format!("look for database `{db}`")).await?;
    Ok(rows.first().map(|row| Database {
        name: db.to_owned(),
        charset: text(row, 0).unwrap_or_default(),
        collation: text(row, 1).unwrap_or_default(),
    }))
}

async fn listed_in(server: &Server, conn: &mut Conn, db: &str) -> Result<Vec<Listed>> {
    let sql = format!(
        "SELECT table_name, table_type, engine FROM information_schema.tables WHERE table_schema = {} \
         ORDER BY table_name",
        literal(db)
    );
    let rows = server.rows(conn, &sql, &format!("list the tables of `{db}`")).await?;
    let all = rows.iter().filter_map(|row| {
        let at = Place { db: db.to_owned(), table: text(row, 0)? };
        let engine = text(row, 2).unwrap_or_default();
        Some(Listed { at, kind: TableKind::of(&text(row, 1)?, &engine)? })
    });
    Ok(all.collect())
}

/// Finds the foreign keys between tables that go and tables that stay: those of children that stay, and those of
/// children that go.
async fn ties(server: &Server, conn: &mut Conn, going: &BTreeSet<Place>) -> Result<(Vec<Tie>, Vec<Tie>)> {
    let databases: BTreeSet<String> = going.iter().map(|at| literal(&at.db)).collect();
    let (mut stay, mut go) = (Vec::new(), Vec::new());
    if databases.is_empty() {
        return Ok((stay, go));
    }
    let list = databases.into_iter().collect::<Vec<_>>().join(",");
    let sql = format!(
        "SELECT DISTINCT table_schema, table_name, constraint_name, referenced_table_schema, referenced_table_name \
         FROM information_schema.key_column_usage WHERE referenced_table_name IS NOT NULL \
         AND (table_schema IN ({list}) OR referenced_table_schema IN ({list}))"
    );
    for row in &server.rows(conn, &sql, "look for foreign keys of the tables").await? {
        let get = |at| text(row, at).unwrap_or_default();
        let (child, name) = (Place { db: get(0), table: get(1) }, get(2));
        let parent = Place { db: get(3), table: get(4) };
        let (child_goes, parent_goes) = (going.contains(&child), going.contains(&parent));
        if child_goes == parent_goes {
            continue;
        }
        let create = programs::create_table(server, conn, &child).await?;
        let keys = ddl::split(&String::from_utf8_lossy(&create), false).foreign_keys;
        let begin = format!("CONSTRAINT {} ", ident(&name));
        let key = keys.into_iter().find(|key| key.starts_with(&begin)).ok_or_else(|| {
            let what =
                format!("`{}`: the server does not show foreign key `{name}` of `{child}`", server.name);
            Failure::new(ExitCode::Failed, what)
        })?;
        let definition = Parent::of(&key).map_or_else(|| key.clone(), |found| found.named(&key, &parent));
        if child_goes { &mut go } else { &mut stay }.push(Tie { child, name, definition });
    }
    Ok((stay, go))
}

/// Reads views, routines and events of databases that go as a whole, and the triggers of all tables that go.
async fn read_programs(
    server: &Server,
    conn: &mut Conn,
    databases: &[Database],
    whole: &BTreeSet<String>,
    listed: &[Listed],
) -> Result<Vec<(EntryMeta, Script)>> {
    let (sink, mut stream) = channel(STREAM_DEPTH);
    let send = async {
        send_programs(server, conn, databases, whole, listed, &sink).await?;
        sink.finish(Point::at(chrono::DateTime::UNIX_EPOCH)).await
    };
    let take = async {
        let mut all = Vec::new();
        while let Some(mut entry) = stream.next().await? {
            let bytes = entry.body.read_all(super::target::SCRIPT_BYTES_MAX).await?;
            let script = Script::parse(&bytes, entry.meta.path.as_str())?;
            all.push((entry.meta, script));
        }
        FlowResult::Ok(all)
    };
    let (sent, taken) = tokio::join!(send, take);
    settle(sent, taken).map(|((), all)| all).map_err(|error| error.about(&server.name))
}

async fn send_programs(
    server: &Server,
    conn: &mut Conn,
    databases: &[Database],
    whole: &BTreeSet<String>,
    listed: &[Listed],
    sink: &EntrySink,
) -> FlowResult<()> {
    for at in programs::of_kind(listed, TableKind::View) {
        programs::send_placeholder(server, conn, at, sink).await?;
        programs::send_view(server, conn, at, sink).await?;
    }
    for db in databases {
        programs::send_triggers(server, conn, db, listed, sink).await?;
        if whole.contains(&db.name) {
            programs::send_routines(server, conn, db, sink).await?;
            programs::send_events(server, conn, db, sink).await?;
        }
    }
    Ok(())
}

async fn drop_triggers(server: &Server, conn: &mut Conn, tables: &BTreeSet<Place>) -> Result<()> {
    let sql = "SELECT trigger_schema, trigger_name, event_object_table FROM information_schema.triggers";
    for row in server.rows(conn, sql, "list the triggers").await? {
        let get = |at| text(&row, at).unwrap_or_default();
        let trigger = Place { db: get(0), table: get(1) };
        if tables.contains(&Place { db: get(0), table: get(2) }) {
            let sql = format!("DROP TRIGGER IF EXISTS {}", trigger.sql());
            patiently(server, conn, &sql, &format!("drop trigger `{trigger}`")).await?;
        }
    }
    Ok(())
}

async fn drop_programs(server: &Server, conn: &mut Conn, databases: &BTreeSet<String>) -> Result<()> {
    let policy = Wanted::new(&server.config)?;
    for db in databases {
        let name = literal(db);
        let sql = format!(
            "SELECT 'VIEW', table_name FROM information_schema.views WHERE table_schema = {name} UNION ALL \
             (SELECT routine_type, routine_name FROM information_schema.routines WHERE routine_schema = {name} \
             ORDER BY routine_type <> 'PACKAGE BODY' LIMIT 1000000) UNION ALL \
             SELECT 'EVENT', event_name FROM information_schema.events WHERE event_schema = {name}"
        );
        for row in server.rows(conn, &sql, &format!("list the programs of `{db}`")).await? {
            let kind = text(&row, 0).unwrap_or_default();
            let at = Place { db: db.clone(), table: text(&row, 1).unwrap_or_default() };
            if kind == "VIEW" && policy.leaves(&at) {
                continue;
            }
            let doing = format!("drop {} `{at}`", kind.to_lowercase());
            patiently(server, conn, &format!("DROP {kind} IF EXISTS {}", at.sql()), &doing).await?;
        }
    }
    Ok(())
}

/// Makes programs; a view that was broken when it was read may be so again.
async fn make(server: &Server, programs: &[(EntryMeta, Script)]) -> Result<()> {
    // These scripts change their session in every way.
    let mut conn = server.open(Purpose::WriteNames).await?;
    for kind in KINDS {
        for (meta, script) in programs.iter().filter(|(meta, _)| meta.text("kind") == Some(kind)) {
            let made =
                apply::run(server, &mut conn, script, &format!("make the {kind} of `{}`", meta.item)).await;
            if !meta.attrs.contains_key("invalid") {
                made?;
            }
        }
    }
    Ok(())
}

/// Moves all tables in one act.
async fn rename_tables(server: &Server, conn: &mut Conn, moves: &[(Place, Place)]) -> Result<()> {
    if moves.is_empty() {
        return Ok(());
    }
    let list: Vec<String> =
        moves.iter().map(|(from, to)| format!("{} TO {}", from.sql(), to.sql())).collect();
    patiently(server, conn, &format!("RENAME TABLE {}", list.join(", ")), "exchange the tables").await
}

/// Ties tables that stay to the tables that stand in their parents' places now.
async fn tie(server: &Server, conn: &mut Conn, ties: &[Tie]) -> Result<()> {
    for Tie { child, name, definition } in ties {
        untie(server, conn, child, name).await?;
        let doing = format!("make foreign key `{name}` of `{child}` anew");
        patiently(server, conn, &apply::alter(child, std::slice::from_ref(definition)), &doing).await?;
    }
    Ok(())
}

/// Drops a foreign key if it is there.
async fn untie(server: &Server, conn: &mut Conn, at: &Place, name: &str) -> Result<()> {
    let doing = format!("drop foreign key `{name}` of `{at}`");
    let sql = format!(
        "SELECT COUNT(*) FROM information_schema.table_constraints WHERE constraint_type = 'FOREIGN KEY' \
         AND table_schema = {} AND table_name = {} AND constraint_name = {}",
        literal(&at.db),
        literal(&at.table),
        literal(name)
    );
    let there = server.rows(conn, &sql, &doing).await?;
    if there.first().and_then(|row| text(row, 0)).is_none_or(|n| n == "0") {
        return Ok(());
    }
    let sql = format!("ALTER TABLE {} DROP FOREIGN KEY {}", at.sql(), ident(name));
    patiently(server, conn, &sql, &doing).await
}

/// Runs a statement that needs tables for itself, without holding others up for long.
async fn patiently(server: &Server, conn: &mut Conn, sql: &str, doing: &str) -> Result<()> {
    let limit = server.config.lock_wait_seconds.max(1);
    let wait = format!("SET SESSION lock_wait_timeout={}", LOCK_TRY_SECONDS.min(limit));
    server.run(conn, wait, doing).await?;
    let began = Instant::now();
    loop {
        match conn.query_drop(sql).await {
            Ok(()) => return Ok(()),
            Err(error) if matches!(number(&error), Some(code::LOCK_WAIT | code::DEADLOCK)) => {
                if began.elapsed() >= Duration::from_secs(limit) {
                    return Err(server.failure(doing, error).hint(
                        "A long statement or transaction holds the table: SHOW PROCESSLIST names it. End it, or raise \
                         lock_wait_seconds.",
                    ));
                }
                tokio::time::sleep(LOCK_PAUSE).await;
            }
            Err(error) => return Err(server.failure(doing, error)),
        }
    }
}

/// Ends a session that may still wait for a lock, and waits until it is gone.
async fn end_session(server: &Server, conn: &mut Conn, id: u32) -> Result<()> {
    let _gone_already = conn.query_drop(format!("KILL {id}")).await;
    let sql = format!("SELECT COUNT(*) FROM information_schema.processlist WHERE id = {id}");
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(server.config.lock_wait_seconds.max(1)) {
        let rows = server.rows(conn, &sql, "wait for the session before").await?;
        if rows.first().and_then(|row| text(row, 0)).is_none_or(|n| n == "0") {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let what = format!("`{}`: the session that exchanged the tables does not end", server.name);
    Err(Failure::new(ExitCode::Failed, what))
}

async fn is_there(server: &Server, conn: &mut Conn, at: &Place) -> Result<bool> {
    Ok(listed_in(server, conn, &at.db).await?.iter().any(|listed| listed.at.table == at.table))
}

/// Drops a database that holds nothing but what lifeboat kept there.
async fn drop_if_empty(server: &Server, conn: &mut Conn, db: &str) -> Result<()> {
    let left = listed_in(server, conn, db).await?;
    if left.iter().all(|listed| listed.at.table == KEPT) {
        let sql = format!("DROP DATABASE IF EXISTS {}", ident(db));
        server.run(conn, sql, &format!("drop database `{db}`")).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{flow::Stage, mysql::layout};

    fn at(db: &str, table: &str) -> Place {
        Place { db: db.into(), table: table.into() }
    }

    #[test]
    fn only_what_comes_takes_a_place() {
        let config = toml::from_str("user = \"u\"\nexclude = [\"im.cache*\"]").unwrap();
        let policy = Wanted::new(&config).unwrap();
        let mut held = Held::default();
        held.whole.insert("im".into());
        let meta = |kind: &str, db: &str, table: &str| {
            layout::table_meta(kind, &at(db, table), Stage::Schema, "x.sql").unwrap()
        };
        assert!(!held.waits(&meta("definition", "shop", "merged")).unwrap());
        held.programs.push((meta("view", "im", "orders"), Script::default()));
        let takes = |held: &Held, db, table| held.takes_the_place_of(&at(db, table), &policy);
        assert!(takes(&held, "im", "extra") && takes(&held, "im", "orders"), "a database goes as a whole");
        assert!(takes(&held, "shop", "merged"), "what shows rows of elsewhere comes too");
        assert!(!takes(&held, "shop", "orders"), "a view of another database has only its name");
        assert!(!takes(&held, "im", "cache_1"), "nothing would come in its place");
        held.waits(&meta("table", "im", "cache_1")).unwrap();
        assert!(takes(&held, "im", "cache_1"), "an older snapshot has it");
    }
}
