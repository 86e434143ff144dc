//! What must hold before a server is touched. A server that is given what it cannot load has already
//! emptied itself when it notices, or exits: so every reason to refuse is looked for here.
//!
//! Everything here only reads.

use std::collections::{BTreeMap, BTreeSet};

use super::{archive::Archive, control::Control, describe::ServerFacts, rdb::Flavour};
use crate::{
    error::{ExitCode, Failure, Result},
    flow::TargetState,
};

/// Bytes that a server may use for itself.
const OVERHEAD_BYTES: u64 = 64 << 20;

/// What a server is and holds.
pub(super) struct Target {
    /// Its facts.
    pub(super) facts: ServerFacts,
    /// Its keys, by database.
    pub(super) keys: BTreeMap<u64, u64>,
    /// Its function libraries, `None` where they cannot be asked for.
    pub(super) functions: Option<u64>,
    /// Keys that it has evicted since it started.
    pub(super) evicted: u64,
}

impl Target {
    /// Asks the server.
    pub(super) async fn ask(control: &mut Control) -> Result<Self> {
        let facts = ServerFacts::ask(control).await?;
        let keys = control.keys_by_db().await?;
        let functions = functions(control).await;
        let evicted = evicted(control).await?;
        Ok(Self { facts, keys, functions, evicted })
    }

    /// Returns whether it is a node of a cluster: that follows no other primary, and takes keys one by one.
    pub(super) fn is_clustered(&self) -> bool {
        self.facts.field("cluster_enabled") == Some("1")
    }

    /// Leaves out all that stands outside one database.
    pub(super) fn narrow(&mut self, db: u64) {
        self.keys.retain(|held, _| *held == db);
        self.functions = None;
    }

    /// Returns whether it holds nothing that a restore would replace.
    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.functions.unwrap_or(0) == 0
    }

    /// Returns what is in the way, a line each.
    pub(super) fn state(&self) -> TargetState {
        let keys = |count: u64| if count == 1 { "1 key".to_owned() } else { format!("{count} keys") };
        let mut in_the_way: Vec<String> =
            self.keys.iter().map(|(db, count)| format!("db {db}: {}", keys(*count))).collect();
        if let Some(count) = self.functions.filter(|count| *count > 0) {
            in_the_way.push(format!("functions: {count}"));
        }
        TargetState { version: self.facts.shown(), in_the_way, ..TargetState::default() }
    }

    /// Refuses a target that holds something when nothing may be replaced.
    pub(super) fn check_empty(&self, shown: &str) -> Result<()> {
        if self.is_empty() {
            return Ok(());
        }
        let held = self.state().in_the_way.join(", ");
        Err(Failure::new(ExitCode::TargetNotEmpty, format!("{shown} is not empty"))
            .because(held)
            .hint("Say --replace to empty it first, or restore into another server."))
    }

    /// Refuses what a restore by replication, or any restore, would break.
    pub(super) async fn check(&self, shown: &str, archive: &Archive, control: &mut Control) -> Result<()> {
        self.check_role(shown)?;
        self.check_sentinel(shown, control).await?;
        self.check_version(shown, archive, control).await?;
        self.check_modules(shown, archive, &archive.survey.modules)?;
        self.check_memory(shown, archive)
    }

    pub(super) fn check_role(&self, shown: &str) -> Result<()> {
        if self.facts.field("loading") == Some("1") {
            return Err(Failure::new(ExitCode::SourceDown, format!("{shown} is still loading its data"))
                .hint("Try again when it has finished."));
        }
        if self.facts.field("role").is_some_and(|role| role != "master") {
            return Err(Failure::new(ExitCode::Failed, format!("{shown} is a replica"))
                .hint("Restore into its primary: the replicas follow by themselves."));
        }
        Ok(())
    }

    /// Sentinels fail over a primary that becomes a replica; they keep connections with telling names.
    async fn check_sentinel(&self, shown: &str, control: &mut Control) -> Result<()> {
        let clients: String = control.ask(&["CLIENT", "LIST"]).await.unwrap_or_default();
        if clients.contains(" name=sentinel-") {
            return Err(Failure::new(ExitCode::Failed, format!("{shown} is watched by a Sentinel")).hint(
                "Run SENTINEL REMOVE on each Sentinel first, and SENTINEL MONITOR again after the restore.",
            ));
        }
        Ok(())
    }

    async fn check_version(&self, shown: &str, archive: &Archive, control: &mut Control) -> Result<()> {
        let survey = &archive.survey;
        let refuse = |why: String| {
            Err(Failure::new(ExitCode::Failed, format!("{shown} cannot load this dump"))
                .because(why)
                .hint(format!(
                    "Nothing was changed. Restore into the server's version that wrote it ({}) or a newer one.",
                    survey.written_by()
                )))
        };
        let runs_valkey = self.facts.product == "valkey";
        if survey.flavour() == Flavour::Valkey && !runs_valkey {
            return refuse("the dump is of Valkey 9 or later, which no Redis reads".to_owned());
        }
        if survey.flavour() == Flavour::Redis && runs_valkey && survey.rdb_version > 11 {
            return refuse("the dump is of Redis 7.4 or later, which no Valkey reads".to_owned());
        }
        let newest = newest_format(control, &self.facts).await;
        if survey.rdb_version > newest {
            let (has, reads) = (survey.rdb_version, newest);
            return refuse(format!(
                "the dump has format {has} and {} reads up to {reads}",
                self.facts.shown()
            ));
        }
        Ok(())
    }

    /// An unknown module type makes a server exit after it has emptied itself.
    pub(super) fn check_modules(
        &self,
        shown: &str,
        archive: &Archive,
        wanted: &BTreeSet<String>,
    ) -> Result<()> {
        if wanted.is_empty() {
            return Ok(());
        }
        let here = self.facts.modules.as_deref().unwrap_or_default();
        let there = archive.facts.as_ref().and_then(|facts| facts.modules.clone()).unwrap_or_default();
        let types: Vec<&str> = wanted.iter().map(String::as_str).collect();
        let missing: Vec<&String> = there.iter().filter(|module| !here.contains(module)).collect();
        // Where the old server's modules are not known, a type of the same name as a module will do.
        let known = !there.is_empty() || types.iter().all(|name| here.iter().any(|module| module == name));
        if known && missing.is_empty() {
            return Ok(());
        }
        let names = missing.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        let why = if names.is_empty() { String::new() } else { format!("it lacks {names}") };
        Err(Failure::new(ExitCode::Failed, format!("{shown} lacks modules that this dump needs"))
            .because(format!("the dump holds data of {} {why}", types.join(", ")).trim_end().to_owned())
            .hint("Nothing was changed. Load the modules on the server first."))
    }

    /// What does not fit is evicted or kills the server. The old data goes before the new comes.
    fn check_memory(&self, shown: &str, archive: &Archive) -> Result<()> {
        let Some(needed) = archive.survey.aux.get("used-mem").and_then(|text| text.parse::<u64>().ok())
        else {
            return Ok(());
        };
        // A server's own overhead is in `used-mem` too, so an almost empty dump needs less than it says.
        let needed = needed.min(archive.survey.size_bytes.saturating_mul(64).saturating_add(OVERHEAD_BYTES));
        for name in ["maxmemory", "total_system_memory"] {
            if let Some(limit) = self.facts.number(name).filter(|limit| *limit > 0 && *limit < needed) {
                let why = format!("the data used {needed} bytes and {name} is {limit}");
                return Err(Failure::new(
                    ExitCode::Failed,
                    format!("{shown} has too little memory for this dump"),
                )
                .because(why)
                .hint("Nothing was changed. Raise maxmemory or use a larger host."));
            }
        }
        Ok(())
    }
}

