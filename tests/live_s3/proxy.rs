//! A proxy that counts requests and makes faults.
//!
//! It hands each request on byte for byte (the signature covers the `Host` that the client wrote), on a
//! connection of its own, and closes after each answer.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

type Act = Box<dyn Fn() -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

enum What {
    Before(Act),
    Cut(u8),
    Lost,
    Status(u16),
    Answer(&'static str),
    Header(&'static [u8]),
}

/// Something that goes wrong, once or always, with requests of a method whose target, or range, contains a text.
pub struct Fault {
    method: &'static str,
    target: &'static str,
    what: What,
    times: Mutex<u32>,
}

impl Fault {
    fn once(method: &'static str, target: &'static str, what: What) -> Self {
        Self { method, target, what, times: Mutex::new(1) }
    }
    /// Does something before the request is handed on.
    pub fn before(
        method: &'static str,
        target: &'static str,
        act: impl Fn() -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync + 'static,
    ) -> Self {
        Self::once(method, target, What::Before(Box::new(act)))
    }
    /// Closes the connection after so many percent of the answer's body.
    pub fn cut(method: &'static str, target: &'static str, percent: u8) -> Self {
        Self::once(method, target, What::Cut(percent))
    }
    /// Closes the connection instead of passing the answer on.
    pub fn lost(method: &'static str, target: &'static str) -> Self {
        Self::once(method, target, What::Lost)
    }
    /// Answers with this status instead of the server.
    pub fn status(method: &'static str, target: &'static str, status: u16) -> Self {
        Self::once(method, target, What::Status(status))
    }
    /// Answers with this body instead of the server.
    pub fn answer(method: &'static str, target: &'static str, body: &'static str) -> Self {
        Self::once(method, target, What::Answer(body))
    }
    /// Adds a header to the answer.
    pub fn header(method: &'static str, target: &'static str, header: &'static [u8]) -> Self {
        Self::once(method, target, What::Header(header))
    }
    /// Makes it happen each time.
    pub fn always(self) -> Self {
        *self.times.lock().unwrap() = u32::MAX;
        self
    }
    fn hits(&self, line: &str, range: Option<&str>) -> bool {
        let mut times = self.times.lock().unwrap();
        let is_meant = line.contains(self.target) || range.is_some_and(|range| range.contains(self.target));
        let hit = *times > 0 && line.starts_with(self.method) && is_meant;
        *times -= u32::from(hit);
        hit
    }
}

/// A running proxy.
pub struct Proxy {
    port: u16,
    lines: Arc<Mutex<Vec<Line>>>,
}

/// The first line of a request, and the range that it asks for.
type Line = (String, Option<String>);

impl Proxy {
    /// Starts one before `endpoint`.
    pub async fn start(endpoint: &str, faults: Vec<Fault>) -> Self {
        let upstream = endpoint.trim_start_matches("http://").trim_end_matches('/').to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let lines = Arc::new(Mutex::new(Vec::new()));
        let (seen, faults) = (Arc::clone(&lines), Arc::new(faults));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (upstream, seen, faults) = (upstream.clone(), Arc::clone(&seen), Arc::clone(&faults));
                // A client that hangs up is no concern of the proxy.
                tokio::spawn(async move { serve(client, &upstream, &seen, &faults).await.ok() });
            }
        });
        Self { port, lines }
    }
    /// Returns its address.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
    /// Returns the first line of each request so far.
    pub fn requests(&self) -> Vec<String> {
        self.lines.lock().unwrap().iter().map(|(line, _)| line.clone()).collect()
    }
    /// Returns the ranges that were asked for, in the order of their first bytes.
    pub fn ranges(&self) -> Vec<(u64, u64)> {
        let of_text = |text: &str| {
            let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
            Some((first.parse().ok()?, last.parse().ok()?))
        };
        let lines = self.lines.lock().unwrap();
        let mut all: Vec<_> =
            lines.iter().filter_map(|(_, range)| range.as_deref()).filter_map(of_text).collect();
        all.sort_unstable();
        all
    }
}

async fn serve(
    mut client: TcpStream,
    upstream: &str,
    seen: &Mutex<Vec<Line>>,
    faults: &[Fault],
) -> std::io::Result<()> {
    let mut request = Vec::new();
    let head = loop {
        if client.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
        if let Some(at) = request.windows(4).position(|four| four == b"\r\n\r\n") {
            break at;
        }
    };
    let text = String::from_utf8_lossy(&request[..head]).into_owned();
    let line = text.lines().next().unwrap_or_default().to_owned();
    let range = header(&text, "range");
    seen.lock().unwrap().push((line.clone(), range.clone()));
    while request.len() < head + 4 + length(&text) {
        client.read_buf(&mut request).await?;
    }
    let fault = faults.iter().find(|fault| fault.hits(&line, range.as_deref()));
    match fault.map(|fault| &fault.what) {
        Some(What::Before(act)) => act().await,
        Some(What::Status(status)) => return client.write_all(answer(*status, "").as_bytes()).await,
        Some(What::Answer(body)) => return client.write_all(answer(200, body).as_bytes()).await,
        _ => {}
    }
    let mut server = TcpStream::connect(upstream).await?;
    // `connection` is not among the signed headers.
    server.write_all(&request[..head]).await?;
    server.write_all(b"\r\nconnection: close").await?;
    server.write_all(&request[head..]).await?;
    let mut answer = Vec::new();
    server.read_to_end(&mut answer).await?;
    if let Some(What::Lost) = fault.map(|fault| &fault.what) {
        return Ok(());
    }
    if let Some(What::Cut(percent)) = fault.map(|fault| &fault.what) {
        let body = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap_or(0) + 4;
        answer.truncate(body + (answer.len() - body) * usize::from(*percent) / 100);
    }
    if let Some(What::Header(header)) = fault.map(|fault| &fault.what) {
        let line = answer.windows(2).position(|two| two == b"\r\n").unwrap_or(0) + 2;
        answer.splice(line..line, [*header, b"\r\n"].concat());
    }
    client.write_all(&answer).await?;
    client.shutdown().await
}

fn answer(status: u16, body: &str) -> String {
    format!("HTTP/1.1 {status} As asked\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
}

fn length(head: &str) -> usize {
    header(head, "content-length").and_then(|value| value.parse().ok()).unwrap_or(0)
}

fn header(head: &str, name: &str) -> Option<String> {
    let values = head.lines().filter_map(|line| line.split_once(':'));
    values.filter(|(of, _)| of.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().to_owned()).next()
}
