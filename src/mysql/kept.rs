//! What an exchange takes away, kept as text on the server: table [`KEPT`] beside the old tables.
//!
//! *Order.* All of it is written before anything is taken away, with a mark that says how far the exchange is; the last
//! mark says that it has ended.
//!
//! *Crash.* What has no last mark is of an exchange that died: the next one of the same database brings back what it
//! took ([`Remains`]). A text that was written in part only was for nothing that is gone.

use std::collections::BTreeSet;

use mysql_async::Conn;

use super::{
    apply,
    conn::{Server, bytes, text},
    layout::Place,
    sql::{Script, ident, literal},
};
use crate::error::Result;

/// The table with the texts.
pub(super) const KEPT: &str = "lifeboat_kept";
/// What the name of a database with old tables has behind that of the live one, before the time.
pub const OLD_MARK: &str = "__was_";
/// The kind of a foreign key that is made anew.
const FOREIGN_KEY: &str = "foreign key";
/// The kind of a grant on a routine.
const GRANT: &str = "grant";
/// What a grant is that somebody else had taken and was to give again.
const OWED: &str = "owed";

/// How far an exchange is, in words that a person finds as the table's comment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    /// The tables are where they were.
    Before,
    /// They were moved, and something is still to be made.
    After,
    /// All is done.
    Ended,
}

impl Mark {
    const ALL: [Self; 3] = [Self::Before, Self::After, Self::Ended];

    fn words(self) -> &'static str {
        match self {
            Self::Before => "of an exchange that has not moved the tables yet",
            Self::After => "of an exchange that has moved the tables and not ended",
            Self::Ended => "of an exchange that has ended",
        }
    }
}

/// One text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Text {
    /// The kind of a program, or one of the kinds here.
    pub kind: String,
    /// The database and, if it is of one, the table.
    pub at: Place,
    /// What tells it from others: a path, the name of a foreign key.
    pub what: String,
    pub script: Script,
}

impl Text {
    /// Keeps a foreign key: it may still be there when this is played.
    pub fn of_foreign_key(child: &Place, name: &str, definition: &str) -> Self {
        let mut script = Script::default();
        script.push(format!("ALTER TABLE {} DROP FOREIGN KEY {}", child.sql(), ident(name)));
        script.push(apply::alter(child, &[definition.to_owned()]));
        Self { kind: FOREIGN_KEY.to_owned(), at: child.clone(), what: name.to_owned(), script }
    }

    /// Returns the definition of a foreign key.
    pub fn foreign_key(&self) -> Option<String> {
        let add = self.script.statements.last().filter(|_| self.kind == FOREIGN_KEY)?;
        let begin = apply::alter(&self.at, &[String::new()]);
        String::from_utf8_lossy(add).strip_prefix(&begin).map(str::to_owned)
    }

    /// Returns the grants that are kept so.
    pub fn grants(&self) -> impl Iterator<Item = String> {
        let all = self.script.statements.iter().filter(|_| self.kind == GRANT);
        all.map(|grant| String::from_utf8_lossy(grant).into_owned())
    }

    /// Returns those of them that were not there when they were kept.
    pub fn owed_grants(&self) -> impl Iterator<Item = String> {
        self.grants().filter(|_| self.what == OWED)
    }

    /// Keeps a grant on a routine, beside the tables of this database; `is_owed` when it is not there, as somebody else
    /// had taken it and was to give it again.
    pub fn of_grant(db: &str, grant: &str, is_owed: bool) -> Self {
        let mut script = Script::default();
        script.push(grant);
        let at = Place { db: db.to_owned(), table: String::new() };
        let what = if is_owed { OWED } else { "" };
        Self { kind: GRANT.to_owned(), at, what: what.to_owned(), script }
    }
}

/// A database with what an exchange moved away or kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Remains {
    /// Its name.
    pub name: String,
    /// The live database that it is of.
    pub of: String,
    /// How far the exchange came; `None` where a stranger or another version made the table.
    pub mark: Option<Mark>,
    /// Whether old tables are in it.
    pub has_tables: bool,
}

impl Remains {
    /// Returns whether the exchange died, as nobody else is at work on the database.
    pub fn is_dead(&self) -> bool {
        matches!(self.mark, Some(Mark::Before | Mark::After))
    }

    /// Returns whether the exchange had moved the tables.
    pub fn is_moved(&self) -> bool {
        self.has_tables || self.mark == Some(Mark::After)
    }

    /// Finds what exchanges of these databases left.
    pub async fn find(server: &Server, conn: &mut Conn, of: &BTreeSet<String>) -> Result<Vec<Self>> {
        let doing = "look for earlier exchanges";
        let sql = format!(
            "SELECT table_schema, table_comment FROM information_schema.tables WHERE table_name = '{KEPT}'"
        );
        let mut all = Vec::new();
        for row in server.rows(conn, &sql, doing).await? {
            let (name, comment) = (text(&row, 0).unwrap_or_default(), text(&row, 1).unwrap_or_default());
            let Some(live) = of_name(&name).filter(|live| of.contains(*live)).map(str::to_owned) else {
                continue;
            };
            let sql = format!(
                "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = {} AND table_name <> '{KEPT}'",
                literal(&name)
            );
            let others = server.rows(conn, &sql, doing).await?;
            let has_tables = others.first().and_then(|row| text(row, 0)).is_some_and(|n| n != "0");
            let mark = Mark::ALL.into_iter().find(|mark| mark.words() == comment);
            all.push(Self { name, of: live, mark, has_tables });
        }
        Ok(all)
    }

