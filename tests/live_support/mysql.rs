//! Real servers for the MySQL tests: those of `fixtures/stack`, and empty ones of their own.

use std::{process::Command, sync::Arc, time::Duration};

use lifeboat::{
    clock::Ground,
    event::{NoMonitor, Recorder, SharedMonitor},
    flow::{Source, Target},
    mysql::{Choices, Exchange, MysqlSource, MysqlTarget},
    names::SourceName,
    policy::{MysqlConfig, SecretRef},
};
use mysql_async::{Conn, Opts, OptsBuilder, prelude::Queryable};

/// Which product a test talks to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Product {
    Mysql,
    Mariadb,
}

impl Product {
    fn upper(self) -> &'static str {
        match self {
            Self::Mysql => "MYSQL",
            Self::Mariadb => "MARIADB",
        }
    }

    fn environment(self, what: &str) -> String {
        let name = format!("{}_{what}", self.upper());
        std::env::var(&name)
            .unwrap_or_else(|_| panic!("{name} is not set: run `source <(fixtures/stack env)` first"))
    }
}

const OWN: &str = "lbt_mysql_";

/// Returns a name for a database or account that no other run uses.
pub fn own(name: &str) -> String {
    format!("{OWN}{}_{name}", std::process::id())
}

/// Numbers that look like chance and are the same ones in each run.
pub struct Chance(u64);

impl Chance {
    /// Begins anew.
    pub fn new() -> Self {
        Self(0x5eed)
    }

    /// Returns the next number, which is below this one.
    pub fn below(&mut self, most: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).expect("31 bits fit") % most
    }
}

/// A server that can be reached, with its administrator's account.
pub struct Server {
    pub config: MysqlConfig,
    password: String,
    secrets: tempfile::TempDir,
    container: Option<Container>,
}

impl Server {
    /// Returns the shared server of `fixtures/stack`.
    ///
    /// What a run that broke down left behind there is removed first.
    pub async fn shared(product: Product) -> Self {
        let opts = Opts::from_url(&product.environment("URL")).expect("the fixture's URL is one");
        let password = opts.pass().unwrap_or_default().to_owned();
        let server = Self::at(opts.ip_or_hostname(), opts.tcp_port(), password, None);
        server.sweep().await;
        server
    }

    async fn sweep(&self) {
        let mut conn = self.conn().await;
        // Tests begin together: two that remove the same would hit each other.
        conn.query_drop("DO GET_LOCK('lbt_sweep', 60)").await.expect("the others are waited for");
        let dead = |name: &String| {
            let pid = name.strip_prefix(OWN).and_then(|rest| rest.split('_').next());
            pid.is_some_and(|pid| !std::path::Path::new("/proc").join(pid).exists())
        };
        let lists = [
            ("DATABASE", "SELECT schema_name FROM information_schema.schemata"),
            ("USER", "SELECT user FROM mysql.user"),
        ];
        // What refers to it from another database keeps nothing from being removed.
        conn.query_drop("SET foreign_key_checks=0").await.expect("the session is prepared");
        for (kind, list) in lists {
            let names: Vec<String> = conn.query(list).await.expect("the server lists its things");
            for name in names.iter().filter(|name| dead(name)) {
                insist(&mut conn, &format!("DROP {kind} IF EXISTS `{}`", name.replace('`', "``"))).await;
            }
        }
        conn.disconnect().await.expect("the server says goodbye");
    }

    /// Starts an empty server of its own, which goes away with the value.
    pub async fn empty(product: Product) -> Self {
        Self::empty_with(product, &[]).await
    }

    /// Starts an empty server with more arguments for its daemon; of two that say the same, the later one counts.
    pub async fn empty_with(product: Product, arguments: &[&str]) -> Self {
        Self::empty_with_files(product, arguments, &[]).await
    }

    /// Starts an empty server that finds these files, by their names, in its folder `/lbt`.
    pub async fn empty_with_files(product: Product, arguments: &[&str], files: &[&std::path::Path]) -> Self {
        Self::empty_in(product, arguments, files, &[]).await
    }

    /// Starts an empty server in a container that is run with more options.
    pub async fn empty_in(
        product: Product,
        arguments: &[&str],
        files: &[&std::path::Path],
        options: &[String],
    ) -> Self {
        let password = "lbt-empty-root".to_owned();
        let container = Container::start(product, &password, (arguments, options), files);
        let server = Self::at("127.0.0.1", container.port, password, Some(container));
        server.wait().await;
        server
    }

