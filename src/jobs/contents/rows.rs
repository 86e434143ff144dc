//! MySQL: definitions by name, programs one by one, and rows by their key.
//!
//! *Order.* Entries first. Then, where pieces of a table differ, its rows as a set: a table may be cut into other
//! pieces and hold the same rows.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::{Findings, Listed};
use crate::{
    clock::Ground,
    error::{Failure, Result},
    event::{NoMonitor, SharedMonitor},
    flow::{
        EntryMeta, EntryStream, FlowResult, Likeness, Oddity, STREAM_DEPTH, Seen, Selection, Source, Stage,
        channel,
        compare::{self, Compared, Counts, Difference, KEPT_BYTES_MAX, Observer},
        settle,
    },
    mysql::{
        MysqlSource,
        compare::{
            MysqlLikeness, Side, differing_accounts, differing_programs, is_accounts, is_layout,
            is_of_programs, list_rows, name_rows, selection, sum_rows, table_of,
        },
    },
    names::{ByteCount, SourceName},
    policy::MysqlConfig,
    repo::{Snapshot, format::SourceManifest},
};

/// What a person is told of, the most telling first.
pub const COUNTS: [&str; 8] =
    ["rows", "tables", "views", "triggers", "routines", "events", "sequences", "databases"];
/// Scripts of programs that are compared one by one; of more, only the entry is named.
const SCRIPTS_MAX: usize = 1000;

/// A database and a table.
type Table = (String, String);

/// The users, roles and grants of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Accounts {
    /// It shows none.
    Unknown,
    /// They are here.
    Kept(Bytes),
    /// They are more than [`KEPT_BYTES_MAX`].
    TooMany,
}

/// What differs, sorted by what is asked next.
struct Watch {
    /// Tables that are missing or extra as a whole, or of which the definition differs.
    tables: BTreeMap<Table, Oddity>,
    /// Tables with other columns, or other pieces of rows.
    layouts: BTreeMap<Table, String>,
    rows: BTreeSet<Table>,
    /// Scripts of programs by path.
    scripts: BTreeMap<String, Difference>,
    accounts: Accounts,
    findings: Findings,
}

impl Observer for Watch {
    fn held(&mut self, seen: &Seen, bytes: Option<&Bytes>) {
        if is_accounts(&seen.meta) {
            self.accounts = bytes.cloned().map_or(Accounts::TooMany, Accounts::Kept);
        }
    }

    fn differs(&mut self, difference: Difference) {
        let (meta, oddity) = (&difference.meta, difference.oddity);
        let line = format!("{} {}", MysqlLikeness.name(meta), oddity.verb());
        match table_of(meta) {
            Some((table, "rows")) => drop(self.rows.insert(table)),
            Some((table, "table")) => {
                self.findings.add(line);
                self.tables.insert(table, oddity);
            }
            Some((table, _)) if is_layout(meta) => drop(self.layouts.insert(table, line)),
            // A backup that may not read accounts has none, and each server has its own.
            _ if is_accounts(meta) && oddity == Oddity::Extra => {}
            _ if is_of_programs(meta) && self.scripts.len() < SCRIPTS_MAX => {
                self.scripts.insert(meta.path.to_string(), difference);
            }
            _ => self.findings.add(line),
        }
    }
}

/// A source of a snapshot, and the server that should hold the same.
pub struct Held<'a> {
    /// The snapshot.
    pub snapshot: &'a Snapshot,
    /// What it says of the source.
    pub manifest: &'a SourceManifest,
    /// How the server is read.
    pub config: MysqlConfig,
    /// Time and chance.
    pub ground: &'a Ground,
    /// Who hears what is read of the snapshot.
    pub monitor: &'a SharedMonitor,
    /// What is compared, without accounts and without locks; all when not given.
    pub only: Option<&'a Selection>,
    /// Whether only rows are compared: a server of another release tells the same definitions in other words.
    pub rows_only: bool,
    /// What goes by another name there, by its name in the snapshot.
    pub names: BTreeMap<String, String>,
    /// Items that are not compared.
    pub without: BTreeSet<String>,
    /// What a failure of the server's side is taken for.
    pub own: fn(Failure) -> Failure,
}

