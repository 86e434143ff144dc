//! How each product is started as a process: its files, its arguments, its environment.
//!
//! A password is in a file that only the server's user can read, never among arguments. `MinIO` takes it from its
//! environment only: it was made for this lab, opens nothing else, and is gone with it.
//!
//! What the policy adds stands before what keeps the server on this host, its events asleep and its binlog off, so it
//! cannot undo that.

use std::{
    ffi::{OsStr, OsString},
    fs,
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use secrecy::ExposeSecret;

use super::{
    super::{Limits, Product, Server, not_run},
    tools::{Account, Tools},
};
use crate::error::{Context, ExitCode, Result};

/// The least that a database server gets as its cache.
const CACHE_BYTES_MIN: u64 = 16 << 20;

/// A program and what it is given.
#[derive(Debug)]
pub(super) struct Recipe {
    pub(super) program: PathBuf,
    pub(super) arguments: Vec<OsString>,
    pub(super) environment: Vec<(&'static str, String)>,
    /// Whether the server speaks first on a new connection.
    pub(super) greets: bool,
    /// A file with the password that is not needed any more once the server runs.
    pub(super) once: Option<PathBuf>,
}

/// A server that is to be started, and with what.
struct Order<'a> {
    server: &'a Server,
    home: &'a Home,
    port: u16,
    limits: &'a Limits,
    tools: &'a Tools,
    password: &'a str,
}

/// A server's folder, and whom it belongs to.
pub(super) struct Home {
    pub(super) folder: PathBuf,
    pub(super) account: Option<Account>,
}

impl Home {
    /// Makes the folder with what every server needs in it.
    pub(super) fn make(folder: PathBuf, account: Option<Account>) -> Result<Self> {
        let home = Self { folder, account };
        for path in [home.folder.clone(), home.data(), home.temporary()] {
            let made = fs::DirBuilder::new().mode(0o700).create(&path);
            let made = made.and_then(|()| home.give(&path));
            made.failed(ExitCode::DrillNotRun, || format!("folder `{}` cannot be made", path.display()))?;
        }
        Ok(home)
    }

    pub(super) fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    pub(super) fn temporary(&self) -> PathBuf {
        self.folder.join("tmp")
    }

    /// Where what the server says goes.
    pub(super) fn log(&self) -> PathBuf {
        self.folder.join("log")
    }

    fn give(&self, path: &Path) -> std::io::Result<()> {
        self.account
            .as_ref()
            .map_or(Ok(()), |account| std::os::unix::fs::chown(path, Some(account.uid), Some(account.gid)))
    }

    /// Writes a file that only the server can read.
    fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.folder.join(name);
        let mut options = fs::OpenOptions::new();
        let opened = options.write(true).create(true).truncate(true).mode(0o600).open(&path);
        let written = opened.and_then(|mut file| file.write_all(text.as_bytes()));
        let written = written.and_then(|()| self.give(&path));
        written.failed(ExitCode::DrillNotRun, || format!("`{}` cannot be written", path.display()))?;
        Ok(path)
    }
}

/// Returns what is run once before a server of this product can be started, if anything is.
pub(super) fn first(server: &Server, home: &Home, tools: &Tools) -> Result<Option<Recipe>> {
    let (program, mut arguments) = match server.product {
        Product::Mysql => (tools.mysqld()?, words(&["--no-defaults", "--initialize-insecure"])),
        Product::Mariadb => {
            // Before a folder is filled in vain.
            tools.need(&["mariadbd"])?;
            let own = [
                "--no-defaults",
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
                "--skip-name-resolve",
            ];
            (tools.need(&["mariadb-install-db"])?, words(&own))
        }
        Product::Redis | Product::S3 => return Ok(None),
    };
    // Some settings hold from the beginning or never, as how names of tables are compared.
    arguments.extend(server.arguments.iter().map(OsString::from));
    arguments.push(with("--innodb-flush-log-at-trx-commit=", "2"));
    arguments.push(with("--tmpdir=", home.temporary()));
    arguments.push(with("--datadir=", home.data()));
    Ok(Some(Recipe { program, arguments, environment: Vec::new(), greets: false, once: None }))
}

/// Returns how a server is started so that it listens on this port.
pub(super) fn serve(
    server: &Server,
    home: &Home,
    port: u16,
    limits: &Limits,
    tools: &Tools,
) -> Result<Recipe> {
    let password = server.password.expose_secret();
    // No text is quoted here, so none that needs it is taken.
    if password.is_empty() || !password.chars().all(|c| c.is_ascii_alphanumeric()) {
        return Err(not_run("the lab's own passwords must be letters and digits"));
    }
    let order = Order { server, home, port, limits, tools, password };
    match server.product {
        Product::Mysql | Product::Mariadb => database(&order),
        Product::Redis => redis(&order),
        Product::S3 => objects(&order),
    }
}

