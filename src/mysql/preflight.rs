//! What a restore needs and what does not fit: told before anything is touched.
//!
//! Only questions are asked. Where the server cannot tell something (how much room its disk has), that is said and no
//! figure made up.

use std::collections::{BTreeMap, BTreeSet};

use mysql_async::Conn;

use super::{
    accounts::{self, parts},
    apply,
    choices::AccountsRule,
    conn::{Flavor, Purpose, Server, text},
    cross::Dialect,
    ddl,
    examine::Grants,
    layout::{ACCOUNTS, Place},
    part,
    sql::{Script, account, ident, literal},
    trial::{self, Programs, Tables},
};
use crate::{
    error::Result,
    flow::{Coming, ComingEntry, EntryMeta, Preflight, Remark, Stage, Weight, WriteOptions},
};

/// How to go on where something does not fit.
pub(super) const LEAVE_OUT: &str = "Say --leave-out-unfit to restore without what does not fit; --plan lists it. --map-collation FROM=TO names \
     another collation.";

/// Bytes of an index for each row, about: its key, the primary key, and what a page has to spare.
const INDEX_ROW_BYTES: u64 = 40;
/// Bytes of a page, which the smallest table has one of, and each of its indexes.
const PAGE_BYTES: u64 = 16 << 10;
/// Objects that one line names; more are counted.
const NAMED_MAX: usize = 5;

/// Names an entry to a person: `table im.users`, `routines of im`.
pub(super) fn name(meta: &EntryMeta) -> String {
    let db = meta.text("db").unwrap_or_default();
    let full = format!("{db}.{}", meta.text("table").unwrap_or_default());
    match meta.text("kind").unwrap_or_default() {
        "database" => format!("database {db}"),
        "placeholder" => format!("view {full}"),
        "triggers" => format!("triggers of {full}"),
        kind @ ("routines" | "events") => format!("{kind} of {db}"),
        kind => format!("{kind} {full}"),
    }
}

/// Returns the accounts of the server as SQL names them, its own among them.
async fn all_accounts(server: &Server, conn: &mut Conn) -> Result<BTreeSet<String>> {
    let rows = server.rows(conn, "SELECT user, host FROM mysql.user", "list the accounts").await?;
    let all = rows.iter().filter_map(|row| {
        let (user, host) = (text(row, 0)?, text(row, 1)?);
        // A role of MariaDB has no host.
        Some(if host.is_empty() { ident(&user) } else { account(&user, &host) })
    });
    Ok(all.collect())
}

/// Returns the accounts that a server cannot hold, with the reason; those that are kept need not fit.
pub(super) fn unfit_accounts(
    dialect: &Dialect,
    script: &Script,
    kept: &BTreeSet<String>,
) -> BTreeMap<String, String> {
    let all: Vec<(String, String)> =
        script.statements.iter().filter_map(|statement| parts(statement).ok()).collect();
    let is_foreign = all.iter().any(|(_, sql)| dialect.is_foreign(sql));
    let unfit =
        all.into_iter().filter(|(account, _)| !kept.contains(account)).filter_map(|(account, sql)| {
            if is_foreign {
                return Some((account, "it is written in the other product's words".to_owned()));
            }
            let plugin = dialect.unknown_login(&sql).filter(|_| sql.starts_with("CREATE USER"))?;
            Some((account, format!("the server has no login method {plugin}")))
        });
    unfit.collect()
}

