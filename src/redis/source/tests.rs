//! The source against a server that tells of itself what a test wants.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

use super::*;
use crate::{event::Recorder, flow::conformance::read_all};

/// Answers each command in one way, and tells which came.
async fn serve(info: &'static str) -> (RedisConfig, mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("redis://{}", listener.local_addr().unwrap());
    let (hear, heard) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream, info, hear.clone()));
        }
    });
    (RedisConfig { url, ..RedisConfig::default() }, heard)
}

async fn answer(mut stream: TcpStream, info: &str, hear: mpsc::UnboundedSender<String>) {
    let mut bytes = vec![0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut bytes).await {
        // `*<words>`, `$<length>`, the first word, and the others.
        let command = String::from_utf8_lossy(&bytes[..count]).into_owned();
        let word = command.lines().nth(2).unwrap_or_default().to_uppercase();
        let told = match word.as_str() {
            "PING" => "+PONG\r\n".to_owned(),
            "INFO" => format!("${}\r\n{info}\r\n", info.len()),
            "TIME" => "*2\r\n$1\r\n7\r\n$1\r\n0\r\n".to_owned(),
            "REPLCONF" => "+OK\r\n".to_owned(),
            _ => format!("-ERR unknown command '{word}', with args beginning with: \r\n"),
        };
        hear.send(word).unwrap();
        if stream.write_all(told.as_bytes()).await.is_err() {
            return;
        }
    }
}

async fn failure_of(config: RedisConfig, monitor: SharedMonitor) -> Failure {
    let name = SourceName::new("redis").unwrap();
    let source = RedisSource::new(name.clone(), config, Ground::system(), monitor);
    read_all(Box::new(source)).await.unwrap_err().about(&name)
}

#[tokio::test]
async fn a_dump_that_cannot_fit_is_not_asked_for() {
    let (config, mut heard) =
        serve("redis_version:7.0.15\r\nused_memory_dataset:9000000000000000000\r\n").await;
    let failure = failure_of(config, Arc::new(Recorder::default())).await;
    assert!(failure.to_string().contains("will not fit into the spool folder"), "{failure}");
    assert!(failure.hints()[0].contains("spool_dir"), "{failure:?}");
    let mut words = Vec::new();
    while let Ok(word) = heard.try_recv() {
        words.push(word);
    }
    assert!(words.contains(&"INFO".to_owned()) && !words.contains(&"PSYNC".to_owned()), "{words:?}");
}

#[tokio::test]
async fn what_a_renamed_psync_means_is_told() {
    let (config, _heard) = serve("redis_version:7.0.15\r\nused_memory_dataset:7\r\n").await;
    let failure = failure_of(config, Arc::new(Recorder::default())).await;
    assert_eq!(failure.exit(), ExitCode::SourceDown);
    assert!(failure.to_string().ends_with("refused PSYNC"), "R30: {failure}");
    assert!(failure.hints()[0].contains("renamed"), "{failure:?}");
}