fn database(order: &Order<'_>) -> Result<Recipe> {
    let &Order { server, home, port, limits, tools, password } = order;
    let is_mysql = server.product == Product::Mysql;
    let program = if is_mysql { tools.mysqld()? } else { tools.need(&["mariadbd"])? };
    // A statement a line. Names are not resolved, so `localhost` means the socket only.
    let accounts = format!(
        "CREATE USER IF NOT EXISTS 'root'@'127.0.0.1';\n\
         ALTER USER 'root'@'127.0.0.1' IDENTIFIED BY '{password}';\n\
         GRANT ALL PRIVILEGES ON *.* TO 'root'@'127.0.0.1' WITH GRANT OPTION;\n\
         ALTER USER 'root'@'localhost' IDENTIFIED BY '{password}';\n"
    );
    let once = home.write("accounts.sql", &accounts)?;
    let cache = (limits.memory_bytes / 4).max(CACHE_BYTES_MIN);
    let mut arguments = words(&[
        "--no-defaults",
        "--innodb-flush-log-at-trx-commit=2",
        "--max-allowed-packet=1G",
        "--local-infile=ON",
    ]);
    arguments.push(with("--innodb-buffer-pool-size=", cache.to_string()));
    arguments.extend(server.arguments.iter().map(OsString::from));
    arguments.extend(words(&["--skip-name-resolve", "--event-scheduler=OFF", "--skip-log-bin"]));
    arguments.push("--bind-address=127.0.0.1".into());
    arguments.push(with("--port=", port.to_string()));
    arguments.push(with("--datadir=", home.data()));
    arguments.push(with("--tmpdir=", home.temporary()));
    arguments.push(with("--secure-file-priv=", home.temporary()));
    // Below the folder of data: the whole path may be longer than a socket's can be.
    arguments.extend(words(&["--socket=lab.sock", "--pid-file=lab.pid"]));
    if is_mysql {
        arguments.push("--mysqlx=OFF".into());
    }
    arguments.push(with("--init-file=", &once));
    Ok(Recipe { program, arguments, environment: Vec::new(), greets: true, once: Some(once) })
}

fn redis(order: &Order<'_>) -> Result<Recipe> {
    let &Order { server, home, port, limits, tools, password } = order;
    let program = tools.need(&["redis-server", "valkey-server"])?;
    let memory = limits.memory_bytes;
    // The server's folder is where it is started in.
    let config = format!(
        "bind 127.0.0.1\nprotected-mode yes\nport {port}\nrequirepass {password}\ndir ./data\nappendonly yes\n\
         appendfsync no\nsave \"\"\ndaemonize no\nmaxmemory {memory}\nmaxmemory-policy noeviction\n"
    );
    home.write("redis.conf", &config)?;
    let mut arguments = words(&["redis.conf"]);
    arguments.extend(server.arguments.iter().map(OsString::from));
    arguments.extend(words(&["--bind", "127.0.0.1", "--port", &port.to_string(), "--daemonize", "no"]));
    Ok(Recipe { program, arguments, environment: Vec::new(), greets: false, once: None })
}

fn objects(order: &Order<'_>) -> Result<Recipe> {
    let &Order { server, home, port, limits, tools, password } = order;
    let program = tools.need(&["minio"])?;
    let mut arguments = words(&["server"]);
    arguments.extend(server.arguments.iter().map(OsString::from));
    arguments.extend([OsString::from("--address"), format!("127.0.0.1:{port}").into(), home.data().into()]);
    let environment = vec![
        ("MINIO_ROOT_USER", server.product.user().to_owned()),
        // The program takes it in no other way. It was made for this lab, opens nothing else, and goes with it.
        ("MINIO_ROOT_PASSWORD", password.to_owned()),
        // Its page would listen on every address.
        ("MINIO_BROWSER", "off".to_owned()),
        ("MINIO_UPDATE", "off".to_owned()),
        ("GOMEMLIMIT", limits.memory_bytes.to_string()),
    ];
    Ok(Recipe { program, arguments, environment, greets: false, once: None })
}

fn words(all: &[&str]) -> Vec<OsString> {
    all.iter().map(OsString::from).collect()
}

fn with(name: &str, value: impl AsRef<OsStr>) -> OsString {
    let mut whole = OsString::from(name);
    whole.push(value);
    whole
}
