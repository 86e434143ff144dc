//! The container socket: what drills need, and what a host with keys had better not have.

use std::{env, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, UnixStream},
    time::timeout,
};

use super::Looking;
use crate::{
    finding::{Finding, Status, laws},
    lab::docker,
    policy::{LabKind, Stack},
};

laws! {
    page "lab";
    SOCKET = "lab.socket",
        "drills can start containers",
        "Start the container engine, and let this user use its socket; or set lab = \"process\" in [drill].";
    ALONE = "lab.alone",
        "the host that holds keys does not hold the container socket",
        "Let another host make the drills: whoever reaches the socket is root here and has the keys.";
}

/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(5);
/// Bytes of an answer that are read.
const ANSWER_BYTES_MAX: u64 = 4096;

/// Looks at the socket, if a drill needs one.
pub(super) async fn look(looking: Looking<'_>) -> Vec<Finding> {
    let stack = looking.stack;
    if !looking.all() || stack.schedule.drill.is_none() || stack.drill.lab != LabKind::Docker {
        return Vec::new();
    }
    let address = docker::address(stack.drill.socket.as_deref());
    let answered = timeout(LIMIT, ping(&address)).await;
    match answered.unwrap_or_else(|_| Err(format!("no answer within {} s", LIMIT.as_secs()))) {
        Ok(Some(product)) => vec![SOCKET.ok(format!("{address}: {product}")), alone(stack, &address)],
        Ok(None) => vec![SOCKET.found(Status::Unknown, format!("{address} is not reached by this look"))],
        Err(why) => vec![SOCKET.broken(format!("{address}: {why}"))],
    }
}

fn alone(stack: &Stack, address: &str) -> Finding {
    let settings = &stack.repository.settings;
    let has_keys = settings.signing_key().exists() || settings.index_key().exists();
    if has_keys && address.starts_with("unix://") {
        ALONE.found(Status::Warn, format!("{address}, and keys in {}", settings.keys.display()))
    } else {
        ALONE.ok("they are apart")
    }
}

/// Asks the engine at `address` for a sign of life; `None` where it is reached in a way that is not tried here.
async fn ping(address: &str) -> Result<Option<String>, String> {
    let told = |error: std::io::Error| error.to_string();
    if let Some(path) = address.strip_prefix("unix://") {
        let stream = UnixStream::connect(path).await.map_err(told)?;
        return answer(stream).await.map(Some);
    }
    // With TLS it needs certificates of its own.
    if let Some(host) = address.strip_prefix("tcp://")
        && env::var_os("DOCKER_TLS_VERIFY").is_none()
    {
        let stream = TcpStream::connect(host).await.map_err(told)?;
        return answer(stream).await.map(Some);
    }
    Ok(None)
}

/// Sends the smallest request that there is, and returns what the engine calls itself.
async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> Result<String, String> {
    let told = |error: std::io::Error| error.to_string();
    stream.write_all(b"GET /_ping HTTP/1.0\r\nHost: docker\r\n\r\n").await.map_err(told)?;
    let mut bytes = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut bytes).await.map_err(told)?;
    let text = String::from_utf8_lossy(&bytes);
    let mut lines = text.lines();
    let first = lines.next().unwrap_or_default();
    if first.split(' ').nth(1) != Some("200") {
        return Err(format!("it answered `{}`", first.chars().take(60).collect::<String>()));
    }
    let server = lines.find_map(|line| line.strip_prefix("Server: "));
    Ok(server.unwrap_or("it answers").to_owned())
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;

    use super::*;

    async fn engine(says: &'static str) -> Result<Option<String>, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("docker.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let served = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(stream.read_u8().await.unwrap());
            }
            stream.write_all(says.as_bytes()).await.unwrap();
            request
        });
        let answered = ping(&format!("unix://{}", path.display())).await;
        assert!(served.await.unwrap().starts_with(b"GET /_ping HTTP/1.0"));
        answered
    }

    #[tokio::test]
    async fn an_engine_that_answers_is_named_and_one_that_refuses_is_told() {
        let good = "HTTP/1.0 200 OK\r\nServer: Docker/26.1.5 (linux)\r\n\r\nOK";
        assert_eq!(engine(good).await, Ok(Some("Docker/26.1.5 (linux)".to_owned())));
        let refused = engine("HTTP/1.0 403 Forbidden\r\n\r\n").await;
        assert_eq!(refused, Err("it answered `HTTP/1.0 403 Forbidden`".to_owned()));
        assert!(ping("unix:///no/such/socket").await.is_err());
        assert_eq!(ping("ssh://host").await, Ok(None));
    }
}
