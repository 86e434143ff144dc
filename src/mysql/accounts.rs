//! Users, roles and grants: reads them as statements, and applies them without taking over what is there.
//!
//! Every statement carries the account that it belongs to in a comment line, so that a restore can leave an
//! account alone that exists. Passwords are hashes, written as hexadecimal because they hold control bytes;
//! no message ever quotes a statement.

use std::collections::BTreeSet;

use mysql_async::{Conn, prelude::Queryable};

use super::{
    choices::AccountsRule,
    conn::{Flavor, Server, code, is_denied, is_unknown_account, number, text},
    sql::{Script, account, ident},
};
use crate::error::{ExitCode, Failure, Result};

/// The servers' own accounts.
const SYSTEM: [&str; 5] = ["mysql.sys", "mysql.session", "mysql.infoschema", "mariadb.sys", "PUBLIC"];
const MARK: &str = "-- account ";

/// An account: a user at a host, or (MariaDB) a role without a host.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Account {
    user: String,
    host: Option<String>,
}

impl Account {
    fn sql(&self) -> String {
        match &self.host {
            Some(host) => account(&self.user, host),
            None => ident(&self.user),
        }
    }
}

/// What was read of the accounts.
pub(super) struct Found {
    /// The statements that make them.
    pub script: Script,
    /// Accounts in the server's tables that it does not know: `MariaDB` loads none with the name of a host where
    /// `skip_name_resolve` is on, and what it does not know it cannot show.
    pub unknown: Vec<String>,
}

/// Reads all accounts; `None` when the account that reads may not.
pub(super) async fn read(server: &Server, conn: &mut Conn, flavor: Flavor) -> Result<Option<Found>> {
    let accounts = match list(conn, flavor).await {
        Ok(accounts) => accounts,
        Err(error) if number(&error).is_some_and(is_denied) => return Ok(None),
        Err(error) => return Err(server.failure("list the accounts", error)),
    };
    let (mut creates, mut grants, mut defaults) = (Vec::new(), Vec::new(), Vec::new());
    let mut unknown = Vec::new();
    for account in &accounts {
        let sql = account.sql();
        let doing = format!("read account {sql}");
        let Some(granted) = shown(server, conn, &format!("SHOW GRANTS FOR {sql}"), &doing).await? else {
            unknown.push(sql);
            continue;
        };
        if account.host.is_none() {
            creates.push(marked(&sql, &format!("CREATE ROLE {sql}")));
        } else {
            let Some(created) = shown(server, conn, &format!("SHOW CREATE USER {sql}"), &doing).await? else {
                unknown.push(sql);
                continue;
            };
            for create in created {
                let (create, default) = without_default_role(&create);
                creates.push(marked(&sql, &create));
                defaults.extend(
                    default.map(|roles| marked(&sql, &format!("ALTER USER {sql} DEFAULT ROLE {roles}"))),
                );
            }
        }
        grants.extend(granted.iter().map(|grant| marked(&sql, grant)));
    }
    let mut script = Script::default();
    creates.into_iter().chain(grants).chain(defaults).for_each(|statement| script.push(statement));
    Ok(Some(Found { script, unknown }))
}

/// Returns what the server shows of an account, a line each; `None` when it does not know the account.
async fn shown(server: &Server, conn: &mut Conn, sql: &str, doing: &str) -> Result<Option<Vec<String>>> {
    let rows: Vec<mysql_async::Row> = match conn.query(sql).await {
        Ok(rows) => rows,
        Err(error) if number(&error).is_some_and(is_unknown_account) => return Ok(None),
        Err(error) => return Err(server.failure(doing, error)),
    };
    Ok(Some(rows.iter().map(|row| text(row, 0).unwrap_or_default()).collect()))
}

async fn list(conn: &mut Conn, flavor: Flavor) -> mysql_async::Result<Vec<Account>> {
    let sql = match flavor {
        Flavor::Mysql => "SELECT user, host, 'N' FROM mysql.user ORDER BY user, host",
        Flavor::Mariadb => "SELECT user, host, is_role FROM mysql.user ORDER BY is_role = 'N', user, host",
    };
    let rows: Vec<mysql_async::Row> = conn.query(sql).await?;
    let all = rows.iter().map(|row| Account {
        user: text(row, 0).unwrap_or_default(),
        host: text(row, 1).filter(|_| text(row, 2).as_deref() != Some("Y")),
    });
    Ok(all.filter(|account| !SYSTEM.contains(&account.user.as_str())).collect())
}

