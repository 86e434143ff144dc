//! Proves that programs and tables can be made before others go for them: [`Programs`], [`Tables`].
//!
//! A server with a binlog takes functions and triggers from an account with SUPER only, and from nobody a function that
//! does not say what it reads, unless `log_bin_trust_function_creators` is on (errors 1419 and 1418). Who drops a
//! function first may neither make the new one then nor the old one again. So each is made on trial, by another name
//! and in a database of lifeboat's own, where it does nothing, and dropped again.
//!
//! What a table needs of a server, a tablespace, a folder, a key to encrypt it with, a plugin, a row that is not too
//! long, the server itself knows best. So each is made empty in the same place.
//!
//! *Order.* A trigger, then function by function, then table by table, each in the session that its script makes.
//!
//! *Crash.* One program and one table on trial stay at most, in a database that goes with the restore or the exchange;
//! the next trial there begins by dropping them.

use std::collections::{BTreeMap, BTreeSet};

use mysql_async::Conn;

use super::{
    apply::{self, created},
    conn::{Purpose, Server, code, is_denied, is_full, number_of},
    ddl,
    layout::Place,
    preflight::definer,
    sql::{Script, full, ident},
};
use crate::error::{Failure, Result};

/// What a program is called on trial.
const NAME: &str = "lifeboat_trial";

/// What to do about a server that takes no programs from us.
pub(super) const NEEDS_SUPER: &str = "The server has a binlog, and takes functions and triggers from an account with SUPER only, also with \
     --binlog off: SET GLOBAL log_bin_trust_function_creators=1; there, or GRANT SUPER ON *.* to the account.";
/// What to do about a server that does not take such a function from anybody.
pub(super) const NEEDS_TRUST: &str = "The server has a binlog, and takes no function that says neither DETERMINISTIC nor NO SQL nor READS SQL DATA: \
     SET GLOBAL log_bin_trust_function_creators=1; there.";

/// Whose programs they are on trial.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Author {
    /// The account's: those that they will run as may be restored later.
    #[default]
    Ourselves,
    /// That which they will run as.
    TheirOwn,
}

/// Programs that will be made.
#[derive(Clone, Debug, Default)]
pub(super) struct Programs {
    author: Author,
    /// Scripts of routines.
    routines: Vec<Script>,
    /// The accounts that triggers run as, as ` DEFINER=…` or nothing.
    triggers: BTreeSet<String>,
}

impl Programs {
    /// Begins with none.
    pub fn by(author: Author) -> Self {
        Self { author, ..Self::default() }
    }

    /// Adds those of an entry's script.
    pub fn note(&mut self, kind: &str, script: &Script) {
        match kind {
            "routines" => self.routines.push(script.clone()),
            "triggers" => {
                let statements = script.statements.iter();
                let triggers = statements.filter(|one| matches!(created(one), Some(("TRIGGER", _))));
                self.triggers.extend(triggers.map(|one| {
                    match self.author {
                        Author::Ourselves => String::new(),
                        Author::TheirOwn => definer(&String::from_utf8_lossy(one))
                            .map(|account| format!(" DEFINER={account}"))
                            .unwrap_or_default(),
                    }
                }));
            }
            _ => {}
        }
    }

    /// Returns whether there is one that a server may refuse.
    pub fn have_some(&self) -> bool {
        !(self.routines.is_empty() && self.triggers.is_empty())
    }

    /// Makes each on trial in the database of `table`, a table of lifeboat's own, and fails where the server takes none
    /// such from us.
    pub async fn prove(&self, server: &Server, table: &Place) -> Result<()> {
        if !self.have_some() {
            return Ok(());
        }
        // The scripts change their session in every way.
        let mut conn = server.open(Purpose::WriteNames).await?;
        let doing = "make programs on trial";
        server.run(&mut conn, format!("USE {}", ident(&table.db)), doing).await?;
        for definer in &self.triggers {
            let (name, on) = (full(&table.db, NAME), table.sql());
            let create =
                format!("CREATE{definer} TRIGGER {name} BEFORE INSERT ON {on} FOR EACH ROW SET @lifeboat=1");
            try_one(server, &mut conn, ("TRIGGER", &name), create.into_bytes(), "make a trigger on trial")
                .await?;
        }
        for script in &self.routines {
            self.prove_routines(server, &mut conn, table, script).await?;
        }
        // Told politely; a server that does not hear it will find out.
        let _gone_anyway = conn.disconnect().await;
        Ok(())
    }