    /// Starts an empty server that copies what `primary` does from now on, and waits until it has begun.
    ///
    /// What the primary holds already is not copied.
    pub async fn replica_of(primary: &Self, product: Product) -> Self {
        Self::replica_with(primary, product, &[]).await
    }

    /// Does the same with more arguments for its daemon.
    pub async fn replica_with(primary: &Self, product: Product, arguments: &[&str]) -> Self {
        let replica = Self::empty_with(product, &[&["--server-id=78"], arguments].concat()).await;
        let host = primary.own().address();
        let (source, more) = match product {
            Product::Mysql => ("SOURCE", "GET_SOURCE_PUBLIC_KEY=1"),
            Product::Mariadb => ("MASTER", "MASTER_SSL_VERIFY_SERVER_CERT=0"),
        };
        let change = match product {
            Product::Mysql => "CHANGE REPLICATION SOURCE TO",
            Product::Mariadb => "CHANGE MASTER TO",
        };
        let status = if product == Product::Mysql { "BINARY LOG" } else { "MASTER" };
        let mut conn = primary.conn().await;
        let row: mysql_async::Row = conn
            .query_first(format!("SHOW {status} STATUS"))
            .await
            .expect("the primary tells its position")
            .expect("the primary has a binlog");
        let (file, pos): (String, u64) = (row.get(0).expect("a file"), row.get(1).expect("a position"));
        conn.disconnect().await.expect("the server says goodbye");
        let password = &primary.password;
        replica
            .run([
                format!(
                    "{change} {source}_HOST='{host}', {source}_PORT=3306, {source}_USER='root', \
                     {source}_PASSWORD='{password}', {source}_LOG_FILE='{file}', {source}_LOG_POS={pos}, {more}"
                ),
                if product == Product::Mysql { "START REPLICA".to_owned() } else { "START SLAVE".to_owned() },
            ])
            .await;
        replica
    }

    fn own(&self) -> &Container {
        self.container.as_ref().expect("the server is one of our own")
    }

    /// Ends the server politely and starts it again with the same data and at the same port.
    pub async fn restart(&self) {
        docker(&["restart", "-t", "30", &self.own().name].map(str::to_owned));
        self.wait().await;
    }

    /// Ends the server as a power cut does. [`Self::start`] brings it back.
    pub fn kill(&self) {
        docker(&["kill", &self.own().name].map(str::to_owned));
    }

    /// Starts the server again after [`Self::kill`].
    pub async fn start(&self) {
        docker(&["start", &self.own().name].map(str::to_owned));
        self.wait().await;
    }

    /// Returns the path on this host of the server's unix socket.
    pub fn socket(&self) -> std::path::PathBuf {
        self.own().run_folder.path().join("server.sock")
    }

    /// Runs a command in the server's container and returns what it printed.
    pub fn exec(&self, command: &[&str]) -> String {
        let arguments = ["exec", &self.own().name].into_iter().chain(command.iter().copied());
        docker(&arguments.map(str::to_owned).collect::<Vec<_>>())
    }

    fn at(host: &str, port: u16, password: String, container: Option<Container>) -> Self {
        let secrets = tempfile::tempdir().expect("a folder for secrets");
        let file = secrets.path().join("root");
        std::fs::write(&file, &password).expect("the secret is written");
        let mut config: MysqlConfig = toml::from_str("user = \"root\"").expect("a policy's words");
        host.clone_into(&mut config.host);
        config.port = port;
        config.password = Some(SecretRef::File(file));
        config.tls = lifeboat::policy::Tls::Off;
        config.threads = 2;
        // Other tests use the shared servers at the same time, and on a slow disk what they do takes long.
        config.lock_wait_seconds = 90;
        Self { config, password, secrets, container }
    }