impl Held<'_> {
    fn name(&self) -> &SourceName {
        &self.manifest.name
    }

    /// Returns the source that reads the server. What it has to say was said when the original was read.
    fn source(&self) -> MysqlSource {
        let (name, ground) = (self.name().clone(), self.ground.clone());
        let source = MysqlSource::new(name, self.config.clone(), ground, NoMonitor::shared());
        let source = source.calling(self.names.clone());
        match self.only {
            Some(only) => source.selecting(only.clone()),
            None => source,
        }
    }

    async fn entries(&self, observer: &mut dyn Observer) -> Result<Compared> {
        let mut stored = Listed(self.snapshot.entries(self.manifest));
        let likeness = Selected { only: self.only, without: &self.without, rows_only: self.rows_only };
        let compared = compare::compare(&mut stored, Box::new(self.source()), &likeness, observer).await;
        compared.map_err(|error| error.about(self.name()))
    }
}

/// The likeness of what is selected; the rest is not compared.
struct Selected<'a> {
    only: Option<&'a Selection>,
    without: &'a BTreeSet<String>,
    rows_only: bool,
}

impl Likeness for Selected<'_> {
    fn canonical(&self, seen: Seen) -> Option<Seen> {
        let is_selected = |only: &Selection| only.picks(&seen.meta) && !is_accounts(&seen.meta);
        let is_meant = (!self.rows_only || seen.meta.stage == Stage::Data)
            && (self.without.is_empty() || !self.without.contains(&seen.meta.item));
        (is_meant && self.only.is_none_or(is_selected)).then(|| MysqlLikeness.canonical(seen)).flatten()
    }

    fn name(&self, meta: &EntryMeta) -> String {
        MysqlLikeness.name(meta)
    }

    fn count(&self, seen: &Seen, bytes: Option<&Bytes>, counts: &mut Counts) {
        MysqlLikeness.count(seen, bytes, counts);
    }

    fn keeps(&self, meta: &EntryMeta) -> bool {
        MysqlLikeness.keeps(meta)
    }
}

/// Compares the server with the snapshot, and names what differs.
pub async fn compare(pair: &Held<'_>) -> Result<(Compared, Findings)> {
    let mut watch = Watch {
        tables: BTreeMap::new(),
        layouts: BTreeMap::new(),
        rows: BTreeSet::new(),
        scripts: BTreeMap::new(),
        accounts: Accounts::Unknown,
        findings: Findings::default(),
    };
    let compared = pair.entries(&mut watch).await?;
    let Watch { tables, layouts, rows, scripts, accounts, mut findings, .. } = watch;
    let is_whole = |table: &Table| !matches!(tables.get(table), Some(Oddity::Missing | Oddity::Extra));
    // Where the definition differs, other columns are no news.
    layouts
        .into_iter()
        .filter(|(table, _)| !tables.contains_key(table))
        .for_each(|(_, line)| findings.add(line));
    programs(pair, scripts, &accounts, &mut findings).await?;
    for table in rows.iter().filter(|table| is_whole(table)) {
        let at = (table.0.as_str(), table.1.as_str());
        rows_of(pair, at, &mut findings).await.map_err(|error| error.about(pair.name()))?;
    }
    Ok((compared, findings))
}

/// Fetches the scripts that differ, and the accounts, and names what differs in them.
async fn programs(
    pair: &Held<'_>,
    mut scripts: BTreeMap<String, Difference>,
    accounts: &Accounts,
    findings: &mut Findings,
) -> Result<()> {
    let has_accounts = pair.only.is_none();
    if scripts.is_empty() && (*accounts == Accounts::Unknown || !has_accounts) {
        return Ok(());
    }
    let mut lines = pair.snapshot.entries(pair.manifest);
    while let Some(record) = lines.next().await? {
        let script = scripts.remove(record.meta.path.as_str());
        if script.is_none() && !(has_accounts && is_accounts(&record.meta)) {
            continue;
        }
        if record.size_bytes > KEPT_BYTES_MAX as u64 {
            match script {
                Some(script) => findings.add(script.text(&MysqlLikeness)),
                None => findings.uncompared = accounts.uncompared(true),
            }
            continue;
        }
        let stored = pair.snapshot.entry_bytes(&record, KEPT_BYTES_MAX as u64).await?;
        let named = match (&script, accounts) {
            (Some(script), _) => one_by_one(&record.meta, Some(&stored), script, pair.own)?,
            // What was stored is as it was written: it is known by its hash.
            (None, Accounts::Kept(found)) => {
                differing_accounts(&stored, found, &pair.manifest.inventory).map_err(pair.own)?
            }
            (None, _) => {
                findings.uncompared = accounts.uncompared(false);
                Vec::new()
            }
        };
        findings.extend(named);
    }
    for script in scripts.into_values() {
        let named = one_by_one(&script.meta, None, &script, pair.own)?;
        findings.extend(named);
    }
    Ok(())
}

