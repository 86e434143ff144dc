//! What a restore does to a server besides loading rows: makes room, runs scripts, finishes tables.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    ops::Range,
};

use futures_util::{TryStreamExt, stream};
use mysql_async::{Conn, prelude::Queryable};

use super::{
    conn::{Server, code, number, text},
    ddl::{Parts, quoted_len},
    layout::{Layout, Place, SYSTEM, Wanted, parse_item},
    programs::create_table,
    sessions::Sessions,
    sql::{Script, full, ident, literal},
    trial,
};
use crate::error::{ExitCode, Failure, Result};

/// A table of another engine is not the one of the snapshot: none is better.
pub(super) const NO_SUBSTITUTE: &str =
    "SET SESSION sql_mode=CONCAT(@@SESSION.sql_mode,',NO_ENGINE_SUBSTITUTION')";
/// Times that a statement is run that meets a knot of locks each time.
const KNOTS_MAX: usize = 5;
/// What to do when a database cannot be dropped because its folder is not empty.
const FILES_LEFT: &str = "Look into the database's folder in the server's datadir: a DROP DATABASE that was interrupted \
                          leaves files there. For a file NAME.TRN say DROP TRIGGER IF EXISTS NAME in that database; then \
                          run this again.";

/// Something on the target that a restore would overwrite.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Obstacle {
    /// A database, and what it holds.
    Database(Held),
    /// A table, view or sequence; the word is the one that `DROP` wants.
    Table { at: Place, word: &'static str },
}

/// What a database holds that comes anew.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Held {
    name: String,
    /// Tables, views and sequences.
    tables: Vec<(Place, &'static str)>,
    /// Routines and events, with the words that `DROP` wants.
    programs: Vec<(Place, String)>,
    /// What the policy leaves out of every backup: nothing would come in its place, so it stays.
    kept: Vec<Place>,
    /// Whether the server takes names of tables that differ by case for one.
    ignores_case: bool,
}

impl Obstacle {
    /// Tells it to a person.
    pub fn line(&self) -> String {
        let count = |n: usize, one: &str| format!("{n} {one}{}", if n == 1 { "" } else { "s" });
        match self {
            Self::Database(Held { name, tables, programs, kept, .. }) => {
                let mut line = format!("database {name}: {}", count(tables.len(), "table"));
                if !programs.is_empty() {
                    _ = write!(line, ", {}", count(programs.len(), "program"));
                }
                if !kept.is_empty() {
                    let names: Vec<String> = kept.iter().map(ToString::to_string).collect();
                    _ = write!(line, "; it keeps what no backup has: {}", names.join(", "));
                }
                line
            }
            Self::Table { at, word } => format!("{} {at}", word.to_lowercase()),
        }
    }

    /// Returns the database whose programs go one by one, because it keeps something.
    pub fn emptied(&self) -> Option<&str> {
        match self {
            Self::Database(held) if !held.kept.is_empty() => Some(&held.name),
            _ => None,
        }
    }

    /// Returns the statements that remove it. A database that keeps something is emptied of the rest.
    fn drop_statements(&self) -> Vec<String> {
        match self {
            Self::Database(held) if held.kept.is_empty() => {
                vec![format!("DROP DATABASE {}", ident(&held.name))]
            }
            Self::Database(Held { tables, programs, .. }) => {
                let tables = tables.iter().map(|(at, word)| format!("DROP {word} IF EXISTS {}", at.sql()));
                let programs =
                    programs.iter().map(|(at, word)| format!("DROP {word} IF EXISTS {}", at.sql()));
                tables.chain(programs).collect()
            }
            Self::Table { at, word } => vec![format!("DROP {word} {}", at.sql())],
        }
    }
}

