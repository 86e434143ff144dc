//! Connections: how they are opened, what every session is told, and what the server's errors mean.

use std::{error::Error as _, path::PathBuf, sync::Arc, time::Duration};

use mysql_async::{ClientIdentity, Conn, Opts, OptsBuilder, Row, SslOpts, prelude::Queryable};
use secrecy::ExposeSecret;
use tokio::time::timeout;

use super::{hostile::Fields, ledger::Opened, sql::account, wire::Wire};
use crate::{
    error::{Context, ExitCode, Failure, Result},
    names::{ByteCount, SourceName},
    policy::{MysqlConfig, Tls},
};

/// Time after which a server that does not answer counts as down.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// Bytes that one packet may have: the protocol's limit, as a row may be that long.
pub(super) const PACKET_BYTES_MAX: usize = 1 << 30;
/// Bytes of a packet below which no server goes.
const PACKET_BYTES_MIN: usize = 1 << 10;
/// Bytes of a packet that are not the statement's.
const PACKET_BYTES_SPARE: usize = 64;
/// What to do about a server without room.
const NO_ROOM: &str = "The server has no room, where its data is or in its tmpdir: make room there.";
/// Seconds that the server waits for us, a week: a slow store may hold up a stream for long, and some sessions say
/// nothing until all rows are through.
const PATIENCE_SECONDS: u32 = 604_800;
/// As many rows as a SELECT may give: none is left out. A server may have set fewer for every session, and then what is
/// beyond them is missing without a word.
const ALL_ROWS: u64 = u64::MAX;

/// MySQL's errors that this program knows by number.
pub(super) mod code {
    pub const FILES_LEFT: u16 = 1010;
    pub const NO_GRANT_FOR_DB: u16 = 1044;
    pub const WRONG_PASSWORD: u16 = 1045;
    pub const TOO_MANY_CONNECTIONS: u16 = 1040;
    pub const SHUTTING_DOWN: u16 = 1053;
    pub const UNKNOWN_COLUMN: u16 = 1054;
    pub const NO_SUCH_SESSION: u16 = 1094;
    pub const SYNTAX: u16 = 1064;
    pub const HOST_REFUSED: u16 = 1130;
    pub const NO_SUCH_ACCOUNT: u16 = 1133;
    pub const NO_SUCH_GRANT: u16 = 1141;
    pub const ACCOUNT_REFUSED: u16 = 1396;
    pub const NO_GRANT_FOR_TABLE: u16 = 1142;
    pub const NO_GRANT_FOR_COLUMN: u16 = 1143;
    pub const NO_SUCH_TABLE: u16 = 1146;
    pub const DUPLICATE: u16 = 1062;
    pub const NO_SUCH_KEY: u16 = 1176;
    pub const TABLE_EXISTS: u16 = 1050;
    pub const ROUTINE_EXISTS: u16 = 1304;
    pub const TRIGGER_EXISTS: u16 = 1359;
    pub const EVENT_EXISTS: u16 = 1537;
    pub const INTERRUPTED: u16 = 1317;
    pub const CONNECTION_KILLED: u16 = 1927;
    pub const READ_ONLY: u16 = 1290;
    pub const READ_ONLY_MODE: u16 = 1836;
    pub const READ_ONLY_TRANSACTION: u16 = 1792;
    pub const NO_PRIMARY_KEY: u16 = 3750;
    pub const DISK_FULL: u16 = 1021;
    pub const BAD_KEY_FILE: u16 = 1034;
    pub const TABLE_FULL: u16 = 1114;
    pub const TOO_LONG_ROW: u16 = 1118;
    pub const WRITE_FAILED: u16 = 3;
    pub const ERROR_ON_WRITE: u16 = 1026;
    pub const ONLINE_LOG_FULL: u16 = 1799;
    pub const NO_TEMP_ROOM: u16 = 1878;
    pub const NO_LOCAL_INFILE_OLD: u16 = 1148;
    pub const NO_PASSWORD: u16 = 1698;
    pub const LOCK_WAIT: u16 = 1205;
    pub const DEADLOCK: u16 = 1213;
    pub const NO_PRIVILEGE: u16 = 1227;
    pub const PACKET_TOO_LARGE: u16 = 1153;
    pub const RESULT_TOO_LARGE: u16 = 1301;
    pub const NO_GRANT_FOR_ROUTINE: u16 = 1370;
    pub const UNSAFE_FUNCTION: u16 = 1418;
    pub const NEEDS_SUPER: u16 = 1419;
    pub const NO_SUCH_TRIGGER: u16 = 1360;
    pub const TABLE_CHANGED: u16 = 1412;
    pub const NO_SUCH_EVENT: u16 = 1539;
    pub const TRANSACTION_OPEN: u16 = 1568;
    pub const NO_SUCH_PRIVILEGE_TARGET: u16 = 1305;
    pub const UNKNOWN_DATABASE: u16 = 1049;
    pub const UNKNOWN_CHARSET: u16 = 1115;
    pub const NO_SUCH_PARSER: u16 = 1128;
    pub const UNKNOWN_COLLATION: u16 = 1273;
    pub const UNKNOWN_ENGINE: u16 = 1286;
    pub const UNKNOWN_DIRECTORY: u16 = 3121;
    pub const NO_MASTER_KEY: u16 = 3185;
    pub const UNKNOWN_TABLESPACE: u16 = 3510;
    pub const TABLESPACE_EXISTS: u16 = 1813;
    pub const OTHER_ENCRYPTION: u16 = 3826;
    pub const UNKNOWN_SEQUENCE: u16 = 4091;
    pub const NO_LOCAL_INFILE: u16 = 3948;
    pub const NO_LOCAL_INFILE_MARIADB: u16 = 4166;
}

