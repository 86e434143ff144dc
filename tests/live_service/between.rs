//! What stands between the program and a server, and hands on less than it should.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_util::sync::CancellationToken;

/// Hands on so many bytes of a server's answers, and what follows only when it is told to.
pub struct Held {
    pub port: u16,
    pub is_full: CancellationToken,
    pub release: CancellationToken,
}

impl Held {
    /// Stands before a server of this machine.
    pub async fn before(server_port: u16, bytes_max: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (is_full, release) = (CancellationToken::new(), CancellationToken::new());
        let (full, go) = (is_full.clone(), release.clone());
        tokio::spawn(async move {
            let seen = Arc::new(AtomicUsize::new(0));
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(("127.0.0.1", server_port)).await.unwrap();
                let (mut from_client, mut to_client) = client.into_split();
                let (mut from_server, mut to_server) = server.into_split();
                // One that hangs up is no concern of what stands between.
                tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await.ok() });
                let (seen, full, go) = (seen.clone(), full.clone(), go.clone());
                tokio::spawn(async move {
                    let mut bytes = vec![0; 1 << 16];
                    while let Ok(count) = from_server.read(&mut bytes).await
                        && count > 0
                    {
                        if seen.fetch_add(count, Ordering::Relaxed) + count >= bytes_max {
                            full.cancel();
                            go.cancelled().await;
                        }
                        if to_client.write_all(&bytes[..count]).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Self { port, is_full, release }
    }
}

/// Stands before an S3 server and leaves the second half out of each listing. Returns its address.
pub async fn halving(endpoint: &str) -> String {
    let upstream = endpoint.trim_start_matches("http://").trim_end_matches('/').to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let upstream = upstream.clone();
            // A client that hangs up is no concern of what stands between.
            tokio::spawn(async move { serve(client, &upstream).await.ok() });
        }
    });
    format!("http://127.0.0.1:{port}")
}

/// Hands one request on, which has no body as all that reads, and closes after the answer.
async fn serve(mut client: TcpStream, upstream: &str) -> std::io::Result<()> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        if client.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
    let text = String::from_utf8_lossy(&request).into_owned();
    // `connection` is not among the signed headers.
    let text = text.replacen("\r\n", "\r\nconnection: close\r\n", 1);
    let mut server = TcpStream::connect(upstream).await?;
    server.write_all(text.as_bytes()).await?;
    let mut answer = Vec::new();
    server.read_to_end(&mut answer).await?;
    client.write_all(&halved(answer)).await?;
    client.shutdown().await
}

/// Leaves the second half of its objects out of a listing; other answers stay as they are.
fn halved(answer: Vec<u8>) -> Vec<u8> {
    let Ok(text) = std::str::from_utf8(&answer) else { return answer };
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return answer };
    let body = if head.contains("chunked") { joined(body) } else { body.to_owned() };
    let Some(end) = body.rfind("</Contents>") else { return answer };
    let tail = &body[end + "</Contents>".len()..];
    let objects: Vec<&str> = body.split_inclusive("</Contents>").collect();
    // The last piece is what follows the last object.
    let half = objects[..objects.len() / 2].concat() + tail;
    let sizes = ["content-length:", "transfer-encoding:"];
    let is_kept = |line: &&str| !sizes.iter().any(|size| line.to_ascii_lowercase().starts_with(size));
    let head: Vec<&str> = head.lines().filter(is_kept).collect();
    format!("{}\r\ncontent-length: {}\r\n\r\n{half}", head.join("\r\n"), half.len()).into_bytes()
}

/// Joins a body that came in pieces, each after its size.
fn joined(mut body: &str) -> String {
    let mut whole = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).unwrap();
        whole.push_str(&rest[..size]);
        body = &rest[size + 2..];
    }
    whole
}
