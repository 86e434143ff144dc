//! A lab of plain processes, for hosts without a container engine: servers from the programs that the host has, each
//! with its own folder, on ports of 127.0.0.1.
//!
//! *Order.* What an earlier lab of the same drill left is ended and removed; a folder is made with the file that says
//! whose it is; then all servers start at the same time, each noted there; the file with a database's password goes
//! once it runs. *Crash.* The next lab of the same stack, host and task, or [`reap`], finds the file, ends what it
//! names, if that is still the same process, and removes the folder.
//!
//! *Limits.* Processes are less apart than containers. They share the host's network: nothing but their own settings
//! keeps them from talking to others. Memory is limited by what a server's own settings limit: the cache of a database,
//! `maxmemory` of Redis. Processor time is not, and data lies in the lab's folder whatever [`Limits::data_in_memory`]
//! says. Where lifeboat is root the servers run as a user without rights; programs run as lifeboat itself. The place
//! inside a container that a program's file is mapped to is not there: its command names the real one.

mod program;
mod recipe;
mod tools;
mod trace;

use std::{
    collections::HashSet,
    fs::{self, DirBuilder, File},
    io::{ErrorKind, Read, Seek, SeekFrom},
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::future::join_all;
use tokio::{
    io::AsyncReadExt,
    net::TcpStream,
    process::{Child, Command},
};

use self::{
    recipe::{Home, Recipe},
    tools::{Account, Tools, check_passable},
    trace::{Labs, Process, Trace},
};
use super::{Ended, Lab, Limits, Marks, Program, Running, Server, not_run, remove_tree};
use crate::error::{Context, ExitCode, Failure, Result};

/// How often a server is started anew because another program took its port.
const PORTS_MAX: u32 = 4;
/// How often a server that starts is asked whether it is there.
const ASK: Duration = Duration::from_millis(20);
/// Bytes of a server's log that are looked at when it ended.
const LOG_BYTES: u64 = 8 << 10;
/// Lines of it that are shown.
const LOG_LINES: usize = 8;

/// Throwaway servers as processes of this host.
pub struct ProcessLab {
    folder: PathBuf,
    limits: Limits,
    tools: Tools,
    trace: Mutex<Trace>,
    servers: Mutex<Vec<Started>>,
}

/// A server that accepted a connection.
struct Started {
    name: String,
    log: PathBuf,
    child: Child,
}

/// How a server did not come to accept connections.
enum NotThere {
    /// It ended.
    Ended(ExitStatus),
    /// It is not known how it stands.
    Failed(Failure),
}

impl ProcessLab {
    /// Makes a lab below `root`. What earlier labs of the same stack, host and task left there is ended and removed:
    /// the caller sees to it that none of them is at work.
    pub async fn open(root: &Path, marks: Marks, limits: Limits) -> Result<Self> {
        let Labs { found, troubles } = trace::labs(root)?;
        if let Some(failure) = troubles.into_iter().next() {
            return Err(failure);
        }
        for (folder, trace) in found {
            if trace.is_of(&marks.stack, &marks.host, Some(&marks.task)) {
                clear(&folder, &trace).await?;
            }
        }
        let name = format!("{}-{}-{}", marks.stack, marks.task, marks.drill);
        let folder = root.join(as_file_name(&name));
        // Root's servers are others, who must get to their own folders.
        let mode = if rustix::process::geteuid().is_root() { 0o711 } else { 0o700 };
        let what = || format!("folder `{}` cannot be made", folder.display());
        let made = DirBuilder::new().recursive(true).mode(mode).create(root);
        let made = made.and_then(|()| DirBuilder::new().mode(mode).create(&folder));
        made.failed(ExitCode::DrillNotRun, what)?;
        let folder = fs::canonicalize(&folder).failed(ExitCode::DrillNotRun, what)?;
        let trace = Trace::new(&marks, limits.lifetime)?;
        trace.write(&folder)?;
        let (trace, servers) = (Mutex::new(trace), Mutex::default());
        Ok(Self { folder, limits, tools: Tools::of_host(), trace, servers })
    }

    /// Looks for programs in these folders only.
    #[must_use]
    pub fn looking_in(mut self, folders: Vec<PathBuf>) -> Self {
        self.tools = Tools::of(folders);
        self
    }

    fn trace(&self) -> MutexGuard<'_, Trace> {
        self.trace.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn servers(&self) -> MutexGuard<'_, Vec<Started>> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a process that was just started.
    fn note(&self, pid: u32, program: &str) -> Result<()> {
        // One that has ended already needs no note.
        Process::of(pid, program).map_or(Ok(()), |process| self.trace().note(process, &self.folder))
    }

    async fn start_one(&self, server: &Server) -> Result<Running> {
        let account = Account::of(server.product)?;
        if account.is_some() {
            check_passable(&self.folder)?;
        }
        let home = Home::make(self.folder.join(as_file_name(&server.name)), account)?;
        let started = tokio::time::timeout(self.limits.start, self.bring_up(server, &home)).await;
        started.unwrap_or_else(|_| {
            let seconds = self.limits.start.as_secs();
            let what = format!("server `{}` of the lab accepts no connection after {seconds} s", server.name);
            Err(with_log(not_run(what), &home.log()))
        })
    }

    /// Starts a server and waits until it accepts a connection, or has ended.
    async fn bring_up(&self, server: &Server, home: &Home) -> Result<Running> {
        let failed = |status, what: &str| {
            let what = format!("{what} of server `{}` of the lab {}", server.name, how(status));
            with_log(not_run(what), &home.log())
        };
        if let Some(recipe) = recipe::first(server, home, &self.tools)? {
            let status = self.spawn(&recipe, home)?.wait().await;
            let status = status.failed(ExitCode::DrillNotRun, || "a process is lost".to_owned())?;
            if !status.success() {
                return Err(failed(status, "the preparation"));
            }
        }
        let mut tries = 0;
        loop {
            tries += 1;
            let port = free_port()?;
            let recipe = recipe::serve(server, home, port, &self.limits, &self.tools)?;
            let mut child = self.spawn(&recipe, home)?;
            match ready(&mut child, port, recipe.greets).await {
                Err(NotThere::Failed(failure)) => return Err(failure),
                Err(NotThere::Ended(_)) if tries < PORTS_MAX && is_port_taken(&home.log()) => continue,
                Err(NotThere::Ended(status)) => return Err(failed(status, "the process")),
                Ok(()) => {}
            }
            if let Some(once) = &recipe.once {
                fs::remove_file(once).failed(ExitCode::DrillNotRun, || "a password stays".to_owned())?;
            }
            self.servers().push(Started { name: server.name.clone(), log: home.log(), child });
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            let image = recipe.program.display().to_string();
            return Ok(Running { name: server.name.clone(), address, inside: address.to_string(), image });
        }
    }

    /// Starts a process as the server's user, in its folder, with nothing of our environment.
    fn spawn(&self, recipe: &Recipe, home: &Home) -> Result<Child> {
        let program = recipe.program.display().to_string();
        let what = || format!("`{program}` cannot be started");
        let log = File::create(home.log()).failed(ExitCode::DrillNotRun, what)?;
        let both = log.try_clone().failed(ExitCode::DrillNotRun, what)?;
        let mut command = Command::new(&recipe.program);
        command.args(&recipe.arguments).env_clear().env("PATH", self.tools.path()).env("LANG", "C.UTF-8");
        command.env("HOME", &home.folder).envs(recipe.environment.iter().map(|(key, value)| (key, value)));
        command.current_dir(&home.folder).stdin(Stdio::null()).stdout(log).stderr(both).process_group(0);
        if let Some(account) = &home.account {
            command.uid(account.uid).gid(account.gid);
        }
        let mut child = command.spawn().failed(ExitCode::DrillNotRun, what)?;
        let noted = child.id().map_or(Ok(()), |pid| self.note(pid, &program));
        if noted.is_err() {
            // Nobody would find it.
            let _ = child.start_kill();
        }
        noted.map(|()| child)
    }
}

#[async_trait]
impl Lab for ProcessLab {
    fn describe(&self) -> String {
        "processes of this host".to_owned()
    }

    async fn start(&self, servers: &[Server]) -> Result<Vec<Running>> {
        let names: HashSet<String> = servers.iter().map(|server| as_file_name(&server.name)).collect();
        if names.len() < servers.len() {
            return Err(not_run("two servers of the lab have the same name"));
        }
        join_all(servers.iter().map(|server| self.start_one(server))).await.into_iter().collect()
    }

    async fn check(&self) -> Result<()> {
        for server in self.servers().iter_mut() {
            let status = server.child.try_wait();
            if let Some(status) = status.failed(ExitCode::DrillNotRun, || "a process is lost".to_owned())? {
                let what = format!("server `{}` of the lab {}", server.name, how(status));
                return Err(with_log(not_run(what), &server.log));
            }
        }
        Ok(())
    }

    async fn run(&self, program: &Program) -> Result<Ended> {
        program::run(program, &self.tools, &self.folder, |pid| self.note(pid, &program.name)).await
    }

    async fn remove(&self) -> Result<()> {
        let trace = self.trace().clone();
        clear(&self.folder, &trace).await?;
        let servers = std::mem::take(&mut *self.servers());
        for mut server in servers {
            // They have ended: this only takes their leave.
            let _ = server.child.wait().await;
        }
        Ok(())
    }
}

/// Ends and removes what labs of a stack and host left below `root`: those of a task, of which the caller holds the
/// lock, and all others in which nobody is at work any more: lifeboat has ended, or their time was up. Returns how many
/// there were, and what went wrong: it stops nothing.
pub async fn reap(root: &Path, stack: &str, host: &str, task: &str) -> (u64, Vec<Failure>) {
    let Labs { found, mut troubles } = match trace::labs(root) {
        Ok(found) => found,
        Err(failure) => return (0, vec![failure]),
    };
    let mut count = 0;
    for (folder, trace) in found {
        if trace.is_of(stack, host, Some(task)) || trace.is_of(stack, host, None) && trace.is_garbage() {
            match clear(&folder, &trace).await {
                Ok(()) => count += 1,
                Err(failure) => troubles.push(failure),
            }
        }
    }
    (count, troubles)
}

/// Ends a lab's processes and removes its folder.
///
/// Its trace goes last, so that what a broken removal leaves is found again.
async fn clear(folder: &Path, trace: &Trace) -> Result<()> {
    trace.end().await?;
    let gone = folder.to_owned();
    let remove = move || {
        let listed = match fs::read_dir(&gone) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            listed => listed?,
        };
        for item in listed {
            let path = item?.path();
            if path.is_dir() && !path.is_symlink() {
                remove_tree(&path)?;
            } else if path.file_name() != Some(trace::FILE.as_ref()) {
                fs::remove_file(&path)?;
            }
        }
        remove_tree(&gone)
    };
    let removed = tokio::task::spawn_blocking(remove).await;
    let what = || format!("folder `{}` cannot be removed", folder.display());
    removed.failed(ExitCode::DrillNotRun, what)?.failed(ExitCode::DrillNotRun, what)
}