/// Looks what restoring `coming` needs and what of it does not fit; returns also the programs and tables that are among
/// it, to be tried.
pub(super) async fn look(
    server: &Server,
    options: &WriteOptions,
    rule: AccountsRule,
    coming: &mut dyn Coming,
) -> Result<(Preflight, Programs, Tables)> {
    let mut conn = server.open(Purpose::WriteNames).await?;
    let (dialect, _) = Dialect::of(server, &mut conn, &options.fit.collations).await?;
    // Who may not read the accounts is told nothing of them.
    let kept = accounts::kept(server, &mut conn, dialect.flavor, rule).await.unwrap_or_default();
    let mut seen = Seen { kept, ..Seen::default() };
    if !options.only.ranges().is_empty() {
        // Triggers fire for the rows of a range, and are shown to who may have some.
        seen.kinds.insert("triggers".to_owned());
    }
    while let Some(entry) = coming.next().await? {
        let is_left_out = rule == AccountsRule::None && entry.meta.text("kind") == Some(ACCOUNTS);
        if is_left_out {
            continue;
        }
        if !options.only.is_in_part(&entry.meta.item) {
            seen.judge(&dialect, &entry);
        }
        seen.count(&entry);
    }
    let mut found = Preflight {
        tables: seen.tables.len() as u64,
        rows: seen.rows,
        needed_bytes: seen.needed_bytes(),
        ..Preflight::default()
    };
    for part in part::find(server, &mut conn, &options.only).await?.values() {
        found.in_the_way.extend(part.in_the_way(server, &mut conn).await?);
    }
    let mut asking = Asking { server, conn, flavor: dialect.flavor, seen: &seen, remarks: BTreeSet::new() };
    found.room = asking.room().await?;
    asking.settings().await?;
    asking.privileges(options.replace).await?;
    asking.programs().await?;
    asking.definers().await?;
    let mut remarks = asking.remarks;
    remarks.extend(seen.remarks());
    found.remarks = remarks.into_iter().collect();
    Ok((found, seen.programs, seen.to_try))
}

/// What was seen of the entries.
#[derive(Default)]
struct Seen {
    tables: BTreeSet<Place>,
    /// Tables, views and sequences, but for those that do not fit.
    names: BTreeSet<Place>,
    /// Items that do not fit.
    unfit: BTreeSet<String>,
    databases: BTreeSet<String>,
    kinds: BTreeSet<String>,
    rows: u64,
    data_bytes: u64,
    longest_row_bytes: u64,
    /// Rows of each table, and its secondary indexes.
    rows_of: BTreeMap<Place, u64>,
    indexes_of: BTreeMap<Place, u64>,
    keyless: BTreeSet<String>,
    definers: BTreeSet<String>,
    /// What may be refused for the sake of the binlog.
    programs: Programs,
    /// The tables that fit, as far as it is known.
    to_try: Tables,
    has_functions: bool,
    /// Functions that do not say what they read.
    unclear: BTreeSet<String>,
    accounts: BTreeSet<String>,
    /// Accounts of the server that stay as they are.
    kept: BTreeSet<String>,
    /// Definitions that could not be read.
    unread: u64,
    /// (weight, why) → what.
    found: BTreeMap<(Weight, String), BTreeSet<String>>,
}

impl Seen {
    fn count(&mut self, entry: &ComingEntry) {
        let meta = &entry.meta;
        let kind = meta.text("kind").unwrap_or_default();
        self.kinds.insert(kind.to_owned());
        self.databases.extend(meta.text("db").map(str::to_owned));
        let at = meta.text("db").zip(meta.text("table"));
        let at = at.map(|(db, table)| Place { db: db.to_owned(), table: table.to_owned() });
        if kind == "table" {
            self.tables.extend(at.clone());
        }
        if matches!(kind, "table" | "placeholder" | "sequence") {
            self.names.extend(at.clone());
        }
        if meta.stage == Stage::Data {
            let number =
                |name: &str| entry.trailer.get(name).and_then(serde_json::Value::as_u64).unwrap_or(0);
            self.rows += number("rows");
            self.data_bytes += entry.size_bytes;
            // Rows of a table that does not fit are left out with it, or nothing comes.
            if !self.unfit.contains(&meta.item) {
                self.longest_row_bytes = self.longest_row_bytes.max(number("longest_row_bytes"));
            }
            if let Some(at) = at {
                *self.rows_of.entry(at).or_default() += number("rows");
            }
        }
    }

