//! What must hold before a server is touched. A server that is given what it cannot load has already
//! emptied itself when it notices, or exits: so every reason to refuse is looked for here.
//!
//! Everything here only reads.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    archive::Archive, control::Control, describe::ServerFacts, home::Waived, rdb::Flavour, server::Server,
    wire::Reply,
};
use crate::{
    error::{ExitCode, Failure, Result},
    flow::TargetState,
    names::ByteCount,
};

/// How many databases a server has that was not told otherwise.
const DATABASES_USUAL: u64 = 16;

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
    /// What is not looked for.
    pub(super) waived: Waived,
}

impl Target {
    /// Asks the server; `waived` is kept for the checks.
    pub(super) async fn ask(control: &mut Control, waived: Waived) -> Result<Self> {
        let facts = ServerFacts::ask(control).await?;
        let keys = control.keys_by_db().await?;
        let functions = functions(control).await;
        let evicted = evicted(control).await?;
        Ok(Self { facts, keys, functions, evicted, waived })
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

    /// Refuses what any restore would break.
    pub(super) async fn check(
        &self,
        server: &Server,
        archive: &Archive,
        control: &mut Control,
    ) -> Result<()> {
        let shown = &server.shown();
        self.check_role(shown)?;
        self.check_version(shown, archive, control).await?;
        self.check_databases(server, archive, control).await?;
        if archive.survey.introspected {
            self.check_modules(shown, archive, &archive.survey.modules)?;
        } else {
            self.check_all_modules(shown, archive)?;
        }
        if self.waived.memory { Ok(()) } else { self.check_memory(shown, archive).await }
    }

    /// A server that is given more databases than it has exits, and its own dump has been replaced by then.
    async fn check_databases(&self, server: &Server, archive: &Archive, control: &mut Control) -> Result<()> {
        let facts =
            archive.facts.as_ref().and_then(|facts| facts.config.as_ref()?.get("databases")?.parse().ok());
        // What cannot be looked into may use all databases that its server had.
        let needed: Option<u64> = if archive.survey.introspected {
            Some(archive.survey.keys.keys().max().map_or(0, |db| db + 1))
        } else {
            facts
        };
        let needed = needed.unwrap_or(DATABASES_USUAL);
        let settings = control.settings("databases").await.unwrap_or_default();
        let fits = match settings.get("databases").and_then(|text| text.parse::<u64>().ok()) {
            Some(there) => needed <= there,
            None => needed <= 1 || selects(server, needed - 1).await?,
        };
        if fits {
            return Ok(());
        }
        let what = format!("{} has too few databases for this dump", server.shown());
        Err(Failure::new(ExitCode::Failed, what)
            .because(format!("the dump needs {needed}: databases 0 to {}", needed - 1))
            .hint(format!(
                "Nothing was changed. Set `databases {needed}` in the server's configuration and restart it."
            )))
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

    /// Refuses a takeover of a server that a Sentinel watches: it fails over a primary that becomes a replica. They
    /// keep connections with telling names, and listen to a channel of their own.
    pub(super) async fn check_sentinel(&self, shown: &str, control: &mut Control) -> Result<()> {
        let watched = match control.ask::<String>(&["CLIENT", "LIST"]).await {
            Ok(clients) => clients.contains(" name=sentinel-"),
            Err(refused) => {
                let hello = ["PUBSUB", "NUMSUB", "__sentinel__:hello"];
                let heard: Result<(String, u64)> = control.ask(&hello).await;
                let (_, count) = heard.map_err(|_| {
                    Failure::new(ExitCode::SourceDown, format!("it cannot be seen whether a Sentinel watches {shown}"))
                        .because(refused)
                        .hint("Nothing was changed. A Sentinel would fail over in the middle of the restore: give the user the right +client|list for the time of it.")
                })?;
                count > 0
            }
        };
        if watched {
            return Err(Failure::new(ExitCode::Failed, format!("{shown} is watched by a Sentinel")).hint(
                "Nothing was changed. Run SENTINEL REMOVE on each Sentinel first, and SENTINEL MONITOR again after the restore.",
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
        if wanted.is_empty() || self.waived.modules {
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
            .hint("Nothing was changed. Load the modules on the server first. If it has them under other names, say --waive modules: a server that meets data which it does not know refuses the key, or exits."))
    }

    /// A dump that cannot be looked into may need every module that its server had.
    fn check_all_modules(&self, shown: &str, archive: &Archive) -> Result<()> {
        if self.waived.modules {
            return Ok(());
        }
        let there = archive.facts.as_ref().and_then(|facts| facts.modules.clone());
        let why = match (there, &self.facts.modules) {
            (Some(there), _) if there.is_empty() => return Ok(()),
            (Some(there), Some(here)) => {
                let missing: Vec<&str> =
                    there.iter().filter(|module| !here.contains(module)).map(String::as_str).collect();
                if missing.is_empty() {
                    return Ok(());
                }
                format!("its server had modules that this one lacks: {}", missing.join(", "))
            }
            (None, _) => "it was not stored which modules its server had".to_owned(),
            (_, None) => {
                "which modules this server has cannot be asked: the user lacks +module|list".to_owned()
            }
        };
        let what = format!("it is not known whether {shown} can load this dump, which is of a newer format");
        Err(Failure::new(ExitCode::Failed, what).because(why).hint(
            "Nothing was changed. A server that meets data of a module that it lacks exits: try it in a lab with `lifeboat drill`, or say --waive modules.",
        ))
    }

    /// What does not fit is evicted or kills the server. The old data goes before the new comes.
    async fn check_memory(&self, shown: &str, archive: &Archive) -> Result<()> {
        let Some(used) = archive.survey.aux.get("used-mem").and_then(|text| text.parse::<u64>().ok()) else {
            return Ok(());
        };
        let limits = ["maxmemory", "total_system_memory"];
        let limits = limits.iter().filter_map(|name| Some((*name, self.facts.number(name)?)));
        let mut tight = limits.filter(|(_, limit)| *limit > 0 && *limit < used);
        let Some((name, limit)) = tight.next().filter(|_| archive.survey.introspected) else { return Ok(()) };
        // Buffers and clients of the old server are in its figure too: the keys themselves decide.
        let keys = archive.weigh().await?;
        if keys <= limit {
            return Ok(());
        }
        let why = format!(
            "{name} is {}; the keys take about {}, and their server used {}",
            ByteCount(limit),
            ByteCount(keys),
            ByteCount(used)
        );
        Err(Failure::new(ExitCode::Failed, format!("{shown} has too little memory for this dump"))
            .because(why)
            .hint("Nothing was changed. Raise maxmemory or use a larger host; --waive memory tries it all the same."))
    }
}

/// Asks whether a database can be selected, where the settings cannot be asked for.
async fn selects(server: &Server, db: u64) -> Result<bool> {
    let mut wire = server.dial().await?;
    let reply =
        wire.call(&[b"SELECT", db.to_string().as_bytes()]).await.map_err(|error| server.down(error))?;
    match reply {
        Reply::Said(_) => Ok(true),
        Reply::Refused(text) if text.starts_with("NOPERM") => Err(server.refused("SELECT", &text).hint(
            "It cannot be seen how many databases the server has: give the user +config|get or +select.",
        )),
        Reply::Refused(_) => Ok(false),
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