fn marked(account: &str, statement: &str) -> String {
    // An account's name may hold a line end, which would end the comment.
    format!("{MARK}{}\n{statement}", account.replace('\\', "\\\\").replace('\n', "\\n"))
}

/// Takes ` DEFAULT ROLE …` out of a `CREATE USER`: the roles may not be there yet.
fn without_default_role(create: &str) -> (String, Option<String>) {
    let outside = |needle: &str| {
        let mut quoted = None;
        create.char_indices().find_map(|(at, c)| {
            match quoted {
                Some(quote) if c == quote => quoted = None,
                None if matches!(c, '`' | '\'') => quoted = Some(c),
                _ => {}
            }
            (quoted.is_none() && create[at..].starts_with(needle)).then_some(at)
        })
    };
    match (outside(" DEFAULT ROLE "), outside(" REQUIRE ")) {
        (Some(from), Some(to)) if from < to => {
            let roles = create[from + " DEFAULT ROLE ".len()..to].to_owned();
            (format!("{}{}", &create[..from], &create[to..]), Some(roles))
        }
        _ => (create.to_owned(), None),
    }
}

/// Accounts on their way into a server.
pub(super) struct Accounts {
    script: Script,
    /// Accounts that are left as they are.
    kept: BTreeSet<String>,
    /// What a person should know.
    pub notes: Vec<String>,
}

impl Accounts {
    pub fn new(script: Script) -> Self {
        Self { script, kept: BTreeSet::new(), notes: Vec::new() }
    }

    /// Decides which accounts are left as they are, and returns them: one that exists, unless the rule is to replace
    /// it; root and the account that restores always. A restore that is continued knows them: what else there is, is
    /// its own.
    pub async fn keep(
        &mut self,
        server: &Server,
        conn: &mut Conn,
        (flavor, rule): (Flavor, AccountsRule),
        known: Option<BTreeSet<String>>,
    ) -> Result<&BTreeSet<String>> {
        let present = list(conn, flavor).await.map_err(|e| server.failure("list the accounts", e))?;
        let replace = rule == AccountsRule::Replace;
        let untouchable =
            |account: &&Account| !replace || account.user == "root" || account.user == server.config.user;
        let found = || present.iter().filter(untouchable).map(Account::sql).collect();
        self.kept = known.unwrap_or_else(found);
        Ok(&self.kept)
    }

    /// Makes the users and roles: before the programs that name them as definers.
    pub async fn create(&mut self, server: &Server, conn: &mut Conn, flavor: Flavor) -> Result<()> {
        let present = list(conn, flavor).await.map_err(|e| server.failure("list the accounts", e))?;
        let replaced: BTreeSet<String> = present.iter().map(Account::sql).collect();
        let mut dropped = BTreeSet::new();
        for statement in self.script.statements.clone() {
            let (account, sql) = parts(&statement)?;
            if !is_create(&sql) || self.is_kept(&account) {
                continue;
            }
            if replaced.contains(&account) && dropped.insert(account.clone()) {
                let verb = if sql.starts_with("CREATE ROLE") { "DROP ROLE" } else { "DROP USER" };
                execute(server, conn, &format!("{verb} {account}"), "replace", &account).await?;
            }
            execute(server, conn, &sql, "make", &account).await?;
        }
        let met = self.kept.iter().filter(|account| self.mentions(account));
        let notes = met.map(|account| format!("account {account} was there already and was left as it is"));
        self.notes = notes.collect();
        Ok(())
    }

