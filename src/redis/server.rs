//! Which server is meant, how it is reached, and how its refusals are told to a person.
//!
//! Passwords are sent and never printed: an answer to `AUTH` is reduced to its first word, because an old
//! server with a renamed command repeats the arguments in its error.

use std::{io, net::SocketAddr, path::PathBuf, time::Duration};

use rustix::net::sockopt;
use rustls::pki_types::ServerName;
use secrecy::{ExposeSecret, SecretString};
use tokio::net::{TcpStream, UnixStream};

use super::{
    tls::{self, Identity},
    wire::{Reply, Stream, Wire},
};
use crate::{
    error::{Context, ExitCode, Failure, Result},
    names::SourceName,
    policy::RedisConfig,
};

/// How long a server may take to accept a connection and to answer the greeting.
const GREETING_SECONDS_MAX: u64 = 20;
/// How long a server may be silent while it is asked for a dump. While it forks and while another save runs it sends
/// empty lines.
const SILENCE_SECONDS_MAX: u64 = 120;
/// How long a dump waits behind other saves when the policy says nothing.
const TURN_SECONDS_USUAL: u64 = 30 * 60;
/// After how long without a byte the other host is asked for a sign of life, how often again, and how many times: one
/// that is gone is found out in a minute, also on connections that nothing is asked on.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(30), Duration::from_secs(10), 3);

/// How long a server is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Patience {
    /// While nothing is heard of it.
    pub(super) silence: Duration,
    /// While it is heard of, and does something else first.
    pub(super) turn: Duration,
}

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Address {
    /// `redis://` or, with TLS, `rediss://`.
    Tcp {
        /// Host name or address.
        host: String,
        /// Port.
        port: u16,
        /// Whether the connection is encrypted.
        tls: bool,
    },
    /// `unix:///path`.
    Unix(PathBuf),
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp { host, port, .. } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port, .. } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

impl Address {
    /// Reads the policy's `url`.
    fn parse(url: &str) -> Result<Self> {
        let wrong = |why: &str| {
            // The text itself is not repeated: a password may stand in it.
            Failure::new(ExitCode::Usage, format!("the url of a redis source {why}"))
                .hint("Write redis://host:port, rediss://host:port or unix:///path, and give `user` and `password` as settings of their own.")
        };
        if let Some(path) = url.strip_prefix("unix://") {
            return Ok(Self::Unix(path.into()));
        }
        let (tls, rest) = match (url.strip_prefix("redis://"), url.strip_prefix("rediss://")) {
            (Some(rest), _) => (false, rest),
            (_, Some(rest)) => (true, rest),
            _ => return Err(wrong("begins with no known scheme")),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains('@') {
            return Err(wrong("holds a user or password"));
        }
        if rest.contains(['/', '?', '#']) {
            return Err(wrong("names a database or options, and all databases are taken"));
        }
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => {
                (host, port.parse().map_err(|_| wrong("has a port that is no number"))?)
            }
            _ => (rest, 6379),
        };
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if host.is_empty() {
            return Err(wrong("has no host"));
        }
        Ok(Self::Tcp { host: host.to_owned(), port, tls })
    }
}

/// A server with everything needed to be let in.
#[derive(Clone, Debug)]
pub(super) struct Server {
    name: SourceName,
    address: Address,
    user: Option<String>,
    password: Option<SecretString>,
    ca_file: Option<PathBuf>,
    identity: Option<Identity>,
    patience: Patience,
}

impl Server {
    /// Checks the settings and reads the password.
    pub(super) fn of(name: &SourceName, config: &RedisConfig) -> Result<Self> {
        Ok(Self {
            name: name.clone(),
            address: Address::parse(&config.url)?,
            user: config.user.clone(),
            password: config.password.as_ref().map(crate::policy::SecretRef::resolve).transpose()?,
            ca_file: config.ca_file.clone(),
            identity: Identity::of(config),
            patience: Patience {
                silence: Duration::from_secs(SILENCE_SECONDS_MAX),
                turn: Duration::from_secs(config.save_wait_seconds.unwrap_or(TURN_SECONDS_USUAL)),
            },
        })
    }

    /// Waits otherwise than the policy says.
    #[cfg(test)]
    pub(super) fn waiting(self, patience: Patience) -> Self {
        Self { patience, ..self }
    }

    /// Returns how long it is waited for.
    pub(super) fn patience(&self) -> Patience {
        self.patience
    }

    /// Waits for a step of a dump, as long as a server may be silent.
    pub(super) async fn heard<T>(&self, step: impl Future<Output = io::Result<T>>) -> Result<T> {
        let Patience { silence, .. } = self.patience;
        match tokio::time::timeout(silence, step).await {
            Ok(heard) => heard.map_err(|error| self.down(error)),
            Err(_) => Err(self.down(format!("it was silent for {} seconds", silence.as_secs_f64()))),
        }
    }