/// Counts function libraries; servers before 7.0 have none, and a user may not be allowed to look.
pub(super) async fn functions(control: &mut Control) -> Option<u64> {
    let listed: Result<Vec<::redis::Value>> = control.ask(&["FUNCTION", "LIST"]).await;
    listed.ok().map(|libraries| libraries.len() as u64)
}

/// Returns how many keys the server has evicted since it started.
pub(super) async fn evicted(control: &mut Control) -> Result<u64> {
    let stats = control.info("stats").await?;
    Ok(stats.get("evicted_keys").and_then(|text| text.parse().ok()).unwrap_or_default())
}

/// Asks the server for the newest format it reads: the payload of `FUNCTION DUMP` ends with the format's
/// version in two bytes and the checksum in eight, even when there are no functions.
async fn dump_version(control: &mut Control) -> Option<u16> {
    let payload: Vec<u8> = control.ask(&["FUNCTION", "DUMP"]).await.ok()?;
    let at = payload.len().checked_sub(10)?;
    Some(u16::from_le_bytes([payload[at], payload[at + 1]]))
}

/// Returns the newest format that the server reads.
pub(super) async fn newest_format(control: &mut Control, facts: &ServerFacts) -> u16 {
    dump_version(control).await.unwrap_or_else(|| newest_known(facts))
}

/// Returns the newest format that a version is known to read (librdb's table).
fn newest_known(facts: &ServerFacts) -> u16 {
    let mut parts = facts.version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    if facts.product == "valkey" {
        return if version >= (9, 0) { 80 } else { 11 };
    }
    match version {
        (8, 8..) | (9.., _) => 14,
        (8, 6..) => 13,
        (8, _) | (7, 4..) => 12,
        (7, 2..) => 11,
        (7, _) => 10,
        (5 | 6, _) => 9,
        (4, _) => 8,
        _ => 7,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_table_follows_the_releases() {
        let newest = |product: &str, version: &str| {
            let facts =
                ServerFacts { product: product.into(), version: version.into(), ..ServerFacts::default() };
            newest_known(&facts)
        };
        let table =
            [("6.2.14", 9), ("7.0.15", 10), ("7.2.0", 11), ("7.4.1", 12), ("8.0.6", 12), ("8.6.0", 13)];
        for (version, format) in table {
            assert_eq!(newest("redis", version), format, "redis {version}");
        }
        assert_eq!((newest("valkey", "8.1.0"), newest("valkey", "9.1.2")), (11, 80));
    }
}
