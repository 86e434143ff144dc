//! How a session begins: the greeting, encryption, and who we are.
//!
//! *Order.* The server greets; with TLS we answer unencrypted that we want it and nothing else; then come the name and
//! the answer to the server's riddle, in the way that the server asks for. The password itself is sent only where
//! nobody can listen: with TLS, or through a socket of this machine.

use std::io;

use mysql_async::{
    DriverError, Opts, Result, SslOpts,
    consts::{self, CapabilityFlags},
};
use mysql_common::{
    packets::{AuthPlugin, HandshakeResponse, SslRequest},
    proto::MySerialize,
};
use rustix::net::sockopt;
use tokio::net::{TcpStream, UnixStream};

use super::{
    Line,
    packet::{Packets, broken},
    server_error, tls,
};

/// The version of the protocol that all servers of today greet with.
const PROTOCOL_VERSION: u8 = 10;
/// Bytes of the riddle.
const NONCE_BYTES: usize = 20;
/// Names in UTF-8, for the first packets; the session says later what it wants.
const UTF8MB4_GENERAL_CI: u8 = 45;
/// A version that knows it.
const VERSION_OF_UTF8MB4: (u16, u16, u16) = (5, 5, 3);

/// Why a session did not begin.
#[derive(Debug)]
pub(super) enum Refused {
    /// The server wants the password itself, on a connection that others could listen to.
    WantsPassword,
    Failed(mysql_async::Error),
}

impl<E: Into<mysql_async::Error>> From<E> for Refused {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

type Beginning<T> = std::result::Result<T, Refused>;

/// A session that has begun: its packets, and what both sides can do.
pub(super) type Begun = (Packets<Box<dyn Line>>, CapabilityFlags);

/// Connects and logs in.
pub(super) async fn begin(opts: &Opts) -> Beginning<Begun> {
    if let Some(path) = opts.socket() {
        return open(Box::new(UnixStream::connect(path).await?), opts, true).await;
    }
    let stream = TcpStream::connect((opts.ip_or_hostname(), opts.tcp_port())).await?;
    stream.set_nodelay(opts.tcp_nodelay())?;
    if let Some(idle) = opts.tcp_keepalive() {
        sockopt::set_socket_keepalive(&stream, true).map_err(io::Error::from)?;
        sockopt::set_tcp_keepidle(&stream, idle).map_err(io::Error::from)?;
    }
    match opts.ssl_opts() {
        Some(ssl) => encrypted(stream, ssl, opts).await,
        None => open(Box::new(stream), opts, false).await,
    }
}

/// Begins a session without TLS. `is_private` is a line that nobody else listens to.
pub(super) async fn open(line: Box<dyn Line>, opts: &Opts, is_private: bool) -> Beginning<Begun> {
    let mut packets = Packets::new(line, 0, bytes_max(opts));
    let greeting = Greeting::read(&mut packets).await?;
    let can = greeting.capabilities & wanted(false);
    log_in(&mut packets, &greeting, can, opts, is_private).await?;
    Ok((packets, can))
}

async fn encrypted(stream: TcpStream, ssl: &SslOpts, opts: &Opts) -> Beginning<Begun> {
    let mut packets = Packets::new(stream, 0, bytes_max(opts));
    let greeting = Greeting::read(&mut packets).await?;
    let can = greeting.capabilities & wanted(true);
    if !can.contains(CapabilityFlags::CLIENT_SSL) {
        return Err(DriverError::NoClientSslFlagFromServer.into());
    }
    let mut request = Vec::new();
    SslRequest::new(can, told_bytes_max(opts), UTF8MB4_GENERAL_CI).serialize(&mut request);
    packets.send(&request).await?;
    let (stream, number) = packets.into_stream()?;
    let line: Box<dyn Line> = Box::new(tls::connect(ssl, opts.ip_or_hostname(), stream).await?);
    let mut packets = Packets::new(line, number, bytes_max(opts));
    log_in(&mut packets, &greeting, can, opts, true).await?;
    Ok((packets, can))
}

/// Returns what we can do. One statement at a time is asked for, and no file of ours is given away.
fn wanted(tls: bool) -> CapabilityFlags {
    let always = CapabilityFlags::CLIENT_PROTOCOL_41
        | CapabilityFlags::CLIENT_SECURE_CONNECTION
        | CapabilityFlags::CLIENT_LONG_PASSWORD
        | CapabilityFlags::CLIENT_TRANSACTIONS
        | CapabilityFlags::CLIENT_DEPRECATE_EOF
        | CapabilityFlags::CLIENT_PLUGIN_AUTH;
    if tls { always | CapabilityFlags::CLIENT_SSL } else { always }
}

/// Returns how long a packet may be.
fn bytes_max(opts: &Opts) -> usize {
    opts.max_allowed_packet().unwrap_or(consts::DEFAULT_MAX_ALLOWED_PACKET)
}

fn told_bytes_max(opts: &Opts) -> u32 {
    u32::try_from(bytes_max(opts)).unwrap_or(u32::MAX)
}

/// What a server says first.
#[derive(Debug, PartialEq, Eq)]
struct Greeting {
    capabilities: CapabilityFlags,
    nonce: Vec<u8>,
    plugin: Vec<u8>,
}

impl Greeting {
    async fn read<S: Line>(packets: &mut Packets<S>) -> Result<Self> {
        let payload = packets.next().await?;
        if let Some(error) = server_error(payload) {
            return Err(error);
        }
        Self::parse(payload).ok_or_else(|| broken("its greeting is not that of a MySQL server"))
    }