/// Finds what restoring these items would overwrite.
pub(super) async fn obstacles(server: &Server, conn: &mut Conn, items: &[String]) -> Result<Vec<Obstacle>> {
    let policy = Wanted::new(&server.config)?;
    let mut found = Vec::new();
    // Each database with what of it comes, and whether it comes as a whole.
    let mut wanted: BTreeMap<String, (bool, BTreeSet<String>)> = BTreeMap::new();
    for (db, table) in items.iter().filter_map(|item| parse_item(item)) {
        refuse_system(server, &db)?;
        let (whole, tables) = wanted.entry(db).or_default();
        match table {
            None => *whole = true,
            Some(table) => _ = tables.insert(table),
        }
    }
    for (db, (whole, tables)) in wanted {
        let held = held(server, conn, &db).await?;
        // Where case does not count, a table is in the way however it is written.
        let coming: BTreeSet<String> = tables.iter().map(|name| held.spelled(name)).collect();
        let comes = |at: &Place| coming.contains(&held.spelled(&at.table));
        if !whole {
            let in_the_way = held.tables.iter().filter(|(at, _)| comes(at)).cloned();
            found.extend(in_the_way.map(|(at, word)| Obstacle::Table { at, word }));
            continue;
        }
        let stays = |at: &Place| policy.leaves(at) && !comes(at);
        let (kept, goes): (Vec<_>, Vec<_>) = held.tables.iter().cloned().partition(|(at, _)| stays(at));
        if !(goes.is_empty() && held.programs.is_empty()) {
            let kept = kept.into_iter().map(|(at, _)| at).collect();
            found.push(Obstacle::Database(Held { tables: goes, kept, ..held }));
        }
    }
    Ok(found)
}

/// Refuses to write what belongs to the server itself.
pub(super) fn refuse_system(server: &Server, db: &str) -> Result<()> {
    if SYSTEM.iter().any(|own| own.eq_ignore_ascii_case(db)) {
        let what = format!("`{}`: database `{db}` belongs to the server and is never written", server.name);
        return Err(Failure::new(ExitCode::Usage, what));
    }
    Ok(())
}

/// Lists what a database holds.
async fn held(server: &Server, conn: &mut Conn, db: &str) -> Result<Held> {
    let name = literal(db);
    let doing = format!("look into database `{db}`");
    let sql = format!(
        "SELECT table_name, table_type, @@lower_case_table_names FROM information_schema.tables WHERE \
         table_schema = {name} ORDER BY table_name"
    );
    let mut held = Held { name: db.to_owned(), ..Held::default() };
    for row in server.rows(conn, &sql, &doing).await? {
        let at = Place { db: db.to_owned(), table: text(&row, 0).unwrap_or_default() };
        let word = match text(&row, 1).unwrap_or_default().as_str() {
            "VIEW" => "VIEW",
            "SEQUENCE" => "SEQUENCE",
            _ => "TABLE",
        };
        held.ignores_case = text(&row, 2).is_some_and(|setting| setting != "0");
        held.tables.push((at, word));
    }
    // The body of a package goes before the package, which takes it along.
    let sql = format!(
        "(SELECT routine_type, routine_name FROM information_schema.routines WHERE routine_schema = {name} \
         ORDER BY routine_type <> 'PACKAGE BODY' LIMIT 1000000) UNION ALL \
         SELECT 'EVENT', event_name FROM information_schema.events WHERE event_schema = {name}"
    );
    for row in server.rows(conn, &sql, &doing).await? {
        let at = Place { db: db.to_owned(), table: text(&row, 1).unwrap_or_default() };
        held.programs.push((at, text(&row, 0).unwrap_or_default()));
    }
    Ok(held)
}

impl Held {
    /// Returns how the server compares a table's name.
    fn spelled(&self, name: &str) -> String {
        if self.ignores_case { name.to_lowercase() } else { name.to_owned() }
    }
}

/// Removes what is in the way.
pub(super) async fn remove(server: &Server, conn: &mut Conn, obstacles: &[Obstacle]) -> Result<()> {
    for obstacle in obstacles {
        let doing = format!("remove {}", obstacle.line());
        if let Obstacle::Database(held) = obstacle
            && held.kept.is_empty()
        {
            remove_triggers(server, conn, &held.name, &doing).await?;
        }
        for statement in obstacle.drop_statements() {
            query(conn, statement.as_bytes()).await.map_err(|error| {
                let is_left = number(&error) == Some(code::FILES_LEFT);
                let failure = server.failure(&doing, error);
                if is_left { failure.hint(FILES_LEFT) } else { failure }
            })?;
        }
    }
    Ok(())
}

