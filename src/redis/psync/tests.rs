//! The pull against a scripted server: what hostile and unlucky servers send is never taken for a dump.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use super::*;
use crate::{
    names::SourceName,
    policy::RedisConfig,
    redis::{
        rdb::sample::{Sample, everything},
        spool::Spool,
    },
};

const MARKER: &[u8; 40] = b"0123456789abcdef0123456789abcdef01234567";

/// What the server does once it is asked for a dump.
#[derive(Clone, Default)]
struct Script {
    /// Bytes after `PSYNC`.
    answer: Vec<u8>,
    /// Whether each byte is sent alone.
    drop_by_drop: bool,
    /// What it answers to `REPLCONF`.
    replconf: Option<&'static str>,
    /// Whether the connection stays open afterwards.
    stay: bool,
    /// Whether signs of life follow for ever.
    alive: bool,
}

/// Starts a server that follows the script for one connection.
async fn serve(script: Script) -> (Server, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("redis://{}", listener.local_addr().unwrap());
    let config = RedisConfig { url, ..RedisConfig::default() };
    let server = Server::of(&SourceName::new("redis").unwrap(), &config).unwrap();
    let serving = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        play(&mut stream, &script).await;
        while script.alive && stream.write_all(b"\n").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        if script.stay {
            drop(stream.read(&mut [0]).await);
        }
    });
    (server, serving)
}

async fn play(stream: &mut TcpStream, script: &Script) {
    loop {
        let mut command = vec![0; 4096];
        let count = stream.read(&mut command).await.unwrap();
        let command = String::from_utf8_lossy(&command[..count]).into_owned();
        if count == 0 {
            return;
        } else if command.contains("PSYNC") {
            let step = if script.drop_by_drop { 1 } else { usize::MAX };
            for piece in script.answer.chunks(step.min(script.answer.len().max(1))) {
                if stream.write_all(piece).await.is_err() {
                    return;
                }
                stream.flush().await.unwrap();
            }
            return;
        } else if command.contains("version") {
            // What Redis says to Valkey's word.
            stream.write_all(b"-ERR Unrecognized REPLCONF option: version\r\n").await.unwrap();
        } else if command.contains("REPLCONF") {
            stream.write_all(script.replconf.unwrap_or("+OK\r\n").as_bytes()).await.unwrap();
        } else {
            stream.write_all(b"+PONG\r\n").await.unwrap();
        }
    }
}

/// Pulls from a server that follows the script; returns what came and the bytes in the spool.
async fn pull(script: Script) -> Result<(Granted, Survey, Vec<u8>)> {
    let (server, serving) = serve(script).await;
    let mut wire = server.dial().await?;
    let granted = ask(&server, &mut wire, &Ground::system()).await?;
    let spool = Spool::new(None)?;
    let survey = receive(&server, wire, granted.frame, spool.rewound()?, 0).await?;
    serving.abort();
    let mut bytes = Vec::new();
    spool.reader(0).read_to_end(&mut bytes).unwrap();
    Ok((granted, survey, bytes))
}

fn marked(dump: &[u8], after: &[u8]) -> Vec<u8> {
    let head = format!("\n\n+FULLRESYNC {} 77\r\n\n\n\n$EOF:", "a".repeat(40));
    [head.as_bytes(), MARKER, b"\r\n", dump, MARKER, after].concat()
}

fn counted(dump: &[u8], length: usize) -> Vec<u8> {
    let head = format!("+FULLRESYNC {} 77\r\n\n${length}\r\n", "a".repeat(40));
    [head.as_bytes(), dump].concat()
}

#[tokio::test]
async fn both_frames_give_the_same_dump_whatever_the_reads() {
    let (dump, keys) = everything("REDIS0012");
    for answer in [marked(&dump, b""), counted(&dump, dump.len())] {
        for (drop_by_drop, stay) in [(true, false), (false, true)] {
            let script = Script { answer: answer.clone(), drop_by_drop, stay, ..Script::default() };
            let (granted, survey, bytes) = pull(script).await.expect("R1, R3");
            assert_eq!((granted.replid.len(), granted.offset), (40, 77));
            assert_eq!(survey.keys_by_db().into_iter().collect::<Vec<_>>(), keys);
            assert_eq!(survey.size_bytes, dump.len() as u64);
            assert!(bytes == dump, "the spool holds the dump and nothing else");
        }
    }
}

#[tokio::test]
async fn a_marker_that_is_a_value_ends_nothing() {
    let dump =
        Sample::begin("REDIS0011").string("a", MARKER).string("b", [MARKER.as_slice(), MARKER].concat());
    let dump = dump.string("last", "x").end();
    let script = Script { answer: marked(&dump, b"*1\r\n$4\r\nPING\r\n"), ..Script::default() };
    let (_, survey, bytes) = pull(script).await.expect("R2, R7");
    assert_eq!(survey.keys[&0]["string"], 3);
    assert!(bytes == dump);
}

#[tokio::test]
async fn a_dump_of_the_future_is_taken_when_its_checksum_proves_it() {
    let dump = Sample::begin("REDIS0099").string("a", "x").key(99, "b").raw(MARKER).end();
    for answer in [marked(&dump, b""), counted(&dump, dump.len())] {
        let (_, survey, bytes) = pull(Script { answer, ..Script::default() }).await.unwrap();
        assert!(!survey.introspected && bytes == dump);
    }
    let broken = marked(&dump[..dump.len() - 9], b"");
    assert!(pull(Script { answer: broken, ..Script::default() }).await.is_err());
}

