//! What a person may choose about a restore into a server.
//!
//! By default a restore makes what the snapshot has and takes over nothing that the server has: accounts that are there
//! stay, replicas follow, the server's history of GTIDs is its own, and what goes by another name runs no events.

use std::collections::BTreeMap;

/// What happens to accounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccountsRule {
    /// Missing ones are made, those that are there stay as they are.
    Keep,
    /// Those that are there are made anew, but for root, the system's and the one that restores.
    Replace,
    /// None is made, and no grant is given.
    None,
}

/// What happens to the server's record of the transactions that it has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GtidRule {
    /// The snapshot's position is added.
    Append,
    /// The snapshot's position takes the place of what is there.
    Replace,
}

/// What names databases get.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Naming {
    /// Their own.
    #[default]
    Same,
    /// The only one that is restored gets this name.
    Into(String),
    /// Each gets this ending.
    Beside(String),
    /// Each gets this ending, until it is exchanged with the one that is there, which gets the other ending.
    Swap {
        /// The ending of what is restored.
        beside: String,
        /// The ending of what was there.
        was: String,
    },
}

/// What was chosen for a restore.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choices {
    /// What happens to accounts, if that was said.
    pub accounts: Option<AccountsRule>,
    /// Whether the restore stays out of the server's binlog, and so away from its replicas.
    pub binlog_off: bool,
    /// What happens to the server's GTIDs, and the snapshot's position.
    pub gtid: Option<(GtidRule, String)>,
    /// Whether events are made disabled, if that was said.
    pub events_disabled: Option<bool>,
    /// What names databases get.
    pub naming: Naming,
}

impl Choices {
    /// Returns what happens to accounts. What goes by another name has no grants: they are for the old one.
    pub fn accounts(&self) -> AccountsRule {
        let usual = if self.naming == Naming::Same { AccountsRule::Keep } else { AccountsRule::None };
        self.accounts.unwrap_or(usual)
    }

    /// Returns whether events are made disabled: those of a copy would do their work twice.
    pub fn events_disabled(&self) -> bool {
        let is_copy = matches!(self.naming, Naming::Into(_) | Naming::Beside(_));
        self.events_disabled.unwrap_or(is_copy)
    }

    /// Returns all choices as a plan shows them: a name and a word.
    pub fn words(&self) -> BTreeMap<&'static str, String> {
        let accounts = match self.accounts() {
            AccountsRule::Keep => "keep",
            AccountsRule::Replace => "replace",
            AccountsRule::None => "none",
        };
        let gtid = match &self.gtid {
            None => "off",
            Some((GtidRule::Append, _)) => "append",
            Some((GtidRule::Replace, _)) => "replace",
        };
        let names = match &self.naming {
            Naming::Same => "same".to_owned(),
            Naming::Into(name) => format!("into {name}"),
            Naming::Beside(beside) => format!("beside: *{beside}"),
            Naming::Swap { beside, was } => format!("swap: *{beside}, then the old ones *{was}"),
        };
        let word = |is: bool, yes: &str, no: &str| if is { yes } else { no }.to_owned();
        BTreeMap::from([
            ("accounts", accounts.to_owned()),
            ("binlog", word(self.binlog_off, "off", "on")),
            ("events", word(self.events_disabled(), "disabled", "enabled")),
            ("gtid", gtid.to_owned()),
            ("names", names),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_by_another_name_takes_no_accounts_and_runs_no_events() {
        let same = Choices::default();
        assert_eq!((same.accounts(), same.events_disabled()), (AccountsRule::Keep, false));
        let copy = Choices { naming: Naming::Into("im_old".into()), ..Choices::default() };
        assert_eq!((copy.accounts(), copy.events_disabled()), (AccountsRule::None, true));
        let told = Choices { events_disabled: Some(false), ..copy };
        assert!(!told.events_disabled());
        let swap = Naming::Swap { beside: "__lb_1".into(), was: "__was_1".into() };
        assert!(!Choices { naming: swap, ..Choices::default() }.events_disabled());
    }
}
