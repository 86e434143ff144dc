//! A snapshot of a server as one script for `mysql <`: what `export --format sql` writes.
//!
//! *Order.* Databases, tables with all their keys, placeholders of views; rows; then routines, views, triggers and
//! events. Accounts are left out: whoever plays a script rarely means them. *Crash.* A script whose last line is
//! not `-- Dump completed` is not whole.
//!
//! *Limits.* One `INSERT` of about [`INSERT_BYTES`], and the scripts that wait for the rows.

use std::{collections::BTreeMap, io::Write};

use async_trait::async_trait;

use super::{
    ddl,
    layout::{Layout, Place},
    load::{INSERT_BYTES, Lines, insert_begin, push_values},
    sql::Script,
    target::{SCRIPT_BYTES_MAX, attr, place},
};
use crate::{
    error::{Context, ExitCode, Failure, Result},
    flow::{Entry, EntryMeta, EntryStream, FlowResult, Stage, Tally, Target, TargetState, WriteOptions},
    names::SourceName,
};

/// The longest row that fits into memory while its end is looked for.
const ROW_BYTES_MAX: usize = 1 << 30;
/// The session in which rows are read as the raw bytes that they are.
const ROWS_SESSION: &str = "SET NAMES binary, SESSION sql_mode='NO_AUTO_VALUE_ON_ZERO', SESSION time_zone='+00:00', \
                            SESSION foreign_key_checks=0, SESSION unique_checks=0;";
/// Scripts that come after the rows, in the order in which they need each other.
const AFTER: [&str; 4] = ["routines", "view", "triggers", "events"];

/// Where the script goes.
pub type Output = Box<dyn Write + Send>;

/// Writes entries of a MySQL or MariaDB source as a script.
pub struct SqlScript {
    name: SourceName,
    out: Output,
    layouts: BTreeMap<Place, Layout>,
    after: BTreeMap<usize, Vec<Vec<u8>>>,
    tally: Tally,
    rows: u64,
}

impl SqlScript {
    /// Writes to `out`.
    pub fn new(name: SourceName, out: Output) -> Self {
        let (layouts, after) = (BTreeMap::new(), BTreeMap::new());
        Self { name, out, layouts, after, tally: Tally::default(), rows: 0 }
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
        match (entry.meta.stage, kind.as_str()) {
            (_, "layout") => {
                let layout = serde_json::from_slice(&bytes)
                    .failed(ExitCode::Damage, || format!("entry `{}` is no layout", entry.meta.path))?;
                self.layouts.insert(place(&entry.meta)?, layout);
            }
            (Stage::After, "accounts") => {}
            (Stage::After, kind) => {
                let rank = AFTER.iter().position(|one| *one == kind).ok_or_else(|| unknown(&entry.meta))?;
                self.after.entry(rank).or_default().push(bytes);
            }
            (_, "table") => {
                let mut script = Script::parse(&bytes, entry.meta.path.as_str())?;
                if let Some(create) = script.statements.last_mut()
                    && let Ok(text) = std::str::from_utf8(create)
                {
                    *create = ddl::whole(text).into_bytes();
                }
                self.put(&script.to_bytes())?;
            }
            _ => self.put(&bytes)?,
        }
        Ok(())
    }

    /// Writes the rows of one piece.
    async fn insert(&mut self, mut entry: Entry) -> FlowResult<()> {
        let at = place(&entry.meta)?;
        let layout = self.layouts.get(&at).cloned().ok_or_else(|| {
            Failure::new(ExitCode::Damage, format!("rows of table `{at}` came without its layout"))
        })?;
        let begin = insert_begin(&at, &layout);
        let (mut statement, mut lines) = (Vec::new(), Lines::default());
        self.put(format!("{ROWS_SESSION}\n").as_bytes())?;
        while let Some(bytes) = entry.body.next().await? {
            lines.push(&bytes);
            while let Some(line) = lines.next() {
                statement.extend_from_slice(if statement.is_empty() { begin.as_bytes() } else { b",\n" });
                push_values(&mut statement, &layout, line);
                self.rows += 1;
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
        Ok(self.end(&mut statement)?)
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
        _options: WriteOptions,
        mut entries: EntryStream,
    ) -> FlowResult<Tally> {
        self.put(
            format!("-- Written by lifeboat; source `{}`. Accounts are not part of it.\n", self.name)
                .as_bytes(),
        )?;
        self.put(format!("{ROWS_SESSION}\n").as_bytes())?;
        while let Some(entry) = entries.next().await? {
            self.take(entry).await?;
        }
        for (_, scripts) in std::mem::take(&mut self.after) {
            for script in scripts {
                self.put(&script)?;
            }
        }
        let last = format!("-- Dump completed: {} rows\n", self.rows);
        self.put(last.as_bytes())?;
        self.out.flush().failed(ExitCode::Failed, || "the script cannot be written".to_owned())?;
        Ok(self.tally)
    }
}