/// Whose dialect is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flavor {
    Mysql,
    Mariadb,
}

/// What a session is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Reads rows: bytes come as they are stored.
    ReadRows,
    /// Reads definitions.
    ReadNames,
    /// Writes rows.
    WriteRows,
    /// Writes definitions.
    WriteNames,
}

impl Purpose {
    fn writes(self) -> bool {
        matches!(self, Self::WriteRows | Self::WriteNames)
    }
}

/// A session that takes statements: the driver's, or our own that reads rows.
pub(super) trait Session: Send {
    /// Runs a statement, and passes over what it gives.
    fn exec(&mut self, sql: &[u8]) -> impl Future<Output = mysql_async::Result<()>> + Send;

    /// Runs a query and returns the fields of its rows.
    fn fields(&mut self, sql: &str) -> impl Future<Output = mysql_async::Result<Vec<Fields>>> + Send;
}

impl Session for Conn {
    async fn exec(&mut self, sql: &[u8]) -> mysql_async::Result<()> {
        self.query_drop(sql).await
    }

    async fn fields(&mut self, sql: &str) -> mysql_async::Result<Vec<Fields>> {
        let rows: Vec<Row> = self.query(sql).await?;
        Ok(rows.iter().map(|row| (0..row.len()).map(|at| bytes(row, at)).collect()).collect())
    }
}

impl Session for Wire {
    async fn exec(&mut self, sql: &[u8]) -> mysql_async::Result<()> {
        Wire::exec(self, sql).await
    }

    async fn fields(&mut self, sql: &str) -> mysql_async::Result<Vec<Fields>> {
        Wire::fields(self, sql).await
    }
}

/// A server and how to reach it.
#[derive(Clone)]
pub(super) struct Server {
    pub name: SourceName,
    pub config: MysqlConfig,
    /// Bytes that this server takes in one packet, once it was asked.
    pub packet_bytes: usize,
    /// Whether an interrupted restore is continued: what is there already is its own.
    pub resumes: bool,
    opts: Opts,
    writes: bool,
    binlog_off: bool,
    /// Where a restore notes the sessions that it opens.
    pub opened: Option<Arc<Opened>>,
}

impl Server {
    /// Reads the secret; `writes` decides what a missing privilege's hint advises.
    pub fn new(name: &SourceName, config: &MysqlConfig, writes: bool) -> Result<Self> {
        let password = config.password.as_ref().map(crate::policy::SecretRef::resolve).transpose()?;
        let socket = config.socket.as_ref().map(|path| path.display().to_string());
        let opts = OptsBuilder::default()
            .ip_or_hostname(config.host.clone())
            .tcp_port(config.port)
            .prefer_socket(socket.is_some())
            .socket(socket)
            .user(Some(config.user.clone()))
            .pass(password.as_ref().map(|secret| secret.expose_secret().to_owned()))
            .max_allowed_packet(Some(PACKET_BYTES_MAX))
            .wait_timeout(Some(PATIENCE_SECONDS as usize))
            .tcp_keepalive(Some(Duration::from_mins(1)))
            .ssl_opts(ssl(config)?);
        let (name, config) = (name.clone(), config.clone());
        let packet_bytes = PACKET_BYTES_MAX;
        let (opts, opened) = (opts.into(), None);
        Ok(Self { name, config, packet_bytes, resumes: false, opts, writes, binlog_off: false, opened })
    }

