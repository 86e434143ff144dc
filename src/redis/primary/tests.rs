//! The primary we play, against replicas and others that connect to it.

use std::net::Ipv4Addr;

use super::*;

const TOKEN: &str = "a token that nobody guesses";

async fn primary(dump: &[u8]) -> Primary {
    let spool = Spool::new(None).unwrap();
    std::io::Write::write_all(&mut spool.rewound().unwrap(), dump).unwrap();
    let bind = (Ipv4Addr::LOCALHOST.into(), 0);
    let terms = Terms {
        token: TOKEN.to_owned(),
        replid: "b".repeat(40),
        spool,
        size_bytes: dump.len() as u64,
        tls: None,
        before_last: Box::new(|| Ok(())),
    };
    Primary::listen(bind, terms).await.unwrap()
}

struct Peer(BufReader<TcpStream>);

impl Peer {
    async fn connect(primary: &Primary) -> Self {
        Self(BufReader::new(TcpStream::connect(primary.address).await.unwrap()))
    }

    async fn say(&mut self, words: &[&[u8]]) -> String {
        self.0.get_mut().write_all(&command(words)).await.unwrap();
        line(&mut self.0).await.unwrap_or_else(|error| error.kind().to_string())
    }

    async fn log_in(&mut self) {
        assert_eq!(self.say(&[b"PING"]).await, "-NOAUTH Authentication required.");
        assert_eq!(self.say(&[b"AUTH", TOKEN.as_bytes()]).await, "+OK");
        assert_eq!(self.say(&[b"PING"]).await, "+PONG");
        assert_eq!(self.say(&[b"REPLCONF", b"capa", b"eof"]).await, "+OK");
    }

    async fn take(&mut self, size_bytes: usize) -> Vec<u8> {
        assert!(self.say(&[b"PSYNC", b"?", b"-1"]).await.starts_with("+FULLRESYNC bbbb"));
        assert_eq!(line(&mut self.0).await.unwrap(), format!("${size_bytes}"));
        let mut dump = vec![0; size_bytes];
        self.0.read_exact(&mut dump).await.unwrap();
        dump
    }
}

/// R20: the dump is everything that the server held; it goes to whom it was promised and nobody else.
#[tokio::test]
async fn nobody_without_the_token_gets_anything() {
    let primary = primary(b"the dump").await;
    let mut peer = Peer::connect(&primary).await;
    for words in
        [&[b"PSYNC".as_slice(), b"?", b"-1"][..], &[b"SYNC"], &[b"AUTH", b"guess"], &[b"AUTH"], &[b"INFO"]]
    {
        let answer = peer.say(words).await;
        assert!(answer.starts_with("-NOAUTH") || answer.starts_with("-WRONGPASS"), "{answer}");
    }
    assert!(!primary.progress().let_in);

    let mut replica = Peer::connect(&primary).await;
    replica.log_in().await;
    assert_eq!(replica.take(8).await, b"the dump");
    let mut second = Peer::connect(&primary).await;
    second.log_in().await;
    assert_eq!(second.say(&[b"PSYNC", b"?", b"-1"]).await, "-ERR another replica is served");
}

#[tokio::test]
async fn an_answer_beyond_the_dump_means_that_it_is_loaded() {
    for ack in [&[b"REPLCONF".as_slice(), b"ACK", b"38"][..], &[b"REPLCONF", b"ACK", b"38", b"FACK", b"0"]] {
        let primary = primary(b"dump").await;
        let mut replica = Peer::connect(&primary).await;
        replica.log_in().await;
        replica.take(4).await;
        assert_eq!(request(&mut replica.0).await.unwrap(), [&b"REPLCONF"[..], b"GETACK", b"*"]);
        // Signs of life while it loads, then the offset of the dump itself, which is not enough.
        replica.0.get_mut().write_all(b"\n\n").await.unwrap();
        replica.0.get_mut().write_all(&command(&[b"REPLCONF", b"ACK", b"1"])).await.unwrap();
        assert!(request(&mut replica.0).await.is_ok());
        assert!(primary.progress().sent_all && !primary.progress().loaded);
        replica.0.get_mut().write_all(&command(ack)).await.unwrap();
        while !primary.progress().loaded {
            assert!(request(&mut replica.0).await.is_ok());
        }
    }
}

#[tokio::test]
async fn a_replica_that_comes_back_again_and_again_is_given_up() {
    let primary = primary(b"dump").await;
    for _ in 0..SERVINGS_MAX {
        let mut replica = Peer::connect(&primary).await;
        replica.log_in().await;
        replica.take(4).await;
        assert!(!primary.progress().given_up);
        drop(replica);
        while primary.offer.one.available_permits() == 0 {
            tokio::task::yield_now().await;
        }
    }
    let mut replica = Peer::connect(&primary).await;
    replica.log_in().await;
    assert!(replica.say(&[b"PSYNC", b"?", b"-1"]).await.starts_with("-ERR"));
    assert!(primary.progress().given_up);
    assert!(primary.progress().sent_all, "it may have emptied itself the first time");
}

#[tokio::test]
async fn requests_without_end_are_not_read() {
    let primary = primary(b"dump").await;
    for hostile in [vec![b'x'; 100_000], b"*1000000\r\n".to_vec(), b"*1\r\n$99999999\r\n".to_vec()] {
        let mut peer = Peer::connect(&primary).await;
        drop(peer.0.get_mut().write_all(&hostile).await);
        assert!(line(&mut peer.0).await.is_err(), "the connection is closed");
    }
}

/// Whoever stops a restore must know whether the server can have emptied itself for the dump.
#[tokio::test]
async fn who_closes_knows_whether_the_replica_can_have_it_all() {
    let before = primary(b"dump").await;
    let mut replica = Peer::connect(&before).await;
    replica.log_in().await;
    assert!(!before.close(), "nothing was sent, and nothing will be");

    let after = primary(b"dump").await;
    let mut replica = Peer::connect(&after).await;
    replica.log_in().await;
    replica.take(4).await;
    assert!(after.close());
}

/// A dump as large as a socket's buffers is on its way when the primary is closed: its end never comes.
#[tokio::test]
async fn a_dump_that_is_on_its_way_ends_with_the_primary() {
    let primary = primary(&vec![7; 32 << 20]).await;
    let mut replica = Peer::connect(&primary).await;
    replica.log_in().await;
    assert!(replica.say(&[b"PSYNC", b"?", b"-1"]).await.starts_with("+FULLRESYNC"));
    assert!(!primary.close());
    drop(primary);
    let mut rest = Vec::new();
    drop(replica.0.read_to_end(&mut rest).await);
    assert!(rest.len() < 32 << 20, "{}", rest.len());
}
