//! Makes room for what comes, and knows what is not to be removed for it.
//!
//! A database that comes whole is dropped, and with it what was made since the backup. It is not dropped where that
//! would take along what nothing replaces: tables that the policy leaves out of every backup, and whatever the stream
//! has not whole. Then things go one by one, and a program goes when its like is about to be made. Before anything goes,
//! it is proven that functions, triggers and tables can be made. A server forgets the grants on a routine that goes so:
//! they are read before, noted in the ledger before it goes, and given again.

use std::collections::BTreeSet;

use super::{
    super::{
        accounts::Accounts,
        apply,
        conn::text,
        grants,
        layout::{LEDGER, Place, parse_item, table_item},
        ledger::{self, Others, Written},
        part,
        sql::literal,
    },
    Writing,
};
use crate::{
    error::{ExitCode, Failure, Result},
    event::SharedMonitor,
    flow::{EntryMeta, FlowResult},
};

impl Writing<'_> {
    /// Removes what is in the way, where that was asked for, and begins to note.
    pub(super) async fn make_room(
        &mut self,
        inventory: &[String],
        monitor: &SharedMonitor,
    ) -> FlowResult<()> {
        // Dropped as a whole, a database would take along what does not come back.
        let lacks =
            |of: &str| self.lacking.iter().filter_map(|item| parse_item(item)).any(|(db, _)| db == of);
        let whole = |item: &&String| !matches!(parse_item(item), Some((db, None)) if lacks(&db));
        let is_wanted =
            |item: &&String| self.options.only.names(item, Some('.')) && !self.options.only.is_in_part(item);
        let wanted: Vec<String> = inventory.iter().filter(is_wanted).filter(whole).cloned().collect();
        if let Some(held) = &mut self.held {
            let whole =
                wanted.iter().filter_map(|item| parse_item(item)).filter(|(_, table)| table.is_none());
            held.whole.extend(whole.map(|(db, _)| db));
        }
        self.lacking = self.lacking.iter().map(|item| self.renames.item(item)).collect();
        if self.server.resumes {
            return self.prove_coming(false).await.map_err(Into::into);
        }
        let items = self.renames.items(&wanted);
        let found = apply::obstacles(self.server, &mut self.names, &items).await?;
        let mut lines: Vec<String> = found.iter().map(apply::Obstacle::line).collect();
        for part in self.parts.values() {
            lines.extend(part.in_the_way(self.server, &mut self.names).await?);
        }
        if !lines.is_empty() && !self.options.replace {
            let what = format!(
                "`{}`: the server at {} is not empty: {}",
                self.server.name,
                self.server.place(),
                lines.join("; ")
            );
            return Err(Failure::new(ExitCode::TargetNotEmpty, what)
                .hint("Restore into an empty server, or say --replace to remove what is there first.")
                .into());
        }
        if let Some(part) = self.parts.values().find(|part| self.options.replace && self.lacks(&part.at)) {
            let what = format!(
                "`{}`: the snapshot has not all rows of `{}`: no range of them can take the place of another",
                self.server.name, part.at
            );
            return Err(Failure::new(ExitCode::Failed, what)
                .hint("Nothing was touched. Take another snapshot, or leave --replace out: rows are only added then.")
                .into());
        }
        if !self.parts.is_empty() {
            part::begin(self.server, &mut self.names).await?;
        }
        let emptied = found.iter().filter_map(apply::Obstacle::emptied).map(str::to_owned).collect();
        self.keep_grants(emptied).await?;
        self.prove_coming(!found.is_empty()).await?;
        let written = items.iter().filter_map(|item| parse_item(item));
        let parts = self.parts.keys().map(|at| (at.db.clone(), Some(at.table.clone())));
        let written = Written::of(written.chain(parts));
        let others = self.end_others(&written).await?;
        if let Some(ledger) = &self.ledger
            && !ledger.begin(self.server, &mut self.names, &written, &self.standing.grants).await?
        {
            let what =
                format!("the account may not make database {LEDGER}: an interrupted restore begins anew");
            monitor.warn(Some(&self.server.name), what, Some(&self.server.grant_hint()));
            self.ledger = None;
        }
        others.forget(self.server, &mut self.names).await?;
        apply::remove(self.server, &mut self.names, &found).await?;
        if let Some(ledger) = &self.ledger {
            ledger.opened(self.server, &mut self.names).await?;
        }
        Ok(())
    }

    /// Proves that what comes can be made before anything goes for it. Where something waits for an exchange, that proves
    /// it. What is to be left out is known only by trial, so that tables are tried then also where nothing goes.
    async fn prove_coming(&mut self, removes: bool) -> Result<()> {
        let goes = removes || self.options.replace && !self.lacking.is_empty() && !self.server.resumes;
        let programs = goes && self.coming.have_some();
        let tables = (goes || self.options.fit.leave_out) && self.coming_tables.have_some();
        if self.held.is_some() || !(programs || tables) {
            return Ok(());
        }
        // An account that may make no database of ours was judged by its grants.
        let Some(scratch) = ledger::open_scratch(self.server, &mut self.names).await? else { return Ok(()) };
        let proven = self.try_coming(&scratch, programs, tables).await;
        let closed = ledger::close_scratch(self.server, &mut self.names).await;
        if goes {
            let nothing = "It was tried before anything is removed: nothing was touched.";
            proven.map_err(|failure| failure.hint(nothing))?;
        } else {
            proven?;
        }
        closed
    }

    async fn try_coming(&mut self, scratch: &Place, programs: bool, tables: bool) -> Result<()> {
        if programs
            && let Err(failure) = self.coming.prove(self.server, scratch).await
            && !self.is_left_out(&failure)
        {
            return Err(failure);
        }
        if tables {
            let unmade = self.coming_tables.prove(self.server, &scratch.db).await?;
            self.leave_out_tables(unmade)?;
        }
        Ok(())
    }

    /// Ends interrupted restores that write some of the same: what they have made is removed or changed now. The grants
    /// on routines that they removed are still to be given again.
    async fn end_others(&mut self, written: &Written) -> Result<Others> {
        let own = self.options.job.as_deref();
        let mut others = Others::find(self.server, &mut self.names, own, written).await?;
        others.end(self.server, &mut self.names).await?;
        self.tally.notes.extend(others.note());
        self.standing.grants.append(&mut others.grants);
        Ok(others)
    }

    /// Reads the grants on single routines where routines go one by one: in `emptied` databases now, and in those of
    /// which not all comes when their like is made.
    async fn keep_grants(&mut self, mut emptied: BTreeSet<String>) -> Result<()> {
        if self.options.replace {
            emptied.extend(self.lacking.iter().filter_map(|item| parse_item(item)).map(|(db, _)| db));
        }
        for db in emptied {
            if let Some(found) =
                grants::on_routines(self.server, &mut self.names, self.dialect.flavor, &db).await?
            {
                self.standing.grants.extend(found);
                continue;
            }
            let sql = format!(
                "SELECT COUNT(*) FROM information_schema.routines WHERE routine_schema = {}",
                literal(&db)
            );
            let rows = self.server.rows(&mut self.names, &sql, "look for routines").await?;
            if rows.first().and_then(|row| text(row, 0)).is_some_and(|count| count != "0") {
                self.tally.notes.push(format!(
                    "{db}: grants on single routines that were replaced are gone, as the account may not read them \
                     (SELECT ON mysql.procs_priv)"
                ));
            }
        }
        Ok(())
    }

    /// Gives again the grants on routines that made room. An account that was made anew has those of the snapshot.
    pub(super) async fn give_kept_grants(&mut self, accounts: Option<&Accounts>) -> Result<()> {
        let mut kept = std::mem::take(&mut self.standing.grants);
        kept.retain(|grant| accounts.is_none_or(|accounts| !accounts.brings_grantee(grant)));
        self.tally.notes.extend(grants::give(self.server, self.dialect.flavor, &kept).await?);
        Ok(())
    }

    fn lacks(&self, at: &Place) -> bool {
        self.lacking.contains(&table_item(&at.db, &at.table))
    }

    /// Removes scratch tables that nothing will be taken from.
    pub(super) async fn leave_scratch(&mut self) {
        if !self.parts.is_empty() {
            // What cannot be removed now, the next restore of ranges removes.
            let _or_later = part::end(self.server, &mut self.names).await;
        }
    }

    /// Returns whether programs of this entry may take the place of those that are there: their database was to make
    /// room, and was not dropped as a whole.
    pub(super) fn replaces_programs(&self, meta: &EntryMeta) -> bool {
        let lacks = |db: &str| {
            self.lacking.iter().filter_map(|item| parse_item(item)).any(|(lacking, _)| lacking == db)
        };
        self.options.replace && meta.text("db").is_some_and(lacks)
    }
}
