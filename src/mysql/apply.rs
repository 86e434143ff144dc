//! What a restore does to a server besides loading rows: makes room, runs scripts, finishes tables.

use std::borrow::Cow;

use futures_util::{TryStreamExt, stream};
use mysql_async::{Conn, prelude::Queryable};

use super::{
    conn::{Purpose, Server, code, number, text},
    ddl::Parts,
    layout::{Layout, Place, SYSTEM, parse_item},
    programs::create_table,
    sql::{Script, full, ident, literal},
};
use crate::error::{ExitCode, Failure, Result};

/// What to do when a database cannot be dropped because its folder is not empty.
const FILES_LEFT: &str = "Look into the database's folder in the server's datadir: a DROP DATABASE that was interrupted \
                          leaves files there. For a file NAME.TRN say DROP TRIGGER IF EXISTS NAME in that database; then \
                          run this again.";

/// Something on the target that a restore would overwrite.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Obstacle {
    /// A database and how many tables, views and programs it holds.
    Database { name: String, tables: u64, programs: u64 },
    /// A table, view or sequence; the word is the one that `DROP` wants.
    Table { at: Place, word: &'static str },
}

impl Obstacle {
    /// Tells it to a person.
    pub fn line(&self) -> String {
        let count = |n: u64, one: &str| format!("{n} {one}{}", if n == 1 { "" } else { "s" });
        match self {
            Self::Database { name, tables, programs: 0 } => {
                format!("database {name}: {}", count(*tables, "table"))
            }
            Self::Database { name, tables, programs } => {
                format!("database {name}: {}, {}", count(*tables, "table"), count(*programs, "program"))
            }
            Self::Table { at, word } => format!("{} {at}", word.to_lowercase()),
        }
    }

    fn drop_statement(&self) -> String {
        match self {
            Self::Database { name, .. } => format!("DROP DATABASE {}", ident(name)),
            Self::Table { at, word } => format!("DROP {word} {}", at.sql()),
        }
    }
}

