//! Sessions with a server that says what a test wants.

use std::io::Cursor;

use super::{packet::tests::packet, *};

const OK: &[u8] = b"\0\0\0\x02\0\0\0";
const EOF: &[u8] = b"\xFE\0\0\x02\0";
const KILLED: &[u8] = b"\xFF\x25\x05#70100Query execution was interrupted";

/// A session with a server that says this, each answer to a statement numbered from 1.
fn session(answers: &[&[&[u8]]], can: CapabilityFlags) -> Wire {
    let numbered = |answer: &&[&[u8]]| -> Vec<u8> {
        answer.iter().enumerate().flat_map(|(at, said)| packet(at as u8 + 1, said)).collect()
    };
    let said: Vec<u8> = answers.iter().flat_map(numbered).collect();
    let line: Box<dyn Line> = Box::new(tokio::io::join(Cursor::new(said), tokio::io::sink()));
    Wire::over(Packets::new(line, 0, 1 << 20), can)
}

async fn rows(wire: &mut Wire) -> Result<Vec<Fields>> {
    wire.fields("SELECT a, b FROM t").await
}

fn fields(all: &[[Option<&str>; 2]]) -> Vec<Fields> {
    all.iter().map(|row| row.map(|field| field.map(|text| text.as_bytes().to_vec())).to_vec()).collect()
}

#[tokio::test]
async fn results_end_in_both_ways_and_the_next_statement_follows() {
    let old: &[&[u8]] = &[b"\x02", b"def a", b"def b", EOF, b"\x011\x01x", b"\xFB\x02yz", EOF];
    let new: &[&[u8]] = &[b"\x02", b"def a", b"def b", b"\x011\x01x", b"\xFB\x02yz", b"\xFE\0\0\x02\0\0\0"];
    for (can, answer) in [(CapabilityFlags::empty(), old), (CapabilityFlags::CLIENT_DEPRECATE_EOF, new)] {
        let mut wire = session(&[&[OK], answer, answer, &[OK]], can);
        wire.exec(b"SET NAMES binary").await.unwrap();
        assert_eq!(rows(&mut wire).await.unwrap(), fields(&[[Some("1"), Some("x")], [None, Some("yz")]]));
        wire.query(b"SELECT a, b FROM t").await.unwrap();
        wire.exec(b"COMMIT").await.expect("what was not read is passed over");
    }
}

#[tokio::test]
async fn an_error_is_the_servers_own_wherever_it_stands() {
    let answers: [&[&[u8]]; 3] =
        [&[KILLED], &[b"\x02", KILLED], &[b"\x02", b"a", b"b", b"\x011\x01x", KILLED]];
    for answer in answers {
        let mut wire = session(&[answer, &[OK]], CapabilityFlags::CLIENT_DEPRECATE_EOF);
        let error = rows(&mut wire).await.unwrap_err();
        assert!(matches!(&error, mysql_async::Error::Server(told) if told.code == 1317), "{error}");
        wire.exec(b"DO 0").await.expect("the session goes on");
    }
}

#[tokio::test]
async fn a_server_that_hangs_up_in_a_row_is_an_error_of_the_line() {
    let mut wire = session(&[&[b"\x02", b"a", b"b", b"\x011\x01x"]], CapabilityFlags::CLIENT_DEPRECATE_EOF);
    let error = rows(&mut wire).await.unwrap_err();
    assert!(matches!(error, mysql_async::Error::Io(_)), "{error}");
}

#[tokio::test]
async fn answers_that_are_none_are_refused() {
    let answers: [(&[&[u8]], &str); 6] = [
        (&[b"\xFB/etc/passwd"], "something else than rows"),
        (&[b""], "something else than rows"),
        (&[b"\xFE\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF"], "something else than rows"),
        (&[b"\x01", b"a", b"\x011"], "do not end"),
        (&[b"\x02", b"a", b"b", EOF, b"\x011"], "the 2 fields"),
        (&[b"\x01", b"a", EOF, b"\x05abc"], "cut off"),
    ];
    for (answer, refused) in answers {
        let error = rows(&mut session(&[answer], CapabilityFlags::empty())).await.unwrap_err();
        assert!(error.to_string().contains(refused), "{error}");
    }
}

#[tokio::test]
async fn a_row_that_begins_as_an_end_does_is_a_row() {
    let mut row = b"\xFE\xFE\xFF\xFF\0\0\0\0\0".to_vec();
    row.resize(9 + 0xFF_FFFE, b'x');
    assert!(is_end(&row[..0xFF_FFFE], true) && !is_end(&row, true) && !is_end(&row, false));
    let mut spans = Vec::new();
    assert_eq!(TextRow::parse(&row, 1, &mut spans).unwrap().get(0).unwrap().len(), 0xFF_FFFE);
}

/// A server remembers who logged in; `FLUSH PRIVILEGES` makes it forget.
#[tokio::test]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn mysql_a_password_that_the_server_forgot_is_proven_anew_encrypted_or_not() {
    use mysql_async::{SslOpts, prelude::Queryable};

    let url = std::env::var("MYSQL_URL").expect("fixtures/stack env is sourced");
    let mut root = Conn::from_url(&url).await.unwrap();
    let user = format!("lbt_forgotten_{}", std::process::id());
    let made = format!("CREATE USER {user} IDENTIFIED WITH caching_sha2_password BY 'it''s'");
    root.query_drop(made).await.unwrap();
    let any = SslOpts::default().with_danger_accept_invalid_certs(true);
    for ssl in [None, Some(any)] {
        let is_private = ssl.is_some();
        let opts = |password: &str| -> Opts {
            let opts = OptsBuilder::from_opts(Opts::from_url(&url).unwrap());
            let opts = opts.user(Some(&user)).pass(Some(password)).prefer_socket(false);
            opts.ssl_opts(ssl.clone()).into()
        };
        root.query_drop("FLUSH PRIVILEGES").await.unwrap();
        match handshake::begin(&opts("it's")).await {
            Ok(_) => assert!(is_private, "a password went where others could listen"),
            Err(Refused::WantsPassword) => assert!(!is_private),
            Err(Refused::Failed(error)) => panic!("{error}"),
        }
        root.query_drop("FLUSH PRIVILEGES").await.unwrap();
        let wrong = Wire::open(&opts("its")).await.err().expect("it is not the password");
        assert!(matches!(&wrong, mysql_async::Error::Server(told) if told.code == 1045), "{wrong}");
        let mut wire = Wire::open(&opts("it's")).await.expect("the password, sealed or encrypted");
        wire.exec(b"DO 0").await.expect("the session goes on");
        wire.quit().await;
        assert!(handshake::begin(&opts("it's")).await.is_ok(), "the server remembers it again");
    }
    root.query_drop(format!("DROP USER {user}")).await.unwrap();
}
