//! Puts restored tables in the place of those that are there: [`Exchange`].
//!
//! *Order.* The tables were restored beside and compared. Bring back what an exchange that died took away. Read what
//! stands there and keep the text of its programs, foreign keys and grants beside it ([`kept`]); prove that programs
//! can be made, those that come and those that an error would bring back ([`Programs`]); drop the triggers of the old
//! tables, as no server moves a table with triggers, and views that have the name of a table that comes; end the notes
//! of interrupted restores that write the old tables, for they would go on in the new ones ([`Others`]); one
//! `RENAME TABLE` moves the old tables away and the new ones in; foreign keys of tables that stay are made anew, as
//! they follow the old parent; the programs of the snapshot take the place of the old ones, and grants on single
//! routines, which go with the old ones, are given again.
//!
//! *Crash.* `RENAME TABLE` is one act: at every moment each table is in its place, old or new, and the old one is
//! dropped by nobody. An error puts everything back, the notes of interrupted restores too. A death before the act
//! leaves the old tables without triggers, and may have ended an interrupted restore for nothing: the next exchange of
//! the database makes them again before it begins. A death after it leaves the new tables without programs, or a table
//! that stays without its foreign key, or with one to the old table: the next exchange ties it to the table that is
//! there then. In either case it gives the grants that this one took, and those that the interrupted restore was to
//! give.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use mysql_async::Conn;
use tokio::sync::Mutex;

use super::{
    apply,
    conn::{Flavor, Purpose, Server, text},
    grants,
    kept::{self, KEPT, Mark, Remains, Text},
    layout::{Database, Listed, Place, TableKind, Wanted, database_item},
    ledger::{self, Others, Written},
    patience::{end_session, patiently},
    programs,
    sql::{Script, ident, literal},
    target::{attr, place},
    ties::{Tie, Ties, untie},
    trial::{Author, Programs},
};
use crate::{
    error::{ExitCode, Failure, Result},
    event::SharedMonitor,
    flow::{EntryMeta, EntrySink, FlowResult, Point, STREAM_DEPTH, channel, settle},
};

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

    /// Returns what something else comes in the place of.
    fn written(&self) -> Written {
        let programs = self.programs.iter().filter_map(|(meta, _)| place(meta).ok());
        let tables = self.tables.iter().cloned().chain(programs).map(|at| (at.db, Some(at.table)));
        Written::of(tables.chain(self.whole.iter().map(|db| (db.clone(), None))))
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
    flavor: Flavor,
    tables: BTreeSet<Place>,
    /// Views that have the name of a table that comes.
    views_in_the_way: BTreeSet<Place>,
    databases: Vec<Database>,
    programs: Vec<(EntryMeta, Script)>,
    ties: Ties,
    /// Grants on single routines, by the database that they are kept beside: of databases that go as a whole, and those
    /// that somebody who did not end was to give again.
    grants: Grants,
    /// Those of them that are there.
    standing: BTreeSet<String>,
    /// Databases whose grants on routines cannot be seen.
    unseen: Vec<String>,
    /// What exchanges that died left and this one finishes.
    dead: Vec<Remains>,
    /// Interrupted restores that write what goes.
    others: Others,
}

type Grants = BTreeMap<String, BTreeSet<String>>;

impl Old {
    /// Returns the databases that were there.
    fn names(&self) -> BTreeSet<&String> {
        self.databases.iter().map(|db| &db.name).collect()
    }
}

impl Exchange {
    /// Exchanges the tables, and says what a person should know.
    pub async fn run(self) -> Result<Vec<String>> {
        let Some(held) = self.held.lock().await.take() else {
            let what = format!("`{}`: nothing was restored that could be exchanged", self.server.name);
            return Err(Failure::new(ExitCode::Failed, what));
        };
        self.step("exchanging the tables".to_owned());
        let mut conn = self.server.open(Purpose::WriteNames).await?;
        let databases = databases_of(&held);
        ledger::lock(&self.server, &mut conn, None, &databases).await?;
        let mut remains = Remains::find(&self.server, &mut conn, &databases).await?;
        let (mut notes, grants) = self.put_back_dead(&mut conn, &mut remains).await?;
        let old = self.old(&mut conn, &held, &remains, grants).await?;
        let id = conn.id();
        let mut step = Step::Kept;
        match self.exchange(&mut conn, &held, &old, &mut step).await {
            Ok(more) => notes.extend(more),
            Err(failure) => {
                drop(conn);
                return Err(self.put_back(id, &held, &old, step, failure).await);
            }
        }
        notes.extend(self.end(&mut conn, &held, &old).await);
        notes.extend(self.to_know(&held, &old));
        Ok(notes)
    }