    async fn prove_routines(
        &self,
        server: &Server,
        conn: &mut Conn,
        table: &Place,
        script: &Script,
    ) -> Result<()> {
        let name = full(&table.db, NAME);
        for statement in &script.statements {
            match created(statement) {
                Some((kind @ ("FUNCTION" | "PROCEDURE"), at)) => {
                    let what = String::from_utf8_lossy(&statement[at.clone()]).into_owned();
                    let mut create = [&statement[..at.start], name.as_bytes(), &statement[at.end..]].concat();
                    if self.author == Author::Ourselves {
                        create = without_definer(create);
                    }
                    let doing = format!("make {} {what} on trial", kind.to_lowercase());
                    try_one(server, conn, (kind, &name), create, &doing).await?;
                }
                Some(_) => {}
                None if concerns_database(statement) => {}
                None => server.run(conn, statement, "prepare a session for a trial").await?,
            }
        }
        Ok(())
    }
}

/// Tables that will be made.
///
/// All are tried, not only those with an option that is known to fail somewhere: a row that is too long, a type or a
/// function of another version give nothing away. Those whose definitions differ in name and foreign keys only are
/// tried once, so a thousand tables of one form cost one trial. Other tables cost one more `CREATE` and `DROP` each.
///
/// Foreign keys are not tried: what they refer to may come, stay or go. Tables whose rows are kept elsewhere are not
/// either, as making one may reach for that place; they are left out where they cannot be made.
#[derive(Clone, Debug, Default)]
pub(super) struct Tables {
    /// The statements that make a table, with the items that are made so.
    items: BTreeMap<Vec<Vec<u8>>, Vec<String>>,
}

/// Tables that a server does not make.
pub(super) struct Unmade {
    /// Their items.
    pub items: Vec<String>,
    /// What the server says.
    pub failure: Failure,
}

impl Tables {
    /// Adds the table that a script makes.
    pub fn note(&mut self, item: &str, script: &Script) {
        let Some((create, session)) = script.statements.split_last() else { return };
        // What is no text or no definition is told when it is restored.
        let Some(demands) = std::str::from_utf8(create).ok().and_then(ddl::demands) else { return };
        let mut statements: Vec<Vec<u8>> =
            session.iter().filter(|statement| !concerns_database(statement)).cloned().collect();
        statements.push(apply::NO_SUBSTITUTE.as_bytes().to_vec());
        statements.push(demands.into_bytes());
        self.items.entry(statements).or_default().push(item.to_owned());
    }

    /// Returns whether there is one to try.
    pub fn have_some(&self) -> bool {
        !self.items.is_empty()
    }

    /// Makes each on trial in `db`, a database of lifeboat's own, and returns those that the server does not make.
    pub async fn prove(&self, server: &Server, db: &str) -> Result<Vec<Unmade>> {
        let mut unmade = Vec::new();
        if !self.have_some() {
            return Ok(unmade);
        }
        let mut conn = server.open(Purpose::WriteNames).await?;
        let name = full(db, NAME);
        let drop = format!("DROP TABLE IF EXISTS {name}");
        let tidy = "remove a table on trial";
        for (statements, items) in &self.items {
            let Some((demands, session)) = statements.split_last() else { continue };
            let doing = format!("make `{}` on trial", items.first().map_or("", String::as_str));
            let session = Script { statements: session.to_vec() };
            server.run(&mut conn, drop.as_str(), tidy).await?;
            let mut tried = apply::run(server, &mut conn, &session, &doing).await;
            if tried.is_ok() {
                let create = [format!("CREATE TABLE {name} ").as_bytes(), demands].concat();
                tried = apply::change(server, &mut conn, create, &doing).await;
                server.run(&mut conn, drop.as_str(), tidy).await?;
            }
            match tried {
                Ok(()) => {}
                Err(failure) => match number_of(&failure) {
                    None => return Err(failure),
                    Some(number) if is_due_to_trial(number) => {}
                    Some(_) => unmade.push(Unmade { items: items.clone(), failure }),
                },
            }
        }
        // Told politely; a server that does not hear it will find out.
        let _gone_anyway = conn.disconnect().await;
        Ok(unmade)
    }
}