#[tokio::test]
async fn a_refusal_is_told_with_what_to_do() {
    let cases = [
        ("-NOPERM this user has no permissions to run the 'psync' command\r\n", "+psync"),
        ("-NOMASTERLINK Can't SYNC while not connected with my master\r\n", "replica whose primary"),
        ("\n\n-LOADING Redis is loading the dataset in memory\r\n", "still loading"),
        ("-ERR unknown command 'PSYNC'\r\n", "managed services"),
    ];
    for (answer, hint) in cases {
        let script = Script { answer: answer.as_bytes().to_vec(), ..Script::default() };
        let failure = pull(script).await.expect_err(answer);
        assert_eq!(failure.exit(), ExitCode::SourceDown, "R4: {answer}");
        assert!(failure.hints()[0].contains(hint), "{:?}", failure.hints());
        assert!(failure.to_string().contains("`redis` at `127.0.0.1:"), "{failure}");
    }
    let after = format!("+FULLRESYNC {} 1\r\n\n-ERR BGSAVE failed\r\n", "a".repeat(40)).into_bytes();
    let failure = pull(Script { answer: after, ..Script::default() }).await.expect_err("the fork failed");
    assert_eq!(failure.chain()[1], "ERR BGSAVE failed");
    let script = Script { replconf: Some("-NOAUTH Authentication required.\r\n"), ..Script::default() };
    assert!(pull(script).await.expect_err("no password").hints()[0].contains("`password`"));
}

#[tokio::test]
async fn what_breaks_off_or_does_not_fit_is_no_dump() {
    let (dump, _) = everything("REDIS0011");
    let mut flipped = dump.clone();
    flipped[dump.len() / 3] ^= 1;
    let wrong_marker = [&marked(&dump, b"")[..marked(&dump, b"").len() - 1], b"X"].concat();
    let cases = [
        ("R5: closed in the middle", marked(&dump[..dump.len() / 2], b"").split_off(0)[..300].to_vec()),
        ("closed in the middle, counted", counted(&dump[..dump.len() / 2], dump.len())),
        ("R6: a changed byte", marked(&flipped, b"")),
        ("another marker", wrong_marker),
        ("longer than it says", counted(&dump, dump.len() - 1)),
        ("shorter than it says", counted(&[&dump[..], b"xx"].concat(), dump.len() + 2)),
        ("no dump at all", counted(b"<html>", 6)),
        ("nothing", counted(b"", 0)),
    ];
    for (why, answer) in cases {
        let failure = pull(Script { answer, ..Script::default() }).await.expect_err(why);
        assert_eq!(failure.exit(), ExitCode::SourceDown, "{why}");
        assert!(failure.to_string().contains("sent no whole dump"), "{why}: {failure}");
    }
    let odd = Script { answer: b"+CONTINUE\r\n".to_vec(), ..Script::default() };
    assert!(pull(odd).await.is_err(), "a partial synchronisation is no dump");
}

#[tokio::test]
async fn a_full_spool_is_told_as_such() {
    let (dump, _) = everything("REDIS0011");
    let (server, _serving) = serve(Script { answer: marked(&dump, b""), ..Script::default() }).await;
    let mut wire = server.dial().await.unwrap();
    let granted = ask(&server, &mut wire, &Ground::system()).await.unwrap();
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let failure = receive(&server, wire, granted.frame, full, 0).await.expect_err("R29");
    assert!(failure.hints()[0].contains("spool_dir"), "{:?}", failure.hints());
    assert_eq!(failure.exit(), ExitCode::Failed);
}

/// A connection whose other end is gone without a word: what was sent before must not be waited for without an end.
#[tokio::test]
async fn a_server_that_falls_silent_is_given_up_wherever_it_was() {
    let (dump, _) = everything("REDIS0011");
    let whole = marked(&dump, b"");
    let granted = format!("\n+FULLRESYNC {} 77\r\n\n", "a".repeat(40)).into_bytes();
    for (where_it_was, answer) in [
        ("before the grant", b"\n\n".to_vec()),
        ("before the header", granted),
        ("in the dump", whole[..300].to_vec()),
    ] {
        let (server, _serving) = serve(Script { answer, stay: true, ..Script::default() }).await;
        let patience = Patience { silence: Duration::from_millis(200), turn: Duration::from_mins(1) };
        let failure = taken(&server.waiting(patience)).await.expect_err(where_it_was);
        assert_eq!(failure.exit(), ExitCode::SourceDown, "{where_it_was}");
        assert_eq!(failure.chain()[1], "it was silent for 0.2 seconds", "{where_it_was}");
    }
}

#[tokio::test]
async fn a_server_that_lives_and_never_begins_is_given_up_too() {
    let (server, _serving) = serve(Script { alive: true, ..Script::default() }).await;
    let patience = Patience { silence: Duration::from_mins(1), turn: Duration::from_millis(100) };
    let failure = taken(&server.waiting(patience)).await.expect_err("R27");
    assert_eq!(failure.exit(), ExitCode::SourceDown);
    assert!(failure.chain()[1].contains("another save"), "{failure:?}");
    assert!(failure.hints()[0].contains("save_wait_seconds"), "{failure:?}");
}

async fn taken(server: &Server) -> Result<Survey> {
    let mut wire = server.dial().await?;
    let granted = ask(server, &mut wire, &Ground::system()).await?;
    receive(server, wire, granted.frame, Spool::new(None)?.rewound()?, 0).await
}
