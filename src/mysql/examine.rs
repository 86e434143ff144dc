//! Looks whether a server can be backed up: [`examine`].
//!
//! Everything here only reads, and asks for nothing that takes long or locks anybody out.

use std::collections::BTreeMap;

use chrono::{DateTime, NaiveDateTime, TimeDelta, Utc};
use mysql_async::Conn;

use super::{
    conn::{Flavor, Purpose, Server, text},
    layout::{Wanted, databases},
    ledger,
    sql::account,
};
use crate::{
    clock::Ground,
    error::Result,
    finding::{Finding, Status, laws, skew_seconds},
    names::SourceName,
    policy::MysqlConfig,
};

laws! {
    page "mysql";
    ANSWERS = "mysql.answers",
        "the server answers and lets us in",
        "Is the server running, and are host, port, user, password and tls right in the policy?";
    VERSION = "mysql.version",
        "the server is of a version that lifeboat is made for",
        "Made for MySQL 8.0 to 9 and MariaDB 10.11 to 12. Make a drill before you rely on another one.";
    GRANTS = "mysql.grants",
        "the account has every privilege that a whole backup needs",
        "Grant what is missing; docs/mysql.md has the statement.";
    BINLOG = "mysql.binlog",
        "the server writes a binlog",
        "Set log_bin: without it nothing between two backups can ever be restored.";
    BINLOG_EXPIRY = "mysql.binlog_expiry",
        "the binlog is kept longer than the time between two backups",
        "Raise binlog_expire_logs_seconds, or back up more often: a binlog that is gone leaves a gap.";
    TIME_ZONE = "mysql.time_zone",
        "the server's time zone is known to it",
        "Load the zone tables: mysql_tzinfo_to_sql /usr/share/zoneinfo | mysql mysql";
    CLOCK = "mysql.clock",
        "the server's clock is within 5 minutes of this host's",
        "Set both clocks by NTP: `timedatectl` shows this host's.";
    LEDGER_LEFT = "mysql.ledger",
        "no restore into the server stopped half way",
        "Go on with it, `lifeboat restore … --resume`, or drop database lifeboat_restore if nobody wants it any more.";
    LOOKED = "mysql.looked",
        "the server answers every question about itself",
        "Look into the server's own log.";
}

/// What is asked of the server's settings.
const SETTINGS: &str = "SHOW GLOBAL VARIABLES WHERE Variable_name IN ('log_bin', 'binlog_expire_logs_seconds', \
    'expire_logs_days', 'binlog_expire_logs_auto_purge', 'time_zone', 'system_time_zone')";

/// Looks at one server. `backups_every` is the longest time between two backups of the schedule.
pub async fn examine(
    name: &SourceName,
    config: &MysqlConfig,
    backups_every: Option<TimeDelta>,
    ground: &Ground,
) -> Vec<Finding> {
    let opened = async {
        let server = Server::new(name, config, false)?;
        let mut conn = server.open(Purpose::ReadNames).await?;
        let (flavor, version) = server.version(&mut conn).await?;
        Ok((server, conn, flavor, version))
    };
    let (server, conn, flavor, version) = match opened.await {
        Ok(opened) => opened,
        Err(failure) => return vec![ANSWERS.failed(Status::Broken, &failure)],
    };
    let mut findings = vec![ANSWERS.ok(server.place()), judge_version(flavor, &version)];
    let mut looking = Looking { server: &server, conn, flavor };
    let looked = async {
        findings.push(looking.clock(ground).await?);
        findings.push(looking.grants().await?);
        let settings = looking.settings().await?;
        findings.extend(binlog(&settings, backups_every));
        findings.push(looking.time_zone(&settings).await?);
        findings.push(looking.ledger().await?);
        Ok(())
    };
    if let Err(failure) = looked.await {
        findings.push(LOOKED.failed(Status::Unknown, &failure));
    }
    findings
}

type Settings = BTreeMap<String, String>;

struct Looking<'a> {
    server: &'a Server,
    conn: Conn,
    flavor: Flavor,
}

