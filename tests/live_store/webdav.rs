//! A WebDAV server of a test's own: rclone's, over a folder, gone when the test ends.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
};

const USER: &str = "lifeboat";
const PASSWORD: &str = "not secret: \"quoted\" %41";

/// A server.
pub struct Webdav {
    child: Child,
    endpoint: String,
    _folder: tempfile::TempDir,
}

impl Webdav {
    /// Starts a server on a free port and waits until it says where it listens.
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut rclone = Command::new("rclone");
        rclone.args(["serve", "webdav", "--addr", "127.0.0.1:0", "--user", USER, "--pass", PASSWORD]);
        rclone.arg(folder.path()).env("RCLONE_CONFIG", "").stdin(Stdio::null()).stderr(Stdio::piped());
        let mut child = rclone.spawn().unwrap_or_else(|error| {
            panic!("rclone: {error}: install Debian's package `rclone`, or run fixtures/test")
        });
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let started =
            log.find_map(|line| line.split_once("WebDav Server started on ").map(|(_, at)| at.to_owned()));
        let endpoint = started.expect("rclone says where it listens").trim().to_owned();
        // What it says later must not fill the pipe.
        std::thread::spawn(move || log.for_each(drop));
        Self { child, endpoint, _folder: folder }
    }

    /// Returns the options of a store in this folder of it.
    pub fn options(&self, root: &str) -> BTreeMap<String, String> {
        let pairs = [
            ("endpoint", self.endpoint.as_str()),
            ("username", USER),
            ("password", PASSWORD),
            ("root", root),
        ];
        pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
    }
}

impl Drop for Webdav {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