/// Finds what restoring these items would overwrite.
pub(super) async fn obstacles(server: &Server, conn: &mut Conn, items: &[String]) -> Result<Vec<Obstacle>> {
    let mut found = Vec::new();
    let parsed: Vec<(String, Option<String>)> = items.iter().filter_map(|item| parse_item(item)).collect();
    let whole: Vec<&String> = parsed.iter().filter(|(_, t)| t.is_none()).map(|(db, _)| db).collect();
    for (db, table) in &parsed {
        refuse_system(server, db)?;
        match table {
            None => found.extend(database(server, conn, db).await?),
            Some(table) if !whole.contains(&db) => {
                found.extend(table_of(server, conn, db, table).await?);
            }
            Some(_) => {}
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

async fn database(server: &Server, conn: &mut Conn, db: &str) -> Result<Option<Obstacle>> {
    let name = literal(db);
    let sql = format!(
        "SELECT (SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = {name}), \
         (SELECT COUNT(*) FROM information_schema.routines WHERE routine_schema = {name}) + \
         (SELECT COUNT(*) FROM information_schema.events WHERE event_schema = {name})"
    );
    let rows = server.rows(conn, &sql, &format!("look into database `{db}`")).await?;
    let get = |at| rows.first().and_then(|row| text(row, at)).and_then(|n| n.parse().ok()).unwrap_or(0);
    let (tables, programs) = (get(0), get(1));
    Ok((tables + programs > 0).then(|| Obstacle::Database { name: db.to_owned(), tables, programs }))
}

async fn table_of(server: &Server, conn: &mut Conn, db: &str, table: &str) -> Result<Option<Obstacle>> {
    let sql = format!(
        "SELECT table_type FROM information_schema.tables WHERE table_schema = {} AND table_name = {}",
        literal(db),
        literal(table)
    );
    let rows = server.rows(conn, &sql, &format!("look for table `{db}.{table}`")).await?;
    Ok(rows.first().and_then(|row| text(row, 0)).map(|kind| Obstacle::Table {
        at: Place { db: db.to_owned(), table: table.to_owned() },
        word: match kind.as_str() {
            "VIEW" => "VIEW",
            "SEQUENCE" => "SEQUENCE",
            _ => "TABLE",
        },
    }))
}

/// Removes what is in the way.
pub(super) async fn remove(server: &Server, conn: &mut Conn, obstacles: &[Obstacle]) -> Result<()> {
    for obstacle in obstacles {
        let doing = format!("remove {}", obstacle.line());
        if let Obstacle::Database { name, .. } = obstacle {
            remove_triggers(server, conn, name, &doing).await?;
        }
        let removed = conn.query_drop(obstacle.drop_statement()).await;
        removed.map_err(|error| {
            let is_left = number(&error) == Some(code::FILES_LEFT);
            let failure = server.failure(&doing, error);
            if is_left { failure.hint(FILES_LEFT) } else { failure }
        })?;
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
        server.run(conn, format!("DROP TRIGGER IF EXISTS {trigger}"), doing).await?;
    }
    Ok(())
}

/// Runs all statements of a script.
pub(super) async fn run(server: &Server, conn: &mut Conn, script: &Script, doing: &str) -> Result<()> {
    for statement in &script.statements {
        server.check_fits(statement.len(), doing)?;
        let done = match conn.query_drop(statement.as_slice()).await {
            Err(error) if server.resumes && number(&error).is_some_and(is_there) => Ok(()),
            done => done,
        };
        done.map_err(|error| {
            let number = number(&error);
            let failure = server.failure(doing, error);
            match number.and_then(what_is_lacking) {
                Some(hint) => failure.hint(hint),
                None => failure,
            }
        })?;
    }
    Ok(())
}

/// Returns whether this error says that a thing is there already.
fn is_there(number: u16) -> bool {
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
    stream::iter(tables.iter().map(Ok))
        .try_for_each_concurrent(threads, |table| finish_table(server, table, counts))
        .await?;
    for table in tables.iter().filter(|table| !table.parts.foreign_keys.is_empty()) {
        let doing = format!("add the foreign keys of `{}`", table.at);
        let parts = missing(server, conn, table).await?;
        if !parts.foreign_keys.is_empty() {
            server.run(conn, alter(&table.at, &parts.foreign_keys), &doing).await?;
        }
    }
    Ok(())
}

async fn finish_table(server: &Server, table: &Filled, counts: bool) -> Result<()> {
    let mut conn = server.open(Purpose::WriteNames).await?;
    build_indexes(server, &mut conn, table).await.map_err(|failure| {
        failure.hint(
            "All rows are in and stay there: when the reason is gone, `restore … --resume` builds the rest.",
        )
    })?;
    if counts {
        count(server, &mut conn, table).await?;
    }
    // Told politely; a server that does not hear it will find out.
    let _gone_anyway = conn.disconnect().await;
    Ok(())
}

async fn build_indexes(server: &Server, conn: &mut Conn, table: &Filled) -> Result<()> {
    let doing = format!("build the indexes of `{}`", table.at);
    let parts = missing(server, conn, table).await?;
    if !parts.indexes.is_empty() {
        server.run(conn, alter(&table.at, &parts.indexes), &doing).await?;
    }
    for index in &parts.single_indexes {
        server.run(conn, alter(&table.at, std::slice::from_ref(index)), &doing).await?;
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
        let database = |tables, programs| Obstacle::Database { name: "im".into(), tables, programs }.line();
        assert_eq!(database(12, 0), "database im: 12 tables");
        assert_eq!(database(1, 2), "database im: 1 table, 2 programs");
        let at = Place { db: "im".into(), table: "v".into() };
        let view = Obstacle::Table { at, word: "VIEW" };
        assert_eq!(
            (view.line().as_str(), view.drop_statement().as_str()),
            ("view im.v", "DROP VIEW `im`.`v`")
        );
    }

    #[test]
    fn definitions_are_added_in_one_statement() {
        let at = Place { db: "d".into(), table: "t".into() };
        let both = ["KEY `a` (`a`)".to_owned(), "UNIQUE KEY `b` (`b`)".to_owned()];
        assert_eq!(alter(&at, &both), "ALTER TABLE `d`.`t` ADD KEY `a` (`a`), ADD UNIQUE KEY `b` (`b`)");
    }
}
