//! A bucket of any number of objects that are made up as they are listed, and listings that go wrong.
//!
//! For what a real server cannot show: a million objects that cost it no disk, and answers that no good server gives.

use std::{
    fmt::Write,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// Bytes of each object.
pub const SIZE_BYTES: u64 = 7;
/// When each object was written.
pub const WRITTEN: &str = "2026-01-02T03:04:05.678Z";

/// What goes wrong with a listing, at its second page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// The page says that it goes on where it began itself.
    SameToken,
    /// It says that there is more, and not where.
    NoToken,
    /// The page before comes again.
    SamePage,
    /// The first answer is 503.
    Busy,
    /// The first answer breaks off in the middle.
    Reset,
}

/// A server of one bucket.
pub struct FakeS3 {
    port: u16,
    pages: Arc<AtomicUsize>,
}

struct Shape {
    count: usize,
    page_size: usize,
    fault: Fault,
    pages: Arc<AtomicUsize>,
    second: AtomicUsize,
}

/// Returns the key of an object; they ascend.
pub fn key_of(n: usize) -> String {
    format!("2026/{:04}/{n:09}.bin", n / 1000)
}

/// Returns the `ETag` of an object.
pub fn etag_of(n: usize) -> String {
    format!("{n:032x}")
}

impl FakeS3 {
    /// Starts one with so many objects.
    pub async fn start(count: usize, page_size: usize, fault: Fault) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let pages = Arc::<AtomicUsize>::default();
        let second = AtomicUsize::new(0);
        let shape = Arc::new(Shape { count, page_size, fault, pages: Arc::clone(&pages), second });
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let shape = Arc::clone(&shape);
                // A client that hangs up is no concern of the server.
                tokio::spawn(async move { shape.serve(client).await.ok() });
            }
        });
        Self { port, pages }
    }
    /// Returns its address.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
    /// Returns how many pages of the listing it gave.
    pub fn pages(&self) -> usize {
        self.pages.load(Ordering::Relaxed)
    }
}

impl Shape {
    async fn serve(&self, mut client: TcpStream) -> std::io::Result<()> {
        let mut request = Vec::new();
        loop {
            // No request of a reader has a body.
            while let Some(end) = request.windows(4).position(|four| four == b"\r\n\r\n") {
                let head = String::from_utf8_lossy(&request[..end]).into_owned();
                request.drain(..end + 4);
                let line = head.lines().next().unwrap_or_default();
                let Some((status, body)) = self.answer(line) else { return Ok(()) };
                let head = format!("HTTP/1.1 {status} As asked\r\ncontent-length: {}\r\n\r\n", body.len());
                client.write_all(head.as_bytes()).await?;
                if self.fault == Fault::Reset && status == 200 && self.is_first_try(line) {
                    return client.write_all(&body.as_bytes()[..body.len() / 2]).await;
                }
                client.write_all(body.as_bytes()).await?;
            }
            if client.read_buf(&mut request).await? == 0 {
                return Ok(());
            }
        }
    }

    fn is_first_try(&self, line: &str) -> bool {
        line.contains("continuation-token=1&") && self.second.fetch_add(1, Ordering::Relaxed) == 0
    }

    fn answer(&self, line: &str) -> Option<(u16, String)> {
        let target = line.strip_prefix("GET ")?.split(' ').next()?;
        let query = target.split_once('?').map(|(_, query)| query).unwrap_or_default();
        let value = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        if value("list-type") != Some("2") {
            return Some((404, "<Error><Code>NoSuchConfiguration</Code></Error>".to_owned()));
        }
        if value("max-keys") == Some("1") {
            return Some((200, self.page(0, 1, None)));
        }
        if self.fault == Fault::Busy && self.is_first_try(&format!("{query}&")) {
            return Some((503, "<Error><Code>SlowDown</Code></Error>".to_owned()));
        }
        self.pages.fetch_add(1, Ordering::Relaxed);
        let page: usize = value("continuation-token").map_or(0, |token| token.parse().unwrap());
        let next = (page + 1) * self.page_size < self.count;
        let next = next.then(|| (page + 1).to_string());
        let (page, next) = match self.fault {
            Fault::SameToken if page == 1 => (1, Some("1".to_owned())),
            Fault::NoToken if page == 1 => (1, Some(String::new())),
            Fault::SamePage if page == 1 => (0, next),
            _ => (page, next),
        };
        Some((200, self.page(page * self.page_size, self.page_size, next)))
    }

    /// Writes a page of the listing.
    fn page(&self, from: usize, count: usize, next: Option<String>) -> String {
        let mut page = format!(
            "<ListBucketResult><EncodingType>url</EncodingType><IsTruncated>{}</IsTruncated>",
            next.is_some()
        );
        if let Some(next) = next.filter(|next| !next.is_empty()) {
            write!(page, "<NextContinuationToken>{next}</NextContinuationToken>").unwrap();
        }
        for n in from..(from + count).min(self.count) {
            let (key, etag) = (key_of(n), etag_of(n));
            write!(
                page,
                "<Contents><Key>{key}</Key><LastModified>{WRITTEN}</LastModified><ETag>\"{etag}\"</ETag>\
                 <Size>{SIZE_BYTES}</Size></Contents>"
            )
            .unwrap();
        }
        page.push_str("</ListBucketResult>");
        page
    }
}