    /// Returns how the connection is protected, as words behind the address.
    pub(super) fn protection(&self) -> &'static str {
        match (&self.address, &self.identity) {
            (Address::Tcp { tls: true, .. }, Some(_)) => ", encrypted, with a certificate of ours",
            (Address::Tcp { tls: true, .. }, None) => ", encrypted",
            _ => "",
        }
    }

    /// Returns another server that lets us in the same way.
    pub(super) fn elsewhere(&self, host: &str, port: u16) -> Self {
        let address = Address::Tcp { host: host.to_owned(), port, tls: self.is_encrypted() };
        Self { address, ..self.clone() }
    }

    /// Returns whether connections to it are encrypted.
    pub(super) fn is_encrypted(&self) -> bool {
        matches!(self.address, Address::Tcp { tls: true, .. })
    }

    /// Returns its address as it stands in messages.
    pub(super) fn address(&self) -> String {
        self.address.to_string()
    }

    /// Returns its host; a socket is on this one.
    pub(super) fn host(&self) -> String {
        match &self.address {
            Address::Tcp { host, .. } => host.clone(),
            Address::Unix(_) => "127.0.0.1".to_owned(),
        }
    }

    /// Returns the user that we are there.
    pub(super) fn user(&self) -> &str {
        self.user.as_deref().unwrap_or("default")
    }

    /// Returns name and address as they stand in messages.
    pub(super) fn shown(&self) -> String {
        format!("`{}` at `{}`", self.name, self.address)
    }

    /// Connects and logs in.
    pub(super) async fn dial(&self) -> Result<Wire> {
        let limit = Duration::from_secs(GREETING_SECONDS_MAX);
        let greeting = async {
            let (stream, local) = self.connect().await?;
            let mut wire = Wire::new(stream, local);
            self.log_in(&mut wire).await?;
            Ok(wire)
        };
        tokio::time::timeout(limit, greeting).await.unwrap_or_else(|_| {
            Err(self.down(format!("it did not answer for {GREETING_SECONDS_MAX} seconds")))
        })
    }

    async fn connect(&self) -> Result<(Box<dyn Stream>, Option<SocketAddr>)> {
        match &self.address {
            Address::Unix(path) => {
                let stream = UnixStream::connect(path).await.map_err(|error| self.down(error))?;
                Ok((Box::new(stream), None))
            }
            Address::Tcp { host, port, tls } => {
                let stream = TcpStream::connect((host.as_str(), *port)).await;
                let stream = stream.map_err(|error| self.down(error))?;
                stream.set_nodelay(true).map_err(|error| self.down(error))?;
                // A system that knows no such signs of life leaves us the limits on silence.
                drop(keep_alive(&stream));
                let local = stream.local_addr().ok();
                if !tls {
                    return Ok((Box::new(stream), local));
                }
                let name = ServerName::try_from(host.clone())
                    .failed(ExitCode::Usage, || format!("`{host}` is no name that a certificate can hold"))?;
                let config = tls::client(self.ca_file.as_deref(), self.identity.as_ref())?;
                let stream = tokio_rustls::TlsConnector::from(config).connect(name, stream).await;
                Ok((Box::new(stream.map_err(|error| self.turned_away(error))?), local))
            }
        }
    }

    async fn log_in(&self, wire: &mut Wire) -> Result<()> {
        if let Some(password) = &self.password {
            let password = password.expose_secret().as_bytes();
            let user = self.user.as_deref().map(str::as_bytes);
            let words: Vec<&[u8]> = [b"AUTH".as_slice()].into_iter().chain(user).chain([password]).collect();
            let reply = wire.call(&words).await.map_err(|error| self.turned_away(error))?;
            match reply {
                // It has no ear for a password now.
                Reply::Refused(text)
                    if text.starts_with("ERR max number of clients") || text.starts_with("LOADING") =>
                {
                    return Err(self.refused("AUTH", &text));
                }
                Reply::Refused(text) => return Err(self.login_refused(&text)),
                Reply::Said(_) => {}
            }
        }
        match wire.call(&[b"PING"]).await.map_err(|error| self.turned_away(error))? {
            Reply::Said(_) => Ok(()),
            // A user without the right to PING may still have the rights that matter.
            Reply::Refused(text) if is_withheld(&text) => Ok(()),
            Reply::Refused(text) => Err(self.refused("PING", &text)),
        }
    }

    /// Tells that `AUTH` was refused, without the server's own words.
    fn login_refused(&self, text: &str) -> Failure {
        let what = format!("{} refused the password", self.shown());
        let failure =
            Failure::new(ExitCode::SourceDown, what).because(Refusal("refused the password".into()));
        if text.starts_with("ERR Client sent AUTH") || text.contains("without any password configured") {
            return failure.hint("The server has no password: take `password` out of the source's settings.");
        }
        failure.hint("Check `password` and, with ACL users, `user` of this source.")
    }

    /// Tells that the server broke off before it let us in. Over TLS it says so, if at all, only after its own side of
    /// the handshake has ended well: what it thinks of our certificate comes as an answer to the first command.
    fn turned_away(&self, error: io::Error) -> Failure {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        let is_ours = matches!(inner, Some(rustls::Error::InvalidCertificate(_)));
        let failure = self.down(error);
        match (&self.address, &self.identity) {
            (Address::Tcp { tls: true, .. }, _) if is_ours => {
                failure.hint("Name the authority that signed the certificate: ca_file = \"…\".")
            }
            (Address::Tcp { tls: true, .. }, None) => failure.hint(
                "If the server asks for a certificate (tls-auth-clients yes, its default), name one: cert_file = \"…\" and key_file = \"…\".",
            ),
            (Address::Tcp { tls: true, .. }, Some(_)) => failure.hint(
                "Check that `cert_file` has not run out and that an authority of the server's tls-ca-cert-file signed it.",
            ),
            _ => failure,
        }
    }

    /// Tells that the server cannot be reached or broke off.
    pub(super) fn down(&self, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Failure {
        Failure::new(ExitCode::SourceDown, format!("failed to talk to {}", self.shown()))
            .because(cause)
            .hint("Check that the server runs and can be reached from this host.")
    }

    /// Tells that the server refused `command`.
    pub(super) fn refused(&self, command: &str, text: &str) -> Failure {
        let code = text.split(' ').next().unwrap_or_default();
        let what = format!("{} refused {command}", self.shown());
        let failure = Failure::new(ExitCode::SourceDown, what);
        let said = text.chars().take(200).collect::<String>();
        let failure = if matches!(code, "NOAUTH" | "WRONGPASS") || is_withheld(text) {
            failure.because(Refusal(said))
        } else {
            failure.because(said)
        };
        match code {
            "NOAUTH" => failure.hint("The server wants a password: set `password` of this source."),
            "WRONGPASS" => failure.hint("Check `password` and, with ACL users, `user` of this source."),
            "NOPERM" => failure.hint(
                "Give the user the right: ACL SETUSER … +psync +replconf +ping +info +config|get for backups, and also +replicaof +config|set +client|list for restores.",
            ),
            "LOADING" => failure.hint("The server is still loading its data: try again when it has finished."),
            "NOMASTERLINK" | "MASTERDOWN" => {
                failure.hint("This server is a replica whose primary cannot be reached: repair that, or name the primary as the source.")
            }
            _ if is_withheld(text) => failure.hint(
                "The command is renamed or the service does not offer it, as managed services do: name a replica or a server of your own.",
            ),
            _ => failure,
        }
    }
}