impl Looking<'_> {
    /// Asks for the first column of the first row.
    async fn one(&mut self, sql: &str, doing: &str) -> Result<Option<String>> {
        let rows = self.server.rows(&mut self.conn, sql, doing).await?;
        Ok(rows.first().and_then(|row| text(row, 0)))
    }

    async fn clock(&mut self, ground: &Ground) -> Result<Finding> {
        let began = ground.clock.now();
        let told = self.one("SELECT UTC_TIMESTAMP(6)", "ask the time").await?.unwrap_or_default();
        let ended = ground.clock.now();
        Ok(instant(&told).map_or_else(
            || CLOCK.found(Status::Unknown, format!("it says that it is `{told}`")),
            |theirs| CLOCK.skew(skew_seconds(theirs, began, ended, TimeDelta::zero())),
        ))
    }

    async fn settings(&mut self) -> Result<Settings> {
        let rows = self.server.rows(&mut self.conn, SETTINGS, "ask the server's settings").await?;
        Ok(rows.iter().filter_map(|row| Some((text(row, 0)?.to_lowercase(), text(row, 1)?))).collect())
    }

    async fn grants(&mut self) -> Result<Finding> {
        let grants = Grants::of(self.server, &mut self.conn).await?;
        let me = self.one("SELECT CURRENT_USER()", "ask who it is").await?.unwrap_or_default();
        let wanted = Wanted::new(&self.server.config)?;
        let seen = databases(self.server, &mut self.conn, &wanted).await?;
        let mut names: Vec<String> = seen.into_iter().map(|db| db.name).collect();
        // What the account may not see is not listed; a name that stands in the policy is meant all the same.
        let is_name = |pattern: &&String| !pattern.contains(['*', '?', '[', '{']);
        let named = self.server.config.databases.iter().filter(is_name).cloned();
        names.extend(named);
        Ok(judge_grants(&grants, self.flavor, &names, wanted.accounts(), &me))
    }

    /// Tells restores that were interrupted. One that is at work now is none.
    async fn ledger(&mut self) -> Result<Finding> {
        let left = ledger::left(self.server, &mut self.conn).await?;
        Ok(match left {
            0 => LEDGER_LEFT.ok("no notes of one are seen"),
            1 => LEDGER_LEFT
                .found(Status::Warn, "database lifeboat_restore has notes of a restore that did not end"),
            n => LEDGER_LEFT.found(
                Status::Warn,
                format!("database lifeboat_restore has notes of {n} restores that did not end"),
            ),
        })
    }

    async fn time_zone(&mut self, settings: &Settings) -> Result<Finding> {
        let told = |name: &str| settings.get(name).map_or("unknown", String::as_str);
        let (global, system) = (told("time_zone"), told("system_time_zone"));
        let shown = if global == "SYSTEM" { format!("SYSTEM ({system})") } else { global.to_owned() };
        let knows = "SELECT CONVERT_TZ('2026-01-01 00:00:00', 'UTC', 'Asia/Shanghai')";
        if self.one(knows, "ask for its time zones").await?.is_some() {
            return Ok(TIME_ZONE.ok(format!("{shown}; zones are known by name")));
        }
        let named = "SELECT COUNT(*) FROM information_schema.events \
            WHERE time_zone <> 'SYSTEM' AND time_zone NOT LIKE '%:%'";
        let events = self.one(named, "ask for the zones of its events").await?.unwrap_or_default();
        if events == "0" {
            return Ok(TIME_ZONE.ok(format!("{shown}; zones have no names there, and no event uses one")));
        }
        let detail = format!("{shown}; {events} events name a zone, and the zone tables are empty");
        Ok(TIME_ZONE.found(Status::Warn, detail))
    }
}

fn instant(text: &str) -> Option<DateTime<Utc>> {
    Some(NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f").ok()?.and_utc())
}

/// Judges a version as [`Server::version`] tells it: `MySQL 8.0.36`, `MariaDB 10.11.6`.
fn judge_version(flavor: Flavor, version: &str) -> Finding {
    let number = version.split(' ').nth(1).unwrap_or_default();
    let mut parts = number.split(['.', '-']).map(|part| part.parse::<u32>().unwrap_or(0));
    let number = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    let (oldest, newest) = match flavor {
        Flavor::Mysql => ((8, 0), 9),
        Flavor::Mariadb => ((10, 11), 12),
    };
    let (tested, tested_name) = match flavor {
        Flavor::Mysql => ((9, 7), "MySQL 9.7"),
        Flavor::Mariadb => ((10, 11), "MariaDB 10.11"),
    };
    if number < oldest {
        VERSION.found(Status::Warn, format!("{version} is older than any that lifeboat is made for"))
    } else if number.0 > newest {
        VERSION.found(Status::Warn, format!("{version} is newer than any that lifeboat is made for"))
    } else if number == tested {
        VERSION.ok(version)
    } else {
        VERSION.ok(format!(
            "{version}, after its manual; every change is tested with {tested_name}: make a drill"
        ))
    }
}

/// One line of `SHOW GRANTS`, as far as it matters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Grant {
    privileges: Vec<String>,
    /// The pattern of databases; `None` for all.
    database: Option<String>,
}