/// Returns whether a table may fail so on trial, and be made later all the same: the account may have fewer rights in
/// our database, which is not encrypted by default; what the table refers to may come before it; and what makes room
/// may be what a full disk needs.
fn is_due_to_trial(number: u16) -> bool {
    let is_denied_there = is_denied(number) && number != code::NO_PRIVILEGE;
    let is_missing = matches!(
        number,
        code::NO_SUCH_TABLE
            | code::UNKNOWN_DATABASE
            | code::NO_SUCH_PRIVILEGE_TARGET
            | code::UNKNOWN_SEQUENCE
    );
    let is_of_place = matches!(number, code::TABLESPACE_EXISTS | code::OTHER_ENCRYPTION);
    is_denied_there || is_missing || is_of_place || is_full(number) || apply::is_there(number)
}

/// Makes one program and drops it.
async fn try_one(
    server: &Server,
    conn: &mut Conn,
    (kind, name): (&str, &str),
    create: Vec<u8>,
    doing: &str,
) -> Result<()> {
    // MariaDB wants the same right of who drops a trigger.
    let drop = format!("DROP {kind} IF EXISTS {name}");
    let statements = vec![drop.clone().into_bytes(), create, drop.clone().into_bytes()];
    match apply::run(server, conn, &Script { statements }, doing).await {
        // Anything else may be due to the trial: another name, a database where the account has fewer rights.
        Err(failure) if !number_of(&failure).is_some_and(is_a_rule) => server.run(conn, drop, doing).await,
        tried => tried,
    }
}

/// Returns whether a server tells by this number that it takes no such program from this account, wherever it is.
fn is_a_rule(number: u16) -> bool {
    matches!(number, code::UNSAFE_FUNCTION | code::NEEDS_SUPER | code::NO_PRIVILEGE)
}

/// Returns whether a statement of a script chooses a database or changes it.
fn concerns_database(statement: &[u8]) -> bool {
    [&b"USE "[..], b"ALTER DATABASE "].iter().any(|begin| statement.starts_with(begin))
}

/// Takes the account out that a program runs as: who makes it is that then.
fn without_definer(statement: Vec<u8>) -> Vec<u8> {
    let head = String::from_utf8_lossy(&statement);
    let Some(account) = definer(&head) else { return statement };
    let clause = format!("DEFINER={account} ").into_bytes();
    match statement.windows(clause.len()).position(|window| window == clause) {
        Some(at) => [&statement[..at], &statement[at + clause.len()..]].concat(),
        None => statement,
    }
}