    fn judge(&mut self, dialect: &Dialect, entry: &ComingEntry) {
        let meta = &entry.meta;
        let kind = meta.text("kind").unwrap_or_default();
        if meta.stage == Stage::Data || kind == "layout" {
            return;
        }
        let Some(bytes) = &entry.definition else {
            self.unread += 1;
            return;
        };
        // What is damaged is told when it is restored.
        let Ok(mut script) = Script::parse(bytes, meta.path.as_str()) else { return };
        if kind == ACCOUNTS {
            let made = script.statements.iter().filter_map(|one| Some(parts(one).ok()?.0));
            self.accounts.extend(made);
            for (account, why) in unfit_accounts(dialect, &script, &self.kept) {
                self.note(Weight::DoesNotFit, format!("account {account}"), why);
            }
            return;
        }
        for statement in &script.statements {
            let text = String::from_utf8_lossy(statement);
            self.definers.extend(definer(&text));
            if let Some(("FUNCTION", at)) = apply::created(statement).filter(|_| kind == "routines") {
                self.has_functions = true;
                if !trial::says_what_it_reads(&text) {
                    let name = String::from_utf8_lossy(&statement[at]);
                    self.unclear.insert(format!("function {name} of {}", meta.item));
                }
            }
        }
        if kind == "table" {
            self.note_table(meta, &script);
        }
        let fitted = dialect.fit_script(meta, &mut script);
        self.programs.note(kind, &script);
        let what = name(meta);
        fitted.mapped.into_iter().for_each(|why| self.note(Weight::Mapped, what.clone(), why));
        // A table of rows that are kept elsewhere is left out where it cannot be made, and told.
        if kind == "table" && fitted.unfit.is_empty() {
            self.to_try.note(&meta.item, &script);
        }
        let weight = if kind == "definition" { Weight::Note } else { Weight::DoesNotFit };
        if weight == Weight::DoesNotFit && !fitted.unfit.is_empty() {
            let at = meta.text("db").zip(meta.text("table"));
            self.names.retain(|name| Some((name.db.as_str(), name.table.as_str())) != at);
            self.unfit.insert(meta.item.clone());
        }
        fitted.unfit.into_iter().for_each(|why| self.note(weight, what.clone(), why));
    }

    fn note_table(&mut self, meta: &EntryMeta, script: &Script) {
        let create = script.statements.last().map(|one| String::from_utf8_lossy(one)).unwrap_or_default();
        let parts = ddl::split(&create, true);
        let at = meta.text("db").zip(meta.text("table"));
        if let Some((db, table)) = at {
            let at = Place { db: db.to_owned(), table: table.to_owned() };
            self.indexes_of.insert(at, (parts.indexes.len() + parts.single_indexes.len()) as u64);
        }
        if !ddl::has_primary_key(&create) {
            self.keyless.insert(meta.item.clone());
        }
    }

    fn note(&mut self, weight: Weight, what: String, why: String) {
        self.found.entry((weight, why)).or_default().insert(what);
    }

    /// Returns what was noted, a remark for each reason.
    fn remarks(&self) -> Vec<Remark> {
        let found = self.found.iter();
        let mut all: Vec<Remark> =
            found.map(|((weight, why), what)| Remark::new(*weight, listed(what), why.clone())).collect();
        if self.unread > 0 {
            let why = "they can be read with the recovery identity only: what of them does not fit is told when \
                       the restore itself begins";
            all.push(Remark::new(Weight::Note, format!("{} definitions", self.unread), why));
        }
        all
    }

    fn needed_bytes(&self) -> u64 {
        let of_indexes = |(at, indexes): (&Place, &u64)| {
            indexes * self.rows_of.get(at).copied().unwrap_or_default() * INDEX_ROW_BYTES
        };
        // Each tree has a page at least. One is filled to 15/16; a row has a head and hidden columns.
        let trees = self.tables.len() as u64 + self.indexes_of.values().sum::<u64>();
        trees * PAGE_BYTES
            + self.data_bytes
            + self.data_bytes / 8
            + self.rows * 24
            + self.indexes_of.iter().map(of_indexes).sum::<u64>()
    }
}