impl Grant {
    /// Reads a line; `None` for what is no privilege on databases. A line may hold a password's hash: nothing of it is
    /// ever told.
    fn parse(line: &str) -> Option<Self> {
        Self::between(line, "GRANT ", " TO ")
    }

    fn between(line: &str, verb: &str, behind: &str) -> Option<Self> {
        let (privileges, rest) = line.strip_prefix(verb)?.split_once(" ON ")?;
        let (object, _) = rest.split_once(behind)?;
        let database = if object == "*.*" {
            None
        } else {
            let name = object.strip_suffix(".*")?;
            let name = name.strip_prefix('`').and_then(|name| name.strip_suffix('`')).unwrap_or(name);
            Some(name.replace("``", "`"))
        };
        let privileges = privileges.split(',').map(|one| one.trim().to_uppercase()).collect();
        Some(Self { privileges, database })
    }

    fn gives(&self, privilege: &str) -> bool {
        let same = |given: &String| match given.as_str() {
            "ALL PRIVILEGES" | "ALL" => true,
            // MariaDB's newer name for one and the same.
            "BINLOG MONITOR" => privilege == "REPLICATION CLIENT",
            given => given == privilege,
        };
        self.privileges.iter().any(same)
    }

    fn concerns(&self, database: &str) -> bool {
        self.database.as_ref().is_none_or(|pattern| is_like(database, pattern))
    }
}

/// What an account may do: its lines of `SHOW GRANTS`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Grants {
    given: Vec<Grant>,
    /// What MySQL takes from an account for single databases that it may for all (`partial_revokes`).
    revoked: Vec<Grant>,
}

impl Grants {
    /// Asks what the session's account may do.
    pub async fn of(server: &Server, conn: &mut Conn) -> Result<Self> {
        let rows = server.rows(conn, "SHOW GRANTS", "ask for its own privileges").await?;
        Ok(Self::parse(rows.iter().filter_map(|row| text(row, 0))))
    }

    fn parse(lines: impl Iterator<Item = String>) -> Self {
        let mut all = Self::default();
        for line in lines {
            all.given.extend(Grant::parse(&line));
            all.revoked.extend(Grant::between(&line, "REVOKE ", " FROM "));
        }
        all
    }

    /// Returns whether it may do this everywhere, but for what was revoked.
    pub fn globally(&self, privilege: &str) -> bool {
        self.given.iter().any(|grant| grant.database.is_none() && grant.gives(privilege))
    }

    /// Returns whether it may do this in a database.
    pub fn on(&self, privilege: &str, db: &str) -> bool {
        // The name of what is revoked is no pattern.
        let is_revoked = |one: &Grant| one.gives(privilege) && one.database.as_deref() == Some(db);
        let is_local = |one: &Grant| one.database.is_some() && one.gives(privilege) && one.concerns(db);
        self.given.iter().any(is_local) || self.globally(privilege) && !self.revoked.iter().any(is_revoked)
    }
}

/// Compares as SQL's `LIKE` does, which is how servers compare the names of grants.
fn is_like(name: &str, pattern: &str) -> bool {
    let mut pattern_chars = pattern.chars();
    match pattern_chars.next() {
        None => name.is_empty(),
        Some('%') => {
            let rest = pattern_chars.as_str();
            let mut ends = name.char_indices().map(|(at, _)| at).chain([name.len()]);
            ends.any(|at| is_like(&name[at..], rest))
        }
        Some(first) => {
            let wanted = if first == '\\' { pattern_chars.next() } else { Some(first) };
            let mut name_chars = name.chars();
            let fits = match (name_chars.next(), wanted) {
                (Some(_), Some('_')) if first == '_' => true,
                (Some(one), Some(wanted)) => one == wanted,
                _ => false,
            };
            fits && is_like(name_chars.as_str(), pattern_chars.as_str())
        }
    }
}

