//! Users, roles and grants: reads them as statements, and applies them without taking over what is there.
//!
//! Every statement carries the account that it belongs to in a comment line, so that a restore can leave an
//! account alone that exists. Passwords are hashes, written as hexadecimal because they hold control bytes;
//! no message ever quotes a statement.

use std::collections::BTreeSet;

use mysql_async::{Conn, prelude::Queryable};

use super::{
    choices::AccountsRule,
    conn::{Flavor, Number, Server, code, is_denied, is_unknown_account, number, number_of, text},
    former::{Former, memberships, with_roles},
    grants,
    sql::{Script, account, ident, literal},
};
use crate::error::{ExitCode, Failure, Result};

/// The servers' own accounts.
const SYSTEM: [&str; 4] = ["mysql.sys", "mysql.session", "mysql.infoschema", "mariadb.sys"];
const MARK: &str = "-- account ";
/// What `MariaDB` calls everybody: grants can be given to it, but nobody makes it or drops it.
const PUBLIC: &str = "PUBLIC";

/// An account: a user at a host, or (MariaDB) a role without a host, everybody among them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Account {
    pub user: String,
    pub host: Option<String>,
}

impl Account {
    /// Returns how SQL names it.
    pub fn sql(&self) -> String {
        match &self.host {
            Some(host) => account(&self.user, host),
            None if self.is_public() => PUBLIC.to_owned(),
            None => ident(&self.user),
        }
    }

    fn is_public(&self) -> bool {
        self.host.is_none() && self.user == PUBLIC
    }
}

/// Who has a second password, and with it both hashes.
const SECOND_PASSWORDS: &str = "SELECT user, host, plugin, HEX(authentication_string), \
     HEX(JSON_UNQUOTE(JSON_EXTRACT(User_attributes, '$.additional_password'))), password_expired \
     FROM mysql.user WHERE JSON_EXTRACT(User_attributes, '$.additional_password') IS NOT NULL";

/// What was read of the accounts.
pub(super) struct Found {
    /// The statements that make them.
    pub script: Script,
    /// Accounts in the server's tables that it does not know: `MariaDB` loads none with the name of a host where
    /// `skip_name_resolve` is on, and what it does not know it cannot show.
    pub unknown: Vec<String>,
}

/// Reads all accounts; `None` when the account that reads may not: perhaps it may list them, and not see one.
pub(super) async fn read(server: &Server, conn: &mut Conn, flavor: Flavor) -> Result<Option<Found>> {
    match read_all(server, conn, flavor).await {
        Err(failure) if number_of(&failure).is_some_and(is_denied) => Ok(None),
        read => read.map(Some),
    }
}

