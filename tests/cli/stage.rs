//! A stack of a test's own: a folder with keys, a repository, a policy, and the program that is run in it.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::{
    fs,
    io::Write as _,
    net::{TcpListener, TcpStream},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

/// How long anything may take before the test gives up.
pub const PATIENCE: Duration = Duration::from_mins(2);
/// The stack's name in its policy.
pub const STACK: &str = "demo";

/// What a run of the program left.
#[derive(Debug)]
pub struct Ran {
    pub exit: i32,
    pub out: String,
    pub err: String,
}

impl Ran {
    /// Checks how it ended.
    #[track_caller]
    pub fn ends(self, exit: i32) -> Self {
        assert_eq!(self.exit, exit, "\nstdout: {}\nstderr: {}", self.out, self.err);
        self
    }

    /// Checks what people were told.
    #[track_caller]
    pub fn tells(self, part: &str) -> Self {
        assert!(self.err.contains(part), "`{part}` is not in\n{}", self.err);
        self
    }

    /// Checks what stood on stdout.
    #[track_caller]
    pub fn says(self, part: &str) -> Self {
        assert!(self.out.contains(part), "`{part}` is not in\n{}", self.out);
        self
    }

    /// Checks that neither face holds a text.
    #[track_caller]
    pub fn hides(self, secret: &str) -> Self {
        assert!(!self.err.contains(secret), "stderr holds it:\n{}", self.err);
        assert!(!self.out.contains(secret), "stdout holds it:\n{}", self.out);
        self
    }

    /// Returns the one document on stdout.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {}\n{}", self.out, self.err))
    }
}

/// A stack.
pub struct Stage {
    dir: tempfile::TempDir,
}

impl Stage {
    /// Makes a stack without a source.
    pub fn new() -> Self {
        let stage = Self::bare();
        stage.run(&["init", "--root", "repo", "--keys", "keys", "--stack", STACK]).ends(0);
        stage.edit(|text| {
            text.replace("\nkeys = ", &format!("\nstate_dir = \"{}\"\nkeys = ", stage.at("state")))
        });
        stage
    }

    /// Makes an empty folder.
    pub fn bare() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    /// Makes a stack with one source, `config`: a folder with some files.
    pub fn with_files() -> Self {
        let stage = Self::new();
        stage.write("data/app.env", "COLOUR=blue\n");
        stage.write("data/conf/nginx.conf", &"server { listen 80; }\n".repeat(2000));
        stage.write("data/conf/empty", "");
        stage.add_files("config", "data");
        stage
    }

    /// Makes the stack of [`Self::with_files`] and its first snapshot; returns the snapshot's id too.
    pub fn with_snapshot() -> (Self, String) {
        let stage = Self::with_files();
        let id = stage.snapshot();
        (stage, id)
    }

    /// Makes a snapshot and returns its id.
    pub fn snapshot(&self) -> String {
        let made = self.run(&["backup", "--json"]).ends(0).json();
        made["snapshot"].as_str().unwrap().to_owned()
    }

    /// Returns a path below the folder as text.
    pub fn at(&self, path: &str) -> String {
        self.dir.path().join(path).to_str().unwrap().to_owned()
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    pub fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        // What lies in a store may not be written to, only replaced.
        if path.exists() {
            fs::remove_file(&path).unwrap();
        }
        fs::write(path, text).unwrap();
    }

