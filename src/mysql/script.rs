//! A snapshot of a server as one script for `mysql <`: what `export --format sql` writes.
//!
//! *Order.* Databases, tables with all their keys, placeholders of views; rows; then users and roles, routines,
//! grants, views, triggers and events. Users, roles and grants come along only if they are asked for, and none
//! takes the place of one that is there.
//!
//! *Crash.* A script whose last line is not `-- Dump completed` is not whole. What the backup itself had not got is
//! named in the lines before.
//!
//! *Clients.* A client stops at the first error, so what no server can make stands in comments: a view on what is gone,
//! a grant for a table that is gone. What an account may not set is not set. Nothing needs a command of a client but
//! `DELIMITER`.
//!
//! *Limits.* One `INSERT` of about [`INSERT_BYTES`], and the scripts that wait for the rows.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
};

use async_trait::async_trait;
use bytes::Bytes;

use super::{
    accounts::{parts, table_granted},
    compare::MysqlLikeness,
    ddl,
    grants::in_its_words,
    insert::{INSERT_BYTES, Lines, Rows},
    layout::{ACCOUNTS, Layout, Place},
    sql::Script,
    target::{SCRIPT_BYTES_MAX, attr, place},
};
use crate::{
    error::{Context, ExitCode, Failure, Result},
    flow::{
        Attrs, Entry, EntryMeta, EntryStream, FlowResult, Likeness, Seen, Stage, Tally, Target, TargetState,
        WriteOptions, compare::Counts,
    },
    names::SourceName,
};