/// Waits until the server accepts a connection on this port, and it is really the server that does.
async fn ready(child: &mut Child, port: u16, greets: bool) -> std::result::Result<(), NotThere> {
    let lost = |error: std::io::Error| NotThere::Failed(not_run("a process is lost").because(error));
    loop {
        tokio::select! {
            status = child.wait() => return Err(NotThere::Ended(status.map_err(lost)?)),
            answers = answers(port, greets) => {
                if answers && child.id().is_some_and(|pid| listens(pid, port)) {
                    return Ok(());
                }
            }
        }
        tokio::time::sleep(ASK).await;
    }
}

async fn answers(port: u16, greets: bool) -> bool {
    let Ok(mut stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await else { return false };
    // The kernel accepts before the server has read its accounts.
    !greets || stream.read_u8().await.is_ok()
}

/// Returns whether it is this process that listens on a port, and not another one that took it meanwhile: to that one
/// restored data would be sent.
fn listens(pid: u32, port: u16) -> bool {
    const LISTEN: &str = "0A";
    let local = format!(":{port:04X}");
    let table = fs::read_to_string("/proc/self/net/tcp").unwrap_or_default();
    let sockets: HashSet<String> = table
        .lines()
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_ascii_whitespace().collect();
            let fits = fields.get(1)?.ends_with(&local) && *fields.get(3)? == LISTEN;
            fits.then(|| Some(format!("socket:[{}]", fields.get(9)?)))?
        })
        .collect();
    let Ok(open) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    let mut held = open.filter_map(|item| fs::read_link(item.ok()?.path()).ok());
    held.any(|target| target.to_str().is_some_and(|target| sockets.contains(target)))
}