    /// Gives the grants: last, when what they are for is there. Grants for tables that are not there (a
    /// dropped one, a database that was not restored) are noted.
    pub async fn grant(&mut self, server: &Server, conn: &mut Conn) -> Result<()> {
        for statement in self.script.statements.clone() {
            let (account, sql) = parts(&statement)?;
            if is_create(&sql) || self.is_kept(&account) {
                continue;
            }
            match conn.query_drop(sql.as_str()).await {
                Ok(()) => {}
                Err(error)
                    if matches!(
                        number(&error),
                        Some(code::NO_SUCH_TABLE | code::NO_SUCH_PRIVILEGE_TARGET | code::UNKNOWN_DATABASE)
                    ) =>
                {
                    self.notes
                        .push(format!("a grant of account {account} is for something that is not there"));
                }
                Err(error) => return Err(refused(server, "give the grants of", &account, &error)),
            }
        }
        Ok(())
    }

    fn is_kept(&self, account: &str) -> bool {
        self.kept.contains(account)
    }

    fn mentions(&self, account: &str) -> bool {
        self.script
            .statements
            .iter()
            .any(|s| parts(s).is_ok_and(|(name, sql)| name == account && is_create(&sql)))
    }
}

fn is_create(sql: &str) -> bool {
    sql.starts_with("CREATE USER") || sql.starts_with("CREATE ROLE")
}

/// Returns the table that a grant is for, if it is for one table.
pub(super) fn table_granted(sql: &str) -> Option<(String, String)> {
    let at = sql.rfind("` TO ")?;
    let begin = sql[..at].rfind(" ON `")? + " ON `".len();
    let (db, table) = sql[begin..at].split_once("`.`")?;
    sql.starts_with("GRANT ").then(|| (db.replace("``", "`"), table.replace("``", "`")))
}

/// Returns the account that a statement belongs to, and the statement itself.
pub(super) fn parts(statement: &[u8]) -> Result<(String, String)> {
    let whole = || Failure::new(ExitCode::Damage, "entry `accounts.sql` names no account before a statement");
    let text = std::str::from_utf8(statement).map_err(|_| whole())?;
    let (account, sql) = text.strip_prefix(MARK).and_then(|rest| rest.split_once('\n')).ok_or_else(whole)?;
    Ok((account.replace("\\n", "\n").replace("\\\\", "\\"), sql.to_owned()))
}

async fn execute(server: &Server, conn: &mut Conn, sql: &str, verb: &str, account: &str) -> Result<()> {
    conn.query_drop(sql).await.map_err(|error| refused(server, verb, account, &error))
}

/// A server quotes what it did not understand, which may be a hash: only the number is told.
fn refused(server: &Server, verb: &str, account: &str, error: &mysql_async::Error) -> Failure {
    let why = match number(error) {
        Some(number) => format!("error {number}"),
        None => "the connection broke".to_owned(),
    };
    let what = format!("`{}`: failed to {verb} account {account} at {}", server.name, server.place());
    if number(error).is_none() {
        return Failure::new(ExitCode::SourceDown, what).because(why);
    }
    Failure::new(ExitCode::Failed, what).because(why).hint(
        "The other server may lack the account's authentication plugin; `lifeboat ls` and `export` show \
         accounts.sql, and `exclude = [\"accounts\"]` leaves accounts out.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_roles_come_after_the_roles() {
        let (create, roles) = without_default_role(
            "CREATE USER `a DEFAULT ROLE x`@`%` IDENTIFIED WITH 'p' AS 0x00 DEFAULT ROLE `r`@`%` REQUIRE \
                NONE",
        );
        assert_eq!(create, "CREATE USER `a DEFAULT ROLE x`@`%` IDENTIFIED WITH 'p' AS 0x00 REQUIRE NONE");
        assert_eq!(roles.as_deref(), Some("`r`@`%`"));
    }

    #[test]
    fn a_statement_knows_its_account() {
        let statement = marked("`a\nb`@`%`", "CREATE USER x");
        assert_eq!(statement, "-- account `a\\nb`@`%`\nCREATE USER x");
        let (account, sql) = parts(statement.as_bytes()).unwrap();
        assert_eq!((account.as_str(), sql.as_str()), ("`a\nb`@`%`", "CREATE USER x"));
        assert_eq!(parts(b"CREATE USER x").unwrap_err().exit(), ExitCode::Damage);
    }
}