/// What a server said when it did not let us in or withheld a command. It will say so again.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Refusal(String);

/// Returns whether a server did not let us in or withheld a command.
pub(super) fn is_refusal(failure: &Failure) -> bool {
    causes(failure).any(<dyn std::error::Error>::is::<Refusal>)
}

/// Returns whether a failure stays until a person does something: a refusal, or a certificate that is not believed.
pub(super) fn is_lasting(failure: &Failure) -> bool {
    is_refusal(failure)
        || causes(failure).any(|error| {
            let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
            match inner.and_then(|inner| inner.downcast_ref()) {
                Some(rustls::Error::InvalidCertificate(_)) => true,
                Some(rustls::Error::AlertReceived(alert)) => is_lasting_alert(*alert),
                _ => false,
            }
        })
}

/// Returns whether the other side ended an encrypted connection (RFC 8446, 6.2) for what certificates or settings say;
/// one that goes down or has an error of its own may be well a little later.
fn is_lasting_alert(alert: rustls::AlertDescription) -> bool {
    use rustls::AlertDescription as Alert;
    matches!(
        alert,
        Alert::HandshakeFailure
            | Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::UnknownCA
            | Alert::AccessDenied
            | Alert::DecryptError
            | Alert::ProtocolVersion
            | Alert::InsufficientSecurity
            | Alert::UnrecognisedName
            | Alert::CertificateRequired
    )
}

/// Returns whether a failure may be gone when a failover has ended.
pub(super) fn may_pass(failure: &Failure) -> bool {
    failure.exit() == ExitCode::SourceDown && !is_lasting(failure)
}