/// Returns whether a server with a binlog takes this function: whether it says what it does. Both products write each
/// word on a line of its own.
pub(super) fn says_what_it_reads(function: &str) -> bool {
    let words = ["    DETERMINISTIC", "    NO SQL", "    READS SQL DATA"];
    function.lines().any(|line| words.contains(&line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_says_what_it_reads_on_a_line_of_its_own() {
        let function = |words: &str| {
            format!("CREATE DEFINER=`r`@`%` FUNCTION `f`(a INT,\n b INT) RETURNS int\n{words}return 1")
        };
        for words in ["    DETERMINISTIC\n", "    NO SQL\n    DETERMINISTIC\n", "    READS SQL DATA\n"] {
            assert!(says_what_it_reads(&function(words)), "{words}");
        }
        for words in ["", "    MODIFIES SQL DATA\n", "    COMMENT 'NO SQL'\n", "    SQL SECURITY INVOKER\n"] {
            assert!(!says_what_it_reads(&function(words)), "{words}");
        }
    }

    #[test]
    fn a_program_on_trial_runs_as_who_makes_it() {
        let owned = |text: &str| String::from_utf8(without_definer(text.as_bytes().to_vec())).unwrap();
        assert_eq!(
            owned("CREATE DEFINER=`o``d`@`10.%` FUNCTION `f`() RETURNS int"),
            "CREATE FUNCTION `f`() RETURNS int"
        );
        assert_eq!(owned("CREATE FUNCTION `f`() RETURNS int"), "CREATE FUNCTION `f`() RETURNS int");
    }

    #[test]
    fn tables_that_differ_in_name_only_are_tried_once() {
        let script = |db: &str, create: &str| {
            let mut script = Script::default();
            script.push("SET NAMES utf8mb4");
            script.push(format!("USE `{db}`"));
            script.push(create);
            script
        };
        let mut tables = Tables::default();
        let same = |name: &str, key: &str, counted: &str| {
            format!(
                "CREATE TABLE `{name}` (\n  `id` int NOT NULL AUTO_INCREMENT,\n  PRIMARY KEY (`id`){key}\n) \
                 ENGINE=InnoDB{counted} DEFAULT CHARSET=utf8mb4 COMMENT=' AUTO_INCREMENT=2'"
            )
        };
        let key = ",\n  CONSTRAINT `c` FOREIGN KEY (`id`) REFERENCES `u` (`id`)";
        tables.note("a.t", &script("a", &same("t", "", "")));
        tables.note("b.u (1", &script("b", &same("u (1", key, " AUTO_INCREMENT=9")));
        tables.note("b.v", &script("b", &same("v", ",\n  KEY `k` (`id`)", "")));
        tables.note("b.none", &script("b", "CREATE TABLE"));
        let items: Vec<String> = tables.items.values().map(|items| items.join(" ")).collect();
        assert_eq!(items, ["a.t b.u (1", "b.v"]);
        for statements in tables.items.keys() {
            let create = String::from_utf8_lossy(statements.last().unwrap()).into_owned();
            assert!(statements.len() == 3 && create.starts_with("(\n  `id` int"), "{statements:?}");
            assert!(create.ends_with("ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COMMENT=' AUTO_INCREMENT=2'"));
        }
    }

    #[test]
    fn what_a_trial_itself_may_be_the_reason_of_refuses_nothing() {
        for number in [1021, 1044, 1049, 1050, 1114, 1142, 1146, 1813, 3826, 4091] {
            assert!(is_due_to_trial(number), "{number}");
        }
        for number in [1005, 1118, 1128, 1205, 1227, 1286, 3121, 3185, 3510, 3750] {
            assert!(!is_due_to_trial(number), "{number}");
        }
    }

    #[test]
    fn only_what_is_refused_somewhere_is_tried() {
        let mut script = Script::default();
        script.push("USE `im`");
        script.push("CREATE DEFINER=`a`@`%` TRIGGER `t` BEFORE INSERT ON `u` FOR EACH ROW SET @a=1");
        script.push("CREATE DEFINER=`b`@`%` TRIGGER `s` BEFORE INSERT ON `u` FOR EACH ROW SET @a=1");
        let noted = |author, kind: &str| {
            let mut programs = Programs::by(author);
            programs.note(kind, &script);
            programs
        };
        assert!(!noted(Author::Ourselves, "events").have_some());
        assert_eq!(noted(Author::Ourselves, "triggers").triggers.len(), 1);
        let theirs = noted(Author::TheirOwn, "triggers").triggers;
        assert_eq!(theirs.into_iter().collect::<Vec<_>>(), [" DEFINER=`a`@`%`", " DEFINER=`b`@`%`"]);
        assert!(
            concerns_database(b"ALTER DATABASE `im` COLLATE x") && !concerns_database(b"SET NAMES utf8mb4")
        );
    }
}