/// Returns a port of 127.0.0.1 that nobody listens on at the moment.
fn free_port() -> Result<u16> {
    let bound = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|socket| socket.local_addr());
    Ok(bound.failed(ExitCode::DrillNotRun, || "no port of 127.0.0.1 is free".to_owned())?.port())
}

fn is_port_taken(log: &Path) -> bool {
    let text = end_of(log).to_lowercase();
    ["already in use", "another mysqld server running on port"].iter().any(|sign| text.contains(sign))
}

/// Says in words how a process ended.
fn how(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with exit code {code}"),
        (None, Some(9)) => "was killed; the host may have been out of memory".to_owned(),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

/// Adds the last lines of a log to a failure.
fn with_log(failure: Failure, log: &Path) -> Failure {
    let text = end_of(log);
    let mut lines: Vec<&str> =
        text.lines().rev().filter(|line| !line.trim().is_empty()).take(LOG_LINES).collect();
    lines.reverse();
    if lines.is_empty() { failure } else { failure.because(lines.join("\n")) }
}

/// Returns the end of a log, nothing where it cannot be read.
fn end_of(log: &Path) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LOG_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(LOG_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
}

/// Returns a text as a name of a file: what could mean something there becomes `_`.
fn as_file_name(text: &str) -> String {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    text.chars().map(|c| if fits(c) { c } else { '_' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_belongs_to_the_process_that_listens_on_it() {
        let socket = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = socket.local_addr().unwrap().port();
        assert!(listens(std::process::id(), port));
        let mut other = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        assert!(!listens(other.id(), port));
        other.kill().unwrap();
        other.wait().unwrap();
        drop(socket);
        assert!(!listens(std::process::id(), port));
    }

    #[tokio::test]
    async fn a_server_that_ends_is_told_with_its_last_words() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let mut child = Command::new("sh").args(["-c", "exit 3"]).spawn().unwrap();
        let Err(NotThere::Ended(status)) = ready(&mut child, free_port().unwrap(), false).await else {
            panic!("nobody listens there")
        };
        fs::write(&log, (1..100).map(|n| format!("line {n}\n\n")).collect::<Vec<_>>().concat()).unwrap();
        let failure = with_log(not_run(how(status)), &log);
        let last: Vec<String> = (92..100).map(|n| format!("line {n}")).collect();
        assert_eq!(failure.chain(), ["ended with exit code 3".to_owned(), last.join("\n")]);
        assert!(!is_port_taken(&log));
        fs::write(&log, "Can't start server: Bind on TCP/IP port: Address already in use\n").unwrap();
        assert!(is_port_taken(&log));
    }

    #[test]
    fn names_cannot_leave_the_folder() {
        assert_eq!(as_file_name("../im suite/图"), "___im_suite__");
        assert_eq!(
            as_file_name("im-suite-drill-20261101T030000Z-7f3a"),
            "im-suite-drill-20261101T030000Z-7f3a"
        );
    }
}