/// Names things in a line, the first few of many.
pub(super) fn listed(names: &BTreeSet<String>) -> String {
    let first: Vec<&str> = names.iter().take(NAMED_MAX).map(String::as_str).collect();
    let more = names.len().saturating_sub(NAMED_MAX);
    if more == 0 { first.join(", ") } else { format!("{} and {more} more", first.join(", ")) }
}

/// Returns the account that a program runs as: of ``… DEFINER=`u`@`h` …``.
pub(super) fn definer(statement: &str) -> Option<String> {
    let head = statement.strip_prefix("CREATE ")?;
    let at = head.find("DEFINER=`").filter(|at| !head[..*at].contains(['(', '\'', '`']))?;
    let rest = &head[at + "DEFINER=".len()..];
    let user = ddl::quoted_end(rest, 0);
    let host = rest[user..].strip_prefix('@').map_or(0, |host| ddl::quoted_end(host, 0) + 1);
    Some(rest[..user + host].to_owned())
}

/// The questions to the server.
struct Asking<'a> {
    server: &'a Server,
    conn: Conn,
    flavor: Flavor,
    seen: &'a Seen,
    remarks: BTreeSet<Remark>,
}

impl Asking<'_> {
    fn remark(&mut self, weight: Weight, what: &str, why: impl Into<String>) {
        self.remarks.insert(Remark::new(weight, what, why));
    }

    async fn settings_of(&mut self, scope: &str, names: &[&str]) -> Result<BTreeMap<String, String>> {
        let list: Vec<String> = names.iter().map(|name| literal(name)).collect();
        let sql = format!("SHOW {scope} VARIABLES WHERE Variable_name IN ({})", list.join(", "));
        let rows = self.server.rows(&mut self.conn, &sql, "ask the server's settings").await?;
        Ok(rows.iter().filter_map(|row| Some((text(row, 0)?.to_lowercase(), text(row, 1)?))).collect())
    }

    /// Says what the server tells of its room.
    async fn room(&mut self) -> Result<String> {
        let datadir = self.settings_of("GLOBAL", &["datadir"]).await?;
        let folder = datadir.get("datadir").map_or("unknown", String::as_str).to_owned();
        let mut held = 0;
        if !self.seen.databases.is_empty() {
            let names: Vec<String> = self.seen.databases.iter().map(|db| literal(db)).collect();
            let sql = format!(
                "SELECT CAST(COALESCE(SUM(data_length + index_length), 0) AS UNSIGNED) FROM \
                 information_schema.tables WHERE table_schema IN ({})",
                names.join(", ")
            );
            let rows = self.server.rows(&mut self.conn, &sql, "ask what the databases take").await?;
            held = rows.first().and_then(|row| text(row, 0)).and_then(|n| n.parse().ok()).unwrap_or(0);
        }
        let held = crate::names::ByteCount(held);
        Ok(format!(
            "the databases there take {held} now; how much room is left on its disk ({folder}) the server does not tell"
        ))
    }

    async fn settings(&mut self) -> Result<()> {
        let names = [
            "read_only",
            "super_read_only",
            "local_infile",
            "lower_case_table_names",
            "max_allowed_packet",
            "innodb_read_only",
        ];
        let global = self.settings_of("GLOBAL", &names).await?;
        let is_on = |name: &str| global.get(name).is_some_and(|value| value == "ON" || value == "1");
        let number = |name: &str| global.get(name).and_then(|value| value.parse::<u64>().ok()).unwrap_or(0);
        for name in ["super_read_only", "innodb_read_only"] {
            if is_on(name) {
                self.remark(Weight::Blocks, name, "the server takes no writes: is this a replica?");
            }
        }
        if is_on("read_only") && !is_on("super_read_only") {
            let bypass = ["CONNECTION_ADMIN", "SUPER", "READ_ONLY ADMIN", "READ ONLY ADMIN"];
            let grants = Grants::of(self.server, &mut self.conn).await?;
            let may = bypass.iter().any(|one| grants.globally(one));
            let weight = if may { Weight::Note } else { Weight::Blocks };
            self.remark(weight, "read_only", "the server is read-only for most accounts: is this a replica?");
        }
        if !is_on("local_infile") && self.seen.rows > 0 {
            let why = "it is off: rows are inserted instead of streamed, which takes longer";
            self.remark(Weight::Note, "local_infile", why);
        }
        let (packet, longest) = (number("max_allowed_packet"), self.seen.longest_row_bytes);
        if packet > 0 && longest > packet {
            let why =
                format!("the longest row has {longest} bytes as it is stored; the server takes {packet}");
            // What is streamed is cut into packets; what is inserted is not.
            let weight = if is_on("local_infile") { Weight::Note } else { Weight::Blocks };
            self.remark(weight, "max_allowed_packet", why);
        }
        if number("lower_case_table_names") != 0 {
            self.note_twins();
        }
        self.primary_keys().await
    }

    /// Names tables, views and databases that differ only by case, where the server takes them for one.
    fn note_twins(&mut self) {
        let mut by_name: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let names = self.seen.names.iter().map(ToString::to_string);
        for name in names.chain(self.seen.databases.iter().cloned()) {
            by_name.entry(name.to_lowercase()).or_default().insert(name);
        }
        for twins in by_name.values().filter(|twins| twins.len() > 1) {
            let why = "they differ by case only, and the server takes them for one (lower_case_table_names)";
            self.remark(Weight::Blocks, &listed(twins), why);
        }
    }

    /// Looks whether tables without a primary key can be made.
    async fn primary_keys(&mut self) -> Result<()> {
        let session =
            self.settings_of("SESSION", &["sql_require_primary_key", "innodb_force_primary_key"]).await?;
        let keyless = listed(&self.seen.keyless);
        if !keyless.is_empty() && session.values().any(|value| value == "ON") {
            let why = "the server takes no table without a primary key, and this account may not switch that off \
                       (sql_require_primary_key)";
            self.remark(Weight::Blocks, &keyless, why);
        }
        Ok(())
    }

    async fn privileges(&mut self, replace: bool) -> Result<()> {
        let grants = Grants::of(self.server, &mut self.conn).await?;
        let has = |kind: &str| self.seen.kinds.contains(kind);
        let mut needed = vec!["SELECT", "INSERT", "CREATE", "ALTER", "INDEX", "DROP"];
        needed.extend(
            [("REFERENCES", has("table")), ("DELETE", replace && has("rows"))].iter().filter_map(only),
        );
        needed.extend(
            [
                ("CREATE VIEW", has("view")),
                ("CREATE ROUTINE", has("routines")),
                ("ALTER ROUTINE", has("routines")),
                ("TRIGGER", has("triggers")),
                ("EVENT", has("events")),
            ]
            .iter()
            .filter_map(only),
        );
        let may = |privilege: &str| self.seen.databases.iter().all(|db| grants.on(privilege, db));
        let mut missing: Vec<&str> = needed.into_iter().filter(|privilege| !may(privilege)).collect();
        if has(ACCOUNTS) && !grants.globally("CREATE USER") {
            missing.push("CREATE USER");
        }
        let me = self.me().await?;
        let others = self.seen.definers.iter().any(|definer| *definer != me);
        let for_others = ["SET_ANY_DEFINER", "SET_USER_ID", "SET USER", "SUPER"];
        if others && !for_others.iter().any(|one| grants.globally(one)) {
            missing.push(if self.flavor == Flavor::Mysql { "SET_ANY_DEFINER" } else { "SET USER" });
        }
        if missing.is_empty() {
            return Ok(());
        }
        let list = missing.join(", ");
        let weight = self.weight_of_lacking().await;
        self.remark(
            weight,
            &format!("account {me}"),
            format!("it lacks {list}: GRANT {list} ON *.* TO {me};"),
        );
        Ok(())
    }

    /// Returns the account that the session is of, as SQL names it.
    async fn me(&mut self) -> Result<String> {
        let me = self.one("SELECT CURRENT_USER()").await?;
        let (user, host) = me.rsplit_once('@').unwrap_or((&me, "%"));
        Ok(account(user, host))
    }

    /// A role may give what is missing; not every server shows what roles give.
    async fn weight_of_lacking(&mut self) -> Weight {
        let role = self.one("SELECT CURRENT_ROLE()").await.unwrap_or_default();
        if matches!(role.as_str(), "" | "NONE") { Weight::Blocks } else { Weight::Note }
    }

    /// Says whether a binlog keeps functions and triggers from being made.
    async fn programs(&mut self) -> Result<()> {
        let has_some = self.seen.has_functions || self.seen.kinds.contains("triggers");
        let settings = self.settings_of("GLOBAL", &["log_bin", "log_bin_trust_function_creators"]).await?;
        let is_on = |name: &str| settings.get(name).is_some_and(|value| value == "ON" || value == "1");
        if !has_some || !is_on("log_bin") || is_on("log_bin_trust_function_creators") {
            return Ok(());
        }
        if !self.seen.unclear.is_empty() {
            self.remark(Weight::Blocks, &listed(&self.seen.unclear), trial::NEEDS_TRUST);
        }
        if !Grants::of(self.server, &mut self.conn).await?.globally("SUPER") {
            let what = format!("account {}", self.me().await?);
            let weight = self.weight_of_lacking().await;
            self.remark(weight, &what, trial::NEEDS_SUPER);
        }
        Ok(())
    }

    async fn one(&mut self, sql: &str) -> Result<String> {
        let rows = self.server.rows(&mut self.conn, sql, "ask who it is").await?;
        Ok(rows.first().and_then(|row| text(row, 0)).unwrap_or_default())
    }

    /// Names accounts that programs run as and that would not be there.
    async fn definers(&mut self) -> Result<()> {
        if self.seen.definers.is_empty() {
            return Ok(());
        }
        // Who may not read the accounts is told nothing of them.
        let Ok(there) = all_accounts(self.server, &mut self.conn).await else { return Ok(()) };
        let is_missing =
            |definer: &&String| !there.contains(*definer) && !self.seen.accounts.contains(*definer);
        let missing: BTreeSet<String> = self.seen.definers.iter().filter(is_missing).cloned().collect();
        if !missing.is_empty() {
            let why = "programs run as it, and it is neither there nor restored: they are made, and fail when they run";
            self.remark(Weight::Note, &format!("definer {}", listed(&missing)), why);
        }
        Ok(())
    }
}

fn only(wanted: &(&'static str, bool)) -> Option<&'static str> {
    wanted.1.then_some(wanted.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definer_stands_before_everything_else() {
        let create = "CREATE DEFINER=`o``dd`@`10.%` PROCEDURE `p`() SELECT 1";
        assert_eq!(definer(create).as_deref(), Some("`o``dd`@`10.%`"));
        let view = "CREATE ALGORITHM=UNDEFINED DEFINER=`root`@`%` SQL SECURITY DEFINER VIEW `v` AS SELECT 1";
        assert_eq!(definer(view).as_deref(), Some("`root`@`%`"));
        assert_eq!(definer("CREATE TABLE `t` (`a` int COMMENT 'DEFINER=`x`@`y`')"), None);
    }

    #[test]
    fn a_line_names_the_first_few_and_counts_the_rest() {
        let names = |n: usize| (0..n).map(|n| format!("t{n}")).collect::<BTreeSet<_>>();
        assert_eq!(listed(&names(2)), "t0, t1");
        assert_eq!(listed(&names(8)), "t0, t1, t2, t3, t4 and 3 more");
    }
}