    /// Keeps what is written out of the server's binlog, if `off`.
    pub fn binlog_off(mut self, off: bool) -> Self {
        self.binlog_off = off;
        self
    }

    /// Notes every session that is opened from now on.
    pub fn noting(self, opened: &Arc<Opened>) -> Self {
        Self { opened: Some(Arc::clone(opened)), ..self }
    }

    /// Takes no packet that is longer than this.
    pub fn with_packets_of(self, bytes_max: usize) -> Self {
        let opts = OptsBuilder::from_opts(self.opts).max_allowed_packet(Some(bytes_max));
        Self { opts: opts.into(), ..self }
    }

    /// Returns how many bytes a packet may have, and with it a row.
    pub fn packet_bytes_max(&self) -> usize {
        self.opts.max_allowed_packet().unwrap_or(PACKET_BYTES_MAX)
    }

    /// Returns where the server is, as a person would write it.
    pub fn place(&self) -> String {
        match &self.config.socket {
            Some(path) => path.display().to_string(),
            None => format!("{}:{}", self.config.host, self.config.port),
        }
    }

    /// Opens a session for `purpose`.
    pub async fn open(&self, purpose: Purpose) -> Result<Conn> {
        let mut conn = self.in_time(Conn::new(self.opts.clone())).await?;
        if let Some(opened) = &self.opened {
            opened.note(conn.id());
        }
        self.prepare(&mut conn, purpose).await?;
        Ok(conn)
    }

    /// Opens a session that reads rows.
    pub async fn open_wire(&self) -> Result<Wire> {
        let mut wire = self.in_time(Wire::open(&self.opts)).await?;
        self.prepare(&mut wire, Purpose::ReadRows).await?;
        Ok(wire)
    }

    /// Waits for a session, but not for long.
    async fn in_time<T>(&self, opening: impl Future<Output = mysql_async::Result<T>>) -> Result<T> {
        match timeout(CONNECT_TIMEOUT, opening).await {
            Ok(opened) => opened.map_err(|error| self.unreachable(error)),
            Err(_) => Err(self.silent()),
        }
    }

    async fn prepare(&self, conn: &mut impl Session, purpose: Purpose) -> Result<()> {
        let wait = self.config.lock_wait_seconds.max(1);
        let names = match purpose {
            Purpose::ReadRows | Purpose::WriteRows => "binary",
            Purpose::ReadNames | Purpose::WriteNames => "utf8mb4",
        };
        let mode = if purpose.writes() { "NO_AUTO_VALUE_ON_ZERO,NO_ENGINE_SUBSTITUTION" } else { "" };
        let must = [
            format!("SET NAMES {names}"),
            format!(
                "SET SESSION sql_mode='{mode}', time_zone='+00:00', net_write_timeout={PATIENCE_SECONDS}, \
                 net_read_timeout={PATIENCE_SECONDS}, wait_timeout={PATIENCE_SECONDS}, \
                 lock_wait_timeout={wait}, sql_quote_show_create=1, autocommit=1, sql_select_limit={ALL_ROWS}, \
                 sql_big_selects=1, sql_auto_is_null=0"
            ),
        ];
        for statement in must {
            self.run(conn, &statement, "prepare its session").await?;
        }
        if self.binlog_off && purpose.writes() {
            self.leave_binlog(conn).await?;
        }
        // Each of these exists on some servers only, or may need a privilege; without it all still works.
        let always: &[&str] = &[
            "max_execution_time=0",
            "max_statement_time=0",
            "show_gipk_in_create_table_and_information_schema=ON",
            "print_identified_with_as_hex=ON",
            // A size that is a day old would let one session read a large table alone.
            "information_schema_stats_expiry=0",
        ];
        let writing: &[&str] = &[
            "foreign_key_checks=0",
            // Where it is off, InnoDB may take a second row of the same unique key for granted.
            "unique_checks=1",
            "sql_safe_updates=0",
            "completion_type=NO_CHAIN",
            "transaction_read_only=0",
            "tx_read_only=0",
            "sql_require_primary_key=0",
            "sql_generate_invisible_primary_key=OFF",
            "restrict_fk_on_non_standard_key=OFF",
            "explicit_defaults_for_timestamp=1",
            "innodb_lock_wait_timeout=3600",
            "check_constraint_checks=0",
            "system_versioning_alter_history=KEEP",
            "system_versioning_insert_history=ON",
            // What MySQL sorts secondary indexes with; its own default of 1 MiB writes them to disk many times.
            "innodb_ddl_buffer_size=33554432",
        ];
        let wanted = always.iter().chain(writing.iter().filter(|_| purpose.writes()));
        for setting in wanted {
            match conn.exec(format!("SET SESSION {setting}").as_bytes()).await {
                Ok(()) | Err(mysql_async::Error::Server(_)) => {}
                Err(error) => return Err(self.failure("prepare its session", error)),
            }
        }
        Ok(())
    }

