//! Grants on single routines, which a server forgets with the routine: read before it is dropped, given again after.
//!
//! `DROP PROCEDURE` and its like take them along on both products; `DROP DATABASE` leaves them, and they are good again
//! when the routine is. What is said of a package (MariaDB) is said in a session of Oracle's words: [`query`].
//!
//! *Crash.* Nothing is kept here: who drops routines keeps the statements.

use std::collections::BTreeSet;

use mysql_async::{Conn, prelude::Queryable};

use super::{
    accounts::Account,
    apply,
    conn::{Flavor, Purpose, Server, code, is_denied, number, text},
    sql::{full, literal},
};
use crate::error::Result;

/// Returns the grants on single routines of a database, as statements; `None` when the account may not look.
pub(super) async fn on_routines(
    server: &Server,
    conn: &mut Conn,
    flavor: Flavor,
    db: &str,
) -> Result<Option<BTreeSet<String>>> {
    let sql = format!(
        "SELECT user, host, routine_type, routine_name, proc_priv FROM mysql.procs_priv WHERE db = {}",
        literal(db)
    );
    let rows: Vec<mysql_async::Row> = match conn.query(sql).await {
        Ok(rows) => rows,
        Err(error) if number(&error).is_some_and(is_denied) => return Ok(None),
        Err(error) => return Err(server.failure("read the grants on routines", error)),
    };
    let all = rows.iter().map(|row| {
        let get = |at| text(row, at).unwrap_or_default();
        // A role of MariaDB has no host.
        let host = Some(get(1)).filter(|host| flavor == Flavor::Mysql || !host.is_empty());
        statement(&Account { user: get(0), host }, &get(2), &full(db, &get(3)), &get(4))
    });
    Ok(Some(all.collect()))
}

/// Returns a grant on a routine; `privileges` is a set as the server's table has it.
fn statement(account: &Account, kind: &str, routine: &str, privileges: &str) -> String {
    let (options, plain): (Vec<&str>, Vec<&str>) =
        privileges.split(',').filter(|one| !one.is_empty()).partition(|one| *one == "Grant");
    let plain = if plain.is_empty() { "USAGE".to_owned() } else { plain.join(", ") };
    let option = if options.is_empty() { "" } else { " WITH GRANT OPTION" };
    format!("GRANT {plain} ON {kind} {routine} TO {}{option}", account.sql())
}

/// Gives grants again, and tells those that the server did not take. One for a routine that is gone has nothing to be
/// for.
pub(super) async fn give(
    server: &Server,
    flavor: Flavor,
    statements: &BTreeSet<String>,
) -> Result<Vec<String>> {
    let mut notes = Vec::new();
    if statements.is_empty() {
        return Ok(notes);
    }
    let mut conn = server.open(Purpose::WriteNames).await?;
    if flavor == Flavor::Mariadb {
        // Without it a grant makes an account that is not there, and without a password.
        let careful = "SET SESSION sql_mode=CONCAT(@@SESSION.sql_mode,',NO_AUTO_CREATE_USER')";
        server.run(&mut conn, careful, "prepare its session").await?;
    }
    for sql in statements {
        match query(&mut conn, sql).await {
            Ok(()) => {}
            Err(error) if number(&error) == Some(code::NO_SUCH_PRIVILEGE_TARGET) => {}
            Err(mysql_async::Error::Server(error)) => {
                let why = error.code;
                notes.push(format!(
                    "a grant went with an old routine and was not given again ({why}): {sql};"
                ));
            }
            Err(error) => return Err(server.failure("give the grants on routines again", error)),
        }
    }
    Ok(notes)
}

/// Returns a statement with what has to be said around it: MariaDB before 11.4 knows the word PACKAGE in Oracle's words
/// only.
pub(super) fn in_its_words(sql: &str) -> Vec<String> {
    if !sql.starts_with("DROP PACKAGE ") && !sql.contains(" ON PACKAGE ") {
        return vec![sql.to_owned()];
    }
    vec![
        "SET @lifeboat_mode = @@SESSION.sql_mode".to_owned(),
        "SET SESSION sql_mode = CONCAT(@@SESSION.sql_mode, ',ORACLE')".to_owned(),
        sql.to_owned(),
        "SET SESSION sql_mode = @lifeboat_mode".to_owned(),
    ]
}

/// Runs a statement that may be about a routine; the session is the same afterwards.
pub(super) async fn query(conn: &mut Conn, sql: &str) -> mysql_async::Result<()> {
    let mut done = Ok(());
    for statement in in_its_words(sql) {
        let ran = apply::query(conn, statement.as_bytes()).await;
        done = done.and(ran);
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grant_on_a_routine_is_told_as_a_statement() {
        let user = Account { user: "a`".into(), host: Some("%".into()) };
        assert_eq!(
            statement(&user, "PROCEDURE", "`d`.`p`", "Execute,Alter Routine,Grant"),
            "GRANT Execute, Alter Routine ON PROCEDURE `d`.`p` TO `a```@`%` WITH GRANT OPTION"
        );
        let role = Account { user: "r".into(), host: None };
        assert_eq!(
            statement(&role, "PACKAGE BODY", "`d`.`f`", "Grant"),
            "GRANT USAGE ON PACKAGE BODY `d`.`f` TO `r` WITH GRANT OPTION"
        );
    }

    #[test]
    fn packages_have_words_of_their_own() {
        assert_eq!(in_its_words("GRANT Execute ON PROCEDURE `d`.`p` TO `a`@`%`").len(), 1);
        let all = in_its_words("GRANT Execute ON PACKAGE `d`.`p` TO `a`@`%`");
        assert!(
            all[1].contains("ORACLE") && all[2].starts_with("GRANT") && all[3].contains("@lifeboat_mode")
        );
        assert_eq!(in_its_words("DROP PACKAGE BODY IF EXISTS `d`.`p`").len(), 4);
    }
}
