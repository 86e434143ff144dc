//! What a server cannot hold: left out where the person said so, and an error otherwise.

use std::collections::BTreeSet;

use super::{
    super::{
        accounts::{self, Accounts, parts},
        apply,
        choices::AccountsRule,
        conn::{is_denied, is_full, number_of},
        cross::Fitted,
        layout::Place,
        preflight,
        sql::Script,
        trial::Unmade,
    },
    Writing, place,
};
use crate::{
    error::{ExitCode, Failure, Result},
    flow::{EntryMeta, FlowResult, Problem},
};

/// How to go on where a server makes no such table.
const TRIED: &str = "Say --leave-out-unfit to restore without such tables.";
/// What servers call a full disk inside of another error (`ENOSPC`).
const NO_SPACE: &str = "errno: 28";

/// Errors that say that a server does not know a word, a thing or what a thing refers to, or cannot hold it. Of MySQL
/// from `share/messages_to_clients.txt` (9.7), of MariaDB from `sql/share/errmsg-utf8.txt` (10.11); what is 1xxx both
/// share.
const UNKNOWN_HERE: [u16; 45] = [
    1049, // ER_BAD_DB_ERROR
    1054, // ER_BAD_FIELD_ERROR
    1064, // ER_PARSE_ERROR
    1109, // ER_UNKNOWN_TABLE
    1115, // ER_UNKNOWN_CHARACTER_SET
    1128, // ER_FUNCTION_NOT_DEFINED
    1133, // ER_PASSWORD_NO_MATCH: no such account
    1141, // ER_NONEXISTING_GRANT
    1144, // ER_ILLEGAL_GRANT_FOR_TABLE
    1146, // ER_NO_SUCH_TABLE
    1147, // ER_NONEXISTING_TABLE_GRANT
    1176, // ER_KEY_DOES_NOT_EXITS
    1193, // ER_UNKNOWN_SYSTEM_VARIABLE
    1221, // ER_WRONG_USAGE
    1231, // ER_WRONG_VALUE_FOR_VAR: an SQL mode
    1235, // ER_NOT_SUPPORTED_YET
    1253, // ER_COLLATION_CHARSET_MISMATCH
    1267, // ER_CANT_AGGREGATE_2COLLATIONS
    1270, // ER_CANT_AGGREGATE_3COLLATIONS
    1271, // ER_CANT_AGGREGATE_NCOLLATIONS
    1273, // ER_UNKNOWN_COLLATION
    1286, // ER_UNKNOWN_STORAGE_ENGINE
    1289, // ER_FEATURE_DISABLED
    1298, // ER_UNKNOWN_TIME_ZONE
    1305, // ER_SP_DOES_NOT_EXIST
    1314, // ER_SP_BADSTATEMENT
    1347, // ER_WRONG_OBJECT
    1349, // ER_VIEW_SELECT_DERIVED
    1350, // ER_VIEW_SELECT_CLAUSE
    1351, // ER_VIEW_SELECT_VARIABLE
    1356, // ER_VIEW_INVALID
    1360, // ER_TRG_DOES_NOT_EXIST
    1396, // ER_CANNOT_USER
    1410, // ER_CANT_CREATE_USER_WITH_GRANT
    1449, // ER_NO_SUCH_USER: a definer
    1524, // ER_PLUGIN_IS_NOT_LOADED
    1582, // ER_WRONG_PARAMCOUNT_TO_NATIVE_FCT
    1584, // ER_WRONG_PARAMETERS_TO_STORED_FCT
    1630, // ER_FUNC_INEXISTENT_NAME_COLLISION
    3523, // ER_UNKNOWN_AUTHID (MySQL)
    3530, // ER_ROLE_NOT_GRANTED (MySQL)
    3619, // ER_ILLEGAL_PRIVILEGE_LEVEL (MySQL)
    4078, // ER_ILLEGAL_PARAMETER_DATA_TYPES2_FOR_OPERATION (MariaDB)
    4079, // ER_ILLEGAL_PARAMETER_DATA_TYPE_FOR_OPERATION (MariaDB)
    4091, // ER_UNKNOWN_SEQUENCES (MariaDB)
];