    /// Returns whether what is written stays out of the binlog.
    pub fn leaves_binlog(&self) -> bool {
        self.binlog_off
    }

    async fn leave_binlog(&self, conn: &mut impl Session) -> Result<()> {
        let left = conn.exec(b"SET SESSION sql_log_bin=0").await;
        left.map_err(|error| {
            let is_denied = number(&error).is_some_and(is_denied);
            let failure = self.failure("stay out of the binlog", error);
            if !is_denied {
                return failure;
            }
            let user = account(&self.config.user, "%");
            Failure::new(failure.exit(), failure.one_line()).hint(format!(
                "GRANT SESSION_VARIABLES_ADMIN ON *.* TO {user}; (MariaDB: BINLOG ADMIN), or say --binlog on: then \
                 replicas follow."
            ))
        })
    }

    /// Asks how long a packet may be; from now on what is longer is refused before it is sent.
    pub async fn ask_packet(&mut self, conn: &mut Conn) -> Result<()> {
        let rows = self.rows(conn, "SELECT @@SESSION.max_allowed_packet", "ask the server's limits").await?;
        let bytes: Option<usize> = rows.first().and_then(|row| text(row, 0)).and_then(|n| n.parse().ok());
        self.packet_bytes = bytes.unwrap_or(PACKET_BYTES_MAX).clamp(PACKET_BYTES_MIN, PACKET_BYTES_MAX);
        Ok(())
    }

    /// Fails when a statement is longer than the server takes: it would end the connection, and not say why.
    pub fn check_fits(&self, statement_bytes: usize, doing: &str) -> Result<()> {
        if statement_bytes <= self.packet_bytes - PACKET_BYTES_SPARE {
            return Ok(());
        }
        let what = format!("`{}`: failed to {doing} at {}", self.name, self.place());
        let (long, limit) = (ByteCount(statement_bytes as u64), ByteCount(self.packet_bytes as u64));
        let why = format!("it is {long} long and the server takes {limit} at once");
        Err(Failure::new(ExitCode::Failed, what).because(why).hint(self.packet_hint(statement_bytes)))
    }

    /// Returns the sentence that says which setting to raise, and to what.
    pub fn packet_hint(&self, bytes: usize) -> String {
        let enough = (bytes + PACKET_BYTES_SPARE).next_power_of_two().max(self.packet_bytes * 2);
        if enough > PACKET_BYTES_MAX {
            return "No server takes more than 1 GiB at once: set local_infile=ON there, and rows are streamed."
                .to_owned();
        }
        format!("Raise it there and restore again: SET GLOBAL max_allowed_packet={enough};")
    }

    /// Runs a statement without a result; `doing` completes "failed to".
    pub async fn run(&self, conn: &mut impl Session, sql: impl AsRef<[u8]>, doing: &str) -> Result<()> {
        self.check_fits(sql.as_ref().len(), doing)?;
        conn.exec(sql.as_ref()).await.map_err(|error| self.failure(doing, error))
    }

    /// Runs a query and returns its rows; `doing` completes "failed to".
    pub async fn rows(&self, conn: &mut Conn, sql: &str, doing: &str) -> Result<Vec<Row>> {
        conn.query(sql).await.map_err(|error| self.failure(doing, error))
    }