    fn step(&self, what: String) {
        self.monitor.step(Some(&self.server.name), what);
    }

    /// Returns what a person should know after a good exchange.
    fn to_know(&self, held: &Held, old: &Old) -> Vec<String> {
        let mut notes: Vec<String> = self
            .was_databases(held)
            .iter()
            .map(|was| {
                format!("what was there before is in database {was}; drop it when nobody needs it any more")
            })
            .collect();
        notes.extend(old.others.note());
        notes.extend(old.unseen.iter().map(|db| {
            format!(
                "the account may not read grants on single routines (mysql.procs_priv): those on routines of {db} are \
                 gone with the old ones"
            )
        }));
        let views = old.views_in_the_way.iter().filter(|at| !held.whole.contains(&at.db));
        notes.extend(views.map(|at| {
            format!("view {at} made room for the table; its text is in {}{}.{KEPT}", at.db, self.was)
        }));
        if !old.ties.children.is_empty() {
            let children: BTreeSet<String> =
                old.ties.children.iter().map(|tie| tie.child.to_string()).collect();
            let all = children.into_iter().collect::<Vec<_>>().join(", ");
            notes.push(format!(
                "foreign keys of {all} refer to the exchanged tables; their rows were not compared"
            ));
        }
        notes
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

    /// Brings back what exchanges took away that died before they moved a table, and forgets them. Returns what a
    /// person should know, and the grants that they were to give.
    async fn put_back_dead(
        &self,
        conn: &mut Conn,
        remains: &mut Vec<Remains>,
    ) -> Result<(Vec<String>, Grants)> {
        // What is still there is as it should be.
        let mut mending = self.server.clone();
        mending.resumes = true;
        let (mut notes, mut grants) = (Vec::new(), Grants::new());
        for dead in remains.extract_if(.., |remains| remains.is_dead() && !remains.is_moved()) {
            let there: BTreeSet<Place> =
                listed_in(&mending, conn, &dead.of).await?.into_iter().map(|listed| listed.at).collect();
            let mut making = mending.open(Purpose::WriteNames).await?;
            let mut is_whole = true;
            for text in dead.texts(&mending, conn).await? {
                // What it had only kept is there still, or somebody has revoked it since.
                grants.entry(dead.of.clone()).or_default().extend(text.owed_grants());
                let is_lost = match text.kind.as_str() {
                    "triggers" => there.contains(&text.at),
                    "view" => !there.contains(&text.at),
                    _ => false,
                };
                if !is_lost {
                    continue;
                }
                let doing = format!("make the {} of {} again", text.kind, text.at);
                match apply::run(&mending, &mut making, &text.script, &doing).await {
                    Ok(()) => {}
                    Err(failure) if failure.exit() == ExitCode::SourceDown => return Err(failure),
                    Err(failure) => {
                        is_whole = false;
                        let (db, why) = (&dead.name, failure.one_line());
                        notes.push(format!("the text is in {db}.{KEPT}: {why}"));
                    }
                }
            }
            if is_whole {
                drop_if_empty(&mending, conn, &dead.name).await?;
                let what =
                    "an exchange died before it moved a table, and what it had taken away was made again";
                notes.push(format!("{}: {what}", dead.of));
            }
        }
        Ok((notes, grants))
    }

    /// Reads what stands there; `grants` are still to be given.
    async fn old(
        &self,
        conn: &mut Conn,
        held: &Held,
        remains: &[Remains],
        mut grants: Grants,
    ) -> Result<Old> {
        let server = &self.server;
        let mut databases = Vec::new();
        let policy = Wanted::new(&server.config)?;
        let (mut tables, mut listed) = (BTreeSet::new(), Vec::new());
        let mut views_in_the_way = BTreeSet::new();
        for db in databases_of(held) {
            let Some(found) = database(server, conn, &db).await? else { continue };
            for one in listed_in(server, conn, &db).await? {
                if !held.takes_the_place_of(&one.at, &policy) {
                    continue;
                }
                if one.kind != TableKind::View {
                    tables.insert(one.at.clone());
                } else if held.tables.contains(&one.at) {
                    views_in_the_way.insert(one.at.clone());
                }
                listed.push(one);
            }
            databases.push(found);
        }
        let ties = Ties::find(server, conn, &tables, remains).await?;
        let mut reading = server.open(Purpose::ReadNames).await?;
        let as_they_are = "SET SESSION character_set_results=binary";
        server.run(&mut reading, as_they_are, "prepare its session").await?;
        let programs = read_programs(server, &mut reading, &databases, &held.whole, &listed).await?;
        let flavor = server.version(conn).await?.0;
        let (mut unseen, mut standing) = (Vec::new(), BTreeSet::new());
        for Database { name, .. } in databases.iter().filter(|db| held.whole.contains(&db.name)) {
            match grants::on_routines(server, conn, flavor, name).await? {
                Some(found) => {
                    standing.extend(found.iter().cloned());
                    grants.entry(name.clone()).or_default().extend(found);
                }
                None => unseen.push(name.clone()),
            }
        }
        let dead = remains.iter().filter(|remains| remains.is_dead()).cloned().collect();
        let others = Others::find(server, conn, None, &held.written()).await?;
        if let Some(db) = databases_of(held).pop_first() {
            grants.entry(db).or_default().extend(others.grants.iter().cloned());
        }
        let mut old = Old {
            flavor,
            tables,
            views_in_the_way,
            databases,
            programs,
            ties,
            grants,
            standing,
            unseen,
            dead,
            others,
        };
        self.take_over(conn, &mut old).await?;
        Ok(old)
    }

    /// Takes over what exchanges that died after they moved the tables had not made again.
    async fn take_over(&self, conn: &mut Conn, old: &mut Old) -> Result<()> {
        for dead in &old.dead {
            for text in dead.texts(&self.server, conn).await? {
                // Where the routine is not there, nothing is given.
                old.grants.entry(dead.of.clone()).or_default().extend(text.grants());
                let Some(definition) = text.foreign_key() else { continue };
                let (child, name) = (text.at, text.what);
                let is_known = old.ties.children.iter().any(|tie| tie.child == child && tie.name == name);
                if !is_known && !old.tables.contains(&child) && is_there(&self.server, conn, &child).await? {
                    old.ties.children.push(Tie { child, name, definition });
                }
            }
        }
        Ok(())
    }

    /// Writes down what an error or a death would have to bring back.
    async fn keep(&self, conn: &mut Conn, held: &Held, old: &Old) -> Result<()> {
        for db in databases_of(held) {
            let programs = old.programs.iter().filter(|(meta, _)| meta.text("db") == Some(db.as_str()));
            let programs = programs.map(|(meta, script)| Text {
                kind: meta.text("kind").unwrap_or_default().to_owned(),
                at: Place { db: db.clone(), table: meta.text("table").unwrap_or_default().to_owned() },
                what: meta.path.to_string(),
                script: script.clone(),
            });
            let ties = old.ties.children.iter().chain(&old.ties.outward);
            let keys = ties.map(|tie| Text::of_foreign_key(&tie.child, &tie.name, &tie.definition));
            let grants = old.grants.get(&db).into_iter().flatten();
            let grants = grants.map(|grant| Text::of_grant(&db, grant, !old.standing.contains(grant)));
            let texts: Vec<Text> = programs.chain(keys).chain(grants).collect();
            kept::write(&self.server, conn, &format!("{db}{}", self.was), &texts).await?;
        }
        Ok(())
    }

    /// Proves that the programs that go could be made again, and that those that come can be made.
    async fn prove_programs(&self, held: &Held, old: &Old) -> Result<()> {
        let mut programs = Programs::by(Author::TheirOwn);
        for (meta, script) in held.programs.iter().chain(&old.programs) {
            programs.note(meta.text("kind").unwrap_or_default(), script);
        }
        let Some(was) = self.was_databases(held).into_iter().next() else { return Ok(()) };
        programs.prove(&self.server, &Place { db: was, table: KEPT.to_owned() }).await
    }

    async fn exchange(
        &self,
        conn: &mut Conn,
        held: &Held,
        old: &Old,
        step: &mut Step,
    ) -> Result<Vec<String>> {
        let server = &self.server;
        self.keep(conn, held, old).await?;
        self.prove_programs(held, old).await?;
        let were_there = old.names();
        for db in databases_of(held).iter().filter(|db| !were_there.contains(db)) {
            let sql = format!("CREATE DATABASE IF NOT EXISTS {}", ident(db));
            server.run(conn, sql, &format!("make database `{db}`")).await?;
        }
        self.step("the old programs are kept as text; taking the old triggers away".to_owned());
        *step = Step::Triggers;
        drop_triggers(server, conn, &old.tables).await?;
        drop_views(server, conn, old.views_in_the_way.iter()).await?;
        self.step("moving the tables".to_owned());
        *step = Step::Moved;
        let away = old.tables.iter().map(|at| (at.clone(), self.was_place(at)));
        let moves: Vec<(Place, Place)> =
            away.chain(held.tables.iter().map(|at| (self.beside_place(at), at.clone()))).collect();
        old.others.end(server, conn).await?;
        rename_tables(server, conn, &moves).await?;
        self.step("the tables are moved".to_owned());
        for was in self.was_databases(held) {
            kept::mark(server, conn, &was, Mark::After).await?;
        }
        self.tie_anew(conn, held, old).await?;
        self.step("taking the old programs away".to_owned());
        *step = Step::Programs;
        drop_programs(server, conn, &held.whole).await?;
        self.step("making the programs".to_owned());
        make(server, &held.programs).await?;
        self.step("giving grants on routines again".to_owned());
        grants::give(server, old.flavor, &all_of(&old.grants)).await
    }

    /// Gives what was exchanged its defaults and its foreign keys.
    async fn tie_anew(&self, conn: &mut Conn, held: &Held, old: &Old) -> Result<()> {
        let server = &self.server;
        for (db, (charset, collation)) in held.databases.iter().filter(|(db, _)| held.whole.contains(*db)) {
            set_defaults(server, conn, db, charset, collation).await?;
        }
        self.tie(conn, &old.ties.children).await?;
        // What is put aside holds nothing up.
        for Tie { child, name, .. } in &old.ties.outward {
            untie(server, conn, &self.was_place(child), name).await?;
        }
        for (child, name) in &old.ties.stray {
            untie(server, conn, child, name).await?;
        }
        for (at, definition) in &held.outward {
            let doing = format!("add a foreign key of `{at}`");
            patiently(server, conn, &apply::alter(at, std::slice::from_ref(definition)), &doing).await?;
        }
        Ok(())
    }

    /// Ties tables that stay to the tables that stand in their parents' places now.
    async fn tie(&self, conn: &mut Conn, ties: &[Tie]) -> Result<()> {
        let server = &self.server;
        for Tie { child, name, definition } in ties {
            let doing = format!("make foreign key `{name}` of `{child}` anew");
            untie(server, conn, child, name).await?;
            self.step(format!("foreign key {name} of {child} is made anew"));
            patiently(server, conn, &apply::alter(child, std::slice::from_ref(definition)), &doing).await?;
        }
        Ok(())
    }

    /// Brings back what was there, and returns the failure to tell.
    async fn put_back(&self, id: u32, held: &Held, old: &Old, step: Step, failure: Failure) -> Failure {
        match self.try_put_back(id, held, old, step).await {
            Ok(notes) => {
                let failure = failure.hint(format!(
                    "Everything is as it was before. What was restored is beside it, in databases *{}.",
                    self.beside
                ));
                notes.into_iter().fold(failure, Failure::hint)
            }
            Err(second) => failure.hint(format!(
                "It could not be put back whole: {}. No table is lost: the old ones are in databases *{was} or in their \
                 place, and the texts of their programs in *{was}.{KEPT}.",
                second.one_line(),
                was = self.was
            )),
        }
    }

    async fn try_put_back(&self, id: u32, held: &Held, old: &Old, step: Step) -> Result<Vec<String>> {
        let server = &self.server;
        let mut conn = server.open(Purpose::WriteNames).await?;
        end_session(server, &mut conn, id).await?;
        // Its locks went with the session. Who has them meanwhile mends what a dead exchange left.
        ledger::lock(server, &mut conn, None, &databases_of(held)).await?;
        if step >= Step::Programs {
            drop_programs(server, &mut conn, &held.whole).await?;
            // One may have the name of a table that comes back.
            let made = held.programs.iter().filter(|(meta, _)| meta.text("kind") == Some("view"));
            let made: Vec<Place> = made.map(|(meta, _)| place(meta)).collect::<Result<_>>()?;
            drop_views(server, &mut conn, made.iter()).await?;
        }
        if step >= Step::Moved && self.move_back(&mut conn, held, old).await? {
            for Database { name, charset, collation } in &old.databases {
                set_defaults(server, &mut conn, name, charset, collation).await?;
            }
            self.tie(&mut conn, &old.ties.children).await?;
            self.tie(&mut conn, &old.ties.outward).await?;
        }
        if step >= Step::Triggers {
            drop_triggers(server, &mut conn, &old.tables).await?;
            let is_gone = |meta: &EntryMeta| {
                step >= Step::Programs
                    || meta.text("kind") == Some("triggers")
                    || place(meta).is_ok_and(|at| old.views_in_the_way.contains(&at))
            };
            let gone: Vec<_> = old.programs.iter().filter(|(meta, _)| is_gone(meta)).cloned().collect();
            make(server, &gone).await?;
        }
        let notes = match step {
            Step::Programs => grants::give(server, old.flavor, &all_of(&old.grants)).await?,
            _ => Vec::new(),
        };
        old.others.bring_back(server, &mut conn).await?;
        self.leave_nothing(&mut conn, held, old).await?;
        Ok(notes)
    }

    /// Drops the databases that were made for nothing.
    async fn leave_nothing(&self, conn: &mut Conn, held: &Held, old: &Old) -> Result<()> {
        for was in self.was_databases(held) {
            drop_if_empty(&self.server, conn, &was).await?;
        }
        let were_there = old.names();
        for db in databases_of(held).iter().filter(|db| !were_there.contains(db)) {
            if apply::obstacles(&self.server, conn, &[database_item(db)]).await?.is_empty() {
                drop_if_empty(&self.server, conn, db).await?;
            }
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

    /// Marks that all is done, here and by those that died, and drops the databases that the tables came from. The
    /// exchange is good also where this fails.
    async fn end(&self, conn: &mut Conn, held: &Held, old: &Old) -> Vec<String> {
        let mut notes = Vec::new();
        let was = self.was_databases(held).into_iter().chain(old.dead.iter().map(|dead| dead.name.clone()));
        for was in was {
            if let Err(failure) = kept::mark(&self.server, conn, &was, Mark::Ended).await {
                notes.push(format!("the exchange is good, but: {}", failure.one_line()));
            }
        }
        if let Err(failure) = old.others.forget(&self.server, conn).await {
            notes.push(format!("the exchange is good, but: {}", failure.one_line()));
        }
        for db in databases_of(held).iter().map(|db| format!("{db}{}", self.beside)) {
            if let Err(failure) = drop_if_empty(&self.server, conn, &db).await {
                notes.push(format!(
                    "the exchange is good; drop database {db} by hand: {}",
                    failure.one_line()
                ));
            }
        }
        notes
    }
}

fn all_of(grants: &Grants) -> BTreeSet<String> {
    grants.values().flatten().cloned().collect()
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

/// Sets what new tables of a database begin with. Whoever uses one of its tables holds this up.
async fn set_defaults(
    server: &Server,
    conn: &mut Conn,
    db: &str,
    charset: &str,
    collation: &str,
) -> Result<()> {
    let sql = format!("ALTER DATABASE {} CHARACTER SET {charset} COLLATE {collation}", ident(db));
    patiently(server, conn, &sql, &format!("set the defaults of database `{db}`")).await
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

async fn drop_views(server: &Server, conn: &mut Conn, views: impl Iterator<Item = &Place>) -> Result<()> {
    for at in views {
        let sql = format!("DROP VIEW IF EXISTS {}", at.sql());
        patiently(server, conn, &sql, &format!("drop view `{at}`")).await?;
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