/// Errors that say that a server cannot make such a table, of the same files.
const NO_SUCH_TABLES: [u16; 24] = [
    1005, // ER_CANT_CREATE_TABLE
    1031, // ER_ILLEGAL_HA
    1069, // ER_TOO_MANY_KEYS
    1070, // ER_TOO_MANY_KEY_PARTS
    1071, // ER_TOO_LONG_KEY
    1074, // ER_TOO_BIG_FIELDLENGTH
    1101, // ER_BLOB_CANT_HAVE_DEFAULT
    1117, // ER_TOO_MANY_FIELDS
    1118, // ER_TOO_BIG_ROWSIZE
    1163, // ER_TABLE_CANT_HANDLE_BLOB
    1164, // ER_TABLE_CANT_HANDLE_AUTO_INCREMENT
    1178, // ER_CHECK_NOT_IMPLEMENTED
    1214, // ER_TABLE_CANT_HANDLE_FT
    1464, // ER_TABLE_CANT_HANDLE_SPKEYS
    1478, // ER_ILLEGAL_HA_CREATE_OPTION
    1901, // ER_GENERATED_COLUMN_FUNCTION_IS_NOT_ALLOWED (MariaDB)
    1911, // ER_UNKNOWN_OPTION (MariaDB)
    3106, // ER_UNSUPPORTED_ACTION_ON_GENERATED_COLUMN (MySQL)
    3121, // ER_WRONG_FILE_NAME
    3185, // ER_CANNOT_FIND_KEY_IN_KEYRING (MySQL)
    3510, // ER_TABLESPACE_MISSING_WITH_NAME (MySQL)
    3750, // ER_TABLE_WITHOUT_PK (MySQL)
    3763, // ER_GENERATED_COLUMN_NAMED_FUNCTION_IS_NOT_ALLOWED (MySQL)
    4161, // ER_UNKNOWN_DATA_TYPE (MariaDB)
];

/// Returns whether this error says that the server does not know a thing, or cannot hold it.
fn is_unknown_here(number: u16) -> bool {
    UNKNOWN_HERE.binary_search(&number).is_ok()
}

/// Returns whether a failure comes from the thing that was to be made, and not from the server's own state: no room, no
/// right, no connection.
pub(super) fn is_of_the_thing(failure: &Failure) -> bool {
    let is_own = |number| !is_full(number) && !is_denied(number);
    failure.exit() == ExitCode::Failed && number_of(failure).is_some_and(is_own)
}