    /// Returns the product and its version.
    pub async fn version(&self, conn: &mut Conn) -> Result<(Flavor, String)> {
        let rows = self.rows(conn, "SELECT VERSION()", "ask the server's version").await?;
        let text = rows.first().and_then(|row| text(row, 0)).unwrap_or_default();
        Ok(match text.split_once("-MariaDB") {
            Some((number, _)) => {
                (Flavor::Mariadb, format!("MariaDB {}", number.trim_start_matches("5.5.5-")))
            }
            None => (Flavor::Mysql, format!("MySQL {text}")),
        })
    }

    /// Turns an error of a running session into a failure; `doing` completes "failed to".
    pub fn failure(&self, doing: &str, error: mysql_async::Error) -> Failure {
        let what = format!("`{}`: failed to {doing} at {}", self.name, self.place());
        let number = number(&error);
        let down = match &error {
            mysql_async::Error::Server(_) => {
                // A killed session hears of it only where it waited for something.
                matches!(
                    number,
                    Some(code::SHUTTING_DOWN | code::TOO_MANY_CONNECTIONS | code::CONNECTION_KILLED)
                ) || self.writes && number == Some(code::INTERRUPTED)
            }
            mysql_async::Error::Io(_) | mysql_async::Error::Driver(_) => true,
            _ => false,
        };
        let exit = if down { ExitCode::SourceDown } else { ExitCode::Failed };
        let failure = Failure::new(exit, what).because(Told(error));
        match number {
            _ if down => failure.hint("Look into the server's own log, then run this again."),
            Some(number) if is_denied(number) => failure.hint(self.grant_hint()),
            Some(code::TABLE_CHANGED) => failure
                .hint("A table was altered while it was read; run this again when no migration is running."),
            Some(code::NO_SUCH_PRIVILEGE_TARGET | code::NO_SUCH_TRIGGER | code::NO_SUCH_EVENT)
                if !self.writes =>
            {
                failure.hint("It was dropped while it was read; run this again when no migration is running.")
            }
            Some(number) if is_full(number) => failure.hint(NO_ROOM),
            Some(number) if self.writes => match obstacle(number) {
                Some(hint) => failure.hint(hint),
                None => failure,
            },
            _ => failure,
        }
    }

    /// Returns the sentence that names the privileges that are needed.
    pub fn grant_hint(&self) -> String {
        let user = account(&self.config.user, "%");
        if self.writes {
            return format!(
                "Restore with an account that may do all: GRANT ALL ON *.* TO {user} WITH GRANT OPTION;"
            );
        }
        format!(
            "Grant what a backup reads with (as the server names them; MariaDB knows no BACKUP_ADMIN and \
             calls REPLICATION CLIENT also BINLOG MONITOR): GRANT SELECT, SHOW VIEW, TRIGGER, EVENT, \
             LOCK TABLES, RELOAD, PROCESS, REPLICATION CLIENT, BACKUP_ADMIN ON *.* TO {user};"
        )
    }

    fn unreachable(&self, error: mysql_async::Error) -> Failure {
        let (name, place, user) = (&self.name, self.place(), &self.config.user);
        match number(&error) {
            Some(code::WRONG_PASSWORD | code::NO_GRANT_FOR_DB | code::NO_PASSWORD) => Failure::new(
                ExitCode::SourceDown,
                format!("`{name}`: the server at {place} refuses user `{user}`"),
            )
            .because(Told(error))
            .hint(format!(
                "Check the password of `{user}` in the policy, and from which hosts it may log in. An account that \
                 REQUIREs a certificate shows it by client_cert and client_key."
            )),
            Some(code::HOST_REFUSED) => Failure::new(
                ExitCode::SourceDown,
                format!("`{name}`: the server at {place} refuses this host for user `{user}`"),
            )
            .because(Told(error))
            .hint(format!("Create the account for this host too: CREATE USER {};", account(user, "%"))),
            _ if is_of_tls(&error) => Failure::new(
                ExitCode::SourceDown,
                format!("`{name}`: no encrypted connection to {place} as user `{user}`"),
            )
            .because(Told(error))
            .hint(
                "Is `host` a name that the certificate holds? Name the authority that signed it: ca_file = \"…\".",
            ),
            _ => Failure::new(
                ExitCode::SourceDown,
                format!("`{name}`: no MySQL server can be used at {place} as user `{user}`"),
            )
            .because(Told(error))
            .hint("Is the server running, and are host, port and tls right in the policy?"),
        }
    }