    pub fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap()
    }

    pub fn exists(&self, path: &str) -> bool {
        self.path(path).exists()
    }

    /// Returns all files below a folder, sorted.
    pub fn files(&self, path: &str) -> Vec<PathBuf> {
        let mut found = Vec::new();
        walk(&self.path(path), &mut found);
        found.sort();
        found
    }

    /// Notes a drill of `config`, 100 bytes in 100 seconds, with one question that was answered so.
    pub fn drilled(&self, id: &str, from: &str, outcome: &str, answer: &str) {
        let file =
            self.files("state").into_iter().find(|file| file.extension().is_some_and(|e| e == "sqlite"));
        let catalog = lifeboat::catalog::Catalog::open(&file.unwrap()).unwrap().0;
        let report = serde_json::json!({
            "schema": "lifeboat.drill-report/1", "id": id, "stack": STACK, "host": "h", "lifeboat": "0.1.0",
            "timezone": "UTC", "way": "restore", "from": from, "snapshot": "20261101T000000Z-ffff",
            "snapshot_began": "2026-11-01T00:00:00Z", "lab": "docker", "began": "2026-11-01T00:00:00Z",
            "ended": "2026-11-01T00:10:00Z", "outcome": outcome, "problem": null, "rto_seconds": 100.0,
            "objective_seconds": null, "phases": [], "notes": [], "trend": [],
            "sources": [{
                "name": "config", "kind": "files", "point": "2026-11-01T00:00:00Z", "version": null,
                "lab_version": null, "image": null, "entries": 5, "size_bytes": 100, "seconds": 100.0,
            }],
            "assertions": [{
                "name": "contents", "kind": "contents", "source": "config", "answer": answer,
                "detail": "app.env", "findings": [], "findings_total": 0, "value": null,
            }],
        });
        catalog.note_drill(&serde_json::from_value(report).unwrap(), None).unwrap();
    }

    /// Changes the policy.
    pub fn edit(&self, change: impl FnOnce(String) -> String) {
        self.write("lifeboat.toml", &change(self.read("lifeboat.toml")));
    }

    /// Appends to the policy.
    pub fn append(&self, text: &str) {
        self.edit(|policy| format!("{policy}\n{text}"));
    }

    pub fn add_files(&self, name: &str, folder: &str) {
        let folder = self.at(folder);
        self.append(&format!("[[source]]\nname = \"{name}\"\nkind = \"files\"\npaths = [\"{folder}\"]\n"));
    }

    /// Writes a secret as it must lie: its owner's alone.
    pub fn secret(&self, name: &str, value: &str) {
        self.write(&format!("secrets/{name}"), value);
        let path = self.path("secrets").join(name);
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// Adds a Redis source whose password is in a file.
    pub fn add_redis(&self, port: u16, password: &str) {
        self.secret("redis", password);
        let file = self.at("secrets/redis");
        self.append(&format!(
            "[[source]]\nname = \"redis\"\nkind = \"redis\"\nurl = \"redis://127.0.0.1:{port}\"\n\
             password = {{ file = \"{file}\" }}\n"
        ));
    }

    /// Returns the program, ready to be run in the folder with nothing of the caller's surroundings.
    pub fn program(&self) -> std::process::Command {
        let mut program = std::process::Command::new(env!("CARGO_BIN_EXE_lifeboat"));
        program.current_dir(self.dir.path()).env_clear().env("HOME", self.dir.path());
        program.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        program.env("LIFEBOAT_POLICY", "lifeboat.toml").stdin(Stdio::null());
        program
    }

    pub fn run(&self, words: &[&str]) -> Ran {
        self.run_with(words, &[], "")
    }

    /// Runs the program with variables and an input.
    pub fn run_with(&self, words: &[&str], variables: &[(&str, &str)], input: &str) -> Ran {
        let mut program = self.program();
        program.args(words).envs(variables.iter().copied());
        let mut command = assert_cmd::Command::from_std(program);
        ran(&command.write_stdin(input).timeout(PATIENCE).output().unwrap())
    }

    /// Starts the program and returns while it runs.
    pub fn start(&self, words: &[&str]) -> Child {
        let mut program = self.program();
        program.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        program.spawn().unwrap()
    }

    /// Checks that every word of `texts` is hidden by all that lies below `path`.
    #[track_caller]
    pub fn holds_nowhere(&self, path: &str, secret: &str) {
        for file in self.files(path) {
            let bytes = fs::read(&file).unwrap();
            let found = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
            assert!(!found, "{} holds `{secret}`", file.display());
        }
    }
}

pub fn ran(output: &std::process::Output) -> Ran {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    // A program that a signal killed has no code; shells say 128 and the signal.
    let exit = output.status.code().unwrap_or(128);
    Ran { exit, out: text(&output.stdout), err: text(&output.stderr) }
}

fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() { walk(&path, found) } else { found.push(path) }
    }
}

/// Waits until something is so; fails when it takes too long.
#[track_caller]
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < PATIENCE, "waited too long until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Sends a signal.
pub fn send(child: &Child, signal: rustix::process::Signal) {
    rustix::process::kill_process(rustix::process::Pid::from_child(child), signal).unwrap();
}

/// A server that takes connections and never says a word.
pub struct Silent(TcpListener);

impl Silent {
    pub fn new() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").unwrap())
    }

    pub fn port(&self) -> u16 {
        self.0.local_addr().unwrap().port()
    }

    /// Waits for the next caller, who stays connected as long as the value lives.
    pub fn caller(&self) -> TcpStream {
        self.0.set_nonblocking(true).unwrap();
        let mut caller = None;
        wait_until("somebody calls", || {
            caller = self.0.accept().ok();
            caller.is_some()
        });
        caller.unwrap().0
    }
}

/// Returns a port that nobody listens at.
pub fn closed_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Compares a screen with its snapshot; what differs from run to run is named instead.
#[macro_export]
macro_rules! assert_screen {
    ($stage:expr, $text:expr) => {{
        let dir = $stage.at("");
        insta::with_settings!({ filters => $crate::stage::filters(&dir), omit_expression => true }, {
            insta::assert_snapshot!($text);
        });
    }};
}

pub fn filters(dir: &str) -> Vec<(&str, &'static str)> {
    vec![
        (dir, "[dir]/"),
        (r"\d{8}T\d{6}Z-[0-9a-f]{4}", "[snapshot]"),
        (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d [A-Z]+", "[time]"),
        (r"age1[02-9ac-hj-np-z]{58}", "[recipient]"),
        (r"RW[A-Za-z0-9+/]{54}", "[signer]"),
        (r"\b[0-9a-f]{64}\b", "[hash]"),
        (r"\b[0-9a-f]{32}\b", "[repository]"),
        (r"\d+\.\d+ s\b", "[seconds] s"),
        (r"\d+(\.\d+)? KiB", "[size]"),
        (r"\d+ B\b", "[size]"),
        // Columns are as wide as what was just named.
        (r"┆ \d+\.\d +│", "┆ [seconds] │"),
        (r"[─═]+", "─"),
        (r" {2,}", " "),
    ]
}

/// Writes to a child's input.
pub fn say_to(child: &mut Child, text: &str) {
    child.stdin.as_mut().unwrap().write_all(text.as_bytes()).unwrap();
}