    fn parse(payload: &[u8]) -> Option<Self> {
        let (version, rest) = payload.split_first()?;
        if *version != PROTOCOL_VERSION {
            return None;
        }
        let (_server_version, rest) = split_at_zero(rest)?;
        // The session's number, the first part of the riddle, a zero.
        let (head, rest) = rest.split_at_checked(4 + 8 + 1)?;
        let (&[low_0, low_1, _collation, _status_0, _status_1, high_0, high_1, nonce_bytes], rest) =
            rest.split_first_chunk()?;
        let rest = rest.get(10..)?;
        let second_bytes = usize::from(nonce_bytes).saturating_sub(8).max(13);
        let (second, plugin) = rest.split_at_checked(second_bytes)?;
        let mut nonce = [&head[4..12], second].concat();
        // A zero ends it.
        nonce.resize(NONCE_BYTES, 0);
        let capabilities =
            CapabilityFlags::from_bits_truncate(u32::from_le_bytes([low_0, low_1, high_0, high_1]));
        let plugin = plugin.strip_suffix(&[0]).unwrap_or(plugin).to_vec();
        Some(Self { capabilities, nonce, plugin })
    }
}

fn split_at_zero(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let zero = bytes.iter().position(|byte| *byte == 0)?;
    Some((&bytes[..zero], &bytes[zero + 1..]))
}

/// Says who we are and proves it.
async fn log_in<S: Line>(
    packets: &mut Packets<S>,
    greeting: &Greeting,
    can: CapabilityFlags,
    opts: &Opts,
    is_private: bool,
) -> Beginning<()> {
    let mut plugin = match AuthPlugin::from_bytes(&greeting.plugin) {
        AuthPlugin::CachingSha2Password => AuthPlugin::CachingSha2Password,
        _ => AuthPlugin::MysqlNativePassword,
    };
    let answer = plugin.gen_data(opts.pass(), &greeting.nonce);
    let response = HandshakeResponse::new(
        answer.as_deref(),
        VERSION_OF_UTF8MB4,
        opts.user().map(str::as_bytes),
        None::<&[u8]>,
        Some(plugin.borrow()),
        can,
        None,
        told_bytes_max(opts),
    );
    let mut payload = Vec::new();
    response.serialize(&mut payload);
    packets.send(&payload).await?;
    let mut switched = false;
    loop {
        let packet = packets.next().await?;
        let is_sha2 = plugin == AuthPlugin::CachingSha2Password;
        match packet {
            [0, ..] => return Ok(()),
            [0xFE, asked @ ..] if !switched => {
                switched = true;
                let (other, answer) = other_way(asked, opts.pass())?;
                plugin = other;
                packets.send(&answer).await?;
            }
            // The server remembers the password: what follows says that all is well.
            [1, 3] if is_sha2 => {}
            [1, 4] if is_sha2 && is_private => {
                let password = [opts.pass().unwrap_or_default().as_bytes(), &[0]].concat();
                packets.send(&password).await?;
            }
            [1, 4] if is_sha2 => return Err(Refused::WantsPassword),
            _ => {
                let told = server_error(packet);
                return Err(told.unwrap_or_else(|| broken("its answer to the login is none")).into());
            }
        }
    }
}

/// Returns the way that the server asks for instead, and the answer to its riddle.
fn other_way(asked: &[u8], password: Option<&str>) -> Result<(AuthPlugin<'static>, Vec<u8>)> {
    let Some((name, nonce)) = split_at_zero(asked) else {
        return Err(DriverError::MysqlOldPasswordDisabled.into());
    };
    // MariaDB's riddle for ed25519 has 32 bytes of any value; the others end with a zero that is not part of them.
    let nonce = match name {
        b"client_ed25519" => nonce,
        _ => nonce.strip_suffix(&[0]).unwrap_or(nonce),
    };
    let plugin = AuthPlugin::from_bytes(name).into_owned();
    match &plugin {
        AuthPlugin::CachingSha2Password | AuthPlugin::MysqlNativePassword | AuthPlugin::Ed25519 => {
            let answer = plugin.gen_data(password, nonce).map(|answer| answer.to_vec());
            Ok((plugin, answer.unwrap_or_default()))
        }
        AuthPlugin::MysqlOldPassword => Err(DriverError::MysqlOldPasswordDisabled.into()),
        AuthPlugin::MysqlClearPassword => Err(DriverError::CleartextPluginDisabled.into()),
        AuthPlugin::MariadbParsec { .. } | AuthPlugin::Other(_) => {
            let name = String::from_utf8_lossy(name).into_owned();
            Err(DriverError::UnknownAuthPlugin { name }.into())
        }
    }
}

#[cfg(test)]
mod tests {
    use mysql_async::OptsBuilder;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::{super::packet::tests::packet, *};

