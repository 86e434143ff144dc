//! A service that runs, and what a test may do to it.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    process::Child,
    sync::{Arc, Mutex},
};

use chrono::{DateTime, Duration, Utc};
use rustix::process::Signal;
use serde_json::Value;

use crate::stage::{Stage, closed_port, send, wait_until};

/// A service that runs.
pub struct Service {
    child: Child,
    port: u16,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Service {
    /// Starts the service and waits until it says that it is ready.
    pub fn start(stage: &Stage) -> Self {
        Self::start_with(stage, &[])
    }

    pub fn start_with(stage: &Stage, variables: &[(&str, &str)]) -> Self {
        let port = closed_port();
        let mut program = stage.program();
        program.args(["serve", "--log", "json", "--listen", &format!("127.0.0.1:{port}")]);
        program.envs(variables.iter().copied());
        program.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::inherit());
        let mut child = program.spawn().unwrap();
        let lines: Arc<Mutex<Vec<String>>> = Arc::default();
        let (out, to) = (child.stdout.take().unwrap(), lines.clone());
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                to.lock().unwrap().push(line);
            }
        });
        let service = Self { child, port, lines };
        service.says("ready: ");
        service
    }

    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    /// Waits until a line of the log holds this text.
    #[track_caller]
    pub fn says(&self, text: &str) {
        wait_until(&format!("the service says `{text}`"), || {
            self.lines().iter().any(|line| line.contains(text))
        });
    }

    /// Waits until the log holds this text so often.
    #[track_caller]
    pub fn says_times(&self, text: &str, times: usize) {
        let count = || self.lines().iter().filter(|line| line.contains(text)).count();
        wait_until(&format!("the service says `{text}` {times} times"), || count() >= times);
    }

    pub fn send(&self, signal: Signal) {
        send(&self.child, signal);
    }

    /// Returns the status and the body of what lies at a path.
    pub fn get(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    /// Waits until the process is gone, and returns its code.
    pub fn gone(&mut self) -> i32 {
        let mut code = None;
        wait_until("the service is gone", || {
            code = self.child.try_wait().unwrap();
            code.is_some()
        });
        code.unwrap().code().unwrap_or(128)
    }

    pub fn stop(mut self) {
        self.send(Signal::TERM);
        assert_eq!(self.gone(), 0, "{:#?}", self.lines());
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // A test that failed must leave nothing behind; one that went well has ended it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns the catalog's file.
pub fn catalog(stage: &Stage) -> std::path::PathBuf {
    let files = stage.files("state").into_iter();
    files.into_iter().find(|file| file.extension().is_some_and(|e| e == "sqlite")).unwrap()
}

/// Puts a slot into the catalog as if the service had kept it so long ago: what came after it is due at once.
pub fn kept_slot(stage: &Stage, verb: &str, ago: Duration) {
    let at: DateTime<Utc> = lifeboat::clock::Clock::now(&lifeboat::clock::System) - ago;
    let text = at.to_rfc3339_opts(chrono::SecondsFormat::Micros, true);
    rusqlite::Connection::open(catalog(stage))
        .unwrap()
        .execute("INSERT INTO slots VALUES (?1, '', ?2, 'done', 0, ?2)", (verb, text))
        .unwrap();
}

/// Replaces the schedule of the policy.
pub fn set_schedule(stage: &Stage, schedule: &str) {
    stage.edit(|policy| {
        let (before, rest) = policy.split_once("[schedule]\n").unwrap();
        let after = &rest[rest.find("\n[").unwrap()..];
        format!("{before}[schedule]\n{schedule}\n{after}")
    });
}

/// Makes a stack with files, a schedule and a catalog.
pub fn scheduled(schedule: &str) -> Stage {
    let stage = Stage::with_files();
    set_schedule(&stage, schedule);
    stage.run(&["status"]).ends(0);
    stage
}

pub fn snapshots(stage: &Stage) -> usize {
    stage.run(&["snapshots", "--json"]).ends(0).json()["snapshots"].as_array().unwrap().len()
}

/// What a killed drill left behind.
pub struct Left {
    killed: std::time::Instant,
    pids: Vec<i64>,
}

impl Left {
    /// Drills in a lab of processes until its program `forever` runs, and kills the drill.
    pub fn by_a_killed_drill(stage: &Stage) -> Self {
        stage.append("[[drill.command]]\nname = \"forever\"\ncommand = [\"sh\", \"-c\", \"sleep 1000\"]\n");
        let mut drill = stage.start(&["drill"]);
        let mut trace = Value::Null;
        wait_until("the lab runs its program", || {
            let files = stage.files("state/labs").into_iter();
            let file = files.into_iter().find(|file| file.ends_with("lab.json"));
            let read = file.and_then(|file| serde_json::from_slice(&std::fs::read(file).ok()?).ok());
            trace = read.unwrap_or_default();
            trace["processes"].as_array().is_some_and(|all| all.iter().any(|one| one["program"] == "forever"))
        });
        send(&drill, Signal::KILL);
        let killed = std::time::Instant::now();
        drill.wait().unwrap();
        let pids = trace["processes"].as_array().unwrap().iter().map(|one| one["pid"].as_i64().unwrap());
        let left = Self { killed, pids: pids.collect() };
        assert!(left.pids.iter().any(|pid| runs(*pid)), "who is killed ends nothing");
        assert_eq!(works(stage).len(), 1);
        left
    }

    /// Waits until nothing of it is there.
    pub fn is_gone(&self, stage: &Stage) {
        wait_until("what the drill left is removed", || {
            works(stage).is_empty()
                && stage.files("state/labs").is_empty()
                && !self.pids.iter().any(|pid| runs(*pid))
        });
        println!("from SIGKILL until nothing was left: {} ms", self.killed.elapsed().as_millis());
    }
}

/// Returns the folders that drills work in.
pub fn works(stage: &Stage) -> Vec<String> {
    let listed = std::fs::read_dir(stage.path("state/drills")).into_iter().flatten();
    let names = listed.map(|item| item.unwrap().file_name().into_string().unwrap());
    names.filter(|name| std::path::Path::new(name).extension() == Some("work".as_ref())).collect()
}

/// Returns whether a process runs; one that only waits to be taken leave of does not.
fn runs(pid: i64) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|text| !text.rsplit_once(')').unwrap().1.trim_start().starts_with('Z'))
}