fn causes(failure: &Failure) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    std::iter::successors(Some(failure as &(dyn std::error::Error + 'static)), |error| error.source())
}

/// Returns whether a refusal keeps the command itself from us: not allowed, renamed, or not offered.
pub(super) fn is_withheld(text: &str) -> bool {
    text.starts_with("NOPERM") || text.starts_with("ERR unknown command")
}

/// Returns whether a failure is such a refusal.
pub(super) fn withholds(failure: &Failure) -> bool {
    failure.chain().iter().any(|line| is_withheld(line))
}

/// Asks the system to look after a connection on which nothing moves.
fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    let (idle, between, times) = KEEPALIVE;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, idle)?;
    sockopt::set_tcp_keepintvl(stream, between)?;
    sockopt::set_tcp_keepcnt(stream, times)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(url: &str) -> String {
        match Address::parse(url) {
            Ok(address) => format!("{address:?} {address}"),
            Err(failure) => failure.to_string(),
        }
    }

    #[test]
    fn urls_of_each_kind_are_read() {
        assert_eq!(parsed("redis://cache"), r#"Tcp { host: "cache", port: 6379, tls: false } cache:6379"#);
        assert_eq!(parsed("rediss://a.b:7000/"), r#"Tcp { host: "a.b", port: 7000, tls: true } a.b:7000"#);
        assert_eq!(parsed("redis://[::1]:1"), r#"Tcp { host: "::1", port: 1, tls: false } [::1]:1"#);
        assert_eq!(parsed("redis://[::1]"), r#"Tcp { host: "::1", port: 6379, tls: false } [::1]:6379"#);
        assert_eq!(parsed("unix:///run/redis.sock"), r#"Unix("/run/redis.sock") /run/redis.sock"#);
    }

    #[test]
    fn a_url_with_a_password_is_refused_and_not_repeated() {
        let failure = Address::parse("redis://:s3cret@host:6379").unwrap_err();
        assert_eq!(failure.exit(), ExitCode::Usage);
        assert!(!format!("{failure:?}{:?}", failure.chain()).contains("s3cret"));
        assert!(parsed("redis://host/5").contains("all databases are taken"));
        assert!(parsed("http://host").contains("no known scheme"));
        assert!(parsed("redis://:1").contains("no host"));
    }

    #[test]
    fn an_alert_about_certificates_lasts_and_one_of_a_server_that_goes_down_may_pass() {
        use rustls::AlertDescription as Alert;
        let told = |alert| {
            let alert = rustls::Error::AlertReceived(alert);
            Failure::new(ExitCode::SourceDown, "it is down").because(io::Error::other(alert))
        };
        for alert in [Alert::UnknownCA, Alert::CertificateRequired, Alert::ProtocolVersion] {
            assert!(is_lasting(&told(alert)) && !may_pass(&told(alert)), "{alert:?}");
        }
        for alert in [Alert::InternalError, Alert::UserCanceled, Alert::CloseNotify] {
            assert!(may_pass(&told(alert)), "{alert:?}");
        }
    }

    #[test]
    fn debug_output_holds_no_password() {
        let server = Server {
            name: SourceName::new("redis").unwrap(),
            address: Address::Unix("/x".into()),
            user: None,
            password: Some("s3cret".into()),
            ca_file: None,
            identity: None,
            patience: Patience { silence: Duration::ZERO, turn: Duration::ZERO },
        };
        assert!(!format!("{server:?}").contains("s3cret"));
        let refusal = server.login_refused("ERR unknown command 'AUTH', with args beginning with: 's3cret'");
        assert!(!format!("{refusal:?}").contains("s3cret"));
    }

    #[tokio::test]
    async fn connections_are_kept_alive_by_the_system() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        keep_alive(&stream).unwrap();
        assert!(sockopt::socket_keepalive(&stream).unwrap());
        assert_eq!(sockopt::tcp_keepidle(&stream).unwrap(), KEEPALIVE.0);
    }

    #[test]
    fn a_command_that_is_not_allowed_or_not_there_is_withheld() {
        let withheld = [
            "NOPERM this user has no permissions to run the 'info' command",
            "NOPERM User lifeboat has no permissions to run the 'info' command",
            "ERR unknown command 'INFO', with args beginning with: 'server' ",
            "ERR unknown command `INFO`, with args beginning with: `server`, ",
        ];
        for text in withheld {
            assert!(is_withheld(text), "{text}");
        }
        for text in ["LOADING Redis is loading the dataset in memory", "ERR syntax error", ""] {
            assert!(!is_withheld(text), "{text}");
        }
    }
}