    const MYSQL: &[u8] =
        b"\x0A9.7.4\0\x08\0\0\0abcdefgh\0\xFF\xFF\xFF\x02\0\xFF\xDF\x15\0\0\0\0\0\0\0\0\0\0ijklmnopqrst\0\
                           caching_sha2_password\0";

    const OK: &[u8] = b"\0\0\0\x02\0\0\0";

    fn opts() -> Opts {
        OptsBuilder::default().user(Some("me")).pass(Some("secret")).into()
    }

    /// Logs in to a server that says this, and returns what it was told behind the first answer.
    async fn logged_in(answers: &[(u8, &[u8])], is_private: bool) -> (Beginning<()>, Vec<u8>) {
        let greeting = Greeting::parse(MYSQL).unwrap();
        let (ours, mut theirs) = tokio::io::duplex(1 << 16);
        let said: Vec<Vec<u8>> = answers.iter().map(|(number, said)| packet(*number, said)).collect();
        theirs.write_all(&said.concat()).await.unwrap();
        let mut packets = Packets::new(ours, 0, 1 << 20);
        let can = greeting.capabilities & wanted(false);
        let done = log_in(&mut packets, &greeting, can, &opts(), is_private).await;
        drop(packets);
        let mut told = Vec::new();
        theirs.read_to_end(&mut told).await.unwrap();
        let first = 4 + usize::from(told[0]);
        (done, told[first..].to_vec())
    }

    #[test]
    fn a_greeting_is_read_and_what_is_cut_off_is_none() {
        let greeting = Greeting::parse(MYSQL).unwrap();
        assert_eq!(greeting.nonce, b"abcdefghijklmnopqrst");
        assert_eq!(greeting.plugin, b"caching_sha2_password");
        assert!(greeting.capabilities.contains(CapabilityFlags::CLIENT_DEPRECATE_EOF));
        for cut in 0..MYSQL.len() - 22 {
            assert_eq!(Greeting::parse(&MYSQL[..cut]), None, "{cut} bytes");
        }
        assert_eq!(Greeting::parse(&[&[9], &MYSQL[1..]].concat()), None);
    }

    #[tokio::test]
    async fn the_password_itself_is_sent_only_where_nobody_listens() {
        let asked: [(u8, &[u8]); 2] = [(1, b"\x01\x04"), (3, OK)];
        let (done, told) = logged_in(&asked, true).await;
        assert!(done.is_ok());
        assert_eq!(told, b"\x07\0\0\x02secret\0");
        let (done, told) = logged_in(&asked, false).await;
        assert!(matches!(done, Err(Refused::WantsPassword)));
        assert_eq!(told, b"");
    }

    #[tokio::test]
    async fn a_server_that_remembers_the_password_needs_no_more() {
        let (done, told) = logged_in(&[(1, b"\x01\x03"), (2, OK)], false).await;
        assert!(done.is_ok());
        assert_eq!(told, b"");
    }

    #[tokio::test]
    async fn a_server_may_ask_once_for_another_way_and_for_known_ones_only() {
        let native: &[u8] = b"\xFEmysql_native_password\0abcdefghijklmnopqrst\0";
        let (done, told) = logged_in(&[(1, native), (3, OK)], false).await;
        assert!(done.is_ok());
        // SHA1(password) XOR SHA1(nonce, SHA1(SHA1(password))), of another program.
        assert_eq!(hex::encode(&told[4..]), "8817c50fa779daef010ee7577825b0847df9842e");
        for (asked, refused) in [
            (&b"\xFEmysql_clear_password\0"[..], "mysql_clear_password must be enabled"),
            (b"\xFEmysql_old_password\0abcdefgh\0", "mysql_old_password"),
            (b"\xFE", "mysql_old_password"),
            (b"\xFEdialog\0", "Unknown authentication plugin `dialog'"),
            (b"\x02", "its answer to the login is none"),
            (b"\xFF\x15\x04#28000Access denied", "Access denied"),
        ] {
            let (done, told) = logged_in(&[(1, asked)], true).await;
            let Err(Refused::Failed(error)) = done else { panic!("{asked:?} was taken") };
            assert!(error.to_string().contains(refused), "{error}");
            assert_eq!(told, b"");
        }
        let (done, _) = logged_in(&[(1, native), (3, native)], false).await;
        assert!(matches!(done, Err(Refused::Failed(_))), "twice is once too often");
    }
}
