//! Real servers for the MySQL tests: those of `fixtures/stack`, and empty ones of their own.

use std::{process::Command, time::Duration};

use lifeboat::{
    clock::Ground,
    event::NoMonitor,
    flow::{Source, Target},
    mysql::{MysqlSource, MysqlTarget},
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
        let dead = |name: &String| {
            let pid = name.strip_prefix(OWN).and_then(|rest| rest.split('_').next());
            pid.is_some_and(|pid| !std::path::Path::new("/proc").join(pid).exists())
        };
        let lists = [
            ("DATABASE", "SELECT schema_name FROM information_schema.schemata"),
            ("USER", "SELECT user FROM mysql.user"),
        ];
        for (kind, list) in lists {
            let names: Vec<String> = conn.query(list).await.expect("the server lists its things");
            for name in names.iter().filter(|name| dead(name)) {
                let drop = format!("DROP {kind} IF EXISTS `{}`", name.replace('`', "``"));
                conn.query_drop(drop).await.expect("leftovers are removed");
            }
        }
        conn.disconnect().await.expect("the server says goodbye");
    }

    /// Starts an empty server of its own, which goes away with the value.
    pub async fn empty(product: Product) -> Self {
        let password = "lbt-empty-root".to_owned();
        let container = Container::start(product, &password);
        let port = container.port();
        let server = Self::at("127.0.0.1", port, password, Some(container));
        server.wait().await;
        server
    }

    fn at(host: &str, port: u16, password: String, container: Option<Container>) -> Self {
        let secrets = tempfile::tempdir().expect("a folder for secrets");
        let file = secrets.path().join("root");
        std::fs::write(&file, &password).expect("the secret is written");
        let config = MysqlConfig {
            host: host.to_owned(),
            port,
            socket: None,
            user: "root".to_owned(),
            password: Some(SecretRef::File(file)),
            tls: lifeboat::policy::Tls::Off,
            databases: vec!["*".to_owned()],
            exclude: Vec::new(),
            threads: 2,
            lock_wait_seconds: 30,
        };
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
            let statement = statement.as_ref();
            conn.query_drop(statement).await.unwrap_or_else(|error| panic!("{error} in\n{statement}"));
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

/// Makes a source that nobody watches.
pub fn source(config: &MysqlConfig) -> Box<dyn Source> {
    Box::new(MysqlSource::new(name(), config.clone(), Ground::system(), NoMonitor::shared()))
}

/// Makes a target that nobody watches.
pub fn target(config: &MysqlConfig) -> Box<dyn Target> {
    Box::new(MysqlTarget::new(name(), config.clone(), Ground::system(), NoMonitor::shared()))
}

fn name() -> SourceName {
    SourceName::new("mysql").expect("a good name")
}

/// A container that is removed with the value.
struct Container(String);

impl Container {
    fn start(product: Product, password: &str) -> Self {
        let word = product.upper().to_lowercase();
        let name = format!("lbt-{word}-{}-{}", std::process::id(), Ground::system().hex(3));
        let daemon = if product == Product::Mysql { "mysqld" } else { "mariadbd" };
        let mut arguments: Vec<String> =
            ["run", "-d", "--name", &name, "--label", "lifeboat.test=mysql"].map(str::to_owned).into();
        arguments.extend(["-p", "127.0.0.1::3306", "-e"].map(str::to_owned));
        arguments.push(format!("MYSQL_ROOT_PASSWORD={password}"));
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
            ]
            .map(str::to_owned),
        );
        docker(&arguments);
        Self(name)
    }

    fn port(&self) -> u16 {
        let shown = docker(&["port".to_owned(), self.0.clone(), "3306/tcp".to_owned()]);
        let port = shown.lines().next().and_then(|line| line.rsplit(':').next());
        port.and_then(|port| port.trim().parse().ok()).expect("docker tells the port")
    }

    fn log(&self) -> String {
        docker(&["logs".to_owned(), "--tail".to_owned(), "40".to_owned(), self.0.clone()])
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let removed = Command::new("docker").args(["rm", "-fv", &self.0]).output();
        if let Err(error) = removed {
            eprintln!("container {} is left behind: {error}", self.0);
        }
    }
}

fn docker(arguments: &[String]) -> String {
    let ran = Command::new("docker").args(arguments).output().expect("docker can be run");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(ran.status.success(), "docker {arguments:?}: {}", text(&ran.stderr));
    text(&ran.stdout) + &text(&ran.stderr)
}
