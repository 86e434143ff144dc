//! What a lab of processes leaves for the next one: a file that names its processes, and how they are ended.
//!
//! *Order.* The file is there before the first process; each process is noted as soon as it has a number. *Crash.* Who
//! dies between the start of a process and its note leaves a process that nobody finds; that takes a few microseconds.
//! The file itself is replaced as a whole.
//!
//! A process is known by its number *and* the instant of its start, counted since the machine booted, and by that
//! boot: a number that another program got meanwhile is never taken for it.

use std::{
    collections::BTreeSet,
    fs,
    io::{ErrorKind, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use chrono::{DateTime, Utc};
use rustix::process::{Pid, Signal, kill_process_group};
use serde::{Deserialize, Serialize};

use super::super::{Marks, not_run};
use crate::{
    clock::{Clock, System, stored_time},
    error::{Context, ExitCode, Failure, Result},
};

/// The file of a lab's folder.
pub(super) const FILE: &str = "lab.json";
/// How long processes may take to end by themselves.
const GRACE: Duration = Duration::from_secs(5);
/// How long the kernel may take to end those that did not.
const LIMIT: Duration = Duration::from_secs(30);
/// How long a lab may take from its folder to its first note.
const MAKING: Duration = Duration::from_mins(1);
/// How often is looked whether they have ended.
const LOOK: Duration = Duration::from_millis(20);

/// A process that a lab started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Process {
    /// Its number, which is also its group's.
    pub(super) pid: i32,
    /// When it was started, in ticks since the machine booted.
    pub(super) started: u64,
    /// What it is.
    pub(super) program: String,
}

/// What `lab.json` holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Trace {
    stack: String,
    host: String,
    task: String,
    drill: String,
    /// The boot of the machine that the processes belong to.
    boot: String,
    /// Who made the lab.
    owner: Process,
    /// From when on it is garbage.
    #[serde(deserialize_with = "stored_time")]
    expires: DateTime<Utc>,
    /// What was started.
    processes: Vec<Process>,
}

/// What `/proc` tells of a process.
struct Seen {
    has_ended: bool,
    started: u64,
}

impl Seen {
    /// Looks at a process; `None` when there is none of this number.
    fn of(pid: i32) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name stands in parentheses and may hold some itself; the state comes next, as field 3.
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_ascii_whitespace().collect();
        let has_ended = matches!(*fields.first()?, "Z" | "X");
        Some(Self { has_ended, started: fields.get(22 - 3)?.parse().ok()? })
    }
}

impl Process {
    /// Notes the process that has this number now.
    pub(super) fn of(pid: u32, program: &str) -> Option<Self> {
        let pid = pid.cast_signed();
        Some(Self { pid, started: Seen::of(pid)?.started, program: program.to_owned() })
    }

    /// Returns whether it still runs.
    pub(super) fn lives(&self) -> bool {
        Seen::of(self.pid).is_some_and(|seen| seen.started == self.started && !seen.has_ended)
    }

    /// Sends a signal to it and its group, if it is still the one that was started.
    fn signal(&self, signal: Signal) {
        if let Some(pid) = Pid::from_raw(self.pid).filter(|_| self.lives()) {
            // It may have ended in between.
            let _ = kill_process_group(pid, signal);
        }
    }
}

impl Trace {
    /// Begins the trace of a lab that this process makes.
    pub(super) fn new(marks: &Marks, lifetime: Duration) -> Result<Self> {
        let owner = Process::of(std::process::id(), "lifeboat");
        let owner = owner.ok_or_else(|| not_run("/proc does not tell about this process"))?;
        let lifetime = chrono::Duration::from_std(lifetime).unwrap_or(chrono::Duration::MAX);
        let expires = System.now().checked_add_signed(lifetime).unwrap_or(DateTime::<Utc>::MAX_UTC);
        let Marks { stack, host, task, drill } = marks.clone();
        Ok(Self { stack, host, task, drill, boot: boot()?, owner, expires, processes: Vec::new() })
    }

    /// Reads the trace in a lab's folder; `None` when there is none.
    fn read(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(FILE);
        let what = || format!("`{}` cannot be read", path.display());
        match fs::read(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            read => {
                let bytes = read.failed(ExitCode::DrillNotRun, what)?;
                let parsed = serde_json::from_slice(&bytes).failed(ExitCode::DrillNotRun, what);
                parsed.map(Some).map_err(|failure| {
                    failure.hint("End what runs from its folder, if anything does, and remove the folder.")
                })
            }
        }
    }