/// The longest row that fits into memory while its end is looked for.
const ROW_BYTES_MAX: usize = 1 << 30;
/// What a person who plays the script should know, and settings that one product or version needs: the others take
/// them for comments. MySQL wants a privilege for `innodb_strict_mode`, and a client stops where it is refused: it is
/// set only by an account that has it itself, which is the most that a script can ask. A role may have it too: then a
/// table that needs the setting is refused aloud.
const HEAD: &str = "\
-- Play it into an empty server: mysql --binary-mode --comments --max-allowed-packet=1G < this (or mariadb).
-- It is whole if its last line says `Dump completed`.
SET @lifeboat = (SELECT IF(COUNT(*), 'SET SESSION innodb_strict_mode=OFF', 'DO 0') \
FROM information_schema.user_privileges WHERE \
privilege_type IN ('SUPER', 'SYSTEM_VARIABLES_ADMIN', 'SESSION_VARIABLES_ADMIN') \
AND REPLACE(grantee, '''', '') = CURRENT_USER());
PREPARE lifeboat FROM @lifeboat;
EXECUTE lifeboat;
DEALLOCATE PREPARE lifeboat;
/*!80400 SET SESSION restrict_fk_on_non_standard_key=OFF */;
/*M! SET SESSION innodb_strict_mode=OFF */;
/*M!100201 SET SESSION check_constraint_checks=0 */;
/*M!101101 SET SESSION system_versioning_insert_history=ON */;
";
/// What a table without a primary key needs, before the first of them. A server that gives such a table a key of its
/// own says no word of it; so where either is on it is switched off, and who may not do that is refused aloud.
const KEYLESS: &str = "\
SET @lifeboat = IF(0 /*!80013 OR @@SESSION.sql_require_primary_key */ \
/*!80030 OR @@SESSION.sql_generate_invisible_primary_key */, \
'SET SESSION sql_require_primary_key=OFF /*!80030 , sql_generate_invisible_primary_key=OFF */', 'DO 0');
PREPARE lifeboat FROM @lifeboat;
EXECUTE lifeboat;
DEALLOCATE PREPARE lifeboat;
";
/// The session in which rows are read as the raw bytes that they are.
const ROWS_SESSION: &str = "SET NAMES binary, SESSION sql_mode='NO_AUTO_VALUE_ON_ZERO', SESSION time_zone='+00:00', \
                            SESSION foreign_key_checks=0, SESSION unique_checks=0;";
/// Scripts that come after the rows, in the order in which they need each other.
const AFTER: [&str; 6] = [USERS, "routines", GRANTS, "view", "triggers", "events"];
/// The statements of the accounts that make them.
const USERS: &str = "users";
/// The other statements of the accounts.
const GRANTS: &str = "grants";

/// Where the script goes.
pub type Output = Box<dyn Write + Send>;

/// Writes entries of a MySQL or MariaDB source as a script.
pub struct SqlScript {
    name: SourceName,
    out: Output,
    layouts: BTreeMap<Place, Layout>,
    after: BTreeMap<usize, Vec<Vec<u8>>>,
    tally: Tally,
    counts: Counts,
    /// The tables, views and sequences that were made.
    tables: BTreeSet<Place>,
    /// Whether a table without a primary key was among them.
    keyless: bool,
    accounts: bool,
}

impl SqlScript {
    /// Writes to `out`.
    pub fn new(name: SourceName, out: Output) -> Self {
        Self {
            name,
            out,
            layouts: BTreeMap::new(),
            after: BTreeMap::new(),
            tally: Tally::default(),
            counts: Counts::new(),
            tables: BTreeSet::new(),
            keyless: false,
            accounts: false,
        }
    }

    /// Writes users, roles and grants too.
    #[must_use]
    pub fn with_accounts(mut self) -> Self {
        self.accounts = true;
        self
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes).failed(ExitCode::Failed, || "the script cannot be written".to_owned())
    }

    async fn take(&mut self, mut entry: Entry) -> FlowResult<()> {
        self.tally.entries += 1;
        if entry.meta.stage == Stage::Data {
            return self.insert(entry).await;
        }
        let bytes = entry.body.read_all(SCRIPT_BYTES_MAX).await?;
        let kind = attr(&entry.meta, "kind")?;
        if matches!(kind.as_str(), "table" | "placeholder" | "sequence") {
            self.tables.insert(place(&entry.meta)?);
        }
        let seen =
            Seen { meta: entry.meta.clone(), trailer: Attrs::new(), sha256: String::new(), size_bytes: 0 };
        let bytes = Bytes::from(bytes);
        MysqlLikeness.count(&seen, Some(&bytes), &mut self.counts);
        match (entry.meta.stage, kind.as_str()) {
            (_, "layout") => {
                let layout = serde_json::from_slice(&bytes)
                    .failed(ExitCode::Damage, || format!("entry `{}` is no layout", entry.meta.path))?;
                self.layouts.insert(place(&entry.meta)?, layout);
            }
            (Stage::After, ACCOUNTS) if self.accounts => self.keep_accounts(&bytes)?,
            (Stage::After, ACCOUNTS) => {}
            (Stage::After, "view") if entry.meta.attrs.contains_key("invalid") => {
                let text = commented(&place(&entry.meta)?, &bytes);
                self.keep(&entry.meta, "view", text)?;
            }
            (Stage::After, kind) => self.keep(&entry.meta, kind, bytes.to_vec())?,
            (_, "table") => self.make_table(Script::parse(&bytes, entry.meta.path.as_str())?)?,
            _ => self.put(&bytes)?,
        }
        Ok(())
    }

    fn make_table(&mut self, mut script: Script) -> Result<()> {
        if let Some(create) = script.statements.last_mut()
            && let Ok(text) = std::str::from_utf8(create)
        {
            let is_first = !ddl::has_primary_key(text) && !std::mem::replace(&mut self.keyless, true);
            *create = ddl::whole(text).into_bytes();
            if is_first {
                self.put(KEYLESS.as_bytes())?;
            }
        }
        self.put(&script.to_bytes())
    }

    fn keep(&mut self, meta: &EntryMeta, kind: &str, bytes: Vec<u8>) -> Result<()> {
        let rank = AFTER.iter().position(|one| *one == kind).ok_or_else(|| unknown(meta))?;
        self.after.entry(rank).or_default().push(bytes);
        Ok(())
    }

    /// Keeps the accounts: an account that is there stays, and `root` is the server's own everywhere.
    fn keep_accounts(&mut self, bytes: &[u8]) -> Result<()> {
        let (mut users, mut grants) = (Script::default(), Script::default());
        for statement in Script::parse(bytes, "accounts.sql")?.statements {
            let (account, sql) = parts(&statement)?;
            let is_gone = |(db, table)| !self.tables.contains(&Place { db, table });
            if account.starts_with("`root`@") || table_granted(&sql).is_some_and(is_gone) {
                continue;
            }
            match ["CREATE USER ", "CREATE ROLE "]
                .iter()
                .find_map(|verb| Some((verb, sql.strip_prefix(verb)?)))
            {
                Some((verb, rest)) => users.push(format!("{verb}IF NOT EXISTS {rest}")),
                None => in_its_words(&sql).into_iter().for_each(|one| grants.push(one)),
            }
        }
        for (kind, script) in [(USERS, users), (GRANTS, grants)] {
            let rank = AFTER.iter().position(|one| *one == kind).unwrap_or_default();
            self.after.entry(rank).or_default().push(script.to_bytes());
        }
        Ok(())
    }

    /// Writes the rows of one piece.
    async fn insert(&mut self, mut entry: Entry) -> FlowResult<()> {
        let at = place(&entry.meta)?;
        let layout = self.layouts.get(&at).cloned().ok_or_else(|| {
            Failure::new(ExitCode::Damage, format!("rows of table `{at}` came without its layout"))
        })?;
        let sql = Rows::of(&at, &layout);
        let (mut statement, mut lines, mut rows) = (Vec::new(), Lines::default(), 0);
        self.put(format!("{ROWS_SESSION}\n").as_bytes())?;
        while let Some(bytes) = entry.body.next().await? {
            lines.push(&bytes);
            while let Some(line) = lines.next() {
                // A long row has a statement of its own: others would make it longer than a server takes.
                if statement.len() + line.len() > INSERT_BYTES {
                    self.end(&mut statement)?;
                }
                statement.extend_from_slice(if statement.is_empty() {
                    sql.begin().as_bytes()
                } else {
                    b",\n"
                });
                sql.push(&mut statement, line);
                rows += 1;
                if statement.len() >= INSERT_BYTES {
                    self.end(&mut statement)?;
                }
            }
            if lines.waiting_bytes() > ROW_BYTES_MAX {
                return Err(
                    Failure::new(ExitCode::Damage, format!("a row of table `{at}` does not end")).into()
                );
            }
        }
        lines.finish(&at)?;
        *self.counts.entry("rows".to_owned()).or_default() += rows;
        Ok(self.end(&mut statement)?)
    }

    /// Says what the backup could not read, in comments: the script is as whole as the snapshot.
    fn tell_what_lacks(&mut self) -> Result<()> {
        for problem in self.tally.left_out.clone() {
            let line = format!("{}: {}", problem.what, problem.why).replace(char::is_control, " ");
            self.put(format!("-- Not in the backup: {line}\n").as_bytes())?;
        }
        Ok(())
    }

    fn end(&mut self, statement: &mut Vec<u8>) -> Result<()> {
        if statement.is_empty() {
            return Ok(());
        }
        statement.extend_from_slice(b";\n");
        self.put(statement)?;
        statement.clear();
        Ok(())
    }
}

/// Returns a view that no server can make as text, in comments; its stand-in goes away.
fn commented(at: &Place, script: &[u8]) -> Vec<u8> {
    let mut out =
        format!("DROP VIEW IF EXISTS {};\n-- This view refers to what is gone:\n", at.sql()).into_bytes();
    for line in script.split(|byte| matches!(byte, b'\n' | b'\r')).filter(|line| !line.is_empty()) {
        out.extend_from_slice(b"-- ");
        out.extend_from_slice(line);
        out.push(b'\n');
    }
    out
}

fn unknown(meta: &EntryMeta) -> Failure {
    Failure::new(
        ExitCode::Failed,
        format!("entry `{}` is of a kind that this version does not know", meta.path),
    )
    .hint("Export with a newer lifeboat.")
}

#[async_trait]
impl Target for SqlScript {
    fn name(&self) -> &SourceName {
        &self.name
    }

    async fn inspect(&mut self, _inventory: &[String]) -> Result<TargetState> {
        Ok(TargetState { version: "a script".to_owned(), ..TargetState::default() })
    }

    async fn write(
        mut self: Box<Self>,
        options: WriteOptions,
        mut entries: EntryStream,
    ) -> FlowResult<Tally> {
        let accounts = if self.accounts { "Users, roles and grants" } else { "No accounts" };
        let first = format!("-- Written by lifeboat; source `{}`. {accounts} are part of it.\n", self.name);
        self.put(first.as_bytes())?;
        self.put(HEAD.as_bytes())?;
        self.put(format!("{ROWS_SESSION}\n").as_bytes())?;
        while let Some(entry) = entries.next().await? {
            self.take(entry).await?;
        }
        for (_, scripts) in std::mem::take(&mut self.after) {
            for script in scripts {
                self.put(&script)?;
            }
        }
        let is_meant =
            |what: &str| options.only.names(what, Some('.')) && (self.accounts || what != ACCOUNTS);
        let lacking = entries.problems().iter().filter(|problem| is_meant(&problem.what));
        self.tally.left_out.extend(lacking.cloned());
        self.tell_what_lacks()?;
        let counts: Vec<String> = self.counts.iter().map(|(what, count)| format!("{what} {count}")).collect();
        let last = format!("-- Dump completed: {}\n", counts.join(", "));
        self.put(last.as_bytes())?;
        self.out.flush().failed(ExitCode::Failed, || "the script cannot be written".to_owned())?;
        Ok(self.tally)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::flow::{Point, Problem, Selection, channel};

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_script_of_a_partial_snapshot_says_what_is_not_in_it() {
        let (sink, stream) = channel(8);
        sink.announce(Vec::new()).await.unwrap();
        for what in ["im.lost", "other.lost"] {
            sink.report(Problem { what: what.into(), why: "corrupt\nDROP DATABASE im".into() })
                .await
                .unwrap();
        }
        sink.finish(Point::at(chrono::DateTime::UNIX_EPOCH)).await.unwrap();
        let out = Shared::default();
        let script = SqlScript::new(SourceName::new("mysql").unwrap(), Box::new(out.clone()));
        let only = Selection::new(&["im".to_owned()]).unwrap();
        let options = WriteOptions { only, ..WriteOptions::default() };
        let tally = Box::new(script).write(options, stream).await.unwrap();
        assert_eq!(tally.left_out.len(), 1);
        let text = String::from_utf8(out.0.lock().unwrap().clone()).unwrap();
        let end = "\n-- Not in the backup: im.lost: corrupt DROP DATABASE im\n-- Dump completed: \n";
        assert!(text.ends_with(end), "{text}");
    }
}