/// What a backup reads with. `is_vital`: without it something would be left out.
struct Privilege {
    name: &'static str,
    on_databases: bool,
    is_vital: bool,
}

const NEEDED: [Privilege; 9] = [
    Privilege { name: "SELECT", on_databases: true, is_vital: true },
    Privilege { name: "SHOW VIEW", on_databases: true, is_vital: true },
    Privilege { name: "TRIGGER", on_databases: true, is_vital: true },
    Privilege { name: "EVENT", on_databases: true, is_vital: true },
    Privilege { name: "LOCK TABLES", on_databases: true, is_vital: false },
    Privilege { name: "RELOAD", on_databases: false, is_vital: false },
    Privilege { name: "PROCESS", on_databases: false, is_vital: false },
    Privilege { name: "REPLICATION CLIENT", on_databases: false, is_vital: false },
    Privilege { name: "BACKUP_ADMIN", on_databases: false, is_vital: false },
];

fn judge_grants(grants: &Grants, flavor: Flavor, databases: &[String], accounts: bool, me: &str) -> Finding {
    let is_missing = |needed: &&Privilege| {
        let local = needed.on_databases && !databases.is_empty();
        let is_known = flavor == Flavor::Mysql || needed.name != "BACKUP_ADMIN";
        let has = if local {
            databases.iter().all(|db| grants.on(needed.name, db))
        } else {
            grants.globally(needed.name)
        };
        is_known && !has
    };
    let missing: Vec<&Privilege> = NEEDED.iter().filter(is_missing).collect();
    if missing.is_empty() {
        if accounts && !grants.on("SELECT", "mysql") {
            let (user, host) = me.rsplit_once('@').unwrap_or((me, "%"));
            let found = GRANTS.found(Status::Warn, "the server's accounts cannot be read: SELECT on mysql.*");
            let to = account(user, host);
            return found
                .hint(format!("GRANT SELECT ON mysql.* TO {to}; or exclude `accounts` in the policy."));
        }
        let scope = if grants.globally("SELECT") {
            "on everything".to_owned()
        } else {
            format!("on {} databases", databases.len())
        };
        return GRANTS.ok(format!("{me} has all that is needed {scope}"));
    }
    let is_vital = missing.iter().any(|one| one.is_vital);
    let names: Vec<&str> = missing.iter().map(|one| spelled(one.name, flavor)).collect();
    let names = names.join(", ");
    let (user, host) = me.rsplit_once('@').unwrap_or((me, "%"));
    let status = if is_vital { Status::Broken } else { Status::Warn };
    GRANTS
        .found(status, format!("{me} lacks {names}"))
        .hint(format!("GRANT {names} ON *.* TO {};", account(user, host)))
}