    /// Reads the texts.
    pub async fn texts(&self, server: &Server, conn: &mut Conn) -> Result<Vec<Text>> {
        let table = table_in(&self.name);
        let sql = format!("SELECT kind, of_database, of_table, what, script FROM {table} ORDER BY n");
        let rows = server.rows(conn, &sql, &format!("read {table}")).await?;
        let one = |row| {
            let get = |at| text(row, at).unwrap_or_default();
            let script = Script::parse(&bytes(row, 4).unwrap_or_default(), &table)?;
            Ok(Text { kind: get(0), at: Place { db: get(1), table: get(2) }, what: get(3), script })
        };
        rows.iter().map(one).collect()
    }
}

/// Returns the live database that one of old tables is of.
fn of_name(name: &str) -> Option<&str> {
    name.rfind(OLD_MARK).map(|at| &name[..at])
}

fn table_in(db: &str) -> String {
    Place { db: db.to_owned(), table: KEPT.to_owned() }.sql()
}

/// Makes a database with these texts.
pub(super) async fn write(server: &Server, conn: &mut Conn, db: &str, texts: &[Text]) -> Result<()> {
    let doing = format!("keep what is taken away in database `{db}`");
    server.run(conn, format!("CREATE DATABASE {}", ident(db)), &doing).await?;
    let table = table_in(db);
    let create = format!(
        "CREATE TABLE {table} (n INT PRIMARY KEY, kind VARCHAR(20), of_database VARCHAR(64), of_table VARCHAR(64), \
         what VARCHAR(600), script LONGBLOB) CHARACTER SET utf8mb4 COMMENT={}",
        literal(Mark::Before.words())
    );
    server.run(conn, create, &doing).await?;
    for (n, Text { kind, at, what, script }) in texts.iter().enumerate() {
        let words = [kind, &at.db, &at.table, what].map(|word| literal(word)).join(", ");
        let row = format!("INSERT INTO {table} VALUES ({n}, {words}, x'{}')", hex::encode(script.to_bytes()));
        server.run(conn, row, &doing).await?;
    }
    Ok(())
}

/// Says how far the exchange is.
pub(super) async fn mark(server: &Server, conn: &mut Conn, db: &str, mark: Mark) -> Result<()> {
    let sql = format!("ALTER TABLE {} COMMENT={}", table_in(db), literal(mark.words()));
    server.run(conn, sql, &format!("mark how far the exchange is in database `{db}`")).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_foreign_key_is_kept_as_a_script_that_takes_the_place_of_the_one_that_is_there() {
        let child = Place { db: "im".into(), table: "f`s".into() };
        let definition = "CONSTRAINT `up` FOREIGN KEY (`a`) REFERENCES `im`.`users` (`id`)";
        let text = Text::of_foreign_key(&child, "up", definition);
        let played = String::from_utf8(text.script.to_bytes()).unwrap();
        assert_eq!(
            played,
            "DELIMITER ;;\nALTER TABLE `im`.`f``s` DROP FOREIGN KEY `up`\n;;\nALTER TABLE `im`.`f``s` ADD CONSTRAINT \
             `up` FOREIGN KEY (`a`) REFERENCES `im`.`users` (`id`)\n;;\nDELIMITER ;\n"
        );
        assert_eq!(text.foreign_key().as_deref(), Some(definition));
        let grant = Text::of_grant("im", "GRANT …", false);
        assert_eq!(grant.owed_grants().count(), 0);
        assert_eq!(Text::of_grant("im", "GRANT …", true).owed_grants().count(), 1);
        assert_eq!((grant.foreign_key(), grant.grants().collect()), (None, vec!["GRANT …".to_owned()]));
        assert_eq!(text.grants().count(), 0);
    }

    #[test]
    fn old_tables_are_of_the_database_before_the_last_mark() {
        assert_eq!(of_name("im__was_20261101t000000z"), Some("im"));
        assert_eq!(of_name("im__was_1__was_2"), Some("im__was_1"));
        assert_eq!(of_name("im"), None);
    }

    #[test]
    fn an_exchange_without_its_last_mark_died() {
        let remains =
            |mark, has_tables| Remains { name: "im__was_1".into(), of: "im".into(), mark, has_tables };
        assert!(remains(Some(Mark::Before), false).is_dead() && remains(Some(Mark::After), true).is_dead());
        assert!(!remains(Some(Mark::Ended), true).is_dead() && !remains(None, true).is_dead());
        // It died between the act and its mark.
        assert!(remains(Some(Mark::Before), true).is_moved());
        assert!(
            remains(Some(Mark::After), false).is_moved() && !remains(Some(Mark::Before), false).is_moved()
        );
    }
}