    /// Writes it into a lab's folder.
    pub(super) fn write(&self, folder: &Path) -> Result<()> {
        let path = folder.join(FILE);
        let new = folder.join("lab.json.new");
        let bytes = serde_json::to_vec_pretty(self).failed(ExitCode::DrillNotRun, || FILE.to_owned())?;
        let mut options = fs::OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let written =
            options.open(&new).and_then(|mut file| file.write_all(&bytes).and_then(|()| file.sync_all()));
        let written = written.and_then(|()| fs::rename(&new, &path));
        written.failed(ExitCode::DrillNotRun, || format!("`{}` cannot be written", path.display()))
    }

    /// Adds a process, and says so in the lab's folder.
    pub(super) fn note(&mut self, process: Process, folder: &Path) -> Result<()> {
        self.processes.push(process);
        self.write(folder)
    }

    /// Returns whether nobody is at work in the lab any more, or should be.
    pub(super) fn is_garbage(&self) -> bool {
        !self.owner.lives() || boot().is_ok_and(|boot| boot != self.boot) || self.expires < System.now()
    }

    /// Returns whether it is a lab of this stack and host, and of this task if one is given.
    pub(super) fn is_of(&self, stack: &str, host: &str, task: Option<&str>) -> bool {
        self.stack == stack && self.host == host && task.is_none_or(|task| self.task == task)
    }

    /// Ends what was started, if it still runs.
    pub(super) async fn end(&self) -> Result<()> {
        // Numbers of another boot say nothing about this one.
        if boot()? != self.boot {
            return Ok(());
        }
        for (signal, patience) in [(Signal::TERM, GRACE), (Signal::KILL, LIMIT)] {
            self.processes.iter().for_each(|process| process.signal(signal));
            let over = tokio::time::timeout(patience, async {
                while self.processes.iter().any(Process::lives) {
                    tokio::time::sleep(LOOK).await;
                }
            });
            if over.await.is_ok() {
                return Ok(());
            }
        }
        let left: BTreeSet<i32> =
            self.processes.iter().filter(|process| process.lives()).map(|process| process.pid).collect();
        Err(not_run(format!("processes {left:?} of a lab do not end")))
    }
}

/// The labs below a folder.
#[derive(Default)]
pub(super) struct Labs {
    /// Each with its trace.
    pub(super) found: Vec<(PathBuf, Trace)>,
    /// What keeps others from being understood.
    pub(super) troubles: Vec<Failure>,
}

/// Returns the labs below `root`.
pub(super) fn labs(root: &Path) -> Result<Labs> {
    let what = || format!("folder `{}` cannot be read", root.display());
    let listed = match fs::read_dir(root) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Labs::default()),
        listed => listed.failed(ExitCode::DrillNotRun, what)?,
    };
    let mut labs = Labs::default();
    for item in listed {
        let folder = item.failed(ExitCode::DrillNotRun, what)?.path();
        match Trace::read(&folder) {
            Ok(Some(trace)) => labs.found.push((folder, trace)),
            Ok(None) => labs.troubles.extend(without_trace(&folder)),
            Err(failure) => labs.troubles.push(failure),
        }
    }
    Ok(labs)
}

/// Looks at a folder without a trace. Of one who died before its first note it is empty, for nothing was started, and
/// goes; one that is being made this minute stays. In any other lies what nobody can tell about.
fn without_trace(folder: &Path) -> Option<Failure> {
    let age = |at: std::time::SystemTime| at.elapsed().unwrap_or_default();
    let made = fs::metadata(folder).and_then(|found| found.modified()).map(age);
    if made.is_ok_and(|age| age < MAKING) || fs::remove_dir(folder).is_ok() {
        return None;
    }
    let is_there = fs::symlink_metadata(folder).is_ok();
    is_there.then(|| {
        not_run(format!("folder `{}` is left of a lab, without its {FILE}", folder.display()))
            .hint("End what runs from this folder, if anything does, and remove it.")
    })
}

/// Returns the id of the machine's present boot.
fn boot() -> Result<String> {
    let path = "/proc/sys/kernel/random/boot_id";
    let text =
        fs::read_to_string(path).failed(ExitCode::DrillNotRun, || format!("`{path}` cannot be read"))?;
    Ok(text.trim().to_owned())
}