/// Returns a privilege's name as the server wants it in a `GRANT`.
fn spelled(name: &'static str, flavor: Flavor) -> &'static str {
    if flavor == Flavor::Mariadb && name == "REPLICATION CLIENT" { "BINLOG MONITOR" } else { name }
}

/// Judges whether there is a binlog, and whether it lasts from one backup to the next.
fn binlog(settings: &Settings, backups_every: Option<TimeDelta>) -> Vec<Finding> {
    let number = |name: &str| settings.get(name).and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
    if !settings.get("log_bin").is_some_and(|on| on == "ON" || on == "1") {
        return vec![BINLOG.found(Status::Warn, "log_bin is off")];
    }
    let on = BINLOG.ok("log_bin is on");
    let seconds = match number("binlog_expire_logs_seconds") {
        seconds if seconds > 0.0 => seconds,
        _ => number("expire_logs_days") * 86_400.0,
    };
    let is_kept = settings.get("binlog_expire_logs_auto_purge").is_some_and(|on| on == "OFF" || on == "0");
    if seconds <= 0.0 || is_kept {
        return vec![on, BINLOG_EXPIRY.ok("it is kept until somebody purges it")];
    }
    let hours = |seconds: f64| format!("{:.0} h", seconds / 3600.0);
    let expiry = match backups_every.map(TimeDelta::as_seconds_f64) {
        Some(every) if seconds <= every => BINLOG_EXPIRY.found(
            Status::Warn,
            format!("it is kept for {}, and backups are up to {} apart", hours(seconds), hours(every)),
        ),
        Some(every) => BINLOG_EXPIRY.ok(format!(
            "it is kept for {}, backups are up to {} apart",
            hours(seconds),
            hours(every)
        )),
        None => BINLOG_EXPIRY.ok(format!("it is kept for {}", hours(seconds))),
    };
    vec![on, expiry]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grants(lines: &[&str]) -> Grants {
        Grants::parse(lines.iter().map(|&line| line.to_owned()))
    }

    fn judged(lines: &[&str], flavor: Flavor, databases: &[&str]) -> (Status, String, Option<String>) {
        let databases: Vec<String> = databases.iter().map(|&name| name.to_owned()).collect();
        let found = judge_grants(&grants(lines), flavor, &databases, false, "lifeboat@%");
        (found.status, found.detail, found.hint)
    }

    #[test]
    fn the_account_of_the_documents_lacks_nothing() {
        let mysql = [
            "GRANT SELECT, RELOAD, PROCESS, LOCK TABLES, REPLICATION CLIENT, SHOW VIEW, EVENT, TRIGGER ON *.* TO `lifeboat`@`%`",
            "GRANT BACKUP_ADMIN,APPLICATION_PASSWORD_ADMIN ON *.* TO `lifeboat`@`%`",
            "GRANT `reader`@`%` TO `lifeboat`@`%`",
        ];
        assert_eq!(judged(&mysql, Flavor::Mysql, &["im"]).0, Status::Ok);
        let mariadb = [
            "GRANT SELECT, RELOAD, PROCESS, LOCK TABLES, BINLOG MONITOR, SHOW VIEW, EVENT, TRIGGER ON *.* TO `lifeboat`@`%` IDENTIFIED BY PASSWORD '*hash'",
        ];
        assert_eq!(judged(&mariadb, Flavor::Mariadb, &["im"]).0, Status::Ok);
        let root = ["GRANT ALL PRIVILEGES ON *.* TO `root`@`%` WITH GRANT OPTION"];
        assert_eq!(judged(&root, Flavor::Mariadb, &[]).0, Status::Ok);
    }

    #[test]
    fn each_missing_privilege_is_named_and_granted_in_the_hint() {
        let lines =
            ["GRANT SELECT, RELOAD, PROCESS, LOCK TABLES, SHOW VIEW, TRIGGER ON *.* TO `lifeboat`@`%`"];
        assert_eq!(
            judged(&lines, Flavor::Mysql, &["im"]),
            (
                Status::Broken,
                "lifeboat@% lacks EVENT, REPLICATION CLIENT, BACKUP_ADMIN".to_owned(),
                Some("GRANT EVENT, REPLICATION CLIENT, BACKUP_ADMIN ON *.* TO `lifeboat`@`%`;".to_owned()),
            )
        );
        let lines =
            ["GRANT SELECT, PROCESS, LOCK TABLES, SHOW VIEW, TRIGGER, EVENT ON *.* TO `lifeboat`@`%`"];
        let (status, detail, _) = judged(&lines, Flavor::Mariadb, &["im"]);
        assert_eq!((status, detail.as_str()), (Status::Warn, "lifeboat@% lacks RELOAD, BINLOG MONITOR"));
    }

    #[test]
    fn grants_on_databases_count_where_they_cover_all_that_are_taken() {
        let lines = [
            "GRANT RELOAD, PROCESS, REPLICATION CLIENT ON *.* TO `lifeboat`@`%`",
            "GRANT ALL PRIVILEGES ON `im\\_%`.* TO `lifeboat`@`%`",
            "GRANT SELECT ON `other`.`table` TO `lifeboat`@`%`",
        ];
        assert_eq!(judged(&lines, Flavor::Mariadb, &["im_a", "im_b"]).0, Status::Ok);
        assert_eq!(judged(&lines, Flavor::Mariadb, &["im_a", "imxb"]).0, Status::Broken);
        assert_eq!(judged(&lines, Flavor::Mariadb, &[]).0, Status::Broken, "an account that sees nothing");
    }

    #[test]
    fn what_is_revoked_for_one_database_is_missing_there() {
        let lines = [
            "GRANT ALL PRIVILEGES ON *.* TO `lifeboat`@`%`",
            "REVOKE SELECT, EVENT ON `im_x`.* FROM `lifeboat`@`%`",
        ];
        assert_eq!(judged(&lines, Flavor::Mysql, &["im", "imax"]).0, Status::Ok);
        let (status, detail, _) = judged(&lines, Flavor::Mysql, &["im", "im_x"]);
        assert_eq!((status, detail.as_str()), (Status::Broken, "lifeboat@% lacks SELECT, EVENT"));
        let given = [lines[0], lines[1], "GRANT SELECT, EVENT ON `im_x`.* TO `lifeboat`@`%`"];
        assert_eq!(judged(&given, Flavor::Mysql, &["im_x"]).0, Status::Ok);
    }

    #[test]
    fn accounts_that_cannot_be_read_are_told() {
        let lines = [
            "GRANT RELOAD, PROCESS, REPLICATION CLIENT ON *.* TO `lifeboat`@`%`",
            "GRANT ALL PRIVILEGES ON `im`.* TO `lifeboat`@`%`",
        ];
        let databases = ["im".to_owned()];
        let found = judge_grants(&grants(&lines), Flavor::Mariadb, &databases, true, "lifeboat@%");
        assert_eq!(found.status, Status::Warn);
        assert!(found.detail.contains("accounts cannot be read"), "{found:?}");
    }

    #[test]
    fn names_are_compared_as_like_does() {
        for (name, pattern, fits) in [
            ("im", "im", true),
            ("im_x", "im\\_%", true),
            ("imax", "im\\_%", false),
            ("imax", "im_x", true),
            ("", "%", true),
            ("a密b", "a_b", true),
            ("im", "imx", false),
        ] {
            assert_eq!(is_like(name, pattern), fits, "{name} like {pattern}");
        }
    }

    #[test]
    fn a_binlog_must_last_until_the_next_backup() {
        let settings = |pairs: &[(&str, &str)]| -> Settings {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        let last = |settings: &Settings, hours| {
            let found = binlog(settings, Some(TimeDelta::hours(hours)));
            let last = found.last().unwrap();
            (last.status, last.detail.clone())
        };
        let two_days = settings(&[("log_bin", "ON"), ("binlog_expire_logs_seconds", "172800")]);
        assert_eq!(last(&two_days, 24).0, Status::Ok);
        assert_eq!(
            last(&two_days, 48),
            (Status::Warn, "it is kept for 48 h, and backups are up to 48 h apart".to_owned())
        );
        let old = settings(&[("log_bin", "ON"), ("expire_logs_days", "1.000000")]);
        assert_eq!(last(&old, 25).0, Status::Warn);
        let forever = settings(&[("log_bin", "ON"), ("binlog_expire_logs_seconds", "0")]);
        assert_eq!(last(&forever, 9999).0, Status::Ok);
        assert_eq!(last(&settings(&[("log_bin", "OFF")]), 24), (Status::Warn, "log_bin is off".to_owned()));
    }

    #[test]
    fn versions_are_judged_and_only_those_that_are_tested_are_called_so() {
        for (flavor, version, status, told) in [
            (Flavor::Mysql, "MySQL 8.0.36-0ubuntu1", Status::Ok, "tested with MySQL 9.7: make a drill"),
            (Flavor::Mysql, "MySQL 8.4.3", Status::Ok, "tested with MySQL 9.7: make a drill"),
            (Flavor::Mysql, "MySQL 9.0.1", Status::Ok, "tested with MySQL 9.7: make a drill"),
            (Flavor::Mysql, "MySQL 9.7.4", Status::Ok, ""),
            (Flavor::Mysql, "MySQL 5.7.44", Status::Warn, "older"),
            (Flavor::Mysql, "MySQL 10.0.0", Status::Warn, "newer"),
            (Flavor::Mariadb, "MariaDB 10.11.19", Status::Ok, ""),
            (Flavor::Mariadb, "MariaDB 11.4.2", Status::Ok, "tested with MariaDB 10.11: make a drill"),
            (Flavor::Mariadb, "MariaDB 10.5.8", Status::Warn, "older"),
        ] {
            let found = judge_version(flavor, version);
            assert_eq!(found.status, status, "{version}");
            assert_eq!(
                (found.detail.contains(told), told.is_empty()),
                (true, found.detail == version),
                "{found:?}"
            );
        }
    }

    #[test]
    fn an_instant_is_read_as_the_server_writes_it() {
        assert_eq!(instant("2026-01-02 03:04:05.500000").unwrap().timestamp_millis(), 1_767_323_045_500);
        assert!(instant("soon").is_none());
    }
}