    fn silent(&self) -> Failure {
        let (name, place, user) = (&self.name, self.place(), &self.config.user);
        let seconds = CONNECT_TIMEOUT.as_secs();
        Failure::new(
            ExitCode::SourceDown,
            format!("`{name}`: the server at {place} did not greet user `{user}` within {seconds} s"),
        )
        .hint("Is that a MySQL server, and does a firewall drop what we send?")
    }
}

/// An error of the driver that tells itself once and without the driver's decoration.
#[derive(Debug)]
struct Told(mysql_async::Error);

impl std::fmt::Display for Told {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            mysql_async::Error::Server(error) => write!(f, "error {}: {}", error.code, error.message),
            mysql_async::Error::Io(error) => error.fmt(f),
            mysql_async::Error::Driver(error) => error.fmt(f),
            other => other.fmt(f),
        }
    }
}

impl std::error::Error for Told {}

/// An error of the server that tells its number only: its words may hold what nobody is to see.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("error {0}")]
pub(super) struct Number(pub u16);

/// Returns the number of the server's error that a failure comes from.
pub(super) fn number_of(failure: &Failure) -> Option<u16> {
    let cause = failure.source()?;
    let told = cause.downcast_ref::<Told>().and_then(|told| number(&told.0));
    told.or_else(|| cause.downcast_ref::<Number>().map(|number| number.0))
}

/// Returns how the connection is encrypted. The files are read now, so that each session finds the same.
fn ssl(config: &MysqlConfig) -> Result<Option<SslOpts>> {
    let read = |path: &PathBuf| {
        let wrong = || format!("certificate file `{}` cannot be read", path.display());
        std::fs::read(path).failed(ExitCode::Usage, wrong)
    };
    let identity = match (&config.client_cert, &config.client_key) {
        (Some(certificate), Some(key)) => {
            Some(ClientIdentity::new(read(certificate)?.into(), read(key)?.into()))
        }
        _ => None,
    };
    let opts = SslOpts::default().with_client_identity(identity);
    Ok(match config.tls {
        Tls::Off => None,
        Tls::Unverified => {
            Some(opts.with_danger_accept_invalid_certs(true).with_danger_skip_domain_validation(true))
        }
        Tls::Verified => Some(match &config.ca_file {
            None => opts,
            Some(path) => opts.with_root_certs(vec![read(path)?.into()]).with_disable_built_in_roots(true),
        }),
    })
}

/// Returns whether a connection failed because one side did not like the other's certificate.
fn is_of_tls(error: &mysql_async::Error) -> bool {
    match error {
        mysql_async::Error::Io(mysql_async::IoError::Tls(_)) => true,
        mysql_async::Error::Io(mysql_async::IoError::Io(error)) => {
            error.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<rustls::Error>)
        }
        _ => false,
    }
}

/// Returns whether this error says that a row is longer than a packet may be. The driver tells it as an error of its
/// input, without a type.
pub(super) fn is_too_long(error: &mysql_async::Error) -> bool {
    match error {
        mysql_async::Error::Driver(mysql_async::DriverError::PacketTooLarge) => true,
        mysql_async::Error::Io(error) => error.to_string().contains("larger than max_allowed_packet"),
        _ => false,
    }
}

/// Returns the server's error number.
pub(super) fn number(error: &mysql_async::Error) -> Option<u16> {
    match error {
        mysql_async::Error::Server(error) => Some(error.code),
        _ => None,
    }
}

/// Returns whether this error says that the server has no room.
pub(super) fn is_full(number: u16) -> bool {
    matches!(
        number,
        code::DISK_FULL
            | code::TABLE_FULL
            | code::WRITE_FAILED
            | code::ERROR_ON_WRITE
            | code::ONLINE_LOG_FULL
            | code::NO_TEMP_ROOM
    )
}