async fn read_all(server: &Server, conn: &mut Conn, flavor: Flavor) -> Result<Found> {
    let accounts = list(conn, flavor).await.map_err(|error| server.failure("list the accounts", error))?;
    let (mut creates, mut grants, mut defaults) = (Vec::new(), Vec::new(), Vec::new());
    let mut unknown = Vec::new();
    let seconds = second_passwords(server, conn, flavor).await?;
    let certificates = certificates(server, conn, flavor).await?;
    for account in &accounts {
        let sql = account.sql();
        let doing = format!("read account {sql}");
        let Some(granted) = shown(server, conn, &format!("SHOW GRANTS FOR {sql}"), &doing).await? else {
            unknown.push(sql);
            continue;
        };
        if account.host.is_none() {
            creates.extend((!account.is_public()).then(|| marked(&sql, &format!("CREATE ROLE {sql}"))));
        } else {
            let Some(created) = shown(server, conn, &format!("SHOW CREATE USER {sql}"), &doing).await? else {
                unknown.push(sql);
                continue;
            };
            for create in created {
                let create = match flavor {
                    Flavor::Mysql => certificates
                        .iter()
                        .filter(|(of, ..)| of == account)
                        .fold(create, |create, (_, word, raw)| with_quoted(&create, word, raw)),
                    Flavor::Mariadb => create,
                };
                let (create, default) = without_default_role(&create);
                creates.push(marked(&sql, &create));
                defaults.extend(
                    default.map(|roles| marked(&sql, &format!("ALTER USER {sql} DEFAULT ROLE {roles}"))),
                );
            }
        }
        // A role shows the grants of the roles that it was given as well: those are told where they belong.
        let own = granted.iter().filter(|grant| account.host.is_some() || is_given_to(grant, &sql));
        grants.extend(own.map(|grant| marked(&sql, &without_password(grant))));
        let seconds = seconds.iter().filter(|(of, _)| of == account);
        defaults
            .extend(seconds.flat_map(|(_, second)| second.statements(&sql)).map(|one| marked(&sql, &one)));
    }
    let mut script = Script::default();
    creates.into_iter().chain(grants).chain(defaults).for_each(|statement| script.push(statement));
    Ok(Found { script, unknown })
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

/// A password of MySQL that is still good beside the one that took its place (`RETAIN CURRENT PASSWORD`).
/// `SHOW CREATE USER` says nothing of it.
struct SecondPassword {
    plugin: String,
    /// The hashes in hexadecimal.
    first: String,
    second: String,
    is_expired: bool,
}

impl SecondPassword {
    /// Returns the statements that bring it back: a server takes a second one only from a change of the first.
    fn statements(&self, account: &str) -> [String; 2] {
        let Self { plugin, first, second, .. } = self;
        let expire = if self.is_expired { " PASSWORD EXPIRE" } else { "" };
        let set = format!("ALTER USER {account} IDENTIFIED WITH {} AS 0x", literal(plugin));
        [format!("{set}{second}"), format!("{set}{first} RETAIN CURRENT PASSWORD{expire}")]
    }
}

async fn second_passwords(
    server: &Server,
    conn: &mut Conn,
    flavor: Flavor,
) -> Result<Vec<(Account, SecondPassword)>> {
    if flavor == Flavor::Mariadb {
        return Ok(Vec::new());
    }
    let rows: Vec<mysql_async::Row> = match conn.query(SECOND_PASSWORDS).await {
        Ok(rows) => rows,
        // A server before 8.0.14 has neither the column nor second passwords.
        Err(error) if number(&error) == Some(code::UNKNOWN_COLUMN) => Vec::new(),
        Err(error) => return Err(server.failure("look for second passwords", error)),
    };
    let get = |row: &mysql_async::Row, at| text(row, at).unwrap_or_default();
    let found = rows.iter().map(|row| {
        let account = Account { user: get(row, 0), host: Some(get(row, 1)) };
        let (plugin, first, second) = (get(row, 2), get(row, 3), get(row, 4));
        (account, SecondPassword { plugin, first, second, is_expired: get(row, 5) == "Y" })
    });
    Ok(found.collect())
}

/// Returns what certificates accounts must have, where MySQL does not quote what it shows of them: it prints quotes and
/// backslashes as they are.
async fn certificates(
    server: &Server,
    conn: &mut Conn,
    flavor: Flavor,
) -> Result<Vec<(Account, &'static str, String)>> {
    if flavor == Flavor::Mariadb {
        return Ok(Vec::new());
    }
    let sql = "SELECT user, host, x509_subject, x509_issuer FROM mysql.user WHERE ssl_type = 'SPECIFIED'";
    let mut all = Vec::new();
    let rows: Vec<mysql_async::Row> = match conn.query(sql).await {
        Ok(rows) => rows,
        // Who may not look there has the statements as the server shows them.
        Err(error) if number(&error).is_some_and(is_denied) => Vec::new(),
        Err(error) => return Err(server.failure("read what certificates accounts must have", error)),
    };
    for row in rows {
        let get = |at| text(&row, at).unwrap_or_default();
        for (word, raw) in [("SUBJECT", get(2)), ("ISSUER", get(3))] {
            all.push((Account { user: get(0), host: Some(get(1)) }, word, raw));
        }
    }
    all.retain(|(.., raw)| raw.contains(['\'', '\\']));
    Ok(all)
}

/// Quotes what a certificate must have, which MySQL printed raw.
fn with_quoted(create: &str, word: &str, raw: &str) -> String {
    let Some(from) = outside(create, " REQUIRE ") else { return create.to_owned() };
    let (before, rest) = create.split_at(from);
    let quoted = format!(" {word} {}", literal(raw));
    format!("{before}{}", rest.replacen(&format!(" {word} '{raw}'"), &quoted, 1))
}

fn marked(account: &str, statement: &str) -> String {
    // An account's name may hold a line end, which would end the comment.
    format!("{MARK}{}\n{statement}", account.replace('\\', "\\\\").replace('\n', "\\n"))
}

/// Returns whether a grant, as a role shows it, is the role's own.
fn is_given_to(grant: &str, role: &str) -> bool {
    let options = [" WITH ADMIN OPTION", " WITH GRANT OPTION"];
    let grant = options.iter().find_map(|option| grant.strip_suffix(option)).unwrap_or(grant);
    grant.ends_with(&format!(" TO {role}"))
}

/// Returns a grant of `MariaDB` without the password, which stands there once more: the account has it already, and
/// given again it would count as new and expire later.
fn without_password(grant: &str) -> String {
    let Some(from) = outside(grant, " IDENTIFIED ").filter(|_| grant.starts_with("GRANT ")) else {
        return grant.to_owned();
    };
    let rest = &grant[from..];
    let ends = [" REQUIRE ", " WITH "];
    // `VIA a OR b` belongs to the password; what comes behind it begins with one of these words.
    let to = ends.iter().filter_map(|end| outside(rest, end)).min().unwrap_or(rest.len());
    format!("{}{}", &grant[..from], &rest[to..])
}

/// Returns where `needle` stands in a statement outside its quotes.
fn outside(statement: &str, needle: &str) -> Option<usize> {
    let mut quoted = None;
    let mut escaped = false;
    statement.char_indices().find_map(|(at, c)| {
        match quoted {
            Some(_) if escaped => escaped = false,
            Some('\'') if c == '\\' => escaped = true,
            Some(quote) if c == quote => quoted = None,
            None if matches!(c, '`' | '\'') => quoted = Some(c),
            _ => {}
        }
        (quoted.is_none() && statement[at..].starts_with(needle)).then_some(at)
    })
}

/// Takes ` DEFAULT ROLE …` out of a `CREATE USER`: the roles may not be there yet.
fn without_default_role(create: &str) -> (String, Option<String>) {
    match (outside(create, " DEFAULT ROLE "), outside(create, " REQUIRE ")) {
        (Some(from), Some(to)) if from < to => {
            let roles = create[from + " DEFAULT ROLE ".len()..to].to_owned();
            (format!("{}{}", &create[..from], &create[to..]), Some(roles))
        }
        _ => (create.to_owned(), None),
    }
}

/// Returns the accounts that a restore leaves as they are: those that exist, unless the rule is to replace them; root
/// and the account that restores always, with the roles that they have, as a role that is dropped is taken from all who
/// have it.
pub(super) async fn kept(
    server: &Server,
    conn: &mut Conn,
    flavor: Flavor,
    rule: AccountsRule,
) -> Result<BTreeSet<String>> {
    let present = list(conn, flavor).await.map_err(|e| server.failure("list the accounts", e))?;
    if rule != AccountsRule::Replace {
        return Ok(present.iter().map(Account::sql).collect());
    }
    let untouchable = |one: &&Account| one.user == "root" || one.user == server.config.user;
    let roles = memberships(server, conn, flavor).await?;
    Ok(with_roles(present.iter().filter(untouchable).map(Account::sql).collect(), &roles))
}

/// Accounts on their way into a server.
pub(super) struct Accounts {
    script: Script,
    /// Accounts that are left as they are.
    kept: BTreeSet<String>,
    /// Accounts whose statement the server cannot read.
    unread: BTreeSet<String>,
    /// What a person should know.
    pub notes: Vec<String>,
}

impl Accounts {
    /// Takes the statements, and the accounts that are left as they are.
    pub fn new(script: Script, kept: BTreeSet<String>) -> Self {
        Self { script, kept, unread: BTreeSet::new(), notes: Vec::new() }
    }

    /// Makes the users and roles: before the programs that name them as definers.
    pub async fn create(&mut self, server: &Server, conn: &mut Conn, flavor: Flavor) -> Result<()> {
        let present = list(conn, flavor).await.map_err(|e| server.failure("list the accounts", e))?;
        let there: BTreeSet<String> = present.iter().map(Account::sql).collect();
        let creates = self.creates()?;
        let goes = |account: &str| there.contains(account);
        // What the server cannot read must not cost the account that is there.
        for (account, sql) in creates.iter().filter(|(account, _)| goes(account)) {
            if is_unreadable(conn.prep(sql.as_str()).await.err().as_ref()) {
                self.unreadable(account);
            }
        }
        let former = if creates.iter().any(|(account, _)| goes(account)) {
            Former::read(server, conn, flavor).await?
        } else {
            Former::default()
        };
        let mut anew = BTreeSet::new();
        let made = self.make_all(server, conn, (&there, &former), &creates, &mut anew).await;
        // Also where not all could be made.
        let notes = former.give_defaults(conn, &anew, |member| self.stays(member)).await;
        self.notes.extend(notes);
        made?;
        if there.contains(PUBLIC) && !self.is_kept(PUBLIC) && self.mentions(PUBLIC) {
            let sql = format!("REVOKE ALL PRIVILEGES, GRANT OPTION FROM {PUBLIC}");
            execute(server, conn, &sql, "replace", PUBLIC).await?;
        }
        let met = self.kept.iter().filter(|account| self.mentions(account));
        let notes = met.map(|account| format!("account {account} was there already and was left as it is"));
        let notes: Vec<String> = notes.collect();
        self.notes.extend(notes);
        Ok(())
    }

    /// Makes the accounts, and notes in `anew` those that were there.
    async fn make_all(
        &mut self,
        server: &Server,
        conn: &mut Conn,
        (there, former): (&BTreeSet<String>, &Former),
        creates: &[(String, String)],
        anew: &mut BTreeSet<String>,
    ) -> Result<()> {
        for (account, sql) in creates {
            if self.unread.contains(account) {
                continue;
            }
            if there.contains(account) {
                anew.insert(account.clone());
                self.make_anew(server, conn, former, (account, sql)).await?;
            } else {
                self.make(server, conn, account, sql).await?;
            }
        }
        Ok(())
    }

    /// Returns the accounts that come, each with what makes it.
    fn creates(&self) -> Result<Vec<(String, String)>> {
        let mut creates = Vec::new();
        for statement in &self.script.statements {
            let (account, sql) = parts(statement)?;
            if is_create(&sql) && !self.is_kept(&account) {
                creates.push((account, sql));
            }
        }
        Ok(creates)
    }

    /// Makes an account that is not there.
    async fn make(&mut self, server: &Server, conn: &mut Conn, account: &str, sql: &str) -> Result<()> {
        match conn.query_drop(sql).await {
            Ok(()) => Ok(()),
            Err(error) if is_unreadable(Some(&error)) => {
                self.unreadable(account);
                Ok(())
            }
            Err(error) => Err(refused(server, "make", account, &error)),
        }
    }

    /// Makes an account in the place of the one that is there; if it cannot be made, that one comes back.
    async fn make_anew(
        &mut self,
        server: &Server,
        conn: &mut Conn,
        former: &Former,
        (account, sql): (&str, &str),
    ) -> Result<()> {
        let verb = if sql.starts_with("CREATE ROLE") { "DROP ROLE" } else { "DROP USER" };
        execute(server, conn, &format!("{verb} {account}"), "replace", account).await?;
        let Err(error) = conn.query_drop(sql).await else {
            let notes = former.give_role(conn, account, |member| self.stays(member)).await;
            self.notes.extend(notes);
            return Ok(());
        };
        let again = former.bring_back(conn, account).await;
        let is_back = again.as_ref().is_ok_and(Vec::is_empty);
        self.notes.extend(former.give_role(conn, account, |member| self.stays(member)).await);
        if is_back && is_unreadable(Some(&error)) {
            self.unreadable(account);
            return Ok(());
        }
        Err(refused(server, "make", account, &error).hint(match again {
            Ok(lost) if lost.is_empty() => "The account that was there is there again, as it was.".to_owned(),
            Ok(lost) => format!("The account that was there is there again, without: {}.", lost.join("; ")),
            Err(error) => {
                let why = number(&error).map_or("the connection broke".to_owned(), |n| format!("error {n}"));
                format!("The account that was there is gone, and could not be made again: {why}.")
            }
        }))
    }

    /// Returns whether an account of the server is none that comes from the snapshot.
    fn stays(&self, account: &str) -> bool {
        self.is_kept(account) || self.unread.contains(account) || !self.mentions(account)
    }

    /// Gives the grants: last, when what they are for is there. Grants for tables that are not there (a
    /// dropped one, a database that was not restored) are noted.
    pub async fn grant(&mut self, server: &Server, conn: &mut Conn) -> Result<()> {
        for statement in self.script.statements.clone() {
            let (account, sql) = parts(&statement)?;
            if is_create(&sql) || self.is_kept(&account) || self.unread.contains(&account) {
                continue;
            }
            if let Err(error) = grants::query(conn, &sql).await {
                match lost(&account, &sql, number(&error)) {
                    Some(note) => self.notes.push(note),
                    None => return Err(refused(server, "give the grants of", &account, &error)),
                }
            }
        }
        Ok(())
    }

    /// Passes an account over: MySQL does not quote all that it shows of one.
    fn unreadable(&mut self, account: &str) {
        self.notes.push(format!(
            "account {account} was not made: the server cannot read its statement as the source showed it; \
             make it by hand"
        ));
        self.unread.insert(account.to_owned());
    }

    /// Returns whether the account that a grant is for comes from the snapshot, with grants of its own.
    pub fn brings_grantee(&self, grant: &str) -> bool {
        let named = self.script.statements.iter().filter_map(|statement| parts(statement).ok());
        named.into_iter().any(|(account, _)| is_given_to(grant, &account) && !self.stays(&account))
    }

    fn is_kept(&self, account: &str) -> bool {
        self.kept.contains(account)
    }

    fn mentions(&self, account: &str) -> bool {
        self.script.statements.iter().any(|s| parts(s).is_ok_and(|(name, _)| name == account))
    }
}

/// Returns what to tell of a grant that this server does not take, where the rest is good without it.
fn lost(account: &str, sql: &str, number: Option<u16>) -> Option<String> {
    match number? {
        code::NO_SUCH_TABLE | code::NO_SUCH_PRIVILEGE_TARGET | code::UNKNOWN_DATABASE => {
            Some(format!("a grant of account {account} is for something that is not there"))
        }
        code::NO_SUCH_GRANT if sql.starts_with("REVOKE ") => Some(format!(
            "account {account} may do more than on the source: what was revoked from it for one database is not, \
             as partial_revokes is off on this server"
        )),
        code::WRONG_PASSWORD | code::NO_PASSWORD if sql.starts_with("GRANT PROXY ") => Some(format!(
            "account {account} was not given a PROXY: this takes GRANT PROXY ON ''@'' TO the account that \
             restores, WITH GRANT OPTION"
        )),
        _ => None,
    }
}

fn is_unreadable(error: Option<&mysql_async::Error>) -> bool {
    error.and_then(number) == Some(code::SYNTAX)
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
    Ok((unescaped(account), sql.to_owned()))
}

/// Undoes what [`marked`] wrote of a name.
fn unescaped(account: &str) -> String {
    let (mut name, mut letters) = (String::new(), account.chars());
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => name.extend(letters.next().map(|next| if next == 'n' { '\n' } else { next })),
            letter => name.push(letter),
        }
    }
    name
}

