//! A server that takes what channels send and answers as it was told.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::Bytes,
    extract::{Request as Incoming, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use serde_json::Value;
use tokio::{net::TcpListener, task::JoinHandle};

/// What came.
#[derive(Clone, Debug)]
pub struct Request {
    /// Its path and query.
    pub path: String,
    pub headers: HeaderMap,
    pub body: String,
}

impl Request {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    /// Returns a value of its query.
    pub fn query(&self, key: &str) -> Option<String> {
        let url = reqwest::Url::parse(&format!("http://host{}", self.path)).unwrap();
        url.query_pairs().find(|(name, _)| name == key).map(|(_, value)| value.into_owned())
    }
}

#[derive(Default)]
struct Shared {
    requests: Vec<Request>,
    answers: VecDeque<(u16, String)>,
}

/// The server; it goes when it is dropped.
pub struct Receiver {
    port: u16,
    shared: Arc<Mutex<Shared>>,
    task: JoinHandle<()>,
}

impl Receiver {
    /// Starts a server that gives these answers one after the other, and the last one ever after.
    pub async fn answering(answers: &[(u16, &str)]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let answers = answers.iter().map(|(status, body)| (*status, (*body).to_owned())).collect();
        let shared = Arc::new(Mutex::new(Shared { requests: Vec::new(), answers }));
        let app = Router::new().fallback(answer).with_state(shared.clone());
        let task = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { port, shared, task }
    }

    /// Returns an address here.
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// Returns what came so far.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.lock().unwrap().requests.clone()
    }

    /// Returns the only thing that came.
    #[track_caller]
    pub fn only(&self) -> Request {
        let requests = self.requests();
        assert_eq!(requests.len(), 1, "{requests:?}");
        requests[0].clone()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(State(shared): State<Arc<Mutex<Shared>>>, request: Incoming) -> Response {
    let (parts, body) = request.into_parts();
    let body: Bytes = axum::body::to_bytes(body, 1 << 24).await.unwrap();
    let path = parts.uri.path_and_query().unwrap().to_string();
    let body = String::from_utf8(body.to_vec()).unwrap();
    let mut shared = shared.lock().unwrap();
    shared.requests.push(Request { path, headers: parts.headers, body });
    let (status, text) = match shared.answers.len() {
        1 => shared.answers[0].clone(),
        _ => shared.answers.pop_front().unwrap(),
    };
    let status = StatusCode::from_u16(status).unwrap();
    if status.is_redirection() {
        return (status, [("location", text)]).into_response();
    }
    (status, text).into_response()
}

/// Returns a port that nobody listens at.
pub async fn closed_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port()
}