impl Accounts {
    /// Returns why they are not compared with those that were stored, if so. Where the server shows none, they are
    /// missing, which was told.
    fn uncompared(&self, are_stored_too_many: bool) -> Option<String> {
        let are_too_many = match self {
            Self::Unknown => false,
            Self::Kept(_) => are_stored_too_many,
            Self::TooMany => true,
        };
        are_too_many.then(|| {
            let limit = ByteCount(KEPT_BYTES_MAX as u64);
            format!("the users, roles and grants are more than {limit}: too many to be compared")
        })
    }
}

/// Names the programs that differ; the script itself where that says nothing.
fn one_by_one(
    meta: &EntryMeta,
    stored: Option<&[u8]>,
    script: &Difference,
    own: fn(Failure) -> Failure,
) -> Result<Vec<String>> {
    let unknown = || vec![format!("entry {} {}", meta.path, script.oddity.verb())];
    if script.oddity != Oddity::Missing && script.bytes.is_none() {
        return Ok(unknown());
    }
    let db = meta.text("db").unwrap_or_default();
    let named = differing_programs(db, stored, script.bytes.as_deref()).map_err(own)?;
    Ok(if named.is_empty() { unknown() } else { named })
}

/// Compares the rows of one table as a set, and names those that differ.
async fn rows_of(pair: &Held<'_>, at: (&str, &str), findings: &mut Findings) -> FlowResult<()> {
    let sides = Sides { pair, at };
    let stored = sides.stored(|entries| sum_rows(entries, at, None)).await?;
    let found = sides.found(|entries| sum_rows(entries, at, Some(&stored))).await?;
    if !stored.is_comparable(&found) {
        let what = format!("the rows of table {}.{} differ: they have other columns", at.0, at.1);
        findings.add(what.escape_debug().to_string());
        return Ok(());
    }
    let Some(mut listing) = stored.listing(&found) else { return Ok(()) };
    sides.stored(|entries| list_rows(entries, at, &stored, Side::Stored, &mut listing)).await?;
    sides.found(|entries| list_rows(entries, at, &stored, Side::Found, &mut listing)).await?;
    let odds = name_rows(at, &stored, listing, findings.room());
    findings.total += odds.total;
    findings.is_open |= odds.is_open;
    findings.named.extend(odds.named);
    Ok(())
}

/// The two sides of one table.
struct Sides<'a> {
    pair: &'a Held<'a>,
    at: (&'a str, &'a str),
}

impl Sides<'_> {
    /// Reads the table in the snapshot.
    async fn stored<T, F: Future<Output = FlowResult<T>>>(
        &self,
        take: impl FnOnce(EntryStream) -> F,
    ) -> FlowResult<T> {
        let pair = self.pair;
        let only = Selection::new(&[selection(self.at.0, self.at.1)])?;
        let (sink, entries) = channel(STREAM_DEPTH);
        let read = pair.snapshot.read_source(pair.name(), &only, sink, pair.monitor);
        let (read, taken) = tokio::join!(read, take(entries));
        settle(read, taken).map(|((), taken)| taken)
    }

    /// Reads the table on the server.
    async fn found<T, F: Future<Output = FlowResult<T>>>(
        &self,
        take: impl FnOnce(EntryStream) -> F,
    ) -> FlowResult<T> {
        let source = Box::new(self.pair.source().only_table(self.at.0, self.at.1));
        let (sink, entries) = channel(STREAM_DEPTH);
        let (read, taken) = tokio::join!(source.read(sink, None), take(entries));
        let settled = settle(read, taken).map(|((), taken)| taken);
        settled.map_err(|error| (self.pair.own)(error.about(self.pair.name())).into())
    }
}