    /// Waits until the server of the container answers from here.
    async fn wait(&self) {
        let began = std::time::Instant::now();
        let mut last = String::new();
        while began.elapsed() < Duration::from_mins(3) {
            match Conn::new(self.opts("root", &self.password)).await {
                Ok(conn) => return conn.disconnect().await.expect("the server says goodbye"),
                Err(error) => last = error.to_string(),
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let log = self.container.as_ref().map(Container::log).unwrap_or_default();
        panic!("the server did not come up: {last}\n{log}");
    }

    fn opts(&self, user: &str, password: &str) -> Opts {
        let opts = OptsBuilder::default()
            .ip_or_hostname(self.config.host.clone())
            .tcp_port(self.config.port)
            .prefer_socket(false)
            .user(Some(user))
            .pass(Some(password));
        opts.into()
    }

    /// Opens an administrator's session.
    pub async fn conn(&self) -> Conn {
        Conn::new(self.opts("root", &self.password)).await.expect("the server answers")
    }

    /// Opens a session of another account.
    pub async fn conn_as(&self, user: &str, password: &str) -> mysql_async::Result<Conn> {
        Conn::new(self.opts(user, password)).await
    }

    /// Runs statements, one for each item.
    pub async fn run<S: AsRef<str>>(&self, statements: impl IntoIterator<Item = S>) {
        let mut conn = self.conn().await;
        for statement in statements {
            insist(&mut conn, statement.as_ref()).await;
        }
        conn.disconnect().await.expect("the server says goodbye");
    }

    /// Returns the first column of the first row as text.
    pub async fn ask(&self, sql: &str) -> String {
        let mut conn = self.conn().await;
        let row: Option<mysql_async::Row> =
            conn.query_first(sql).await.unwrap_or_else(|error| panic!("{error} in\n{sql}"));
        conn.disconnect().await.expect("the server says goodbye");
        let value = row.expect("a row").unwrap().remove(0);
        match value {
            mysql_async::Value::Bytes(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            other => other.as_sql(true),
        }
    }

    /// Returns a configuration that takes only these databases, and no accounts.
    pub fn only(&self, databases: &[&str]) -> MysqlConfig {
        let mut config = self.config.clone();
        config.databases = databases.iter().map(|db| (*db).to_owned()).collect();
        config.exclude = vec!["accounts".to_owned()];
        config
    }

    /// Returns the configuration of another account on this server.
    pub fn as_user(&self, mut config: MysqlConfig, user: &str, password: &str) -> MysqlConfig {
        let file = self.secrets.path().join(user);
        std::fs::write(&file, password).expect("the secret is written");
        user.clone_into(&mut config.user);
        config.password = Some(SecretRef::File(file));
        config
    }
}

/// A session, as the process list tells it.
pub struct Process {
    pub id: u64,
    pub user: String,
    /// How long it has been in its state.
    pub seconds: i64,
    /// What it runs; empty where that is nothing.
    pub statement: String,
}

/// Returns the sessions of others. `information_schema.processlist` is no way: MySQL refuses it as long as anybody's
/// statement has an emoji in it.
pub async fn processes(conn: &mut Conn) -> Vec<Process> {
    let own = u64::from(conn.id());
    let rows: Vec<mysql_async::Row> =
        conn.query("SHOW FULL PROCESSLIST").await.expect("the process list is read");
    let of_row = |row: mysql_async::Row| Process {
        id: row.get("Id").expect("each has one"),
        user: row.get("User").expect("each has one"),
        seconds: row.get::<Option<i64>, _>("Time").flatten().unwrap_or_default(),
        statement: row.get::<Option<String>, _>("Info").flatten().unwrap_or_default(),
    };
    rows.into_iter().map(of_row).filter(|process| process.id != own).collect()
}

/// Waits until somebody else's session is as it is meant to be.
pub async fn until_seen(server: &Server, is_meant: impl Fn(&Process) -> bool) {
    let mut watch = server.conn().await;
    while !processes(&mut watch).await.iter().any(&is_meant) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Runs a statement.
async fn insist(conn: &mut Conn, statement: &str) {
    let mut ran = conn.query_drop(statement).await;
    // Another test may flush or list tables: the server then breaks a knot of locks by refusing one of them.
    let makes = ["CREATE", "DROP", "ALTER"].iter().any(|word| statement.starts_with(word));
    while makes && matches!(&ran, Err(mysql_async::Error::Server(error)) if error.code == 1213) {
        ran = conn.query_drop(statement).await;
    }
    ran.unwrap_or_else(|error| panic!("{error} in\n{statement}"));
}

/// Makes a source that nobody watches.
pub fn source(config: &MysqlConfig) -> Box<dyn Source> {
    Box::new(MysqlSource::new(name(), config.clone(), Ground::system(), NoMonitor::shared()))
}

/// Makes a source, and what is heard of it.
pub fn heard(config: &MysqlConfig) -> (Arc<Recorder>, Box<dyn Source>) {
    let heard = Arc::new(Recorder::default());
    let monitor = Arc::clone(&heard) as SharedMonitor;
    (heard, Box::new(MysqlSource::new(name(), config.clone(), Ground::system(), monitor)))
}

/// Makes a target that nobody watches.
pub fn target(config: &MysqlConfig) -> Box<dyn Target> {
    Box::new(MysqlTarget::new(name(), config.clone(), &Ground::system(), NoMonitor::shared()))
}

/// Makes a target that does as was chosen, and what follows it if the choice was an exchange.
pub fn choosing(config: &MysqlConfig, choices: Choices) -> (Box<dyn Target>, Option<Exchange>) {
    watched(config, choices, NoMonitor::shared())
}

/// Makes the same, watched by `monitor`.
pub fn watched(
    config: &MysqlConfig,
    choices: Choices,
    monitor: SharedMonitor,
) -> (Box<dyn Target>, Option<Exchange>) {
    let target = MysqlTarget::new(name(), config.clone(), &Ground::system(), monitor).choosing(choices);
    let exchange = target.exchange().expect("the secret is there");
    (Box::new(target), exchange)
}

fn name() -> SourceName {
    SourceName::new("mysql").expect("a good name")
}

/// A container that is removed with the value.
struct Container {
    name: String,
    /// The same before and after a restart.
    port: u16,
    /// Where the server's socket is.
    run_folder: tempfile::TempDir,
}

impl Container {
    fn start(
        product: Product,
        password: &str,
        (more, options): (&[&str], &[String]),
        files: &[&std::path::Path],
    ) -> Self {
        let word = product.upper().to_lowercase();
        let name = format!("lbt-{word}-{}-{}", std::process::id(), Ground::system().hex(3));
        let daemon = if product == Product::Mysql { "mysqld" } else { "mariadbd" };
        let run_folder = tempfile::tempdir().expect("a folder for the socket");
        let all = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        std::fs::set_permissions(run_folder.path(), all).expect("the server may write there");
        for file in files {
            let inside = run_folder.path().join(file.file_name().expect("a file's name"));
            std::fs::copy(file, &inside).expect("the server's file is copied");
            let readable = std::os::unix::fs::PermissionsExt::from_mode(0o644);
            std::fs::set_permissions(inside, readable).expect("the server may read it");
        }
        let port = free_port();
        let mut arguments: Vec<String> =
            ["run", "-d", "--name", &name, "--label", "lifeboat.test=mysql"].map(str::to_owned).into();
        arguments.extend(["-v".to_owned(), format!("{}:/lbt", run_folder.path().display())]);
        arguments.extend(["-p".to_owned(), format!("127.0.0.1:{port}:3306"), "-e".to_owned()]);
        arguments.push(format!("MYSQL_ROOT_PASSWORD={password}"));
        arguments.extend(options.iter().cloned());
        arguments.extend([product.environment("IMAGE"), daemon.to_owned()]);
        arguments.extend(
            [
                "--server-id=77",
                "--log-bin=mysql-bin",
                "--binlog-format=ROW",
                "--character-set-server=utf8mb4",
                "--collation-server=utf8mb4_unicode_ci",
                "--local-infile=ON",
                "--max-allowed-packet=64M",
                "--skip-name-resolve",
                "--innodb-flush-log-at-trx-commit=2",
                "--sync-binlog=0",
                "--socket=/lbt/server.sock",
            ]
            .map(str::to_owned),
        );
        arguments.extend(more.iter().map(|one| (*one).to_owned()));
        docker(&arguments);
        Self { name, port, run_folder }
    }

    /// Returns the address that other containers reach it at.
    fn address(&self) -> String {
        let format = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
        docker(&["inspect", "-f", format, &self.name].map(str::to_owned)).trim().to_owned()
    }

    fn log(&self) -> String {
        docker(&["logs", "--tail", "40", &self.name].map(str::to_owned))
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let removed = Command::new("docker").args(["rm", "-fv", &self.name]).output();
        if let Err(error) = removed {
            eprintln!("container {} is left behind: {error}", self.name);
        }
    }
}

/// Returns a port that nothing listens at now; the engine's own choice would change with a restart.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
    listener.local_addr().expect("the listener has an address").port()
}

fn docker(arguments: &[String]) -> String {
    let ran = Command::new("docker").args(arguments).output().expect("docker can be run");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(ran.status.success(), "docker {arguments:?}: {}", text(&ran.stderr));
    text(&ran.stdout) + &text(&ran.stderr)
}
