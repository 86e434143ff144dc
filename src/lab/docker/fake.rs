//! A container engine for tests, as far as labs ask for their own things: it lists, makes and removes containers.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use bollard::{API_DEFAULT_VERSION, Docker};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    sync::Semaphore,
};

/// The engine. It runs as long as the test's runtime does.
pub(super) struct Fake {
    folder: TempDir,
    state: Arc<State>,
}

struct State {
    labels: HashMap<String, String>,
    containers: Mutex<Vec<String>>,
    /// What appears at the moment at which something is removed.
    to_come: Mutex<Vec<String>>,
    /// Gets a permit for each container that is to be made.
    asked: Semaphore,
    /// Gives a permit for each that may.
    may_make: Semaphore,
}

impl Fake {
    /// Starts an engine that has containers with these labels.
    pub(super) fn start(labels: HashMap<String, String>, containers: &[&str], to_come: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("sock")).unwrap();
        let names = |all: &[&str]| Mutex::new(all.iter().map(|name| (*name).to_owned()).collect());
        let state = Arc::new(State {
            labels,
            containers: names(containers),
            to_come: names(to_come),
            asked: Semaphore::new(0),
            may_make: Semaphore::new(0),
        });
        let shared = state.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, shared.clone()));
            }
        });
        Self { folder, state }
    }

    /// Returns a client of it.
    pub(super) fn client(&self) -> Docker {
        let socket = self.folder.path().join("sock");
        Docker::connect_with_unix(socket.to_str().unwrap(), 60, API_DEFAULT_VERSION).unwrap()
    }

    /// Returns the containers that it has now.
    pub(super) fn containers(&self) -> Vec<String> {
        self.state.containers.lock().unwrap().clone()
    }

    /// Waits until it is asked to make a container.
    pub(super) async fn is_asked(&self) {
        self.state.asked.acquire().await.unwrap().forget();
    }

    /// Lets it make one.
    pub(super) fn make(&self) {
        self.state.may_make.add_permits(1);
    }
}

/// Answers one request; the client makes a connection for each.
async fn answer(mut stream: UnixStream, state: Arc<State>) {
    let (mut text, mut buffer) = (String::new(), [0; 4096]);
    while !text.contains("\r\n\r\n") {
        let count = stream.read(&mut buffer).await.unwrap();
        text.push_str(&String::from_utf8_lossy(&buffer[..count]));
    }
    let mut words = text.split([' ', '?']);
    let (method, path) = (words.next().unwrap().to_owned(), words.next().unwrap().to_owned());
    let body = match (method.as_str(), path.rsplit('/').next().unwrap()) {
        ("POST", "create") => {
            state.asked.add_permits(1);
            state.may_make.acquire().await.unwrap().forget();
            state.containers.lock().unwrap().push("made".to_owned());
            json!({"Id": "made", "Warnings": []})
        }
        ("DELETE", id) => {
            let mut containers = state.containers.lock().unwrap();
            containers.retain(|one| one != id);
            containers.extend(state.to_come.lock().unwrap().pop());
            Value::Null
        }
        ("GET", "json") => {
            let containers = state.containers.lock().unwrap();
            containers.iter().map(|id| json!({"Id": id, "Labels": state.labels})).collect()
        }
        _ => json!([]),
    };
    let body = body.to_string();
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n";
    let whole = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
    // Who asked may have gone.
    let _ = stream.write_all(whole.as_bytes()).await;
}