/// Removes the triggers of a database that will be dropped. `MariaDB` does not look at their files again when it was
/// interrupted in the middle, and never drops that database any more.
async fn remove_triggers(server: &Server, conn: &mut Conn, db: &str, doing: &str) -> Result<()> {
    let sql = format!(
        "SELECT trigger_name FROM information_schema.triggers WHERE trigger_schema = {}",
        literal(db)
    );
    for row in server.rows(conn, &sql, doing).await? {
        let trigger = full(db, &text(&row, 0).unwrap_or_default());
        let drop = format!("DROP TRIGGER IF EXISTS {trigger}");
        query(conn, drop.as_bytes()).await.map_err(|error| server.failure(doing, error))?;
    }
    Ok(())
}

/// Runs a statement that defines something, and again where the server refuses it for what passes or what the source
/// did not mind: whatever makes or alters a table of the snapshot goes this way.
pub(super) async fn query(conn: &mut Conn, statement: &[u8]) -> mysql_async::Result<()> {
    match unknotted(conn, statement).await {
        Err(error) if number(&error) == Some(code::TOO_LONG_ROW) => {
            query_loosely(conn, statement, error).await
        }
        done => done,
    }
}

/// Runs a statement, and again when the server refused it to break a knot of locks: nothing of it was done then.
async fn unknotted(conn: &mut Conn, statement: &[u8]) -> mysql_async::Result<()> {
    for _ in 1..KNOTS_MAX {
        match conn.query_drop(statement).await {
            Err(error) if number(&error) == Some(code::DEADLOCK) => {}
            done => return done,
        }
    }
    conn.query_drop(statement).await
}

/// Runs a statement again that makes or rebuilds a table whose rows may be longer than a page takes. Where
/// `innodb_strict_mode` was off, or not there yet, the source made it all the same. For all others the mode stays on:
/// what it refuses else, an option that counts for nothing, would be lost in silence.
async fn query_loosely(
    conn: &mut Conn,
    statement: &[u8],
    refused: mysql_async::Error,
) -> mysql_async::Result<()> {
    match conn.query_drop("SET SESSION innodb_strict_mode=OFF").await {
        Ok(()) => {}
        // Some servers want a privilege for it.
        Err(mysql_async::Error::Server(_)) => return Err(refused),
        Err(error) => return Err(error),
    }
    let made = unknotted(conn, statement).await;
    conn.query_drop("SET SESSION innodb_strict_mode=@@GLOBAL.innodb_strict_mode").await?;
    made
}

/// Runs a statement that makes or alters a table; `doing` completes "failed to".
pub(super) async fn change(
    server: &Server,
    conn: &mut Conn,
    statement: impl AsRef<[u8]>,
    doing: &str,
) -> Result<()> {
    server.check_fits(statement.as_ref().len(), doing)?;
    query(conn, statement.as_ref()).await.map_err(|error| refused(server, doing, error))
}

/// Runs all statements of a script.
pub(super) async fn run(server: &Server, conn: &mut Conn, script: &Script, doing: &str) -> Result<()> {
    for statement in &script.statements {
        server.check_fits(statement.len(), doing)?;
        let done = match query(conn, statement).await {
            Err(error) if server.resumes && number(&error).is_some_and(is_there) => Ok(()),
            done => done,
        };
        done.map_err(|error| refused(server, doing, error))?;
    }
    Ok(())
}

/// One program of a script.
pub(super) struct Program {
    /// The session that it was made in, and itself.
    pub script: Script,
    /// Puts back what it needed of its database for a while.
    pub back: Script,
    /// What it is, as a person would say; `None` of a view, which has an entry of its own.
    pub name: Option<String>,
}

/// Divides a script into its programs: each begins with a plain session and the choice of its database.
pub(super) fn programs(script: &Script) -> Vec<Program> {
    let chooses = |statement: &Vec<u8>| statement.starts_with(b"USE ");
    let chosen = script.statements.iter().enumerate().filter(|(_, statement)| chooses(statement));
    let mut begins: Vec<usize> = chosen.skip(1).map(|(at, _)| at.saturating_sub(1)).collect();
    begins.push(script.statements.len());
    let mut from = 0;
    let each = begins.into_iter().map(|to| {
        let statements = &script.statements[std::mem::replace(&mut from, to)..to];
        let made = statements.iter().position(|statement| created(statement).is_some());
        let (make, back) = statements.split_at(made.map_or(statements.len(), |at| at + 1));
        let name = make.last().and_then(|last| {
            let (kind, name) = created(last)?;
            Some(format!("{} {}", kind.to_lowercase(), String::from_utf8_lossy(&last[name])))
        });
        let [script, back] = [make, back].map(|part| Script { statements: part.to_vec() });
        Program { script, back, name }
    });
    each.collect()
}

