//! Accounts as they are before a restore makes some of them anew: [`Former`].
//!
//! *Order.* All is read before the first account is dropped. One that cannot be made as the snapshot has it is made as
//! it was. A role that was made anew is given again, at once, to those that had it and stay; their default roles follow
//! when all roles stand.
//!
//! *Crash.* Nothing is noted: it holds hashes of passwords. A death leaves at most one account undone, which comes from
//! the snapshot when the restore is continued; who had it as a role may lack it then.

use std::collections::{BTreeMap, BTreeSet};

use mysql_async::{Conn, prelude::Queryable};

use super::{
    accounts::{self, Account, parts},
    conn::{Flavor, Server, code, number, text},
    grants,
};
use crate::error::{ExitCode, Failure, Result};

/// Who has which role.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Membership {
    pub member: String,
    pub role: String,
    /// Whether the member may give the role to others.
    pub with_admin: bool,
}

/// Accounts as they were.
#[derive(Default)]
pub(super) struct Former {
    /// What makes each account, in order.
    statements: BTreeMap<String, Vec<String>>,
    memberships: Vec<Membership>,
    /// The roles that a session of an account begins with, where the server forgets them with the role.
    defaults: BTreeMap<String, BTreeSet<String>>,
}

impl Former {
    /// Reads all accounts.
    pub async fn read(server: &Server, conn: &mut Conn, flavor: Flavor) -> Result<Self> {
        let found = accounts::read(server, conn, flavor).await?.ok_or_else(|| {
            let what = format!("`{}`: the accounts that would be replaced cannot be read", server.name);
            Failure::new(ExitCode::Failed, what).hint(server.grant_hint())
        })?;
        let mut former = Self::default();
        for statement in &found.script.statements {
            let (account, sql) = parts(statement)?;
            former.statements.entry(account).or_default().push(sql);
        }
        former.memberships = memberships(server, conn, flavor).await?;
        if flavor == Flavor::Mysql {
            let sql = "SELECT user, host, default_role_user, default_role_host FROM mysql.default_roles";
            for row in server.rows(conn, sql, "read the default roles of accounts").await? {
                let one = |at| Account { user: text(&row, at).unwrap_or_default(), host: text(&row, at + 1) };
                former.defaults.entry(one(0).sql()).or_default().insert(one(2).sql());
            }
        }
        Ok(former)
    }

    /// Makes an account as it was, if it can be made at all, and returns what of it the server did not take.
    pub async fn bring_back(&self, conn: &mut Conn, account: &str) -> mysql_async::Result<Vec<String>> {
        let mut refused = Vec::new();
        for (at, sql) in self.statements.get(account).into_iter().flatten().enumerate() {
            match grants::query(conn, sql).await {
                Err(mysql_async::Error::Server(error)) if at > 0 => {
                    // Hashes of passwords are in no grant.
                    let told =
                        if sql.starts_with("GRANT ") { sql } else { "its passwords and default roles" };
                    refused.push(format!("{told} (error {})", error.code));
                }
                done => done?,
            }
        }
        Ok(refused)
    }

    /// Gives a role that was made anew to those that had it and stay, and tells what the server did not take.
    pub async fn give_role(&self, conn: &mut Conn, role: &str, stays: impl Fn(&str) -> bool) -> Vec<String> {
        let mut notes = Vec::new();
        for had in self.memberships.iter().filter(|had| had.role == role && stays(&had.member)) {
            let member = &had.member;
            let admin = if had.with_admin { " WITH ADMIN OPTION" } else { "" };
            if let Err(error) = conn.query_drop(format!("GRANT {role} TO {member}{admin}")).await {
                notes.push(not_given(member, &format!("role {role}"), &error));
            }
        }
        notes
    }

    /// Sets the default roles of those that stay, where roles among them were made anew.
    pub async fn give_defaults(
        &self,
        conn: &mut Conn,
        anew: &BTreeSet<String>,
        stays: impl Fn(&str) -> bool,
    ) -> Vec<String> {
        let mut notes = Vec::new();
        let lost = |(member, roles): &(&String, &BTreeSet<String>)| stays(member) && !roles.is_disjoint(anew);
        for (member, roles) in self.defaults.iter().filter(lost) {
            let list = roles.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
            if let Err(error) = conn.query_drop(format!("ALTER USER {member} DEFAULT ROLE {list}")).await {
                notes.push(not_given(member, "its default roles", &error));
            }
        }
        notes
    }
}

fn not_given(member: &str, what: &str, error: &mysql_async::Error) -> String {
    let why = number(error).map_or("the connection broke".to_owned(), |number| format!("error {number}"));
    format!("account {member} had {what}, which was made anew and not given to it again: {why}")
}

/// Returns who has which role.
pub(super) async fn memberships(server: &Server, conn: &mut Conn, flavor: Flavor) -> Result<Vec<Membership>> {
    let sql = match flavor {
        Flavor::Mysql => {
            "SELECT to_user, to_host, from_user, from_host, with_admin_option FROM mysql.role_edges"
        }
        // A role has no host, and neither has who has it where that is a role.
        Flavor::Mariadb => "SELECT user, NULLIF(host, ''), role, NULL, admin_option FROM mysql.roles_mapping",
    };
    let rows: Vec<mysql_async::Row> = match conn.query(sql).await {
        Ok(rows) => rows,
        // A server without roles.
        Err(error) if number(&error) == Some(code::NO_SUCH_TABLE) => Vec::new(),
        Err(error) => return Err(server.failure("list the roles of accounts", error)),
    };
    let one = |row: &mysql_async::Row, at| {
        Account { user: text(row, at).unwrap_or_default(), host: text(row, at + 1) }.sql()
    };
    let all = rows.iter().map(|row| Membership {
        member: one(row, 0),
        role: one(row, 2),
        with_admin: text(row, 4).as_deref() == Some("Y"),
    });
    Ok(all.collect())
}

/// Adds all roles that these accounts have, also by other roles.
pub(super) fn with_roles(mut accounts: BTreeSet<String>, memberships: &[Membership]) -> BTreeSet<String> {
    loop {
        let has = |had: &&Membership| accounts.contains(&had.member) && !accounts.contains(&had.role);
        let more: Vec<String> = memberships.iter().filter(has).map(|had| had.role.clone()).collect();
        if more.is_empty() {
            return accounts;
        }
        accounts.extend(more);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_kept_keeps_the_roles() {
        let edges = [("a", "r1"), ("r1", "r2"), ("r2", "r1"), ("b", "r3")];
        let edges = edges.map(|(member, role)| Membership {
            member: member.to_owned(),
            role: role.to_owned(),
            with_admin: false,
        });
        let kept = with_roles(BTreeSet::from(["a".to_owned()]), &edges);
        assert_eq!(kept, ["a", "r1", "r2"].map(str::to_owned).into());
    }
}