/// Returns what to do about a target's own setting that is in the way.
fn obstacle(number: u16) -> Option<&'static str> {
    match number {
        code::READ_ONLY | code::READ_ONLY_MODE | code::READ_ONLY_TRANSACTION => Some(
            "The server is read-only. If it is no replica: SET GLOBAL super_read_only=OFF; SET GLOBAL read_only=OFF; \
             then run this again.",
        ),
        code::BAD_KEY_FILE => {
            Some("MariaDB says so also where its tmpdir fills up while it sorts an index: make room there.")
        }
        code::NO_PRIMARY_KEY => Some(
            "The server wants a primary key in every table, and the account may not say otherwise: \
             SET GLOBAL sql_require_primary_key=OFF; or grant SESSION_VARIABLES_ADMIN.",
        ),
        _ => None,
    }
}

/// Returns whether this error says that the server knows no such account.
pub(super) fn is_unknown_account(number: u16) -> bool {
    matches!(number, code::NO_SUCH_ACCOUNT | code::NO_SUCH_GRANT | code::ACCOUNT_REFUSED)
}

/// Returns whether this error says that a privilege is missing.
pub(super) fn is_denied(number: u16) -> bool {
    matches!(
        number,
        code::NO_GRANT_FOR_DB
            | code::WRONG_PASSWORD
            | code::NO_GRANT_FOR_TABLE
            | code::NO_GRANT_FOR_COLUMN
            | code::NO_PRIVILEGE
            | code::NO_GRANT_FOR_ROUTINE
    )
}

/// Returns a column of a row as its bytes, `None` for NULL.
pub(super) fn bytes(row: &Row, at: usize) -> Option<Vec<u8>> {
    match row.as_ref(at)? {
        mysql_async::Value::NULL => None,
        mysql_async::Value::Bytes(bytes) => Some(bytes.clone()),
        // The text protocol sends bytes only; what else there is prints itself.
        other => Some(other.as_sql(true).into_bytes()),
    }
}

/// Returns a column of a row as text, `None` for NULL.
pub(super) fn text(row: &Row, at: usize) -> Option<String> {
    bytes(row, at).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// Returns a field of a row as text, `None` for NULL.
pub(super) fn field_text(row: &Fields, at: usize) -> Option<String> {
    row.get(at)?.as_deref().map(|field| String::from_utf8_lossy(field).into_owned())
}

/// Returns the column of that name, whatever its case, as text.
pub(super) fn named(row: &Row, name: &str) -> Option<String> {
    let at = row.columns_ref().iter().position(|column| column.name_str().eq_ignore_ascii_case(name))?;
    text(row, at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server() -> Server {
        let config = toml::from_str("host = \"db\"\nport = 3307\nuser = \"me\"").unwrap();
        Server::new(&SourceName::new("mysql").unwrap(), &config, false).unwrap()
    }

    fn server_error(code: u16, message: &str) -> mysql_async::Error {
        mysql_async::Error::Server(mysql_async::ServerError {
            code,
            message: message.to_owned(),
            state: "HY000".to_owned(),
        })
    }

    #[test]
    fn a_refused_login_names_source_place_and_user() {
        // Of an account that no password opens, such as one of a socket, MariaDB says 1698.
        for number in [code::WRONG_PASSWORD, code::NO_GRANT_FOR_DB, code::NO_PASSWORD] {
            let failure = server().unreachable(server_error(number, "Access denied"));
            assert_eq!(failure.exit(), ExitCode::SourceDown);
            let because = format!("error {number}: Access denied");
            assert_eq!(failure.chain(), ["`mysql`: the server at db:3307 refuses user `me`", &because]);
            assert!(failure.hints()[0].contains("password"));
        }
    }

    #[test]
    fn an_index_that_found_no_room_to_be_sorted_in_is_told_from_a_broken_one() {
        let config = toml::from_str("user = \"me\"").unwrap();
        let server = Server::new(&SourceName::new("mysql").unwrap(), &config, true).unwrap();
        let failure = server.failure("build the indexes", server_error(1034, "Incorrect key file"));
        assert!(failure.hints()[0].contains("tmpdir"), "{:?}", failure.hints());
    }

    #[test]
    fn a_missing_privilege_is_named_in_the_hint() {
        let failure = server().failure("lock the server", server_error(1227, "you need RELOAD"));
        assert_eq!(failure.exit(), ExitCode::Failed);
        assert!(failure.hints()[0].contains("GRANT SELECT"), "{:?}", failure.hints());
    }
}