/// Runs all statements of a script of programs. One that is there already makes room for its like; returns those that
/// did.
pub(super) async fn run_over(
    server: &Server,
    conn: &mut Conn,
    script: &Script,
    doing: &str,
) -> Result<Vec<String>> {
    let mut replaced = Vec::new();
    for statement in &script.statements {
        server.check_fits(statement.len(), doing)?;
        let made = conn.query_drop(statement.as_slice()).await;
        let stands = made.as_ref().err().and_then(number).is_some_and(is_there);
        let Some((kind, name)) = created(statement).filter(|_| stands) else {
            made.map_err(|error| refused(server, doing, error))?;
            continue;
        };
        let name = &statement[name];
        let drop = [b"DROP ", kind.as_bytes(), b" ", name].concat();
        server.run(conn, drop, doing).await?;
        conn.query_drop(statement.as_slice()).await.map_err(|error| refused(server, doing, error))?;
        replaced.push(format!("{} {}", kind.to_lowercase(), String::from_utf8_lossy(name)));
    }
    Ok(replaced)
}

/// Says why a statement was not taken, and what this server lacks.
pub(super) fn refused(server: &Server, doing: &str, error: mysql_async::Error) -> Failure {
    let number = number(&error);
    let failure = server.failure(doing, error);
    match number.and_then(what_is_lacking) {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

/// Returns what kind of program a statement makes, and where its name stands in it, perhaps behind that of a database.
pub(super) fn created(statement: &[u8]) -> Option<(&'static str, Range<usize>)> {
    const KINDS: [&str; 5] = ["PROCEDURE", "FUNCTION", "EVENT", "TRIGGER", "PACKAGE"];
    let token = |from: usize| -> Option<(usize, usize)> {
        let from = from + statement[from..].iter().position(|byte| !byte.is_ascii_whitespace())?;
        let is_word =
            |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$') || *byte >= 0x80;
        let length = match statement[from] {
            b'`' | b'"' | b'\'' => quoted_len(&statement[from..]),
            byte if is_word(&byte) => statement[from..].iter().take_while(|byte| is_word(byte)).count(),
            _ => 1,
        };
        Some((from, from + length))
    };
    let (mut from, mut to) = token(0)?;
    if !statement[from..to].eq_ignore_ascii_case(b"CREATE") {
        return None;
    }
    let kind = loop {
        (from, to) = token(to)?;
        let word = &statement[from..to];
        let kind = KINDS.into_iter().find(|kind| word.eq_ignore_ascii_case(kind.as_bytes()));
        match kind {
            Some("PACKAGE") => {
                let (body, behind) = token(to)?;
                if !statement[body..behind].eq_ignore_ascii_case(b"BODY") {
                    break "PACKAGE";
                }
                to = behind;
                break "PACKAGE BODY";
            }
            Some(kind) => break kind,
            // What comes now is the text of something else.
            None if [&b"("[..], b"TABLE", b"VIEW"].iter().any(|one| word.eq_ignore_ascii_case(one)) => {
                return None;
            }
            None => {}
        }
    };
    let (begin, mut end) = token(to)?;
    while let Some((dot, behind)) = token(end).filter(|(dot, _)| statement[*dot] == b'.') {
        debug_assert_eq!(behind, dot + 1, "a dot is one byte");
        (_, end) = token(behind)?;
    }
    Some((kind, begin..end))
}

/// Returns whether this error says that a thing is there already.
pub(super) fn is_there(number: u16) -> bool {
    matches!(number, code::TABLE_EXISTS | code::ROUTINE_EXISTS | code::TRIGGER_EXISTS | code::EVENT_EXISTS)
}

/// Returns what to do about an error that says that this server is not made like the source.
fn what_is_lacking(number: u16) -> Option<&'static str> {
    Some(match number {
        code::UNKNOWN_COLLATION | code::UNKNOWN_CHARSET => {
            "The source is another product or version, whose collations this server does not know."
        }
        code::UNKNOWN_DIRECTORY => {
            "The table lies in a folder of its own: name that folder in innodb_directories of this server."
        }
        code::UNKNOWN_TABLESPACE => {
            "The table lies in a tablespace, which no snapshot holds: make it here first with CREATE TABLESPACE."
        }
        code::NO_MASTER_KEY => "The table is encrypted: this server needs a keyring before it can be made.",
        code::TOO_LONG_ROW => {
            "The source's innodb_strict_mode was off when it made the table: grant the account SESSION_VARIABLES_ADMIN, \
             or SET GLOBAL innodb_strict_mode=OFF as long as the restore runs."
        }
        code::NEEDS_SUPER => trial::NEEDS_SUPER,
        code::UNSAFE_FUNCTION => trial::NEEDS_TRUST,
        code::UNKNOWN_ENGINE | code::NO_SUCH_PARSER => {
            "This server lacks a plugin of the source: install it, or leave the table out with --only."
        }
        _ => return None,
    })
}

/// A table whose rows are all in.
pub(super) struct Filled {
    pub at: Place,
    pub layout: Layout,
    pub parts: Parts,
    pub rows: u64,
}

/// Builds the indexes and, if wanted, counts the rows of all tables, several at once; then ties them together.
pub(super) async fn finish_tables(
    server: &Server,
    conn: &mut Conn,
    tables: &[Filled],
    counts: bool,
) -> Result<()> {
    let threads = server.config.threads.clamp(1, 64);
    let sessions = Sessions::of(server);
    stream::iter(tables.iter().map(Ok))
        .try_for_each_concurrent(threads, |table| {
            sessions.lend(async move |conn| finish_table(server, conn, table, counts).await)
        })
        .await?;
    sessions.end().await;
    for table in tables.iter().filter(|table| !table.parts.foreign_keys.is_empty()) {
        let doing = format!("add the foreign keys of `{}`", table.at);
        let parts = missing(server, conn, table).await?;
        if !parts.foreign_keys.is_empty() {
            change(server, conn, alter(&table.at, &parts.foreign_keys), &doing).await?;
        }
    }
    Ok(())
}

async fn finish_table(server: &Server, conn: &mut Conn, table: &Filled, counts: bool) -> Result<()> {
    build_indexes(server, conn, table).await.map_err(|failure| {
        failure.hint(
            "All rows are in and stay there: when the reason is gone, `restore … --resume` builds the rest.",
        )
    })?;
    if counts {
        count(server, conn, table).await?;
    }
    Ok(())
}

async fn build_indexes(server: &Server, conn: &mut Conn, table: &Filled) -> Result<()> {
    let doing = format!("build the indexes of `{}`", table.at);
    let parts = missing(server, conn, table).await?;
    if !parts.indexes.is_empty() {
        change(server, conn, alter(&table.at, &parts.indexes), &doing).await?;
    }
    for index in &parts.single_indexes {
        change(server, conn, alter(&table.at, std::slice::from_ref(index)), &doing).await?;
    }
    Ok(())
}

/// Returns what a table still lacks of its indexes and foreign keys.
async fn missing<'t>(server: &Server, conn: &mut Conn, table: &'t Filled) -> Result<Cow<'t, Parts>> {
    let has_none = table.parts.indexes.is_empty() && table.parts.single_indexes.is_empty();
    if !server.resumes || has_none && table.parts.foreign_keys.is_empty() {
        return Ok(Cow::Borrowed(&table.parts));
    }
    // The session that was interrupted may still be at it: it has the table to itself.
    let doing = format!("look which indexes `{}` has", table.at);
    server.run(conn, format!("LOCK TABLES {} WRITE", table.at.sql()), &doing).await?;
    let there = create_table(server, conn, &table.at).await?;
    server.run(conn, "UNLOCK TABLES", &doing).await?;
    Ok(Cow::Owned(table.parts.missing_in(&String::from_utf8_lossy(&there))))
}

