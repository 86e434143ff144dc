//! Accounts: each statement that was stored must be there. What else is there is the server's own.

use std::collections::BTreeSet;

use super::super::{
    accounts::{parts, table_granted},
    layout::table_item,
    sql::Script,
};
use crate::error::Result;

/// Returns the accounts of which a statement is missing, without a word of the statements: they hold hashes of
/// passwords. `inventory` is what was stored, as a grant for a table that was gone already cannot be given again.
///
/// The account `root` is the server's own everywhere.
pub fn differing_accounts(stored: &[u8], found: &[u8], inventory: &[String]) -> Result<Vec<String>> {
    let inventory: BTreeSet<&String> = inventory.iter().collect();
    let found = Script::parse(found, "accounts.sql")?;
    let there: BTreeSet<&Vec<u8>> = found.statements.iter().collect();
    let mut known = BTreeSet::new();
    for statement in &found.statements {
        known.insert(parts(statement)?.0);
    }
    let mut odd = BTreeSet::new();
    for statement in
        Script::parse(stored, "accounts.sql")?.statements.iter().filter(|one| !there.contains(one))
    {
        let (account, sql) = parts(statement)?;
        let is_gone = |(db, table): &(String, String)| !inventory.contains(&table_item(db, table));
        if account.starts_with("`root`@")
            || account == "`root`"
            || table_granted(&sql).is_some_and(|at| is_gone(&at))
        {
            continue;
        }
        let is_missing = !known.contains(&account);
        let verb = if is_missing { "is missing" } else { "differs: a grant, the password or a role" };
        odd.insert(format!("account {account} {verb}").escape_debug().to_string());
    }
    Ok(odd.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(statements: &[(&str, &str)]) -> Vec<u8> {
        let mut script = Script::default();
        for (account, sql) in statements {
            script.push(format!("-- account {account}\n{sql}"));
        }
        script.to_bytes()
    }

    #[test]
    fn what_was_stored_must_be_there_and_more_may_be() {
        let app = [
            ("`app`@`%`", "CREATE USER `app`@`%` AS 0x01"),
            ("`app`@`%`", "GRANT SELECT ON `im`.* TO `app`@`%`"),
        ];
        let gone = ("`app`@`%`", "GRANT SELECT ON `im`.`gone` TO `app`@`%`");
        let stored = script(&[
            app[0],
            app[1],
            gone,
            ("`root`@`%`", "CREATE USER `root`@`%` AS 0x02"),
            ("`b`@`%`", "CREATE USER x"),
        ]);
        let inventory = ["im".to_owned(), "im.there".to_owned()];
        let odd = |found: &[(&str, &str)]| differing_accounts(&stored, &script(found), &inventory).unwrap();
        let own = ("`root`@`localhost`", "CREATE USER y");
        assert!(odd(&[app[0], app[1], own, ("`b`@`%`", "CREATE USER x")]).is_empty());
        assert_eq!(
            odd(&[app[0], own]),
            ["account `app`@`%` differs: a grant, the password or a role", "account `b`@`%` is missing"]
        );
    }

    #[test]
    fn a_grant_for_a_table_that_is_there_is_asked_for() {
        let stored = script(&[("`a`@`%`", "GRANT SELECT (`x`), INSERT ON `im`.`od``d` TO `a`@`%`")]);
        let odd = |item: &str| differing_accounts(&stored, &script(&[]), &[item.to_owned()]).unwrap().len();
        assert_eq!((odd("im.od`d"), odd("im.other")), (1, 0));
    }
}