async fn execute(server: &Server, conn: &mut Conn, sql: &str, verb: &str, account: &str) -> Result<()> {
    conn.query_drop(sql).await.map_err(|error| refused(server, verb, account, &error))
}

/// A server quotes what it did not understand, which may be a hash: only the number is told.
fn refused(server: &Server, verb: &str, account: &str, error: &mysql_async::Error) -> Failure {
    let what = format!("`{}`: failed to {verb} account {account} at {}", server.name, server.place());
    let Some(number) = number(error) else {
        return Failure::new(ExitCode::SourceDown, what).because("the connection broke");
    };
    Failure::new(ExitCode::Failed, what).because(Number(number)).hint(
        "The other server may lack the account's authentication plugin; `lifeboat ls` and `export` show \
         accounts.sql, and `exclude = [\"accounts\"]` leaves accounts out.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_of_any_name_is_found_again_before_its_statements() {
        for account in ["`a`@`%`", "`CORP\\nina`@`%`", "`two\nlines`@`%`", "`\\\n\\\\n`@`%`"] {
            let found = parts(marked(account, "CREATE USER x\nREQUIRE NONE").as_bytes()).unwrap();
            assert_eq!(found, (account.to_owned(), "CREATE USER x\nREQUIRE NONE".to_owned()));
        }
    }

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
    fn a_grant_is_kept_without_its_password() {
        let grant = "GRANT USAGE ON *.* TO `a IDENTIFIED `@`%` IDENTIFIED VIA x USING 'it''s\\' WITH ' OR y";
        assert_eq!(without_password(grant), "GRANT USAGE ON *.* TO `a IDENTIFIED `@`%`");
        let more = " REQUIRE SSL WITH GRANT OPTION MAX_QUERIES_PER_HOUR 3";
        assert_eq!(
            without_password(&format!("{grant}{more}")),
            format!("GRANT USAGE ON *.* TO `a IDENTIFIED `@`%`{more}")
        );
        let none = "GRANT ` IDENTIFIED ` TO `a`@`%` WITH ADMIN OPTION";
        assert_eq!(without_password(none), none);
    }

    #[test]
    fn a_role_tells_its_own_grants_only() {
        assert!(is_given_to("GRANT `r2` TO `r1` WITH ADMIN OPTION", "`r1`"));
        assert!(is_given_to("GRANT INSERT ON *.* TO PUBLIC", PUBLIC));
        assert!(!is_given_to("GRANT USAGE ON *.* TO `r2`", "`r1`"));
    }

    #[test]
    fn a_second_password_comes_back_behind_the_first() {
        let mut second = SecondPassword {
            plugin: "sha".to_owned(),
            first: "01".to_owned(),
            second: "02".to_owned(),
            is_expired: false,
        };
        let [old, new] = second.statements("`a`@`%`");
        assert_eq!(old, "ALTER USER `a`@`%` IDENTIFIED WITH 'sha' AS 0x02");
        assert_eq!(new, "ALTER USER `a`@`%` IDENTIFIED WITH 'sha' AS 0x01 RETAIN CURRENT PASSWORD");
        second.is_expired = true;
        assert!(second.statements("a")[1].ends_with(" RETAIN CURRENT PASSWORD PASSWORD EXPIRE"));
    }

    #[test]
    fn what_a_certificate_must_have_is_quoted() {
        let create =
            "CREATE USER `a SUBJECT '/CN=it's'`@`%` REQUIRE SUBJECT '/CN=it's' ISSUER '/O=b\\c' ACCOUNT LOCK";
        let done = with_quoted(&with_quoted(create, "SUBJECT", "/CN=it's"), "ISSUER", "/O=b\\c");
        assert_eq!(
            done,
            "CREATE USER `a SUBJECT '/CN=it's'`@`%` REQUIRE SUBJECT '/CN=it''s' ISSUER '/O=b\\\\c' ACCOUNT LOCK"
        );
    }

    #[test]
    fn a_statement_knows_its_account() {
        let statement = marked("`a\nb`@`%`", "CREATE USER x");
        assert_eq!(statement, "-- account `a\\nb`@`%`\nCREATE USER x");
        let (account, sql) = parts(statement.as_bytes()).unwrap();
        assert_eq!((account.as_str(), sql.as_str()), ("`a\nb`@`%`", "CREATE USER x"));
        assert_eq!(parts(b"CREATE USER x").unwrap_err().exit(), ExitCode::Damage);
    }

    #[test]
    fn a_grant_that_was_kept_is_for_who_does_not_come_anew() {
        let mut script = Script::default();
        for account in ["`a`@`%`", "`b`@`%`"] {
            script.push(marked(account, &format!("CREATE USER {account}")));
        }
        let accounts = Accounts::new(script, BTreeSet::from(["`b`@`%`".to_owned()]));
        let brings = |account: &str| {
            accounts
                .brings_grantee(&format!("GRANT USAGE ON FUNCTION `d`.`f` TO {account} WITH GRANT OPTION"))
        };
        assert!(brings("`a`@`%`"));
        assert!(!brings("`b`@`%`"), "it is left as it is");
        assert!(!brings("`c`@`%`"), "the snapshot does not know it");
    }
}