impl Writing<'_> {
    /// Leaves out a table that shows rows of elsewhere when this server cannot make it: it holds nothing itself, and
    /// must not keep the rest from being restored.
    pub(super) fn or_not_made(&mut self, item: &str, made: Result<()>) -> Result<()> {
        match made {
            Err(failure) if is_of_the_thing(&failure) => {
                self.lacking.insert(item.to_owned());
                self.tally.left_out.push(Problem { what: item.to_owned(), why: failure.one_line() });
                Ok(())
            }
            other => other,
        }
    }

    /// Writes a definition in the server's words. One that the server cannot hold is left out where the person said
    /// so, and an error otherwise.
    pub(super) fn fits(&mut self, meta: &EntryMeta, script: &mut Script) -> Result<bool> {
        let Fitted { mapped, unfit, reworded } = self.dialect.fit_script(meta, script);
        let what = preflight::name(meta);
        let Some(why) = unfit.first() else {
            self.tally.reworded |= reworded;
            self.tally.notes.extend(mapped.iter().map(|line| format!("{what}: {line}")));
            return Ok(true);
        };
        if !self.options.fit.leave_out {
            let what = format!("`{}`: the server cannot hold {what}", self.server.name);
            return Err(Failure::new(ExitCode::Usage, what).because(why.clone()).hint(preflight::LEAVE_OUT));
        }
        self.tally.notes.push(format!("{what} was left out: {why}"));
        self.unfit.insert(meta.item.clone());
        Ok(false)
    }

    /// Leaves out the tables that the server did not make on trial, where the person said so; it is an error otherwise,
    /// or where the table itself is not the reason.
    pub(super) fn leave_out_tables(&mut self, unmade: Vec<Unmade>) -> Result<()> {
        let is_unfit = |failure: &Failure| {
            let is_known = |number| is_unknown_here(number) || NO_SUCH_TABLES.contains(&number);
            number_of(failure).is_some_and(is_known) && !failure.one_line().contains(NO_SPACE)
        };
        let others = |but: &[String]| -> BTreeSet<String> {
            let all = unmade.iter().flat_map(|one| &one.items);
            all.filter(|item| !but.starts_with(std::slice::from_ref(item))).cloned().collect()
        };
        let leaves = self.options.fit.leave_out;
        if let Some(at) = unmade.iter().position(|one| !leaves || !is_unfit(&one.failure)) {
            let others = others(&unmade[at].items);
            let Some(Unmade { failure, .. }) = unmade.into_iter().nth(at) else { return Ok(()) };
            let too = format!("Not made either: {}.", preflight::listed(&others));
            let failure = if others.is_empty() { failure } else { failure.hint(too) };
            return Err(if leaves { failure } else { failure.hint(TRIED) });
        }
        for Unmade { items, failure } in unmade {
            let why = failure.one_line();
            for item in items {
                self.tally.notes.push(format!("table {item} was left out: {why}"));
                self.unfit.insert(item);
            }
        }
        Ok(())
    }

    /// Leaves a program out; nothing stands in for a view that does not come.
    pub(super) async fn leave_out(&mut self, meta: &EntryMeta) -> FlowResult<()> {
        if meta.text("kind") == Some("view") {
            let at = place(meta)?;
            if let Some(held) = &mut self.held {
                let stands_in = |held: &EntryMeta| {
                    held.text("kind") == Some("placeholder") && place(held).is_ok_and(|held| held == at)
                };
                held.programs.retain(|(held, _)| !stands_in(held));
                return Ok(());
            }
            self.stand_ins.remove(&at);
            self.drop_stand_in(&at).await?;
        }
        Ok(())
    }

    /// Drops what stands for views whose own text did not come.
    pub(super) async fn drop_stand_ins(&mut self) -> FlowResult<()> {
        for (at, item) in std::mem::take(&mut self.stand_ins) {
            self.drop_stand_in(&at).await?;
            let why = "its text did not come".to_owned();
            self.tally.left_out.push(Problem { what: item, why });
        }
        Ok(())
    }

    async fn drop_stand_in(&mut self, at: &Place) -> FlowResult<()> {
        let sql = format!("DROP VIEW IF EXISTS {}", at.sql());
        Ok(self.server.run(&mut self.names, sql, &format!("leave out view `{at}`")).await?)
    }

    /// Decides which accounts stay as they are, and leaves those out that the server cannot hold, where the person said
    /// so. A restore that is continued knows which were there: what else there is, is its own.
    pub(super) async fn accounts(&mut self, script: Script, rule: AccountsRule) -> Result<Accounts> {
        let known = self.standing.kept.take();
        let (is_known, flavor) = (known.is_some(), self.dialect.flavor);
        let kept = match known {
            Some(kept) => kept,
            None => accounts::kept(self.server, &mut self.names, flavor, rule).await?,
        };
        let script = self.fitting_accounts(script, &kept)?;
        if let Some(ledger) = self.ledger.as_ref().filter(|_| !is_known) {
            ledger.keep(self.server, &mut self.names, &kept).await?;
        }
        Ok(Accounts::new(script, kept))
    }

    fn fitting_accounts(&mut self, mut script: Script, kept: &BTreeSet<String>) -> Result<Script> {
        let unfit = preflight::unfit_accounts(&self.dialect, &script, kept);
        if let Some((account, why)) = unfit.iter().next().filter(|_| !self.options.fit.leave_out) {
            let what = format!("`{}`: the server cannot hold account {account}", self.server.name);
            return Err(Failure::new(ExitCode::Usage, what).because(why.clone()).hint(preflight::LEAVE_OUT));
        }
        let is_unfit =
            |statement: &Vec<u8>| parts(statement).is_ok_and(|(account, _)| unfit.contains_key(&account));
        script.statements.retain(|statement| !is_unfit(statement));
        let notes = unfit.iter().map(|(account, why)| format!("account {account} was left out: {why}"));
        self.tally.notes.extend(notes);
        Ok(script)
    }

    /// Returns whether a program that fails so is left out when its time comes.
    pub(super) fn is_left_out(&self, failure: &Failure) -> bool {
        let may_lack = self.options.fit.leave_out || !self.lacking.is_empty();
        may_lack && number_of(failure).is_some_and(is_unknown_here)
    }

    /// Leaves out what the server does not know or cannot hold, where the person said so; and what needs something that
    /// did not come, where something did not. All else that fails is an error: a full disk says nothing of a view.
    pub(super) fn or_left_out(&mut self, what: &str, done: Result<()>) -> Result<()> {
        let Err(failure) = done else { return Ok(()) };
        let number = number_of(&failure);
        let is_unknown = number.is_some_and(is_unknown_here);
        if is_unknown && self.options.fit.leave_out {
            self.tally.notes.push(format!("{what} could not be made: {}", failure.one_line()));
        } else if !self.lacking.is_empty() && (is_unknown || number.is_some_and(apply::is_there)) {
            self.tally.left_out.push(Problem { what: what.to_owned(), why: failure.one_line() });
        } else {
            return Err(failure);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_is_full_or_refuses_us_cannot_hold_nothing() {
        assert!(UNKNOWN_HERE.is_sorted() && NO_SUCH_TABLES.is_sorted());
        for number in UNKNOWN_HERE.into_iter().chain(NO_SUCH_TABLES) {
            assert!(!is_full(number) && !is_denied(number) && !apply::is_there(number), "{number}");
        }
        // Gone away, read-only, a lock that was not granted, no memory, a session that was killed.
        for number in [1053, 1205, 1213, 1290, 1317, 1792, 1836, 1927, 1037, 1041, 1227, 1419] {
            assert!(!is_unknown_here(number), "{number}");
        }
    }
}