/// Fails when a table has not the rows that were loaded into it.
async fn count(server: &Server, conn: &mut Conn, table: &Filled) -> Result<()> {
    let history = if table.layout.history { " FOR SYSTEM_TIME ALL" } else { "" };
    let sql = format!("SELECT COUNT(*) FROM {}{history}", table.at.sql());
    let rows = server.rows(conn, &sql, &format!("count the rows of `{}`", table.at)).await?;
    let there: Option<u64> = rows.first().and_then(|row| text(row, 0)).and_then(|n| n.parse().ok());
    if there != Some(table.rows) {
        let there = there.map_or("an unknown number".to_owned(), |n| n.to_string());
        let what = format!(
            "`{}`: table `{}` has {there} of {} rows after the restore",
            server.name, table.at, table.rows
        );
        return Err(Failure::new(ExitCode::Failed, what)
            .hint("Did anything else write to this server? Keep others away from it and restore again."));
    }
    Ok(())
}

/// Returns the statement that adds definitions to a table.
pub(super) fn alter(at: &Place, definitions: &[String]) -> String {
    let list: Vec<String> = definitions.iter().map(|definition| format!("ADD {definition}")).collect();
    format!("ALTER TABLE {} {}", at.sql(), list.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn obstacles_read_well() {
        let at = |table: &str| Place { db: "im".into(), table: table.into() };
        let database = |tables, programs, kept: &[&str]| {
            Obstacle::Database(Held {
                name: "im".into(),
                tables: vec![(at("t"), "TABLE"); tables],
                programs: vec![(at("p"), "PROCEDURE".to_owned()); programs],
                kept: kept.iter().map(|table| at(table)).collect(),
                ignores_case: false,
            })
        };
        assert_eq!(database(12, 0, &[]).line(), "database im: 12 tables");
        assert_eq!(database(1, 2, &[]).line(), "database im: 1 table, 2 programs");
        assert_eq!(database(1, 2, &[]).drop_statements(), ["DROP DATABASE `im`"]);
        let partly = database(1, 1, &["log", "old"]);
        assert_eq!(
            partly.line(),
            "database im: 1 table, 1 program; it keeps what no backup has: im.log, im.old"
        );
        let drops = ["DROP TABLE IF EXISTS `im`.`t`", "DROP PROCEDURE IF EXISTS `im`.`p`"];
        assert_eq!(partly.drop_statements(), drops);
        let view = Obstacle::Table { at: at("v"), word: "VIEW" };
        assert_eq!(
            (view.line(), view.drop_statements()),
            ("view im.v".into(), vec!["DROP VIEW `im`.`v`".into()])
        );
    }

    #[test]
    fn the_name_of_a_program_stands_behind_its_kind() {
        for (statement, kind, name) in [
            ("CREATE DEFINER=`event`@`%` PROCEDURE `p (``x`(a INT) SELECT 1", "PROCEDURE", "`p (``x`"),
            ("CREATE DEFINER=\"o\"@\"%\" FUNCTION \"f\"() RETURNS INT RETURN 1", "FUNCTION", "\"f\""),
            ("create definer=root@localhost trigger im . `t 1` before insert on x", "TRIGGER", "im . `t 1`"),
            ("CREATE DEFINER=`r`@`%` EVENT é ON SCHEDULE EVERY 1 DAY DO SELECT 1", "EVENT", "é"),
            ("CREATE DEFINER=`r`@`%` PACKAGE BODY `k` AS END", "PACKAGE BODY", "`k`"),
            ("CREATE PACKAGE k AS END", "PACKAGE", "k"),
            ("CREATE AGGREGATE FUNCTION a.b.c RETURNS INT", "FUNCTION", "a.b.c"),
        ] {
            let found = created(statement.as_bytes()).map(|(kind, at)| (kind, &statement[at]));
            assert_eq!(found, Some((kind, name)), "{statement}");
        }
        for other in [
            "SET NAMES utf8",
            "CREATE TABLE t (trigger INT)",
            "CREATE VIEW `v` AS SELECT event FROM t",
            "CREATE",
            "CREATE EVENT",
            "",
        ] {
            assert_eq!(created(other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn definitions_are_added_in_one_statement() {
        let at = Place { db: "d".into(), table: "t".into() };
        let both = ["KEY `a` (`a`)".to_owned(), "UNIQUE KEY `b` (`b`)".to_owned()];
        assert_eq!(alter(&at, &both), "ALTER TABLE `d`.`t` ADD KEY `a` (`a`), ADD UNIQUE KEY `b` (`b`)");
    }
}
